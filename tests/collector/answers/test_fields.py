"""The fields that there are."""

from __future__ import annotations

from redvsblue_telemetry.collector.answers.questions import Fields

from .conftest import Asked


def test_the_fields_of_a_type_with_examples(asked: Asked) -> None:
    asked.store("hit", {"damage": 12, "at": {"x": 1}}, context={"player": "p-1"})
    asked.store("hit", {"damage": 7, "weapon": "laser"}, context={"player": "p-2", "level": 3})
    asked.store("tick", {"n": 1}, context={"mode": "duel"})

    found = asked.ask(Fields(type="hit"))["fields"]

    assert [(each["name"], each["kind"], each["share"]) for each in found] == [
        ("data.damage", "number", 1),
        ("data.at.x", "number", 0.5),
        ("data.weapon", "text", 0.5),
        ("context.player", "text", 1),
        ("context.level", "text", 0.5),
    ]
    assert sorted(found[0]["examples"]) == [7, 12]
    assert sorted(found[3]["examples"]) == ["p-1", "p-2"]


def test_without_a_type_those_of_all_contexts(asked: Asked) -> None:
    asked.store("hit", {"damage": 12}, context={"player": "p-1"})
    for _ in range(3):
        asked.store("tick", context={"mode": "duel"})
    found = asked.ask(Fields())["fields"]
    assert [(each["name"], each["share"]) for each in found] == [
        ("context.mode", 0.75),
        ("context.player", 0.25),
    ]
