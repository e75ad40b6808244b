"""The database: its tables, and the one way in.

An event is stored once. Whether it has come before is known without looking for it: of each
session, the runs of numbers that have come are kept (:mod:`.runs`), in a table that is written in
the same transaction as the events, and the highest of them in memory.

Theory of operation
-------------------

One :class:`Writer` writes, in one thread; readers have connections of their own, which in SQLite's
WAL mode neither wait for it nor keep it waiting. A transaction takes what has come on all
connections since the last one, and is synced to the disk before anything in it is acknowledged.
Rows go in by statements of many rows, each of which gives up the GIL for as long as SQLite works.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..messages import Event, Message, Rejected
from .sessions import Sessions

logger = logging.getLogger("redvsblue_telemetry.collector")

__all__ = ["Database", "DatabaseError", "Stored", "Writer"]

APPLICATION = 0x52764274  # "RvBt"
VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    key INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    version TEXT,
    events INTEGER NOT NULL,
    repeats INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    highest INTEGER NOT NULL,
    first_timestamp INTEGER NOT NULL,
    last_timestamp INTEGER NOT NULL,
    first_received INTEGER NOT NULL,
    last_received INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS sessions_by_last_received ON sessions (last_received);
CREATE TABLE IF NOT EXISTS runs (
    session INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (session, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS types (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    events INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS events (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    type INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    received INTEGER NOT NULL,
    id TEXT NOT NULL,
    version TEXT,
    data TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_by_session ON events (session);
CREATE INDEX IF NOT EXISTS events_by_type ON events (type);
CREATE TABLE IF NOT EXISTS rejected (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    received INTEGER NOT NULL,
    reason TEXT NOT NULL,
    text BLOB NOT NULL
) STRICT;
"""
_COLUMNS = "(session, seq, type, timestamp, received, id, version, data)"
_ROW = "(?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT))"
_WIDTH = 8
_ROWS = 64  # in one statement
_INSERT = f"INSERT INTO events {_COLUMNS} VALUES "
_INSERT_MANY = _INSERT + ", ".join([_ROW] * _ROWS)
_TYPES = 10_000  # whose keys are kept in memory
# What SQLite and its binding say of a value that they can't take: then the event is at fault.
_FAULTS_OF_DATA = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)


class DatabaseError(Exception):
    """The database can't be used; the message says why, and what to do about it."""


class Stored(msgspec.Struct):
    """What became of some messages."""

    events: list[Event]
    """Those that are new, in the order in which they were stored."""
    first_arrival: int
    """The number of the first of them; the others follow."""
    repeats: int
    rejected: int
    by_type: dict[str, int]
    """How many of the events have each type."""
    received: int
    """When they were stored, in milliseconds since the epoch."""


class Database:
    """Where events are stored. Its methods may be called from any thread.

    Args:
        path: a file, which is made if there is none; or None to keep everything in memory.
        busy_timeout: seconds to wait for others who have it locked.

    Raises:
        DatabaseError: it can't be opened, or is something else.
    """

    _numbers = itertools.count(1)

    def __init__(self, path: Path | None, *, busy_timeout: float = 5.0) -> None:
        self.path = path
        self._busy_timeout = busy_timeout
        self._name = f"redvsblue-{next(self._numbers)}"
        self._keeper = self.connect()  # memory that is shared lasts as long as one connection
        try:
            self._prepare(self._keeper)
            self._file = self._file_number()
        except BaseException:
            self._keeper.close()
            raise

    def connect(self) -> sqlite3.Connection:
        """A new connection. Transactions are up to whoever uses it.

        Raises:
            DatabaseError: it can't be opened.
        """
        if self.path is None:
            source = f"file:{self._name}?mode=memory&cache=shared"
        else:
            source = self.path.absolute().as_uri()
        try:
            connection = sqlite3.connect(
                source,
                uri=True,
                isolation_level=None,
                timeout=self._busy_timeout,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise self.explained(error) from error
        if self.path is None:
            connection.execute("PRAGMA read_uncommitted = 1")  # else readers lock writers out
        return connection

    def explained(self, error: sqlite3.Error) -> DatabaseError:
        """The error, in words that help."""
        return DatabaseError(f"{self.path or 'the database in memory'}: {error}")

    def look_for_file(self) -> None:
        """Look whether the file is still there: what is written to a deleted one is lost.

        Raises:
            DatabaseError: it isn't, or is another one.
        """
        if self._file_number() != self._file:
            raise DatabaseError(
                f"{self.path} was deleted or replaced while it was in use: restart the collector"
            )

    def _file_number(self) -> tuple[int, int] | None:
        if self.path is None:
            return None
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _prepare(self, connection: sqlite3.Connection) -> None:
        try:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
            if is_empty:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION}; "
                    f"PRAGMA user_version = {VERSION}; COMMIT"
                )
                return
        except sqlite3.Error as error:
            raise self.explained(error) from error
        if application != APPLICATION:
            raise DatabaseError(f"{self.path} is a database of something else: name another file")
        if version != VERSION:
            raise DatabaseError(
                f"{self.path} has tables of version {version}, and this collector knows version "
                f"{VERSION} only: name another file, or use the collector that made it"
            )

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read by."""
        connection = self.connect()
        try:
            connection.execute("PRAGMA query_only = 1")
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        """Let go of it. In memory, that is the end of it."""
        self._keeper.close()


class Writer:
    """Writes into a database. Used by one thread at a time.

    Args:
        database: where to.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection = database.connect()
        self._connection.execute("PRAGMA synchronous = FULL")  # an ack outlives a power cut
        self._sessions = Sessions(self._connection)
        self._types: dict[str, int] = {}
        self._seen_version: int | None = None

    def check(self) -> None:
        """Look whether it can write.

        Raises:
            DatabaseError: it can't.
        """
        with self._transaction():
            self._connection.execute(f"PRAGMA user_version = {VERSION}")  # as it is already

    def close(self) -> None:
        """Close its connection."""
        self._connection.close()

    def store(self, messages: Sequence[Message]) -> Stored:
        """Store what is new, in one transaction: all of it, or nothing.

        An event that can't be stored, for a reason that is the event's own, is rejected.

        Raises:
            DatabaseError: nothing was stored.
        """
        now = time.time_ns() // 1_000_000
        try:
            with self._transaction():
                return self._store(messages, now)
        except DatabaseError:
            raise
        except Exception:
            logger.exception("an event can't be stored: it is looked for among those it came with")
        with self._transaction():
            return self._store([self._sieved(message, now) for message in messages], now)

    def _sieved(self, message: Message, now: int) -> Message:
        """The same message, with those of its events rejected that can't be stored."""
        sieved = Message([], [*message.rejected])
        for event in message.events:
            self._connection.execute("SAVEPOINT trial")
            try:
                self._store([Message([event], [])], now)
            except Exception as error:
                if isinstance(error, sqlite3.Error) and not isinstance(error, _FAULTS_OF_DATA):
                    raise  # the database is at fault: nothing can be stored
                sieved.rejected.append(_culprit(event, error))
            else:
                sieved.events.append(event)
            finally:
                self._connection.execute("ROLLBACK TO trial")
                self._connection.execute("RELEASE trial")
                self._forget()
        return sieved

    def clear(self) -> None:
        """Delete all that is stored.

        Raises:
            DatabaseError: nothing was deleted.
        """
        with self._transaction():
            for table in ("events", "runs", "sessions", "types", "rejected"):
                self._connection.execute(f"DELETE FROM {table}")
            self._forget()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._database.look_for_file()
            self._connection.execute("BEGIN IMMEDIATE")
            self._forget_if_changed()
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._forget()  # it may hold what is not in the database
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and not isinstance(error, _FAULTS_OF_DATA):
                raise self._database.explained(error) from error
            raise

    def _forget_if_changed(self) -> None:
        """Forget what is known if anybody else has written to the database meanwhile."""
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._seen_version:
            self._forget()
            self._seen_version = version

    def _forget(self) -> None:
        self._sessions.forget()
        self._types.clear()

    def _store(self, messages: Sequence[Message], now: int) -> Stored:
        if len(self._types) > _TYPES:
            self._types.clear()
        new: list[Event] = []
        values: list[Any] = []
        counts: dict[str, int] = {}
        repeats = 0
        session_id, session = "", None
        for message in messages:
            for event in message.events:
                if event.session_id != session_id or session is None:
                    session_id = event.session_id
                    session = self._sessions.of(event, now)
                if not session.add(event):
                    repeats += 1
                    continue
                name = event.type
                counts[name] = counts.get(name, 0) + 1
                values += (
                    session.key,
                    event.seq,
                    self._types.get(name) or self._type(name),
                    event.timestamp,
                    now,
                    event.id,
                    event.version,
                    event.data,
                )
                new.append(event)
        first_arrival = self._insert(values)
        self._sessions.save(now)
        many = self._connection.executemany
        many(
            "UPDATE types SET events = events + ? WHERE name = ?",
            [(count, name) for name, count in counts.items()],
        )
        rejected = [part for message in messages for part in message.rejected]
        many(
            "INSERT INTO rejected (received, reason, text) VALUES (?, ?, ?)",
            [(now, part.reason, part.text) for part in rejected],
        )
        return Stored(new, first_arrival, repeats, len(rejected), counts, now)

    def _insert(self, values: list[Any]) -> int:
        """Insert the events; returns the number of the first."""
        last = None
        step = _ROWS * _WIDTH
        whole = len(values) - len(values) % step
        execute = self._connection.execute
        for start in range(0, whole, step):
            last = execute(_INSERT_MANY, values[start : start + step]).lastrowid
        if rest := values[whole:]:
            last = execute(_INSERT + ", ".join([_ROW] * (len(rest) // _WIDTH)), rest).lastrowid
        return (last or 0) - len(values) // _WIDTH + 1

    def _type(self, name: str) -> int:
        execute = self._connection.execute
        row = execute("SELECT key FROM types WHERE name = ?", (name,)).fetchone()
        if row is None:
            key = execute("INSERT INTO types (name, events) VALUES (?, 0)", (name,)).lastrowid or 0
        else:
            key = row[0]
        self._types[name] = key
        return int(key)


def _culprit(event: Event, error: Exception) -> Rejected:
    """An event that the collector itself could not store."""
    reason = f"the collector could not store it: {error!r}"
    text = ascii(msgspec.structs.asdict(event))
    return Rejected(ascii(reason)[1:-1], text[:1024].encode())
