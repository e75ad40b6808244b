"""The live page on events that do not fit the collector's schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Look, event_text, expect, look, rows, send_events
from tests.support.chromium import needs_chromium
from tests.support.collector import RunningCollector, collector_running

__all__ = ["look"]  # a fixture

pytestmark = needs_chromium

HIT = {
    "type": "object",
    "properties": {"damage": {"type": "integer"}, "ship": {"type": "string"}},
    "required": ["damage"],
    "additionalProperties": False,
}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Events",
    "oneOf": [
        {
            "title": "hit",
            "type": "object",
            "properties": {"type": {"const": "hit"}, "data": {"$ref": "#/$defs/Hit"}},
            "required": ["type", "data"],
        }
    ],
    "$defs": {"Hit": HIT},
}
GOOD, WRONG, UNKNOWN = '{"damage":12}', '{"damage":"12"}', "no such type of event"


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[RunningCollector]:
    """A collector with a schema."""
    schema = tmp_path / "events.schema.json"
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
    with collector_running(db=tmp_path / "telemetry.sqlite3", schema=schema) as running:
        yield running


def hit(seq: int, data: str, **fields: Any) -> str:
    return event_text(data, seq=seq, type="hit", **fields)


def fault_of(collector: RunningCollector, type: str) -> str:
    """Return the only fault of a type, as the API has it."""
    groups = collector.get("/api/faults").json()["faults"]
    (fault,) = [group["fault"] for group in groups if group["type"] == type]
    return str(fault)


def test_page_without_faults_does_not_mention_them(collector: RunningCollector, look: Look) -> None:
    page = look(collector.http_url)
    send_events(collector, hit(1, GOOD))

    expect(page.locator("#tile-events")).to_have_text("1")
    for part in ("#faults-tile", "#faults-panel", "#faults-filter"):
        expect(page.locator(part)).to_be_hidden()
    expect(rows(page).locator(".fault")).to_have_count(0)


def test_faults_are_counted_marked_and_grouped(collector: RunningCollector, look: Look) -> None:
    page = look(collector.http_url)
    send_events(
        collector,
        hit(1, GOOD, sessionId="one", version="1.4"),
        hit(2, WRONG, sessionId="one", version="1.4"),
        hit(1, '{"damage":"13"}', sessionId="two", version="1.5"),
        event_text(seq=2, sessionId="two", version="1.5", type="htis"),
    )
    fault = fault_of(collector, "hit")

    # As they arrive, and after a reload.
    for _ in range(2):
        expect(page.locator("#tile-faults")).to_have_text("3")
        expect(page.locator("#tile-faults-note")).to_have_text("75% of the events")
        expect(rows(page)).to_have_count(4)
        marked = rows(page).filter(has=page.locator(".fault"))
        expect(marked).to_have_count(3)
        expect(marked.nth(0)).to_contain_text(f"≠fault: {UNKNOWN}")
        expect(marked.nth(1)).to_contain_text(f'≠fault: {fault}damage "13"')
        expect(page.locator("#faults-note")).to_have_text("3 events, 2 kinds")
        group = page.locator("#faults li")
        expect(group).to_have_count(2)
        for text in ("htis", UNKNOWN, "1 time in 1 session · 1.5"):
            expect(group.nth(0)).to_contain_text(text)
        for text in ("hit", fault, "2 times in 2 sessions · 1.5, 1.4"):
            expect(group.nth(1)).to_contain_text(text)
        page.reload()

    # One more of a kind moves the group to the top, and counts.
    send_events(collector, hit(9, WRONG, sessionId="one", version="1.4"))
    expect(group.nth(0)).to_contain_text("3 times in 2 sessions · 1.4, 1.5")
    expect(page.locator("#tile-faults")).to_have_text("4")


def test_group_leads_to_its_newest_event_and_to_all_of_them(
    collector: RunningCollector, look: Look
) -> None:
    page = look(collector.http_url)
    send_events(
        collector,
        hit(1, GOOD),
        hit(2, WRONG),
        hit(3, '{"ship":"red-3"}'),
        hit(4, '{"damage":"99"}', context={"player": "p-17"}),
        event_text(seq=5, type="htis"),
    )
    expect(rows(page)).to_have_count(5)
    group = page.locator("#faults button").filter(has_text="2 times")
    group.focus()
    page.keyboard.press("Enter")

    expect(page.locator("#detail-title")).to_have_text("hit")
    expect(page.locator("#detail-text")).to_contain_text('"damage": "99"')
    expect(page.locator("#detail-facts")).to_contain_text("times2")
    expect(page.locator("#detail-facts")).to_contain_text("context: playerp-17")
    page.get_by_role("button", name="Show only these events").click()
    expect(page.locator("#detail")).to_be_hidden()
    expect(rows(page).locator(".seq")).to_have_text(["#4", "#2"])

    # New events are filtered, too.
    send_events(collector, hit(6, GOOD), hit(7, WRONG), hit(8, '{"ship":"red-3"}'))
    expect(rows(page).locator(".seq")).to_have_text(["#7", "#4", "#2"])
    page.reload()
    expect(rows(page).locator(".seq")).to_have_text(["#7", "#4", "#2"])


def test_filter_finds_events_by_their_fault(collector: RunningCollector, look: Look) -> None:
    page = look(f"{collector.http_url}?fault=any")
    send_events(collector, hit(1, GOOD), hit(2, WRONG), event_text(seq=3, type="htis"))
    box, numbers = page.get_by_label("Fault", exact=True), rows(page).locator(".seq")

    expect(box).to_have_value("any")
    expect(numbers).to_have_text(["#3", "#2"])
    box.fill("none")
    expect(numbers).to_have_text(["#1"])
    box.fill("DAMAGE")
    expect(numbers).to_have_text(["#2"])
    assert "fault=DAMAGE" in page.url
    page.get_by_role("button", name="Clear").click()
    expect(numbers).to_have_count(3)
    assert "fault" not in page.url


def test_event_and_session_lead_to_the_events_like_them(
    collector: RunningCollector, look: Look
) -> None:
    page = look(collector.http_url)
    send_events(
        collector,
        hit(1, GOOD, sessionId="one"),
        hit(2, WRONG, sessionId="one"),
        event_text(seq=3, sessionId="one", type="htis"),
        hit(1, WRONG, sessionId="two"),
    )
    numbers = rows(page).locator(".seq")
    expect(numbers).to_have_text(["#1", "#3", "#2", "#1"])

    numbers.nth(2).click()
    fact = page.locator("#detail-facts div").filter(has_text="fault")
    expect(fact).to_contain_text(fault_of(collector, "hit"))
    fact.get_by_role("button").click()
    expect(numbers).to_have_text(["#1", "#2"])
    page.get_by_role("button", name="Clear").click()

    page.locator("#sessions tr").filter(has_text="one").get_by_role("button").click()
    fact = page.locator("#detail-facts div").filter(has_text="faults")
    expect(fact).to_contain_text("2")
    fact.get_by_role("button").click()
    expect(numbers).to_have_text(["#3", "#2"])


def test_hostile_faults_do_nothing(collector: RunningCollector, look: Look) -> None:
    names = [
        "<img src=x onerror=window.hacked=1>",
        "__proto__",
        "\u202etxt.exe",
        "a\x00b",
        "any",
        "x" * 300,
        "\U0001f680" * 30,
    ]
    wrong = [json.dumps({"damage": 1, name: 2}) for name in names]
    send_events(collector, *(hit(n, data) for n, data in enumerate(wrong, start=1)))
    send_events(collector, *(event_text(seq=50 + n, type=each) for n, each in enumerate(names)))
    page = look(collector.http_url)

    expect(page.locator("#faults li")).to_have_count(2 * len(names))
    expect(rows(page).locator(".fault")).to_have_count(2 * len(names))
    for at in range(2 * len(names)):
        page.locator("#faults button").nth(at).click()
        page.get_by_role("button", name="Show only these events").click()
        expect(rows(page)).to_have_count(1)
    for width in (1600, 1000, 800, 400, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.hacked === undefined && ({}).hacked === undefined")
    assert page.locator("main :is(script, img, iframe)").count() == 0
    links = page.locator("main a").evaluate_all("links => links.map((link) => link.href)")
    assert [link for link in links if link and not link.startswith(collector.http_url)] == []
