"""Sampling and rate limits: what is kept, and the exact count of what is not."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from redvsblue_telemetry import TelemetryEvent, start_telemetry
from redvsblue_telemetry._recording.sampling import Sampling
from redvsblue_telemetry.testing import RecordingServer, record_events
from tests.client.test_fork import FORK, needs_fork
from tests.client.test_process import START, run


@pytest.fixture
def switches() -> Iterator[None]:
    """Threads that take turns far more often than usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def begun(sampling: Sampling, session_id: str = "session") -> Sampling:
    sampling.begin(session_id)
    return sampling


def kept(sampling: Sampling, type: str, count: int) -> list[int]:
    return [number for number in range(count) if not sampling.leaves_out(type)]


def test_a_share_is_kept_and_the_rest_is_counted() -> None:
    sampling = begun(Sampling({"shot": 0.1, "all": 1, "none": 0}, {}))
    count = len(kept(sampling, "shot", 20_000))
    assert 1800 < count < 2200
    assert len(kept(sampling, "all", 1000)) == 1000
    assert len(kept(sampling, "none", 1000)) == 0
    assert len(kept(sampling, "other", 1000)) == 1000
    assert sampling.counts() == {"shot": 20_000 - count, "none": 1000}


def test_the_same_events_are_kept_for_the_same_session() -> None:
    found = []
    for session_id, seed in (("a", 1), ("a", 2), ("b", 1)):
        random.seed(seed)
        expected = random.Random(seed).random()
        sampling = begun(Sampling({"shot": 0.5, "hit": 0.5}, {}), session_id)
        found.append(kept(sampling, "shot", 100))
        assert found[-1] != kept(sampling, "hit", 100)
        assert random.random() == expected  # the game's own are not touched
    assert found[0] == found[1] != found[2]


def test_so_many_are_kept_in_each_second() -> None:
    clock = Clock()
    sampling = begun(Sampling({}, {"spark": 3}, clock))
    for clock.now, count in ((100.0, 3), (100.99, 0), (101.0, 3), (250.5, 3), (250.6, 0)):
        assert len(kept(sampling, "spark", 5)) == count
    clock.now = 250.1  # a thread that was interrupted after it had read the clock
    assert kept(sampling, "spark", 5) == []
    assert sampling.counts() == {"spark": 30 - 9}


def test_the_limit_counts_what_sampling_has_kept() -> None:
    sampling = begun(Sampling({"spark": 0.5}, {"spark": 10}, Clock()))
    assert len(kept(sampling, "spark", 1000)) == 10
    assert kept(begun(Sampling({"spark": 0.5}, {}, Clock())), "spark", 1000)[9] > 10


@pytest.mark.usefixtures("switches")
def test_threads_keep_no_more_than_the_limit_and_count_exactly() -> None:
    clock, threads, each, limit = Clock(), 4, 20_000, 50
    sampling = begun(Sampling({}, {"spark": limit}, clock))
    found: list[int] = []  # how many each thread has kept

    def play() -> None:
        count = 0
        for number in range(each):
            if number % 100 == 0:
                clock.now += 0.25
            count += not sampling.leaves_out("spark")
        found.append(count)

    players = [threading.Thread(target=play) for _ in range(threads)]
    for player in players:
        player.start()
    for player in players:
        player.join(60)
    assert sampling.counts()["spark"] + sum(found) == threads * each
    assert limit <= sum(found) <= limit * (int(clock.now) - 100 + 1)


@pytest.mark.usefixtures("switches")
def test_threads_that_begin_a_second_together_share_its_limit() -> None:
    threads, seconds = 4, 200
    clock = Clock()
    sampling = begun(Sampling({}, {"spark": 2}, clock))
    found: list[int] = []

    def tick() -> None:
        clock.now += 1

    barrier = threading.Barrier(threads, tick)

    def play() -> None:
        for _ in range(seconds):
            barrier.wait(20)
            found.append(len(kept(sampling, "spark", 3)))
            barrier.wait(20)

    players = [threading.Thread(target=play) for _ in range(threads)]
    for player in players:
        player.start()
    for player in players:
        player.join(60)
    # The clock stands while the threads emit, and the barrier ticks twice for each time they do.
    assert sum(found) == 2 * seconds
    assert sampling.counts() == {"spark": (3 * threads - 2) * seconds}


def test_a_new_session_counts_from_zero() -> None:
    sampling = begun(Sampling({"shot": 0}, {}))
    kept(sampling, "shot", 5)
    sampling.begin("child")
    assert sampling.counts() == {}


# Through the client.


def test_events_left_out_take_no_number_and_are_in_no_other_count() -> None:
    with record_events(sample={"shot": 0.1}, rate_limits={"spark": 1000}) as events:
        telemetry = start_telemetry()
        for number in range(500):
            telemetry.emit("shot", n=number)
            telemetry.push({"type": "shot", "data": {"n": number}})
            telemetry.push(TelemetryEvent("shot", {"n": number}))
            telemetry.emit("hit", n=number)
            telemetry.emit("spark", n=number)
    shots = len(events.of_type("shot"))
    stats = events.stats()
    assert 100 < shots < 200
    assert stats.sampled == {"shot": 1500 - shots}
    assert (stats.emitted, stats.dropped, stats.rejected) == (shots + 1000, 0, 0)
    assert [event.seq for event in events] == list(range(1, shots + 1001))
    assert events.of_type("hit").types() == ["hit"] * 500
    assert len(events.of_type("spark")) == 500


def test_a_pushed_event_is_checked_as_without_sampling() -> None:
    wrong: list[Any] = [7, {"type": ["shot"]}, {"type": 7}, {}, TelemetryEvent(7)]  # type: ignore[arg-type]
    with record_events(sample={"shot": 0}) as events:
        telemetry = start_telemetry()
        for event in wrong:
            telemetry.push(event)
        telemetry.emit(["shot"])  # type: ignore[arg-type]
    assert events.stats().rejected == len(wrong) + 1
    assert events.stats().sampled == {}


def test_a_kept_event_has_the_context_in_force() -> None:
    with record_events(sample={"shot": 0.5}) as events:
        telemetry = start_telemetry()
        for number in range(50):
            telemetry.context(level=number)
            telemetry.emit("shot", n=number)
    assert len(events) > 5
    for event in events:
        assert event.context == {"level": event.data["n"]}


def test_sampled_types_are_the_only_ones_that_take_the_slow_way() -> None:
    with record_events(sample={"shot": 1}, rate_limits={"spark": 10}):
        telemetry = start_telemetry()
        for name in ("shot", "spark", "hit"):
            telemetry.emit(name)
        assert list(telemetry._codec.prefixes.quick) == ["hit"]
        telemetry.context(level=1)
        assert list(telemetry._codec.prefixes.quick) == ["hit"]
        assert list(telemetry._codec.prefixes.kinds) == ["hit"]


@needs_fork
def test_a_forked_child_counts_from_zero() -> None:
    script = """
telemetry.stop()
telemetry = start_telemetry(enabled=True, url=sys.argv[1], sample={"shot": 0})
for _ in range(5):
    telemetry.emit("shot")
def child():
    before = dict(telemetry.stats().sampled)
    telemetry.emit("shot")
    telemetry.emit("end")
    after = dict(telemetry.stats().sampled)
    return 0 if telemetry.stop(20) and (before, after) == ({}, {"shot": 1}) else 4
assert ended(forked(child)) == 0
assert telemetry.stats().sampled == {"shot": 5}
"""
    with RecordingServer() as server:
        done = run(START + FORK + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert [event["type"] for event in server.events] == ["end"]
