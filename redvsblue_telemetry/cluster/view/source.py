"""Reads a lake for the API, on the threads of lanes.

A request reads the newest version that is in the catalog, with its own connection.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from starlette.requests import Request

from ...collector.http.parameters import BadRequestError, Paging
from ...collector.http.query import MAX_BYTES, SECONDS, TOO_SLOW, QueryResult
from ...collector.http.readers import BusyError, Lane
from ...collector.http.source import UnreadableError
from ...collector.models import (
    CrashGroup,
    EventFilter,
    EventPage,
    FaultGroup,
    FrameSummary,
    History,
    RejectedMessage,
    Session,
    SessionDetail,
    Storage,
    TimeRange,
    Totals,
    VersionHealth,
)
from ...collector.storage.cutoff import Cutoff, CutoffError
from ...collector.storage.sandbox import QueryError, TooSlowError, as_json_value
from ..lake.errors import LakeError
from ..lake.reading import Reading
from ..lake.sql import LakeQuery
from . import events, figures
from .following import Following

__all__ = ["LakeRunner", "LakeSource"]

_SEARCH_SECONDS = 2.0  # after which a search responds with what it has found
_LOOK_SECONDS = 0.05  # between two looks whether a reader has to end
_QUERY_MEMORY = "512MB"
_OPENING_SECONDS = 5.0  # until a query begins


@contextlib.contextmanager
def _ending(cutoff: Cutoff, connection: Any) -> Iterator[None]:
    """Interrupt the statements of a connection when a reader has to end."""
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(_LOOK_SECONDS):
            if cutoff.must_end:
                connection.interrupt()  # again and again: between two statements, it has no effect

    watching = threading.Thread(target=watch, name="view-watch", daemon=True)
    watching.start()
    try:
        yield
    except Exception as error:  # DuckDB's own, or Arrow's: a statement was interrupted, perhaps
        if cutoff.must_end:
            raise CutoffError from error
        if isinstance(error, LakeError):
            raise UnreadableError(str(error)) from error
        raise
    finally:
        is_done.set()
        watching.join()


def _reading_of(
    following: Following,
) -> Callable[[Cutoff], contextlib.AbstractContextManager[Reading]]:
    """Return how a lane reads the lake."""

    @contextlib.contextmanager
    def reading(cutoff: Cutoff) -> Iterator[Reading]:
        cutoff.begin()
        with contextlib.closing(following.catalog.cursor()) as cursor, _ending(cutoff, cursor):
            cursor.execute("BEGIN")  # all that is read of the catalog is of one moment
            yield Reading(following.snapshot, cursor, kinds=())

    return reading


class LakeSource:
    """A :class:`....collector.http.source.Source` over a lake.

    Args:
        following: the lake.
    """

    def __init__(self, following: Following) -> None:
        reading = _reading_of(following)
        # What is asked for every second, and answered at once, must not wait for anything else.
        self._figures = Lane(reading, "figures", 2)
        self._summaries = Lane(reading, "summaries", 1, _SEARCH_SECONDS)
        self._searches = Lane(reading, "searches", 1, _SEARCH_SECONDS)

    def close(self) -> None:
        """End what still reads the lake."""
        for lane in (self._figures, self._summaries, self._searches):
            lane.close()

    async def events(
        self, request: Request, wanted: EventFilter, paging: Paging, span: TimeRange
    ) -> EventPage:
        """Return one page of events."""
        return await self._searches.read(
            request, lambda reading, cutoff: events.page(reading, wanted, paging, span, cutoff)
        )

    async def sessions(
        self, request: Request, *, limit: int, offset: int, span: TimeRange
    ) -> list[Session]:
        """Return one page of sessions."""
        return await self._figures.read(
            request,
            lambda reading, _: figures.sessions(reading, limit=limit, offset=offset, span=span),
        )

    async def session(self, request: Request, session_id: str) -> SessionDetail | None:
        """Return one session."""
        return await self._summaries.read(
            request, lambda reading, _: figures.session(reading, session_id)
        )

    async def versions(
        self, request: Request, *, limit: int, span: TimeRange
    ) -> list[VersionHealth]:
        """Return the outcomes by version."""
        return await self._figures.read(
            request, lambda reading, _: figures.versions(reading, limit=limit, span=span)
        )

    async def crashes(
        self, request: Request, *, version: str | None, limit: int, span: TimeRange
    ) -> list[CrashGroup]:
        """Return the crashes in groups."""
        return await self._summaries.read(
            request,
            lambda reading, cutoff: events.crashes(
                reading, version=version, limit=limit, span=span, cutoff=cutoff
            ),
        )

    async def faults(
        self, request: Request, *, version: str | None, limit: int, span: TimeRange
    ) -> list[FaultGroup]:
        """Return the faults in groups."""
        return await self._summaries.read(
            request,
            lambda reading, _: events.faults(reading, version=version, limit=limit, span=span),
        )

    async def frames(
        self, request: Request, *, version: str | None, limit: int, span: TimeRange
    ) -> list[FrameSummary]:
        """Return the frame times by version."""
        return await self._summaries.read(
            request,
            lambda reading, _: events.frames(
                reading,
                version=version,
                limit=limit,
                span=span,
                intervals=figures.types_in(reading, span).get("frames", 0),
            ),
        )

    async def rejected(
        self, request: Request, paging: Paging, span: TimeRange
    ) -> list[RejectedMessage]:
        """Return one page of rejected messages."""
        return await self._figures.read(
            request, lambda reading, _: events.rejected(reading, paging, span)
        )

    async def totals(self, request: Request, span: TimeRange) -> tuple[Totals, Storage | None]:
        """Return the counts, and the room."""
        return await self._figures.read(
            request,
            lambda reading, _: (figures.totals(reading, span), figures.room(reading.snapshot)),
        )

    async def history(
        self,
        request: Request,
        span: TimeRange,
        *,
        offset: int,
        type: str | None,
        version: str | None,
    ) -> History:
        """Return the counts by time."""
        return await self._figures.read(
            request,
            lambda reading, _: figures.history(
                reading, span, offset=offset, type=type, version=version
            ),
        )


class LakeRunner:
    """A :class:`....collector.http.query.Runner` over a lake.

    Args:
        following: the lake.
    """

    def __init__(self, following: Following) -> None:
        @contextlib.contextmanager
        def reading(cutoff: Cutoff) -> Iterator[Reading]:
            cutoff.begin()
            # A private database, which can't read any other file, and has its own memory.
            with (
                following.snapshot.reading(_QUERY_MEMORY) as opened,
                _ending(cutoff, opened.connection),
            ):
                yield opened

        seconds = SECONDS + _OPENING_SECONDS
        self._lane = Lane(reading, "queries", 1, seconds=seconds, too_slow=TOO_SLOW)

    def close(self) -> None:
        """End the query that runs."""
        self._lane.close()

    async def result(self, request: Request, sql: str, limit: int) -> QueryResult:
        """Return the result of a query."""
        return await self._lane.read(request, lambda reading, _: _run(reading, sql, limit))


def _run(reading: Reading, sql: str, limit: int) -> QueryResult:
    result = QueryResult([], [], partial=False)
    room = MAX_BYTES
    try:
        with LakeQuery(reading).run(sql, SECONDS) as (columns, rows):
            result.columns = columns
            for row in rows:
                values = [as_json_value(value) for value in row]
                room -= sum(len(each) if isinstance(each, str) else 8 for each in values)
                if len(result.rows) == limit or room < 0:
                    result.partial = True
                    break
                result.rows.append(values)
    except TooSlowError as error:
        raise BusyError(str(error)) from error
    except QueryError as error:
        raise BadRequestError(str(error)) from error
    return result
