"""A number in the events of a type: its distribution, over time and by another field."""

from __future__ import annotations

import pytest

from redvsblue_telemetry.collector.answers.questions import Field, Filters, QuestionError
from redvsblue_telemetry.collector.models import TimeRange

from .conftest import Asked

HOUR = 3_600_000
DAY = 24 * HOUR


def test_percentiles_are_the_nearest_ranks(asked: Asked) -> None:
    asked.store_all("hit", [{"damage": number} for number in range(1, 101)])
    found = asked.ask(Field(type="hit", field="damage"))
    assert {name: found[name] for name in ("count", "mean", "min", "max", "p50", "p95", "p99")} == {
        "count": 100,
        "mean": 50.5,
        "min": 1,
        "max": 100,
        "p50": 50,
        "p95": 95,
        "p99": 99,
    }


def test_one_event_is_all_there_is(asked: Asked) -> None:
    asked.store("hit", {"damage": 12}, received=DAY + 1)
    asked.store("hit", {"damage": "much"}, received=DAY + 2)
    asked.store("hit", received=DAY + 3)
    assert asked.ask(Field(type="hit", field="damage")) == {
        "count": 1,
        "mean": 12,
        "min": 12,
        "max": 12,
        "p50": 12,
        "p95": 12,
        "p99": 12,
        "absent": 2,
        "histogram": [{"low": 12, "high": 12, "count": 1}],
        "step": 60_000,
        "overTime": [{"at": DAY, "count": 1, "p50": 12, "p95": 12, "p99": 12}],
        "by": None,
        "groups": [],
        "others": 0,
    }


def test_steps_begin_with_the_viewers_hours(asked: Asked) -> None:
    for hour, damage in ((0, 1), (1, 2), (3, 3), (100, 4)):
        asked.store("hit", {"damage": damage}, received=10 * DAY + hour * HOUR)
    found = asked.ask(Field(type="hit", field="damage", offset=90))
    assert found["step"] == HOUR
    half = HOUR // 2  # in a zone that is 90 minutes ahead, hours begin at half past
    assert [(each["at"] - 10 * DAY, each["p50"]) for each in found["overTime"]] == [
        (-half, 1),
        (HOUR - half, 2),
        (3 * HOUR - half, 3),
        (100 * HOUR - half, 4),
    ]


def test_a_range_sets_the_steps_whatever_is_in_it(asked: Asked) -> None:
    asked.store("hit", {"damage": 1}, received=DAY)
    asked.store("hit", {"damage": 2}, received=40 * DAY)
    filters = Filters(TimeRange(0, 30 * DAY))
    found = asked.ask(Field(type="hit", field="damage", filters=filters))
    assert (found["count"], found["step"]) == (1, 12 * HOUR)


def test_groups_are_the_most_frequent_values_of_another_field(asked: Asked) -> None:
    for version, damages in (("1.4.1", [1, 2, 3]), ("1.4.2", [10, 20]), (None, [7])):
        for damage in damages:
            asked.store("hit", {"damage": damage}, version=version, received=DAY)
    asked.store("hit", {"damage": "none"}, version="1.4.2", received=DAY)

    found = asked.ask(Field(type="hit", field="damage", by="version", limit=2))

    assert found["by"] == "version"
    assert found["groups"] == [
        {
            "value": "1.4.1",
            "count": 3,
            "mean": 2,
            "min": 1,
            "max": 3,
            "p50": 2,
            "p95": 3,
            "p99": 3,
            "overTime": [[DAY, 3, 2, 3]],
        },
        {
            "value": "1.4.2",
            "count": 2,
            "mean": 15,
            "min": 10,
            "max": 20,
            "p50": 10,
            "p95": 20,
            "p99": 20,
            "overTime": [[DAY, 2, 10, 20]],
        },
    ]
    assert (found["count"], found["others"], found["absent"]) == (6, 1, 1)


def test_groups_may_be_numbers_or_have_no_value(asked: Asked) -> None:
    for level in (3, 3, 3, "3", "3", None):
        asked.store("hit", {"damage": 1, "level": level})
    found = asked.ask(Field(type="hit", field="damage", by="level"))
    assert [(group["value"], group["count"]) for group in found["groups"]] == [
        (3, 3),
        ("3", 2),
        (None, 1),
    ]
    assert [len(group["overTime"]) for group in found["groups"]] == [1, 1, 1]


def test_a_histogram_has_round_edges_that_are_in_the_upper_bin(asked: Asked) -> None:
    asked.store_all("hit", [{"share": number / 100} for number in range(100)])
    bins = asked.ask(Field(type="hit", field="share"))["histogram"]
    assert [(each["low"], each["high"]) for each in bins][:2] == [(0, 0.05), (0.05, 0.1)]
    assert [each["count"] for each in bins] == [5] * 20


def test_one_wild_number_does_not_flatten_the_histogram(asked: Asked) -> None:
    asked.store_all("hit", [{"damage": number % 40} for number in range(400)])
    asked.store("hit", {"damage": 1e300})
    bins = asked.ask(Field(type="hit", field="damage"))["histogram"]
    assert bins[0] == {"low": 0, "high": 1, "count": 10}
    assert bins[-1] == {"low": 39, "high": 1e300, "count": 11}
    assert sum(each["count"] for each in bins) == 401


def test_numbers_at_the_end_of_the_range_have_a_mean(asked: Asked) -> None:
    asked.store_all("hit", [{"x": 1.5e308}, {"x": 1.5e308}, {"x": -1.5e308}])
    found = asked.ask(Field(type="hit", field="x"))
    assert found["mean"] == pytest.approx(5e307)
    assert sum(each["count"] for each in found["histogram"]) == 3


def test_a_field_that_no_event_has_is_an_error_with_those_that_there_are(asked: Asked) -> None:
    asked.store("hit", {"damage": 1, "weapon": "laser"}, context={"player": "p"})
    with pytest.raises(QuestionError) as raised:
        asked.ask(Field(type="hit", field="damge"))
    assert str(raised.value) == (
        "no field 'data.damge' found in the events of hit; there are data.damage and data.weapon"
    )
    with pytest.raises(QuestionError, match=r"'context.level' .* there are context.player"):
        asked.ask(Field(type="hit", field="context.level"))
    with pytest.raises(QuestionError, match=r"'data.wepon' .* there are data.damage and"):
        asked.ask(Field(type="hit", field="damage", by="wepon"))
    assert asked.ask(Field(type="hit", field="damage", by="outcome"))["groups"][0]["count"] == 1
    found = asked.ask(Field(type="hit", field="weapon"))
    assert (found["count"], found["mean"], found["absent"]) == (0, None, 1)
