"""``attach`` in the four dialects, each with the real library."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import blinker
import pyee
import pytest
from pyglet.event import EventDispatcher

from redvsblue_telemetry import TelemetryError, TelemetryEvent, start_telemetry
from redvsblue_telemetry.testing import RecordedEvents, record_events


class Emitter:
    """A game's own: on/off."""

    def __init__(self) -> None:
        self.handlers: list[tuple[str, Callable[..., object]]] = []

    def on(self, event: str, handler: Callable[..., object]) -> None:
        self.handlers.append((event, handler))

    def off(self, event: str, handler: Callable[..., object]) -> None:
        self.handlers.remove((event, handler))

    def emit(self, event: str, *args: object, **fields: object) -> None:
        for name, handler in list(self.handlers):
            if name == event:
                handler(*args, **fields)


class Window(EventDispatcher):
    """Such as pyglet's."""


Window.register_event_type("telemetry")

HIT = {"type": "hit", "data": {"by": "red-1"}}


def plain() -> tuple[Any, Callable[[Any], object]]:
    engine = Emitter()
    return engine, lambda event: engine.emit("telemetry", event)


def with_pyee() -> tuple[Any, Callable[[Any], object]]:
    engine = pyee.EventEmitter()
    return engine, lambda event: engine.emit("telemetry", event)


def with_blinker() -> tuple[Any, Callable[[Any], object]]:
    signal = blinker.Signal()
    return signal, lambda event: signal.send(object(), event=event)


def with_pyglet() -> tuple[Any, Callable[[Any], object]]:
    window = Window()
    return window, lambda event: window.dispatch_event("telemetry", event)


DIALECTS = [plain, with_pyee, with_blinker, with_pyglet]
Make = Callable[[], tuple[Any, Callable[[Any], object]]]


@pytest.mark.parametrize("make", DIALECTS)
def test_events_are_taken_until_it_is_detached(make: Make) -> None:
    with record_events() as events:
        engine, emit = make()
        with start_telemetry().attach(engine) as binding:
            assert binding.is_attached
            gc.collect()
            emit(HIT)
            emit(TelemetryEvent("miss"))
        assert not binding.is_attached
        emit(HIT)
        binding.detach()
        assert events.types() == ["hit", "miss"]
        assert events[0].data == HIT["data"]


@pytest.mark.parametrize("make", DIALECTS)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("broken", [None, 5, "", {"type": 3}, {"type": "t", "data": {"a": open}}])
def test_a_broken_event_never_raises_into_the_engine(make: Make, strict: bool, broken: Any) -> None:
    with record_events(strict=strict) as events:
        engine, emit = make()
        start_telemetry().attach(engine)
        emit(broken)
        assert (len(events), events.stats().rejected) == (0, 1)


@pytest.mark.parametrize("make", DIALECTS)
def test_the_engine_is_not_kept_alive(make: Make) -> None:
    with record_events():
        engine, emit = make()
        binding = start_telemetry().attach(engine)
        gone = weakref.ref(engine)
        del engine, emit
        gc.collect()
        assert gone() is None
        binding.detach()


def test_detaching_what_the_engine_has_let_go_already() -> None:
    with record_events():
        engine = Emitter()
        binding = start_telemetry().attach(engine)
        engine.handlers.clear()
        binding.detach()
        assert not binding.is_attached


def shapes(events: RecordedEvents) -> list[tuple[str, dict[str, Any]]]:
    return [(event.type, dict(event.data)) for event in events]


def test_the_shapes_in_which_an_event_comes() -> None:
    with record_events() as events:
        engine = Emitter()
        start_telemetry().attach(engine, "stats")
        engine.emit("stats", "hit", {"by": 1})
        engine.emit("stats", "hit", {"by": 1}, damage=2)
        engine.emit("stats", "hit")
        engine.emit("stats", object(), {"type": "hit"})
        engine.emit("stats", type="hit", data={"by": 3})
        engine.emit("telemetry", "another name")
        assert shapes(events) == [
            ("hit", {"by": 1}),
            ("hit", {"by": 1, "damage": 2}),
            ("hit", {}),
            ("hit", {}),
            ("hit", {"by": 3}),
        ]


def test_an_engine_with_slots_can_be_attached_to() -> None:
    class Slotted(Emitter):
        __slots__ = ()

    class Signal:
        __slots__ = ("handlers",)

        def __init__(self) -> None:
            self.handlers: list[Callable[..., object]] = []

        def connect(self, handler: Callable[..., object]) -> None:
            self.handlers.append(handler)

        def disconnect(self, handler: Callable[..., object]) -> None:
            self.handlers.remove(handler)

    with record_events() as events:
        signal = Signal()
        with start_telemetry().attach(signal):
            signal.handlers[0](HIT)
        assert signal.handlers == []
        assert events.types() == ["hit"]


def test_a_push_that_fails_is_logged_and_goes_no_further(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with record_events():
        telemetry = start_telemetry()

        def fail(event: object) -> None:
            raise RuntimeError("broken telemetry")

        monkeypatch.setattr(telemetry, "push", fail)
        engine = Emitter()
        telemetry.attach(engine)
        engine.emit("telemetry", HIT)
        assert "broken telemetry" in caplog.text


def test_an_engine_that_speaks_no_dialect_is_refused() -> None:
    with record_events(), pytest.raises(TelemetryError, match="on/off"):
        start_telemetry().attach(object())


def test_off_means_that_nothing_is_subscribed() -> None:
    engine = Emitter()
    binding = start_telemetry().attach(engine)
    assert engine.handlers == []
    assert not binding.is_attached


def test_the_toggle_is_obeyed() -> None:
    with record_events() as events:
        telemetry = start_telemetry()
        engine = Emitter()
        telemetry.attach(engine)
        telemetry.enabled = False
        engine.emit("telemetry", HIT)
        telemetry.enabled = True
        engine.emit("telemetry", {"type": "later"})
        assert events.types() == ["later"]
