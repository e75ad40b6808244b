"""The pyglet engine, a dispatcher that telemetry listens to, and its window; without a display."""

from __future__ import annotations

import pytest

from redvsblue_telemetry import start_telemetry
from redvsblue_telemetry.cli.demo.battle import BattleEngine
from redvsblue_telemetry.testing import RecordingServer
from tests.support.example import run_example

pytest.importorskip("pyglet", reason="needs pyglet, an engine to listen to")

from pyglet_battle import PygletBattle

DT = 1 / 60


def test_what_the_battle_says_is_dispatched() -> None:
    engine = PygletBattle(BattleEngine())
    heard: list[str] = []
    engine.push_handlers(telemetry=lambda event: heard.append(event["type"]))

    engine.update(DT)

    assert heard == ["round_start"] + 16 * ["ship_spawned"]


def test_telemetry_listens_until_it_is_detached() -> None:
    engine = PygletBattle(BattleEngine())
    with RecordingServer() as server:
        telemetry = start_telemetry(enabled=True, url=server.url)
        with telemetry.attach(engine):
            for _ in range(30):
                engine.update(DT)
        while_attached = telemetry.stats().emitted
        for _ in range(30):
            engine.update(DT)
        assert telemetry.stop(timeout=5.0)
        assert server.wait_for(while_attached)

    assert while_attached == telemetry.stats().emitted == len(server.events) >= 17


def test_the_window_notes_each_frame_that_it_draws() -> None:
    with RecordingServer() as server:
        game = run_example(
            "pyglet_window.py",
            "--seconds",
            "3",  # without a graphics card, a frame can take half a second
            PYGLET_HEADLESS="true",
            REDVSBLUE_ENABLE_TELEMETRY="true",
            REDVSBLUE_TELEMETRY_WS_URL=server.url,
        )
        if "EGL" in game.stderr:
            pytest.skip("needs EGL, to draw a window without a display")
        assert game.returncode == 0, game.stderr
        assert server.wait_for(18)
        received = server.events

    assert {"round_start", "ship_spawned"} <= {event["type"] for event in received}
    [frames] = [event["data"] for event in received if event["type"] == "frames"]
    assert frames["frames"] >= 1
    assert 0.0 < frames["seconds"] <= 60.0
