"""What do a connection, a message and an event cost the parts of a cluster?

    python -m benchmarks.cluster_costs --json benchmarks/results/cluster-costs.json

Three stream servers that sync each write, a gateway and a loader run on this machine, each as a
process. The model (``benchmarks.cluster_model``) is fed with these measurements, which take about
two minutes:

1. *The battle.* How many events a second the demo's battle emits, played without waiting.
2. *Connections.* Clients connect to the gateway, and each has one event acknowledged. The gateway's
   processor time and memory, for each of them.
3. *Messages.* Clients send messages of 2, of 25 and of 250 events of the battle, compressed as the
   SDK does it with ``deflate``. The processor time of each part, split into that of a message and
   that of an event by least squares; the bytes of a message in the stream.
4. *The stream.* How many messages a second a stream of three servers acknowledges, with 1, 8, 64
   and 256 messages in flight; the messages are as large as those of 25 events.
5. *The disk.* How long a sync of 4 KB takes, and a commit of one row to a Delta table.

Processor times depend less on other programs than the rates do.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from nats.js.api import StorageType, StreamConfig
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.cluster import cpu_seconds
from benchmarks.encodings import FPS, SEED, battle_events
from benchmarks.harness import Result, number, progress, resident_bytes, save, table
from redvsblue_telemetry._compression import DEFLATE, pack
from redvsblue_telemetry.cli.demo.battle import BattleEngine
from redvsblue_telemetry.cluster.local.cluster import LocalCluster
from redvsblue_telemetry.cluster.local.ledgers import count_events
from redvsblue_telemetry.cluster.stream import MESSAGE_ID, STREAM, StreamOptions
from redvsblue_telemetry.cluster.stream import connect as connect_stream

SIZES = (2, 25, 250)
"""Events of a message."""
IN_FLIGHT = (1, 8, 64, 256)
_CLIENTS = 16
_WINDOW = 8  # messages of a client in flight
_BATTLE_SECONDS = 600
_IDLE_SECONDS = 3.0
_TIMEOUT = 120.0
_SYNCS = 200
_COMMITS = 40
_HEADERS = {"Telemetry-Ack": "cumulative", "Telemetry-Encoding": DEFLATE}


def battle_rate() -> Result:
    """Return how many events a battle emits, and how many ships take part."""
    count = 0
    engine = BattleEngine(seed=SEED)

    def note(_: object) -> None:
        nonlocal count
        count += 1

    engine.on("telemetry", note)
    for _ in range(_BATTLE_SECONDS * FPS):
        engine.update(1 / FPS)
    return {
        "measurement": "battle",
        "events a second": count / _BATTLE_SECONDS,
        "ships": 2 * engine.ships_per_team,
    }


_recorded_events = functools.cache(battle_events)


class Session:
    """The events of a new session, in messages as the SDK sends them."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex
        self._events = itertools.cycle(_recorded_events(3000))
        self._seq = 0
        self._pack = pack(DEFLATE)

    def message(self, size: int) -> bytes | str:
        """Return the next message: bytes if it is compressed."""
        batch = []
        for type_, data in itertools.islice(self._events, size):
            self._seq += 1
            batch.append(
                {
                    "id": f"{self._id[:16]}-{self._seq}",
                    "type": type_,
                    "timestamp": time.time_ns() // 1_000_000,
                    "sessionId": self._id,
                    "seq": self._seq,
                    "data": data,
                    "version": "1.4.2",
                }
            )
        text = msgspec.json.encode(batch)
        return self._pack(text) or text.decode()


async def _send(client: ClientConnection, session: Session, size: int, count: int) -> None:
    """Send messages, a window of them in flight, until all are acknowledged."""
    sent = acknowledged = 0
    while acknowledged < count:
        while sent < count and sent - acknowledged < _WINDOW:
            await client.send(session.message(size))
            sent += 1
        told = msgspec.json.decode(await asyncio.wait_for(client.recv(), _TIMEOUT))
        acknowledged = told.get("ack", acknowledged)


class Parts:
    """A cluster of one gateway and one loader, and the processor time of its parts."""

    def __init__(self, directory: Path) -> None:
        self.cluster = LocalCluster(directory, gateways=1, loaders=1)
        self.idle: dict[str, float] = {}

    @property
    def gateway(self) -> int:
        pid = self.cluster.gateways[0].child.pid
        assert pid is not None
        return pid

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.cluster.gateways[0].port}/telemetry"

    def used(self) -> dict[str, float]:
        """Return the processor time of each part up to now, in seconds."""
        return {
            "gateway": cpu_seconds([self.gateway]),
            "stream servers": cpu_seconds(each.pid for each in self.cluster.servers.children),
            "loader": cpu_seconds([self.cluster.loaders[0].child.pid]),
        }

    def note_idle(self) -> None:
        """Measure their processor time while nothing happens."""
        before = self.used()
        time.sleep(_IDLE_SECONDS)
        after = self.used()
        self.idle = {part: (after[part] - before[part]) / _IDLE_SECONDS for part in before}

    async def stored(self) -> tuple[int, int]:
        """Return the messages and the bytes of the stream."""
        client = await connect_stream(StreamOptions(servers=self.cluster.servers.urls), "costs")
        state = (await client.jetstream().stream_info(STREAM)).state
        await client.close()
        return state.messages, state.bytes

    def wait_loaded(self, events: int) -> None:
        """Wait until the lake has so many events."""
        deadline = time.monotonic() + _TIMEOUT
        while count_events(self.cluster.lake) < events:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{events} events are not in the lake")
            time.sleep(0.1)


async def _connected(url: str, count: int) -> list[tuple[ClientConnection, Session]]:
    clients = []
    for _ in range(count):
        client = await connect(url, additional_headers=_HEADERS, compression=None, max_queue=None)
        session = Session()
        await _send(client, session, 1, 1)
        clients.append((client, session))
    return clients


async def connections(parts: Parts, count: int) -> Result:
    """Measure a gateway's costs of a connection."""
    for client, _ in await _connected(parts.url, 20):  # what the first ones make is made once
        await client.close()
    empty, since, before = resident_bytes(parts.gateway), time.monotonic(), parts.used()
    clients = await _connected(parts.url, count)
    seconds, after, full = time.monotonic() - since, parts.used(), resident_bytes(parts.gateway)
    for client, _ in clients:
        await client.close()
    assert empty is not None
    assert full is not None
    used = after["gateway"] - before["gateway"] - parts.idle["gateway"] * seconds
    return {
        "measurement": "connections",
        "connections": count,
        "processor, µs each": used * 1e6 / count,
        "memory, bytes each": (full - empty) / count,
        "memory of the gateway, bytes": empty,
    }


async def messages(parts: Parts, size: int, count: int) -> Result:
    """Measure the costs of messages of so many events."""
    clients = await _connected(parts.url, _CLIENTS)
    events = count_events(parts.cluster.lake)
    while True:  # until the lake has what came before
        await asyncio.sleep(3.0)
        if (now := count_events(parts.cluster.lake)) == events:
            break
        events = now
    stored, since, before = await parts.stored(), time.monotonic(), parts.used()
    each = count // _CLIENTS
    await asyncio.gather(*(_send(*client, size, each) for client in clients))
    sent_in = time.monotonic() - since
    await asyncio.to_thread(parts.wait_loaded, events + each * _CLIENTS * size)
    seconds, after = time.monotonic() - since, parts.used()
    more = [now - then for now, then in zip(await parts.stored(), stored, strict=True)]
    for client, _ in clients:
        await client.close()
    return {
        "measurement": "messages",
        "events each": size,
        "messages": more[0],
        "messages a second": more[0] / sent_in,
        "bytes in the stream each": more[1] / more[0],
        "processor, µs each": {
            part: (after[part] - before[part] - parts.idle[part] * seconds) * 1e6 / more[0]
            for part in before
        },
    }


async def stream(parts: Parts, in_flight: int, size: int, seconds: float) -> Result:
    """Measure how many messages a second a stream acknowledges."""
    servers = parts.cluster.servers
    client = await connect_stream(StreamOptions(servers=servers.urls), "costs")
    jetstream = client.jetstream()
    name = f"COSTS-{in_flight}"
    config = StreamConfig(
        name=name,
        subjects=[f"costs.{in_flight}.*"],
        num_replicas=3,
        storage=StorageType.FILE,
        duplicate_window=120.0,
    )
    await jetstream.add_stream(config)
    body, acknowledged = os.urandom(size), 0
    deadline = time.monotonic() + seconds

    async def publish(lane: int) -> None:
        nonlocal acknowledged
        while time.monotonic() < deadline:
            headers = {MESSAGE_ID: uuid.uuid4().hex}
            await jetstream.publish(f"costs.{in_flight}.{lane % 16}", body, 30.0, headers=headers)
            acknowledged += 1

    used, since = parts.used(), time.monotonic()
    await asyncio.gather(*(publish(lane) for lane in range(in_flight)))
    took = time.monotonic() - since
    more = parts.used()["stream servers"] - used["stream servers"]
    await jetstream.delete_stream(name)
    await client.close()
    return {
        "measurement": "stream",
        "in flight": in_flight,
        "bytes each": size,
        "messages a second": acknowledged / took,
        "processor of the servers, µs each": more * 1e6 / acknowledged,
    }


def disk(directory: Path) -> Result:
    """Measure a sync, and a commit of one row to a Delta table."""
    syncs = []
    with (directory / "synced").open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(bytes(4096))
            since = time.perf_counter()
            os.fsync(file.fileno())
            syncs.append(time.perf_counter() - since)
    commits, row = [], pa.table({"place": pa.array([1], pa.int64())})
    for _ in range(_COMMITS):
        since = time.perf_counter()
        write_deltalake(str(directory / "table"), row, mode="append")
        commits.append(time.perf_counter() - since)
    return {
        "measurement": "disk",
        "sync of 4 KB, s": float(np.median(syncs)),
        "commit of a row, s": float(np.median(commits)),
    }


def split_costs(results: Sequence[Result], figure: Callable[[Result], float]) -> Result:
    """Return the part of a message and the part of an event, by least squares of relative errors.

    Neither can be negative: then the other one alone is fitted.
    """
    sizes = np.array([float(each["events each"]) for each in results])
    values = np.array([figure(each) for each in results])
    columns = np.stack([1 / values, sizes / values], axis=1)
    ones = np.ones(len(results))
    message, event = np.linalg.lstsq(columns, ones, rcond=None)[0]
    if message < 0:
        message, event = 0.0, np.linalg.lstsq(columns[:, 1:], ones, rcond=None)[0][0]
    elif event < 0:
        message, event = np.linalg.lstsq(columns[:, :1], ones, rcond=None)[0][0], 0.0
    return {"message": float(message), "event": float(event)}


PARTS = ("gateway", "stream servers", "loader")


def costs(results: Sequence[Result]) -> dict[str, Result]:
    """Return the processor time of each part, and the stream's bytes, by message and event."""
    sent = [each for each in results if each["measurement"] == "messages"]

    def processor(part: str) -> Callable[[Result], float]:
        return lambda each: float(each["processor, µs each"][part])

    return {
        **{part: split_costs(sent, processor(part)) for part in PARTS},
        "bytes": split_costs(sent, lambda each: float(each["bytes in the stream each"])),
    }


def measure(options: argparse.Namespace) -> Iterator[Result]:
    """Yield the measurements, one after the other."""
    yield battle_rate()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        parts = Parts(directory)
        with parts.cluster:
            parts.note_idle()
            progress("connections")
            yield asyncio.run(connections(parts, options.connections))
            size = 0.0
            for events in SIZES:
                progress(f"messages of {events} events")
                yield (result := asyncio.run(messages(parts, events, options.messages)))
                size = result["bytes in the stream each"] if events == SIZES[1] else size
            for in_flight in IN_FLIGHT:
                progress(f"a stream with {in_flight} messages in flight")
                yield asyncio.run(stream(parts, in_flight, round(size), options.seconds))
        yield disk(directory)


def tables(report: Result) -> dict[str, str]:
    """Return the table for the docs."""
    results = report["results"]
    by: dict[str, Any] = {each["measurement"]: each for each in results}
    processor, memory = (
        number(by["connections"][name]) for name in ("processor, µs each", "memory, bytes each")
    )
    rows = [["a connection, with its first event", processor, "-", "-", f"{memory} of memory"]]
    split = costs(results)
    for kind, title in (("message", "a message"), ("event", "each of its events")):
        rows.append([title, *(number(split[part][kind]) for part in (*PARTS, "bytes"))])
    headers = ("", "gateway, µs", "three stream servers, µs", "loader, µs", "bytes in the stream")
    streams = [
        [
            str(each["in flight"]),
            number(each["messages a second"]),
            number(1000 * each["in flight"] / each["messages a second"]),
        ]
        for each in results
        if each["measurement"] == "stream"
    ]
    return {
        "cluster-costs": table(headers, rows),
        "cluster-stream": table(("in flight", "messages a second", "ms until the ack"), streams),
    }


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster_costs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--messages", type=int, default=3200, help="of each size")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run of the stream")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    options = parser.parse_args()
    results = [*measure(options)]
    save(options.json, "cluster-costs", {"results": results})
    print("\n\n".join(tables({"results": results}).values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
