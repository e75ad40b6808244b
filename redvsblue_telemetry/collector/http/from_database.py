"""Reads a collector's database for the API, on the threads of lanes."""

from __future__ import annotations

from starlette.requests import Request

from ..ingest import Ingest
from ..models import (
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
from ..storage import queries
from ..storage.database import Database
from ..storage.history import history
from ..storage.space import Space
from .parameters import Paging
from .readers import Lane, reading_of

__all__ = ["SEARCH_SECONDS", "DatabaseSource"]

SEARCH_SECONDS = 2.0
"""After these, a search responds with as much as it has found."""


class DatabaseSource:
    """A :class:`.source.Source` over a database.

    Args:
        database: the database to read.
        ingest: knows the connected clients.
        space: measures the room that the database takes.
    """

    def __init__(self, database: Database, ingest: Ingest, space: Space) -> None:
        reading = reading_of(database)
        # What is asked for every second, and answered at once, must not wait for anything else.
        self._figures = Lane(reading, "figures", 2)
        self._summaries = Lane(reading, "summaries", 2, SEARCH_SECONDS)
        self._searches = Lane(reading, "searches", 2, SEARCH_SECONDS)
        self._ingest = ingest
        self._space = space

    def close(self) -> None:
        """End all reading."""
        for lane in (self._figures, self._summaries, self._searches):
            lane.close()

    async def events(
        self, request: Request, wanted: EventFilter, paging: Paging, span: TimeRange
    ) -> EventPage:
        """Return one page of events."""
        return await self._searches.read(
            request,
            lambda connection, cutoff: queries.search(
                connection, wanted, **paging, span=span, cutoff=cutoff
            ),
        )

    async def sessions(
        self, request: Request, *, limit: int, offset: int, span: TimeRange
    ) -> list[Session]:
        """Return one page of sessions."""
        connected = self._ingest.connected_sessions
        return await self._figures.read(
            request,
            lambda connection, _: queries.sessions(
                connection, limit=limit, offset=offset, connected=connected, span=span
            ),
        )

    async def session(self, request: Request, session_id: str) -> SessionDetail | None:
        """Return one session."""
        connected = self._ingest.connected_sessions
        return await self._summaries.read(
            request,
            lambda connection, cutoff: queries.session(
                connection, session_id, connected=connected, cutoff=cutoff
            ),
        )

    async def versions(
        self, request: Request, *, limit: int, span: TimeRange
    ) -> list[VersionHealth]:
        """Return the outcomes by version."""
        connected = self._ingest.connected_sessions
        return await self._figures.read(
            request,
            lambda connection, _: queries.versions(
                connection, limit=limit, connected=connected, span=span
            ),
        )

    async def crashes(
        self, request: Request, *, version: str | None, limit: int, span: TimeRange
    ) -> list[CrashGroup]:
        """Return the crashes in groups."""
        return await self._summaries.read(
            request,
            lambda connection, cutoff: queries.crashes(
                connection, version=version, limit=limit, span=span, cutoff=cutoff
            ),
        )

    async def faults(
        self, request: Request, *, version: str | None, limit: int, span: TimeRange
    ) -> list[FaultGroup]:
        """Return the faults in groups."""
        return await self._summaries.read(
            request,
            lambda connection, cutoff: queries.faults(
                connection, version=version, limit=limit, span=span, cutoff=cutoff
            ),
        )

    async def frames(
        self, request: Request, *, version: str | None, limit: int, span: TimeRange
    ) -> list[FrameSummary]:
        """Return the frame times by version."""
        return await self._summaries.read(
            request,
            lambda connection, cutoff: queries.frames(
                connection, version=version, limit=limit, span=span, cutoff=cutoff
            ),
        )

    async def rejected(
        self, request: Request, paging: Paging, span: TimeRange
    ) -> list[RejectedMessage]:
        """Return one page of rejected messages."""
        return await self._figures.read(
            request, lambda connection, _: queries.rejected(connection, **paging, span=span)
        )

    async def totals(self, request: Request, span: TimeRange) -> tuple[Totals, Storage | None]:
        """Return the counts, and the room."""
        connected = self._ingest.connected_sessions
        return await self._figures.read(
            request,
            lambda connection, _: (
                queries.totals(connection, connected=connected, span=span),
                self._space.measure(connection),
            ),
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
            lambda connection, _: history(
                connection, span, offset=offset, type=type, version=version
            ),
        )
