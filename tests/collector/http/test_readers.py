"""Requests that read: each ends with its client or its time, and figures don't wait for others."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry.collector.client import CollectorClient
from redvsblue_telemetry.collector.http import api, readers
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import EventFilter, EventPage
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.cutoff import Cutoff
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.browser import Look, expect, look, rows
from tests.support.chromium import needs_chromium
from tests.support.closing import reset
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.command import running_command
from tests.support.wait import wait_until

__all__ = ["look"]  # a fixture

FOREVER = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
FIGURES = ["/api/stats", "/metrics", "/api/versions", "/api/sessions", "/api/rejected"]


class Endless:
    """Stands in for a query: a real statement of SQLite that never ends by itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.began = self.ended = 0

    def __call__(self, connection: sqlite3.Connection, *_: Any, **__: Any) -> Any:
        with self._lock:
            self.began += 1
        try:
            return connection.execute(FOREVER).fetchone()
        finally:
            with self._lock:
                self.ended += 1


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Endless:
    """Searches for a text, which don't end, however long a test takes."""
    monkeypatch.setattr(readers, "_MAX_SECONDS", 3600)
    endless, real = Endless(), queries.search

    def search(connection: sqlite3.Connection, wanted: EventFilter, **how: Any) -> EventPage:
        if wanted.text is not None:
            endless(connection)
        return real(connection, wanted, **how)

    monkeypatch.setattr(queries, "search", search)
    return endless


def asking(collector: RunningCollector, path: str, method: str = "GET") -> socket.socket:
    """Send a request, and leave it to the caller to wait."""
    connection = socket.create_connection(("127.0.0.1", collector.port), PATIENCE)
    connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_search_ends_when_its_client_goes(
    collector: RunningCollector, endless: Endless, method: str, how: str
) -> None:
    with asking(collector, "/api/events?text=x", method) as client:
        assert wait_until(lambda: endless.began == 1)
        if how == "reset":
            reset(client)
        if how == "half-close":
            client.shutdown(socket.SHUT_WR)
        else:
            client.close()
        assert wait_until(lambda: endless.ended == 1)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/stats", "totals"),
        ("/metrics", "totals"),
        ("/api/versions", "versions"),
        ("/api/sessions?offset=900000000", "sessions"),
        ("/api/sessions/s", "session"),
        ("/api/rejected", "rejected"),
        ("/api/crashes", "crashes"),
        ("/api/faults", "faults"),
        ("/api/frames", "frames"),
    ],
)
def test_every_other_reader_ends_when_its_client_goes(
    collector: RunningCollector, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    endless = Endless()
    monkeypatch.setattr(readers, "_MAX_SECONDS", 3600)
    monkeypatch.setattr(queries, name, endless)
    with asking(collector, path):
        assert wait_until(lambda: endless.began == 1)
    assert wait_until(lambda: endless.ended == 1)


def test_figures_do_not_wait_for_searches(collector: RunningCollector, endless: Endless) -> None:
    with contextlib.ExitStack() as clients:
        for _ in range(8):
            clients.enter_context(asking(collector, "/api/events?text=x"))
        assert wait_until(lambda: endless.began == 2)
        for path in FIGURES:
            assert collector.get(path).status == 200
        assert (endless.began, endless.ended) == (2, 0)


def test_search_that_waits_is_dropped_when_its_client_goes(
    collector: RunningCollector, endless: Endless
) -> None:
    with contextlib.ExitStack() as running:
        for _ in range(2):
            running.enter_context(asking(collector, "/api/events?text=x"))
        assert wait_until(lambda: endless.began == 2)
        with contextlib.ExitStack() as waiting:
            for _ in range(6):
                waiting.enter_context(asking(collector, "/api/events?text=x"))
            # They are read in the order in which they came, before this one.
            assert collector.get("/healthz").status == 200
    assert wait_until(lambda: endless.ended == 2)
    with asking(collector, "/api/events?text=y"):
        assert wait_until(lambda: endless.began == 3)
    assert wait_until(lambda: endless.ended == 3)


def test_who_waits_too_long_is_asked_to_come_again(
    collector: RunningCollector, endless: Endless, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as clients:
        for _ in range(2):
            clients.enter_context(asking(collector, "/api/events?text=x"))
        assert wait_until(lambda: endless.began == 2)
        monkeypatch.setattr(readers, "_MAX_WAIT", 0.0)
        waiting = asking(collector, "/api/events?text=x")
        assert collector.get("/healthz").status == 200  # so that one has come, too
    with waiting:
        response = http.client.HTTPResponse(waiting)
        response.begin()
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert json.loads(response.read()) == {"error": "too many searches at once; try again"}
    assert endless.began == 2


def test_reader_that_takes_too_long_fails(
    collector: RunningCollector, endless: Endless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_MAX_SECONDS", 0.05)
    answer = collector.get("/api/events?text=x")
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.json() == {"error": "the answer takes too long"}
    assert endless.ended == 1


def test_collector_ends_in_the_middle_of_searches(endless: Endless) -> None:
    with collector_running() as collector, contextlib.ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(asking(collector, "/api/events?text=x"))
        assert wait_until(lambda: endless.began == 2)
        collector.stop()
        assert wait_until(lambda: endless.ended == endless.began)


# Partial pages.


@pytest.fixture
def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningCollector]:
    """A collector whose searches end after each window of at most ten of its hundred events."""
    monkeypatch.setattr(api, "SEARCH_SECONDS", 0.0)
    monkeypatch.setattr(queries, "_EVENTS_PER_QUERY", 10)
    path = tmp_path / "telemetry.sqlite3"
    database = Database(path)
    writer = Writer(database)
    writer.store([read_message(json.dumps([stored(seq) for seq in range(1, 101)]))])
    writer.close()
    database.close()
    with collector_running(db=path) as collector:
        yield collector


def stored(seq: int) -> dict[str, Any]:
    type_ = "rare" if seq in (5, 50, 95) else "tick"
    whole = {"sessionId": "s", "seq": seq, "type": type_, "timestamp": 1000 + seq}
    # No index leads to a part of a word.
    return {**whole, "id": f"s-{seq}", "data": {"ship": "marigold" if type_ == "rare" else "red"}}


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_search_at_its_deadline_responds_with_what_it_found(
    hasty: RunningCollector, order: str
) -> None:
    found: list[list[int]] = []
    cursor, name = ("", "after") if order == "asc" else ("", "before")
    while True:
        page = hasty.get(f"/api/events?text=*gold&order={order}{cursor}").json()
        found.append([event["seq"] for event in page["events"]])
        if not page.get("partial"):
            break
        cursor = f"&{name}={page['next']}"
    assert found[-1] == []
    pages = [[5], [], [], [], [50], [], [], [], [], [95]]
    assert found[:-1] == (
        pages if order == "asc" else [[95], [], [], [], [], [50], [], [], [], [5]]
    )


def test_page_that_is_full_before_the_deadline_is_not_partial(hasty: RunningCollector) -> None:
    page = hasty.get("/api/events?limit=4").json()
    assert [event["seq"] for event in page["events"]] == [1, 2, 3, 4]
    assert (page["next"], "partial" in page) == (4, False)


def test_client_goes_on_after_a_partial_page(hasty: RunningCollector) -> None:
    rare = EventFilter(text="*gold")
    with contextlib.closing(CollectorClient(hasty.http_url)) as client:
        assert [event.seq for event in client.iter_events(rare)] == [5, 50, 95]
        assert [event.seq for event in client.iter_events()] == list(range(1, 101))
        assert [event.seq for event in client.events(rare, after=5)] == [50]
        assert [event.seq for event in client.events(rare, before=50, newest_first=True)] == [5]
        assert client.events(rare, after=95) == client.events(EventFilter(type="none")) == []
        newest = client.newest(EventFilter(session="s", type="rare"))
        assert newest is not None
        assert newest.seq == 95
        assert client.newest(EventFilter(text="blue")) is None


def test_tail_goes_on_after_a_partial_page(hasty: RunningCollector) -> None:
    with running_command("tail", "--url", hasty.http_url, "--text", "*gold", "--json") as tail:
        tail.wait_for_lines(3)
        assert [json.loads(line)["seq"] for line in tail.output.splitlines()] == [5, 50, 95]


@needs_chromium
def test_page_goes_on_after_a_partial_page(hasty: RunningCollector, look: Look) -> None:
    page = look(f"{hasty.http_url}?text=*gold")
    expect(rows(page)).to_have_count(3)
    expect(page.locator("#events-note")).to_have_text("")


@needs_chromium
def test_page_says_that_it_searches_and_drops_a_search_for_another(
    hasty: RunningCollector, look: Look, endless: Endless
) -> None:
    page = look(f"{hasty.http_url}?text=x")
    assert wait_until(lambda: endless.began == 1)
    expect(page.locator("#events-empty")).to_have_text("Searching…")
    expect(page.locator("#connection")).to_have_text("searching…")
    expect(page.locator("#events")).to_have_attribute("aria-busy", "true")
    page.fill("#filter-text", "xy")
    assert wait_until(lambda: (endless.began, endless.ended) == (2, 1))
    expect(page.locator("#events-empty")).to_have_text("Searching…")


# The details of a session with many events.


def test_session_says_that_its_types_are_not_all_counted(hasty: RunningCollector) -> None:
    session = hasty.get("/api/sessions/s").json()
    assert (session["types"], session["partial"]) == ({"tick": 9, "rare": 1}, True)


# The windows of a search.


class Time:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("newest_first", [False, True])
def test_windows_are_as_large_as_their_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest_first: bool
) -> None:
    monkeypatch.setattr(queries, "_FIRST_EVENTS_PER_QUERY", 4)
    monkeypatch.setattr(queries, "_EVENTS_PER_QUERY", 16)
    monkeypatch.setattr(queries, "_QUERY_SECONDS", 1 / 16)
    clock = Time()
    database = Database(tmp_path / "telemetry.sqlite3")
    writer = Writer(database)
    writer.store([read_message(json.dumps([stored(seq) for seq in range(1, 101)]))])
    writer.close()

    def sizes(took: Callable[[int], float]) -> list[int]:
        found = []
        expected = 100 if newest_first else 1
        for first, last in queries.windows(
            connection, 0, None, newest_first=newest_first, cutoff=Cutoff(clock=clock)
        ):
            assert (last if newest_first else first) == expected
            expected = first - 1 if newest_first else last + 1
            found.append(last - first + 1)
            clock.now += took(found[-1])
        assert sum(found) == 100
        return found

    with database.reading() as connection:
        assert sizes(lambda size: 0.0) == [4, 8, 16, 16, 16, 16, 16, 8]
        assert sizes(lambda size: size / 64)[:3] == [4, 4, 4]
        assert sizes(lambda size: size / 16)[:3] == [4, 1, 1]
        assert sizes(lambda size: 3 / 64)[:3] == [4, 5, 6]
    database.close()


def test_search_without_time_examines_few_events(tmp_path: Path) -> None:
    # They may be as large as messages may be, and SQLite isn't interrupted within one.
    database = Database(tmp_path / "telemetry.sqlite3")
    writer = Writer(database)
    writer.store([read_message(json.dumps([stored(seq) for seq in range(1, 1001)]))])
    writer.close()
    with database.reading() as connection:
        page = queries.search(connection, EventFilter(text="*nowhere"), cutoff=Cutoff(0.0))
    assert (page.events, page.partial) == ([], True)
    assert 1 <= page.next <= 100
    database.close()


def test_request_on_a_kept_connection_is_read_after_an_answered_one(
    collector: RunningCollector,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", collector.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        for path in ("/api/events", "/api/stats", "/api/events?text=x", "/metrics"):
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == 200
            response.read()
