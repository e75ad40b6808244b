"""The numbers that will not come: exact while they are few, bounded however many there are."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry._delivery.gaps import Gap, GapLog


def log_of(*gaps: Gap, most: int = 1000) -> GapLog:
    log = GapLog(most)
    for gap in gaps:
        log.add(*gap)
    return log


def reason_of(number: int, runs: list[Gap]) -> str | None:
    return next((reason for first, last, reason in runs if first <= number <= last), None)


def test_a_log_without_gaps_is_empty() -> None:
    assert log_of().runs() == []
    assert log_of().counts == {}


def test_runs_that_touch_become_one() -> None:
    log = log_of((1, 2, "overflow"), (3, 3, "overflow"), (4, 9, "overflow"))
    assert log.runs() == [(1, 9, "overflow")]
    assert log.counts == {"overflow": 9}


def test_runs_of_different_reasons_stay_apart() -> None:
    log = log_of((1, 2, "overflow"), (3, 3, "filtered"), (4, 4, "overflow"))
    assert log.runs() == [(1, 2, "overflow"), (3, 3, "filtered"), (4, 4, "overflow")]


def test_what_is_dropped_late_comes_before_what_was_dropped_early() -> None:
    log = log_of((10, 12, "overflow"), (3, 3, "refused"), (9, 9, "overflow"), (5, 5, "refused"))
    assert log.runs() == [(3, 3, "refused"), (5, 5, "refused"), (9, 12, "overflow")]


def test_a_number_between_two_runs_joins_them() -> None:
    assert log_of((1, 1, "x"), (3, 3, "x"), (2, 2, "x")).runs() == [(1, 3, "x")]


def test_numbers_become_runs() -> None:
    log = GapLog()
    log.add_each([1, 2, 3, 7, 9, 10], "filtered")
    log.add_each(range(20, 30), "refused")
    log.add_each(range(0), "refused")
    log.add_each([], "refused")
    assert log.runs() == [
        (1, 3, "filtered"),
        (7, 7, "filtered"),
        (9, 10, "filtered"),
        (20, 29, "refused"),
    ]
    assert log.counts == {"filtered": 6, "refused": 10}


def test_each_addition_is_a_change() -> None:
    log = log_of((1, 1, "x"))
    before = log.changes
    log.add(2, 2, "x")
    assert log.changes == before + 1


def test_too_many_runs_of_one_reason_merge_across_what_came_the_oldest_first() -> None:
    log = GapLog(most=10)
    log.add_each(range(2, 42, 2), "filtered")  # 20 runs of one
    runs = log.runs()
    assert len(runs) == 10
    assert runs[0] == (2, 22, "filtered")
    assert runs[1:] == [(number, number, "filtered") for number in range(24, 42, 2)]
    assert log.counts == {"filtered": 20}


def test_a_merged_run_never_crosses_one_of_another_reason() -> None:
    log = log_of((1, 1, "a"), (3, 3, "b"), (5, 5, "a"), (7, 7, "a"), (9, 9, "a"), most=4)
    assert log.runs() == [(1, 1, "a"), (3, 3, "b"), (5, 7, "a"), (9, 9, "a")]


def test_if_that_is_not_enough_the_oldest_are_forgotten() -> None:
    log = GapLog(most=4)
    for number in range(1, 21):
        log.add(2 * number, 2 * number, "ab"[number % 2])
    assert log.runs() == [(34, 34, "b"), (36, 36, "a"), (38, 38, "b"), (40, 40, "a")]
    assert log.counts == {"a": 10, "b": 10}


def test_a_run_within_a_merged_one_cuts_it() -> None:
    log = GapLog(most=2)
    log.add_each([2, 4, 6, 8, 10], "filtered")
    assert log.runs() == [(2, 8, "filtered"), (10, 10, "filtered")]
    log = GapLog(most=4)
    log.add_each(range(2, 22, 2), "filtered")
    assert log.runs()[0] == (2, 14, "filtered")
    log.add(5, 5, "refused")
    assert reason_of(5, log.runs()) == "refused"
    assert reason_of(6, log.runs()) == "filtered"


fates = st.lists(st.sampled_from(["came", "overflow", "filtered", "refused"]), max_size=60)


@given(fates=fates, order=st.randoms(use_true_random=False), most=st.integers(1, 80))
def test_each_number_is_explained_by_its_own_reason_in_any_order(
    fates: list[str], order: object, most: int
) -> None:
    gone = [(number, fate) for number, fate in enumerate(fates, 1) if fate != "came"]
    order.shuffle(gone)  # type: ignore[attr-defined]
    log = GapLog(most)
    for number, fate in gone:
        log.add(number, number, fate)
        assert len(log.runs()) <= most
    runs = log.runs()
    assert runs == sorted(runs)
    assert all(first <= last for first, last, _ in runs)
    assert all(before[1] < after[0] for before, after in zip(runs, runs[1:], strict=False))
    forgotten = [number for number, _ in gone if reason_of(number, runs) is None]
    explained = {number for number, fate in gone if reason_of(number, runs) == fate}
    assert len(explained) + len(forgotten) == len(gone)
    assert not forgotten or max(forgotten) < runs[0][0]
    assert sum(log.counts.values()) == len(gone)
    if len(gone) <= most:
        assert not forgotten
        came = [number for number, fate in enumerate(fates, 1) if fate == "came"]
        assert not any(reason_of(number, runs) for number in came)


@pytest.mark.parametrize("reasons", ["f", "fr", "frx"])
def test_a_hundred_thousand_gaps_are_quick_and_few(reasons: str) -> None:
    log = GapLog()
    since = time.perf_counter()
    for number in range(1, 200_000, 2):
        log.add(number, number, reasons[number // 2 % len(reasons)])
    took = time.perf_counter() - since
    assert len(log.runs()) <= 1000
    assert sum(log.counts.values()) == 100_000
    assert took < 5  # quadratic work would take minutes
