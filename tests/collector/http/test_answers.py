"""Questions, asked of a real collector while a real client sends."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from tests.collector.clients import game
from tests.support.collector import Answer, RunningCollector


@pytest.fixture
def played(collector: RunningCollector) -> RunningCollector:
    """A collector with the events of two sessions."""
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
