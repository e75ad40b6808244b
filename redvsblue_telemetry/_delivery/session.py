"""One open connection: events out, confirmations in.

Events are taken from the store when the drain interval is over, when the store passes its
high-water mark, and when a caller flushes. Then all of them are taken, batch after batch, as long
as the window and the socket have room. So the interval bounds how long an event waits, not how
many are sent. When there are none, those of earlier runs are taken. In between the worker yields to
the game (:mod:`.pacing`), unless a caller waits for a flush or a stop.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from .._network.contract import Connection, ConnectionLost, Frame, FrameKind, LostKind
from .._recording.codec import EncodedEvent, EventCodec, ForwardedEvent
from .._recording.ledger import DropReason, Ledger
from .._recording.store import Store
from ..settings import TelemetrySettings
from .adoption import Adoption
from .gaps import FORWARDED, REJECTED, GapLog
from .keepalive import Keepalive
from .log import log_safely
from .pacing import TimeSlice
from .report import Reporter
from .settlement import Settlement
from .window import Batch, DeliveryWindow, InvalidConfirmationError

__all__ = ["WireSession"]

_MAX_UNWRITTEN_BYTES = 256 * 1024  # while the socket owes more than this, nothing is sent
_STEPS_PER_TURN = 16  # batches loaded or sent between two calls of `receive`
_WRITE_BYTES = 64 * 1024  # written at once while a caller waits
_KEEPALIVE = b"keepalive"
_RESETS = (None, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE)  # None: a mere end
_GOING_AWAY = (1001, 1006)  # close codes of proxies that speak WebSocket
_MAX_DIGITS = 19  # of a batch number; int() raises for a few thousand digits


class WireSession:
    """Moves events over one open connection. Used by the worker thread alone.

    Args:
        connection: an open connection.
        store: the events to send.
        take: takes at most so many of them from the store, with their numbers.
        codec: completes them.
        window: keeps them until they are confirmed.
        settlement: notifies their sources when they are settled.
        adoption: has events of earlier runs.
        ledger: counts them.
        gaps: explains the numbers that are not sent.
        reporter: writes reports; None if the server gets none.
        keepalive: knows when to send a ping.
        settings: see :class:`TelemetrySettings`.
        clock: returns monotonic seconds.
        pack: compresses a message, or returns None for one to be sent as text.
        may_send: called before each batch, because ``before_send`` may take long and the player
            may switch telemetry off meanwhile.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        store: Store[EncodedEvent],
        take: Callable[[int], list[tuple[EncodedEvent, int]]],
        codec: EventCodec,
        window: DeliveryWindow,
        settlement: Settlement,
        adoption: Adoption,
        ledger: Ledger,
        gaps: GapLog,
        reporter: Reporter | None,
        keepalive: Keepalive,
        settings: TelemetrySettings,
        clock: Callable[[], float],
        pack: Callable[[bytes], bytes | None],
        may_send: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._store = store
        self._take = take
        self._codec = codec
        self._window = window
        self._settlement = settlement
        self._adoption = adoption
        self._ledger = ledger
        self._gaps = gaps
        self._reporter = reporter
        self._keepalive = keepalive
        self._settings = settings
        self._clock = clock
        self._pack = pack
        self._may_send = may_send
        self._turn = TimeSlice(clock)
        self.was_fruitful = True
        """Whether anything was received or sent since the last call of :meth:`receive`."""
        self._is_draining = False
        self._drain_at = self._heard_at = clock()
        self._asked_at: float | None = None  # when the unanswered keepalive was sent
        self._has_proof = settings.confirm != "none"
        self._unconfirmed_reports = 0
        if reporter is not None:
            reporter.ask()

    def receive(self) -> int:
        """Read the frames that have arrived; return for how many events they mean progress.

        That is to be stored, or confirmed.

        Raises:
            ConnectionLost: the connection is gone, or the server broke the protocol.
        """
        self._begin_turn()
        progress = 0
        received = self._connection.receive()
        self.was_fruitful = bool(received)
        if received:
            self._heard_at = self._clock()
            self._asked_at = None
        for frame in received:
            if frame.kind is not FrameKind.PONG:
                progress += self._take_ack(frame)
            elif not self._connection.has_acks and (number := _number(frame)) is not None:
                progress += self._confirm(number, is_pong=True)
        if not self._has_proof and not self._connection.unwritten:
            progress += self._confirm(self._window.last_sent, is_pong=False)
        return progress

    def _take_ack(self, frame: Frame) -> int:
        """Take what may be an ack; return for how many events it means progress."""
        if not self._connection.has_acks:
            return 0
        if not self._connection.has_archived_acks:
            return self._confirm(_decoded(frame, _decode_ack).ack, is_pong=False)
        ack = _decoded(frame, _decode_archived_ack)
        return self._confirm(ack.ack, is_pong=False, stored=ack.stored)

    def _confirm(self, number: int, *, is_pong: bool, stored: int | None = None) -> int:
        now, progress = self._clock(), 0
        try:
            if stored is not None:
                progress = self._window.mark_stored(stored, now)
            delivered = self._window.confirm(number, now)
        except InvalidConfirmationError as error:
            if is_pong:
                return 0  # pongs may be unsolicited (RFC 6455, section 5.5.3) or repeated
            message = f"malformed ack from the server: {error}"
            raise ConnectionLost(LostKind.PROTOCOL, message) from None
        self._ledger.deliver(delivered)
        return progress + delivered

    def send(self, *, is_urgent: bool, is_awaited: bool) -> None:
        """Send at most as many batches as one turn allows, if it is time to.

        Args:
            is_urgent: don't wait for the drain interval.
            is_awaited: a caller waits for it, so be quick rather than considerate.
        """
        self._is_draining = self._is_time_to_drain(is_urgent=is_urgent or is_awaited)
        self._report_changes()
        for _ in range(_STEPS_PER_TURN):
            if not (self._can_send and self._may_send()):
                break
            if self._turn.is_over:
                self._yield(is_awaited=is_awaited)
            self.was_fruitful = True
            batch = self._window.next_unsent()
            if batch is not None:
                self._send_batch(batch)
            elif self._is_draining:
                self._load()
            else:
                self._load_adopted()
        else:
            self._yield(is_awaited=is_awaited)
        unwritten = self._connection.unwritten
        self._connection.flush()
        self.was_fruitful |= self._connection.unwritten < unwritten

    def _yield(self, *, is_awaited: bool) -> None:
        """Write, and let the game have its turn, unless it waits for the worker."""
        if not is_awaited:
            self._turn.yield_gil(self._connection.flush)
            self._begin_turn()
        elif self._connection.unwritten >= _WRITE_BYTES:
            self._connection.flush()

    def _begin_turn(self) -> None:
        self._turn.begin(len(self._store) / self._store.high_water)

    def _send_batch(self, batch: Batch) -> None:
        text = self._message(batch.events)
        payload, is_packed = self._packed(text, has_been_refused=bool(batch.refusals))
        # A large batch takes milliseconds, in which the player may have switched telemetry off.
        if self._may_send():
            self._connection.send(payload, is_binary=is_packed)
            self._ask_for_pong(self._window.mark_sent(self._clock()))

    def _packed(self, text: bytes, *, has_been_refused: bool) -> tuple[bytes, bool]:
        """Return a message as it is sent, and whether it is compressed.

        One that was refused is a text: a server may pick an encoding that it can't read, and must
        not lose its events for it.
        """
        packed = None if has_been_refused else self._pack(text)
        return (text, False) if packed is None else (packed, True)

    def _ask_for_pong(self, number: int) -> None:
        if self._has_proof and not self._connection.has_acks:
            self._connection.ping(b"%d" % number)

    def _report_changes(self) -> None:
        """Send a report if it is time to. The first one of a connection goes before all events."""
        if self._may_report and self._reporter is not None:
            self._reporter.look()
            if self._reporter.is_due and self._may_send():
                self.report()
        while self._may_report_earlier_run and self._may_send():
            if (reported := self._adoption.next_report()) is None:
                break
            message, confirmed = reported
            self.was_fruitful = True
            self._send_report(message, confirmed, source=confirmed)

    @property
    def _may_report_earlier_run(self) -> bool:
        is_possible = self._adoption.has_report and self._window.may_report
        return is_possible and self._connection.unwritten <= _MAX_UNWRITTEN_BYTES

    @property
    def _may_report(self) -> bool:
        is_possible = self._reporter is not None and self._window.may_report
        return is_possible and self._connection.unwritten <= _MAX_UNWRITTEN_BYTES

    def report(self, reason: str | None = None) -> bool:
        """Send a report of this run, if the server takes it; return whether it does.

        Args:
            reason: how the session has ended; None while it runs.
        """
        if self._reporter is None or not self._window.may_report:
            return False
        self._unconfirmed_reports += 1
        self.was_fruitful = True
        self._send_report(self._reporter.write(reason), self._note_confirmed_report)
        return True

    def _note_confirmed_report(self) -> None:
        self._unconfirmed_reports -= 1

    @property
    def has_unconfirmed_report(self) -> bool:
        """Whether a report of this run was sent and is not confirmed yet."""
        return self._unconfirmed_reports > 0

    def _send_report(
        self, message: bytes, confirmed: Callable[[], object], source: object = None
    ) -> None:
        end = b"\n" if self._settings.wire_format == "ndjson" else b""
        has_been_refused = self._window.has_refused_report(source)
        payload, is_packed = self._packed(message + end, has_been_refused=has_been_refused)
        self._connection.send(payload, is_binary=is_packed)
        self._ask_for_pong(self._window.mark_report_sent(self._clock(), confirmed, source))

    @property
    def has_work(self) -> bool:
        """Whether there is something to read or send without waiting."""
        return self._connection.has_more or self._can_send or self._may_report_earlier_run

    @property
    def _can_send(self) -> bool:
        if self._connection.unwritten > _MAX_UNWRITTEN_BYTES:
            return False
        if self._is_draining:
            can_load = self._window.has_room
        else:  # new events never wait long for room
            can_load = self._window.is_half_empty and self._adoption.may_load
        return can_load or self._window.next_unsent() is not None

    @property
    def wants_nudge(self) -> bool:
        """Whether a filling store should wake the worker: it has room, and isn't draining."""
        return self._window.has_room and not self._is_draining

    def _is_time_to_drain(self, *, is_urgent: bool) -> bool:
        now = self._clock()
        if not (self._is_draining or is_urgent or now >= self._drain_at):
            return False
        if not self._store:
            self._drain_at = now + self._settings.drain_interval
        return bool(self._store)

    def _load(self) -> None:
        """Move the next events from the store to the window."""
        taken = self._take(self._settings.batch_size)
        if len(taken) < self._settings.batch_size:  # the store was empty
            self._is_draining = False
            self._drain_at = self._clock() + self._settings.drain_interval
        self._window.load(*self._completed(taken, self._codec))
        if taken:
            self._settlement.note_load(taken[-1][1], self._store.confirm, is_own=True)

    def _load_adopted(self) -> None:
        """Move the next events of an earlier run to the window."""
        adopted = self._adoption.take(self._settings.batch_size)
        if adopted is None:
            return
        codec, taken = adopted
        events, numbers = self._completed(taken, codec)
        self._window.load(events, numbers, codec)
        self._adoption.note_load(sum(map(len, events)))

    def _completed(
        self, taken: list[tuple[EncodedEvent, int]], codec: EventCodec
    ) -> tuple[Sequence[bytes], Sequence[int]]:
        """Return events as bytes on the wire, and their numbers, without those not to be sent."""
        if self._settings.before_send is not None:
            reviewed = [(self._reviewed(body, n, codec), n) for body, n in taken]
            sent = [(event, number) for event, number in reviewed if event is not None]
            return [event for event, _ in sent], [number for _, number in sent]
        for body, number in taken:
            if body.__class__ is not EncodedEvent:
                self._note_forwarded(body, number, codec)
        numbers: Sequence[int] = range(0)
        if taken:
            numbers = range(taken[0][1], taken[-1][1] + 1)
            if len(numbers) != len(taken):
                numbers = [number for _, number in taken]
        return codec.to_wire_many(taken), numbers

    def _reviewed(self, body: EncodedEvent, number: int, codec: EventCodec) -> bytes | None:
        """Return an event as ``before_send`` changes it; None if it isn't to be sent."""
        assert self._settings.before_send is not None
        try:
            event = self._settings.before_send(codec.from_wire(codec.to_wire(body, number)))
            if event is not None:
                body = codec.encode_event(event, former=body)
                changed = codec.to_wire(body, number)
                self._note_forwarded(body, number, codec)
                return changed
        except BaseException:  # even a SystemExit must not end the worker
            self._note_gap(number, REJECTED, codec)
            is_recovered = codec is not self._codec
            if self._ledger.reject_reviewed(is_recovered=is_recovered) == 1:  # called per event
                log_safely(
                    logging.ERROR,
                    "before_send raised; events for which it raises are rejected",
                    with_traceback=True,
                )
        else:
            self._ledger.drop(1, DropReason.FILTERED)
            self._note_gap(number, DropReason.FILTERED.value, codec)
        return None

    def _note_forwarded(self, body: EncodedEvent, number: int, codec: EventCodec) -> None:
        """Explain the number of an event that is sent with another one, or for another session."""
        if isinstance(body, ForwardedEvent):
            session_id = body.envelope.get("sessionId", codec.session_id)
            if (session_id, body.envelope.get("seq", number)) != (codec.session_id, number):
                self._note_gap(number, FORWARDED, codec)

    def _note_gap(self, number: int, reason: str, codec: EventCodec) -> None:
        if codec is self._codec:
            self._gaps.add(number, number, reason)
        else:
            self._adoption.note_gap(codec, number, reason)

    def _message(self, events: tuple[bytes, ...]) -> bytes:
        if self._settings.wire_format == "ndjson":
            return b"\n".join(events) + b"\n"
        return b"[" + b",".join(events) + b"]"

    def keep_alive(self) -> None:
        """Ping a server that has been silent for long.

        Raises:
            ConnectionLost: a batch or a ping is not confirmed in time.
        """
        if not self._has_proof:
            return
        now = self._clock()
        overdue_at = self._window.overdue_at
        if overdue_at is not None and now >= overdue_at:
            did = "stored" if self._connection.has_archived_acks else "confirmed"
            message = f"the server {did} nothing for {self._settings.confirm_timeout:g} s"
            raise ConnectionLost(LostKind.UNCONFIRMED, message)
        if self._asked_at is None:
            if now >= self._heard_at + self._keepalive.interval:
                self._asked_at = now
                self._keepalive.note_ping(now)
                self._connection.ping(_KEEPALIVE)
                self._connection.flush()
        elif now >= self._asked_at + self._settings.confirm_timeout:
            raise ConnectionLost(LostKind.SILENT, "the server did not answer a keepalive ping")

    def quiet_before(self, lost: ConnectionLost) -> float | None:
        """Return for how many seconds nothing had happened when the connection was lost.

        None if it was not lost as an idle timeout between here and the server would have it.
        """
        if lost.kind is LostKind.RESET:
            is_idle_timeout = lost.errno in _RESETS
        else:
            is_idle_timeout = lost.kind is LostKind.CLOSED and lost.close_code in _GOING_AWAY
        is_quiet = self._has_proof and self._window.overdue_at is None
        if not (is_idle_timeout and is_quiet):
            return None
        return (self._clock() if self._asked_at is None else self._asked_at) - self._heard_at

    @property
    def next_deadline(self) -> float | None:
        """The next moment at which the worker has to act even if no I/O happens."""
        settings = self._settings
        deadlines = []
        if not self._is_draining:
            deadlines.append(self._drain_at)
        if self._may_report and self._reporter is not None and self._reporter.due_at is not None:
            deadlines.append(self._reporter.due_at)
        if self._has_proof:
            if self._asked_at is None:
                deadlines.append(self._heard_at + self._keepalive.interval)
            else:
                deadlines.append(self._asked_at + settings.confirm_timeout)
            if (overdue_at := self._window.overdue_at) is not None:
                deadlines.append(overdue_at)
        return min(deadlines, default=None)


def _number(pong: Frame) -> int | None:
    """Return the batch number that a pong confirms, or None if it confirms none."""
    is_number = pong.payload.isdigit() and len(pong.payload) <= _MAX_DIGITS
    return int(pong.payload) if is_number else None


class _Ack(msgspec.Struct):
    ack: int


class _ArchivedAck(msgspec.Struct):
    ack: int
    stored: int | None = None
    """Of the same messages, how many are stored; None: no news."""


# Made in advance: the first use of a type leaves a cycle of msgspec's behind.
_decode_ack = msgspec.json.Decoder(_Ack).decode
_decode_archived_ack = msgspec.json.Decoder(_ArchivedAck).decode

_AnyAck = TypeVar("_AnyAck", _Ack, _ArchivedAck)


def _decoded(frame: Frame, decode: Callable[[bytes], _AnyAck]) -> _AnyAck:
    """Return the ack in a frame.

    Raises:
        ConnectionLost: the frame is malformed.
    """
    if frame.kind is FrameKind.BINARY:
        message = "malformed ack from the server: a binary message"
        raise ConnectionLost(LostKind.PROTOCOL, message)
    try:
        return decode(frame.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ConnectionLost(LostKind.PROTOCOL, "malformed ack from the server") from None
