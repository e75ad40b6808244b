"""Asks: chooses the back end, reads one snapshot, and returns the answer.

DuckDB is used where the extra is installed, SQLite otherwise.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any

from ..storage.cutoff import NEVER, Cutoff
from ..storage.snapshot import snapshot
from .backend import Backend
from .compare import compare
from .field import field
from .fields import fields
from .funnel import funnel
from .questions import Compare, Field, Fields, Funnel, Question, Retention, Values
from .retention import retention
from .rows import Rows
from .sql import values
from .vectors import Vectors, can_answer

__all__ = ["ask", "best_backend"]

_ANSWERS: dict[type[Question], Callable[[Backend, Any], Any]] = {
    Compare: compare,
    Field: field,
    Fields: fields,
    Funnel: funnel,
    Retention: retention,
    Values: values,
}
"""The function that answers each kind of question."""


def best_backend() -> type[Backend]:
    """Return the fastest back end whose packages are installed."""
    return Vectors if can_answer() else Rows


def ask(
    connection: sqlite3.Connection,
    question: Question,
    *,
    backend: type[Backend] | None = None,
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
    with snapshot(connection), _closing(kind(connection, cutoff, connected, now)) as engine:
        return _ANSWERS[type(question)](engine, question)


@contextlib.contextmanager
def _closing(backend: Backend) -> Iterator[Backend]:
    try:
        yield backend
    finally:
        backend.close()
