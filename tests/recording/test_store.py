from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar
from unittest.mock import ANY

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from redvsblue_telemetry import TelemetryStore
from redvsblue_telemetry._journal import segment as segment_module
from redvsblue_telemetry._journal import store as journal_module
from redvsblue_telemetry._journal.layout import Header
from redvsblue_telemetry._journal.run import RunDirectory
from redvsblue_telemetry._journal.store import JournalStore, Run
from redvsblue_telemetry._recording import counter as counter_module
from redvsblue_telemetry._recording import store as store_module
from redvsblue_telemetry._recording.codec import EncodedEvent
from redvsblue_telemetry._recording.counter import IS_FREE_THREADED
from redvsblue_telemetry._recording.store import FreeThreadedStore
from tests.support.systems import needs_timers


class StoreInMemory(JournalStore):
    """The store of a journal that has no directory, with a test's items as the data of events."""

    def __init__(self, capacity: int, **options: Any) -> None:
        super().__init__(max_bytes=2**30, max_event_bytes=4096, capacity=capacity, **options)
        self.capacity: int
        self.open(self.run(), HEADER)

    def run(self) -> Run | None:
        return None

    def __class_getitem__(cls, _: object) -> object:
        return cls

    def push(self, item: Any) -> None:
        super().push(EncodedEvent(b'"type":"item","timestamp":', 1, b'{"item":%b}' % encode(item)))

    def drain_numbered(self, limit: int) -> list[tuple[Any, int]]:
        return [(item_of(event), number) for event, number in super().drain_numbered(limit)]

    def peek(self, limit: int) -> list[Any]:
        return [item_of(event) for event in super().peek(limit)]


class StoreOnDisk(StoreInMemory):
    """The same with a directory."""

    journal_path: ClassVar[Path]

    def run(self) -> Run | None:
        return RunDirectory.create(self.journal_path, "session", uuid.uuid4().hex)


def item_of(event: EncodedEvent) -> Any:
    item = msgspec.json.decode(event.data)["item"]
    return tuple(item) if isinstance(item, list) else item


HEADER = Header(session_id="session", run="run", segment=0, data_bytes=0, started_at=1, previous=0)
DEQUES = [FreeThreadedStore] if IS_FREE_THREADED else [TelemetryStore, FreeThreadedStore]
KINDS = [*DEQUES, StoreInMemory, StoreOnDisk]
encode = msgspec.json.Encoder().encode


@pytest.fixture(autouse=True, params=KINDS, ids=lambda kind: kind.__name__)
def kind(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[object]:
    """Run each test with each store that there is on this build or on a free-threaded one."""
    kind = request.param
    opened: list[JournalStore] = []
    if kind in (StoreInMemory, StoreOnDisk):
        monkeypatch.setattr(StoreOnDisk, "journal_path", tmp_path, raising=False)
        monkeypatch.setattr(kind, "open", lambda *a: [opened.append(a[0]), JournalStore.open(*a)])
    monkeypatch.setitem(globals(), "TelemetryStore", kind)
    yield kind
    for store in opened:
        store.erase()


# For tests of items that are not events, and of a mark in the number of items: a journal has one in
# bytes.
deques_only = pytest.mark.parametrize("kind", DEQUES, indirect=True, ids=lambda kind: kind.__name__)


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    """Have Python switch threads as often as it can, to provoke races."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def store_of(*items: Any, capacity: int = 100, **options: Any) -> TelemetryStore[Any]:
    store = TelemetryStore[Any](capacity, **options)
    for item in items:
        store.push(item)
    return store


# First in, first out.


def test_a_new_store_is_empty() -> None:
    store = TelemetryStore[str](3)
    assert (len(store), store.pushed, store.departed, store.dropped) == (0, 0, 0, 0)
    assert store.drain(10) == []
    assert store.peek(10) == []


def test_drain_takes_the_oldest_first() -> None:
    store = store_of("a", "b", "c")
    assert store.drain(2) == ["a", "b"]
    assert store.drain(2) == ["c"]
    assert store.drain(2) == []


def test_drain_takes_no_more_than_the_limit() -> None:
    store = store_of(*"abcde")
    assert store.drain(0) == []
    assert store.drain(-1) == []
    assert len(store) == 5


def test_what_is_pushed_after_a_drain_comes_after_it() -> None:
    store = store_of("a", "b")
    assert store.drain(1) == ["a"]
    store.push("c")
    assert store.drain(9) == ["b", "c"]


def test_peek_shows_the_oldest_and_leaves_them() -> None:
    store = store_of("a", "b", "c")
    assert store.peek(2) == ["a", "b"]
    assert store.peek(9) == ["a", "b", "c"]
    assert store.peek(0) == []
    assert (len(store), store.departed) == (3, 0)


@deques_only
def test_any_item_can_be_stored() -> None:
    items = [None, False, 0, b"", "", IndexError(), StopIteration(), object(), [], ...]
    assert store_of(*items).drain(99) == items


@deques_only
def test_an_item_that_equals_everything_is_stored_like_any_other() -> None:
    store = store_of(ANY, "after")
    first, second = store.drain(2)
    assert first is ANY
    assert second == "after"


# The bound.


def test_full_store_drops_the_oldest() -> None:
    store = store_of("a", "b", "c", "d", capacity=3)
    assert store.dropped == 1
    assert store.drain(9) == ["b", "c", "d"]


def test_a_store_that_is_exactly_full_drops_nothing() -> None:
    store = store_of("a", "b", "c", capacity=3)
    assert (len(store), store.dropped) == (3, 0)


def test_each_drop_is_counted() -> None:
    store = store_of(*range(1000), capacity=7)
    assert (len(store), store.dropped, store.pushed) == (7, 993, 1000)
    assert store.drain(99) == list(range(993, 1000))


def test_a_store_of_one_keeps_the_newest() -> None:
    store = store_of("a", "b", "c", capacity=1)
    assert (store.drain(9), store.dropped) == (["c"], 2)


def test_draining_makes_room() -> None:
    store = store_of("a", "b", capacity=2)
    store.drain(1)
    store.push("c")
    assert (store.drain(9), store.dropped) == (["b", "c"], 0)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_below_one_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, not {capacity}"):
        TelemetryStore[str](capacity)


@deques_only
def test_a_store_lets_go_of_what_it_dropped() -> None:
    """One item more than what is in it is the most that it may hold on to."""
    alive = set()

    class Item:
        def __init__(self) -> None:
            alive.add(id(self))

        def __del__(self) -> None:
            alive.discard(id(self))

    store = TelemetryStore[Item](2)
    for _ in range(100):
        store.push(Item())
    gc.collect()
    assert len(alive) <= 3


# Numbers.


def test_items_are_numbered_from_one_in_the_order_of_pushes() -> None:
    assert store_of("a", "b").drain_numbered(9) == [("a", 1), ("b", 2)]


def test_numbers_go_on_over_drains() -> None:
    store = store_of("a", "b", "c")
    assert store.drain_numbered(1) == [("a", 1)]
    assert store.drain(1) == ["b"]
    assert store.drain_numbered(1) == [("c", 3)]


def test_a_dropped_item_leaves_a_gap_in_the_numbers() -> None:
    store = store_of("a", capacity=2)
    assert store.drain_numbered(1) == [("a", 1)]
    for item in "bcde":
        store.push(item)
    assert store.drain_numbered(9) == [("d", 4), ("e", 5)]


def test_a_cleared_item_leaves_a_gap_in_the_numbers() -> None:
    store = store_of("a", "b")
    store.clear()
    store.push("c")
    assert store.drain_numbered(9) == [("c", 3)]


def test_departed_and_pushed_are_the_numbers_of_the_last_and_the_newest() -> None:
    store = store_of("a", "b", "c", "d", capacity=3)
    store.drain(1)
    assert (store.departed, store.pushed) == (2, 4)


def test_clear_takes_everything_out_and_says_how_many() -> None:
    store = store_of("a", "b", "c", "d", capacity=3)
    assert store.clear() == 3
    assert store.clear() == 0
    assert (len(store), store.dropped, store.departed) == (0, 1, 4)


# The high-water mark.


@deques_only
def test_each_push_at_the_high_water_mark_and_above_calls() -> None:
    lengths: list[int] = []
    store = TelemetryStore[str](10, high_water=3, on_high_water=lambda: lengths.append(len(store)))
    for item in "abcde":
        store.push(item)
    assert lengths == [3, 4, 5]


def test_below_the_high_water_mark_nothing_calls() -> None:
    calls: list[int] = []
    store = store_of("a", "b", high_water=3, on_high_water=lambda: calls.append(1))
    store.drain(1)
    store.push("c")
    assert calls == []


@deques_only
def test_a_mark_above_the_capacity_is_the_capacity() -> None:
    calls: list[int] = []
    store_of("a", "b", capacity=2, high_water=9, on_high_water=lambda: calls.append(1))
    assert calls == [1]


@deques_only
def test_without_a_mark_only_an_overflow_calls() -> None:
    calls: list[int] = []
    store = store_of("a", "b", capacity=2, on_high_water=lambda: calls.append(1))
    assert calls == []
    store.push("c")
    assert calls == [1]


@deques_only
def test_the_mark_can_be_moved() -> None:
    calls: list[int] = []
    store = store_of("a", high_water=9, on_high_water=lambda: calls.append(1))
    store.high_water = 1
    store.push("b")
    assert calls == [1]


@deques_only
def test_a_worker_may_drain_from_the_call() -> None:
    drained: list[str] = []
    store = TelemetryStore[str](
        2, high_water=2, on_high_water=lambda: drained.extend(store.drain(9))
    )
    for item in "abcde":
        store.push(item)
    assert (drained, store.peek(9), store.dropped) == ([*"abcd"], ["e"], 0)


# Any sequence of calls, against a plain list.


class StoreAgainstAList(RuleBasedStateMachine):
    @initialize(capacity=st.integers(1, 8))
    def begin(self, capacity: int) -> None:
        self.store = TelemetryStore[int](capacity)
        self.capacity = capacity
        self.items: list[tuple[int, int]] = []  # each with its number
        self.pushed = self.dropped = 0

    @rule(items=st.lists(st.integers(), min_size=1, max_size=12))
    def push(self, items: list[int]) -> None:
        for item in items:
            self.store.push(item)
            self.pushed += 1
            self.items.append((item, self.pushed))
            if len(self.items) > self.capacity:
                del self.items[0]
                self.dropped += 1

    @rule(limit=st.integers(-1, 12))
    def drain(self, limit: int) -> None:
        assert self.store.drain(limit) == [item for item, _ in self._taken(limit)]

    @rule(limit=st.integers(-1, 12))
    def drain_numbered(self, limit: int) -> None:
        assert self.store.drain_numbered(limit) == self._taken(limit)

    @rule(limit=st.integers(0, 12))
    def peek(self, limit: int) -> None:
        assert self.store.peek(limit) == [item for item, _ in self.items[:limit]]

    @rule()
    def clear(self) -> None:
        assert self.store.clear() == len(self._taken(len(self.items)))

    def _taken(self, limit: int) -> list[tuple[int, int]]:
        count = max(0, limit)
        taken, self.items = self.items[:count], self.items[count:]
        return taken

    @invariant()
    def ledger_is_exact(self) -> None:
        store = self.store
        assert len(store) == len(self.items) <= self.capacity
        assert (store.pushed, store.dropped) == (self.pushed, self.dropped)
        assert store.departed == self.pushed - len(self.items)


def test_any_sequence_of_calls() -> None:
    run_state_machine_as_test(StoreAgainstAList, settings=settings(stateful_step_count=30))


# Threads.


def assert_nothing_is_lost(
    store: TelemetryStore[Any], pushed: int, drained: list[tuple[Any, int]]
) -> None:
    """The ledger is exact and the numbers are those of the pushes. Leaves the store empty."""
    assert len(store) <= store.capacity
    assert pushed == len(drained) + store.dropped + len(store)
    assert store.pushed == pushed
    rest = store.drain_numbered(len(store))
    numbers = [number for _, number in (*drained, *rest)]
    assert all(one < following for one, following in pairwise(numbers))
    assert all(1 <= number <= pushed for number in numbers)


@pytest.mark.usefixtures("impatient_threads")
@pytest.mark.parametrize("capacity", [1, 16, 1_000_000])
def test_threads_that_push_flat_out_lose_only_what_is_counted(capacity: int) -> None:
    pushers, each = 4, 30_000
    store = TelemetryStore[tuple[int, int]](capacity)
    start = threading.Barrier(pushers + 1)
    done = threading.Event()
    drained: list[tuple[tuple[int, int], int]] = []
    most = 0

    def push(name: int) -> None:
        start.wait()
        for index in range(each):
            store.push((name, index))

    def drain() -> None:
        nonlocal most
        start.wait()
        while not done.is_set():
            drained.extend(store.drain_numbered(8))
            most = max(most, len(store))

    def count() -> None:
        while not done.is_set():
            store.departed_and_waiting()

    threads = [threading.Thread(target=push, args=(name,)) for name in range(pushers)]
    others = [threading.Thread(target=drain), threading.Thread(target=count)]
    for thread in (*threads, *others):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    for thread in others:
        thread.join()

    excess = store_module._MAX_EXCESS if isinstance(store, FreeThreadedStore) else 0
    assert most <= capacity + 2 * excess + pushers
    left = store.peek(len(store))
    assert_nothing_is_lost(store, pushers * each, drained)
    for name in range(pushers):
        order = [index for (who, index) in (*(i for i, _ in drained), *left) if who == name]
        assert order == sorted(set(order))
    if capacity == 1_000_000:
        assert store.dropped == 0


@pytest.mark.usefixtures("impatient_threads")
def test_two_drainers_never_get_the_same_item() -> None:
    store = store_of(*range(30_000), capacity=30_000)
    start = threading.Barrier(2)
    shares: list[list[tuple[int, int]]] = [[], []]

    def drain(share: list[tuple[int, int]]) -> None:
        start.wait()
        while taken := store.drain_numbered(3):
            share.extend(taken)

    threads = [threading.Thread(target=drain, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(shares[0] + shares[1]) == [(item, item + 1) for item in range(30_000)]
    assert all(share == sorted(share) for share in shares)


@pytest.mark.usefixtures("impatient_threads")
def test_peek_beside_a_push_shows_items_in_order() -> None:
    store = TelemetryStore[int](50)
    done = threading.Event()

    def push() -> None:
        for index in range(20_000):
            store.push(index)
        done.set()

    thread = threading.Thread(target=push)
    thread.start()
    looks = []
    while not done.is_set() or not looks:  # the thread may be done before the first look
        looks.append(store.peek(60))
    thread.join()

    for look in looks:
        assert look == list(range(look[0], look[0] + len(look))) if look else True


MODULES = (
    store_module.__file__,
    counter_module.__file__,
    journal_module.__file__,
    segment_module.__file__,
)


def at_every_step(operation: Callable[[], object], interfere: Callable[[], object]) -> int:
    """Run an operation of the store; before each bytecode of it, another thread interferes.

    The operation is suspended meanwhile, so a lock that it held would keep the other one waiting.
    """
    steps = 0
    with ThreadPoolExecutor(1) as other:

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal steps
            if frame.f_code.co_filename not in MODULES:
                return None
            frame.f_trace_opcodes = True
            if event in ("opcode", "line"):  # Python 3.12.1 misses the opcodes of a first trace
                steps += 1
                other.submit(interfere).result(timeout=5)
            return trace

        previous = sys.gettrace()
        sys.settrace(trace)
        try:
            operation()
        finally:
            sys.settrace(previous)
    return steps


OPERATIONS: dict[str, Callable[[TelemetryStore[Any]], list[tuple[Any, int]]]] = {
    "push": lambda store: store.push("x") or [],
    "drain": lambda store: store.drain_numbered(3),
    "drain everything": lambda store: store.drain_numbered(12),
    "peek": lambda store: store.peek(3) and [],
}


def unless_it_waits(store: TelemetryStore[Any], limit: int) -> list[tuple[Any, int]]:
    """Drain, but not while the lock of the store, if it has one, is held by another thread."""
    lock = lock_of(store)
    if lock is None:
        return store.drain_numbered(limit)
    if not lock.acquire(blocking=False):
        return []
    lock.release()  # the thread that might take it is suspended
    return store.drain_numbered(limit)


def lock_of(store: Any) -> Any:
    if isinstance(store, FreeThreadedStore):
        return store._taking_out
    return store._lock if isinstance(store, JournalStore) else None


INTERFERENCES = {
    "push": OPERATIONS["push"],  # goes on without the lock
    "drain": lambda store: unless_it_waits(store, 3),
    "drain everything": lambda store: unless_it_waits(store, 99),
}


@pytest.mark.parametrize("interference", INTERFERENCES)
@pytest.mark.parametrize("suspended", OPERATIONS)
def test_no_push_waits_for_a_call_that_is_suspended(suspended: str, interference: str) -> None:
    store = store_of(*range(5), capacity=5)
    drained: list[tuple[Any, int]] = []
    taken: list[tuple[Any, int]] = []
    pushes = 5

    def interfere() -> None:
        nonlocal pushes
        pushes += interference == "push"
        drained.extend(INTERFERENCES[interference](store))

    steps = at_every_step(lambda: taken.extend(OPERATIONS[suspended](store)), interfere)

    assert steps > 0
    pushes += suspended == "push"
    assert_nothing_is_lost(store, pushes, sorted(drained + taken, key=lambda pair: pair[1]))


AT_THE_CAPACITY: dict[str, Callable[[TelemetryStore[Any]], object]] = {
    "push": lambda store: store.push("x"),
    "drain": lambda store: store.drain_numbered(0),
    "count": lambda store: store.departed_and_waiting(),
}


@pytest.mark.parametrize("suspended", AT_THE_CAPACITY)
def test_what_is_pushed_in_the_midst_of_a_call_leaves_no_excess(suspended: str) -> None:
    """Whichever step of the call it is: the push may find the lock taken, and nothing follows."""
    at_step = steps = 1
    while at_step <= steps:
        store = store_of(*range(5), capacity=5)
        step = itertools.count(1)
        steps = at_every_step(
            functools.partial(AT_THE_CAPACITY[suspended], store),
            lambda: store.push("y") if next(step) == at_step else None,  # noqa: B023
        )
        assert len(store) == 5, f"pushed at step {at_step}"
        at_step += 1 if steps < 200 else 11
    assert steps > 5


@contextlib.contextmanager
def another_thread_takes_items_out(store: TelemetryStore[Any]) -> Iterator[None]:
    """Have the lock taken, if there is one, as by a thread that is preempted."""
    if not isinstance(store, FreeThreadedStore):
        yield
        return
    with ThreadPoolExecutor(1) as other:
        other.submit(store._taking_out.acquire).result()
        try:
            yield
        finally:
            other.submit(store._taking_out.release).result()


@pytest.mark.parametrize("then", AT_THE_CAPACITY)
def test_the_next_call_drops_all_excess(then: str) -> None:
    store = store_of(*range(5), capacity=5)
    with another_thread_takes_items_out(store):
        for _ in range(100):
            store.push("x")
    AT_THE_CAPACITY[then](store)
    assert len(store) == 5
    assert_nothing_is_lost(store, 105 + (then == "push"), [])


def test_far_above_the_capacity_a_push_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_MAX_WAIT", 60.0)
    store = TelemetryStore[int](5)
    most = 5 + (store_module._MAX_EXCESS if isinstance(store, FreeThreadedStore) else 0)
    lengths: list[int] = []

    def push() -> None:
        for number in range(3_000):
            store.push(number)
            lengths.append(len(store))

    pusher = threading.Thread(target=push)
    with another_thread_takes_items_out(store):
        pusher.start()
        while pusher.is_alive() and len(store) <= most:
            pusher.join(0.001)
        pusher.join(0.05)  # time enough to go on, for one that doesn't wait
    pusher.join()
    assert max(lengths) == most
    assert_nothing_is_lost(store, 3_000, [])


def test_no_push_waits_for_good() -> None:
    """The thread that has the lock may be in a signal handler that joins the one that pushes."""
    store = TelemetryStore[int](5)
    pusher = threading.Thread(
        target=lambda: [store.push(number) for number in range(store_module._MAX_EXCESS + 10)]
    )
    with another_thread_takes_items_out(store):
        pusher.start()
        pusher.join(30)
        has_waited_for_good = pusher.is_alive()
    pusher.join()
    assert not has_waited_for_good


def test_a_push_that_is_overtaken_by_a_drain_drops_nothing() -> None:
    store = store_of("a", capacity=1)
    drained: list[tuple[str, int]] = []
    at_every_step(lambda: store.push("b"), lambda: drained.extend(unless_it_waits(store, 9)))
    drained += store.drain_numbered(9)
    assert (drained, store.dropped) == ([("a", 1), ("b", 2)], 0)


def test_pushed_is_exact_while_the_store_is_drained() -> None:
    """A flush waits for this number: one item less, and it would end too early."""
    store = store_of(*range(50))
    counts: list[int] = []
    at_every_step(lambda: counts.append(store.pushed), lambda: unless_it_waits(store, 1))
    assert counts == [50]
    assert store.departed > 0


def test_the_store_of_this_build() -> None:
    """The public name makes it. On a build without the GIL the other one would lose count."""
    kind = FreeThreadedStore if IS_FREE_THREADED else store_module.TelemetryStore
    assert type(store_module.TelemetryStore[int](1)) is kind


def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    """In a child, the thread that held the lock doesn't exist."""
    store = FreeThreadedStore[str](1)
    with ThreadPoolExecutor(1) as other:
        other.submit(store._taking_out.acquire).result()
        store.begin()  # as the child does
    store.push("a")
    store.push("b")
    assert (store.drain(9), store.dropped) == (["b"], 1)


# Signal handlers and __del__.


@needs_timers
def test_a_signal_handler_pushes_in_the_midst_of_pushes_and_drains() -> None:
    store = TelemetryStore[str](20)
    drained: list[tuple[str, int]] = []
    signals = own = 0

    def handler(*_: object) -> None:
        nonlocal signals
        signals += 1
        store.push("signal")

    # Not ITIMER_REAL, which is the test run's own watchdog.
    previous = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
    try:
        while signals < 100:
            for _ in range(30):
                store.push("own")
                own += 1
            drained.extend(store.drain_numbered(10))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)

    assert_nothing_is_lost(store, own + signals, drained)


def test_a_del_pushes_while_garbage_is_collected() -> None:
    store = TelemetryStore[str](20)
    drained: list[tuple[str, int]] = []
    deaths = 0

    class Ship:
        def __init__(self) -> None:
            self.captain = self  # a cycle: only the collector finds it

        def __del__(self) -> None:
            nonlocal deaths
            deaths += 1
            store.push("death")

    thresholds = gc.get_threshold()
    gc.set_threshold(3, 1, 1)
    try:
        for _ in range(2000):
            Ship()
            store.push("turn")
            drained.extend(store.drain_numbered(1))
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()

    assert deaths == 2000
    assert_nothing_is_lost(store, 2000 + deaths, drained)
