"""The pygame window, drawn without a display."""

from __future__ import annotations

from pathlib import Path

import pytest

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry.testing import RecordingServer
from tests.support.example import run_example

pygame = pytest.importorskip("pygame", reason="needs pygame-ce, to draw a window")


def test_window_draws_the_battle_and_sends_its_events(tmp_path: Path) -> None:
    picture = tmp_path / "battle.png"
    with RecordingServer() as server:
        game = run_example(
            "pygame_window.py",
            "--seconds",
            "1",
            "--screenshot",
            str(picture),
            SDL_VIDEODRIVER="dummy",
            REDVSBLUE_ENABLE_TELEMETRY="true",
            REDVSBLUE_TELEMETRY_WS_URL=server.url,
        )
        assert game.returncode == 0, game.stderr
        assert server.wait_for(18)
        received = server.events

    [frames] = [event["data"] for event in received if event["type"] == "frames"]
    assert frames["frames"] == 59  # the time between two calls is one
    assert frames["p50Ms"] >= 1000 / 60 - 2  # pygame's clock counts whole milliseconds
    assert {"round_start", "ship_spawned"} <= {event["type"] for event in received}
    assert len(colors(picture)) > 50


def test_t_toggles_telemetry_and_escape_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    from pygame_window import handle_input

    pygame.display.init()
    try:
        with (
            RecordingServer() as server,
            Telemetry(TelemetrySettings(enabled=True, url=server.url)) as telemetry,
        ):
            assert handle_input(telemetry)
            assert telemetry.enabled
            press(pygame.K_t)
            assert handle_input(telemetry)
            assert not telemetry.enabled
            press(pygame.K_t)
            assert handle_input(telemetry)
            assert telemetry.enabled
            press(pygame.K_ESCAPE)
            assert not handle_input(telemetry)
    finally:
        pygame.display.quit()


def press(key: int) -> None:
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))


def colors(picture: Path) -> set[tuple[int, ...]]:
    """The colors of every third pixel."""
    drawn = pygame.image.load(picture)
    assert drawn.get_size() == (1280, 720)
    return {tuple(drawn.get_at((x, y))) for x in range(0, 1280, 3) for y in range(0, 720, 3)}
