"""The page's past: a range of time that everything follows, and the address that holds it."""

from __future__ import annotations

import http.client
import http.server
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from redvsblue_telemetry._report import Reason
from redvsblue_telemetry.collector.http.joining import join
from redvsblue_telemetry.collector.http.static import MODULES
from tests.support.axe import findings
from tests.support.browser import Look, event_text, expect, look, rows, send_events
from tests.support.chromium import needs_chromium
from tests.support.collector import RunningCollector, collector_running
from tests.support.past import Past, written
from tests.support.wait import wait_until

__all__ = ["look"]  # a fixture

pytestmark = needs_chromium

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000  # milliseconds
TODAY = time.time_ns() // 1_000_000 // DAY * DAY  # midnight of UTC, where these browsers are
YESTERDAY = TODAY - DAY

Event = tuple[str, dict[str, Any]]
CRASH: Event = ("crash", {"exception": "ValueError", "message": "no hull", "stack": ["a.py:1"]})


def tell(past: Past) -> None:
    """Write what the tests ask about.

    Two days ago, three sessions of 1.4.1, one of which crashed. Yesterday, five sessions of 1.4.2,
    two of which crashed and one of which was killed, and one of 1.4.1 that ended well: at 10:00,
    11:00 and so on. Each has two hits.
    """
    hits: list[Event] = [("ship_hit", {"damage": n}) for n in range(2)]
    frames: Event = ("frames", {"seconds": 10.0, "frames": 600, "p50Ms": 16.0, "p95Ms": 17.0})
    frames[1].update(p99Ms=20.0, maxMs=30.0, hitches=1)
    for n, reason in enumerate((Reason.CRASHED, Reason.STOPPED, Reason.STOPPED)):
        past.now = YESTERDAY - DAY + (n + 1) * HOUR
        crash = [CRASH] if reason == Reason.CRASHED else []
        past.play(f"before-{n}", *hits, *crash, version="1.4.1", reason=reason, player=f"p-{n}")
    ends = (Reason.CRASHED, Reason.CRASHED, Reason.KILLED, Reason.STOPPED, Reason.EXIT)
    for n, reason in enumerate(ends):
        past.now = YESTERDAY + (10 + n) * HOUR
        crash = [CRASH] if reason == Reason.CRASHED else []
        past.play(f"day-{n}", *hits, frames, *crash, version="1.4.2", reason=reason, player="p-9")
    past.now = YESTERDAY + 20 * HOUR
    past.play("old-game", *hits, version="1.4.1", player="p-1")
    past.reject("nonsense of yesterday")


@pytest.fixture
def played(tmp_path: Path) -> Iterator[RunningCollector]:
    """A collector of a game that was played yesterday and the day before."""
    path = tmp_path / "telemetry.sqlite3"
    with written(path, YESTERDAY) as past:
        tell(past)
    with collector_running(db=path) as running:
        yield running


def version_row(page: Any, version: str) -> Any:
    return page.locator("#versions tr").filter(has_text=version)


def asked(page: Any) -> dict[str, list[str]]:
    """The parameters in the page's address."""
    return parse_qs(urlsplit(page.url).query)


def drag(page: Any, first: float, last: float) -> None:
    """Drag on the chart from one part of its width to another."""
    chart = page.locator("#past").bounding_box()
    y = chart["y"] + chart["height"] / 2
    page.mouse.move(chart["x"] + first * chart["width"], y)
    page.mouse.down()
    page.mouse.move(chart["x"] + last * chart["width"], y, steps=4)
    page.mouse.up()


EXAMPLE = """
import { make, setText } from "../text.js";

export function open(root, state, tools) {
  const line = make("p", "example"), button = make("button", "", "Ask");
  root.append(line, button);
  button.addEventListener("click", () => tools.go({ step: ["a", "b"] }));
  async function update(state) {
    const stats = await tools.request("/api/stats", state.range.query).catch(() => null);
    if (!stats) return; // another state has overtaken this one
    setText(line, `${stats.sessions} sessions, ${state.all("step").join(" then ") || "no step"}`);
  }
  update(state);
  return { update, close: () => { document.body.dataset.closed = "yes"; } };
}
"""


def add_example(page: Any) -> None:
    """Let a small view stand in for the funnel."""
    script = join(MODULES | {"views/funnel.js": EXAMPLE}, "app.js")
    page.route(
        "**/static/app.js",
        lambda route: route.fulfill(body=script, content_type="text/javascript"),
    )


# Everything follows the range.


def test_newcomer_finds_how_many_sessions_of_a_version_crashed_yesterday(
    played: RunningCollector, look: Look
) -> None:
    page = look(played.http_url)
    expect(version_row(page, "1.4.2")).to_be_visible()

    page.get_by_role("button", name="Yesterday", exact=True).click()

    cells = version_row(page, "1.4.2").locator("td")
    expect(cells).to_have_text(["5", "2", "1", "40%"])
    expect(version_row(page, "1.4.1").locator("td")).to_have_text(["1", "0", "0", "100%"])
    day = time.strftime("%b %-d", time.gmtime(YESTERDAY / 1000))
    expect(page.locator("#range-note")).to_contain_text(day)
    expect(page.get_by_role("button", name="Yesterday", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    assert asked(page) == {"range": ["yesterday"]}
    link = version_row(page, "1.4.2").get_by_role("link").get_attribute("href")
    query = {"view": ["versions"], "range": ["yesterday"], "version": ["1.4.2"]}
    assert parse_qs(urlsplit(link).query) == query


def test_all_parts_of_the_page_follow_the_range(played: RunningCollector, look: Look) -> None:
    page = look(f"{played.http_url}?range=yesterday")

    expect(page.locator("#tile-events")).to_have_text("19")
    expect(page.locator("#tile-sessions")).to_have_text("6")
    expect(page.locator("#tile-free")).to_have_text("50%")
    expect(page.locator("#tile-rejected")).to_have_text("1")
    expect(page.locator("#tile-rate")).to_be_hidden()
    expect(page.locator("#connection")).to_have_text("loaded")
    expect(page.locator("#chart-note")).to_have_text("19 events, 15 minutes each bar")
    legend = page.locator("#legend li")
    expect(legend).to_have_text(["ship_hit12", "frames5", "crash2"])
    expect(page.locator("#sessions tr")).to_have_count(6)
    expect(page.locator("#sessions")).not_to_contain_text("before-")
    expect(rows(page)).to_have_count(19)
    expect(page.locator("#crashes li")).to_contain_text("2 times in 2 sessions")
    expect(page.locator("#frames tr")).to_have_count(1)
    expect(page.locator("#rejected li")).to_contain_text("nonsense of yesterday")

    date = time.strftime("%Y-%m-%d", time.gmtime((YESTERDAY - DAY) / 1000))
    page.get_by_label("Range in words").fill(date)
    page.keyboard.press("Enter")

    expect(page.locator("#tile-events")).to_have_text("7")
    expect(page.locator("#tile-sessions")).to_have_text("3")
    expect(legend).to_have_text(["ship_hit6", "crash1"])
    expect(rows(page)).to_have_count(7)
    expect(page.locator("#sessions tr")).to_have_count(3)
    expect(page.locator("#crashes li")).to_contain_text("1 time in 1 session")
    expect(page.locator("#frames-panel")).to_be_hidden()
    expect(page.locator("#rejected li")).to_have_count(0)
    expect(version_row(page, "1.4.2")).to_have_count(0)
    assert asked(page) == {"range": [date]}


def test_filter_applies_within_the_range(played: RunningCollector, look: Look) -> None:
    page = look(f"{played.http_url}?range=yesterday")
    page.locator("#legend").get_by_role("button", name="crash").click()

    expect(rows(page)).to_have_count(2)
    assert asked(page) == {"range": ["yesterday"], "type": ["crash"]}
    page.get_by_role("button", name="All", exact=True).click()
    expect(rows(page)).to_have_count(3)
    expect(page.get_by_label("Type", exact=True)).to_have_value("crash")


def test_range_that_reaches_the_present_goes_on_with_it(
    played: RunningCollector, look: Look
) -> None:
    url = f"{played.http_url}?range=last+3+days"
    page = look(url, prepare=lambda page: page.clock.install())
    expect(page.locator("#tile-events")).to_have_text("26")
    expect(page.locator("#connection")).to_have_text("live")

    send_events(played, event_text(seq=1, type="new"))
    expect(rows(page).first).to_contain_text("new")

    def shows(text: str) -> bool:
        page.clock.run_for(1_000)
        return bool(page.locator("#tile-events").inner_text() == text)

    assert wait_until(lambda: shows("27"))
    expect(page.locator("#legend")).to_contain_text("new")


def test_range_without_anything_says_so(played: RunningCollector, look: Look) -> None:
    page = look(f"{played.http_url}?range=2001-02-03")
    nothing = page.locator("#nothing")
    expect(nothing).to_contain_text("Nothing arrived in this time")
    expect(page.locator("#empty")).to_be_hidden()
    nothing.get_by_role("link").click()
    expect(page.locator("#tile-events")).to_have_text("26")
    assert asked(page) == {"range": ["all"]}


@pytest.mark.parametrize(
    ("zone", "hour", "session"),
    [("America/Phoenix", 6.5, "night-1"), ("Asia/Tokyo", 15.5, "night-3")],
)
def test_days_are_those_of_the_viewer(
    tmp_path: Path, look: Look, zone: str, hour: float, session: str
) -> None:
    path = tmp_path / "telemetry.sqlite3"
    with written(path, YESTERDAY) as past:
        for days in (-3, -2, -1):  # half an hour before midnight there, or after it
            past.now = TODAY + days * DAY + int(hour * HOUR)
            past.play(f"night{days}", ("night", {}))
    with collector_running(db=path) as running:
        page = look(running.http_url, timezone_id=zone)
        expect(page.locator("#tile-sessions")).to_have_text("3")
        date = time.strftime("%Y-%m-%d", time.gmtime((TODAY - 2 * DAY) / 1000))
        page.get_by_label("Range in words").fill(date)
        page.keyboard.press("Enter")
        expect(page.locator("#tile-sessions")).to_have_text("1")
        expect(page.locator("#sessions tr")).to_contain_text(session)
        expect(page.locator("#chart-note")).to_contain_text(re.compile(r"\b1 event\b"))
        page.locator("#past").focus()
        page.keyboard.press("Home")
        status = page.locator("#chart-status")
        expect(status).to_contain_text("00:00 – 00:15")


# The chart of the past.


def test_part_of_the_chart_is_chosen_with_the_mouse(played: RunningCollector, look: Look) -> None:
    page = look(f"{played.http_url}?range=yesterday")
    expect(page.locator("#chart-note")).to_contain_text("19 events")

    drag(page, 0.35, 0.52)  # about 8:00 to 12:15

    expect(page.locator("#tile-sessions")).to_have_text("3")
    (start,), (end,) = asked(page)["from"], asked(page)["to"]
    assert YESTERDAY + 7 * HOUR < int(start) < YESTERDAY + 10 * HOUR
    assert YESTERDAY + 12 * HOUR <= int(end) < YESTERDAY + 13 * HOUR
    assert int(start) % (15 * MINUTE) == int(end) % (15 * MINUTE) == 0
    expect(rows(page)).to_have_count(11)
    page.reload()
    expect(page.locator("#tile-sessions")).to_have_text("3")

    page.get_by_role("button", name="Zoom out").click()
    expect(page.locator("#tile-sessions")).to_have_text("6")
    assert asked(page) == {"range": ["yesterday"]}


def test_part_of_the_chart_is_chosen_with_a_finger(played: RunningCollector, look: Look) -> None:
    page = look(f"{played.http_url}?range=yesterday", has_touch=True)
    expect(page.locator("#chart-note")).to_contain_text("19 events")
    page.locator("#past").scroll_into_view_if_needed()
    chart = page.locator("#past").bounding_box()
    finger = page.context.new_cdp_session(page)

    def touch(kind: str, *parts: float) -> None:
        y = chart["y"] + 80
        points = [{"x": chart["x"] + part * chart["width"], "y": y} for part in parts]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.35)
    for step in range(1, 9):
        touch("touchMove", 0.35 + 0.17 * step / 8)
    touch("touchEnd")

    expect(page.locator("#tile-sessions")).to_have_text("3")
    assert set(asked(page)) == {"from", "to"}


def test_part_of_the_chart_is_chosen_with_the_keyboard(
    played: RunningCollector, look: Look
) -> None:
    page = look(f"{played.http_url}?range=yesterday")
    expect(page.locator("#chart-note")).to_contain_text("19 events")
    page.locator("#past").focus()
    status = page.locator("#chart-status")

    page.keyboard.press("Home")
    for _ in range(10 * 4):
        page.keyboard.press("ArrowRight")
    expect(status).to_contain_text("10:00 – 10:15: 4 events, ship_hit 2, frames 1, crash 1")
    expect(page.locator("#past-tip")).to_contain_text("4 events")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    expect(status).to_contain_text("10:00 – 11:15: 8 events")
    expect(status).to_contain_text("Press Enter to show this range")
    page.keyboard.press("Enter")

    expect(page.locator("#tile-sessions")).to_have_text("2")
    assert asked(page) == {
        "from": [str(YESTERDAY + 10 * HOUR)],
        "to": [str(YESTERDAY + 11 * HOUR + 15 * MINUTE)],
    }
    expect(page.locator("#past-tip")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("#tile-sessions")).to_have_text("6")
    page.keyboard.press("Escape")  # around yesterday: the day before, and what there is of today
    expect(page.locator("#tile-sessions")).to_have_text("9")


def test_selection_is_given_up_with_escape(played: RunningCollector, look: Look) -> None:
    page = look(f"{played.http_url}?range=yesterday")
    expect(page.locator("#chart-note")).to_contain_text("19 events")
    page.locator("#past").focus()
    page.keyboard.press("End")
    page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator("#past-tip")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#past-tip")).to_be_hidden()
    page.keyboard.press("Enter")
    assert asked(page) == {"range": ["yesterday"]}


def test_past_of_a_year_is_drawn_with_few_bars(tmp_path: Path, look: Look) -> None:
    path = tmp_path / "telemetry.sqlite3"
    with written(path, TODAY) as past:
        for days in (400, 200, 1):
            past.now = TODAY - days * DAY
            past.play(f"s-{days}", ("a", {}), ("b", {}))
    with collector_running(db=path) as running:
        page = look(f"{running.http_url}?range=all")
        expect(page.locator("#chart-note")).to_have_text("6 events, 7 days each bar")
        page.locator("#past").focus()
        page.keyboard.press("Home")
        expect(page.locator("#chart-status")).to_contain_text("2 events, a 1, b 1")


# The address.


def test_back_and_forward_restore_range_filter_and_view(
    played: RunningCollector, look: Look
) -> None:
    page = look(played.http_url, prepare=add_example)
    expect(page.locator("#tile-events")).to_have_text("26")
    page.get_by_role("button", name="Yesterday", exact=True).click()
    expect(page.locator("#tile-events")).to_have_text("19")
    page.locator("#legend").get_by_role("button", name="frames").click()
    expect(rows(page)).to_have_count(5)
    page.get_by_role("link", name="Funnel").click()
    expect(page.locator("#overview")).to_be_hidden()
    assert asked(page) == {"view": ["funnel"], "range": ["yesterday"]}

    page.go_back()
    expect(rows(page)).to_have_count(5)
    expect(page.get_by_label("Type", exact=True)).to_have_value("frames")
    page.go_back()
    expect(rows(page)).to_have_count(19)
    expect(page.get_by_label("Type", exact=True)).to_have_value("")
    page.go_back()
    expect(page.locator("#tile-events")).to_have_text("26")
    expect(page.locator("#chart")).to_be_visible()
    expect(page.locator("#connection")).to_have_text("live")
    page.go_forward()
    expect(page.locator("#tile-events")).to_have_text("19")
    expect(page.locator("#past")).to_be_visible()


def test_words_that_are_not_a_range_are_refused_with_what_is(
    played: RunningCollector, look: Look
) -> None:
    page = look(f"{played.http_url}?range=yesterday", faults_allowed="status of 400")
    expect(page.locator("#tile-events")).to_have_text("19")
    box, error = page.get_by_label("Range in words"), page.locator("#range-error")

    box.fill("the other day")
    page.keyboard.press("Enter")

    expect(error).to_contain_text("the other day")
    expect(error).to_contain_text("last 24 hours")
    expect(box).to_have_attribute("aria-invalid", "true")
    assert asked(page) == {"range": ["yesterday"]}
    expect(page.locator("#tile-events")).to_have_text("19")
    box.fill("last 3 days")
    page.keyboard.press("Enter")
    expect(page.locator("#tile-events")).to_have_text("26")
    expect(error).to_be_hidden()


@pytest.mark.parametrize("query", ["range=the+other+day", "from=today"])
def test_address_with_a_wrong_range_shows_no_figures(
    played: RunningCollector, look: Look, query: str
) -> None:
    page = look(f"{played.http_url}?{query}", faults_allowed="status of 400")
    expect(page.locator("#range-error")).to_contain_text("day")
    expect(page.locator("#overview")).to_be_hidden()
    page.get_by_role("button", name="Live").click()
    expect(page.locator("#tile-events")).to_have_text("26")


@pytest.mark.parametrize("name", ["../app", "nothing", "__proto__"])
def test_unknown_view_in_the_address_opens_the_overview(
    collector: RunningCollector, look: Look, name: str
) -> None:
    page = look(f"{collector.http_url}?view={name}")
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#overview")).to_be_visible()


def test_view_gets_the_range_and_its_parameters(played: RunningCollector, look: Look) -> None:
    page = look(f"{played.http_url}?range=yesterday&type=crash", prepare=add_example)
    expect(rows(page)).to_have_count(2)
    page.get_by_role("link", name="Funnel").click()

    line = page.locator(".example")
    expect(line).to_have_text("6 sessions, no step")
    assert asked(page) == {"view": ["funnel"], "range": ["yesterday"]}
    assert page.title().startswith("Funnel")
    expect(page.get_by_role("link", name="Funnel")).to_have_attribute("aria-current", "page")
    page.get_by_role("button", name="Ask").click()
    expect(line).to_have_text("6 sessions, a then b")
    assert asked(page)["step"] == ["a", "b"]
    page.get_by_role("button", name="All", exact=True).click()
    expect(line).to_have_text("9 sessions, a then b")
    expect(page.locator("#connection")).to_have_text("loaded")
    page.get_by_role("link", name="Overview").click()
    expect(line).to_have_count(0)
    assert page.evaluate("document.body.dataset.closed") == "yes"
    expect(page.locator("#tile-sessions")).to_have_text("9")


# Events back to the first.


@pytest.mark.parametrize("query", ["", "range=all"])
def test_events_are_paged_back_to_the_first(
    collector: RunningCollector, look: Look, query: str
) -> None:
    send_events(collector, *(event_text(seq=n) for n in range(1, 251)))
    page = look(f"{collector.http_url}?{query}")
    expect(rows(page)).to_have_count(100)
    older, end = page.get_by_role("button", name="Older events"), page.locator("#events-end")

    older.focus()
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(200)
    expect(rows(page).nth(100).get_by_role("button")).to_be_focused()
    expect(end).to_be_hidden()
    older.click()
    expect(rows(page)).to_have_count(250)
    expect(rows(page).last).to_contain_text("#1")
    expect(end).to_be_visible()
    expect(older).to_be_hidden()
    assert page.locator("#events .seq").all_inner_texts() == [f"#{n}" for n in range(250, 0, -1)]

    send_events(collector, event_text(seq=251))
    expect(page.locator("#events-note")).to_have_text("older events: 1 new event")
    expect(rows(page).first).to_contain_text("#250")
    page.get_by_role("button", name="Back to the newest").click()
    expect(rows(page).first).to_contain_text("#251")
    expect(rows(page)).to_have_count(100)
    expect(end).to_be_hidden()


def test_list_of_older_events_stays_small(
    collector: RunningCollector, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_events(collector, *(event_text(seq=n) for n in range(1, 1251)))
    page = look(f"{collector.http_url}?range=all")
    older = page.get_by_role("button", name="Older events")
    for _ in range(12):
        first = rows(page).last.inner_text()
        older.click()
        expect(rows(page).last).not_to_have_text(first)
    expect(page.locator("#events-end")).to_be_visible()
    expect(rows(page)).to_have_count(1000)
    expect(rows(page).last).to_contain_text("#1")


def test_few_events_have_no_older_ones(collector: RunningCollector, look: Look) -> None:
    send_events(collector, *(event_text(seq=n) for n in range(1, 4)))
    page = look(collector.http_url)
    expect(rows(page)).to_have_count(3)
    expect(page.get_by_role("button", name="Older events")).to_be_hidden()


# Faults.


def test_part_that_cannot_be_shown_says_why(played: RunningCollector, look: Look) -> None:
    busy = '{"error": "the collector is busy"}'

    def refuse(page: Any) -> None:
        page.route("**/api/versions?**", lambda route: route.fulfill(status=503, body=busy))

    url = f"{played.http_url}?range=yesterday"
    page = look(url, prepare=refuse, faults_allowed="status of 503")

    panel = page.locator("#versions-panel")
    expect(panel).to_contain_text("Can't be shown: the collector is busy")
    expect(panel.locator("table")).to_be_hidden()
    expect(page.locator("#tile-sessions")).to_have_text("6")
    page.unroute_all()
    expect(version_row(page, "1.4.2").locator("td").nth(1)).to_have_text("2")
    expect(panel.locator(".failure")).to_be_hidden()


def test_late_answer_for_the_range_before_is_not_shown(
    played: RunningCollector, look: Look
) -> None:
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    of_everything = re.compile(r"/api/(stats|versions\?limit=30|history\?offset=0)$")
    url = f"{played.http_url}?range=all"
    page = look(url, prepare=lambda page: page.route(of_everything, hold))
    assert wait_until(lambda: page.wait_for_timeout(10) or len(held) == 3)
    page.get_by_role("button", name="Yesterday", exact=True).click()
    expect(page.locator("#tile-events")).to_have_text("19")

    for route in held:
        route.continue_()
    expect(rows(page)).to_have_count(19)
    page.get_by_label("Type", exact=True).fill("crash")
    expect(rows(page)).to_have_count(2)  # the late answers have arrived before these
    expect(page.locator("#tile-events")).to_have_text("19")
    expect(version_row(page, "1.4.2").locator("td").nth(0)).to_have_text("5")
    expect(page.locator("#chart-note")).to_contain_text("19 events")


def test_page_waits_for_a_collector_that_is_away(played: RunningCollector, look: Look) -> None:

    def refuse(page: Any) -> None:
        page.route("**/api/range?**", lambda route: route.abort())

    url = f"{played.http_url}?range=yesterday"
    page = look(url, prepare=refuse, faults_allowed="ERR_FAILED")
    expect(page.locator("#connection")).to_have_text("reconnecting")
    page.unroute_all()
    expect(page.locator("#tile-events")).to_have_text("19")


# Behind a prefix, and how it looks.


class _Prefix(http.server.BaseHTTPRequestHandler):
    """A proxy that passes on all below ``/t/``, without the prefix."""

    protocol_version = "HTTP/1.0"
    port = 0

    def do_GET(self) -> None:
        if not self.path.startswith("/t/"):
            self.send_error(404)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.port, 30)
        upstream.request("GET", self.path[2:], headers=dict(self.headers))
        answer = upstream.getresponse()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        try:
            while part := answer.read1():
                self.wfile.write(part)
                self.wfile.flush()
        except OSError:
            pass  # the page is gone
        finally:
            upstream.close()

    def log_message(self, *_: Any) -> None:
        pass


def test_page_works_behind_a_prefix(played: RunningCollector, look: Look) -> None:
    handler = type("Handler", (_Prefix,), {"port": played.port})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        page = look(f"http://127.0.0.1:{server.server_port}/t/")
        expect(page.locator("#tile-events")).to_have_text("26")
        page.get_by_role("button", name="Yesterday", exact=True).click()
        expect(page.locator("#tile-events")).to_have_text("19")
        assert urlsplit(page.url).path == "/t/"
        page.get_by_role("link", name="Funnel").click()
        expect(page.locator("#overview")).to_be_hidden()
        assert urlsplit(page.url).path == "/t/"
        page.get_by_role("link", name="Overview").click()
        expect(page.locator("#tile-events")).to_have_text("19")
        page.close()
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)


@pytest.mark.parametrize("view", [Path(name).stem for name in MODULES if name.startswith("views/")])
def test_page_is_one_script_and_one_style_sheet(
    played: RunningCollector, look: Look, view: str
) -> None:
    """Nothing that a view needs waits for the request of something else."""
    asked: list[str] = []

    def listen(page: Any) -> None:
        page.on("request", lambda request: asked.append(urlsplit(request.url).path))

    page = look(f"{played.http_url}?view={view}&range=yesterday", prepare=listen)
    expect(page.locator("#view h2, #tile-events").first).not_to_be_empty()
    assert [path for path in asked if not path.startswith("/api/")] == [
        "/",
        "/static/app.css",
        "/static/app.js",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 700, 1400])
@pytest.mark.parametrize("query", ["", "range=yesterday", "range=2001"])
def test_page_is_accessible_and_fits(
    played: RunningCollector, look: Look, scheme: str, width: int, query: str
) -> None:
    page = look(
        f"{played.http_url}?{query}",
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        reduced_motion="reduce",
    )
    events = {"": "26", "range=yesterday": "19", "range=2001": "0"}[query]
    expect(page.locator("#tile-events")).to_have_text(events)
    expect(page.locator("#overview")).not_to_have_attribute("data-loading", "true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert findings(page) == []
