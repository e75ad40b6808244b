"""Reports on a session as a whole: when they are sent, and whether they are right."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from redvsblue_telemetry import start_telemetry
from redvsblue_telemetry._delivery import report as reports_of_this_run
from redvsblue_telemetry.testing import RecordingServer
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {"enabled": True, "backoff_base": 0.02, "backoff_max": 0.1}


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
        assert server.reports[1]["delivered"] == 1
        telemetry.push({"data": {}})  # has no type
        assert wait_for_reports(server, 3)
        assert server.reports[2]["rejected"] == 1
        time.sleep(0.6)  # three times as long, without a change
        assert len(server.reports) == 3


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
    with running(receive, process_response=answer) as url:
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

    with running(receive, process_response=answer) as url:
        telemetry = start_telemetry(**QUICK, url=url)
        telemetry.emit("x")
        assert telemetry.stop(5)
        assert wait_until(lambda: len(received) == 1)


@contextlib.contextmanager
def running(handler: Any, **options: Any) -> Iterator[str]:
    """Run a server of websockets; yields its URL."""
    with serve(handler, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join()


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

    with running(receive, process_response=answer) as url:
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

    with running(receive, process_response=answer) as url:
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
