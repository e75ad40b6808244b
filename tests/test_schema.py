"""The document of a game's events: what is written can be read, and what can't is refused."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from typing import Any

import pytest

from redvsblue_telemetry._schema import (
    EventSchema,
    EventSchemas,
    SchemaError,
    read_schemas,
    write_schemas,
)

HIT = {"$ref": "#/$defs/ShipHit"}
SCHEMAS = EventSchemas(
    {
        "ship_hit": EventSchema("ship_hit", HIT, "A ship was hit."),
        "game_closed": EventSchema("game_closed", {"type": "object"}),
    },
    {"ShipHit": {"type": "object", "properties": {"$ref": {"type": "string"}}}},
)


def branch(**schema: Any) -> dict[str, Any]:
    return {"properties": {"type": {"const": "ship_hit"}, "data": schema}}


def test_document_is_read_as_it_was_written() -> None:
    text = write_schemas(SCHEMAS)
    assert read_schemas(text) == SCHEMAS
    assert read_schemas(BOM_UTF8 + text) == SCHEMAS  # as some editors save it
    assert read_schemas("\ufeff" + text.decode()) == SCHEMAS


def test_document_is_the_same_for_the_same_events_in_any_order() -> None:
    turned = EventSchemas(dict(reversed(SCHEMAS.events.items())), SCHEMAS.definitions)

    assert write_schemas(turned) == write_schemas(SCHEMAS)


def test_document_is_a_json_schema_of_an_event_on_the_wire() -> None:
    assert json.loads(write_schemas(SCHEMAS)) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Events",
        "oneOf": [
            {
                "title": "game_closed",
                "type": "object",
                "properties": {"type": {"const": "game_closed"}, "data": {"type": "object"}},
                "required": ["type", "data"],
            },
            {
                "title": "ship_hit",
                "description": "A ship was hit.",
                "type": "object",
                "properties": {"type": {"const": "ship_hit"}, "data": HIT},
                "required": ["type", "data"],
            },
        ],
        "$defs": SCHEMAS.definitions,
    }


def test_reference_is_resolved_and_keeps_what_stands_beside_it() -> None:
    definitions = {"A": {"$ref": "#/$defs/B"}, "B": {"type": "string", "title": "B"}}
    schemas = EventSchemas({}, definitions)

    assert schemas.resolve({"$ref": "#/$defs/A", "title": "mine"}) == {
        "type": "string",
        "title": "mine",
    }
    assert schemas.resolve({"type": "null"}) == {"type": "null"}


def test_references_in_a_circle_end() -> None:
    around = {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}

    assert "$ref" in EventSchemas({}, around).resolve({"$ref": "#/$defs/A"})


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ("{}", "oneOf"),
        ('"\ud800"', "surrogates not allowed"),
        ('{"other": ' + "[" * 100_000, "recursion"),
        ({"oneOf": [{"title": "ship_hit"}]}, "properties"),
        ({"oneOf": [], "$defs": {"A": True}}, "$defs"),
        (
            {"oneOf": [branch(required=5)]},
            "Expected `array`, got `int` - at `$.oneOf[0].properties",
        ),
        ({"oneOf": [branch(properties={"a": True})]}, "Expected `object`, got `bool`"),
        ({"oneOf": [], "$defs": {"A": {"items": {"type": 5}}}}, "Expected `str | array`"),
        ({"oneOf": [branch(), branch()]}, "two events have the type 'ship_hit'"),
        ({"oneOf": [branch(**HIT)]}, "not '#/$defs/ShipHit'"),
        ({"oneOf": [branch(items={"$ref": "https://example.com/"})]}, "not 'https://example"),
        ({"oneOf": [branch(**{"$ref": 5})]}, "Expected `str`, got `int`"),
    ],
)
def test_what_is_not_such_a_document_is_refused_with_the_reason(document: Any, reason: str) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(SchemaError) as refused:
        read_schemas(text)
    assert reason in str(refused.value)
