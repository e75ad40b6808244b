"""Reads messages: the events and the report in them, and the parts that are neither.

Pure: bytes in, values out. A message is a JSON array of events, one event per line, or a report;
see the page on the wire protocol. The data of an event is not decoded. It is kept as the text that
was sent, so a game gets back exactly what it sent, including a number of fifty digits.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from typing import Annotated

import msgspec

from .._report import Report, decode_report
from .._shared import LARGEST_INTEGER, MAX_NAME_LENGTH, SMALLEST_INTEGER

__all__ = ["Event", "Message", "Rejected", "read_message", "rejected_message"]

_MAX_EXCERPT_BYTES = 1024  # of a rejected part
_MAX_REJECTED_PER_MESSAGE = 100  # parts with a record each; the rest share one
_MIN_PART_BYTES = len('{"report":{"sessionId":"s","number":1,"state":"s"}}')  # an event has more

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_LENGTH)]


class Event(msgspec.Struct, rename="camel", gc=False):
    """An event as a client sends it."""

    session_id: Name
    seq: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INTEGER)]
    type: Name
    timestamp: Annotated[int, msgspec.Meta(ge=SMALLEST_INTEGER, le=LARGEST_INTEGER)]
    """When it happened, by the clock of the player's machine, in milliseconds since the epoch."""
    data: msgspec.Raw
    """Its fields, as the text of a JSON object."""
    id: Annotated[str, msgspec.Meta(max_length=MAX_NAME_LENGTH)]
    version: Annotated[str, msgspec.Meta(max_length=MAX_NAME_LENGTH)] | None = None
    context: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """Its context, as JSON text. Any value is allowed: only an object is a context, but clients may
    have sent fields of this name before it had a meaning."""


class Rejected(msgspec.Struct):
    """A message, or a part of one, that is not a valid event or report."""

    reason: str
    text: bytes
    """Its first kilobyte."""


class Message(msgspec.Struct):
    """The contents of one message."""

    events: list[Event]
    rejected: list[Rejected]
    reports: list[Report] = []
    unrecorded: int = 0
    """Rejected parts that share the last record, not counting the first of them."""

    @property
    def parts(self) -> int:
        """The number of parts. An empty message costs as much as a part, so it counts as one."""
        recorded = len(self.events) + len(self.rejected) + len(self.reports)
        return max(1, recorded + self.unrecorded)


_read_array = msgspec.json.Decoder(list[Event]).decode
_read_lines = msgspec.json.Decoder(Event).decode_lines
_read_event = msgspec.json.Decoder(Event).decode
_read_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_starts_like_report = re.compile(rb'\s*\{\s*"report"\s*:').match
_BRACE = ord("{")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_message(message: bytes | str) -> Message:
    """Return the valid events and reports of a message, and the rest as rejected. Never raises.

    An array that is not valid JSON is rejected as a whole, and so is a line that is not. A byte
    order mark in front of the message is skipped, as RFC 8259, section 8.1, permits.
    """
    body = message.encode(errors="surrogatepass") if isinstance(message, str) else message
    if body.startswith(BOM_UTF8):
        body = body[len(BOM_UTF8) :]
    try:
        events = _read_lines(body) if body[:1] == b"{" else _read_array(body)
    except _UNREADABLE:
        return _read_each_part(body)
    is_text = body.isascii() or _utf8_fault(body) is None
    # A list comprehension, because one function call per event would be measurable here.
    without_object = [event for event in events if memoryview(event.data)[0] != _BRACE]
    if is_text and not without_object:
        return Message(events, [])
    return _read_each_part(body)


def rejected_message(message: bytes, reason: str) -> Message:
    """Return a message that is rejected as a whole."""
    return Message([], [_rejected(message, reason)])


def _read_each_part(body: bytes) -> Message:
    """Read a message that has an invalid part. Slower than to read it in one call."""
    if _starts_like_report(body) and isinstance(report := _read_report(body), Report):
        return Message([], [], [report])  # it may have more than one line
    parts = _split(body)
    if isinstance(parts, Rejected):
        return Message([], [parts])
    message = Message([], [])
    first_unrecorded: Rejected | None = None
    unrecorded = 0
    for part in parts:
        if unrecorded and len(part) < _MIN_PART_BYTES:
            # An error for each of 500,000 parts would hold the event loop for seconds.
            unrecorded += 1
            continue
        # The parts of an array are Raw: only a line can be a report.
        is_report = isinstance(part, bytes) and _starts_like_report(part)
        found = _read_one(bytes(part), or_report=bool(is_report))
        if isinstance(found, Event):
            message.events.append(found)
        elif isinstance(found, Report):
            message.reports.append(found)
        elif len(message.rejected) < _MAX_REJECTED_PER_MESSAGE:
            message.rejected.append(found)
        else:
            first_unrecorded, unrecorded = first_unrecorded or found, unrecorded + 1
    if first_unrecorded is not None:
        reason = f"{unrecorded} more in the same message; the first: {first_unrecorded.reason}"
        message.rejected.append(Rejected(reason, first_unrecorded.text))
        message.unrecorded = unrecorded - 1
    return message


def _split(body: bytes) -> list[bytes] | list[msgspec.Raw] | Rejected:
    """Return the parts that should be events, or the whole message as rejected."""
    text = body.strip()
    if text.startswith(b"{"):
        return [line for line in text.split(b"\n") if line.strip()]
    if not text.startswith(b"["):
        return _rejected(body, "must be a JSON array of events, or one JSON object per line")
    try:
        return _read_parts(text)
    except _UNREADABLE as error:
        return _rejected(body, f"the array is not valid JSON: {error}")


def _read_one(part: bytes, *, or_report: bool) -> Event | Report | Rejected:
    if (fault := _utf8_fault(part)) is not None:
        return _rejected(part, fault)
    try:
        event = _read_event(part)
    except _UNREADABLE as error:
        return _read_report(part) if or_report else _rejected(part, str(error))
    if memoryview(event.data)[0] != _BRACE:
        return _rejected(part, "Expected `object` - at `$.data`")
    return event


def _read_report(part: bytes) -> Report | Rejected:
    try:
        return decode_report(part)
    except _UNREADABLE as error:
        return _rejected(part, str(error))


def _utf8_fault(part: bytes) -> str | None:
    try:
        part.decode()
    except UnicodeDecodeError as error:
        return f"not valid UTF-8: {error.reason} at byte {error.start}"
    return None


def _rejected(text: bytes, reason: str) -> Rejected:
    return Rejected(reason, text[:_MAX_EXCERPT_BYTES])
