"""Rotation: segments become active in the order of their numbers, each once, and only if needed."""

from __future__ import annotations

from collections import deque

import pytest

from redvsblue_telemetry._journal.rotation import Rotation, refuse
from redvsblue_telemetry._journal.segment import Segment
from redvsblue_telemetry._recording.store import Journal


@pytest.fixture
def journal() -> Journal:
    return Journal(lambda _: None)


@pytest.fixture
def rotation(journal: Journal) -> Rotation:
    return Rotation(journal)


def made(rotation: Rotation) -> Segment:
    return Segment(rotation.next_number(), 4096)


def test_segments_become_active_in_order(journal: Journal, rotation: Rotation) -> None:
    segments = [made(rotation) for _ in range(3)]
    for segment in segments:
        assert rotation.line_up(segment)
    assert (rotation.spares, rotation.newest, rotation.reached) == (3, 3, None)
    former = refuse
    counted: deque[Segment] = deque()
    for segment in segments:
        assert rotation.publish(former)
        assert journal.write is segment.write
        assert rotation.reached is segment
        rotation.move_reached(counted)
        former = segment.write
    assert (list(counted), list(rotation.ahead)) == (segments, [])
    assert not rotation.publish(former)
    assert journal.write is former


def test_a_segment_that_another_thread_has_overtaken_is_not_lined_up(rotation: Rotation) -> None:
    early, late = made(rotation), made(rotation)
    assert rotation.line_up(late)
    assert not rotation.line_up(early)
    assert (rotation.spares, list(rotation.ahead)) == (1, [late])


def test_of_two_threads_with_a_full_segment_one_publishes(
    journal: Journal, rotation: Rotation
) -> None:
    first, second = made(rotation), made(rotation)
    rotation.line_up(first)
    rotation.line_up(second)
    assert rotation.publish(refuse)
    assert rotation.publish(refuse)  # the other one finds that this was done
    assert (journal.write, rotation.spares) == (first.write, 1)


def test_a_retired_rotation_has_no_active_segment(journal: Journal, rotation: Rotation) -> None:
    rotation.line_up(made(rotation))
    rotation.publish(refuse)
    rotation.line_up(made(rotation))
    rotation.retire_all()
    assert (journal.write, rotation.spares) == (refuse, 0)
    with pytest.raises(ValueError, match="no segment"):
        journal.write(b"x")
