"""The life of a client with a journal: kills, starts, stops, the toggle, consent, children."""

from __future__ import annotations

import copy
import importlib
import logging
import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry import (
    ConnectionState,
    Telemetry,
    TelemetryEvent,
    TelemetrySettings,
    _process,
    get_telemetry,
    start_telemetry,
    stop_telemetry,
)
from redvsblue_telemetry._delivery import worker
from redvsblue_telemetry._journal.store import JournalStore
from redvsblue_telemetry.testing import RecordingServer, record_events
from tests.client.test_fork import FORK, needs_fork
from tests.client.test_lifecycle import SlowToEncode, at_once
from tests.support import REPOSITORY
from tests.support.fault_proxy import FaultProxy
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
from tests.support.systems import IS_WINDOWS
from tests.support.wait import wait_until

AT_ONCE = 0.1  # seconds in which nothing is left on disk after a no
SOON = 5.0  # seconds, on a machine that has other things to do; a stuck worker takes longer
QUICK: dict[str, Any] = {"enabled": True, "backoff_base": 0.02, "backoff_max": 0.1}
PATIENT: dict[str, Any] = {"enabled": True, "backoff_base": 600, "backoff_max": 600}


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "games" / "journal"


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


def numbers(server: RecordingServer, session: str) -> list[int]:
    return [event["seq"] for event in server.events if event["sessionId"] == session]


# Kills.


def test_the_next_start_delivers_what_a_kill_left_as_it_was_emitted(
    journal: Path, server: RecordingServer
) -> None:
    script = """
telemetry.emit("round_start", {"map": "moon"})
telemetry.push(TelemetryEvent(type="given", timestamp=5, id="mine", seq=77, session_id="other"))
telemetry.emit("round_end", winner="red", text='][1,"x"')
print(telemetry.session_id, telemetry._codec.run)
die()
"""
    since = time.time_ns() // 1_000_000
    session, run = played(journal, script, version="1.4.2").split()
    until = time.time_ns() // 1_000_000
    telemetry = made(journal, server.url).start()
    assert has_recovered(telemetry, 3)
    first, second, third = server.events
    common = {"sessionId": session, "version": "1.4.2"}
    timestamps = [event.pop("timestamp") for event in (first, second, third)]
    assert since <= timestamps[0] <= timestamps[2] <= until
    assert timestamps[1] == 5
    assert first == {
        **common,
        "id": f"{run}-1",
        "seq": 1,
        "type": "round_start",
        "data": {"map": "moon"},
    }
    assert second == {
        "version": "1.4.2",
        "sessionId": "other",
        "id": "mine",
        "seq": 77,
        "type": "given",
        "data": {},
    }
    assert third == {
        **common,
        "id": f"{run}-3",
        "seq": 3,
        "type": "round_end",
        "data": {"winner": "red", "text": '][1,"x"'},
    }
    stats = telemetry.stats()
    assert (stats.emitted, stats.recovered, stats.delivered) == (0, 3, 3)
    assert is_balanced(stats)
    assert wait_until(lambda: not (journal / session).exists())
    assert telemetry.stop(5)
    assert files(journal) == []


def test_a_kill_repeats_only_what_was_not_confirmed(journal: Path, server: RecordingServer) -> None:
    script = """
for number in range(3000):
    telemetry.emit("confirmed")
assert telemetry.flush(20)
while telemetry._journal.store._confirmed_on_disk < 3000:
    time.sleep(0.01)
telemetry.set_online(False)
while telemetry.stats().state.name != "OFFLINE":
    time.sleep(0.01)
for number in range(10):
    telemetry.emit("waiting")
print(telemetry.session_id)
die()
"""
    session = played(journal, script, url=server.url).strip()
    assert numbers(server, session) == list(range(1, 3001))
    with made(journal, server.url) as telemetry:
        assert has_recovered(telemetry, 10)
        assert telemetry.stats().recovered == 10
        assert numbers(server, session) == list(range(1, 3011))


ENDS = {  # the exit codes; an abort has two on Windows, since only some have fail-fast exceptions
    "os._exit(0)": {0},
    "os.abort()": {3, 0xC0000409} if IS_WINDOWS else {-6},
    "faulthandler._read_null()": {0xC0000005 if IS_WINDOWS else -11},
}


@pytest.mark.parametrize("ending", ENDS)
def test_other_ends_lose_nothing_either(
    ending: str, journal: Path, server: RecordingServer
) -> None:
    script = f"""
import faulthandler
for number in range(50):
    telemetry.emit("last")
{ending}
"""
    played(journal, script, codes=ENDS[ending])
    with made(journal, server.url) as telemetry:
        assert has_recovered(telemetry, 50)
        assert [event["seq"] for event in server.events] == list(range(1, 51))


@pytest.mark.parametrize("seed", range(2))
def test_after_kills_each_number_has_come_or_has_its_reason(
    seed: int, journal: Path, server: RecordingServer
) -> None:
    script = """
import random, threading
rng = random.Random(SETTINGS["session_id"])
killer = threading.Timer(rng.uniform(0.05, 1.0), die)
number, size = 0, 2000  # at first more than there is room for, however slow the machine is
while True:
    for _ in range(size):
        number += 1
        telemetry.emit("hit", n=number)
    if not killer.is_alive():
        killer.start()
    size = rng.choice((1, 30, 900))
    time.sleep(rng.uniform(0, 0.05))
"""
    review = "SETTINGS['before_send'] = lambda e: None if e.data['n'] % 7 == 0 else e"
    sessions = [f"{seed}-{place}" for place in range(4)]
    for session in sessions:
        settings: dict[str, Any] = {"capacity": 500, "drain_interval": 0.02, "batch_size": 20}
        command = game(journal, script, url=server.url, session_id=session, **settings)
        command[4] = command[4].replace("\n", f"\n{review}\n", 1)
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == KILLED, done.stderr
    with made(
        journal, server.url, before_send=lambda e: None if e.data["n"] % 7 == 0 else e
    ) as telemetry:
        assert wait_until(lambda: len(list(journal.glob("*/"))) == 1, 30)
        assert telemetry.stats().in_flight == 0
    overflown = 0
    for session in sessions:
        report = max(
            (each for each in server.reports if each["sessionId"] == session),
            key=lambda each: each["number"],
        )
        arrived = set(numbers(server, session))
        missing = {
            number: reason
            for first, last, reason in report["gaps"]
            for number in range(first, last + 1)
        }
        assert (report["state"], report["reason"]) == ("ended", "killed")
        assert arrived | missing.keys() == set(range(1, report["lastSeq"] + 1))
        assert not arrived & missing.keys()
        assert report["delivered"] == len(arrived)
        assert report["emitted"] == report["lastSeq"]
        counts = Counter(missing.values())
        assert counts == report["dropped"]
        assert set(counts) <= {"overflow", "filtered"}
        assert {n for n, reason in missing.items() if reason == "filtered"} <= {
            *range(7, report["lastSeq"] + 1, 7)
        }
        overflown += counts["overflow"]
    assert overflown > 0


def test_two_dead_runs_are_delivered_the_older_one_first(
    journal: Path, server: RecordingServer
) -> None:
    older = killed(journal, 120, session_id="z-older")
    newer = killed(journal, 120, session_id="a-newer")
    with made(journal, server.url) as telemetry:
        telemetry.emit("new")
        assert has_recovered(telemetry, 240)
        assert telemetry.flush(10)
        old = [event for event in server.events if event["type"] == "old"]
        assert [event["sessionId"] for event in old] == [older] * 120 + [newer] * 120
        assert numbers(server, older) == numbers(server, newer) == list(range(1, 121))
        assert numbers(server, telemetry.session_id) == [1]


def test_one_session_id_twice_is_two_runs(journal: Path, server: RecordingServer) -> None:
    for count in (3, 4):
        killed(journal, count, session_id="same")
    with made(journal, server.url, session_id="same") as telemetry:
        telemetry.emit("new")
        assert has_recovered(telemetry, 7)
        assert telemetry.flush(10)
        assert sorted(numbers(server, "same")) == [1, 1, 1, 2, 2, 3, 3, 4]
        assert len({event["id"] for event in server.events}) == 8


def test_one_info_line_counts_what_was_recovered(
    journal: Path, server: RecordingServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    killed(journal, 5)
    killed(journal, 7)
    with made(journal, server.url) as telemetry:
        assert has_recovered(telemetry, 12)
        assert wait_until(lambda: "recovered" in caplog.text)
    lines = [record.getMessage() for record in caplog.records if "recovered" in record.msg]
    assert lines == ["telemetry recovered 12 events of 2 earlier runs"]


# Several processes.


def test_a_run_that_lives_is_not_touched(journal: Path, server: RecordingServer) -> None:
    living = made(journal, **PATIENT).start()
    for _ in range(10):
        living.emit("of the living")
    before = [path for path in files(journal) if path.suffix != ".new"]  # not there for long
    with made(journal, server.url) as other:
        other.emit("of the other")
        assert other.flush(10)
    assert other.stats().recovered == 0
    with made(journal, server.url, session_id="third") as third:
        third.enabled = False
    assert [event["type"] for event in server.events] == ["of the other"]
    assert set(before) <= set(files(journal))
    assert {path.parent for path in files(journal)} == {path.parent for path in before}
    assert not living.stop(0.1)
    assert is_stopped(living)
    with made(journal, server.url) as heir:
        assert has_recovered(heir, 10)


def test_a_run_that_ends_later_in_this_process_is_taken_over_then(
    journal: Path, server: RecordingServer
) -> None:
    earlier = made(journal, **PATIENT).start()
    for _ in range(10):
        earlier.emit("of the earlier one")
    with made(journal, server.url) as telemetry:
        telemetry.emit("of the later one")
        assert telemetry.flush(10)
        assert telemetry.stats().recovered == 0
        assert not earlier.stop(0.1)
        assert has_recovered(telemetry, 10)
        assert telemetry.flush(10)
    assert len(server.events) == 11


# Ends.


def test_a_run_that_ended_well_leaves_nothing(journal: Path, server: RecordingServer) -> None:
    with made(journal, server.url) as telemetry:
        for _ in range(5000):
            telemetry.emit("hit", text="x" * 200)
    assert telemetry.stats().delivered == 5000
    assert files(journal) == []


def test_what_a_stop_could_not_confirm_waits_for_the_next_start(
    journal: Path, server: RecordingServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    telemetry = made(journal).start()
    for _ in range(2000):
        telemetry.emit("hit")
    assert telemetry.stop(0.2) is False
    assert is_stopped(telemetry)
    assert telemetry.stop() is False
    stats = telemetry.stats()
    assert (stats.buffered, stats.in_flight, stats.dropped) == (2000, 0, 0)
    assert is_balanced(stats)
    line = "telemetry stopped: 0 events delivered, 0 left behind, 2000 kept"
    assert wait_until(lambda: line in caplog.text)  # it comes after the state
    with made(journal, server.url) as heir:
        assert has_recovered(heir, 2000)
        assert numbers(server, telemetry.session_id) == list(range(1, 2001))
    assert files(journal) == []


def test_what_was_in_flight_at_a_stop_waits_for_the_next_start(journal: Path) -> None:
    # The first connection confirms nothing; the next are those of a server that works.
    with (
        RecordingServer(encodings=()) as server,
        FaultProxy(server.port, first_takes=2000) as proxy,
    ):
        telemetry = made(journal, proxy.url, drain_interval=0.01).start()
        for _ in range(500):
            telemetry.emit("hit", text="x" * 500)
        assert wait_until(lambda: proxy.has_stalled)
        assert wait_until(lambda: telemetry.stats().in_flight > 0)
        assert telemetry.stop(0.2) is False
        assert is_stopped(telemetry)
        stats = telemetry.stats()
        assert (stats.buffered, stats.in_flight, dropped(telemetry)) == (500, 0, {})
        assert is_balanced(stats)
        with made(journal, server.url) as heir:
            assert has_recovered(heir, 500)
            assert set(numbers(server, telemetry.session_id)) == set(range(1, 501))


def test_a_start_and_a_stop_at_once_deliver_a_small_run(
    journal: Path, server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = killed(journal, 20)
    monkeypatch.setattr(worker, "_RECOVERED_GRACE", 60.0)  # a quarter of a second on a busy machine
    assert made(journal, server.url).start().stop(60)
    assert numbers(server, session) == list(range(1, 21))
    assert files(journal) == []


def test_an_emit_that_ends_after_the_stop_is_left_behind(
    journal: Path, server: RecordingServer
) -> None:
    slow = SlowToEncode()
    telemetry = made(journal, server.url).start()

    def stop() -> None:
        assert slow.is_begun.wait(20)
        telemetry.stop(5)
        slow.may_end.set()

    at_once(lambda: telemetry.emit("slow", it=slow), stop)
    assert is_stopped(telemetry)
    assert dropped(telemetry) == {"left_behind": 1}
    assert is_balanced(telemetry.stats())
    assert not list(journal.rglob("*.events"))


# Starts that are off.


@pytest.mark.parametrize(
    ("variable", "value", "settings"),
    [
        ("REDVSBLUE_ENABLE_TELEMETRY", "false", {"enabled": True}),
        ("DO_NOT_TRACK", "1", {"enabled": True}),
        ("UNRELATED", "1", {"enabled": False}),
        ("UNRELATED", "1", {}),
    ],
    ids=["kill switch", "do not track", "keyword", "default"],
)
@pytest.mark.parametrize("is_variable", [False, True], ids=["keyword", "variable"])
def test_a_start_that_is_off_erases_dead_runs(
    variable: str,
    value: str,
    settings: dict[str, Any],
    is_variable: bool,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed(journal, 10)
    monkeypatch.setenv(variable, value)
    if is_variable:
        monkeypatch.setenv("REDVSBLUE_TELEMETRY_JOURNAL", str(journal))
    else:
        settings = {**settings, "journal": journal}
    assert files(journal)
    assert not start_telemetry(**settings).enabled
    assert not journal.exists()
    killed(journal, 10)  # and once more, though the settings are the same
    assert not start_telemetry(**settings).enabled
    assert not journal.exists()


def test_a_wrong_environment_erases_nothing(
    journal: Path, monkeypatch: pytest.MonkeyPatch, server: RecordingServer
) -> None:
    killed(journal, 10)
    with monkeypatch.context() as environment:
        environment.setenv("REDVSBLUE_TELEMETRY_CAPACITY", "many")
        for _ in range(2):
            assert not start_telemetry(enabled=True, journal=journal).enabled
    telemetry = start_telemetry(**QUICK, journal=journal, url=server.url)
    assert has_recovered(telemetry, 10)


def test_a_start_without_a_journal_touches_nothing(journal: Path, server: RecordingServer) -> None:
    killed(journal, 10)
    before = files(journal)
    assert not start_telemetry(enabled=False).enabled
    telemetry = start_telemetry(**QUICK, url=server.url)
    telemetry.emit("x")
    telemetry.enabled = False
    assert stop_telemetry(5)
    assert files(journal) == before
    assert server.events == []


def test_a_start_that_is_off_makes_no_directory(journal: Path) -> None:
    assert not start_telemetry(enabled=False, journal=journal).enabled
    assert not journal.parent.exists()


# The toggle.


def no(telemetry: Telemetry) -> float:
    """Switch it off; return how many seconds that took."""
    since = time.monotonic()
    telemetry.enabled = False
    return time.monotonic() - since


def is_erased(journal: Path) -> bool:
    """At once, but on Windows a file that the worker is syncing is deleted after that."""
    return not journal.exists() or (IS_WINDOWS and wait_until(lambda: not journal.exists()))


def test_a_no_erases_all_at_once(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    killed(journal, 10)
    telemetry = made(journal).start()
    for _ in range(3000):
        telemetry.emit("hit", text="x" * 200)
    assert no(telemetry) < SOON
    assert is_erased(journal)
    assert wait_until(lambda: telemetry.stats().buffered == 0)
    assert dropped(telemetry) == {"switched_off": 3000}
    assert is_balanced(telemetry.stats())
    telemetry.emit("while off")
    assert telemetry.stop(5)
    assert is_stopped(telemetry)
    assert not journal.exists()
    assert not [record for record in caplog.records if "journal" in record.msg]


def test_erasing_takes_no_longer_than_a_tenth_of_a_second(journal: Path, tmp_path: Path) -> None:
    def seconds(attempt: int) -> float:
        path = tmp_path / str(attempt)
        shutil.copytree(journal, path)
        telemetry = made(path).start()
        for _ in range(3000):
            telemetry.emit("hit", text="x" * 200)
        since = time.monotonic()
        telemetry._erase_journal()  # without the wait for the worker that follows
        took = time.monotonic() - since
        assert is_erased(path)
        telemetry.enabled = False
        assert telemetry.stop(5)
        shutil.copytree(journal, path)
        since = time.monotonic()
        start_telemetry(enabled=False, journal=path)
        assert not path.exists()
        return max(took, time.monotonic() - since)

    script = 'for n in range(20_000): telemetry.emit("old", text="x" * 200)\ndie()'
    for _ in range(3):
        played(journal, script)
    # The best of a few, as the machine may be busy.
    assert any(seconds(attempt) < AT_ONCE for attempt in range(10))


def test_a_no_erases_all_while_the_worker_is_stuck_in_a_callback(
    journal: Path, server: RecordingServer
) -> None:
    killed(journal, 200)
    is_begun, may_end = threading.Event(), threading.Event()

    def review(event: TelemetryEvent) -> TelemetryEvent:
        if event.type == "old":
            is_begun.set()
            assert may_end.wait(40)
        return event

    telemetry = made(journal, server.url, before_send=review).start()
    assert is_begun.wait(20)  # it has taken a batch of the old run
    for _ in range(10):
        telemetry.emit("hit")
    assert no(telemetry) < SOON
    assert not journal.exists()
    telemetry.enabled = True
    telemetry.emit("after")
    may_end.set()
    assert telemetry.flush(10)
    assert [event["type"] for event in server.events] == ["after"]
    assert [event["seq"] for event in server.events] == [11]
    assert is_balanced(telemetry.stats())
    assert telemetry.stop(5)
    assert files(journal) == []


def test_a_no_erases_all_while_the_worker_is_stuck_in_a_name_look_up(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(journal, 10)
    is_begun, may_end = threading.Event(), threading.Event()

    def look_up(*_: Any, **__: Any) -> Any:
        is_begun.set()
        assert may_end.wait(20)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    telemetry = made(journal, "ws://game.invalid/").start()
    telemetry.emit("hit")
    assert is_begun.wait(20)
    assert no(telemetry) < SOON
    assert not journal.exists()
    may_end.set()
    assert telemetry.stop(5)
    assert is_stopped(telemetry)
    assert not journal.exists()


def test_a_no_while_a_stop_delivers_leaves_nothing(journal: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        telemetry = made(journal, f"ws://127.0.0.1:{silent.getsockname()[1]}/").start()
        telemetry.emit("hit")
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTING)

        def say_no() -> None:
            assert wait_until(lambda: not telemetry.is_running)
            telemetry.enabled = False

        at_once(lambda: telemetry.stop(60), say_no)
    assert is_stopped(telemetry)
    assert files(journal) == []
    assert dropped(telemetry) == {"switched_off": 1}


def test_a_no_after_the_stop_erases_what_it_left(journal: Path) -> None:
    telemetry = made(journal).start()
    telemetry.emit("hit")
    assert not telemetry.stop(0.1)
    assert is_stopped(telemetry)
    assert files(journal)
    telemetry.enabled = False
    assert not journal.exists()


@pytest.mark.parametrize("step", ["close", "in_files"])
def test_a_no_while_the_worker_closes_the_journal_leaves_nothing(
    journal: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    telemetry = made(journal, **PATIENT).start()
    telemetry.emit("hit")
    has_begun, may_go_on = threading.Event(), threading.Event()
    method = getattr(JournalStore, step)

    def delayed(store: JournalStore, **arguments: Any) -> Any:
        has_begun.set()
        assert may_go_on.wait(20)
        return method(store, **arguments)

    monkeypatch.setattr(JournalStore, step, delayed)
    assert not telemetry.stop(0.1)
    assert has_begun.wait(20)
    telemetry.enabled = False
    may_go_on.set()
    assert is_stopped(telemetry)
    assert files(journal) == []


def test_a_no_before_the_start_erases_dead_runs(journal: Path) -> None:
    killed(journal, 10)
    telemetry = made(journal)
    telemetry.enabled = False
    assert not journal.exists()


def test_after_a_no_and_a_yes_the_numbers_go_on_and_only_what_came_after_is_kept(
    journal: Path, server: RecordingServer
) -> None:
    script = """
for number in range(5):
    telemetry.emit("before")
telemetry.enabled = False
telemetry.emit("while off")
telemetry.enabled = True
for number in range(5):
    telemetry.emit("after")
print(telemetry.session_id)
die()
"""
    session = played(journal, script).strip()
    with made(journal, server.url) as telemetry:
        assert has_recovered(telemetry, 5)
        events = [(event["sessionId"], event["seq"], event["type"]) for event in server.events]
        assert events == [(session, number, "after") for number in range(6, 11)]


# Consent.


def test_a_client_that_is_not_started_writes_nothing_and_a_yes_starts_it(
    journal: Path, server: RecordingServer
) -> None:
    telemetry = made(journal, server.url)
    telemetry.emit("too early")
    assert not journal.parent.exists()
    telemetry.enabled = True
    telemetry.emit("hit")
    assert files(journal)
    assert telemetry.flush(10)
    assert [event["type"] for event in server.events] == ["hit"]
    assert telemetry.stop(5)
    assert files(journal) == []


def test_events_before_the_consent_can_be_kept_by_the_game(
    journal: Path, server: RecordingServer
) -> None:
    telemetry = made(journal, server.url)
    before: list[TelemetryEvent] = []
    for number in range(3):
        event = TelemetryEvent("menu", {"n": number}, timestamp=1_700_000_000_000 + number)
        before.append(event)
    assert not journal.parent.exists()
    telemetry.enabled = True
    for event in before:
        telemetry.push(event)
    telemetry.emit("play")
    assert telemetry.flush(10)
    got = [(event["type"], event["seq"], event["timestamp"]) for event in server.events]
    assert got[:3] == [("menu", n + 1, 1_700_000_000_000 + n) for n in range(3)]
    assert got[3][:2] == ("play", 4)
    assert telemetry.stop(5)


# Children.


@needs_fork
def test_a_forked_child_has_a_run_of_its_own(journal: Path, server: RecordingServer) -> None:
    script = f"""{FORK}
for number in range(10):
    telemetry.emit("parent")
before = sorted(os.listdir(journal))
def idle():
    return 0 if sorted(os.listdir(journal)) == before else 3
assert ended(forked(idle)) == 0
def play_and_die():
    for number in range(10):
        telemetry.emit("child")
    die()
child = os.fork()
if child == 0:
    play_and_die()
os.waitpid(child, 0)
assert len(os.listdir(journal)) == 2
for number in range(10):
    telemetry.emit("parent")
print(telemetry.session_id)
die()
"""
    session = played(journal, script).strip()
    with made(journal, server.url) as telemetry:
        assert has_recovered(telemetry, 30)
    assert numbers(server, session) == list(range(1, 21))
    children = [event for event in server.events if event["type"] == "child"]
    assert [event["seq"] for event in children] == list(range(1, 11))
    assert session not in {event["sessionId"] for event in children}
    assert files(journal) == []


@needs_fork
@pytest.mark.parametrize("ending", ["os._exit(0)", "telemetry.stop(20); os._exit(0)", "die()"])
def test_the_end_of_a_child_leaves_the_parents_run_and_its_lock_alone(
    ending: str, journal: Path, server: RecordingServer
) -> None:
    script = f"""{FORK}
for number in range(10):
    telemetry.emit("parent")
def child():
    telemetry.emit("child")
    {ending}
os.waitpid(forked(child), 0)
# Another process may not take the parent for dead.
import subprocess
other = '''
import sys
from redvsblue_telemetry import *
telemetry = start_telemetry(enabled=True, journal=sys.argv[1], url=sys.argv[2])
sys.exit(not telemetry.stop(20))
'''
assert subprocess.run([sys.executable, "-c", other, journal, OTHER]).returncode == 0
telemetry.emit("parent")
print(telemetry.session_id)
die()
"""
    script = f"OTHER = {server.url!r}\n{script}"
    session = played(journal, script).strip()
    assert "parent" not in {event["type"] for event in server.events}
    with made(journal, server.url) as telemetry:
        assert has_recovered(telemetry, 11)
    assert numbers(server, session) == list(range(1, 12))


@pytest.mark.parametrize("method", sorted(set(multiprocessing.get_all_start_methods())))
def test_children_of_multiprocessing_have_runs_of_their_own(
    method: str, journal: Path, server: RecordingServer, tmp_path: Path
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        encoding="utf-8",
        data=f"""
import multiprocessing
from redvsblue_telemetry import *
from tests.support.kills import die
def start():
    return start_telemetry(
        enabled=True, journal={str(journal)!r}, url={NOWHERE!r}, session_id="given",
        backoff_base=600,
    )
def play(number):
    telemetry = start()
    for _ in range(20):
        telemetry.emit("child", n=number)
    die()
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    telemetry = start()
    children = [context.Process(target=play, args=(n,)) for n in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    telemetry.emit("parent")
    die()
""",
    )
    from tests.client.test_process import end_of, play

    end_of(play(script))
    with made(journal, server.url) as telemetry:
        assert has_recovered(telemetry, 61)
    for number in range(3):
        of_child = [event for event in server.events if event["data"] == {"n": number}]
        assert [event["seq"] for event in of_child] == list(range(1, 21))
        assert len({event["id"] for event in of_child}) == 20
    assert len({event["id"] for event in server.events}) == 61


# Copies, reloads, recordings.


def test_a_running_client_with_a_journal_survives_reloads_and_pickling(
    journal: Path, server: RecordingServer
) -> None:
    telemetry = start_telemetry(**QUICK, journal=journal, url=server.url)
    telemetry.emit("before")
    importlib.reload(_process)
    assert get_telemetry() is telemetry
    assert copy.deepcopy(telemetry) is telemetry
    assert pickle.loads(pickle.dumps(telemetry)) is telemetry
    assert pickle.loads(pickle.dumps(telemetry.settings.journal)) == journal
    telemetry.emit("after")
    assert telemetry.flush(10)
    assert [event["type"] for event in server.events] == ["before", "after"]
    assert stop_telemetry(5)
    assert files(journal) == []


def test_a_recording_has_no_journal(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDVSBLUE_TELEMETRY_JOURNAL", str(journal))
    with record_events(journal=journal) as events:
        telemetry = start_telemetry(enabled=True, journal=journal)
        telemetry.emit("hit")
        assert events == ["hit"]
        telemetry.enabled = False
    assert not journal.parent.exists()


def test_a_relative_directory_counts_from_where_the_client_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    telemetry = made(Path("runs"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with telemetry:
        telemetry.emit("hit")
        assert (tmp_path / "runs" / telemetry.session_id).is_dir()
        telemetry.enabled = False
        assert sorted(os.listdir(tmp_path)) == ["elsewhere"]


# Trouble, and its end.


def test_a_file_in_place_of_the_directory_is_one_warning_and_memory_only(
    tmp_path: Path, server: RecordingServer, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    telemetry = made(path, server.url).start()
    for _ in range(10):
        telemetry.emit("hit")
    assert telemetry.flush(10)
    assert telemetry.stats().delivered == 10
    assert telemetry.stop(5)
    assert path.read_text() == "mine"
    (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert str(path) in line
    assert line.endswith("events are kept in memory only")


def test_in_memory_only_the_capacity_holds_and_a_stop_leaves_events_behind(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    telemetry = made(path, capacity=100).start()
    for _ in range(150):
        telemetry.emit("hit")
    assert (telemetry.stats().buffered, dropped(telemetry)) == (100, {"overflow": 50})
    assert not telemetry.stop(0.1)
    assert is_stopped(telemetry)
    assert dropped(telemetry) == {"overflow": 50, "left_behind": 100}
    assert is_balanced(telemetry.stats())


def test_an_internal_error_in_the_upkeep_of_the_journal_does_not_stop_the_delivery(
    journal: Path,
    server: RecordingServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(JournalStore, "maintain", fail)
    with made(journal, server.url, drain_interval=0.01) as telemetry:
        for _ in range(3):
            telemetry.emit("hit")
            assert telemetry.flush(10)
    assert len(server.events) == 3
    assert caplog.text.count("internal error") == 1
    assert files(journal) == []


def test_with_a_journal_only_a_capacity_that_was_set_is_a_limit(journal: Path) -> None:
    with made(journal) as telemetry:
        for _ in range(6000):
            telemetry.emit("hit")
        assert (telemetry.stats().buffered, telemetry.stats().dropped) == (6000, 0)
        telemetry.enabled = False
    with made(journal, capacity=5000) as telemetry:
        for _ in range(6000):
            telemetry.emit("hit")
        assert (telemetry.stats().buffered, dropped(telemetry)) == (5000, {"overflow": 1000})
        telemetry.enabled = False


@pytest.mark.parametrize("is_just_started", [False, True])
def test_a_stop_notes_what_was_confirmed_last(
    journal: Path, server: RecordingServer, *, is_just_started: bool
) -> None:
    telemetry = made(journal, server.url).start()
    if not is_just_started:
        time.sleep(1)  # the first sync is over
    for _ in range(50):
        telemetry.emit("hit")
    assert telemetry.flush(10)
    telemetry.set_online(False)
    assert wait_until(lambda: telemetry.stats().state is ConnectionState.OFFLINE)
    for _ in range(5):
        telemetry.emit("hit")
    assert not telemetry.stop(0.1)
    assert is_stopped(telemetry)
    with made(journal, server.url) as other:
        assert has_recovered(other, 5)
    assert numbers(server, telemetry.session_id) == list(range(1, 56))


def test_an_event_that_was_dropped_does_not_come_back(
    journal: Path, server: RecordingServer
) -> None:
    telemetry = made(journal, capacity=10).start()
    for _ in range(100):
        telemetry.emit("hit")
    assert not telemetry.stop(0.1)
    assert is_stopped(telemetry)
    assert (telemetry.stats().buffered, dropped(telemetry)) == (10, {"overflow": 90})
    with made(journal, server.url) as other:
        assert has_recovered(other, 10)
        assert other.stats().recovered == 10
    assert numbers(server, telemetry.session_id) == list(range(91, 101))


def test_the_toggle_does_not_wait_for_a_slow_disk(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_syncing, may_go_on = threading.Event(), threading.Event()

    def sync_slowly(_: int) -> None:
        is_syncing.set()
        may_go_on.wait(4 * SOON)

    with made(journal) as telemetry:
        monkeypatch.setattr("redvsblue_telemetry._journal.segment._sync_data", sync_slowly)
        telemetry.emit("hit")
        assert is_syncing.wait(20)
        since = time.monotonic()
        telemetry.enabled = False
        took = time.monotonic() - since
        left = files(journal)
        may_go_on.set()
        assert took < SOON
        if IS_WINDOWS:  # a file that is being synced can't be deleted before
            assert wait_until(lambda: not list(journal.rglob("*.events")))
        else:
            assert left == []


def test_a_stop_and_a_new_start_in_one_process_hand_over(
    journal: Path, server: RecordingServer
) -> None:
    first = start_telemetry(**QUICK, journal=journal, url=NOWHERE)
    first.emit("first")
    assert not stop_telemetry(0.1)
    assert is_stopped(first)
    second = start_telemetry(**QUICK, journal=journal, url=server.url)
    second.emit("second")
    assert has_recovered(second, 1)
    assert second.flush(10)
    assert sorted(event["type"] for event in server.events) == ["first", "second"]
