"""Reports on the wire: negotiated, stored, acknowledged; and clients that send none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.collector.clients import (
    ACKS,
    acks_up_to,
    array,
    client_of,
    event,
    game,
    have_been_read,
    locked,
    next_ack,
    read_to_the_end,
    seqs,
)
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.wait import wait_until

OFFER = {"Telemetry-Report": "1"}


def report(number: int = 1, state: str = "running", session: str = "s", **fields: Any) -> str:
    whole = {"sessionId": session, "number": number, "state": state, "startedAt": 900, "at": 2000}
    return json.dumps({"report": whole | fields})


def answered(client: ClientConnection) -> str | None:
    assert client.response is not None
    return client.response.headers.get("Telemetry-Report")


def outcome(collector: RunningCollector, session: str = "s") -> str:
    (found,) = [each for each in collector.sessions if each.session_id == session]
    return found.outcome


@pytest.mark.parametrize(
    ("offer", "answer"),
    [(None, None), ("1", "1"), (" 1 ", "1"), ("2, 1", "1"), ("2", None), ("", None), ("11", None)],
)
def test_reports_are_taken_from_who_offers_them(
    offer: str | None, answer: str | None, collector: RunningCollector
) -> None:
    headers = {} if offer is None else {"Telemetry-Report": offer}
    with connect(collector.url, additional_headers=headers, proxy=None) as client:
        assert answered(client) == answer


@pytest.mark.parametrize("headers", [ACKS, ACKS | OFFER], ids=["not offered", "offered"])
def test_report_is_acknowledged_like_any_message(
    headers: dict[str, str], collector: RunningCollector
) -> None:
    with connect(collector.url, additional_headers=headers, proxy=None) as client:
        client.send(report())
        assert next_ack(client) == 1
        client.send(array(1, 2))
        client.send(report(2, "ended", reason="crashed", lastSeq=2))
        assert acks_up_to(client, 3)[-1] == 3
        assert outcome(collector) == "crashed"
    assert seqs(collector) == [1, 2]
    assert collector.stats().rejected == 0


def test_report_alone_is_committed_before_its_ack(collector: RunningCollector) -> None:
    with client_of(collector) as client:
        with locked(collector.db):
            client.send(report())
            have_been_read(collector, client)
            with pytest.raises(TimeoutError):
                client.recv(timeout=0.05)
        assert next_ack(client) == 1
        assert outcome(collector) == "running"


def test_report_that_cannot_be_stored_is_not_acknowledged(tmp_path: Path) -> None:
    with collector_running(db=tmp_path / "telemetry.sqlite3", busy_timeout=0.05) as collector:
        with client_of(collector) as client, locked(collector.db):
            client.send(report())
            assert read_to_the_end(client) == ([], 1013)
        assert collector.get("/healthz").status == 503
        with client_of(collector) as client:
            client.send(report())
            assert next_ack(client) == 1
        assert collector.get("/healthz").status == 200, "a report shows that storing works again"


def test_malformed_report_is_rejected_and_acknowledged(collector: RunningCollector) -> None:
    with client_of(collector) as client:
        client.send(report(number="three"))
        client.send(array(1))
        assert acks_up_to(client, 2)[-1] == 2
    (rejected,) = collector.rejected
    assert rejected.reason == "Expected `int`, got `str` - at `$.report.number`"
    assert [session.reported for session in collector.sessions] == [None]


def test_reports_count_toward_the_rate(tmp_path: Path) -> None:
    with collector_running(db=tmp_path / "telemetry.sqlite3", max_rate=1) as collector:
        with client_of(collector) as client:
            for number in range(1, 12):
                client.send(report(number))
            acks, code = read_to_the_end(client)
        assert (acks[-1], code) == (10, 1008)


# Who is connected.


def test_session_is_connected_by_its_report_alone(collector: RunningCollector) -> None:
    with client_of(collector) as client:
        client.send(report())
        assert next_ack(client) == 1
        assert collector.sessions[0].connected
    assert wait_until(lambda: not collector.sessions[0].connected, PATIENCE)


def test_end_of_a_session_that_was_taken_over_is_not_that_of_its_client(
    collector: RunningCollector,
) -> None:
    with client_of(collector) as client:
        client.send(report(session="own"))
        client.send(array(1, 2, session="dead"))
        client.send(report(9, "ended", "dead", reason="killed", lastSeq=2))
        assert acks_up_to(client, 3)[-1] == 3
        standing = {each.session_id: (each.connected, each.outcome) for each in collector.sessions}
        assert standing == {"own": (True, "running"), "dead": (False, "killed")}


def test_many_sessions_that_were_taken_over_do_not_hide_the_clients_own(
    collector: RunningCollector,
) -> None:
    with client_of(collector) as client:
        client.send(report(session="own"))
        for number in range(50):
            client.send(array(1, session=f"dead {number}"))
            client.send(report(9, "ended", f"dead {number}", reason="killed", lastSeq=1))
        assert acks_up_to(client, 101)[-1] == 101
        connected = [each.session_id for each in collector.sessions if each.connected]
        assert connected == ["own"]


# Clients of this version and of the one before.


def test_game_is_named_as_it_ended(collector: RunningCollector) -> None:
    with game(collector, session_id="s", version="1.4") as telemetry:
        telemetry.emit("hit")
        assert telemetry.flush(PATIENCE)
        assert outcome(collector) == "running"
    assert outcome(collector) == "well"
    (session,) = collector.sessions
    assert (session.reason, session.last_seq, session.missing) == ("stopped", 1, 0)
    assert session.started_at is not None
    assert session.started_at <= session.first_timestamp <= session.since


def test_game_without_reports_is_served_as_before(collector: RunningCollector) -> None:
    with game(collector, session_id="s", reports="none") as telemetry:
        telemetry.emit("hit")
        assert telemetry.flush(PATIENCE)
    assert seqs(collector) == [1]
    (session,) = collector.sessions
    assert (session.reported, session.outcome, session.last_seq) == (None, "running", None)


def test_wire_of_the_version_before_is_answered_as_before(collector: RunningCollector) -> None:
    """All that a client of the version before sends, and all that it is sent."""
    headers = {"User-Agent": "redvsblue-telemetry/0.1", **ACKS}
    with connect(collector.url, additional_headers=headers, proxy=None) as client:
        assert client.response is not None
        assert client.response.headers["Telemetry-Ack"] == "cumulative"
        assert answered(client) is None
        client.send(json.dumps([event(1), event(2, version="1.0")]))
        assert next_ack(client) == 1
        client.send(json.dumps([event(2, version="1.0"), event(5)]))
        assert next_ack(client) == 2
        pong = client.ping(b"7")
        assert pong.wait(PATIENCE)
    assert seqs(collector) == [1, 2, 5]
    (session,) = collector.sessions
    assert (session.missing, session.lost, session.repeats) == (2, {"unexplained": 2}, 1)
