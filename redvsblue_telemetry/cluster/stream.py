"""The stream: its subjects, its messages, and how to connect to its servers.

It is one stream of NATS JetStream. Each message is one client's message, compressed as it came, on
the subject of its partition. The partition follows from the session, so the order of a session's
messages is their order in the stream. All partitions share one sequence, so a sequence number is
the place of a message in the order of arrival of all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit
from zlib import crc32

import msgspec
import nats.errors
from nats.aio.client import DEFAULT_PENDING_SIZE, Client
from nats.aio.transport import TcpTransport
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError, NotFoundError

from .tasks import end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from nats.js import JetStreamContext
    from nats.js.api import StreamInfo

__all__ = [
    "ALL_SUBJECTS",
    "CHECK",
    "ENCODING",
    "FAULT",
    "INBOX",
    "MESSAGE_ID",
    "RECEIVED",
    "STREAM",
    "Answer",
    "Inquiry",
    "Ranges",
    "Role",
    "StreamClient",
    "StreamHealth",
    "StreamMessage",
    "StreamOptions",
    "StreamState",
    "archive_subject",
    "connect",
    "connect_within",
    "ensure_stream",
    "ensured_info",
    "health_of",
    "partition_of",
    "read_headers",
    "state_of",
    "subject",
]

Role = Literal["gateway", "loader"]
"""Who connects."""

STREAM = "TELEMETRY"
"""The name of the stream."""
_PREFIX = "telemetry.messages"
ALL_SUBJECTS = f"{_PREFIX}.*"

Ranges = list[tuple[int, int]]
"""Numbers, as the first and the last one of each range, in ascending order."""

MESSAGE_ID = "Nats-Msg-Id"
"""The header by which the stream drops a message that it has, within its duplicate window."""
RECEIVED = "Telemetry-Received"
"""The header with the time at which a gateway received the message, in ms since the epoch."""
ENCODING = "Telemetry-Encoding"
"""The header with the encoding of the message; absent for text."""
FAULT = "Telemetry-Fault"
"""The header of a message that is rejected as a whole, with the reason; its body is an excerpt."""
INBOX = "_INBOX"
"""The beginning of the subjects that answers come to; the one that all accounts may use."""
CHECK = "Telemetry-Check"
"""The header of a message that a check has sent: loaders leave it out."""

_DUPLICATE_WINDOW = 120.0  # seconds
_CLOSE_TIMEOUT = 2.0  # seconds
_SCHEMES = ("nats", "tls")
_CREDENTIALS = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")
_LATEST = 253_402_300_799_999  # the last millisecond of the year 9999
_PARTITIONS = "partitions"
_IDENTITY = "identity"
_VERSION = "format"
_FORMAT = "1"


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the servers of the stream, and how it is made if it isn't there."""

    servers: tuple[str, ...]
    """Their URLs, such as ``nats://10.0.0.1:4222`` or ``tls://…``; perhaps with a user and a
    password, ``tls://user:password@…``, the same for all of them."""
    credentials: Path | None = None
    """The file with the credentials of an account."""
    ca: Path | None = None
    """The certificates that the servers' certificates are checked against, in PEM."""
    partitions: int = 16
    """Of a stream that is made; an existing one keeps its own."""
    replicas: int | None = None
    """By default 3 where there are as many servers, otherwise 1."""
    max_bytes: int = -1
    """The most that the stream may take on each server; -1 leaves it to the servers' limit."""

    @property
    def replica_count(self) -> int:
        """The replicas of what is made."""
        return self.replicas or (3 if len(self.servers) >= 3 else 1)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The host and port of each server, without the password that a URL may have."""
        return tuple(urlsplit(server).netloc.rpartition("@")[2] for server in self.servers)

    @property
    def must_use_tls(self) -> bool:
        """Whether no server may be spoken to without TLS."""
        return self.ca is not None or any(urlsplit(each).scheme == "tls" for each in self.servers)

    @property
    def login(self) -> tuple[str, str] | None:
        """The user and the password in the URLs; None if they have none.

        Raises:
            ValueError: the URLs have different ones, or a user without a password.
        """
        parts = [urlsplit(server) for server in self.servers]
        found = {(each.username, each.password) for each in parts if "@" in each.netloc}
        if not found:
            return None
        if len(found) > 1:
            raise ValueError("the servers of the stream have different users or passwords")
        user, password = found.pop()
        if not user or not password:
            raise ValueError("a user of the stream needs a password, as in nats://user:password@…")
        return unquote(user), unquote(password)

    def check(self) -> None:
        """Check that these options can be used.

        Raises:
            ValueError: they can't.
        """
        if not self.servers:
            raise ValueError("no server of the stream is named")
        for server in self.servers:
            _check_server(server)
        if self.login is not None and self.credentials is not None:
            raise ValueError("either the URLs of the stream have a user, or a file has credentials")
        if self.partitions < 1:
            raise ValueError(f"partitions is {self.partitions}; it must be at least 1")
        if self.credentials is not None:
            _check_credentials(self.credentials)
        if self.ca is not None:
            _tls_context(self.ca)


class StreamState(msgspec.Struct, frozen=True):
    """The facts about a stream that its users have to agree on."""

    identity: str
    """Differs for a stream that was made anew: its sequence starts over."""
    partitions: int


class StreamHealth(msgspec.Struct, frozen=True):
    """How the servers of the stream stand, as its leader knows."""

    copies: int
    """Servers that have all of it. One that is some messages behind at this moment is none."""
    replicas: int
    """Servers that should have it."""
    size: int
    """In bytes, on each of them."""


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
    stored_at: int | None = None
    """When the stream stored it, in nanoseconds since the epoch; None if that isn't known. No other
    message with its number has the same time."""


def partition_of(session_id: str, partitions: int) -> int:
    """Return the partition of a session: the same in each process and release."""
    return crc32(session_id.encode(errors="surrogatepass")) % partitions


def subject(partition: int) -> str:
    """Return the subject of a partition's messages."""
    return f"{_PREFIX}.{partition}"


class Inquiry(msgspec.Struct, frozen=True):
    """A gateway's question to the loader of a partition: which events are in the lake?"""

    identity: str
    """Of the stream that the gateway knows."""
    sessions: dict[str, int]
    """The lowest number that it asks about, of each session."""


class Answer(msgspec.Struct, frozen=True):
    """The loader's answer. All of it is true of one moment."""

    sequence: int
    """Of the last message of the partition that is in the lake."""
    is_all: bool
    """Whether the stream seemed to have no others of the partition."""
    numbers: dict[str, Ranges]
    """The numbers of each session of the inquiry that are in the lake, from that lowest one on.
    They may go on after the last one of very many ranges."""


def archive_subject(partition: int) -> str:
    """Return the subject of the inquiries about a partition, which its loader answers."""
    return f"telemetry.archive.{partition}"


def read_headers(
    sequence: int, message_subject: str, headers: Mapping[str, str] | None, body: bytes
) -> StreamMessage:
    """Return a message as a loader got it.

    Raises:
        ValueError: no gateway has written it.
    """
    headers = headers or {}
    received = int(headers.get(RECEIVED, ""))
    if not 0 <= received <= _LATEST:
        raise ValueError(f"{RECEIVED} is {received}; it must be a time in milliseconds")
    return StreamMessage(
        partition=int(message_subject.rpartition(".")[2]),
        sequence=sequence,
        received=received,
        body=body,
        encoding=headers.get(ENCODING),
        fault=headers.get(FAULT),
        is_check=CHECK in headers,
    )


def _check_server(url: str) -> None:
    """Raise ValueError if a URL can't be used, with a message that has nothing of its password."""
    hint = "; in a password, characters such as @ / , are percent-encoded"
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"one of the URLs of the stream can't be read{hint}") from None
    if url.count("@") > parts.netloc.count("@"):
        raise ValueError(f"one of the URLs of the stream has an @ in its path{hint}")
    host = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme}://{host}"
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(
            f"{shown!r} is not the URL of a server of the stream, such as nats://10.0.0.1:4222 or "
            "tls://stream-1.example:4222"
        )
    try:
        parts.port  # noqa: B018 (it raises)
    except ValueError:
        # Without an @, it may be the beginning of a password, up to a comma.
        shown = shown if "@" in url else f"{parts.scheme}://{parts.hostname}:…"
        raise ValueError(f"{shown!r} has no valid port{hint}") from None


def _check_credentials(path: Path) -> None:
    """Check that a file has credentials: nats-py would look for them forever."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    if not all(marker in content for marker in _CREDENTIALS):
        raise ValueError(f"{path} has no credentials, as `nsc generate creds` writes them")


def _tls_context(path: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(path))
    except OSError as error:  # also each ssl.SSLError
        reason = getattr(error, "reason", None) or error.strerror or error
        raise ValueError(f"cannot read certificates from {path}: {reason}") from error


class StreamClient(Client):
    """nats-py's client, which also gives up a server that reads nothing.

    nats-py reconnects, or closes, only when the server has read all bytes that were written: never,
    if its process is stopped or its machine has gone. Nor does it close the socket of an attempt
    that such a server doesn't answer.
    """

    must_use_tls = False
    """Whether it speaks to no server without TLS. nats-py leaves that to the server, or to an
    attacker in its place, and sends the password in plain text."""

    def _connect_command(self) -> bytes:
        if self.must_use_tls and not self._server_info.get("tls_required"):
            raise nats.errors.Error("the server does not speak TLS, as tls:// and a CA demand")
        return super()._connect_command()

    async def leave_server(self) -> None:
        """Connect to another server, because this one may be cut off from the others.

        Such a server answers pings, so nothing else would make this client leave it.
        """
        if self.is_connected:
            await self._process_op_err(nats.errors.StaleConnectionError())

    async def _process_op_err(self, e: Exception) -> None:
        if self.is_connected:
            self._abort()
        await super()._process_op_err(e)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except BaseException:
            self._abort()
            raise

    async def close(self) -> None:
        """Close the connection, and wait no longer than two seconds for that."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(super().close(), _CLOSE_TIMEOUT)
        self._abort()

    def _abort(self) -> None:
        if isinstance(self._transport, TcpTransport) and self._transport._io_writer is not None:
            self._transport._io_writer.transport.abort()


def _is_of_use(record: logging.LogRecord) -> bool:
    """Return whether asyncio's log should have a record.

    nats-py begins TLS on connections that asyncio's streams take for plain ones, so each end of one
    would be worth a warning.
    """
    return not record.getMessage().startswith("returning true from eof_received()")


async def connect(
    options: StreamOptions,
    name: str,
    *,
    role: Role | None = None,
    on_disconnect: Callable[[], Awaitable[None]] | None = None,
    on_reconnect: Callable[[], Awaitable[None]] | None = None,
    on_error: Callable[[Exception], Awaitable[None]] | None = None,
    buffers: bool = True,
) -> StreamClient:
    """Return a connection to one of the servers, which reconnects to any of them forever.

    It waits until one can be reached, for as long as that takes.

    Args:
        options: the servers.
        name: that the servers show for this connection.
        role: of this process. Answers come to ``_INBOX.<role>.…``, so the servers can keep the
            user of one role from reading the answers to another.
        on_disconnect: awaited when it is lost.
        on_reconnect: awaited when it is back.
        on_error: awaited with each error that no call raises.
        buffers: whether it keeps some of the bytes sent while it is lost. Otherwise sending raises
            an error then.

    Raises:
        ValueError: the options can't be used.
    """
    options.check()
    logging.getLogger("asyncio").addFilter(_is_of_use)
    client = StreamClient()
    client.must_use_tls = options.must_use_tls
    # nats-py takes the login from the URL that it connects to, as it is there: still encoded, and
    # missing for a server that only the other servers have named.
    user, password = options.login or (None, None)
    servers = [*options.servers]
    random.shuffle(servers)
    await client.connect(
        servers,
        name=name,
        user=user,
        password=password,
        inbox_prefix=INBOX if role is None else f"{INBOX}.{role}",
        user_credentials=None if options.credentials is None else str(options.credentials),
        tls=None if options.ca is None else _tls_context(options.ca),
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
        error_cb=on_error,
        connect_timeout=1.5,  # type: ignore[arg-type]  # it is waited
        reconnect_time_wait=0.25,  # type: ignore[arg-type]  # it is slept
        max_reconnect_attempts=-1,
        dont_randomize=True,  # it would as likely choose the server that it has just left
        ping_interval=1,  # with two of them unanswered, a server is given up
        max_outstanding_pings=2,
        pending_size=DEFAULT_PENDING_SIZE if buffers else 0,
    )
    return client


async def connect_within(
    options: StreamOptions, name: str, seconds: float, *, role: Role | None = None
) -> StreamClient:
    """Return a connection as :func:`connect` does, but wait no longer than that.

    Raises:
        ConnectionError: no server could be reached in time.
        ValueError: the options can't be used.
    """
    errors: dict[str, None] = {}

    async def note(error: Exception) -> None:
        errors[str(error)] = None

    connecting = asyncio.create_task(connect(options, name, role=role, on_error=note))
    try:
        done, _ = await asyncio.wait([connecting], timeout=seconds)
    finally:
        if not connecting.done():
            await end(connecting)
    if done:
        return connecting.result()
    raise ConnectionError(
        f"the stream can't be reached: {'; '.join(errors) or 'no server answers'}"
    )


async def ensure_stream(jetstream: JetStreamContext, options: StreamOptions) -> StreamState:
    """Make the stream, unless it is there; return its state.

    Raises:
        nats.errors.Error: the servers can't make it, or don't answer.
        ValueError: a later release has made it.
    """
    return state_of(await ensured_info(jetstream, options))


async def ensured_info(jetstream: JetStreamContext, options: StreamOptions) -> StreamInfo:
    """Make the stream, unless it is there; return all that its leader says of it.

    Raises:
        nats.errors.Error: the servers can't make it, or don't answer.
    """
    config = StreamConfig(
        name=STREAM,
        subjects=[ALL_SUBJECTS],
        num_replicas=options.replica_count,
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
        return await jetstream.stream_info(STREAM)
    except NotFoundError:
        try:
            return await jetstream.add_stream(config)
        except BadRequestError:  # another process was faster, and its identity is another one
            return await jetstream.stream_info(STREAM)


def health_of(info: StreamInfo) -> StreamHealth:
    """Return how the stream's servers stand."""
    others = (info.cluster and info.cluster.replicas) or []
    copies = 1 + sum(bool(each.current and not each.offline) for each in others)
    return StreamHealth(copies, info.config.num_replicas or 1, info.state.bytes)


def state_of(info: StreamInfo) -> StreamState:
    """Return the state of the stream.

    Raises:
        ValueError: a later release has made it.
    """
    metadata = info.config.metadata or {}
    if metadata.get(_VERSION) != _FORMAT:
        raise ValueError(
            f"the stream {STREAM} has format {metadata.get(_VERSION)!r}, and this release knows "
            f"only {_FORMAT}"
        )
    return StreamState(metadata[_IDENTITY], int(metadata[_PARTITIONS]))
