"""How long questions about a hundred million events in a lake take, and how much memory.

    python -m benchmarks.lake_questions [--dir DIR] [--events 100000000] [--rounds 3]
        [--json benchmarks/results/lake-questions.json]

A lake of thirty days is made in ``--dir`` (or in a temporary folder), unless it is there already:
with the lake's own code, in the files of 500,000 events that compaction leaves. The events are
those of the demo's battle. A thousand in a row are a session, with its report and its numbers.

Each question is asked in a fresh process, twice: first when the system has none of the lake's files
in its memory, and then again. ``prove`` runs once.
"""

from __future__ import annotations

import functools
import itertools
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
from deltalake.transaction import AddAction

from benchmarks.cluster_game import recorded_battle
from benchmarks.harness import (
    Result,
    answer,
    conclude,
    number,
    parser,
    peak_bytes,
    progress,
    run_bounded,
    run_child,
    run_rounds,
    spread,
    summary,
    table,
)
from redvsblue_telemetry._report import Report, encode_report
from redvsblue_telemetry.cluster.lake.answers import ask_lake
from redvsblue_telemetry.cluster.lake.compaction import write_merged
from redvsblue_telemetry.cluster.lake.reading import MEMORY, Reading, Snapshot, private_database
from redvsblue_telemetry.cluster.lake.rows import DAY, EVENTS, POSITIONS, REPORTS, RUNS, day_of
from redvsblue_telemetry.cluster.lake.sql import LakeQuery
from redvsblue_telemetry.cluster.lake.table import FILE_SCHEMA, Owner, Table
from redvsblue_telemetry.cluster.view.catalog import Catalog
from redvsblue_telemetry.collector.answers.questions import Field, Funnel, FunnelStep, Values

_DAYS = 30
_BEGIN = 1_793_318_400_000  # 2026-10-30, in milliseconds since the epoch
_PER_FILE = 500_000  # events
_PER_SESSION = 1000
_PER_MESSAGE = 50
_INTERVAL = 600  # milliseconds between two events of a session
_VERSIONS = ("1.4.0", "1.4.1", "1.4.2")  # each of a third of the days, and most of the others later
_BATTLES = 4  # that are played, for all files
_PER_COMMIT = 20  # files
_OWNER = Owner("made", 0)
_Table = dict[str, Any]  # columns by name


# The lake.


def make(place: Path, events: int) -> None:
    """Make a lake with about that many events."""
    Table.open(str(place), create=True)
    files = max(1, events // _PER_FILE)
    # deltalake can't be used after a fork.
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawning) as processes:
        made = processes.map(_write_files, _files(place, files, events))
        lake = Table.open(str(place))
        for place_, done in enumerate(_in_groups(made)):
            lake.commit({_OWNER.fence: place_ + 1}, [AddAction(*each) for each in done])
            lake.refresh()
            progress(f"{min(files, (place_ + 1) * _PER_COMMIT)} of {files} files are made")


def _in_groups(made: Iterator[list[Any]]) -> Iterator[list[Any]]:
    while group := [*itertools.islice(made, _PER_COMMIT)]:
        yield [each for files in group for each in files]


class _File(NamedTuple):
    """A file of events that is to be made."""

    lake: str
    number: int
    begin: int
    sessions: int


def _files(place: Path, files: int, events: int) -> Iterator[_File]:
    length = _DAYS * DAY // files
    for each in range(files):
        sessions = min(events, _PER_FILE) // _PER_SESSION
        yield _File(str(place), each, _BEGIN + each * length, sessions)


@functools.lru_cache
def _table(place: str) -> Table:
    return Table.open(place)


@functools.lru_cache
def _battle(seed: int) -> tuple[Any, Any]:
    """Return the types and the data of the events that the sessions of a file have."""
    rng = random.Random(seed)
    encode = msgspec.json.Encoder().encode
    recorded = [each for battle in range(8) for each in recorded_battle(seed * 8 + battle)]
    types: list[str] = []
    texts: list[bytes] = []
    for type_, data in itertools.islice(itertools.cycle(recorded), _PER_FILE):
        types.append(type_)
        texts.append(encode(_moved(data, rng.random() * 100)))
    return pa.array(types), pa.array(texts, pa.string())


def _moved(data: Mapping[str, Any], by: float) -> dict[str, Any]:
    """Return the data at another place: a battle that repeats itself compresses too well."""
    return {
        name: round(value + by, 1) if isinstance(value, float) else value
        for name, value in data.items()
    }


def _write_files(task: _File) -> list[tuple[Any, ...]]:
    """Write the files with the events, the reports and the numbers of some sessions."""
    place, which, begin, sessions = task
    rng = random.Random(which)
    age = which * _PER_FILE
    end = min(begin + max(DAY // 24, _PER_SESSION * _INTERVAL * 2), (begin // DAY + 1) * DAY)
    made = [_Session(rng, begin, end - _PER_SESSION * _INTERVAL - 1000) for _ in range(sessions)]
    messages = sorted(
        (each.started + (part + 1) * _PER_MESSAGE * _INTERVAL + 40, session, part)
        for session, each in enumerate(made)
        for part in range(_PER_SESSION // _PER_MESSAGE)
    )
    arrivals, received = [0] * (sessions * _PER_SESSION), [0] * (sessions * _PER_SESSION)
    for sequence, (at, session, part) in enumerate(messages, age + 1):
        first = session * _PER_SESSION + part * _PER_MESSAGE
        arrivals[first : first + _PER_MESSAGE] = range(
            sequence * POSITIONS, sequence * POSITIONS + _PER_MESSAGE
        )
        received[first : first + _PER_MESSAGE] = [at] * _PER_MESSAGE
    types, data = (each[: len(arrivals)] for each in _battle(which % _BATTLES))
    events: _Table = {
        "arrival": arrivals,
        "received": received,
        "session": [each.id for each in made for _ in range(_PER_SESSION)],
        "seq": [seq for _ in made for seq in range(1, _PER_SESSION + 1)],
        "type": types,
        "timestamp": [
            each.started + seq * _INTERVAL + seq * 7919 % 60
            for each in made
            for seq in range(_PER_SESSION)
        ],
        "run": [each.id for each in made for _ in range(_PER_SESSION)],
        "version": [each.version for each in made for _ in range(_PER_SESSION)],
        "context": [each.context for each in made for _ in range(_PER_SESSION)],
        "data": data,
    }
    ends: _Table = {
        "arrival": arrivals[_PER_SESSION - 1 :: _PER_SESSION],
        "received": received[_PER_SESSION - 1 :: _PER_SESSION],
        "session": [each.id for each in made],
    }
    reports = [each.report() for each in made]
    of_reports: _Table = {
        "arrival": [arrival + _PER_MESSAGE for arrival in ends["arrival"]],
        "received": ends["received"],
        "session": ends["session"],
        "seq": [1] * sessions,
        "type": [each.state for each in reports],
        "timestamp": [each.at for each in reports],
        "version": [each.version for each in made],
        "data": [*map(encode_report, reports)],
    }
    numbers = f"[[1,{_PER_SESSION}]]"
    runs = ends | {"seq": [which % 16] * sessions, "data": [numbers] * sessions}
    lake = _table(place)
    return [
        (file.path, file.size, file.partition_values, file.modification_time, True, file.stats)
        for kind, columns in ((EVENTS, events), (REPORTS, of_reports), (RUNS, runs))
        if (file := write_merged(lake, kind, day_of(begin), _rows(columns), _OWNER)) is not None
    ]


def _rows(columns: Mapping[str, Any]) -> pa.Table:
    count = len(columns["arrival"])
    return pa.table(
        [
            pa.array(columns[each.name], each.type)
            if each.name in columns
            else pa.nulls(count, each.type)
            for each in FILE_SCHEMA
        ],
        schema=FILE_SCHEMA,
    )


class _Session:
    """A session of a player who plays for ten minutes."""

    def __init__(self, rng: random.Random, first: int, last: int) -> None:
        self.id = f"{rng.getrandbits(64):016x}"
        self.started = rng.randrange(first, max(first + 1, last))
        newest = (self.started - _BEGIN) * len(_VERSIONS) // (_DAYS * DAY)
        self.version = _VERSIONS[newest if rng.random() < 0.8 else rng.randrange(newest + 1)]
        self.context = f'{{"player":"p-{rng.randrange(30_000)}","level":{rng.randrange(1, 9)}}}'
        self._reason = rng.choices(("stopped", "crashed", "killed"), (95, 3, 2))[0]

    def report(self) -> Report:
        return Report(
            session_id=self.id,
            number=1,
            state="ended",
            reason=self._reason,
            started_at=self.started,
            at=self.started + _PER_SESSION * _INTERVAL,
            last_seq=_PER_SESSION,
            emitted=_PER_SESSION,
            delivered=_PER_SESSION,
            sdk="1.0.0",
            version=self.version,
        )


# The questions.


def _sql(query: str) -> Callable[[Reading], int]:
    def run(reading: Reading) -> int:
        with LakeQuery(reading).run(query) as (_, rows):
            return sum(1 for _ in rows)

    return run


def _page(question: Any) -> Callable[[Reading], int]:
    def run(reading: Reading) -> int:
        return len(msgspec.json.encode(ask_lake(reading, question)))

    return run


def _start_view(reading: Reading) -> int:
    with private_database(MEMORY) as connection:
        Catalog(connection).fill(reading.snapshot)
    return 0


_STEPS = ("round_start", "ship_hit", "ship_destroyed", "round_end")
_DAY_OF = f"// {DAY} AS day"
_QUESTIONS: dict[str, Callable[[Reading], int]] = {
    "counts by type and day": _sql(
        f"SELECT type, period {_DAY_OF}, sum(events) FROM counts GROUP BY ALL"
    ),
    "the same, of the events themselves": _sql(
        f"SELECT type, received {_DAY_OF}, count(*) FROM events GROUP BY ALL"
    ),
    "funnel of four steps": _page(Funnel(steps=[FunnelStep(each) for each in _STEPS])),
    "p95 of damage by version": _sql(
        "SELECT version, quantile_disc(CAST(data ->> '$.damage' AS DOUBLE), 0.95) FROM events "
        "WHERE type = 'ship_hit' GROUP BY version"
    ),
    "damage by version, with its view": _page(Field(type="ship_hit", field="damage", by="version")),
    "values of a field, with their view": _page(Values(type="ship_hit", field="by")),
    "start of a view": _start_view,
}
# Seconds; the memory in GB.
_AIMS = {
    "counts by type and day": 1.0,
    "funnel of four steps": 10.0,
    "p95 of damage by version": 3.0,
    "damage by version, with its view": 3.0,
}
_MOST_MEMORY = 1.0


def ask(task: Result) -> Result:
    """Ask a question twice; first without anything of the lake in memory."""
    _forget_files(Path(task["lake"]))
    began, worked = time.perf_counter(), time.process_time()
    with Snapshot(task["lake"]).reading() as reading:
        opened = time.perf_counter()
        _QUESTIONS[task["question"]](reading)
        first = time.perf_counter(), time.process_time()
        _QUESTIONS[task["question"]](reading)
        then = time.perf_counter(), time.process_time()
    return {
        "name": task["question"],
        "opening": opened - began,
        "first": first[0] - began,
        "first_processor": first[1] - worked,
        "again": then[0] - first[0],
        "again_processor": then[1] - first[1],
        "memory": peak_bytes(),
    }


def _forget_files(lake: Path) -> None:
    """Have the system forget what it has of the lake's files in its memory."""
    for path in lake.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def prove(task: Result) -> Result:
    """Run the command ``prove``."""
    _forget_files(Path(task["lake"]))
    line = [sys.executable, "-m", "redvsblue_telemetry", "prove", "--lake", task["lake"]]
    began = time.perf_counter()
    done = run_bounded(line, task["timeout"])
    took = time.perf_counter() - began
    if done.returncode:
        return {"failure": f"prove: {done.stderr.strip()[-300:]}"}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "name": "prove",
        "first": took,
        "first_processor": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024,
    }


def measure(lake: Path, timeout: float) -> Iterator[Result]:
    """Yield the figures of each question and each command."""
    module = "benchmarks.lake_questions"
    for question in _QUESTIONS:
        progress(question)
        yield run_child(module, {"kind": "ask", "lake": str(lake), "question": question}, timeout)
    progress("prove")
    yield run_child(module, {"kind": "prove", "lake": str(lake)}, timeout)


def size_of(lake: Path) -> Result:
    """Return how many events a lake has, and how large it is."""
    snapshot = Snapshot(str(lake))
    files = snapshot.files(EVENTS)
    events = sum(file.rows for file in files)
    size = sum(file.size for file in files)
    return {"events": events, "files": len(files), "bytes_per_event": size / events}


def tables(report: Result) -> dict[str, str]:
    """Return the table of all figures, by its name."""
    names = dict.fromkeys(each["name"] for each in report["results"] if "name" in each)
    rows = []
    for name in names:
        results = [each for each in report["results"] if each.get("name") == name]
        figures = [
            spread(summary([each.get(key) for each in results]))
            for key in ("first", "first_processor", "again", "again_processor")
        ]
        memory = number(max(each["memory"] for each in results) / 1e9)
        aim = f"≤ {number(_AIMS[name])}" if name in _AIMS else "-"
        rows.append([name, *figures, memory, aim])
    headers = [
        f"of {report['events']:,} events",
        "first, s",
        "processor time, s",
        "again, s",
        "processor time, s",
        "memory, GB",
        "aim, s",
    ]
    return {"lake-questions": table(headers, rows)}


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--dir", type=Path, help="kept, and taken if it is there")
    options.add_argument("--events", type=int, default=100_000_000)
    options.add_argument("--timeout", type=float, default=900.0, help="seconds; of one measurement")
    options.add_argument("--only-make", action="store_true", help="make the lake in --dir")
    given = options.parse_args()
    if given.child is not None:
        return answer(given.child, {"ask": ask, "prove": prove})
    if given.quick:
        given.events = 200_000
    with tempfile.TemporaryDirectory() as folder:
        lake = given.dir or Path(folder, "lake")
        if not lake.exists():
            part = lake.with_name(f"{lake.name}.part")
            make(part, given.events)
            part.rename(lake)
        size = size_of(lake)
        print(json.dumps(size))
        if given.only_make:
            return 0
        report = run_rounds(
            given, "lake-questions", lambda: [*measure(lake, given.timeout)], **size
        )
    return conclude(tables(report), report["results"])


if __name__ == "__main__":
    sys.exit(main())
