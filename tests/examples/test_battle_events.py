"""The battle's event classes: they are those of the battle, and their files are up to date."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import battle_events
import jsonschema_rs
import msgspec
import pytest

from redvsblue_telemetry._schema import read_schemas
from redvsblue_telemetry.cli.demo.battle import BattleEngine
from redvsblue_telemetry.event_types import type_of_class
from tests.support import REPOSITORY
from tests.support.command import invoke_command

EXAMPLES = REPOSITORY / "examples"
SCHEMA = EXAMPLES / "battle_events.schema.json"
PLAN = EXAMPLES / "battle_events.md"
CLASSES = {
    type_of_class(cls): cls
    for cls in vars(battle_events).values()
    if isinstance(cls, type) and type_of_class(cls)
}


@pytest.fixture(scope="module")
def events() -> list[Mapping[str, Any]]:
    """Forty seconds of battle: several rounds."""
    events: list[Mapping[str, Any]] = []
    engine = BattleEngine(seed=7)
    engine.on("telemetry", events.append)
    for _ in range(40 * 60):
        engine.update(1 / 60)
    return events


@pytest.mark.parametrize(("name", "format_"), [(SCHEMA, "json"), (PLAN, "markdown")])
def test_files_are_those_that_the_command_writes(name: Any, format_: str) -> None:
    done = invoke_command("schema", EXAMPLES / "battle_events.py", "--format", format_)
    assert done.stdout == name.read_text(encoding="utf-8"), "write it again; see battle_events.py"


def test_every_event_of_the_battle_fits_the_schema(events: list[Mapping[str, Any]]) -> None:
    fits = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text(encoding="utf-8"))).is_valid

    assert [event for event in events if not fits(event)] == []
    assert {event["type"] for event in events} == CLASSES.keys() - {"game_closed"}
    assert not fits({"type": "ship_lost", "data": {}})
    hit = next(event for event in events if event["type"] == "ship_hit")
    assert not fits({"type": "ship_hit", "data": {**hit["data"], "shipID": "red-3"}})
    assert not fits({"type": "ship_hit", "data": {**hit["data"], "damage": "12"}})


def test_every_event_of_the_battle_is_an_instance_and_back(
    events: list[Mapping[str, Any]],
) -> None:
    for event in events:
        instance = msgspec.convert(event["data"], CLASSES[event["type"]])
        assert msgspec.to_builtins(instance) == event["data"]


def test_every_field_that_is_not_obvious_has_its_meaning() -> None:
    schemas = read_schemas(SCHEMA.read_bytes())
    assert all(event.description for event in schemas.events.values())
    hit = schemas.resolve(schemas.events["ship_hit"].data)["properties"]
    assert hit["shipId"]["description"] == "The ship that was hit."
    assert hit["x"]["description"] == "Pixels from the left."
