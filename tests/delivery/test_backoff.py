"""More of the delays: numbers of any size, and no clock."""

from __future__ import annotations

import random
import statistics

import pytest
from freezegun import freeze_time

from redvsblue_telemetry._delivery.backoff import Backoff


def bounds(base: float, maximum: float, attempts: int) -> list[float]:
    """The longest delay seen of each attempt, over many games."""
    longest = [0.0] * attempts
    for seed in range(400):
        random.seed(seed)
        backoff = Backoff(base, maximum)
        longest = [max(seen, backoff.next_delay()) for seen in longest]
    return longest


def test_the_bound_doubles_and_then_stays() -> None:
    for seen, bound in zip(bounds(1.0, 8.0, 7), [1, 2, 4, 8, 8, 8, 8], strict=True):
        assert 0.9 * bound < seen <= bound


@pytest.mark.parametrize("attempt", [1, 3, 10])
def test_the_delays_are_spread_evenly(attempt: int) -> None:
    delays = []
    for seed in range(1000):
        random.seed(seed)
        backoff = Backoff(1.0, 8.0)
        for _ in range(attempt - 1):
            backoff.next_delay()
        delays.append(backoff.next_delay())
    bound = min(8.0, 2.0 ** (attempt - 1))
    quarters = [sum(1 for d in delays if int(4 * d / bound) == q) for q in range(4)]
    assert all(180 < count < 320 for count in quarters), quarters
    assert abs(statistics.mean(delays) - bound / 2) < 0.06 * bound
    assert len(set(delays)) > 990


@pytest.mark.parametrize(
    ("base", "maximum"), [(1e-9, 1e-6), (1e300, 1e300), (1.0, 1e308), (30.0, 1.0)]
)
def test_no_number_of_attempts_and_no_size_overflows(base: float, maximum: float) -> None:
    backoff = Backoff(base, maximum)
    for _ in range(3000):
        assert 0 <= backoff.next_delay() <= maximum


def test_a_reset_bounds_the_next_delay_by_the_base_again() -> None:
    for seed in range(200):
        random.seed(seed)
        backoff = Backoff(1.0, 1000.0)
        for _ in range(10):
            backoff.next_delay()
        backoff.reset()
        assert backoff.next_delay() <= 1.0


def test_time_plays_no_part() -> None:
    with freeze_time("2025-01-02") as clock:
        backoff = Backoff(1.0, 8.0)
        for _ in range(5):
            clock.tick(1e6)
            backoff.next_delay()
        random.seed(1)
        late = backoff.next_delay()
    random.seed(1)
    assert late == random.uniform(0, 8.0)
