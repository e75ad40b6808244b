"""How a process ends, and what of its telemetry is at the server then. Forks: test_fork.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import redvsblue_telemetry
from redvsblue_telemetry.testing import RecordingServer
from tests.support.collector import REFUSING_PORT
from tests.support.raw_server import raw_server, read_to_the_end, shake_hands
from tests.support.systems import needs_posix
from tests.support.wait import wait_until

PACKAGE = Path(redvsblue_telemetry.__file__).parent

IMPORT = "import os, signal, sys, time\nfrom redvsblue_telemetry import *\n"
START = (
    IMPORT
    + """
telemetry = start_telemetry(enabled=True, url=sys.argv[1], backoff_base=0.05)
"""
)
TIMEOUT = 40.0  # seconds, for a machine that has other things to do


def play(script: str | Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a script in a new process, which imports the package under test."""
    path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore:This process"),
            *((str(script),) if isinstance(script, Path) else ("-c", script)),
            *arguments,
        ],
        cwd=PACKAGE.parent,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    with process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(script: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return end_of(play(script, *arguments))


def said(process: subprocess.Popen[str], line: str) -> bool:
    """Wait for the next line that it prints; whether it is this one."""
    assert process.stdout is not None
    return process.stdout.readline() == f"{line}\n"


@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("sys.exit(3)", 3), ("raise RuntimeError('its own')", 1)],
)
def test_what_was_emitted_last_arrives(ending: str, code: int) -> None:
    with RecordingServer() as server:
        done = run(f"{START}telemetry.emit('last')\n{ending}", server.url)
        assert done.returncode == code
        assert server.wait_for(1)
        assert done.stdout == ""
        assert done.stderr == "" if code != 1 else done.stderr.count("Traceback") == 1


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("", "exit"),
        ("sys.exit(3)", "exit"),
        ("raise KeyboardInterrupt", "exit"),
        ("raise RuntimeError('its own')", "crashed"),
        ("telemetry.stop(5)", "stopped"),
        ("telemetry.stop(5)\nraise RuntimeError('later')", "stopped"),
        ("stop_telemetry(5)", "stopped"),
    ],
)
def test_the_last_report_says_how_the_session_ended(ending: str, reason: str) -> None:
    with RecordingServer() as server:
        run(f"{START}telemetry.emit('last')\n{ending}", server.url)
        report = server.reports[-1]
        assert (report["state"], report["reason"]) == ("ended", reason)
        assert (report["lastSeq"], report["delivered"]) == (1, 1)


def test_what_a_thread_and_an_exit_hook_emit_at_the_end_arrives() -> None:
    script = """
import atexit, threading
def play_on():
    threading.main_thread().join()
    telemetry.emit("thread")
threading.Thread(target=play_on).start()
atexit.register(telemetry.emit, "hook")
"""
    with RecordingServer() as server:
        done = run(START + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert server.wait_for(2)
        assert [event["type"] for event in server.events] == ["thread", "hook"]


def test_an_exit_waits_for_a_worker_that_was_stopped_by_its_own_callback() -> None:
    script = """
def review(event):
    telemetry.stop(20)
    time.sleep(0.3)  # so the game is at its end before the worker is
    return event
telemetry = start_telemetry(enabled=True, url=sys.argv[1], before_send=review, drain_interval=0.01)
telemetry.emit("last")
while telemetry.is_running:
    time.sleep(0.01)
"""
    with RecordingServer() as server:
        done = run(IMPORT + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert server.wait_for(1)


def test_an_exit_waits_for_a_dead_server_no_longer_than_stop_does_and_is_silent() -> None:
    # The hook that is registered first is run last. The library's warnings are the log's matter.
    script = """
import atexit, logging, time
atexit.register(lambda: print(time.monotonic() - end))
logging.getLogger("redvsblue_telemetry").addHandler(logging.NullHandler())
"""
    script += f"{START}telemetry.emit('lost')\ntime.sleep(0.2)\nend = time.monotonic()"
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,  # connects, and never says a word
        raw_server(lambda client: (shake_hands(client), read_to_the_end(client))) as deaf,
    ):
        ports = (REFUSING_PORT, silent.getsockname()[1], deaf)
        games = [play(script, f"ws://127.0.0.1:{port}/") for port in ports]
        for done in map(end_of, games):
            assert (done.returncode, done.stderr) == (0, "")
            assert float(done.stdout) < 2 + 3


def test_os_exit_hangs_on_nothing_and_loses_nothing_that_was_confirmed() -> None:
    script = """
for number in range(100):
    telemetry.emit("before", i=number)
assert telemetry.flush(20)
for number in range(1000):
    telemetry.emit("after")
os._exit(7)
"""
    with RecordingServer() as server:
        done = run(START + script, server.url)
        assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
        assert [event["type"] for event in server.events[:100]] == ["before"] * 100
        assert wait_until(lambda: server.connections == 0)
        assert run(START + "telemetry.emit('next')", server.url).returncode == 0
        assert wait_until(lambda: server.events[-1]["type"] == "next")


GAME_LOOP = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
try:
    print("playing", flush=True)
    while True:
        telemetry.emit("frame")
        time.sleep(0.001)
"""


@needs_posix
@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("finally:", -signal.SIGINT),
        ("except KeyboardInterrupt:\n    code = 130", 130),
    ],
)
def test_ctrl_c_ends_the_game_as_ever_and_what_was_emitted_last_arrives(
    ending: str, code: int
) -> None:
    script = f"""{START}{GAME_LOOP}
{ending}
    telemetry.emit("last")
    print(telemetry.stats().emitted, flush=True)
sys.exit(code)
"""
    with RecordingServer() as server:
        game = play(script, server.url)
        assert said(game, "playing")
        game.send_signal(signal.SIGINT)
        done = end_of(game)
        assert done.returncode == code
        assert done.stderr == "" if code == 130 else done.stderr.endswith("KeyboardInterrupt\n")
        emitted = int(done.stdout)
        assert server.wait_for(emitted)
        assert [event["seq"] for event in server.events] == list(range(1, emitted + 1))
        assert server.events[-1]["type"] == "last"


@needs_posix
def test_sigterm_kills_as_it_does_without_telemetry() -> None:
    with RecordingServer() as server:
        game = play(f"{START}{GAME_LOOP}finally:\n    print('no')", server.url)
        assert said(game, "playing")
        game.send_signal(signal.SIGTERM)
        done = end_of(game)
        assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")


@needs_posix
def test_a_handler_for_sigterm_may_stop_it() -> None:
    script = f"""
{START}signal.signal(signal.SIGTERM, lambda *_: sys.exit(0 if telemetry.stop(20) else 5))
{GAME_LOOP}finally:
    print(telemetry.stats().emitted)
"""
    with RecordingServer() as server:
        game = play(script, server.url)
        assert said(game, "playing")
        game.send_signal(signal.SIGTERM)
        done = end_of(game)
        assert (done.returncode, done.stderr) == (0, "")
        assert server.wait_for(int(done.stdout))


@needs_posix
def test_a_signal_handler_may_emit_in_the_midst_of_anything() -> None:
    script = """
count = 0
def handler(*_):
    global count
    count += 1
    telemetry.emit("signal")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
own = 0
while count < 200:
    own += 1
    telemetry.emit("own", i=own)
    if own % 100 == 0:
        telemetry.flush(5)
signal.setitimer(signal.ITIMER_REAL, 0)
assert telemetry.stop(10)
stats = telemetry.stats()
assert stats.delivered == count + own, (stats, count, own)
"""
    with RecordingServer() as server:
        done = run(START + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")


@needs_posix
def test_a_signal_handler_may_stop_in_the_midst_of_anything() -> None:
    script = """
import itertools, random
settings = TelemetrySettings(enabled=True, url=sys.argv[1])
total = 0
for round in range(20):
    telemetry = Telemetry(settings).start()
    calls = itertools.count(1)
    answers = []
    def handler(*_):
        if next(calls) == 3:
            signal.setitimer(signal.ITIMER_REAL, 0)
        answers.append(telemetry.stop(2))
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.01), 0.001)
    while len(answers) < 3:
        for _ in range(round % 4 * 5):
            telemetry.emit("x")
        telemetry.flush(2)
        if round % 2:
            answers.append(telemetry.stop(2))
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert telemetry.stop(2) and all(answers), (round, answers)
    stats = telemetry.stats()
    # An emit that the handler came in the midst of was too late.
    assert stats.emitted == stats.delivered + stats.dropped, (round, stats)
    assert stats.dropped <= 1, (round, stats)
    total += stats.delivered
print(total)
"""
    with RecordingServer() as server:
        done = run(IMPORT + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(server.events) == int(done.stdout)


@needs_posix
def test_a_stop_by_a_signal_is_soon_done_wherever_the_game_is_in_a_call() -> None:
    # The signal comes right at the start of a function: a thread may hold a lock there.
    script = """
import threading
settings = TelemetrySettings(enabled=True, url=sys.argv[1], capacity=1)  # so each emit rises
stopped = 0
def handler(*_):
    answers.append(telemetry.stop(20))
signal.signal(signal.SIGUSR1, handler)
def trace(frame, *_):
    if frame.f_code is place.__code__:
        sys.settrace(None)
        signal.raise_signal(signal.SIGUSR1)
for place in (
    Telemetry(settings).emit, TelemetryStore.enforce_capacity, Telemetry.flush,
    Telemetry.stop, TelemetryConnector.stop,
    threading.Event.wait, threading.Condition.wait, threading.Thread.join,
):
    telemetry = Telemetry(settings).start()
    telemetry.emit("x")
    answers = []
    start = time.monotonic()
    sys.settrace(trace)
    telemetry.emit("y")
    telemetry.flush(20)
    telemetry.stop(20)
    sys.settrace(None)
    assert all(answers), (place, answers)
    stopped += len(answers)
    assert time.monotonic() - start < 10, (place, time.monotonic() - start)
    stats = telemetry.stats()
    assert stats.delivered and stats.emitted == stats.delivered + stats.dropped, (place, stats)
assert stopped >= 5, stopped  # not every version of Python comes by all of the places
"""
    with RecordingServer() as server:
        done = run(IMPORT + script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
