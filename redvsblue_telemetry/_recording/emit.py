"""``emit``, from the call to the store, in one function: what a frame pays for each event.

Here, and only here, code is written for speed first. Each call of a function and each look-up of
an attribute costs a share of a microsecond, a hundred times a frame, so what an event needs is
bound once, by a closure, and the usual case is written out. Whatever is not usual is left to
:meth:`EventCodec.encode`, which does the same with care, and finds the words for what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time_ns  # a module-level name, so that tests can freeze it
from typing import Any

from ..events import Data, merged
from .codec import EncodedEvent, EventCodec
from .store import TelemetryStore

__all__ = ["Emit", "Flag", "emit_nothing", "make_emit"]

Emit = Callable[..., None]
"""``emit(type, data=None, /, **fields)``; see :meth:`Telemetry.emit`."""


class Flag:
    """Whether events are taken now. Written under the client's lock, read by any thread."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = False


def emit_nothing(type: str, data: Data | None = None, /, **fields: Any) -> None:
    """Be the ``emit`` of a telemetry whose feature flag is off, for good."""


def make_emit(
    switch: Flag,
    codec: EventCodec,
    store: TelemetryStore[EncodedEvent],
    reject: Callable[[Exception, object], None],
) -> Emit:
    """Make an ``emit`` that puts events into a store.

    It holds on to the codec and the store, whoever keeps it: so a forked child begins anew with the
    same two objects.

    Args:
        switch: while it is off, nothing is taken.
        codec: encodes the events.
        store: keeps them.
        reject: told of the error, and the type, where an event can't be encoded. May raise.
    """
    heads, encode_json, most = codec.heads, codec.encode_json, codec.always_fits_bytes
    items, rise = store.items, store.enforce_capacity
    append = items.append

    def emit(type: str, data: Data | None = None, /, **fields: Any) -> None:
        if not switch.on:
            return
        body = None
        try:
            head = heads[type]
            if data is None:
                text = encode_json(fields)
            elif fields or data.__class__ is not dict:
                text = encode_json(merged(type, data, fields))
            else:
                text = encode_json(data)
            if len(text) <= most:
                body = EncodedEvent(head, time_ns(), text)
        except Exception:  # a type that is new, say; what is really wrong goes wrong again
            body = None
        if body is None:
            try:
                body = codec.encode(type, data, fields)
            except Exception as error:
                reject(error, type)
                return
        append(body)
        if len(items) >= store.high_water:
            rise()

    return emit
