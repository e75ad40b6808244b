"""The directory of a run: its name, its modes, its lock, and what may be deleted."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry._journal import run as run_module
from redvsblue_telemetry._journal.directory import JournalDirectory
from redvsblue_telemetry._journal.run import RunDirectory, _safe, absolute
from tests.support.journal import RUN, SESSION, Segment, records, write_run
from tests.support.killed_steps import Hook, is_killed_after
from tests.support.systems import (
    IS_WINDOWS,
    needs_fork,
    needs_links,
    needs_modes,
    needs_windows,
    not_on_windows,
)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    run = RunDirectory.create(tmp_path / "journal", SESSION, RUN)
    yield run
    run.delete()


def is_locked(path: Path) -> bool:
    """Whether another process would find it locked."""
    script = f"""
import sys
from pathlib import Path
from redvsblue_telemetry._journal.locks import FileLock
sys.exit(FileLock.acquire(Path({str(path)!r})) is None)
"""
    return bool(subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode)


def test_a_run_has_the_name_of_its_session(run: RunDirectory, tmp_path: Path) -> None:
    assert run.path == tmp_path / "journal" / SESSION
    assert [path.name for path in run.path.iterdir()] == ["redvsblue.lock"]
    assert run.segment_path(1) == run.path / "00000001.events"
    assert run.is_intact


@needs_modes
@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_only_its_owner_can_read_it_at_any_umask(tmp_path: Path, umask: int) -> None:
    script = f"""
import os
from pathlib import Path
from redvsblue_telemetry._journal.run import RunDirectory
os.umask({umask})
RunDirectory.create(Path({str(tmp_path / "journal")!r}), {SESSION!r}, {RUN!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
    path = tmp_path / "journal" / SESSION
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path.parent, path, path / "redvsblue.lock")]
    assert modes == [0o700, 0o700, 0o600]


@given(st.text(max_size=1000) | st.sampled_from(["..", ".", "/", "con", "NUL.txt", "COM1", "a:b"]))
def test_every_session_id_makes_a_name_for_every_file_system(session_id: str) -> None:
    name = _safe(session_id)
    assert 1 <= len(name) <= 65
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
    assert name.upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "COM9", "LPT1"}


@pytest.mark.parametrize("session_id", ["../../outside", "\0", "é" * 1000, "con", "a/b", "", "🚀"])
def test_no_session_id_leads_out_of_the_directory(tmp_path: Path, session_id: str) -> None:
    run = RunDirectory.create(tmp_path / "journal", session_id, RUN)
    assert run.path.parent == tmp_path / "journal"
    assert run.path.is_dir()
    run.delete()


def test_runs_of_one_session_have_different_directories(tmp_path: Path) -> None:
    runs = [RunDirectory.create(tmp_path, SESSION, RUN) for _ in range(4)]
    names = [run.path.name for run in runs]
    assert names[:2] == [SESSION, f"{SESSION}-{RUN}"]
    assert len(set(names)) == 4
    for run in runs:
        run.delete()
    assert list(tmp_path.iterdir()) == []


def test_a_relative_directory_survives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.create(Path("journal"), SESSION, RUN)
    monkeypatch.chdir("/")
    assert run.segment_path(1).parent == tmp_path / "journal" / SESSION
    run.delete()
    assert not (tmp_path / "journal" / SESSION).exists()


@pytest.mark.parametrize(
    "kind", ["file", pytest.param("link to nothing", marks=needs_links), "below a file"]
)
def test_a_journal_that_is_not_a_directory_is_an_error_that_names_it(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "journal"
    if kind == "link to nothing":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text("precious")
    journal = path / "below" if kind == "below a file" else path
    with pytest.raises(OSError, match="journal"):
        RunDirectory.create(journal, SESSION, RUN)
    if kind != "link to nothing":
        assert path.read_text() == "precious"


def test_a_place_that_cannot_be_made_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_: float) -> None:
        pytest.fail("it tries again, and each attempt to reach a server may take seconds")

    monkeypatch.setattr(run_module, "sleep", sleep)
    drives = map("{}:\\".format, "QRSTUVWXY")
    nowhere = next(d for d in drives if not Path(d).exists()) if IS_WINDOWS else "/proc/nowhere"
    with pytest.raises(OSError, match="journal"):
        RunDirectory.create(Path(nowhere, "journal"), SESSION, RUN)


def test_a_released_run_is_kept_unless_it_is_empty(tmp_path: Path) -> None:
    run, empty = (RunDirectory.create(tmp_path, SESSION, RUN) for _ in range(2))
    run.segment_path(1).write_bytes(b"something")
    run.release()
    empty.release()
    assert [path.name for path in tmp_path.iterdir()] == [SESSION]
    again = RunDirectory.take_over(run.path)
    assert again is not None
    again.delete()
    assert list(tmp_path.iterdir()) == []


@needs_links
def test_a_link_with_the_name_of_a_segment_is_left_alone(tmp_path: Path, run: RunDirectory) -> None:
    outside = tmp_path / "00000007.events"
    outside.write_text("precious")
    run.segment_path(2).symlink_to(outside)
    assert run.segments() == []
    run.delete()
    assert [path.name for path in run.path.iterdir()] == ["00000002.events"]
    assert outside.read_text() == "precious"


def test_only_files_of_a_run_are_deleted(run: RunDirectory) -> None:
    run.segment_path(1).write_bytes(b"something")
    foreign = ["notes.txt", "1.events", "000000001.events", "00000003.events.bak"]
    for name in foreign:
        run.path.joinpath(name).write_text("foreign")
    run.path.joinpath("00000004.events").mkdir()
    assert [number for number, _ in run.segments()] == [1]
    run.delete()
    left = sorted(path.name for path in run.path.iterdir())
    assert left == sorted([*foreign, "00000004.events"])


@not_on_windows("nobody can delete a file that is open")
def test_a_deleted_directory_is_noticed(run: RunDirectory) -> None:
    run.path.joinpath("redvsblue.lock").unlink()
    run.path.rmdir()
    assert not run.is_intact
    assert not run.lock_again()
    run.delete()


@not_on_windows("nobody can delete a file that is open")
def test_a_run_that_was_replaced_is_not_deleted(run: RunDirectory) -> None:
    run.path.joinpath("redvsblue.lock").unlink()
    run.path.joinpath("redvsblue.lock").touch()
    run.segment_path(1).write_bytes(b"of another process")
    assert not run.is_intact
    run.delete()
    assert run.segment_path(1).exists()


def test_a_lock_whose_descriptor_was_closed_is_taken_again(run: RunDirectory) -> None:
    os.close(run._lock._fd)
    with open(os.devnull) as other:  # it may get the number of the descriptor
        assert not run.is_intact
        assert not is_locked(run.path / "redvsblue.lock")
        assert run.lock_again()
        assert run.is_intact
        assert is_locked(run.path / "redvsblue.lock")
        other.read()


def test_what_a_kill_left_of_a_creation_is_removed(tmp_path: Path) -> None:
    no_lock_yet, no_segment_yet = tmp_path / uuid4().hex, tmp_path / f"{uuid4().hex}-run"
    no_lock_yet.mkdir()
    no_segment_yet.mkdir()
    (no_segment_yet / "redvsblue.lock").touch()
    (tmp_path / "a-session-of-the-game").mkdir()
    (tmp_path / "a-session-of-the-game" / "redvsblue.lock").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "lock").write_text("of another program")
    (tmp_path / "photos" / "me.jpg").touch()
    assert list(JournalDirectory(tmp_path).dead_runs()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert len(list((tmp_path / "photos").iterdir())) == 2


def delete(path: Path, hook: Hook) -> None:
    run = RunDirectory.take_over(path)
    assert run is not None
    hook()
    run.delete()


@pytest.mark.timeout(600)  # without fork, each child imports everything again
@pytest.mark.parametrize("has_report", [True, False])
def test_what_a_kill_left_of_a_deletion_is_not_taken_for_a_run(
    tmp_path: Path, has_report: bool
) -> None:
    steps, has_begun, is_killed = 0, 0, True
    while is_killed:
        journal = tmp_path / str(steps)
        first = Segment(number=1, records=records(1, 3), indexed=3, confirmed=3)
        spares = (Segment(number=number, has_base=False) for number in (2, 3))
        path = write_run(journal, first, *spares, name=uuid4().hex)
        if has_report:
            (path / "redvsblue.report").write_text("{}")
        names = sorted(path.iterdir())
        is_killed = is_killed_after(steps, path, delete)
        steps += 1
        if not has_begun and sorted(path.iterdir()) == names:
            continue
        has_begun += 1
        assert JournalDirectory(journal).inspect() == []
        assert list(JournalDirectory(journal).dead_runs()) == []
        assert not path.exists()
    assert has_begun > 5  # three segments, what comes before and after them, and the whole


def test_a_directory_that_the_game_has_just_made_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "saves").mkdir()
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "lock").touch()
    assert list(JournalDirectory(tmp_path).dead_runs()) == []
    JournalDirectory(tmp_path).erase()
    assert (tmp_path / "saves").is_dir()
    assert (tmp_path / "profile" / "lock").is_file()


def test_a_run_is_created_against_one_that_erases_at_the_same_time(tmp_path: Path) -> None:
    journal, is_over = tmp_path / "journal", threading.Event()

    def erase() -> None:
        while not is_over.is_set():
            JournalDirectory(journal).erase()
            for run in JournalDirectory(journal).dead_runs():
                run.delete()

    erasers = [threading.Thread(target=erase) for _ in range(2)]
    for eraser in erasers:
        eraser.start()
    try:
        for number in range(300):
            run = RunDirectory.create(journal, f"session-{number}", RUN)
            run.segment_path(1).write_bytes(b"something")
            assert run.is_intact
            assert run.segment_path(1).read_bytes() == b"something"
            run.delete()
    finally:
        is_over.set()
        for eraser in erasers:
            eraser.join()


@needs_fork
def test_a_child_closes_its_copy_of_the_lock(run: RunDirectory) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run.delete()  # of the parent: nothing happens
            run.release()
            os.write(writing, b"%d" % run.is_intact)
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 10) == b"0"
    os.close(reading)
    os.waitpid(child, 0)
    assert run.is_intact
    assert run.path.is_dir()
    assert RunDirectory.is_living(run.path)


@needs_fork
def test_a_run_is_dead_although_its_child_lives(tmp_path: Path) -> None:
    script = f"""
import os, sys
from pathlib import Path
from redvsblue_telemetry._journal.run import RunDirectory
run = RunDirectory.create(Path({str(tmp_path)!r}), {SESSION!r}, {RUN!r})
run.segment_path(1).touch()
if os.fork() == 0:
    print("forked", flush=True)
    sys.stdin.read()
    os._exit(0)
sys.stdin.read(1)
os._exit(1)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"forked\n"
        assert RunDirectory.is_living(tmp_path / SESSION)
        parent.kill()
        parent.wait()
        assert not RunDirectory.is_living(tmp_path / SESSION)
        parent.stdin.close()  # ends the child


def test_a_file_that_another_program_has_open_for_a_moment_is_deleted(run: RunDirectory) -> None:
    path = run.segment_path(1)
    path.write_bytes(b"something")
    run.save_report(b"first")
    with path.open("rb") as scanned, (run.path / "redvsblue.report").open("rb") as indexed:
        for file in (scanned, indexed):
            threading.Timer(0.03, file.close).start()
        assert run.delete() is None
    assert not run.path.exists()


@needs_windows
def test_a_file_that_another_program_keeps_open_is_named(run: RunDirectory) -> None:
    run.segment_path(1).write_bytes(b"something")
    with run.segment_path(1).open("rb"):
        failed = run.delete()
        assert failed is not None
        assert failed.filename == str(run.segment_path(1))
        assert JournalDirectory(run.path.parent).inspect() == []  # it is no longer a run
    assert list(JournalDirectory(run.path.parent).dead_runs()) == []
    assert not run.path.exists()


def test_a_long_path_is_no_trouble(tmp_path: Path) -> None:
    journal = tmp_path / ("x" * 200) / ("y" * 200)
    run = RunDirectory.create(journal, SESSION, RUN)
    run.segment_path(1).write_bytes(b"something")
    assert run.save_report(b"last")
    run.release()
    assert absolute(journal).exists()
    JournalDirectory(journal).erase()
    assert not absolute(journal).exists()


# The report.


def test_a_report_that_another_program_reads_for_a_moment_is_replaced(run: RunDirectory) -> None:
    run.save_report(b"first")
    with (run.path / "redvsblue.report").open("rb") as indexed:
        threading.Timer(0.03, indexed.close).start()
        assert run.save_report(b"second")
    assert run.report() == b"second"


def test_a_report_takes_the_place_of_the_one_before(run: RunDirectory) -> None:
    assert run.report() is None
    assert run.save_report(b"first")
    assert run.save_report(b"second")
    assert run.report() == b"second"
    names = sorted(path.name for path in run.path.iterdir())
    assert names == ["redvsblue.lock", "redvsblue.report"]


@needs_modes
@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_only_its_owner_can_read_a_report(run: RunDirectory, umask: int) -> None:
    before = os.umask(umask)
    try:
        run.save_report(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((run.path / "redvsblue.report").stat().st_mode) == 0o600


def test_a_run_with_a_report_alone_is_there_for_the_next_start(
    run: RunDirectory, tmp_path: Path
) -> None:
    run.save_report(b"last")
    (run.path / "redvsblue.report.new").write_bytes(b"torn by a kill")
    run.release()
    assert run.path.exists()
    again = RunDirectory.take_over(run.path)
    assert again is not None
    assert again.report() == b"last"
    assert again.delete() is None
    assert list(tmp_path.joinpath("journal").iterdir()) == []


def test_without_its_report_it_is_empty(run: RunDirectory) -> None:
    run.save_report(b"last")
    assert run.delete_report() is None
    run.release()
    assert not run.path.exists()


def test_no_report_comes_back_after_a_no(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def interrupted(source: Path, target: Path) -> Path:
        run.delete()  # by another thread
        run.path.mkdir(exist_ok=True)  # so that the worst happens: the file can be made
        source.touch()
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    run.save_report(b"x")
    assert not run.path.exists()
    run.save_report(b"x")
    assert not run.path.exists()


@needs_links
def test_a_report_is_not_written_through_a_link(run: RunDirectory, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("a player's")
    for name in ("redvsblue.report", "redvsblue.report.new"):
        (run.path / name).symlink_to(other)
    with pytest.raises(OSError, match="symbolic"):
        run.report()
    run.save_report(b"x")
    assert other.read_text() == "a player's"
    assert run.report() == b"x"


def test_a_report_that_cannot_be_written_changes_nothing(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save_report(b"first")

    def refuse(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    assert not run.save_report(b"second")
    assert run.report() == b"first"
    assert not (run.path / "redvsblue.report.new").exists()
