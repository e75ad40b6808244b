"""From the message of a client to the messages of the stream.

Pure: values in, values out. A message of one session goes as it came, compressed or not. The stream
keeps the order of a session, so a message with several sessions becomes one for each of them. The
loader reads a message as the collector does, so its parts that are rejected go along; only those of
a message with several sessions go by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from urllib.parse import quote
from zlib import crc32

import msgspec

from ..._report import Report, encode_report
from ..._shared import escape
from ...collector.messages import Event, Message, Rejected
from ...collector.storing import Body, MessageTooLargeError
from ..stream import CHECK, ENCODING, FAULT, MESSAGE_ID, RECEIVED, Ranges, partition_of

__all__ = ["Part", "split"]

_MAX_SESSIONS = 100  # of one message; those of the SDK have one
_MAX_ID_CHARACTERS = 100  # of a session, in the id of a message
_MAX_FAULT_CHARACTERS = 500
_HEADER_LINE = len("NATS/1.0\r\n\r\n")
_PER_HEADER = len(": \r\n")

_encode = msgspec.json.Encoder().encode


class Part(msgspec.Struct, gc=False):
    """A message of the stream, on its way there."""

    session: str | None
    """Whose order it belongs to; None if no other message has to wait for it."""
    body: bytes
    headers: dict[str, str]
    numbers: Ranges = []
    """Those of its events."""
    events: int = 0
    crashes: int = 0
    rejected: int = 0

    @property
    def id(self) -> str:
        """By which the stream recognizes it if it comes again."""
        return self.headers[MESSAGE_ID]

    @property
    def wire_bytes(self) -> int:
        """Its size for the servers, with the headers."""
        headers = self.headers.items()
        return (
            len(self.body)
            + _HEADER_LINE
            + sum(len(name) + len(value.encode()) + _PER_HEADER for name, value in headers)
        )

    def partition(self, partitions: int) -> int:
        """Return the partition that it belongs to."""
        if self.session is None:
            return crc32(self.body) % partitions
        return partition_of(self.session, partitions)


def split(
    message: Message, body: Body | None, received: int, *, is_check: bool, salt: bytes = b""
) -> list[Part]:
    """Return the messages of the stream that have the contents of a client's message.

    Args:
        message: its contents.
        body: the message as it came; None if it can't be unpacked.
        received: when it came, in milliseconds since the epoch.
        is_check: whether it is part of a check.
        salt: the same message has other ids with another salt. At most 16 bytes.

    Raises:
        MessageTooLargeError: it has too many sessions. Each would be stored by itself, with a sync
            of its own, so one message could keep all other clients waiting for minutes.
    """
    headers = {RECEIVED: str(received)}
    if is_check:
        headers[CHECK] = "1"
    if body is None:
        return _faults(message.rejected, headers, b"", salt)
    sessions: dict[str, tuple[list[Event], list[Report]]] = {}
    for event in message.events:
        sessions.setdefault(event.session_id, ([], []))[0].append(event)
    for report in message.reports:
        sessions.setdefault(report.session_id, ([], []))[1].append(report)
    if len(sessions) > _MAX_SESSIONS:
        raise MessageTooLargeError(f"a message may be about {_MAX_SESSIONS} sessions at most")
    if len(sessions) <= 1:
        if not (sessions or message.rejected):
            return []  # an empty message: nothing has to be stored
        if body.encoding is not None:
            headers[ENCODING] = body.encoding
        session = next(iter(sessions), None)
        rejected = len(message.rejected) + message.unrecorded
        part = _part(session, body.packed, headers, salt, message.events, message.reports)
        part.rejected = rejected
        return [part]
    parts = []
    for session, (events, reports) in sessions.items():
        if events:
            parts.append(_part(session, _encode(events), headers, salt, events, []))
        if reports:
            text = b"".join(encode_report(report) + b"\n" for report in reports)
            parts.append(_part(session, text, headers, salt, [], reports))
    return parts + _faults(message.rejected, headers, body.packed, salt)


def _part(
    session: str | None,
    body: bytes,
    headers: dict[str, str],
    salt: bytes,
    events: list[Event],
    reports: list[Report],
) -> Part:
    numbers = "x"
    if events:
        numbers = f"{events[0].seq}-{events[-1].seq}"
    elif reports:
        numbers = f"r{reports[0].number}"
    return Part(
        session,
        body,
        {**headers, MESSAGE_ID: _id(session or "", numbers, body, salt)},
        _ranges([event.seq for event in events]),
        len(events),
        sum(event.type == "crash" for event in events),
    )


def _ranges(numbers: list[int]) -> Ranges:
    if not numbers:
        return []
    # Nearly always; but two numbers of a stranger may have a trillion others between them.
    if numbers[-1] - numbers[0] == len(numbers) - 1 and numbers == [
        *range(numbers[0], numbers[-1] + 1)
    ]:
        return [(numbers[0], numbers[-1])]
    ranges: Ranges = []
    for number in sorted({*numbers}):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = ranges[-1][0], number
        else:
            ranges.append((number, number))
    return ranges


def _faults(
    rejected: Iterable[Rejected], headers: dict[str, str], body: bytes, salt: bytes
) -> list[Part]:
    return [
        Part(
            None,
            each.text,
            {
                **headers,
                FAULT: _one_line(each.reason)[:_MAX_FAULT_CHARACTERS],
                # Two parts with the same text are two.
                MESSAGE_ID: _id("", f"x{number}", body + each.text, salt),
            },
            rejected=1,
        )
        for number, each in enumerate(rejected)
    ]


def _id(session: str, numbers: str, body: bytes, salt: bytes) -> str:
    """Return the id of a message.

    The numbers alone would not do: a client that was refused sends them again in smaller messages,
    and another client can claim the same session.
    """
    shown = quote(session, safe="", errors="surrogatepass")[:_MAX_ID_CHARACTERS]
    return f"{shown}:{numbers}:{blake2b(body, digest_size=8, salt=salt).hexdigest()}"


def _one_line(text: str) -> str:
    return escape(text).encode("ascii", "backslashreplace").decode()
