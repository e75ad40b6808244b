"""The one place where the worker waits.

It wakes up by a socket pair rather than a condition variable, because it waits for a socket as
well, and because ``wake`` must be callable from a signal handler: a condition has a lock, which the
interrupted code may hold.

The pair can be lost. A host may close all descriptors of the process (see
:mod:`redvsblue_telemetry._network.owned`), and Windows shuts down such pairs when the machine is
suspended (CPython issue 156344). A pair at its end is always ready to be read, so without a new one
the worker would never wait again.

Rejected: epoll and kqueue. Their selectors are descriptors as well, which nothing tells apart from
those of the host, and for two descriptors ``poll`` takes fewer system calls.
"""

from __future__ import annotations

import contextlib
import math
import selectors
import time
from collections.abc import Callable

from .._network import sigpipe
from .._network.owned import owned_pair
from .._shared import monotonic

__all__ = ["Poller"]

# Seconds. The worker has nothing to do that often; but if a host's descriptor takes the place of
# the pair's in the very moment in which a wait begins, nothing else would end that wait.
_MAX_WAIT = 60.0
_BLIND_WAIT = 0.1  # seconds between two looks without a pair, and between two attempts to get one

_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)


class Poller:
    """Waits for a descriptor, a time, or a call of :meth:`wake`, whichever comes first.

    Args:
        clock: returns monotonic seconds.

    Raises:
        OSError: the system has no descriptors left.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._renew_at = -math.inf
        self.was_closed = False
        """Whether other code has closed the pair. The worker resets it."""
        self._open_pair()

    def _open_pair(self) -> None:
        self._receiver, self._sender = owned_pair()
        sigpipe.spare(self._sender)
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._selector = _Selector()
        self._selector.register(self._receiver, selectors.EVENT_READ)

    def wake(self) -> None:
        """End the current wait, or else the next one. From any thread, at any time."""
        # A full buffer wakes the worker as well, and so does the end of a pair.
        with contextlib.suppress(OSError):
            sigpipe.send(self._sender, b"\0")

    def wait(self, timeout: float | None, fd: int = -1, events: int = 0) -> bool:
        """Wait. Only the worker calls this.

        Args:
            timeout: seconds, or None for no limit. Either way it returns after a minute.
            fd: a descriptor to wait for as well; -1 for none.
            events: the events of that descriptor, as in :mod:`selectors`.

        Returns:
            Whether the descriptor is ready. Also True if other code has closed the pair, and thus
            perhaps the descriptor: only using it can show that.
        """
        longest = _MAX_WAIT if timeout is None else min(timeout, _MAX_WAIT)
        if not self._receiver.is_intact:
            is_news = self._receiver.fileno() >= 0
            self.was_closed |= is_news
            # A request may have come whose wake-up went to the old pair, so don't wait now.
            if self._renew() or is_news:
                return is_news
            longest = min(longest, _BLIND_WAIT)
        if fd >= 0:
            self._selector.register(fd, events)
        try:
            ready = self._select(longest)
        finally:
            if fd >= 0:
                self._selector.unregister(fd)
        if self._receiver.fileno() in ready and not self._clear_wakes():
            is_closed = not self._receiver.is_intact
            self.was_closed |= is_closed
            self._renew()
            return is_closed or fd in ready
        return fd in ready

    def _select(self, timeout: float) -> list[int]:
        if not self._selector.get_map():  # Windows can't wait for nothing
            time.sleep(max(0.0, timeout))
            return []
        return [key.fd for key, _ in self._selector.select(timeout)]

    def _clear_wakes(self) -> bool:
        """Read the wake-ups; return whether the pair is still good for more."""
        try:
            while self._receiver.recv(4096):
                pass
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def _renew(self) -> bool:
        """Replace the pair, if that is possible and the last time is not just over."""
        self.close()
        self._selector = _Selector()
        now = self._clock()
        if now < self._renew_at:
            return False
        self._renew_at = now + _BLIND_WAIT
        try:
            self._open_pair()
        except OSError:  # no descriptors left
            return False
        return True

    def close(self) -> None:
        """Close the descriptors. A parent that shares them after a fork is not affected."""
        self._selector.close()  # it and its map refer to each other until then
        self._receiver.close()
        self._sender.close()
