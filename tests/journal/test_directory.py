"""The journal's directory: which runs are dead, and what is erased."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from redvsblue_telemetry._journal.dead import DeadRun
from redvsblue_telemetry._journal.directory import JournalDirectory
from redvsblue_telemetry._journal.run import RunDirectory
from tests.support.journal import RUN, SESSION, STARTED_AT, Segment, records, write_run
from tests.support.systems import needs_links


def segment(session_id: str, age: int = 0, **more: object) -> Segment:
    return Segment(
        session_id=session_id,
        started_at=STARTED_AT - age,
        records=records(1, 10),
        **more,  # type: ignore[arg-type]
    )


def test_the_oldest_run_comes_first(tmp_path: Path) -> None:
    for name, age in (("b", 1000), ("a", 0), ("c", 2000)):
        write_run(tmp_path, segment(name, age), name=name)
    names = []
    for run in JournalDirectory(tmp_path).dead_runs():
        names.append(run.header.session_id)
        run.release()
    assert names == ["c", "b", "a"]


def test_a_run_that_is_locked_is_left_out(tmp_path: Path) -> None:
    living = RunDirectory.create(tmp_path, SESSION, RUN)
    living.segment_path(1).write_bytes(segment(SESSION).content)
    write_run(tmp_path, segment("dead"), name="dead")
    (first,) = JournalDirectory(tmp_path).dead_runs()
    assert first.path.name == "dead"
    assert list(JournalDirectory(tmp_path).dead_runs()) == []
    first.release()
    living.delete()


def test_a_directory_that_does_not_exist_has_nothing(tmp_path: Path) -> None:
    journal = JournalDirectory(tmp_path / "journal")
    assert list(journal.dead_runs()) == []
    assert journal.inspect() == []
    assert journal.size() == 0
    journal.erase()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"redvsblue-telemetry journal 7\n".ljust(16384, b"\0"), "this version reads 1"),
        (b"junk" * 9999, "it has no journal header"),
    ],
)
def test_a_run_that_cannot_be_read_is_left_alone_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    path = write_run(tmp_path, segment("dead"), name="dead") / "00000001.events"
    path.write_bytes(content)
    write_run(tmp_path, segment("other"), name="other")
    journal = JournalDirectory(tmp_path)
    with caplog.at_level(logging.WARNING, "redvsblue_telemetry"):
        (run,) = journal.dead_runs()
    assert journal.size() == run.size
    assert run.header.session_id == "other"
    run.delete()
    (line,) = caplog.messages
    assert str(path.parent) in line
    assert reason in line
    assert path.read_bytes() == content
    (report,) = JournalDirectory(tmp_path).inspect()
    assert reason in str(report.fault)
    JournalDirectory(tmp_path).erase()
    assert not tmp_path.exists()


@pytest.mark.parametrize("content", [b"", bytes(100_000)])
def test_a_run_that_was_killed_before_it_began_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    write_run(tmp_path, segment("dead")).joinpath("00000001.events").write_bytes(content)
    assert JournalDirectory(tmp_path).inspect() == []
    assert list(JournalDirectory(tmp_path).dead_runs()) == []
    assert list(tmp_path.iterdir()) == []
    assert caplog.messages == []


def test_erasing_leaves_living_runs_and_foreign_files(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    living = RunDirectory.create(journal, SESSION, RUN)
    living.segment_path(1).write_bytes(segment(SESSION).content)
    write_run(journal, segment("dead"), name="dead")
    write_run(journal, segment("no lock"), name="no lock", has_lock=False)
    journal.joinpath("notes.txt").touch()
    JournalDirectory(journal).erase()
    assert sorted(path.name for path in journal.iterdir()) == [SESSION, "notes.txt"]
    assert living.segment_path(1).exists()
    living.delete()


@needs_links
def test_erasing_follows_no_link(tmp_path: Path) -> None:
    run = write_run(tmp_path / "outside", segment("dead"), name="dead")
    journal = tmp_path / "journal"
    journal.mkdir()
    journal.joinpath("link").symlink_to(run)
    JournalDirectory(journal).erase()
    assert [path.name for path in journal.iterdir()] == ["link"]
    assert (run / "00000001.events").exists()


@pytest.mark.parametrize("moment", ["locked", "not read yet", "read"])
def test_erasing_reaches_a_run_that_is_being_opened(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    moment: str,
) -> None:
    path = tmp_path / "journal"
    for name, age in (("a", 1000), ("b", 0)):
        write_run(path, segment(name, age), name=name)
    journal = JournalDirectory(path)
    left: list[list[Path]] = []

    def erase() -> None:
        thread = threading.Thread(target=journal.erase)
        thread.start()
        thread.join()
        left.append(list(path.iterdir()) if path.exists() else [])

    take_over = RunDirectory.take_over

    def taken_over(path: Path) -> RunDirectory | None:
        run = take_over(path)
        if threading.current_thread() is threading.main_thread() and not left:
            erase()
        return run

    def opened(run: RunDirectory) -> DeadRun:
        if moment == "not read yet":
            erase()
        dead = DeadRun(run)
        if moment == "read":
            erase()
        return dead

    if moment == "locked":
        monkeypatch.setattr(RunDirectory, "take_over", taken_over)
    else:
        monkeypatch.setattr("redvsblue_telemetry._journal.directory.DeadRun", opened)
    assert list(journal.dead_runs()) == []
    # A run that has just been locked is erased by the thread that has locked it.
    assert left == [[path / "a"] if moment == "locked" else []]
    assert list(path.rglob("*")) == []
    assert caplog.messages == []


def test_a_look_changes_nothing_and_says_what_waits(tmp_path: Path) -> None:
    living = RunDirectory.create(tmp_path, SESSION, RUN)
    living.segment_path(1).write_bytes(segment(SESSION, torn=b"[1795600").content)
    damaged = segment("dead", 1000, version="1.4", confirmed=3, torn=b"[1795600", indexed=5)
    write_run(tmp_path, damaged, name="dead")
    before = sorted((path, path.stat().st_size) for path in tmp_path.rglob("*"))
    dead, alive = JournalDirectory(tmp_path).inspect()
    assert (dead.session_id, dead.version, dead.is_living) == ("dead", "1.4", False)
    assert (dead.events, dead.oldest, dead.torn) == (7, STARTED_AT + 4, 1)
    assert (alive.session_id, alive.is_living, alive.events, alive.torn) == (SESSION, True, 10, 0)
    assert alive.bytes + dead.bytes == JournalDirectory(tmp_path).size() > 65536
    assert sorted((path, path.stat().st_size) for path in tmp_path.rglob("*")) == before
    living.delete()
