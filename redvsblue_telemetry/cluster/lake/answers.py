"""Answers questions about a lake: the back end over one version of it, with DuckDB.

The definitions of the answers are those of a collector (:mod:`....collector.answers`). Fields
of the events' data are read from the columns of :mod:`.columns`, in files that have them. In others
their JSON is parsed once, into a temporary table. All else is read where it is, as often as needed.

Sessions and contexts have no numbers in a lake. Their key is 63 bits of a hash of their text: among
ten million sessions, the chance that two have the same is one in a hundred thousand. A collector's
keys are in order of arrival and these are in none, so where everything else is equal, such as the
time and the number of two events of a player, another one may come first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from ...collector.answers.asking import answer_with
from ...collector.answers.backend import DAY, INTEGER, NUMBER, TEXT, Backend
from ...collector.answers.questions import Question, QuestionError, as_number
from ...collector.answers.vectors import Vectors
from ...collector.models import TimeRange, context_fields
from ...collector.storage import columns
from ...collector.storage.cutoff import NEVER, Cutoff
from ...collector.storage.fields import DATA
from .cells import found_in, looked_up, number_of, text_of
from .columns import Columns
from .errors import LakeError
from .reading import Reading, quoted
from .rows import EVENTS
from .standing import sessions_query
from .table import DataFile

__all__ = ["LakeVectors", "ask_lake"]

_SAMPLE = 1000  # of the newest events of a type, whose fields are looked at
_MAX_CONTEXT_NAMES = 100
_MAX_PARTS = 8  # types that are read one by one
_KINDS = {INTEGER: pa.int64(), NUMBER: pa.float64(), TEXT: pa.string()}
_CONTEXT = "context."
_TEXTS = {"version": "version", "type": "name", "session": "session"}
"""The columns of the fields that are in them as texts."""


def _key_of(text: str) -> str:
    return f"CASE WHEN {text} IS NOT NULL THEN CAST(hash({text}) >> 1 AS BIGINT) END"


_SESSION = _key_of("session")
_BASE = {
    "session": _SESSION,
    "seq": "seq",
    "timestamp": "timestamp",
    "received": "received",
    "context": _key_of("context"),
}
_OF_A_SESSION = {
    "session": _SESSION,
    "id": "session",
    "started": "first_timestamp",
    "ended": "last_timestamp",
    "received": "last_received",
}


def ask_lake(
    reading: Reading, question: Question, *, cutoff: Cutoff = NEVER, now: int | None = None
) -> Any:
    """Return the answer to a question, as the record that belongs to it.

    May be called by several threads at the same time.

    Args:
        reading: the lake.
        question: a record of :mod:`....collector.answers.questions`.
        cutoff: when the answer has to end.
        now: in milliseconds since the epoch; by default the time.

    Raises:
        QuestionError: it has no answer.
        CutoffError: it had to end.
        LakeError: the lake can't be read.
    """
    with reading.aside() as own, own.ending(cutoff):
        return answer_with(LakeVectors(own, cutoff, now), question)


class LakeVectors(Backend):
    """An engine over a lake; see :class:`....collector.answers.backend.Backend`.

    Args:
        reading: the lake, for this question alone. It ends with the cutoff: see
            :meth:`.Reading.ending`.
        cutoff: when the answer has to end.
        now: in milliseconds since the epoch; by default the time.
    """

    dialect = Vectors.dialect
    advice = "the answer takes too long; narrow the range"

    def __init__(self, reading: Reading, cutoff: Cutoff = NEVER, now: int | None = None) -> None:
        super().__init__(cutoff, now)
        self._reading = reading
        self._types: list[str] | None = None
        self._contexts: list[tuple[int, dict[str, str]]] | None = None

    @staticmethod
    def prepare() -> None:
        """Do nothing: the reading is open."""

    def close(self) -> None:
        """Do nothing: the tables end with the reading."""

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn the error of a statement that needs too much into that of a question."""
        self.cutoff.check()
        try:
            yield
        except LakeError as error:
            if isinstance(error.__cause__, duckdb.OutOfMemoryException):
                raise QuestionError(
                    "the answer needs too much memory; narrow the range, or ask for another field"
                ) from error
            raise

    def run(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """See :meth:`.Backend.run`."""
        with self._telling():
            return self._reading.run(query, *values)

    def add(
        self, table: str, columns: Mapping[str, str], values: Sequence[Sequence[object]]
    ) -> None:
        """See :meth:`.Backend.add`."""
        arrays = {
            name: pa.array(column, _KINDS[kind])
            for (name, kind), column in zip(columns.items(), values, strict=True)
        }
        with self._telling():
            self._reading.add(table, arrays)

    def add_events(
        self,
        table: str,
        types: Sequence[str],
        base: Sequence[str],
        fields: Sequence[str],
        span: TimeRange,
    ) -> None:
        """See :meth:`.Backend.add_events`."""
        for index, field in enumerate(fields):
            if not field.startswith(DATA) and field not in _TEXTS:
                self._add_texts(f"{table}_texts{index}", field)
        parsed: list[str] = []
        selected: list[str] = []
        for source, found in self._sources(table, types, fields, span):
            some = parsed if found is None else selected
            some.append(_selection(table, base, fields, source, found))
        if parsed:
            # Text by text, a field of the data takes long, so each is read once.
            self.run(f"CREATE TEMP TABLE {table}_parsed AS {' UNION ALL '.join(parsed)}")
            selected.append(f"SELECT * FROM {table}_parsed")
        self.run(f"CREATE TEMP VIEW {table} AS {' UNION ALL '.join(selected)}")

    def _sources(
        self, table: str, types: Sequence[str], fields: Sequence[str], span: TimeRange
    ) -> Iterator[tuple[str, list[Columns] | None]]:
        """Yield relations with the events of types, each event with a place and a type's name.

        With each, the columns of the fields of the data; None if these are in the JSON alone.
        """
        names = [field.removeprefix(DATA) for field in fields if field.startswith(DATA)]
        conditions = ["true"]
        if span.start is not None:
            conditions.append(f"received >= {span.start}")
        if span.end is not None:
            conditions.append(f"received < {span.end}")
        within = " AND ".join(conditions)
        if len(types) > _MAX_PARTS:
            self.add(f"{table}_types", {"place": INTEGER, "name": TEXT}, [range(len(types)), types])
            yield (
                f"(SELECT * FROM stored_events JOIN {table}_types ON name = type WHERE {within})",
                None if names else [],
            )
            return
        for place, name in enumerate(types):
            # With the name itself in the query, DuckDB skips what it can't be in.
            chosen = f"SELECT CAST({place} AS BIGINT) AS place, type AS name, *"
            where = f"WHERE type = {quoted(name)} AND {within}"
            for relation, found in self._relations(f"{table}_of{place}", name, names, span):
                yield f"({chosen} FROM {relation} {where})", found

    def _relations(
        self, prefix: str, type_name: str, fields: Sequence[str], span: TimeRange
    ) -> Iterator[tuple[str, list[Columns] | None]]:
        """Yield relations with the events of a type, each with the columns of the fields."""
        snapshot = self._reading.snapshot
        files = snapshot.files(EVENTS, span) if fields else []
        groups: dict[Any, tuple[list[Columns] | None, Any, list[DataFile]]] = {}
        for file, notes in zip(files, snapshot.notes(files), strict=True):
            layout = None if notes is None else notes.layout
            if layout is not None and layout.is_whole and type_name not in layout.types:
                continue
            found = None if layout is None else layout.columns(type_name, fields)
            schema = () if layout is None or found is None else layout.schema
            key = tuple(found or ()), tuple(column.name for column in schema)
            groups.setdefault(key, (found, schema, []))[2].append(file)
        if not groups:
            yield "stored_events", [Columns()] * len(fields)
        for number, (found, schema, some) in enumerate(groups.values()):
            with self._telling():
                self._reading.define(f"{prefix}_{number}", some, schema)
            yield f"{prefix}_{number}", found

    def _add_texts(self, table: str, field: str) -> None:
        """Make a table of the texts and numbers of a field of sessions or contexts, by key."""
        if _is_of_context(field):
            keys, texts = self.context_values(field.removeprefix(_CONTEXT))
            numbers = {text: as_number(text) for text in set(texts)}
            self.add(
                table,
                {"key": INTEGER, "text": TEXT, "number": NUMBER},
                [keys, texts, [numbers[text] for text in texts]],
            )
            return
        self.run(
            f"CREATE TEMP TABLE {table} AS SELECT {_SESSION} AS key, outcome AS text, "
            f"CAST(NULL AS DOUBLE) AS number FROM ({self.sessions()}) AS found"
        )

    def sessions(self, chosen: str = "true") -> str:
        """Return a query of the sessions.

        Args:
            chosen: a condition about their ``session``.
        """
        return sessions_query(chosen, self.now)

    def add_visits(self, table: str, types: Sequence[str], midnight: int) -> None:
        """See :meth:`.Backend.add_visits`."""
        self.run(
            f"CREATE TEMP VIEW {table} AS SELECT {_BASE['context']} AS context, "
            "min(received) AS received FROM stored_events WHERE context IS NOT NULL "
            f"GROUP BY stored_events.context, (stored_events.received + {midnight}) // {DAY}"
        )

    def add_sessions(
        self,
        table: str,
        names: Sequence[str],
        span: TimeRange,
        keys: Sequence[int] | None = None,
    ) -> None:
        """See :meth:`.Backend.add_sessions`."""
        chosen = "true"
        if keys is not None:
            self.add(f"{table}_keys", {"key": INTEGER}, [keys])
            chosen = f"{_SESSION} IN (SELECT key FROM {table}_keys)"
        conditions = ["true"]
        if span.start is not None:
            conditions.append(f"last_received >= {span.start}")
        if span.end is not None:
            conditions.append(f"last_received < {span.end}")
        selected = ", ".join(f"{_OF_A_SESSION.get(name, name)} AS {name}" for name in names)
        self.run(
            f"CREATE TEMP TABLE {table} AS SELECT {selected} FROM (SELECT * FROM "
            f"({self.sessions(chosen)}) AS found WHERE {' AND '.join(conditions)})"
        )

    def type_names(self) -> list[str]:
        """See :meth:`.Backend.type_names`."""
        if self._types is None:
            with self._telling():
                self._reading.define_counts("of_types", self._reading.snapshot.files(EVENTS))
            rows = self.run(
                "SELECT type, sum(events) AS number FROM of_types GROUP BY type "
                "ORDER BY number DESC, type"
            )
            self._types = [name for name, _ in rows]
        return self._types

    def versions(self) -> list[str]:
        """See :meth:`.Backend.versions`."""
        rows = self.run(
            f"SELECT version FROM ({self.sessions()}) AS found "
            "WHERE version IS NOT NULL GROUP BY version "
            "ORDER BY max(last_received) DESC, version"
        )
        return [name for (name,) in rows]

    def fields(self, type_name: str) -> list[columns.Field]:
        """See :meth:`.Backend.fields`; it knows those of the newest events."""
        rows = self.run(
            "SELECT data FROM stored_events WHERE type = ? ORDER BY arrival DESC LIMIT ?",
            type_name,
            _SAMPLE,
        )
        return columns.fields_of([data for (data,) in rows])

    def newest_contexts(self, type_name: str | None, events: int) -> list[tuple[str | None, int]]:
        """See :meth:`.Backend.newest_contexts`."""
        wanted = "true" if type_name is None else f"type = {quoted(type_name)}"
        rows = self.run(
            "SELECT context, count(*) FROM (SELECT context, arrival FROM stored_events "
            f"WHERE {wanted} ORDER BY arrival DESC LIMIT {events}) AS sample "
            "GROUP BY context"
        )
        return [(text, count) for text, count in rows]

    def context_names(self) -> list[str]:
        """See :meth:`.Backend.context_names`."""
        names = {name for _, fields in self._all_contexts() for name in fields}
        return sorted(names)[:_MAX_CONTEXT_NAMES]

    def context_values(self, name: str) -> tuple[list[int], list[str]]:
        """See :meth:`.Backend.context_values`."""
        found = [(key, fields[name]) for key, fields in self._all_contexts() if name in fields]
        return [key for key, _ in found], [value for _, value in found]

    def _all_contexts(self) -> list[tuple[int, dict[str, str]]]:
        if self._contexts is None:
            rows = self.run(
                f"SELECT {_BASE['context']}, context FROM "
                "(SELECT DISTINCT context FROM stored_events WHERE context IS NOT NULL) AS found"
            )
            self._contexts = [
                (key, context_fields(msgspec.Raw(text.encode()))) for key, text in rows
            ]
        return self._contexts

    def last_types(self, sessions: Sequence[int]) -> tuple[list[int], list[str]]:
        """See :meth:`.Backend.last_types`."""
        self.add("wanted_sessions", {"key": INTEGER}, [sessions])
        rows = self.run(
            "SELECT key, arg_max(type, arrival) FROM "
            f"(SELECT {_SESSION} AS key, type, arrival FROM stored_events) AS events "
            "WHERE key IN (SELECT key FROM wanted_sessions) GROUP BY key"
        )
        return [key for key, _ in rows], [name for _, name in rows]


def _selection(
    table: str,
    base: Sequence[str],
    fields: Sequence[str],
    source: str,
    found: list[Columns] | None,
) -> str:
    """Return a query of the events of a relation; see :meth:`LakeVectors.add_events`."""
    left = None if found is None else iter(found)
    inner = ["place AS type", *(f"{_BASE[name]} AS {name}" for name in base)]
    middle = ["type", *base]
    outer = ["type", *base]
    joined = ""
    for index, field in enumerate(fields):
        number, text = "CAST(NULL AS DOUBLE)", f"text{index}"
        if field.startswith(DATA) and left is not None:
            of_field = next(left)
            number = f"number{index}"
            inner.append(f"{_column('number', of_field.number, 'DOUBLE')} AS {number}")
            inner.append(f"{_column('text', of_field.text, 'VARCHAR')} AS {text}")
            middle += [number, text]
        elif field.startswith(DATA):
            name, read, cell = field.removeprefix(DATA), f"found{index}", f"cell{index}"
            inner.append(f"{found_in(name, 'data')} AS {read}")
            middle += [read, f"{looked_up(quoted(name), 'data', read)} AS {cell}"]
            number, text = number_of(read, cell), text_of(read, cell)
        elif field in _TEXTS:
            inner.append(f"{_TEXTS[field]} AS {text}")
            middle.append(text)
        else:
            key, texts = f"key{index}", f"{table}_texts{index}"
            inner.append(f"{_BASE['context' if _is_of_context(field) else 'session']} AS {key}")
            middle.append(key)
            joined += f" LEFT JOIN {texts} ON {texts}.key = read.{key}"
            number, text = f"{texts}.number", f"{texts}.text"
        outer += [f"{number} AS number{index}", f"{text} AS text{index}"]
    if left is None:
        inner.append("data")
    return (
        f"SELECT {', '.join(outer)} FROM (SELECT {', '.join(middle)} FROM "
        f"(SELECT {', '.join(inner)} FROM {source} AS event) AS found) AS read{joined}"
    )


def _column(kind: str, place: int | None, type_: str) -> str:
    return f"CAST(NULL AS {type_})" if place is None else f"event.{kind}{place}"


def _is_of_context(field: str) -> bool:
    return field.startswith(_CONTEXT)
