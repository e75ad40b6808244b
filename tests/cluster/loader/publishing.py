"""Publishes messages into a stream as a gateway does, and as strangers might."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from nats.aio.client import Client
from nats.errors import Error
from nats.js import JetStreamContext

from redvsblue_telemetry.cluster.stream import (
    MESSAGE_ID,
    RECEIVED,
    STREAM,
    StreamOptions,
    StreamState,
    connect,
    ensure_stream,
    partition_of,
    subject,
)

_Result = TypeVar("_Result")

PARTITIONS = 4


def options(urls: tuple[str, ...]) -> StreamOptions:
    return StreamOptions(servers=urls, partitions=PARTITIONS)


def events(session: str, first: int, last: int, **data: Any) -> bytes:
    """A batch of events of one session."""
    return json.dumps(
        [
            {
                "id": f"{session}-{seq}",
                "type": "shot",
                "timestamp": 1_790_000_000_000 + seq,
                "sessionId": session,
                "seq": seq,
                "data": {"n": seq, **data},
            }
            for seq in range(first, last + 1)
        ]
    ).encode()


class Publisher:
    """A gateway's side of the stream."""

    def __init__(self, client: Client, jetstream: JetStreamContext, state: StreamState) -> None:
        self.client = client
        self.jetstream = jetstream
        self.state = state

    async def batch(
        self, session: str, first: int, last: int, *, received: int | None = None, **data: Any
    ) -> int:
        """Publish a batch, until it is acknowledged; return its sequence number."""
        body = events(session, first, last, **data)
        return await self.body(session, body, f"{session}:{first}-{last}", received=received)

    async def body(
        self,
        session: str,
        body: bytes,
        message_id: str | None = None,
        *,
        received: int | None = None,
        **headers: str,
    ) -> int:
        headers[RECEIVED] = str(time.time_ns() // 1_000_000 if received is None else received)
        if message_id is not None:
            headers[MESSAGE_ID] = message_id
        partition = partition_of(session, self.state.partitions)
        return await self.raw(partition, body, {k.replace("_", "-"): v for k, v in headers.items()})

    async def make_anew(self) -> None:
        """Make the stream anew, as by hand: without its messages, and otherwise the same."""
        info = await self.jetstream.stream_info(STREAM)
        await self.jetstream.delete_stream(STREAM)
        await self.jetstream.add_stream(info.config)

    async def raw(self, partition: int, body: bytes, headers: dict[str, str]) -> int:
        async def publish() -> int:
            answer = await self.jetstream.publish(
                subject(partition), body, timeout=2, headers=headers or None
            )
            return answer.seq

        return await insisted(publish)


async def insisted(attempt: Callable[[], Awaitable[_Result]], timeout: float = 30.0) -> _Result:
    """Try until it works."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return await attempt()
        except (Error, asyncio.TimeoutError, OSError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def publishing(urls: tuple[str, ...]) -> AsyncIterator[Publisher]:
    client = await connect(options(urls), "test", on_error=_ignore)
    try:
        jetstream = client.jetstream(timeout=2)
        state = await insisted(lambda: ensure_stream(jetstream, options(urls)))
        yield Publisher(client, jetstream, state)
    finally:
        await client.close()


async def _ignore(_: Exception) -> None:
    """An error that the calls themselves show."""
