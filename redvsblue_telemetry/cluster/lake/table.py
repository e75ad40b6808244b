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
import dataclasses
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from .columns import Layout, Present
from .counts import Counting, Counts
from .errors import LakeError
from .rows import EVENTS, KINDS, PARTITIONED_BY, REJECTED, REPORTS, RUNS, SCHEMA

__all__ = [
    "FILE_SCHEMA",
    "ORDER",
    "Changes",
    "DataFile",
    "Notes",
    "Owner",
    "Table",
    "check_place",
    "sort",
]

logger = logging.getLogger("redvsblue_telemetry.lake")

FILE_SCHEMA = pa.schema([field for field in SCHEMA if field.name not in PARTITIONED_BY])
"""The columns in a file that all have: the others are in its path, or those of :mod:`.columns`."""
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
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NUMBERS_OF_A_FILE = (
    "num_records", "max.arrival", "min.arrival", "min.received", "max.received",
)  # fmt: skip
_PLACE = re.compile("kind=[^/]+/day=[^/]+/[^/]+")  # of a data file
_COLORS = re.compile("\x1b\\[[0-9;]*m|\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS}")
_CONNECT_TIMEOUT, _REQUEST_TIMEOUT = 5, 20  # seconds; of object stores
ROW_GROUP = 100_000
"""The most rows of a group of rows in a file."""
_REPEATED = ["session", "type", "run", "version", "context", "fault"]
_NOTES = b"redvsblue-telemetry"  # the key of notes in the metadata of a file
_OWN_LEVEL = 1  # of the compression of numbers and texts that are in a dictionary already
_MOST_NOTES = 2000  # that are remembered
_BYTES_PER_ROW = 200  # of memory, beside the encoded columns
_NUMBERS = dict.fromkeys(("arrival", "received", "seq", "timestamp"), "DELTA_BINARY_PACKED")


class Owner(NamedTuple):
    """The fence that a writer of files can commit behind, and its number when they were written.

    Both are in the name of a file. Once the fence has a higher number, a file that is not part of
    the table can't become one any more, and may be deleted.
    """

    fence: str
    number: int


class DataFile(msgspec.Struct, frozen=True):
    """A file of the table."""

    path: str
    """Relative to the table."""
    kind: str
    day: str
    size: int
    rows: int
    highest_arrival: int
    lowest_arrival: int = 0
    lowest_received: int = 0
    highest_received: int = 0


class Notes(msgspec.Struct, frozen=True):
    """The metadata of a file of the final size: what a reader may know without its rows."""

    layout: Layout
    counts: Counts | None = None
    """None if they are too many."""


class Changes(NamedTuple):
    """The differences between two versions of the table."""

    added: list[str]
    """The paths of the files with rows that are new. Files that were merged have none."""
    loses_rows: bool
    """Whether rows were deleted."""


class _File(msgspec.Struct, rename="camel"):
    path: str
    data_change: bool


class _Action(msgspec.Struct):
    """A line of the log."""

    add: _File | None = None
    remove: _File | None = None


_decode_notes = msgspec.json.Decoder(Notes).decode
_decode_action = msgspec.json.Decoder(_Action).decode


class Table:
    """The table at one version. Used by one thread at a time."""

    def __init__(self, url: str, delta: DeltaTable) -> None:
        self.url = url
        self._delta = delta
        _check_columns(url, delta)
        self._id = delta.metadata().id
        self._folder = _local_folder(url)
        self._place = url if self._folder is None else str(self._folder)
        self._files: Any = _file_system(url, self._folder)
        self._seen = self._newest_entry()
        self._notes: dict[str, Notes | None] = {}

    @staticmethod
    def answers(url: str) -> bool:
        """Return whether the place of a table answers, with a table or not. For any thread."""
        try:
            _file_system(url, _local_folder(url)).get_file_info("")
        except (LakeError, OSError):
            return False
        return True

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
                return cls(place, DeltaTable(place, storage_options=_storage_options(url)))
            except TableNotFoundError:
                if not create:
                    raise LakeError(f"{url} is not a lake") from None
            with contextlib.suppress(DeltaError):  # another process was faster: see below
                DeltaTable.create(
                    place,
                    schema=SCHEMA,
                    partition_by=list(PARTITIONED_BY),
                    configuration=_CONFIGURATION,
                    storage_options=_storage_options(url),
                )
            return cls(place, DeltaTable(place, storage_options=_storage_options(url)))

    @property
    def version(self) -> int:
        """The version that this is."""
        return self._delta.version()

    @property
    def id(self) -> str:
        """That of this table: another one in its place has another."""
        return str(self._id)

    def refresh(self) -> None:
        """Move on to the newest version.

        Raises:
            LakeError: it can't be read, or another table has taken its place.
        """
        before = self.version
        with _explained(f"{self.url} can't be read"):
            self._check_place()
            self._delta.update_incremental()
            self._seen = self._newest_entry()
        self._sync_log(before)
        if len(self._notes) > _MOST_NOTES:  # most of them of files that are gone
            self._notes = {}

    @property
    def folder(self) -> Path | None:
        """The folder of the files; None for those in an object store."""
        return self._folder

    def number(self, fence: str) -> int | None:
        """Return the number that the last commit with a fence gave it; None if there was none."""
        with _explained(f"{self.url} can't be read"):
            return self._delta.transaction_version(fence)

    def files(self, kind: str | None = None) -> list[DataFile]:
        """Return the files of this version, by kind and day."""
        with _explained(f"{self.url} can't be read"):
            rows = pa.table(self._delta.get_add_actions(flatten=True))
        found = [
            self._data_file(row)
            for row in rows.to_pylist()
            if kind in (None, row["partition.kind"])
        ]
        return sorted(found, key=lambda each: (each.kind, each.day, each.path))

    def _data_file(self, row: Mapping[str, Any]) -> DataFile:
        path, day = row["path"], row["partition.day"]
        numbers = [row.get(name) for name in _NUMBERS_OF_A_FILE]
        known = [number for number in numbers if number is not None]
        if len(known) < len(numbers) or not _DAY.fullmatch(day or ""):
            raise LakeError(
                f"{self.url} has the file {path}, which no loader has written: its day is {day}, "
                f"and its statistics are {numbers}"
            )
        return DataFile(path, row["partition.kind"], day, row["size_bytes"], *known)

    def changes(self, since: int) -> Changes | None:
        """Return what has changed since a version; None if the log has forgotten it.

        Raises:
            LakeError: the log can't be read.
        """
        added: list[str] = []
        loses_rows = False
        with _explained(f"the log of {self.url} can't be read"):
            for version in range(since + 1, self.version + 1):
                try:
                    with self._files.open_input_stream(f"_delta_log/{version:020}.json") as entry:
                        lines = entry.read().splitlines()
                except FileNotFoundError:
                    return None
                for action in map(_decode_action, lines):
                    if action.add is not None and action.add.data_change:
                        added.append(unquote(action.add.path))
                    loses_rows |= action.remove is not None and action.remove.data_change
        return Changes(added, loses_rows)

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
            return self.dataset(paths).to_table(columns=columns, filter=condition)

    def dataset(self, paths: list[str], schema: Any = FILE_SCHEMA) -> Any:
        """Return files as a data set of pyarrow, wherever they are."""
        return pyarrow.dataset.dataset(
            paths, schema=schema, format="parquet", filesystem=self._files
        )

    def notes(self, file: DataFile) -> Notes | None:
        """Return the metadata of a file; None if it has none.

        May be called by several threads at the same time.

        Raises:
            LakeError: it can't be read.
        """
        known = self._notes
        if file.path in known:
            return known[file.path]
        with _explained(f"{self.url} can't be read"), self._files.open_input_file(file.path) as raw:
            text = (pyarrow.parquet.read_metadata(raw).metadata or {}).get(_NOTES)
        notes = known[file.path] = None if text is None else _decode_notes(text)
        return notes

    def batches(self, file: DataFile) -> Iterator[pa.Table]:
        """Yield the rows of a file in their order, a group at a time, with all of its columns.

        Raises:
            LakeError: it can't be read.
        """
        notes = self.notes(file)
        schema = _schema_of(None if notes is None else notes.layout)
        with _explained(f"{self.url} can't be read"), self._files.open_input_file(file.path) as raw:
            parquet = pyarrow.parquet.ParquetFile(raw)
            for group in range(parquet.num_row_groups):
                yield parquet.read_row_group(group).cast(schema)

    def memory(self, file: DataFile) -> int:
        """Return about how many bytes of memory the rows of a file take.

        Raises:
            LakeError: it can't be read.
        """
        with _explained(f"{self.url} can't be read"), self._files.open_input_file(file.path) as raw:
            groups = pyarrow.parquet.ParquetFile(raw).metadata
            encoded = sum(groups.row_group(i).total_byte_size for i in range(groups.num_row_groups))
        return int(encoded) + file.rows * _BYTES_PER_ROW

    def write(
        self,
        kind: str,
        day: str,
        batches: Iterable[pa.Table],
        owner: Owner,
        level: int = 3,
        layout: Layout | None = None,
    ) -> AddAction | None:
        """Write a file, and sync it; it belongs to the table once it is committed.

        Args:
            kind: of all rows.
            day: of all rows.
            batches: the rows, in the order of :data:`ORDER`.
            owner: who can commit it.
            level: of the compression.
            layout: of the rows, or of others from which they are taken; None if there is none,
                and the file will have no notes.

        Returns:
            The file; None if there are no rows, and so no file.

        Raises:
            LakeError: it can't be written.
        """
        filled = filter(len, batches)
        first = next(filled, None)
        if first is None:
            return None
        path = f"kind={kind}/day={day}/{_file_name(owner)}"
        statistics = _Statistics()
        counting = Counting()
        present = None if layout is None else Present(layout)
        own = [] if layout is None else layout.schema.names
        with _explained(f"{self.url} can't be written"):
            if self._folder is not None:
                self._check_place()  # or else a folder that was deleted would be there again
                (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._files.open_output_stream(path) as sink:
                    with pyarrow.parquet.ParquetWriter(
                        sink,
                        _schema_of(layout),
                        compression="zstd",
                        compression_level=dict.fromkeys(FILE_SCHEMA.names, level)
                        | dict.fromkeys(own, _OWN_LEVEL),
                        use_dictionary=[*_REPEATED, *own],
                        column_encoding=_NUMBERS,
                    ) as writer:
                        for batch in chain([first], filled):
                            writer.write_table(batch, row_group_size=ROW_GROUP)
                            statistics.add(batch)
                            if present is not None:
                                present.add(batch)
                                counting.add(batch)
                        if present is not None:
                            notes = Notes(present.layout(), counting.counts())
                            writer.add_key_value_metadata({_NOTES: msgspec.json.encode(notes)})
                    size = sink.tell()
                self._sync_file(path)
            except BaseException:
                self._delete(path)
                raise
        return AddAction(
            path,
            size,
            {"kind": kind, "day": day},
            int(time.time() * 1000),
            data_change=True,
            stats=statistics.text(),
        )

    def commit(
        self,
        fences: Mapping[str, int],
        add: Iterable[AddAction] = (),
        remove: Iterable[DataFile] = (),
        *,
        same_rows: bool = False,
    ) -> None:
        """Commit files; all of them, or none. Refresh the table before you use it again.

        Args:
            fences: their names, and the numbers that go with them.
            add: the files that are new.
            remove: the files that go.
            same_rows: whether the table has the same rows as before.

        Raises:
            LakeError: it may or may not have been committed; read the numbers of the fences.
        """
        now = int(time.time() * 1000)
        added = [dataclasses.replace(each, data_change=not same_rows) for each in add]
        removed = [
            RemoveAction(
                each.path, not same_rows, now, each.size, {"kind": each.kind, "day": each.day}
            )
            for each in remove
        ]
        with _explained(f"{self.url} can't be written"):
            self._check_place()
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
        """Delete files that were written and not committed, as far as that can be done."""
        for each in added:
            self._delete(each.path)

    def sweep(self, retention: int) -> int:
        """Delete the files that are not part of the table and never will be again.

        Args:
            retention: the hours for which files that were part of it are kept, since somebody may
                still read an older version; at most 24, since the log forgets them after a day.

        Returns:
            How many files were deleted.

        Raises:
            LakeError: the files can't be listed.
        """
        with _explained(f"{self.url} can't be cleaned"):
            in_use = {each.path for each in self.files()}
            removed = self._removed(0)
            in_use |= removed - self._removed(retention)
            swept = 0
            for path in self._data_files():
                if path not in in_use and (path in removed or self._is_dead(path)):
                    with contextlib.suppress(FileNotFoundError):  # another process was faster
                        self._files.delete_file(path)
                        swept += 1
        return swept

    def _data_files(self) -> Iterator[str]:
        """Yield the files where those of the table are; others may be beside them, as a backup."""
        for kind in KINDS:
            selector = pyarrow.fs.FileSelector(f"kind={kind}", allow_not_found=True, recursive=True)
            for info in self._files.get_file_info(selector):
                if info.is_file and _PLACE.fullmatch(info.path):
                    yield info.path

    def _removed(self, retention: int) -> set[str]:
        """Return the files that were removed from the table so many hours ago."""
        return set(self._delta.vacuum(retention, enforce_retention_duration=False))

    def _is_dead(self, path: str) -> bool:
        """Return whether a file that is not part of the table can't be committed any more."""
        owner = _owner_of(path)
        return owner is not None and (self.number(owner.fence) or 0) > owner.number

    def _delete(self, path: str) -> None:
        try:
            self._files.delete_file(path)
        except FileNotFoundError:
            pass
        except OSError as error:  # the next sweep finds it
            logger.warning("%s can't be deleted: %s", path, error)

    def _sync_file(self, path: str) -> None:
        if self._folder is None:
            return
        target = self._folder / path
        for each in (target, target.parent, target.parent.parent, self._folder):
            _sync(each)

    def _newest_entry(self) -> tuple[Any, ...]:
        """Return the facts about the file of the log that made this version."""
        info = self._files.get_file_info(f"_delta_log/{self.version:020}.json")
        return info.type, info.size, info.mtime_ns

    def _check_place(self) -> None:
        """Raise LakeError if the table was deleted, or another has taken its place.

        deltalake looks for newer versions only. It would commit to a folder without a table.
        """
        if self._newest_entry() == self._seen:
            return
        # Its entry may also have been cleaned up, or the folder may have been copied.
        try:
            found = DeltaTable(self._place, storage_options=_storage_options(self.url))
        except TableNotFoundError:
            raise LakeError(f"{self.url} was deleted while it was in use") from None
        if found.metadata().id != self._id or found.version() < self.version:
            raise LakeError(f"{self.url} was replaced by another lake while it was in use")

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


def _check_columns(url: str, delta: DeltaTable) -> None:
    """Raise LakeError if a table has other columns than a lake; it may have more."""
    types = {field.name: field.type for field in delta.schema().fields}
    wanted = {field.name: field.type for field in Schema.from_arrow(SCHEMA).fields}
    is_lake = delta.metadata().partition_columns == [*PARTITIONED_BY]
    if not is_lake or any(types.get(name) != kind for name, kind in wanted.items()):
        raise LakeError(f"{url} is a Delta table, but not a lake: it has other columns")


def _schema_of(layout: Layout | None) -> Any:
    return FILE_SCHEMA if layout is None else pa.unify_schemas([FILE_SCHEMA, layout.schema])


def check_place(url: str) -> None:
    """Check that a lake could be there, without a look.

    Raises:
        LakeError: it couldn't.
    """
    _local_folder(url)


def sort(kind: str, rows: pa.Table) -> pa.Table:
    """Return rows in the order of the files of a kind."""
    return rows.sort_by([(name, "ascending") for name in ORDER[kind]])


def _local_folder(url: str) -> Path | None:
    """Return the folder of a lake on this machine; None for one in an object store.

    Raises:
        LakeError: it can't be the place of a lake.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return None
    if parts.scheme != "file" and len(parts.scheme) > 1:
        raise LakeError(f"{url} is neither a path nor an s3:// URL")
    path = unquote(parts.path) if parts.scheme == "file" else url
    has_control_character = any(ord(character) < ord(" ") for character in path)
    if (
        not path
        or has_control_character
        or unquote(path) != path
        or (os.sep == "/" and "\\" in path)
    ):
        raise LakeError(
            f"{url!r} can't be the path of a lake; it must not be empty, or have a backslash, a "
            "control character, or a % before two hexadecimal digits"
        )
    return Path(path).absolute()


def _file_system(url: str, folder: Path | None) -> Any:
    """Return the file system that has the table as its root."""
    if folder is not None:
        return pyarrow.fs.SubTreeFileSystem(str(folder), pyarrow.fs.LocalFileSystem())
    parts = urlsplit(url)
    # deltalake has one of its own, but it keeps the GIL while it waits for the network.
    with _explained(f"{url} can't be reached"):
        store = pyarrow.fs.S3FileSystem(
            region=os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION")),
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL"),
            connect_timeout=_CONNECT_TIMEOUT,
            request_timeout=_REQUEST_TIMEOUT,
        )
    return pyarrow.fs.SubTreeFileSystem(parts.netloc + parts.path, store)


def _storage_options(url: str) -> dict[str, str] | None:
    """Return the settings of deltalake's own access: it would try for three minutes."""
    if urlsplit(url).scheme != "s3":
        return None
    return {
        "connect_timeout": f"{_CONNECT_TIMEOUT} seconds",
        "timeout": f"{_REQUEST_TIMEOUT} seconds",
        "max_retries": "3",
        "retry_timeout": f"{_REQUEST_TIMEOUT} seconds",
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_name(owner: Owner) -> str:
    fence = owner.fence.replace("/", ".")
    return f"{fence}.{owner.number}.{uuid.uuid4().hex}.parquet"


def _owner_of(path: str) -> Owner | None:
    parts = path.rpartition("/")[2].rsplit(".", 3)
    if len(parts) != 4 or parts[3] != "parquet" or not parts[1].isdecimal():
        return None
    return Owner(parts[0].replace(".", "/"), int(parts[1]))


class _Statistics:
    """The statistics of a file, as the log has them."""

    def __init__(self) -> None:
        self._rows = 0
        self._lowest: dict[str, int] = {}
        self._highest: dict[str, int] = {}
        self._missing = dict.fromkeys(_STATISTICS, 0)

    def add(self, rows: pa.Table) -> None:
        self._rows += rows.num_rows
        for name in _STATISTICS:
            self._missing[name] += rows[name].null_count
            ends = pc.min_max(rows[name]).as_py()
            if ends["min"] is not None:
                self._lowest[name] = min(self._lowest.get(name, ends["min"]), ends["min"])
                self._highest[name] = max(self._highest.get(name, ends["max"]), ends["max"])

    def text(self) -> str:
        return json.dumps(
            {
                "numRecords": self._rows,
                "minValues": self._lowest,
                "maxValues": self._highest,
                "nullCount": self._missing,
            }
        )


@contextlib.contextmanager
def _explained(trouble: str) -> Iterator[None]:
    """Raise LakeError in place of the errors of deltalake, pyarrow and the system."""
    try:
        yield
    except (OSError, DeltaError, pa.ArrowException) as error:
        # deltalake's have several lines, in color.
        reason = " ".join(_COLORS.sub("", str(error)).split())
        raise LakeError(f"{trouble}: {reason}") from error
