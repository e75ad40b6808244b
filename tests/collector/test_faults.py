"""A collector with a schema: events that do not fit it are stored, marked, counted and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from redvsblue_telemetry._schema import EventSchema, EventSchemas, write_schemas
from redvsblue_telemetry.collector.server import OptionsError
from tests.collector.clients import acks_up_to, client_of, event, game
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.wait import wait_until

FAULT = "data.damage: must be an integer, not a string"


def schema_with(folder: Path, **fields: Any) -> Path:
    path = folder / "events.json"
    data = {"properties": fields, "additionalProperties": False}
    path.write_bytes(write_schemas(EventSchemas({"hit": EventSchema("hit", data)}, {})))
    return path


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    return schema_with(tmp_path, damage={"type": "integer"})


@pytest.fixture
def collector(schema: Path) -> Iterator[RunningCollector]:
    with collector_running(schema=schema, allow_reset=True) as collector:
        yield collector


def ask(collector: RunningCollector, path: str) -> Any:
    answer = collector.get(path)
    assert answer.status == 200, answer.body
    return answer.json()


def metric(collector: RunningCollector, name: str) -> float:
    lines = collector.get("/metrics").body.decode().splitlines()
    (value,) = [float(line.split()[1]) for line in lines if line.startswith(f"{name} ")]
    return value


def first_update(collector: RunningCollector, query: str) -> Any:
    with urlopen(f"{collector.http_url}api/live?{query}", timeout=PATIENCE) as stream:
        return next(json.loads(line[6:]) for line in stream if line.startswith(b"data: "))


def test_events_of_a_game_that_do_not_fit_are_delivered_and_marked(
    collector: RunningCollector,
) -> None:
    with game(collector, session_id="s", version="1.4") as telemetry:
        telemetry.emit("hit", {"damage": 12})
        telemetry.emit("hit", {"damage": "12"})
        telemetry.emit("hitt", {"damage": 12})
        telemetry.emit("hit", {"damage": "13"})
        assert telemetry.flush(PATIENCE)
        assert telemetry.stats().delivered == 4

    found = ask(collector, "/api/events")["events"]
    assert [event.get("fault") for event in found] == [
        None,
        FAULT,
        "no such type of event",
        FAULT,
    ]
    faulty = ask(collector, "/api/events?fault=any")["events"]
    assert faulty == [each for each in found if "fault" in each]
    assert ask(collector, "/api/events?fault=none")["events"] == found[:1]
    assert ask(collector, "/api/events?fault=DAMAGE&limit=1")["events"] == [found[1]]
    assert ask(collector, "/api/stats")["faults"] == 3
    assert ask(collector, "/api/sessions")["sessions"][0]["faults"] == 3
    assert ask(collector, "/api/sessions/s")["faults"] == 3
    assert metric(collector, "telemetry_events_faulty_total") == 3
    (first, second) = ask(collector, "/api/faults")["faults"]
    assert first == {
        "type": "hit",
        "fault": FAULT,
        "count": 2,
        "sessions": 1,
        "versions": ["1.4"],
        "first": found[1]["received"],
        "last": found[3]["received"],
        "newest": found[3],
    }
    assert (second["type"], second["fault"]) == ("hitt", "no such type of event")
    as_text = ask(collector, "/api/faults?data=text&limit=1")["faults"]
    assert as_text[0]["newest"]["data"] == '{"damage":"13"}'
    assert ask(collector, "/api/faults?version=1.5") == {"faults": []}
    (group, _) = collector.faults
    assert (group.type, group.fault, group.count) == ("hit", FAULT, 2)


def test_repeat_of_an_event_with_a_fault_is_not_counted(collector: RunningCollector) -> None:
    wrong = event(1, data={"damage": "12"})
    with client_of(collector) as client:
        for _ in range(2):
            client.send(json.dumps([wrong, wrong]))
        acks_up_to(client, 2)
    assert ask(collector, "/api/stats")["faults"] == 1
    assert wait_until(lambda: metric(collector, "telemetry_events_repeated_total") == 3, PATIENCE)
    assert metric(collector, "telemetry_events_faulty_total") == 1


def test_live_stream_shows_and_filters_faults(collector: RunningCollector) -> None:
    damages = [1, "2", 3, "4", "5"]
    events = [event(number, data={"damage": each}) for number, each in enumerate(damages, 1)]
    with client_of(collector) as client:
        client.send(json.dumps(events))
        acks_up_to(client, 1)
    assert wait_until(lambda: first_update(collector, "")["total"] == 5, PATIENCE)
    for query, expected in {
        "fault=any": [2, 4, 5],
        "fault=none": [1, 3],
        "fault=damage": [2, 4, 5],
        "fault=other": [],
    }.items():
        update = first_update(collector, query)
        assert [each["seq"] for each in update["events"]] == expected, query
        faults = {each.get("fault") for each in update["events"]}
        assert faults <= ({None} if query == "fault=none" else {FAULT})


def test_deleting_everything_deletes_the_faults(collector: RunningCollector) -> None:
    with client_of(collector) as client:
        client.send(json.dumps([event(1, data={"damage": "1"})]))
        acks_up_to(client, 1)
        collector.reset()
        assert ask(collector, "/api/faults") == {"faults": []}
        client.send(json.dumps([event(2, data={"damage": "1"}), event(3, data={"damage": 1})]))
        acks_up_to(client, 2)
    assert [group.count for group in collector.faults] == [1]


def test_marks_stay_when_the_collector_starts_with_another_schema_or_none(tmp_path: Path) -> None:
    damage = {"damage": {"type": "integer"}}
    other = {"damage": {"type": "string"}}
    for number, fields in enumerate((damage, other, None), 1):
        schema = None if fields is None else schema_with(tmp_path, **fields)
        with (
            collector_running(db=tmp_path / "t.sqlite3", schema=schema) as collector,
            client_of(collector) as client,
        ):
            client.send(json.dumps([event(number, data={"damage": "1"})]))
            acks_up_to(client, 1)
            found = ask(collector, "/api/events")["events"]
            assert [each.get("fault") for each in found] == [FAULT, None, None][:number]
            assert [group.count for group in collector.faults] == [1]


def test_without_a_schema_no_event_has_a_fault() -> None:
    with collector_running() as collector, client_of(collector) as client:
        client.send(json.dumps([event(1, "s", type="anything")]))
        acks_up_to(client, 1)
        assert "fault" not in ask(collector, "/api/events")["events"][0]
        assert ask(collector, "/api/faults") == {"faults": []}
        assert ask(collector, "/api/stats")["faults"] == 0


def test_collector_does_not_start_with_a_file_that_is_no_schema(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    path.write_text("{}", "utf-8")
    with pytest.raises(OptionsError, match="not a schema"), collector_running(schema=path):
        pass


@pytest.mark.parametrize("query", [f"fault={'x' * 1001}", "fault=a&fault=b"])
def test_search_for_a_fault_is_bounded(collector: RunningCollector, query: str) -> None:
    assert collector.get(f"/api/events?{query}").status == 400
