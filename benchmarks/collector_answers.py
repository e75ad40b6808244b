"""How long the collector takes to answer, with many sessions, and while nobody waits for searches.

    python -m benchmarks.collector_answers [--sessions 50000 500000] [--events 20]
        [--json benchmarks/results/collector-answers.json]

For each number of sessions, a database with so many events of each is made, with its index of
texts, and a real collector opens it. Times are of requests over one kept connection, one after the
other, in milliseconds:

1. `/api/stats` and `/api/versions`, while nothing else happens;
2. `/api/stats` while eight clients search for a text that no event has;
3. `/api/stats` from the moment when these clients have gone;
4. the same three while a client in another process sends 5,000 events a second.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from websockets.sync.client import connect

from benchmarks.harness import (
    ROOT,
    Result,
    Server,
    environment,
    machine,
    number,
    parser,
    quantile,
    table,
    write_json,
)
from redvsblue_telemetry.collector.messages import Message, read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.textindex import TextIndex
from redvsblue_telemetry.collector.storage.writer import Writer

_SEARCHES = 8
_REQUESTS = 200
_VERSIONS = 40
_PER_GROUP = 500  # sessions
_DAY = 86_400_000
_RATE = 5000  # events a second that a client sends meanwhile
_BATCH = 50  # events of a message
_MOST_MESSAGES = 60_000  # ten minutes


def fill(path: Path, sessions: int, events: int) -> None:
    """Make a database of sessions that came in during thirty days, two of three of which ended."""
    database = Database(path)
    now = time.time_ns() // 1_000_000
    clock = [now]
    writer = Writer(database, clock=lambda: clock[0])
    for first in range(0, sessions, _PER_GROUP):
        clock[0] = now - 30 * _DAY * (sessions - first) // sessions
        group = range(first, min(sessions, first + _PER_GROUP))
        writer.store([message for each in group for message in _session(each, events, clock[0])])
    index = TextIndex()
    while writer.maintain(index.step):
        pass
    writer.close()
    database.close()


def _session(which: int, events: int, now: int) -> list[Message]:
    session, version = f"session-{which}", f"1.{which % _VERSIONS}"
    batch = [
        {
            "id": f"{which}-{seq}", "type": f"type-{seq % 12}", "timestamp": now,
            "sessionId": session, "seq": seq, "version": version,
            "data": {"shipId": f"red-{seq}", "damage": seq, "by": "blue-1", "x": which * 1.5},
        }
        for seq in range(1, events + 1)
    ]  # fmt: skip
    messages = [read_message(json.dumps(batch))]
    if which % 3:
        report = {
            "sessionId": session, "number": 1, "state": "ended", "startedAt": now, "at": now,
            "reason": "stopped" if which % 30 else "crashed", "lastSeq": events, "emitted": events,
            "delivered": events, "rejected": 0, "dropped": {}, "sampled": {}, "gaps": [],
            "reconnects": 0, "sdk": "0",
        }  # fmt: skip
        messages.append(read_message(json.dumps({"report": report})))
    return messages


def ask(port: int, path: str, count: int) -> list[float]:
    """Return how long each of some requests took, in milliseconds, in ascending order."""
    took = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        for _ in range(count):
            began = time.perf_counter()
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            took.append((time.perf_counter() - began) * 1000)
            if response.status != 200:
                raise RuntimeError(f"{path}: {response.status} {body[:200]!r}")
    return sorted(took)


@contextlib.contextmanager
def searching(port: int) -> Iterator[None]:
    """Have clients search inside the block; they disconnect at its end."""
    with contextlib.ExitStack() as clients:
        for _ in range(_SEARCHES):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port)))
            # With an asterisk: without the index of words.
            client.sendall(b"GET /api/events?text=*nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield


@contextlib.contextmanager
def sending(url: str) -> Iterator[None]:
    """Have a client send events inside the block."""
    command = [sys.executable, "-m", "benchmarks.collector_answers", "--send", url]
    with subprocess.Popen(command, cwd=ROOT, env=environment()) as client:
        time.sleep(1.0)
        try:
            yield
            if client.poll() is not None:
                raise RuntimeError("the client ended early")
        finally:
            client.terminate()


def send(url: str) -> None:
    """Send 5,000 events a second for at most ten minutes."""
    with connect(url, additional_headers={"Telemetry-Ack": "cumulative"}) as client:
        threading.Thread(target=lambda: list(client), daemon=True).start()
        due = time.perf_counter()
        for number in range(_MOST_MESSAGES):
            seq = number * _BATCH
            events = [
                {
                    "id": f"{seq + each}", "type": f"type-{each % 12}", "sessionId": "sending",
                    "timestamp": time.time_ns() // 1_000_000, "seq": seq + each + 1,
                    "version": "1.0", "data": {"shipId": f"red-{seq}", "damage": each},
                }
                for each in range(_BATCH)
            ]  # fmt: skip
            client.send(json.dumps(events))
            due += _BATCH / _RATE
            time.sleep(max(0.0, due - time.perf_counter()))


def measure(sessions: int, events: int, requests: int) -> Iterator[Result]:
    """Yield the times of each kind of request."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "telemetry.sqlite3")
        began = time.perf_counter()
        fill(path, sessions, events)
        print(f"{sessions} sessions stored in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        with Server("benchmarks.collector_server", "collector", path) as server:
            try:
                port = server.port
                ask(port, "/api/stats", 10)
                times = dict(_times(port, requests))
                with sending(server.url):
                    for name, took in _times(port, requests):
                        times[f"{name}, 5,000 events/s"] = took
            finally:
                os.kill(server.pid, signal.SIGTERM)
                server.wait()
    for name, took in times.items():
        yield {
            "sessions": sessions, "request": name, "median": quantile(took, 0.5),
            "p99": quantile(took, 0.99), "worst": took[-1],
        }  # fmt: skip


def _times(port: int, requests: int) -> Iterator[tuple[str, list[float]]]:
    yield "/api/stats", ask(port, "/api/stats", requests)
    yield "/api/versions", ask(port, "/api/versions", requests)
    with searching(port):
        yield "/api/stats, eight searches", ask(port, "/api/stats", requests)
    yield "/api/stats, abandoned searches", ask(port, "/api/stats", requests)


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--sessions", type=int, nargs="+", default=[50_000, 500_000])
    options.add_argument("--events", type=int, default=20, help="of each; default: %(default)s")
    options.add_argument("--send", metavar="URL", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.send:
        send(given.send)
        return 0
    sizes = [500, 1000] if given.quick else given.sessions
    found = [
        each
        for sessions in sizes
        for each in measure(sessions, given.events, 20 if given.quick else _REQUESTS)
    ]
    rows = [
        [
            each["request"],
            str(each["sessions"]),
            *(number(each[k]) for k in ("median", "p99", "worst")),
        ]
        for each in found
    ]
    print(table(["request (ms)", "sessions", "median", "p99", "worst"], rows))
    if given.json is not None:
        write_json(given.json, {"machine": machine(), "answers": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
