"""This SDK and others side by side, in the loop of a game: what each costs, and what arrives.

    python -m benchmarks.side_by_side [--rounds 5] [--seconds 10]
        [--json benchmarks/results/side-by-side.json] [--plots docs/images] [--markdown]

In each round every SDK gets, in a fresh process and in an order that is shuffled anew: a game loop
at 60 frames a second with 4 ms of Python work and 100 events of six fields a frame; a shorter one
in which each emit is timed; and five fresh interpreters that import it. ``benchmarks.game_loop``
says exactly what is measured and how, ``benchmarks.peers`` how each SDK is set up. The sink is on
loopback, in a process of its own, and new for each measurement. Shown is the median over the
rounds, and in brackets the least and the greatest.

``--report FILE`` shows (and draws) what was measured earlier.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.game_loop import EVENTS_A_FRAME, FRAME, STOP_TIMEOUT, calibrate
from benchmarks.measuring import (
    Result,
    cell,
    failures,
    machine,
    progress,
    run_bounded,
    run_child,
    save,
    summary,
)
from benchmarks.peers import PEERS, RIVALS, Peer, forget_settings, versions

_WORK = 0.004  # seconds in each frame
_EMITS_SHARE = 0.25  # of the seconds, for the loop in which each emit is timed
_IMPORTS = 5
_DEPENDENCIES = "attrs, msgspec, msgspec.json, tenacity, websocket"
_OVERHEAD = 60.0 + STOP_TIMEOUT  # seconds that a child may take beyond its loop
_IMPORT_TIMEOUT = 60.0
_SEED = 20

Figure = Callable[[Result], float | None]
"""What a column of the report takes from one peer's round."""


# Measuring.


def _import_ms(statement: str, before: str = "pass") -> float:
    """How long a fresh interpreter takes for an import, once something else is imported."""
    code = (
        f"import time\n{before}\nstarted = time.perf_counter_ns()\n{statement}\n"
        "print(time.perf_counter_ns() - started)"
    )
    done = run_bounded([sys.executable, "-c", code], _IMPORT_TIMEOUT)
    if done.returncode:
        raise ValueError(done.stderr.strip()[-600:])
    return int(done.stdout) / 1e6


def _measure_imports(peer: type[Peer]) -> Result:
    """The median of some imports; for this SDK also without what it depends on."""
    if not peer.package or peer.name == "off":
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
    """All of one peer's figures of one round."""
    task = {"peer": peer.name, "iterations": iterations}
    result: Result = {"peer": peer.name}
    kinds = {"frames": seconds, "emits": seconds * _EMITS_SHARE if peer.emits else 0.0}
    for kind, duration in kinds.items():
        if duration:
            task |= {"kind": kind, "seconds": duration}
            result[kind] = run_child("benchmarks.game_loop", task, 2 * duration + _OVERHEAD)
    result["imports"] = _measure_imports(peer)
    return result


def measure(rounds: int, seconds: float, names: Sequence[str], path: Path | None) -> Result:
    """All rounds. What is there is written after each peer, so a run that is cut short is kept."""
    chooser = random.Random(_SEED)
    iterations = calibrate(_WORK)
    report: Result = {
        "rounds": rounds,
        "seconds": seconds,
        "iterations": iterations,
        "work_ms": _WORK * 1000,
        "frame_ms": FRAME * 1000,
        "events_a_frame": EVENTS_A_FRAME,
        "versions": versions(),
        "results": [],
    }
    for number in range(1, rounds + 1):
        order = chooser.sample(names, len(names))
        for place, name in enumerate(order, start=1):
            progress(f"round {number} of {rounds}, {place} of {len(order)}: {name}")
            result = _measure(PEERS[name], seconds, iterations)
            for failure in _failures([result]):
                progress(f"  failure: {failure}")
            report["results"].append({"round": number} | result)
            save(path, "side-by-side", report)
    return {"machine": machine(), **report}


# Figures.


def of(part: str, *names: str, scale: float = 1.0) -> Figure:
    """A figure by its place in the results; None if it was not measured."""

    def find(result: Result) -> float | None:
        value = result.get(part)
        for name in names:
            value = value.get(name) if value else None
        return None if value is None else value * scale

    return find


def _share(name: str) -> Figure:
    """Events of the loop that had arrived, in percent of those that were emitted."""

    def find(result: Result) -> float | None:
        frames = result["frames"]
        if not PEERS[result["peer"]].sends or "failure" in frames:
            return None
        return 100 * float(frames[name]) / float(frames["emitted"])

    return find


GAME_THREAD: dict[str, Figure] = {
    "emit, CPU µs": of("frames", "emit_cpu_ns", scale=1e-3),
    "tight loop, CPU µs": of("emits", "tight_cpu_ns", scale=1e-3),
    "emit p50 µs": of("emits", "emit", "p50_us"),
    "p99 µs": of("emits", "emit", "p99_us"),
    "max µs": of("emits", "emit", "max_us"),
}
FRAMES: dict[str, Figure] = {
    "frame p50 ms": of("frames", "frame", "p50_us", scale=1e-3),
    "p99 ms": of("frames", "frame", "p99_us", scale=1e-3),
    "max ms": of("frames", "frame", "max_us", scale=1e-3),
    "wake-up late p99 ms": of("frames", "lateness", "p99_us", scale=1e-3),
    "late max ms": of("frames", "lateness", "max_us", scale=1e-3),
    "overrun frames": of("frames", "overruns"),
}
FOOTPRINT: dict[str, Figure] = {
    "arrived in the loop %": _share("arrived_in_time"),
    "after shutdown %": _share("arrived"),
    "repeats": of("frames", "repeats"),
    "process CPU %": of("frames", "cpu_share", scale=100),
    "of it background %": of("frames", "background_cpu_share", scale=100),
    "memory MB": of("frames", "memory_bytes", scale=1e-6),
    "sent B/event": of("frames", "bytes_per_event"),
    "import ms": of("imports", "import_ms"),
    "set-up ms": of("frames", "start_ms"),
}


def results_of(report: Result, name: str) -> list[Result]:
    return [result for result in report["results"] if result["peer"] == name]


def names_of(report: Result) -> list[str]:
    """The peers that were measured, in their usual order."""
    measured = {result["peer"] for result in report["results"]}
    return [name for name in PEERS if name in measured]


def summary_of(report: Result, name: str, figure: Figure) -> Result:
    return summary([figure(result) for result in results_of(report, name)])


def against(report: Result, figure: Figure, name: str, other: str, *, divide: bool) -> Result:
    """One peer's figure over another's, or beyond it, in each round."""
    by_round = {result["round"]: figure(result) for result in results_of(report, other)}
    figures: list[float | None] = []
    for result in results_of(report, name):
        mine, others = figure(result), by_round.get(result["round"])
        if mine is not None and others is not None and (others or not divide):
            figures.append(mine / others if divide else mine - others)
    return summary(figures)


def cheapest_of(report: Result, figure: Figure) -> str | None:
    """The SDK of somebody else whose figure is the lowest."""
    medians = {name: summary_of(report, name, figure)["median"] for name in RIVALS}
    known = {name: value for name, value in medians.items() if value is not None}
    return min(known, key=known.__getitem__, default=None)


def _comparisons(report: Result) -> list[list[str]]:
    """What the SDK promises, as ratios and differences within a round."""
    emit, frame, late = (
        GAME_THREAD["emit, CPU µs"],
        FRAMES["p99 ms"],
        FRAMES["wake-up late p99 ms"],
    )
    rows = []
    cheapest = cheapest_of(report, emit)
    for name in (*RIVALS, "queuehandler"):
        ratio = against(report, emit, name, "ours", divide=True)
        mark = ", the cheapest SDK" if name == cheapest else ""
        rows.append([f"emit: {PEERS[name].title}{mark}, times this SDK's", spread(ratio)])
    tight = GAME_THREAD["tight loop, CPU µs"]
    for title, figure in (("in the frame", emit), ("in a tight loop", tight)):
        ratio = against(report, figure, "off", "empty", divide=True)
        rows.append([f"emit when off {title}, times an empty function's", spread(ratio)])
    for title, figure in (("frame p99", frame), ("wake-up lateness p99", late)):
        beyond = against(report, figure, "ours", "none", divide=False)
        rows.append([f"{title} beyond no telemetry, ms", spread(beyond)])
    own = summary_of(report, "ours", of("imports", "import_own_ms"))
    rows.append(["import beyond its dependencies, ms", spread(own)])
    return [row for row in rows if row[1] != "-"]


def _failures(results: Sequence[Result]) -> list[str]:
    """What went wrong, and what is odd: each once."""
    parts = [
        {"failure": f"{result['peer']}, {kind}: {part['failure'].splitlines()[-1]}"}
        for result in results
        for kind, part in result.items()
        if isinstance(part, dict) and "failure" in part
    ]
    odd = [
        {"failure": f"{result['peer']}: {text}"}
        for result in results
        for kind in ("frames", "emits")
        for name in ("stop_failures", "errors")
        for text in result.get(kind, {}).get(name, [])
    ]
    return failures(parts + odd)


# The report.


def spread(figures: Result) -> str:
    """The median, with the least and the greatest in brackets where there are several."""
    if figures["median"] is None:
        return "-"
    middle, least, most = (number(figures[name]) for name in ("median", "min", "max"))
    return middle if least == most else f"{middle} ({least} to {most})"


def number(value: float) -> str:
    """Three digits that mean something, without more than three decimals."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "-"
    decimals = min(3, max(0, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _table(
    title: str,
    headers: Sequence[str],
    rows: list[list[str]],
    *,
    markdown: bool,
    has_figures: bool = True,
) -> str:
    """A table, aligned, as plain text or Markdown; figures to the right."""
    align = str.rjust if has_figures else str.ljust
    left, between, right = ("| ", " | ", " |") if markdown else ("", "  ", "")
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = []
    for row in (headers, *rows):
        texts = [row[0].ljust(widths[0]), *map(align, row[1:], widths[1:])]
        lines.append((left + between.join(texts) + right).rstrip())
    ending = ":" if has_figures else "-"
    rules = ["-" * widths[0], *("-" * (width - 1) + ending for width in widths[1:])]
    plain_rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines.insert(1, "| " + " | ".join(rules) + " |" if markdown else plain_rule)
    return "\n".join([f"{'### ' * markdown}{title}", "", *lines, ""])


def describe(report: Result, *, markdown: bool) -> str:
    """The whole report."""
    names = names_of(report)
    sections = {
        "The game's thread": GAME_THREAD,
        "The frame": FRAMES,
        "Delivery and footprint": FOOTPRINT,
    }
    texts = [
        _table(
            title,
            ["", *columns],
            [
                [PEERS[name].title]
                + [spread(summary_of(report, name, figure)) for figure in columns.values()]
                for name in names
            ],
            markdown=markdown,
        )
        for title, columns in sections.items()
    ]
    texts.append(
        _table("Within each round", ["", "median"], _comparisons(report), markdown=markdown)
    )
    setups = [
        [peer.title, _version(report, peer), peer.destination, peer.call, peer.deviation]
        for peer in (PEERS[name] for name in names)
    ]
    headers = ["", "version", "sends", "the call", "not the default"]
    texts.append(
        _table("How each was set up", headers, setups, markdown=markdown, has_figures=False)
    )
    texts += [f"failure: {failure}" for failure in _failures(report["results"])]
    return "\n".join(texts)


def _version(report: Result, peer: Peer | type[Peer]) -> str:
    return cell(report["versions"].get(peer.package)) if peer.package else "-"


def main() -> int:
    """Measure, or read what was measured; show it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the figures into it")
    parser.add_argument("--markdown", action="store_true", help="tables for the docs")
    parser.add_argument("--report", type=Path, metavar="FILE", help="show this, measure nothing")
    options = parser.parse_args()
    if options.report and options.plots:
        parser.error("--plots draws what is measured in the same run: a file has no histograms")
    forget_settings()
    started = time.monotonic()
    if options.report:
        report = json.loads(options.report.read_text())
    else:
        report = measure(options.rounds, options.seconds, options.peers, options.json)
        progress(f"{time.monotonic() - started:.0f} s")
    print(describe(report, markdown=options.markdown))
    if options.plots:
        from benchmarks.plots import draw  # matplotlib, only where it is asked for

        draw(report, options.plots)
    return 1 if any("failure" in r["frames"] for r in report["results"]) else 0


if __name__ == "__main__":
    sys.exit(main())
