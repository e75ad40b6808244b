"""Draws the battle: ships, bullets with trails, and a flash where something was hit.

The flashes come from the same events that telemetry gets: the scene is one more listener.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import pygame
from pygame_palette import GROUND, LINE, TEAM_COLORS, TEXT, Color, mixed

from redvsblue_telemetry.cli.demo.battle import (
    FULL_HEALTH,
    SHIP_RADIUS,
    BattleEngine,
    Bullet,
    Ship,
    Team,
)

HULL = (1.25 + 0j, -0.95 + 0.85j, -0.5 + 0j, -0.95 - 0.85j)
"""A ship's outline, in ship radii, its nose to the right."""
HEADINGS = 120
SUPERSAMPLING = 4
TRAIL = 0.07
"""Seconds of flight that a bullet's trail shows."""


@dataclass(slots=True)
class Flash:
    """A ring that grows and fades."""

    center: tuple[float, float]
    radius: float
    lifetime: float
    color: Color
    age: float = 0.0


class Scene:
    """The picture of the arena."""

    def __init__(self, arena: tuple[int, int]) -> None:
        self._backdrop = _starry_sky(arena)
        self._flashes: list[Flash] = []

    def notice(self, event: Mapping[str, Any]) -> None:
        """Add a flash where an event shows that something was hit."""
        data = event["data"]
        if event["type"] == "ship_hit":
            self._flashes.append(Flash((data["x"], data["y"]), SHIP_RADIUS + 3.0, 0.18, TEXT))
        elif event["type"] == "ship_destroyed":
            color = TEAM_COLORS["red" if data["shipId"].startswith("red") else "blue"]
            self._flashes.append(Flash((data["x"], data["y"]), 52.0, 0.7, color))
            self._flashes.append(Flash((data["x"], data["y"]), 30.0, 0.45, TEXT))

    def draw(self, surface: pygame.Surface, engine: BattleEngine, dt: float) -> None:
        """Draw the battle as it stands; ``dt`` seconds have passed since the last frame."""
        surface.blit(self._backdrop, (0, 0))
        for bullet in engine.bullets:
            _draw_bullet(surface, bullet)
        for ship in engine.ships:
            _draw_ship(surface, ship)
        for flash in self._flashes:
            _draw_flash(surface, flash)
            flash.age += dt
        self._flashes = [flash for flash in self._flashes if flash.age < flash.lifetime]


def _draw_bullet(surface: pygame.Surface, bullet: Bullet) -> None:
    color = TEAM_COLORS[bullet.shooter.team]
    head, tail = bullet.position, bullet.position - bullet.velocity * TRAIL
    middle = (head + tail) / 2
    pygame.draw.aaline(surface, mixed(color, GROUND, 0.25), _pixel(tail), _pixel(middle), 2)
    pygame.draw.aaline(surface, mixed(color, GROUND, 0.65), _pixel(middle), _pixel(head), 2)
    pygame.draw.aacircle(surface, mixed(TEXT, color, 0.5), _pixel(head), 2)


def _draw_ship(surface: pygame.Surface, ship: Ship) -> None:
    step = round(ship.heading / math.tau * HEADINGS) % HEADINGS
    sprite = _ship_sprite(ship.team, step)
    x, y = _pixel(ship.position)
    surface.blit(sprite, sprite.get_rect(center=(x, y)))

    bar = pygame.Rect(0, 0, 26, 3)
    bar.center = (round(x), round(y + SHIP_RADIUS + 10))
    pygame.draw.rect(surface, LINE, bar)
    bar.width = math.ceil(bar.width * ship.health / FULL_HEALTH)
    pygame.draw.rect(surface, mixed(TEAM_COLORS[ship.team], GROUND, 0.85), bar)


def _draw_flash(surface: pygame.Surface, flash: Flash) -> None:
    progress = flash.age / flash.lifetime
    radius = flash.radius * (1.0 - (1.0 - progress) ** 3)
    color = mixed(flash.color, GROUND, 0.9 * (1.0 - progress))
    pygame.draw.aacircle(surface, color, flash.center, max(2.0, radius), 2)


@cache
def _ship_sprite(team: Team, step: int) -> pygame.Surface:
    """The hull at one of ``HEADINGS`` angles, drawn large and scaled down for smooth edges."""
    color = TEAM_COLORS[team]
    side = math.ceil(SHIP_RADIUS * 3)
    large = pygame.Surface((side * SUPERSAMPLING, side * SUPERSAMPLING), pygame.SRCALPHA)
    large.fill((*color, 0))
    turn = cmath.rect(SHIP_RADIUS * SUPERSAMPLING, step * math.tau / HEADINGS)
    center = complex(side, side) * SUPERSAMPLING / 2
    pygame.draw.polygon(large, color, [_pixel(center + corner * turn) for corner in HULL])
    cockpit = [_pixel(center + (corner * 0.38 + 0.12) * turn) for corner in HULL]
    pygame.draw.polygon(large, mixed(TEXT, color, 0.75), cockpit)
    return pygame.transform.smoothscale(large, (side, side))


def _starry_sky(size: tuple[int, int]) -> pygame.Surface:
    sky = pygame.Surface(size)
    sky.fill(GROUND)
    dice = Random(1)
    for _ in range(size[0] * size[1] // 6000):
        star = dice.randrange(size[0]), dice.randrange(size[1])
        sky.set_at(star, mixed(TEXT, GROUND, dice.uniform(0.08, 0.4)))
    return sky.convert()


def _pixel(point: complex) -> tuple[float, float]:
    return point.real, point.imag
