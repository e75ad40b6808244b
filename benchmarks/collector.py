"""How many events the collector stores, commits and acknowledges, sent by real clients.

    python -m benchmarks.collector [--rounds 3] [--json benchmarks/results/collector.json]
    python -m benchmarks.collector --compression [--rounds 9]
        [--json benchmarks/results/collector-compression.json]
    python -m benchmarks.collector --against COMMIT [--rounds 5]

1. *Throughput.* Ten SDK clients, two in each of five processes, emit events of 150 bytes as fast as
   they are taken (default settings except for the capacity; a client pauses while half its store
   is full). The clock runs from the first emit to the last acknowledgment. In the same round: the
   collector, the collector with a viewer of its live page, bare parts (``collector_server``:
   uvicorn, ``json``, one INSERT an event), and SQLite alone: the same rows into the same tables, in
   one thread, in groups as large as the collector's were on average.
2. *Latency of an acknowledgment*, at 10,000 events a second in messages of 50, by one client.
3. *Idle connections*: the collector's memory with 1,000 of them, less its memory without.

With ``--compression``: the first measurement for clients that send text, ``deflate`` and ``zstd``,
in another order in each round. They emit the events of the demo's battle, whose values vary as a
game's do. The clients share the machine with the collector, so what they pay is part of the rate.

With ``--against``: the first measurement for this collector and for that of an earlier commit, with
the clients of this one, in turn.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.encodings import ENCODINGS, TEXT, available, battle_events, offer_only
from benchmarks.harness import (
    EVENT_TYPE,
    ROOT,
    Result,
    Server,
    answer,
    conclude,
    event_data,
    failures,
    grouped,
    median,
    number,
    parser,
    quantile,
    resident_bytes,
    run_child,
    run_rounds,
    spread,
    summary,
    table,
    wait_for_state,
)

MODULE = "benchmarks.collector"
COMPRESSION = "collector-compression"
AGAINST = "collector-against"
_EARLIER = "earlier"
_PROCESSES, _CLIENTS = 5, 2  # of each process
_SIZE = 150
_CAPACITY = 20_000
_BLOCK = 256
_TIMEOUT = 120.0
_ACK_RATE, _ACK_BATCH = 10_000, 50
_IDLE = 1000


# In the children.


def load(task: Result) -> Result:
    """Emit with some clients as fast as they can; return when they began and ended."""
    from redvsblue_telemetry import Telemetry, TelemetrySettings  # not imported by every child

    more = offer_only(task["encoding"]) if "encoding" in task else {}
    settings = TelemetrySettings(enabled=True, url=task["url"], capacity=_CAPACITY, **more)
    clients = [Telemetry(settings).start() for _ in range(_CLIENTS)]
    for client in clients:
        wait_for_state(client, "connected")
    while time.time() < task["at"]:
        time.sleep(0.001)
    block = [(EVENT_TYPE, event_data(_SIZE))] * _BLOCK
    if "encoding" in task:
        block = battle_events(_BLOCK)
    began = time.time()
    for _ in range(0, task["events"], _BLOCK):
        for client in clients:
            for type_, data in block:
                client.emit(type_, data)
        while any(client.stats().buffered > _CAPACITY // 2 for client in clients):
            time.sleep(0.002)
    flushed = [client.flush(_TIMEOUT) for client in clients]
    ended = time.time()
    stats = [client.stats() for client in clients]
    for client in clients:
        client.stop(5)
    if not all(flushed) or any(figures.delivered != figures.emitted for figures in stats):
        raise RuntimeError(f"not all was delivered: {stats}")
    return {"began": began, "ended": ended, "events": sum(figures.delivered for figures in stats)}


def acks(task: Result) -> Result:
    """Send at a steady rate; return how long each acknowledgment takes, in ms."""
    from websockets.sync.client import connect

    event = {"type": EVENT_TYPE, "timestamp": 1, "data": event_data(_SIZE), "sessionId": task["id"]}
    sent: list[float] = []
    took: list[float] = []
    with connect(task["url"], additional_headers={"Telemetry-Ack": "cumulative"}) as client:
        count = int(task["seconds"] * _ACK_RATE / _ACK_BATCH)

        def read() -> None:
            while len(took) < count:
                number = json.loads(client.recv(timeout=_TIMEOUT))["ack"]
                now = time.perf_counter()
                took.extend(1000 * (now - at) for at in sent[len(took) : number])

        reader = threading.Thread(target=read)
        reader.start()
        due = time.perf_counter()
        for number in range(count):
            first = number * _ACK_BATCH + 1
            batch = [
                event | {"seq": seq, "id": f"{task['id']}-{seq}"}
                for seq in range(first, first + _ACK_BATCH)
            ]
            message = json.dumps(batch)
            time.sleep(max(0.0, due - time.perf_counter()))
            sent.append(time.perf_counter())
            client.send(message)
            due += _ACK_BATCH / _ACK_RATE
        reader.join()
    took.sort()
    return {"p50_ms": quantile(took, 0.5), "p99_ms": quantile(took, 0.99), "acks": count}


def sqlite(task: Result) -> Result:
    """Insert ready-made rows with SQLite alone, grouped as the collector's were."""
    import msgspec

    from redvsblue_telemetry.collector.storage import database as collector_database

    with tempfile.TemporaryDirectory() as folder:
        database = collector_database.Database(Path(folder) / "events.sqlite3")
        connection = database.connect()
        connection.execute("PRAGMA synchronous = FULL")
        data = msgspec.json.encode(event_data(_SIZE)).decode()
        rows = [
            (
                number % 10,
                number,
                1,
                1_700_000_000_000,
                1_700_000_000_000,
                f"{number:024}",
                None,
                data,
            )
            for number in range(task["events"])
        ]
        statement = (
            "INSERT INTO events (session, seq, type, timestamp, received, id, version, data) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        )
        began = time.perf_counter()
        for start in range(0, len(rows), task["group"]):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(statement, rows[start : start + task["group"]])
            connection.execute("COMMIT")
        seconds = time.perf_counter() - began
        connection.close()
        database.close()
    return {"events": len(rows), "seconds": seconds, "events_per_second": len(rows) / seconds}


KINDS = {"load": load, "acks": acks, "sqlite": sqlite}


# In the parent.


@contextlib.contextmanager
def _server(name: str, tree: Path = ROOT) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "telemetry.sqlite3"
        with Server("benchmarks.collector_server", name, file, tree=tree) as server:
            yield server


def _throughput(
    name: str, events: int, *, viewed: bool = False, tree: Path = ROOT, **more: Any
) -> Result:
    with _server(name, tree) as server, contextlib.ExitStack() as stack:
        if viewed:
            stack.enter_context(_viewer(server.port))
        task = {
            "kind": "load",
            "url": server.url,
            "events": events,
            "at": time.time() + 3.0,
            **more,
        }
        with ThreadPoolExecutor(_PROCESSES) as pool:
            results = list(pool.map(lambda _: run_child(MODULE, task, _TIMEOUT), range(_PROCESSES)))
        if lost := failures(results):
            return {"failure": "; ".join(lost)}
        metrics = _metrics(server.port) if name == "collector" else {}
    seconds = max(r["ended"] for r in results) - min(r["began"] for r in results)
    total = sum(result["events"] for result in results)
    stored = metrics.get("telemetry_events_stored_total", total)
    if stored != total:
        return {"failure": f"{total} events were acknowledged, but {stored} are stored"}
    groups = metrics.get("telemetry_groups_stored_total")  # the bare parts have none
    received, text = (metrics.get(f"telemetry_{n}_bytes_total") for n in ("received", "text"))
    if more.get("encoding", TEXT) != TEXT and not (received and text and received < text):
        return {"failure": f"{more['encoding']}: {received} bytes came for {text} of text"}
    return {
        "events": total,
        "seconds": seconds,
        "received_bytes_per_event": received / total if received else None,
        "events_per_second": total / seconds,
        "group": total / groups if groups else None,
    }


@contextlib.contextmanager
def _viewer(port: int) -> Iterator[None]:
    """Read the stream of the live page, and its lists as often as the page does."""
    is_over = threading.Event()

    def watch() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/api/live")
        response = connection.getresponse()
        with contextlib.suppress(OSError, http.client.HTTPException):
            while not is_over.is_set() and response.readline():
                pass
        connection.close()

    def ask() -> None:
        while not is_over.wait(1.0):  # as soon as the page asks again while events come
            _get(port, "/api/stats")
            _get(port, "/api/sessions")

    threads = [threading.Thread(target=target, daemon=True) for target in (watch, ask)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join(5)


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def _metrics(port: int) -> dict[str, float]:
    lines = _get(port, "/metrics").decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def _idle(connections: int) -> Result:
    from websockets.sync.client import connect

    with _server("collector") as server, contextlib.ExitStack() as stack:
        before = resident_bytes(server.pid)
        for _ in range(connections):
            stack.enter_context(
                connect(server.url, additional_headers={"Telemetry-Ack": "cumulative"})
            )
        time.sleep(2.0)
        after = resident_bytes(server.pid)
    if before is None or after is None:
        return {"failure": "the memory of another process can't be read here"}
    return {"connections": connections, "bytes_each": (after - before) / connections}


def _round(events: int, idle: int, seconds: float) -> list[Result]:
    results: list[Result] = []

    def note(name: str, result: Result) -> None:
        results.append({"name": name} | result)

    stored = _throughput("collector", events)
    note("collector", stored)
    note("collector, with a viewer", _throughput("collector", events, viewed=True))
    note("bare parts", _throughput("bare", max(_BLOCK, events // 10)))
    task: dict[str, Any] = {
        "kind": "sqlite",
        "events": stored.get("events", 1000),  # if it failed, that is reported
        "group": round(stored.get("group", 1000)),
    }
    note("SQLite alone", run_child(MODULE, task, _TIMEOUT))
    with _server("collector") as server:
        task = {"kind": "acks", "url": server.url, "seconds": seconds, "id": "one"}
        note("acks", run_child(MODULE, task, _TIMEOUT))
    note("idle", _idle(idle))
    return results


@contextlib.contextmanager
def _tree(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary directory."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", "--format=tar", commit], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def _against(events: int, tree: Path, turn: int) -> list[Result]:
    """Measure the rate of this collector and that of another tree, in an order that changes."""
    pair = [("collector", ROOT), (_EARLIER, tree)]
    return [
        {"name": name} | _throughput("collector", events, tree=each)
        for name, each in (pair if turn % 2 else pair[::-1])
    ]


def _compared(events: int, turn: int) -> list[Result]:
    """Measure the rate by encoding, in an order that depends on the turn."""
    encodings = available()
    first = turn % len(encodings)
    return [
        {"encoding": encoding} | _throughput("collector", events, encoding=encoding)
        for encoding in encodings[first:] + encodings[:first]
    ]


_TITLES = {
    "collector": "the collector",
    "collector, with a viewer": "the collector, while somebody looks at its page",
    "bare parts": "bare parts: uvicorn, `json`, one INSERT an event",
    "SQLite alone": "SQLite alone: the same rows, ready-made, in the same groups",
}
_WAITS = (
    ("an acknowledgment at 10,000 events a second, p50, ms", "acks", "p50_ms"),
    ("p99, ms", "acks", "p99_ms"),
    ("memory of an idle connection, of 1,000, bytes", "idle", "bytes_each"),
)


def _figures(report: Result, name: str, figure: str) -> list[float | None]:
    return [result.get(figure) for result in grouped(report["results"], "name")[name,]]


def rate_against(report: Result, name: str) -> Result:
    """Summarize the collector's rate, relative to another's in the same round."""
    ours, others = (_figures(report, each, "events_per_second") for each in ("collector", name))
    pairs = zip(ours, others, strict=True)
    return summary([mine / other for mine, other in pairs if mine and other])


def rate_against_text(report: Result, encoding: str) -> Result:
    """Summarize the rate with an encoding, relative to that with text in the same round."""
    rates = {(r["round"], r["encoding"]): r.get("events_per_second") for r in report["results"]}
    pairs = [
        (rate, rates.get((round_, TEXT)))
        for (round_, each), rate in rates.items()
        if each == encoding
    ]
    return summary([rate / text for rate, text in pairs if rate and text])


def _compression_table(report: Result) -> str:
    rows = [
        [
            encoding,
            spread(summary([result.get("events_per_second") for result in group])),
            "1" if encoding == TEXT else spread(rate_against_text(report, encoding)),
            number(median(group, "received_bytes_per_event")),
        ]
        for encoding in ENCODINGS
        if (group := grouped(report["results"], "encoding").get((encoding,)))
    ]
    return table(["", "events a second", "relative to text", "bytes an event"], rows)


def tables(report: Result) -> dict[str, str]:
    """Return the tables, by their names in the docs."""
    if report["benchmark"] == COMPRESSION:
        return {COMPRESSION: _compression_table(report)}
    if report["benchmark"] == AGAINST:
        names = {"collector": "this collector", _EARLIER: "that of the earlier commit"}
        rows = [
            [title, spread(summary(_figures(report, name, "events_per_second")))]
            for name, title in names.items()
        ]
        rows.append(["this one's, relative to it", spread(rate_against(report, _EARLIER))])
        return {AGAINST: table(["", "events a second"], rows)}
    rates = [
        [
            title,
            spread(summary(_figures(report, name, "events_per_second"))),
            "1" if name == "collector" else spread(rate_against(report, name)),
        ]
        for name, title in _TITLES.items()
    ]
    waits = [
        [title, spread(summary(_figures(report, name, figure)))] for title, name, figure in _WAITS
    ]
    return {
        "collector-rates": table(["", "events a second", "the collector's, relative to it"], rates),
        "collector-waits": table(["", "measured"], waits),
    }


def main() -> int:
    """Measure, and print the tables."""
    commands = parser(__doc__, rounds=3)
    commands.add_argument("--compression", action="store_true", help="compare the encodings")
    commands.add_argument("--against", metavar="COMMIT", help="compare with an earlier commit")
    options = commands.parse_args()
    if options.child:
        return answer(options.child, KINDS)
    events, idle, seconds = (1024, 50, 1.0) if options.quick else (60_000, _IDLE, 10.0)
    if options.against:
        turns = itertools.count()
        with _tree(options.against) as tree:
            report = run_rounds(options, AGAINST, lambda: _against(events, tree, next(turns)))
    elif options.compression:
        turns = itertools.count()
        report = run_rounds(options, COMPRESSION, lambda: _compared(events, next(turns)))
    else:
        report = run_rounds(options, "collector", lambda: _round(events, idle, seconds))
    return conclude(tables(report), report["results"])


if __name__ == "__main__":
    sys.exit(main())
