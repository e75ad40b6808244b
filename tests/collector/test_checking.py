"""Events are checked against the schemas of a game's events."""

from __future__ import annotations

import datetime
import enum
import json
import time
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from redvsblue_telemetry._schema import EventSchema, EventSchemas, SchemaError, write_schemas
from redvsblue_telemetry.collector import checking, faults
from redvsblue_telemetry.collector.checking import Checker, read_checker


class Weapon(enum.Enum):
    LASER = "laser"
    ROCKET = "rocket"


class Point(msgspec.Struct, forbid_unknown_fields=True):
    x: float
    y: float


class Shield(msgspec.Struct, tag="shield", forbid_unknown_fields=True):
    strength: int


class Ship(msgspec.Struct, tag="ship", forbid_unknown_fields=True):
    name: str
    parts: list[Shield | Ship] = []


class ShipHit(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    ship: str
    damage: Annotated[int, msgspec.Meta(ge=0, le=100)]
    by: str | None = None
    weapon: Weapon = Weapon.LASER
    side: Literal["red", "blue", 3] = "red"
    at: Point | None = None
    path: list[Point] = []
    size: tuple[int, str] = (1, "m")
    scores: dict[str, int] = {}
    names: Annotated[list[str], msgspec.Meta(max_length=3)] = []
    code: Annotated[str, msgspec.Meta(pattern="^[A-Z]+$", max_length=5)] = "A"
    unique_id: uuid.UUID | None = None
    day: datetime.date | None = None
    price: Decimal = Decimal(0)
    part: Shield | Ship | None = None
    mixed: int | str | list[int] | None = None
    lucky: set[int] = set()
    took: datetime.timedelta | None = None
    when: Annotated[datetime.datetime, msgspec.Meta(tz=True)] | None = None
    clock: datetime.time | None = None
    raw: bytes = b""


def schemas_of(**classes: Any) -> EventSchemas:
    data, definitions = msgspec.json.schema_components(
        classes.values(), ref_template="#/$defs/{name}"
    )
    return EventSchemas(
        {name: EventSchema(name, schema) for name, schema in zip(classes, data, strict=True)},
        definitions,
    )


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker(schemas_of(ship_hit=ShipHit))


def fault(checker: Checker, data: object, type: str = "ship_hit") -> str | None:
    return checker.fault(type, msgspec.Raw(msgspec.json.encode(data)))


WHOLE: dict[str, Any] = {"ship": "red-3", "damage": 12}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"by": None, "weapon": "rocket", "side": 3, "at": {"x": 1, "y": 2.5}},
        {"size": [3, "l"], "scores": {"a": 1}, "names": ["a"], "code": "ABC", "path": []},
        {"part": {"type": "ship", "name": "a", "parts": [{"type": "shield", "strength": 1}]}},
        {"damage": 12.0},  # in JSON, an integer
        {"mixed": [1]},
    ],
)
def test_event_that_fits_has_no_fault(checker: Checker, more: dict[str, Any]) -> None:
    assert fault(checker, WHOLE | more) is None


@pytest.mark.parametrize("seconds", [0, 3, 3.5, -0.25, 90_061.000001, 1e9])
@pytest.mark.parametrize(
    "zone", [datetime.timezone.utc, datetime.timezone(datetime.timedelta(0.1))]
)
def test_what_the_encoder_makes_of_a_class_fits_its_schema(
    checker: Checker, seconds: float, zone: datetime.tzinfo
) -> None:
    event = ShipHit(
        "red-3",
        100,
        at=Point(1, 2),
        path=[Point(0, 0)],
        unique_id=uuid.uuid4(),
        day=datetime.date(2026, 1, 2),
        price=Decimal("1.50"),
        part=Ship("a", [Shield(3)]),
        lucky={1, 2},
        took=datetime.timedelta(seconds=seconds),
        when=datetime.datetime(2026, 1, 2, 3, 4, 5, 6, zone),
        clock=datetime.time(1, 2, 3),
        raw=b"\xff",
    )
    assert fault(checker, event) is None


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"damage": "12"}, "data.damage: must be an integer, not a string"),
        ({"damage": 1.5}, "data.damage: must be an integer, not a number"),
        ({"damage": True}, "data.damage: must be an integer, not a boolean"),
        ({"damage": None}, "data.damage: must be an integer, not null"),
        ({"damage": -1}, "data.damage: must be at least 0"),
        ({"damage": 101}, "data.damage: must be at most 100"),
        ({"by": 3}, "data.by: must be a string or null, not an integer"),
        ({"weapon": "sword"}, 'data.weapon: must be one of "laser", "rocket"'),
        ({"side": "green"}, 'data.side: must be one of 3, "blue", "red"'),
        ({"at": {"x": 1}}, "data.at.y: is missing"),
        ({"at": {"x": 1, "y": []}}, "data.at.y: must be a number, not an array"),
        ({"at": 1}, "data.at: must be an object or null, not an integer"),
        ({"path": [{"x": "1", "y": 1}]}, "data.path[].x: must be a number, not a string"),
        ({"size": [1]}, "data.size: must have at least 2 items"),
        ({"size": [1, "m", 2]}, "data.size: must have at most 2 items"),
        ({"size": [1, 2]}, "data.size[1]: must be a string, not an integer"),
        ({"scores": {"p-17": "x"}}, "data.scores.*: must be an integer, not a string"),
        ({"names": ["a"] * 4}, "data.names: must have at most 3 items"),
        ({"code": "abc"}, 'data.code: must match the pattern "^[A-Z]+$"'),
        ({"code": "ABCDEF"}, "data.code: must have at most 5 characters"),
        ({"uniqueId": "x"}, 'data.uniqueId: must have the format "uuid"'),
        ({"day": "today"}, 'data.day: must have the format "date"'),
        ({"took": "3 s"}, 'data.took: must have the format "duration"'),
        ({"lucky": [1, 1]}, "data.lucky: must not have an item twice"),
        ({"shp": 1}, "data.shp: unknown field"),
        ({"part": {"type": "sail"}}, 'data.part.type: must be one of "shield", "ship"'),
        ({"part": {"type": "ship"}}, "data.part.name: is missing"),
        ({"part": {"name": "a"}}, 'data.part.type: must be one of "shield", "ship"'),
        (
            {"part": {"type": "ship", "name": "a", "parts": [{"type": "shield", "strength": "x"}]}},
            "data.part.parts[].strength: must be an integer, not a string",
        ),
        (
            {"mixed": {}},
            "data.mixed: must be an integer, a string, an array or null, not an object",
        ),
        ({"mixed": ["x"]}, "data.mixed[]: must be an integer, not a string"),
        ({"damage": 10**30}, "data.damage: must be at most 100"),
    ],
)  # fmt: skip
def test_fault_says_where_and_why(checker: Checker, more: dict[str, Any], expected: str) -> None:
    assert fault(checker, WHOLE | more) == expected


def test_misspelled_field_is_missing_and_unknown(checker: Checker) -> None:
    expected = "data.ship: is missing; data.shp: unknown field"
    assert fault(checker, {"shp": "red-3", "damage": 12}) == expected


def test_same_fault_has_the_same_text_whatever_the_values(checker: Checker) -> None:
    paths = [[{"x": number, "y": str(number)}] * number for number in range(1, 50)]
    assert {fault(checker, WHOLE | {"path": path}) for path in paths} == {
        "data.path[].y: must be a number, not a string"
    }
    scores = [{f"player {number}": None} for number in range(50)]
    assert len({fault(checker, WHOLE | {"scores": each}) for each in scores}) == 1


def test_type_that_the_schema_does_not_have_is_a_fault(checker: Checker) -> None:
    assert fault(checker, {}, "ship_hitt") == "no such type of event"


@pytest.mark.parametrize("type", ["crash", "frames", "hang", "telemetry_check"])
def test_types_of_the_sdk_itself_have_no_fault(checker: Checker, type: str) -> None:
    assert fault(checker, {"anything": 1}, type) is None


@pytest.mark.parametrize("text", [b'{"damage":1e400}', b'{"ship":"\\ud800"}'])
def test_data_that_cannot_be_decoded_has_a_fault(checker: Checker, text: bytes) -> None:
    expected = "data: has a number that is too large, or half a surrogate pair"
    assert checker.fault("ship_hit", msgspec.Raw(text)) == expected


# What a client could send to keep the collector busy.


@pytest.mark.parametrize("depth", [100, 300, 3000])
def test_data_that_is_nested_deeply_has_a_fault(checker: Checker, depth: int) -> None:
    text = b'{"path":' + b"[" * depth + b"]" * depth + b"}"
    assert checker.fault("ship_hit", msgspec.Raw(text)) is not None


TREE = {"type": "object", "required": ["child"], "additionalProperties": False}
ONE_OF_TWO = {
    "anyOf": [
        TREE | {"properties": {"child": {"$ref": "#/$defs/Tree"}, name: {"type": "string"}}}
        for name in ("a", "b")
    ]
}


def hostile_events() -> dict[str, object]:
    tree: Any = "neither"
    for _ in range(100):
        tree = {"child": tree}
    return {
        "wrong items": {"names": [1] * 300_000},
        "wrong objects": {"path": [{}] * 200_000},
        "unknown fields": {f"field {number}": 1 for number in range(60_000)},
        "unknown fields that are explained": {f"f{number}": 1 for number in range(6_000)},
        "wrong items that are explained": {"path": [{"x": 1, "y": 1}] * 3_000 + [{}]},
        "wrong parts": {"part": {"type": "ship", "name": "", "parts": [{}] * 10_000}},
        "a long text": {"code": "A" * 900_000},
        "a tree": {"tree": tree},
    }


@pytest.mark.parametrize("name", hostile_events())
def test_no_event_takes_long_to_be_checked(name: str) -> None:
    schemas = schemas_of(ship_hit=ShipHit)
    schemas.events["ship_hit"].data.clear()
    schemas.events["ship_hit"].data.update(
        {
            "properties": schemas.definitions["ShipHit"]["properties"]
            | {"tree": {"$ref": "#/$defs/Tree"}},
            "additionalProperties": False,
        }
    )
    schemas.definitions["Tree"] = ONE_OF_TWO
    checker = Checker(schemas)
    data = msgspec.Raw(msgspec.json.encode(hostile_events()[name]))
    assert memoryview(data).nbytes < 3_200_000
    start = time.process_time()
    found = checker.fault("ship_hit", data)
    assert time.process_time() - start < 2  # seconds; the errors of the library take minutes
    assert found is not None


def test_many_events_that_take_long_to_be_explained_get_a_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def thread_time() -> float:
        """Before and after a search, which takes 10 ms by this clock."""
        nonlocal now
        now += 0.01
        return now

    monkeypatch.setattr(checking, "thread_time", thread_time)
    monkeypatch.setattr(checking, "monotonic", lambda: now)
    checker = checker_of({"properties": {"a": {"items": {"type": "integer"}}}})
    data = msgspec.Raw(msgspec.json.encode({"a": [1] * 40 + ["x"]}))

    def explained() -> int:
        found = [checker.fault("e", data) for _ in range(100)]
        reasons = found.count("data.a[]: must be an integer, not a string")
        assert reasons + found.count("data: does not fit the schema") == 100
        return reasons

    assert explained() == 67  # 2 s of time are owed; each adds 50 ms, and 20 ms pass meanwhile
    assert explained() == 0
    now += 0.6  # for other work
    assert explained() == 20


def test_expression_that_needs_exponential_time_is_given_up() -> None:
    data = {"properties": {"code": {"pattern": "^(a|a|b?)+(?=c)$"}}}
    checker = Checker(EventSchemas({"e": EventSchema("e", data)}, {}))
    start = time.process_time()
    assert fault(checker, {"code": "a" * 5000}, "e") is not None
    assert time.process_time() - start < 2


def test_fault_has_a_limited_length(checker: Checker) -> None:
    found = fault(checker, {"x" * 10_000: 1, "y" * 10_000: 1} | WHOLE)
    assert found is not None
    assert found == f"data.{'x' * 40}: unknown field; data.{'y' * 40}: unknown field"
    wide = {"enum": [f"value {number}" for number in range(1000)]}
    data = {"properties": {f"field {'x' * 100} {number}": wide for number in range(5)}}
    wider = Checker(EventSchemas({"e": EventSchema("e", data)}, {}))
    found = fault(wider, dict.fromkeys(data["properties"], 1), "e")
    assert found is not None
    assert len(found) <= faults._MAX_TEXT


def test_unprintable_letters_of_a_name_are_escaped(checker: Checker) -> None:
    found = fault(checker, WHOLE | {"a\x1b[31m\nb": 1})
    assert found == r"data.a\u001b[31m\u000ab: unknown field"


# Schemas that somebody wrote by hand.

NUMBERS = ", ".join(map(str, range(100)))
_NONE = "data.a: fits none of the alternatives"
_SHORT = "data.a: must have at least 2 characters"


def checker_of(data: dict[str, Any], **definitions: Any) -> Checker:
    return Checker(EventSchemas({"e": EventSchema("e", data)}, definitions))


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"const": "x"}, "y", 'data.a: must be "x"'),
        ({"multipleOf": 5}, 3, "data.a: must be a multiple of 5"),
        ({"exclusiveMinimum": 0}, 0, "data.a: must be more than 0"),
        ({"minProperties": 1}, {}, "data.a: must have at least 1 fields"),
        ({"allOf": [{"type": "string"}, {"minLength": 2}]}, "x", _SHORT),
        ({"anyOf": [{"minimum": 3}, {"maximum": 1}]}, 2, _NONE),
        ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, 3, "data: does not fit the schema"),
        ({"not": {"type": "string"}}, "x", "data: does not fit the schema"),
        ({"contains": {"type": "string"}}, [1], "data: does not fit the schema"),
        ({"type": ["string", "null"]}, 1, "data.a: must be a string or null, not an integer"),
        ({"anyOf": [{"minimum": 3}, False], "discriminator": 5}, 2, _NONE),
        ({"enum": [None, 1]}, 2, "data.a: must be one of null, 1"),
        ({"enum": [*range(100_000)]}, -1, f"data.a: must be one of {NUMBERS[:120]}…"),
        ({"format": "iso-date-time"}, "2026-01-02", 'data.a: must have the format "iso-date-time"'),
        ({"format": "iso-time"}, "3 h", 'data.a: must have the format "iso-time"'),
        ({"format": "decimal"}, "1,5", 'data.a: must have the format "decimal"'),
        ({"format": "partial-time"}, "03:04Z", 'data.a: must have the format "partial-time"'),
        (
            {"format": "date-time-local"},
            "2026-01-02T03:04:05Z",
            'data.a: must have the format "date-time-local"',
        ),
        (False, 2, "data.a: must be absent"),
        (
            {"patternProperties": {"^x": True}, "additionalProperties": False},
            {"y": 1},
            "data: does not fit the schema",
        ),
        (
            {
                "oneOf": [
                    {"required": ["k"], "properties": {"k": {"const": 1}, "z": {"type": "string"}}},
                    {"required": ["k"], "properties": {"k": {"const": 2}}},
                ]
            },
            {"k": 1, "z": 2},
            "data.a.z: must be a string, not an integer",
        ),
    ],
)  # fmt: skip
def test_keywords_that_no_class_has_are_checked_too(
    schema: Any, value: object, expected: str
) -> None:
    checker = checker_of({"properties": {"a": schema}})
    assert fault(checker, {"a": value}, "e") == expected
    assert fault(checker, {}, "e") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iso-date-time", datetime.datetime(2026, 1, 2, 3, 4, 5, 6)),  # noqa: DTZ001
        ("iso-date-time", datetime.datetime(1, 1, 1, tzinfo=datetime.timezone.utc)),
        ("iso-time", datetime.time(1, 2, 3, 4)),
        ("iso-time", datetime.time(1, 2, 3, tzinfo=datetime.timezone.utc)),
        ("date-time-local", datetime.datetime.max),  # noqa: DTZ901
        ("partial-time", datetime.time()),
        ("duration", datetime.timedelta.min),
        ("decimal", Decimal("-1E+50")),
        ("decimal", Decimal("NaN")),
        ("unheard-of", "anything"),
    ],
)
def test_what_the_encoder_makes_of_a_value_has_its_format(name: str, value: object) -> None:
    checker = checker_of({"properties": {"a": {"type": "string", "format": name}}})
    assert fault(checker, {"a": value}, "e") is None


@pytest.mark.parametrize("type", ["a/b", "a~b", "a b%20", "é", '"', "#/$defs/A", "~1"])
def test_type_may_have_any_name(type: str) -> None:
    schemas = {name: EventSchema(name, {"required": [name]}) for name in (type, "other")}
    checker = Checker(EventSchemas(schemas, {}))
    assert fault(checker, {type: 1}, type) is None
    assert fault(checker, {"other": 1}, type) == f"data.{type}: is missing"


def test_reference_that_leads_around_forever_is_no_endless_loop() -> None:
    checker = checker_of({"properties": {"a": {"$ref": "#/$defs/A"}}}, A={"$ref": "#/$defs/A"})
    fault(checker, {"a": 1}, "e")


# The file.


def test_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    path.write_bytes(write_schemas(schemas_of(ship_hit=ShipHit)))
    checker = read_checker(path)
    assert fault(checker, WHOLE) is None
    assert fault(checker, {"ship": 1, "damage": 1}) == "data.ship: must be a string, not an integer"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a schema as `redvsblue-telemetry schema` writes it"),
        ('{"type": "object"}', "not a schema as"),
        (
            {"properties": {"a": {"type": "intger"}}},
            r"the schema is invalid: properties\.e\.properties\.a\.type: ",
        ),
        ({"properties": {"a": {"pattern": "("}}}, "the schema is invalid"),
        ({"properties": {"a": {"multipleOf": 0}}}, r"the schema is invalid: .*\.a\.multipleOf: 0"),
        ({"properties": {"a": {"$dynamicRef": "http://127.0.0.1:1/x"}}}, "the schema is invalid"),
    ],
)
def test_file_that_is_no_schema_of_events_is_refused(
    tmp_path: Path, text: Any, reason: str
) -> None:
    path = tmp_path / "events.json"
    if isinstance(text, dict):
        branch = {"properties": {"type": {"const": "e"}, "data": text}}
        text = json.dumps({"oneOf": [branch]})
    path.write_text(text, "utf-8")
    with pytest.raises(SchemaError, match=reason) as raised:
        read_checker(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"cannot read .*absent\.json: No such file"):
        read_checker(tmp_path / "absent.json")
