"""The game of ``demo``: the battle, at sixty frames a second, in a separate process.

    python -m redvsblue_telemetry.cli.demo.game WS_URL SECONDS

So it shares neither an interpreter nor a GIL with the collector. Each second it prints its progress
as a line of JSON, and at the end its final ledger. It ends when its standard input is closed, so it
doesn't outlive the process that started it.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import msgspec

from ... import __version__
from ..._process import start_telemetry
from ...client import Telemetry
from .battle import BattleEngine

__all__ = ["Progress"]

_FPS = 60
_SEED = 7
_STOP_TIMEOUT = 15.0  # seconds


class Progress(msgspec.Struct):
    """The progress of the game, by its own account."""

    seconds: float = 0.0
    """Seconds since its start."""
    counted: int = 0
    """Events that the game itself counted as it handed them to the library."""
    emitted: int = 0
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

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.progress = Progress()
        self._started = time.perf_counter()
        self._frames: list[float] = []

    def play(self, seconds: float) -> None:
        engine = BattleEngine(seed=_SEED)
        engine.on("telemetry", self._count)
        due = self._started
        with self.telemetry.attach(engine):
            for number in range(1, round(seconds * _FPS) + 1):
                engine.update(1 / _FPS)
                self._frames.append((time.perf_counter() - due) * 1000)
                if number % _FPS == 0:
                    self._emit_frame_times()
                due += 1 / _FPS
                time.sleep(max(0.0, due - time.perf_counter()))

    def _count(self, _: object) -> None:
        self.progress.counted += 1

    def _emit_frame_times(self) -> None:
        frames = sorted(self._frames)
        self._frames.clear()
        median, slowest = round(frames[len(frames) // 2], 2), round(frames[-1], 2)
        self.progress.frame_ms, self.progress.slowest_ms = median, slowest
        self.progress.counted += 1
        self.telemetry.emit("frame_times", {"frameTimeMs": median, "slowestMs": slowest})
        self.report()

    def report(self) -> None:
        progress, ledger = self.progress, self.telemetry.stats()
        progress.seconds = round(time.perf_counter() - self._started, 1)
        for name in ("emitted", "delivered", "buffered", "in_flight", "dropped", "rejected"):
            setattr(progress, name, getattr(ledger, name))
        _print(progress)


def _print(progress: Progress) -> None:
    os.write(sys.stdout.fileno(), msgspec.json.encode(progress) + b"\n")


def _end_with_standard_input() -> None:
    # Not sys.stdin.read(): a thread that waits in it holds a lock that is needed at exit.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(1)


def _main(url: str, seconds: float) -> None:
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    telemetry = start_telemetry(
        enabled=True, url=url, version=f"demo {__version__}", drain_interval=0.2
    )
    game = _Game(telemetry)
    game.progress.session = telemetry.session_id
    game.play(seconds)
    telemetry.stop(timeout=_STOP_TIMEOUT)
    game.progress.is_over = True
    game.report()


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
