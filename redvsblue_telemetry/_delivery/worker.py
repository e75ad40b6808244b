"""The worker: connects, drains, sends, confirms, reconnects.

Theory of operation
-------------------

One daemon thread runs :meth:`TelemetryConnector._run`. Its connection goes through these states
(``states.TRANSITIONS`` has them as a table)::

             ┌───────────── the toggle is off ────────────┐
             ▼                                            │
    start ─▶ IDLE ──▶ CONNECTING ─── handshake ──▶ CONNECTED
                       ▲  │                           │
                       │  └─── it failed ──┬── it is lost
                       │                   ▼
                       ├─ time is up ── BACKING_OFF
                       └─ time is up ── OFFLINE   if there is no network, or the host says so

    IDLE by the toggle, and STOPPED, can follow every state.

The thread waits in one place, :class:`Poller`: for the socket, a time, or a wake-up. So anything
that happens wakes it at once, and nothing polls. Other threads leave their requests in
:class:`Requests` and wake it; it reads them only between waits.
"""

from __future__ import annotations

import logging
import math
import selectors
import threading
from collections.abc import Callable
from time import sleep
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .._network.contract import Connection, ConnectionLost, Endpoint, LostKind, Wait
from .._network.dial import prepare
from .._network.websocket import open_websocket
from .._recording.codec import EncodedEvent, EventCodec
from .._recording.ledger import DropReason, Ledger
from .._recording.store import Store
from .._report import Reason
from .._shared import TokenBucket, is_loopback, monotonic
from ..settings import TelemetrySettings, is_token
from .adoption import Adoption
from .backoff import Backoff
from .keepalive import Keepalive
from .limits import JournalLimits
from .log import LINES_AT_ONCE, LINES_PER_SECOND, ConnectionLog, log_safely
from .packing import Packing
from .poller import Poller
from .report import Reporter, outside
from .requests import Request, Requests
from .session import WireSession
from .settlement import Settlement
from .states import (
    BACKING_OFF,
    CONNECTED,
    CONNECTING,
    IDLE,
    OFFLINE,
    STOPPED,
    TRANSITIONS,
    ConnectionState,
)
from .window import Batch, DeliveryWindow

if TYPE_CHECKING:
    from .._journal.journal import Journal

__all__ = ["TelemetryConnector"]

_WINDOW_BATCHES = 512
_WINDOW_BYTES = 4 * 1024 * 1024
_ARCHIVED_WINDOW_BATCHES = 8192  # what is sent in ten seconds and more, until it is archived
_ARCHIVED_WINDOW_BYTES = 32 * 1024 * 1024
_MAX_RETRY_AFTER = 3600.0  # seconds; a server that asks for more gets this
_STOP_MARGIN = 0.1  # the fraction of a stop's timeout in which the worker ends after giving up
_REPORT_MARGIN = 0.05  # the same after it has also given up on its last report
_GOODBYE = 0.25  # seconds for a report to be confirmed once the player has switched telemetry off
_DISCARD_DELAY = 0.25  # seconds from that moment to the request to discard the events
_RECOVERY_DELAY = 1.0  # seconds after an internal error
_FRUITLESS_TURNS = 32  # in a row; a socket may be ready for nothing now and then
_FRUITLESS_DELAY = 0.01  # seconds, after that many
_EARLY_ATTEMPTS_AT_ONCE = 5  # for flushes, a network that is back, the toggle
_EARLY_ATTEMPTS_PER_SECOND = 1.0  # after that many
_EXPIRED_AT_ONCE = 500  # events; taking more would keep the GIL for more than a millisecond
_RECOVERED_GRACE = 0.25  # seconds that a stop goes on for events of earlier runs alone
_JOIN_TIMEOUT = 0.05  # seconds for a thread to be gone once its last statement has run

Connect = Callable[[Endpoint, Wait, float], Connection]


class _Interrupted(Exception):  # noqa: N818 (it is not an error)
    """A stop, the toggle or the host's notice ended an attempt."""


class TelemetryConnector:
    """Delivers the events in a store to a server, on its own daemon thread.

    The public methods may be called from any thread.

    Args:
        store: the events, encoded by ``codec``.
        codec: completes the events.
        settings: see :class:`TelemetrySettings`.
        ledger: counts what becomes of the events; if None, a new one.
        journal: keeps the events of the store on disk, if there is one.
        adopts: whether to deliver the events of the dead runs in it as well.
        reports_itself: whether to report this run, and not only dead ones.
        on_failure: called on the worker's thread if it ends without having been asked to.
        upkeep: called on the worker's thread before each wait; returns when it has to be called
            again at the latest, by the clock, or None if not before the worker is woken.
        connect: opens a connection.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        store: Store[EncodedEvent],
        codec: EventCodec,
        settings: TelemetrySettings,
        *,
        ledger: Ledger | None = None,
        journal: Journal | None = None,
        adopts: bool = True,
        reports_itself: bool = True,
        on_failure: Callable[[], object] | None = None,
        upkeep: Callable[[], float | None] | None = None,
        connect: Connect = open_websocket,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._store = store
        self._codec = codec
        self._settings = settings
        self._journal = journal
        self._reports_itself = reports_itself
        self._on_failure = on_failure
        self._upkeep = upkeep
        self._connect = connect
        self._clock = clock
        # Before the poller, whose sockets would stay open if it raised: it imports late.
        self._backoff = Backoff(settings.backoff_base, settings.backoff_max)
        self._thread = threading.Thread(target=self._run, name="redvsblue-telemetry", daemon=True)
        self._poller = Poller(clock)
        # Not private, because `emit` calls its `nudge` directly, which saves a call.
        self.requests = Requests(self._poller.wake)

        # Used by the worker only, as is the backoff:
        self._wants_archive = settings.confirm == "archived"
        self._window = DeliveryWindow(
            max_batches=_ARCHIVED_WINDOW_BATCHES if self._wants_archive else _WINDOW_BATCHES,
            max_bytes=_window_bytes(settings),
            max_batch_bytes=settings.max_batch_bytes,
            confirm_timeout=settings.confirm_timeout,
        )
        self._settlement = Settlement(self._window)
        self._keepalive = Keepalive(settings.keepalive_interval)
        self._packing = Packing(is_allowed=settings.compression == "auto")
        self._connection: Connection | None = None
        self._regular_at = -math.inf  # when the backoff's own attempt is due
        self._not_before = -math.inf  # a Retry-After forbids attempts until then
        self._grace_ends: float | None = None  # of a stop, for events of earlier runs
        self._has_given_up = False  # and sends no more events
        self._given_up = (0, 0)  # own events, and those of earlier runs, that were in flight then
        self._awaits_last_report = False  # a report that was sent at the end is not confirmed yet
        self._has_last_report = False  # whether that was written
        self._may_keep_report = settings.reports == "auto"  # for the next start
        self._is_offline = False  # whether there was no network at the last failure
        self._is_allowed_again = False  # attempts were forbidden, and none was made since
        self._connection_log = ConnectionLog(clock)
        self._refusals_log = TokenBucket(LINES_PER_SECOND, LINES_AT_ONCE, clock)
        self._closed_log = TokenBucket(LINES_PER_SECOND, 1, clock)
        self._upkeep_log = TokenBucket(LINES_PER_SECOND, 1, clock)
        self._maintain_from = -math.inf  # after an internal error, not before this time
        self._early_attempts = TokenBucket(
            _EARLY_ATTEMPTS_PER_SECOND, _EARLY_ATTEMPTS_AT_ONCE, clock
        )
        self._has_warned_of_refused_reports = False
        self.has_no_archive = False
        """Whether archived events were asked for, and the server confirms them earlier."""
        self._settlement.own_number = store.departed
        self._seen = store.departed  # the number of the last event whose departure was noticed

        # Written by the worker, read by callers:
        self.ledger = Ledger(store) if ledger is None else ledger
        """What became of the events."""
        self.adoption = Adoption(
            journal.directory.dead_runs if journal is not None and adopts else None,
            journal.closed if journal is not None else int,
            ledger=self.ledger,
            settlement=self._settlement,
            max_event_bytes=codec.max_event_bytes,
            max_age=settings.journal_max_age,
            most_report_bytes=settings.max_batch_bytes,
            reports=settings.reports == "auto",
            clock=clock,
        )
        """Takes over dead runs. Its ``erase`` is for any thread."""
        self._reporter = Reporter(
            codec=codec,
            store=store,
            window=self._window,
            ledger=self.ledger,
            most_bytes=settings.max_batch_bytes,
            save=journal.save_report if journal is not None and self._may_keep_report else None,
            clock=clock,
        )
        self._gaps = self._reporter.gaps
        self._explain_departed()
        self._limits = (
            None
            if journal is None
            else JournalLimits(
                journal,
                self.adoption,
                max_bytes=settings.journal_max_bytes,
                max_age=settings.journal_max_age,
                clock=clock,
            )
        )
        self.state: ConnectionState = IDLE
        self.connections = 0
        """How many connections were opened."""
        self.last_lost: ConnectionLost | None = None
        """Why the last attempt or connection failed."""
        self._ended_well = True  # the stop's result, once the worker has ended

    # For callers.

    def start(self) -> None:
        """Start the worker."""
        url = urlsplit(self._settings.url)
        prepare(is_secure=url.scheme == "wss" and self._settings.ssl_context is None)
        self._packing.prepare()
        if url.scheme == "ws" and self._settings.token and not is_loopback(url.hostname or ""):
            log_safely(
                logging.WARNING,
                "the token is sent to %s unencrypted; use wss:// for any host but this machine",
                url.hostname,
            )
        self._thread.start()

    @property
    def last_error(self) -> str | None:
        """The message of :attr:`last_lost`."""
        return None if self.last_lost is None else str(self.last_lost)

    @property
    def in_flight(self) -> int:
        """Events that left the store and are not confirmed yet."""
        return self.ledger.read().in_flight

    @property
    def left_behind(self) -> int:
        """Events that were still undelivered at the end."""
        return self.ledger.left_behind

    @property
    def round_trip(self) -> float | None:
        """Seconds from sending to confirmation, for the batch confirmed last."""
        return self._window.round_trip

    def nudge(self) -> None:
        """Have the store drained soon. Costs nothing while the worker is already at it."""
        self.requests.nudge()

    def set_enabled(self, enabled: bool) -> None:
        """Connect, or stay away."""
        self.requests.set_enabled(enabled)

    def set_online(self, online: bool) -> None:
        """Make attempts, or make none until there is a network again."""
        self.requests.set_online(online)

    def flush(self, timeout: float) -> bool:
        """Wait until all events in the store or in flight now are confirmed or dropped.

        Returns:
            True if all of them were confirmed, or taken out by ``before_send``.
        """
        departed, waiting = self._store.departed_and_waiting()
        request = self.requests.flush(departed + waiting, since=departed)
        if self._is_done(request, timeout):
            return not request.has_losses
        self.requests.cancel_flush(request)
        return False

    def discard(self, timeout: float) -> bool:
        """Close the connection and discard all events in the store or in flight now."""
        return self._is_done(self.requests.discard(self._store.pushed), timeout)

    def _is_done(self, request: Request, timeout: float) -> bool:
        if self.state is STOPPED:  # then the worker may have missed the request
            return self._ended_well
        if threading.current_thread() is self._thread:
            return False  # a callback that waited for its own thread would wait forever
        return request.wait(timeout)

    def stop(self, timeout: float, reason: str = Reason.STOPPED) -> bool:
        """Deliver the remaining events and end; return the result, as for :meth:`flush`.

        Returns within the timeout (in seconds), even if the worker hangs in a name look-up. The
        reason is that of the last report.
        """
        departed, waiting = self._store.departed_and_waiting()
        now = self._clock()
        request = self.requests.stop(
            now + timeout * (1 - _STOP_MARGIN),
            departed + waiting,
            since=departed,
            report_by=now + timeout * (1 - _REPORT_MARGIN),
            reason=reason,
        )
        if threading.current_thread() is not self._thread and (
            self.state is STOPPED or request.wait(timeout)
        ):
            # A stop waits for the request, not by a join. Before Python 3.13, a thread in `join`
            # can hold a lock of the thread that it joins; a signal handler that stops as well would
            # join on top of it and wait for the code that it interrupted. The worker is about to
            # end now, so this join can have a short timeout, which bounds that case.
            self._thread.join(_JOIN_TIMEOUT)
            return self._ended_well
        # In this order: the worker sets the flags before it gives the events up.
        is_settled = self._settlement.own_number >= request.up_to
        return is_settled and self._ended_well and not request.has_losses

    def abandon(self) -> None:
        """Close the descriptors without sending anything, in a child whose parent uses them."""
        if self._connection is not None:
            self._connection.abort()
        self._poller.close()

    # The worker's life.

    def _run(self) -> None:
        try:
            log_safely(logging.INFO, "telemetry started: session %s", self._codec.session_id)
            self._look_for_dead_runs()
            while not self._is_finished:
                try:
                    self._take_a_step()
                except BaseException:  # even a SystemExit: events are waiting
                    self._recover()
        except BaseException:
            self._ended_well = False
            log_safely(logging.ERROR, "telemetry is off: its worker failed", with_traceback=True)
        finally:
            self._end()

    def _look_for_dead_runs(self) -> None:
        """Find out whether there are any, so that a stop needs not wait for those that aren't."""
        try:
            self.adoption.look()
        except BaseException:
            self._log_internal_error()

    def _recover(self) -> None:
        """Log the error, and take no step for a while."""
        until = self._clock() + _RECOVERY_DELAY
        try:
            self._log_internal_error()
            while self._clock() < until and not self._is_finished:
                self._wait(until)
        except BaseException:  # nothing works, for want of memory perhaps
            sleep(_RECOVERY_DELAY)

    def _take_a_step(self) -> None:
        if not self._may_connect:
            self._stay_away()
        elif self._pause():
            self._hold_connection()

    def _log_internal_error(self) -> None:
        log_safely(logging.ERROR, "internal error in the telemetry worker", with_traceback=True)

    @property
    def _has_delivered_all(self) -> bool:
        """Whether this run's own events are settled. Those of earlier runs can wait."""
        return not self._store and self._settlement.are_own_settled

    @property
    def _is_finished(self) -> bool:
        ends_at = self._ends_at
        return ends_at is not None and self._clock() >= ends_at

    @property
    def _ends_at(self) -> float | None:
        """When the worker has to end, by a stop; None while nobody stops it."""
        stop_at = self.requests.stop_at
        if stop_at is None:
            return None
        if self._grace_ends is None:
            self._grace_ends = self._clock() + _RECOVERED_GRACE
        if not self._may_connect:
            return -math.inf
        if self._has_given_up:
            return self.requests.report_by if self._awaits_last_report else -math.inf
        if not self._has_delivered_all:
            return stop_at
        return -math.inf if self.adoption.is_done else min(stop_at, self._grace_ends)

    @property
    def _may_connect(self) -> bool:
        return self.requests.allow_connection

    def _hold_connection(self) -> None:
        """Connect and serve the connection until it ends."""
        lost = None
        try:
            self._enter(CONNECTING)
            self._connection = self._open()
            session = self._serve(self._connection)
            if not self.requests.enabled and self._window.awaits_confirmation:
                self._connection.reset()  # the toggle also applies to data in the network
            else:
                self._say_goodbye(self._connection, session)
            self._connection.close()
        except _Interrupted:
            pass
        except ConnectionLost as error:
            lost = error
        except BaseException as error:
            self._log_internal_error()
            lost = ConnectionLost(
                LostKind.INTERNAL, f"internal error in the worker: {type(error).__name__}"
            )
        finally:
            if self._connection is not None:
                self._connection.abort()
                self._connection = None
        self._settle()
        refused = self._window.connection_lost(lost.close_code if lost else None)
        if refused is not None:
            self._drop_refused(refused, lost)
        if self._window.refuses_reports and not self._has_warned_of_refused_reports:
            self._has_warned_of_refused_reports = True
            log_safely(
                logging.WARNING, "the server refused a report, so it gets no more of them: %s", lost
            )
        if lost is not None:
            self._back_off(lost)

    def _stay_away(self) -> None:
        """Make no attempt until that is allowed again or the worker has to end."""
        self._discard_requested()
        if not self._may_connect and not self._is_finished:
            self._enter(OFFLINE if self.requests.enabled else IDLE)
            self._wait(None)
        self._is_allowed_again = True
        self._reporter.forget_saved()  # the player may have had it erased

    def _end(self) -> None:
        self._give_up_the_rest()
        self._close_journal()
        self._enter(STOPPED)
        self._poller.close()
        on_failure, self._on_failure = self._on_failure, None  # its owner refers to this
        if on_failure is not None and not self.requests.is_stopping:
            on_failure()
        self.requests.finish_all()
        kept = self.ledger.kept
        log_safely(
            logging.INFO,
            "telemetry stopped: %d events delivered, %d left behind%s",
            self.ledger.delivered,
            self.ledger.left_behind,
            f", {kept} kept for the next start" if kept else "",
        )

    def _give_up_the_rest(self) -> None:
        """Leave the events that are not delivered in the journal, or drop them.

        After the player's no, there is no journal any more.
        """
        if self._has_given_up:
            return
        self._settle(at_once=True)
        self._has_given_up = True
        if not self._has_delivered_all:
            self.requests.mark_losses()
        self._ended_well = (
            self._ended_well and self._has_delivered_all and not self.requests.has_losses
        )
        own = self._settlement.own_in_flight()
        self._settlement.forget()  # they are not settled, for the journal
        if self.requests.enabled:
            self.adoption.release()
            reason = DropReason.LEFT_BEHIND
        else:
            self.adoption.erase()
            reason = DropReason.SWITCHED_OFF
        if self._journal is None:
            taken = self._take(len(self._store))
            self._note_gaps(taken, reason)
            self.ledger.drop(own + len(taken), reason)
            self._window.discard()
            return
        self._note_memory_only()
        self._given_up = (own, self._window.discard() - own)

    def _note_memory_only(self) -> None:
        """Note that the events will not come that the journal could not write into a file."""
        assert self._journal is not None
        departed, waiting = self._store.departed_and_waiting()
        in_files = self._journal.store.in_files()
        for numbers in (*self._window.own_numbers, range(departed + 1, departed + waiting + 1)):
            lost = outside(numbers, in_files)
            self._gaps.add_each(lost, DropReason.LEFT_BEHIND.value)

    def _close_journal(self) -> None:
        """Leave the events and the last report in the journal, for the next start.

        The report stays unless the server has confirmed it, or takes none.
        """
        journal, keep = self._journal, self.requests.enabled
        if journal is None:
            return
        if keep and self.requests.is_stopping and not self._has_last_report:
            self._reporter.write(self.requests.reason)
        kept = journal.close(keep=keep, keep_report=self._may_keep_report)
        own, recovered = self._given_up
        own += self._store.clear()
        kept = min(kept, own)
        if keep:
            self.ledger.keep(kept + recovered)
            self.ledger.drop(own - kept, DropReason.LEFT_BEHIND)
        else:
            self.ledger.drop(own + recovered, DropReason.SWITCHED_OFF)

    # An attempt.

    def _open(self) -> Connection:
        settings = self._settings
        endpoint = Endpoint(
            url=settings.url,
            token=self._current_token(),
            headers=settings.headers,
            ssl_context=settings.ssl_context,
            offers_acks=settings.confirm != "none",
            offers_archived_acks=self._wants_archive,
            offers_reports=settings.reports == "auto",
            encodings=self._packing.offers,
        )
        return self._connect(
            endpoint, self._wait_to_connect, self._clock() + settings.connect_timeout
        )

    def _current_token(self) -> str | None:
        token = self._settings.token
        if not callable(token):
            return token
        try:
            fresh = token()
        except BaseException as error:  # a CancelledError, say, must not end the worker
            # Its message may contain the token, so only its type is logged.
            kind = type(error).__name__
        else:
            if fresh is None or is_token(fresh):
                return fresh
            raise ConnectionLost(LostKind.TOKEN, "the token callable returned an invalid token")
        raise ConnectionLost(LostKind.TOKEN, f"the token callable raised {kind}")

    def _wait_to_connect(self, fd: int, events: int, deadline: float) -> None:
        """Wait while connecting; see :data:`Wait`."""
        while True:
            # Checked before each wait: a wake-up can come together with the descriptor.
            if not self._may_connect or self._is_finished:
                raise _Interrupted
            if self._wait(deadline, fd, events):
                return
            if self._clock() >= deadline:
                raise TimeoutError

    def _back_off(self, lost: ConnectionLost) -> None:
        """Note why an attempt or a connection failed, and when the next attempt is due."""
        now = self._clock()
        if lost.retry_after is not None:
            self._not_before = now + min(lost.retry_after, _MAX_RETRY_AFTER)
        if now >= self._regular_at:  # or else the attempt was early, and changes nothing
            self._regular_at = now + self._backoff.next_delay()
        lost.__traceback__ = lost.__context__ = None  # their frames hold the token
        self.last_lost = lost
        self._connection_log.report(
            logging.WARNING, "telemetry is not connected: %s; trying again", str(lost)
        )
        self._is_offline = lost.is_offline
        self._enter(OFFLINE if lost.is_offline else BACKING_OFF)

    def _pause(self) -> bool:
        """Wait until it is time for an attempt; return False if none may be made any more."""
        requests = self.requests
        while self._may_connect and not self._is_finished:
            now = self._clock()
            until, is_early = self._next_attempt(now)
            if now >= until and (not is_early or self._early_attempts.take()):
                # Marked as the attempt begins. A request that comes later, even before anybody
                # can see that the attempt failed, gets another one.
                requests.mark_attempt()
                self._is_allowed_again = requests.network_is_back = False
                return True
            self._enter(OFFLINE if self._is_offline else BACKING_OFF)
            ends_at = self._ends_at
            if ends_at is not None and ends_at <= until:
                requests.stop_at = now  # the attempt would come too late: end now
            else:
                self._wait(until)
        return False

    def _next_attempt(self, now: float) -> tuple[float, bool]:
        """Return when to make the next attempt, and whether it counts as an early one.

        A stop gets one last attempt at once. An early attempt is made for each flush, for a network
        that is back, if its absence was the reason to wait, and when the toggle or the host allows
        attempts again. A game may do any of these in every frame, so early attempts are limited.
        No attempt is made before the end of a server's Retry-After.
        """
        requests = self.requests
        if requests.awaits_last_attempt:
            return self._not_before, False
        early = max(self._not_before, now + self._early_attempts.delay)
        if self._is_allowed_again:
            return early, True
        regular = max(self._not_before, self._regular_at)
        if early < regular and (
            requests.awaits_attempt or (self._is_offline and requests.network_is_back)
        ):
            return early, True
        return regular, False

    def _drop_refused(self, refused: Batch, lost: ConnectionLost | None) -> None:
        self.ledger.drop(1, DropReason.REFUSED)
        if refused.source is None:
            self.requests.mark_losses()
            self._gaps.add_each(refused.numbers, DropReason.REFUSED.value)
        elif isinstance(refused.source, EventCodec):
            for number in refused.numbers:
                self.adoption.note_gap(refused.source, number, DropReason.REFUSED.value)
        if self._refusals_log.take():
            log_safely(
                logging.WARNING,
                "dropped an event of type %r, which the server refused: %s",
                self._type_of(refused.events[0]),
                lost,
            )

    def _type_of(self, event: bytes) -> str:
        try:
            return self._codec.from_wire(event).type
        except Exception:  # nested too deeply to be read, or a msgspec.Raw that isn't JSON
            return "?"

    # An open connection.

    def _serve(self, connection: Connection) -> WireSession:
        """Move events over an open connection until it has to be closed from this end."""
        has_reports = connection.has_reports and self._settings.reports == "auto"
        has_reports = has_reports and not self._window.refuses_reports
        self.adoption.takes_reports = self._may_keep_report = has_reports
        session = WireSession(
            connection,
            store=self._store,
            take=self._take,
            codec=self._codec,
            window=self._window,
            settlement=self._settlement,
            adoption=self.adoption,
            ledger=self.ledger,
            gaps=self._gaps,
            reporter=self._reporter if has_reports and self._reports_itself else None,
            keepalive=self._keepalive,
            settings=self._settings,
            clock=self._clock,
            pack=self._packing.begin(connection.encoding),
            may_send=lambda: self._may_connect and not self._is_finished,
        )
        self._reporter.reconnects = self.connections
        self.connections += 1
        self._is_offline = False
        self._enter(CONNECTED)
        self._connection_log.report(
            logging.INFO, "telemetry connected to %s", self._settings.url.partition("?")[0]
        )
        self._warn_of_no_archive(connection)
        try:
            self._move_events(connection, session)
        except ConnectionLost as lost:
            self._note_quiet_end(session.quiet_before(lost))
            raise
        return session

    def _warn_of_no_archive(self, connection: Connection) -> None:
        """Say once that a server confirms events earlier than the game has asked for."""
        if not self._wants_archive or connection.has_archived_acks:
            return
        if not self.has_no_archive:
            self.has_no_archive = True
            log_safely(
                logging.WARNING,
                "the server does not confirm that events are archived, so they count as delivered "
                "once it has %s them",
                "stored" if connection.has_acks else "received",
            )

    def _note_quiet_end(self, quiet: float | None) -> None:
        """Have pings sent more often if connections end because they are quiet."""
        if self._keepalive.note_end(quiet, self._clock()):
            log_safely(
                logging.INFO,
                "connections end after %.3g s of quiet, probably by the idle timeout of a proxy; "
                "sending a keepalive ping after %.3g s",
                quiet,
                self._keepalive.interval,
            )

    def _move_events(self, connection: Connection, session: WireSession) -> None:
        """Send and receive until the connection has to be closed from this end."""
        fruitless_turns = 0
        while True:
            if session.receive():
                self._backoff.reset()
                self._regular_at = -math.inf
                self._settle()  # there may be an earlier run to be reported
            if not self._may_connect or self._is_finished:
                return
            session.send(
                is_urgent=self.requests.take_urgency(), is_awaited=self.requests.is_awaited
            )
            session.keep_alive()
            # A descriptor that is always ready, for nothing that can be done, must not make this
            # loop spin. None is known to be like that, and this keeps a new one from mattering.
            fruitless_turns = 0 if session.was_fruitful else fruitless_turns + 1
            if fruitless_turns > _FRUITLESS_TURNS:
                self._wait(self._clock() + _FRUITLESS_DELAY)
            if not self._wait_for_work(connection, session):
                fruitless_turns = 0

    def _say_goodbye(self, connection: Connection, session: WireSession) -> None:
        """Send the last report, if this is the end, and wait for its confirmation if there is time.

        Whether it arrives has no influence on anything else.
        """
        requests = self.requests
        is_switched_off = not requests.enabled
        if is_switched_off:
            self._await_discard()
            reason, until = Reason.SWITCHED_OFF, self._clock() + _GOODBYE
        elif self._is_finished and requests.online:
            self._give_up_the_rest()
            reason, until = requests.reason, requests.report_by
        else:
            return
        if requests.enabled == is_switched_off or not session.report(reason):
            return
        self._has_last_report = self._awaits_last_report = True
        try:
            while True:
                connection.flush()
                session.receive()  # also without proof: what is written is confirmed then
                if not session.has_unconfirmed_report or self._clock() >= until:
                    break
                if self._is_finished or requests.enabled == is_switched_off:
                    break
                self._wait(until, connection.fileno(), _events_of(connection))
        except ConnectionLost:
            pass
        finally:
            self._awaits_last_report = False
        if not session.has_unconfirmed_report:
            self._may_keep_report = False

    def _await_discard(self) -> None:
        """Discard the events first, so that the last report counts them."""
        until = self._clock() + _DISCARD_DELAY
        requests = self.requests
        while requests.next_discard is None and not (requests.enabled or self._is_finished):
            if self._clock() >= until:
                break
            self._wait(until)
        self._discard_requested()

    def _wait_for_work(self, connection: Connection, session: WireSession) -> bool:
        """Wait; return whether the connection's descriptor ended the wait."""
        events = _events_of(connection)
        if session.has_work:
            # Only look for more work.
            return self._wait(self._clock(), connection.fileno(), events)
        self.requests.wants_nudge = session.wants_nudge
        if len(self._store) >= self._store.high_water:
            self.nudge()  # it filled while the worker was busy, and there may be no next event
        is_ready = self._wait(session.next_deadline, connection.fileno(), events)
        self.requests.wants_nudge = False
        return is_ready

    # Shared by all of these.

    def _wait(self, until: float | None, fd: int = -1, events: int = 0) -> bool:
        """Wait for a descriptor, a request, or a time; return whether the descriptor is ready."""
        self._settle()
        self._connection_log.catch_up()
        deadlines = (
            until,
            self._ends_at,
            self._reporter.save_at,
            self._maintain(),
            self._keep_up(),
        )
        until = min((time for time in deadlines if time is not None), default=None)
        timeout = None if until is None else max(0.0, until - self._clock())
        is_ready = self._poller.wait(timeout, fd, events)
        if self._poller.was_closed:
            self._poller.was_closed = False
            if self._closed_log.take():
                log_safely(
                    logging.ERROR,
                    "other code in this process closed the telemetry's sockets; opening new ones",
                )
        return is_ready

    def _maintain(self) -> float | None:
        """Look after the journal; return when to do so again."""
        journal, limits = self._journal, self._limits
        if journal is None or limits is None or self._has_given_up:
            return None
        if (now := self._clock()) < self._maintain_from:
            return self._maintain_from
        try:
            maintain_at = journal.maintain()
            limits.enforce_size()
            self._expire(limits.expired())
        except Exception:  # events are delivered all the same
            self._maintain_from = now + _RECOVERY_DELAY
            if self._upkeep_log.take():
                self._log_internal_error()
            return self._maintain_from
        return min(maintain_at or math.inf, limits.next_deadline)

    def _keep_up(self) -> float | None:
        """Do the owner's upkeep; return when to do so again."""
        if self._upkeep is None:
            return None
        try:
            return self._upkeep()
        except Exception:  # events are delivered all the same
            if self._upkeep_log.take():
                self._log_internal_error()
            return self._clock() + _RECOVERY_DELAY

    def _expire(self, number: int) -> None:
        """Drop the waiting events up to a number: they are too old."""
        while (count := number - self._store.departed) > 0:
            taken = self._store.drain_numbered(min(count, _EXPIRED_AT_ONCE))
            if not taken:
                break
            self.ledger.drop(len(taken), DropReason.EXPIRED)
            self._gaps.add_each([number for _, number in taken], DropReason.EXPIRED.value)

    def _settle(self, *, at_once: bool = False) -> None:
        """Notify all who wait for events that have been delivered or dropped.

        The journal is notified only when the reasons for those that were dropped are saved.
        """
        if self._has_given_up:
            return
        departed = self._note_departed()
        if self.requests.is_stopping and self.requests.enabled:
            self._reporter.ending = self.requests.reason
        if self._reporter.save_changes(at_once=at_once):
            self._settlement.settle()
        self.requests.settle_flushes(
            departed=departed,
            loaded=self._settlement.own_loaded,
            settled=self._settlement.settled,
        )

    def _note_departed(self) -> int:
        """Note which events have left the store, and return the number of the last of them.

        Those that are not in the window were dropped. They are as settled as those before them, or
        the next start would deliver events that this run has counted as dropped.
        """
        departed = self._store.departed
        if departed > self._seen:
            self._notice(departed)
            self._settlement.note_load(departed, self._store.confirm, is_own=True)
        return departed

    def _take(self, limit: int) -> list[tuple[EncodedEvent, int]]:
        """Take events from the store, with their numbers. A gap in these is an overflow."""
        taken = self._store.drain_numbered(limit)
        if taken and taken[-1][1] != self._seen + len(taken):
            for _, number in taken:
                self._notice(number - 1)
                self._seen = number
        elif taken:
            self._seen = taken[-1][1]
        return taken

    def _notice(self, departed: int) -> None:
        """Note that the events up to a number that were not taken have overflowed."""
        if departed > self._seen:
            self.requests.mark_overflow(self._seen + 1, departed)
            if self._journal is None:
                self._gaps.add(self._seen + 1, departed, DropReason.OVERFLOW.value)
            else:
                for first, last, reason in self._journal.store.take_losses():
                    self._gaps.add(first, last, reason.value)
            self._seen = departed

    def _explain_departed(self) -> None:
        """Note why events were dropped in a forked child before it had this worker."""
        overflown = [(1, self._store.dropped, DropReason.OVERFLOW)] if self._store.dropped else []
        losses = overflown if self._journal is None else self._journal.store.take_losses()
        explained = 0
        for first, last, reason in (*losses, (self._seen + 1, self._seen, DropReason.OVERFLOW)):
            if first > explained + 1:
                self._gaps.add(explained + 1, first - 1, DropReason.SWITCHED_OFF.value)
            if first <= last:
                self._gaps.add(first, last, reason.value)
            explained = last

    def _note_gaps(self, taken: list[tuple[EncodedEvent, int]], reason: DropReason) -> None:
        """Note why this run's events in the window, and those taken from the store, won't come."""
        for numbers in (*self._window.own_numbers, [number for _, number in taken]):
            self._gaps.add_each(numbers, reason.value)

    def _discard_requested(self) -> None:
        while (request := self.requests.next_discard) is not None:
            self._settle()
            own = self._settlement.own_in_flight()
            taken = self._take(request.up_to - self._store.departed)
            self._note_gaps(taken, DropReason.SWITCHED_OFF)
            discarded = self._window.discard() + len(taken)
            self.ledger.drop(discarded, DropReason.SWITCHED_OFF)
            if own or taken:
                self.requests.mark_losses()
            self._settlement.note_load(self._store.departed, self._store.confirm, is_own=True)
            self._settlement.settle()
            self.requests.finish_discard()

    def _enter(self, state: ConnectionState) -> None:
        if state is self.state:
            return
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
        self.state = state
        if self._settings.on_state_change is not None:
            try:
                self._settings.on_state_change(state)
            except BaseException:  # even a SystemExit must not end the worker
                log_safely(logging.ERROR, "on_state_change raised", with_traceback=True)


def _window_bytes(settings: TelemetrySettings) -> int:
    """Return how many bytes may be in the window.

    Events stay in it until they are archived, and in the journal, which needs room for others.
    """
    if settings.confirm != "archived":
        return _WINDOW_BYTES
    return max(_WINDOW_BYTES, min(_ARCHIVED_WINDOW_BYTES, settings.journal_max_bytes // 2))


def _events_of(connection: Connection) -> int:
    """Return what to wait for, as in :mod:`selectors`."""
    is_writing = bool(connection.unwritten)
    return selectors.EVENT_READ | (selectors.EVENT_WRITE if is_writing else 0)
