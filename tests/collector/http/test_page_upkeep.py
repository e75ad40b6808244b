"""The live page of a collector that is left running: the room it takes, and deleting a session."""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry.collector.storage.upkeep import Keep
from tests.support.browser import Look, event_text, expect, look, rows, send_events, serve_modules
from tests.support.chromium import needs_chromium
from tests.support.collector import PATIENCE, RunningCollector, collector_running

__all__ = ["look"]  # a fixture

pytestmark = needs_chromium

Usage = namedtuple("Usage", "total used free")  # as shutil.disk_usage returns it


def open_session(page: Any, session: str) -> None:
    page.locator("#sessions tr").filter(has_text=session).get_by_role("button").click()
    expect(page.locator("#detail")).to_be_visible()


# Room.


def test_page_shows_the_room_that_the_database_takes(look: Look, tmp_path: Path) -> None:
    keep = Keep(age=90 * 86_400, by_type={"bullet_fired": 3 * 86_400, "tick": 3600})
    options = {"db": tmp_path / "telemetry.sqlite3", "keep": keep, "max_bytes": 5_000_000_000}
    with collector_running(**options) as collector:
        send_events(collector, event_text())
        page = look(collector.http_url)

        line = page.locator("#storage")
        expect(line).to_contain_text(" of at most 5 GB · ")
        expect(line).to_contain_text(" free on the disk")
        expect(line).to_contain_text(
            "events are kept for 90 days, tick 1 h 00 min, bullet_fired 3 days"
        )
        expect(page.locator("#storage-low")).to_be_hidden()
        for width in (1500, 320):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()


STORAGE = {"usedBytes": 1_234_567_890, "fileBytes": 2_000_000_000, "diskFreeBytes": 35_000_000_000}
UNKNOWN = {"maxBytes": None, "keep": {}, "bytesPerDay": None, "daysLeft": None}


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        (
            {"bytesPerDay": 230_000_000.4, "daysLeft": 152.7},
            (
                "Database 1.2 GB (and 765 MB to be used again) · 35 GB free on the disk · 230 MB "
                "more a day · room for 152 days"
            ),
        ),
        (
            {"fileBytes": 1_234_567_890, "bytesPerDay": -5.0, "maxBytes": 999_600},
            "Database 1.2 GB of at most 1 MB · 35 GB free on the disk",
        ),
        (
            {"usedBytes": 0, "fileBytes": 0, "diskFreeBytes": 999, "daysLeft": 0.25},
            "Database 0 bytes · 999 bytes free on the disk · room for 6 h 00 min",
        ),
        (
            {"fileBytes": 0, "daysLeft": 1e9, "keep": {f"t{n}": 86_400.0 * n for n in range(2, 7)}},
            (
                "Database 1.2 GB · 35 GB free on the disk · room for more than ten years · events "
                "are kept for t2 2 days, t3 3 days, t4 4 days, 2 other types as set"
            ),
        ),
    ],
)
def test_room_is_described_in_words(
    storage: dict[str, Any], words: str, collector: RunningCollector, look: Look
) -> None:
    page = look(collector.http_url, prepare=serve_modules)
    module = "async (storage) => (await import('./static/storage.js')).storageInWords(storage)"
    assert page.evaluate(module, STORAGE | UNKNOWN | storage) == words


def test_page_warns_before_the_disk_is_full(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(100 * 10**9, 98 * 10**9, 2 * 10**9))
    with collector_running(db=tmp_path / "telemetry.sqlite3") as collector:
        send_events(collector, event_text())
        page = look(collector.http_url)

        alert = page.get_by_role("alert").filter(has_text="almost full")
        expect(alert).to_contain_text("The disk of the database is almost full: 2 GB free")
        expect(alert).to_contain_text("--max-bytes or --keep")
        page.close()


def test_session_shows_how_many_of_its_events_were_deleted(look: Look, tmp_path: Path) -> None:
    db = tmp_path / "telemetry.sqlite3"
    with collector_running(db=db) as collector:
        send_events(collector, *(event_text(seq=n, sessionId="old") for n in range(1, 11)))
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE sessions SET deleted = 9")
    connection.close()
    with collector_running(db=db) as collector:
        page = look(collector.http_url)

        expect(page.locator("#sessions tr td").nth(1)).to_have_text("109 deleted")
        open_session(page, "old")
        expect(page.locator("#detail-facts")).to_contain_text(
            "events109 of them deleted, for their age or to save room"
        )
        page.close()


# Deleting a session.


def test_session_is_deleted_after_a_question(look: Look) -> None:
    with collector_running(allow_reset=True) as collector:
        send_events(
            collector,
            *(event_text(seq=n, sessionId="person/17?x=1#é") for n in range(1, 4)),
            event_text(sessionId="other"),
        )
        page = look(collector.http_url)
        expect(rows(page)).to_have_count(4)
        open_session(page, "person/17?")

        page.get_by_role("button", name="Delete…").click()
        question = page.locator("#deletion")
        expect(question).to_have_accessible_name("Delete this session?")
        expect(question).to_contain_text("session person/17?x=1#é and its 3 stored events")
        expect(question.get_by_role("button", name="Cancel")).to_be_focused()
        page.keyboard.press("Enter")  # cancels
        expect(question).to_be_hidden()
        assert collector.stats().sessions == 2

        page.get_by_role("button", name="Delete…").click()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(question.get_by_role("status")).to_contain_text("Deleted 3 events at 20")
        expect(question).to_have_accessible_name("The session is deleted")
        expect(question.get_by_role("button", name="Delete")).to_be_hidden()
        page.keyboard.press("Enter")

        expect(page.locator("#detail")).to_be_hidden()
        expect(page.locator("#sessions tr")).to_have_count(1)
        expect(rows(page)).to_have_count(1)
        assert [event.session_id for event in collector.events] == ["other"]
        page.close()


def test_error_of_a_deletion_is_shown(look: Look) -> None:
    with collector_running(allow_reset=True) as collector:
        send_events(collector, event_text(sessionId="gone"))
        page = look(collector.http_url, faults_allowed="404")
        open_session(page, "gone")
        page.get_by_role("button", name="Delete…").click()
        assert collector.request("DELETE", "/api/sessions/gone").status == 200

        question = page.get_by_role("dialog", name="Delete this session?")
        question.get_by_role("button", name="Delete").click()
        expect(question.get_by_role("status")).to_contain_text("It could not be deleted. 404: ")
        question.get_by_role("button", name="Close").click()
        expect(page.locator("#detail")).to_be_visible()
        page.close()


@pytest.mark.parametrize(
    ("options", "is_offered"),
    [({}, False), ({"allow_reset": True}, True), ({"token": "a-secret-of-many"}, True)],
)
def test_deleting_is_offered_only_to_those_who_may(
    options: dict[str, Any], is_offered: bool, look: Look
) -> None:
    with collector_running(**options) as collector:
        token = options.get("token")
        shown = {"http_credentials": {"username": "me", "password": token}} if token else {}
        page = look(collector.http_url, **shown)
        settings = TelemetrySettings(
            enabled=True, url=collector.url, token=token, session_id="s", drain_interval=0.05
        )
        with Telemetry(settings) as telemetry:
            telemetry.emit("hit")
            assert telemetry.flush(PATIENCE)
        open_session(page, "s")
        expect(page.get_by_role("button", name="Delete…")).to_be_visible(visible=is_offered)
        page.close()
