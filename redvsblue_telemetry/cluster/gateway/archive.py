"""Learns from the loaders how far the lake has come.

They write it into a bucket of the stream's key-value store, which is a stream itself: so each new
value is a message that a plain subscription gets. It can miss one, while it is not connected. So
the values of the partitions that somebody waits for are read now and then, too.

All of them are read before the first client may wait. If the stream has lost messages and uses
their numbers again, the archive may seem to be ahead of it. The link notices that at the next
message, since it knows the numbers by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from nats.aio.msg import Msg

from ..stream import ARCHIVED_BUCKET, archived_subject
from .following import Following
from .link import Link, StreamError

__all__ = ["ArchiveWatch"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_INTERVAL = 1.0  # seconds


class ArchiveWatch:
    """Moves the followed partitions on. Used on the event loop's thread.

    Args:
        link: the connection to the stream.
        following: learns of it.
    """

    def __init__(self, link: Link, following: Following) -> None:
        self._link = link
        self._following = following

    async def run(self) -> None:
        """Watch until canceled."""
        while True:
            await self.look()
            await asyncio.sleep(_INTERVAL)

    async def look(self) -> None:
        """Look once, as far as that is possible now."""
        try:
            await self._read()
        except StreamError:  # the storage reports it
            pass
        except Exception:
            logger.exception("internal error in the collector")

    async def _read(self) -> None:
        await self._link.listen(archived_subject("*"), self._hear)
        following, state = self._following, self._link.state
        if state is None:
            return
        for partition in tuple(
            following.awaited if following.is_ready else range(state.partitions)
        ):
            value = await self._link.value(ARCHIVED_BUCKET, archived_subject(partition))
            self._note(partition, value)
        following.is_ready = True

    async def _hear(self, message: Msg) -> None:
        with contextlib.suppress(ValueError):
            self._note(int(message.subject.rpartition(".")[2]), message.data)

    def _note(self, partition: int, value: bytes | None) -> None:
        identity, _, number = (value or b"").decode(errors="replace").partition(" ")
        state = self._link.state
        # Numbers of a stream that was there before mean other messages.
        if state is None or identity != state.identity or not number.isdigit():
            return
        self._link.note_number(int(number))
        self._following.move(partition, int(number))
