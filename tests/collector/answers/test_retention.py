"""Retention, compared with a slow reference that nobody has to trust an engine for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redvsblue_telemetry.collector.answers.questions import (
    Condition,
    Filters,
    QuestionError,
    Retention,
)
from redvsblue_telemetry.collector.models import TimeRange
from redvsblue_telemetry.collector.storage import blocks, building

from .conftest import Asked
from .played import Played, answers, database_of

DAY = 86_400_000
HOUR = 3_600_000
START = 20_790 * DAY  # in UTC


def expected(events: Sequence[Played], question: Retention, now: int) -> dict[str, Any]:
    """Return the answer: look at each player, and each day."""
    name = question.field.removeprefix("context.")
    shift = question.offset * 60_000
    seen: dict[str, list[int]] = {}
    for event in events:
        is_wanted = all(event.version == each.value for each in question.filters.conditions)
        if is_wanted and name in (event.context or {}):
            seen.setdefault(str((event.context or {})[name]), []).append(event.received)
    span = question.filters.span
    days_of = {
        player: {math.floor((time + shift) / DAY) for time in times}
        for player, times in seen.items()
        if (span.start or 0) <= min(times) < (span.end or math.inf)
    }
    cohorts = []
    for first in sorted({min(days) for days in days_of.values()}):
        players = [days for days in days_of.values() if min(days) == first]
        returned = {
            str(later): sum(1 for days in players if first + later in days)
            if (first + later + 1) * DAY - shift <= now
            else None
            for later in question.days
        }
        day = first * DAY - shift
        cohorts.append({"day": day, "players": len(players), "returned": returned})
    overall = {}
    for later in map(str, question.days):
        known = [cohort for cohort in cohorts if cohort["returned"][later] is not None]
        players = sum(cohort["players"] for cohort in known)
        back = sum(cohort["returned"][later] for cohort in known)
        share = back / players if players else None
        overall[later] = {"players": players, "returned": back, "share": share}
    return {"field": question.field, "cohorts": cohorts, "overall": overall}


PLAYERS = st.sampled_from(
    ({"player": "a"}, {"player": "b"}, {"player": 3, "level": 1}, {"level": 1})
)
TIMES = st.builds(
    lambda day, hour, extra: START + day * DAY + hour * HOUR + extra,
    st.integers(0, 9),
    st.integers(0, 23),
    st.sampled_from((-1, 0, 1)),
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.none(), PLAYERS, PLAYERS), TIMES, st.sampled_from((None, "1.4"))),
        max_size=30,
    ),
    st.lists(
        st.builds(
            Retention,
            field=st.just("context.player"),
            days=st.sampled_from(((1,), (1, 2, 7), (3,))),
            offset=st.sampled_from((0, 60, -480, 765)),
            filters=st.builds(
                Filters,
                st.sampled_from((TimeRange(), TimeRange(START + DAY, START + 3 * DAY + HOUR))),
                st.sampled_from(((), (Condition("version", "1.4"),))),
            ),
        ),
        min_size=2,
        max_size=2,
    ),
    TIMES,
)
def test_both_engines_answer_as_the_reference(
    seen: list[tuple[dict[str, Any] | None, int, str | None]],
    questions: list[Retention],
    now: int,
) -> None:
    events = [  # the collector's clock jumps; the player's is not asked
        Played(f"s-{seq % 3}", seq, f"type-{seq % 4}", 1, received, context, {}, version)
        for seq, (context, received, version) in enumerate(seen)
    ]
    with database_of(events) as database:
        for question in questions:
            found = answers(database, question, now=now)
            if any("player" in (event.context or {}) for event in events):
                assert found == [expected(events, question, now)] * 2
            else:
                assert found[0] == found[1]
                assert found[0].startswith("no event has the field 'context.player'; ")


@pytest.mark.parametrize(("offset", "returned"), [(0, 1), (60, 1), (120, 0), (-120, 0)])
def test_a_visit_beyond_midnight_is_on_both_days(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, offset: int, returned: int
) -> None:
    for hour in (22, 22.5, 25):  # one visit, in a block of columns
        received = START + int(hour * HOUR)
        asked.store("hit", received=received, context={"player": "a"})
    for module in (blocks, building):
        monkeypatch.setattr(module, "BLOCK_EVENTS", 3)
    work = building.Building()
    work._has_imported()
    if work._importing is not None:
        work._importing.join()
    while asked.writer.maintain(work.step):
        pass
    with asked.database.reading() as connection:
        assert connection.execute("SELECT events FROM blocks").fetchall() == [(3,)]
    question = Retention(field="context.player", days=(1,), offset=offset)
    answer = asked.ask(question, now=START + 3 * DAY)
    assert answer["overall"]["1"] == {"players": 1, "returned": returned, "share": returned}


def test_a_day_that_is_not_over_is_unknown(asked: Asked) -> None:
    for player, day in (("a", 0), ("b", 0), ("a", 1), ("a", 2), ("c", 1), ("c", 2)):
        asked.store("hit", received=START + day * DAY + HOUR, context={"player": player})

    question = Retention(field="context.player", days=(2, 1))
    assert asked.ask(question, now=START + 3 * DAY - 1) == {
        "field": "context.player",
        "cohorts": [
            {"day": START, "players": 2, "returned": {"1": 1, "2": None}},
            {"day": START + DAY, "players": 1, "returned": {"1": None, "2": None}},
        ],
        "overall": {
            "1": {"players": 2, "returned": 1, "share": 0.5},
            "2": {"players": 0, "returned": 0, "share": None},
        },
    }
    later = asked.ask(question, now=START + 3 * DAY)
    assert [cohort["returned"] for cohort in later["cohorts"]] == [
        {"1": 1, "2": 1},
        {"1": 1, "2": None},
    ]


def test_who_was_seen_before_the_range_is_not_new_in_it(asked: Asked) -> None:
    for player, day in (("old", 0), ("old", 5), ("new", 5), ("new", 6)):
        asked.store("hit", received=START + day * DAY, context={"player": player})
    span = TimeRange(START + 5 * DAY, START + 6 * DAY)
    found = asked.ask(
        Retention(field="context.player", days=(1,), filters=Filters(span)), now=START + 9 * DAY
    )
    assert found["cohorts"] == [{"day": START + 5 * DAY, "players": 1, "returned": {"1": 1}}]


def test_the_newest_days_are_listed_and_all_count(asked: Asked) -> None:
    for day in range(203):
        asked.store("hit", received=START + day * DAY, context={"player": str(day)})
    found = asked.ask(Retention(field="context.player", days=(1,)), now=START + 500 * DAY)
    assert [len(found["cohorts"]), found["cohorts"][0]["day"]] == [200, START + 3 * DAY]
    assert found["overall"]["1"]["players"] == 203


@pytest.mark.parametrize(
    ("question", "error"),
    [
        (Retention(field="player"), "field is 'player'; it must be a field of the context, such"),
        (Retention(field="context.x"), "no event has the field 'context.x'; there are context.p"),
        (Retention(field="context.player", days=()), "days must be 1 to 8 whole numbers from 1 to"),
        (Retention(field="context.player", days=range(1, 10)), "days must be 1 to 8 whole"),
        (Retention(field="context.player", days=(0,)), "days must be"),
        (Retention(field="context.player", days=(401,)), "from 1 to 400, such as days=1,7,30"),
    ],
)
def test_a_question_that_has_no_answer_is_an_error(
    asked: Asked, question: Retention, error: str
) -> None:
    asked.store("hit", context={"player": "p"})
    with pytest.raises(QuestionError, match=error):
        asked.ask(question)
