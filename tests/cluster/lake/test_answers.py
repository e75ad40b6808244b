"""A lake gives the answers that a collector's database gives, on events as odd as anybody sends."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redvsblue_telemetry.cluster.lake import cells, columns
from redvsblue_telemetry.cluster.lake.answers import ask_lake
from redvsblue_telemetry.cluster.lake.reading import Reading, Snapshot, quoted
from redvsblue_telemetry.collector.answers.asking import ask
from redvsblue_telemetry.collector.answers.questions import (
    Filters,
    Funnel,
    FunnelStep,
    Question,
    QuestionError,
    Retention,
    Values,
)
from redvsblue_telemetry.collector.answers.rows import Rows
from redvsblue_telemetry.collector.models import TimeRange
from redvsblue_telemetry.collector.storage.cutoff import Cutoff, CutoffError
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.fields import flatten
from tests.collector.answers import test_funnel, test_retention, test_same
from tests.collector.answers.played import Played, database_of
from tests.support.lake import copy_database

pytestmark = pytest.mark.timeout(300)  # twenty seconds, if the machine has nothing else to do

NAMES = ("a", "b", "a.b", "a.b.a", "_", "a_b", "ab", "é", "", "a.", ".a", 'a"b', "a\\b", "none")
data = test_same.objects(test_same.values)
unusual_names = st.sampled_from(("a", "b", "a.b", "b.a", "ab", "a_b", "aXb", "_", "A", "", "é"))
simple = st.recursive(
    test_same.scalars,
    lambda inner: st.dictionaries(unusual_names, inner, max_size=3).map(
        lambda fields: "{" + ", ".join(f'"{name}" :{value}' for name, value in fields.items()) + "}"
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:
    with contextlib.closing(duckdb.connect(":memory:")) as connection:
        cells.add_function(connection)
        yield connection


def found(connection: Any, text: str, name: str) -> float | str | None:
    """Return the value that SQL finds in the data of an event."""
    ((number, string),) = connection.execute(
        f"SELECT {cells.number_of('found', 'cell')}, {cells.text_of('found', 'cell')} FROM ("
        f"SELECT found, {cells.looked_up(quoted(name), 'data', 'found')} AS cell FROM ("
        f"SELECT data, {cells.found_in(name, 'data')} AS found "
        "FROM (SELECT CAST(? AS VARCHAR) AS data)))",
        [text],
    ).fetchall()
    assert number is None or string is None
    return string if number is None else number


@settings(max_examples=300)
@given(st.one_of(data, simple, st.text(max_size=9)), st.sampled_from(NAMES))
@example('{"a": 1.2.3, "b": 1}', "b")
@example('{"a": 01, "b": "x"}', "b")
@example('{"a": 1, "a": 2}', "a")
@example('{"a": {"b": 1}, "a.b": 2}', "a.b")
@example('{"\\u0061": 1}', "a")
@example('{"b": 1e400, "a": 1}', "a")
@example('{"a": "a/b"}', "a")
@example('{"a": 1' + "0" * 400 + "}", "a")
@example('{"a": [{"b": 1}]}', "a.b")
@example('{"a": {"b": {"a": {"b": 1}}}}', "a.b.a")
@example('{"a": {"b": {"a": {"b": 1}}}}', "a.b.a.b")
def test_field_is_the_one_that_flatten_finds(connection: Any, text: str, name: str) -> None:
    assert found(connection, text, name) == flatten(text).get(name)


def test_usual_text_is_read_without_flatten(connection: Any) -> None:
    query = f"SELECT {cells.found_in('at.x', 'data')} FROM (SELECT CAST(? AS VARCHAR) AS data)"
    text = '{"damage":12,"weapon":"laser","at":{"x":1.5,"y":2}}'
    assert connection.execute(query, [text]).fetchall() == [("1.5",)]


@pytest.fixture(autouse=True, scope="module")
def few_events_have_columns() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_LEAST_ROWS", 2)
        yield


@contextlib.contextmanager
def lake_of(database: Database) -> Iterator[Reading]:
    with tempfile.TemporaryDirectory() as folder:
        copy_database(database, Path(folder) / "lake")
        with Snapshot(str(Path(folder) / "lake")).reading() as reading:
            yield reading


def both(database: Database, lake: Reading, question: Question, now: int) -> tuple[Any, Any]:
    """Return the answers of the database and the lake: the record, or the error."""

    def answer(from_lake: bool) -> Any:
        try:
            if from_lake:
                record = ask_lake(lake, question, now=now)
            else:
                with database.reading() as connection:
                    record = ask(connection, question, backend=Rows, now=now)
        except QuestionError as error:
            return str(error)
        return msgspec.json.decode(msgspec.json.encode(record))

    return answer(False), answer(True)


def hear_of_sessions(connection: sqlite3.Connection) -> None:
    """Have each session heard of when its events were received."""
    connection.execute(
        "UPDATE sessions SET (first_received, last_received) = (SELECT min(received), "
        "max(received) FROM events WHERE session = key)"
    )


@pytest.mark.parametrize("most", [2, 16])
@settings(max_examples=25)
@given(test_same.events, st.lists(test_same.questions, min_size=3, max_size=5))
def test_a_lake_answers_as_the_database(
    most: int, given_events: list[dict[str, Any]], questions: list[Question]
) -> None:
    with pytest.MonkeyPatch.context() as patch, test_same.stored(given_events) as database:
        patch.setattr(columns, "_MOST_COLUMNS", most)
        patch.setattr(columns, "_MOST_TEXTS", most)
        with contextlib.closing(database.connect()) as connection:
            hear_of_sessions(connection)
        with lake_of(database) as lake:
            for question in questions:
                of_database, of_lake = both(database, lake, question, now=0)
                assert of_lake == test_same.close_to(of_database), question


@settings(max_examples=25)
@given(test_funnel.plays(), test_funnel.STEPS, test_funnel.FILTERS, st.booleans())
def test_funnel_is_that_of_the_database(
    events: list[Played], steps: list[FunnelStep], filters: Filters, is_crashed: bool
) -> None:
    # No two moments are equal: where they are, the order of the sessions is not the database's.
    apart = [
        msgspec.structs.replace(
            event, timestamp=event.timestamp * 100 + place, received=event.received + place * 7919
        )
        for place, event in enumerate(events)
    ]
    report = (
        f'{{"report":{{"sessionId":"{events[0].session}","number":1,"state":"ended",'
        '"reason":"crashed"}}'
    )
    with database_of(apart, [report] * is_crashed) as database, lake_of(database) as lake:
        for per in ("session", "context.player"):
            question = Funnel(steps=steps, per=per, filters=filters)
            of_database, of_lake = both(database, lake, question, test_funnel.NOW + 10**9)
            for answer in (of_database, of_lake):
                sort_examples(answer)
            assert of_lake == of_database


def sort_examples(answer: Any) -> None:
    """Put the sessions of those who left in order: a report may come when an event did."""
    if isinstance(answer, dict):
        for step in answer["steps"][:-1]:
            step["left"]["sessions"].sort()


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.one_of(st.none(), test_retention.PLAYERS), test_retention.TIMES)),
    st.sampled_from(((1,), (1, 2, 7))),
    st.sampled_from((0, 60, -480, 765)),
    st.sampled_from(
        (
            Filters(),
            Filters(TimeRange(test_retention.START + 86_400_000)),
        )
    ),
    st.sampled_from((2, 12)),
    test_retention.TIMES,
)
@example(  # first seen before the range, and in it on the same day
    [({"player": "a"}, test_retention.START + hour * 3_600_000) for hour in (11, 13)],
    (1,),
    0,
    Filters(TimeRange(test_retention.START + 12 * 3_600_000)),
    2,
    test_retention.START + 9 * 86_400_000,
)
def test_retention_is_that_of_the_database(
    seen: list[tuple[dict[str, Any] | None, int]],
    days: tuple[int, ...],
    offset: int,
    filters: Filters,
    types: int,
    now: int,
) -> None:
    events = [
        Played(f"s-{seq % 3}", seq, f"type-{seq % types}", 1, received, context)
        for seq, (context, received) in enumerate(seen)
    ]
    question = Retention(field="context.player", days=days, offset=offset, filters=filters)
    with database_of(events) as database, lake_of(database) as lake:
        of_database, of_lake = both(database, lake, question, now)
        assert of_lake == of_database


@pytest.fixture
def lake() -> Iterator[Reading]:
    events = [Played("s", seq, "hit", seq, 10**12, None, {"n": seq}) for seq in range(1, 9)]
    with database_of(events) as database, lake_of(database) as lake:
        yield lake


def test_question_that_took_too_long_is_given_up(lake: Reading) -> None:
    threads = threading.active_count()
    with pytest.raises(CutoffError):
        ask_lake(lake, Values(type="hit", field="n"), cutoff=Cutoff(limit=-1))
    assert threading.active_count() <= threads


def test_questions_can_be_asked_side_by_side(lake: Reading) -> None:
    with lake.aside() as one, lake.aside() as other:
        one.run("CREATE TEMP TABLE facts AS SELECT 1 AS n")
        other.run("CREATE TEMP TABLE facts AS SELECT 2 AS n")
        assert ask_lake(lake, Values(type="hit", field="n")).count == 8
        assert (one.run("FROM facts"), other.run("FROM facts")) == ([(1,)], [(2,)])
