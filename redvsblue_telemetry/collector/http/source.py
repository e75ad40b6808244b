"""The storage as the API sees it: one method for each of its questions.

A collector reads its database (:mod:`.from_database`); a view reads a lake. The routes, their
parameters and their JSON are the same for both.
"""

from __future__ import annotations

from typing import Protocol

from starlette.requests import Request

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
from .parameters import Paging

__all__ = ["Source", "UnreadableError"]


class UnreadableError(Exception):
    """The storage can't be read now; the message says why."""


class Source(Protocol):
    """Answers the questions of the API. Its methods are called on the event loop's thread.

    Each takes the request that it is for: when the client goes, it ends. All raise these errors:

    - ClientGoneError: the client disconnected.
    - BusyError: the answer would take too long.
    - UnreadableError, DatabaseError, sqlite3.Error: it can't be read.
    """

    async def events(
        self, request: Request, wanted: EventFilter, paging: Paging, span: TimeRange
    ) -> EventPage:
        """Return one page of events, in order of arrival."""

    async def sessions(
        self, request: Request, *, limit: int, offset: int, span: TimeRange
    ) -> list[Session]:
        """Return one page of sessions, the most recently active first."""

    async def session(self, request: Request, session_id: str) -> SessionDetail | None:
        """Return one session; None if there is none with this id."""

    async def versions(
        self, request: Request, *, limit: int, span: TimeRange
    ) -> list[VersionHealth]:
        """Return the outcomes of the sessions by version, the newest version first."""

    async def crashes(
        self, request: Request, *, version: str | None, limit: int, span: TimeRange
    ) -> list[CrashGroup]:
        """Return the crashes in groups, the one with the newest crash first."""

    async def faults(
        self, request: Request, *, version: str | None, limit: int, span: TimeRange
    ) -> list[FaultGroup]:
        """Return the events with a fault in groups, the one with the newest event first."""

    async def frames(
        self, request: Request, *, version: str | None, limit: int, span: TimeRange
    ) -> list[FrameSummary]:
        """Return the frame times by version."""

    async def rejected(
        self, request: Request, paging: Paging, span: TimeRange
    ) -> list[RejectedMessage]:
        """Return one page of rejected messages, in order of arrival."""

    async def totals(self, request: Request, span: TimeRange) -> tuple[Totals, Storage | None]:
        """Return the counts, and the room that everything takes, if that is known."""

    async def history(
        self,
        request: Request,
        span: TimeRange,
        *,
        offset: int,
        type: str | None,
        version: str | None,
    ) -> History:
        """Return how many events were received in each step of a range."""

    def close(self) -> None:
        """End all reading; the requests are answered with an error."""
