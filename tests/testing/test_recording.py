"""Recordings: which events they take, and how they are compared and shown."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import attrs
import pytest

from redvsblue_telemetry import (
    ConnectionState,
    TelemetryEvent,
    emit,
    get_telemetry,
    start_telemetry,
    stop_telemetry,
)
from redvsblue_telemetry.testing import Events, RecordingServer, record_events


def test_all_ways_to_telemetry_lead_to_the_recording() -> None:
    with record_events() as events:
        emit("one")
        get_telemetry().emit("two")
        start_telemetry().emit("three")
        start_telemetry(enabled=True, url="ws://example.com").push({"type": "four"})
        assert events.types() == ["one", "two", "three", "four"]


def test_a_recording_takes_settings_quietly(caplog: pytest.LogCaptureFixture) -> None:
    with record_events(version="1") as events:
        start_telemetry(version="2", enabled=True, url="ws://example.com").emit("hit")
        assert [event.version for event in events] == ["1"]
    assert caplog.records == []


@pytest.mark.parametrize(
    "environment",
    [
        {"DO_NOT_TRACK": "1"},
        {"REDVSBLUE_ENABLE_TELEMETRY": "false"},
        {"REDVSBLUE_TELEMETRY_BATCH_SIZE": "nonsense"},
        {"REDVSBLUE_TELEMETRY_MAX_EVENT_BYTES": "256"},
    ],
)
def test_the_environment_does_not_matter(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    with record_events() as events:
        start_telemetry().emit("hit", {"pad": "x" * 500})
        assert events.types() == ["hit"]


def test_the_previous_telemetry_is_back_also_after_an_error() -> None:
    before = get_telemetry()
    with pytest.raises(ZeroDivisionError), record_events():
        _ = 1 / 0
    assert get_telemetry() is before


def test_of_nested_recordings_the_inner_one_records() -> None:
    with record_events() as outer:
        emit("one")
        with record_events() as inner:
            emit("two")
        emit("three")
    assert (outer.types(), inner.types()) == (["one", "three"], ["two"])


def test_a_recording_can_be_read_when_it_is_over() -> None:
    with record_events() as events:
        emit("hit")
    emit("miss")
    assert events.types() == ["hit"]


def test_a_recording_starts_no_thread() -> None:
    threads = set(threading.enumerate())
    with record_events():
        start_telemetry().emit("hit")
        assert get_telemetry().flush()
        assert set(threading.enumerate()) == threads


def test_a_recording_is_a_sequence_of_events() -> None:
    with record_events(session_id="match-1", version="1") as events:
        assert not events
        emit("hit", by="red")
        emit("miss")
        emit("hit", by="blue")
    assert len(events) == 3
    assert isinstance(events[0], TelemetryEvent)
    assert (events[0].session_id, events[0].version) == ("match-1", "1")
    assert [event.seq for event in events] == [1, 2, 3]
    assert events[-1].data == {"by": "blue"}
    assert [event.type for event in events[:2]] == ["hit", "miss"]
    assert [event.data["by"] for event in events.of_type("hit")] == ["red", "blue"]
    assert events.of_type("nothing") == []
    assert events[1] in events
    with pytest.raises(IndexError):
        events[3]


def test_a_part_of_a_recording_is_compared_as_the_whole_is() -> None:
    hits = [("hit", {"by": "red"}), ("hit", {"by": "blue"})]
    with record_events() as events:
        emit("hit", by="red")
        emit("hit", by="blue")
        emit("miss")
    for part in (events[:2], events[:-1], events.of_type("hit"), events[:].of_type("hit")[0:]):
        assert isinstance(part, Events)
        assert part == hits
        assert hits == part
        assert part == ["hit", "hit"]
        assert part != ["hit", "miss"]
        assert "hit" in part
        assert hits[1] in part
        assert "miss" not in part
        assert not hits[0] not in part
        assert part.types() == ["hit", "hit"]
        assert repr(part).startswith("<2 recorded events>")
    assert events[::-1] == ["miss", *reversed(hits)]
    assert events[3:] == []
    assert not events[3:]


def test_a_part_of_a_recording_does_not_grow() -> None:
    with record_events() as events:
        emit("hit")
        all_of_it, hits = events[:], events.of_type("hit")
        emit("hit")
    assert (len(all_of_it), len(hits), len(events)) == (1, 1, 2)


@pytest.mark.parametrize(
    "expected",
    [
        "hit",
        ("hit", {"by": "red", "damage": 0.3}),
        ("hit", {"by": "red", "damage": pytest.approx(0.29999999)}),
        TelemetryEvent("hit", {"by": "red", "damage": 0.3}),
        TelemetryEvent("hit", {"by": "red", "damage": 0.3}, seq=1),
    ],
)
def test_a_single_event_is_equal_to_what_it_fits(expected: Any) -> None:
    with record_events() as events:
        emit("hit", by="red", damage=0.3)
        emit("miss")
    hit, miss = events
    assert hit == expected
    assert expected == hit
    assert (hit != expected) is False
    assert miss != expected
    assert expected != miss
    assert expected in list(events)
    assert expected not in [miss]
    assert events.count(expected) == 1
    assert events.index(expected) == 0


@pytest.mark.parametrize(
    "other",
    [
        "miss",
        ("hit",),
        ("hit", {}),
        ("hit", {"by": "red"}, 1),
        ("miss", {"by": "red"}),
        (),
        ["hit", {"by": "red"}],
        TelemetryEvent("hit"),
        TelemetryEvent("hit", {"by": "red"}, seq=2),
        b"hit",
        None,
        1,
    ],
)
def test_a_single_event_is_unequal_to_what_it_does_not_fit(other: Any) -> None:
    with record_events() as events:
        emit("hit", by="red")
    assert events[0] != other
    assert other != events[0]
    assert (events[0] == other) is False


def test_two_recorded_events_are_equal_only_in_all_fields() -> None:
    with record_events() as events:
        emit("hit")
        emit("hit")
    assert events[0] != events[1]
    assert events[0] == events[0]
    assert events[:1] != events[1:]
    with record_events() as others:
        emit("hit")
    assert others != events[:1]
    assert events[:1] != list(others)


def test_a_recorded_event_is_an_event_like_others() -> None:
    with record_events(session_id="match-1", version="1") as events:
        emit("hit", by="red")
    (event,) = events
    plain = TelemetryEvent.from_mapping(event.to_mapping())
    assert type(plain) is TelemetryEvent
    assert plain == event
    assert attrs.asdict(plain) == attrs.asdict(event)
    for same in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
        assert same == event
    assert attrs.evolve(event, seq=2) != event
    assert attrs.evolve(event, version=None) != event
    assert event != attrs.evolve(event, version=None)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.seq = 2  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(event)
    with record_events() as again:
        get_telemetry().push(event)
    assert again == [event]


def test_its_repr_shows_the_events() -> None:
    with record_events() as events:
        emit("hit", by="red")
    assert repr(events) == "<1 recorded events>\n  hit {'by': 'red'}"


def test_of_very_many_events_the_first_are_shown_and_the_rest_counted() -> None:
    with record_events() as events:
        for number in range(3000):
            emit("tick", n=number)
        emit("bad", at=object())
    first, *shown, rest = repr(events).splitlines()
    assert first == "<3000 recorded events>"
    assert shown == [f"  tick {{'n': {number}}}" for number in range(30)]
    assert rest == "  and 2970 more"
    assert events.summary().splitlines() == [
        *repr(events).splitlines(),
        "not recorded because they were invalid: 1; see the log",
    ]
    assert "more" not in repr(events[:30])


def test_control_characters_are_shown_escaped() -> None:
    with record_events() as events:
        emit("\x1b]0;gone\x07\u202e", by="\x1b[2J")
        emit("long", text="x" * 100_000)
    lines = events.summary().splitlines()
    assert lines[1] == r"  \u001b]0;gone\u0007\u202e {'by': '\x1b[2J'}"
    assert all(line.isprintable() and len(line) < 320 for line in lines)


def test_invalid_events_are_counted() -> None:
    with record_events() as events:
        emit("hit", at=object())
        emit("")  # type: ignore[arg-type]
    assert (len(events), events.stats().rejected, events.stats().emitted) == (0, 2, 0)


def test_a_game_that_stops_telemetry_is_still_recorded() -> None:
    with record_events() as events:
        emit("one")
        assert stop_telemetry()
        start_telemetry()
        emit("two")
        assert events.types() == ["one", "two"]


def test_a_recording_that_is_off_records_nothing() -> None:
    with record_events(enabled=False) as events:
        emit("hit")
        get_telemetry().enabled = True
        emit("hit")
        assert len(events) == 0


def test_a_telemetry_that_runs_is_left_alone() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(enabled=True, url=server.url)
        with record_events() as events:
            emit("recorded")
        emit("sent")
        assert telemetry.flush(5)
        assert [event["type"] for event in server.events] == ["sent"]
        assert events.types() == ["recorded"]


def test_a_recording_that_fills_up_starts_no_worker() -> None:
    with record_events(capacity=4) as events:
        for number in range(10):
            emit("many", i=number)
        assert [event.data["i"] for event in events] == [6, 7, 8, 9]
        assert get_telemetry().stats().state is ConnectionState.IDLE
        assert not [t for t in threading.enumerate() if t.name == "redvsblue-telemetry"]


def test_recordings_are_compared_with_lists_from_either_side() -> None:
    with record_events() as events:
        emit("hit", by="red")
        emit("miss")
    for same in (["hit", "miss"], ("hit", "miss"), ["hit", ("miss", {})], list(events), events):
        assert events == same
        assert same == events
    for other in (["hit"], ["miss", "hit"], ["hit", "miss", "miss"], [], "hit", b"hit", 3, None):
        assert events != other
        assert other != events
    assert "hit" in events
    assert ("hit", {"by": "blue"}) not in events
