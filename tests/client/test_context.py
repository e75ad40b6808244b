"""The context: who sets it, what it outlives, and what `before_send` makes of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from redvsblue_telemetry import (
    ConnectionState,
    InvalidEventError,
    Telemetry,
    TelemetryEvent,
    TelemetrySettings,
    start_telemetry,
)
from redvsblue_telemetry.testing import RecordingServer, record_events
from tests.client.test_fork import FORK, needs_fork
from tests.client.test_process import START, run
from tests.support.killed_games import NOWHERE, has_recovered, played
from tests.support.systems import needs_posix
from tests.support.wait import wait_until


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as server:
        yield server


def made(url: str, **settings: Any) -> Telemetry:
    return Telemetry(
        TelemetrySettings(enabled=True, url=url, backoff_base=0.02, backoff_max=0.1, **settings)
    )


def contexts(server: RecordingServer) -> dict[int, Any]:
    """The context of each event, by its number; each event counts once."""
    return {event["data"]["n"]: event.get("context") for event in server.events}


def test_events_have_it_on_the_wire_beside_their_data(server: RecordingServer) -> None:
    with made(server.url) as telemetry:
        telemetry.context(player="p-17", level=3)
        telemetry.emit("hit", n=1)
        telemetry.push({"type": "hit", "data": {"n": 2}})
        telemetry.context(level=4, player=None)
        telemetry.emit("hit", n=3)
        telemetry.context(self="me", type="boss")  # fields may have any name
        telemetry.emit("hit", n=4)
        assert telemetry.flush(20)
    assert contexts(server) == {
        1: {"player": "p-17", "level": 3},
        2: {"player": "p-17", "level": 3},
        3: {"level": 4},
        4: {"level": 4, "self": "me", "type": "boss"},
    }
    assert server.events[0].keys() == {
        *("sessionId", "id", "seq", "type", "context", "timestamp", "data")
    }


def test_it_may_be_set_before_the_start_and_while_the_player_is_silent(
    server: RecordingServer,
) -> None:
    telemetry = made(server.url)
    telemetry.context(level=1)
    with telemetry:
        telemetry.emit("hit", n=1)
        assert telemetry.flush(20)
        telemetry.enabled = False
        telemetry.context(level=2)
        telemetry.enabled = True
        telemetry.emit("hit", n=2)
        assert telemetry.flush(20)
    telemetry.context(level=3)
    assert contexts(server) == {1: {"level": 1}, 2: {"level": 2}}


def test_without_the_feature_flag_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = start_telemetry(enabled=False, strict=True)
    telemetry.context(level=object())
    assert not caplog.records
    assert telemetry._codec.prefixes.context.text is None


def test_a_wrong_field_is_one_warning_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with record_events() as events:
        telemetry = start_telemetry()
        telemetry.context(level=3)
        for _ in range(3):
            telemetry.context(level=4, player=object())
        telemetry.emit("hit")
    assert [event.context for event in events] == [{"level": 3}]
    assert events.stats().rejected == 0
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "context.player: can't be encoded: object has no form in JSON; the context is unchanged"
    )


def test_a_wrong_field_raises_if_strict() -> None:
    with record_events(strict=True):
        with pytest.raises(InvalidEventError, match=r"^context: is \d+ bytes long") as caught:
            start_telemetry().context(a="x" * 1000, b="x" * 1034)
        assert caught.value.path == "context"


def test_events_that_are_sent_again_have_the_context_that_they_had(
    server: RecordingServer,
) -> None:
    with made(server.url) as telemetry:
        for n in range(300):
            telemetry.context(level=n // 10)
            telemetry.emit("hit", n=n)
            if n % 60 == 30:
                assert telemetry.flush(20)
                server.disconnect()
        assert telemetry.flush(20)
        assert telemetry.stats().reconnects > 0
    assert contexts(server) == {n: {"level": n // 10} for n in range(300)}


def test_before_send_sees_it_and_may_change_it(server: RecordingServer) -> None:
    seen: dict[int, Any] = {}

    def before_send(event: TelemetryEvent) -> Any:
        n = event.data["n"]
        seen[n] = event.context
        return {
            1: event,
            2: attrs.evolve(event, context=None),  # as if built from its type and data
            3: {"type": "hit", "data": {"n": 3}},
            4: attrs.evolve(event, context={"level": 9}),
            5: attrs.evolve(event, context={}),
            6: attrs.evolve(event, context=None),
        }[n]

    with made(server.url, before_send=before_send, drain_interval=600) as telemetry:
        for n in range(1, 6):
            telemetry.context(level=n)
            telemetry.emit("hit", n=n)
        telemetry.context(level=None)
        telemetry.emit("hit", n=6)
        telemetry.context(level=7)  # in force when before_send is called
        assert telemetry.flush(20)
    assert seen == {**{n: {"level": n} for n in range(1, 6)}, 6: None}
    assert contexts(server) == {
        1: {"level": 1},
        2: {"level": 2},
        3: {"level": 3},
        4: {"level": 9},
        5: {},
        6: None,
    }


@needs_fork
def test_a_forked_child_inherits_it_and_changes_its_own() -> None:
    script = """
telemetry.emit("hit", n=1)
telemetry.context(player="p-17", level=3)
emit = telemetry.emit
def child():
    emit("hit", n=2)
    telemetry.context(level=4)
    emit("hit", n=3)
    return 0 if telemetry.stop(20) else 4
assert ended(forked(child)) == 0
emit("hit", n=4)
assert telemetry.flush(20)
"""
    with RecordingServer() as server:
        done = run(START + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert server.wait_for(4)
        assert contexts(server) == {
            1: None,
            2: {"player": "p-17", "level": 3},
            3: {"player": "p-17", "level": 4},
            4: {"player": "p-17", "level": 3},
        }


@needs_posix
def test_the_events_of_a_killed_run_keep_the_context_that_they_had(
    server: RecordingServer, tmp_path: Path
) -> None:
    script = """
for n in range(2000):
    if n % 7 == 0:
        telemetry.context(level=n // 7, where="][1,\\"t, {}", at=[n, {"x": n}])
    if n == 1000:
        telemetry.context(player="p-17")
    if n % 10:
        telemetry.emit(f"hit, {n % 3}" if n % 2 else "hit", n=n)
    elif n % 20:
        telemetry.push(TelemetryEvent("hit", {"n": n}, id=f"own {n}"))
    else:
        telemetry.push(TelemetryEvent("hit", {"n": n}, context={"own": [n, n]}))
die()
"""
    played(tmp_path, script)
    with made(server.url, journal=tmp_path) as telemetry:
        telemetry.context(player="p-18")
        assert has_recovered(telemetry, 2000)
        telemetry.emit("new", n=2000)
        assert telemetry.flush(20)
        assert telemetry.stats().recovered == 2000
    found = contexts(server)
    assert found.pop(2000) == {"player": "p-18"}
    assert list(found) == list(range(2000))
    for n, context in found.items():
        first = n - n % 7
        expected: Any = {"level": n // 7, "where": '][1,"t, {}', "at": [first, {"x": first}]}
        if n >= 1000:
            expected["player"] = "p-17"
        assert context == ({"own": [n, n]} if n % 20 == 0 else expected), n


@needs_posix
def test_a_recovered_event_keeps_its_context_in_before_send(
    server: RecordingServer, tmp_path: Path
) -> None:
    script = """
telemetry.emit("hit", n=1)
telemetry.context(level=3)
telemetry.emit("hit", n=2)
die()
"""
    played(tmp_path, script)

    def before_send(event: TelemetryEvent) -> TelemetryEvent:
        return TelemetryEvent(event.type, event.data)

    with made(server.url, journal=tmp_path, before_send=before_send) as telemetry:
        telemetry.context(level=9)
        assert has_recovered(telemetry, 2)
    assert contexts(server) == {1: None, 2: {"level": 3}}


def test_what_a_stop_leaves_keeps_its_context(server: RecordingServer, tmp_path: Path) -> None:
    with made(NOWHERE, journal=tmp_path) as telemetry:
        telemetry.context(level=3)
        telemetry.emit("hit", n=1)
        telemetry.stop(0)
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.STOPPED)
    with made(server.url, journal=tmp_path) as telemetry:
        assert has_recovered(telemetry, 1)
    assert contexts(server) == {1: {"level": 3}}


def test_a_recording_shows_it_and_compares_it() -> None:
    with record_events() as events:
        telemetry = start_telemetry()
        telemetry.context(level=3)
        telemetry.emit("hit", by="red")
    assert events == ["hit"]
    assert events == [("hit", {"by": "red"})]
    assert events == [TelemetryEvent("hit", {"by": "red"})]
    assert events == [TelemetryEvent("hit", {"by": "red"}, context={"level": 3})]
    assert events != [TelemetryEvent("hit", {"by": "red"}, context={"level": 4})]
    assert events[0].context == {"level": 3}
    assert events[0].to_mapping()["context"] == {"level": 3}
    assert "context={'level': 3}" in repr(events[0])
    with pytest.raises(AssertionError, match=r"context is \{'level': 3\}, not \{'level': 4\}"):
        assert events == [TelemetryEvent("hit", {"by": "red"}, context={"level": 4})]
