"""``Telemetry``, ``start_telemetry`` and the life of the process: the front of the house."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs

from ._delivery.states import ConnectionState
from ._delivery.worker import TelemetryConnector
from ._recording.codec import EncodedEvent, EventCodec, child_session_id, new_session_id
from ._recording.counter import AtomicCounter
from ._recording.emit import Emit, Flag, emit_nothing, make_emit
from ._recording.store import TelemetryStore
from ._shared import describe, monotonic
from .engines import EngineBinding, attach
from .errors import InvalidEventError, SettingsError
from .events import TelemetryEvent
from .settings import TelemetrySettings, is_killed

if TYPE_CHECKING:
    from typing_extensions import Unpack  # for the type checker only: Python 3.11 has its own

    from .settings import SettingsOverrides

__all__ = [
    "Telemetry",
    "TelemetryStats",
    "emit",
    "get_telemetry",
    "start_telemetry",
    "stop_telemetry",
]

logger = logging.getLogger("redvsblue_telemetry")

_HIGH_WATER = 8  # the worker is woken when one part in so many of the store is full
_DISCARD_TIMEOUT = 0.05  # seconds that the toggle waits for the worker to have let go
_WARNING_INTERVAL = 60.0  # seconds between two warnings about rejected events of one type
_WARNED_TYPES = 256  # the most types that are remembered for that


@attrs.frozen(kw_only=True)
class TelemetryStats:
    """The ledger and the connection, at one moment.

    ``emitted == delivered + dropped + buffered + in_flight`` holds at any quiet moment;
    ``rejected`` events are apart from it.
    """

    emitted: int = 0
    """Events that were accepted."""
    delivered: int = 0
    """Events that the server has proved to have."""
    dropped: int = 0
    """Events that will not be sent: the store was full, the player said no, ``before_send``
    returned None, the server refused it, or the time to stop ran out."""
    buffered: int = 0
    """Events that wait in the store."""
    in_flight: int = 0
    """Events that were sent and are not yet confirmed."""
    rejected: int = 0
    """Events that were not accepted, since they can't be encoded or are too large."""
    state: ConnectionState = ConnectionState.IDLE
    reconnects: int = 0
    """How often the connection was made anew."""
    last_error: str | None = None
    """Why the last attempt or connection failed."""
    round_trip: float | None = None
    """Seconds from the sending of a batch to its confirmation, for the newest confirmed."""


class Telemetry:
    """Takes a game's events and has them delivered. Mostly made by :func:`start_telemetry`.

    When ``settings.enabled`` is false, all methods work and do nothing: no thread, no socket.
    Every method may be called from any thread; ``emit`` and ``push`` also from signal handlers
    and ``__del__``. They never block and never raise (unless ``strict``).

    Args:
        settings: if None, :meth:`TelemetrySettings.from_environment`.
    """

    _sends = True  # so the operator's kill switch is heeded

    def __init__(self, settings: TelemetrySettings | None = None) -> None:
        settings = TelemetrySettings.from_environment() if settings is None else settings
        if self._sends and is_killed(os.environ):
            settings = attrs.evolve(settings, enabled=False)
        self._settings = settings
        self._lifecycle = threading.RLock()  # start, stop and the toggle; never taken by `emit`
        self._rejections = AtomicCounter()
        self._warned_at: dict[str, float] = {}
        self._is_started = False
        self._is_starting = False  # while the first event of a forked child starts its worker
        self._is_stopped = False
        self._stopped_well: bool | None = None  # what `stop` returned; None until it has
        self._switch = Flag()
        self._online = True  # what the host said last; a forked child is on the same network
        self._connector: TelemetryConnector | None = None
        self._codec = EventCodec(
            settings.session_id or new_session_id(),
            settings.version,
            max_event_bytes=min(settings.max_event_bytes, settings.max_batch_bytes - 2),
        )
        self._high_water = max(1, settings.capacity // _HIGH_WATER)
        self._store = TelemetryStore[EncodedEvent](
            settings.capacity,
            high_water=self._high_water,
            on_high_water=self._on_high_water,
        )
        self._bound_emit: Emit = emit_nothing
        if settings.enabled:
            self._bound_emit = make_emit(self._switch, self._codec, self._store, self._reject)
        if type(self).emit is Telemetry.emit:
            vars(self)["emit"] = self._bound_emit  # what a game calls: saves it a call

    # Events.

    def emit(self, type: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Record that something happened: takes a snapshot, and leaves the rest to the worker.

        Args:
            type: what happened, such as ``"ship_destroyed"``.
            data: the event's fields. Changing it later changes nothing.
            fields: more fields, as keywords; they win over ``data``.

        Raises:
            InvalidEventError: the event can't be sent, and ``strict`` is set. Otherwise such an
                event is counted in ``rejected``.
        """
        self._bound_emit(type, data, **fields)

    def push(self, event: TelemetryEvent | Mapping[str, Any]) -> None:
        """Record an event that may bring its own id, timestamp, seq, session and version.

        What it brings is kept, what is missing is filled in. A mapping has the names of the wire
        (camelCase); keys that no event has are taken for fields of its data.

        Raises:
            InvalidEventError: as for :meth:`emit`.
        """
        if not self._recording:
            return
        try:
            body = self._codec.encode_event(event)
        except Exception as error:
            self._reject(error, "")
            return
        self._store.push(body)

    def attach(self, engine: object, event: str = "telemetry") -> EngineBinding:
        """Take what an engine emits under a name; see :mod:`redvsblue_telemetry.engines`.

        Args:
            engine: an object with ``on``/``off``, ``on``/``remove_listener``,
                ``connect``/``disconnect`` or ``push_handlers``/``remove_handlers``.
            event: the name that the engine emits its telemetry under.

        Returns:
            The binding: detach it, or use it as a context manager. While telemetry is off, one
            that does nothing.

        Raises:
            TelemetryError: the engine has none of these pairs.
        """
        if not self._settings.enabled:
            return EngineBinding()
        return attach(engine, event, self.push)

    # Life.

    def start(self) -> Telemetry:
        """Start the worker, if telemetry is on and it isn't started yet."""
        with self._lifecycle:
            if self.is_running and not self._is_started:
                connector = self._started_connector()
                self._is_started = self._recording = True
                if self._is_stopped:  # by a signal handler, meanwhile
                    self._recording = False
                    connector.stop(0)
        return self

    @property
    def _recording(self) -> bool:
        return self._switch.on

    @_recording.setter
    def _recording(self, on: bool) -> None:
        self._switch.on = on

    @property
    def is_running(self) -> bool:
        """Whether the feature flag is on and it hasn't been stopped."""
        return self._settings.enabled and not self._is_stopped

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until all that was emitted before this call is confirmed.

        Args:
            timeout: the longest to wait, in seconds.

        Returns:
            True: it is. False: the time ran out, or some of it was dropped meanwhile.
        """
        connector = self._connector
        if connector is None:
            return True
        if self._stopped_well is not None:
            return self._stopped_well
        dropped = self._dropped(connector)
        return connector.flush(timeout) and self._dropped(connector) == dropped

    def stop(self, timeout: float = 2.0) -> bool:
        """Deliver what there is and end. Bounded by the timeout, whatever the network does.

        Further calls return what the first one did. A stopped ``Telemetry`` takes no events.

        Args:
            timeout: the longest that it takes, in seconds.

        Returns:
            True: everything that was waiting is confirmed. False: something was left behind,
            which is counted in ``dropped``.
        """
        with self._lifecycle:
            self._is_stopped, self._recording = True, False
            connector = self._connector
        if self._stopped_well is not None:
            return self._stopped_well
        # Waiting without the lock: a callback on the worker, another thread and a signal handler
        # may all call `stop` while this one waits, and each returns within its own timeout.
        since = monotonic()
        ended_well = connector is None or connector.stop(timeout)
        has_ended = connector is None or connector.state is ConnectionState.STOPPED
        # A callback on the worker doesn't wait: then the next call has to.
        if has_ended or monotonic() - since >= timeout:
            self._stopped_well = ended_well
        return ended_well

    def set_online(self, online: bool) -> None:
        """Tell what the host knows about the network: without one, no attempt is made."""
        self._online = online
        connector = self._connector
        if connector is not None:
            connector.set_online(online)

    @property
    def enabled(self) -> bool:
        """The player's toggle.

        Set to False, what is pending is discarded and counted in ``dropped``, the connection is
        closed, and nothing is taken or sent. Set to True, it goes on in the same session. Where
        the feature flag is off it stays False, whatever is assigned.
        """
        return self._recording

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        with self._lifecycle:
            if enabled:
                if self.is_running and not self._recording:
                    self._switch_on()
            else:
                self._switch_off()

    def _switch_on(self) -> None:
        connector = self._connector or self._late_connector()
        if connector is None:
            return
        if self._store:
            # From an `emit` that had begun before the player said no, and ended after it.
            connector.discard(_DISCARD_TIMEOUT)
        self._recording = True
        connector.set_enabled(True)

    def _switch_off(self) -> None:
        was_recording, self._recording = self._recording, False
        if self._connector is not None and (was_recording or self._is_stopped):
            self._connector.set_enabled(False)  # also while a `stop` delivers what there is
            if not self._is_stopped:
                self._connector.discard(_DISCARD_TIMEOUT)

    @property
    def settings(self) -> TelemetrySettings:
        """The settings that it was made with."""
        return self._settings

    @property
    def session_id(self) -> str:
        """The id of this run of the game, in every event."""
        return self._codec.session_id

    def stats(self) -> TelemetryStats:
        """The ledger and the connection's state, now."""
        connector = self._connector
        buffered, stranded = len(self._store), 0
        if self._is_stopped and (connector is None or connector.state is ConnectionState.STOPPED):
            # From an `emit` that had begun before `stop`, and ended after the worker.
            buffered, stranded = 0, buffered
        if connector is None:
            return TelemetryStats(
                emitted=self._store.pushed,
                buffered=buffered,
                dropped=self._store.dropped + stranded,
                rejected=self._rejections.value,
            )
        return TelemetryStats(
            emitted=self._store.pushed - connector.outcome.rejected,
            delivered=connector.outcome.delivered,
            dropped=self._dropped(connector) + stranded,
            buffered=buffered,
            in_flight=connector.in_flight,
            rejected=self._rejections.value + connector.outcome.rejected,
            state=connector.state,
            reconnects=max(0, connector.connections - 1),
            last_error=connector.last_error,
            round_trip=connector.round_trip,
        )

    def __enter__(self) -> Telemetry:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id}: {self.stats()}>"

    # Inside.

    def _dropped(self, connector: TelemetryConnector) -> int:
        return self._store.dropped + connector.outcome.discarded

    def _started_connector(self) -> TelemetryConnector:
        with self._lifecycle:
            if self._connector is None:
                _started.add(self)
                connector = TelemetryConnector(self._store, self._codec, self._settings)
                try:
                    connector.set_online(self._online)
                    connector.start()
                except BaseException:
                    connector.abandon()
                    raise
                self._connector = connector
                self._store.high_water = self._high_water
                connector.set_online(self._online)  # it may have been set meanwhile
                _stop_at_the_end_of_a_child()
            return self._connector

    def _late_connector(self) -> TelemetryConnector | None:
        """Start the worker of a forked child; None if there is none to be had, which is logged."""
        if self._is_starting:  # and a log handler or a signal handler emits meanwhile
            return None
        self._is_starting = True
        try:
            return self._started_connector()
        except (OSError, RuntimeError):  # no descriptor or no thread to be had
            self._is_stopped, self._recording = True, False
            with contextlib.suppress(Exception):  # this may be the game's frame
                logger.exception("telemetry is off: it could not be started")
            return None
        finally:
            self._is_starting = False

    def _on_high_water(self) -> None:
        connector = self._connector
        if connector is not None:
            connector.nudge()
        # The first event after a fork. If the lock is taken, another thread starts the worker,
        # or has just stopped or switched it off.
        elif self._lifecycle.acquire(blocking=False):
            try:
                if self._recording:
                    self._late_connector()
            finally:
                self._lifecycle.release()

    def _reject(self, error: Exception, type: object) -> None:
        """Count an event that can't be sent, say so once in a while, raise if that is wished."""
        self._rejections.increment()
        if not isinstance(error, InvalidEventError):
            error = InvalidEventError(describe(type), "event", describe(error))
        now = monotonic()
        if now >= self._warned_at.get(error.event_type, 0.0):
            if len(self._warned_at) >= _WARNED_TYPES:
                self._warned_at.clear()
            # Set before the warning: its handler may emit a bad event itself.
            self._warned_at[error.event_type] = now + _WARNING_INTERVAL
            # A log handler that raises must not take the frame down that emits.
            with contextlib.suppress(Exception):
                logger.warning("%s; it is rejected", error)
        if self._settings.strict:
            raise error

    def _after_fork_in_child(self) -> None:
        """Begin a session of the child's own; its worker starts with its first event."""
        inherited = self._connector
        self._lifecycle = threading.RLock()  # a thread of the parent may have held the old one
        self._rejections = AtomicCounter()
        self._connector = None
        # The same objects: an `emit` that the game holds on to puts its events into them.
        self._codec.begin(child_session_id(self._settings.session_id))
        self._store.begin()
        self._store.high_water = 1
        self._is_starting = False
        if inherited is not None:
            inherited.abandon()


# One for the process. Written under `_process_lock`, which `emit` doesn't take.
_current = Telemetry(TelemetrySettings(enabled=False))
_process_lock = threading.RLock()
_started: weakref.WeakSet[Telemetry] = weakref.WeakSet()
_finalized_process = 0  # the id of the child of `multiprocessing` whose end was seen to


def start_telemetry(**overrides: Unpack[SettingsOverrides]) -> Telemetry:
    """Start telemetry for this process: the one call that a game has to make.

    Off unless ``enabled`` says otherwise, here or in the environment; then what is returned does
    nothing. While one is running, further calls return that one. After a stop, a call starts a
    new session. At the interpreter's exit, :func:`stop_telemetry` is called.

    Args:
        overrides: any of :class:`TelemetrySettings`; they win over the environment, but for an
            explicit off there.

    Raises:
        SettingsError: an argument isn't allowed. A wrong environment doesn't raise: it is logged,
            and telemetry is off.
    """
    global _current
    with _process_lock:
        try:
            settings = TelemetrySettings.from_environment(**overrides)
        except SettingsError as error:
            if error.variable is None:
                raise
            logger.error("telemetry is off: %s", error)
            settings = TelemetrySettings(enabled=False)
        if _current.is_running:
            # A recording takes a game's settings quietly: it has those of the test.
            if _current._sends and any(
                getattr(settings, name) != getattr(_current.settings, name) for name in overrides
            ):
                logger.warning("telemetry is running already; the new settings are not used")
            return _current
        _current = _started_or_off(settings)
        return _current


def _started_or_off(settings: TelemetrySettings) -> Telemetry:
    try:
        return Telemetry(settings).start()
    except (OSError, RuntimeError):  # no descriptor or no thread to be had
        logger.exception("telemetry is off: it could not be started")
        return Telemetry(attrs.evolve(settings, enabled=False))


def stop_telemetry(timeout: float = 2.0) -> bool:
    """Stop what :func:`start_telemetry` started; see :meth:`Telemetry.stop`."""
    return _current.stop(timeout)


def get_telemetry() -> Telemetry:
    """What :func:`start_telemetry` made last; before that, one that is off and does nothing."""
    return _current


def emit(type: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
    """Record an event with what :func:`start_telemetry` made; see :meth:`Telemetry.emit`."""
    _current.emit(type, data, **fields)


def install_telemetry(telemetry: Telemetry) -> Telemetry:
    """Make one the process's own, and return the one that was; for tests of games."""
    global _current
    with _process_lock:
        previous, _current = _current, telemetry
        return previous


def _stop_at_the_end_of_a_child() -> None:
    """See to it that a child of ``multiprocessing`` flushes: it may end without atexit hooks."""
    global _finalized_process
    # Such a child has imported both; they are never imported from here.
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is None or util is None or _finalized_process == os.getpid():
        return
    if process.parent_process() is not None:
        _finalized_process = os.getpid()
        util.Finalize(None, stop_telemetry, exitpriority=0)


def _after_fork_in_child() -> None:
    global _process_lock
    _process_lock = threading.RLock()
    for telemetry in tuple(_started):
        telemetry._after_fork_in_child()


atexit.register(stop_telemetry)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
