"""The live stream: updates for viewers, and that no viewer can slow down ingest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from redvsblue_telemetry.collector.http import live
from redvsblue_telemetry.collector.http.live import Live
from redvsblue_telemetry.collector.messages import Event
from redvsblue_telemetry.collector.models import EventFilter, LiveUpdate
from redvsblue_telemetry.collector.storage.writer import Stored
from tests.collector.clients import client_of
from tests.support.closing import reset
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.wait import wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def stored(first: int, types: list[str], data: str = "{}") -> Stored:
    by_type: dict[str, int] = {}
    events = []
    for number, type_ in enumerate(types, first):
        by_type[type_] = by_type.get(type_, 0) + 1
        raw = msgspec.Raw(data.encode())
        events.append(Event("s", number, type_, 0, raw, f"s-{number}"))
    return Stored(events, first, 0, 0, by_type, 5000)


def looks(
    *happenings: Callable[[Live], object], wanted: EventFilter | None = None, clock: Clock
) -> list[LiveUpdate]:
    """Return the first update, and the update after each happening."""

    async def look_on() -> list[LiveUpdate]:
        watched = Live(lambda: 7, clock)
        watching = watched.updates(wanted or EventFilter())
        async with contextlib.aclosing(watching):
            seen = [await anext(watching)]
            for happening in happenings:
                happening(watched)
                seen.append(await anext(watching))
        return seen

    return asyncio.run(look_on())


@pytest.fixture(autouse=True)
def quick_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_UPDATE_INTERVAL", 0.005)


# Updates.


def test_update_has_the_events_since_the_last() -> None:
    seen = looks(
        lambda live: live.record(stored(1, ["a", "b"])),
        lambda live: None,
        lambda live: live.record(stored(3, ["c"])),
        clock=Clock(),
    )
    assert [[event.arrival for event in look.events] for look in seen] == [[], [1, 2], [], [3]]
    assert [look.arrived for look in seen] == [0, 2, 0, 1]
    assert [look.total for look in seen] == [0, 2, 2, 3]
    assert {(look.skipped, look.connections) for look in seen} == {(0, 7)}


def test_counts_are_whole_when_events_are_skipped() -> None:
    count = 3 * live._MAX_EVENTS
    seen = looks(
        *(lambda live, n=n: live.record(stored(n * count + 1, ["a"] * count)) for n in range(3)),
        clock=Clock(),
    )
    assert [look.arrived for look in seen] == [0, count, count, count]
    assert [look.skipped + look.matching for look in seen] == [0, count, count, count]
    assert [len(look.events) for look in seen] == [0, *[live._MAX_EVENTS_PER_UPDATE] * 3]
    assert seen[-1].events[-1].arrival == 3 * count


def test_each_second_is_reported_once_when_it_is_over() -> None:
    clock = Clock()
    start = int(clock.now)

    def at(second: float, types: list[str]) -> Callable[[Live], None]:
        def happen(live: Live) -> None:
            clock.now = start + second
            if types:
                live.record(stored(1, types))

        return happen

    seen = looks(
        at(0.1, ["a", "a", "b"]), at(0.9, ["a"]), at(1.0, ["c"]), at(4.5, ["d"]), at(5.0, []),
        clock=clock,
    )  # fmt: skip
    assert [look.seconds for look in seen] == [
        [], [], [], [(start, {"a": 3, "b": 1})], [(start + 1, {"c": 1})], [(start + 4, {"d": 1})],
    ]  # fmt: skip


def test_filter_decides_what_is_shown_and_not_what_is_counted() -> None:
    seen = looks(
        lambda live: live.record(stored(1, ["a", "b", "a"], '{"Name":"Zoe"}')),
        wanted=EventFilter(type="a", text="zoe"),
        clock=Clock(),
    )[-1]
    assert ([event.arrival for event in seen.events], seen.matching, seen.arrived) == ([1, 3], 2, 3)


def test_filter_by_context_shows_the_events_with_it() -> None:
    def record(live: Live) -> None:
        group = stored(1, ["a", "a", "a"])
        group.events[0].context = msgspec.Raw(b'{"player":"p-17","level":3}')
        group.events[1].context = msgspec.Raw(b'{"player":"p-1"}')
        live.record(group)

    wanted = EventFilter(context={"player": "p-17", "level": "3"})
    seen = looks(record, wanted=wanted, clock=Clock())[-1]
    assert ([event.arrival for event in seen.events], seen.matching, seen.arrived) == ([1], 1, 3)
    context = seen.events[0].context
    assert context is not msgspec.UNSET
    assert bytes(context) == b'{"player":"p-17","level":3}'


def test_only_an_object_is_a_context_and_one_nested_too_deeply_has_no_fields() -> None:
    def record(live: Live) -> None:
        contexts = (b'["player"]', b"null", b'{"player":' + 100_000 * b"[" + 100_000 * b"]" + b"}")
        group = stored(1, ["a"] * 4)
        for event, context in zip(group.events, contexts, strict=False):
            event.context = msgspec.Raw(context)
        group.events[3].context = msgspec.Raw(b'{"player":"p-1"}')
        live.record(group)

    wanted = EventFilter(context={"player": "p-1"})
    seen = looks(record, wanted=wanted, clock=Clock())[-1]
    assert [event.arrival for event in seen.events] == [4]

    seen = looks(record, clock=Clock())[-1]
    assert [event.context is msgspec.UNSET for event in seen.events] == [True, True, False, False]


def test_types_that_nobody_could_count_apart_are_counted_together() -> None:
    clock = Clock()

    def flood(live: Live) -> None:
        live.record(stored(1, ["known"] + [f"type {n}" for n in range(10_000)] + ["x" * 10_000]))
        live.record(stored(10_003, ["known"]))
        clock.now += 1

    ((_, counts),) = looks(flood, clock=clock)[-1].seconds
    assert len(counts) == live._MAX_TYPES_PER_SECOND + 1
    assert counts["known"] == 2
    assert sum(counts.values()) == 10_003


def test_what_is_kept_and_shown_is_bounded_in_bytes() -> None:
    async def fill() -> tuple[int, LiveUpdate]:
        watched = Live(lambda: 0)
        for number in range(1, 101):
            watched.record(stored(number, ["a"], '{"x":"' + "y" * 200_000 + '"}'))
        kept = sum(memoryview(event.data).nbytes for _, event in watched._newest)
        watching = watched.updates(EventFilter())
        async with contextlib.aclosing(watching):
            return kept, await anext(watching)

    kept, look = asyncio.run(fill())
    assert kept <= live._MAX_EVENT_BYTES
    assert [event.arrival for event in look.events] == [99, 100]


# Which events are shown when there are more than there is room for.


def group_of(first: int, sessions: list[str]) -> Stored:
    """Return a stored group with an event of each of these sessions, in this order."""
    data = msgspec.Raw(b"{}")
    events = [Event(s, n, "t", 0, data, f"{n}") for n, s in enumerate(sessions, first)]
    return Stored(events, first, 0, 0, {"t": len(events)}, 5000)


def test_sessions_share_an_update() -> None:
    sessions = ["one"] * 3 + ["quiet"] + ["two"] * 500 + ["three"] * 500
    update = looks(lambda live: live.record(group_of(1, sessions)), clock=Clock())[-1]

    shown = Counter(event.session_id for event in update.events)
    assert shown == {"one": 3, "quiet": 1, "two": 18, "three": 18}
    arrivals = [event.arrival for event in update.events]
    assert arrivals == [1, 2, 3, 4, *range(504 - 17, 505), *range(1004 - 17, 1005)]
    assert (update.arrived, update.matching + update.skipped) == (1004, 1004)


def test_places_that_cannot_be_shared_evenly_go_to_the_newest() -> None:
    assert live._shares(["a", "a", "b", "b", "c", "c"], 4) == [1, 3, 4, 5]
    assert live._shares(["a", "b", "c", "a", "d"], 2) == [3, 4]
    assert live._shares(["a", "b"], 2) == [0, 1]
    assert live._shares([], 2) == []


def test_session_that_floods_does_not_drive_out_the_others_between_two_updates() -> None:
    def flood(live: Live) -> None:
        live.record(group_of(1, ["quiet", "shy", "quiet"]))
        for number in range(100):
            live.record(group_of(1000 * (number + 1), ["loud"] * 1000))

    update = looks(flood, clock=Clock())[-1]
    shown = Counter(event.session_id for event in update.events)
    assert shown == {"quiet": 2, "shy": 1, "loud": live._MAX_EVENTS_PER_UPDATE - 3}
    assert update.events[-1].arrival == 100_999
    assert update.arrived == 100_003


def test_filter_of_one_session_shows_as_many_of_it_as_there_is_room_for() -> None:
    sessions = ["one", "two", "three"] * 200
    update = looks(
        lambda live: live.record(group_of(1, sessions)),
        wanted=EventFilter(session="two"),
        clock=Clock(),
    )[-1]
    assert {event.session_id for event in update.events} == {"two"}
    assert len(update.events) == live._MAX_EVENTS_PER_UPDATE


def test_each_of_ten_thousand_sessions_is_as_likely_to_be_shown() -> None:
    watched = Live(lambda: 0)
    groups = [
        group_of(500 * n + 1, [f"s{(500 * n + k) % 10_000}" for k in range(500)])
        for n in range(100)
    ]  # a second of fifty thousand events
    for group in groups:
        watched.record(group)

    kept = [event.arrival for _, event in watched._newest]
    assert live._MAX_EVENTS // 2 < len(kept) <= live._MAX_EVENTS
    assert kept == sorted(kept)
    assert len(Counter(event.session_id for _, event in watched._newest)) == len(kept)


def test_large_events_leave_room_for_small_ones_of_others() -> None:
    def record(live: Live) -> None:
        large = msgspec.Raw(b'{"x":"' + b"y" * 300_000 + b'"}')
        small = msgspec.Raw(b"{}")
        events = [Event("small", 1, "t", 0, small, "1")]
        events += [Event("large", n, "t", 0, large, f"{n}") for n in range(2, 5)]
        live.record(Stored(events, 1, 0, 0, {"t": 4}, 5000))

    update = looks(record, clock=Clock())[-1]
    assert [event.session_id for event in update.events] == ["small", "large"]


def test_event_that_is_kept_does_not_keep_its_message() -> None:
    message = b'[{"x":"' + b"y" * 500_000 + b'"},{}]'
    data = msgspec.json.decode(message, type=list[msgspec.Raw])[1]

    async def keep() -> int:
        watched = Live(lambda: 0)
        watched.record(Stored([Event("s", 1, "a", 0, data, "id")], 1, 0, 0, {"a": 1}, 5000))
        return memoryview(watched._newest[0][1].data).obj is memoryview(data).obj

    assert not asyncio.run(keep())


# A real stream.


class Viewer:
    """Looks on by a socket, at the pace of its caller."""

    def __init__(self, collector: RunningCollector, path: str = "/api/live") -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(("127.0.0.1", collector.port))
        self._socket.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        self.read_bytes = 0
        self._rest = b""

    def lines(self) -> Iterator[bytes]:
        while received := self._socket.recv(65536):
            self.read_bytes += len(received)
            *lines, self._rest = (self._rest + received).split(b"\n")
            yield from lines

    def looks(self) -> Iterator[dict[str, Any]]:
        for line in self.lines():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    def leave(self, *, rudely: bool = False) -> None:
        if rudely:  # a reset, not a farewell
            reset(self._socket)
        self._socket.close()


@contextlib.contextmanager
def viewing(collector: RunningCollector, path: str = "/api/live") -> Iterator[Viewer]:
    viewer = Viewer(collector, path)
    try:
        yield viewer
    finally:
        viewer.leave()


def batch(first: int, size: int, data: str = "{}") -> str:
    return "[" + ",".join(
        f'{{"sessionId":"s","seq":{seq},"type":"t","timestamp":0,"id":"{seq}","data":{data}}}'
        for seq in range(first, first + size)
    ) + "]"  # fmt: skip


def viewers(collector: RunningCollector) -> float:
    text = collector.get("/metrics").body.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return families["telemetry_viewers"].samples[0].value


def test_viewer_sees_events_as_they_come_with_line_breaks_in_them(
    collector: RunningCollector,
) -> None:
    data = '{\r\n  "a":\n1, "b": "\\n </script>"\r}'
    with viewing(collector, "/api/live?type=t") as viewer, client_of(collector) as client:
        stream = viewer.looks()
        assert next(stream)["events"] == []
        client.send(batch(1, 3, data))
        found = next(look["events"] for look in stream if look["events"])
    assert [event["arrival"] for event in found] == [1, 2, 3]
    assert found[0]["data"] == {"a": 1, "b": "\n </script>"}


def test_viewer_that_comes_late_sees_what_is_there(collector: RunningCollector) -> None:
    with client_of(collector) as client:
        client.send(batch(1, 100))
        client.recv(timeout=PATIENCE)
        assert wait_until(lambda: collector.stats().events == 100)
        with viewing(collector) as viewer:
            look = next(viewer.looks())
    assert [event["seq"] for event in look["events"]] == list(range(61, 101))
    assert (look["arrived"], look["total"]) == (0, 100)


@pytest.mark.parametrize("rudely", [False, True])
def test_viewer_that_leaves_is_forgotten(collector: RunningCollector, rudely: bool) -> None:
    viewer = Viewer(collector)
    try:
        next(viewer.looks())
        assert viewers(collector) == 1
    finally:
        viewer.leave(rudely=rudely)
    assert wait_until(lambda: viewers(collector) == 0, PATIENCE)


def test_no_more_viewers_than_may(
    collector: RunningCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_MAX_VIEWERS", 1)
    with viewing(collector) as viewer:
        next(viewer.looks())
        answer = collector.get("/api/live")
        assert answer.status == 503
        assert "too many" in answer.json()["error"]
    assert wait_until(lambda: viewers(collector) == 0, PATIENCE)


def test_viewers_are_let_go_when_the_collector_closes() -> None:
    with collector_running() as collector:
        viewer = Viewer(collector)
        next(viewer.looks())
        started = time.monotonic()
        collector.stop()
        assert time.monotonic() - started < 5
    assert list(viewer.lines())[-1:] in ([], [b""])
    viewer.leave()


def test_viewer_that_does_not_read_costs_ingest_and_memory_nothing(
    collector: RunningCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Large updates soon fill the kernel's buffers for a viewer that doesn't read.
    monkeypatch.setattr(live, "_MAX_EVENTS_PER_UPDATE", 1000)
    batches, size = 80, 250
    total = batches * size
    data = '{"x":"' + "y" * 1000 + '"}'
    with viewing(collector) as viewer, client_of(collector) as client:
        assert wait_until(lambda: viewers(collector) == 1, PATIENCE)
        started = time.monotonic()
        for number in range(batches):
            client.send(batch(number * size + 1, size, data))
            time.sleep(0.04)  # so that it takes a while: about 5,000 a second
        while json.loads(client.recv(timeout=PATIENCE))["ack"] < batches:
            pass
        seconds = time.monotonic() - started
        assert collector.stats().events == total

        # Now it reads: all that was kept for it, and then what is new.
        seen = []
        for look in viewer.looks():
            seen.append(look)
            if look["total"] == total:
                break
    assert seconds < PATIENCE
    assert sum(look["arrived"] for look in seen) == total
    assert max(look["skipped"] for look in seen) > 0
    assert viewer.read_bytes < total * len(data) / 2
    assert wait_until(lambda: viewers(collector) == 0, PATIENCE)
