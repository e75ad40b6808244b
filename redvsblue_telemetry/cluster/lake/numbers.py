"""The numbers of the sessions that are stored, in memory: a loader's dedupe.

A claim begins with the ranges in the lake, as one sorted column of texts, and decodes those of a
session when its first event comes. Sessions that have not been used for a while go back to texts,
which take some 70 bytes each.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ...collector.storage.seqranges import SeqRanges

__all__ = ["Increment", "Ranges", "SessionNumbers", "StoredNumbers", "decode_ranges"]

Ranges = list[tuple[int, int]]
decode_ranges = msgspec.json.Decoder(Ranges).decode
_encode = msgspec.json.Encoder().encode
_MOST_IN_USE = 200_000  # sessions of a partition; then those that were not used become texts
_TEXTS = pa.schema([pa.field("session", pa.large_string()), pa.field("data", pa.large_string())])


class _MemoryTable:
    """A :class:`~...storage.seqranges.RangeTable` in memory."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted(ranges):
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

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
            return _encode(_MemoryTable((first, last) for first, last in self._ranges).ranges)
        return _encode(self._ranges)


class SessionNumbers:
    """The stored numbers of all sessions of a partition.

    Args:
        runs: rows with the columns ``session`` and ``data``; a session may have several.
    """

    def __init__(self, runs: pa.Table) -> None:
        self._in_use: dict[str, StoredNumbers] = {}
        self._keep_texts(runs.select(["session", "data"]).cast(_TEXTS))

    def of(self, session: str) -> StoredNumbers:
        """Return the numbers of a session; the same object each time."""
        found = self._in_use.get(session)
        if found is None:
            if len(self._in_use) >= _MOST_IN_USE:
                self._put_aside()
            found = self._in_use[session] = StoredNumbers(self._read(session))
        found.is_used = True
        return found

    def _keep_texts(self, rows: pa.Table) -> None:
        rows = rows.sort_by("session").combine_chunks()
        self._sessions = _only_chunk(rows["session"])
        self._texts = _only_chunk(rows["data"])

    def _read(self, session: str) -> Ranges:
        sessions = self._sessions
        place = bisect_left(range(len(sessions)), session, key=lambda each: sessions[each].as_py())
        ranges: Ranges = []
        while place < len(sessions) and sessions[place].as_py() == session:
            ranges += decode_ranges(self._texts[place].as_py())
            place += 1
        return ranges

    def _put_aside(self) -> None:
        """Make texts of the sessions that were not used since the last time."""
        aside = {key: each for key, each in self._in_use.items() if not each.is_used}
        if len(aside) < _MOST_IN_USE // 2:  # then of the oldest half
            aside = dict(list(self._in_use.items())[: _MOST_IN_USE // 2])
        for key in aside:
            del self._in_use[key]
        for each in self._in_use.values():
            each.is_used = False
        names = pa.array(aside, pa.large_string())
        texts = pa.array([_encode(each.ranges) for each in aside.values()], pa.large_string())
        kept = pa.table([self._sessions, self._texts], schema=_TEXTS)
        kept = kept.filter(pc.invert(pc.is_in(kept["session"], value_set=names)))
        self._keep_texts(pa.concat_tables([kept, pa.table([names, texts], schema=_TEXTS)]))


def _only_chunk(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
