"""The game of ``benchmarks.chaos``: a separate process, so that it can be killed.

    python -m benchmarks.chaos_game TASK

Its threads emit at a steady rate until it is asked to ``finish``. They note each event whose
``emit`` has returned in memory that outlives the process.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, open_descriptors, peak_bytes, resident_bytes
from benchmarks.notes import Notes
from redvsblue_telemetry import ConnectionState, Telemetry, start_telemetry

__all__ = ["DELIVERED", "LEDGER", "Resources"]

DELIVERED = 0  # index of a note: at least this many of the events of the game are delivered
SETTINGS: dict[str, Any] = {
    "enabled": True,
    "drain_interval": 0.05,
    "backoff_base": 0.05,
    "backoff_max": 1.0,
    "connect_timeout": 2.0,
    "confirm_timeout": 1.0,
    "keepalive_interval": 1.0,
}
LEDGER = ("emitted", "recovered", "delivered", "dropped", "rejected", "buffered", "in_flight")
_TAKE_OVER_TIMEOUT = 60.0  # seconds until all earlier runs have to be delivered


@dataclass
class Resources:
    """The resources that a process holds."""

    descriptors: int
    threads: int
    resident: int
    """Bytes."""
    peak: int
    """Bytes: the most that were resident so far."""

    @classmethod
    def now(cls) -> Resources:
        """Ask the operating system; 0 where it can't be known."""
        return cls(
            open_descriptors() or 0, threading.active_count(), resident_bytes() or 0, peak_bytes()
        )


class Emitter(threading.Thread):
    """A thread of the game: emits at about a rate, in bursts, and counts for itself."""

    def __init__(
        self, telemetry: Telemetry, notes: Notes, number: int, seed: str, rate: float
    ) -> None:
        super().__init__(name=f"chaos-emitter-{number}", daemon=True)
        self._telemetry = telemetry
        self._notes = notes
        self._number = number
        self._chance = random.Random(f"{seed} {number}")
        self._rate = rate
        self.finish = threading.Event()

    def run(self) -> None:
        """Emit until ``finish`` is set."""
        padding = "x" * 400
        words, slot = self._notes.words, Notes.slot(self._number)
        words[slot + 2] = 1
        emitted, slowest = 0, 0
        started = time.monotonic()
        while not self.finish.is_set():
            due = int((time.monotonic() - started) * self._rate)
            for n in range(emitted, due):
                text = padding[: self._chance.randrange(len(padding))]
                words[slot] = n + 1
                before = time.perf_counter_ns()
                self._telemetry.emit("chaos", thread=self._number, n=n, text=text)
                slowest = max(slowest, time.perf_counter_ns() - before)
                words[slot + 1] = n + 1
                words[slot + 3] = slowest
            emitted = max(emitted, due)
            self.finish.wait(self._chance.uniform(0.005, 0.05))


class Game:
    """One process from its start to its end, unless it is killed before."""

    def __init__(self, task: Result) -> None:
        self._notes = Notes(Path(task["notes"]))
        self._before = Resources.now()
        self._journal = Path(task["journal"]) if task["journal"] else None
        more: Result = {"journal": self._journal} if self._journal else {"capacity": 200_000}
        self._telemetry = start_telemetry(
            **SETTINGS,
            **more,
            url=task["url"],
            session_id=task["session_id"],
            on_state_change=self._note_delivered,
        )
        self._emitters = [
            Emitter(self._telemetry, self._notes, n, task["session_id"], task["rate"])
            for n in range(task["threads"])
        ]
        for emitter in self._emitters:
            emitter.start()

    def _note_delivered(self, state: ConnectionState) -> None:
        # Called before each attempt to connect. Recovered events count as delivered, too, and those
        # that are not delivered yet make this less than it is.
        if state is ConnectionState.CONNECTING and hasattr(self, "_telemetry"):
            stats = self._telemetry.stats()
            self._notes[DELIVERED] = max(0, stats.delivered - stats.recovered)

    def finish(self) -> Result:
        """Deliver everything, including the events of earlier games, and stop."""
        for emitter in self._emitters:
            emitter.finish.set()
            emitter.join()
        deadline = time.monotonic() + _TAKE_OVER_TIMEOUT
        while self._journal and len(list(self._journal.iterdir())) > 1:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        is_flushed = self._telemetry.flush(30)
        is_stopped_well = self._telemetry.stop(5)
        stats = self._telemetry.stats()
        return {
            "ledger": {name: getattr(stats, name) for name in LEDGER},
            "reconnects": stats.reconnects,
            "is_flushed": is_flushed,
            "is_stopped_well": is_stopped_well,
            "before": asdict(self._before),
            "after": asdict(Resources.now()),
        }


def main() -> None:
    """Do the task in the first argument, and answer questions on standard input."""
    game = Game(json.loads(sys.argv[1]))
    print("{}", flush=True)
    for question in sys.stdin:
        if question == "finish\n":
            print(json.dumps(game.finish()), flush=True)
        else:
            print(json.dumps(asdict(Resources.now())), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
