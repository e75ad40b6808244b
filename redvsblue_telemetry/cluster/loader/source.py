"""Reads the messages of partitions from the stream.

By JetStream's direct get in batches (ADR-31), not by consumers: a request names the sequence number
to begin at, and any replica answers it. So nothing has to be made, found or lost on the servers,
and after an election there is nothing to recover. Each message of an answer names the one before
it, so one that got lost on the way is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timezone

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..stream import ALL_SUBJECTS, STREAM, StreamMessage, read_headers, subject

__all__ = ["Batch", "Source", "SourceError"]

_REQUEST = f"$JS.API.DIRECT.GET.{STREAM}"
_TIMEOUT = 2.0  # seconds without a message
_SEQUENCE = "Nats-Sequence"
_BEFORE = "Nats-Last-Sequence"
_PENDING = "Nats-Num-Pending"
_STORED_AT = "Nats-Time-Stamp"
_STATUS = "Status"
_NONE = "404"
_END = "204"


class SourceError(Exception):
    """The stream can't be read at the moment."""


class Batch(msgspec.Struct):
    """Some messages of a partition, in order and without a gap."""

    messages: list[StreamMessage]
    pending: int
    """How many there are after them."""


class Source:
    """Reads from one connection. Used on the event loop's thread.

    Args:
        client: the connection.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._unreadable: set[int] = set()  # partitions whose next messages are read one by one

    async def read(self, partition: int, after: int, messages: int, size: int) -> Batch:
        """Return the next messages of a partition; none if there are none yet.

        Args:
            partition: it.
            after: the sequence number of the last one that is known.
            messages: the most to return.
            size: the bytes at which to stop.

        Raises:
            SourceError: the stream can't be read.
        """
        is_careful = partition in self._unreadable
        request = {
            "seq": after + 1,
            "next_by_subj": subject(partition),
            "batch": 1 if is_careful else messages,
            "max_bytes": size,
        }
        async with self._asked(request) as answers:
            batch = Batch([], 0)
            self._unreadable.discard(partition)
            is_whole = False
            while not is_whole:
                message = await answers.next_msg(_TIMEOUT)
                is_whole = self._take(message, batch, partition, is_careful=is_careful)
            return batch

    def is_careful(self, partition: int) -> bool:
        """Return whether the next answer has one message at most."""
        return partition in self._unreadable

    async def first_since(self, time: int) -> int | None:
        """Return the number of the first message since a time, in milliseconds since the epoch.

        Raises:
            SourceError: the stream can't be read.
        """
        moment = datetime.fromtimestamp(time / 1000, timezone.utc)
        request = {
            "start_time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "next_by_subj": ALL_SUBJECTS,
            "batch": 1,
        }
        async with self._asked(request) as answers:
            headers = (await answers.next_msg(_TIMEOUT)).headers or {}
        if _SEQUENCE in headers:
            return int(headers[_SEQUENCE])
        if headers.get(_STATUS) == _NONE:
            return None
        raise SourceError("the stream can't be read: the headers of a message can't be")

    @contextlib.asynccontextmanager
    async def _asked(self, request: Mapping[str, object]) -> AsyncIterator[Subscription]:
        reply = self._client.new_inbox()
        try:
            answers = await self._client.subscribe(
                reply, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
            try:
                await self._client.publish(_REQUEST, msgspec.json.encode(request), reply=reply)
                yield answers
            finally:
                if not self._client.is_closed:
                    await answers.unsubscribe()
        except (nats.errors.Error, OSError, asyncio.TimeoutError) as error:
            raise SourceError(f"the stream can't be read: {error!r}") from error

    def _take(self, message: Msg, batch: Batch, partition: int, *, is_careful: bool) -> bool:
        """Take a message of the answer; return whether no more of it is of use."""
        headers = message.headers or {}
        last = batch.messages[-1].sequence if batch.messages else 0
        if _SEQUENCE in headers:
            if int(headers[_BEFORE]) != last:
                return True  # one in between is missing; it is asked for again
            batch.messages.append(_message(partition, message))
            batch.pending = int(headers.get(_PENDING, 0))
            return False
        status = headers.get(_STATUS)
        if status == _NONE:
            return True
        if status == _END:
            if not is_careful or last == int(headers[_BEFORE]):
                batch.pending = int(headers.get(_PENDING, 0))
                return True
            # The one message of this answer, of which nothing else says which one it is.
            batch.messages = [
                msgspec.structs.replace(each, sequence=int(headers[_BEFORE]))
                for each in batch.messages
            ]
            batch.pending = int(headers.get(_PENDING, 0))
            return True
        if status is not None:
            raise SourceError(f"the stream can't be read: status {status}")
        # Headers that the client library can't read: the number was among them.
        self._unreadable.add(partition)
        if not is_careful:
            return True
        fault = "no gateway has written it: its headers can't be read"
        batch.messages.append(StreamMessage(partition, 0, _now(), message.data, fault=fault))
        return False


def _message(partition: int, message: Msg) -> StreamMessage:
    headers = message.headers or {}
    sequence = int(headers[_SEQUENCE])
    stored_at = _nanoseconds(headers.get(_STORED_AT, ""))
    try:
        found = read_headers(sequence, subject(partition), headers, message.data)
    except ValueError as error:
        received = _now() if stored_at is None else stored_at // 1_000_000
        fault = f"no gateway has written it: {error}"
        found = StreamMessage(partition, sequence, received, message.data, fault=fault)
    return msgspec.structs.replace(found, stored_at=stored_at)


def _nanoseconds(text: str) -> int | None:
    """Return the time that the servers write: 2026-11-29T09:16:23.821591402Z."""
    try:
        seconds = datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
        fraction = int(text[20:-1].ljust(9, "0"))
    except ValueError:
        return None
    return int(seconds.timestamp()) * 1_000_000_000 + fraction


def _now() -> int:
    return int(datetime.now(timezone.utc).timestamp() * 1000)
