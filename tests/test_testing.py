"""What game authors are given for their own tests."""

from __future__ import annotations

import pytest

from redvsblue_telemetry import InvalidEventError, emit, get_telemetry, start_telemetry
from redvsblue_telemetry.testing import RecordingServer, record_events


def test_events_are_recorded_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    before = get_telemetry()
    with record_events() as events:
        emit("a", x=1)
        telemetry = start_telemetry(enabled=True)
        telemetry.emit("b", {"y": 2})
        telemetry.emit("bad", {"z": object()})
        assert telemetry.stop()
        emit("a", x=3)
        assert events.types() == ["a", "b", "a"]
        assert [event.data["x"] for event in events.of_type("a")] == [1, 3]
        assert [event.seq for event in events[1:]] == [2, 3]
        assert len(events) == 3
        assert "a {'x': 1}" in repr(events)
        assert events.stats().rejected == 1
        with record_events() as inner:
            emit("inner")
            assert inner.types() == ["inner"]
        assert len(events) == 3
    assert get_telemetry() is before


def test_strict_recording_raises() -> None:
    with record_events(strict=True), pytest.raises(InvalidEventError):
        emit("bad", {"z": object()})


@pytest.mark.parametrize("acks", [True, False])
@pytest.mark.parametrize("wire_format", ["json", "ndjson"])
def test_the_server_records_what_it_is_sent(acks: bool, wire_format: str) -> None:
    with RecordingServer(acks=acks) as server:
        telemetry = start_telemetry(enabled=True, url=server.url, wire_format=wire_format)
        assert server.wait_for_connection()
        assert server.connections == 1
        telemetry.emit("a", x=1)
        telemetry.emit("b")
        assert telemetry.flush(5)
        assert server.wait_for(2)
        assert [event["type"] for event in server.events] == ["a", "b"]
        assert len(server.messages) == 1
        assert server.requests[0].path == "/telemetry"


def test_the_server_refuses_a_wrong_token() -> None:
    with RecordingServer(token="right") as server:
        telemetry = start_telemetry(enabled=True, url=server.url, token="wrong")
        assert not server.wait_for_connection(0.3)
        assert telemetry.stats().last_error is not None
        assert "401" in str(telemetry.stats().last_error)
        telemetry.stop(0.1)
        start_telemetry(enabled=True, url=server.url, token="right")
        assert server.wait_for_connection()
