"""The interface of an engine: tables of events and sessions, and SQL over them.

An engine has a private database for one question. A table of events is made there for the question
alone, with the columns that it needs, and so is a table of sessions. What the events come from is
known to the engine alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from ..models import TimeRange
from ..storage import columns
from ..storage.cutoff import Cutoff
from .dialect import Dialect

__all__ = ["DAY", "INTEGER", "NUMBER", "SESSION_COLUMNS", "TEXT", "Backend"]

INTEGER, NUMBER, TEXT = "BIGINT", "DOUBLE", "TEXT"
"""The kinds of columns, as both engines name them."""

DAY = 86_400_000
"""Milliseconds."""

SESSION_COLUMNS = {
    "session": INTEGER,
    "id": TEXT,
    "version": TEXT,
    "events": INTEGER,
    "started": INTEGER,
    "ended": INTEGER,
    "received": INTEGER,
    "crashes": INTEGER,
    "outcome": TEXT,
}
"""The columns of a table of sessions, and their kinds."""


class Backend(ABC):
    """An engine for one question. Used on one thread.

    Args:
        cutoff: when the answer has to end.
        now: in milliseconds since the epoch; by default the time.
    """

    dialect: Dialect
    advice: str
    """The error of an answer that takes too long."""

    def __init__(self, cutoff: Cutoff, now: int | None = None) -> None:
        self.cutoff = cutoff
        self.now = now

    @staticmethod
    @abstractmethod
    def prepare() -> None:
        """Make the first question as quick as the others, once in a process."""

    @abstractmethod
    def run(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query; its parameters are question marks.

        Raises:
            CutoffError: it had to end.
            QuestionError: it needs too much memory.
        """

    @abstractmethod
    def add(
        self, table: str, columns: Mapping[str, str], values: Sequence[Sequence[object]]
    ) -> None:
        """Make a table.

        Args:
            table: its name.
            columns: their names, with their kinds: :data:`INTEGER`, :data:`NUMBER` or :data:`TEXT`.
            values: those of each column.
        """

    @abstractmethod
    def add_events(
        self,
        table: str,
        types: Sequence[str],
        base: Sequence[str],
        fields: Sequence[str],
        span: TimeRange,
    ) -> None:
        """Make a table or view of the events of some types that were received in a range.

        Its columns are ``type``, the index of the event's type in ``types``; those of ``base``; and
        of each field, by its index, ``number0`` and ``text0``, ``number1`` and ``text1`` and so on.
        A field of the data is a number, a text or absent. The others are texts; those of the
        context have a number, too, where they spell one.

        Args:
            table: its name.
            types: the names of the types; a type that there isn't has no events.
            base: any of ``session`` (a key), ``seq``, ``timestamp``, ``received`` and ``context``
                (a key, or NULL).
            fields: whole names, see :func:`.questions.field_name`.
            span: the range.
        """

    def add_visits(self, table: str, types: Sequence[str], midnight: int) -> None:
        """Make a table or view of when contexts were there, with ``received`` and ``context``.

        It has at least the first event of each context, and one of each day on which it has any.

        Args:
            table: its name.
            types: see :meth:`add_events`.
            midnight: a moment at which a day begins, in milliseconds before the epoch.
        """
        self.add_events(table, types, ["received", "context"], [], TimeRange())

    @abstractmethod
    def close(self) -> None:
        """Free the private database."""

    @abstractmethod
    def add_sessions(
        self,
        table: str,
        names: Sequence[str],
        span: TimeRange,
        keys: Sequence[int] | None = None,
    ) -> None:
        """Make a table of the sessions that were last heard of in a range.

        Args:
            table: its name.
            names: its columns, of those that :data:`SESSION_COLUMNS` has.
            span: the range.
            keys: those of the sessions that are needed; by default all.
        """

    @abstractmethod
    def type_names(self) -> list[str]:
        """Return the types of which there are events, the most frequent first."""

    @abstractmethod
    def versions(self) -> list[str]:
        """Return the versions of sessions, the one that was last heard of first."""

    @abstractmethod
    def fields(self, type_name: str) -> list[columns.Field]:
        """Return the fields in the data of a type's events; see :func:`.columns.fields`."""

    @abstractmethod
    def newest_contexts(self, type_name: str | None, events: int) -> list[tuple[str | None, int]]:
        """Return the contexts of the newest events, in any order, with how many have each.

        Args:
            type_name: the type of the events; None for all.
            events: how many are looked at.
        """

    @abstractmethod
    def context_names(self) -> list[str]:
        """Return the names of the fields that contexts have, in order; at most a hundred."""

    @abstractmethod
    def context_values(self, name: str) -> tuple[list[int], list[str]]:
        """Return the keys of the contexts that have a field, and its values."""

    @abstractmethod
    def last_types(self, sessions: Sequence[int]) -> tuple[list[int], list[str]]:
        """Return the keys of sessions, and the types of the events of them that arrived last."""
