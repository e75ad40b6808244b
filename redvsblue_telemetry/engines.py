"""``attach``: records the events of an engine, and lets go of it again.

``_dialects`` has the table of the methods by which engines take handlers.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from ._dialects import Dialect, Handler, find_dialect, refusal
from .errors import InvalidEventError, TelemetryError
from .event_types import EventInstance, hint_for, is_event
from .events import TelemetryEvent

__all__ = ["AttachedEngines", "EngineBinding"]

logger = logging.getLogger("redvsblue_telemetry")

Push = Callable[[TelemetryEvent | Mapping[str, Any] | EventInstance], None]


class EngineBinding:
    """Connects an engine to a ``Telemetry``; a context manager that detaches at its end.

    Detaching is safe at any time, any number of times, and after the engine is gone. The binding
    doesn't keep the engine alive. Copied or unpickled, it is detached.
    """

    def __init__(self, detach: Callable[[], None] | None = None) -> None:
        self._detach = detach

    @property
    def is_attached(self) -> bool:
        """Whether the engine's events are being recorded."""
        return self._detach is not None

    def detach(self) -> None:
        """Stop recording the engine's events, unless another binding of it is still attached."""
        detach, self._detach = self._detach, None
        if detach is not None:
            detach()

    def __enter__(self) -> EngineBinding:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def __reduce__(self) -> tuple[Callable[[], EngineBinding], tuple[()]]:
        # A saved game may hold its binding.
        return EngineBinding, ()


class AttachedEngines:
    """The engines that are attached to one ``Telemetry``."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # never held while the engine's code runs
        self._attachments: dict[tuple[object, str], _Attachment] = {}

    def attach(self, engine: object, event: str, push: Push | None) -> EngineBinding:
        """Call ``push`` with each event that the engine emits under the name ``event``.

        If ``push`` is None, only check whether that is possible.

        Raises:
            TelemetryError: it is not possible, or the engine raised an exception.
        """
        dialect = find_dialect(engine, event)
        if push is None:
            return EngineBinding()
        token = object()
        with self._lock:
            attachment = self._find(engine, event) or self._add(engine, event, dialect, push)
            attachment.tokens.add(token)
        try:
            attachment.subscribe(engine)
        except BaseException as error:
            self._detach(attachment, token)
            if isinstance(error, TelemetryError) or not isinstance(error, Exception):
                raise
            reason = f"its {dialect.subscribe}() raised {error!r}"
            raise refusal(engine, event, reason) from error
        return EngineBinding(lambda: self._detach(attachment, token))

    def after_fork_in_child(self) -> None:
        """Have a lock that no thread of the parent holds. The engines stay attached."""
        self._lock = threading.RLock()

    def _find(self, engine: object, event: str) -> _Attachment | None:
        identity = _identity(engine)
        attachment = self._attachments.get((identity, event))
        # An id may be that of another engine, which is gone.
        if attachment is not None and (identity is engine or attachment.engine() is engine):
            return attachment
        return None

    def _add(self, engine: object, event: str, dialect: Dialect, push: Push) -> _Attachment:
        key, attachments = (_identity(engine), event), self._attachments

        def forget(_: object) -> None:
            attachments.pop(key, None)

        def keep() -> object:
            return engine

        try:
            reference: Callable[[], object] = weakref.ref(engine, forget)
        except TypeError:  # an object with slots and without __weakref__
            reference = keep
        attachment = attachments[key] = _Attachment(reference, event, dialect, push)
        return attachment

    def _detach(self, attachment: _Attachment, token: object) -> None:
        with self._lock:
            if token not in attachment.tokens:
                return
            attachment.tokens.remove(token)
            if attachment.tokens:
                return
            engine = attachment.engine()
            if self._find(engine, attachment.event) is attachment:
                del self._attachments[_identity(engine), attachment.event]
        attachment.unsubscribe(engine)


def _identity(engine: object) -> object:
    """Return the engine's id; PyQt's signal itself, which is another object at each access.

    Its equals are the same signal. Those of another class may be twins with equal contents.
    """
    return engine if type(engine).__name__ == "pyqtBoundSignal" else id(engine)


class _Attachment:
    """One engine's events of one name, recorded once, for any number of bindings."""

    def __init__(
        self, engine: Callable[[], object], event: str, dialect: Dialect, push: Push
    ) -> None:
        self.engine = engine
        self.event = event
        self.dialect = dialect
        self.tokens: set[object] = set()  # one for each binding that is attached
        self._line = _Line(push, _name_of_kind(engine()))

    def subscribe(self, engine: object) -> None:
        """Subscribe a handler to the engine in place of the one before, if there was one.

        The engine may have dropped that one meanwhile, as in a ``remove_all_listeners``, and can't
        be asked. It may also keep one that it was asked to remove. So only the newest takes events.
        """
        before, handler = self._line.handler, _Handler(self._line)
        if before is None:
            self._line.handler = handler  # before it is added: some engines repeat what was
        else:
            # Not after the new one is added, though that would leave no gap: an engine that has one
            # handler for each event, or finds it by its name, would remove the new one.
            self._remove(engine, before)
        if self._line.kind in _copied_kinds:
            self._remove(engine, ignore_event)
        try:
            self._add(engine, handler)
        except BaseException:
            if before is not None:  # other bindings are attached
                self._remove(engine, handler)
                with contextlib.suppress(Exception):
                    self._add(engine, before)
            raise
        if before is not None:
            self._line.handler = handler

    def unsubscribe(self, engine: object) -> None:
        """Take no more events, whether or not the engine lets go of the handler."""
        handler, self._line.handler = self._line.handler, None
        if engine is not None and handler is not None:
            self._remove(engine, handler)

    def _add(self, engine: object, handler: Handler) -> None:
        returned = self.dialect.add(engine, self.event, handler)
        if inspect.iscoroutine(returned):
            returned.close()
            raise refusal(
                engine, self.event, f"its {self.dialect.subscribe}() is a coroutine function"
            )

    def _remove(self, engine: object, handler: Handler) -> None:
        try:
            self.dialect.remove(engine, self.event, handler)
        except Exception as error:
            # The engine has removed the handler already; each dialect raises another error then.
            logger.debug("detaching from the engine: %r", error)


class _Line:
    """From a handler to ``push``. It knows nothing of the engine, which holds the handler."""

    def __init__(self, push: Push, kind: str) -> None:
        self.push = push
        self.kind = kind
        self.handler: _Handler | None = None  # the only one that may use it


class _Handler:
    """Takes an engine's events. Copied or unpickled with the engine, it becomes ``ignore_event``.

    So the events that a copy of the engine imagines are not recorded, and a saved game has nothing
    of the telemetry in it.
    """

    def __init__(self, line: _Line) -> None:
        self.__name__ = self.__qualname__ = "record_event"  # engines may log it
        self._line = line

    def __call__(self, *args: Any, **fields: Any) -> None:
        """Record the event in the arguments."""
        line = self._line
        if line.handler is not self:
            return
        # No error in here is the engine's fault, so none may reach it.
        try:
            line.push(_event(args, fields))
        except InvalidEventError:
            pass  # `push` has counted and logged it; `strict` is for the game's own calls
        except Exception:
            try:  # noqa: SIM105 (at the recursion limit, `suppress` can't be called)
                logger.exception("could not record an engine's event")
            except Exception:  # noqa: S110 (nor may one of a log handler)
                pass

    def __reduce__(self) -> tuple[Callable[[str], Handler], tuple[str]]:
        return detached_handler, (self._line.kind,)


def _name_of_kind(engine: object) -> str:
    return f"{type(engine).__module__}.{type(engine).__qualname__}"


if "ignore_event" not in globals():  # importlib.reload keeps both: engines hold this function
    # The classes whose engines were copied or unpickled with a handler. When one of these is
    # attached, `ignore_event` is removed first, or a saved game would have one more each time.
    _copied_kinds: set[str] = set()

    def ignore_event(*args: Any, **fields: Any) -> None:
        """Do nothing: the handler in a copy of an attached engine."""


def detached_handler(kind: str) -> Handler:
    """Return the handler of a copied or unpickled engine. Saved games know this name."""
    _copied_kinds.add(kind)
    return ignore_event


def _is_whole(argument: object) -> bool:
    """Return whether an argument can be an event by itself."""
    return isinstance(argument, (Mapping, TelemetryEvent)) or is_event(argument)


def _is_start(argument: object) -> bool:
    """Return whether it can be the first argument; another one is the engine itself."""
    return isinstance(argument, str) or _is_whole(argument)


def _event(args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    """Return the event in the arguments that the engine passed to the handler.

    It can be a mapping, a TelemetryEvent or an instance of a marked class, among positional
    arguments or as ``event=``; the event's own fields as keywords; or its type and data, one after
    the other.
    """
    if len(args) > 1 and isinstance(args[1], str) and not _is_start(args[0]):
        args = args[1:]  # the engine itself comes first
    is_all_there_is = fields.keys() == {"event"} and len(args) <= 1
    if is_all_there_is or _is_whole(fields.get("event")):
        return fields["event"]
    for argument in args:
        if _is_whole(argument) and not isinstance(args[0], str):
            return argument
    if args and isinstance(args[0], str):
        data = args[1] if len(args) > 1 else None
        if fields and (data is None or isinstance(data, Mapping)):
            data = {**(data or {}), **fields}
        return {"type": args[0], "data": data}
    if "type" in fields:
        return fields
    # None of them is an event. One that was meant as one is refused with the reason.
    return next((each for each in args[::-1] if hint_for(each)), args[0]) if args else fields
