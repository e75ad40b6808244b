"""What is recovered from a damaged segment: all that was not hit, each with its own number."""

from __future__ import annotations

import subprocess
import sys

import pytest

from redvsblue_telemetry._journal.layout import HEADER_BYTES, confirmed_entry
from redvsblue_telemetry._journal.records import RecordReader
from redvsblue_telemetry._journal.recovery import SegmentRecovery
from tests.support import REPOSITORY
from tests.support.journal import DATA_BYTES, Segment, numbered_record, numbers_of, records

COUNT = 100
RECORDS = records(1, COUNT)
STARTS = [HEADER_BYTES + sum(map(len, RECORDS[:place])) for place in range(COUNT + 1)]
INDEXED = Segment(records=RECORDS, indexed=COUNT, group=20, is_full=True).content
HALF = Segment(records=RECORDS, indexed=50, group=10, is_full=True).content
UNINDEXED = Segment(records=RECORDS, is_full=True).content
ENTRIES_AT = HEADER_BYTES + DATA_BYTES


class Recovered:
    """The numbers of the events of a segment, and the recovery that found them."""

    def __init__(self, content: bytes, first: int | None = None, after: int = 0) -> None:
        recovery = SegmentRecovery(
            content, DATA_BYTES, first=first, after=after, reader=RecordReader()
        )
        self.numbers = [number for piece in recovery.pieces() for number in numbers_of(piece)]
        self.base = recovery.base
        self.next_number = recovery.next_number
        self.damaged = recovery.damaged


def numbers(content: bytes, first: int | None = None) -> list[int]:
    return Recovered(content, first).numbers


def without(*lost: int, last: int = COUNT) -> list[int]:
    return [number for number in range(1, last + 1) if number not in lost]


def put(content: bytes, at: int, other: bytes) -> bytes:
    return content[:at] + other + content[at + len(other) :]


@pytest.mark.parametrize("content", [INDEXED, HALF, UNINDEXED])
def test_nothing_is_lost_of_an_intact_segment(content: bytes) -> None:
    recovery = Recovered(content)
    assert numbers(content) == without()
    assert (recovery.base, recovery.next_number, recovery.damaged) == (1, 101, 0)


@pytest.mark.parametrize("at", [0, 1, 10, 25, -3, -2, -1])
def test_an_indexed_record_that_is_hit_is_lost_alone(at: int) -> None:
    start = STARTS[30] if at >= 0 else STARTS[31]
    content = put(INDEXED, start + at, b"#")
    assert numbers(content) == without(31)
    assert Recovered(content).damaged == 1
    assert Recovered(content).next_number == 101


def test_a_damaged_index_entry_costs_no_record() -> None:
    entry = INDEXED.index(b"RvBjI", ENTRIES_AT + 100)
    for at in range(entry, entry + 40, 7):
        assert numbers(put(INDEXED, at, b"#")) == without()


def test_records_without_an_index_entry_are_counted_from_both_sides() -> None:
    entry = INDEXED.index(b"RvBjI", INDEXED.index(b"RvBjI") + 1)
    content = put(INDEXED, entry, b"#")  # that of 21 to 40
    assert numbers(put(content, STARTS[29] + 9, b"#")) == without(30)
    # A boundary is lost, so there is one text less than there are numbers.
    assert numbers(put(content, STARTS[30] - 1, b"#")) == without(30)
    assert numbers(put(content, STARTS[30], b"#")) == without(31)
    # Between two damaged places, nothing can be counted.
    content = put(put(content, STARTS[25], b"#"), STARTS[35], b"#")
    assert numbers(content) == without(*range(26, 37))
    assert Recovered(content).damaged == 11


@pytest.mark.parametrize("inserted", [b"x", b"[1,", bytes(300), b"RvBj", RECORDS[4]])
@pytest.mark.parametrize("place", [0, 10, 99])
def test_indexed_records_are_found_where_they_have_moved_to(inserted: bytes, place: int) -> None:
    at = STARTS[place] + 5
    moved = INDEXED[:at] + inserted + INDEXED[at:]
    assert numbers(moved) == without(place + 1)
    removed = INDEXED[:at] + INDEXED[at + 1 :]
    assert numbers(removed) == without(place + 1)


def test_bytes_before_the_records_may_come_and_go() -> None:
    assert numbers(INDEXED[100:]) == without()
    assert numbers(bytes(7) + INDEXED) == without()


def test_blocks_that_changed_places_keep_their_numbers() -> None:
    one, two = slice(STARTS[10], STARTS[20]), slice(STARTS[20], STARTS[25])
    swapped = INDEXED[: one.start] + INDEXED[two] + INDEXED[one] + INDEXED[two.stop :]
    assert numbers(swapped) == without()


def test_the_tail_is_counted_up_to_the_first_damage() -> None:
    content = put(HALF, STARTS[80] + 9, b"#")
    assert numbers(content) == without(last=80)
    recovery = Recovered(content)
    assert (recovery.damaged, recovery.next_number) == (20, None)
    # The end of a record is hit, or the start of the next one.
    assert numbers(put(HALF, STARTS[80] - 1, b"#")) == without(last=79)
    assert numbers(put(HALF, STARTS[80], b"#")) == without(last=80)


def test_a_hole_of_zeros_ends_what_can_be_counted() -> None:
    content = put(HALF, STARTS[80] + 9, bytes(STARTS[90] - STARTS[80]))
    assert numbers(content) == without(last=80)
    assert Recovered(content).next_number is None


def test_a_hole_between_indexed_records_costs_those_in_it() -> None:
    content = put(INDEXED, STARTS[30] + 9, bytes(STARTS[40] - STARTS[30]))
    assert numbers(content) == without(*range(31, 42))


@pytest.mark.parametrize("kept", [1, 5, 19, 20, 21, 23, 30, -1])
@pytest.mark.parametrize("order", ["forward", "backward", "edges"])
def test_a_record_that_was_cut_off_is_not_an_event(kept: int, order: str) -> None:
    whole = numbered_record(101)
    count = kept % len(whole)
    torn = {
        "forward": whole[:count],
        "backward": bytes(len(whole) - count) + whole[-count:],
        "edges": whole[: count // 2]
        + bytes(len(whole) - count)
        + whole[len(whole) - (count + 1) // 2 :],
    }[order]
    recovery = Recovered(Segment(records=RECORDS, indexed=50, torn=torn.rstrip(b"\0")).content)
    assert recovery.numbers == without()
    assert recovery.damaged == 1
    assert recovery.next_number is None


def test_a_shortened_segment_keeps_what_is_there() -> None:
    for at in (STARTS[60], STARTS[60] + 30, STARTS[61] - 1):
        recovery = Recovered(INDEXED[:at], first=1)
        assert recovery.numbers == without(last=60)
        assert recovery.next_number is None
    assert numbers(b"", first=1) == []
    assert Recovered(INDEXED[: STARTS[100] + 1], first=1).next_number is None


def test_a_count_is_sure_only_if_the_segment_was_filled_to_the_last_byte() -> None:
    for content in (INDEXED, HALF, UNINDEXED):
        for at in (STARTS[100], STARTS[100] + 500, ENTRIES_AT - 1):
            recovery = Recovered(put(content, at, bytes(ENTRIES_AT - at)))
            assert (recovery.numbers, recovery.damaged) == (without(), 0)
            assert recovery.next_number is None
    assert Recovered(put(HALF, STARTS[80], bytes(ENTRIES_AT - STARTS[80]))).next_number is None


def test_a_tail_that_has_moved_is_not_counted() -> None:
    at = STARTS[70] + 30
    for content in (HALF[:at] + b"x" + HALF[at:], HALF[:at] + HALF[at + 200 :]):
        assert numbers(content) == without(last=50)
        assert Recovered(content).next_number is None


def test_the_number_of_the_first_record_may_come_from_the_segment_before() -> None:
    content = Segment(records=RECORDS, has_base=False).content
    assert numbers(content, first=1) == without()
    assert numbers(content) == []
    assert Recovered(content).damaged == COUNT


def test_without_a_first_number_the_count_is_from_the_right() -> None:
    content = Segment(records=RECORDS, indexed=COUNT, group=20, has_base=False).content
    content = put(content, content.index(b"RvBjI", ENTRIES_AT), b"#")
    assert numbers(content) == without()
    assert numbers(put(content, STARTS[10] + 9, b"#")) == without(*range(1, 12))


def test_a_segment_that_looks_empty_does_not_pass_the_number_on() -> None:
    recovery = Recovered(Segment(has_base=False).content, first=77)
    assert (recovery.next_number, recovery.damaged) == (None, 0)


def test_settled_events_are_left_out_and_their_damage_does_not_count() -> None:
    content = put(INDEXED, STARTS[30] + 9, b"#")
    recovery = Recovered(content, after=60)
    assert recovery.numbers == list(range(61, 101))
    assert recovery.damaged == 0


def test_text_like_an_entry_is_not_one() -> None:
    record = numbered_record(1).replace(b'"n":1', b'"n":1,"RvBj":"RvBjC"')
    content = Segment(records=[record, *RECORDS[1:]], indexed=0).content
    recovery = SegmentRecovery(content, DATA_BYTES, first=1, reader=RecordReader())
    assert sum(map(len, recovery.pieces())) == COUNT
    content += confirmed_entry(3)
    recovery = SegmentRecovery(content, DATA_BYTES, first=1, reader=RecordReader())
    assert sum(map(len, recovery.pieces())) == COUNT


@pytest.mark.parametrize(
    "change",
    [
        (b'"n":31', b'"n":3\xff'),
        (b'"type-3"', b'""      '),
        (b'{"n":31', b'["n":31'),
        (b"[179", b"[-x9"),
    ],
)
def test_an_unindexed_record_must_be_one(change: tuple[bytes, bytes]) -> None:
    record = RECORDS[30].replace(*change)
    assert len(record) == len(RECORDS[30])
    assert record != RECORDS[30]
    assert numbers(put(UNINDEXED, STARTS[30], record)) == without(last=30)


def test_a_file_that_is_all_record_beginnings_takes_no_minutes() -> None:
    junk = b'[1,"' * 60_000
    content = INDEXED[:HEADER_BYTES] + junk + INDEXED[ENTRIES_AT:]
    recovery = SegmentRecovery(content, len(junk), first=1, reader=RecordReader())
    assert list(filter(None, recovery.pieces())) == []
    assert recovery.damaged >= COUNT


def test_fuzzing_finds_nothing() -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--journal", "--inputs", "3000"]
    result = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "failed: 0" in result.stdout


def test_a_copy_of_an_indexed_record_is_not_another_event() -> None:
    content = put(HALF, STARTS[100], RECORDS[29])
    # It is number 30, wherever it is now, and its new place shows that bytes have changed theirs.
    assert numbers(put(content, STARTS[29] + 9, b"#")) == without(last=50)


def test_the_tail_has_as_many_records_as_the_next_segment_says() -> None:
    def found(content: bytes) -> tuple[list[int], int]:
        recovery = SegmentRecovery(content, DATA_BYTES, first=1, end=101, reader=RecordReader())
        return [n for piece in recovery.pieces() for n in numbers_of(piece)], recovery.damaged

    content = put(HALF, STARTS[81] - 2, b"#")
    assert found(content) == (without(81), 1)
    content = put(content, STARTS[60] - 1, b"#")  # two records look like one
    assert found(content) == (without(last=59), 41)
    cut = put(HALF, STARTS[80], bytes(STARTS[100] - STARTS[80]))
    assert found(cut) == (without(last=80), 20)
    assert found(put(HALF, STARTS[100], RECORDS[99])) == (without(last=50), 50)  # one too many
    # A flipped byte looks like a boundary, and garbage follows: only from the left is it sure.
    content = put(HALF, STARTS[72] + 30, b'}][1,"x')
    assert found(put(content, STARTS[100], b"#")) == (without(last=72), 28)
    assert found(put(HALF, STARTS[100], b"#")) == (without(), 0)
