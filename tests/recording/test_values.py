"""Subclasses are written as their base, and the values that games have as the docs say."""

from __future__ import annotations

import array
import collections
import ctypes
import datetime
import decimal
import enum
import fractions
import json
import pathlib
import uuid
from typing import Any

import numpy as np
import pytest
from freezegun import freeze_time

from redvsblue_telemetry import InvalidEventError
from redvsblue_telemetry._recording.codec import EventCodec

UTC = datetime.timezone.utc


def written(value: object) -> Any:
    """What a receiver reads, which is the same for flat data and for a value within others."""
    codec = EventCodec("session")
    flat, within, deep = (
        json.loads(codec.encode("hit", data).data)["v"]
        for data in ({"v": value}, {"v": value, "list": []}, {"v": [value, {1, 2}]})
    )
    direct = json.loads(codec.encode_json({"v": value}))["v"]
    assert flat == within == deep[0] == direct
    return flat


def subclass(base: Any) -> Any:
    return type("Sub", (base,), {})


class SlottedBytes(bytes):
    __slots__ = ()


class Rank(enum.IntEnum):
    CADET = 1


class Name(str, enum.Enum):
    RED = "red"


class Flags(enum.Flag):
    SHIELD = 1
    CLOAK = 2


class Bits(enum.IntFlag):
    A = 1
    B = 2


Point = collections.namedtuple("Point", "x y")

MOMENT = datetime.datetime(2025, 1, 2, 3, 4, 5, 60, UTC)
SUBCLASSES: list[tuple[object, object]] = [
    (subclass(str)("red"), "red"),
    (subclass(int)(7), 7),
    (subclass(int)(2**70), 2**70),
    (subclass(float)(1.5), 1.5),
    (subclass(bytes)(b"abc"), "YWJj"),
    (SlottedBytes(b"abc"), "YWJj"),
    (subclass(bytearray)(b"abc"), "YWJj"),
    (memoryview(b"abc"), "YWJj"),
    (subclass(list)([1, 2]), [1, 2]),
    (subclass(tuple)([1, 2]), [1, 2]),
    (Point(1, 2), [1, 2]),
    (subclass(Point)(1, 2), [1, 2]),
    (subclass(set)([1]), [1]),
    (subclass(frozenset)([1]), [1]),
    (subclass(dict)(a=1), {"a": 1}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.defaultdict(int, a=1), {"a": 1}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (subclass(collections.deque)([1, 2]), [1, 2]),
    (subclass(datetime.datetime)(2025, 1, 2, 3, 4, 5, 60, UTC), "2025-01-02T03:04:05.000060Z"),
    (subclass(datetime.datetime)(2025, 1, 2), "2025-01-02T00:00:00"),
    (subclass(datetime.date)(2025, 1, 2), "2025-01-02"),
    (subclass(datetime.time)(3, 4), "03:04:00"),
    (subclass(datetime.timedelta)(seconds=90), "PT90S"),
    (subclass(uuid.UUID)(int=10), "00000000-0000-0000-0000-00000000000a"),
    (subclass(decimal.Decimal)("1.10"), "1.10"),
    (Rank.CADET, 1),
    (Name.RED, "red"),
    (Flags.SHIELD | Flags.CLOAK, 3),
    (Bits.A | Bits.B, 3),
    (np.bool_(True), True),
    (np.str_("red"), "red"),
    (np.float64(1.5), 1.5),
    (np.bytes_(b"abc"), "YWJj"),
]


@pytest.mark.parametrize(
    ("value", "expected"), SUBCLASSES, ids=[type(v).__mro__[1].__name__ for v, _ in SUBCLASSES]
)
def test_a_subclass_is_written_as_its_base(value: object, expected: object) -> None:
    assert written(value) == expected


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (subclass(str)("red"), "red"),
        (subclass(int)(7), "7"),
        (subclass(float)(1.5), "1.5"),
        (subclass(datetime.date)(2025, 1, 2), "2025-01-02"),
        (subclass(uuid.UUID)(int=10), "00000000-0000-0000-0000-00000000000a"),
        (Rank.CADET, "1"),
        (Name.RED, "red"),
        (np.int64(3), "3"),
        (np.str_("a"), "a"),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        ((3, 4), "3,4"),
        ((-1, 2.5, "a"), "-1,2.5,a"),
        (Point(np.int64(3), 4), "3,4"),
    ],
    ids=repr,
)
def test_keys_are_written_as_text(key: object, name: str) -> None:
    assert written({key: 1}) == {name: 1}
    assert json.loads(EventCodec("session").encode("hit", {key: 1}).data) == {name: 1}  # type: ignore[dict-item]


def test_frozen_time_is_written_as_time() -> None:
    with freeze_time("2025-01-02 03:04:05.5"):
        assert written(datetime.datetime.now(UTC)) == "2025-01-02T03:04:05.500000Z"
        assert written(datetime.datetime.now()) == "2025-01-02T03:04:05.500000"  # noqa: DTZ005
        assert written(datetime.date.today()) == "2025-01-02"  # noqa: DTZ011


def test_a_time_that_is_not_one_is_null() -> None:
    class NaT(datetime.datetime):
        """As pandas has it: a datetime that is not equal to itself."""

        def __eq__(self, other: object) -> bool:
            return False

        def __ne__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    assert written(NaT(2025, 1, 1)) is None


class Vector2:
    """As raylib has it by cffi: fields, a len() and an item access that both raise."""

    x, y = 1.0, 2.0

    def __len__(self) -> int:
        raise TypeError("cdata of type 'Vector2' has no len()")

    def __getitem__(self, index: int) -> float:
        raise TypeError("cdata of type 'Vector2' cannot be indexed")


class Rectangle(ctypes.Structure):
    _fields_ = (("x", ctypes.c_float), ("y", ctypes.c_float))


WRITTEN: list[tuple[object, object]] = [
    (pathlib.PurePosixPath("saves/one.sav"), "saves/one.sav"),
    (pathlib.PureWindowsPath("C:/saves"), "C:\\saves"),
    ({(3, 4): "wall"}, {"3,4": "wall"}),
    (np.datetime64("2025-01-02T03:04:05.123456789", "ns"), "2025-01-02T03:04:05.123456"),
    (np.datetime64("2025-01-02T03:04:05", "s"), "2025-01-02T03:04:05"),
    (np.datetime64("NaT", "ns"), None),
    (np.timedelta64(1_500_000_000, "ns"), "PT1.5S"),
    (np.array(["2025-01-02T03:04:05"], "datetime64[ns]"), ["2025-01-02T03:04:05"]),
    (np.array([[90]], "timedelta64[s]"), [["PT90S"]]),
    (np.array([(1, 2.5)], [("x", int), ("y", float)]), [[1, 2.5]]),
    (array.array("d", [1.5]), [1.5]),
    ((ctypes.c_float * 2)(1, 2), [1, 2]),
]
REJECTED: list[tuple[object, str]] = [
    (1j, "can't be encoded: complex has no form in JSON"),
    (np.complex128(1j), "can't be encoded: complex has no form in JSON"),
    (fractions.Fraction(1, 3), "can't be encoded: fractions.Fraction has no form in JSON"),
    (np.timedelta64(3, "Y"), "is a time that Python's datetime can't hold"),
    (
        Vector2(),
        f"can't be encoded: {__name__}.Vector2 has no form in JSON; use [v.x, v.y] instead",
    ),
    (
        Rectangle(1, 2),
        f"can't be encoded: {__name__}.Rectangle has no form in JSON; use [v.x, v.y] instead",
    ),
]


@pytest.mark.parametrize(("value", "expected"), WRITTEN, ids=lambda value: type(value).__name__)
def test_what_games_have_is_written_as_expected(value: object, expected: object) -> None:
    assert written(value) == expected


@pytest.mark.parametrize(("value", "reason"), REJECTED, ids=lambda value: type(value).__name__)
def test_what_has_no_form_is_rejected_with_the_reason(value: object, reason: str) -> None:
    for data in ({"v": value}, {"v": value, "list": []}):
        with pytest.raises(InvalidEventError) as caught:
            EventCodec("session").encode("hit", data)
        assert (caught.value.path, caught.value.reason) == ("data.v", reason)
