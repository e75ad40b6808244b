"""Events: completed, stamped, encoded; and what is refused, with the place and the reason."""

from __future__ import annotations

import datetime
import json
import uuid
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry import InvalidEventError, TelemetryEvent
from redvsblue_telemetry.events import EventCodec, child_session_id


def wire(codec: EventCodec, event: Any, number: int = 1) -> dict[str, Any]:
    sealed: dict[str, Any] = json.loads(codec.seal(codec.encode_event(event), number))
    return sealed


def test_an_event_on_the_wire() -> None:
    codec = EventCodec("s1", "1.0")
    with freeze_time("2026-01-02 03:04:05.500"):
        sealed = json.loads(codec.seal(codec.encode("hit", {"by": "red-1"}, {"damage": 3}), 12))
    assert sealed.pop("id")
    assert sealed == {
        "sessionId": "s1",
        "version": "1.0",
        "seq": 12,
        "type": "hit",
        "timestamp": 1767323045500,
        "data": {"by": "red-1", "damage": 3},
    }


def test_what_an_event_brings_is_kept_and_the_rest_is_filled_in() -> None:
    codec = EventCodec("s1")
    given_all = TelemetryEvent(
        "hit", {"a": 1}, timestamp=5, id="x", session_id="other", seq=9, version="2"
    )
    assert wire(codec, given_all) == given_all.to_mapping()
    partial = wire(codec, {"type": "hit", "id": "mine"}, number=4)
    assert (partial["id"], partial["seq"], partial["sessionId"]) == ("mine", 4, "s1")
    assert partial["data"] == {}
    with_version = EventCodec("s1", "3")
    assert wire(with_version, {"type": "hit", "seq": 8})["version"] == "3"


def test_a_timestamp_may_be_a_number_or_a_datetime() -> None:
    codec = EventCodec("s1")
    assert wire(codec, {"type": "t", "timestamp": 12.9})["timestamp"] == 12
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    assert wire(codec, {"type": "t", "timestamp": moment})["timestamp"] == 1767225600000
    identity = uuid.uuid4()
    assert wire(codec, {"type": "t", "id": identity})["id"] == str(identity)


def test_keys_that_no_event_has_are_fields_of_its_data() -> None:
    assert wire(EventCodec("s"), {"type": "t", "damage": 3, "data": {"by": 1}})["data"] == {
        "damage": 3,
        "by": 1,
    }


def test_ids_are_unique_where_a_session_id_is_used_again() -> None:
    ids = {wire(EventCodec("same"), {"type": "t"}, number)["id"] for number in (1, 1, 2)}
    assert len(ids) == 3


@pytest.mark.parametrize("text", ["100%", 'a"b', "ä%d\\", "\N{ROCKET}"])
def test_a_session_id_and_version_of_any_text(text: str) -> None:
    sealed = wire(EventCodec(text, text), {"type": "t", "data": {}})
    assert (sealed["sessionId"], sealed["version"]) == (text, text)


def test_data_is_a_snapshot() -> None:
    codec = EventCodec("s")
    data = {"list": [1]}
    body = codec.encode("t", data)
    data["list"].append(2)
    assert json.loads(codec.seal(body, 1))["data"] == {"list": [1]}


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("event", "path", "reason"),
    [
        ({"type": ""}, "type", "empty"),
        ({"type": 5, "data": {}}, "type", "no string"),
        ({"data": {}}, "type", "missing"),
        ({"type": "\ud800"}, "type", "surrogate"),
        ({"type": "t", "data": [1]}, "data", "mapping"),
        ({"type": "t", "data": 0}, "data", "mapping"),
        ({"type": "t", "data": 0, "x": 1}, "data", "mapping"),
        ({"type": "t", "data": {"a": object()}}, "data.a", "no form in JSON"),
        ({"type": "t", "data": {"s": [{"t": object()}]}}, "data.s[0].t", "no form in JSON"),
        ({"type": "t", "data": {"c": CIRCLE}}, "data.c[0]", "refers to itself"),
        ({"type": "t", "data": {"a": "\ud800"}}, "data.a", "surrogate"),
        ({"type": "t", "data": {(1, 2): 1}}, "data", "key"),
        ({"type": "t", "data": {"a": "x" * 20000}}, "data", "bytes"),
        ({"type": "t", "id": "x" * 20000}, "data", "bytes"),
        ({"type": "t", "timestamp": "soon"}, "timestamp", "number"),
        ({"type": "t", "timestamp": True}, "timestamp", "number"),
        ({"type": "t", "timestamp": float("nan")}, "timestamp", "nan"),
        ({"type": "t", "seq": -1}, "seq", "whole"),
        ({"type": "t", "seq": True}, "seq", "whole"),
        ({"type": "t", "id": 5}, "id", "string"),
        ({"type": "t", "id": "\ud800"}, "id", "surrogate"),
        ({"type": "t", "sessionId": ""}, "sessionId", "string"),
        (None, "event", "neither"),
        ("text", "event", "neither"),
    ],
)
def test_a_bad_event_is_refused_with_its_place_and_reason(
    event: Any, path: str, reason: str
) -> None:
    with pytest.raises(InvalidEventError) as caught:
        EventCodec("s").encode_event(event)
    assert caught.value.path == path
    assert reason in caught.value.reason


def test_the_limit_on_size_is_exact() -> None:
    codec = EventCodec("s", max_event_bytes=1000)
    largest = 2**63 - 1
    empty = len(codec.seal(codec.encode("t", {"a": ""}), largest))
    body = codec.encode("t", {"a": "x" * (1000 - empty)})
    assert len(codec.seal(body, largest)) == 1000
    with pytest.raises(InvalidEventError, match="1001"):
        codec.encode("t", {"a": "x" * (1001 - empty)})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=15,
)


@given(st.dictionaries(st.text(), JSON))
def test_json_data_survives_the_wire(data: dict[str, Any]) -> None:
    codec = EventCodec("s")
    sealed = codec.seal(codec.encode("t", data), 1)
    assert json.loads(sealed)["data"] == data


def test_a_forked_childs_session_has_a_name_of_its_own() -> None:
    assert child_session_id("mine").startswith("mine.")
    assert child_session_id(None) != child_session_id(None)
