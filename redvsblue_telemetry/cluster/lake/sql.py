"""Runs SQL of a person over a lake: reads the views that are offered, and nothing else.

The SQL is DuckDB's. These hold alone:

- DuckDB reads no file but those of the snapshot, and its settings are locked; see :mod:`.reading`.
- The parsed query is looked through before it runs: it is one SELECT, and all tables in it are
  views that are offered, or its own. That leaves out everything else that DuckDB has.
- It takes limited time, and limited memory.

A collector's queries are in SQLite's SQL (:mod:`....collector.storage.sandbox`). Where both have
the same words, they mean the same: the quotient of two whole numbers is whole, NULL comes before
everything else, and true is 1.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Iterator
from typing import Any

import duckdb

from ...collector.storage.sandbox import MAX_SQL, QueryError, TooSlowError, stopped_after
from .errors import LakeError
from .reading import Reading, explaining
from .standing import add_standing
from .views import VIEWS, add_views

__all__ = ["LakeQuery"]

_ROWS = 1000  # that are fetched at a time
_KIND_OF_ERROR = re.compile(r"^[A-Z][a-z]+(?: [A-Z][a-z]+)? Error: ")
_TABLE_FUNCTIONS = ("generate_series", "json_each", "json_tree", "range", "unnest")
_FUNCTIONS_ABOUT_THE_PROCESS = ("current_setting", "getenv", "getvariable", "write_log")


class LakeQuery:
    """Runs queries, one after the other, as :class:`~....collector.storage.sandbox.Query` does.

    Args:
        reading: the lake.
        now: in milliseconds since the epoch; by default the time.
    """

    def __init__(self, reading: Reading, *, now: int | None = None) -> None:
        self._reading = reading
        self._now = now
        self._is_over = False
        self._has_sessions = False

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
            LakeError: the lake can't be read. Also from the rows.
        """
        tables = _tables_of(self._reading, sql)
        with stopped_after(seconds, self._stop), self._explaining(seconds):
            if "sessions" in tables and not self._has_sessions:
                add_standing(self._reading, now=self._now)
                self._has_sessions = True
            add_views(self._reading, tables)
            cursor = self._reading.call(lambda: self._reading.connection.execute(sql))
            yield [name for name, *_ in cursor.description], self._rows(cursor)

    def _rows(self, cursor: Any) -> Iterator[tuple[Any, ...]]:
        while rows := self._reading.call(lambda: cursor.fetchmany(_ROWS)):
            if self._is_over:  # the interrupt came between two statements
                raise duckdb.InterruptException("interrupted")
            for row in rows:
                yield tuple(map(_plain, row))

    def _stop(self) -> None:
        self._is_over = True
        self._reading.stop()

    @contextlib.contextmanager
    def _explaining(self, seconds: float | None) -> Iterator[None]:
        try:
            with explaining(self._reading.snapshot.url):
                yield
        except (duckdb.Error, LakeError) as error:
            if self._is_over:
                raise TooSlowError(
                    f"the query took longer than {seconds:g} s; narrow it, by a type for example"
                ) from error
            if isinstance(error.__cause__, duckdb.OutOfMemoryException):
                raise TooSlowError("the query needs too much memory") from error
            if isinstance(error, LakeError):
                raise
            raise QueryError(_reason(error)) from error


def _tables_of(reading: Reading, sql: str) -> set[str]:
    """Return the views that a query reads.

    Raises:
        QueryError: it can't be run.
    """
    if len(sql) > MAX_SQL:
        raise QueryError(f"the query has {len(sql):,} characters; the maximum is {MAX_SQL:,}")
    if "\0" in sql:
        raise QueryError("the query has a null character")
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise QueryError("the query is not valid Unicode") from None
    try:
        ((text,),) = reading.run("SELECT json_serialize_sql(CAST(? AS VARCHAR))", sql)
    except duckdb.Error as error:
        raise QueryError(_reason(error)) from error
    try:
        return _views_of(json.loads(text))
    except RecursionError:
        raise QueryError("the query is nested too deeply") from None


def _views_of(parsed: dict[str, Any]) -> set[str]:
    """Return the views that a parsed query reads.

    Raises:
        QueryError: it can't be run.
    """
    if parsed["error"]:
        message = _first_line(parsed["error_message"])
        if "SELECT" in message and parsed.get("error_type") == "not implemented":
            message = "a query must begin with SELECT or WITH"
        raise QueryError(message)
    if not parsed["statements"]:
        raise QueryError("the query is empty; write a SELECT")
    if len(parsed["statements"]) > 1:
        raise QueryError("there must be one statement")
    read: set[str] = set()
    for node, own in _nodes(parsed["statements"]):
        kind = node.get("type")
        if kind == "BASE_TABLE":
            place = [each for each in (node.get("catalog_name"), node.get("schema_name")) if each]
            name = _folded(node["table_name"])
            if place or name not in own:
                read.add(".".join([*place, name]))
        elif kind in ("FUNCTION", "TABLE_FUNCTION"):
            _check_function(node)
        elif kind == "SHOW_REF":
            raise QueryError(f"a query only reads; there are {', '.join(VIEWS)}, and only these")
    if unknown := read - {*VIEWS}:
        raise QueryError(f"the table {min(unknown)} can't be read; there are {', '.join(VIEWS)}")
    return read


def _nodes(tree: Any) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Yield all objects of a tree, each with the tables of the WITH clauses that it is in."""
    left: list[tuple[Any, frozenset[str]]] = [(tree, frozenset())]
    while left:
        node, own = left.pop()
        if isinstance(node, list):
            left += [(each, own) for each in node]
        elif isinstance(node, dict):
            yield node, own
            if node.get("type") == "RECURSIVE_CTE_NODE":
                own |= {_folded(node["cte_name"])}
            # One of these knows those before it, and not itself: there, its name is another's.
            for each in node.get("cte_map", {}).get("map", ()):
                left.append((each["value"], own))
                own |= {_folded(each["key"])}
            left += [(each, own) for key, each in node.items() if key != "cte_map"]


def _check_function(node: dict[str, Any]) -> None:
    if node["type"] == "TABLE_FUNCTION":
        name = node["function"].get("function_name", "")
        is_allowed = name.lower() in _TABLE_FUNCTIONS
    else:
        name = node.get("function_name", "")
        is_allowed = name.lower() not in _FUNCTIONS_ABOUT_THE_PROCESS
    if not is_allowed:
        raise QueryError(f"the function {name} is not allowed")


def _folded(name: str) -> str:
    """Return a name as DuckDB compares it: it ignores the case of ASCII letters alone."""
    return name.encode().lower().decode()


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _reason(error: duckdb.Error) -> str:
    """Return what is wrong, without the name of the part of DuckDB that has found it."""
    return _KIND_OF_ERROR.sub("", _first_line(str(error)))


def _plain(value: Any) -> Any:
    """Return a value as SQLite has it: a number, a text, bytes or None."""
    if value is None or isinstance(value, (str, bytes)):
        return value
    if isinstance(value, (bool, int)):
        return int(value)
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, default=str)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time, uuid.UUID)):
        return str(value)
    return str(value)
