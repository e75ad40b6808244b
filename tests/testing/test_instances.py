"""Instances of event classes as expectations, and events as instances."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import pathlib
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Literal
from unittest.mock import ANY

import attrs
import msgspec
import pytest

from redvsblue_telemetry import TelemetryEvent, emit, event_type
from redvsblue_telemetry.testing import Events, record_events
from redvsblue_telemetry.testing._recording import Snapshot, explain_assertion

NOON = datetime.datetime(2026, 5, 4, 12, 0, tzinfo=datetime.timezone.utc)
ID = uuid.UUID(int=7)


class Weapon(enum.Enum):
    LASER = "laser"
    ROCKET = "rocket"


@attrs.frozen
class Place:
    x: float
    y: float


@event_type
@attrs.frozen
class ShipHit:
    ship: str
    damage: float
    by: str | None = None


@event_type
@attrs.frozen
class ShipMoved:
    path: tuple[Place, ...]
    weapon: Weapon = Weapon.LASER
    at: datetime.datetime | None = None
    id: uuid.UUID = ID
    price: Decimal = Decimal("1.50")
    mode: Literal["fast", "slow"] = "fast"
    scores: dict[int, list[int]] = attrs.field(factory=dict)
    file: pathlib.PurePath | None = None


MOVED = ShipMoved(
    (Place(0, 1), Place(2, 3)),
    Weapon.ROCKET,
    NOON,
    scores={3: [1, 2]},
    file=pathlib.PurePosixPath("maps/1"),
)
MOVED_DATA = {
    "path": [{"x": 0, "y": 1}, {"x": 2, "y": 3}],
    "weapon": "rocket",
    "at": "2026-05-04T12:00:00Z",
    "id": str(ID),
    "price": "1.50",
    "mode": "fast",
    "scores": {"3": [1, 2]},
    "file": "maps/1",
}


def found(*events: tuple[str, Mapping[str, Any]]) -> Events:
    """Events as they were recorded."""
    return Snapshot([TelemetryEvent(*event, seq=seq) for seq, event in enumerate(events, 1)])


HIT = found(("ship_hit", {"ship": "red-3", "damage": 12, "by": None}))


def explanation(op: str, left: object, right: object) -> list[str]:
    lines = explain_assertion(op, left, right)
    assert lines is not None
    return lines


# Expectations.


def test_an_instance_stands_for_its_event_in_every_place_where_an_expectation_may_be() -> None:
    events = found(
        ("round_start", {}),
        ("ship_hit", {"ship": "red-3", "damage": 12, "by": None}),
        ("round_end", {"winner": "red"}),
    )
    hit = ShipHit(ship="red-3", damage=12)
    assert events == ["round_start", hit, ("round_end", {"winner": "red"})]
    assert ["round_start", hit, ("round_end", {"winner": "red"})] == events
    assert hit in events
    assert events[1] == hit
    assert hit == events[1]
    assert events[1:2] == [hit]
    assert hit in list(events)
    assert events.count(hit) == 1
    assert events.index(hit) == 1


@pytest.mark.parametrize(
    "other",
    [
        ShipHit(ship="red-4", damage=12),
        ShipHit(ship="red-3", damage=13),
        ShipHit(ship="red-3", damage=12, by="blue"),
        Place(1, 2),
        MOVED,
        ShipHit,
    ],
)
def test_an_instance_that_differs_stands_for_another_event(other: object) -> None:
    assert HIT[:] != [other]
    assert other not in HIT
    assert HIT[0] != other
    assert other != HIT[0]
    assert (HIT[0] == other) is False


def test_the_envelope_does_not_matter_to_an_instance() -> None:
    event = TelemetryEvent("ship_hit", HIT[0].data, seq=9, version="2", context={"level": 3})
    assert Snapshot([event]) == [ShipHit("red-3", 12)]


def test_values_are_compared_in_their_form_on_the_wire() -> None:
    assert found(("ship_moved", MOVED_DATA)) == [MOVED]
    for name in MOVED_DATA:
        assert found(("ship_moved", {**MOVED_DATA, name: "other"})) != [MOVED]
        assert found(("ship_moved", {k: v for k, v in MOVED_DATA.items() if k != name})) != [MOVED]


def test_not_a_number_is_null_on_the_wire() -> None:
    assert found(("ship_hit", {"ship": "a", "damage": None, "by": None})) == [
        ShipHit("a", math.nan)
    ]


def test_a_value_without_a_form_in_json_is_compared_as_it_is() -> None:
    fields: Any = {"path": (Place(ANY, pytest.approx(1.0000001)), ANY), "scores": ANY}
    events = found(("ship_moved", MOVED_DATA))
    assert events == [attrs.evolve(MOVED, **fields)]
    assert events[0] == attrs.evolve(MOVED, **fields)
    fields["path"] = (Place(ANY, pytest.approx(1.1)), ANY)
    assert events != [attrs.evolve(MOVED, **fields)]
    assert HIT[0] == ShipHit(ANY, ANY, ANY)
    assert HIT[0] != ShipHit(ANY, object())  # type: ignore[arg-type]


def test_an_instance_stands_for_the_event_that_emit_makes_of_it() -> None:
    hits = [cls("red", (Place(1, 2),)) for cls in (DataHit, SlottedHit, StructHit, OpenHit)]
    every: list[Any] = [*hits, MOVED, ShipHit("red-3", math.nan), Renamed("red"), Inward("red")]
    with record_events(strict=True) as events:
        for instance in every:
            emit(instance)
    assert events == every
    assert events.of(Inward) == [Inward("red")]
    assert events.of(StructHit) == [StructHit("red", (Place(1, 2),))] * 4
    assert ("inward", {"_ship": "red", "seen": 0}) in events


# Classes of each kind.


@event_type("hit")
@dataclasses.dataclass
class DataHit:
    ship: str
    places: list[Place] = dataclasses.field(default_factory=list)


@event_type("hit")
@dataclasses.dataclass(frozen=True, slots=True)
class SlottedHit:
    ship: str
    places: tuple[Place, ...] = ()


@event_type("hit")
class StructHit(msgspec.Struct, gc=False):
    ship: str
    places: tuple[Place, ...] = ()


@event_type("hit")
@attrs.define(slots=False)
class OpenHit:
    ship: str = attrs.field(converter=str, validator=attrs.validators.min_len(1))
    places: tuple[Place, ...] = attrs.field(default=(), converter=tuple)


@pytest.mark.parametrize("cls", [DataHit, SlottedHit, StructHit, OpenHit])
def test_an_instance_of_each_kind_of_class_stands_for_its_event_and_comes_back(cls: Any) -> None:
    events = found(("hit", {"ship": "red", "places": [{"x": 1, "y": 2}]}), ("miss", {}))
    hit = cls("red", [Place(1, 2)] if cls is DataHit else (Place(1, 2),))
    assert events == [hit, "miss"]
    assert events.of(cls) == [hit]
    assert type(events.of(cls)[0].places[0]) is Place


@event_type
class Renamed(msgspec.Struct, rename="camel", tag="r", tag_field="kind", omit_defaults=True):
    ship_name: str
    damage: int = 1


def test_the_names_of_a_struct_are_those_on_the_wire() -> None:
    events = found(("renamed", {"kind": "r", "shipName": "red-3"}))
    assert events == [Renamed("red-3")]
    assert events.of(Renamed) == [Renamed("red-3")]


@event_type
@attrs.frozen
class Inward:
    _ship: str
    seen: int = attrs.field(init=False, default=0)


# Failed assertions.


def test_a_failed_comparison_says_which_fields_differ() -> None:
    assert explanation("==", HIT, [ShipHit("red-4", 12, by="blue")]) == [
        "events == expected events",
        "event 0: ship_hit: 'ship' is 'red-3', not 'red-4'; 'by' is None, not 'blue'",
        "(- expected, + found)",
        "- ship_hit {'ship': 'red-4', 'damage': 12, 'by': 'blue'}",
        "+ ship_hit {'ship': 'red-3', 'damage': 12, 'by': None}",
    ]
    assert explanation("==", ShipHit("red-3", 13), HIT[0]) == [
        (
            "ship_hit {'ship': 'red-3', 'damage': 13, 'by': None} == "
            "ship_hit {'ship': 'red-3', 'damage': 12, 'by': None}"
        ),
        "'damage' is 12, not 13",
    ]


def test_fields_deep_in_the_data_are_named_by_their_path() -> None:
    moved = attrs.evolve(MOVED, path=(Place(0, 1), Place(2, 4)), scores={3: [1]})
    (_, why) = explanation("==", found(("ship_moved", MOVED_DATA))[0], moved)
    assert why == "'path[1].y' is 3, not 4; 'scores.3' is [1, 2], not [1]"


def test_an_instance_that_is_missing_is_described_by_the_events_of_its_type() -> None:
    assert explanation("in", ShipHit("red-3", 13), HIT) == [
        "ship_hit {'ship': 'red-3', 'damage': 13, 'by': None} in events",
        (
            "no event matches ship_hit {'ship': 'red-3', 'damage': 13, 'by': None}; "
            "found 1 of its type:"
        ),
        "  ship_hit {'ship': 'red-3', 'damage': 12, 'by': None}: 'damage' is 12, not 13",
    ]
    assert explanation("not in", ShipHit("red-3", 12), HIT)[1:] == [
        "found 1:",
        "  ship_hit {'ship': 'red-3', 'damage': 12, 'by': None}",
    ]


def test_an_instance_in_place_of_a_list_is_named() -> None:
    assert explanation("==", HIT, ShipHit("red-3", 12)) == [
        "events == ship_hit {'ship': 'red-3', 'damage': 12, 'by': None}",
        "compare events with a list: [ShipHit(ship='red-3', damage=12, by=None)]",
    ]


def test_a_class_that_is_not_marked_is_named() -> None:
    place = "Place(x=1, y=2) (is an instance of a class that is not marked with @event_type)"
    assert explanation("in", Place(1, 2), HIT)[:2] == [
        f"{place} in events",
        f"no event matches {place}; found 1:",
    ]
    assert explanation("==", HIT, [Place(1, 2)])[3] == f"- {place}"
    assert explanation("in", ShipHit, HIT)[0].endswith(
        "ShipHit'> (is a class; emit an instance of it) in events"
    )


# Instances.


def test_events_come_back_as_instances_with_the_types_of_their_fields() -> None:
    events = found(("ship_moved", MOVED_DATA), ("ship_hit", HIT[0].data))
    (moved,) = events.of(ShipMoved)
    assert moved == attrs.evolve(MOVED, file=pathlib.PurePath("maps/1"))
    assert events.of(ShipHit) == [ShipHit("red-3", 12)]
    assert found().of(ShipHit) == []


def test_fields_that_an_event_lacks_have_their_defaults() -> None:
    assert found(("ship_hit", {"ship": "a", "damage": 1.5})).of(ShipHit) == [ShipHit("a", 1.5)]


@event_type("hit")
@attrs.frozen
class Untyped:
    at: Any = None
    place: object = None
    vector: Vector | None = None


class Vector:
    """Iterable, and made from another, as those of pygame are."""

    def __init__(self, values: Any) -> None:
        self.values = tuple(values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and self.values == other.values

    def __hash__(self) -> int:
        return hash(self.values)


def test_values_of_other_classes_are_made_from_their_form_on_the_wire() -> None:
    events = found(("hit", {"at": {"x": 1}, "place": [1], "vector": [1, 2.5]}))
    assert events.of(Untyped) == [Untyped({"x": 1}, [1], Vector([1, 2.5]))]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"ship": "a", "damage": "12"}, r"Expected `float`, got `str` - at `data\.damage`"),
        ({"ship": "a"}, "missing required field `damage`"),
        ({"ship": "a", "damage": 1, "dmg": 2}, "the class has no field 'dmg'"),
    ],
)
def test_an_event_that_does_not_fit_the_class_is_an_error_that_says_why(
    data: dict[str, Any], reason: str
) -> None:
    events = found(("miss", {}), ("ship_hit", data))
    with pytest.raises(AssertionError, match=f"^event 1 is not a ShipHit: .*{reason}\n  ship_hit "):
        events.of(ShipHit)


def unusable() -> type:
    @attrs.frozen
    class Inner:
        x: int

    @event_type("hit")
    @attrs.frozen
    class Outer:
        inner: Inner

    return Outer


@event_type("hit")
@attrs.frozen
class Picky:
    ship: str = attrs.field(validator=attrs.validators.in_(["red", "blue"]))


@pytest.mark.parametrize(
    ("make", "data", "reason"),
    [
        (unusable, {"inner": {"x": 1}}, "Outer: the class can't be filled from JSON: NameError"),
        (lambda: Picky, {"ship": "green"}, r"Picky: .*'ship' must be in \['red', 'blue'\]"),
        (lambda: Untyped, {"vector": 5}, "Untyped: .*not iterable.* at `data.vector`"),
    ],
)
def test_a_class_that_can_not_be_filled_is_an_error_that_says_why(
    make: Callable[[], type], data: dict[str, Any], reason: str
) -> None:
    with pytest.raises(AssertionError, match=f"event 0 is not a .*{reason}"):
        found(("hit", data)).of(make())


@pytest.mark.parametrize("cls", [Place, str, "ship_hit", ShipHit("a", 1)])
def test_only_a_marked_class_can_be_asked_for(cls: Any) -> None:
    with pytest.raises(TypeError, match="is not a class that @event_type marks"):
        HIT.of(cls)
