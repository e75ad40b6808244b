"""Reading a database file from outside the collector: it leaves no trace in it or beside it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from .database import APPLICATION, VERSION, DatabaseError

__all__ = ["read_only"]


@contextlib.contextmanager
def read_only(path: Path, *, busy_timeout: float = 5.0) -> Iterator[sqlite3.Connection]:
    """A connection to a database that is there already. What is in the place stays as it is.

    A collector may write to it meanwhile. Where none does there is no ``-wal`` file, and SQLite
    would have to make one, and leave it, even to read. So the file is then read as one that
    doesn't change; whether it did is looked at in the end.

    Args:
        path: its file.
        busy_timeout: seconds to wait for others who have it locked.

    Raises:
        DatabaseError: it can't be read, is something else, or did change.
    """
    try:
        _refuse_strangers(path)
        mark = _mark_at_rest(path)
    except OSError as error:
        raise DatabaseError(f"{path} can't be read: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise DatabaseError(f"{path}: {error}") from error
    try:
        mode = "mode=ro" if mark is None else "immutable=1"
        with contextlib.closing(_connected(path, mode, busy_timeout)) as connection:
            _check_tables(path, connection)
            yield connection
    except sqlite3.Error as error:
        _check_at_rest(path, mark)
        raise DatabaseError(f"{path}: {error}{_hint(path)}") from error
    _check_at_rest(path, mark)


def _connected(path: Path, mode: str, busy_timeout: float = 0.0) -> sqlite3.Connection:
    source = f"{path.absolute().as_uri()}?{mode}"
    return sqlite3.connect(source, uri=True, isolation_level=None, timeout=busy_timeout)


def _application_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA application_id").fetchone()[0])


def _log_of(path: Path) -> tuple[Path, Path]:
    """The files beside a database that has a log: that, and its index."""
    whole = path.resolve()
    return Path(f"{whole}-wal"), Path(f"{whole}-shm")


def _refuse_strangers(path: Path) -> None:
    """Look into the file alone: what isn't ours gets no file beside it that it hadn't."""
    with contextlib.closing(_connected(path, "immutable=1")) as connection:
        application = _application_of(connection)
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    # What is new has its tables in its log only.
    is_new = not application and not tables and _log_of(path)[0].exists()
    if application != APPLICATION and not is_new:
        raise _something_else(path)


def _check_tables(path: Path, connection: sqlite3.Connection) -> None:
    if _application_of(connection) != APPLICATION:
        raise _something_else(path)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise DatabaseError(
            f"{path} has tables of version {version}, and this is for version {VERSION} only: "
            "use what comes with the collector that made it"
        )


def _something_else(path: Path) -> DatabaseError:
    return DatabaseError(f"{path} is a database of something else: name another file")


def _mark_at_rest(path: Path) -> tuple[int, int, int] | None:
    """What would be another if the file were changed; None if SQLite's own locks have to tell."""
    log, index = _log_of(path)
    if log.exists() and (log.stat().st_size or index.exists()):
        return None  # somebody writes to it, or was killed when they did
    # Opened by hand only where nobody in this process has it open: closing it ends their locks.
    with path.open("rb") as file:
        has_log_if_used = file.read(20)[18:] == b"\2\2"  # its header says so: it is in WAL mode
    status = path.stat()
    return (status.st_ino, status.st_size, status.st_mtime_ns) if has_log_if_used else None


def _check_at_rest(path: Path, mark: tuple[int, int, int] | None) -> None:
    if mark is None:
        return
    with contextlib.suppress(OSError):
        if _mark_at_rest(path) == mark:
            return
    raise DatabaseError(f"{path} began to be written to while it was read: do it again")


def _hint(path: Path) -> str:
    log, index = _log_of(path)
    if log.exists() and not index.exists():
        return f" ({index.name} is missing, and can't be made here: copy the others elsewhere)"
    return ""
