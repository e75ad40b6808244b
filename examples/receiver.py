"""A receiving end for telemetry: a WebSocket server that counts what arrives.

    python examples/receiver.py --port 3000

It prints one JSON line with its URL when it is ready. At Ctrl-C, or when its standard input ends
(the program that started it closes the pipe, or dies), it prints a second one with its counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError


@dataclass
class Arrivals:
    """What has arrived. A repeat or a gap shows in ``seq``, which counts from 1 in each session."""

    received: int = 0
    repeats: int = 0
    seen: dict[str, set[int]] = field(default_factory=dict)

    def count(self, message: str | bytes) -> None:
        """Count one batch: a JSON array of events."""
        for event in json.loads(message):
            self.received += 1
            session = self.seen.setdefault(event["sessionId"], set())
            if event["seq"] in session:
                self.repeats += 1
            session.add(event["seq"])

    def counts(self) -> Counts:
        """The numbers so far."""
        unique = sum(len(session) for session in self.seen.values())
        expected = sum(max(session) for session in self.seen.values())
        return Counts(self.received, unique, self.repeats, gaps=expected - unique)


@dataclass(frozen=True)
class Counts:
    """The receiver's side of the ledger, in events."""

    received: int
    unique: int
    repeats: int
    gaps: int
    """Sequence numbers below a session's highest that never came."""


async def receive(port: int) -> None:
    """Serve on loopback until standard input ends. Port 0 takes any free one."""
    arrivals = Arrivals()
    input_ended = asyncio.Event()
    notice = asyncio.get_running_loop().call_soon_threadsafe

    async def count_batches(connection: ServerConnection) -> None:
        with suppress(ConnectionClosedError):  # a game that is killed says no goodbye
            async for message in connection:
                arrivals.count(message)

    def await_end_of_input() -> None:
        # Not sys.stdin.read(): a thread that waits in there holds a lock that the interpreter needs
        # in order to exit.
        while os.read(sys.stdin.fileno(), 1024):
            pass
        notice(input_ended.set)

    try:
        async with serve(count_batches, "127.0.0.1", port) as server:
            bound_port = next(iter(server.sockets)).getsockname()[1]
            say({"url": f"ws://127.0.0.1:{bound_port}/telemetry"})
            threading.Thread(target=await_end_of_input, daemon=True).start()
            await input_ended.wait()
    finally:
        say(asdict(arrivals.counts()))


def say(line: Mapping[str, object]) -> None:
    """Write ``line`` as JSON, unbuffered, so that at exit nothing is left to fail."""
    with suppress(BrokenPipeError):  # the program that started this one has died
        os.write(sys.stdout.fileno(), json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Count the telemetry that arrives.")
    parser.add_argument("--port", type=int, default=3000, help="0 takes any free one")
    with suppress(KeyboardInterrupt):
        asyncio.run(receive(parser.parse_args().port))
