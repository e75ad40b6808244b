"""A load balancer in miniature: hands each connection to the next server that takes it.

It runs in a thread, and knows nothing of what the connections carry. A connection ends with its
server's end, and the client makes another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from types import TracebackType

__all__ = ["Balancer"]

_LOOPBACK = "127.0.0.1"
_CHUNK = 65_536  # bytes
_THREAD_TIMEOUT = 15.0  # seconds


class Balancer:
    """Listens on a free port of this machine; a context manager.

    Args:
        ports: of the servers on this machine.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = tuple(ports)
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
        await self._stop.wait()
        server.close()
        for relay in (*self._relays,):
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _relay_noted(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self._relays.add(relay)
        try:
            await self._relay(reader, writer)
        except asyncio.CancelledError:
            pass  # by the close: a stream's task that ends so would be logged
        finally:
            self._relays.discard(relay)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = await self._server()
        if found is None:
            return
        server_reader, server_writer = found
        both = [
            asyncio.ensure_future(_copy(reader, server_writer)),
            asyncio.ensure_future(_copy(server_reader, writer)),
        ]
        try:
            await asyncio.wait(both)
        finally:
            for each in both:
                each.cancel()
            server_writer.close()

    async def _server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return a connection to the next server that takes one, or None if none does."""
        first, self._next = self._next, self._next + 1
        for step in range(len(self._ports)):
            port = self._ports[(first + step) % len(self._ports)]
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(_LOOPBACK, port)
        return None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end, and pass the end on."""
    with contextlib.suppress(OSError):  # the other side is gone, which ends both directions
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
