"""Replaces files of the lake by others, while loaders append to it.

Rows that are appended meanwhile are in files of their own, so they are not in the way. But two that
rewrite the same file would store its rows twice: so all that replace files commit behind one fence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import pyarrow as pa
from deltalake.transaction import AddAction

from .errors import LakeError
from .table import DataFile, Owner, Table

__all__ = ["LostRaceError", "owner", "replace", "rewrite", "until_nobody_is_faster"]

_Result = TypeVar("_Result")

_FENCE = "upkeep"
_ATTEMPTS = 20


class LostRaceError(Exception):
    """Another process has replaced files meanwhile, so nothing was done."""


def owner(table: Table) -> Owner:
    """Return the owner of the files that will replace others of this version of the table."""
    return Owner(_FENCE, table.number(_FENCE) or 0)


def replace(
    table: Table,
    old: Sequence[DataFile],
    new: Iterable[AddAction],
    *,
    same_rows: bool = False,
) -> None:
    """Replace files in one commit, and move on to the newest version of the table.

    Args:
        table: the version of which the old files are.
        old: the files that go.
        new: the files that come, which have the current :func:`owner`.
        same_rows: whether the rows stay the same.

    Raises:
        LostRaceError: another process was faster; nothing has changed, and the new files are gone.
        LakeError: the same, for another reason; or it can't be found out.
    """
    added = list(new)
    number = owner(table).number
    trouble: LakeError | None = None
    try:
        table.commit({_FENCE: number + 1}, added, old, same_rows=same_rows)
    except LakeError as error:
        trouble = error
    table.refresh()
    here = {each.path for each in table.files()}
    is_done = all(each.path in here for each in added) if added else trouble is None
    if is_done:
        return
    table.discard(added)
    if owner(table).number != number:
        raise LostRaceError
    raise LakeError(f"nothing was changed: {trouble}") from trouble


def rewrite(
    table: Table, file: DataFile, change: Callable[[pa.Table], pa.Table], level: int = 9
) -> AddAction | None:
    """Write the rows of a file as others; return the new file, or None if it would have no rows.

    Args:
        table: the table.
        file: the file.
        change: returns the rows for some rows, in the same order.
        level: of the compression.

    Raises:
        LakeError: the file can't be read, or the new one can't be written.
    """
    batches = (change(batch) for batch in table.batches(file))
    notes = table.notes(file)
    layout = None if notes is None else notes.layout
    return table.write(file.kind, file.day, batches, owner(table), level, layout)


def until_nobody_is_faster(table: Table, work: Callable[[], _Result]) -> _Result:
    """Do work that replaces files, again from its beginning whenever another process was faster.

    Args:
        table: moved on to its newest version each time.
        work: raises LostRaceError; after that it finds less to do.

    Raises:
        LakeError: others were always faster, or the work has raised it.
    """
    for _ in range(_ATTEMPTS):
        try:
            return work()
        except LostRaceError:
            table.refresh()
    raise LakeError(f"{table.url} is being changed by others all the time")
