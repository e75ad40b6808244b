"""A TCP proxy in a process of its own that delays every byte by a constant time, each way.

    python -m benchmarks.delay_proxy --to PORT --delay SECONDS [--port N]

It stands for a long line: the round trip is twice the delay, and there is no limit to what is on
the line at once, so no limit to the throughput. What isn't delayed is TCP itself: connecting and
the ends' acknowledgements are loopback's, so that the round trip bounds the protocol above and
not the size of the sockets' buffers. It ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections import deque

from benchmarks.measuring import introduce

_RESOLUTION = 0.0002  # seconds; what is due so soon goes at once


class Line(asyncio.Protocol):
    """One direction: what comes in from one end goes to the other, later."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._underway: deque[tuple[float, bytes | None]] = deque()  # None: the end
        self._is_scheduled = False
        self._other: Line | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def join(self, other: Line) -> None:
        """Lead to the other end, and back."""
        self._other, other._other = other, self
        self._hurry()
        other._hurry()

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._take(None)

    def _take(self, data: bytes | None) -> None:
        self._underway.append((self._loop.time() + self._delay, data))
        if not self._is_scheduled:
            self._hurry()

    def _hurry(self) -> None:
        """Hand over what is due; come back for the rest."""
        self._is_scheduled = False
        if self._other is None or self._other._transport is None:
            return  # not joined yet
        due = self._loop.time() + _RESOLUTION
        while self._underway and self._underway[0][0] <= due:
            _, data = self._underway.popleft()
            if data is None:
                self._other._transport.close()
            elif not self._other._transport.is_closing():
                self._other._transport.write(data)
        if self._underway:
            self._is_scheduled = True
            self._loop.call_at(self._underway[0][0], self._hurry)


class Entrance(Line):
    """The client's end: connects to the server when a client comes."""

    def __init__(self, delay: float, port: int) -> None:
        super().__init__(delay)
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            _, exit_ = await self._loop.create_connection(
                lambda: Line(self._delay), "127.0.0.1", self._port
            )
        except OSError:
            assert self._transport is not None
            self._transport.abort()
        else:
            self.join(exit_)


async def _serve(port: int, to: int, delay: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Entrance(delay, to), "127.0.0.1", port)
    introduce({"port": server.sockets[0].getsockname()[1]})
    await server.serve_forever()


def main() -> None:
    """Serve until the standard input ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=int, required=True, metavar="PORT")
    parser.add_argument("--delay", type=float, required=True, metavar="SECONDS", help="one way")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(_serve(options.port, options.to, options.delay))


if __name__ == "__main__":
    main()
