"""The one writer of the database.

Each event is stored once. To know whether it was stored before, the writer doesn't search for it:
for each session, the ranges of sequence numbers that have arrived are kept (:mod:`.seqranges`), in
a table that is written in the same transaction as the events, and the highest range in memory.

One transaction takes what arrived on all connections since the last one, and is synced to the disk
before anything in it is acknowledged. Rows are inserted by statements of many rows, each of which
releases the GIL while SQLite works.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from ..._report import Report
from ..._shared import LARGEST_INTEGER, monotonic
from ..messages import Event, Message, Rejected
from .contexts import Contexts
from .counting import Counts
from .database import Database, DatabaseError
from .deletion import delete_empty_session, delete_events
from .faults import Faults, Finding
from .ids import short_id
from .reports import End, save_report
from .schema import SCHEMA_VERSION, count_anew
from .sessions import Sessions
from .textindex import drop_index
from .upkeep import epoch_milliseconds

logger = logging.getLogger("redvsblue_telemetry.collector")

__all__ = ["Check", "Stored", "Writer"]

Check = Callable[[str, msgspec.Raw], "str | None"]
"""``check(type, data)`` returns the fault of the data of an event of a type, or None. It never
raises."""

_COLUMNS = "(session, seq, type, timestamp, received, id, version, context, fault, data)"
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT))"
_VALUES_PER_ROW = 10
_ROWS_PER_STATEMENT = 64
_INSERT = f"INSERT INTO events {_COLUMNS} VALUES "
_INSERT_MANY = _INSERT + ", ".join([_ROW] * _ROWS_PER_STATEMENT)
_MAX_TYPES_IN_MEMORY = 10_000
_CRASH = "crash"  # the type of the events that are crashes
_TABLES = (
    "events", "runs", "sessions", "types", "rejected", "reports", "lost", "sampled", "contexts",
    "context_fields", "faults", "session_faults", "leftovers", "blocks", "columns", "series",
    "counts", "arrivals",
)  # fmt: skip
_USUAL_LOG_BYTES = 16 * 1024 * 1024  # of the write-ahead log, when it is used again
_MOST_LOG_BYTES = 32 * 1024 * 1024  # before readers have to wait, so that it can be used again
_LOG_TIMEOUT = 20  # milliseconds to wait for readers then
_LOG_INTERVAL = 1.0  # seconds until they are waited for again
_MAX_EXCERPT_BYTES = 1024  # of an event that can't be stored
# What SQLite and its binding raise for a value that they can't store: the event is at fault.
_DATA_FAULTS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)


class Stored(msgspec.Struct):
    """The outcome of storing some messages."""

    events: list[Event]
    """The new events, in the order in which they were stored."""
    first_arrival: int
    """The arrival number of the first of them; the others follow."""
    repeats: int
    rejected: int
    by_type: dict[str, int]
    """The number of new events of each type."""
    received: int
    """When they were stored, in milliseconds since the epoch."""
    reports: int = 0
    """The number of reports that arrived, the outdated ones included."""
    faults: dict[int, str] = {}
    """The faults of those of ``events`` that have one, by place in that list."""
    ends: list[End] = []
    """The ends of the sessions whose first report of it was among them."""


class Writer:
    """Writes into a database. Used by one thread at a time.

    Args:
        database: the database.
        check: finds the faults of new events; without it, no event has one.
        clock: returns milliseconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        check: Check | None = None,
        clock: Callable[[], int] = epoch_milliseconds,
    ) -> None:
        self._database = database
        self._check = check
        self._clock = clock
        self._connection = database.connect()
        # FULL: an ack survives a power cut. A temporary file doesn't, synced or not.
        self._synchronous = "OFF" if database.is_temporary else "FULL"
        self._connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        self._sessions = Sessions(self._connection)
        self._contexts = Contexts(self._connection)
        self._faults = Faults(self._connection)
        self._counts = Counts(self._connection)
        self._type_keys: dict[str, int] = {}
        self._seen_version: int | None = None
        self._tried_at = monotonic()  # to empty the log
        self._connection.execute("PRAGMA secure_delete = ON")  # overwrites the bytes in the file
        self._connection.execute(f"PRAGMA journal_size_limit = {_USUAL_LOG_BYTES}")
        try:
            self._forget_deleted()
        except sqlite3.Error as error:
            self._connection.close()
            raise database.explain(error) from error

    def check(self) -> None:
        """Check that it can write.

        Raises:
            DatabaseError: it can't.
        """
        with self._transaction():
            # A write that changes nothing.
            self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close its connection."""
        self._connection.close()

    def store(self, messages: Sequence[Message]) -> Stored:
        """Store the new events and reports in one transaction: all of them, or none.

        One that can't be stored because of its own data is rejected.

        Raises:
            DatabaseError: nothing was stored.
        """
        now = self._clock()
        try:
            with self._transaction():
                return self._store(messages, now)
        except DatabaseError:
            raise
        except Exception:
            logger.exception("an event or a report can't be stored; trying each of its group alone")
        with self._transaction():
            return self._store([self._sieve(message, now) for message in messages], now)

    def store_past(self, groups: Sequence[tuple[int, Sequence[Message]]]) -> int:
        """Store groups as if each had arrived at its time; return the number of new events.

        All are in one transaction, which for thousands of small groups takes a tenth of the time.

        Args:
            groups: their times, in milliseconds since the epoch and in ascending order, and their
                messages.

        Raises:
            DatabaseError: nothing was stored.
        """
        with self._transaction():
            return sum(len(self._store(messages, at).events) for at, messages in groups)

    def store_and_delete(self, messages: Sequence[Message]) -> Stored:
        """Store as :meth:`store` does, synced to the disk; then delete the sessions that were new.

        Raises:
            DatabaseError: nothing was stored.
        """
        ids = {event.session_id for each in messages for event in each.events}
        ids |= {report.session_id for each in messages for report in each.reports}
        with self._transaction():
            new = {each for each in ids if self._session_key(each) is None}
        stored = self.store(messages)

        def delete(connection: sqlite3.Connection) -> bool:
            for key in filter(None, map(self._session_key, new)):
                delete_events(connection, "session = ?", (key,))
                delete_empty_session(connection, key, LARGEST_INTEGER)
            return False

        try:
            self.maintain(delete)
        except DatabaseError as error:
            logger.warning("the event of a check could not be deleted: %s", error)
        return stored

    def _session_key(self, session_id: str) -> int | None:
        row = self._connection.execute(
            "SELECT key FROM sessions WHERE session_id = ?", (session_id,)
        ).fetchone()
        return None if row is None else int(row[0])

    def _sieve(self, message: Message, now: int) -> Message:
        """Return the message with the parts that can't be stored moved to its rejected ones."""
        sieved = Message([], [*message.rejected])
        for event in message.events:
            if self._can_store(Message([event], []), now, sieved.rejected):
                sieved.events.append(event)
        for report in message.reports:
            if self._can_store(Message([], [], [report]), now, sieved.rejected):
                sieved.reports.append(report)
        return sieved

    def _can_store(self, message: Message, now: int, rejected: list[Rejected]) -> bool:
        """Return whether a message with one part can be stored; if not, record it as rejected."""
        self._connection.execute("SAVEPOINT trial")
        try:
            self._store([message], now)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, _DATA_FAULTS):
                raise  # the database is at fault, so nothing can be stored
            rejected += [_rejected(event, error) for event in message.events]
            rejected += [_rejected(report, error) for report in message.reports]
            return False
        finally:
            self._connection.execute("ROLLBACK TO trial")
            self._connection.execute("RELEASE trial")
            self._forget()
        return True

    def clear(self) -> None:
        """Delete everything that is stored.

        Raises:
            DatabaseError: nothing was deleted.
        """
        with self._transaction():
            drop_index(self._connection)
            # A trigger would run for each row, and SQLite could not empty a table as a whole.
            execute = self._connection.execute
            triggers = execute(
                "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
            ).fetchall()
            for name, _ in triggers:
                execute(f"DROP TRIGGER {name}")
            for table in _TABLES:
                execute(f"DELETE FROM {table}")
            for statement in count_anew():
                execute(statement)
            for _, statement in triggers:
                execute(statement)
            self._forget()

    def maintain(self, step: Callable[[sqlite3.Connection], bool]) -> bool:
        """Do a step of upkeep in one transaction, and return its result.

        Raises:
            DatabaseError: nothing was done.
        """
        if not self._database.is_temporary:
            # Nobody waits for it to be on the disk, where it goes with the next group.
            self._connection.execute("PRAGMA synchronous = NORMAL")
        try:
            with self._transaction():
                return step(self._connection)
        finally:
            self._connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            is_long = self._database.log_bytes() > _MOST_LOG_BYTES
            if is_long and monotonic() - self._tried_at > _LOG_INTERVAL:
                self._tried_at = monotonic()
                self.empty_log()

    def empty_log(self) -> bool:
        """Move the log into the database, and empty it; return whether that could be done.

        It can't while another connection reads from it. Old contents stay in the log until then.

        Raises:
            DatabaseError: the database can't be written to.
        """
        execute = self._connection.execute
        try:
            (before,) = execute("PRAGMA busy_timeout").fetchone()
            execute(f"PRAGMA busy_timeout = {_LOG_TIMEOUT}")
            try:
                (is_busy, _, _) = execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                execute(f"PRAGMA busy_timeout = {before}")
        except sqlite3.Error as error:
            raise self._database.explain(error) from error
        return not is_busy

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._database.check_file()
            self._connection.execute("BEGIN IMMEDIATE")
            self._forget_if_changed()
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._forget()  # memory may be ahead of the database
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and not isinstance(error, _DATA_FAULTS):
                raise self._database.explain(error) from error
            raise

    def _forget_if_changed(self) -> None:
        """Forget what is in memory if another program has written to the database."""
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._seen_version:
            self._forget()
            self._seen_version = version

    def _forget_deleted(self) -> None:
        """Forget each row when it is deleted over this connection, by any code.

        The triggers are the connection's own. Before, everything was forgotten after a deletion:
        while a few of many thousand sessions are deleted each second, all others are read again.
        """
        forgetting: dict[str, tuple[str, Callable[..., Any]]] = {
            "sessions": ("old.session_id", self._sessions.drop),
            "contexts": ("old.text", self._contexts.drop),
            "faults": ("old.type, old.text", self._faults.drop),
            "series": ("old.type, old.version", self._counts.drop),
            "types": ("old.name", lambda name: self._type_keys.pop(name, None)),
        }
        for table, (columns, drop) in forgetting.items():
            name = f"forget_{table}"
            self._connection.create_function(name, columns.count(",") + 1, drop)
            self._connection.execute(
                f"CREATE TEMP TRIGGER {name} AFTER DELETE ON main.{table} "
                f"BEGIN SELECT {name}({columns}); END"
            )

    def _forget(self) -> None:
        self._sessions.forget()
        self._contexts.forget()
        self._faults.forget()
        self._counts.forget()
        self._type_keys.clear()

    def _store(self, messages: Sequence[Message], now: int) -> Stored:
        if len(self._type_keys) > _MAX_TYPES_IN_MEMORY:
            self._type_keys.clear()
        new: list[Event] = []
        values: list[Any] = []
        # By version and type. Mostly many events of one version come one after the other.
        by_version: dict[str | None, dict[str, int]] = {}
        version: str | None = None
        counts_of_version = by_version.setdefault(version, {})
        repeats = 0
        session_id, session = "", None
        context_key = self._contexts.key
        check, fault_key = self._check, None
        faults: dict[int, str] = {}
        findings: list[Finding] = []
        for message in messages:
            for event in message.events:
                if event.session_id != session_id or session is None:
                    session_id = event.session_id
                    session = self._sessions.of(event, now)
                if not session.add(event):
                    repeats += 1
                    continue
                if event.version != version:
                    version = event.version
                    counts_of_version = by_version.setdefault(version, {})
                name = event.type
                counts_of_version[name] = counts_of_version.get(name, 0) + 1
                type_key = self._type_keys.get(name) or self._type_key(name)
                if check is not None:
                    fault, fault_key = check(name, event.data), None
                    if fault is not None:
                        fault_key = self._faults.key(type_key, fault)
                        faults[len(new)] = fault
                        findings.append(Finding(len(new), fault_key, session.key))
                values += (
                    session.key,
                    event.seq,
                    type_key,
                    event.timestamp,
                    now,
                    short_id(event, session.run),
                    version,
                    None if event.context is msgspec.UNSET else context_key(event.context),
                    fault_key,
                    event.data,
                )
                new.append(event)
            for report in message.reports:
                self._sessions.of(report, now).take(report)
        first_arrival = self._insert(values)
        if new:
            self._counts.add(by_version, first_arrival, now)
        counts: Counter[str] = Counter()
        for each in by_version.values():
            counts.update(each)
        ends = self._save_sessions(now)
        if _CRASH in counts:
            self._count_crashes(new)
        if findings:
            self._faults.count(findings, first_arrival, now)
        self._connection.executemany(
            "UPDATE types SET events = events + ? WHERE name = ?",
            [(count, name) for name, count in counts.items()],
        )
        rejected = [part for message in messages for part in message.rejected]
        self._connection.executemany(
            "INSERT INTO rejected (received, reason, text) VALUES (?, ?, ?)",
            [(now, part.reason, part.text) for part in rejected],
        )
        reports = sum(len(message.reports) for message in messages)
        return Stored(
            new, first_arrival, repeats, len(rejected), counts, now, reports, faults, ends
        )

    def _save_sessions(self, now: int) -> list[End]:
        ends = []
        for session in self._sessions.save(now):
            report, session.new_report = session.new_report, None
            assert report is not None
            end = save_report(
                self._connection,
                session.key,
                report,
                missing=session.missing,
                now=now,
                type_key=lambda name: self._type_keys.get(name) or self._type_key(name),
            )
            if end is not None:
                ends.append(end)
        return ends

    def _count_crashes(self, new: list[Event]) -> None:
        crashes = Counter(event.session_id for event in new if event.type == _CRASH)
        self._connection.executemany(
            "UPDATE sessions SET crashes = crashes + ? WHERE session_id = ?",
            [(count, session_id) for session_id, count in crashes.items()],
        )

    def _insert(self, values: list[Any]) -> int:
        """Insert the events; return the arrival number of the first."""
        last = None
        step = _ROWS_PER_STATEMENT * _VALUES_PER_ROW
        whole = len(values) - len(values) % step
        execute = self._connection.execute
        for start in range(0, whole, step):
            last = execute(_INSERT_MANY, values[start : start + step]).lastrowid
        if rest := values[whole:]:
            rows = ", ".join([_ROW] * (len(rest) // _VALUES_PER_ROW))
            last = execute(_INSERT + rows, rest).lastrowid
        return (last or 0) - len(values) // _VALUES_PER_ROW + 1

    def _type_key(self, name: str) -> int:
        execute = self._connection.execute
        row = execute("SELECT key FROM types WHERE name = ?", (name,)).fetchone()
        if row is None:
            key = execute("INSERT INTO types (name, events) VALUES (?, 0)", (name,)).lastrowid or 0
        else:
            key = row[0]
        self._type_keys[name] = key
        return int(key)


def _rejected(part: Event | Report, error: Exception) -> Rejected:
    reason = f"the collector could not store it: {error!r}"
    text = ascii(msgspec.structs.asdict(part))
    return Rejected(ascii(reason)[1:-1], text[:_MAX_EXCERPT_BYTES].encode())
