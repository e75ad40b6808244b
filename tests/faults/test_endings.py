"""The collector knows how each game ended, and a test of each check of that."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

import pytest

from benchmarks import endings
from benchmarks.endings import ENDINGS, Life
from benchmarks.harness import report_lines
from redvsblue_telemetry.collector.models import SessionDetail
from tests.support.systems import needs_fork


@needs_fork
@pytest.mark.slow
@pytest.mark.timeout(600)  # it takes 40 s, if the machine has nothing else to do
def test_each_ending_is_shown_as_it_was() -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    report = endings.run(endings=len(ENDINGS), seed=seed)
    assert report.problems == [], f"seed {seed}"
    assert report.endings == len(report.by_ending) == len(ENDINGS) >= 40
    assert report.right == report.sessions > len(ENDINGS)
    assert report.running > 20
    assert {"stopped", "exit", "crashed"} <= set(report.by_reason)


def test_each_ending_is_played_before_any_is_played_again() -> None:
    count = len(ENDINGS)
    played = list(endings.schedule(2 * count + 3, 1))
    names = [name for name, _ in played]
    assert sorted(names[:count]) == sorted(names[count : 2 * count]) == sorted(ENDINGS)
    assert len(names) == 2 * count + 3
    assert len({name for name, _ in endings.schedule(5, 2)}) == 5
    assert 0.5 < sum(has_journal for _, has_journal in played) / len(played) < 0.9
    assert played == list(endings.schedule(2 * count + 3, 1)) != list(endings.schedule(3, 2))


# The verdict.


def life(ending: str = "SIGKILL", *, has_journal: bool = True, **more: Any) -> Life:
    """A session of the second from 10,000 to 20,000 with five events, the last under way."""
    figures = {"role": "game", "begun": 5, "returned": 4, **more}
    return Life(
        ending,
        session_id="s",
        has_journal=has_journal,
        began_at=10_000,
        ended_at=20_000,
        **figures,
    )


def shown(**more: Any) -> SessionDetail:
    """The session as the collector shows it."""
    figures = {
        "outcome": "killed",
        "reason": "killed",
        "since": 19_000,
        "types": {"tick": 5},
        **more,
    }
    return SessionDetail(
        session_id="s",
        version=None,
        events=5,
        repeats=0,
        missing=0,
        highest=5,
        first_timestamp=10_000,
        last_timestamp=19_000,
        first_received=10_000,
        last_received=19_000,
        **figures,
    )


def wrong(life: Life, found: SessionDetail | None) -> str:
    return "; ".join(endings.disagreements(life, found))


@pytest.mark.parametrize("ticks", [4, 5])
def test_a_session_that_is_shown_as_it_was_is_not_a_problem(ticks: int) -> None:
    assert wrong(life(), shown(types={"tick": ticks})) == ""


def test_without_a_journal_nobody_can_report_a_kill() -> None:
    killed = life(has_journal=False)
    assert wrong(killed, shown(outcome="no_word", reason=None, types={"tick": 1})) == ""
    assert wrong(killed, shown()) == "killed, killed instead of no_word"
    assert wrong(life(), shown(outcome="no_word", reason=None)) == "no_word, None instead of killed"


def test_a_session_that_the_collector_has_not_heard_of_is_a_problem_if_it_could_have() -> None:
    assert wrong(life(), None) == "the collector has not heard of it"
    assert wrong(life("server away, stop", has_journal=False), None) == ""
    assert wrong(life("server away, stop"), None) == "the collector has not heard of it"


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"reason": "stopped", "outcome": "well"}, "well, stopped instead of killed"),
        ({"outcome": "well"}, "well instead of killed, with the reason killed"),
        ({"since": 8_000}, "ended at 8000 instead of between 9000 and 21000"),
        ({"since": 22_000}, "ended at 22000 instead of between 9000 and 21000"),
        ({"types": {"tick": 6}}, "6 events are stored, but only 5 were emitted"),
        ({"types": {"tick": 3}}, "3 events are stored, but 4 emits had returned"),
        ({"lost": {"overflow": 2}}, "events are missing: {'overflow': 2}, 0 waiting"),
        ({"waiting": 2}, "events are missing: {}, 2 waiting"),
        ({"types": {"tick": 5, "crash": 1}, "crashes": 1}, "1 crash events (1) instead of 0"),
        ({"crashes": 1}, "0 crash events (1) instead of 0"),
        ({"types": {"tick": 5, "hang": 1}}, "1 hang events"),
    ],
)
def test_each_disagreement_is_named(found: dict[str, Any], problem: str) -> None:
    assert wrong(life(), shown(**found)) == problem


def test_an_unexplained_gap_is_always_a_problem() -> None:
    found = shown(outcome="no_word", reason=None, lost={"unexplained": 2})
    assert wrong(life(has_journal=False), found) == "unexplained gaps: {'unexplained': 2}"


def test_a_hang_and_a_crash_have_their_events() -> None:
    hung = life("hang, SIGKILL")
    assert wrong(hung, shown(types={"tick": 5, "hang": 1})) == ""
    assert wrong(hung, shown()) == "0 hang events"
    crashed = life("exception, recorded")
    as_crashed = {"outcome": "crashed", "reason": "crashed"}
    assert wrong(crashed, shown(**as_crashed)) == "0 crash events (0) instead of 1"
    types = {"tick": 5, "crash": 1}
    assert wrong(crashed, shown(**as_crashed, types=types, crashes=1)) == ""


def test_the_crash_of_a_child_is_not_its_parents() -> None:
    types = {"tick": 5, "crash": 1}
    well = {"outcome": "well", "reason": "exit"}
    assert wrong(life("fork that raises"), shown(**well)) == ""
    child = life("fork that raises", role="child")
    as_crashed = {"outcome": "crashed", "reason": "crashed"}
    assert wrong(child, shown(**as_crashed, types=types, crashes=1)) == ""
    assert wrong(child, shown(**well)) == "well, exit instead of crashed"


def test_the_toggle_may_have_erased_events() -> None:
    off = {"outcome": "switched_off", "reason": "switched_off"}
    lost = {"lost": {"switched_off": 3}, "types": {"tick": 2}}
    assert wrong(life("switched off, exit"), shown(**off, **lost)) == ""


def test_a_report_names_endings_and_problems() -> None:
    report = endings.Report(seed=3, endings=2, by_ending={"stop": 2})
    for number in range(30):
        report.blame("stop", f"problem {number}")
    printed = "\n".join(report_lines(asdict(report)))
    assert "by_ending: stop" in printed
    assert "PROBLEM: problem 0" in printed
    assert report.wrong == {"stop": 30}
    assert len(report.problems) == 20
