from __future__ import annotations

import msgspec
import pytest

from redvsblue_telemetry.cli.cluster.command import progress_line
from redvsblue_telemetry.cli.cluster.game import Progress
from redvsblue_telemetry.cli.cluster.verdict import differences, total
from redvsblue_telemetry.cluster.local.ledgers import Stored

GAME = Progress(session="a", counted=10, emitted=10, delivered=10, is_over=True)
STORED = Stored(10, 10, 1, 10)


def test_equal_ledgers_have_no_difference() -> None:
    assert differences([GAME], {"a": STORED, "of another time": Stored(7, 3, 1, 9, 2)}) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"emitted": 9}, "game 1: 9 emitted instead of 10"),
        ({"delivered": 9}, "game 1: 9 acknowledged instead of 10"),
        ({"buffered": 1}, "game 1: 1 buffered instead of 0"),
        ({"in_flight": 2}, "game 1: 2 in flight instead of 0"),
        ({"dropped": 3}, "game 1: 3 dropped instead of 0"),
        ({"rejected": 4}, "game 1: 4 rejected instead of 0"),
    ],
    ids=lambda each: "" if isinstance(each, dict) else each.replace(" ", "-"),
)
def test_a_ledger_that_is_not_settled_is_a_difference(changes: dict[str, int], reason: str) -> None:
    assert differences([msgspec.structs.replace(GAME, **changes)], {"a": STORED}) == [reason]


@pytest.mark.parametrize(
    ("stored", "reasons"),
    [
        (Stored(9, 9, 1, 10), ["1 of 10 missing in the lake"]),
        (Stored(12, 10, 1, 10), ["2 twice in the lake"]),
        (Stored(10, 9, 1, 10), ["1 of 10 missing in the lake", "1 twice in the lake"]),
        (Stored(10, 10, 1, 10, 3), ["3 out of order in the lake"]),
        (
            Stored(11, 11, 1, 11),
            ["number 11 in the lake, and 10 is the last that it emitted"],
        ),
        (Stored(), ["10 of 10 missing in the lake"]),
    ],
    ids=["missing", "twice", "both", "disordered", "more", "nothing"],
)
def test_a_lake_that_differs_is_a_difference(stored: Stored, reasons: list[str]) -> None:
    found = differences([GAME], {"a": stored})
    assert found == [f"game 1: {reason}" for reason in reasons]


def test_a_session_that_is_not_in_the_lake_is_missing() -> None:
    other = msgspec.structs.replace(GAME, session="b")
    assert differences([GAME, other], {"a": STORED}) == ["game 2: 10 of 10 missing in the lake"]


def test_nothing_is_claimed_of_nothing() -> None:
    assert differences([], {}) == ["there was no game"]
    assert differences([Progress(session="a")], {}) == ["game 1: emitted nothing"]


def test_the_total_adds_counts_and_keeps_the_longest_times() -> None:
    other = Progress(counted=5, emitted=4, buffered=1, reconnects=2, seconds=3, longest_wait=0.5)
    found = total([msgspec.structs.replace(GAME, seconds=2, longest_wait=1.5), other])
    assert found == Progress(
        counted=15,
        emitted=14,
        delivered=10,
        buffered=1,
        reconnects=2,
        seconds=3,
        longest_wait=1.5,
    )


def test_the_progress_of_all_games_is_one_line() -> None:
    games = [
        Progress(emitted=1000, delivered=900, buffered=60, in_flight=40),
        Progress(emitted=500, delivered=500),
    ]
    assert progress_line(3.21, games, 800).plain == (
        "  3.2 s     1,500 emitted    1,400 acknowledged    100 waiting      800 in the lake"
    )
