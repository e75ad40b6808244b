"""The last step of a check: one event, sent by the SDK's own worker."""

from __future__ import annotations

import time

from ... import __version__
from ..._delivery.worker import TelemetryConnector
from ..._network.contract import ConnectionLost, LostKind
from ..._recording.codec import EncodedEvent, EventCodec, new_session_id
from ..._recording.store import TelemetryStore
from ..._shared import CHECK_HEADER, CHECK_TYPE, CHECK_VERSION
from ...settings import TelemetrySettings
from .._sdk_log import sdk_log_disabled

__all__ = ["CHECK_HEADERS", "send_event"]

CHECK_HEADERS = {CHECK_HEADER: CHECK_VERSION}
"""Ask a server to forget the event, so that no check is counted among the games."""

_NO_RETRY = 600.0  # seconds of backoff, which end after the check has
_STOP_TIMEOUT = 2.0  # seconds


def send_event(url: str, token: str | None, timeout: float) -> float:
    """Send one event of type ``telemetry_check`` and wait for its confirmation.

    Args:
        url: the server's.
        token: for the handshake.
        timeout: seconds for connecting, and again for the confirmation.

    Returns:
        Seconds until the event was confirmed, connecting included.

    Raises:
        ConnectionLost: it was not confirmed.
    """
    settings = TelemetrySettings(
        enabled=True,
        url=url,
        token=token,
        connect_timeout=timeout,
        confirm_timeout=timeout,
        backoff_base=_NO_RETRY,
        backoff_max=_NO_RETRY,
        headers=CHECK_HEADERS,
    )
    codec = EventCodec(new_session_id(), None, max_event_bytes=settings.max_event_bytes)
    store = TelemetryStore[EncodedEvent](1)
    store.push(codec.encode(CHECK_TYPE, {"by": f"redvsblue-telemetry {__version__}"}))
    connector = TelemetryConnector(store, codec, settings)
    with sdk_log_disabled():
        began = time.monotonic()
        connector.start()
        try:
            while not connector.ledger.delivered:
                if (lost := connector.last_lost) is not None:
                    raise lost
                if time.monotonic() > began + 2 * timeout + 1.0:  # a name look-up can take longer
                    raise ConnectionLost(LostKind.UNCONFIRMED, "out of time")
                connector.flush(0.1)
            return time.monotonic() - began
        finally:
            # Otherwise the stop would try once more to deliver what is unconfirmed.
            connector.set_enabled(connector.ledger.delivered > 0)
            connector.stop(_STOP_TIMEOUT)
