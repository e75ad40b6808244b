"""A game of ``cluster``: battles, at the speed that gives a number of events a second.

    python -m redvsblue_telemetry.cli.cluster.game WS_URL RATE SEED

It prints its progress as a line of JSON at its start and each second. A line on its standard input
lets it deliver what is left, print its final ledger, and end. When its standard input is closed
without one, it ends at once, so it doesn't outlive the process that started it.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import msgspec

from ..._process import start_telemetry
from ...client import Telemetry
from ..demo.battle import BattleEngine

__all__ = ["Progress"]

_FPS = 60
_STEP = 1 / 60  # of the battle, in seconds
_STOP_TIMEOUT = 90.0  # a stream's leader may be missing for ten
_SPARE_SECONDS = 60  # that the memory has room for
_WATCH_INTERVAL = 0.05
_VERSION = "1.4.2"
_COUNTS = ("emitted", "delivered", "buffered", "in_flight", "dropped", "rejected")


class Progress(msgspec.Struct):
    """The progress of a game, by its own account."""

    session: str = ""
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
    reconnects: int = 0
    longest_wait: float = 0.0
    """The longest time without a confirmation while events waited for one, in seconds."""
    is_over: bool = False


class _Watch:
    """Measures the longest time without a confirmation, in a thread."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.longest = 0.0
        self._telemetry = telemetry
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        delivered, since = 0, time.perf_counter()
        while not self._end.wait(_WATCH_INTERVAL):
            ledger, now = self._telemetry.stats(), time.perf_counter()
            if ledger.delivered != delivered or not ledger.buffered + ledger.in_flight:
                delivered, since = ledger.delivered, now
            self.longest = max(self.longest, now - since)


class _Game:
    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._progress = Progress(session=telemetry.session_id)
        self._watch = _Watch(telemetry)
        self._started = time.perf_counter()

    def play(self, rate: float, seed: int, end: threading.Event) -> None:
        engine = BattleEngine(seed=seed)
        next_report = 0.0
        with self._telemetry.attach(engine):
            engine.on("telemetry", self._count)
            while not end.wait(1 / _FPS):
                seconds = time.perf_counter() - self._started
                while self._progress.counted < rate * seconds:
                    engine.update(_STEP)
                    if time.perf_counter() - self._started > seconds + 1 / _FPS:
                        break  # the machine is too slow for this rate
                if seconds >= next_report:
                    self.report()
                    next_report += 1.0

    def _count(self, _: object) -> None:
        self._progress.counted += 1

    def end(self) -> None:
        self._telemetry.stop(timeout=_STOP_TIMEOUT)
        self._watch.close()
        self._progress.is_over = True
        self.report()

    def report(self) -> None:
        progress, ledger = self._progress, self._telemetry.stats()
        progress.seconds = round(time.perf_counter() - self._started, 1)
        progress.reconnects = ledger.reconnects
        progress.longest_wait = round(self._watch.longest, 2)
        for name in _COUNTS:
            setattr(progress, name, getattr(ledger, name))
        os.write(sys.stdout.fileno(), msgspec.json.encode(progress) + b"\n")


def _end_with_standard_input(end: threading.Event) -> None:
    # Not sys.stdin.read(): a thread that waits in it holds a lock that is needed at exit.
    if os.read(sys.stdin.fileno(), 1024):
        end.set()
        os.read(sys.stdin.fileno(), 1024)
    os._exit(1)


def _main(url: str, rate: float, seed: int) -> None:
    end = threading.Event()
    threading.Thread(target=_end_with_standard_input, args=(end,), daemon=True).start()
    telemetry = start_telemetry(
        enabled=True,
        url=url,
        version=_VERSION,
        drain_interval=0.2,
        batch_size=250,
        capacity=max(5_000, int(rate * _SPARE_SECONDS)),
    )
    telemetry.context(player=f"p-{seed}")
    game = _Game(telemetry)
    game.play(rate, seed, end)
    game.end()


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
