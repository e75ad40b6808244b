"""The servers of ``benchmarks.collector``: the collector, and a first draft of one.

    python -m benchmarks.collector_server collector|bare DATABASE [MAX_MESSAGE_BYTES]

SIGTERM ends the collector as it ends ``redvsblue-telemetry collect``. ``bare`` is uvicorn, ``json``
and one INSERT for each event, committed and acknowledged message by message, with the same table
layout of an event and the same sync.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from benchmarks.harness import introduce
from redvsblue_telemetry.collector.server import Options, serve

_TABLE = (
    "CREATE TABLE events (session TEXT, seq INTEGER, type TEXT, timestamp INTEGER, id TEXT, "
    "version TEXT, data TEXT, UNIQUE (session, seq))"
)
_INSERT = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?)"
_ACKS = [(b"telemetry-ack", b"cumulative")]


async def collector(path: Path, *limits: str) -> None:
    """Serve as ``redvsblue-telemetry collect`` does."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    limit: dict[str, Any] = {"max_message_bytes": int(limits[0])} if limits else {}
    options = Options(port=0, db=path, max_rate=10_000_000.0, **limit)
    await serve(options, stop, lambda url: introduce({"port": int(url.split(":")[2][:-1])}))


async def bare(path: Path, *_: str) -> None:
    """Serve with bare parts."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute(_TABLE)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept", "headers": _ACKS})
        messages = 0
        while (message := await receive())["type"] == "websocket.receive":
            database.execute("BEGIN")
            for event in json.loads(message.get("text") or message["bytes"]):
                row = [event[name] for name in ("sessionId", "seq", "type", "timestamp", "id")]
                database.execute(_INSERT, (*row, event.get("version"), json.dumps(event["data"])))
            database.execute("COMMIT")
            messages += 1
            await send({"type": "websocket.send", "text": json.dumps({"ack": messages})})

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    introduce({"port": listener.getsockname()[1]})
    config = uvicorn.Config(app, ws="websockets-sansio", lifespan="off", log_level="error")
    await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    """Serve until the process that started this ends."""
    name, path, *limits = sys.argv[1:]
    uvloop.run({"collector": collector, "bare": bare}[name](Path(path), *limits))
    os._exit(0)  # the thread that waits for standard input has a lock that the exit needs


if __name__ == "__main__":
    main()
