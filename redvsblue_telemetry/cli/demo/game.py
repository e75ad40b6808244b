"""The game of ``demo``: the battle, at sixty frames a second, in a separate process.

    python -m redvsblue_telemetry.cli.demo.game WS_URL SECONDS JOURNAL TALLY SEED

So it shares neither an interpreter nor a GIL with the collector. After its first frame and each
second it prints its progress as a line of JSON, and at the end its final ledger. It counts its
events in the file TALLY, which outlives it: the demo kills it. It ends when its standard input is
closed, so it doesn't outlive the process that started it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..._process import start_telemetry
from ...client import Telemetry
from .battle import BattleEngine

__all__ = ["Progress", "Tally"]

_FPS = 60
_PLAYER = "p-17"  # one of the demo's past
_VERSION = "1.4.2"  # the newest there
_TAKE_OVER_TIMEOUT = 15.0  # seconds
_STOP_TIMEOUT = 15.0
_WORD = 8  # bytes
_COUNTS = ("emitted", "recovered", "delivered", "buffered", "in_flight", "dropped", "rejected")


class Tally:
    """A count that outlives the process that counts: a word in a file that both sides map.

    Args:
        path: the file; created if it doesn't exist.
    """

    def __init__(self, path: Path) -> None:
        with open(path, "a+b") as file:
            file.truncate(_WORD)
            self._map = mmap.mmap(file.fileno(), _WORD)
        self._words = memoryview(self._map).cast("Q")

    @property
    def count(self) -> int:
        """The number of events that were counted."""
        return self._words[0]

    def add(self) -> None:
        """Count one more."""
        self._words[0] += 1

    def close(self) -> None:
        """Let go of the file."""
        self._words.release()
        self._map.close()


class Progress(msgspec.Struct):
    """The progress of the game, by its own account."""

    seconds: float = 0.0
    """Seconds since its start."""
    counted: int = 0
    """Events that the game itself counted once it had handed them to the library."""
    emitted: int = 0
    recovered: int = 0
    """Events of the game that was killed."""
    delivered: int = 0
    buffered: int = 0
    in_flight: int = 0
    dropped: int = 0
    rejected: int = 0
    frame_ms: float = 0.0
    """Median of the last second's frames, from when a frame was due to the end of its work."""
    slowest_ms: float = 0.0
    """The longest of them; 0 until the first second is over."""
    session: str = ""
    is_over: bool = False


class _Game:
    """Plays, and counts the events that it hands to the library."""

    def __init__(self, telemetry: Telemetry, tally: Tally) -> None:
        self.telemetry = telemetry
        self.progress = Progress(session=telemetry.session_id)
        self._tally = tally
        self._started = time.perf_counter()
        self._frames: list[float] = []

    def play(self, seconds: float, seed: int) -> None:
        engine = BattleEngine(seed=seed)
        engine.on("telemetry", self._note_round)
        due = self._started
        with self.telemetry.attach(engine):
            # Behind the library's handler: a kill may come in between.
            engine.on("telemetry", self._count)
            for number in range(1, max(1, round(seconds * _FPS)) + 1):
                self.telemetry.frame()
                engine.update(1 / _FPS)
                self._frames.append((time.perf_counter() - due) * 1000)
                if number % _FPS == 0:
                    self._note_frame_times()
                if number == 1 or number % _FPS == 0:
                    self.report()
                due += 1 / _FPS
                time.sleep(max(0.0, due - time.perf_counter()))

    def _note_round(self, event: Mapping[str, Any]) -> None:
        if event["type"] == "round_start":
            self.telemetry.context(round=event["data"]["round"])

    def _count(self, _: object) -> None:
        self._tally.add()

    def _note_frame_times(self) -> None:
        frames = sorted(self._frames)
        self._frames.clear()
        self.progress.frame_ms = round(frames[len(frames) // 2], 2)
        self.progress.slowest_ms = round(frames[-1], 2)

    def report(self) -> None:
        progress, ledger = self.progress, self.telemetry.stats()
        progress.seconds = round(time.perf_counter() - self._started, 1)
        progress.counted = self._tally.count
        for name in _COUNTS:
            setattr(progress, name, getattr(ledger, name))
        _print(progress)


def _print(progress: Progress) -> None:
    os.write(sys.stdout.fileno(), msgspec.json.encode(progress) + b"\n")


def _end_with_standard_input() -> None:
    # Not sys.stdin.read(): a thread that waits in it holds a lock that is needed at exit.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(1)


def _await_take_over(journal: Path) -> None:
    """Wait until the events of the game that was killed are delivered, and it is reported."""
    deadline = time.monotonic() + _TAKE_OVER_TIMEOUT
    with contextlib.suppress(OSError):  # there is no journal, as the log says
        while len(os.listdir(journal)) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)


def _main(url: str, seconds: float, journal: Path, tally: Path, seed: int) -> None:
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    telemetry = start_telemetry(
        enabled=True,
        url=url,
        version=_VERSION,
        drain_interval=0.2,
        frame_interval=1.0,
        journal=journal,
    )
    telemetry.context(player=_PLAYER)
    game = _Game(telemetry, Tally(tally))
    game.play(seconds, seed)
    _await_take_over(journal)
    telemetry.stop(timeout=_STOP_TIMEOUT)
    game.progress.is_over = True
    game.report()


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
