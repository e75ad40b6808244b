"""The interface of an engine: tables of events and sessions, and SQL over them.

An engine has a private database for one question. A table of events is made there for the question
alone, with the columns that it needs, and so is a table of sessions.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from ..models import TimeRange
from ..storage import queries
from ..storage.cutoff import Cutoff
from .dialect import Dialect
from .questions import as_number

__all__ = ["INTEGER", "NUMBER", "TEXT", "Backend"]

INTEGER, NUMBER, TEXT = "BIGINT", "DOUBLE", "TEXT"
"""The kinds of columns, as both engines name them."""


class Backend(ABC):
    """An engine for one question. Used on one thread.

    Args:
        connection: a connection to the collector's database, which has begun a snapshot.
        cutoff: when the answer has to end.
        connected: the ids of the sessions whose clients are connected.
        now: in milliseconds since the epoch; by default the time.
    """

    dialect: Dialect
    advice: str
    """The error of an answer that takes too long."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        cutoff: Cutoff,
        connected: AbstractSet[str] = frozenset(),
        now: int | None = None,
    ) -> None:
        self.connection = connection
        self.cutoff = cutoff
        self.connected = connected
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
    def add(self, table: str, columns: Mapping[str, str], rows: Iterable[Sequence[object]]) -> None:
        """Make a table of rows.

        Args:
            table: its name.
            columns: their names, with their kinds: :data:`INTEGER`, :data:`NUMBER` or :data:`TEXT`.
            rows: a value for each column.
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

    @abstractmethod
    def close(self) -> None:
        """Free the private database."""

    def type_names(self) -> list[str]:
        """Return the types of which there are events, the most frequent first."""
        rows = self.connection.execute(
            "SELECT name FROM types WHERE events > 0 ORDER BY events DESC, name"
        )
        return [name for (name,) in rows]

    def add_sessions(self, table: str, span: TimeRange) -> None:
        """Make a table of the sessions that were last heard of in a range.

        Its columns are those of :func:`.queries.session_rows`.
        """
        columns = {
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
        self.add(table, columns, self._session_rows(span))

    def texts_of(self, field: str) -> Iterator[tuple[int, str, float | None]]:
        """Yield the keys of sessions or contexts, with the text and number of a field of theirs.

        Args:
            field: ``session``, ``outcome``, or one of the context.
        """
        if field.startswith("context."):
            rows = self.connection.execute(
                "SELECT context, value FROM context_fields WHERE name = ?",
                (field.removeprefix("context."),),
            )
            for key, value in rows:
                yield key, value, as_number(value)
        elif field == "session":
            for key, name in self.connection.execute("SELECT key, session_id FROM sessions"):
                yield key, name, None
        else:
            for key, *_, outcome in self._session_rows(TimeRange()):
                yield key, outcome, None

    def _session_rows(self, span: TimeRange) -> Iterator[tuple[Any, ...]]:
        return queries.session_rows(self.connection, span, connected=self.connected, now=self.now)
