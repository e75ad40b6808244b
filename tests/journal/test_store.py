"""The journal's store: files, limits, syncs, trouble. What all stores do is in recording/."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from redvsblue_telemetry._journal import segment as segment_module
from redvsblue_telemetry._journal.dead import RunFiles
from redvsblue_telemetry._journal.directory import JournalDirectory
from redvsblue_telemetry._journal.layout import Header
from redvsblue_telemetry._journal.run import RunDirectory
from redvsblue_telemetry._journal.store import JournalStore
from redvsblue_telemetry._recording.codec import EventCodec
from redvsblue_telemetry._recording.emit import Flag, make_emit
from redvsblue_telemetry._recording.ledger import DropReason, Ledger
from tests.support.systems import needs_fork, not_on_windows

HEADER = Header(session_id="session", run="run", segment=0, data_bytes=0, started_at=1, previous=0)


class Bench:
    """A store with a directory, the ``emit`` that fills it, a clock, and no worker."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.now = 0.0
        self.nudges = 0
        self.troubles: list[OSError] = []
        self.codec = EventCodec("session")
        options = {"max_bytes": 2**30, "max_event_bytes": 1024} | options
        self.store = JournalStore(on_high_water=self._note_nudge, clock=lambda: self.now, **options)
        self.store.on_trouble = self.troubles.append
        self.switch = Flag()
        self.switch.on = True
        self.rejected: list[Exception] = []
        self.emit = make_emit(
            self.switch,
            self.codec,
            self.store,
            Ledger(self.store),
            lambda error, _: self.rejected.append(error),
        )
        self.run: RunDirectory | None = None

    def _note_nudge(self) -> None:
        self.nudges += 1

    def open(self) -> Bench:
        self.run = RunDirectory.create(self.path, "session", "run")
        self.store.open(self.run, HEADER)
        return self

    def emit_many(self, count: int, first: int = 1) -> None:
        for n in range(first, first + count):
            self.emit("hit", {"n": n, "pad": "x" * 100})

    def files(self) -> list[Path]:
        return sorted(self.path.rglob("*.events"))

    def bytes_on_disk(self) -> int:
        return sum(file.stat().st_size for file in self.files())

    def drained(self, limit: int = 10**6) -> list[tuple[int, int]]:
        """Each event's own number and the store's."""
        return [
            (json.loads(event.data)["n"], number)
            for event, number in self.store.drain_numbered(limit)
        ]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal").open()
    yield bench
    bench.store.erase()


def in_order(first: int, last: int) -> list[tuple[int, int]]:
    return [(n, n) for n in range(first, last + 1)]


def dead_events(path: Path) -> list[tuple[int, int]]:
    """What the next start finds, each event with its number."""
    found: list[tuple[int, int]] = []
    for run in JournalDirectory(path).dead_runs():
        while taken := run.take(500):
            found += [(json.loads(event.data)["n"], number) for event, number in taken]
        assert run.torn == 0
        run.release()
    return found


# Rotation.


def test_without_a_worker_emit_makes_its_own_segments(bench: Bench) -> None:
    bench.emit_many(5000)
    assert len(bench.files()) > 2
    assert bench.nudges == len(bench.files()) - 1
    assert (len(bench.store), bench.store.pushed) == (5000, 5000)
    assert bench.drained() == in_order(1, 5000)


def test_the_worker_has_spares_ready_so_that_emit_makes_no_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.store.maintain()
    ready = len(bench.files())
    assert ready >= 3

    def refuse(*_: object, **__: object) -> int:
        raise AssertionError("a system call in emit")

    with monkeypatch.context() as patch:
        for call in ("open", "write", "unlink", "pwrite", "readv"):  # Windows lacks the last two
            patch.setattr(os, call, refuse, raising=False)
        bench.emit_many(2000)
    assert bench.nudges > 0
    assert len(bench.files()) == ready
    assert bench.drained() == in_order(1, 2000)


def test_while_the_disk_hangs_emit_goes_on_in_memory(bench: Bench) -> None:
    bench.emit_many(10)
    bench.store._touch_disk()  # as the worker does before each call that may take long
    bench.now += 1
    files = bench.files()
    bench.emit_many(5000, first=11)
    assert bench.files() == files
    assert bench.drained() == in_order(1, 5010)
    assert bench.troubles == []


def test_a_file_made_late_is_given_up_and_the_numbers_stay_in_order(bench: Bench) -> None:
    store = bench.store
    assert bench.run is not None
    late = store._file(bench.run, HEADER)
    bench.emit_many(3000)  # makes files with higher numbers
    assert store._rotation.line_up(late) is False
    late.delete()
    bench.emit_many(3000, first=3001)
    store.close(keep=True)
    bench.run.release()
    assert dead_events(bench.path) == in_order(1, 6000)


def test_threads_and_a_worker_keep_the_order_of_each_thread(bench: Bench) -> None:
    each, done = 5000, threading.Event()
    drained: list[tuple[Any, int]] = []
    interval = sys.getswitchinterval()

    def emit(name: int) -> None:
        for n in range(each):
            bench.emit("hit", thread=name, n=n)

    def work() -> None:
        while not done.is_set() or bench.store:
            bench.store.maintain()
            drained.extend(bench.store.drain_numbered(50))
            bench.store.confirm(bench.store.departed)

    emitters = [threading.Thread(target=emit, args=(name,)) for name in range(3)]
    worker = threading.Thread(target=work)
    sys.setswitchinterval(1e-5)
    try:
        for thread in (*emitters, worker):
            thread.start()
        for thread in emitters:
            thread.join()
        done.set()
        worker.join()
    finally:
        sys.setswitchinterval(interval)

    assert [number for _, number in drained] == list(range(1, 3 * each + 1))
    for name in range(3):
        events = (json.loads(event.data) for event, _ in drained)
        assert [data["n"] for data in events if data["thread"] == name] == list(range(each))
    bench.store.maintain()
    assert bench.store.close(keep=True) == 0


# Records.


def test_a_raw_value_that_is_not_json_costs_no_other_event(bench: Bench) -> None:
    for raw in (b"{", b'"', b"][", b"\0", b'],"x"'):
        bench.emit("raw", {"n": 1})
        bench.emit("raw", {"n": msgspec.Raw(raw)})
    events = bench.store.drain_numbered(99)
    assert [number for _, number in events] == list(range(1, 11))
    assert [event.data for event, _ in events[::2]] == [b'{"n":1}'] * 5
    assert events[1][0].data == b'{"n":{}'


def test_an_event_with_an_envelope_of_its_own_keeps_it(bench: Bench) -> None:
    bench.store.push(bench.codec.encode_event({"type": "a", "id": "mine", "data": {"n": 1}}))
    ((event, number),) = bench.store.drain_numbered(9)
    assert json.loads(bench.codec.to_wire(event, number))["id"] == "mine"


def test_a_record_that_fits_into_no_segment_is_an_error_and_no_endless_loop(bench: Bench) -> None:
    event = bench.codec.encode("hit", {})
    event.data = b"x" * 300_000
    with pytest.raises(ValueError, match="out of range"):
        bench.store.push(event)
    assert len(bench.store) == 0


# Limits.


def test_files_keep_to_the_limit_and_the_oldest_events_expire(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", max_bytes=2**20).open()
    for first in range(1, 20_001, 500):
        bench.emit_many(500, first)
        bench.store.maintain()
        assert bench.bytes_on_disk() <= 2**20
    store = bench.store
    assert store.expired > 0
    assert store.dropped == 0
    assert store.expired + len(store) == store.pushed == 20_000
    assert bench.drained() == in_order(store.expired + 1, 20_000)
    store.erase()


def test_without_a_worker_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", max_bytes=2**20).open()
    bench.emit_many(20_000)
    assert bench.bytes_on_disk() <= 2**20 + 2**18
    assert bench.store.expired + len(bench.store) == 20_000
    assert bench.drained() == in_order(bench.store.expired + 1, 20_000)
    bench.store.erase()


def test_a_capacity_that_is_given_holds_as_without_a_journal(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", capacity=100).open()
    bench.emit_many(1000)
    assert (len(bench.store), bench.store.dropped, bench.store.expired) == (100, 900, 0)
    assert bench.drained() == in_order(901, 1000)
    bench.store.erase()


# Syncs.


def test_new_events_are_synced_within_a_second_and_old_ones_not_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[float] = []

    def note(fd: int) -> None:
        synced.append(bench.now)
        os.fsync(fd)

    monkeypatch.setattr(segment_module, "_sync_data", note)
    emitted_at = []
    while bench.now < 10:
        if bench.now < 5:
            bench.emit("hit")
            emitted_at.append(bench.now)
        until = bench.store.maintain()
        assert until is not None
        assert until <= bench.now + 1
        bench.now += 0.1
    for at in emitted_at:
        assert any(at <= moment <= at + 1 for moment in synced)
    assert max(synced) < 6.5
    assert len(synced) < 20


# Settled events.


def test_the_files_of_settled_events_go_and_the_rest_is_left(bench: Bench) -> None:
    bench.emit_many(6000)
    first = bench.files()[0]
    assert bench.drained(4000) == in_order(1, 4000)
    bench.store.maintain()
    assert first.exists()  # taken is not settled
    bench.store.confirm(3000)
    bench.now += 1
    bench.store.maintain()
    assert not first.exists()
    assert bench.store.close(keep=True) == 3000
    assert bench.run is not None
    bench.run.release()
    assert dead_events(bench.path) == in_order(3001, 6000)


def test_the_files_that_stay_say_what_was_settled_in_those_that_go(bench: Bench) -> None:
    bench.emit_many(5000)
    before = bench.files()
    bench.drained()
    bench.store.confirm(4000)
    bench.store.maintain()  # long before the next sync
    left = bench.files()
    assert left[0] not in before[:2]
    assert bench.run is not None
    files = RunFiles(bench.run.segments())
    assert files.confirmed == 4000
    bench.store.confirm(5000)
    for n in range(5001, 5004):
        bench.emit("hit", {"n": n})
    bench.store.maintain()
    assert RunFiles(bench.run.segments()).confirmed >= files.confirmed


# Losses.


def test_it_knows_which_events_it_has_dropped_for_each_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capacity=1000).open()
    store = bench.store
    assert store.take_losses() == []
    bench.emit_many(1500)
    assert store.take_losses() == [(1, 500, DropReason.OVERFLOW)]
    bench.emit_many(20, first=1501)
    store.maintain()
    bench.emit_many(20, first=1521)
    assert len(store) == 1000
    assert store.take_losses() == [(501, 540, DropReason.OVERFLOW)]
    assert bench.drained(60) == in_order(541, 600)
    while not (losses := store.take_losses()):
        assert store.drop_oldest_segment() > 0
    ((first, last, reason),) = losses
    assert (first, reason) == (601, DropReason.EXPIRED)
    assert last - first + 1 == store.expired
    store.erase()
    assert store.take_losses() == [(last + 1, 1540, DropReason.SWITCHED_OFF)]
    bench.emit_many(1200, first=1541)
    assert store.take_losses() == [(1541, 1740, DropReason.OVERFLOW)]
    assert store.clear() == 1000  # the caller's to account for
    assert store.take_losses() == []


def test_the_losses_of_a_flood_are_the_gaps_in_the_numbers(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_bytes=2_000_000).open()
    found, lost = [], []
    for first in range(1, 40_000, 4000):
        bench.emit_many(4000, first=first)
        found += [number for _, number in bench.drained(300)]
        bench.store.maintain()
        lost += bench.store.take_losses()
    found += [number for _, number in bench.drained()]
    lost += bench.store.take_losses()
    assert {reason for *_, reason in lost} == {DropReason.EXPIRED}
    missing = [number for first, last, _ in lost for number in range(first, last + 1)]
    assert missing == sorted(missing)
    assert len(missing) == bench.store.expired > 0
    assert sorted(found + missing) == list(range(1, 40_001))
    bench.store.erase()


def test_a_run_that_ended_well_leaves_no_file(bench: Bench) -> None:
    bench.emit_many(3000)
    bench.drained()
    bench.store.confirm(3000)
    assert bench.store.close(keep=True) == 0
    assert bench.files() == []
    bench.emit_many(1)  # from a thread that was late
    assert bench.files() == []


# The player's no.


def test_nothing_is_left_when_it_is_erased_while_threads_emit(bench: Bench) -> None:
    store, done = bench.store, threading.Event()

    def emit() -> None:
        while not done.is_set():
            bench.emit_many(50)

    threads = [threading.Thread(target=emit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        store.maintain()
        store.erase()
        assert bench.run is not None
        bench.run.delete()
        bench.open()
    store.erase()
    done.set()
    for thread in threads:
        thread.join()
    store.maintain()
    assert bench.files() == []
    waiting = store.drain_numbered(10**6)
    assert store.pushed == len(waiting) + store.erased + store.dropped
    numbers = [number for _, number in waiting]
    assert all(one < following for one, following in pairwise(numbers))


def test_numbers_go_on_in_the_next_run(bench: Bench) -> None:
    bench.emit_many(10)
    bench.store.erase()
    assert (bench.store.erased, len(bench.store)) == (10, 0)
    bench.emit_many(5, first=11)  # in memory
    bench.open()
    bench.emit_many(5, first=16)
    assert bench.run is not None
    bench.store.close(keep=True)
    bench.run.release()
    assert dead_events(bench.path) == in_order(16, 20)


# Trouble.


@not_on_windows("nobody can delete a file that is open")
def test_trouble_is_reported_once_and_events_stay_in_memory_until_the_disk_is_back(
    bench: Bench,
) -> None:
    assert bench.run is not None
    bench.emit_many(10)
    shutil.rmtree(bench.run.path)
    bench.emit_many(3000, first=11)
    bench.store.maintain()
    bench.emit_many(1000, first=3011)
    assert len(bench.troubles) == 1
    assert isinstance(bench.troubles[0], FileNotFoundError)
    bench.run.path.mkdir()
    bench.now += 31
    bench.store.maintain()
    bench.emit_many(10, first=4011)
    assert bench.files()
    assert bench.drained() == in_order(1, 4020)
    assert len(bench.troubles) == 1


@not_on_windows("nobody can delete a file that is open")
def test_in_trouble_memory_is_bounded(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", memory_capacity=1000).open()
    assert bench.run is not None
    shutil.rmtree(bench.run.path)
    bench.emit_many(20_000)
    store = bench.store
    assert len(store) <= 5000  # what waits in the file that is still mapped, or the capacity
    assert store.dropped + len(store) == 20_000
    assert len(store._segments) < 8
    store.erase()


def test_a_directory_that_cannot_be_used_is_an_error_at_the_opening(tmp_path: Path) -> None:
    class Nowhere:
        def segment_path(self, number: int) -> Path:
            return tmp_path / "missing" / str(number)

        def sync(self) -> None:
            raise AssertionError

    bench = Bench(tmp_path / "journal")
    with pytest.raises(FileNotFoundError):
        bench.store.open(Nowhere(), HEADER)
    bench.store.open(None, HEADER)
    bench.emit_many(10)
    assert bench.drained() == in_order(1, 10)


# Fork.


@needs_fork
def test_a_child_never_writes_into_its_parents_segment(bench: Bench) -> None:
    bench.emit_many(10)
    files = {file: file.read_bytes() for file in bench.files()}
    inherited = bench.store.journal.write  # as an emit that had begun before the fork has it
    child = os.fork()
    if child == 0:
        status = 1
        try:
            firsts: list[str] = []
            bench.store.on_first_push = lambda: firsts.append("run")
            bench.nudges = 0
            bench.store.begin()
            with pytest.raises(ValueError, match=r"closed|out of range"):
                inherited(b"child")
            bench.emit_many(5)
            assert (bench.nudges, firsts) == (1, ["run"])
            assert bench.drained() == in_order(1, 5)
            gc.collect()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert {file: file.read_bytes() for file in bench.files()} == files
    bench.emit_many(10, first=11)
    assert bench.drained() == in_order(1, 20)
