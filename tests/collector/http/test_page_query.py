"""The SQL view of the page, in a real browser."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from redvsblue_telemetry._report import Reason
from redvsblue_telemetry.collector.storage.views import views
from tests.collector.storage.test_views import documented
from tests.support import REPOSITORY
from tests.support.axe import findings
from tests.support.browser import Look, expect, look
from tests.support.chromium import needs_chromium
from tests.support.collector import RunningCollector, collector_running
from tests.support.past import written

__all__ = ["look"]  # a fixture

SCRIPT = REPOSITORY / "redvsblue_telemetry" / "collector" / "static" / "views" / "query.js"
NOW = time.time_ns() // 1_000_000
HOSTILE = "<img src=x onerror=alert(1)>\u202e"
BAD_REQUEST = "status of 400"
UNAVAILABLE = "status of 503"

Open = Callable[..., Any]


@pytest.fixture
def played(tmp_path: Path) -> Iterator[RunningCollector]:
    path = tmp_path / "t.sqlite3"
    with written(path, NOW) as past:
        for n in range(3):
            hit = ("ship_hit", {"damage": 10 * n, "weapon": "laser"})
            reason = Reason.CRASHED if n == 0 else Reason.STOPPED
            past.play(f"session-{n}", hit, version="1.4.2", reason=reason)
        past.play("hostile", (HOSTILE, {}), version="1.4.1")
    with collector_running(db=path) as running:
        yield running


@pytest.fixture
def visit(played: RunningCollector, look: Look) -> Open:
    def visit(sql: str | None = None, **options: Any) -> Any:
        given = "" if sql is None else f"&sql={quote(sql)}"
        page = look(f"{played.http_url}?view=query{given}", timezone_id="UTC", **options)
        expect(
            sentence(page).or_(page.get_by_role("alert")).filter(visible=True).first
        ).to_have_text(re.compile(r"\.$|Try again$"))
        return page

    return visit


def sentence(page: Any) -> Any:
    return page.locator(".sentence")


def cells(page: Any) -> list[list[str]]:
    rows = page.locator(".figures tbody tr")
    return [row.locator("th, td").all_inner_texts() for row in rows.all()]


def titles(page: Any) -> list[str]:
    texts: list[str] = page.locator(".figures thead th").all_inner_texts()
    return texts


def test_columns_of_the_views_are_those_of_the_page_on_sql() -> None:
    listed = SCRIPT.read_text("utf-8").partition("const VIEWS = [")[2].partition("];")[0]
    found = {
        name: re.findall(r"\w+", re.sub(r'"\s*\+ "', "", columns))
        for name, columns in re.findall(r'\["(\w+)", (.*?)\],', listed, re.S)
    }
    assert found == documented()
    assert found.keys() == views().keys()


@needs_chromium
def test_view_begins_with_an_example_that_has_an_answer(visit: Open) -> None:
    page = visit()

    expect(sentence(page)).to_have_text("2 rows.")
    assert titles(page) == ["version", "sessions", "crashed", "percent"]
    assert cells(page) == [["1.4.1", "1", "0", "0"], ["1.4.2", "3", "1", "33.3"]]
    expect(page).to_have_url(re.compile("sql=SELECT"))


@needs_chromium
def test_each_example_works(visit: Open) -> None:
    page = visit()
    links = page.locator(".examples a")
    assert links.count() >= 5
    for at in range(links.count()):
        sql = page.get_by_label("Query").input_value()
        links.nth(at).click()
        if at:
            expect(page.get_by_label("Query")).not_to_have_value(sql)
        expect(sentence(page)).to_have_text(re.compile(r"^\d+ rows?\.$"))
        expect(page.locator(".answer")).not_to_have_attribute("aria-busy", "true")
        expect(page.get_by_role("alert").filter(visible=True)).to_have_count(0)


@needs_chromium
def test_query_is_run_by_the_keyboard_and_is_in_the_address(visit: Open) -> None:
    page = visit("SELECT 1 AS one")
    expect(sentence(page)).to_have_text("1 row.")
    box = page.get_by_label("Query")

    box.fill("SELECT type, count(*) AS n\nFROM events WHERE type = 'ship_hit'")
    box.press("Control+Enter")
    expect(page.locator(".figures thead th").first).to_have_text("type")
    assert cells(page) == [["ship_hit", "3"]]
    expect(page).to_have_url(re.compile("sql=SELECT\\+type"))

    page.go_back()
    expect(page.locator(".figures thead th")).to_have_text(["one"])
    expect(box).to_have_value("SELECT 1 AS one")
    box.fill("VALUES (NULL), (-1.5), (12345678901234567), (x'00ff')")
    page.get_by_role("button", name="Run").click()
    expect(sentence(page)).to_have_text("4 rows.")
    assert cells(page) == [["NULL"], ["-1.5"], ["12,345,678,901,234,567"], ["x'00ff'"]]


@needs_chromium
def test_hostile_texts_are_texts(visit: Open) -> None:
    page = visit(f"SELECT type, type AS [{HOSTILE}] FROM events WHERE session = 'hostile'")
    expect(sentence(page)).to_have_text("1 row.")
    shown = HOSTILE.replace("\u202e", "\\u202e")
    assert cells(page) == [[shown, shown]]
    assert titles(page) == ["type", shown]


@needs_chromium
def test_sessions_are_links_and_times_have_dates(visit: Open) -> None:
    page = visit("SELECT session, received FROM events WHERE session = 'session-1'")
    time_cell = page.locator(".figures td span")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", time_cell.get_attribute("title"))
    link = page.locator(".figures").get_by_role("link", name="session-1")
    expect(link).to_have_attribute("href", re.compile(r"\?view=session&session=session-1$"))


@needs_chromium
def test_more_rows_than_are_shown_are_said(visit: Open) -> None:
    numbers = "WITH RECURSIVE r(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM r LIMIT 1200)"
    page = visit(f"{numbers} SELECT x FROM r")
    expect(sentence(page)).to_have_text("The first 1,000 rows; there are more.")
    expect(page.locator(".figures tbody tr")).to_have_count(1000)


@needs_chromium
def test_rows_are_saved_as_csv(visit: Open, tmp_path: Path) -> None:
    page = visit("SELECT session, '=1' AS formula FROM sessions ORDER BY session LIMIT 2")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="CSV").click()
    waiting.value.save_as(tmp_path / "rows.csv")
    assert waiting.value.suggested_filename == "query.csv"
    with open(tmp_path / "rows.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["session", "formula"],
            ["hostile", "'=1"],
            ["session-0", "'=1"],
        ]


@needs_chromium
def test_wrong_query_is_explained_and_can_be_corrected(visit: Open) -> None:
    page = visit("SELECT * FROM types", faults_allowed=BAD_REQUEST)
    problem = page.locator(".problem")
    expect(problem).to_contain_text("The table types can't be read; there are events, sessions")
    expect(page.locator(".figures")).to_be_empty()
    box = page.get_by_label("Query")
    box.fill("SELECT 2 AS two")
    box.press("Control+Enter")
    expect(problem).to_be_hidden()
    expect(sentence(page)).to_have_text("1 row.")


@needs_chromium
@pytest.mark.parametrize(
    "options",
    [{}, {"color_scheme": "dark"}, {"viewport": {"width": 320, "height": 700}}],
    ids=["light", "dark", "narrow"],
)
def test_view_is_accessible_and_fits(visit: Open, options: dict[str, Any]) -> None:
    page = visit("SELECT * FROM events, sessions LIMIT 5", **options)
    expect(sentence(page)).to_have_text("5 rows.")
    page.get_by_text("Columns of the views").click()

    assert findings(page) == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"]
