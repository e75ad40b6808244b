"""The stream: its subjects, its messages, and how to connect to its servers.

It is one stream of NATS JetStream. Each message is one client's message, compressed as it came, on
the subject of its partition. The partition follows from the session, so the order of a session's
messages is their order in the stream. All partitions share one sequence, so a sequence number is
the place of a message in the order of arrival of all of them.
"""

from __future__ import annotations

import ssl
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec
import nats
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from nats.aio.client import Client
    from nats.js import JetStreamContext

__all__ = [
    "ALL_SUBJECTS",
    "CHECK",
    "ENCODING",
    "FAULT",
    "MESSAGE_ID",
    "RECEIVED",
    "STREAM",
    "StreamMessage",
    "StreamOptions",
    "StreamState",
    "connect",
    "ensure_stream",
    "partition_of",
    "read_headers",
    "subject",
]

STREAM = "TELEMETRY"
"""The name of the stream."""
_PREFIX = "telemetry.messages"
ALL_SUBJECTS = f"{_PREFIX}.*"

MESSAGE_ID = "Nats-Msg-Id"
"""The header by which the stream drops a message that it has, within its duplicate window."""
RECEIVED = "Telemetry-Received"
"""The header with the time at which a gateway received the message, in ms since the epoch."""
ENCODING = "Telemetry-Encoding"
"""The header with the encoding of the message; absent for text."""
FAULT = "Telemetry-Fault"
"""The header of a message that is rejected as a whole, with the reason; its body is an excerpt."""
CHECK = "Telemetry-Check"
"""The header of a message that a check has sent: loaders leave it out."""

_DUPLICATE_WINDOW = 120.0  # seconds
_PARTITIONS = "partitions"
_IDENTITY = "identity"
_VERSION = "format"
_FORMAT = "1"


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the servers of the stream, and how it is made if it isn't there."""

    servers: tuple[str, ...]
    """Their URLs, such as ``nats://10.0.0.1:4222`` or ``tls://…``."""
    credentials: Path | None = None
    """The file with the credentials of an account."""
    ca: Path | None = None
    """The certificates that the servers' certificates are checked against, in PEM."""
    partitions: int = 16
    replicas: int | None = None
    """By default 3 where there are as many servers, otherwise 1."""
    max_bytes: int = -1
    """The most that the stream may take on each server; -1 leaves it to the servers' limit."""


class StreamState(msgspec.Struct, frozen=True):
    """The facts about a stream that its users have to agree on."""

    identity: str
    """Differs for a stream that was made anew: its sequence starts over."""
    partitions: int


class StreamMessage(msgspec.Struct, frozen=True):
    """A message of the stream."""

    partition: int
    sequence: int
    received: int
    """When a gateway received it, in milliseconds since the epoch."""
    body: bytes
    encoding: str | None = None
    fault: str | None = None
    is_check: bool = False


def partition_of(session_id: str, partitions: int) -> int:
    """Return the partition of a session: the same in each process and release."""
    return crc32(session_id.encode(errors="surrogatepass")) % partitions


def subject(partition: int) -> str:
    """Return the subject of a partition's messages."""
    return f"{_PREFIX}.{partition}"


def read_headers(
    sequence: int, message_subject: str, headers: Mapping[str, str] | None, body: bytes
) -> StreamMessage:
    """Return a message as a loader got it.

    Raises:
        ValueError: no gateway has written it.
    """
    headers = headers or {}
    return StreamMessage(
        partition=int(message_subject.rpartition(".")[2]),
        sequence=sequence,
        received=int(headers.get(RECEIVED, "")),
        body=body,
        encoding=headers.get(ENCODING),
        fault=headers.get(FAULT),
        is_check=CHECK in headers,
    )


async def connect(
    options: StreamOptions,
    name: str,
    *,
    on_disconnect: Callable[[], Awaitable[None]] | None = None,
    on_reconnect: Callable[[], Awaitable[None]] | None = None,
    on_error: Callable[[Exception], Awaitable[None]] | None = None,
) -> Client:
    """Return a connection to one of the servers, which reconnects to any of them forever.

    Args:
        options: the servers.
        name: that the servers show for this connection.
        on_disconnect: awaited when it is lost.
        on_reconnect: awaited when it is back.
        on_error: awaited with each error that no call raises.

    Raises:
        nats.errors.Error: no server could be reached.
        OSError: no server could be reached, or a file can't be read.
    """
    tls = None
    if options.ca is not None:
        tls = ssl.create_default_context(cafile=str(options.ca))
    return await nats.connect(
        list(options.servers),
        name=name,
        user_credentials=None if options.credentials is None else str(options.credentials),
        tls=tls,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
        error_cb=on_error,
        connect_timeout=2,
        reconnect_time_wait=0.25,
        max_reconnect_attempts=-1,
        ping_interval=2,  # with two of them unanswered, a server is given up
        max_outstanding_pings=2,
    )


async def ensure_stream(jetstream: JetStreamContext, options: StreamOptions) -> StreamState:
    """Make the stream, unless it is there; return what is true of it.

    Raises:
        nats.errors.Error: the servers can't make it, or don't answer.
        ValueError: a later release has made it.
    """
    replicas = options.replicas or (3 if len(options.servers) >= 3 else 1)
    config = StreamConfig(
        name=STREAM,
        subjects=[ALL_SUBJECTS],
        num_replicas=replicas,
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,  # a full stream refuses; it never drops what it acknowledged
        max_bytes=options.max_bytes,
        duplicate_window=_DUPLICATE_WINDOW,
        allow_direct=True,
        metadata={
            _VERSION: _FORMAT,
            _IDENTITY: uuid.uuid4().hex,
            _PARTITIONS: str(options.partitions),
        },
    )
    try:
        info = await jetstream.stream_info(STREAM)
    except NotFoundError:
        try:
            info = await jetstream.add_stream(config)
        except BadRequestError:  # another process was faster, and its identity is another one
            info = await jetstream.stream_info(STREAM)
    metadata = info.config.metadata or {}
    if metadata.get(_VERSION) != _FORMAT:
        raise ValueError(
            f"the stream {STREAM} has format {metadata.get(_VERSION)!r}, and this release knows "
            f"only {_FORMAT}"
        )
    return StreamState(metadata[_IDENTITY], int(metadata[_PARTITIONS]))
