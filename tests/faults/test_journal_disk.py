"""A journal whose disk is full, or whose process may write or open no more."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.collector import RunningCollector, collector_running
from tests.support.games import (
    GAME,
    OFFLINE,
    PLAY,
    Disk,
    Ended,
    Game,
    all_numbers,
    all_of,
    contents,
    disk,
    leave_behind,
    numbers,
    run_game,
)
from tests.support.kills import KILLED
from tests.support.systems import IS_WINDOWS, needs_proc, not_on_windows

pytestmark = pytest.mark.timeout(240)  # several processes, one after the other

FULL = "No space left on device"
MEGABYTE = 2**20


def complaint(done: Ended, journal: Path, *reasons: str) -> str:
    """Return the one line that a game with a journal in trouble has logged."""
    assert len(done.troubles) == 1, str(done)
    (line,) = done.troubles
    assert line.startswith("WARNING redvsblue_telemetry: "), line
    assert str(journal) in line
    # Windows describes errors in the player's language, and in other words.
    assert IS_WINDOWS or any(reason in line for reason in reasons), line
    assert "memory" in line
    return line


@pytest.fixture
def collector() -> Iterator[RunningCollector]:
    with collector_running() as collector:
        yield collector


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Disk]:
    with disk(tmp_path) as small:
        yield small


FLUSHED = """
assert telemetry.flush(30)
wait_for(lambda: telemetry._connector.adoption.is_done)  # earlier runs are reported, too
wait_for(lambda: telemetry.stats().in_flight == 0)
say(telemetry.session_id)
stats = balance()
assert (stats.dropped, stats.buffered, stats.in_flight) == (0, 0, 0), stats
assert telemetry.stop(30)
"""


def next_start_is_well(
    journal: Path, collector: RunningCollector, *, staying: int = 0, **options: object
) -> int:
    """Run another game there, and return how many events of earlier ones it has delivered.

    Args:
        staying: how many runs are not to be taken over.
    """
    script = f"""
emit(10)
# All dead runs are gone, and its own is still there.
runs = lambda: [run for run in os.listdir(journal) if os.path.isdir(os.path.join(journal, run))]
wait_for(lambda: len(runs()) == 1 + {staying})
wait_for(lambda: balance().delivered == 10 + telemetry.stats().recovered)
{FLUSHED}
say(stats.recovered)
"""
    done = run_game(PLAY + script, collector.url, journal, **options)
    assert done.code == 0, str(done)
    assert done.troubles == [], str(done)
    session, recovered = done.printed
    assert numbers(collector, session) == all_of(10)
    return int(recovered)


# From nothing at all, by way of room for a first file but not for the next, to almost enough.
@pytest.mark.parametrize("kilobytes", [0, 4, 64, 300, 600, 1000, 1400, 2000])
def test_a_disk_that_is_full_at_the_start(
    kilobytes: int, small: Disk, collector: RunningCollector
) -> None:
    journal = small.path / "journal"
    small.fill(leave=kilobytes * 1024)
    # Offline, so that all of it has to be kept somewhere.
    script = """
emit(4000, each=10000, text="x" * 1000)
telemetry.set_online(True)
"""
    done = run_game(OFFLINE + script + FLUSHED, collector.url, journal, before=small.before)
    assert done.code == 0, str(done)
    complaint(done, journal, FULL)
    assert numbers(collector, done.printed[0]) == all_of(4000)
    small.free()
    assert next_start_is_well(journal, collector, before=small.before) == 0
    assert contents(small.outside / "journal") == []


def test_a_disk_that_fills_up_in_the_middle(small: Disk, collector: RunningCollector) -> None:
    journal = small.path / "journal"
    script = """
emit(500)
say("playing")
sys.stdin.readline()
emit(20_000, text="x" * 300)
"""
    with Game(PLAY + script + FLUSHED, collector.url, journal, before=small.before) as game:
        game.expect("playing")
        small.fill()
        game.tell()
        done = game.end()
    assert done.code == 0, str(done)
    complaint(done, journal, FULL)
    assert numbers(collector, done.printed[0]) == all_of(20_500)
    small.free()
    assert next_start_is_well(journal, collector, before=small.before) == 0


def test_what_was_on_the_disk_before_it_filled_up_outlives_a_kill(
    small: Disk, collector: RunningCollector
) -> None:
    journal = small.path / "journal"
    script = """
emit(1000, each=10000)
say(telemetry.session_id)
sys.stdin.readline()
emit(10_000, each=100_000, text="x" * 300)
say("full")
sys.stdin.readline()
"""
    with Game(OFFLINE + script, collector.url, journal, before=small.before) as game:
        session = game.line()
        small.fill()
        game.tell()
        game.expect("full")
        done = game.kill()
    assert done.code == KILLED
    complaint(done, journal, FULL)
    # The next start finds the disk as full as it was, and can deliver nevertheless.
    script = """
wait_for(lambda: telemetry.stats().recovered >= 1000)
emit(10)
wait_for(lambda: balance().delivered == 10 + telemetry.stats().recovered)
"""
    done = run_game(PLAY + script + FLUSHED, collector.url, journal, before=small.before)
    assert done.code == 0, str(done)
    # By then the files of the dead run may have made room for those of this one.
    assert len(done.troubles) <= 1, str(done)
    if done.troubles:
        complaint(done, journal, FULL)
    found = numbers(collector, session)
    assert len(found) >= 1000
    assert found == all_of(len(found))
    small.free()
    assert next_start_is_well(journal, collector, before=small.before) == 0


def test_a_disk_that_is_full_when_a_run_is_taken_over(
    small: Disk, collector: RunningCollector
) -> None:
    journal = small.path / "journal"
    sessions = [leave_behind(journal, 3000, before=small.before) for _ in range(2)]
    small.fill()
    script = """
emit(10)
wait_for(lambda: telemetry.stats().recovered == 6000)
"""
    done = run_game(PLAY + script + FLUSHED, collector.url, journal, before=small.before)
    assert done.code == 0, str(done)
    complaint(done, journal, FULL)
    for session in sessions:
        assert numbers(collector, session) == all_of(3000)
    repeats = {found.session_id: found.repeats for found in collector.sessions}
    small.free()
    assert next_start_is_well(journal, collector, before=small.before) == 0
    assert {found.session_id: found.repeats for found in collector.sessions if
            found.session_id in repeats} == repeats  # fmt: skip
    assert contents(small.outside / "journal") == []


def test_a_disk_that_fills_up_during_a_take_over_that_ends_in_a_kill(
    small: Disk, collector: RunningCollector
) -> None:
    journal = small.path / "journal"
    session = leave_behind(journal, 5000, before=small.before)
    script = """
def review(event):
    if event.data["n"] == 2500:
        say("half")
        sys.stdin.readline()
    return event
telemetry = start_telemetry(**settings, before_send=review)
time.sleep(25)
"""
    with Game(GAME + script, collector.url, journal, before=small.before) as game:
        game.expect("half")
        small.fill()
        game.kill()
    done = run_game(
        PLAY + "wait_for(lambda: telemetry.stats().recovered and not balance().buffered)" + FLUSHED,
        collector.url,
        journal,
        before=small.before,
    )
    assert done.code == 0, str(done)
    assert numbers(collector, session) == all_of(5000)
    small.free()
    assert next_start_is_well(journal, collector, before=small.before) == 0


@contextlib.contextmanager
def neighbor(small: Disk) -> Iterator[None]:
    """Another program, which fills the disk and frees it, again and again."""
    is_over = threading.Event()

    def fill_and_free() -> None:
        for number in itertools.count():
            with contextlib.suppress(OSError):  # the game was quicker
                small.fill(leave=number % 5 * 100_000)
            is_over.wait(0.003 * (number % 4))
            small.free()
            if is_over.wait(0.002 * (number % 3)):
                return

    thread = threading.Thread(target=fill_and_free)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["up", "down"])
def test_a_disk_that_is_full_every_other_moment_kills_no_game(
    network: str, small: Disk, collector: RunningCollector
) -> None:
    journal = small.path / "journal"
    script = """
def play(number):
    seconds = time.monotonic() + 2.5
    while time.monotonic() < seconds:
        for _ in range(100):
            telemetry.emit("hammered", player=number, text="x" * 400)

players = [threading.Thread(target=play, args=(number,)) for number in range(2)]
for player in players:
    player.start()
for player in players:
    player.join()
telemetry.set_online(True)
say(telemetry.session_id)
assert telemetry.flush(60) or telemetry.stats().dropped
stats = balance()
say(stats.emitted, stats.delivered, stats.dropped)
telemetry.stop(30)
"""
    begin = PLAY if network == "up" else OFFLINE
    with neighbor(small):
        done = run_game(begin + script, collector.url, journal, before=small.before)
    assert done.code == 0, str(done)
    if done.troubles:
        complaint(done, journal, FULL)
    session, counts = done.printed
    emitted, delivered, dropped = map(int, counts.split())
    assert emitted > 5_000
    assert emitted == delivered + dropped
    found = numbers(collector, session)
    assert len(found) == delivered
    assert sorted(set(found)) == found
    small.free()
    assert next_start_is_well(journal, collector, before=small.before) == 0


@pytest.mark.slow
def test_starts_and_kills_on_a_disk_that_is_full_every_other_moment(
    tmp_path: Path, collector: RunningCollector
) -> None:
    with disk(tmp_path, options="size=32m") as large:
        starts_and_kills(large, collector)


def starts_and_kills(small: Disk, collector: RunningCollector) -> None:
    journal = small.path / "journal"
    dying = """
emit(700, each=10_000, text="x" * 400)
die()
"""
    with neighbor(small):
        for _ in range(6):
            done = run_game(OFFLINE + dying, collector.url, journal, before=small.before)
            assert done.code == KILLED, str(done)
            if done.troubles:
                complaint(done, journal, FULL)
    small.free()
    script = "wait_for(lambda: len(os.listdir(journal)) == 1)\n"
    done = run_game(PLAY + script + FLUSHED, collector.url, journal, before=small.before)
    assert (done.code, done.troubles) == (0, []), str(done)
    # What was not delivered stood in no file: where a session has any, they are its first.
    for seqs in all_numbers(collector).values():
        assert seqs == all_of(len(seqs))
    assert contents(small.outside / "journal") == []


@not_on_windows("no limits of a process")
@pytest.mark.parametrize("action", ["SIG_IGN", "SIG_DFL"])
@pytest.mark.parametrize("kilobytes", [0, 1, 20, 100, 400])
def test_a_limit_of_a_files_size(
    kilobytes: int, action: str, tmp_path: Path, collector: RunningCollector
) -> None:
    journal = tmp_path / "journal"
    script = f"""
import resource
signal.signal(signal.SIGXFSZ, signal.{action})
real = sys.stderr
sys.stderr.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, ({kilobytes} * 1024, {kilobytes} * 1024))
telemetry = start_telemetry(**settings)
emit(5000)
"""
    # Its log goes through a pipe, to which no limit applies.
    pipe = ["bash", "-c", 'set -o pipefail; { "$@" 2>&1 >&3 3>&- | cat >&2; } 3>&1', "bash"]
    done = run_game(GAME + script + FLUSHED, collector.url, journal, before=pipe)
    assert done.code == 0, str(done)
    if kilobytes < 256:
        complaint(done, journal, "File too large")
    assert numbers(collector, done.printed[0]) == all_of(5000)
    assert next_start_is_well(journal, collector) == 0
    assert contents(journal) == []


@not_on_windows("no limits of a process")
def test_no_more_descriptors_in_the_middle(tmp_path: Path, collector: RunningCollector) -> None:
    journal = tmp_path / "journal"
    script = """
import resource
emit(10)
assert telemetry.flush(30)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
emit(20_000, text="x" * 300)
"""
    done = run_game(PLAY + script + FLUSHED, collector.url, journal)
    assert done.code == 0, str(done)
    complaint(done, journal, "Too many open files")
    assert numbers(collector, done.printed[0]) == all_of(20_010)
    assert next_start_is_well(journal, collector) == 0


@needs_proc
def test_few_descriptors_at_the_start(tmp_path: Path, collector: RunningCollector) -> None:
    journal = tmp_path / "journal"
    leave_behind(journal, 1000)
    script = """
import resource
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
start_telemetry(**{**settings, "journal": journal + "-imported"}).stop(5)
used = len(os.listdir("/proc/self/fd")) - 1
for more in range(25):
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, limits[1]))
    telemetry = start_telemetry(**settings)
    emit(100, each=1000)
    telemetry.flush(0.2 + (more > 20))
    stats = balance()
    telemetry.stop(0.2)
    balance()
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    wait_for(lambda: len(os.listdir("/proc/self/fd")) - 1 <= used)
say(stats.emitted, stats.delivered >= 100)
"""
    done = run_game(GAME + script, collector.url, journal)
    assert done.code == 0, str(done)
    assert done.printed == ["100 True"], str(done)
    assert next_start_is_well(journal, collector) >= 0
    for seqs in all_numbers(collector).values():
        assert seqs == all_of(len(seqs))
    assert contents(journal) == []


@needs_proc
@pytest.mark.parametrize("network", ["up", "down"])
def test_no_more_address_space(network: str, tmp_path: Path, collector: RunningCollector) -> None:
    journal = tmp_path / "journal"
    begin = PLAY if network == "up" else OFFLINE
    script = """
import resource
emit(10, each=11)
pages = int(open("/proc/self/statm").read().split()[0])
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 200_000, limits[1]))
for number in range(30_000):
    telemetry.emit("played", text="x" * 300)
    if number % 500 == 0:
        time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_AS, limits)
stats = balance()
telemetry.set_online(True)
wait_for(lambda: telemetry.flush(1) or telemetry.stats().buffered == 0)
stats = balance()
say(telemetry.session_id)
say(stats.emitted, stats.delivered, stats.dropped, stats.rejected)
telemetry.stop(30)
"""
    done = run_game(begin + script, collector.url, journal)
    assert done.code == 0, str(done)
    session, counts = done.printed
    emitted, delivered, dropped, rejected = map(int, counts.split())
    assert emitted == delivered + dropped
    assert emitted + rejected == 30_010
    assert len(numbers(collector, session)) == delivered
    for line in done.troubles:
        assert line.startswith("WARNING redvsblue_telemetry: "), str(done)
    assert len(done.troubles) <= 2  # and one for events that found no room, if there were any
    assert next_start_is_well(journal, collector) == 0
