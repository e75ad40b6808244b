"""What the worker needs of the network: an endpoint to connect to, and the connection there.

Nothing here knows how bytes are moved; ``websocket`` is the one that moves them.
"""

from __future__ import annotations

import enum
import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec

__all__ = [
    "Connection",
    "ConnectionLost",
    "Endpoint",
    "Frame",
    "FrameKind",
    "Wait",
    "os_error_text",
]

Wait = Callable[[int, int, float], None]
"""``wait(fd, events, deadline)``: return when the descriptor is ready.

Raises TimeoutError at the deadline, and whatever else the caller wants a connect to end with.
"""

TOOK_TOO_LONG = "connecting took too long"
NO_HANDSHAKE = "the server's answer to the handshake is no WebSocket handshake"
TOO_MUCH = "the server sends more than it may"


class ConnectionLost(Exception):  # noqa: N818 (it is an event in a connection's life)
    """A connection could not be made, or is gone.

    Attributes:
        close_code: what the server closed with, if it did.
        status: the HTTP status with which it refused the handshake, if it did.
        retry_after: for how many seconds it asked to be left alone, if it did.
        is_offline: there is no network: no name, no route.
    """

    def __init__(
        self,
        reason: str,
        *,
        close_code: int | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        is_offline: bool = False,
    ) -> None:
        super().__init__(reason)
        self.close_code = close_code
        self.status = status
        self.retry_after = retry_after
        self.is_offline = is_offline


class Endpoint:
    """Where to connect to, and how. It has no ``repr`` of its own, since it keeps secrets."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        ssl_context: ssl.SSLContext | None = None,
        offers_acks: bool = True,
    ) -> None:
        self.url = url
        self.token = token
        self.headers = headers
        self.ssl_context = ssl_context
        self.offers_acks = offers_acks


class FrameKind(enum.Enum):
    """What a server can say something about delivery by."""

    PONG = enum.auto()
    TEXT = enum.auto()
    BINARY = enum.auto()


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A pong or a whole message from the server."""

    payload: bytes
    kind: FrameKind


class Connection(Protocol):
    """What the connector needs of a connection. Used by one thread."""

    @property
    def has_acks(self) -> bool:
        """Whether the server promised to acknowledge what it has stored."""

    @property
    def unwritten(self) -> int:
        """Bytes that were sent here but that the network has not taken yet."""

    @property
    def has_more(self) -> bool:
        """Whether :meth:`receive` stopped short: call it again before waiting."""

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def send(self, payload: bytes) -> None:
        """Send a text message. Never blocks; what can't go at once goes with :meth:`flush`."""

    def ping(self, payload: bytes) -> None:
        """Send a ping, likewise."""

    def flush(self) -> None:
        """Write as much as the network takes now."""

    def receive(self) -> list[Frame]:
        """What has arrived by now; never blocks.

        Raises:
            ConnectionLost: the connection is gone, or the server broke the protocol.
        """

    def close(self) -> None:
        """Say goodbye if that can be done at once, and close."""

    def abort(self) -> None:
        """Close without a word."""

    def reset(self) -> None:
        """Close without a word, and take back what the network hasn't sent yet."""


def os_error_text(error: OSError) -> str:
    """What an error of the operating system or of TLS says, without its number."""
    return error.strerror or str(error) or type(error).__name__
