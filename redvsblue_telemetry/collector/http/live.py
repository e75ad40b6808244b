"""What has just come, for whoever looks on.

Ingest pays for it by one call for each group that is stored. What a viewer gets is put together at
the viewer's own pace, from the newest few thousand events: a viewer that is slow, or events that
are too many to be looked at, mean that fewer of them are shown. That is said, and counts are always
whole. Whatever is kept here is bounded: in number, and in bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator

from ..messages import Event
from ..models import EventFilter, LiveUpdate, StoredEvent
from ..storage.writer import Stored

__all__ = ["Live"]

_HISTORY = 300  # seconds of counts
_TYPES = 40  # that are counted apart in one second
_TYPE_LENGTH = 200  # of a name that is; longer ones are counted with the rest
_KEPT = 4000  # newest events that can be looked at
_KEPT_BYTES = 8 * 1024 * 1024
_OF_GROUP = 400  # of those that were stored at once, so that a flood costs ingest little
_SHOWN = 40  # of them at most in one look
_SHOWN_BYTES = 512 * 1024
_INTERVAL = 0.5  # seconds between two looks
_VIEWERS = 100  # at once


class Live:
    """The newest events and the counts of the last minutes. On the event loop's thread.

    Args:
        connections: how many clients are connected now.
        clock: seconds since the epoch.
    """

    def __init__(
        self, connections: Callable[[], int], clock: Callable[[], float] = time.time
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._newest: deque[StoredEvent] = deque()
        self._newest_bytes = 0
        self._seconds: deque[tuple[int, dict[str, int]]] = deque(maxlen=_HISTORY)
        self._total = self._repeats = self._rejected = 0
        self._closing = asyncio.Event()
        self.viewers = 0
        """How many look on now."""

    @property
    def is_full(self) -> bool:
        """Whether as many look on as may."""
        return self.viewers >= _VIEWERS

    def note(self, stored: Stored) -> None:
        """Note what has just been stored."""
        events = stored.events
        self._total += len(events)
        self._repeats += stored.repeats
        self._rejected += stored.rejected
        if events:
            skipped = max(0, len(events) - _OF_GROUP)
            self._keep(events[skipped:], stored.first_arrival + skipped, stored.received)
            self._count(stored.by_type)

    def _keep(self, events: list[Event], first_arrival: int, received: int) -> None:
        newest = self._newest
        for number, event in enumerate(events, first_arrival):
            kept = _as_stored(event, number, received)
            newest.append(kept)
            self._newest_bytes += _size(kept)
        while len(newest) > _KEPT or (self._newest_bytes > _KEPT_BYTES and len(newest) > 1):
            self._newest_bytes -= _size(newest.popleft())

    def _count(self, by_type: dict[str, int]) -> None:
        second = int(self._clock())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, {}))
        counts = self._seconds[-1][1]
        for name, count in by_type.items():
            is_apart = name in counts or (len(counts) < _TYPES and len(name) <= _TYPE_LENGTH)
            type_ = name if is_apart else ""
            counts[type_] = counts.get(type_, 0) + count

    def _later_than(self, arrival: int) -> list[StoredEvent]:
        """Those of the newest events that arrived later, the newest first."""
        later: list[StoredEvent] = []
        for event in reversed(self._newest):
            if event.arrival <= arrival:
                break
            later.append(event)
        return later

    def forget(self) -> None:
        """All that was stored is deleted."""
        self._newest.clear()
        self._newest_bytes = 0

    def close(self) -> None:
        """Let the viewers go."""
        self._closing.set()

    @contextlib.contextmanager
    def viewing(self) -> Iterator[None]:
        """Somebody looks on."""
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1

    async def watch(self, wanted: EventFilter) -> AsyncGenerator[LiveUpdate, None]:
        """Look again and again, until the collector closes.

        Args:
            wanted: which events the viewer wants to see.
        """
        seen, second = 0, 0
        total = self._total
        while not self._closing.is_set():
            now = int(self._clock())
            fresh = self._later_than(seen)
            matching = wanted.matching(fresh)
            arrived, total = self._total - total, self._total
            look = LiveUpdate(
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
            seen, second = (fresh[0].arrival if fresh else seen), now
            del fresh, matching  # a viewer that is slow to take it keeps no more than the look
            yield look
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _INTERVAL)


def _as_stored(event: Event, arrival: int, received: int) -> StoredEvent:
    return StoredEvent(
        arrival=arrival,
        received=received,
        session_id=event.session_id,
        seq=event.seq,
        type=event.type,
        timestamp=event.timestamp,
        id=event.id,
        data=event.data.copy(),  # else it keeps the whole message that it came in
        version=event.version,
    )


def _shown(newest_first: list[StoredEvent]) -> list[StoredEvent]:
    """As many of the newest as one look may have, oldest first."""
    shown: list[StoredEvent] = []
    size = 0
    for event in newest_first[:_SHOWN]:
        size += _size(event)
        if shown and size > _SHOWN_BYTES:
            break
        shown.append(event)
    return shown[::-1]


def _size(event: StoredEvent) -> int:
    """About how many bytes an event takes that whoever sent it could choose."""
    texts = len(event.session_id) + len(event.type) + len(event.id) + len(event.version or "")
    return memoryview(event.data).nbytes + texts
