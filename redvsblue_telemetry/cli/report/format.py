"""Formats numbers, times and durations for a report."""

from __future__ import annotations

import datetime

__all__ = [
    "amount",
    "amount_of",
    "clock_time",
    "duration",
    "milliseconds",
    "moment",
    "share",
    "span",
]


def amount(number: int) -> str:
    """Format a count, with narrow spaces between the thousands."""
    return f"{number:,}".replace(",", "\u202f")


def amount_of(number: int, noun: str) -> str:
    """Format a count with its noun, which gets an ``s`` unless the count is 1."""
    return f"{amount(number)} {noun}{'' if number == 1 else 's'}"


def share(part: int, whole: int) -> str:
    """Format a part in percent; it is 0 % or 100 % only if that is exact."""
    if not part or not whole:
        return "0\u202f%"
    percent = 100 * part / whole
    if percent < 0.01:
        return "< 0.01\u202f%"
    if part < whole and percent > 99.99:
        return "> 99.99\u202f%"
    return f"{percent:.2f}".rstrip("0").rstrip(".") + "\u202f%"


def moment(milliseconds: int) -> str:
    """Format a time since the epoch as date and time in UTC."""
    return _time(milliseconds, "%Y-%m-%d %H:%M:%S")


def clock_time(seconds: int, width: int) -> str:
    """Format the start of a bin, in seconds since the epoch, for the bin's width in seconds."""
    if width >= 86_400:
        return _time(seconds * 1000, "%Y-%m-%d")
    if width >= 3600:
        return _time(seconds * 1000, "%m-%d %H:%M")
    return _time(seconds * 1000, "%H:%M" if width >= 60 else "%H:%M:%S")


def _time(milliseconds: int, form: str) -> str:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    try:
        return (epoch + datetime.timedelta(milliseconds=milliseconds)).strftime(form)
    except OverflowError:
        return "invalid time"


def duration(milliseconds: float) -> str:
    """Format a duration."""
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
