"""The verdict: each way in which it can be wrong to say that every event arrived once."""

from __future__ import annotations

import io
from typing import Any

import attrs
import pytest
from demo_report import Progress, differences
from frame_times import FrameTimes
from receiver import Counts

from redvsblue_telemetry import Telemetry, TelemetrySettings, TelemetryStats

CLEAN_LEDGER = TelemetryStats(emitted=500, delivered=500)
CLEAN_COUNTS = Counts(received=500, unique=500, repeats=0, gaps=0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_differs_when_all_counts_agree() -> None:
    assert differences(500, CLEAN_LEDGER, CLEAN_COUNTS) == []


@pytest.mark.parametrize("field", ["delivered", "in_flight", "buffered", "dropped", "rejected"])
def test_ledger_that_is_not_settled_differs(field: str) -> None:
    change: dict[str, Any] = {field: 1}

    (difference,) = differences(500, attrs.evolve(CLEAN_LEDGER, **change), CLEAN_COUNTS)

    assert difference.startswith(f"{field.replace('_', ' ')} 1 instead of")


def test_event_that_arrived_twice_differs() -> None:
    counts = Counts(received=501, unique=500, repeats=1, gaps=0)

    assert differences(500, CLEAN_LEDGER, counts) == [
        "received 501 instead of 500",
        "repeats 1 instead of 0",
    ]


def test_event_that_never_arrived_differs() -> None:
    counts = Counts(received=499, unique=499, repeats=0, gaps=1)

    assert differences(500, CLEAN_LEDGER, counts) == [
        "received 499 instead of 500",
        "unique 499 instead of 500",
        "gaps 1 instead of 0",
    ]


def test_event_that_the_library_never_saw_differs() -> None:
    assert "emitted 500 instead of 501" in differences(501, CLEAN_LEDGER, CLEAN_COUNTS)


def test_battle_without_events_proves_nothing() -> None:
    assert differences(0, TelemetryStats(), Counts(0, 0, 0, 0)) == ["the engine emitted nothing"]


def test_line_on_a_terminal_renews_itself_and_fits_eighty_columns() -> None:
    terminal = Terminal()
    frame_times = FrameTimes()
    frame_times.record(0.0123)
    progress = Progress(terminal, frame_times)
    telemetry = Telemetry(TelemetrySettings(enabled=False))

    progress.show(0.1, telemetry)
    assert terminal.getvalue() == ""
    progress.show(9.3, telemetry)
    progress.finish(9.5, telemetry)

    first, second = terminal.getvalue().removeprefix("\r").removesuffix("\n").split("\r")
    assert "12.30" in first
    assert second.startswith("  9.5 s")
    assert len(second.removesuffix("\x1b[K")) < 80
    assert "\n" not in first + second


def test_frame_times_know_their_percentiles() -> None:
    frame_times = FrameTimes(keep=100)
    assert frame_times.percentile(99) == 0.0

    for milliseconds in range(200, 0, -1):
        frame_times.record(milliseconds / 1000.0)

    assert frame_times.percentile(0) == pytest.approx(1.0)
    assert frame_times.percentile(50) == pytest.approx(51.0)
    assert frame_times.percentile(99) == pytest.approx(100.0)
