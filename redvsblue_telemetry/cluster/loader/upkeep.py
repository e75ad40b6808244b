"""Regular work that one loader does for all: the owner of the first partition.

Small files of the lake become large ones, old events are deleted, and so are messages of the stream
that are in the lake. Each may be done by two loaders at once without harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from ...collector.storage.upkeep import Keep
from ..lake.errors import LakeError
from ..lake.lake import Lake
from ..stream import STREAM, StreamState, subject
from .places import sequence_of
from .source import Source, SourceError

__all__ = ["StreamUpkeep", "Upkeep", "first_unloaded"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ROUNDS_PER_CLEANING = 60  # so old events are deleted once an hour

logger = logging.getLogger("redvsblue_telemetry.loader")


async def first_unloaded(
    jetstream: JetStreamContext, offsets: Mapping[int, tuple[int, int | None]]
) -> int | None:
    """Return the lowest number of a message that is not in the lake; None if all are.

    The stream's leader is asked: another replica may not have the newest ones yet. If the stream
    has lost the last message that is in the lake, no loader may have read those that came instead.

    Args:
        jetstream: asks.
        offsets: the place of the last message of each partition that is in the lake, and when the
            stream stored it.

    Raises:
        nats.errors.Error: the stream can't be read.
    """
    found: list[int] = []
    first = (await jetstream.stream_info(STREAM)).state.first_seq
    for partition, (place, stored_at) in offsets.items():
        last = sequence_of(place)
        if stored_at is not None and first <= last and not await _has(jetstream, last, stored_at):
            last = 0
        with contextlib.suppress(NotFoundError):
            message = await jetstream.get_msg(
                STREAM, seq=last + 1, next=True, subject=subject(partition)
            )
            found.append(message.seq or 0)
    return min(found, default=None)


async def _has(jetstream: JetStreamContext, sequence: int, stored_at: int) -> bool:
    """Return whether the stream has a message that it stored at that time."""
    try:
        time = (await jetstream.get_msg(STREAM, seq=sequence)).time
    except NotFoundError:
        return False
    # nats-py cuts the nanoseconds off.
    return time is not None and (time - _EPOCH) // timedelta(microseconds=1) == stored_at // 1000


class StreamUpkeep:
    """Deletes messages from the stream once they are in the lake and old enough.

    They are kept for a while, so that a lake that was restored from a backup can be filled again.

    Args:
        jetstream: deletes.
        source: finds out which messages may go.
        keep: seconds that a message stays at least.
    """

    def __init__(self, jetstream: JetStreamContext, source: Source, keep: float) -> None:
        self._jetstream = jetstream
        self._source = source
        self._keep = keep

    async def delete(self, offsets: Mapping[int, tuple[int, int | None]]) -> None:
        """Delete the messages that may go. If that fails, they are left for the next time.

        Args:
            offsets: as of :func:`first_unloaded`.
        """
        try:
            info = await self._jetstream.stream_info(STREAM)
            first = await self._first_kept(offsets, info.state.last_seq)
            if first > info.state.first_seq:
                await self._jetstream.purge_stream(STREAM, seq=first)
        except (SourceError, nats.errors.Error, OSError, asyncio.TimeoutError) as error:
            logger.warning("messages that are in the lake can't be deleted: %r", error)

    async def _first_kept(self, offsets: Mapping[int, tuple[int, int | None]], last: int) -> int:
        """Return the lowest number of a message that has to stay.

        Nothing beyond the number that was the last before messages were looked for is deleted: it
        may be new. Besides, a purge beyond it would have the stream leave out numbers.
        """
        since = time.time_ns() // 1_000_000 - int(self._keep * 1000)
        first = await self._source.first_since(since)
        first = last + 1 if first is None else min(first, last + 1)
        unloaded = await first_unloaded(self._jetstream, offsets)
        return first if unloaded is None else min(first, unloaded)


class Upkeep:
    """Does that work. Used on the event loop's thread; the lake's part has threads of its own.

    Args:
        lake: its URL.
        state: of the stream.
        jetstream: deletes messages.
        source: finds out which messages may go.
        keep: how long events stay in the lake.
        stream_keep: seconds that a message stays in the stream at least.
        interval: seconds from one time to the next.
        is_mine: returns whether this loader is the one who does it.
        on_failure: called each time that the lake can't be tended.
    """

    def __init__(
        self,
        lake: str,
        state: StreamState,
        jetstream: JetStreamContext,
        source: Source,
        *,
        keep: Keep,
        stream_keep: float,
        interval: float,
        is_mine: Callable[[], bool],
        on_failure: Callable[[], None],
    ) -> None:
        self._url = lake
        self._state = state
        self._stream = StreamUpkeep(jetstream, source, stream_keep)
        self._keep = keep
        self._interval = interval
        self._is_mine = is_mine
        self._on_failure = on_failure
        self._lake: Lake | None = None
        self._rounds = 0

    async def run(self) -> None:
        """Do it again and again, until canceled."""
        while True:
            await asyncio.sleep(self._interval)
            if self._is_mine():
                await self._once()

    async def _once(self) -> None:
        try:
            offsets = await asyncio.to_thread(self._tend)
        except LakeError as error:
            logger.warning("the lake can't be tended: %s", error)
            self._on_failure()
        except Exception:
            # It would end this loader, and then each one that takes its place.
            logger.exception("internal error in the loader")
            self._on_failure()
        else:
            await self._stream.delete(offsets)

    def _tend(self) -> dict[int, tuple[int, int | None]]:
        """Tend the lake; return how far the stream is in it."""
        if self._lake is None:
            # If it is gone, it was deleted: loaders made it before they had a partition.
            self._lake = Lake.open(self._url, create=False)
        self._lake.compact()
        if self._rounds % _ROUNDS_PER_CLEANING == 0:
            self._lake.keep(self._keep)
            self._lake.vacuum()
        self._rounds += 1
        return self._lake.offsets(self._state.identity, range(self._state.partitions))
