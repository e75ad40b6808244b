"""The context: the next event has it, in any thread, and at any moment of a change."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry import InvalidEventError, TelemetryEvent
from redvsblue_telemetry._journal.layout import Header
from redvsblue_telemetry._journal.records import (
    RecordError,
    RecordReader,
    prefix_of_kind,
    record_of,
)
from redvsblue_telemetry._journal.store import JournalStore
from redvsblue_telemetry._recording import prefixes as prefixes_module
from redvsblue_telemetry._recording.codec import EncodedEvent, EventCodec
from redvsblue_telemetry._recording.emit import Flag, make_emit
from redvsblue_telemetry._recording.ledger import Ledger
from redvsblue_telemetry._recording.prefixes import kind_of, parts_of, prefix_of
from redvsblue_telemetry._recording.store import Store, TelemetryStore
from tests.support.systems import needs_timers

Changes = Callable[..., None]


class Bench:
    """An ``emit`` into a store, and the codec whose context it carries."""

    def __init__(self, store: Store[EncodedEvent]) -> None:
        self.codec, self.store = EventCodec("session"), store
        switch = Flag()
        switch.on = True
        self.rejected: list[object] = []
        self.emit = make_emit(
            switch, self.codec, store, Ledger(store), lambda *error: self.rejected.append(error)
        )

    def context(self, **fields: Any) -> None:
        self.codec.extend_context(fields)

    def events(self) -> list[dict[str, Any]]:
        """The events so far, as on the wire."""
        events = []
        while taken := self.store.drain_numbered(1000):
            events += map(json.loads, self.codec.to_wire_many(taken))
        return events

    def contexts(self) -> list[Any]:
        return [event.get("context") for event in self.events()]


@pytest.fixture(params=["memory", "journal"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "memory":
        yield Bench(TelemetryStore[EncodedEvent](1_000_000))
        return
    store = JournalStore(max_bytes=1 << 28)
    run = SimpleNamespace(segment_path=lambda n: tmp_path / str(n), sync=lambda: None)
    bench = Bench(store)
    store.open(run, Header(bench.codec.session_id, bench.codec.run, 1, 0, 0, 0))
    yield bench
    assert not bench.rejected
    store.close(keep=False)


@pytest.fixture
def switches() -> Iterator[None]:
    """Threads that take turns far more often than usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


# One thread.


def test_each_event_has_the_context_from_the_change_to_the_next(bench: Bench) -> None:
    bench.emit("hit")
    bench.context(player="p-17", level=3)
    bench.emit("hit")
    bench.emit("miss")
    bench.context(level=4, squad=["a", {"b": 1}])
    bench.emit("hit", {"damage": 12})
    bench.context(player=None)
    bench.emit("miss")
    bench.context(level=None, squad=None, unknown=None)
    bench.emit("hit")
    events = bench.events()
    assert [event.get("context") for event in events] == [
        None,
        {"player": "p-17", "level": 3},
        {"player": "p-17", "level": 3},
        {"player": "p-17", "level": 4, "squad": ["a", {"b": 1}]},
        {"level": 4, "squad": ["a", {"b": 1}]},
        None,
    ]
    assert "context" not in events[-1]
    assert [event["type"] for event in events] == ["hit", "hit", "miss", "hit", "miss", "hit"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[3]["data"] == {"damage": 12}


def test_the_context_is_a_snapshot(bench: Bench) -> None:
    squad = ["a"]
    bench.context(squad=squad, where=(1, 2))
    squad.append("b")
    bench.emit("hit")
    bench.context(level=1)
    bench.emit("hit")
    assert bench.contexts() == [
        {"squad": ["a"], "where": [1, 2]},
        {"squad": ["a"], "where": [1, 2], "level": 1},
    ]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"player": object()}, "context.player"),
        ({"squad": {"of": [1, {2: object}]}}, "context.squad.of[1][2]"),
        ({"name": "\ud800"}, "context.name"),
        ({"name": "x" * 2048}, "context.name"),
        ({"a": "x" * 1000, "b": "x" * 1000, "c": "x" * 100}, "context"),
        ({"raw": msgspec.Raw(b"}")}, "context"),
    ],
)
def test_fields_that_cannot_be_sent_change_nothing(
    bench: Bench, fields: dict[str, Any], path: str
) -> None:
    bench.context(level=3)
    with pytest.raises(InvalidEventError) as caught:
        bench.context(level=4, **fields)
    assert caught.value.path.startswith(path)
    bench.emit("hit")
    assert bench.contexts() == [{"level": 3}]


def test_the_largest_context_leaves_room_for_data(bench: Bench) -> None:
    bench.context(pad='",' * ((2048 - len('{"pad":""}')) // 3))
    assert len(bench.codec.prefixes.context.text or b"") > 2040
    with pytest.raises(InvalidEventError, match="limit is 2048"):
        bench.context(more="x" * 10)
    for length in (1, 13_000, 13_900, 14_100):
        bench.emit("hit", pad="x" * length)
        bench.emit("hit", pad="x" * length)
    events = bench.events()
    assert [len(event["data"]["pad"]) for event in events] == sorted(
        [1, 13_000, 13_900, 14_100] * 2
    )
    assert {len(event["context"]["pad"]) for event in events} == {1358}


def test_an_event_at_the_limit_is_as_large_with_a_context() -> None:
    codec = EventCodec("session", max_event_bytes=2000)
    codec.extend_context({"pad": "x" * 200})
    largest = next(n for n in range(2000, 0, -1) if _fits(codec, n))
    assert len(codec.to_wire(codec.encode("hit", {"pad": "x" * largest}), 2**63 - 1)) == 2000


def _fits(codec: EventCodec, length: int) -> bool:
    try:
        codec.encode("hit", {"pad": "x" * length})
    except InvalidEventError:
        return False
    return True


def test_a_pushed_event_keeps_its_own_context(bench: Bench) -> None:
    codec = bench.codec
    bench.context(level=3)
    for event in (
        TelemetryEvent("hit"),
        TelemetryEvent("hit", context={"level": 2}),
        TelemetryEvent("hit", context={}),
        TelemetryEvent("hit", seq=9, id="x"),
        TelemetryEvent("hit", seq=9, context={"where": '][1,"t', "n": [1, 2]}),
        {"type": "hit", "data": {}},
        {"type": "hit", "context": {"level": 1}, "by": "red"},
        {"type": "hit", "context": "menu"},
    ):
        bench.store.push(codec.encode_event(event))
    events = bench.events()
    assert [event["context"] for event in events] == [
        {"level": 3},
        {"level": 2},
        {},
        {"level": 3},
        {"where": '][1,"t', "n": [1, 2]},
        {"level": 3},
        {"level": 1},
        {"level": 3},
    ]
    assert events[6]["data"] == {"by": "red"}
    assert events[7]["data"] == {"context": "menu"}  # as before contexts existed


@pytest.mark.parametrize("context", ["level 3", ["level"], {"a": object()}, {"a": "x" * 3000}])
def test_a_pushed_context_is_checked_like_any_other(bench: Bench, context: Any) -> None:
    with pytest.raises(InvalidEventError) as caught:
        bench.codec.encode_event(TelemetryEvent("hit", context=context))
    assert caught.value.event_type == "hit"
    assert caught.value.path.startswith("context")


def test_known_types_stay_known_when_the_context_changes(bench: Bench) -> None:
    for number in range(5):
        bench.emit(f"type {number}")
    bench.context(level=3)
    quick = bench.codec.prefixes.quick
    assert quick["type 4"] == b'"type":"type 4","context":{"level":3},"timestamp":'
    assert bytes(bench.codec.prefixes.kinds["type 4"]) == b'["{\\"level\\":3}type 4"]'
    assert len(quick) == len(bench.codec.prefixes.kinds) == 5


# Several threads, and signal handlers.


@pytest.mark.usefixtures("switches")
def test_after_a_change_no_event_has_the_former_context(bench: Bench) -> None:
    """Each thread notes the level that was set before each of its events."""
    level, is_over, threads = [0], threading.Event(), 3
    bench.context(level=0)

    def play(thread: int) -> None:
        number = 0
        while not is_over.is_set() and number < 30_000:
            number += 1
            # A known type, and ones that are new, or new again.
            kind = "hit" if number % 2 else f"type {thread} {number % 700}"
            bench.emit(kind, thread=thread, least=level[0])

    players = [threading.Thread(target=play, args=(thread,)) for thread in range(threads)]
    for player in players:
        player.start()
    for number in range(1, 400):
        bench.context(level=number)
        level[0] = number
    is_over.set()
    for player in players:
        player.join(30)
    seen = [0] * threads
    events = bench.events()
    assert len(events) > threads
    for event in events:
        found, thread = event["context"]["level"], event["data"]["thread"]
        assert found >= event["data"]["least"], event
        assert found >= seen[thread], event  # nor does a thread ever go back
        seen[thread] = found


@pytest.mark.usefixtures("switches")
def test_changes_by_several_threads_are_all_kept(bench: Bench) -> None:
    def play(thread: int) -> None:
        for number in range(200):
            bench.context(**{f"of {thread}": number})
            bench.emit(f"type {number}", thread=thread, number=number)

    threads = [threading.Thread(target=play, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for event in bench.events():
        assert event["context"][f"of {event['data']['thread']}"] == event["data"]["number"]
    bench.emit("end")
    assert bench.contexts() == [{f"of {thread}": 199 for thread in range(4)}]


@needs_timers
def test_a_change_in_a_signal_handler_holds_from_the_next_event_on(bench: Bench) -> None:
    level = [0]

    def change(*_: object) -> None:
        bench.context(level=level[0] + 1)
        level[0] += 1
        bench.emit(f"type {level[0]}", least=level[0])
        signal.setitimer(signal.ITIMER_REAL, 0.0003)  # once: handlers must not pile up

    bench.context(level=0)
    former = signal.signal(signal.SIGALRM, change)
    signal.setitimer(signal.ITIMER_REAL, 0.0003)
    try:
        for number in range(50_000):
            if level[0] > 300:
                break
            bench.emit(f"type {number % 1500}", least=level[0])
            bench.context(step=number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert level[0] > 10
    for event in bench.events():
        assert event["context"]["level"] >= event["data"]["least"], event


def interrupting(
    monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[], object]
) -> list[str]:
    """Have a change made in the middle of the next call of a function."""
    calls: list[str] = []
    inner = getattr(prefixes_module, name)

    def interrupted(*arguments: Any) -> Any:
        result = inner(*arguments)
        if not calls:
            calls.append(name)
            change()
        return result

    monkeypatch.setattr(prefixes_module, name, interrupted)
    return calls


@pytest.mark.parametrize("name", ["prefix_of", "kind_of"])
def test_a_prefix_of_a_former_context_is_not_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls = interrupting(monkeypatch, name, lambda: bench.context(level=1))
    bench.emit("hit")  # began before the change, so it may have either
    bench.emit("hit")
    bench.emit("hit")
    assert calls
    assert bench.contexts()[1:] == [{"level": 1}] * 2


@pytest.mark.parametrize("name", ["parts_of", "prefix_of", "kind_of"])
def test_a_change_in_the_middle_of_a_change_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    bench.emit("hit")

    def change() -> None:
        bench.context(level=1)
        bench.emit("hit")

    calls = interrupting(monkeypatch, name, change)
    bench.context(player="p-17")
    bench.emit("hit")
    assert calls
    assert bench.contexts() == [None, {"level": 1}, {"level": 1, "player": "p-17"}]


def test_a_child_has_the_context_of_its_parent(bench: Bench) -> None:
    bench.context(level=3)
    bench.codec.begin("child")
    bench.emit("hit")
    bench.context(player="p-18")
    bench.emit("hit")
    assert bench.contexts() == [{"level": 3}, {"level": 3, "player": "p-18"}]


# Prefixes and kinds.

_names = st.text(min_size=1, max_size=20) | st.text('][1,"\\{}:u002c', min_size=1, max_size=20)
_contexts = st.none() | st.dictionaries(
    _names, st.recursive(st.integers() | _names, st.lists, max_leaves=4), max_size=3
)


@given(_names, _contexts)
def test_a_prefix_and_its_kind_are_made_from_each_other(
    name: str, context: dict[str, Any] | None
) -> None:
    type = msgspec.json.encode(name)
    text = None if context is None else msgspec.json.encode(context)
    prefix = prefix_of(type, text)
    assert parts_of(prefix) == (type, text)
    kind = kind_of(prefix)
    assert prefix_of_kind(kind) == prefix
    assert context is None or b"," not in kind
    event = EncodedEvent(prefix, 1795600000000000000, b'{"n":1}')
    assert RecordReader().read(record_of(event)) == event


@pytest.mark.parametrize(
    "kind",
    [
        b'["hit"]',
        b'[""]',
        b"[]",
        b'["{}"]',
        b'["[]hit"]',
        b'["{\\"a\\":NaN}hit"]',
        b'["{\\"a\\":1hit"]',
        b'["{}hit" "x"]',
        b'["{}hit"',
        b'""',
        b"7",
        b'["' + b"[" * 100_000 + b'"]',
    ],
)
def test_a_damaged_kind_is_not_a_record(kind: bytes) -> None:
    with pytest.raises(RecordError):
        RecordReader().read(b"[1795600000000000000,%b,{}]" % kind)
