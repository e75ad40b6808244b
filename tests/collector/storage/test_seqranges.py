"""Which numbers have come: a set, of which little is in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry.collector.storage.seqranges import SeqRanges, gaps


class Kept:
    """A table of runs in a dict."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}

    def find(self, number: int) -> tuple[int, int] | None:
        first = max((first for first in self.rows if first <= number), default=None)
        return None if first is None else (first, self.rows[first])

    def put(self, first: int, last: int) -> None:
        self.rows[first] = last

    def remove(self, first: int) -> None:
        self.rows.pop(first, None)


def runs_of(numbers: set[int]) -> list[tuple[int, int]]:
    """The same by other means."""
    firsts = sorted(number for number in numbers if number - 1 not in numbers)
    lasts = sorted(number for number in numbers if number + 1 not in numbers)
    return list(zip(firsts, lasts, strict=True))


def test_numbers_in_order_are_one_run() -> None:
    table = Kept()
    runs = SeqRanges(table)
    assert all(runs.add(number) for number in range(1, 1000))
    runs.save()
    assert table.rows == {1: 999}
    assert (runs.highest, runs.has_zero) == (999, False)


def test_a_repeat_is_not_new() -> None:
    runs = SeqRanges(Kept())
    assert [runs.add(number) for number in (1, 2, 3, 2, 1, 3, 4)] == [True] * 3 + [False] * 3 + [
        True
    ]


def test_a_late_number_closes_its_gap() -> None:
    table = Kept()
    runs = SeqRanges(table)
    for number in (1, 2, 4, 6, 7):
        runs.add(number)
    assert runs.add(3)
    assert not runs.add(3)
    assert runs.add(5)
    runs.save()
    assert table.rows == {1: 7}


def test_the_empty_set_has_no_highest_number() -> None:
    runs = SeqRanges(Kept())
    runs.save()
    assert (runs.highest, runs.has_zero) == (0, False)


@pytest.mark.parametrize("order", [(0, 5), (5, 0), (0, 1, 5), (1, 0), (2, 0, 1)])
def test_zero_is_a_number_too(order: tuple[int, ...]) -> None:
    table = Kept()
    runs = SeqRanges(table)
    assert all(runs.add(number) for number in order)
    assert runs.has_zero
    assert not runs.add(0)
    runs.save()
    assert SeqRanges(table).has_zero


def test_the_largest_numbers_there_are() -> None:
    table, largest = Kept(), 2**63 - 1
    runs = SeqRanges(table)
    assert [runs.add(n) for n in (largest, largest - 2, largest - 1, largest)] == [True] * 3 + [
        False
    ]
    runs.save()
    assert table.rows == {largest - 2: largest}


numbers = st.lists(st.integers(0, 40) | st.integers(0, 2**63 - 1), max_size=60)


@given(numbers, st.integers(1, 20))
def test_it_is_a_set(numbers: list[int], saved_each: int) -> None:
    table, seen = Kept(), set[int]()
    runs = SeqRanges(table)
    for count, number in enumerate(numbers, start=1):
        assert runs.add(number) == (number not in seen)
        seen.add(number)
        assert runs.highest == max(seen)
        assert runs.has_zero == (0 in seen)
        if count % saved_each == 0:
            runs.save()
            assert sorted(table.rows.items()) == runs_of(seen)
            if count % 2:  # forgotten, and read again
                runs = SeqRanges(table)
    runs.save()
    assert sorted(table.rows.items()) == runs_of(seen)


@given(st.sets(st.integers(0, 40)))
def test_gaps_are_what_is_missing_from_1_on(numbers: set[int]) -> None:
    missing = {n for first, last in gaps(runs_of(numbers)) for n in range(first, last + 1)}
    assert missing == set(range(1, max(numbers, default=0) + 1)) - numbers
