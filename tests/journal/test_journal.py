"""A client's journal: it is opened once, however many threads ask for it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from redvsblue_telemetry._journal.journal import Journal
from redvsblue_telemetry._journal.run import RunDirectory
from redvsblue_telemetry._recording.codec import EventCodec


def made(path: Path) -> Journal:
    """A journal whose first push opens it, as in a forked child."""
    journal = Journal(
        path,
        EventCodec("session"),
        capacity=None,
        memory_capacity=100,
        max_bytes=2**30,
        high_water=100,
        on_high_water=lambda: None,
        on_first_push=lambda: None,
    )
    journal.store.on_first_push = journal.open
    return journal


def push(journal: Journal, number: int) -> None:
    journal.store.push(journal._codec.encode("x", {"n": number}))


def test_threads_that_emit_first_wait_until_the_journal_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is kept in memory would not survive a kill of the forked child."""
    journal, create = made(tmp_path), RunDirectory.create
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
    journal, create = made(tmp_path), RunDirectory.create
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
