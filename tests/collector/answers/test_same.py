"""Both engines give the same answers, on events as odd as anybody can send."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry.collector.answers.asking import ask
from redvsblue_telemetry.collector.answers.questions import (
    Compare,
    Condition,
    Field,
    Fields,
    Filters,
    Question,
    QuestionError,
    Values,
)
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import TimeRange
from redvsblue_telemetry.collector.storage import blocks, building
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.fields import flatten
from redvsblue_telemetry.collector.storage.writer import Writer

from .conftest import BACKENDS

pytestmark = pytest.mark.timeout(300)  # twenty seconds, if the machine has nothing else to do

TYPES = ("hit", "frames", "é")
NAMES = ("a", "b", "a.b", "", 'q"', "c#number", "é", "seconds")
NUMBERS = (
    *("0", "-0", "-0.0", "1", "1.0", "12", "0.1", "0.3", "2.5", "-7", "1e308", "-1.7e308"),
    *("1e400", "5e-324", "1e-300", "9007199254740993", "123456789012345678901234567890"),
)
FIELDS = ("a", "data.b", "a.b", "data.", 'q"', "c#number", "é", "seconds", "none")
OTHERS = ("version", "type", "session", "outcome", "context.player", "context.é")

scalars = st.one_of(
    st.sampled_from(NUMBERS),
    st.floats(allow_nan=False, allow_infinity=False).map(json.dumps),
    st.integers(-50, 50).map(json.dumps),
    st.sampled_from(["true", "false", "null", '"true"', '"12"', '"\\ud83d\\ude00"', '"\\u0000"']),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5).map(json.dumps),
    st.integers(198, 203).map(lambda length: json.dumps("é" * length)),
)


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON objects, as text: a name may be there twice."""
    pair = st.tuples(st.sampled_from(NAMES).map(json.dumps), values).map(":".join)
    return st.lists(pair, max_size=5).map(lambda pairs: f"{{{','.join(pairs)}}}")


values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        objects(inner), st.lists(inner, max_size=2).map(lambda each: f"[{','.join(each)}]")
    ),
    max_leaves=8,
)
frames = st.fixed_dictionaries(
    {
        name: st.sampled_from([0, 1, 16.5, 17, 33, 1e16, -1])
        for name in ("seconds", "frames", "p50Ms", "p95Ms", "p99Ms", "hitches")
    }
).map(json.dumps)
events = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(TYPES),
            "sessionId": st.sampled_from(["s", "t", "ü"]),
            "timestamp": st.integers(0, 10**13),
            "version": st.sampled_from([None, "1", "2", "1.0"]),
            "context": st.sampled_from(
                [None, {"player": "p"}, {"player": 12, "é": True}, {"player": "12"}]
            ),
            "received": st.integers(0, 10**12),
            "data": st.one_of(objects(values), frames),
        }
    ),
    min_size=1,
    max_size=25,
)
spans = st.one_of(
    st.just(TimeRange()),
    st.builds(
        lambda start, length: TimeRange(start, start + length),
        st.integers(0, 10**12),
        st.integers(1, 10**12),
    ),
)
conditions = st.lists(
    st.builds(
        Condition,
        st.sampled_from((*FIELDS, *OTHERS)),
        st.sampled_from(("12", "1", "true", "hit", "s", "p", "running", "é" * 200)),
    ),
    max_size=1,
).map(tuple)
filters = st.builds(Filters, spans, conditions)
types, fields = st.sampled_from(TYPES), st.sampled_from((*FIELDS, *OTHERS))
questions: st.SearchStrategy[Question] = st.one_of(
    st.builds(Fields, type=st.one_of(st.none(), types)),
    st.builds(Values, type=types, field=fields, limit=st.integers(1, 9), filters=filters),
    st.builds(
        Field,
        type=types,
        field=fields,
        by=st.one_of(st.none(), fields),
        limit=st.integers(1, 3),
        offset=st.integers(-720, 720),
        filters=filters,
    ),
    st.builds(
        Compare,
        versions=st.just(["1", "2"]),
        type=st.just("hit"),
        field=fields,
        filters=st.builds(Filters, spans),
    ),
)


def build_blocks(writer: Writer, dropped: int | None) -> None:
    """Build small blocks of columns, and leave a hole in their place."""
    work = building.Building()
    while not work._has_imported():
        time.sleep(0.001)
    with pytest.MonkeyPatch.context() as patch:
        for module in (blocks, building):
            patch.setattr(module, "BLOCK_EVENTS", 3)
        while writer.maintain(work.step):
            pass

    def drop(connection: sqlite3.Connection) -> bool:
        query = "SELECT arrival, type FROM events WHERE seq = ?"
        blocks.drop_blocks(connection, connection.execute(query, (dropped,)).fetchall())
        return False

    if dropped is not None:
        writer.maintain(drop)


@contextlib.contextmanager
def stored(
    given_events: list[dict[str, Any]], *, in_blocks: bool = False, dropped: int | None = None
) -> Iterator[Database]:
    """A database with events, without their copy in columns or with it."""
    database = Database(None)
    try:
        with contextlib.closing(Writer(database)) as writer:
            parts = []
            for seq, event in enumerate(given_events, start=1):
                envelope = {
                    name: event[name]
                    for name in ("type", "sessionId", "timestamp", "version", "context")
                    if event[name] is not None
                }
                text = json.dumps(envelope | {"seq": seq, "id": str(seq)})
                parts.append(f'{text[:-1]},"data":{event["data"]}}}')
            message = read_message(f"[{','.join(parts)}]")
            assert message.rejected == []
            writer.store([message])
            with contextlib.closing(database.connect()) as connection:
                connection.executemany(
                    "UPDATE events SET received = ? WHERE seq = ?",
                    [(event["received"], seq) for seq, event in enumerate(given_events, start=1)],
                )
            if in_blocks:
                build_blocks(writer, dropped)
                counts = Counter(event["type"] for event in given_events)
                with database.reading() as reading:
                    (found,) = reading.execute("SELECT count(*) FROM blocks").fetchone()
                expected = sum(count // 3 for count in counts.values())
                assert expected - 1 <= found <= expected
            yield database
    finally:
        database.close()


def answers(database: Database, question: Question) -> list[Any]:
    """What each engine answers: the record, or the error."""
    found: list[Any] = []
    for backend in BACKENDS:
        with database.reading() as connection:
            try:
                answer = ask(connection, question, backend=backend, now=0)
                found.append(msgspec.json.decode(msgspec.json.encode(answer)))
            except QuestionError as error:
                found.append(str(error))
    return found


def close_to(expected: Any) -> Any:
    """Compare means as closely as a sum in any order permits, and everything else exactly."""
    if isinstance(expected, dict):
        return {
            name: pytest.approx(value, rel=1e-9, abs=1e-290)
            if name == "mean" and value is not None
            else close_to(value)
            for name, value in expected.items()
        }
    return [*map(close_to, expected)] if isinstance(expected, (list, tuple)) else expected


@given(
    events,
    st.lists(questions, min_size=3, max_size=5),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 25)),
)
def test_the_engines_agree(
    given_events: list[dict[str, Any]],
    given_questions: list[Question],
    in_blocks: bool,
    dropped: int | None,
) -> None:
    with stored(given_events, in_blocks=in_blocks, dropped=dropped) as database:
        for question in given_questions:
            rows, vectors = answers(database, question)
            assert vectors == close_to(rows), question


@given(events, st.sampled_from(FIELDS))
def test_the_engines_are_right(given_events: list[dict[str, Any]], name: str) -> None:
    chosen = [event for event in given_events if event["type"] == "hit"]
    if not chosen:
        return
    whole = name.removeprefix("data.")
    found = [flatten(event["data"]).get(whole) for event in chosen]
    numbers = sorted(value + 0.0 for value in found if isinstance(value, float))
    with stored(given_events, in_blocks=True) as database:
        for answer in answers(database, Values(type="hit", field=name, limit=200)):
            counts = Counter(value for value in found if value is not None)
            if not counts:
                assert (
                    answer
                    == f"no field 'data.{whole}' found in the events of hit; "
                    + (answer.rpartition("; ")[2])
                )
                continue
            assert {each["value"]: each["count"] for each in answer["values"]} == counts
            assert (answer["count"], answer["absent"]) == (counts.total(), found.count(None))
        if not numbers:
            return
        for answer in answers(database, Field(type="hit", field=name)):
            assert (answer["min"], answer["max"]) == (numbers[0], numbers[-1])
            assert answer["mean"] == pytest.approx(
                math.fsum(number / len(numbers) for number in numbers), rel=1e-9, abs=1e-290
            )
            for percentile in (50, 95, 99):
                rank = -(-len(numbers) * percentile // 100)
                assert answer[f"p{percentile}"] == numbers[rank - 1]
            for each in answer["histogram"]:
                is_last = each is answer["histogram"][-1]
                assert each["count"] == sum(
                    each["low"] <= number and (number < each["high"] or is_last)
                    for number in numbers
                )
            assert sum(step["count"] for step in answer["overTime"]) == len(numbers)
            assert len(answer["overTime"]) <= 200
