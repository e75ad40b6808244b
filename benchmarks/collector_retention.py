"""How long acks take while old events are deleted and a search runs, beside the same without.

    python -m benchmarks.collector_retention [--rate 10000] [--seconds 60] [--keep 10]

One process sends messages of events at a rate, open loop, to a real collector in another, which
deletes events after some seconds, while a third thread searches for a word that is nowhere. An ack
counts from the moment when its message was due.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from websockets.asyncio.client import connect

_EVENTS = 50  # in a message
_CLIENTS = 10
_TYPES = ("move", "shot", "hit", "pickup", "frames")


def main() -> None:
    """Measure both, and print a line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, default=10_000, help="events a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--keep", type=float, default=10.0, help="seconds")
    given = parser.parse_args()
    for name, keep in (("neither", None), ("deleting and searching", given.keep)):
        acks, deleted = _measure(given.rate, given.seconds, keep)
        middle, high = acks[len(acks) // 2], acks[int(len(acks) * 0.99)]
        sys.stdout.write(
            f"{name}: {len(acks):,} acks, p50 {middle * 1000:.1f} ms, p99 {high * 1000:.1f} ms, "
            f"longest {acks[-1] * 1000:.1f} ms; {deleted:,} events deleted\n"
        )
        sys.stdout.flush()


def _measure(rate: int, seconds: float, keep: float | None) -> tuple[list[float], int]:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        db = Path(folder, "telemetry.sqlite3")
        command = [sys.executable, "-m", "redvsblue_telemetry", "collect", "--port", str(port)]
        command += ["--db", str(db), *([] if keep is None else ["--keep", f"{keep:g}s"])]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as collector:
            try:
                url = f"http://127.0.0.1:{port}"
                _wait_for(url)
                is_over = threading.Event()
                searching = threading.Thread(target=_search, args=(url, is_over))
                if keep is not None:
                    searching.start()
                acks = asyncio.run(_send(port, rate, seconds))
                is_over.set()
                if keep is not None:
                    searching.join()
            finally:
                collector.send_signal(signal.SIGTERM)
        with contextlib.closing(sqlite3.connect(db)) as connection:
            (deleted,) = connection.execute("SELECT sum(deleted) FROM sessions").fetchone()
    return sorted(acks), deleted or 0


def _wait_for(url: str) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/healthz"):
            return
        time.sleep(0.05)
    raise SystemExit("the collector doesn't start")


def _search(url: str, is_over: threading.Event) -> None:
    while not is_over.is_set():
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/api/events?text=*nowhere", timeout=20).read()


async def _send(port: int, rate: int, seconds: float) -> list[float]:
    tasks = [_client(port, number, rate / _CLIENTS, seconds) for number in range(_CLIENTS)]
    return [ack for acks in await asyncio.gather(*tasks) for ack in acks]


async def _client(port: int, number: int, rate: float, seconds: float) -> list[float]:
    due: list[float] = []
    acks: list[float] = []
    headers = {"Telemetry-Ack": "cumulative"}
    url = f"ws://127.0.0.1:{port}/telemetry"
    async with connect(url, additional_headers=headers, proxy=None) as socket_:

        async def receive() -> None:
            while len(acks) < int(seconds * rate / _EVENTS):
                last = json.loads(await socket_.recv())["ack"]
                now = time.monotonic()
                acks.extend(now - each for each in due[len(acks) : last])

        receiving = asyncio.create_task(receive())
        start = time.monotonic() + number * _EVENTS / rate / _CLIENTS
        for message in range(int(seconds * rate / _EVENTS)):
            due.append(start + message * _EVENTS / rate)
            await asyncio.sleep(max(0.0, due[-1] - time.monotonic()))
            await socket_.send(_message(number, message))
        await asyncio.wait_for(receiving, 60)
    return acks


def _message(client: int, number: int) -> str:
    first = number * _EVENTS + 1
    return json.dumps(
        [
            {
                "sessionId": f"client-{client}",
                "seq": seq,
                "type": _TYPES[seq % 5],
                "timestamp": 1_795_000_000_000 + seq,
                "id": f"{client}-{seq}",
                "data": {"weapon": "laser rifle", "damage": seq % 40, "at": [1.5, 2.5, seq % 99]},
            }
            for seq in range(first, first + _EVENTS)
        ]
    )


if __name__ == "__main__":
    main()
