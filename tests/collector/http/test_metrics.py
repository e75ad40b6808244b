"""The metrics, read by Prometheus's own parser."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families

from redvsblue_telemetry.collector.http.metrics import Metrics
from tests.collector.clients import client_of
from tests.support.collector import PATIENCE, RunningCollector
from tests.support.wait import wait_until


def samples(text: str) -> dict[str, float]:
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def scrape(collector: RunningCollector) -> dict[str, float]:
    answer = collector.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return samples(answer.body.decode())


def test_metrics_count_events(collector: RunningCollector) -> None:
    before = scrape(collector)
    assert before["telemetry_events_stored_total"] == before["telemetry_connections"] == 0

    def event(seq: int) -> dict[str, object]:
        name = {"id": "x", "type": "any label \n\"' a client chose", "data": {}}
        return {**name, "sessionId": "s", "seq": seq, "timestamp": 0}

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


def test_failures_are_counted() -> None:
    metrics = Metrics(lambda: 3, lambda: 4)
    metrics.record_failure()
    found = samples(metrics.exposition().decode())
    assert found["telemetry_storage_failures_total"] == 1
    assert (found["telemetry_connections"], found["telemetry_viewers"]) == (3, 4)


def test_two_collectors_in_one_process_count_apart() -> None:
    one, other = Metrics(lambda: 0, lambda: 0), Metrics(lambda: 0, lambda: 0)
    one.record_failure()
    assert samples(other.exposition().decode())["telemetry_storage_failures_total"] == 0
