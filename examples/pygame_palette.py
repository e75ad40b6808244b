"""The window's colors and type: a dark ground, two teams, three grays."""

from __future__ import annotations

from functools import cache, lru_cache

import pygame

from redvsblue_telemetry.cli.demo.battle import Team

Colour = tuple[int, int, int]

GROUND: Colour = (10, 13, 20)
PANEL: Colour = (15, 19, 28)
LINE: Colour = (34, 41, 56)
TEXT: Colour = (224, 229, 238)
MUTED: Colour = (124, 135, 155)
GOOD: Colour = (98, 200, 140)
CAUTION: Colour = (232, 184, 92)
TEAM_COLOURS: dict[Team, Colour] = {"red": (244, 98, 92), "blue": (92, 160, 248)}

# The first of these that is installed; pygame's own font where none is.
_FONTS = "inter,segoeui,helveticaneue,dejavusans,arial"


def mixed(colour: Colour, ground: Colour, share: float) -> Colour:
    """``share`` (0.0 to 1.0) of ``colour`` over ``ground``."""
    red, green, blue = (
        round(over * share + under * (1.0 - share))
        for over, under in zip(colour, ground, strict=True)
    )
    return red, green, blue


@lru_cache(maxsize=512)
def text(words: str, size: int, colour: Colour) -> pygame.Surface:
    """``words`` drawn once; most of what a panel says is the same in the next frame."""
    return _font(size).render(words, True, colour)


@cache
def _font(size: int) -> pygame.font.Font:
    return pygame.font.SysFont(_FONTS, size)
