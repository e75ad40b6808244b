"""How sockets end: a server that stops listening, and a connection that is reset."""

from __future__ import annotations

import contextlib
import socket
import struct

from tests.support.systems import IS_WINDOWS

__all__ = ["reset", "stop_listening"]

# `struct linger` has two ints, on Windows two shorts. On, and zero seconds.
_LINGER_ZERO = struct.pack("HH" if IS_WINDOWS else "ii", 1, 0)


def stop_listening(listener: socket.socket) -> None:
    """Close a listening socket, and end an ``accept`` that another thread is in.

    On Windows closing it does that, and such a socket can't be shut down. On Linux only shutting
    it down does.
    """
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def reset(sock: socket.socket) -> None:
    """Close a connection with a reset instead of an end."""
    with contextlib.suppress(OSError):  # its other end was quicker
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    sock.close()
