"""Ctrl-C while the events of a game that has ended are still being delivered."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.client.test_fork import needs_fork
from tests.client.test_process import IMPORT, TIMEOUT, end_of, play
from tests.support.command import running_command
from tests.support.raw_server import raw_server, read_to_the_end, shake_hands
from tests.support.systems import IS_WINDOWS, needs_posix

# The last event is sent by the stop, and by nothing before it: so when the server has it, the game
# is in its exit.
#
# No process can send a signal to another one on Windows. There, the system runs the handler in a
# thread of the game's when somebody presses Ctrl-C; this one does it at a line from the test.
GAME = (
    IMPORT
    + """
if sys.platform == "win32":
    import threading
    raise_signals = lambda: signal.raise_signal(int(sys.stdin.readline()))
    threading.Thread(target=raise_signals, daemon=True).start()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
def play():
    telemetry = start_telemetry(enabled=True, url=sys.argv[1], drain_interval=60)
    while telemetry.stats().state is not ConnectionState.CONNECTED:
        time.sleep(0.002)
    assert telemetry.flush(20)
    telemetry.emit("last")
    return telemetry
"""
)
SOON = 1.5  # seconds; the stop at the exit takes 2 if nothing interrupts it


def send(game: subprocess.Popen[str], number: signal.Signals) -> None:
    if not IS_WINDOWS:
        game.send_signal(number)
    else:
        assert game.stdin is not None
        game.stdin.write(f"{number:d}\n")
        game.stdin.flush()


@contextlib.contextmanager
def mute_server() -> Iterator[tuple[str, threading.Event]]:
    """A server that confirms nothing; yields its URL, and an event that is set at a batch."""
    has_batch = threading.Event()

    def script(client: socket.socket) -> None:
        shake_hands(client)
        if client.recv(65536):
            has_batch.set()
        read_to_the_end(client)

    with raw_server(script) as port:
        yield f"ws://127.0.0.1:{port}/", has_batch


def test_ctrl_c_at_the_exit_ends_it_at_once_and_quietly() -> None:
    with mute_server() as (url, has_batch):
        game = play(f"{GAME}\nplay()", url)
        assert has_batch.wait(TIMEOUT)
        start = time.monotonic()
        send(game, signal.SIGINT)
        done = end_of(game)
        assert time.monotonic() - start < SOON
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_handler_that_exits_ends_the_exit_at_once_and_quietly() -> None:
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))"
    with mute_server() as (url, has_batch):
        game = play(f"{GAME}\n{handler}\nplay()", url)
        assert has_batch.wait(TIMEOUT)
        start = time.monotonic()
        send(game, signal.SIGTERM)
        done = end_of(game)
        assert time.monotonic() - start < SOON
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_fork
def test_ctrl_c_at_the_end_of_a_child_of_multiprocessing_ends_it_at_once_and_quietly() -> None:
    script = """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=play)
child.start()
print(child.pid, flush=True)
child.join()
print(child.exitcode)
"""
    with mute_server() as (url, has_batch):
        game = play(GAME + script, url)
        assert game.stdout is not None
        child = int(game.stdout.readline())
        assert has_batch.wait(TIMEOUT)
        start = time.monotonic()
        os.kill(child, signal.SIGINT)
        done = end_of(game)
        assert time.monotonic() - start < SOON
        assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_ctrl_c_during_a_stop_of_the_games_own_reaches_the_game() -> None:
    script = """
try:
    play().stop(30)
except KeyboardInterrupt:
    print("interrupted")
"""
    with mute_server() as (url, has_batch):
        game = play(GAME + script, url)
        assert has_batch.wait(TIMEOUT)
        send(game, signal.SIGINT)
        done = end_of(game)
        assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


@needs_posix
def test_ctrl_c_under_the_command_run_ends_the_exit_of_its_game_quietly(tmp_path: Path) -> None:
    path = tmp_path / "game.py"
    path.write_text(f"{GAME}\nplay()")
    with mute_server() as (url, has_batch):
        game = (sys.executable, path, url)
        with running_command("run", "--no-browser", "--", *game) as running:
            assert has_batch.wait(TIMEOUT)
            start = time.monotonic()
            running.end(signal.SIGINT)
            assert time.monotonic() - start < SOON + 3  # the collector ends as well
        assert "Traceback" not in running.said
        assert "KeyboardInterrupt" not in running.said
