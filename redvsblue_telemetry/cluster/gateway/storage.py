"""Stores messages in the stream: the gateway's place for the collector's storage thread.

Each session has a *lane*: its messages are published one after the other, because one that has to
be published again would otherwise come after its successor. Lanes run side by side, up to a number
of messages in flight. A message counts as stored when the stream's servers have acknowledged all of
its parts, and a client hears of its messages in the order in which it sent them.

A message that isn't stored within some seconds, although it was published again and again, is
refused, and with it all that wait. From then on every message is refused at once, so that clients
can try another gateway; a *probe* finds out when the stream is back. It is as large as the refused
message: a full stream may still have room for less.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Callable

import msgspec
from nats.js.api import PubAck

from ...collector.messages import Message
from ...collector.storage.upkeep import epoch_milliseconds
from ...collector.storing import Body, Health, MessageTooLargeError, Place, Receipt
from ..stream import CHECK, MESSAGE_ID, RECEIVED, subject
from ..tasks import end
from .link import FormatError, Link, SilenceError, StreamError
from .splitting import Part, split

__all__ = ["Counts", "StreamStorage"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_MAX_WAITING_BYTES = 16 * 1024 * 1024  # beyond this, connections are not read
_BYTES_PER_MESSAGE = 1024  # that one takes besides its body, and each part of it, too
_MAX_IN_FLIGHT = 64  # messages
# Seconds, with all attempts. A client waits ten for an ack, and an election takes up to nine.
_PUBLISH_TIMEOUT = 9.5
_LEAVE_AFTER = 3.0  # seconds without an answer until a server is left for another one
# Seconds after that without any server: time to try three, and another gateway may have one.
_UNCONNECTED_TIMEOUT = 4.0
# Seconds; the last one for all further attempts. The leader may be lost without a word, so the
# attempt that begins just before there is another one must not last.
_ATTEMPT_TIMEOUTS = (1.0, 0.7)
# Seconds from an attempt to the next, at least; the last one is for all further attempts.
_INTERVALS = (0.05, 0.1, 0.2, 0.4)
_PROBE_INTERVAL = 0.5  # seconds between looks at the stream while it is away
_QUIET_INTERVAL = 2.0  # seconds between looks while nothing is published
_MAX_PROBE_BYTES = 256 * 1024


class Counts(msgspec.Struct):
    """The contents of a message that the stream has stored."""

    events: int = 0
    """That the stream didn't have."""
    repeats: int = 0
    rejected: int = 0
    crashes: int = 0
    seconds: float = 0.0
    """From its arrival until it was stored."""


class _Sent(msgspec.Struct, eq=False):
    """A client's message on its way into the stream."""

    receipt: Receipt
    size: int
    parts_left: int
    arrived: float
    is_check: bool
    places: list[Place] = []


class _Job(msgspec.Struct):
    part: Part
    sent: _Sent


class StreamStorage:
    """Stores messages in the stream. Used on the event loop's thread.

    Args:
        link: the connection to the stream.
        on_stored: called after each message of the stream that was stored.
        on_failure: called after each that could not be stored.
        publish_timeout: seconds for the attempts to store one.
    """

    def __init__(
        self,
        link: Link,
        on_stored: Callable[[Counts], None],
        on_failure: Callable[[], None],
        publish_timeout: float = _PUBLISH_TIMEOUT,
    ) -> None:
        self._link = link
        self._on_stored = on_stored
        self._on_failure = on_failure
        self._publish_timeout = publish_timeout
        self._health = Health()
        self._health.last_error = StreamError("not connected to the stream yet")
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[str, deque[_Job]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_MAX_IN_FLIGHT)
        self._unacknowledged: dict[int, deque[_Sent]] = {}  # by the receipt, in order
        self._has_room = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._needs_probe = asyncio.Event()
        self._probe_bytes = 0
        self._worked_at = self._stored_at = self._left_at = self._loop.time()
        self.waiting_bytes = 0
        """Of the messages that are not stored yet."""
        self.in_flight = 0
        """The messages of the stream that are being published."""
        self.retries = 0
        """How often one was published again."""

    @property
    def last_error(self) -> Exception | None:
        """Why messages can't be stored now; None if they can, as far as is known."""
        return self._health.last_error

    async def start(self, timeout: float) -> None:
        """Wait until messages can be stored, but no longer than that many seconds.

        Raises:
            FormatError: they never can.
        """
        deadline = self._loop.time() + timeout
        while True:
            try:
                await self._link.check()
            except FormatError:
                raise
            except StreamError as error:
                if self._loop.time() >= deadline:
                    self._health.note_failure(error)
                    break
                await asyncio.sleep(_INTERVALS[0])
            else:
                self._health.last_error = None
                break
        self._watching = asyncio.create_task(self._watch())
        self._watching.add_done_callback(self._note_end)

    async def room(self) -> None:
        """Wait while too many bytes wait to be stored."""
        while self.waiting_bytes >= _MAX_WAITING_BYTES:
            self._has_room.clear()
            await self._has_room.wait()

    def submit(
        self,
        message: Message,
        size: int,
        receipt: Receipt,
        *,
        is_check: bool = False,
        body: Body | None = None,
    ) -> None:
        """Queue a message to be stored; see :class:`collector.storing.Storage`."""
        if receipt.is_broken:
            return
        if self._health.last_error is not None:
            self._break(receipt)
            return
        parts = split(message, body, epoch_milliseconds(), is_check=is_check, salt=self._link.salt)
        for part in parts:
            if part.wire_bytes > self._link.max_payload:
                raise MessageTooLargeError(
                    f"the stream takes messages of up to {self._link.max_payload} bytes"
                )
        held = _BYTES_PER_MESSAGE + sum(len(part.body) + _BYTES_PER_MESSAGE for part in parts)
        sent = _Sent(receipt, held, len(parts), self._loop.time(), is_check)
        self.waiting_bytes += held
        self._unacknowledged.setdefault(id(receipt), deque()).append(sent)
        for part in parts:
            self._enqueue(_Job(part, sent))
        if not parts:
            self._settle(sent)

    def lose_all(self) -> None:
        """Note that what was stored is lost: those who wait for an ack have to send it again."""
        for queue in tuple(self._unacknowledged.values()):
            self._break(queue[0].receipt)

    async def close(self) -> None:
        """Store what is queued, as far as that is possible now, and disconnect."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._watching is not None:
            await end(self._watching)
        await self._link.close()

    # The lanes.

    def _enqueue(self, job: _Job) -> None:
        key = job.part.id if job.part.session is None else job.part.session
        lane = self._lanes.get(key)
        if lane is not None:
            lane.append(job)
            return
        self._lanes[key] = lane = deque([job])
        task = asyncio.create_task(self._publish_all(key, lane))
        self._tasks.add(task)
        task.add_done_callback(self._note_end)

    async def _publish_all(self, key: str, lane: deque[_Job]) -> None:
        """Publish the jobs of a lane, one after the other, until there are no more."""
        try:
            while lane:
                async with self._slots:
                    if lane:  # otherwise they were given up meanwhile
                        await self._publish(lane.popleft())
        finally:
            del self._lanes[key]

    async def _publish(self, job: _Job) -> None:
        if job.sent.receipt.is_broken:
            self._finish(job)
            return
        self.in_flight += 1
        try:
            ack, attempts = await self._attempts(job.part)
        except StreamError as error:
            self._give_up(job, error)
        except Exception as error:
            logger.exception("internal error in the collector")
            self._give_up(job, StreamError(f"internal error: {error!r}"))
        else:
            self._note_stored(job, ack, was_repeated=attempts > 1)
        finally:
            self.in_flight -= 1

    async def _attempts(self, part: Part) -> tuple[PubAck, int]:
        """Publish until that succeeds; return the outcome and the number of attempts.

        Raises:
            StreamError: it has not succeeded in time, or others have not.
        """
        began = self._loop.time()
        attempts = 0
        while True:
            timeout = _ATTEMPT_TIMEOUTS[min(attempts, len(_ATTEMPT_TIMEOUTS) - 1)]
            started = self._loop.time()
            left = began + self._publish_timeout - started
            attempts += 1
            try:
                ack = await self._publish_once(part, min(timeout, left))
            except StreamError as error:
                following = started + _INTERVALS[min(attempts, len(_INTERVALS)) - 1]
                pause = max(0.0, following - self._loop.time())
                if self._loop.time() + pause >= self._deadline(began):
                    raise
                await self._leave_server(error, began)
                await asyncio.sleep(pause)
                if self._health.last_error is not None:
                    raise
                self.retries += 1
            else:
                return ack, attempts

    async def _publish_once(self, part: Part, timeout: float) -> PubAck:
        if part.wire_bytes > self._link.max_payload:  # of the server that it is connected to now
            raise StreamError(f"a server takes only messages of {self._link.max_payload} bytes")
        state = self._link.state
        assert state is not None
        where = subject(part.partition(state.partitions))
        return await self._link.publish(where, part.body, part.headers, timeout)

    def _deadline(self, began: float) -> float:
        """Return when a message is given up that was first published at a time."""
        deadline = began + self._publish_timeout
        if self._link.is_connected:
            return deadline
        return min(deadline, max(began + _LEAVE_AFTER, self._left_at) + _UNCONNECTED_TIMEOUT)

    async def _leave_server(self, error: StreamError, since: float) -> None:
        """Try another server if nothing could be stored through this one since a time."""
        now = self._loop.time()
        is_late = now - max(since, self._stored_at, self._left_at) >= _LEAVE_AFTER
        if is_late and isinstance(error, SilenceError):
            self._left_at = now
            await self._link.leave_server()

    # Their outcomes.

    def _note_stored(self, job: _Job, ack: PubAck, *, was_repeated: bool) -> None:
        part, sent = job.part, job.sent
        self._worked_at = self._stored_at = self._loop.time()
        state = self._link.state
        assert state is not None
        where = part.partition(state.partitions)
        sent.places.append(Place(where, ack.seq, part.session, part.numbers))
        self._finish(job)
        if sent.is_check:
            return
        counts = Counts(seconds=self._worked_at - sent.arrived)
        # A repeat of our own means that an earlier attempt has stored it.
        if ack.duplicate and not was_repeated:
            counts.repeats = part.events
        else:
            counts.events, counts.crashes = part.events, part.crashes
            counts.rejected = part.rejected
        self._on_stored(counts)

    def _give_up(self, job: _Job, error: StreamError) -> None:
        """Refuse a message, and all that wait: nobody has to find out the same again."""
        self._probe_bytes = min(len(job.part.body), _MAX_PROBE_BYTES)
        self._fail(error)
        self._break(job.sent.receipt)
        self._finish(job)
        for lane in self._lanes.values():
            while lane:
                waiting = lane.popleft()
                self._break(waiting.sent.receipt)
                self._finish(waiting)

    def _fail(self, error: StreamError) -> None:
        self._health.note_failure(error)
        self._needs_probe.set()

    def _break(self, receipt: Receipt) -> None:
        if not receipt.is_broken:
            receipt.is_broken = True
            self._on_failure()
            receipt.failed()

    def _finish(self, job: _Job) -> None:
        """Note that nothing more happens with a part of a message."""
        job.sent.parts_left -= 1
        if job.sent.parts_left == 0:
            self._settle(job.sent)

    def _settle(self, sent: _Sent) -> None:
        """Release the room of a message, and confirm to its sender all that are stored in order."""
        self.waiting_bytes -= sent.size
        if self.waiting_bytes < _MAX_WAITING_BYTES:
            self._has_room.set()
        receipt = sent.receipt
        queue = self._unacknowledged[id(receipt)]
        while queue and queue[0].parts_left == 0:
            first = queue.popleft()
            if not receipt.is_broken:
                receipt.stored(1, first.places)
        if not queue:
            del self._unacknowledged[id(receipt)]

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("internal error in the collector", exc_info=error)

    # The health of the stream.

    async def _watch(self) -> None:
        """Find out when the stream goes, although nothing is published, and when it is back."""
        failing_since: float | None = None
        while True:
            is_away = self._health.last_error is not None
            self._needs_probe.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                interval = _PROBE_INTERVAL if is_away else _QUIET_INTERVAL
                await asyncio.wait_for(self._needs_probe.wait(), interval)
            is_away = self._health.last_error is not None
            looked_at = self._loop.time()
            error = await self._look(is_away=is_away)  # also for another identity of the stream
            if not is_away and looked_at - self._worked_at < _QUIET_INTERVAL:
                failing_since = None
                continue
            if error is None:
                failing_since = None
                self._worked_at = self._loop.time()
                self._health.note_success()
                continue
            failing_since = looked_at if failing_since is None else failing_since
            await self._leave_server(error, failing_since)
            if is_away or self._loop.time() - failing_since >= self._publish_timeout:
                self._health.note_failure(error)

    async def _look(self, *, is_away: bool) -> StreamError | None:
        """Return why the stream can't be used; None if it can."""
        try:
            await self._link.check()
            if is_away:
                await self._probe()
        except StreamError as error:
            return error
        except Exception as error:
            logger.exception("internal error in the collector")
            return StreamError(f"internal error: {error!r}")
        return None

    async def _probe(self) -> None:
        """Publish a message of a check, which loaders leave out."""
        headers = {
            RECEIVED: str(epoch_milliseconds()),
            CHECK: "1",
            MESSAGE_ID: f"probe:{uuid.uuid4().hex}",
        }
        await self._link.publish(
            subject(0), bytes(self._probe_bytes), headers, _ATTEMPT_TIMEOUTS[0]
        )
