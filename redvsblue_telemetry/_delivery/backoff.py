"""How long to wait before the next attempt to connect: full jitter, exponentially widening.

A thousand games whose server restarts must not come back in step, so each waits a random time
between zero and a bound that doubles with every attempt. See "Exponential Backoff And Jitter"
(Marc Brooker, AWS Architecture Blog) for why this spreads a herd best.
"""

from __future__ import annotations

from tenacity import RetryCallState, Retrying, wait_random_exponential

__all__ = ["Backoff"]


class Backoff:
    """The delays between attempts. Used by the worker thread alone.

    Args:
        base: the upper bound of the first delay, in seconds.
        maximum: the upper bound that later delays approach, in seconds.
    """

    def __init__(self, base: float, maximum: float) -> None:
        self._wait = wait_random_exponential(multiplier=base, max=maximum)
        self._state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
        self._state.attempt_number = 0

    @property
    def attempts(self) -> int:
        """How many delays were asked for since the last reset."""
        return self._state.attempt_number

    def next_delay(self) -> float:
        """How long to wait now, in seconds: random, within a bound that doubles at each call."""
        self._state.attempt_number += 1
        return self._wait(self._state)

    def reset(self) -> None:
        """Begin anew. Only proof of delivery deserves this; an open connection proves nothing."""
        self._state.attempt_number = 0
