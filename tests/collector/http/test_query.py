"""SQL over HTTP: results, errors, who may, and that no query harms the collector."""

from __future__ import annotations

import csv
import http.client
import io
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest

from redvsblue_telemetry.collector.http import query
from tests.collector.clients import array, client_of, event, next_ack
from tests.collector.storage.test_sandbox import BOMB, ENDLESS
from tests.support.collector import Answer, RunningCollector, bearer, collector_running
from tests.support.wait import wait_until


def asked(collector: RunningCollector, sql: str, **parameters: Any) -> Answer:
    return collector.get(f"/api/query?{urlencode({'sql': sql, **parameters})}")


def result(collector: RunningCollector, sql: str, **parameters: Any) -> Any:
    answer = asked(collector, sql, **parameters)
    assert answer.status == 200, answer.body
    return answer.json()


def send(collector: RunningCollector, text: str) -> None:
    with client_of(collector) as client:
        client.send(text)
        next_ack(client)


class Started:
    """The processes that run queries for the collectors of this process."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen[bytes]] = []

    @property
    def running(self) -> int:
        return sum(process.poll() is None for process in self.all)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    noted = Started()

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            noted.all.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return noted


def test_result_has_columns_and_rows(collector: RunningCollector) -> None:
    send(collector, array(1, 2, 5))

    found = result(collector, "SELECT type, count(*) AS n, x'00ff', 9e999, NULL FROM events")

    assert found == {
        "columns": ["type", "n", "x'00ff'", "9e999", "NULL"],
        "rows": [["hit", 3, "x'00ff'", "Infinity", None]],
        "partial": False,
    }


def test_query_and_result_may_have_any_characters(collector: RunningCollector) -> None:
    send(collector, json.dumps([event(1, type="Größe"), event(2, type="🚀")]))

    found = result(collector, "SELECT type, 'Ω' FROM events WHERE type IN ('Größe', '🚀')")

    assert found["rows"] == [["Größe", "Ω"], ["🚀", "Ω"]]


def test_session_of_a_connected_client_is_running(collector: RunningCollector) -> None:
    with client_of(collector) as client:
        client.send(array(1))
        next_ack(client)
        found = result(collector, "SELECT outcome FROM sessions")
    assert found["rows"] == [["running"]]


def test_rows_have_a_limit(collector: RunningCollector) -> None:
    send(collector, array(*range(1, 1003)))

    found = result(collector, "SELECT seq FROM events ORDER BY seq")
    assert found["partial"] is True
    assert found["rows"] == [[seq] for seq in range(1, 1001)]
    assert result(collector, "SELECT seq FROM events LIMIT 2", limit=2)["partial"] is False
    assert len(result(collector, "SELECT seq FROM events", limit=2)["rows"]) == 2


def test_large_rows_end_the_result_early(collector: RunningCollector) -> None:
    send(collector, array(*range(1, 101)))

    found = result(collector, "SELECT printf('%500000s', seq) FROM events")

    assert found["partial"] is True
    assert len(found["rows"]) == 8 * 1024 * 1024 // 500_000


def test_csv_is_a_file_without_formulas(collector: RunningCollector) -> None:
    send(collector, json.dumps([event(1, type="=cmd()"), event(2, type='a "b", c')]))

    answer = asked(collector, "SELECT seq, type FROM events ORDER BY seq", format="csv")

    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="query.csv"'
    assert list(csv.reader(io.StringIO(answer.body.decode(), newline=""))) == [
        ["seq", "type"],
        ["1", "'=cmd()"],
        ["2", 'a "b", c'],
    ]
    assert "Telemetry-Partial" not in answer.headers
    cut = asked(collector, "SELECT seq FROM events", format="csv", limit=1)
    assert cut.headers["Telemetry-Partial"] == "true"


@pytest.mark.parametrize(
    ("sql", "parameters", "message"),
    [
        ("SELECT * FROM types", {}, "the table types can't be read; there are events, sessions"),
        ("DELETE FROM events", {}, "a query must begin with SELECT or WITH"),
        ("", {}, "the query is empty; write a SELECT"),
        ("SELECT 1", {"format": "xml"}, "format is 'xml'; it must be json or csv"),
        ("SELECT 1", {"limit": 1001}, "limit is 1001; it must be 1 to 1000"),
        ("SELECT 1", {"limit": 0}, "limit is 0; it must be 1 to 1000"),
        ("SELECT 1", {"rows": 5}, "unknown parameter 'rows'; use sql, limit, format"),
        ("SELECT '\0'", {}, "the query has a null character"),
        ("SELECT '" + "x" * 20_000 + "'", {}, "sql has 20,009 characters; the maximum is 20,000"),
    ],
)
def test_wrong_query_is_explained(
    collector: RunningCollector, sql: str, parameters: dict[str, Any], message: str
) -> None:
    answer = asked(collector, sql, **parameters)
    assert answer.status == 400
    assert answer.json()["error"].startswith(message)


def test_queries_need_the_token_of_those_who_read() -> None:
    with collector_running(token="games", read_token="people") as collector:
        path = f"/api/query?{urlencode({'sql': 'SELECT 1'})}"
        assert collector.get(path).status == 401
        assert collector.get(path, bearer("games")).status == 401
        assert collector.get(path, bearer("people")).status == 200
        assert collector.get(path, {**bearer("people"), "Sec-Fetch-Site": "cross-site"}).status == (
            403
        )


@pytest.mark.slow
def test_query_that_needs_all_memory_is_ended_and_the_collector_goes_on(
    collector: RunningCollector, started: Started
) -> None:
    """By its limit of memory or, on a slow machine, by that of time; see the tests of the room."""
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(asked, collector, BOMB)
        while not waiting.done():  # games and other readers notice nothing
            began = time.monotonic()
            send(collector, array(1, session=f"s-{began}"))
            assert collector.get("/api/stats").status == 200
            assert time.monotonic() - began < 5
        answer = waiting.result()
    assert answer.status == 503
    assert answer.json()["error"].startswith("the query ")
    assert result(collector, "SELECT 1")["rows"] == [[1]]
    assert started.all
    assert not started.running


def test_query_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert query.SECONDS == 10
    monkeypatch.setattr(query, "SECONDS", 1.5)
    with collector_running() as collector:
        began = time.monotonic()
        answer = asked(collector, ENDLESS)
    assert 1.4 <= time.monotonic() - began < 10
    assert answer.status == 503
    assert answer.json()["error"].startswith("the query took longer than 1.5 s")
    assert int(answer.headers["Retry-After"]) >= 1


def test_query_ends_with_its_client(collector: RunningCollector, started: Started) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", collector.port)
    connection.request("GET", f"/api/query?{urlencode({'sql': ENDLESS})}")
    assert wait_until(lambda: started.running)
    connection.close()
    assert wait_until(lambda: not started.running, 5)
    assert result(collector, "SELECT 1")["rows"] == [[1]]


def test_query_ends_with_the_collector(started: Started) -> None:
    with collector_running() as collector, ThreadPoolExecutor() as threads:
        waiting = threads.submit(asked, collector, ENDLESS)
        assert wait_until(lambda: started.running)
        collector.stop()
        answer = waiting.result()
    assert answer.status == 503
    assert not started.running
