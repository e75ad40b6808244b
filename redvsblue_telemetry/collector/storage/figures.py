"""The tables that hold sums over all sessions, which triggers keep right.

To add up half a million sessions takes a tenth of a second, and each page asks every two seconds.
So each change of a session changes the sums, too, in the same transaction, by any code. How a
session that has not ended stands depends on the time; those that were heard of in the last minutes
are counted in periods.
"""

from __future__ import annotations

from ..._report import State
from ..models import MAX_PLAUSIBLE_MISSING, Cause, Outcome

__all__ = [
    "ALL",
    "AS_VIEWS",
    "ENDS",
    "HALF",
    "NO_VERSION",
    "PERIOD",
    "REFILL",
    "SUMS",
    "TABLES",
    "end_of",
]

HALF = 2**32
"""Numbers that a client may choose are summed in two halves: the sum of a few of them would
overflow SQLite's integers."""
PERIOD = 5000  # milliseconds
ENDS = (Outcome.WELL, Outcome.SWITCHED_OFF, Outcome.CRASHED, Outcome.KILLED)
# Versions are texts, and these are not. NULL would not do in a key.
NO_VERSION, ALL = 0, 1


def end_of(row: str = "") -> str:
    """Return SQL for the outcome of a session that has ended; NULL if it hasn't.

    Args:
        row: the beginning of the names of the columns.
    """
    # IN would make a table of the three for each row, at ten times the cost.
    others = " ".join(f"WHEN '{end}' THEN '{end}'" for end in ENDS if end != Outcome.WELL)
    return (
        f"CASE WHEN {row}state = '{State.ENDED}' THEN "
        f"CASE {row}reason {others} ELSE '{Outcome.WELL}' END END"
    )


def _sums(row: str = "") -> dict[str, str]:
    """Return SQL for what a session adds to each column of the totals."""
    many = f"({row}missing > {MAX_PLAUSIBLE_MISSING})"
    return {
        "events": f"{row}events - {row}deleted",
        "repeats": f"{row}repeats",
        "faults": f"{row}faults",
        "missing_parts": f"{row}missing / {HALF}",
        "missing_rest": f"{row}missing % {HALF}",
        "waiting_parts": f"iif({many}, 0, {row}waiting / {HALF})",
        "waiting_rest": f"iif({many}, 0, {row}waiting % {HALF})",
        "implausible": many,
        "implausible_parts": f"iif({many}, {row}missing / {HALF}, 0)",
        "implausible_rest": f"iif({many}, {row}missing % {HALF}, 0)",
    }


def _counts(row: str = "") -> dict[str, str]:
    """Return SQL for what a session adds to each column of its version."""
    ends = {end: f"ifnull({end_of(row)} = '{end}', 0)" for end in ENDS}
    return {"unended": f"({row}state IS NOT '{State.ENDED}')", **ends}


_SUMS, _COUNTS = tuple(_sums()), tuple(_counts())
_VERSION = f"ifnull(version, {NO_VERSION})"
_NO_SESSIONS = f"NOT ({' OR '.join(_COUNTS)})"


def _summed(columns: dict[str, str]) -> str:
    return ", ".join(f"ifnull(sum({value}), 0) AS {name}" for name, value in columns.items())


SUMS = _summed(_sums())
"""SQL for the columns of the totals, as sums over sessions."""
_TOTALS = f"SELECT 1 AS key, {SUMS} FROM sessions"
_VERSIONS = f"""SELECT {_VERSION} AS name, max(first_received) AS newest, {_summed(_counts())}
    FROM sessions GROUP BY version
    UNION ALL SELECT {ALL}, 0, {_summed(_counts())} FROM sessions"""
_BY_PERIOD = f"""AS version, last_received / {PERIOD} AS period, count(*) AS sessions
    FROM sessions WHERE state IS NOT '{State.ENDED}' GROUP BY 1, 2"""
_UNENDED = f"""SELECT {_VERSION} {_BY_PERIOD}
    UNION ALL SELECT {ALL} {_BY_PERIOD}"""


def _add(old: str | None, new: str | None) -> str:
    """Return a statement that changes the totals by a row less and a row more."""
    gained = _sums(f"{new}.") if new else dict.fromkeys(_SUMS, "0")
    gone = _sums(f"{old}.") if old else dict.fromkeys(_SUMS, "0")
    changes = ", ".join(f"{name} = {name} + ({gained[name]}) - ({gone[name]})" for name in _SUMS)
    return f"UPDATE totals SET {changes};"


def _changed(row: str, sign: str) -> str:
    counts = _counts(f"{row}.")
    return ", ".join(f"{name} = {name} {sign} {value}" for name, value in counts.items())


def _begin(row: str) -> str:
    """Return statements that count a session in its period."""
    version = f"ifnull({row}.version, {NO_VERSION})"
    return f"""
    INSERT INTO unended
        SELECT name, {row}.last_received / {PERIOD}, 1 FROM versions
        WHERE name IN ({ALL}, {version}) AND {row}.state IS NOT '{State.ENDED}'
        ON CONFLICT DO UPDATE SET sessions = sessions + 1;"""


def _end(row: str) -> str:
    """Return statements that no longer count a session in its period."""
    version = f"ifnull({row}.version, {NO_VERSION})"
    place = f"version IN ({ALL}, {version}) AND period = {row}.last_received / {PERIOD}"
    return f"""
    UPDATE unended SET sessions = sessions - 1
        WHERE {place} AND {row}.state IS NOT '{State.ENDED}';
    DELETE FROM unended WHERE {place} AND sessions = 0;"""


def _come(row: str) -> str:
    """Return statements that count a session in its version."""
    version = f"ifnull({row}.version, {NO_VERSION})"
    zeros = ", 0" * len(_COUNTS)
    return f"""
    INSERT INTO versions VALUES ({version}, {row}.first_received{zeros}) ON CONFLICT DO NOTHING;
    UPDATE versions SET newest = max(newest, {row}.first_received), {_changed(row, "+")}
        WHERE name IN ({ALL}, {version});{_begin(row)}"""


def _go(row: str) -> str:
    """Return statements that no longer count a session in its version."""
    version = f"ifnull({row}.version, {NO_VERSION})"
    return f"""{_end(row)}
    UPDATE versions SET {_changed(row, "-")} WHERE name IN ({ALL}, {version});
    DELETE FROM versions WHERE name = {version} AND {_NO_SESSIONS};
    UPDATE versions SET newest =
        ifnull((SELECT max(first_received) FROM sessions WHERE version IS {row}.version), newest)
        WHERE name = {version} AND newest = {row}.first_received;"""


_IS_OTHER = f"(old.version IS NOT new.version OR {end_of('old.')} IS NOT {end_of('new.')})"

REFILL = f"""
DELETE FROM totals;
DELETE FROM versions;
DELETE FROM unended;
INSERT INTO totals {_TOTALS};
INSERT INTO versions {_VERSIONS};
INSERT INTO unended {_UNENDED};
"""
"""Statements that count all sessions anew."""

# `types` and `lost` are sums already, with names that clients choose: there may be any number of
# them. Earlier versions also added numbers that are not plausible.
TABLES = f"""
CREATE TABLE totals (
    key INTEGER PRIMARY KEY,
    {", ".join(f"{name} INTEGER NOT NULL" for name in _SUMS)}
) STRICT;
CREATE TABLE versions (
    name ANY NOT NULL PRIMARY KEY,
    newest INTEGER NOT NULL,
    {", ".join(f"{name} INTEGER NOT NULL" for name in _COUNTS)}
) STRICT, WITHOUT ROWID;
CREATE TABLE unended (
    version ANY NOT NULL,
    period INTEGER NOT NULL,
    sessions INTEGER NOT NULL,
    PRIMARY KEY (version, period)
) STRICT, WITHOUT ROWID;
{REFILL}
DELETE FROM lost;
INSERT INTO lost SELECT each.key, sum(each.value) FROM sessions, json_each(sessions.lost) AS each
    WHERE (SELECT total(value) FROM json_each(sessions.lost)) <= {MAX_PLAUSIBLE_MISSING}
    AND each.key <> '{Cause.UNEXPLAINED}' GROUP BY each.key;
UPDATE types SET sampled = 0;
UPDATE types SET sampled = counted.events FROM (
    SELECT type, sum(events) AS events FROM sampled
    WHERE events <= {MAX_PLAUSIBLE_MISSING} GROUP BY type
) AS counted WHERE counted.type = types.key;
CREATE INDEX versions_by_newest ON versions (newest);
CREATE INDEX sessions_by_version ON sessions (version, first_received);
CREATE INDEX sessions_unended ON sessions (last_received, version, state)
    WHERE state IS NOT '{State.ENDED}';
CREATE INDEX types_by_events ON types (events DESC, name) WHERE events > 0;
CREATE INDEX types_by_sampled ON types (sampled DESC, name) WHERE sampled > 0;
CREATE INDEX lost_by_events ON lost (events DESC, cause) WHERE events > 0;
CREATE TRIGGER sessions_come AFTER INSERT ON sessions BEGIN
    {_add(None, "new")}{_come("new")}
END;
CREATE TRIGGER sessions_go AFTER DELETE ON sessions BEGIN
    {_add("old", None)}{_go("old")}
END;
CREATE TRIGGER sessions_add
AFTER UPDATE OF events, deleted, repeats, faults, missing, waiting ON sessions BEGIN
    {_add("old", "new")}
END;
CREATE TRIGGER sessions_turn AFTER UPDATE OF version, state, reason ON sessions
WHEN {_IS_OTHER} BEGIN{_go("old")}{_come("new")}
END;
CREATE TRIGGER sessions_stay AFTER UPDATE OF last_received ON sessions
WHEN old.last_received / {PERIOD} <> new.last_received / {PERIOD} AND NOT {_IS_OTHER}
BEGIN{_end("old")}{_begin("new")}
END;
"""
"""The statements that make the tables, for sessions that are there already."""

AS_VIEWS = f"""
CREATE TEMP VIEW totals AS {_TOTALS};
CREATE TEMP VIEW versions AS {_VERSIONS};
CREATE TEMP VIEW unended AS {_UNENDED};
"""
"""Statements that make the tables of an older file, which is only read, look like these."""
