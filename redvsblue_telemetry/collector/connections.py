"""uvicorn's connections and server, with the parts that a collector needs otherwise.

uvicorn has no public hooks for these, so this overrides methods and uses attributes that a release
may change: setup.cfg bounds the version, and tests/collector/test_uvicorn.py names each of them.
The alternatives were worse. uvicorn's other WebSocket implementations are deprecated
(``websockets``) or need another dependency (``wsproto``), and a WebSocket server beside uvicorn
would need a second port, or a parser of our own for the first request of every connection. As for
its public settings: ``limit_concurrency`` counts the games too, and answers 503 to the operator's
own requests; and none of its timeouts holds for a request that is not complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode

from .listening import Acceptor, Lobby
from .loglimit import LogLimit

__all__ = ["GOODBYE_TIMEOUT", "Config", "HttpProtocol", "Server", "WebSocketProtocol"]

logger = logging.getLogger("redvsblue_telemetry.collector")

GOODBYE_TIMEOUT = 2.0  # seconds for clients to answer a close before they are disconnected

_BAD_UTF8 = "Invalid UTF-8 sequence received from client."

# uvicorn logs a line for each bad request or message, without the address of the client.
_own_errors = logging.getLogger("redvsblue_telemetry.collector.uvicorn")
_own_errors.setLevel(logging.ERROR)
_own_errors.addFilter(lambda record: record.msg != _BAD_UTF8)


class Config(uvicorn.Config):
    """uvicorn's settings; the one object of ours that it hands to each of its connections."""

    def __init__(self, app: ASGIApp, **settings: Any) -> None:
        super().__init__(app, http=HttpProtocol, ws=WebSocketProtocol, **settings)
        self.limited_log = LogLimit(logger)
        self.lobby = Lobby(self.limited_log)
        self.disconnected = asyncio.Event()
        """Set whenever a WebSocket has been disconnected."""
        self.is_closing = False
        """Whether the server does not serve connections any more that open from now on."""


class _ClosedOnce:
    """A transport that can be closed twice, as uvicorn does.

    The one of asyncio for TLS (Python 3.11 and later) forgets its connection then: most of its
    methods raise AttributeError, and it can't be aborted if the client doesn't confirm the close.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.write = transport.write

    def close(self) -> None:
        if not self._transport.is_closing():
            self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP connection, which waits for each request in the lobby."""

    config: Config

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(cast("asyncio.Transport", _ClosedOnce(transport)))
        self.logger = _own_errors
        self.has_sent = False
        self.config.lobby.enter(self)
        if self.config.is_closing:  # nobody would close it later
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Wait on, for the rest of a request; or for the whole, from its first byte on."""
        if self.transport.is_closing():  # Windows' default loop has read ahead
            return
        if not self.has_sent:
            self.has_sent = True
            if self.cycle is not None:  # not the first one, of which the time is running
                self.config.lobby.enter(self)
        super().data_received(data)
        self._leave_lobby_if_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is here already."""
        self.has_sent = False
        self.config.lobby.enter(self)
        super().on_response_complete()
        self._leave_lobby_if_complete()

    def _leave_lobby_if_complete(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self.config.lobby.leave(self)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection to a WebSocket protocol."""
        self.config.lobby.leave(self)
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """Log the address of the client, and answer."""
        self.config.limited_log.warn("invalid", self.client, "invalid HTTP request")
        super().send_400_response(msg)

    def end(self) -> None:
        """Disconnect at once."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self.config.lobby.leave(self)
        super().connection_lost(exc)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket connection, with three defects of its handshake and close repaired."""

    config: Config

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over a connection with a handshake."""
        super().connection_made(transport)
        self.logger = _own_errors

    def data_received(self, data: bytes) -> None:
        """Disconnect after an invalid handshake; uvicorn would neither answer nor disconnect."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.transport.is_closing():
            self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def handle_parser_exception(self) -> None:
        """Send the close, and read on until the client has gone.

        uvicorn disconnects at once. While the client is still sending, the kernel answers that with
        a reset, which can discard the close before the client reads it: the SDK would not learn
        that 1009 is the reason. uvicorn issues 3047 and 3049 describe the same for closes by the
        application, and were fixed for these only.
        """
        if self.close_sent:
            return  # discard all that follows
        close = self.conn.close_sent
        assert close is not None
        if close.code != CloseCode.MESSAGE_TOO_BIG:  # at which the SDK sends smaller ones
            message = "closed a WebSocket with %d: %s"
            self.config.limited_log.warn("broken", self.client, message, close.code, close.reason)
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}
        )
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(GOODBYE_TIMEOUT, self.transport.close)

    async def send(self, message: Any) -> None:
        """Mark the handshake as complete after a refusal.

        Otherwise uvicorn logs an error for each of them (uvicorn pull request 3138).
        """
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        super().connection_lost(exc)
        self.config.disconnected.set()


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with an acceptor of our own.

    Args:
        config: its settings.
        listener: a listening socket, which is closed at the end.
        max_connections: at once, of all kinds.
        context: returns the TLS context of the next connection; None serves without TLS.
    """

    config: Config

    def __init__(
        self,
        config: Config,
        listener: socket.socket,
        max_connections: int,
        context: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._max_connections = max_connections
        self._context = context
        self.ready = asyncio.Event()
        """Set when it accepts connections."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the command line."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        acceptor = Acceptor(
            self._listener,
            lambda: HttpProtocol(self.config, self.server_state, {}),
            self.server_state.connections,
            self._max_connections,
            self.config.lobby,
            self._context,
            self._fail,
        )
        self.servers = [cast("asyncio.Server", acceptor)]  # all that uvicorn does is to close it
        self.started = True
        self.ready.set()

    def _fail(self) -> None:
        """End, so that a service manager starts a new one: this one accepts nobody any more."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port and all connections."""
        self.config.is_closing = True
        await super().shutdown(sockets)

    async def wait_for_goodbyes(self) -> None:
        """Wait until each client that was sent a close has disconnected, or its time is up.

        uvicorn's shutdown would disconnect it at once, with the reset that issue 3049 describes.
        """
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._last_goodbye(), GOODBYE_TIMEOUT)

    async def _last_goodbye(self) -> None:
        while any(getattr(peer, "close_sent", False) for peer in self.server_state.connections):
            self.config.disconnected.clear()
            await self.config.disconnected.wait()
