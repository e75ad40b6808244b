"""What an emit costs as the backlog grows to a million events, and what a buffered event weighs.

    python -m benchmarks.backlog [--rounds N] [--quick] [--json FILE]

The SDK is told that it is offline, so nothing leaves the store; events have 150 bytes of type,
timestamp and data. Each measurement is a fresh process; several rounds; medians.

- *Cost*: CPU time of the emitting thread (``time.thread_time_ns``) for each block of 100,000 emits,
  up to 1,000,000 in a store for 1,000,001; then for one more block, in which each emit drops the
  oldest. ``floor`` is the same loop over an empty function, measured between the blocks. Also the
  cost at the default capacity of 5,000 when it is full, over the same number of emits.
- *Memory*: for 5,000 and for 1,000,000 events, by tracemalloc (the bytes that Python's allocator
  gave out, less what was given before) and by the process's resident memory (in another process,
  since tracemalloc itself takes memory), before and after. Resident memory grows in steps, so for
  5,000 events it is coarse.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

from benchmarks.measuring import (
    EVENT_TYPE,
    Result,
    answer,
    event_data,
    failures,
    median,
    parser,
    print_table,
    progress,
    resident_bytes,
    run_child,
    save,
    summary,
)

MODULE = "benchmarks.backlog"
NOWHERE = "ws://127.0.0.1:9/telemetry"  # never asked: it is offline
_SIZE = 150
_BLOCKS = 10
_DEFAULT_CAPACITY = 5_000
_TIMEOUT = 300.0  # seconds for one measurement


# In the child.


def offline(capacity: int) -> Any:
    """A telemetry that runs, and whose worker waits."""
    from redvsblue_telemetry import ConnectionState, start_telemetry

    is_offline = threading.Event()

    def note(state: ConnectionState) -> None:
        if state is ConnectionState.OFFLINE:
            is_offline.set()

    telemetry = start_telemetry(enabled=True, url=NOWHERE, capacity=capacity, on_state_change=note)
    telemetry.set_online(False)
    if not is_offline.wait(20):
        raise TimeoutError("it did not go offline")
    return telemetry


def empty(type: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
    """Take what ``emit`` takes, and do nothing."""


def _ns_each(call: Callable[..., None], count: int, data: dict[str, Any]) -> float:
    start = time.thread_time_ns()
    for _ in repeat(None, count):
        call(EVENT_TYPE, data)
    return (time.thread_time_ns() - start) / count


def growth(task: Result) -> Result:
    """Nanoseconds of an emit, block by block, and at the full store."""
    block = task["block"]
    data = event_data(_SIZE)
    telemetry = offline(_BLOCKS * block + 1)
    _ns_each(empty, block, data)  # a processor that wakes up
    blocks, floors = [], []
    for _ in range(_BLOCKS):
        blocks.append(_ns_each(telemetry.emit, block, data))
        floors.append(_ns_each(empty, block, data))
    telemetry.emit(EVENT_TYPE, data)
    before = telemetry.stats()
    full = _ns_each(telemetry.emit, block, data)
    after = telemetry.stats()
    telemetry.stop(0.0)
    if before.dropped or after.dropped != block:
        raise RuntimeError(f"the store was not full when it should be: {before}, {after}")
    first, last = blocks[0], blocks[-1]
    return {"blocks": blocks, "floors": floors, "full": full, "last_to_first": last / first}


def full(task: Result) -> Result:
    """Nanoseconds of an emit at the default capacity, when the store is full."""
    data = event_data(_SIZE)
    telemetry = offline(_DEFAULT_CAPACITY)
    filling = _ns_each(telemetry.emit, _DEFAULT_CAPACITY, data)
    dropping = _ns_each(telemetry.emit, task["block"] * _BLOCKS, data)
    floor = _ns_each(empty, task["block"] * _BLOCKS, data)
    telemetry.stop(0.0)
    return {"filling": filling, "dropping": dropping, "floor": floor}


def memory(task: Result) -> Result:
    """Bytes that so many buffered events take."""
    data = event_data(_SIZE)
    telemetry = offline(task["events"] + 1)
    telemetry.emit(EVENT_TYPE, data)
    gc.collect()
    if task["by"] == "tracemalloc":
        tracemalloc.start()
        before: int | None = tracemalloc.get_traced_memory()[0]
    else:
        before = resident_bytes()
    for _ in repeat(None, task["events"] - 1):
        telemetry.emit(EVENT_TYPE, data)
    if task["by"] == "tracemalloc":
        after: int | None = tracemalloc.get_traced_memory()[0]
    else:
        after = resident_bytes()
    buffered = telemetry.stats().buffered
    if buffered != task["events"]:
        raise RuntimeError(f"{buffered} events are buffered, not {task['events']}")
    if before is None or after is None:
        return {"bytes": None, "bytes_per_event": None}
    return {"bytes": after - before, "bytes_per_event": (after - before) / (buffered - 1)}


KINDS = {"growth": growth, "full": full, "memory": memory}


# In the parent.


def _tasks(block: int) -> list[Result]:
    tasks: list[Result] = [{"kind": "growth", "block": block}, {"kind": "full", "block": block}]
    for events in (_DEFAULT_CAPACITY, _BLOCKS * block):
        tasks += [{"kind": "memory", "events": events, "by": by} for by in ("tracemalloc", "RSS")]
    return tasks


def _report(results: list[Result], block: int) -> None:
    growths = [result for result in results if "blocks" in result]
    rows: list[list[object]] = []
    for index in range(_BLOCKS if growths else 0):
        costs = summary([result["blocks"][index] for result in growths])
        floor = summary([result["floors"][index] for result in growths])["median"]
        label = f"{index * block:,} to {(index + 1) * block:,}"
        rows.append([label, costs["median"], costs["min"], costs["max"], floor])
    fulls = [result for result in results if result["kind"] == "full"]
    for label, group, name in (
        (f"full, capacity {_BLOCKS * block + 1:,}", growths, "full"),
        (f"full, capacity {_DEFAULT_CAPACITY:,} (the default)", fulls, "dropping"),
    ):
        costs = summary([result.get(name) for result in group])
        floor = median(group, "floor")
        rows.append([label, costs["median"], costs["min"], costs["max"], floor])
    print_table(
        "CPU of one emit on the game's thread, ns",
        ["backlog", "median", "least", "greatest", "floor (empty function)"],
        rows,
    )
    ratio = median(growths, "last_to_first")
    print(f"the last block against the first: {'-' if ratio is None else format(ratio, '.2f')}")
    rows = []
    for events in (_DEFAULT_CAPACITY, _BLOCKS * block):
        for by in ("tracemalloc", "RSS"):
            group = [r for r in results if r.get("events") == events and r.get("by") == by]
            row: list[object] = [f"{events:,} by {by}", median(group, "bytes")]
            rows.append([*row, median(group, "bytes_per_event")])
    print_table(f"Memory of buffered events of {_SIZE} bytes", ["", "bytes", "an event"], rows)


def main() -> int:
    """Measure, and print."""
    arguments = parser(__doc__, rounds=5).parse_args()
    if arguments.child:
        return answer(arguments.child, KINDS)
    rounds = 1 if arguments.quick else arguments.rounds
    block = 2_000 if arguments.quick else 100_000
    results: list[Result] = []
    for number in range(1, rounds + 1):
        progress(f"backlog: round {number} of {rounds}")
        results += [
            {"round": number} | task | run_child(MODULE, task, _TIMEOUT) for task in _tasks(block)
        ]
        save(arguments.json, "backlog", {"rounds": number, "block": block, "results": results})
    _report(results, block)
    for failure in failures(results):
        print(f"failure: {failure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
