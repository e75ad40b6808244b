"""Work between the groups takes turns, and a share of the time while messages always wait."""

from __future__ import annotations

import sqlite3

from redvsblue_telemetry.collector.storage.upkeep import Pace, Upkeep, UpkeepSchedule


class Work(Upkeep):
    """Work with some steps to do, each of which takes some milliseconds."""

    def __init__(self, name: str, steps: int, log: list[str]) -> None:
        self.name = name
        self.steps = steps
        self.log = log

    def step(self, connection: sqlite3.Connection) -> bool:
        self.log.append(self.name)
        self.steps -= 1
        return self.steps > 0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(step: object) -> bool:
    clock.now += 0.004
    return step(None)  # type: ignore[operator]


clock = Clock()


def test_kinds_take_turns_and_are_looked_for_again_after_a_second() -> None:
    log: list[str] = []
    a, b = Work("a", 3, log), Work("b", 1, log)
    schedule = UpkeepSchedule([a, b], clock)
    assert schedule.delay == 0.0
    finished = [schedule.step(run) for _ in range(4)]
    assert (log, finished) == (["a", "b", "a", "a"], [None, b, None, a])
    assert 0.9 < (schedule.delay or 0) <= 1.0
    assert not schedule.is_due_under_load
    clock.now += 1.0
    assert schedule.is_due_under_load
    schedule.step(run)
    assert log[4:] == ["a"]


def test_kind_is_looked_for_although_another_never_ends() -> None:
    log: list[str] = []
    schedule = UpkeepSchedule([Work("endless", 10**9, log), Work("rare", 1, log)], clock)
    for _ in range(1000):
        schedule.step(run)
    assert 3 <= log.count("rare") <= 6


def test_urgent_work_goes_first_and_gets_more_of_the_time() -> None:
    log: list[str] = []
    other, urgent = Work("other", 100, log), Work("urgent", 3, log)
    schedule = UpkeepSchedule([other, urgent], clock)
    schedule.step(run)
    clock.now += 0.030
    assert not schedule.is_due_under_load  # a tenth of the time
    urgent.is_urgent = True
    assert schedule.is_due_under_load
    for _ in range(3):
        schedule.step(run)
    assert log == ["other", "urgent", "urgent", "urgent"]


def test_work_that_is_added_is_done_once() -> None:
    log: list[str] = []
    schedule = UpkeepSchedule([], clock)
    assert schedule.delay is None
    work = Work("errand", 2, log)
    schedule.add(work)
    assert schedule.delay == 0.0
    assert [schedule.step(run), schedule.step(run)] == [None, work]
    assert schedule.delay is None


def test_pace_is_learned() -> None:
    pace = Pace(most=100)
    for _ in range(10):
        pace.learn(0.0001)
    assert pace.rows == 100
    pace.learn(0.008)
    assert 30 <= pace.rows <= 40
    for _ in range(50):
        pace.learn(1.0)
    assert pace.rows == 1
