"""The tracking plan: every event, field and value, in words, on a page that renders."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal, NamedTuple

import attrs
import msgspec
import pytest
from msgspec import Meta

from redvsblue_telemetry._schema import EventSchema, EventSchemas
from redvsblue_telemetry.cli.schema.classes import schemas_of
from redvsblue_telemetry.cli.schema.plan import plan_of


class Team(enum.Enum):
    """A side of the battle."""

    RED = "red"
    """The left one."""
    BLUE = "blue"


class Position(msgspec.Struct):
    x: float
    y: float = 0.0


class Cell(NamedTuple):
    column: int
    """From the left."""
    row: int = 0


@attrs.frozen
class Hit:
    """A bullet hits a ship.

    Only those that do damage.
    """

    ship: str
    """The ship | its id."""
    team: Team
    at: Position | None = None
    damage: Annotated[int, Meta(ge=0, le=100, description="Points.")] | None = 1


@attrs.frozen
class Closed:
    pass


def test_page_has_a_table_of_events_and_a_section_for_each_event_and_type() -> None:
    assert (
        plan_of(schemas_of({"ship_hit": Hit, "closed": Closed}))
        == """\
# Events

2 types of events.
This page is written by `redvsblue-telemetry schema --format markdown`; to change it, change the \
event classes.

| event | meaning |
| --- | --- |
| [`closed`](#closed) | |
| [`ship_hit`](#ship_hit) | A bullet hits a ship. |

## `closed`

It has no fields.

## `ship_hit`

A bullet hits a ship.

Only those that do damage.

| field | type | required | default | meaning |
| --- | --- | --- | --- | --- |
| `ship` | text | yes | | The ship \\| its id. |
| `team` | [`Team`](#team) | yes | | |
| `at` | [`Position`](#position) or nothing | no | `null` | |
| `damage` | integer (at least `0`, at most `100`) or nothing | no | `1` | Points. |

## Types

### `Position`

| field | type | required | default | meaning |
| --- | --- | --- | --- | --- |
| `x` | number | yes | | |
| `y` | number | no | `0.0` | |

### `Team`

A side of the battle.

| value | meaning |
| --- | --- |
| `red` | The left one. |
| `blue` | |
"""
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (bool, "true or false"),
        (bytes, "bytes in base64"),
        (Any, "anything"),
        (datetime.datetime, "date and time"),
        (datetime.date, "date"),
        (datetime.timedelta, "duration"),
        (uuid.UUID, "UUID"),
        (decimal.Decimal, "decimal number"),
        (Literal["laser", "a|b"], "`a\\|b` or `laser`"),
        (list[int], "list of integer"),
        (set[str], "set of text"),
        (tuple[int, str], "list of integer, text"),
        (list[Any], "list"),
        (dict[str, float], "object, each field: number"),
        (dict[str, Any], "object"),
        (int | str, "integer or text"),
        (Annotated[str, Meta(max_length=20)], "text (length at most `20`)"),
        (Annotated[str, Meta(pattern="^`+$")], "text (matches `` ^`+$ ``)"),
        (Annotated[list[int], Meta(min_length=1)], "list of integer (length at least `1`)"),
        (Cell, "[`Cell`](#cell)"),
    ],
)
def test_type_in_words(kind: Any, words: str) -> None:
    page = plan_of(schemas_of({"hit": msgspec.defstruct("Hit", [("value", kind)])}))
    assert f"| `value` | {words} | yes | | |" in page.splitlines()


def test_items_of_a_named_tuple_have_their_names() -> None:
    page = plan_of(schemas_of({"hit": msgspec.defstruct("Hit", [("at", Cell)])}))
    assert "| `column` | integer | yes | | From the left. |" in page.splitlines()
    assert "| `row` | integer | no | `0` | |" in page.splitlines()


def test_event_that_is_part_of_another_is_linked_to_its_section() -> None:
    twice = msgspec.defstruct("Twice", [("first", Hit)])
    page = plan_of(schemas_of({"ship_hit": Hit, "twice": twice}))
    assert "| `first` | [`Hit`](#ship_hit) | yes | | |" in page.splitlines()
    assert "### `Hit`" not in page


def test_headings_that_are_the_same_have_links_of_their_own() -> None:
    class Ship(msgspec.Struct):
        name: str

    page = plan_of(schemas_of({"ship": msgspec.defstruct("Event", [("ship", Ship)])}))
    assert "| [`ship`](#ship) | |" in page.splitlines()
    assert "| `ship` | [`Ship`](#ship-1) | yes | | |" in page.splitlines()


def test_keywords_that_only_an_annotation_brings_are_shown_too() -> None:
    data = {"properties": {"a": {"const": 1}, "b": {"type": ["string"]}, "c": {"oneOf": [{}]}}}
    page = plan_of(EventSchemas({"hit": EventSchema("hit", data)}, {"Name": {"type": "string"}}))
    assert "| `a` | `1` | no | | |" in page.splitlines()
    assert "| `b` | text | no | | |" in page.splitlines()
    assert "| `c` | anything | no | | |" in page.splitlines()
    assert page.endswith("### `Name`\n\nText.\n")


def test_page_has_no_character_that_a_terminal_interprets() -> None:
    hostile = "\x1b]0;x\x07\x9b31m\u202e"
    data = {"type": "object", "description": hostile, "properties": {hostile: {"type": "string"}}}
    page = plan_of(EventSchemas({hostile: EventSchema(hostile, data)}, {}))
    assert page.replace("\n", "").isprintable()
    assert "\\u001b]0;x\\u0007\\u009b31m\\u202e" in page
