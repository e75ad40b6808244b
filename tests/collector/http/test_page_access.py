"""The live page is for everybody who may see it: keyboards, narrow windows, dark rooms, tokens."""

from __future__ import annotations

import pytest

from redvsblue_telemetry import Telemetry, TelemetrySettings
from tests.support.browser import (
    WIDE,
    Look,
    browser,
    event_text,
    expect,
    game,
    look,
    needs_chromium,
    rows,
    send,
    send_events,
)
from tests.support.collector import RunningCollector, collector_running

__all__ = ["browser", "game", "look"]  # fixtures


# For everybody.


@needs_chromium
def test_keyboard_reaches_an_event_and_comes_back(collector: RunningCollector, look: Look) -> None:
    send_events(collector, *(event_text(f'{{"n": {n}}}', seq=n) for n in range(1, 6)))
    page = look(collector.url)
    expect(rows(page)).to_have_count(5)

    page.get_by_label("Text in the data").focus()
    page.keyboard.press("Tab")
    expect(rows(page).nth(0).locator("button")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(rows(page).nth(1).locator("button")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#detail-text")).to_contain_text('"n": 4')
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    expect(rows(page).nth(1).locator("button")).to_be_focused()


@needs_chromium
@pytest.mark.parametrize("width", [320, 400, 800, 1600])
def test_page_fits_the_window(collector: RunningCollector, look: Look, width: int) -> None:
    events = [
        event_text(WIDE if n == 3 else '{"key": "value"}', seq=n * 3, type="t" * n * 9)
        for n in range(1, 12)
    ]
    send_events(collector, *events)
    send(collector, "nonsense" * 100)
    page = look(collector.url, viewport={"width": width, "height": 800})
    expect(rows(page)).to_have_count(11)
    expect(page.locator("#rejected li")).to_have_count(1)

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    rows(page).nth(8).locator("button").click()
    expect(page.locator("#detail-text")).to_contain_text("key9999")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_from_their_ground(
    collector: RunningCollector, look: Look, scheme: str
) -> None:
    page = look(collector.url, color_scheme=scheme)

    colours = page.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          const names = ["ground", "panel", "hover", "text", "quiet", "accent", "good", "bad",
            "bad-ground", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"];
          return Object.fromEntries(names.map(n => [n, style.getPropertyValue("--" + n).trim()]));
        }"""
    )

    for ground in ("ground", "panel", "hover"):
        for name in ("text", "quiet", "accent", "good", "bad"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    assert contrast(colours["bad"], colours["bad-ground"]) >= 4.5
    for number in range(9):  # what is no text: WCAG 2.1, 1.4.11
        assert contrast(colours[f"c{number}"], colours["panel"]) >= 2.9, number
    assert (luminance(colours["ground"]) > 0.5) == (scheme == "light")


def luminance(colour: str) -> float:
    """As WCAG 2.1 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@needs_chromium
def test_page_works_behind_a_token(look: Look) -> None:
    with collector_running(token="secret-token") as collector:
        page = look(collector.url, http_credentials={"username": "me", "password": "secret-token"})
        settings = TelemetrySettings(
            enabled=True, url=collector.ws_url, token="secret-token", drain_interval=0.05
        )
        telemetry = Telemetry(settings).start()
        telemetry.emit("hit")
        assert telemetry.stop(timeout=5)
        expect(rows(page)).to_have_count(1)


@needs_chromium
def test_page_works_with_the_token_in_its_address(look: Look) -> None:
    with collector_running(token="secret-token") as collector:
        page = look(collector.url.replace("://", "://me:secret-token@"))
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator("#snippet")).to_be_visible()
        assert "secret-token" not in page.locator("#snippet").inner_text()
