"""The headless game: the documentation of a game loop has to work as it stands."""

from __future__ import annotations

import re

from redvsblue_telemetry.testing import RecordingServer
from tests.support.example import run_example


def test_plays_without_telemetry_and_says_so() -> None:
    game = run_example("headless.py", "--seconds", "0.2")

    assert game.returncode == 0, game.stderr
    assert "telemetry is off" in game.stdout
    assert game.stderr == ""


def test_every_event_reaches_the_server() -> None:
    with RecordingServer() as server:
        game = run_example("headless.py", "--seconds", "1", **sending_to(server.url))
        counts = ledger(game.stdout)
        assert server.wait_for(counts["emitted"])
        received = server.events

    assert game.returncode == 0, game.stderr
    assert "telemetry is on" in game.stdout
    assert [event["seq"] for event in received] == list(range(1, len(received) + 1))
    assert {"round_start", "ship_spawned", "bullet_fired", "frames"} <= {
        event["type"] for event in received
    }
    assert [event["data"] for event in received if event["type"] == "game_closed"] == [
        {"rounds": 1, "scores": {"red": 0, "blue": 0}}
    ]
    assert counts == {
        "emitted": len(received),
        "delivered": len(received),
        "in flight": 0,
        "buffered": 0,
        "dropped": 0,
        "rejected": 0,
    }


def test_plays_on_when_nobody_listens() -> None:
    with RecordingServer() as server:
        url = server.url  # the port is free again once the server is gone

    game = run_example("headless.py", "--seconds", "0.5", **sending_to(url))

    assert game.returncode == 0, game.stderr
    assert "not everything was confirmed" in game.stdout
    counts = ledger(game.stdout)
    assert counts["delivered"] == 0
    assert counts["emitted"] == counts["buffered"] + counts["in flight"] + counts["dropped"] > 0


def sending_to(url: str) -> dict[str, str]:
    return {"REDVSBLUE_ENABLE_TELEMETRY": "true", "REDVSBLUE_TELEMETRY_WS_URL": url}


def ledger(output: str) -> dict[str, int]:
    """The lines that are a name and a number."""
    return {
        name: int(events)
        for name, events in re.findall(r"^([a-z ]+?) +(\d+)$", output, re.MULTILINE)
    }
