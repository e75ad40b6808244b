"""Dead runs: their events in order, once, with their numbers; what is settled is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from redvsblue_telemetry._journal.dead import DeadRun, RunFiles
from redvsblue_telemetry._journal.directory import JournalDirectory
from redvsblue_telemetry._journal.layout import BASE_AT, base_entry
from redvsblue_telemetry._journal.run import RunDirectory
from tests.support.journal import STARTED_AT, Segment, numbers_of, records, write_run
from tests.support.killed_steps import Hook, is_killed_after


def only_run(journal: Path) -> DeadRun:
    (run,) = JournalDirectory(journal).dead_runs()
    return run


def take_all(run: DeadRun, limit: int = 50) -> list[int]:
    numbers: list[int] = []
    while some := run.take(limit):
        assert len(some) <= limit
        numbers += numbers_of(some)
    return numbers


def three_segments(**last: bool) -> list[Segment]:
    return [
        Segment(number=1, first=1, records=records(1, 100), indexed=100, is_full=True),
        Segment(number=2, first=101, records=records(101, 100), indexed=70, is_full=True),
        Segment(number=3, first=201, records=records(201, 30), **last),
        Segment(number=4, first=0, has_base=False),
    ]


@pytest.mark.parametrize("has_base", [True, False])
def test_all_events_are_taken_in_order(tmp_path: Path, has_base: bool) -> None:
    write_run(tmp_path, *three_segments(has_base=has_base))
    run = only_run(tmp_path)
    assert (run.waiting, run.oldest) == (230, STARTED_AT + 1)
    assert take_all(run) == list(range(1, 231))
    assert (run.waiting, run.oldest, run.torn, run.is_settled) == (0, None, 0, False)
    run.confirm(230)
    assert run.is_settled
    run.release()
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_confirmed_is_there_again(tmp_path: Path) -> None:
    write_run(tmp_path, *three_segments())
    run = only_run(tmp_path)
    assert numbers_of(run.take(150)) == list(range(1, 151))
    run.confirm(117)
    run.release()
    again = only_run(tmp_path)
    assert (again.waiting, again.confirmed) == (113, 117)
    assert take_all(again) == list(range(118, 231))
    again.release()


def test_settled_segments_are_deleted_and_the_next_one_keeps_its_number(tmp_path: Path) -> None:
    path = write_run(
        tmp_path,
        Segment(number=1, first=1, records=records(1, 100), is_full=True),
        Segment(number=2, first=101, records=records(101, 50), has_base=False),
    )
    run = only_run(tmp_path)
    before, first = run.size, path.joinpath("00000001.events").stat().st_size
    assert numbers_of(run.take(120)) == list(range(1, 121))
    run.confirm(100)
    assert not path.joinpath("00000001.events").exists()
    assert run.size == before - first
    run.release()
    again = only_run(tmp_path)
    assert take_all(again) == list(range(101, 151))
    again.delete()


def test_the_events_of_the_oldest_segment_are_taken_out_to_be_dropped(tmp_path: Path) -> None:
    path = write_run(tmp_path, *three_segments())
    run = only_run(tmp_path)
    assert numbers_of(run.take(20)) == list(range(1, 21))
    size = run.size
    assert run.skip_oldest_segment() == (100, 80)
    assert path.joinpath("00000001.events").exists()
    run.confirm(100)
    assert not path.joinpath("00000001.events").exists()
    assert size - run.size > 16384
    assert take_all(run) == list(range(101, 231))
    assert run.skip_oldest_segment() == (230, 0)
    assert run.is_taken
    run.delete()


def test_what_is_settled_is_noted_before_its_file_goes(tmp_path: Path) -> None:
    path = write_run(tmp_path, *three_segments())
    run = only_run(tmp_path)
    assert (run.first, run.last) == (1, 230)
    assert numbers_of(run.take(150)) == list(range(1, 151))
    run.confirm(130)  # at once, so the note is not due
    assert not path.joinpath("00000001.events").exists()
    files = RunFiles(RunDirectory.segments_in(path))  # as after a kill at this moment
    assert (files.confirmed, files.first) == (130, 101)
    run.delete()


def settle(path: Path, hook: Hook) -> None:
    run = only_run(path.parent)
    take_all(run)
    hook()
    run.confirm(230)


@pytest.mark.timeout(600)  # without fork, each child imports everything again
def test_what_a_kill_left_of_settled_files_says_that_all_is_settled(tmp_path: Path) -> None:
    steps, left, is_killed = 0, set(), True
    while is_killed:
        path = write_run(tmp_path / str(steps), *three_segments())
        is_killed = is_killed_after(steps, path, settle)
        segments = RunDirectory.segments_in(path)
        if len(segments) not in {0, 4}:
            left.add(len(segments))
            files = RunFiles(segments)
            assert (files.confirmed, files.last_number()) == (230, 230)
            assert [pair for pairs in files.read() for pair in pairs] == []
        steps += 1
    assert left == {1, 2, 3}


def test_numbers_that_are_not_sure_are_not_delivered(tmp_path: Path) -> None:
    path = write_run(tmp_path, *three_segments(has_base=False))
    path.joinpath("00000002.events").unlink()
    run = only_run(tmp_path)
    assert take_all(run) == list(range(1, 101))
    assert run.torn == 30
    run.delete()


@pytest.mark.parametrize("lost", [0, 20])
def test_numbers_after_the_last_page_that_a_power_cut_took_are_not_sure(
    tmp_path: Path, lost: int
) -> None:
    write_run(
        tmp_path,
        Segment(number=1, first=1, records=records(1, 100 - lost)),  # the pages end at a record
        Segment(number=2, records=records(101, 20), has_base=False),
        Segment(number=3, first=121, records=records(121, 10)),
    )
    run = only_run(tmp_path)
    assert take_all(run) == [*range(1, 101 - lost), *range(121, 131)]
    assert run.torn == 20
    run.delete()


@pytest.mark.parametrize("is_left", [False, True])
def test_a_segment_that_was_given_up_leaves_the_numbers_sure(tmp_path: Path, is_left: bool) -> None:
    # Two threads made one at once, and the game was killed before either had a base.
    write_run(
        tmp_path,
        Segment(number=1, first=1, records=records(1, 100), has_base=False, is_full=True),
        *[Segment(number=2, has_base=False, previous=1)][: 1 if is_left else 0],
        Segment(number=3, records=records(101, 20), has_base=False, is_full=True, previous=1),
        Segment(number=4, records=records(121, 3), has_base=False),
    )
    run = only_run(tmp_path)
    assert numbers_of(run.take(60)) == list(range(1, 61))
    run.release()
    again = only_run(tmp_path)
    numbers = numbers_of(again.take(110))
    again.confirm(100)  # its segment is deleted
    again.release()
    last = only_run(tmp_path)
    assert [*numbers, *take_all(last)] == [*range(1, 111), *range(101, 124)]
    assert last.torn == 0
    last.delete()


def test_a_first_segment_need_not_have_the_number_1(tmp_path: Path) -> None:
    write_run(tmp_path, Segment(number=2, records=records(1, 5), has_base=False, previous=0))
    run = only_run(tmp_path)
    assert take_all(run) == [1, 2, 3, 4, 5]
    run.delete()


def test_a_run_that_was_killed_before_its_header_was_written_is_removed(tmp_path: Path) -> None:
    path = write_run(tmp_path, Segment(has_base=False)) / "00000001.events"
    content = path.read_bytes()
    base = base_entry(1) * 2
    path.write_bytes(bytes(BASE_AT) + base + content[BASE_AT + len(base) :])
    assert list(JournalDirectory(tmp_path).dead_runs()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_segment_without_a_header_has_that_of_its_run(tmp_path: Path) -> None:
    path = write_run(tmp_path, *three_segments())
    for number in (1, 3):
        segment = path / f"{number:08}.events"
        segment.write_bytes(bytes(16384) + segment.read_bytes()[16384:])
    run = only_run(tmp_path)
    assert take_all(run) == list(range(1, 231))
    run.delete()


def test_a_segment_that_cannot_be_read_costs_no_other(tmp_path: Path) -> None:
    path = write_run(tmp_path, *three_segments())
    run = only_run(tmp_path)
    path.joinpath("00000002.events").unlink()  # after its entries were read
    assert take_all(run) == [*range(1, 101), *range(201, 231)]
    run.delete()


def test_a_copied_segment_repeats_nothing(tmp_path: Path) -> None:
    path = write_run(tmp_path, *three_segments())
    copy = path.joinpath("00000001.events").read_bytes()
    path.joinpath("00000004.events").write_bytes(copy)
    run = only_run(tmp_path)
    assert take_all(run) == list(range(1, 231))
    run.delete()


def test_a_segment_of_another_run_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    foreign = Segment(number=4, first=231, records=records(231, 9), run="fedcba9876543210")
    write_run(tmp_path, *three_segments()[:3], foreign)
    run = only_run(tmp_path)
    assert take_all(run) == list(range(1, 231))
    run.delete()


def test_what_is_confirmed_is_noted_in_a_file_with_holes(tmp_path: Path) -> None:
    segment = Segment(records=records(1, 9), data_bytes=1 << 20)
    path = write_run(tmp_path, segment) / "00000001.events"
    path.write_bytes(b"")
    with path.open("r+b") as file:  # as on a file system that compresses
        file.write(segment.content[: 1 << 15])
        file.seek(16384 + (1 << 20))
        file.write(segment.content[16384 + (1 << 20) :])
    run = only_run(tmp_path)
    assert numbers_of(run.take(5)) == [1, 2, 3, 4, 5]
    run.confirm(3)
    run.release()
    again = only_run(tmp_path)
    assert take_all(again) == list(range(4, 10))
    again.delete()


def test_nothing_is_appended_where_records_are_looked_for(tmp_path: Path) -> None:
    segment = Segment(records=records(1, 9))
    path = write_run(tmp_path, segment) / "00000001.events"
    path.write_bytes(segment.content[: 16384 + sum(map(len, segment.records))])
    run = only_run(tmp_path)
    assert numbers_of(run.take(5)) == [1, 2, 3, 4, 5]
    run.confirm(3)
    run.release()
    again = only_run(tmp_path)
    assert take_all(again) == list(range(1, 10))
    again.delete()
