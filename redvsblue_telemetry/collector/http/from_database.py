"""Reads a collector's database for the API."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Any

from ..answers.asking import ask
from ..answers.questions import Question, Timeline
from ..answers.timeline import timeline
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
from ..storage.cutoff import Cutoff
from ..storage.database import Database
from ..storage.history import history
from ..storage.space import Space
from .parameters import Paging
from .readers import reading_of
from .source import Source, Sources

__all__ = ["database_sources"]


def database_sources(database: Database, ingest: Ingest, space: Space) -> Sources:
    """Return what opens a database for requests.

    Args:
        database: the database to read.
        ingest: knows the connected clients.
        space: measures the room that the database takes.
    """
    reading = reading_of(database)

    @contextlib.contextmanager
    def source(cutoff: Cutoff, connected: AbstractSet[str]) -> Iterator[Source]:
        with reading(cutoff) as connection:
            yield _DatabaseSource(connection, connected, space)

    # Called on the event loop's thread: only there, no client comes or goes meanwhile.
    return lambda cutoff: source(cutoff, ingest.connected_sessions)


class _DatabaseSource:
    """See :class:`.source.Source`."""

    def __init__(
        self, connection: sqlite3.Connection, connected: AbstractSet[str], space: Space
    ) -> None:
        self._connection = connection
        self._connected = connected
        self._space = space

    def events(
        self, wanted: EventFilter, paging: Paging, span: TimeRange, cutoff: Cutoff
    ) -> EventPage:
        return queries.search(self._connection, wanted, **paging, span=span, cutoff=cutoff)

    def sessions(self, *, limit: int, offset: int, span: TimeRange) -> list[Session]:
        return queries.sessions(
            self._connection, limit=limit, offset=offset, connected=self._connected, span=span
        )

    def session(self, session_id: str, cutoff: Cutoff) -> SessionDetail | None:
        return queries.session(
            self._connection, session_id, connected=self._connected, cutoff=cutoff
        )

    def timeline(self, session_id: str, cutoff: Cutoff) -> Timeline | None:
        return timeline(self._connection, session_id, connected=self._connected, cutoff=cutoff)

    def versions(self, *, limit: int, span: TimeRange) -> list[VersionHealth]:
        return queries.versions(self._connection, limit=limit, connected=self._connected, span=span)

    def crashes(
        self, *, version: str | None, limit: int, span: TimeRange, cutoff: Cutoff
    ) -> list[CrashGroup]:
        return queries.crashes(
            self._connection, version=version, limit=limit, span=span, cutoff=cutoff
        )

    def faults(
        self, *, version: str | None, limit: int, span: TimeRange, cutoff: Cutoff
    ) -> list[FaultGroup]:
        return queries.faults(
            self._connection, version=version, limit=limit, span=span, cutoff=cutoff
        )

    def frames(
        self, *, version: str | None, limit: int, span: TimeRange, cutoff: Cutoff
    ) -> list[FrameSummary]:
        return queries.frames(
            self._connection, version=version, limit=limit, span=span, cutoff=cutoff
        )

    def rejected(self, paging: Paging, span: TimeRange) -> list[RejectedMessage]:
        return queries.rejected(self._connection, **paging, span=span)

    def totals(self, span: TimeRange) -> tuple[Totals, Storage | None]:
        return (
            queries.totals(self._connection, connected=self._connected, span=span),
            self._space.measure(self._connection),
        )

    def history(
        self, span: TimeRange, *, offset: int, type: str | None, version: str | None
    ) -> History:
        return history(self._connection, span, offset=offset, type=type, version=version)

    def answer(self, question: Question, cutoff: Cutoff) -> Any:
        return ask(self._connection, question, cutoff=cutoff, connected=self._connected)
