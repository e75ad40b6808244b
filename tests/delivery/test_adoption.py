"""Events of earlier runs: gently, in order, each settled once, and never in the way of new ones."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from websockets.http11 import Response
from websockets.sync.server import ServerConnection

from redvsblue_telemetry import ConnectionState, Telemetry, TelemetryEvent, TelemetrySettings
from redvsblue_telemetry._delivery.adoption import LoadLimit
from redvsblue_telemetry._journal.run import RunDirectory
from redvsblue_telemetry._report import Report, encode_report
from redvsblue_telemetry.testing import RecordingServer
from tests.delivery.test_refused import picky_server
from tests.support import REPOSITORY
from tests.support.collector import collector_running
from tests.support.fault_proxy import Direction, FaultProxy
from tests.support.journal import STARTED_AT, Segment, records, write_run
from tests.support.killed_games import (
    NOWHERE,
    files,
    game,
    has_recovered,
    is_balanced,
    killed,
    played,
)
from tests.support.kills import KILLED
from tests.support.raw_server import raw_server, read_to_the_end, shake_hands
from tests.support.wait import wait_until
from tests.support.websocket_server import websocket_server

QUICK: dict[str, Any] = {"enabled": True, "backoff_base": 0.005, "backoff_max": 0.01}


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as server:
        yield server


def made(journal: Path, url: str = NOWHERE, **settings: Any) -> Telemetry:
    return Telemetry(TelemetrySettings(**{**QUICK, "journal": journal, "url": url, **settings}))


def dropped(telemetry: Telemetry) -> dict[str, int]:
    return {reason: count for reason, count in telemetry.stats().dropped_by.items() if count}


def is_stopped(telemetry: Telemetry) -> bool:
    return wait_until(lambda: telemetry.stats().state is ConnectionState.STOPPED)


def bytes_in(journal: Path) -> int:
    """The size of all segments, some of which a worker may be deleting."""
    size = 0
    for path in journal.rglob("*.events"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


@contextlib.contextmanager
def confirming_nothing() -> Iterator[str]:
    """A server that takes everything and confirms nothing; yields its URL."""

    def script(client: socket.socket) -> None:
        shake_hands(client, b"Telemetry-Ack: cumulative")
        read_to_the_end(client)

    with raw_server(script) as port:
        yield f"ws://127.0.0.1:{port}/"


# Delivery.


def test_a_collector_stores_each_event_once_though_the_adopters_are_killed(journal: Path) -> None:
    session = killed(journal, 3000)
    script = """
import random
time.sleep(random.uniform(0, 0.3))
die()
"""
    with collector_running() as collector:
        for _ in range(4):
            played(journal, script, url=collector.url, drain_interval=0.01)
        with made(journal, collector.url) as telemetry:
            assert wait_until(lambda: collector.stats().events == 3000)
            assert wait_until(lambda: telemetry.stats().in_flight == 0)
            # The killed adopters have left runs, too.
            assert wait_until(lambda: len(list(journal.glob("*/"))) == 1)
        assert [event.seq for event in collector.events] == list(range(1, 3001))
        assert {event.session_id for event in collector.events} == {session}
        # The adopters that were killed are sessions, too, if without an event.
        (stored,) = (each for each in collector.sessions if each.session_id == session)
        assert (stored.events, stored.missing) == (3000, 0)
    assert files(journal) == []


def test_an_adopter_that_is_killed_in_the_middle_leaves_the_rest_to_the_next(
    journal: Path,
) -> None:
    session = killed(journal, 2000)
    with (
        RecordingServer(encodings=()) as server,
        FaultProxy(server.port, first_takes=40_000) as proxy,
    ):
        adopter = subprocess.Popen(
            game(journal, "time.sleep(60)", url=proxy.url), cwd=REPOSITORY, stdin=subprocess.DEVNULL
        )
        with adopter:
            assert wait_until(lambda: proxy.has_stalled)
            adopter.kill()
        taken = {event["seq"] for event in server.events}
        assert 0 < len(taken) < 2000
        with made(journal, server.url) as telemetry:
            assert has_recovered(telemetry, 2000 - len(taken))
        seqs = [event["seq"] for event in server.events if event["sessionId"] == session]
        assert list(dict.fromkeys(seqs)) == list(range(1, 2001))  # by their first arrival
    assert files(journal) == []


def test_a_reset_in_the_midst_of_it_loses_nothing(journal: Path) -> None:
    killed(journal, 3000)
    with (
        RecordingServer(encodings=()) as server,
        FaultProxy(server.port, first_takes=60_000) as proxy,
    ):
        with made(journal, proxy.url, confirm_timeout=0.5) as telemetry:
            telemetry.emit("new")
            assert has_recovered(telemetry, 3000)
            assert telemetry.stats().reconnects > 0
            assert is_balanced(telemetry.stats())
        seqs = [event["seq"] for event in server.events if event["type"] == "old"]
        assert list(dict.fromkeys(seqs)) == list(range(1, 3001))


def test_a_refused_event_of_an_earlier_run_costs_that_event_only(
    journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = """
for number in range(1, 101):
    telemetry.emit("poison" if number == 33 else "old")
die()
"""
    played(journal, script)
    with picky_server(lambda types: 1009 if "poison" in types else None) as server:
        telemetry = made(journal, server.url).start()
        telemetry.emit("new")
        assert telemetry.flush(20) is True  # the refused event is not one of these
        assert has_recovered(telemetry, 100)
        assert dropped(telemetry) == {"refused": 1}
        assert telemetry.stats().delivered == 100
        assert is_balanced(telemetry.stats())
        assert telemetry.stop(5)
        assert sorted({*server.arrived}) == sorted({*range(1, 101)} - {33})
    assert "dropped an event of type 'poison'" in caplog.text
    assert files(journal) == []


def test_before_send_reviews_the_events_of_earlier_runs(
    journal: Path, server: RecordingServer
) -> None:
    script = """
for number in range(1, 10):
    telemetry.emit("old", n=number)
print(telemetry.session_id)
die()
"""
    session = played(journal, script, version="1.0").strip()
    seen: list[tuple[str | None, int | None, str | None]] = []

    def review(event: TelemetryEvent) -> TelemetryEvent | None:
        seen.append((event.session_id, event.seq, event.version))
        number = event.data["n"]
        if number == 3:
            return None
        if number == 5:
            raise ValueError(number)
        if number == 7:
            return TelemetryEvent("changed", {"n": number})
        return event

    with made(journal, server.url, before_send=review, version="2.0") as telemetry:
        assert has_recovered(telemetry, 8)
        stats = telemetry.stats()
    assert seen == [(session, number, "1.0") for number in range(1, 10)]
    assert (stats.emitted, stats.recovered, stats.rejected) == (0, 8, 1)
    assert dropped(telemetry) == {"filtered": 1}
    assert is_balanced(stats)
    got = [(event["type"], event["seq"]) for event in server.events]
    assert got == [
        *(("old", 1), ("old", 2), ("old", 4), ("old", 6)),
        *(("changed", 7), ("old", 8), ("old", 9)),
    ]
    assert {(event["sessionId"], event["version"]) for event in server.events} == {(session, "1.0")}
    assert files(journal) == []


# In nobody's way.


def test_new_events_do_not_wait_behind_old_ones(journal: Path) -> None:
    killed(journal, 20_000)
    waits: list[int] = []
    arrived = 0

    def script(client: socket.socket) -> None:
        nonlocal arrived
        shake_hands(client, b"Telemetry-Ack: cumulative")
        stream = client.makefile("rb")
        number = 0
        while head := stream.read(2):
            size = head[1] & 0x7F
            if size == 126:
                size = int.from_bytes(stream.read(2), "big")
            elif size == 127:
                size = int.from_bytes(stream.read(8), "big")
            mask = stream.read(4)
            payload = stream.read(size)
            if head[0] & 0x0F != 1:
                continue
            key = (mask * (size // 4 + 1))[:size]
            whole = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
            events = json.loads(whole.to_bytes(size, "big"))
            number += 1
            time.sleep(0.002)  # a server that is slower than the disk
            for event in events:
                if event["type"] == "new":
                    waits.append(arrived - event["data"]["arrived"])
                else:
                    arrived += 1
            ack = b'{"ack":%d}' % number
            client.sendall(bytes([0x81, len(ack)]) + ack)

    with raw_server(script) as port:
        telemetry = made(journal, f"ws://127.0.0.1:{port}/", drain_interval=0.01).start()
        while telemetry.stats().recovered < 20_000:
            telemetry.emit("new", arrived=arrived)
            time.sleep(0.01)
        assert has_recovered(telemetry, 20_000)
        assert telemetry.stop(20)
    assert len(waits) > 20
    # Of 20,000 that wait, some that were on their way, and those of a few steps of this test.
    assert sorted(waits)[len(waits) // 2] < 3000


def test_on_a_slow_link_a_new_event_waits_for_few_old_ones(journal: Path) -> None:
    killed(journal, 8000)
    with RecordingServer() as server, FaultProxy(server.port) as proxy:
        proxy.throttle(32 * 1024, frozenset({Direction.TO_SERVER}))
        telemetry = made(journal, proxy.url).start()
        assert wait_until(lambda: telemetry.stats().in_flight > 0)
        for _ in range(5):
            telemetry.emit("new")
            assert telemetry.flush(3)  # 256 KB would take 8 s
        stats = telemetry.stats()
        assert stats.recovered < 8000
        assert is_balanced(stats)
        telemetry.stop(0)
        assert is_stopped(telemetry)


class Link:
    """Takes what a limit allows, at some speed. The time is its own."""

    def __init__(self, bytes_per_second: float) -> None:
        self.bytes_per_second = bytes_per_second
        self.now = 0.0
        self.limit = LoadLimit(lambda: self.now)
        self.loads: deque[tuple[int, Callable[[], None]]] = deque()

    @property
    def in_flight(self) -> int:
        return sum(size for size, _ in self.loads)

    def load(self, size: int) -> int:
        """Load all that there is room for; return how many bytes are in flight then."""
        while self.limit.has_room:
            self.loads.append((size, self.limit.load(size)))
        return self.in_flight

    def settle(self) -> None:
        size, settle = self.loads.popleft()
        self.now += size / self.bytes_per_second
        settle()


def test_a_quick_link_gets_as_much_as_it_takes_within_a_few_batches() -> None:
    link = Link(10_000_000)
    sizes = []
    for _ in range(8):
        sizes.append(link.load(8192))
        link.settle()
    assert sizes[0] == 16 * 1024
    assert sizes[-1] == link.load(8192) == 256 * 1024


@pytest.mark.parametrize("bytes_per_second", [16 * 1024, 32 * 1024, 1000 * 1024])
def test_a_new_event_waits_for_what_a_link_takes_within_a_second(bytes_per_second: int) -> None:
    link = Link(bytes_per_second)
    waits = []
    for _ in range(500):
        waits.append(link.load(8000) / bytes_per_second)
        link.settle()
    assert max(waits) < 1.5  # at first, the speed isn't known
    assert max(waits[10:]) <= 1


def test_a_link_that_becomes_slow_gets_less_at_once_but_always_one_batch() -> None:
    link = Link(10_000_000)
    for _ in range(8):
        link.load(8192)
        link.settle()
    assert link.load(8192) == 256 * 1024
    link.bytes_per_second = 1024
    for _ in range(32):
        link.load(8192)
        link.settle()
    assert (link.in_flight, link.load(8192)) == (0, 8192)
    link.bytes_per_second = 10_000_000
    for _ in range(8):
        link.load(8192)
        link.settle()
    assert link.load(8192) == 256 * 1024


def test_a_few_bytes_that_are_quick_raise_no_limit() -> None:
    link = Link(32 * 1024)
    for _ in range(50):
        link.loads.append((100, link.limit.load(100)))
        link.settle()
    assert link.load(8192) == 16 * 1024


def test_a_flush_and_a_stop_do_not_wait_for_earlier_runs(journal: Path) -> None:
    killed(journal, 2000)
    with RecordingServer() as server, FaultProxy(server.port) as proxy:
        telemetry = made(journal, server.url, drain_interval=0.01).start()
        assert has_recovered(telemetry, 2000)
        telemetry.emit("new")
        assert telemetry.flush(10)
        assert telemetry.stop(10)
        del proxy
    killed(journal, 2000)
    with confirming_nothing() as url:
        telemetry = made(journal, url, confirm_timeout=60).start()
        assert wait_until(lambda: telemetry.stats().in_flight > 0)
        since = time.monotonic()
        assert telemetry.flush(20) is True
        assert telemetry.stop(20) is True
        assert time.monotonic() - since < 5
        stats = telemetry.stats()
        assert (stats.emitted, stats.delivered, stats.in_flight, stats.dropped) == (0, 0, 0, 0)
        assert 0 < stats.buffered == stats.recovered
        assert is_balanced(stats)
    with RecordingServer() as server, made(journal, server.url) as heir:
        assert has_recovered(heir, 2000)
        assert {event["seq"] for event in server.events} == set(range(1, 2001))


def test_a_stop_goes_on_with_earlier_runs_while_its_own_are_not_confirmed(journal: Path) -> None:
    killed(journal, 100)
    with confirming_nothing() as url:
        telemetry = made(journal, url, confirm_timeout=60).start()
        telemetry.emit("new")
        assert wait_until(lambda: telemetry.stats().recovered == 100)
        assert telemetry.stop(0.3) is False
        assert is_stopped(telemetry)
        stats = telemetry.stats()
        assert (stats.buffered, stats.dropped, stats.in_flight) == (101, 0, 0)
        assert is_balanced(stats)
    with RecordingServer() as server, made(journal, server.url) as heir:
        assert has_recovered(heir, 101)
        assert len(server.events) == 101


def test_with_a_dead_server_a_stop_with_nothing_of_its_own_is_quick(journal: Path) -> None:
    killed(journal, 100)
    before = files(journal)
    telemetry = made(journal, backoff_base=60, backoff_max=60).start()
    since = time.monotonic()
    assert telemetry.stop(20) is True
    assert time.monotonic() - since < 10
    assert is_stopped(telemetry)
    assert telemetry.stats().recovered == 0
    assert [path for path in files(journal) if path in before] == before


# Limits.


def test_events_of_earlier_runs_that_are_too_old_expire(
    journal: Path, server: RecordingServer
) -> None:
    script = """
for number in range(30):
    telemetry.emit("old")
time.sleep(1)
for number in range(20):
    telemetry.emit("younger")
telemetry.push({"type": "given", "timestamp": 5})
die()
"""
    played(journal, script)
    with made(journal, server.url, journal_max_age=0.9) as telemetry:
        assert has_recovered(telemetry, 51)
        stats = telemetry.stats()
    # How much older than the limit the younger ones are depends on the machine.
    assert stats.dropped_by["expired"] >= 31
    assert stats.delivered == 51 - stats.dropped_by["expired"]
    assert is_balanced(stats)
    assert files(journal) == []


def test_a_timestamp_that_the_game_gave_expires_no_event(
    journal: Path, server: RecordingServer
) -> None:
    played(journal, 'telemetry.push({"type": "replayed", "timestamp": 5})\ndie()')
    with made(journal, server.url) as telemetry:
        assert has_recovered(telemetry, 1)
        assert dropped(telemetry) == {}
    assert [event["timestamp"] for event in server.events] == [5]


def test_a_clock_that_was_set_back_expires_nothing(journal: Path, server: RecordingServer) -> None:
    # The run's clock is a year ahead of the next start's.
    played(
        journal,
        'telemetry.push({"type": "ahead", "timestamp": time.time_ns() // 10**6 + 365 * 86_400_000})'
        "\ndie()",
    )
    with made(journal, server.url, journal_max_age=30) as telemetry:
        assert has_recovered(telemetry, 1)
        assert (telemetry.stats().delivered, dropped(telemetry)) == (1, {})


def test_the_longest_possible_age_expires_nothing(journal: Path, server: RecordingServer) -> None:
    killed(journal, 3)
    with made(journal, server.url, journal_max_age=sys.float_info.max) as telemetry:
        telemetry.emit("new")
        assert has_recovered(telemetry, 3)
        assert telemetry.flush(10)
        assert telemetry.stats().delivered == 4


def test_beyond_the_limit_of_bytes_the_oldest_runs_go_first(
    journal: Path, server: RecordingServer
) -> None:
    for session in ("first", "second"):
        script = """
for number in range(3000):
    telemetry.emit("old", text="x" * 300)
die()
"""
        played(journal, script, session_id=session)
    size = bytes_in(journal)
    telemetry = made(journal, journal_max_bytes=size // 2 + 1_500_000).start()
    assert wait_until(lambda: telemetry.stats().recovered > 0)
    telemetry.stop(0)
    assert is_stopped(telemetry)
    stats = telemetry.stats()
    assert stats.dropped_by["expired"] == stats.recovered > 0
    assert is_balanced(stats)
    left = bytes_in(journal)
    assert left <= size // 2 + 1_500_000
    with made(journal, server.url) as heir:
        assert has_recovered(heir, 6000 - stats.recovered)
        arrived = [(event["sessionId"], event["seq"]) for event in server.events]
        assert is_gone(journal, "second")
    for session, expired in (("first", min(stats.recovered, 3000)), ("second", 0)):
        (report,) = reports_of(server, session)
        assert report["gaps"] == ([[1, expired, "expired"]] if expired else [])
        assert (report["lastSeq"], report["delivered"]) == (3000, 3000 - expired)
    everything = [(name, n) for name in ("first", "second") for n in range(1, 3001)]
    assert arrived == everything[stats.recovered :]


def test_own_events_expire_when_they_have_waited_for_too_long(journal: Path) -> None:
    telemetry = made(journal, journal_max_age=0.5).start()
    for _ in range(700):
        telemetry.emit("hit")
    assert telemetry.flush(10) is False
    assert dropped(telemetry) == {"expired": 700}
    assert telemetry.stats().buffered == 0
    assert is_balanced(telemetry.stats())
    assert telemetry.stop(5) is True
    assert not list(journal.rglob("*.events"))


def test_own_events_beyond_the_limit_of_bytes_expire(
    journal: Path, server: RecordingServer
) -> None:
    limit = 3_000_000
    telemetry = made(journal, journal_max_bytes=limit).start()
    for _ in range(20_000):
        telemetry.emit("hit", text="x" * 300)
    stats = telemetry.stats()
    assert stats.emitted == 20_000
    expired = stats.dropped_by["expired"]
    assert 0 < expired == stats.dropped
    assert is_balanced(stats)
    assert wait_until(lambda: bytes_in(journal) <= limit)
    telemetry.stop(0)
    assert is_stopped(telemetry)
    stats = telemetry.stats()
    with made(journal, server.url) as heir:
        assert has_recovered(heir, stats.buffered)
        seqs = [event["seq"] for event in server.events]
        assert seqs == list(range(20_001 - stats.buffered, 20_001))


def test_damage_is_one_warning_with_a_count(
    journal: Path, server: RecordingServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    script = """
for number in range(100):
    telemetry.emit("old", text="abcdefgh")
store = telemetry._journal.store
while sum(segment.indexed for segment in list(store._segments)) < 100:  # it notes the checksums
    time.sleep(0.01)
die()
"""
    played(journal, script)
    (path, *_) = sorted(journal.rglob("*.events"))
    content = path.read_bytes()
    at = content.index(b"abcdefgh", 20_000)
    path.write_bytes(content[:at] + b"ABC" + content[at + 3 :])
    with made(journal, server.url) as telemetry:
        assert has_recovered(telemetry, 99)
    lines = [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("1 damaged record in ")
    assert "telemetry recovered 99 events of 1 earlier run" in caplog.messages
    assert files(journal) == []


# Reports.


def reports_of(server: RecordingServer, session: str) -> list[dict[str, Any]]:
    return [report for report in server.reports if report["sessionId"] == session]


def is_gone(journal: Path, session: str) -> bool:
    return wait_until(lambda: not (journal / session).exists())


def test_a_killed_run_is_reported_once_its_events_are_delivered(
    journal: Path, server: RecordingServer
) -> None:
    since = time.time_ns() // 1_000_000
    session = killed(journal, 120, version="1.4.2")
    until = time.time_ns() // 1_000_000
    with made(journal, server.url, version="2.0") as telemetry:
        assert has_recovered(telemetry, 120)
        assert is_gone(journal, session)
        assert telemetry.stats().delivered == 120
    (report,) = reports_of(server, session)
    assert (report["state"], report["reason"], report["version"]) == ("ended", "killed", "1.4.2")
    assert since <= report["startedAt"] <= report["at"] <= until
    assert (report["lastSeq"], report["emitted"], report["delivered"]) == (120, 120, 120)
    assert (report["buffered"], report["dropped"], report["gaps"]) == (0, {}, [])
    assert files(journal) == []


def test_a_killed_run_without_an_event_is_reported(journal: Path, server: RecordingServer) -> None:
    session = killed(journal, 0)
    with made(journal, server.url):
        assert is_gone(journal, session)
    (report,) = reports_of(server, session)
    assert (report["reason"], report["lastSeq"], report["emitted"]) == ("killed", 0, 0)


@pytest.mark.parametrize("way", ["the server takes none", "the setting"])
def test_without_reports_a_run_is_deleted_at_once(way: str, journal: Path) -> None:
    session = killed(journal, 100)
    settings = {"reports": "none"} if way == "the setting" else {}
    with RecordingServer(reports=way == "the setting") as server:
        with made(journal, server.url, **settings) as telemetry:
            assert has_recovered(telemetry, 100)
            assert is_gone(journal, session)
        assert server.reports == []
    assert files(journal) == []


def test_what_is_dropped_on_the_way_is_in_the_report(
    journal: Path, server: RecordingServer
) -> None:
    script = """
for number in range(1, 41):
    telemetry.emit("old", n=number)
telemetry.push({"type": "old", "seq": 7000, "data": {"n": 41}})
telemetry.emit("old", n=42)
print(telemetry.session_id)
die()
"""
    session = played(journal, script).strip()

    def review(event: TelemetryEvent) -> TelemetryEvent | None:
        if event.data["n"] == 9:
            raise ValueError
        return None if 3 <= event.data["n"] <= 5 else event

    with made(journal, server.url, before_send=review) as telemetry:
        assert has_recovered(telemetry, 41)
        assert is_gone(journal, session)
    (report,) = reports_of(server, session)
    assert report["gaps"] == [[3, 5, "filtered"], [9, 9, "rejected"], [41, 41, "forwarded"]]
    assert (report["dropped"], report["rejected"]) == ({"filtered": 3}, 1)
    assert (report["lastSeq"], report["emitted"], report["delivered"]) == (42, 41, 38)


def test_an_event_that_the_server_refuses_is_in_the_report(journal: Path) -> None:
    script = """
for number in range(1, 101):
    telemetry.emit("poison" if number == 33 else "old")
print(telemetry.session_id)
die()
"""
    session = played(journal, script).strip()
    with picky_server(
        lambda types: 1009 if "poison" in types else None, takes_reports=True
    ) as server:
        with made(journal, server.url) as telemetry:
            assert has_recovered(telemetry, 100)
            assert is_gone(journal, session)
        (report,) = [report for report in server.reports if report["sessionId"] == session]
    assert (report["gaps"], report["dropped"]) == ([[33, 33, "refused"]], {"refused": 1})
    assert (report["lastSeq"], report["delivered"]) == (100, 99)


@contextlib.contextmanager
def confirming_no_report() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that confirms events up to the first report of an earlier run, which it gets.

    Yields its URL and the reports that it got.
    """
    reports: list[dict[str, Any]] = []

    def serve_one(connection: ServerConnection) -> None:
        for number, message in enumerate(connection, start=1):
            content = json.loads(message)
            if isinstance(content, dict):
                reports.append(content["report"])
                if content["report"]["state"] == "ended":
                    for _ in connection:
                        pass
                    return
            connection.send(json.dumps({"ack": number}))

    def offer(_: object, __: object, response: Response) -> Response:
        response.headers["Telemetry-Ack"] = "cumulative"
        response.headers["Telemetry-Report"] = "1"
        return response

    with websocket_server(serve_one, process_response=offer, close_timeout=0.1) as url:
        yield url, reports


def test_a_run_stays_until_its_report_is_confirmed(journal: Path, server: RecordingServer) -> None:
    session = killed(journal, 100)
    with confirming_no_report() as (url, got):
        telemetry = made(journal, url, confirm_timeout=60).start()
        assert wait_until(lambda: any(report["sessionId"] == session for report in got))
        assert telemetry.stats().delivered == 100
        assert telemetry.stop(1) is True  # it waits for its own last report in vain
        (first,) = [report for report in got if report["sessionId"] == session]
    assert sorted(path.name for path in (journal / session).iterdir()) == [
        "redvsblue.lock",
        "redvsblue.report",
    ]
    with made(journal, server.url) as telemetry:
        assert is_gone(journal, session)
        assert telemetry.stats().recovered == 0
    (second,) = reports_of(server, session)
    assert second == {**first, "number": first["number"] + 1}
    assert server.events == []
    assert files(journal) == []


def test_while_a_report_can_not_be_saved_the_files_forget_nothing(
    journal: Path, server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = killed(journal, 100)

    def review(event: TelemetryEvent) -> TelemetryEvent | None:
        return None if event.data["n"] == 9 else event

    with monkeypatch.context() as patch, confirming_no_report() as (url, got):
        patch.setattr(RunDirectory, "save_report", lambda *_: False)  # the disk is full
        telemetry = made(journal, url, before_send=review, confirm_timeout=60).start()
        assert wait_until(lambda: any(report["sessionId"] == session for report in got))
        telemetry.stop(0)
        assert is_stopped(telemetry)
    assert (journal / session / "00000001.events").exists()
    with made(journal, server.url, before_send=review):
        assert is_gone(journal, session)
    assert len(server.events) == 99
    (report,) = reports_of(server, session)
    assert (report["gaps"], report["delivered"]) == ([[9, 9, "filtered"]], 99)


def test_a_report_is_sent_again_on_the_next_connection(journal: Path) -> None:
    session = killed(journal, 100)
    with (
        RecordingServer(encodings=()) as server,
        FaultProxy(server.port, first_takes=12_000) as proxy,
    ):
        with made(journal, proxy.url, confirm_timeout=0.5) as telemetry:
            assert has_recovered(telemetry, 100)
            assert is_gone(journal, session)
            assert telemetry.stats().reconnects > 0
        reports = reports_of(server, session)
    assert {report["number"] for report in reports} == {1}
    assert reports[-1]["delivered"] == 100


def test_many_runs_are_reported(journal: Path, server: RecordingServer) -> None:
    sessions = [f"run-{number}" for number in range(25)]
    for number, session in enumerate(sessions):
        write_run(
            journal,
            Segment(session_id=session, records=records(1, number), started_at=number + 1),
            name=session,
        )
    with made(journal, server.url) as telemetry:
        assert wait_until(lambda: files(journal / sessions[-1]) == [])
        assert wait_until(lambda: len(list(journal.glob("*/"))) == 1)
        assert telemetry.stats().delivered == sum(range(25))
        ended = [report for report in server.reports if report["state"] == "ended"]
    assert [report["sessionId"] for report in ended] == sessions
    assert [report["lastSeq"] for report in ended] == list(range(25))


def test_a_run_whose_report_is_too_old_is_forgotten(journal: Path, server: RecordingServer) -> None:
    now = time.time_ns() // 1_000_000
    for session, at in (("old", now - 100_000), ("young", now - 20_000)):
        report = Report(
            session_id=session, number=2, state="ended", reason="exit", started_at=5, at=at
        )
        path = write_run(journal, name=session)
        (path / "redvsblue.report").write_bytes(encode_report(report))
    with made(journal, server.url, journal_max_age=60):
        assert wait_until(lambda: len(list(journal.glob("*/"))) == 1)
    assert reports_of(server, "old") == []
    (report_of_young,) = reports_of(server, "young")
    assert (report_of_young["number"], report_of_young["reason"]) == (3, "exit")


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_no_erases_a_run_whose_report_is_not_confirmed(journal: Path, is_connected: bool) -> None:
    session = killed(journal, 10)
    with confirming_no_report() as (url, got):
        telemetry = made(journal, url, confirm_timeout=60).start()
        assert wait_until(lambda: any(report["sessionId"] == session for report in got))
        if not is_connected:
            telemetry.stop(0)
            assert is_stopped(telemetry)
            assert (journal / session).exists()
        telemetry.enabled = False
        assert files(journal) == []
        telemetry.stop()
    assert files(journal) == []


def test_numbers_that_are_not_in_the_files_are_explained(
    journal: Path, server: RecordingServer
) -> None:
    report = Report(session_id="s", number=7, state="running", started_at=5, at=6)
    report.last_seq, report.emitted, report.delivered, report.buffered = 180, 180, 30, 145
    report.dropped, report.gaps = {"overflow": 5}, [(11, 15, "overflow")]
    content = Segment(number=3, first=91, session_id="s", records=records(91, 100), indexed=100)
    path = write_run(journal, attrs.evolve(content, confirmed=40), name="s")
    (path / "redvsblue.report").write_bytes(encode_report(report))
    segment = path / "00000003.events"
    hit = records(91, 10)
    at = segment.read_bytes().index(hit[9])
    text = segment.read_bytes()
    segment.write_bytes(text[:at] + b"#" + text[at + 1 :])
    with made(journal, server.url) as telemetry:
        assert has_recovered(telemetry, 99)
        assert is_gone(journal, "s")
    (last,) = reports_of(server, "s")
    assert last["gaps"] == [[11, 15, "overflow"], [41, 90, "expired"], [100, 100, "damaged"]]
    assert last["dropped"] == {"overflow": 5, "expired": 50, "damaged": 1}
    assert (last["number"], last["reason"], last["lastSeq"]) == (8, "killed", 190)
    assert (last["emitted"], last["delivered"], last["buffered"]) == (190, 134, 0)
    assert last["at"] == STARTED_AT + 190


KILLED_AT = """
import sys, os, signal, threading
from pathlib import Path
from redvsblue_telemetry import *
from tests.support.kills import die

url, journal, moment = sys.argv[1], sys.argv[2], int(sys.argv[3])
session = os.listdir(journal)[0]
count, lock = 0, threading.Lock()

def hook(event, arguments):
    "Die just before the n-th operation on the dead run's files."
    global count
    if event in OPERATIONS and any(session in str(each) for each in arguments[:2]):
        with lock:
            count += 1
            if count == moment:
                die()

OPERATIONS = {"open", "os.remove", "os.rename", "os.rmdir", "os.listdir", "os.scandir"}
sys.addaudithook(hook)

def review(event):
    return None if event.data["n"] % 10 == 0 else event

telemetry = start_telemetry(
    enabled=True, url=url, journal=journal, before_send=review, drain_interval=0.01, batch_size=20
)
import time
deadline = time.monotonic() + 30
while os.path.exists(os.path.join(journal, session)):
    assert time.monotonic() < deadline
    time.sleep(0.002)
telemetry.stop(5)
print(count)
"""


@pytest.mark.parametrize("moment", range(3, 49, 5))  # the last one is after the end
def test_an_adopter_that_is_killed_at_any_operation_leaves_the_next_one_the_truth(
    moment: int, journal: Path, server: RecordingServer
) -> None:
    session = "f" * 32  # as the SDK names them
    write_run(
        journal,
        Segment(records=records(1, 60), session_id=session, is_full=True, indexed=60),
        Segment(number=2, first=61, records=records(61, 50), session_id=session),
        Segment(number=3, has_base=False, session_id=session),  # a spare one
        name=session,
    )
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, server.url, str(journal), str(moment)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode in (0, KILLED), done.stderr
    if done.returncode == 0:
        assert int(done.stdout) < moment
    with made(
        journal,
        server.url,
        before_send=lambda event: None if event.data.get("n", 0) % 10 == 0 else event,
    ) as telemetry:
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTED)
        assert wait_until(lambda: len(list(journal.glob("*/"))) == 1)
    assert files(journal) == []
    arrived = {event["seq"] for event in server.events}
    assert arrived == {number for number in range(1, 111) if number % 10}
    newer = sorted(reports_of(server, session), key=lambda r: (r["startedAt"], r["number"]))
    newest = newer[-1]
    assert newest["gaps"] == [[n, n, "filtered"] for n in range(10, 111, 10)]
    assert newest["dropped"] == {"filtered": 11}
    assert (newest["reason"], newest["delivered"]) == ("killed", 99)
