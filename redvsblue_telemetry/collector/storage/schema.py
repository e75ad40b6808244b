"""The tables of the database, by version of the schema.

A new file is made as its oldest version and brought up to date by the same statements as an old
file, so both are the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from . import figures

__all__ = ["APPLICATION_ID", "AS_CURRENT", "SCHEMA_VERSION", "count_anew", "upgrade"]

APPLICATION_ID = 0x52764274  # "RvBt"
SCHEMA_VERSION = 5

_VERSION_1 = """
CREATE TABLE sessions (
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
CREATE INDEX sessions_by_last_received ON sessions (last_received);
CREATE TABLE runs (
    session INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (session, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE types (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    events INTEGER NOT NULL
) STRICT;
CREATE TABLE events (
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
CREATE INDEX events_by_session ON events (session);
CREATE INDEX events_by_type ON events (type);
CREATE TABLE rejected (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    received INTEGER NOT NULL,
    reason TEXT NOT NULL,
    text BLOB NOT NULL
) STRICT;
"""

# The columns of the newest report that lists and totals need, and `lost` (by cause, as JSON) and
# `waiting`, which were counted when it was stored. The report itself is in another table: it
# may be as long as a page, and lists would have to step over it.
_VERSION_2 = """
ALTER TABLE sessions ADD COLUMN started_at INTEGER;
ALTER TABLE sessions ADD COLUMN report_number INTEGER;
ALTER TABLE sessions ADD COLUMN state TEXT;
ALTER TABLE sessions ADD COLUMN reason TEXT;
ALTER TABLE sessions ADD COLUMN at INTEGER;
ALTER TABLE sessions ADD COLUMN reported INTEGER;
ALTER TABLE sessions ADD COLUMN last_seq INTEGER;
ALTER TABLE sessions ADD COLUMN lost TEXT NOT NULL DEFAULT '{}';
ALTER TABLE sessions ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
CREATE TABLE reports (
    session INTEGER PRIMARY KEY,
    text TEXT NOT NULL
) STRICT;
CREATE TABLE lost (
    cause TEXT PRIMARY KEY,
    events INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE sampled (
    session INTEGER NOT NULL,
    type INTEGER NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (session, type)
) STRICT, WITHOUT ROWID;
ALTER TABLE types ADD COLUMN sampled INTEGER NOT NULL DEFAULT 0;
CREATE TABLE contexts (
    key INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE context_fields (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    context INTEGER NOT NULL,
    PRIMARY KEY (name, value, context)
) STRICT, WITHOUT ROWID;
ALTER TABLE events ADD COLUMN context INTEGER;
CREATE INDEX events_by_context ON events (context) WHERE context IS NOT NULL;
UPDATE sessions SET crashes = counted.crashes FROM (
    SELECT session, count(*) AS crashes FROM events
    WHERE type = (SELECT key FROM types WHERE name = 'crash') GROUP BY session
) AS counted WHERE counted.session = sessions.key;
"""

# `faults` in sessions, and `session_faults`, count what is in the events, so that the groups of a
# large database are read without its events. The index finds the few events with a fault in order.
_VERSION_3 = """
CREATE TABLE faults (
    key INTEGER PRIMARY KEY,
    type INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (type, text)
) STRICT;
CREATE TABLE session_faults (
    fault INTEGER NOT NULL,
    session INTEGER NOT NULL,
    events INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    PRIMARY KEY (fault, session)
) STRICT, WITHOUT ROWID;
ALTER TABLE sessions ADD COLUMN faults INTEGER NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN fault INTEGER;
CREATE INDEX events_with_fault ON events (arrival, fault) WHERE fault IS NOT NULL;
"""

# Of each session, `deleted` counts the events that were stored and then deleted: `events` and the
# runs stay those that were received, so a repeat of a deleted event is still one, and no gap opens.
# A session may have a million runs, too many for one step: `leftovers` are sessions that are
# deleted but for their runs.
# `run` is the part of its events' ids that is not stored with each of them (see `ids`).
# `text_index` says what the index of texts holds: of each partition, the blocks from its start, the
# events in them, and how many of those were deleted since. The words are in tables that are made
# when they are needed, where SQLite has the module for them.
_VERSION_4 = """
ALTER TABLE sessions ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN run TEXT;
CREATE TABLE leftovers (
    session INTEGER PRIMARY KEY
) STRICT;
CREATE TABLE text_index (
    partition INTEGER PRIMARY KEY,
    blocks INTEGER NOT NULL,
    events INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0
) STRICT;
"""
_VERSION_4 += figures.TABLES  # after all changes of the table of sessions

# The fast copy of the events: see `blocks`. `present` counts the values that are not null. It is in
# the index, so that the fields of a type are listed without a look at the columns.
_VERSION_5 = """
CREATE TABLE blocks (
    key INTEGER PRIMARY KEY,
    type INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    events INTEGER NOT NULL,
    oldest INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    is_whole INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX blocks_by_type ON blocks (type, first, last, events);
CREATE TABLE columns (
    block INTEGER NOT NULL,
    name TEXT NOT NULL,
    present INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX columns_by_block ON columns (block, name, present);
"""
# The past, see `counting`. Periods are in minutes since the epoch, and `minutes` is how long they
# are. A series has no key of a type: those are deleted with the last event, and used again.
# `arrivals` says from which arrival on events were received in a period, up to the next run.
# The events from `counted.first` on are in the counts; those before are counted after an upgrade,
# which has to be quick.
_VERSION_5 += """
CREATE TABLE series (
    key INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    version TEXT,
    UNIQUE (type, version)
) STRICT;
CREATE TABLE counts (
    minutes INTEGER NOT NULL,
    period INTEGER NOT NULL,
    series INTEGER NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (minutes, period, series)
) STRICT, WITHOUT ROWID;
CREATE TABLE arrivals (
    first INTEGER PRIMARY KEY,
    minutes INTEGER NOT NULL,
    period INTEGER NOT NULL
) STRICT;
CREATE INDEX arrivals_by_period ON arrivals (minutes, period);
CREATE TABLE counted (
    key INTEGER PRIMARY KEY,
    first INTEGER NOT NULL
) STRICT;
INSERT INTO counted VALUES
    (1, 1 + coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0));
CREATE INDEX rejected_by_received ON rejected (received);
"""


def upgrade(version: int) -> list[str]:
    """Return the statements that make a file of one version current; an empty file has version 0.

    They belong into one transaction.
    """
    script = "".join((_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5)[version:])
    identity = (
        f"PRAGMA application_id = {APPLICATION_ID}",
        f"PRAGMA user_version = {SCHEMA_VERSION}",
    )
    return [*_statements(script), *identity]


def count_anew() -> list[str]:
    """Return the statements that count all sessions anew, for the sums over them."""
    return list(_statements(figures.REFILL))


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, each of which ends a line; those of a trigger are one."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


_NO_BLOCKS = """
CREATE TEMP TABLE blocks (key, type, first, last, events, oldest, newest, is_whole);
CREATE TEMP TABLE columns (block, name, present, data);
"""
# None of their events are counted, so readers count them.
_NO_COUNTS = """
CREATE TEMP TABLE series (key INTEGER PRIMARY KEY, type, version);
CREATE TEMP TABLE counts (minutes, period, series, events);
CREATE TEMP TABLE arrivals (first INTEGER PRIMARY KEY, minutes, period);
CREATE TEMP VIEW counted AS SELECT 1 AS key, coalesce(max(arrival), 0) + 1 AS first
    FROM main.events;
"""
_NO_TEXT_INDEX = """
CREATE TEMP TABLE text_index (partition INTEGER PRIMARY KEY, blocks, events, expired);
"""
# A view hides the table of the same name. Only the connection that makes them sees them.
_NO_FAULTS = """
CREATE TEMP TABLE faults (key INTEGER PRIMARY KEY, type, text);
CREATE TEMP TABLE session_faults (fault, session, events, first, last, newest);
"""
AS_CURRENT = {
    1: f"""{_NO_BLOCKS}{_NO_COUNTS}{_NO_TEXT_INDEX}{_NO_FAULTS}
CREATE TEMP TABLE crashes (session INTEGER PRIMARY KEY, events);
INSERT INTO crashes SELECT session, count(*) FROM main.events
    WHERE type = (SELECT key FROM main.types WHERE name = 'crash') GROUP BY session;
CREATE TEMP VIEW sessions AS SELECT *, NULL AS started_at, NULL AS report_number, NULL AS state,
    NULL AS reason, NULL AS at, NULL AS reported, NULL AS last_seq, '{{}}' AS lost, 0 AS waiting,
    coalesce((SELECT events FROM crashes WHERE session = main.sessions.key), 0) AS crashes,
    0 AS faults, 0 AS deleted, NULL AS run
    FROM main.sessions;
CREATE TEMP VIEW types AS SELECT *, 0 AS sampled FROM main.types;
CREATE TEMP VIEW events AS SELECT *, NULL AS context, NULL AS fault FROM main.events;
CREATE TEMP TABLE reports (session INTEGER PRIMARY KEY, text);
CREATE TEMP TABLE lost (cause, events);
CREATE TEMP TABLE sampled (session, type, events);
CREATE TEMP TABLE contexts (key INTEGER PRIMARY KEY, text);
CREATE TEMP TABLE context_fields (name, value, context);
{figures.AS_VIEWS}""",
    2: f"""{_NO_BLOCKS}{_NO_COUNTS}{_NO_TEXT_INDEX}{_NO_FAULTS}
CREATE TEMP VIEW sessions AS SELECT *, 0 AS faults, 0 AS deleted, NULL AS run FROM main.sessions;
CREATE TEMP VIEW events AS SELECT *, NULL AS fault FROM main.events;
{figures.AS_VIEWS}""",
    3: f"""{_NO_BLOCKS}{_NO_COUNTS}{_NO_TEXT_INDEX}
CREATE TEMP VIEW sessions AS SELECT *, 0 AS deleted, NULL AS run FROM main.sessions;
{figures.AS_VIEWS}""",
    4: f"{_NO_BLOCKS}{_NO_COUNTS}",
}
"""Statements that make a file of an older version, which is only read, look like a current one."""
