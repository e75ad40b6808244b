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

    IDLE by the toggle, and STOPPED, can follow on every state.

The thread waits in one place, :class:`Poller`: for the socket, a time, or a wake-up. So
whatever happens wakes it at once, and nothing polls. What other threads want of it they write
down in an attribute of their own and wake it; it looks at them only between waits.
"""

from __future__ import annotations

import contextlib
import logging
import math
import selectors
import threading
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

from .._network.contract import Connection, ConnectionLost, Endpoint, LostKind, Wait
from .._network.dial import prepare
from .._network.websocket import open_websocket
from .._recording.codec import EncodedEvent, EventCodec
from .._recording.store import TelemetryStore
from .._shared import TokenBucket, is_loopback, monotonic
from ..settings import TelemetrySettings, is_token
from .backoff import Backoff
from .log import LINES_A_SECOND, LINES_AT_ONCE, ConnectionLog, log_safely
from .poller import Poller
from .session import Outcome, WireSession
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
from .window import DeliveryWindow

__all__ = ["TelemetryConnector"]

_WINDOW_BATCHES = 512
_WINDOW_BYTES = 4 * 1024 * 1024
_LONGEST_RETRY_AFTER = 3600.0  # seconds; a server that asks for more gets this
_STOP_MARGIN = 0.1  # the part of a stop's timeout that is left for the worker to end in
_AFTER_AN_ERROR = 1.0  # seconds until the worker goes on
_LAST_STEPS = 0.05  # seconds that a thread may take to be gone once it has told that it ends

Connect = Callable[[Endpoint, Wait, float], Connection]


class _InterruptedError(Exception):
    """The reason for an attempt is gone: by a stop, the toggle, or the network's state."""


class _Request:
    """Something that a caller wants done with the events up to a number, and waits for."""

    def __init__(self, up_to: int) -> None:
        self.up_to = up_to
        self.loaded: int | None = None
        """How many events the window had been given when the last of them left the store."""
        self.done = threading.Lock()
        """Released by the worker. An Event has a lock inside: a caller may hold that when a signal
        handler stops the worker, and then the two would wait for each other."""
        self.done.acquire()

    def wait(self, timeout: float) -> bool:
        """Wait until it is done; whether it is."""
        return self.done.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX)))


class TelemetryConnector:
    """Delivers what is in a store to a server, on a daemon thread of its own.

    The public methods may be called from any thread.

    Args:
        store: where the events come from: bodies, as ``codec`` makes them.
        codec: seals the bodies.
        settings: see :class:`TelemetrySettings`.
        connect: opens a connection.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        store: TelemetryStore[EncodedEvent],
        codec: EventCodec,
        settings: TelemetrySettings,
        *,
        connect: Connect = open_websocket,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._store = store
        self._codec = codec
        self._settings = settings
        self._connect = connect
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name="redvsblue-telemetry", daemon=True)
        self._place = Poller()

        # Written by callers, read by the worker:
        self._enabled = True
        self._online = True
        self._retry_at_once = False  # the worker, too, once it does
        self._stop_at: float | None = None  # the worker, too, once nothing more can be done
        self._flushes: deque[_Request] = deque()
        self._discards: deque[_Request] = deque()
        self._stops: deque[_Request] = deque()
        self._nudged = False  # the worker, too, once it drains
        self._wants_wake_up = False  # the worker sets it before a wait; whoever wakes it clears it

        # The worker's own:
        self._backoff = Backoff(settings.backoff_base, settings.backoff_max)
        self._window = DeliveryWindow(
            max_batches=_WINDOW_BATCHES,
            max_bytes=_WINDOW_BYTES,
            max_batch_bytes=settings.max_batch_bytes,
            confirm_timeout=settings.confirm_timeout,
        )
        self._connection: Connection | None = None
        self._not_before = -math.inf  # when a server that asked for it may be called on again
        self._has_given_up = False  # on what was undelivered at the end
        self._state_log = ConnectionLog(clock)
        self._refusals_log = TokenBucket(LINES_A_SECOND, LINES_AT_ONCE, clock)

        # Written by the worker, read by callers:
        self.outcome = Outcome()
        """What became of the events that left the store."""
        self.state: ConnectionState = IDLE
        self.connections = 0
        """How many were opened."""
        self.last_lost: ConnectionLost | None = None
        """Why the last attempt or connection failed."""
        self.left_behind = 0
        """Events that were still undelivered at the end."""

    # What callers ask for.

    def start(self) -> None:
        """Start the worker."""
        url = urlsplit(self._settings.url)
        prepare(is_secure=url.scheme == "wss" and self._settings.ssl_context is None)
        if url.scheme == "ws" and self._settings.token and not is_loopback(url.hostname or ""):
            log_safely(
                logging.WARNING,
                "the token goes to %s unencrypted: use wss:// for any host but this one",
                url.hostname,
            )
        self._thread.start()

    @property
    def last_error(self) -> str | None:
        """The message of :attr:`last_lost`."""
        return None if self.last_lost is None else str(self.last_lost)

    @property
    def in_flight(self) -> int:
        """Events sent and not yet confirmed."""
        return self._window.in_flight

    @property
    def round_trip(self) -> float | None:
        """Seconds from the sending of a batch to its confirmation, for the newest confirmed."""
        return self._window.round_trip

    def nudge(self) -> None:
        """Have the store drained soon; costs nothing while the worker is at it already."""
        if self._wants_wake_up:
            self._wants_wake_up = False
            self._nudged = True
            self._place.wake()

    def flush(self, timeout: float) -> bool:
        """Wait until all that is in the store or in flight now is confirmed, or else gone."""
        request = _Request(self._store.pushed)
        self._nudged = True  # whoever doesn't wait for it wants it done all the same
        if self._ask(self._flushes, request, timeout):
            return True
        with contextlib.suppress(ValueError):  # it was done just now
            self._flushes.remove(request)
        return False

    def discard(self, timeout: float) -> bool:
        """Close the connection and discard all that is in the store or in flight now."""
        return self._ask(self._discards, _Request(self._store.pushed), timeout)

    def _ask(self, requests: deque[_Request], request: _Request, timeout: float) -> bool:
        requests.append(request)
        self._place.wake()
        if self.state is STOPPED:  # then nobody looks at it any more
            return self.left_behind == 0
        if threading.current_thread() is self._thread:
            return False  # a callback that waited for its own thread would wait for ever
        return request.wait(timeout)

    def set_enabled(self, enabled: bool) -> None:
        """Connect, or stay away."""
        self._enabled = enabled
        self._place.wake()

    def set_online(self, online: bool) -> None:
        """There is a network, or there is none: then no attempt is made."""
        self._online = online
        self._retry_at_once = online
        self._place.wake()

    def stop(self, timeout: float) -> bool:
        """Deliver what there is and end the worker; whether all that there was is confirmed.

        Returns within the timeout (seconds), also when the worker hangs in a name look-up.
        """
        deadline = self._clock() + timeout * (1 - _STOP_MARGIN)
        if self._stop_at is None or deadline < self._stop_at:
            self._stop_at = deadline
        request = _Request(0)
        self._stops.append(request)
        self._place.wake()
        if threading.current_thread() is not self._thread and (
            self.state is STOPPED or request.wait(timeout)
        ):
            # Not joined for longer: until Python 3.13, a join by a signal handler in the midst of
            # a join waits for that one, which can't go on.
            self._thread.join(_LAST_STEPS)
            return self.left_behind == 0
        # In this order: the worker says that it gives up before it does.
        return self._has_settled_all and not self._has_given_up

    def abandon(self) -> None:
        """Close the descriptors without a word: for a forked child, whose parent uses them on."""
        if self._connection is not None:
            self._connection.abort()
        self._place.close()

    # The worker's life.

    def _run(self) -> None:
        try:
            log_safely(logging.INFO, "telemetry started: session %s", self._codec.session_id)
            while not self._is_finished:
                try:
                    self._take_a_step()
                except BaseException:  # whatever it is, events are waiting
                    self._log_internal_error()
                    self._wait(self._clock() + _AFTER_AN_ERROR)
        finally:
            self._end()

    def _take_a_step(self) -> None:
        if self._may_connect:
            self._hold_connection()
        else:
            self._stay_away()

    def _log_internal_error(self) -> None:
        log_safely(
            logging.ERROR, "the telemetry worker met an error of its own", with_traceback=True
        )

    @property
    def _has_delivered_all(self) -> bool:
        return self._window.is_empty and not self._store

    @property
    def _has_settled_all(self) -> bool:
        """As far as another thread can see: an event may be on its way from the store."""
        outcome = self.outcome
        settled = outcome.delivered + outcome.discarded + outcome.rejected + self._store.dropped
        return settled >= self._store.pushed

    @property
    def _is_finished(self) -> bool:
        if self._stop_at is None:
            return False
        return self._has_delivered_all or not self._may_connect or self._clock() >= self._stop_at

    @property
    def _may_connect(self) -> bool:
        return self._enabled and self._online and not self._discards

    def _hold_connection(self) -> None:
        """Connect and serve the connection until it ends; then wait before the next attempt."""
        lost = None
        try:
            if self._clock() < self._not_before:
                self._enter(BACKING_OFF)
                self._pause(self._not_before, is_offline=False)
                return
            self._enter(CONNECTING)
            self._connection = self._open()
            self._serve(self._connection)
            if not self._enabled and self._window.awaits_confirmation:
                self._connection.reset()  # the player's no holds for what is in the network, too
            self._connection.close()
        except _InterruptedError:
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
        refused = self._window.connection_lost(lost.close_code if lost else None)
        if refused is not None:
            self._drop_refused(refused, lost)
        if lost is not None:
            self._back_off(lost)

    def _stay_away(self) -> None:
        """Wait, without an attempt, until there may be one again or the worker has to end."""
        self._discard_as_asked()
        if not self._may_connect and not self._is_finished:
            self._enter(OFFLINE if self._enabled else IDLE)
            self._wait(None)

    def _end(self) -> None:
        self._has_given_up = not self._has_delivered_all
        self.left_behind = self._window.discard() + self._store.clear()
        self.outcome.discarded += self.left_behind
        self._enter(STOPPED)
        self._place.close()
        for request in (*self._flushes, *self._discards, *self._stops):
            request.done.release()
        log_safely(
            logging.INFO,
            "telemetry stopped: %d events delivered, %d left behind",
            self.outcome.delivered,
            self.left_behind,
        )

    # An attempt.

    def _open(self) -> Connection:
        settings = self._settings
        endpoint = Endpoint(
            url=settings.url,
            token=self._current_token(),
            headers=settings.headers,
            ssl_context=settings.ssl_context,
            offers_acks=settings.confirm == "auto",
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
            # Its message may hold what it was given, so only its type is told.
            kind = type(error).__name__
        else:
            if fresh is None or is_token(fresh):
                return fresh
            raise ConnectionLost(LostKind.TOKEN, "the token callable returned an invalid token")
        raise ConnectionLost(LostKind.TOKEN, f"the token callable raised {kind}")

    def _wait_to_connect(self, fd: int, events: int, deadline: float) -> None:
        """The waiting that a connect does; see :data:`Wait`."""
        while True:
            # Looked at before each wait: a wake-up can come together with the descriptor.
            if not self._may_connect or self._is_finished:
                raise _InterruptedError
            if self._wait(deadline, fd, events):
                return
            if self._clock() >= deadline:
                raise TimeoutError

    def _back_off(self, lost: ConnectionLost) -> None:
        now = self._clock()
        if lost.retry_after is not None:
            self._not_before = now + min(lost.retry_after, _LONGEST_RETRY_AFTER)
        lost.__traceback__ = lost.__context__ = None  # their frames hold the token
        self.last_lost = lost
        self._state_log.say(
            logging.WARNING, "telemetry is not connected: %s; trying again", str(lost)
        )
        self._enter(OFFLINE if lost.is_offline else BACKING_OFF)
        until = max(now + self._backoff.next_delay(), self._not_before)
        self._pause(until, is_offline=lost.is_offline)

    def _pause(self, until: float, *, is_offline: bool) -> None:
        """Wait before an attempt; not as long if it is the last, or a network is back."""
        was_stopping = self._stop_at is not None
        self._retry_at_once = False
        while self._may_connect and not self._is_finished and self._clock() < until:
            is_last = self._stop_at is not None and not was_stopping
            if is_last or (self._retry_at_once and is_offline):
                until = min(
                    until, self._not_before
                )  # at once, if the server has nothing against it
                was_stopping, is_offline = self._stop_at is not None, False
            elif self._stop_at is not None and self._stop_at <= until:
                self._stop_at = self._clock()  # the attempt would come too late
            else:
                self._wait(until)

    def _drop_refused(self, event: bytes, lost: ConnectionLost | None) -> None:
        self.outcome.discarded += 1
        if self._refusals_log.take():
            log_safely(
                logging.WARNING,
                "an event of type %r is dropped, since the server won't have it: %s",
                self._type_of(event),
                lost,
            )

    def _type_of(self, event: bytes) -> str:
        try:
            return self._codec.from_wire(event).type
        except Exception:  # its data may be nested too deep to be read, or no JSON by msgspec.Raw
            return "?"

    # An open connection.

    def _serve(self, connection: Connection) -> None:
        """Move events over an open connection; returns when it has to be closed from here."""
        exchange = WireSession(
            connection,
            store=self._store,
            codec=self._codec,
            window=self._window,
            outcome=self.outcome,
            settings=self._settings,
            clock=self._clock,
            may_send=lambda: self._may_connect and not self._is_finished,
        )
        self.connections += 1
        self._enter(CONNECTED)
        self._state_log.say(
            logging.INFO, "telemetry connected to %s", self._settings.url.partition("?")[0]
        )
        while True:
            if exchange.take_in():
                self._backoff.reset()
            if not self._may_connect or self._is_finished:
                return
            nudged, self._nudged = self._nudged, False
            exchange.send_out(is_urgent=nudged, is_awaited=self._is_awaited)
            exchange.keep_alive()
            self._wait_for_work(connection, exchange)

    @property
    def _is_awaited(self) -> bool:
        """Whether somebody waits for the store to be drained."""
        is_flushed = any(request.loaded is None for request in tuple(self._flushes))
        return is_flushed or self._stop_at is not None

    def _wait_for_work(self, connection: Connection, exchange: WireSession) -> None:
        events = selectors.EVENT_READ
        if connection.unwritten:
            events |= selectors.EVENT_WRITE
        if exchange.has_work:
            self._wait(self._clock(), connection.fileno(), events)  # a look at what else there is
        else:
            self._wants_wake_up = exchange.wants_wake_up
            self._wait(exchange.next_deadline, connection.fileno(), events)
            self._wants_wake_up = False

    # Shared by all of it.

    def _wait(self, until: float | None, fd: int = -1, events: int = 0) -> bool:
        """Wait for a descriptor, a wake-up, or a time; whether the descriptor is ready."""
        self._settle_flushes()
        self._state_log.catch_up()
        if self._stop_at is not None:
            until = self._stop_at if until is None else min(until, self._stop_at)
        timeout = None if until is None else max(0.0, until - self._clock())
        return self._place.wait(timeout, fd, events)

    def _settle_flushes(self) -> None:
        """Tell the flushes whose events have all gone one way or the other."""
        settled = self._window.loaded - self._window.in_flight
        for request in tuple(self._flushes):
            if request.loaded is None and self._store.departed >= request.up_to:
                request.loaded = self._window.loaded
            if request.loaded is not None and settled >= request.loaded:
                with contextlib.suppress(ValueError):  # whoever waited for it has given up
                    self._flushes.remove(request)
                request.done.release()

    def _discard_as_asked(self) -> None:
        while self._discards:
            up_to = self._discards[0].up_to
            self.outcome.discarded += self._window.discard()
            self.outcome.discarded += len(self._store.drain_numbered(up_to - self._store.departed))
            self._discards.popleft().done.release()

    def _enter(self, state: ConnectionState) -> None:
        if state is self.state:
            return
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
        self.state = state
        if self._settings.on_state_change is not None:
            try:
                self._settings.on_state_change(state)
            except BaseException:  # whatever it raises, the worker lives on
                log_safely(logging.ERROR, "on_state_change failed", with_traceback=True)
