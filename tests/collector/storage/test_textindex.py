"""The index of texts: a search finds the same with it as without it."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import EventFilter, StoredEvent
from redvsblue_telemetry.collector.storage import queries, textindex
from redvsblue_telemetry.collector.storage.database import Database, open_readonly
from redvsblue_telemetry.collector.storage.textindex import TextIndex
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.collector.test_textsearch import DATA, TEXTS
from tests.support.stored import stream_events

BLOCK, BLOCKS = 4, 3  # events of a block, blocks of a partition
PARTITION = BLOCK * BLOCKS
PLACES = st.integers(0, 40)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and partitions so small that a few events fill several of them."""
    monkeypatch.setattr(textindex, "BLOCK_EVENTS", BLOCK)
    monkeypatch.setattr(textindex, "_PARTITION_BLOCKS", BLOCKS)
    monkeypatch.setattr(textindex, "_PARTITION_EVENTS", PARTITION)


@pytest.fixture
def database() -> Iterator[Database]:
    with contextlib.closing(Database(None)) as database:
        yield database


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    with contextlib.closing(Writer(database)) as writer:
        yield writer


@pytest.fixture
def connection(database: Database) -> Iterator[sqlite3.Connection]:
    with database.reading() as connection:
        yield connection


def store(writer: Writer, first: int, *datas: str, type: str = "tick", session: str = "s") -> None:
    """Store events with these texts as their data."""
    events = [
        f'{{"sessionId":"{session}","seq":{seq},"type":"{type}","timestamp":1,"id":"{seq}",'
        f'"data":{data}}}'
        for seq, data in enumerate(datas, first)
    ]
    writer.store([read_message(f"[{','.join(events)}]")])


def make_index(writer: Writer, index: TextIndex | None = None) -> int:
    """Do all that there is to do; return the number of steps."""
    index = index or TextIndex()
    for steps in range(1, 10_000):
        if not writer.maintain(index.step):
            return steps
    raise AssertionError("it doesn't end")


def arrivals(found: list[StoredEvent]) -> list[int]:
    return [event.arrival for event in found]


def found_by(connection: sqlite3.Connection, text: str, **how: Any) -> list[int]:
    return arrivals(queries.events(connection, EventFilter(text=text), limit=1000, **how))


def examined(connection: sqlite3.Connection, text: str) -> list[tuple[int, int]]:
    """The ranges of arrivals that a search examines."""
    newest = queries.newest_arrival(connection)
    search = textindex.TextSearch(text)
    return list(textindex.spans(connection, search, 1, newest, newest_first=False))


def words_in(connection: sqlite3.Connection) -> set[str]:
    """All words in the tables of the index."""
    words: set[str] = set()
    (_, _, path) = connection.execute("PRAGMA database_list").fetchone()
    with contextlib.closing(sqlite3.connect(path)) as other:  # one that may have tables of its own
        tables = other.execute("SELECT name FROM sqlite_schema WHERE sql LIKE '%USING fts5%'")
        for (table,) in tables.fetchall():
            other.execute(f"CREATE VIRTUAL TABLE temp.seen USING fts5vocab(main, {table}, row)")
            words |= {row[0] for row in other.execute("SELECT term FROM seen")}
            other.execute("DROP TABLE temp.seen")
    return words


def numbered(*numbers: int) -> list[str]:
    return [f'{{"word":"w{n}"}}' for n in numbers]


def test_step_ends_between_two_large_events(writer: Writer) -> None:
    store(writer, 1, *[f'{{"text":"{"x" * 10_000}"}}' for _ in range(2 * BLOCK)])
    looks = itertools.count()
    steps = make_index(writer, TextIndex(lambda: float(next(looks))))
    assert steps >= 2 * BLOCK - 1  # the first block begins with the number 1


def test_search_examines_only_blocks_with_the_word(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, *numbered(*range(1, 31)))
    assert examined(connection, "w17") == [(1, 11), (12, 23), (24, 30)]

    make_index(writer)

    # The block of 16 to 19, and what is not in a whole block yet.
    assert examined(connection, "w17") == [(16, 19), (28, 30)]
    assert examined(connection, "nowhere") == [(28, 30)]
    assert examined(connection, "w1") == [(1, 3), (8, 11), (12, 19), (28, 30)]
    assert examined(connection, "*17") == [(1, 11), (12, 23), (24, 30)]
    assert found_by(connection, "w17") == found_by(connection, "*17") == [17]
    assert found_by(connection, "w1") == [1, *range(10, 20)]
    assert found_by(connection, "17") == found_by(connection, "nowhere") == []


@pytest.mark.parametrize("newest_first", [False, True])
def test_search_finds_the_same_with_any_part_of_the_index(
    writer: Writer, connection: sqlite3.Connection, newest_first: bool
) -> None:
    dice = random.Random(5)
    index = TextIndex(clock=lambda: 0.0 if dice.random() < 0.5 else 10.0**9)
    texts = [f'{{"a":"{dice.choice("xyz")}{dice.randrange(9)}-b"}}' for _ in range(90)]
    for start in range(0, 90, 9):
        store(writer, start + 1, *texts[start : start + 9])
        for _ in range(dice.randrange(3)):
            writer.maintain(index.step)
        for text in ("x", "y3", "z5-b", "b", "*3-", "a", "q"):
            everything = queries.events(connection, EventFilter(), limit=1000)
            expected = arrivals(EventFilter(text=text).matching(everything))
            for after, before in ((0, None), (3, 80), (13, 40), (50, 51)):
                between = [n for n in expected if after < n < (before or 1000)]
                seen = found_by(
                    connection, text, after=after, before=before, newest_first=newest_first
                )
                assert seen == (between[::-1] if newest_first else between), text


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
)
@given(datas=st.lists(DATA, min_size=1, max_size=8), text=TEXTS, cut=st.tuples(PLACES, PLACES))
def test_database_and_stream_find_the_same(
    writer: Writer,
    connection: sqlite3.Connection,
    datas: list[str],
    text: str,
    cut: tuple[int, int],
) -> None:
    writer.clear()
    store(writer, 1, *datas)
    texts = {text, datas[0][min(cut) : max(cut)], f"*{text}"} - {""}
    events = queries.events(connection, EventFilter())
    assert len(events) == len(datas)
    expected = {each: arrivals(EventFilter(text=each).matching(events)) for each in texts}
    assert {each: found_by(connection, each) for each in texts} == expected
    make_index(writer)
    assert {each: found_by(connection, each) for each in texts} == expected


def test_words_beyond_the_limit_are_found(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textindex, "_MAX_WORDS", 10)
    many = json.dumps({"words": " ".join(f"m{n}" for n in range(100))})
    store(writer, 1, *numbered(1, 2, 3), many, *numbered(5, 6, 7, 8, 9, 10, 11))
    make_index(writer)
    assert examined(connection, "m77") == examined(connection, "nowhere") == [(4, 7)]
    assert found_by(connection, "m77") == [4]
    assert found_by(connection, "m7") == [4]
    assert found_by(connection, "w9") == [9]
    assert found_by(connection, "any") == []
    assert words_in(connection) >= {"word", "w9"}
    assert "m77" not in words_in(connection)


def test_step_is_short_and_goes_on_where_the_last_one_ended(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textindex, "_CHARACTERS", 1)
    store(writer, 1, *numbered(*range(1, 12)))
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.002
        return now

    assert make_index(writer, TextIndex(clock)) > 6  # of two events at most, for 11
    assert examined(connection, "w9") == [(8, 11)]
    assert found_by(connection, "w9") == [9]


def test_step_that_was_not_committed_is_done_again(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, *numbered(*range(1, 30)))
    index = TextIndex()

    def fail(connection: sqlite3.Connection) -> bool:
        index.step(connection)
        raise RuntimeError

    for _ in range(3):
        with pytest.raises(RuntimeError):
            writer.maintain(fail)
        writer.maintain(index.step)
    make_index(writer, index)
    for n in range(1, 30):
        assert found_by(connection, f"w{n}") == [
            m for m in range(1, 30) if f"w{m}".startswith(f"w{n}")
        ]


def test_nothing_of_forgotten_events_stays_in_the_index(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, *numbered(*range(1, 40)))
    index = TextIndex()
    make_index(writer, index)
    assert "w17" in words_in(connection)

    def forget(connection: sqlite3.Connection) -> bool:
        connection.execute("DELETE FROM events WHERE arrival = 17")
        textindex.forget_events(connection, [17])
        return False

    writer.maintain(forget)

    assert words_in(connection).isdisjoint({"w17", "w16"})
    assert examined(connection, "w16") == [(12, 23)]
    assert found_by(connection, "w16") == [16]
    assert found_by(connection, "w17") == []
    make_index(writer, index)
    assert "w17" not in words_in(connection)
    assert examined(connection, "w16") == [(16, 19)]
    assert found_by(connection, "w16") == [16]


def test_events_forgotten_while_their_block_is_read_leave_nothing(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textindex, "_CHARACTERS", 1)
    store(writer, 1, *numbered(*range(1, 13)))
    ticks = iter(range(1000))
    index = TextIndex(lambda: float(next(ticks)))
    writer.maintain(index.step)  # reads the newest partition's first event, 12, which isn't whole

    def forget(connection: sqlite3.Connection) -> bool:
        connection.execute("DELETE FROM events WHERE arrival <= 2")
        textindex.forget_events(connection, [1, 2])
        return False

    writer.maintain(index.step)
    writer.maintain(forget)
    make_index(writer, index)
    assert words_in(connection).isdisjoint({"w1", "w2"})
    assert "w3" in words_in(connection)


def delete(writer: Writer, first: int, last: int) -> None:
    def expire(connection: sqlite3.Connection) -> bool:
        connection.execute("DELETE FROM events WHERE arrival BETWEEN ? AND ?", (first, last))
        textindex.note_expired(connection, range(first, last + 1))
        return False

    writer.maintain(expire)


def test_index_shrinks_with_the_events(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textindex, "_FEW_EXPIRED", 5)
    store(writer, 1, *numbered(*range(1, 60)))
    make_index(writer)
    all_words = words_in(connection)
    delete(writer, 1, 4)
    make_index(writer)
    assert words_in(connection) == all_words  # for few events, nothing is done
    delete(writer, 5, 11)
    make_index(writer)  # the first partition has no events left
    assert words_in(connection).isdisjoint({f"w{n}" for n in range(1, 12)})
    delete(writer, 24, 30)  # more than half of a partition
    make_index(writer)
    assert words_in(connection).isdisjoint({f"w{n}" for n in range(24, 31)})
    assert {"w23", "w31", "w47"} <= words_in(connection)
    assert found_by(connection, "w2") == [20, 21, 22, 23]
    delete(writer, 12, 59)
    make_index(writer)
    assert words_in(connection) == set()
    assert connection.execute("SELECT count(*) FROM text_index").fetchone() == (0,)


def test_index_is_cleared_with_the_events(writer: Writer, connection: sqlite3.Connection) -> None:
    store(writer, 1, *numbered(*range(1, 30)))
    index = TextIndex()
    make_index(writer, index)
    writer.clear()
    assert words_in(connection) == set()
    store(writer, 1, *numbered(*range(1, 30)))
    make_index(writer, index)
    assert found_by(connection, "w17") == [29 + 17]
    assert examined(connection, "w17")[-2:] == [(44, 47), (56, 58)]


def test_newest_events_are_indexed_first(writer: Writer, connection: sqlite3.Connection) -> None:
    store(writer, 1, *numbered(*range(1, 60)))
    seen = []
    index = TextIndex()
    while writer.maintain(index.step):
        rows = connection.execute("SELECT partition FROM text_index").fetchall()
        seen += [row[0] for row in rows if row[0] not in seen]
    assert seen == [4, 3, 2, 1, 0]


def test_where_sqlite_has_no_fts5_everything_is_examined(
    database: Database,
    writer: Writer,
    connection: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(textindex, "_MODULE", "fts5_is_missing")
    caplog.set_level(logging.WARNING, "redvsblue_telemetry.collector")
    store(writer, 1, *numbered(*range(1, 60)))
    index = TextIndex()
    assert make_index(writer, index) == 1
    assert not writer.maintain(index.step)
    assert [record.message for record in caplog.records] == [
        "SQLite was built without FTS5, so searches for a text take longer"
    ]
    assert found_by(connection, "w17") == [17]
    assert examined(connection, "w17")[0] == (1, 11)


def test_index_of_another_program_is_not_asked_without_fts5(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, *numbered(*range(1, 30)))
    make_index(writer)

    def rename(connection: sqlite3.Connection) -> bool:
        connection.execute("PRAGMA writable_schema = 1")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'fts5', 'fts5_is_missing') "
            "WHERE sql LIKE '%USING fts5%'"
        )
        return False

    writer.maintain(rename)
    assert found_by(connection, "w17") == [17]


def test_export_reads_the_index_of_a_file_at_rest(tmp_path: Path) -> None:
    path = tmp_path / "at-rest.sqlite3"
    with contextlib.closing(Database(path)) as database:
        writer = Writer(database)
        with contextlib.closing(writer):
            store(writer, 1, *numbered(*range(1, 30)))
            make_index(writer)
    with open_readonly(path) as connection:
        assert examined(connection, "w17") == [(16, 19), (28, 29)]
        found = list(stream_events(connection, EventFilter(text="w17")))
    assert arrivals(found) == [17]
