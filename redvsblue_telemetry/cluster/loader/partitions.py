"""The partitions that a loader has claimed, and their messages. Knows no clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from .places import epoch_of, first_of_epoch
from .reading import Received

__all__ = ["LastMessage", "Limits", "Partition", "Taken", "take"]


class Limits(msgspec.Struct, frozen=True):
    """When to commit, and when to read no more."""

    interval: float = 2.0
    """Seconds that a message may wait for a commit to begin."""
    events: int = 50_000
    """So many events are committed without a wait."""
    size: int = 16 * 1024 * 1024
    """So many bytes of text are committed without a wait."""


class LastMessage(NamedTuple):
    """The last message of a partition that was read, or that is in the lake."""

    place: int
    """See :mod:`.places`; 0 if there is none."""
    stored_at: int | None = None
    """When the stream stored it, by which it is recognized; None if that isn't known."""


class Partition:
    """One partition. Written on the event loop's thread.

    Args:
        number: its number.
        last: its last message in the lake.
    """

    def __init__(self, number: int, last: LastMessage) -> None:
        self.number = number
        self.last = last
        """Its last message that was read."""
        self.missing_since: float | None = None
        """Since when the stream does not show that message; None if it does."""
        self.is_at_end = False
        """Whether the stream had no message after that one, when it was last asked."""
        self.pending = 0
        """How many messages the stream has after that one."""
        self.waiting: list[Received] = []
        """Messages that were read, and are in no commit yet."""
        self.uncommitted = 0
        """How many messages were read and are not in the lake yet."""
        self.oldest = 0
        """When a gateway received the oldest message that is not committed; 0 if all are."""
        self.is_draining = False
        """Whether it is read no further."""

    def add(self, message: Received) -> None:
        """Take in the next message."""
        self.oldest = self.oldest or message.received
        self.last = LastMessage(message.sequence, message.stored_at)
        self.missing_since = None
        self.waiting.append(message)
        self.uncommitted += 1

    def commit(self) -> None:
        """Note that the messages that were taken out are in the lake."""
        self.uncommitted = len(self.waiting)
        self.oldest = self.waiting[0].received if self.waiting else 0

    @property
    def is_drained(self) -> bool:
        """Whether it can be freed."""
        return self.is_draining and not self.uncommitted

    def begin_anew(self) -> None:
        """Have all messages of the stream read again."""
        self.last = LastMessage(first_of_epoch(epoch_of(self.last.place) + 1))
        self.missing_since = None


class Taken(msgspec.Struct):
    """The messages of one commit."""

    messages: list[Received]
    last: dict[int, LastMessage]
    """The last message of each partition that has one."""


def take(partitions: Iterable[Partition]) -> Taken:
    """Take the messages that wait, in the order in which they came into the stream."""
    taken = Taken([], {})
    for partition in partitions:
        if partition.waiting:
            taken.messages += partition.waiting
            newest = partition.waiting[-1]
            taken.last[partition.number] = LastMessage(newest.sequence, newest.stored_at)
            partition.waiting = []
    taken.messages.sort(key=lambda message: message.sequence)
    return taken
