"""The lake in an object store, by its own protocol over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from redvsblue_telemetry.cluster.lake.errors import LakeError, LostPartitionsError
from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.cluster.lake.table import Table
from tests.support.fault_proxy import Direction, FaultProxy
from tests.support.lake import STREAM, append, numbered, stored_numbers, stored_runs
from tests.support.objects import object_store, settings

BUCKET = "games"


@pytest.fixture(scope="module")
def store() -> Iterator[FaultProxy]:
    with object_store(BUCKET) as port, FaultProxy(port) as proxy:
        yield proxy


@pytest.fixture
def lake(
    store: FaultProxy, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Lake]:
    for name, value in settings(store.port).items():
        monkeypatch.setenv(name, value)
    yield Lake.open(f"s3://{BUCKET}/{request.node.name}")
    store.clear()


def test_late_owner_cannot_commit(lake: Lake) -> None:
    late, owner = lake.claim(STREAM, [0]), lake.claim(STREAM, [0])
    append(lake, owner, 0, 5, numbered("s", 1, 5))
    with pytest.raises(LostPartitionsError):
        append(lake, late, 0, 5, numbered("s", 1, 5))
    late.add([0])
    append(lake, late, 0, 7, numbered("s", 1, 7))
    assert stored_numbers(lake.url) == {"s": [1, 2, 3, 4, 5, 6, 7]}


def test_commits_at_the_same_moment_are_all_made(lake: Lake) -> None:
    def load(partition: int) -> None:
        claim = lake.claim(STREAM, [partition])
        for sequence in range(1, 9):
            append(lake, claim, partition, sequence, numbered(f"s{partition}", 1, sequence))

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(load, range(3)))
    assert stored_numbers(lake.url) == {f"s{each}": [*range(1, 9)] for each in range(3)}


def test_files_are_merged_forgotten_and_swept(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    for sequence in range(1, 9):
        append(lake, claim, 0, sequence, numbered("s", 1, sequence), at=1_000_000_000_000)
    append(lake, claim, 0, 9, numbered("t", 1, 3))
    assert lake.compact().before >= 16
    assert lake.vacuum(0) >= 16
    assert stored_numbers(lake.url) == {"s": [*range(1, 9)], "t": [1, 2, 3]}
    receipt = lake.forget(session="s")
    assert (receipt.events, receipt.sessions) == (8, 1)
    assert (stored_numbers(lake.url), set(stored_runs(lake.url))) == ({"t": [1, 2, 3]}, {"t"})
    append(lake, claim, 0, 10, numbered("t", 1, 4))
    assert stored_numbers(lake.url) == {"t": [1, 2, 3, 4]}


@pytest.mark.slow
def test_answers_that_are_lost_cost_nothing(
    lake: Lake, store: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 1, numbered("s", 1, 1))
    commit = Table.commit
    for sequence in range(2, 8):

        def commit_unheard(table: Table, *arguments: object, number: int = sequence) -> None:
            # The connections end within the answers to this commit.
            store.cut_after(10 * number, Direction.TO_CLIENT)
            commit(table, *arguments)  # type: ignore[arg-type]

        with monkeypatch.context() as cut:
            cut.setattr(Table, "commit", commit_unheard)
            claim.rows().add(0, sequence, 1_795_953_600_000, numbered("s", 1, sequence))
            while claim.offset(0) < sequence:
                try:
                    lake.append(claim, claim.rows(), {0: sequence})
                except LakeError:
                    cut.undo()
                except LostPartitionsError:
                    claim.add([0])
                    if claim.offset(0) < sequence:
                        claim.rows().add(0, sequence, 1_795_953_600_000, numbered("s", 1, sequence))
    assert stored_numbers(lake.url) == {"s": [*range(1, 8)]}
    assert stored_runs(lake.url)["s"].total() == 7


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_store_that_is_away_is_a_clear_error(lake: Lake, store: FaultProxy) -> None:
    claim = lake.claim(STREAM, [0])
    claim.rows().add(0, 1, 1_795_953_600_000, numbered("s", 1, 3))
    store.refuse(True)
    store.reset()
    with pytest.raises(LakeError):
        lake.append(claim, claim.rows(), {0: 1})
    with pytest.raises(LakeError):
        Lake.open(lake.url)
    store.refuse(False)
    lake.append(claim, claim.rows(), {0: 1})
    assert stored_numbers(lake.url) == {"s": [1, 2, 3]}
