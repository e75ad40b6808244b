"""While everything fails, each gap has its cause; and a test of each check of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import gaps
from benchmarks.notes import Notes
from redvsblue_telemetry.collector.models import SessionDetail
from tests.support.systems import needs_fork


@needs_fork
@pytest.mark.slow
@pytest.mark.timeout(300)  # it takes 25 s, if the machine has nothing else to do
@pytest.mark.parametrize(("has_journal", "seed"), [(True, 1), (False, 2)])
def test_each_gap_of_a_short_run_is_explained(has_journal: bool, seed: int) -> None:
    report = gaps.run(seconds=10, seed=seed, has_journal=has_journal)
    assert report.problems == []
    assert report.stored + sum(report.missing.values()) == report.emitted > 1000
    assert {"overflow", "filtered", "rejected", "refused", "forwarded"} <= set(report.missing)
    assert "unexplained" not in report.missing
    assert min(report.sampled[name] for name in ("bullet_fired", "particle")) > 0
    assert (report.games > 1) == has_journal == ("kill" in report.faults)
    assert has_journal or report.missing["switched_off"] > 0


# The verdict.


def test_the_record_has_the_type_of_each_event_that_was_seen(tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.write_text("a 1 tick\na 2 debug\nb 1 huge\na 2 debug\n")
    assert gaps.read_record(record) == {"a": {1: "tick", 2: "debug"}, "b": {1: "huge"}}


SEEN = {1: "tick", 2: "debug", 3: "broken", 4: "huge"}


def wrong(causes: dict[int, str], *stored: int) -> str:
    return "; ".join(gaps.wrong_causes(set(stored), causes, SEEN))


def test_the_right_causes_are_not_a_problem() -> None:
    causes = {2: "filtered", 3: "rejected", 4: "refused", 5: "overflow", 6: "forwarded"}
    assert wrong(causes, 1, 7) == ""
    assert wrong(dict.fromkeys(range(1, 7), "switched_off"), 7) == ""


@pytest.mark.parametrize(
    ("seq", "cause", "problem"),
    [
        (1, "overflow", "(tick) overflow instead of switched_off"),
        (1, "unexplained", "(tick) unexplained instead of switched_off"),
        (2, "overflow", "(debug) overflow instead of filtered"),
        (3, "filtered", "(broken) filtered instead of rejected"),
        (4, "filtered", "(huge) filtered instead of refused"),
        (5, "filtered", "(not seen) filtered instead of forwarded"),
        (5, "unexplained", "(not seen) unexplained instead of forwarded"),
    ],
)
def test_a_wrong_cause_is_found(seq: int, cause: str, problem: str) -> None:
    assert wrong({seq: cause}) == f"1 numbers, such as {seq}: {problem}"


def test_a_number_that_is_stored_is_not_lost_and_the_other_way_round() -> None:
    assert wrong({7: "overflow"}, 7) == "1 numbers, such as 7: stored, but shown as overflow"
    assert wrong({}, 2) == "1 numbers, such as 2: (debug) stored"


def shown(**more: Any) -> SessionDetail:
    figures: dict[str, Any] = {"outcome": "well", "reason": "stopped", "last_seq": 5, **more}
    times = dict.fromkeys(
        ("first_timestamp", "last_timestamp", "first_received", "last_received"), 1
    )
    return SessionDetail(
        session_id="s", version=None, events=4, repeats=0, missing=1, highest=5, **times, **figures
    )


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({}, ""),
        ({"outcome": "no_word", "reason": None}, "no_word (None) instead of well"),
        (
            {"last_seq": 6},
            "1 numbers are neither stored nor shown as lost, such as 6",
        ),
        ({"last_seq": 4}, "the last number is 4, but 5 emits had returned"),
        ({"waiting": 3}, "3 events wait"),
    ],
)
def test_a_session_that_does_not_add_up_is_found(
    found: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    notes = Notes(tmp_path / "notes")
    notes.words[Notes.slot(0) + 1] = 5
    life = gaps.Life("s", notes, threads=1)
    stored = {1, 2, 3, 4}
    assert "; ".join(gaps.wrong_counts(life, shown(**found), stored, {5: "overflow"})) == problem
    notes.close()


LAST: dict[str, Any] = {
    "emitted": 5,
    "recovered": 0,
    "buffered": 0,
    "in_flight": 0,
    "dropped_by": {"overflow": 1, "filtered": 0},
    "sampled": {"particle": 7},
    "calls": 9,
}


@pytest.mark.parametrize(
    ("last", "problem"),
    [
        ({}, ""),
        ({"in_flight": 1}, "not settled: 0 buffered, 1 in flight"),
        ({"emitted": 6}, "the last number is 5, but 6 were emitted"),
        ({"sampled": {}}, "{'particle': 7} were left out, the library counts {}"),
        ({"calls": 8}, "2 kept and {'particle': 7} left out of 8 calls"),
        (
            {"dropped_by": {"overflow": 2}},
            "{'overflow': 1} were lost, the library counts {'overflow': 2}",
        ),
        ({"recovered": 1, "dropped_by": {"overflow": 2}}, ""),
        # Discarded by the toggle, but it had arrived.
        ({"dropped_by": {"overflow": 1, "switched_off": 2}}, ""),
    ],
)
def test_counts_that_differ_from_the_library_are_found(last: dict[str, Any], problem: str) -> None:
    found = shown(lost={"overflow": 1}, sampled={"particle": 7}, types={"tick": 2, "particle": 2})
    assert "; ".join(gaps.wrong_totals(found, {**LAST, **last})) == problem
