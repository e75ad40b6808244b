"""The context in force, and the part of an event that depends on nothing but it and the type.

Theory of operation
-------------------

All events of a type begin alike, so that part, the *prefix*, is made once and kept in a dict. The
context is in it. So ``emit``, which looks up the prefix anyway, doesn't pay for the context: a
change of the context replaces the prefixes instead. With a journal, ``emit`` looks up the *kind* in
the same way: the middle part of a record, from which the prefix can be made again.

An ``emit`` that begins after a change was made must not find an old prefix. A thread may be making
one while another changes the context, and a signal handler may change it in the middle of either.
So a prefix is kept only if the context is still the one that it was made from, and a context is
changed only if it is still the one that the new one extends. Each time, the comparison and all that
depends on it are one call into C, which CPython (with the GIL) never interrupts. Nothing in that
call allocates an object that the garbage collector tracks: up to Python 3.11 a collection, and with
it the game's code in a ``__del__``, could come between. On a free-threaded build, a lock does the
same. ``emit`` doesn't wait for it: if it is taken, the prefix isn't kept.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain, compress, repeat
from typing import Any

import msgspec

from ..event_types import EventClass, type_of_class
from .counter import IS_FREE_THREADED

__all__ = ["NO_CONTEXT", "Context", "Prefixes", "kind_of", "parts_of", "prefix_of"]

_BEFORE_TYPE, _BEFORE_CONTEXT, _END = b'"type":', b',"context":', b',"timestamp":'
_MAX_PREFIXES = 1024  # how many types have their prefix kept
_COMMA = b"\\u002c"

Reader = Callable[[Any], msgspec.Struct]

MAX_PREFIX_BYTES = 256
"""A longer prefix is not kept. That is its length without a context."""
CONTEXT_KEY_BYTES = len(_BEFORE_CONTEXT)

_encode = msgspec.json.Encoder().encode
_decode_text = msgspec.json.Decoder(str).decode


def prefix_of(type: bytes, context: bytes | None = None) -> bytes:
    """Return the prefix of the events of a type. Both are given as JSON."""
    if context is None:
        return _BEFORE_TYPE + type + _END
    return _BEFORE_TYPE + type + _BEFORE_CONTEXT + context + _END


def parts_of(prefix: bytes) -> tuple[bytes, bytes | None]:
    """Return the type and the context, as JSON, of the events with a prefix."""
    # A quote within the type has a backslash before it, so it can't be taken for the separator.
    inner = prefix[len(_BEFORE_TYPE) : -len(_END)]
    type, separator, context = inner.partition(_BEFORE_CONTEXT)
    return type, context if separator else None


def kind_of(prefix: bytes) -> bytes:
    """Return the kind of the events with a prefix: type and context as they are in a record.

    It is the type, or an array of one string that has the context, as JSON, before the type. It
    has no comma, so a record is still split at its first two.
    """
    type, context = parts_of(prefix)
    if context is None:
        return type
    return _encode([context.decode() + _decode_text(type)]).replace(b",", _COMMA)


class Context(msgspec.Struct, frozen=True):
    """The fields that every event has. Never changed."""

    fields: Mapping[str, Any]
    """Values as the decoder makes them, which nobody else refers to."""
    text: bytes | None
    """The same as JSON; None if there are none."""


NO_CONTEXT = Context({}, None)


class Prefixes:
    """The context, and the prefix of each type that was used. Safe in any thread.

    Args:
        slow: types that ``emit`` must not find.
    """

    def __init__(self, slow: Collection[str] = ()) -> None:
        self.quick: dict[str, bytes] = {}
        """For ``emit``: the prefix of each type whose last event was not too large."""
        self.kinds: dict[str, msgspec.Raw] = {}
        """For ``emit`` with a journal: the kind of each."""
        self.typed: dict[type, tuple[bytes, msgspec.Raw, Reader | None]] = {}
        """For ``emit``: both, and how to read an instance, for each class of events. The key is the
        class, which is hashed by its identity; an instance may have a slow hash, or none."""
        self._known: dict[str, bytes] = {}  # for everybody else, the slow ones included
        self._slow = frozenset(slow)
        self.context = NO_CONTEXT
        self.begin()

    def begin(self) -> None:
        """Have a lock that no thread of a parent process holds. The context stays."""
        self._lock: threading.RLock | None = threading.RLock() if IS_FREE_THREADED else None

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def of(self, name: str) -> bytes:
        """Return the prefix of a type, with the context in force."""
        if (prefix := self._known.get(name)) is not None:
            return prefix
        context, type = self.context, _encode(name)
        prefix = prefix_of(type, context.text)
        if len(prefix_of(type)) <= MAX_PREFIX_BYTES:
            if len(self._known) >= _MAX_PREFIXES:
                self._clear()
            caches: tuple[dict[str, Any], ...] = (self._known,)
            if name not in self._slow:
                caches = (self._known, self.quick, self.kinds)
            values = (prefix, prefix, msgspec.Raw(kind_of(prefix)))
            kept = map(dict[str, Any].setdefault, caches, repeat(name), values)
            self._do_if_current(context, kept, waits=False)
        return prefix

    def know(self, cls: type, typed: EventClass) -> None:
        """Have ``emit`` find the class of an event, if it finds its type."""
        context = self.context
        # A hash of the game's own would run in the middle of the steps.
        if typed.type not in self.quick or type(cls).__hash__ is not object.__hash__:
            return
        if len(self.typed) >= _MAX_PREFIXES:
            self.typed.clear()
        prefix = prefix_of(_encode(typed.type), context.text)
        entry = (prefix, msgspec.Raw(kind_of(prefix)), typed.read)
        keep = dict[type, Any].setdefault
        self._do_if_current(context, map(keep, (self.typed,), (cls,), (entry,)), waits=False)

    def forget(self, name: str) -> None:
        """Have the next event of a type checked with care."""
        for cache in (self.quick, self.kinds, self._known):
            cache.pop(name, None)
        for cls in [cls for cls in self.typed.copy() if type_of_class(cls) == name]:
            self.typed.pop(cls, None)

    def _clear(self) -> None:
        for cache in (self.quick, self.kinds, self._known, self.typed):
            cache.clear()

    def change(self, extended: Callable[[Context], Context]) -> None:
        """Change the context. An ``emit`` that begins after the return has the new one.

        The prefixes of all known types are made anew here, for each some hundred nanoseconds, so
        that ``emit`` doesn't have to.

        Args:
            extended: returns the new context for a given one. It is called again if another thread,
                or a signal handler, changes the context meanwhile.
        """
        while True:
            context = self.context
            new = extended(context)
            if new.text == context.text or self._replace(context, new):
                return

    def _replace(self, context: Context, new: Context) -> bool:
        """Change the context from one to another; return False if it was not the first one."""
        types = [(name, parts_of(prefix)[0]) for name, prefix in self._known.copy().items()]
        known = {name: prefix_of(type, new.text) for name, type in types}
        quick = {name: prefix for name, prefix in known.items() if name not in self._slow}
        kinds = {name: msgspec.Raw(kind_of(prefix)) for name, prefix in quick.items()}
        typed = {}
        for cls, (former, _, read) in self.typed.copy().items():
            prefix = prefix_of(parts_of(former)[0], new.text)
            typed[cls] = (prefix, msgspec.Raw(kind_of(prefix)), read)
        pairs: tuple[tuple[dict[Any, Any], dict[Any, Any]], ...]
        pairs = (
            (self._known, known),
            (self.quick, quick),
            (self.kinds, kinds),
            (self.typed, typed),
        )
        # In this order: no thread that has seen the new context finds a prefix with the old one.
        steps = chain(
            map(dict[Any, Any].clear, [cache for cache, _ in pairs]),
            map(setattr, (self,), ("context",), (new,)),
            *(
                map(dict[Any, Any].setdefault, repeat(cache), values, values.values())
                for cache, values in pairs
            ),
        )
        return self._do_if_current(context, steps, waits=True)

    def _do_if_current(self, context: Context, steps: Iterator[object], *, waits: bool) -> bool:
        """Take steps if the context is this one; return whether it is. See above."""
        current = map(operator.attrgetter("context"), (self,))
        is_current = map(operator.is_, current, (context,))
        taken = chain.from_iterable(compress((steps,), is_current))
        if self._lock is None:
            return bool(list(taken))  # one call into C
        if not self._lock.acquire(blocking=waits):
            return False
        try:
            return bool(list(taken))
        finally:
            self._lock.release()
