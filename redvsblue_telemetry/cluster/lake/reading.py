"""Reads the lake: one version of its table, with DuckDB.

A version is a list of files that never change, so all that is read of a snapshot agrees, while
loaders commit. Only the list comes from the Delta log. DuckDB reads the Parquet files itself where
it can, which takes a fraction of the time that a data set of Arrow takes. It has no client for
object storage without a download, so there it reads through such a data set.

Files hold one day each, and those of a day that is over are in the order of type, session and seq.
So DuckDB skips most groups of rows of a question about some types: a funnel of four steps over ten
million events takes half a second of one core, and counts by type a twentieth. A question about a
field takes long, since each event's JSON is parsed: two seconds for ten million events.

Files of the final size have notes: columns for the fields of the data (:mod:`.columns`), and the
counts of their events (:mod:`.counts`). The others are read where they have none.

The rows of a snapshot are in the relations ``stored_events``, ``stored_reports``,
``stored_rejected`` and ``stored_runs``, with the columns of :data:`~.table.FILE_SCHEMA`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from ...collector.models import ALL_TIME, TimeRange
from ...collector.storage.counting import MINUTE
from ...collector.storage.cutoff import Cutoff, CutoffError
from .cells import add_function
from .counts import Counts, table_of
from .errors import LakeError
from .rows import EVENTS, KINDS
from .table import FILE_SCHEMA, DataFile, Notes, Table

__all__ = [
    "MEMORY",
    "Reading",
    "Snapshot",
    "explaining",
    "private_database",
    "quoted",
    "relation_of",
]

MEMORY = "768MB"
"""The most memory that DuckDB takes to sort and to group; then it uses temporary files.

So a process that reads a lake takes less than 1 GB in all.
"""

_SECONDS_BETWEEN_STOPS = 0.05
_SECONDS_BETWEEN_LOOKS = 0.05
_AT_ONCE = 16  # files whose metadata is read
_Result = TypeVar("_Result")
_AS_IN_SQLITE = {
    "integer_division": "true",
    "default_null_order": "nulls_first_on_asc_last_on_desc",
}
_TYPES = {pa.string(): "VARCHAR", pa.int64(): "BIGINT"}


def relation_of(kind: str) -> str:
    """Return the name of the relation with the rows of a kind."""
    return f"stored_{kind}"


class Snapshot:
    """A version of the lake: the files that it has.

    Args:
        url: a path, or the URL of an object store, such as ``s3://bucket/lake``.
        table: the table of the lake, if it is open; it may be moved on later.

    Raises:
        LakeError: there is no lake, or it can't be read.
    """

    def __init__(self, url: str, table: Table | None = None) -> None:
        self.url = url
        self._table = Table.open(url) if table is None else table
        self._files = self._table.files()
        self.version = self._table.version
        """Its number."""

    def files(self, kind: str, span: TimeRange = ALL_TIME) -> list[DataFile]:
        """Return the files with the rows of a kind, those with the oldest rows first.

        Args:
            kind: the kind.
            span: without those that have no row that was received in this range.
        """
        start, end = span.start, span.end
        files = [
            file
            for file in self._files
            if file.kind == kind
            and (start is None or file.highest_received >= start)
            and (end is None or file.lowest_received < end)
        ]
        return sorted(files, key=lambda file: file.lowest_arrival)

    def newest_arrival(self, kind: str = EVENTS) -> int:
        """Return the highest arrival of the rows of a kind; 0 if there are none."""
        return max((file.highest_arrival for file in self.files(kind)), default=0)

    def paths(self, files: Sequence[DataFile]) -> list[str] | None:
        """Return the names of files; None if they are not on this machine."""
        folder = self._table.folder
        return None if folder is None else [str(folder / file.path) for file in files]

    def dataset(self, files: Sequence[DataFile], schema: Any = FILE_SCHEMA) -> Any:
        """Return files as a data set of Arrow, wherever they are."""
        return self._table.dataset([file.path for file in files], schema)

    def notes(self, files: Sequence[DataFile]) -> list[Notes | None]:
        """Return the metadata of files; None for those that have none.

        Raises:
            LakeError: one can't be read.
        """
        with ThreadPoolExecutor(_AT_ONCE, "lake-notes") as threads:  # an object store is far away
            return [*threads.map(self._table.notes, files)]

    @property
    def folder(self) -> Path | None:
        """The folder of the files; None for those in an object store."""
        return self._table.folder

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self._files)

    @contextlib.contextmanager
    def reading(self, memory: str = MEMORY) -> Iterator[Reading]:
        """Open the snapshot for reading, until the block ends.

        Args:
            memory: see :data:`MEMORY`.
        """
        with (
            private_database(memory) as connection,
            ThreadPoolExecutor(1, "lake-reading") as thread,
        ):
            # All that is left of the file system: the files of this version.
            listed = ", ".join(map(quoted, self.paths(self._files) or ()))
            connection.execute(f"SET allowed_paths = [{listed}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield Reading(self, connection, thread=thread)


@contextlib.contextmanager
def private_database(memory: str) -> Iterator[Any]:
    """A connection to an empty database of DuckDB, until the block ends.

    Args:
        memory: see :data:`MEMORY`.
    """
    # Players' data is in the temporary files: only their owner may read this directory.
    directory = tempfile.mkdtemp(prefix="redvsblue-telemetry-")
    try:
        config: dict[str, Any] = {
            "memory_limit": memory,
            "threads": min(4, os.cpu_count() or 1),
            "temp_directory": directory,
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",  # no variable of this program is a table
            **_AS_IN_SQLITE,
        }
        with contextlib.closing(duckdb.connect(":memory:", config=config)) as connection:
            # Before its settings are locked; functions belong to all connections to a database.
            add_function(connection)
            yield connection
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Reading:
    """A snapshot that is open, with its relations. Used by one thread, except for :meth:`stop`.

    Args:
        snapshot: the snapshot.
        connection: to a database of DuckDB; the relations are temporary views of this connection.
        kinds: those whose relations are made.
        thread: see :meth:`call`; None where no signal can come.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        connection: Any,
        kinds: Iterable[str] = KINDS,
        thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.connection = connection
        self._thread = thread
        for kind in kinds:
            self.define(relation_of(kind), snapshot.files(kind))

    @contextlib.contextmanager
    def aside(self) -> Iterator[Reading]:
        """Open the snapshot once more until the block ends, with temporary tables of its own.

        Both readings may be used at the same time, by two threads. Together they keep to the limit
        of memory.
        """
        with (
            contextlib.closing(self.connection.cursor()) as connection,
            ThreadPoolExecutor(1, "lake-reading") as thread,
        ):
            yield Reading(self.snapshot, connection, thread=thread)

    def define(self, name: str, files: Sequence[DataFile], more: Any = ()) -> None:
        """Make a relation of the rows of files.

        Args:
            name: its name.
            files: the files.
            more: the columns besides those of all files, as a schema, which all of these have.
        """
        if not files:
            nulls = ", ".join(
                f"CAST(NULL AS {_TYPES[FILE_SCHEMA.field(column).type]}) AS {column}"
                for column in FILE_SCHEMA.names
            )
            self.run(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT {nulls} WHERE false")
            return
        paths = self.snapshot.paths(files)
        if paths is None:
            schema = pa.schema([*FILE_SCHEMA, *more])
            self.connection.register(f"{name}_files", self.snapshot.dataset(files, schema))
            source = f"{name}_files"
        else:
            listed = ", ".join(map(quoted, paths))
            source = f"read_parquet([{listed}], hive_partitioning = false)"
        columns = ", ".join([*FILE_SCHEMA.names, *(field.name for field in more)])
        self.run(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT {columns} FROM {source}")

    def define_counts(self, name: str, files: Sequence[DataFile]) -> None:
        """Make a relation of the events of files by minute, type and version.

        Its rows can be added up, and have to be: several may be of the same minute. Files whose
        notes have their counts are not read.
        """
        noted: list[Counts] = []
        others: list[DataFile] = []
        for file, notes in zip(files, self.snapshot.notes(files), strict=True):
            if notes is None or notes.counts is None:
                others.append(file)
            else:
                noted.append(notes.counts)
        found = table_of(noted)
        self.add(f"{name}_noted", dict(zip(found.column_names, found.columns, strict=True)))
        self.define(f"{name}_others", others)
        self.run(
            f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * FROM {name}_noted UNION ALL "
            f"SELECT received // {MINUTE}, type, version, count(*) FROM {name}_others GROUP BY ALL"
        )

    def run(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query.

        Raises:
            LakeError: a file can't be read.
        """
        with explaining(self.snapshot.url):
            found: list[tuple[Any, ...]] = self.call(
                lambda: self.connection.execute(query, values).fetchall()
            )
        return found

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Return the result of a function that uses the connection.

        Another thread calls it: a signal, such as that of Ctrl-C, does not end a statement of
        DuckDB, but it ends the wait for one.
        """
        if self._thread is None:
            return function()
        future = self._thread.submit(function)
        try:
            return future.result()
        except BaseException:
            while not future.done():
                self.stop()  # again, if it was between two statements
                wait([future], _SECONDS_BETWEEN_STOPS)
            raise

    def stream(
        self, query: str, values: Sequence[object] = (), rows: int = 10_000
    ) -> Iterator[Any]:
        """Yield the rows of a query as record batches of Arrow, with few of them in memory.

        Raises:
            LakeError: a file can't be read.
        """
        with explaining(self.snapshot.url):
            reader = self.call(lambda: self._arrow(query, values, rows))
            while (batch := self.call(lambda: next(reader, None))) is not None:
                yield batch

    def _arrow(self, query: str, values: Sequence[object], rows: int) -> Any:
        # A relation, since the result of execute() is copied as a whole before it becomes Arrow.
        relation = self.connection.sql(query, params=list(values))
        if hasattr(relation, "to_arrow_reader"):
            return relation.to_arrow_reader(rows)
        return relation.fetch_arrow_reader(rows)  # its name before DuckDB 1.4

    def add(self, name: str, columns: Mapping[str, Any]) -> None:
        """Make a table of columns, each of which is an array of Arrow."""
        # A copy: what is registered is asked by Python, under the GIL, for each part of it.
        self.connection.register(f"{name}_given", pa.table(dict(columns)))
        self.run(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM {name}_given")
        self.connection.unregister(f"{name}_given")

    @contextlib.contextmanager
    def ending(self, cutoff: Cutoff) -> Iterator[None]:
        """End the statement that runs when a reader has to end, until the block ends.

        Raises:
            CutoffError: it had to end.
        """
        is_done = threading.Event()

        def watch() -> None:
            while not is_done.wait(_SECONDS_BETWEEN_LOOKS):
                if cutoff.must_end:
                    self.stop()  # again and again: between two statements, it has no effect

        watching = threading.Thread(target=watch, name="lake-cutoff", daemon=True)
        watching.start()
        try:
            yield
        except Exception as error:  # DuckDB's own, or Arrow's: a statement was interrupted, perhaps
            if cutoff.must_end:
                raise CutoffError from error
            raise
        finally:
            is_done.set()
            watching.join()

    def stop(self) -> None:
        """End the statement that runs. May be called by any thread."""
        self.connection.interrupt()


def quoted(text: str) -> str:
    """Return a text as SQL."""
    # Nothing after a null character would be read.
    return "'" + text.replace("'", "''").replace("\0", "' || chr(0) || '") + "'"


@contextlib.contextmanager
def explaining(url: str) -> Iterator[None]:
    """Turn the errors of files that can't be read into ours."""
    try:
        yield
    except (duckdb.IOException, duckdb.HTTPException, FileNotFoundError) as error:
        text = str(error).partition("\n")[0]
        raise LakeError(
            f"a file of {url} can't be read, perhaps since its rows were erased meanwhile; "
            f"if so, try again: {text}"
        ) from error
    except duckdb.OutOfMemoryException as error:
        raise LakeError(f"there is not enough memory or room on the disk: {error}") from error
