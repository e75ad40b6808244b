"""The report: what a client sends to its server about a session as a whole.

It says how the session stands, how it ended, and which events will not come, and why. A client
sends it as a text message of its own, a JSON object with the single key ``report``. The SDK writes
it and the collector reads it, so both import this. See the page on the wire protocol.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ._shared import LARGEST_INTEGER, MAX_NAME_LENGTH, SMALLEST_INTEGER

__all__ = ["MAX_GAPS", "Reason", "Report", "State", "decode_report", "encode_report"]

MAX_GAPS = 1000
"""The most runs of dropped numbers in one report of this SDK."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INTEGER)]
_Time = Annotated[int, msgspec.Meta(ge=SMALLEST_INTEGER, le=LARGEST_INTEGER)]


class State:
    """The states of a session."""

    RUNNING = "running"
    ENDED = "ended"


class Reason:
    """The ways in which a session ends."""

    STOPPED = "stopped"
    """The game called ``stop``."""
    EXIT = "exit"
    """The interpreter exited."""
    CRASHED = "crashed"
    """An uncaught exception ended the game."""
    SWITCHED_OFF = "switched_off"
    """The player switched telemetry off."""
    KILLED = "killed"
    """The process ended without a word. The next start found its journal and reports it."""


class Report(msgspec.Struct, rename="camel", kw_only=True):
    """The state of one session, at one moment. Each replaces the one before it.

    Of two reports, the one with the later ``started_at`` is the newer one, then the one with the
    higher ``number``.
    """

    session_id: _Name
    number: _Number
    """Counts the reports of a session, from 1."""
    state: _Word
    """See :class:`State`."""
    reason: _Word | msgspec.UnsetType = msgspec.UNSET
    """How it ended; see :class:`Reason`. Absent while it runs."""
    started_at: _Time = 0
    """When the session began, in milliseconds since the epoch, by the player's clock."""
    at: _Time = 0
    """When this was written, by the same clock. In the report of a killed session: when it was
    last known to be alive."""
    last_seq: _Number = 0
    """The highest number that an event of this session has."""
    emitted: _Number = 0
    delivered: _Number = 0
    buffered: _Number = 0
    """Events that are neither delivered nor dropped: they wait on the player's machine."""
    rejected: _Number = 0
    dropped: dict[_Word, _Number] = {}
    """Events that will not come, by reason."""
    sampled: dict[_Name, _Number] = {}
    """Events left out by sampling and rate limits, by type. They have no numbers."""
    gaps: list[tuple[_Number, _Number, _Word]] = []
    """The numbers that will not come, as runs in ascending order: first, last, and the reason. A
    run may span numbers that did come."""
    reconnects: _Number = 0
    sdk: str = ""
    """The version of the SDK."""
    version: Annotated[str, msgspec.Meta(max_length=MAX_NAME_LENGTH)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    """The version of the game's build."""


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    report: Report


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Message).decode


def encode_report(report: Report, most_bytes: int | None = None) -> bytes:
    """Return the message that holds a report.

    Args:
        report: the report.
        most_bytes: the limit of the message, in bytes. Beyond it, the oldest gaps are left out.
    """
    message = _encode(_Message(report))
    gaps = report.gaps
    while most_bytes is not None and len(message) > most_bytes and gaps:
        gaps = gaps[len(gaps) // 2 + 1 :]
        message = _encode(_Message(msgspec.structs.replace(report, gaps=gaps)))
    return message


def decode_report(message: bytes | str) -> Report:
    """Return the report in a message.

    Raises:
        msgspec.MsgspecError: the message is not a report.
    """
    return _decode(message).report
