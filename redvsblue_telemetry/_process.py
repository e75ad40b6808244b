"""The process's current client: ``start_telemetry`` and its companions, and the end."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any, overload

import attrs

from ._crashes import exit_reason
from ._delivery.log import log_failed_start
from ._lifecycle import Phase, call_after_fork, call_at_exit
from ._shared import Unpack
from .client import Telemetry, unpickle_as
from .errors import SettingsError
from .event_types import EventInstance
from .settings import SettingsOverrides, TelemetrySettings, unknown_variables, why_off

__all__ = ["emit", "get_telemetry", "install_telemetry", "start_telemetry", "stop_telemetry"]

_EXIT_TIMEOUT = 2.0  # seconds, as for a stop

logger = logging.getLogger("redvsblue_telemetry")

_is_reloaded = "_current" in globals()
if not _is_reloaded:  # importlib.reload keeps the client that runs
    # Written under the lock, which `emit` doesn't take.
    _current = Telemetry(TelemetrySettings(enabled=False))
    _lock = threading.RLock()
    _logged: set[str] = set()  # what `start_telemetry` has logged since the last stop


def start_telemetry(**overrides: Unpack[SettingsOverrides]) -> Telemetry:
    """Start telemetry for this process: the one call that a game has to make.

    Telemetry is off unless ``enabled`` says otherwise, here or in the environment; then the
    returned client does nothing, and one INFO line gives the reason. While one is running, further
    calls return that one. After a stop, a call starts a new session. When the interpreter exits,
    :func:`stop_telemetry` is called.

    Args:
        overrides: any of :class:`TelemetrySettings`. They win over the environment, except where
            the environment turns telemetry off explicitly.

    Raises:
        SettingsError: an argument isn't allowed. A wrong environment doesn't raise: it is logged,
            and telemetry is off.
    """
    global _current
    with _lock:
        wrong: SettingsError | None = None
        try:
            settings = TelemetrySettings.from_environment(**overrides)
        except SettingsError as error:
            if error.variable is None:
                raise
            settings, wrong = TelemetrySettings(**overrides), error
        if _current.is_running:
            # A recording ignores a game's settings silently: it has those of the test.
            if _current._sends and any(
                getattr(settings, name) != getattr(_current.settings, name) for name in overrides
            ):
                logger.warning("telemetry is already running; the new settings are ignored")
            return _current
        for name, hint in unknown_variables(os.environ).items():
            _log(logging.WARNING, f"ignored the unknown environment variable {name}{hint}")
        if wrong is not None:
            _log(logging.ERROR, f"telemetry is off: {wrong}")
            settings = attrs.evolve(settings, enabled=False)
        elif not settings.enabled:
            _log(logging.INFO, f"telemetry is off: {why_off(os.environ, overrides)}")
        # A game may call this in every frame, and clients are cycles, which only the garbage
        # collector frees.
        is_off_already = _current._sends and _current._life.phase is Phase.OFF
        if not (is_off_already and _current.settings == settings):
            # A start that is off erases the journal. A wrong environment is nobody's no.
            _current = _started_or_off(settings) if wrong is None else Telemetry(settings)
        elif wrong is None:
            _current.start()
        return _current


def _log(level: int, line: str) -> None:
    """Log a line about this start, unless one without a stop in between has logged it already.

    A game may start telemetry wherever it needs it: in each level, or even in each frame.
    """
    if line not in _logged:
        _logged.add(line)
        logger.log(level, "%s", line)


def _started_or_off(settings: TelemetrySettings) -> Telemetry:
    try:
        return Telemetry(settings).start()
    # Out of descriptors or threads; or a bundled game lacks a module that is imported late, which
    # would come to light with the first player whose flag is on.
    except Exception as error:
        log_failed_start(error)
        return Telemetry(attrs.evolve(settings, enabled=False))


def stop_telemetry(timeout: float = 2.0) -> bool:
    """Stop the client that :func:`start_telemetry` started; see :meth:`Telemetry.stop`."""
    _logged.clear()
    return _current.stop(timeout)


def _stop_at_exit() -> None:
    _logged.clear()
    _current._stop(_EXIT_TIMEOUT, exit_reason())


def get_telemetry() -> Telemetry:
    """Return the client that :func:`start_telemetry` returned last, or one that is off."""
    return _current


@overload
def emit(event: EventInstance, /) -> None: ...
@overload
def emit(type: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None: ...
def emit(type: Any, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
    """Record an event with the current client; see :meth:`Telemetry.emit`."""
    try:
        _current.emit(type, data, **fields)
    except RecursionError:  # it could not begin; see `make_emit` for the count without a call
        if _current._life.recording.on:
            for _ in _current._ledger.rejections:
                break


def install_telemetry(telemetry: Telemetry) -> Telemetry:
    """Make a client the process's current one, and return the previous one. For tests of games."""
    global _current
    with _lock:
        previous, _current = _current, telemetry
        return previous


def _renew_lock() -> None:
    """Replace the lock, which a thread of the parent may have held at the fork."""
    global _lock
    _lock = threading.RLock()


if not _is_reloaded:
    call_at_exit(_stop_at_exit)
    call_after_fork(_renew_lock)
unpickle_as(get_telemetry)
