"""Merges the many small files of the loaders into few large ones.

A commit each second makes a file each second. Eight files of about the same size become one, and so
on up to a size that is good to read, so each row is written a few times only. Files with rows that
arrived about the same time are merged, so a question about a time reads few of them; within a file,
the rows are in the order of :data:`~.table.ORDER`. When a day is over, its small files are merged,
however few they are. A file that will not be merged again gets the columns of :mod:`.columns`.

The runs of a session are added up, and of its reports only the newest stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import msgspec
import pyarrow as pa
from deltalake.transaction import AddAction

from ..._report import decode_report
from .columns import with_columns
from .numbers import Ranges, decode_ranges, merged_ranges
from .rewriting import LostRaceError, owner, replace
from .rows import EVENTS, REPORTS, RUNS
from .table import FILE_SCHEMA, DataFile, Owner, Table, sort

__all__ = ["Compacted", "compact", "merge_runs", "plan", "write_merged"]

_TARGET_ROWS = 500_000
_TARGET_BYTES = 128 * 1024 * 1024
_TARGET_MEMORY = 192 * 1024 * 1024
_AT_ONCE = 8  # files of about the same size
_BITS = 3  # sizes within a factor of eight are about the same
# Levels of compression: of files that will be merged again, and of the others. From 7 to 9, a file
# takes 1.5 % less and the processor a fifth more.
_QUICK, _SMALL = 3, 7
_encode = msgspec.json.Encoder().encode


class Compacted(msgspec.Struct):
    """The outcome of a compaction."""

    before: int = 0
    """How many files were replaced."""
    after: int = 0
    """By how many."""
    rows: int = 0
    """How many rows the latter have."""


def compact(table: Table, today: str) -> Compacted:
    """Merge the files of a table, one commit for each new file.

    Args:
        table: its newest version.
        today: files of earlier days are merged, however few they are.

    Raises:
        LakeError: the lake can't be read or written; the files that were merged before stay so.
    """
    done = Compacted()
    for group in plan(table.files(), today):
        for files in _fitting(table, group):
            rows = table.read(files)
            kind, day = files[0].kind, files[0].day
            if kind == RUNS:
                rows = merge_runs(rows)
            elif kind == REPORTS:
                rows = _newest_reports(rows)
            is_last = day < today or rows.num_rows >= _TARGET_ROWS // 2
            new = write_merged(table, kind, day, rows, owner(table), is_last=is_last)
            try:
                replace(table, files, [] if new is None else [new], same_rows=True)
            except LostRaceError:  # another process is about it
                return done
            done.before += len(files)
            done.after += 1
            done.rows += rows.num_rows
    return done


def write_merged(
    table: Table, kind: str, day: str, rows: pa.Table, owner: Owner, *, is_last: bool = True
) -> AddAction | None:
    """Write rows that were merged, in any order, as :meth:`.Table.write` does.

    Args:
        table: the table.
        kind: of all rows.
        day: of all rows.
        rows: the rows.
        owner: who can commit the file.
        is_last: whether it will not be merged again.
    """
    in_order, layout = sort(kind, rows), None
    if kind == EVENTS and is_last:
        in_order, layout = with_columns(in_order)
    level = _SMALL if is_last else _QUICK
    return table.write(kind, day, [in_order], owner, level, layout)


def plan(files: Iterable[DataFile], today: str) -> Iterator[list[DataFile]]:
    """Yield groups of files that should be merged."""
    for (_, day), of_day in groupby(files, lambda each: (each.kind, each.day)):
        small = sorted(
            (each for each in of_day if _is_small(each)), key=lambda each: each.highest_arrival
        )
        if day < today:
            yield from _bins(small, 2)
            continue
        by_size: dict[int, list[DataFile]] = {}
        for each in small:
            by_size.setdefault(each.rows.bit_length() // _BITS, []).append(each)
        for group in by_size.values():
            if len(group) >= _AT_ONCE:
                yield from _bins(group, _AT_ONCE // 2)


def _is_small(file: DataFile) -> bool:
    return file.rows < _TARGET_ROWS // 2 and file.size < _TARGET_BYTES // 2


def _bins(files: list[DataFile], least: int) -> Iterator[list[DataFile]]:
    """Yield neighbors that make a file of the right size, at least so many."""
    chosen: list[DataFile] = []
    rows = size = 0
    for each in files:
        rows, size = rows + each.rows, size + each.size
        if chosen and (rows > _TARGET_ROWS or size > _TARGET_BYTES):
            if len(chosen) >= least:
                yield chosen
            chosen, rows, size = [], each.rows, each.size
        chosen.append(each)
    if len(chosen) >= least:
        yield chosen


def _fitting(table: Table, files: list[DataFile]) -> Iterator[list[DataFile]]:
    """Yield parts of a group that fit into memory, of at least two files."""
    chosen: list[DataFile] = []
    memory = 0
    for each in files:
        more = table.memory(each)
        if chosen and memory + more > _TARGET_MEMORY:
            if len(chosen) > 1:
                yield chosen
            chosen, memory = [], 0
        chosen.append(each)
        memory += more
    if len(chosen) > 1:
        yield chosen


class _Run(msgspec.Struct, gc=False):
    """The row of a session that stands for several."""

    ranges: Ranges
    repeats: int
    arrival: int
    received: int


def merge_runs(rows: pa.Table) -> pa.Table:
    """Return runs with one row for each session, which has the place of its last row."""
    found: dict[tuple[str, int], _Run] = {}
    columns = ("session", "seq", "data", "timestamp", "arrival", "received")
    for session, partition, text, repeats, arrival, received in zip(
        *(rows[name].to_pylist() for name in columns), strict=True
    ):
        run = found.get((session, partition))
        if run is None:
            run = found[session, partition] = _Run([], 0, arrival, received)
        run.ranges += decode_ranges(text)
        run.repeats += repeats or 0
        run.arrival, run.received = max(run.arrival, arrival), max(run.received, received)
    runs = found.values()
    merged: dict[str, list[Any]] = {
        "session": [session for session, _ in found],
        "seq": [partition for _, partition in found],
        "data": [_encode(merged_ranges(run.ranges)) for run in runs],
        "timestamp": [run.repeats or None for run in runs],
        "arrival": [run.arrival for run in runs],
        "received": [run.received for run in runs],
    }
    nothing = [None] * len(runs)
    return pa.table([merged.get(name, nothing) for name in FILE_SCHEMA.names], schema=FILE_SCHEMA)


def _newest_reports(rows: pa.Table) -> pa.Table:
    newest: dict[str, tuple[tuple[int, int], int]] = {}
    for place, text in enumerate(rows["data"].to_pylist()):
        report = decode_report(text)
        age = report.started_at, report.number
        known = newest.get(report.session_id)
        if known is None or age > known[0]:
            newest[report.session_id] = age, place
    return rows.take(pa.array([place for _, place in newest.values()], pa.int64()))
