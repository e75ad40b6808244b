"""More of ``attach``: shapes, other handlers, loss without a trace."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import logging
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import attrs
import blinker
import pyee
import pytest
from pyee.asyncio import AsyncIOEventEmitter
from pyglet.event import EVENT_HANDLED, EventDispatcher

from redvsblue_telemetry import (
    Telemetry,
    TelemetryError,
    TelemetryEvent,
    TelemetrySettings,
    get_telemetry,
    start_telemetry,
)
from redvsblue_telemetry._dialects import DIALECTS as SPOKEN
from redvsblue_telemetry.engines import EngineBinding
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


class ListenerEngine:
    """add_listener/remove_listener."""

    def __init__(self) -> None:
        self.handlers: list[tuple[str, Callable[..., object]]] = []

    def add_listener(self, event: str, listener: Callable[..., object]) -> None:
        self.handlers.append((event, listener))

    def remove_listener(self, event: str, listener: Callable[..., object]) -> None:
        self.handlers.remove((event, listener))

    emit = Engine.emit


class EventBus:
    """subscribe/unsubscribe, with sets of handlers that it holds weakly."""

    def __init__(self) -> None:
        self.handlers: weakref.WeakSet[Callable[..., object]] = weakref.WeakSet()

    def subscribe(self, topic: str, callback: Callable[..., object]) -> None:
        if topic == "telemetry":
            self.handlers.add(callback)

    def unsubscribe(self, topic: str, callback: Callable[..., object]) -> None:
        self.handlers.discard(callback)

    def publish(self, *args: object, **fields: object) -> None:
        for handler in list(self.handlers):
            handler(*args, **fields)


class BindingEngine:
    """bind/unbind with positional arguments."""

    def __init__(self) -> None:
        self.handlers: list[tuple[str, Callable[..., object]]] = []

    def bind(self, event: str, handler: Callable[..., object]) -> None:
        self.handlers.append((event, handler))

    def unbind(self, event: str, handler: Callable[..., object]) -> None:
        self.handlers.remove((event, handler))

    emit = Engine.emit


class KivyDispatcher:
    """As Kivy's EventDispatcher: event types begin with on_, the dispatcher is the first argument,
    the newest handler runs first, a true result ends it, and an unknown "on_" is ignored."""

    def __init__(self) -> None:
        self.events: dict[str, list[Callable[..., object]]] = {"on_telemetry": []}
        self.properties: dict[str, list[Callable[..., object]]] = {"health": []}

    def is_event_type(self, event: str) -> bool:
        return event in self.events

    def property(self, name: str, quiet: bool = False) -> object | None:
        return self.properties.get(name) if quiet else self.properties[name]

    def bind(self, **kwargs: Callable[..., object]) -> None:
        for name, handler in kwargs.items():
            if name.startswith("on_"):
                self.events.get(name, []).insert(0, handler)
            else:
                self.properties[name].append(handler)

    def unbind(self, **kwargs: Callable[..., object]) -> None:
        for name, handler in kwargs.items():
            handlers = self.events.get(name) or self.properties.get(name, [])
            handlers[:] = [known for known in handlers if known is not handler]

    def dispatch(self, name: str, *args: object) -> bool:
        return any(handler(self, *args) for handler in list(self.events[name]))


class PsygnalLikeSignal:
    """As psygnal's SignalInstance: can't be weakly referenced, and keeps functions only."""

    __slots__ = ("slots",)

    def __init__(self) -> None:
        self.slots: list[Callable[[], Callable[..., object] | None]] = []

    def connect(self, slot: Callable[..., object] | None = None, *, unique: bool = False) -> None:
        assert slot is not None
        function = slot if isinstance(slot, types.FunctionType) else weakref.ref(slot)
        self.slots.append((lambda: slot) if function is slot else function)

    def disconnect(self, slot: Callable[..., object] | None = None) -> None:
        self.slots[:] = [known for known in self.slots if known() is not slot]

    def emit(self, *args: object) -> None:
        for known in list(self.slots):
            if (slot := known()) is not None:
                slot(*args)


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


KEPT: list[Callable[..., object]] = []  # for engines that don't

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
    "add_listener/remove_listener": Dialect(
        ListenerEngine,
        lambda engine, event: engine.emit("telemetry", event),
        lambda engine, handler: engine.add_listener("telemetry", handler),
        lambda engine: len(engine.handlers),
    ),
    "subscribe/unsubscribe": Dialect(
        EventBus,
        lambda engine, event: engine.publish(event),
        lambda engine, handler: KEPT.append(handler) or engine.subscribe("telemetry", handler),
        lambda engine: len(engine.handlers),
    ),
    "bind/unbind": Dialect(
        BindingEngine,
        lambda engine, event: engine.emit("telemetry", event),
        lambda engine, handler: engine.bind("telemetry", handler),
        lambda engine: len(engine.handlers),
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
        ((object(), "hit", {"by": 1}), {}, ("hit", {"by": 1})),
        ((object(), "hit"), {"by": 1}, ("hit", {"by": 1})),
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


# The game's own handlers.


def test_popping_a_pyglet_level_takes_the_games_and_not_ours(events: RecordedEvents) -> None:
    window, heard = Dispatcher(), []
    window.push_handlers(telemetry=lambda event: heard.append("below"))
    window.push_handlers(telemetry=lambda event: heard.append("above"))
    start_telemetry().attach(window)
    window.pop_handlers()
    window.dispatch_event("telemetry", HIT)
    assert heard == ["below"]
    window.pop_handlers()
    window.dispatch_event("telemetry", HIT)
    assert heard == ["below"]
    assert events.types() == ["hit", "hit"]


def pyglet_calls(window: Any, heard: list[str], attach: Callable[[], object]) -> list[object]:
    """Use a dispatcher in every way that a game can; return what is seen of it."""

    def handler(name: str, result: object = None) -> Callable[[object], object]:
        def telemetry(event: object) -> object:
            heard.append(name)
            return result

        return telemetry

    class Player:
        def telemetry(self, event: object) -> None:
            heard.append("player")

    seen: list[object] = []

    def see(action: Callable[[], object]) -> None:
        try:
            result = action()
        except Exception as error:
            result = type(error)
        if action.__name__ == "dispatch":  # the one difference: False where nobody listens
            result = result or None
        seen.append((result, [*heard]))
        heard.clear()

    def dispatch() -> object:
        return window.dispatch_event("telemetry", HIT)

    first, second, player = handler("first"), handler("second"), Player()
    attach()
    see(window.pop_handlers)
    see(dispatch)
    see(lambda: window.set_handler("telemetry", first))
    see(dispatch)
    see(lambda: window.push_handlers(telemetry=second))
    see(lambda: window.push_handlers(player))
    see(dispatch)
    see(lambda: window.push_handlers(telemetry=handler("eats", EVENT_HANDLED)))
    see(dispatch)
    attach()
    see(window.pop_handlers)
    see(dispatch)
    see(lambda: window.remove_handlers(telemetry=second))
    see(lambda: len(window._event_stack))
    see(dispatch)
    see(lambda: window.remove_handlers(player))
    see(dispatch)
    see(lambda: window.remove_handler("telemetry", first))
    see(dispatch)
    see(window.pop_handlers)
    see(window.pop_handlers)
    see(lambda: window.push_handlers(telemetry=second))
    see(dispatch)
    see(window.pop_handlers)
    see(dispatch)
    return seen


def test_a_pyglet_dispatcher_works_as_without_telemetry(events: RecordedEvents) -> None:
    class OwnHandler(Dispatcher):
        def telemetry(self, event: object) -> None:
            heard.append("its own")

    heard: list[str] = []
    for kind in (Dispatcher, OwnHandler):
        alone, attached = kind(), kind()
        expected = pyglet_calls(alone, heard, lambda: None)
        binding = EngineBinding()

        def attach(attached: Any = attached) -> None:
            nonlocal binding
            binding = start_telemetry().attach(attached)

        assert pyglet_calls(attached, heard, attach) == expected
        assert type(attached._event_stack) is not type(alone._event_stack)
        binding.detach()
    assert events.types() == ["hit"] * 20  # each dispatch, handled or not


def test_events_that_a_pyglet_handler_eats_are_recorded(events: RecordedEvents) -> None:
    window = Dispatcher()
    start_telemetry().attach(window)
    window.push_handlers(telemetry=lambda event: EVENT_HANDLED)
    assert window.dispatch_event("telemetry", HIT) is EVENT_HANDLED
    assert events.types() == ["hit"]


def test_detaching_leaves_the_games_pyglet_levels(events: RecordedEvents) -> None:
    window, heard = Dispatcher(), []
    with start_telemetry().attach(window), start_telemetry().attach(window, event="stats"):
        window.push_handlers(telemetry=lambda event: heard.append("lower"))
        window.push_handlers(telemetry=lambda event: heard.append("upper"))
    assert type(window._event_stack) is list
    assert len(window._event_stack) == 2
    window.dispatch_event("telemetry", HIT)
    assert heard == ["upper", "lower"]
    assert events.types() == []
    window.pop_handlers()
    window.pop_handlers()
    with start_telemetry().attach(window):
        pass
    window.set_handler("telemetry", lambda event: heard.append("set"))
    window.dispatch_event("telemetry", HIT)
    assert heard == ["upper", "lower", "set"]


def test_a_pyglet_without_that_stack_is_attached_by_its_methods(events: RecordedEvents) -> None:
    class OtherDispatcher:
        def __init__(self) -> None:
            self.handlers: list[dict[str, Any]] = []

        def push_handlers(self, **handlers: Any) -> None:
            self.handlers.insert(0, handlers)

        def remove_handlers(self, **handlers: Any) -> None:
            self.handlers.remove(handlers)

    engine = OtherDispatcher()
    with start_telemetry().attach(engine):
        engine.handlers[0]["telemetry"](HIT)
    assert engine.handlers == []
    assert events.types() == ["hit"]


# Saved games, and copies that look ahead.

COPIED = ["on/off", "pyee", "blinker", "pyglet", "arcade", "bind/unbind"]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", COPIED)
def test_an_attached_engine_is_saved_and_loaded_detached(
    name: str, protocol: int, events: RecordedEvents
) -> None:
    dialect = DIALECTS[name]
    engine = dialect.make()
    start_telemetry().attach(engine)
    loaded = pickle.loads(pickle.dumps(engine, protocol))
    dialect.emit(loaded, {"type": "loaded"})
    assert events.types() == []
    start_telemetry().attach(loaded)
    dialect.emit(loaded, {"type": "attached again"})
    dialect.emit(engine, {"type": "still attached"})
    assert events.types() == ["attached again", "still attached"]


@pytest.mark.parametrize("name", COPIED)
def test_what_a_deep_copy_imagines_is_not_recorded(name: str, events: RecordedEvents) -> None:
    dialect = DIALECTS[name]
    engine = dialect.make()
    start_telemetry().attach(engine)
    imagined = copy.deepcopy(engine)
    dialect.emit(imagined, {"type": "imagined"})
    dialect.emit(copy.deepcopy(imagined), {"type": "imagined"})
    assert events.types() == []
    dialect.emit(engine, HIT)
    assert events.types() == ["hit"]


def test_a_copied_pyglet_dispatcher_has_the_games_handlers(events: RecordedEvents) -> None:
    window = Dispatcher()
    start_telemetry().attach(window)
    assert pickle.loads(pickle.dumps(window))._event_stack == ()
    window.push_handlers(telemetry=print)
    window.push_handlers()
    for other in (copy.deepcopy(window), pickle.loads(pickle.dumps(window))):
        assert type(other._event_stack) is list
        assert other._event_stack == [{}, {"telemetry": print}]


def test_a_saved_game_does_not_grow_with_each_time_that_it_is_loaded(
    events: RecordedEvents,
) -> None:
    for name in ("on/off", "pyee", "bind/unbind"):
        dialect = DIALECTS[name]
        engine = dialect.make()
        for _ in range(4):
            start_telemetry().attach(engine)
            engine = pickle.loads(pickle.dumps(engine))
        assert dialect.handlers(engine) == 1
    assert events.types() == []


def test_a_game_is_loaded_by_another_process(events: RecordedEvents, tmp_path: Path) -> None:
    engine = pyee.EventEmitter()
    engine.telemetry = start_telemetry()  # type: ignore[attr-defined]
    engine.binding = start_telemetry().attach(engine)  # type: ignore[attr-defined]
    saved = tmp_path / "game"
    saved.write_bytes(pickle.dumps(engine))
    source = (
        "import pickle, sys; engine = pickle.load(open(sys.argv[1], 'rb'));"
        "engine.emit('telemetry', {'type': 'hit'}); engine.telemetry.emit('hit');"
        "from redvsblue_telemetry import get_telemetry;"
        "assert engine.telemetry is get_telemetry(); assert not engine.binding.is_attached"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", source, str(saved)], check=True, env=environment)


def test_a_binding_that_an_engine_holds_is_detached_in_copies(events: RecordedEvents) -> None:
    engine = Engine()
    engine.binding = start_telemetry().attach(engine)  # type: ignore[attr-defined]
    for other in (
        copy.deepcopy(engine).binding,  # type: ignore[attr-defined]
        pickle.loads(pickle.dumps(engine)).binding,
        copy.copy(engine.binding),  # type: ignore[attr-defined]
    ):
        assert type(other) is EngineBinding
        assert not other.is_attached
        other.detach()
    engine.emit("telemetry", HIT)
    assert events.types() == ["hit"]


def test_a_telemetry_within_an_engine_is_copied_as_itself(events: RecordedEvents) -> None:
    telemetry = start_telemetry()
    assert copy.copy(telemetry) is telemetry
    assert copy.deepcopy({"telemetry": telemetry})["telemetry"] is telemetry
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(telemetry, protocol)) is telemetry
        assert pickle.loads(pickle.dumps(telemetry.push, protocol)) == telemetry.push


def test_a_telemetry_is_loaded_as_the_current_one(events: RecordedEvents) -> None:
    other = Telemetry(TelemetrySettings(enabled=False))
    assert pickle.loads(pickle.dumps(other)) is get_telemetry() is not other


def test_attached_engines_and_their_copies_survive_a_reload() -> None:
    source = """
import copy, importlib, pickle, sys
from tests.test_engines import HIT, Dispatcher, Engine
from redvsblue_telemetry.testing import record_events
from redvsblue_telemetry import start_telemetry
with record_events() as events:
    window, engine = Dispatcher(), Engine()
    binding, _ = start_telemetry().attach(window), start_telemetry().attach(engine)
    window.push_handlers()
    loaded = pickle.loads(pickle.dumps(engine))
    for name in [name for name in sys.modules if name.split(".")[0] == "redvsblue_telemetry"]:
        importlib.reload(sys.modules[name])
    assert pickle.loads(pickle.dumps(loaded)).handlers == loaded.handlers
    assert pickle.loads(pickle.dumps(engine)).handlers == loaded.handlers
    engine.emit("telemetry", HIT)
    start_telemetry().attach(window).detach()
    window.dispatch_event("telemetry", HIT)
    binding.detach()
    window.dispatch_event("telemetry", HIT)
    assert window._event_stack == [{}]
    assert events.types() == ["hit", "hit"], events
"""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", source], check=True, env=environment)


# The same check, on or off.


@pytest.fixture(params=["on", "off"])
def telemetry(request: pytest.FixtureRequest) -> Iterator[Telemetry]:
    if request.param == "off":
        yield start_telemetry()
        return
    with record_events():
        yield start_telemetry()


class Lamp:
    def on(self) -> None: ...

    def off(self) -> None: ...


class OnlyOn:
    def on(self, event: str, handler: object) -> None: ...


class AsyncEngine:
    async def on(self, event: str, handler: object) -> None: ...

    async def off(self, event: str, handler: object) -> None: ...


class ForgetsAll(OnlyOn):
    def off(self, event: str) -> None: ...


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **fields: Any) -> Any:
        return function(*args, **fields)

    return call


class DecoratedAsyncEngine(Engine):
    @logged
    @logged
    async def on(self, event: str, handler: object) -> None: ...  # type: ignore[override]


class MqttClient:
    """As paho-mqtt's, with more parameters behind."""

    def subscribe(self, topic: object, qos: int = 0, options: object = None) -> None: ...

    def unsubscribe(self, topic: object, properties: object = None) -> None: ...


class DimmableLamp:
    def on(self, mode: str = "warm", brightness: float | None = None) -> None: ...

    def off(self, mode: str = "warm", brightness: float | None = None) -> None: ...


class Publisher:
    """As in PyPubSub, the listener comes first."""

    def subscribe(self, listener: object, topicName: str) -> None: ...  # noqa: N803

    def unsubscribe(self, listener: object, topicName: str) -> None: ...  # noqa: N803


class Database:
    def connect(self) -> None: ...

    def disconnect(self) -> None: ...


class Server:
    """A multiplayer game's connection."""

    def connect(self, address: str, timeout: float = 5) -> None: ...

    def disconnect(self, reason: str = "") -> None: ...

    def send(self, message: str) -> None: ...


class Dispatchers(types.ModuleType):
    """As pydispatch.dispatcher: the signals of the whole process."""

    @staticmethod
    def connect(receiver: object, signal: object = None, weak: bool = True) -> None: ...

    @staticmethod
    def disconnect(receiver: object, signal: object = None, weak: bool = True) -> None: ...

    @staticmethod
    def send(signal: object = None) -> None: ...


class QtObject:
    """As PySide6's QObject."""

    def connect(self, *args: object) -> None: ...

    def disconnect(self, *args: object) -> None: ...

    def emit(self, *args: object) -> None: ...

    def metaObject(self) -> None: ...  # noqa: N802


class CompiledDatabase:
    connect = disconnect = staticmethod(print)


class Events:
    """As the one of the package events: every attribute that it is asked for becomes an event."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        vars(self)[name] = slot = lambda *args, **fields: None
        return slot


class TkWidget:
    """As tkinter's Misc: bind() replaces the game's own handler of the event."""

    def bind(self, sequence: object = None, func: object = None, add: object = None) -> None: ...

    def unbind(self, sequence: object, funcid: object = None) -> None: ...


class PandaObject:
    """As panda3d's DirectObject."""

    def accept(self, event: str, method: object) -> None: ...

    def ignore(self, event: str) -> None: ...

    def isAccepting(self, event: str) -> int: ...  # noqa: N802


class Fragile:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


def unregistered() -> object:
    return type("Unregistered", (EventDispatcher,), {})()


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "nothing": (object, r"object: it has none of the pairs push_handlers/remove_handlers, on/off"),
    "half a pair": (OnlyOn, r"OnlyOn: it has none of the pairs"),
    "a lamp": (Lamp, r"it can't be called as on\('telemetry', handler\)"),
    "async": (AsyncEngine, r"its on\(\) is a coroutine function"),
    "async behind a decorator": (DecoratedAsyncEngine, r"its on\(\) is a coroutine function"),
    "MQTT": (MqttClient, r"its subscribe\(\) takes 'qos', not a handler"),
    "a dimmable lamp": (DimmableLamp, r"its on\(\) can be called without the name of an event"),
    "forgets all": (ForgetsAll, r"it can't be called as off\('telemetry', handler\)"),
    "handler first": (Publisher, r"its subscribe\(\) takes the handler first"),
    "a database": (Database, r"it can't be called as connect\(handler\)"),
    "a real database": (lambda: sqlite3.connect(":memory:"), "it has none of the pairs"),
    "a compiled database": (CompiledDatabase, r"it has neither send\(\) nor emit\(\)"),
    "a server": (Server, r"its connect\(\) takes 'address', not a handler"),
    "all signals": (
        lambda: Dispatchers("dispatcher"),
        r"the module dispatcher: .*takes all signals",
    ),
    "Qt": (QtObject, "attach one of its signals"),
    "Events": (Events, "it seems to have a method of any name"),
    "a mock": (Mock, "it seems to have a method of any name"),
    "raises": (Fragile, "Fragile: it has none of the pairs"),
    "pyglet": (unregistered, r"no event type 'telemetry': call Unregistered.register_event_type"),
    "Kivy": (KivyDispatcher, "it has no event or property 'telemetry'"),
    "tkinter": (TkWidget, r"called as bind\(telemetry=handler\)"),
    "panda3d": (PandaObject, r"such as `engine.accept\('telemetry', telemetry.push\)`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_engine_that_can_not_be_served_is_refused_with_advice(
    name: str, telemetry: Telemetry
) -> None:
    make, reason = REFUSED[name]
    engine = make()
    before = dict(getattr(engine, "__dict__", {}))
    with pytest.raises(TelemetryError, match=reason) as caught:
        telemetry.attach(engine)
    assert str(caught.value).startswith("can't attach to ")
    assert "telemetry.push" in str(caught.value)
    if name != "a mock":
        assert dict(getattr(engine, "__dict__", {})) == before
    if isinstance(engine, sqlite3.Connection):
        engine.close()


def test_a_name_that_the_engine_does_not_know_is_refused(telemetry: Telemetry) -> None:
    for engine, event in ((Dispatcher(), "nonsense"), (KivyDispatcher(), "on_nonsense")):
        with pytest.raises(TelemetryError, match=event):
            telemetry.attach(engine, event)


def test_the_error_names_every_pair(telemetry: Telemetry) -> None:
    with pytest.raises(TelemetryError) as caught:
        telemetry.attach(object())
    for dialect in SPOKEN:
        assert f"{dialect.subscribe}/{dialect.unsubscribe}" in str(caught.value)


def test_engines_of_unusual_kinds_are_attached(events: RecordedEvents) -> None:
    class Delegating:
        def __init__(self) -> None:
            self._engine = Engine()

        def __getattr__(self, name: str) -> object:
            return getattr(self._engine, name)

    class AnyCommand(Engine):
        """A console: each name is a command, and on and off are methods."""

        def __getattr__(self, name: str) -> Callable[[], str]:
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda: f"unknown command: {name}"

    plain = Engine()
    engines = [
        Delegating(),
        AnyCommand(),
        weakref.proxy(plain),
        types.SimpleNamespace(on=(other := Engine()).on, off=other.off, emit=other.emit),
    ]
    for engine in engines:
        with start_telemetry().attach(engine):
            engine.emit("telemetry", HIT)
        engine.emit("telemetry", HIT)
    assert events.types() == ["hit"] * len(engines)
    with start_telemetry().attach(create_autospec(Engine, instance=True)) as binding:
        assert binding.is_attached


def test_a_signal_of_ones_own_needs_no_send(events: RecordedEvents) -> None:
    class Signal:
        def __init__(self) -> None:
            self.receivers: list[Callable[..., object]] = []

        def connect(self, on_event: Callable[..., object]) -> None:
            self.receivers.append(on_event)

        def disconnect(self, on_event: Callable[..., object]) -> None:
            self.receivers.remove(on_event)

    signal = Signal()
    with start_telemetry().attach(signal):
        signal.receivers[0](HIT)
    assert signal.receivers == []
    assert events.types() == ["hit"]


def test_a_signal_that_calls_its_handlers_targets_needs_an_emit(events: RecordedEvents) -> None:
    class Signal:
        def __init__(self) -> None:
            self.targets: list[Callable[..., object]] = []

        def connect(self, target: Callable[..., object]) -> None:
            self.targets.append(target)

        def disconnect(self, target: Callable[..., object]) -> None:
            self.targets.remove(target)

    class Emitting(Signal):
        def emit(self, event: object) -> None:
            for target in self.targets:
                target(event)

    Signal.connect.__annotations__.clear()  # the name is all there is
    signal = Emitting()
    with start_telemetry().attach(signal):
        signal.emit(HIT)
    assert signal.targets == []
    assert events.types() == ["hit"]
    with pytest.raises(TelemetryError, match="its connect\\(\\) takes 'target', not a handler"):
        start_telemetry().attach(Signal())


def test_an_on_that_is_also_a_decorator_is_attached(events: RecordedEvents) -> None:
    class Decorator(Engine):
        def on(self, event: str = "telemetry", handler: Any = None) -> Any:
            if handler is None:
                return lambda handler: self.on(event, handler)
            super().on(event, handler)
            return handler

    engine = Decorator()
    with start_telemetry().attach(engine):
        engine.emit("telemetry", HIT)
    assert engine.handlers == []
    assert events.types() == ["hit"]


def test_a_handler_that_has_another_default_than_none_is_attached(events: RecordedEvents) -> None:
    class Sentinel(Engine):
        def on(self, event: str, handler: Any = print) -> None:
            super().on(event, handler)

    engine = Sentinel()
    with start_telemetry().attach(engine):
        engine.emit("telemetry", HIT)
    assert events.types() == ["hit"]


@pytest.mark.parametrize("emitter", [pyee.EventEmitter, AsyncIOEventEmitter])
def test_an_emitter_of_pyee_is_attached_within_an_event_loop(
    emitter: Callable[[], Any], events: RecordedEvents
) -> None:
    async def play() -> None:
        engine = emitter()
        with start_telemetry().attach(engine):
            engine.emit("telemetry", HIT)

    asyncio.run(play())
    assert events.types() == ["hit"]


# Errors of the engine.


def test_an_error_of_the_engine_is_the_cause_of_ours(events: RecordedEvents) -> None:
    class Closed(Engine):
        def on(self, event: str, handler: Callable[..., object]) -> None:
            super().on(event, handler)
            raise OSError("the bus is closed")

    engine = Closed()
    with pytest.raises(
        TelemetryError, match=r"on\(\) raised OSError\('the bus is closed'\)"
    ) as caught:
        start_telemetry().attach(engine)
    assert isinstance(caught.value.__cause__, OSError)
    assert "telemetry.push" in str(caught.value)
    engine.emit("telemetry", HIT)
    assert events.types() == []


def test_an_interrupt_in_the_engine_is_passed_on(events: RecordedEvents) -> None:
    class Slow(Engine):
        def on(self, event: str, handler: Callable[..., object]) -> None:
            super().on(event, handler)
            raise KeyboardInterrupt

    engine = Slow()
    with pytest.raises(KeyboardInterrupt):
        start_telemetry().attach(engine)
    engine.emit("telemetry", HIT)
    assert events.types() == []


def test_a_coroutine_that_an_engine_returns_is_refused_and_closed(events: RecordedEvents) -> None:
    class Hidden:
        def on(self, event: str, handler: object) -> object:
            return AsyncEngine().on(event, handler)

        def off(self, event: str, handler: object) -> None: ...

    with pytest.raises(TelemetryError, match="coroutine function"):
        start_telemetry().attach(Hidden())


@pytest.mark.parametrize("fails", [False, True])
def test_an_engine_that_keeps_the_handler_is_not_recorded_any_more(
    fails: bool, events: RecordedEvents
) -> None:
    class Keeps(Engine):
        def off(self, event: str, handler: Callable[..., object]) -> None:
            if fails:
                raise RuntimeError("no")

    engine = Keeps()
    with start_telemetry().attach(engine):
        engine.emit("telemetry", HIT)
    engine.emit("telemetry", HIT)
    assert events.types() == ["hit"]
    start_telemetry().attach(engine)
    engine.emit("telemetry", {"type": "again"})
    assert events.types() == ["hit", "again"]


# The same engine and event, once.


def test_an_engine_that_is_attached_twice_is_recorded_once(
    dialect: Dialect, events: RecordedEvents
) -> None:
    engine = dialect.make()
    first, second = start_telemetry().attach(engine), start_telemetry().attach(engine)
    assert dialect.handlers(engine) == 1
    dialect.emit(engine, HIT)
    assert events.types() == ["hit"]
    second.detach()
    second.detach()
    assert (first.is_attached, second.is_attached) == (True, False)
    dialect.emit(engine, {"type": "one left"})
    first.detach()
    dialect.emit(engine, {"type": "none left"})
    assert events.types() == ["hit", "one left"]
    assert dialect.handlers(engine) == 0


def test_other_events_other_engines_and_other_clients_are_apart(events: RecordedEvents) -> None:
    engine = Engine()
    with record_events() as others:
        start_telemetry().attach(engine)
    start_telemetry().attach(engine)
    start_telemetry().attach(engine, event="stats")
    start_telemetry().attach(other := Engine())
    engine.emit("telemetry", {"type": "one"})
    engine.emit("stats", {"type": "two"})
    other.emit("telemetry", {"type": "three"})
    assert events.types() == ["one", "two", "three"]
    assert others.types() == ["one"]


def test_an_engine_that_dropped_its_handlers_is_attached_again(events: RecordedEvents) -> None:
    engine = pyee.EventEmitter()
    start_telemetry().attach(engine)
    engine.remove_all_listeners()
    start_telemetry().attach(engine)
    engine.emit("telemetry", HIT)
    assert events.types() == ["hit"]


def test_an_engine_that_keeps_all_handlers_is_recorded_once(events: RecordedEvents) -> None:
    class Keeps(Engine):
        def off(self, event: str, handler: Callable[..., object]) -> None: ...

    engine = Keeps()
    for _ in range(3):
        start_telemetry().attach(engine)
    engine.emit("telemetry", HIT)
    assert events.types() == ["hit"]


class OneHandlerEngine:
    """Has one handler for each event."""

    def __init__(self) -> None:
        self.slots: dict[str, Callable[..., object]] = {}

    def on(self, event: str, handler: Callable[..., object]) -> None:
        self.slots[event] = handler

    def off(self, event: str, handler: Callable[..., object]) -> None:
        self.slots.pop(event, None)

    def emit(self, event: str, *args: object) -> None:
        for handler in list(self.slots.values()):
            handler(*args)


class NamesHandlersEngine(OneHandlerEngine):
    """Finds a handler by its name."""

    def on(self, event: str, handler: Callable[..., object]) -> None:
        self.slots[handler.__name__] = handler

    def off(self, event: str, handler: Callable[..., object]) -> None:
        del self.slots[handler.__name__]


@pytest.mark.parametrize("make", [OneHandlerEngine, NamesHandlersEngine])
def test_an_engine_that_knows_handlers_by_a_name_is_recorded_once(
    make: Callable[[], OneHandlerEngine], events: RecordedEvents
) -> None:
    engine = make()
    first, second = start_telemetry().attach(engine), start_telemetry().attach(engine)
    engine.emit("telemetry", HIT)
    assert events.types() == ["hit"]
    first.detach()
    engine.emit("telemetry", {"type": "one left"})
    assert events.types() == ["hit", "one left"]
    second.detach()
    assert engine.slots == {}


def test_an_engine_that_fails_when_it_is_attached_again_is_still_recorded(
    events: RecordedEvents,
) -> None:
    class Closing(Engine):
        is_closed = False

        def on(self, event: str, handler: Callable[..., object]) -> None:
            super().on(event, handler)
            if self.is_closed:
                raise OSError("closed")

    engine = Closing()
    binding = start_telemetry().attach(engine)
    engine.is_closed = True
    with pytest.raises(TelemetryError, match="closed"):
        start_telemetry().attach(engine)
    assert binding.is_attached
    assert len(engine.handlers) == 1
    engine.emit("telemetry", HIT)
    assert events.types() == ["hit"]
    binding.detach()
    assert engine.handlers == []


class pyqtBoundSignal:  # noqa: N801
    """As PyQt's: another object at each access, which equals the others and has no weakref."""

    __slots__ = ("_owner",)

    def __init__(self, owner: PyQtObject) -> None:
        self._owner = owner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, pyqtBoundSignal) and other._owner is self._owner

    def __hash__(self) -> int:
        return id(self._owner)

    def connect(self, slot: Callable[..., object]) -> None:
        self._owner.slots.append(slot)

    def disconnect(self, slot: Callable[..., object] | None = None) -> None:
        self._owner.slots.remove(slot)  # type: ignore[arg-type]

    def emit(self, *args: object) -> None:
        for slot in list(self._owner.slots):
            slot(*args)


class PyQtObject:
    def __init__(self) -> None:
        self.slots: list[Callable[..., object]] = []

    @property
    def happened(self) -> pyqtBoundSignal:
        return pyqtBoundSignal(self)


def test_a_signal_of_pyqt_that_is_attached_twice_is_recorded_once(events: RecordedEvents) -> None:
    engine, other = PyQtObject(), PyQtObject()
    assert engine.happened is not engine.happened
    first = start_telemetry().attach(engine.happened)
    second = start_telemetry().attach(engine.happened)
    third = start_telemetry().attach(other.happened)
    engine.happened.emit({"type": "one"})
    other.happened.emit({"type": "two"})
    assert events.types() == ["one", "two"]
    first.detach()
    engine.happened.emit({"type": "one left"})
    second.detach()
    third.detach()
    assert (engine.slots, other.slots) == ([], [])
    assert events.types() == ["one", "two", "one left"]


def test_engines_that_are_equal_are_told_apart(events: RecordedEvents) -> None:
    class Equal(Engine):
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

    class NotComparable(Engine):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("ambiguous")

    engines: list[Engine] = [Equal(), Equal(), NotComparable(), NotComparable()]
    bindings = [start_telemetry().attach(engine) for engine in engines + engines]
    for engine in engines:
        engine.emit("telemetry", HIT)
    assert len(events) == 4
    for binding in bindings:
        binding.detach()
    assert [engine.handlers for engine in engines] == [[], [], [], []]


def test_an_engine_that_is_attached_by_many_threads_is_recorded_once(
    dialect: Dialect, events: RecordedEvents
) -> None:
    engine, together = dialect.make(), threading.Barrier(8)
    bindings: list[EngineBinding] = []

    def attach() -> None:
        together.wait(10)
        for _ in range(20):
            start_telemetry().attach(engine).detach()
        bindings.append(start_telemetry().attach(engine))

    threads = [threading.Thread(target=attach) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dialect.emit(engine, HIT)
    assert events.types() == ["hit"]
    for binding in bindings:
        binding.detach()
    dialect.emit(engine, HIT)
    assert events.types() == ["hit"]


def test_a_handler_may_be_called_by_any_thread(dialect: Dialect, events: RecordedEvents) -> None:
    engine = dialect.make()
    start_telemetry().attach(engine)
    threads = [
        threading.Thread(target=lambda: [dialect.emit(engine, HIT) for _ in range(100)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(events) == 400


def test_what_an_engine_repeats_when_it_is_subscribed_to_is_recorded_once(
    events: RecordedEvents,
) -> None:
    class Repeating(Engine):
        def on(self, event: str, handler: Callable[..., object]) -> None:
            super().on(event, handler)
            handler(HIT)

    engine = Repeating()
    start_telemetry().attach(engine)
    start_telemetry().attach(engine)
    assert events.types() == ["hit"]


# References.


def test_a_binding_that_nobody_keeps_records_also_where_handlers_are_held_weakly(
    events: RecordedEvents,
) -> None:
    bus, signal = EventBus(), PsygnalLikeSignal()
    start_telemetry().attach(bus)
    start_telemetry().attach(signal)
    gc.collect()
    bus.publish(HIT)
    signal.emit(HIT)
    with start_telemetry().attach(signal):
        signal.emit(HIT)
    assert events.types() == ["hit"] * 3


def test_engines_at_one_address_are_told_apart(events: RecordedEvents) -> None:
    for number in range(50):
        engine = Engine()
        start_telemetry().attach(engine)
        engine.emit("telemetry", {"type": f"engine {number}"})
        del engine
    assert events.types() == [f"engine {number}" for number in range(50)]


def test_an_engine_that_is_gone_leaves_nothing_in_the_telemetry(events: RecordedEvents) -> None:
    telemetry = start_telemetry()
    binding = telemetry.attach(engine := Engine())
    gone = weakref.ref(engine.handlers[0][1])
    del engine
    binding.detach()
    del binding
    assert gone() is None


def test_the_first_argument_of_kivy_is_the_dispatcher(events: RecordedEvents) -> None:
    engine = KivyDispatcher()
    with start_telemetry().attach(engine, "on_telemetry"):
        assert engine.dispatch("on_telemetry", HIT) is False
        engine.dispatch("on_telemetry", "hit", {"by": "red-2"})
    engine.dispatch("on_telemetry", HIT)
    assert shapes(events) == [("hit", {"by": "red-1"}), ("hit", {"by": "red-2"})]


def test_engines_may_log_the_name_of_a_handler(events: RecordedEvents) -> None:
    engine = Engine()
    start_telemetry().attach(engine)
    assert engine.handlers[0][1].__name__ == "record_event"


def test_the_docs_have_the_table_of_dialects() -> None:
    page = Path(__file__).parents[1] / "docs" / "getting-started.md"
    section = page.read_text(encoding="utf-8").split("## Attach an engine")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    pairs = {f"`{dialect.subscribe}` / `{dialect.unsubscribe}`" for dialect in SPOKEN}
    assert {row.strip() for row in rows if " / " in row} == pairs
