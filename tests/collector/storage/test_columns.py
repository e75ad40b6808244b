"""Events of a type as columns: the same with any part of them in blocks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from redvsblue_telemetry.collector.loglimit import LogLimit
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import TimeRange
from redvsblue_telemetry.collector.storage import blocks, building, columns
from redvsblue_telemetry.collector.storage.building import Building
from redvsblue_telemetry.collector.storage.cutoff import Cutoff, CutoffError
from redvsblue_telemetry.collector.storage.database import Database, open_readonly
from redvsblue_telemetry.collector.storage.deletion import delete_events
from redvsblue_telemetry.collector.storage.encoding import decode, encode
from redvsblue_telemetry.collector.storage.fields import flatten
from redvsblue_telemetry.collector.storage.forgetting import Forgetting
from redvsblue_telemetry.collector.storage.thread import WriterThread
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.collector.clients import array, client_of, event, next_ack
from tests.collector.storage.consistency import contradictions
from tests.collector.storage.test_schema import FOLDER, written_with
from tests.collector.storage.test_thread import until
from tests.support.collector import PATIENCE, collector_running
from tests.support.wait import wait_until

needs_pyarrow = pytest.mark.skipif(not columns.can_read(), reason="needs pyarrow")
BLOCK = 8  # events
DAY = 86_400_000  # milliseconds
VERSIONS = sorted(int(path.stem.rpartition("_")[2]) for path in FOLDER.glob("version_*.sql"))
EVERYTHING = [*columns.FIXED, "data.n#number", "data.n#text", "data.at.x#number"]


class Clock:
    """The collector's clock, set by the test."""

    now = 1000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database() -> Iterator[Database]:
    with contextlib.closing(Database(None)) as database:
        yield database


@pytest.fixture
def writer(database: Database, clock: Clock) -> Iterator[Writer]:
    with contextlib.closing(Writer(database, clock=clock)) as writer:
        yield writer


@pytest.fixture
def connection(database: Database) -> Iterator[sqlite3.Connection]:
    with database.reading() as connection:
        yield connection


def store(
    writer: Writer,
    first: int,
    *datas: Any,
    type: str = "tick",
    session: str = "s",
    version: str | None = None,
    player: str | None = None,
) -> None:
    """Store events with these data."""
    more = {"version": version} if version else {}
    context = {"context": {"player": player}} if player else {}
    events = [
        {"sessionId": session, "seq": seq, "type": type, "timestamp": 10 * seq, "id": str(seq),
         "data": data, **more, **context}
        for seq, data in enumerate(datas, first)
    ]  # fmt: skip
    writer.store([read_message(json.dumps(events))])


@needs_pyarrow
def test_table_has_the_asked_columns_of_one_type(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, {"n": 5, "at": {"x": 0.5}}, {"n": "five"}, {}, version="1.4", player="p")
    store(writer, 4, {"n": 9}, type="other")
    store(writer, 1, {"n": True}, session="t")

    table = columns.read(connection, "tick", EVERYTHING)

    assert table.column_names == EVERYTHING
    assert table.to_pydict() == {
        "session": [1, 1, 1, 2],
        "seq": [1, 2, 3, 1],
        "timestamp": [10, 20, 30, 10],
        "received": [1000] * 4,
        "context": [1, 1, 1, None],
        "version": ["1.4", "1.4", "1.4", None],
        "data.n#number": [5.0, None, None, None],
        "data.n#text": [None, "five", None, "true"],
        "data.at.x#number": [0.5, None, None, None],
    }
    assert [str(field.type) for field in table.schema] == [
        "int64", "int64", "int64", "int64", "int64", "string", "double", "string", "double",
    ]  # fmt: skip


@needs_pyarrow
def test_unknown_type_and_unknown_field_have_the_same_shape(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, {"n": 1})
    names = ["seq", "data.nothing#number", "data.nothing#text"]
    nothing = columns.read(connection, "nothing", names)
    tick = columns.read(connection, "tick", names)
    assert nothing.schema == tick.schema
    assert nothing.num_rows == 0
    assert tick.to_pydict() == {
        "seq": [1], "data.nothing#number": [None], "data.nothing#text": [None],
    }  # fmt: skip
    assert columns.read(connection, "tick", []).num_columns == 0


@needs_pyarrow
@pytest.mark.parametrize(
    ("span", "seqs"),
    [
        (TimeRange(), [1, 2, 3]),
        (TimeRange(1000, 3000), [1, 2]),
        (TimeRange(1001, None), [2, 3]),
        (TimeRange(None, 2000), [1]),
        (TimeRange(2000, 2001), [2]),
        (TimeRange(3001, None), []),
    ],
)
def test_span_includes_its_start_and_not_its_end(
    writer: Writer, connection: sqlite3.Connection, clock: Clock, span: TimeRange, seqs: list[int]
) -> None:
    for seq in (1, 2, 3):
        clock.now = 1000 * seq
        store(writer, seq, {"n": seq})
    table = columns.read(connection, "tick", ["seq"], span)
    assert table["seq"].to_pylist() == seqs


def test_fields_are_found_in_the_newest_events(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, {"n": 1, "s": "old"}, {"n": "x", "s": "new"}, {"n": 2}, {"at": {"x": True}})
    assert columns.fields(connection, "tick") == [
        columns.Field("data.n", "both", 0.75, [2.0, "x", 1.0]),
        columns.Field("data.s", "text", 0.5, ["new", "old"]),
        columns.Field("data.at.x", "text", 0.25, ["true"]),
    ]
    assert columns.fields(connection, "nothing") == []


# With blocks.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that a few events fill several of them."""
    monkeypatch.setattr(blocks, "BLOCK_EVENTS", BLOCK)
    monkeypatch.setattr(building, "BLOCK_EVENTS", BLOCK)
    monkeypatch.setattr(building, "_ROWS", 3)


def build(writer: Writer, work: Building | None = None) -> int:
    """Do all that there is to do; return the number of steps."""
    work = work or new_building()
    for steps in range(10_000):
        if not writer.maintain(work.step):
            return steps
    raise AssertionError("it doesn't end")


def new_building(clock: Callable[[], float] = monotonic) -> Building:
    """One that has imported pyarrow."""
    work = Building(clock)
    work._has_imported()
    assert work._importing is not None
    work._importing.join()
    return work


def covered(connection: sqlite3.Connection, type: str = "tick") -> list[tuple[int, int, int]]:
    """The first and last arrival of each block, and how many events it has."""
    return connection.execute(
        "SELECT first, last, blocks.events FROM blocks JOIN types ON types.key = type "
        "WHERE name = ? ORDER BY first",
        (type,),
    ).fetchall()


def expected(
    connection: sqlite3.Connection, type: str, names: list[str], span: TimeRange
) -> dict[str, list[Any]]:
    """The columns, from each row."""
    rows = connection.execute(
        f"SELECT {', '.join(columns.FIXED)}, data FROM events "
        "WHERE type = (SELECT key FROM types WHERE name = ?) ORDER BY arrival",
        (type,),
    ).fetchall()
    found: dict[str, list[Any]] = {name: [] for name in names}
    for *fixed, data in rows:
        row: dict[str, Any] = dict(zip(columns.FIXED, fixed, strict=True))
        if not (span.start or 0) <= row["received"] < (span.end or 10**15):
            continue
        for name, value in flatten(data).items():
            row[f"data.{name}#{'number' if isinstance(value, float) else 'text'}"] = value
        for name in names:
            found[name].append(row.get(name))
    return found


def check(
    connection: sqlite3.Connection,
    type: str = "tick",
    names: list[str] = EVERYTHING,
    span: TimeRange = TimeRange(),  # noqa: B008 - it is frozen
) -> None:
    """Check the columns against the rows."""
    table = columns.read(connection, type, names, span)
    assert table.to_pydict() == expected(connection, type, names, span)


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_blocks_lie_side_by_side_and_the_rest_is_in_rows(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    for seq in range(1, 60, 2):
        store(writer, seq, {"n": seq}, type="tick")
        store(writer, seq + 1, {"n": "text"}, type="other")
    assert build(writer) > 0
    # 30 events of each type: the newest first, and less than a block is left at the oldest end.
    assert covered(connection) == [(13, 28, 8), (29, 44, 8), (45, 59, 8)]
    assert covered(connection, "other") == [(14, 29, 8), (30, 45, 8), (46, 60, 8)]
    check(connection)
    check(connection, "other")

    store(writer, 61, *({"n": seq} for seq in range(61, 68)))
    assert build(writer) == 0
    store(writer, 68, {"n": 68})
    build(writer)
    assert covered(connection)[-2:] == [(45, 59, 8), (60, 68, 8)]
    check(connection)


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_blocks_are_what_is_read(writer: Writer, connection: sqlite3.Connection) -> None:
    store(writer, 1, *({"n": seq} for seq in range(2 * BLOCK)))
    build(writer)
    writer.maintain(
        lambda connection: bool(connection.execute("UPDATE events SET data = '{\"n\":-1}'"))
    )
    read = columns.read(connection, "tick", ["data.n#number"])["data.n#number"].to_pylist()
    assert read == [float(n) for n in range(2 * BLOCK)]


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_table_is_the_same_with_any_part_in_blocks(
    writer: Writer, connection: sqlite3.Connection, clock: Clock, database: Database
) -> None:
    dice = random.Random(11)
    work = new_building(lambda: 0.0 if dice.random() < 0.5 else 10.0**9)
    values = [1, -2.5, 0, 2**60, "x", "longer text", True, None, [1], {"x": 7}]
    seqs = dict.fromkeys("abc", 1)
    kept = 0
    for _ in range(40):
        session = dice.choice("abc")
        datas = [
            {name: dice.choice(values) for name in ("n", "m", "at") if dice.random() < 0.8}
            for _ in range(dice.randrange(1, 9))
        ]
        kind = dice.choice(["tick", "tick", "tock"])
        player, version = dice.choice(["p", "q", None]), dice.choice(["1", "2", None])
        first = seqs[session]
        store(writer, first, *datas, type=kind, session=session, player=player, version=version)
        seqs[session] += len(datas)
        clock.now += dice.choice([1, 50, -3])
        for _ in range(dice.randrange(12)):
            writer.maintain(work.step)
        if dice.random() < 0.1:
            oldest = connection.execute("SELECT min(arrival) FROM events").fetchone()[0]
            delete(writer, "arrival < ?", oldest + dice.randrange(12))
        if dice.random() < 0.05:
            place = dice.randrange(oldest_of(connection), newest_of(connection) + 1)
            delete(writer, "arrival BETWEEN ? AND ?", place, place + dice.randrange(20))
        span = TimeRange(*sorted((900 + dice.randrange(3000), 900 + dice.randrange(3000))))
        for kind in ("tick", "tock"):
            check(connection, kind, [*EVERYTHING, "data.m#text"])
            check(connection, kind, dice.sample(EVERYTHING, 3), span)
        kept = max(kept, len(covered(connection)))
    assert kept > 2
    build(writer, work)
    check(connection)
    assert contradictions(database.path) == {}


def delete(writer: Writer, condition: str, *values: int, must_be_gone: bool = True) -> None:
    writer.maintain(
        lambda connection: bool(
            delete_events(connection, condition, values, must_be_gone=must_be_gone)
        )
    )


def oldest_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT min(arrival) FROM events").fetchone()[0])


def newest_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT max(arrival) FROM events").fetchone()[0])


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_block_of_a_deleted_event_goes_and_comes_back_without_it(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, *({"n": seq} for seq in range(1, 4 * BLOCK + 1)))
    build(writer)
    delete(writer, "arrival IN (?, ?)", 10, 12)
    assert covered(connection) == [(1, 8, 8), (17, 24, 8), (25, 32, 8)]
    check(connection)
    build(writer)
    assert covered(connection) == [(1, 8, 8), (9, 16, 6), (17, 24, 8), (25, 32, 8)]
    check(connection)


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_hole_without_events_is_closed(writer: Writer, connection: sqlite3.Connection) -> None:
    store(writer, 1, *({"n": seq} for seq in range(1, 4 * BLOCK + 1)))
    build(writer)
    delete(writer, "arrival BETWEEN ? AND ?", 9, 24)
    build(writer)
    assert covered(connection) == [(1, 24, 8), (25, 32, 8)]
    check(connection)
    assert build(writer) == 0


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_block_that_expires_is_not_built_again_and_again(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, *({"n": seq} for seq in range(1, 3 * BLOCK + 1)))
    build(writer)
    for arrival in range(1, BLOCK + 3):
        delete(writer, "arrival = ?", arrival, must_be_gone=False)
        assert build(writer) == 0
        assert covered(connection)[-1] == (17, 24, 8)
        check(connection)
    assert covered(connection) == [(17, 24, 8)]


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_event_that_is_deleted_while_its_block_is_built_is_in_no_block(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, *({"n": seq} for seq in range(1, BLOCK + 2)))
    steps = build(writer)
    for step in range(steps):
        delete(writer, "TRUE")
        store(writer, 1 + 100 * (step + 1), *({"n": seq} for seq in range(BLOCK + 1)))
        work = new_building(ticking())
        for _ in range(step):
            writer.maintain(work.step)
        delete(writer, "arrival = ?", newest_of(connection) - 2)
        build(writer, work)
        (block,) = covered(connection)
        assert block[2] in (BLOCK - 1, BLOCK)  # the last if it was begun anew
        check(connection)


@needs_pyarrow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("meanwhile", [0, 3])
def test_two_collectors_on_one_file_build_no_event_into_two_blocks(
    writer: Writer, connection: sqlite3.Connection, database: Database, meanwhile: int
) -> None:
    with contextlib.closing(Writer(database)) as other:
        store(writer, 1, *({"n": seq} for seq in range(BLOCK)))
        work, others = new_building(ticking()), new_building(ticking())
        writer.maintain(work.step)
        store(writer, 100, *({"n": seq} for seq in range(meanwhile)))
        other.maintain(others.step)  # its block ends with the newest event, too
        build(writer, work)
        build(other, others)
    assert covered(connection) == [(1, BLOCK, BLOCK)]
    check(connection)


def ticking() -> Callable[[], float]:
    """A clock by which a step does as little as it can."""
    ticks = itertools.count()
    return lambda: 10.0 * next(ticks)


def drop_all(writer: Writer) -> None:
    """Drop all blocks, and nothing else."""

    def drop(connection: sqlite3.Connection) -> bool:
        for table in ("blocks", "columns"):
            connection.execute(f"DELETE FROM {table}")
        return False

    writer.maintain(drop)


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_step_that_was_undone_is_done_again(
    writer: Writer, connection: sqlite3.Connection, database: Database
) -> None:
    store(writer, 1, *({"n": seq} for seq in range(1, BLOCK + 1)))
    steps = build(writer, new_building(ticking()))
    for failing in range(steps):
        drop_all(writer)
        work = new_building(ticking())

        def fail(connection: sqlite3.Connection, work: Building = work) -> bool:
            work.step(connection)
            raise ValueError("undo it")

        for _ in range(failing):
            writer.maintain(work.step)
        with pytest.raises(ValueError, match="undo it"):
            writer.maintain(fail)
        work.rolled_back()
        assert covered(connection) == []
        build(writer, work)
        assert covered(connection) == [(1, BLOCK, BLOCK)]
        check(connection)
    assert contradictions(database.path) == {}


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_clear_empties_the_blocks(
    writer: Writer, connection: sqlite3.Connection, database: Database
) -> None:
    store(writer, 1, *({"n": seq} for seq in range(1, 2 * BLOCK + 1)))
    build(writer)
    half_built = new_building(ticking())
    store(writer, 100, *({"n": seq} for seq in range(BLOCK)))
    for _ in range(3):
        writer.maintain(half_built.step)
    writer.clear()
    assert columns.read(connection, "tick", ["seq"]).num_rows == 0
    store(writer, 1, *({"n": -seq} for seq in range(1, 2 * BLOCK + 1)))
    build(writer, half_built)
    assert len(covered(connection)) == 2
    check(connection)
    assert contradictions(database.path) == {}


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_field_that_got_no_column_is_read_from_the_rows(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_MAX_FIELDS", 2)
    datas: list[dict[str, Any]] = [{"a": n, "b": str(n)} for n in range(BLOCK)]
    datas[3]["rare"] = 5
    store(writer, 1, *datas)
    build(writer)
    names = {name for (name,) in connection.execute("SELECT name FROM columns")}
    assert names == {*columns.FIXED, blocks.VISITS, "data.a#number", "data.b#text"}
    check(connection, names=["data.rare#number", "seq"])
    check(connection, names=["data.a#number", "data.a#text", "data.rare#text"])


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_large_events_make_smaller_blocks(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_MAX_SIZE", 40)
    store(writer, 1, *({"n": seq, "text": "x" * 20} for seq in range(2 * BLOCK)))
    build(writer)
    assert [events for _, _, events in covered(connection)] == [3, 3, 2, 3]
    # The newest five are too few for a block.
    check(connection)


@needs_pyarrow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE columns SET data = x'00' WHERE name = 'data.n#number'",
        "UPDATE columns SET data = zeroblob(length(data)) WHERE name = 'received'",
        "DELETE FROM columns WHERE name = 'received'",
        "UPDATE columns SET data = :short WHERE name = 'received'",
    ],
)
def test_damaged_block_is_read_from_the_rows(
    writer: Writer,
    connection: sqlite3.Connection,
    damage: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "_warnings", LogLimit(columns.logger))
    store(writer, 1, *({"n": seq} for seq in range(2 * BLOCK)))
    build(writer)
    short = encode(import_module("pyarrow").array([1000]))
    writer.maintain(lambda connection: bool(connection.execute(damage, {"short": short})))
    for _ in range(3):
        check(connection)
    assert len(caplog.messages) == 1
    assert "damaged, so their rows are read" in caplog.text


def seen(events: list[tuple[int | None, int]]) -> dict[str, Any]:
    """The days of each context in many zones, and its first and last moment."""
    found: dict[str, Any] = {"days": set()}
    for context, received in events:
        if context is None:
            continue
        found["days"] |= {
            (context, hour, (received + hour * 3_600_000) // DAY) for hour in range(24)
        }
        first, last = found.get(str(context), (received, received))
        found[str(context)] = min(first, received), max(last, received)
    return found


def visits_of(connection: sqlite3.Connection) -> list[tuple[int | None, int]]:
    """When each visit began, and when it ended, if it had more than one event."""
    table = columns.visits(connection, "tick").to_pydict()
    found = []
    for context, first, stay in zip(*map(table.get, ("context", "first", "stay")), strict=True):
        found += [(context, moment) for moment in dict.fromkeys((first, first + stay))]
    return found


@needs_pyarrow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("pause", [3_600_000, 20 * 3_600_000, 2 * DAY])
def test_visits_have_each_day_of_each_context(
    writer: Writer, connection: sqlite3.Connection, clock: Clock, pause: int
) -> None:
    dice = random.Random(pause)
    clock.now = 100 * DAY
    for seq in range(1, 200):
        store(writer, seq, {}, player=dice.choice(["p", "q", None]))
        clock.now += dice.choice([0, 1, dice.randrange(pause), pause, DAY, -dice.randrange(pause)])
    rows = connection.execute("SELECT context, received FROM events").fetchall()
    assert sorted(visits_of(connection), key=str) == sorted(rows, key=str)
    build(writer)
    assert seen(visits_of(connection)) == seen(rows)
    place = connection.execute("SELECT min(arrival) + 150 FROM events").fetchone()[0]
    delete(writer, "arrival BETWEEN ? AND ?", place, place + 2)
    rows = connection.execute("SELECT context, received FROM events").fetchall()
    assert seen(visits_of(connection)) == seen(rows)


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_a_visit_is_two_events_however_many_there_were(
    writer: Writer, connection: sqlite3.Connection, clock: Clock
) -> None:
    for seq in range(1, BLOCK + 1):
        clock.now = 1000 * seq
        store(writer, seq, {}, player="p")
    build(writer)
    assert visits_of(connection) == [(1, 1000), (1, 1000 * BLOCK)]


@needs_pyarrow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE columns SET data = x'00' WHERE name = 'visits'",
        "UPDATE columns SET present = 7 WHERE name = 'visits'",
        "DELETE FROM columns WHERE name = 'visits'",
    ],
)
def test_visits_that_are_damaged_are_read_from_the_other_columns(
    writer: Writer, connection: sqlite3.Connection, damage: str
) -> None:
    store(writer, 1, *({} for _ in range(2 * BLOCK)), player="p")
    build(writer)
    writer.maintain(lambda connection: bool(connection.execute(damage)))
    assert visits_of(connection) == [(1, 1000)] * 2 * BLOCK


@needs_pyarrow
@pytest.mark.parametrize(
    "values",
    [
        [],
        [7, 7],
        [-(2**63), 2**63 - 1],
        [2**40, 2**40 + 2**31],
        [1, None],
        [0.5, -0.0, float("inf")],
        [1.5, None],
        ["a", "b", "a", "a", None],
    ],
)
def test_column_is_what_was_encoded(values: list[Any]) -> None:
    arrow = import_module("pyarrow")
    kind = {float: "float64", str: "string"}.get(type((values or [0])[0]), "int64")
    array_ = arrow.array([*values[:1], *values], kind).slice(len(values[:1]))
    decoded = decode(encode(array_), array_.type)
    decoded.validate(full=True)
    assert list(map(repr, decoded.to_pylist())) == list(map(repr, values))


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_fields_of_old_events_are_found_in_the_blocks(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "_SAMPLE", 4)
    store(writer, 1, {"old": 1}, *({"n": seq} for seq in range(BLOCK - 1)))
    store(writer, 100, *({"n": 0, "new": "x"} for seq in range(4)))
    build(writer)
    assert columns.fields(connection, "tick") == [
        columns.Field("data.n", "number", 1.0, [0.0]),
        columns.Field("data.new", "text", 1.0, ["x"]),
    ]
    store(writer, 200, *({"n": 0, "new": "x"} for seq in range(BLOCK)))
    build(writer)
    assert columns.fields(connection, "tick")[2:] == []


@needs_pyarrow
def test_reader_ends_at_its_cutoff(writer: Writer, connection: sqlite3.Connection) -> None:
    store(writer, 1, {"n": 1})
    cutoff = Cutoff()
    cutoff.is_abandoned = True
    with pytest.raises(CutoffError):
        columns.read(connection, "tick", ["seq"], cutoff=cutoff)


@needs_pyarrow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("version", VERSIONS)
def test_old_file_is_read_from_its_rows_and_gets_blocks(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_EVENTS", 2)
    monkeypatch.setattr(building, "BLOCK_EVENTS", 2)
    path = written_with(version, tmp_path)
    names = ["seq", "received", "version", "data.ship#text", "data.damage#number"]
    with open_readonly(path) as connection:
        before = columns.read(connection, "hit", names)
        found = columns.fields(connection, "hit")
    assert before["seq"].to_pylist() == [1, 2, 2]
    assert [field.name for field in found]

    with contextlib.closing(Writer(Database(path))) as writer:
        build(writer)
    with open_readonly(path) as connection:
        assert covered(connection, "hit")
        assert columns.read(connection, "hit", names).equals(before)
        assert columns.fields(connection, "hit") == found


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_no_byte_of_a_forgotten_player_is_left_in_a_block(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite3"
    with contextlib.closing(Database(path)) as database:
        with contextlib.closing(Writer(database)) as writer:
            for seq in range(1, 20 * BLOCK, 4):
                player, text = ("p-17", "Ada Lovelace") if seq % 3 == 0 else ("p-2", "other")
                datas = [{"name": text, "n": seq} for _ in range(4)]
                store(writer, seq, *datas, player=player)
            build(writer)
            with database.reading() as connection:
                before = covered(connection)
                keys = "(SELECT context FROM context_fields WHERE value = 'p-17')"
                gone = connection.execute(
                    "SELECT data FROM columns JOIN blocks ON block = key WHERE name = 'seq' AND "
                    f"EXISTS (SELECT 1 FROM events WHERE context IN {keys} "
                    "AND arrival BETWEEN first AND last)"
                ).fetchall()
            assert len(gone) > 5
            writer.empty_log()
        assert all(data[-16:] in whole(path) for (data,) in gone)

        async def run() -> None:
            work = Forgetting(field=("player", "p-17"))
            with contextlib.closing(Database(path)) as database:
                upkeep = [new_building()]
                storage = WriterThread(database, lambda _: None, lambda: None, upkeep=upkeep)
                await storage.run(work)
                assert work.forgotten.events > 20
                assert [data for (data,) in gone if data[-16:] in whole(path)] == []
                assert b"Lovelace" not in whole(path)
                await until(lambda: is_built(path))
                await storage.close()

        asyncio.run(run())
        with database.reading() as connection:
            check(connection)
            assert 5 < len(covered(connection)) <= len(before)
    assert b"Lovelace" not in whole(path)
    assert [data for (data,) in gone if data[-16:] in whole(path)] == []
    assert contradictions(path) == {}


def whole(path: Path) -> bytes:
    """All bytes of the database's files."""
    return b"".join(each.read_bytes() for each in sorted(path.parent.glob(f"{path.name}*")))


def is_built(path: Path) -> bool:
    """Whether there is nothing left to build."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return blocks.next_span(connection) is None


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_collector_builds_blocks(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite3"
    with collector_running(db=path) as collector, client_of(collector) as client:
        client.send(array(*range(1, 3 * BLOCK + 1)))
        assert next_ack(client) == 1

        def has_blocks() -> bool:
            with open_readonly(path) as connection:
                return len(covered(connection, "hit")) == 3

        assert wait_until(has_blocks)
    with open_readonly(path) as connection:
        check(connection, "hit")


@pytest.mark.parametrize("missing", ["pyarrow", "duckdb"])
def test_without_a_package_nothing_is_built_and_the_fields_are_found(
    tmp_path: Path, missing: str
) -> None:
    script = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from pathlib import Path\n"
        "from redvsblue_telemetry.collector.messages import read_message\n"
        "from redvsblue_telemetry.collector.storage import blocks, building, columns\n"
        "from redvsblue_telemetry.collector.storage.database import Database\n"
        "from redvsblue_telemetry.collector.storage.writer import Writer\n"
        "blocks.BLOCK_EVENTS = 2\n"
        "database = Database(Path(sys.argv[1]))\n"
        "writer = Writer(database)\n"
        "writer.store([read_message(sys.argv[2])])\n"
        "work = building.Building()\n"
        "assert writer.maintain(work.step) is False\n"
        "assert work._importing is None\n"
        "(field,) = columns.fields(database.connect(), 'hit')\n"
        "print(field.name, field.kind, field.share, field.examples)\n"
    )
    message = json.dumps([event(seq, data={"n": seq}) for seq in range(1, 5)])
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "db"), message],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("data.n number 1.0 [4.0, 3.0, 2.0, 1.0]\n", "")


@needs_pyarrow
@pytest.mark.usefixtures("small")
def test_pyarrow_that_is_broken_is_logged_once(
    writer: Writer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ImportError("numpy is too old")

    monkeypatch.setattr(building, "import_module", fail)
    store(writer, 1, *({"n": seq} for seq in range(BLOCK)))
    work = new_building()
    assert [writer.maintain(work.step) for _ in range(3)] == [False] * 3
    assert len(caplog.messages) == 1
    assert "pyarrow can't be used, so some answers take longer" in caplog.text
