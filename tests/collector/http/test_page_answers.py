"""The views that answer questions, in a real browser, about a past of known sessions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry._report import Reason
from tests.support.axe import findings
from tests.support.browser import Look, expect, look
from tests.support.chromium import needs_chromium
from tests.support.collector import RunningCollector, collector_running
from tests.support.past import Past, written

__all__ = ["look"]  # a fixture

pytestmark = needs_chromium

DAY = 86_400_000  # milliseconds
TODAY = time.time_ns() // 1_000_000 // DAY * DAY  # midnight of UTC, where these browsers are
YESTERDAY = TODAY - DAY + 12 * 3_600_000

VIEWS = ["field", "values", "funnel", "retention", "versions", "session"]
BAD_REQUEST = "status of 400"

Open = Callable[..., Any]


def hits(*damages: int, weapon: str = "laser") -> list[tuple[str, dict[str, Any]]]:
    return [("ship_hit", {"damage": damage, "weapon": weapon}) for damage in damages]


def tell(past: Past) -> None:
    """Write what the tests ask about.

    Yesterday, four sessions of 1.4.1 with damages from 1 to 20, one of which crashed; and five of
    1.4.2 with damages from 11 to 30, two of which crashed and one of which was killed. Six of the
    nine rounds ended.
    """
    past.now = YESTERDAY - 2 * DAY
    past.play("old-1", *hits(5), version="1.4.1", player="p-1")
    past.play("old-2", *hits(5), version="1.4.1", player="p-2")
    past.now = YESTERDAY - DAY
    past.play("old-3", *hits(5), version="1.4.2", reason=Reason.CRASHED, player="p-1")

    start: tuple[str, dict[str, Any]] = ("round_start", {"map": "harbor"})
    end: tuple[str, dict[str, Any]] = ("round_end", {"winner": "red"})
    crash: tuple[str, dict[str, Any]] = ("crash", {"exception": "ValueError", "message": "no hull"})
    past.now = YESTERDAY
    for n in range(4):
        damages = range(5 * n + 1, 5 * n + 6)
        last = [crash] if n == 0 else [end]
        past.play(
            f"one-{n}",
            start,
            *hits(*damages, weapon="torpedo" if n < 3 else "laser"),
            *last,
            version="1.4.1",
            reason=Reason.CRASHED if n == 0 else Reason.STOPPED,
            player=f"p-{n}",
        )
    reasons = [Reason.CRASHED, Reason.CRASHED, Reason.KILLED, Reason.STOPPED, Reason.STOPPED]
    for n, reason in enumerate(reasons):
        damages = range(4 * n + 11, 4 * n + 15)
        last = [crash] if n < 2 else [end]
        past.play(
            f"two-{n}", start, *hits(*damages), *last, version="1.4.2", reason=reason, player="p-9"
        )


@pytest.fixture
def played(tmp_path: Path) -> Iterator[RunningCollector]:
    """A collector of a game that was played yesterday and before."""
    path = tmp_path / "telemetry.sqlite3"
    with written(path, YESTERDAY) as past:
        tell(past)
    with collector_running(db=path) as running:
        yield running


@pytest.fixture
def visit(played: RunningCollector, look: Look) -> Open:
    """Open an address of the page, and wait for its answer."""

    def visit(address: str, **options: Any) -> Any:
        page = look(f"{played.http_url}?{address}", timezone_id="UTC", **options)
        settled(page)
        return page

    return visit


def settled(page: Any) -> None:
    """Wait until an answer, or the reason why there is none, is shown."""
    answer = page.locator(".answer:not([aria-busy='true'])")
    expect(answer.locator(".sentence, .problem p").filter(visible=True).first).to_have_text(
        re.compile(r"[.?]$")
    )


def sentence(page: Any) -> Any:
    return page.locator(".sentence")


def cells(page: Any, caption: str) -> list[list[str]]:
    """Return the texts of a table's cells, row by row."""
    rows = page.get_by_role("table", name=caption).locator("tbody tr")
    expect(rows.first).to_be_visible()  # one that is folded up is made when it is opened
    return [row.locator("th, td").all_inner_texts() for row in rows.all()]


# How a number is distributed.


def test_field_view_begins_with_a_number_of_the_most_frequent_type_by_version(visit: Open) -> None:
    page = visit("view=field&range=yesterday")

    expect(page).to_have_url(re.compile("type=ship_hit&field=damage&by=version"))
    expect(sentence(page)).to_have_text(
        "95% of 40 ship_hit events yesterday have a damage of 28 or less (the p95); half have 15 "
        "or less. The p95 by version: 1.4.1 19, 1.4.2 29."
    )
    assert cells(page, "damage of ship_hit by version") == [
        ["1.4.1", "20", "10", "19", "20", "10.5", "1", "20"],
        ["1.4.2", "20", "20", "29", "30", "20.5", "11", "30"],
        ["All", "40", "15", "28", "30", "15.5", "1", "30"],
    ]


def test_field_view_shows_its_form_and_answers_anew_for_each_change_of_it(visit: Open) -> None:
    page = visit("view=field&type=ship_hit&field=damage")
    expect(page.get_by_label("Split by")).to_have_value("")
    expect(sentence(page)).to_contain_text("95% of 43 ship_hit events")

    page.get_by_label("Split by").select_option("data.weapon")
    expect(sentence(page)).to_contain_text("The p95 by weapon: laser 29, torpedo 15.")
    page.get_by_label("Only where").fill("weapon=torpedo, version=1.4.1")
    page.get_by_label("Only where").press("Enter")
    expect(sentence(page)).to_contain_text("95% of 15 ship_hit events have a damage of 15 or less")
    expect(page).to_have_url(re.compile("where=weapon%3Dtorpedo&where=version%3D1.4.1"))

    page.go_back()
    expect(sentence(page)).to_contain_text("95% of 43 ship_hit events")
    expect(page.get_by_label("Only where")).to_have_value("")
    page.get_by_label("Only where").fill("weapon")
    page.get_by_label("Only where").press("Enter")
    expect(page.get_by_text("Write name=value; with commas between several.")).to_be_visible()


def test_values_of_a_chart_are_read_with_the_arrow_keys_and_the_pointer(visit: Open) -> None:
    page = visit("view=field&type=ship_hit&field=damage&where=version%3D1.4.1")
    chart = page.get_by_role("img", name="How often each damage occurs")
    status = page.locator(".plot").filter(has=chart).get_by_role("status")
    expect(chart.locator("rect")).to_have_count(20)

    chart.focus()
    page.keyboard.press("Home")
    expect(status).to_have_text(re.compile(r"^1 to [\d.]+: events 1 \(4\.5%\)$"))
    page.keyboard.press("ArrowRight")
    expect(status).to_have_text(re.compile(r": events \d+ \([\d.]+%\)$"))
    expect(page.locator(".plot .tip").filter(visible=True)).to_contain_text("events")
    page.keyboard.press("Escape")
    expect(page.locator(".plot .tip").filter(visible=True)).to_have_count(0)
    chart.hover()
    expect(page.locator(".plot .tip").filter(visible=True)).to_contain_text("events")


def test_each_chart_has_its_figures_as_a_table(visit: Open) -> None:
    page = visit("view=field&type=ship_hit&field=damage&by=version")
    for summary in page.get_by_text("These figures as a table").all():
        summary.click()

    over_time = cells(page, "p95 of damage over time, by version")
    assert [row[1:] for row in over_time] == [["5", "–"], ["–", "5"], ["19", "29"]]
    shares = [row[2] for row in cells(page, "How often each damage occurs")]
    assert sum(float(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=1)


# The most frequent values.


def test_values_view_names_the_most_frequent_value(visit: Open) -> None:
    page = visit("view=values&type=ship_hit&field=weapon&where=damage%3D15")

    expect(sentence(page)).to_have_text(
        "laser is the most frequent weapon: 50% of the 2 ship_hit events with one. "
        "There are 2 different values."
    )
    page.get_by_label("Only where").fill("")
    page.get_by_label("Only where").press("Enter")
    expect(sentence(page)).to_contain_text("laser is the most frequent weapon: 65.1% of the 43")
    assert cells(page, "Most frequent values of weapon in ship_hit") == [
        ["laser", "65.1%", "28", "9"],
        ["torpedo", "34.9%", "15", "3"],
    ]
    page.get_by_role("link", name="torpedo").click()
    expect(sentence(page)).to_contain_text("95% of 15 ship_hit events have a damage of 15 or less")


def test_values_view_begins_with_a_text_of_few_values(visit: Open) -> None:
    page = visit("view=values")

    expect(page).to_have_url(re.compile("type=ship_hit&field=weapon"))


# Where players leave.


def test_funnel_view_begins_with_the_rounds_and_says_where_players_leave(visit: Open) -> None:
    page = visit("view=funnel")

    expect(page).to_have_url(re.compile("step=round_start&step=round_end"))
    expect(sentence(page)).to_have_text(
        "Of 9 sessions with round_start, 6 (66.7%) got to round_end. The other 3 left after "
        "round_start; 3 of them crashed."
    )
    left = page.locator(".funnel .left")
    expect(left).to_contain_text("3 left (33.3%) after round_start")
    expect(left).to_contain_text("✕3 crashed")
    expect(left).to_contain_text("Their last event: crash 3")
    page.get_by_text("These figures as a table").click()
    assert cells(page, "Steps of the funnel") == [
        ["round_start", "9", "100%", "–", "–", "3", "3", "0"],
        ["round_end", "6", "66.7%", "66.7%", "5.0 s", "–", "–", "–"],
    ]


def test_steps_of_a_funnel_are_added_changed_and_removed(visit: Open) -> None:
    page = visit("view=funnel&step=round_start&step=round_end")
    expect(page.get_by_role("button", name="Remove step 1")).to_be_hidden()

    page.get_by_role("button", name="Add a step").click()
    page.get_by_role("combobox", name="Step 2").select_option("ship_hit")
    expect(page).to_have_url(re.compile("step=round_start&step=ship_hit&step=round_end"))
    where = page.get_by_role("list", name="Steps, in order").get_by_label("Where")
    where.nth(1).fill("weapon=torpedo")
    where.nth(1).press("Enter")
    expect(sentence(page)).to_contain_text(
        "Of 9 sessions with round_start, 2 (22.2%) got to round_end. Most left after round_start: "
        "6; 2 of them crashed and 1 was killed."
    )
    page.get_by_label("Within").select_option("context.player")
    expect(sentence(page)).to_contain_text(
        "Of 5 players with round_start, 2 (40%) got to round_end"
    )
    page.get_by_role("button", name="Remove step 2").click()
    expect(sentence(page)).to_contain_text(
        "Of 5 players with round_start, 4 (80%) got to round_end"
    )


def test_unknown_step_is_explained(visit: Open) -> None:
    page = visit("view=funnel&step=round_start&step=round_edn", faults_allowed=BAD_REQUEST)

    problem = page.get_by_role("alert").filter(visible=True)
    expect(problem).to_contain_text("round_end")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    page.get_by_role("combobox", name="Step 2").select_option("round_end")
    expect(sentence(page)).to_contain_text("Of 9 sessions with round_start")
    expect(problem).to_have_count(0)


# Who comes back.


def test_retention_view_says_how_many_players_came_back(visit: Open) -> None:
    page = visit("view=retention")

    expect(page).to_have_url(re.compile("field=context.player"))
    expect(sentence(page)).to_have_text(
        "50% of new players came back the next day. There were 5 new players. "
        "It is too early to know about days 7 and 30."
    )
    page.get_by_label("Days later").fill("1, 2")
    page.get_by_label("Days later").press("Enter")
    expect(sentence(page)).to_have_text(
        "50% of new players came back the next day and 100% after 2 days. There were 5 new players."
    )
    table = cells(page, "players that came back, by their first day")
    assert [row[1:] for row in table] == [["3", "–", "–"], ["2", "50%", "100%"]]


# One session.


def test_session_view_shows_how_a_session_went_and_ended(visit: Open) -> None:
    page = visit("view=session&session=two-0")

    expect(sentence(page)).to_have_text(
        "The session two-0 of 1.4.2, played by p-9, sent 6 events in 5.0 s and crashed: "
        "ValueError: no hull."
    )
    page.get_by_text("These figures as a table").click()
    assert [row[:2] for row in cells(page, "Events by type")] == [
        ["ship_hit", "4"],
        ["crash", "1"],
        ["round_start", "1"],
    ]
    marks = page.get_by_role("table", name="Crashes, faults, gaps and the end")
    expect(marks.locator("tbody tr").first).to_contain_text("crash")
    marks.get_by_role("button", name="no hull").click()
    expect(page.locator("#detail-title")).to_have_text("crash")


def test_session_is_chosen_from_those_of_the_range_or_by_its_id(visit: Open) -> None:
    page = visit("view=session")
    expect(sentence(page)).to_contain_text("The session two-4 of 1.4.2")

    page.get_by_role("combobox", name="Session").select_option("one-0")
    expect(sentence(page)).to_contain_text("The session one-0 of 1.4.1")
    page.get_by_label("Another session's id").fill("old-1")
    page.get_by_label("Another session's id").press("Enter")
    expect(sentence(page)).to_contain_text("The session old-1 of 1.4.1")


def test_those_who_leave_a_funnel_lead_to_their_timelines(visit: Open) -> None:
    page = visit("view=funnel")

    page.locator(".funnel .left").get_by_role("link", name="two-1").click()

    expect(page).to_have_url(re.compile("view=session&session=two-1"))
    expect(sentence(page)).to_contain_text("The session two-1 of 1.4.2")
    page.go_back()
    expect(sentence(page)).to_contain_text("Of 9 sessions")


def test_dialog_of_a_session_leads_to_its_timeline(played: RunningCollector, look: Look) -> None:
    page = look(played.http_url, timezone_id="UTC")
    page.locator("#sessions").get_by_role("button", name="one-0").click()

    page.get_by_role("link", name="Timeline").click()

    expect(sentence(page)).to_contain_text("The session one-0 of 1.4.1")
    expect(page.get_by_role("dialog")).to_have_count(0)


# Versions.


def test_versions_view_says_how_many_sessions_of_each_crashed(visit: Open) -> None:
    page = visit("view=versions&range=yesterday")

    expect(page).to_have_url(re.compile("version=1.4.2&version=1.4.1"))
    expect(sentence(page)).to_have_text(
        "1.4.2: 2 of 5 sessions crashed yesterday, 1 was killed; 40% crash-free. "
        "1.4.1: 1 of 4 sessions crashed; 75% crash-free."
    )
    table = {row[0]: row[1:] for row in cells(page, "Versions side by side yesterday")}
    assert table["Sessions"] == ["5", "4", "+25%"]
    assert table["Crashed"] == ["2 (40%)", "1 (25%)", "+15 points, worse"]
    assert table["Crash-free"] == ["40%", "75%", "−35 points, worse"]
    assert "Frame p99" not in table
    page.get_by_label("1.4.1").uncheck()
    expect(sentence(page)).to_have_text(
        "1.4.2: 2 of 5 sessions crashed yesterday, 1 was killed; 40% crash-free."
    )


def test_versions_are_compared_by_a_field_too(visit: Open) -> None:
    page = visit("view=versions&version=1.4.2&version=1.4.1")

    page.get_by_label("Also compare").select_option("ship_hit")

    expect(page.get_by_role("combobox", name="Field", exact=True)).to_have_value("data.damage")
    expect(page.get_by_role("table")).to_contain_text("p95 of damage")
    table = {row[0]: row[1:] for row in cells(page, "Versions side by side")}
    assert table["p95 of damage"][:2] == ["29", "19"]
    assert table["Events with damage"][:2] == ["21", "22"]


# All of them.


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_views_are_accessible(visit: Open, view: str, scheme: str) -> None:
    page = visit(f"view={view}", color_scheme=scheme)
    for summary in page.get_by_text("These figures as a table").all():
        summary.click()

    assert findings(page) == []


@pytest.mark.parametrize("view", VIEWS)
def test_views_fit_a_narrow_window(visit: Open, view: str) -> None:
    page = visit(f"view={view}", viewport={"width": 320, "height": 640})
    for summary in page.get_by_text("These figures as a table").all():
        summary.click()

    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert findings(page) == []


@pytest.mark.parametrize("view", VIEWS)
def test_views_without_an_event_say_what_is_missing(
    collector: RunningCollector, look: Look, view: str
) -> None:
    page = look(f"{collector.http_url}?view={view}")

    expect(page.locator(".sentence")).to_have_text(
        re.compile(r"^(No|There are no|There are not two) .*\.\s*$")
    )
    assert findings(page) == []


@pytest.mark.parametrize("view", VIEWS)
def test_views_show_why_there_is_no_answer_and_ask_again(visit: Open, view: str) -> None:
    page = visit(f"view={view}", faults_allowed="status of 503|ERR_FAILED")
    answer = page.locator(".sentence").inner_text()
    page.route(
        "**/api/answers/**",
        lambda route: route.fulfill(
            status=503, json={"error": "it takes too long; narrow the range"}
        ),
    )
    page.reload()
    problem = page.get_by_role("alert").filter(visible=True)
    expect(problem).to_contain_text("It takes too long; narrow the range.")
    expect(page.locator(".sentence")).to_be_hidden()
    assert findings(page) == []

    page.unroute("**/api/answers/**")
    page.route("**/api/**", lambda route: route.abort())
    page.get_by_role("button", name="Try again").click()
    expect(problem).to_contain_text("The collector can't be reached.")
    page.unroute("**/api/**")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".sentence")).to_have_text(answer)
    expect(problem).to_have_count(0)
