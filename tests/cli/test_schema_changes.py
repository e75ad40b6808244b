# ruff: noqa: UP007 (the order of a Union of classes is what is tested)
"""The changes of a schema: which of them break something, one by one."""

from __future__ import annotations

import datetime
import enum
from typing import Annotated, Any, Literal, NamedTuple, Union

import msgspec
import pytest
from msgspec import UNSET, Meta, UnsetType

from redvsblue_telemetry._schema import EventSchemas, read_schemas, write_schemas
from redvsblue_telemetry.cli.schema.changes import changes
from redvsblue_telemetry.cli.schema.classes import schemas_of


class Team(enum.Enum):
    RED = "red"
    BLUE = "blue"


class ThreeTeams(enum.Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


class Position(msgspec.Struct):
    x: float
    y: float


class Turned(msgspec.Struct):
    """The same fields in another order."""

    y: float
    x: float


class Place(msgspec.Struct):
    """Like a position: another name, and one more field."""

    x: float
    y: float
    z: float = 0.0


class Grid(msgspec.Struct):
    x: int
    y: float


class Laser(msgspec.Struct, tag=True):
    color: str


class Missile(msgspec.Struct, tag=True):
    speed: float


class FastMissile(msgspec.Struct, tag="Missile"):
    speed: int


class Chain(msgspec.Struct):
    link: int
    next: Chain | None = None


class TextChain(msgspec.Struct):
    link: str
    next: TextChain | None = None


class Cell(NamedTuple):
    column: int
    row: int


class Voxel(NamedTuple):
    column: int
    row: int
    layer: int


NOTHING = object()


def event_with(kind: Any, default: Any = NOTHING) -> EventSchemas:
    """The schema of an event with one field, as it comes back from its file."""
    field = ("value", kind) if default is NOTHING else ("value", kind, default)
    return read_schemas(write_schemas(schemas_of({"hit": msgspec.defstruct("Hit", [field])})))


def found(old: EventSchemas, new: EventSchemas) -> tuple[list[str], list[str]]:
    """The changes that break something, and the others."""
    all_changes = changes(old, new)
    return (
        [str(change) for change in all_changes if change.is_breaking],
        [str(change) for change in all_changes if not change.is_breaking],
    )


Text = Annotated[str, Meta(max_length=10)]
LongText = Annotated[str, Meta(max_length=20)]
FromZero = Annotated[int, Meta(ge=0)]
FromOne = Annotated[int, Meta(ge=1)]
AboveZero = Annotated[int, Meta(gt=0)]
Lower = Annotated[str, Meta(pattern="^[a-z]+$")]
Upper = Annotated[str, Meta(pattern="^[A-Z]+$")]
Zoned = Annotated[datetime.datetime, Meta(tz=True)]

BREAKING = [
    # A type that is another, wider or narrower.
    (int, str, ["hit.value: type changed from integer to string"]),
    (int, float, ["hit.value: type changed from integer to number"]),
    (float, int, ["hit.value: type changed from number to integer"]),
    (int, int | None, ["hit.value: type changed from integer to integer or null"]),
    (int | None, int, ["hit.value: type changed from integer or null to integer"]),
    (int, object, ["hit.value: type changed from integer to anything"]),
    (int, Any, ["hit.value: type changed from integer to anything"]),
    (Any, int, ["hit.value: type changed from anything to integer"]),
    (
        datetime.date,
        Zoned,
        ["hit.value: type changed from string (date) to string (date-time)"],
    ),
    (str, bytes, ["hit.value: type changed from string to string (base64)"]),
    (Team, int, ["hit.value: type changed from string to integer"]),
    # Values.
    (ThreeTeams, Team, ['hit.value: value "green" removed']),
    (str, Team, ['hit.value: limited to "red", "blue"']),
    (int, FromZero, ["hit.value: minimum added: 0"]),
    (FromZero, FromOne, ["hit.value: minimum changed from 0 to 1"]),
    (FromZero, AboveZero, ["hit.value: exclusiveMinimum added: 0"]),
    (LongText, Text, ["hit.value: maxLength changed from 20 to 10"]),
    (Lower, Upper, ['hit.value: pattern changed from "^[a-z]+$" to "^[A-Z]+$"']),
    # Lists, tuples, maps.
    (list[int], list[str], ["hit.value[]: type changed from integer to string"]),
    (list[int], set[int], ["hit.value: uniqueItems added: true"]),
    (list[int], tuple[int, int], ["hit.value: type changed from array to tuple"]),
    (tuple[int, int], tuple[int], ["hit.value: number of items changed from 2 to 1"]),
    (tuple[int, int], tuple[int, str], ["hit.value[1]: type changed from integer to string"]),
    (Cell, Voxel, ["hit.value: number of items changed from 2 to 3"]),
    (dict[str, int], dict[str, str], ["hit.value.*: type changed from integer to string"]),
    (
        dict[str, dict[str, int]],
        dict[str, dict[str, str]],
        ["hit.value.*.*: type changed from integer to string"],
    ),
    (dict[str, Any], dict[str, int], ["hit.value.*: type changed from anything to integer"]),
    # Objects inside.
    (Position, Grid, ["hit.value.x: type changed from number to integer"]),
    (Place, Position, ["hit.value.z: removed"]),
    (Position | None, Grid | None, ["hit.value.x: type changed from number to integer"]),
    (
        dict[str, float],
        Position,
        [
            "hit.value.x: added without a default, and events of older games lack it",
            "hit.value.y: added without a default, and events of older games lack it",
            "hit.value: other fields are no longer allowed",
        ],
    ),
    (Chain, TextChain, ["hit.value.link: type changed from integer to string"]),
    (
        Union[Laser, Missile],
        Laser,
        ["hit.value: type changed from object (Laser) or object (Missile) to object (Laser)"],
    ),
    (
        Union[Laser, Missile],
        Union[Laser, FastMissile],
        ["hit.value.speed: type changed from number to integer"],
    ),
]


@pytest.mark.parametrize(("old", "new", "breaking"), BREAKING)
def test_change_of_a_type_that_breaks(old: Any, new: Any, breaking: list[str]) -> None:
    assert found(event_with(old), event_with(new))[0] == breaking


COMPATIBLE = [
    (Team, ThreeTeams, ['hit.value: value "green" added']),
    (Team, str, ['hit.value: no longer limited to "red", "blue"']),
    (FromOne, FromZero, ["hit.value: minimum changed from 1 to 0"]),
    (FromZero, int, ["hit.value: minimum removed: 0"]),
    (Text, LongText, ["hit.value: maxLength changed from 10 to 20"]),
    (Lower, str, ['hit.value: pattern removed: "^[a-z]+$"']),
    (set[int], list[int], ["hit.value: uniqueItems removed: true"]),
    (Position, Place, ["hit.value.z: added"]),
    # The same on the wire.
    (Team, Literal["red", "blue"], []),
    (list[int], tuple[int, ...], []),
    (Cell, tuple[int, int], []),
    (Union[Laser, Missile], Union[Missile, Laser], []),
    (Chain, Chain, []),
    (Position, Turned, []),
    (Annotated[int, Meta(description="one")], Annotated[int, Meta(description="two")], []),
]


@pytest.mark.parametrize(("old", "new", "compatible"), COMPATIBLE)
def test_change_of_a_type_that_breaks_nothing(old: Any, new: Any, compatible: list[str]) -> None:
    assert found(event_with(old), event_with(new)) == ([], compatible)


def hit(*fields: Any) -> EventSchemas:
    return schemas_of({"hit": msgspec.defstruct("Hit", [("ship", str), *fields])})


def test_new_field_breaks_unless_it_has_a_default() -> None:
    assert found(hit(), hit(("by", str))) == (
        ["hit.by: added without a default, and events of older games lack it"],
        [],
    )
    assert found(hit(), hit(("by", str, "nobody"))) == ([], ["hit.by: added"])


def test_removed_field_breaks_with_or_without_a_default() -> None:
    assert found(hit(("by", str)), hit())[0] == ["hit.by: removed"]
    assert found(hit(("by", str, "nobody")), hit())[0] == ["hit.by: removed"]


def test_optional_field_that_becomes_required_breaks() -> None:
    assert found(hit(("by", str, "nobody")), hit(("by", str)))[0] == [
        "hit.by: became required, and events of older games may lack it"
    ]


def test_required_field_that_gets_a_default_breaks_nothing() -> None:
    assert found(hit(("by", str)), hit(("by", str, "nobody"))) == (
        [],
        ['hit.by: became optional, with the default "nobody"'],
    )


def test_required_field_that_may_be_missing_without_a_default_breaks() -> None:
    assert found(hit(("by", str)), hit(("by", str | UnsetType, UNSET)))[0] == [
        "hit.by: became optional without a default, so it may be missing"
    ]


def test_other_default_breaks_nothing() -> None:
    assert found(hit(("by", int, 1)), hit(("by", int, 2))) == (
        [],
        ["hit.by: default changed from 1 to 2"],
    )


def test_removed_event_breaks_and_an_added_one_does_not() -> None:
    more = schemas_of({"hit": Position, "miss": Position})
    fewer = schemas_of({"hit": Position})

    assert found(more, fewer) == (["miss: removed"], [])
    assert found(fewer, more) == ([], ["miss: added"])


def test_definition_with_another_name_or_another_place_is_the_same() -> None:
    by_reference = schemas_of({"hit": msgspec.defstruct("Hit", [("at", Position)])})
    events = by_reference.resolve(by_reference.events["hit"].data)
    position = by_reference.resolve(events["properties"]["at"])
    inline = read_schemas(
        msgspec.json.encode(
            {
                "oneOf": [
                    {
                        "properties": {
                            "type": {"const": "hit"},
                            "data": {**events, "properties": {"at": position}},
                        }
                    }
                ]
            }
        )
    )

    assert found(by_reference, inline) == ([], [])
    assert found(inline, by_reference) == ([], [])


def test_places_with_other_characters_are_quoted() -> None:
    odd = msgspec.defstruct("Hit", [("value", int)], rename={"value": "my.value"})

    assert found(schemas_of({"hit": odd}), hit())[0] == [
        'hit["my.value"]: removed',
        "hit.ship: added without a default, and events of older games lack it",
    ]


@pytest.mark.timeout(10)
def test_classes_that_all_refer_to_one_another_are_compared_once() -> None:
    def mesh(last: str) -> EventSchemas:
        names = [f"C{number}" for number in range(12)]
        fields = {name.lower(): {"$ref": f"#/$defs/{name}"} for name in names}
        parts = {name: {"type": "object", "properties": {**fields}} for name in names}
        parts["C11"] = {"type": "object", "properties": {"x": {"type": last}}}
        event = {"type": {"const": "hit"}, "data": {"$ref": "#/$defs/C0"}}
        return read_schemas(msgspec.json.encode({"oneOf": [{"properties": event}], "$defs": parts}))

    assert found(mesh("string"), mesh("string")) == ([], [])


def document(**data: Any) -> EventSchemas:
    """A schema that somebody wrote by hand, in other words than ours."""
    branch = {"properties": {"type": {"const": "hit"}, "data": {"type": "object", **data}}}
    return read_schemas(msgspec.json.encode({"oneOf": [branch]}))


def test_other_words_for_the_same_are_the_same() -> None:
    ours = document(properties={"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}})
    theirs = document(properties={"a": {"type": ["string", "null"]}})

    assert found(ours, theirs) == ([], [])


def test_values_of_several_types_are_compared_type_by_type() -> None:
    values = {"enum": ["a", 1, None]}
    fewer = {"anyOf": [{"const": "a"}, {"type": "integer"}]}

    assert found(document(properties={"a": values}), document(properties={"a": fewer})) == (
        ["hit.a: type changed from string or integer or null to string or integer"],
        ["hit.a: no longer limited to 1"],
    )


def test_keyword_that_is_not_known_here_breaks_when_it_comes_or_changes() -> None:
    without = document()
    one, two = document(minContains=1), document(minContains=2)

    assert found(without, one)[0] == ["hit: minContains added: 1"]
    assert found(one, two)[0] == ["hit: minContains changed from 1 to 2"]
    assert found(one, without) == ([], ["hit: minContains removed: 1"])


def test_forbidding_other_fields_breaks_and_allowing_them_does_not() -> None:
    closed, opened = document(additionalProperties=False), document()

    assert found(opened, closed)[0] == ["hit: other fields are no longer allowed"]
    assert found(closed, opened) == ([], ["hit: other fields are allowed"])
