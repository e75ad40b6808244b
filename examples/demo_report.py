"""What the demo shows: progress while it plays, both ends' counts after, and where they differ."""

from __future__ import annotations

from typing import TextIO

from frame_times import FrameTimes
from receiver import Counts

from redvsblue_telemetry import Telemetry, TelemetryStats


class Progress:
    """One line that renews itself on a terminal; elsewhere a plain line each second.

    It stays under 80 columns: one that wraps could not renew itself.
    """

    def __init__(self, stream: TextIO, frame_times: FrameTimes) -> None:
        self._stream = stream
        self._frame_times = frame_times
        self._on_terminal = stream.isatty()
        self._interval = 0.25 if self._on_terminal else 1.0
        self._shown_at = 0.0
        self._shown_emitted = 0

    def show(self, elapsed: float, telemetry: Telemetry) -> None:
        """Write the line if it is due. ``elapsed`` is in seconds since the start of play."""
        if elapsed - self._shown_at >= self._interval:
            self._write(elapsed, telemetry.stats())

    def finish(self, elapsed: float, telemetry: Telemetry) -> None:
        """Write the last line and leave the cursor below it."""
        if self._on_terminal or elapsed - self._shown_at >= self._interval / 2:
            self._write(elapsed, telemetry.stats())
        if self._on_terminal:
            self._stream.write("\n")

    def _write(self, elapsed: float, stats: TelemetryStats) -> None:
        rate = (stats.emitted - self._shown_emitted) / max(elapsed - self._shown_at, 1e-9)
        self._shown_at, self._shown_emitted = elapsed, stats.emitted
        median, p99 = self._frame_times.percentile(50), self._frame_times.percentile(99)
        line = (
            f"{elapsed:5.1f} s{rate:5.0f} events/s{stats.in_flight:4} in flight"
            f"{stats.delivered:6} confirmed{stats.dropped:3} dropped{median:6.2f}{p99:6.2f} ms"
        )
        self._stream.write(f"\r{line}\x1b[K" if self._on_terminal else f"{line}\n")
        self._stream.flush()


def print_ledgers(ledger: TelemetryStats, counts: Counts) -> None:
    """Print the library's ledger beside what the receiver counted."""
    sent = [
        ("emitted", ledger.emitted),
        ("delivered", ledger.delivered),
        ("in flight", ledger.in_flight),
        ("buffered", ledger.buffered),
        ("dropped", ledger.dropped),
        ("rejected", ledger.rejected),
    ]
    arrived = [
        ("received", counts.received),
        ("unique", counts.unique),
        ("repeats", counts.repeats),
        ("gaps", counts.gaps),
    ]
    print(f"\n{'the ledger':22}the receiver")
    for row, (name, events) in enumerate(sent):
        line = f"  {name:9} {events:6}    "
        if row < len(arrived):
            line += "  {:9} {:6}".format(*arrived[row])
        print(line.rstrip())
    print()


def differences(told: int, ledger: TelemetryStats, counts: Counts) -> list[str]:
    """Each way in which "every event arrived once" is not true; empty when it is.

    ``told`` is how many events the engine itself handed out.
    """
    expectations = [
        ("emitted", ledger.emitted, told),
        ("delivered", ledger.delivered, told),
        ("received", counts.received, told),
        ("unique", counts.unique, told),
        ("in flight", ledger.in_flight, 0),
        ("buffered", ledger.buffered, 0),
        ("dropped", ledger.dropped, 0),
        ("rejected", ledger.rejected, 0),
        ("repeats", counts.repeats, 0),
        ("gaps", counts.gaps, 0),
    ]
    return [
        f"{name} {actual} instead of {expected}"
        for name, actual, expected in expectations
        if actual != expected
    ] + ([] if told else ["the engine emitted nothing"])
