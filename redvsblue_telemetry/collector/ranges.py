"""Ranges of time, in words: ``last 7 days``, ``yesterday``, ``2026-11-01 to 2026-11-07``.

The page and the command line read them by the same rules. Days and hours are those of a zone: of
the viewer, whose browser sends it, or of this machine.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable
from datetime import MAXYEAR, MINYEAR, datetime, timedelta, timezone

import msgspec

from .models import TimeRange

__all__ = ["EXAMPLES", "NamedRange", "RangeError", "parse", "resolve"]

EXAMPLES = (
    "last 24 hours, 7d, yesterday, this month, 2026-11, 2026-11-01 to 2026-11-07, since 2026-11-01"
)
"""Some ranges in words, for errors and help texts."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_MAX_LENGTH = 100  # characters; also of the text that an error repeats
_OPEN = {"": "all", "all": "all", "all time": "all", "everything": "all", "live": "live"}
_UNITS = {
    "minute": ("m", "min", "mins", "minutes"),
    "hour": ("h", "hr", "hrs", "hours"),
    "day": ("d", "days"),
    "week": ("w", "weeks"),
    "month": ("mo", "months"),
    "year": ("y", "years"),
}
_UNIT_OF = {spelling: unit for unit, spellings in _UNITS.items() for spelling in (unit, *spellings)}
_LENGTHS = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
}
_MONTHS = {"month": 1, "year": 12}
_DURATION = re.compile(r"(?:(?:last|past) )?([0-9]{1,6}) ?([a-z]+)")
_LAST_UNIT = re.compile(r"(?:last|past) (minute|hour|day)")
_NAMED = re.compile(r"(this|last) (week|month|year)")
_DATES = {  # the lengths of the parts of the calendar that they name
    "%Y": "year",
    "%Y-%m": "month",
    "%Y-%m-%d": "day",
    "%Y-%m-%d %H:%M": "minute",
    "%Y-%m-%d %H:%M:%S": "second",
}
_FROM_TO = re.compile(r"(?:from )?(.+?) ?(?: to | until |\.\.) ?(.+)")
_SINCE = re.compile(r"(?:since|from) (.+)")
_T = re.compile("(?<=[0-9])t(?=[0-9])")  # in 2026-11-01T10:00
_UNTIL = re.compile(r"(?:until|to) (.+)")


class RangeError(ValueError):
    """The words can't be read as a range; the message says what can."""


class NamedRange(msgspec.Struct, frozen=True):
    """A range, and the words for it."""

    words: str
    """In their usual spelling: ``last 7 days`` for ``7D``."""
    range: TimeRange


class _Span(msgspec.Struct):
    """A part of the calendar: by the clock of the zone, without the zone."""

    words: str
    start: datetime
    end: datetime
    is_moment: bool = False
    """Whether it is a time of a day."""

    @property
    def latest(self) -> datetime:
        """The end of a range up to it: a day is part of the range, and a time is its end."""
        return self.start if self.is_moment else self.end


def parse(text: str, now: int, offset: int | None = 0) -> TimeRange:
    """Return the range of some words; see :func:`resolve`."""
    return resolve(text, now, offset).range


def resolve(text: str, now: int, offset: int | None = 0) -> NamedRange:
    """Return the range of some words, with the words in their usual spelling.

    A range that reaches the present has no end.

    Args:
        text: the words, such as ``last 7 days``; ``all``, ``live`` and an empty text mean all time.
        now: the time, in milliseconds since the epoch.
        offset: the zone, in minutes east of UTC; None is that of this machine.

    Raises:
        RangeError: they can't be read.
    """
    words = " ".join(text.lower().split())
    if words in _OPEN:
        return NamedRange(_OPEN[words], TimeRange())
    if len(words) > _MAX_LENGTH:
        raise _misread(text)
    try:
        found = _Reader(now, offset).read(words)
    except RangeError:
        raise
    except (OverflowError, ValueError, OSError):  # years that this machine's calendar doesn't have
        found = None
    if found is None:
        raise _misread(text)
    return found


def _misread(text: str) -> RangeError:
    return RangeError(f"range is {text[:_MAX_LENGTH]!r}; use words such as {EXAMPLES}")


class _Reader:
    """Reads words at one time in one zone."""

    def __init__(self, now: int, offset: int | None) -> None:
        self._zone = None if offset is None else timezone(timedelta(minutes=offset))
        self._now = now
        utc = _EPOCH + now * _MILLISECOND
        # Without a zone, as the calendar needs it: a day in which the clock is set has 23 hours.
        self._here = utc.astimezone(self._zone).replace(tzinfo=None)

    def read(self, words: str) -> NamedRange | None:
        """Return the range of some words, or None if they can't be read."""
        if (span := self._span(words)) is not None:
            return self._range(span.words, span.start, span.end)
        if found := _SINCE.fullmatch(words):
            if (first := self._span(found[1])) is not None:
                return self._range(f"since {first.words}", first.start, None)
        elif (found := _UNTIL.fullmatch(words)) and (last := self._span(found[1])) is not None:
            return self._range(f"until {last.words}", None, last.latest)
        if found := _FROM_TO.fullmatch(words):
            first, last = self._span(found[1]), self._span(found[2])
            if first is not None and last is not None:
                return self._range(f"{first.words} to {last.words}", first.start, last.latest)
        if found := _LAST_UNIT.fullmatch(words):
            return self._rolling(1, found[1])
        found = _DURATION.fullmatch(words)
        if found and found[2] in _UNIT_OF and int(found[1]):
            return self._rolling(int(found[1]), _UNIT_OF[found[2]])
        return None

    def _rolling(self, count: int, unit: str) -> NamedRange:
        """Return the range of some units up to now."""
        words = f"last {count} {unit}s" if count > 1 else f"last {unit}"
        if count == 1 and unit in _BEGINNINGS:
            words = f"last 1 {unit}"  # without the number, it is the one of the calendar
        if unit in _MONTHS:
            start = self._milliseconds(_months_before(self._here, count * _MONTHS[unit]))
        else:
            start = self._now - count * (_LENGTHS[unit] // _MILLISECOND)
        return NamedRange(words, TimeRange(max(0, start)))

    def _range(self, words: str, start: datetime | None, end: datetime | None) -> NamedRange:
        first = None if start is None else self._milliseconds(start)
        last = None if end is None else self._milliseconds(end)
        if first is not None and last is not None and first >= last:
            raise RangeError(f"range is {words!r}; it must end after it begins")
        first = None if first is None else max(0, first)
        last = None if last is None or last >= self._now else max(0, last)
        return NamedRange(words, TimeRange(first, last))

    def _milliseconds(self, here: datetime) -> int:
        if self._zone is None:
            # Not astimezone(): where the clock is set forward at midnight, it makes the day begin
            # at 23:00.
            try:
                seconds = int(here.replace(microsecond=0).timestamp())
            except OSError:  # Windows has the years from 1970 to 3000; no event has others
                seconds = int(here.replace(microsecond=0, tzinfo=timezone.utc).timestamp())
            return seconds * 1000 + here.microsecond // 1000
        return (here.replace(tzinfo=self._zone) - _EPOCH) // _MILLISECOND

    def _span(self, words: str) -> _Span | None:
        """Return a named part of the calendar, or None if the words are none."""
        today = self._here.replace(hour=0, minute=0, second=0, microsecond=0)
        day = timedelta(days=1)
        if words == "now":
            return _Span(words, self._here, self._here, is_moment=True)
        if words == "today":
            return _Span(words, today, today + day)
        if words == "yesterday":
            return _Span(words, today - day, today)
        if named := _NAMED.fullmatch(words):
            start = _BEGINNINGS[named[2]](today)
            if named[1] == "this":
                return _Span(words, start, _next(start, named[2]))
            return _Span(words, _BEGINNINGS[named[2]](start - day), start)
        return _date(words)


def _date(words: str) -> _Span | None:
    """Return the year, month, day, minute or second of a date."""
    words = _T.sub(" ", words)
    for form, unit in _DATES.items():
        try:
            start = datetime.strptime(words, form)  # noqa: DTZ007 - by the clock of the zone
        except ValueError:
            continue
        return _Span(start.strftime(form), start, _next(start, unit), is_moment="%H" in form)
    return None


_BEGINNINGS: dict[str, Callable[[datetime], datetime]] = {
    "week": lambda day: day - timedelta(days=day.weekday()),
    "month": lambda day: day.replace(day=1),
    "year": lambda day: day.replace(month=1, day=1),
}


def _next(start: datetime, unit: str) -> datetime:
    if unit in _MONTHS:
        return _months_before(start, -_MONTHS[unit])
    return start + _LENGTHS[unit]


def _months_before(here: datetime, months: int) -> datetime:
    """Return the same day some months before, or the last of that month if it is shorter.

    Raises:
        OverflowError: there is no such year.
    """
    year, month = divmod(here.year * 12 + here.month - 1 - months, 12)
    if not MINYEAR <= year <= MAXYEAR:
        raise OverflowError
    _, days = monthrange(year, month + 1)
    return here.replace(year=year, month=month + 1, day=min(here.day, days))
