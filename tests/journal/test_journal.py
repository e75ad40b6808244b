"""A client's journal: it is opened once, however many threads ask for it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from redvsblue_telemetry._journal.dead import RunFiles
from redvsblue_telemetry._journal.journal import Journal
from redvsblue_telemetry._journal.run import RunDirectory
from redvsblue_telemetry._report import Report, State, decode_report, encode_report
from tests.support.journal import journal_of_a_session
from tests.support.killed_steps import Hook, is_killed_after


def push(journal: Journal, number: int) -> None:
    journal.store.push(journal._codec.encode("x", {"n": number}))


def test_threads_that_emit_first_wait_until_the_journal_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is kept in memory would not survive a kill of the forked child."""
    journal, create = journal_of_a_session(tmp_path), RunDirectory.create
    opened: list[RunDirectory] = []
    are_here = threading.Barrier(5)

    def create_slowly(*arguments: str | Path) -> RunDirectory:
        time.sleep(0.2)
        opened.append(create(*arguments))  # type: ignore[arg-type]
        return opened[-1]

    def emit(number: int) -> None:
        are_here.wait()
        push(journal, number)

    def start_worker() -> None:
        are_here.wait()
        journal.open()

    monkeypatch.setattr(RunDirectory, "create", create_slowly)
    threads = [threading.Thread(target=emit, args=(number,)) for number in range(4)]
    threads.append(threading.Thread(target=start_worker))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (run,) = opened
    (segment,) = [path for _, path in run.segments()]
    content = segment.read_bytes()
    assert [b'{"n":%d}' % number in content for number in range(4)] == [True] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["session"]
    journal.close(keep=False)
    assert list(tmp_path.iterdir()) == []


def test_an_event_in_the_middle_of_the_opening_does_not_wait_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, create = journal_of_a_session(tmp_path), RunDirectory.create
    opened: list[RunDirectory] = []

    def create_interrupted(*arguments: str | Path) -> RunDirectory:
        opened.append(create(*arguments))  # type: ignore[arg-type]
        push(journal, 1)  # as a signal handler does
        return opened[-1]

    monkeypatch.setattr(RunDirectory, "create", create_interrupted)
    push(journal, 2)
    assert [event.data for event in journal.store.drain(10)] == [b'{"n":1}', b'{"n":2}']
    assert len(opened) == 1
    journal.close(keep=False)


REPORT = encode_report(
    Report(session_id="session", number=3, state=State.ENDED, reason="stopped", started_at=7)
)


@pytest.mark.parametrize("is_settled", [True, False])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("keep_report", [True, False])
def test_a_report_stays_for_the_next_start_with_its_events_or_if_it_is_wanted(
    tmp_path: Path, is_settled: bool, keep: bool, keep_report: bool
) -> None:
    journal = journal_of_a_session(tmp_path)
    journal.save_report(REPORT)  # there is no run yet
    push(journal, 1)
    journal.save_report(REPORT)
    if is_settled:
        journal.store.drain(1)
        journal.store.confirm(1)
    left = journal.close(keep=keep, keep_report=keep_report)
    assert left == (keep and not is_settled)
    journal.save_report(REPORT)  # not any more
    runs = list(journal.directory.dead_runs())
    assert len(runs) == (keep and (keep_report or not is_settled))
    for run in runs:
        assert run.report == decode_report(REPORT)
        assert len(run.take(10)) == left
        run.delete()
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_which_only_the_report_is_left_is_a_dead_run(tmp_path: Path) -> None:
    journal = journal_of_a_session(tmp_path)
    push(journal, 1)
    journal.save_report(REPORT)
    journal.close(keep=True, keep_report=True)
    path = tmp_path / "session"
    for segment in path.glob("*.events"):
        segment.unlink()
    (shown,) = journal.directory.inspect()
    assert (shown.session_id, shown.started_at, shown.events) == ("session", 7, 0)
    assert shown.report == decode_report(REPORT)
    assert journal.directory.size() == len(REPORT)
    (run,) = journal.directory.dead_runs()
    assert (run.header.session_id, run.header.started_at, run.waiting) == ("session", 7, 0)
    assert run.take(10) == []
    assert run.is_settled
    run.release()
    (again,) = journal.directory.dead_runs()
    again.release()
    (path / "redvsblue.report").write_bytes(b"torn by a power cut")
    assert list(journal.directory.dead_runs()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_is_torn_or_of_another_run_is_not_used(tmp_path: Path) -> None:
    for torn in (b"", REPORT[:-4], REPORT.replace(b"session", b"another", 2), b"\xff" * 9):
        journal = journal_of_a_session(tmp_path)
        push(journal, 1)
        journal.save_report(torn)
        journal.close(keep=True)
        (run,) = journal.directory.dead_runs()
        assert (run.report, run.is_report_lost, run.waiting) == (None, True, 1)
        run.delete()


def test_a_no_erases_the_report_too(tmp_path: Path) -> None:
    journal = journal_of_a_session(tmp_path)
    push(journal, 1)
    journal.save_report(REPORT)
    journal.erase()
    journal.save_report(REPORT)
    assert not tmp_path.exists()


def test_an_erasure_leaves_nothing_to_be_sent_if_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = journal_of_a_session(tmp_path)
    push(journal, 1)
    report = Report(session_id="session", number=1, state=State.RUNNING, last_seq=1)
    journal.save_report(encode_report(report))
    left: list[list[str]] = []
    unlink = Path.unlink

    def look_and_unlink(path: Path, missing_ok: bool = False) -> None:
        left.append(sorted(each.suffix for each in tmp_path.glob("session/*") if each.is_file()))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", look_and_unlink)
    journal.erase()
    assert left[0] == [".deleted", ".events", ".lock"]
    assert all(".deleted" in suffixes for suffixes in left if ".events" in suffixes)
    assert not any(".report" in suffixes for suffixes in left)
    assert not tmp_path.exists()


def end_well(directory: Path, hook: Hook) -> None:
    journal = journal_of_a_session(directory)
    for number in range(5):
        push(journal, number)
    journal.maintain()  # makes spares
    journal.store.confirm(5)
    journal.store.drain(5)
    hook()
    journal.close(keep=True)


@pytest.mark.timeout(600)  # without fork, each child imports everything again
def test_what_a_kill_left_of_a_good_end_says_that_all_is_settled(tmp_path: Path) -> None:
    steps, left, is_killed = 0, set(), True
    while is_killed:
        directory = tmp_path / str(steps)
        is_killed = is_killed_after(steps, directory, end_well)
        for run in directory.glob("*/"):
            if segments := RunDirectory.segments_in(run):
                files = RunFiles(segments)
                left.add(len(segments))
                assert (files.confirmed, files.last_number()) == (5, 5), segments
        steps += 1
    assert {1, 2} <= left
