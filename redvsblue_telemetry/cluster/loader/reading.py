"""Reads messages of the stream as a collector reads those of its clients. Pure."""

from __future__ import annotations

import msgspec

from ..._compression import ZSTD, CompressionError, supported, unpacker
from ..._report import Report
from ..._shared import encodable
from ...collector.messages import Event, Message, read_message, rejected_message
from ..stream import StreamMessage, partition_of

__all__ = ["Reader", "Received"]

# Gateways have lower limits, and messages that they have acknowledged must not be rejected here.
# This one is for messages of strangers.
_MOST_BYTES = 256 * 1024 * 1024
_MOST_OF_FAULT = 1000  # characters


class Received(msgspec.Struct):
    """A message of the stream, and what is in it."""

    partition: int
    sequence: int
    received: int
    """When a gateway received it, in milliseconds since the epoch."""
    message: Message
    size: int
    """The bytes of its text."""
    stored_at: int | None = None
    """When the stream stored it; see :class:`~..stream.StreamMessage`."""


class Reader:
    """Reads one message after the other.

    Args:
        partitions: of the stream.

    Raises:
        CompressionError: this Python can't unpack all that a gateway takes. The lake would get
            events that were acknowledged as rejected ones.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._unpackers = {encoding: unpacker(encoding) for encoding in supported()}
        if ZSTD not in self._unpackers:
            raise CompressionError(
                'loading needs backports.zstd: pip install "redvsblue-telemetry[cluster]"'
            )

    def read(self, packed: StreamMessage) -> Received:
        """Return the contents of a message. Never raises: what can't be read is rejected."""
        found = Received(
            packed.partition,
            packed.sequence,
            packed.received,
            Message([], []),
            0,
            packed.stored_at,
        )
        if packed.fault is not None:
            # A stranger's header may be long, and have what UTF-8 can't encode.
            fault = encodable(packed.fault[:_MOST_OF_FAULT])
            found.message = rejected_message(packed.body, fault)
        elif not packed.is_check:
            try:
                text = self._text(packed)
            except CompressionError as error:
                found.message = rejected_message(packed.body, f"compressed message: {error}")
            else:
                found.size = len(text)
                found.message = read_message(text)
        self._reject_misplaced(found)
        return found

    def _reject_misplaced(self, found: Received) -> None:
        """Reject the parts of sessions that belong to another partition.

        No gateway writes them. Another loader may have their numbers, and store them, too.
        """
        message = found.message
        parts: list[Event | Report] = [*message.events, *message.reports]
        known: dict[str, bool] = {}
        for session in {part.session_id for part in parts}:
            known[session] = partition_of(session, self._partitions) == found.partition
        if all(known.values()):
            return
        for part in parts:
            if not known[part.session_id]:
                reason = "no gateway has written it: its session belongs to another partition"
                text = msgspec.json.encode(part)
                message.rejected += rejected_message(text, reason).rejected
        message.events = [event for event in message.events if known[event.session_id]]
        message.reports = [report for report in message.reports if known[report.session_id]]

    def _text(self, packed: StreamMessage) -> bytes:
        if packed.encoding is None:
            return packed.body
        unpack = self._unpackers.get(packed.encoding)
        if unpack is None:
            raise CompressionError(f"the encoding {packed.encoding!r} is not known")
        return unpack(packed.body, _MOST_BYTES)
