"""The one place where the worker waits.

It wakes up by a socket pair rather than a condition variable, because it waits for a socket as
well, and because ``wake`` must be callable from a signal handler: a condition has a lock, which the
interrupted code may hold.
"""

from __future__ import annotations

import contextlib
import selectors
import socket

from .._network import sigpipe

__all__ = ["Poller"]

_MAX_WAIT = 86400.0  # seconds


class Poller:
    """Waits for a descriptor, a time, or a call of :meth:`wake`, whichever comes first."""

    def __init__(self) -> None:
        self._receiver, sender = socket.socketpair()
        self._sender = sigpipe.spare(sender)
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._receiver, selectors.EVENT_READ)

    def wake(self) -> None:
        """End the current wait, or else the next one. From any thread, at any time."""
        # A full buffer wakes the worker as well, and a closed one means that it has ended.
        with contextlib.suppress(OSError):
            sigpipe.send(self._sender, b"\0")

    def wait(self, timeout: float | None, fd: int = -1, events: int = 0) -> bool:
        """Wait. Only the worker calls this.

        Args:
            timeout: seconds, or None for no limit. Either way it returns after a day, because
                selectors reject very long timeouts.
            fd: a descriptor to wait for as well; -1 for none.
            events: the events of that descriptor, as in :mod:`selectors`.

        Returns:
            Whether the descriptor is ready.
        """
        if fd >= 0:
            self._selector.register(fd, events)
        try:
            longest = _MAX_WAIT if timeout is None else min(timeout, _MAX_WAIT)
            ready = [key.fd for key, _ in self._selector.select(longest)]
        finally:
            if fd >= 0:
                self._selector.unregister(fd)
        if self._receiver.fileno() in ready:
            self._clear_wakes()
        return fd in ready

    def _clear_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._receiver.recv(4096):
                pass

    def close(self) -> None:
        """Close the descriptors. A parent that shares them after a fork is not affected."""
        self._selector.close()
        self._receiver.close()
        self._sender.close()
