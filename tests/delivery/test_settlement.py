"""Sources are notified of the events that are settled, in order, also of refused batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry._delivery.settlement import Settlement
from redvsblue_telemetry._delivery.window import DeliveryWindow


def new_window(max_batch_bytes: int = 1000) -> DeliveryWindow:
    return DeliveryWindow(
        max_batches=100, max_bytes=1 << 20, max_batch_bytes=max_batch_bytes, confirm_timeout=10.0
    )


class Source:
    """Loads events into a window, and remembers up to which number they are settled."""

    def __init__(self, window: DeliveryWindow, settlement: Settlement, *, is_own: bool) -> None:
        self.window, self.settlement, self.is_own = window, settlement, is_own
        self.loaded = self.confirmed = 0

    def load(self, count: int, *, filtered: int = 0) -> None:
        self.window.load([b"x"] * count)
        self.loaded += count + filtered
        self.settlement.note_load(self.loaded, self.confirm, is_own=self.is_own)

    def confirm(self, number: int) -> None:
        assert number > self.confirmed
        self.confirmed = number


def sources() -> tuple[DeliveryWindow, Settlement, Source, Source]:
    window = new_window()
    settlement = Settlement(window)
    own = Source(window, settlement, is_own=True)
    return window, settlement, own, Source(window, settlement, is_own=False)


def test_a_load_is_settled_when_all_of_it_is_confirmed() -> None:
    window, settlement, own, old = sources()
    own.load(3)
    old.load(2)
    own.load(4)
    for _ in range(3):
        window.mark_sent(0.0)
    settlement.settle()
    assert (own.confirmed, old.confirmed, settlement.are_own_settled) == (0, 0, False)
    window.confirm(1, 0.0)
    settlement.settle()
    assert (own.confirmed, old.confirmed) == (3, 0)
    assert settlement.own_in_flight() == 4
    window.confirm(2, 0.0)
    settlement.settle()
    assert (own.confirmed, old.confirmed) == (3, 2)
    assert settlement.own_in_flight() == 4
    window.confirm(3, 0.0)
    settlement.settle()
    assert (own.confirmed, settlement.are_own_settled) == (7, True)


def test_own_events_are_settled_also_while_older_ones_are_in_flight() -> None:
    window, settlement, own, old = sources()
    own.load(1)
    old.load(5)
    window.mark_sent(0.0)
    window.confirm(1, 0.0)
    assert settlement.are_own_settled
    assert settlement.own_in_flight() == 0
    assert window.in_flight == 5


def test_a_load_without_events_is_settled_with_those_before_it() -> None:
    window, settlement, own, old = sources()
    own.load(0, filtered=5)
    settlement.settle()
    assert own.confirmed == 5
    old.load(2)
    own.load(0, filtered=3)
    settlement.settle()
    assert own.confirmed == 5
    window.mark_sent(0.0)
    window.confirm(1, 0.0)
    settlement.settle()
    assert (own.confirmed, old.confirmed) == (8, 2)


def test_events_that_are_only_dropped_wait_for_no_older_ones() -> None:
    window, settlement, own, old = sources()
    old.load(2)
    own.load(0, filtered=3)
    own.load(0, filtered=4)
    assert settlement.are_own_settled
    assert len(settlement._loads) == 2  # however often that happens
    window.mark_sent(0.0)
    window.confirm(1, 0.0)
    settlement.settle()
    assert (own.confirmed, old.confirmed) == (7, 2)


def test_a_refused_event_is_settled_in_its_turn() -> None:
    window, settlement, own, old = sources()
    old.load(1)
    own.load(1)
    window.mark_sent(0.0)
    refused = window.connection_lost(1009)
    assert refused is not None
    assert refused.events == (b"x",)
    settlement.settle()
    assert (old.confirmed, own.confirmed) == (1, 0)


def test_what_is_forgotten_is_never_settled() -> None:
    window, settlement, own, _ = sources()
    own.load(3)
    settlement.forget()
    window.discard()
    settlement.settle()
    assert own.confirmed == 0


def test_what_is_stored_has_arrived_and_is_not_settled() -> None:
    window, settlement, own, old = sources()
    arrived: list[str] = []
    own.load(3)
    settlement.note_arrival(lambda: arrived.append("own"))
    old.load(2)
    settlement.note_arrival(lambda: arrived.append("old"))
    for _ in range(2):
        window.mark_sent(0.0)
    window.mark_stored(1, 0.0)
    settlement.settle()
    assert (arrived, own.confirmed) == (["own"], 0)
    window.confirm(2, 0.0)
    settlement.settle()
    assert (arrived, own.confirmed, old.confirmed) == (["own", "old"], 3, 2)


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["own", "old"]), st.integers(1, 9)),
        st.tuples(st.just("send"), st.integers(1, 5)),
        st.tuples(st.just("store"), st.integers(0, 3)),
        st.tuples(st.just("confirm"), st.integers(0, 3)),
        st.tuples(st.just("break"), st.sampled_from([0, 1009, 1011])),
    ),
    max_size=60,
)


@given(steps)
def test_a_source_is_notified_of_exactly_the_events_that_are_not_in_flight(
    taken_steps: list[tuple[str, int]],
) -> None:
    window, settlement, own, old = sources()
    waiting: list[tuple[Source, int]] = []  # what was loaded, in order: source and number
    for step, amount in taken_steps:
        if step in ("own", "old"):
            source = own if step == "own" else old
            waiting += [(source, source.loaded + n + 1) for n in range(amount)]
            source.load(amount)
        elif step == "send":
            for _ in range(amount):
                if window.next_unsent() is not None:
                    window.mark_sent(0.0)
        elif step == "store":
            first = window.last_sent - len(window._sent)
            window.mark_stored(min(first + amount, window.last_sent), 0.0)
        elif step == "confirm":
            first = window.last_sent - len(window._sent) - len(window._stored)
            del waiting[: window.confirm(min(first + amount, window.last_sent), 0.0)]
        elif window.connection_lost(amount or None) is not None:
            del waiting[0]
        settlement.settle()
        assert len(waiting) == window.in_flight
        assert settlement.own_in_flight() == sum(source is own for source, _ in waiting)
        assert settlement.are_own_settled is all(source is old for source, _ in waiting)
        for source in (own, old):
            unsettled = [number for each, number in waiting if each is source]
            # A load is settled as a whole, so it may lag behind.
            assert source.confirmed <= min(unsettled, default=source.loaded + 1) - 1
            if not unsettled:
                assert source.confirmed == source.loaded
