"""The page over a lake, in a real browser."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from tests.cluster.view.test_answers import GROUPS
from tests.collector.http import test_page_answers
from tests.support.browser import Look, expect, look, rows
from tests.support.chromium import needs_chromium
from tests.support.collector import collector_running
from tests.support.lake import append, copy_database, numbered
from tests.support.past import written
from tests.support.view import view_running

__all__ = ["look"]  # a fixture


def row_of(page: Any, session: str) -> Any:
    return page.locator("#sessions tr").filter(has_text=session)


@needs_chromium
def test_page_shows_the_lake_and_what_comes(tmp_path: Path, look: Look) -> None:
    lake = Lake.open(str(tmp_path))
    claim = lake.claim("stream", [0])
    now = time.time_ns() // 1_000_000
    messages = [read_message(each) for group in GROUPS for each in group.messages]
    append(lake, claim, 0, len(messages), *messages, at=now)
    with view_running(tmp_path) as view:
        page = look(view.http_url)
        expect(page.locator("#tile-events")).to_have_text("27")
        expect(row_of(page, "red").locator(".outcome")).to_contain_text("✕crashed")
        expect(row_of(page, "green").locator(".outcome")).to_contain_text("running since")
        expect(page.locator("#crashes")).to_contain_text("ValueError")

        append(lake, claim, 0, len(messages) + 1, numbered("new", 1, 3), at=now + 1)
        expect(rows(page).filter(has_text="played")).to_have_count(3)
        expect(page.locator("#tile-events")).to_have_text("30")
        expect(row_of(page, "new")).to_be_visible()

        row_of(page, "red").get_by_role("button").click()
        expect(page.locator("#detail-facts")).to_contain_text("crashed")
        page.goto(f"{view.http_url}?range=all")
        expect(rows(page).first).to_contain_text("played")
        page.close()  # it still asks, and a view that ends answers 503


@needs_chromium
@pytest.mark.parametrize("view", test_page_answers.VIEWS)
def test_questions_are_answered_as_over_a_database(tmp_path: Path, look: Look, view: str) -> None:
    path, lake = tmp_path / "telemetry.sqlite3", tmp_path / "lake"
    with written(path, test_page_answers.YESTERDAY) as past:
        test_page_answers.tell(past)
    with contextlib.closing(Database(path)) as database:
        copy_database(database, lake)
    texts = []
    with collector_running(db=path) as collector, view_running(lake) as viewing:
        for server in (collector, viewing):
            page = look(f"{server.http_url}?view={view}", timezone_id="UTC")
            test_page_answers.settled(page)
            texts.append(page.locator(".answer").inner_text())
    assert texts[1] == texts[0]
    assert len(texts[0]) > 100
