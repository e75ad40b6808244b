"""The funnel: how many come from each step to the next, and how those who don't ended.

Each step is reached by the first event of it after the event by which the step before was reached.
So nobody who can reach a step misses it, and one pass over the events of each step is enough.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..models import TimeRange
from .backend import INTEGER, TEXT, Backend
from .questions import (
    MAX_ECHO,
    Funnel,
    FunnelAnswer,
    Leavers,
    QuestionError,
    ReachedStep,
    TypeCount,
    as_number,
    field_name,
)
from .sql import add_facts, add_owners, check_type

__all__ = ["MAX_STEPS", "MIN_STEPS", "funnel"]

MIN_STEPS, MAX_STEPS = 2, 8
_MAX_LAST_TYPES = 5
_MAX_EXAMPLES = 5  # sessions of those who left

# Events are in order within a session by their number. Those of a player are in several sessions,
# so only a clock orders them. No two events of one have the same place in their order.
_WITHIN_SESSION = ("seq",)
_ACROSS_SESSIONS = ("timestamp", "seq", "session")
_OF_AN_EVENT = ("seq", "timestamp", "session")


def funnel(backend: Backend, question: Funnel) -> FunnelAnswer:
    """Return how many reach each step, and what is known of those who leave after it."""
    steps = question.steps
    if not MIN_STEPS <= len(steps) <= MAX_STEPS:
        raise QuestionError(
            f"a funnel has {MIN_STEPS} to {MAX_STEPS} steps, not {len(steps)}; "
            "give types of events in order, such as round_start and round_end"
        )
    for name in dict.fromkeys(step.type for step in steps):
        check_type(backend, name)
    _add_steps(backend, question)
    order = _WITHIN_SESSION if question.per == "session" else _ACROSS_SESSIONS
    for place in range(len(steps)):
        _add_reached(backend, question, place, order)
    counts = [
        backend.run(f"SELECT count(*) FROM reached{place}")[0][0] for place in range(len(steps))
    ]
    medians = _median_seconds(backend, len(steps))
    left = _left(backend, len(steps))
    return FunnelAnswer(
        question.per,
        [
            ReachedStep(
                step.type,
                {condition.field: condition.value for condition in step.conditions},
                counts[place],
                _share(counts[place], counts[0]),
                _share(counts[place], counts[place - 1]) if place else None,
                medians.get(place),
                left[place] if place < len(steps) - 1 else None,
            )
            for place, step in enumerate(steps)
        ],
    )


def _share(count: int, whole: int) -> float | None:
    return count / whole if whole else None


def _fields(question: Funnel) -> list[str]:
    """Return the fields in the conditions of the steps."""
    conditions = (condition for step in question.steps for condition in step.conditions)
    return [*dict.fromkeys(field_name(condition.field) for condition in conditions)]


def _types(question: Funnel) -> list[str]:
    return [*dict.fromkeys(step.type for step in question.steps)]


def _add_steps(backend: Backend, question: Funnel) -> None:
    """Make a view of the events of all steps, each with its owner: who is in the funnel."""
    types, fields, filters = _types(question), _fields(question), question.filters
    if question.per == "session":
        add_facts(backend, "facts", types, _OF_AN_EVENT, fields, filters)
        backend.run("CREATE TEMP VIEW steps AS SELECT *, session AS owner FROM facts")
        return
    if not question.per.startswith("context."):
        raise QuestionError(
            f"per is {question.per[:MAX_ECHO]!r}; it must be session or a field of the context, "
            "such as context.player"
        )
    add_owners(backend, "owners", question.per)
    add_facts(backend, "facts", types, (*_OF_AN_EVENT, "context"), fields, filters)
    backend.run(
        "CREATE TEMP VIEW steps AS SELECT facts.*, owners.owner FROM facts "
        "JOIN owners ON owners.context = facts.context"
    )


def _add_reached(backend: Backend, question: Funnel, place: int, order: Sequence[str]) -> None:
    """Make a table of those who reached a step, each with the event by which they did."""
    step, fields = question.steps[place], _fields(question)
    conditions = ["steps.type = ?"]
    values: list[object] = [_types(question).index(step.type)]
    for condition in step.conditions:
        index = fields.index(field_name(condition.field))
        conditions.append(f"(steps.text{index} = ? OR steps.number{index} = ?)")
        values += [condition.value, as_number(condition.value)]
    source = "steps"
    if place:
        source += f" JOIN reached{place - 1} AS earlier ON earlier.owner = steps.owner"
        conditions.append(f"({_of('steps', order)}) > ({_of('earlier', order)})")
    events = (
        f"SELECT {_of('steps', ('owner', *_OF_AN_EVENT))} FROM {source} "
        f"WHERE {' AND '.join(conditions)}"
    )
    others = [name for name in _OF_AN_EVENT if name not in order]
    first = backend.dialect.earliest(f"({events})", "owner", order, others)
    backend.run(f"CREATE TEMP TABLE reached{place} AS {first}", *values)


def _of(table: str, names: Sequence[str]) -> str:
    return ", ".join(f"{table}.{name}" for name in names)


def _median_seconds(backend: Backend, steps: int) -> dict[int, float]:
    """Return the median time from each step to the next, by the place of the next."""
    waits = " UNION ALL ".join(
        f"SELECT {place} AS step, CAST(here.timestamp AS DOUBLE) "
        f"- CAST(earlier.timestamp AS DOUBLE) AS milliseconds FROM reached{place} AS here "
        f"JOIN reached{place - 1} AS earlier ON earlier.owner = here.owner"
        for place in range(1, steps)
    )
    backend.run(f"CREATE TEMP VIEW waits AS {waits}")
    rows = backend.run(backend.dialect.percentiles("waits", ["step"], "milliseconds"))
    # A clock that was set back between two steps makes a time that nobody waited.
    return {step: max(0.0, p50 / 1000) for step, _, _, _, _, p50, *_ in rows}


def _left(backend: Backend, steps: int) -> list[Leavers]:
    """Return those who left after each step but the last.

    A player who left counts with the session in which the step was reached.
    """
    leavers = " UNION ALL ".join(
        f"SELECT {place} AS step, here.session AS session FROM reached{place} AS here "
        f"LEFT JOIN reached{place + 1} AS later ON later.owner = here.owner "
        "WHERE later.owner IS NULL"
        for place in range(steps - 1)
    )
    backend.run(
        "CREATE TEMP TABLE leavers AS SELECT step, session, count(*) AS number "
        f"FROM ({leavers}) AS one GROUP BY step, session"
    )
    sessions = [session for (session,) in backend.run("SELECT DISTINCT session FROM leavers")]
    backend.add_sessions("ends", ["session", "id", "received", "outcome"], TimeRange(), sessions)
    backend.add(
        "last_events",
        {"session": INTEGER, "name": TEXT},
        backend.last_types(sessions),
    )
    found = [Leavers() for _ in range(steps - 1)]
    for step, count in backend.run("SELECT step, sum(number) FROM leavers GROUP BY step"):
        found[step].count = int(count)
    for step, outcome, count in backend.run(_counted("ends", "outcome")):
        found[step].outcomes[outcome] = int(count)
    for step, name, count in backend.run(_counted("last_events", "name")):
        if len(found[step].last_types) < _MAX_LAST_TYPES:
            found[step].last_types.append(TypeCount(name, int(count)))
    examples = backend.run(
        "SELECT step, id FROM (SELECT step, id, row_number() OVER "
        "(PARTITION BY step ORDER BY received DESC, id DESC) AS place "
        "FROM leavers JOIN ends ON ends.session = leavers.session) AS newest "
        "WHERE place <= ? ORDER BY step, place",
        _MAX_EXAMPLES,
    )
    for step, session_id in examples:
        found[step].sessions.append(session_id)
    return found


def _counted(table: str, column: str) -> str:
    """Return a query of the leavers of each step by a text of their sessions, most first."""
    return (
        f"SELECT step, {column}, sum(number) AS total FROM leavers "
        f"JOIN {table} ON {table}.session = leavers.session "
        f"GROUP BY step, {column} ORDER BY step, total DESC, {column}"
    )
