"""The collector that a test runs: what it returns, and how it ends."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from websockets.sync.client import connect

from redvsblue_telemetry import emit, get_telemetry, start_telemetry, stop_telemetry
from redvsblue_telemetry.collector.client import CollectorClient
from redvsblue_telemetry.collector.models import EventPage
from redvsblue_telemetry.collector.server import Options, OptionsError
from redvsblue_telemetry.testing import record_events
from redvsblue_telemetry.testing.collector import (
    CollectorOptions,
    RunningCollector,
    sending_for_real,
)
from tests.support.fault_proxy import FaultProxy


def test_the_keywords_are_the_options() -> None:
    assert tuple(CollectorOptions.__annotations__) == Options.__struct_fields__


def test_a_collector_runs_until_it_is_stopped() -> None:
    before = set(threading.enumerate())
    with RunningCollector() as collector, sending_for_real():
        start_telemetry(enabled=True, url=collector.url, drain_interval=0.01)
        emit("hit", by="r\u00f6d")
        assert collector.wait_for("hit") == [("hit", {"by": "r\u00f6d"})]
        (session,) = collector.sessions
        assert session.connected
        assert not collector.is_deserted(timeout=0)
        assert stop_telemetry()
        assert collector.is_deserted()
        collector.reset()
        assert (collector.events, collector.sessions, collector.rejected) == ([], [], [])
    collector.stop()
    with pytest.raises(OSError):  # noqa: PT011  (the class depends on the system)
        connect(collector.url, open_timeout=5)
    assert set(threading.enumerate()) == before


def test_a_collector_with_a_token_is_queried_with_it() -> None:
    with RunningCollector(token="secret") as collector, sending_for_real():
        start_telemetry(enabled=True, url=collector.url, token="secret", drain_interval=0.01)
        emit("hit")
        assert collector.wait_for("hit").types() == ["hit"]


def test_a_collector_that_may_not_run_says_so() -> None:
    before = set(threading.enumerate())
    with pytest.raises(OptionsError, match="other machines can reach"):
        RunningCollector(host="0.0.0.0").start()
    with pytest.raises(OptionsError, match="printable ASCII"):  # else it could not ask itself
        RunningCollector(token="k\u00e4se").start()
    with RunningCollector() as collector:
        port = int(collector.http_url.rstrip("/").rpartition(":")[2])
        with pytest.raises(OptionsError, match="cannot listen on"):
            RunningCollector(port=port).start()
    wait_for_threads(before)


def wait_for_threads(before: set[threading.Thread]) -> None:
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) == before


def test_events_of_several_pages_are_all_returned() -> None:
    with RunningCollector() as collector, connect(collector.url) as client:
        event = {"sessionId": "s", "id": "i", "timestamp": 1, "data": {}}
        events = [event | {"type": f"t{n % 2}", "seq": n} for n in range(1, 2501)]
        client.send(json.dumps(events))
        assert len(collector.wait_for("t1", 1250)) == 1250
        assert [found.seq for found in collector.events] == list(range(1, 2501))
        assert [found.seq for found in collector.events_of("t0")] == list(range(2, 2501, 2))
        assert "  and 2470 more" in collector.summary()


def test_a_connection_that_was_lost_between_two_pages_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a pause in a debugger: the collector closes connections that are idle."""
    with RunningCollector() as collector, connect(collector.url) as client:
        event = {"sessionId": "s", "id": "i", "timestamp": 1, "type": "t", "data": {}}
        client.send(json.dumps([event | {"seq": n} for n in range(1, 2501)]))
        collector.wait_for("t", 2500)
        pages: list[int] = []
        with FaultProxy(int(collector.http_url.rstrip("/").rpartition(":")[2])) as proxy:
            paged = CollectorClient._pages

            def lose(client: CollectorClient, *parts: Any, **more: Any) -> Iterator[EventPage]:
                for page in paged(client, *parts, **more):
                    yield page
                    pages.append(len(page.events))
                    if len(pages) == 2:
                        proxy.reset()

            monkeypatch.setattr(CollectorClient, "_pages", lose)
            monkeypatch.setattr(collector, "http_url", f"http://127.0.0.1:{proxy.port}/")
            assert [found.seq for found in collector.events] == list(range(1, 2501))
        assert pages == [1000, 1000, 1000, 1000, 500]


def test_events_whose_data_is_large_are_all_returned() -> None:
    with RunningCollector() as collector, connect(collector.url) as client:
        event = {"sessionId": "s", "id": "i", "timestamp": 1, "data": {"pad": "x" * 900_000}}
        for number in range(1, 13):
            client.send(json.dumps([event | {"type": "large", "seq": number}]))
        client.send(json.dumps([event | {"type": "small", "seq": 13, "data": {}}]))
        collector.wait_for("small", timeout=20)
        assert [found.seq for found in collector.events] == list(range(1, 14))
        assert [found.seq for found in collector.events_of("large")] == list(range(1, 13))
        assert len(collector.wait_for("large", 12)) == 12
        assert len(collector.summary()) < 10_000
        collector.reset()
        assert collector.events == []


def test_a_number_of_any_size_is_returned() -> None:
    digits = "9" * 5000  # more than Python makes an int of
    with RunningCollector() as collector, connect(collector.url) as client:
        event = '{"sessionId":"s","id":"i","timestamp":1,"type":"odd","seq":%d,"data":%s}'
        client.send(event % (1, '{"a":1e400,"b":[-1e400],"r\u00f6d":"1e400"}'))
        client.send(event % (2, f'{{"a":{digits},"b":-{digits},"c":12345678901234567890123}}'))
        large, many_digits = collector.wait_for("odd", 2)
        assert large.data == {"a": math.inf, "b": [-math.inf], "r\u00f6d": "1e400"}
        assert many_digits.data == {"a": math.inf, "b": -math.inf, "c": 12345678901234567890123}
        assert "odd {'a': inf" in collector.summary()


def test_a_database_may_be_named_by_a_string(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    event = '{"sessionId":"s","id":"i","timestamp":1,"type":"hit","seq":1,"data":{}}'
    with RunningCollector(db=str(path)) as collector, connect(collector.url) as client:
        client.send(event)
        collector.wait_for("hit")
    with RunningCollector(db=path) as collector:
        assert collector.events == ["hit"]


def test_a_database_in_memory_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with RunningCollector(db=":memory:") as collector:
        assert collector.events == []
    assert not list(tmp_path.iterdir())


def test_the_name_of_a_type_may_have_any_characters() -> None:
    with RunningCollector() as collector, sending_for_real():
        start_telemetry(enabled=True, url=collector.url, drain_interval=0.01)
        for name in ("a&b=c", "100 %", "\u00fc#?/", "+"):
            emit(name)
            assert collector.wait_for(name).types() == [name]


def test_a_wait_ends_while_time_is_frozen() -> None:
    with RunningCollector() as collector, sending_for_real(), freeze_time("2026-11-24"):
        start_telemetry(enabled=True, url=collector.url, drain_interval=0.01)
        with pytest.raises(AssertionError, match=r"^no 'hit' events arrived within 0\.1 s"):
            collector.wait_for("hit", timeout=0.1)


def test_a_coroutine_waits_in_a_thread_while_the_game_needs_the_loop() -> None:
    async def play(collector: RunningCollector) -> list[str]:
        start_telemetry(enabled=True, url=collector.url, drain_interval=0.01)
        asyncio.get_running_loop().call_later(0.05, emit, "hit")
        return (await asyncio.to_thread(collector.wait_for, "hit")).types()

    with RunningCollector() as collector, sending_for_real():
        assert asyncio.run(play(collector)) == ["hit"]


def test_sending_for_real_ends_what_was_started_and_brings_back_what_was() -> None:
    before = get_telemetry()
    with RunningCollector() as collector:
        with record_events() as events, sending_for_real():
            telemetry = start_telemetry(enabled=True, url=collector.url)
            emit("hit")
            assert telemetry.flush(5)
        assert not telemetry.is_running
        assert collector.events == ["hit"]
        assert events == []
    assert get_telemetry() is before


def test_events_have_their_context_and_sessions_their_outcome() -> None:
    with RunningCollector() as collector, sending_for_real():
        telemetry = start_telemetry(enabled=True, url=collector.url, drain_interval=0.01)
        emit("before")
        telemetry.context(player="p-17", level=3)
        emit("after")
        assert stop_telemetry(10)
        before, after = collector.events
        assert before.context is None
        assert after.context == {"player": "p-17", "level": 3}
        (session,) = collector.sessions
        assert (session.outcome, session.reason, session.missing) == ("well", "stopped", 0)
