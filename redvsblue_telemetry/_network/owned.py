"""Sockets that notice when other code has closed their descriptors.

A host that turns into a daemon closes all descriptors that it doesn't know, as by
``os.closerange(3, 1000)``, and then opens files. The system gives these the numbers that our
sockets had. To read, write or close by such a number would read from, write into or close a file of
the host. So each use compares the descriptor's device and inode with those that it had at first,
which costs a system call of about a microsecond.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from typing import Any

__all__ = ["OwnedSocket", "owned_pair"]

_TAKEN = "other code in this process closed the socket's descriptor"


class OwnedSocket(socket.socket):
    """A socket that fails with EBADF, and does nothing, once its descriptor was closed elsewhere.

    On macOS all TCP sockets look alike, so there it takes a TCP socket of the host for its own.
    Windows numbers sockets and files separately, and what closes files leaves sockets alone, so
    nothing is compared there.
    """

    __slots__ = ("_identity",)
    _identity: tuple[int, int] | None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._identity = None
        super().__init__(*arguments, **keywords)
        self._identity = self._current_identity()

    def _current_identity(self) -> tuple[int, int] | None:
        if sys.platform == "win32":
            return None
        try:
            status = os.fstat(self.fileno())
        except OSError:
            return None
        return status.st_dev, status.st_ino

    @property
    def is_intact(self) -> bool:
        """Whether it is open, and its descriptor is still the one that it opened."""
        return self.fileno() >= 0 and self._current_identity() == self._identity

    def _require_intact(self) -> None:
        if not self.is_intact:
            raise OSError(errno.EBADF, _TAKEN)

    def recv(self, *arguments: Any) -> bytes:
        self._require_intact()
        return super().recv(*arguments)

    def send(self, *arguments: Any) -> int:
        self._require_intact()
        return super().send(*arguments)

    def getsockopt(self, *arguments: Any) -> Any:
        self._require_intact()  # reading an error of the host's socket would clear it
        return super().getsockopt(*arguments)

    def setsockopt(self, *arguments: Any) -> None:
        self._require_intact()
        super().setsockopt(*arguments)

    def close(self) -> None:
        """Close it, or forget a descriptor that isn't its own any more. Never fails."""
        if self.is_intact:
            with contextlib.suppress(OSError):
                super().close()
        else:
            self.detach()

    def __del__(self) -> None:
        self.close()  # the base class would close by the number


def owned_pair() -> tuple[OwnedSocket, OwnedSocket]:
    """Return two connected sockets.

    Raises:
        OSError: the system has no descriptors left.
    """
    one, other = (OwnedSocket(fileno=end.detach()) for end in socket.socketpair())
    if one.family == socket.AF_INET:  # Windows: a connection of the machine to itself
        for end in (one, other):  # a second byte must not wait until the first is acknowledged
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other
