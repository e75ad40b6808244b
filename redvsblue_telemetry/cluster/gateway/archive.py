"""Asks the loaders which events are in the lake, for the clients that wait for that.

The loader of a partition knows the numbers of its sessions that are in the lake, so its answer is
true even if the stream has lost messages meanwhile. It is asked while somebody waits.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import islice

import msgspec

from ..stream import Answer, Inquiry, StreamState, archive_subject
from .following import Following
from .link import Link, StreamError

__all__ = ["ArchiveWatch"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_INTERVAL = 0.5  # seconds
_MOST_SESSIONS = 200  # of an inquiry: the answer has to fit into a message of the servers

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Answer).decode


class ArchiveWatch:
    """Asks about the followed partitions. Used on the event loop's thread.

    Args:
        link: the connection to the stream.
        following: learns the answers.
    """

    def __init__(self, link: Link, following: Following) -> None:
        self._link = link
        self._following = following

    async def run(self) -> None:
        """Ask again and again until canceled."""
        while True:
            await asyncio.gather(*map(self._ask, tuple(self._following.awaited)))
            await asyncio.sleep(_INTERVAL)

    async def _ask(self, partition: int) -> None:
        """Ask about all sessions of a partition, as far as that is possible now."""
        state = self._link.state
        if state is None:
            return
        sessions = iter(self._following.sessions(partition).items())
        try:
            while asked := dict(islice(sessions, _MOST_SESSIONS)):
                await self._inquire(partition, state, asked)
        except StreamError:  # nobody has the partition at the moment, or is cut off from it
            pass
        except Exception:
            logger.exception("internal error in the collector")

    async def _inquire(self, partition: int, state: StreamState, asked: dict[str, int]) -> None:
        inquiry = _encode(Inquiry(state.identity, asked))
        answer = _decode(await self._link.ask(archive_subject(partition), inquiry))
        if self._link.state != state:
            return
        lost = self._following.learn(partition, asked, answer)
        if lost:
            self._link.change_salt()
            logger.warning(
                "the stream has lost messages that %d clients wait for; they send again", lost
            )
