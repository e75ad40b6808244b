"""The last step of a check: one event, sent by the SDK's worker as it sends those of a game."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

import msgspec

from ... import __version__
from ..._delivery.worker import TelemetryConnector
from ..._network.contract import ConnectionLost, Endpoint, Wait
from ..._recording.codec import EncodedEvent, EventCodec, new_session_id
from ..._recording.store import TelemetryStore
from ...settings import TelemetrySettings
from .probes import WatchedConnection, open_watched

__all__ = ["Outcome", "send_event"]

_NEVER = 600.0  # seconds: there is one attempt
_GOODBYE = 2.0  # seconds
_SDK_LOG = logging.getLogger("redvsblue_telemetry")


class Outcome(msgspec.Struct, frozen=True):
    """What became of the event."""

    is_confirmed: bool
    seconds: float
    """How long that took."""
    error: str | None
    """Why the connection failed, if it did."""
    refusal: ConnectionLost | None
    """Why there was none at all, if that is why."""
    close_code: int | None
    """What the server closed it with, if it did."""
    close_reason: str
    """What the server said to that."""


class _Attempt:
    """The connection that the event goes by. Written by the worker, and read when it has failed."""

    def __init__(self) -> None:
        self.connection: WatchedConnection | None = None
        self.refusal: ConnectionLost | None = None

    def connect(self, endpoint: Endpoint, wait: Wait, deadline: float) -> WatchedConnection:
        try:
            self.connection = open_watched(endpoint, wait, deadline)
        except ConnectionLost as lost:
            self.refusal = lost
            raise
        return self.connection


def send_event(url: str, token: str | None, timeout: float) -> Outcome:
    """Send one event of the type ``telemetry_check``, and wait for its confirmation.

    Args:
        url: where to.
        token: for the handshake.
        timeout: seconds for connecting, and as many for the confirmation.
    """
    settings = TelemetrySettings(
        enabled=True,
        url=url,
        token=token,
        connect_timeout=timeout,
        confirm_timeout=timeout,
        backoff_base=_NEVER,
        backoff_max=_NEVER,
    )
    codec = EventCodec(new_session_id(), None, max_event_bytes=settings.max_event_bytes)
    store = TelemetryStore[EncodedEvent](1)
    store.push(codec.encode("telemetry_check", {"by": f"redvsblue-telemetry {__version__}"}))
    attempt = _Attempt()
    connector = TelemetryConnector(store, codec, settings, connect=attempt.connect)
    with _quiet():
        began = time.monotonic()
        connector.start()
        try:
            is_confirmed = _is_confirmed(connector, began + 2 * timeout + 1.0)
            seconds = time.monotonic() - began
            error = connector.last_error
        finally:
            # What is unconfirmed would be tried once more by the stop.
            connector.set_enabled(connector.outcome.delivered > 0)
            connector.stop(_GOODBYE)
    connection = attempt.connection
    lost = connection.lost if connection is not None else None
    return Outcome(
        is_confirmed,
        seconds,
        error,
        refusal=attempt.refusal,
        close_code=lost.close_code if lost is not None else None,
        close_reason=connection.reason if connection is not None else "",
    )


def _is_confirmed(connector: TelemetryConnector, deadline: float) -> bool:
    while not connector.outcome.delivered:
        if connector.last_error is not None or time.monotonic() > deadline:
            return False
        connector.flush(0.1)
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the SDK from telling what the findings tell."""
    level = _SDK_LOG.level
    _SDK_LOG.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        _SDK_LOG.setLevel(level)
