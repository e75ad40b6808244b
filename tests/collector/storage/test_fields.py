"""The fields of an event's data."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry.collector.storage.fields import MAX_TEXT_LENGTH, flatten


def test_numbers_are_doubles_and_the_rest_is_text() -> None:
    data = '{"damage":12,"heading":0.32,"weapon":"laser","hit":true,"last":false,"by":null}'
    flat = flatten(data)
    assert flat == {
        "damage": 12.0,
        "heading": 0.32,
        "weapon": "laser",
        "hit": "true",
        "last": "false",
    }
    assert type(flat["damage"]) is float


def test_objects_are_flat_to_the_third_level() -> None:
    data = '{"at":{"x":1,"place":{"name":"hill","deep":{"er":1}}},"path":[1,{"x":2}],"none":{}}'
    assert flatten(data) == {"at.x": 1.0, "at.place.name": "hill"}


def test_long_text_is_cut() -> None:
    text = "ü" * (MAX_TEXT_LENGTH + 1)
    assert flatten(json.dumps({"text": text})) == {"text": text[:-1]}
    assert flatten(json.dumps({"text": text[:-1]})) == {"text": text[:-1]}


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 400])
def test_number_beyond_a_double_is_left_out_and_all_others_stay(number: str) -> None:
    data = f'{{"a":1,"big":{number},"at":{{"x":{number},"y":2}},"list":[{number}],"b":"c"}}'
    assert flatten(data) == {"a": 1.0, "at.y": 2.0, "b": "c"}


def test_large_integer_becomes_the_nearest_double() -> None:
    assert flatten('{"n":123456789012345678901234567890}') == {
        "n": 123456789012345678901234567890.0
    }
    assert flatten(f'{{"n":{2**53 + 1}}}') == {"n": float(2**53)}


@pytest.mark.parametrize("data", ["[]", "1", '"text"', "null", "", "{", "nonsense", "[1e400]"])
def test_what_is_not_an_object_has_no_fields(data: str) -> None:
    assert flatten(data) == {}


def test_data_that_is_too_deep_to_decode_has_no_fields() -> None:
    assert flatten('{"a":' * 5000 + "1" + "}" * 5000) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("ab.#", max_size=2), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text("ab.#", max_size=2), JSON, max_size=5))
def test_each_value_is_a_finite_double_or_a_text(data: dict[str, object]) -> None:
    flat = flatten(json.dumps(data))
    for value in flat.values():
        assert (type(value) is float and math.isfinite(value)) or type(value) is str
    for name, given_value in data.items():
        inside = {each for other in data if other != name for each in _names(other, data[other])}
        if name in inside:
            continue  # two fields with the same name
        if isinstance(given_value, bool):
            assert flat[name] == str(given_value).lower()
        elif isinstance(given_value, (int, float)):
            try:
                assert flat[name] == float(given_value)
            except OverflowError:
                assert name not in flat
        elif isinstance(given_value, str):
            assert flat[name] == given_value
        else:
            assert name not in flat


def _names(name: str, value: object) -> set[str]:
    """All names that a value may have when it is flat."""
    if not isinstance(value, dict):
        return {name}
    return {each for inner in value for each in _names(f"{name}.{inner}", value[inner])}
