"""The WebSocket that events come in by.

A message is read, looked at and handed to the storage; when it is stored, and not before, it is
acknowledged. What can't be stored closes the connection with 1013 (try again later), which tells
the client that its data is not to blame, so it keeps it and sends it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence

from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from .._shared import ACK_CUMULATIVE, ACK_HEADER, TokenBucket
from .messages import Event, read_message
from .storage.thread import WriterThread

__all__ = ["Ingest", "Limits"]

_UNSTORED_MESSAGES = 64  # of one connection; then it waits to be read
_BURST = 10.0  # seconds of the allowed rate that may come at once
_NEWEST_SESSIONS = 32  # of one connection, that are known to be connected
_PATIENCE = 5.0  # seconds for a client to take what is said to it at the end

GOING_AWAY, POLICY, TRY_AGAIN_LATER = 1001, 1008, 1013  # RFC 6455, section 7.4, and IANA's registry

# What waiting for, or writing to, a client that has gone ends with.
_IT_IS_GONE = (WebSocketDisconnect, RuntimeError, OSError)


class Limits:
    """What one client, and all of them, may ask for.

    Args:
        connections: at once; a client beyond them is closed with 1013.
        rate: events a second of one connection, over ten seconds; beyond it is closed with 1008.
    """

    def __init__(self, *, connections: int = 2000, rate: float = 50_000.0) -> None:
        self.connections = connections
        self.rate = rate


class _Connection:
    """One client: what it has sent, what of that is stored, what was said to it of that.

    On the event loop's thread, but for what is marked.
    """

    def __init__(self, websocket: WebSocket, rate: float, *, wants_acks: bool) -> None:
        self._websocket = websocket
        self._wants_acks = wants_acks
        self._rate = rate
        self._events_allowed = TokenBucket(rate, rate * _BURST)
        self._received = 0
        self._stored = 0
        self._told = 0
        self._is_ending = False
        self._is_idle = False  # waiting for the client, which has sent nothing more
        self._has_failed = False
        self._progress = asyncio.Event()
        self._sessions: dict[str, None] = {}  # the one that was heard of last at the end
        self.is_broken = False  # see Receipt; written by the storage's thread

    @property
    def sessions(self) -> Iterable[str]:
        """The newest of the sessions that it has sent events of."""
        return self._sessions.keys()

    # What the storage tells; see Receipt.

    def stored(self, messages: int) -> None:
        self._stored += messages
        self._progress.set()

    def failed(self) -> None:
        self._has_failed = True
        self._progress.set()

    # What the connection does.

    async def serve(self, storage: WriterThread, closing: asyncio.Event) -> None:
        """Serve the client until it goes, goes too far, has to wait, or the collector closes."""
        receiving = asyncio.create_task(self._receive(storage))
        acknowledging = asyncio.create_task(self._acknowledge())
        waiting = asyncio.create_task(closing.wait())
        tasks: set[asyncio.Task[object]] = {receiving, acknowledging, waiting}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if acknowledging.done() and not self._has_failed:
                # It has gone, and its last words are here already.
                await asyncio.wait([receiving, waiting], return_when=asyncio.FIRST_COMPLETED)
            if self._has_failed:
                await self.close(TRY_AGAIN_LATER, "it can't be stored now")
            elif receiving.done() and receiving.exception() is None and receiving.result():
                await self._settle(acknowledging)
                await self.close(POLICY, f"more than {self._rate:g} events a second")
            elif waiting.done():
                if not self._wants_acks:  # it believes that all is stored that was read
                    await self._catch_up(receiving)
                receiving.cancel()
                await asyncio.wait([receiving])
                await self._settle(acknowledging)
                await self.close(GOING_AWAY, "the collector is closing")
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, _IT_IS_GONE):
                    raise outcome

    async def _receive(self, storage: WriterThread) -> bool:
        """Take messages in until the client goes, or goes too far; whether it went too far.

        It may be cancelled wherever it waits: it never waits with a message in its hands.
        """
        while True:
            await storage.room()
            while self._received - self._stored >= _UNSTORED_MESSAGES and not self._has_failed:
                await self._wait()
            self._is_idle = True
            event = await self._websocket.receive()
            self._is_idle = False
            if event["type"] != "websocket.receive":
                return False
            body = event.get("bytes") or event.get("text") or b""
            message = read_message(body)
            # A message of nothing costs as one event.
            if not self._events_allowed.take(max(1, len(message.events) + len(message.rejected))):
                return True
            self._received += 1
            self._note_sessions(message.events)
            storage.submit(message, len(body), self)

    async def _catch_up(self, receiving: asyncio.Task[bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not (self._is_idle or self._has_failed or receiving.done()):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.01)

    async def _wait(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    def _note_sessions(self, events: Sequence[Event]) -> None:
        known = self._sessions
        for session_id in {event.session_id for event in events}:
            known.pop(session_id, None)
            known[session_id] = None
        while len(known) > _NEWEST_SESSIONS:
            del known[next(iter(known))]

    async def _acknowledge(self) -> None:
        """Tell the client what is stored, as it comes to be; ends when something can't be."""
        while not self._has_failed:
            stored = self._stored
            if stored > self._told:
                if self._wants_acks:
                    await self._websocket.send_text(f'{{"ack":{stored}}}')
                self._told = stored
            elif self._is_ending and self._told == self._received:
                return
            else:
                await self._wait()

    async def _settle(self, acknowledging: asyncio.Task[None]) -> None:
        """Wait until what was received is stored and acknowledged, or can't be."""
        self._is_ending = True
        self._progress.set()
        await asyncio.wait([acknowledging], timeout=_PATIENCE)

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye, if the client is there to hear it."""
        with contextlib.suppress(asyncio.TimeoutError, *_IT_IS_GONE):
            if self._websocket.application_state is WebSocketState.CONNECTED:
                await asyncio.wait_for(self._websocket.close(code, reason), _PATIENCE)


class Ingest:
    """Serves the clients. On the event loop's thread.

    Args:
        storage: where their events go.
        limits: what they may ask for.
    """

    def __init__(self, storage: WriterThread, limits: Limits) -> None:
        self._storage = storage
        self._limits = limits
        self._closing = asyncio.Event()
        self._connections: set[_Connection] = set()

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return len(self._connections)

    @property
    def connected_sessions(self) -> set[str]:
        """The ids of the sessions that clients have sent events of, and are still there.

        Of a client that sends those of many, the newest.
        """
        return set().union(*(connection.sessions for connection in self._connections))

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one client, from its handshake to its end."""
        if self._closing.is_set():
            answer = PlainTextResponse("closing\n", 503, headers={"Retry-After": "1"})
            await websocket.send_denial_response(answer)
            return
        wants_acks = websocket.headers.get(ACK_HEADER, "").strip().lower() == ACK_CUMULATIVE
        headers = [(ACK_HEADER.encode(), ACK_CUMULATIVE.encode())] if wants_acks else []
        await websocket.accept(headers=headers)
        connection = _Connection(websocket, self._limits.rate, wants_acks=wants_acks)
        if self.connections >= self._limits.connections:
            await connection.close(TRY_AGAIN_LATER, "too many connections")
            return
        self._connections.add(connection)
        try:
            await connection.serve(self._storage, self._closing)
        finally:
            self._connections.discard(connection)

    async def close(self) -> None:
        """Store and acknowledge what was received, and close all connections with 1001."""
        self._closing.set()
        while self._connections:
            await asyncio.sleep(0.01)
