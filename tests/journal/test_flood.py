"""A flood of large events that outruns the worker, so that the emitting threads make segments."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import NoReturn

from benchmarks.notes import Notes
from redvsblue_telemetry._journal.directory import JournalDirectory, RunDirectory
from redvsblue_telemetry._journal.layout import Header
from redvsblue_telemetry._journal.store import JournalStore
from redvsblue_telemetry._recording.codec import EncodedEvent, prefix_of
from tests.client.test_fork import needs_fork
from tests.support.wait import wait_until

PATIENCE = 30.0  # seconds


@needs_fork
def test_threads_that_make_segments_at_the_same_time_leave_the_numbers_sure(
    tmp_path: Path,
) -> None:
    notes = Notes(tmp_path / "notes")
    child = os.fork()
    if child == 0:
        flood(tmp_path / "journal", notes)
    assert wait_until(lambda: all(notes.returned(thread) > 100 for thread in range(4)), PATIENCE)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
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


def flood(journal: Path, notes: Notes) -> NoReturn:
    try:
        run = RunDirectory.create(journal, "session", "run")
        store = JournalStore(max_bytes=2**30)
        header = Header(session_id="session", run="run", segment=0, data_bytes=0, started_at=1)
        store.open(run, header)
        text = b"x" * 15_000

        def emit(thread: int) -> None:
            slot = Notes.slot(thread)
            for n in range(1, 2000):
                data = b'{"thread":%d,"n":%d}' % (thread, n)
                notes.words[slot] = n
                store.push(EncodedEvent(prefix_of(b'"%b"' % text), 1, data))
                notes.words[slot + 1] = n

        for thread in range(4):
            threading.Thread(target=emit, args=(thread,), daemon=True).start()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            store.maintain()
            time.sleep(0.01)
    finally:
        os._exit(1)
