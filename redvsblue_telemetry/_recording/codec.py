"""Encoding: from an emitted event to its bytes on the wire.

An event is encoded where it is emitted, into an :class:`EncodedEvent`. That is the snapshot of its
data, and a bad event is found while the code that emits it is on the stack. The fields that a whole
session shares, and the number that the event gets when it leaves the store, are added on the
worker, by :meth:`EventCodec.to_wire`.
"""

from __future__ import annotations

import datetime
import functools
import gc
import math
import os
import uuid
from collections.abc import Iterable, Mapping
from time import time_ns  # a module-level name, so that tests can freeze it
from typing import TYPE_CHECKING, Any, cast

import msgspec

from .._shared import (
    LARGEST_INTEGER,
    SMALLEST_INTEGER,
    describe,
    encodable,
    keep_on_reload,
    name_fault,
)
from ..errors import InvalidEventError
from ..event_types import EventClass, EventInstance, event_class, hint_for, is_event, type_of_class
from ..events import NO_DATA, Data, TelemetryEvent, event_from, merged
from .jsonable import Unwritable, is_modest, plain, to_jsonable
from .prefixes import (
    CONTEXT_KEY_BYTES,
    MAX_PREFIX_BYTES,
    Context,
    Prefixes,
    parts_of,
    prefix_of,
)

if TYPE_CHECKING:
    from .sampling import Sampling

__all__ = [
    "EncodedEvent",
    "EventCodec",
    "ForwardedEvent",
    "child_session_id",
    "new_session_id",
]

class_of = type  # in methods, that name is the event's type

_PLAIN = frozenset({"type", "data"})
_HALF_A_MICROSECOND = 500  # nanoseconds; a clock kept as a float then loses no millisecond
_THIRTEEN_DIGITS = 10**12  # a timestamp has 13 digits until the year 2286
_CONTEXTS_PER_EVENT = 8  # of the largest size, so that there is room for data
_MAX_SHOWN_LETTERS = 80  # of a type that is too long
_PROCESS_ID_BYTES = 32  # room for the suffix of a forked child's session id


@keep_on_reload
class EncodedEvent(msgspec.Struct, gc=False):
    """An event from its emission on, with nothing that the game can change."""

    prefix: bytes
    """``"type":…,"context":…,"timestamp":``, one object for all events of a type."""
    time: int
    """When it happened, in nanoseconds since the epoch."""
    data: bytes
    """Its data, as JSON."""


@keep_on_reload
class ForwardedEvent(EncodedEvent, gc=False):
    """An event that came with some of its envelope, which is kept as given."""

    envelope: dict[str, Any]


class EventCodec:
    """Encodes the events of one session. Safe in any thread.

    Args:
        session_id: written into each event as ``sessionId``.
        version: the version of the game's build, written into each event; or None.
        max_event_bytes: the largest size of one event on the wire. It is counted with the longest
            possible ``seq``, so that the limit doesn't depend on when the event is emitted.
        sampling: decides which events are left out; None: none.
    """

    def __init__(
        self,
        session_id: str,
        version: str | None = None,
        max_event_bytes: int = 16384,
        *,
        sampling: Sampling | None = None,
    ) -> None:
        self.version = version
        self.max_event_bytes = max_event_bytes
        hook = functools.partial(to_jsonable, most=max_event_bytes)
        self.encode_json = msgspec.json.Encoder(enc_hook=hook).encode
        self._sampling = sampling
        self.prefixes = Prefixes(slow=() if sampling is None else sampling.types)
        """The beginning of the events of each type, with the context."""
        self.begin(session_id)

    def begin(self, session_id: str, run: str | None = None) -> None:
        """Begin a session. Only while no other thread uses the codec, such as after a fork.

        Args:
            session_id: see the class.
            run: the first part of the events' ids, if it is not a new run; 16 letters.
        """
        self.session_id = session_id
        self.prefixes.begin()
        if self._sampling is not None:
            self._sampling.begin(session_id)
        # A reused session_id must not repeat event ids.
        self.run = uuid.uuid4().hex[:16] if run is None else run
        prefix = {"sessionId": session_id} | ({"version": self.version} if self.version else {})
        constant = self.encode_json(prefix)[:-1].replace(b"%", b"%%")
        self._whole = constant + f',"id":"{self.run}-%d","seq":%d,'.encode() + b'%b%d,"data":%b}'
        longest = self._whole % (LARGEST_INTEGER, LARGEST_INTEGER, b"", _THIRTEEN_DIGITS, b"")
        self._overhead = len(longest)

    @property
    def always_fits_bytes(self) -> int:
        """Data of at most this size fits into an event of any type, even in a forked child."""
        prefix = MAX_PREFIX_BYTES + CONTEXT_KEY_BYTES + self.max_context_bytes
        return self.max_event_bytes - self._overhead - prefix - _PROCESS_ID_BYTES

    @property
    def max_context_bytes(self) -> int:
        """The largest size of a context, as JSON."""
        return self.max_event_bytes // _CONTEXTS_PER_EVENT

    def encode(self, type: object, data: Data | None, fields: Data = NO_DATA) -> EncodedEvent:
        """Encode an event that happens now.

        Args:
            type: the event's type; or an instance of a class that ``event_type`` marked.
            data: its fields, or None.
            fields: more fields, which win over ``data``.

        Raises:
            InvalidEventError: it can't be sent.
        """
        typed = event_class(kind := class_of(type))
        if typed is not None:
            if data is not None or fields:
                reason = f"is given beside an instance of {kind.__qualname__}, which is all of it"
                raise InvalidEventError(typed.type, "data", reason)
            name, body = typed.type, self._fields_of(type, typed)
        else:
            if data is None:
                data = fields
            elif fields or data.__class__ is not dict:
                data = merged(cast("str", type), data, fields, self.max_event_bytes)
            name, body = _checked_type(type), data
        text = self._encode_data(name, body)
        prefix = self.prefixes.of(name)
        size = self._overhead + len(prefix) + len(text)
        if size > self.max_event_bytes:
            raise self._too_large(name, size)
        if typed is not None:
            self.prefixes.know(kind, typed)
        return EncodedEvent(prefix, time_ns(), text)

    def _fields_of(self, event: object, typed: EventClass) -> object:
        """Return the fields of an instance as the encoder takes them."""
        if typed.read is None:
            return event
        try:
            return typed.read(event)
        except Exception as error:
            if isinstance(error, AttributeError) and error.obj is event:
                # A field with init=False that was not set, perhaps.
                reason = "has no value in the instance"
                raise InvalidEventError(typed.type, f"data.{error.name}", reason) from None
            reason = f"can't be read: {describe(error)}"
            raise InvalidEventError(typed.type, "data", reason) from error

    def leaves_out(self, type: object) -> bool:
        """Return whether sampling leaves out an event of a type, which is counted then."""
        if self._sampling is None:
            return False
        return self._sampling.leaves_out(type_of_class(class_of(type)) or type)

    def leaves_out_event(self, event: object) -> bool:
        """Do the same for a value that somebody pushes as an event."""
        if self._sampling is None:
            return False
        if isinstance(event, TelemetryEvent):
            return self._sampling.leaves_out(event.type)
        if is_event(event):
            return self.leaves_out(event)
        return isinstance(event, Mapping) and self._sampling.leaves_out(event.get("type"))

    def forget(self, type: object) -> None:
        """Have the next event of a type checked with care, since one was too large.

        Args:
            type: the type, or an instance of its class.
        """
        self.prefixes.forget(cast("str", type_of_class(class_of(type)) or type))

    def extend_context(self, fields: Mapping[str, Any]) -> None:
        """Add fields to the context, or replace them; None removes one.

        Raises:
            InvalidEventError: they can't be sent. Then the context is unchanged.
        """
        given = self._plain_context("", fields)

        def extended(context: Context) -> Context:
            merged = {**context.fields, **given}
            present = {name: value for name, value in merged.items() if value is not None}
            return Context(present, self._context_text("", present) if present else None)

        self.prefixes.change(extended)

    def _plain_context(self, type: str, fields: object) -> dict[str, Any]:
        """Return the fields of a context as values that nobody else refers to."""
        most = self.max_context_bytes
        if not isinstance(fields, Mapping):
            raise InvalidEventError(
                type, "context", f"is a {fields.__class__.__name__}, not a mapping"
            )
        try:
            text = self.encode_json(plain(merged(type, fields, NO_DATA, most), most))
            return msgspec.json.decode(text, type=dict[str, Any])
        except InvalidEventError as error:
            raise InvalidEventError(type, "context", error.reason) from None
        except Unwritable as fault:
            path, reason = f"context{fault.path}", fault.reason
        except Exception as error:
            path, reason = "context", encodable(f"can't be encoded: {error}")
        raise InvalidEventError(type, path, reason)

    def _context_text(self, type: str, fields: dict[str, Any]) -> bytes:
        """Return a context as JSON."""
        text = self.encode_json(fields)
        if len(text) > (most := self.max_context_bytes):
            raise InvalidEventError(
                type, "context", f"is {len(text)} bytes long; the limit is {most}"
            )
        return text

    def encode_event(
        self,
        event: TelemetryEvent | Mapping[str, Any] | EventInstance,
        *,
        former: EncodedEvent | None = None,
    ) -> EncodedEvent:
        """Encode an event that may have its own timestamp, id, seq, session, version and context.

        Args:
            event: the event; or an instance of a class that ``event_type`` marked.
            former: the event that it replaces. If it has no context, it gets that of this one,
                instead of the one in force.

        Raises:
            InvalidEventError: it can't be sent.
        """
        if former is None and event.__class__ is dict and event.keys() == _PLAIN:
            event = cast("dict[str, Any]", event)  # as most engines emit it
            if event["type"].__class__ is str:
                return self.encode(event["type"], event["data"])
        if not isinstance(event, TelemetryEvent):
            if is_event(event):
                return self.encode(event, None)
            if not isinstance(event, Mapping):
                name, reason = hint_for(event) or ("", "is neither a TelemetryEvent nor a mapping")
                raise InvalidEventError(name, "event", reason)
            event = _read(event, self.max_event_bytes)
        type = _checked_type(event.type)
        envelope = _checked_envelope(type, event)
        timestamp = _checked_timestamp(type, event.timestamp)
        data = event.data
        if data.__class__ is not dict:
            data = merged(type, data, NO_DATA, self.max_event_bytes)
        text = self._encode_data(type, data)
        prefix = self.prefixes.of(type)
        if event.context is not None:
            context = self._context_text(type, self._plain_context(type, event.context))
            prefix = prefix_of(parts_of(prefix)[0], context)
        elif former is not None:
            prefix = prefix_of(parts_of(prefix)[0], parts_of(former.prefix)[1])
        # In nanoseconds like the others, from which the milliseconds are computed again.
        body = EncodedEvent(prefix, timestamp * 1_000_000, text)
        if envelope:
            body = ForwardedEvent(body.prefix, body.time, body.data, envelope)
        size = len(self.to_wire(body, LARGEST_INTEGER))
        if size > self.max_event_bytes:
            raise self._too_large(type, size)
        return body

    def _encode_data(self, type: str, data: Any) -> bytes:
        most = self.max_event_bytes
        # The same test as in `emit`, where its reason is given. It can't see how long a string is,
        # so the first event of a type, and the next after one that was too large, is converted with
        # care: a game that emits its screenshots doesn't wait until each of them is encoded.
        if type in self.prefixes:
            try:
                if not gc.is_tracked(data) or is_modest(data, most):
                    return self.encode_json(data)
            except Exception:  # noqa: S110 (explained by what follows)
                pass
        try:
            return self.encode_json(plain(data, most))
        except Unwritable as fault:
            path, reason = f"data{fault.path}", fault.reason
        except RecursionError:
            path, reason = "data", "can't be encoded so close to the recursion limit"
        except Exception as error:
            path, reason = "data", encodable(f"can't be encoded: {error}")
        raise InvalidEventError(type, path, reason)

    def to_wire(self, body: EncodedEvent, number: int) -> bytes:
        """Return the whole event as bytes.

        Args:
            body: the encoded event.
            number: the event's place in the session, which becomes its ``seq``.
        """
        milliseconds = (body.time + _HALF_A_MICROSECOND) // 1_000_000
        if body.__class__ is EncodedEvent:
            return self._whole % (number, number, body.prefix, milliseconds, body.data)
        standard: dict[str, Any] = {
            "sessionId": self.session_id,
            "id": f"{self.run}-{number}",
            "seq": number,
        }
        if self.version:
            standard["version"] = self.version
        envelope = self.encode_json(standard | cast("ForwardedEvent", body).envelope)[:-1]
        return b'%b,%b%d,"data":%b}' % (envelope, body.prefix, milliseconds, body.data)

    def to_wire_many(self, numbered: Iterable[tuple[EncodedEvent, int]]) -> list[bytes]:
        """Do the same for many events at once."""
        whole, to_wire = self._whole, self.to_wire
        return [
            whole
            % (
                number,
                number,
                body.prefix,
                (body.time + _HALF_A_MICROSECOND) // 1_000_000,
                body.data,
            )
            if body.__class__ is EncodedEvent
            else to_wire(body, number)
            for body, number in numbered
        ]

    def from_wire(self, wire: bytes) -> TelemetryEvent:
        """Return the event that has these bytes on the wire."""
        return TelemetryEvent.from_mapping(msgspec.json.decode(wire))

    def _too_large(self, type: str, size: int) -> InvalidEventError:
        self.forget(type)
        return InvalidEventError(
            type, "data", f"makes the event {size} bytes long; the limit is {self.max_event_bytes}"
        )


def new_session_id() -> str:
    """Return a new id for one run of the game."""
    return uuid.uuid4().hex


def child_session_id(given: str | None) -> str:
    """Return the session id of a forked child, which extends the given id if there is one."""
    return f"{given}.{os.getpid()}" if given else new_session_id()


def _checked_type(type: object) -> str:
    if not isinstance(type, str):
        name, reason = hint_for(type) or (describe(type), "must be a string")
        raise InvalidEventError(name, "type", reason)
    if not type:
        raise InvalidEventError("", "type", "must not be empty")
    if fault := name_fault(type):
        raise InvalidEventError(ascii(type[:_MAX_SHOWN_LETTERS]), "type", fault)
    return str.__str__(type)


def _read(mapping: Mapping[str, Any], most: int) -> TelemetryEvent:
    try:
        return event_from(mapping, most)
    except InvalidEventError:
        raise
    except Exception as error:
        raise InvalidEventError("", "event", f"can't be read: {describe(error)}") from error


def _checked_timestamp(type: str, timestamp: object) -> int:
    if timestamp is None:
        return time_ns() // 1_000_000
    try:
        if isinstance(timestamp, datetime.datetime):
            milliseconds = int(timestamp.timestamp() * 1000)
        elif isinstance(timestamp, (bool, str, bytes)):
            raise TypeError(timestamp)
        elif isinstance(timestamp, int):
            milliseconds = int.__index__(timestamp)
        else:
            number = float(cast("float", timestamp))
            if not math.isfinite(number):
                raise InvalidEventError(type, "timestamp", f"is {number}")
            milliseconds = int(number)
    except InvalidEventError:
        raise
    except Exception as error:
        raise InvalidEventError(type, "timestamp", "must be a number of milliseconds") from error
    if not SMALLEST_INTEGER <= milliseconds <= LARGEST_INTEGER:
        raise InvalidEventError(
            type, "timestamp", f"must be from {SMALLEST_INTEGER} to {LARGEST_INTEGER}"
        )
    return milliseconds


def _checked_envelope(type: str, event: TelemetryEvent) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in (
        ("id", event.id),
        ("sessionId", event.session_id),
        ("version", event.version),
    ):
        if value is None:
            continue
        text = str(value) if isinstance(value, uuid.UUID) else value
        if not isinstance(text, str) or not text:
            raise InvalidEventError(type, name, "must be a non-empty string")
        if fault := name_fault(text):
            raise InvalidEventError(type, name, fault)
        given[name] = str.__str__(text)
    if (seq := event.seq) is not None:
        if isinstance(seq, bool) or not isinstance(seq, int) or not 0 <= seq <= LARGEST_INTEGER:
            raise InvalidEventError(type, "seq", f"must be an integer from 0 to {LARGEST_INTEGER}")
        given["seq"] = int.__index__(seq)
    return given
