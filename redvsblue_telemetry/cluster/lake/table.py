"""The Delta table behind the lake: its files, and commits that can't be taken for another's.

The only module that knows of deltalake. A :class:`Table` is the table at one version, and can be
moved on to the newest one. The files are written here and not by deltalake, which takes three times
as long and a third more space.

A commit names *fences*, and fails if another commit with one of the same names has been made since
the version of the :class:`Table` that commits: so at most one of several writers that began with
the same state can commit. deltalake checks the names only, not the numbers that go with them.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction

from .errors import LakeError
from .rows import EVENTS, PARTITIONED_BY, REJECTED, REPORTS, RUNS, SCHEMA

__all__ = ["FILE_SCHEMA", "DataFile", "Table"]

FILE_SCHEMA = pa.schema([field for field in SCHEMA if field.name not in PARTITIONED_BY])
"""The columns in a file: the others are in its path."""
ORDER: Mapping[str, tuple[str, ...]] = {
    EVENTS: ("type", "session", "seq"),
    REPORTS: ("session", "seq"),
    REJECTED: ("arrival",),
    RUNS: ("seq", "session"),
}
"""The order of the rows in a file, by kind."""
# No column with a text that a player could have written: the log keeps the statistics of files that
# are gone.
_STATISTICS = ("arrival", "received", "seq", "timestamp")
_CONFIGURATION: Mapping[str, str | None] = {
    "delta.dataSkippingStatsColumns": ",".join(_STATISTICS),
    "delta.checkpointInterval": "50",
    "delta.logRetentionDuration": "interval 1 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
}
ROW_GROUP = 100_000
"""The most rows of a group of rows in a file."""
_REPEATED = ["received", "session", "type", "run", "version", "context", "fault"]
_NUMBERS = dict.fromkeys(("arrival", "seq", "timestamp"), "DELTA_BINARY_PACKED")


class DataFile(msgspec.Struct, frozen=True):
    """A file of the table."""

    path: str
    """Relative to the table."""
    kind: str
    day: str
    size: int
    rows: int
    highest_arrival: int


class Table:
    """The table at one version. Used by one thread at a time."""

    def __init__(self, url: str, delta: DeltaTable) -> None:
        self.url = url
        self._delta = delta
        self._id = delta.metadata().id
        self._folder = _local_folder(url)
        self._files: Any = (
            pyarrow.fs.PyFileSystem(DeltaStorageHandler.from_table(delta._table))
            if self._folder is None
            else pyarrow.fs.SubTreeFileSystem(str(self._folder), pyarrow.fs.LocalFileSystem())
        )

    @classmethod
    def open(cls, url: str, *, create: bool = False) -> Table:
        """Return the newest version of the table.

        Args:
            url: a path, or the URL of an object store, such as ``s3://bucket/lake``.
            create: whether to make it if there is none.

        Raises:
            LakeError: there is none, or it can't be read.
        """
        folder = _local_folder(url)
        place = url if folder is None else str(folder)
        with _explained(f"{url} can't be opened"):
            try:
                return cls(place, DeltaTable(place))
            except TableNotFoundError:
                if not create:
                    raise LakeError(f"{url} is not a lake") from None
            with contextlib.suppress(DeltaError):  # another process was faster: see below
                DeltaTable.create(
                    place,
                    schema=SCHEMA,
                    partition_by=list(PARTITIONED_BY),
                    configuration=_CONFIGURATION,
                )
            return cls(place, DeltaTable(place))

    @property
    def version(self) -> int:
        """The version that this is."""
        return self._delta.version()

    def refresh(self) -> None:
        """Move on to the newest version.

        Raises:
            LakeError: it can't be read, or another table has taken its place.
        """
        before = self.version
        with _explained(f"{self.url} can't be read"):
            self._delta.update_incremental()
            if self._delta.metadata().id != self._id:
                raise LakeError(f"{self.url} was made anew while it was in use")
        self._sync_log(before)

    def number(self, fence: str) -> int | None:
        """Return the number that the last commit with a fence gave it; None if there was none."""
        with _explained(f"{self.url} can't be read"):
            return self._delta.transaction_version(fence)

    def files(self, kind: str | None = None) -> list[DataFile]:
        """Return the files of this version, by kind and day."""
        with _explained(f"{self.url} can't be read"):
            rows = pa.table(self._delta.get_add_actions(flatten=True))
        found = [
            DataFile(
                row["path"],
                row["partition.kind"],
                row["partition.day"],
                row["size_bytes"],
                row["num_records"],
                row["max.arrival"] or 0,
            )
            for row in rows.to_pylist()
            if kind in (None, row["partition.kind"])
        ]
        return sorted(found, key=lambda each: (each.kind, each.day, each.path))

    def read(
        self, files: Iterable[DataFile], columns: list[str] | None = None, condition: Any = None
    ) -> pa.Table:
        """Return rows of files.

        Args:
            files: the files.
            columns: those that are read; None for all.
            condition: an expression of pyarrow that the rows fulfill.

        Raises:
            LakeError: a file can't be read.
        """
        paths = [each.path for each in files]
        if not paths:
            empty = FILE_SCHEMA.empty_table()
            return empty if columns is None else empty.select(columns)
        with _explained(f"{self.url} can't be read"):
            dataset = pyarrow.dataset.dataset(
                paths, schema=FILE_SCHEMA, format="parquet", filesystem=self._files
            )
            return dataset.to_table(columns=columns, filter=condition)

    def write(self, kind: str, day: str, rows: pa.Table) -> AddAction:
        """Write rows of one kind and day as a file; it belongs to the table once it is committed.

        Raises:
            LakeError: it can't be written.
        """
        rows = rows.sort_by([(name, "ascending") for name in ORDER[kind]])
        path = f"kind={kind}/day={day}/{uuid.uuid4()}.parquet"
        with _explained(f"{self.url} can't be written"):
            buffer = pa.BufferOutputStream()
            pyarrow.parquet.write_table(
                rows,
                buffer,
                row_group_size=ROW_GROUP,
                compression="zstd",
                compression_level=3,
                use_dictionary=_REPEATED,
                column_encoding=_NUMBERS,
            )
            contents = buffer.getvalue()
            self._put(path, contents)
        return AddAction(
            path,
            contents.size,
            {"kind": kind, "day": day},
            int(time.time() * 1000),
            data_change=True,
            stats=_statistics(rows),
        )

    def commit(
        self,
        fences: Mapping[str, int],
        add: Iterable[AddAction] = (),
        remove: Iterable[DataFile] = (),
    ) -> None:
        """Commit files; all of them, or none. Refresh the table before you use it again.

        Args:
            fences: their names, and the numbers that go with them.
            add: the files that are new.
            remove: the files that go.

        Raises:
            LakeError: it may or may not have been committed; read the numbers of the fences.
        """
        now = int(time.time() * 1000)
        added = list(add)
        removed = [
            RemoveAction(each.path, False, now, each.size, {"kind": each.kind, "day": each.day})
            for each in remove
        ]
        with _explained(f"{self.url} can't be written"):
            self._delta.create_write_transaction(
                [*removed, *added],
                "append",
                self._delta.schema(),
                list(PARTITIONED_BY),
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(*each) for each in fences.items()]
                ),
            )

    def discard(self, added: Iterable[AddAction]) -> None:
        """Delete files that were written and will not be committed, as far as that can be done."""
        for each in added:
            with contextlib.suppress(OSError):
                self._files.delete_file(each.path)

    def _put(self, path: str, contents: Any) -> None:
        if self._folder is None:
            with self._files.open_output_stream(path) as stream:
                stream.write(contents)
            return
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with target.open("wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        for folder in (target.parent, target.parent.parent, self._folder):
            _sync(folder)

    def _sync_log(self, before: int) -> None:
        """Have the log on the disk, up to this version: deltalake leaves that to the system."""
        if self._folder is None or self.version == before:
            return
        log = self._folder / "_delta_log"
        with _explained(f"{self.url} can't be written"):
            for version in range(before + 1, self.version + 1):
                with contextlib.suppress(FileNotFoundError):  # a checkpoint has taken its place
                    _sync(log / f"{version:020}.json")
            _sync(log)


def _local_folder(url: str) -> Path | None:
    """Return the folder of a lake on this machine; None for one in an object store."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(parts.path)
    return None if len(parts.scheme) > 1 else Path(url).absolute()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _statistics(rows: pa.Table) -> str:
    """Return the statistics of a file, as the log has them."""
    lowest, highest, missing = {}, {}, {}
    for name in _STATISTICS:
        ends = pc.min_max(rows[name]).as_py()
        missing[name] = rows[name].null_count
        if ends["min"] is not None:
            lowest[name], highest[name] = ends["min"], ends["max"]
    return json.dumps(
        {
            "numRecords": rows.num_rows,
            "minValues": lowest,
            "maxValues": highest,
            "nullCount": missing,
        }
    )


@contextlib.contextmanager
def _explained(trouble: str) -> Iterator[None]:
    """Raise LakeError in place of the errors of deltalake, pyarrow and the system."""
    try:
        yield
    except (OSError, DeltaError, pa.ArrowException) as error:
        raise LakeError(f"{trouble}: {error}") from error
