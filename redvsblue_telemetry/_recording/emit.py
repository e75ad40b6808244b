"""``emit``, from the call to the store, in one function: the cost of an event to a frame.

This is the only code that is written for speed first. Every function call and attribute look-up
costs a fraction of a microsecond, up to a hundred times a frame. So the objects that an event needs
are bound once, by a closure, and the usual case is written out. The other cases are left to
:meth:`EventCodec.encode`, which does the same carefully and explains errors.
"""

from __future__ import annotations

from collections.abc import Callable
from gc import is_tracked
from time import time_ns  # a module-level name, so that tests can freeze it
from typing import Any

from ..errors import InvalidEventError
from ..events import Data, merged
from .codec import EncodedEvent, EventCodec
from .jsonable import is_modest
from .ledger import Ledger
from .store import TelemetryStore

__all__ = ["Emit", "Flag", "emit_nothing", "make_emit"]

Emit = Callable[..., None]
"""``emit(type, data=None, /, **fields)``; see :meth:`Telemetry.emit`."""


class Flag:
    """Whether events are recorded now. Written under the client's lock, read by any thread."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = False


def emit_nothing(type: str, data: Data | None = None, /, **fields: Any) -> None:
    """Do nothing: the ``emit`` of a client whose feature flag is off."""


def make_emit(
    switch: Flag,
    codec: EventCodec,
    store: TelemetryStore[EncodedEvent],
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
    type_prefixes, encode_json, most, room = (
        codec.type_prefixes,
        codec.encode_json,
        codec.always_fits_bytes,
        codec.max_event_bytes,
    )
    items, rise = store.items, store.enforce_capacity
    append = items.append

    def emit(type: str, data: Data | None = None, /, **fields: Any) -> None:
        if not switch.on:
            return
        body = None
        try:
            prefix = type_prefixes[type]
            if data is None:
                data = fields
            elif fields or data.__class__ is not dict:
                data, fields = merged(type, data, fields, room), {}
            # The encoder recurses on the C stack, so it may not be given deep data. Up to Python
            # 3.13, the garbage collector doesn't track a dict whose values hold no references, and
            # asking it costs a tenth of looking at six values. Later Pythons track every dict.
            if not is_tracked(data) or is_modest(data, room):
                text = encode_json(data)
                if len(text) <= most:
                    body = EncodedEvent(prefix, time_ns(), text)
                else:
                    type_prefixes.pop(type, None)  # so that the next one is not encoded in vain
        except Exception:  # a new type, perhaps; a real error occurs again below
            body = None
        try:
            if body is None:
                body = codec.encode(type, data, fields)
            append(body)
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
            return
        try:
            if len(items) >= store.high_water:
                rise()
        except RecursionError:  # the event is recorded, and a later one reports the high water
            pass

    return emit
