"""The receiving end of the chaos run: a real WebSocket server, and its record of the arrivals.

:class:`Arrivals` is the durable part: it outlives the server, as a database would. It remembers
each event of a session by a bit or two, so half an hour of events fits into a few hundred
kilobytes. A :class:`Book` has one for each session: a game that is killed begins a new one.
:class:`Receiver` is the server, which can be restarted, slowed down and stalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from itertools import groupby, pairwise
from typing import Any, Protocol, TypeVar

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from redvsblue_telemetry._compression import CompressionError, choose, unpacker
from redvsblue_telemetry._shared import ENCODING_HEADER

__all__ = ["Arrival", "Arrivals", "Book", "Event", "Receiver"]

V = TypeVar("V")

_BLOCK_BYTES = 4096  # of a bitmap, with one count
_MAX_EXAMPLES = 20  # faults that are described
_LONG_BYTES = 1024  # of a text that is worth compressing
_MAX_TEXT_BYTES = 1 << 20  # of a message, once it is unpacked


class _Data(msgspec.Struct):
    thread: int
    n: int


class Event(msgspec.Struct, rename="camel"):
    """An event, as far as the record is concerned."""

    session_id: str
    seq: int
    data: _Data


_decode = msgspec.json.Decoder(list[Event]).decode


class _Bits:
    """A set of numbers, one bit each."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._counts: list[int] = []  # how many there are in each block

    def __contains__(self, number: int) -> bool:
        index = number >> 3
        return index < len(self._bytes) and bool(self._bytes[index] >> (number & 7) & 1)

    def add(self, number: int) -> None:
        index = number >> 3
        while index >= len(self._bytes):
            self._bytes.extend(bytes(_BLOCK_BYTES))
            self._counts.append(0)
        self._bytes[index] |= 1 << (number & 7)
        self._counts[index // _BLOCK_BYTES] += 1

    def ranked(self, rank: int) -> int:
        """Return the number with this rank in ascending order, from 1; 0 for rank 0."""
        if rank <= 0:
            return 0
        for block, count in enumerate(self._counts):
            if rank > count:
                rank -= count
                continue
            for index in range(block * _BLOCK_BYTES, (block + 1) * _BLOCK_BYTES):
                ones = self._bytes[index].bit_count()
                if rank > ones:
                    rank -= ones
                    continue
                bits = [bit for bit in range(8) if self._bytes[index] >> bit & 1]
                return index * 8 + bits[rank - 1]
        raise ValueError(f"rank {rank} is beyond the last number")

    def missing(self, last: int, limit: int) -> list[int]:
        """Return the first few numbers from 1 to ``last`` that are not in the set."""
        found: list[int] = []
        for start in range(0, last + 1, 8):
            if start >> 3 < len(self._bytes) and self._bytes[start >> 3] == 0xFF:
                continue
            found += [n for n in range(max(1, start), min(start + 8, last + 1)) if n not in self]
            if len(found) >= limit:
                break
        return found[:limit]


class Arrival:
    """One connection's part of the arrivals."""

    def __init__(self, confirmed_seq: int) -> None:
        self.confirmed_seq = confirmed_seq
        """The last event that the client knew to be delivered when it connected."""
        self.last_seq = 0


class Arrivals:
    """The events that arrived in one session, and the faults in how they arrived.

    Written by the server's thread; read by other threads after the server has ended.

    Args:
        session_id: the session.
        delivered: returns how many events the client counts as delivered now.
    """

    def __init__(self, session_id: str, delivered: Callable[[], int] = lambda: 0) -> None:
        self._session_id = session_id
        self._delivered = delivered
        self._seen = _Bits()
        self._starts = _Bits()  # the first event of each batch
        self._last_of_thread: dict[int, int] = {}
        self.is_taken_over = False
        """Whether its game was killed, and others deliver its events: in batches of their own, and
        again from the last confirmation that the journal has. Set by another thread."""
        self.highest = 0
        self.received = 0
        self.unique = 0
        self.duplicates = 0
        self.batches = 0
        self.repeated_batches = 0
        self.out_of_order = 0
        """First arrivals of events older than one that had arrived before."""
        self.thread_disorders = 0
        """First arrivals that were not in the order in which their thread emitted them."""
        self.unexplained = 0
        """Repeated batches that were not in flight, or that were changed."""
        self.strangers = 0
        """Events of another session."""
        self.skipped = 0
        """Events that had not arrived when a later one of their thread did."""
        self.examples: list[str] = []

    def connected(self) -> Arrival:
        """Begin the record of a connection, before its handshake is answered."""
        if self.is_taken_over:
            return Arrival(0)
        return Arrival(self._seen.ranked(min(self._delivered(), self.unique)))

    def store(self, message: str | bytes, arrival: Arrival) -> None:
        """Keep one batch."""
        self.keep(_decode(message), arrival)

    def keep(self, events: list[Event], arrival: Arrival) -> None:
        """Keep the events of one batch."""
        self.batches += 1
        self.received += len(events)
        if any(event.session_id != self._session_id for event in events):
            self.strangers += len(events)
            return
        seqs = [event.seq for event in events]
        repeats = [seq for seq in seqs if seq in self._seen]
        if any(after <= before for before, after in pairwise([arrival.last_seq, *seqs])):
            self._blame("unexplained", f"{_span(seqs)} after {arrival.last_seq} on one connection")
        elif repeats and not self.is_taken_over:
            self._explain(seqs, repeats, arrival)
        if repeats:
            self.duplicates += len(repeats)
            self.repeated_batches += 1
        arrival.last_seq = seqs[-1]
        known = set(repeats)
        for event in events:
            if event.seq not in known:
                known.add(event.seq)
                self._arrive_first(event)
        if not repeats:
            self._starts.add(seqs[0])

    def _explain(self, seqs: list[int], repeats: list[int], arrival: Arrival) -> None:
        """Check that a repeat is a whole batch, unchanged, whose delivery was not confirmed."""
        is_whole = len(repeats) == len(seqs) and seqs[0] in self._starts
        following = seqs[-1] + 1
        is_cut_short = following in self._seen and following not in self._starts
        if not is_whole or is_cut_short or any(seq in self._starts for seq in seqs[1:]):
            self._blame("unexplained", f"{_span(seqs)} is not the batch that was sent before")
        elif seqs[0] <= arrival.confirmed_seq:
            self._blame(
                "unexplained",
                f"{_span(seqs)} repeated, though confirmed to {arrival.confirmed_seq}",
            )

    def _arrive_first(self, event: Event) -> None:
        self.unique += 1
        self._seen.add(event.seq)
        if event.seq < self.highest:
            self._blame("out_of_order", f"{event.seq} arrived after {self.highest}")
        self.highest = max(self.highest, event.seq)
        last = self._last_of_thread.get(event.data.thread, -1)
        if event.data.n <= last:
            self._blame("thread_disorders", f"{event.seq} is {event.data}")
        self.skipped += max(0, event.data.n - last - 1)
        self._last_of_thread[event.data.thread] = event.data.n

    def _blame(self, count: str, words: str) -> None:
        setattr(self, count, getattr(self, count) + 1)
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(f"{count}: {words}")

    def lost(self, last: int, dropped: int) -> int:
        """Return how many of the events 1 to ``last`` never arrived and were not dropped."""
        return max(0, last - self.unique - dropped)

    def lost_of(self, returned: Sequence[int]) -> int:
        """Return how many events of a game that was killed never arrived.

        Args:
            returned: for each thread, how many of its emits had returned.
        """
        last = self._last_of_thread
        behind = sum(max(0, count - 1 - last.get(n, -1)) for n, count in enumerate(returned))
        return self.skipped + behind

    def missing_examples(self, last: int) -> list[int]:
        """Return the first few of the events 1 to ``last`` that never arrived."""
        return self._seen.missing(last, _MAX_EXAMPLES)


def _span(seqs: list[int]) -> str:
    return f"batch {seqs[0]}-{seqs[-1]}"


class Record(Protocol[V]):
    """Where a server keeps what arrives: :class:`Arrivals`, or a :class:`Book` of them."""

    def connected(self) -> V: ...
    def store(self, message: str | bytes, arrival: V, /) -> None: ...


class Book:
    """The arrivals of several sessions. A game begins each of them before its first connection."""

    def __init__(self) -> None:
        self._sessions: dict[str, Arrivals] = {}
        self.strangers = 0
        """Events of a session that no game has begun."""

    def begin(self, session_id: str, arrivals: Arrivals) -> None:
        """Expect a session."""
        self._sessions[session_id] = arrivals

    def connected(self) -> dict[str, Arrival]:
        """Begin the record of a connection, before its handshake is answered."""
        sessions = tuple(self._sessions.items())
        return {session_id: arrivals.connected() for session_id, arrivals in sessions}

    def store(self, message: str | bytes, visit: dict[str, Arrival]) -> None:
        """Keep one batch, by session."""
        for session_id, events in groupby(_decode(message), lambda event: event.session_id):
            if session_id in visit:
                self._sessions[session_id].keep(list(events), visit[session_id])
            else:
                self.strangers += len(list(events))


class Receiver:
    """A WebSocket server on its own thread; a context manager.

    Args:
        arrivals: where it stores the batches, before it acknowledges them.
        has_acks: acknowledge stored batches; without acks, only pongs prove receipt.
        encoding: the one encoding of messages that it answers with; None to get text.
    """

    def __init__(
        self, arrivals: Record[Any], *, has_acks: bool = True, encoding: str | None = None
    ) -> None:
        self._arrivals = arrivals
        self._has_acks = has_acks
        self._encodings = (encoding,) if encoding else ()
        self._unpack = unpacker(encoding) if encoding else None
        self.compressed = 0
        """Messages that came compressed."""
        self.long_texts = 0
        """Messages that should have come compressed, and came as text."""
        self.malformed: list[str] = []
        """What was wrong with the first compressed messages that couldn't be read."""
        self.ack_delay = 0.0
        """Seconds between storing and acknowledging; may be changed at any time."""
        # Windows' default one accepts no more once a connection was reset before it was accepted.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name="chaos-receiver", daemon=True)
        self._server: Server | None = None
        self._open: set[ServerConnection] = set()
        # Weak, since no callback reports a handshake that failed.
        self._accepted = weakref.WeakKeyDictionary[ServerConnection, Any]()
        self._may_read = asyncio.Event()
        self._may_read.set()

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stall(False)
        self.close(code=1001)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def listen(self) -> int:
        """Start to serve; returns the port, a new one each time."""
        port: int = self._call(self._listen())
        return port

    def close(self, code: int) -> None:
        """Stop serving as a well-behaved server does: with a close code, after reading the rest."""
        self._call(self._close(code))

    def kill(self) -> None:
        """Stop serving as a crashed server does; stored batches stay."""
        self._call(self._kill())

    def stall(self, on: bool) -> None:
        """Stop reading, or go on."""
        self._loop.call_soon_threadsafe(self._may_read.clear if on else self._may_read.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _call(self, action: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(30)

    # On the server's thread.

    async def _listen(self) -> int:
        self._server = await serve(
            self._receive,
            "127.0.0.1",
            0,
            process_request=self._let_in,
            process_response=self._answer,
            compression=None,
            max_size=None,
            close_timeout=2,
        )
        port: int = next(iter(self._server.sockets)).getsockname()[1]
        return port

    async def _close(self, code: int) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        closes = [connection.close(code) for connection in tuple(self._open)]
        server.close(close_connections=False)
        await asyncio.gather(*closes, return_exceptions=True)
        server.close()  # those still in their handshake
        await server.wait_closed()

    async def _kill(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        for connection in tuple(self._open):
            connection.transport.abort()
        server.close()
        await server.wait_closed()

    def _let_in(self, connection: ServerConnection, request: Request) -> None:
        # While the client waits for this answer, it can't receive a confirmation.
        self._accepted[connection] = self._arrivals.connected()

    def _answer(
        self, connection: ServerConnection, request: Request, response: Response
    ) -> Response:
        if self._has_acks:
            response.headers["Telemetry-Ack"] = "cumulative"
        offered = request.headers.get(ENCODING_HEADER, "")
        if encoding := choose(offered, self._encodings):
            response.headers[ENCODING_HEADER] = encoding
        return response

    async def _receive(self, connection: ServerConnection) -> None:
        stored = asyncio.Event()
        count = [0]
        acker = asyncio.ensure_future(self._acknowledge(connection, stored, count))
        arrival = self._accepted[connection]
        self._open.add(connection)
        try:
            async for message in connection:
                await self._may_read.wait()
                self._arrivals.store(self._text(message), arrival)
                count[0] += 1
                stored.set()
        except ConnectionClosed:
            pass  # its batches are stored
        finally:
            acker.cancel()
            self._open.discard(connection)

    def _text(self, message: str | bytes) -> str | bytes:
        """Return the text of a message, and count how it came."""
        if isinstance(message, str):
            self.long_texts += self._unpack is not None and len(message) >= _LONG_BYTES
            return message
        try:
            if self._unpack is None:
                raise CompressionError("a binary message was not agreed on")
            text = self._unpack(message, _MAX_TEXT_BYTES)
        except CompressionError as error:
            if len(self.malformed) < _MAX_EXAMPLES:
                self.malformed.append(f"{error}: {message[:20]!r}")
            raise
        self.compressed += 1
        return text

    async def _acknowledge(
        self, connection: ServerConnection, stored: asyncio.Event, count: list[int]
    ) -> None:
        """Acknowledge stored batches, after ``ack_delay``."""
        with contextlib.suppress(ConnectionClosed):
            while self._has_acks:
                await stored.wait()
                stored.clear()
                number = count[0]
                await asyncio.sleep(self.ack_delay)
                await connection.send(json.dumps({"ack": number}))
