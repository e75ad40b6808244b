"""The proof: a true report passes, and one wrong number anywhere fails it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import pytest

from redvsblue_telemetry._report import MAX_GAPS, Reason, Report, State
from redvsblue_telemetry.cli.prove.proof import Proof, Verdict, prove_session
from redvsblue_telemetry.collector.models import Cause
from redvsblue_telemetry.collector.storage.losses import explained, reasons_of

DROPS = ("overflow", "refused", "filtered", "expired", "left_behind")


def report(**fields: Any) -> Report:
    """The last report of a session; ``delivered`` follows from the other counts, as it should."""
    whole: dict[str, Any] = {
        "session_id": "s",
        "number": 3,
        "state": State.ENDED,
        "reason": Reason.STOPPED,
        "last_seq": 10,
        **fields,
    }
    whole.setdefault("emitted", whole["last_seq"])
    lost = sum(whole.get("dropped", {}).values()) + whole.get("buffered", 0)
    whole.setdefault("delivered", whole["emitted"] - lost)
    return Report(**whole)


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The numbers as ranges, in ascending order."""
    runs = groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])
    lists = [[number for _, number in run] for _, run in runs]
    return [(numbers[0], numbers[-1]) for numbers in lists]


def proof_of(told: Report | None, *ranges: tuple[int, int], events: int | None = None) -> Proof:
    count = sum(last - first + 1 for first, last in ranges)
    return prove_session(told, ranges, count if events is None else events)


# What is proved.


def test_session_with_every_number_is_proved() -> None:
    proof = proof_of(report(), (1, 10))
    assert (proof.verdict, proof.problems) == (Verdict.PROVED, [])
    assert (proof.last_seq, proof.stored, proof.missing) == (10, 10, {})


def test_session_without_events_is_proved() -> None:
    assert proof_of(report(last_seq=0)).verdict is Verdict.PROVED


def test_missing_numbers_are_counted_by_the_reasons_of_the_report() -> None:
    gaps = [(2, 3, "overflow"), (4, 4, "filtered"), (9, 10, "left_behind")]
    dropped = {"overflow": 2, "filtered": 1, "left_behind": 2}
    proof = proof_of(report(gaps=gaps, dropped=dropped), (1, 1), (5, 8))
    assert (proof.verdict, proof.problems) == (Verdict.PROVED, [])
    assert proof.missing == dropped
    assert proof.stored == 5


def test_dropped_event_that_did_come_is_not_a_problem() -> None:
    # It was sent, but not confirmed in time, and counted as left behind.
    told = report(gaps=[(9, 10, "left_behind")], dropped={"left_behind": 2})
    proof = proof_of(told, (1, 9))
    assert (proof.verdict, proof.missing) == (Verdict.PROVED, {"left_behind": 1})


def test_newest_numbers_wait_on_the_player_s_machine() -> None:
    proof = proof_of(report(buffered=4), (1, 7))
    assert (proof.verdict, proof.waiting, proof.unexplained) == (Verdict.PROVED, 3, 0)


def test_number_of_a_forwarded_event_never_comes_and_is_not_a_drop() -> None:
    proof = proof_of(report(gaps=[(4, 4, "forwarded")]), (1, 3), (5, 10))
    assert (proof.verdict, proof.missing) == (Verdict.PROVED, {"forwarded": 1})


def test_number_of_an_event_that_the_hook_raised_for_is_not_a_drop() -> None:
    told = report(gaps=[(4, 4, "rejected")], emitted=9, rejected=3)
    assert proof_of(told, (1, 3), (5, 10)).verdict is Verdict.PROVED


def test_number_zero_of_another_client_is_not_counted() -> None:
    assert proof_of(report(), (0, 10)).verdict is Verdict.PROVED


# What is left open.


def test_running_session_is_open_and_examined_up_to_its_report() -> None:
    told = report(state=State.RUNNING, buffered=2)
    proof = proof_of(told, (1, 8), (15, 20))
    assert (proof.verdict, proof.problems) == (Verdict.OPEN, [])
    assert (proof.last_seq, proof.stored, proof.waiting) == (10, 8, 2)


def test_session_without_a_report_is_open() -> None:
    proof = proof_of(None, (1, 3), (6, 7))
    assert (proof.verdict, proof.problems) == (Verdict.OPEN, [])
    assert (proof.last_seq, proof.stored, proof.unexplained) == (7, 5, 2)


# What fails.


def test_number_without_a_reason_fails_and_is_named() -> None:
    proof = proof_of(report(), (1, 3), (5, 8))
    assert proof.verdict is Verdict.FAILED
    assert proof.unexplained == 3
    assert "3 are missing without a reason: 4, 9-10" in proof.problems
    assert "10 are delivered, but 7 stored" in proof.problems


def test_only_the_newest_numbers_wait_and_others_are_named() -> None:
    proof = proof_of(report(buffered=2), (1, 3), (6, 8))
    assert (proof.waiting, proof.unexplained) == (2, 2)
    assert "2 are missing without a reason: 4-5" in proof.problems


def test_at_most_eight_runs_are_named() -> None:
    stored = [(n, n) for n in range(1, 30, 2)]
    (text, _) = proof_of(report(last_seq=30), *stored).problems
    assert text == "15 are missing without a reason: 2, 4, 6, 8, 10, 12, 14, 16, …"
    (text, _) = proof_of(report(last_seq=16), *stored[:8]).problems
    assert text == "8 are missing without a reason: 2, 4, 6, 8, 10, 12, 14, 16"


def test_running_session_fails_if_its_numbers_contradict_its_report() -> None:
    assert proof_of(report(state=State.RUNNING), (1, 9)).verdict is Verdict.FAILED


def test_more_missing_than_dropped_fails() -> None:
    told = report(gaps=[(3, 5, "overflow")], dropped={"overflow": 2})
    proof = proof_of(told, (1, 2), (6, 10))
    assert "3 are missing as overflow, but the report counts 2" in proof.problems


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"delivered": 9},
            "the report does not add up: 10 emitted, 9 delivered, 0 dropped, 0 waiting",
        ),
        ({"emitted": 9}, "the report's last number is 10, but it counts 9 emitted"),
        ({"emitted": 11}, "the report's last number is 10, but it counts 11 emitted"),
    ],
)
def test_report_that_contradicts_itself_fails(fields: dict[str, Any], problem: str) -> None:
    assert problem in proof_of(report(**fields), (1, 10)).problems


def test_number_above_the_last_one_of_an_ended_session_fails() -> None:
    proof = proof_of(report(), (1, 10), (12, 12))
    assert proof.problems == ["the report's last number is 10, but 12 is stored"]


def test_database_that_lost_rows_fails_with_a_report_and_without() -> None:
    text = "9 events are stored, under 10 numbers"
    for told in (report(), None):
        proof = proof_of(told, (1, 10), events=9)
        assert (proof.verdict, proof.problems) == (Verdict.FAILED, [text])


# Reports that have no room for all gaps.


def full(forgotten: int) -> tuple[Report, list[tuple[int, int]]]:
    """A report with as many gaps as it can have, after others that it has forgotten."""
    numbers = range(2, 2 * (forgotten + MAX_GAPS) + 1, 2)
    reasons = [DROPS[index % 2] for index in range(len(numbers))]
    gaps = [(n, n, reason) for n, reason in zip(numbers, reasons, strict=True)]
    dropped = {reason: reasons.count(reason) for reason in set(reasons)}
    last = numbers[-1] + 1
    told = report(last_seq=last, gaps=gaps[forgotten:], dropped=dropped)
    return told, [(n, n) for n in range(1, last + 1, 2)]


def test_forgotten_gaps_are_explained_by_the_totals() -> None:
    told, stored = full(forgotten=6)
    proof = proof_of(told, *stored)
    assert (proof.verdict, proof.problems) == (Verdict.PROVED, [])
    assert proof.missing.pop(Cause.DROPPED) == 6
    assert sum(proof.missing.values()) == MAX_GAPS


def test_forgotten_gaps_beyond_the_totals_fail() -> None:
    told, stored = full(forgotten=6)
    proof = proof_of(told, *stored[1:])
    assert (proof.missing[Cause.DROPPED], proof.unexplained) == (6, 1)
    assert "1 is missing without a reason" in proof.problems


def test_gaps_that_were_too_large_for_a_message_are_explained_by_the_totals() -> None:
    told, stored = full(forgotten=0)
    told.gaps = told.gaps[MAX_GAPS // 2 + 1 :]
    proof = proof_of(told, *stored)
    assert (proof.verdict, proof.problems) == (Verdict.PROVED, [])
    assert proof.missing[Cause.DROPPED] == MAX_GAPS // 2 + 1
    told.gaps = []
    proof = proof_of(told, *stored)
    assert (proof.verdict, proof.missing) == (Verdict.PROVED, {Cause.DROPPED: MAX_GAPS})


def test_gaps_between_others_are_not_forgotten() -> None:
    told = report(gaps=[(2, 2, "overflow")], dropped={"overflow": 2})
    proof = proof_of(told, (1, 1), (3, 5), (7, 10))
    assert (proof.verdict, proof.missing) == (Verdict.FAILED, {"overflow": 1})


# Against a model.


def naive(missing: set[int], gaps: list[tuple[int, int, str]]) -> dict[int, str | None]:
    return {
        number: next((why for first, last, why in gaps if first <= number <= last), None)
        for number in missing
    }


@pytest.mark.parametrize("seed", range(200))
def test_reasons_are_those_of_a_look_at_each_number(seed: int) -> None:
    chance = random.Random(seed)
    missing = {n for n in range(1, 60) if chance.random() < 0.5}
    ends = sorted(chance.sample(range(1, 60), 2 * chance.randrange(1, 12)))
    gaps = [
        (first, last, chance.choice(DROPS))
        for first, last in zip(ends[::2], ends[1::2], strict=True)
    ]
    found: dict[int, str | None] = {}
    for first, last, why in explained(ranges_of(missing), gaps):
        assert first <= last
        found.update(dict.fromkeys(range(first, last + 1), why))
    assert found == naive(missing, gaps)
    assert list(found) == sorted(missing)


@pytest.mark.parametrize("seed", range(50))
def test_gaps_of_a_hostile_report_may_overlap(seed: int) -> None:
    chance = random.Random(seed)
    gaps = [(chance.randrange(60), chance.randrange(60), chance.choice(DROPS)) for _ in range(20)]
    missing = {n for n in range(1, 60) if chance.random() < 0.5}
    told = report(gaps=gaps)
    found = [
        number
        for first, last, _ in explained(ranges_of(missing), reasons_of(told))
        for number in range(first, last + 1)
    ]
    assert found == sorted(missing)


@pytest.mark.parametrize("seed", range(200))
def test_session_is_proved_and_one_loss_more_fails_it(seed: int) -> None:
    chance = random.Random(seed)
    fates = chance.choices(["delivered", *DROPS], [20, 2, 2, 2, 2, 2], k=chance.randrange(10, 300))
    fates += ["buffered"] * chance.randrange(5)
    numbers = {fate: [n for n, f in enumerate(fates, 1) if f == fate] for fate in fates}
    waiting = numbers.pop("buffered", [])
    delivered = numbers.pop("delivered", [])
    told = report(
        last_seq=len(fates),
        dropped={fate: len(found) for fate, found in numbers.items()},
        buffered=len(waiting),
        gaps=sorted((*run, fate) for fate, found in numbers.items() for run in ranges_of(found)),
    )
    # Some of those that wait, or were left behind, did reach the server.
    stored = {*delivered, *(n for n in waiting if chance.random() < 0.3)}
    stored |= {n for n in numbers.get("left_behind", []) if chance.random() < 0.3}
    proof = proof_of(told, *ranges_of(stored))
    assert (proof.verdict, proof.problems) == (Verdict.PROVED, [])
    assert proof.waiting == len(set(waiting) - stored)
    assert proof.missing == {
        fate: len(lost) for fate, found in numbers.items() if (lost := set(found) - stored)
    }

    stored.remove(chance.choice(delivered))
    assert proof_of(told, *ranges_of(stored)).verdict is Verdict.FAILED
