"""Compressed messages: how they are agreed, stored and refused."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from redvsblue_telemetry import _compression
from redvsblue_telemetry._compression import DEFLATE, MAX_RATIO, ZSTD, supported
from redvsblue_telemetry.collector.models import RejectedMessage
from tests.collector.clients import (
    ACKS,
    acks_up_to,
    array,
    event,
    game,
    lines,
    locked,
    next_ack,
    seqs,
)
from tests.collector.test_ingest import metric
from tests.support import REPOSITORY
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.wait import wait_until

ALL = ", ".join(supported())
ENCODINGS = pytest.mark.parametrize(
    "encoding",
    [
        DEFLATE,
        pytest.param(
            ZSTD, marks=pytest.mark.skipif(ZSTD not in supported(), reason="needs backports.zstd")
        ),
    ],
)


@contextlib.contextmanager
def client_that_offers(
    collector: RunningCollector, *offers: str, acks: bool = True
) -> Iterator[ClientConnection]:
    """A client with the given values of the header, each on its own line."""
    headers = [*(ACKS.items() if acks else ()), *(("Telemetry-Encoding", each) for each in offers)]
    with connect(collector.url, additional_headers=headers, proxy=None) as client:
        yield client


def answer(client: ClientConnection) -> str | None:
    assert client.response is not None
    return client.response.headers.get("Telemetry-Encoding")


def packed(text: str | bytes, encoding: str) -> bytes:
    """Compress a text, however short it is and however well it compresses."""
    body = text.encode() if isinstance(text, str) else text
    if encoding == DEFLATE:
        return zlib.compress(body)
    return bytes(_compression._zstd().compress(body))


def padded(seq: int, size: int) -> str:
    """An event of about so many bytes, which don't compress well."""
    pad = random.Random(seq).randbytes(size // 2).hex()
    return json.dumps([event(seq, data={"pad": pad})])


def ending(client: ClientConnection) -> tuple[list[int], int, str]:
    """Return the acks that arrive, and the code and reason of the close after them."""
    acks: list[int] = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            acks.append(next_ack(client))
    closed = client.protocol.close_rcvd
    assert closed is not None, "the connection ended without a close"
    return acks, closed.code, closed.reason


def rejected(collector: RunningCollector) -> list[RejectedMessage]:
    """Wait for the record of a refused message, which no ack waits for."""
    assert wait_until(lambda: collector.stats().rejected > 0, PATIENCE)
    return collector.rejected


# What is agreed.


@pytest.mark.parametrize(
    ("offers", "agreed"),
    [
        ([], None),
        ([""], None),
        (["br, gzip"], None),
        (["deflate"], DEFLATE),
        ([" DEFLATE ,br"], DEFLATE),
        (["br", "deflate"], DEFLATE),
        (["deflate, zstd"], supported()[0]),
        (["deflate", "zstd"], supported()[0]),
    ],
    ids=str,
)
def test_the_best_encoding_that_is_offered_is_agreed(
    offers: list[str], agreed: str | None, collector: RunningCollector
) -> None:
    with client_that_offers(collector, *offers) as client:
        assert answer(client) == agreed


# What is stored.


@ENCODINGS
@pytest.mark.parametrize("write", [array, lines], ids=["array", "lines"])
def test_compressed_messages_are_stored_like_text(
    write: Callable[..., str], encoding: str, collector: RunningCollector
) -> None:
    with client_that_offers(collector, encoding) as client:
        client.send(packed(write(1, 2, 3), encoding))
        client.send(write(4))  # small messages come as text
        client.send(packed(json.dumps([event(5, data={"ü": "é\ud83d\ude80"})]), encoding))
        client.send(packed("[]", encoding))
        client.send(packed("\ufeff" + write(6), encoding))
        client.send("\ufeff" + write(7))
        assert acks_up_to(client, 6)[-1] == 6
    assert seqs(collector) == [1, 2, 3, 4, 5, 6, 7]
    assert collector.stats().rejected == 0


@ENCODINGS
def test_reports_may_be_compressed(encoding: str, collector: RunningCollector) -> None:
    report = {"sessionId": "s", "number": 1, "state": "ended", "reason": "stopped", "lastSeq": 3}
    times = {"startedAt": 1_795_479_870_000, "at": 1_795_479_930_000}
    with client_that_offers(collector, encoding) as client:
        client.send(packed(array(1, 2, 3), encoding))
        client.send(packed(json.dumps({"report": report | times}), encoding))
        assert acks_up_to(client, 2)[-1] == 2
    (session,) = collector.sessions
    assert (session.outcome, session.last_seq, session.missing) == ("well", 3, 0)


@ENCODINGS
def test_text_in_a_compressed_message_is_judged_like_other_text(
    encoding: str, collector: RunningCollector
) -> None:
    with client_that_offers(collector, encoding) as client:
        client.send(packed(f"[{json.dumps(event(1))}, 7]", encoding))
        client.send(packed(b"\xff\xfe", encoding))
        client.send(packed(array(2), encoding))
        assert acks_up_to(client, 3)[-1] == 3
    assert seqs(collector) == [1, 2]
    noise, seven = collector.rejected
    assert seven.text == "7"
    assert "must be a JSON array" in noise.reason


def test_binary_messages_are_text_where_nothing_is_agreed(collector: RunningCollector) -> None:
    with client_that_offers(collector) as client:
        client.send(array(1).encode())
        client.send(packed(array(2), DEFLATE))
        assert acks_up_to(client, 2)[-1] == 2
    assert seqs(collector) == [1]
    (rejected,) = collector.rejected
    assert "must be a JSON array" in rejected.reason


@ENCODINGS
def test_metrics_count_bytes_as_they_came_and_as_text(
    encoding: str, collector: RunningCollector
) -> None:
    text, other = array(*range(1, 101)), '["ü"]'
    message = packed(text, encoding)
    with client_that_offers(collector, encoding) as client:
        client.send(message)
        client.send(other)
        assert acks_up_to(client, 2)[-1] == 2
    assert metric(collector, "received_bytes") == len(message) + len(other.encode())
    assert metric(collector, "text_bytes") == len(text) + len(other.encode())
    assert len(message) < len(text) / 5


@ENCODINGS
def test_client_has_to_wait_for_the_storage_by_the_size_of_its_text(
    encoding: str, tmp_path: Path
) -> None:
    text = padded(1, 40_000)[:-1].ljust(1_000_000) + "]"
    message = packed(text, encoding)
    messages = 40
    assert messages * len(message) < 1 << 20  # all of them fit into the buffers of the sockets
    with (
        collector_running(db=tmp_path / "telemetry.sqlite3", busy_timeout=PATIENCE) as collector,
        client_that_offers(collector, encoding) as client,
    ):
        with locked(collector.db):
            for _ in range(messages):
                client.send(message)
            assert not client.ping().wait(1.0), "it reads all of them, which takes less time"
            assert metric(collector, "text_bytes") <= (16 << 20) + 2 * len(text)
        assert acks_up_to(client, messages)[-1] == messages


# What is refused.


def bomb(encoding: str, size: int) -> bytes:
    """Return a message that unpacks to so many zeros, in whole mebibytes."""
    compressor = _compression._zstd().ZstdCompressor() if encoding == ZSTD else zlib.compressobj(9)
    parts = [compressor.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, compressor.flush()])


@ENCODINGS
@pytest.mark.parametrize("size", [1 << 20, 64 << 20], ids=["within the limit", "large"])
def test_bomb_is_refused_before_it_is_unpacked(size: int, encoding: str) -> None:
    message = bomb(encoding, size)
    assert size > len(message) * MAX_RATIO
    with (
        collector_running() as collector,
        client_that_offers(collector, encoding) as client,
    ):
        client.send(packed(array(1), encoding))
        assert next_ack(client) == 1
        tracemalloc.start()
        try:
            client.send(message)
            most = min(len(message) * MAX_RATIO, 1 << 20)
            reason = f"unpacks to more than {most} bytes"
            assert ending(client) == ([], 1009, reason)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        (refused,) = rejected(collector)
        assert refused.reason == f"compressed message: {reason}"
        assert peak < 3 * (most + len(message)) + (1 << 20)
        assert metric(collector, "events_rejected") == 1
        assert metric(collector, "received_bytes") == len(message) + len(packed(array(1), encoding))
        assert seqs(collector) == [1]


@ENCODINGS
def test_text_may_be_as_large_compressed_as_uncompressed(encoding: str) -> None:
    limit = 20_000
    with collector_running(max_message_bytes=limit) as collector:
        largest = padded(1, 18_000)
        largest = largest[:-1].ljust(limit - 1) + "]"
        for text, code in ((largest, None), (largest + " ", 1009)):
            with client_that_offers(collector, encoding) as client:
                message = packed(text, encoding)
                assert len(message) < limit < len(message) * MAX_RATIO
                client.send(message)
                if code is None:
                    assert next_ack(client) == 1
                else:
                    assert ending(client) == ([], code, f"unpacks to more than {limit} bytes")
        with client_that_offers(collector, encoding) as client:
            client.send(bytes(limit + 1))  # too large before it is unpacked
            assert ending(client)[:2] == ([], 1009)
        assert seqs(collector) == [1]


def malformed(encoding: str) -> list[bytes]:
    whole = packed(padded(1, 2000), encoding)
    other = packed(array(1), DEFLATE if encoding == ZSTD else ZSTD) if len(supported()) > 1 else b""
    return [b"", b"[]", array(1).encode(), other, whole[:-1], whole[:1], whole + b"\0", whole * 2]


@ENCODINGS
@pytest.mark.parametrize("number", range(8))
def test_malformed_message_is_refused_and_what_came_before_is_not(
    number: int, encoding: str, collector: RunningCollector
) -> None:
    message = malformed(encoding)[number]
    with client_that_offers(collector, encoding) as client:
        client.send(packed(array(1), encoding))
        client.send(array(2))
        client.send(message)
        client.send(array(3))  # not stored either, for the client sends both again
        acks, code, reason = ending(client)
        assert (acks[-1], code) == (2, 1007)
    (refused,) = rejected(collector)
    assert refused.reason == f"compressed message: {reason}"
    assert refused.text == message[:1024].decode(errors="replace")
    assert seqs(collector) == [1, 2]


@ENCODINGS
def test_client_without_acks_is_refused_too(encoding: str, collector: RunningCollector) -> None:
    with client_that_offers(collector, encoding, acks=False) as client:
        client.send(packed(array(1), encoding))
        client.send(b"noise")
        assert ending(client)[:2] == ([], 1007)
    assert wait_until(lambda: seqs(collector) == [1], PATIENCE)
    assert len(rejected(collector)) == 1


@ENCODINGS
def test_client_whose_messages_are_cut_off_again_and_again_loses_nothing(
    encoding: str, collector: RunningCollector
) -> None:
    rng = random.Random(1)
    batches = [array(*range(n, n + 3)) for n in range(1, 181, 3)]
    acked = refused = 0
    while acked < len(batches):
        messages = [packed(batch, encoding) for batch in batches[acked : acked + 8]]
        cut = next((n for n in range(len(messages)) if rng.random() < 0.15), None)
        with client_that_offers(collector, encoding) as client:
            if cut is None:
                for message in messages:
                    client.send(message)
                acked += acks_up_to(client, len(messages))[-1]
                continue
            messages[cut] = messages[cut][: rng.randrange(len(messages[cut]))]
            with contextlib.suppress(ConnectionClosed):  # those after it may find it closed
                for message in messages:
                    client.send(message)
            acks, code, _ = ending(client)
            assert (acks[-1:], code) == ([cut] if cut else [], 1007)
            acked, refused = acked + cut, refused + 1
    assert refused >= 5
    assert seqs(collector) == list(range(1, 181))
    assert wait_until(lambda: collector.stats().rejected == refused, PATIENCE)
    assert collector.stats().repeats == 0


@pytest.mark.slow
def test_fuzzing_finds_nothing() -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--messages", "--inputs", "3000"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3000 inputs of seed 1" in done.stdout
    assert "failed: 0" in done.stdout


# Games.


def offering(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the games of this process offer one encoding only."""
    monkeypatch.setattr(_compression, "supported", lambda: (encoding,))


@ENCODINGS
@pytest.mark.parametrize("wire_format", ["json", "ndjson"])
def test_game_sends_a_fraction_of_the_bytes(
    wire_format: str,
    encoding: str,
    collector: RunningCollector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offering(encoding, monkeypatch)
    with game(collector, wire_format=wire_format, drain_interval=PATIENCE) as telemetry:
        for number in range(500):
            telemetry.emit("ship_hit", {"ship": f"red-{number % 7}", "damage": number % 40})
        assert telemetry.flush(PATIENCE)
        assert seqs(collector, telemetry.session_id) == list(range(1, 501))
    assert metric(collector, "received_bytes") < metric(collector, "text_bytes") / 5
    assert collector.stats().rejected == 0


def test_game_that_may_not_compress_sends_text(collector: RunningCollector) -> None:
    with game(collector, compression="none") as telemetry:
        for _ in range(500):
            telemetry.emit("ship_hit")
        assert telemetry.flush(PATIENCE)
        assert seqs(collector, telemetry.session_id) == list(range(1, 501))
    assert metric(collector, "received_bytes") == metric(collector, "text_bytes") > 0


@ENCODINGS
def test_game_takes_a_batch_that_unpacks_to_too_much_apart(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offering(encoding, monkeypatch)
    with collector_running(max_message_bytes=4000) as collector:
        with game(collector, batch_size=100, drain_interval=PATIENCE) as telemetry:
            for number in range(60):
                telemetry.emit("hit", pad="x" * 100, number=number)
            assert telemetry.flush(PATIENCE)
            stats = telemetry.stats()
            assert (stats.delivered, stats.dropped) == (60, 0)
            assert seqs(collector, telemetry.session_id) == list(range(1, 61))
        assert "unpacks to more than 4000 bytes" in rejected(collector)[0].reason
        assert collector.stats().missing == 0


@ENCODINGS
def test_message_that_is_damaged_costs_no_event(
    encoding: str, collector: RunningCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A game's machine whose compressor writes nonsense for one event."""
    offering(encoding, monkeypatch)
    whole = _compression.pack

    def pack(encoding: str) -> Callable[[bytes], bytes | None]:
        pack_whole = whole(encoding)

        def packed(text: bytes) -> bytes | None:
            message = pack_whole(text)
            return message[:-1] if message and b"poison" in text else message

        return packed

    monkeypatch.setattr(_compression, "pack", pack)
    with game(collector, batch_size=20, drain_interval=PATIENCE) as telemetry:
        for number in range(1, 61):
            telemetry.emit("hit", note=("poison " * 50 if number == 33 else "fine"))
        assert telemetry.flush(PATIENCE), "its message is sent again as text"
        stats = telemetry.stats()
        assert (stats.delivered, stats.dropped) == (60, 0)
        assert seqs(collector, telemetry.session_id) == [*range(1, 61)]
        assert {"cut off" in part.reason for part in rejected(collector)} == {True}
