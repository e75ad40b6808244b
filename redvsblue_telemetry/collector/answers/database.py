"""What the answers read of a collector's database besides the events, for both engines."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from ..models import TimeRange
from ..storage import columns, queries
from ..storage.cutoff import Cutoff
from .backend import SESSION_COLUMNS, Backend
from .questions import as_number

__all__ = ["DatabaseBackend"]

_OWN_NAMES = {  # of the columns that have other names in the database
    "session": "key",
    "id": "session_id",
    "started": "first_timestamp",
    "ended": "last_timestamp",
    "received": "last_received",
}


class DatabaseBackend(Backend):
    """An engine over a collector's database; see :class:`.backend.Backend`.

    Args:
        connection: a connection to the database, which has begun a snapshot.
        cutoff: when the answer has to end.
        connected: the ids of the sessions whose clients are connected.
        now: in milliseconds since the epoch; by default the time.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        cutoff: Cutoff,
        connected: AbstractSet[str] = frozenset(),
        now: int | None = None,
    ) -> None:
        super().__init__(cutoff, now)
        self.connection = connection
        self.connected = connected

    def add_sessions(
        self,
        table: str,
        names: Sequence[str],
        span: TimeRange,
        keys: Sequence[int] | None = None,
    ) -> None:
        """See :meth:`.Backend.add_sessions`."""
        kinds = {name: SESSION_COLUMNS[name] for name in names}
        self.add(table, kinds, self._sessions(names, span, keys))

    def type_names(self) -> list[str]:
        """See :meth:`.Backend.type_names`."""
        rows = self.connection.execute(
            "SELECT name FROM types WHERE events > 0 ORDER BY events DESC, name"
        )
        return [name for (name,) in rows]

    def versions(self) -> list[str]:
        """See :meth:`.Backend.versions`."""
        rows = self.connection.execute(
            "SELECT version FROM sessions WHERE version IS NOT NULL GROUP BY version "
            "ORDER BY max(last_received) DESC, version"
        )
        return [name for (name,) in rows]

    def fields(self, type_name: str) -> list[columns.Field]:
        """See :meth:`.Backend.fields`."""
        return columns.fields(self.connection, type_name)

    def newest_contexts(self, type_name: str | None, events: int) -> list[tuple[str | None, int]]:
        """See :meth:`.Backend.newest_contexts`."""
        wanted = "" if type_name is None else "WHERE type = (SELECT key FROM types WHERE name = ?)"
        return self.connection.execute(
            f"SELECT text, count(*) FROM (SELECT context FROM events {wanted} "
            f"ORDER BY arrival DESC LIMIT {events}) AS sample "
            "LEFT JOIN contexts ON contexts.key = context GROUP BY context",
            () if type_name is None else (type_name,),
        ).fetchall()

    def context_names(self) -> list[str]:
        """See :meth:`.Backend.context_names`."""
        return queries.context_names(self.connection)

    def context_values(self, name: str) -> tuple[list[int], list[str]]:
        """See :meth:`.Backend.context_values`."""
        return queries.context_values(self.connection, name)

    def last_types(self, sessions: Sequence[int]) -> tuple[list[int], list[str]]:
        """See :meth:`.Backend.last_types`."""
        return queries.last_types(self.connection, sessions, self.cutoff)

    def texts_of(self, field: str) -> tuple[list[int], list[str], list[float | None]]:
        """Return the keys of sessions or contexts, and the texts and numbers of a field of theirs.

        Args:
            field: ``session``, ``outcome``, or one of the context.
        """
        if field.startswith("context."):
            keys, texts = self.context_values(field.removeprefix("context."))
            numbers = {text: as_number(text) for text in set(texts)}
            return keys, texts, [numbers[text] for text in texts]
        name = "id" if field == "session" else "outcome"
        keys, texts = self._sessions(["session", name], TimeRange())
        return keys, texts, [None] * len(keys)

    def _sessions(
        self, names: Sequence[str], span: TimeRange, keys: Sequence[int] | None = None
    ) -> tuple[list[Any], ...]:
        own = [_OWN_NAMES.get(name, name) for name in names]
        return queries.session_columns(
            self.connection, own, span, keys=keys, connected=self.connected, now=self.now
        )
