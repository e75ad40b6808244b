"""The most frequent values of a field."""

from __future__ import annotations

import pytest

from redvsblue_telemetry.collector.answers.questions import (
    Condition,
    Filters,
    QuestionError,
    Values,
)
from redvsblue_telemetry.collector.models import TimeRange

from .conftest import Asked


def test_the_most_frequent_values_come_first(asked: Asked) -> None:
    for weapon, session in [("laser", "a"), ("laser", "b"), ("laser", "b"), ("rocket", "a")]:
        asked.store("hit", {"weapon": weapon}, session=session)
    asked.store("hit", {"weapon": None})
    asked.store("hit")
    asked.store("other", {"weapon": "laser"})

    assert asked.ask(Values(type="hit", field="weapon")) == {
        "count": 4,
        "absent": 2,
        "distinct": 2,
        "values": [
            {"value": "laser", "count": 3, "share": 0.75, "sessions": 2},
            {"value": "rocket", "count": 1, "share": 0.25, "sessions": 1},
        ],
    }


def test_a_number_and_the_text_that_spells_it_are_two_values(asked: Asked) -> None:
    for level in ("12", '"12"', "12.0", "12.5", "true", '"true"'):
        asked.store("hit", f'{{"level":{level}}}')
    found = asked.ask(Values(type="hit", field="data.level"))
    assert [(each["value"], each["count"]) for each in found["values"]] == [
        ("true", 2),
        (12, 2),
        ("12", 1),
        (12.5, 1),
    ]


def test_the_limit_cuts_the_list_and_not_the_counts(asked: Asked) -> None:
    for number in range(9):
        asked.store("hit", {"damage": number})
    found = asked.ask(Values(type="hit", field="damage", limit=2))
    assert (found["count"], found["distinct"]) == (9, 9)
    assert [each["value"] for each in found["values"]] == [0, 1]


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("version", ["1.4", "1.5"]),
        ("type", ["hit"]),
        ("session", ["a", "b"]),
        ("outcome", ["running"]),
        ("context.player", ["p-1", "p-2"]),
        ("context.level", ["3"]),
        ("at.x", [1]),
    ],
)
def test_a_field_is_of_the_data_the_context_the_event_or_its_session(
    asked: Asked, field: str, expected: list[str]
) -> None:
    context = {"player": "p-1", "level": 3}
    asked.store("hit", {"at": {"x": 1}}, session="a", version="1.4", context=context)
    asked.store("hit", {"at": {"x": 1}}, session="b", version="1.5", context={"player": "p-2"})
    found = asked.ask(Values(type="hit", field=field))
    assert [each["value"] for each in found["values"]] == expected


def test_filters_choose_the_events(asked: Asked) -> None:
    for number, weapon in enumerate(("laser", "laser", "rocket"), start=1):
        asked.store(
            "hit",
            {"weapon": weapon, "damage": number},
            received=1000 * number,
            version=f"1.{number}",
            context={"player": f"p-{number}"},
        )

    def counted(span: TimeRange = TimeRange(), **conditions: str) -> int:  # noqa: B008
        chosen = tuple(
            Condition(name.replace("__", "."), value) for name, value in conditions.items()
        )
        question = Values(type="hit", field="weapon", filters=Filters(span, chosen))
        return int(asked.ask(question)["count"])

    assert counted() == 3
    assert counted(version="1.2") == 1
    assert counted(context__player="p-3") == 1
    assert counted(weapon="laser") == 2
    assert counted(weapon="laser", data__damage="2") == 1
    assert counted(damage="2.0") == 1
    assert counted(weapon="none") == 0
    assert counted(TimeRange(1000, 2000)) == 1
    assert counted(TimeRange(2000)) == 2
    assert counted(TimeRange(None, 3000), weapon="rocket") == 0


def test_an_unknown_type_is_an_error_with_the_nearest_names(asked: Asked) -> None:
    with pytest.raises(QuestionError, match="there are no events yet"):
        asked.ask(Values(type="hit", field="weapon"))
    asked.store("ship_hit")
    asked.store("round_end")
    with pytest.raises(
        QuestionError, match=r"no event has the type 'ship_hits'; did you mean ship_hit\?"
    ):
        asked.ask(Values(type="ship_hits", field="weapon"))
    with pytest.raises(
        QuestionError, match="'zzz'; the most frequent types are round_end and ship_hit"
    ):
        asked.ask(Values(type="zzz", field="weapon"))
