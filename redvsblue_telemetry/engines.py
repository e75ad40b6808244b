"""``attach``: records the events of an engine, in the dialects that Python engines speak.

==========================================  =============================================
an object with                              such as
==========================================  =============================================
``push_handlers`` / ``remove_handlers``     pyglet's and arcade's ``EventDispatcher``
``on`` / ``off``                            a game's own emitter, after the browser's
``on`` / ``remove_listener``                pyee's ``EventEmitter``
``connect`` / ``disconnect``                a blinker ``Signal``
==========================================  =============================================
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from .errors import InvalidEventError, TelemetryError
from .events import TelemetryEvent

__all__ = ["EngineBinding", "attach"]

logger = logging.getLogger("redvsblue_telemetry")

Handler = Callable[..., None]
Push = Callable[[TelemetryEvent | Mapping[str, Any]], None]


class EngineBinding:
    """Connects an engine to a ``Telemetry``; a context manager that detaches at its end.

    Detaching is safe at any time, any number of times, and after the engine is gone. The binding
    doesn't keep the engine alive.
    """

    def __init__(self, detach: Callable[[], None] | None = None) -> None:
        self._detach = detach

    @property
    def is_attached(self) -> bool:
        """Whether the engine's events are being recorded."""
        return self._detach is not None

    def detach(self) -> None:
        """Stop recording the engine's events."""
        detach, self._detach = self._detach, None
        if detach is None:
            return
        try:
            detach()
        except Exception as error:
            # The engine has removed the handler already; each dialect raises another error then.
            logger.debug("detaching from the engine: %r", error)

    def __enter__(self) -> EngineBinding:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()


def attach(engine: object, event: str, push: Push) -> EngineBinding:
    """Call ``push`` with each event that the engine emits under the name ``event``.

    Raises:
        TelemetryError: the engine has none of the pairs of methods.
    """
    handler = _handler(push)
    subscribe, unsubscribe = _dialect(engine, event)
    subscribe(engine, handler)
    reference = _reference(engine)

    def detach() -> None:
        if (alive := reference()) is not None:
            unsubscribe(alive, handler)

    return EngineBinding(detach)


def _dialect(
    engine: Any, event: str
) -> tuple[Callable[[Any, Handler], object], Callable[[Any, Handler], object]]:
    """Return functions that subscribe a handler to such an engine and unsubscribe it."""

    def has(*names: str) -> bool:
        return all(callable(getattr(engine, name, None)) for name in names)

    if has("push_handlers", "remove_handlers"):
        return (
            lambda engine, handler: engine.push_handlers(**{event: handler}),
            lambda engine, handler: engine.remove_handlers(**{event: handler}),
        )
    if has("on", "off"):
        return (
            lambda engine, handler: engine.on(event, handler),
            lambda engine, handler: engine.off(event, handler),
        )
    if has("on", "remove_listener"):
        return (
            lambda engine, handler: engine.on(event, handler),
            lambda engine, handler: engine.remove_listener(event, handler),
        )
    if has("connect", "disconnect"):
        return (_connect, lambda engine, handler: engine.disconnect(handler))
    raise TelemetryError(
        f"can't attach to {type(engine).__qualname__}: it has neither on/off, on/remove_listener, "
        "connect/disconnect nor push_handlers/remove_handlers"
    )


def _connect(signal: Any, handler: Handler) -> None:
    # A signal that holds its receivers weakly would drop this one at once.
    with contextlib.suppress(TypeError, ValueError):
        if "weak" in inspect.signature(signal.connect).parameters:
            signal.connect(handler, weak=False)
            return
    signal.connect(handler)


def _reference(engine: object) -> Callable[[], Any]:
    try:
        return weakref.ref(engine)
    except TypeError:  # an object with slots and without __weakref__
        return lambda: engine


def _handler(push: Push) -> Handler:
    def take_event(*args: Any, **fields: Any) -> None:
        # No error in here is the engine's fault, so none may reach it.
        try:
            push(_event(args, fields))
        except InvalidEventError:
            pass  # `push` has counted and logged it; `strict` is for the game's own calls
        except Exception:
            with contextlib.suppress(Exception):  # nor may one of a log handler
                logger.exception("could not record an engine's event")

    return take_event


def _event(args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    """Return the event in the arguments that the engine passed to the handler.

    It can be a mapping or TelemetryEvent, among positional arguments or as ``event=``; the event's
    own fields as keywords; or its type and data, one after the other.
    """
    is_all_there_is = fields.keys() == {"event"} and len(args) <= 1
    if is_all_there_is or isinstance(fields.get("event"), (Mapping, TelemetryEvent)):
        return fields["event"]
    for argument in args:
        if isinstance(argument, (Mapping, TelemetryEvent)) and not isinstance(args[0], str):
            return argument
    if args and isinstance(args[0], str):
        data = args[1] if len(args) > 1 else None
        if fields and (data is None or isinstance(data, Mapping)):
            data = {**(data or {}), **fields}
        return {"type": args[0], "data": data}
    if "type" in fields:
        return fields
    return args[0] if args else fields
