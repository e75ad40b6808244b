"""A client's journal: its own run, and the directory that it shares with other runs.

Nothing is touched on disk before :meth:`Journal.open`, and nothing of this run or of dead ones is
left after :meth:`Journal.erase`, which any thread may call, also while the worker is busy.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from time import time_ns

from .._recording.codec import EventCodec
from .._shared import monotonic
from .directory import JournalDirectory
from .layout import Header
from .run import RunDirectory
from .store import JournalStore

__all__ = ["Journal", "erase_dead_runs"]

logger = logging.getLogger("redvsblue_telemetry")

_numbers = count(1)
_closed = deque([0], maxlen=1)  # how many journals this process has closed

_LOCK_CHECK_INTERVAL = 0.5  # seconds
_MAX_WAIT_TO_OPEN = 1.0  # seconds; making the first file takes milliseconds


class Journal:
    """The journal of one client.

    Args:
        path: the directory; a relative one counts from the current directory now.
        codec: names the session.
        capacity: the most events, if the game has limited them.
        memory_capacity: the most events that are kept in memory if the directory can't be used.
        max_bytes: the most bytes on disk.
        high_water: see :class:`TelemetryStore`.
        on_high_water: see :class:`TelemetryStore`.
        on_first_push: called by the first event of a forked child.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        codec: EventCodec,
        *,
        capacity: int | None,
        memory_capacity: int,
        max_bytes: int,
        high_water: int,
        on_high_water: Callable[[], object],
        on_first_push: Callable[[], object],
    ) -> None:
        self.path = _absolute(path)
        self.directory = JournalDirectory(self.path)
        """All runs."""
        self.store = JournalStore(
            max_bytes=max_bytes,
            max_event_bytes=codec.max_event_bytes,
            capacity=capacity,
            memory_capacity=memory_capacity,
            high_water=high_water,
            on_high_water=on_high_water,
        )
        """The events of this run."""
        self.store.on_trouble = self._report
        self.store.on_first_push = on_first_push
        self._codec = codec
        self._run: RunDirectory | None = None
        self._opening = threading.RLock()
        self._is_opening = False
        self._has_reported = False
        self._check_at = 0.0
        self._may_have_leftovers = False  # written by any thread

    def open(self) -> None:
        """Begin a run on disk, unless there is one; in memory if that fails.

        It is safe to record events as soon as this has returned. Any thread may call it. In a
        forked child, several may emit the first event at once: the others wait, since an event that
        they kept in memory meanwhile would not survive a kill. A signal handler that interrupts it
        does keep its event in memory.
        """
        if not self._opening.acquire(timeout=_MAX_WAIT_TO_OPEN):
            return
        try:
            if self._run is None and not self._is_opening:
                self._is_opening = True
                try:
                    self._open()
                finally:
                    self._is_opening = False
        finally:
            self._opening.release()

    def _open(self) -> None:
        codec = self._codec
        header = Header(
            session_id=codec.session_id,
            run=codec.run,
            segment=1,
            data_bytes=0,
            previous=0,  # the store sets these three for each segment
            started_at=time_ns() // 1_000_000,
            version=codec.version,
        )
        run = None
        try:
            run = RunDirectory.create(self.path, codec.session_id, codec.run)
            self.store.open(run, header)
        except OSError as error:
            if run is not None:
                run.delete()
            self._report(error)
            self.store.open(None, header)
        else:
            self._run = run

    def maintain(self) -> float | None:
        """Look after this run's files and its lock; return when to do so again. On the worker."""
        self._keep_lock()
        due = self.store.maintain()
        self._delete_leftovers()
        return due

    def _delete_leftovers(self) -> None:
        if self._may_have_leftovers:
            self._may_have_leftovers = False
            self.directory.delete_leftovers()

    def _keep_lock(self) -> None:
        """Lock the run again if other code has closed the descriptor of its lock.

        If the run was deleted, or another process has taken it for dead meanwhile, new events are
        kept in memory only.
        """
        run, now = self._run, monotonic()
        if run is None or now < self._check_at:
            return
        self._check_at = now + _LOCK_CHECK_INTERVAL
        try:
            if run.is_intact or run.lock_again() or self._run is not run:
                return
            raise FileNotFoundError(errno.ENOENT, "the run was deleted, or taken over")
        except OSError as error:
            self.store.fall_back(error)

    def erase(self) -> None:
        """Delete this run and all dead runs."""
        run, self._run = self._run, None
        if run is not None:
            # First, because of a kill in the midst of this: the next start would send events that
            # the player has said no to, or take those that a report counts for damaged.
            run.condemn()
            run.delete_report()
        self.store.erase()
        if run is not None:
            run.delete()
        self.directory.erase()
        # Windows can't delete a file that the worker is reading or syncing at this moment.
        self._may_have_leftovers = True

    def save_report(self, text: bytes) -> bool:
        """Save a report of this run for the next start, in the place of the one before.

        On the worker. If it can't be written, that is harmless: the next start knows less.

        Returns:
            Whether it was saved.
        """
        run = self._run
        return run is not None and run.save_report(text)

    def close(self, *, keep: bool, keep_report: bool = False) -> int:
        """End the run. One with nothing to be kept is deleted, or marked as such.

        Args:
            keep: keep the files in which events are not settled, and then the report, too.
            keep_report: keep the report in any case, unless ``keep`` is False.

        Returns:
            How many events are left in them.
        """
        run = self._run  # kept until the end, for an erasing thread
        left = self.store.close(keep=keep)
        self.store.on_trouble = _ignore  # it would refer to this, which refers to the store
        if run is not None:
            if keep and (left or keep_report):
                run.release()
            else:  # also files that another program kept from being deleted; or the next start will
                run.delete()
        self._run = None
        self._delete_leftovers()
        _closed.append(next(_numbers))
        return left

    @staticmethod
    def closed() -> int:
        """Return another number each time that this process has closed a journal."""
        return _closed[-1]

    def after_fork_in_child(self) -> None:
        """Leave the run to the parent. The first event of the child opens another one."""
        self._opening = threading.RLock()
        self._is_opening = False
        run, self._run = self._run, None
        if run is not None:
            run.forget_after_fork()

    def _report(self, error: OSError) -> None:
        if self._has_reported:
            return
        self._has_reported = True
        self.directory.known_fault = error.errno
        with contextlib.suppress(Exception):  # a log handler's own
            logger.warning(
                "the telemetry's journal %s can't be used (%s); events are kept in memory only",
                self.path,
                error.strerror or error,
            )


def _ignore(error: OSError) -> None:
    """Do nothing: nobody minds any more."""


def erase_dead_runs(path: str | os.PathLike[str]) -> None:
    """Delete the dead runs in a journal's directory, and the directory itself if it is empty."""
    JournalDirectory(_absolute(path)).erase()


def _absolute(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(os.path.abspath(path))
    except OSError:  # the current directory was deleted
        return Path(path)
