"""The storage thread: stores what arrives on all connections, one group of messages at a time.

While one group is written and synced to the disk, the next one gathers in the queue. So under load
many messages share a sync, and without load no message waits for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from ..loglimit import LogLimit
from ..messages import Message
from ..storing import Body, Health, Receipt
from .database import Database, DatabaseError
from .upkeep import Upkeep, UpkeepSchedule, epoch_milliseconds
from .writer import Check, Stored, Writer

__all__ = ["WriterThread"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_GROUP_EVENTS = 20_000  # about the most in one transaction
_MAX_WAITING_BYTES = 16 * 1024 * 1024  # beyond this, connections are not read


class _Job(msgspec.Struct):
    message: Message
    size: int
    receipt: Receipt
    is_check: bool


class _Clear(msgspec.Struct):
    done: asyncio.Future[None]


class _Errand(Upkeep):
    """Work that somebody waits for."""

    def __init__(self, work: Upkeep, done: asyncio.Future[None]) -> None:
        self._work = work
        self._is_over = False
        self.has_failed = False
        self.done = done

    def rolled_back(self) -> None:
        """Give up."""
        self.has_failed = True

    def step(self, connection: sqlite3.Connection) -> bool:
        """Do a bit of it; nothing if it is over and only waits for the log to be emptied."""
        self._is_over = self._is_over or not self._work.step(connection)
        return not self._is_over


class WriterThread:
    """Stores messages on its own thread. The methods are called on the event loop's thread.

    Args:
        database: where they are stored.
        on_stored: called after each group that was stored, on the event loop's thread.
        on_failure: called after each group that could not be stored, on the event loop's thread.
        check: finds the faults of new events; called on the storage thread.
        upkeep: the work between the groups.
        clock: returns milliseconds since the epoch.

    Raises:
        DatabaseError: the database can't be written to.
    """

    def __init__(
        self,
        database: Database,
        on_stored: Callable[[Stored], None],
        on_failure: Callable[[], None],
        check: Check | None = None,
        upkeep: Sequence[Upkeep] = (),
        clock: Callable[[], int] = epoch_milliseconds,
    ) -> None:
        self._writer = Writer(database, check, clock)
        try:
            self._writer.check()
        except DatabaseError:
            self._writer.close()
            raise
        self._on_stored = on_stored
        self._on_failure = on_failure
        self._upkeep = UpkeepSchedule(upkeep)
        self._warnings = LogLimit(logger)  # a full disk fails some of the upkeep each second
        self._errands: list[_Errand] = []
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Job | _Clear | _Errand | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._has_room = asyncio.Event()
        self._health = Health()
        self._thread = threading.Thread(target=self._run, name="collector-storage", daemon=True)
        self._thread.start()

    @property
    def last_error(self) -> Exception | None:
        """Why the last group could not be stored; None if it could."""
        return self._health.last_error

    async def room(self) -> None:
        """Wait while too many bytes wait to be stored."""
        while self._waiting_bytes >= _MAX_WAITING_BYTES:
            self._has_room.clear()
            await self._has_room.wait()

    def submit(
        self,
        message: Message,
        size: int,
        receipt: Receipt,
        *,
        is_check: bool = False,
        body: Body | None = None,
    ) -> None:
        """Queue a message to be stored.

        Args:
            message: the message.
            size: its bytes.
            receipt: called with the outcome.
            is_check: whether its new sessions are to be deleted once they are stored. Nobody else
                hears of it.
            body: not needed: it is not kept.
        """
        self._waiting_bytes += size
        self._queue.put(_Job(message, size, receipt, is_check))

    async def clear(self) -> None:
        """Delete everything that is stored.

        Raises:
            DatabaseError: nothing was deleted.
        """
        done = self._loop.create_future()
        self._queue.put(_Clear(done))
        await done

    async def run(self, work: Upkeep) -> None:
        """Do some work between the groups, until the data that it deleted is in no file.

        Raises:
            DatabaseError: it was not finished.
        """
        done = self._loop.create_future()
        self._queue.put(_Errand(work, done))
        await done

    async def close(self) -> None:
        """Store what is queued, and end the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # On the storage thread.

    def _run(self) -> None:
        is_over = False
        while not is_over:
            jobs, task = self._next_group()
            if jobs:
                self._store(jobs)
            if isinstance(task, _Job) and task.is_check:
                self._store([task])
            if isinstance(task, _Clear):
                self._clear(task)
            if isinstance(task, _Errand):
                self._errands.append(task)
                self._upkeep.add(task)
            is_over = task is None
            if not is_over and self._upkeep.is_due_under_load:
                self._do_upkeep()
        for errand in [*self._errands]:
            self._end(errand, DatabaseError("the collector is closing; ask again"))
        self._writer.close()

    def _next_task(self) -> _Job | _Clear | _Errand | None:
        """Return the next task; do upkeep until there is one."""
        while True:
            delay = self._upkeep.delay
            try:
                return self._queue.get(block=delay != 0.0, timeout=delay)
            except queue.Empty:
                if self._upkeep.delay == 0.0:
                    self._do_upkeep()

    def _do_upkeep(self) -> None:
        try:
            finished = self._upkeep.step(self._writer.maintain)
            if isinstance(finished, _Errand):
                self._finish_errand(finished)
        except DatabaseError as error:
            self._warnings.warn(str(error), None, "cannot tend the database: %s", error)
            self._end_failed(error)
        except Exception as error:
            logger.exception("internal error in the collector")
            self._end_failed(DatabaseError(f"internal error: {error!r}"))

    def _finish_errand(self, errand: _Errand) -> None:
        """End an errand whose work is done, once the log is empty: it has the deleted data."""
        try:
            is_empty = self._writer.empty_log()
        except DatabaseError as error:
            self._end(errand, error)
            return
        if is_empty:
            self._end(errand, None)
        else:
            self._upkeep.add(errand)

    def _end_failed(self, error: DatabaseError) -> None:
        for errand in [*self._errands]:
            if errand.has_failed:
                self._end(errand, error)

    def _end(self, errand: _Errand, error: DatabaseError | None) -> None:
        self._errands.remove(errand)
        self._call_on_loop(_resolve, errand.done, error)

    def _next_group(self) -> tuple[list[_Job], _Job | _Clear | _Errand | None]:
        """Wait for a task; return all messages queued by then, and the task that ended them."""
        jobs: list[_Job] = []
        events = 0
        task = self._next_task()
        while isinstance(task, _Job) and not task.is_check:
            jobs.append(task)
            events += len(task.message.events)
            if events >= _GROUP_EVENTS:
                break
            try:
                task = self._queue.get_nowait()
            except queue.Empty:
                break
        return jobs, task

    def _store(self, jobs: list[_Job]) -> None:
        accepted = [job for job in jobs if not job.receipt.is_broken]
        # Storing an empty group would succeed, and wrongly show that storing works again.
        outcome = self._outcome(accepted) if accepted else None
        if isinstance(outcome, DatabaseError):
            for job in accepted:
                job.receipt.is_broken = True
        self._call_on_loop(self._finish, jobs, accepted, outcome)

    def _outcome(self, jobs: list[_Job]) -> Stored | DatabaseError:
        store = self._writer.store_and_delete if jobs[0].is_check else self._writer.store
        try:
            return store([job.message for job in jobs])
        except DatabaseError as error:
            return error
        except Exception as error:
            logger.exception("internal error in the collector")
            return DatabaseError(f"internal error: {error!r}")

    def _clear(self, task: _Clear) -> None:
        error: Exception | None = None
        try:
            self._writer.clear()
        except Exception as failure:
            error = failure
        self._call_on_loop(_resolve, task.done, error)

    def _call_on_loop(self, callback: Callable[..., None], *values: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and so are all connections
            self._loop.call_soon_threadsafe(callback, *values)

    # On the event loop's thread.

    def _finish(
        self, jobs: list[_Job], accepted: list[_Job], outcome: Stored | DatabaseError | None
    ) -> None:
        """Release the room of a group, and pass its outcome on."""
        self._waiting_bytes -= sum(job.size for job in jobs)
        if self._waiting_bytes < _MAX_WAITING_BYTES:
            self._has_room.set()
        receipts = {id(job.receipt): job.receipt for job in accepted}
        if isinstance(outcome, DatabaseError):
            self._health.note_failure(outcome)
            self._on_failure()
            for receipt in receipts.values():
                receipt.failed()
        elif outcome is not None:
            self._note_success(outcome)
            for key, messages in Counter(id(job.receipt) for job in accepted).items():
                receipts[key].stored(messages)
            if not accepted[0].is_check:
                self._on_stored(outcome)

    def _note_success(self, stored: Stored) -> None:
        # A group without any event needed no storage, so it shows nothing about it.
        if stored.events or stored.repeats or stored.rejected or stored.reports:
            self._health.note_success()


def _resolve(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():  # canceled: its caller no longer waits
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
