"""``emit``, from the call to the store, in one function: the cost of an event to a frame.

This is the only code that is written for speed first. Every function call and attribute look-up
costs a fraction of a microsecond, up to a hundred times a frame. So the objects that an event needs
are bound once, by a closure, and the usual case is written out. The other cases are left to
:meth:`EventCodec.encode`, which does the same carefully and explains errors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from gc import is_tracked
from time import time_ns  # a module-level name, so that tests can freeze it
from typing import Any

from ..errors import InvalidEventError
from ..events import Data, merged
from .codec import EncodedEvent, EventCodec
from .jsonable import is_modest
from .ledger import Ledger
from .store import Store, TelemetryStore

class_of = type  # in `emit`, that name is the event's type

__all__ = ["Emit", "Flag", "emit_nothing", "make_emit"]

Emit = Callable[..., None]
"""``emit(type, data=None, /, **fields)``, or ``emit(event)``; see :meth:`Telemetry.emit`."""


class Flag:
    """Whether events are recorded now. Written under the client's lock, read by any thread."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = False


def emit_nothing(type: object, data: Data | None = None, /, **fields: Any) -> None:
    """Do nothing: the ``emit`` of a client whose feature flag is off."""


def make_emit(
    switch: Flag,
    codec: EventCodec,
    store: Store[EncodedEvent],
    ledger: Ledger,
    complain: Callable[[Exception, object], None],
) -> Emit:
    """Return an ``emit`` that puts events into a store.

    It keeps references to the codec and the store, and a game may keep a reference to it. So a
    forked child starts over with the same two objects.

    Args:
        switch: while it is off, nothing is recorded.
        codec: encodes the events.
        store: keeps them.
        ledger: counts the events that can't be encoded.
        complain: called with the error and the type of such an event. May raise an
            InvalidEventError.
    """
    encode_json, most, room = codec.encode_json, codec.always_fits_bytes, codec.max_event_bytes
    journal = store.journal
    # Either has the context in it, so that an event with one costs no more than one without.
    prefixes: dict[str, Any] = codec.prefixes.quick if journal is None else codec.prefixes.kinds
    typed = codec.prefixes.typed
    items: deque[EncodedEvent] = deque()
    rise: Callable[[], object] = store.on_high_water
    if isinstance(store, TelemetryStore):
        items, rise = store.items, store.enforce_capacity
    append = items.append

    def emit(type: Any, data: Data | None = None, /, **fields: Any) -> None:
        if not switch.on:
            return
        try:
            body: Any
            if data is not None:
                prefix = prefixes[type]
                if fields or class_of(data) is not dict:
                    data, fields = merged(type, data, fields, room), {}
                body = data
            # The class is asked for last, so that events with data don't pay for typed ones.
            elif fields or class_of(type) is str:
                prefix, body = prefixes[type], fields
            else:
                prefix, record, read = typed[class_of(type)]
                if journal is not None:
                    prefix = record
                body = type if read is None else read(type)
            # The encoder recurses on the C stack, so it may not be given deep data. Up to Python
            # 3.13, the garbage collector doesn't track a dict whose values hold no references, and
            # asking it costs a tenth of looking at six values. Later Pythons track every dict. A
            # Struct is tracked in the same way, on every Python.
            if is_tracked(body) and not is_modest(body, room):
                raise ValueError
            # A record has the time and the kind in it, so it is the one that has to be small.
            text = encode_json(body if journal is None else (time_ns(), prefix, body))
            if len(text) > most:
                codec.forget(type)  # so that the next one is not encoded in vain
                raise ValueError
        except Exception:  # noqa: S110 (a new type, perhaps; a real error occurs again below)
            pass
        else:
            # Not in the same `try`: what a signal handler raises here must not record it twice.
            try:
                if journal is None:
                    append(EncodedEvent(prefix, time_ns(), text))
                else:
                    write = journal.write  # calling the attribute itself would cost more
                    write(text)
                    return
            except (ValueError, RecursionError, MemoryError):  # the segment is full, perhaps
                pass
            else:
                try:
                    if len(items) >= store.high_water:
                        rise()
                except RecursionError:  # a later event reports the high water
                    pass
                return
        try:
            if codec.leaves_out(type):
                return
            store.push(codec.encode(type, data, fields))
        except Exception as error:
            # Close to the recursion limit, any call may fail; a step of a loop calls nothing.
            for _ in ledger.rejections:
                break
            try:
                complain(error, type)
            except InvalidEventError:
                raise
            except Exception:  # noqa: S110 (the same limit)
                pass

    return emit
