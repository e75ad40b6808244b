"""A short chaos run, and a test of each of its checks."""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from benchmarks import chaos
from benchmarks.chaos import Life
from benchmarks.notes import Notes
from benchmarks.receiver import Arrival, Arrivals, Book, Event, Receiver
from redvsblue_telemetry import TelemetryStats
from redvsblue_telemetry._compression import supported
from tests.client.test_fork import needs_fork

SESSION = "a-session"


def batch(*seqs: int, thread: int = 0, session: str = SESSION) -> str:
    return json.dumps(
        [{"sessionId": session, "seq": n, "data": {"thread": thread, "n": n}} for n in seqs]
    )


def arrived(*batches: str, delivered: int = 0) -> Arrivals:
    """The arrivals after these batches, each sent on its own connection."""
    arrivals = Arrivals(SESSION, lambda: delivered)
    for each in batches:
        arrivals.store(each, arrivals.connected())
    return arrivals


def found(arrivals: Arrivals, **ledger: Any) -> str:
    delivered = ledger.get("delivered", arrivals.unique)
    numbers: dict[str, Any] = {"emitted": delivered, "delivered": delivered, **ledger}
    stats = TelemetryStats(**numbers)
    return "; ".join(chaos.problems(stats, arrivals, stats.emitted + stats.rejected))


# The run itself.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("has_acks", "seconds", "seed", "encoding"),
    [(True, 5, 4, None), (False, 2.5, 7, None), (True, 5, 5, "deflate"), (False, 2.5, 8, "zstd")],
)
def test_a_short_run_adds_up(
    has_acks: bool, seconds: float, seed: int, encoding: str | None
) -> None:
    if encoding not in (None, *supported()):
        pytest.skip(f"needs {encoding}")
    report = chaos.run(
        seconds=seconds, seed=seed, has_acks=has_acks, has_journal=False, encoding=encoding
    )
    assert report.problems == []
    assert (report.lost, report.games) == (0, 1)
    assert report.ledger["emitted"] == report.emitted_by_threads > 500 * seconds
    assert report.ledger["delivered"] + report.ledger["dropped"] == report.ledger["emitted"]
    assert report.receiver["unique"] == report.ledger["delivered"]
    assert report.reconnects > 0
    assert (report.receiver["compressed"] > 10) is (encoding is not None)
    assert "kill" not in report.faults
    assert sum(report.faults.values()) >= 2
    assert all(line for line in report.lines())


@pytest.mark.slow
@needs_fork
def test_a_short_run_with_kills_loses_nothing() -> None:
    # A schedule with kills after 1, 2 and 4 seconds: a slow machine gets to the second of them.
    report = chaos.run(seconds=8, seed=43, encoding=supported()[0])
    assert report.problems == []
    assert report.receiver["compressed"] > 10
    assert report.lost == 0
    assert report.games == report.faults["kill"] + 1 > 2
    assert report.receiver["unique"] >= report.emitted_by_threads > 2000
    assert report.ledger["recovered"] > 0


def test_a_server_that_forgets_an_event_makes_the_run_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Forgetful(Arrivals):
        def keep(self, events: list[Event], arrival: Arrival) -> None:
            super().keep([e for e in events if e.seq != 300] or events, arrival)

    monkeypatch.setattr(chaos, "Arrivals", Forgetful)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the run keeps its evidence there
    target = tmp_path / "results" / "chaos.json"
    command = ["chaos", "--minutes", "0.02", "--seed", "1", "--no-journal", "--json"]
    monkeypatch.setattr(sys, "argv", [*command, str(target)])
    assert chaos.main() == 1
    report = json.loads(target.read_text())
    assert report["lost"] == 1
    assert "1 events were lost; among those that never arrived: [300]" in report["problems"]
    printed = capsys.readouterr().out
    assert printed.startswith("seed 1\n")
    assert "PROBLEM: 1 events were lost" in printed


# The server.


def test_a_killed_server_sends_no_close_code_and_stored_batches_stay() -> None:
    arrivals = Arrivals(SESSION)
    with Receiver(arrivals) as receiver:
        for number, code in enumerate((None, 1012), 1):
            with connect(f"ws://127.0.0.1:{receiver.listen()}/", compression=None) as client:
                client.send(batch(number))
                assert json.loads(client.recv(timeout=5)) == {"ack": 1}
                receiver.kill() if code is None else receiver.close(code)
                with pytest.raises(ConnectionClosedError) as closed:
                    client.recv(timeout=5)
                assert (closed.value.rcvd and closed.value.rcvd.code) == code
            assert arrivals.unique == number


def sent(receiver: Receiver, *messages: str | bytes, offer: str) -> dict[str, int]:
    """Offer an encoding, send messages, and return what was answered to the last."""
    url = f"ws://127.0.0.1:{receiver.listen()}/"
    headers = {"Telemetry-Encoding": offer}
    with connect(url, compression=None, additional_headers=headers) as client:
        answers = []
        for message in messages:
            client.send(message)
            answers.append(json.loads(client.recv(timeout=5)))
    answer: dict[str, int] = answers[-1]
    return answer


def messages_of(receiver: Receiver) -> str:
    return "; ".join(chaos.problems_of_messages(receiver, is_compressed=True))


def test_compressed_messages_are_stored_and_counted() -> None:
    arrivals = Arrivals(SESSION)
    packed = [zlib.compress(batch(n).encode()) for n in (1, 2)]
    with Receiver(arrivals, encoding="deflate") as receiver:
        assert sent(receiver, *packed, batch(3), offer="zstd, deflate") == {"ack": 3}
        assert (arrivals.unique, receiver.compressed) == (3, 2)
        assert messages_of(receiver) == ""


def test_a_client_that_does_not_compress_is_a_problem() -> None:
    with Receiver(Arrivals(SESSION), encoding="deflate") as receiver:
        sent(receiver, batch(*range(1, 50)), offer="deflate")
        assert messages_of(receiver) == (
            "no message came compressed; 1 messages came as text that should have been compressed"
        )


@pytest.mark.parametrize("encoding", [None, "deflate"])
def test_a_message_that_cannot_be_unpacked_is_a_problem(encoding: str | None) -> None:
    with Receiver(Arrivals(SESSION), encoding=encoding) as receiver:
        with pytest.raises(ConnectionClosedError):
            sent(receiver, b"neither", offer="deflate")
        assert "malformed: " in messages_of(receiver)


# The schedule.


def test_a_seed_repeats_its_schedule() -> None:
    def steps(seed: int) -> list[chaos.Step]:
        return list(islice(chaos.schedule(seed, has_acks=True, kills=True), 200))

    assert steps(1) == steps(1) != steps(2)
    assert {step.fault for step in steps(1)} == {*chaos.FAULTS, *chaos.ACKS_ONLY}
    assert any(step.resets for step in steps(1))
    assert 5 < sum(step.is_deadly for step in steps(1)) < 50


def test_without_acks_the_server_never_loses_events() -> None:
    steps = list(islice(chaos.schedule(1, has_acks=False, kills=False), 500))
    assert {step.fault for step in steps} == set(chaos.FAULTS)
    assert not any(step.is_deadly for step in steps)


# The checks.


def test_events_that_arrive_once_and_in_order_are_not_a_problem() -> None:
    arrivals = arrived(batch(1, 2, 3), batch(4, 5))
    assert found(arrivals) == ""
    assert (arrivals.unique, arrivals.duplicates, arrivals.batches) == (5, 0, 2)


def test_a_batch_in_flight_may_be_repeated() -> None:
    arrivals = arrived(batch(1, 2, 3), batch(4, 5), batch(4, 5), delivered=3)
    assert found(arrivals) == ""
    assert (arrivals.duplicates, arrivals.repeated_batches) == (2, 1)


def test_an_event_that_never_arrived_is_lost() -> None:
    assert "1 events were lost; among those that never arrived: [2]" in found(
        arrived(batch(1, 3)), emitted=3, delivered=3
    )
    assert "1 events were lost; among those that never arrived: [4]" in found(
        arrived(batch(1, 2, 3)), emitted=4, delivered=4
    )


def test_an_event_that_was_counted_as_dropped_is_not_lost() -> None:
    assert found(arrived(batch(1, 3)), emitted=3, delivered=2, dropped=1) == ""
    assert "lost" in found(arrived(batch(1, 4)), emitted=4, delivered=3, dropped=1)


def test_a_dropped_event_that_arrived_is_a_problem() -> None:
    assert "2 events were delivered, but 3 arrived" in found(
        arrived(batch(1, 2, 3)), emitted=3, delivered=2, dropped=1
    )


@pytest.mark.parametrize(
    ("left", "problem"),
    [
        ({"in_flight": 1}, "not settled: 0 buffered, 1 in flight"),
        ({"buffered": 1}, "not settled: 1 buffered, 0 in flight"),
    ],
)
def test_an_event_left_in_the_library_is_a_problem(left: dict[str, int], problem: str) -> None:
    # All four arrived, so that nothing else is wrong but the count of delivered events.
    problems = found(arrived(batch(1, 2, 3, 4)), emitted=4, delivered=3, **left)
    assert problems == f"{problem}; 3 events were delivered, but 4 arrived"


def test_the_count_of_the_threads_is_compared() -> None:
    stats = TelemetryStats(emitted=3, delivered=3)
    words = list(chaos.problems(stats, arrived(batch(1, 2, 3)), emitted=4))
    assert words == ["the threads emitted 4 events, the library counts 3"]


def test_a_first_arrival_out_of_order_is_a_problem() -> None:
    assert "out_of_order: 2 arrived after 3" in found(arrived(batch(1, 3), batch(2)))


def test_events_of_a_thread_that_changed_places_are_a_problem() -> None:
    swapped = batch(1, 2).replace('"n": 1', '"n": 9')
    assert "thread_disorders: 1" in found(arrived(swapped))


def test_a_repeat_of_a_confirmed_batch_is_a_problem() -> None:
    words = found(arrived(batch(1, 2, 3), batch(4, 5), batch(4, 5), delivered=4))
    assert "unexplained: batch 4-5 repeated, though confirmed to 4" in words


@pytest.mark.parametrize("repeat", [(1, 2), (2, 3), (1, 2, 3, 4), (3, 4, 5), (3, 6)])
def test_a_repeat_of_a_changed_batch_is_a_problem(repeat: tuple[int, ...]) -> None:
    words = found(arrived(batch(1, 2, 3), batch(4, 5), batch(*repeat)))
    assert "is not the batch that was sent before" in words


def test_a_repeat_on_the_same_connection_is_a_problem() -> None:
    arrivals = Arrivals(SESSION)
    connection = arrivals.connected()
    for _ in range(2):
        arrivals.store(batch(1, 2), connection)
    assert "batch 1-2 after 2 on one connection" in found(arrivals)


def test_a_repeat_within_a_batch_is_a_problem() -> None:
    assert "unexplained" in found(arrived(batch(1, 1)))


def test_an_event_of_another_session_is_a_problem() -> None:
    assert "strangers: 1" in found(arrived(batch(1), batch(7, session="another")))


def test_an_event_that_was_never_emitted_is_a_problem() -> None:
    assert "event 9 arrived, but only 3 were emitted" in found(arrived(batch(1, 2, 9)), emitted=3)


# Games that were killed.


def left(*numbers: int) -> str:
    """A batch whose events have these numbers in their thread, which counts from 0."""
    events = json.loads(batch(*numbers))
    return json.dumps([{**event, "seq": event["seq"] + 1} for event in events])


def left_by(tmp_path: Path, arrivals: Arrivals, begun: int, returned: int) -> str:
    """What is found about a game with one thread, which was killed."""
    arrivals.is_taken_over = True
    notes = Notes(tmp_path / "notes")
    notes.words[Notes.slot(0)], notes.words[Notes.slot(0) + 1] = begun, returned
    found = "; ".join(chaos.problems_of_killed(Life(3, arrivals, notes, threads=1)))
    notes.close()
    return found


@pytest.mark.parametrize("returned", [3, 4])
def test_a_killed_game_whose_events_arrived_is_not_a_problem(returned: int, tmp_path: Path) -> None:
    arrivals = arrived(left(0, 1), left(2, 3))
    assert left_by(tmp_path, arrivals, begun=4, returned=returned) == ""


@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 1, 3), (1, 2, 3)])
def test_an_event_of_a_killed_game_that_never_arrived_is_lost(
    numbers: tuple[int, ...], tmp_path: Path
) -> None:
    found = left_by(tmp_path, arrived(left(*numbers)), begun=4, returned=4)
    assert found == "1 events of game 3, which was killed, were lost"


def test_more_events_than_a_killed_game_has_begun_are_a_problem(tmp_path: Path) -> None:
    found = left_by(tmp_path, arrived(left(0, 1, 2)), begun=2, returned=2)
    assert found == "game 3 emitted 2 events, but 3 arrived"


def test_who_takes_over_may_cut_other_batches_but_not_change_the_order(tmp_path: Path) -> None:
    arrivals = arrived(left(0, 1, 2), left(3, 4))
    arrivals.is_taken_over = True
    arrivals.store(left(1, 2, 3, 4, 5), arrivals.connected())
    assert left_by(tmp_path, arrivals, begun=6, returned=6) == ""
    arrivals.store(left(8), arrivals.connected())
    arrivals.store(left(7), arrivals.connected())
    assert "out_of_order: 8 arrived after 9" in left_by(tmp_path, arrivals, begun=9, returned=6)


def test_a_book_keeps_each_session_apart_and_counts_strangers() -> None:
    book, one, two = Book(), Arrivals("one"), Arrivals("two")
    book.begin("one", one)
    book.begin("two", two)
    visit = book.connected()
    mixed = json.loads(batch(1, 2, session="one")) + json.loads(batch(1, session="two"))
    book.store(json.dumps(mixed), visit)
    book.store(batch(1, session="three"), visit)
    assert (one.unique, two.unique, book.strangers) == (2, 1, 1)


def test_the_rank_of_an_event_is_found_across_gaps_and_blocks() -> None:
    seqs = [*range(3, 20_000, 3), *range(70_000, 70_010)]
    arrivals = Arrivals(SESSION, lambda: rank)
    rank = 0
    arrivals.store(batch(*seqs), arrivals.connected())
    for rank in (1, 2, 5000, len(seqs) - 10, len(seqs) - 9, len(seqs)):
        assert arrivals.connected().confirmed_seq == seqs[rank - 1]
    rank = 0
    assert arrivals.connected().confirmed_seq == 0
