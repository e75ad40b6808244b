"""The live page on times and numbers: dates of other days, and values that no game should send."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.browser import (
    Look,
    event_text,
    expect,
    look,
    rows,
    send,
    send_events,
    serve_modules,
)
from tests.support.chromium import needs_chromium
from tests.support.collector import RunningCollector

__all__ = ["look"]  # a fixture

pytestmark = needs_chromium

NOW = 1_795_868_100_000  # 2026-11-28T12:15:00Z
HOUR = 3_600_000
DAY = 24 * HOUR
MAX = 2**63 - 1


def look_at(look: Look, collector: RunningCollector, now: int = NOW) -> Any:
    """Open the page where it is seven in the morning."""
    page = look(collector.http_url, timezone_id="America/New_York")
    page.clock.set_fixed_time(now / 1000)
    page.reload()
    expect(rows(page).first).to_be_visible()
    return page


def row_of(page: Any, session: str) -> Any:
    return page.locator("#sessions tr").filter(has_text=session)


def times(page: Any) -> list[tuple[str, str]]:
    """Return the time and its title in each row of the list, and check that none is cut off."""
    cells = page.locator("#events .time").evaluate_all(
        "cells => cells.map(each => [each.textContent, each.title, each.scrollWidth])"
    )
    assert all(width <= 152 for *_, width in cells)
    return [(text, title) for text, title, _ in cells]


def test_times_of_other_days_have_a_date_and_of_other_years_the_year(
    collector: RunningCollector, look: Look
) -> None:
    ages = [400 * DAY, 2 * DAY, 13 * HOUR, HOUR]
    send_events(
        collector,
        *(event_text(seq=n, timestamp=NOW - age + 5) for n, age in enumerate(ages, start=1)),
    )
    page = look_at(look, collector)

    assert times(page) == [
        ("06:15:00.005", "2026-11-28T11:15:00.005Z"),
        ("Nov 27, 18:15:00.005", "2026-11-27T23:15:00.005Z"),
        ("Nov 26, 07:15:00.005", "2026-11-26T12:15:00.005Z"),
        ("Oct 24, 2025, 08:15:00", "2025-10-24T12:15:00.005Z"),
    ]
    for width in (1500, 400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator("#events .time").evaluate_all(
            "cells => cells.every(each => each.scrollWidth <= each.clientWidth)"
        )
    outcome = page.locator("#sessions .outcome")
    expect(outcome).to_contain_text("running since Oct 24, 2025, 08:15")
    assert "2025-10-24T12:15:00.005Z" in outcome.get_attribute("title")


def test_rows_get_a_date_when_their_day_is_over(collector: RunningCollector, look: Look) -> None:
    send_events(collector, event_text(seq=1, timestamp=NOW))
    page = look_at(look, collector)
    assert times(page)[0][0] == "07:15:00.000"

    page.clock.set_fixed_time((NOW + DAY) / 1000)
    send_events(collector, event_text(seq=2, timestamp=NOW + DAY))

    expect(rows(page)).to_have_count(2)
    assert [text for text, _ in times(page)] == ["07:15:00.000", "Nov 28, 07:15:00.000"]


def test_rejected_parts_of_another_day_have_a_date(collector: RunningCollector, look: Look) -> None:
    send_events(collector, event_text())
    send(collector, "nonsense")
    received = collector.rejected[0].received
    page = look_at(look, collector, now=received + 40 * DAY)

    time = page.locator("#rejected .time")
    expect(time).to_have_class("time dated")
    assert time.get_attribute("title").startswith("20")
    assert time.evaluate("each => each.scrollWidth <= each.clientWidth")


def test_times_that_no_date_can_show_are_shown_as_numbers(
    collector: RunningCollector, look: Look
) -> None:
    odd = [-(2**63), MAX, 253_402_300_800_000, -62_135_596_800_001]
    send_events(
        collector,
        *(event_text(seq=n, timestamp=time, sessionId=f"odd-{n}") for n, time in enumerate(odd)),
        event_text(seq=1, timestamp=NOW, sessionId="fine"),
        event_text(seq=2, timestamp=NOW + 90_000, sessionId="fine"),
    )
    page = look_at(look, collector)

    shown = page.locator("#events .time").all_inner_texts()
    assert shown == [
        "07:16:30.000",
        "07:15:00.000",
        *(f"implausible: {time:,}" for time in reversed(odd)),
    ]
    expect(row_of(page, "odd-1").locator("td").nth(0)).to_have_text("implausible")
    expect(row_of(page, "fine").locator("td").nth(0)).to_have_text("1 min 30 s")
    row_of(page, "odd-1").get_by_role("button").click()
    detail = page.locator("#detail-facts")
    expect(detail).to_contain_text("implausible: 9,223,372,036,854,775,807 ms since 1970")
    expect(detail).to_contain_text("durationimplausible")
    page.keyboard.press("Escape")
    rows(page).last.locator("button").click()
    expect(detail).to_contain_text("implausible: -9,223,372,036,854,775,808 ms since 1970")


def test_session_with_absurd_numbers_does_not_drown_the_sum(
    collector: RunningCollector, look: Look
) -> None:
    send_events(
        collector,
        event_text(seq=MAX, sessionId="huge", timestamp=NOW),
        event_text(seq=4, sessionId="fine", timestamp=NOW),
    )
    page = look_at(look, collector)
    note = page.locator("#tile-missing-note")

    expect(page.locator("#tile-missing")).to_have_text("3")
    expect(note).to_have_text(
        "not counted: 1 session that claims 9,223,372,036,854,775,806 numbers"
    )
    send_events(collector, event_text(seq=MAX, sessionId="second", timestamp=NOW))
    expect(note).to_have_text(
        "not counted: 2 sessions that claim 18,446,744,073,709,551,612 numbers"
    )
    expect(page.locator("#tile-missing")).to_have_text("3")


LABELS = """async (peak) => {
    const { drawScale, LEFT } = await import("./static/canvas.js");
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = "11.5px sans-serif";
    const labels = [];
    pen.fillText = (text, x, y, limit) => labels.push([text, pen.measureText(text).width, limit]);
    drawScale({ pen, width: 500, height: 200, color: () => "#000000" }, peak);
    return { room: LEFT - 8, labels };
}"""


@pytest.mark.parametrize(
    ("peak", "top"),
    [
        (3, "4"),
        (9_999, "10K"),
        (800_000, "800K"),
        (2_500_000, "3M"),
        (999_999_999_999, "1T"),
        (2**63, "1e19"),
        (1e15, "1e15"),
    ],
)
def test_scale_of_a_chart_has_whole_labels_at_any_size(
    peak: float, top: str, collector: RunningCollector, look: Look
) -> None:
    page = look(collector.http_url, prepare=serve_modules)
    drawn = page.evaluate(LABELS, peak)

    texts = [text for text, *_ in drawn["labels"]]
    assert (texts[0], texts[-1]) == ("0", top)
    assert len(texts) == len(set(texts))
    for text, width, limit in drawn["labels"]:
        assert limit < drawn["room"], text
        assert width < limit * 1.3, text  # narrower letters, which can still be read


def test_numbers_are_shown_digit_by_digit_and_push_nothing_out(
    collector: RunningCollector, look: Look
) -> None:
    send_events(
        collector,
        event_text(seq=1, sessionId="huge", timestamp=NOW),
        event_text(seq=MAX, sessionId="huge", timestamp=NOW),
        event_text(seq=2**53 + 1, sessionId="large", timestamp=NOW),
        event_text(seq=1, sessionId="fine", timestamp=NOW),
        event_text(seq=3, sessionId="fine", timestamp=NOW),
    )
    page = look_at(look, collector)

    numbers = page.locator("#events .seq").all_inner_texts()
    assert numbers == ["#3", "#1", "#9,007,199,254,740,993", f"#{MAX:,}", "#1"]
    missing = row_of(page, "huge").locator("td").nth(2).locator("span")
    expect(missing.first).to_have_text("9,223,372,036,854,775,805 (100%)")
    expect(missing.first).to_have_attribute("title", "9,223,372,036,854,775,805 (100%)")
    expect(row_of(page, "fine").locator("td").nth(2)).to_have_text("1 (33.3%)1 unexplained")
    row_of(page, "huge").get_by_role("button").click()
    expect(page.locator("#detail-text")).to_contain_text(f"2 to {MAX - 1} ")
    expect(page.locator("#detail-facts")).to_contain_text(f"highest sequence number{MAX:,}")
    page.keyboard.press("Escape")

    for width in (1500, 1100, 800, 400, 320):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for part in ("#events", ".scroll.sessions"):
            scrolls = page.locator(part).evaluate("e => e.scrollWidth > e.clientWidth")
            assert not scrolls, (part, width)
    type_ = rows(page).nth(3).locator(".type")
    assert type_.bounding_box()["width"] > 20
