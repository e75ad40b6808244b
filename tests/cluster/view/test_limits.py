"""A question to a view ends with the time that it may take, or with its client."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.cluster.view.answers import CatalogVectors
from redvsblue_telemetry.collector.http import readers
from tests.support.collector import PATIENCE
from tests.support.lake import append, numbered
from tests.support.view import RunningView, view_running
from tests.support.wait import wait_until

FOREVER = "SELECT max(a.range + b.range) FROM range(100000000) AS a, range(100000000) AS b"
PATH = "/api/answers/values?type=played&field=n"


class Endless:
    """Counts the questions that begin with a real statement of DuckDB without an end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.began = self.ended = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self.began += 1
        try:
            yield
        finally:
            with self._lock:
                self.ended += 1


@pytest.fixture
def view(tmp_path: Path) -> Iterator[RunningView]:
    lake = Lake.open(str(tmp_path))
    append(lake, lake.claim("stream", [0]), 0, 1, numbered("s", 1, 5))
    with view_running(tmp_path) as running:
        yield running


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Endless:
    endless = Endless()

    def type_names(engine: CatalogVectors) -> list[str]:
        with endless.counted():
            return [str(row) for row in engine.run(FOREVER)]

    monkeypatch.setattr(readers, "_MAX_SECONDS", 3600)
    monkeypatch.setattr(CatalogVectors, "type_names", type_names)
    return endless


def test_question_ends_when_its_client_goes(view: RunningView, endless: Endless) -> None:
    with socket.create_connection(("127.0.0.1", view.port), PATIENCE) as client:
        client.sendall(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert wait_until(lambda: endless.began == 1)
        assert view.get("/api/stats").json()["events"] == 5  # figures don't wait for it
        assert endless.ended == 0
    assert wait_until(lambda: endless.ended == 1)


def test_question_that_takes_too_long_is_given_up(
    view: RunningView, endless: Endless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_MAX_SECONDS", 0.2)
    answer = view.get(PATH)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json() == {"error": "the answer takes too long; narrow the range"}
    assert endless.ended == endless.began == 1
