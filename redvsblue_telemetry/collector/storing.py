"""The storage as its callers see it: the messages it takes, and the promises it makes.

The collector's own writes into a database on this machine. A gateway's publishes to a replicated
log. The ingest, the health of the process and its metrics are the same for both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import msgspec

from .messages import Message

__all__ = [
    "Archive",
    "ArchiveReceipt",
    "Body",
    "Health",
    "MessageTooLargeError",
    "Place",
    "Receipt",
    "Storage",
]

logger = logging.getLogger("redvsblue_telemetry.collector")


class Place(msgspec.Struct, frozen=True):
    """Where a replicated log has a message, and which events are in it."""

    partition: int
    sequence: int
    """Its number in the log."""
    session: str | None
    """The session of its events; None if it has none."""
    numbers: Sequence[tuple[int, int]]
    """Their numbers, as the first and the last one of each range, in ascending order."""


class MessageTooLargeError(Exception):
    """A storage can't take messages of this size; the client has to send smaller ones."""


class Body(msgspec.Struct, gc=False):
    """A message as it came."""

    packed: bytes
    encoding: str | None
    """What it is compressed with; None for text."""


class Receipt(Protocol):
    """A sender that learns the outcome of its messages, on the event loop's thread."""

    is_broken: bool
    """Whether some of its messages could not be stored. After that, none that it has sent is: the
    client sends all of them again, in order. Written and read by the storage; initially False."""

    def stored(self, messages: int, places: Sequence[Place] = ()) -> None:
        """Called when that many more of its messages are stored, in the order of submission.

        Args:
            messages: their number.
            places: where a replicated log has them.
        """

    def failed(self) -> None:
        """Called when some of its messages could not be stored."""


class Storage(Protocol):
    """Stores messages. Called on the event loop's thread."""

    @property
    def last_error(self) -> Exception | None:
        """Why events can't be stored now; None if they can, as far as is known."""

    async def room(self) -> None:
        """Wait while too many bytes wait to be stored."""

    def submit(
        self,
        message: Message,
        size: int,
        receipt: Receipt,
        *,
        is_check: bool = False,
        body: Body | None = None,
    ) -> None:
        """Queue a message to be stored.

        Args:
            message: the message.
            size: the bytes of its text.
            receipt: called with the outcome.
            is_check: whether it is part of a check, and is to be forgotten once it is stored.
            body: the message as it came; None if it can't be unpacked, and so has one rejected part
                and no other.

        Raises:
            MessageTooLargeError: it was not queued.
        """


class ArchiveReceipt(Protocol):
    """A sender that learns when its messages are archived, on the event loop's thread."""

    def archived(self, messages: int) -> None:
        """Called when that many more of its messages are archived, in the order of submission."""

    def failed(self) -> None:
        """Called when some of them never will be, because what was stored is lost."""


class Archive(Protocol):
    """A safer place, which messages reach some time after they are stored."""

    def follow(self, receipt: ArchiveReceipt, messages: int, places: Sequence[Place]) -> None:
        """Have a receipt called when messages are archived that were just stored.

        Args:
            receipt: called with the outcome.
            messages: their number.
            places: where a replicated log has them.
        """

    def forget(self, receipt: ArchiveReceipt) -> None:
        """Call a receipt no more."""


class Health:
    """Whether events can be stored, as the last attempts have shown. Logs each change."""

    def __init__(self) -> None:
        self.last_error: Exception | None = None
        """Why the last attempt failed; None if it didn't."""

    def note_failure(self, error: Exception) -> None:
        """Note that events could not be stored."""
        if str(self.last_error) != str(error):
            logger.error("cannot store events, so none are acknowledged: %s", error)
        self.last_error = error

    def note_success(self) -> None:
        """Note that events were stored."""
        if self.last_error is not None:
            logger.warning("events are being stored again")
            self.last_error = None
