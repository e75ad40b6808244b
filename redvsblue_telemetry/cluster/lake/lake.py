"""The lake as loaders use it: who may append which partition, and appending exactly once.

A commit holds the events, which numbers of their sessions they are, and how far the stream has been
read, so that all three are true or none is. The commit fails if somebody else has committed to one
of its partitions since the claim was read: so a loader that was stopped, and wakes up when another
has taken its place, can't store anything twice. See :mod:`.table`, on fences.

Nothing here trusts an error: after each one, the table shows whether there was a commit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.transaction import AddAction

from .collecting import Rows
from .errors import LakeError, LostPartitionsError
from .numbers import SessionNumbers, StoredNumbers
from .rows import POSITIONS, RUNS
from .table import Table

__all__ = ["Claim", "Lake"]

logger = logging.getLogger("redvsblue_telemetry.lake")

_NEWEST_BASE = "base"  # the fence of those who set a base; its number is the newest one
_BETWEEN_STREAMS = 1_000_000  # sequences that a base leaves to loaders of the stream before
_ATTEMPTS = 20  # to set the base of a stream, against others who do so at the same moment


class Lake:
    """A lake. Its methods may be called from any thread.

    Args:
        url: a path, or the URL of an object store, such as ``s3://bucket/lake``.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @classmethod
    def open(cls, url: str, create: bool = True) -> Lake:
        """Return the lake.

        The credentials and settings of an object store are in the environment: ``AWS_REGION``,
        ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` and so on.

        Args:
            url: a path, or the URL of an object store, such as ``s3://bucket/lake``.
            create: whether to make it if there is none.

        Raises:
            LakeError: there is none, or it can't be read or made.
        """
        Table.open(url, create=create)
        return cls(url)

    def claim(self, identity: str, partitions: Iterable[int]) -> Claim:
        """Begin to append to some partitions of a stream.

        Only one process at a time should: others are not kept from it, but as soon as one of them
        appends, :meth:`append` raises LostPartitionsError in this one.

        Args:
            identity: of the stream. A stream that was made anew has another one; its
                events follow in the order of arrival on all that are there.
            partitions: their numbers; more can be added later, see :meth:`Claim.add`.

        Raises:
            LakeError: the lake can't be read.
        """
        table = Table.open(self.url)
        claim = Claim(identity, _base(table, identity), table)
        claim.add(partitions)
        return claim

    def append(self, claim: Claim, rows: Rows, offsets: Mapping[int, int]) -> None:
        """Append rows, and note how far the stream has been read, in one commit; sync it to disk.

        After a success, the rows are cleared, and the claim's offsets are the new ones. After
        LakeError, nothing has changed: call it again, with these rows and offsets or with more.

        Args:
            claim: the claim that the rows were collected for.
            rows: the new rows. May be empty.
            offsets: for partitions of the claim, the sequence up to which they have been read. No
                lower than that of the last message in the rows.

        Raises:
            LostPartitionsError: another process has appended to some partitions. They are gone from
                the claim and from the rows; nothing is stored. Append the rest again, and
                add the others anew, if they should be this process's.
            LakeError: the lake can't be written or read. Nothing is stored, or, if it can't be read
                either, the next call finds out.
        """
        claim.append(rows, offsets)


class Claim:
    """The partitions that one process appends to, and their state. Used by one thread at a time.

    Made by :meth:`Lake.claim`.

    Attributes:
        identity: of the stream.
        base: the origin of the stream's sequence numbers: ``arrival`` in the lake is
            ``(base + sequence) * POSITIONS + position``.
    """

    def __init__(self, identity: str, base: int, table: Table) -> None:
        self.identity = identity
        self.base = base
        self._table = table
        self._offsets: dict[int, int] = {}
        self._numbers: dict[int, SessionNumbers] = {}
        self._attempted: dict[int, int] | None = None  # the offsets of a commit in doubt
        self._is_current = True  # whether the table was read after the last commit

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions of the claim."""
        return frozenset(self._offsets)

    @property
    def version(self) -> int:
        """The version of the table that it knows."""
        return self._table.version

    def rows(self) -> Rows:
        """Return an empty collection of rows for this claim."""
        return Rows(self)

    def offset(self, partition: int) -> int:
        """Return the sequence up to which a partition is in the lake; 0 if nothing of it is.

        Raises:
            ValueError: the partition is not the claim's.
        """
        try:
            return self._offsets[partition]
        except KeyError:
            raise ValueError(f"partition {partition} is not claimed") from None

    def numbers(self, session: str, partition: int) -> StoredNumbers:
        """Return the numbers of a session that are in the lake, or in rows that wait.

        ``add(seq)`` adds one, and returns whether it is new. :meth:`Rows.add` does so.

        Raises:
            ValueError: the partition is not the claim's.
        """
        try:
            return self._numbers[partition].of(session)
        except KeyError:
            raise ValueError(f"partition {partition} is not claimed") from None

    def add(self, partitions: Iterable[int]) -> None:
        """Add partitions: their offsets and numbers are read from the lake.

        Raises:
            LakeError: the lake can't be read; none is added.
        """
        wanted = [each for each in partitions if each not in self._offsets]
        self._table.refresh()
        runs = self._table.read(
            self._table.files(RUNS),
            ["seq", "session", "data"],
            pc.field("seq").isin(pa.array(wanted, pa.int64())),
        )
        offsets = self._stored(wanted)
        if self._stored(self._offsets) != self._offsets:
            self._is_current = False  # some are lost: the next append finds out which
        for partition, offset in offsets.items():
            mine = runs.filter(pc.equal(runs["seq"], partition))
            self._numbers[partition] = SessionNumbers(mine)
            self._offsets[partition] = offset

    def release(self, partitions: Iterable[int]) -> None:
        """Give partitions up. Discard their rows, or append them before."""
        for partition in partitions:
            self._offsets.pop(partition, None)
            self._numbers.pop(partition, None)

    def append(self, rows: Rows, offsets: Mapping[int, int]) -> None:
        """See :meth:`Lake.append`."""
        for partition, last in {**offsets, **rows.sequences}.items():
            if offsets.get(partition, 0) < max(last, self.offset(partition)):
                raise ValueError(f"the offset of partition {partition} is below that of its rows")
        moved = {key: value for key, value in offsets.items() if value > self._offsets[key]}
        if not self._is_current and (attempted := self._catch_up(rows)):
            if attempted == moved:
                rows.clear()
                return
            # Its rows are stored, and now they are among others.
            self._lose(rows, attempted)
        if moved:
            self._commit(rows, moved)

    def _commit(self, rows: Rows, moved: dict[int, int]) -> None:
        table = self._table
        added: list[AddAction] = []
        try:
            for kind, day, part in rows.tables():
                added.append(table.write(kind, day, part))
        except LakeError:
            table.discard(added)
            raise
        self._is_current, self._attempted = False, moved
        try:
            table.commit({self._fence(key): value for key, value in moved.items()}, added)
        except LakeError as error:
            # The error may have come before the commit or after it.
            try:
                was_stored = bool(self._catch_up(rows))
            except LostPartitionsError:
                table.discard(added)
                raise
            if not was_stored:
                table.discard(added)
                raise LakeError(f"nothing was stored: {error}") from error
            logger.warning("the commit was made, although there was an error: %s", error)
            rows.clear()
            return
        self._attempted = None
        self._offsets |= moved
        rows.clear()
        try:
            table.refresh()
        except LakeError as error:
            logger.warning("the commit was made, but the lake can't be read now: %s", error)
        else:
            self._is_current = self._stored(self._offsets) == self._offsets

    def _catch_up(self, rows: Rows) -> dict[int, int]:
        """Read the table; return the offsets of the attempt in doubt if it was stored.

        Raises:
            LostPartitionsError: another process has committed.
            LakeError: the table can't be read, and everything stays in doubt.
        """
        self._table.refresh()
        stored = self._stored(self._offsets)
        attempted = self._attempted or {}
        if attempted and stored == {**self._offsets, **attempted}:
            # Ours, or that of a process with the same claim: then it has stored the same, since
            # both began with the same state and read the same messages.
            self._offsets = stored
        else:
            attempted = {}
            if lost := [key for key, value in stored.items() if value != self._offsets[key]]:
                self._lose(rows, lost)
        self._attempted, self._is_current = None, True
        return attempted

    def _lose(self, rows: Rows, partitions: Iterable[int]) -> NoReturn:
        error = LostPartitionsError(partitions)
        self.release(error.partitions)
        rows.discard(error.partitions)
        # What is left is verified when it is appended.
        self._attempted, self._is_current = None, False
        raise error

    def _stored(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return the offsets of partitions as the table has them."""
        return {each: self._table.number(self._fence(each)) or 0 for each in partitions}

    def _fence(self, partition: int) -> str:
        return f"{self.identity}/{partition}"


def _base(table: Table, identity: str) -> int:
    """Return the origin of a stream's sequence numbers; set it if the stream is new."""
    fence = f"{identity}/base"
    for _ in range(_ATTEMPTS):
        base = table.number(fence)
        if base is not None:
            return base
        newest = table.number(_NEWEST_BASE)
        if newest is None:
            base = 0
        else:
            highest = max((each.highest_arrival for each in table.files()), default=0)
            base = max(highest // POSITIONS, newest) + _BETWEEN_STREAMS
        before = table.version
        try:
            table.commit({fence: base, _NEWEST_BASE: base})
        except LakeError:
            table.refresh()
            if table.version == before:
                raise
        else:
            table.refresh()
    raise LakeError(f"{table.url} has too many others who begin at the same moment")
