"""Sockets whose writes can't kill the process.

A write to a socket that its peer has closed raises SIGPIPE. CPython ignores that signal, so the
write fails with an error instead. But not every host is CPython's own program: the isolated
configuration of an embedded interpreter and some bundlers leave the default action in force, which
ends the process, and a game may restore it by ``signal.signal(signal.SIGPIPE, signal.SIG_DFL)``.

So the kernel is asked not to raise it. The flag of a single write does that on Linux and the BSDs,
an option of the socket on macOS; Windows has no such signal. Rejected: ignoring the signal, since
its action belongs to the host; and blocking it in the worker thread, since processes and threads
that a callback starts there would inherit the mask, and since macOS may deliver the signal to
another thread.
"""

from __future__ import annotations

import socket
import sys

__all__ = ["send", "spare"]

# Not in every build of Python for macOS, and not heeded by its older kernels.
_MSG_NOSIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_SO_NOSIGPIPE = 0x1022  # <sys/socket.h> of macOS; the module `socket` lacks it


def spare(sock: socket.socket) -> socket.socket:
    """Return the socket, prepared for :func:`send`. Call it for each new socket."""
    if sys.platform == "darwin":
        sock.setsockopt(socket.SOL_SOCKET, _SO_NOSIGPIPE, 1)
    return sock


def send(sock: socket.socket, data: bytes | memoryview) -> int:
    """Write to a socket without a signal; return how many bytes it accepted."""
    return sock.send(data, _MSG_NOSIGNAL)
