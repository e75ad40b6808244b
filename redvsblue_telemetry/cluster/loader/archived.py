"""Shows the gateways how far the lake has come, in the stream's key-value store.

A client may ask to be acknowledged only then. These numbers may lag, and are never ahead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping

import nats.errors
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from ..stream import ARCHIVED_BUCKET, archived_key
from .membership import bucket
from .partitions import LastMessage
from .places import sequence_of

__all__ = ["Archived"]

logger = logging.getLogger("redvsblue_telemetry.loader")

_RETRY = 0.5  # seconds
_END_TIMEOUT = 2.0


class Archived:
    """Writes the numbers. Used on the event loop's thread.

    Args:
        jetstream: writes.
        identity: of the stream.
        replicas: of the bucket.
    """

    def __init__(self, jetstream: JetStreamContext, identity: str, replicas: int) -> None:
        self._jetstream = jetstream
        self._identity = identity
        self._replicas = replicas
        self._store: KeyValue | None = None
        self._offsets: dict[int, int] = {}  # that are not written yet
        self._has_some = asyncio.Event()
        self._has_none = asyncio.Event()
        self._has_none.set()

    def note(self, last: Mapping[int, LastMessage]) -> None:
        """Note that all messages of these partitions up to these places are in the lake."""
        self._offsets.update({key: sequence_of(place) for key, (place, _) in last.items()})
        self._has_none.clear()
        self._has_some.set()

    async def finish(self) -> None:
        """Wait until all numbers are written, for a moment."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._has_none.wait(), _END_TIMEOUT)

    async def run(self) -> None:
        """Write numbers as they come, until canceled."""
        while True:
            await self._has_some.wait()
            self._has_some.clear()
            offsets, self._offsets = self._offsets, {}
            try:
                if self._store is None:
                    self._store = await bucket(self._jetstream, ARCHIVED_BUCKET, self._replicas)
                for number, offset in offsets.items():
                    text = f"{self._identity} {offset}"
                    await self._store.put(archived_key(number), text.encode())
            except (nats.errors.Error, OSError, asyncio.TimeoutError) as error:
                logger.debug("the numbers of archived messages can't be written: %r", error)
                self._store = None
                self._offsets = offsets | self._offsets
                self._has_some.set()
                await asyncio.sleep(_RETRY)
            else:
                if not self._offsets:
                    self._has_none.set()
