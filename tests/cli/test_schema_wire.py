"""The schema of an event class describes the events that the SDK makes of its instances."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import uuid
from typing import Any, Literal, NamedTuple, TypedDict

import attrs
import jsonschema_rs
import msgspec
import numpy as np
import pytest
from pygame import Vector2

from redvsblue_telemetry import emit, event_type
from redvsblue_telemetry._schema import write_schemas
from redvsblue_telemetry.cli.schema.classes import schemas_of
from redvsblue_telemetry.testing import record_events


class Team(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Power(enum.IntFlag):
    SHIELD = 1
    TURBO = 2


class Cell(NamedTuple):
    column: int
    row: int = 0


class Options(TypedDict, total=False):
    hard: bool


@attrs.define
class Place:
    x: float
    y: float
    _cached: int = 0


@dataclasses.dataclass
class Weapon:
    name: str
    _serial: int = 0
    shots: int = dataclasses.field(init=False, default=0)


class Ship(msgspec.Struct, rename="camel", tag=True):
    ship_id: str
    wing: list[Ship] = []


class Rock(msgspec.Struct, tag=True, omit_defaults=True):
    size: int = 1


@event_type
@attrs.frozen
class Everything:
    flag: bool = True
    count: int = -(2**63)
    share: float = 0.5
    whole: float = 1
    text: str = "Ω\u0000\u2028"
    nothing: None = None
    either: int | str | None = "a"
    word: Literal["laser", "missile"] = "laser"
    team: Team = Team.BLUE
    power: Power = Power.SHIELD | Power.TURBO
    moment: datetime.datetime = datetime.datetime(2030, 1, 2, 3, 4, 5, 6)  # noqa: DTZ001
    zoned: datetime.datetime = datetime.datetime(2030, 1, 2, tzinfo=datetime.timezone.utc)
    day: datetime.date = datetime.date(2030, 1, 2)
    clock: datetime.time = datetime.time(3, 4)
    span: datetime.timedelta = datetime.timedelta(seconds=90.5)
    id: uuid.UUID = uuid.UUID(int=7)
    price: decimal.Decimal = decimal.Decimal("12.50")
    raw: bytes = b"\x00\xff"
    numbers: list[int] = attrs.field(factory=lambda: [1, 2])
    pair: tuple[int, str] = (1, "a")
    many: tuple[float, ...] = (1.0, 2.0)
    teams: frozenset[Team] = frozenset(Team)
    scores: dict[str, int] = attrs.field(factory=lambda: {"red": 1})
    by_number: dict[int, str] = attrs.field(factory=lambda: {1: "a"})
    cell: Cell = Cell(1)
    options: Options = attrs.field(factory=lambda: Options(hard=True))
    place: Place | None = attrs.field(factory=lambda: Place(1.0, 2.0, 3))
    weapon: Weapon = attrs.field(factory=lambda: Weapon("laser"))
    target: Ship | Rock = attrs.field(factory=lambda: Ship("red-3", [Ship("red-4")]))
    other: Ship | Rock = attrs.field(factory=Rock)
    anything: Any = attrs.field(factory=lambda: {"a": [1, None]})
    file: pathlib.PurePosixPath = attrs.field(factory=lambda: pathlib.PurePosixPath("a/b"))
    small: np.float32 = attrs.field(factory=lambda: np.float32(0.5))
    large: np.int64 = attrs.field(factory=lambda: np.int64(5))
    grid: np.ndarray = attrs.field(factory=lambda: np.zeros((2, 2)))
    velocity: Vector2 = attrs.field(factory=lambda: Vector2(1, 2))
    _private: int = 1
    later: int = attrs.field(init=False, default=2)


@pytest.fixture(scope="module")
def validator() -> jsonschema_rs.Validator:
    document = json.loads(write_schemas(schemas_of({"everything": Everything})))
    return jsonschema_rs.validator_for(document)


def event_of(instance: Everything) -> dict[str, Any]:
    """The event of an instance, as a server receives it."""
    with record_events() as recorded:
        emit(instance)
    return {"type": recorded[0].type, "data": recorded[0].data}


def test_every_kind_of_field_fits_the_schema(validator: jsonschema_rs.Validator) -> None:
    event = event_of(Everything())

    assert len(event["data"]) == len(attrs.fields(Everything))
    assert [str(error) for error in validator.iter_errors(event)] == []


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Everything)])
def test_field_of_another_type_does_not_fit(name: str, validator: jsonschema_rs.Validator) -> None:
    wrong = {"no": {"such": ["value"]}}
    instance = Everything()
    object.__setattr__(instance, name, wrong)

    assert validator.is_valid(event_of(instance)) == (name == "anything")


def test_field_that_the_class_does_not_have_does_not_fit(
    validator: jsonschema_rs.Validator,
) -> None:
    event = event_of(Everything())
    inner = event["data"]["weapon"]

    assert not validator.is_valid({**event, "data": {**event["data"], "flagg": True}})
    assert not validator.is_valid(
        {**event, "data": {**event["data"], "weapon": {**inner, "shot": 1}}}
    )
