"""This SDK and others in the loop of a game: what each costs, and how many events arrive.

    python -m benchmarks.side_by_side [--rounds 5] [--seconds 10] [--quick]
        [--json benchmarks/results/side-by-side.json] [--plots docs/images]

In each round, every SDK gets three measurements in fresh processes, in an order that is shuffled
for each round: a game loop at 60 frames a second with 4 ms of Python work and 100 events of six
fields a frame; a shorter one in which each emit is timed; and five interpreters that import the
SDK. ``benchmarks.game_loop`` describes the measurements, ``benchmarks.peers`` how each SDK is set
up. The sink is on loopback, in a separate process, and new for each measurement. The tables show
the median of the rounds, with the smallest and the largest in brackets.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.game_loop import EVENTS_A_FRAME, FRAME, STOP_TIMEOUT, calibrate
from benchmarks.harness import (
    Result,
    conclude,
    machine,
    number,
    parser,
    progress,
    run_bounded,
    run_child,
    run_rounds,
    spread,
    summary,
    table,
)
from benchmarks.peers import PEERS, RIVALS, Peer, forget_settings, versions

_WORK = 0.004  # seconds in each frame
_EMITS_SHARE = 0.25  # of the seconds, for the loop in which each emit is timed
_IMPORTS = 5
_DEPENDENCIES = "attrs, msgspec, msgspec.json, tenacity, websocket"
_OVERHEAD = 60.0 + STOP_TIMEOUT  # seconds that a child may take beyond its loop
_IMPORT_TIMEOUT = 60.0
_SEED = 20
_ROWS = ("ours", "journal", *RIVALS, "queuehandler", "off", "empty", "none")

Figure = Callable[[Result], float | None]
"""Reads one figure from one peer's round; None if it was not measured."""


# Measuring.


def _import_ms(statement: str, before: str = "pass") -> float:
    """Return how long a fresh interpreter takes for an import, after another statement."""
    code = (
        f"import time\n{before}\nstarted = time.perf_counter_ns()\n{statement}\n"
        "print(time.perf_counter_ns() - started)"
    )
    done = run_bounded([sys.executable, "-c", code], _IMPORT_TIMEOUT)
    if done.returncode:
        raise ValueError(done.stderr.strip()[-600:])
    return int(done.stdout) / 1e6


def _measure_imports(peer: type[Peer]) -> Result:
    """Return the median of some imports; for this SDK also without its dependencies."""
    if not peer.package or not peer.has_own_import:
        return {}
    statement = peer.import_statement
    result = {}
    try:
        _import_ms(statement)  # so that all the bytecode is cached
        times = [_import_ms(statement) for _ in range(_IMPORTS)]
        result["import_ms"] = statistics.median(times)
        if peer.name == "ours":
            own = [_import_ms(statement, f"import {_DEPENDENCIES}") for _ in range(_IMPORTS)]
            result["import_own_ms"] = statistics.median(own)
    except (ValueError, subprocess.TimeoutExpired) as error:
        return {"failure": f"import: {error}"}
    return result


def _measure(peer: type[Peer], seconds: float, iterations: int) -> Result:
    """Return all figures of one peer in one round."""
    task = {"peer": peer.name, "iterations": iterations}
    result: Result = {"peer": peer.name}
    kinds = {"frames": seconds, "emits": seconds * _EMITS_SHARE if peer.emits else 0.0}
    for kind, duration in kinds.items():
        if duration:
            task |= {"kind": kind, "seconds": duration}
            result[kind] = run_child("benchmarks.game_loop", task, 2 * duration + _OVERHEAD)
    result["imports"] = _measure_imports(peer)
    return result


def measure(options: argparse.Namespace) -> Result:
    """Measure all rounds; return the report."""
    chooser = random.Random(_SEED)
    iterations = calibrate(_WORK)
    seconds = 1.0 if options.quick else options.seconds

    def one_round() -> list[Result]:
        results = []
        order = chooser.sample(options.peers, len(options.peers))
        for place, name in enumerate(order, start=1):
            progress(f"{place} of {len(order)}: {name}")
            results.append(_measure(PEERS[name], seconds, iterations))
        return results

    return run_rounds(
        options,
        "side-by-side",
        one_round,
        seconds=seconds,
        iterations=iterations,
        work_ms=_WORK * 1000,
        frame_ms=FRAME * 1000,
        events_a_frame=EVENTS_A_FRAME,
        versions=versions(),
    )


# Figures.


def of(*names: str, scale: float = 1.0) -> Figure:
    """Return a figure by its place in the results."""

    def find(result: Result) -> float | None:
        value = result
        for name in names:
            value = value.get(name) if value else None  # type: ignore[assignment]
        return None if value is None else value * scale  # type: ignore[operator]

    return find


def _arrived(result: Result) -> float | None:
    """Return the percentage of the loop's events that had arrived after the shutdown."""
    frames = result["frames"]
    if not PEERS[result["peer"]].sends or "failure" in frames:
        return None
    return 100 * float(frames["arrived"]) / float(frames["emitted"])


EMIT_US = of("frames", "emit_cpu_ns", scale=1e-3)
IMPORT_OWN_MS = of("imports", "import_own_ms")


def results_of(report: Result, name: str) -> list[Result]:
    """Return the results of one peer, round by round."""
    return [result for result in report["results"] if result["peer"] == name]


def summary_of(report: Result, name: str, figure: Figure) -> Result:
    """Summarize a figure of one peer."""
    return summary([figure(result) for result in results_of(report, name)])


def against(report: Result, figure: Figure, name: str, other: str, *, divide: bool) -> Result:
    """Summarize one peer's figure divided by another's in the same round, or less the other's."""
    by_round = {result["round"]: figure(result) for result in results_of(report, other)}
    figures: list[float | None] = []
    for result in results_of(report, name):
        mine, others = figure(result), by_round.get(result["round"])
        if mine is not None and others is not None and (others or not divide):
            figures.append(mine / others if divide else mine - others)
    return summary(figures)


def cheapest_of(report: Result, figure: Figure) -> str | None:
    """Return the other SDK with the lowest figure."""
    medians = {name: summary_of(report, name, figure)["median"] for name in RIVALS}
    known = {name: value for name, value in medians.items() if value is not None}
    return min(known, key=known.__getitem__, default=None)


# The report.


def _peers(report: Result) -> str:
    """The SDKs side by side."""

    def plain(figure: Figure) -> Callable[[str], Result]:
        return lambda name: summary_of(report, name, figure)

    def beyond(figure: Figure) -> Callable[[str], Result]:
        return lambda name: against(report, figure, name, "none", divide=False)

    columns = {
        "an emit, µs": plain(EMIT_US),
        "times ours": lambda name: against(report, EMIT_US, name, "ours", divide=True),
        "frame p99 beyond none, ms": beyond(of("frames", "frame", "p99_us", scale=1e-3)),
        "wake-up lateness p99 beyond none, ms": beyond(
            of("frames", "lateness", "p99_us", scale=1e-3)
        ),
        "process CPU, %": plain(of("frames", "cpu_share", scale=100)),
        "arrived, %": plain(_arrived),
        "memory, MB": plain(of("frames", "memory_bytes", scale=1e-6)),
        "import, ms": plain(of("imports", "import_ms")),
    }
    rows = [
        [PEERS[name].title, *(number(column(name)["median"]) for column in columns.values())]
        for name in _ROWS
        if results_of(report, name)
    ]
    return table(["", *columns], rows)


def _emits(report: Result) -> str:
    """Single emits: the usual and the longest."""
    figures = [of("emits", "emit", name) for name in ("p50_us", "p99_us", "max_us")]
    rows = [
        [PEERS[name].title, *(spread(summary_of(report, name, figure)) for figure in figures)]
        for name in _ROWS
        if results_of(report, name) and PEERS[name].emits
    ]
    return table(["µs", "p50", "p99", "max"], rows)


def _setups(report: Result) -> str:
    """How each SDK was called."""
    rows = [
        [
            PEERS[name].title,
            report["versions"].get(PEERS[name].package) or "-",
            f"`{PEERS[name].call}`",
            PEERS[name].destination,
            PEERS[name].deviation,
        ]
        for name in _ROWS
        if results_of(report, name) and PEERS[name].sends
    ]
    headers = ["", "version", "the call", "sends", "not the default"]
    return table(headers, rows, has_figures=False)


def tables(report: Result) -> dict[str, str]:
    """Return the tables, by their names in the docs."""
    return {"peers": _peers(report), "emits": _emits(report), "setups": _setups(report)}


def _failures(results: Sequence[Result]) -> list[Result]:
    """Collect the failures, and the errors that peers and sink noted."""
    parts = [
        (result["peer"], kind, part)
        for result in results
        for kind, part in result.items()
        if isinstance(part, dict)
    ]
    failed = [(peer, kind, part["failure"]) for peer, kind, part in parts if "failure" in part]
    noted = [
        (peer, kind, text)
        for peer, kind, part in parts
        for name in ("stop_failures", "errors")
        for text in part.get(name, [])
    ]
    return [
        {"failure": f"{peer}, {kind}: {text.splitlines()[-1]}"}
        for peer, kind, text in failed + noted
    ]


def main() -> int:
    """Measure, and print the tables."""
    commands = parser(__doc__, rounds=5)
    commands.add_argument("--seconds", type=float, default=10.0, help="default: %(default)s")
    commands.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME")
    commands.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the figures into it")
    options = commands.parse_args()
    forget_settings()
    report = measure(options)
    if options.plots:
        from benchmarks.plots import draw  # needs matplotlib

        draw({"machine": machine(), **report}, options.plots)
    return conclude(tables(report), _failures(report["results"]))


if __name__ == "__main__":
    sys.exit(main())
