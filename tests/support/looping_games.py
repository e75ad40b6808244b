"""Games that call ``frame``, or crash: each is a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any, NamedTuple

from redvsblue_telemetry.testing import RecordingServer
from tests.support import REPOSITORY
from tests.support.command import environment

PATIENCE = 60.0  # seconds for what takes one, on a machine that has other things to do

GAME = """
import json, os, sys, time
from redvsblue_telemetry import *
settings = json.loads(os.environ["SETTINGS"])
telemetry = start_telemetry(enabled=True, drain_interval=0.02, **settings)

def play(seconds):
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        time.sleep(0.005)
        telemetry.frame()

def load_level():
    secret = "the value of a variable"
    time.sleep(3.0)

"""


def start_game(script: str, server: RecordingServer, **settings: Any) -> subprocess.Popen[str]:
    settings["url"] = server.url
    return subprocess.Popen(
        [sys.executable, "-c", GAME + textwrap.dedent(script)],
        cwd=REPOSITORY,
        env=environment(is_measured=False, SETTINGS=json.dumps(settings)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Played(NamedTuple):
    """A game that has ended, and the events that arrived."""

    code: int
    printed: list[str]
    errors: str
    events: list[dict[str, Any]]
    reason: str | None
    """How the session ended, by its last report."""


def run_game(script: str, **settings: Any) -> Played:
    """Run a game to its end."""
    with RecordingServer() as server:
        game = start_game(script, server, **settings)
        out, errors = game.communicate(timeout=PATIENCE)
        reason = server.reports[-1].get("reason") if server.reports else None
        return Played(game.returncode, out.splitlines(), errors, server.events, reason)


def events_of(script: str, **settings: Any) -> list[dict[str, Any]]:
    """Run a game that ends well; return the events that arrived."""
    played = run_game(script, **settings)
    assert played.code == 0, played.errors
    return played.events


def data_of(events: list[dict[str, Any]], type: str) -> list[dict[str, Any]]:
    return [event["data"] for event in events if event["type"] == type]
