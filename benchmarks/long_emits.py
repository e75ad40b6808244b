"""The longest of ten million emits, with a journal, without one, and beside an empty function.

    python -m benchmarks.long_emits [--emits N] [--busy-disk] [--quick] [--json FILE]

Three games take turns, each in a separate process: one emits with a journal, one without, and one
calls an empty function, which shows how long the machine itself keeps a thread from running. Each
emits a hundred times, sleeps for the rest of a millisecond, and begins again. Three clocks are read
after each emit, as in ``benchmarks.stalls``. So the time since the reading before has parts:

- *longest*: all of it.
- *ours*: the CPU time of the game's thread and of the worker, which may have kept the GIL. In the
  rest neither of them ran, because the machine did something else. If the thread had a page fault
  and slept, though, all of the time is ours. Where the clock of another thread can't be read
  (macOS, Windows), this is empty.

The journal is in the folder for temporary files, which ``TMPDIR`` names; it should be on a disk.
With ``--busy-disk``, ``benchmarks.busy_disk`` writes to the same file system and syncs all the
time. Each game plays a slice that doesn't count first.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

from benchmarks.backlog import empty
from benchmarks.harness import (
    EVENT_TYPE,
    JOURNAL_PREFIX,
    Result,
    Server,
    ask_sink,
    conclude,
    event_data,
    number,
    parser,
    progress,
    save,
    table,
    wait_for_state,
)
from benchmarks.stalls import cpu_clock, worker_thread

MODULE = "benchmarks.long_emits"
GAMES = {"empty": "an empty function", "memory": "emit", "journal": "emit, with a journal"}
_SIZE = 150
_BURST_NS = 1_000_000
_A_BURST = 100
_BURSTS = 2_000  # in a slice
_A_SLICE = _A_BURST * _BURSTS
_EMITS = 10_000_000
_LONG_NS = 50_000  # shorter emits are not kept
_LIMITS_MS = (0.2, 1.0)
_WORST = 10  # so many of the longest are described
_SEED = 12


# In the child.


def _interruptions() -> tuple[int, int]:
    """Return how often this thread had a page fault, and how often it slept; 0 if not known."""
    try:
        import resource
    except ImportError:  # Windows
        return 0, 0
    if not hasattr(resource, "RUSAGE_THREAD"):  # macOS
        return 0, 0
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_minflt + usage.ru_majflt, usage.ru_nvcsw


class Pace:
    """Emits at a steady pace, and keeps what is known of each long emit.

    Args:
        emit: called with a type and data.
    """

    def __init__(self, emit: Callable[..., None]) -> None:
        self._emit = emit
        self._worker_clock = cpu_clock(worker_thread())
        self.forget()

    def forget(self) -> None:
        """Drop the measurements so far."""
        self._emits = 0
        self._long: list[Result] = []

    def play(self) -> None:
        """Play a slice of the game."""
        data = event_data(_SIZE)
        emit = self._emit
        clock, own_clock, worker_clock = (
            time.perf_counter_ns,
            time.thread_time_ns,
            self._worker_clock or int,
        )
        deadline = clock()
        for _ in repeat(None, _BURSTS):
            faults, sleeps = _interruptions()
            last, own_last, worker_last = clock(), own_clock(), worker_clock()
            for _ in repeat(None, _A_BURST):
                emit(EVENT_TYPE, data)
                now, own, worker = clock(), own_clock(), worker_clock()
                if now - last > _LONG_NS:
                    before = faults, sleeps
                    faults, sleeps = _interruptions()
                    self._keep(
                        now - last,
                        own - own_last,
                        worker - worker_last,
                        (faults - before[0], sleeps - before[1]),
                    )
                    now, own, worker = clock(), own_clock(), worker_clock()
                last, own_last, worker_last = now, own, worker
            deadline = max(deadline + _BURST_NS, last)
            time.sleep((deadline - last) / 1e9)
        self._emits += _A_SLICE

    def _keep(self, wall: int, own: int, worker: int, interruptions: tuple[int, int]) -> None:
        faults, sleeps = interruptions
        ours = wall if faults and sleeps else min(wall, own + worker)
        self._long.append(
            {
                "longest_ms": wall / 1e6,
                "own_ms": own / 1e6,
                "worker_ms": worker / 1e6,
                "ours_ms": ours / 1e6,
                "faults": faults,
                "sleeps": sleeps,
            }
        )

    def report(self) -> Result:
        """Return the figures since the last :meth:`forget`."""
        report: Result = {"emits": self._emits}
        knows_ours = self._worker_clock is not None or self._emit is empty
        for name in ("longest_ms", "ours_ms"):
            known = name != "ours_ms" or knows_ours
            lengths = [long[name] for long in self._long]
            report[name] = max(lengths, default=0.0) if known else None
            for limit in _LIMITS_MS:
                count = sum(length > limit for length in lengths) if known else None
                report[f"{name}_beyond_{limit:g}"] = count
        worst = "ours_ms" if knows_ours else "longest_ms"
        self._long.sort(key=lambda long: long[worst], reverse=True)
        return report | {"worst": self._long[:_WORST]}


def play(game: str, url: str, folder: str) -> None:
    """Play a slice for each line on standard input; answer the line ``report`` with the figures."""
    telemetry: Any = None
    if game != "empty":
        from redvsblue_telemetry import start_telemetry  # not imported by an empty function

        settings: dict[str, Any] = {"journal": folder} if game == "journal" else {}
        telemetry = start_telemetry(enabled=True, url=url, **settings)
        wait_for_state(telemetry, "connected")
    pace = Pace(empty if telemetry is None else telemetry.emit)
    pace.play()
    pace.forget()
    print(json.dumps({"game": game}), flush=True)
    for line in sys.stdin:
        if line.strip() == "report":
            print(json.dumps(pace.report() | _stopped(telemetry)), flush=True)
        else:
            pace.play()
            print("{}", flush=True)


def _stopped(telemetry: Any) -> Result:
    if telemetry is None:
        return {}
    telemetry.stop(10)
    stats = telemetry.stats()
    result = {"emitted": stats.emitted, "delivered": stats.delivered, "dropped": stats.dropped}
    if stats.delivered + stats.dropped != stats.emitted:
        result["failure"] = f"not everything was confirmed: {stats}"
    return result


# In the parent.


def measure(emits: int, *, is_disk_busy: bool) -> list[Result]:
    """Let the games play by turns; return the figures of each."""
    chooser = random.Random(_SEED)
    slices = max(1, round(emits / _A_SLICE))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=JOURNAL_PREFIX))
        sink = stack.enter_context(Server("benchmarks.sink"))
        disk = None
        if is_disk_busy:
            disk = stack.enter_context(Server("benchmarks.busy_disk", tempfile.gettempdir()))
        games = {
            name: stack.enter_context(
                Server(MODULE, "--play", name, "--url", sink.url, "--journal", folder)
            )
            for name in GAMES
        }
        for place in range(1, slices + 1):
            if place % 10 == 0:
                progress(f"slice {place} of {slices}")
            for name in chooser.sample(sorted(games), len(games)):
                games[name].ask("play")
        results = [{"game": name} | game.ask("report") for name, game in games.items()]
        delivered = sum(result.get("delivered", 0) for result in results)
        if (arrived := ask_sink(sink.url)["events"]) != delivered:
            results[-1]["failure"] = f"{delivered} events were confirmed, but {arrived} arrived"
        if disk is not None:
            results.append({"game": "disk", **disk.ask("report")})
    return results


def tables(report: Result) -> dict[str, str]:
    """Return the table, by its name in the docs."""
    rows = [
        [
            GAMES[result["game"]],
            f"{result['emits']:,}",
            *(
                number(result[name])
                for part in ("longest_ms", "ours_ms")
                for name in (part, *(f"{part}_beyond_{limit:g}" for limit in _LIMITS_MS))
            ),
        ]
        for result in report["results"]
        if result["game"] in GAMES
    ]
    limits = [f"> {limit:g} ms" for limit in _LIMITS_MS]
    headers = ["", "calls", "longest, ms", *limits, "ours, ms", *limits]
    return {"long-emits": table(headers, rows)}


def main() -> int:
    """Measure, and print the table."""
    commands = parser(__doc__, rounds=1)
    commands.add_argument("--emits", type=int, default=_EMITS, help="default: %(default)s")
    commands.add_argument("--busy-disk", action="store_true", help="keep the disk busy meanwhile")
    commands.add_argument("--play", help="for the benchmark's own use")
    commands.add_argument("--url", help="for the benchmark's own use")
    commands.add_argument("--journal", help="for the benchmark's own use")
    options = commands.parse_args()
    if options.play:
        play(options.play, options.url, options.journal)
        return 0
    emits = _A_SLICE if options.quick else options.emits
    report: Result = {
        "is_disk_busy": options.busy_disk,
        "results": measure(emits, is_disk_busy=options.busy_disk),
    }
    save(options.json, "long-emits", report)
    worst = [
        [GAMES[result["game"]], *(number(value) for value in long.values())]
        for result in report["results"]
        for long in result.get("worst", [])[:3]
    ]
    headers = ["the worst", "wall", "own CPU", "worker's CPU", "ours", "page faults", "sleeps"]
    return conclude(tables(report) | {"worst": table(headers, worst)}, report["results"])


if __name__ == "__main__":
    sys.exit(main())
