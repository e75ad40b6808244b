"""Asks: chooses the back end, reads one snapshot, and returns the answer.

DuckDB is used where the extra is installed, SQLite otherwise.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

from ..storage.cutoff import NEVER, Cutoff
from ..storage.snapshot import snapshot
from .backend import Backend
from .compare import compare
from .database import DatabaseBackend
from .field import field
from .fields import fields
from .funnel import funnel
from .questions import Compare, Field, Fields, Funnel, Question, Retention, Values
from .retention import retention
from .rows import Rows
from .sql import values
from .vectors import Vectors, can_answer

__all__ = ["answer_with", "ask", "best_backend"]

_ANSWERS: dict[type[Question], Callable[[Backend, Any], Any]] = {
    Compare: compare,
    Field: field,
    Fields: fields,
    Funnel: funnel,
    Retention: retention,
    Values: values,
}
"""The function that answers each kind of question."""


def best_backend() -> type[DatabaseBackend]:
    """Return the fastest back end whose packages are installed."""
    return Vectors if can_answer() else Rows


def ask(
    connection: sqlite3.Connection,
    question: Question,
    *,
    backend: type[DatabaseBackend] | None = None,
    cutoff: Cutoff = NEVER,
    connected: AbstractSet[str] = frozenset(),
    now: int | None = None,
) -> Any:
    """Return the answer to a question, as the record that belongs to it.

    Args:
        connection: a connection to the database; it only reads.
        question: a record of :mod:`.questions`.
        backend: by default the best one.
        cutoff: when the answer has to end.
        connected: the ids of the sessions whose clients are connected.
        now: in milliseconds since the epoch; by default the time.

    Raises:
        QuestionError: it has no answer.
        CutoffError: it had to end.
    """
    kind = backend or best_backend()
    with snapshot(connection):
        return answer_with(kind(connection, cutoff, connected, now), question)


def answer_with(backend: Backend, question: Question) -> Any:
    """Return the answer of an engine, and close it; see :func:`ask`."""
    with contextlib.closing(backend):
        return _ANSWERS[type(question)](backend, question)
