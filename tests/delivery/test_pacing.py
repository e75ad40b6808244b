"""How the worker and the game take turns."""

from __future__ import annotations

import threading

import pytest

from redvsblue_telemetry._delivery import pacing
from redvsblue_telemetry._delivery.pacing import TimeSlice
from redvsblue_telemetry._shared import monotonic

TURN = 100e-6  # seconds


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pauses that were made; none takes any time."""
    made: list[str] = []
    monkeypatch.setattr(pacing, "rest", lambda: made.append("a pause"))
    return made


@pytest.mark.parametrize(
    ("fullness", "times"), [(0.0, 1.0), (0.9, 1.0), (2.5, 2.5), (8.0, 4.0)], ids=repr
)
def test_a_turn_is_longer_the_fuller_the_store_is(fullness: float, times: float) -> None:
    clock = Clock()
    turn = TimeSlice(clock)
    turn.begin(fullness)
    clock.now += 0.99 * times * TURN
    assert not turn.is_over
    clock.now += 0.02 * times * TURN
    assert turn.is_over


def test_the_clock_shows_the_end_of_a_turn() -> None:
    """With the worker's clock. That of Windows has steps of 15.6 ms."""

    def step() -> float:
        began = monotonic()
        while (now := monotonic()) == began:
            pass
        return now - began

    # One of many, since the system may run another thread meanwhile.
    assert min(step() for _ in range(100)) < TURN / 10


def test_after_a_short_write_the_worker_pauses(pauses: list[str]) -> None:
    written: list[str] = []
    TimeSlice(Clock()).yield_gil(lambda: written.append("all"))
    assert written == ["all"]
    assert len(pauses) == 1


def test_after_a_write_in_which_the_game_had_its_turn_it_does_not(pauses: list[str]) -> None:
    clock = Clock()

    def write() -> None:
        clock.now += 0.005

    TimeSlice(clock).yield_gil(write)
    assert pauses == []


def test_a_game_that_never_rests_gets_the_interpreter_back() -> None:
    """With real threads. Without the pause, 1,000 turns are over before the game moves on."""
    looks = 0
    is_over = False

    def game() -> None:
        nonlocal looks
        while not is_over:
            looks += 1

    thread = threading.Thread(target=game)
    thread.start()
    try:
        turn = TimeSlice(Clock())
        moved = turns = 0
        # Not in every turn: where all processors are busy, the game's thread may not get one.
        while moved < 10 and turns < 1000:
            before = looks
            turn.yield_gil(lambda: None)
            moved += looks > before
            turns += 1
    finally:
        is_over = True
        thread.join()
    assert moved == 10
