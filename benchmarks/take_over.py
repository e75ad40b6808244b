"""How long the next start takes for the events of a killed game, and what the game notices of it.

    python -m benchmarks.take_over [--events N] [--rounds N] [--quick] [--json FILE]

A game emits 1,000,000 events of 150 bytes while it is offline, with a journal, and then it is gone
without any clean-up, as if it were killed. The next one takes the events over, and a server
confirms them by acks. The clock runs from the call of ``start_telemetry`` to the last confirmation.
Meanwhile the next game

- *sleeps* for a frame at a time,
- *plays*: 4 ms of Python work in each frame, of 1/60 s, or
- *never rests*: it does nothing but read the clock. This shows how long the worker keeps the GIL,
  measured as in ``benchmarks.stalls``; most of the time is that which the game doesn't give it.

The journal is in the folder for temporary files, which ``TMPDIR`` names; it should be on a disk.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.backlog import offline
from benchmarks.game_loop import FRAME, calibrate, work
from benchmarks.harness import (
    EVENT_TYPE,
    JOURNAL_PREFIX,
    Result,
    Server,
    answer,
    ask_sink,
    conclude,
    event_data,
    grouped,
    median,
    number,
    parser,
    peak_bytes,
    run_child,
    run_rounds,
    spread,
    summary,
    table,
)
from benchmarks.stalls import Watch, worker_thread

MODULE = "benchmarks.take_over"
STYLES = ("sleeps", "plays", "never rests")
_EVENTS = 1_000_000
_SIZE = 150
_MAX_BYTES = 1 << 30  # the limit of the journal
_WORK = 0.004  # seconds in each frame
_TIMEOUT = 120.0  # seconds for a game


# In the child.


def leave_behind(task: Result) -> Result:
    """Emit, and leave everything in the journal."""
    data = event_data(_SIZE)
    telemetry = offline(None, journal=task["journal"], journal_max_bytes=_MAX_BYTES)
    started = time.perf_counter()
    for _ in repeat(None, task["events"]):
        telemetry.emit(EVENT_TYPE, data)
    seconds = time.perf_counter() - started
    buffered = telemetry.stats().buffered
    if buffered != task["events"]:
        raise RuntimeError(f"{buffered} events are buffered, not {task['events']}")
    return {"emitted_in_seconds": seconds, "journal_bytes": _size_of(task["journal"])}


def _size_of(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def take_over(task: Result) -> Result:
    """Start again, and wait until all of it is confirmed."""
    from redvsblue_telemetry import start_telemetry

    started = time.perf_counter()
    telemetry: Any = start_telemetry(
        enabled=True, url=task["url"], journal=task["journal"], journal_max_bytes=_MAX_BYTES
    )
    call = time.perf_counter() - started
    watch = Watch(worker_thread(), keeps_places=False)

    def is_over() -> bool:
        return bool(telemetry.stats().delivered >= task["events"])

    match task["style"]:
        case "never rests":
            watch.look(task["seconds"], is_over=is_over)
        case "plays":
            _play(task, is_over)
        case _:
            while not is_over() and time.perf_counter() - started < task["seconds"]:
                time.sleep(FRAME)
    seconds = time.perf_counter() - started
    telemetry.stop(10)
    stats = telemetry.stats()
    if stats.recovered != task["events"] or stats.delivered != stats.recovered + stats.emitted:
        raise RuntimeError(f"not all of {task['events']} events were taken over: {stats}")
    if left := [path.name for path in Path(task["journal"]).rglob("*")]:
        raise RuntimeError(f"these were left in the journal: {left[:5]}")
    result = {"seconds": seconds, "call_ms": call * 1000, "peak_bytes": peak_bytes()}
    if task["style"] == "never rests":
        result |= watch.summary()
        result["seconds"] = seconds
    return result | {"delivered": stats.delivered}


def _play(task: Result, is_over: Callable[[], bool]) -> None:
    """Play the game until it is over."""
    deadline = time.perf_counter()
    end = deadline + task["seconds"]
    while not is_over() and deadline < end:
        work(task["iterations"])
        now = time.perf_counter()
        deadline = max(deadline + FRAME, now)
        time.sleep(deadline - now)


KINDS = {"leave behind": leave_behind, "take over": take_over}


# In the parent.


def _round(sink: Server, events: int, iterations: int) -> list[Result]:
    results = []
    for style in STYLES:
        with tempfile.TemporaryDirectory(prefix=JOURNAL_PREFIX) as folder:
            task = {"journal": folder, "events": events, "iterations": iterations}
            task |= {"style": style, "url": sink.url, "seconds": _TIMEOUT - 20}
            result = run_child(MODULE, task | {"kind": "leave behind"}, _TIMEOUT)
            before = ask_sink(sink.url)["events"]
            if "failure" not in result:
                result |= run_child(MODULE, task | {"kind": "take over"}, _TIMEOUT)
            arrived = ask_sink(sink.url)["events"] - before
            if "failure" not in result and arrived != result["delivered"]:
                result["failure"] = f"{result['delivered']} were confirmed, but {arrived} arrived"
        results.append({"style": style, "events": events} | result)
    return results


def tables(report: Result) -> dict[str, str]:
    """Return the table, by its name in the docs."""
    rows = []
    for (style, events), group in grouped(report["results"], "style", "events").items():
        beyond = [result["hold_ms_beyond"] for result in group if "hold_ms_beyond" in result]
        holds = [result.get("longest_hold_ms") for result in group]
        rows.append(
            [
                f"{events:,}, the game {style}",
                spread(summary([result.get("seconds") for result in group])),
                number((median(group, "peak_bytes") or 0) / 1e6),
                number(median(group, "call_ms")),
                spread(summary(holds)),
                f"{sum(counts['1'] for counts in beyond):,}" if beyond else "-",
            ]
        )
    headers = ["events", "seconds", "peak, MB", "call to start, ms", "longest hold, ms", "> 1 ms"]
    return {"take-over": table(headers, rows)}


def main() -> int:
    """Measure, and print the table."""
    commands = parser(__doc__, rounds=3)
    commands.add_argument("--events", type=int, default=_EVENTS, help="default: %(default)s")
    options = commands.parse_args()
    if options.child:
        answer(options.child, KINDS)
        sys.stdout.flush()
        os._exit(0)  # the journal is left as it is, as by a kill
    events = 20_000 if options.quick else options.events
    iterations = calibrate(_WORK)
    with Server("benchmarks.sink", "--acks") as sink:
        report = run_rounds(options, "take-over", lambda: _round(sink, events, iterations))
    return conclude(tables(report), report["results"])


if __name__ == "__main__":
    sys.exit(main())
