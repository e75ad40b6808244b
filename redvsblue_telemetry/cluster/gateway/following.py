"""Which messages are archived, and which clients wait to hear that theirs are. Does no I/O.

A client hears of its messages in the order in which it sent them, so it waits for the oldest one
that is not archived. That one waits for one partition at a time, and only those who wait for a
partition are looked at when its loader has answered.

A message is archived when the lake has the numbers of its events. Its place in the stream does not
prove that: the stream may have lost the message, and given its place to another one. If the lake
has gone past its place without its numbers, it is lost, or the stream has lost others and a loader
has not read it again yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from ..._shared import monotonic
from ...collector.storing import ArchiveReceipt, Place
from ..stream import Answer, Ranges

__all__ = ["Following"]

_PATIENCE = 20.0  # seconds in which loaders have noticed that the stream has lost messages
_MOST_SESSIONS = 64  # of a client, whose numbers are remembered


class _Waiting(msgspec.Struct):
    """Messages that were stored together."""

    messages: int
    places: list[Place]
    """Those that are not archived, as far as is known."""
    since: float


class _Queue:
    """The messages of one client that are not archived, as far as is known, oldest first."""

    def __init__(self, receipt: ArchiveReceipt) -> None:
        self.receipt = receipt
        self.waiting: deque[_Waiting] = deque()
        self.archived: dict[str, Ranges] = {}  # numbers of its sessions

    @property
    def blocked_by(self) -> Place:
        """The place that the oldest message waits for."""
        return self.waiting[0].places[-1]


class Following:
    """An :class:`collector.storing.Archive`. Used on the event loop's thread.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._sequences: dict[int, int] = {}  # the last one in the lake, by partition
        self._queues: dict[int, _Queue] = {}  # by the receipt
        self._blocked: dict[int, set[_Queue]] = {}  # by the partition that they wait for
        self.unarchived = 0
        """The messages that clients wait for."""

    @property
    def awaited(self) -> Collection[int]:
        """The partitions that somebody waits for."""
        return self._blocked.keys()

    def sessions(self, partition: int) -> dict[str, int]:
        """Return the sessions that somebody waits for in a partition, and their lowest numbers.

        The one without a name stands for messages that have no events.
        """
        sessions: dict[str, int] = {}
        for queue in self._blocked.get(partition, ()):
            session, first = _key(queue.blocked_by)
            sessions[session] = min(first, sessions.get(session, first))
        return sessions

    def follow(self, receipt: ArchiveReceipt, messages: int, places: Sequence[Place]) -> None:
        """Have a receipt called when messages are archived; see the protocol."""
        queue = self._queues.get(id(receipt))
        if queue is None:
            queue = self._queues[id(receipt)] = _Queue(receipt)
        queue.waiting.append(_Waiting(messages, [*places], self._clock()))
        self.unarchived += messages
        if len(queue.waiting) == 1:
            self._advance(queue)

    def learn(self, partition: int, asked: Mapping[str, int], answer: Answer) -> int:
        """Learn from the loader of a partition what is in the lake.

        Args:
            partition: the partition.
            asked: some of those that :meth:`sessions` had returned.
            answer: the answer to that.

        Returns:
            How many clients have failed, since messages are lost.
        """
        self._sequences[partition] = answer.sequence
        lost = 0
        for queue in self._blocked.pop(partition, ()):
            session, _ = _key(queue.blocked_by)
            if session in answer.numbers:
                if len(queue.archived) >= _MOST_SESSIONS:
                    queue.archived.clear()
                queue.archived[session] = answer.numbers[session]
            self._advance(queue)
            if queue.waiting and self._is_lost(queue.waiting[0], partition, asked, answer):
                self.forget(queue.receipt)
                queue.receipt.failed()
                lost += 1
        return lost

    def _advance(self, queue: _Queue) -> None:
        archived = 0
        while queue.waiting:
            oldest = queue.waiting[0]
            while oldest.places and self._has(queue, oldest.places[-1]):
                oldest.places.pop()
            if oldest.places:
                self._blocked.setdefault(queue.blocked_by.partition, set()).add(queue)
                break
            archived += queue.waiting.popleft().messages
        if not queue.waiting:
            del self._queues[id(queue.receipt)]
        self.unarchived -= archived
        if archived:
            queue.receipt.archived(archived)

    def _has(self, queue: _Queue, place: Place) -> bool:
        """Return whether a message is in the lake. Of one without events, its place has to do."""
        if place.session is None or not place.numbers:
            return self._sequences.get(place.partition, 0) >= place.sequence
        archived = queue.archived.get(place.session, ())
        return all(
            any(low <= first and last <= high for low, high in archived)
            for first, last in place.numbers
        )

    def _is_lost(
        self, oldest: _Waiting, partition: int, asked: Mapping[str, int], answer: Answer
    ) -> bool:
        place = oldest.places[-1]
        session, first = _key(place)
        if place.partition != partition or asked.get(session, first + 1) > first:
            return False  # the answer is about others
        is_passed = place.sequence <= answer.sequence or answer.is_all
        return is_passed and self._clock() - oldest.since >= _PATIENCE

    def forget(self, receipt: ArchiveReceipt) -> None:
        """Call a receipt no more."""
        queue = self._queues.pop(id(receipt), None)
        if queue is None:
            return
        self.unarchived -= sum(each.messages for each in queue.waiting)
        partition = queue.blocked_by.partition
        self._blocked[partition].discard(queue)
        if not self._blocked[partition]:
            del self._blocked[partition]

    def lose_all(self) -> None:
        """Note that what was stored may be lost: those who wait have to send it again."""
        lost = list(self._queues.values())
        self._queues.clear()
        self._blocked.clear()
        self._sequences.clear()
        self.unarchived = 0
        for queue in lost:
            queue.receipt.failed()


def _key(place: Place) -> tuple[str, int]:
    """Return the session of a place and its lowest number; those of an inquiry."""
    if place.session is None or not place.numbers:
        return "", 0
    return place.session, place.numbers[0][0]
