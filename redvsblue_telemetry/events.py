"""The event as a game's author sees it, :class:`TelemetryEvent`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

import attrs

from ._shared import describe, keep_on_reload
from .errors import InvalidEventError

__all__ = ["NO_DATA", "Data", "TelemetryEvent", "event_from", "merged"]

Data = Mapping[str, Any]

_BYTES_PER_FIELD = 5  # at least: two quotes, a colon, a digit and a comma
NO_DATA: Data = MappingProxyType({})
_WIRE_NAMES = {
    "id": "id",
    "type": "type",
    "timestamp": "timestamp",
    "sessionId": "session_id",
    "session_id": "session_id",
    "seq": "seq",
    "data": "data",
    "version": "version",
    "context": "context",
}


@keep_on_reload
@attrs.frozen(kw_only=True)
class TelemetryEvent:
    """One thing that happened. Fields that are not set are filled in when the event is pushed.

    Immutable; safe to share between threads.
    """

    type: str = attrs.field(kw_only=False)
    """The kind of event, such as ``"ship_destroyed"``. Not empty."""
    data: Data = attrs.field(kw_only=False, default=NO_DATA)
    """The event's fields: anything that can be written as JSON."""
    timestamp: int | None = None
    """When it happened, in milliseconds since the epoch."""
    id: str | None = None
    """Unique across sessions."""
    session_id: str | None = None
    """The run of the game it belongs to; ``sessionId`` on the wire."""
    seq: int | None = None
    """Its place in the session, counted from 1 in the order of emission."""
    version: str | None = None
    """The version of the game's build."""
    context: Data | None = None
    """The fields that were set by :meth:`Telemetry.context`, or others for this event alone."""

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> TelemetryEvent:
        """Return the event for a mapping from an engine or from the wire (camelCase).

        Unknown keys become fields of its ``data``, and so does a ``context`` that isn't a mapping.

        Raises:
            InvalidEventError: it has no ``type``, or its ``data`` is not a mapping.
        """
        return event_from(mapping)

    def to_mapping(self) -> dict[str, Any]:
        """Return the event as on the wire: camelCase, without the fields that are not set."""
        fields = {
            "id": self.id,
            "sessionId": self.session_id,
            "seq": self.seq,
            "version": self.version,
            "context": self.context,
            "type": self.type,
            "timestamp": self.timestamp,
            "data": self.data,
        }
        return {name: value for name, value in fields.items() if value is not None}


def event_from(mapping: Mapping[str, Any], most: int = sys.maxsize) -> TelemetryEvent:
    """Return the event for a mapping; see :meth:`TelemetryEvent.from_mapping`.

    Args:
        mapping: the event.
        most: how many bytes it may have. A mapping that can't fit is not read to its end.

    Raises:
        InvalidEventError: as for :meth:`TelemetryEvent.from_mapping`, or it can't fit.
    """
    known: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for key, value in _fields("", "event", mapping, most):
        name = _WIRE_NAMES.get(key) if isinstance(key, str) else None
        # Engines that emitted a field of this name before it had a meaning keep it.
        if name == "context" and not (value is None or isinstance(value, Mapping)):
            name = None
        if name is None:
            others[key] = value
        elif value is not None:
            known[name] = value
    if "type" not in known:
        raise InvalidEventError("", "type", "is missing")
    if others:
        known["data"] = {**others, **merged(known["type"], known.get("data", {}), NO_DATA, most)}
    return TelemetryEvent(**known)


def merged(type: str, data: object, fields: Data, most: int = sys.maxsize) -> dict[str, Any]:
    """Return all fields of an event.

    Args:
        type: the event's type.
        data: its data.
        fields: more fields, which win.
        most: how many bytes the event may have. Data that can't fit is not read to its end.

    Raises:
        InvalidEventError: its data is not a mapping, can't be read or can't fit.
    """
    if not isinstance(data, Mapping):
        raise _not_a_mapping(type, data)
    try:
        return {**dict(_fields(type, "data", data, most)), **fields}
    except InvalidEventError:
        raise
    except Exception as error:
        raise InvalidEventError(type, "data", f"can't be read: {describe(error)}") from error


def _fields(
    type: object, path: str, mapping: Mapping[str, Any], most: int
) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a mapping, which may be endless."""
    limit = most // _BYTES_PER_FIELD
    if isinstance(mapping, dict):
        is_too_large, fields = dict.__len__(mapping) > limit, iter(dict.items(mapping))
    else:
        is_too_large, fields = False, ((key, mapping[key]) for key in mapping)
    if not is_too_large:
        yield from islice(fields, limit)
        is_too_large = next(fields, None) is not None
    if is_too_large:
        name = type if isinstance(type, str) else describe(type)
        raise InvalidEventError(name, path, f"has more fields than fit into {most} bytes")


def _not_a_mapping(type: object, data: object) -> InvalidEventError:
    name = type if isinstance(type, str) else describe(type)
    return InvalidEventError(name, "data", f"is a {data.__class__.__name__}, not a mapping")
