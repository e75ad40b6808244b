"""What can be asked of the database, asked without a server."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import EventFilter, StoredEvent
from redvsblue_telemetry.collector.storage import contexts, plan, queries
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.stored import stream_events


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "telemetry.sqlite3" if request.param == "file" else None)
    yield database
    database.close()


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    writer = Writer(database)
    yield writer
    writer.close()


@pytest.fixture
def connection(database: Database) -> Iterator[sqlite3.Connection]:
    with database.reading() as connection:
        yield connection


def event(seq: int, type: str = "tick", session: str = "s", **fields: Any) -> dict[str, Any]:
    whole = {"sessionId": session, "seq": seq, "type": type, "timestamp": 1000 + seq}
    return {**whole, "id": f"{session}-{seq}", "data": {}, **fields}


def with_data(event: dict[str, Any], data: str) -> str:
    """The JSON of an event with this as the text of its data."""
    return json.dumps(event).replace('"data": {}', f'"data": {data}')


def store(writer: Writer, *events: dict[str, Any] | str) -> None:
    """Store events as one message; those that are texts go as they are."""
    parts = [part if isinstance(part, str) else json.dumps(part) for part in events]
    writer.store([read_message(f"[{','.join(parts)}]")])


def numbers(found: Sequence[StoredEvent]) -> list[int]:
    return [event.arrival for event in found]


# Events.


def test_event_comes_out_as_it_went_in(writer: Writer, connection: sqlite3.Connection) -> None:
    data = '{"n":12345678901234567890123456789012345678901234567890,"x":1e400,"a":"\\ud83d\\ude00"}'
    store(writer, with_data(event(7, version="1.2"), data))

    (found,) = queries.events(connection, EventFilter())

    assert (found.session_id, found.seq, found.type, found.id) == ("s", 7, "tick", "s-7")
    assert (found.timestamp, found.version, found.arrival) == (1007, "1.2", 1)
    assert bytes(found.data).decode() == data
    assert found.received > 1_600_000_000_000


def test_events_are_in_the_order_of_their_arrival(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, event(3), event(1), event(2, session="other"))
    store(writer, event(2))
    found = queries.events(connection, EventFilter())
    assert [(e.session_id, e.seq) for e in found] == [("s", 3), ("s", 1), ("other", 2), ("s", 2)]
    assert numbers(found) == [1, 2, 3, 4]


def test_after_before_and_limit_cut_out_a_part(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, *(event(seq) for seq in range(1, 21)))

    def asked(**how: Any) -> list[int]:
        return numbers(queries.events(connection, EventFilter(), **how))

    assert asked(after=5, limit=3) == [6, 7, 8]
    assert asked(before=4) == [1, 2, 3]
    assert asked(after=5, before=8) == [6, 7]
    assert asked(newest_first=True, limit=3) == [20, 19, 18]
    assert asked(newest_first=True, before=18, limit=3) == [17, 16, 15]
    assert asked(newest_first=True, after=18) == [20, 19]
    assert asked(after=20) == asked(before=1) == asked(after=7, before=8) == []
    assert asked(after=10**18) == asked(before=0) == []


def test_no_events_are_found_where_there_are_none(connection: sqlite3.Connection) -> None:
    assert queries.events(connection, EventFilter()) == []
    assert queries.events(connection, EventFilter(text="x"), newest_first=True) == []
    assert queries.newest_arrival(connection) == 0


def test_all_of_a_filter_has_to_fit(writer: Writer, connection: sqlite3.Connection) -> None:
    store(
        writer,
        event(1, "hit", "a", data={"ship": "red-3"}),
        event(2, "miss", "a", data={"ship": "red-3"}),
        event(1, "hit", "b", data={"ship": "red-3"}),
        event(2, "hit", "b", data={"ship": "blue-1"}),
    )

    def asked(**filters: str) -> list[int]:
        return numbers(queries.events(connection, EventFilter(**filters)))

    assert asked(type="hit") == [1, 3, 4]
    assert asked(session="b") == [3, 4]
    assert asked(text="red-3") == [1, 2, 3]
    assert asked(type="hit", session="b") == [3, 4]
    assert asked(type="hit", session="b", text="blue") == [4]
    assert asked(type="HIT") == asked(session="hit") == asked(type="miss", session="b") == []


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("window", [1, 3, 7, 100])
def test_search_finds_the_same_whatever_its_windows(
    writer: Writer,
    connection: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    window: int,
    newest_first: bool,
) -> None:
    store(writer, *(event(n, "even" if n % 2 == 0 else "odd") for n in range(1, 31)))
    monkeypatch.setattr(queries, "_EVENTS_PER_QUERY", window)
    for after, before, limit in [(0, None, 100), (3, 29, 5), (4, 28, 12), (5, 6, 1), (0, 31, 1)]:
        found = queries.events(
            connection,
            EventFilter(type="even"),
            after=after,
            before=before,
            limit=limit,
            newest_first=newest_first,
        )
        expected = [n for n in range(2, 31, 2) if after < n < (before or 99)]
        assert numbers(found) == (expected[::-1] if newest_first else expected)[:limit]


def test_answer_with_large_data_is_cut_short_and_can_be_gone_on_from(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "_MAX_PAGE_BYTES", 1000)
    store(writer, *(event(n, data={"x": "y" * (2000 if n == 5 else 300)}) for n in range(1, 11)))
    pages, after = [], 0
    while found := queries.events(connection, EventFilter(), after=after):
        pages.append(numbers(found))
        after = found[-1].arrival
    assert pages == [[1, 2, 3, 4], [5], [6, 7, 8, 9], [10]]
    assert numbers(list(stream_events(connection, EventFilter()))) == list(range(1, 11))


# Text, as somebody would type it.

DATA = {
    "SDK": (
        '{"shipId":"Red-3","by":"blue-1","hp":12.5,"name":"Zoë",'
        '"say":"he said \\"hi\\"","p":"a\\\\b"}'
    ),
    "laid out": '{\n  "shipId": "Red-3",\n  "by": "blue-1",\n  "hp": 12.5\n}',
    "escaped": '{"name":"Zo\\u00eb","smile":"\\ud83d\\ude00","shout":"Zo\\u00EB"}',
    "other": '{"x":"100%","y":"under_score","z":"*?["}',
}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("Red-3", {"SDK", "laid out"}),
        ("red-3", {"SDK", "laid out"}),
        ("SHIPID", {"SDK", "laid out"}),
        ("12.5", {"SDK", "laid out"}),
        ("Zoë", {"SDK", "escaped"}),
        ("zoë", {"SDK", "escaped"}),
        ("😀", {"escaped"}),
        ('he said "hi"', {"SDK"}),
        ('he said \\"HI\\"', {"SDK"}),
        ("a\\b", {"SDK"}),
        ('"shipId":"Red-3"', {"SDK"}),
        ('"shipId": "Red-3"', {"SDK", "laid out"}),
        ('"Red-3", "by": "blue-1"', {"SDK"}),
        ("100%", {"other"}),
        ("1%", set()),
        ("under_score", {"other"}),
        ("underXscore", set()),
        ("*?[", {"other"}),
        ("r.d", set()),
        ("'; DROP TABLE events; --", set()),
        ("\0", set()),
        ("nowhere", set()),
    ],
)
def test_text_is_found_as_it_would_be_typed(
    writer: Writer, connection: sqlite3.Connection, text: str, fits: set[str]
) -> None:
    for seq, (name, data) in enumerate(DATA.items()):
        store(writer, with_data(event(seq, name), data))
    stored = queries.events(connection, EventFilter())
    assert len(stored) == len(DATA)

    found = queries.events(connection, EventFilter(text=text))

    assert {event.type for event in found} == fits
    assert EventFilter(text=text).matching(stored) == found


# Sessions.


def test_session_tells_its_gaps_its_repeats_and_its_types(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, *(event(n, "hit" if n > 8 else "tick") for n in (2, 3, 7, 8, 9)))
    store(writer, event(7), event(8))

    found = queries.session(connection, "s")

    assert found is not None
    assert (found.events, found.repeats, found.missing, found.highest) == (5, 2, 4, 9)
    assert found.gaps == [(1, 1), (4, 6)]
    assert found.types == {"tick": 4, "hit": 1}
    assert (found.first_timestamp, found.last_timestamp) == (1002, 1009)
    assert found.first_received <= found.last_received
    assert queries.session(connection, "other") is None


def test_gap_that_is_filled_is_one_no_more(writer: Writer, connection: sqlite3.Connection) -> None:
    store(writer, event(1), event(5))
    store(writer, event(3))
    store(writer, event(2))
    found = queries.session(connection, "s")
    assert found is not None
    assert (found.gaps, found.missing) == ([(4, 4)], 1)


def test_only_the_first_thousand_gaps_are_told(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, *(event(2 * n) for n in range(1, 1501)))
    found = queries.session(connection, "s")
    assert found is not None
    assert found.gaps == [(n, n) for n in range(1, 2000, 2)]
    assert found.missing == 1500


def test_types_of_a_session_are_counted_across_windows(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "_EVENTS_PER_QUERY", 4)
    for n in range(1, 21):
        store(writer, event(n, "hit" if n % 5 == 0 else "tick"), event(n, "tick", "other"))
    found = queries.session(connection, "s")
    assert found is not None
    assert list(found.types.items()) == [("tick", 16), ("hit", 4)]


def test_most_frequent_types_are_told_first_and_not_more_than_a_page_can_show(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "_MAX_TYPES", 2)
    store(writer, *(event(n, "abcdd"[n % 5]) for n in range(5)))
    store(writer, event(5, "c"))
    found = queries.session(connection, "s")
    assert found is not None
    assert set(found.types) == {"c", "d"}
    assert queries.totals(connection).types == {"c": 2, "d": 2}


def test_session_that_was_heard_of_last_is_first(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, *(event(1, session=name) for name in "abc"))
    names = [found.session_id for found in queries.sessions(connection)]
    assert names == ["c", "b", "a"]
    assert [s.session_id for s in queries.sessions(connection, limit=1, offset=1)] == ["b"]
    assert queries.sessions(connection, offset=3) == []


# What was rejected, and totals.


def test_rejected_is_told_with_its_reason_and_its_text(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    for text in (b"nonsense", b'[{"type":1}]', b"\xff\xfe"):
        writer.store([read_message(text)])

    found = queries.rejected(connection)

    assert [part.arrival for part in found] == [3, 2, 1]
    assert [part.text for part in found] == ["\ufffd\ufffd", '{"type":1}', "nonsense"]
    assert all(part.reason and part.received for part in found)


def test_rejected_can_be_paged_through_both_ways(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    for _ in range(5):
        writer.store([read_message(b"nonsense")])

    def asked(**how: Any) -> list[int]:
        return [part.arrival for part in queries.rejected(connection, **how)]

    assert asked(limit=2) == [5, 4]
    assert asked(limit=2, before=4) == [3, 2]
    assert asked(after=3) == [5, 4]
    assert asked(after=1, limit=2, newest_first=False) == [2, 3]


OUTCOMES = ("running", "well", "switched_off", "crashed", "killed", "no_word")


def test_totals_are_those_of_everything(writer: Writer, connection: sqlite3.Connection) -> None:
    assert msgspec.to_builtins(queries.totals(connection)) == dict.fromkeys(
        ("events", "sessions", "repeats", "missing", "rejected"), 0
    ) | {
        "types": {},
        "outcomes": dict.fromkeys(OUTCOMES, 0),
        "sampled": {},
        "lost": {},
        "waiting": 0,
        "faults": 0,
        "implausibleSessions": 0,
        "implausibleMissing": 0,
    }
    store(writer, event(1), event(3, "hit"), event(3), event(1, session="other"))
    for _ in range(3):
        writer.store([read_message(b"nonsense")])
    assert msgspec.to_builtins(queries.totals(connection)) == {
        "events": 3,
        "sessions": 2,
        "repeats": 1,
        "missing": 1,
        "rejected": 3,
        "types": {"tick": 2, "hit": 1},
        "outcomes": {**dict.fromkeys(OUTCOMES, 0), "running": 2},
        "sampled": {},
        "lost": {},
        "waiting": 0,
        "faults": 0,
        "implausibleSessions": 0,
        "implausibleMissing": 0,
    }


def test_what_is_missing_may_be_more_than_the_database_can_sum(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    largest = 2**63 - 1
    absurd = [event(largest, session=session, timestamp=1) for session in "abc"]
    store(writer, *absurd, event(2, session="d"))
    totals = queries.totals(connection)
    assert totals.missing == 3 * (largest - 1) + 1
    assert (totals.implausible_sessions, totals.implausible_missing) == (3, 3 * (largest - 1))


def test_session_that_misses_a_trillion_events_is_believed(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, event(10**12 + 1, timestamp=1), event(10**12 + 2, session="odd", timestamp=1))
    totals = queries.totals(connection)
    assert totals.missing == 2 * 10**12 + 1
    assert (totals.implausible_sessions, totals.implausible_missing) == (1, 10**12 + 1)


def test_numbers_go_on_after_all_was_deleted(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, event(1), event(2), "7")
    writer.clear()
    assert queries.totals(connection).rejected == 0
    store(writer, event(1), "8", "9")
    assert numbers(queries.events(connection, EventFilter(), after=2)) == [3]
    assert [part.arrival for part in queries.rejected(connection)] == [3, 2]
    assert queries.totals(connection).rejected == 2


# Contexts.


def test_events_are_found_by_fields_of_their_context(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    contexts: list[Any] = [
        {"player": "p-17", "level": 3},
        {"player": "p-17", "level": "3"},
        {"player": "p-1", "level": 3.0, "team": None, "at": [1, 2], "ok": True},
        "not an object",
        None,
        {},
    ]
    store(writer, *(event(n, context=context) for n, context in enumerate(contexts, 1)), event(7))

    def asked(**fields: str) -> list[int]:
        return numbers(queries.events(connection, EventFilter(context=fields)))

    assert asked(player="p-17") == [1, 2]
    assert asked(level="3") == [1, 2]
    assert asked(player="p-17", level="3") == [1, 2]
    assert asked(level="3.0") == asked(team="null") == asked(ok="true") == asked(at="[1, 2]") == [3]
    assert asked(player="p-1", level="3") == asked(player="p") == asked(nobody="p-17") == []

    found = queries.events(connection, EventFilter())
    assert EventFilter(context={"level": "3"}).matching(found) == found[:2]
    assert EventFilter(context={"ok": "true", "player": "p-1"}).matching(found) == found[2:3]
    assert bytes(found[0].context) == b'{"player": "p-17", "level": 3}'
    assert bytes(found[5].context) == b"{}"
    assert [each.context for each in (*found[3:5], found[6])] == [msgspec.UNSET] * 3


def test_context_of_many_events_is_stored_once(
    database: Database, writer: Writer, connection: sqlite3.Connection
) -> None:
    for first in (1, 101):
        context = {"player": "p-17", "ü": "\ud83d\ude00", "n": 10**30}
        store(writer, *(event(n, context=context) for n in range(first, first + 100)))
    other = Writer(database)
    store(other, event(201, context=context))
    other.close()
    assert connection.execute("SELECT count(*) FROM contexts").fetchone() == (1,)
    wanted = EventFilter(context={"ü": "😀", "n": str(10**30)})
    assert len(queries.events(connection, wanted, limit=1000)) == 201
    assert len(list(stream_events(connection, wanted))) == 201


def test_value_that_is_too_long_to_be_searched_for_is_kept(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    context = {"player": "p-17", "text": "x" * 1001}
    store(writer, event(1, context=context))
    (found,) = queries.events(connection, EventFilter(context={"player": "p-17"}))
    assert json.loads(bytes(found.context)) == context
    assert queries.events(connection, EventFilter(context={"text": "x" * 1001})) == []


def test_contexts_are_right_also_when_memory_forgets_them(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "_MAX_BYTES_IN_MEMORY", 50)
    for first in (1, 41):
        store(writer, *(event(n, context={"k": n % 20}) for n in range(first, first + 40)))
    assert connection.execute("SELECT count(*) FROM contexts").fetchone() == (20,)
    for key in range(20):
        found = queries.events(connection, EventFilter(context={"k": str(key)}))
        assert [each.seq % 20 for each in found] == [key] * 4


@pytest.mark.parametrize("newest_first", [False, True])
def test_search_by_context_keeps_the_order(
    writer: Writer,
    connection: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    newest_first: bool,
) -> None:
    store(writer, *(event(n, context={"k": 1, "n": n}) for n in range(1, 31)))
    monkeypatch.setattr(queries, "_EVENTS_PER_QUERY", 7)
    wanted = EventFilter(context={"k": "1"})
    found = queries.events(connection, wanted, newest_first=newest_first, limit=20)
    assert numbers(found) == (list(range(30, 10, -1)) if newest_first else list(range(1, 21)))


def steps_of_first_page(connection: sqlite3.Connection, **fields: str) -> int:
    """How many instructions SQLite's virtual machine runs for ten events, in tens."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, 10)
    found = queries.events(connection, EventFilter(context=fields), limit=10, newest_first=True)
    connection.set_progress_handler(None, 0)
    assert len(found) == 10
    return steps


def test_search_by_context_costs_no_more_with_more_contexts(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_FEW_EVENTS", 100)
    costs = []
    for first in (1, 1001):
        numbered = range(first, first + 1000)
        store(writer, *(event(n, context={"game": "rvb", "n": n}) for n in numbered))
        costs.append(steps_of_first_page(connection, game="rvb"))
    # Before, all contexts with the field were collected, and their events sorted, for each page.
    assert costs[1] < 1.1 * costs[0]

    store(writer, *(event(n, context={"game": "rvb", "player": 7}) for n in range(3001, 3011)))
    store(writer, *(event(n, context={"game": "rvb", "n": n}) for n in range(4001, 5001)))
    for rare in ({"player": "7"}, {"player": "7", "game": "rvb"}, {"game": "rvb", "player": "7"}):
        # Few events are found without going through the newer ones.
        assert steps_of_first_page(connection, **rare) < 1.1 * costs[0]


@pytest.mark.parametrize("few", [1, 5, 1000])
def test_search_by_context_finds_the_same_for_few_and_many_events(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(plan, "_FEW_EVENTS", few)
    kinds = [{"context": {"a": n % 2, "b": n % 10}} if n % 3 else {} for n in range(1, 61)]
    store(writer, *(event(n, **fields) for n, fields in enumerate(kinds, 1)))

    def asked(**fields: str) -> list[int]:
        found = queries.events(connection, EventFilter(context=fields))
        assert list(stream_events(connection, EventFilter(context=fields))) == found
        return numbers(found)

    assert asked(a="1") == [n for n in range(1, 61) if n % 3 and n % 2]
    assert asked(a="1", b="7") == [n for n in range(1, 61) if n % 3 and n % 10 == 7]
    assert asked(a="0", b="7") == asked(a="2") == asked(c="1") == []
