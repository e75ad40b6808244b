"""Moves the partitions that this loader owns from the stream into the lake.

The event loop's thread reads messages and decides; one thread beside it does all that touches the
lake, one thing after the other. While a commit is written there, the next messages are read here.

All that a loader knows about a partition is in the lake or can be read again. So at any doubt it
forgets its claims, and begins where the lake says.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..._shared import monotonic
from ..stream import Answer
from ..tasks import end
from .answering import Answering
from .continuity import Continuity
from .membership import Membership
from .partitions import Limits, Partition, take
from .places import epoch_of, first_of_epoch, sequence_of
from .reading import Reader
from .source import Batch, Source, SourceError
from .storing import LakeError, LostPartitionsError, Stored, Storing

__all__ = ["Loader"]

logger = logging.getLogger("redvsblue_telemetry.loader")

_Result = TypeVar("_Result")

_MESSAGES_AT_ONCE = 500
_BYTES_AT_ONCE = 2 * 1024 * 1024
_AHEAD = 2  # reading stops while so many times as much waits as is committed at once
_ASK_INTERVAL = 1.0  # seconds
_WATCH_INTERVAL = 2.0  # seconds
_PATIENCE = 10.0  # seconds in which a replica has to know all messages
_IDLE = 0.2  # seconds until a partition without a message is asked again
_OPEN_RETRY = 1.0  # seconds
_FIRST_RETRY, _LAST_RETRY = 0.25, 5.0  # seconds
_END_TIMEOUT = 15.0  # seconds, once it is stopped, for all that it has read
_SOURCE_PATIENCE = 3.0  # seconds for which nothing can be read until that is an error
_LAKE_PATIENCE = 4.0  # seconds until it is asked whether the lake answers at all
_ANSWER_TIMEOUT = 6.0  # seconds after which others may get the partitions


class Loader:
    """Loads until it is stopped. Used on the event loop's thread.

    Args:
        source: of messages.
        continuity: distinguishes deleted messages from lost ones.
        answering: answers the gateways.
        reader: of their contents.
        storing: writes into the lake; used on a thread of this loader's own.
        limits: when to commit.
        on_stored: called after each commit.
        on_failure: called after each one that failed.
    """

    def __init__(
        self,
        source: Source,
        continuity: Continuity,
        answering: Answering,
        reader: Reader,
        storing: Storing,
        limits: Limits,
        on_stored: Callable[[Stored], None],
        on_failure: Callable[[LakeError | LostPartitionsError], None],
    ) -> None:
        self._source = source
        self._continuity = continuity
        self._answering = answering
        self._reader = reader
        self._storing = storing
        self._limits = limits
        self._on_stored = on_stored
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="redvsblue-telemetry-lake")
        self._term = 0
        self._partitions: dict[int, Partition] = {}
        self._readers: dict[int, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._read_at = monotonic()
        self._events = 0  # that wait
        self._size = 0
        self._since: float | None = None  # when the oldest of them was read
        self._deadline = math.inf  # of the commits, once it is stopped
        self._asking_since: float | None = None  # the lake, which has not done it yet
        self.reaches_lake = True
        """Whether the lake answers, as far as is known. A slow one does, too."""
        self.lake_error: LakeError | None = None
        """Why the lake can't be read or written; None if it can."""
        self.source_error: SourceError | None = None
        """Why the stream can't be read; None if it can."""

    @property
    def partitions(self) -> list[Partition]:
        """The partitions that it has claimed."""
        return [*self._partitions.values()]

    def wake(self) -> None:
        """Look at the leases again."""
        self._wake.set()

    async def open_lake(self, stop: asyncio.Event) -> str | None:
        """Return the id of the lake, as soon as it can be read; None if it is stopped before."""
        while not stop.is_set():
            try:
                lake = await self._on_thread(self._storing.open)
            except LakeError as error:
                self._note_lake(error)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(stop.wait(), _OPEN_RETRY)
            else:
                self._note_lake(None)
                return lake
        return None

    async def run(self, membership: Membership, stop: asyncio.Event) -> None:
        """Load the partitions of the leases until it is stopped; then commit all that was read.

        If that can't be done in time, the stream still has it.

        Args:
            membership: the leases, which somebody keeps meanwhile.
            stop: set to stop it.
        """
        stopping = asyncio.create_task(self._wake_at(stop))
        try:
            while not stop.is_set():
                await self._turn(membership)
                await self._wait(self._time_left())
            await self._finish(membership)
        finally:
            stopping.cancel()
            await self._forget(set(self._partitions))
            self._thread.shutdown()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._deadline = monotonic() + _END_TIMEOUT
        self._wake.set()

    async def _turn(self, membership: Membership) -> None:
        """Do all that is due."""
        for task in self._readers.values():
            if task.done():  # by an internal error
                task.result()
        if membership.term != self._term:
            self._term = membership.term
            await self._forget(set(self._partitions))
        await self._forget(self._partitions.keys() - membership.owned)
        await self._drain(membership.surplus)
        membership.free(membership.surplus - self._partitions.keys())
        await self._claim(membership.owned - membership.surplus - self._partitions.keys())
        if self._is_due():
            await self._commit(membership)
        await self._free_drained(membership)
        if self._asking_since is not None and not membership.owned:
            await self._look_at_lake()

    async def _finish(self, membership: Membership) -> None:
        """Commit all that was read, and let others have the partitions."""
        await self._drain(set(self._partitions))
        if self._is_due():
            await self._commit(membership)
        await self._free_drained(membership)

    async def _wait(self, seconds: float | None) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    def _wake_later(self) -> None:
        asyncio.get_running_loop().call_later(_FIRST_RETRY, self._wake.set)

    # When to commit.

    def _time_left(self) -> float | None:
        if self._since is None:
            return None
        return max(0.0, self._since + self._limits.interval - monotonic())

    def _is_due(self) -> bool:
        if any(each.is_draining and each.waiting for each in self._partitions.values()):
            return True
        is_much = self._events >= self._limits.events or self._size >= self._limits.size
        return is_much or self._time_left() == 0.0

    def _is_full(self) -> bool:
        limits = self._limits
        return self._events >= _AHEAD * limits.events or self._size >= _AHEAD * limits.size

    def _count(self) -> None:
        """Count the messages that wait, after some were taken out."""
        waiting = [each for one in self._partitions.values() for each in one.waiting]
        self._events = sum(len(each.message.events) for each in waiting)
        self._size = sum(each.size for each in waiting)
        self._since = monotonic() if waiting else None
        self._room.set()

    # Partitions come and go.

    async def _claim(self, numbers: set[int]) -> None:
        """Learn from the lake where to begin, and begin to read."""
        if not numbers:
            return
        try:
            found = await self._on_lake(functools.partial(self._storing.claim, numbers))
        except LakeError as error:
            self._note_lake(error)
            self._wake_later()
            return
        self._note_lake(None)
        for number, last in found.items():
            self._partitions[number] = partition = Partition(number, last)
            self._readers[number] = task = asyncio.create_task(self._read(partition))
            task.add_done_callback(lambda _: self._wake.set())

    async def _look_at_lake(self) -> None:
        """Find out whether the lake can be reached, since there is no partition to show that."""
        try:
            await self._on_lake(self._storing.open)
        except LakeError as error:
            self._note_lake(error)
            self._wake_later()
        else:
            self._note_lake(None)

    async def _forget(self, numbers: set[int]) -> None:
        """Forget partitions, and their messages."""
        if not numbers:
            return
        for number in numbers:
            await self._stop_reading(number)
            del self._partitions[number]
        await self._on_thread(functools.partial(self._storing.forget, numbers))
        self._count()

    async def _drain(self, numbers: set[int]) -> None:
        for number in numbers & self._partitions.keys():
            self._partitions[number].is_draining = True
            await self._stop_reading(number)

    async def _free_drained(self, membership: Membership) -> None:
        drained = {each.number for each in self._partitions.values() if each.is_drained}
        if drained:
            await self._forget(drained)
            membership.free(drained)

    # Reading.

    async def _read(self, partition: Partition) -> None:
        """Read a partition on and on, and answer about it."""

        async def stored(sessions: Mapping[str, int]) -> Answer | None:
            is_all = partition.is_at_end and not partition.uncommitted
            find = functools.partial(
                self._storing.stored, partition.number, sessions, is_all=is_all
            )
            return await self._on_thread(find)

        async with self._answering.answering(partition.number, stored):
            while True:
                partition.is_at_end = False
                await self._wait_for_room()
                if not await self._read_some(partition):
                    await asyncio.sleep(_IDLE)

    async def _wait_for_room(self) -> None:
        while self._is_full():
            self._room.clear()
            await self._room.wait()

    async def _read_some(self, partition: Partition) -> bool:
        """Read the next messages; return whether there were any."""
        epoch = epoch_of(partition.last.place)
        try:
            batch = await self._next_batch(partition)
        except SourceError as error:
            self._note_source(error)
            return False
        self._note_source(None)
        partition.pending = batch.pending
        partition.is_at_end = not batch.messages and partition.missing_since is None
        for message in batch.messages:
            await self._wait_for_room()  # a message may unpack to a hundred times as much
            if epoch_of(partition.last.place) != epoch:
                return True
            received = self._reader.read(message)
            received.sequence += first_of_epoch(epoch)
            partition.add(received)
            self._events += len(received.message.events)
            self._size += received.size
            if self._since is None:
                self._since = monotonic()
                self._wake.set()
            await asyncio.sleep(0)  # each may take milliseconds, and others have their turn
        if self._is_due():
            self._wake.set()
        return bool(batch.messages)

    async def _next_batch(self, partition: Partition) -> Batch:
        """Return the next messages, after a look at the last one that is known.

        Raises:
            SourceError: the stream can't be read.
        """
        number, last = partition.number, sequence_of(partition.last.place)
        if partition.last.stored_at is None or self._source.is_careful(number):
            return await self._source.read(number, last, _MESSAGES_AT_ONCE, _BYTES_AT_ONCE)
        batch = await self._source.read(number, last - 1, _MESSAGES_AT_ONCE, _BYTES_AT_ONCE)
        if not batch.messages:  # it was deleted or lost, or a replica does not have it yet
            partition.missing_since = partition.missing_since or monotonic()
            return batch
        if batch.messages[0].sequence == last:
            if batch.messages[0].stored_at != partition.last.stored_at:
                self._begin_anew(partition)
                return Batch([], batch.pending)
            partition.missing_since = None
            del batch.messages[0]
            if not batch.messages and batch.pending:  # it is so large that no other came with it
                return await self._source.read(number, last, _MESSAGES_AT_ONCE, _BYTES_AT_ONCE)
            return batch
        was_lost = await self._continuity.was_lost(number, last)
        if was_lost:
            self._begin_anew(partition)
        return batch if was_lost is False else Batch([], batch.pending)

    async def watch_lake(self) -> None:
        """Find out whether the lake answers while it does not do what it should, until canceled.

        A thread waits for the network for as long as its timeouts and attempts take, so another one
        asks.
        """
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix="redvsblue-telemetry-ask")
        try:
            while True:
                await asyncio.sleep(_ASK_INTERVAL)
                if self._asking_since is None:
                    self.reaches_lake = True
                elif monotonic() - self._asking_since >= _LAKE_PATIENCE:
                    asking = loop.run_in_executor(thread, self._storing.answers)
                    try:
                        self.reaches_lake = await asyncio.wait_for(asking, _ANSWER_TIMEOUT)
                    except asyncio.TimeoutError:
                        self.reaches_lake = False
        finally:
            thread.shutdown(wait=False)

    async def watch(self) -> None:
        """Look every few seconds for messages that do not come back, until canceled."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            for partition in self.partitions:
                last, since = partition.last, partition.missing_since
                if (
                    since is not None
                    and monotonic() - since >= _PATIENCE
                    and await self._continuity.was_lost(partition.number, sequence_of(last.place))
                    and partition.last == last
                ):
                    self._begin_anew(partition)

    def _begin_anew(self, partition: Partition) -> None:
        """Read all of a partition again: the stream has lost messages, and uses their numbers."""
        logger.error(
            "the stream has lost messages that it had acknowledged; what it has of partition %d is "
            "read again, since others may have their numbers",
            partition.number,
        )
        partition.begin_anew()

    async def _stop_reading(self, number: int) -> None:
        task = self._readers.pop(number, None)
        if task is not None:
            await end(task)
            if not task.cancelled():
                task.result()

    # Committing.

    async def _commit(self, membership: Membership) -> None:
        """Commit all that waits: until it is in the lake, partitions are lost, or time is up."""
        taken = take(self._partitions.values())
        self._count()
        commit = await self._on_thread(functools.partial(self._storing.prepare, taken))
        delay = _FIRST_RETRY / 2
        while True:
            if membership.term != self._term or not taken.last.keys() <= membership.owned:
                break  # others own some of it, and read it again; this loader reads the rest again
            if membership.is_certain:
                try:
                    stored = await self._on_lake(functools.partial(self._storing.commit, commit))
                except LostPartitionsError as error:
                    logger.warning("%s; this one begins anew", error)
                    self._on_failure(error)
                    break
                except LakeError as error:
                    self._note_lake(error)
                    self._on_failure(error)
                else:
                    self._note_lake(None)
                    for number in taken.last:
                        self._partitions[number].commit()
                    self._on_stored(stored)
                    return
                delay = min(2 * delay, _LAST_RETRY)
            if monotonic() + delay > self._deadline:
                logger.error("stopped before all that was read is in the lake; the stream has it")
                break
            await asyncio.sleep(delay)
        await self._forget(set(self._partitions))

    def _note_lake(self, error: LakeError | None) -> None:
        if error is not None and str(error) != str(self.lake_error):
            logger.error("events can't be stored in the lake: %s", error)
        elif error is None and self.lake_error is not None:
            logger.warning("events are being stored again")
        self.lake_error = error

    def _note_source(self, error: SourceError | None) -> None:
        if error is None:
            self._read_at = monotonic()
        elif monotonic() - self._read_at < _SOURCE_PATIENCE:
            return  # any replica may be asked, and the next one answers
        if error is not None and self.source_error is None:
            logger.warning("%s", error)
        elif error is None and self.source_error is not None:
            logger.warning("the stream can be read again")
        self.source_error = error

    async def _on_lake(self, work: Callable[[], _Result]) -> _Result:
        """Have the lake do something, and note since when it has not."""
        if self._asking_since is None:
            self._asking_since = monotonic()
        try:
            result = await self._on_thread(work)
        except LostPartitionsError:
            self._asking_since = None
            raise
        self._asking_since = None
        return result

    async def _on_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
