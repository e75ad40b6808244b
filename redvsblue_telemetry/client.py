"""``Telemetry``: the client that a game holds, and its figures, ``TelemetryStats``."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import attrs
import msgspec

from ._crashes import CrashHooks, forget_crashes
from ._delivery.log import log_failed_start
from ._delivery.states import ConnectionState
from ._frames import Frame, Frames, frame_nothing
from ._lifecycle import Lifecycle, Phase, watch_process
from ._recording.codec import EncodedEvent, EventCodec, child_session_id, new_session_id
from ._recording.emit import Emit, emit_nothing, make_emit
from ._recording.ledger import DropReason, Ledger
from ._recording.store import TelemetryStore
from ._report import Reason
from ._shared import describe, keep_on_reload, monotonic
from .engines import AttachedEngines, EngineBinding
from .errors import InvalidEventError
from .event_types import EventInstance
from .events import TelemetryEvent
from .settings import TelemetrySettings, is_given, is_killed

if TYPE_CHECKING:
    from ._delivery.worker import TelemetryConnector
    from ._journal.journal import Journal
    from ._recording.sampling import Sampling
    from ._recording.store import Store

__all__ = ["Telemetry", "TelemetryStats"]

logger = logging.getLogger("redvsblue_telemetry")

_HIGH_WATER_PARTS = 8  # the worker is woken when one eighth of the store is full
_DISCARD_TIMEOUT = 0.05  # seconds that the toggle waits for the worker to discard events
_WARNING_INTERVAL = 60.0  # seconds between two warnings about rejected events of one type
_SECONDS_AS_MILLISECONDS = 10**17  # nanoseconds: no game's events are of before March 1973
_NANOSECONDS_PER_YEAR = 31_556_952 * 10**9
_MAX_WARNED_TYPES = 256  # how many types are remembered for that


def _nothing() -> None:
    """Do nothing: the high-water callback of a client without a worker."""


@attrs.frozen(kw_only=True)
class TelemetryStats:
    """The ledger and the connection, at one moment.

    ``emitted + recovered == delivered + dropped + buffered + in_flight`` always holds; ``rejected``
    events are not part of it.
    """

    emitted: int = 0
    """Events that were accepted."""
    recovered: int = 0
    """Events that were taken over from earlier runs, which had left them in the journal."""
    delivered: int = 0
    """Events that the server has confirmed."""
    dropped: int = 0
    """Events that will not be sent; ``dropped_by`` has the reasons."""
    dropped_by: Mapping[str, int] = attrs.field(
        factory=lambda: {reason.value: 0 for reason in DropReason},
        hash=False,
    )
    """Why events were dropped. The keys are always ``"overflow"`` (the store was full),
    ``"refused"`` (by the server), ``"filtered"`` (``before_send`` returned None),
    ``"switched_off"`` (by the player), ``"expired"`` (by the journal's limits) and
    ``"left_behind"`` (at a stop without a journal); the counts add up to ``dropped``."""
    buffered: int = 0
    """Events waiting in the store; after a stop, those that the journal keeps for the next one."""
    in_flight: int = 0
    """Events that left the store and are not confirmed yet."""
    rejected: int = 0
    """Events that were not accepted: they can't be encoded, they are too large, or ``before_send``
    raised for them."""
    sampled: Mapping[str, int] = attrs.field(factory=dict[str, int], hash=False)
    """Events that sampling and rate limits left out, by type. They are not part of ``emitted``."""
    state: ConnectionState = ConnectionState.IDLE
    reconnects: int = 0
    """How often a connection was made again."""
    last_error: str | None = None
    """Why the last attempt or connection failed."""
    round_trip: float | None = None
    """Seconds from sending to confirmation, for the batch confirmed last."""


@keep_on_reload
class Telemetry:
    """Records a game's events and delivers them. Usually made by :func:`start_telemetry`.

    When ``settings.enabled`` is false, all methods work and do nothing: no thread, no socket.
    Every method may be called from any thread; ``emit`` and ``push`` also from signal handlers
    and ``__del__``. They never block and never raise (unless ``strict``).

    Args:
        settings: if None, :meth:`TelemetrySettings.from_environment`.
    """

    _sends = True  # so the operator's kill switch applies

    def __init__(self, settings: TelemetrySettings | None = None) -> None:
        settings = TelemetrySettings.from_environment() if settings is None else settings
        if self._sends and is_killed(os.environ):
            settings = attrs.evolve(settings, enabled=False)
        self._settings = settings
        self._life = Lifecycle(is_enabled=settings.enabled)
        self._warned_at: dict[str, float] = {}
        self._has_seen_seconds = False
        self._stop_reason = Reason.STOPPED  # of a call of `stop`
        self._stop_result: bool | None = None  # what `stop` returns; None until that is final
        self._online = True  # the host's last notice; a forked child is on the same network
        self._connector: TelemetryConnector | None = None
        # The connector's, kept so that an emit into a full store doesn't look it up each time: that
        # costs it about 40 of 10,900 instructions.
        self._nudge: Callable[[], None] | None = None
        sampling = self._made_sampling()
        self._codec = EventCodec(
            settings.session_id or new_session_id(),
            settings.version,
            max_event_bytes=min(settings.max_event_bytes, settings.max_batch_bytes - 2),
            sampling=sampling,
        )
        self._high_water = max(1, settings.capacity // _HIGH_WATER_PARTS)
        self._journal = self._made_journal()
        self._store = self._made_store()
        self._ledger = Ledger(self._store, sampling)
        self._engines = AttachedEngines()
        self._bound_emit: Emit = emit_nothing
        if settings.enabled:
            self._bound_emit = make_emit(
                self._life.recording, self._codec, self._store, self._ledger, self._complain
            )
        else:
            self._store.on_high_water = _nothing  # it would refer to this client
        if type(self).emit is Telemetry.emit:
            vars(self)["emit"] = self._bound_emit  # saves the game one call per event
        self._frames: Frames | None = None
        self._crash_hooks: CrashHooks | None = None
        self._bind_frame(frame_nothing)
        if settings.enabled and self._sends:
            self._frames = self._made_frames()
            if settings.crash_events:
                self._crash_hooks = CrashHooks(self._codec.max_event_bytes, self._frames)

    def _made_sampling(self) -> Sampling | None:
        """Return the sampling of a client that has one."""
        settings = self._settings
        if not (settings.sample or settings.rate_limits):
            return None
        from ._recording.sampling import Sampling  # noqa: PLC0415 (imports `random`, and much more)

        return Sampling(settings.sample, settings.rate_limits)

    def _made_journal(self) -> Journal | None:
        """Return the journal of a client that has one. Touches nothing on disk."""
        settings = self._settings
        if settings.journal is None or not settings.enabled or not self._sends:
            return None
        from ._journal.journal import Journal  # noqa: PLC0415 (not for a game that has none)

        return Journal(
            settings.journal,
            self._codec,
            capacity=settings.capacity if is_given(settings.capacity) else None,
            memory_capacity=settings.capacity,
            max_bytes=settings.journal_max_bytes,
            high_water=self._high_water,
            on_high_water=self._on_high_water,
            on_first_push=self._on_first_push,
        )

    def _made_store(self) -> Store[EncodedEvent]:
        if self._journal is not None:
            return self._journal.store
        return TelemetryStore[EncodedEvent](
            self._settings.capacity,
            high_water=self._high_water,
            on_high_water=self._on_high_water,
        )

    def _made_frames(self) -> Frames:
        return Frames(
            self._bound_emit,
            self._bind_frame,
            self._wake,
            interval=self._settings.frame_interval,
            hang_timeout=self._settings.hang_timeout,
            max_event_bytes=self._codec.max_event_bytes,
        )

    def _bind_frame(self, frame: Frame) -> None:
        self._bound_frame = frame
        if type(self).frame is Telemetry.frame:
            vars(self)["frame"] = frame  # saves the game one call per frame

    # Events.

    @overload
    def emit(self, event: EventInstance, /) -> None: ...
    @overload
    def emit(self, type: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None: ...
    def emit(self, type: Any, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Record that something happened. Takes a snapshot and leaves the rest to the worker.

        Args:
            event: an instance of a class that :func:`event_type` marked. It is the whole event.
            type: the kind of event, such as ``"ship_destroyed"``.
            data: the event's fields. Changing the mapping later changes nothing.
            fields: more fields, as keywords; they win over ``data``.

        Raises:
            InvalidEventError: the event can't be sent, and ``strict`` is set. Otherwise such an
                event is counted in ``rejected``.
        """
        self._bound_emit(type, data, **fields)

    def push(self, event: TelemetryEvent | Mapping[str, Any] | EventInstance) -> None:
        """Record an event that may have its own id, timestamp, seq, session, version and context.

        An instance of a class that :func:`event_type` marked is recorded as by :meth:`emit`.

        Fields that are set are kept; missing ones are filled in. A mapping has the names of the
        wire (camelCase); unknown keys become fields of its data, and so does a ``context`` that is
        not a mapping.

        Raises:
            InvalidEventError: as for :meth:`emit`.
        """
        if not self._life.recording.on:
            return
        try:
            if self._codec.leaves_out_event(event):
                return
            body = self._codec.encode_event(event)
            self._store.push(body)
        except Exception as error:
            # Without a call, like `emit`: each may fail, close to the recursion limit.
            for _ in self._ledger.rejections:
                break
            try:
                self._complain(error, "")
            except InvalidEventError:
                raise
            except Exception:  # noqa: S110 (the same limit)
                pass
            return
        try:
            if body.time < _SECONDS_AS_MILLISECONDS <= time_ns() and not self._has_seen_seconds:
                self._has_seen_seconds = True
                logger.warning(
                    "an event's timestamp is in %d: is it in seconds? It has to be in milliseconds",
                    1970 + body.time // _NANOSECONDS_PER_YEAR,
                )
        except Exception:  # noqa: S110 (the event is recorded)
            pass

    def context(self, /, **fields: Any) -> None:
        """Have all events carry these fields from now on, in their ``context``.

        They are added to the fields that were set before; None removes one. Every event that any
        thread emits after the return has them, and ``emit`` takes no longer for it. Use it for
        facts that change seldom, such as the player or the level: each change takes a few
        microseconds for each type of event.

        A forked child has the context of its parent. Together, the fields may take an eighth of
        ``max_event_bytes`` as JSON. Where the feature flag is off, nothing happens.

        Args:
            fields: anything that can be written as JSON. Changing it later changes nothing.

        Raises:
            InvalidEventError: the fields can't be sent, and ``strict`` is set. Otherwise that is
                logged. In both cases the context is unchanged.
        """
        if not self._settings.enabled:
            return
        try:
            self._codec.extend_context(fields)
        except Exception as error:
            if isinstance(error, InvalidEventError):  # it is not about an event
                error.args = (f"{error.path}: {error.reason}",)
            self._complain(error, "", "%s; the context is unchanged")

    def frame(self) -> None:
        """Note that a frame begins. Call it once per frame, in one thread.

        Every ``frame_interval``, a ``frames`` event sums up how long the frames took. With
        ``hang_timeout``, a ``hang`` event shows where the game is when no frame has begun for that
        long. A time of more than a minute between two calls counts as a pause.
        """
        self._bound_frame()

    def attach(self, engine: object, event: str = "telemetry") -> EngineBinding:
        """Record the events that an engine emits.

        Attaching the same engine again records its events once, until each binding is detached.

        Args:
            engine: an object with one of the pairs of methods ``on``/``off``,
                ``on``/``remove_listener``, ``add_listener``/``remove_listener``,
                ``subscribe``/``unsubscribe``, ``bind``/``unbind``, ``connect``/``disconnect`` or
                ``push_handlers``/``remove_handlers``. Have any other engine call :meth:`push`.
            event: the name under which the engine emits its telemetry.

        Returns:
            The binding: detach it, or use it as a context manager. While telemetry is off, the
            engine is checked all the same, and the binding does nothing.

        Raises:
            TelemetryError: the engine has none of these pairs, they take other arguments, it
                doesn't know the event, or it raised an exception.
        """
        return self._engines.attach(engine, event, self.push if self._settings.enabled else None)

    # Life.

    def start(self) -> Telemetry:
        """Start the worker, if telemetry is on and was not started before.

        If telemetry is off, erase the events that earlier runs left in the journal.
        """
        with self._life.lock:
            if self._life.phase is Phase.NEW:
                self._start_worker()
            elif self._life.phase is Phase.OFF:
                self._erase_journal()
        return self

    @property
    def is_running(self) -> bool:
        """Whether the feature flag is on and the client has not been stopped."""
        return self._life.is_running

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until all events that were emitted before this call are confirmed.

        If the worker is waiting to reconnect, it tries at once; after many flushes, within a
        second. It never tries before the time that a server has asked for (``Retry-After``).

        Args:
            timeout: the longest time to wait, in seconds.

        Returns:
            True if all of them were confirmed, or taken out by ``before_send``. False if the time
            ran out, or any of them was dropped during the call for another reason.
        """
        connector = self._connector
        if self._stop_result is not None:
            return self._stop_result
        if connector is None:
            return self._has_nothing_to_send
        return connector.flush(timeout)

    def stop(self, timeout: float = 2.0) -> bool:
        """Deliver the remaining events and end. Returns within the timeout in any case.

        Further calls return the result of the first. A stopped ``Telemetry`` records no events.

        Args:
            timeout: the longest time that the call takes, in seconds.

        Returns:
            As for :meth:`flush`: True if all remaining events were confirmed, or taken out by
            ``before_send``. False if any was not confirmed in time, or dropped during the call for
            another reason. With a journal, the former are counted in ``buffered``, and the next
            start delivers them; otherwise all of these are counted in ``dropped``.
        """
        return self._stop(timeout, self._stop_reason)

    def _stop(self, timeout: float, reason: str) -> bool:
        """Stop. The reason is that of the last report, unless there was another stop before."""
        since = monotonic()
        if self._frames is not None and self._connector is not None:
            self._frames.finish(timeout)
        with self._life.lock:
            self._enter_stopped()
            connector = self._connector
        if self._stop_result is not None:
            return self._stop_result
        # Waiting without the lock: a callback on the worker, another thread and a signal handler
        # may all call `stop` while this one waits, and each returns within its own timeout.
        if connector is None:
            ended_well = self._has_nothing_to_send
        else:
            ended_well = connector.stop(max(0.0, since + timeout - monotonic()), reason)
        has_ended = connector is None or connector.state is ConnectionState.STOPPED
        # A callback on the worker doesn't wait: then the next call has to.
        if has_ended or monotonic() - since >= timeout:
            self._stop_result = ended_well
        return ended_well

    def _enter_stopped(self) -> None:
        """Stop recording for good, and let go of all that refers back to this client.

        A game may have turned the garbage collector off, and start a session for each level. Call
        it under the lock.
        """
        self._life.enter(Phase.STOPPED)
        self._store.on_high_water = _nothing
        if self._journal is not None:
            self._journal.store.on_first_push = _nothing
        self._bound_emit = emit_nothing
        if "emit" in vars(self):
            vars(self)["emit"] = emit_nothing
        if self._frames is not None:
            self._frames.end()
        if self._crash_hooks is not None:
            self._crash_hooks.remove()

    @property
    def _has_nothing_to_send(self) -> bool:
        """Whether no event waits for a worker: one that never started, as after a fork."""
        return not (self._sends and self._store)

    def set_online(self, online: bool) -> None:
        """Report whether the host has a network. While it has none, no attempt is made."""
        self._online = online
        connector = self._connector
        if connector is not None:
            connector.set_online(online)

    @property
    def enabled(self) -> bool:
        """The player's toggle.

        Setting it to False discards the pending events and counts them in ``dropped``, closes the
        connection, and stops recording and sending. It also erases the journal: the events of this
        run, and those of earlier runs. Setting it to True resumes the same session, or starts a
        client that was not started. Where the feature flag is off, it stays False.

        Nothing is sent after a False but one report, if a connection is open, no event is in
        flight, and the server takes reports. It says that the session was switched off, and how
        many events there were. It has none of the player's data.
        """
        return self._life.recording.on

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        with self._life.lock:
            if not enabled:
                self._switch_off()
            elif self._life.phase in (Phase.NEW, Phase.SWITCHED_OFF):
                self._switch_on()

    def _switch_on(self) -> None:
        connector = self._connector
        if connector is None:
            # Also such events, in a forked child; a recording keeps what it has.
            if self._sends:
                self._ledger.drop(self._store.clear(), DropReason.SWITCHED_OFF)
            self._start_worker_safely()
            return
        if self._store:
            # From an `emit` that had begun before the player said no, and ended after it.
            connector.discard(_DISCARD_TIMEOUT)
        if self._journal is not None and self._life.phase is Phase.SWITCHED_OFF:
            self._journal.open()
        if self._life.enter(Phase.RUNNING):
            connector.set_enabled(True)
            if self._frames is not None:
                self._frames.begin()

    def _switch_off(self) -> None:
        was_recording = self._life.recording.on
        self._life.enter(Phase.SWITCHED_OFF)
        if self._frames is not None:
            self._frames.pause()
        is_stopped = self._life.phase is Phase.STOPPED
        if self._connector is not None and (was_recording or is_stopped):
            self._connector.set_enabled(False)  # also while a `stop` delivers the remaining events
        self._erase_journal()
        if self._connector is not None and was_recording and not is_stopped:
            self._connector.discard(_DISCARD_TIMEOUT)

    def _erase_journal(self) -> None:
        """Erase this run and the dead ones, without waiting for the worker."""
        if self._settings.journal is None or not self._sends:
            return
        from ._journal.journal import erase_dead_runs  # noqa: PLC0415 (not for a game without one)

        if self._connector is not None:
            self._connector.adoption.erase()
        if self._journal is not None:
            self._journal.erase()
        else:
            erase_dead_runs(self._settings.journal)

    @property
    def settings(self) -> TelemetrySettings:
        """The settings with which it was made."""
        return self._settings

    @property
    def session_id(self) -> str:
        """The id of this run of the game, in every event."""
        return self._codec.session_id

    def stats(self) -> TelemetryStats:
        """Return the ledger and the connection's state."""
        connector = self._connector
        has_ended = connector is None or connector.state is ConnectionState.STOPPED
        counts = self._ledger.read(is_over=has_ended and self._life.phase is Phase.STOPPED)
        stats = TelemetryStats(**msgspec.structs.asdict(counts))
        if connector is None:
            return stats
        return attrs.evolve(
            stats,
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
        # The others, such as a Ctrl-C and a task's cancellation, only leave the block.
        if kind is not None and issubclass(kind, Exception):
            self._stop_reason = Reason.CRASHED
            # The stop removes the hooks, before Python can call them for this exception.
            if self._crash_hooks is not None:
                self._crash_hooks.record(kind, error, traceback, threading.current_thread())
        self.stop()

    # An engine or a saved game may hold its client. That is one per process, with threads and
    # sockets: so a copy is the same one, and a client is loaded as the current one.

    def __copy__(self) -> Telemetry:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Telemetry:
        return self

    def __reduce__(self) -> tuple[Callable[[], Telemetry], tuple[()]]:
        return unpickled_telemetry, ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id}: {self.stats()}>"

    # The worker.

    def _start_worker(self) -> None:
        """Start the worker and run; if that fails, things are as before. Call it under the lock."""
        life, before = self._life, self._life.phase
        if not life.enter(Phase.RESTARTING if before is Phase.FORKED else Phase.STARTING):
            return
        try:
            connector = self._connector = self._launched()
        except BaseException:
            life.enter(before)
            raise
        self._store.high_water = self._high_water
        if connector is None:
            life.enter(Phase.RUNNING)
            return
        if self._frames is not None and before is not Phase.FORKED:
            self._frames.begin()
        if self._crash_hooks is not None:
            self._crash_hooks.install(self._bound_emit)
        self._nudge = connector.requests.nudge
        # It may have been set meanwhile. Only a change is passed on: if the first attempt failed
        # already, a repeated True would mean that the network is back, and cut the backoff short.
        if connector.requests.online != self._online:
            connector.set_online(self._online)
        # A signal handler may have stopped the client or switched it off meanwhile, without effect
        # on a worker that `self._connector` didn't have yet.
        if life.phase in (Phase.STARTING, Phase.RESTARTING):
            life.enter(Phase.RUNNING)
        if life.phase is Phase.STOPPED:
            self._enter_stopped()
            connector.stop(0)
        elif life.phase is Phase.SWITCHED_OFF:
            if self._frames is not None:
                self._frames.pause()
            connector.set_enabled(False)
            self._erase_journal()  # the run that was begun after it
            connector.discard(_DISCARD_TIMEOUT)

    def _launched(self) -> TelemetryConnector | None:
        """Return a running worker; None if this kind of client has none."""
        # The worker and the network are a good part of what there is to import: not for a game that
        # never starts telemetry. Imported on the caller's thread, since a module that one thread is
        # importing while another forks stays half-imported in the child.
        from ._delivery.worker import TelemetryConnector  # noqa: PLC0415

        watch_process(self)
        journal, is_child = self._journal, self._life.phase is Phase.RESTARTING
        if not is_child:  # which may be here to record its crash
            forget_crashes()
        connector = TelemetryConnector(
            self._store,
            self._codec,
            self._settings,
            ledger=self._ledger,
            journal=journal,
            adopts=not is_child,  # which leaves the dead runs to its parent
            on_failure=self._on_worker_failure,
            upkeep=None if self._frames is None else self._frames.upkeep,
        )
        try:
            connector.set_online(self._online)
            if journal is not None:
                journal.open()  # before anything is recorded
            connector.start()
        except BaseException:
            connector.abandon()
            if journal is not None:
                journal.close(keep=True)  # the events of a child
            raise
        return connector

    def _on_worker_failure(self) -> None:
        """Stop: there is no worker any more. The next `start_telemetry` makes a new client."""
        with self._life.lock:
            self._enter_stopped()

    def _start_worker_safely(self) -> None:
        """Start the worker of a forked child. If that fails, log it and turn telemetry off."""
        try:
            self._start_worker()
        except Exception as error:
            self._enter_stopped()
            log_failed_start(error)

    def _on_high_water(self) -> None:
        if (nudge := self._nudge) is not None:
            nudge()
        # The first event after a fork. If the lock is taken, another thread starts the worker,
        # or has just stopped or switched it off; waiting for it would stall a frame.
        elif self._life.phase is Phase.FORKED and self._life.lock.acquire(blocking=False):
            try:
                if self._life.phase is Phase.FORKED:
                    self._start_worker_safely()
            finally:
                self._life.lock.release()

    def _wake(self) -> None:
        """Have the worker look at the frames."""
        connector = self._connector
        if connector is not None:
            connector.requests.wake()

    def _on_first_push(self) -> None:
        """Open the journal of a forked child, so that its first event is on disk, too."""
        phase = self._life.phase
        if self._journal is not None and phase in (Phase.FORKED, Phase.RESTARTING):
            self._journal.open()
            if self._life.phase is Phase.SWITCHED_OFF:  # meanwhile, before there was a run to erase
                self._journal.erase()

    def _complain(self, error: Exception, type: object, line: str = "%s; it is rejected") -> None:
        """Warn about an event that can't be sent, once in a while, and raise if ``strict``."""
        if not isinstance(error, InvalidEventError):
            error = InvalidEventError(describe(type), "event", describe(error))
        now = monotonic()
        if now >= self._warned_at.get(error.event_type, 0.0):
            if len(self._warned_at) >= _MAX_WARNED_TYPES:
                self._warned_at.clear()
            # Set before the warning: its handler may emit a bad event itself.
            self._warned_at[error.event_type] = now + _WARNING_INTERVAL
            # A log handler that raises must not break the frame that emits.
            with contextlib.suppress(Exception):
                logger.warning(line, error)
        if self._settings.strict:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: a cycle

    def after_fork_in_child(self) -> None:
        """Begin a new session in a forked child. Its worker starts with its first event.

        The codec, the store and the ledger stay the same objects, because an ``emit`` that the game
        keeps is a closure over them. New ones would leave that ``emit`` putting its events into a
        store that nobody drains.
        """
        inherited, self._connector, self._nudge = self._connector, None, None
        forget_crashes()
        self._life.after_fork_in_child()
        self._codec.begin(child_session_id(self._settings.session_id))
        if self._journal is not None:
            self._journal.after_fork_in_child()
        self._store.begin()
        self._store.high_water = 1  # the first event calls `_on_high_water`
        self._ledger.begin()
        if self._frames is not None:
            self._frames.after_fork_in_child()
        self._engines.after_fork_in_child()
        if inherited is not None:
            inherited.abandon()


_get_current: Callable[[], Telemetry] | None = globals().get("_get_current")  # kept on reload


def unpickle_as(get_current: Callable[[], Telemetry]) -> None:
    """Set what a pickled client is loaded as: the result of this function."""
    global _get_current
    _get_current = get_current


def unpickled_telemetry() -> Telemetry:
    """Return the process's current client. Saved games know this name."""
    assert _get_current is not None
    return _get_current()
