"""The log of the connection: each change of its state, but no flood of them."""

from __future__ import annotations

import logging

import pytest

from redvsblue_telemetry._delivery.log import LINES_AT_ONCE, LINES_PER_SECOND, ConnectionLog
from redvsblue_telemetry._shared import TokenBucket


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock, caplog: pytest.LogCaptureFixture) -> ConnectionLog:
    caplog.set_level(logging.INFO, "redvsblue_telemetry")
    return ConnectionLog(clock)


def connected(log: ConnectionLog) -> None:
    log.report(logging.INFO, "connected to %s", "there")


def lost(log: ConnectionLog, reason: str = "refused") -> None:
    log.report(logging.WARNING, "not connected: %s", reason)


def test_each_change_is_told_with_its_level(
    log: ConnectionLog, caplog: pytest.LogCaptureFixture
) -> None:
    connected(log)
    lost(log)
    lost(log, "reset")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "connected to there"),
        ("WARNING", "not connected: refused"),
        ("WARNING", "not connected: reset"),
    ]


def test_what_has_not_changed_is_not_told_again(
    log: ConnectionLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        lost(log)
        clock.now += 100
    assert caplog.messages == ["not connected: refused"]


def test_after_the_first_changes_a_line_a_minute_is_all(
    log: ConnectionLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        connected(log)
        lost(log)
        clock.now += 0.6
    assert 8 + 9 <= len(caplog.messages) <= 8 + 10


def test_what_could_not_be_told_is_told_later_if_it_still_holds(
    log: ConnectionLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        connected(log)
        lost(log)
    connected(log)  # one too many
    assert caplog.messages[-1] == "not connected: refused"
    log.catch_up()
    assert len(caplog.messages) == 8
    clock.now += 61
    log.catch_up()
    assert caplog.messages[8:] == ["connected to there"]
    log.catch_up()
    assert len(caplog.messages) == 9


def test_what_holds_no_more_is_never_told(
    log: ConnectionLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        connected(log)
        lost(log)
    connected(log)
    lost(log)
    clock.now += 61
    log.catch_up()
    assert len(caplog.messages) == 8


def test_an_allowance_never_grows_beyond_a_burst(clock: Clock) -> None:
    allowance = TokenBucket(LINES_PER_SECOND, LINES_AT_ONCE, clock)
    clock.now += 1e6
    assert [allowance.take() for _ in range(9)] == [True] * 8 + [False]


def test_an_allowance_knows_when_it_has_one_again(clock: Clock) -> None:
    allowance = TokenBucket(0.5, 2, clock)
    assert allowance.delay == 0
    assert allowance.take()
    assert allowance.delay == 0
    assert allowance.take()
    assert allowance.delay == 2
    clock.now += 1.5
    assert allowance.delay == 0.5
    assert not allowance.take()
    clock.now += 0.5
    assert allowance.delay == 0
    assert allowance.take()
