"""How a search finds its events: the conditions in SQL, and the one index that it walks.

SQLite would choose the index without knowing how many events have which type, or are in which
session: it has no statistics of a database that grows. Here these counts are looked up. The other
conditions have a unary plus, with which no index is used for them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from ..models import ALL_TIME, ANY_FAULT, NO_FAULT, EventFilter, TimeRange
from ..textsearch import TextSearch
from . import textindex

__all__ = ["Plan", "plan"]

_FEW_EVENTS = 10_000  # fewer are found by the index of contexts, more by going through the events
_MANY_EVENTS = 50_000  # that take longer to examine than the index of texts to ask


_CONTEXTS = "SELECT context FROM context_fields WHERE name = ? AND value = ?"
_WITH_FIELD = (
    "context_fields CROSS JOIN events ON events.context = context_fields.context "
    "WHERE name = ? AND value = ?"
)
_HAS_FAULT = (
    "EXISTS (SELECT 1 FROM faults WHERE key = events.fault "
    "AND instr(lower(faults.text), lower(?)) > 0)"
)


class Plan(msgspec.Struct):
    """A search of the events."""

    conditions: list[str]
    values: list[object]
    """Of the parameters in the conditions."""
    walk: str | None = None
    """The condition that the walked index fulfills; None if all events are examined in order."""
    walk_values: Sequence[object] = ()
    walk_events: int | None = None
    """How many events the walked index leads to, at most; None if that is not known."""
    search: TextSearch | None = None
    """The text for which the index of texts is asked first."""
    is_empty: bool = False
    """Whether no event can match."""
    span: TimeRange = ALL_TIME
    """When the events were received; a part of the conditions."""

    def spans(
        self, connection: sqlite3.Connection, first: int, last: int, *, newest_first: bool
    ) -> Iterator[tuple[int, int]]:
        """Yield the ranges of arrivals that may hold matching events, in order."""
        if self.is_empty or first > last:
            return
        if self.search is None:
            yield first, last
        else:
            yield from textindex.spans(
                connection, self.search, first, last, newest_first=newest_first
            )

    def window(
        self,
        connection: sqlite3.Connection,
        first: int,
        last: int,
        size: int,
        *,
        newest_first: bool,
    ) -> tuple[int, int]:
        """Return the first part of a range in which about that many events are examined."""
        if self.walk is None:
            return (
                (max(first, last - size + 1), last)
                if newest_first
                else (first, min(last, first + size - 1))
            )
        if self.walk_events is not None and self.walk_events <= size:
            return first, last
        row = connection.execute(
            f"SELECT arrival FROM events WHERE {self.walk} AND arrival BETWEEN ? AND ? "
            f"ORDER BY arrival {'DESC' if newest_first else 'ASC'} LIMIT 1 OFFSET ?",
            (*self.walk_values, first, last, size - 1),
        ).fetchone()
        if row is None:
            return first, last
        return (row[0], last) if newest_first else (first, row[0])


class _Index(msgspec.Struct):
    """An index that leads to the events that fulfill one condition."""

    condition: str
    values: Sequence[object]
    events: int
    """How many these are, at most."""


def plan(connection: sqlite3.Connection, wanted: EventFilter, span: TimeRange = ALL_TIME) -> Plan:
    """Return how to search for events of a range of time."""
    indexes: list[_Index] = []
    for column, table, name, value in (
        ("session", "sessions", "session_id", wanted.session),
        ("type", "types", "name", wanted.type),
    ):
        if value is not None:
            row = connection.execute(
                f"SELECT key, events FROM {table} WHERE {name} = ?", (value,)
            ).fetchone()
            if row is None:
                return Plan([], [], is_empty=True)
            indexes.append(_Index(f"events.{column} = ?", row[:1], row[1]))
    others: list[tuple[str, Sequence[object]]] = []
    for field in wanted.context.items():
        # The index leads from few events to exactly those, but would collect and sort all of many
        # events for each page. Then SQLite goes through the events instead, and looks up each one.
        count = _count(connection, _WITH_FIELD, field)
        if count < _FEW_EVENTS:
            indexes.append(_Index(f"events.context IN ({_CONTEXTS})", field, count))
        else:
            others.append((f"EXISTS ({_CONTEXTS} AND context = events.context)", field))
    if wanted.fault == NO_FAULT:
        others.append(("+events.fault IS NULL", ()))
    elif wanted.fault is not None:
        has_fault = "events.fault IS NOT NULL"
        indexes.append(_Index(has_fault, (), _count(connection, f"events WHERE {has_fault}")))
        if wanted.fault != ANY_FAULT:
            others.append((_HAS_FAULT, (wanted.fault.encode(errors="replace").decode(),)))
    for comparison, limit in ((">=", span.start), ("<", span.end)):
        if limit is not None:
            others.append((f"events.received {comparison} ?", (limit,)))
    search = None
    if wanted.text is not None:
        search = TextSearch(wanted.text)
        others.append(_text_condition(search, wanted.text))
    walked = min(indexes, key=lambda index: index.events, default=None)
    asks_text_index = (
        search is not None
        and textindex.can_find(search)
        and (walked is None or walked.events > _MANY_EVENTS)
    )
    if asks_text_index:
        walked = None
    conditions = [
        *((f"{'' if each is walked else '+'}{each.condition}", each.values) for each in indexes),
        *others,
    ]
    return Plan(
        [condition for condition, _ in conditions],
        [value for _, values in conditions for value in values],
        walked.condition if walked else None,
        walked.values if walked else (),
        walked.events if walked and walked.events < _FEW_EVENTS else None,
        search if asks_text_index else None,
        span=span,
    )


def _count(connection: sqlite3.Connection, chosen: str, values: Sequence[object] = ()) -> int:
    """Return the number of chosen events; not more than it takes to know that they are many."""
    row = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM {chosen} LIMIT ?)", (*values, _FEW_EVENTS)
    ).fetchone()
    return int(row[0])


def _text_condition(search: TextSearch, text: str) -> tuple[str, Sequence[object]]:
    # SQLite's own function is a hundred times as fast, and rules most events out.
    either = " OR ".join(["instr(lower(events.data), ?) > 0"] * len(search.spellings))
    if search.is_anywhere:
        return f"({either})", search.spellings
    fits = f"CASE WHEN {either} THEN fits_text(lower(events.data), ?) ELSE FALSE END"
    return fits, (*search.spellings, text.encode(errors="surrogatepass"))
