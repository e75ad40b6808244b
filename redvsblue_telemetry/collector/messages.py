"""What a message says: its events, and what in it is none.

Pure: bytes in, values out. A message is an array of events, or one event a line; see the page on
the wire protocol. The data of an event is not looked into. It is kept as the text that it came as,
so what a game sends comes out again exactly, a number of fifty digits included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import msgspec

__all__ = ["Event", "Message", "Rejected", "read_message"]

_KEPT_BYTES = 1024  # of what is rejected
_NAMED = 100  # parts of one message that are rejected one by one; the others are summed up
_LEAST, _MOST = -(2**63), 2**63 - 1  # what SQLite calls an integer

_LONGEST = 1024  # characters of a name: they are kept in memory, unlike the data

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST)]


class Event(msgspec.Struct, rename="camel", gc=False):
    """An event, as it is stored."""

    session_id: Name
    seq: Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
    type: Name
    timestamp: Annotated[int, msgspec.Meta(ge=_LEAST, le=_MOST)]
    """When it happened, by the clock of the player's machine, in milliseconds since the epoch."""
    data: msgspec.Raw
    """Its fields, as the text of a JSON object."""
    id: Annotated[str, msgspec.Meta(max_length=_LONGEST)]
    version: Annotated[str, msgspec.Meta(max_length=_LONGEST)] | None = None


class Rejected(msgspec.Struct):
    """What came and is no event."""

    reason: str
    text: bytes
    """The first kilobyte of it."""


class Message(msgspec.Struct):
    """What one message brought."""

    events: list[Event]
    rejected: list[Rejected]


_read_array = msgspec.json.Decoder(list[Event]).decode
_read_lines = msgspec.json.Decoder(Event).decode_lines
_read_event = msgspec.json.Decoder(Event).decode
_read_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
# A string, or its beginning if it has no end; else what gives an array its structure.
_STRUCTURE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{},]', re.DOTALL)
_BRACE = ord("{")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_message(message: bytes | str) -> Message:
    """Read a message: its good events in their order, and beside them what is bad. Never raises."""
    try:
        body = message.encode() if isinstance(message, str) else message
    except UnicodeEncodeError:
        return _read_with_care(message.encode(errors="surrogatepass"))  # type: ignore[union-attr]
    try:
        events = _read_lines(body) if body[:1] == b"{" else _read_array(body)
    except _UNREADABLE:
        return _read_with_care(body)
    is_text = isinstance(message, str) or body.isascii() or _fault_in_text(body) is None
    # Each call of a function for each event would be felt here.
    without_object = [event for event in events if memoryview(event.data)[0] != _BRACE]
    if is_text and not without_object:
        return Message(events, [])
    return _read_with_care(body)


def _read_with_care(body: bytes) -> Message:
    message = Message([], [])
    unnamed: Rejected | None = None
    others = 0
    for part in _parts(body):
        found = part if isinstance(part, Rejected) else _read_one(part)
        if isinstance(found, Event):
            message.events.append(found)
        elif len(message.rejected) < _NAMED:
            message.rejected.append(found)
        else:
            unnamed, others = unnamed or found, others + 1
    if unnamed is not None:
        reason = f"{others} more in the same message, the first of which: {unnamed.reason}"
        message.rejected.append(Rejected(reason, unnamed.text))
    return message


def _parts(body: bytes) -> Iterator[bytes | Rejected]:
    """What may be events, one by one."""
    text = body.strip()
    if text.startswith(b"{"):
        yield from (line for line in text.split(b"\n") if line.strip())
    elif text.startswith(b"["):
        try:
            parts = _read_parts(text)
        except _UNREADABLE:  # by one of them, maybe; the others may be good
            yield from _split(text)
        else:
            yield from map(bytes, parts)
    else:
        yield _rejected(body, "it is neither an array nor lines of JSON objects")


def _split(array: bytes) -> Iterator[bytes | Rejected]:
    """The parts of an array, whatever is wrong within them."""
    depth = start = 0
    for token in _STRUCTURE.finditer(array):
        character = token[0]
        if character in (b"[", b"{"):
            depth += 1
            start = start or token.end()
        elif character in (b"]", b"}"):
            depth -= 1
        if depth == 0 or (depth == 1 and character == b","):
            part = array[start : token.start()].strip()
            if part or character == b",":
                yield part
            start = token.end()
        if depth == 0:
            break
    rest = array[start:].strip()
    if depth > 0:
        yield _rejected(rest, "the array has no end")
    elif rest:
        yield rest


def _read_one(part: bytes) -> Event | Rejected:
    if (fault := _fault_in_text(part)) is not None:
        return _rejected(part, fault)
    try:
        event = _read_event(part)
    except _UNREADABLE as error:
        return _rejected(part, str(error))
    if memoryview(event.data)[0] != _BRACE:
        return _rejected(part, "Expected `object` - at `$.data`")
    return event


def _fault_in_text(part: bytes) -> str | None:
    try:
        part.decode()
    except UnicodeDecodeError as error:
        return f"it is no UTF-8: {error.reason} at byte {error.start}"
    return None


def _rejected(text: bytes, reason: str) -> Rejected:
    return Rejected(reason, text[:_KEPT_BYTES])
