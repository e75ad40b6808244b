"""From the bytes of a segment file to its events, however damaged it is. Pure.

Theory of operation
-------------------

A wrong number is worse than a lost event: the receiver would take another event for a repeat. So
each record is delivered with a number that is sure, or not at all.

*Indexed* records have an index entry with their number, length and checksum. They are looked for
where the entry says. If bytes were inserted or deleted before them, they are elsewhere, and are
found by length and checksum. A damaged one is lost alone, since the others keep their numbers.

*Unindexed* records are those of the last moment before a kill, and those whose index entry is
damaged. They are told apart by their boundaries, and counted: from the left, from the last number
before them, up to the first one that is damaged; and if indexed ones follow, also from the right,
down to the last one that is damaged. Between two damaged ones, the count is lost. But if there are
as many as the numbers between their neighbors, each has its place, and only the damaged ones are
lost.

A kill in the middle of an ``emit`` leaves part of a record at the end. It has a zero byte or lacks
its end, so it is not an event; its ``emit`` had not returned. A power cut may leave blocks of zeros
before others that were written, so nothing after a zero can be counted from the left. It may also
leave zeros instead of the last records, so only a segment without a zero says for sure how many
there were. The records of the next one are counted on from there only then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar
from zlib import crc32

import msgspec

from .._recording.codec import EncodedEvent
from .layout import (
    FILLER,
    HEADER_BYTES,
    MAGIC,
    Entry,
    EntryKind,
    base_entry,
    decode_entries,
    indexed,
)
from .records import RecordError, RecordReader

__all__ = ["Numbered", "SegmentRecovery"]

Numbered = list[tuple[EncodedEvent, int]]
"""Events with their numbers."""

_BEGINNING = re.compile(rb'\[-?\d{1,24},\[?"')
_BOUNDARY = re.compile(rb'\]\[-?\d{1,24},\[?"([\s,:\]}]?)')
_END = re.compile(rb"\}\]")
_MAX_CANDIDATES = 100  # for the other edge of a record beside a damaged one
_STEP = 100  # records, which take a fraction of a millisecond
_UNINDEXED_STEP = 30  # these are decoded twice
_MAX_TRIALS = 200_000  # comparisons of moved records, so that no file takes minutes
_TRIALS_A_STEP = 2000
_BASE_BYTES = len(base_entry(1))

_decode = msgspec.json.Decoder().decode
_validate = msgspec.json.Decoder(msgspec.Raw).decode


class SegmentRecovery:
    """Reads one segment. Its attributes are final after an iteration over :meth:`pieces`.

    Args:
        content: of the whole file.
        data_bytes: from its header.
        first: the number of its first record, if the segment before it says so.
        end: the number of the next segment's first record, if that segment itself says so.
        after: events up to this number are settled, and left out.
        reader: turns records into events.
    """

    def __init__(
        self,
        content: bytes,
        data_bytes: int,
        *,
        first: int | None,
        end: int | None = None,
        after: int = 0,
        reader: RecordReader,
    ) -> None:
        self._content = content
        self._data_end = HEADER_BYTES + data_bytes
        self._end = end
        self._after = after
        self._reader = reader
        # Records have no zero byte, and entries do: so no text in a record looks like an entry.
        entries = decode_entries(content)
        match = _BEGINNING.search(content)
        records_at = len(content) if match is None else match.start()
        self._entries_at = next((e.at for e in entries if e.at > records_at), len(content))
        self._has_end = any(e.kind == EntryKind.END and e.at > records_at for e in entries)
        self._entries = entries
        self._groups: list[_Group] = []
        self._places: dict[int, tuple[int, int]] = {}  # start and end of each record that was found
        self._moved_to: list[int] = []  # starts of those that were not where they should be
        bases = [entry.number for entry in entries if entry.kind == EntryKind.BASE]
        self.base = bases[0] if bases else first
        """The number of the first record, as far as it is known without the records."""
        self.next_number: int | None = None
        """The number after the last record, if it is sure that there was no other."""
        self.damaged = 0
        """How many records are lost, as far as they can be counted."""

    def pieces(self) -> Iterator[Numbered]:
        """Yield the events with their numbers, in order.

        Each step takes less than a millisecond; some yield nothing.
        """
        for entry in self._entries:
            if entry.kind == EntryKind.INDEX and _is_index(entry.payload):
                self._groups.append(_Group(entry))
                yield []
        self._groups.sort(key=lambda group: group.first)
        yield from self._find_indexed()
        number = self.base
        end = HEADER_BYTES  # of the records before, by their index entry
        drift = 0  # how far from there they really are
        for group in self._groups:
            at = end + drift
            drift = self._drift(group.rows, drift)
            if number is None or number < group.first:
                region = self._content[at : group.start + drift]
                is_whole = len(region) == group.start - end
                if self._has_come_to(at, group.start + drift):
                    region, is_whole = b"", False
                yield from self._read_between(region, number, group.first, is_whole=is_whole)
            yield from self._read_group(group, number)
            drift = self._drift(reversed(group.rows), drift)
            if number is None or number < group.end:
                number, end = group.end, group.end_at
        if self._end is None or number is None:
            yield from self._read_tail(end, number, drift)
        else:
            yield from self._read_end(end, number, self._end, drift)

    # Indexed records.

    def _find_indexed(self) -> Iterator[Numbered]:
        """Find the place of each indexed record."""
        content, places = self._content, self._places
        moved: dict[tuple[int, int], list[int]] = {}
        for group in self._groups:
            for at in range(0, len(group.rows), _STEP):
                for number, start, length, checksum in group.rows[at : at + _STEP]:
                    if crc32(content[start : start + length]) == checksum:
                        places[number] = (start, start + length)
                    else:
                        moved.setdefault((length, checksum), []).append(number)
                yield []
        if moved:
            yield from self._find_moved(moved)

    def _find_moved(self, moved: dict[tuple[int, int], list[int]]) -> Iterator[Numbered]:
        """Look for records elsewhere, by length and checksum, after bytes came or went."""
        content = self._content
        lengths = sorted({length for length, _ in moved})
        taken = {start for start, _ in self._places.values()}
        trials = 0
        for match in _BEGINNING.finditer(content):
            start = match.start()
            if start in taken:
                continue
            checksum = checked = 0
            for length in lengths:
                trials += 1
                if trials % _TRIALS_A_STEP == 0:
                    yield []
                if content[start + length - 1 : start + length] != b"]":
                    continue
                checksum = crc32(content[start + checked : start + length], checksum)
                checked = length
                if numbers := moved.get((length, checksum)):
                    self._places[numbers.pop(0)] = (start, start + length)
                    self._moved_to.append(start)
                    break
            if trials > _MAX_TRIALS:
                return

    def _drift(self, rows: Iterable[_Row], otherwise: int) -> int:
        """Return how far the first of the rows that was found is from where it was written."""
        for number, start, _, _ in rows:
            if (place := self._places.get(number)) is not None:
                return place[0] - start
        return otherwise

    def _has_come_to(self, start: int, end: int) -> bool:
        """Return whether an indexed record is now among those without an index entry."""
        return any(start <= place < end for place in self._moved_to)

    def _read_group(self, group: _Group, number: int | None) -> Iterator[Numbered]:
        content, places, read = self._content, self._places, self._reader.read
        # Two entries may have the same records.
        least = max(self._after + 1, group.first if number is None else number)
        for at in range(0, len(group.rows), _STEP):
            events: Numbered = []
            for row in group.rows[at : at + _STEP]:
                if row[0] < least:
                    continue
                if (place := places.get(row[0])) is None:
                    self.damaged += 1
                    continue
                try:
                    events.append((read(content[place[0] : place[1]]), row[0]))
                except RecordError:
                    self.damaged += 1
            yield events

    # Unindexed records.

    def _read_between(
        self,
        region: bytes,
        first: int | None,
        end: int,
        *,
        is_whole: bool,
        is_tail: bool = False,
    ) -> Iterator[Numbered]:
        """Read the records between two numbers.

        Args:
            region: the bytes between their neighbors.
            first: the number of the first one, if it is known.
            end: the number after the last one.
            is_whole: whether the region has as many bytes as it should have.
            is_tail: whether zeros follow. Some may be in the place of the last records, so nothing
                is counted from the right.
        """
        texts: list[bytes] = []
        events: list[EncodedEvent | None] = []
        for some in _steps(_split(region), _UNINDEXED_STEP):
            texts += some
            events += map(self._read_unindexed, some)
            yield []
        bad = [place for place, event in enumerate(events) if event is None]
        left, right = events, events[:0]
        if first is not None and len(events) == end - first and (is_whole or not bad):
            for places in _steps(bad, _UNINDEXED_STEP):
                for place in places:  # one with garbage behind it, perhaps
                    if len(whole := self._first_whole(texts[place])) == 1:
                        events[place] = whole[0]
                yield []
        elif bad or not is_tail or first is None or len(events) > end - first:
            left = right = []
            if bad:
                if not is_tail:
                    right = [*self._last_whole(texts[bad[-1]]), *events[bad[-1] + 1 :]]
                if first is not None:
                    left = [*events[: bad[0]], *self._first_whole(texts[bad[0]])]
            elif first is None:
                right = events
            if len(left) + len(right) > end - (first or 1):
                left = right = []
        begin = first or 0
        if first is None:
            self.damaged += len(bad) if right else len(events)
        else:
            self._lose(begin + len(left), end - len(right))
        numbers = [*range(begin, begin + len(left)), *range(end - len(right), end)]
        for pairs in _steps(list(zip([*left, *right], numbers, strict=True)), _STEP):
            for event, number in pairs:
                if event is None:
                    self._lose(number, number + 1)
            yield [(e, number) for e, number in pairs if e is not None and number > self._after]

    def _read_end(self, end_at: int, number: int, end: int, drift: int) -> Iterator[Numbered]:
        """Read the records after the last indexed one, of which the count is known."""
        at = end_at + drift
        until = max(at, min(self._data_end + drift, self._entries_at))
        if self._ends_in_place(drift) and not self._has_come_to(at, until):
            zero = self._content.find(b"\0", at, until)
            region = self._content[at : zero if zero >= 0 else until]
            yield from self._read_between(region, number, end, is_whole=True, is_tail=True)
        else:
            self._lose(number, end)
        self.next_number = end

    def _read_tail(self, end: int, number: int | None, drift: int) -> Iterator[Numbered]:
        """Read the records after the last indexed one, up to the first that is damaged."""
        content, at = self._content, end + drift
        until = max(at, min(self._data_end + drift, self._entries_at))
        zero = content.find(b"\0", at, until)
        written = zero if zero >= 0 else until
        beyond = content[written:until].strip(b"\0")
        is_sure = number is not None and self._ends_in_place(drift)
        is_sure = is_sure and not self._has_come_to(at, until)
        # Of records that are sure, of texts that are nothing else, and of all texts.
        count = whole = total = 0
        is_over = not is_sure
        for some in _steps(_split(content[at:written].rstrip(FILLER)), _UNINDEXED_STEP):
            total += len(some)
            events: list[EncodedEvent] = []
            if not is_over:
                for text in some:
                    event = self._read_unindexed(text)
                    if event is None:
                        break
                    events.append(event)
                whole += len(events)
                if is_over := len(events) < len(some):
                    events += self._first_whole(some[len(events)])
            pairs = list(enumerate(events, (number or 0) + count))
            count += len(events)
            yield [(event, place) for place, event in pairs if place > self._after]
        lost = total - whole
        if beyond:
            lost = max(lost, 1) + len(_BOUNDARY.findall(beyond))
        self.damaged += lost
        is_full = zero < 0 and len(content) >= self._data_end + drift
        if number is not None and is_sure and is_full and not lost:
            self.next_number = number + count

    def _ends_in_place(self, drift: int) -> bool:
        """Return whether no bytes came or went between the last indexed record and the entries.

        Two entries are right behind the records. If neither is intact, nothing can be seen.
        """
        end = self._data_end + drift
        if self._entries_at < min(end, len(self._content)):
            return False
        is_seen = any(self._content.startswith(MAGIC, at) for at in (end, end + _BASE_BYTES))
        return is_seen or not self._has_end

    def _read_unindexed(self, text: bytes) -> EncodedEvent | None:
        try:
            event = self._reader.read_carefully(text)
            _decode(text)  # the reader takes strings as they are, also if they are not UTF-8
        except (RecordError, msgspec.MsgspecError, ValueError, RecursionError):
            return None
        return event

    def _first_whole(self, text: bytes) -> list[EncodedEvent]:
        """Return the records at the start of a text in which a boundary is damaged."""
        events: list[EncodedEvent] = []
        start = 0
        for match in islice(_END.finditer(text), _MAX_CANDIDATES):
            if (event := self._read_unindexed(text[start : match.end()])) is not None:
                events.append(event)
                start = match.end()
        return events

    def _last_whole(self, text: bytes) -> list[EncodedEvent]:
        """Return the records at the end of a text in which a boundary is damaged."""
        events: list[EncodedEvent] = []
        end = len(text)
        for match in reversed(list(islice(_BEGINNING.finditer(text), _MAX_CANDIDATES))):
            if (event := self._read_unindexed(text[match.start() : end])) is not None:
                events.insert(0, event)
                end = match.start()
        return events

    def _lose(self, first: int, end: int) -> None:
        """Count the numbers from ``first`` to before ``end`` as lost, if they are not settled."""
        self.damaged += max(0, end - max(first, self._after + 1))


_Row = tuple[int, int, int, int]  # number, start in the file, length, checksum


class _Group:
    """The records of one intact index entry."""

    def __init__(self, entry: Entry) -> None:
        self.rows: list[_Row] = list(indexed(entry, start=HEADER_BYTES))
        self.first, self.start = self.rows[0][:2]
        self.end = self.rows[-1][0] + 1
        self.end_at = self.rows[-1][1] + self.rows[-1][2]


def _is_index(payload: bytes) -> bool:
    return len(payload) % 8 == 4 and len(payload) > 4


def _split(region: bytes) -> Iterator[bytes]:
    """Yield the records in a region that may be damaged anywhere."""
    start = 0
    for match in _BOUNDARY.finditer(region):
        end = match.start() + 1
        # The quote may be the end of a string, after which JSON goes on with one of these.
        if match[1] and not _is_json(region[start:end]):
            continue
        yield region[start:end]
        start = end
    if start < len(region):
        yield region[start:]


def _is_json(text: bytes) -> bool:
    try:
        _validate(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


_T = TypeVar("_T")


def _steps(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
