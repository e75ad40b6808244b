"""All that a loader does to the lake. Used on one thread, where it may take its time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

import msgspec

from ..._shared import monotonic
from ..lake.collecting import Check, Rows
from ..lake.errors import LakeError, LostPartitionsError
from ..lake.lake import Claim, Lake
from ..stream import Answer
from .partitions import LastMessage, Taken
from .places import sequence_of

__all__ = ["Commit", "LakeError", "LostPartitionsError", "Stored", "Storing"]


_MOST_RANGES = 256  # of a session's numbers in an answer


class Stored(msgspec.Struct):
    """The outcome of a commit."""

    messages: int = 0
    events: int = 0
    repeats: int = 0
    """Events that were stored before."""
    rejected: int = 0
    faulty: int = 0
    """Those of the new events that do not fit the schema."""
    seconds: float = 0.0
    """How long the commit took."""
    last: dict[int, LastMessage] = {}
    """The last message of each partition that is now in the lake."""


class Commit(msgspec.Struct):
    """A commit that can be tried again and again."""

    rows: Rows
    stored: Stored


class Storing:
    """Writes the messages that the loader has read.

    Args:
        url: of the lake.
        identity: of the stream.
        check: finds the faults of events; without it, no event has one.
    """

    def __init__(self, url: str, identity: str, check: Check | None) -> None:
        self._url = url
        self._identity = identity
        self._check = check
        self._lake: Lake | None = None
        self._claim: Claim | None = None

    def answers(self) -> bool:
        """Return whether the lake answers at all; for any thread."""
        return Lake.answers(self._url)

    def open(self) -> str:
        """Open the lake, or make it; return its id.

        Raises:
            LakeError: that can't be done.
        """
        self._lake = Lake.open(self._url)
        return self._lake.id

    def claim(self, partitions: Iterable[int]) -> dict[int, LastMessage]:
        """Return the last message of each partition that is in the lake.

        Raises:
            LakeError: the lake can't be read.
        """
        numbers = [*partitions]
        if self._lake is None:
            self._lake = Lake.open(self._url)
        claim = self._claim
        if claim is None:
            claim = self._claim = self._lake.claim(self._identity, numbers)
        else:
            claim.add(numbers)
        return {each: LastMessage(claim.offset(each), claim.stored_at(each)) for each in numbers}

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget partitions, and commits to them that were prepared and not made."""
        if self._claim is not None:
            self._claim.release(partitions)

    def stored(self, partition: int, sessions: Mapping[str, int], *, is_all: bool) -> Answer | None:
        """Return which numbers of sessions are in the lake; None while that is not certain.

        Args:
            partition: that of the sessions.
            sessions: the lowest number of interest, of each session.
            is_all: whether the stream has nothing else of the partition.
        """
        claim = self._claim
        if claim is None or partition not in claim.partitions:
            return None
        if partition in claim.rows().sequences:  # they count as stored, and are not yet
            return None
        numbers = {}
        for session, first in sessions.items():
            ranges = claim.numbers(session, partition).ranges if session else []
            begin = bisect_left(ranges, first, key=lambda each: each[1])
            numbers[session] = ranges[begin : begin + _MOST_RANGES]
        return Answer(sequence_of(claim.offset(partition)), is_all, numbers)

    def prepare(self, taken: Taken) -> Commit:
        """Return the commit of some messages.

        After that, the numbers of their events count as stored: commit it, or forget the
        partitions.
        """
        assert self._claim is not None
        rows = self._claim.rows()
        stored = Stored(len(taken.messages), last=taken.last)
        for each in taken.messages:
            added = rows.add(
                each.partition, each.sequence, each.received, each.message, self._check
            )
            stored.events += added.events
            stored.repeats += added.repeats
            stored.rejected += added.rejected
            stored.faulty += added.faults
        return Commit(rows, stored)

    def commit(self, commit: Commit) -> Stored:
        """Append to the lake; all of it, or nothing.

        Raises:
            LostPartitionsError: another loader has some of the partitions.
            LakeError: the lake can't be written; nothing was stored, and it can be tried again.
        """
        assert self._lake is not None
        assert self._claim is not None
        began = monotonic()
        last = commit.stored.last
        self._lake.append(
            self._claim,
            commit.rows,
            {number: each.place for number, each in last.items()},
            {number: each.stored_at for number, each in last.items()},
        )
        commit.stored.seconds = monotonic() - began
        return commit.stored
