"""The last step of a check: one event, sent by the SDK as a game sends it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

import msgspec

from .. import __version__
from ..client import Telemetry
from ..settings import TelemetrySettings

__all__ = ["Outcome", "send_event"]

_NEVER = 600.0  # seconds: there is one attempt
_SDK_LOG = logging.getLogger("redvsblue_telemetry")


class Outcome(msgspec.Struct, frozen=True):
    """What became of the event."""

    is_confirmed: bool
    seconds: float
    """How long that took."""
    error: str | None
    """Why the connection failed, if it did."""


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
    with _quiet(), Telemetry(settings) as telemetry:
        began = time.monotonic()
        telemetry.emit("telemetry_check", {"by": f"redvsblue-telemetry {__version__}"})
        is_confirmed = _is_confirmed(telemetry, began + 2 * timeout + 1.0)
        seconds = time.monotonic() - began
        error = telemetry.stats().last_error
        telemetry.enabled = is_confirmed  # the stop would try what is unconfirmed once more
    return Outcome(is_confirmed, seconds, error)


def _is_confirmed(telemetry: Telemetry, deadline: float) -> bool:
    while not telemetry.flush(0.1):
        if telemetry.stats().last_error is not None or time.monotonic() > deadline:
            return False
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
