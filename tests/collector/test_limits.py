"""What the SDK accepts, the collector accepts: their limits are the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry import InvalidEventError, SettingsError, TelemetrySettings
from redvsblue_telemetry._recording.codec import EventCodec, child_session_id
from redvsblue_telemetry._shared import LARGEST_INTEGER, MAX_NAME_LENGTH, SMALLEST_INTEGER
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.testing import record_events

NAMES = st.text(max_size=5) | st.sampled_from("a🚀\0").flatmap(
    lambda letter: st.sampled_from([1, 1023, 1024, 1025, 5000]).map(lambda n: letter * n)
)
EDGES = [0, SMALLEST_INTEGER, LARGEST_INTEGER, 10**30, -(10**30), 1735819200, 1735819200123]
NUMBERS = st.sampled_from([edge + step for edge in EDGES for step in (-1, 0, 1)])
DEPTHS = st.integers(0, 70)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@given(
    st.fixed_dictionaries(
        {"type": NAMES, "data": DEPTHS.map(lambda depth: {"x": nested(depth)})},
        optional={
            "id": NAMES,
            "sessionId": NAMES,
            "version": NAMES,
            "timestamp": NUMBERS,
            "seq": NUMBERS,
        },
    )
)
def test_the_collector_accepts_what_the_sdk_accepts(event: dict[str, Any]) -> None:
    codec = EventCodec("session", max_event_bytes=100_000)
    for encode in (
        lambda: codec.encode_event(event),
        lambda: codec.encode(event["type"], event["data"]),
    ):
        try:
            wire = codec.to_wire(encode(), LARGEST_INTEGER)
        except InvalidEventError:
            continue
        assert read_message(b"[%b]" % wire).rejected == []


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ({"type": "x" * 5000}, "type"),
        ({"type": "hit", "id": "x" * 1025}, "id"),
        ({"type": "hit", "sessionId": "x" * 1025}, "sessionId"),
        ({"type": "hit", "version": "x" * 1025}, "version"),
        ({"type": "hit", "timestamp": 10**30}, "timestamp"),
        ({"type": "hit", "timestamp": -(2**63) - 1}, "timestamp"),
        ({"type": "hit", "timestamp": 1e300}, "timestamp"),
        ({"type": "hit", "seq": 2**63}, "seq"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_collector_would_not_store_is_rejected(event: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidEventError) as caught:
        EventCodec("session").encode_event(event)
    assert caught.value.path == path
    assert len(str(caught.value)) < 300


def test_the_longest_names_are_accepted() -> None:
    name = "🚀" * MAX_NAME_LENGTH
    event = {"type": name, "id": name, "sessionId": name, "version": name}
    wire = EventCodec("session", max_event_bytes=100_000).encode_event(event)
    message = read_message(b"[%b]" % EventCodec("session").to_wire(wire, 1))
    assert [event.type for event in message.events] == [name]


def test_settings_have_the_same_limits_and_room_for_a_forked_child() -> None:
    for field in ("session_id", "version"):
        with pytest.raises(SettingsError, match="of at most"):
            TelemetrySettings(**{field: "x" * 1025})  # type: ignore[arg-type]
    with pytest.raises(SettingsError):
        TelemetrySettings(session_id="x" * 1001)
    longest = TelemetrySettings(session_id="x" * 1000, version="x" * 1024)
    codec = EventCodec(child_session_id(longest.session_id), longest.version)
    message = read_message(b"[%b]" % codec.to_wire(codec.encode("hit", None), 1))
    assert len(message.events) == 1


def test_seconds_pushed_as_milliseconds_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    with record_events() as events:
        telemetry = events._telemetry
        telemetry.push({"type": "hit"})
        telemetry.push({"type": "hit", "timestamp": 1735819200123})
        assert not caplog.records
        for _ in range(3):
            telemetry.push({"type": "hit", "timestamp": 1735819200})
        assert [event.timestamp for event in events[2:]] == [1735819200] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "an event's timestamp is in 1970: is it in seconds? It has to be in milliseconds"
    ]
