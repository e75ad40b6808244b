"""The WebSocket endpoint that clients send events to.

Each message is read, parsed and handed to the storage thread, and acknowledged only once it is
stored. If it can't be stored, the connection is closed with 1013 (try again later). With that
code the client knows that its data is not at fault; it keeps the data and sends it again.

Compressed messages are unpacked on the event loop. That takes less time than to parse them, and
less than to hand them to another thread and back. A hostile mebibyte of ``deflate``, empty blocks
with a table each, takes 0.14 s; one of JSON, parts that are not events, takes about as long.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Message as ASGIEvent
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from .._compression import CompressionError, TooLargeError, choose, supported, unpacker
from .._report import State
from .._shared import (
    ACK_ARCHIVED,
    ACK_CUMULATIVE,
    ACK_HEADER,
    CHECK_HEADER,
    CHECK_TYPE,
    CHECK_VERSION,
    CONFIRM_HEADER,
    ENCODING_HEADER,
    REPORT_HEADER,
    REPORT_VERSION,
    TokenBucket,
)
from .messages import Message, read_message, rejected_message
from .storing import Archive, Body, MessageTooLargeError, Place, Storage

__all__ = ["Ingest", "Limits"]

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]  # HEAD comes with GET
_PARTS_PER_TURN = 1000  # of a client's messages, before others get theirs
_MAX_UNSTORED_MESSAGES = 64  # per connection; beyond that it is not read
_MAX_UNARCHIVED_MESSAGES = 16384  # the same; the SDK has half as many in flight
_MAX_CHECKS = 8  # messages of a connection that are stored and deleted, each with its own sync
_BURST_SECONDS = 10.0  # how much of the allowed rate may arrive at once
_MAX_CONNECTED_SESSIONS = 32  # per connection; the newest count
_CLOSE_TIMEOUT = 5.0  # seconds for each step of an orderly close

# RFC 6455, section 7.4, and IANA's registry
GOING_AWAY, MALFORMED, POLICY, TOO_BIG, TRY_AGAIN_LATER = 1001, 1007, 1008, 1009, 1013

_Unpack = Callable[[bytes, int], bytes]

# Raised by reading from, or writing to, a client that has gone.
_DISCONNECTED = (WebSocketDisconnect, RuntimeError, OSError)


class Limits:
    """Limits on one client, and on all of them together.

    Args:
        connections: at once; a client beyond them is closed with 1013.
        rate: events per second and connection, averaged over ten seconds; a connection that
            exceeds it is closed with 1008.
        message_bytes: of the text that a compressed message may have; a client that exceeds it is
            closed with 1009.
    """

    def __init__(
        self,
        *,
        connections: int = 2000,
        rate: float = 50_000.0,
        message_bytes: int = 1024 * 1024,
    ) -> None:
        self.connections = connections
        self.rate = rate
        self.message_bytes = message_bytes


async def _require_upgrade(_: Request) -> Response:
    """Answer a request to the endpoint that does not ask for a WebSocket.

    It is seldom the wrong URL: most often a proxy dropped the header of a game's handshake.
    """
    error = (
        "this is for WebSockets, and the request had no header Upgrade: websocket; if a game sent "
        "it, a proxy in between drops the headers Upgrade and Connection: configure it to forward "
        "them"
    )
    body = msgspec.json.encode({"error": error})
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}  # RFC 9110, section 15.5.22
    return Response(body, 426, headers, media_type="application/json")


class _NoReceipt:
    """For the record of a message that is refused: the client must not get an ack for it."""

    is_broken = False

    def stored(self, messages: int, places: Sequence[Place] = ()) -> None:
        pass

    def failed(self) -> None:
        pass


class _Connection:
    """One client: counts its messages that were received, stored and acknowledged.

    Runs on the event loop's thread, except where noted.

    Args:
        websocket: an accepted connection.
        limits: those of one client.
        on_message: called with the bytes of each message as it came, and of its text.
        wants_acks: whether it was promised acks.
        archive: calls it when its messages are archived, if the acks are for that.
        is_check: whether it was promised that its check is forgotten.
        encoding: of binary messages; None if they are text, too.
        unpack: unpacks them; None with no encoding.
    """

    def __init__(
        self,
        websocket: WebSocket,
        limits: Limits,
        on_message: Callable[[int, int], None],
        *,
        wants_acks: bool,
        archive: Archive | None,
        is_check: bool,
        encoding: str | None,
        unpack: _Unpack | None,
    ) -> None:
        self._websocket = websocket
        self._limits = limits
        self._on_message = on_message
        self._wants_acks = wants_acks
        self._archive = archive
        self._checks_left = _MAX_CHECKS if is_check else 0
        self._encoding = encoding
        self._unpack = unpack
        self._events_allowed = TokenBucket(limits.rate, limits.rate * _BURST_SECONDS)
        self._received = 0
        self._stored = 0
        self._archived = 0
        self._acked = (0, 0)  # messages archived and stored, as the client knows
        self._is_ending = False
        self._awaits_archive = False  # before it ends
        self._refusal: tuple[int, str] | None = None  # code and reason of the close for its fault
        self._has_failed = False
        self._progress = asyncio.Event()  # something was stored, or failed, or it is ending
        self._idle = asyncio.Event()  # set while all that the client has sent so far is read
        self._sessions: dict[str, None] = {}  # ordered; the most recent one is last
        self.is_broken = False  # see Receipt; written by the storage

    @property
    def sessions(self) -> Iterable[str]:
        """The most recent sessions that it sent events or reports of, and that have not ended."""
        return self._sessions.keys()

    # Called by the storage; see Receipt.

    def stored(self, messages: int, places: Sequence[Place] = ()) -> None:
        self._stored += messages
        self._progress.set()
        if self._archive is not None:
            self._archive.follow(self, messages, places)

    def archived(self, messages: int) -> None:
        """Note that more of its messages are archived; see ArchiveReceipt."""
        self._archived += messages
        self._progress.set()

    def failed(self) -> None:
        self._has_failed = True
        self._progress.set()

    # The conversation with the client.

    async def serve(self, storage: Storage, closing: asyncio.Event) -> None:
        """Serve the client until it leaves or has to be closed, and close it if so."""
        receiving = asyncio.create_task(self._receive(storage))
        acknowledging = asyncio.create_task(self._acknowledge())
        waiting = asyncio.create_task(closing.wait())
        tasks: set[asyncio.Task[object]] = {receiving, acknowledging, waiting}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if acknowledging.done() and not self._has_failed:
                # The client has gone, but its last messages may still wait to be read.
                await asyncio.wait([receiving, waiting], return_when=asyncio.FIRST_COMPLETED)
            await self._end(receiving, acknowledging, is_closing=waiting.done())
        finally:
            if self._archive is not None:
                self._archive.forget(self)
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, _DISCONNECTED):
                    raise outcome

    async def _end(
        self,
        receiving: asyncio.Task[None],
        acknowledging: asyncio.Task[None],
        *,
        is_closing: bool,
    ) -> None:
        """Close the connection with the code for the reason that it ends; none if it has gone."""
        if self._has_failed:
            await self.close(TRY_AGAIN_LATER, "events can't be stored now")
        elif self._refusal is not None:
            await self._settle(acknowledging)
            await self.close(*self._refusal)
        elif is_closing:
            if not self._wants_acks:
                # To this client, a pong has confirmed each message as soon as it was read.
                await self._catch_up(receiving, acknowledging)
            receiving.cancel()
            await asyncio.wait([receiving])
            self._awaits_archive = True  # or else it sends again what is not archived yet
            await self._settle(acknowledging)
            await self.close(GOING_AWAY, "the collector is closing")

    async def _receive(self, storage: Storage) -> None:
        """Submit messages until the client leaves or sends one that is refused.

        Can be canceled at any await: it never waits while it holds a message.
        """
        parts = 0
        while True:
            await storage.room()
            while self._is_full and not self._has_failed:
                await self._wait_for_progress()
            self._idle.set()
            event = await self._websocket.receive()
            self._idle.clear()
            if event["type"] != "websocket.receive":
                return
            try:
                text, body = self._text(event)
            except CompressionError as error:
                self._refuse(event["bytes"], error, storage)
                return
            message = read_message(text)
            if not self._events_allowed.take(message.parts):
                self._refusal = POLICY, f"more than {self._limits.rate:g} events per second"
                return
            is_check = self._is_check(message)
            try:
                storage.submit(message, len(text), self, is_check=is_check, body=body)
            except MessageTooLargeError as error:
                self._refusal = TOO_BIG, str(error)
                return
            self._received += 1
            self._note_sessions(message)
            parts += message.parts
            if parts >= _PARTS_PER_TURN:
                parts = 0
                await asyncio.sleep(0)  # `receive` doesn't wait while messages are there

    @property
    def _is_full(self) -> bool:
        is_full = self._received - self._stored >= _MAX_UNSTORED_MESSAGES
        if self._archive is not None:
            is_full = is_full or self._received - self._archived >= _MAX_UNARCHIVED_MESSAGES
        return is_full

    def _is_check(self, message: Message) -> bool:
        """Return whether a message is part of a check, and the client may still send some."""
        if self._checks_left == 0 or any(event.type != CHECK_TYPE for event in message.events):
            return False
        self._checks_left -= 1
        return True

    def _text(self, event: ASGIEvent) -> tuple[bytes, Body]:
        """Return the text of a message, and the message as it came.

        Raises:
            CompressionError: it can't be unpacked, or would be too large.
        """
        packed: bytes | None = event.get("bytes")
        if packed is None or self._unpack is None:
            text: bytes = event["text"].encode() if packed is None else packed
            self._on_message(len(text), len(text))
            return text, Body(text, None)
        text = self._unpack(packed, self._limits.message_bytes)
        self._on_message(len(packed), len(text))
        return text, Body(packed, self._encoding)

    def _refuse(self, body: bytes, error: CompressionError, storage: Storage) -> None:
        """Record a message that can't be unpacked, and end the connection.

        It is not acknowledged, although text that is not JSON is: the events in it are unknown
        here, but the client still has them. At this close the SDK sends them again, and in smaller
        messages if it is closed again.
        """
        self._refusal = TOO_BIG if isinstance(error, TooLargeError) else MALFORMED, str(error)
        self._on_message(len(body), 0)
        storage.submit(rejected_message(body, f"compressed message: {error}"), 0, _NoReceipt())

    async def _catch_up(
        self, receiving: asyncio.Task[None], acknowledging: asyncio.Task[None]
    ) -> None:
        """Wait until all that the client has sent so far is read, or can't be stored."""
        reading = asyncio.create_task(self._wait_until_idle())
        await asyncio.wait(
            [reading, receiving, acknowledging],
            timeout=_CLOSE_TIMEOUT,
            return_when=asyncio.FIRST_COMPLETED,
        )
        reading.cancel()

    async def _wait_until_idle(self) -> None:
        # `_receive` sets and clears the event without a pause while messages are queued, which
        # wakes this up although more follows: so the event is looked at again.
        while not self._idle.is_set():
            await self._idle.wait()

    async def _wait_for_progress(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    def _note_sessions(self, message: Message) -> None:
        known = self._sessions
        found = {event.session_id for event in message.events}
        running = {report.session_id for report in message.reports if report.state != State.ENDED}
        for session_id in found | running:
            known.pop(session_id, None)
            known[session_id] = None
        for report in message.reports:
            if (
                report.state == State.ENDED
            ):  # perhaps of an earlier run, which this client took over
                known.pop(report.session_id, None)
        while len(known) > _MAX_CONNECTED_SESSIONS:
            del known[next(iter(known))]

    async def _acknowledge(self) -> None:
        """Acknowledge messages as they are stored; return when one can't be, or at the end."""
        while not self._has_failed:
            progress = self._archived, self._stored
            if progress != self._acked:
                if self._wants_acks:
                    await self._websocket.send_text(self._ack(*progress))
                self._acked = progress
            elif self._is_ending and self._is_settled:
                return
            else:
                await self._wait_for_progress()

    def _ack(self, archived: int, stored: int) -> str:
        if self._archive is None:
            return f'{{"ack":{stored}}}'
        return f'{{"ack":{archived},"stored":{stored}}}'

    @property
    def _is_settled(self) -> bool:
        """Whether the client knows of all that was received that it is safe."""
        archived, stored = self._acked
        is_awaiting = self._awaits_archive and self._archive is not None
        return (archived if is_awaiting else stored) == self._received

    async def _settle(self, acknowledging: asyncio.Task[None]) -> None:
        """Wait until everything received is acknowledged, or can't be; but not for long."""
        self._is_ending = True
        self._progress.set()
        await asyncio.wait([acknowledging], timeout=_CLOSE_TIMEOUT)

    async def close(self, code: int, reason: str) -> None:
        """Send a close, if the client is still connected."""
        with contextlib.suppress(asyncio.TimeoutError, *_DISCONNECTED):
            if self._websocket.application_state is WebSocketState.CONNECTED:
                await asyncio.wait_for(self._websocket.close(code, reason), _CLOSE_TIMEOUT)


class Ingest:
    """Serves the clients. Runs on the event loop's thread.

    Args:
        storage: stores their events.
        limits: on each client, and on all of them.
        on_message: called with the bytes of each message as it came, and of its text.
        archive: where messages go after the storage, if there is one.
    """

    def __init__(
        self,
        storage: Storage,
        limits: Limits,
        on_message: Callable[[int, int], None],
        archive: Archive | None = None,
    ) -> None:
        self._storage = storage
        self._archive = archive
        self._limits = limits
        self._on_message = on_message
        self._unpackers = {encoding: unpacker(encoding) for encoding in supported()}
        self._closing = asyncio.Event()
        self._connections: set[_Connection] = set()
        self._last_has_left = asyncio.Event()
        self.routes: list[BaseRoute] = [
            WebSocketRoute("/telemetry", self.serve),
            Route("/telemetry", _require_upgrade, methods=_METHODS),
        ]

    @property
    def connections(self) -> int:
        """The number of clients connected now."""
        return len(self._connections)

    @property
    def connected_sessions(self) -> set[str]:
        """The ids of sessions whose clients are connected now.

        A client that sends events of many sessions counts for the most recent ones.
        """
        return set().union(*(connection.sessions for connection in self._connections))

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one client, from its handshake to its end."""
        if self._closing.is_set():
            answer = PlainTextResponse("closing\n", 503, headers={"Retry-After": "1"})
            await websocket.send_denial_response(answer)
            return
        headers = []
        kind = self._kind_of_acks(websocket)
        if kind is not None:
            headers.append((ACK_HEADER.encode(), kind.encode()))
        offered = websocket.headers.get(REPORT_HEADER, "").split(",")
        if REPORT_VERSION in map(str.strip, offered):
            headers.append((REPORT_HEADER.encode(), REPORT_VERSION.encode()))
        is_check = websocket.headers.get(CHECK_HEADER) == CHECK_VERSION
        if is_check:
            headers.append((CHECK_HEADER.encode(), CHECK_VERSION.encode()))
        encoding = choose(",".join(websocket.headers.getlist(ENCODING_HEADER)), self._unpackers)
        if encoding is not None:
            headers.append((ENCODING_HEADER.encode(), encoding.encode()))
        await websocket.accept(headers=headers)
        connection = _Connection(
            websocket,
            self._limits,
            self._on_message,
            wants_acks=kind is not None,
            archive=self._archive if kind == ACK_ARCHIVED else None,
            is_check=is_check,
            encoding=encoding,
            unpack=None if encoding is None else self._unpackers[encoding],
        )
        if self.connections >= self._limits.connections:
            await connection.close(TRY_AGAIN_LATER, "too many connections")
            return
        self._connections.add(connection)
        try:
            await connection.serve(self._storage, self._closing)
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._last_has_left.set()

    def _kind_of_acks(self, websocket: WebSocket) -> str | None:
        """Return the kind of acks that a client gets; None if it gets none."""
        if websocket.headers.get(ACK_HEADER, "").strip().lower() != ACK_CUMULATIVE:
            return None
        wanted = websocket.headers.get(CONFIRM_HEADER, "").strip().lower()
        has_archive = self._archive is not None and wanted == ACK_ARCHIVED
        return ACK_ARCHIVED if has_archive else ACK_CUMULATIVE

    async def close(self) -> None:
        """Store and acknowledge what was received, and close all connections with 1001."""
        self._closing.set()
        while self._connections:
            self._last_has_left.clear()
            await self._last_has_left.wait()
