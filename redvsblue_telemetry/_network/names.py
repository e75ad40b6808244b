"""Looking up a host's name, which can take half a minute and can't be interrupted.

So another thread does it, and the caller waits as it does for a socket: meanwhile a stop is
noticed, and a journal is synced. The thread ends when the system's resolver does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from .contract import Wait
from .owned import owned_pair
from .sockets import READ

__all__ = ["Address", "look_up"]

Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
"""As :func:`socket.getaddrinfo` returns them."""


def look_up(
    host: str, port: int, wait: Wait, deadline: float, opened: weakref.WeakSet[socket.socket]
) -> Sequence[Address]:
    """Return the addresses of a host.

    Args:
        host: its name or address.
        port: of the server.
        wait: waits for a socket; see :data:`Wait`.
        deadline: the time limit, on the clock of ``monotonic`` in ``_shared.py``.
        opened: the sockets that a forked child closes; this adds its own.

    Raises:
        OSError: it has none, or they are not known by the deadline.
        UnicodeError: IDNA can't encode the name.
    """
    if _is_address(host):
        return _resolve(host, port)
    answers: list[Sequence[Address] | Exception] = []
    ours, theirs = owned_pair()
    opened.update((ours, theirs))

    def answer() -> None:
        try:
            answers.append(_resolve(host, port))
        except Exception as error:
            answers.append(error.with_traceback(None))  # its frame refers to the list: a cycle
        finally:
            # Not only closed: a child that was forked meanwhile has a copy of it.
            with contextlib.suppress(OSError):
                theirs.shutdown(socket.SHUT_WR)
            theirs.close()

    try:
        thread = threading.Thread(target=answer, name="telemetry-name-look-up", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left
            return _resolve(host, port)
        wait(ours.fileno(), READ, deadline)
        ours.recv(1)  # fails if other code has closed it
    finally:
        ours.close()
    if not answers:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    result = answers.pop()
    if not isinstance(result, Exception):
        return result
    try:
        raise result
    finally:
        del result  # its traceback holds this frame: a cycle


def _resolve(host: str, port: int) -> Sequence[Address]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):  # ValueError: it contains a zero or the like
            socket.inet_pton(family, host)
            return True
    return False
