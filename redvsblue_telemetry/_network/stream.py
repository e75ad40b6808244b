"""The non-blocking socket under websocket-client."""

from __future__ import annotations

import contextlib
import errno
import re
import selectors
import socket
import ssl
import struct
from collections.abc import Callable, Iterator

from .contract import NO_HANDSHAKE, TOO_MUCH, ConnectionLost, LostKind, Wait

__all__ = ["Stream"]

_LINGER_ZERO = struct.pack("ii", 1, 0)  # a close discards unsent data and sends a reset

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

_MAX_HEAD_BYTES = 16384  # of the answer to a handshake
_HEAD_END = rb"\n\r?\n"
_READ_BYTES = 65536
_WRITE_BYTES = 65536


def _without_cookies(head: bytes) -> bytes:
    """Return the head of an answer without ``Set-Cookie``.

    websocket-client keeps cookies in a jar of the process, without limit, and sends them with
    later handshakes (websocket-client pull request 292): a server could mark its players. And it
    fails at a cookie that it can't parse (websocket-client issue 1061).
    """
    lines = head.split(b"\n")
    return b"\n".join(
        line for line in lines if b"set-cookie" not in line.partition(b":")[0].lower()
    )


class Stream:
    """A non-blocking socket with the methods that websocket-client calls on a socket.

    While :meth:`waiting`, the first read waits for the complete head of the server's answer, and
    nothing else can be read. Otherwise a read that finds no data raises BlockingIOError. Then
    websocket-client keeps the part of a frame that it has, and goes on with it at the next call
    (websocket-client issue 37).
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._incoming = b""
        self._position = 0
        self._outgoing = bytearray()
        self._wait: Callable[[int], None] | None = None
        self._budget = 0  # bytes that may be read until the next call of limit_read
        self.is_at_end = False
        self.head = b""
        """The head of the answer to the handshake, or the bytes that came in its place."""

    @contextlib.contextmanager
    def waiting(self, wait: Wait, deadline: float) -> Iterator[None]:
        """Let reads wait for the answer to a handshake, until the deadline."""
        self._wait = lambda events: wait(self._sock.fileno(), events, deadline)
        yield
        self._wait = None

    def limit_read(self, size: int) -> None:
        """Allow ``size`` bytes to be read from now on; then reading fails."""
        self._budget = size

    # What websocket-client calls:

    def gettimeout(self) -> float:
        """Return 0, the timeout of a non-blocking socket."""
        return 0.0

    def settimeout(self, timeout: float | None) -> None:
        """Do nothing: this socket stays non-blocking."""

    def fileno(self) -> int:
        """Return the descriptor to wait on; -1 once it is closed."""
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes that have arrived; none at the end of the connection."""
        if self._wait is not None and not self.head:
            self._read_head(self._wait)
        if self._position >= len(self._incoming) and not self.is_at_end:
            if self._wait is None:
                raise BlockingIOError(errno.EAGAIN, "no data yet")
            # There is no head, or websocket-client wants to read the body of an HTTP error.
            raise ConnectionLost(LostKind.HANDSHAKE, NO_HANDSHAKE)
        chunk = self._incoming[self._position : self._position + size]
        self._position += len(chunk)
        self._budget -= len(chunk)
        if self._budget < 0:
            raise ConnectionLost(LostKind.PROTOCOL, TOO_MUCH)
        return chunk

    def _read_head(self, wait: Callable[[int], None]) -> None:
        end = None
        while b"HTTP/".startswith(self._incoming[:5]) and not self.is_at_end:
            if end := re.search(_HEAD_END, self._incoming):
                break
            if len(self._incoming) >= _MAX_HEAD_BYTES:
                raise ConnectionLost(LostKind.HANDSHAKE, TOO_MUCH)
            self.flush()
            if not self.fill():
                wait(READ | WRITE if self._outgoing else READ)
        length = len(self._incoming) if end is None else end.end()
        self.head = self._incoming[:length]
        self._incoming = _without_cookies(self.head) + self._incoming[length:]
        self.limit_read(len(self._incoming))

    def send(self, data: bytes) -> int:
        """Accept all of the data, for :meth:`flush` to write."""
        self._outgoing += data
        return len(data)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def reset(self) -> None:
        """Close the socket and discard the data that has not left this machine yet."""
        with contextlib.suppress(OSError):  # the connection is gone already, and its data too
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._sock.close()

    # What the connection calls:

    @property
    def unwritten(self) -> int:
        """Number of bytes that the socket hasn't accepted yet."""
        return len(self._outgoing)

    def fill(self) -> bool:
        """Read from the socket; return whether data or the end had arrived."""
        if len(self._incoming) - self._position >= _READ_BYTES:
            return True  # enough for now: a flood waits in the network, not in memory
        try:
            chunk = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        self._incoming = self._incoming[self._position :] + chunk
        self._position = 0
        self.is_at_end = not chunk
        return True

    def take(self, end_of: Callable[[bytes, int], int]) -> bytes:
        """Return the data up to the end that ``end_of`` finds; nothing if it finds 0."""
        start = self._position
        self._position = end_of(self._incoming, start) or start
        return self._incoming[start : self._position]

    @property
    def has_unread(self) -> bool:
        """Whether data has been read from the socket and not taken yet."""
        return self._position < len(self._incoming)

    def flush(self) -> None:
        """Write as much as the socket accepts."""
        while self._outgoing:
            with memoryview(self._outgoing) as view:
                try:
                    written = self._sock.send(view[:_WRITE_BYTES])
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return
            del self._outgoing[:written]
