"""Questions, asked of a real collector while a real client sends."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from tests.collector.clients import game
from tests.support.collector import Answer, RunningCollector


@pytest.fixture
def played(collector: RunningCollector) -> RunningCollector:
    """A collector with the events of two sessions that ended well."""
    for version in ("1.4.1", "1.4.2"):
        with game(collector, version=version) as telemetry:
            telemetry.context(player=f"p-{version}")
            for damage in range(1, 11):
                telemetry.emit(
                    "ship_hit", damage=damage, weapon="laser" if damage > 3 else "rocket"
                )
    return collector


def asked(collector: RunningCollector, path: str, *parameters: tuple[str, object]) -> Answer:
    return collector.get(f"/api/{path}?{urlencode(parameters)}")


def test_values(played: RunningCollector) -> None:
    answer = asked(
        played,
        "answers/values",
        ("type", "ship_hit"),
        ("field", "weapon"),
        ("version", "1.4.2"),
        ("context", "player=p-1.4.2"),
        ("where", "data.weapon=laser"),
    )
    assert answer.status == 200
    assert answer.json() == {
        "count": 7,
        "absent": 0,
        "distinct": 1,
        "values": [{"value": "laser", "count": 7, "share": 1.0, "sessions": 1}],
    }


def test_field(played: RunningCollector) -> None:
    parameters = (
        ("type", "ship_hit"),
        ("field", "data.damage"),
        ("by", "version"),
        ("offset", "-90"),
    )
    answer = asked(played, "answers/field", *parameters)
    assert answer.status == 200
    found = answer.json()
    assert (found["count"], found["p50"], found["p95"], found["absent"]) == (20, 5, 10, 0)
    assert [(group["value"], group["count"]) for group in found["groups"]] == [
        ("1.4.1", 10),
        ("1.4.2", 10),
    ]
    assert sum(step["count"] for step in found["overTime"]) == 20


def test_fields(played: RunningCollector) -> None:
    found = asked(played, "fields", ("type", "ship_hit")).json()["fields"]
    assert {each["name"]: each["kind"] for each in found} == {
        "data.damage": "number",
        "data.weapon": "text",
        "context.player": "text",
    }


def test_compare(played: RunningCollector) -> None:
    versions = ("version", "1.4.2"), ("version", "1.4.1")
    answer = asked(played, "answers/compare", *versions, ("type", "ship_hit"), ("field", "damage"))
    assert answer.status == 200
    found = answer.json()["versions"]
    assert [(each["version"], each["sessions"], each["crashFree"]) for each in found] == [
        ("1.4.2", 1, 1),
        ("1.4.1", 1, 1),
    ]
    assert found[0]["field"] == {"count": 10, "mean": 5.5, "p50": 5, "p95": 10, "p99": 10}


def test_compare_wants_versions_and_a_type_with_its_field(played: RunningCollector) -> None:
    assert asked(played, "answers/compare").json() == {
        "error": "0 versions given; give 1 to 20, such as version=1.4.1&version=1.4.2"
    }
    answer = asked(played, "answers/compare", ("version", "1.4.1"), ("type", "ship_hit"))
    assert answer.json() == {"error": "field is missing; give one, such as field=damage"}
    answer = asked(played, "answers/compare", ("version", "1.4.1"), ("where", "x=1"))
    assert answer.status == 400


def test_funnel_wants_steps(played: RunningCollector) -> None:
    assert asked(played, "answers/funnel").json() == {
        "error": "step is missing; give one, such as step=round_start&step=round_end"
    }


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ([("field", "x")], "type is missing; give one, such as type=ship_hit"),
        ([("type", "ship_hit")], "field is missing; give one, such as field=damage"),
        (
            [("type", "ship_hits"), ("field", "x")],
            "no event has the type 'ship_hits'; did you mean ship_hit?",
        ),
        (
            [("type", "ship_hit"), ("field", "x"), ("where", "laser")],
            "where is 'laser'; it must be field=value, such as data.weapon=laser",
        ),
        (
            [("type", "ship_hit"), ("field", "x"), ("limit", "0")],
            "limit is 0; it must be 1 to 200",
        ),
        (
            [("type", "ship_hit"), ("field", "x"), ("from", "2"), ("to", "1")],
            "from is 2, which is after to, 1",
        ),
    ],
)
def test_an_error_says_what_to_do(
    played: RunningCollector, parameters: list[tuple[str, object]], error: str
) -> None:
    answer = asked(played, "answers/values", *parameters)
    assert (answer.status, answer.json()) == (400, {"error": error})


def test_funnel(collector: RunningCollector) -> None:
    for session, result in enumerate(("won", "lost", None)):
        with game(collector) as telemetry:
            telemetry.context(player=f"p-{session % 2}")
            telemetry.emit("round_start")
            if result is not None:
                telemetry.emit("round_end", result=result)

    steps = (("step", "round_start"), ("step", "round_end[data.result=won]"))
    answer = asked(collector, "answers/funnel", *steps)
    assert answer.status == 200
    first, second = answer.json()["steps"]
    assert (first["count"], second["count"], second["ofPrevious"]) == (3, 1, 1 / 3)
    assert first["left"]["outcomes"] == {"well": 2}
    last_types = [{"type": "round_end", "count": 1}, {"type": "round_start", "count": 1}]
    assert first["left"]["lastTypes"] == last_types
    details = [collector.get(f"/api/sessions/{each}") for each in first["left"]["sessions"]]
    assert [answer.json()["outcome"] for answer in details] == ["well", "well"]

    by_player = asked(collector, "answers/funnel", *steps, ("per", "context.player")).json()
    assert [step["count"] for step in by_player["steps"]] == [2, 1]
    for parameters in (steps[:1], (*steps, ("per", "player")), (*steps, ("context", "player"))):
        assert asked(collector, "answers/funnel", *parameters).status == 400


def test_retention(played: RunningCollector) -> None:
    parameters = (("field", "context.player"), ("days", "1, 2"), ("offset", "120"))
    answer = asked(played, "answers/retention", *parameters)
    assert answer.status == 200
    (cohort,) = answer.json()["cohorts"]
    assert (cohort["players"], cohort["returned"]) == (2, {"1": None, "2": None})
    assert (cohort["day"] + 120 * 60_000) % 86_400_000 == 0
    default = asked(played, "answers/retention", parameters[0]).json()
    assert list(default["overall"]) == ["1", "7", "30"]
    for wrong in (("days", "1,x"), ("days", "0"), ("offset", "x"), ("field", "player")):
        assert (
            asked(played, "answers/retention", *dict([parameters[0], wrong]).items()).status == 400
        )


def test_timeline(collector: RunningCollector) -> None:
    with game(collector) as telemetry:
        telemetry.context(player="p-1")
        telemetry.emit("round_start")
        telemetry.emit("round_end")
        session_id = telemetry.session_id
    answer = asked(collector, "answers/timeline", ("session", session_id))
    assert answer.status == 200
    found = answer.json()
    assert {lane["type"]: sum(lane["counts"]) for lane in found["lanes"]} == {
        "round_start": 1,
        "round_end": 1,
    }
    assert [change["fields"] for change in found["contexts"]] == [{"player": "p-1"}]
    assert [(mark["kind"], mark["text"]) for mark in found["marks"]] == [("end", "stopped")]
    assert found["session"] == collector.get(f"/api/sessions/{session_id}").json()

    unknown = asked(collector, "answers/timeline", ("session", "x\n"))
    assert (unknown.status, unknown.json()) == (404, {"error": "session not found: x\\u000a"})
    missing = asked(collector, "answers/timeline")
    assert missing.json() == {"error": "session is missing; give one, such as session=ID"}
    assert asked(collector, "answers/timeline", ("session", "x"), ("from", "1")).status == 400
