"""Delays: their bounds, their jitter, their reset."""

from __future__ import annotations

import random
from statistics import mean

import pytest

from redvsblue_telemetry.backoff import Backoff


@pytest.mark.parametrize(("base", "maximum"), [(1.0, 30.0), (0.1, 0.5), (5.0, 2.0)])
def test_each_delay_is_within_a_bound_that_doubles_up_to_the_maximum(
    base: float, maximum: float
) -> None:
    for seed in range(200):
        random.seed(seed)
        backoff = Backoff(base, maximum)
        for attempt in range(12):
            assert 0 <= backoff.next_delay() <= min(maximum, base * 2**attempt)


def test_the_jitter_is_full() -> None:
    random.seed(7)
    delays = []
    for _ in range(2000):
        backoff = Backoff(1.0, 30.0)
        backoff.next_delay()
        backoff.next_delay()
        delays.append(backoff.next_delay())
    assert min(delays) < 0.2
    assert max(delays) > 3.8
    assert 1.8 < mean(delays) < 2.2


def test_a_reset_begins_anew() -> None:
    backoff = Backoff(1.0, 30.0)
    for _ in range(10):
        backoff.next_delay()
    assert backoff.attempts == 10
    backoff.reset()
    assert backoff.attempts == 0
    assert backoff.next_delay() <= 1.0


def test_a_thousand_attempts_do_not_overflow() -> None:
    backoff = Backoff(1.0, 30.0)
    assert all(0 <= backoff.next_delay() <= 30 for _ in range(5000))
