"""The mailbox in which callers leave their requests to the worker: stop, flush, discard, toggle.

Theory of operation
-------------------

Callers write, the worker reads between its waits, and there is no lock. Any caller can be a signal
handler that interrupted another caller on the same thread: if that one held a lock, the two would
wait for each other. So a request is one write to one attribute, or one append to a deque, which
CPython does in one step, followed by a wake-up of the worker. A request that is left during a wait
ends that wait; one that is left before it ends the wait at once, because the wake-up stays in its
socket.

The worker iterates over copies of the deques. Copying is one step on every build; without the GIL,
making a tuple is not, and it raises if a caller leaves a request meanwhile.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable

from .._shared import monotonic

__all__ = ["Request", "Requests"]

# Seconds. On Windows before Python 3.14, no Ctrl-C and no other signal ends the wait for a lock.
_LONGEST_WAIT = 0.05 if sys.platform == "win32" else threading.TIMEOUT_MAX


class Request:
    """A request that its caller can wait for.

    Args:
        up_to: the number of the last event that it is about.
        since: the number of the last event that had left the store before.
    """

    def __init__(self, up_to: int = 0, since: int = 0) -> None:
        self.up_to = up_to
        self.since = since
        self.has_losses = False
        """Whether an event that it is about was dropped, other than by ``before_send``."""
        self.had_attempt = False
        """Whether an attempt to connect has begun since it was made."""
        self.loaded: int | None = None
        """How many events the window had been given when the last of them left the store."""
        self._done = threading.Lock()
        # A Lock that the worker releases rather than an Event. An Event has a lock inside, which a
        # caller may hold when a signal handler stops the worker; the worker would then wait for
        # that caller, and the handler for the worker.
        self._done.acquire()

    def wait(self, timeout: float) -> bool:
        """Wait until it is done; return whether it is."""
        ends_at = monotonic() + timeout
        while (left := ends_at - monotonic()) > _LONGEST_WAIT:
            if self._done.acquire(timeout=_LONGEST_WAIT):
                return True
        return self._done.acquire(timeout=max(0.0, left))

    def finish(self) -> None:
        """Let its caller go on. Only once."""
        self._done.release()


class Requests:
    """What callers want of the worker at the moment.

    Args:
        wake: ends the worker's wait. From any thread, at any time.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

        # Written by callers, read by the worker:
        self.enabled = True
        """The player's toggle."""
        self.online = True
        """Whether the host has a network."""
        self._flushes: deque[Request] = deque()
        self._discards: deque[Request] = deque()
        self._stops: deque[Request] = deque()

        # Written by both:
        self.stop_at: float | None = None
        """When the worker has to end at the latest; None while nobody stops it."""
        self.report_by = 0.0
        """Until when a stop may wait for its last report to be confirmed."""
        self.reason = ""
        """Why the session ends, as its last report says: that of the first stop."""
        self.network_is_back = False
        """The host has reported a network; the worker resets it as an attempt begins."""
        self._is_urgent = False  # to drain the store; the worker resets it when it does
        self.wants_nudge = False
        """Whether a nudge wakes the worker. The worker sets it before a wait; a nudge resets it."""

    # For callers.

    def set_enabled(self, enabled: bool) -> None:
        """Connect, or stay away."""
        self.enabled = enabled
        self._wake()

    def set_online(self, online: bool) -> None:
        """Make attempts, or make none until there is a network again."""
        self.online = online
        self.network_is_back = online
        self._wake()

    def wake(self) -> None:
        """End the worker's wait, or else its next one."""
        self._wake()

    def nudge(self) -> None:
        """Have the store drained soon. Costs nothing while the worker is already at it."""
        if self.wants_nudge:
            self.wants_nudge = False
            self._is_urgent = True
            self._wake()

    def flush(self, up_to: int, since: int) -> Request:
        """Ask for the events up to a number to be delivered; see :class:`Request`."""
        self._is_urgent = True  # even if the caller gives up waiting at once
        return self._leave(Request(up_to, since), self._flushes)

    def cancel_flush(self, request: Request) -> None:
        """Forget a flush that nobody waits for any more."""
        with contextlib.suppress(ValueError):  # it was finished just now
            self._flushes.remove(request)

    def discard(self, up_to: int) -> Request:
        """Ask for the connection to be closed and the events up to a number to be discarded."""
        return self._leave(Request(up_to), self._discards)

    def stop(
        self, deadline: float, up_to: int, since: int, *, report_by: float, reason: str
    ) -> Request:
        """Ask for everything to be delivered, and the worker to end, by a time.

        Args:
            deadline: when no event is sent any more.
            up_to: see :class:`Request`.
            since: see :class:`Request`.
            report_by: until when to wait for the confirmation of the last report; a bit later.
            reason: why the session ends.
        """
        request = Request(up_to, since)
        self._stops.append(request)  # first, so that a worker that ends for it knows it
        self.reason = self.reason or reason
        if self.stop_at is None or deadline < self.stop_at:
            self.stop_at, self.report_by = deadline, report_by
        self._wake()
        return request

    def _leave(self, request: Request, requests: deque[Request]) -> Request:
        requests.append(request)
        self._wake()
        return request

    # For the worker.

    @property
    def allow_connection(self) -> bool:
        """Whether the worker may connect, or stay connected."""
        return self.enabled and self.online and not self._discards

    @property
    def is_stopping(self) -> bool:
        """Whether the worker has been asked to end."""
        return self.stop_at is not None

    @property
    def is_awaited(self) -> bool:
        """Whether a caller waits for the store to be drained."""
        return self.is_stopping or any(flush.loaded is None for flush in self._flushes.copy())

    @property
    def awaits_attempt(self) -> bool:
        """Whether there is a flush for which no attempt was made yet."""
        return any(not flush.had_attempt for flush in self._flushes.copy())

    @property
    def awaits_last_attempt(self) -> bool:
        """Whether there are stops, and no attempt was made for any of them yet."""
        stops = self._stops.copy()
        return bool(stops) and not any(stop.had_attempt for stop in stops)

    def mark_attempt(self) -> None:
        """Note that an attempt begins, for all flushes and stops that there are now."""
        for request in self._waiting:
            request.had_attempt = True

    def mark_overflow(self, first: int, last: int) -> None:
        """Note that the events from one number to another were dropped by a full store."""
        for request in self._waiting:
            if max(first, request.since + 1) <= min(last, request.up_to):
                request.has_losses = True

    def mark_losses(self) -> None:
        """Note that all flushes and stops that are waiting have lost an event.

        For when the oldest undelivered event was dropped: each of them waits for that one.
        """
        for request in self._waiting:
            request.has_losses = True

    @property
    def has_losses(self) -> bool:
        """Whether an event was dropped that a stop was to deliver."""
        return any(stop.has_losses for stop in self._stops.copy())

    @property
    def _waiting(self) -> tuple[Request, ...]:
        return (*self._flushes.copy(), *self._stops.copy())

    def take_urgency(self) -> bool:
        """Return whether the store is to be drained at once, and reset that."""
        if not self._is_urgent:  # without a write, which could undo a caller's
            return False
        self._is_urgent = False
        return True

    def settle_flushes(self, *, departed: int, loaded: int, settled: int) -> None:
        """Finish the flushes whose events have all been delivered or dropped.

        Args:
            departed: how many events have left the store.
            loaded: how many events have ever entered the window.
            settled: how many of these have left it.
        """
        for flush in self._flushes.copy():
            if flush.loaded is None and departed >= flush.up_to:
                flush.loaded = loaded
            if flush.loaded is not None and settled >= flush.loaded:
                self.cancel_flush(flush)
                flush.finish()

    @property
    def next_discard(self) -> Request | None:
        """The oldest unfinished request to discard events."""
        return self._discards[0] if self._discards else None

    def finish_discard(self) -> None:
        """Finish the request that :attr:`next_discard` returned."""
        self._discards.popleft().finish()

    def finish_all(self) -> None:
        """Let all callers go on: the worker has ended."""
        for requests in (self._flushes, self._discards, self._stops):
            for request in requests.copy():
                request.finish()
