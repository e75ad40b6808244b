"""Which index a search walks: the one that leads to the fewest events."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator

import msgspec
import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import EventFilter
from redvsblue_telemetry.collector.storage import plan, queries
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.textindex import TextIndex
from redvsblue_telemetry.collector.storage.writer import Writer

COUNT = 2400
NONE = "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
# How many events each condition leads to, and the index with which it does.
BY_CONTEXT = (24, "INDEX events_by_context (context=? AND rowid>? AND rowid<?)")
BY_FAULT = (40, "INDEX events_with_fault (arrival>? AND arrival<?)")
BY_SESSION = (60, "INDEX events_by_session (session=? AND rowid>? AND rowid<?)")
BY_TYPE = (480, "INDEX events_by_type (type=? AND rowid>? AND rowid<?)")

SESSIONS = {None: None, "s-7": BY_SESSION}
TYPES = {None: None, "crash": BY_TYPE}
CONTEXTS = {(): None, (("game", "rvb"),): None, (("player", "7"),): BY_CONTEXT}
FAULTS = {None: None, "none": None, "any": BY_FAULT, "bad": BY_FAULT}
TEXTS = (None, "w7", "*7")


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """Events whose session, type, context and fault have nothing to do with each other."""
    events = [
        {
            "sessionId": f"s-{n % 40}",
            "seq": n,
            "id": f"{n}",
            "timestamp": n,
            "type": "crash" if n % 5 == 0 else "frames",
            "context": {"game": "rvb", "player": n % 100} if n % 11 else {"player": n % 100},
            "data": {"word": f"w{n % 30}", "fault": n % 60 == 7},
        }
        for n in range(1, COUNT + 1)
    ]

    def check(_: str, data: msgspec.Raw) -> str | None:
        return "bad" if b"true" in bytes(data) else None

    with contextlib.closing(Database(None)) as database:
        with contextlib.closing(Writer(database, check)) as writer:
            writer.store([read_message(json.dumps(events))])
            index = TextIndex()
            while writer.maintain(index.step):
                pass
        yield database


@pytest.fixture
def connection(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    monkeypatch.setattr(plan, "_FEW_EVENTS", 1000)
    monkeypatch.setattr(plan, "_MANY_EVENTS", 100)
    with database.reading() as connection:
        yield connection


def run_by(
    connection: sqlite3.Connection, search: Callable[[], object], part: str = "BETWEEN"
) -> list[list[str]]:
    """The plans of the queries of a search that go through a range of arrivals."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    search()
    connection.set_trace_callback(None)
    return [
        [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        for statement in statements
        if part in statement and "MATCH" not in statement
    ]


@pytest.mark.parametrize("newest_first", [False, True])
def test_search_walks_the_index_that_leads_to_the_fewest_events(
    connection: sqlite3.Connection, newest_first: bool
) -> None:
    events = queries.events(connection, EventFilter(), limit=COUNT)
    assert len(events) == COUNT
    filters = itertools.product(SESSIONS, TYPES, CONTEXTS, FAULTS, TEXTS)
    for session, type_, context, fault, text in filters:
        wanted = EventFilter(type_, session, text, dict(context), fault)
        indexes = [SESSIONS[session], TYPES[type_], CONTEXTS[context], FAULTS[fault]]
        count, expected = min((each for each in indexes if each), default=(COUNT, NONE))
        if text == "w7" and count > 100:
            expected = NONE  # the index of texts leads to ranges of arrivals

        def search(wanted: EventFilter = wanted) -> None:
            queries.events(connection, wanted, limit=7, newest_first=newest_first)

        plans = run_by(connection, search, "LEFT JOIN")
        assert plans, wanted
        for steps in plans:
            assert steps[0].startswith(f"SEARCH events USING {expected}"), wanted
            assert not [step for step in steps if "SCAN" in step], wanted
            # Only few events are sorted, those of some contexts.
            assert expected == BY_CONTEXT[1] or not [step for step in steps if "B-TREE" in step]

        matching = wanted.matching(events)
        found = queries.events(connection, wanted, limit=COUNT, newest_first=newest_first)
        assert found == (matching[::-1] if newest_first else matching), wanted


def test_name_that_is_not_there_needs_no_search(connection: sqlite3.Connection) -> None:
    for wanted in (EventFilter("nothing"), EventFilter(session="nobody", text="w7")):
        assert run_by(connection, lambda: queries.events(connection, wanted)) == []  # noqa: B023
        assert queries.events(connection, wanted) == []


def test_details_of_a_session_are_found_by_its_index(connection: sqlite3.Connection) -> None:
    for search in (
        lambda: queries.session(connection, "s-7"),
        lambda: queries.crashes(connection, session="s-7"),
        lambda: queries.frames(connection, session="s-7"),
    ):
        plans = run_by(connection, search)
        assert plans
        for steps in plans:
            assert "INDEX events_by_session (session=? AND rowid>?" in steps[0]
    ends = run_by(connection, lambda: queries.session(connection, "s-7"), "min(arrival)")
    assert [step for step in ends[0] if step.startswith("SEARCH")] == [
        "SEARCH events USING COVERING INDEX events_by_session (session=?)"
    ] * 2


def test_ends_of_all_events_are_found_at_once(connection: sqlite3.Connection) -> None:
    for part in ("min(arrival)", "max(arrival)"):
        plans = run_by(connection, lambda: queries.events(connection, EventFilter()), part)
        assert plans == [["SEARCH events"]]


def test_windows_are_measured_on_the_index(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "_FIRST_EVENTS_PER_QUERY", 20)
    monkeypatch.setattr(queries, "_EVENTS_PER_QUERY", 20)
    wanted = EventFilter(session="s-7", text="*nowhere")
    plans = run_by(connection, lambda: queries.events(connection, wanted), "OFFSET")
    assert len(plans) == 4  # the last one finds that nothing is left
    for (step,) in plans:
        assert step.startswith("SEARCH events USING COVERING INDEX events_by_session (session=?")
    plans = run_by(connection, lambda: queries.events(connection, wanted), "LEFT JOIN")
    assert len(plans) == 4
