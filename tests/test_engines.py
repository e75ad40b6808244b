"""More of ``attach``: shapes, other handlers, loss without a trace."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import blinker
import pyee
import pytest
from pyglet.event import EventDispatcher

from redvsblue_telemetry import TelemetryError, TelemetryEvent, start_telemetry
from redvsblue_telemetry.testing import RecordedEvents, record_events

HIT = {"type": "hit", "data": {"by": "red-1"}}


class Engine:
    """A game's own: on/off."""

    def __init__(self) -> None:
        self.handlers: list[tuple[str, Callable[..., object]]] = []

    def on(self, event: str, handler: Callable[..., object]) -> None:
        self.handlers.append((event, handler))

    def off(self, event: str, handler: Callable[..., object]) -> None:
        self.handlers.remove((event, handler))

    def emit(self, event: str, /, *args: object, **fields: object) -> None:
        for name, handler in list(self.handlers):
            if name == event:
                handler(*args, **fields)


class Dispatcher(EventDispatcher):
    """A pyglet window has more to it, but its events are these."""


Dispatcher.register_event_type("telemetry")
Dispatcher.register_event_type("stats")


class ArcadeLikeWindow(Dispatcher):
    """With methods of its own that happen to be called on and off."""

    is_lit = False

    def on(self) -> None:
        self.is_lit = True

    def off(self) -> None:
        self.is_lit = False


@attrs.frozen
class Dialect:
    make: Callable[[], Any]
    emit: Callable[[Any, Any], object]
    subscribe: Callable[[Any, Callable[..., object]], object]
    handlers: Callable[[Any], int]


def dispatch(engine: Any, event: object) -> object:
    return engine.dispatch_event("telemetry", event)


def stacked(engine: Any) -> int:
    return sum(len(frame) for frame in engine._event_stack)


DIALECTS = {
    "on/off": Dialect(
        Engine,
        lambda engine, event: engine.emit("telemetry", event),
        lambda engine, handler: engine.on("telemetry", handler),
        lambda engine: len(engine.handlers),
    ),
    "pyee": Dialect(
        pyee.EventEmitter,
        lambda engine, event: engine.emit("telemetry", event),
        lambda engine, handler: engine.on("telemetry", handler),
        lambda engine: len(engine.listeners("telemetry")),
    ),
    "blinker": Dialect(
        blinker.Signal,
        lambda signal, event: signal.send("the game", event=event),
        lambda signal, handler: signal.connect(handler, weak=False),
        lambda signal: len(signal.receivers),
    ),
    "pyglet": Dialect(
        Dispatcher,
        dispatch,
        lambda engine, handler: engine.push_handlers(telemetry=handler),
        stacked,
    ),
    "arcade": Dialect(
        ArcadeLikeWindow,
        dispatch,
        lambda engine, handler: engine.push_handlers(telemetry=handler),
        stacked,
    ),
}


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


@pytest.fixture
def events() -> Iterator[RecordedEvents]:
    with record_events() as events:
        yield events


def shapes(events: RecordedEvents) -> list[tuple[str, dict[str, Any]]]:
    return [(event.type, dict(event.data)) for event in events]


def test_detaching_leaves_no_handler_and_may_be_repeated(
    dialect: Dialect, events: RecordedEvents
) -> None:
    engine = dialect.make()
    binding = start_telemetry().attach(engine)
    assert dialect.handlers(engine) == 1
    binding.detach()
    binding.detach()
    assert dialect.handlers(engine) == 0


def test_a_context_manager_detaches_when_the_game_raises(
    dialect: Dialect, events: RecordedEvents
) -> None:
    engine = dialect.make()
    with pytest.raises(ZeroDivisionError), start_telemetry().attach(engine):
        _ = 1 / 0
    dialect.emit(engine, HIT)
    assert events.types() == []


def test_one_of_two_bindings_can_be_detached(dialect: Dialect, events: RecordedEvents) -> None:
    engine = dialect.make()
    first = start_telemetry().attach(engine)
    start_telemetry().attach(engine)
    first.detach()
    dialect.emit(engine, HIT)
    assert events.types() == ["hit"]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "bad",
    [{"type": ""}, {}, 5, HIT | {"data": {"x": object()}}],
    ids=["no type", "empty", "a number", "an object"],
)
def test_other_handlers_of_the_engine_still_run(dialect: Dialect, bad: Any, strict: bool) -> None:
    with record_events(strict=strict) as events:
        engine = dialect.make()
        heard: list[str] = []
        dialect.subscribe(engine, lambda *args, **fields: heard.append("before"))
        start_telemetry().attach(engine)
        dialect.subscribe(engine, lambda *args, **fields: heard.append("after"))
        dialect.emit(engine, bad)
        assert sorted(heard) == ["after", "before"]
        assert events.stats().rejected == 1


def test_while_telemetry_is_off_nothing_is_subscribed(dialect: Dialect) -> None:
    engine = dialect.make()
    with start_telemetry().attach(engine) as binding:
        assert dialect.handlers(engine) == 0
        assert not binding.is_attached


def test_while_telemetry_is_off_any_engine_will_do() -> None:
    start_telemetry().attach(object()).detach()


def test_a_stopped_telemetry_takes_nothing_more(dialect: Dialect) -> None:
    engine = dialect.make()
    telemetry = start_telemetry(enabled=True, url="ws://127.0.0.1:9")
    telemetry.attach(engine)
    telemetry.stop(0)
    dialect.emit(engine, HIT)
    assert telemetry.stats().emitted == 0


def test_the_player_may_come_back(dialect: Dialect, events: RecordedEvents) -> None:
    engine = dialect.make()
    telemetry = start_telemetry()
    telemetry.attach(engine)
    telemetry.enabled = False
    dialect.emit(engine, HIT)
    telemetry.enabled = True
    dialect.emit(engine, {"type": "back"})
    assert events.types() == ["back"]


def test_an_event_name_of_ones_own(events: RecordedEvents) -> None:
    for engine, emit in (
        (emitter := pyee.EventEmitter(), emitter.emit),
        (dispatcher := Dispatcher(), dispatcher.dispatch_event),
        (own := Engine(), own.emit),
    ):
        with start_telemetry().attach(engine, event="stats"):
            emit("telemetry", {"type": "other"})
            emit("stats", HIT)
    assert events.types() == ["hit"] * 3


def test_pyglet_refuses_a_name_that_it_does_not_know(events: RecordedEvents) -> None:
    with pytest.raises(Exception, match="nonsense"):
        start_telemetry().attach(Dispatcher(), event="nonsense")


@pytest.mark.parametrize(
    ("args", "fields", "expected"),
    [
        ((HIT,), {}, ("hit", {"by": "red-1"})),
        ((TelemetryEvent("hit", {"by": 1}),), {}, ("hit", {"by": 1})),
        (({"type": "hit", "by": 1},), {}, ("hit", {"by": 1})),
        (("hit", {"by": 1}), {}, ("hit", {"by": 1})),
        (("hit",), {"by": 1}, ("hit", {"by": 1})),
        (("hit", {"by": 1}), {"by": 2}, ("hit", {"by": 2})),
        (("hit", None), {}, ("hit", {})),
        (("hit", None), {"by": 1}, ("hit", {"by": 1})),
        ((), {"type": "hit", "by": 1}, ("hit", {"by": 1})),
        ((), {"event": HIT}, ("hit", {"by": "red-1"})),
        ((object(), HIT), {}, ("hit", {"by": "red-1"})),
        ((object(),), {"type": "hit", "data": {"by": 1}}, ("hit", {"by": 1})),
        ((), {"type": "quest", "event": "dragon"}, ("quest", {"event": "dragon"})),
        (("quest", {"at": 1}), {"event": "dragon"}, ("quest", {"at": 1, "event": "dragon"})),
    ],
)
def test_each_shape_of_call(
    events: RecordedEvents, args: Any, fields: Any, expected: tuple[str, dict[str, Any]]
) -> None:
    engine = Engine()
    start_telemetry().attach(engine)
    engine.emit("telemetry", *args, **fields)
    assert shapes(events) == [expected]


def test_a_blinker_signal_in_each_shape(events: RecordedEvents) -> None:
    signal = blinker.Signal()
    start_telemetry().attach(signal)
    signal.send(object(), event=HIT)
    signal.send("the game", event=TelemetryEvent("hit"))
    signal.send(HIT)
    signal.send(None, type="hit", by=1)
    signal.send(object(), type="hit", data={"by": 2})
    assert shapes(events) == [
        ("hit", {"by": "red-1"}),
        ("hit", {}),
        ("hit", {"by": "red-1"}),
        ("hit", {"by": 1}),
        ("hit", {"by": 2}),
    ]


@pytest.mark.parametrize(
    "data", [5, "text", [1], object()], ids=["a number", "text", "a list", "an object"]
)
def test_data_that_is_no_mapping_is_counted_also_beside_keywords(
    events: RecordedEvents, data: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()
    start_telemetry().attach(engine)
    engine.emit("telemetry", "hit", data, damage=3)
    assert events.stats().rejected == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_not_even_a_log_handler_that_fails_raises_into_the_engine(
    events: RecordedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk is full")

    def fail(event: object) -> None:
        raise RuntimeError("broken telemetry")

    telemetry = start_telemetry()
    monkeypatch.setattr(telemetry, "push", fail)
    engine = Engine()
    telemetry.attach(engine)
    logger = logging.getLogger("redvsblue_telemetry")
    handler = Failing()
    logger.addHandler(handler)
    try:
        engine.emit("telemetry", HIT)
    finally:
        logger.removeHandler(handler)


def test_an_engine_without_a_dialect_is_told_what_it_needs(events: RecordedEvents) -> None:
    class OnlyOn:
        def on(self) -> None: ...

    for engine, name in ((object(), "object"), (OnlyOn(), "OnlyOn")):
        with pytest.raises(TelemetryError) as caught:
            start_telemetry().attach(engine)
        text = str(caught.value)
        assert name in text
        for pair in (
            "on/off",
            "on/remove_listener",
            "connect/disconnect",
            "push_handlers/remove_handlers",
        ):
            assert pair in text


def test_an_engine_that_fails_to_let_go_is_asked_once(events: RecordedEvents) -> None:
    class Stubborn(Engine):
        asked = 0

        def off(self, event: str, handler: Callable[..., object]) -> None:
            self.asked += 1
            raise RuntimeError("no")

    engine = Stubborn()
    binding = start_telemetry().attach(engine)
    binding.detach()
    binding.detach()
    assert engine.asked == 1


def test_neither_binding_nor_telemetry_keeps_the_engine_alive(
    dialect: Dialect, events: RecordedEvents
) -> None:
    engine = dialect.make()
    binding = start_telemetry().attach(engine)
    dialect.emit(engine, HIT)
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    binding.detach()
    assert events.types() == ["hit"]
