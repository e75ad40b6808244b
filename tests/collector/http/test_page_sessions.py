"""The live page on sessions as a whole: outcomes, losses, context, crashes, frames and sampling."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry._report import Reason, Report, State, encode_report
from tests.support.browser import OFFER, Look, event_text, expect, look, rows, send, send_events
from tests.support.chromium import needs_chromium
from tests.support.collector import RunningCollector, collector_running

__all__ = ["look"]  # a fixture

pytestmark = needs_chromium

NOW = time.time_ns() // 1_000_000
MINUTE = 60_000


def report_text(session: str, **fields: Any) -> str:
    """Return the report of a session that has ended well, unless the fields say otherwise."""
    ended = {"number": 1, "state": State.ENDED, "reason": Reason.STOPPED, "started_at": NOW}
    return encode_report(Report(session_id=session, **(ended | {"at": NOW} | fields))).decode()


def some_events(session: str, *numbers: int, **fields: Any) -> str:
    texts = [event_text(sessionId=session, seq=n, timestamp=NOW, **fields) for n in numbers]
    return f"[{','.join(texts)}]"


def row_of(page: Any, session: str) -> Any:
    return page.locator("#sessions tr").filter(has_text=session)


# Outcomes and losses.


def test_each_session_shows_its_outcome_by_a_word_and_a_mark(
    collector: RunningCollector, look: Look
) -> None:
    reasons = {
        Reason.STOPPED: "✓ended well",
        Reason.EXIT: "✓ended well",
        Reason.CRASHED: "✕crashed",
        Reason.KILLED: "■killed",
        Reason.SWITCHED_OFF: "–switched off",
    }
    for reason in reasons:
        send(collector, some_events(reason, 1), report_text(reason, reason=reason, last_seq=1))
    page = look(collector.http_url)
    with connect(collector.url, additional_headers=OFFER) as game:
        game.send(some_events("playing", 1))

        expect(row_of(page, "playing").locator(".outcome")).to_contain_text("●running since ")
        for reason, shown in reasons.items():
            expect(row_of(page, reason).locator(".outcome")).to_contain_text(f"{shown} ")
        expect(page.locator("#sessions-note")).to_have_text(
            "1 running, 1 crashed, 1 killed, 1 switched off, 2 ended well"
        )
        expect(page.locator("#tile-free")).to_have_text("60%")
        expect(page.locator("#tile-free-note")).to_have_text("of 5 ended: 1 crashed, 1 killed")
    # It never said that it ended, so nobody knows yet.
    expect(row_of(page, "playing").locator(".outcome")).to_contain_text("○running since ")


def test_session_without_word_for_five_minutes_says_so(tmp_path: Path, look: Look) -> None:
    db = tmp_path / "telemetry.sqlite3"
    with collector_running(db=db) as collector:
        send(collector, some_events("lost", 1), some_events("quiet", 1))
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        for session, minutes in (("lost", 6), ("quiet", 1)):
            connection.execute(
                "UPDATE sessions SET last_received = last_received - ? WHERE session_id = ?",
                (minutes * MINUTE, session),
            )
    with collector_running(db=db) as collector:
        page = look(collector.http_url)

        expect(row_of(page, "lost").locator(".outcome")).to_contain_text("?no word ")
        expect(row_of(page, "quiet").locator(".outcome")).to_contain_text("○running since ")
        expect(page.locator("#sessions-note")).to_have_text("1 running, 1 without word")
        page.close()


def test_session_that_only_reported_is_shown(collector: RunningCollector, look: Look) -> None:
    send(collector, report_text("silent", reason=Reason.KILLED))
    page = look(collector.http_url)

    expect(row_of(page, "silent").locator(".outcome")).to_contain_text("killed")
    row_of(page, "silent").get_by_role("button").click()
    expect(page.locator("#detail-facts")).to_contain_text("the next start reported it")
    expect(page.locator("#detail-facts")).not_to_contain_text("first event")


def test_missing_events_are_shown_with_their_causes(
    collector: RunningCollector, look: Look
) -> None:
    gaps = [(2, 4, "overflow"), (6, 6, "filtered")]
    send(
        collector,
        some_events("lossy", 1, 5, 7, 9),
        report_text("lossy", last_seq=9, emitted=9, delivered=4, gaps=gaps),
    )
    page = look(collector.http_url)

    missing = row_of(page, "lossy").locator("td").nth(2)
    expect(missing).to_have_text("5 (55.6%)3 overflow, 1 filtered, 1 unexplained")
    expect(missing).to_have_class("bad")
    expect(page.locator("#tile-missing")).to_have_text("5")
    row_of(page, "lossy").get_by_role("button").click()
    text = page.locator("#detail-text")
    expect(text).to_contain_text("2 to 4  overflow: the game's store was full")
    expect(text).to_contain_text("6       filtered: before_send left the event out")
    expect(text).to_contain_text("8       unexplained: no report explains it")


def test_events_that_a_game_filters_are_no_alarm(collector: RunningCollector, look: Look) -> None:
    send(
        collector,
        some_events("careful", 1, 4),
        report_text("careful", last_seq=4, gaps=[(2, 3, "filtered")]),
    )
    page = look(collector.http_url)

    missing = row_of(page, "careful").locator("td").nth(2)
    expect(missing).to_have_text("2 (50%)2 filtered")
    expect(missing).not_to_have_class("bad")
    expect(page.locator("#tile-missing-note")).to_have_text("2 filtered")
    expect(page.locator("#tile-missing")).to_have_attribute("data-bad", "false")


def test_versions_show_their_crash_free_share(collector: RunningCollector, look: Look) -> None:
    ends = {"2.0": [Reason.STOPPED] * 3 + [Reason.CRASHED], "1.9": [Reason.EXIT]}
    for version, reasons in ends.items():
        for number, reason in enumerate(reasons):
            session = f"{version}-{number}"
            send(
                collector,
                some_events(session, 1, version=version),
                report_text(session, reason=reason, version=version, last_seq=1),
            )
    page = look(collector.http_url)

    expect(page.locator("#tile-free-note")).to_have_text("of 5 ended: 1 crashed")
    version = page.locator("#versions tr")
    expect(version.filter(has_text="2.0").locator("td")).to_have_text(["4", "1", "0", "75%"])
    expect(version.filter(has_text="1.9").locator("td")).to_have_text(["1", "0", "0", "100%"])


def test_sampled_types_show_estimated_totals(collector: RunningCollector, look: Look) -> None:
    sampled = {"bullet_fired": 997, "particle": 50}
    send(
        collector,
        some_events("sampling", 1, 2, 3, type="bullet_fired"),
        report_text("sampling", last_seq=3, sampled=sampled),
    )
    page = look(collector.http_url)

    expect(page.locator("#sampled tr").nth(0)).to_have_text("bullet_firedabout 1,00030.3%")
    expect(page.locator("#sampled tr").nth(1)).to_have_text("particleabout 5000%")
    expect(page.locator("#tile-events-note")).to_have_text("about 1,050 before sampling")
    row_of(page, "sampling").get_by_role("button").click()
    expect(page.locator("#detail-text")).to_contain_text(
        "997  bullet_fired: about 1,000 in all, 3 stored"
    )


def test_panels_without_anything_to_show_are_hidden(
    collector: RunningCollector, look: Look
) -> None:
    send_events(collector, event_text())
    page = look(collector.http_url)

    expect(rows(page)).to_have_count(1)
    expect(page.locator("#crashes-empty")).to_be_visible()
    for panel in ("#sampled-panel", "#frames-panel"):
        expect(page.locator(panel)).to_be_hidden()


# The context.


def test_context_filters_the_events(collector: RunningCollector, look: Look) -> None:
    page = look(collector.http_url)
    send_events(
        collector,
        event_text(seq=1, type="one", context={"player": "p-17", "level": 3}),
        event_text(seq=2, type="two", context={"player": "p-17", "level": 4}),
        event_text(seq=3, type="three", context={"player": "p, 18"}),
        event_text(seq=4, type="four"),
    )
    expect(rows(page)).to_have_count(4)
    box = page.get_by_label("Context")

    box.fill("player=p-17")
    expect(rows(page)).to_have_count(2)
    box.fill("player=p-17, level=3")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("one")
    assert "context=player%3Dp-17&context=level%3D3" in page.url

    # New events are filtered, too.
    send_events(
        collector,
        event_text(seq=5, type="five", context={"player": "p-17", "level": 4}),
        event_text(seq=6, type="six", context={"level": 3, "player": "p-17"}),
    )
    expect(rows(page)).to_have_count(2)
    expect(rows(page).first).to_contain_text("six")

    page.reload()
    expect(rows(page)).to_have_count(2)
    expect(box).to_have_value("player=p-17, level=3")
    box.fill(r"player=p\, 18")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("three")
    page.get_by_role("button", name="Clear").click()
    expect(rows(page)).to_have_count(6)
    assert "context" not in page.url


def test_unfinished_context_is_pointed_out_and_filters_nothing(
    collector: RunningCollector, look: Look
) -> None:
    page = look(collector.http_url)
    send_events(collector, event_text(seq=1), event_text(seq=2, context={"level": 3}))
    expect(rows(page)).to_have_count(2)
    box, hint = page.get_by_label("Context"), page.locator("#context-hint")

    for text in ("level", "=3", "level=3, player", "level=3, level=4"):
        box.fill(text)
        page.keyboard.press("Enter")
        expect(hint).to_be_visible()
        expect(box).to_have_attribute("aria-invalid", "true")
    box.fill("level=3")
    page.keyboard.press("Enter")
    expect(hint).to_be_hidden()
    expect(box).to_have_attribute("aria-invalid", "false")
    expect(rows(page)).to_have_count(1)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('"p-17"', "p-17"),
        ('"a, b=c\\\\ \\"d\\" \\u00e9&=#?%"', 'a, b=c\\ "d" é&=#?%'),
        ("12345678901234567890", "12345678901234567890"),
        ('["a", 1.0]', '["a", 1.0]'),
        ("null", "null"),
    ],
)
def test_click_on_a_context_field_filters_by_it(
    collector: RunningCollector, look: Look, value: str, shown: str
) -> None:
    context = f'"context": {{"player": {value}, "level": 3}}'
    whole = event_text(seq=1, type="mine")
    send(
        collector,
        f"[{whole[:-1]}, {context}}}]",
        some_events("s", 2, 3, context={"player": "other"}),
    )
    page = look(collector.http_url)
    expect(rows(page)).to_have_count(3)

    page.locator('#events button:has(.type bdi:text-is("mine"))').click()
    fact = page.locator("#detail-facts div").filter(has_text="context: player")
    expect(fact.get_by_role("button")).to_have_text(shown)
    fact.get_by_role("button").click()

    expect(page.locator("#detail")).to_be_hidden()
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("mine")


# Crashes.

STACK = ["game.py:10 in <module>", "game.py:88 in main", "battle/physics.py:37 in resolve"]


def crash_data(message: str = "division by zero", **fields: Any) -> str:
    whole = {"exception": "ZeroDivisionError", "message": message, "stack": STACK}
    return json.dumps({**whole, "thread": "MainThread", **fields})


def test_crashes_are_grouped_and_lead_to_the_events_before(
    collector: RunningCollector, look: Look
) -> None:
    page = look(collector.http_url)
    shots = [event_text(f'{{"n": {n}}}', seq=n, sessionId="two", type="shot") for n in range(1, 31)]
    send_events(collector, event_text(crash_data("first"), seq=1, sessionId="one", type="crash"))
    send_events(
        collector,
        *shots,
        event_text(crash_data("second"), seq=31, sessionId="two", type="crash", version="1.5"),
        event_text(seq=1, sessionId="three"),
    )
    other = crash_data(exception="KeyError", stack=["other.py:1 in f"])
    send_events(collector, event_text(other, seq=32, sessionId="two", type="crash"))

    group = page.locator("#crashes li")
    expect(group).to_have_count(2)
    expect(group.nth(0)).to_contain_text("KeyError")
    for text in ("ZeroDivisionError", "second", STACK[-1], "2 times in 2 sessions · 1.5"):
        expect(group.nth(1)).to_contain_text(text)
    expect(page.locator("#crashes-note")).to_have_text("3 crashes, 2 kinds")

    group.nth(1).get_by_role("button").click()
    expect(page.locator("#detail-title")).to_have_text("ZeroDivisionError")
    assert page.locator("#detail-text").inner_text() == "\n".join(STACK)
    before = page.locator("#detail-rows li")
    assert before.locator(".seq").all_inner_texts() == [f"#{n}" for n in range(30, 10, -1)]
    before.first.get_by_role("button").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#detail-text")).to_contain_text('"n": 29')
    expect(page.locator("#detail-rows")).to_be_hidden()


def test_crash_event_of_another_shape_is_shown_as_it_is(
    collector: RunningCollector, look: Look
) -> None:
    data = ['{"stack": [1, 2]}', '{"stack": "text", "exception": 7}', "{}", '{"a": 1, "a": 2}']
    send_events(collector, *(event_text(d, seq=n, type="crash") for n, d in enumerate(data, 1)))
    page = look(collector.http_url)

    expect(page.locator("#crashes li").first).to_be_visible()
    page.locator("#crashes button").first.click()
    expect(page.locator("#detail")).to_be_visible()
    shown = page.locator("#detail-text").evaluate("node => node.textContent")
    assert "".join(shown.split()) in ["".join(text.split()) for text in data]


# Frame times.


def frames_data(p50: float, frames: int = 1800, **fields: Any) -> str:
    whole = {"seconds": 30.0, "frames": frames, "p50Ms": p50, "p95Ms": p50 + 2, "p99Ms": p50 + 5}
    return json.dumps({**whole, "maxMs": p50 + 100, "hitches": 3, **fields})


def test_frame_times_are_shown_by_version_and_over_time(
    collector: RunningCollector, look: Look
) -> None:
    page = look(collector.http_url)
    for version, p50, ago in (("1.0", 33.0, 24 * 60 * MINUTE), ("2.0", 16.5, 0)):
        send_events(
            collector,
            *(
                event_text(
                    frames_data(p50 + n * 0.25),
                    sessionId=version,
                    seq=n + 1,
                    type="frames",
                    version=version,
                    timestamp=NOW - ago - (5 - n) * 30_000,
                )
                for n in range(5)
            ),
        )
    version = page.locator("#frames tr")
    expect(version).to_have_count(2)
    old, new = version.filter(has_text="1.0"), version.filter(has_text="2.0")
    expect(new.locator("td")).to_have_text(["17.0", "19.0", "22.0", "118", "15", "2 min 30 s"])
    expect(page.locator("#frames-note")).to_have_text("2.0, 9,000 frames")
    expect(new.get_by_role("button")).to_have_attribute("aria-pressed", "true")

    page.locator("#frames-chart").focus()
    page.keyboard.press("ArrowLeft")
    status = page.locator("#frames-status")
    expect(status).to_contain_text("p50 17.5 ms, p95 19.5 ms, p99 22.5 ms")
    expect(page.locator("#frames-tip")).to_contain_text("17.5 ms")
    page.keyboard.press("ArrowLeft")
    expect(status).to_contain_text("p50 17.3 ms")
    page.keyboard.press("Escape")
    expect(page.locator("#frames-tip")).to_be_hidden()

    old.get_by_role("button").click()
    expect(page.locator("#frames-note")).to_have_text("1.0, 9,000 frames")
    page.locator("#frames-chart").focus()
    for p50 in ("34.0", "33.8", "33.5"):
        page.keyboard.press("ArrowLeft")
        expect(status).to_contain_text(f"p50 {p50} ms")
    page.keyboard.press("Escape")
    expect(old.get_by_role("button")).to_have_attribute("aria-pressed", "true")
    expect(new.get_by_role("button")).to_have_attribute("aria-pressed", "false")
    page.locator("#frames-chart").hover()
    expect(page.locator("#frames-tip")).to_contain_text("33.5 ms")


# Hostile senders, and a real game.


def test_hostile_reports_and_crashes_do_nothing(collector: RunningCollector, look: Look) -> None:
    names = [
        "<img src=x onerror=window.hacked=1>",
        "__proto__",
        "constructor",
        "\u202etxt.exe",
        "a\x00b",
        "x" * 64,
        "\U0001f680" * 30,
    ]
    for name in names:
        data = crash_data(name, exception=name, stack=[name])
        crash = event_text(data, sessionId=name, seq=9, type="crash", version=name)
        frames = event_text(
            frames_data(1e300, seconds=1e300), sessionId=name, seq=10, type="frames", version=name
        )
        report = {"last_seq": 12, "sampled": {name: 10**11}, "dropped": {name: 2**62}}
        send(
            collector,
            f"[{event_text(sessionId=name, type=name)},{crash},{frames}]",
            report_text(name, reason=name, version=name, gaps=[(2, 5, name)], **report),
        )
    page = look(collector.http_url)

    expect(page.locator("#crashes li")).to_have_count(len(names))
    expect(page.locator("#sampled tr")).to_have_count(len(names))
    expect(page.locator("#sessions tr")).to_have_count(len(names))
    expect(page.locator("#sessions")).to_contain_text(r"4 \u202etxt.exe")
    for at in range(len(names)):
        page.locator("#crashes button").nth(at).click()
        expect(page.locator("#detail-rows li")).to_have_count(1)
        page.keyboard.press("Escape")
        page.locator("#sessions button").nth(at).click()
        expect(page.locator("#detail-text")).to_contain_text("2 to 5")
        page.keyboard.press("Escape")
    for width in (1600, 800, 400, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.hacked === undefined && ({}).hacked === undefined")
    assert page.locator("main :is(script, img, iframe)").count() == 0
    links = page.locator("main a").evaluate_all("links => links.map((link) => link.href)")
    assert [link for link in links if link and not link.startswith(collector.http_url)] == []


def test_game_that_stops_is_shown_as_ended_well(collector: RunningCollector, look: Look) -> None:
    page = look(collector.http_url)
    settings = TelemetrySettings(
        enabled=True, url=collector.url, drain_interval=0.05, version="1.4.2"
    )
    telemetry = Telemetry(settings).start()
    telemetry.context(player="p-17")
    telemetry.emit("hit")
    session = page.locator("#sessions tr")
    expect(session.locator(".outcome")).to_contain_text("●running since ")
    assert telemetry.stop(timeout=5)

    expect(session.locator(".outcome")).to_contain_text("✓ended well ")
    rows(page).first.locator("button").click()
    expect(page.locator("#detail-facts")).to_contain_text("context: playerp-17")
