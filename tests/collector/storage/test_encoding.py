"""Columns as bytes, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")

from redvsblue_telemetry.collector.storage.encoding import (  # noqa: E402
    DamagedColumnError,
    decode,
    encode,
)

INTEGERS = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | INTEGERS.map(float)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=10)


def array(values: list[Any], kind: str) -> Any:
    return pyarrow.array(values, kind)


@given(st.lists(st.none() | INTEGERS))
@example([-(2**63), 2**63 - 1, None])
@example([1795531418000, 1795531418001])
def test_whole_numbers_come_back(values: list[int | None]) -> None:
    whole = array(values, "int64")
    assert decode(encode(whole), pyarrow.int64()).equals(whole)


@given(st.lists(st.none() | NUMBERS) | st.lists(st.none() | INTEGERS.map(float)))
@example([2.0**60, 2.0**53 + 2, -(2.0**63)])
@example([1e300, 5e-324, -1.0])
def test_doubles_come_back(values: list[float | None]) -> None:
    doubles = decode(encode(array(values, "float64")), pyarrow.float64())
    assert doubles.type == pyarrow.float64()
    assert doubles.to_pylist() == values  # -0.0 may become 0.0


@given(st.lists(st.none() | TEXTS | st.sampled_from(["laser", "", "ünï"])))
def test_texts_come_back(values: list[str | None]) -> None:
    texts = array(values, "string")
    assert decode(encode(texts), pyarrow.string()).equals(texts)


def test_repeated_texts_and_near_numbers_take_little_room() -> None:
    weapons = array(["laser", "plasma", "mine", None] * 2048, "string")
    assert len(encode(weapons)) < 2000
    received = array([1795531418000 + n // 100 for n in range(8192)], "int64")
    assert len(encode(received)) < 2000
    damage = array([float(n % 7) for n in range(8192)], "float64")
    assert len(encode(damage)) < 2000


@pytest.mark.parametrize("place", [0, 100, -1])
def test_any_damage_is_found(place: int) -> None:
    data = bytearray(encode(array([1.5, 2.5, None], "float64")))
    data[place] ^= 1
    with pytest.raises(DamagedColumnError):
        decode(bytes(data), pyarrow.float64())


@pytest.mark.parametrize("data", [b"", b"abc", b"\0\0\0\0", b"some other bytes"])
def test_other_bytes_are_no_column(data: bytes) -> None:
    with pytest.raises(DamagedColumnError):
        decode(data, pyarrow.float64())
