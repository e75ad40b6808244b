"""Confirmed events a second, end to end, compared with websocket-client alone.

    python -m benchmarks.throughput [--rounds N] [--quick] [--json FILE]
    python -m benchmarks.throughput --round-trips [--rounds N] [--quick] [--json FILE]

Three questions, each answered by fresh processes that send to one fast sink in a separate process
(``benchmarks/sink.py``), interleaved, for several rounds:

1. *How many events a second, when nobody waits?* By batch size and by event size:

   - ``ceiling``: websocket-client alone. ``websocket.create_connection()``, then ``send()`` of
     batches made beforehand, text frames, with the very bytes that the SDK sends (one of its events
     is captured and renumbered); the clock runs from the first send to the Pong of one Ping at the
     end.
   - ``drain``: the SDK with a full store. All events are emitted while it is offline, into a store
     that is large enough; the clock runs from the open connection to the last confirmation.
   - ``emit``: the SDK with everything in it. The clock runs from the first emit to the last
     confirmation. Each thread emits blocks of 256 events and looks at ``stats().buffered``
     after each; at half the capacity (50,000) it sleeps 1 ms at a time. So nothing is dropped.

   With batches of 50 events of 150 bytes, the last two are measured with a journal, too.

2. *With several threads that emit?* ``emit``, the same number of events among 1, 2 and 4 threads.

3. With ``--round-trips``: *does the round trip limit the rate?* Default settings, events of 150
   bytes at an offered rate, one share a frame at 60 fps, through a proxy that delays every byte
   (the proxy stands between at 0 ms, too). It bounds neither the bytes on the way nor TCP itself,
   whose connects and acknowledgments are loopback's, so the round trip bounds only the protocol
   above. The rate starts when the connection is open. The table shows the events delivered and
   dropped, and the highest backlog. A frame that comes late emits one share and no more, so look
   at ``reached_rate`` in the results.

An event of 150 bytes has 150 bytes of type, timestamp and data; on the wire it has about 90 more.
A ratio compares with the ceiling of the same round and the same batches; the table shows their
median. CPU is that of the client's process.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import (
    EVENT_TYPE,
    JOURNAL_PREFIX,
    Result,
    Server,
    answer,
    ask_sink,
    conclude,
    event_data,
    grouped,
    median,
    number,
    parser,
    run_child,
    run_rounds,
    spread,
    summary,
    table,
    wait_for_state,
)
from tests.support.fault_proxy import FaultProxy

MODULE = "benchmarks.throughput"
BATCH_SIZES = (10, 50, 200)
EVENT_SIZES = (150, 500, 2000)
THREADS = (1, 2, 4)
ROUND_TRIPS_MS = (0, 20, 100, 300)
RATES = (2_000, 6_000, 20_000)
_BATCH, _SIZE = 50, 150  # where the other is varied
_TOTAL_BYTES = 60_000_000
_MAX_EVENTS = 300_000
_EMIT_CAPACITY = 100_000
_JOURNAL_BYTES = 1 << 30  # the limit of the journal: more than all the events
_BLOCK = 256
_TIMEOUT = 120.0  # seconds for one measurement
_FPS = 60
_LINE_BYTES = 64 * 1024 * 1024  # that the proxy may have on the way: more than ever are


# In the child.


def _telemetry(task: Result, **settings: Any) -> Any:
    from redvsblue_telemetry import start_telemetry  # the ceiling is measured without it

    if task.get("journal"):
        settings.pop("capacity", None)  # the journal has another limit
        settings |= {"journal": task["journal"], "journal_max_bytes": _JOURNAL_BYTES}
    return start_telemetry(enabled=True, url=task["url"], **settings)


def sample(task: Result) -> Result:
    """Capture one event as the SDK sends it."""
    from redvsblue_telemetry.testing import RecordingServer  # needs an extra

    with RecordingServer() as server:
        telemetry = _telemetry({"url": server.url})
        telemetry.emit(EVENT_TYPE, event_data(task["size"]))
        telemetry.stop(10)
        return {"event": server.events[0]}


def _ready_made(task: Result) -> Iterator[bytes]:
    """Yield the batches that the SDK would send: its event, renumbered."""
    import msgspec

    event = task["event"]
    stem = event["id"].removesuffix(str(event["seq"]))
    numbers = iter(range(1, task["events"] + 1))
    while numbered := tuple(itertools.islice(numbers, task["batch"])):
        yield msgspec.json.encode([{**event, "id": f"{stem}{n}", "seq": n} for n in numbered])


def ceiling(task: Result) -> Result:
    """Send ready-made bytes by websocket-client alone."""
    import websocket

    batches = list(_ready_made(task))
    client = websocket.create_connection(task["url"], timeout=_TIMEOUT)
    send = client.send
    text = websocket.ABNF.OPCODE_TEXT
    cpu, start = time.process_time(), time.perf_counter()
    for batch in batches:
        send(batch, text)
    client.ping(b"end")
    while client.recv_data_frame(control_frame=True)[0] != websocket.ABNF.OPCODE_PONG:
        pass
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    client.close()
    return _rate(task["events"], seconds, cpu)


def _rate(events: int, seconds: float, cpu: float) -> Result:
    return {
        "events": events,
        "seconds": seconds,
        "events_per_second": events / seconds,
        "cpu_us_per_event": cpu / events * 1e6,
    }


def _confirmed(telemetry: Any, task: Result, seconds: float, cpu: float) -> Result:
    stats = telemetry.stats()
    telemetry.stop(2)
    if stats.delivered != task["events"]:
        raise RuntimeError(f"not all of {task['events']} events were delivered: {stats}")
    return _rate(task["events"], seconds, cpu)


def drain(task: Result) -> Result:
    """Drain a full store: from the open connection to the last confirmation."""
    from redvsblue_telemetry import ConnectionState

    opened: list[tuple[float, float]] = []

    def note(state: ConnectionState) -> None:
        if state is ConnectionState.CONNECTED:
            opened.append((time.process_time(), time.perf_counter()))

    telemetry = _telemetry(
        task, batch_size=task["batch"], capacity=task["events"] + 1, on_state_change=note
    )
    telemetry.set_online(False)
    wait_for_state(telemetry, "offline")
    opened.clear()
    data = event_data(task["size"])
    for _ in range(task["events"]):
        telemetry.emit(EVENT_TYPE, data)
    telemetry.set_online(True)
    telemetry.flush(_TIMEOUT)
    end, end_cpu = time.perf_counter(), time.process_time()
    cpu, start = opened[-1]
    return _confirmed(telemetry, task, end - start, end_cpu - cpu)


def _emit(telemetry: Any, count: int, size: int, waits: list[int]) -> None:
    """Emit some events, as fast as possible without a drop."""
    data = event_data(size)
    emit = telemetry.emit
    for done in range(0, count, _BLOCK):
        for _ in range(min(_BLOCK, count - done)):
            emit(EVENT_TYPE, data)
        while telemetry.stats().buffered >= _EMIT_CAPACITY // 2:
            waits.append(1)
            time.sleep(0.001)


def emit(task: Result) -> Result:
    """Emit and send: from the first emit to the last confirmation."""
    telemetry = _telemetry(task, batch_size=task["batch"], capacity=_EMIT_CAPACITY)
    wait_for_state(telemetry, "connected")
    waits: list[int] = []
    share = task["events"] // task["threads"]
    task = task | {"events": share * task["threads"]}
    work = (telemetry, share, task["size"], waits)
    threads = [threading.Thread(target=_emit, args=work) for _ in range(task["threads"] - 1)]
    cpu, start = time.process_time(), time.perf_counter()
    for thread in threads:
        thread.start()
    _emit(*work)
    for thread in threads:
        thread.join()
    emitted = time.perf_counter() - start
    telemetry.flush(_TIMEOUT)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    result = _confirmed(telemetry, task, seconds, cpu)
    return result | {"seconds_emitting": emitted, "waits": len(waits)}


def offered(task: Result) -> Result:
    """Emit at an offered rate, with default settings."""
    telemetry = _telemetry(task)
    wait_for_state(telemetry, "connected")
    data = event_data(_SIZE)
    highest = in_flight = 0
    owed = 0.0
    start = next_frame = time.perf_counter()
    for _ in range(round(task["seconds"] * _FPS)):
        owed += task["rate"] / _FPS
        for _ in range(int(owed)):
            telemetry.emit(EVENT_TYPE, data)
        owed -= int(owed)
        stats = telemetry.stats()
        highest, in_flight = max(highest, stats.buffered), max(in_flight, stats.in_flight)
        next_frame = max(next_frame + 1 / _FPS, time.perf_counter() - 1 / _FPS)
        time.sleep(max(0.0, next_frame - time.perf_counter()))
    seconds = time.perf_counter() - start
    confirmed = telemetry.flush(20)
    flushed = time.perf_counter() - start - seconds
    stats = telemetry.stats()
    telemetry.stop(5)
    return {
        "reached_rate": stats.emitted / seconds,
        "emitted": stats.emitted,
        "delivered": stats.delivered,
        "dropped": stats.dropped,
        "all_confirmed": confirmed and stats.delivered == stats.emitted,
        "highest_backlog": highest,
        "highest_in_flight": in_flight,
        "flush_seconds": flushed,
        "round_trip_ms": stats.round_trip and stats.round_trip * 1000,
    }


KINDS = {"sample": sample, "ceiling": ceiling, "drain": drain, "emit": emit, "offered": offered}


# In the parent.


def _measured(sink: Server, task: Result) -> Result:
    """Run a child; return its result, with the sink's counts."""
    timeout = _TIMEOUT + task.get("seconds", 0.0)
    try:
        before = ask_sink(sink.url)
        result = run_child(MODULE, task, timeout)
        after = ask_sink(sink.url)
    except (OSError, ValueError) as error:
        return {"failure": f"the sink did not answer: {error}"}
    if "seconds" in result:
        cpu = after["cpu_seconds"] - before["cpu_seconds"]
        result["sink_cpu_share"] = cpu / result["seconds"]
    result["received"] = after["events"] - before["events"]
    sent_bytes = after["bytes"] - before["bytes"]
    result["wire_bytes_per_event"] = sent_bytes / result["received"] if result["received"] else None
    sent = result.get("events", result.get("delivered"))
    if "failure" not in result and sent != result["received"]:
        result["failure"] = f"{sent} events were confirmed, but {result['received']} arrived"
    return result


def _configurations() -> list[tuple[int, int]]:
    """Return the pairs of batch size and event size."""
    by_batch = [(batch, _SIZE) for batch in BATCH_SIZES]
    return by_batch + [(_BATCH, size) for size in EVENT_SIZES if size != _SIZE]


def _unthrottled(sink: Server, samples: dict[int, Any], max_events: int) -> list[Result]:
    """Measure one round of the first two questions."""
    results = []
    for batch, size in _configurations():
        events = min(max_events, _TOTAL_BYTES // size)
        task = {"url": sink.url, "batch": batch, "size": size, "events": events, "threads": 1}
        ceiled = _measured(sink, task | {"kind": "ceiling", "event": samples[size]})
        results.append(task | {"kind": "ceiling"} | ceiled)
        kinds = [("drain", 1, False), ("emit", 1, False)]
        if (batch, size) == (_BATCH, _SIZE):
            kinds += [("drain", 1, True), ("emit", 1, True)]
            kinds += [("emit", count, False) for count in THREADS if count > 1]
        for kind, threads, has_journal in kinds:
            asked = task | {"kind": kind, "threads": threads, "has_journal": has_journal}
            with tempfile.TemporaryDirectory(prefix=JOURNAL_PREFIX) as folder:
                journal = folder if has_journal else None
                result = asked | _measured(sink, asked | {"journal": journal})
            if "events_per_second" in result and "events_per_second" in ceiled:
                result["ratio"] = result["events_per_second"] / ceiled["events_per_second"]
            results.append(result)
    return results


def _offered(sink: Server, proxies: dict[int, FaultProxy], seconds: float) -> list[Result]:
    """Measure one round of the third question."""
    results = []
    for round_trip, rate in itertools.product(proxies, RATES):
        url = f"ws://127.0.0.1:{proxies[round_trip].port}/telemetry"
        task = {"kind": "offered", "url": url, "rate": rate, "seconds": seconds}
        known = {"kind": "offered", "round_trip_asked_ms": round_trip, "rate": rate}
        results.append(known | _measured(sink, task))
    return results


_TITLES = {"ceiling": "websocket-client alone", "drain": "a backlog", "emit": "with the emits"}


def _rates(results: list[Result]) -> str:
    """The first two questions: by size of batch and event, and by threads."""
    rows = []
    results = [{"has_journal": False} | result for result in results]
    groups = grouped(results, "batch", "size", "kind", "threads", "has_journal")
    for (batch, size, kind, threads, has_journal), group in groups.items():
        title = _TITLES[kind] + (", journal" if has_journal else "")
        rows.append(
            [
                title + (f", {threads} threads" if threads > 1 else ""),
                str(batch),
                str(size),
                number(median(group, "events_per_second")),
                "1" if kind == "ceiling" else spread(summary([r.get("ratio") for r in group])),
                number(median(group, "cpu_us_per_event")),
            ]
        )
    headers = ["", "batch", "bytes", "events a second", "of the ceiling", "CPU, µs an event"]
    return table(headers, rows)


def _round_trips(results: list[Result]) -> str:
    """The third question: by round trip and rate, summed over the rounds."""
    rows = []
    for (round_trip, rate), group in grouped(results, "round_trip_asked_ms", "rate").items():
        sums = [sum(r.get(n, 0) for r in group) for n in ("emitted", "delivered", "dropped")]
        backlog = max(result.get("highest_backlog", 0) for result in group)
        rows.append([f"{round_trip} ms", *(f"{count:,}" for count in (rate, *sums, backlog))])
    headers = ["round trip", "events a second", "emitted", "delivered", "dropped", "most waiting"]
    return table(headers, rows)


def tables(report: Result) -> dict[str, str]:
    """Return the table, by its name in the docs."""
    if report["benchmark"] == "round-trips":
        return {"round-trips": _round_trips(report["results"])}
    return {"throughput": _rates(report["results"])}


def _measure_rates(options: argparse.Namespace) -> Result:
    """Answer the first two questions."""
    max_events = 5_000 if options.quick else _MAX_EVENTS
    samples = {}
    for size in EVENT_SIZES:
        result = run_child(MODULE, {"kind": "sample", "size": size}, _TIMEOUT)
        if "failure" in result:
            sys.exit(f"no event could be captured: {result['failure']}")
        samples[size] = result["event"]
    with Server("benchmarks.sink") as sink:
        return run_rounds(options, "throughput", lambda: _unthrottled(sink, samples, max_events))


def _measure_round_trips(options: argparse.Namespace) -> Result:
    """Answer the third question."""
    seconds = 1.0 if options.quick else options.seconds
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(Server("benchmarks.sink"))
        proxies = {}
        for round_trip in ROUND_TRIPS_MS:
            proxy = FaultProxy(sink.port, queue_bytes=_LINE_BYTES)
            proxies[round_trip] = stack.enter_context(proxy)
            proxy.delay(round_trip / 2000)
        return run_rounds(options, "round-trips", lambda: _offered(sink, proxies, seconds))


def main() -> int:
    """Measure, and print the table."""
    commands = parser(__doc__, rounds=5)
    commands.add_argument("--round-trips", action="store_true", help="only the third question")
    commands.add_argument("--seconds", type=float, default=10.0, help="at each offered rate")
    options = commands.parse_args()
    if options.child:
        return answer(options.child, KINDS)
    report = _measure_round_trips(options) if options.round_trips else _measure_rates(options)
    return conclude(tables(report), report["results"])


if __name__ == "__main__":
    sys.exit(main())
