"""The database that a command reads."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ..collector.storage.database import DatabaseError, open_readonly

__all__ = ["open_database"]


@contextlib.contextmanager
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing database for reading.

    Raises:
        DatabaseError: the file doesn't exist or can't be read.
    """
    try:
        is_empty = not path.is_file() or not path.stat().st_size
    except OSError as error:
        raise DatabaseError(f"{path} can't be read: {error.strerror or error}") from error
    if is_empty:
        raise DatabaseError(
            f"{path} is not a database; name the one that `collect` writes with --db"
        )
    with open_readonly(path) as connection:
        yield connection
