"""Acks of what is archived: until then, the client keeps what the server has stored."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry import ConnectionState, Telemetry, TelemetrySettings
from redvsblue_telemetry.testing import RecordingServer
from tests.delivery.test_acks import BINARY, PONG, TEXT, fence, read_message
from tests.support.killed_games import files, is_balanced, killed
from tests.support.raw_server import Script, frame, raw_server, read_to_the_end, shake_hands
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {
    "enabled": True,
    "confirm": "archived",
    "drain_interval": 0.02,
    "backoff_base": 0.01,
    "backoff_max": 0.05,
}
PROMISE = b"Telemetry-Ack: archived"
NO_ARCHIVE = "the server does not confirm that events are archived"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer(archives=True) as server:
        yield server


def made(journal: Path, url: str, **settings: Any) -> Telemetry:
    return Telemetry(TelemetrySettings(**{**QUICK, "journal": journal, "url": url, **settings}))


def is_stopped(telemetry: Telemetry) -> bool:
    return wait_until(lambda: telemetry.stats().state is ConnectionState.STOPPED)


def types(server: RecordingServer) -> list[str]:
    return [event["type"] for event in server.events]


# What counts as delivered.


def test_it_is_offered_beside_the_ack_that_older_servers_know(
    journal: Path, server: RecordingServer
) -> None:
    with made(journal, server.url):
        assert server.wait_for_connection()
    headers = server.requests[0].headers
    assert headers["Telemetry-Ack"] == "cumulative"
    assert headers["Telemetry-Confirm"] == "archived"


def test_what_is_stored_is_in_flight_and_in_the_journal_until_it_is_archived(
    journal: Path, server: RecordingServer
) -> None:
    with made(journal, server.url) as telemetry:
        telemetry.emit("kept")
        assert server.wait_for(1)
        assert not telemetry.flush(0.2)
        assert (telemetry.stats().delivered, telemetry.stats().in_flight) == (0, 1)
        server.archive()
        assert telemetry.flush(5)
        assert (telemetry.stats().delivered, telemetry.stats().in_flight) == (1, 0)
        server.archive()
    assert types(server) == ["kept"]


def test_what_is_stored_is_never_overdue(journal: Path, server: RecordingServer) -> None:
    with made(journal, server.url, confirm_timeout=0.1) as telemetry:
        telemetry.emit("kept")
        assert server.wait_for(1)
        assert not telemetry.flush(0.5)  # several times as long
        assert (telemetry.stats().reconnects, telemetry.stats().last_error) == (0, None)
        server.archive()
        assert telemetry.flush(5)


def script_of(*answers: bytes, done: threading.Event | None = None) -> Script:
    """Answer each message with the next of these, and then stay silent."""
    left = iter(answers)

    def script(client: socket.socket) -> None:
        shake_hands(client, PROMISE)
        for answer in left:
            read_message(client)
            client.sendall(answer)
        if done is not None:
            fence(client)
            done.set()
        read_to_the_end(client)

    return script


def test_what_is_not_even_stored_ends_the_connection(journal: Path) -> None:
    with raw_server(script_of()) as port:
        telemetry = made(journal, f"ws://127.0.0.1:{port}/", confirm_timeout=0.1).start()
        telemetry.emit("kept")
        assert wait_until(lambda: telemetry.stats().last_error)
        assert telemetry.stats().last_error == "the server stored nothing for 0.1 s"
        telemetry.stop(0)


def test_an_ack_without_the_stored_ones_counts_for_both(journal: Path) -> None:
    with raw_server(script_of(frame(TEXT, b'{"ack": 1, "more": []}'))) as port:
        telemetry = made(journal, f"ws://127.0.0.1:{port}/").start()
        telemetry.emit("kept")
        assert telemetry.flush(5)
        assert telemetry.stop(5)


NONSENSE = {
    "stored, but not sent": b'{"ack": 0, "stored": 2}',
    "archived, but not sent": b'{"ack": 2, "stored": 1}',
    "stored is negative": b'{"ack": 0, "stored": -1}',
    "stored is a string": b'{"ack": 0, "stored": "1"}',
    "stored alone": b'{"stored": 1}',
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_an_ack_that_makes_no_sense_ends_the_connection_and_costs_nothing(
    nonsense: bytes, journal: Path
) -> None:
    with raw_server(script_of(frame(TEXT, nonsense))) as port:
        telemetry = made(journal, f"ws://127.0.0.1:{port}/").start()
        telemetry.emit("kept")
        assert wait_until(lambda: telemetry.stats().last_error)
        assert "malformed ack from the server" in str(telemetry.stats().last_error)
        assert telemetry.stats().delivered == 0
    with RecordingServer(port=port) as server:
        assert telemetry.flush(10)
        assert types(server) == ["kept"]
        assert telemetry.stop(5)


def test_stored_that_goes_back_ends_the_connection(journal: Path) -> None:
    answers = (b'{"ack": 0, "stored": 1}', b'{"ack": 0, "stored": 0}')
    with raw_server(script_of(*(frame(TEXT, answer) for answer in answers))) as port:
        telemetry = made(journal, f"ws://127.0.0.1:{port}/").start()
        telemetry.emit("first")
        assert not telemetry.flush(0.1)
        telemetry.emit("second")
        assert wait_until(lambda: "it has stored batch 0" in str(telemetry.stats().last_error))
        telemetry.stop(0)


def test_a_binary_ack_and_a_pong_confirm_nothing(journal: Path) -> None:
    done = threading.Event()
    with raw_server(script_of(frame(PONG, b"1"), done=done)) as port:
        telemetry = made(journal, f"ws://127.0.0.1:{port}/").start()
        telemetry.emit("kept")
        assert done.wait(5)
        assert telemetry.stats().delivered == 0
        telemetry.stop(0)
    with raw_server(script_of(frame(BINARY, b'{"ack": 1}'))) as port:
        telemetry = made(journal, f"ws://127.0.0.1:{port}/").start()
        assert wait_until(lambda: "a binary message" in str(telemetry.stats().last_error))
        telemetry.stop(0)


# Servers that have no archive.


@pytest.mark.parametrize(("acks", "word"), [(True, "stored"), (False, "received")])
def test_a_server_without_an_archive_is_used_and_named_once(
    acks: bool, word: str, journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RecordingServer(acks=acks) as server, made(journal, server.url) as telemetry:
        telemetry.emit("one")
        assert telemetry.flush(5)
        server.disconnect()
        telemetry.emit("two")
        assert telemetry.flush(5)
        assert telemetry.stats().reconnects == 1
        assert server.wait_for(2)  # a pong can be ahead of it
        assert types(server) == ["one", "two"]
    said = [record for record in caplog.records if NO_ARCHIVE in record.getMessage()]
    assert [record.levelno for record in said] == [logging.WARNING]
    assert said[0].getMessage().endswith(f"once it has {word} them")


def test_an_archive_is_nothing_to_be_named(
    journal: Path, server: RecordingServer, caplog: pytest.LogCaptureFixture
) -> None:
    with made(journal, server.url):
        assert server.wait_for_connection()
    assert NO_ARCHIVE not in caplog.text


def test_who_asks_for_no_archive_gets_none(server: RecordingServer) -> None:
    settings = TelemetrySettings(enabled=True, url=server.url, drain_interval=0.02)
    with Telemetry(settings) as telemetry:
        telemetry.emit("one")
        assert telemetry.flush(5)
    assert "Telemetry-Confirm" not in server.requests[0].headers


def test_an_archive_that_was_not_asked_for_is_not_believed() -> None:
    requests: list[bytes] = []

    def script(client: socket.socket) -> None:
        requests.append(shake_hands(client, PROMISE))
        read_message(client)
        client.sendall(frame(TEXT, b'{"ack": 1}'))
        fence(client)
        acked.set()
        client.sendall(frame(PONG, b"1"))
        read_to_the_end(client)

    acked = threading.Event()
    with raw_server(script) as port:
        settings = TelemetrySettings(enabled=True, url=f"ws://127.0.0.1:{port}/")
        telemetry = Telemetry(settings).start()
        telemetry.emit("one")
        assert telemetry.flush(5)
        assert acked.is_set()
        assert telemetry.stop(5)


# A long way to the archive.


def test_all_that_is_emitted_while_nothing_is_archived_is_sent(
    journal: Path, server: RecordingServer
) -> None:
    count = 40_000  # more than 512 batches, and with their text more than 4 MiB
    with made(journal, server.url) as telemetry:
        for number in range(count):
            telemetry.emit("many", n=number, text="x" * 100)
        assert server.wait_for(count, timeout=60)
        assert wait_until(lambda: telemetry.stats().in_flight == count)
        assert telemetry.stats().delivered == 0
        server.archive()
        assert telemetry.flush(20)
        assert [event["seq"] for event in server.events] == list(range(1, count + 1))
        assert is_balanced(telemetry.stats())


def test_what_may_be_in_flight_is_bounded_and_the_rest_waits_in_the_journal(
    journal: Path, server: RecordingServer
) -> None:
    count = 40_000  # with their text, more than 8 MiB
    with made(journal, server.url, journal_max_bytes=8 * 1024 * 1024) as telemetry:
        for number in range(count):
            telemetry.emit("many", n=number, text="x" * 100)
        while not telemetry.flush(0.2):  # each time it waits for the archive
            stats = telemetry.stats()
            assert stats.in_flight < count // 2
            assert is_balanced(stats)
            server.archive()
        assert [event["seq"] for event in server.events] == list(range(1, count + 1))
        assert telemetry.stats().dropped == 0


# Ends.


def test_what_is_stored_and_not_archived_is_sent_again_after_a_reconnect(
    journal: Path, server: RecordingServer
) -> None:
    with made(journal, server.url) as telemetry:
        telemetry.emit("archived")
        assert server.wait_for(1)
        server.archive()
        assert telemetry.flush(5)
        telemetry.emit("stored")
        assert server.wait_for(2)
        server.disconnect()
        telemetry.emit("new")
        assert server.wait_for(4)
        assert types(server) == ["archived", "stored", "stored", "new"]
        server.archive()
        assert telemetry.flush(5)
        server.archive()


def test_a_stop_leaves_what_is_not_archived_in_the_journal(
    journal: Path, server: RecordingServer
) -> None:
    telemetry = made(journal, server.url).start()
    for number in range(100):
        telemetry.emit("kept", n=number)
    assert server.wait_for(100)
    assert not telemetry.stop(0.5)
    assert is_stopped(telemetry)
    stats = telemetry.stats()
    assert (stats.delivered, stats.dropped, stats.buffered) == (0, 0, 100)
    assert is_balanced(stats)
    with made(journal, server.url) as again:
        assert server.wait_for(200)
        assert server.events[:100] == server.events[100:]
        server.archive()
        assert wait_until(lambda: again.stats().delivered == 100)
        assert wait_until(lambda: server.archive() or not dead_runs(journal, again))


def dead_runs(journal: Path, living: Telemetry) -> list[Path]:
    return [path for path in journal.iterdir() if not path.name.startswith(living.session_id[:8])]


def test_a_stop_that_sees_the_archive_leaves_nothing(
    journal: Path, server: RecordingServer
) -> None:
    telemetry = made(journal, server.url).start()
    telemetry.emit("kept")
    assert server.wait_for(1)
    stopped: list[bool] = []
    stopping = threading.Thread(target=lambda: stopped.append(telemetry.stop(20)))
    stopping.start()
    while stopping.is_alive():  # the event, and then the last report
        server.archive()
        stopping.join(0.01)
    assert stopped == [True]
    assert server.reports[-1]["state"] == "ended"
    assert files(journal) == []


def test_a_last_report_that_is_not_archived_is_kept_for_the_next_start(
    journal: Path, server: RecordingServer
) -> None:
    telemetry = made(journal, server.url).start()
    telemetry.emit("kept")
    assert server.wait_for(1)
    server.archive()
    assert telemetry.flush(5)
    telemetry.stop(0.5)
    assert is_stopped(telemetry)
    session, seen = telemetry.session_id, len(server.reports)

    def last_reports() -> list[str]:
        of_it = [each for each in server.reports[seen:] if each["sessionId"] == session]
        return [each["state"] for each in of_it]

    with made(journal, server.url) as again:
        assert wait_until(last_reports)
        assert set(last_reports()) == {"ended"}
        assert wait_until(lambda: server.archive() or not dead_runs(journal, again))


def test_the_events_of_a_killed_run_do_not_wait_for_the_archive_of_each_other(
    journal: Path, server: RecordingServer
) -> None:
    killed(journal, 8000)
    with made(journal, server.url) as telemetry:
        assert server.wait_for(8000, timeout=30)
        assert telemetry.stats().delivered == 0
        server.archive()
        assert wait_until(lambda: telemetry.stats().delivered == 8000)
        assert wait_until(lambda: server.archive() or not dead_runs(journal, telemetry))
        assert is_balanced(telemetry.stats())
