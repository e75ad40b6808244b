"""Statistics over many events, in memory that doesn't grow with their number."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, count
from typing import Any

import msgspec

__all__ = [
    "COLORED_TYPES",
    "FRAME_TIME_EDGES",
    "FRAME_TIME_FIELDS",
    "FRAME_TIME_PARTS",
    "Distribution",
    "FrameTimeSummary",
    "FrameTimes",
    "Timeline",
    "TimelineBins",
    "frame_times",
]

COLORED_TYPES = 8
"""The palette has a color for each of the most frequent types, and one for all others."""
FRAME_TIME_EDGES = (4.0, 8.0, 12.0, 16.7, 20.0, 25.0, 33.4, 50.0, 66.7, 100.0, 200.0, 500.0)
"""The upper edges of the histogram's bins, in milliseconds; the last bin is open."""

_MAX_EXACT_VALUES = 4096  # different values that a distribution keeps
_LOG_BUCKET_RATIO = math.log(1.002)  # from one bucket of a distribution to the next
_MAX_FRAME_TIME = 60_000.0  # milliseconds; a longer one is a pause, or a mistake
_MAX_BINS = 150  # of a timeline
# Seconds; each is a multiple of the one before, so that bins can be joined. Then times four.
_BIN_WIDTHS = (1, 5, 15, 60, 300, 900, 3600, 14_400, 43_200, 86_400, 604_800)


class Distribution:
    """A distribution of numbers above 0.

    Exact up to 4,096 different values; with more, quantiles are within 0.1 percent.
    """

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()
        self._is_exact = True  # counts values; with too many different ones, buckets
        self.count = 0
        self.largest = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Count numbers."""
        self._counts.update(values if self._is_exact else map(_bucket, values))
        self.count += len(values)
        self.largest = max(self.largest, *values, 0.0)
        if self._is_exact and len(self._counts) > _MAX_EXACT_VALUES:
            self._round()

    def _round(self) -> None:
        exact, self._counts, self._is_exact = self._counts, Counter(), False
        for value, number in exact.items():
            self._counts[_bucket(value)] += number

    def quantile(self, share: float) -> float:
        """Return the number that a share of all numbers does not exceed; 0.0 if there are none."""
        left = math.ceil(share * self.count)
        for key in sorted(self._counts):
            left -= self._counts[key]
            if left <= 0:
                middle = key if self._is_exact else math.exp((key + 0.5) * _LOG_BUCKET_RATIO)
                return min(self.largest, middle)
        return self.largest


def _bucket(value: float) -> int:
    return math.floor(math.log(value) / _LOG_BUCKET_RATIO)


class _Fields(msgspec.Struct):
    """The fields of an event's data that can be a frame time, of any type."""

    frame_time_ms: Any = None
    frameTimeMs: Any = None  # noqa: N815 (what games write)
    frame_ms: Any = None
    frameMs: Any = None  # noqa: N815
    fps: Any = None


_read_fields = msgspec.json.Decoder(_Fields).decode
_read_many = msgspec.json.Decoder(list[_Fields]).decode
FRAME_TIME_FIELDS = _Fields.__struct_fields__
"""The names of the fields that can be a frame time."""
FRAME_TIME_PARTS = ("frame", "fps", "\\u00")
"""The JSON of every event with a frame time contains one of these: a letter may be escaped."""


def frame_times(data: Sequence[str]) -> list[float]:
    """Return the frame times in the data of some events, in milliseconds.

    The frame time of an event is the first of these fields that is a number: ``frame_time_ms``,
    ``frameTimeMs``, ``frame_ms``, ``frameMs`` (milliseconds), ``fps`` (frames per second). ``dt``
    is ignored: some games give it in seconds, others in milliseconds.
    """
    try:
        found = [_frame_time(fields) for fields in _read_many(f"[{','.join(data)}]")]
    except _UNREADABLE:
        found = [_frame_time_of(each) for each in data]
    return [value for value in found if value is not None]


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _frame_time_of(data: str) -> float | None:
    try:
        return _frame_time(_read_fields(data))
    except _UNREADABLE:
        return None


def _frame_time(fields: _Fields) -> float | None:
    for value in (fields.frame_time_ms, fields.frameTimeMs, fields.frame_ms, fields.frameMs):
        if _is_positive(value):
            return _plausible(value)
    if _is_positive(fields.fps):
        return _plausible(1000.0 / fields.fps)
    return None


def _is_positive(value: object) -> bool:
    # An integer in JSON can be larger than any float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e300


def _plausible(milliseconds: float) -> float | None:
    return float(milliseconds) if 0 < milliseconds <= _MAX_FRAME_TIME else None


class FrameTimeSummary(msgspec.Struct, frozen=True):
    """Statistics of frame times, in milliseconds."""

    count: int
    median: float
    percentile_99: float
    slowest: float
    below_60_fps: int
    """The number of frames that took longer than a 60th of a second."""
    below_30_fps: int
    bins: list[int]
    """The number of frames in each bin; see ``FRAME_TIME_EDGES``."""


class FrameTimes(Distribution):
    """The distribution of frame times, in milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.bins = [0] * (len(FRAME_TIME_EDGES) + 1)

    def add(self, values: Sequence[float]) -> None:
        """Count frames."""
        super().add(values)
        places = Counter(map(partial(bisect_left, FRAME_TIME_EDGES), values))
        self.bins = [frames + places[place] for place, frames in enumerate(self.bins)]

    def summary(self) -> FrameTimeSummary | None:
        """Return the statistics, or None if there are no frames."""
        if not self.count:
            return None
        return FrameTimeSummary(
            count=self.count,
            median=self.quantile(0.5),
            percentile_99=self.quantile(0.99),
            slowest=self.largest,
            below_60_fps=self._slower_than(16.7),
            below_30_fps=self._slower_than(33.4),
            bins=self.bins,
        )

    def _slower_than(self, edge: float) -> int:
        return sum(self.bins[FRAME_TIME_EDGES.index(edge) + 1 :])


class TimelineBins(msgspec.Struct, frozen=True):
    """The bins of a timeline, from the first to the last."""

    width: int
    """Seconds."""
    columns: list[tuple[int, list[int]]]
    """The start of each bin in seconds since the epoch, and its number of events by type."""


class Timeline:
    """Counts events over time, in bins of equal width, which grows with the time that they span.

    Args:
        types: the types to count separately; all others are counted together, after them.
    """

    def __init__(self, types: Iterable[str]) -> None:
        self._series = {name: index for index, name in enumerate(types)}
        self._others = len(self._series)
        self._bins: dict[int, list[int]] = {}
        self._widths = chain(_BIN_WIDTHS, (_BIN_WIDTHS[-1] * 4**n for n in count(1)))
        self._width = next(self._widths)  # seconds
        self._first = self._last = 0

    def add(self, milliseconds: int, type_: str, events: int = 1) -> None:
        """Count events of a type at a time since the epoch."""
        number = milliseconds // (self._width * 1000)
        counts = self._bins.get(number)
        if counts is None:
            if not self._bins:
                self._first = self._last = number
            self._first, self._last = min(self._first, number), max(self._last, number)
            counts = self._bins[number] = [0] * (self._others + 1)
        counts[self._series.get(type_, self._others)] += events
        while self._last - self._first >= _MAX_BINS:
            self._widen()

    def _widen(self) -> None:
        before, self._width = self._width, next(self._widths)
        joined: dict[int, list[int]] = {}
        for number, counts in self._bins.items():
            into = joined.setdefault(number * before // self._width, [0] * len(counts))
            for index, events in enumerate(counts):
                into[index] += events
        self._bins = joined
        self._first, self._last = min(joined), max(joined)

    def bins(self) -> TimelineBins:
        """Return all bins, the empty ones included."""
        numbers = range(self._first, self._last + 1) if self._bins else ()
        empty = [0] * (self._others + 1)
        columns = [(number * self._width, self._bins.get(number, empty)) for number in numbers]
        return TimelineBins(self._width, columns)
