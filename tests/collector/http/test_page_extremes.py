"""The views that answer questions, about one event, none and many types, and in older browsers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry._report import Reason
from tests.support.browser import Look, expect, look
from tests.support.chromium import needs_chromium
from tests.support.collector import RunningCollector, collector_running
from tests.support.past import Past, written

__all__ = ["look"]  # a fixture

pytestmark = needs_chromium

NOW = time.time_ns() // 1_000_000
MANY_TYPES = 50


@contextlib.contextmanager
def collecting(tmp_path: Path, *sessions: dict[str, Any]) -> Iterator[RunningCollector]:
    """Run a collector that has stored these sessions; see ``Past.play``."""
    path = tmp_path / "telemetry.sqlite3"
    with written(path, NOW) as past:
        for session in sessions:
            play(past, **session)
    with collector_running(db=path) as running:
        yield running


def play(past: Past, *, id: str = "s-1", events: Any, hours: int = 1, **options: Any) -> None:
    past.now = NOW - hours * 3_600_000
    past.play(id, *events, **options)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (
            "view=field&type=aim&field=angle",
            "The only aim event with an angle has one of 7.",
        ),
        (
            "view=values&type=aim&field=weapon",
            "laser is the weapon of the only aim event with one. There is no other value.",
        ),
        (
            "view=funnel&step=aim&step=end",
            "Of 1 session with aim, 0 (0%) got to end. The only one left after aim.",
        ),
        (
            "view=funnel&step=start&step=aim",
            "Of 3 sessions with start, 1 (33.3%) got to aim. The other 2 left after start.",
        ),
        (
            "view=funnel&step=start&step=end",
            "Of 3 sessions with start, 2 (66.7%) got to end. The other one left after start.",
        ),
        (
            "view=funnel&step=end&step=aim&per=context.country",
            "Of 2 countries with end, 0 (0%) got to aim. All of them left after end.",
        ),
        (
            "view=retention&field=context.country&days=1",
            "The first day of 3 countries was too recent to see who came back.",
        ),
        (
            "view=versions&version=1.1&version=1.2&range=last 2 days",
            "1.1: 0 of 1 session crashed in the last 2 days; 100% crash-free. 1.2: no sessions.",
        ),
        (
            "view=session&session=s-1",
            "The session s-1 of 1.0 sent 2 events in 1.0 s and ended well.",
        ),
    ],
)
def test_sentences_are_right_for_few_events(
    tmp_path: Path, look: Look, address: str, sentence: str
) -> None:
    aim = ("aim", {"angle": 7, "weapon": "laser"})
    start: tuple[str, dict[str, Any]] = ("start", {})
    end: tuple[str, dict[str, Any]] = ("end", {})
    sessions = [
        {"events": [start, aim], "version": "1.0", "country": "at"},
        {"id": "s-2", "events": [start, end], "version": "1.1", "country": "be"},
        {"id": "old", "events": [("old", {})], "version": "1.2", "hours": 72},
        {"id": "s-3", "events": [start, end], "version": "1.3", "country": "cz"},
    ]
    with collecting(tmp_path, *sessions) as collector:
        page = look(f"{collector.http_url}?{address}")

        expect(page.locator(".sentence")).to_have_text(sentence)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("yesterday", "yesterday"),
        ("last hour", "in the last hour"),
        ("last 7 days", "in the last 7 days"),
        ("last 1 week", "in the last week"),
        ("last week", "last week"),
        ("2020", "in 2020"),
        ("2020-11", "in 2020-11"),
        ("2020-11-02", "on 2020-11-02"),
        ("2020-11-02 to 2020-11-04", "from 2020-11-02 to 2020-11-04"),
        ("until 2020-11-02", "until 2020-11-02"),
    ],
)
def test_range_has_its_preposition(
    collector: RunningCollector, look: Look, words: str, said: str
) -> None:
    page = look(f"{collector.http_url}?view=values&range={words}")

    expect(page.locator(".sentence")).to_have_text(f"There are no events {said}.")


def test_session_of_many_types_has_a_name_for_the_others(tmp_path: Path, look: Look) -> None:
    events = [(f"type-{n}", {}) for n in range(MANY_TYPES) for _ in range(MANY_TYPES - n)]
    with collecting(tmp_path, {"events": events}) as collector:
        page = look(f"{collector.http_url}?view=session&session=s-1")
        expect(page.locator(".remark")).to_have_text(
            "The 24 most frequent types; the table has the others."
        )
        page.get_by_text("These figures as a table").click()

        last = page.get_by_role("table", name="Events by type").locator("tbody tr").last
        expect(last.locator("th")).to_have_text("other types")
        expect(last.get_by_role("link")).to_have_count(0)


def test_event_of_a_fault_that_was_deleted_has_no_other_name(tmp_path: Path, look: Look) -> None:
    def add_fault(route: Any) -> None:
        answer = route.fetch().json()
        answer["marks"].append({"at": NOW, "kind": "fault", "text": "no hull", "arrival": 99_999})
        route.fulfill(json=answer)

    with collecting(tmp_path, {"events": [("aim", {})], "reason": Reason.STOPPED}) as collector:
        page = look(
            f"{collector.http_url}?view=session&session=s-1",
            prepare=lambda page: page.route("**/api/answers/timeline?*", add_fault),
        )
        page.get_by_role("button", name="no hull").click()

        expect(page.locator("#detail-title")).to_have_text("Event")
        expect(page.locator("#detail-facts")).to_contain_text("it was deleted")


def test_views_answer_in_a_browser_without_abort_signal_any(tmp_path: Path, look: Look) -> None:
    with collecting(tmp_path, {"events": [("aim", {"angle": 7})]}) as collector:
        page = look(
            f"{collector.http_url}?view=field",
            prepare=lambda page: page.add_init_script("delete AbortSignal.any"),
        )

        expect(page.locator(".sentence")).to_contain_text("The only aim event with an angle")


def test_long_names_stay_in_their_boxes(tmp_path: Path, look: Look) -> None:
    long = "v" * 64
    sessions = [
        {"id": f"s-{name}", "events": [("aim", {})], "version": name} for name in (long, "1")
    ]
    with collecting(tmp_path, *sessions) as collector:
        page = look(f"{collector.http_url}?view=versions", viewport={"width": 320, "height": 640})
        expect(page.locator(".sentence")).to_contain_text(long[:60])

        for label in page.locator(".check").all():
            assert label.evaluate("label => label.scrollWidth <= label.clientWidth")
            assert label.locator("input").bounding_box()["width"] > 10


def test_funnel_of_a_range_begins_with_types_that_have_a_name(tmp_path: Path, look: Look) -> None:
    events = [(name, {}) for name in ("long" * 60, "long" * 60, "aim", "hit")]
    with collecting(tmp_path, {"events": events}) as collector:
        page = look(f"{collector.http_url}?view=funnel&range=last 2 days")

        expect(page.locator(".sentence")).to_have_text(
            "Of 1 session with aim in the last 2 days, 1 (100%) got to hit."
        )
