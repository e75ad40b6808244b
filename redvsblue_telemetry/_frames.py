"""The game's frames: how long they take, and where the game is when they stop coming.

Theory of operation
-------------------

``frame`` does one thing: it appends the time to a bounded deque. It is a chain of iterators whose
next step is one call into C, so it runs no Python code and takes no lock. The worker does the rest:
about once a second it takes the ticks, in pieces of a tenth of a millisecond, with a rest after
each. A frame is the time between two ticks. Its length is counted in a histogram whose steps are
0.27 % apart. So the memory doesn't depend on how many frames there are, and the percentiles are
within 0.14 % of the exact ones for ten frames and for ten million. At the end of each interval a
``frames`` event sums them up.

The first call runs a small Python function. It notes which thread calls ``frame``, since the stack
of that one is the interesting one when no more ticks come, it wakes the worker, and it puts the
fast one in its place. The first call after a pause does so again.

A hang is a time without a tick in which the worker was running as it should. If the process was
suspended, or a thread kept the GIL, the worker is late itself, and that time doesn't count.

If the game makes more than 16,000 frames a second, the deque drops the oldest. The frame in which
that happens is not counted.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat, starmap
from operator import sub
from typing import Any

from ._shared import monotonic, rest
from ._stacks import stack_of_frame

__all__ = ["Frame", "Frames", "frame_nothing"]

Frame = Callable[[], object]
Emit = Callable[[str, Mapping[str, Any]], object]

_MAX_TICKS = 16_384
_FULL = _MAX_TICKS - 64  # ticks; with so many, some may be lost while the worker looks
_PIECE = 256  # ticks that the worker takes at once, in about 0.1 ms
_LOOK_INTERVAL = 1.0  # seconds between two looks at the ticks
_LOOKS_PER_HANG = 4  # in each `hang_timeout`, at least
_LATE = 0.1  # seconds; the worker is not on time if it comes so much later
_PAUSE = 60.0  # seconds; a longer time between two ticks is not a frame
_LOCK_TIMEOUT = 0.1  # seconds that a stop and the toggle wait for the worker
_OCTAVE = 256  # steps of the histogram for each doubling of a frame's length


def frame_nothing() -> None:
    """Do nothing: the ``frame`` of a client that is off."""


class Frames:
    """Measures the frames of one client.

    Args:
        emit: records an event.
        bind: makes a function the client's ``frame``.
        wake: has the worker call :meth:`upkeep`.
        interval: seconds between two ``frames`` events.
        hang_timeout: seconds without a frame after which a ``hang`` event is recorded, or None.
        max_event_bytes: the limit of an event's JSON, in bytes.
        clock: returns seconds.
    """

    def __init__(
        self,
        emit: Emit,
        bind: Callable[[Frame], object],
        wake: Callable[[], object],
        *,
        interval: float,
        hang_timeout: float | None,
        max_event_bytes: int,
        clock: Callable[[], float] = monotonic.func,
    ) -> None:
        self._emit: Emit | None = emit
        self._bind = bind
        self._wake = wake
        self._interval = interval
        self._hang_timeout = hang_timeout
        self._max_event_bytes = max_event_bytes
        self._clock = clock
        # Also held by the iterators of a `frame` that the game keeps, so it is never replaced.
        self._ticks: deque[float] = deque(maxlen=_MAX_TICKS)
        # An `iter(perf_counter, None)` would compare each time with the sentinel.
        tick = map(self._ticks.append, starmap(clock, repeat(())))
        self._tick: Frame = tick.__next__
        # Reentrant: the worker emits while it has it, and a log handler may stop the client.
        self._lock = threading.RLock()

        # Written by the thread that calls `frame`:
        self.thread_id: int | None = None
        self._is_new = False  # whether there is a tick that the worker must not leave for later

        # Written under the lock:
        self._is_on = False
        self._forget()

    def _forget(self) -> None:
        self._ticks.clear()
        self._newest: float | None = None
        """The time of the newest tick that was taken."""
        self._base: float | None = None
        """The beginning of the next frame."""
        self._interval_ends: float | None = None
        self._look_at = math.inf
        self._late = 0.0
        """For how much of the time since the newest tick the worker was not running, in seconds."""
        self._is_hang_recorded = False
        self._begin_interval()

    def _begin_interval(self) -> None:
        self._lengths: Counter[int] = Counter()
        """How many frames have which length, as steps on a logarithmic scale."""
        self._seconds = 0.0
        self._longest = 0.0

    # For the client.

    def begin(self) -> None:
        """Measure from now on."""
        if self._emit is None:
            return
        self._with_lock(self._forget)
        self._is_new = False
        self._is_on = True
        self._bind(self._first)

    def pause(self) -> None:
        """Measure nothing until :meth:`begin` is called."""
        self._is_on = False
        self._bind(frame_nothing)

    def finish(self, timeout: float) -> None:
        """Record the frames since the last ``frames`` event. For a stop.

        Args:
            timeout: the longest time that it may wait for the worker, in seconds.
        """
        if self._is_on:
            self._with_lock(self._sum_up, timeout)

    def end(self) -> None:
        """Measure nothing any more, and let go of the client."""
        self.pause()
        self._emit = None
        self._bind = self._wake = _ignore

    def after_fork_in_child(self) -> None:
        """Start over, in a child: the parent's frames are the parent's."""
        self._lock = threading.RLock()
        self.thread_id = threading.get_ident()
        if self._is_on:
            self.begin()

    @property
    def runs_here(self) -> bool:
        """Whether the current thread is the one that calls ``frame``."""
        return threading.get_ident() == self.thread_id

    def _with_lock(self, change: Callable[[], object], timeout: float = _LOCK_TIMEOUT) -> None:
        # The worker has it for microseconds, unless a log handler of the game's blocks it.
        if self._lock.acquire(timeout=max(0.0, min(timeout, _LOCK_TIMEOUT))):
            try:
                change()
            finally:
                self._lock.release()

    # On the thread that calls `frame`.

    def _first(self) -> None:
        """Note the frame and its thread; the next call is a fast one."""
        if not self._is_on:
            return
        self._tick()
        self.thread_id = threading.get_ident()
        self._bind(self._tick)
        if not self._is_new:
            self._is_new = True
            self._wake()

    # On the worker's thread.

    def upkeep(self) -> float | None:
        """Do what is due; return when to come again, by the clock.

        None: there is nothing to do until the worker is woken.
        """
        if not self._is_on:
            return None
        if self._lock.acquire(blocking=False):
            try:
                self._look(self._clock())
            finally:
                self._lock.release()
        else:  # a stop or the toggle has it
            return self._clock() + _LOCK_TIMEOUT
        if self._look_at == math.inf:
            return None
        return self._look_at

    def _look(self, now: float) -> None:
        if not self._is_new and now < self._look_at:
            return
        self._is_new = False  # before the ticks are read: a later one sets it again
        due = self._look_at
        self._take()
        if now - due > _LATE and self._newest is not None:
            # Not before the ticks are taken: the newest may be from right before a suspension.
            self._late += max(0.0, now - max(due, self._newest))
        if self._interval_ends is not None and now >= self._interval_ends:
            self._end_interval(now)
        self._look_at = now + min(self._pace(now), self._watch_for_hang(now))

    def _pace(self, now: float) -> float:
        """Return the seconds until the next look at the ticks."""
        if self._newest is None:
            return math.inf
        if self._interval_ends is None:
            return self._interval  # a `frame` that the game keeps wakes nobody
        return min(_LOOK_INTERVAL, self._interval_ends - now)

    def _take(self) -> None:
        """Take the ticks that there are, in small pieces."""
        ticks = self._ticks
        left = len(ticks)
        if left >= _FULL:
            self._base = None
        while left > 0:
            count = min(left, _PIECE)
            self._count([ticks.popleft() for _ in range(count)])
            left -= count
            if left:
                rest()

    def _count(self, times: Sequence[float]) -> None:
        """Count the frames that end with these ticks."""
        if self._interval_ends is None:
            self._interval_ends = times[0] + self._interval
        begins: Sequence[float] = times if self._base is None else (self._base, *times)
        lengths = [length for length in map(sub, begins[1:], begins) if length <= _PAUSE]
        self._newest = self._base = times[-1]
        self._late, self._is_hang_recorded = 0.0, False
        if lengths:
            self._lengths.update(map(_step, lengths))
            self._seconds += sum(lengths)
            self._longest = max(self._longest, *lengths)

    def _end_interval(self, now: float) -> None:
        assert self._interval_ends is not None
        if not self._lengths:
            self._interval_ends = None
            self._bind(self._first)
            return
        self._sum_up()
        self._interval_ends += self._interval
        if self._interval_ends <= now:
            self._interval_ends = now + self._interval

    def _sum_up(self) -> None:
        """Record the frames of this interval, if there are any, and begin the next one."""
        self._take()
        # Begun first: a signal handler that stops the client in here must find them gone.
        lengths, seconds, longest = self._lengths, self._seconds, self._longest
        self._begin_interval()
        if not lengths:
            return
        most = longest * 1e3
        p50, p95, p99 = (_quantile(lengths, share) for share in (0.5, 0.95, 0.99))
        self._record(
            "frames",
            {
                "seconds": round(seconds, 3),
                "frames": sum(lengths.values()),
                "p50Ms": round(min(_milliseconds(p50), most), 3),
                "p95Ms": round(min(_milliseconds(p95), most), 3),
                "p99Ms": round(min(_milliseconds(p99), most), 3),
                "maxMs": round(most, 3),
                "hitches": sum(count for step, count in lengths.items() if step > p50 + _OCTAVE),
            },
        )

    def _watch_for_hang(self, now: float) -> float:
        """Record a hang if there is one; return the seconds until the next look for one."""
        timeout, newest = self._hang_timeout, self._newest
        if timeout is None or newest is None or self._is_hang_recorded:
            return math.inf
        silent = now - newest - self._late
        if silent < timeout:
            # More often than once, so that the worker knows whether it was running meanwhile.
            return min(timeout - silent, timeout / _LOOKS_PER_HANG)
        # An id that the parent's thread had, or that of a thread that has ended, has no frame.
        thread = sys._current_frames().get(self.thread_id or 0)
        stack = stack_of_frame(thread, self._max_event_bytes // 2)
        del thread
        if self._ticks:
            return 0.0
        self._is_hang_recorded = True
        self._bind(self._first)  # which wakes the worker, to watch for the next hang
        if stack:
            self._record("hang", {"seconds": round(silent, 3), "stack": stack})
        return math.inf

    def _record(self, type: str, data: Mapping[str, Any]) -> None:
        emit = self._emit
        if emit is not None:
            with contextlib.suppress(Exception):  # `strict`; it is logged and counted
                emit(type, data)


def _ignore(_: object = None) -> None:
    """Do nothing."""


# The histogram: 256 steps for each doubling of a frame's length, from a nanosecond on.


def _step(length: float) -> int:
    return int(math.log2(length * 1e9) * _OCTAVE) if length > 1e-9 else 0


def _milliseconds(step: int) -> float:
    """Return the length in the middle of a step."""
    middle: float = 2.0 ** ((step + 0.5) / _OCTAVE) / 1e6
    return middle


def _quantile(lengths: Mapping[int, int], share: float) -> int:
    """Return the step that this share of the frames doesn't exceed, by the nearest rank."""
    rank = math.ceil(share * sum(lengths.values()))
    for step in sorted(lengths):
        rank -= lengths[step]
        if rank <= 0:
            break
    return step
