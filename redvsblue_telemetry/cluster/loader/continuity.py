"""Finds out whether a message that the stream does not show any more was lost.

A stream that loses messages gives their numbers to other ones. That must not happen, and it does:
when too many servers lose their disks at once, or one comes back from an old copy (nats-server
issue 7545). A loader that went on at its number would leave out the messages that now have lower
ones, and nobody would ever know.

So a loader reads the last message that it knows again, with the next ones, and compares: each
partition on its own. The lake keeps what that message is recognized by, so the next loader of the
partition compares, too. What was lost has been the end of the stream. So if that message is still
there, all before it are. If it isn't, all that the stream has of the partition is read again, in
another epoch; see :mod:`.places`. The events that are in the lake already are repeats.
"""

from __future__ import annotations

import asyncio

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from ..stream import STREAM, subject

__all__ = ["Continuity"]


class Continuity:
    """Distinguishes deleted messages from lost ones.

    Args:
        jetstream: reaches the leader of the stream.
    """

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream

    async def was_lost(self, partition: int, sequence: int) -> bool | None:
        """Return whether a message that is missing was lost, and not deleted; None if not known.

        Messages are deleted from the beginning of the stream: those that are in the lake. A replica
        that was cut off from the others may not have it yet, so the leader is asked.
        """
        try:
            info = await self._jetstream.stream_info(STREAM)
            if info.state.first_seq > sequence:
                return False
            try:
                message = await self._jetstream.get_msg(STREAM, sequence)
            except NotFoundError:
                return True
        except (nats.errors.Error, OSError, asyncio.TimeoutError):
            return None
        return None if message.subject == subject(partition) else True
