"""The store of a run with a journal: events wait as records, in files that outlive the process.

Theory of operation
-------------------

It keeps what :class:`~redvsblue_telemetry._recording.store.TelemetryStore` keeps, and counts it as
exactly, but as records in a row of :class:`~.segment.Segment` objects.

**Emit** calls ``journal.write``, the ``write`` of the active segment: one call into C, which
CPython (with the GIL) never interrupts. If the segment is full, it raises ValueError, and
:meth:`JournalStore.push` makes a spare segment the active one. Before that, it fills the rest of
the full one: so after a kill or a power cut, it is sure whether all of its records are there. The
number of each record in the next one depends on it.

**Rotation takes no lock.** See :mod:`.rotation`.

**A position is a number.** An event's number is the place of its record in the row of segments. A
segment is *reached* when it has been published. When the one after it is reached, it is *sealed*,
and only then its end is final: a thread that was about to write into it gets a ValueError and takes
the slow path. Every look at the store first counts the records that are new (:meth:`_catch_up`) and
drops those beyond the capacity, so all counts are exact.

**The lock** guards these counts. ``emit`` never waits for it: it tries to take it where the oldest
segment has to go, and otherwise goes one segment beyond the limit. No disk operation happens under
it. A signal handler may call any method in the midst of any other. It would wait for its own
thread, so it gets in, since the lock is reentrant. But then it makes no change itself, as the call
that it interrupted is in the middle of one; see :attr:`JournalStore._is_alone`.

**The worker** calls :meth:`JournalStore.maintain` at each wake, which writes the entries, syncs,
makes spares and removes files. The work is done in pieces of a few hundred records, with a system
call after each, so it never keeps the GIL for long. If events come faster than it makes spares,
``emit`` makes one itself: it waits for the disk then, unless the disk is known to hang.

**Trouble.** If a file can't be made or written, new events are kept in segments without a file, in
bounded number. The disk is tried again every half minute.

**Fork.** A mapping is shared with the child, whose ``write`` would overwrite the parent's records.
So :meth:`JournalStore.begin` seals the child's copies of all segments: a position is the child's
own. Until it is called (by a hook that runs in the child before ``os.fork`` returns), an emit in a
signal handler or in a hook that was registered earlier would still write into the parent's segment.
A guard in a ``before`` hook would have to let the parent's other threads emit at the same time,
which costs them a detour, so there is none. What such an emit overwrites, the parent overwrites
again with its next event.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from .._recording.codec import EncodedEvent
from .._recording.ledger import DropReason
from .._recording.store import Journal
from .._shared import monotonic, rest
from .layout import HEADER_BYTES, Header, index_entry
from .records import RecordError, RecordReader, prefix_of_kind, record_of
from .rotation import Rotation, refuse
from .segment import TAIL_BYTES, Segment

__all__ = ["JournalStore", "Run"]

_DATA_BYTES = 240 * 1024  # of a segment: some 1,500 events
_PAGE_BYTES = 4096
_SPARES = 4  # ready at any time
_MAX_SPARES = 32  # of a flood: 8 MB
_MAX_CHUNK_RECORDS = 500  # some 0.3 ms to index or take
_SYNC_INTERVAL = 0.8  # seconds; with the sync itself, less than the second that is promised
_TURN = 100e-6  # seconds of work, after which other threads have theirs
_MAX_UNSYNCED = 16  # segments; each has two descriptors until it is synced
_RETRY_INTERVAL = 30.0  # seconds until the disk is tried again
_HANGS_AFTER = 0.25  # seconds that one disk operation of the worker takes
_TYPICAL_RECORD_BYTES = 160
_MAX_LOSSES = 10_000  # runs of numbers, if nobody asks for them

_read_leniently = re.compile(
    rb'\[(-?\d{1,24}),(\[?"(?:[^"\\]|\\.)*"\]?),(.*)\]', re.DOTALL
).fullmatch


Loss = tuple[int, int, DropReason]
"""The first and the last number of events that were dropped, and why."""


def _nothing() -> None:
    """Do nothing: the default of the callbacks."""


def _ignore(_: OSError) -> None:
    """Do nothing: the default of the callback for errors."""


class Run(Protocol):
    """The directory of a run, as the store sees it."""

    def segment_path(self, number: int) -> Path:
        """Return the path for the file of the segment with this number."""

    def sync(self) -> None:
        """Have the names of the files survive a power cut."""


class JournalStore:
    """A first-in, first-out store of events that are on disk as soon as they are pushed.

    Every method may be called from any thread, unless it says that it is the worker's. ``push``
    may also be called from a signal handler or a ``__del__``, in the middle of any other call.
    All but ``push`` wait for each other, for less than a millisecond.

    Args:
        max_bytes: the largest size of this run's files. Beyond it, the oldest events are dropped
            and counted in ``expired``.
        max_event_bytes: the largest size of an event.
        capacity: the largest number of events, however large they are; None: no limit but that of
            the bytes. Beyond it, the oldest are dropped and counted in ``dropped``.
        memory_capacity: the same for events in memory only.
        high_water: with this many events waiting, the worker should hurry.
        on_high_water: called when a segment is full, and by the first push after :meth:`begin`.
            Must be quick, must not raise, and may be called from any thread.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        max_event_bytes: int = 16384,
        capacity: int | None = None,
        memory_capacity: int = 5000,
        high_water: int | None = None,
        on_high_water: Callable[[], object] = _nothing,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.memory_capacity = memory_capacity if capacity is None else capacity
        self.high_water = _DATA_BYTES // _TYPICAL_RECORD_BYTES if high_water is None else high_water
        self.on_high_water = on_high_water
        self.on_trouble: Callable[[OSError], object] = _ignore
        """Called once when events are kept in memory only from now on, from any thread."""
        self.on_first_push: Callable[[], object] = _nothing
        """Called by pushes after :meth:`begin`, until it has called :meth:`open`: those that come
        first, and now and then."""
        self.max_bytes = max_bytes
        # A full segment wakes the worker, so a small store has small segments.
        wanted = min(_DATA_BYTES, max_bytes // 8, (capacity or _DATA_BYTES) * 20)
        self._data_bytes = -(-max(wanted, 4 * max_event_bytes) // _PAGE_BYTES) * _PAGE_BYTES
        room = max_bytes // self._file_bytes
        self._fewest_spares = self._spares_wanted = max(1, min(_SPARES, room // 4))
        self._most_spares = max(self._fewest_spares, min(_MAX_SPARES, room // 8))
        self._clock = clock
        self.journal = Journal(refuse)
        """Where ``emit`` writes records."""
        self._rotation = Rotation(self.journal)
        self._segments: deque[Segment] = deque()
        self.begin()

    @property
    def _file_bytes(self) -> int:
        return HEADER_BYTES + self._data_bytes + TAIL_BYTES

    def begin(self) -> None:
        """Be empty, count from 1, and have no directory. Only while no other thread uses it.

        In a forked child, it leaves the parent's segments to the parent.
        """
        self.journal.write = refuse
        inherited = (*self._segments, *self._rotation.ahead)
        self._rotation = Rotation(self.journal)
        self._doomed: deque[Segment] = deque()  # written by any thread
        # Written under the lock.
        self._lock = threading.RLock()
        self._segments = deque()
        self._counted = self._departed = self._dropped = 0
        self._expired = self._erased = 0
        self._losses: deque[Loss] = deque(maxlen=_MAX_LOSSES)
        self._generation = 0
        self._has_to_forget = False
        self._has_memory = False  # whether there may be segments without a file
        # Written by the thread that opens it, and by the worker.
        self._run: Run | None = None
        self._header: Header | None = None
        self._is_new = True
        self._is_in_trouble = False
        self._retry_at = 0.0
        self._limit: int | None = self.memory_capacity  # events; see `_settle`
        self._confirmed = self._confirmed_on_disk = 0
        self._sync_at = self._turn_ends = 0.0
        self._reached = 0  # segments since the last sync
        self._has_new_names = False
        self._on_disk_since: float | None = None
        self._reader = RecordReader()
        for segment in inherited:
            segment.forget()

    # On the caller's thread.

    def open(self, run: Run | None, header: Header) -> None:
        """Keep new events in the files of a run; if that is None, in memory only.

        Events that are already there stay where they are.

        Args:
            run: its directory.
            header: what each file begins with, except for the number and size of the segment, and
                the number of the one before.

        Raises:
            OSError: the first file can't be made. Then nothing has changed.
        """
        segment = self._anonymous() if run is None else self._file(run, header)
        is_alone = self._is_alone
        with self._lock:
            self._run, self._header = run, header
            self._limit = self.memory_capacity if run is None else self.capacity
            self._is_in_trouble = False
            self._sync_at = self._clock() + _SYNC_INTERVAL
            self._switch_to(segment, is_alone=is_alone)
            # Last: until then, other threads of a forked child wait in `on_first_push`. One that
            # made a segment meanwhile would take the place of this one in the row.
            self._is_new = False

    def _switch_to(self, segment: Segment, *, is_alone: bool) -> None:
        """Make a new segment the active one, ahead of all spares. Under the lock."""
        segment.generation = self._generation
        self._rotation.retire_all()
        if is_alone:
            self._catch_up()
        if not self._rotation.line_up(segment):
            self._doomed.append(segment)
        # Now, because another thread may emit into it, and be killed, before it is reached.
        elif is_alone and self._is_next(segment):
            segment.begin(self._counted + 1)
        self._rotation.publish(refuse)

    def _is_next(self, segment: Segment) -> bool:
        """Return whether the next record that is counted will be the first one of a segment."""
        is_counted = not self._segments or self._segments[-1].is_sealed
        return is_counted and self._rotation.ahead[0] is segment

    def erase(self) -> None:
        """Remove all files of this run, and forget the events that wait in them.

        They count as ``erased``. Events that come later are kept in memory, until :meth:`open`.
        """
        is_alone = self._is_alone
        with self._lock:
            self._run = None
            self._is_in_trouble = False
            self._limit = self.memory_capacity
            self._generation += 1
            self._forget_older(is_alone=is_alone)
        self._delete_doomed()

    def _forget_older(self, *, is_alone: bool) -> None:
        """Give up all segments that were made before the journal was erased. Under the lock."""
        self._rotation.retire_all()
        self._has_to_forget = not is_alone
        if not is_alone:  # the next call does the rest
            for segment in (*self._segments, *self._rotation.ahead):
                segment.unlink()
            return
        self._catch_up()
        for segment in tuple(self._segments):
            if segment.generation < self._generation:
                self._erased += segment.waiting
                self._lose(segment, segment.waiting, DropReason.SWITCHED_OFF)
                self._segments.remove(segment)
                self._doomed.append(segment)

    @property
    def _is_alone(self) -> bool:
        """Whether this thread has not interrupted one of its own calls that has the lock.

        Ask before taking the lock. To count how often it was taken was rejected: a Ctrl-C would
        leave the count wrong, and with it the store closed.
        """
        return not cast("Any", self._lock)._is_owned()

    # In `emit`, where a segment is full.

    def push(self, item: EncodedEvent) -> None:
        """Add an event at the back."""
        record = record_of(item)
        has_rotated = False
        while True:
            write = self.journal.write
            try:
                write(record)
            except ValueError:
                if len(record) > self._data_bytes:
                    raise
                self._rotate(write)
                has_rotated = True
            else:
                break
        if has_rotated:
            with contextlib.suppress(RecursionError):  # the event is recorded
                self.on_high_water()

    def _rotate(self, full: Callable[[bytes], object]) -> None:
        """Make the next segment the active one, unless another thread has done so."""
        if self._is_new:
            self.on_first_push()
        Segment.fill(full)
        while not self._rotation.publish(full):
            self._make_room()
            self._add_spare(in_memory=self._disk_hangs)

    def _add_spare(self, *, in_memory: bool) -> None:
        run, header, generation = self._run, self._header, self._generation
        rotation, segment = self._rotation, None
        if not (in_memory or self._is_in_trouble or run is None or header is None):
            try:
                segment = self._file(run, header)
            except OSError as error:
                if generation == self._generation:
                    self.fall_back(error)
        if segment is None:
            segment = self._anonymous()
        segment.generation = generation
        if rotation is not self._rotation:  # a signal handler has forked: it is the parent's
            segment.forget()
        elif run is not self._run or self._needs_file(segment, in_memory=in_memory):
            segment.delete()  # opened or erased meanwhile, or the trouble is over
        elif not self._rotation.line_up(segment):
            segment.delete()
        elif generation != self._generation:  # erased meanwhile
            is_alone = self._is_alone
            with self._lock:
                self._forget_older(is_alone=is_alone)
            self._delete_doomed()

    def _needs_file(self, segment: Segment, *, in_memory: bool) -> bool:
        """Return whether the events that would be written into a segment belong on the disk."""
        is_on_disk = segment.path is not None or self._run is None
        return not (is_on_disk or in_memory or self._is_in_trouble)

    def _file(self, run: Run, header: Header) -> Segment:
        number = self._rotation.next_number()
        header = msgspec.structs.replace(header, segment=number, data_bytes=self._data_bytes)
        path = run.segment_path(number)
        segment = Segment(number, self._data_bytes, path=path, header=header)
        self._has_new_names = True
        return segment

    def _anonymous(self) -> Segment:
        return Segment(self._rotation.next_number(), self._data_bytes)

    def fall_back(self, error: OSError) -> None:
        """Keep new events in memory from now on, until the disk works again."""
        self._retry_at = self._clock() + _RETRY_INTERVAL
        if not self._is_in_trouble:
            self._is_in_trouble = True
            self._limit_memory()
            with contextlib.suppress(Exception):
                self.on_trouble(error)

    def _limit_memory(self) -> None:
        # The oldest events go first, and those in files must not go for those in memory. So the
        # limit is not below the number of events that wait now.
        self._limit = max(self.memory_capacity, self._counted - self._departed)

    def _make_room(self) -> None:
        """Keep to the limits, for a thread that is about to make a segment."""
        if not (self._is_alone and self._lock.acquire(blocking=False)):
            return
        try:
            self._settle()
            if self._run is not None:
                self._keep_to_max_bytes(self._file_bytes)
        finally:
            self._lock.release()
        if not self._disk_hangs:
            for segment in tuple(self._doomed):
                segment.unlink()

    @property
    def _disk_hangs(self) -> bool:
        since = self._on_disk_since
        return since is not None and self._clock() - since > _HANGS_AFTER

    # Counting. All of these are called under the lock.

    def _settle(self) -> None:
        """Count what is new, drop what is beyond the limit, and free memory."""
        if self._has_to_forget:
            self._forget_older(is_alone=True)
        self._catch_up()
        if self._limit is not None and (excess := self._waiting - self._limit) > 0:
            self._skip(excess, DropReason.OVERFLOW)
            self._dropped += excess
        if self._has_memory:  # in trouble, these are between segments that have files
            in_memory = [segment for segment in self._segments if segment.path is None]
            self._has_memory = bool(in_memory)
            for segment in in_memory:
                if segment.is_sealed and not segment.waiting:
                    self._segments.remove(segment)
                    self._doomed.append(segment)

    @property
    def _waiting(self) -> int:
        return self._counted - self._departed

    def _catch_up(self) -> None:
        """Count the records that were written until now, since the last call."""
        newest = self._rotation.newest  # threads that push flat out must not keep this one here
        while self._count_some():
            if self._segments[-1].number > newest:
                break

    def _count_some(self) -> bool:
        """Count some of them; return whether there may be more."""
        if self._segments and not (segment := self._segments[-1]).is_sealed:
            is_active = segment.write is self.journal.write
            if not is_active:
                segment.seal()
            has_more = segment.count()
            self._counted = segment.last
            if has_more or is_active:
                return has_more
            segment.is_sealed = True
        if (reached := self._rotation.reached) is None:
            return False
        reached.begin(self._counted + 1)
        self._has_memory |= reached.path is None
        self._rotation.move_reached(self._segments)
        self._reached += 1
        return True

    def _skip(self, count: int, reason: DropReason | None = None) -> None:
        """Let the oldest events go; without a reason, the caller accounts for them."""
        for segment in self._segments:
            if count <= 0:
                break
            taken = min(count, segment.waiting)
            self._lose(segment, taken, reason)
            count -= taken

    def _lose(self, segment: Segment, count: int, reason: DropReason | None) -> None:
        """Let the oldest events of a segment go, and note why."""
        if count and reason is not None:
            first = segment.first + segment.taken
            self._note_loss(first, first + count - 1, reason)
        segment.take(count)
        self._departed += count

    def _note_loss(self, first: int, last: int, reason: DropReason) -> None:
        losses = self._losses
        if losses and losses[-1][1] == first - 1 and losses[-1][2] is reason:
            losses[-1] = (losses[-1][0], last, reason)
        else:
            losses.append((first, last, reason))

    def take_losses(self) -> list[Loss]:
        """Return the events that were dropped here since the last call, oldest first.

        Those that :meth:`clear` has removed are not among them.
        """
        is_alone = self._is_alone
        with self._lock:
            if not is_alone:
                return []
            self._settle()
            losses, self._losses = sorted(self._losses), deque(maxlen=_MAX_LOSSES)
        return losses

    def _keep_to_max_bytes(self, more: int) -> None:
        """Drop the oldest events until there is room for so many bytes more."""
        while self.size + more > self.max_bytes and self._drop_oldest():
            pass

    def drop_oldest_segment(self) -> int:
        """Drop the events of the oldest file; return how many bytes that frees. Not the active one.

        They count as ``expired``. The file goes with the next call of :meth:`maintain`.
        """
        is_alone = self._is_alone
        with self._lock:
            if not is_alone:
                return 0
            self._catch_up()
            return self._drop_oldest()

    def _drop_oldest(self) -> int:
        oldest = next((s for s in self._segments if s.path is not None and s.is_sealed), None)
        if oldest is None:
            return 0
        freed = oldest.file_bytes
        while self._segments[0] is not oldest:  # in memory, and even older
            self._expire()
        self._expire()
        return freed

    def _expire(self) -> None:
        oldest = self._segments.popleft()
        self._expired += oldest.waiting
        self._lose(oldest, oldest.waiting, DropReason.EXPIRED)
        oldest.file_bytes = 0
        self._doomed.append(oldest)

    @property
    def size(self) -> int:
        """The size of this run's files, in bytes."""
        with self._lock:
            return sum(segment.file_bytes for segment in (*self._segments, *self._rotation.ahead))

    # Taking events out.

    def drain(self, limit: int) -> list[EncodedEvent]:
        """Remove and return the oldest events, at most ``limit`` of them, oldest first."""
        return [event for event, _ in self.drain_numbered(limit)]

    def drain_numbered(self, limit: int) -> list[tuple[EncodedEvent, int]]:
        """Like :meth:`drain`, but each event has its number in the order of pushes, from 1.

        A gap in the numbers is an event that was dropped.
        """
        drained: list[tuple[EncodedEvent, int]] = []
        left = limit
        while left > 0:
            is_alone = self._is_alone
            with self._lock:
                if not is_alone:
                    break
                self._settle()
                segment = next((s for s in self._segments if s.waiting), None)
                if segment is None:
                    break
                place, offset = segment.taken, segment.taken_to
                lengths = segment.lengths[place : place + min(left, _MAX_CHUNK_RECORDS)]
            events = self._events(segment, offset, lengths)
            count = len(lengths)
            with self._lock:
                if segment.taken != place:  # another thread has taken or dropped them
                    continue
                segment.take(count)
                self._departed += count
            left -= count
            readable = [
                (event, number)
                for number, event in enumerate(events, segment.first + place)
                if event is not None
            ]
            drained += readable
            if len(readable) < count:
                with self._lock:
                    self._expired += count - len(readable)
                    first, read = segment.first + place, {number for _, number in readable}
                    for number in range(first, first + count):
                        if number not in read:
                            self._note_loss(number, number, DropReason.EXPIRED)
        return drained

    def _events(
        self, segment: Segment, offset: int, lengths: Sequence[int]
    ) -> Sequence[EncodedEvent | None]:
        """Return the events in records of a segment, with None for those that are unreadable."""
        data = self._read(segment, offset, lengths)
        events = self._reader.read_many(data, lengths)
        return [*map(self._event_of, _cut(data, lengths))] if events is None else events

    def _read(self, segment: Segment, offset: int, lengths: Sequence[int]) -> bytes:
        """Return the bytes of records of a segment; none if they can't be read."""
        try:
            return segment.read(offset, sum(lengths))
        except OSError as error:
            if segment.generation == self._generation:  # otherwise it was erased
                self.fall_back(error)
            return b""

    def _event_of(self, record: bytes) -> EncodedEvent | None:
        """Return the event of a record; None if it is unreadable.

        Data that isn't JSON, from a ``msgspec.Raw``, is handed on as it is.
        """
        with contextlib.suppress(RecordError):
            return self._reader.read(record)
        with contextlib.suppress(RecordError):
            if match := _read_leniently(record):
                return EncodedEvent(prefix_of_kind(match[2]), int(match[1]), match[3])
        return None

    def peek(self, limit: int) -> list[EncodedEvent]:
        """Return the oldest events, at most ``limit``, oldest first, without removing them."""
        parts: list[tuple[Segment, int, Sequence[int]]] = []
        left = limit
        is_alone = self._is_alone
        with self._lock:
            if is_alone:
                self._settle()
            for segment in self._segments:
                lengths = segment.lengths[segment.taken : segment.taken + max(0, left)]
                left -= len(lengths)
                parts.append((segment, segment.taken_to, lengths))
        events = chain.from_iterable(self._events(*part) for part in parts)
        return [event for event in events if event is not None]

    def clear(self) -> int:
        """Remove all events that are there now; return how many there were.

        They don't count as dropped: the caller counts them by reason.
        """
        is_alone = self._is_alone
        with self._lock:
            if not is_alone:
                return 0
            self._settle()
            waiting = self._waiting
            self._skip(waiting)
        return waiting

    # Counts.

    def __len__(self) -> int:
        return self.departed_and_waiting()[1]

    @property
    def dropped(self) -> int:
        """How many events were dropped because there were more than the capacity."""
        is_alone = self._is_alone
        with self._lock:
            if is_alone:
                self._settle()
            return self._dropped

    @property
    def expired(self) -> int:
        """How many events were dropped because of the limit in bytes, or could not be read."""
        return self._expired

    @property
    def erased(self) -> int:
        """How many events were waiting when they were erased."""
        return self._erased

    @property
    def departed(self) -> int:
        """How many events have left in any way, which is also the number of the last of them."""
        return self.departed_and_waiting()[0]

    @property
    def pushed(self) -> int:
        """How many events were ever pushed, which is also the number of the newest one."""
        return sum(self.departed_and_waiting())

    def departed_and_waiting(self) -> tuple[int, int]:
        """Return how many events have left and how many are waiting, at the same moment."""
        is_alone = self._is_alone
        with self._lock:
            if is_alone:
                self._settle()
            return self._departed, self._waiting

    # On the worker.

    def confirm(self, number: int) -> None:
        """Note that all events up to a number are settled. Their files go with :meth:`maintain`."""
        self._confirmed = max(self._confirmed, number)

    def maintain(self) -> float | None:
        """Write entries, sync, prepare; return when to call it next, in monotonic seconds.

        None means that there is no need to.
        """
        self._turn_ends = self._clock() + _TURN
        self._scan()
        try:
            self._retry()
            self._free_confirmed()
            self._delete_doomed()
            self._fill_spares()  # before the sync, which may take long
            unsynced = min(self._reached, len(self._segments))
            if self._clock() >= self._sync_at or unsynced >= _MAX_UNSYNCED:
                self._write_entries()
                self._sync()
                self._scan()
        except OSError as error:
            self.fall_back(error)
        finally:
            self._on_disk_since = None
        return None if self._run is None else self._sync_at

    def _rest(self) -> None:
        """Let the game have its turn after a while; see the worker's pacing, which does the same.

        A system call is over before a waiting thread has woken up, so it isn't enough.
        """
        if self._clock() >= self._turn_ends:
            rest()
            self._turn_ends = self._clock() + _TURN

    def _scan(self) -> None:
        """Count what is new, piece by piece, and keep to the capacity."""
        has_more = True
        while has_more:
            with self._lock:
                has_more = self._count_some()
            self._rest()
        with self._lock:
            self._settle()

    def _touch_disk(self) -> None:
        """Note that a disk operation begins, for threads that don't want to wait for the disk."""
        self._on_disk_since = self._clock()

    def _files(self) -> list[Segment]:
        """Return the segments in whose files something can be written."""
        with self._lock:
            return [segment for segment in self._segments if segment.is_open]

    def _retry(self) -> None:
        """Try the disk again after a while."""
        run, header, generation = self._run, self._header, self._generation
        is_due = self._is_in_trouble and self._clock() >= self._retry_at
        if not is_due or run is None or header is None:
            return
        self._touch_disk()
        segment = self._file(run, header)  # raises if there still is trouble
        with self._lock:
            if generation == self._generation:
                self._is_in_trouble = False
                self._limit = self.capacity
                self._switch_to(segment, is_alone=True)
                return
        segment.delete()

    def _write_entries(self) -> None:
        files = self._files()
        for segment in files:
            self._index(segment)
        if files and self._confirmed > self._confirmed_on_disk:
            self._write_confirmed(files)

    def _write_confirmed(self, files: Sequence[Segment]) -> None:
        number = self._confirmed
        # Not in a segment without records, since a stop removes those.
        last = next((segment for segment in reversed(files) if segment.lengths), files[-1])
        last.set_confirmed(number)
        self._confirmed_on_disk = number

    def _index(self, segment: Segment) -> None:
        """Write the lengths and checksums of records that are counted and not settled."""
        total = len(segment.lengths)
        while segment.indexed < total:
            lengths = segment.lengths[segment.indexed : segment.indexed + _MAX_CHUNK_RECORDS]
            number = segment.first + segment.indexed
            is_settled = number + len(lengths) - 1 <= self._confirmed
            if not is_settled and (data := self._read(segment, segment.indexed_to, lengths)):
                self._touch_disk()
                offset = segment.indexed_to - HEADER_BYTES
                segment.append(index_entry(number, offset, _cut(data, lengths)))
                self._rest()
            segment.indexed += len(lengths)
            segment.indexed_to += sum(lengths)

    def _sync(self) -> None:
        self._sync_at = self._clock() + _SYNC_INTERVAL
        # A sync may take long, and an emit that finds no spare has to wait for the disk. So there
        # are more spares than the time between two syncs takes.
        wanted = max(self._fewest_spares, 2 * self._reached)
        self._spares_wanted = min(wanted, self._most_spares)
        self._reached = 0
        files = self._files()
        # What is settled need not outlive anything.
        unsynced = [s for s in files if not s.is_synced and s.last > self._confirmed]
        if unsynced and self._has_new_names and self._run is not None:
            self._has_new_names = False
            self._touch_disk()
            self._run.sync()
        for segment in unsynced:
            self._touch_disk()
            segment.sync()
        for segment in files:
            is_complete = segment.is_synced and segment.indexed == len(segment.lengths)
            if segment.is_sealed and is_complete and segment.has_file:
                segment.close()  # what still waits in it is read from the file
                self._rest()

    def _free_confirmed(self) -> None:
        """Give up the oldest segments if all of their events are settled."""
        with self._lock:
            settled: list[Segment] = []
            for segment in self._segments:
                if not segment.is_sealed or segment.waiting or segment.last > self._confirmed:
                    break
                settled.append(segment)
        if not settled:
            return
        # First of all in a file that stays, or the next start would take these events for dropped
        # ones. While the disk is in trouble, there may be none.
        if left := [segment for segment in self._files() if segment not in settled]:
            self._write_confirmed(left)
        elif self._run is not None and not self._is_in_trouble:
            return
        # The number of the next one was written before any of its records was synced. So if a power
        # cut leaves it without that, it loses only records of the last second.
        with self._lock:
            for segment in settled:
                if self._segments and self._segments[0] is segment:
                    self._doomed.append(self._segments.popleft())

    def _delete_doomed(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._doomed.popleft().delete()
                self._rest()

    def _fill_spares(self) -> None:
        missing = self._spares_wanted - self._rotation.spares
        if missing <= 0:
            return
        for _ in range(missing):
            if self._run is None or self._is_in_trouble:
                break
            self._touch_disk()
            self._add_spare(in_memory=False)
            self._rest()
        if self._run is not None:
            with self._lock:
                self._keep_to_max_bytes(0)
            self._delete_doomed()

    def in_files(self) -> list[tuple[int, int]]:
        """Return the numbers of the unsettled events that are in files, as ascending runs."""
        runs: list[tuple[int, int]] = []
        is_alone = self._is_alone
        with self._lock:
            if is_alone:
                self._settle()
            for segment in self._segments:
                first, last = max(segment.first, self._confirmed + 1), segment.last
                if segment.path is None or first > last:
                    continue
                if runs and runs[-1][1] == first - 1:
                    first = runs.pop()[0]
                runs.append((first, last))
        return runs

    def close(self, *, keep: bool) -> int:
        """End. Events that come later are kept in memory.

        Args:
            keep: keep the files in which events are not settled.

        Returns:
            How many events are left in the files.
        """
        is_alone = self._is_alone
        with self._lock:
            self._rotation.retire_all()
            if is_alone:
                self._catch_up()
            self._limit_memory()
            run, self._run = self._run, None
        left = 0
        if keep and run is not None:
            try:
                self._write_entries()
                # Any of them may be the last one: if a kill comes, also one that is to be deleted.
                for segment in self._files():
                    segment.set_confirmed(self._confirmed)
                self._sync()
            except OSError as error:
                self.fall_back(error)
        self._on_disk_since = None
        with self._lock:
            segments = tuple(self._segments)
        for segment in segments:
            unsettled = segment.last - max(segment.first - 1, self._confirmed)
            if segment.path is None:
                continue
            if keep and unsettled > 0:
                left += unsettled
                segment.close()
            else:
                segment.delete()
        self._delete_doomed()
        return left


def _cut(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    """Return the records of these lengths; fewer if there are not enough bytes."""
    ends = accumulate(lengths)
    pairs = zip(ends, lengths, strict=True)
    return [data[end - length : end] for end, length in pairs if end <= len(data)]
