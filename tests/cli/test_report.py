"""The report: its numbers are the database's, and nothing in it can do harm."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
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
from redvsblue_telemetry.cli.report import format as formatting
from redvsblue_telemetry.cli.report.command import report
from redvsblue_telemetry.cli.report.data import gather
from redvsblue_telemetry.cli.report.stats import Distribution, FrameTimes, Timeline, frame_time
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.collector import collector_running
from tests.support.command import (
    Terminal,
    needs_full_disk,
    needs_posix,
    run_command,
    run_command_onto_full_disk,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def event(seq: int, **fields: Any) -> dict[str, Any]:
    session = fields.pop("sessionId", "s1")
    made: dict[str, Any] = {
        "sessionId": session,
        "seq": seq,
        "type": "ship_hit",
        "timestamp": NOW + seq * 100,
        "data": {},
        "id": f"{session}-{seq}",
    }
    return made | fields


NOW = 1_800_000_000_000  # ms since the epoch; tests that compare clocks set their own


def stored(path: Path, *messages: Sequence[Any] | bytes) -> Path:
    """A database in which these messages are."""
    with contextlib.closing(Database(path)) as database, contextlib.closing(Writer(database)) as w:
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
    """What a page says, what it is made of, and whether its tags match."""

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
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}

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


# What it tells.


def test_a_report_of_all_sessions_tells_events_loss_and_repeats(db: Path) -> None:
    first = [event(n, version="1.4") for n in (1, 2, 3, 7, 9)]
    second = [event(n, sessionId="s2", type="menu") for n in range(1, 1501)]
    text = page_of(stored(db, first, first[:2], second)).text
    assert "2 Sessions" in text
    assert "1505 Events" in text
    assert "Lost: 4 events" in text
    assert "2 Repeats" in text
    assert "menu 1500 99.67%" in text
    assert "ship_hit 5 0.33%" in text
    assert re.search(r"s1 1\.4 .*? 5 4 \(44\.44%\) 4–6, 8 2", text)


def test_a_report_of_one_session_tells_of_no_other(db: Path) -> None:
    stored(db, [event(n) for n in (1, 2, 5)], [event(1, sessionId="s2", type="of_another")])
    page = page_of(db, "--session", "s1")
    assert "Session s1" in page.text
    assert "3 Events" in page.text
    assert "First missing Last missing Events 3 4 2" in page.text
    assert "of_another" not in page.text


def test_a_session_without_loss_says_so(db: Path) -> None:
    text = page_of(stored(db, [event(n) for n in range(1, 6)]), "--session", "s1").text
    assert "Loss None: all events from 1 to 5 have come." in text
    assert "0% Lost: 0 events" in text


def test_what_was_rejected_is_listed_with_its_reason(db: Path) -> None:
    text = page_of(stored(db, [event(1), {"type": 17}], b"no json")).text
    assert "2 Rejected" in text
    assert '{"type": 17}' in text
    assert "must be a JSON array of events" in text


def test_frame_times_are_told_where_events_tell_them(db: Path) -> None:
    events = [event(n, type="frame", data={"frame_time_ms": 10}) for n in range(1, 99)]
    events += [event(99, data={"frameMs": 1234.5}), event(100, data={"fps": 20})]
    text = page_of(stored(db, events)).text
    assert "100 frame times" in text
    assert "10 ms Median frame" in text
    assert "50 ms 99 of 100 frames within" in text
    assert "1234 ms Slowest frame" in text
    assert "2% Below 60 frames a second" in text


def test_a_field_that_does_not_say_its_unit_is_no_frame_time(db: Path) -> None:
    text = page_of(stored(db, [event(1, data={"dt": 16}), event(2, data={"dt": 0.016})])).text
    assert "No event tells one" in text


def test_frames_that_are_all_equal_are_all_as_long(db: Path) -> None:
    text = page_of(stored(db, [event(n, data={"frame_ms": 16.67}) for n in range(1, 20)])).text
    assert "16.7 ms Median frame 16.7 ms 99 of 100 frames within 16.7 ms Slowest frame" in text


def test_the_median_of_one_session_is_its_duration(db: Path) -> None:
    days = 8_997 * 86_400_000
    text = page_of(stored(db, [event(1, timestamp=0), event(2, timestamp=days)])).text
    assert "8997 days Median session" in text
    assert "8997 days 2 0 0" in text


def test_one_of_something_is_said_in_the_singular(db: Path) -> None:
    stored(db, [event(1, type=f"type{n}", sessionId=f"s{n}") for n in range(101)])
    text = page_of(db).text
    assert "And 1 earlier session." in text
    alone = db.with_name("alone.sqlite3")
    done = run_report(stored(alone, [event(1), event(3, type="menu", data={"fps": 60})]))
    assert done.output.endswith("report.html: 2 events of 1 session\n")
    done = run_report(stored(db.with_name("one.sqlite3"), [event(1, data={"fps": 60})]))
    assert done.output.endswith("report.html: 1 event of 1 session\n")
    assert "1 frame time, as" in db.with_name("report.html").read_text("utf-8")


def test_the_newest_sessions_are_listed_and_all_are_in_the_median(db: Path) -> None:
    for first in (0, 150):
        sessions = range(first, first + 150)
        stored(
            db,
            [
                event(n, sessionId=f"s{s}", timestamp=NOW + n * s * 1000)
                for s in sessions
                for n in (1, 2)
            ],
        )
    text = page_of(db).text
    assert "300 Sessions" in text
    assert "And 200 earlier sessions." in text
    assert re.search(r"\bs299\b.*\bs298\b.*\bs200\b", text)
    assert not re.search(r"\bs199\b", text)
    assert "2 min 29 s Median session" in text


def test_without_frame_times_it_says_how_to_send_them(db: Path) -> None:
    assert "frame_time_ms" in page_of(stored(db, [event(1)])).text


def test_an_empty_database_makes_a_page_too(db: Path) -> None:
    page = page_of(stored(db))
    assert "0 Events" in page.text
    assert page.tags["svg"] == 0


def test_a_player_whose_clock_is_wrong_by_years_does_not_stretch_the_timeline(db: Path) -> None:
    now = time.time_ns() // 1_000_000
    times = [now, now + 1000, 0, -(2**63), 2**63 - 1]
    stored(db, [event(n, timestamp=t) for n, t in enumerate(times, start=1)])
    text = page_of(db).text
    assert "stand where they arrived: 3" in text
    assert "Events per second." in text


# Whom it can't harm.

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


def test_hostile_sessions_are_reported_one_by_one(db: Path) -> None:
    hostile_database(db)
    for text in HOSTILE[:4]:
        page = page_of(db, "--session", text)
        assert "script" not in page.tags
        assert "1 Events" in page.text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_real_browser_shows_it_without_a_word_of_complaint(db: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    page_of(hostile_database(db))
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = browser.new_page()
            said: list[str] = []
            asked: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(db.with_name("report.html").as_uri())
            assert page.locator("h1").inner_text() == "Telemetry report"
            assert page.locator("svg rect").count() > 0
            assert page.locator("script, img").count() == 0
            page.set_viewport_size({"width": 360, "height": 700})
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            heights = (
                "[...document.querySelectorAll('.tick')].map(e => e.getBoundingClientRect().height)"
            )
            assert min(page.evaluate(heights)) > 7  # and so can be read
            assert (said, len(asked)) == ([], 1)
        finally:
            browser.close()


# Where it comes from and where it goes.


def test_it_can_be_made_while_a_collector_stores(db: Path) -> None:
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


def test_it_changes_nothing_in_the_database(db: Path) -> None:
    stored(db, [event(n) for n in range(1, 100)])
    before = db.read_bytes()
    page_of(db)
    assert db.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"no database at all" * 100])
def test_what_is_no_database_is_refused_and_left_alone(db: Path, content: bytes | None) -> None:
    if content is not None:
        db.write_bytes(content)
    done = run_report(db)
    assert done.exit_code == 2
    assert "database" in done.output
    assert db.exists() == (content is not None)
    assert not db.with_name("report.html").exists()


def test_a_database_of_something_else_is_refused(db: Path) -> None:
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute("CREATE TABLE t (x)")
    done = run_report(db)
    assert done.exit_code == 2
    assert "not a telemetry database" in done.output


def test_a_session_that_is_not_there_is_refused(db: Path) -> None:
    done = run_report(stored(db, [event(1)]), "--session", "\x1bno")
    assert done.exit_code == 2
    assert "no session" in done.output
    assert "\x1b" not in done.output


def test_a_session_and_all_of_them_exclude_each_other(db: Path) -> None:
    assert run_report(stored(db, [event(1)]), "--session", "s1", "--all").exit_code == 2


def test_a_page_that_can_t_be_written_leaves_nothing_behind(db: Path) -> None:
    stored(db, [event(1)])
    folder = db.with_name("missing")
    done = run_report(db, "-o", str(folder / "report.html"))
    assert done.exit_code == 2
    assert "can't be written" in done.output
    assert [path.name for path in db.parent.iterdir()] == [db.name]


def test_it_replaces_the_page_of_before_and_leaves_no_part(db: Path) -> None:
    stored(db, [event(1)])
    page_of(db)
    stored(db, [event(2)])
    assert "2 Events" in page_of(db).text
    assert not [path for path in db.parent.iterdir() if path.suffix == ".part"]


@needs_full_disk
def test_output_that_can_t_be_written_is_told_in_a_line(db: Path, tmp_path: Path) -> None:
    stored(db, [event(1)])
    for output in ("-", tmp_path / "report.html"):
        done = run_command_onto_full_disk("report", "--db", db, "-o", output)
        assert done.returncode == 2
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("Error: standard output can't be written: ")


@needs_posix
def test_a_device_is_written_to_and_not_replaced(db: Path, tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.symlink_to("/dev/null")
    done = run_report(stored(db, [event(1)]), "-o", str(device))
    assert done.exit_code == 0
    assert device.resolve() == Path("/dev/null")
    assert device.is_char_device()


def test_output_without_a_name_is_wrong_usage(db: Path) -> None:
    done = run_report(stored(db, [event(1)]), "-o", "")
    assert done.exit_code == 2
    assert "it names no file" in done.output


@needs_posix
def test_a_terminal_shows_how_far_it_is_unless_it_gets_the_page(db: Path, tmp_path: Path) -> None:
    stored(db, [event(n) for n in range(1, 10)])
    with Terminal("report", "--db", db, "-o", tmp_path / "report.html") as terminal:
        assert terminal.end() == 0
    assert b"reading" in terminal.shown
    with Terminal("report", "--db", db, "-o", "-") as terminal:
        assert terminal.end() == 0
    assert b"reading" not in terminal.shown
    assert b"</html>" in terminal.shown


def test_as_a_process_it_writes_to_a_pipe(db: Path) -> None:
    done = run_command("report", "--db", stored(db, [event(1)]), "-o", "-")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 Events" in Page(done.stdout).text


PEAK = """
import re, sys
from pathlib import Path
from redvsblue_telemetry.cli._database import open_database
from redvsblue_telemetry.cli.report.command import report
report(sys.argv[1:], standalone_mode=False)
# Not ru_maxrss, which counts what the process was forked from.
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak in /proc")
def test_many_events_need_no_more_memory_than_few(tmp_path: Path) -> None:
    peaks = []
    for count in (2_000, 80_000):
        db = tmp_path / f"{count}.sqlite3"
        chunks = range(1, count, 2_000)
        data = {"frame_time_ms": 16, "text": "y" * 200}
        stored(db, *[[event(n, data=data) for n in range(at, at + 2_000)] for at in chunks])
        done = subprocess.run(
            [sys.executable, "-c", PEAK, "--db", str(db), "-o", str(tmp_path / "r.html")],
            capture_output=True,
            text=True,
            timeout=50,
            check=True,
        )
        peaks.append(int(done.stdout.splitlines()[-1]))  # KiB
    assert peaks[1] - peaks[0] < 15_000  # the data alone is 18,000


def test_ten_times_the_sessions_take_ten_times_the_work(tmp_path: Path) -> None:
    few, many = (work_of(tmp_path / f"{count}.sqlite3", count) for count in (1_000, 10_000))
    assert many < 15 * few


def work_of(db: Path, sessions: int) -> int:
    """How many steps SQLite takes, in thousands, for a report of so many sessions."""
    stored(
        db,
        *[[event(1, sessionId=f"s{n + m}") for m in range(1000)] for n in range(0, sessions, 1000)],
    )
    steps: list[None] = []
    with open_database(db) as connection:
        connection.set_progress_handler(lambda: steps.append(None), 1000)
        assert gather(connection, None, lambda events, _: iter(events)) is not None
    return len(steps)


# Figures.


def test_shares_of_many_numbers_are_within_a_tenth_of_a_per_cent() -> None:
    dice = random.Random(5)
    values = sorted(dice.lognormvariate(2.8, 0.6) for _ in range(5001))
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        exact = values[max(0, -(-int(share * 5001 * 1000) // 1000) - 1)]
        assert distribution.quantile(share) == pytest.approx(exact, rel=0.00101)
    assert distribution.largest == values[-1]


def test_shares_of_few_numbers_are_exact_however_often_they_come() -> None:
    distribution = Distribution()
    for number in range(30_000):
        distribution.add((16.6, 16.7, 33.3)[number % 3])
    assert [distribution.quantile(share) for share in (0.3, 0.5, 0.99)] == [16.6, 16.7, 33.3]


def test_a_distribution_of_nothing_is_zero() -> None:
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
def test_a_frame_time_is_found_under_its_names(data: str, milliseconds: float | None) -> None:
    assert frame_time(msgspec.Raw(data.encode())) == milliseconds


def test_frames_are_sorted_into_bins_with_their_edges() -> None:
    frames = FrameTimes()
    for milliseconds in (4.0, 4.1, 16.7, 16.8, 33.4, 500.0, 501.0):
        frames.add(milliseconds)
    assert frames.bins == [1, 1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 1, 1]
    assert frames.slower_than(16.7) == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("step", "width"), [(10, 1), (2_000, 5), (100_000, 300), (86_400_000, 604_800)]
)
def test_a_timeline_s_bins_widen_and_lose_nothing(step: int, width: int) -> None:
    bins = Timeline(["a", "b"])
    order = list(range(301))
    random.Random(1).shuffle(order)
    for number in order:
        bins.add(NOW + number * step, "abc"[number % 3])
    assert bins.width == width
    found = bins.bins()
    assert len(found) <= 150
    assert [start for start, _ in found] == [
        found[0][0] + index * bins.width for index in range(len(found))
    ]
    assert [sum(column) for column in zip(*(counts for _, counts in found), strict=True)] == [
        101,
        100,
        100,
    ]


def test_times_and_amounts_read_well() -> None:
    assert formatting.duration(350) == "0.3 s"
    assert formatting.duration(59_900) == "60 s"
    assert formatting.duration(200_000) == "3 min 20 s"
    assert formatting.duration(3_720_000) == "1 h 02 min"
    assert formatting.duration(2**63).endswith("days")
    assert [formatting.milliseconds(time) for time in (0.004, 0.5, 7, 16.666, 99.96, 1234.6)] == [
        "< 0.01 ms",
        "0.5 ms",
        "7 ms",
        "16.7 ms",
        "100 ms",
        "1\u202f235 ms",
    ]
    assert formatting.moment(2**63 - 1) == "no such time"
    assert formatting.share(1, 10**9).startswith("< 0.01")
    assert formatting.share(10**9 - 1, 10**9).startswith("> 99.99")
    assert [formatting.span(width) for width in (1, 5, 60, 900, 3600, 86_400, 1_209_600)] == [
        "second",
        "5 seconds",
        "minute",
        "15 minutes",
        "hour",
        "day",
        "2 weeks",
    ]
