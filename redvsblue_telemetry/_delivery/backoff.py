"""How long to wait before the next attempt to connect: exponential backoff with full jitter.

A thousand games whose server restarts must not come back in step, so each waits a random time
between zero and a bound that doubles with every attempt. See "Exponential Backoff And Jitter"
(Marc Brooker, AWS Architecture Blog) for why full jitter spreads a herd best.
"""

from __future__ import annotations

import random

from .._packages import check

check("tenacity", "tenacity", "wait_exponential")

from tenacity import RetryCallState, Retrying, wait_exponential  # noqa: E402 (it is checked first)

__all__ = ["Backoff"]


class Backoff:
    """The delays between attempts. Used by the worker thread only.

    Args:
        base: the upper bound of the first delay, in seconds.
        maximum: the upper bound that later delays approach, in seconds.
    """

    def __init__(self, base: float, maximum: float) -> None:
        self._bound = wait_exponential(multiplier=base, max=maximum)
        # tenacity's own loop would call the function and wait by itself. But the worker waits in
        # one place, where a stop or the toggle wakes it, so only tenacity's wait strategy is used.
        # It reads `attempt_number` from the state of a retried call, which is made up here.
        self._state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
        self._state.attempt_number = 0
        # Not tenacity's wait_random_exponential, which draws from the generator of the module
        # `random`. That one is the game's: a draw would change every later roll of a seeded game,
        # and games with one seed, or forked from one process, would reconnect in step.
        self._random = random.SystemRandom()

    def next_delay(self) -> float:
        """Return how long to wait now, in seconds: random, up to a bound that doubles per call."""
        self._state.attempt_number += 1
        return self._random.uniform(0, self._bound(self._state))

    def reset(self) -> None:
        """Start over. Only for proof of delivery: an open connection proves nothing."""
        self._state.attempt_number = 0
