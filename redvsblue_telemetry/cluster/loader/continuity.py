"""Notices that the stream has lost messages, and gives their numbers to other ones.

That must not happen, and it does: when too many servers lose their disks at once, or one comes back
from an old copy (nats-server issue 7545). A loader that went on at its number would leave out the
messages that now have lower ones, and nobody would ever know.

So a loader reads the last message that it knows again, with the next ones, and compares. If there
was a loss, all that the stream has is read again, in another epoch; see :mod:`.places`. The events
that are in the lake already are repeats.
"""

from __future__ import annotations

import asyncio

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import StreamState

from ..._shared import monotonic
from ..stream import STREAM

__all__ = ["Continuity"]

_PATIENCE = 10.0  # seconds in which a new leader has to know all messages of the one before


class Continuity:
    """Compares the stream with the numbers that were read of it.

    Args:
        jetstream: knows its first and last number.
    """

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream
        self._behind_since: float | None = None

    async def was_deleted(self, sequence: int) -> bool | None:
        """Return whether a message that is missing was deleted, and not lost; None if not known."""
        state = await self._state()
        return None if state is None else state.first_seq > sequence

    async def is_behind(self, sequence: int) -> bool:
        """Return whether the stream has lost a message, and not yet used its number again.

        To be asked every few seconds.
        """
        began = monotonic()
        state = await self._state()
        if state is None or state.last_seq >= sequence:
            self._behind_since = None
            return False
        if self._behind_since is None:
            self._behind_since = began
        return began - self._behind_since >= _PATIENCE

    async def _state(self) -> StreamState | None:
        try:
            return (await self._jetstream.stream_info(STREAM)).state
        except (nats.errors.Error, OSError, asyncio.TimeoutError):
            return None
