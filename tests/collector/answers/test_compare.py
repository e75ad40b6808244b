"""Versions of the game's build, side by side."""

from __future__ import annotations

from typing import Any

import pytest

from redvsblue_telemetry.collector.answers.questions import Compare, Filters, QuestionError
from redvsblue_telemetry.collector.models import TimeRange

from .conftest import Asked

FRAMES = {
    "seconds": 10,
    "frames": 600,
    "p50Ms": 16,
    "p95Ms": 17,
    "p99Ms": 20,
    "maxMs": 40,
    "hitches": 1,
}


def frames(**changed: float) -> dict[str, Any]:
    return FRAMES | changed


def test_versions_are_compared_by_their_sessions(asked: Asked) -> None:
    for session, version, reason in (
        ("a", "1.4.1", "stopped"),
        ("b", "1.4.1", "crashed"),
        ("c", "1.4.1", "killed"),
        ("d", "1.4.2", "switched_off"),
        ("e", "1.4.2", None),
    ):
        for number in range(3):
            asked.store("hit", {"damage": number}, session=session, version=version)
        if reason is not None:
            asked.end(session, reason)

    older, newer = asked.ask(Compare(versions=["1.4.1", "1.4.2"], type="hit", field="damage"))[
        "versions"
    ]

    assert older == {
        "version": "1.4.1",
        "sessions": 3,
        "ended": 3,
        "crashed": 1,
        "killed": 1,
        "crashFree": 1 / 3,
        "events": 9,
        "eventsPerSession": 3,
        "medianSeconds": 0.002,
        "frames": None,
        "field": {"count": 9, "mean": 1, "p50": 1, "p95": 2, "p99": 2},
    }
    assert (newer["sessions"], newer["ended"], newer["crashFree"]) == (2, 1, 1)


def test_frames_are_weighted_by_their_number(asked: Asked) -> None:
    asked.store("frames", frames(p99Ms=20, frames=100), version="1")
    asked.store("frames", frames(p99Ms=30, frames=300, hitches=5), version="1")
    asked.store("frames", frames(p99Ms=90, frames=0, hitches=9), version="1")
    asked.store("frames", {"p99Ms": "a game's own"}, version="1")
    (version,) = asked.ask(Compare(versions=["1"]))["versions"]
    assert version["frames"] == {"p50": 16, "p95": 17, "p99": 30, "hitchesPerMinute": 18}


def test_a_range_chooses_the_sessions_that_were_last_heard_of_in_it(asked: Asked) -> None:
    asked.store("hit", session="a", version="1")
    found = asked.ask(Compare(versions=["1"], filters=Filters(TimeRange(0, 1000))))["versions"]
    assert (found[0]["sessions"], found[0]["crashFree"], found[0]["medianSeconds"]) == (
        0,
        None,
        None,
    )


def test_an_unknown_version_is_an_error_with_those_that_there_are(asked: Asked) -> None:
    asked.store("hit", version="1.4")
    with pytest.raises(QuestionError, match=r"no session has the version '1.5'; there are 1.4"):
        asked.ask(Compare(versions=["1.5"]))
