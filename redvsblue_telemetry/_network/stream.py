"""The bytes of a connection, in either direction, between the socket and the frames."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable

from .contract import TOO_MUCH, ConnectionLost, LostKind, Wait
from .handshake import HEAD_END
from .sockets import READ, WRITE, PlainSocket

__all__ = ["Stream"]

_MAX_HEAD_BYTES = 16384  # of the answer to a handshake
_WRITE_BYTES = 65536


class Stream:
    """Buffers around a non-blocking socket. Nothing here blocks, except :meth:`read_head`.

    Args:
        sock: the socket, which now belongs to the stream.
    """

    def __init__(self, sock: PlainSocket) -> None:
        self._sock = sock
        self._incoming = b""
        self._position = 0
        self._outgoing = bytearray()
        self._budget = 0  # bytes that may be read until the next call of limit_read

    def fileno(self) -> int:
        """Return the descriptor to wait on; -1 once it is closed."""
        return self._sock.fileno()

    def read_head(self, wait: Wait, deadline: float) -> bytes:
        """Wait for the head of the next answer to a handshake and return it.

        Returns:
            The head with the empty line at its end; everything that has arrived if the connection
            ends before that, or if it is not HTTP.

        Raises:
            ConnectionLost: it is too large.
            TimeoutError: it is not complete at the deadline.
        """
        self._incoming, self._position = self._incoming[self._position :], 0
        end = None
        while b"HTTP/".startswith(self._incoming[:5]):
            # The head first: it may have arrived together with the end, and frames in between.
            if (end := re.search(HEAD_END, self._incoming)) or self._sock.is_at_end:
                break
            if len(self._incoming) >= _MAX_HEAD_BYTES:
                raise ConnectionLost(LostKind.HANDSHAKE, TOO_MUCH)
            # A server that rejects the client's certificate (TLS 1.3) hangs up under the request,
            # and its alert is there to be read. If there is nothing to read, the read fails too.
            with contextlib.suppress(OSError):
                self.flush()
            if not self.fill():
                wait(self.fileno(), READ | WRITE if self.unwritten else READ, deadline)
        self._position = len(self._incoming) if end is None else end.end()
        return self._incoming[: self._position]

    def limit_read(self, size: int) -> None:
        """Allow ``size`` bytes to be read from now on; then reading fails."""
        self._budget = size

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes that have arrived, for websocket-client.

        Raises:
            BlockingIOError: there are none. Then websocket-client keeps the part of a frame that it
                has, and goes on with it at the next call (websocket-client issue 37).
            ConnectionLost: the connection has ended, or the limit is reached.
        """
        if not self.has_unread:
            if self._sock.is_at_end:
                message = "the connection ended without a close frame"
                raise ConnectionLost(LostKind.RESET, message)
            raise BlockingIOError(errno.EAGAIN, "no data yet")
        chunk = self._incoming[self._position : self._position + size]
        self._position += len(chunk)
        self._budget -= len(chunk)
        if self._budget < 0:
            raise ConnectionLost(LostKind.PROTOCOL, TOO_MUCH)
        return chunk

    def send(self, data: bytes) -> None:
        """Accept all of the data, for :meth:`flush` to write."""
        self._outgoing += data

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def reset(self) -> None:
        """Close the socket and discard the data that has not left this machine yet."""
        self._sock.reset()

    @property
    def unwritten(self) -> int:
        """Number of bytes that the network hasn't accepted yet."""
        return len(self._outgoing) + self._sock.unwritten

    def fill(self) -> bool:
        """Read from the socket; return whether data or the end had arrived."""
        try:
            chunk = self._sock.receive()
        except BlockingIOError:
            return False
        self._incoming = self._incoming[self._position :] + chunk
        self._position = 0
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
        """Write as much as the network accepts."""
        while self.unwritten:
            with memoryview(self._outgoing) as view:
                try:
                    written = self._sock.send(view[:_WRITE_BYTES])
                except BlockingIOError:
                    return
            del self._outgoing[:written]
