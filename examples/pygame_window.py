"""The battle in a pygame-ce window, with telemetry's ledger beside it.

    python examples/pygame_window.py

T is the player's switch for telemetry, where it is enabled; Esc quits. The picture in the
documentation was made without a display, with ``redvsblue-telemetry collect`` running
in another terminal:

    SDL_VIDEODRIVER=dummy REDVSBLUE_ENABLE_TELEMETRY=true \\
    REDVSBLUE_TELEMETRY_WS_URL=ws://127.0.0.1:3000/telemetry \\
    python examples/pygame_window.py --seed 39 --seconds 18 --screenshot docs/images/pygame.png
"""

from __future__ import annotations

import argparse
import logging
import time

import pygame
from frame_times import FrameTimes
from pygame_panel import Panel
from pygame_scene import Scene

from redvsblue_telemetry import Telemetry, start_telemetry
from redvsblue_telemetry.cli.demo.battle import BattleEngine

WINDOW = (1280, 720)
PANEL_WIDTH = 288
ARENA = (WINDOW[0] - PANEL_WIDTH, WINDOW[1])
FPS = 60
DT = 1.0 / FPS


def main() -> None:
    """Open the window, play, and send the remaining events."""
    options = _parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    pygame.display.init()
    pygame.font.init()
    window = pygame.display.set_mode(WINDOW)
    pygame.display.set_caption("Red vs Blue")

    telemetry = start_telemetry()
    engine = BattleEngine(seed=options.seed, arena=ARENA)
    with telemetry.attach(engine):
        game_loop(window, engine, telemetry, options.seconds)
    if options.screenshot:
        pygame.image.save(window, options.screenshot)

    pygame.quit()
    telemetry.stop(timeout=2.0)


def game_loop(
    window: pygame.Surface, engine: BattleEngine, telemetry: Telemetry, seconds: float
) -> None:
    """Play until the player quits, or for ``seconds`` when that is not 0."""
    scene = Scene(ARENA)
    panel = Panel(pygame.Rect(ARENA[0], 0, PANEL_WIDTH, WINDOW[1]))
    engine.on("telemetry", scene.notice)
    clock = pygame.time.Clock()
    frame_times = FrameTimes()
    frames_left = round(seconds * FPS) if seconds else None

    while frames_left != 0 and handle_input(telemetry):
        telemetry.frame()
        frame_started = time.perf_counter()
        engine.update(DT)
        scene.draw(window, engine, DT)
        panel.draw(window, engine, telemetry, frame_times)
        pygame.display.flip()
        frame_times.record(time.perf_counter() - frame_started)
        clock.tick(FPS)
        if frames_left is not None:
            frames_left -= 1


def handle_input(telemetry: Telemetry) -> bool:
    """Handle the keys that were pressed. Return False when the player quits."""
    for event in pygame.event.get():
        if event.type == pygame.QUIT:
            return False
        if event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE:
            return False
        if event.type == pygame.KEYDOWN and event.key == pygame.K_t:
            telemetry.enabled = not telemetry.enabled
    return True


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Play Red vs Blue in a window.")
    parser.add_argument("--seconds", type=float, default=0.0, help="0 plays until it is closed")
    parser.add_argument("--screenshot", metavar="PATH", help="save the last frame as a picture")
    parser.add_argument("--seed", type=int, default=7, help="the same seed plays the same battle")
    return parser.parse_args()


if __name__ == "__main__":
    main()
