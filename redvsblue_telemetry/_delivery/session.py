"""What goes over one open connection: events out, proof of their receipt in.

Events are taken from the store when the drain interval is over, when the store passes its
high-water mark, and when somebody flushes; and then all of them, batch after batch, as far as the
window and the socket have room. So the interval is the longest that an event waits, and no limit
on how many go. Meanwhile the worker lets the game have its turns (:mod:`.turns`), unless somebody
waits for a flush or a stop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from .._network.contract import Connection, ConnectionLost, Frame, FrameKind, LostKind
from .._recording.codec import EncodedEvent, EventCodec
from .._recording.store import TelemetryStore
from ..settings import TelemetrySettings
from .log import log_safely
from .pacing import TimeSlice
from .window import Batch, DeliveryWindow, InvalidConfirmationError

__all__ = ["Outcome", "WireSession"]

_UNWRITTEN_BYTES = 256 * 1024  # with so much in hand that the socket won't take, no more is sent
_STEPS_A_TURN = 16  # batches loaded or sent between two looks at what has come in
_WRITE_BYTES = 64 * 1024  # written at once while somebody waits for it
_KEEPALIVE = b"keepalive"
_LONGEST_NUMBER = 19  # digits; of a longer one, int() may even fail


class Outcome(msgspec.Struct):
    """What became of the events that left the store. Written by the worker, read by anybody."""

    delivered: int = 0
    discarded: int = 0
    """Not to be sent: by ``before_send``, the toggle, the server's refusal, or the end."""
    rejected: int = 0
    """At these, ``before_send`` failed."""


class WireSession:
    """Moves events over one open connection. Used by the worker thread alone.

    Args:
        connection: open.
        store: where events come from.
        codec: seals them.
        window: keeps them until they are confirmed.
        outcome: counts them.
        settings: see :class:`TelemetrySettings`.
        clock: seconds that only go forward.
        may_send: asked before each batch: ``before_send`` may take its time, and the player may
            say no meanwhile.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        store: TelemetryStore[EncodedEvent],
        codec: EventCodec,
        window: DeliveryWindow,
        outcome: Outcome,
        settings: TelemetrySettings,
        clock: Callable[[], float],
        may_send: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._store = store
        self._codec = codec
        self._window = window
        self._outcome = outcome
        self._settings = settings
        self._clock = clock
        self._may_send = may_send
        self._turn = TimeSlice(clock)
        self._is_draining = False
        self._drain_at = self._heard_at = clock()
        self._asked_at: float | None = None  # when a keepalive went out that is unanswered
        self._has_proof = settings.confirm == "auto"

    def take_in(self) -> int:
        """Read what has arrived; returns how many events it proves to be delivered.

        Raises:
            ConnectionLost: the connection is gone, or the server talks nonsense.
        """
        self._begin_turn()
        delivered = 0
        received = self._connection.receive()
        if received:
            self._heard_at = self._clock()
            self._asked_at = None
        for frame in received:
            number = _confirmation(frame, has_acks=self._connection.has_acks)
            if number is not None:
                delivered += self._confirm(number, is_pong=frame.kind is FrameKind.PONG)
        if not self._has_proof and not self._connection.unwritten:
            delivered += self._confirm(self._window.last_sent, is_pong=False)
        return delivered

    def _confirm(self, number: int, *, is_pong: bool) -> int:
        try:
            delivered = self._window.confirm(number, self._clock())
        except InvalidConfirmationError as error:
            if is_pong:
                return 0  # pongs may come unasked (RFC 6455, section 5.5.3), and repeat themselves
            message = f"malformed ack from the server: {error}"
            raise ConnectionLost(LostKind.PROTOCOL, message) from None
        self._outcome.delivered += delivered
        return delivered

    def send_out(self, *, is_urgent: bool, is_awaited: bool) -> None:
        """Send as many batches as one turn may, if it is time to.

        Args:
            is_urgent: it is time, whatever the interval says.
            is_awaited: somebody waits for it, and would rather it were done than be disturbed less.
        """
        self._is_draining = self._is_time_to_drain(is_urgent=is_urgent or is_awaited)
        for _ in range(_STEPS_A_TURN):
            if not (self._can_send and self._may_send()):
                break
            if self._turn.is_over:
                self._let_go(is_awaited=is_awaited)
            batch = self._window.next_unsent()
            if batch is None:
                self._load()
            else:
                self._send(batch)
        else:
            self._let_go(is_awaited=is_awaited)
        self._connection.flush()

    def _let_go(self, *, is_awaited: bool) -> None:
        """Write what there is, and let the game have its turn, unless it waits for the worker."""
        if not is_awaited:
            self._turn.yield_gil(self._connection.flush)
            self._begin_turn()
        elif self._connection.unwritten >= _WRITE_BYTES:
            self._connection.flush()

    def _begin_turn(self) -> None:
        self._turn.begin(len(self._store) / self._store.high_water)

    def _send(self, batch: Batch) -> None:
        self._connection.send(self._message(batch.events))
        number = self._window.mark_sent(self._clock())
        if self._has_proof and not self._connection.has_acks:
            self._connection.ping(b"%d" % number)

    @property
    def has_work(self) -> bool:
        """Whether something can be done at once, without waiting for anybody."""
        return self._connection.has_more or self._can_send

    @property
    def _can_send(self) -> bool:
        if self._connection.unwritten > _UNWRITTEN_BYTES:
            return False
        can_load = self._is_draining and self._window.has_room
        return can_load or self._window.next_unsent() is not None

    @property
    def wants_wake_up(self) -> bool:
        """Whether a store that fills should wake the worker: it could take events and isn't."""
        return self._window.has_room and not self._is_draining

    def _is_time_to_drain(self, *, is_urgent: bool) -> bool:
        now = self._clock()
        if not (self._is_draining or is_urgent or now >= self._drain_at):
            return False
        if not self._store:
            self._drain_at = now + self._settings.drain_interval
        return bool(self._store)

    def _load(self) -> None:
        """Take the next events from the store into the window."""
        taken = self._store.drain_numbered(self._settings.batch_size)
        if len(taken) < self._settings.batch_size:  # that was all there is
            self._is_draining = False
            self._drain_at = self._clock() + self._settings.drain_interval
        if self._settings.before_send is None:
            self._window.load(self._codec.to_wire_many(taken))
        else:
            to_wire = self._codec.to_wire
            reviewed = [self._reviewed(to_wire(body, number), number) for body, number in taken]
            self._window.load([event for event in reviewed if event is not None])

    def _reviewed(self, sealed: bytes, number: int) -> bytes | None:
        """What ``before_send`` makes of an event; None if it isn't to be sent."""
        assert self._settings.before_send is not None
        try:
            event = self._settings.before_send(self._codec.from_wire(sealed))
            if event is not None:
                return self._codec.to_wire(self._codec.encode_event(event), number)
        except BaseException:  # whatever it raises, the worker lives on
            self._outcome.rejected += 1
            if self._outcome.rejected == 1:  # it runs for every event: the rest are only counted
                log_safely(
                    logging.ERROR,
                    "before_send failed; the events at which it fails are rejected",
                    with_traceback=True,
                )
        else:
            self._outcome.discarded += 1
        return None

    def _message(self, events: tuple[bytes, ...]) -> bytes:
        if self._settings.wire_format == "ndjson":
            return b"\n".join(events) + b"\n"
        return b"[" + b",".join(events) + b"]"

    def keep_alive(self) -> None:
        """Ask a server that has long been silent for a word.

        Raises:
            ConnectionLost: what should have been answered by now is not.
        """
        if not self._has_proof:
            return
        now = self._clock()
        overdue_at = self._window.overdue_at
        if overdue_at is not None and now >= overdue_at:
            message = f"nothing confirmed for {self._settings.confirm_timeout:g} s"
            raise ConnectionLost(LostKind.UNCONFIRMED, message)
        if self._asked_at is None:
            if now >= self._heard_at + self._settings.keepalive_interval:
                self._asked_at = now
                self._connection.ping(_KEEPALIVE)
                self._connection.flush()
        elif now >= self._asked_at + self._settings.confirm_timeout:
            raise ConnectionLost(LostKind.SILENT, "the server is silent")

    @property
    def next_deadline(self) -> float | None:
        """When something is due though nothing happens."""
        settings = self._settings
        deadlines = []
        if not self._is_draining:
            deadlines.append(self._drain_at)
        if self._has_proof:
            if self._asked_at is None:
                deadlines.append(self._heard_at + settings.keepalive_interval)
            else:
                deadlines.append(self._asked_at + settings.confirm_timeout)
            if (overdue_at := self._window.overdue_at) is not None:
                deadlines.append(overdue_at)
        return min(deadlines, default=None)


def _confirmation(frame: Frame, *, has_acks: bool) -> int | None:
    """The number that a frame confirms, or None if it says nothing about delivery.

    Raises:
        ConnectionLost: it should be an ack and is none.
    """
    if frame.kind is FrameKind.PONG:
        is_number = frame.payload.isdigit() and len(frame.payload) <= _LONGEST_NUMBER
        return int(frame.payload) if is_number and not has_acks else None
    if not has_acks:
        return None
    if frame.kind is FrameKind.BINARY:
        message = "malformed ack from the server: a binary message"
        raise ConnectionLost(LostKind.PROTOCOL, message)
    try:
        return msgspec.json.decode(frame.payload, type=_Ack).ack
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ConnectionLost(LostKind.PROTOCOL, "malformed ack from the server") from None


class _Ack(msgspec.Struct):
    ack: int
