"""The socket under websocket-client, which never blocks."""

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

_NO_LINGERING = struct.pack("ii", 1, 0)  # on, for no time at all

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

_HANDSHAKE_BYTES = 16384  # an answer to the handshake that is longer is no answer
_HEAD_END = rb"\n\r?\n"
_READ_BYTES = 65536
_WRITE_BYTES = 65536


def _without_cookies(head: bytes) -> bytes:
    lines = head.split(b"\n")
    return b"\n".join(
        line for line in lines if b"set-cookie" not in line.partition(b":")[0].lower()
    )


class Stream:
    """A socket that never blocks, in the shape that websocket-client expects of a socket.

    While :meth:`waiting`, the first read waits, by the given function, for the whole head of the
    server's answer, and that is all there is to read. Otherwise a read with nothing there raises
    BlockingIOError, upon which websocket-client keeps its place within a frame.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._incoming = b""
        self._position = 0
        self._outgoing = bytearray()
        self._wait: Callable[[int], None] | None = None
        self._budget = 0  # bytes that may still be read before the frame has to be complete
        self.is_at_end = False
        self.head = b""
        """The head of the answer to the handshake, or what came in its place."""

    @contextlib.contextmanager
    def waiting(self, wait: Wait, deadline: float) -> Iterator[None]:
        """Let reads wait until the deadline, for the answer to a handshake."""
        self._wait = lambda events: wait(self._sock.fileno(), events, deadline)
        yield
        self._wait = None

    def limit_read(self, size: int) -> None:
        """Let so many bytes be read from now on."""
        self._budget = size

    # What websocket-client calls:

    def gettimeout(self) -> float:
        """Zero: it never blocks."""
        return 0.0

    def settimeout(self, timeout: float | None) -> None:
        """Waiting isn't websocket-client's to do."""

    def fileno(self) -> int:
        """The descriptor to wait on; -1 once it is closed."""
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        """Up to so many of the bytes that have arrived; none at the end of the connection."""
        if self._wait is not None and not self.head:
            self._read_head(self._wait)
        if self._position >= len(self._incoming) and not self.is_at_end:
            if self._wait is None:
                raise BlockingIOError(errno.EAGAIN, "nothing there yet")
            # The body of an error, which websocket-client would read whole; or no head at all.
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
            if len(self._incoming) >= _HANDSHAKE_BYTES:
                raise ConnectionLost(LostKind.HANDSHAKE, TOO_MUCH)
            self.flush()
            if not self.fill():
                wait(READ | WRITE if self._outgoing else READ)
        length = len(self._incoming) if end is None else end.end()
        self.head = self._incoming[:length]
        # websocket-client keeps cookies for the whole process, fails at odd ones, and sends them.
        self._incoming = _without_cookies(self.head) + self._incoming[length:]
        self.limit_read(len(self._incoming))

    def send(self, data: bytes) -> int:
        """Take all of it, to be written by :meth:`flush`."""
        self._outgoing += data
        return len(data)

    def close(self) -> None:
        """Close the socket, without a word."""
        self._sock.close()

    def reset(self) -> None:
        """Close it, and take back what has not left this machine yet."""
        with contextlib.suppress(OSError):  # it is gone, and so is what was in it
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self._sock.close()

    # What the connection calls:

    @property
    def unwritten(self) -> int:
        """Bytes that the socket hasn't taken yet."""
        return len(self._outgoing)

    def fill(self) -> bool:
        """Read what has arrived; whether there was something, the end included."""
        if len(self._incoming) - self._position >= _READ_BYTES:
            return True  # enough to go on with: a flood has to wait in the network
        try:
            chunk = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        self._incoming = self._incoming[self._position :] + chunk
        self._position = 0
        self.is_at_end = not chunk
        return True

    def take(self, end_of: Callable[[bytes, int], int]) -> bytes:
        """Take what has arrived, up to the end that is found in it; nothing if that is 0."""
        start = self._position
        self._position = end_of(self._incoming, start) or start
        return self._incoming[start : self._position]

    @property
    def has_unread(self) -> bool:
        """Whether something has arrived that wasn't taken yet."""
        return self._position < len(self._incoming)

    def flush(self) -> None:
        """Write as much as the socket takes."""
        while self._outgoing:
            with memoryview(self._outgoing) as view:
                try:
                    written = self._sock.send(view[:_WRITE_BYTES])
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return
            del self._outgoing[:written]
