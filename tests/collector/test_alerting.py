"""A whole collector that posts alerts. Its times are shortened."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry.collector import alerting, alerts
from redvsblue_telemetry.collector.alerts import ALERTS, Conditions
from redvsblue_telemetry.collector.server import Options, OptionsError
from redvsblue_telemetry.collector.storage import space
from tests.collector.clients import client_of
from tests.collector.http.test_metrics import samples, scrape
from tests.support.collector import PATIENCE, RunningCollector, bearer, collector_running
from tests.support.raw_server import raw_server, read_to_the_end
from tests.support.wait import wait_until
from tests.support.webhook import Receiver


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(alerting, "_GRACE", 0.02)
    monkeypatch.setattr(alerting, "_INTERVAL", 0.02)
    monkeypatch.setattr(alerts, "HOLDS_FOR", 0.05)
    monkeypatch.setattr(alerts, "IS_OVER_FOR", 0.05)
    monkeypatch.setattr(space, "_LOW_PART", 1e12)  # the disk of these tests may be almost full
    with Receiver() as receiver:
        yield receiver


def send(collector: RunningCollector, *messages: object) -> None:
    with client_of(collector) as client:
        for message in messages:
            client.send(json.dumps(message))
        while json.loads(client.recv(timeout=PATIENCE))["ack"] < len(messages):
            pass


def event(session: str, seq: int, **fields: object) -> dict[str, object]:
    known = {"id": "x", "type": "crash", "data": {"player": "p-17"}, "timestamp": 0}
    return {**known, "sessionId": session, "seq": seq, **fields}


def end(session: str, reason: str, last_seq: int = 1, **fields: object) -> dict[str, object]:
    known = {"sessionId": session, "number": 2, "state": "ended", "reason": reason}
    return {"report": {**known, "lastSeq": last_seq, **fields}}


def crashes(count: int, prefix: str = "p-17") -> list[object]:
    messages: list[object] = []
    for number in range(count):
        session = f"{prefix}-{number}"
        messages += [[event(session, 1)], end(session, "crashed")]
    return messages


def scrape_with_token(collector: RunningCollector) -> dict[str, float]:
    answer = collector.get("/metrics", bearer("sesame-7"))
    return samples(answer.body.decode())


def test_crashes_fire_an_alert_once(receiver: Receiver) -> None:
    with collector_running(alerts=(receiver.url, receiver.url), token="sesame-7") as collector:
        assert scrape_with_token(collector)["telemetry_alert_firing crash-free"] == 0
        with client_of(collector, token="sesame-7") as client:
            for message in crashes(3):
                client.send(json.dumps(message))
            assert wait_until(lambda: receiver.requests)
            client.send(json.dumps([event("other", 1)]))
        assert wait_until(
            lambda: scrape_with_token(collector)["telemetry_alerts_total delivered"] == 1
        )
        after = scrape_with_token(collector)
        assert after["telemetry_alert_firing crash-free"] == 1
        assert after["telemetry_alert_firing disk"] == 0
        assert after["telemetry_alerts_total failed"] == 0
        page = collector.http_url
    (alert,) = receiver.alerts
    assert (alert["name"], alert["state"], alert["value"]) == ("crash-free", "firing", 0.0)
    assert alert["counts"] == {"sessions": 3, "crashed": 3, "killed": 0}
    assert alert["page"] == page
    assert 0 < alert["at"] - alert["since"] < 60_000
    for secret in (b"p-17", b"sesame-7"):
        assert secret not in receiver.bodies[0]


def test_a_session_that_reports_its_end_again_counts_once(receiver: Receiver) -> None:
    with collector_running(alerts=(receiver.url,)) as collector:
        send(collector, *crashes(2), *crashes(2), end("p-17-0", "crashed"))
        send(collector, end("running", "x", state="running"))
        send(collector, *crashes(1, "third"))
        assert wait_until(lambda: receiver.requests)
    assert receiver.alerts[0]["counts"] == {"sessions": 3, "crashed": 3, "killed": 0}


def test_sessions_with_gaps_that_nothing_explains_fire(receiver: Receiver) -> None:
    explained = [["e", 1], ["e", 5]]
    with collector_running(alerts=(receiver.url,)) as collector:
        send(
            collector,
            [event(session, seq, type="x") for session, seq in explained],  # type: ignore[arg-type]
            end("e", "stopped", 5, gaps=[[2, 4, "overflow"]]),
            *([event(f"g{n}", 1, type="x"), event(f"g{n}", 5, type="x")] for n in range(3)),
            *(end(f"g{n}", "stopped", 5) for n in range(3)),
        )
        assert wait_until(lambda: receiver.requests)
    (alert,) = receiver.alerts
    assert (alert["name"], alert["counts"]) == ("gaps", {"sessions": 4, "gaps": 3})
    assert alert["value"] == 0.75


def test_storing_that_fails_fires_and_resolves(receiver: Receiver, tmp_path: Path) -> None:
    db = tmp_path / "t.sqlite3"
    with collector_running(db=db, busy_timeout=0.05, alerts=(receiver.url,)) as collector:
        send(collector, [event("s", 1)])
        locking = sqlite3.connect(db, isolation_level=None)
        locking.execute("BEGIN IMMEDIATE")
        with client_of(collector) as client:
            client.send(json.dumps([event("s", 2)]))
            assert wait_until(lambda: len(receiver.requests) == 1)
        locking.execute("ROLLBACK")
        locking.close()
        send(collector, [event("s", 3)])
        assert wait_until(lambda: len(receiver.requests) == 2)
    firing, resolved = receiver.alerts
    assert (firing["name"], firing["state"]) == ("storing", "firing")
    assert (resolved["name"], resolved["state"]) == ("storing", "resolved")
    assert resolved["since"] == firing["since"]
    assert str(db).encode() not in b"".join(receiver.bodies)


def test_a_disk_that_fills_up_fires_and_resolves(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "_LOW_PART", 0.5)  # no disk has twice as much room as it has
    with collector_running(db=tmp_path / "t.sqlite3", alerts=(receiver.url,)):
        assert wait_until(lambda: len(receiver.requests) == 1)
        monkeypatch.setattr(space, "_LOW_PART", 1e12)
        assert wait_until(lambda: len(receiver.requests) == 2)
    states = [(alert["name"], alert["state"]) for alert in receiver.alerts]
    assert states == [("disk", "firing"), ("disk", "resolved")]


def test_crashes_and_silence_are_known_after_a_restart(receiver: Receiver, tmp_path: Path) -> None:
    db = tmp_path / "t.sqlite3"
    with collector_running(db=db) as collector:
        send(collector, *crashes(2), [event("s", 1), event("s", 3)], end("s", "killed", 3))
    options: dict[str, Any] = {"alerts": (receiver.url,), "alert_when": Conditions(silence=0.01)}
    with collector_running(db=db, public_url="https://t.example/t/", **options):
        assert wait_until(lambda: len(receiver.requests) == 2)
    by_name = {alert["name"]: alert for alert in receiver.alerts}
    assert by_name.keys() == {"crash-free", "silence"}
    assert by_name["crash-free"]["counts"] == {"sessions": 3, "crashed": 2, "killed": 1}
    assert by_name["crash-free"]["page"] == "https://t.example/t/"


def test_without_a_url_nothing_is_watched(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with collector_running() as collector:
        send(collector, *crashes(5))
        after = scrape(collector)
        assert {after[f"telemetry_alert_firing {name}"] for name in ALERTS} == {0}
    assert not [record for record in caplog.records if "Alert" in record.getMessage()]


def test_a_webhook_that_is_gone_never_stands_in_the_way(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting, "_CLOSE_TIMEOUT", 0.2)
    with raw_server(read_to_the_end) as port:
        url = f"http://127.0.0.1:{port}/{Receiver.SECRET}"
        with collector_running(alerts=(url,)) as collector:
            send(collector, *crashes(3))
            assert wait_until(lambda: scrape(collector)["telemetry_alert_firing crash-free"] == 1)
            for seq in range(2, 20):
                send(collector, [event("s", seq)])
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.getMessage().startswith("Alert: 0% of 3 sessions")
    assert Receiver.SECRET not in caplog.text


def test_urls_are_checked_at_the_start_and_not_quoted() -> None:
    good = f"https://hooks.example/{Receiver.SECRET}"
    Options(alerts=(good,)).check()
    for bad in (good[6:], good.replace("hooks", "a:b@hooks")):
        with pytest.raises(OptionsError, match="URL number 2 for alerts") as caught:
            Options(alerts=(good, bad)).check()
        assert Receiver.SECRET not in str(caught.value)
    assert Receiver.SECRET not in repr(Options(alerts=(good,)))


@pytest.mark.parametrize("url", ["t.example", "javascript:alert(1)", "https://t.example/<b>\n"])
def test_the_address_of_the_page_is_checked(url: str) -> None:
    with pytest.raises(OptionsError, match="public_url is"):
        Options(public_url=url).check()
    Options(public_url="https://t.example/prefix/").check()
