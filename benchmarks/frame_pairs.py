"""How much telemetry adds to a frame, where the machine's noise is larger than that.

    python -m benchmarks.frame_pairs [--pairs 60] [--json benchmarks/results/frame-pairs.json]
    python -m benchmarks.frame_pairs --journal [--json benchmarks/results/journal-pairs.json]

Two games run, each in a separate process: one with this SDK, one with nothing. They take turns of a
second each, in a random order within each pair, so the machine's other load hits both. The game is
that of ``benchmarks.game_loop``: 60 frames a second, 4 ms of work, 100 events a frame. The table
shows percentiles over all frames of each game, and their difference; the brackets hold 95 of 100
differences when the pairs are drawn again with replacement (the bootstrap).

With ``--journal``, both games have this SDK, one with a journal and one without, and a third
process (``benchmarks.busy_disk``) writes to the same file system and syncs all the time. The
journal is in the folder for temporary files, which ``TMPDIR`` names; it should be on a disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.game_loop import Loop, calibrate
from benchmarks.harness import (
    Result,
    Server,
    conclude,
    number,
    progress,
    quantile,
    save,
    spread,
    table,
)
from benchmarks.peers import PEERS, forget_settings

MODULE = "benchmarks.frame_pairs"
_SLICE = 1.0  # seconds
_WORK = 0.004  # seconds in each frame
_DRAWS = 500
_SEED = 7

Slice = dict[str, list[int]]


# In the child.


def play(name: str, iterations: int) -> None:
    """Run a slice of the game for each line on standard input, and print its frames."""
    forget_settings()
    with Server("benchmarks.sink", "--keep") as sink:
        peer = PEERS[name]()
        peer.load()
        peer.start(sink.port)
        peer.wait_until_ready()
        loop = Loop(peer, iterations)
        print(json.dumps({"peer": name}), flush=True)
        for _ in sys.stdin:
            loop.forget()
            loop.run(_SLICE, emit=loop.emit_block)
            part = {"frames": loop.frames.tolist(), "lateness": loop.lateness.tolist()}
            print(json.dumps(part), flush=True)
        peer.stop(3)


# In the parent.


_QUANTILES = (
    ("frame p50", "frames", 0.5),
    ("frame p99", "frames", 0.99),
    ("frame p99.9", "frames", 0.999),
    ("lateness p50", "lateness", 0.5),
    ("lateness p99", "lateness", 0.99),
)


def figures(slices: Sequence[Slice]) -> dict[str, float]:
    """Return the percentiles of all frames in some slices, in milliseconds."""
    pooled = {
        kind: sorted(time for part in slices for time in part[kind])
        for kind in ("frames", "lateness")
    }
    return {name: quantile(pooled[kind], share) / 1e6 for name, kind, share in _QUANTILES}


def compare(ours: Sequence[Slice], floor: Sequence[Slice]) -> dict[str, Result]:
    """Return each figure of both games, the difference, and its range."""
    chooser = random.Random(_SEED)
    mine, its = figures(ours), figures(floor)
    draws: list[dict[str, float]] = []
    for _ in range(_DRAWS):
        chosen = chooser.choices(range(len(ours)), k=len(ours))
        drawn = figures([ours[i] for i in chosen]), figures([floor[i] for i in chosen])
        draws.append({name: drawn[0][name] - drawn[1][name] for name in mine})
    compared: dict[str, Result] = {}
    for name in mine:
        differences = sorted(draw[name] for draw in draws)
        compared[name] = {
            "ours": mine[name],
            "floor": its[name],
            "median": mine[name] - its[name],
            "min": differences[int(0.025 * _DRAWS)],
            "max": differences[int(0.975 * _DRAWS)],
        }
    return compared


def measure(pairs: int, ours: str, floor: str, *, is_disk_busy: bool) -> Result:
    """Let two games play by turns; return the comparison."""
    iterations = calibrate(_WORK)
    chooser = random.Random(_SEED)
    slices: dict[str, list[Slice]] = {ours: [], floor: []}
    with contextlib.ExitStack() as stack:
        command = ("--iterations", iterations, "--play")
        games = {name: stack.enter_context(Server(MODULE, *command, name)) for name in slices}
        for game in games.values():
            game.ask("play")  # to warm up
        disk = None
        if is_disk_busy:
            disk = Server("benchmarks.busy_disk", tempfile.gettempdir())
            stack.enter_context(disk)
        for pair in range(1, pairs + 1):
            if pair % 10 == 0:
                progress(f"pair {pair} of {pairs}")
            for name in chooser.sample(sorted(games), len(games)):
                slices[name].append(games[name].ask("play"))
        figures = compare(slices[ours], slices[floor])
        return {"figures": figures, "disk": disk and disk.ask("report")}


def tables(report: Result) -> dict[str, str]:
    """Return the table, by its name in the docs."""
    rows = [
        [name, number(row["ours"]), number(row["floor"]), spread(row)]
        for name, row in report["figures"].items()
    ]
    name, what = "pairs", "telemetry"
    if report["benchmark"] == "journal-pairs":
        name, what = "journal-pairs", "a journal"
    return {name: table(["ms", f"with {what}", "without", "difference"], rows)}


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--journal", action="store_true", help="compare a journal with none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--iterations", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        play(options.play, options.iterations)
        return 0
    ours, floor = ("journal", "ours") if options.journal else ("ours", "none")
    measured = measure(options.pairs, ours, floor, is_disk_busy=options.journal)
    report = {"pairs": options.pairs, **measured}
    name = "journal-pairs" if options.journal else "frame-pairs"
    save(options.json, name, report)
    return conclude(tables({"benchmark": name, **report}), [])


if __name__ == "__main__":
    sys.exit(main())
