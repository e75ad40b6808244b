"""The numbers of the sessions that are stored, in memory: a loader's dedupe.

A claim begins with the ranges in the lake, as one sorted column of texts, and decodes those of a
session when its first event comes. Sessions that have not been used for a while go back to texts,
which take some 70 bytes each.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ...collector.storage.seqranges import SeqRanges

__all__ = [
    "Increment",
    "Ranges",
    "SessionNumbers",
    "StoredNumbers",
    "decode_ranges",
    "merged_ranges",
]

Ranges = list[tuple[int, int]]
decode_ranges = msgspec.json.Decoder(Ranges).decode
_encode = msgspec.json.Encoder().encode
_MOST_IN_USE = 200_000  # sessions of a partition; then those that were not used become texts
_TEXTS = pa.schema([pa.field("session", pa.large_string()), pa.field("data", pa.large_string())])


def merged_ranges(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return ranges in ascending order; those that touch or overlap become one."""
    merged: Ranges = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged


class _MemoryTable:
    """A :class:`~...storage.seqranges.RangeTable` in memory."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        merged = merged_ranges(ranges)
        self._firsts = [first for first, _ in merged]
        self._lasts = [last for _, last in merged]

    def find(self, number: int) -> tuple[int, int] | None:
        place = bisect_right(self._firsts, number) - 1
        return None if place < 0 else (self._firsts[place], self._lasts[place])

    def put(self, first: int, last: int) -> None:
        place = bisect_left(self._firsts, first)
        if place < len(self._firsts) and self._firsts[place] == first:
            self._lasts[place] = last
        else:
            self._firsts.insert(place, first)
            self._lasts.insert(place, last)

    def remove(self, first: int) -> None:
        place = bisect_left(self._firsts, first)
        if place < len(self._firsts) and self._firsts[place] == first:
            del self._firsts[place], self._lasts[place]

    @property
    def ranges(self) -> Ranges:
        return list(zip(self._firsts, self._lasts, strict=True))


class StoredNumbers(SeqRanges):
    """The numbers of one session that are stored, or wait for a commit.

    Args:
        ranges: the ranges to begin with, in any order; they may touch.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._memory = _MemoryTable(ranges)
        super().__init__(self._memory)
        self.is_used = True
        """Whether it was asked for since the last time that sessions became texts."""

    @property
    def ranges(self) -> Ranges:
        """The ranges, in ascending order."""
        self.save()
        return self._memory.ranges


class Increment:
    """The part of a commit that a session has: ranges of new numbers, and a count of repeats."""

    __slots__ = ("_ranges", "repeats")

    def __init__(self) -> None:
        self._ranges: list[list[int]] = []
        self.repeats = 0

    def add(self, number: int) -> None:
        """Add a new number."""
        if self._ranges and number == self._ranges[-1][1] + 1:  # nearly always
            self._ranges[-1][1] = number
        else:
            self._ranges.append([number, number])

    def text(self) -> bytes:
        """Return the ranges as JSON, in ascending order."""
        if len(self._ranges) > 1:
            return _encode(merged_ranges((first, last) for first, last in self._ranges))
        return _encode(self._ranges)


class SessionTexts:
    """The stored numbers of many sessions, as texts that are decoded when they are asked for.

    Args:
        runs: rows with the columns ``session`` and ``data``; a session may have several.
    """

    def __init__(self, runs: pa.Table) -> None:
        rows = runs.select(_TEXTS.names).cast(_TEXTS).sort_by("session").combine_chunks()
        self._sessions, self._texts = (_only_chunk(rows[name]) for name in _TEXTS.names)

    def read(self, session: str) -> Ranges:
        """Return the ranges of a session, in no order."""
        sessions = self._sessions
        place = bisect_left(range(len(sessions)), session, key=lambda each: sessions[each].as_py())
        ranges: Ranges = []
        while place < len(sessions) and sessions[place].as_py() == session:
            ranges += decode_ranges(self._texts[place].as_py())
            place += 1
        return ranges

    def replaced(self, sessions: Mapping[str, StoredNumbers]) -> SessionTexts:
        """Return the same, but for some sessions."""
        names = pa.array(sessions, pa.large_string())
        texts = pa.array([_encode(each.ranges) for each in sessions.values()], pa.large_string())
        kept = pa.table([self._sessions, self._texts], schema=_TEXTS)
        kept = kept.filter(pc.invert(pc.is_in(kept["session"], value_set=names)))
        return SessionTexts(pa.concat_tables([kept, pa.table([names, texts], schema=_TEXTS)]))


class SessionNumbers:
    """The stored numbers of all sessions of a partition.

    Args:
        stored: those that the lake has.
        others: more that it has; they may be for sessions of other partitions, too.
    """

    def __init__(self, stored: SessionTexts, others: SessionTexts) -> None:
        self._in_use: dict[str, StoredNumbers] = {}
        self._stored, self._others = stored, others

    def of(self, session: str) -> StoredNumbers:
        """Return the numbers of a session; a number that is added to them stays."""
        found = self._in_use.get(session)
        if found is None:
            if len(self._in_use) >= _MOST_IN_USE:
                self._put_aside()
            ranges = self._stored.read(session) + self._others.read(session)
            found = self._in_use[session] = StoredNumbers(ranges)
        found.is_used = True
        return found

    def _put_aside(self) -> None:
        """Make texts of the sessions that were not used since the last time, or of the oldest."""
        aside = {key: each for key, each in self._in_use.items() if not each.is_used}
        if len(aside) < _MOST_IN_USE // 2:
            aside = dict(list(self._in_use.items())[: _MOST_IN_USE // 2])
        self._stored = self._stored.replaced(aside)
        for key in aside:
            del self._in_use[key]
        for each in self._in_use.values():
            each.is_used = False


def _only_chunk(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
