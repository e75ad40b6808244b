"""A TCP proxy on loopback that breaks connections as networks do.

It stands between a client and a server and forwards bytes without reading them.
On request, from any thread, it resets connections, goes silent, delays, throttles, stops reading,
ends one direction, or turns new connections away. All of that happens in one thread of its own,
and a request returns when it has been carried out.
"""

from __future__ import annotations

import contextlib
import enum
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.closing import reset

__all__ = ["BOTH", "Address", "Direction", "FaultProxy"]

Address = tuple[str, int]

_QUEUE_BYTES = 256 * 1024  # with so much on the way in one direction, no more is read
_KERNEL_BYTES = 256 * 1024  # and not much more than this hides in each socket
_READ_BYTES = 65536
_TICK = 0.01  # seconds' worth of bytes that a throttled direction moves at a time


class Direction(enum.Enum):
    """Where the bytes go."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


BOTH = frozenset(Direction)
Directions = frozenset[Direction]


@dataclass
class _Weather:
    """The faults of one direction now, for all connections."""

    delay: float = 0.0
    bytes_per_second: float | None = None
    is_silent: bool = False
    is_stalled: bool = False


_Weathers = dict[Direction, _Weather]


class _Flow:
    """One direction of one connection: reads from one socket, writes to the other."""

    def __init__(
        self, source: socket.socket, sink: socket.socket, weather: _Weather, queue_bytes: int
    ) -> None:
        self.source = source
        self.sink = sink
        self.cut_after: int | None = None  # bytes that may still pass before the reset
        self.stall_after: int | None = None  # bytes that are still read before it stalls
        self.is_blocked = False  # the sink takes no more for now
        self.is_passed_on = False  # the FIN
        self._weather = weather
        self._queue_bytes = queue_bytes
        self._queue: deque[tuple[float, bytes]] = deque()  # due time, bytes
        self._queued = 0
        self._is_ended = False  # a FIN has come, which stands at the end of the queue
        self._next_write_at = 0.0

    @property
    def wants_to_read(self) -> bool:
        is_stalled = self._weather.is_stalled or self.stall_after == 0
        return not (self._is_ended or is_stalled or self._queued >= self._queue_bytes)

    @property
    def is_lost(self) -> bool:
        """Whether to reset it: the sender has gone, and its last bytes went nowhere."""
        is_swallowed = self._is_ended and not self.is_passed_on and self._weather.is_silent
        return self.cut_after == 0 or is_swallowed

    @property
    def next_write_at(self) -> float | None:
        """When there is something to write; None if that isn't a matter of time."""
        if self.is_blocked or self._weather.is_silent or not self._queue:
            return None
        return max(self._queue[0][0], self._next_write_at)

    def read(self, now: float) -> None:
        chunk = self.source.recv(min(_READ_BYTES, self.stall_after or _READ_BYTES))
        if self.stall_after is not None:
            self.stall_after -= len(chunk)
        if not chunk:
            self._is_ended = True
            return
        self._queue.append((now + self._weather.delay, chunk))
        self._queued += len(chunk)

    def write(self, now: float) -> None:
        """Write all that is due, and the FIN behind it."""
        while (at := self.next_write_at) is not None and at <= now and self.cut_after != 0:
            due, chunk = self._queue.popleft()
            portion = chunk[: self._portion(len(chunk))]
            try:
                written = self.sink.send(portion)
            except BlockingIOError:
                self.is_blocked = True
                written = 0
            if written < len(chunk):
                self._queue.appendleft((due, chunk[written:]))
            self._account_for(written, now)
        if self._is_ended and not (self._queue or self._weather.is_silent or self.is_passed_on):
            self.end()

    def _portion(self, size: int) -> int:
        if self._weather.bytes_per_second is not None:
            size = min(size, max(1, int(self._weather.bytes_per_second * _TICK)))
        return size if self.cut_after is None else min(size, self.cut_after)

    def _account_for(self, written: int, now: float) -> None:
        self._queued -= written
        if self.cut_after is not None:
            self.cut_after -= written
        if self._weather.bytes_per_second is not None:
            start = max(now, self._next_write_at)
            self._next_write_at = start + written / self._weather.bytes_per_second

    def end(self) -> None:
        """Pass a FIN on; nothing more goes this way."""
        self._is_ended = self.is_passed_on = True
        self._queue.clear()
        self._queued = 0
        with contextlib.suppress(OSError):  # the sink has gone by itself
            self.sink.shutdown(socket.SHUT_WR)


class _Pair:
    """A client's connection and the one to the server that was made for it."""

    def __init__(
        self, client: socket.socket, server: socket.socket, weather: _Weathers, queue_bytes: int
    ) -> None:
        self.sockets = (client, server)
        to_server, to_client = weather[Direction.TO_SERVER], weather[Direction.TO_CLIENT]
        self.flows = {
            Direction.TO_SERVER: _Flow(client, server, to_server, queue_bytes),
            Direction.TO_CLIENT: _Flow(server, client, to_client, queue_bytes),
        }

    def interest(self, sock: socket.socket) -> int:
        """The selector's events that matter now."""
        events = 0
        for flow in self.flows.values():
            if flow.source is sock and flow.wants_to_read:
                events |= selectors.EVENT_READ
            if flow.sink is sock and flow.is_blocked:
                events |= selectors.EVENT_WRITE
        return events

    def on_ready(self, sock: socket.socket, events: int, now: float) -> None:
        for flow in self.flows.values():
            if flow.sink is sock and events & selectors.EVENT_WRITE:
                flow.is_blocked = False
            if flow.source is sock and events & selectors.EVENT_READ:
                with contextlib.suppress(BlockingIOError):
                    flow.read(now)


class FaultProxy:
    """Forwards connections to ``upstream``, and breaks them on request; a context manager.

    Every method may be called from any thread. A fault that lasts holds for the connections that
    are open and for those to come, until it is taken back or :meth:`clear` is called.

    Args:
        upstream: host and port of the server, or its port on 127.0.0.1; None while there is none:
            then connections are accepted and reset.
        first_takes: the bytes that are read from the first client; then that connection stalls
            until :meth:`go_on`. The others are not affected.
        queue_bytes: how much may be on the way in one direction of a connection.
        port: where to listen on 127.0.0.1; any free port by default.
    """

    def __init__(
        self,
        upstream: Address | int | None = None,
        *,
        first_takes: int | None = None,
        queue_bytes: int = _QUEUE_BYTES,
        port: int = 0,
    ) -> None:
        self.upstream = ("127.0.0.1", upstream) if isinstance(upstream, int) else upstream
        """May be changed at any time; it counts for new connections."""
        self.connections = 0
        """How many were accepted, the refused ones not among them."""
        self.refused = 0
        self._refuses = False
        self._first_takes = first_takes
        self._queue_bytes = queue_bytes
        self._weather = {direction: _Weather() for direction in Direction}
        self._pairs: set[_Pair] = set()
        self._requests: deque[tuple[Callable[[], object], threading.Event]] = deque()
        self._is_closing = False
        self._selector = selectors.DefaultSelector()
        self._waker, self._wake = socket.socketpair()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BYTES)
        self._listener.setblocking(False)
        for sock in (self._listener, self._waker):
            self._selector.register(sock, selectors.EVENT_READ)
        self.port: int = self._listener.getsockname()[1]
        """Where it listens, on 127.0.0.1."""
        self.url = f"ws://127.0.0.1:{self.port}/telemetry"
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def start(self) -> FaultProxy:
        """Begin to accept connections."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Reset the open connections and stop listening."""
        self._is_closing = True
        with contextlib.suppress(OSError):  # it is closed already
            self._wake.send(b"\0")
        self._thread.join()
        self._wake.close()

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._pairs)

    @property
    def has_stalled(self) -> bool:
        """Whether the first client's connection is open, and nothing more is read from it."""
        flows = [pair.flows[Direction.TO_SERVER] for pair in tuple(self._pairs)]
        return any(flow.stall_after == 0 for flow in flows)

    def go_on(self) -> None:
        """Read from the first client again."""

        def read_on() -> None:
            for pair in self._pairs:
                pair.flows[Direction.TO_SERVER].stall_after = None

        self._do(read_on)

    # Faults that happen once.

    def reset(self) -> None:
        """Reset all open connections (RST to both sides); bytes on the way are lost."""
        self._do(self._drop_all)

    def cut_after(self, size: int, direction: Direction = Direction.TO_SERVER) -> None:
        """Reset each open connection as soon as exactly so many more bytes went this way."""

        def cut() -> None:
            for pair in self._pairs:
                pair.flows[direction].cut_after = size

        self._do(cut)

    def half_close(self, direction: Direction = Direction.TO_CLIENT) -> None:
        """End one direction of all open connections by a FIN; the other one goes on."""

        def end() -> None:
            for pair in self._pairs:
                pair.flows[direction].end()

        self._do(end)

    # Faults that last.

    def black_hole(self, on: bool, directions: Directions = BOTH) -> None:
        """Forward nothing, without a word; connections are still accepted.

        Bytes on the way go on when this ends, unless an end of the connection has gone by then:
        that resets the connection, and its bytes are lost.
        """
        self._set(directions, is_silent=on)

    def delay(self, seconds: float, directions: Directions = BOTH) -> None:
        """Deliver all bytes that come from now on with this delay."""
        self._set(directions, delay=seconds)

    def throttle(self, bytes_per_second: float | None, directions: Directions = BOTH) -> None:
        """Let so much through and no more; None for all there is. It counts for each connection."""
        self._set(directions, bytes_per_second=bytes_per_second)

    def stall(self, on: bool, directions: Directions = BOTH) -> None:
        """Stop reading: the sender's TCP window closes."""
        self._set(directions, is_stalled=on)

    def refuse(self, on: bool) -> None:
        """Accept new connections only to reset them at once."""
        self._do(lambda: setattr(self, "_refuses", on))

    def clear(self) -> None:
        """Take back every fault that lasts."""
        self._set(BOTH, **vars(_Weather()))
        self.refuse(False)

    def _set(self, directions: Directions, **weather: float | bool | None) -> None:
        def change() -> None:
            for direction in directions:
                for name, value in weather.items():
                    setattr(self._weather[direction], name, value)

        self._do(change)

    def _do(self, action: Callable[[], object]) -> None:
        """Have it done on the proxy's thread and wait for that."""
        done = threading.Event()
        self._requests.append((action, done))
        with contextlib.suppress(OSError):  # there is nothing left to be done to
            self._wake.send(b"\0")
        while not done.wait(0.1) and self._thread.is_alive():  # until it is closed
            pass

    # On the proxy's thread.

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._wait()
                self._move_all()  # under the weather in which it arrived
                while self._requests:
                    action, done = self._requests.popleft()
                    action()
                    done.set()
                self._move_all()
        finally:
            self._drop_all()
            for closable in (self._selector, self._listener, self._waker):
                closable.close()

    def _wait(self) -> None:
        flows = [flow for pair in self._pairs for flow in pair.flows.values()]
        next_write = min((at for flow in flows if (at := flow.next_write_at)), default=None)
        timeout = None if next_write is None else max(0.0, next_write - time.monotonic())
        for pair in self._pairs:
            for sock in pair.sockets:
                self._watch(sock, pair.interest(sock), pair)
        for key, events in self._selector.select(timeout):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._waker:
                self._waker.recv(4096)
            elif key.data in self._pairs:
                try:
                    key.data.on_ready(key.fileobj, events, time.monotonic())
                except OSError:
                    self._drop(key.data)

    def _watch(self, sock: socket.socket, events: int, pair: _Pair) -> None:
        known = self._selector.get_map().get(sock)
        if known is None and events:
            self._selector.register(sock, events, pair)
        elif known is not None and not events:
            self._selector.unregister(sock)
        elif known is not None and known.events != events:
            self._selector.modify(sock, events, pair)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it has gone before it was accepted
            return
        server = None if self._refuses else _connected(self.upstream)
        if server is None:
            self.refused += 1
            reset(client)
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        pair = _Pair(client, server, self._weather, self._queue_bytes)
        pair.flows[Direction.TO_SERVER].stall_after = self._first_takes
        self._first_takes = None
        self._pairs.add(pair)

    def _move_all(self) -> None:
        now = time.monotonic()
        for pair in tuple(self._pairs):
            self._move(pair, now)

    def _move(self, pair: _Pair, now: float) -> None:
        try:
            for flow in pair.flows.values():
                flow.write(now)
            is_lost = any(flow.is_lost for flow in pair.flows.values())
        except OSError:  # one side has reset the connection, so the other one learns of it
            is_lost = True
        if is_lost:
            self._drop(pair)
        elif all(flow.is_passed_on for flow in pair.flows.values()):
            self._drop(pair, socket.socket.close)

    def _drop_all(self) -> None:
        for pair in tuple(self._pairs):
            self._drop(pair)

    def _drop(self, pair: _Pair, close: Callable[[socket.socket], None] | None = None) -> None:
        self._pairs.discard(pair)
        for sock in pair.sockets:
            self._watch(sock, 0, pair)
            (close or reset)(sock)


def _connected(upstream: Address | None) -> socket.socket | None:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BYTES)
    server.settimeout(1.0)
    with contextlib.suppress(OSError):  # on loopback: there or refused, either way at once
        if upstream is not None:
            server.connect(upstream)
            return server
    server.close()
    return None
