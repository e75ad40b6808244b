"""The table of the loaders: one owner for each partition, fair shares, nobody forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry.cluster.loader.leases import (
    Leases,
    Table,
    Times,
    decode_table,
    encode_table,
    fair_shares,
)

TIMES = Times(beat=1.5, look=0.5, certain=4.0, expiry=5.0)
PARTITIONS = 16


class Register:
    """The value that all loaders read and replace, with its revision."""

    def __init__(self) -> None:
        self.revision = 0
        self.text = b""

    @property
    def table(self) -> Table:
        return decode_table(self.text, PARTITIONS)


class Loader:
    """A loader that does by its leases what a real one does, at the times of a test."""

    def __init__(self, register: Register, name: str, lake: str = "lake") -> None:
        self.register = register
        self.name = name
        self.lake = lake
        self.lives = 0
        self.leases = Leases(name, lake, TIMES)
        self.drained: set[int] = set()
        self.reading: tuple[int, Table, float] | None = None

    @property
    def owned(self) -> set[int]:
        return self.leases.owned

    def read(self, now: float) -> None:
        self.reading = self.register.revision, self.register.table, now

    def write(self, now: float) -> None:
        """Do the second half of a turn, which may be long after the first one."""
        if self.reading is None:
            return
        (revision, table, began), self.reading = self.reading, None
        if not self.leases.see(table, began):
            self.lives += 1
            self.leases = Leases(f"{self.name}.{self.lives}", self.lake, TIMES)
            self.leases.see(table, began)
        if self.leases.is_of_another_lake(now):
            return
        following = self.leases.next_table(now, self.leases.surplus(now))
        if following is not None and revision == self.register.revision:
            self.register.revision += 1
            self.register.text = encode_table(following)
            self.leases.wrote(following, began)

    def turn(self, now: float) -> None:
        self.read(now)
        self.write(now)


def played(loaders: list[Loader], seconds: float, start: float) -> float:
    now = start
    while now < start + seconds:
        for loader in loaders:
            loader.turn(now)
        now += TIMES.look
    return now


def owned(loaders: list[Loader]) -> list[int]:
    return sorted(partition for loader in loaders for partition in loader.owned)


def test_first_loader_takes_all() -> None:
    loader = Loader(Register(), "a")
    loader.turn(0.0)
    assert loader.owned == {*range(PARTITIONS)}


def test_second_loader_gets_its_share_within_three_looks() -> None:
    register = Register()
    first, second = Loader(register, "a"), Loader(register, "b")
    now = played([first], 2, 0.0)
    played([first, second], 3 * TIMES.look, now)
    assert len(first.owned) == len(second.owned) == PARTITIONS / 2
    assert owned([first, second]) == [*range(PARTITIONS)]


def test_partitions_of_a_dead_loader_are_taken_after_its_lease() -> None:
    register = Register()
    first, second = Loader(register, "a"), Loader(register, "b")
    now = played([first, second], 3, 0.0)
    now = played([second], TIMES.expiry - TIMES.look, now)
    assert len(second.owned) == PARTITIONS / 2
    played([second], 2 * TIMES.look, now)
    assert len(second.owned) == PARTITIONS


def test_loader_of_another_lake_waits_until_the_others_are_gone() -> None:
    register = Register()
    first, other = Loader(register, "a"), Loader(register, "b", "another lake")
    now = played([first, other], 10, 0.0)
    assert (owned([first]), owned([other])) == ([*range(PARTITIONS)], [])
    assert register.table.beats.keys() == {"a"}
    now = played([other], TIMES.expiry + TIMES.look, now)
    assert (len(other.owned), register.table.lake) == (PARTITIONS, "another lake")
    now = played([first, other], 10, now)
    assert (first.lives, owned([first]), owned([other])) == (1, [], [*range(PARTITIONS)])


def test_partitions_of_a_loader_without_the_lake_go_to_another_and_come_back() -> None:
    register = Register()
    first, second = Loader(register, "a"), Loader(register, "b")
    now = played([first, second], 3, 0.0)
    first.leases.reaches_lake = False
    now = played([first, second], 2 * TIMES.look, now)
    assert (len(first.owned), len(second.owned)) == (0, PARTITIONS)
    assert first.lives == 0
    first.leases.reaches_lake = True
    played([first, second], 3 * TIMES.look + TIMES.beat, now)
    assert len(first.owned) == len(second.owned) == PARTITIONS / 2


def test_loaders_keep_their_partitions_if_none_reaches_the_lake() -> None:
    register = Register()
    first, second = Loader(register, "a"), Loader(register, "b")
    now = played([first, second], 3, 0.0)
    first.leases.reaches_lake = second.leases.reaches_lake = False
    now = played([first, second], 3, now)
    # One of them is the first to say so, and may have lost some to the other for a moment.
    assert owned([first, second]) == [*range(PARTITIONS)]
    third = Loader(register, "c")
    now = played([first, second, third], 3, now)
    assert (len(first.owned), len(second.owned)) == (0, 0)
    assert len(third.owned) == PARTITIONS


def test_table_of_an_earlier_release_has_no_loaders_without_the_lake() -> None:
    table = decode_table(b'{"beats":{"a":3},"owners":["a"]}', 1)
    assert table == Table({"a": 3}, ["a"])


def test_loader_that_comes_back_after_its_lease_has_lost_all() -> None:
    register = Register()
    first, second = Loader(register, "a"), Loader(register, "b")
    now = played([first, second], 3, 0.0)
    assert first.leases.is_certain(now)
    now = played([second], 7, now)
    assert not first.leases.is_certain(now)
    first.read(now)
    assert not first.leases.see(register.table, now)


def test_loader_that_was_away_for_less_keeps_all() -> None:
    register = Register()
    first, second = Loader(register, "a"), Loader(register, "b")
    now = played([first, second], 3, 0.0)
    before = first.owned
    now = played([second], TIMES.expiry - 1, now)
    played([first, second], 2, now)
    assert first.owned == before
    assert first.lives == 0


def test_loader_that_leaves_is_replaced_at_the_next_look() -> None:
    register = Register()
    first, second = Loader(register, "a"), Loader(register, "b")
    now = played([first, second], 3, 0.0)
    register.revision += 1
    register.text = encode_table(first.leases.without_me())
    second.turn(now)
    assert len(second.owned) == PARTITIONS


def test_freed_partition_is_not_taken_back_at_once() -> None:
    register = Register()
    loader = Loader(register, "a")
    loader.turn(0.0)
    table = loader.leases.next_table(0.1, {3})
    assert table is not None
    assert table.owners[3] == ""


def test_table_stays_as_it_is_between_heartbeats() -> None:
    loader = Loader(Register(), "a")
    loader.turn(0.0)
    assert loader.leases.next_table(1.0) is None
    following = loader.leases.next_table(1.5)
    assert following is not None
    assert following.beats == {"a": 2}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"owners": 3}', b"\xff"])
def test_table_that_cannot_be_read_is_an_empty_one(text: bytes) -> None:
    assert decode_table(text, 2) == Table({}, ["", ""])


def test_table_is_made_to_fit_the_partitions() -> None:
    assert decode_table(b'{"owners": ["a"]}', 3).owners == ["a", "", ""]
    assert decode_table(b'{"owners": ["a", "b"]}', 1).owners == ["a"]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 6))
def test_shares_are_fair_and_those_who_have_more_keep_it(owners: list[int], count: int) -> None:
    loaders = [f"l{number}" for number in range(count)]
    names = [f"l{owner}" if owner < count else "" for owner in owners]
    table = Table(dict.fromkeys(loaders, 1), names)
    shares = fair_shares(table, loaders)
    assert sum(shares.values()) == len(owners)
    assert max(shares.values()) - min(shares.values()) <= 1
    surplus = sum(max(0, names.count(loader) - shares[loader]) for loader in loaders)
    least = len(owners) // count
    # Nothing is handed over for the sake of the rest: only what is beyond least + 1 must go, and
    # of those with least + 1, no more than there are too many of.
    ideal = sum(max(0, names.count(loader) - least) for loader in loaders)
    assert surplus == max(
        0, ideal - sum(1 for each in loaders if shares[each] > least < names.count(each))
    )


# What happens in a run: which loader does what, and after how long.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "turn", "turn", "turn"]),
        st.integers(0, 3),
        st.floats(0.0, 3.0),
    ),
    max_size=150,
)


@given(STEPS)
def test_no_partition_has_two_owners_that_are_certain_of_it(steps: list[Any]) -> None:
    register = Register()
    loaders = [Loader(register, name) for name in "abcd"]
    now = 0.0
    for what, number, seconds in steps:
        now += seconds
        loader = loaders[number]
        if what == "read":
            loader.read(now)
        elif what == "write":
            loader.write(now)
        else:
            loader.turn(now)
        certain = [each for each in loaders if each.leases.is_certain(now)]
        assert len(owned(certain)) == len({*owned(certain)})


@given(STEPS, st.sets(st.integers(0, 3), min_size=1))
def test_whatever_has_happened_the_living_soon_own_all(steps: list[Any], living: set[int]) -> None:
    register = Register()
    loaders = [Loader(register, name) for name in "abcd"]
    now = 0.0
    for what, number, seconds in steps:
        now += seconds
        getattr(loaders[number], what)(now)
    alive = [loaders[number] for number in living]
    for each in alive:
        each.reading = None
    now = played(alive, TIMES.expiry + 2 * TIMES.look, now)
    assert {*range(PARTITIONS)} == {*owned(alive)}
    played(alive, 4, now)
    assert owned(alive) == [*range(PARTITIONS)]
    counts = [len(each.owned) for each in alive]
    assert max(counts) - min(counts) <= 1
