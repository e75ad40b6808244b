"""The journal where the operating system has less, or forbids more: Windows and macOS.

These games run on Linux, with what the other systems lack taken away, and with the rules of Windows
for files that are open. What a real Windows does beyond these rules is not seen here: its locks,
its mappings, a virus scanner that holds a file open for a moment, a power cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.test_journal_disk import FLUSHED, complaint, next_start_is_well
from tests.support.collector import RunningCollector, collector_running
from tests.support.games import (
    GAME,
    all_numbers,
    all_of,
    contents,
    disk,
    leave_behind,
    numbers,
    run_game,
)
from tests.support.systems import needs_linux

pytestmark = [
    needs_linux,
    pytest.mark.timeout(240),
]


@pytest.fixture
def collector() -> Iterator[RunningCollector]:
    with collector_running() as collector:
        yield collector


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


# Imported before the system changes, as modules of Python's own are made for the real one.
IMPORTED = (
    GAME
    + """
import ctypes, errno, fcntl, logging.handlers, mmap, pathlib, random, re, selectors, shutil, socket
import ssl, stat, struct, subprocess, tempfile, types, zlib
telemetry = Telemetry(TelemetrySettings(**{**settings, "journal": None}))
telemetry.set_online(False)
telemetry.start().stop(5)
assert not [name for name in sys.modules if name.startswith("redvsblue_telemetry._journal")]
"""
)

WINDOWS = (
    IMPORTED
    + """
real_lock, LOCK, UNLOCK = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN
BINARY = 1 << 30

def refuse(path, number=errno.EACCES):
    raise PermissionError(number, os.strerror(number), str(path))

def locking(fd, mode, count):
    "As in msvcrt: ranges of bytes, from the current position; here, all of a file is one range."
    assert count == 1, count
    try:
        real_lock(fd, UNLOCK if mode == 0 else LOCK)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None

msvcrt = types.ModuleType("msvcrt")
msvcrt.locking = locking
msvcrt.LK_UNLCK, msvcrt.LK_LOCK, msvcrt.LK_NBLCK, msvcrt.LK_RLCK, msvcrt.LK_NBRLCK = range(5)
sys.modules.update(msvcrt=msvcrt, fcntl=None, pwd=None, grp=None, resource=None, termios=None)
del fcntl

# Linux needs no such call.
ctypes.WinDLL = lambda *_, **__: types.SimpleNamespace(FlushViewOfFile=lambda *_: True)

def opened():
    "Return the files that any process has open; a mapping has its own descriptor."
    paths = set()
    for process in os.listdir("/proc"):
        if process.isdigit():
            try:
                for fd in os.listdir(f"/proc/{process}/fd"):
                    try:
                        paths.add(os.readlink(f"/proc/{process}/fd/{fd}"))
                    except OSError:
                        pass
            except OSError:
                pass
    return paths

RESERVED = {"CON", "PRN", "AUX", "NUL", "COM1", "LPT1"}

def check(path, **others):
    assert all(value in (None, False) for name, value in others.items() if "dir_fd" in name)
    path = os.path.abspath(os.fsdecode(path))
    name = os.path.basename(path)
    bad = set(name) & set('<>:"|?*\\\\') or any(ord(letter) < 32 for letter in name)
    if bad or name.endswith((".", " ")) or name.partition(".")[0].upper() in RESERVED:
        refuse(path, errno.EINVAL)
    return path

def wrapped(name, rule):
    real = getattr(os, name)
    def call(*arguments, **others):
        rule(*arguments, **others)
        return real(*arguments, **others)
    setattr(os, name, call)

def may_remove(path, **others):
    if check(path, **others) in opened():
        refuse(path)

def may_rename(old, new, **others):
    old = check(old)
    if any(path == old or path.startswith(old + os.sep) for path in opened()):
        refuse(old)
    if os.path.exists(check(new)):
        raise FileExistsError(errno.EEXIST, "File exists", str(new))

def may_replace(old, new, **others):
    if {check(old), check(new)} & opened():
        refuse(old)

for name in ("remove", "unlink"):
    wrapped(name, may_remove)
for name in ("mkdir", "rmdir", "stat", "lstat"):
    wrapped(name, lambda path, *arguments, **others: isinstance(path, int) or check(path, **others))
wrapped("rename", may_rename)
wrapped("replace", may_replace)

real_open = os.open
def open_(path, flags, mode=0o777, **others):
    if os.path.isdir(check(path, **others)):
        refuse(path)
    # Without it, Windows changes the bytes that are written.
    assert flags & BINARY or str(path).startswith(("/dev", "/proc")), path
    return real_open(path, flags & ~BINARY, mode)
os.open = open_
os.O_BINARY = BINARY
os.O_NOINHERIT = os.O_TEMPORARY = os.O_RANDOM = os.O_SEQUENTIAL = 0
for name in (
    "fchmod chown fchown fdatasync fork forkpty getuid geteuid getgid lockf pread preadv pwrite "
    "pwritev posix_fallocate posix_fadvise readv writev register_at_fork statvfs fstatvfs sync "
    "O_NOFOLLOW O_NONBLOCK O_DIRECTORY O_CLOEXEC O_SYNC O_DSYNC O_TMPFILE memfd_create sendfile "
    "copy_file_range splice eventfd mkfifo mknod killpg openpty sched_yield nice"
).split():
    if hasattr(os, name):
        delattr(os, name)
for name in ("MAP_SHARED", "MAP_PRIVATE", "MAP_ANON", "MAP_ANONYMOUS", "MAP_POPULATE", "PROT_READ",
             "PROT_WRITE", "MADV_DONTNEED", "MADV_WILLNEED", "MADV_POPULATE_WRITE"):
    if hasattr(mmap, name):
        delattr(mmap, name)
for name in ("pthread_sigmask", "SIGXFSZ"):
    if hasattr(signal, name):
        delattr(signal, name)
os.supports_dir_fd = os.supports_fd = set()
sys.platform = "win32"
"""
)
MACOS = (
    IMPORTED
    + """
for name in ("posix_fallocate", "posix_fadvise", "fdatasync", "memfd_create", "O_TMPFILE"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("MAP_POPULATE", "MADV_POPULATE_WRITE", "MADV_DONTFORK"):
    if hasattr(mmap, name):
        delattr(mmap, name)
fcntl.F_FULLFSYNC, fcntl.F_PREALLOCATE, fcntl.F_BARRIERFSYNC = 51, 42, 85
real_control = fcntl.fcntl
def control(fd, command, *arguments):
    if command in (51, 85):
        os.fsync(fd)
        return 0
    if command == 42:
        raise OSError(errno.EINVAL, "Invalid argument")
    return real_control(fd, command, *arguments)
fcntl.fcntl = control
"""
)
SYSTEMS = {"Windows": WINDOWS, "macOS": MACOS}
START = "telemetry = start_telemetry(**settings)\n"
OFFLINE = """
telemetry = Telemetry(TelemetrySettings(**settings))
telemetry.set_online(False)
telemetry.start()
"""
DIE = """
say(telemetry.session_id)
die()
"""

systems = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)


@systems
def test_a_game_that_ends_well_leaves_nothing(
    system: str, journal: Path, collector: RunningCollector
) -> None:
    script = "emit(5000, text='x' * 300)" + FLUSHED
    done = run_game(system + START + script, collector.url, journal)
    assert done.code == 0, str(done)
    assert done.troubles == [], str(done)
    assert numbers(collector, done.printed[0]) == all_of(5000)
    assert contents(journal) == []


@systems
def test_a_kill_loses_nothing_and_the_next_start_delivers(
    system: str, journal: Path, collector: RunningCollector
) -> None:
    dying = system + OFFLINE + "emit(1500, each=10_000, text='x' * 300)" + DIE
    sessions = []
    for name in ("..", "CON", "a:b", "ünïcode", "ends with a dot."):
        done = run_game(dying, collector.url, journal, session_id=name)
        assert done.troubles == [], str(done)
        sessions += done.printed
    script = """
emit(10)
wait_for(lambda: telemetry.stats().recovered == 7500)
wait_for(lambda: not balance().buffered)
"""
    done = run_game(system + START + script + FLUSHED, collector.url, journal)
    assert done.code == 0, str(done)
    assert done.troubles == [], str(done)
    assert all_numbers(collector) == {
        **dict.fromkeys(sessions, all_of(1500)),
        done.printed[0]: all_of(10),
    }
    assert contents(journal) == []


@systems
def test_the_systems_read_each_others_runs(
    system: str, journal: Path, collector: RunningCollector
) -> None:
    session = leave_behind(journal)
    done = run_game(system + OFFLINE + "emit(200)" + DIE, collector.url, journal)
    assert next_start_is_well(journal, collector) == 300
    assert numbers(collector, session) == all_of(100)
    assert numbers(collector, done.printed[0]) == all_of(200)
    session = leave_behind(journal)
    script = "wait_for(lambda: telemetry.stats().recovered == 100)"
    done = run_game(system + START + script + FLUSHED, collector.url, journal)
    assert done.troubles == [], str(done)
    assert numbers(collector, session) == all_of(100)
    assert contents(journal) == []


@systems
def test_off_erases(system: str, journal: Path) -> None:
    for way in ("telemetry.enabled = False", "telemetry.stop(0.1); telemetry.enabled = False"):
        leave_behind(journal)
        done = run_game(
            system + OFFLINE + "emit(5000, each=10_000)\n" + way, "ws://[::1]:9/", journal
        )
        assert done.code == 0, str(done)
        assert done.troubles == [], str(done)
        assert contents(journal) == []
    leave_behind(journal)
    done = run_game(system + START, "ws://[::1]:9/", journal, enabled=False)
    assert (done.code, done.troubles) == (0, []), str(done)
    assert contents(journal) == []


@systems
def test_a_stop_leaves_what_the_next_start_of_the_process_takes_over(
    system: str, journal: Path, collector: RunningCollector
) -> None:
    script = """
emit(700, each=1000)
assert not telemetry.stop(0.2)
say(telemetry.session_id)
telemetry = start_telemetry(**settings)
wait_for(lambda: telemetry.stats().recovered == 700)
"""
    done = run_game(system + OFFLINE + script + FLUSHED, collector.url, journal)
    assert done.code == 0, str(done)
    assert done.troubles == [], str(done)
    assert numbers(collector, done.printed[0]) == all_of(700)
    assert contents(journal) == []


@systems
def test_a_run_that_is_alive_is_left_alone(
    system: str, journal: Path, collector: RunningCollector
) -> None:
    script = """
emit(100)
other = start_telemetry(**settings)
time.sleep(0.5)
assert (other.stats().recovered, other.stats().delivered) == (0, 0), other.stats()
other.enabled = False
"""
    done = run_game(system + OFFLINE + script + DIE, collector.url, journal)
    assert done.troubles == [], str(done)
    assert next_start_is_well(journal, collector) == 100
    assert numbers(collector, done.printed[0]) == all_of(100)


@systems
@pytest.mark.parametrize("kilobytes", [0, 100, 600, 1400])
def test_a_full_disk_kills_nobody_where_no_space_can_be_reserved(
    system: str, kilobytes: int, tmp_path: Path, collector: RunningCollector
) -> None:
    with disk(tmp_path) as small:
        journal = small.path / "journal"
        small.fill(leave=kilobytes * 1024)
        script = "emit(4000, each=10000, text='x' * 1000)\ntelemetry.set_online(True)"
        done = run_game(
            system + OFFLINE + script + FLUSHED, collector.url, journal, before=small.before
        )
        assert done.code == 0, str(done)
        complaint(done, journal, "No space left on device")
        assert numbers(collector, done.printed[0]) == all_of(4000)
        small.free()
        assert next_start_is_well(journal, collector, before=small.before) == 0
