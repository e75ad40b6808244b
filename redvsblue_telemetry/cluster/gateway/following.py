"""Which messages are archived, and which clients wait to hear that theirs are. Pure.

A client hears of its messages in the order in which it sent them, so it waits for the oldest one
that is not archived. That one waits for one partition at a time, and only those who wait for a
partition are looked at when the archive moves on in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from ...collector.storing import ArchiveReceipt, Place

__all__ = ["Following"]


class _Queue:
    """The messages of one client that are not archived, as far as is known, oldest first."""

    def __init__(self, receipt: ArchiveReceipt) -> None:
        self.receipt = receipt
        self.waiting: deque[tuple[int, Sequence[Place]]] = deque()
        self.blocked_by: int | None = None  # the partition that the oldest one waits for


class Following:
    """An :class:`collector.storing.Archive`. Used on the event loop's thread."""

    def __init__(self) -> None:
        self._offsets: dict[int, int] = {}
        self._queues: dict[int, _Queue] = {}  # by the receipt
        self._blocked: dict[int, set[_Queue]] = {}  # by the partition that they wait for
        self.unarchived = 0
        """The messages that clients wait for."""
        self.is_ready = False
        """Whether it knows how far the archive was at the start."""

    @property
    def awaited(self) -> Collection[int]:
        """The partitions that somebody waits for."""
        return self._blocked.keys()

    def follow(self, receipt: ArchiveReceipt, messages: int, places: Sequence[Place]) -> None:
        """Have a receipt called when messages are archived; see the protocol."""
        queue = self._queues.get(id(receipt))
        if queue is None:
            queue = self._queues[id(receipt)] = _Queue(receipt)
        queue.waiting.append((messages, tuple(places)))
        self.unarchived += messages
        if queue.blocked_by is None:
            self._advance(queue)

    def move(self, partition: int, sequence: int) -> None:
        """Note that all messages of a partition up to a sequence number are archived."""
        if sequence <= self._offsets.get(partition, 0):
            return
        self._offsets[partition] = sequence
        for queue in self._blocked.pop(partition, ()):
            queue.blocked_by = None
            self._advance(queue)

    def _advance(self, queue: _Queue) -> None:
        archived = 0
        while queue.waiting and queue.blocked_by is None:
            messages, places = queue.waiting[0]
            queue.blocked_by = next(
                (where for where, number in places if self._offsets.get(where, 0) < number), None
            )
            if queue.blocked_by is None:
                queue.waiting.popleft()
                archived += messages
        if queue.blocked_by is None:
            del self._queues[id(queue.receipt)]
        else:
            self._blocked.setdefault(queue.blocked_by, set()).add(queue)
        self.unarchived -= archived
        if archived:
            queue.receipt.archived(archived)

    def forget(self, receipt: ArchiveReceipt) -> None:
        """Call a receipt no more."""
        queue = self._queues.pop(id(receipt), None)
        if queue is None:
            return
        self.unarchived -= sum(messages for messages, _ in queue.waiting)
        if queue.blocked_by is not None:
            blocked = self._blocked[queue.blocked_by]
            blocked.discard(queue)
            if not blocked:
                del self._blocked[queue.blocked_by]

    def lose_all(self) -> None:
        """Note that what was stored is lost, so that numbers mean other messages from now on."""
        lost = list(self._queues.values())
        self._queues.clear()
        self._blocked.clear()
        self._offsets.clear()
        self.unarchived = 0
        for queue in lost:
            queue.receipt.failed()
