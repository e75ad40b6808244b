"""The room that the database takes, how fast it grows, and how long the disk will last.

Nothing here reads the tables: SQLite counts its pages, and the file system its bytes.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections import deque
from collections.abc import Callable

from ..models import Storage
from .database import Database
from .upkeep import Keep, Upkeep, epoch_milliseconds

__all__ = ["Space", "Usage"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_DAY = 86_400_000  # milliseconds
_SAMPLE_EVERY = 300_000  # milliseconds
_MAX_SAMPLES = 72  # six hours
_SHORTEST = 3_600_000  # milliseconds from which on a rate is known
_LOW_DAYS = 7.0
_LOW_PART = 20  # of the disk
_MEBIBYTE = 1024 * 1024


class Usage:
    """What the database takes up now, in bytes. Measured in the transaction of a connection."""

    def __init__(self, connection: sqlite3.Connection, database: Database) -> None:
        def pragma(name: str) -> int:
            return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

        self.page = pragma("page_size")
        self.pages = pragma("page_count")
        self.free_pages = pragma("freelist_count")
        """Those that are in the file without being used."""
        self.log = database.log_bytes()

    @property
    def used(self) -> int:
        """The bytes of the pages in use."""
        return (self.pages - self.free_pages) * self.page

    @property
    def file(self) -> int:
        """The bytes of all pages."""
        return self.pages * self.page


class Space(Upkeep):
    """Measures the room. Takes samples as upkeep; also asked on other threads.

    Args:
        database: the database.
        keep: for how long events are kept.
        max_bytes: the most that the database may take up.
        clock: returns milliseconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        keep: Keep | None = None,
        max_bytes: int | None = None,
        clock: Callable[[], int] = epoch_milliseconds,
    ) -> None:
        keep = keep or Keep()
        self._database = database
        self._max_bytes = max_bytes
        self._keep = dict(keep.by_type) if keep.age is None else {"": keep.age, **keep.by_type}
        self._clock = clock
        self._samples: deque[tuple[int, int]] = deque(maxlen=_MAX_SAMPLES)
        self._first: tuple[int, int] | None = None
        self._warned_at = 0
        self.is_low = False
        """Whether the disk will be full soon, as of the last step."""

    def step(self, connection: sqlite3.Connection) -> bool:
        """Take a sample from time to time, and warn once a day while the disk fills up."""
        now = self._clock()
        storage = self.measure(connection)
        self.is_low = storage is not None and storage.is_low
        if storage is not None and self.is_low and now - self._warned_at >= _DAY:
            self._warned_at = now
            logger.warning("%s", _warning(self._database, storage))
        samples = self._samples
        if samples and 0 <= now - samples[-1][0] < _SAMPLE_EVERY:
            return False
        if samples and now < samples[-1][0]:  # the clock was set back
            samples.clear()
        if not samples:
            self._first = self._oldest(connection)
        samples.append((now, Usage(connection, self._database).used))
        return False

    def measure(self, connection: sqlite3.Connection) -> Storage | None:
        """Return the room; None if it can't be read."""
        usage = Usage(connection, self._database)
        try:
            disk = shutil.disk_usage(os.path.dirname(os.path.abspath(self._database.path)))
        except OSError:
            return None
        storage = Storage(
            used_bytes=usage.used + usage.log,
            file_bytes=usage.file + usage.log,
            disk_free_bytes=disk.free,
            max_bytes=self._max_bytes,
            keep=self._keep,
            bytes_per_day=self._bytes_per_day(usage.used),
        )
        room = disk.free + usage.free_pages * usage.page
        is_limited = self._max_bytes is not None and self._max_bytes - usage.used <= room
        rate = storage.bytes_per_day
        if rate is not None and rate > 0 and not is_limited:
            storage.days_left = room / rate
        storage.is_low = disk.free < disk.total / _LOW_PART or (
            storage.days_left is not None and storage.days_left < _LOW_DAYS
        )
        return storage

    def _oldest(self, connection: sqlite3.Connection) -> tuple[int, int] | None:
        """Return when the oldest event was stored, as a sample of the empty database then."""
        row = connection.execute("SELECT received FROM events ORDER BY arrival LIMIT 1").fetchone()
        if row is None:
            return None
        age = (self._clock() - row[0]) / 1000
        # Where older events have been deleted, the age of the others says nothing of the growth.
        is_whole = all(age < 0.9 * kept for kept in self._keep.values())
        return (row[0], 0) if is_whole and self._max_bytes is None else None

    def _bytes_per_day(self, used: int) -> float | None:
        """Return the growth as a rate, by the samples; at first, by the age of the data."""
        now = self._clock()
        samples = list(self._samples)  # the storage thread may add one
        if samples and now - samples[0][0] >= _SHORTEST:
            return (used - samples[0][1]) * _DAY / (now - samples[0][0])
        if self._first is not None:
            age, before = now - self._first[0], self._first[1]
            if age >= _SHORTEST:
                return (used - before) * _DAY / age
        return None


def _warning(database: Database, storage: Storage) -> str:
    free = storage.disk_free_bytes / _MEBIBYTE
    days = "" if storage.days_left is None else f", for {storage.days_left:.1f} days at this rate"
    return (
        f"the disk of {database.path} has {free:,.0f} MiB left{days}; "
        "make room, or let --keep or --max-bytes delete old events"
    )
