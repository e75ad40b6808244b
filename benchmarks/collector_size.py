"""How large the collector's database is, and how long a search takes in it.

    python -m benchmarks.collector_size [--events 200000] [--sessions 1250] [--json FILE]
    python -m benchmarks.collector_size --events 8000000 --sessions 50000

A temporary database is filled by the collector's own writer with the events of the demo's battle,
as the SDK sends them: with ids, a version and a context. Fifty sessions play at a time. Then the
index of texts and the blocks of columns are made by the collector's own upkeep, in its short steps.

- *Size*: bytes of the file an event, without the index of texts, with it, and with the blocks.
- *Cost*: the time of the writer for an event, and that of the steps that index it and put it into a
  block, of which acks may have to wait for one at a time.
- *Columns*: how long it takes to read a field of all events of the most frequent type, with the
  blocks and without them.
- *Searches*: the first page, newest first, of a word that only a few events have (more than a page
  of them would end the search early, so it searches to the end), of a word that is nowhere, and of
  a session and a type. Beside each, the search as it was without the index of texts and without a
  choice between the other indexes, on the same file in the same process.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from benchmarks.encodings import battle_events
from benchmarks.harness import Result, machine, number, quantile, table
from redvsblue_telemetry.collector.messages import Message, read_message
from redvsblue_telemetry.collector.models import EventFilter
from redvsblue_telemetry.collector.storage import columns, queries
from redvsblue_telemetry.collector.storage.building import Building
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.plan import Plan
from redvsblue_telemetry.collector.storage.textindex import TextIndex
from redvsblue_telemetry.collector.storage.upkeep import Upkeep
from redvsblue_telemetry.collector.storage.writer import Writer

_DIFFERENT_EVENTS = 50_000  # of the battle, over and over
_AT_A_TIME = 50  # sessions that play
_BATCH = 50  # events of a message
_GROUP = 20  # messages that are stored together
_RARE_WORD, _RARE_EVENTS = "zebrafish", 10
_TYPE, _FIELD = "bullet_fired", "data.x"
_SEARCHES = 5  # of each kind as it is, and one as it was


def messages(events: int, sessions: int) -> Iterator[Message]:
    """Yield messages as the clients of many sessions send them."""
    dice = random.Random(1)
    encode = msgspec.json.Encoder().encode
    pool = itertools.cycle(
        [(kind, encode(data).decode()) for kind, data in battle_events(_DIFFERENT_EVENTS)]
    )
    rare = set(range(events // _RARE_EVENTS // 2, events, events // _RARE_EVENTS))
    per_session = -(-events // sessions)
    number_of = iter(range(events))
    ids = (str(uuid.UUID(int=dice.getrandbits(128))) for _ in itertools.count())
    runs = (f"{dice.getrandbits(64):016x}" for _ in itertools.count())
    playing: list[tuple[str, str, int]] = []
    while True:
        if len(playing) < _AT_A_TIME:
            playing.append((next(ids), next(runs), 0))
            continue
        place = dice.randrange(len(playing))
        session, run, seq = playing.pop(place)
        batch = []
        for index in itertools.islice(number_of, min(_BATCH, per_session - seq)):
            kind, data = next(pool)
            seq += 1
            if index in rare:
                data = f'{{"shipId":"{_RARE_WORD}-1"}}'
            batch.append(
                f'{{"sessionId":"{session}","version":"1.4.2","id":"{run}-{seq}","seq":{seq},'
                f'"type":"{kind}","timestamp":{1795531418000 + index},'
                f'"context":{{"player":"p-{session[:6]}","level":3}},"data":{data}}}'
            )
        if not batch:
            return
        yield read_message(f"[{','.join(batch)}]")
        if seq < per_session:
            playing.append((session, run, seq))


def fill(writer: Writer, events: int, sessions: int) -> float:
    """Store the events; return the seconds that the writer took."""
    took = 0.0
    waiting = messages(events, sessions)
    while group := list(itertools.islice(waiting, _GROUP)):
        began = time.perf_counter()
        writer.store(group)
        took += time.perf_counter() - began
    return took


def tend(writer: Writer, work: Upkeep) -> list[float]:
    """Do all that there is to do; return the seconds of each step, in ascending order."""
    steps: list[float] = []
    is_busy = True
    while is_busy:
        began = time.perf_counter()
        is_busy = writer.maintain(work.step)
        steps.append(time.perf_counter() - began)
    return sorted(steps)


def build(writer: Writer) -> list[float]:
    """Build all blocks; return the seconds of each step, in ascending order."""
    work = Building()
    writer.maintain(work.step)  # imports pyarrow, on another thread
    for thread in threading.enumerate():
        if thread.name == "collector-import":
            thread.join()
    return tend(writer, work)


def reading(database: Database) -> Result:
    """Return how long it takes to read a field of a type."""
    with database.reading() as connection:
        names = ["received", f"{_FIELD}{columns.NUMBER}"]
        events = columns.read(connection, _TYPE, names).num_rows
        took = times(lambda: columns.read(connection, _TYPE, names), _SEARCHES)
        connection.execute("PRAGMA query_only = 0")
        connection.execute("CREATE TEMP TABLE blocks AS SELECT * FROM main.blocks LIMIT 0")
        (rows,) = times(lambda: columns.read(connection, _TYPE, names), 1)
    return {"events": events, "median_ms": quantile(took, 0.5), "rows_ms": rows}


def size(connection: sqlite3.Connection) -> int:
    """Return the bytes of the database, as if its log were empty."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages * page_size)


def as_it_was(wanted: EventFilter) -> Plan:
    """Return a search without the index of texts, whose other index SQLite chooses."""
    conditions: list[str] = []
    values: list[object] = []
    if wanted.type is not None:
        conditions.append("events.type = (SELECT key FROM types WHERE name = ?)")
        values.append(wanted.type)
    if wanted.session is not None:
        conditions.append("events.session = (SELECT key FROM sessions WHERE session_id = ?)")
        values.append(wanted.session)
    if wanted.text is not None:
        conditions.append("instr(lower(events.data), ?) > 0")
        values.append(wanted.text)
    return Plan(conditions, values)


def times(search: Callable[[], object], rounds: int) -> list[float]:
    """Return the milliseconds of each of some searches, in ascending order."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        search()
        took.append(1000 * (time.perf_counter() - began))
    return sorted(took)


def searches(database: Database) -> Iterator[Result]:
    """Yield how long each kind of search takes."""
    with database.reading() as connection:
        (session,) = connection.execute(
            "SELECT session_id FROM sessions ORDER BY key LIMIT 1 "
            "OFFSET (SELECT count(*) / 2 FROM sessions)"
        ).fetchone()
        kinds = {
            f"a word of {_RARE_EVENTS} events": EventFilter(text=_RARE_WORD),
            "a word that is nowhere": EventFilter(text="nowhere"),
            "a session and a type": EventFilter("bullet_fired", session),
        }
        for name, wanted in kinds.items():

            def now(wanted: EventFilter = wanted) -> list[int]:
                found = queries.events(connection, wanted, newest_first=True)
                return [event.arrival for event in found]

            def before(wanted: EventFilter = wanted) -> list[int]:
                page = queries._page(connection, as_it_was(wanted), 0, None, 100, newest_first=True)
                return [event.arrival for event in page.events]

            if now() != before():
                raise RuntimeError(f"{name}: not the same events")
            took = times(now, _SEARCHES)
            yield {
                "search": name,
                "found": len(now()),
                "median_ms": quantile(took, 0.5),
                "worst_ms": took[-1],
                "before_ms": times(before, 1)[0],
            }


def measure(events: int, sessions: int, folder: Path) -> Result:
    """Fill a database, and measure."""
    with contextlib.closing(Database(folder / "telemetry.sqlite3")) as database:
        with contextlib.closing(Writer(database)) as writer:
            stored = fill(writer, events, sessions)
            with database.reading() as connection:
                without = size(connection)
            steps = tend(writer, TextIndex())
            with database.reading() as connection:
                indexed = size(connection)
            block_steps = build(writer)
            with database.reading() as connection:
                whole = size(connection)
        return {
            "events": events,
            "sessions": sessions,
            "bytes_without_index": without / events,
            "bytes": indexed / events,
            "bytes_with_blocks": whole / events,
            "write_us": 1e6 * stored / events,
            "index_us": 1e6 * sum(steps) / events,
            "step_median_ms": 1e3 * quantile(steps, 0.5),
            "step_p99_ms": 1e3 * quantile(steps, 0.99),
            "step_worst_ms": 1e3 * steps[-1],
            "block_us": 1e6 * sum(block_steps) / events,
            "block_step_median_ms": 1e3 * quantile(block_steps, 0.5),
            "block_step_p99_ms": 1e3 * quantile(block_steps, 0.99),
            "block_step_worst_ms": 1e3 * block_steps[-1],
            "reading": reading(database),
            "searches": list(searches(database)),
        }


def tables(result: Result) -> str:
    """Return the tables."""
    read = result["reading"]
    figures = table(
        [f"{result['events']:,} events of {result['sessions']:,} sessions", "figure"],
        [
            ["bytes an event", number(result["bytes_without_index"])],
            ["with the index of texts", number(result["bytes"])],
            ["with the blocks of columns, too", number(result["bytes_with_blocks"])],
            ["to store an event, µs", number(result["write_us"])],
            ["to index it, µs", number(result["index_us"])],
            ["a step of the index, ms (median)", number(result["step_median_ms"])],
            ["a step of the index, ms (99 %)", number(result["step_p99_ms"])],
            ["a step of the index, ms (longest)", number(result["step_worst_ms"])],
            ["to put it into a block, µs", number(result["block_us"])],
            ["a step of the blocks, ms (median)", number(result["block_step_median_ms"])],
            ["a step of the blocks, ms (99 %)", number(result["block_step_p99_ms"])],
            ["a step of the blocks, ms (longest)", number(result["block_step_worst_ms"])],
            [f"to read {_FIELD} of {read['events']:,} {_TYPE}, ms", number(read["median_ms"])],
            ["to read it without blocks, ms", number(read["rows_ms"])],
        ],
    )
    found = table(
        ["a search for", "events", "median, ms", "longest, ms", "as it was, ms"],
        [
            [each["search"], f"{each['found']:,}", *(number(each[name]) for name in _TIMES)]
            for each in result["searches"]
        ],
    )
    return f"{figures}\n\n{found}"


_TIMES = ("median_ms", "worst_ms", "before_ms")


def main() -> int:
    """Measure, and print the tables."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--events", type=int, default=200_000)
    options.add_argument("--sessions", type=int, default=1_250)
    options.add_argument("--json", type=Path, help="write the figures to this file")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="redvsblue-size-") as folder:
        result = measure(given.events, given.sessions, Path(folder))
    print(tables(result))
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
