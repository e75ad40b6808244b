"""The store, the window and the ledger together: nothing is lost between push and proof."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry import TelemetryStore
from redvsblue_telemetry._delivery.window import DeliveryWindow
from redvsblue_telemetry._recording.ledger import Ledger

CAPACITY = 7

steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 12)),
        st.tuples(st.just("drain"), st.integers(1, 5)),
        st.tuples(st.just("send"), st.just(1)),
        st.tuples(st.just("confirm"), st.integers(0, 4)),
        st.tuples(st.just("break"), st.sampled_from([0, 1000, 1001, 1006])),
    ),
    max_size=80,
)


class Path:
    """From a push to a server, which remembers the first arrival of each event."""

    def __init__(self) -> None:
        self.store = TelemetryStore[bytes](CAPACITY)
        self.window = DeliveryWindow(
            max_batches=3, max_bytes=1000, max_batch_bytes=40, confirm_timeout=10.0
        )
        self.ledger = Ledger(self.store)
        self.pushed = 0
        self.sent = 0
        self.confirmed = 0
        self.arrived: list[int] = []

    def push(self, count: int) -> None:
        for _ in range(count):
            self.pushed += 1
            self.store.push(b"%d" % self.pushed)

    def drain(self, limit: int) -> None:
        if self.window.has_room:
            taken = self.store.drain_numbered(limit)
            assert [int(item) for item, _ in taken] == [number for _, number in taken]
            self.window.load([item for item, _ in taken])

    def send(self, _: int) -> None:
        batch = self.window.next_unsent()
        if batch is not None:
            self.sent = self.window.mark_sent(0.0)
            self.arrived += [n for n in map(int, batch.events) if n not in self.arrived]

    def confirm(self, back: int) -> None:
        number = max(self.confirmed, self.sent - back)
        self.ledger.deliver(self.window.confirm(number, 0.0))
        self.confirmed = number

    def lose_connection(self, close_code: int) -> None:
        assert self.window.connection_lost(close_code or None) is None
        self.sent = self.confirmed = 0

    def take(self, step: str, amount: int) -> None:
        {
            "push": self.push,
            "drain": self.drain,
            "send": self.send,
            "confirm": self.confirm,
            "break": self.lose_connection,
        }[step](amount)

    def check(self) -> None:
        counts = self.ledger.read()
        assert (counts.emitted, counts.in_flight) == (self.pushed, self.window.in_flight)
        assert len(self.store) <= CAPACITY
        assert self.arrived == sorted(self.arrived)


@given(steps)
def test_nothing_is_lost_but_what_overflow_counts_and_the_order_holds(
    taken_steps: list[tuple[str, int]],
) -> None:
    path = Path()
    for step, amount in taken_steps:
        path.take(step, amount)
        path.check()

    path.lose_connection(0)
    while path.store or not path.window.is_empty:
        path.drain(5)
        path.send(1)
        path.confirm(0)
    path.check()

    assert path.ledger.delivered == len(path.arrived) == path.pushed - path.store.dropped


@given(st.integers(1, 40), st.integers(1, 9))
def test_of_a_burst_that_is_too_long_the_newest_arrive(burst: int, batch_size: int) -> None:
    path = Path()
    path.push(burst)
    while path.store or not path.window.is_empty:
        path.drain(batch_size)
        path.send(1)
        path.confirm(0)

    assert path.arrived == list(range(max(1, burst - CAPACITY + 1), burst + 1))
    assert path.store.dropped == max(0, burst - CAPACITY)
