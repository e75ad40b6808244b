"""The thread that writes: it stores what has come on all connections, group by group.

While one group is being written and synced to the disk, the next one gathers. So under load a sync
is shared by many messages, and without load nothing waits for company.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import msgspec

from ..messages import Message
from .database import Database, DatabaseError, Stored, Writer

__all__ = ["Receipt", "WriterThread"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_GROUP_EVENTS = 20_000  # in one transaction, about
_MOST_BYTES = 16 * 1024 * 1024  # that wait to be written; then connections wait to be read


class Receipt(Protocol):
    """Whoever wants to know what became of its messages. Called on the event loop's thread."""

    is_broken: bool
    """Whether some of its messages could not be stored. Then none that it sent after them is: they
    come again, and in order. Written and read by the storage's thread; False at first."""

    def stored(self, messages: int) -> None:
        """So many more of its messages are stored."""

    def failed(self) -> None:
        """Some of its messages could not be stored."""


class _Job(msgspec.Struct):
    message: Message
    size: int
    receipt: Receipt


class _Clear(msgspec.Struct):
    done: asyncio.Future[None]


class WriterThread:
    """Stores messages on a thread of its own. Its methods are called on the event loop's thread.

    Args:
        database: where to.
        on_stored: told of each group that was stored, on the event loop's thread.
        on_failure: told of each that could not be, likewise.

    Raises:
        DatabaseError: the database can't be written to.
    """

    def __init__(
        self,
        database: Database,
        on_stored: Callable[[Stored], None],
        on_failure: Callable[[], None],
    ) -> None:
        self._writer = Writer(database)
        try:
            self._writer.check()
        except DatabaseError:
            self._writer.close()
            raise
        self._on_stored = on_stored
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Job | _Clear | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._has_room = asyncio.Event()
        self.last_error: DatabaseError | None = None
        """Why the last group could not be stored; None if it could."""
        self._thread = threading.Thread(target=self._run, name="collector-storage", daemon=True)
        self._thread.start()

    async def room(self) -> None:
        """Wait while too much is waiting to be written."""
        while self._waiting_bytes >= _MOST_BYTES:
            self._has_room.clear()
            await self._has_room.wait()

    def submit(self, message: Message, size: int, receipt: Receipt) -> None:
        """Have a message stored.

        Args:
            message: what to store.
            size: its bytes.
            receipt: told when it is stored, or that it can't be.
        """
        self._waiting_bytes += size
        self._queue.put(_Job(message, size, receipt))

    async def clear(self) -> None:
        """Delete all that is stored.

        Raises:
            DatabaseError: it can't be.
        """
        done = self._loop.create_future()
        self._queue.put(_Clear(done))
        await done

    async def close(self) -> None:
        """Store what is waiting, and end."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # On the thread.

    def _run(self) -> None:
        is_over = False
        while not is_over:
            jobs: list[_Job] = []
            task: _Job | _Clear | None = self._queue.get()
            events = 0
            while isinstance(task, _Job):
                jobs.append(task)
                events += len(task.message.events)
                if events >= _GROUP_EVENTS:
                    break
                try:
                    task = self._queue.get_nowait()
                except queue.Empty:
                    break
            if jobs:
                self._store(jobs)
            if isinstance(task, _Clear):
                self._clear(task)
            is_over = task is None
        self._writer.close()

    def _store(self, jobs: list[_Job]) -> None:
        whole = [job for job in jobs if not job.receipt.is_broken]
        # To store nothing would succeed, and say nothing about whether anything can be stored.
        outcome = self._outcome([job.message for job in whole]) if whole else None
        if isinstance(outcome, DatabaseError):
            for job in whole:
                job.receipt.is_broken = True
        self._tell_later(self._tell, jobs, whole, outcome)

    def _outcome(self, messages: list[Message]) -> Stored | DatabaseError:
        try:
            return self._writer.store(messages)
        except DatabaseError as error:
            return error
        except Exception as error:
            logger.exception("the collector met an error of its own")
            return DatabaseError(f"an error of the collector's own: {error!r}")

    def _tell_later(self, callback: Callable[..., None], *values: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is there to be told
            self._loop.call_soon_threadsafe(callback, *values)

    def _clear(self, task: _Clear) -> None:
        error: Exception | None = None
        try:
            self._writer.clear()
        except Exception as failure:
            error = failure
        self._tell_later(_resolve, task.done, error)

    # Back on the event loop.

    def _tell(
        self, jobs: list[_Job], told: list[_Job], outcome: Stored | DatabaseError | None
    ) -> None:
        self._waiting_bytes -= sum(job.size for job in jobs)
        if self._waiting_bytes < _MOST_BYTES:
            self._has_room.set()
        if outcome is None:
            return
        counts = Counter(id(job.receipt) for job in told)
        receipts = {id(job.receipt): job.receipt for job in told}
        if isinstance(outcome, DatabaseError):
            self._complain(outcome)
            self._on_failure()
            for receipt in receipts.values():
                receipt.failed()
            return
        if outcome.events or outcome.repeats or outcome.rejected:  # else there was nothing to do
            self._note_success()
        for key, receipt in receipts.items():
            receipt.stored(counts[key])
        self._on_stored(outcome)

    def _complain(self, error: DatabaseError) -> None:
        if self.last_error is None or str(self.last_error) != str(error):
            logger.error("nothing can be stored, so nothing is acknowledged: %s", error)
        self.last_error = error

    def _note_success(self) -> None:
        if self.last_error is not None:
            logger.warning("events are being stored again")
            self.last_error = None


def _resolve(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():  # whoever waited for it has gone
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
