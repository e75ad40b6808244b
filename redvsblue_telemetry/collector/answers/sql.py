"""The answers, defined once: SQL that both engines run over the relations of a back end.

Free of any engine: what they spell differently is in a :class:`.dialect.Dialect`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from .backend import INTEGER, NUMBER, TEXT, Backend
from .questions import (
    MAX_ECHO,
    Filters,
    QuestionError,
    Value,
    Values,
    ValuesAnswer,
    as_number,
    field_name,
)

__all__ = [
    "add_facts",
    "add_owners",
    "as_shown",
    "check_fields",
    "check_type",
    "listed",
    "plain",
    "shown",
    "values",
]

_MAX_SUGGESTIONS = 5
_MAX_FIELDS = 20  # that an error lists


def add_facts(
    backend: Backend,
    table: str,
    types: Sequence[str],
    base: Sequence[str],
    fields: Sequence[str],
    filters: Filters,
) -> None:
    """Make a view of the events that a question is about; see :meth:`.Backend.add_events`."""
    conditions = filters.conditions
    wanted = [field_name(condition.field) for condition in conditions]
    everything = [*map(field_name, fields), *wanted]
    if not conditions:
        backend.add_events(table, types, base, everything, filters.span)
        return
    backend.add_events(f"all_{table}", types, base, everything, filters.span)
    # A view can't have parameters.
    wanted_values = [condition.value for condition in conditions]
    backend.add(
        f"{table}_wanted",
        {"place": INTEGER, "text": TEXT, "number": NUMBER},
        [range(len(fields), len(everything)), wanted_values, [*map(as_number, wanted_values)]],
    )
    fits = " AND ".join(
        f"(text{place} = (SELECT text FROM {table}_wanted WHERE place = {place}) "
        f"OR number{place} = (SELECT number FROM {table}_wanted WHERE place = {place}))"
        for place in range(len(fields), len(everything))
    )
    backend.run(f"CREATE TEMP VIEW {table} AS SELECT * FROM all_{table} WHERE {fits}")


def add_owners(backend: Backend, table: str, field: str) -> None:
    """Make a table of the contexts with a field, whose values are numbered.

    Its columns are ``context``, a key, and ``owner``, the number of its value: all events of a
    player have the same.

    Raises:
        QuestionError: no context has it.
    """
    contexts, values = backend.context_values(field.removeprefix("context."))
    if not contexts:
        known = [f"context.{name}" for name in backend.context_names()]
        hint = f"there are {listed(known, 'and')}" if known else "no event has a context"
        raise QuestionError(f"no event has the field {field[:MAX_ECHO]!r}; {hint}")
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    owners = [numbers[value] for value in values]
    backend.add(table, {"context": INTEGER, "owner": INTEGER}, [contexts, owners])


def check_type(backend: Backend, name: str) -> None:
    """Raise QuestionError if there is no event of a type."""
    known = backend.type_names()
    if name in known:
        return
    if near := difflib.get_close_matches(name, known, _MAX_SUGGESTIONS, 0.5):
        hint = f"did you mean {listed(near)}?"
    elif known:
        hint = f"the most frequent types are {listed(known[:_MAX_SUGGESTIONS], 'and')}"
    else:
        hint = "there are no events yet"
    raise QuestionError(f"no event has the type {name[:MAX_ECHO]!r}; {hint}")


def check_fields(backend: Backend, type_name: str, fields: Sequence[str], filters: Filters) -> None:
    """Raise QuestionError if no event of a type has one of the fields, or of the filters.

    To be called when nothing was found: the fields of events are known from a sample of them, so a
    field may be there and not be known.
    """
    names = [*fields, *(condition.field for condition in filters.conditions)]
    known: list[str] = []
    for name in map(field_name, names):
        if name.startswith("data."):
            known = [each.name for each in backend.fields(type_name)]
        elif name.startswith("context."):
            known = [f"context.{each}" for each in backend.context_names()]
        else:
            continue
        if name not in known:
            hint = f"there are {listed(known[:_MAX_FIELDS], 'and')}" if known else "they have none"
            raise QuestionError(
                f"no field {name[:MAX_ECHO]!r} found in the events of {type_name}; {hint}"
            )


def listed(names: Sequence[str], link: str = "or") -> str:
    """Return names as a list in a sentence."""
    *others, last = names
    return f"{', '.join(others)} {link} {last}" if others else last


def shown(text: str | None, number: float | None) -> str | float | None:
    """Return a value as answers show it: its text, or a number; None if it has neither."""
    return text if text is not None or number is None else as_shown(number)


def as_shown(value: str | float) -> str | float:
    """Return a value as answers show it: a number is whole if it can be."""
    if isinstance(value, str) or not value.is_integer() or abs(value) >= 2**53:
        return value
    return int(value)


def plain(number: float) -> float:
    """Return a number with the zero that has no sign: the engines may find either."""
    return number + 0.0


def values(backend: Backend, question: Values) -> ValuesAnswer:
    """Return the most frequent values of a field."""
    check_type(backend, question.type)
    add_facts(backend, "facts", [question.type], ["session"], [question.field], question.filters)
    # What has a text is that text: a field of the context has a number besides if it spells one.
    rows = backend.run(
        "SELECT text, number, count(*) AS events, count(DISTINCT session) AS sessions, "
        "count(*) OVER () AS distinct_values, sum(count(*)) OVER () AS all_events "
        "FROM (SELECT session, text0 AS text, CASE WHEN text0 IS NULL THEN number0 END AS number "
        "FROM facts) AS named WHERE text IS NOT NULL OR number IS NOT NULL GROUP BY text, number "
        "ORDER BY events DESC, text NULLS LAST, number NULLS LAST LIMIT ?",
        question.limit,
    )
    ((total,),) = backend.run("SELECT count(*) FROM facts")
    if not rows:
        check_fields(backend, question.type, [question.field], question.filters)
        return ValuesAnswer(0, total, 0)
    count, distinct = int(rows[0][5]), rows[0][4]
    return ValuesAnswer(
        count,
        total - count,
        distinct,
        [
            Value(_present(text, number), events, events / count, sessions)
            for text, number, events, sessions, *_ in rows
        ],
    )


def _present(text: Any, number: Any) -> str | float:
    value = shown(text, number)
    assert value is not None
    return value
