"""The cost of an emit as the backlog grows to a million events, and the memory of a buffered event.

    python -m benchmarks.backlog [--rounds N] [--quick] [--json FILE]

The SDK is set offline, so nothing leaves the store; events have 150 bytes of type, timestamp and
data. Each measurement is a fresh process; the tables show the medians of several rounds.

- *Cost*: CPU time of the emitting thread (``time.thread_time_ns``) for each block of 100,000 emits,
  up to 1,000,000 in a store for 1,000,001; then for one more block, in which each emit drops the
  oldest event. Also the cost at the default capacity of 5,000 when the store is full, over the same
  number of emits.
- *Memory*: for 5,000 and for 1,000,000 events, by tracemalloc (the bytes that Python's allocator
  handed out meanwhile) and by the growth of the process's resident memory (in another process,
  since tracemalloc itself takes memory). Resident memory grows in steps, so for 5,000 events it is
  coarse. With a journal, the events are in files that are mapped into memory: tracemalloc doesn't
  see them, and resident memory has the pages that were mapped meanwhile.
"""

from __future__ import annotations

import gc
import itertools
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

from benchmarks.harness import (
    EVENT_TYPE,
    JOURNAL_PREFIX,
    Result,
    answer,
    conclude,
    event_data,
    grouped,
    median,
    number,
    parser,
    resident_bytes,
    run_child,
    run_rounds,
    spread,
    summary,
    table,
)

MODULE = "benchmarks.backlog"
NOWHERE = "ws://127.0.0.1:9/telemetry"  # never reached: the client is offline
_SIZE = 150
_BLOCKS = 10
_DEFAULT_CAPACITY = 5_000
_JOURNAL_BYTES = 1 << 30  # the limit of the journal: more than a million events
_TIMEOUT = 300.0  # seconds for one measurement


# In the child.


def offline(capacity: int | None, **settings: Any) -> Any:
    """Start telemetry with a worker that waits."""
    from redvsblue_telemetry import ConnectionState, start_telemetry

    is_offline = threading.Event()

    def note(state: ConnectionState) -> None:
        if state is ConnectionState.OFFLINE:
            is_offline.set()

    if capacity is not None:
        settings["capacity"] = capacity
    telemetry = start_telemetry(enabled=True, url=NOWHERE, on_state_change=note, **settings)
    telemetry.set_online(False)
    if not is_offline.wait(20):
        raise TimeoutError("telemetry did not go offline")
    return telemetry


def empty(type: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
    """Do nothing, with the signature of ``emit``."""


def _ns_each(call: Callable[..., None], count: int, data: dict[str, Any]) -> float:
    start = time.thread_time_ns()
    for _ in repeat(None, count):
        call(EVENT_TYPE, data)
    return (time.thread_time_ns() - start) / count


def growth(task: Result) -> Result:
    """Measure the nanoseconds of an emit, block by block, and with a full store."""
    block = task["block"]
    data = event_data(_SIZE)
    telemetry = offline(_BLOCKS * block + 1)
    _ns_each(empty, block, data)  # wakes the processor up
    blocks = [_ns_each(telemetry.emit, block, data) for _ in range(_BLOCKS)]
    telemetry.emit(EVENT_TYPE, data)
    before = telemetry.stats()
    full = _ns_each(telemetry.emit, block, data)
    after = telemetry.stats()
    telemetry.stop(0.0)
    if before.dropped or after.dropped != block:
        raise RuntimeError(f"the store was not full when it should be: {before}, {after}")
    return {"blocks": blocks, "full": full}


def full(task: Result) -> Result:
    """Measure the nanoseconds of an emit into a full store of the default capacity."""
    data = event_data(_SIZE)
    telemetry = offline(_DEFAULT_CAPACITY)
    _ns_each(telemetry.emit, _DEFAULT_CAPACITY, data)
    dropping = _ns_each(telemetry.emit, task["block"] * _BLOCKS, data)
    telemetry.stop(0.0)
    return {"dropping": dropping}


def memory(task: Result) -> Result:
    """Measure the bytes that buffered events take."""
    data = event_data(_SIZE)
    if task["journal"] is None:
        telemetry = offline(task["events"] + 1)
    else:
        telemetry = offline(None, journal=task["journal"], journal_max_bytes=_JOURNAL_BYTES)
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
    telemetry.enabled = False  # erases the journal
    if buffered != task["events"]:
        raise RuntimeError(f"{buffered} events are buffered, not {task['events']}")
    if before is None or after is None:
        return {"bytes": None, "bytes_per_event": None}
    return {"bytes": after - before, "bytes_per_event": (after - before) / (buffered - 1)}


KINDS = {"growth": growth, "full": full, "memory": memory}


# In the parent.


def _tasks(block: int) -> list[Result]:
    tasks: list[Result] = [{"kind": "growth", "block": block}, {"kind": "full", "block": block}]
    events = (_DEFAULT_CAPACITY, _BLOCKS * block)
    tasks += [
        {"kind": "memory", "events": count, "by": by, "has_journal": has_journal}
        for has_journal, count, by in itertools.product(
            (False, True), events, ("tracemalloc", "RSS")
        )
    ]
    return tasks


def _round(block: int) -> list[Result]:
    results = []
    for task in _tasks(block):
        with tempfile.TemporaryDirectory(prefix=JOURNAL_PREFIX) as folder:
            journal = folder if task.get("has_journal") else None
            results.append(task | run_child(MODULE, task | {"journal": journal}, _TIMEOUT))
    return results


def tables(report: Result) -> dict[str, str]:
    """Return the tables, by their names in the docs."""
    results, block = report["results"], report["block"]
    growths = [result for result in results if "blocks" in result]
    costs = [
        [
            f"{index * block:,} to {(index + 1) * block:,}",
            spread(summary([result["blocks"][index] for result in growths])),
        ]
        for index in range(_BLOCKS if growths else 0)
    ]
    full = summary([result.get("dropping") for result in results if result["kind"] == "full"])
    costs.append([f"{_DEFAULT_CAPACITY:,}, and full", spread(full)])
    with_memory = [{"has_journal": False} | result for result in results if "by" in result]
    memory = [
        [
            ", ".join(
                [
                    f"{events:,}",
                    *(["with a journal"] if has_journal else []),
                    f"by {'tracemalloc' if by == 'tracemalloc' else 'resident memory'}",
                ]
            ),
            number((median(group, "bytes") or 0) / 1e6),
            number(median(group, "bytes_per_event")),
        ]
        for (has_journal, events, by), group in grouped(
            with_memory, "has_journal", "events", "by"
        ).items()
    ]
    return {
        "backlog": table(["events waiting", "CPU of an emit, ns"], costs),
        "memory": table(["events of 150 bytes", "MB", "bytes an event"], memory),
    }


def main() -> int:
    """Measure, and print the tables."""
    options = parser(__doc__, rounds=5).parse_args()
    if options.child:
        return answer(options.child, KINDS)
    block = 2_000 if options.quick else 100_000
    report = run_rounds(options, "backlog", lambda: _round(block), block=block)
    return conclude(tables(report), report["results"])


if __name__ == "__main__":
    sys.exit(main())
