"""The storage as the API sees it: one method for each of its questions.

A collector reads its database (:mod:`.from_database`); a view reads a lake. The routes, their
parameters and their JSON are the same for both.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ..answers.questions import Question, Timeline
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
from ..storage.cutoff import Cutoff
from .parameters import Paging

__all__ = ["Source", "Sources", "UnreadableError"]


class UnreadableError(Exception):
    """The storage can't be read now; the message says why."""


class Source(Protocol):
    """Answers questions from one state of the storage. Used by one thread, that of a lane.

    All methods raise these errors:

    - CutoffError: the answer would take too long, or nobody waits for it any more.
    - UnreadableError, DatabaseError, sqlite3.Error: the storage can't be read.
    """

    def events(
        self, wanted: EventFilter, paging: Paging, span: TimeRange, cutoff: Cutoff
    ) -> EventPage:
        """Return one page of events, in order of arrival."""

    def sessions(self, *, limit: int, offset: int, span: TimeRange) -> list[Session]:
        """Return one page of sessions, the most recently active first."""

    def session(self, session_id: str, cutoff: Cutoff) -> SessionDetail | None:
        """Return one session; None if there is none with this id."""

    def timeline(self, session_id: str, cutoff: Cutoff) -> Timeline | None:
        """Return one session by time; None if there is none with this id."""

    def versions(self, *, limit: int, span: TimeRange) -> list[VersionHealth]:
        """Return the outcomes of the sessions by version, the newest version first."""

    def crashes(
        self, *, version: str | None, limit: int, span: TimeRange, cutoff: Cutoff
    ) -> list[CrashGroup]:
        """Return the crashes in groups, the one with the newest crash first."""

    def faults(
        self, *, version: str | None, limit: int, span: TimeRange, cutoff: Cutoff
    ) -> list[FaultGroup]:
        """Return the events with a fault in groups, the one with the newest event first."""

    def frames(
        self, *, version: str | None, limit: int, span: TimeRange, cutoff: Cutoff
    ) -> list[FrameSummary]:
        """Return the frame times by version."""

    def rejected(self, paging: Paging, span: TimeRange) -> list[RejectedMessage]:
        """Return one page of rejected messages, in order of arrival."""

    def totals(self, span: TimeRange) -> tuple[Totals, Storage | None]:
        """Return the counts, and the room that everything takes, if that is known."""

    def history(
        self, span: TimeRange, *, offset: int, type: str | None, version: str | None
    ) -> History:
        """Return how many events were received in each step of a range."""

    def answer(self, question: Question, cutoff: Cutoff) -> Any:
        """Return the answer to a question, as the record that belongs to it.

        Raises:
            QuestionError: it has no answer.
        """


Sources = Callable[[Cutoff], AbstractContextManager[Source]]
"""Opens the storage for one request; see :class:`.readers.Lane`."""
