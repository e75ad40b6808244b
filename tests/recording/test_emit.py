"""`emit`, from the call to the store: the fast way and the careful one come to the same."""

from __future__ import annotations

import collections
import gc
import json
import sys
from types import FrameType
from typing import Any

import msgspec
import pytest
from freezegun import freeze_time

from redvsblue_telemetry import InvalidEventError, Telemetry, TelemetrySettings
from redvsblue_telemetry._recording.codec import EncodedEvent, EventCodec
from redvsblue_telemetry._recording.emit import Emit, Flag, make_emit
from redvsblue_telemetry._recording.ledger import Ledger
from redvsblue_telemetry._recording.store import TelemetryStore


class Bench:
    """An ``emit`` with all that it needs, and no worker."""

    def __init__(self, capacity: int = 100, max_event_bytes: int = 16384) -> None:
        self.switch = Flag()
        self.switch.on = True
        self.codec = EventCodec("session", max_event_bytes=max_event_bytes)
        self.store = TelemetryStore[EncodedEvent](capacity)
        self.rejected: list[tuple[Exception, object]] = []
        self.ledger = Ledger(self.store)
        self.emit: Emit = make_emit(
            self.switch,
            self.codec,
            self.store,
            self.ledger,
            lambda *error: self.rejected.append(error),
        )

    def wire(self) -> list[dict[str, Any]]:
        return [json.loads(self.codec.to_wire(*item)) for item in self.store.drain_numbered(100)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        ({"a": 1}, {}),
        (None, {"a": 1}),
        (None, {}),
        ({}, {}),
        ({"a": 1, "b": 2}, {"b": 3}),
        (collections.OrderedDict(a=1), {}),
        (collections.ChainMap({"a": 1}), {"c": 4}),
        ({"a": {1, 2}}, {}),
        ({"a": msgspec.Raw(b'{"b":1}')}, {}),
    ],
)
def test_the_first_of_a_type_and_the_next_are_alike(
    bench: Bench, data: Any, fields: dict[str, Any]
) -> None:
    with freeze_time("2026-11-24 12:00:00.123"):
        bench.emit("hit", data, **fields)  # the careful way: the type is new
        bench.emit("hit", data, **fields)  # the fast one
        assert bench.codec.prefixes.quick == {"hit": b'"type":"hit","timestamp":'}
    first, second = bench.wire()
    assert first["timestamp"] == 1795521600123
    assert (first.pop("seq"), second.pop("seq")) == (1, 2)
    assert first.pop("id") != second.pop("id")
    assert first == second
    assert first["data"] == json.loads(bench.codec.encode_json({**(data or {}), **fields}))


@pytest.mark.parametrize(
    ("type", "data", "where"),
    [
        ("", {}, "type"),
        (7, {}, "type"),
        (["hit"], {}, "type"),
        ("hit", "no mapping", "data"),
        ("hit", 0, "data"),
        ("hit", [("a", 1)], "data"),
        ("hit", {"a": object}, "data.a"),
        ("hit", {"a": "x" * 20_000}, "data.a"),
    ],
)
def test_what_is_wrong_is_rejected_whether_or_not_the_type_is_known(
    bench: Bench, type: Any, data: Any, where: str
) -> None:
    bench.emit(type, data)
    bench.emit("hit", {})
    bench.emit(type, data)
    assert [event["type"] for event in bench.wire()] == ["hit"]
    assert [culprit for _, culprit in bench.rejected] == [type, type]
    for error, _ in bench.rejected:
        assert isinstance(error, InvalidEventError)
        assert error.path == where


def test_the_largest_event_is_the_same_on_both_ways() -> None:
    bench = Bench(max_event_bytes=1000)
    for type in ("a", "b"):
        sizes = []
        for length in range(600, 1000):
            bench.emit(type, {"pad": "x" * length})
            if bench.store:
                sizes.append(length)
            bench.store.clear()
        assert sizes == list(range(600, sizes[-1] + 1))
        assert (
            len(bench.codec.to_wire(bench.codec.encode(type, {"pad": "x" * sizes[-1]}), 2**63 - 1))
            == 1000
        )


def test_types_without_end_are_not_kept_without_end(bench: Bench) -> None:
    for number in range(5000):
        bench.emit(f"type {number}")
        bench.store.clear()
    bench.emit("x" * 1000)
    assert len(bench.codec.prefixes.quick) <= 1024
    assert all(len(prefix) <= 256 for prefix in bench.codec.prefixes.quick.values())


def test_while_it_is_off_nothing_is_taken(bench: Bench) -> None:
    bench.switch.on = False
    bench.emit("hit", {"a": 1})
    bench.emit(7)
    assert not bench.store
    assert not bench.rejected


def test_a_full_store_drops_the_oldest() -> None:
    bench = Bench(capacity=3)
    bench.store.high_water = 3
    for number in range(5):
        bench.emit("hit", number=number)
    assert [event["data"]["number"] for event in bench.wire()] == [2, 3, 4]
    assert bench.store.dropped == 2


def test_an_emit_that_the_game_holds_on_to_heeds_the_toggle() -> None:
    with Telemetry(TelemetrySettings(enabled=True, url="ws://127.0.0.1:1/")) as telemetry:
        emit = telemetry.emit
        emit("hit")
        telemetry.enabled = False
        emit("hit")
        telemetry.enabled = True
        emit("hit")
        assert telemetry.stats().emitted == 2
        telemetry.enabled = False


def test_a_subclass_may_have_an_emit_of_its_own() -> None:
    class Loud(Telemetry):
        def emit(self, type: str, data: Any = None, /, **fields: Any) -> None:
            super().emit(type.upper(), data, **fields)

    with Loud(TelemetrySettings(enabled=True, url="ws://127.0.0.1:1/")) as telemetry:
        telemetry.emit("hit")
        telemetry.emit("hit", a=1)
        (body, _), _ = telemetry._store.drain_numbered(2)
        assert b'"HIT"' in body.prefix
        telemetry.enabled = False


def test_without_the_feature_flag_anything_goes_and_nothing_happens() -> None:
    telemetry = Telemetry(TelemetrySettings(enabled=False)).start()
    telemetry.emit("hit", {"a": 1}, b=2)
    telemetry.emit(None)  # type: ignore[arg-type]
    assert telemetry.stats().emitted == telemetry.stats().rejected == 0


@pytest.mark.parametrize("usage", ["data", "fields"])
def test_the_usual_emit_makes_no_call_of_python_and_few_into_c(bench: Bench, usage: str) -> None:
    # Counted, not timed: what a frame pays for doesn't depend on the machine's mood.
    data, fields = ({"a": 1}, {}) if usage == "data" else (None, {"a": 1})
    bench.emit("hit")
    calls: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)
        elif event == "c_call":
            calls.append(argument.__name__)

    sys.setprofile(note)
    try:
        bench.emit("hit", data, **fields)
    finally:
        sys.setprofile(None)
    tail = ["encode", "len", "time_ns", "append", "len"]
    if gc.is_tracked({"a": 1}):  # Python 3.14 and later, where the values have to be looked at
        assert calls[:3] == ["emit", "is_tracked", "is_modest"]
        assert calls[-6:-1] == tail
    else:
        assert calls[:-1] == ["emit", "is_tracked", *tail]
    assert len(bench.store) == 2
