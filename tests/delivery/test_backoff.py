"""The delays: numbers of any size, no clock, and a generator that nobody else uses."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys

import pytest
from freezegun import freeze_time

from redvsblue_telemetry._delivery.backoff import Backoff


def bounds(base: float, maximum: float, attempts: int) -> list[float]:
    """The longest delay seen of each attempt, over many games."""
    longest = [0.0] * attempts
    for _ in range(400):
        backoff = Backoff(base, maximum)
        longest = [max(seen, backoff.next_delay()) for seen in longest]
    return longest


def test_the_bound_doubles_and_then_stays() -> None:
    for seen, bound in zip(bounds(1.0, 8.0, 7), [1, 2, 4, 8, 8, 8, 8], strict=True):
        assert 0.9 * bound < seen <= bound


@pytest.mark.parametrize("attempt", [1, 3, 10])
def test_the_delays_are_spread_evenly(attempt: int) -> None:
    delays = []
    for _ in range(1000):
        backoff = Backoff(1.0, 8.0)
        for _ in range(attempt - 1):
            backoff.next_delay()
        delays.append(backoff.next_delay())
    bound = min(8.0, 2.0 ** (attempt - 1))
    quarters = [sum(1 for d in delays if int(4 * d / bound) == q) for q in range(4)]
    # Nobody can seed this generator. These bounds are 7 standard deviations away.
    assert all(150 < count < 350 for count in quarters), quarters
    assert abs(statistics.mean(delays) - bound / 2) < 0.07 * bound
    assert len(set(delays)) > 990


@pytest.mark.parametrize(
    ("base", "maximum"), [(1e-9, 1e-6), (1e300, 1e300), (1.0, 1e308), (30.0, 1.0)]
)
def test_no_number_of_attempts_and_no_size_overflows(base: float, maximum: float) -> None:
    backoff = Backoff(base, maximum)
    for _ in range(3000):
        assert 0 <= backoff.next_delay() <= maximum


def test_a_reset_bounds_the_next_delay_by_the_base_again() -> None:
    for _ in range(200):
        backoff = Backoff(1.0, 1000.0)
        for _ in range(10):
            backoff.next_delay()
        backoff.reset()
        assert backoff.next_delay() <= 1.0


def test_time_plays_no_part() -> None:
    with freeze_time("2025-01-02") as clock:
        longest = 0.0
        for _ in range(100):
            backoff = Backoff(1.0, 8.0)
            for _ in range(5):
                clock.tick(1e6)
                longest = max(longest, backoff.next_delay())
    assert 4.0 < longest <= 8.0


def test_two_games_with_one_seed_do_not_wait_equally_long() -> None:
    delays = []
    for _ in range(2):
        random.seed(42)
        delays.append([Backoff(1.0, 8.0).next_delay() for _ in range(5)])
    assert delays[0] != delays[1]


A_GAME = """
import random, socket, sys

random.seed(42)
if sys.argv[1] == "on":
    import redvsblue_telemetry

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        telemetry = redvsblue_telemetry.start_telemetry(
            enabled=True,
            url=f"ws://127.0.0.1:{server.getsockname()[1]}/",
            backoff_base=0.001,
            backoff_max=0.001,
        )
        telemetry.emit("x")
        for _ in range(4):  # so it has waited three times
            server.accept()[0].close()
        telemetry.stop(0)
print([random.randint(1, 6) for _ in range(20)])
"""


def test_a_seeded_game_rolls_the_same_dice_with_telemetry_and_without() -> None:
    rolls = [
        subprocess.run(
            [sys.executable, "-c", A_GAME, switch],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
        for switch in ("off", "on")
    ]
    assert rolls[0]
    assert rolls[1] == rolls[0]
