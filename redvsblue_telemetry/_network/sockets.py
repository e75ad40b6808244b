"""Non-blocking sockets, plain or with TLS, whose writes can't raise SIGPIPE.

OpenSSL could write to the socket itself, as it does for :class:`ssl.SSLSocket`. But its writes
raise SIGPIPE, with no flag to suppress it (see :mod:`.sigpipe`). So OpenSSL is given two buffers
in memory here, never a socket. Contexts that verify certificates in their own way need that, too:
those of ``truststore`` do it after the handshake, which :meth:`ssl.SSLContext.wrap_socket` has not
done yet when it returns a socket that doesn't block.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import sys

from . import sigpipe

__all__ = ["READ", "WRITE", "PlainSocket", "SecureSocket"]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

# A close discards unsent data and sends a reset. `struct linger` has shorts on Windows, else ints.
_LINGER_ZERO = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)
_READ_BYTES = 65536
_MAX_UNWRITTEN_BYTES = 65536


class PlainSocket:
    """A connected, non-blocking socket. A read or write that can't be done now raises an error.

    The error is BlockingIOError; any other OSError means that the connection is gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.is_at_end = False
        """Whether the peer has ended the connection, and all that it sent was received."""

    @property
    def unwritten(self) -> int:
        """Number of bytes that :meth:`send` took and the network has not accepted yet."""
        return 0

    def fileno(self) -> int:
        """Return the descriptor to wait on; -1 once it is closed."""
        return self._sock.fileno()

    def receive(self) -> bytes:
        """Return data that has arrived; nothing at the end of the connection."""
        data = self._sock.recv(_READ_BYTES)
        self.is_at_end = not data
        return data

    def send(self, data: memoryview) -> int:
        """Write what is unwritten, then from ``data``; return how many of its bytes were taken."""
        return sigpipe.send(self._sock, data)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def reset(self) -> None:
        """Close the socket and discard the data that has not left this machine yet."""
        with contextlib.suppress(OSError):  # the connection is gone already, and its data too
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._sock.close()


class SecureSocket(PlainSocket):
    """The same with TLS. Nothing can be read or written before :meth:`shake_hands` is done.

    Args:
        sock: connected, non-blocking.
        context: the client's settings of TLS.
        host: the server's name or address, which its certificate must be for.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._encrypted = b""  # taken out of `_outgoing`, but not written yet
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        """Version, certificate and the like."""

    @property
    def unwritten(self) -> int:
        return len(self._encrypted) + self._outgoing.pending

    def shake_hands(self) -> int:
        """Take the next step of the handshake; return the events to wait for, 0 when it is done.

        Raises:
            ssl.SSLError: it failed.
            OSError: the connection is gone.
        """
        with contextlib.suppress(BlockingIOError):
            self._read()
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            is_done = False
        else:
            is_done = True
        finally:
            # After a failure this is the alert with the reason. If it can't be written, the failure
            # still counts, and so does the peer's answer, if it has one; the next read shows it.
            with contextlib.suppress(OSError):
                self._write()
        if is_done:
            return 0
        return READ | WRITE if self.unwritten else READ

    def receive(self) -> bytes:
        # OpenSSL answers some records, and a peer that doesn't read the answers must not fill the
        # memory with them.
        if self.unwritten > _MAX_UNWRITTEN_BYTES:
            self._write()
        self._read()
        records: list[bytes] = []
        try:
            while record := self.tls.read(_READ_BYTES):
                records.append(record)
            self.is_at_end = True
        except ssl.SSLWantReadError:  # the next record is not complete
            if not records:
                raise BlockingIOError from None
        except ssl.SSLEOFError:  # no goodbye of TLS, which many servers leave out
            self.is_at_end = True
        except ssl.SSLError:
            if not records:
                raise
            self.is_at_end = True
        return b"".join(records)

    def send(self, data: memoryview) -> int:
        self._write()
        if not data:
            return 0
        try:
            taken = self.tls.write(data)
        except ssl.SSLWantReadError:  # the server wants to negotiate first
            raise BlockingIOError from None
        with contextlib.suppress(BlockingIOError):
            self._write()
        return taken

    def _read(self) -> None:
        if data := self._sock.recv(_READ_BYTES):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _write(self) -> None:
        self._encrypted += self._outgoing.read()
        while self._encrypted:
            written = sigpipe.send(self._sock, self._encrypted)
            self._encrypted = self._encrypted[written:]
