"""How long questions about a large past take, while events come in.

    python -m benchmarks.collector_questions [--db FILE] [--events 8000000] [--sessions 50000]
        [--rate 5000] [--json benchmarks/results/collector-questions.json]

A database of thirty days is made in ``--db`` (or in a temporary folder), unless it is there
already. A collector opens it until its columns are complete, so the next run with the same file
begins at once. The measurements work on a copy beside it, to which a child process sends events all
the while:

1. each view of the page, in a fresh profile of Chromium, until its last answer has been drawn
   (needs Playwright);
2. each question over HTTP, one after the other;
3. ``report`` of everything, and ``export`` to Parquet, as commands.

How many events a second are stored, in parts of an earlier commit, is measured by ``python -m
benchmarks.collector --against COMMIT``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from websockets.sync.client import connect

from benchmarks.harness import (
    Result,
    Server,
    environment,
    machine,
    number,
    parser,
    progress,
    quantile,
    run_bounded,
    table,
    write_json,
)
from redvsblue_telemetry.collector.messages import Message, read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer

_DAY = 86_400_000  # milliseconds
_DAYS = 30
_VERSIONS = ("1.4.0", "1.4.1", "1.4.2")  # each of a third of the days, one after the other
_SLOTS_PER_DAY = 288  # groups that are stored; each has another time
_MESSAGES = 4  # of each session, in slots that follow one another
_WEAPONS = ("laser", "missile", "railgun", "ram", "mine")
_ROUNDS = 4  # of a session


def fill(path: Path, events: int, sessions: int) -> None:
    """Make a database with about that many events of that many sessions, of the last thirty days.

    One event in eight is a ``ship_hit``. Most rounds have an end; three sessions of a hundred
    crash, two are killed, and five are never heard of again.
    """
    per_message = max(10, events // sessions // _MESSAGES)
    slots = _DAYS * _SLOTS_PER_DAY
    begin = time.time_ns() // 1_000_000 - _DAYS * _DAY
    clock = [begin]
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(contextlib.closing(Database(path)))
        writer = Writer(database, clock=lambda: clock[0])
        stack.enter_context(contextlib.closing(writer))
        waiting: list[Iterator[Message]] = []
        begun = 0
        for slot in range(slots):
            clock[0] = begin + (slot + 1) * _DAY // _SLOTS_PER_DAY
            due = sessions * min(slots - _MESSAGES, slot + 1) // (slots - _MESSAGES)
            waiting += [_session(each, per_message, clock) for each in range(begun, due)]
            begun = due
            group = [(each, next(each, None)) for each in waiting]
            waiting = [each for each, message in group if message is not None]
            writer.store([message for _, message in group if message is not None])
            if slot % _SLOTS_PER_DAY == 0:
                progress(f"{path}: day {slot // _SLOTS_PER_DAY + 1} of {_DAYS}")


def _session(which: int, per_message: int, clock: list[int]) -> Iterator[Message]:
    """Yield the messages of a session, each for the time that the clock then shows."""
    rng = random.Random(which)
    started = clock[0] - _DAY // _SLOTS_PER_DAY
    day = (which * 7919) % 1000 / 1000  # spreads the beginnings within the slot
    started += int(day * _DAY / _SLOTS_PER_DAY / 2)
    total = _MESSAGES * per_message
    session = f"{rng.getrandbits(64):016x}"
    player = f"p-{rng.randrange(1, 8001)}"
    end = rng.choices(("well", "crashed", "killed", "no_word"), (90, 3, 2, 5))[0]
    seq, number, playing = 0, 0, 0
    version = ""
    while seq < total:
        now = clock[0]
        step = _DAY / _SLOTS_PER_DAY / per_message
        if not version:
            age = (time.time_ns() // 1_000_000 - now) / _DAY
            version = _VERSIONS[min(2, int((_DAYS - age) * 3 / _DAYS))]
        head = f'"sessionId":"{session}","version":"{version}"'
        parts = []
        for index in range(per_message):
            seq += 1
            when = int(now - (per_message - index) * step)
            place = seq * _ROUNDS / total
            if seq == total and end == "crashed":
                type_, data = "crash", _CRASH % rng.choice(_PLACES)
            elif int(place) > playing or seq == 1:
                playing = int(place)
                number += 1
                type_, data = "round_start", f'{{"round":{number},"map":"m{rng.randrange(6)}"}}'
            elif int((seq + 1) * _ROUNDS / total) > playing and rng.random() < 0.9:
                won = "won" if rng.random() < 0.5 else "lost"
                type_, data = "round_end", f'{{"round":{number},"result":"{won}"}}'
            else:
                type_, data = _event(rng, seq, version)
            parts.append(
                f'{{"id":"{session}-{seq}","type":"{type_}","timestamp":{when},{head},"seq":{seq},'
                f'"data":{data},"context":{{"player":"{player}","level":{number}}}}}'
            )
        message = read_message(f"[{','.join(parts)}]")
        if seq >= total and end in ("well", "crashed", "killed"):
            message.reports += read_message(
                _report(session, version, end, started, now, seq)
            ).reports
        yield message


def _event(rng: random.Random, seq: int, version: str) -> tuple[str, str]:
    """Return the type and the data of an event in the middle of a round."""
    kind = seq % 16
    if kind in (3, 11):
        slower = 4 * _VERSIONS.index(version)
        damage = round(rng.gammavariate(2.0, 6.0 + slower), 1)
        return "ship_hit", (
            f'{{"ship":"red-{rng.randrange(8)}","by":"blue-{rng.randrange(8)}","damage":{damage},'
            f'"weapon":"{rng.choice(_WEAPONS)}","shield":{"true" if kind == 3 else "false"},'
            f'"at":{{"x":{rng.randrange(1920)},"y":{rng.randrange(1080)}}}}}'
        )
    if kind == 7 and seq % 32 == 7:
        middle = rng.gauss(7.5, 1.0)
        return "frames", (
            f'{{"seconds":10.0,"frames":600,"p50Ms":{middle:.2f},"p95Ms":{middle * 1.5:.2f},'
            f'"p99Ms":{middle * 2.2:.2f},"maxMs":{middle * 6:.2f},"hitches":{rng.randrange(9)}}}'
        )
    if kind == 5:
        return (
            "ship_destroyed",
            f'{{"ship":"red-{rng.randrange(8)}","by":"blue-{rng.randrange(8)}"}}',
        )
    if kind == 9:
        return "pickup", f'{{"item":"shield","amount":{rng.randrange(1, 100)}}}'
    if kind == 13:
        return "respawn", f'{{"ship":"red-{rng.randrange(8)}","after":{rng.random() * 9:.2f}}}'
    if kind in (0, 4, 8, 12):
        return "move", f'{{"x":{rng.randrange(1920)},"y":{rng.randrange(1080)},"speed":{kind * 9}}}'
    return "bullet_fired", f'{{"ship":"blue-{rng.randrange(8)}","angle":{rng.random() * 360:.1f}}}'


_PLACES = ("battle.py:88 in hit", "sound.py:12 in play", "net.py:230 in receive")
_CRASH = (
    '{"exception":"KeyError","message":"ship","stack":["main.py:10 in main","%s"],'
    '"thread":"MainThread"}'
)


def _report(session: str, version: str, end: str, started: int, now: int, last: int) -> bytes:
    reason = {"well": "stopped", "crashed": "crashed", "killed": "killed"}[end]
    return (
        f'{{"report":{{"sessionId":"{session}","number":1,"state":"ended","reason":"{reason}",'
        f'"startedAt":{started},"at":{now},"lastSeq":{last},"emitted":{last},"delivered":{last},'
        '"rejected":0,"dropped":{},"sampled":{},"gaps":[],"reconnects":0,"sdk":"1.0.0",'
        f'"version":"{version}"}}}}'
    ).encode()


# The events that come in meanwhile.

_PER_MESSAGE = 50


def send(port: int, rate: int) -> None:
    """Send events at a rate until this process is ended, each message after the ack before."""
    url = f"ws://127.0.0.1:{port}/telemetry"
    rng = random.Random(0)
    session = f"{rng.getrandbits(64):016x}"
    with connect(url, additional_headers={"Telemetry-Ack": "cumulative"}, proxy=None) as socket:
        began, seq = time.monotonic(), 0
        while True:
            time.sleep(max(0.0, began + seq / rate - time.monotonic()))
            now = time.time_ns() // 1_000_000
            events = []
            for _ in range(_PER_MESSAGE):
                seq += 1
                type_, data = _event(rng, seq, _VERSIONS[-1])
                events.append(
                    f'{{"id":"{session}-{seq}","type":"{type_}","timestamp":{now},"seq":{seq},'
                    f'"sessionId":"{session}","version":"{_VERSIONS[-1]}","data":{data},'
                    '"context":{"player":"p-0","level":1}}'
                )
            socket.send(f"[{','.join(events)}]")
            socket.recv(timeout=60)


@contextlib.contextmanager
def sending(port: int, rate: int) -> Iterator[None]:
    """Have a child process send events inside the block."""
    task = json.dumps({"port": port, "rate": rate})
    command = [sys.executable, "-m", "benchmarks.collector_questions", "--child", task]
    child = subprocess.Popen(command, env=environment())
    try:
        yield
        if child.poll() is not None:
            raise RuntimeError(f"the process that sends events ended with {child.returncode}")
    finally:
        child.kill()
        child.wait()


# The measurements.

_MONTH = "last 30 days"
_STEPS = [("step", step) for step in ("round_start", "ship_hit", "ship_destroyed", "round_end")]
_HIT = [("type", "ship_hit"), ("field", "damage")]
_COMPARED = [("version", version) for version in _VERSIONS[1:]]
_VIEWS: dict[str, list[tuple[str, str]]] = {
    "overview": [],
    "overview, 30 days": [("range", _MONTH)],
    "field": [("view", "field"), ("range", _MONTH), *_HIT, ("by", "version")],
    "values": [("view", "values"), ("type", "ship_hit"), ("field", "weapon")],
    "funnel": [("view", "funnel"), *_STEPS],
    "retention": [("view", "retention"), ("field", "context.player")],
    "versions": [("view", "versions"), *_COMPARED, *_HIT],
    "query": [("view", "query")],
}
_QUESTIONS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "stats": ("/api/stats", []),
    "history": ("/api/history", []),
    "field over time, 30 days": ("/api/answers/field", _HIT),
    "field by version, 30 days": ("/api/answers/field", [*_HIT, ("by", "version")]),
    "values": ("/api/answers/values", [("type", "ship_hit"), ("field", "weapon")]),
    "funnel of four steps": ("/api/answers/funnel", _STEPS),
    "funnel by player": ("/api/answers/funnel", [*_STEPS, ("per", "context.player")]),
    "retention": ("/api/answers/retention", [("field", "context.player")]),
    "compare": ("/api/answers/compare", [*_COMPARED, *_HIT]),
}
# Seconds: must, goal.
_VIEW_AIM, _COMMANDS_AIM = (1.0, 0.3), {"report": (10.0, 3.0), "export": (25.0, 10.0)}
_AIMS = {"field over time, 30 days": (1.5, 0.3), "funnel of four steps": (3.0, 1.0)}
_QUIET = 0.7  # seconds without a request, after which a page is complete
_SETTLING = 1.0  # seconds that a browser gets for its new profile, before it is sent to the page
_PAGE_TIMEOUT = 60.0  # seconds
# Notes in the page when the frame after the latest answer was drawn, and which requests failed. The
# overview asks for the same again, a second later, when events have arrived: only the first answer
# from each address counts.
_WATCH = """
Object.assign(globalThis, { drawn: Infinity, failed: [], answered: new Set() });
new PerformanceObserver((list) => {
  const before = answered.size;
  for (const entry of list.getEntries()) {
    if (entry.responseStatus >= 400) failed.push(`${entry.responseStatus} ${entry.name}`);
    if (entry.name.includes("/api/")) answered.add(entry.name);
  }
  if (answered.size === before) return;
  requestAnimationFrame(() => setTimeout(() => (globalThis.drawn = performance.now())));
}).observe({ type: "resource", buffered: true });
"""


def ask(port: int, path: str, parameters: list[tuple[str, str]], times: int) -> Result:
    """Return how long a question took, in seconds, each time over a new connection."""
    took = []
    target = f"{path}?{urlencode(parameters)}"
    for _ in range(times):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        began = time.perf_counter()
        with contextlib.closing(connection):
            connection.request("GET", target)
            response = connection.getresponse()
            body = response.read()
        if response.status != 200:
            return {"failure": f"{response.status} {body[:200].decode(errors='replace')}"}
        took.append(time.perf_counter() - began)
    took.sort()
    return {"seconds": quantile(took, 0.5), "worst": took[-1]}


def look(browser: Any, port: int, parameters: list[tuple[str, str]], times: int) -> Result:
    """Return how long a view took to its last answer, each time in a new profile.

    By the browser's own clock, from the beginning of the navigation until the frame that follows
    the last response has been drawn. The start of the browser is not counted, nor is the watching
    from another process, which slows down a page of many requests.
    """
    took = []
    for _ in range(times):
        with contextlib.closing(browser.new_context()) as profile:
            page = profile.new_page()
            page.add_init_script(_WATCH)
            waiting = _first_requests(page)
            page.wait_for_timeout(_SETTLING * 1000)
            began = time.perf_counter()
            page.goto(f"http://127.0.0.1:{port}/?{urlencode(parameters)}", wait_until="commit")
            while waiting or page.evaluate("performance.now() - drawn") < _QUIET * 1000:
                if time.perf_counter() - began > _PAGE_TIMEOUT:
                    return {"failure": f"not complete after {_PAGE_TIMEOUT:g} s"}
                page.wait_for_timeout(20)
            if failed := page.evaluate("failed"):
                return {"failure": failed[0]}
            took.append(page.evaluate("drawn") / 1000)
    took.sort()
    return {"seconds": quantile(took, 0.5), "worst": took[-1]}


def _first_requests(page: Any) -> set[Any]:
    """Return the requests of a page that have no response yet, the first of each address."""
    waiting: set[Any] = set()
    known: set[str] = set()

    def begin(request: Any) -> None:
        if request.url not in known and request.resource_type not in ("websocket", "eventsource"):
            known.add(request.url)
            waiting.add(request)

    def end(request: Any) -> None:
        waiting.discard(request)

    page.on("request", begin)
    page.on("requestfinished", end)
    page.on("requestfailed", end)
    return waiting


def views(port: int, times: int) -> Iterator[Result]:
    """Yield how long each view of the page takes."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        yield {"name": "view: all", "failure": "Playwright is not installed"}
        return
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        look(browser, port, [], 1)  # the first start of the browser reads its files
        for name, parameters in _VIEWS.items():
            progress(f"view {name}")
            found = look(browser, port, parameters, times)
            yield {"name": f"view: {name}", "aim": _VIEW_AIM, **found}
        browser.close()


def commands(path: Path, folder: str) -> Iterator[Result]:
    """Yield how long each command takes."""
    for name, *arguments in (
        ("report", "-o", f"{folder}/report.html"),
        ("export", "--format", "parquet", "-o", f"{folder}/events.parquet"),
    ):
        progress(name)
        began = time.perf_counter()
        command = [sys.executable, "-m", "redvsblue_telemetry", name, "--db", str(path)]
        try:
            done = run_bounded([*command, *arguments], 300)
        except subprocess.TimeoutExpired:
            yield {"name": name, "aim": _COMMANDS_AIM[name], "failure": "not done in 300 s"}
            continue
        found: Result = {"seconds": time.perf_counter() - began}
        if done.returncode:
            found = {"failure": done.stderr.strip()[-200:]}
        yield {"name": name, "aim": _COMMANDS_AIM[name], **found}


@contextlib.contextmanager
def collecting(path: Path) -> Iterator[int]:
    """Run a collector on a database inside the block, and provide its port."""
    with Server("benchmarks.collector_server", "collector", path) as server:
        try:
            yield server.port
        finally:
            os.kill(server.pid, signal.SIGTERM)
            server.wait(30)


def settle(path: Path, limit: float) -> None:
    """Run a collector until it has no more events to put in columns."""
    deadline = time.monotonic() + limit
    known, since = -1, time.monotonic()
    with collecting(path):
        while time.monotonic() < min(deadline, since + 10):
            time.sleep(2)
            with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
                (events,) = connection.execute("SELECT sum(events) FROM types").fetchone()
                tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
                if ("blocks",) not in tables.fetchall():
                    break
                (covered,) = connection.execute("SELECT total(events) FROM blocks").fetchone()
            if covered != known:
                known, since = covered, time.monotonic()
                progress(f"{covered:,.0f} of {events:,} events are in columns")


def measure(path: Path, rate: int, times: int) -> Iterator[Result]:
    """Yield all figures, on a copy of a database."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        copy = Path(folder, "telemetry.sqlite3")
        shutil.copy(path, copy)
        os.sync()  # now, and not beside the first measurements
        with collecting(copy) as port, sending(port, rate):
            time.sleep(5)
            yield from views(port, times)
            since = str(time.time_ns() // 1_000_000 - _DAYS * _DAY)
            for name, (target, parameters) in _QUESTIONS.items():
                progress(name)
                asked = [*parameters, ("from", since)] if "30 days" in name else parameters
                found = ask(port, target, asked, times)
                yield {"name": name, "aim": _AIMS.get(name), **found}
            yield from commands(copy, folder)


def tables(report: Result) -> dict[str, str]:
    """Return the table of all figures, by its name."""
    rows = [_row(result)[:3] for result in report["answers"]]
    return {"questions": table(["", "median", "worst"], rows)}


def _row(result: Result) -> list[str]:
    aim = result.get("aim")
    limits = ["-", "-"] if aim is None else [f"≤ {number(limit)} s" for limit in aim]
    if "failure" in result:
        return [result["name"], result["failure"], "", *limits, "failed"]
    took = result["seconds"]
    verdict = ""
    if aim is not None:
        verdict = "the goal" if took <= aim[1] else "met" if took <= aim[0] else "**not met**"
    worst = f"{number(result['worst'])} s" if "worst" in result else ""
    return [result["name"], f"{number(took)} s", worst, *limits, verdict]


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--db", type=Path, help="kept, and taken if it is there")
    options.add_argument("--events", type=int, default=8_000_000)
    options.add_argument("--sessions", type=int, default=50_000)
    options.add_argument("--rate", type=int, default=5000, help="events a second meanwhile")
    options.add_argument("--settle", type=float, default=1800, help="seconds, at most")
    given = options.parse_args()
    if given.child is not None:
        send(**json.loads(given.child))
    if given.quick:
        given.events, given.sessions, given.rounds = 50_000, 500, 1
    with tempfile.TemporaryDirectory() as folder:
        path = given.db or Path(folder, "telemetry.sqlite3")
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            part.unlink(missing_ok=True)
            fill(part, given.events, given.sessions)
            part.rename(path)
        settle(path, given.settle)
        found = []
        for result in measure(path, given.rate, given.rounds):
            found.append(result)
            if given.json is not None:
                write_json(given.json, {"machine": machine(), "rate": given.rate, "answers": found})
    print(table(["", "median", "worst", "must", "goal", ""], list(map(_row, found))))
    return 1 if any("failure" in result for result in found) else 0


if __name__ == "__main__":
    sys.exit(main())
