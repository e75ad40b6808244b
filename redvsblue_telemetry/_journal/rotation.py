"""Rotation: how the next segment becomes the active one, without a lock.

Two single calls into C do it, which CPython (with the GIL) never interrupts, and nothing can come
between their parts:

* :meth:`Rotation.line_up` appends a new segment to the spares *and* to the segments ahead, unless
  one with a higher number is there already, which another thread has made in the meantime. The
  header of each file names the one before it, so an unused number leaves no gap.
* :meth:`Rotation.publish` takes the first spare *and* makes it the active one, unless another
  thread has made one active in the meantime.

So segments become active in the order of their numbers, which are those of their files, and each
only when the one before it is full. A segment is *reached* when it has been published.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from collections import deque
from collections.abc import Callable
from itertools import chain, compress, repeat
from typing import Any

from .._recording.counter import IS_FREE_THREADED, AtomicCounter
from .._recording.store import Journal
from .segment import Segment

__all__ = ["Rotation", "refuse"]

Write = Callable[[bytes], object]


def refuse(_: bytes) -> object:
    """Be the ``write`` while there is no active segment."""
    raise ValueError("there is no segment yet")


class Rotation:
    """The active segment, the spares, and which segments are ahead. Any thread may use it.

    Args:
        journal: where ``emit`` finds the active segment. It has none at first.
    """

    def __init__(self, journal: Journal) -> None:
        # Written by any thread, each by one uninterruptible call (see above).
        self._journal = journal
        self._numbers = AtomicCounter()
        self._newest = deque([0], maxlen=1)
        self._spares: deque[Write] = deque()
        self.ahead: deque[Segment] = deque()
        """The spares, and before them the segments that are reached and not counted yet."""
        self._steps: contextlib.AbstractContextManager[object] = (
            threading.RLock() if IS_FREE_THREADED else contextlib.nullcontext()
        )
        journal.write = refuse

    def next_number(self) -> int:
        """Return the number for a new segment."""
        return self._numbers.increment()

    @property
    def newest(self) -> int:
        """The number of the last segment that was lined up."""
        return self._newest[0]

    @property
    def spares(self) -> int:
        """How many segments are ready."""
        return len(self._spares)

    @property
    def reached(self) -> Segment | None:
        """The first of the segments ahead, if it has been reached."""
        if not self.ahead or self.ahead[0].write in self._spares:
            return None
        return self.ahead[0]

    def move_reached(self, to: deque[Segment]) -> None:
        """Move the first of the segments ahead to the end of a deque, in one step."""
        to.extend(map(deque[Segment].popleft, (self.ahead,)))

    def line_up(self, segment: Segment) -> bool:
        """Append a segment to the spares, unless a later one is there; return whether it is."""
        lines: tuple[deque[Any], ...] = (self._newest, self.ahead, self._spares)
        while (previous := self._newest[0]) < segment.number:
            segment.follow(previous)
            appends = map(deque[Any].append, lines, (segment.number, segment, segment.write))
            newest = map(operator.itemgetter(0), (self._newest,))
            is_unchanged = map(operator.eq, (previous,), newest)
            in_line = chain.from_iterable(compress((appends,), is_unchanged))
            with self._steps:
                if list(in_line):  # one call into C
                    return True
        return False

    def publish(self, former: Write) -> bool:
        """Make the first spare the active segment; return whether there was one.

        Does nothing if the former one is not the active one any more.
        """
        spares = map(deque[Write].popleft, (self._spares,))
        publication = map(setattr, repeat(self._journal), repeat("write"), spares)
        active = map(operator.attrgetter("write"), (self._journal,))
        is_unchanged = map(operator.is_, active, (former,))
        published = chain.from_iterable(compress((publication,), is_unchanged))
        with self._steps:
            try:
                list(published)  # one call into C
            except IndexError:
                return False
        return True

    def retire_all(self) -> None:
        """Have no active segment and no spare. In this order, since others may publish a spare."""
        with self._steps:
            self._spares.clear()
            self._journal.write = refuse
