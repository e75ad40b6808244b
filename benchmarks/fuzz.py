"""Thousands of inputs from a hostile server or client, or of damaged journals, and their cost.

By default, an input is a handshake's answer, or frames on an open connection: valid ones that are
mutated, or pure noise. It goes through a real socket into the real transport and session, cut at
random places. Failures are: any exception other than :class:`ConnectionLost`, an event that is in
no count or in two, a buffer that grows past its bound, and a hang. With ``--journal``, it is a
run's files with damage; see :mod:`benchmarks.fuzz_journal`. With ``--messages``, it is a compressed
message for the collector; see :mod:`benchmarks.fuzz_messages`. An input follows from the seed and
its number alone, so ``--seed S --only NUMBER`` repeats a failure.

::

    python -m benchmarks.fuzz --inputs 100000 --seed 1
    python -m benchmarks.fuzz --journal --inputs 1000000
    python -m benchmarks.fuzz --messages --inputs 1000000
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import faulthandler
import hashlib
import random
import re
import select
import selectors
import socket
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator

from benchmarks.fuzz_journal import try_journal
from benchmarks.fuzz_messages import try_message
from benchmarks.harness import Failure, mutated, peak_bytes
from redvsblue_telemetry._delivery.adoption import Adoption
from redvsblue_telemetry._delivery.gaps import GapLog
from redvsblue_telemetry._delivery.keepalive import Keepalive
from redvsblue_telemetry._delivery.session import WireSession
from redvsblue_telemetry._delivery.settlement import Settlement
from redvsblue_telemetry._delivery.window import DeliveryWindow
from redvsblue_telemetry._network.contract import ConnectionLost, Endpoint
from redvsblue_telemetry._network.sockets import PlainSocket
from redvsblue_telemetry._network.stream import Stream
from redvsblue_telemetry._network.websocket import WebSocketConnection, open_websocket
from redvsblue_telemetry._recording.codec import EncodedEvent, EventCodec
from redvsblue_telemetry._recording.ledger import Ledger
from redvsblue_telemetry._recording.store import TelemetryStore
from redvsblue_telemetry.settings import TelemetrySettings

EVENTS = 6  # on each connection, in batches of 2
INPUT_BYTES = UNWRITTEN_BOUND = 512 * 1024
HANG_TIMEOUT = 60.0  # seconds; a loaded machine needs some for the first inputs
INPUTS_PER_HANDSHAKE = 10
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SETTINGS = TelemetrySettings(enabled=True, batch_size=2, keepalive_interval=3600.0)


# Inputs.


CODES = (1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 1015, 4000, 5000)
LENGTHS = (0, 125, 126, 65535, 65536, 2**31, 2**63 - 1, 2**63, 2**64 - 1)


def payload(rng: random.Random) -> bytes:
    """Return the payload of a frame, of the kinds that the client parses."""
    number = rng.choice((0, 1, 2, 3, 4, -1, 2**31, 2**63, 2**64, 10**60, rng.randrange(6)))
    digits = rng.choice((b"0", b"1", b"9")) * rng.choice((1, 20, 125, 126, 400, 4301, 5000))
    value = rng.choice((b"true", b"null", b'"1"', b"[]", b"1e400", b"1.0", b"-0", digits))
    return rng.choice(
        (
            b"%d" % number,
            b"%d" % number,
            digits,
            b'{"ack": %d}' % number,
            b'{"ack": %d, "more": [1, {"x": null}]}' % number,
            b'{"ack": %b}' % value,
            b'{"ack": %d, "stored": %d}' % (rng.randrange(3), number),
            b'{"ack": 0, "stored": %b}' % value,
            b'{"ack": 1, "ack": %d}' % number,
            b'{"ack": 1, "x": ' + rng.choice((b"[", b'{"a":')) * rng.choice((3, 300, 9000)),
            rng.choice(("²", "\u0661", "\U0001d7d9", "1_0", "+1", " 1", "1\n")).encode(),
            struct.pack("!H", rng.choice(CODES)) + rng.randbytes(rng.randrange(4)),
            struct.pack("!H", rng.randrange(65536)),
            b"keepalive",
            b"\xff\xfe\xed\xa0\x80"[: rng.randrange(6)],
            rng.randbytes(rng.choice((0, 1, 2, 125, 126, 127))),
            bytes(rng.choice((1000, 65535, 65536, 70000)) if rng.random() < 0.05 else 0),
        )
    )


def frame(
    opcode: int, data: bytes, *, head: int = 0x80, mask: bytes = b"", says: int = -1
) -> bytes:
    """Return a frame; ``head`` has FIN and the reserved bits, ``says`` is its claimed length."""
    length = len(data) if says < 0 else says
    bit = 0x80 if mask else 0
    if length < 126:
        size = bytes([bit | length])
    elif length < 1 << 16:
        size = bytes([bit | 126]) + struct.pack("!H", length)
    else:
        size = bytes([bit | 127]) + struct.pack("!Q", length)
    return bytes([head | opcode]) + size + mask + data


def sequence(rng: random.Random) -> list[bytes]:
    """Return frames as an honest server might send them, and some that only look so."""
    frames: list[bytes] = []
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        data = payload(rng)
        opcode = rng.choice((TEXT, TEXT, PONG, PONG, PING, BINARY, CLOSE))
        if opcode in (TEXT, BINARY) and rng.random() < 0.3:
            middle = rng.randrange(len(data) + 1)
            frames.append(frame(opcode, data[:middle], head=0))
            frames.append(frame(0, data[middle:]))
        else:
            frames.append(frame(opcode, data))
    if rng.random() < 0.02:
        frames *= max(1, min(500, INPUT_BYTES // (1 + sum(map(len, frames)))))
    return frames


def odd_frame(rng: random.Random) -> bytes:
    """Return a frame that breaks one rule, or two."""
    return frame(
        rng.randrange(16),
        payload(rng),
        head=rng.choice((0x80, 0x80, 0x00, 0xC0, 0x90, 0xF0, 0x40)),
        mask=rng.choice((b"", b"", b"\0\0\0\0", b"abcd")),
        says=rng.choice((-1, rng.choice(LENGTHS))),
    )


def frames_input(rng: random.Random) -> bytes:
    """Return an input for an open connection."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.choice((1, 2, 10, 100, 1000)))
    frames = sequence(rng)
    if kind < 4:
        frames[rng.randrange(len(frames) + 1) :] = [odd_frame(rng), *sequence(rng)]
    data = b"".join(frames)[:INPUT_BYTES]
    return data if kind == 7 else mutated(rng, data)


ACKS = ("", "", "cumulative", "archived")  # the server's answer

HEADERS: tuple[bytes, ...] = (
    b"Telemetry-Ack: cumulative",
    b"Telemetry-Ack: archived",
    b"Telemetry-Ack: \xff",
    b"Retry-After: 5",
    b"Retry-After: " + b"9" * 5000,
    b"Retry-After: Fri, 31 Dec 2100 23:59:59 GMT",
    b"Retry-After: Fri, 31 Dec 99999999999999999999 23:59:59 GMT",
    b"Retry-After: Fri, 31 Dec 2100 23:59:59 +99999999999999",
    b"Content-Length: 5",
    b"Content-Length: -5",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: \xd9\xa1",
    b"Transfer-Encoding: chunked",
    b"Location: ws://127.0.0.1:1/",
    b"Set-Cookie: a=b; domain=127.0.0.1",
    b"Set-Cookie: a@b=c; domain=127.0.0.1",
    b'Set-Cookie: a="\\015\\012X: y"; domain=127.0.0.1',
    b"Sec-WebSocket-Protocol: x",
    b"Sec-WebSocket-Extensions: permessage-deflate",
    b"no colon",
    b": no name",
    b"X: " + b"y" * 70000,
    b" folded",
)
STATUSES = b"101 101 101 101 100 200 302 308 401 429 503 0 x".split()
VERSIONS = (b"HTTP/1.1 ", b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2 ", b"")


def handshake_input(rng: random.Random, key: bytes) -> bytes:
    """Return an answer to a handshake, and perhaps some bytes after it."""
    lines = [
        rng.choice(VERSIONS) + rng.choice(STATUSES) + b" Words",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + base64.b64encode(hashlib.sha1(key + GUID).digest()),
        *rng.choices(HEADERS, k=rng.randrange(3)),
    ]
    if rng.random() < 0.2:
        rng.shuffle(lines)
    data = b"\r\n".join((*lines, b"", b"")) + rng.choice((b"", b"hello", frame(CLOSE, b"")))
    return data if rng.random() < 0.4 else mutated(rng, data)


# One input.


def pieces(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """Yield the bytes, cut as a network might cut them."""
    cuts = rng.choice((0, 0, 1, 2, 5))
    edges = sorted(rng.randrange(len(data) + 1) for _ in range(cuts))
    for start, end in zip([0, *edges], [*edges, len(data)], strict=True):
        # No more at once than the socket takes, so that the sender never blocks.
        for at in range(start, end, 32768):
            yield data[at : min(end, at + 32768)]


def try_frames(rng: random.Random) -> str:
    """Play one input into a session that has batches in flight; return how it ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        codec, store = EventCodec("session"), TelemetryStore[EncodedEvent](EVENTS)
        window = DeliveryWindow(
            max_batches=512, max_bytes=1 << 22, max_batch_bytes=1 << 18, confirm_timeout=3600.0
        )
        ledger, dropped, ending = Ledger(store), 0, "survived"
        for number in range(EVENTS):
            store.push(codec.encode("fuzz", {"n": number}, {}))
        connection = open_connection(ours, acks=rng.choice(ACKS))
        session = WireSession(
            connection,
            store=store,
            take=store.drain_numbered,
            codec=codec,
            window=window,
            settlement=(settlement := Settlement(window)),
            adoption=Adoption(
                None,
                ledger=ledger,
                settlement=settlement,
                max_event_bytes=codec.max_event_bytes,
                max_age=SETTINGS.journal_max_age,
                most_report_bytes=SETTINGS.max_batch_bytes,
            ),
            ledger=ledger,
            gaps=GapLog(),
            reporter=None,
            keepalive=Keepalive(SETTINGS.keepalive_interval),
            settings=SETTINGS,
            clock=time.monotonic,
            pack=lambda _: None,
            may_send=lambda: True,
        )
        is_reading = rng.random() < 0.8
        try:
            session.send(is_urgent=True, is_awaited=True)
            for piece in pieces(rng, frames_input(rng)):
                theirs.sendall(piece)
                take_all_in(session)
                session.send(is_urgent=False, is_awaited=True)
                if is_reading:
                    with contextlib.suppress(BlockingIOError):
                        theirs.recv(1 << 20)
            theirs.shutdown(socket.SHUT_WR)
            take_all_in(session)
        except ConnectionLost as lost:
            ending = str(lost)
            dropped = window.connection_lost(lost.close_code) is not None
        if connection.unwritten > UNWRITTEN_BOUND:
            raise Failure(f"{connection.unwritten} bytes are waiting to be written")
        if ledger.delivered + window.in_flight + len(store) + dropped != EVENTS:
            raise Failure(
                f"the ledger: {ledger.read()}, in flight {window.in_flight}, dropped {dropped}"
            )
        connection.abort()
        return ending


def open_connection(sock: socket.socket, *, acks: str) -> WebSocketConnection:
    """Return a connection as it is after its handshake."""
    headers = {"telemetry-ack": acks}
    return WebSocketConnection(Stream(PlainSocket(sock)), headers, offers_archived_acks=True)


def take_all_in(session: WireSession) -> None:
    """Read until there is nothing more, as the worker does, but without waiting."""
    session.receive()
    while session.has_work:
        session.receive()
        session.send(is_urgent=False, is_awaited=True)


def try_handshake(rng: random.Random, listener: socket.socket) -> str:
    """Play one input as the answer to a handshake; this thread is both client and server."""
    port = listener.getsockname()[1]
    server: list[socket.socket] = []
    answer: list[bytes] = []

    def wait(fd: int, events: int, _deadline: float) -> None:
        if events == selectors.EVENT_WRITE:
            # A busy machine takes a moment to connect. Before that the client couldn't send its
            # request, which is then waited for below.
            select.select([], [fd], [])
            return
        if not server:
            peer, _ = listener.accept()
            # Its close is a reset, so that no input holds a port for a minute.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            server.append(peer)
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += peer.recv(65536)
            if b"\r\nX: y" in request:
                raise Failure("the server wrote a header of the request")
            key = request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
            answer.extend(pieces(rng, handshake_input(rng, key)))
        if answer:
            server[0].sendall(answer.pop(0))
            return
        if rng.random() < 0.1:
            raise TimeoutError
        with contextlib.suppress(OSError):
            server[0].shutdown(socket.SHUT_WR)

    endpoint = Endpoint(f"ws://127.0.0.1:{port}/", token="hush")
    try:
        open_websocket(endpoint, wait, 0.0).abort()
    except ConnectionLost as lost:
        if "hush" in str(lost):
            raise Failure("the error contains the token") from None
        return str(lost)
    else:
        return "handshake done"
    finally:
        for peer in server:
            peer.close()


# All inputs.


def try_one(number: int, seed: int, listener: socket.socket, kind: str) -> str:
    """Try one input; return how it ended."""
    rng = random.Random(f"{seed}/{number}")
    if kind == "journal":
        return try_journal(rng, seed, number)
    if kind == "messages":
        return try_message(rng)
    if number % INPUTS_PER_HANDSHAKE == 0:
        return try_handshake(rng, listener)
    return try_frames(rng)


def run(inputs: range, seed: int, kind: str) -> tuple[Counter[str], tuple[float, int], list[int]]:
    """Try the inputs; return their endings, the slowest one, and those that failed."""
    endings: Counter[str] = Counter()
    slowest = (0.0, -1)
    failed = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for number in inputs:
            if number % 64 == 0 or number == inputs.start:
                faulthandler.dump_traceback_later(HANG_TIMEOUT, exit=True)
            start = time.perf_counter()
            try:
                ending = try_one(number, seed, listener, kind)
            except Exception as error:
                ending = f"FAILED: {type(error).__name__}"
                failed.append(number)
                if ending not in endings:  # the first of each kind
                    sys.stderr.write(f"input {number}:\n{traceback.format_exc()}\n")
            endings[re.sub(r"-?\d+", "N", ending)] += 1
            slowest = max(slowest, (time.perf_counter() - start, number))
    faulthandler.cancel_dump_traceback_later()
    return endings, slowest, failed


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="try this one input of the seed")
    kinds = parser.add_mutually_exclusive_group()
    for kind, text in (("journal", "damage journals"), ("messages", "damage compressed messages")):
        kinds.add_argument(
            f"--{kind}", dest="kind", action="store_const", const=kind, help=f"{text} instead"
        )
    arguments = parser.parse_args()
    inputs = range(arguments.inputs)
    if arguments.only is not None:
        inputs = range(arguments.only, arguments.only + 1)
    at_first, start = peak_bytes(), time.perf_counter()
    endings, (longest, number), failed = run(inputs, arguments.seed, arguments.kind or "")
    seconds = time.perf_counter() - start
    lines = [f"{count:>9}  {ending}" for ending, count in endings.most_common()]
    lines += [
        f"{len(inputs)} inputs of seed {arguments.seed} in {seconds:.1f} s",
        f"slowest: {longest * 1000:.1f} ms, input {number}",
        f"peak memory: {peak_bytes() / 2**20:.1f} MiB, {at_first / 2**20:.1f} MiB before the first",
        f"failed: {len(failed)}" + (f", the first at input {failed[0]}" if failed else ""),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
