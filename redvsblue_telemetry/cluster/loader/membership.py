"""Keeps the table of the leases in the stream's key-value store; see :mod:`.leases`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import (
    BadRequestError,
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
)
from nats.js.kv import KeyValue

from ..._shared import monotonic
from .leases import Leases, Table, Times, decode_table, encode_table

__all__ = ["BUCKET", "KEY", "Membership", "bucket"]

logger = logging.getLogger("redvsblue_telemetry.loader")

BUCKET = "telemetry-leases"
KEY = "loaders"
_LEAVE_AFTER = 3.0  # seconds without the table until a server is left for another one
_FAILURES = (nats.errors.Error, OSError, asyncio.TimeoutError)


async def bucket(jetstream: JetStreamContext, name: str, replicas: int) -> KeyValue:
    """Return a bucket of the key-value store; make it, unless it is there.

    Raises:
        nats.errors.Error: the servers can't make it, or don't answer.
    """
    try:
        return await jetstream.key_value(name)
    except BucketNotFoundError:
        pass
    # Not direct: any replica would answer, and one that lags has an old value.
    config = KeyValueConfig(
        bucket=name, history=1, replicas=replicas, storage=StorageType.FILE, direct=False
    )
    with contextlib.suppress(BadRequestError):  # another process was faster
        return await jetstream.create_key_value(config)
    return await jetstream.key_value(name)


class Membership:
    """This loader among the others. Used on the event loop's thread.

    Args:
        jetstream: a context whose timeout is shorter than a lease.
        partitions: of the stream.
        replicas: of the table.
        times: the same for all loaders.
        name: that of this loader for people; made unique.
        on_change: called when it owns other partitions than before, or should drain others.
        reaches_lake: returns whether this loader does. If it doesn't, others that do get its
            partitions.
        leave_server: connects to another server of the stream: the table may be reached there.
    """

    def __init__(
        self,
        jetstream: JetStreamContext,
        partitions: int,
        replicas: int,
        times: Times,
        name: str,
        on_change: Callable[[], None],
        reaches_lake: Callable[[], bool],
        leave_server: Callable[[], Awaitable[None]],
    ) -> None:
        self._jetstream = jetstream
        self._partitions = partitions
        self._replicas = replicas
        self._times = times
        self._lake = ""
        self._name = name
        self._on_change = on_change
        self._reaches_lake = reaches_lake
        self._leave_server = leave_server
        self._reached_at = monotonic()
        self._store: KeyValue | None = None
        self._revision = 0
        self._drained: set[int] = set()
        self._shown: tuple[int, set[int], set[int]] = 0, set(), set()
        self._look_now = asyncio.Event()
        self._error: Exception | None = None
        self.is_waiting = False
        """Whether the others load into another lake, and so this one waits until they end."""
        self._leases = self._anew()
        self.term = 0
        """Counts how often it was struck from the table. What it did in an earlier term is void."""

    def _anew(self) -> Leases:
        return Leases(f"{self._name}-{secrets.token_hex(4)}", self._lake, self._times)

    @property
    def error(self) -> Exception | None:
        """Why the table can't be read or written; None if it can."""
        return self._error

    @property
    def loaders(self) -> int:
        """The number of loaders that live."""
        return self._leases.loaders

    @property
    def owned(self) -> set[int]:
        """The partitions that this loader owns, those that it drains included."""
        return self._leases.owned - self._drained

    @property
    def surplus(self) -> set[int]:
        """The partitions that it should drain."""
        return self._leases.surplus(monotonic()) - self._drained

    @property
    def is_certain(self) -> bool:
        """Whether no other loader can have taken its partitions yet."""
        return self._leases.is_certain(monotonic())

    def free(self, partitions: set[int]) -> None:
        """Let others have partitions whose messages this loader has committed or forgotten."""
        self._drained |= partitions
        self._look_now.set()

    async def run(self, lake: str) -> None:
        """Count heartbeats, and look at the table, until canceled.

        Args:
            lake: the id of the lake that this loader loads into.
        """
        self._lake = lake
        self._leases = self._anew()
        while True:
            await self._turn()
            self._show()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), self._times.look)
            self._look_now.clear()

    async def leave(self) -> None:
        """Free all partitions, and leave the table. Others notice within their next look."""
        try:
            for _ in range(10):
                if await self._swap(leaving=True):
                    return
        except _FAILURES as error:
            logger.warning("could not leave the table of the loaders, so others wait: %r", error)

    async def _turn(self) -> None:
        """Look at the table, and change it if it has to be."""
        try:
            while not await self._swap():
                pass
        except _FAILURES as error:
            self._store = None  # perhaps it has to be made again
            self._note(error)
            if monotonic() - self._reached_at >= _LEAVE_AFTER:
                self._reached_at = monotonic()
                await self._leave_server()
        else:
            self._note(None)
            self._reached_at = monotonic()

    async def _swap(self, *, leaving: bool = False) -> bool:
        """Read the table and write the next one; return whether nobody else was faster."""
        began = monotonic()
        if self._store is None:
            self._store = await bucket(self._jetstream, BUCKET, self._replicas)
        table = await self._read(self._store)
        if not self._leases.see(table, began):
            logger.warning(
                "another loader took the partitions of this one, which had not been heard of for "
                "%g s; it begins anew",
                self._times.expiry,
            )
            self._leases = self._anew()
            self.term += 1
            self._drained.clear()
            self._leases.see(table, began)
        self._drained &= self._leases.owned
        self._note_others(self._leases.is_of_another_lake(monotonic()))
        if self.is_waiting:
            return True
        self._note_lake(reaches=self._reaches_lake())
        following: Table | None
        if leaving:
            following = self._leases.without_me()
        else:
            following = self._leases.next_table(monotonic(), self._drained)
        if following is None:
            return True
        try:
            self._revision = await self._store.update(KEY, encode_table(following), self._revision)
        except KeyWrongLastSequenceError:
            return False
        self._leases.wrote(following, began)
        self._drained &= self._leases.owned
        return True

    async def _read(self, store: KeyValue) -> Table:
        try:
            entry = await store.get(KEY)
        except KeyNotFoundError as error:
            self._revision = error.entry.revision or 0 if error.entry else 0
            return decode_table(b"{}", self._partitions)
        self._revision = entry.revision or 0
        return decode_table(entry.value or b"", self._partitions)

    def _note(self, error: Exception | None) -> None:
        if error is not None and self._error is None:
            logger.warning("the table of the loaders can't be reached: %r", error)
        elif error is None and self._error is not None:
            logger.warning("the table of the loaders can be reached again")
        self._error = error

    def _note_others(self, are_of_another_lake: bool) -> None:
        if are_of_another_lake and not self.is_waiting:
            logger.error("the stream is being loaded into another lake; waiting until that ends")
        self.is_waiting = are_of_another_lake

    def _note_lake(self, *, reaches: bool) -> None:
        if reaches != self._leases.reaches_lake:
            said = (
                "can be reached again" if reaches else "doesn't answer; other loaders may reach it"
            )
            logger.warning("the lake %s", said)
        self._leases.reaches_lake = reaches

    def _show(self) -> None:
        shown = self.term, self.owned, self.surplus
        if shown != self._shown:
            self._shown = shown
            self._on_change()
