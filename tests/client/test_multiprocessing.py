"""Children of multiprocessing, which may end without the interpreter's exit hooks."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pytest

from redvsblue_telemetry.testing import RecordingServer
from tests.client.test_fork import needs_fork, seqs, sessions
from tests.client.test_process import IMPORT, run

MULTIPROCESSING = """
import logging, multiprocessing, sys, time
from redvsblue_telemetry import emit, get_telemetry, start_telemetry

def simulate(match, settings):
    start_telemetry(**settings)
    emit("match", match=match)
    if match == 2:
        raise SystemExit(7)

def start():
    settings = {"enabled": True, "url": sys.argv[2], "backoff_base": 0.05}
    if sys.argv[3] == "inherited":
        start_telemetry(**settings)
        emit("parent")
    return settings

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    settings = start()
    children = [context.Process(target=simulate, args=(n, settings)) for n in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 7]
"""


@pytest.mark.parametrize(
    ("method", "own"),
    [("fork", "inherited"), *((name, "own") for name in multiprocessing.get_all_start_methods())],
)
def test_a_child_of_multiprocessing_flushes_at_its_end(
    method: str, own: str, tmp_path: Path
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    game = tmp_path / "game.py"
    game.write_text(MULTIPROCESSING)
    with RecordingServer() as server:
        done = run(game, method, server.url, own)
        assert (done.returncode, done.stderr) == (0, "")
        matches = [event for event in server.events if event["type"] == "match"]
        assert sorted(event["data"]["match"] for event in matches) == [0, 1, 2]
        assert len(sessions(server, "match")) == 3
        assert seqs(server, "match") == [1, 1, 1]
        assert seqs(server, "parent") == ([1] if own == "inherited" else [])


@needs_fork
def test_a_child_of_multiprocessing_ends_in_time_without_a_server(tmp_path: Path) -> None:
    script = """
import logging, multiprocessing
from multiprocessing import util
logging.disable()
def simulate():
    for _ in range(3):  # each start, and still one end
        telemetry = start_telemetry(enabled=True, url=sys.argv[1])
        telemetry.emit("lost")
        telemetry.stop(0)
    start_telemetry(enabled=True, url=sys.argv[1]).emit("lost")
    assert len(util._finalizer_registry) == 1
    print(time.monotonic())
child = multiprocessing.get_context("fork").Process(target=simulate)
child.start()
child.join()
print(time.monotonic())
assert child.exitcode == 0
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = run(IMPORT + script, f"ws://127.0.0.1:{silent.getsockname()[1]}/")
    assert (done.returncode, done.stderr) == (0, "")
    start, end = map(float, done.stdout.split())
    assert end - start < 2 + 3


def test_importing_the_package_imports_no_multiprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(variable)  # measuring coverage in the child would import it
    done = run("import sys, redvsblue_telemetry; print('multiprocessing' in sys.modules)")
    assert done.stdout == "False\n"
