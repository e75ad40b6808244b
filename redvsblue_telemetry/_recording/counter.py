"""A counter that any thread can advance, anywhere, without a lock."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator

__all__ = ["AtomicCounter"]


class AtomicCounter(Iterator[int]):
    """Counts exactly, from any thread, signal handler or ``__del__``.

    It is an iterator over a range: taking the next number is one call into C, which CPython (with
    the GIL) doesn't interrupt, and the length hint (:pep:`424`) reads it without advancing it.
    As an iterator it yields 1, 2, 3, …: the count after each step.
    """

    __slots__ = ("_numbers", "increment")

    def __init__(self) -> None:
        self._numbers = iter(range(1, sys.maxsize))
        self.increment: Callable[[], int] = self._numbers.__next__

    @property
    def value(self) -> int:
        """How many times it was incremented."""
        return sys.maxsize - 1 - operator.length_hint(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return self._numbers

    def __next__(self) -> int:
        return self.increment()
