"""The ledger: every event ends in one count, and the rest is derived."""

from __future__ import annotations

import threading

from redvsblue_telemetry import TelemetryStore
from redvsblue_telemetry._recording.ledger import Counts, DropReason, Ledger


def by_reason(**counts: int) -> dict[str, int]:
    return {reason.value: 0 for reason in DropReason} | counts


def test_every_event_is_in_one_count() -> None:
    store = TelemetryStore[int](10)
    ledger = Ledger(store)
    for number in range(12):  # two overflow
        store.push(number)
    next(ledger.rejections)
    assert ledger.read() == Counts(
        emitted=12,
        recovered=0,
        delivered=0,
        dropped=2,
        buffered=10,
        in_flight=0,
        rejected=1,
        dropped_by=by_reason(overflow=2),
        sampled={},
    )
    store.drain(7)
    assert ledger.read().in_flight == 7
    ledger.deliver(2)
    ledger.drop(1, DropReason.FILTERED)
    ledger.drop(1, DropReason.REFUSED)
    assert ledger.reject_reviewed() == 1
    counts = ledger.read()
    assert counts == Counts(
        emitted=11,
        recovered=0,
        delivered=2,
        dropped=4,
        buffered=3,
        in_flight=2,
        rejected=2,
        dropped_by=by_reason(overflow=2, filtered=1, refused=1),
        sampled={},
    )
    assert not counts.is_settled


def test_at_the_end_the_rest_is_left_behind() -> None:
    store = TelemetryStore[int](10)
    ledger = Ledger(store)
    store.push(1)
    ledger.drop(store.clear(), DropReason.LEFT_BEHIND)
    assert (ledger.left_behind, ledger.read().dropped) == (1, 1)
    assert ledger.read().is_settled
    store.push(2)  # by an emit that began before the stop and ended after it
    counts = ledger.read(is_over=True)
    assert (counts.emitted, counts.dropped, counts.buffered) == (2, 2, 0)
    assert counts.dropped_by == by_reason(left_behind=2)


def test_a_new_session_counts_from_zero() -> None:
    store = TelemetryStore[int](1)
    ledger = Ledger(store)
    for number in range(3):
        store.push(number)
    ledger.drop(store.clear(), DropReason.SWITCHED_OFF)
    next(ledger.rejections)
    ledger.reject_reviewed()
    ledger.deliver(1)
    store.begin()
    ledger.begin()
    assert ledger.read() == Counts(0, 0, 0, 0, 0, 0, 0, by_reason(), {})


def test_no_count_is_negative_while_events_move() -> None:
    store = TelemetryStore[int](50)
    ledger = Ledger(store)
    is_over = threading.Event()

    def emit() -> None:
        for number in range(20_000):
            store.push(number)
        is_over.set()

    def deliver() -> None:
        while not is_over.is_set():
            ledger.deliver(len(store.drain(3)))

    threads = [threading.Thread(target=emit), threading.Thread(target=deliver)]
    for thread in threads:
        thread.start()
    while not is_over.is_set():
        counts = ledger.read()
        assert min(counts.in_flight, counts.buffered, counts.delivered) >= 0, counts
    for thread in threads:
        thread.join(20)
    ledger.deliver(len(store.drain(50)))
    counts = ledger.read()
    assert (counts.emitted, counts.in_flight, counts.buffered) == (20_000, 0, 0)
