"""The connection to the stream: made, and made again, for as long as it takes.

It knows nothing of clients. Each of its failures is a :class:`StreamError`, whose message is for
the log of an operator.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from ..stream import (
    StreamClient,
    StreamOptions,
    StreamState,
    connect,
    ensure_stream,
    renew_stream,
)

__all__ = ["FormatError", "Link", "StreamError"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_REQUEST_TIMEOUT = 2.0  # seconds
_MAX_UNSENT = 16 * 1024 * 1024  # bytes that wait for a server to read


class StreamError(Exception):
    """The stream can't be reached, or can't take a message now."""


class FormatError(StreamError):
    """A later release has made the stream: it will never take messages of this one."""


def _nothing() -> None:
    """Do nothing: the default of the callback."""


class Link:
    """A connection to the servers of the stream. Used on one event loop.

    It notices when the stream has lost messages. Sequence numbers only grow. So a new message whose
    number is not above all that were known before it was sent is in a stream that was made anew, or
    in one that has lost its end. The latter gets another identity, which everyone looks at.

    Args:
        options: the servers.
        name: that they show for this connection.
    """

    def __init__(self, options: StreamOptions, name: str) -> None:
        self._options = options
        self._name = name
        self._client: StreamClient | None = None
        self._jetstream: JetStreamContext | None = None  # of the client
        self._connecting: asyncio.Task[StreamClient] | None = None
        self._last_error = "no server has answered yet"
        self._listener: StreamClient | None = None  # the connection with the subscription
        self._renewing = asyncio.Lock()
        self._highest = 0  # of the sequence numbers that are known
        self.on_new_stream: Callable[[], object] = _nothing
        """Called when the stream isn't the one that it was: what was stored may be lost."""
        self.state: StreamState | None = None
        """What is true of the stream; None before it was reached."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to one of the servers."""
        return self._client is not None and self._client.is_connected

    @property
    def max_payload(self) -> int:
        """The most bytes of a message with its headers that the servers take."""
        assert self._client is not None
        return self._client.max_payload

    async def check(self) -> None:
        """Find out whether the stream can be used, and make it if it isn't there.

        Raises:
            StreamError: it can't be used.
        """
        client = await self._connected()
        with _translated():
            try:
                self._jetstream = client.jetstream(timeout=_REQUEST_TIMEOUT)
                self._take(await ensure_stream(self._jetstream, self._options))
            except ValueError as error:
                raise FormatError(str(error)) from error

    def note_number(self, number: int) -> None:
        """Note that a message of the stream, as it is now, has this sequence number."""
        self._highest = max(self._highest, number)

    async def publish(
        self, subject: str, body: bytes, headers: dict[str, str], timeout: float
    ) -> PubAck:
        """Publish a message, and wait until a quorum of the servers has stored it.

        Args:
            subject: its subject.
            body: its body.
            headers: its headers.
            timeout: seconds to wait for that.

        Raises:
            StreamError: it was perhaps not stored.
        """
        client, jetstream = self._client, self._jetstream
        if client is None or jetstream is None or not client.is_connected:
            raise self._not_connected()
        if client.pending_data_size > _MAX_UNSENT:
            raise StreamError("a server of the stream does not read what it is sent")
        state, highest = self.state, self._highest
        with _translated():
            ack = await jetstream.publish(subject, body, timeout, headers=headers)
        if ack.seq <= highest and not ack.duplicate:
            await self._renew(jetstream, state)
        if self.state is not state:
            raise StreamError("the stream is another one than before")
        self.note_number(ack.seq)
        return ack

    async def listen(self, subject: str, heard: Callable[[Msg], Awaitable[None]]) -> None:
        """Have a function called with each message of a subject from now on.

        Messages are missed while there is no connection. To be called now and then, since another
        connection may take the place of the one before.

        Raises:
            StreamError: there is no connection.
        """
        client = self._client
        if client is None or not client.is_connected:
            raise self._not_connected()
        if client is not self._listener:
            with _translated():
                await client.subscribe(subject, cb=heard)
            self._listener = client

    async def value(self, bucket: str, subject: str) -> bytes | None:
        """Return the newest value in a bucket of the key-value store; None if there is none.

        Raises:
            StreamError: the bucket can't be read.
        """
        client, jetstream = self._client, self._jetstream
        if client is None or jetstream is None or not client.is_connected:
            raise self._not_connected()
        with _translated():
            try:
                return (await jetstream.get_last_msg(f"KV_{bucket}", subject)).data
            except NotFoundError:
                return None

    async def close(self) -> None:
        """Close the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._client is not None:
            await self._client.close()

    async def _renew(self, jetstream: JetStreamContext, state: StreamState | None) -> None:
        """Give a stream that has lost messages another identity, which everyone looks at."""
        async with self._renewing:
            if state is not None and self.state is state:
                with _translated():
                    try:
                        self._take(await renew_stream(jetstream, state))
                    except ValueError as error:
                        raise FormatError(str(error)) from error

    def _take(self, state: StreamState) -> None:
        if state == self.state:
            return
        is_another = self.state is not None
        self.state = state
        if is_another:
            self._highest = 0
            logger.warning("the stream was made anew, or has lost messages; clients send again")
            self.on_new_stream()

    async def _connected(self) -> StreamClient:
        client = self._client
        # It is closed if the servers refused its credentials; other ones may be valid by now.
        if client is None or client.is_closed:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
            await asyncio.wait([self._connecting], timeout=_REQUEST_TIMEOUT)
            if not self._connecting.done():
                raise self._not_connected()
            connecting, self._connecting = self._connecting, None
            with _translated():
                client = self._client = connecting.result()
        if not client.is_connected:
            raise self._not_connected()
        return client

    async def _connect(self) -> StreamClient:
        return await connect(
            self._options,
            self._name,
            role="gateway",
            on_error=self._note_error,
            buffers=False,
        )

    async def _note_error(self, error: Exception) -> None:
        self._last_error = _described(error)

    def _not_connected(self) -> StreamError:
        servers = ", ".join(self._options.addresses)
        return StreamError(f"not connected to the stream at {servers}: {self._last_error}")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise each failure as a StreamError."""
    try:
        yield
    except (nats.errors.Error, OSError, asyncio.TimeoutError) as error:
        raise StreamError(_described(error)) from error


def _described(error: Exception) -> str:
    if isinstance(error, NoStreamResponseError):
        return "the stream has no leader now"
    if isinstance(error, APIError):
        return f"the stream refuses messages: {error.description}"
    if isinstance(error, (asyncio.TimeoutError, nats.errors.TimeoutError)):
        return "the stream does not answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).removeprefix("nats: ") or type(error).__name__
