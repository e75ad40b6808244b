"""The command that shows a lake, as a process."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.support.systems import IS_WINDOWS

if IS_WINDOWS:
    pytest.skip("Linux only: the servers of a cluster", allow_module_level=True)

from redvsblue_telemetry.cluster.lake.lake import Lake
from tests.support.command import Running, run_command, running_command
from tests.support.lake import append, numbered
from tests.support.objects import object_store, settings
from tests.support.systems import needs_posix
from tests.support.wait import PATIENCE


def filled(lake: str) -> str:
    """Return the URL of a lake that has three events now."""
    opened = Lake.open(lake)
    append(opened, opened.claim("stream", [0]), 0, 1, numbered("s", 1, 3))
    return lake


def events(view: Running) -> list[int]:
    view.wait_for("Press Ctrl-C to stop.\n")
    found = re.search(r"http://[\w.:]+/", view.output)
    assert found
    with urllib.request.urlopen(f"{found[0]}api/events", timeout=PATIENCE) as answer:
        return [each["seq"] for each in json.load(answer)["events"]]


@needs_posix
def test_view_shows_a_lake_until_it_is_stopped(tmp_path: Path) -> None:
    with running_command("view", "--lake", filled(str(tmp_path)), "--port", 0) as view:
        assert events(view) == [1, 2, 3]
        assert view.end(signal.SIGTERM) == 0
    assert "stopped" in view.said
    assert view.errors == ""


@needs_posix
def test_view_shows_a_lake_in_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store("bucket") as port:
        for name, value in settings(port).items():
            monkeypatch.setenv(name, value)
        lake = filled("s3://bucket/lake")
        with running_command("view", "--lake", lake, "--port", 0, **settings(port)) as view:
            assert events(view) == [1, 2, 3]
            assert view.end(signal.SIGTERM) == 0


def test_view_needs_a_lake_and_a_token_for_others(tmp_path: Path) -> None:
    done = run_command("view", "--lake", tmp_path, "--port", 0)
    assert done.returncode == 2
    assert "is not a lake" in done.stderr
    done = run_command("view", "--lake", filled(str(tmp_path)), "--port", 0, "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "pass --token" in done.stderr
