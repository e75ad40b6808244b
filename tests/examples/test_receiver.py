"""The receiver's counts: what the demo's verdict rests on."""

from __future__ import annotations

import json

from receiver import Arrivals, Counts
from receiver_process import receiver_process
from websockets.sync.client import connect


def batch(session: str, *sequence: int) -> str:
    return json.dumps([{"sessionId": session, "seq": seq} for seq in sequence])


def test_nothing_received_counts_nothing() -> None:
    assert Arrivals().counts() == Counts(received=0, unique=0, repeats=0, gaps=0)


def test_repeats_and_gaps_are_counted_within_each_session() -> None:
    arrivals = Arrivals()
    arrivals.count(batch("first", 1, 2, 3))
    arrivals.count(batch("first", 2, 3, 6))
    arrivals.count(batch("second", 1, 2))

    assert arrivals.counts() == Counts(received=8, unique=6, repeats=2, gaps=2)


def test_child_process_counts_what_was_sent_to_it() -> None:
    with receiver_process() as receiver:
        with connect(receiver.url) as connection:
            connection.send(batch("first", 1, 2))
            connection.send(batch("first", 2, 4))
        counts = receiver.finish()

    assert counts == Counts(received=4, unique=3, repeats=1, gaps=1)
