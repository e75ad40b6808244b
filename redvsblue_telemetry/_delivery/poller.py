"""The one place where the worker waits."""

from __future__ import annotations

import contextlib
import selectors
import socket

__all__ = ["Poller"]

_A_DAY = 86400.0  # seconds


class Poller:
    """Waits for a descriptor, a time, or a call of :meth:`wake`, whichever comes first."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._receiver, selectors.EVENT_READ)

    def wake(self) -> None:
        """End the wait that is under way, or the next. From any thread, at any time."""
        # A full buffer wakes just as well, and a closed socket has nobody left to wake.
        with contextlib.suppress(OSError):
            self._sender.send(b"\0")

    def wait(self, timeout: float | None, fd: int = -1, events: int = 0) -> bool:
        """Wait; only the worker does.

        Args:
            timeout: seconds; None for as long as it takes. Either ends after a day at the latest,
                since selectors can't wait for ever longer.
            fd: a descriptor to wait for besides; -1 for none.
            events: what it has to be ready for, as in :mod:`selectors`.

        Returns:
            Whether the descriptor is ready.
        """
        if fd >= 0:
            self._selector.register(fd, events)
        try:
            longest = _A_DAY if timeout is None else min(timeout, _A_DAY)
            ready = [key.fd for key, _ in self._selector.select(longest)]
        finally:
            if fd >= 0:
                self._selector.unregister(fd)
        if self._receiver.fileno() in ready:
            self._forget_wakes()
        return fd in ready

    def _forget_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._receiver.recv(4096):
                pass

    def close(self) -> None:
        """Close the descriptors, without disturbing a forked parent that shares them."""
        self._selector.close()
        self._receiver.close()
        self._sender.close()
