"""Reports on a range, their questions, and their JSON: the same answers as the API gives."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from redvsblue_telemetry.cli._database import open_database
from redvsblue_telemetry.cli.report.charts import bars, percentile_lines
from redvsblue_telemetry.collector.answers.asking import ask
from redvsblue_telemetry.collector.answers.questions import Field
from tests.support.axe import findings
from tests.support.chromium import needs_chromium
from tests.support.command import invoke_command, run_command
from tests.support.past import written
from tests.support.systems import not_on_windows

DAY = 86_400_000
NOON = time.time_ns() // 1_000_000 // DAY * DAY - 2 * DAY + DAY // 2
"""Two days ago, at noon."""
DATE = time.strftime("%Y-%m-%d", time.gmtime(NOON // 1000))
NEXT_DATE = time.strftime("%Y-%m-%d", time.gmtime((NOON + DAY) // 1000))


def hits(*damages: float) -> list[tuple[str, dict[str, Any]]]:
    return [("ship.hit", {"damage": each, "weapon": "laser"}) for each in damages]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "telemetry.sqlite3"
    with written(path, NOON) as past:
        start, end = ("round_start", {}), ("round_end", {"result": "won, at last"})
        past.play("s1", start, *hits(1, 2, 3), end, version="1.4.1", player="p-1")
        past.play("s2", start, *hits(4), version="1.4.2", reason="crashed", player="p-2")
        past.reject("not JSON")
        past.now += DAY
        past.play("s3", start, *hits(50, 60), end, version="1.4.2", player="p-1")
    return path


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not hasattr(time, "tzset"):
        if time.timezone:
            pytest.skip("Windows: no tzset, and this machine's zone is not UTC")
        yield
        return
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def report(db: Path, *options: str) -> Any:
    done = invoke_command("report", "--db", db, "--json", "-o", "-", *options)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def page(db: Path, tmp_path: Path, *options: str) -> str:
    file = tmp_path / "report.html"
    done = invoke_command("report", "--db", db, "-o", file, *options)
    assert done.exit_code == 0, done.output
    return file.read_text("utf-8")


def test_report_of_a_range_has_the_sessions_and_events_of_it(db: Path) -> None:
    found = report(db, "--range", DATE)
    assert found["range"] == {"words": DATE, "from": NOON - DAY // 2, "to": NOON + DAY // 2}
    assert (found["sessionCount"], found["events"]) == (2, 7)
    assert found["types"] == {"ship.hit": 4, "round_start": 2, "round_end": 1}
    assert found["outcomes"] == {"well": 1, "crashed": 1}
    assert [each["sessionId"] for each in found["sessions"]] == ["s2", "s1"]
    assert [each["version"] for each in found["versions"]] == ["1.4.2", "1.4.1"]
    assert found["rejectedCount"] == len(found["rejected"]) == 1
    assert sum(sum(counts) for _, counts in found["timeline"]["columns"]) == 7

    later = report(db, "--range", NEXT_DATE)
    assert (later["sessionCount"], later["events"], later["rejectedCount"]) == (1, 4, 0)
    assert [each["sessionId"] for each in later["sessions"]] == ["s3"]
    whole = report(db)
    assert whole["range"] is None
    assert (whole["sessionCount"], whole["events"]) == (3, 11)


def test_report_of_a_range_without_anything_is_empty(db: Path, tmp_path: Path) -> None:
    found = report(db, "--range", "2020-01-01 to 2020-01-07")
    assert (found["sessionCount"], found["events"], found["answers"]) == (0, 0, [])
    assert "2020-01-01 to 2020-01-07" in page(db, tmp_path, "--range", "2020-01-01 to 2020-01-07")


def test_range_that_cannot_be_read_is_wrong_usage(db: Path) -> None:
    done = invoke_command("report", "--db", db, "--range", "lately", "-o", "-")
    assert done.exit_code == 2
    assert "range is 'lately'" in done.output


@not_on_windows("no tzset")
def test_days_of_a_range_are_those_of_the_machine(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC-14")  # fourteen hours ahead
    time.tzset()
    assert report(db, "--range", NEXT_DATE)["sessionCount"] == 2
    assert report(db, "--range", DATE)["sessionCount"] == 0


def test_answers_are_those_of_the_api(db: Path) -> None:
    found = report(db, "--field", "ship.hit.damage", "--by", "version")["answers"]
    with open_database(db) as connection:
        question = Field(type="ship.hit", field="damage", by="version")
        expected = msgspec.to_builtins(ask(connection, question))
    (answered,) = found
    assert answered["kind"] == "field"
    asked = {name: answered["question"][name] for name in ("type", "field", "by")}
    assert asked == {"type": "ship.hit", "field": "damage", "by": "version"}
    assert answered["answer"] == json.loads(msgspec.json.encode(expected))
    assert (answered["answer"]["count"], answered["answer"]["p95"]) == (6, 60)


def test_questions_are_about_the_range(db: Path) -> None:
    options = ("--values", "ship.hit.weapon", "--funnel", "round_start,round_end")
    values, funnel = report(db, "--range", DATE, *options)["answers"]
    assert values["answer"]["values"] == [
        {"value": "laser", "count": 4, "share": 1.0, "sessions": 2}
    ]
    assert [step["count"] for step in funnel["answer"]["steps"]] == [2, 1]


def test_step_may_have_conditions_with_commas(db: Path) -> None:
    (funnel,) = report(db, "--funnel", "round_start, round_end[result=won, at last]")["answers"]
    assert [step["count"] for step in funnel["answer"]["steps"]] == [3, 2]


def test_page_answers_in_a_sentence_a_chart_and_a_table(db: Path, tmp_path: Path) -> None:
    options = ["--field", "ship.hit.damage", "--by", "version", "--values", "ship.hit.weapon"]
    options += ["--funnel", "round_start,round_end", "--per", "context.player"]
    options += ["--retention", "player", "--compare", "1.4.1,1.4.2"]
    found = page(db, tmp_path, *options)
    shown = " ".join(found.replace("<bdi>", "").replace("</bdi>", "").split())
    assert "95 % of 6 are 60 or less (by version: 1.4.1: 3; 1.4.2: 60)." in shown
    assert "the most frequent one, laser, is in 100 % of 6 events." in shown
    assert "50 % of 2 values of context.player that reached round_start came to" in shown
    assert "1 left between round_start and round_end" in shown
    assert "Their sessions: 1 crashed. The last event: ship.hit (1)." in shown
    assert "Crash-free, of the sessions that ended: 1.4.1: 100 %; 1.4.2: 50 %." in shown
    assert "Retention by player" in shown


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--field", "ship_hit.damage"], "--field ship_hit.damage: "),
        (["--field", "ship.hit"], "--field ship.hit: no event has the type 'ship'; "),
        (["--field", "damage"], "--field damage: it must be TYPE.FIELD, such as ship_hit.damage"),
        (["--values", "ship.hit."], "--values ship.hit.: no event has the type 'ship'; "),
        (["--values", "round_start."], "--values round_start.: it must be TYPE.FIELD"),
        (["--funnel", "round_start"], "give types of events in order, such as round_start and"),
        (["--retention", "nobody"], "--retention nobody: "),
        (["--by", "version"], "--by needs a --field"),
        (["--per", "context.player"], "--per needs a --funnel"),
        (["--session", "s1", "--range", "today"], "can't be used together"),
    ],
)
def test_question_without_an_answer_is_an_error_that_names_it(
    options: list[str], part: str, db: Path, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    done = invoke_command("report", "--db", db, "-o", file, *options)
    assert done.exit_code == 2
    assert part in done.output
    assert not file.exists()


def test_json_is_written_to_report_json(db: Path, tmp_path: Path) -> None:
    done = run_command("report", "--db", db, "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == "report.json: 11 events of 3 sessions\n"
    assert json.loads((tmp_path / "report.json").read_bytes())["events"] == 11


@needs_chromium
def test_page_is_accessible_and_fits_a_phone(db: Path, tmp_path: Path, browser: Any) -> None:
    options = ["--range", "last 7 days", "--field", "ship.hit.damage", "--by", "version"]
    options += ["--values", "ship.hit.weapon", "--funnel", "round_start,round_end"]
    options += ["--retention", "player", "--compare", "1.4.1,1.4.2"]
    page(db, tmp_path, *options)
    for scheme, width in (("light", 1100), ("dark", 1100), ("light", 320)):
        viewport = {"width": width, "height": 900}
        with contextlib.closing(
            browser.new_context(color_scheme=scheme, viewport=viewport, bypass_csp=True)
        ) as context:
            shown = context.new_page()
            shown.goto((tmp_path / "report.html").as_uri())
            assert shown.evaluate("document.documentElement.scrollWidth") == width
            assert findings(shown) == []


def test_session_has_its_moments_in_order(db: Path, tmp_path: Path) -> None:
    found = report(db, "--session", "s2")["moments"]
    assert found["session"]["sessionId"] == "s2"
    assert [(lane["type"], lane["count"]) for lane in found["lanes"]] == [
        ("round_start", 1),
        ("ship.hit", 1),
    ]
    assert [change["fields"] for change in found["contexts"]] == [{"player": "p-2"}]
    assert [mark["kind"] for mark in found["marks"]] == ["end"]
    shown = page(db, tmp_path, "--session", "s2")
    assert shown.index("<bdi>Context</bdi>") < shown.index("<bdi>The end</bdi>")
    assert "<bdi>player</bdi>=<bdi>p-2</bdi>" in shown


# Charts.


def test_lines_may_be_below_zero_and_between_whole_numbers() -> None:
    points = [(NOON, -0.4, 0.1, 0.2), (NOON + 1000, -0.3, 0.0, 0.3)]
    chart = percentile_lines("A field", points)
    for label in ("-0.4", "-0.2", "0", "0.2", "0.4"):
        assert f">{label}</text>" in chart
    below = [(NOON, -9.0, -8.0, -7.0), (NOON + 1000, -9.0, -8.0, -7.0)]
    assert ">-10</text>" in percentile_lines("A field", below)


def test_bar_has_its_count_as_a_tooltip() -> None:
    chart = bars("Numbers", [("0", "0 to 5: 3", 3), ("5", "5 to 10: 0", 0)])
    assert "<title>0 to 5: 3</title>" in chart
    assert chart.count('class="c0"') == 2
