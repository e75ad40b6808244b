"""How much of the game's thread a call of ``frame`` takes, beside an empty call.

    python -m benchmarks.frame_cost [--json benchmarks/results/frame-cost.json]

In each round, a fresh process calls each of these in turn, two thousand times in a row and three
hundred times over, in a random order, so that the machine's other load hits all of them:

- ``empty``: an empty Python function, called as ``telemetry.empty()``.
- ``clock``: ``time.perf_counter()`` alone, which every measurement of a frame has to call.
- ``frame``: ``telemetry.frame()`` while telemetry is on, and the worker takes the ticks.
- ``frame_off``: the same while telemetry is off.

The cost of the loop is subtracted. A figure is the median over the three hundred, and the ratios
are those of medians. The last row is how long the worker keeps the interpreter for one piece of
ticks, of which it takes one at a time.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from itertools import repeat
from types import SimpleNamespace
from typing import Any

from benchmarks.backlog import offline
from benchmarks.harness import (
    Result,
    answer,
    conclude,
    parser,
    run_child,
    run_rounds,
    spread,
    summary,
    table,
)

MODULE = "benchmarks.frame_cost"
_CALLS = 2_000
_SAMPLES = 300
_TIMEOUT = 120.0  # seconds
_TITLES = {
    "empty": "an empty call",
    "clock": "`time.perf_counter()` alone",
    "frame": "`telemetry.frame()`",
    "frame_off": "`telemetry.frame()`, telemetry off",
}

_LOOP = """
def run(target, calls=repeat, clock=clock):
    since = clock()
    for _ in calls(None, {count}):
        {call}
    return clock() - since
"""


# In the child.


def _loop(call: str) -> Callable[[Any], float]:
    """Return a function that makes the call many times; it returns the seconds."""
    names: dict[str, Any] = {"repeat": repeat, "clock": time.perf_counter}
    exec(_LOOP.format(count=_CALLS, call=call), names)
    run: Callable[[Any], float] = names["run"]
    return run


def measure(task: Result) -> Result:
    """Return the nanoseconds of one call of each kind."""
    from redvsblue_telemetry import Telemetry, TelemetrySettings

    def empty() -> None:
        pass

    on: Any = offline(None, frame_interval=3600.0)
    off: Any = Telemetry(TelemetrySettings(enabled=False))
    plain = SimpleNamespace(empty=empty, clock=time.perf_counter)
    cases = {
        "loop": (_loop("pass"), plain),
        "empty": (_loop("target.empty()"), plain),
        "clock": (_loop("target.clock()"), plain),
        "frame": (_loop("target.frame()"), on),
        "frame_off": (_loop("target.frame()"), off),
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(task["samples"]):
        for name in random.sample(list(cases), len(cases)):
            run, target = cases[name]
            found[name].append(run(target) / _CALLS * 1e9)
    medians = {name: statistics.median(times) for name, times in found.items()}
    loop = medians.pop("loop")
    return {name: time - loop for name, time in medians.items()} | {"piece_us": _piece()}


def _piece() -> float:
    """Return the microseconds that the worker takes for one piece of ticks."""
    from redvsblue_telemetry import _frames

    frames = _frames.Frames(
        print,  # not called here
        print,
        print,
        interval=3600.0,
        hang_timeout=None,
        max_event_bytes=16384,
    )
    now, times = 0.0, []
    for _ in range(200):
        piece = []
        for _ in range(_frames._PIECE):
            now += random.gauss(1 / 60, 0.002)
            piece.append(now)
        since = time.perf_counter()
        frames._count(piece)
        times.append((time.perf_counter() - since) * 1e6)
    return statistics.median(times)


# In the parent.


def tables(report: Result) -> dict[str, str]:
    """Return the table, by its name in the docs."""
    results = [result for result in report["results"] if "failure" not in result]
    rows = []
    for name, title in _TITLES.items():
        cost = summary([result[name] for result in results])
        ratio = summary([result[name] / result["empty"] for result in results])
        rows.append([title, spread(cost), spread(ratio)])
    piece = summary([result["piece_us"] * 1000 for result in results])
    rows.append(["the worker, for 256 frames", spread(piece), "-"])
    return {"frame-cost": table(["", "ns", "of an empty call"], rows)}


def main() -> int:
    """Measure and print."""
    options = parser(__doc__, rounds=9).parse_args()
    if options.child:
        return answer(options.child, {"cost": measure})
    task = {"kind": "cost", "samples": 20 if options.quick else _SAMPLES}
    report = run_rounds(options, "frame-cost", lambda: [run_child(MODULE, task, _TIMEOUT)])
    return conclude(tables(report), report["results"])


if __name__ == "__main__":
    sys.exit(main())
