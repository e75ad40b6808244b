"""The storage thread: it stores in groups and in order, and reports only after the commit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry.collector.messages import Message, read_message
from redvsblue_telemetry.collector.storage import thread as module
from redvsblue_telemetry.collector.storage import upkeep
from redvsblue_telemetry.collector.storage.database import Database, DatabaseError
from redvsblue_telemetry.collector.storage.thread import WriterThread
from redvsblue_telemetry.collector.storage.upkeep import Upkeep
from redvsblue_telemetry.collector.storage.writer import Stored
from tests.collector.clients import event, locked
from tests.support.collector import PATIENCE

SHORT = 0.05  # seconds to wait for a lock that stays


class Sender:
    """A receipt, as a connection is one."""

    def __init__(self, path: Path | None = None) -> None:
        self.is_broken = False
        self.acked = 0
        self.failures = 0
        self.committed: list[int] = []  # the number of events in the database at each call
        self._path = path

    def stored(self, messages: int) -> None:
        self.acked += messages
        if self._path is not None:
            self.committed.append(len(seqs(self._path)))

    def failed(self) -> None:
        self.failures += 1


class Groups:
    """The outcomes of the groups."""

    def __init__(self) -> None:
        self.stored: list[Stored] = []
        self.failures = 0

    def record_failure(self) -> None:
        self.failures += 1

    @property
    def sizes(self) -> list[int]:
        return [len(group.events) for group in self.stored]


def message(*numbers: int) -> Message:
    return read_message(json.dumps([event(number) for number in numbers]))


def seqs(path: Path) -> list[int]:
    """Return what other connections see: only committed events."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT seq FROM events ORDER BY arrival").fetchall()
    return [seq for (seq,) in rows]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite3"


@contextlib.asynccontextmanager
async def storing(
    path: Path | None,
    groups: Groups | None = None,
    busy_timeout: float = PATIENCE,
    work: Sequence[Upkeep] = (),
) -> AsyncIterator[WriterThread]:
    groups = groups or Groups()
    with contextlib.closing(Database(path, busy_timeout=busy_timeout)) as database:
        storage = WriterThread(database, groups.stored.append, groups.record_failure, upkeep=work)
        try:
            yield storage
        finally:
            await storage.close()


async def until(condition: Callable[[], object]) -> None:
    async def look() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(look(), PATIENCE)


def storage_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "collector-storage"]


# Storing, and reporting it.


def test_each_sender_learns_how_many_of_its_messages_are_stored(path: Path) -> None:
    async def run() -> None:
        one, other, groups = Sender(), Sender(), Groups()
        async with storing(path, groups) as storage:
            for number in range(1, 11):
                storage.submit(message(number), 1, one if number % 5 else other)
            storage.submit(message(), 1, other)  # nothing to store is stored at once
            await until(lambda: (one.acked, other.acked) == (8, 3))
            assert [e.seq for group in groups.stored for e in group.events] == list(range(1, 11))
        assert (one.failures, other.failures, groups.failures) == (0, 0, 0)

    asyncio.run(run())


def test_nothing_is_reported_before_others_can_read_what_was_stored(path: Path) -> None:
    async def run() -> None:
        sender = Sender(path)
        async with storing(path) as storage:
            for number in range(1, 51):
                storage.submit(message(number), 1, sender)
                if number % 7 == 0:
                    await until(lambda number=number: sender.acked == number)
            await until(lambda: sender.acked == 50)
        assert len(sender.committed) >= 8
        assert sender.committed[-1] == 50

    asyncio.run(run())


def test_nothing_is_reported_while_the_database_is_locked(path: Path) -> None:
    async def run() -> None:
        sender, groups = Sender(path), Groups()
        async with storing(path, groups) as storage:
            with locked(path):
                storage.submit(message(1), 1, sender)
                await asyncio.sleep(0.2)  # long, for what would take a millisecond
                assert (sender.acked, sender.failures, groups.stored) == (0, 0, [])
            await until(lambda: sender.acked == 1)
        assert sender.committed == [1]

    asyncio.run(run())


def test_what_waits_together_is_stored_together(path: Path) -> None:
    async def run() -> None:
        senders, groups = [Sender() for _ in range(10)], Groups()
        async with storing(path, groups) as storage:
            with locked(path):
                for number in range(1, 101):
                    storage.submit(message(number), 1, senders[number % 10])
            await until(lambda: all(sender.acked == 10 for sender in senders))
        # The first group was taken when the first message came, with all that had come by then.
        assert len(groups.sizes) <= 2
        assert sum(groups.sizes) == 100
        assert seqs(path) == list(range(1, 101))

    asyncio.run(run())


def test_what_waits_is_stored_in_groups_that_are_not_too_large(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GROUP_EVENTS", 6)

    async def run() -> None:
        sender, groups = Sender(), Groups()
        async with storing(path, groups) as storage:
            with locked(path):
                for number in range(1, 61, 2):
                    storage.submit(message(number, number + 1), 1, sender)
            await until(lambda: sender.acked == 30)
        assert max(groups.sizes) == 6
        assert seqs(path) == list(range(1, 61))

    asyncio.run(run())


def test_what_waits_is_stored_before_it_ends(path: Path) -> None:
    async def run() -> None:
        sender = Sender()
        async with storing(path) as storage:
            with locked(path):
                for number in range(1, 31):
                    storage.submit(message(number), 1, sender)
                closing = asyncio.create_task(storage.close())
                await asyncio.sleep(0.05)
                assert not closing.done()
            await closing
            assert seqs(path) == list(range(1, 31))
            assert storage_threads() == []
        await until(lambda: sender.acked == 30)

    asyncio.run(run())


# What can't be stored.


def test_what_a_sender_sent_after_what_failed_is_never_stored(path: Path) -> None:
    async def run() -> None:
        sender, other = Sender(), Sender()
        async with storing(path, busy_timeout=SHORT) as storage:
            storage.submit(message(1), 1, sender)
            await until(lambda: sender.acked == 1)
            with locked(path):
                storage.submit(message(2), 1, sender)
                await until(lambda: sender.is_broken)
            # It had sent these before it heard of the failure, and will send all three again.
            storage.submit(message(3), 1, sender)
            storage.submit(message(10), 1, other)
            storage.submit(message(4), 1, sender)
            await until(lambda: other.acked == 1)
        assert (sender.acked, sender.failures) == (1, 1)
        assert seqs(path) == [1, 10]

    asyncio.run(run())


def test_all_that_failed_together_are_notified_once_and_none_is_stored(path: Path) -> None:
    async def run() -> None:
        senders, groups = [Sender() for _ in range(5)], Groups()
        async with storing(path, groups, busy_timeout=SHORT) as storage:
            with locked(path):
                for number in range(1, 21):
                    storage.submit(message(number), 1, senders[number % 5])
                await until(lambda: all(sender.failures for sender in senders))
            assert {(sender.acked, sender.is_broken) for sender in senders} == {(0, True)}
            assert 1 <= groups.failures <= 2
            assert groups.stored == []
        assert [sender.failures for sender in senders] == [1] * 5
        assert seqs(path) == []

    asyncio.run(run())


def test_error_is_known_until_something_is_stored_again_and_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(storage: WriterThread) -> None:
        sender = Sender()
        storage.submit(message(1), 1, sender)
        await until(lambda: sender.failures == 1)
        assert "database is locked" in str(storage.last_error)

    async def run() -> None:
        sender = Sender()
        async with storing(path, busy_timeout=SHORT) as storage:
            assert storage.last_error is None
            with locked(path):
                for _ in range(3):
                    await fail(storage)
            storage.submit(message(2), 1, sender)
            await until(lambda: sender.acked == 1)
            assert storage.last_error is None
            with locked(path):
                await fail(storage)

    asyncio.run(run())
    logged = [record.levelno for record in caplog.records]
    assert logged == [logging.ERROR, logging.WARNING, logging.ERROR]
    assert "none are acknowledged: " in caplog.messages[0]
    assert "telemetry.sqlite3: database is locked" in caplog.messages[0]


def test_error_is_known_also_when_what_may_not_be_stored_any_more_comes(path: Path) -> None:
    async def run() -> None:
        sender = Sender()
        async with storing(path) as storage:
            pages = storage._writer._connection.execute("PRAGMA page_count").fetchone()[0]
            storage._writer._connection.execute(f"PRAGMA max_page_count = {pages}")  # a full disk
            storage.submit(message(*range(1, 1001)), 1, sender)
            await until(lambda: sender.failures == 1)
            assert "full" in str(storage.last_error)
            storage.submit(message(1001), 1, sender)  # it had been sent before the sender knew
            await until(lambda: storage._waiting_bytes == 0)
            assert "full" in str(storage.last_error), "nothing was stored since"
            other = Sender()
            storage.submit(message(), 1, other)  # of no event
            await until(lambda: other.acked == 1)
            assert "full" in str(storage.last_error), "nothing had to be stored"
        assert (sender.acked, sender.failures) == (0, 1)

    asyncio.run(run())


def test_internal_error_fails_one_group_and_no_other(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        unlucky, lucky, groups = Sender(), Sender(), Groups()
        async with storing(path, groups) as storage:
            nothing: Any = None  # where a rejected part should be: nobody reckons with that
            storage.submit(Message([], [nothing]), 1, unlucky)
            await until(lambda: unlucky.failures == 1)
            assert "internal error" in str(storage.last_error)
            storage.submit(message(1), 1, lucky)
            await until(lambda: lucky.acked == 1)
        assert (unlucky.acked, groups.failures) == (0, 1)
        assert seqs(path) == [1]

    asyncio.run(run())
    assert any(record.exc_info for record in caplog.records), "its traceback is in the log"


def test_database_that_can_not_be_written_is_refused_at_once(path: Path) -> None:
    async def run() -> None:
        Database(path).close()
        with locked(path), pytest.raises(DatabaseError, match="database is locked"):
            async with storing(path, busy_timeout=SHORT):
                pass
        assert storage_threads() == []
        async with storing(path):
            pass

    asyncio.run(run())


# How much may wait.


@pytest.mark.parametrize("fails", [False, True])
def test_who_brings_more_than_may_wait_waits_for_room(fails: bool, path: Path) -> None:
    most = module._MAX_WAITING_BYTES

    async def run() -> None:
        sender = Sender()
        async with storing(path, busy_timeout=0.5 if fails else PATIENCE) as storage:
            with locked(path):
                storage.submit(message(1), most - 1, sender)
                await asyncio.wait_for(storage.room(), PATIENCE)
                storage.submit(message(2), 1, sender)
                waiting = [asyncio.create_task(storage.room()) for _ in range(20)]
                await asyncio.sleep(0.05)
                assert sender.failures or not any(task.done() for task in waiting)
                if fails:
                    await until(lambda: sender.failures)
            await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
            if not fails:
                await until(lambda: sender.acked == 2)

    asyncio.run(run())


def test_room_of_what_may_not_be_stored_any_more_is_given_back(path: Path) -> None:
    async def run() -> None:
        sender = Sender()
        async with storing(path, busy_timeout=SHORT) as storage:
            with locked(path):
                storage.submit(message(1), 1, sender)
                await until(lambda: sender.is_broken)
            storage.submit(message(2), module._MAX_WAITING_BYTES, sender)
            await asyncio.wait_for(storage.room(), PATIENCE)

    asyncio.run(run())


def test_room_that_somebody_else_took_is_waited_for_again(path: Path) -> None:
    most = module._MAX_WAITING_BYTES

    async def run() -> None:
        sender = Sender()
        async with storing(path) as storage:
            done: list[int] = []

            async def bring(number: int) -> None:
                await storage.room()
                done.append(storage._waiting_bytes)
                storage.submit(message(number), most, sender)

            with locked(path):
                bringing = [asyncio.create_task(bring(number)) for number in range(1, 9)]
                await asyncio.sleep(0.05)
                assert len(done) == 1
            await asyncio.wait_for(asyncio.gather(*bringing), PATIENCE)
            await until(lambda: sender.acked == 8)
        assert done == [0] * 8, "none came in while another's was waiting"

    asyncio.run(run())


# Deleting everything.


def test_clearing_takes_its_turn_among_what_waits(path: Path) -> None:
    async def run() -> None:
        sender, groups = Sender(), Groups()
        async with storing(path, groups) as storage:
            with locked(path):
                storage.submit(message(1), 1, sender)
                storage.submit(message(2), 1, sender)
                clearing = asyncio.create_task(storage.clear())
                await asyncio.sleep(0)  # it is in the queue now
                storage.submit(message(1, 3), 1, sender)
                storage.submit(message(3, 4), 1, sender)
            await asyncio.wait_for(clearing, PATIENCE)
            await until(lambda: sender.acked == 4)
        # What came before was stored and reported; what was deleted is new when it comes again.
        assert sum(groups.sizes) == 5
        assert sum(group.repeats for group in groups.stored) == 1
        assert seqs(path) == [1, 3, 4]

    asyncio.run(run())


def test_clearing_that_fails_says_why_and_breaks_nothing(path: Path) -> None:
    async def run() -> None:
        sender = Sender()
        async with storing(path, busy_timeout=SHORT) as storage:
            storage.submit(message(1), 1, sender)
            await until(lambda: sender.acked == 1)
            with locked(path), pytest.raises(DatabaseError, match="database is locked"):
                await storage.clear()
            storage.submit(message(1, 2), 1, sender)
            await until(lambda: sender.acked == 2)
            assert seqs(path) == [1, 2]
            await storage.clear()
            assert seqs(path) == []

    asyncio.run(run())


def test_clearing_happens_also_when_nobody_waits_for_it_any_more(path: Path) -> None:
    complaints: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        sender = Sender()
        async with storing(path) as storage:
            with locked(path):
                storage.submit(message(1), 1, sender)
                clearing = asyncio.create_task(storage.clear())
                await asyncio.sleep(0)
                clearing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await clearing
                storage.submit(message(2), 1, sender)
            await until(lambda: sender.acked == 2)
            assert seqs(path) == [2]

    asyncio.run(run())
    assert complaints == []


class Failing(Upkeep):
    """Fails as a step does that needs more room than the disk has."""

    def __init__(self) -> None:
        self.failures = 0

    def step(self, connection: sqlite3.Connection) -> bool:
        self.failures += 1
        raise sqlite3.OperationalError("database or disk is full")


class Succeeding(Upkeep):
    """Needs no room."""

    def step(self, connection: sqlite3.Connection) -> bool:
        return False


def test_upkeep_that_fails_each_time_is_not_logged_each_time(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_IDLE_SECONDS", 0.001)
    failing = Failing()

    async def run() -> None:
        async with storing(path, work=[failing, Succeeding()]):
            await until(lambda: failing.failures >= 5)

    asyncio.run(run())
    assert len(caplog.messages) == 1
    assert "cannot tend the database" in caplog.text
    assert "database or disk is full" in caplog.text
