"""Why numbers are missing, compared with an account of each number alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry._report import MAX_GAPS, Report
from redvsblue_telemetry.collector.models import Loss
from redvsblue_telemetry.collector.storage.losses import Losses, count_losses, describe_losses

Runs = list[tuple[int, int]]


def report(*gaps: tuple[int, int, str], **fields: Any) -> Report:
    fields = {"session_id": "s", "number": 1, "state": "ended", "last_seq": 100} | fields
    return Report(gaps=list(gaps), **fields)


def runs_of(numbers: Iterable[int]) -> Runs:
    runs: Runs = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def cause_of_each(missing: Runs, report: Report | None, lost: dict[str, int]) -> dict[int, str]:
    return {
        number: loss.cause
        for loss in describe_losses(missing, report, lost)
        for number in range(loss.first, loss.last + 1)
    }


def test_only_missing_numbers_of_a_run_are_lost() -> None:
    overflow = report((10, 20, "overflow"))
    assert count_losses([(8, 12), (19, 25)], overflow).lost == {"overflow": 5, "unexplained": 7}
    assert list(describe_losses([(8, 12), (19, 25)], overflow, {"unexplained": 7})) == [
        Loss(8, 9, "unexplained"),
        Loss(10, 12, "overflow"),
        Loss(19, 20, "overflow"),
        Loss(21, 25, "unexplained"),
    ]


def test_newest_that_are_not_explained_wait_while_the_client_has_some() -> None:
    ended = report((40, 49, "filtered"), buffered=12)
    losses = count_losses([(30, 49), (91, 100)], ended)
    assert losses == Losses({"filtered": 10, "unexplained": 8}, 12)
    assert list(describe_losses([(30, 49), (91, 100)], ended, losses.lost)) == [
        Loss(30, 37, "unexplained"),
        Loss(38, 39, "waiting"),
        Loss(40, 49, "filtered"),
        Loss(91, 100, "waiting"),
    ]


def test_numbers_beyond_the_report_of_a_running_session_wait_for_the_next_one() -> None:
    running = report(state="running", last_seq=50)
    assert count_losses([(49, 52)], running) == Losses({"unexplained": 2}, 2)
    assert count_losses([(49, 52)], report(last_seq=50)) == Losses({"unexplained": 4}, 0)


def test_without_a_report_nothing_is_explained() -> None:
    assert list(describe_losses([(2, 4)], None, {"unexplained": 3})) == [Loss(2, 4, "unexplained")]


def test_totals_of_a_full_report_explain_what_is_before_its_first_run() -> None:
    gaps = [(1000 + 2 * n, 1000 + 2 * n, "overflow") for n in range(MAX_GAPS)]
    full = report(*gaps, last_seq=5000, dropped={"overflow": MAX_GAPS + 3})
    missing = [(7, 11), *((first, last) for first, last, _ in gaps)]

    losses = count_losses(missing, full)

    assert losses == Losses({"overflow": MAX_GAPS, "dropped": 3, "unexplained": 2}, 0)
    assert list(describe_losses(missing, full, losses.lost))[:3] == [
        Loss(7, 9, "dropped"),
        Loss(10, 11, "unexplained"),
        Loss(1000, 1000, "overflow"),
    ]
    # A client sends fewer runs if the report would be larger than its limit.
    short = report(*gaps[-10:], last_seq=5000, dropped={"overflow": 13})
    assert count_losses([(7, 11)], short) == Losses({"dropped": 5}, 0)
    whole = report(*gaps[-10:], last_seq=5000, dropped={"overflow": 10})
    assert count_losses([(7, 11)], whole) == Losses({"unexplained": 5}, 0)


def test_runs_that_overlap_or_are_turned_around_count_once() -> None:
    absurd = report((5, 8, "overflow"), (1, 6, "refused"), (9, 3, "filtered"), (0, 0, "expired"))
    assert count_losses([(1, 10)], absurd).lost == {"refused": 6, "overflow": 2, "unexplained": 2}


@pytest.mark.parametrize("word", ["waiting", "unexplained", "dropped"])
def test_words_of_the_collector_are_not_reasons(word: str) -> None:
    assert count_losses([(1, 4)], report((1, 4, word))).lost == {"unexplained": 4}


def test_causes_of_one_session_are_few() -> None:
    gaps = [(n, n, f"cause {n}") for n in range(1, 101)]
    lost = count_losses([(1, 100)], report(*gaps)).lost
    assert lost == {f"cause {n}": 1 for n in range(1, 33)} | {"unexplained": 68}


@pytest.mark.parametrize(
    ("missing", "is_running", "expected"),
    [
        (10, True, Losses({"overflow": 4, "unexplained": 3}, 3)),
        (12, True, Losses({"overflow": 4, "unexplained": 3}, 5)),
        (12, False, Losses({"overflow": 4, "unexplained": 5}, 3)),
        (8, True, Losses({"overflow": 4, "unexplained": 3}, 1)),
        (5, False, Losses({"overflow": 4, "unexplained": 1}, 0)),
        (3, False, Losses({"overflow": 3}, 0)),
        (0, True, Losses({}, 0)),
    ],
)
def test_counts_follow_what_arrives_after_the_report(
    missing: int, is_running: bool, expected: Losses
) -> None:
    counted = Losses({"overflow": 4, "unexplained": 3}, 3)
    assert counted.adjusted(missing, is_running=is_running) == expected


reasons = st.sampled_from(["overflow", "refused", "filtered"])
numbers = st.integers(0, 60)


@given(
    st.sets(st.integers(1, 60)),
    st.lists(st.tuples(numbers, numbers, reasons), max_size=8),
    st.integers(0, 70),
    st.sampled_from(["running", "ended"]),
    numbers,
)
def test_each_number_has_the_cause_that_it_has_alone(
    missing: set[int], gaps: list[Any], buffered: int, state: str, last_seq: int
) -> None:
    given_report = report(*gaps, buffered=buffered, state=state, last_seq=last_seq)
    expected: dict[int, str] = {}
    for first, last, reason in sorted(gaps):
        for number in range(first, last + 1):
            expected.setdefault(number, reason)
    expected = {number: cause for number, cause in expected.items() if number in missing}
    rest = sorted(missing - expected.keys(), reverse=True)
    beyond = sum(number > last_seq for number in rest) if state == "running" else 0
    for position, number in enumerate(rest):
        expected[number] = "waiting" if position < beyond + buffered else "unexplained"

    losses = count_losses(runs_of(missing), given_report)

    assert cause_of_each(runs_of(missing), given_report, losses.lost) == expected
    counts = {cause: list(expected.values()).count(cause) for cause in set(expected.values())}
    assert losses.lost | {"waiting": losses.waiting} == {"waiting": 0} | counts
