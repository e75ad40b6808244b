"""Lines that strangers can cause do not fill the log."""

from __future__ import annotations

import logging
import threading

import pytest

from redvsblue_telemetry.collector.loglimit import LogLimit

LOGGER = logging.getLogger("redvsblue_telemetry.collector.test")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> LogLimit:
    return LogLimit(LOGGER, clock)


def test_first_line_of_a_kind_is_logged_with_the_address(
    limit: LogLimit, caplog: pytest.LogCaptureFixture
) -> None:
    limit.warn("token", ("203.0.113.5", 4711), "wrong token for %s", "/api")
    limit.warn("host", None, "unknown host")
    assert caplog.messages == [
        "wrong token for /api; from 203.0.113.5",
        "unknown host",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_others_within_a_minute_are_counted_in_the_next_line(
    limit: LogLimit, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(18):
        limit.warn("token", ("203.0.113.5", 1), "wrong token")
        clock.now += 3.3
    assert caplog.messages == ["wrong token; from 203.0.113.5"]
    clock.now += 0.7
    for _ in range(2):
        limit.warn("token", ("203.0.113.6", 1), "wrong token")
    assert caplog.messages[1:] == [
        "wrong token; from 203.0.113.6; 17 more since the last such line"
    ]
    clock.now += 60
    limit.warn("token", ("203.0.113.7", 1), "wrong token")
    assert caplog.messages[2:] == ["wrong token; from 203.0.113.7; 1 more since the last such line"]
    clock.now += 60
    limit.warn("token", ("203.0.113.7", 1), "wrong token")
    assert caplog.messages[3:] == ["wrong token; from 203.0.113.7"]


def test_threads_log_one_line(limit: LogLimit, caplog: pytest.LogCaptureFixture) -> None:
    def warn() -> None:
        for _ in range(250):
            limit.warn("token", ("203.0.113.5", 1), "wrong token")

    threads = [threading.Thread(target=warn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.messages) == 1
    assert limit._left_out == {"token": 999}
