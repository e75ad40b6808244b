"""The phases of a client's life: the table, and calls that interrupt one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest

from redvsblue_telemetry import ConnectionState, Telemetry, TelemetrySettings
from redvsblue_telemetry._delivery.worker import TelemetryConnector
from redvsblue_telemetry._lifecycle import TRANSITIONS, Lifecycle, Phase
from redvsblue_telemetry.testing import RecordingServer
from tests.support.wait import wait_until

RECORDING = {Phase.RUNNING, Phase.FORKED, Phase.RESTARTING}


def life_in(phase: Phase) -> Lifecycle:
    """Return a life that has gone through allowed transitions to a phase."""
    if phase is Phase.OFF:
        return Lifecycle(is_enabled=False)
    paths: dict[Phase, list[Phase]] = {Phase.NEW: []}
    while phase not in paths:
        for before, path in list(paths.items()):
            for after in TRANSITIONS[before]:
                paths.setdefault(after, [*path, after])
    life = Lifecycle(is_enabled=True)
    for step in paths[phase]:
        assert life.enter(step)
    return life


@pytest.mark.parametrize(("before", "after"), list(product(Phase, Phase)))
def test_only_the_transitions_of_the_table_are_made(before: Phase, after: Phase) -> None:
    life = life_in(before)
    is_allowed = after in TRANSITIONS[before]
    assert life.enter(after) is (is_allowed or after is before)
    assert life.phase is (after if is_allowed else before)
    assert life.recording.on is (life.phase in RECORDING)
    assert life.is_running is (life.phase not in (Phase.OFF, Phase.STOPPED))


@pytest.mark.parametrize("phase", list(Phase))
def test_in_a_forked_child_there_is_no_worker_and_no_start_under_way(phase: Phase) -> None:
    life = life_in(phase)
    lock = life.lock
    life.after_fork_in_child()
    assert life.lock is not lock
    in_child = {
        Phase.STARTING: Phase.NEW,
        Phase.RUNNING: Phase.FORKED,
        Phase.RESTARTING: Phase.FORKED,
    }
    assert life.phase is in_child.get(phase, phase)
    assert life.recording.on is (life.phase in RECORDING)


@contextmanager
def interrupted_start(monkeypatch: pytest.MonkeyPatch, handler: Callable[[], Any]) -> Iterator[Any]:
    """Call a handler once while a worker is being started, as a signal handler could be."""
    start, calls = TelemetryConnector.start, [handler]

    def interrupted(connector: TelemetryConnector) -> None:
        start(connector)
        if calls:
            calls.pop()()

    with RecordingServer() as server, monkeypatch.context() as patch:
        patch.setattr(TelemetryConnector, "start", interrupted)
        yield server


def test_a_stop_during_the_start_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with interrupted_start(monkeypatch, lambda: telemetry.stop()) as server:  # noqa: PLW0108
        telemetry = Telemetry(TelemetrySettings(enabled=True, url=server.url))
        telemetry.start()
        assert not telemetry.is_running
        assert not telemetry.enabled
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.STOPPED)


def test_the_toggle_during_the_start_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    with interrupted_start(monkeypatch, lambda: setattr(telemetry, "enabled", False)) as server:
        telemetry = Telemetry(TelemetrySettings(enabled=True, url=server.url))
        telemetry.start()
        assert not telemetry.enabled
        telemetry.emit("never")
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.IDLE)
        telemetry.enabled = True
        telemetry.emit("recorded")
        assert telemetry.flush(5)
        assert [event["type"] for event in server.events] == ["recorded"]
        assert telemetry.stop()


def test_a_start_during_the_start_starts_no_second_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with interrupted_start(monkeypatch, lambda: telemetry.start()) as server:  # noqa: PLW0108
        telemetry = Telemetry(TelemetrySettings(enabled=True, url=server.url))
        telemetry.start()
        telemetry.emit("hit")
        assert telemetry.flush(5)
        assert len(server.requests) == 1
        assert telemetry.stop()


def test_after_a_start_that_failed_it_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("can't start new thread")

    with RecordingServer() as server:
        telemetry = Telemetry(TelemetrySettings(enabled=True, url=server.url))
        with monkeypatch.context() as patch:
            patch.setattr(TelemetryConnector, "start", lambda _: fail())
            with pytest.raises(RuntimeError):
                telemetry.start()
        assert not telemetry.enabled
        assert telemetry.is_running
        telemetry.start().emit("hit")
        assert telemetry.stop(5)
        assert server.wait_for(1)
