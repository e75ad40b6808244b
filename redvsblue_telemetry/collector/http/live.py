"""The live stream: the newest events, and counts of the last minutes, for viewers of the page.

It costs ingest one call for each stored group. Each viewer's updates are made at the viewer's own
pace, from the newest few thousand events. A slow viewer, or a flood of events, gets a sample of the
events, and the update says so; the counts are always complete. Everything kept here is bounded, in
number and in bytes.

Wherever events are left out, the sessions share the room: one that floods the collector doesn't
hide the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

import msgspec

from ..messages import Event
from ..models import EventFilter, LiveUpdate, StoredEvent
from ..storage.writer import Stored

__all__ = ["MAX_EVENTS_PER_GROUP", "Live"]

_HISTORY_SECONDS = 300  # of counts
_MAX_TYPES_PER_SECOND = 40  # with counts of their own; the others share one
_MAX_TYPE_LENGTH = 200  # characters; longer names are counted with the others
_MAX_EVENTS = 4000  # kept
_MAX_EVENT_BYTES = 8 * 1024 * 1024  # kept
MAX_EVENTS_PER_GROUP = 400
"""The most events that are kept of one stored group, so that a flood costs ingest little."""
_MAX_EVENTS_PER_UPDATE = 40
_MAX_BYTES_PER_UPDATE = 512 * 1024
_UPDATE_INTERVAL = 0.5  # seconds
_BRACE = ord("{")
_MAX_VIEWERS = 100


class Live:
    """The newest events and the counts of the last minutes. Runs on the event loop's thread.

    Args:
        connections: returns the number of connected clients.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self, connections: Callable[[], int], clock: Callable[[], float] = time.time
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._newest: deque[tuple[int, StoredEvent]] = deque()
        self._last = 0  # the number of the newest one; in a lake, arrivals come in any order
        self._newest_bytes = 0
        self._seconds: deque[tuple[int, dict[str, int]]] = deque(maxlen=_HISTORY_SECONDS)
        self._total = self._repeats = self._rejected = 0
        self._closing = asyncio.Event()
        self.viewers = 0
        """The number of viewers now."""

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return self._connections()

    @property
    def is_full(self) -> bool:
        """Whether there are as many viewers as allowed."""
        return self.viewers >= _MAX_VIEWERS

    def record(self, stored: Stored) -> None:
        """Take in a group that was just stored."""
        self.add(_sample(stored), stored.by_type, stored.repeats, stored.rejected)

    def add(
        self, sample: Iterable[StoredEvent], by_type: dict[str, int], repeats: int, rejected: int
    ) -> None:
        """Take in what was just stored.

        Args:
            sample: some of the events, at most :data:`MAX_EVENTS_PER_GROUP`.
            by_type: the number of all events of each type.
            repeats: how many repeats there were.
            rejected: how many messages, or parts of them, were rejected.
        """
        self._total += sum(by_type.values())
        self._repeats += repeats
        self._rejected += rejected
        if by_type:
            self._keep(sample)
            self._count(by_type)

    def _keep(self, sample: Iterable[StoredEvent]) -> None:
        newest = self._newest
        for event in sample:
            self._last += 1
            newest.append((self._last, event))
            self._newest_bytes += _size(event)
        if len(newest) > _MAX_EVENTS:
            # Half of them at once, so that the work for each event stays small.
            kept = list(newest)
            sessions = [event.session_id for _, event in kept]
            newest.clear()
            newest.extend(kept[place] for place in _shares(sessions, _MAX_EVENTS // 2))
            self._newest_bytes = sum(_size(event) for _, event in newest)
        while self._newest_bytes > _MAX_EVENT_BYTES and len(newest) > 1:
            self._newest_bytes -= _size(newest.popleft()[1])

    def _count(self, by_type: dict[str, int]) -> None:
        second = int(self._clock())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, {}))
        counts = self._seconds[-1][1]
        for name, count in by_type.items():
            has_room = len(counts) < _MAX_TYPES_PER_SECOND and len(name) <= _MAX_TYPE_LENGTH
            type_ = name if has_room or name in counts else ""
            counts[type_] = counts.get(type_, 0) + count

    def _later_than(self, last: int) -> list[StoredEvent]:
        """Return the kept events that were added after the one with a number, newest first."""
        later: list[StoredEvent] = []
        for number, event in reversed(self._newest):
            if number <= last:
                break
            later.append(event)
        return later

    def forget(self, deleted: EventFilter | None = None) -> None:
        """Forget the events that were deleted; None is all of them."""
        events = [event for _, event in self._newest]
        gone = {id(event) for event in (deleted or EventFilter()).matching(events)}
        self._newest = deque(entry for entry in self._newest if id(entry[1]) not in gone)
        self._newest_bytes = sum(_size(event) for _, event in self._newest)

    def close(self) -> None:
        """End all streams."""
        self._closing.set()

    @contextlib.contextmanager
    def viewing(self) -> Iterator[None]:
        """Count one more viewer."""
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1

    async def updates(self, wanted: EventFilter) -> AsyncGenerator[LiveUpdate, None]:
        """Yield an update twice a second until the collector closes.

        Args:
            wanted: selects the events to show; the counts are of all events.
        """
        seen, second = 0, 0
        total = self._total
        while not self._closing.is_set():
            now = int(self._clock())
            fresh = self._later_than(seen)
            matching = wanted.matching(fresh)
            arrived, total = self._total - total, self._total
            update = LiveUpdate(
                now=now,
                seconds=[entry for entry in self._seconds if second <= entry[0] < now],
                events=_shown(matching),
                arrived=arrived,
                skipped=max(0, arrived - len(fresh)),
                matching=len(matching),
                total=total,
                repeats=self._repeats,
                rejected=self._rejected,
                connections=self._connections(),
            )
            seen, second = self._last, now
            del fresh, matching  # otherwise a slow viewer would keep these alive, too
            yield update
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _UPDATE_INTERVAL)


def _sample(stored: Stored) -> Iterator[StoredEvent]:
    """Yield some events of a group, which its sessions share."""
    sessions = [event.session_id for event in stored.events]
    for place in _shares(sessions, MAX_EVENTS_PER_GROUP):
        event = stored.events[place]
        kept = _as_stored(event, stored.first_arrival + place, stored.received)
        kept.fault = stored.faults.get(place)
        yield kept


def _as_stored(event: Event, arrival: int, received: int) -> StoredEvent:
    context = event.context
    if context is not msgspec.UNSET:  # only an object is a context, as in the database
        context = context.copy() if memoryview(context)[0] == _BRACE else msgspec.UNSET
    return StoredEvent(
        arrival=arrival,
        received=received,
        session_id=event.session_id,
        seq=event.seq,
        type=event.type,
        timestamp=event.timestamp,
        id=event.id,
        data=event.data.copy(),  # a view would keep the whole message alive
        version=event.version,
        context=context,
    )


def _shown(newest_first: list[StoredEvent]) -> list[StoredEvent]:
    """Return a fair sample of the events that fits into one update, oldest first."""
    shown: list[StoredEvent] = []
    size = 0
    for event in reversed(_fair(newest_first[::-1], _MAX_EVENTS_PER_UPDATE)):
        if shown and size + _size(event) > _MAX_BYTES_PER_UPDATE:
            continue  # a smaller one of another session may still fit
        size += _size(event)
        shown.append(event)
    return shown[::-1]


def _fair(oldest_first: list[StoredEvent], limit: int) -> list[StoredEvent]:
    sessions = [event.session_id for event in oldest_first]
    return [oldest_first[place] for place in _shares(sessions, limit)]


def _shares(sessions: Sequence[str], limit: int) -> list[int]:
    """Return the places of ``limit`` events, in order, that are shared among their sessions.

    A session gets its newest events. One that has fewer than its share leaves the rest to the
    others; if there are more sessions than places, those with the newest events get one each.

    Args:
        sessions: the session of each event, in order of arrival.
        limit: how many places to return, or all if there are no more.
    """
    if len(sessions) <= limit:
        return list(range(len(sessions)))
    counts = Counter(sessions)
    left, share, waiting = limit, 0, len(counts)
    for count in sorted(counts.values()):
        share = left // waiting
        if count > share:
            break
        left -= count
        waiting -= 1
    left -= share * waiting  # those that have more than a share get the few that remain
    chosen: list[int] = []
    taken: dict[str, int] = {}
    for place in range(len(sessions) - 1, -1, -1):
        session = sessions[place]
        count = taken.get(session, 0)
        if count == share and left:
            left -= 1
        elif count >= share:
            continue
        taken[session] = count + 1
        chosen.append(place)
        if len(chosen) == limit:
            break
    return chosen[::-1]


def _size(event: StoredEvent) -> int:
    """Return the size in bytes of all that the sender of an event chose, approximately."""
    names = (event.session_id, event.type, event.id, event.version or "", event.fault or "")
    texts = sum(map(len, names))
    context = 0 if event.context is msgspec.UNSET else memoryview(event.context).nbytes
    return memoryview(event.data).nbytes + context + texts
