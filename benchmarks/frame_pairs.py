"""What telemetry adds to a frame, where the machine's own unrest is larger than that.

    python -m benchmarks.frame_pairs [--pairs 60] [--json benchmarks/results/frame-pairs.json]

Two games run, each in a process of its own: one with this SDK, one with nothing. They take turns, a
second each, in an order that is drawn anew for each pair, so what else the machine does hits both.
The game is that of ``benchmarks.game_loop``: 60 frames a second, 4 ms of work, 100 events a frame.
Of all frames of each, the percentiles are taken, and their difference; in brackets stands where
95 of 100 differences lie if the pairs are drawn again, with replacement (the bootstrap).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.game_loop import Loop, calibrate
from benchmarks.measuring import ROOT, Result, Server, environment, print_table, progress, save
from benchmarks.peers import PEERS, forget_settings

MODULE = "benchmarks.frame_pairs"
_SLICE = 1.0  # seconds
_WORK = 0.004  # seconds in each frame
_DRAWS = 500
_SEED = 7
_FIGURES = ("frame p50", "frame p99", "frame p99.9", "lateness p50", "lateness p99")

Slice = dict[str, list[int]]


# In the child.


def play(name: str, iterations: int) -> None:
    """Run a slice of the game for each line that comes in, and tell its frames."""
    forget_settings()
    with Server("benchmarks.sink", "--keep") as sink:
        peer = PEERS[name]()
        peer.load()
        peer.start(sink.port)
        peer.wait_until_ready()
        loop = Loop(peer, iterations)
        for _ in sys.stdin:
            loop.forget()
            loop.run(_SLICE, emit=loop.emit_block)
            told = {"frames": loop.frames.tolist(), "lateness": loop.lateness.tolist()}
            print(json.dumps(told), flush=True)
        peer.stop(10)


# In the parent.


class Game:
    """A child that plays."""

    def __init__(self, name: str, iterations: int) -> None:
        self.slices: list[Slice] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, "--play", name, "--iterations", str(iterations)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def play(self) -> Slice:
        """One slice."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("play", file=self._process.stdin, flush=True)
        told: Slice = json.loads(self._process.stdout.readline())
        return told

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def _quantile(values: Sequence[int], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1e6


def figures(slices: Sequence[Slice]) -> dict[str, float]:
    """The percentiles of all frames in some slices."""
    frames = [frame for part in slices for frame in part["frames"]]
    late = [wake for part in slices for wake in part["lateness"]]
    return dict(
        zip(
            _FIGURES,
            (
                _quantile(frames, 0.5),
                _quantile(frames, 0.99),
                _quantile(frames, 0.999),
                _quantile(late, 0.5),
                _quantile(late, 0.99),
            ),
            strict=True,
        )
    )


def compare(ours: Sequence[Slice], floor: Sequence[Slice]) -> dict[str, Result]:
    """Each figure of both, the difference, and how sure that is."""
    chooser = random.Random(_SEED)
    mine, its = figures(ours), figures(floor)
    draws: list[dict[str, float]] = []
    for _ in range(_DRAWS):
        chosen = chooser.choices(range(len(ours)), k=len(ours))
        drawn = figures([ours[i] for i in chosen]), figures([floor[i] for i in chosen])
        draws.append({name: drawn[0][name] - drawn[1][name] for name in _FIGURES})
    compared: dict[str, Result] = {}
    for name in _FIGURES:
        spread = sorted(draw[name] for draw in draws)
        compared[name] = {
            "ours": mine[name],
            "floor": its[name],
            "median": mine[name] - its[name],
            "min": spread[int(0.025 * _DRAWS)],
            "max": spread[int(0.975 * _DRAWS)],
        }
    return compared


def measure(pairs: int) -> dict[str, Result]:
    """Let both play by turns."""
    iterations = calibrate(_WORK)
    chooser = random.Random(_SEED)
    slices: dict[str, list[Slice]] = {"ours": [], "none": []}
    with contextlib.ExitStack() as stack:
        games = {name: Game(name, iterations) for name in slices}
        for game in games.values():
            stack.callback(game.close)
            game.play()  # to warm up
        for number in range(1, pairs + 1):
            if number % 10 == 0:
                progress(f"pair {number} of {pairs}")
            for name in chooser.sample(sorted(games), len(games)):
                slices[name].append(games[name].play())
    return compare(slices["ours"], slices["none"])


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here as well")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--iterations", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        play(options.play, options.iterations)
        return 0
    compared: dict[str, Any] = measure(options.pairs)
    save(options.json, "frame-pairs", {"pairs": options.pairs, "figures": compared})
    columns = ("ours", "floor", "median", "min", "max")
    print_table(
        "Milliseconds",
        ["", "with telemetry", "without", "difference", "least", "greatest"],
        [[name, *(round(row[column], 3) for column in columns)] for name, row in compared.items()],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
