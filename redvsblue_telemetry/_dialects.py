"""The pairs of methods by which engines take handlers and let them go.

``DIALECTS`` is the table. A pair of names alone proves little: a database connection has
``connect`` and ``disconnect``, a lamp has ``on`` and ``off``. So each dialect also looks at the
parameters before it calls anything.
"""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import attrs

from ._shared import keep_on_reload
from .errors import TelemetryError

__all__ = ["DIALECTS", "Dialect", "Handler", "find_dialect", "refusal"]

Handler = Callable[..., None]
Level = dict[str, Handler]

# Words in the name of a parameter that is a handler.
_HANDLER_WORDS = frozenset(
    (
        *("action", "callback", "cb", "f", "fn", "func", "function", "h", "handler", "listener"),
        *("observer", "receiver", "slot", "subscriber"),
    )
)


@attrs.frozen
class Dialect:
    """A pair of methods, called with the name of the event and the handler."""

    subscribe: str
    unsubscribe: str

    def fault(self, engine: Any, event: str) -> str | None:
        """Return the reason why this engine can't be attached by this pair; None if it can."""
        for name in (self.subscribe, self.unsubscribe):
            method = getattr(engine, name)
            if _is_async(method):
                return f"its {name}() is a coroutine function"
            args, fields = self._arguments(event, _example)
            if not _takes(method, *args, **fields):
                return f"it can't be called as {name}({self._call(event)})"
        return self._own_fault(engine, event)

    def _arguments(self, event: str, handler: Handler) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (event, handler), {}

    def _call(self, event: str) -> str:
        return f"{event!r}, handler"

    def _own_fault(self, engine: Any, event: str) -> str | None:
        first, second, *_ = (*_parameters(getattr(engine, self.subscribe)), None, None)
        if _is_handler(first) and second is not None and not _is_handler(second):
            return f"its {self.subscribe}() takes the handler first"
        # tkinter's bind(sequence=None, func=None) replaces the game's own handler. But in an
        # on(event="telemetry", handler=None), which is also a decorator, the default is a name.
        is_named = first is not None and isinstance(first.default, str) and _is_handler(second)
        if first is not None and first.default is not first.empty and not is_named:
            return f"its {self.subscribe}() can be called without the name of an event"
        # MQTT has a subscribe(topic, qos=0).
        if second is not None and second.kind is not second.KEYWORD_ONLY:
            has_value = second.default is not second.empty and second.default is not None
            if has_value and not _is_handler(second):
                return f"its {self.subscribe}() takes {second.name!r}, not a handler"
        return None

    def add(self, engine: Any, event: str, handler: Handler) -> object:
        """Subscribe the handler; return the engine's answer."""
        args, fields = self._arguments(event, handler)
        return getattr(engine, self.subscribe)(*args, **fields)

    def remove(self, engine: Any, event: str, handler: Handler) -> None:
        """Unsubscribe the handler."""
        args, fields = self._arguments(event, handler)
        getattr(engine, self.unsubscribe)(*args, **fields)


class _KeywordDialect(Dialect):
    """The handler is a keyword argument, named after the event."""

    def _arguments(self, event: str, handler: Handler) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {event: handler}

    def _call(self, event: str) -> str:
        return f"{event}=handler"

    def _own_fault(self, engine: Any, event: str) -> str | None:
        # Kivy ignores an unknown name silently if it begins with "on_".
        is_known = getattr(engine, "is_event_type", None)
        if callable(is_known) and not is_known(event) and engine.property(event, True) is None:
            return f"it has no event or property {event!r}"
        return None


class _SignalDialect(Dialect):
    """The engine is itself one event, a signal, so the event's name plays no part."""

    def _arguments(self, event: str, handler: Handler) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (handler,), {}

    def _call(self, event: str) -> str:
        return "handler"

    def _own_fault(self, engine: Any, event: str) -> str | None:
        if hasattr(engine, "metaObject"):
            return "it is a QObject; attach one of its signals"
        parameters = _parameters(engine.connect)
        if not parameters or parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
            # compiled, or behind a decorator
            is_signal = any(callable(getattr(engine, name, None)) for name in ("send", "emit"))
            return None if is_signal else "it is not a signal: it has neither send() nor emit()"
        name = parameters[0].name
        is_target = name == "target" and callable(getattr(engine, "emit", None))
        if not is_target and not _is_handler(parameters[0]):
            return f"it is not a signal: its connect() takes {name!r}, not a handler"
        if any(parameter.name == "signal" for parameter in parameters):
            return "its connect() takes all signals of the process unless one is given"
        return None

    def add(self, engine: Any, event: str, handler: Handler) -> object:
        """Connect the handler; return the signal's answer."""
        # A signal that holds it by a weak reference can't be pickled.
        if any(parameter.name == "weak" for parameter in _parameters(engine.connect)):
            return engine.connect(handler, weak=False)
        return engine.connect(handler)


class _PygletDialect(_KeywordDialect):
    """Handlers are in the levels of a stack, the newest first, which belongs to the game."""

    def _own_fault(self, engine: Any, event: str) -> str | None:
        if hasattr(engine, "_event_stack") and event not in getattr(engine, "event_types", ()):
            kind = type(engine).__name__
            return f"it has no event type {event!r}: call {kind}.register_event_type({event!r})"
        return None

    def add(self, engine: Any, event: str, handler: Handler) -> object:
        """Put the handler above the game's stack."""
        stack = getattr(engine, "_event_stack", None)
        if not isinstance(stack, (list, tuple)):  # not pyglet, or one that has changed
            return super().add(engine, event, handler)
        if not isinstance(stack, _WatchedStack):
            stack = engine._event_stack = _WatchedStack(stack)
        stack.watchers.append({event: handler})
        return None

    def remove(self, engine: Any, event: str, handler: Handler) -> None:
        """Take the handler away; the last one leaves a plain stack."""
        stack = getattr(engine, "_event_stack", None)
        if not isinstance(stack, _WatchedStack):
            super().remove(engine, event, handler)
            return
        stack.watchers[:] = [level for level in stack.watchers if level.get(event) is not handler]
        if not stack.watchers:
            engine._event_stack = stack.plain()


@keep_on_reload
class _WatchedStack(list[Level]):
    """The stack of a pyglet ``EventDispatcher``, with levels above it that only a dispatch sees.

    A level that ``push_handlers`` puts there is one that the game's next ``pop_handlers`` takes
    away, in place of the game's own. One at the bottom misses the events that a handler of the game
    keeps from those below, and is taken away where a game pops all levels. A dispatch iterates over
    the stack, and all else (push, pop, set, remove) works by index: so these levels appear in the
    iteration only. Copies and pickles are plain stacks without them.
    """

    def __init__(self, levels: list[Level] | tuple[Level, ...]) -> None:
        super().__init__(levels)
        self.watchers: list[Level] = []

    def __iter__(self) -> Iterator[Level]:
        return chain(tuple(self.watchers), super().__iter__())

    def __getitem__(self, index: Any) -> Any:
        # pyglet creates the first level where the stack is still its empty tuple.
        if index == 0 and not self:
            self.append({})
        return super().__getitem__(index)

    def plain(self) -> list[Level] | tuple[Level, ...]:
        """Return the game's stack, as pyglet would have it."""
        return list(super().__iter__()) or ()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if not self:
            return tuple, ()
        return list, (), None, super().__iter__()


DIALECTS: tuple[Dialect, ...] = (
    _PygletDialect("push_handlers", "remove_handlers"),  # pyglet, arcade
    Dialect("on", "off"),
    Dialect("on", "remove_listener"),  # pyee
    Dialect("add_listener", "remove_listener"),
    Dialect("subscribe", "unsubscribe"),
    _KeywordDialect("bind", "unbind"),  # Kivy
    Dialect("bind", "unbind"),
    _SignalDialect("connect", "disconnect"),  # blinker, psygnal, PySide6, PyQt6
)
"""The first one that fits an engine is spoken."""

# Lines for the game's author, by an attribute of the engines that they are for.
_BY_HAND = {
    # Not spoken: panda3d's accept replaces the handler that the object had for this event.
    "isAccepting": "engine.accept({event!r}, telemetry.push)",
    # Not spoken: esper's handlers belong to the world that is current then.
    "set_handler": "engine.set_handler({event!r}, telemetry.push)",
    "subscribers": "engine.subscribers.append(telemetry.push)",  # zope.event, without names
}


def find_dialect(engine: object, event: str) -> Dialect:
    """Return the dialect in which this engine can be attached.

    Raises:
        TelemetryError: the engine speaks none of them. The message gives the reason and advice.
    """
    faults: dict[tuple[str, str], str] = {}
    has_any_name = _has_any_name(engine)
    for dialect in DIALECTS:
        pair = (dialect.subscribe, dialect.unsubscribe)
        if has_any_name and not all(_has_static(engine, name) for name in pair):
            continue
        if all(_has_method(engine, name) for name in pair):
            try:
                fault = dialect.fault(engine, event)
            except Exception as error:  # the engine's
                fault = f"it raised {error!r}"
            if fault is None:
                return dialect
            faults.setdefault(pair, fault)
    if faults:
        reason = "; ".join(faults.values())
    elif has_any_name:
        reason = "it seems to have a method of any name"
    else:
        pairs = dict.fromkeys(f"{dialect.subscribe}/{dialect.unsubscribe}" for dialect in DIALECTS)
        reason = f"it has none of the pairs {', '.join(pairs)}"
    raise refusal(engine, event, reason)


def refusal(engine: object, event: str, reason: str) -> TelemetryError:
    """Return the error for an engine that can't be attached, with advice."""
    examples = [
        f", such as `{example.format(event=event)}`"
        for name, example in _BY_HAND.items()
        if _has_static(engine, name)
    ]
    return TelemetryError(
        f"can't attach to {_name(engine)}: {reason}. Have it call `telemetry.push` with each event"
        + "".join(examples[:1])
    )


def _name(engine: object) -> str:
    if inspect.ismodule(engine):
        return f"the module {engine.__name__}"
    return type(engine).__qualname__


def _has_method(engine: object, name: str) -> bool:
    try:
        return callable(getattr(engine, name))
    except Exception:  # also what a `__getattr__` of the engine raises
        return False


def _has_static(engine: object, name: str) -> bool:
    try:
        inspect.getattr_static(engine, name)
    except AttributeError:
        return False
    return True


def _has_any_name(engine: object) -> bool:
    """Return whether an attribute of any name is there and callable, as in a ``Mock``.

    Its ``on`` may do anything. Where such an object also defines methods, those are good.
    """
    name = "there_is_no_method_of_this_name"
    if not _has_method(engine, name):
        return False
    with contextlib.suppress(Exception):
        delattr(engine, name)  # an `Events` keeps what it made up
    return True


def _example(*args: Any, **fields: Any) -> None:
    """Stand for a handler when only the parameters of a method are asked for."""


def _is_async(method: Callable[..., object]) -> bool:
    function = getattr(method, "__func__", method)
    # Its type, since a mock with the spec of a function passes as a coroutine function.
    if type(function) is not types.FunctionType:
        return False
    # A decorator with functools.wraps may hide it.
    is_async = inspect.iscoroutinefunction
    return is_async(inspect.unwrap(function, stop=is_async))


def _takes(method: Callable[..., object], *args: Any, **fields: Any) -> bool:
    if (signature := _signature(method)) is None:
        return True
    try:
        signature.bind(*args, **fields)
    except TypeError:
        return False
    return True


def _parameters(method: Callable[..., object]) -> list[inspect.Parameter]:
    signature = _signature(method)
    return [] if signature is None else list(signature.parameters.values())


def _is_handler(parameter: inspect.Parameter | None) -> bool:
    if parameter is None:
        return False
    words = parameter.name.lower().split("_")
    return "Callable" in str(parameter.annotation) or not _HANDLER_WORDS.isdisjoint(words)


def _signature(method: Callable[..., object]) -> inspect.Signature | None:
    """Return a method's signature; None where it is compiled and doesn't have one."""
    try:
        return inspect.signature(method)
    except (TypeError, ValueError):
        return None
