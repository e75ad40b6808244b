"""Sums up events of the SDK's own types: crashes in groups, and frame times by version.

Pure. Anyone can send events of these types, so nothing about their data is certain, and all that is
kept of it is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Annotated

import msgspec

from ..models import CrashGroup, FrameSummary, StoredEvent

__all__ = ["CrashGroups", "FrameSummaries"]

_MAX_TEXT = 500  # characters of an exception, a place or a message
_MAX_VERSIONS = 100  # of one group of crashes
_PARTS = 100  # of the time
_OLDEST = 30 * 86_400_000  # milliseconds; an event that claims to be older has a wrong clock


# The bounds keep the sums finite.
_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class _Crash(msgspec.Struct):
    exception: str = ""
    message: str = ""
    stack: list[str] = []


_decode_crash = msgspec.json.Decoder(_Crash).decode


class CrashGroups:
    """Groups crashes, which are added newest first.

    Args:
        limit: the maximum number of groups.
        max_bytes: about the maximum size of all groups.
    """

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit = limit
        self._bytes_left = max_bytes
        self._groups: dict[tuple[str, str], CrashGroup] = {}
        self._sessions: dict[tuple[str, str], set[str]] = {}

    def add(self, event: StoredEvent) -> None:
        """Add a crash that is older than the ones before."""
        try:
            crash = _decode_crash(event.data)
        except (msgspec.MsgspecError, RecursionError):  # a game's own event of that type
            crash = _Crash()
        place = crash.stack[-1] if crash.stack else ""
        key = crash.exception[:_MAX_TEXT], place[:_MAX_TEXT]
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= self._limit or self._bytes_left <= 0:
                return
            self._bytes_left -= memoryview(event.data).nbytes
            message, when = crash.message[:_MAX_TEXT], event.received
            group = self._groups[key] = CrashGroup(*key, message, 0, 0, [], when, when, event)
            self._sessions[key] = set()
        group.count += 1
        group.first = event.received
        self._sessions[key].add(event.session_id)
        version = event.version
        has_room = len(group.versions) < _MAX_VERSIONS
        if version is not None and version not in group.versions and has_room:
            group.versions.append(version)

    def found(self) -> list[CrashGroup]:
        """Return the groups, the one with the newest crash first."""
        for key, group in self._groups.items():
            group.sessions = len(self._sessions[key])
        return list(self._groups.values())


class _Interval(msgspec.Struct, rename="camel", gc=False):
    """The data of a ``frames`` event."""

    seconds: _Amount
    frames: _Count
    p50_ms: _Amount
    p95_ms: _Amount
    p99_ms: _Amount
    max_ms: _Amount
    hitches: _Count


_decode_interval = msgspec.json.Decoder(_Interval).decode


class FrameSummaries:
    """Sums up frame times.

    Args:
        stride: one of this many intervals is added.
    """

    def __init__(self, stride: int) -> None:
        self._stride = stride
        self._by_version: dict[str | None, list[tuple[int, _Interval]]] = {}

    def add(self, received: int, timestamp: int, version: str | None, data: str) -> None:
        """Add an interval: the columns of its event."""
        try:
            interval = _decode_interval(data)
        except (msgspec.MsgspecError, RecursionError):  # a game's own event of that type
            return
        if interval.frames > 0:
            is_plausible = received - _OLDEST <= timestamp <= received
            when = timestamp if is_plausible else received
            self._by_version.setdefault(version, []).append((when, interval))

    def found(self) -> list[FrameSummary]:
        """Return the versions, the one with the newest interval first."""
        newest_first = sorted(
            self._by_version.items(), key=lambda item: -max(when for when, _ in item[1])
        )
        return [self._summary(version, added) for version, added in newest_first]

    def _summary(self, version: str | None, added: list[tuple[int, _Interval]]) -> FrameSummary:
        times = [when for when, _ in added]
        start = min(times)
        length = (max(times) - start) // _PARTS + 1
        parts: dict[int, list[_Interval]] = {}
        for when, interval in added:
            parts.setdefault((when - start) // length, []).append(interval)
        intervals = [interval for _, interval in added]
        p50, p95, p99 = _percentiles(intervals)
        return FrameSummary(
            version,
            seconds=sum(interval.seconds for interval in intervals) * self._stride,
            frames=sum(interval.frames for interval in intervals) * self._stride,
            p50=p50,
            p95=p95,
            p99=p99,
            max=max(interval.max_ms for interval in intervals),
            hitches=sum(interval.hitches for interval in intervals) * self._stride,
            over_time=[
                (start + part * length, *_percentiles(parts[part])) for part in sorted(parts)
            ],
        )


_p50_of: Callable[[_Interval], float] = attrgetter("p50_ms")
_p95_of: Callable[[_Interval], float] = attrgetter("p95_ms")
_p99_of: Callable[[_Interval], float] = attrgetter("p99_ms")
_frames_of: Callable[[_Interval], int] = attrgetter("frames")


def _percentiles(intervals: Sequence[_Interval]) -> tuple[float, float, float]:
    """Return the medians of the intervals' percentiles, weighted by their frames."""
    return _median(intervals, _p50_of), _median(intervals, _p95_of), _median(intervals, _p99_of)


def _median(intervals: Sequence[_Interval], value_of: Callable[[_Interval], float]) -> float:
    # By a key, since numbers are compared several times as fast as pairs of a number and a weight.
    ordered = sorted(intervals, key=value_of)
    seen = [*accumulate(map(_frames_of, ordered))]
    return value_of(ordered[bisect_left(seen, seen[-1] / 2)])
