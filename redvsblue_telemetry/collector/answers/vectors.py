"""The back end over the columns, with DuckDB. It needs the extra ``answers``.

The columns of the question are handed to DuckDB where they are in memory; it copies none of them.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..models import TimeRange
from ..storage import columns
from ..storage.cutoff import Cutoff, CutoffError
from .backend import DAY, INTEGER, NUMBER, TEXT
from .database import DatabaseBackend
from .dialect import PERCENTILES, scaled
from .questions import QuestionError

__all__ = ["Vectors", "can_answer"]

_DATA = "data."
_SECONDS_BETWEEN_LOOKS = 0.05
_SETTINGS = {
    # It sees the tables that it is given, and nothing else: no file, no network, no extension.
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "temp_directory": "",
    "memory_limit": "512MB",
    "threads": 2,
    "lock_configuration": "true",
}


def can_answer() -> bool:
    """Return whether the packages of the extra are installed."""
    return find_spec("duckdb") is not None and columns.can_read()


@functools.lru_cache(maxsize=1)
def _instance() -> Any:
    """Return the one instance, without data: to start one takes longer than most answers.

    Each question has a cursor of it, with temporary tables that no other cursor sees. Together they
    keep to the limit of memory.
    """
    return import_module("duckdb").connect(":memory:", config=_SETTINGS)


_starting = threading.Lock()


class _DuckDb:
    """See :class:`.dialect.Dialect`."""

    def quotient(self, dividend: str, divisor: str) -> str:
        return f"(({dividend}) // ({divisor}))"

    def whole(self, number: str) -> str:
        return f"CAST(trunc({number}) AS BIGINT)"

    def same(self, one: str, other: str) -> str:
        return f"{one} IS NOT DISTINCT FROM {other}"

    def percentiles(
        self,
        relation: str,
        keys: Sequence[str],
        value: str,
        percentiles: Sequence[int] = PERCENTILES,
    ) -> str:
        named = "".join(f"{key}, " for key in keys)
        # quantile_disc() is the nearest rank: it takes the decimal as it is written.
        ranks = ", ".join(f"{percentile / 100}" for percentile in percentiles)
        at_ranks = ", ".join(
            f"ranks[{place}] AS p{percentile}"
            for place, percentile in enumerate(percentiles, start=1)
        )
        summed = (
            f"SELECT {named}count(*) AS count, sum({scaled(value)}) AS sum, "
            f"min({value}) AS min, max({value}) AS max, "
            f"quantile_disc({value}, [{ranks}]) AS ranks "
            f"FROM {relation} WHERE {value} IS NOT NULL"
            + (f" GROUP BY {', '.join(keys)}" if keys else " HAVING count(*) > 0")
        )
        return f"SELECT {named}count, sum, min, max, {at_ranks} FROM ({summed}) AS summed"

    def earliest(self, relation: str, key: str, order: Sequence[str], others: Sequence[str]) -> str:
        # The smallest of all would be found by sorting them if it were asked for by row_number().
        if len(order) == 1:
            first = [f"arg_min({name}, {order[0]}) AS {name}" for name in others]
            smallest = ", ".join([f"min({order[0]}) AS {order[0]}", *first])
            return f"SELECT {key}, {smallest} FROM {relation} AS given GROUP BY {key}"
        packed = ", ".join(f"'{name}': {name}" for name in [*order, *others])
        named = ", ".join(f"first.{name} AS {name}" for name in [*order, *others])
        return (
            f"SELECT {key}, {named} FROM (SELECT {key}, min({{{packed}}}) AS first "
            f"FROM {relation} AS given GROUP BY {key}) AS grouped"
        )


class Vectors(DatabaseBackend):
    """See :class:`.backend.Backend`."""

    dialect = _DuckDb()
    advice = "the answer takes too long; narrow the range"

    def __init__(
        self,
        connection: sqlite3.Connection,
        cutoff: Cutoff,
        connected: AbstractSet[str] = frozenset(),
        now: int | None = None,
    ) -> None:
        super().__init__(connection, cutoff, connected, now)
        self._duckdb: Any = import_module("duckdb")
        self._arrow: Any = import_module("pyarrow")
        with _starting:
            self._own = _instance().cursor()
        self._is_over = threading.Event()
        # One for all statements: to start and end a thread may take two turns with the GIL.
        self._looking = threading.Thread(target=self._look, name="collector-cutoff", daemon=True)
        self._looking.start()

    @staticmethod
    def prepare() -> None:
        """Import the packages, and start the engine: the first question should not wait for it."""
        with _starting:
            _instance()
        import_module("pyarrow")

    def close(self) -> None:
        """Free the private database."""
        self._is_over.set()
        self._looking.join()
        self._own.close()

    def _look(self) -> None:
        """Interrupt the statement that runs when the cutoff says so."""
        while not self._is_over.wait(_SECONDS_BETWEEN_LOOKS):
            if self.cutoff.must_end:
                self._own.interrupt()  # again, if it was between two statements

    def run(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """See :meth:`.Backend.run`."""
        self.cutoff.check()
        with self._telling():
            found: list[tuple[Any, ...]] = self._own.execute(query, values).fetchall()
        return found

    def _register(self, table: str, read: Any) -> None:
        """Let statements read an Arrow table. DuckDB runs another statement for that."""
        with self._telling():
            self._own.register(table, read)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn the errors of a statement that had to end into ours."""
        try:
            yield
        except self._duckdb.InterruptException as error:
            raise CutoffError from error
        except self._duckdb.OutOfMemoryException as error:
            raise QuestionError(
                "the answer needs too much memory; narrow the range, or ask for another field"
            ) from error

    def add(
        self, table: str, columns: Mapping[str, str], values: Sequence[Sequence[object]]
    ) -> None:
        """See :meth:`.Backend.add`."""
        arrow = self._arrow
        kinds = {INTEGER: arrow.int64(), NUMBER: arrow.float64(), TEXT: arrow.string()}
        arrays = [
            arrow.array(column, kinds[kind])
            for column, kind in zip(values, columns.values(), strict=True)
        ]
        self._register(table, arrow.table(dict(zip(columns, arrays, strict=True))))

    def add_events(
        self,
        table: str,
        types: Sequence[str],
        base: Sequence[str],
        fields: Sequence[str],
        span: TimeRange,
    ) -> None:
        """See :meth:`.Backend.add_events`."""
        names = [*dict.fromkeys([*base, *(name for field in fields for name in _columns(field))])]
        named = {name: f"c{index}" for index, name in enumerate(names)}
        self.add(f"{table}_types", {"place": INTEGER, "name": TEXT}, [range(len(types)), types])
        selected = [f"{named[name]} AS {name}" for name in base]
        joined = ""
        for index, field in enumerate(fields):
            number, text = "CAST(NULL AS DOUBLE)", "CAST(NULL AS VARCHAR)"
            if field.startswith(_DATA):
                number, text = (named[name] for name in _columns(field))
            elif field == "version":
                text = named["version"]
            elif field == "type":
                text = f"(SELECT name FROM {table}_types WHERE place = type)"
            else:
                texts = f"{table}_texts{index}"
                kinds = {"key": INTEGER, "text": TEXT, "number": NUMBER}
                self.add(texts, kinds, self.texts_of(field))
                (key,) = _columns(field)
                joined += f" LEFT JOIN {texts} ON {texts}.key = {named[key]}"
                number, text = f"{texts}.number", f"{texts}.text"
            selected += [f"{number} AS number{index}", f"{text} AS text{index}"]
        parts = []
        for place, name in enumerate(types):
            read = columns.read(self.connection, name, names, span, cutoff=self.cutoff)
            source = f"{table}_{place}"
            # Under short names: those of fields may have any characters.
            self._register(source, read.rename_columns([*named.values()]))
            of_type = f"(SELECT {place} AS type, * FROM {source}) AS {source}_typed"
            parts.append(f"SELECT type, {', '.join(selected)} FROM {of_type}{joined}")
        self.run(f"CREATE TEMP VIEW {table} AS {' UNION ALL '.join(parts)}")

    def add_visits(self, table: str, types: Sequence[str], midnight: int) -> None:
        """See :meth:`.Backend.add_visits`."""
        read = (columns.visits(self.connection, name, cutoff=self.cutoff) for name in types)
        source = f"{table}_visits"
        self._register(source, self._arrow.concat_tables(read))
        # Few visits last beyond midnight, so there are half as many rows as with both their ends.
        self.run(
            f"CREATE TEMP VIEW {table} AS SELECT context, first AS received FROM {source} "
            f"UNION ALL SELECT context, first + stay FROM {source} "
            f"WHERE (first + {midnight}) % {DAY} + stay >= {DAY}"
        )


def _columns(field: str) -> tuple[str, ...]:
    """Return the names of the columns that a field needs."""
    if field.startswith(_DATA):
        return field + columns.NUMBER, field + columns.TEXT
    if field.startswith("context."):
        return ("context",)
    return {"version": ("version",), "type": ()}.get(field, ("session",))
