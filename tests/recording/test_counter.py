from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from itertools import chain, islice

import pytest

from redvsblue_telemetry._recording.counter import AtomicCounter
from tests.support.systems import needs_timers


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    """Python switches threads as often as it can, so that what can go wrong between them does."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def test_starts_at_zero() -> None:
    assert AtomicCounter().value == 0


def test_counts_each_increment() -> None:
    tally = AtomicCounter()
    for _ in range(3):
        tally.increment()
    assert tally.value == 3


def test_increment_returns_the_count_after_it() -> None:
    tally = AtomicCounter()
    assert [tally.increment(), tally.increment(), tally.increment()] == [1, 2, 3]


def test_reading_it_does_not_advance_it() -> None:
    tally = AtomicCounter()
    tally.increment()
    assert [tally.value, tally.value, tally.value] == [1, 1, 1]


def test_as_an_iterator_it_counts_too() -> None:
    tally = AtomicCounter()
    assert next(tally) == 1
    assert list(islice(tally, 3)) == [2, 3, 4]
    assert tally.value == 4


def test_two_tallies_count_apart() -> None:
    one, other = AtomicCounter(), AtomicCounter()
    one.increment()
    assert (one.value, other.value) == (1, 0)


@pytest.mark.usefixtures("impatient_threads")
def test_no_increment_is_lost_or_given_twice_among_threads() -> None:
    tally = AtomicCounter()
    counts: list[list[int]] = [[] for _ in range(4)]
    start = threading.Barrier(4)

    def count(mine: list[int]) -> None:
        start.wait()
        mine.extend(tally.increment() for _ in range(20_000))

    threads = [threading.Thread(target=count, args=(mine,)) for mine in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert tally.value == 80_000
    assert sorted(chain(*counts)) == list(range(1, 80_001))
    assert all(mine == sorted(mine) for mine in counts)


@needs_timers
def test_a_signal_handler_counts_in_the_midst_of_counting() -> None:
    tally = AtomicCounter()
    signals = 0

    def handler(*_: object) -> None:
        nonlocal signals
        signals += 1
        tally.increment()

    # Not ITIMER_REAL, which is the test run's own watchdog.
    previous = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
    own = 0
    try:
        while signals < 50:
            tally.increment()
            own += 1
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)

    assert tally.value == own + signals
