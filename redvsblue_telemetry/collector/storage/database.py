"""The database file, and the ways to open it.

The collector opens it to write and to read (:class:`Database`); programs beside the collector only
read it (:func:`open_readonly`). In SQLite's WAL mode, readers and the writer don't block one
another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from ..textsearch import fits
from .schema import APPLICATION_ID, AS_CURRENT, SCHEMA_VERSION, upgrade

__all__ = ["Database", "DatabaseError", "open_readonly"]

logger = logging.getLogger("redvsblue_telemetry.collector")


_PRIVATE = 0o600
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH
_MAX_IDLE_READERS = 8
_HINTS = {
    "attempt to write a readonly database": "; may this user write to the file and its directory?",
    "database disk image is malformed": "; the file is damaged: move it away, or restore a backup",
    "unable to open database file": "; may this user write to the file and its directory?",
}
"""What to do about some of SQLite's errors."""


class DatabaseError(Exception):
    """The database can't be used; the message says why and what to do."""


class Database:
    """A database that a collector writes and reads. Its methods may be called from any thread.

    Args:
        path: the file, created for its owner alone if it doesn't exist; None for a temporary file
            that :meth:`close` deletes.
        busy_timeout: seconds to wait while another program has it locked.

    Raises:
        DatabaseError: it can't be opened, or is not a telemetry database.
    """

    def __init__(self, path: Path | None, *, busy_timeout: float = 5.0) -> None:
        # This used to be an in-memory database with a cache shared between connections. It was a
        # second mode with rules of its own: readers there block the writer unless they read what is
        # not committed. And a long-running collector held all its data in memory.
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if path is None:
            self._folder = _temporary_folder()
            path = Path(self._folder.name, "telemetry.sqlite3")
        self.path = path
        self.is_temporary = self._folder is not None
        """Whether :meth:`close` deletes it."""
        self._busy_timeout = busy_timeout
        self._readers: list[sqlite3.Connection] = []  # that nobody uses now
        self._readers_lock = threading.Lock()
        self._is_closed = False
        try:
            _make_private(self.path)
            with contextlib.closing(self.connect()) as connection:
                self._prepare(connection)
            _warn_of_readers(self.path)
            self._file_id = self._current_file_id()
        except BaseException:
            self.close()
            raise

    def connect(self) -> sqlite3.Connection:
        """Return a new connection, which leaves transactions to its user.

        Raises:
            DatabaseError: it can't be opened.
        """
        try:
            connection = sqlite3.connect(
                _uri(self.path),
                uri=True,
                isolation_level=None,
                timeout=self._busy_timeout,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise self.explain(error) from error
        _add_functions(connection)
        return connection

    @property
    def readonly_uri(self) -> str:
        """The URI by which SQLite opens it without the means to write."""
        return f"{_uri(self.path)}?mode=ro"

    def explain(self, error: sqlite3.Error) -> DatabaseError:
        """Return the error with the path of the file."""
        return DatabaseError(f"{_explained(self.path, error)}{_HINTS.get(str(error), '')}")

    def check_file(self) -> None:
        """Check that the file still exists: SQLite would write to a deleted one without an error.

        Raises:
            DatabaseError: it doesn't, or another one is in its place.
        """
        if self._current_file_id() != self._file_id:
            raise DatabaseError(
                f"{self.path} was deleted or replaced while in use; restart the collector"
            )

    def log_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        try:
            return os.stat(_wal_files(self.path)[0]).st_size
        except OSError:
            return 0

    def _current_file_id(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Create or upgrade the tables, unless the file isn't ours."""
        try:
            if (version := self._checked_version(connection)) == SCHEMA_VERSION:
                return
            if not version:
                # Both at once, and before the tables, so that an unfinished file is not taken for
                # another program's. A file with pages can later be made smaller by VACUUM only.
                connection.execute("BEGIN")
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute("COMMIT")
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            version = self._checked_version(connection)  # another collector may have been faster
            if 0 < version < SCHEMA_VERSION:
                logger.info(
                    "upgrading %s from schema version %d to %d", self.path, version, SCHEMA_VERSION
                )
            if version < SCHEMA_VERSION:
                for statement in upgrade(version):
                    connection.execute(statement)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self.explain(error) from error

    def _checked_version(self, connection: sqlite3.Connection) -> int:
        """Return the version of the schema; 0 for an empty file."""
        # Before the rest: between the two, another collector may make the file.
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        if not pages:
            return 0
        application_id, version = _identity(connection)
        if application_id != APPLICATION_ID:
            raise _not_ours(self.path)
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if not tables:
            return 0  # a collector that was killed did not finish it
        if not 0 < version <= SCHEMA_VERSION:
            raise DatabaseError(
                f"{self.path} has schema version {version}, but this collector supports only "
                f"versions up to {SCHEMA_VERSION}; choose another file, or use the collector that "
                "made it"
            )
        return version

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Provide a connection that can't write. Any thread may ask for one.

        It is kept for the next reader: a new one has to read and parse the whole schema first.
        """
        connection = self._reader()
        try:
            yield connection
            connection.set_progress_handler(None, 0)
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
        with self._readers_lock:
            is_kept = not self._is_closed and len(self._readers) < _MAX_IDLE_READERS
            if is_kept:
                self._readers.append(connection)
        if not is_kept:
            connection.close()

    def _reader(self) -> sqlite3.Connection:
        with self._readers_lock:
            # If the file was replaced, a kept connection would go on reading the old one.
            if self._readers and self._current_file_id() == self._file_id:
                return self._readers.pop()
        connection = self.connect()
        connection.execute("PRAGMA query_only = 1")
        return connection

    def close(self) -> None:
        """Close the connections that are kept, and delete the file if it is a temporary one.

        A reader that is still busy closes its own. All others must be closed before.
        """
        with self._readers_lock:
            self._is_closed = True
            readers, self._readers = self._readers, []
        for connection in readers:
            connection.close()
        if self._folder is not None:
            self._folder.cleanup()


def _make_private(path: Path) -> None:
    """Create the file, empty, for its owner alone, unless it exists.

    SQLite would give it the permissions that the process gives any file, mostly 0644. It gives its
    log and its index those of the file.

    Raises:
        DatabaseError: it can't be created, or something else than a file is in its place.
    """
    whole = os.path.realpath(path)  # the target of a link, as SQLite would create it
    try:
        file = os.open(whole, os.O_RDWR | os.O_CREAT | os.O_EXCL, _PRIVATE)
    except FileExistsError:
        if os.path.isdir(whole):
            raise DatabaseError(f"{path} is a directory; name a file in it") from None
        if not os.path.isfile(whole):
            raise DatabaseError(f"{path} is not a regular file; choose another file") from None
        return
    except FileNotFoundError:
        raise DatabaseError(
            f"{path} can't be created: the directory {path.absolute().parent} does not exist"
        ) from None
    except OSError as error:
        raise DatabaseError(f"{path} can't be created: {error.strerror or error}") from error
    os.close(file)


def _warn_of_readers(path: Path) -> None:
    """Log if others may read the file, as they may those of earlier releases.

    Its permissions are left as they are: they may be meant, for a group that reads the file.
    """
    if os.name != "posix":
        return  # the permissions there say nothing about readers
    exposed = []
    for file in (path, *_wal_files(path)):
        with contextlib.suppress(OSError):
            if file.stat().st_mode & _OTHERS_READ:
                exposed.append(file)
    if exposed:
        names = " ".join(shlex.quote(str(file)) for file in exposed)
        logger.warning(
            "other users of this machine may read %s; unless that is meant: chmod 600 %s",
            path,
            names,
        )


def _explained(path: Path, error: sqlite3.Error) -> DatabaseError:
    if str(error) == "file is not a database":
        return DatabaseError(f"{path} is not a database; choose another file")
    return DatabaseError(f"{path}: {error}")


def _add_functions(connection: sqlite3.Connection) -> None:
    """Give a connection the functions of our queries."""
    connection.create_function("fits_text", 2, _fits_text, deterministic=True)


def _fits_text(data: str, text: bytes) -> bool:
    """See :func:`.textsearch.fits`; SQLite's texts can't have half a character."""
    return fits(data, text.decode(errors="surrogatepass"))


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        # It is also deleted when the interpreter exits, unless the process is killed.
        return tempfile.TemporaryDirectory(prefix="redvsblue-", ignore_cleanup_errors=True)
    except OSError as error:
        raise DatabaseError(f"cannot create a temporary directory: {error}") from error


def _identity(connection: sqlite3.Connection, schema: str = "main") -> tuple[int, int]:
    (application_id,) = connection.execute(f"PRAGMA {schema}.application_id").fetchone()
    (version,) = connection.execute(f"PRAGMA {schema}.user_version").fetchone()
    return application_id, version


def _not_ours(path: Path) -> DatabaseError:
    return DatabaseError(f"{path} is not a telemetry database; choose another file")


# Reading from outside the collector.


@contextlib.contextmanager
def open_readonly(
    path: Path, *, busy_timeout: float = 5.0, schema: str = "main"
) -> Iterator[sqlite3.Connection]:
    """Open an existing database without changing anything in its directory.

    A collector may write to it meanwhile. If none does, there is no ``-wal`` file, and SQLite would
    have to create one, and leave it there, even with ``mode=ro``. So the file is then opened with
    ``immutable=1``, which takes no locks; afterward, a check shows whether it did change.

    Args:
        path: the file.
        busy_timeout: seconds to wait while another program has it locked.
        schema: the name of the schema of its tables. With another one than ``main``, the file is
            attached to an empty database.

    Raises:
        DatabaseError: it can't be read, is not a telemetry database, or did change.
    """
    try:
        _refuse_strangers(path)
        unchanged = _fingerprint_at_rest(path)
    except OSError as error:
        raise DatabaseError(f"cannot read {path}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    try:
        mode = "mode=ro" if unchanged is None else "immutable=1"
        with contextlib.closing(_connect(path, mode, busy_timeout, schema)) as connection:
            _open_tables(path, connection, schema)
            yield connection
    except sqlite3.Error as error:
        _check_at_rest(path, unchanged)
        raise DatabaseError(f"{path}: {error}{_missing_index_hint(path)}") from error
    _check_at_rest(path, unchanged)


def _connect(
    path: Path, mode: str, busy_timeout: float = 0.0, schema: str = "main"
) -> sqlite3.Connection:
    source = f"{_uri(path)}?{mode}"
    is_attached = schema != "main"
    connection = sqlite3.connect(
        ":memory:" if is_attached else source,
        uri=True,
        isolation_level=None,
        timeout=busy_timeout,
        check_same_thread=False,  # some readers read ahead in a thread, or are interrupted
    )
    if is_attached:
        connection.execute(f"ATTACH ? AS {schema}", [source])
    _add_functions(connection)
    return connection


def _uri(path: Path) -> str:
    """Return the URI by which SQLite opens a file.

    Its log and its index are beside the file itself then, not beside a link to it: SQLite doesn't
    follow links on Windows.
    """
    return _without_host(Path(os.path.realpath(path)).as_uri())


def _without_host(uri: str) -> str:
    """Return a URI with the host in its path, as SQLite needs that of a share on Windows."""
    return uri if uri.startswith("file:///") else uri.replace("file://", "file:////", 1)


def _wal_files(path: Path) -> tuple[Path, Path]:
    """Return the paths of the write-ahead log and its index."""
    whole = path.resolve()
    return Path(f"{whole}-wal"), Path(f"{whole}-shm")


def _refuse_strangers(path: Path) -> None:
    """Check the file with ``immutable=1``, so that SQLite creates nothing beside a foreign one."""
    with contextlib.closing(_connect(path, "immutable=1")) as connection:
        application_id, _ = _identity(connection)
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    # The tables of a new database may be in its log only.
    is_new = not application_id and not tables and _wal_files(path)[0].exists()
    if application_id != APPLICATION_ID and not is_new:
        raise _not_ours(path)


def _open_tables(path: Path, connection: sqlite3.Connection, schema: str) -> None:
    """Check that the tables are ours; make those of an older version look like current ones."""
    application_id, version = _identity(connection, schema)
    if application_id != APPLICATION_ID:
        raise _not_ours(path)
    if not version:
        raise DatabaseError(f"{path} is empty: no collector has stored anything in it")
    if version in AS_CURRENT:
        connection.executescript(AS_CURRENT[version].replace("main.", f"{schema}."))
    elif version != SCHEMA_VERSION:
        raise DatabaseError(
            f"{path} has schema version {version}, but this release supports only versions up to "
            f"{SCHEMA_VERSION}; use the release that made it"
        )


def _fingerprint_at_rest(path: Path) -> tuple[int, int, int] | None:
    """Return values that differ after a write; None if the file is in use, with SQLite's locks."""
    log, index = _wal_files(path)
    if log.exists() and (log.stat().st_size or index.exists()):
        return None  # a program is writing to it, or was killed while it did
    # This opens the file without SQLite, which is safe only where no connection of this process
    # uses it: by the rules of POSIX, closing any descriptor of a file ends the process's locks.
    with path.open("rb") as file:
        is_wal_mode = file.read(20)[18:] == b"\2\2"  # the versions in SQLite's file header
    status = path.stat()
    return (status.st_ino, status.st_size, status.st_mtime_ns) if is_wal_mode else None


def _check_at_rest(path: Path, expected: tuple[int, int, int] | None) -> None:
    if expected is None:
        return
    with contextlib.suppress(OSError):
        if _fingerprint_at_rest(path) == expected:
            return
    raise DatabaseError(f"a program started to write to {path} while it was read; try again")


def _missing_index_hint(path: Path) -> str:
    log, index = _wal_files(path)
    if log.exists() and not index.exists():
        return f" ({index.name} is missing and can't be created here; copy the files elsewhere)"
    return ""
