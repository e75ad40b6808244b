"""Reports: their numbers match the database, and hostile events in them are harmless."""

from __future__ import annotations

import contextlib
import json
import random
import re
import sqlite3
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry.cli._database import open_database
from redvsblue_telemetry.cli.report import charts
from redvsblue_telemetry.cli.report import format as formatting
from redvsblue_telemetry.cli.report.command import report
from redvsblue_telemetry.cli.report.data import gather
from redvsblue_telemetry.cli.report.markup import card, cards
from redvsblue_telemetry.cli.report.stats import (
    FRAME_TIME_EDGES,
    Distribution,
    FrameTimes,
    Timeline,
    TimelineBins,
    frame_times,
)
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage import batches
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Check, Writer
from tests.support import REPOSITORY
from tests.support.chromium import needs_chromium
from tests.support.collector import collector_running
from tests.support.command import (
    Terminal,
    needs_full_disk,
    run_command,
    run_command_onto_full_disk,
)
from tests.support.systems import needs_posix, needs_terminals

NOW = 1_800_000_000_000  # ms since the epoch; tests that compare clocks set their own


def event(seq: int, **fields: Any) -> dict[str, Any]:
    default = {"sessionId": "s1", "seq": seq, "type": "ship_hit", "data": {}, "id": f"{seq}"}
    return {**default, "timestamp": NOW + seq * 100, **fields}


def stored(path: Path, *messages: Sequence[Any] | bytes, check: Check | None = None) -> Path:
    """Store messages in a database and return its path."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(contextlib.closing(Database(path)))
        w = stack.enter_context(contextlib.closing(Writer(database, check)))
        for message in messages:
            body = message if isinstance(message, bytes) else json.dumps(message).encode()
            w.store([read_message(body)])
    return path


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite3"


def run_report(db: Path, *options: str) -> Result:
    page = db.with_name("report.html")
    arguments = ["--db", str(db), "-o", str(page), *options]
    return CliRunner().invoke(report, arguments, catch_exceptions=False)


class Page(HTMLParser):
    """Collects the text, tags and attributes of a page; fails if its tags don't match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\u202f", "").split())


def page_of(db: Path, *options: str) -> Page:
    done = run_report(db, *options)
    assert done.exit_code == 0, done.output
    return Page(db.with_name("report.html").read_text("utf-8"))


# Contents.


def test_report_of_all_sessions_counts_events_loss_and_repeats(db: Path) -> None:
    first = [event(n, version="1.4") for n in (1, 2, 3, 7, 9)]
    second = [event(n, sessionId="s2", type="menu") for n in range(1, 1501)]
    text = page_of(stored(db, first, first[:2], second)).text
    assert "2 Sessions" in text
    assert "1505 Events" in text
    assert "Missing: 4 events" in text
    assert "2 Repeats" in text
    assert "menu 1500 99.67%" in text
    assert "ship_hit 5 0.33%" in text
    assert re.search(r"s1 1\.4 .*? 5 4 \(44\.44%\) unexplained 4–6, 8 2", text)


def test_report_of_one_session_omits_the_others(db: Path) -> None:
    stored(db, [event(n) for n in (1, 2, 5)], [event(1, sessionId="s2", type="of_another")])
    text = page_of(db, "--session", "s1").text
    assert "Session s1" in text
    assert "3 Events 0.4 s Duration" in text
    assert "Of events 1 to 5, 2 did not arrive." in text
    assert "First missing Last missing Events Cause 3 4 2 unexplained" in text
    assert "of_another" not in text


def test_report_of_a_session_lists_a_thousand_gaps_and_counts_the_rest(db: Path) -> None:
    events = [event(n) for n in range(1, 2 * 1002 + 2, 2)]
    text = page_of(stored(db, events), "--session", "s1").text
    assert "2000 2000 1" in text
    assert "2002 2002 1" not in text
    assert "And 2 events in later gaps." in text


def test_session_without_loss(db: Path) -> None:
    text = page_of(stored(db, [event(n) for n in range(1, 6)]), "--session", "s1").text
    assert "Loss None: events 1 to 5 all arrived." in text
    assert "0% Missing: 0 events" in text


def test_rejected_messages_are_listed_with_reasons(db: Path) -> None:
    text = page_of(stored(db, [event(1), {"type": 17}], b"no json")).text
    assert "2 Rejected" in text
    assert "Received Reason Excerpt" in text
    assert '{"type": 17}' in text
    assert "must be a JSON array of events" in text


def test_frame_times_are_summarized(db: Path) -> None:
    events = [event(n, type="frame", data={"frame_time_ms": 10}) for n in range(1, 99)]
    events += [event(99, data={"frameMs": 1234.5}), event(100, data={"fps": 20})]
    text = page_of(stored(db, events)).text
    assert "100 frame times recorded" in text
    assert "10 ms Median 50 ms 99th percentile 1234 ms Slowest" in text
    assert "2% Below 60 frames per second 2% Below 30 frames per second" in text


def test_frame_times_are_found_in_any_spelling_of_their_names(db: Path) -> None:
    spelled = json.dumps([event(1, data={"fps": 50})]).replace("fps", "\\u0066\\u0070s").encode()
    text = page_of(stored(db, spelled, [event(2, data={"frameTimeMs": 20})])).text
    assert "2 frame times recorded" in text
    assert "20 ms Median" in text


def test_frame_time_without_a_unit_is_ignored_and_the_report_explains_how_to_send_one(
    db: Path,
) -> None:
    text = page_of(stored(db, [event(1, data={"dt": 16}), event(2, data={"dt": 0.016})])).text
    assert "No frame times recorded." in text
    assert "frame_time_ms" in text


def test_equal_frame_times_are_not_rounded(db: Path) -> None:
    text = page_of(stored(db, [event(n, data={"frame_ms": 16.67}) for n in range(1, 20)])).text
    assert "16.7 ms Median 16.7 ms 99th percentile 16.7 ms Slowest" in text


def test_median_of_one_session_is_its_duration(db: Path) -> None:
    days = 8_997 * 86_400_000
    text = page_of(stored(db, [event(1, timestamp=0), event(2, timestamp=days)])).text
    assert "8997 days Median session" in text
    assert "8997 days 2 0 0" in text


def test_count_of_one_is_in_the_singular(db: Path) -> None:
    stored(db, [event(1, type=f"type{n}", sessionId=f"s{n}") for n in range(101)])
    text = page_of(db).text
    assert "And 1 earlier session." in text
    alone = db.with_name("alone.sqlite3")
    done = run_report(stored(alone, [event(1), event(3, type="menu", data={"fps": 60})]))
    assert done.output.endswith("report.html: 2 events of 1 session\n")
    done = run_report(stored(db.with_name("one.sqlite3"), [event(1, data={"fps": 60})]))
    assert done.output.endswith("report.html: 1 event of 1 session\n")
    assert "1 frame time recorded" in db.with_name("report.html").read_text("utf-8")


def test_newest_sessions_are_listed_and_all_are_in_the_median(db: Path) -> None:
    for first in (0, 150):
        sessions = [f"s{number}" for number in range(first, first + 150)]
        times = {name: NOW + int(name[1:]) * 1000 for name in sessions}
        stored(db, [event(1, sessionId=name, timestamp=NOW) for name in sessions])
        stored(db, [event(2, sessionId=name, timestamp=times[name]) for name in sessions])
    text = page_of(db).text
    assert "300 Sessions" in text
    assert "And 200 earlier sessions." in text
    assert re.search(r"\bs299\b.*\bs298\b.*\bs200\b", text)
    assert not re.search(r"\bs199\b", text)
    assert "2 min 29 s Median session" in text


def test_report_of_an_empty_database(db: Path) -> None:
    page = page_of(stored(db))
    assert "0 Events" in page.text
    assert page.tags["svg"] == 0


def test_clock_that_is_years_off_does_not_stretch_the_timeline(db: Path) -> None:
    now = time.time_ns() // 1_000_000
    times = [now, now + 1000, 0, -(2**63), 2**63 - 1]
    stored(db, [event(n, timestamp=t) for n, t in enumerate(times, start=1)])
    text = page_of(db).text
    assert "shown at the time when they were received: 3" in text
    assert "Events per second." in text


def test_timeline_of_a_long_time_is_by_the_time_when_events_were_received(db: Path) -> None:
    day = 86_400_000
    types = ["rare", *[f"type{n}" for n in range(8) for _ in range(2)]]
    for number, type_ in enumerate(types, start=1):
        clock = NOW - 10 * day + number // 6 * day
        with (
            contextlib.closing(Database(db)) as database,
            contextlib.closing(Writer(database, clock=lambda clock=clock: clock)) as writer,
        ):
            body = json.dumps([event(number, type=type_, timestamp=0)])
            writer.store([read_message(body)])
    with open_database(db) as connection:
        found = gather(connection, None)
    assert found is not None
    assert (found.by_received, found.displaced) == (True, 0)
    assert (found.first, found.last) == (NOW - 10 * day, NOW - 8 * day)
    columns = [counts for _, counts in found.timeline.columns]
    assert [sum(counts) for counts in zip(*columns, strict=True)] == [2] * 8 + [1]
    assert [sum(counts) for counts in columns if any(counts)] == [5, 6, 6]
    text = page_of(db).text
    assert "by the time when they were received." in text


def test_timeline_uses_a_color_for_each_of_the_eight_most_frequent_types(db: Path) -> None:
    events = [event(n, type=f"type{min(n, 10)}") for n in range(1, 20)]
    source = page_of(stored(db, events)).source
    assert set(re.findall(r'class="swatch (c\d)"', source)) == {f"c{n}" for n in range(9)}


def test_report_has_the_palette_of_the_live_page(db: Path) -> None:
    palette = REPOSITORY / "redvsblue_telemetry" / "collector" / "static" / "palette.css"
    source = page_of(stored(db, [event(1)])).source
    assert palette.read_text("utf-8") in source
    used = set(re.findall(r"var\((--[\w-]+)\)", source))
    assert used <= set(re.findall(r"(--[\w-]+):", palette.read_text("utf-8")))


# How sessions ended.


def told(session: str = "s1", **fields: Any) -> bytes:
    """The last report of a session that ended well."""
    report = {"sessionId": session, "number": 1, "state": "ended", "reason": "stopped"}
    whole = {**report, "startedAt": NOW, "at": NOW + 60_000, "lastSeq": 9, **fields}
    return json.dumps({"report": whole}).encode()


def test_sessions_have_outcomes_and_versions_a_share_without_crashes(db: Path) -> None:
    outcomes = {"a": "stopped", "b": "exit", "c": "crashed", "d": "killed", "e": "switched_off"}
    messages: list[Sequence[Any] | bytes] = []
    for session, reason in outcomes.items():
        version = "1.5" if session in "ab" else "1.4"
        events = [event(n, sessionId=session, version=version) for n in range(1, 10)]
        messages += [events, told(session, reason=reason, version=version)]
    alone = told("by its report alone", reason="killed", lastSeq=0, version="1.4")
    text = page_of(stored(db, *messages, alone)).text

    assert "6 Sessions 50% Crash-free, of 6 that ended" in text
    assert "1 crashed, 2 killed, 1 switched off, 2 ended well." in text
    assert "1.4 4 0 1 1 2 0 25%" in text
    assert "1.5 2 0 2 0 0 0 100%" in text
    began, ended = "2027-01-15 08:00:00", "2027-01-15 08:01:00"
    assert f" c 1.4 ✕ crashed {ended} {began} 0.8 s 9 0 0" in text
    assert f"by its report alone 1.4 ■ killed {ended} {began} 1 min 00 s 0 0 0" in text


def test_running_session_and_one_without_word_say_since_when(db: Path) -> None:
    page = page_of(stored(db, [event(1)]), "--session", "s1").text
    assert f"● running since {formatting.moment(NOW + 100)}" in page
    with contextlib.closing(sqlite3.connect(db)) as connection:
        yesterday = time.time_ns() // 1_000_000 - 86_400_000
        connection.execute("UPDATE sessions SET last_received = ?", (yesterday,))
        connection.commit()
    page = page_of(db, "--session", "s1").text
    assert f"? no word since {formatting.moment(yesterday)}" in page


def test_missing_events_have_their_causes(db: Path) -> None:
    gaps = [[2, 3, "overflow"], [5, 5, "filtered"], [7, 7, "a reason that is new"]]
    dropped = {"overflow": 2, "filtered": 1, "a reason that is new": 1}
    report = told(lastSeq=12, gaps=gaps, dropped=dropped, buffered=2)
    page = page_of(stored(db, [event(n) for n in (1, 4, 6, 9, 10)], report))
    assert "Missing: 7 events" in page.text
    assert "5 7 (58.33%) overflow 2–3; filtered 5; a reason that is new 7; " in page.text
    assert "unexplained 8; waiting 11–12" in page.text
    assert "overflow 2 The game's store was full." in page.text
    assert "filtered 1 The game's before_send left the event out." in page.text
    assert "a reason that is new 1 The game gave this reason." in page.text
    assert "waiting 2 The event is on the player's machine, and may still come." in page.text

    one = page_of(db, "--session", "s1")
    assert "Of events 1 to 12, 7 did not arrive." in one.text
    assert "2 3 2 overflow 5 5 1 filtered 7 7 1 a reason that is new" in one.text
    assert "8 8 1 unexplained 11 12 2 waiting" in one.text
    strip = one.source[one.source.index('aria-label="Missing events') :]
    kinds = re.findall(r'class="(bad|quiet)" x', strip.partition("</svg>")[0])
    assert kinds == ["bad", "quiet", "bad", "bad", "quiet"]


@pytest.mark.parametrize(("reason", "kind"), [("filtered", "good"), ("overflow", "bad")])
def test_loss_that_nobody_has_to_look_into_is_not_red(reason: str, kind: str, db: Path) -> None:
    report = told(lastSeq=2, gaps=[[2, 2, reason]], dropped={reason: 1})
    source = page_of(stored(db, [event(1)], report)).source
    assert f'<div class="card {kind}"><b>50\u202f%</b><span>Missing: 1 event</span>' in source
    assert ('<span class="loss">' in source) == (kind == "bad")


def test_totals_of_sampled_types_are_estimated(db: Path) -> None:
    events = [event(n, type="bullet_fired" if n < 4 else "menu") for n in range(1, 10)]
    report = told(sampled={"bullet_fired": 12_297, "particle": 50})
    text = page_of(stored(db, events, report)).text
    assert "Type Stored Share Emitted menu 6 66.67% bullet_fired 3 33.33% about 12300" in text
    assert "particle 0 0% about 50" in text
    assert "left out some events" in text


def test_crashes_are_grouped_with_the_stack_of_the_newest(db: Path) -> None:
    def crash(seq: int, line: int, **fields: Any) -> dict[str, Any]:
        stack = ["main.py:3 in main", f"ships.py:{line} in hit"]
        data = {"exception": "KeyError", "message": f"'red-{seq}'", "stack": stack}
        return event(seq, type="crash", data={**data, "thread": "MainThread"}, **fields)

    other = crash(1, 71, sessionId="other")
    page = page_of(stored(db, [crash(1, 40, version="1.4")], [other], [crash(2, 40)]))
    assert page.tags["details"] == 2
    newest = "KeyError 'red-2' ships.py:40 in hit Stack of thread MainThread"
    assert f"{newest} main.py:3 in main ships.py:40 in hit 2 1 1.4" in page.text
    assert "ships.py:71 in hit 1 1 " in page.text
    one = page_of(db, "--session", "other")
    assert "ships.py:71" in one.text
    assert "ships.py:40" not in one.text


def test_game_s_own_event_of_type_crash_is_shown_without_a_stack(db: Path) -> None:
    page = page_of(stored(db, [event(1, type="crash", data={"stack": "all of it"})]))
    assert "Crashes" in page.text
    assert page.tags["details"] == 0


def interval(seq: int, p50: float, **fields: Any) -> dict[str, Any]:
    data = {"seconds": 10.0, "frames": 600, "p50Ms": p50, "p95Ms": p50 * 2, "p99Ms": p50 * 3}
    data |= {"maxMs": p50 * 9, "hitches": 3}
    when = time.time_ns() // 1_000_000 - 60_000 + seq * 10_000
    return event(seq, type="frames", data=data, timestamp=when, **fields)


def test_faults_are_grouped_with_the_newest_event(db: Path) -> None:
    def check(type: str, data: msgspec.Raw) -> str | None:
        if type == "ship_hti":
            return "no such type of event"
        return "data.damage: must be an integer" if b'"12"' in bytes(data) else None

    wrong = {"damage": "12", "by": "<b>"}
    first = [event(n, data=data, version="1.4") for n, data in ((1, {"damage": 12}), (2, wrong))]
    second = [
        event(3, data=wrong, version="1.4"),
        event(1, sessionId="other", data=wrong, version="1.5"),
    ]
    typo = event(2, sessionId="other", type="ship_hti")
    page = page_of(stored(db, first, second, [typo], check=check))

    assert "4 Do not fit the schema" in page.text
    assert "ship_hti no such type of event Newest data {} 1 1 " in page.text
    fault = "ship_hit data.damage: must be an integer"
    newest = f'{fault} Newest data {{"damage": "12", "by": "<b>"}} 3 2 1.5 , 1.4'
    assert newest in page.text
    assert "with other faults" not in page.text
    one = page_of(db, "--session", "s1")
    assert "2 Do not fit the schema" in one.text
    assert f"{fault} Newest data" in one.text
    assert "no such type" not in one.text


def test_faults_beyond_fifty_kinds_are_counted(db: Path) -> None:
    events = [event(n, type=f"type{n}") for n in range(1, 61)]
    page = page_of(stored(db, events, check=lambda type, _: f"{type} is unknown"))
    assert page.tags["details"] == 50
    assert "type60 is unknown" in page.text
    assert "And 10 events with other faults." in page.text


def test_report_without_faults_does_not_mention_them(db: Path) -> None:
    text = page_of(stored(db, [event(1)])).text
    assert "Faults" not in text
    assert "schema" not in text


def test_frames_are_shown_by_version_and_over_time(db: Path) -> None:
    events = [interval(n, 8.0, version="1.4") for n in range(1, 4)]
    events += [interval(n, 12.0 + n, version="1.5", sessionId="s2") for n in range(1, 4)]
    page = page_of(stored(db, events))
    assert "1.4 1800 30 s 8 ms 16 ms 24 ms 72 ms 9 0.5%" in page.text
    assert "1.5 1800 30 s 14 ms 28 ms 42 ms 135 ms 9 0.5%" in page.text
    assert page.source.count('aria-label="Frame times in milliseconds over time"') == 2
    assert page.tags["polyline"] == 3 + 2 * 3  # with those that explain the lines
    assert "No frame times recorded" not in page.text
    assert "1.4 1800" not in page_of(db, "--session", "s2").text


# Hostile events.

HOSTILE = [
    "<script>alert(1)</script>",
    "</style></title></svg><img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "\u202egnp.exe\u2066\u200f",
    "\x1b]0;x\x07\x00\r\n\u2028",
    "javascript:alert(1)",
    "&lt;b&gt;",
    "x" * 5000,
    "\ud800",
]


def hostile_database(db: Path) -> Path:
    messages = [
        [event(1, sessionId=text, type=text, version=text, data={text: text})] for text in HOSTILE
    ]
    return stored(db, *messages, *[[event(1, type="", id=text)] for text in HOSTILE])


def test_hostile_data_stays_text(db: Path) -> None:
    page = page_of(hostile_database(db))
    assert "<script>alert(1)</script>" in page.text
    assert "&lt;b&gt;" in page.text
    assert not set(page.tags) & {"script", "img", "iframe", "link", "base", "object", "a", "b0"}
    assert not {name for name in page.attributes if name.startswith("on")}
    assert not page.attributes & {"href", "src", "srcset", "xlink:href", "action"}
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert all(
        letter.isprintable() or letter == "\n" for letter in page.source.replace("\u202f", "")
    )
    assert "x" * 300 not in page.source
    assert "\\u202egnp.exe" in page.text


def test_hostile_sessions_can_be_reported(db: Path) -> None:
    hostile_database(db)
    for text in HOSTILE[:4]:
        page = page_of(db, "--session", text)
        assert "script" not in page.tags
        assert "1 Events" in page.text


@needs_chromium
def test_browser_shows_a_hostile_report_without_warnings(db: Path, browser: Any) -> None:
    page_of(hostile_database(db))
    page = browser.new_page()
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(db.with_name("report.html").as_uri())
    assert page.locator("h1").inner_text() == "Telemetry report"
    assert page.locator("svg rect").count() > 0
    assert page.locator("script, img").count() == 0
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    heights = "[...document.querySelectorAll('.tick')].map(e => e.getBoundingClientRect().height)"
    assert min(page.evaluate(heights)) > 7  # large enough to read
    page.close()
    assert (messages, len(requests)) == ([], 1)


# Labels, and numbers that no game should send.


def outside(page: Any) -> list[str]:
    """Return the labels of charts that are not wholly within them."""
    return page.evaluate(
        """[...document.querySelectorAll('svg text')].filter(label => {
            const box = label.getBoundingClientRect();
            const chart = label.ownerSVGElement.getBoundingClientRect();
            return box.left < chart.left - 0.5 || box.right > chart.right + 0.5;
        }).map(label => label.textContent)"""
    )


@needs_chromium
@pytest.mark.parametrize("font", ["sans-serif", "DejaVu Sans", "monospace"])
def test_labels_of_charts_are_whole_at_any_size(font: str, tmp_path: Path, browser: Any) -> None:
    start = NOW // 1000
    peaks = (0, 3, 99_999, 800_000, 12_345_678, 999_999_999_999, 2**63)
    drawn = [
        charts.timeline(TimelineBins(width, columns), ["t" * 300])
        for peak in peaks
        for width in (1, 300, 3600, 604_800)
        for count in (1, 7, 43, 150)
        for columns in [[(start + n * width, [peak]) for n in range(count)]]
    ]
    drawn += [charts.histogram([peak] * (len(FRAME_TIME_EDGES) + 1)) for peak in peaks]
    drawn += [
        charts.percentile_lines("Frames", [(NOW, 1.0, 2.0, high), (NOW + length, 1.0, 2.0, high)])
        for high in (0.5, 33.0, 5e12, 1e300)
        for length in (1, 60_000, 86_400_000, 400 * 86_400_000)
    ]
    style = f"<style>body {{ margin: 0; font-family: {font} }} .end {{ text-anchor: end }}"
    style += " .middle { text-anchor: middle } .tick { font-size: 12px }"
    style += " svg { display: block; width: 960px }</style>"
    path = tmp_path / "charts.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{style}{''.join(drawn)}", "utf-8")

    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.goto(path.as_uri())
    assert page.locator("svg").count() == len(drawn)
    assert "800\u202f000" in page.locator("svg .tick.end").all_text_contents()
    assert outside(page) == []
    overlaps = page.evaluate(
        """[...document.querySelectorAll('svg')].flatMap(chart => {
            const labels = [...chart.querySelectorAll('.tick:not(.end):not(.middle)')];
            const boxes = labels.map(label => label.getBoundingClientRect());
            return boxes.slice(1).filter((box, at) => box.left < boxes[at].right).length;
        }).reduce((sum, count) => sum + count, 0)"""
    )
    assert overlaps == 0
    page.close()


def test_axis_of_time_has_the_date_where_a_day_begins() -> None:
    midnight = 1_800_057_600  # 2027-01-16 00:00
    columns = [(midnight - 3600 + 300 * n, [1]) for n in range(30)]
    chart = charts.timeline(TimelineBins(300, columns), ["t"])
    labels = re.findall(r'<text class="tick" [^>]*>([^<]*)', chart)
    assert labels == ["01-15 23:00", "23:25", "23:50", "01-16 00:15", "00:40", "01:05"]
    assert "<title>2027-01-16 00:00:00, t: 1</title>" in chart


@needs_chromium
def test_session_with_absurd_numbers_leaves_the_others_as_they_are(db: Path, browser: Any) -> None:
    largest = 2**63 - 1
    absurd = {"sessionId": "absurd", "type": "t" * 500}
    stored(
        db,
        [event(n) for n in (1, 2, 4)],
        [event(1, **absurd, timestamp=-(2**63)), event(largest, **absurd, timestamp=largest)],
    )
    text = page_of(db).text
    assert "16.67% Missing: 1 event. Not counted: 1 session that claims" in text
    assert "claims 9223372036854775805 numbers" in text
    assert "0.3 s Median session" in text
    assert "implausible: -9223372036854775808 implausible 2" in text
    assert "days" not in text
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.goto(db.with_name("report.html").as_uri())
    for section in page.locator("section").all():
        assert section.evaluate("part => part.scrollWidth <= part.clientWidth")
    cell = page.locator(".cut", has_text="implausible").first
    assert cell.get_attribute("title").replace("\u202f", "") == f"implausible: {-(2**63)}"
    page.close()

    text = page_of(db, "--session", "absurd").text
    assert "implausible Duration" in text
    assert "Missing: 9223372036854775805 events" in text


@needs_chromium
def test_numbers_of_cards_are_within_them(tmp_path: Path, browser: Any) -> None:
    numbers = [formatting.amount(10**power) for power in range(0, 17, 2)]
    style = (REPOSITORY / "redvsblue_telemetry/cli/report/report.css").read_text("utf-8")
    parts = [card("A label of some words", number) for number in numbers]
    path = tmp_path / "cards.html"
    path.write_text(f"<meta charset=utf-8><style>{style}</style><main>{cards(parts)}</main>")
    page = browser.new_page()
    for width in (1200, 700, 360):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(path.as_uri())
        assert page.evaluate(
            "[...document.querySelectorAll('.card')].every(e => e.scrollWidth <= e.clientWidth)"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


# Input and output.


def test_report_is_made_while_a_collector_stores_events(db: Path) -> None:
    with collector_running(db=db) as collector:
        settings = TelemetrySettings(enabled=True, url=collector.url, session_id="s1")
        with Telemetry(settings) as telemetry:
            for number in range(200):
                telemetry.emit("frame", {"frame_time_ms": 5 + number % 10})
            assert telemetry.flush(10)
            text = page_of(db).text
            telemetry.emit("later")
            assert telemetry.flush(10)
        assert collector.stats().events == 201
    assert "200 Events" in text
    assert "200 frame times" in text


def test_database_is_not_changed(db: Path) -> None:
    stored(db, [event(n) for n in range(1, 100)])
    before = db.read_bytes()
    page_of(db)
    assert db.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"no database at all" * 100, "is not a database"),
    ],
)
def test_file_that_is_not_a_database_is_refused_and_not_changed(
    db: Path, content: bytes | None, reason: str
) -> None:
    if content is not None:
        db.write_bytes(content)
    done = run_report(db)
    assert done.exit_code == 2
    assert reason in done.output
    assert db.exists() == (content is not None)
    assert not db.with_name("report.html").exists()


def test_database_of_another_program_is_refused(db: Path) -> None:
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute("CREATE TABLE t (x)")
    done = run_report(db)
    assert done.exit_code == 2
    assert "not a telemetry database" in done.output


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--session", "\x1bno"], 1, "no session"),
        (["--session", "s1", "--all"], 2, "can't be used together"),
        (["-o", ""], 2, "the file name is empty"),
        (["-o", "/no/such/folder/report.html"], 2, "can't be written"),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_written(
    db: Path, options: list[str], code: int, message: str
) -> None:
    done = run_report(stored(db, [event(1)]), *options)
    assert done.exit_code == code
    assert message in done.output
    assert "\x1b" not in done.output
    assert [path.name for path in db.parent.iterdir()] == [db.name]


def test_report_replaces_an_older_one(db: Path) -> None:
    stored(db, [event(1)])
    page_of(db)
    stored(db, [event(2)])
    assert "2 Events" in page_of(db).text
    assert not [path for path in db.parent.iterdir() if path.suffix == ".part"]


@needs_full_disk
def test_full_disk_is_reported_in_one_line(db: Path, tmp_path: Path) -> None:
    stored(db, [event(1)])
    for output in ("-", tmp_path / "report.html"):
        done = run_command_onto_full_disk("report", "--db", db, "-o", output)
        assert done.returncode == 2
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("Error: standard output can't be written: ")


@needs_posix
def test_device_is_written_to_and_not_replaced(db: Path, tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.symlink_to("/dev/null")
    done = run_report(stored(db, [event(1)]), "-o", str(device))
    assert done.exit_code == 0
    assert device.resolve() == Path("/dev/null")
    assert device.is_char_device()


@needs_terminals
def test_terminal_shows_progress_unless_it_shows_the_page(db: Path, tmp_path: Path) -> None:
    stored(db, [event(n) for n in range(1, 10)])
    with Terminal("report", "--db", db, "-o", tmp_path / "report.html") as terminal:
        assert terminal.end() == 0
    assert b"reading" in terminal.shown
    with Terminal("report", "--db", db, "-o", "-") as terminal:
        assert terminal.end() == 0
    assert b"reading" not in terminal.shown
    assert b"</html>" in terminal.shown


def test_report_is_written_to_a_pipe(db: Path) -> None:
    done = run_command("report", "--db", stored(db, [event(1)]), "-o", "-")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 Events" in Page(done.stdout).text


def test_memory_does_not_grow_with_the_number_of_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_MAX_CHARACTERS", 100_000)  # of which a thread may read ahead
    few, many = (peak_memory(tmp_path / f"{count}.sqlite3", count) for count in (2_000, 10_000))
    assert many < few + 500_000  # the data alone is 8,000 times 200 bytes more


def peak_memory(db: Path, events: int) -> int:
    """Return the bytes that Python needs for a report of this many events."""
    for first in range(1, events, 2_000):
        data = {"frame_time_ms": 16, "text": "y" * 200}
        stored(db, [event(n, data=data) for n in range(first, first + 2_000)])
    with open_database(db) as connection:
        tracemalloc.start()
        assert gather(connection, None) is not None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def test_work_grows_linearly_with_sessions(tmp_path: Path) -> None:
    few, many = (work_of(tmp_path / f"{count}.sqlite3", count) for count in (1_000, 10_000))
    assert many < 15 * few


def work_of(db: Path, sessions: int) -> int:
    """Return how many thousand steps SQLite takes for a report of this many sessions."""
    for first in range(0, sessions, 1000):
        stored(db, [event(1, sessionId=f"s{n}") for n in range(first, first + 1000)])
    steps: list[None] = []
    with open_database(db) as connection:
        connection.set_progress_handler(lambda: steps.append(None), 1000)
        assert gather(connection, None) is not None
    return len(steps)


# Statistics and formats.


def test_quantiles_of_many_values_are_within_a_tenth_of_a_percent() -> None:
    dice = random.Random(5)
    values = sorted(dice.lognormvariate(2.8, 0.6) for _ in range(5001))
    distribution = Distribution()
    for first in range(0, 5001, 500):
        distribution.add(values[first : first + 500])
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        exact = values[max(0, -(-int(share * 5001 * 1000) // 1000) - 1)]
        assert distribution.quantile(share) == pytest.approx(exact, rel=0.00101)
    assert distribution.largest == values[-1]


def test_quantiles_of_few_different_values_are_exact() -> None:
    distribution = Distribution()
    for _ in range(10_000):
        distribution.add((16.6, 16.7, 33.3))
    assert [distribution.quantile(share) for share in (0.3, 0.5, 0.99)] == [16.6, 16.7, 33.3]


def test_quantile_of_no_values_is_zero() -> None:
    assert Distribution().quantile(0.5) == 0.0


@pytest.mark.parametrize(
    ("data", "milliseconds"),
    [
        ('{"frame_time_ms": 16.5}', 16.5),
        ('{"frameTimeMs": 7}', 7.0),
        ('{"frame_ms": 8}', 8.0),
        ('{"frameMs": 9}', 9.0),
        ('{"dt": 0.02}', None),
        ('{"dt": 16, "fps": 50}', 20.0),
        ('{"fps": 50, "ship": "red-1"}', 20.0),
        ('{"fps": 50, "frame_ms": 8}', 8.0),
        ('{"frame_ms": "8", "fps": 100}', 10.0),
        ('{"frame_ms": true}', None),
        ('{"frame_ms": -1}', None),
        ('{"frame_ms": 0}', None),
        ('{"frame_ms": 3600000}', None),
        ('{"fps": 1e-300}', None),
        ('{"fps": 1' + "0" * 400 + "}", None),
        ('{"frame_ms": null, "fps": []}', None),
        ('{"frames": 3}', None),
        ("{}", None),
        ('{"x": ' + "[" * 5000 + "]" * 5000 + "}", None),
    ],
)
def test_frame_time_is_read_from_known_fields(data: str, milliseconds: float | None) -> None:
    expected = [20.0, milliseconds, 10.0] if milliseconds else [20.0, 10.0]
    assert frame_times(['{"fps":50}', data, '{"fps":100}']) == expected


def test_upper_edges_belong_to_their_bins() -> None:
    frames = FrameTimes()
    assert frames.summary() is None
    frames.add((4.0, 4.1, 16.7, 16.8))
    frames.add((33.4, 500.0, 501.0))
    summary = frames.summary()
    assert summary is not None
    assert summary.bins == [1, 1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 1, 1]
    assert (summary.below_60_fps, summary.below_30_fps) == (4, 2)


@pytest.mark.parametrize(
    ("step", "width"), [(10, 1), (2_000, 5), (100_000, 300), (86_400_000, 604_800)]
)
def test_timeline_widens_its_bins_without_losing_events(step: int, width: int) -> None:
    bins = Timeline(["a", "b"])
    order = list(range(301))
    random.Random(1).shuffle(order)
    for number in order:
        bins.add(NOW + number * step, "abc"[number % 3])
    found = bins.bins()
    assert found.width == width
    assert len(found.columns) <= 150
    starts = [start for start, _ in found.columns]
    assert starts == [starts[0] + index * width for index in range(len(starts))]
    totals = [sum(column) for column in zip(*(counts for _, counts in found.columns), strict=True)]
    assert totals == [101, 100, 100]


def test_numbers_and_times_are_formatted() -> None:
    assert formatting.duration(350) == "0.3 s"
    assert formatting.duration(59_900) == "60 s"
    assert formatting.duration(200_000) == "3 min 20 s"
    assert formatting.duration(3_720_000) == "1 h 02 min"
    assert formatting.duration(9_999 * 365 * 86_400_000) == "3\u202f649\u202f635 days"
    for number in (2**63, float("inf"), float("nan")):
        assert formatting.duration(number) == "implausible"
    for number, text in [
        (0.004, "< 0.01"),
        (0.5, "0.5"),
        (7, "7"),
        (16.666, "16.7"),
        (99.96, "100"),
    ]:
        assert formatting.milliseconds(number) == f"{text} ms"
    assert formatting.milliseconds(1234.6) == "1\u202f235 ms"
    claimed = formatting.moment(-(2**63)).replace("\u202f", ",")
    assert claimed == "implausible: -9,223,372,036,854,775,808"
    assert formatting.between(2**63 - 2, 2**63 - 1) == "implausible"
    assert formatting.clock_time(90_000, 60) == "01-02 01:00"
    assert formatting.clock_time(90_060, 60, 90_000) == "01:01"
    assert formatting.clock_time(86_400, 60, 86_399) == "01-02 00:00"
    assert formatting.share(1, 10**9).startswith("< 0.01")
    assert formatting.share(10**9 - 1, 10**9).startswith("> 99.99")
    widths = {1: "second", 5: "5 seconds", 60: "minute", 900: "15 minutes", 3600: "hour"}
    for width, text in (widths | {86_400: "day", 1_209_600: "2 weeks"}).items():
        assert formatting.span(width) == text
