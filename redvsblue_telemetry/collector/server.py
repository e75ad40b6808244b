"""The process: one event loop, one port, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from .._shared import is_loopback
from ..settings import is_token
from .app import Collector
from .http.access import Access
from .ingest import Limits
from .storage.database import Database

__all__ = ["Options", "OptionsError", "serve"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_MESSAGE_BYTES = 1024 * 1024
_CLOSING_SECONDS = 10.0  # for all that is connected
_GOODBYE_SECONDS = 2.0  # for clients to answer a close, before the connection is cut
_OTHER_FILES = 256  # that are open besides the connections


class OptionsError(Exception):
    """The collector won't be started like this; the message says why, and what to do."""


class Options(msgspec.Struct, kw_only=True):
    """How a collector is to run."""

    host: str = "127.0.0.1"
    port: int = 3000
    """0 for any that is free."""
    db: Path | None = Path("telemetry.sqlite3")
    """The database's file; None: in memory."""
    token: str | None = None
    insecure: bool = False
    """Whether others may reach it without a token."""
    hosts: tuple[str, ...] = ()
    """Names that it goes by, besides addresses and ``localhost``."""
    allow_reset: bool = False
    max_connections: int = 2000
    max_rate: float = 50_000.0
    """Events a second that one connection may send."""
    max_message_bytes: int = _MESSAGE_BYTES
    busy_timeout: float = 5.0
    """Seconds to wait for another program that has the database locked. A client waits for an ack
    for its ``confirm_timeout``, 10 seconds by default."""

    def check(self) -> None:
        """Look whether it may run so.

        Raises:
            OptionsError: it may not.
        """
        if self.token is not None:
            self._check_token(self.token)
        self.check_reach(self.host)
        if not 0 <= self.port <= 65_535:
            raise OptionsError(f"port is {self.port}: it must be 0 to 65535")
        for name in ("max_connections", "max_rate", "max_message_bytes"):
            if not getattr(self, name) > 0:  # NaN isn't, either
                raise OptionsError(f"{name} is {getattr(self, name)}: it must be more than 0")

    def _check_token(self, token: str) -> None:
        if not token.strip():
            raise OptionsError("the token is empty: name one, or none at all")
        if token != token.strip():
            raise OptionsError("the token begins or ends with a blank, which no client can send")
        if not is_token(token):
            raise OptionsError("the token may have printable ASCII only, as HTTP headers do")

    def check_reach(self, host: str) -> None:
        """Look whether others can reach it at a host, or at the address that it turned out to be.

        Raises:
            OptionsError: they can, and they may not.
        """
        if not (is_loopback(host) or self.token or self.insecure):
            raise OptionsError(
                f"{host} can be reached by others: give a --token, "
                "or --insecure if anybody may read and write"
            )

    def __repr__(self) -> str:
        """Without the token."""
        return f"{type(self).__name__}(host={self.host!r}, port={self.port}, db={self.db!r}, ...)"


class _Server(uvicorn.Server):
    """uvicorn, without its own ideas about signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, without what goes wrong in it before a WebSocket is open."""

    def data_received(self, data: bytes) -> None:
        """Hang up on what is no handshake: uvicorn neither answers, nor can end the connection."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.transport.is_closing():
            self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def handle_parser_exception(self) -> None:
        """Close, and read on until the client has gone.

        uvicorn would end the connection while the client still sends: the answer to that is a
        reset, and a client that meets it never reads the close, nor learns that 1009 is the reason.
        """
        if self.close_sent:
            return  # what comes after it is thrown away
        close = self.conn.close_sent
        assert close is not None
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}
        )
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(_GOODBYE_SECONDS, self.transport.close)

    async def send(self, message: Any) -> None:
        """Note that a refusal ends a handshake: else it is logged as an error (uvicorn 3138)."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True


async def serve(
    options: Options, stop: asyncio.Event, on_ready: Callable[[str], None] = lambda _: None
) -> None:
    """Run a collector until it is told to stop.

    What was received by then is stored and acknowledged, and the clients are closed with 1001.

    Args:
        options: how.
        stop: set to end it.
        on_ready: called with the URL of its page, once it can be reached.

    Raises:
        OptionsError: it may not run so, or the port is taken.
        DatabaseError: the database can't be used.
    """
    options.check()
    listener = _listen(options)
    with contextlib.closing(listener):
        async with _running(options) as collector:
            server = _Server(_config(options, collector))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            stopping = asyncio.create_task(stop.wait())
            try:
                while not (server.started or serving.done()):
                    await asyncio.sleep(0.005)
                if not serving.done():
                    on_ready(_url(options.host, listener))
                await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
                await _close(collector, server)
                await serving


def _config(options: Options, collector: Collector) -> uvicorn.Config:
    return uvicorn.Config(
        collector.app,
        ws=_WebSocketProtocol,
        ws_max_size=options.max_message_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=20.0,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=int(_GOODBYE_SECONDS),
    )


async def _close(collector: Collector, server: uvicorn.Server) -> None:
    try:
        await asyncio.wait_for(collector.close(), _CLOSING_SECONDS)
    except asyncio.TimeoutError:
        logger.warning("some clients didn't let go in %g s: they are cut off", _CLOSING_SECONDS)
    deadline = time.monotonic() + _GOODBYE_SECONDS
    while _is_saying_goodbye(server) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    server.should_exit = True


def _is_saying_goodbye(server: uvicorn.Server) -> bool:
    """Whether a client was told that the connection closes, and has not answered yet.

    uvicorn would cut it off there and then, and what it has not read by then may be lost to it.
    """
    return any(getattr(peer, "close_sent", False) for peer in server.server_state.connections)


@contextlib.asynccontextmanager
async def _running(options: Options) -> AsyncIterator[Collector]:
    database = Database(options.db, busy_timeout=options.busy_timeout)
    try:
        collector = Collector(
            database,
            access=Access(options.token, (*options.hosts, options.host)),
            limits=Limits(connections=options.max_connections, rate=options.max_rate),
            allow_reset=options.allow_reset,
        )
        try:
            yield collector
        finally:
            await collector.storage.close()
    finally:
        database.close()


def _listen(options: Options) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        other = "--host" if isinstance(error, socket.gaierror) else "--port"
        raise OptionsError(
            f"{options.host}:{options.port} can't be used: {reason}; name another {other}"
        ) from error
    try:
        options.check_reach(listener.getsockname()[0])  # a name may be that of any address
    except OptionsError:
        listener.close()
        raise
    _allow_files(options.max_connections + _OTHER_FILES)
    return listener


def _allow_files(count: int) -> None:
    """Raise the limit of open files, where it is lower and may be raised."""
    try:
        import resource  # noqa: PLC0415  # Windows has no such limit
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft not in (resource.RLIM_INFINITY, allowed) and soft < allowed:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
