"""Damage to the files of a journal, which must cost no more than the records that were hit.

Each input is a run, written as a killed game leaves it, with a few blind changes in its files.
Failures are: an exception, an event with another number or other data than it was written with,
and an event that is lost although its bytes are intact and its number is certain.

A number is certain if an intact index entry has it, or if it can be counted: from the left, up to
the first change; or from the right, from an indexed record down to the last change. Where bytes
came, went or changed places, nothing can be counted. And the data of a record without a checksum
may be changed without a trace, into other JSON; its number may not.
"""

from __future__ import annotations

import random
import string
import tempfile
from itertools import pairwise
from pathlib import Path

import attrs
import msgspec

from benchmarks.harness import Failure
from redvsblue_telemetry._journal.directory import JournalDirectory, RunDirectory
from redvsblue_telemetry._journal.layout import (
    BASE_AT,
    ENTRY_BYTES,
    FILLER,
    HEADER_BYTES,
    EntryKind,
    Header,
    base_entry,
    confirmed_entry,
    decode_entries,
    decode_header,
    encode_header,
    end_entry,
    index_entry,
    indexed,
)
from redvsblue_telemetry._journal.records import RecordReader, record_of
from redvsblue_telemetry._journal.recovery import SegmentRecovery
from redvsblue_telemetry._journal.store import JournalStore

__all__ = ["try_journal"]

RUNS = 40  # different ones, which the inputs change
INPUTS_PER_FILES = 100  # the share that goes through real files
STARTED_AT = 1_795_600_000_000
TYPES = ("hit", "ship destroyed", ",a", "}", " ", ":D", 'a"b', "é🚀", "[1,")
TEXTS = ("", "][1,", '}][1,"', '][1,["', "\\", "RvBj", "é🚀", "\0\n", '"}][12345678901234567,"x"')


# Runs.


@attrs.frozen(eq=False)
class File:
    """A segment file, and where everything in it is."""

    content: bytes
    data_bytes: int
    places: dict[int, tuple[int, int]]
    """Start and end of each record, by its number."""
    indexes: list[tuple[int, int, range]]
    """Start and end of each index entry, and the numbers in it."""
    bases: list[tuple[int, int]]
    """Start and end of each entry with the number of the first record."""


@attrs.frozen
class Run:
    """A run, and what should come out of it."""

    files: list[File]
    records: dict[int, bytes]


def random_record(rng: random.Random, number: int) -> bytes:
    """Return a record like those that a game writes, and a few that no game would."""
    data: dict[str, object] = {"n": number}
    for _ in range(rng.choice((0, 1, 2, 5))):
        key = rng.choice(("x", "by", "label", rng.choice(TEXTS)))
        data[key] = rng.choice(
            (
                rng.random(),
                rng.randrange(10**6),
                [rng.randrange(9), "x", {"y": [1]}],
                "".join(rng.choices(string.ascii_letters, k=rng.choice((3, 12, 300)))),
                rng.choice(TEXTS) * rng.choice((1, 3)),
            )
        )
    kind: object = rng.choice(TYPES)
    if rng.random() < 0.1:
        kind = [kind, {"id": f"own-{number}", "sessionId": rng.choice(TEXTS)}]
    return msgspec.json.encode(((STARTED_AT + number) * 1_000_000 + number, kind, data))


def random_run(rng: random.Random) -> Run:
    """Return a run as it is at a random moment, when its game is killed."""
    data_bytes = rng.choice((1024, 2048, 4096))
    files: list[File] = []
    records: dict[int, bytes] = {}
    number = 1
    segments = rng.choice((1, 2, 3))
    for segment in range(1, segments + 1):
        is_last = segment == segments
        first, data, places = number, b"", dict[int, tuple[int, int]]()
        room = rng.randrange(data_bytes) if is_last else data_bytes
        while len(data) + len(record := random_record(rng, number)) <= room:
            places[number] = (HEADER_BYTES + len(data), HEADER_BYTES + len(data) + len(record))
            records[number] = record
            data += record
            number += 1
        if is_last and rng.random() < 0.5:
            data += torn(rng, random_record(rng, number), data_bytes - len(data))
        indexed_up_to = number if not is_last else rng.randrange(first, number + 1)
        is_noticed = not is_last or rng.random() < 0.8  # by the worker
        entries = end_entry(segment) * 2
        at = first
        while is_noticed and at < indexed_up_to:
            end = min(at + rng.choice((1, 5, 30)), indexed_up_to)
            group = [records[n] for n in range(at, end)]
            entries += index_entry(at, places[at][0] - HEADER_BYTES, group)
            at = end
        if rng.random() < 0.1:
            entries += confirmed_entry(0)
        header = Header(
            session_id="session",
            run="0123456789abcdef",
            segment=segment,
            data_bytes=data_bytes,
            started_at=STARTED_AT,
            previous=segment - 1,
        )
        bases = base_entry(first) * 2 if is_noticed else bytes(2 * ENTRY_BYTES)
        header_block = encode_header(header)
        header_block = header_block[:BASE_AT] + bases + header_block[BASE_AT + len(bases) :]
        data = data.ljust(data_bytes, b"\0" if is_last else FILLER)
        content = header_block + data + entries + bytes(1024)
        files.append(described(content, data_bytes, places))
    return Run(files, records)


def stored_run(rng: random.Random) -> Run:
    """Return a run of the journal's own store, as it is at a random moment."""
    with tempfile.TemporaryDirectory() as journal:
        directory = RunDirectory.create(Path(journal), "session", "0123456789abcdef")
        store = JournalStore(max_bytes=1 << 17, max_event_bytes=1024)
        header = Header(
            session_id="session",
            run="0123456789abcdef",
            segment=0,
            data_bytes=0,
            started_at=STARTED_AT,
            previous=0,
        )
        store.open(directory, header)
        records: dict[int, bytes] = {}
        reader = RecordReader()
        for number in range(1, rng.choice((3, 60, 150))):
            event = reader.read_carefully(random_record(rng, number))
            store.push(event)
            records[number] = record_of(event)
            if rng.random() < 0.03:
                store.maintain()
        files = []
        for _, path in directory.segments():
            content = path.read_bytes()
            places = {
                number: (at, at + len(record))
                for number, record in records.items()
                if (at := content.find(record)) >= 0
            }
            files.append(described(content, decode_header(content).data_bytes, places))
        store.close(keep=False)
        directory.delete()
        return Run(files, records)


def torn(rng: random.Random, record: bytes, room: int) -> bytes:
    """Return a record of which a part was not copied, in any order of its bytes."""
    if len(record) >= room:
        return b""
    start = rng.randrange(len(record))
    end = len(record) if rng.random() < 0.5 else rng.randrange(start, len(record)) + 1
    return (record[:start] + bytes(end - start) + record[end:]).rstrip(b"\0")


def described(content: bytes, data_bytes: int, places: dict[int, tuple[int, int]]) -> File:
    """Return the file with the places of its entries."""
    entries = decode_entries(content)
    indexes, bases = [], []
    for entry in entries:
        start, end = entry.at, entry.at + ENTRY_BYTES + len(entry.payload)
        if entry.kind == EntryKind.BASE:
            bases.append((start, end))
        elif entry.kind == EntryKind.INDEX:
            numbers = [row[0] for row in indexed(entry)]
            indexes.append((start, end, range(numbers[0], numbers[-1] + 1)))
    return File(content, data_bytes, places, indexes, bases)


# Changes.


class Changes:
    """Blind changes to the bytes of one file."""

    def __init__(self, rng: random.Random, content: bytes) -> None:
        self.content = bytearray(content)
        self.touched: list[tuple[int, int]] = []  # where bytes differ, if none has moved
        self.has_moved = False
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            self._change(rng)

    def _change(self, rng: random.Random) -> None:
        content = self.content
        if not content:
            return
        at, length = self._place(rng), rng.choice((1, 1, 2, 8, 100, 512, 4096))
        end = min(at + length, len(content))
        kind = rng.randrange(10)
        if kind < 3:
            content[at] ^= 1 << rng.randrange(8)
            self.touched.append((at, at + 1))
        elif kind == 3:
            content[at] = rng.choice(b'\0[]{},"0\\\xff')
            self.touched.append((at, at + 1))
        elif kind == 4:
            content[at:end] = bytes(end - at)
            self.touched.append((at, end))
        elif kind == 5:
            content[at:end] = rng.randbytes(end - at)
            self.touched.append((at, end))
        elif kind == 6:
            self.touched.append((at, len(content)))
            del content[at:]
        elif kind == 7:
            content[at:at] = rng.choice((rng.randbytes(length), content[at:end], bytes(length)))
            self.has_moved = True
        elif kind == 8:
            del content[at:end]
            self.has_moved = True
        else:
            other = self._place(rng)
            first, second = sorted((at, other))
            length = min(length, second - first, len(content) - second)
            one, two = content[first : first + length], content[second : second + length]
            content[first : first + length], content[second : second + length] = two, one
            self.has_moved = True

    def _place(self, rng: random.Random) -> int:
        start = rng.choice((*(HEADER_BYTES,) * 8, BASE_AT, 0))  # most of a header is zeros
        start = min(start, len(self.content) - 1)
        return rng.randrange(start, len(self.content))


# One input.

_runs: dict[int, list[Run]] = {}
_of_unchanged: dict[tuple[File, int | None, int | None], tuple[dict[int, bytes], int | None]] = {}


def runs_of(seed: int) -> list[Run]:
    """Return the runs that the inputs of a seed change."""
    if seed not in _runs:
        kinds = (random_run, random_run, random_run, stored_run)
        _runs[seed] = [kinds[n % len(kinds)](random.Random(f"{seed}/run/{n}")) for n in range(RUNS)]
        for run in _runs[seed]:
            if (found := recovered([file.content for file in run.files], run)) != run.records:
                raise Failure(f"an undamaged run lost {sorted(run.records.keys() - found.keys())}")
    return _runs[seed]


def try_journal(rng: random.Random, seed: int, number: int) -> str:
    """Damage a run and recover it; return what that cost."""
    run = rng.choice(runs_of(seed))
    changed: dict[int, Changes] = {}
    for _ in range(rng.choice((1, 1, 1, 2))):
        place = rng.randrange(len(run.files))
        changed.setdefault(place, Changes(rng, run.files[place].content))
    contents = [
        bytes(changed[place].content) if place in changed else file.content
        for place, file in enumerate(run.files)
    ]
    found: dict[int, bytes] | None = None
    if number % INPUTS_PER_FILES:
        found = recovered(contents, run)
    else:
        found = recovered_from_files(contents)
        if found is None:  # no header is left
            for changes in changed.values():
                if not (changes.has_moved or any(a < HEADER_BYTES for a, _ in changes.touched)):
                    raise Failure("the run was not recognized")
            return "left alone"
    check(run, contents, changed, found)
    lost = len(run.records) - len(found)
    return "all recovered" if lost == 0 else "some lost" if found else "all lost"


def recovered(contents: list[bytes], run: Run) -> dict[int, bytes]:
    """Return the records that are recovered from the bytes of the files, by number."""
    found: dict[int, bytes] = {}
    first: int | None = 1
    ends = [*map(base_of, contents[1:]), None]
    for content, file, end in zip(contents, run.files, ends, strict=True):
        if content is file.content:  # the same as in other inputs
            key = file, first, end
            if key not in _of_unchanged:
                _of_unchanged[key] = recovered_from_segment(content, file, first, end)
            records, first = _of_unchanged[key]
        else:
            records, first = recovered_from_segment(content, file, first, end)
        if records and found and min(records) <= max(found):
            raise Failure(f"event {min(records)} comes after {max(found)}")
        found |= records
    return found


def base_of(content: bytes) -> int | None:
    """Return the number of the first record, if the segment says so."""
    bases = (entry.number for entry in decode_entries(content) if entry.kind == EntryKind.BASE)
    return next(bases, None)


def recovered_from_segment(
    content: bytes, file: File, first: int | None, end: int | None
) -> tuple[dict[int, bytes], int | None]:
    """Return the records of one segment by number, and the number after them."""
    recovery = SegmentRecovery(
        content, file.data_bytes, first=first, end=end, reader=RecordReader()
    )
    pairs = [pair for piece in recovery.pieces() for pair in piece]
    numbers = [number for _, number in pairs]
    if any(before >= after for before, after in pairwise(numbers)):
        raise Failure(f"the events come as {numbers}")
    return {number: record_of(event) for event, number in pairs}, recovery.next_number


def recovered_from_files(contents: list[bytes]) -> dict[int, bytes] | None:
    """Do the same by real files; return None if the run is left alone."""
    with tempfile.TemporaryDirectory() as journal:
        path = Path(journal) / "run"
        path.mkdir()
        for segment, content in enumerate(contents, 1):
            path.joinpath(f"{segment:08}.events").write_bytes(content)
        directory = JournalDirectory(Path(journal))
        reports = directory.inspect()
        found: dict[int, bytes] = {}
        runs = list(directory.dead_runs())
        if not runs:
            return None
        (run,) = runs
        waiting = run.waiting
        while events := run.take(37):
            found |= {number: record_of(event) for event, number in events}
            run.confirm(events[-1][1])
        if not run.is_settled or run.waiting or waiting < len(found):
            raise Failure(f"{waiting} were waiting, {run.waiting} are, {len(found)} were taken")
        if reports[0].events != len(found):
            raise Failure(f"{len(found)} events were taken, {reports[0].events} were shown")
        run.release()
        directory.erase()
        if Path(journal).exists():
            raise Failure("something is left in the directory")
        Path(journal).mkdir()
        return found


# What may be lost.


def check(
    run: Run, contents: list[bytes], changed: dict[int, Changes], found: dict[int, bytes]
) -> None:
    """Raise a Failure if more was lost than was hit, or anything was changed."""
    wrong = [number for number, record in found.items() if record != run.records.get(number)]
    lost = run.records.keys() - found.keys()
    if not wrong and not lost:
        return
    is_sure = True  # whether the number after the last record of the file before is certain
    numbers = {record: number for number, record in run.records.items()}
    phantoms = set(wrong) - run.records.keys()
    if phantoms and not any(changes.has_moved for changes in changed.values()):
        raise Failure(f"events {phantoms} were never written")
    for place, file in enumerate(run.files):
        content, changes = contents[place], changed.get(place)
        has_moved = changes is not None and changes.has_moved
        is_based = is_sure or any(file.content[start:end] in content for start, end in file.bases)
        protected = protected_numbers(file, content)
        touched = changes.touched if changes is not None else []
        certain, is_sure = countable(file, touched, protected, is_based=is_based)
        if has_moved:
            certain, is_sure = set(), False
        for number in wrong:
            # Of which event it is: another one, or the changed one itself.
            origin = numbers.get(found[number], number)
            if origin not in file.places:
                continue
            if origin not in protected and (has_moved or not is_based):
                continue
            if origin != number:
                raise Failure(f"event {origin} became event {number}")
            if number in protected or run.records[number] in content:
                raise Failure(f"event {number} was not hit, and became {found[number]!r}")
        for number in file.places.keys() & lost:
            if (number in protected or number in certain) and run.records[number] in content:
                raise Failure(f"event {number} was not hit, and is lost")


def protected_numbers(file: File, content: bytes) -> set[int]:
    """Return the numbers that are in an intact index entry."""
    return {
        number
        for start, end, numbers in file.indexes
        if file.content[start:end] in content
        for number in numbers
    }


def countable(
    file: File, touched: list[tuple[int, int]], protected: set[int], *, is_based: bool
) -> tuple[set[int], bool]:
    """Return the numbers that can be counted, and whether that of the next file's first can be."""
    certain: set[int] = set()
    is_sure = False
    edges = [0, *sorted(protected), 0]
    for left, right in pairwise(edges):
        if right == left + 1 != 1:
            continue
        start = file.places[left][1] if left else HEADER_BYTES
        end = file.places[right][0] if right else HEADER_BYTES + file.data_bytes
        hits = [(a, b) for a, b in touched if a < end and b > start]
        first_hit = min((a for a, _ in hits), default=end)
        last_hit = max((b for _, b in hits), default=start)
        first, last = (
            (left or min(file.places, default=1) - 1),
            right or max(file.places, default=0) + 1,
        )
        for number in range(first + 1, last):
            is_from_left = (left or is_based) and file.places[number][1] <= first_hit
            if is_from_left or (right and file.places[number][0] >= last_hit):
                certain.add(number)
        is_sure = bool(left or is_based) and not hits
    return certain, is_sure
