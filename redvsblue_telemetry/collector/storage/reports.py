"""Stores and removes the newest report of each session, with its counts for lists and totals.

A report is stored at the end of a group, once for each session with a new one, when the events of
the group are already known.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Generator

import msgspec

from ..._report import Report, State, encode_report
from ..._shared import LARGEST_INTEGER
from ..models import MAX_PLAUSIBLE_MISSING, Cause, Outcome
from .losses import Losses, claimed_losses, count_losses
from .seqranges import gaps

__all__ = [
    "End",
    "decode_lost",
    "ended_as",
    "missing_runs",
    "remove_report",
    "save_report",
]

_MANY_RUNS = 10_000  # of one session; to read them takes a tenth of a second
_MAX_SAMPLED_TYPES = 1000  # of one session; those with the most events

_REPORTED_OUTCOMES = (Outcome.SWITCHED_OFF, Outcome.CRASHED, Outcome.KILLED)

decode_lost = msgspec.json.Decoder(dict[str, int]).decode


class End(msgspec.Struct, frozen=True):
    """How a session ended."""

    outcome: str
    has_gaps: bool
    """Whether events are missing that nothing explains."""


def ended_as(reason: str | None, lost: dict[str, int]) -> End:
    """Return the end of a session, by the reason in its last report and its losses."""
    outcome = reason if reason in _REPORTED_OUTCOMES else Outcome.WELL
    return End(outcome, lost.get(Cause.UNEXPLAINED, 0) > 0)


def missing_runs(
    connection: sqlite3.Connection, session: int, report: Report | None
) -> Generator[tuple[int, int], None, None]:
    """Yield the runs of numbers that have not arrived, in ascending order."""
    runs = connection.execute(
        "SELECT first, last FROM runs WHERE session = ? ORDER BY first", (session,)
    )
    with contextlib.closing(runs):
        yield from gaps(runs, report.last_seq if report and report.state == State.ENDED else 0)


def _has_many_runs(connection: sqlite3.Connection, session: int) -> bool:
    row = connection.execute(
        "SELECT 1 FROM runs WHERE session = ? LIMIT 1 OFFSET ?", (session, _MANY_RUNS)
    ).fetchone()
    return row is not None


def save_report(
    connection: sqlite3.Connection,
    session: int,
    report: Report,
    *,
    missing: int,
    now: int,
    type_key: Callable[[str], int],
) -> End | None:
    """Write a report in place of the one before; return the session's end, if that is news.

    Args:
        connection: writes, in the caller's transaction.
        session: the key of the session.
        report: its newest report.
        missing: how many of its events are missing.
        now: in milliseconds since the epoch.
        type_key: returns the key of an event type.
    """
    losses = Losses({}, 0)
    if missing and report.state != State.ENDED and _has_many_runs(connection, session):
        # A game that filters every tenth event has hundreds of thousands of gaps after an hour, and
        # reports twice a minute. All clients would wait while they are read each time.
        losses = claimed_losses(missing, report)
    elif missing:
        losses = count_losses(missing_runs(connection, session, report), report)
    (state,) = connection.execute("SELECT state FROM sessions WHERE key = ?", (session,)).fetchone()
    _add_to_lost(connection, session, losses.lost)
    most = sorted(report.sampled.items(), key=lambda item: -item[1])[:_MAX_SAMPLED_TYPES]
    _save_sampled(connection, session, {type_key(name): count for name, count in most})
    connection.execute(
        "INSERT OR REPLACE INTO reports VALUES (?, ?)", (session, encode_report(report).decode())
    )
    connection.execute(
        "UPDATE sessions SET started_at = ?, report_number = ?, state = ?, reason = ?, at = ?, "
        "reported = ?, last_seq = ?, lost = ?, waiting = ? WHERE key = ?",
        (
            report.started_at,
            report.number,
            report.state,
            None if report.reason is msgspec.UNSET else report.reason,
            report.at,
            now,
            report.last_seq,
            msgspec.json.encode(losses.lost).decode(),
            losses.waiting,
            session,
        ),
    )
    if report.state != State.ENDED or state == State.ENDED:
        return None
    return ended_as(None if report.reason is msgspec.UNSET else report.reason, losses.lost)


def _add_to_lost(connection: sqlite3.Connection, session: int, lost: dict[str, int]) -> None:
    """Replace the part of a session in the totals by cause."""
    (text,) = connection.execute("SELECT lost FROM sessions WHERE key = ?", (session,)).fetchone()
    before, lost = _plausible(decode_lost(text)), _plausible(lost)
    for cause in before.keys() | lost.keys():
        change = lost.get(cause, 0) - before.get(cause, 0)
        if change and cause != Cause.UNEXPLAINED:
            row = connection.execute("SELECT events FROM lost WHERE cause = ?", (cause,)).fetchone()
            if count := _bounded((row[0] if row else 0) + change):
                connection.execute("INSERT OR REPLACE INTO lost VALUES (?, ?)", (cause, count))
            else:
                connection.execute("DELETE FROM lost WHERE cause = ?", (cause,))


def _save_sampled(connection: sqlite3.Connection, session: int, sampled: dict[int, int]) -> None:
    """Replace the counts of a session by type, and what they add to the totals."""
    rows = connection.execute("SELECT type, events FROM sampled WHERE session = ?", (session,))
    before = dict(rows.fetchall())
    for type_key in before.keys() | sampled.keys():
        count, count_before = sampled.get(type_key, 0), before.get(type_key, 0)
        if count != count_before:
            change = _plausible_sampled(count) - _plausible_sampled(count_before)
            row = connection.execute(
                "SELECT sampled FROM types WHERE key = ?", (type_key,)
            ).fetchone()
            # Where totals were bounded, a type may have been deleted before its counts.
            total = _bounded((row[0] if row else 0) + change)
            connection.execute("UPDATE types SET sampled = ? WHERE key = ?", (total, type_key))
            connection.execute(
                "INSERT OR REPLACE INTO sampled VALUES (?, ?, ?)", (session, type_key, count)
            )


def remove_report(connection: sqlite3.Connection, session: int) -> list[int]:
    """Delete a session's report and all that it adds to the totals.

    Returns:
        The keys of the types that it counts, which may now be unused.
    """
    _add_to_lost(connection, session, {})
    _save_sampled(connection, session, {})
    connection.execute("DELETE FROM reports WHERE session = ?", (session,))
    types = connection.execute("DELETE FROM sampled WHERE session = ? RETURNING type", (session,))
    return [key for (key,) in types.fetchall()]


def _plausible(lost: dict[str, int]) -> dict[str, int]:
    """Return what the totals count of a session's losses: nothing, if a number must be wrong."""
    return lost if sum(lost.values()) <= MAX_PLAUSIBLE_MISSING else {}


def _plausible_sampled(count: int) -> int:
    return count if count <= MAX_PLAUSIBLE_MISSING else 0


def _bounded(total: int) -> int:
    """Return a total that SQLite can store: a client can claim any numbers."""
    return min(max(total, 0), LARGEST_INTEGER)
