from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry._recording.jsonable import Unwritable, to_jsonable
from redvsblue_telemetry._recording.jsonable import plain as converted
from tests.support import REPOSITORY

ROOT = REPOSITORY
LARGE = 10**6
HOOK = functools.partial(to_jsonable, most=LARGE)
ENCODER = msgspec.json.Encoder(enc_hook=HOOK)


def plain(value: object) -> Any:
    """What a receiver reads, which is the same by both ways."""
    text = ENCODER.encode(value)
    assert ENCODER.encode(converted(value, LARGE)) == text
    return json.loads(text)


def fault(value: object) -> tuple[str, str] | None:
    try:
        ENCODER.encode(converted(value, LARGE))
    except Unwritable as error:
        return f"data{error.path}", error.reason
    return None


class Side(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Rank(enum.IntEnum):
    CADET = 1


class Flags(enum.Flag):
    SHIELD = 1
    CLOAK = 2


@dataclasses.dataclass
class Ship:
    name: str
    target: object = None


@dataclasses.dataclass(slots=True)
class SlottedShip:
    name: str
    target: object = None


@attrs.define
class AttrsShip:
    name: str
    target: object = None


class Point(NamedTuple):
    x: float
    y: float


class ShipStruct(msgspec.Struct):
    name: str
    target: object = None


class ShipId(str):
    __slots__ = ()

    def __str__(self) -> str:
        return f"ship {super().__str__()}"


class Hits(int):
    pass


class Damage(float):
    pass


class Fleet(dict):  # type: ignore[type-arg]
    pass


class Crew(list):  # type: ignore[type-arg]
    pass


class Table(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        return {"red": 1, "blue": 2}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("red", "blue"))

    def __len__(self) -> int:
        return 2


class Pair(Sequence[int]):
    def __getitem__(self, index: Any) -> Any:
        return (7, 8)[index]

    def __len__(self) -> int:
        return 2


class Vector:
    """As engines write them: a length and items by number, and no base class that says so."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> float:
        return (1.5, -2.0)[index]


CASES: list[tuple[object, object]] = [
    # What JSON has itself.
    (None, None),
    (True, True),
    ('Grüße 🚀 "%s" \\ \n\0', 'Grüße 🚀 "%s" \\ \n\0'),
    (-0.1, -0.1),
    (1e308, 1e308),
    ([], []),
    ({}, {}),
    # What JSON has no word for.
    (float("nan"), None),
    (float("inf"), None),
    (float("-inf"), None),
    (decimal.Decimal("1.10"), "1.10"),
    # Whole numbers of any size.
    (2**63 - 1, 2**63 - 1),
    (2**64 - 1, 2**64 - 1),
    (2**64, 2**64),
    (-(2**63) - 1, -(2**63) - 1),
    (3**200, 3**200),
    # Python's containers.
    ((1, (2,)), [1, [2]]),
    ({3}, [3]),
    (frozenset({3}), [3]),
    (collections.deque([1, 2]), [1, 2]),
    (range(3), [0, 1, 2]),
    (array.array("i", [1, 2]), [1, 2]),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.defaultdict(int, a=1), {"a": 1}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (collections.ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
    (collections.UserDict(a=1), {"a": 1}),
    (collections.UserList([1]), [1]),
    ({"a": 1}.keys(), ["a"]),
    ({1: "one", 2.5: "more"}, {"1": "one", "2.5": "more"}),
    # Bytes, as base64.
    (b"\xff\x00", "/wA="),
    (bytearray(b"\xff\x00"), "/wA="),
    # Names for values.
    (Side.RED, "red"),
    (Rank.CADET, 1),
    ({Side.RED: 1}, {"red": 1}),
    # Times and ids.
    (datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc), "2025-01-02T03:04:05Z"),
    (datetime.datetime(2025, 1, 2, 3, 4, 5, 60), "2025-01-02T03:04:05.000060"),  # noqa: DTZ001
    (datetime.date(2025, 1, 2), "2025-01-02"),
    (datetime.time(3, 4), "03:04:00"),
    (datetime.timedelta(seconds=90), "PT90S"),
    (uuid.UUID(int=10), "00000000-0000-0000-0000-00000000000a"),
    # Records.
    (Ship("red-1", Point(1, 2)), {"name": "red-1", "target": [1, 2]}),
    (SlottedShip("red-1"), {"name": "red-1", "target": None}),
    (AttrsShip("red-1", Side.BLUE), {"name": "red-1", "target": "blue"}),
    (ShipStruct("red-1"), {"name": "red-1", "target": None}),
    (Point(1.5, 2), [1.5, 2]),
    # Subclasses of the built-in types, by their value: what they print is for people.
    (ShipId("red-1"), "red-1"),
    (Hits(3), 3),
    (Damage(2.5), 2.5),
    (Damage("nan"), None),
    (Fleet(red=[1]), {"red": [1]}),
    (Crew([1, 2]), [1, 2]),
    # What only behaves like one.
    (Table(), {"red": 1, "blue": 2}),
    (Pair(), [7, 8]),
    (Vector(), [1.5, -2.0]),
]


@pytest.mark.parametrize(("value", "expected"), CASES, ids=lambda value: type(value).__name__)
def test_what_games_put_into_events_has_a_plain_form(value: object, expected: object) -> None:
    assert plain({"here": [value]}) == {"here": [expected]}
    assert type(plain(value)) is type(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.float16(0.25), 0.25),
        (np.longdouble(0.5), 0.5),
        (np.float64("nan"), None),
        (np.float32("inf"), None),
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("red"), "red"),
        (np.datetime64("2025-01-02"), "2025-01-02"),
        (np.array(3), 3),
        (np.array(2.5, dtype=np.float32), 2.5),
        (np.array([1, 2], dtype=np.uint8), [1, 2]),
        (np.array([[1.5, 2], [3, 4]]), [[1.5, 2], [3, 4]]),
        (np.array([[1, 2], [3, 4]])[:, 0], [1, 3]),
        (np.array([]), []),
        (np.zeros((2, 0)), [[], []]),
        (np.array([True, False]), [True, False]),
        (np.array([np.nan, 1.0]), [None, 1]),
        (np.array(["red", "blue"]), ["red", "blue"]),
        (np.array([None, {"a": np.int64(1)}], dtype=object), [None, {"a": 1}]),
        ({np.int64(3): np.int64(4)}, {"3": 4}),
        ({np.str_("a"): 1}, {"a": 1}),
    ],
    ids=repr,
)
def test_numpy_has_a_plain_form(value: object, expected: object) -> None:
    assert plain([value]) == [expected]
    assert type(plain(value)) is type(expected)


def test_pygame_has_a_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    pygame = pytest.importorskip("pygame", reason="needs pygame-ce")

    assert plain(pygame.Vector2(1, -2.5)) == [1, -2.5]
    assert plain(pygame.Vector3(1, 2, 3)) == [1, 2, 3]
    assert plain(pygame.Rect(1, 2, 30, 40)) == [1, 2, 30, 40]
    assert plain(pygame.Color("red")) == [255, 0, 0, 255]
    assert plain({"ship": {"at": pygame.Vector2(0, 1)}}) == {"ship": {"at": [0, 1]}}
    assert fault({"sprite": pygame.Surface((1, 1))}) == (
        "data.sprite",
        "can't be encoded: pygame.surface.Surface has no form in JSON",
    )


def test_pyglet_has_a_plain_form() -> None:
    from pyglet.math import Vec2, Vec3

    assert plain(Vec2(1, -2.5)) == [1, -2.5]
    assert plain({"ship": {"at": Vec3(1, 2, 3)}}) == {"ship": {"at": [1, 2, 3]}}


def test_a_ring_is_read_once_around() -> None:
    """Items by number that start again at the end: reading on until an IndexError never ends."""

    class Ring:
        reads = 0

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> int:
            self.reads += 1
            assert self.reads <= 100, "read on and on"
            return (10, 20, 30)[index % 3]

    assert plain(Ring()) == [10, 20, 30]


@pytest.mark.parametrize(
    "value",
    [object(), Ship, len, 1j, ..., NotImplemented, iter([1]), (n for n in "ab"), lambda: 1, os],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_plain_form_is_a_type_error_that_names_it(value: object) -> None:
    with pytest.raises(Unwritable, match=f"{type(value).__name__} has no form in JSON"):
        to_jsonable(value, LARGE)


# Faults.


@pytest.mark.parametrize("value", [case for case, _ in CASES], ids=lambda v: type(v).__name__)
def test_there_is_no_fault_in_what_can_be_encoded(value: object) -> None:
    assert fault({"here": [value]}) is None


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "data"),
        ({"ships": [1, 2, 3, {"target": object()}]}, "data.ships[3].target"),
        ({"a": {"b": {"c": [object()]}}}, "data.a.b.c[0]"),
        ({"at": (1, (2, object()))}, "data.at[1][1]"),
        ({"at": Point(1, object())}, "data.at[1]"),  # type: ignore[arg-type]
        ({"ship": Ship("red-1", object())}, "data.ship.target"),
        ({"ship": SlottedShip("red-1", [object()])}, "data.ship.target[0]"),
        ({"ship": AttrsShip("red-1", {"x": object()})}, "data.ship.target.x"),
        ({"by_id": {7: object()}}, "data.by_id[7]"),
        ({"by_side": {Side.RED: object()}}, f"data.by_side[{Side.RED!r}]"),
        (collections.OrderedDict(a=object()), "data.a"),
        (collections.ChainMap({"a": object()}), "data.a"),
        ({"good": 1, "bad": object(), "worse": object()}, "data.bad"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_found_where_it_is(value: object, path: str) -> None:
    assert fault(value) == (path, "can't be encoded: object has no form in JSON")


def test_what_hides_in_a_set_is_found_in_the_set() -> None:
    assert fault({"seen": {object()}}) == (
        "data.seen",
        "can't be encoded: object has no form in JSON",
    )


def circular_dict() -> object:
    ship: dict[str, object] = {"name": "red-1"}
    ship["target"] = {"chases": ship}
    return ship


def circular_list() -> object:
    ships: list[object] = [1]
    ships.append(ships)
    return ships


def circular_record() -> object:
    red = Ship("red-1")
    red.target = Ship("blue-1", target=red)
    return red


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (circular_dict(), "data.x.target.chases"),
        (circular_list(), "data.x[1]"),
        (circular_record(), "data.x.target.target"),
    ],
    ids=["dict", "list", "dataclass"],
)
def test_circular_data_refers_to_itself(value: object, path: str) -> None:
    assert fault({"x": value}) == (path, "refers to itself")


def test_the_same_object_in_two_places_is_no_circle() -> None:
    ship = {"name": "red-1"}
    assert fault({"winner": ship, "ships": [ship, ship]}) is None


def test_too_deep_is_too_deep() -> None:
    value: object = 1
    for _ in range(100_000):
        value = [value]
    path, reason = fault({"x": value}) or ("", "")
    assert path == "data.x" + "[0]" * 63
    assert reason == "is nested deeper than 64 levels"


@pytest.mark.parametrize(
    ("value", "path"),
    [("\ud800", "data.x"), ({"\udfff": 1}, "data.x"), ({"\udfff": "\udfff"}, "data.x.\\udfff")],
    ids=["value", "key", "value under key"],
)
def test_a_lone_surrogate_is_called_one(value: object, path: str) -> None:
    assert fault({"x": value}) == (path, "contains a lone surrogate, which UTF-8 can't encode")


def test_the_path_can_be_printed_whatever_the_keys_are() -> None:
    path, reason = fault({"\ud800 %s 🚀": {"a\nb": object()}}) or ("", "")
    assert path.encode()
    assert "🚀" in path
    assert reason == "can't be encoded: object has no form in JSON"


@pytest.mark.parametrize("key", [None, True, frozenset({1})], ids=repr)
def test_a_key_that_json_cannot_have_is_called_one(key: object) -> None:
    assert fault({"grid": {key: "red"}}) == (
        "data.grid",
        f"has a key that is not a string, a number or a tuple of them: {key!r}",
    )


def test_any_plain_data_is_encoded_to_what_it_was() -> None:
    numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    leaves = st.none() | st.booleans() | numbers | st.text()

    @given(
        st.recursive(
            leaves, lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts), max_leaves=20
        )
    )
    def check(value: object) -> None:
        assert plain(value) == value
        assert fault(value) is None

    check()


def test_the_package_imports_no_library_of_games() -> None:
    code = (
        "import sys, redvsblue_telemetry as telemetry\n"
        "from redvsblue_telemetry._recording.codec import EventCodec\n"
        "EventCodec('a').encode('b', {'c': [1, range(3)]})\n"
        "telemetry.start_telemetry()\n"
        "foreign = 'numpy pygame pyglet arcade pyee blinker websockets asyncio'.split()\n"
        "assert not set(foreign) & set(sys.modules), set(foreign) & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=30)
