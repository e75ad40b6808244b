"""The lake as loaders use it: who may append which partition, and appending exactly once.

A commit holds the events, which numbers of their sessions they are, and how far the stream has been
read, so that all three are true or none is. The commit fails if somebody else has committed to one
of its partitions since the claim was read: so a loader that was stopped, and wakes up when another
has taken its place, can't store anything twice. See :mod:`.table`, on fences.

Nothing here trusts an error or a success: the table shows whether there was a commit.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.transaction import AddAction

from ...collector.models import Forgotten
from ...collector.storage.upkeep import Keep, epoch_milliseconds
from .collecting import Rows
from .compaction import Compacted, compact
from .errors import LakeError, LostPartitionsError
from .forgetting import Forgetting
from .numbers import SessionNumbers, SessionTexts, StoredNumbers
from .retention import Retention
from .rows import POSITIONS, RUNS, day_of
from .table import Owner, Table, sort

__all__ = ["Claim", "Lake"]

logger = logging.getLogger("redvsblue_telemetry.lake")

_IDENTITY = re.compile("[0-9A-Za-z_-]{1,64}")  # part of the names of files
_NEWEST_BASE = "base"  # the fence of those who set a base; its number is the newest one
_BETWEEN_STREAMS = 1_000_000  # sequences that a base leaves to loaders of the stream before
_LATENESS = 3_600_000  # milliseconds after which a day has all its rows
_RETENTION = 24  # hours
_ATTEMPTS = 20  # of a commit, against others who commit at the same moment


class Lake:
    """A lake. Its methods may be called from any thread.

    Args:
        url: a path, or the URL of an object store, such as ``s3://bucket/lake``.
        clock: returns milliseconds since the epoch.
    """

    def __init__(self, url: str, clock: Callable[[], int] = epoch_milliseconds) -> None:
        self.url = url
        self._clock = clock
        self._retention: Retention | None = None

    @classmethod
    def open(
        cls, url: str, create: bool = True, clock: Callable[[], int] = epoch_milliseconds
    ) -> Lake:
        """Return the lake.

        The credentials and settings of an object store are in the environment: ``AWS_REGION``,
        ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` and so on.

        Args:
            url: a path, or the URL of an object store, such as ``s3://bucket/lake``.
            create: whether to make it if there is none.
            clock: returns milliseconds since the epoch.

        Raises:
            LakeError: there is none, or it can't be read or made.
        """
        Table.open(url, create=create)
        return cls(url, clock)

    @property
    def id(self) -> str:
        """That of this lake: another one in its place has another.

        Raises:
            LakeError: it can't be read.
        """
        return Table.open(self.url).id

    @staticmethod
    def answers(url: str) -> bool:
        """Return whether the place of a lake answers, with a lake or not. For any thread.

        It may take as long as the network lets it.
        """
        return Table.answers(url)

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
            ValueError: the identity has other characters than letters, digits, ``_`` and ``-``.
        """
        if not _IDENTITY.fullmatch(identity):
            raise ValueError(f"{identity!r} is not the identity of a stream")
        table = Table.open(self.url)
        claim = Claim(identity, _base(table, identity), table)
        claim.add(partitions)
        return claim

    def offsets(
        self, identity: str, partitions: Iterable[int]
    ) -> dict[int, tuple[int, int | None]]:
        """Return the sequence up to which each partition of a stream is in the lake.

        With it comes when the stream stored that message; None if it isn't known.

        Raises:
            LakeError: the lake can't be read.
        """
        table = Table.open(self.url)
        fences = {each: _fence(identity, each) for each in partitions}
        return {
            each: (table.number(fence) or 0, table.number(_time_of(fence)) or None)
            for each, fence in fences.items()
        }

    def append(
        self,
        claim: Claim,
        rows: Rows,
        offsets: Mapping[int, int],
        stored_at: Mapping[int, int | None] | None = None,
    ) -> None:
        """Append rows, and note how far the stream has been read, in one commit; sync it to disk.

        After a success, the rows are cleared, and the claim's offsets are the new ones. After
        LakeError, nothing has changed: call it again, with these rows and offsets or with more.

        Args:
            claim: the claim.
            rows: its rows.
            offsets: for partitions of the claim, the sequence up to which they have been read. No
                lower than that of the last message in the rows.
            stored_at: for the same partitions, when the stream stored the message that has this
                sequence, in nanoseconds since the epoch; None if that isn't known.

        Raises:
            LostPartitionsError: another process has appended to some partitions. They are gone from
                the claim and from the rows; nothing is stored. Append the rest again, and
                add the others anew, if they should be this process's.
            LakeError: the lake can't be written or read. Nothing is stored, or, if it can't be read
                either, the next call finds out.
            ValueError: the offsets or the rows don't belong to the claim.
        """
        claim.append(rows, offsets, stored_at or {})

    def compact(self) -> Compacted:
        """Merge small files into larger ones; call it each minute or so, in one process.

        Raises:
            LakeError: the lake can't be read or written. Some files may have been merged.
        """
        # A loader may be late with the last rows of a day.
        return compact(Table.open(self.url), day_of(self._clock() - _LATENESS))

    def keep(self, keep: Keep) -> int:
        """Delete what is older than a rule says; call it each hour or so, in one process.

        Returns:
            How many events were deleted.

        Raises:
            LakeError: the lake can't be read or written. Some may have been deleted.
        """
        if self._retention is None or self._retention.rule != keep:
            self._retention = Retention(keep)
        return self._retention.apply(Table.open(self.url), self._clock())

    def forget(
        self, session: str | None = None, context: tuple[str, str] | None = None
    ) -> Forgotten:
        """Delete a session, or all events with a field in their context, for good.

        Events that loaders have not appended yet come later, see :mod:`..loader.erasure`. A session
        that gets some meanwhile stays, with its numbers and its report. Questions that others ask
        at this moment may fail.

        Args:
            session: the id of the session.
            context: the name and the value of the field.

        Raises:
            LakeError: the lake can't be read or written. Some may have been deleted; do it again.
            ValueError: neither was given, or both.
        """
        if (session is None) == (context is None):
            raise ValueError("give either a session or a field of the context")
        return Forgetting(session, context).run(Table.open(self.url), self._clock())

    def vacuum(self, retention: int = _RETENTION) -> int:
        """Delete files that are no longer part of the lake; call it each hour or so.

        Args:
            retention: the hours for which they are kept for those who still read them; at most 24.

        Returns:
            How many files were deleted.

        Raises:
            LakeError: the lake can't be read, or a file can't be deleted.
        """
        return Table.open(self.url).sweep(retention)


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
        self._rows = Rows(self)
        self._older: SessionTexts | None = None  # of the streams before, by all their partitions
        self._numbers: dict[int, SessionNumbers] = {}
        self._stored_at: dict[int, int | None] = {}
        self._attempted: dict[int, int] = {}  # the offsets of a commit in doubt
        self._attempted_files: frozenset[str] = frozenset()
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
        """Return the rows of this claim that wait to be appended: always the same collection.

        Their numbers count as stored, so they must not be dropped while the claim is in use.
        """
        return self._rows

    def offset(self, partition: int) -> int:
        """Return the sequence up to which a partition is in the lake; 0 if nothing of it is.

        Raises:
            ValueError: the partition is not the claim's.
        """
        try:
            return self._offsets[partition]
        except KeyError:
            raise ValueError(f"partition {partition} is not claimed") from None

    def stored_at(self, partition: int) -> int | None:
        """Return when the stream stored the message at the offset that was read from the lake."""
        return self._stored_at[partition]

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
        if self._table.number(_NEWEST_BASE) != self.base:
            raise LakeError(
                f"{self._table.url} has events of a stream that is newer than this one; a lake "
                "can't be that of two streams at a time"
            )
        runs = self._read_runs(pc.field("seq").isin(pa.array(wanted, pa.int64())))
        if self._older is None:
            # A stream that was made anew may have another number of partitions.
            older = self._read_runs(pc.field("arrival") < self.base * POSITIONS)
            self._older = SessionTexts(older)
        offsets = self._stored(wanted)
        if self._stored(self._offsets) != self._offsets:
            self._is_current = False  # some are lost: the next append finds out which
        for partition, offset in offsets.items():
            mine = runs.filter(pc.equal(runs["seq"], partition))
            self._numbers[partition] = SessionNumbers(SessionTexts(mine), self._older)
            self._offsets[partition] = offset
            time = self._table.number(_time_of(self._fence(partition)))
            self._stored_at[partition] = time or None

    def _read_runs(self, condition: Any) -> pa.Table:
        files = self._table.files(RUNS)
        return self._table.read(files, ["seq", "session", "data"], condition)

    def release(self, partitions: Iterable[int]) -> None:
        """Give partitions up, and drop their rows that wait."""
        for partition in partitions:
            self._rows.discard([partition])
            self._offsets.pop(partition, None)
            self._numbers.pop(partition, None)
            self._attempted.pop(partition, None)

    def append(
        self, rows: Rows, offsets: Mapping[int, int], stored_at: Mapping[int, int | None]
    ) -> None:
        """See :meth:`Lake.append`."""
        if rows is not self._rows:
            raise ValueError("the rows are those of another claim")
        for partition, last in {**offsets, **rows.sequences}.items():
            if offsets.get(partition, 0) < max(last, self.offset(partition)):
                raise ValueError(f"the offset of partition {partition} is below that of its rows")
        moved = {key: value for key, value in offsets.items() if value > self._offsets[key]}
        if not self._is_current and (attempted := self._catch_up()):
            if attempted == moved:
                rows.clear()
                return
            # Its rows are stored, and now they are among others.
            self._lose(attempted)
        if moved:
            self._commit(rows, moved, stored_at)

    def _commit(
        self, rows: Rows, moved: dict[int, int], stored_at: Mapping[int, int | None]
    ) -> None:
        table = self._table
        added: list[AddAction] = []
        trouble: LakeError | None
        first = min(moved)
        owner = Owner(self._fence(first), self._offsets[first])
        try:
            for kind, day, part in rows.tables():
                file = table.write(kind, day, [sort(kind, part)], owner)
                if file is not None:
                    added.append(file)
        except LakeError:
            table.discard(added)
            raise
        fences = {self._fence(key): value for key, value in moved.items()}
        fences.update({_time_of(self._fence(key)): stored_at.get(key) or 0 for key in moved})
        for left in reversed(range(_ATTEMPTS)):
            self._is_current, self._attempted = False, {**moved}
            self._attempted_files = frozenset(each.path for each in added)
            before, trouble = table.version, None
            try:
                table.commit(fences, added)
            except LakeError as error:
                trouble = error
            # The error may have come before the commit or after it; nor is a success believed.
            if self._catch_up(is_doubted=trouble is not None):
                break
            # Rows that are deleted meanwhile fail it, too: then it is right for the next version.
            if table.version == before or not left:
                table.discard(added)
                raise LakeError(f"nothing was stored: {trouble}") from trouble
        if trouble is not None:
            logger.warning("stored, although there was an error: %s", trouble)
        rows.clear()

    def _catch_up(self, *, is_doubted: bool = True) -> dict[int, int]:
        """Read the table; return the offsets of the last attempt if it was stored.

        Args:
            is_doubted: whether nobody has said that it was.

        Raises:
            LostPartitionsError: another process has committed.
            LakeError: the table can't be read, and everything stays in doubt.
        """
        self._table.refresh()
        stored = self._stored(self._offsets)
        attempted = self._attempted
        is_there = bool(attempted) and stored == {**self._offsets, **attempted}
        if is_there and is_doubted and self._attempted_files:
            # Another process may have read just as far.
            files = {each.path for each in self._table.files()}
            is_there = not self._attempted_files.isdisjoint(files)
        if is_there:
            self._offsets = stored
        else:
            attempted = {}
            if lost := [key for key, value in stored.items() if value != self._offsets[key]]:
                self._lose(lost)
        self._attempted, self._is_current = {}, True
        return attempted

    def _lose(self, partitions: Iterable[int]) -> NoReturn:
        error = LostPartitionsError(partitions)
        self.release(error.partitions)
        # What is left is verified when it is appended.
        self._attempted, self._is_current = {}, False
        raise error

    def _stored(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return the offsets of partitions as the table has them."""
        return {each: self._table.number(self._fence(each)) or 0 for each in partitions}

    def _fence(self, partition: int) -> str:
        return _fence(self.identity, partition)


def _fence(identity: str, partition: int) -> str:
    return f"{identity}/{partition}"


def _time_of(fence: str) -> str:
    return f"{fence}/time"


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
