"""Records: one event as it is written into a journal.

A record is the JSON array ``[time,"type",{data}]``, which the encoder makes in one call; its time
is in nanoseconds. The middle is the *kind*. With a context it is ``["{context}type"]``, a string
with the context's JSON before the type, in which commas are escaped: so a record of either form is
split at its first two commas. An event that came with some of its envelope is
``[time,["type",{envelope}],{data}]``, and its context is in that.

Two records that follow each other can be told apart: outside a string, JSON has no ``][``, and
inside one, it has no quote without a backslash. So ``][``, a number, a comma and the quote of a
type, together, are a boundary, unless that quote is the end of a string, as in ``{"note":"][1,"}``.
JSON then goes on with a space or with one of ``,:]}``, and few types begin with one of these. If
one seems to, the bytes before it decide: a record that is cut off within a string isn't JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from .._recording.codec import EncodedEvent, ForwardedEvent
from .._recording.prefixes import kind_of, parts_of, prefix_of

__all__ = [
    "RecordError",
    "RecordReader",
    "prefix_of_kind",
    "record_lengths",
    "record_of",
    "split_records",
]

_BOUNDARY = b"]["
_may_begin_record = re.compile(rb'-?\d{1,24},\[?"').match  # without its bracket
_begins_record = re.compile(rb'-?\d{1,24},\[?"[^\s,:\]}]').match
_DIGITS, _OTHERS = b"0123456789", b'[]",:} \t\n\r\v\f'
_CLASSES = bytes(
    ord("0") if byte in _DIGITS else byte if byte in _OTHERS else ord("a") for byte in range(256)
)
_USUAL_BOUNDARY = b"][" + b"0" * 19 + b',"a'
_USUAL_BOUNDARY_WITH_CONTEXT = b"][" + b"0" * 19 + b',["a'
_TIME = re.compile(rb"\[(-?\d{1,24}),")
_MAX_TYPES = 1024  # how many types a reader remembers

_encode = msgspec.json.Encoder().encode
_decode_first = json.JSONDecoder().raw_decode
_validate = msgspec.json.Decoder(msgspec.Raw).decode


class RecordError(Exception):
    """Bytes are not a record."""


class _Rest(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A record without its time."""

    kind: msgspec.Raw
    data: dict[str, msgspec.Raw]


def record_of(event: EncodedEvent) -> bytes:
    """Return the record of an event."""
    if isinstance(event, ForwardedEvent):
        type, context = parts_of(event.prefix)
        given = {} if context is None else {"context": msgspec.Raw(context)}
        kind = b"[%b,%b]" % (type, _encode(event.envelope | given))
    else:
        kind = kind_of(event.prefix)
    return b"[%d,%b,%b]" % (event.time, kind, event.data)


def prefix_of_kind(kind: bytes) -> bytes:
    """Return the prefix of the events of a kind that has nothing of an envelope.

    Raises:
        RecordError: it is not such a kind.
    """
    try:
        if kind[:1] != b"[":
            return _prefix(msgspec.json.decode(kind, type=str))
        (text,) = msgspec.json.decode(kind, type=tuple[str])
        _, end = _decode_first(text)
        context = text[:end].encode()
        msgspec.json.decode(context, type=dict[str, msgspec.Raw])  # strict, unlike the first one
        return _prefix(text[end:], context)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors, too
        raise RecordError(str(error)) from error


def _prefix(type: str, context: bytes | None = None) -> bytes:
    if not type:
        raise RecordError("its type is empty")
    return prefix_of(_encode(type), context)


def split_records(data: bytes) -> list[bytes]:
    """Return the records in bytes that begin and end with a whole one."""
    if not _has_brackets(data):
        return [data] if data else []
    return [b"[%b]" % part for part in _split(data)]


def record_lengths(data: bytes) -> list[int]:
    """Return the lengths of the records in bytes that begin and end with a whole one."""
    if not _has_brackets(data):
        return [len(data)] if data else []
    return [len(part) + 2 for part in _split(data)]


def _has_brackets(data: bytes) -> bool:
    return data[:1] == b"[" and data[-1:] == b"]"


def _split(data: bytes) -> list[bytes]:
    """Return the records without their brackets."""
    parts = data[1:-1].split(_BOUNDARY)
    # Nearly always, all of them are followed by a time of today and the first letter of a type.
    # To look at each part takes as long as all the rest of this.
    classes, boundaries = data.translate(_CLASSES), len(parts) - 1
    if (found := classes.count(_USUAL_BOUNDARY)) == boundaries or (
        found + classes.count(_USUAL_BOUNDARY_WITH_CONTEXT) == boundaries
    ):
        return parts
    pieces, parts = parts, parts[:1]
    for piece in pieces[1:]:
        if _begins_record(piece) or (_may_begin_record(piece) and _is_json(b"[%b]" % parts[-1])):
            parts.append(piece)
        else:
            parts[-1] += _BOUNDARY + piece
    return parts


def _is_json(text: bytes) -> bool:
    """Return whether bytes are one JSON value, and not cut off."""
    try:
        _validate(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


class RecordReader:
    """Turns records into events again. Used by one thread at a time."""

    def __init__(self) -> None:
        self._prefixes: dict[bytes, bytes] = {}

    def read(self, record: bytes) -> EncodedEvent:
        """Return the event of a record that was written by this process.

        Raises:
            RecordError: it is not a record.
        """
        try:
            time, kind, data = record.split(b",", 2)
            if (prefix := self._prefixes.get(kind)) is not None:
                return EncodedEvent(prefix, int(time[1:]), data[:-1])
        except ValueError:
            pass
        return self.read_carefully(record)

    def read_many(self, data: bytes, lengths: Sequence[int]) -> list[EncodedEvent] | None:
        """Return the events of consecutive records of these lengths, if all are of usual types.

        This is faster than to read one after the other. None means that it must be done, though.
        """
        parts = data[1:-1].split(_BOUNDARY)
        if len(parts) != len(lengths):  # a string has brackets
            return None
        prefixes = self._prefixes
        try:
            return [
                EncodedEvent(prefixes[kind], int(time), text)
                for time, kind, text in [part.split(b",", 2) for part in parts]
            ]
        except (KeyError, ValueError):
            return None

    def read_carefully(self, record: bytes) -> EncodedEvent:
        """Do the same for bytes that may be anything.

        Raises:
            RecordError: it is not a record.
        """
        match = _TIME.match(record)
        if match is None:
            raise RecordError("it doesn't begin with a time")
        kind, _, data = record[match.end() :].partition(b",")
        if (
            (prefix := self._prefixes.get(kind)) is not None
            and data.startswith(b"{")
            and data.endswith(b"}]")
            and _is_json(data[:-1])
        ):
            return EncodedEvent(prefix, int(match[1]), data[:-1])
        try:
            rest = msgspec.json.decode(b"[" + record[match.end() :], type=_Rest)
            kind, envelope = bytes(rest.kind), None
            if kind[:1] == b"[" and len(msgspec.json.decode(kind, type=list[msgspec.Raw])) > 1:
                prefix, envelope = _forwarded(kind)
            else:
                prefix = prefix_of_kind(kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RecordError(str(error)) from error
        data = record[match.end() :].partition(bytes(rest.kind))[2]
        text = data.strip()[1:-1].strip()
        if envelope is not None:
            return ForwardedEvent(prefix, int(match[1]), text, envelope)
        event = EncodedEvent(prefix, int(match[1]), text)
        if b"," not in kind:
            if len(self._prefixes) >= _MAX_TYPES:
                self._prefixes.clear()
            self._prefixes[kind] = event.prefix
        return event


def _forwarded(kind: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the prefix and the envelope of an event that came with some of it."""
    name, parts = msgspec.json.decode(kind, type=tuple[str, dict[str, msgspec.Raw]])
    context = parts.pop("context", None)
    envelope = {field: msgspec.json.decode(part) for field, part in parts.items()}
    return _prefix(name, None if context is None else bytes(context)), envelope
