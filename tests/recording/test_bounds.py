"""Data that is too large, too deep or endless is rejected before it is expanded."""

from __future__ import annotations

import array
import collections
import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest

from redvsblue_telemetry import InvalidEventError, TelemetryEvent, emit, get_telemetry
from redvsblue_telemetry._recording.codec import EventCodec
from redvsblue_telemetry._shared import MAX_DEPTH
from redvsblue_telemetry.testing import record_events
from tests.support import REPOSITORY

LIMIT = 16384
MEGABYTE = 1024 * 1024


class Counting:
    """Counts how often it is asked for an item."""

    asked = 0

    def ask(self) -> int:
        self.asked += 1
        assert self.asked <= LIMIT, "read on and on"
        return self.asked


class EndlessSequence(Counting, Sequence[int]):
    def __getitem__(self, index: Any) -> Any:
        return self.ask()

    def __iter__(self) -> Iterator[int]:
        while True:
            yield self.ask()

    def __len__(self) -> int:
        return 1


class EndlessMapping(Counting, Mapping[str, int]):
    length = 1

    def __getitem__(self, key: str) -> int:
        return 0

    def __iter__(self) -> Iterator[str]:
        while True:
            yield str(self.ask())

    def __len__(self) -> int:
        return self.length


class HugeMapping(EndlessMapping):
    length = sys.maxsize


class HugeVector(Counting):
    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> int:
        return self.ask()


class Lister(Counting):
    """An array whose list would be huge."""

    shape = (10_000, 10_000)

    def tolist(self) -> object:
        raise AssertionError("expanded")


LARGE: dict[str, Callable[[], Any]] = {
    "range": lambda: range(10_000_000),
    "range without a length": lambda: range(10**30),
    "list": lambda: [0] * 2_000_000,
    "tuple in a list": lambda: [(0,) * 2_000_000],
    "lists in a list": lambda: [[0] * 10_000] * 10_000,
    "dict": lambda: [dict.fromkeys(range(100_000))],
    "set": lambda: set(range(100_000)),
    "deque": lambda: collections.deque([0]) * 2_000_000,
    "image": lambda: np.zeros((1080, 1920, 3), np.uint8),
    "array of empty rows": lambda: np.zeros((10**9, 0)),
    "objects": lambda: np.empty((1000, 1000), object),
    "records": lambda: np.zeros(10**6, [("x", float), ("y", float)]),
    "array.array": lambda: array.array("d", bytes(8_000_000)),
    "memoryview": lambda: [memoryview(bytes(1_000_000))],
    "bytes": lambda: [bytes(1_000_000)],
    "text": lambda: [np.float64(1), "x" * 1_000_000, collections.OrderedDict()],
    "integer": lambda: [10**100_000, collections.OrderedDict()],
    "endless sequence": EndlessSequence,
    "endless mapping": EndlessMapping,
    "huge mapping": HugeMapping,
    "huge vector": HugeVector,
    "lister": Lister,
}


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("way", ["emit", "push"])
def test_what_cannot_fit_is_rejected_and_not_expanded(make: Callable[[], Any], way: str) -> None:
    value = make()
    codec = EventCodec("session", max_event_bytes=LIMIT)
    event: dict[str, Any] = {"type": "hit", "data": {"good": 1, "here": {"value": value}}}
    calls = {
        "emit": lambda: codec.encode("hit", event["data"]),
        "push": lambda: codec.encode_event(event),
    }
    encode = calls[way]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidEventError) as caught:
            encode()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.path.startswith("data.here.value")
    assert caught.value.reason == f"is too large for an event; the limit is {LIMIT} bytes"
    assert peak < 2 * MEGABYTE


@pytest.mark.parametrize("value", [range(10_000_000), np.zeros((1080, 1920, 3)), HugeVector()])
def test_a_large_value_among_flat_data_is_rejected_by_emit(value: object) -> None:
    with record_events() as events:
        emit("hit")  # so that the type is known
        tracemalloc.start()
        try:
            emit("hit", value=value)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert events.types() == ["hit"]
    assert events.stats().rejected == 1
    assert peak < 2 * MEGABYTE


@pytest.mark.parametrize(
    "data",
    [{"a": "x" * 8_000_000}, {"a": bytes(8_000_000)}, dict.fromkeys(range(300_000))],
    ids=["text", "bytes", "fields"],
)
@pytest.mark.parametrize("way", ["emit", "push"])
def test_large_flat_data_is_encoded_once_at_most_for_each_type(
    data: dict[Any, Any], way: str
) -> None:
    peaks = []
    with record_events() as events:
        # A new type; one whose last event was fine; and one whose last event was too large.
        for is_known in (False, True, False):
            if is_known:
                emit("hit")
            tracemalloc.start()
            try:
                if way == "emit":
                    emit("hit", data)
                else:
                    get_telemetry().push({"type": "hit", "data": data})
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
    assert events.types() == ["hit"]
    assert events.stats().rejected == 3
    assert max(peaks[0], peaks[2]) < MEGABYTE


def test_a_mapping_without_end_is_no_data() -> None:
    codec = EventCodec("session", max_event_bytes=LIMIT)
    reason = f"has more fields than fit into {LIMIT} bytes"
    calls: list[tuple[str, Callable[[], object]]] = [
        ("data", lambda: codec.encode("hit", EndlessMapping())),
        ("data", lambda: codec.encode("hit", EndlessMapping(), {"a": 1})),
        ("data", lambda: codec.encode_event({"type": "hit", "data": EndlessMapping()})),
        ("data", lambda: codec.encode_event(TelemetryEvent("hit", EndlessMapping()))),
        ("event", lambda: codec.encode_event(EndlessMapping())),
    ]
    for path, call in calls:
        with pytest.raises(InvalidEventError) as caught:
            call()
        assert (caught.value.path, caught.value.reason) == (path, reason)


@pytest.mark.parametrize("make", [mock.Mock, mock.MagicMock])
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [value]])
def test_a_mock_has_no_form_in_json(
    make: Callable[[], Any], wrap: Callable[[object], object]
) -> None:
    with pytest.raises(InvalidEventError, match="has no form in JSON"):
        EventCodec("session").encode("hit", {"ship": wrap(make().id)})


def test_only_a_list_or_a_scalar_from_tolist_counts() -> None:
    class Odd:
        def tolist(self) -> object:
            return self.__class__.tolist

    with pytest.raises(InvalidEventError, match="Odd has no form in JSON"):
        EventCodec("session").encode("hit", {"ship": Odd()})


def test_the_search_for_a_fault_looks_at_each_item_once() -> None:
    looks = []

    class Key(str):
        __slots__ = ()

        def __hash__(self) -> int:
            looks.append(1)
            return super().__hash__()

    items: list[object] = [{Key("a"): 1} for _ in range(1000)]
    looks.clear()
    with pytest.raises(InvalidEventError) as caught:
        EventCodec("session").encode("hit", {"items": [*items, object()]})
    assert caught.value.path == "data.items[1000]"
    assert len(looks) <= 1000


# Depth.


def nested(levels: int, wrap: Callable[[object], object]) -> Any:
    value: object = 1
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "wrap",
    [lambda v: [v], lambda v: {"a": v}, lambda v: (v,), lambda v: collections.OrderedDict(a=v)],
    ids=["list", "dict", "tuple", "OrderedDict"],
)
def test_data_may_have_sixty_four_levels(wrap: Callable[[object], object]) -> None:
    codec = EventCodec("session")
    most = {"x": nested(MAX_DEPTH - 1, wrap)}
    for _ in range(2):
        assert codec.encode("hit", most).data == codec.encode_event({"type": "hit", **most}).data
    gc.collect()  # which stops tracking tuples that hold no references
    for call in (
        lambda: codec.encode("hit", {"x": nested(MAX_DEPTH, wrap)}),
        lambda: codec.encode_event({"type": "hit", "x": nested(MAX_DEPTH, wrap)}),
        lambda: codec.encode_event(TelemetryEvent("hit", {"x": nested(MAX_DEPTH, wrap)})),
        lambda: codec.encode_event(TelemetryEvent("hit", {"x": nested(MAX_DEPTH, wrap)}, seq=1)),
    ):
        with pytest.raises(InvalidEventError) as caught:
            call()
        assert caught.value.reason == "is nested deeper than 64 levels"


ON_A_SMALL_STACK = """
import logging, sys, threading
logging.disable(logging.CRITICAL)
from redvsblue_telemetry import TelemetryEvent, emit
from redvsblue_telemetry.testing import record_events

def nested(levels, wrap):
    value = 1
    for _ in range(levels):
        value = wrap(value)
    return value

circle = {}
circle["self"] = circle
ring = []
ring.append(ring)
deep = [circle, {"ring": ring}]
for levels in (900, 20_000):
    deep.append({"x": nested(levels, lambda v: [v])})
    deep.append({"x": nested(levels, lambda v: {"a": v})})
    deep.append({"x": nested(levels, lambda v: (v, []))})
fits = {"x": nested(63, lambda v: {"a": v}), "y": nested(63, lambda v: [v])}

def play():
    for data in deep:
        emit("x", data)
        emit("x", **data)
        events._telemetry.push({"type": "x", "data": data})
        events._telemetry.push(TelemetryEvent("x", data, seq=1))
    emit("x", fits)

sys.setrecursionlimit(100_000)
threading.stack_size(STACK)
with record_events() as events:
    emit("x")
    thread = threading.Thread(target=play)
    thread.start()
    thread.join()
    stats = events.stats()
    assert (stats.emitted, stats.rejected) == (2, 4 * len(deep)), stats
print("alive")
"""


@pytest.mark.parametrize("kibibytes", [128, 512])
def test_deep_data_on_a_small_stack_is_rejected(kibibytes: int) -> None:
    code = ON_A_SMALL_STACK.replace("STACK", str(kibibytes * 1024))
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
    )
    assert (run.returncode, run.stdout) == (0, "alive\n"), run.stderr


# Close to the recursion limit.


AT_EACH_DEPTH = """
import logging, sys
logging.disable(logging.CRITICAL)
from redvsblue_telemetry import Telemetry, emit, InvalidEventError
from redvsblue_telemetry.testing import record_events

def call(*arguments): pass
def play(depth=0):
    global begun
    try:
        play(depth + 1)
    except RecursionError:
        pass
    arguments = make(f"type {depth}", {"at": [depth]})
    try:
        # An emit can't begin where no function can.
        call(*arguments)
    except RecursionError:
        return
    begun += 1
    try:
        target(*arguments)
    except InvalidEventError:
        pass

def as_arguments(type, data): return type, data
def as_event(type, data): return ({"type": type, "data": data},)

for strict in (False, True):
    with record_events(strict=strict) as events:
        telemetry = events._telemetry
        targets = (emit, as_arguments), (telemetry.emit, as_arguments), (telemetry.push, as_event)
        for target, make in targets:
            begun, before = 0, events.stats()
            try:
                play()
            except RecursionError:  # at the limit itself `make` can't be called
                pass
            after = events.stats()
            counted = after.emitted + after.rejected - before.emitted - before.rejected
            assert counted == begun, (target, counted, begun)
            assert after.emitted - before.emitted > 900
print("alive")
"""


AN_ENGINE_AT_EACH_DEPTH = """
import logging
logging.disable(logging.CRITICAL)
from redvsblue_telemetry.testing import record_events

class Engine:
    def on(self, name, handler): self.handler = handler
    def off(self, name, handler): pass
class Probe:
    def __call__(self, *args, **fields): pass
engine, probe, begun, raised = Engine(), Probe(), 0, []
def play(depth=0):
    global begun
    try:
        play(depth + 1)
    except RecursionError:
        pass
    try:
        # The handler can't begin where no such object can.
        probe({"type": "hit", "data": {"at": [depth]}})
    except RecursionError:
        return
    begun += 1
    try:
        engine.handler({"type": "hit", "data": {"at": [depth]}})
    except RecursionError:
        raised.append(depth)

with record_events() as events:
    binding = events._telemetry.attach(engine)
    play()
    assert begun > 900 and not raised, raised
    assert events.stats().emitted > 900
print("alive")
"""


def test_an_attached_engine_at_any_depth_hears_of_no_error() -> None:
    run = subprocess.run(
        [sys.executable, "-c", AN_ENGINE_AT_EACH_DEPTH],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
    )
    assert (run.returncode, run.stdout) == (0, "alive\n"), run.stderr


def test_an_emit_at_any_depth_is_recorded_or_counted_as_rejected() -> None:
    run = subprocess.run(
        [sys.executable, "-c", AT_EACH_DEPTH],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
    )
    assert (run.returncode, run.stdout) == (0, "alive\n"), run.stderr
