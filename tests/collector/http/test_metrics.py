"""The metrics, read by Prometheus's own parser."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from redvsblue_telemetry.collector.http.metrics import Metrics
from tests.collector.clients import client_of
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.wait import wait_until


def samples(text: str) -> dict[str, float]:
    """The values of the metrics, those with a label under ``name label``."""
    families = text_string_to_metric_families(text)
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }


def event(seq: int, **fields: object) -> dict[str, object]:
    name = {"id": "x", "type": "any label \n\"' a client chose", "data": {}}
    return {**name, "sessionId": "s", "seq": seq, "timestamp": 0, **fields}


def scrape(collector: RunningCollector) -> dict[str, float]:
    answer = collector.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return samples(answer.body.decode())


def test_metrics_count_events(collector: RunningCollector) -> None:
    before = scrape(collector)
    assert before["telemetry_events_stored_total"] == before["telemetry_connections"] == 0

    with client_of(collector) as client:
        client.send(json.dumps([event(1), event(2), event(2), {"type": "lonely"}]))
        client.recv(timeout=PATIENCE)
        # The client gets its ack before the counters are updated.
        assert wait_until(lambda: scrape(collector)["telemetry_events_stored_total"] == 2)
        after = scrape(collector)
        assert after["telemetry_events_repeated_total"] == 1
        assert after["telemetry_events_rejected_total"] == 1
        assert after["telemetry_groups_stored_total"] >= 1
        assert after["telemetry_storage_failures_total"] == 0
        assert after["telemetry_connections"] == 1
        assert after["telemetry_viewers"] == 0
        assert after.keys() == before.keys(), "a metric that a client can make"
    assert wait_until(lambda: scrape(collector)["telemetry_connections"] == 0, PATIENCE)


def test_sessions_are_counted_by_outcome_and_missing_events_by_cause(
    collector: RunningCollector,
) -> None:
    before = scrape(collector)
    assert before["telemetry_sessions running"] == before["telemetry_events_missing other"] == 0
    fields = {"sessionId": "s", "number": 1, "state": "ended", "reason": "crashed", "lastSeq": 20}
    gaps = [[2, 4, "overflow"], [5, 9, "a cause that\na client chose"], [10, 10, "filtered"]]
    report = {**fields, "gaps": gaps, "buffered": 2}
    messages = [
        [event(1), event(11, type="crash"), event(12, sessionId="t", type="crash")],
        {"report": report},
    ]
    with client_of(collector) as client:
        for message in messages:
            client.send(json.dumps(message))
        while json.loads(client.recv(timeout=PATIENCE))["ack"] < len(messages):
            pass
        assert wait_until(lambda: scrape(collector)["telemetry_events_stored_total"] == 3)
        after = scrape(collector)
    assert after.keys() == before.keys(), "a metric that a client can make"
    assert after["telemetry_crashes_total"] == 2
    sessions = {
        key: value
        for key, value in after.items()
        if value and key.startswith(("telemetry_sessions ", "telemetry_events_missing "))
    }
    assert sessions == {
        "telemetry_sessions crashed": 1,
        "telemetry_sessions running": 1,
        "telemetry_events_missing overflow": 3,
        "telemetry_events_missing other": 5,
        "telemetry_events_missing filtered": 1,
        "telemetry_events_missing waiting": 2,
        "telemetry_events_missing unexplained": 7 + 11,
    }


def test_database_that_cannot_be_read_leaves_the_other_metrics(tmp_path: Path) -> None:
    with collector_running(db=tmp_path / "t.sqlite3") as collector:
        assert "telemetry_sessions running" in scrape(collector)
        with contextlib.closing(sqlite3.connect(collector.db)) as connection:
            connection.execute("ALTER TABLE sessions RENAME TO moved")
        found = scrape(collector)
        assert found["telemetry_events_stored_total"] == 0
        assert "telemetry_sessions running" not in found


def test_failures_are_counted() -> None:
    metrics = Metrics(lambda: 3, lambda: 4)
    metrics.record_failure()
    found = samples(metrics.exposition(None, None).decode())
    assert found["telemetry_storage_failures_total"] == 1
    assert (found["telemetry_connections"], found["telemetry_viewers"]) == (3, 4)


def test_two_collectors_in_one_process_count_apart() -> None:
    one, other = Metrics(lambda: 0, lambda: 0), Metrics(lambda: 0, lambda: 0)
    one.record_failure()
    assert samples(other.exposition(None, None).decode())["telemetry_storage_failures_total"] == 0
