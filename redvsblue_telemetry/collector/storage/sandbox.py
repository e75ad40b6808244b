"""Runs SQL of a person: reads the views that are offered, and nothing else, within limits.

Everybody who may read the page may send any SQL, so each of these must hold alone:

- The database is attached read-only, and the connection may not write either (``query_only``).
- The tables are in a schema whose name is made anew for each query. Only the views know it, so only
  they can read a table; each table's own name means a view that is forbidden.
- An authorizer permits SELECT, the functions in a list, and reading. That leaves out ATTACH,
  PRAGMA, transactions, extensions, and SQLite's own tables.
- SQLite's limits bound texts, columns and the length of the query, from Python 3.11 on.

What remains is how long a query takes and how much memory it needs. SQLite compiles ``WITH a AS
(...), b AS (SELECT ... FROM a, a), ...`` in exponential time and memory, and calls nobody
meanwhile; one ``replace`` of long texts can take minutes. So a collector runs this file as a
separate process, which the collector kills (see ``http/query.py``). SQLite itself limits the memory
that it asks for, on each system; where the system can limit a process, it does so, too. Windows
can't limit the size of a file, so temporary data stays in that memory there.

Needs the standard library alone, and is run without the package: that takes a quarter of the time.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = [
    "MAX_SQL",
    "Query",
    "QueryError",
    "TooSlowError",
    "as_json_value",
    "new_schema",
    "stopped_after",
]

MAX_SQL = 20_000
"""The most characters of a query."""
_MAX_TEXT = 1_100_000  # bytes; a message, and so an event, has less than a million
_MAX_COLUMNS = 200
_MAX_PATTERN = 1000  # bytes of a LIKE or GLOB, whose time is that of the text times the pattern
# Of SQLite's functions, all that only compute: not zeroblob and randomblob, which make long texts
# of nothing.
_ALLOWED = """
    avg count group_concat string_agg max median min percentile percentile_cont percentile_disc sum
    total json_group_array json_group_object cume_dist dense_rank first_value lag last_value lead
    nth_value ntile percent_rank rank row_number
    abs acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10
    log2 mod pi pow power radians random round sign sin sinh sqrt tan tanh trunc
    char coalesce concat concat_ws format glob hex if ifnull iif instr length like likelihood likely
    lower ltrim nullif octet_length printf quote replace rtrim substr substring trim typeof unhex
    unicode unlikely upper
    current_date current_time current_timestamp date datetime julianday strftime time timediff
    unixepoch
    -> ->> json json_array json_array_length json_error_position json_extract json_insert
    json_object json_patch json_pretty json_quote json_remove json_replace json_set json_type
    json_valid
"""
_FUNCTIONS = frozenset(_ALLOWED.split())
_TABLE_FUNCTIONS = ("json_each", "json_tree")
_NO_ENTRY = "forbidden_table"
_BEGINNING = re.compile(r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*(\w*)", re.DOTALL)
_ALLOWED_BEGINNINGS = ("select", "with", "values")


class QueryError(Exception):
    """The query can't be run; the message says why."""


class TooSlowError(QueryError):
    """It took too long, or needed too much memory."""


def new_schema() -> str:
    """Return a name for the schema of the tables, which nobody can guess."""
    return f"db_{os.urandom(16).hex()}"


@contextlib.contextmanager
def stopped_after(seconds: float | None, stop: Callable[[], object]) -> Iterator[None]:
    """Call a function, on another thread, if the block has not ended after some seconds.

    Args:
        seconds: how long it may take; None for as long as it takes.
        stop: the function.
    """
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Query:
    """Runs one query, over a separate connection, which it changes for good.

    Args:
        connection: a connection to an empty database in memory. The telemetry database is attached
            to it.
        schema: as what it is attached; see :func:`new_schema`.
        views: the SQL of each view that can be read; ``{schema}`` is the beginning of the name of a
            table.
    """

    def __init__(
        self, connection: sqlite3.Connection, schema: str, views: Mapping[str, str]
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._views = views
        self._denied: str | None = None
        self._is_over = False
        connection.text_factory = lambda text: text.decode(errors="replace")
        self._define()
        self._lock()

    def _define(self) -> None:
        """Make the views, and hide the tables."""
        execute = self._connection.execute
        # What shows a file of an older version as a current one may have the same names.
        shown = execute("SELECT name, type, sql FROM temp.sqlite_schema").fetchall()
        taken = {name for name, _, _ in shown}
        tables = {
            name
            for (name,) in execute(
                f"SELECT name FROM {self._schema}.sqlite_schema WHERE type IN ('table', 'view')"
            )
            if not name.startswith("sqlite_")
        }
        for name, kind, sql in shown:
            if name in self._views and kind == "table":
                execute(f"ALTER TABLE temp.{name} RENAME TO {self._schema}_{name}")
            elif name in self._views:
                execute(f"DROP VIEW temp.{name}")
                execute(sql.replace(name, f"temp.{self._schema}_{name}", 1))
        current = {name: f"{self._schema}_{name}" for name in taken if name in self._views}
        temporary = taken - current.keys()
        for name, sql in self._views.items():
            execute(f"CREATE TEMP VIEW {name} AS {self._resolved(sql, current, temporary)}")
        for name in tables - self._views.keys() - taken:
            execute(f'CREATE TEMP VIEW "{name}" AS SELECT {_NO_ENTRY}() AS x')

    def _resolved(self, sql: str, current: Mapping[str, str], temporary: set[str]) -> str:
        """Return the SQL of a view with the names of the tables that it reads."""

        def table(found: re.Match[str]) -> str:
            name = found[1]
            if name in current:
                return f"temp.{current[name]}"
            return f"temp.{name}" if name in temporary else f"{self._schema}.{name}"

        return re.sub(r"\{schema\}\.(\w+)", table, sql)

    def _lock(self) -> None:
        connection = self._connection
        connection.create_function(_NO_ENTRY, 0, lambda: None)
        for function in _TABLE_FUNCTIONS:  # their first use looks like a write to the schema
            connection.execute(f"SELECT 1 FROM {function}('[]')").fetchall()
        connection.execute("PRAGMA query_only = 1")
        if sys.version_info >= (3, 11):
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_TEXT)
            connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 4 * MAX_SQL)
            connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, _MAX_COLUMNS)
            connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, _MAX_PATTERN)
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
        connection.set_authorizer(self._authorize)

    def _authorize(
        self,
        action: int,
        first: str | None,
        second: str | None,
        schema: str | None,
        source: str | None,
    ) -> int:
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION:
            return self._permit_function(second or "", source)
        if action == sqlite3.SQLITE_READ:
            return self._permit_reading(first or "", second, schema, source)
        self._denied = self._denied or (
            f"a query only reads; there are {', '.join(self._views)}, and only these"
        )
        return sqlite3.SQLITE_DENY

    def _permit_function(self, name: str, source: str | None) -> int:
        if name.lower() in _FUNCTIONS:
            return sqlite3.SQLITE_OK
        if name == _NO_ENTRY and source:
            self._deny_table(source)
        else:
            self._denied = self._denied or f"the function {name} is not allowed"
        return sqlite3.SQLITE_DENY

    def _permit_reading(
        self, table: str, column: str | None, schema: str | None, source: str | None
    ) -> int:
        name = table.lower()
        is_own = name.startswith(("sqlite_", "pragma_")) or name == "dbstat"
        # Without a column, SQLite repeats the name as it was written, which may be that of a
        # common table expression. Only views can write the schema of the tables; the names of
        # tables alone mean views, and the source is one then.
        is_written = schema is None and not column
        if not is_own and (
            is_written
            or schema == "temp"
            or (schema == self._schema and (source is not None or not column))
            or (schema == "main" and name in _TABLE_FUNCTIONS)
        ):
            return sqlite3.SQLITE_OK
        self._deny_table(table)
        return sqlite3.SQLITE_DENY

    def _deny_table(self, table: str) -> None:
        self._denied = self._denied or (
            f"the table {table} can't be read; there are {', '.join(self._views)}"
        )

    @contextlib.contextmanager
    def run(
        self, sql: str, seconds: float | None = None
    ) -> Iterator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
        """Provide the names of the columns, and the rows.

        Args:
            sql: one SELECT.
            seconds: how long it may take; None for as long as it takes.

        Raises:
            QueryError: it can't be run. Also from the rows.
            TooSlowError: it took too long. Also from the rows.
        """
        _check(sql)
        with (
            stopped_after(seconds, self._interrupt),
            self._explaining(seconds),
            contextlib.closing(self._execute(sql)) as cursor,
        ):
            yield [name for name, *_ in cursor.description], self._rows(cursor)

    def _execute(self, sql: str) -> sqlite3.Cursor:
        cursor = self._connection.execute(sql)
        if cursor.description is None:
            raise QueryError("the query is empty; write a SELECT")
        return cursor

    def _rows(self, cursor: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
        for row in cursor:
            if self._is_over:  # the interrupt came between two steps
                raise sqlite3.OperationalError("interrupted")
            yield row

    def _interrupt(self) -> None:
        self._is_over = True
        self._connection.interrupt()

    @contextlib.contextmanager
    def _explaining(self, seconds: float | None) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning) as error:
            text = str(error)
            if self._is_over:
                raise TooSlowError(
                    f"the query took longer than {seconds:g} s; narrow it, by a type for example"
                ) from error
            if self._denied is not None:
                raise QueryError(self._denied) from error
            if text.startswith(("database or disk is full", "disk I/O error")):
                raise TooSlowError("the query needs too much room for temporary data") from error
            if text.startswith("You can only execute one statement"):
                text = "there must be one statement"
            if text.startswith("no such table"):
                text += f"; there are {', '.join(self._views)}"
            if text == "string or blob too big":
                text = "a text is too long; it may have a megabyte"
            if text.startswith("Incorrect number of bindings"):
                text = "a query has no parameters; put texts into 'quotes'"
            raise QueryError(text) from error
        except MemoryError as error:
            raise TooSlowError("the query needs too much memory") from error


def _check(sql: str) -> None:
    if len(sql) > MAX_SQL:
        raise QueryError(f"the query has {len(sql):,} characters; the maximum is {MAX_SQL:,}")
    if "\0" in sql:
        raise QueryError("the query has a null character")
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise QueryError("the query is not valid Unicode") from None
    found = _BEGINNING.match(sql)
    word = "" if found is None else found[1]
    if not word and (found is None or found.end() == len(sql)):
        raise QueryError("the query is empty; write a SELECT")
    if word.lower() not in _ALLOWED_BEGINNINGS:
        raise QueryError("a query must begin with SELECT or WITH")


def as_json_value(value: Any) -> Any:
    """Return a value as JSON can have it: bytes and infinities as SQLite writes them."""
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, float) and not math.isfinite(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a query, as JSON can have it."""
    connection = sqlite3.connect(
        ":memory:", isolation_level=None, uri=True, check_same_thread=False, timeout=5.0
    )
    connection.execute(f"PRAGMA hard_heap_limit = {asked['memory']}")
    if sys.platform == "win32":
        connection.execute("PRAGMA temp_store = MEMORY")
    schema = new_schema()
    connection.execute(f"ATTACH ? AS {schema}", [asked["uri"]])
    query = Query(connection, schema, asked["views"])
    rows: list[list[Any]] = []
    room = asked["bytes"]
    is_partial = False
    with query.run(asked["sql"], asked["seconds"]) as (columns, found):
        for row in found:
            values = [as_json_value(value) for value in row]
            room -= sum(len(each) if isinstance(each, str) else 8 for each in values)
            if len(rows) == asked["limit"] or room < 0:
                is_partial = True
                break
            rows.append(values)
    return {"columns": columns, "rows": rows, "partial": is_partial}


def _limit_process(memory: int, seconds: float, file_bytes: int) -> None:
    """Limit this process, where the system can."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  # not on Windows
    import signal  # noqa: PLC0415

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails
    used = 0
    with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: used + memory,
        resource.RLIMIT_CPU: math.ceil(seconds) + 1,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):  # a lower one is set already
            resource.setrlimit(kind, (limit, limit))
    with contextlib.suppress(OSError):
        os.nice(5)  # games come first


def _main() -> None:
    asked = json.load(sys.stdin.buffer)  # UTF-8; the text would be read in Windows' code page
    _limit_process(asked["memory"], asked["seconds"], asked["file_bytes"])
    try:
        answer = _answer(asked)
    except TooSlowError as error:
        answer = {"slow": str(error)}
    except QueryError as error:
        answer = {"error": str(error)}
    except sqlite3.Error as error:
        answer = {"unreadable": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
