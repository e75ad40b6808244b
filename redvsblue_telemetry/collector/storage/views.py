"""The views that people may query with SQL: documented, and kept by later versions.

The tables behind them change with the versions of the schema. A column that a view has stays, with
its meaning; a new version may add columns at the end. So nobody should write ``SELECT *`` in a
program, and the docs say so.

``{schema}.`` stands before the names of tables; see :mod:`.sandbox`.
"""

from __future__ import annotations

from collections.abc import Set

import msgspec

from ..._report import State
from ..models import Outcome
from .counting import MINUTE
from .figures import end_of
from .upkeep import epoch_milliseconds

__all__ = ["views"]

_QUIET_MILLISECONDS = 300_000  # without a connection, after which there is no word of a session

# SQLite makes a LEFT JOIN whose column is compared with a value an ordinary one, which may start at
# that table and use the index of the events. In aggregates it doesn't leave out a join that nobody
# needs; it does leave out a subquery.
_EVENTS = """SELECT
    e.arrival AS arrival,
    e.received AS received,
    s.session_id AS session,
    e.seq AS seq,
    t.name AS type,
    e.timestamp AS timestamp,
    CASE
        WHEN s.run IS NULL THEN e.id
        WHEN e.id = '' THEN s.run || '-' || e.seq
        WHEN substr(CAST(e.id AS BLOB), 1, 1) = x'00'
            THEN CAST(substr(CAST(e.id AS BLOB), 2) AS TEXT)
        ELSE e.id
    END AS id,
    e.version AS version,
    e.data AS data,
    (SELECT text FROM {schema}.contexts WHERE key = e.context) AS context,
    (SELECT text FROM {schema}.faults WHERE key = e.fault) AS fault
FROM {schema}.events AS e
LEFT JOIN {schema}.types AS t ON t.key = e.type
LEFT JOIN {schema}.sessions AS s ON s.key = e.session"""

_SESSIONS = """SELECT
    s.session_id AS session,
    s.version AS version,
    OUTCOME AS outcome,
    s.reason AS reason,
    s.events AS events,
    s.missing AS missing,
    s.repeats AS repeats,
    s.deleted AS deleted,
    s.crashes AS crashes,
    s.faults AS faults,
    coalesce(nullif(s.started_at, 0), s.first_timestamp) AS started,
    CASE WHEN s.state = 'ENDED' THEN coalesce(nullif(s.at, 0), s.reported) END AS ended,
    s.first_received AS first_received,
    s.last_received AS last_received,
    s.first_timestamp AS first_timestamp,
    s.last_timestamp AS last_timestamp,
    s.highest AS highest,
    s.last_seq AS last_seq,
    s.lost AS lost,
    s.waiting AS waiting
FROM {schema}.sessions AS s""".replace("ENDED", State.ENDED)

# The events that are not counted yet are counted here: those of an earlier release, for a while.
_COUNTS = f"""SELECT
    c.period * {MINUTE} AS period,
    CASE c.minutes WHEN 1 THEN 'minute' WHEN 15 THEN 'quarter' WHEN 60 THEN 'hour' ELSE 'day' END
        AS level,
    s.type AS type,
    s.version AS version,
    c.events AS events
FROM {{schema}}.counts AS c
LEFT JOIN {{schema}}.series AS s ON s.key = c.series
UNION ALL
SELECT e.received / {MINUTE} * {MINUTE}, 'minute', t.name, e.version, count(*)
FROM {{schema}}.events AS e
LEFT JOIN {{schema}}.types AS t ON t.key = e.type
WHERE e.arrival < (SELECT first FROM {{schema}}.counted)
GROUP BY 1, 3, 4"""

_REJECTED = """SELECT
    arrival AS arrival,
    received AS received,
    reason AS reason,
    CAST(text AS TEXT) AS text
FROM {schema}.rejected"""


def views(*, connected: Set[str] = frozenset(), now: int | None = None) -> dict[str, str]:
    """Return the SQL of each view, by name.

    Args:
        connected: the ids of the sessions whose clients are connected.
        now: in milliseconds since the epoch; by default the time.
    """
    now = epoch_milliseconds() if now is None else now
    ids = msgspec.json.encode(sorted(connected)).decode().replace("'", "''")
    outcome = (
        f"coalesce({end_of('s.')}, CASE WHEN s.last_received > {now - _QUIET_MILLISECONDS} "
        f"OR s.session_id IN (SELECT value FROM json_each('{ids}')) "
        f"THEN '{Outcome.RUNNING}' ELSE '{Outcome.NO_WORD}' END)"
    )
    return {
        "events": _EVENTS,
        "sessions": _SESSIONS.replace("OUTCOME", outcome),
        "counts": _COUNTS,
        "rejected": _REJECTED,
    }
