"""A journal directory that can't be used, that is taken away, or that holds what it shouldn't."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry._journal.layout import HEADER_BYTES
from tests.faults.test_journal_disk import FLUSHED, complaint, next_start_is_well
from tests.support.collector import RunningCollector, collector_running
from tests.support.games import (
    GAME,
    OFFLINE,
    PLAY,
    Game,
    all_of,
    contents,
    disk,
    leave_behind,
    nowhere,
    numbers,
    run_game,
    without_override,
)
from tests.support.kills import KILLED
from tests.support.systems import (
    needs_links,
    needs_modes,
    needs_pipes,
    needs_proc,
    not_on_macos,
    not_on_windows,
)
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(240)  # several processes, one after the other


@pytest.fixture
def collector() -> Iterator[RunningCollector]:
    with collector_running() as collector:
        yield collector


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def goes_on_in_memory(
    journal: Path, collector: RunningCollector, *reasons: str, **options: object
) -> None:
    """Run a game whose journal can't be used: one line, and every event is delivered."""
    done = run_game(PLAY + "emit(1000)" + FLUSHED, collector.url, journal, **options)
    assert done.code == 0, str(done)
    complaint(done, journal, *reasons)
    assert numbers(collector, done.printed[0]) == all_of(1000)


def a_file(path: Path) -> None:
    path.write_text("a player's")


def below_a_file(path: Path) -> None:
    path.parent.write_text("a player's")


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "missing" / "deep")


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("make", "name", "reasons"),
    [
        (a_file, "journal", ("Not a directory", "File exists")),
        (below_a_file, "file/journal", ("Not a directory",)),
        pytest.param(
            *(a_dangling_link, "journal", ("No such file", "File exists", "Not a directory")),
            marks=needs_links,
        ),
        pytest.param(
            *(a_loop, "journal", ("Too many levels", "File exists", "Not a directory")),
            marks=needs_links,
        ),
        pytest.param(a_fifo, "journal", ("Not a directory", "File exists"), marks=needs_pipes),
        pytest.param(a_device, "journal", ("Not a directory", "File exists"), marks=needs_pipes),
        (lambda path: None, "x" * 300, ("File name too long",)),
        pytest.param(
            *(lambda path: None, "/".join(["x" * 200] * 25), ("File name too long",)),
            marks=not_on_windows("the path of a journal may have 32,767 characters"),
        ),
    ],
)
def test_what_can_be_no_directory(
    make: Callable[[Path], object],
    name: str,
    reasons: tuple[str, ...],
    tmp_path: Path,
    collector: RunningCollector,
) -> None:
    journal = tmp_path / name
    make(journal)
    before = contents(tmp_path)
    goes_on_in_memory(journal, collector, *reasons)
    assert contents(tmp_path) == before


@needs_proc
@pytest.mark.parametrize("path", ["/proc/journal", "/sys/journal", "/dev/null/journal"])
def test_a_directory_that_is_the_systems(path: str, collector: RunningCollector) -> None:
    reasons = ("No such file", "not permitted", "Permission denied", "Not a directory")
    goes_on_in_memory(Path(path), collector, *reasons, "Read-only file system")


@needs_modes
@pytest.mark.parametrize("mode", [0o000, 0o500, 0o300])
@pytest.mark.parametrize("is_made", [True, False], ids=["there", "missing"])
def test_a_directory_without_permission(
    mode: int, is_made: bool, tmp_path: Path, collector: RunningCollector
) -> None:
    parent = tmp_path / "parent"
    journal = parent / "journal"
    locked = journal if is_made else parent
    locked.mkdir(parents=True)
    before = without_override()
    locked.chmod(mode)
    try:
        if mode == 0o300:  # it may write there, but not look who else does
            done = run_game(PLAY + "emit(1000)" + FLUSHED, collector.url, journal, before=before)
            assert done.code == 0, str(done)
            assert len(done.troubles) <= 1, str(done)
            assert numbers(collector, done.printed[0]) == all_of(1000)
        else:
            goes_on_in_memory(journal, collector, "Permission denied", before=before)
    finally:
        locked.chmod(0o700)
    assert next_start_is_well(journal, collector, before=before) == 0


@needs_modes
def test_runs_without_permission_are_left_to_those_who_have_it(
    journal: Path, collector: RunningCollector
) -> None:
    ours, theirs = leave_behind(journal), leave_behind(journal)
    before = without_override()
    (journal / theirs).chmod(0o000)
    try:
        script = "wait_for(lambda: telemetry.stats().recovered == 100)"
        done = run_game(PLAY + script + FLUSHED, collector.url, journal, before=before)
        assert done.code == 0, str(done)
        assert len(done.troubles) <= 1, str(done)
    finally:
        (journal / theirs).chmod(0o700)
    assert numbers(collector, ours) == all_of(100)
    assert next_start_is_well(journal, collector) == 100
    assert numbers(collector, theirs) == all_of(100)


@needs_modes
def test_files_without_permission_cost_only_themselves(
    journal: Path, collector: RunningCollector
) -> None:
    ours, theirs = leave_behind(journal), leave_behind(journal)
    before = without_override()
    files = [path for path in (journal / theirs).iterdir() if path.suffix == ".events"]
    for path in files:
        path.chmod(0o000)
    script = "wait_for(lambda: telemetry.stats().recovered >= 100)"
    done = run_game(PLAY + script + FLUSHED, collector.url, journal, before=before)
    assert done.code == 0, str(done)
    assert len(done.troubles) <= 1, str(done)
    assert numbers(collector, ours) == all_of(100)
    for path in files:
        assert path.exists()  # not thrown away unread
        path.chmod(0o600)
    assert next_start_is_well(journal, collector) == 100
    assert numbers(collector, theirs) == all_of(100)


@needs_modes
def test_an_off_start_that_may_not_delete_says_so_once(journal: Path) -> None:
    sessions = [leave_behind(journal) for _ in range(2)]
    before = without_override()
    for session in sessions:
        (journal / session).chmod(0o500)
    done = run_game(PLAY, nowhere(), journal, enabled=False, before=before)
    assert done.code == 0, str(done)
    (line,) = done.troubles
    assert line.startswith("WARNING redvsblue_telemetry: 2 runs in the telemetry's journal "), line
    assert line.endswith(f"{journal} can't be erased: Permission denied")
    for session in sessions:
        (journal / session).chmod(0o700)
    done = run_game(PLAY, nowhere(), journal, enabled=False)
    assert (done.code, done.troubles) == (0, []), str(done)
    assert contents(journal) == []


def test_a_read_only_file_system(tmp_path: Path, collector: RunningCollector) -> None:
    with disk(tmp_path, options="size=4m") as small:
        journal = small.path / "journal"
        session = leave_behind(journal, before=small.before)
        files = contents(small.outside)
        read_only = ["sh", "-c", 'mount -o remount,ro "$0" && exec "$@"', str(small.path)]
        done = run_game(
            PLAY + "emit(1000)\ntime.sleep(0.5)" + FLUSHED,
            collector.url,
            journal,
            before=[*small.before, *read_only],
        )
        assert done.code == 0, str(done)
        complaint(done, journal, "Read-only file system")
        assert numbers(collector, done.printed[0]) == all_of(1000)
        # Delivered or not: a run that can't be deleted is not to be delivered at every start.
        assert contents(small.outside) == files
        again = ["sh", "-c", 'mount -o remount,rw "$0" && exec "$@"', str(small.path)]
        next_start_is_well(journal, collector, before=[*small.before, *again])
        assert numbers(collector, session) == all_of(100)


def test_a_file_system_that_can_not_be_written_to_as_others(
    tmp_path: Path, collector: RunningCollector
) -> None:
    # It has directories and files, but no `write` and no mapping of fewer than 2 MB.
    with disk(tmp_path, kind="hugetlbfs", options="pagesize=2M") as strange:
        journal = strange.path / "journal"
        done = run_game(
            PLAY + "emit(1000)" + FLUSHED, collector.url, journal, before=strange.before
        )
        assert done.code == 0, str(done)
        complaint(done, journal, "Invalid argument", "No space left", "Cannot allocate")
        assert numbers(collector, done.printed[0]) == all_of(1000)
        assert [path for path in contents(strange.outside) if "events" in path] == []


# At the boundary to the operating system, since there is no such file system here.
WITHOUT_LOCKS = """
import errno
def refuse(*arguments):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
if sys.platform == "win32":
    import msvcrt
    msvcrt.locking = refuse
else:
    import fcntl
    fcntl.flock = fcntl.lockf = refuse
"""
WITHOUT_MAPPINGS = """
import errno, mmap
class mapping(mmap.mmap):
    def __new__(cls, fileno, *arguments, **keywords):
        if fileno != -1:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return super().__new__(cls, fileno, *arguments, **keywords)
mmap.mmap = mapping
"""
WITHOUT_SPACE = """
import errno
def refuse(*arguments):
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
os.posix_fallocate = refuse
"""
WITHOUT_SYNC = """
import errno
def refuse(*arguments):
    raise OSError(errno.EIO, os.strerror(errno.EIO))
os.fdatasync = os.fsync = refuse
"""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(WITHOUT_LOCKS, "No locks available"), (WITHOUT_MAPPINGS, os.strerror(errno.ENODEV))],
)
def test_a_file_system_without_locks_or_mappings(
    fault: str, reason: str, journal: Path, collector: RunningCollector
) -> None:
    session = leave_behind(journal)
    script = f"{GAME.partition('from redvsblue')[0]}{fault}{PLAY}emit(1000){FLUSHED}"
    done = run_game(script, collector.url, journal)
    assert done.code == 0, str(done)
    complaint(done, journal, reason)
    assert numbers(collector, done.printed[0]) == all_of(1000)
    next_start_is_well(journal, collector)
    assert numbers(collector, session) == all_of(100)
    assert contents(journal) == []


def test_a_file_system_that_reserves_no_space(journal: Path, collector: RunningCollector) -> None:
    # Then space is had by writing, or events are kept in memory; but no file may be sparse.
    script = f"{GAME.partition('from redvsblue')[0]}{WITHOUT_SPACE}{PLAY}emit(1000){FLUSHED}"
    done = run_game(script, collector.url, journal)
    assert done.code == 0, str(done)
    if done.troubles:
        complaint(done, journal, "not supported")
    assert numbers(collector, done.printed[0]) == all_of(1000)
    assert next_start_is_well(journal, collector) == 0


def test_a_disk_that_fails_to_sync(journal: Path, collector: RunningCollector) -> None:
    script = f"""
{GAME.partition("from redvsblue")[0]}{WITHOUT_SYNC}{OFFLINE}
emit(1000, each=10_000)
time.sleep(2)
emit(1000, each=10_000)
telemetry.set_online(True)
{FLUSHED}
"""
    done = run_game(script, collector.url, journal)
    assert done.code == 0, str(done)
    complaint(done, journal, "Input/output error")
    assert numbers(collector, done.printed[0]) == all_of(2000)
    assert next_start_is_well(journal, collector) == 0


NAMES = [
    "plain",
    "mit Leerzeichen und Umlauten äöü",
    "日本語のゲーム",
    "emoji 🎮",
    "per%cent %s %d {brace}",
    pytest.param("quote' \" back\\slash", marks=not_on_windows("no such names")),
    "x" * 255,
    "/".join(["deep"] * 300),
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:20])
def test_a_path_may_be_long_and_have_any_letters(
    name: str, tmp_path: Path, collector: RunningCollector
) -> None:
    journal = tmp_path / name
    session = leave_behind(journal)
    assert next_start_is_well(journal, collector) == 100
    assert numbers(collector, session) == all_of(100)
    assert contents(journal) == []


@not_on_windows("names of files are Unicode")
@not_on_macos("names of files are UTF-8")
def test_a_path_that_is_not_text_is_used_or_refused(tmp_path: Path) -> None:
    # A folder whose name is of another encoding: Python has it as surrogates.
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    script = """
journal = os.fsdecode(b"%s")
settings.update(journal=journal)
try:
    telemetry = start_telemetry(**settings)
except SettingsError as error:
    say("refused", ascii(str(error)))
else:
    emit(10)
    telemetry.stop(0.1)
    say("used", len(found(journal)) > 0)
""".replace("%s", os.fsencode(name).decode("ascii", "backslashreplace"))
    done = run_game(GAME + script, nowhere(), "unused")
    assert done.code == 0, str(done)
    assert done.printed[0].startswith(("refused", "used True")), str(done)


def test_a_path_with_a_null_is_refused(tmp_path: Path) -> None:
    script = r"""
try:
    telemetry = start_telemetry(**{**settings, "journal": "a\0b"})
except SettingsError as error:
    say("refused")
"""
    done = run_game(GAME + script, nowhere(), "unused")
    assert (done.code, done.printed) == (0, ["refused"]), str(done)


SESSIONS = [
    *("..", ".", "a/b", "../../../evil", "/etc/evil", "CON", "nul.txt", "a:b*c?", "-rf", " "),
    *("x" * 1000, "日" * 1000, "ünïcode", "tab\t", "quote'\"", "lock", ".hidden"),
]


def test_a_session_may_have_any_name(tmp_path: Path, collector: RunningCollector) -> None:
    parent = tmp_path / "one" / "two" / "three"
    journal = parent / "journal"
    script = """
for session in json.loads(sys.argv[3]):
    client = Telemetry(TelemetrySettings(**settings, session_id=session))
    client.set_online(False)
    client.start()
    for number in range(int(sys.argv[4])):
        client.emit("left", n=number)
die()
"""
    for count in (10, 20):  # the same names again
        done = run_game(GAME + script, nowhere(), journal, json.dumps(SESSIONS), count)
        assert (done.code, done.troubles) == (KILLED, []), str(done)
    assert len([path for path in journal.iterdir() if path.is_dir()]) == 2 * len(SESSIONS)
    assert [path for path in contents(tmp_path) if not path.startswith("one/two/three/")] == [
        "one",
        "one/two",
        "one/two/three",
    ]
    assert next_start_is_well(journal, collector) == 30 * len(SESSIONS)
    for session in SESSIONS:
        assert numbers(collector, session) == all_of(20)  # whose numbers are the same, too
    assert contents(journal) == []


def test_a_relative_path_is_that_of_the_start(tmp_path: Path, collector: RunningCollector) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    script = f"""
emit(10)
os.chdir({str(there)!r})
emit(20_000, each=100_000, text="x" * 300)
say(telemetry.session_id)
assert not telemetry.stop(0.5) if sys.argv[3] == "stop" else die()
"""
    for ending in ("stop", "kill"):
        done = run_game(OFFLINE + script, nowhere(), "kept/journal", ending, cwd=here)
        assert done.troubles == [], str(done)
        assert contents(there) == []
        (session,) = done.printed
        script_of_next = "wait_for(lambda: telemetry.stats().delivered == 20_010)"
        done = run_game(PLAY + script_of_next + FLUSHED, collector.url, "kept/journal", cwd=here)
        assert done.code == 0, str(done)
        assert numbers(collector, session) == all_of(20_010)
        assert contents(here / "kept" / "journal") == []


def test_a_relative_path_is_erased_where_it_is(tmp_path: Path) -> None:
    script = """
emit(10)
os.chdir("/")
telemetry.enabled = False
telemetry.stop(1)
"""
    done = run_game(OFFLINE + script, nowhere(), "journal", cwd=tmp_path)
    assert (done.code, done.troubles) == (0, []), str(done)
    assert contents(tmp_path / "journal") == []


def delete(directory: Path) -> None:
    """Delete a directory in which a game may write a file at the same time."""

    def is_gone() -> bool:
        shutil.rmtree(directory, ignore_errors=True)
        return not directory.exists()

    assert wait_until(is_gone)


@not_on_windows("nobody can delete a file that is open")
@pytest.mark.parametrize("network", ["up", "down"])
def test_the_directory_is_deleted_under_the_game(
    network: str, journal: Path, collector: RunningCollector
) -> None:
    script = f"""
telemetry.set_online({network == "up"})
emit(100, each=1000)
say("playing")
sys.stdin.readline()
for _ in range(5):
    emit(800, each=500 if {network == "up"} else 10_000, text="x" * 300)
    time.sleep(0.3)
telemetry.set_online(True)
wait_for(lambda: not (balance().buffered or telemetry.stats().in_flight))
stats = telemetry.stats()
say(telemetry.session_id)
say(stats.delivered, stats.dropped_by["expired"], stats.dropped)
"""
    with Game(PLAY + script, collector.url, journal) as game:
        game.expect("playing")
        delete(journal)
        game.tell()
        done = game.end()
    assert done.code == 0, str(done)
    # Either the next segment can't be made, or the worker's check of its lock comes first.
    complaint(done, journal, "No such file or directory", "the run was deleted")
    session, counts = done.printed
    delivered, expired, dropped = map(int, counts.split())
    assert (delivered + expired, dropped) == (4100, expired)
    found = numbers(collector, session)
    assert len(found) == delivered
    # Where nothing could be sent, some events were in the files and nowhere else.
    assert found[-2000:] == all_of(4100)[-2000:]
    if network == "up":
        assert expired == 0
    assert next_start_is_well(journal, collector) == 0
    assert contents(journal) == []


@not_on_windows("nobody can delete a file that is open")
def test_the_directory_is_deleted_under_a_game_that_then_ends(
    journal: Path, collector: RunningCollector
) -> None:
    script = 'emit(10)\nsay("playing")\nsys.stdin.readline()' + FLUSHED
    with Game(PLAY + script, collector.url, journal) as game:
        game.expect("playing")
        delete(journal)
        game.tell()
        done = game.end()
    assert done.code == 0, str(done)
    assert len(done.troubles) <= 1, str(done)
    assert numbers(collector, done.printed[0]) == all_of(10)


@not_on_windows("nobody can delete a file that is open")
@pytest.mark.parametrize("fault", ["deleted", "replaced", "moved", "lock deleted"])
def test_files_of_a_run_that_is_alive(
    fault: str, journal: Path, collector: RunningCollector
) -> None:
    script = """
emit(100, each=1000)
say("playing")
sys.stdin.readline()
emit(3000, each=10_000, text="x" * 300)
telemetry.set_online(True)
"""
    with Game(OFFLINE + script + FLUSHED, collector.url, journal) as game:
        game.expect("playing")
        (run,) = [path for path in journal.iterdir() if path.is_dir()]
        for path in sorted(run.iterdir()):
            if fault == "lock deleted":
                if path.suffix != ".events":
                    path.unlink()
            elif path.suffix == ".events":
                if fault == "replaced":
                    (run / "new").write_bytes(b"garbage" * 1000)
                    (run / "new").rename(path)
                elif fault == "moved":
                    path.rename(path.with_suffix(".moved"))
                else:
                    path.unlink()
        game.tell()
        done = game.end()
    assert done.code == 0, str(done)
    assert len(done.troubles) <= 1, str(done)
    assert numbers(collector, done.printed[0]) == all_of(3100)
    # A file that is not the journal's keeps the directory of its run.
    next_start_is_well(journal, collector, staying=1 if fault == "moved" else 0)


def random_bytes(path: Path) -> None:
    path.write_bytes(os.urandom(300_000))


def empty(path: Path) -> None:
    path.touch()


def zeros(path: Path) -> None:
    path.write_bytes(bytes(300_000))


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def dangling(path: Path) -> None:
    path.symlink_to("missing")


def a_folder(path: Path) -> None:
    path.mkdir()


def unix_socket(path: Path) -> None:
    # Its own directory as the current one, since the path of a socket can't be long.
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path.name)
    finally:
        os.chdir(here)


GARBAGE = [random_bytes, empty, zeros, huge, fifo, endless, dangling, a_folder, unix_socket]


LOCK = "redvsblue.lock"
PLACES = ["00000001.events", "99999999.events", LOCK, "beside"]
CASES = [
    *((make, ("00000007.events", "run")) for make in GARBAGE),
    *((make, (place,)) for make in (random_bytes, fifo) for place in PLACES),
]
MARKS = {
    huge: not_on_windows("a file has holes only if a program asks for them"),
    fifo: needs_pipes,
    endless: needs_pipes,
    dangling: needs_links,
    unix_socket: needs_pipes,
}


@pytest.mark.parametrize(
    ("make", "places"),
    [pytest.param(*case, marks=MARKS.get(case[0], ())) for case in CASES],
    ids=lambda part: str(getattr(part, "__name__", part)),
)
def test_garbage_costs_no_event_that_is_whole(
    make: Callable[[Path], object],
    places: tuple[str, ...],
    journal: Path,
    collector: RunningCollector,
) -> None:
    sessions = [leave_behind(journal) for _ in range(3)]
    hit = journal / sorted(sessions)[1]
    keeps = list(sessions)
    for place in places:
        if place == "beside":
            make(journal / "beside")
        elif place == "run":  # a run with nothing else in it
            (journal / "0-run").mkdir()
            make(journal / "0-run" / "00000001.events")
        else:
            path = hit / place
            if place == "00000001.events" or (place == LOCK and path.exists()):
                path.unlink()
            if place == "00000001.events":
                keeps.remove(hit.name)
            elif place == LOCK:
                keeps.remove(hit.name)  # it may be left alone
            make(path)
    script = """
emit(10)
wait_for(lambda: telemetry.stats().recovered >= int(sys.argv[3]))
"""
    at_least = 100 * len(keeps)
    done = run_game(PLAY + script + FLUSHED, collector.url, journal, at_least)
    assert done.code == 0, str(done)
    assert len(done.troubles) <= len(places), str(done)
    for line in done.troubles:
        assert line.startswith("WARNING redvsblue_telemetry: "), str(done)
        assert str(journal) in line
    for session in keeps:
        assert numbers(collector, session) == all_of(100)
    # And not again at the next start.
    done = run_game(PLAY + "emit(10)" + FLUSHED, collector.url, journal)
    assert done.code == 0, str(done)
    assert done.log == [line for line in done.log if "recovered" not in line], str(done)
    done = run_game(PLAY, nowhere(), journal, enabled=False)
    assert done.code == 0, str(done)
    if LOCK not in places:  # who has such a run can't be found out
        left = [path for path in journal.glob("*/*.events") if path.parent.name in sessions]
        assert [path for path in left if path.is_file() and not path.is_symlink()] == [], str(done)


def test_a_run_of_a_future_format_is_left_alone(journal: Path, collector: RunningCollector) -> None:
    sessions = [leave_behind(journal) for _ in range(3)]
    future = journal / sorted(sessions)[1]
    files = sorted(path for path in future.iterdir() if path.suffix == ".events")
    replaced = 0
    for path in files:
        data = path.read_bytes()
        if b" journal 1\n" in data:
            path.write_bytes(data.replace(b" journal 1\n", b" journal 2\n"))
            replaced += 1
        else:  # the kill came while the worker made a spare one
            assert not data[:HEADER_BYTES].strip(b"\0")
    assert replaced
    before = {path: path.read_bytes() for path in files}
    script = "wait_for(lambda: telemetry.stats().recovered == 200)"
    for _ in range(2):
        # Long enough to see all runs: nothing else shows that it has.
        script = f"emit(10)\n{script}\ntime.sleep(1)\n"
        done = run_game(PLAY + script + FLUSHED, collector.url, journal)
        assert done.code == 0, str(done)
        (line,) = done.troubles
        assert line.startswith("WARNING redvsblue_telemetry: ")
        assert str(future) in line
        assert "format" in line
        assert {path: path.read_bytes() for path in files} == before
        script = ""
    for session in sessions:
        expected = [] if session == future.name else all_of(100)
        assert numbers(collector, session) == expected
    done = run_game(PLAY, nowhere(), journal, enabled=False)
    assert (done.code, done.troubles) == (0, []), str(done)
    assert not future.exists()


CLOCK = """
import time
real_time, real_time_ns, offset = time.time, time.time_ns, int(SECONDS)
time.time = lambda: real_time() + offset
time.time_ns = lambda: real_time_ns() + offset * 10**9
"""
YEAR = 365 * 86400


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        *((0, reader) for reader in (0, -10 * YEAR, -3600, -56 * YEAR)),
        *((writer, 0) for writer in (10 * YEAR, -3600, 400 * YEAR)),
        *((10 * YEAR, 10 * YEAR), (400 * YEAR, -56 * YEAR), (-3600, -10 * YEAR)),
    ],
)
def test_clocks_that_are_wrong_lose_nothing_that_is_young(
    writer: int, reader: int, journal: Path, collector: RunningCollector
) -> None:
    begin = CLOCK.replace("SECONDS", str(writer))
    script = """
emit(100)
say(telemetry.session_id)
die()
"""
    done = run_game(begin + OFFLINE + script, nowhere(), journal)
    assert done.troubles == [], str(done)
    (session,) = done.printed
    begin = CLOCK.replace("SECONDS", str(reader))
    script = """
emit(10)
wait_for(lambda: telemetry.stats().recovered == 100)
"""
    done = run_game(begin + PLAY + script + FLUSHED, collector.url, journal)
    assert done.code == 0, str(done)
    assert done.troubles == [], str(done)
    assert numbers(collector, session) == all_of(100)
    assert contents(journal) == []


def test_a_clock_that_is_set_right_in_the_middle_of_a_game_expires_nothing(
    journal: Path, collector: RunningCollector
) -> None:
    # A machine without a battery starts in 1970, until it has asked the network.
    begin = CLOCK.replace("SECONDS", "-time.time()")
    script = """
emit(100)
time.sleep(1.5)
offset = 0
emit(100)
time.sleep(1.5)
telemetry.set_online(True)
"""
    done = run_game(begin + OFFLINE + script + FLUSHED, collector.url, journal)
    assert done.code == 0, str(done)
    assert done.troubles == [], str(done)
    assert numbers(collector, done.printed[0]) == all_of(200)
    assert contents(journal) == []


def test_events_that_are_too_old_expire_and_are_counted(
    journal: Path, collector: RunningCollector
) -> None:
    begin = CLOCK.replace("SECONDS", str(-31 * 86400))
    script = "emit(100)\ndie()"
    run_game(begin + OFFLINE + script, nowhere(), journal)
    session = leave_behind(journal)
    script = """
emit(10)
wait_for(lambda: balance().delivered == 110)
wait_for(lambda: telemetry._connector.adoption.is_done)
stats = balance()
say(stats.dropped_by["expired"])
"""
    done = run_game(PLAY + script, collector.url, journal)
    assert done.code == 0, str(done)
    assert done.printed == ["100"], str(done)
    assert numbers(collector, session) == all_of(100)
    assert contents(journal) == []


def test_a_run_that_was_cut_off_loses_only_that(journal: Path, collector: RunningCollector) -> None:
    # It dies after its worker has written which number each segment begins with. Without that, the
    # events behind the cut would be lost with their numbers.
    script = """
for number in range(5000):
    telemetry.emit("left", n=number, text="x" * 100)
def has_base(name):
    with open(os.path.join(run, name), "rb") as file:
        return b"RvBjB" in file.read(16384)
run = os.path.join(journal, telemetry.session_id)
segments = [name for name in found(run) if ".events" in name]
wait_for(lambda: all(map(has_base, segments[:4])))
say(telemetry.session_id)
die()
"""
    (session,) = run_game(OFFLINE + script, nowhere(), journal).printed
    files = sorted((journal / session).glob("*.events"))
    with files[1].open("r+b") as file:
        file.truncate(16384 + 50_000)
    script = """
wait_for(lambda: len(next(os.walk(journal))[1]) == 1)
wait_for(lambda: balance().delivered == telemetry.stats().recovered)
"""
    done = run_game(PLAY + script, collector.url, journal)
    assert done.code == 0, str(done)
    (line,) = done.troubles
    assert "damaged" in line, str(done)
    found = numbers(collector, session)
    assert found == sorted(set(found))
    assert found[:1900] == all_of(1900)
    assert found[-1600:] == all_of(5000)[-1600:]
    assert contents(journal) == []
