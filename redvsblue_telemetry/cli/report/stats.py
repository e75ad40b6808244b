"""Figures that are made from events one by one, in memory that doesn't grow with their number."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from itertools import chain, count
from typing import Any

import msgspec

__all__ = ["BIN_EDGES", "Distribution", "FrameTimes", "Timeline", "frame_time"]

_MOST_EXACT = 4096  # different numbers of a distribution
_GROWTH = math.log(1.002)  # from one bucket of a distribution to the next
_LONGEST_FRAME = 60_000.0  # ms; what is longer is a pause, or a mistake
BIN_EDGES = (4.0, 8.0, 12.0, 16.7, 20.0, 25.0, 33.4, 50.0, 66.7, 100.0, 200.0, 500.0)
"""Milliseconds up to which the bins of the frame times go; the last bin has no end."""

_MOST_BINS = 150
# Seconds; each is a multiple of the one before, so that bins can be joined. Then by fours.
_WIDTHS = (1, 5, 15, 60, 300, 900, 3600, 14_400, 43_200, 86_400, 604_800)


class Distribution:
    """How numbers above 0 are distributed.

    While few of them differ, they are kept as they are; then any share of them is known to within
    0.1 per cent.
    """

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()
        self._is_exact = True  # the counts are of numbers; and of buckets, once they are too many
        self.count = 0
        self.largest = 0.0

    def add(self, value: float) -> None:
        """Count a number."""
        self._counts[value if self._is_exact else _bucket(value)] += 1
        self.count += 1
        self.largest = max(self.largest, value)
        if self._is_exact and len(self._counts) > _MOST_EXACT:
            self._round()

    def _round(self) -> None:
        exact, self._counts, self._is_exact = self._counts, Counter(), False
        for value, number in exact.items():
            self._counts[_bucket(value)] += number

    def quantile(self, share: float) -> float:
        """The number that so great a share of them does not exceed; 0.0 if there are none."""
        wanted = math.ceil(share * self.count)
        for key in sorted(self._counts):
            wanted -= self._counts[key]
            if wanted <= 0:
                middle = key if self._is_exact else math.exp((key + 0.5) * _GROWTH)
                return min(self.largest, middle)
        return self.largest


def _bucket(value: float) -> int:
    return math.floor(math.log(value) / _GROWTH)


class _Fields(msgspec.Struct):
    """The fields of an event's data that can be a frame time; whatever they are."""

    frame_time_ms: Any = None
    frameTimeMs: Any = None  # noqa: N815 (what games write)
    frame_ms: Any = None
    frameMs: Any = None  # noqa: N815
    fps: Any = None


_read_fields = msgspec.json.Decoder(_Fields).decode


def frame_time(data: msgspec.Raw) -> float | None:
    """The frame time that an event tells, in milliseconds; None if it tells none.

    It is the first of these fields that is a number: ``frame_time_ms``, ``frameTimeMs``,
    ``frame_ms``, ``frameMs`` (milliseconds), ``fps`` (frames a second). Each says its unit; ``dt``
    is seconds in some games and milliseconds in others, so it is not taken.

    Args:
        data: the event's, as JSON.
    """
    try:
        fields = _read_fields(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    for value in (fields.frame_time_ms, fields.frameTimeMs, fields.frame_ms, fields.frameMs):
        if _is_positive(value):
            return _plausible(value)
    if _is_positive(fields.fps):
        return _plausible(1000.0 / fields.fps)
    return None


def _is_positive(value: object) -> bool:
    # Within what a float can be; an integer of JSON may be beyond it.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e300


def _plausible(milliseconds: float) -> float | None:
    return float(milliseconds) if 0 < milliseconds <= _LONGEST_FRAME else None


class FrameTimes(Distribution):
    """How long frames took, in milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.bins = [0] * (len(BIN_EDGES) + 1)

    def add(self, value: float) -> None:
        """Count a frame."""
        super().add(value)
        self.bins[bisect_left(BIN_EDGES, value)] += 1

    def slower_than(self, edge: float) -> float:
        """The share of frames that took longer than an edge of the bins."""
        if not self.count:
            return 0.0
        return sum(self.bins[BIN_EDGES.index(edge) + 1 :]) / self.count


class Timeline:
    """How many events there were when, in bins of equal width that adapts to the time they span.

    Args:
        types: those that are told apart; all others are counted together, after them.
    """

    def __init__(self, types: Iterable[str]) -> None:
        self._series = {name: index for index, name in enumerate(types)}
        self._others = len(self._series)
        self._bins: dict[int, list[int]] = {}
        self._widths = chain(_WIDTHS, (_WIDTHS[-1] * 4**n for n in count(1)))
        self.width = next(self._widths)
        """Seconds."""
        self._first = self._last = 0

    def add(self, milliseconds: int, type_: str) -> None:
        """Count an event.

        Args:
            milliseconds: since the epoch.
            type_: its type.
        """
        number = milliseconds // (self.width * 1000)
        counts = self._bins.get(number)
        if counts is None:
            if not self._bins:
                self._first = self._last = number
            self._first, self._last = min(self._first, number), max(self._last, number)
            counts = self._bins[number] = [0] * (self._others + 1)
        counts[self._series.get(type_, self._others)] += 1
        while self._last - self._first >= _MOST_BINS:
            self._widen()

    def _widen(self) -> None:
        before, self.width = self.width, next(self._widths)
        joined: dict[int, list[int]] = {}
        for number, counts in self._bins.items():
            into = joined.setdefault(number * before // self.width, [0] * len(counts))
            for index, events in enumerate(counts):
                into[index] += events
        self._bins = joined
        self._first, self._last = min(joined), max(joined)

    def bins(self) -> list[tuple[int, list[int]]]:
        """Each bin from the first to the last: its start in seconds, its count of each type."""
        if not self._bins:
            return []
        nothing = [0] * (self._others + 1)
        return [
            (number * self.width, self._bins.get(number, nothing))
            for number in range(self._first, self._last + 1)
        ]
