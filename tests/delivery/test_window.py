"""The window: batches in flight, their confirmation, and the search for a refused event."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from redvsblue_telemetry._delivery.window import DeliveryWindow, InvalidConfirmationError

REFUSING_CODES = [1003, 1007, 1008, 1009, 1011]
OTHER_CODES = [None, 1000, 1001, 1005, 1006, 1012, 1013, 4000]


def make_window(
    *,
    max_batches: int = 512,
    max_bytes: int = 4_000_000,
    max_batch_bytes: int = 262_144,
    confirm_timeout: float = 10.0,
) -> DeliveryWindow:
    return DeliveryWindow(
        max_batches=max_batches,
        max_bytes=max_bytes,
        max_batch_bytes=max_batch_bytes,
        confirm_timeout=confirm_timeout,
    )


def events(*numbers: int) -> list[bytes]:
    return [b"%06d" % number for number in numbers]


def send(window: DeliveryWindow, now: float = 0.0) -> tuple[bytes, ...] | None:
    """Send the next batch, if one may be sent now."""
    batch = window.next_unsent()
    if batch is None:
        return None
    window.mark_sent(now)
    return batch.events


def send_all(window: DeliveryWindow, now: float = 0.0) -> list[tuple[bytes, ...]]:
    sent = []
    while (batch := send(window, now)) is not None:
        sent.append(batch)
    return sent


def refused_by(window: DeliveryWindow, close_code: int | None) -> bytes | None:
    """Lose the connection; return the event that the server refused, if it has been found."""
    refused = window.connection_lost(close_code)
    if refused is None:
        return None
    (event,) = refused.events
    return event


def window_with(*batches: Sequence[bytes]) -> DeliveryWindow:
    window = make_window()
    for batch in batches:
        window.load(batch)
    return window


# What is in it.


def test_an_empty_window_has_nothing_to_send_and_nothing_in_flight() -> None:
    window = make_window()

    assert window.is_empty
    assert window.next_unsent() is None
    assert window.in_flight == window.loaded == window.last_sent == 0
    assert window.round_trip is None
    assert window.has_room


def test_loading_nothing_makes_no_batch() -> None:
    window = window_with([])

    assert window.is_empty
    assert window.next_unsent() is None


def test_batches_are_sent_in_the_order_of_loading_and_numbered_from_1() -> None:
    window = window_with(events(1, 2), events(3))

    assert send(window) == (b"000001", b"000002")
    assert window.last_sent == 1
    assert send(window) == (b"000003",)
    assert window.last_sent == 2
    assert send(window) is None


def test_in_flight_counts_events_from_loading_to_confirmation() -> None:
    window = window_with(events(1, 2), events(3))
    assert window.in_flight == window.loaded == 3

    send_all(window)
    assert window.in_flight == 3

    window.confirm(1, now=1.0)
    assert window.in_flight == 1
    assert window.loaded == 3
    assert not window.is_empty


def test_awaits_confirmation_only_while_something_is_sent_and_unconfirmed() -> None:
    window = window_with(events(1))
    assert not window.awaits_confirmation

    send(window)
    assert window.awaits_confirmation

    window.confirm(1, now=1.0)
    assert not window.awaits_confirmation


def test_there_is_no_room_beyond_so_many_batches_until_one_is_confirmed() -> None:
    window = make_window(max_batches=2)
    window.load(events(1))
    assert window.has_room
    window.load(events(2))
    assert not window.has_room

    send_all(window)
    assert not window.has_room
    window.confirm(1, now=0.0)
    assert window.has_room


def test_there_is_no_room_beyond_so_many_bytes_until_some_are_confirmed() -> None:
    window = make_window(max_bytes=16)
    window.load([b"x" * 13])  # 15 bytes on the wire, with its brackets
    assert window.has_room
    window.load([b"y"])
    assert not window.has_room

    send_all(window)
    window.confirm(1, now=0.0)
    assert window.has_room


# Splitting by size.


def wire(batch: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(batch) + b"]"


def test_a_batch_of_exactly_the_allowed_bytes_is_not_split() -> None:
    window = make_window(max_batch_bytes=len(wire([b"1234", b"5678"])))
    window.load([b"1234", b"5678"])
    assert send_all(window) == [(b"1234", b"5678")]


def test_a_batch_of_one_byte_too_many_is_split() -> None:
    window = make_window(max_batch_bytes=len(wire([b"1234", b"5678"])) - 1)
    window.load([b"1234", b"5678"])
    assert send_all(window) == [(b"1234",), (b"5678",)]


@given(
    sizes=st.lists(st.integers(1, 40), max_size=40),
    max_batch_bytes=st.integers(42, 120),
)
def test_split_batches_are_small_enough_and_as_few_as_can_be(
    sizes: list[int], max_batch_bytes: int
) -> None:
    loaded = [bytes([65 + index % 26]) * size for index, size in enumerate(sizes)]
    window = make_window(max_batch_bytes=max_batch_bytes)
    window.load(loaded)

    batches = send_all(window)

    assert [event for batch in batches for event in batch] == loaded
    assert all(len(wire(batch)) <= max_batch_bytes for batch in batches)
    for batch, following in zip(batches, batches[1:], strict=False):
        assert len(wire([*batch, following[0]])) > max_batch_bytes


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=20))
def test_a_batch_knows_its_size_on_the_wire(loaded: list[bytes]) -> None:
    batch = window_with(loaded).next_unsent()
    assert batch is not None
    assert batch.size == len(wire(loaded))


# Confirmations.


def test_a_confirmation_is_cumulative_and_says_how_many_events_it_delivers() -> None:
    window = window_with(events(1, 2), events(3), events(4, 5, 6))
    send_all(window)

    assert window.confirm(2, now=0.0) == 3
    assert window.confirm(3, now=0.0) == 3
    assert window.is_empty


def test_a_repeated_confirmation_delivers_nothing_more() -> None:
    window = window_with(events(1))
    send_all(window)
    window.confirm(1, now=0.0)

    assert window.confirm(1, now=5.0) == 0


def test_confirming_0_before_anything_else_is_allowed_and_delivers_nothing() -> None:
    window = window_with(events(1))
    send_all(window)
    assert window.confirm(0, now=0.0) == 0
    assert window.in_flight == 1


@pytest.mark.parametrize("number", [-1, 0, 3, 10**12])
def test_a_confirmation_that_goes_back_or_too_far_raises_and_changes_nothing(number: int) -> None:
    window = window_with(events(1), events(2))
    send_all(window)
    window.confirm(1, now=0.0)

    with pytest.raises(InvalidConfirmationError, match=str(number)):
        window.confirm(number, now=0.0)

    assert window.in_flight == 1
    assert window.confirm(2, now=0.0) == 1


def test_what_is_loaded_but_not_sent_cannot_be_confirmed() -> None:
    window = window_with(events(1))
    with pytest.raises(InvalidConfirmationError):
        window.confirm(1, now=0.0)


def test_the_round_trip_is_that_of_the_batch_confirmed_last() -> None:
    window = window_with(events(1), events(2), events(3))
    for now in (10.0, 11.0, 14.0):
        send(window, now)

    window.confirm(2, now=14.5)
    assert window.round_trip == 3.5
    window.confirm(3, now=15.0)
    assert window.round_trip == 1.0


# When a connection is dead.


def test_nothing_is_overdue_while_nothing_is_sent() -> None:
    window = window_with(events(1))
    assert window.overdue_at is None


def test_the_oldest_unconfirmed_batch_says_when_the_connection_is_dead() -> None:
    window = make_window(confirm_timeout=3.0)
    window.load(events(1))
    window.load(events(2))
    send(window, 100.0)
    send(window, 102.0)

    assert window.overdue_at == 103.0


def test_progress_puts_off_the_end_of_a_slow_connection() -> None:
    window = make_window(confirm_timeout=3.0)
    for number in (1, 2):
        window.load(events(number))
    send_all(window, 100.0)

    window.confirm(1, now=102.5)
    assert window.overdue_at == 105.5
    window.confirm(1, now=105.0)  # a repetition is not progress
    assert window.overdue_at == 105.5
    window.confirm(2, now=105.25)
    assert window.overdue_at is None


def test_a_batch_that_is_sent_again_has_the_whole_time_again() -> None:
    window = make_window(confirm_timeout=3.0)
    window.load(events(1))
    send(window, 100.0)
    window.connection_lost()
    assert window.overdue_at is None

    send(window, 200.0)
    assert window.overdue_at == 203.0


# A lost connection.


@pytest.mark.parametrize("close_code", OTHER_CODES + REFUSING_CODES)
def test_after_a_lost_connection_the_unconfirmed_go_first_in_the_same_batches(
    close_code: int | None,
) -> None:
    window = window_with(events(1), events(2, 3), events(4))
    send_all(window)
    window.load(events(5))
    window.confirm(1, now=0.0)

    assert window.connection_lost(close_code) is None
    sent_again = []
    while (batch := send(window)) is not None:
        sent_again.append(batch)
        window.confirm(window.last_sent, now=0.0)

    assert sent_again == [(b"000002", b"000003"), (b"000004",), (b"000005",)]


def test_batches_are_numbered_anew_on_each_connection() -> None:
    window = window_with(events(1), events(2))
    send_all(window)
    window.confirm(1, now=0.0)
    window.connection_lost()
    assert window.last_sent == 0

    send(window)
    assert window.last_sent == 1
    assert window.confirm(1, now=0.0) == 1


def test_a_confirmation_from_the_connection_before_means_nothing_on_this_one() -> None:
    window = window_with(events(1))
    send_all(window)
    window.connection_lost()
    with pytest.raises(InvalidConfirmationError):
        window.confirm(1, now=0.0)


# A batch that the server won't have.


def test_a_single_event_that_is_too_big_for_the_server_is_given_up() -> None:
    window = window_with(events(1))
    send_all(window)

    assert refused_by(window, 1009) == b"000001"
    assert window.is_empty
    assert window.in_flight == 0


def test_a_batch_that_is_too_big_for_the_server_is_halved() -> None:
    window = window_with(events(1, 2, 3, 4, 5))
    send_all(window)
    assert window.connection_lost(1009) is None
    assert window.in_flight == 5

    assert send_all(window) == [(b"000001", b"000002")]
    window.confirm(1, now=0.0)
    assert send_all(window) == [(b"000003", b"000004", b"000005")]


def test_while_a_batch_is_under_suspicion_each_goes_alone_and_there_is_no_room() -> None:
    window = window_with(events(1), events(2), events(3))
    send_all(window)
    window.connection_lost(1009)

    assert not window.has_room
    assert send_all(window) == [(b"000001",)]
    window.confirm(1, now=0.0)
    assert send_all(window) == [(b"000002",)]
    window.confirm(2, now=0.0)
    assert send_all(window) == [(b"000003",)]
    window.confirm(3, now=0.0)
    assert window.has_room


def test_only_what_was_in_flight_is_under_suspicion() -> None:
    window = window_with(events(1), events(2), events(3), events(4))
    send(window)
    send(window)
    window.connection_lost(1009)
    for number in (1, 2):
        assert len(send_all(window)) == 1
        window.confirm(number, now=0.0)

    assert send_all(window) == [(b"000003",), (b"000004",)]


@pytest.mark.parametrize("close_code", [1003, 1007, 1008, 1011])
def test_a_server_in_a_bad_moment_costs_nothing(close_code: int) -> None:
    window = window_with(events(1))
    for _ in range(2):
        send_all(window)
        assert window.connection_lost(close_code) is None
    send_all(window)

    assert window.confirm(1, now=0.0) == 1


@pytest.mark.parametrize("close_code", [1003, 1007, 1008, 1011])
def test_an_event_at_which_the_server_closes_a_third_time_is_given_up(close_code: int) -> None:
    window = window_with(events(1), events(2))
    send(window)
    assert window.connection_lost(close_code) is None
    send(window)
    assert window.connection_lost(close_code) is None
    send(window)

    assert refused_by(window, close_code) == b"000001"
    assert send_all(window) == [(b"000002",)]


@pytest.mark.parametrize("close_code", OTHER_CODES)
def test_no_event_is_given_up_for_any_other_end_however_often(close_code: int | None) -> None:
    window = window_with(events(1))
    for _ in range(20):
        send_all(window)
        assert window.connection_lost(close_code) is None
    assert window.in_flight == 1


@pytest.mark.parametrize("close_code", REFUSING_CODES)
def test_a_refusal_with_nothing_in_flight_refuses_nothing(close_code: int) -> None:
    window = window_with(events(1))
    for _ in range(20):
        assert window.connection_lost(close_code) is None
    assert send_all(window) == [(b"000001",)]


def test_one_bad_moment_while_an_oversized_event_is_sought_costs_no_other_event() -> None:
    window = window_with(events(1, 2))
    send_all(window)
    assert window.connection_lost(1009) is None  # halved: one of the two is too big
    send_all(window)

    assert window.connection_lost(1011) is None  # the server restarts, say
    assert send_all(window) == [(b"000001",)]
    assert window.confirm(1, now=0.0) == 1
    send_all(window)
    assert refused_by(window, 1009) == b"000002"
    assert window.is_empty


# Reports.


def report(window: DeliveryWindow, source: object = None) -> list[str]:
    """Send a report; return a list that says so once it is confirmed."""
    confirmed: list[str] = []
    window.mark_report_sent(0.0, lambda: confirmed.append("yes"), source)
    return confirmed


def test_a_report_is_numbered_and_confirmed_like_a_batch_but_has_no_events() -> None:
    window = window_with(events(1), events(2))
    first = report(window)
    send_all(window)
    second = report(window)
    assert window.last_sent == 4
    assert not second
    assert window.confirm(2, now=0.0) == 1
    assert (first, second) == (["yes"], [])
    assert window.confirm(4, now=0.0) == 1
    assert second == ["yes"]
    assert (window.loaded, window.in_flight, window.own_delivered) == (2, 0, 2)


def test_an_unconfirmed_report_is_overdue_like_a_batch_and_no_reason_to_reset() -> None:
    window = make_window(confirm_timeout=10)
    report(window)
    assert window.overdue_at == 10
    assert not window.awaits_confirmation
    assert window.is_empty


def test_a_report_is_not_sent_again() -> None:
    window = window_with(events(1))
    unconfirmed = report(window)
    send_all(window)
    window.connection_lost()
    assert send_all(window) == [(b"000001",)]
    assert window.confirm(1, now=0.0) == 1
    assert not unconfirmed


@pytest.mark.parametrize("close_code", OTHER_CODES)
def test_a_report_is_refused_by_no_other_end_however_often(close_code: int | None) -> None:
    window = make_window()
    for _ in range(20):
        assert window.may_report
        report(window)
        assert window.connection_lost(close_code) is None
    assert window.may_report


@pytest.mark.parametrize("close_code", REFUSING_CODES)
def test_a_report_that_is_refused_alone_is_the_last_one(close_code: int) -> None:
    window = make_window()
    closes = 0
    while window.may_report:
        report(window)
        window.connection_lost(close_code)
        closes += 1
        assert closes <= 3
    assert closes == (1 if close_code == 1009 else 3)
    assert window.refuses_reports


@pytest.mark.parametrize("close_code", [1003, 1007, 1008, 1011])
def test_refusals_of_a_report_count_only_in_a_row(close_code: int) -> None:
    window = make_window()
    for _ in range(10):
        report(window)
        window.connection_lost(close_code)
        report(window)
        window.confirm(1, now=0.0)
        window.connection_lost()
    assert not window.refuses_reports


def test_where_both_were_in_flight_each_is_alone_next_time() -> None:
    window = window_with(events(1))
    report(window)
    send_all(window)
    assert window.connection_lost(1009) is None
    report(window)
    assert send_all(window) == []  # not before the report is confirmed
    window.confirm(1, now=0.0)
    assert send_all(window) == [(b"000001",)]
    assert not window.may_report
    window.confirm(2, now=0.0)
    assert window.may_report
    window.load(events(2))
    report(window)
    assert send_all(window) == [(b"000002",)]  # and the suspicion is over


def test_an_event_behind_a_report_is_still_found() -> None:
    window = window_with(events(1))
    report(window)
    send_all(window)
    assert refused_by(window, 1009) is None
    report(window)
    window.confirm(1, now=0.0)
    send_all(window)
    assert refused_by(window, 1009) == b"000001"
    assert not window.refuses_reports


class WaryServer:
    """Closes at what it won't have: an event, reports, or only the reports of one run."""

    def __init__(self, poison: bytes | None, hated: set[object], code: int) -> None:
        self.poison = poison
        self.hated = hated
        self.code = code

    def takes(self, message: object) -> bool:
        return (
            self.poison not in message
            if isinstance(message, tuple)
            else (message not in self.hated)
        )


@given(
    close_code=st.sampled_from(REFUSING_CODES),
    poison=st.none() | st.integers(0, 8),
    hated=st.sets(st.sampled_from([None, "old", "older"])),
    lag=st.integers(0, 4),
    reports=st.lists(st.sampled_from(["old", "older"]), unique=True),
)
def test_a_server_that_refuses_reports_events_or_both_gets_all_others(
    close_code: int,
    poison: int | None,
    hated: set[object],
    lag: int,
    reports: list[object],
) -> None:
    """It confirms what is ``lag`` messages old, and reads one message at a time."""
    window = make_window()
    for number in range(0, 9, 3):
        window.load(events(number, number + 1, number + 2), range(number, number + 3))
    bad = None if poison is None else b"%06d" % poison
    server = WaryServer(bad, hated, close_code)
    given_up: list[int] = []
    arrived: set[bytes] = set()
    for _ in range(100):
        waiting = [None, *reports]
        wire: list[object] = []
        is_closed = False
        while not is_closed:
            if waiting and window.may_report:
                source = waiting.pop(0)
                window.mark_report_sent(0.0, lambda: None, source)
                wire.append(("report", source))
            elif (batch := send(window)) is not None:
                wire.append(batch)
            elif wire:
                window.confirm(window.last_sent, now=0.0)
                if not (waiting and window.may_report) and window.next_unsent() is None:
                    break
                continue
            else:
                break
            newest = wire[-1]
            assert isinstance(newest, tuple)
            content = newest[1] if newest[0] == "report" else newest
            if server.takes(content):
                arrived.update(newest if newest[0] != "report" else ())
                window.confirm(max(len(wire) - lag, window.last_sent - len(window._sent)), 0.0)
            else:
                is_closed = True
        refused = window.connection_lost(close_code if is_closed else None)
        given_up += refused.numbers if refused is not None else ()
        if not is_closed:
            break
    else:
        raise AssertionError("it never got through")
    assert given_up == ([] if poison is None else [poison])
    assert arrived == {event for event in events(*range(9)) if event != bad}
    assert window.is_empty
    assert window.refuses_reports == bool(hated & {None, *reports})


# The numbers of events.


def test_each_event_keeps_its_number_and_its_source_however_it_is_split() -> None:
    window = make_window(max_batch_bytes=25)
    window.load(events(11, 12, 13, 14, 15), [1, 2, 3, 5, 8])
    window.load(events(21, 22), range(4, 6), "another run")
    assert [list(numbers) for numbers in window.own_numbers] == [[1, 2, 3], [5, 8]]
    send_all(window)
    assert [list(numbers) for numbers in window.own_numbers] == [[1, 2, 3], [5, 8]]
    window.connection_lost(1009)
    found: list[tuple[int, object]] = []
    while not window.is_empty:
        send_all(window)
        if (refused := window.connection_lost(1009)) is not None:
            found.append((refused.numbers[0], refused.source))
    own = [(number, None) for number in (1, 2, 3, 5, 8)]
    assert found == [*own, (4, "another run"), (5, "another run")]


def test_only_this_runs_events_are_delivered_on_its_behalf() -> None:
    window = make_window()
    window.load(events(1, 2), range(1, 3))
    window.load(events(1), range(1, 2), "another run")
    send_all(window)
    assert window.confirm(2, now=0.0) == 3
    assert window.own_delivered == 2


# Discarding.


def test_discard_gives_up_everything_and_says_how_many_events() -> None:
    window = window_with(events(1, 2), events(3))
    send(window)

    assert window.discard() == 3
    assert window.is_empty
    assert window.in_flight == 0
    assert window.loaded == 3
    assert not window.awaits_confirmation
    assert window.last_sent == 1
    assert window.confirm(1, now=0.0) == 0
    assert window.discard() == 0


def test_after_a_discard_the_window_is_as_good_as_new() -> None:
    window = make_window(max_batches=2, max_bytes=30)
    window.load(events(1))
    window.load(events(2))
    send_all(window)
    window.connection_lost(1009)  # under suspicion
    window.discard()

    assert window.has_room
    window.load(events(3))
    window.load(events(4))
    assert send_all(window) == [(b"000003",), (b"000004",)]
    assert window.confirm(2, now=0.0) == 2


# All of it, against a model of a server.


class WindowMachine(RuleBasedStateMachine):
    """Any sequence of operations by a worker, a network and a server on a window."""

    def __init__(self) -> None:
        super().__init__()
        self.window = make_window(
            max_batches=4, max_bytes=150, max_batch_bytes=60, confirm_timeout=10.0
        )
        self.now = 0.0
        self.count = 0  # events ever loaded
        self.on_wire: list[tuple[bytes, ...]] = []  # of this connection
        self.read = 0  # so many of them has the server read
        self.stored = 0
        self.confirmed = 0
        self.arrived: list[bytes] = []  # by first arrival
        self.delivered = 0
        self.dropped: list[bytes] = []
        self.discarded = 0

    @precondition(lambda self: self.window.has_room)
    @rule(lengths=st.lists(st.integers(6, 50), max_size=8))
    def load(self, lengths: list[int]) -> None:
        loaded = []
        for length in lengths:
            self.count += 1
            loaded.append((b"%06d" % self.count).ljust(length, b"."))
        self.window.load(loaded)

    @rule(seconds=st.floats(0.0, 4.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def send(self) -> None:
        batch = self.window.next_unsent()
        if batch is None:
            return
        assert len(wire(batch.events)) <= 60
        number = self.window.mark_sent(self.now)
        self.on_wire.append(batch.events)
        assert number == len(self.on_wire)

    @rule(data=st.data())
    def the_server_reads(self, data: st.DataObject) -> None:
        until = data.draw(st.integers(self.read, len(self.on_wire)))
        for batch in self.on_wire[self.read : until]:
            self.arrived += [event for event in batch if event not in self.arrived]
        self.read = until

    @rule(data=st.data())
    def the_server_confirms(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(self.confirmed, self.read))
        expected = sum(map(len, self.on_wire[self.confirmed : number]))
        assert self.window.confirm(number, self.now) == expected
        self.delivered += expected
        self.confirmed = number
        self.stored = max(self.stored, number)

    @rule(data=st.data())
    def the_server_stores(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(self.stored, self.read))
        expected = sum(map(len, self.on_wire[self.stored : number]))
        assert self.window.mark_stored(number, self.now) == expected
        self.stored = number

    @rule(beyond=st.integers(1, 3))
    def an_impossible_confirmation_raises(self, beyond: int) -> None:
        for number in (self.confirmed - beyond, len(self.on_wire) + beyond):
            with pytest.raises(InvalidConfirmationError):
                self.window.confirm(number, self.now)
        for number in (self.stored - beyond, len(self.on_wire) + beyond):
            with pytest.raises(InvalidConfirmationError):
                self.window.mark_stored(number, self.now)

    @rule(close_code=st.sampled_from([*OTHER_CODES, *REFUSING_CODES]))
    def the_connection_is_lost(self, close_code: int | None) -> None:
        unconfirmed = [event for batch in self.on_wire[self.confirmed :] for event in batch]
        refused = refused_by(self.window, close_code)
        if refused is not None:
            assert close_code in REFUSING_CODES
            assert [refused] == unconfirmed  # alone in flight: nobody else can be meant
            self.dropped.append(refused)
        self.on_wire = []
        self.read = self.stored = self.confirmed = 0

    @rule()
    def discard(self) -> None:
        self.discarded += self.window.discard()
        self.on_wire = [() for _ in self.on_wire]
        # Dropped events are not part of the order of arrival: begin anew.
        self.arrived = []

    @invariant()
    def the_ledger_holds(self) -> None:
        settled = self.delivered + len(self.dropped) + self.discarded
        assert self.window.loaded == self.count
        assert self.window.in_flight == self.count - settled
        assert self.window.is_empty == (self.window.in_flight == 0)
        stored = sum(map(len, self.on_wire[self.confirmed : self.stored]))
        assert self.window.arrived == settled + stored

    @invariant()
    def first_arrivals_are_in_the_order_of_loading(self) -> None:
        assert self.arrived == sorted(self.arrived)

    @invariant()
    def it_is_overdue_only_while_something_is_not_even_stored(self) -> None:
        has_unstored = self.stored < len(self.on_wire)
        assert self.window.awaits_confirmation == any(self.on_wire[self.stored :])
        assert (self.window.overdue_at is not None) == has_unstored
        if self.window.overdue_at is not None:
            assert self.window.overdue_at <= self.now + 10.0

    def teardown(self) -> None:
        """Over a connection that works, everything arrives, in order."""
        self.the_connection_is_lost(None)
        arrived_late = []
        while not self.window.is_empty:
            batch = send(self.window)
            assert batch is not None
            arrived_late += batch
            self.delivered += self.window.confirm(self.window.last_sent, self.now)
        self.the_ledger_holds()
        assert arrived_late == sorted(arrived_late)
        if not self.discarded:
            everything = set(self.arrived) | set(arrived_late) | set(self.dropped)
            assert len(everything) == self.count


TestAnySequence = WindowMachine.TestCase
TestAnySequence.settings = settings(stateful_step_count=40)


class PickyServer:
    """Closes at any batch that holds an event it won't have, having read those before."""

    def __init__(self, poison: set[bytes], close_code: int, *, archives: bool) -> None:
        self.poison = poison
        self.close_code = close_code
        self.archives = archives
        self.arrived: list[bytes] = []
        self.closes = 0

    def serve(self, window: DeliveryWindow, confirms: Sequence[bool]) -> bytes | None:
        """One connection; returns the event that the window gives up at its end, if any."""
        number = 0
        while batches := send_all(window):
            for batch in batches:
                number += 1
                if self.poison.intersection(batch):
                    self.closes += 1
                    return refused_by(window, self.close_code)
                self.arrived += [event for event in batch if event not in self.arrived]
                if self.archives:
                    window.mark_stored(number, now=0.0)
                if confirms[number % len(confirms)]:
                    window.confirm(number, now=0.0)
            if not self.archives or window.next_unsent() is None:
                window.confirm(number, now=0.0)
        return None


@given(
    batch_sizes=st.lists(st.integers(1, 50), min_size=1, max_size=12),
    poison_places=st.sets(st.integers(0, 600), max_size=6),
    close_code=st.sampled_from(REFUSING_CODES),
    confirms=st.lists(st.booleans(), min_size=1, max_size=5),
    archives=st.booleans(),
)
def test_exactly_what_the_server_refuses_is_given_up_in_a_bounded_number_of_closes(
    batch_sizes: list[int],
    poison_places: set[int],
    close_code: int,
    confirms: list[bool],
    archives: bool,
) -> None:
    window = make_window()
    everything: list[bytes] = []
    for size in batch_sizes:
        batch = events(*range(len(everything), len(everything) + size))
        everything += batch
        window.load(batch)
    poison = {everything[place] for place in poison_places if place < len(everything)}
    server = PickyServer(poison, close_code, archives=archives)
    halvings = math.ceil(math.log2(max(batch_sizes))) + 1
    halvings += archives  # a single event may be sent once more
    # Where a close need not be a refusal, each batch that comes to the front is given its chances.
    patience = 1 if close_code == 1009 else 5 + 2 * len(batch_sizes)
    most_closes = len(poison) * (halvings + patience)
    given_up = []

    while not window.is_empty and server.closes <= most_closes:
        refused = server.serve(window, confirms)
        if refused is not None:
            given_up.append(refused)

    assert given_up == sorted(poison)
    assert server.arrived == [event for event in everything if event not in poison]
    assert window.is_empty
    assert server.closes <= most_closes


@pytest.mark.parametrize("close_code", [1003, 1007, 1008, 1011])
@pytest.mark.parametrize("bad_moments", [1, 2])
def test_a_server_that_closes_once_or_twice_at_several_batches_loses_nothing(
    close_code: int, bad_moments: int
) -> None:
    window = window_with(events(1), events(2), events(3))
    for _ in range(bad_moments):
        send_all(window)
        assert window.connection_lost(close_code) is None

    assert send_all(window) == [(b"000001",), (b"000002",), (b"000003",)]
    assert window.confirm(3, now=0.0) == 3
