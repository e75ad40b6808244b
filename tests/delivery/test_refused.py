"""Events that a server refuses are found, dropped, counted and named; the rest goes through."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.http11 import Response
from websockets.sync.server import ServerConnection

from redvsblue_telemetry import Telemetry, TelemetryEvent, start_telemetry
from redvsblue_telemetry._compression import unpacker
from redvsblue_telemetry._recording.codec import EventCodec
from tests.support.offline import started_offline
from tests.support.wait import wait_until
from tests.support.websocket_server import websocket_server

# Refusals cost a connection each, and each a wait: so short ones.
QUICK: dict[str, Any] = {"enabled": True, "backoff_base": 0.001, "backoff_max": 0.003}
GONE = -1  # in place of a close code: no close at all


class PickyServer:
    """Acks the batches that it accepts, and closes the connection at others."""

    def __init__(
        self,
        verdict: Callable[[list[str]], int | None],
        takes_reports: bool,
        encoding: str | None,
        reads_it: bool,
    ) -> None:
        self._verdict = verdict
        self._reads_it = reads_it
        self._takes_reports = takes_reports
        self._encoding = encoding
        self.url = ""
        self.arrived: list[int] = []
        """The numbers of the events that it took."""
        self.closes = 0
        """How often it closed."""
        self.reports: list[dict[str, Any]] = []
        self.compressed = 0
        """How many messages came compressed."""

    def offer_acks(self, connection: object, request: object, response: Response) -> Response:
        response.headers["Telemetry-Ack"] = "cumulative"
        if self._takes_reports:
            response.headers["Telemetry-Report"] = "1"
        if self._encoding is not None:
            response.headers["Telemetry-Encoding"] = self._encoding
        return response

    def receive(self, connection: ServerConnection) -> None:
        for number, message in enumerate(connection, start=1):
            text = self._text(message)
            if isinstance(message, bytes) and not self._reads_it:
                connection.close(1007)
                return
            events = json.loads(text)
            if isinstance(events, dict):
                self.reports.append(events["report"])
                events = []
            code = self._verdict([event["type"] for event in events])
            if code is not None:
                self.closes += 1
                if code == GONE:
                    connection.socket.shutdown(socket.SHUT_RDWR)
                else:
                    connection.close(code, "the token is hush")
                return
            self.arrived += [event["seq"] for event in events]
            connection.send(json.dumps({"ack": number}))

    def _text(self, message: str | bytes) -> str | bytes:
        if isinstance(message, str):
            return message
        assert self._encoding is not None
        self.compressed += 1
        return unpacker(self._encoding)(message, 1 << 24)


@contextlib.contextmanager
def picky_server(
    verdict: Callable[[list[str]], int | None],
    *,
    takes_reports: bool = False,
    encoding: str | None = None,
    reads_it: bool = True,
) -> Iterator[PickyServer]:
    """Serve; ``verdict`` gets the types of a message, and returns a close code, or None.

    Where ``reads_it`` is False, the server closes with 1007 at messages in the encoding that it
    has picked.
    """
    picky = PickyServer(verdict, takes_reports, encoding, reads_it)
    with websocket_server(
        picky.receive,
        process_response=picky.offer_acks,
        close_timeout=0.1,  # for what the client sent ahead, which nobody reads any more
    ) as picky.url:
        yield picky


def started(url: str, types: list[str], **settings: Any) -> Telemetry:
    """Telemetry with the events in its store before it connects: so many batches are in flight."""
    telemetry = started_offline(**QUICK, url=url, **settings)
    for type in types:
        telemetry.emit(type, secret="of-the-player")
    telemetry.set_online(True)
    return telemetry


def settle(telemetry: Telemetry) -> None:
    """Wait until every event has gone one way or the other."""

    def is_settled() -> bool:
        ledger = telemetry.stats()
        return ledger.emitted == ledger.delivered + ledger.dropped

    assert wait_until(is_settled, timeout=20)


def drops_told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "dropped an event" in r.getMessage()]


@pytest.mark.parametrize("code", [1003, 1007, 1008, 1009, 1011])
def test_several_offenders_among_many_batches_are_dropped_and_nothing_else_is(
    code: int, caplog: pytest.LogCaptureFixture
) -> None:
    # Two in one batch, one in a separate batch, and one at the very end.
    offenders = {18: "cursed", 20: "poison", 41: "poison", 60: "venom"}
    types = [offenders.get(number, "good") for number in range(1, 61)]

    def verdict(types: list[str]) -> int | None:
        return code if set(types) & {"cursed", "poison", "venom"} else None

    with picky_server(verdict) as server:
        telemetry = started(server.url, types, batch_size=4)
        settle(telemetry)
        telemetry.emit("good")  # and life goes on
        assert telemetry.flush(5)
        assert telemetry.stop(5)
    ledger = telemetry.stats()
    assert (ledger.emitted, ledger.delivered, ledger.dropped) == (61, 57, 4)
    innocent = [number for number in range(1, 62) if number not in offenders]
    assert list(dict.fromkeys(server.arrived)) == innocent
    told = drops_told(caplog)
    assert [line.split("'")[1] for line in told] == list(offenders.values())
    assert all(str(code) in line for line in told)
    ours = {r.levelno for r in caplog.records if r.name == "redvsblue_telemetry"}
    assert ours <= {logging.INFO, logging.WARNING}
    assert "of-the-player" not in caplog.text
    assert "hush" not in caplog.text


def test_a_batch_of_offenders_only_is_dropped_and_the_log_is_not_flooded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def verdict(types: list[str]) -> int | None:
        return 1009 if "poison" in types else None

    with picky_server(verdict) as server:
        telemetry = started(server.url, ["good", *["poison"] * 40, "good"], batch_size=10)
        settle(telemetry)
        assert telemetry.stop(5)
    assert (telemetry.stats().delivered, telemetry.stats().dropped) == (2, 40)
    assert server.arrived == [1, 42]
    assert 1 <= len(drops_told(caplog)) <= 10
    assert len(caplog.records) <= 30


HARMLESS = [1000, 1001, 1012, 1013, 4000, GONE]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_close_that_is_no_refusal_drops_nothing_however_often_it_comes(batch_size: int) -> None:
    closes = iter(HARMLESS * 4)

    def verdict(types: list[str]) -> int | None:
        return next(closes, None)

    with picky_server(verdict) as server:
        telemetry = started(server.url, ["good"] * 12, batch_size=batch_size)
        settle(telemetry)
        assert telemetry.stop(5)
    assert (telemetry.stats().delivered, telemetry.stats().dropped) == (12, 0)
    assert server.closes == len(HARMLESS) * 4
    assert server.arrived == list(range(1, 13))


def test_a_refusal_among_other_closes_is_still_found() -> None:
    restarts = iter([1012, None, 1001, None, GONE, None, None, 1013] * 3)

    def verdict(types: list[str]) -> int | None:
        return next(restarts, None) or (1009 if "poison" in types else None)

    with picky_server(verdict) as server:
        telemetry = started(server.url, ["good"] * 9 + ["poison"] + ["good"] * 9, batch_size=5)
        settle(telemetry)
        assert telemetry.stop(5)
    assert (telemetry.stats().delivered, telemetry.stats().dropped) == (18, 1)
    assert list(dict.fromkeys(server.arrived)) == [n for n in range(1, 20) if n != 10]


@pytest.mark.parametrize(
    ("closes", "most"),
    [
        (2, 0),  # a bad moment
        (5, 0),  # the search has begun, and has no culprit yet
        (12, 6),  # from then on every close but those that halve finds one
        (40, 20),
    ],
)
def test_a_server_that_fails_at_everything_for_a_while_costs_an_event_for_two_closes(
    closes: int, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([1011] * closes)

    def verdict(types: list[str]) -> int | None:
        return next(failures, None)

    with picky_server(verdict) as server:
        telemetry = started(server.url, ["good"] * 200, batch_size=8)
        settle(telemetry)
        assert telemetry.stop(5)
    ledger = telemetry.stats()
    # What is dropped is what has not arrived, to the event, and the rest is in order.
    assert server.arrived == sorted(set(server.arrived))
    assert ledger.delivered == len(server.arrived)
    assert ledger.dropped == 200 - len(server.arrived)
    assert ledger.dropped <= most
    assert len(caplog.records) <= 30


def test_what_the_servers_library_refuses_is_found_without_acks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    arrived = []

    def receive(connection: ServerConnection) -> None:
        for message in connection:
            arrived.extend(event["seq"] for event in json.loads(message))

    with websocket_server(receive, max_size=2000, close_timeout=0.1) as url:
        telemetry = started_offline(**QUICK, url=url, batch_size=20)
        for number in range(1, 41):
            telemetry.emit("fat" if number == 30 else "thin", x="y" * (3000 * (number == 30)))
        telemetry.set_online(True)
        settle(telemetry)
        assert telemetry.stop(5)
    assert (telemetry.stats().delivered, telemetry.stats().dropped) == (39, 1)
    # A handler may lag behind its library, which has answered the pings by then.
    assert wait_until(lambda: set(arrived) == set(range(1, 41)) - {30})
    (told,) = drops_told(caplog)
    assert "'fat'" in told


def test_an_offender_that_cannot_even_be_read_is_dropped_without_a_name(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_deep(codec: EventCodec, sealed: bytes) -> TelemetryEvent:
        raise RecursionError

    monkeypatch.setattr(EventCodec, "from_wire", too_deep)
    with picky_server(lambda types: 1007 if "bad" in types else None) as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        for type in ("good", "bad", "good"):
            telemetry.emit(type)
        assert wait_until(lambda: telemetry.stats().dropped == 1)
        telemetry.emit("good")  # the worker lives on
        assert telemetry.flush(20)
        assert server.arrived == [1, 3, 4]
    assert "dropped an event of type '?'" in caplog.text
