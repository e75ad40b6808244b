"""Draws the side panel: the score, telemetry's ledger and state, and how long the frames take."""

from __future__ import annotations

import pygame
from frame_times import FrameTimes
from pygame_palette import (
    CAUTION,
    GOOD,
    LINE,
    MUTED,
    PANEL,
    TEAM_COLORS,
    TEXT,
    Color,
    mixed,
    text,
)

from redvsblue_telemetry import Telemetry
from redvsblue_telemetry.cli.demo.battle import TEAMS, BattleEngine

PADDING = 24
ROW = 26
SECTION_GAP = 30
SMALL, BODY, TITLE, DIGITS = 12, 15, 15, 44
GRAPH_HEIGHT = 88
FRAME_BUDGET = 1000.0 / 60.0
"""Milliseconds that a frame may take at 60 frames a second."""


class Panel:
    """The panel. Sections are drawn from top to bottom, each below the previous one."""

    def __init__(self, area: pygame.Rect) -> None:
        self._area = area
        self._left = area.left + PADDING
        self._right = area.right - PADDING

    def draw(
        self,
        surface: pygame.Surface,
        engine: BattleEngine,
        telemetry: Telemetry,
        frame_times: FrameTimes,
    ) -> None:
        """Draw the current state."""
        pygame.draw.rect(surface, PANEL, self._area)
        pygame.draw.line(surface, LINE, self._area.topleft, self._area.bottomleft)
        y = self._draw_score(surface, engine, self._area.top + PADDING)
        y = self._draw_telemetry(surface, telemetry, y + SECTION_GAP)
        self._draw_frame_times(surface, frame_times, y + SECTION_GAP)
        self._draw_keys(surface, telemetry)

    def _draw_score(self, surface: pygame.Surface, engine: BattleEngine, y: int) -> int:
        y = self._draw_heading(surface, "RED VS BLUE", f"round {engine.round}", y)
        middle = (self._left + self._right) // 2
        for team, edge in zip(TEAMS, (self._left, middle + PADDING // 2), strict=True):
            color = TEAM_COLORS[team]
            _write(surface, str(engine.scores[team]), DIGITS, color, edge, y)
            flying = engine.survivors(team)
            for place in range(engine.ships_per_team):
                shade = color if place < flying else LINE
                pygame.draw.rect(surface, shade, (edge + place * 12, y + 62, 8, 8), border_radius=2)
        return y + 70

    def _draw_telemetry(self, surface: pygame.Surface, telemetry: Telemetry, y: int) -> int:
        stats = telemetry.stats()
        y = self._draw_heading(surface, "TELEMETRY", "", y)
        state = str(stats.state).replace("_", " ") if telemetry.enabled else "off"
        pygame.draw.aacircle(surface, _state_color(state), (self._left + 5, y + 9), 5)
        _write(surface, state, BODY, TEXT, self._left + 20, y)
        if telemetry.enabled and stats.round_trip is not None:
            round_trip = f"round trip {stats.round_trip * 1000:.1f} ms"
            _write(surface, round_trip, SMALL, MUTED, self._right, y + 2, align_right=True)
        y += ROW + 6
        rows = [
            ("emitted", stats.emitted, TEXT),
            ("delivered", stats.delivered, TEXT),
            ("in flight", stats.in_flight, TEXT),
            ("buffered", stats.buffered, TEXT),
            ("dropped", stats.dropped, CAUTION if stats.dropped else MUTED),
            ("rejected", stats.rejected, CAUTION if stats.rejected else MUTED),
        ]
        for name, events, color in rows:
            self._draw_row(surface, name, f"{events:,}", color, y)
            y += ROW
        return y

    def _draw_frame_times(self, surface: pygame.Surface, times: FrameTimes, y: int) -> None:
        y = self._draw_heading(surface, "FRAME TIME", f"budget {FRAME_BUDGET:.1f} ms", y)
        self._draw_row(surface, "median", f"{times.percentile(50):.1f} ms", TEXT, y)
        self._draw_row(surface, "p99", f"{times.percentile(99):.1f} ms", TEXT, y + ROW)
        graph = pygame.Rect(self._left, y + 2 * ROW + 8, self._right - self._left, GRAPH_HEIGHT)
        _draw_sparkline(surface, graph, list(times.recent))

    def _draw_keys(self, surface: pygame.Surface, telemetry: Telemetry) -> None:
        y = self._area.bottom - PADDING - SMALL
        if telemetry.is_running:
            toggle = "off" if telemetry.enabled else "on"
            _write(surface, f"T  telemetry {toggle}", SMALL, MUTED, self._left, y)
        _write(surface, "Esc  quit", SMALL, MUTED, self._right, y, align_right=True)

    def _draw_heading(self, surface: pygame.Surface, title: str, note: str, y: int) -> int:
        _write(surface, title, SMALL, MUTED, self._left, y)
        _write(surface, note, SMALL, MUTED, self._right, y, align_right=True)
        y += 22
        pygame.draw.line(surface, LINE, (self._left, y), (self._right, y))
        return y + 12

    def _draw_row(
        self, surface: pygame.Surface, name: str, value: str, color: Color, y: int
    ) -> None:
        _write(surface, name, BODY, MUTED, self._left, y)
        _write(surface, value, BODY, color, self._right, y, align_right=True)


def _draw_sparkline(surface: pygame.Surface, area: pygame.Rect, times: list[float]) -> None:
    """Draw one column of pixels per frame, the latest at the right edge."""
    pygame.draw.line(surface, LINE, area.bottomleft, area.bottomright)
    latest = times[-area.width :]
    if len(latest) < 2:
        return
    tallest = max(FRAME_BUDGET / 2, *latest)
    left = area.right - len(latest)
    line = [
        (left + place, area.bottom - area.height * time / tallest)
        for place, time in enumerate(latest)
    ]
    under = [*line, (area.right, area.bottom), (left, area.bottom)]
    pygame.draw.polygon(surface, mixed(GOOD, PANEL, 0.18), under)
    pygame.draw.aalines(surface, GOOD, False, line)


def _state_color(state: str) -> Color:
    if state == "connected":
        return GOOD
    return MUTED if state == "off" else CAUTION


def _write(
    surface: pygame.Surface,
    words: str,
    size: int,
    color: Color,
    x: int,
    y: int,
    align_right: bool = False,
) -> None:
    drawn = text(words, size, color)
    surface.blit(drawn, (x - drawn.get_width() if align_right else x, y))
