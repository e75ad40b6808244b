"""Threads that need a segment at the same time: the worker is too slow, or there is none yet."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from benchmarks.notes import Notes
from redvsblue_telemetry._journal.directory import JournalDirectory, RunDirectory
from redvsblue_telemetry._journal.layout import Header
from redvsblue_telemetry._journal.segment import Segment
from redvsblue_telemetry._journal.store import JournalStore
from redvsblue_telemetry._recording.codec import EncodedEvent
from redvsblue_telemetry._recording.prefixes import prefix_of
from tests.client.test_fork import needs_fork
from tests.support.wait import PATIENCE, wait_until

HEADER = Header(session_id="session", run="run", segment=0, data_bytes=0, started_at=1, previous=0)


def test_threads_that_make_segments_at_the_same_time_leave_the_numbers_sure(
    tmp_path: Path,
) -> None:
    notes = Notes(tmp_path / "notes")
    child = multiprocessing.Process(target=flood, args=(tmp_path / "journal", tmp_path / "notes"))
    child.start()
    assert wait_until(lambda: all(notes.returned(thread) > 100 for thread in range(4)), PATIENCE)
    child.kill()
    child.join()
    found: dict[int, list[int]] = {thread: [] for thread in range(4)}
    (run,) = JournalDirectory(tmp_path / "journal").dead_runs()
    while taken := run.take(500):
        for event, _ in taken:
            thread, n = json.loads(event.data).values()
            found[thread].append(n)
    assert run.torn <= 1
    run.delete()
    for thread, numbers in found.items():
        assert numbers == list(range(1, len(numbers) + 1))
        assert notes.returned(thread) <= len(numbers) <= notes.begun(thread)
    notes.close()


def test_no_event_is_kept_in_memory_once_the_journal_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has made a segment without a file in the meantime."""
    store = JournalStore(max_bytes=2**30)
    run = RunDirectory.create(tmp_path, "session", "run")
    anonymous, file = store._anonymous, store._file
    is_file_made, is_other_made, is_open = (threading.Event() for _ in range(3))
    data = b"x" * 15_000

    def push() -> None:
        store.push(EncodedEvent(prefix_of(b'"x"'), 1, data))

    def make_other() -> Segment:
        assert is_file_made.wait(PATIENCE)
        segment = anonymous()
        is_other_made.set()
        assert is_open.wait(PATIENCE)
        return segment

    def make_file(*args: Any) -> Segment:
        segment = file(*args)
        is_file_made.set()
        assert is_other_made.wait(PATIENCE)
        return segment

    monkeypatch.setattr(store, "_anonymous", make_other)
    monkeypatch.setattr(store, "_file", make_file)
    other = threading.Thread(target=push)
    other.start()
    store.open(run, HEADER)
    is_open.set()
    other.join()
    for _ in range(19):  # in all, more than a segment has room for
        push()
    assert sum(path.read_bytes().count(data) for _, path in run.segments()) == 20
    store.close(keep=False)
    run.delete()


@needs_fork
def test_a_fork_in_the_middle_of_making_a_segment_leaves_it_to_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a signal handler that comes while an emit finds no segment ready."""
    store = JournalStore(max_bytes=2**30)
    run = RunDirectory.create(tmp_path, "session", "run")
    store.open(run, HEADER)
    file, children = store._file, [-1]

    def fork_meanwhile(*args: Any) -> Segment:
        monkeypatch.undo()
        segment = file(*args)
        children[0] = os.fork()
        if children[0] == 0:
            store.begin()
        return segment

    monkeypatch.setattr(store, "_file", fork_meanwhile)
    for _ in range(20):
        store.push(EncodedEvent(prefix_of(b'"x"'), 1, b"x" * 15_000 if children[0] else b"child"))
    if children[0] == 0:
        os._exit(0)
    assert os.waitpid(children[0], 0)[1] == 0
    assert len(run.segments()) == 2
    assert not any(b"child" in path.read_bytes() for _, path in run.segments())
    assert [event.data for event in store.drain(100)] == [b"x" * 15_000] * 20
    store.close(keep=False)
    run.delete()


def test_a_ctrl_c_in_the_middle_of_a_count_does_no_harm() -> None:
    place = 1
    while is_interrupted_at(place):
        place += 1
    assert place > 10


def is_interrupted_at(place: int) -> bool:
    """Interrupt a count at the start of a function, and return whether there were so many."""
    store, left = JournalStore(max_bytes=2**30), place

    def interrupt(frame: FrameType, _: str, __: object) -> None:
        nonlocal left
        left -= "_journal" in frame.f_code.co_filename
        if left == 0:
            left = -1
            raise KeyboardInterrupt  # Python handles signals here, too

    for number in range(20):  # more than a segment has room for
        store.push(EncodedEvent(prefix_of(b'"x"'), number, b"x" * 15_000))
    sys.settrace(interrupt)
    try:
        len(store)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    times: list[int] = []
    other = threading.Thread(
        target=lambda: times.extend(event.time for event in store.drain(99)), daemon=True
    )
    other.start()
    other.join(PATIENCE)
    assert times == list(range(20)), place
    assert store.departed_and_waiting() == (20, 0), place
    store.close(keep=False)
    return left < 0


def flood(journal: Path, path: Path) -> None:
    notes = Notes(path)
    run = RunDirectory.create(journal, "session", "run")
    store = JournalStore(max_bytes=2**30)
    store.open(run, HEADER)
    text = b"x" * 15_000

    def emit(thread: int) -> None:
        slot = Notes.slot(thread)
        for n in range(1, 2000):
            data = b'{"thread":%d,"n":%d}' % (thread, n)
            notes.words[slot] = n
            # A short one fits into a segment that another thread has just found full.
            kind = b"short" if n % 3 == 0 else text
            store.push(EncodedEvent(prefix_of(b'"%b"' % kind), 1, data))
            notes.words[slot + 1] = n

    for thread in range(4):
        threading.Thread(target=emit, args=(thread,), daemon=True).start()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        store.maintain()
        time.sleep(0.01)
