"""Deletes events that are older than ``--keep`` says, a day at a time.

A day goes when all of it is older, so an event may stay up to a day longer. A day that is kept for
some types only is written anew once for each change of its types.

The runs of a session go when nothing of it is kept any more: after that, events that come again are
new. A session that went on later takes the numbers of the deleted day along.
"""

from __future__ import annotations

from datetime import datetime, timezone

import pyarrow as pa
import pyarrow.compute as pc

from ...collector.storage.upkeep import Keep
from .rewriting import owner, replace, rewrite, until_nobody_is_faster
from .rows import DAY, EVENTS, REJECTED, REPORTS, RUNS, day_of
from .table import DataFile, Table, sort

__all__ = ["Retention"]


class Retention:
    """Applies a rule again and again. Used by one thread at a time.

    Args:
        keep: the rule.
    """

    def __init__(self, keep: Keep) -> None:
        self.rule = keep
        """The rule."""
        # The types in a file never change, so each file is read once.
        self._types: dict[str, frozenset[str]] = {}

    def apply(self, table: Table, now: int) -> int:
        """Delete all that is older; return how many events that were.

        Args:
            table: its newest version.
            now: in milliseconds since the epoch.

        Raises:
            LakeError: the lake can't be read or written; some may have been deleted.
        """
        return until_nobody_is_faster(table, lambda: self._apply(table, now))

    def _apply(self, table: Table, now: int) -> int:
        keep, files = self.rule, table.files()
        self._types = {
            each.path: self._types[each.path] for each in files if each.path in self._types
        }
        ages = [keep.age, *keep.by_type.values()]
        longest = None if None in ages else max(age for age in ages if age is not None)
        whole = [
            each
            for each in files
            if (each.kind == REPORTS and _is_over(each, longest, now))
            or (each.kind == REJECTED and _is_over(each, keep.age, now))
            or (each.kind == EVENTS and _is_over(each, longest, now))
        ]
        deleted = sum(each.rows for each in whole if each.kind == EVENTS)
        if whole:
            replace(table, whole, [])
        for each in files:
            if each.kind == EVENTS and each not in whole:
                deleted += self._delete_types(table, each, now)
        expired = [each for each in files if each.kind == RUNS and _is_over(each, longest, now)]
        for day in sorted({each.day for each in expired}):
            _delete_runs(table, [each for each in expired if each.day == day], day_of(now))
        return deleted

    def _delete_types(self, table: Table, file: DataFile, now: int) -> int:
        """Delete the events of a file whose types are not kept for as long."""
        by_type = self.rule.by_type
        gone = {name for name, age in by_type.items() if _is_over(file, age, now)}
        others_are_gone = _is_over(file, self.rule.age, now)
        if not gone and not others_are_gone:
            return 0
        if file.path not in self._types:
            types = table.read([file], ["type"])["type"].unique().to_pylist()
            self._types[file.path] = frozenset(types)
        if others_are_gone:
            gone |= self._types[file.path] - by_type.keys()
        if not gone & self._types[file.path]:
            return 0
        deleted = 0

        def change(batch: pa.Table) -> pa.Table:
            nonlocal deleted
            kept = batch.filter(pc.invert(pc.is_in(batch["type"], pa.array(gone, pa.string()))))
            deleted += batch.num_rows - kept.num_rows
            return kept

        new = rewrite(table, file, change)
        replace(table, [file], [] if new is None else [new])
        return deleted


def _is_over(file: DataFile, age: float | None, now: int) -> bool:
    """Return whether all of the file's day is older than an age in seconds."""
    day = datetime.strptime(file.day, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    return age is not None and day.timestamp() * 1000 + DAY <= now - age * 1000


def _delete_runs(table: Table, old: list[DataFile], today: str) -> None:
    """Delete the runs of a day, but not of sessions that went on later."""
    runs = table.read(old)
    sessions = runs["session"].combine_chunks().unique()
    day = old[0].day
    later: set[str] = set()
    for each in table.files(RUNS):
        if each.day > day:
            condition = pc.field("session").isin(sessions)
            later |= set(table.read([each], ["session"], condition)["session"].to_pylist())
    kept = runs.filter(pc.is_in(runs["session"], pa.array(later, pa.string())))
    new = table.write(RUNS, today, [sort(RUNS, kept)], owner(table))
    replace(table, old, [] if new is None else [new])
