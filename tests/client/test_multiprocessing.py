"""Children of multiprocessing, which may end without the interpreter's exit hooks."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pytest

from redvsblue_telemetry.testing import RecordingServer
from tests.client.test_fork import needs_fork, seqs, sessions
from tests.client.test_process import IMPORT, START, run

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
        pytest.skip("POSIX: fork")
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


METHODS = multiprocessing.get_all_start_methods()

# A child imports the main module, be it by fork or anew, without the arguments of the parent.
WORKERS = """
import atexit, multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from redvsblue_telemetry import emit, get_telemetry, start_telemetry

if sys.argv[4:]:
    os.environ["GAME"] = " ".join(sys.argv[1:])
method, url, where, kind = os.environ["GAME"].split()

def start():
    start_telemetry(enabled=True, url=url, backoff_base=0.05)

if where == "top":
    start()
    emit("import")

def simulate(match):
    if where == "target":
        start()
    emit("match", match=match)
    if kind == "terminated":
        assert get_telemetry().flush(10)

if __name__ == "__main__":
    context = multiprocessing.get_context(method)
    if where == "preloaded":
        context.set_forkserver_preload(["preloaded"])
        os.environ["URL"] = url
    if kind == "processes":
        children = [context.Process(target=simulate, args=(match,)) for match in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 4
    elif kind == "executor":
        with ProcessPoolExecutor(2, context) as executor:
            assert list(executor.map(simulate, range(4))) == [None] * 4
    else:
        with context.Pool(2) as pool:
            pool.map(simulate, range(4), chunksize=1)
            if kind == "pool":
                pool.close()
                pool.join()
"""


def simulated(folder: Path, server: RecordingServer, method: str, where: str, kind: str) -> None:
    """Run the script, and check that each event of each child arrived once."""
    game = folder / "game.py"
    game.write_text(WORKERS)
    done = run(game, method, server.url, where, kind)
    assert (done.returncode, done.stderr) == (0, "")
    matches = [event for event in server.events if event["type"] == "match"]
    assert sorted(event["data"]["match"] for event in matches) == [0, 1, 2, 3]
    numbers: dict[str, list[int]] = {}
    for event in server.events:
        numbers.setdefault(event["sessionId"], []).append(event["seq"])
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in numbers.values())


PLACES, KINDS = ("top", "target"), ("processes", "pool", "terminated", "executor")
# Each method with each kind, and both places with each of them. What a method makes of a main
# module that starts telemetry is seen by processes alone.
CASES = {
    (method, PLACES[(m + k) % 2], kind)
    for m, method in enumerate(METHODS)
    for k, kind in enumerate(KINDS)
} | {(method, "top", "processes") for method in METHODS}


@pytest.mark.parametrize(("method", "where", "kind"), sorted(CASES))
def test_all_events_of_children_arrive_once_wherever_they_start_telemetry(
    method: str, where: str, kind: str, tmp_path: Path
) -> None:
    with RecordingServer() as server:
        simulated(tmp_path, server, method, where, kind)
        if kind == "processes":
            games = {"fork": 1, "spawn": 5, "forkserver": 5}[method] if where == "top" else 0
            # From 3.14 on, a forkserver imports the main module, and its children don't.
            imports = len(sessions(server, "import"))
            assert imports == games or (method == "forkserver" and imports == 2)


@pytest.mark.skipif("forkserver" not in METHODS, reason="POSIX: fork")
@pytest.mark.parametrize("kind", KINDS)
def test_all_events_arrive_from_children_of_a_forkserver_that_started_telemetry(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # a forkserver ignores its parent's sys.path
    (tmp_path / "preloaded.py").write_text(
        "import os\n"
        "from redvsblue_telemetry import emit, start_telemetry\n"
        "start_telemetry(enabled=True, url=os.environ['URL'], backoff_base=0.05)\n"
        "emit('import')\n"
    )
    with RecordingServer() as server:
        simulated(tmp_path, server, "forkserver", "preloaded", kind)
        assert server.wait_for(5)
        assert seqs(server, "import") == [1]


@needs_fork
def test_a_child_that_emitted_before_it_was_complete_flushes_at_its_end(tmp_path: Path) -> None:
    # multiprocessing discards the finalizers of a forked child before it runs the target.
    script = """
import multiprocessing, os
context = multiprocessing.get_context("fork")
def grandchild():
    telemetry.emit("target")
def child():
    os.register_at_fork(after_in_child=lambda: telemetry.emit("fork"))
    process = context.Process(target=grandchild)
    process.start()
    process.join()
process = context.Process(target=child)
process.start()
process.join()
"""
    with RecordingServer() as server:
        done = run(START + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert [event["type"] for event in server.events] == ["fork", "target"]


def test_what_an_exit_hook_of_a_spawned_child_emits_arrives(tmp_path: Path) -> None:
    game = tmp_path / "game.py"
    hook = "    start()\n    atexit.register(emit, 'hook')\n"
    game.write_text(WORKERS.replace('    start()\n    emit("import")\n', hook))
    with RecordingServer() as server:
        done = run(game, "spawn", server.url, "top", "processes")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(sessions(server, "hook")) == 5


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
