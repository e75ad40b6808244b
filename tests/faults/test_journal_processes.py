"""Many games in one journal directory: they start, die and take over at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.test_journal_disk import FLUSHED, next_start_is_well
from tests.support.collector import RunningCollector, collector_running
from tests.support.games import (
    GAME,
    OFFLINE,
    PLAY,
    Game,
    all_numbers,
    all_of,
    contents,
    nowhere,
    numbers,
    run_game,
)
from tests.support.kills import KILLED
from tests.support.systems import needs_fork
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(240)  # several processes, one after the other


@pytest.fixture
def collector() -> Iterator[RunningCollector]:
    with collector_running() as collector:
        yield collector


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


WAVE = """
import random
randomness = random.Random(int(sys.argv[3]))
telemetry = start_telemetry(**settings)
say(telemetry.session_id)
for number in range(300):
    telemetry.emit("wave", n=number, text="x" * 100)
    if randomness.random() < 0.05:
        time.sleep(randomness.random() * 0.02)
ending = sys.argv[4]
if ending == "kill":
    die()
elif ending == "_exit":
    os._exit(0)
elif ending == "impatient":
    telemetry.stop(0.001)
elif ending == "stop":
    telemetry.stop(30)
"""
ENDINGS = {"kill": KILLED, "_exit": 0, "impatient": 0, "stop": 0, "end": 0}
CLEAN_UP = """
wait_for(lambda: len([path for path in found() if os.sep not in path]) <= 1, 90)
wait_for(lambda: not balance().buffered)
"""


@pytest.mark.slow
def test_ten_games_at_once_store_each_event_once(
    journal: Path, collector: RunningCollector
) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    chance = random.Random(seed)
    sessions = []
    for wave in range(3):
        with contextlib.ExitStack() as stack:
            games = []
            for number in range(10):
                ending = chance.choice([*ENDINGS, "kill"])
                game = Game(GAME + WAVE, collector.url, journal, seed * 100 + number, ending)
                games.append((stack.enter_context(game), ending))
            for game, ending in games:
                sessions.append(game.line())
                done = game.end()
                assert done.code == ENDINGS[ending], f"seed {seed}, {wave}: {done}"
                assert done.troubles == [], f"seed {seed}, {wave}: {done}"
    done = run_game(PLAY + CLEAN_UP + FLUSHED, collector.url, journal)
    assert done.code == 0, str(done)
    assert done.troubles == [], str(done)
    assert len(set(sessions)) == 30
    found = all_numbers(collector)
    stored = {session: found[session] for session in sessions}
    assert stored == dict.fromkeys(sessions, all_of(300)), f"seed {seed}"
    assert contents(journal) == []


def test_games_that_start_at_once_take_each_dead_run_once(
    journal: Path, collector: RunningCollector
) -> None:
    dying = "emit(300, each=1000)\nsay(telemetry.session_id)\ndie()"
    with contextlib.ExitStack() as stack:
        dead = [stack.enter_context(Game(OFFLINE + dying, nowhere(), journal)) for _ in range(10)]
        sessions = [game.line() for game in dead]
        for game in dead:
            assert game.end().troubles == []
    ready = 'say("ready")\nsys.stdin.readline()\n' + PLAY.removeprefix(GAME)
    finish = """
say("started")
sys.stdin.readline()
wait_for(lambda: not balance().in_flight)  # the acks of what the collector has
wait_for(lambda: telemetry._connector.adoption.is_done)  # and of the reports
stats = balance()
say(stats.recovered, stats.delivered)
telemetry.stop(30)
"""
    with contextlib.ExitStack() as stack:
        games = [
            stack.enter_context(Game(GAME + ready + finish, collector.url, journal))
            for _ in range(10)
        ]
        for game in games:
            game.expect("ready")
        for game in games:
            game.tell()
        for game in games:
            game.expect("started")
        assert wait_for_events(collector, 3000)
        recovered = 0
        for game in games:
            game.tell()
        for game in games:
            done = game.end()
            assert done.code == 0, str(done)
            assert done.troubles == [], str(done)
            counts = list(map(int, done.printed[-1].split()))
            assert counts[0] == counts[1], str(done)
            recovered += counts[0]
    assert recovered == 3000
    for session in sessions:
        assert numbers(collector, session) == all_of(300)
    # Those of the ten games that took over are there by their reports.
    assert {found.session_id for found in collector.sessions if found.events} == {*sessions}
    assert [found.repeats for found in collector.sessions] == [0] * 20
    assert contents(journal) == []


def wait_for_events(collector: RunningCollector, count: int) -> bool:
    return wait_until(lambda: collector.stats().events >= count, 60)


def test_two_clients_of_one_process_have_a_run_each(
    journal: Path, collector: RunningCollector
) -> None:
    script = """
clients = [Telemetry(TelemetrySettings(**settings)) for _ in range(2)]
for client in clients:
    client.set_online(False)
    client.start()
for number in range(300):
    for client in clients:
        client.emit("played", n=number)
assert len([path for path in found() if os.sep not in path]) == 2
say(*(client.session_id for client in clients))
if sys.argv[3] == "kill":
    die()
for client in clients:
    client.set_online(True)
    assert client.flush(30)
    assert client.stats().delivered == 300, client.stats()
for client in clients:
    assert client.stop(30)
"""
    for ending in ("stop", "kill"):
        done = run_game(GAME + script, collector.url, journal, ending)
        assert done.troubles == [], str(done)
        sessions = done.printed[0].split()
        expected = 600 if ending == "kill" else 0
        assert next_start_is_well(journal, collector) == expected
        for session in sessions:
            assert numbers(collector, session) == all_of(300)
        assert contents(journal) == []


def test_one_session_of_two_clients_has_two_runs(
    journal: Path, collector: RunningCollector
) -> None:
    script = """
clients = [Telemetry(TelemetrySettings(**settings, session_id="shared")) for _ in range(2)]
for client in clients:
    client.set_online(False)
    client.start()
    client.emit("played", n=1)
say(len([path for path in found() if os.sep not in path]))
die()
"""
    done = run_game(GAME + script, collector.url, journal)
    assert done.printed == ["2"], str(done)
    assert next_start_is_well(journal, collector) == 2
    assert contents(journal) == []


def test_the_next_telemetry_of_a_process_takes_over_what_a_stop_left(
    journal: Path, collector: RunningCollector
) -> None:
    script = """
emit(700, each=1000)
first = telemetry.session_id
assert not telemetry.stop(0.2)
assert (balance().buffered, telemetry.stats().dropped) == (700, 0), telemetry.stats()
telemetry = start_telemetry(**settings)
assert telemetry.session_id != first
emit(10)
wait_for(lambda: telemetry.stats().recovered == 700)
assert telemetry.flush(30)
wait_for(lambda: balance().delivered == 710)
wait_for(lambda: telemetry._connector.adoption.is_done)
say(first)
assert telemetry.stop(30)
assert found() == []
"""
    done = run_game(OFFLINE + script, collector.url, journal)
    assert done.code == 0, str(done)
    assert done.troubles == [], str(done)
    assert numbers(collector, done.printed[0]) == all_of(700)
    assert contents(journal) == []


def test_a_run_that_a_stop_left_is_taken_over_while_its_process_still_lives(
    journal: Path, collector: RunningCollector
) -> None:
    script = """
emit(100)
assert not telemetry.stop(0.2)
say(telemetry.session_id)
sys.stdin.readline()
"""
    with Game(OFFLINE + script, nowhere(), journal) as game:
        session = game.line()
        assert next_start_is_well(journal, collector) == 100
        assert numbers(collector, session) == all_of(100)
        game.tell()
        done = game.end()
        assert (done.code, done.troubles) == (0, []), str(done)
    assert contents(journal) == []


@needs_fork
@pytest.mark.parametrize("child", ["is silent", "emits"])
def test_a_child_that_lives_on_does_not_keep_its_dead_parents_run(
    child: str, journal: Path, collector: RunningCollector
) -> None:
    script = f"""
emit(100)
session = telemetry.session_id
reading, writing = os.pipe()
if os.fork():
    os.read(reading, 1)
    die()
if {child == "emits"}:
    emit(50)
say(session, telemetry.session_id)
os.write(writing, b".")
sys.stdin.readline()
die()
"""
    with Game(OFFLINE + script, nowhere(), journal) as game:
        parent, session = game.line().split()
        game.process.wait(30)
        living = 1 if child == "emits" else 0  # a silent one has no run
        assert next_start_is_well(journal, collector, staying=living) == 100
        assert numbers(collector, parent) == all_of(100)
        assert numbers(collector, session) == []  # it is alive
        game.tell()
        game.end()
    expected = 50 if child == "emits" else 0
    assert next_start_is_well(journal, collector) == expected
    assert numbers(collector, session) == all_of(expected)
    assert contents(journal) == []


@needs_fork
def test_a_fork_in_each_moment_loses_nothing_of_parent_or_child(
    journal: Path, collector: RunningCollector
) -> None:
    script = """
children = {}
for number in range(20):
    emit(137, each=1000, text="x" * 300)
    child = os.fork()
    if child == 0:
        emit(number * 20, each=1000)
        say(telemetry.session_id, number * 20)
        if number % 2:
            die()
        os._exit(0)
    os.waitpid(child, 0)
say(telemetry.session_id, 20 * 137)
die()
"""
    done = run_game(OFFLINE + script, nowhere(), journal)
    assert done.troubles == [], str(done)
    counts = {session: int(count) for session, count in map(str.split, done.printed)}
    assert len(counts) == 21
    total = sum(counts.values())
    assert next_start_is_well(journal, collector) == total
    for session, count in counts.items():
        assert numbers(collector, session) == all_of(count)
    assert contents(journal) == []


CHILDREN = """
import logging, multiprocessing, os, sys
from redvsblue_telemetry import emit, get_telemetry, start_telemetry
from tests.support.kills import KILLED, die

def simulate(match, settings):
    telemetry = start_telemetry(**settings)
    telemetry.set_online(False)
    for number in range(100):
        emit("match", match=match, n=number)
    os.write(1, f"{telemetry.session_id}\\n".encode())  # one call: the others do so, too
    die()

if __name__ == "__main__":
    method, url, journal, own = sys.argv[1:]
    context = multiprocessing.get_context(method)
    settings = {"enabled": True, "url": url, "journal": journal, "backoff_base": 0.05}
    if own == "inherited":
        start_telemetry(**settings)
        emit("parent")
    children = [context.Process(target=simulate, args=(n, settings)) for n in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [KILLED] * 3
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.parametrize("own", ["inherited", "own"])
def test_children_of_multiprocessing_that_are_killed(
    method: str, own: str, journal: Path, tmp_path: Path, collector: RunningCollector
) -> None:
    game = tmp_path / "game.py"
    game.write_text(CHILDREN, encoding="utf-8")
    script = f"""
import subprocess
sys.exit(subprocess.call([sys.executable, {str(game)!r}, {method!r}, url, journal, {own!r}]))
"""
    done = run_game(GAME + script, collector.url, journal)
    assert done.code == 0, str(done)
    assert len(set(done.printed)) == 3
    script = """
wait_for(lambda: len([path for path in found() if os.sep not in path]) <= 1)
emit(10)
"""
    ended = run_game(PLAY + script + FLUSHED, collector.url, journal)
    assert ended.code == 0, str(ended)
    for session in done.printed:
        # Online for a moment, it may have delivered the first of them itself.
        assert numbers(collector, session) == all_of(100)
    assert len(collector.events_of("parent")) == (own == "inherited")
    assert contents(journal) == []
