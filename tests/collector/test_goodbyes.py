"""How connections end: what was read before is stored, and a client hears why."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
from websockets.frames import Opcode

from redvsblue_telemetry.collector import connections
from tests.collector.clients import (
    HANDSHAKE,
    array,
    frame,
    game,
    locked,
    send_and_leave,
    seqs,
    stored,
)
from tests.collector.test_server import ending
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.wait import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite3"


def test_game_with_a_backlog_hears_that_its_batches_are_too_large() -> None:
    with (
        collector_running(max_message_bytes=100_000) as collector,
        game(collector, batch_size=5000) as telemetry,
    ):
        for _ in range(3000):
            telemetry.emit("hit", pad="x" * 100)
        assert telemetry.flush(PATIENCE)
        # Each close takes a batch apart, if the game hears its code: that takes about ten.
        assert telemetry.stats().reconnects < 50
        assert seqs(collector, telemetry.session_id) == list(range(1, 3001))


@pytest.mark.parametrize("is_locked", [False, True])
def test_what_was_confirmed_by_pong_is_stored_before_it_ends(
    is_locked: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GOODBYE_TIMEOUT", 0.3)  # this client never answers a close
    handshake = HANDSHAKE.replace(b"Telemetry-Ack: cumulative\r\n", b"")
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(collector_running(db=path, busy_timeout=PATIENCE))
        address = ("127.0.0.1", collector.port)
        raw = stack.enter_context(socket.create_connection(address, PATIENCE))
        answers = stack.enter_context(raw.makefile("rb"))
        raw.sendall(handshake)
        while answers.readline() != b"\r\n":
            pass
        stopping = stack.enter_context(contextlib.ExitStack())
        with locked(path) if is_locked else contextlib.nullcontext():
            # At once, so that the collector reads all of it at once, and answers.
            raw.sendall(
                b"".join(
                    frame(Opcode.TEXT, array(number).encode())
                    + frame(Opcode.PING, b"%03d" % number)
                    for number in range(1, 301)
                )
            )
            confirmed = 0
            while confirmed < 300:
                pong = answers.read(5)
                assert pong[:2] == b"\x8a\x03"
                confirmed = int(pong[2:])
            stopping.enter_context(ending(collector))
            if is_locked:
                assert wait_until(lambda: is_closing(collector), PATIENCE)
        stopping.close()
        assert stored(path) == list(range(1, 301))


def is_closing(collector: RunningCollector) -> bool:
    with socket.create_connection(("127.0.0.1", collector.port), PATIENCE) as raw:
        raw.sendall(HANDSHAKE)
        return raw.recv(12) == b"HTTP/1.1 503"


@pytest.mark.parametrize("goodbye", ["a close", "none", "a reset"])
def test_last_words_of_a_client_that_goes_are_stored(
    goodbye: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with collector_running(db=path, busy_timeout=PATIENCE) as collector:
        raw = socket.create_connection(("127.0.0.1", collector.port), PATIENCE)
        with raw, raw.makefile("rb") as answers, locked(path):
            send_and_leave(raw, answers, 300, goodbye)
        assert wait_until(lambda: collector.stats().connections == 0, PATIENCE)
        assert wait_until(lambda: len(seqs(collector)) == 300, PATIENCE)
        assert seqs(collector) == list(range(1, 301))
    assert caplog.records == []
