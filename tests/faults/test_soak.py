"""The soak's comparison of the client's counts with those of the game and of the sink."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.soak import disagreements
from redvsblue_telemetry import TelemetryStats

SETTLED: dict[str, Any] = {"emitted": 10, "delivered": 8, "dropped": 2}


def test_counts_that_agree_are_not_a_problem() -> None:
    assert disagreements(TelemetryStats(**SETTLED), 10, {"unique": 8}) == []


@pytest.mark.parametrize(
    ("changed", "emitted", "unique", "problem"),
    [
        ({}, 11, 8, "the game emitted 11 events, the client counts 10"),
        ({}, 10, 7, "8 events were delivered, 7 received"),
        ({"dropped": 1, "in_flight": 1}, 10, 8, "events are buffered or in flight after stop"),
        ({"dropped": 1, "buffered": 1}, 10, 8, "events are buffered or in flight after stop"),
    ],
)
def test_counts_that_do_not_agree_are_a_problem(
    changed: dict[str, int], emitted: int, unique: int, problem: str
) -> None:
    (found,) = disagreements(TelemetryStats(**SETTLED | changed), emitted, {"unique": unique})
    assert found.startswith(problem)
