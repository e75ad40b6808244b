"""Versions of the game's build, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from ..models import Outcome
from ..storage.figures import ENDS
from .backend import Backend
from .field import mean_of
from .questions import (
    Compare,
    ComparedField,
    ComparedFrames,
    ComparedVersion,
    ComparePage,
    Filters,
    QuestionError,
)
from .sql import add_facts, check_fields, check_type, listed, plain

__all__ = ["compare"]

_FRAMES = ("p50Ms", "p95Ms", "p99Ms", "frames", "hitches", "seconds")
_MAX_AMOUNT = 1e15  # keeps the sums finite
_MAX_TIME = 253_402_300_800_000  # the end of the year 9999, in milliseconds
_MAX_KNOWN = 10  # versions that an error lists


def compare(backend: Backend, question: Compare) -> ComparePage:
    """Return the versions in the order of the question."""
    _check_versions(backend, question)
    names = ["version", "outcome", "events", "started", "ended"]
    backend.add_sessions("sessions", names, question.filters.span)
    versions = _sessions(backend, question.versions)
    for version, frames in _frames(backend, question.filters).items():
        if version in versions:
            versions[version].frames = frames
    if question.type is not None and question.field is not None:
        for version, field in _fields(backend, question, question.type, question.field).items():
            if version in versions:
                versions[version].field = field
    return ComparePage([*versions.values()])


def _check_versions(backend: Backend, question: Compare) -> None:
    known = backend.versions()
    for version in question.versions:
        if version not in known:
            hint = (
                f"there are {listed(known[:_MAX_KNOWN], 'and')}" if known else "no session has one"
            )
            raise QuestionError(f"no session has the version {version[:100]!r}; {hint}")
    if question.type is not None:
        check_type(backend, question.type)


def _sessions(backend: Backend, versions: Sequence[str]) -> dict[str, ComparedVersion]:
    outcomes: dict[str, dict[str, int]] = {version: {} for version in versions}
    events: dict[str, int] = dict.fromkeys(versions, 0)
    for version, outcome, sessions, received in backend.run(
        "SELECT version, outcome, count(*), sum(events) FROM sessions GROUP BY version, outcome"
    ):
        if version in outcomes:
            outcomes[version][outcome] = sessions
            events[version] += int(received)
    backend.run(
        "CREATE TEMP VIEW durations AS SELECT version, (ended - started) / 1000e0 AS seconds "
        f"FROM sessions WHERE started >= 0 AND ended < {_MAX_TIME}"
    )
    rows = backend.run(backend.dialect.percentiles("durations", ["version"], "seconds", (50,)))
    medians = {version: median for version, *_, median in rows}
    found = {}
    for version in versions:
        counts = outcomes[version]
        sessions = sum(counts.values())
        ended = sum(counts.get(outcome, 0) for outcome in ENDS)
        ended_well = counts.get(Outcome.WELL, 0) + counts.get(Outcome.SWITCHED_OFF, 0)
        found[version] = ComparedVersion(
            version,
            sessions,
            ended,
            crashed=counts.get(Outcome.CRASHED, 0),
            killed=counts.get(Outcome.KILLED, 0),
            crash_free=ended_well / ended if ended else None,
            events=events[version],
            events_per_session=events[version] / sessions if sessions else None,
            median_seconds=medians.get(version),
        )
    return found


def _frames(backend: Backend, filters: Filters) -> dict[str, ComparedFrames]:
    add_facts(backend, "frames_facts", ["frames"], [], [*_FRAMES, "version"], filters)
    percentiles = [f"number{place} AS {name}" for place, name in enumerate(_FRAMES)]
    # Anyone can send events of this type; those that the SDK did not make are left out.
    is_valid = " AND ".join(
        f"number{place} BETWEEN 0 AND {_MAX_AMOUNT:.0f}e0" for place in range(len(_FRAMES))
    )
    backend.run(
        f"CREATE TEMP VIEW intervals AS SELECT text{len(_FRAMES)} AS version, "
        f"{', '.join(percentiles)} FROM frames_facts WHERE {is_valid} AND number3 > 0"
    )
    medians: dict[str, list[float]] = {}
    for name in _FRAMES[:3]:
        # First the sum of each value: the values are rounded, so there are few.
        rows = backend.run(
            "SELECT version, min(CASE WHEN seen * 2 >= total THEN value END) FROM ("
            "SELECT version, value, sum(frames) OVER (PARTITION BY version ORDER BY value "
            "ROWS UNBOUNDED PRECEDING) AS seen, "
            "sum(frames) OVER (PARTITION BY version) AS total FROM ("
            f"SELECT version, {name} AS value, sum(frames) AS frames FROM intervals "
            "GROUP BY version, value) AS counted) AS weighted GROUP BY version"
        )
        for version, median in rows:
            medians.setdefault(version, []).append(plain(median))
    rates = backend.run(
        "SELECT version, sum(hitches), sum(seconds) FROM intervals GROUP BY version"
    )
    found = {}
    for version, hitches, seconds in rates:
        p50, p95, p99 = medians[version]
        found[version] = ComparedFrames(p50, p95, p99, hitches / seconds * 60 if seconds else 0.0)
    return found


def _fields(
    backend: Backend, question: Compare, type_name: str, field: str
) -> dict[str, ComparedField]:
    add_facts(backend, "facts", [type_name], [], [field, "version"], question.filters)
    rows = backend.run(backend.dialect.percentiles("facts", ["text1"], "number0"))
    if not rows:
        check_fields(backend, type_name, [field], question.filters)
    return {
        version: ComparedField(count, mean_of(scaled, count), plain(p50), plain(p95), plain(p99))
        for version, count, scaled, _, _, p50, p95, p99 in rows
    }
