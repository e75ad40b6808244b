"""Ten seconds of battle, a real server beside it, and the two ends' counts compared.

    python examples/demo.py

The receiver runs in a process of its own, so that it shares neither the interpreter nor its lock
with the game. Exit code 0: every event arrived once; 1: something differs; 2: telemetry is switched
off.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from battle import BattleEngine
from demo_report import Progress, differences, print_ledgers
from frame_times import FrameTimes
from receiver_process import receiver_process

from redvsblue_telemetry import Telemetry, start_telemetry

ARRIVED_ONCE, DIFFERS, SWITCHED_OFF, INTERRUPTED = 0, 1, 2, 130


def main() -> int:
    """Run the demo and return its exit code."""
    options = _parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return run(options.seconds, options.seed, options.fps)
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is claimed")
        return INTERRUPTED


def run(seconds: float, seed: int, fps: float) -> int:
    """Play, deliver, compare."""
    with receiver_process() as receiver:
        telemetry = start_telemetry(enabled=True, url=receiver.url)
        if not telemetry.enabled:
            print(
                "Telemetry stays off: the environment says so (DO_NOT_TRACK or "
                "REDVSBLUE_ENABLE_TELEMETRY=false, or a setting that can't be read). "
                "That wins over this demo, so there is nothing to show."
            )
            return SWITCHED_OFF
        try:
            told = play_battle(telemetry, seconds, seed, fps)
        finally:
            telemetry.stop(timeout=5.0)
        ledger = telemetry.stats()
        counts = receiver.finish()

    print_ledgers(ledger, counts)
    differing = differences(told, ledger, counts)
    if differing:
        print("NOT every event arrived once: " + "; ".join(differing))
        return DIFFERS
    print(f"every event arrived once: {told} events")
    return ARRIVED_ONCE


def play_battle(telemetry: Telemetry, seconds: float, seed: int, fps: float) -> int:
    """Play one battle with telemetry, and return how many events the engine handed out."""
    playing = f"playing {seconds:g} s at {fps:g} frames a second, seed {seed}"
    print(f"{playing}, to {telemetry.settings.url}")
    print("the last two columns are the frame time, median and 99th percentile\n", flush=True)

    told = EventCount()
    engine = BattleEngine(seed=seed)
    engine.on("telemetry", told)
    with telemetry.attach(engine):
        game_loop(engine, telemetry, seconds, fps)
    return told.events


class EventCount:
    """Counts at the source what the engine says, apart from the library's own ledger."""

    def __init__(self) -> None:
        self.events = 0

    def __call__(self, _event: object) -> None:
        self.events += 1


def game_loop(engine: BattleEngine, telemetry: Telemetry, seconds: float, fps: float) -> None:
    """Play in equal steps. A frame's time runs from when it was due until its work is done.

    So a thread that holds the interpreter at the wrong moment shows, even between two frames.
    """
    dt = 1.0 / fps
    frame_times = FrameTimes()
    progress = Progress(sys.stdout, frame_times)
    start = due = time.perf_counter()
    for _ in range(round(seconds * fps)):
        engine.update(dt)
        frame_times.record(time.perf_counter() - due)
        progress.show(time.perf_counter() - start, telemetry)
        due += dt
        time.sleep(max(0.0, due - time.perf_counter()))
    progress.finish(time.perf_counter() - start, telemetry)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prove on loopback that every event arrives once.")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to play")
    parser.add_argument("--seed", type=int, default=7, help="the same seed plays the same battle")
    parser.add_argument("--fps", type=float, default=60.0, help="frames a second")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
