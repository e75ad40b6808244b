"""The database that a command reads."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from ..collector.storage.database import DatabaseError, open_readonly

__all__ = ["open_database"]

_NAME_IT = "name the database that `collect` writes with --db"


@contextlib.contextmanager
def open_database(path: Path, schema: str = "main") -> Iterator[sqlite3.Connection]:
    """Open an existing database for reading.

    Args:
        path: the file.
        schema: the name of the schema of its tables.

    Raises:
        DatabaseError: the file doesn't exist or can't be read.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DatabaseError(f"{path} does not exist; {_NAME_IT}") from None
    except OSError as error:
        raise DatabaseError(f"{path} can't be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DatabaseError(
            f"{path} is not a regular file; name the database that `collect` writes with --db"
        )
    if not status.st_size:
        raise DatabaseError(f"{path} is empty: no collector has stored anything in it")
    with open_readonly(path, schema=schema) as connection:
        yield connection
