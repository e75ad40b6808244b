"""The window's colors and type: a dark ground, two teams, three grays."""

from __future__ import annotations

from functools import cache, lru_cache

import pygame

from redvsblue_telemetry.cli.demo.battle import Team

Color = tuple[int, int, int]

GROUND: Color = (10, 13, 20)
PANEL: Color = (15, 19, 28)
LINE: Color = (34, 41, 56)
TEXT: Color = (224, 229, 238)
MUTED: Color = (124, 135, 155)
GOOD: Color = (98, 200, 140)
CAUTION: Color = (232, 184, 92)
TEAM_COLORS: dict[Team, Color] = {"red": (244, 98, 92), "blue": (92, 160, 248)}

# The first one that is installed is used; without any, pygame's own font.
_FONTS = "inter,segoeui,helveticaneue,dejavusans,arial"


def mixed(color: Color, ground: Color, share: float) -> Color:
    """``share`` (0.0 to 1.0) of ``color`` over ``ground``."""
    red, green, blue = (
        round(over * share + under * (1.0 - share))
        for over, under in zip(color, ground, strict=True)
    )
    return red, green, blue


@lru_cache(maxsize=512)
def text(words: str, size: int, color: Color) -> pygame.Surface:
    """Return ``words`` drawn, from a cache: most text is the same in the next frame."""
    return _font(size).render(words, True, color)


@cache
def _font(size: int) -> pygame.font.Font:
    return pygame.font.SysFont(_FONTS, size)
