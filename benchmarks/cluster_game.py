"""Clients of the cluster's benchmark: several of the real ones in a process.

    python -m benchmarks.cluster_game WS_URL CLIENTS RATE SEED

Each client emits the events of a battle, again and again, at a rate in events a second; 0 is as
fast as they are delivered. The process prints the progress of all its clients as a line of JSON
each second; the longest wait is that since the line before. A line on its standard input lets it
deliver the rest, print the final ledgers, and end; when it is closed without one, the process ends
at once.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry.cli.cluster.game import Progress
from redvsblue_telemetry.cli.demo.battle import BattleEngine

BATCH_SIZE = 250
_RECORDED = 3000  # events of a battle
_TICK = 0.01  # seconds, as all times here
_WATCH_INTERVAL = 0.05
_STOP_TIMEOUT = 180.0
_SPARE_SECONDS = 60  # that the memory has room for
_FLOOD_CAPACITY = 100_000
_FLOOD_WAITING = 5_000  # events of a client, beyond which it waits
_COUNTS = ("emitted", "delivered", "buffered", "in_flight", "dropped", "rejected", "reconnects")


def recorded_battle(seed: int) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the first events of a battle: their types and data."""
    engine, events = BattleEngine(seed=seed), []
    engine.on("telemetry", lambda event: events.append((event["type"], event["data"])))
    while len(events) < _RECORDED:
        engine.update(1 / 30)
    return events


class Client:
    """One client, and what it has counted."""

    def __init__(self, url: str, rate: float, battle: list[tuple[str, Mapping[str, Any]]]) -> None:
        self._telemetry = Telemetry(
            TelemetrySettings(
                enabled=True,
                url=url,
                drain_interval=0.2,
                batch_size=BATCH_SIZE,
                capacity=int(rate * _SPARE_SECONDS) or _FLOOD_CAPACITY,
                version="1.4.2",
            )
        ).start()
        self.progress = Progress(session=self._telemetry.session_id)
        self._rate = rate
        self._dice = random.Random(self.progress.session)
        self._events = itertools.cycle(battle)
        self._delivered, self._since = 0, time.perf_counter()

    def play(self, seconds: float) -> None:
        """Emit the events that are due after this many seconds."""
        if self._rate:
            count = int(self._rate * seconds) - self.progress.counted
        else:
            ledger = self._telemetry.stats()
            count = _FLOOD_WAITING - ledger.buffered - ledger.in_flight
        for type_, data in itertools.islice(self._events, max(0, count)):
            self._telemetry.emit(type_, **self._moved(data))
        self.progress.counted += max(0, count)

    def _moved(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data at another place: a battle that repeats itself compresses too well."""
        by = self._dice.random() * 100
        return {
            name: round(value + by, 1) if isinstance(value, float) else value
            for name, value in data.items()
        }

    def watch(self) -> None:
        """Note how long it has waited for a confirmation."""
        ledger, now = self._telemetry.stats(), time.perf_counter()
        if ledger.delivered != self._delivered or not ledger.buffered + ledger.in_flight:
            self._delivered, self._since = ledger.delivered, now
        self.progress.longest_wait = max(self.progress.longest_wait, now - self._since)

    def stop(self) -> None:
        self._telemetry.stop(timeout=_STOP_TIMEOUT)
        self.progress.is_over = True

    def note(self, seconds: float) -> Progress:
        ledger = self._telemetry.stats()
        for name in _COUNTS:
            setattr(self.progress, name, getattr(ledger, name))
        self.progress.seconds = seconds
        return self.progress


def _print(clients: list[Client], seconds: float) -> None:
    line = msgspec.json.encode([client.note(seconds) for client in clients])
    os.write(sys.stdout.fileno(), line + b"\n")
    for client in clients:
        client.progress.longest_wait = 0.0  # each line has that since the one before


def _ticks(end: threading.Event) -> Iterator[float]:
    started = time.perf_counter()
    while not end.wait(_TICK):
        yield time.perf_counter() - started


def _watch(clients: list[Client], end: threading.Event) -> None:
    while not end.wait(_WATCH_INTERVAL):
        for client in clients:
            client.watch()


def _end_with_standard_input(end: threading.Event) -> None:
    if os.read(sys.stdin.fileno(), 1024):
        end.set()
        os.read(sys.stdin.fileno(), 1024)
    os._exit(1)


def main(url: str, count: int, rate: float, seed: int) -> None:
    end, is_over = threading.Event(), threading.Event()
    threading.Thread(target=_end_with_standard_input, args=(end,), daemon=True).start()
    battle = recorded_battle(seed)
    clients = [Client(url, rate, battle) for _ in range(count)]
    watching = threading.Thread(target=_watch, args=(clients, is_over))
    watching.start()
    next_line = 0.0
    for seconds in _ticks(end):
        for client in clients:
            client.play(seconds)
        if seconds >= next_line:
            _print(clients, seconds)
            next_line += 1.0
    stopping = [threading.Thread(target=client.stop) for client in clients]
    for thread in stopping:
        thread.start()
    for thread in stopping:
        thread.join()
    is_over.set()
    watching.join()
    _print(clients, next_line)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
