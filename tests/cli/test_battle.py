"""The engine: the same battle for the same seed, and events that agree with one another."""

from __future__ import annotations

import ast
import inspect
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from redvsblue_telemetry.cli.demo import battle
from redvsblue_telemetry.cli.demo.battle import BattleEngine

Event = Mapping[str, Any]
DT = 1 / 60
EVENT_TYPES = {
    "ship_spawned",
    "bullet_fired",
    "ship_hit",
    "ship_destroyed",
    "round_start",
    "round_end",
}


def play(engine: BattleEngine, seconds: float, dt: float = DT) -> list[Event]:
    events: list[Event] = []
    engine.on("telemetry", events.append)
    for _ in range(round(seconds / dt)):
        engine.update(dt)
    return events


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """Forty seconds of battle: several rounds."""
    return play(BattleEngine(seed=7), seconds=40)


def of_type(events: list[Event], type_: str) -> Iterator[Mapping[str, Any]]:
    return (event["data"] for event in events if event["type"] == type_)


def test_same_seed_plays_the_same_battle(events: list[Event]) -> None:
    again = play(BattleEngine(seed=7), seconds=5)
    assert again == events[: len(again)]


def test_another_seed_plays_another_battle(events: list[Event]) -> None:
    other = play(BattleEngine(seed=8), seconds=5)
    assert other != events[: len(other)]


def test_every_type_of_event_occurs_within_ten_seconds() -> None:
    events = play(BattleEngine(seed=7), seconds=10)

    assert {event["type"] for event in events} == EVENT_TYPES


def test_events_are_plain_json(events: list[Event]) -> None:
    assert json.loads(json.dumps(events)) == events


def test_battle_is_busy_but_not_a_flood(events: list[Event]) -> None:
    assert 60 <= len(events) / 40 <= 300


def test_first_round_starts_with_the_first_update() -> None:
    engine = BattleEngine()
    assert engine.round == 0

    events = play(engine, seconds=DT)

    assert [event["type"] for event in events] == ["round_start"] + 16 * ["ship_spawned"]
    assert engine.round == 1
    assert len(engine.ships) == 16


def test_each_hit_takes_its_damage_from_the_health_that_was_left(events: list[Event]) -> None:
    health: dict[str, int] = {}
    for event in events:
        data = event["data"]
        if event["type"] == "ship_spawned":
            health[data["shipId"]] = battle.FULL_HEALTH
        elif event["type"] == "ship_hit":
            health[data["shipId"]] -= data["damage"]
            assert data["damage"] > 0
            assert data["health"] == health[data["shipId"]] >= 0


def test_ships_are_hit_only_by_the_other_team(events: list[Event]) -> None:
    for data in of_type(events, "ship_hit"):
        assert data["shipId"].split("-")[0] != data["by"].split("-")[0]


def test_ship_is_destroyed_by_the_hit_that_takes_its_last_health(events: list[Event]) -> None:
    fatal_hits = [
        (data["shipId"], data["by"]) for data in of_type(events, "ship_hit") if not data["health"]
    ]
    destroyed = [(data["shipId"], data["by"]) for data in of_type(events, "ship_destroyed")]

    assert destroyed == fatal_hits
    assert destroyed


def test_destroyed_ship_neither_fires_nor_is_hit(events: list[Event]) -> None:
    flying: set[str] = set()
    for event in events:
        ship = event["data"].get("shipId")
        if event["type"] == "ship_spawned":
            flying.add(ship)
        elif event["type"] == "ship_destroyed":
            flying.remove(ship)
        elif event["type"] in ("bullet_fired", "ship_hit"):
            assert ship in flying


def test_rounds_are_numbered_from_one_and_end_before_the_next_starts(events: list[Event]) -> None:
    bounds = [
        (event["type"], event["data"]["round"])
        for event in events
        if event["type"] in ("round_start", "round_end")
    ]
    rounds = [number for number in range(1, len(bounds)) for _ in range(2)]
    kinds = ["round_start", "round_end"] * len(bounds)

    assert bounds == list(zip(kinds, rounds, strict=False))[: len(bounds)]
    assert len(bounds) >= 6


def test_round_end_agrees_with_what_happened_in_the_round(events: list[Event]) -> None:
    scores = {"red": 0, "blue": 0}
    flying: set[str] = set()
    for event in events:
        data = event["data"]
        if event["type"] == "round_start":
            flying.clear()
        elif event["type"] == "ship_spawned":
            flying.add(data["shipId"])
        elif event["type"] == "ship_destroyed":
            flying.remove(data["shipId"])
        elif event["type"] == "round_end":
            survivors = {team: sum(ship.startswith(team) for ship in flying) for team in scores}
            assert data["survivors"] == survivors
            if data["winner"] != "draw":
                assert survivors[data["winner"]] == max(survivors.values())
                scores[data["winner"]] += 1
            assert data["scores"] == scores
    assert sum(scores.values()) >= 3


def test_round_ends_in_a_draw_when_nobody_is_found_in_time() -> None:
    engine = BattleEngine(ships_per_team=1, arena=(100_000, 720))

    events = play(engine, seconds=battle.ROUND_LIMIT + 1)

    (outcome,) = of_type(events, "round_end")
    assert outcome["winner"] == "draw"
    assert outcome["duration"] == pytest.approx(battle.ROUND_LIMIT, abs=2 * DT)
    assert engine.scores == {"red": 0, "blue": 0}


def test_ships_stay_in_the_arena() -> None:
    engine = BattleEngine(seed=3, arena=(640, 360))
    for _ in range(600):
        engine.update(DT)
        for ship in engine.ships:
            assert 0 <= ship.position.real <= 640
            assert 0 <= ship.position.imag <= 360


def test_long_frame_is_cut_into_short_steps() -> None:
    assert play(BattleEngine(), seconds=3, dt=0.5) == play(BattleEngine(), seconds=3, dt=1 / 30)


def test_handler_that_was_taken_off_gets_no_more_events() -> None:
    engine = BattleEngine()
    heard: list[Event] = []
    also_heard: list[Event] = []
    engine.on("telemetry", heard.append)
    engine.on("telemetry", also_heard.append)
    engine.update(DT)
    before = list(heard)

    engine.off("telemetry", heard.append)
    engine.off("telemetry", print)
    play(engine, seconds=3)

    assert heard == before
    assert len(also_heard) > len(before)


def test_update_takes_a_small_part_of_a_frame() -> None:
    engine = BattleEngine()
    durations = []
    for _ in range(480):
        started = time.perf_counter()
        engine.update(DT)
        durations.append(time.perf_counter() - started)

    assert statistics.median(durations) < 0.002


def test_engine_imports_nothing_of_the_library() -> None:
    tree = ast.parse(inspect.getsource(inspect.getmodule(BattleEngine) or battle))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }

    assert "dataclasses" in imported
    assert not any("redvsblue" in name for name in imported)
