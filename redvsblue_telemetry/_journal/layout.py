"""The layout of a segment file. Pure: it turns values into bytes and back, and opens no file.

Theory of operation
-------------------

A run of the game writes its events into segment files of a fixed size::

    0 ──────────── HEADER_BYTES ──────────── HEADER_BYTES + data_bytes ──────────── end of file
    │ header        │ records, then zeros     │ entries
    │ by the worker │ by emit, through a map  │ by the worker, appended

- The *header* names the run, so every segment can be understood without the others.
- The *records* follow each other without a gap, in the order of emission, so a record's position
  is its number. Space that is not written yet is zero, and no record contains a zero byte: so one
  that was cut off by a kill can be recognized. Before the next segment is used, the rest of this
  one is filled. So where a zero is left, the end is not sure: a power cut may have taken records.
- *Entries* add the things for which an ``emit`` has no time: which number the first record has, the
  length and the checksum of each record, and up to which number all events are settled. Each entry
  has its own checksum. A damaged entry costs no record, and a damaged record costs no other.
  The first number and the settled one are at the end of the header, each twice, where writing
  them needs neither a system call nor space on the disk. A reader finds entries anywhere.
  Those that are written first mark the end of the records' part, so a reader notices if bytes of
  it are missing.

Numbers are little-endian. A reader skips entries of a kind that it doesn't know, and leaves a file
whose header has another format alone.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate, count
from zlib import crc32

import msgspec

__all__ = [
    "BASE_AT",
    "CONFIRMED_AT",
    "ENTRY_BYTES",
    "FILLER",
    "FORMAT",
    "HEADER_BYTES",
    "MAGIC",
    "Entry",
    "EntryKind",
    "Header",
    "LayoutError",
    "base_entry",
    "confirmed_entry",
    "decode_entries",
    "decode_header",
    "encode_header",
    "end_entry",
    "index_entry",
    "indexed",
]

FORMAT = 1
HEADER_BYTES = 16384
"""Room for a session id and a version of the greatest length."""

_TITLE = b"redvsblue-telemetry journal "
FILLER = b"\n"
"""Fills the rest of the records' part. No record ends with it."""
MAGIC = b"RvBj"
"""The first bytes of each entry."""
_SECOND_HEADER = HEADER_BYTES // 2
_FIXED = struct.Struct("<4scxxxIQ")  # magic, kind, length of the payload, number
_CHECKSUM = struct.Struct("<I")
_OFFSET = struct.Struct("<I")
_MAX_PAYLOAD = 1 << 20  # bytes; more is damage


ENTRY_BYTES = _FIXED.size + _CHECKSUM.size
"""The size of an entry without payload."""
CONFIRMED_AT = HEADER_BYTES - 2 * ENTRY_BYTES
"""Where two entries of that kind are, written in turn, so that one of them is always intact."""
BASE_AT = CONFIRMED_AT - 2 * ENTRY_BYTES
"""Where the base entry is, twice."""


class LayoutError(Exception):
    """A header can't be read, or it has a format of another version."""


class Header(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The facts about its run that every segment holds."""

    session_id: str
    run: str
    """The first part of the events' ids; see :meth:`EventCodec.begin`."""
    segment: int
    """The number of this segment, from 1. Segments are filled in this order."""
    data_bytes: int
    """How large the part with the records is."""
    started_at: int
    """When the run began, in milliseconds since the epoch."""
    previous: int
    """The number of the segment that was filled before this one, 0 if there is none. It may have
    no predecessor by number: two threads can make a segment at once, and one of them is given up.
    """
    version: str | None = None
    """The version of the game's build."""


class EntryKind:
    """The kinds of entries."""

    BASE = b"B"
    """``number`` is the number of the segment's first record."""
    INDEX = b"I"
    """``number`` is the number of the first of a few records, whose place and checksums follow."""
    CONFIRMED = b"C"
    """All events of the run up to ``number`` are settled."""
    END = b"E"
    """The records' part ends here. ``number`` is the segment's own."""


class Entry(msgspec.Struct, frozen=True):
    """One entry."""

    kind: bytes
    number: int
    payload: bytes = b""
    at: int = 0
    """Where it begins in the bytes that it was read from."""


def encode_header(header: Header) -> bytes:
    """Return the first HEADER_BYTES of a segment: the header, and once more if there is room."""
    text = msgspec.json.encode(header)
    whole = b"%b%d\n%08x %b\n" % (_TITLE, FORMAT, crc32(text), text)
    if len(whole) <= BASE_AT - _SECOND_HEADER:  # a damaged one would cost all records of its run
        whole = whole.ljust(_SECOND_HEADER, b"\0") + whole
    return whole.ljust(HEADER_BYTES, b"\0")


def decode_header(block: bytes) -> Header:
    """Return the header in the first HEADER_BYTES of a segment.

    Raises:
        LayoutError: it is damaged, or of another format.
    """
    try:
        return _decode_header(block)
    except LayoutError:
        second = block.rfind(_TITLE)
        if second <= 0:
            raise
        with contextlib.suppress(LayoutError):
            return _decode_header(block[second:])
        raise


def _decode_header(block: bytes) -> Header:
    title, _, rest = block.partition(b"\n")
    if not title.startswith(_TITLE):
        raise LayoutError("it has no journal header")
    if title != b"%b%d" % (_TITLE, FORMAT):
        raise LayoutError(
            f"its format is {title[len(_TITLE) :][:8]!r}; this version reads {FORMAT}"
        )
    line = rest.partition(b"\n")[0]
    try:
        if int(line[:8], 16) != crc32(line[9:]):
            raise LayoutError("its header is damaged")
        return msgspec.json.decode(line[9:], type=Header)
    except (ValueError, msgspec.MsgspecError) as error:
        raise LayoutError("its header is damaged") from error


def _entry(kind: bytes, number: int, payload: bytes = b"") -> bytes:
    content = _FIXED.pack(MAGIC, kind, len(payload), number) + payload
    return content + _CHECKSUM.pack(crc32(content))


def base_entry(number: int) -> bytes:
    """Return the entry that says which number the first record of a segment has."""
    return _entry(EntryKind.BASE, number)


def confirmed_entry(number: int) -> bytes:
    """Return the entry that says up to which number all events of the run are settled."""
    return _entry(EntryKind.CONFIRMED, number)


def end_entry(segment: int) -> bytes:
    """Return the entry that is right behind the records' part, twice."""
    return _entry(EntryKind.END, segment)


def index_entry(number: int, offset: int, records: Sequence[bytes]) -> bytes:
    """Return the entry with the lengths and checksums of consecutive records.

    Args:
        number: the number of the first of them.
        offset: where it begins, counted from the end of the header.
        records: at least one.
    """
    count = len(records)
    layout = f"<{count}I{count}I"
    payload = struct.pack(layout, *map(len, records), *map(crc32, records))
    return _entry(EntryKind.INDEX, number, _OFFSET.pack(offset) + payload)


def indexed(entry: Entry, *, start: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Return ``(number, offset, length, checksum)`` of each record in an index entry.

    Args:
        entry: one of that kind.
        start: is added to each offset.
    """
    (offset,) = _OFFSET.unpack_from(entry.payload)
    values = struct.unpack(f"<{(len(entry.payload) - _OFFSET.size) // 4}I", entry.payload[4:])
    lengths, checksums = values[: len(values) // 2], values[len(values) // 2 :]
    offsets = accumulate(lengths, initial=start + offset)
    return zip(count(entry.number), offsets, lengths, checksums, strict=False)


def decode_entries(tail: bytes) -> list[Entry]:
    """Return the intact entries in the last part of a segment, in order; skip the damaged ones."""
    entries: list[Entry] = []
    at = tail.find(MAGIC)
    while at >= 0:
        after = at + 1
        if at + _FIXED.size + _CHECKSUM.size <= len(tail):
            _, kind, length, number = _FIXED.unpack_from(tail, at)
            end = at + _FIXED.size + length
            if length <= _MAX_PAYLOAD and end + _CHECKSUM.size <= len(tail):
                content = tail[at:end]
                if _CHECKSUM.unpack_from(tail, end)[0] == crc32(content):
                    entries.append(Entry(kind, number, content[_FIXED.size :], at))
                    after = end + _CHECKSUM.size
        at = tail.find(MAGIC, after)
    return entries
