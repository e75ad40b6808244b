"""Access to the live page: by keyboard, in narrow windows, in dark mode, with a token."""

from __future__ import annotations

import re

import pytest

from redvsblue_telemetry import Telemetry, TelemetrySettings
from tests.support import REPOSITORY
from tests.support.browser import Look, event_text, expect, look, rows, send, send_events
from tests.support.chromium import needs_chromium
from tests.support.collector import RunningCollector, collector_running

__all__ = ["look"]  # a fixture


@needs_chromium
def test_keyboard_opens_an_event_and_returns_to_it(collector: RunningCollector, look: Look) -> None:
    send_events(collector, *(event_text(f'{{"n": {n}}}', seq=n) for n in range(1, 6)))
    page = look(collector.http_url)
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
def test_page_fits_the_window(collector: RunningCollector, look: Look) -> None:
    long = f'{{"key": "{"x" * 2000}", "end": 1}}'
    events = [event_text(long, seq=n * 3, type="t" * n * 9) for n in range(1, 12)]
    send_events(collector, *events)
    send(collector, "nonsense" * 100)
    page = look(collector.http_url)
    expect(rows(page)).to_have_count(11)
    expect(page.locator("#rejected li")).to_have_count(1)

    for width in (1600, 800, 400, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        rows(page).nth(8).locator("button").click()
        expect(page.locator("#detail-text")).to_contain_text('"end": 1')
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.keyboard.press("Escape")


def palette(scheme: str) -> dict[str, str]:
    """Return the colors of a scheme by name."""
    folder = REPOSITORY / "redvsblue_telemetry" / "collector" / "static"
    light, dark = (folder / "palette.css").read_text("utf-8").split("@media")
    colors = dict(re.findall(r"--([\w-]+): (#\w{6});", light))
    return (
        colors if scheme == "light" else colors | dict(re.findall(r"--([\w-]+): (#\w{6});", dark))
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_have_enough_contrast(scheme: str) -> None:
    colors = palette(scheme)

    for ground in ("ground", "panel", "hover"):
        for name in ("text", "quiet", "accent", "good", "warn", "bad"):
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
    assert contrast(colors["bad"], colors["bad-ground"]) >= 4.5
    for number in range(9):  # graphics need less than text: WCAG 2.1, 1.4.11
        assert contrast(colors[f"c{number}"], colors["panel"]) >= 2.9, number
    assert (luminance(colors["ground"]) > 0.5) == (scheme == "light")


@needs_chromium
def test_page_follows_the_color_scheme(collector: RunningCollector, look: Look) -> None:
    page = look(collector.http_url)

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        parts = [int(part) for part in re.findall(r"\d+", ground)]
        assert "#{:02x}{:02x}{:02x}".format(*parts) == palette(scheme)["ground"]


def luminance(color: str) -> float:
    """Return the relative luminance, as defined by WCAG 2.1."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@needs_chromium
def test_page_works_behind_a_token(look: Look) -> None:
    with collector_running(token="secret-token") as collector:
        page = look(
            collector.http_url, http_credentials={"username": "me", "password": "secret-token"}
        )
        settings = TelemetrySettings(
            enabled=True, url=collector.url, token="secret-token", drain_interval=0.05
        )
        telemetry = Telemetry(settings).start()
        telemetry.emit("hit")
        assert telemetry.stop(timeout=5)
        expect(rows(page)).to_have_count(1)
        page.close()


@needs_chromium
def test_page_works_with_the_token_in_its_url(look: Look) -> None:
    with collector_running(token="secret-token") as collector:
        page = look(collector.http_url.replace("://", "://me:secret-token@"))
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator("#snippet")).to_be_visible()
        assert "secret-token" not in page.locator("#snippet").inner_text()
        page.close()
