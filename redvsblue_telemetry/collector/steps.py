"""Equal steps of time, which begin with the days of the viewer's calendar. Pure."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Steps", "steps"]

_MINUTE = 60_000  # milliseconds
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_LENGTHS = (
    *(minutes * _MINUTE for minutes in (1, 5, 15)),
    *(hours * _HOUR for hours in (1, 3, 12)),
    *(days * _DAY for days in (1, 7, 30)),
)
_MAX_STEPS = 200
_MONDAY = 4 * _DAY  # the first one since the epoch


class Steps(NamedTuple):
    """Steps, in milliseconds since the epoch."""

    first: int
    """When the first one begins."""
    last: int
    """When the last one ends."""
    length: int


def steps(start: int, end: int, offset: int, least: int = 0) -> Steps:
    """Return at most 200 steps that cover the time from ``start`` to before ``end``.

    Args:
        start: in milliseconds since the epoch.
        end: later than that.
        offset: the zone of the calendar, in minutes east of UTC.
        least: the least length of a step, at most a day.
    """
    fitting = (each for each in _LENGTHS if _count(start, end, each, offset) <= _MAX_STEPS)
    length = next((each for each in fitting if each >= least), 0)
    if not length:
        length = _DAY * 30 * -(-(end - start) // (_DAY * 30 * (_MAX_STEPS - 2)))
    return Steps(
        _aligned(start, length, offset), _aligned(end - 1, length, offset) + length, length
    )


def _aligned(when: int, length: int, offset: int) -> int:
    """Return when the step begins that a time is in."""
    shift = offset * _MINUTE - (_MONDAY if length == 7 * _DAY else 0)
    return (when + shift) // length * length - shift


def _count(start: int, end: int, length: int, offset: int) -> int:
    return (_aligned(end - 1, length, offset) - _aligned(start, length, offset)) // length + 1
