"""Commits to the lake: those of a loader that has lost its partitions fail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from redvsblue_telemetry.cluster.loader.partitions import LastMessage, Partition, Taken, take
from redvsblue_telemetry.cluster.loader.reading import Reader
from redvsblue_telemetry.cluster.loader.storing import LostPartitionsError, Storing
from redvsblue_telemetry.cluster.stream import Answer, StreamMessage, partition_of
from tests.cluster.loader.loaders import sequences
from tests.cluster.loader.publishing import PARTITIONS, events

HOME = partition_of("a", PARTITIONS)
RECEIVED = 1_790_000_000_000


def taken(*batches: tuple[int, int, int], place: int = 0) -> Taken:
    """Batches of a session, each with its sequence number, and its first and last event."""
    partition, reader = Partition(HOME, LastMessage(place)), Reader(PARTITIONS)
    for sequence, first, last in batches:
        body = events("a", first, last)
        partition.add(
            reader.read(StreamMessage(HOME, sequence, RECEIVED, body, stored_at=sequence))
        )
    return take([partition])


def test_commit_of_a_loader_that_was_replaced_fails(tmp_path: Path) -> None:
    zombie, other = (Storing(str(tmp_path / "lake"), "stream", None) for _ in range(2))
    assert zombie.open() == other.open()
    assert zombie.claim([HOME]) == {HOME: (0, None)}
    stored = zombie.commit(zombie.prepare(taken((1, 1, 10))))
    assert (stored.messages, stored.events, stored.repeats) == (1, 10, 0)
    late = zombie.prepare(taken((2, 11, 20), place=1))
    assert other.claim([HOME]) == {HOME: (1, 1)}
    other.commit(other.prepare(taken((2, 11, 20), (3, 21, 30), place=1)))
    with pytest.raises(LostPartitionsError):
        zombie.commit(late)
    zombie.forget([HOME])
    assert zombie.claim([HOME]) == {HOME: (3, 3)}
    stored = zombie.commit(zombie.prepare(taken((4, 15, 35), place=3)))
    assert (stored.events, stored.repeats) == (5, 16)
    assert sequences(tmp_path / "lake") == Counter(("a", seq) for seq in range(1, 36))


def test_messages_of_a_commit_that_was_not_made_can_be_read_again(tmp_path: Path) -> None:
    storing = Storing(str(tmp_path / "lake"), "stream", None)
    storing.open()
    storing.claim([HOME])
    storing.prepare(taken((1, 1, 10)))  # and then its partition is lost, and found again
    storing.forget([HOME])
    assert storing.claim([HOME]) == {HOME: (0, None)}
    assert storing.commit(storing.prepare(taken((1, 1, 10)))).events == 10
    assert sequences(tmp_path / "lake") == Counter(("a", seq) for seq in range(1, 11))


def test_only_what_is_committed_is_said_to_be_stored(tmp_path: Path) -> None:
    storing = Storing(str(tmp_path / "lake"), "stream", None)
    assert storing.stored(HOME, {"a": 1}, is_all=True) is None
    storing.claim([HOME])
    assert storing.stored(HOME, {"a": 1}, is_all=True) == Answer(0, True, {"a": []})
    assert storing.stored(HOME + 1, {"a": 1}, is_all=True) is None
    commit = storing.prepare(taken((7, 1, 10), (8, 21, 30)))
    assert storing.stored(HOME, {"a": 1}, is_all=False) is None
    storing.commit(commit)
    answer = storing.stored(HOME, {"a": 1, "b": 3, "": 0}, is_all=False)
    assert answer == Answer(8, False, {"a": [(1, 10), (21, 30)], "b": [], "": []})
    answer = storing.stored(HOME, {"a": 10}, is_all=False)
    assert answer == Answer(8, False, {"a": [(1, 10), (21, 30)]})
    answer = storing.stored(HOME, {"a": 11}, is_all=False)
    assert answer == Answer(8, False, {"a": [(21, 30)]})
    storing.forget([HOME])
    assert storing.stored(HOME, {"a": 1}, is_all=False) is None
