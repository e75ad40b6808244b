"""Whether all that counts events agrees with the events that are there."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

_CONTRADICTIONS = {
    "events of a session": (
        "SELECT session_id, events - deleted, (SELECT count(*) FROM events "
        "WHERE session = sessions.key) AS found FROM sessions WHERE events - deleted <> found"
    ),
    "numbers of a session": (
        "SELECT session_id, events, (SELECT sum(last - first + 1) FROM runs "
        "WHERE session = sessions.key) AS found FROM sessions WHERE events <> coalesce(found, 0)"
    ),
    "crashes of a session": (
        "SELECT session_id, crashes, (SELECT count(*) FROM events WHERE session = sessions.key "
        "AND type = (SELECT key FROM types WHERE name = 'crash')) AS found FROM sessions "
        "WHERE crashes <> found"
    ),
    "faults of a session": (
        "SELECT session_id, faults, (SELECT count(*) FROM events WHERE session = sessions.key "
        "AND fault IS NOT NULL) AS found FROM sessions WHERE faults <> found"
    ),
    "faults by session": (
        "SELECT fault, session, events, (SELECT count(*) FROM events "
        "WHERE session = session_faults.session AND fault = session_faults.fault) AS found "
        "FROM session_faults WHERE events <> found"
    ),
    "faults that no session has": (
        "SELECT key FROM faults WHERE key NOT IN (SELECT fault FROM session_faults)"
    ),
    "events of a type": (
        "SELECT name, events, (SELECT count(*) FROM events WHERE type = types.key) AS found "
        "FROM types WHERE events <> found"
    ),
    "sampled events of a type": (
        "SELECT name, sampled, (SELECT sum(events) FROM sampled WHERE type = types.key) AS found "
        "FROM types WHERE sampled <> coalesce(found, 0)"
    ),
    "unused types": "SELECT name FROM types WHERE events = 0 AND sampled = 0",
    "unused contexts": (
        "SELECT text FROM contexts WHERE key NOT IN "
        "(SELECT context FROM events WHERE context IS NOT NULL)"
    ),
    "fields of no context": (
        "SELECT * FROM context_fields WHERE context NOT IN (SELECT key FROM contexts)"
    ),
    "events of nothing": (
        "SELECT arrival FROM events WHERE session NOT IN (SELECT key FROM sessions) "
        "OR type NOT IN (SELECT key FROM types) "
        "OR (context IS NOT NULL AND context NOT IN (SELECT key FROM contexts)) "
        "OR (fault IS NOT NULL AND fault NOT IN (SELECT key FROM faults))"
    ),
    "what no session has": (
        "SELECT session FROM runs WHERE session NOT IN (SELECT key FROM sessions) "
        "AND session NOT IN (SELECT session FROM leftovers) "
        "UNION SELECT session FROM reports WHERE session NOT IN (SELECT key FROM sessions) "
        "UNION SELECT session FROM sampled WHERE session NOT IN (SELECT key FROM sessions)"
    ),
    "events of a block": (
        "SELECT key, first, last, events, (SELECT count(*) FROM events WHERE type = blocks.type "
        "AND arrival BETWEEN first AND last) AS found FROM blocks WHERE events <> found"
    ),
    "blocks that cover the same": (
        "SELECT key, last, next FROM (SELECT key, last, "
        "lead(first) OVER (PARTITION BY type ORDER BY first) AS next FROM blocks) "
        "WHERE last >= next"
    ),
    "columns of no block": (
        "SELECT block, name FROM columns WHERE block NOT IN (SELECT key FROM blocks)"
    ),
    "fewer counts of a type and version than events": (
        "SELECT name, version, counted, found FROM (SELECT name, version, count(*) AS found, "
        "(SELECT coalesce(sum(counts.events), 0) FROM series JOIN counts "
        "ON counts.series = series.key WHERE series.type = types.name "
        "AND series.version IS events.version) AS counted FROM events "
        "JOIN types ON types.key = events.type WHERE arrival >= (SELECT first FROM counted) "
        "GROUP BY 1, 2) WHERE counted < found"
    ),
    "counts of nothing": (
        "SELECT * FROM counts WHERE series NOT IN (SELECT key FROM series) OR events <= 0"
    ),
    "events in another minute than their run": (
        "SELECT arrival, received, minutes, period FROM (SELECT arrival, received, "
        "(SELECT max(first) FROM arrivals WHERE first <= arrival) AS run FROM events "
        "WHERE arrival >= (SELECT first FROM counted)) LEFT JOIN arrivals ON first = run "
        "WHERE run IS NULL OR received / 60000 / minutes * minutes <> period"
    ),
    "leftovers of a session": (
        "SELECT session FROM leftovers WHERE session IN (SELECT key FROM sessions)"
    ),
}


def contradictions(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All of them, by what they are about; in one snapshot."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        found = {
            about: connection.execute(query).fetchall() for about, query in _CONTRADICTIONS.items()
        }
        (health,) = connection.execute("PRAGMA integrity_check").fetchone()
    assert health == "ok"
    return {about: rows for about, rows in found.items() if rows}
