"""How sockets end: a server that stops listening, and a connection that is reset."""

from __future__ import annotations

import contextlib
import socket
import struct

from tests.support.systems import IS_WINDOWS

__all__ = ["ENDS_FIRST", "hang_up", "reset", "stop_listening"]

ENDS_FIRST = "it shuts a socket down before it closes it, so an end is ahead of the reset"

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


def hang_up(sock: socket.socket) -> None:
    """End a connection, and a ``recv`` of it that another thread is in.

    As above, closing it does that on Windows. To shut it down while the other thread closes it
    ends the server of wine 8, and so each test that runs.
    """
    if IS_WINDOWS:
        sock.close()
    else:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def reset(sock: socket.socket) -> None:
    """Close a connection with a reset instead of an end."""
    with contextlib.suppress(OSError):  # its other end was quicker
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    sock.close()
