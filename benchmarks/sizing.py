"""How large a cluster has to be: the measured cost of an event times the events of many players.

It measures nothing. The processor times and the bytes of the lake are those of the scenario
``throughput`` of :mod:`benchmarks.cluster`; the bytes of the stream are those of the wire
(:mod:`benchmarks.wire_bytes`), since the stream keeps a message compressed as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.cluster_game import BATCH_SIZE
from benchmarks.harness import Result, median, number, table
from benchmarks.wire_bytes import NAMED
from redvsblue_telemetry._compression import DEFLATE

PLAYERS = ((1_000, 1), (10_000, 1), (100_000, 1), (100_000, 5), (100_000, 10))
"""Players at once, and the events that each emits a second."""
_PARTS = ("gateways", "stream servers", "loaders")
_HOUR, _DAY = 3600, 86_400  # seconds
_GB = 1e9


class Costs(NamedTuple):
    """The cost of one event."""

    processor: Mapping[str, float]
    """By part, in microseconds; those of all processes of the part together."""
    stream: float
    """Bytes on the disk of each stream server."""
    lake: float
    """Bytes in the lake."""


class Size(NamedTuple):
    """The machines for a number of events a second."""

    messages: float
    """A second, if each batch is full."""
    cores: dict[str, float]
    """By part, of all its processes together."""
    stream: float
    """Bytes on the disk of each stream server, for an hour."""
    lake: float
    """Bytes in the lake, for a day."""


def costs_of(cluster: Result, wire: Result) -> Costs:
    """Return the costs by the reports of the two benchmarks."""
    (speed,) = (each for each in cluster["results"] if each["scenario"] == "throughput")
    sent = [
        each
        for each in wire["results"]
        if (each["kind"], each.get("batches"), each.get("encoding")) == ("bytes", NAMED, DEFLATE)
    ]
    stream = median(sent, "bytes_per_event")
    assert stream is not None
    return Costs(speed["processor, µs an event"], stream, speed["bytes an event"])


def size_of(costs: Costs, events: float) -> Size:
    """Return the size for that many events a second."""
    return Size(
        messages=events / BATCH_SIZE,
        cores={part: events * costs.processor[part] / 1e6 for part in _PARTS},
        stream=events * costs.stream * _HOUR,
        lake=events * costs.lake * _DAY,
    )


def sizes(cluster: Result, wire: Result) -> str:
    """Return the table for the docs."""
    costs = costs_of(cluster, wire)
    rows = []
    for players, each in PLAYERS:
        size = size_of(costs, players * each)
        rows.append(
            [
                f"{players:,}, {each} each",
                f"{players * each:,}",
                number(size.messages),
                *(number(size.cores[part]) for part in _PARTS),
                number(size.stream / _GB),
                number(size.lake / _GB),
            ]
        )
    cores = [f"cores: {part}" for part in _PARTS]
    disks = ["each server's disk, GB an hour", "lake, GB a day"]
    return table(["players, events a second", "events", "messages", *cores, *disks], rows)
