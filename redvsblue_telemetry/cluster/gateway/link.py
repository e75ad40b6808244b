"""The connection to the stream: made, and made again, for as long as it takes.

It knows nothing of clients. Each of its failures is a :class:`StreamError`, whose message is for
the log of an operator.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from hashlib import blake2b

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import APIError, NoStreamResponseError

from ..stream import StreamClient, StreamOptions, StreamState, connect, ensure_stream
from ..tasks import end

__all__ = ["FormatError", "Link", "SilenceError", "StreamError"]

logger = logging.getLogger("redvsblue_telemetry.collector")

# The leader's answer when it has a message that no quorum has stored yet: it may be cut off.
_IN_PROCESS = 10158
_REQUEST_TIMEOUT = 2.0  # seconds
_MAX_ERRORS = 4  # that are kept
_MAX_UNSENT = 16 * 1024 * 1024  # bytes that wait for a server to read


class StreamError(Exception):
    """The stream can't be reached, or can't take a message now."""


class SilenceError(StreamError):
    """No server has said that it stores a message, or that it doesn't: the leader was not heard."""


class FormatError(StreamError):
    """A later release has made the stream: it will never take messages of this one."""


def _nothing() -> None:
    """Do nothing: the default of the callback."""


class Link:
    """A connection to the servers of the stream. Used on one event loop.

    It notices when the stream was made anew, and soon when it has lost its end. Sequence numbers
    only grow, so a new message whose number is not above all that were known before it was sent is
    in a stream without some of these.

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
        # The latest different ones since there was a connection: servers can have several reasons.
        self._errors: dict[str, None] = {}
        self._losses = 0  # that were noticed
        self._highest = 0  # of the sequence numbers that are known since the last one
        self.on_loss: Callable[[], object] = _nothing
        """Called when stored messages may be lost."""
        self.salt = b""
        """Of the ids of messages. It changes with each loss, since the servers may still drop a
        message as a repeat although they have lost it."""
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
        losses, highest = self._losses, self._highest
        with _translated():
            ack = await jetstream.publish(subject, body, timeout, headers=headers)
        if self._losses == losses and ack.seq <= highest and not ack.duplicate:
            self._note_loss()
        if self._losses != losses:
            raise StreamError("the stream is another one than before")
        self._highest = max(self._highest, ack.seq)
        return ack

    def change_salt(self) -> None:
        """Have the servers take messages that they seem to have, and have lost."""
        self.salt = os.urandom(blake2b.SALT_SIZE)

    async def leave_server(self) -> None:
        """Connect to another server, because this one may be cut off from the others."""
        if self._client is not None:
            await self._client.leave_server()

    async def ask(self, subject: str, inquiry: bytes) -> bytes:
        """Return the answer of the subscriber of a subject.

        Raises:
            StreamError: there is no answer now.
        """
        client = self._client
        if client is None or not client.is_connected:
            raise self._not_connected()
        with _translated():
            return (await client.request(subject, inquiry, _REQUEST_TIMEOUT)).data

    async def close(self) -> None:
        """Close the connection."""
        if self._connecting is not None:
            await end(self._connecting)
        if self._client is not None:
            await self._client.close()

    def _take(self, state: StreamState) -> None:
        if state == self.state:
            return
        is_another = self.state is not None
        self.state = state
        if is_another:
            self._note_loss()

    def _note_loss(self) -> None:
        self._losses += 1
        self._highest = 0
        logger.warning("the stream was made anew, or has lost messages; clients send again")
        self.change_salt()
        self.on_loss()

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
        self._errors.clear()
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
        described = _described(error)
        self._errors.pop(described, None)
        self._errors[described] = None
        if len(self._errors) > _MAX_ERRORS:
            del self._errors[next(iter(self._errors))]

    def _not_connected(self) -> StreamError:
        servers = ", ".join(self._options.addresses)
        reasons = "; ".join(sorted(self._errors)) or "no server has answered yet"
        return StreamError(f"not connected to the stream at {servers}: {reasons}")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise each failure as a StreamError."""
    try:
        yield
    except (NoStreamResponseError, nats.errors.TimeoutError, asyncio.TimeoutError) as error:
        raise SilenceError(_described(error)) from error
    except APIError as error:
        if error.err_code == _IN_PROCESS:
            raise SilenceError("the stream does not answer") from error
        raise StreamError(_described(error)) from error
    except (nats.errors.Error, OSError) as error:
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
