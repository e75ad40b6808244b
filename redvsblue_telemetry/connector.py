"""The worker: connects, drains, sends, confirms, reconnects.

Theory of operation
-------------------

One daemon thread runs :meth:`TelemetryConnector._run`. Its connection goes through these states;
``TRANSITIONS`` below is the same as a table::

             ┌──────────────── toggled off ◀──────────────┐
             ▼                                             │
    ┌────▶ IDLE ──▶ CONNECTING ── handshake ──▶ CONNECTED ─┤
    │                ▲      │                      │       │
    │                │      └── failed ──┬── lost ─┘       │
    │                │                  ▼                  │
    │                └── delay over ── BACKING_OFF         │
    │                └── delay over ── OFFLINE ◀───────────┘ no network, set_online(False)
    └ toggled off: from everywhere.     STOPPED: from everywhere.

The thread waits in one place, :meth:`_wait`: a selector on the socket and on a wake-up socket.
So whatever happens wakes it at once, and nothing polls. What other threads want of it, they
write down in an attribute of their own and wake it; it looks at them only between waits.

While connected, events are taken from the store when the drain interval is over, when the store
passes its high-water mark, and when somebody flushes; and then all of them, batch after batch,
as far as the window and the socket have room. The socket never blocks, and after a few batches it
is written to, which gives up the GIL: the game gets its turn.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

import attrs
import msgspec

from .backoff import Backoff
from .delivery import DeliveryWindow, InvalidConfirmationError
from .events import EventCodec
from .settings import TelemetrySettings, is_token
from .states import ConnectionState
from .store import TelemetryStore
from .transport import (
    Connection,
    ConnectionLost,
    Endpoint,
    Received,
    Wait,
    default_ssl_context,
    open_websocket,
)

__all__ = ["TelemetryConnector"]

logger = logging.getLogger("redvsblue_telemetry")

IDLE, CONNECTING, CONNECTED, BACKING_OFF, OFFLINE, STOPPED = ConnectionState

TRANSITIONS: dict[ConnectionState, frozenset[ConnectionState]] = {
    IDLE: frozenset({CONNECTING, OFFLINE, STOPPED}),
    CONNECTING: frozenset({CONNECTED, BACKING_OFF, OFFLINE, IDLE, STOPPED}),
    CONNECTED: frozenset({BACKING_OFF, OFFLINE, IDLE, STOPPED}),
    BACKING_OFF: frozenset({CONNECTING, OFFLINE, IDLE, STOPPED}),
    OFFLINE: frozenset({CONNECTING, IDLE, STOPPED}),
    STOPPED: frozenset(),
}

_WINDOW_BATCHES = 512
_WINDOW_BYTES = 4 * 1024 * 1024
_UNWRITTEN_BYTES = 256 * 1024  # with so much in hand that the socket won't take, no more is sent
_BATCHES_A_TURN = 8  # sent between two writes to the socket
_KEEPALIVE = b"keepalive"
_LONGEST_RETRY_AFTER = 3600.0  # seconds; a server that asks for more gets this
_STOP_MARGIN = 0.1  # the part of a stop's timeout that is left for the worker to end in

Connect = Callable[[Endpoint, Wait, float], Connection]


class _InterruptedError(Exception):
    """The reason for waiting is gone: stop, the toggle, or the network's state."""


@attrs.define(eq=False)
class _Request:
    """Something that a caller wants done with the events up to a number, and waits for."""

    up_to: int
    loaded: int | None = None
    """How many events the window had been given when the last of them left the store."""
    done: threading.Event = attrs.field(factory=threading.Event)


class _WakeUp:
    """Wakes the worker from its wait. ``set`` may be called from anywhere, at any time."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def fileno(self) -> int:
        return self._receiver.fileno()

    def set(self) -> None:
        # A full buffer wakes just as well, and a closed socket has nobody left to wake.
        with contextlib.suppress(OSError):
            self._sender.send(b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._receiver.recv(4096):
                pass

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()


class TelemetryConnector:
    """Delivers what is in a store to a server, on a daemon thread of its own.

    The methods may be called from any thread. Attributes without a comment are the worker's own.

    Args:
        store: where the events come from: bodies, as ``codec`` makes them.
        codec: seals the bodies.
        settings: see :class:`TelemetrySettings`.
        connect: opens a connection.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        store: TelemetryStore[bytes],
        codec: EventCodec,
        settings: TelemetrySettings,
        *,
        connect: Connect = open_websocket,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._codec = codec
        self._settings = settings
        self._connect = connect
        self._clock = clock
        self._backoff = Backoff(settings.backoff_base, settings.backoff_max)
        self._window = DeliveryWindow(
            max_batches=_WINDOW_BATCHES,
            max_bytes=_WINDOW_BYTES,
            max_batch_bytes=settings.max_batch_bytes,
            confirm_timeout=settings.confirm_timeout,
        )
        self._thread = threading.Thread(target=self._run, name="redvsblue-telemetry", daemon=True)
        self._wake_up = _WakeUp()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_up.fileno(), selectors.EVENT_READ)

        # Written by callers, read by the worker:
        self._enabled = True
        self._online = True
        self._stop_at: float | None = None
        self._flushes: deque[_Request] = deque()
        self._discards: deque[_Request] = deque()
        self._nudged = False
        self._retry_at_once = False
        self._wants_wake_up = False  # the worker sets it before a wait; whoever wakes it clears it

        self._connection: Connection | None = None
        self._draining = False
        self._drain_at = 0.0
        self._heard_at = 0.0
        self._asked_at: float | None = None  # when a keepalive went out that is unanswered
        self._failure: str | None = None  # what was logged last of connections that fail

        # Written by the worker, read by callers:
        self.state = IDLE
        self.delivered = 0
        self.discarded = 0
        self.rejected = 0
        self.connections = 0
        self.left_behind = 0
        self.last_error: str | None = None

    # What callers ask for.

    def start(self) -> None:
        """Start the worker."""
        url = urlsplit(self._settings.url)
        if url.scheme == "wss" and self._settings.ssl_context is None:
            default_ssl_context()  # slow the first time, so not while frames are drawn
        if url.scheme == "ws" and self._settings.token and not _is_loopback(url.hostname or ""):
            logger.warning(
                "the token goes to %s unencrypted: use wss:// for hosts other than this one",
                url.hostname,
            )
        self._thread.start()

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
            self._wake_up.set()

    def flush(self, timeout: float) -> bool:
        """Wait until all that is in the store or in flight now is confirmed, or gone otherwise."""
        request = _Request(self._store.pushed)
        self._flushes.append(request)
        return self._wait_for(request, timeout)

    def discard(self, timeout: float) -> bool:
        """Close the connection and discard all that is in the store or in flight now."""
        request = _Request(self._store.pushed)
        self._discards.append(request)
        return self._wait_for(request, timeout)

    def set_enabled(self, enabled: bool) -> None:
        """Connect, or stay away."""
        self._enabled = enabled
        self._wake_up.set()

    def set_online(self, online: bool) -> None:
        """There is a network, or there is none: then no attempt is made."""
        self._online = online
        self._retry_at_once = online
        self._wake_up.set()

    def stop(self, timeout: float) -> bool:
        """Deliver what there is, end the worker; whether all that there was is confirmed.

        Returns within the timeout (seconds), also when the worker hangs in a name look-up.
        """
        deadline = self._clock() + timeout * (1 - _STOP_MARGIN)
        if self._stop_at is None or deadline < self._stop_at:
            self._stop_at = deadline
        self._wake_up.set()
        if threading.current_thread() is self._thread:
            return False
        self._thread.join(timeout)
        return not self._thread.is_alive() and self.left_behind == 0

    def abandon(self) -> None:
        """Close the descriptors without a word: for a forked child, whose parent uses them on."""
        if self._connection is not None:
            self._connection.abort()
        self._selector.close()
        self._wake_up.close()

    def _wait_for(self, request: _Request, timeout: float) -> bool:
        if threading.current_thread() is self._thread:
            return False  # a callback that waits for its own thread waits for ever
        self._wake_up.set()
        return request.done.wait(timeout)

    # The worker's thread.

    def _run(self) -> None:
        logger.info("telemetry started: session %s", self._codec.session_id)
        try:
            while not self._is_finished():
                if self._may_connect():
                    self._hold_connection()
                else:
                    self._stay_away()
        finally:
            self._end()

    def _is_finished(self) -> bool:
        if self._stop_at is None:
            return False
        has_nothing_to_do = self._window.is_empty and not self._store
        return has_nothing_to_do or not self._may_connect() or self._clock() >= self._stop_at

    def _may_connect(self) -> bool:
        return self._enabled and self._online and not self._discards

    def _hold_connection(self) -> None:
        """Connect and serve the connection until it ends; then wait before the next attempt."""
        lost = None
        try:
            self._enter(CONNECTING)
            self._connection = self._open()
            self._serve(self._connection)
            if not self._discards:
                self._connection.close()
        except _InterruptedError:
            pass
        except ConnectionLost as error:
            lost = error
        except Exception as error:
            logger.exception("the telemetry worker met an error of its own")
            lost = ConnectionLost(f"{type(error).__name__} in the worker")
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
        if not self._may_connect() and not self._is_finished():
            self._enter(OFFLINE if self._enabled else IDLE)
            self._wait(None)

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
        except Exception as error:
            # Its message may hold what it was given, so only its type is told.
            raise ConnectionLost(f"the token callable failed: {type(error).__name__}") from None
        if fresh is not None and not is_token(fresh):
            raise ConnectionLost("the token callable returned what can't be a token")
        return fresh

    def _wait_to_connect(self, fd: int, events: int, deadline: float) -> None:
        """The waiting that a connect does; see :data:`Wait`."""
        while not self._wait(deadline, fd, events):
            if not self._may_connect() or self._is_finished():
                raise _InterruptedError
            if self._clock() >= deadline:
                raise TimeoutError

    def _back_off(self, lost: ConnectionLost) -> None:
        delay = self._backoff.next_delay()
        if lost.retry_after is not None:
            delay = max(delay, min(lost.retry_after, _LONGEST_RETRY_AFTER))
        self._report(lost)
        self._enter(OFFLINE if lost.is_offline else BACKING_OFF)
        deadline = self._clock() + delay
        was_stopping = self._stop_at is not None
        self._retry_at_once = False
        while self._may_connect() and not self._is_finished() and self._clock() < deadline:
            self._wait(deadline)
            if self._stop_at is not None and not was_stopping:
                return  # one attempt at once, to part with what there is
            if self._retry_at_once and lost.is_offline:
                return

    def _report(self, lost: ConnectionLost) -> None:
        reason = str(lost)
        self.last_error = reason
        if reason != self._failure:  # one line a change, not one an attempt
            self._failure = reason
            logger.warning("telemetry is not connected: %s; trying again", reason)

    def _drop_refused(self, event: bytes, lost: ConnectionLost | None) -> None:
        self.discarded += 1
        logger.warning(
            "an event of type %r is dropped: %s because of it",
            self._codec.unseal(event).type,
            lost,
        )

    def _end(self) -> None:
        self.left_behind = self._window.discard() + self._store.clear()
        self.discarded += self.left_behind
        for request in (*self._flushes, *self._discards):
            request.done.set()
        self._enter(STOPPED)
        self._selector.close()
        self._wake_up.close()
        logger.info(
            "telemetry stopped: %d events delivered, %d left behind",
            self.delivered,
            self.left_behind,
        )

    # A connection's life.

    def _serve(self, connection: Connection) -> None:
        """Move events over an open connection; returns when it has to be closed from here."""
        self.connections += 1
        self._failure = None
        self._enter(CONNECTED)
        logger.info("telemetry connected to %s", self._settings.url.partition("?")[0])
        self._drain_at = self._heard_at = self._clock()
        self._asked_at = None
        while True:
            self._take_in(connection)
            if not self._may_connect() or self._is_finished():
                return
            self._send_out(connection)
            self._keep_alive(connection)
            self._wait_for_work(connection)

    def _take_in(self, connection: Connection) -> None:
        received = connection.receive()
        if received:
            self._heard_at = self._clock()
            self._asked_at = None
        for frame in received:
            if (number := _confirmation(frame, connection.has_acks)) is not None:
                self._confirm(number, is_pong=frame.is_pong)

    def _confirm(self, number: int, *, is_pong: bool) -> None:
        try:
            delivered = self._window.confirm(number, self._clock())
        except InvalidConfirmationError as error:
            if is_pong:
                return  # pongs may come unasked (RFC 6455, section 5.5.3), and late ones go back
            raise ConnectionLost(f"the server's ack makes no sense: {error}") from None
        if delivered:
            self.delivered += delivered
            self._backoff.reset()

    def _send_out(self, connection: Connection) -> None:
        """Send as many batches as one turn may, if it is time to."""
        self._draining = self._is_time_to_drain()
        for _ in range(_BATCHES_A_TURN):
            if connection.unwritten > _UNWRITTEN_BYTES:
                break
            batch = self._window.next_unsent()
            if batch is None and self._draining and self._window.has_room:
                self._load()
                batch = self._window.next_unsent()
            if batch is None:
                break
            connection.send(self._message(batch.events))
            number = self._window.mark_sent(self._clock())
            if self._settings.confirm == "auto" and not connection.has_acks:
                connection.ping(b"%d" % number)
        connection.flush()
        if self._settings.confirm == "none" and not connection.unwritten:
            self._confirm(self._window.last_sent, is_pong=False)

    def _is_time_to_drain(self) -> bool:
        now = self._clock()
        is_asked_for = (
            self._draining
            or self._nudged
            or self._stop_at is not None
            or any(request.loaded is None for request in tuple(self._flushes))
        )
        self._nudged = False
        if now >= self._drain_at or is_asked_for:
            if self._store:
                return True
            self._drain_at = now + self._settings.drain_interval
        return False

    def _load(self) -> None:
        """Take the next events from the store into the window."""
        taken = self._store.drain_numbered(self._settings.batch_size)
        if len(taken) < self._settings.batch_size:  # that was all there is
            self._draining = False
            self._drain_at = self._clock() + self._settings.drain_interval
        seal = self._codec.seal
        if self._settings.before_send is None:
            self._window.load([seal(body, number) for body, number in taken])
        else:
            reviewed = [self._reviewed(seal(body, number), number) for body, number in taken]
            self._window.load([event for event in reviewed if event is not None])

    def _reviewed(self, sealed: bytes, number: int) -> bytes | None:
        """What ``before_send`` makes of an event; None if it isn't to be sent."""
        assert self._settings.before_send is not None
        try:
            event = self._settings.before_send(self._codec.unseal(sealed))
            if event is not None:
                return self._codec.seal(self._codec.encode_event(event), number)
        except Exception:
            self.rejected += 1
            if self.rejected == 1:  # the rest are counted, not told: it runs for every event
                logger.exception("before_send failed; events at which it fails are rejected")
        else:
            self.discarded += 1
        return None

    def _message(self, events: tuple[bytes, ...]) -> bytes:
        if self._settings.wire_format == "ndjson":
            return b"\n".join(events) + b"\n"
        return b"[" + b",".join(events) + b"]"

    def _keep_alive(self, connection: Connection) -> None:
        """Give a dead connection up, and find out about one that is silent."""
        if self._settings.confirm == "none":
            return
        now = self._clock()
        overdue_at = self._window.overdue_at
        if overdue_at is not None and now >= overdue_at:
            raise ConnectionLost(f"nothing confirmed for {self._settings.confirm_timeout:g} s")
        if self._asked_at is None:
            if now >= self._heard_at + self._settings.keepalive_interval:
                self._asked_at = now
                connection.ping(_KEEPALIVE)
                connection.flush()
        elif now >= self._asked_at + self._settings.confirm_timeout:
            raise ConnectionLost("the server is silent")

    def _wait_for_work(self, connection: Connection) -> None:
        events = selectors.EVENT_READ
        if connection.unwritten:
            events |= selectors.EVENT_WRITE
        if connection.has_more or self._can_send(connection):
            until: float | None = self._clock()  # only a look at what else there is
        else:
            until = self._next_deadline()
            self._wants_wake_up = self._window.has_room and not self._draining
        self._wait(until, connection.fileno(), events)
        self._wants_wake_up = False

    def _can_send(self, connection: Connection) -> bool:
        if connection.unwritten > _UNWRITTEN_BYTES:
            return False
        can_load = self._draining and self._window.has_room
        return can_load or self._window.next_unsent() is not None

    def _next_deadline(self) -> float | None:
        """When something is due though nothing happens."""
        settings = self._settings
        deadlines = []
        if not self._draining:
            deadlines.append(self._drain_at)
        if settings.confirm != "none":
            if self._asked_at is None:
                deadlines.append(self._heard_at + settings.keepalive_interval)
            else:
                deadlines.append(self._asked_at + settings.confirm_timeout)
            if (overdue_at := self._window.overdue_at) is not None:
                deadlines.append(overdue_at)
        return min(deadlines, default=None)

    # Shared by all of it.

    def _wait(self, until: float | None, fd: int = -1, events: int = 0) -> bool:
        """The one place where the worker waits: for a descriptor, a wake-up, or a time.

        Returns whether the descriptor is ready.
        """
        self._settle_flushes()
        if self._stop_at is not None:
            until = self._stop_at if until is None else min(until, self._stop_at)
        timeout = None if until is None else max(0.0, until - self._clock())
        if fd >= 0:
            self._selector.register(fd, events)
        try:
            ready = self._selector.select(timeout)
        finally:
            if fd >= 0:
                self._selector.unregister(fd)
        is_ready = False
        for key, _ in ready:
            if key.fd == fd:
                is_ready = True
            else:
                self._wake_up.clear()
        return is_ready

    def _settle_flushes(self) -> None:
        """Tell the flushes whose events have all gone one way or the other."""
        settled = self._window.loaded - self._window.in_flight
        for request in tuple(self._flushes):
            if request.loaded is None and self._store.departed >= request.up_to:
                request.loaded = self._window.loaded
            if request.loaded is not None and settled >= request.loaded:
                self._flushes.remove(request)
                request.done.set()

    def _discard_as_asked(self) -> None:
        while self._discards:
            request = self._discards[0]
            self.discarded += self._window.discard()
            self.discarded += len(self._store.drain_numbered(request.up_to - self._store.departed))
            request.done.set()
            self._discards.popleft()

    def _enter(self, state: ConnectionState) -> None:
        if state is self.state:
            return
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
        self.state = state
        if self._settings.on_state_change is not None:
            try:
                self._settings.on_state_change(state)
            except Exception:
                logger.exception("on_state_change failed")


def _confirmation(frame: Received, has_acks: bool) -> int | None:
    """The number that a frame confirms, or None if it says nothing about delivery.

    Raises:
        ConnectionLost: it should be an ack and is none.
    """
    if frame.is_pong:
        return int(frame.payload) if not has_acks and frame.payload.isdigit() else None
    if not has_acks:
        return None
    try:
        return msgspec.json.decode(frame.payload, type=_Ack).ack
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ConnectionLost("the server's ack makes no sense: it is no ack at all") from None


class _Ack(msgspec.Struct):
    ack: int


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
