"""The funnel, compared with a slow reference that nobody has to trust an engine for."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redvsblue_telemetry.collector.answers.questions import (
    Condition,
    Filters,
    Funnel,
    FunnelStep,
    QuestionError,
    funnel_step,
)
from redvsblue_telemetry.collector.models import TimeRange

from .conftest import Asked
from .played import Played, answers, database_of

NOW = 1_795_600_000_000


def value_of(event: Played, field: str) -> str | None:
    """Return a field of an event as a text."""
    if field == "version":
        return event.version
    place, _, name = field.partition(".")
    fields = event.data if place == "data" else event.context or {}
    if name not in fields:
        return None
    found = fields[name]
    return found if isinstance(found, str) else json.dumps(found)  # a context's null is "null"


def fits(event: Played, conditions: Sequence[Condition]) -> bool:
    return all(value_of(event, each.field) == each.value for each in conditions)


def owner_of(event: Played, per: str) -> str | None:
    return event.session if per == "session" else value_of(event, per)


def expected(
    events: Sequence[Played], question: Funnel, outcomes: dict[str, str], reported: set[str]
) -> list[dict[str, Any]]:
    """Return the steps of the answer: walk through the events of each owner, in order."""
    keys = {name: key for key, name in enumerate(dict.fromkeys(each.session for each in events))}
    last_types = {event.session: event.type for event in events}
    newest = {event.session: event.received for event in events}  # a clock may be set back
    newest |= dict.fromkeys(set(newest) & reported, events[-1].received)
    span, steps = question.filters.span, question.steps
    walks: dict[str, list[Played]] = {}
    for event in events:
        owner = owner_of(event, question.per)
        is_within = (span.start or 0) <= event.received < (span.end or math.inf)
        if owner is not None and is_within and fits(event, question.filters.conditions):
            walks.setdefault(owner, []).append(event)
    reached: list[list[Played]] = []  # of each owner, the events by which the steps were reached
    for walk in walks.values():
        ordered = sorted(
            walk,
            key=lambda e: (
                e.seq if question.per == "session" else (e.timestamp, e.seq, keys[e.session])
            ),
        )
        found: list[Played] = []
        for event in ordered:
            if len(found) == len(steps):
                break
            step = steps[len(found)]
            if event.type == step.type and fits(event, step.conditions):
                found.append(event)
        reached.append(found)
    answer = []
    for place, step in enumerate(steps):
        here = [found for found in reached if len(found) > place]
        first = sum(1 for found in reached if found)
        before = sum(1 for found in reached if len(found) > place - 1)
        waits = sorted(found[place].timestamp - found[place - 1].timestamp for found in here)
        left = [found[place].session for found in here if len(found) == place + 1]
        last = Counter(last_types[session] for session in left)
        sessions = sorted(set(left), key=lambda session: (-newest[session], -keys[session]))
        median = max(0, waits[math.ceil(len(waits) / 2) - 1]) / 1000 if waits else None
        answer.append(
            {
                "type": step.type,
                "where": {each.field: each.value for each in step.conditions},
                "count": len(here),
                "share": len(here) / first if first else None,
                "ofPrevious": (len(here) / before if before else None) if place else None,
                "medianSeconds": median if place else None,
                "left": None
                if place == len(steps) - 1
                else {
                    "count": len(left),
                    "outcomes": dict(Counter(outcomes[session] for session in left)),
                    "lastTypes": [
                        {"type": name, "count": count}
                        for name, count in sorted(last.items(), key=lambda x: (-x[1], x[0]))[:5]
                    ],
                    "sessions": sessions[:5],
                },
            }
        )
    return answer


SESSIONS = ("s-1", "s-2", "s-3", "s-4")
TYPES = ("start", "hit", "end", "quit")
PLAYERS = ("p-1", "p-2", "p-3")


@st.composite
def plays(draw: st.DrawFn) -> list[Played]:
    """Return events in order of arrival: of several sessions, by clocks that jump."""
    clocks = dict.fromkeys(SESSIONS, NOW)
    seqs = dict.fromkeys(SESSIONS, 0)
    received = NOW
    events = []
    for _ in range(draw(st.integers(1, 25))):
        session = draw(st.sampled_from(SESSIONS))
        clocks[session] += draw(st.sampled_from((0, 0, 1, 700, 90_000, -5_000)))
        seqs[session] += draw(st.sampled_from((1, 1, 1, 4)))
        received += draw(st.sampled_from((0, 1, 1000, -1000)))
        player = draw(st.sampled_from((*PLAYERS, None, 7)))
        context = draw(st.sampled_from((None, {"level": 1}, {"player": player, "level": 2})))
        events.append(
            Played(
                session,
                seqs[session],
                draw(st.sampled_from(TYPES)),
                clocks[session],
                received,
                context,
                draw(st.sampled_from(({}, {"result": "won"}, {"result": 3}))),
                draw(st.sampled_from((None, "1.4"))),
            )
        )
    # Numbers are not in the order of arrival where an earlier run is delivered late.
    return draw(st.sampled_from((events, events[::-1])))


CONDITIONS = st.sampled_from(
    ((), (), (Condition("data.result", "won"),), (Condition("data.result", "3"),))
)
STEPS = st.lists(st.builds(FunnelStep, st.sampled_from(TYPES), CONDITIONS), min_size=2, max_size=4)
FILTERS = st.builds(
    Filters,
    st.sampled_from((TimeRange(), TimeRange(NOW + 1), TimeRange(NOW - 500, NOW + 1500))),
    st.sampled_from(
        ((), (), (Condition("version", "1.4"),), (Condition("context.player", "p-1"),))
    ),
)


@settings(max_examples=25, deadline=None)
@given(plays(), STEPS, FILTERS)
def test_both_engines_answer_as_the_reference(
    events: list[Played], steps: list[FunnelStep], filters: Filters
) -> None:
    crashed = {"sessionId": "s-1", "number": 1, "state": "ended", "reason": "crashed"}
    reported = {"s-1"} if events[0].session == "s-1" else set[str]()
    reports = [json.dumps({"report": crashed})] * len(reported)
    outcomes = {
        **dict.fromkeys(SESSIONS, "no_word"),
        "s-1": "crashed" if reported else "no_word",
        "s-2": "running",
    }
    with database_of(events, reports) as database:
        for per in ("session", "context.player"):
            question = Funnel(steps=steps, per=per, filters=filters)
            found = answers(database, question, connected={"s-2"}, now=NOW + 10**9)
            if isinstance(found[0], str):
                assert found[0] == found[1]
                types = {event.type for event in events}
                has_player = any("player" in (event.context or {}) for event in events)
                assert not {step.type for step in steps} <= types or per != "session"
                assert not (has_player and {step.type for step in steps} <= types)
            else:
                steps_of = expected(events, question, outcomes, reported)
                assert found == [{"per": per, "steps": steps_of}] * 2


def steps(*texts: str) -> list[FunnelStep]:
    return [funnel_step(text) for text in texts]


def test_those_who_leave_are_shown_with_their_end_and_their_last_event(asked: Asked) -> None:
    for session in ("a", "b", "c"):
        asked.store("round_start", session=session, timestamp=NOW)
    asked.store("round_end", {"result": "won"}, session="a", timestamp=NOW + 61_000)
    asked.store("crash", session="b", timestamp=NOW + 5)
    asked.store("ship_hit", session="c", timestamp=NOW + 5)

    answer = asked.ask(Funnel(steps=steps("round_start", "round_end[data.result=won]")))
    assert answer == {
        "per": "session",
        "steps": [
            {
                "type": "round_start",
                "where": {},
                "count": 3,
                "share": 1.0,
                "ofPrevious": None,
                "medianSeconds": None,
                "left": {
                    "count": 2,
                    "outcomes": {"running": 2},
                    "lastTypes": [{"type": "crash", "count": 1}, {"type": "ship_hit", "count": 1}],
                    "sessions": ["c", "b"],
                },
            },
            {
                "type": "round_end",
                "where": {"data.result": "won"},
                "count": 1,
                "share": 1 / 3,
                "ofPrevious": 1 / 3,
                "medianSeconds": 61.0,
                "left": None,
            },
        ],
    }


def test_a_player_reaches_a_step_in_a_later_session(asked: Asked) -> None:
    asked.store("start", session="a", timestamp=NOW, context={"player": "p"})
    asked.store("end", session="b", timestamp=NOW + 9, context={"player": "p", "level": 2})
    counts = {
        per: [
            step["count"]
            for step in asked.ask(Funnel(steps=steps("start", "end"), per=per))["steps"]
        ]
        for per in ("session", "context.player")
    }
    assert counts == {"session": [1, 0], "context.player": [1, 1]}


@pytest.mark.parametrize(
    ("per", "names", "error"),
    [
        (
            "session",
            ["start"],
            r"a funnel has 2 to 8 steps, not 1; .* round_start and round_",
        ),
        ("session", ["start"] * 9, "a funnel has 2 to 8 steps, not 9"),
        ("session", ["start", "ends"], "no event has the type 'ends'; did you mean end?"),
        ("player", ["start", "end"], "per is 'player'; it must be session or a field of the cont"),
        ("context.x", ["start", "end"], "no event has the field 'context.x'; there are context.p"),
    ],
)
def test_a_funnel_that_cannot_be_is_an_error(
    asked: Asked, per: str, names: list[str], error: str
) -> None:
    asked.store("start", context={"player": "p"})
    asked.store("end")
    with pytest.raises(QuestionError, match=error):
        asked.ask(Funnel(steps=steps(*names), per=per))


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("round_end", FunnelStep("round_end")),
        ("a[b]", FunnelStep("a[b]")),
        ("", FunnelStep("")),
        ("[a=b]", FunnelStep("[a=b]")),
        ("end[data.won=true]", FunnelStep("end", (Condition("data.won", "true"),))),
        (
            "end[won=][data.mode=a=b]",
            FunnelStep("end", (Condition("won", ""), Condition("data.mode", "a=b"))),
        ),
    ],
)
def test_a_step_is_a_type_with_conditions(text: str, step: FunnelStep) -> None:
    assert funnel_step(text) == step
