"""The port: accepts connections, and ends those that only take up room.

A connection counts as *waiting* from the moment it is accepted until its TLS handshake and its
first request are complete, and between two requests. One that is late is ended, and so is one that
does not read what it is sent. When too many wait, the oldest of the address that has the most gives
way: refusing new ones instead would let a single machine keep everybody out.

The accept loop is our own because asyncio's has no limits, holds a TLS handshake for a minute,
takes one TLS context for all connections, and logs a traceback a second when files run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Protocol

from .loglimit import LogLimit

__all__ = ["Acceptor", "Connection", "Lobby", "Waiting"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_REQUEST_TIMEOUT = 10.0  # seconds for a TLS handshake, and for each request
_STALL_TIMEOUT = 30.0  # seconds in which a client must read something of what it is sent
_SLOWEST = 65_536.0  # bytes per second that a client reads on Windows
_MAX_WAITING = 500  # connections
_QUIET_CROWD = 10  # so few that have sent nothing are not worth a line: browsers open them ahead
_ACCEPT_PAUSE = 0.5  # seconds after an error, such as no file descriptor left
# Windows' errors for an accepted connection that has gone again; see gh-93821 of CPython
_GONE = {64, 10057}  # ERROR_NETNAME_DELETED, WSAENOTCONN
_INTERNAL_ERROR = "internal error in the collector"
_TLS_HANDSHAKE = b"\x16"  # the first byte of a TLS record that begins a connection
_SPEAKS_TLS = b"This port serves TLS: use https:// or wss://.\n"
_PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_SPEAKS_TLS), _SPEAKS_TLS)
)


class Waiting(Protocol):
    """A connection that has not sent a complete request."""

    client: tuple[str, int] | None
    has_sent: bool
    """Whether any byte has come since it began to wait."""

    def end(self) -> None:
        """Disconnect it at once."""


class Connection(Protocol):
    """A connection of uvicorn's, with a request or without."""

    transport: asyncio.Transport


class Lobby:
    """The connections that wait, in the order in which they began to.

    Args:
        limited_log: for lines about those that are ended.
    """

    def __init__(self, limited_log: LogLimit) -> None:
        self.limited_log = limited_log
        self._deadlines: dict[Waiting, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def enter(self, visitor: Waiting) -> None:
        """Let one wait, from now on; if there are too many, another one is ended."""
        self.leave(visitor)
        if len(self._deadlines) >= _MAX_WAITING:
            self.end_one()
        self._deadlines[visitor] = asyncio.get_running_loop().time() + _REQUEST_TIMEOUT

    def leave(self, visitor: Waiting) -> None:
        """Note that one is not waiting any more; do nothing if it wasn't."""
        self._deadlines.pop(visitor, None)

    def end_one(self) -> bool:
        """End the oldest one of the address that has the most; return False if there is none."""
        if not self._deadlines:
            return False
        crowd = Counter(_address(visitor) for visitor in self._deadlines)
        ((most, count),) = crowd.most_common(1)
        oldest = next(each for each in self._deadlines if _address(each) == most)
        message = "too many connections without a complete request, %d of them of one address"
        self.limited_log.warn("crowd", oldest.client, message, count)
        self._end(oldest)
        return True

    def end_overdue(self) -> None:
        """End those whose time is up."""
        now = asyncio.get_running_loop().time()
        overdue = [each for each, deadline in self._deadlines.items() if deadline <= now]
        for visitor in overdue:
            if visitor.has_sent or len(overdue) >= _QUIET_CROWD:
                message = "ended a connection that sent no complete request within %g s"
                self.limited_log.warn("overdue", visitor.client, message, _REQUEST_TIMEOUT)
            self._end(visitor)

    def _end(self, visitor: Waiting) -> None:
        self.leave(visitor)
        visitor.end()


def _address(visitor: Waiting) -> str:
    return visitor.client[0] if visitor.client else ""


class _Arrival:
    """A connection that was accepted, and is not open yet: TLS begins with a handshake."""

    has_sent = False
    is_handed_over = False
    """Whether the event loop has its socket, and closes it."""

    def __init__(self, sock: socket.socket, client: tuple[str, int]) -> None:
        self.sock = sock
        self.client: tuple[str, int] | None = client
        self.task: asyncio.Task[None] | None = None

    def end(self) -> None:
        assert self.task is not None
        self.task.cancel()

    def settle(self) -> None:
        """Close the socket if nobody else does, perhaps because the task never began."""
        if not self.is_handed_over:
            self.sock.close()


class Acceptor:
    """Accepts connections until it is closed. Takes the place of an :class:`asyncio.Server`.

    Args:
        listener: a listening socket, which is closed with the acceptor.
        protocol: makes the protocol of a new connection.
        connections: those that are open, without those in a TLS handshake; read often.
        max_connections: at once. Beyond it, one that is closing or waits gives way; if there is
            none, a new one is refused.
        lobby: for those that wait.
        context: returns the TLS context of the next connection; None serves without TLS.
        on_failure: called when it can't go on, because of an internal error.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        connections: Collection[Connection],
        max_connections: int,
        lobby: Lobby,
        context: Callable[[], ssl.SSLContext] | None,
        on_failure: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._connections = connections
        self._max_connections = max_connections
        self._lobby = lobby
        self._context = context
        self._stalled: dict[Connection, tuple[int, float]] = {}
        self._arriving: set[_Arrival] = set()
        listener.setblocking(False)
        self._on_failure = on_failure
        self._tasks = [asyncio.create_task(self._accept()), asyncio.create_task(self._watch())]
        for task in self._tasks:
            task.add_done_callback(self._note_failure)

    def close(self) -> None:
        """Stop accepting, and drop the connections whose TLS handshake is not complete.

        Others open a moment later. Their protocol has to close them then: uvloop would lose track
        of a connection whose opening is canceled.
        """
        for task in self._tasks:
            task.cancel()
        if self._context is not None:
            for arrival in self._arriving:
                arrival.end()

    async def wait_closed(self) -> None:
        """Wait until it has stopped."""
        arrivals = [arrival.task for arrival in self._arriving if arrival.task is not None]
        await asyncio.gather(*self._tasks, *arrivals, return_exceptions=True)

    async def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    sock, address = await self._next()
                except ConnectionError:
                    continue  # it has gone again
                except OSError as error:
                    message, reason = "can't accept connections: %s", error.strerror or error
                    self._lobby.limited_log.warn("accept", None, message, reason)
                    await asyncio.sleep(_ACCEPT_PAUSE)
                    continue
                try:
                    self._receive(sock, (str(address[0]), int(address[1])))
                except BaseException:
                    sock.close()
                    raise
                await asyncio.sleep(0)  # others want to be served while connections keep coming

    def _receive(self, sock: socket.socket, client: tuple[str, int]) -> None:
        """Have a connection opened, or refuse it if there are too many."""
        if self._is_full() and not (self._end_closing() or self._lobby.end_one()):
            message = "too many connections (%d); refused one"
            self._lobby.limited_log.warn("full", client, message, self._max_connections)
            sock.close()
            return
        arrival = _Arrival(sock, client)
        arrival.task = asyncio.create_task(self._admit(arrival))
        self._arriving.add(arrival)
        arrival.task.add_done_callback(functools.partial(self._settle, arrival))

    async def _next(self) -> tuple[socket.socket, Any]:
        try:
            while True:
                try:
                    sock, address = self._listener.accept()
                except BlockingIOError:
                    await _readable(self._listener)
                else:
                    sock.setblocking(False)
                    return sock, address
        except NotImplementedError:  # Windows' default loop
            # Not for all loops: a cancellation could lose the connection that was just accepted.
            loop = asyncio.get_running_loop()
            accepting = asyncio.ensure_future(loop.sock_accept(self._listener))
            try:
                await asyncio.wait((accepting,))
            except asyncio.CancelledError:
                for _ in range(2):
                    await asyncio.sleep(0)  # its task may not know of the connection yet
                accepting.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    (await accepting)[0].close()
                raise
            try:
                return accepting.result()
            except OSError as error:
                if getattr(error, "winerror", None) in _GONE:
                    raise ConnectionResetError(*error.args) from error
                raise

    def _settle(self, arrival: _Arrival, task: asyncio.Task[None]) -> None:
        self._arriving.discard(arrival)
        arrival.settle()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, OSError):  # of a client that has gone
            logger.error(_INTERNAL_ERROR, exc_info=error)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error(_INTERNAL_ERROR, exc_info=error)
            self._on_failure()

    def _is_full(self) -> bool:
        return len(self._connections) + len(self._arriving) >= self._max_connections

    def _end_closing(self) -> bool:
        """Abort a connection that its client keeps half closed; return False if there is none.

        TLS waits half a minute for a client to confirm the close, and anybody can have a connection
        closed: by a wrong token, or by asking for it.
        """
        closing = (each.transport for each in self._connections if each.transport.is_closing())
        transport = next(closing, None)
        if transport is None:
            return False
        peer = transport.get_extra_info("peername")
        message = "too many connections (%d); ended one that its client does not close"
        self._lobby.limited_log.warn("closing", peer and peer[:2], message, self._max_connections)
        transport.abort()
        return True

    async def _admit(self, arrival: _Arrival) -> None:
        """Open a connection, over TLS if that is served."""
        if self._context is None:
            await self._open(arrival)
            return
        client = arrival.client
        self._lobby.enter(arrival)
        try:
            first = await _first_byte(arrival.sock)
            arrival.has_sent = bool(first)
            if first == _TLS_HANDSHAKE:
                await self._open(
                    arrival, ssl=self._context(), ssl_handshake_timeout=_REQUEST_TIMEOUT
                )
            elif first:
                self._lobby.limited_log.warn("tls", client, "a request without TLS")
                await _answer_without_tls(arrival.sock)
        except OSError as error:  # also each ssl.SSLError
            reason = getattr(error, "reason", None) or error.strerror or error
            self._lobby.limited_log.warn("tls", client, "TLS handshake failed: %s", reason)
        finally:
            self._lobby.leave(arrival)

    async def _open(self, arrival: _Arrival, **tls: Any) -> None:
        arrival.is_handed_over = True
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._protocol, arrival.sock, **tls)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, _REQUEST_TIMEOUT / 10, _STALL_TIMEOUT / 10))
            self._lobby.end_overdue()
            self._end_stalled()

    def _end_stalled(self) -> None:
        """Abort the connections whose client has read nothing for a while.

        A close waits for the client to read the rest, for as long as that takes.
        """
        now = asyncio.get_running_loop().time()
        before, self._stalled = self._stalled, {}
        for connection in list(self._connections):
            transport = connection.transport
            unread = transport.get_write_buffer_size()
            if not (unread or transport.is_closing()):
                continue
            last = before.get(connection)
            since = last[1] if last is not None and last[0] == unread else now
            # On Windows, a write is unread as a whole until all of it has been read.
            extra = unread / _SLOWEST if sys.platform == "win32" else 0.0
            if now - since < _STALL_TIMEOUT + extra:
                self._stalled[connection] = unread, since
                continue
            peer = transport.get_extra_info("peername")
            message = "ended a connection that read nothing for %g s"
            self._lobby.limited_log.warn("stalled", peer and peer[:2], message, _STALL_TIMEOUT)
            transport.abort()


async def _readable(sock: socket.socket) -> None:
    """Wait until there is something to read, or to accept.

    Raises:
        NotImplementedError: the event loop can't.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)


async def _first_byte(sock: socket.socket) -> bytes:
    """Wait for the first byte of a connection and return it, without taking it."""
    try:
        await _readable(sock)
    except NotImplementedError:  # Windows' default loop, where reading nothing waits, too
        await asyncio.get_running_loop().sock_recv(sock, 0)
    return sock.recv(1, socket.MSG_PEEK)


async def _answer_without_tls(sock: socket.socket) -> None:
    sock.recv(65536)  # closing a socket with unread bytes resets it, and may discard the answer
    await asyncio.get_running_loop().sock_sendall(sock, _PLAIN_ANSWER)
    sock.shutdown(socket.SHUT_WR)
