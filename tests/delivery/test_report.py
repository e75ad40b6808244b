"""Reports on a session as a whole: when they are sent, and whether they are right."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection

from redvsblue_telemetry import (
    ConnectionState,
    Telemetry,
    TelemetryEvent,
    TelemetrySettings,
    start_telemetry,
)
from redvsblue_telemetry._delivery import report as reports_of_this_run
from redvsblue_telemetry._delivery.report import outside
from redvsblue_telemetry._journal.store import JournalStore
from redvsblue_telemetry.testing import RecordingServer
from tests.support.ports import own_port
from tests.support.wait import wait_until
from tests.support.websocket_server import websocket_server

QUICK: dict[str, Any] = {"enabled": True, "backoff_base": 0.02, "backoff_max": 0.1}
CONFIRM_TIMEOUT = TelemetrySettings().confirm_timeout  # a stop that ignored its own would take it


def last_report(server: RecordingServer) -> dict[str, Any]:
    assert server.reports
    return server.reports[-1]


def assert_adds_up(report: dict[str, Any]) -> None:
    """A report is consistent with itself."""
    dropped = sum(report["dropped"].values())
    assert report["emitted"] == report["delivered"] + dropped + report["buffered"]
    counts: dict[str, int] = {}
    for first, last, reason in report["gaps"]:
        assert 1 <= first <= last <= report["lastSeq"]
        counts[reason] = counts.get(reason, 0) + last - first + 1
    for reason, count in report["dropped"].items():
        assert counts[reason] == count  # none of them had to be merged


def wait_for_reports(server: RecordingServer, count: int) -> bool:
    return wait_until(lambda: len(server.reports) >= count)


# When one is sent.


def test_one_is_sent_when_a_connection_opens_before_any_event() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, version="1.4.2")
        assert wait_for_reports(server, 1)
        report = server.reports[0]
        assert (report["state"], report["number"], report["lastSeq"]) == ("running", 1, 0)
        assert report["sessionId"] == telemetry.session_id
        assert (report["version"], report["sdk"]) == ("1.4.2", "0.2.0")
        assert "reason" not in report
        assert abs(report["at"] - time.time() * 1000) < 60_000
        assert server.messages == []


def test_the_last_message_of_a_stop_is_a_report_with_all_counts() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        for number in range(120):
            telemetry.emit("tick", number=number)
        assert telemetry.stop(5)
        report = last_report(server)
        assert (report["state"], report["reason"]) == ("ended", "stopped")
        assert (report["lastSeq"], report["emitted"], report["delivered"]) == (120, 120, 120)
        assert (report["buffered"], report["dropped"], report["gaps"]) == (0, {}, [])
        assert report["number"] == 2
        assert_adds_up(report)


@pytest.mark.parametrize("acks", [True, False])
def test_each_connection_begins_with_one(acks: bool) -> None:
    with RecordingServer(acks=acks) as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        for times in range(1, 4):
            assert wait_for_reports(server, times)
            telemetry.emit("x")
            assert telemetry.flush(5)
            server.disconnect()
        assert wait_for_reports(server, 4)
        numbers = [report["number"] for report in server.reports]
        assert numbers == sorted(set(numbers))
        assert [report["reconnects"] for report in server.reports[:4]] == [0, 1, 2, 3]
        assert {report["startedAt"] for report in server.reports} == {
            server.reports[0]["startedAt"]
        }


def test_a_change_is_reported_after_a_while_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports_of_this_run, "_INTERVAL", 0.2)
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, drain_interval=0.02)
        assert wait_for_reports(server, 1)
        since = time.monotonic()
        telemetry.emit("x")
        assert wait_for_reports(server, 2)
        assert time.monotonic() - since >= 0.2
        # One report, unless the event was still under way when it was written.
        assert wait_until(lambda: last_report(server)["delivered"] == 1)
        count = len(server.reports)
        assert count <= 3
        telemetry.push({"data": {}})  # has no type
        assert wait_until(lambda: last_report(server)["rejected"] == 1)
        time.sleep(0.6)  # three times as long, without a change
        assert len(server.reports) == count + 1


def test_nothing_changes_without_a_change() -> None:
    """A report is sent at the connect, and then none while half a minute has not passed."""
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, drain_interval=0.01)
        for _ in range(50):
            telemetry.emit("x")
            assert telemetry.flush(5)
        assert len(server.reports) == 1


# To whom.


def test_a_server_that_takes_none_gets_none() -> None:
    with RecordingServer(reports=False) as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        telemetry.emit("x")
        assert telemetry.stop(5)
        assert server.requests[0].headers["Telemetry-Report"] == "1"
        assert server.reports == []
        assert len(server.messages) == 1


def test_reports_none_offers_none_and_sends_none() -> None:
    def answer(connection: object, request: Request, response: Response) -> Response:
        response.headers["Telemetry-Report"] = "1"  # unasked
        return response

    received: list[str | bytes] = []

    def receive(connection: ServerConnection) -> None:
        received.extend(connection)

    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, reports="none")
        telemetry.emit("x")
        assert telemetry.stop(5)
        assert "Telemetry-Report" not in server.requests[0].headers
        assert server.reports == []
    with websocket_server(receive, process_response=answer) as url:
        telemetry = start_telemetry(**QUICK, url=url, reports="none")
        telemetry.emit("x")
        assert telemetry.stop(5)
        assert wait_until(lambda: len(received) == 1)
        assert json.loads(received[0])[0]["type"] == "x"


def test_another_version_of_reports_is_none() -> None:
    def answer(connection: object, request: Request, response: Response) -> Response:
        response.headers["Telemetry-Report"] = "2"
        return response

    received: list[str | bytes] = []

    def receive(connection: ServerConnection) -> None:
        received.extend(connection)

    with websocket_server(receive, process_response=answer) as url:
        telemetry = start_telemetry(**QUICK, url=url)
        telemetry.emit("x")
        assert telemetry.stop(5)
        assert wait_until(lambda: len(received) == 1)


# On the wire.


def test_ndjson_has_it_on_a_line_of_its_own() -> None:
    received: list[str] = []

    def answer(connection: object, request: Request, response: Response) -> Response:
        response.headers["Telemetry-Report"] = "1"
        return response

    def receive(connection: ServerConnection) -> None:
        for message in connection:
            assert isinstance(message, str)
            received.append(message)

    with websocket_server(receive, process_response=answer) as url:
        telemetry = start_telemetry(**QUICK, url=url, wire_format="ndjson")
        telemetry.emit("x")
        assert telemetry.stop(5)
        assert wait_until(lambda: len(received) == 3)
    assert [sorted(json.loads(message)) for message in received[::2]] == [["report"]] * 2
    assert all(message.endswith("}}\n") and message.count("\n") == 1 for message in received[::2])
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, wire_format="ndjson")
        telemetry.emit("x")
        assert telemetry.stop(5)
        assert len(server.messages) == 1
        assert [report["state"] for report in server.reports] == ["running", "ended"]


def test_without_proof_it_counts_as_confirmed_once_it_is_sent() -> None:
    with RecordingServer(acks=False) as server:
        telemetry = start_telemetry(**QUICK, url=server.url, confirm="none")
        telemetry.emit("x")
        assert telemetry.stop(5)
        assert wait_until(lambda: len(server.reports) == 2)
        assert last_report(server)["delivered"] == 1


def test_it_has_no_more_bytes_than_a_message_may_have() -> None:
    sizes: list[int] = []

    def answer(connection: object, request: Request, response: Response) -> Response:
        response.headers["Telemetry-Report"] = "1"
        return response

    def receive(connection: ServerConnection) -> None:
        sizes.extend(len(message) for message in connection)

    with websocket_server(receive, process_response=answer) as url:
        telemetry = start_telemetry(
            **QUICK,
            url=url,
            max_batch_bytes=2000,
            before_send=lambda event: event if event.seq and event.seq % 2 else None,
        )
        for _ in range(500):
            telemetry.emit("x")
        assert telemetry.stop(5)
    assert max(sizes) <= 2000
    assert sizes[-1] > 1000  # the newest gaps are in it


# What is in one.


def test_each_drop_is_explained_by_its_reason() -> None:
    def review(event: TelemetryEvent) -> TelemetryEvent | None:
        if event.type == "broken":
            raise ValueError(event.type)
        return None if event.type == "secret" else event

    port = own_port()
    telemetry = start_telemetry(
        **QUICK, url=f"ws://127.0.0.1:{port}/", capacity=10, before_send=review
    )
    for _ in range(15):
        telemetry.emit("old")  # 1 to 15, of which 1 to 10 overflow
    telemetry.emit("secret")  # 16
    telemetry.emit("broken")  # 17
    telemetry.push({"type": "replayed", "seq": 99})  # 18
    telemetry.push({"type": "of another game", "sessionId": "other"})  # 19
    telemetry.push({"type": "its own", "seq": 20})
    with RecordingServer(port=port) as server:
        assert telemetry.stop(5)
        report = last_report(server)
    assert report["gaps"] == [
        [1, 10, "overflow"],
        [16, 16, "filtered"],
        [17, 17, "rejected"],
        [18, 19, "forwarded"],
    ]
    assert report["dropped"] == {"overflow": 10, "filtered": 1}
    assert (report["lastSeq"], report["emitted"], report["delivered"]) == (20, 19, 8)
    assert report["rejected"] == 1
    assert_adds_up(report)
    stored = {event["seq"] for event in server.events if event["sessionId"] == report["sessionId"]}
    explained = {n for first, last, _ in report["gaps"] for n in range(first, last + 1)}
    assert stored - {99} | explained == set(range(1, 21))


def test_an_event_that_the_server_refuses_is_explained() -> None:
    def receive(connection: ServerConnection, reports: list[Any]) -> None:
        for number, message in enumerate(connection, start=1):
            parts = json.loads(message)
            if isinstance(parts, dict):
                reports.append(parts["report"])
            elif any(event["type"] == "poison" for event in parts):
                connection.close(1009)
                return
            connection.send(json.dumps({"ack": number}))

    with taking(receive) as (url, reports):
        telemetry = start_telemetry(**QUICK, url=url)
        for number in range(20):
            telemetry.emit("poison" if number == 11 else "fine")
        assert wait_until(lambda: telemetry.stats().delivered == 19)
        assert telemetry.stop(5)
        assert reports[-1]["gaps"] == [[12, 12, "refused"]]
        assert reports[-1]["dropped"] == {"refused": 1}
        assert_adds_up(reports[-1])


@contextlib.contextmanager
def taking(
    receive: Callable[[ServerConnection, list[Any]], None],
) -> Iterator[tuple[str, list[Any]]]:
    """Run a server that takes acks and reports; yields its URL, and a list for its reports."""
    reports: list[Any] = []

    def answer(connection: object, request: Request, response: Response) -> Response:
        response.headers["Telemetry-Ack"] = "cumulative"
        response.headers["Telemetry-Report"] = request.headers["Telemetry-Report"]
        return response

    with websocket_server(lambda client: receive(client, reports), process_response=answer) as url:
        yield url, reports


# A server that is no good for reports.


@pytest.mark.parametrize("code", [1003, 1007, 1008, 1009, 1011])
def test_a_server_that_refuses_reports_gets_no_more_and_all_events(
    code: int, caplog: pytest.LogCaptureFixture
) -> None:
    arrived: list[int] = []

    def receive(connection: ServerConnection, reports: list[Any]) -> None:
        for number, message in enumerate(connection, start=1):
            parts = json.loads(message)
            if isinstance(parts, dict):
                reports.append(parts)
                connection.close(code)
                return
            arrived.extend(event["seq"] for event in parts)
            connection.send(json.dumps({"ack": number}))

    with taking(receive) as (url, reports):
        telemetry = start_telemetry(**QUICK, url=url, drain_interval=0.01)
        for _ in range(500):
            telemetry.emit("x", text="y" * 100)
        assert wait_until(lambda: telemetry.stats().delivered == 500)
        stats = telemetry.stats()
        assert (stats.dropped, stats.reconnects) == (0, len(reports))
        assert len(reports) <= 5
        assert telemetry.stop(5)
    assert sorted(set(arrived)) == list(range(1, 501))
    (warning,) = [r for r in caplog.records if "no more of them" in r.getMessage()]
    assert warning.levelno == logging.WARNING


def test_a_server_that_can_not_bear_a_late_report_drops_no_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A report behind a single event is refused: the event must not be taken for the cause."""
    monkeypatch.setattr(reports_of_this_run, "_INTERVAL", 0.05)
    arrived: list[int] = []

    def receive(connection: ServerConnection, reports: list[Any]) -> None:
        held = 0
        for number, message in enumerate(connection, start=1):
            parts = json.loads(message)
            if isinstance(parts, dict):
                reports.append(parts)
                if len(reports) > 1:
                    connection.close(1009)
                    return
            else:
                arrived.extend(event["seq"] for event in parts)
                held = number
                if len(reports) == 1:
                    continue  # it is not confirmed before the report comes
            connection.send(json.dumps({"ack": max(held, number)}))

    with taking(receive) as (url, reports):
        telemetry = start_telemetry(**QUICK, url=url, drain_interval=0.01)
        assert wait_until(lambda: len(reports) == 1)
        telemetry.emit("alone")
        assert wait_until(lambda: telemetry.stats().delivered == 1)
        assert telemetry.stats().dropped == 0
        assert telemetry.stop(5)
    assert set(arrived) == {1}


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1013, None])
def test_a_server_that_takes_a_report_and_slams_the_door_is_not_hammered(code: int | None) -> None:
    connections = 0

    def receive(connection: ServerConnection, reports: list[Any]) -> None:
        nonlocal connections
        connections += 1
        for message in connection:
            reports.append(json.loads(message)["report"])
            connection.send(json.dumps({"ack": 1}))
            if code is None:
                connection.socket.shutdown(socket.SHUT_RDWR)
            else:
                connection.close(code)
            return

    with taking(receive) as (url, reports):
        settings: dict[str, Any] = {"backoff_base": 10, "backoff_max": 10, "enabled": True}
        telemetry = start_telemetry(**settings, url=url)
        assert wait_until(lambda: telemetry.stats().last_error is not None)
        time.sleep(0.5)
        assert connections <= 2  # a random wait of up to ten seconds can be short once
        assert len(reports) == connections
        assert not telemetry.stats().delivered


def test_a_report_that_is_never_confirmed_means_a_dead_connection() -> None:
    def receive(connection: ServerConnection, reports: list[Any]) -> None:
        reports.extend(json.loads(message)["report"] for message in connection)

    with taking(receive) as (url, reports):
        telemetry = start_telemetry(**QUICK, url=url, confirm_timeout=0.2)
        assert wait_until(lambda: len(reports) >= 3)
        assert "confirmed nothing" in str(telemetry.stats().last_error)
        numbers = [report["number"] for report in reports]
        assert numbers == list(range(1, len(numbers) + 1))
        telemetry.stop(0)


# A stop.


def test_a_stop_whose_time_runs_out_reports_what_is_left_behind() -> None:
    def receive(connection: ServerConnection, reports: list[Any]) -> None:
        for number, message in enumerate(connection, start=1):
            parts = json.loads(message)
            if isinstance(parts, dict):
                reports.append(parts["report"])
                if number == 1:
                    connection.send(json.dumps({"ack": 1}))

    with taking(receive) as (url, reports):
        telemetry = start_telemetry(**QUICK, url=url)
        assert wait_until(lambda: len(reports) == 1)
        for _ in range(120):
            telemetry.emit("x")
        since = time.monotonic()
        assert not telemetry.stop(1)
        assert time.monotonic() - since < CONFIRM_TIMEOUT / 2
        assert wait_until(lambda: len(reports) == 2)
        report = reports[-1]
        assert (report["state"], report["reason"]) == ("ended", "stopped")
        assert report["dropped"] == {"left_behind": 120}
        assert report["gaps"] == [[1, 120, "left_behind"]]
        assert (report["delivered"], report["buffered"]) == (0, 0)
        assert wait_until(lambda: telemetry.stats().dropped_by["left_behind"] == 120)


def confirm_all_but_the_last(connection: ServerConnection, reports: list[Any]) -> None:
    """Take events and reports, and never confirm a last report."""
    for number, message in enumerate(connection, start=1):
        parts = json.loads(message)
        if isinstance(parts, dict):
            reports.append(parts["report"])
        if not isinstance(parts, dict) or parts["report"]["state"] == "running":
            connection.send(json.dumps({"ack": number}))


def test_a_last_report_that_is_not_confirmed_changes_no_result_and_keeps_the_time() -> None:
    with taking(confirm_all_but_the_last) as (url, reports):
        telemetry = start_telemetry(**QUICK, url=url)
        telemetry.emit("x")
        since = time.monotonic()
        assert telemetry.stop(0.5)
        assert time.monotonic() - since < CONFIRM_TIMEOUT / 2
        assert wait_until(lambda: reports[-1]["state"] == "ended")


def test_a_stop_with_no_time_returns_at_once_and_still_sends_it() -> None:
    with taking(confirm_all_but_the_last) as (url, reports):
        telemetry = start_telemetry(**QUICK, url=url)
        telemetry.emit("x")
        assert telemetry.flush(20)
        since = time.monotonic()
        telemetry.stop(0)  # it doesn't wait for the confirmation, which never comes
        assert time.monotonic() - since < CONFIRM_TIMEOUT / 2
        assert wait_until(lambda: reports[-1]["state"] == "ended")


@pytest.mark.parametrize("reports", [True, False])
@pytest.mark.parametrize("confirm", ["auto", "none"])
def test_a_stop_is_quick_when_all_is_delivered(reports: bool, confirm: str) -> None:
    with RecordingServer(reports=reports) as server:
        telemetry = start_telemetry(**QUICK, url=server.url, confirm=confirm)
        telemetry.emit("x")
        assert telemetry.flush(5)
        since = time.monotonic()
        assert telemetry.stop(20)
        assert time.monotonic() - since < 10


def test_a_stop_without_a_server_takes_no_longer_than_it_did() -> None:
    port = own_port()
    telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
    assert wait_until(lambda: telemetry.stats().last_error is not None)
    since = time.monotonic()
    assert telemetry.stop(20)
    assert time.monotonic() - since < 10


def test_a_connection_that_is_lost_during_the_goodbye_ends_the_stop() -> None:
    def receive(connection: ServerConnection, reports: list[Any]) -> None:
        for number, message in enumerate(connection, start=1):
            reports.append(json.loads(message)["report"])
            if number == 2:
                connection.socket.shutdown(socket.SHUT_RDWR)
                return
            connection.send(json.dumps({"ack": number}))

    with taking(receive) as (url, reports):
        telemetry = start_telemetry(**QUICK, url=url)
        assert wait_until(lambda: len(reports) == 1)
        since = time.monotonic()
        assert telemetry.stop(20)
        assert time.monotonic() - since < 5
        assert [report["state"] for report in reports] == ["running", "ended"]


# The player's toggle.


def test_switching_off_sends_one_last_report_and_on_again_another() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, drain_interval=60)
        telemetry.emit("before")
        assert telemetry.flush(5)
        telemetry.emit("pending")
        telemetry.emit("pending")
        telemetry.enabled = False
        assert wait_until(lambda: last_report(server)["state"] == "ended")
        report = last_report(server)
        assert report["reason"] == "switched_off"
        assert report["gaps"] == [[2, 3, "switched_off"]]
        assert report["dropped"] == {"switched_off": 2}
        assert_adds_up(report)
        assert wait_until(lambda: server.connections == 0)
        telemetry.emit("not recorded")
        count = len(server.reports)
        time.sleep(0.3)
        assert len(server.reports) == count
        telemetry.enabled = True
        assert wait_for_reports(server, count + 1)
        assert last_report(server)["state"] == "running"
        assert "reason" not in last_report(server)
        telemetry.emit("after")
        assert telemetry.stop(5)
        assert last_report(server)["reason"] == "stopped"
        assert last_report(server)["gaps"] == [[2, 3, "switched_off"]]
        assert [event["seq"] for event in server.events] == [1, 4]


def test_switching_off_with_events_in_flight_sends_nothing() -> None:
    has_arrived = threading.Event()

    def receive(connection: ServerConnection, reports: list[Any]) -> None:
        for message in connection:
            parts = json.loads(message)
            if isinstance(parts, dict):
                reports.append(parts["report"])
                connection.send(json.dumps({"ack": 1}))
            else:
                has_arrived.set()

    with taking(receive) as (url, reports):
        telemetry = start_telemetry(**QUICK, url=url, drain_interval=0.01)
        assert wait_until(lambda: len(reports) == 1)
        telemetry.emit("x")
        assert has_arrived.wait(20)  # before it is sent, it is in flight as well
        telemetry.enabled = False
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.IDLE)
        telemetry.stop(5)
        assert [report["state"] for report in reports] == ["running"]


def test_a_stop_after_switching_off_says_nothing() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        telemetry.emit("x")
        assert telemetry.flush(5)
        telemetry.enabled = False
        assert wait_until(lambda: last_report(server)["state"] == "ended")
        telemetry.stop(5)
        assert [report.get("reason") for report in server.reports] == [None, "switched_off"]


def test_a_host_without_a_network_sends_no_last_word() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        assert wait_for_reports(server, 1)
        telemetry.set_online(False)
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.OFFLINE)
        assert telemetry.stop(5)
        assert [report["state"] for report in server.reports] == ["running"]


# With a journal.


def saved_reports(journal: Path) -> list[dict[str, Any]]:
    """Return the reports in a journal, as they were saved last."""
    files = sorted(journal.glob("*/redvsblue.report"))
    return [json.loads(file.read_bytes())["report"] for file in files]


def saved(journal: Path) -> dict[str, Any]:
    """Return the report of the only run in a journal."""
    (report,) = saved_reports(journal)
    return report


def has_taken_over(telemetry: Telemetry) -> bool:
    """Whether nothing is left of earlier runs."""
    connector = telemetry._connector
    return connector is not None and connector.adoption.is_done


def test_a_report_is_saved_from_the_start_on_and_gone_after_a_good_end(tmp_path: Path) -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, journal=tmp_path)
        assert wait_until(lambda: saved_reports(tmp_path))
        assert (saved(tmp_path)["state"], saved(tmp_path)["lastSeq"]) == ("running", 0)
        assert saved(tmp_path)["sessionId"] == telemetry.session_id
        telemetry.emit("x")
        telemetry.push({"data": {}})  # has no type
        assert telemetry.flush(5)
        assert wait_until(lambda: saved(tmp_path)["rejected"] == 1)  # within a second or so
        assert wait_until(lambda: saved(tmp_path)["delivered"] == 1)
        assert telemetry.stop(5)
        assert last_report(server)["reason"] == "stopped"
        assert list(tmp_path.iterdir()) == []


def test_a_saved_number_is_never_lower_than_a_sent_one(tmp_path: Path) -> None:
    numbers: list[tuple[int, int]] = []

    def receive(connection: ServerConnection, reports: list[Any]) -> None:
        for number, message in enumerate(connection, start=1):
            reports.append(json.loads(message)["report"])
            numbers.append((reports[-1]["number"], saved(tmp_path)["number"]))
            connection.send(json.dumps({"ack": number}))
            if len(reports) < 5:
                connection.socket.shutdown(socket.SHUT_RDWR)

    with taking(receive) as (url, reports):
        telemetry = start_telemetry(**QUICK, url=url, journal=tmp_path)
        assert wait_until(lambda: len(reports) >= 5)
        assert telemetry.stop(5)
    assert len(numbers) >= 6
    assert all(in_file >= sent for sent, in_file in numbers)
    assert [sent for sent, _ in numbers] == list(range(1, len(numbers) + 1))


def test_the_reason_of_a_gap_is_saved_before_its_event_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm = JournalStore.confirm
    unexplained: list[int] = []
    settled = 0

    def check(store: JournalStore, number: int) -> None:
        nonlocal settled
        explained = [range(first, last + 1) for first, last, _ in saved(tmp_path)["gaps"]]
        unexplained.extend(
            each
            for each in range(settled + 1, number + 1)
            if each % 3 == 0 and not any(each in numbers for numbers in explained)
        )
        settled = max(settled, number)
        confirm(store, number)

    monkeypatch.setattr(JournalStore, "confirm", check)
    with RecordingServer() as server:
        telemetry = start_telemetry(
            **QUICK,
            url=server.url,
            journal=tmp_path,
            drain_interval=0.01,
            before_send=lambda event: event if event.seq and event.seq % 3 else None,
        )
        for _ in range(900):
            telemetry.emit("x")
            time.sleep(0.0005)
        assert telemetry.stop(5)
        assert settled == 900
        assert unexplained == []
        assert last_report(server)["dropped"] == {"filtered": 300}
        assert_adds_up(last_report(server))


@pytest.mark.parametrize("settings", [{"capacity": 100}, {"journal_max_bytes": 1_000_000}])
def test_what_the_journal_drops_is_explained(tmp_path: Path, settings: dict[str, int]) -> None:
    port = own_port()
    telemetry = start_telemetry(
        **QUICK, url=f"ws://127.0.0.1:{port}/", journal=tmp_path, **settings
    )
    for number in range(8_000):
        telemetry.emit("x", number=number, text="y" * 200)
        if number % 1000 == 0:
            time.sleep(0.01)
    with RecordingServer(port=port) as server:
        telemetry.flush(20)
        telemetry.stop(20)
        report = last_report(server)
        stats = telemetry.stats()
        arrived = {event["seq"] for event in server.events}
    reason = "overflow" if "capacity" in settings else "expired"
    assert report["dropped"] == {reason: stats.dropped}
    assert stats.dropped > 1000
    assert_adds_up(report)
    explained = {n for first, last, _ in report["gaps"] for n in range(first, last + 1)}
    assert explained | arrived == set(range(1, 8_001))
    assert not explained & arrived


def test_what_a_stop_leaves_in_the_journal_waits_there(tmp_path: Path) -> None:
    def receive(connection: ServerConnection, reports: list[Any]) -> None:
        for number, message in enumerate(connection, start=1):
            parts = json.loads(message)
            if isinstance(parts, dict):
                reports.append(parts["report"])
                if number == 1:
                    connection.send(json.dumps({"ack": 1}))

    with taking(receive) as (url, reports):
        telemetry = start_telemetry(**QUICK, url=url, journal=tmp_path, drain_interval=0.01)
        assert wait_until(lambda: len(reports) == 1)
        for _ in range(70):
            telemetry.emit("x")
        assert not telemetry.stop(1)
        assert wait_until(lambda: len(reports) == 2)
        report = reports[-1]
        assert (report["state"], report["buffered"], report["delivered"]) == ("ended", 70, 0)
        assert (report["dropped"], report["gaps"]) == ({}, [])
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.STOPPED)
        assert saved(tmp_path)["reason"] == "stopped"
    with RecordingServer() as server:
        with Telemetry(TelemetrySettings(**QUICK, url=server.url, journal=tmp_path)) as again:
            assert wait_until(lambda: any(r["state"] == "ended" for r in server.reports))
            assert wait_until(lambda: has_taken_over(again))
            assert again.stop(5)
        of_old = [r for r in server.reports if r["sessionId"] == telemetry.session_id]
    (closing,) = of_old
    assert (closing["state"], closing["reason"]) == ("ended", "stopped")
    assert (closing["delivered"], closing["buffered"], closing["lastSeq"]) == (70, 0, 70)
    assert closing["number"] > report["number"]
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_during_its_stop_was_stopped(tmp_path: Path) -> None:
    port = own_port()
    telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/", journal=tmp_path)
    telemetry.emit("x")
    assert wait_until(lambda: any(tmp_path.glob("*/*.report")))
    stopping = threading.Thread(target=telemetry.stop, args=(30,))
    stopping.start()
    # The next start would find this.
    assert wait_until(lambda: saved(tmp_path).get("reason") == "stopped")
    assert (saved(tmp_path)["state"], saved(tmp_path)["buffered"]) == ("ended", 1)
    assert stopping.is_alive()
    assert not telemetry.stop(0)
    stopping.join(30)
    assert not stopping.is_alive()


def test_an_end_without_a_server_is_reported_by_the_next_start(tmp_path: Path) -> None:
    port = own_port()
    telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/", journal=tmp_path)
    telemetry.push({"data": {}})  # nothing that would have to be delivered
    assert telemetry.stop(5)
    assert (saved(tmp_path)["reason"], saved(tmp_path)["rejected"]) == ("stopped", 1)
    with RecordingServer(port=port) as server:
        again = start_telemetry(**QUICK, url=server.url, journal=tmp_path)
        assert wait_until(lambda: telemetry.session_id in {r["sessionId"] for r in server.reports})
        assert wait_until(lambda: has_taken_over(again))
        assert again.stop(5)
        (report,) = [r for r in server.reports if r["sessionId"] == telemetry.session_id]
    assert (report["state"], report["reason"], report["rejected"]) == ("ended", "stopped", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_takes_no_reports_leaves_none_behind(tmp_path: Path) -> None:
    with RecordingServer(reports=False) as server:
        telemetry = start_telemetry(**QUICK, url=server.url, journal=tmp_path)
        telemetry.emit("x")
        assert telemetry.stop(5)
    assert list(tmp_path.iterdir()) == []


def test_reports_none_saves_none(tmp_path: Path) -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, journal=tmp_path, reports="none")
        for _ in range(3):
            telemetry.emit("x")
            assert telemetry.flush(5)
        assert saved_reports(tmp_path) == []
        telemetry.stop(5)
        url = server.url
    start_telemetry(**QUICK, url=url, journal=tmp_path, reports="none").stop(5)
    assert list(tmp_path.iterdir()) == []


def test_switching_off_leaves_no_report_and_on_again_saves_one_with_the_gap(tmp_path: Path) -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, journal=tmp_path, drain_interval=60)
        telemetry.emit("before")
        assert telemetry.flush(5)
        telemetry.emit("pending")
        telemetry.enabled = False
        assert wait_until(lambda: not saved_reports(tmp_path))
        assert wait_until(lambda: last_report(server)["state"] == "ended")
        assert last_report(server)["gaps"] == [[2, 2, "switched_off"]]
        time.sleep(0.2)
        assert saved_reports(tmp_path) == []
        telemetry.enabled = True
        assert wait_until(lambda: saved_reports(tmp_path))
        assert saved(tmp_path)["gaps"] == [[2, 2, "switched_off"]]
        assert saved(tmp_path)["startedAt"] == server.reports[0]["startedAt"]
        assert telemetry.stop(5)


def test_a_directory_that_can_not_be_used_makes_what_is_left_behind_lost(tmp_path: Path) -> None:
    def receive(connection: ServerConnection, reports: list[Any]) -> None:
        for number, message in enumerate(connection, start=1):
            parts = json.loads(message)
            if isinstance(parts, dict):
                reports.append(parts["report"])
                if number == 1:
                    connection.send(json.dumps({"ack": 1}))

    (tmp_path / "file").touch()
    with taking(receive) as (url, reports):
        telemetry = start_telemetry(
            **QUICK, url=url, journal=tmp_path / "file", drain_interval=0.01, batch_size=20
        )
        assert wait_until(lambda: len(reports) == 1)
        for _ in range(70):
            telemetry.emit("x")
        assert not telemetry.stop(1)
        assert wait_until(lambda: len(reports) == 2)
        assert reports[-1]["dropped"] == {"left_behind": 70}
        assert reports[-1]["gaps"] == [[1, 70, "left_behind"]]
        assert wait_until(lambda: telemetry.stats().dropped_by["left_behind"] == 70)


@given(
    numbers=st.sets(st.integers(1, 40)).map(sorted),
    runs=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), max_size=5),
)
def test_what_is_outside_of_runs(numbers: list[int], runs: list[tuple[int, int]]) -> None:
    inside = {n for first, more in runs for n in range(first, first + more)}
    ordered = [(n, n) for n in sorted(inside)]
    assert list(outside(numbers, ordered)) == [n for n in numbers if n not in inside]
    assert list(outside(numbers, [])) == numbers
