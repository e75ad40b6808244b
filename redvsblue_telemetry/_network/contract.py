"""The contract between the worker and the network: an endpoint, and a connection to it.

Nothing here moves a byte; ``websocket`` does.
"""

from __future__ import annotations

import enum
import ssl
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import msgspec

from .._shared import PicklableError, keep_on_reload

__all__ = [
    "Connection",
    "ConnectionLost",
    "Endpoint",
    "Frame",
    "FrameKind",
    "LostKind",
    "Wait",
    "lost_by_os_error",
    "os_error_text",
]

TIMED_OUT = "timed out while connecting"
TOO_MUCH = "the server sent too much data"

Wait = Callable[[int, int, float], None]
"""``wait(fd, events, deadline)``: return when the descriptor is ready.

Raises TimeoutError at the deadline, and any exception by which the caller ends the attempt.
"""


@keep_on_reload
class LostKind(enum.Enum):
    """Why a connection could not be made, or ended."""

    # While connecting:
    NAME = enum.auto()
    """The host name can't be resolved."""
    UNREACHABLE = enum.auto()
    """There is no network, or no route to the host; ``errno`` says which."""
    TCP = enum.auto()
    """The host accepts no TCP connection, or reset it while connecting; ``errno`` says why."""
    TIMEOUT = enum.auto()
    """Connecting did not finish by the deadline."""
    PROXY = enum.auto()
    """The proxy's address is invalid or unsupported, or the proxy opened no tunnel."""
    PROXY_AUTH = enum.auto()
    """The proxy requires other credentials (HTTP status 407)."""
    TLS = enum.auto()
    """The TLS handshake failed; ``tls_reason`` is OpenSSL's name for the reason."""
    CERTIFICATE = enum.auto()
    """The server's certificate failed verification; ``verify_code`` is OpenSSL's code."""
    CLIENT_CERTIFICATE = enum.auto()
    """The server requires a client certificate."""
    REFUSED = enum.auto()
    """The server answered the handshake with an HTTP error; see ``status``."""
    REDIRECT = enum.auto()
    """The server redirected the handshake, which is not followed."""
    HANDSHAKE = enum.auto()
    """The server's answer is not a valid WebSocket handshake, or there was none."""
    TOKEN = enum.auto()
    """The token callable failed or returned something that isn't a token."""

    # Once connected:
    CLOSED = enum.auto()
    """The server closed the connection; see ``close_code`` and ``close_reason``."""
    RESET = enum.auto()
    """The connection ended without a close frame."""
    PROTOCOL = enum.auto()
    """The server violated the WebSocket protocol, or that of the acks."""
    UNCONFIRMED = enum.auto()
    """The server did not confirm a batch in time."""
    SILENT = enum.auto()
    """The server did not answer a keepalive ping in time."""

    INTERNAL = enum.auto()
    """Internal error in the worker."""


_OFFLINE = (LostKind.NAME, LostKind.UNREACHABLE)


@keep_on_reload
class ConnectionLost(PicklableError):  # noqa: N818 (it is an event in a connection's life)
    """A connection could not be made, or ended.

    The message is fit for a log: it holds no secret, and nothing that the server sent. Code
    decides by the attributes, never by the message.

    Attributes:
        kind: why.
        close_code: the code in the server's close frame; 1005 if the frame has none.
        close_reason: the text in the server's close frame. Untrusted: it may repeat the token.
        status: the HTTP status with which the server refused the handshake.
        retry_after: seconds after which the server permits another attempt.
        errno: the operating system's error number.
        tls_reason: OpenSSL's name for a TLS error, such as ``WRONG_VERSION_NUMBER``.
        verify_code: OpenSSL's ``X509_V_ERR_…`` code for a certificate.
    """

    def __init__(
        self,
        kind: LostKind,
        message: str,
        *,
        close_code: int | None = None,
        close_reason: str = "",
        status: int | None = None,
        retry_after: float | None = None,
        errno: int | None = None,
        tls_reason: str | None = None,
        verify_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.close_code = close_code
        self.close_reason = close_reason
        self.status = status
        self.retry_after = retry_after
        self.errno = errno
        self.tls_reason = tls_reason
        self.verify_code = verify_code

    @property
    def is_offline(self) -> bool:
        """Whether this machine seems to have no network."""
        return self.kind in _OFFLINE


class Endpoint:
    """Where to connect to, and how. It has no ``__repr__``, since it holds secrets."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        ssl_context: ssl.SSLContext | None = None,
        offers_acks: bool = True,
        offers_archived_acks: bool = False,
        offers_reports: bool = False,
        encodings: Sequence[str] = (),
    ) -> None:
        self.url = url
        self.token = token
        self.headers = headers
        self.ssl_context = ssl_context
        self.offers_acks = offers_acks
        self.offers_archived_acks = offers_archived_acks
        self.offers_reports = offers_reports
        self.encodings = encodings


class FrameKind(enum.Enum):
    """Kinds of frame that can carry a delivery confirmation."""

    PONG = enum.auto()
    TEXT = enum.auto()
    BINARY = enum.auto()


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A pong or a complete message from the server."""

    payload: bytes
    kind: FrameKind


class Connection(Protocol):
    """An open connection, as the worker uses it. Used by one thread."""

    @property
    def has_acks(self) -> bool:
        """Whether the server promised to acknowledge messages."""

    @property
    def has_archived_acks(self) -> bool:
        """Whether it promised to acknowledge them when they are archived, not when stored."""

    @property
    def has_reports(self) -> bool:
        """Whether the server takes reports."""

    @property
    def encoding(self) -> str | None:
        """The offered encoding that the server picked for binary messages, if it picked one."""

    @property
    def unwritten(self) -> int:
        """Number of bytes sent here that the network has not accepted yet."""

    @property
    def has_more(self) -> bool:
        """Whether :meth:`receive` stopped early: call it again before waiting."""

    def fileno(self) -> int:
        """Return the descriptor to wait on."""

    def send(self, payload: bytes, *, is_binary: bool = False) -> None:
        """Send a message, text or binary. Never blocks; :meth:`flush` writes it."""

    def ping(self, payload: bytes) -> None:
        """Send a ping. Never blocks; :meth:`flush` writes it."""

    def flush(self) -> None:
        """Write as much as the network accepts now."""

    def receive(self) -> list[Frame]:
        """Return the frames that have arrived. Never blocks.

        Raises:
            ConnectionLost: the connection is gone, or the server broke the protocol.
        """

    def close(self) -> None:
        """Send a close frame if that is possible at once, then close the socket."""

    def abort(self) -> None:
        """Close the socket without a close frame."""

    def reset(self) -> None:
        """Close without a close frame, and discard data that the network hasn't sent yet."""


def os_error_text(error: OSError) -> str:
    """Return the message of an operating system or TLS error, without its number."""
    return error.strerror or str(error) or type(error).__name__


def lost_by_os_error(error: OSError, kind: LostKind) -> ConnectionLost:
    """Return the ConnectionLost for an error of a socket.

    Args:
        error: as the operating system or OpenSSL raised it.
        kind: the kind, unless the error shows a more specific one.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionLost(
            LostKind.CERTIFICATE,
            f"the server's certificate was rejected: {error.verify_message}",
            verify_code=error.verify_code,
        )
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        # In TLS 1.3 a client's handshake is complete before the server looks at its certificate,
        # so this alert arrives at some later read.
        if "CERTIFICATE_REQUIRED" in reason or "ALERT_BAD_CERTIFICATE" in reason:
            kind = LostKind.CLIENT_CERTIFICATE
        # Its `errno` is a code of OpenSSL's, which would be mistaken for one of the system's.
        return ConnectionLost(kind, os_error_text(error), tls_reason=error.reason)
    return ConnectionLost(kind, os_error_text(error), errno=error.errno)
