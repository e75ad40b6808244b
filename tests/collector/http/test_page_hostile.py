"""Hostile events, and too many of them: the page shows them, and keeps working."""

from __future__ import annotations

import json
import re
from pathlib import Path

from websockets.sync.client import connect

from tests.support.browser import (
    OFFER,
    WIDE,
    Look,
    event_text,
    expect,
    look,
    rows,
    send,
    send_events,
)
from tests.support.chromium import needs_chromium
from tests.support.collector import RunningCollector, collector_running
from tests.support.ports import own_port

__all__ = ["look"]  # a fixture


# Hostile events.


DEEP = '{"a":' + "[" * 400 + "1" + "]" * 400 + "}"
HOSTILE = {
    "script": r'{"x": "<script>window.hacked = 1</script>"}',
    "image": r'{"x": "<img src=x onerror=\"window.hacked = 1\">"}',
    "svg": r'{"<svg onload=window.hacked=1>": "</pre></dialog><svg onload=window.hacked=1>"}',
    "link": r'{"url": "javascript:window.hacked=1", "other": "https://example.com/x.png"}',
    "bidi": '{"name": "abc\u202edcba\u2066x"}',
    "proto": r'{"__proto__": {"hacked": 1}, "constructor": {"prototype": {"hacked": 1}}}',
    "numbers": '{"big": 12345678901234567890123456789012345678901234567890, "more": 1e400, '
    '"less": -0.0, "fine": 0.1000000000000000055511151231257827}',
    "escapes": r'{"nul": "\u0000", "pair": "\ud83d\ude80"}',
    "template": r'{"x": "${window.hacked=1} {{7*7}} `"}',
    "twice": r'{"a": 1, "a": 2}',
    "empty": "{}",
    "quotes": r'{"a": "\"]}\\", "b": "\\\""}',
    "long": '{"x": "' + "A" * 100_000 + '"}',
    "deep": DEEP,
    "wide": WIDE,
}


def without_spaces(text: str) -> str:
    return re.sub(r"\s", "", text)


@needs_chromium
def test_hostile_data_is_shown_exactly_and_does_nothing(
    collector: RunningCollector, look: Look
) -> None:
    page = look(collector.http_url)
    events = [
        event_text(data, seq=number, type=name)
        for number, (name, data) in enumerate(HOSTILE.items(), start=1)
    ]
    send(collector, *(f"[{event}]" for event in events))
    assert collector.stats().events == len(HOSTILE)
    expect(rows(page)).to_have_count(len(HOSTILE))

    for name, data in HOSTILE.items():
        page.locator(f'#events button:has(.type bdi:text-is("{name}"))').click()
        expect(page.locator("#detail-title")).to_have_text(name)
        shown = page.locator("#detail-text").evaluate("node => node.textContent")
        sent = data.replace("\u202e", r"\u202e").replace("\u2066", r"\u2066")
        assert without_spaces(shown) == without_spaces(sent), name
        page.keyboard.press("Escape")
        expect(page.locator("#detail")).to_be_hidden()

    assert page.evaluate("window.hacked === undefined && ({}).hacked === undefined")
    assert page.locator("#events :is(script, img, svg, a, iframe)").count() == 0


@needs_chromium
def test_hostile_names_are_shown_and_do_nothing(collector: RunningCollector, look: Look) -> None:
    names = [
        "<img src=x onerror=window.hacked=1>",
        "__proto__",
        "constructor",
        "hasOwnProperty",
        "\u202etxt.exe",
        "a\x00b",
        "../../etc/passwd?x=1&y=2#z",
        "%2e%2e%2f",
        "'; DROP TABLE events; --",
        "x" * 1000,
        "\u0300" * 200,
        "\U0001f680" * 40,
    ]
    events: list[str] = []
    for number, name in enumerate(names):
        fields = {"type": name, "sessionId": name, "id": name}
        events += [
            event_text(**fields, version=name, timestamp=-(2**62)),
            event_text(**fields, seq=7, timestamp=2**62 + number),
        ]
    send_events(collector, *events)
    assert collector.stats().events == 2 * len(names)
    page = look(collector.http_url)

    expect(rows(page)).to_have_count(2 * len(names))
    expect(page.locator("#sessions tr")).to_have_count(len(names))
    expect(page.locator("#events")).to_contain_text(r"\u202etxt.exe")
    expect(page.locator("#events")).to_contain_text(r"a\u0000b")
    for name in names[:9]:
        link = page.locator("#sessions tr").filter(has_text=shown_start_of(name)).locator("button")
        link.first.click()
        expect(page.locator("#detail")).to_contain_text("2 to 6")
        page.keyboard.press("Escape")
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    assert page.evaluate("window.hacked === undefined && ({}).hacked === undefined")


@needs_chromium
def test_absurd_numbers_are_within_their_places(collector: RunningCollector, look: Look) -> None:
    largest = 2**63 - 1
    names = ("p50Ms", "p95Ms", "p99Ms", "maxMs")
    times = json.dumps(
        dict.fromkeys(names, 1e15) | {"seconds": 1e15, "frames": 10**12, "hitches": 10**12}
    )
    for number in range(1, 4):
        fields = {"sessionId": f"{number}" * 900, "version": "9" * 900, "type": "frames"}
        send_events(
            collector,
            event_text(times, **fields, seq=largest - number, timestamp=largest),
            event_text(times, **fields, seq=number, timestamp=-largest - 1),
            event_text(times, **fields, seq=2**53 + number, timestamp=2**53 + number),
        )
    send(collector, '[{"type": "crash", "timestamp": 99999999999999999999999}]')
    page = look(collector.http_url)
    expect(page.locator("#frames tr")).to_have_count(1)
    expect(rows(page)).to_have_count(9)
    expect(page.locator("#rejected li")).to_have_count(1)

    for width in (1500, 1100, 620, 320):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        pushed = page.evaluate(
            """[...document.querySelectorAll('.tiles > div, #events button, #rejected button')]
                .filter(each => each.scrollWidth > each.clientWidth).length"""
        )
        assert pushed == 0, width
    page.locator("#sessions button").first.click()
    expect(page.locator("#detail-facts")).to_contain_text("durationimplausible")
    inside = "e => e.scrollWidth <= e.clientWidth"
    assert page.locator("#detail").evaluate(inside)
    assert page.locator("#detail-facts").evaluate(inside)


def shown_start_of(name: str) -> str:
    return name[:12].replace("\u202e", r"\u202e").replace("\x00", r"\u0000")


@needs_chromium
def test_hostile_filter_is_only_text(collector: RunningCollector, look: Look) -> None:
    send_events(collector, event_text('{"a": "<b>&x=1#?%00</b>"}', type="odd"))
    page = look(f"{collector.http_url}?text=%3Cb%3E%26x%3D1%23%3F%2500&type=&session=")

    expect(rows(page)).to_have_count(1)
    expect(page.get_by_label("Text in the data")).to_have_value("<b>&x=1#?%00")


# Many events, and long runs.


@needs_chromium
def test_page_shows_a_sample_of_a_flood_and_bounds_its_rows(
    collector: RunningCollector, look: Look
) -> None:
    page = look(collector.http_url)
    note = page.locator("#events-note")
    is_sampled, seq = False, 0
    with connect(collector.url, additional_headers=OFFER) as websocket:
        while rows(page).count() < 200 or not is_sampled:
            assert seq < 500_000
            batch = [event_text('{"x": 1}', seq=seq + n) for n in range(1, 301)]
            websocket.send(f"[{','.join(batch)}]")
            seq += len(batch)
            share = re.fullmatch(r"showing ([\d,]+) of ([\d,]+) in the last 5 s", note.inner_text())
            is_sampled = is_sampled or share is not None
        websocket.send(f"[{event_text(seq=seq + 1)}]")
        expect(rows(page).first).to_contain_text(f"#{seq + 1:,}")
        expect(page.locator("#tile-events")).to_have_text(f"{seq + 1:,}")
    assert rows(page).count() == 200


@needs_chromium
def test_many_types_share_a_color(collector: RunningCollector, look: Look) -> None:
    page = look(collector.http_url)
    send_events(collector, *(event_text(seq=n, type=f"type-{n:04}") for n in range(1, 3001)))

    expect(page.locator("#legend li")).to_have_count(9)
    expect(page.locator("#legend li").last).to_contain_text("other types")
    expect(page.locator("#legend li").last).to_contain_text("2,992")


@needs_chromium
def test_page_reconnects_to_a_restarted_collector(tmp_path: Path, look: Look) -> None:
    options = {"port": own_port(), "db": tmp_path / "telemetry.sqlite3"}
    with collector_running(**options) as collector:
        page = look(collector.http_url, faults_allowed="ERR_|Failed to load")
        send_events(collector, event_text(seq=1))
        expect(rows(page)).to_have_count(1)
    expect(page.locator("#connection")).to_have_text("reconnecting")

    with collector_running(**options) as collector:
        expect(page.locator("#connection")).to_have_text("live")
        send_events(collector, event_text(seq=2))
        expect(rows(page)).to_have_count(2)
