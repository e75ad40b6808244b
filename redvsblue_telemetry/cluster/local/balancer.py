"""A load balancer in miniature: hands each connection to the next gateway that is well.

It runs in a thread, and knows nothing of the bytes on the connections. Each second, it asks each
gateway for its health. If a gateway has twice not said in time that it is well, its connections are
closed, so that the clients make others at once: otherwise they would wait for a gateway that hangs
until their own patience ends, and could be handed to it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from types import TracebackType

import msgspec

__all__ = ["Balancer"]

_LOOPBACK = "127.0.0.1"
_CHUNK = 65_536  # bytes
_THREAD_TIMEOUT = 15.0  # seconds, as all times here
_CHECK_INTERVAL = 1.0
_FAST_INTERVAL = 0.25  # after a check that failed
_CHECK_TIMEOUT = 2.0
_CONNECT_TIMEOUT = 1.0
_FAILURES = 2  # in a row, after which a gateway is not well
_CHECK = b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n"


class _Gateway(msgspec.Struct, eq=False):
    """A gateway, its health and its connections."""

    host: str
    port: int
    failures: int = 0
    """Checks in a row that failed."""
    relays: set[asyncio.Task[None]] = set()
    """Its connections."""


class Balancer:
    """Listens on a free port of this machine; a context manager.

    Args:
        gateways: the host and the port of each.
    """

    def __init__(self, gateways: Sequence[tuple[str, int]]) -> None:
        self._gateways = [_Gateway(*each) for each in gateways]
        self._next = 0
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._relays: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry-balancer", daemon=True)
        self.port = 0
        """The port that it listens on, once it was started."""

    def start(self) -> Balancer:
        """Begin to listen."""
        self._thread.start()
        if not self._ready.wait(_THREAD_TIMEOUT):
            raise RuntimeError("the balancer doesn't start")
        return self

    def close(self) -> None:
        """End all connections, and stop listening."""
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_THREAD_TIMEOUT)

    def __enter__(self) -> Balancer:
        return self.start()

    def __exit__(
        self,
        type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._relay_noted, _LOOPBACK, 0)
        self.port = int(server.sockets[0].getsockname()[1])
        self._ready.set()
        checks = [asyncio.create_task(self._check(gateway)) for gateway in self._gateways]
        await self._stop.wait()
        server.close()
        ending = (*checks, *self._relays)
        for each in ending:
            each.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    # The checks.

    async def _check(self, gateway: _Gateway) -> None:
        """Ask a gateway for its health, again and again."""
        while True:
            try:
                is_well = await asyncio.wait_for(_is_well(gateway), _CHECK_TIMEOUT)
            except (OSError, asyncio.TimeoutError):
                is_well = False
            gateway.failures = 0 if is_well else gateway.failures + 1
            if gateway.failures >= _FAILURES:
                for relay in gateway.relays:
                    relay.cancel()
            await asyncio.sleep(_FAST_INTERVAL if gateway.failures else _CHECK_INTERVAL)

    # The connections.

    async def _relay_noted(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self._relays.add(relay)
        try:
            await self._relay(relay, reader, writer)
        except asyncio.CancelledError:
            pass  # a stream's task that ends so would be logged
        finally:
            self._relays.discard(relay)
            writer.close()

    async def _relay(
        self,
        relay: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        found = await self._connected()
        if found is None:
            return
        gateway, server_reader, server_writer = found
        gateway.relays.add(relay)
        both = [
            asyncio.ensure_future(_copy(reader, server_writer)),
            asyncio.ensure_future(_copy(server_reader, writer)),
        ]
        try:
            await asyncio.wait(both)
        except asyncio.CancelledError:
            # A close would wait until a gateway that hangs has read all that was written.
            server_writer.transport.abort()
            raise
        finally:
            gateway.relays.discard(relay)
            for each in both:
                each.cancel()
            server_writer.close()

    async def _connected(
        self,
    ) -> tuple[_Gateway, asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return the next gateway that takes a connection, and the connection; None if none does.

        Those whose last check failed come last: perhaps nobody has noticed yet that one is well.
        """
        first, self._next = self._next, self._next + 1
        count = len(self._gateways)
        ordered = [self._gateways[(first + step) % count] for step in range(count)]
        for gateway in sorted(ordered, key=lambda each: each.failures > 0):
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                opening = asyncio.open_connection(gateway.host, gateway.port)
                return gateway, *await asyncio.wait_for(opening, _CONNECT_TIMEOUT)
        return None


async def _is_well(gateway: _Gateway) -> bool:
    """Return whether a gateway says so of itself."""
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    try:
        writer.write(_CHECK)
        await writer.drain()
        return b" 200 " in await reader.readline()
    finally:
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end, and pass the end on."""
    with contextlib.suppress(OSError):  # the other side is gone, which ends both directions
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
