"""`event_type`: which classes it marks, and what emit makes of their instances."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import attrs
import msgspec
import pytest

import redvsblue_telemetry
from redvsblue_telemetry import (
    InvalidEventError,
    Telemetry,
    TelemetryEvent,
    TelemetrySettings,
    event_type,
    get_telemetry,
)
from redvsblue_telemetry.event_types import type_of_class
from redvsblue_telemetry.testing import RecordedEvents, RecordingServer, record_events

T = TypeVar("T")


@pytest.fixture
def events() -> Iterator[RecordedEvents]:
    with record_events() as recorded:
        yield recorded


def sent(events: RecordedEvents, event: Any) -> dict[str, Any]:
    """Emit an instance, first with care and then quickly; return its data, which is the same."""
    emit = get_telemetry().emit
    before = len(events)
    emit(event)
    assert type(event) in get_telemetry()._codec.prefixes.typed
    emit(event)
    get_telemetry().push(event)
    first, second, third = list(events)[before:]
    assert first.type == second.type == third.type == type_of_class(type(event))
    assert first.data == second.data == third.data
    assert list(first.data) == list(second.data)
    return dict(first.data)


# Classes of each kind.


class Color(enum.Enum):
    RED = "red"


@attrs.frozen
class Place:
    x: float
    y: float


class Spot(msgspec.Struct, gc=False):
    x: float


@event_type("frozen_attrs")
@attrs.frozen
class FrozenAttrs:
    ship: str
    damage: int = 3
    by: str | None = None


@event_type("dict_attrs")
@attrs.define(slots=False)
class DictAttrs:
    ship: str
    damage: int = 3
    by: str | None = None


@event_type("dataclass")
@dataclasses.dataclass
class Dataclass:
    ship: str
    damage: int = 3
    by: str | None = None


@event_type("slotted_dataclass")
@dataclasses.dataclass(slots=True, frozen=True)
class SlottedDataclass:
    ship: str
    damage: int = 3
    by: str | None = None


@event_type("struct")
class Struct(msgspec.Struct):
    ship: str
    damage: int = 3
    by: str | None = None


@event_type("struct_without_gc")
class StructWithoutGc(msgspec.Struct, gc=False, frozen=True):
    ship: str
    damage: int = 3
    by: str | None = None


CLASSES: list[Any] = [
    FrozenAttrs,
    DictAttrs,
    Dataclass,
    SlottedDataclass,
    Struct,
    StructWithoutGc,
]


@pytest.mark.parametrize("cls", CLASSES)
def test_the_fields_are_the_data(events: RecordedEvents, cls: Any) -> None:
    assert sent(events, cls("red-3")) == {"ship": "red-3", "damage": 3, "by": None}
    assert list(sent(events, cls("ä", by="b", damage=2**70))) == ["ship", "damage", "by"]


@pytest.mark.parametrize("cls", CLASSES)
def test_values_are_written_as_in_any_event(events: RecordedEvents, cls: Any) -> None:
    for value in (
        Color.RED,
        Place(1.5, 2),
        Spot(1.5),
        Struct("x"),
        [Place(1, 2), {"a": (1, 2)}],
        datetime.datetime(2026, 11, 28, 12, 0, tzinfo=datetime.timezone.utc),
        uuid.UUID(int=7),
        decimal.Decimal("1.5"),
        {1, 2},
        float("inf"),
        Path("a/b"),
    ):
        get_telemetry().emit("other", {"ship": value})
        assert sent(events, cls(value))["ship"] == list(events)[-4].data["ship"]


@pytest.mark.parametrize("cls", CLASSES)
def test_changing_a_value_later_changes_nothing(events: RecordedEvents, cls: Any) -> None:
    ships = ["red-1"]
    for _ in range(3):
        get_telemetry().emit(cls(ships))
    ships.append("red-2")
    assert [event.data["ship"] for event in events] == [["red-1"]] * 3


@pytest.mark.parametrize("cls", CLASSES)
def test_bounds_hold_for_known_classes(
    events: RecordedEvents, cls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    cycle: list[Any] = []
    cycle.append(cycle)
    telemetry = get_telemetry()
    for fault in (deep, cycle, "x" * 20_000, [0] * 20_000, object(), "\ud800"):
        telemetry.emit(cls("red-3"))
        telemetry.emit(cls(fault))
        telemetry.emit(cls(fault))
    assert telemetry.stats().rejected == 12
    assert [event.data["ship"] for event in events] == ["red-3"] * 6
    assert "data.ship" in caplog.text


def test_a_list_that_a_struct_is_given_later_is_looked_at(events: RecordedEvents) -> None:
    @event_type
    class Frozen(msgspec.Struct, frozen=True):
        ship: Any

        def __post_init__(self) -> None:
            if self.ship == "deep":
                msgspec.structs.force_setattr(self, "ship", deep)

    deep: Any = []
    for _ in range(100):
        deep = [deep]
    event = Struct("red-3")
    sent(events, event)
    event.ship = deep
    get_telemetry().emit(event)
    assert get_telemetry().stats().rejected == 1
    sent(events, Frozen("red-3"))
    get_telemetry().emit(Frozen("deep"))
    assert get_telemetry().stats().rejected == 2


def test_a_struct_is_written_by_its_own_options(events: RecordedEvents) -> None:
    for collected in (True, False):

        @event_type("hit")
        class Hit(
            msgspec.Struct,
            gc=collected,
            rename="camel",
            tag="a",
            tag_field="kind",
            omit_defaults=True,
        ):
            ship_id: str
            parts: list[int] = []
            hit_by: str | msgspec.UnsetType = msgspec.UNSET
            max_speed: int = 5

        assert sent(events, Hit("x")) == {"kind": "a", "shipId": "x"}
        whole = sent(events, Hit("x", [1], "y", 6))
        assert whole == {"kind": "a", "shipId": "x", "parts": [1], "hitBy": "y", "maxSpeed": 6}


def test_all_fields_are_sent_and_no_other_attributes(events: RecordedEvents) -> None:
    @event_type
    @attrs.define(slots=False)
    class ByAttrs:
        _secret: int
        total: int = attrs.field(init=False, default=4)

        @functools.cached_property
        def twice(self) -> int:
            return 2 * self.total

    @event_type
    @dataclasses.dataclass
    class ByDataclass:
        _secret: int
        add: dataclasses.InitVar[int]
        total: int = dataclasses.field(init=False, default=4)
        limit: ClassVar[int] = 5

        def __post_init__(self, add: int) -> None:
            self._secret += add

    first, second = ByAttrs(1), ByDataclass(0, 1)
    assert first.twice == 8
    first.extra = second.extra = 5  # type: ignore[attr-defined]
    assert sent(events, first) == sent(events, second) == {"_secret": 1, "total": 4}


def test_a_field_without_a_value_is_named(events: RecordedEvents, caplog: Any) -> None:
    @event_type
    @attrs.define
    class Hit:
        ship: str
        total: int = attrs.field(init=False)

    get_telemetry().emit(Hit("red-3"))
    assert "event 'hit': data.total: has no value in the instance" in caplog.text
    assert not events


def test_instances_that_cannot_be_read_are_warned_of_once(
    events: RecordedEvents, caplog: Any
) -> None:
    @event_type
    @attrs.define(slots=False, repr=False)
    class Hit:
        ship: str

        def __getattr__(self, name: str) -> Any:
            raise ValueError("no such ship")

    hits = [Hit("red-3"), Hit("red-4")]
    for hit in hits:
        del hit.ship
        get_telemetry().emit(hit)
    assert [record.getMessage() for record in caplog.records] == [
        "event 'hit': data: can't be read: ValueError('no such ship'); it is rejected"
    ]
    assert events.stats().rejected == 2


def test_a_nested_struct_that_lost_a_field_is_rejected_with_the_type(
    events: RecordedEvents, caplog: Any
) -> None:
    class Target(msgspec.Struct):
        ship: str
        at: list[int]

    @event_type
    class Hit(msgspec.Struct):
        target: Target

    lost = Target("red-3", [1, 2])
    del lost.at
    get_telemetry().emit(Hit(Target("red-3", [1, 2])))
    get_telemetry().emit(Hit(lost))
    get_telemetry().emit("hit", target=lost)
    assert caplog.text.count("event 'hit': data") == 1  # the second is counted with it
    assert (len(events), events.stats().rejected) == (1, 2)


@pytest.mark.parametrize(
    "kinds", [(attrs.define, dataclasses.dataclass), (dataclasses.dataclass, attrs.define)]
)
def test_a_class_has_the_fields_of_its_own_kind(
    events: RecordedEvents, kinds: tuple[Any, Any]
) -> None:
    base_kind, kind = kinds

    @base_kind
    class Base:
        ship: str = "red-3"

    @event_type
    @kind
    class Hit(Base):
        damage: int = 12

    assert sent(events, Hit()) == {"damage": 12}  # all that its constructor sets


def test_a_subclass_has_to_be_marked_itself(events: RecordedEvents, caplog: Any) -> None:
    @attrs.frozen
    class Unmarked(FrozenAttrs):
        more: int = 1

    @event_type
    @attrs.frozen
    class Marked(FrozenAttrs):
        more: int = 1

    get_telemetry().emit(FrozenAttrs("a"))
    get_telemetry().emit(Unmarked("secret name"))
    assert "Unmarked': type: is an instance of a class that is not marked" in caplog.text
    assert "secret name" not in caplog.text
    assert sent(events, Marked("a")) == {"ship": "a", "damage": 3, "by": None, "more": 1}
    assert type_of_class(Unmarked) is None


def test_a_generic_class_may_be_marked(events: RecordedEvents) -> None:
    @event_type
    class Changed(msgspec.Struct, Generic[T]):
        value: T

    assert sent(events, Changed[int](5)) == {"value": 5}


def test_an_instance_needs_no_hash_and_no_equality(events: RecordedEvents) -> None:
    @event_type
    @dataclasses.dataclass
    class Hit:
        ship: str

        def __hash__(self) -> int:
            raise ValueError

        def __eq__(self, other: object) -> bool:
            raise ValueError

    assert sent(events, Hit("a")) == {"ship": "a"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ShipHit", "ship_hit"), ("HTTPError", "http_error"), ("Hit2D", "hit2_d"), ("hit", "hit")],
)
def test_a_type_is_made_of_the_name_of_the_class(name: str, expected: str) -> None:
    assert type_of_class(event_type(attrs.make_class(name, ["a"]))) == expected


# Mistakes.


class Tuple(NamedTuple):
    a: int


class Plain:
    a: int


@pytest.mark.parametrize("cls", [Plain, Tuple, Color, dict])
def test_a_class_of_another_kind_is_refused(cls: Any) -> None:
    with pytest.raises(TypeError, match="put @event_type above the decorator that makes it one"):
        event_type(cls)


def test_the_wrong_order_of_decorators_is_refused() -> None:
    with pytest.raises(TypeError, match="above the decorator"):

        @attrs.frozen
        @event_type
        class Hit(FrozenAttrs):
            more: int


@pytest.mark.parametrize("value", [5, None, print, FrozenAttrs("a")])
def test_only_a_class_can_be_marked(value: Any) -> None:
    with pytest.raises(TypeError, match="is not a class"):
        event_type(value)
    with pytest.raises(TypeError, match="is not a class"):
        event_type("hit")(value)


def test_a_struct_without_names_is_refused() -> None:
    with pytest.raises(TypeError, match="array_like"):

        @event_type
        class Hit(msgspec.Struct, array_like=True):
            a: int


@pytest.mark.parametrize("name", ["", "x" * 1025, "\ud800"])
def test_a_name_that_no_event_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the type of an event"):
        event_type(name)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda emit: emit(FrozenAttrs), "is a class; emit an instance of it"),
        (lambda emit: emit(FrozenAttrs("a"), {"b": 1}), "given beside an instance"),
        (lambda emit: emit(FrozenAttrs("a"), {}), "given beside an instance"),
        (lambda emit: emit(FrozenAttrs("a"), b=1), "given beside an instance"),
        (lambda emit: emit(Place(1, 2)), "not marked with @event_type"),
        (lambda emit: emit(Spot(1)), "not marked with @event_type"),
        (lambda emit: emit(TelemetryEvent("hit")), "not marked with @event_type"),
        (lambda emit: emit(object()), "must be a string"),
    ],
)
def test_what_is_not_an_event_is_rejected_with_a_reason(
    wrong: Callable[[Any], None], reason: str
) -> None:
    with record_events(strict=True) as events:
        for _ in range(2):
            with pytest.raises(InvalidEventError, match=reason):
                wrong(get_telemetry().emit)
            get_telemetry().emit(FrozenAttrs("a"))
        assert get_telemetry().stats().rejected == 2
        assert len(events) == 2


def test_many_instances_of_an_unmarked_class_are_warned_of_once(caplog: Any) -> None:
    with record_events(), caplog.at_level(logging.WARNING):
        for number in range(10):
            get_telemetry().emit(Place(number, number))
    assert len(caplog.records) == 1


# All that holds for other events.


def test_context_sampling_and_before_send_see_the_event() -> None:
    seen: list[TelemetryEvent] = []

    def before_send(event: TelemetryEvent) -> TelemetryEvent:
        seen.append(event)
        return event

    with RecordingServer() as server:
        settings = TelemetrySettings(
            enabled=True, url=server.url, before_send=before_send, sample={"dataclass": 0.0}
        )
        with Telemetry(settings) as telemetry:
            for level in (1, 2):
                telemetry.context(level=level)
                for _ in range(2):
                    telemetry.emit(FrozenAttrs("a"))
                    telemetry.emit(Dataclass("a"))
                    telemetry.push(Dataclass("a"))
            assert telemetry.flush(10)
            assert telemetry.stats().sampled == {"dataclass": 8}
        levels = [event["context"]["level"] for event in server.events]
    assert levels == [1, 1, 2, 2]
    assert [(event.type, event.data["ship"]) for event in seen] == [("frozen_attrs", "a")] * 4


def test_the_journal_keeps_typed_events(tmp_path: Path) -> None:
    url = "ws://127.0.0.1:1/"
    with Telemetry(TelemetrySettings(enabled=True, url=url, journal=tmp_path)) as telemetry:
        telemetry.context(level=1)
        for cls in CLASSES:
            telemetry.emit(cls("a"))
            telemetry.emit(cls("b"))
        telemetry.stop(0)
    with RecordingServer() as server:
        settings = TelemetrySettings(enabled=True, url=server.url, journal=tmp_path)
        with Telemetry(settings):
            assert server.wait_for(2 * len(CLASSES))
        found = [(e["type"], e["data"]["ship"], e["context"]) for e in server.events]
    assert found == [(type_of_class(c), s, {"level": 1}) for c in CLASSES for s in "ab"]


def test_an_engine_may_emit_an_instance(events: RecordedEvents) -> None:
    class Engine:
        def on(self, event: str, handler: Callable[..., None]) -> None:
            self.handler = handler

        def off(self, event: str, handler: Callable[..., None]) -> None:
            del self.handler

    engine = Engine()
    hit = FrozenAttrs("a")
    with get_telemetry().attach(engine):
        engine.handler(hit)
        engine.handler(engine, hit)
        engine.handler(event=hit)
        engine.handler(engine, event=hit)
        engine.handler(engine, FrozenAttrs)
        engine.handler(Place(1, 2))
    assert [event.type for event in events] == ["frozen_attrs"] * 4
    assert get_telemetry().stats().rejected == 2


def test_an_unmarked_instance_of_an_engine_is_rejected_with_the_hint(caplog: Any) -> None:
    class Engine:
        def on(self, event: str, handler: Callable[..., None]) -> None:
            self.handler = handler

        def off(self, event: str, handler: Callable[..., None]) -> None:
            del self.handler

    engine = Engine()
    with record_events(), get_telemetry().attach(engine):
        engine.handler(engine, Place(1, 2))
    assert "'Place': event: is an instance of a class that is not marked" in caplog.text


def test_the_emit_of_the_process_takes_an_instance(events: RecordedEvents) -> None:
    redvsblue_telemetry.emit(FrozenAttrs("a"))
    assert [event.type for event in events] == ["frozen_attrs"]


def test_classes_without_end_are_not_kept_without_end(events: RecordedEvents) -> None:
    for _ in range(1_100):
        get_telemetry().emit(event_type("same")(msgspec.defstruct("Hit", ["a"]))(1))
    assert len(get_telemetry()._codec.prefixes.typed) <= 1024
