"""Reads a lake for the API, on the threads of lanes.

A request reads the newest version that is in the catalog, with its own connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request

from ...collector.answers.asking import answer_with
from ...collector.answers.questions import Question, Timeline
from ...collector.http.parameters import BadRequestError, Paging
from ...collector.http.query import MAX_BYTES, SECONDS, TOO_SLOW, QueryResult
from ...collector.http.readers import BusyError, Lane
from ...collector.http.source import Source, Sources, UnreadableError
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
from ...collector.storage.cutoff import Cutoff
from ...collector.storage.sandbox import QueryError, TooSlowError, as_json_value
from ..lake.errors import LakeError
from ..lake.reading import Reading
from ..lake.sql import LakeQuery
from . import events, figures
from .answers import CatalogVectors
from .following import Following
from .timeline import timeline

__all__ = ["LakeRunner", "lake_sources"]

_QUERY_MEMORY = "512MB"
_OPENING_SECONDS = 5.0  # until a query begins


def lake_sources(following: Following) -> Sources:
    """Return what opens the newest version of a lake for requests."""

    @contextlib.contextmanager
    def source(cutoff: Cutoff) -> Iterator[Source]:
        cutoff.begin()
        with contextlib.closing(following.catalog.cursor()) as cursor:
            cursor.execute("BEGIN")  # all that is read of the catalog is of one moment
            reading = Reading(following.snapshot, cursor, kinds=())
            with _explaining(), reading.ending(cutoff):
                yield _LakeSource(reading)

    return source


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    try:
        yield
    except LakeError as error:
        raise UnreadableError(str(error)) from error


class _LakeSource:
    """See :class:`....collector.http.source.Source`."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def events(
        self, wanted: EventFilter, paging: Paging, span: TimeRange, cutoff: Cutoff
    ) -> EventPage:
        return events.page(self._reading, wanted, paging, span, cutoff)

    def sessions(self, *, limit: int, offset: int, span: TimeRange) -> list[Session]:
        return figures.sessions(self._reading, limit=limit, offset=offset, span=span)

    def session(self, session_id: str, cutoff: Cutoff) -> SessionDetail | None:
        return figures.session(self._reading, session_id)

    def timeline(self, session_id: str, cutoff: Cutoff) -> Timeline | None:
        return timeline(self._reading, session_id, cutoff=cutoff)

    def versions(self, *, limit: int, span: TimeRange) -> list[VersionHealth]:
        return figures.versions(self._reading, limit=limit, span=span)

    def crashes(
        self, *, version: str | None, limit: int, span: TimeRange, cutoff: Cutoff
    ) -> list[CrashGroup]:
        return events.crashes(self._reading, version=version, limit=limit, span=span, cutoff=cutoff)

    def faults(
        self, *, version: str | None, limit: int, span: TimeRange, cutoff: Cutoff
    ) -> list[FaultGroup]:
        return events.faults(self._reading, version=version, limit=limit, span=span)

    def frames(
        self, *, version: str | None, limit: int, span: TimeRange, cutoff: Cutoff
    ) -> list[FrameSummary]:
        intervals = figures.types_in(self._reading, span).get("frames", 0)
        return events.frames(
            self._reading, version=version, limit=limit, span=span, intervals=intervals
        )

    def rejected(self, paging: Paging, span: TimeRange) -> list[RejectedMessage]:
        return events.rejected(self._reading, paging, span)

    def totals(self, span: TimeRange) -> tuple[Totals, Storage | None]:
        return figures.totals(self._reading, span), figures.room(self._reading.snapshot)

    def history(
        self, span: TimeRange, *, offset: int, type: str | None, version: str | None
    ) -> History:
        return figures.history(self._reading, span, offset=offset, type=type, version=version)

    def answer(self, question: Question, cutoff: Cutoff) -> Any:
        whole = Reading(self._reading.snapshot, self._reading.connection)
        return answer_with(CatalogVectors(whole, cutoff), question)


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
                _explaining(),
                opened.ending(cutoff),
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
