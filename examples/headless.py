"""A game loop with telemetry, and nothing else: the battle without a window.

    python examples/headless.py --seconds 10

Telemetry is off by default, and the game plays the same without it. To turn it on:

    export REDVSBLUE_ENABLE_TELEMETRY=true
    export REDVSBLUE_TELEMETRY_WS_URL=ws://127.0.0.1:3000/telemetry
"""

from __future__ import annotations

import argparse
import logging
import time

from battle_events import GameClosed, PerTeam

from redvsblue_telemetry import Telemetry, start_telemetry
from redvsblue_telemetry.cli.demo.battle import BattleEngine


def main() -> None:
    """Play for the given time, then print the ledger."""
    options = _parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    telemetry = start_telemetry()
    print(f"telemetry is {'on' if telemetry.enabled else 'off'}")

    engine = BattleEngine(seed=options.seed)
    with telemetry.attach(engine):
        game_loop(engine, telemetry, options.seconds, options.fps)

    scores = engine.scores
    final = PerTeam(red=scores["red"], blue=scores["blue"])
    telemetry.emit(GameClosed(rounds=engine.round, scores=final))  # a typed event
    confirmed = telemetry.stop(timeout=2.0)

    print(f"round {engine.round}, red {scores['red']} : {scores['blue']} blue")
    ledger = telemetry.stats()
    print(f"emitted    {ledger.emitted:6}")
    print(f"delivered  {ledger.delivered:6}")
    print(f"in flight  {ledger.in_flight:6}")
    print(f"buffered   {ledger.buffered:6}")
    print(f"dropped    {ledger.dropped:6}")
    print(f"rejected   {ledger.rejected:6}")
    if not confirmed:
        print("not everything was confirmed before the game ended")


def game_loop(engine: BattleEngine, telemetry: Telemetry, seconds: float, fps: float) -> None:
    """Advance ``engine`` in equal steps, ``fps`` a second, for ``seconds``."""
    dt = 1.0 / fps
    next_frame = time.perf_counter()
    for _ in range(round(seconds * fps)):
        telemetry.frame()  # sums up how long the frames take, and notices a hang
        engine.update(dt)
        next_frame += dt
        time.sleep(max(0.0, next_frame - time.perf_counter()))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Play Red vs Blue without a window.")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to play")
    parser.add_argument("--seed", type=int, default=7, help="the same seed plays the same battle")
    parser.add_argument("--fps", type=float, default=60.0, help="frames a second")
    return parser.parse_args()


if __name__ == "__main__":
    main()
