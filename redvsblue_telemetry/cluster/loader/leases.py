"""Which loader owns which partition: one small table that all loaders agree on.

Theory of operation. The table has the loaders that live, each with a count of its heartbeats, and
the owner of each partition. It is one value of the stream's key-value store, and each loader
replaces it only if nobody else has since it was read (compare and swap). So each change is a change
of the whole table, made by one loader at a time, and no two of them can take the same partition.

A loader counts its heartbeat up every few seconds. A loader that sees the count of another
unchanged for longer than a lease strikes it from the table, and its partitions are free. The lease
is measured by the observer's own monotonic clock: the clocks of two machines differ, and each
server of a key-value store sees keys expire at another moment. If the loader did count up
meanwhile, the table has changed, and so the swap fails. A loader that finds itself struck has lost
all that it had: it begins anew, under another name.

Each loader computes the same fair share from the table. One with more than its share drains some
partitions (commits what it has read of them) and then frees them; one with less takes free ones.

All loaders of a stream load into the same lake: a loader of another one waits until they have
ended. Otherwise each lake would get some of the partitions.

A loader that can't reach the lake says so in the table. As long as others can, its share is
nothing, and it frees its partitions at once: it could not commit the messages that it has read.

The fence is elsewhere: a commit to the lake fails if another loader has committed a partition since
it was claimed. The leases only keep two loaders from working on the same partition for long.

Pure: tables and times in, tables out.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

__all__ = ["Leases", "Table", "Times", "decode_table", "encode_table", "fair_shares"]


class Times(msgspec.Struct, frozen=True):
    """How long things may take, in seconds."""

    beat: float = 1.5
    """From one heartbeat to the next."""
    look: float = 0.5
    """From one look at the table to the next."""
    certain: float = 4.0
    """A loader whose heartbeats have failed for so long commits nothing until one succeeds."""
    expiry: float = 5.0
    """Others strike a loader whose count has not changed for so long."""


class Table(msgspec.Struct):
    """The loaders that live, and the owner of each partition."""

    beats: dict[str, int] = {}
    """The count of heartbeats of each loader, by its id."""
    owners: list[str] = []
    """The id of the owner of each partition; an empty text for a free one."""
    lake: str = ""
    """The id of the lake that they load into."""
    without_lake: list[str] = []
    """The ids of loaders that can't reach the lake."""

    def owned_by(self, loader: str) -> set[int]:
        """Return the partitions of a loader."""
        return {partition for partition, owner in enumerate(self.owners) if owner == loader}


def encode_table(table: Table) -> bytes:
    """Return the table as JSON."""
    return msgspec.json.encode(table)


def decode_table(text: bytes, partitions: int) -> Table:
    """Return the table of a text. One that can't be read is empty, as at the first start."""
    try:
        table = msgspec.json.decode(text, type=Table)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        table = Table()
    owners = table.owners[:partitions]
    table.owners = [*owners, *[""] * (partitions - len(owners))]
    return table


def fair_shares(table: Table, loaders: Iterable[str]) -> dict[str, int]:
    """Return how many partitions each loader is to have: as equal as can be.

    Where some have one more than others, they are those that have it already, so that nothing is
    handed over for it.
    """
    owned = {loader: len(table.owned_by(loader)) for loader in loaders}
    least, more = divmod(len(table.owners), len(owned))
    ranked = sorted(owned, key=lambda loader: (owned[loader] <= least, loader))
    return {loader: least + (rank < more) for rank, loader in enumerate(ranked)}


class Leases:
    """What one loader knows of the table and does to it.

    Args:
        loader: its id, which no other loader has or had.
        lake: the id of the lake that it loads into.
        times: the same for all loaders.
    """

    def __init__(self, loader: str, lake: str, times: Times) -> None:
        self.loader = loader
        self._lake = lake
        self._times = times
        self._table = Table()
        self._seen: dict[str, tuple[int, float]] = {}  # the count of each loader, and since when
        self._beat_at: float | None = None  # when its last heartbeat that succeeded was begun
        self.reaches_lake = True
        """Whether this loader does, as far as it knows. May be set at any time."""

    def see(self, table: Table, now: float) -> bool:
        """Take note of the table, as it was read at a time; return whether it is still in it.

        A loader that has not joined yet is not missing. One that is has lost its partitions.
        """
        self._table = table
        for other, beats in table.beats.items():
            if self._seen.get(other, (None, 0.0))[0] != beats:
                self._seen[other] = beats, now
        self._seen = {other: seen for other, seen in self._seen.items() if other in table.beats}
        return self._beat_at is None or self.loader in table.beats

    @property
    def owned(self) -> set[int]:
        """The partitions that it owns, by the table that it has last seen or written."""
        return self._table.owned_by(self.loader)

    @property
    def loaders(self) -> int:
        """The number of loaders in the table."""
        return len(self._table.beats)

    @property
    def free(self) -> int:
        """The number of partitions without an owner."""
        return self._table.owners.count("")

    def is_of_another_lake(self, now: float) -> bool:
        """Return whether the others load into another lake: then this one may not join them."""
        others = self._living(now) - {self.loader}
        return bool(others) and self._table.lake not in ("", self._lake)

    def is_certain(self, now: float) -> bool:
        """Return whether no other loader can have struck this one yet."""
        return self._beat_at is not None and now - self._beat_at < self._times.certain

    def surplus(self, now: float) -> set[int]:
        """Return the partitions that it has beyond its share and should drain and free."""
        owned = sorted(self.owned)
        if not owned:
            return set()
        sharing = self._sharing(self._living(now))
        if self.loader not in sharing:
            return set()  # they are freed without that
        share = fair_shares(self._table, sharing)[self.loader]
        return set(owned[share:])

    def next_table(self, now: float, drained: Iterable[int] = ()) -> Table | None:
        """Return the table to write; None if it should stay as it is.

        Args:
            now: the time.
            drained: partitions that it owns and frees.
        """
        living = self._living(now)
        sharing = self._sharing(living)
        freed = set(drained) if self.loader in sharing else self.owned
        owners = [
            "" if owner not in living or (owner == self.loader and partition in freed) else owner
            for partition, owner in enumerate(self._table.owners)
        ]
        table = Table(
            {other: self._table.beats.get(other, 0) for other in living},
            owners,
            self._lake,
            sorted(living & self._without_lake),
        )
        share = fair_shares(table, sharing).get(self.loader, 0)
        wanted = share - len(table.owned_by(self.loader))
        for partition, owner in enumerate(owners):
            if not owner and wanted > 0 and partition not in freed:
                owners[partition] = self.loader
                wanted -= 1
        is_due = self._beat_at is None or now - self._beat_at >= self._times.beat
        if table == self._table and not is_due:
            return None
        table.beats[self.loader] += 1
        return table

    def without_me(self) -> Table:
        """Return the table to write at the end."""
        beats = {other: count for other, count in self._table.beats.items() if other != self.loader}
        owners = ["" if owner == self.loader else owner for owner in self._table.owners]
        without_lake = sorted(self._without_lake - {self.loader})
        return Table(beats, owners, self._table.lake, without_lake)

    def wrote(self, table: Table, began: float) -> None:
        """Take note that a table was written.

        Args:
            table: it.
            began: when the table that it follows from was asked for.
        """
        self.see(table, began)
        self._beat_at = began

    @property
    def _without_lake(self) -> set[str]:
        others = {*self._table.without_lake} - {self.loader}
        return others if self.reaches_lake else others | {self.loader}

    def _sharing(self, living: set[str]) -> set[str]:
        """Return those who share the partitions: all, if none of them reaches the lake."""
        return living - self._without_lake or living

    def _living(self, now: float) -> set[str]:
        living = {
            other for other, (_, since) in self._seen.items() if now - since <= self._times.expiry
        }
        return living | {self.loader}
