"""The back end over the tables, with SQLite alone: it needs no extra, and takes longer.

The events of the question are copied into a temporary database, which SQLite keeps in memory as far
as there is room in its cache, and otherwise in a file without a name. Each event is read once.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from ..models import TimeRange
from ..storage.cutoff import Cutoff, CutoffError
from ..storage.fields import flatten
from .backend import INTEGER, NUMBER, TEXT
from .database import DatabaseBackend
from .dialect import PERCENTILES, scaled

__all__ = ["Rows"]

_BASE = ("session", "seq", "timestamp", "received", "context")
_VERSION, _DATA = len(_BASE), len(_BASE) + 1  # indexes in a row
_ROWS_AT_ONCE = 1000  # between two looks at the cutoff
_STEPS_BETWEEN_LOOKS = 50_000
_CACHE_KIBIBYTES = 65_536
# SQLite calls them by the first two letters or so; its own names are the clearest.
_KINDS = {INTEGER: "INTEGER", NUMBER: "REAL", TEXT: "TEXT"}

_Cell = tuple[float | None, str | None]
_ABSENT: _Cell = (None, None)


class _Sqlite:
    """See :class:`.dialect.Dialect`."""

    def quotient(self, dividend: str, divisor: str) -> str:
        return f"(({dividend}) / ({divisor}))"

    def whole(self, number: str) -> str:
        return f"CAST({number} AS INTEGER)"

    def same(self, one: str, other: str) -> str:
        return f"{one} IS {other}"

    def percentiles(
        self,
        relation: str,
        keys: Sequence[str],
        value: str,
        percentiles: Sequence[int] = PERCENTILES,
    ) -> str:
        named = "".join(f"{key}, " for key in keys)
        ranks = ", ".join(map(str, percentiles))
        at_ranks = ", ".join(
            f"rank_at(ranks, {place}) AS p{percentile}"
            for place, percentile in enumerate(percentiles)
        )
        summed = (
            f"SELECT {named}count(*) AS count, sum({scaled(value)}) AS sum, min({value}) AS min, "
            f"max({value}) AS max, nearest_ranks({value}, {ranks}) AS ranks FROM {relation} "
            f"WHERE {value} IS NOT NULL"
            + (f" GROUP BY {', '.join(keys)}" if keys else " HAVING count(*) > 0")
        )
        return f"SELECT {named}count, sum, min, max, {at_ranks} FROM ({summed}) AS summed"

    def earliest(self, relation: str, key: str, order: Sequence[str], others: Sequence[str]) -> str:
        return (
            f"SELECT {', '.join([key, *order, *others])} FROM (SELECT *, row_number() OVER "
            f"(PARTITION BY {key} ORDER BY {', '.join(order)}) AS place FROM {relation} AS given) "
            "AS ranked WHERE place = 1"
        )


class _NearestRanks:
    """An aggregate of SQL: some percentiles of numbers, as packed doubles.

    A window of SQL that numbers the rows takes ten times as long.
    """

    def __init__(self) -> None:
        self._numbers = array("d")
        self._percentiles: tuple[int, ...] = ()

    def step(self, number: float, *percentiles: int) -> None:
        """Add a number."""
        self._numbers.append(number)
        self._percentiles = percentiles

    def finalize(self) -> bytes:
        """Return the percentiles."""
        in_order = sorted(self._numbers)
        # Rounded up without fractions: 0.95 has no exact double.
        ranks = [-(-len(in_order) * percentile // 100) for percentile in self._percentiles]
        return array("d", [in_order[rank - 1] for rank in ranks if in_order]).tobytes()


def _rank_at(ranks: bytes, place: int) -> float | None:
    numbers = array("d", ranks)
    return numbers[place] if numbers else None


class Rows(DatabaseBackend):
    """See :class:`.backend.Backend`."""

    dialect = _Sqlite()
    advice = (
        "the answer takes too long; narrow the range, or install the extra: "
        "pip install 'redvsblue-telemetry[answers]'"
    )

    def __init__(
        self,
        connection: sqlite3.Connection,
        cutoff: Cutoff,
        connected: AbstractSet[str] = frozenset(),
        now: int | None = None,
    ) -> None:
        super().__init__(connection, cutoff, connected, now)
        # Not on the main connection: it can't write, not even to temporary tables.
        self._own = sqlite3.connect("", isolation_level=None)
        self._own.execute("PRAGMA journal_mode = OFF")
        self._own.execute("PRAGMA synchronous = OFF")
        self._own.execute(f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
        nearest_ranks: Any = _NearestRanks  # its type's stub knows only whole numbers as results
        self._own.create_aggregate("nearest_ranks", -1, nearest_ranks)
        self._own.create_function("rank_at", 2, _rank_at, deterministic=True)
        self._own.set_progress_handler(lambda: cutoff.must_end, _STEPS_BETWEEN_LOOKS)

    @staticmethod
    def prepare() -> None:
        """Do nothing: SQLite is there."""

    def close(self) -> None:
        """Free the private database."""
        self._own.close()

    def run(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """See :meth:`.Backend.run`."""
        self.cutoff.check()
        try:
            return self._own.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            if self.cutoff.must_end:
                raise CutoffError from error
            raise

    def add(
        self, table: str, columns: Mapping[str, str], values: Sequence[Sequence[object]]
    ) -> None:
        """See :meth:`.Backend.add`."""
        self._insert(table, columns, zip(*values, strict=True))

    def _insert(
        self, table: str, columns: Mapping[str, str], rows: Iterable[Sequence[object]]
    ) -> None:
        named = ", ".join(f"{name} {_KINDS[kind]}" for name, kind in columns.items())
        self.run(f"CREATE TABLE {table} ({named})")
        places = ", ".join("?" * len(columns))
        self.run("BEGIN")
        try:
            self._own.executemany(f"INSERT INTO {table} VALUES ({places})", rows)
        except sqlite3.OperationalError as error:
            if self.cutoff.must_end:
                raise CutoffError from error
            raise
        self.run("COMMIT")

    def add_events(
        self,
        table: str,
        types: Sequence[str],
        base: Sequence[str],
        fields: Sequence[str],
        span: TimeRange,
    ) -> None:
        """See :meth:`.Backend.add_events`."""
        columns = {"type": INTEGER, **dict.fromkeys(base, INTEGER)}
        for index in range(len(fields)):
            columns |= {f"number{index}": NUMBER, f"text{index}": TEXT}
        self._insert(table, columns, self._events(types, base, fields, span))

    def _events(
        self, types: Sequence[str], base: Sequence[str], fields: Sequence[str], span: TimeRange
    ) -> Iterator[tuple[object, ...]]:
        places = [_BASE.index(name) for name in base]
        needs_data = any(field.startswith("data.") for field in fields)
        for index, name in enumerate(types):
            cells = [self._cell(field, name) for field in fields]
            for row in self._rows(name, span, needs_data=needs_data):
                flat = flatten(row[_DATA]) if needs_data else {}
                found: list[object] = [index]
                found += [row[place] for place in places]
                for cell in cells:
                    found += cell(row, flat)
                yield tuple(found)

    def _rows(
        self, type_name: str, span: TimeRange, *, needs_data: bool
    ) -> Iterator[tuple[Any, ...]]:
        data = "data" if needs_data else "NULL"
        conditions = ["type = (SELECT key FROM types WHERE name = ?)"]
        values: list[object] = [type_name]
        for bound, condition in ((span.start, "received >= ?"), (span.end, "received < ?")):
            if bound is not None:
                conditions.append(condition)
                values.append(bound)
        rows = self.connection.execute(
            f"SELECT {', '.join(_BASE)}, version, {data} FROM events "
            f"WHERE {' AND '.join(conditions)} ORDER BY arrival",
            values,
        )
        while some := rows.fetchmany(_ROWS_AT_ONCE):
            self.cutoff.check()
            yield from some

    def _cell(
        self, field: str, type_name: str
    ) -> Callable[[tuple[Any, ...], dict[str, float | str]], _Cell]:
        """Return a function that returns the number and the text of a field of an event."""
        if field.startswith("data."):
            name = field.removeprefix("data.")
            return lambda _, flat: _as_cell(flat.get(name))
        if field == "version":
            return lambda row, _: (None, row[_VERSION])
        if field == "type":
            return lambda *_: (None, type_name)
        keys, words, numbers = self.texts_of(field)
        texts = dict(zip(keys, zip(numbers, words, strict=True), strict=True))
        place = _BASE.index("context" if field.startswith("context.") else "session")
        return lambda row, _: texts.get(row[place], _ABSENT)


def _as_cell(value: float | str | None) -> _Cell:
    return (None, value) if isinstance(value, str) else (value, None)
