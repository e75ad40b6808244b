"""Frames and hangs: what the worker makes of the ticks, with a clock of the test's own."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry._frames import Frame, Frames, frame_nothing

STEP = 0.0014  # how far a percentile may be from the exact one, as a share of it


class Game:
    """A game that calls ``frame`` and a worker that comes when it is asked to, in no time."""

    def __init__(self, *, interval: float = 10.0, hang_timeout: float | None = None) -> None:
        self.now = 1000.0
        self.wakes = 0
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.frame: Frame = frame_nothing
        self.frames = Frames(
            lambda type, data: self.events.append((type, data)),
            self._bind,
            self._wake,
            interval=interval,
            hang_timeout=hang_timeout,
            max_event_bytes=16384,
            clock=lambda: self.now,
        )
        self.frames.begin()

    def _bind(self, frame: Frame) -> None:
        self.frame = frame

    def _wake(self) -> None:
        self.wakes += 1

    def play(self, *lengths: float) -> None:
        """Play frames of these lengths; the first call only begins the first one."""
        self.frame()
        for length in lengths:
            self.now += length
            self.frame()

    def look(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Have the worker look; return the events that it has recorded since the last look."""
        self.frames.upkeep()
        events, self.events = self.events, []
        return events

    def wait(self, seconds: float) -> list[tuple[str, Mapping[str, Any]]]:
        """Let time pass, in which the worker comes on time; return its events."""
        events, ends = [], self.now + seconds
        while self.now < ends:
            events += self.look()
            self.now = min(self.now + 0.05, ends)
        return events + self.look()


def exact(lengths: Sequence[float], share: float) -> float:
    """The percentile by the nearest rank."""
    return sorted(lengths)[math.ceil(share * len(lengths)) - 1]


# Frames.


def test_an_interval_is_summed_up_in_one_event() -> None:
    game = Game(interval=1.0)
    lengths = [0.010] * 90 + [0.019] * 5 + [0.021] * 4 + [0.050]

    game.play(*lengths)
    [(type, data)] = game.look()

    assert type == "frames"
    assert data["seconds"] == pytest.approx(sum(lengths), abs=0.001)
    assert data["frames"] == 100
    assert data["p50Ms"] == pytest.approx(10, rel=STEP)
    assert data["p95Ms"] == pytest.approx(19, rel=STEP)
    assert data["p99Ms"] == pytest.approx(21, rel=STEP)
    assert data["maxMs"] == 50.0
    assert data["hitches"] == 5  # longer than 20 ms
    assert list(data) == ["seconds", "frames", "p50Ms", "p95Ms", "p99Ms", "maxMs", "hitches"]


def test_no_percentile_is_above_the_longest_frame() -> None:
    game = Game(interval=0.5)

    game.play(*[0.016] * 40)
    [(_, data)] = game.look()

    assert data["p50Ms"] == data["p99Ms"] == data["maxMs"] == 16.0


@given(st.lists(st.floats(0.0001, 2.0), min_size=1, max_size=300), st.integers(1, 40))
def test_percentiles_are_those_of_all_frames_however_often_the_worker_looks(
    lengths: list[float], between: int
) -> None:
    game = Game(interval=10_000.0)

    game.play()
    for number, length in enumerate(lengths):
        game.now += length
        game.frame()
        if number % between == 0:
            assert game.look() == []
    game.frames.finish(1.0)

    [(_, data)] = game.events
    assert data["frames"] == len(lengths)
    assert data["maxMs"] == pytest.approx(max(lengths) * 1000, abs=0.001)
    for name, share in (("p50Ms", 0.5), ("p95Ms", 0.95), ("p99Ms", 0.99)):
        assert data[name] == pytest.approx(exact(lengths, share) * 1000, rel=STEP, abs=0.001)


def test_percentiles_of_a_hundred_thousand_frames_take_no_more_memory() -> None:
    game = Game(interval=10_000.0)
    lengths = [0.002 + 0.00001 * (number * 7919 % 997) for number in range(100_000)]

    for begin in range(0, len(lengths), 10_000):
        game.play(*lengths[begin : begin + 10_000])
        game.look()
    kept = len(game.frames._lengths)
    game.frames.finish(1.0)

    [(_, data)] = game.events
    assert kept < 1000
    assert data["p99Ms"] == pytest.approx(exact(lengths, 0.99) * 1000, rel=2 * STEP)
    assert data["frames"] == len(lengths) + 9  # each `play` begins with one that took no time


def test_each_interval_counts_its_own_frames() -> None:
    game = Game(interval=1.0)

    game.play(*[0.25] * 4)
    [(_, first)] = game.look()
    game.play(*[0.5] * 2)
    [(_, second)] = game.look()

    assert (first["frames"], first["maxMs"]) == (4, 250.0)
    assert (second["frames"], second["maxMs"]) == (3, 500.0)  # `play` began with one of no time


def test_an_interval_without_frames_records_nothing() -> None:
    game = Game(interval=1.0)

    game.play(0.5, 0.5)
    assert [type for type, _ in game.wait(30.0)] == ["frames"]
    game.play()
    game.play()

    # The pause of half a minute is a frame, and a long one.
    [(_, data)] = game.wait(3.0)
    assert data["maxMs"] == pytest.approx(30_000, abs=1)


def test_more_than_a_minute_is_a_pause_and_not_a_frame() -> None:
    game = Game(interval=1.0)

    game.play(0.5, 0.5)
    game.wait(61.0)
    game.play(0.5, 0.5)

    [(_, data)] = game.wait(1.0)
    assert (data["frames"], data["maxMs"], data["seconds"]) == (2, 500.0, 1.0)


def test_one_call_alone_is_not_a_frame() -> None:
    game = Game(interval=1.0)

    game.play()

    assert game.wait(5.0) == []
    game.frames.finish(1.0)
    assert game.events == []


def test_the_rest_is_recorded_at_a_stop() -> None:
    game = Game()

    game.play(*[0.01] * 7)
    game.frames.finish(1.0)

    [(type, data)] = game.events
    assert (type, data["frames"]) == ("frames", 7)


def test_frames_that_the_worker_came_too_late_for_are_not_one_long_frame() -> None:
    game = Game(interval=10_000.0)

    game.play(*[0.001] * 40_000)
    game.frames.finish(1.0)

    [(_, data)] = game.events
    assert 16_000 < data["frames"] < 16_384
    assert data["maxMs"] == 1.0


def test_frames_longer_than_any_other_work_too() -> None:
    game = Game(interval=0.001)

    game.play(0.0, 1e-9, 60.0)
    [(_, data)] = game.look()

    assert (data["frames"], data["p50Ms"], data["maxMs"]) == (3, 0.0, 60_000.0)


# The life of `frame`.


def test_only_the_first_call_notes_the_thread_and_wakes_the_worker() -> None:
    game = Game(interval=1.0)
    game.frames.thread_id = None

    first = game.frame
    game.play(0.1, 0.1)

    assert game.frame is not first
    assert game.frames.thread_id == threading.get_ident()
    assert game.frames.runs_here
    assert game.wakes == 1
    game.wait(5.0)  # a pause: the next call is a first one again
    assert game.frame == first
    game.play(0.1)
    assert game.wakes == 2


@pytest.mark.parametrize("is_first", [True, False])
def test_a_frame_that_the_game_keeps_counts_as_well(is_first: bool) -> None:
    game = Game(interval=1.0)
    if not is_first:
        game.play()
    kept = game.frame
    events = []

    for _ in range(20):
        game.now += 0.1
        kept()
        events += game.look()
    game.frames.finish(1.0)

    assert sum(data["frames"] for _, data in events + game.events) == (19 if is_first else 20)


def test_off_means_that_nothing_is_kept() -> None:
    game = Game(interval=1.0)
    game.play(0.1)
    kept = game.frame

    game.frames.pause()
    assert game.frame is frame_nothing
    for _ in range(100_000):
        kept()
    assert game.wait(5.0) == []
    game.frames.finish(1.0)
    assert game.events == []
    game.frames.begin()
    game.play(0.1)
    game.frames.finish(1.0)

    [(_, data)] = game.events
    assert (data["frames"], data["maxMs"]) == (1, 100.0)


def test_after_the_end_frame_does_nothing() -> None:
    game = Game(interval=1.0)
    game.play(0.1)

    game.frames.end()
    game.frames.begin()
    game.play(0.1)

    assert game.frame is frame_nothing
    assert game.wait(5.0) == []
    assert game.frames.upkeep() is None


def test_an_emit_that_raises_is_survived() -> None:
    game = Game(interval=1.0)

    def strict(type: str, data: Mapping[str, Any]) -> None:
        raise ValueError

    game.frames._emit = strict
    game.play(1.0)

    assert game.look() == []
    assert game.frames.upkeep() is not None


# Hangs.


def hangs(events: list[tuple[str, Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    return [data for type, data in events if type == "hang"]


@pytest.mark.parametrize("timeout", [0.5, 2.0, 30.0])
def test_a_hang_is_recorded_once_at_its_time(timeout: float) -> None:
    game = Game(hang_timeout=timeout)

    game.play(0.016, 0.016)
    assert hangs(game.wait(timeout - 0.06)) == []
    [hang] = hangs(game.wait(20 * timeout))

    assert hang["seconds"] == pytest.approx(timeout, abs=0.06)
    # Here, the worker is on the same thread.
    assert any(line.startswith("tests/test_frames.py:") for line in hang["stack"][-5:])
    assert hang["stack"][-1].endswith("_watch_for_hang")
    game.play(0.016)
    assert len(hangs(game.wait(2 * timeout))) == 1


def test_frames_that_keep_coming_are_not_a_hang() -> None:
    game = Game(hang_timeout=0.5)

    for _ in range(40):
        game.play()
        assert hangs(game.wait(0.45)) == []


def test_no_hang_without_a_first_frame() -> None:
    game = Game(hang_timeout=0.5)

    assert game.wait(60.0) == []


@pytest.mark.parametrize("suspended", [0.3, 0.5, 0.6, 2.0, 3600.0])
def test_a_time_in_which_the_worker_did_not_run_either_is_not_a_hang(suspended: float) -> None:
    game = Game(hang_timeout=0.5)

    for after in (0.0, 0.05, 0.1, 0.15, 0.2):
        game.play()
        assert hangs(game.wait(after)) == []
        game.now += suspended
        assert hangs(game.wait(0.1)) == []
        game.play(0.016, 0.016)  # the worker hasn't seen these when the process is suspended
        game.now += suspended
        assert hangs(game.wait(0.1)) == []


def test_a_hang_after_a_suspension_is_recorded_with_its_own_time() -> None:
    game = Game(hang_timeout=1.0)

    game.play()
    game.wait(0.1)
    game.now += 3600.0
    [hang] = hangs(game.wait(5.0))

    assert 1.0 <= hang["seconds"] < 1.5


def test_a_thread_that_has_ended_hangs_no_more() -> None:
    game = Game(hang_timeout=0.5)
    thread = threading.Thread(target=game.play, args=(0.01, 0.01))
    thread.start()
    thread.join()

    assert hangs(game.wait(10.0)) == []


def test_the_stack_is_that_of_the_thread_that_calls_frame() -> None:
    game = Game(hang_timeout=0.5)
    has_begun, may_end = threading.Event(), threading.Event()

    def load_level() -> None:
        game.play(0.01)
        has_begun.set()
        may_end.wait(60)

    thread = threading.Thread(target=load_level)
    thread.start()
    has_begun.wait(60)
    try:
        [hang] = hangs(game.wait(1.0))
    finally:
        may_end.set()
        thread.join()

    functions = [line.rpartition(" in ")[2] for line in hang["stack"]]
    assert any(name.endswith("load_level") for name in functions)
    assert not any(
        name.endswith("test_the_stack_is_that_of_the_thread_that_calls_frame") for name in functions
    )
