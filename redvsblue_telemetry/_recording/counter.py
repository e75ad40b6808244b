"""A counter that any thread can advance, anywhere, without a lock."""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Callable, Iterator

__all__ = ["IS_FREE_THREADED", "AtomicCounter"]

# The build counts, not whether the GIL is on at the moment: importing an extension module can turn
# it on for a while, and PYTHON_GIL=1 for good, and the code for these builds is right either way.
# Not from sysconfig, which is slow to import and which bundlers leave out.
IS_FREE_THREADED = "free-threading build" in sys.version
"""Whether this build of Python can run without the GIL."""

_IS_A_COUNT = IS_FREE_THREADED or sys.platform == "win32"
_BEFORE_THE_NUMBER = len("count(")


class AtomicCounter(Iterator[int]):
    """Counts exactly, from any thread, signal handler or ``__del__``.

    It is an iterator over a range: taking the next number is one call into C, which CPython (with
    the GIL) doesn't interrupt, and the length hint (:pep:`424`) reads it without advancing it.
    Without the GIL, two threads can get the same number from such an iterator, and an
    ``itertools.count`` takes its place, for which it is one step. Only its ``repr`` reads that one
    without advancing it, since Python 3.14 has removed ``__reduce__`` from itertools. With the GIL
    it would do as well, but make an emit into a full store 0.7 % dearer.

    On Windows it takes the range's place, too: a C long has 32 bits there, and the iterator over a
    longer range computes with Python's integers, which fails at the recursion limit.

    As an iterator it yields 1, 2, 3, …: the count after each step.
    """

    __slots__ = ("_numbers", "increment")

    def __init__(self) -> None:
        self._numbers: Iterator[int] = (
            itertools.count(1) if _IS_A_COUNT else iter(range(1, sys.maxsize))
        )
        self.increment: Callable[[], int] = self._numbers.__next__

    @property
    def value(self) -> int:
        """How many times it was incremented."""
        if _IS_A_COUNT:
            return int(repr(self._numbers)[_BEFORE_THE_NUMBER:-1]) - 1
        return sys.maxsize - 1 - operator.length_hint(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return self._numbers

    def __next__(self) -> int:
        return self.increment()
