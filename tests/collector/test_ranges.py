"""Ranges in words, by the calendar of a zone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import pytest

from redvsblue_telemetry.collector import ranges
from redvsblue_telemetry.collector.models import TimeRange
from redvsblue_telemetry.collector.ranges import RangeError
from tests.support.systems import not_on_windows

BERLIN = 60  # minutes east of UTC, in winter


def at(text: str, offset: int = BERLIN) -> int:
    """A time by the clock of a zone, in milliseconds since the epoch."""
    zone = timezone(timedelta(minutes=offset))
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1000)


NOW = at("2026-11-29 13:34:56")  # a Sunday


@pytest.mark.parametrize(
    ("text", "words", "start", "end"),
    [
        ("last 15 minutes", "last 15 minutes", "2026-11-29 13:19:56", None),
        ("15m", "last 15 minutes", "2026-11-29 13:19:56", None),
        ("  LAST  24 Hours ", "last 24 hours", "2026-11-28 13:34:56", None),
        ("24h", "last 24 hours", "2026-11-28 13:34:56", None),
        ("last hour", "last hour", "2026-11-29 12:34:56", None),
        ("1 hour", "last hour", "2026-11-29 12:34:56", None),
        ("7d", "last 7 days", "2026-11-22 13:34:56", None),
        ("past 2 weeks", "last 2 weeks", "2026-11-15 13:34:56", None),
        ("last 1 week", "last 1 week", "2026-11-22 13:34:56", None),
        ("last 3 months", "last 3 months", "2026-08-29 13:34:56", None),
        ("last 9 months", "last 9 months", "2026-02-28 13:34:56", None),
        ("1y", "last 1 year", "2025-11-29 13:34:56", None),
        ("today", "today", "2026-11-29", None),
        ("yesterday", "yesterday", "2026-11-28", "2026-11-29"),
        ("this week", "this week", "2026-11-23", None),
        ("last week", "last week", "2026-11-16", "2026-11-23"),
        ("this month", "this month", "2026-11-01", None),
        ("last month", "last month", "2026-10-01", "2026-11-01"),
        ("last year", "last year", "2025-01-01", "2026-01-01"),
        ("2026-11-01", "2026-11-01", "2026-11-01", "2026-11-02"),
        ("2026-11-1", "2026-11-01", "2026-11-01", "2026-11-02"),
        ("2026-11", "2026-11", "2026-11-01", None),
        ("2026-10", "2026-10", "2026-10-01", "2026-11-01"),
        ("2025", "2025", "2025-01-01", "2026-01-01"),
        ("2026-11-01 to 2026-11-07", None, "2026-11-01", "2026-11-08"),
        ("2026-11-01..2026-11-07", "2026-11-01 to 2026-11-07", "2026-11-01", "2026-11-08"),
        ("2026-09 to 2026-10", "2026-09 to 2026-10", "2026-09-01", "2026-11-01"),
        ("2026-11-01 10:00 to 2026-11-01 12:30", None, "2026-11-01 10:00", "2026-11-01 12:30"),
        (
            "2026-11-01T10:00 to 2026-11-01T10:00:30",
            "2026-11-01 10:00 to 2026-11-01 10:00:30",
            "2026-11-01 10:00",
            "2026-11-01 10:00:30",
        ),
        ("2026-11-01 10:00", "2026-11-01 10:00", "2026-11-01 10:00", "2026-11-01 10:01"),
        ("since 2026-11-01", "since 2026-11-01", "2026-11-01", None),
        ("since last week", "since last week", "2026-11-16", None),
        ("until 2026-11-01", "until 2026-11-01", None, "2026-11-02"),
        ("last week to yesterday", "last week to yesterday", "2026-11-16", "2026-11-29"),
        ("2026-11-01 to now", "2026-11-01 to now", "2026-11-01", None),
        ("2027", "2027", "2027-01-01", None),
    ],
)
def test_words_are_a_range(
    text: str, words: str | None, start: str | None, end: str | None
) -> None:
    found = ranges.resolve(text, NOW, BERLIN)

    assert found.words == (words or text)
    first, last = found.range.start, found.range.end
    assert first == (None if start is None else at(start))
    assert last == (None if end is None else at(end))
    assert ranges.resolve(found.words, NOW, BERLIN) == found, "its own words mean the same"


@pytest.mark.parametrize(("text", "words"), [("", "all"), ("ALL ", "all"), ("live", "live")])
def test_everything_is_a_range(text: str, words: str) -> None:
    assert ranges.resolve(text, NOW) == ranges.NamedRange(words, TimeRange())


@pytest.mark.parametrize(
    "text",
    [
        "lst week", "0d", "last 0 days", "last 7 fortnights", "2026-13", "2026-02-30", "-7d",
        "since", "last 99999999 days", "last 999999 years", "0001-01-01 to 9", "٧d", "to to to",
        "9" * 5000, "2026-11-01 to", "yesterday or today", "2026-11-01 25:00",
    ],
)  # fmt: skip
def test_other_words_are_refused_with_examples(text: str) -> None:
    with pytest.raises(RangeError, match="last 24 hours, 7d, yesterday") as caught:
        ranges.parse(text, NOW, BERLIN)
    assert text[:50].lower() in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text",
    ["2026-11-07 to 2026-11-01", "2026-11-02 to 2026-11-01", "today to yesterday", "now to now"],
)
def test_range_that_does_not_end_after_it_begins_is_refused(text: str) -> None:
    with pytest.raises(RangeError, match="it must end after it begins"):
        ranges.parse(text, NOW)


def test_day_is_that_of_the_zone() -> None:
    late = at("2026-11-29 23:30", offset=0)
    assert ranges.parse("today", late, 0).start == at("2026-11-29", offset=0)
    assert ranges.parse("today", late, BERLIN).start == at("2026-11-30", offset=BERLIN)
    assert ranges.parse("today", late, -480).start == at("2026-11-29", offset=-480)
    assert ranges.parse("today", late, 345).start == at("2026-11-30", offset=345)


@pytest.mark.parametrize("offset", [0, None], ids=["UTC", "the zone of this machine"])
def test_range_may_begin_before_all_events_and_end_after_them(offset: int | None) -> None:
    for words in ("since 1960", "since 1970-01-01", "last 100 years"):
        assert ranges.parse(words, NOW, offset) == TimeRange(0, None)
    assert ranges.parse("until 3500", NOW, offset) == TimeRange()


@pytest.fixture
def set_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets this machine's zone, by rules of its own, so that no files of zones are needed."""

    def set_to(rules: str) -> None:
        monkeypatch.setitem(os.environ, "TZ", rules)
        time.tzset()

    yield set_to
    monkeypatch.undo()
    time.tzset()


needs_tzset = not_on_windows("no tzset")


@needs_tzset
def test_day_of_this_machine_has_an_hour_more_when_the_clock_is_set_back(
    set_zone: Callable[[str], None],
) -> None:
    set_zone("CET-1CEST,M3.5.0,M10.5.0/3")
    found = ranges.parse("2026-10-25", NOW, None)
    assert found == TimeRange(at("2026-10-25", offset=120), at("2026-10-26", offset=60))
    assert ranges.parse("2026-07-01", NOW, None).start == at("2026-07-01", offset=120)


@needs_tzset
def test_day_of_this_machine_begins_at_one_when_the_clock_is_set_forward_at_midnight(
    set_zone: Callable[[str], None],
) -> None:
    """As in Chile, on the first Sunday of September."""
    set_zone("<-04>4<-03>,M9.1.6/24,M4.1.6/24")
    found = ranges.parse("2026-09-06", NOW, None)
    assert found == TimeRange(
        at("2026-09-06 01:00", offset=-180), at("2026-09-07 00:00", offset=-180)
    )
    assert ranges.parse("2026-09-05", NOW, None).end == found.start


@needs_tzset
def test_year_that_this_machine_does_not_have_is_refused(set_zone: Callable[[str], None]) -> None:
    set_zone("CET-1")
    with pytest.raises(RangeError, match="use words such as"):
        ranges.parse("0001", NOW, None)
