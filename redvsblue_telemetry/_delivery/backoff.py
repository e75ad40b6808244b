"""How long to wait before the next attempt to connect: exponential backoff with full jitter.

A thousand games whose server restarts must not come back in step, so each waits a random time
between zero and a bound that doubles with every attempt. See "Exponential Backoff And Jitter"
(Marc Brooker, AWS Architecture Blog) for why full jitter spreads a herd best.
"""

from __future__ import annotations

from tenacity import RetryCallState, Retrying, wait_random_exponential

__all__ = ["Backoff"]


class Backoff:
    """The delays between attempts. Used by the worker thread only.

    Args:
        base: the upper bound of the first delay, in seconds.
        maximum: the upper bound that later delays approach, in seconds.
    """

    def __init__(self, base: float, maximum: float) -> None:
        self._wait = wait_random_exponential(multiplier=base, max=maximum)
        # tenacity's own loop would call the function and wait by itself. But the worker waits in
        # one place, where a stop or the toggle wakes it, so only tenacity's wait strategy is used.
        # It reads `attempt_number` from the state of a retried call, which is made up here.
        self._state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
        self._state.attempt_number = 0

    def next_delay(self) -> float:
        """Return how long to wait now, in seconds: random, up to a bound that doubles per call."""
        self._state.attempt_number += 1
        return self._wait(self._state)

    def reset(self) -> None:
        """Start over. Only for proof of delivery: an open connection proves nothing."""
        self._state.attempt_number = 0
