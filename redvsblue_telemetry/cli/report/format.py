"""Formats numbers, times and durations for a report."""

from __future__ import annotations

import datetime
import math

__all__ = [
    "amount",
    "amount_of",
    "between",
    "clock_time",
    "day",
    "duration",
    "is_date",
    "milliseconds",
    "moment",
    "percent",
    "share",
    "span",
]


# The years 1 to 9999, in milliseconds since the epoch.
_FIRST_DATE, _LAST_DATE = -62_135_596_800_000, 253_402_300_799_999
_MAX_DURATION = 10_000 * 366 * 86_400_000  # milliseconds


def amount(number: int) -> str:
    """Format a count, with narrow spaces between the thousands."""
    return f"{number:,}".replace(",", "\u202f")


def amount_of(number: int, noun: str) -> str:
    """Format a count with its noun, which gets an ``s`` unless the count is 1."""
    return f"{amount(number)} {noun}{'' if number == 1 else 's'}"


def share(part: int, whole: int) -> str:
    """Format a part in percent; it is 0 % or 100 % only if that is exact."""
    return percent(part / whole if whole else 0.0)


def percent(part: float) -> str:
    """Format a part of 1 in percent; it is 0 % or 100 % only if that is exact."""
    number = 100 * part
    if not number:
        return "0\u202f%"
    if number < 0.01:
        return "< 0.01\u202f%"
    if 99.99 < number < 100:
        return "> 99.99\u202f%"
    return f"{number:.2f}".rstrip("0").rstrip(".") + "\u202f%"


def moment(milliseconds: int) -> str:
    """Format a time since the epoch as date and time in UTC."""
    return _time(milliseconds, "%Y-%m-%d %H:%M:%S")


def day(milliseconds: int) -> str:
    """Format the day of a time since the epoch, in UTC."""
    return _time(milliseconds, "%Y-%m-%d")


def clock_time(seconds: int, width: int, before: int | None = None) -> str:
    """Format a time on an axis, in seconds since the epoch; its date only where a day begins.

    Args:
        seconds: the time.
        width: how many seconds the time stands for.
        before: the time of the label before; None for the first label.
    """
    if width >= 86_400:
        return day(seconds * 1000)
    clock = _time(seconds * 1000, "%H:%M" if width >= 60 else "%H:%M:%S")
    if before is not None and day(before * 1000) == day(seconds * 1000):
        return clock
    return f"{day(seconds * 1000)[-5:]} {clock}"


def is_date(milliseconds: int) -> bool:
    """Return whether a time since the epoch is in the years 1 to 9999.

    A game may claim any 64 bits as a time.
    """
    return _FIRST_DATE <= milliseconds <= _LAST_DATE


def _date(milliseconds: int) -> datetime.datetime | None:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    try:
        return epoch + datetime.timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None


def _time(milliseconds: int, form: str) -> str:
    date = _date(milliseconds)
    return f"implausible: {amount(milliseconds)}" if date is None else date.strftime(form)


def between(first: int, last: int) -> str:
    """Format the duration from one time since the epoch to another."""
    return duration(last - first if is_date(first) and is_date(last) else math.inf)


def duration(milliseconds: float) -> str:
    """Format a duration."""
    if not abs(milliseconds) <= _MAX_DURATION:  # NaN, too
        return "implausible"
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{amount(hours // 24)} days"


def milliseconds(number: float) -> str:
    """Format a short duration with up to three significant digits."""
    if 0 < number < 0.01:
        return "< 0.01 ms"
    if number >= 100:
        return f"{amount(round(number))} ms"
    exact = f"{number:.{1 if number >= 10 else 2}f}"
    return f"{exact.rstrip('0').rstrip('.')} ms"


def span(seconds: int) -> str:
    """Format the width of a bin."""
    for size, unit in ((604_800, "week"), (86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            number = seconds // size
            return unit if number == 1 else f"{amount(number)} {unit}s"
    return "second" if seconds == 1 else f"{seconds} seconds"
