"""Follows a lake: a look each second, at the files of its new versions alone.

All that touches the lake's log, and all that changes the catalog, is on one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from ..._shared import monotonic
from ...collector.http.live import MAX_EVENTS_PER_GROUP
from ...collector.models import StoredEvent
from ..lake.errors import LakeError
from ..lake.reading import Reading, Snapshot
from ..lake.rows import EVENTS, KINDS, REJECTED, RUNS
from ..lake.table import DataFile, Table
from .catalog import Catalog
from .events import sample

__all__ = ["Following", "News"]

logger = logging.getLogger("redvsblue_telemetry.view")

_INTERVAL = 1.0  # seconds between two looks


class News(msgspec.Struct):
    """The rows of new versions of the lake, in short."""

    sample: list[StoredEvent]
    """Some of the new events, which the sessions share."""
    by_type: dict[str, int]
    """The number of all new events of each type."""
    repeats: int
    rejected: int


class Following:
    """The newest version of a lake, with its catalog. Used on the event loop's thread.

    Args:
        url: a path, or the URL of an object store, such as ``s3://bucket/lake``.
        connection: to an empty database of DuckDB, for the catalog.
        on_news: called when there is something new.
        interval: seconds between two looks at the lake.
    """

    def __init__(
        self,
        url: str,
        connection: Any,
        on_news: Callable[[News], None],
        interval: float = _INTERVAL,
    ) -> None:
        self._url = url
        self._on_news = on_news
        self._interval = interval
        self._thread = ThreadPoolExecutor(1, "view-lake")
        self._table: Table | None = None
        self._id = ""  # of the lake that the catalog is of
        self._version = -1  # that it is of
        self._is_behind = False  # whether rows were deleted that it still has
        self.catalog = Catalog(connection)
        self.snapshot: Snapshot
        """The newest version that is in the catalog."""
        self.last_error: Exception | None = None
        """Why the lake can't be read now; None if it can."""
        self._looked = monotonic()
        self._task: asyncio.Task[None] | None = None

    @property
    def age(self) -> float:
        """The seconds since the lake was last looked at."""
        return monotonic() - self._looked

    async def start(self) -> None:
        """Read the lake, and begin to follow.

        Raises:
            LakeError: there is no lake, or it can't be read.
        """
        await self._on_thread(self._look)
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """End the following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.to_thread(self._thread.shutdown)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                news = await self._on_thread(self._look)
            except LakeError as error:
                if str(error) != str(self.last_error):
                    logger.error("cannot read the lake, so nothing new is shown: %s", error)
                self.last_error = error
                continue
            except Exception as error:  # of DuckDB: the catalog is as before, and is made anew
                if str(error) != str(self.last_error):
                    logger.exception("internal error, so nothing new is shown")
                self.last_error = error
                self._is_behind = True
                continue
            if self.last_error is not None:
                logger.warning("the lake is being read again")
                self.last_error = None
            if news is not None:
                self._on_news(news)

    async def _on_thread(self, work: Callable[[], News | None]) -> News | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # On the thread:

    def _look(self) -> News | None:
        """Move on to the newest version; return the news, if there are any."""
        table, self._table = self._table, None  # opened anew after any trouble
        if table is None:
            table = Table.open(self._url)
        else:
            table.refresh()
        is_same = table.id == self._id and table.version >= self._version
        news = None
        if not is_same or table.version > self._version or self._is_behind:
            news = self._move_on(table, is_same=is_same)
        self._table = table
        self._looked = monotonic()
        return news

    def _move_on(self, table: Table, *, is_same: bool) -> News | None:
        snapshot = Snapshot(self._url, table)
        added = None if self._is_behind or not is_same else self._added(table, snapshot)
        if added is None:
            self._is_behind = True
            self.snapshot = snapshot  # at once: the files of rows that were erased are gone
            self.catalog.fill(snapshot)
            self._is_behind = False
        elif added:
            self.catalog.add(snapshot, added)
        self.snapshot, self._id, self._version = snapshot, table.id, snapshot.version
        return self._news(snapshot, added) if added else None

    def _added(self, table: Table, snapshot: Snapshot) -> list[DataFile] | None:
        """Return the files that have come; None if other changes were made, too."""
        changes = table.changes(self._version)
        if changes is None or changes.loses_rows:
            return None
        here = {file.path: file for kind in KINDS for file in snapshot.files(kind)}
        # One that has been merged since has its rows in a file that has older ones, too.
        is_whole = all(path in here for path in changes.added)
        return [here[path] for path in changes.added] if is_whole else None

    def _news(self, snapshot: Snapshot, files: list[DataFile]) -> News:
        cursor = self.catalog.cursor()
        with contextlib.closing(cursor):
            reading = Reading(snapshot, cursor, kinds=())
            for kind in (EVENTS, RUNS):
                reading.define(f"stored_{kind}", [file for file in files if file.kind == kind])
            by_type = reading.run("SELECT type, count(*) FROM stored_events GROUP BY type")
            ((repeats,),) = reading.run("SELECT coalesce(sum(timestamp), 0) FROM stored_runs")
            rejected = sum(file.rows for file in files if file.kind == REJECTED)
            return News(
                sample(reading, MAX_EVENTS_PER_GROUP), dict(by_type), int(repeats), rejected
            )
