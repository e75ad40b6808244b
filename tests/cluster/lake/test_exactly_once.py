"""Any interleaving of appends, repeats, takeovers, crashes and errors stores each number once."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redvsblue_telemetry.cluster.lake.errors import LakeError, LostPartitionsError
from redvsblue_telemetry.cluster.lake.lake import Claim, Lake
from redvsblue_telemetry.cluster.lake.table import Table
from tests.support.lake import NOON, STREAM, numbered, stored, stored_numbers, stored_runs

PARTITIONS = (0, 1)
Sent = tuple[str, int, int]  # a session, its first number and its last
# Sessions of different partitions have different names. Ranges overlap, touch, and have gaps.
MESSAGE = st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.integers(0, 4)).map(
    lambda each: (each[0], each[1], each[1] + each[2])
)
STREAMS = st.tuples(*[st.lists(MESSAGE, min_size=1, max_size=8)] * len(PARTITIONS))
EIGHT: list[Sent] = [("a", 3 * place, 3 * place + 4) for place in range(8)]
FAULTS = st.sampled_from(["", "", "before", "after", "doubt before", "doubt after", "compact"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.sampled_from(["0", "1", "01"]), FAULTS),
        st.tuples(st.just("crash"), st.integers(0, 2), st.just("01"), st.just("")),
        st.tuples(st.just("release"), st.integers(0, 2), st.sampled_from("01"), st.just("")),
    ),
    max_size=14,
)


class Faults:
    """Makes commits fail, as a disk or an object store does: before they are made, or after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.next = ""
        self._commit, self._refresh = Table.commit, Table.refresh
        # A bound method would not get the table.
        monkeypatch.setattr(Table, "commit", lambda *args, **kw: self.commit(*args, **kw))  # noqa: PLW0108
        monkeypatch.setattr(Table, "refresh", lambda table: self.refresh(table))  # noqa: PLW0108
        self._unreadable = 0

    def commit(self, table: Table, *arguments: object, **options: object) -> None:
        fault, self.next = self.next, ""
        if fault.startswith("doubt"):
            self._unreadable = 1
        if fault.endswith("before"):
            raise LakeError("as if the disk were full")
        if fault == "compact":
            Lake(table.url).compact()
        self._commit(table, *arguments, **options)  # type: ignore[arg-type]
        if fault.endswith("after"):
            raise LakeError("as if the answer were lost")

    def refresh(self, table: Table) -> None:
        if self._unreadable:
            self._unreadable -= 1
            raise LakeError("as if the store were away")
        self._refresh(table)


class Loader:
    """A loader of the tests: it claims, reads the streams from its offsets, and appends."""

    def __init__(self, lake: Lake, streams: tuple[list[Sent], ...], faults: Faults) -> None:
        self._lake = lake
        self._faults = faults
        self._streams = streams
        self.claim: Claim | None = None

    def append(self, partitions: list[int], fault: str, *, all_of_it: bool = False) -> None:
        """Append some messages of partitions; claim those that aren't this loader's."""
        if self.claim is None:
            self.claim = self._lake.claim(STREAM, partitions)
        if not self.claim.partitions.issuperset(partitions):
            self.claim.add(partitions)
        rows = self.claim.rows()
        offsets = {each: self.claim.offset(each) for each in partitions}
        offsets.update(rows.sequences)
        for partition in partitions:
            left = self._streams[partition][offsets[partition] :]
            for session, first, last in left if all_of_it else left[:2]:
                offsets[partition] += 1
                message = numbered(f"{session}{partition}", first, last)
                rows.add(partition, offsets[partition], NOON, message)
        self._faults.next = fault
        with contextlib.suppress(LostPartitionsError):
            self._lake.append(self.claim, rows, offsets)
        self._faults.next = ""

    def release(self, partition: int) -> None:
        if self.claim is not None:
            self.claim.release([partition])

    def crash(self) -> None:
        self.claim = None


@contextlib.contextmanager
def new_lake() -> Iterator[Lake]:
    with tempfile.TemporaryDirectory() as folder:
        yield Lake.open(str(Path(folder) / "lake"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@given(streams=STREAMS, steps=STEPS)
@example(  # the commit in doubt was made, and by now more waits
    streams=(EIGHT, EIGHT),
    steps=[
        ("append", 0, "01", "doubt after"),
        ("append", 0, "01", ""),
        ("append", 0, "01", ""),
        ("append", 0, "01", ""),
    ],
)
@example(  # the same, and then another took over
    streams=(EIGHT, EIGHT),
    steps=[
        ("append", 0, "01", "doubt after"),
        ("append", 1, "0", "after"),
        ("append", 0, "01", ""),
        ("append", 0, "01", ""),
    ],
)
@example(  # a partition is lost before another one is added
    streams=(EIGHT, EIGHT),
    steps=[
        ("append", 0, "0", ""),
        ("append", 1, "0", ""),
        ("append", 0, "01", ""),
    ],
)
def test_each_number_is_stored_once_whatever_happens(
    streams: tuple[list[Sent], ...], steps: list[tuple[str, int, str, str]]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, new_lake() as lake:
        faults = Faults(monkeypatch)
        loaders = [Loader(lake, streams, faults) for _ in range(3)]
        for what, who, partitions, fault in steps:
            one, numbers = loaders[who], [int(each) for each in partitions]
            if what == "crash":
                one.crash()
            elif what == "release":
                one.release(*numbers)
            else:
                with contextlib.suppress(LakeError):
                    one.append(numbers, fault)
                faults.next = ""
        last = Loader(lake, streams, faults)
        last.append([*PARTITIONS], "", all_of_it=True)
        if steps and steps[0][1] == 0:
            lake.compact()

        expected: dict[str, list[int]] = {}
        for partition, stream in enumerate(streams):
            for session, first, end in stream:
                of_session = expected.setdefault(f"{session}{partition}", [])
                of_session += [each for each in range(first, end + 1) if each not in of_session]
        by_arrival: dict[str, list[int]] = {}
        for row in stored(lake.url):
            by_arrival.setdefault(row["session"], []).append(row["seq"])
        assert by_arrival == expected  # in the order in which they first came
        assert stored_numbers(lake.url) == {key: sorted(each) for key, each in expected.items()}
        runs = stored_runs(lake.url)
        assert {key: sorted(each.elements()) for key, each in runs.items()} == {
            key: sorted(each) for key, each in expected.items()
        }
        assert [last.claim.offset(each) for each in PARTITIONS if last.claim] == [
            len(stream) for stream in streams
        ]
