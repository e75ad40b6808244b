"""The live page, in a real browser, with real clients sending to a real collector."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry.cli._outcomes import OUTCOMES, is_harmless
from redvsblue_telemetry.cli.report import health
from tests.support import REPOSITORY
from tests.support.browser import Look, event_text, expect, look, rows, send, send_events
from tests.support.chromium import needs_chromium
from tests.support.collector import RunningCollector
from tests.support.wait import wait_until

__all__ = ["look"]  # a fixture


@pytest.fixture
def game(collector: RunningCollector) -> Iterator[Telemetry]:
    """An SDK client that sends to the collector."""
    settings = TelemetrySettings(
        enabled=True, url=collector.url, drain_interval=0.05, version="1.4.2"
    )
    telemetry = Telemetry(settings).start()
    yield telemetry
    telemetry.stop(timeout=5)


# The files, and the data that they request.


class Elements(HTMLParser):
    """Collects the elements of a page and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_page_has_no_inline_code_and_loads_only_files_of_the_collector(
    collector: RunningCollector,
) -> None:
    answer = collector.get("/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    elements = Elements(answer.body.decode()).found
    for tag, attributes in elements:
        assert tag != "style"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            if (link := attributes.get(name)) and not link.startswith("data:image/"):
                assert not link.startswith("/"), "it would not be found under a proxy's prefix"
                assert collector.get(f"/{link}").status == 200, link
    assert [a.get("src") for tag, a in elements if tag == "script"] == ["static/app.js"]


def test_scripts_and_styles_have_their_media_types(collector: RunningCollector) -> None:
    script, style = collector.get("/static/app.js"), collector.get("/static/app.css")
    assert script.headers["Content-Type"].startswith("text/javascript")
    assert style.headers["Content-Type"].startswith("text/css")
    assert not re.search(rb"^(import|export)\b", script.body, re.MULTILINE), "another request"
    assert collector.get("/static/../app.py").status == 404
    assert collector.get("/static/index.html").status == 404


def test_scripts_never_turn_text_into_html() -> None:
    folder = REPOSITORY / "redvsblue_telemetry" / "collector" / "static"
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc"
    scripts = list(folder.rglob("*.js"))
    assert scripts
    for script in scripts:
        assert not re.search(sinks, script.read_text("utf-8")), script.name


def test_page_has_the_words_of_the_commands_for_outcomes_and_causes() -> None:
    script = REPOSITORY / "redvsblue_telemetry" / "collector" / "static" / "outcome.js"
    outcomes, _, causes = script.read_text("utf-8").partition("const CAUSES")
    entries = re.findall(r'\["(\w+)", \["(.)", "([\w ]+)"', outcomes)

    assert {outcome: (mark, word) for outcome, mark, word in entries} == OUTCOMES
    known = set(re.findall(r'^  \["(\w+)", "', causes, re.MULTILINE))
    assert known == health._CAUSES.keys()
    harmless = re.search(r"HARMLESS = new Set\(\[(.*?)\]\)", causes)
    assert harmless
    assert set(re.findall(r'"(\w+)"', harmless[1])) == {c for c in known if is_harmless(c)}


EXACT = '{"big": 12345678901234567890, "inf": 1e400, "a": 1, "a": 2, "line": "\\n",\n"x": "\u202e"}'


def test_data_is_given_as_text_on_request(collector: RunningCollector) -> None:
    send_events(collector, event_text(EXACT))

    (event,) = collector.get("/api/events?data=text").json()["events"]
    assert event["data"] == EXACT
    for given in ("/api/events", "/api/events?data=json"):
        (event,) = collector.get(given).json()["events"]
        assert event["data"]["a"] == 2


@pytest.mark.parametrize("path", ["/api/events", "/api/live"])
def test_data_is_given_as_json_or_text_only(collector: RunningCollector, path: str) -> None:
    answer = collector.get(f"{path}?data=html")
    assert answer.status == 400
    assert "json or text" in answer.json()["error"]


# The page.


@needs_chromium
def test_empty_page_shows_three_lines_that_send_the_first_event(
    collector: RunningCollector, look: Look, tmp_path: Path
) -> None:
    page = look(collector.http_url)
    snippet = page.locator("#snippet")
    expect(snippet).to_be_visible()
    lines = snippet.inner_text()
    assert len(lines.splitlines()) == 3

    program = tmp_path / "three_lines.py"
    program.write_text(lines, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program], env={"PYTHONPATH": str(REPOSITORY)}, timeout=30, check=False
    )

    assert done.returncode == 0
    expect(rows(page).first).to_contain_text("hello")
    expect(rows(page).first).to_contain_text('"my game"')
    expect(snippet).to_be_hidden()


@needs_chromium
def test_events_of_a_game_appear_as_they_arrive(
    collector: RunningCollector, game: Telemetry, look: Look
) -> None:
    page = look(collector.http_url)
    expect(page.locator("#connection")).to_have_text("live")

    game.emit("ship_hit", {"shipId": "red-3", "damage": 12})
    game.emit("round_end", winner="red")

    expect(rows(page)).to_have_count(2)
    expect(rows(page).nth(0)).to_contain_text("round_end")
    expect(rows(page).nth(1)).to_contain_text('shipId "red-3"')
    expect(rows(page).nth(1)).to_contain_text("#1")
    expect(page.locator("#tile-events")).to_have_text("2")
    expect(page.locator("#tile-connections")).to_have_text("1")
    expect(page.locator("#legend")).to_contain_text("ship_hit")
    session = page.locator("#sessions tr")
    expect(session).to_have_count(1)
    expect(session).to_contain_text("1.4.2")
    expect(session).to_contain_text("running since")
    assert game.stop(timeout=5)
    expect(page.locator("#tile-connections")).to_have_text("0")


@needs_chromium
def test_page_shows_events_from_before_it_was_opened(
    collector: RunningCollector, look: Look
) -> None:
    events = [event_text(f'{{"number": {n}}}', seq=n, type=f"type-{n % 3}") for n in range(1, 151)]
    send_events(collector, *events)

    page = look(collector.http_url)

    expect(rows(page)).to_have_count(100)
    numbers = page.locator("#events .seq").all_inner_texts()
    assert numbers == [f"#{number}" for number in range(150, 50, -1)]


@needs_chromium
def test_filters_are_applied_by_the_collector_and_kept_in_the_url(
    collector: RunningCollector, look: Look
) -> None:
    page = look(collector.http_url)
    send_events(
        collector,
        event_text('{"shipId": "red-3"}', sessionId="one", seq=1, type="hit"),
        event_text('{"shipId": "blue-1"}', sessionId="one", seq=2, type="hit"),
        event_text('{"shipId": "red-3"}', sessionId="two", seq=1, type="lost"),
    )
    expect(rows(page)).to_have_count(3)

    page.get_by_label("Type", exact=True).fill("hit")
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(2)
    page.get_by_label("Text in the data").fill("red-3")
    expect(rows(page)).to_have_count(1)
    expect(rows(page).first).to_contain_text("red-3")
    assert "type=hit" in page.url
    assert "text=red-3" in page.url

    # New events are filtered, too.
    send_events(
        collector,
        event_text('{"shipId": "red-3", "new": 1}', sessionId="one", seq=3, type="hit"),
        event_text('{"shipId": "red-3", "new": 2}', sessionId="one", seq=4, type="lost"),
    )
    expect(rows(page)).to_have_count(2)
    expect(rows(page).first).to_contain_text("new 1")

    page.reload()
    expect(rows(page)).to_have_count(2)
    expect(page.get_by_label("Type", exact=True)).to_have_value("hit")
    page.get_by_role("button", name="Clear").click()
    expect(rows(page)).to_have_count(5)
    page.get_by_role("searchbox", name="Session").fill("two")
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(1)


@needs_chromium
def test_legend_filters_by_type(collector: RunningCollector, look: Look) -> None:
    page = look(collector.http_url)
    send_events(collector, event_text(seq=1, type="hit"), event_text(seq=2, type="lost"))

    page.locator("#legend").get_by_role("button", name="lost").click()

    expect(page.get_by_label("Type", exact=True)).to_have_value("lost")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("lost")


@needs_chromium
def test_paused_list_does_not_change_until_it_is_resumed(
    collector: RunningCollector, look: Look
) -> None:
    page = look(collector.http_url)
    send_events(collector, event_text(seq=1))
    expect(rows(page)).to_have_count(1)
    page.get_by_role("button", name="Pause").click()

    send_events(collector, event_text(seq=2), event_text(seq=3))

    expect(page.locator("#events-note")).to_have_text("paused: 2 new events")
    expect(rows(page)).to_have_count(1)
    page.get_by_role("button", name="Resume").click()
    expect(rows(page)).to_have_count(3)


@needs_chromium
def test_list_does_not_change_under_the_pointer(collector: RunningCollector, look: Look) -> None:
    page = look(collector.http_url)
    send_events(collector, event_text(seq=1))
    rows(page).first.hover()

    send_events(collector, event_text(seq=2))

    expect(page.locator("#events-note")).to_have_text("paused while you use the list: 1 new event")
    expect(rows(page)).to_have_count(1)
    page.mouse.move(5, 5)
    expect(rows(page)).to_have_count(2)


@needs_chromium
def test_session_shows_its_loss_repeats_and_gaps(collector: RunningCollector, look: Look) -> None:
    events = [event_text(seq=seq, sessionId="lossy", type="hit") for seq in (1, 2, 5, 6, 9, 9, 2)]
    send_events(collector, *events)
    page = look(collector.http_url)

    cells = page.locator("#sessions tr td")
    expect(cells.nth(1)).to_have_text("5")
    expect(cells.nth(2)).to_have_text("4 (44.4%)4 unexplained")
    expect(page.locator("#tile-repeats")).to_have_text("2")
    page.locator("#sessions button").click()
    detail = page.locator("#detail")
    expect(detail).to_contain_text("3 to 4  unexplained: no report explains it")
    expect(detail).to_contain_text("7 to 8  unexplained: no report explains it")
    expect(detail.locator("#detail-facts div").filter(has_text="repeats")).to_have_text("repeats2")
    detail.get_by_role("button", name="Show only this session").click()
    expect(detail).to_be_hidden()
    expect(page.get_by_role("searchbox", name="Session")).to_have_value("lossy")


@needs_chromium
def test_rejected_parts_are_shown_with_the_reason(collector: RunningCollector, look: Look) -> None:
    page = look(collector.http_url)
    send(collector, '[{"type": "<img src=x onerror=alert(1)>", "timestamp": "yesterday"}]')

    part = page.locator("#rejected li")
    expect(part).to_have_count(1)
    expect(part).to_contain_text(collector.rejected[0].reason)
    part.locator("button").click()
    expect(page.locator("#detail-text")).to_contain_text("<img src=x onerror=alert(1)>")
    page.keyboard.press("Escape")
    send(collector, "nonsense \u202e\x1b[31m")
    expect(part).to_have_count(2)
    expect(part.first).to_contain_text(r"nonsense \u202e\u001b[31m")


@needs_chromium
def test_chart_shows_the_counts_of_one_second(collector: RunningCollector, look: Look) -> None:
    page = look(collector.http_url)
    send_events(collector, *(event_text(seq=n, type=f"type-{n % 2}") for n in range(1, 11)))
    expect(page.locator("#legend li")).to_have_count(2)
    chart = page.locator("#chart")
    expect(chart).to_be_visible()

    chart.focus()
    status = page.locator("#chart-status")

    def second_before_has(text: str) -> bool:
        page.keyboard.press("ArrowLeft")
        return text in status.inner_text()

    assert wait_until(lambda: second_before_has("10 events, type-0 5, type-1 5"))
    expect(page.locator("#chart-tip")).to_contain_text("type-0")
    page.keyboard.press("Escape")
    expect(page.locator("#chart-tip")).to_be_hidden()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 30, box["y"] + 60)
    expect(page.locator("#chart-tip")).to_be_visible()


# The script.


@needs_chromium
@pytest.mark.parametrize("has_styles", [True, False])
def test_page_says_that_its_script_did_not_load(
    collector: RunningCollector, look: Look, has_styles: bool
) -> None:
    page = look("about:blank", faults_allowed=".")
    page.route("**/static/app.js", lambda route: route.abort())
    if not has_styles:
        page.route("**/*.css", lambda route: route.abort())
    page.goto(collector.http_url)
    line = page.locator("#not-loaded")
    expect(line).to_be_visible()
    expect(line).to_contain_text("did not load")
    for link in line.locator("a").all():
        assert collector.get(f"/{link.get_attribute('href')}").status == 200
    page.unroute_all()
    page.reload()
    expect(page.locator("#connection")).to_have_text("live")
    expect(line).to_be_hidden()
    page.close()
