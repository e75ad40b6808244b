"""Gateways for tests, as processes or in this one, and the contents of their stream."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from redvsblue_telemetry._compression import unpacker
from redvsblue_telemetry.collector.messages import Message, read_message
from tests.support.command import Running, running_process

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.children import Child
    from redvsblue_telemetry.cluster.local.servers import StreamServers
    from redvsblue_telemetry.cluster.stream import StreamMessage

PATIENCE = 30.0  # seconds
MOST_BYTES = 8 * 1024 * 1024


class Gateway(NamedTuple):
    """A gateway that runs as a process."""

    running: Running
    http_url: str

    @property
    def url(self) -> str:
        return self.http_url.replace("http", "ws", 1) + "telemetry"

    @property
    def pid(self) -> int:
        return self.running.process.pid

    def get(self, path: str, token: str | None = None) -> tuple[int, str]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(self.http_url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    @property
    def is_healthy(self) -> bool:
        return self.get("healthz")[0] == 200

    def metric(self, name: str) -> float:
        found = re.search(rf"^telemetry_{name} (.+)$", self.get("metrics")[1], re.MULTILINE)
        assert found is not None, name
        return float(found[1])


_HURRIED = """
import sys
from redvsblue_telemetry.__main__ import main
from redvsblue_telemetry.cluster.gateway import app
app._START_TIMEOUT = 0.1
sys.exit(main())
"""


@contextlib.contextmanager
def gateway_running(urls: Sequence[str], *options: object, waits: bool = True) -> Iterator[Gateway]:
    """A gateway on a free port.

    Args:
        urls: of the stream's servers.
        options: of the command, besides.
        waits: whether it waits some seconds for the stream when it starts.
    """
    program = ("-m", "redvsblue_telemetry") if waits else ("-c", _HURRIED)
    arguments = ("collect", "--port", "0", "--stream", ",".join(urls), *map(str, options))
    with running_process([sys.executable, *program, *arguments]) as running:
        running.wait_for("Press Ctrl-C")
        found = re.search(r"http://\S+/", running.output)
        assert found is not None
        yield Gateway(running, found[0])


@contextlib.contextmanager
def suspended(children: Iterable[Child]) -> Iterator[None]:
    """Processes that do nothing meanwhile, although their connections stay open."""
    each = tuple(children)
    for child in each:
        child.suspend()
    try:
        yield
    finally:
        for child in each:
            child.resume()


def stream_messages(servers: StreamServers) -> list[StreamMessage]:
    """All that is in the stream now, in order."""

    async def read() -> list[StreamMessage]:
        from redvsblue_telemetry.cluster.stream import (
            STREAM,
            StreamOptions,
            connect,
            read_headers,
        )

        async def ignore(_: Exception) -> None:
            pass

        client = await connect(StreamOptions(servers=servers.urls), "test", on_error=ignore)
        try:
            jetstream = client.jetstream()
            state = (await jetstream.stream_info(STREAM)).state
            found = []
            for number in range(state.first_seq, state.last_seq + 1):
                raw = await jetstream.get_msg(STREAM, number)
                assert raw.subject is not None
                found.append(read_headers(number, raw.subject, raw.headers, raw.data or b""))
            return found
        finally:
            await client.close()

    return asyncio.run(asyncio.wait_for(read(), PATIENCE))


def contents(message: StreamMessage) -> Message:
    """What a loader reads in a message."""
    assert message.fault is None
    body = message.body
    if message.encoding is not None:
        body = unpacker(message.encoding)(body, MOST_BYTES)
    return read_message(body)


def numbers(messages: Sequence[StreamMessage]) -> dict[str, list[int]]:
    """The numbers of each session's events, in the order of the stream, repeats included."""
    found: dict[str, list[int]] = {}
    for message in messages:
        if message.is_check or message.fault is not None:
            continue
        for event in contents(message).events:
            found.setdefault(event.session_id, []).append(event.seq)
    return found


def first_ones(numbers: Sequence[int]) -> list[int]:
    """The numbers without those that came before."""
    return list(dict.fromkeys(numbers))
