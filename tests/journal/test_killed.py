"""A kill in the middle costs no event whose emit has returned, from any place that can emit."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import environment
from benchmarks.notes import SLOTS, Notes
from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry._journal.run import RunDirectory
from redvsblue_telemetry.testing import RecordingServer
from tests.support import REPOSITORY
from tests.support.collector import REFUSING_PORT
from tests.support.kills import KILLED, kill
from tests.support.systems import needs_fork
from tests.support.wait import PATIENCE, wait_until

GAME = """
import gc, multiprocessing, os, signal, sys, threading, time
from pathlib import Path
from benchmarks.notes import Notes
from redvsblue_telemetry import *

def start():
    return start_telemetry(enabled=True, url=sys.argv[1], journal=sys.argv[2], backoff_base=0.05)

class Emitter:
    "Notes each emit that has returned."
    def __init__(self, number):
        self.number, self.n = number, 0
        self.slot = Notes.slot(number)
        self.words = Notes(Path(sys.argv[3])).words
        self.words[self.slot + 2] = os.getpid()
    def emit(self):
        self.n = n = self.n + 1
        self.words[self.slot] = n
        emit("x", emitter=self.number, n=n)
        self.words[self.slot + 1] = n

def play(number):
    emitter = Emitter(number)
    for n in range(20_000):
        emitter.emit()
        if n % 10 == 0:
            time.sleep(0.0005)
    time.sleep(60)

def play_on_its_own(number, arguments):
    sys.argv[1:] = arguments
    start()
    play(number)

def play_all(begin_process):
    begin_process(1)
    begin_process(2)
    begin_process(3)
    play(0)
"""

WAYS = {
    "threads": """
start()
play_all(lambda number: threading.Thread(target=play, args=(number,), daemon=True).start())
""",
    "a signal handler": """
start()
emitter, is_emitting = Emitter(1), False
def handle(*_):
    global is_emitting
    if not is_emitting:
        is_emitting = True
        emitter.emit()
        is_emitting = False
if hasattr(signal, "setitimer"):
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
else:
    def interrupt():
        while True:
            signal.raise_signal(signal.SIGINT)  # the main thread handles it
            time.sleep(0.0005)
    signal.signal(signal.SIGINT, handle)
    threading.Thread(target=interrupt, daemon=True).start()
play(0)
""",
    "__del__": """
start()
emitter = Emitter(1)
class Ship:
    def __init__(self):
        self.itself = self
    def __del__(self):
        emitter.emit()
def build():
    for _ in range(20_000):
        Ship()
gc.set_threshold(7)
threading.Thread(target=play, args=(0,), daemon=True).start()
build()
time.sleep(60)
""",
    "fork": """
start()
def begin(number):
    if os.fork() == 0:
        try:
            play(number)
        finally:
            os._exit(1)
play_all(begin)
""",
    "fork of a game that is emitting": """
start()
threading.Thread(target=play, args=(0,), daemon=True).start()
time.sleep(0.02)
def begin(number):
    if os.fork() == 0:
        try:
            play(number)
        finally:
            os._exit(1)
for number in (1, 2, 3):
    begin(number)
time.sleep(60)
""",
    **{
        f"multiprocessing's {method}": f"""
if __name__ == "__main__":
    start()
    context = multiprocessing.get_context({method!r})
    play_all(
        lambda number: context.Process(
            target=play_on_its_own, args=(number, sys.argv[1:]), daemon=True
        ).start()
    )
"""
        for method in multiprocessing.get_all_start_methods()
    },
}


@contextmanager
def game(path: Path, url: str, journal: Path, notes: Notes) -> Iterator[subprocess.Popen[bytes]]:
    """A game and all processes that it starts, which are gone in the end."""
    arguments = [str(path), url, str(journal), str(path.parent / "notes")]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore:This process", *arguments],
        env=environment(PYTHONPATH=str(REPOSITORY)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            for each in {process.pid, *map(notes.owner, range(SLOTS))} - {0}:
                with suppress(OSError):  # it was too early for them, so they have ended
                    kill(each)
    assert wait_until(lambda: not any(map(RunDirectory.is_living, journal.iterdir())), PATIENCE)


def firsts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events without their repeats, as a receiver keeps them."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for event in events:
        found.setdefault((event["sessionId"], event["seq"]), event)
    return list(found.values())


@pytest.mark.parametrize("is_connected", [False, True], ids=["offline", "connected"])
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[needs_fork] * way.startswith("fork")) for way in WAYS]
)
def test_a_kill_in_the_middle_loses_nothing(way: str, is_connected: bool, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    journal, script = tmp_path / "journal", tmp_path / "game.py"
    script.write_text(GAME + WAYS[way], encoding="utf-8")
    notes = Notes(tmp_path / "notes")
    emitters = range(2 if way in ("a signal handler", "__del__") else 4)

    def returned() -> int:
        return sum(map(notes.returned, emitters))

    with RecordingServer() as server:
        url = server.url if is_connected else f"ws://127.0.0.1:{REFUSING_PORT}/"
        with game(script, url, journal, notes) as process:
            assert wait_until(lambda: all(map(notes.returned, emitters)), PATIENCE)
            enough = returned() + random.Random(seed).randrange(1500)
            assert wait_until(lambda: returned() > enough, PATIENCE)
        assert process.returncode == KILLED
        settings = TelemetrySettings(enabled=True, url=server.url, journal=journal)
        with Telemetry(settings) as telemetry:
            assert wait_until(lambda: len(list(journal.iterdir())) == 1, PATIENCE), seed
            assert telemetry.stop(PATIENCE)
        assert list(journal.rglob("*")) == []
        events = firsts(server.events)
    for emitter in emitters:
        numbers = [event["data"]["n"] for event in events if event["data"]["emitter"] == emitter]
        assert numbers == list(range(1, len(numbers) + 1)), seed
        assert notes.returned(emitter) <= len(numbers) <= notes.begun(emitter), seed
    notes.close()
    assert len({event["id"] for event in events}) == len(events)
    sessions: dict[str, list[int]] = {}
    for event in events:
        sessions.setdefault(event["sessionId"], []).append(event["seq"])
    assert len(sessions) == (4 if "fork" in way or "spawn" in way else 1)
    assert all(seqs == sorted(seqs) for seqs in sessions.values()), seed
