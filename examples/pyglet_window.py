"""The battle in a pyglet window: telemetry attaches to any pyglet ``EventDispatcher``.

    python examples/pyglet_window.py

Telemetry takes ``pyglet_battle.py``, the first line of ``play_frame`` and the last four lines of
``main``; the rest draws. It works without a display where there is EGL:

    PYGLET_HEADLESS=true python examples/pyglet_window.py --seconds 5
"""

from __future__ import annotations

import argparse
import logging
import math

import pyglet
from pyglet.gl import glClearColor
from pyglet.graphics import Batch
from pyglet.shapes import Line, Triangle
from pyglet.text import Label
from pyglet.window import Window
from pyglet_battle import PygletBattle

from redvsblue_telemetry import start_telemetry
from redvsblue_telemetry.cli.demo.battle import TEAMS, BattleEngine, Ship

SIZE = (1280, 720)
GROUND = (10 / 255, 13 / 255, 20 / 255, 1.0)
TEAM_COLORS = {"red": (244, 98, 92), "blue": (92, 160, 248)}
TRAIL = 0.06
"""Seconds of flight that a bullet's streak shows."""


def main() -> None:
    """Open the window and play until it is closed."""
    options = _parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    window = Window(*SIZE, caption="Red vs Blue")
    engine = PygletBattle(BattleEngine(seed=options.seed, arena=SIZE))
    pyglet.clock.schedule_interval(engine.update, 1 / 60)
    if options.seconds:
        pyglet.clock.schedule_once(lambda _dt: pyglet.app.exit(), options.seconds)

    def play_frame() -> None:
        telemetry.frame()
        draw(window, engine.battle)

    window.push_handlers(on_draw=play_frame)
    telemetry = start_telemetry()
    with telemetry.attach(engine):
        pyglet.app.run()
    telemetry.stop(timeout=2.0)


def draw(window: Window, battle: BattleEngine) -> None:
    """Draw one frame. The arena's y grows downward, pyglet's upward."""
    glClearColor(*GROUND)
    window.clear()
    batch = Batch()
    height = window.height
    shapes: list[object] = []  # pyglet takes a shape out of its batch once nothing refers to it
    for bullet in battle.bullets:
        head, tail = bullet.position, bullet.position - bullet.velocity * TRAIL
        color = TEAM_COLORS[bullet.shooter.team]
        ends = head.real, height - head.imag, tail.real, height - tail.imag
        shapes.append(Line(*ends, thickness=2, color=color, batch=batch))
    for ship in battle.ships:
        corners = [(x, height - y) for x, y in hull(ship)]
        triangle = Triangle(*corners[0], *corners[1], *corners[2], batch=batch)
        triangle.color = TEAM_COLORS[ship.team]
        shapes.append(triangle)
    score = "   ".join(f"{team} {battle.scores[team]}" for team in TEAMS)
    shapes.append(Label(f"{score}   round {battle.round}", x=24, y=height - 36, batch=batch))
    batch.draw()


def hull(ship: Ship) -> list[tuple[float, float]]:
    """The corners of a ship's triangle in the arena, the nose first."""
    x, y = ship.position.real, ship.position.imag
    return [
        (x + reach * math.cos(ship.heading + turn), y + reach * math.sin(ship.heading + turn))
        for reach, turn in ((15.0, 0.0), (13.0, 2.5), (13.0, -2.5))
    ]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Play Red vs Blue in a pyglet window.")
    parser.add_argument("--seconds", type=float, default=0.0, help="0 plays until it is closed")
    parser.add_argument("--seed", type=int, default=7, help="the same seed plays the same battle")
    return parser.parse_args()


if __name__ == "__main__":
    main()
