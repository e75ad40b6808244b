"""How sessions ended, what is missing and why: sections of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ...collector.models import (
    Cause,
    CrashGroup,
    FaultGroup,
    Loss,
    Outcome,
    Session,
    SessionDetail,
    StoredEvent,
    VersionHealth,
)
from .._outcomes import OUTCOMES, cause_word, harmless, is_harmless, outcome_word
from . import charts
from .format import amount, amount_of, between, moment, share
from .markup import cut, in_html, note, section, table

__all__ = [
    "crash_free",
    "crashes",
    "faults",
    "losses",
    "missing_numbers",
    "outcome",
    "sessions",
    "versions",
]

_CAUSES = {
    "overflow": "The game's store was full.",
    "refused": "The server refused the event.",
    "rejected": "The game's <code>before_send</code> failed.",
    "filtered": "The game's <code>before_send</code> left the event out.",
    "switched_off": "The player switched telemetry off.",
    "expired": "The event was too old for the game's journal, or the journal was full.",
    "left_behind": "The game stopped before the event was delivered.",
    "forwarded": "The event has a number from elsewhere, so its own is not used.",
    "damaged": "The game's journal was damaged there.",
    Cause.DROPPED: "The game dropped it; its report had no room for the number and the reason.",
    Cause.WAITING: "The event is on the player's machine, and may still come.",
    Cause.UNEXPLAINED: "No report explains it.",
}
_MAX_RUNS = 8  # of missing numbers, in a row of the table of sessions
_MAX_STACK = 50  # lines
_SPREAD = {"Sessions": "number", "Versions": "", "Newest": "nowrap", "In session": ""}
_SPREAD |= {"Event": "number"}


def outcome(session: Session) -> str:
    """Return how a session stands, as a mark and a word."""
    mark, _ = OUTCOMES.get(session.outcome, ("?", ""))
    kind = session.outcome if session.outcome in OUTCOMES else ""
    symbol = f'<span aria-hidden="true">{mark}</span>'  # the word says the same
    return f'<span class="outcome {kind}">{symbol} {in_html(outcome_word(session.outcome))}</span>'


def crash_free(counts: Mapping[str, int]) -> tuple[int, int]:
    """Return how many sessions ended without a crash or a kill, and how many have ended."""
    good = counts.get(Outcome.WELL, 0) + counts.get(Outcome.SWITCHED_OFF, 0)
    return good, good + counts.get(Outcome.CRASHED, 0) + counts.get(Outcome.KILLED, 0)


# Versions and crashes.


def versions(found: Sequence[VersionHealth]) -> str:
    """Return the section about the versions of the game's build."""
    rows = []
    for each in found:
        good = each.well + each.switched_off
        ended = good + each.crashed + each.killed
        rows.append(
            [
                in_html(each.version, 64) if each.version is not None else "no version",
                amount(each.sessions),
                amount(each.running),
                amount(good),
                _bad(each.crashed),
                _bad(each.killed),
                amount(each.no_word),
                f"<b>{share(good, ended)}</b>" if ended else "\u2013",
            ]
        )
    headings = {"Version": "", "Sessions": "number", "Running": "number", "Ended well": "number"}
    headings |= {"Crashed": "number", "Killed": "number", "No word": "number"}
    headings |= {"Crash-free": "number"}
    about = (
        "The newest version first. Crash-free is the share of the ended sessions that neither "
        "crashed nor were killed. A session without word is neither: nobody knows how it ended."
    )
    return section("Sessions by version", about, table(headings, rows))


def _bad(count: int) -> str:
    return f'<span class="loss">{amount(count)}</span>' if count else "0"


def crashes(groups: Sequence[CrashGroup]) -> str:
    """Return the section about crashes."""
    rows = [[_crash(group), *_spread(group)] for group in groups]
    headings = {"Exception": "", "Crashes": "number"} | _SPREAD
    about = (
        "Uncaught exceptions, grouped by exception and place, the newest first. A crash need not "
        "end the game: an exception in a thread ends that thread."
    )
    return section("Crashes", about, table(headings, rows))


def _spread(group: CrashGroup | FaultGroup) -> list[str]:
    """Return how many events a group has, and which."""
    return [
        amount(group.count),
        amount(group.sessions),
        ", ".join(in_html(version, 32) for version in group.versions[:_MAX_RUNS]),
        moment(group.last),
        f'<span class="id">{in_html(group.newest.session_id, 64)}</span>',
        amount(group.newest.seq),
    ]


def _crash(group: CrashGroup) -> str:
    lines = [
        f"<b>{in_html(group.exception, 120)}</b>",
        in_html(group.message),
        f"<code>{in_html(group.place)}</code>",
    ]
    return "".join(f"<div>{line}</div>" for line in lines) + _stack(group.newest)


class _CrashData(msgspec.Struct):
    stack: list[str] = []
    thread: str = ""


_read_crash = msgspec.json.Decoder(_CrashData).decode


def _stack(event: StoredEvent) -> str:
    """Return the stack of a crash, folded up; empty if it has none."""
    try:
        crash = _read_crash(event.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    if not crash.stack:
        return ""
    lines = "\n".join(in_html(line, 300) for line in crash.stack[-_MAX_STACK:])
    thread = f" of thread {in_html(crash.thread, 64)}" if crash.thread else ""
    return f"<details><summary>Stack{thread}</summary><pre>{lines}</pre></details>"


def faults(groups: Sequence[FaultGroup], count: int) -> str:
    """Return the section about the events that do not fit the schema.

    Args:
        groups: the newest groups of them.
        count: the number of all such events.
    """
    rows = [[_fault(group), *_spread(group)] for group in groups]
    headings = {"Type, fault": "", "Events": "number"} | _SPREAD
    about = (
        "Events that did not fit the collector's schema when they were stored, grouped by type and "
        "fault, the newest first. They are stored like any others."
    )
    rest = count - sum(group.count for group in groups)
    more = note(f"And {amount_of(rest, 'event')} with other faults.") if rest else ""
    return section("Faults", about, table(headings, rows) + more)


def _fault(group: FaultGroup) -> str:
    data = bytes(group.newest.data).decode(errors="replace")
    return (
        f'<b>{in_html(group.type, 120)}</b><div class="fault">{in_html(group.fault, 300)}</div>'
        f"<details><summary>Newest data</summary><pre>{in_html(data, 2000)}</pre></details>"
    )


# What is missing.


def losses(lost: Mapping[str, int], waiting: int) -> str:
    """Return the section about missing events by cause; empty if none is missing."""
    counts = {**lost, Cause.WAITING: waiting}
    ranked = sorted(((n, cause) for cause, n in counts.items() if n), reverse=True)
    if not ranked:
        return ""
    rows = [
        [
            in_html(cause_word(cause), 64),
            _count(number, cause),
            _CAUSES.get(cause, "The game gave this reason."),
        ]
        for number, cause in ranked
    ]
    about = "Numbers without an event, by the cause that the games reported."
    headings = {"Cause": "nowrap", "Events": "number", "": ""}
    return section("Missing events", about, table(headings, rows))


def _count(number: int, cause: str) -> str:
    return amount(number) if is_harmless(cause) else f'<span class="loss">{amount(number)}</span>'


def missing_numbers(session: SessionDetail) -> str:
    """Return the section about the missing numbers of one session."""
    last = max(session.highest, session.last_seq or 0)
    if not session.missing:
        return section("Loss", f"None: events 1 to {amount(last)} all arrived.", "")
    runs = session.losses
    rows = [
        [
            amount(loss.first),
            amount(loss.last),
            _count(loss.last - loss.first + 1, loss.cause),
            in_html(cause_word(loss.cause), 64),
        ]
        for loss in runs
    ]
    headings = {"First missing": "number", "Last missing": "number", "Events": "number"}
    headings |= {"Cause": ""}
    rest = session.missing - sum(loss.last - loss.first + 1 for loss in runs)
    more = note(f"And {amount_of(rest, 'event')} in later gaps.") if rest else ""
    strip = charts.gap_strip([(r.first, r.last, is_harmless(r.cause)) for r in runs], last)
    about = f"Of events 1 to {amount(last)}, {amount(session.missing)} did not arrive."
    return section("Loss", about, strip + table(headings, rows, "narrow") + more)


# All sessions.


def sessions(found: Sequence[SessionDetail], count: int, outcomes: Mapping[str, int]) -> str:
    """Return the section with a table of sessions.

    Args:
        found: the newest ones.
        count: the number of all.
        outcomes: the numbers of all by outcome.
    """
    rows = [
        [
            f'<span class="id">{in_html(session.session_id, 64)}</span>',
            in_html(session.version, 32) if session.version is not None else "",
            _two_lines(outcome(session), cut(moment(session.since))),
            _two_lines(
                cut(moment(_start(session))),
                between(session.first_timestamp, session.last_timestamp),
            ),
            amount(session.events),
            _missing(session),
            amount(session.repeats),
        ]
        for session in found
    ]
    headings = {"Session": "", "Version": "", "Outcome, since": "nowrap"}
    headings |= {"Start, duration": "nowrap", "Events": "number", "Missing": "which"}
    headings |= {"Repeats": "number"}
    more = count - len(rows)
    rest = note(f"And {amount_of(more, 'earlier session')}.") if more else ""
    found_outcomes = [(outcomes.get(name, 0), word) for name, (_, word) in OUTCOMES.items()]
    about = ", ".join(f"{amount(n)} {word}" for n, word in found_outcomes if n)
    about += ". The most recently active session first, with the numbers of its missing events."
    return section("Sessions", about, table(headings, rows) + rest)


def _two_lines(first: str, second: str) -> str:
    return f'{first}<div class="quiet">{second}</div>' if second else first


def _start(session: Session) -> int:
    return session.first_timestamp if session.started_at is None else session.started_at


def _missing(session: SessionDetail) -> str:
    if not session.missing:
        return "0"
    count = amount(session.missing)
    if session.missing > harmless(session.lost, session.waiting):
        count = f'<span class="loss">{count}</span>'
    part = share(session.missing, session.events + session.missing)
    return _two_lines(f"{count} ({part})", _runs(session.losses))


def _runs(found: Sequence[Loss]) -> str:
    """Return the first runs of missing numbers, by cause."""
    by_cause: dict[str, list[str]] = {}
    for loss in found[:_MAX_RUNS]:
        run = amount(loss.first)
        if loss.last > loss.first:
            run = f"{run}\u2013{amount(loss.last)}"
        by_cause.setdefault(loss.cause, []).append(run)
    parts = [
        f"{in_html(cause_word(cause), 32)} {', '.join(runs)}" for cause, runs in by_cause.items()
    ]
    return "; ".join(parts) + (", …" if len(found) > _MAX_RUNS else "")
