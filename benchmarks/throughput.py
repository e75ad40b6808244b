"""Confirmed events a second, end to end, against what websocket-client alone can do.

    python -m benchmarks.throughput [--rounds N] [--quick] [--json FILE]

Three questions, each answered by fresh processes that send to one fast sink in a process of its
own (``benchmarks/sink.py``), interleaved, for several rounds:

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

2. *With several threads that emit?* ``emit``, the same number of events among 1, 2 and 4 threads.

3. *Does the round trip limit the rate?* Default settings, events of 150 bytes at an offered rate,
   one share a frame at 60 fps, through a proxy that delays (``benchmarks/delay_proxy.py``; the
   proxy is on the way at 0 ms, too). The rate starts when the connection is open. Told are the
   events delivered and dropped, and the highest backlog. A frame that comes late emits one share
   and no more, so look at the rate that was reached.

An event of 150 bytes has 150 bytes of type, timestamp and data; on the wire it has about 90 more.
The ratio is that of one round, against the ceiling with the same batches; of these, the median.
CPU is that of the client's process.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.measuring import (
    EVENT_TYPE,
    Result,
    Server,
    answer,
    ask_sink,
    event_data,
    failures,
    greatest,
    grouped,
    median,
    parser,
    print_table,
    progress,
    run_child,
    save,
    summary,
    wait_for_state,
)

MODULE = "benchmarks.throughput"
BATCH_SIZES = (10, 50, 200)
EVENT_SIZES = (150, 500, 2000)
THREADS = (1, 2, 4)
ROUND_TRIPS_MS = (0, 20, 100, 300)
RATES = (2_000, 6_000, 20_000)
_BATCH, _SIZE = 50, 150  # where the other is varied
_TOTAL_BYTES = 60_000_000
_MOST_EVENTS = 300_000
_EMIT_CAPACITY = 100_000
_BLOCK = 256
_TIMEOUT = 120.0  # seconds for one measurement
_FPS = 60


# In the child.


def _telemetry(task: Result, **settings: Any) -> Any:
    from redvsblue_telemetry import start_telemetry  # the ceiling does without

    return start_telemetry(enabled=True, url=task["url"], **settings)


def sample(task: Result) -> Result:
    """One event as the SDK has it on the wire."""
    from redvsblue_telemetry.testing import RecordingServer  # needs an extra

    with RecordingServer() as server:
        telemetry = _telemetry({"url": server.url})
        telemetry.emit(EVENT_TYPE, event_data(task["size"]))
        telemetry.stop(10)
        return {"event": server.events[0]}


def _ready_made(task: Result) -> Iterator[bytes]:
    """The batches that the SDK would send: its event, renumbered."""
    import msgspec

    event = task["event"]
    stem = event["id"].removesuffix(str(event["seq"]))
    numbers = iter(range(1, task["events"] + 1))
    while numbered := tuple(itertools.islice(numbers, task["batch"])):
        yield msgspec.json.encode([{**event, "id": f"{stem}{n}", "seq": n} for n in numbered])


def ceiling(task: Result) -> Result:
    """websocket-client alone, with ready-made bytes."""
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
    """The SDK with a full store: from the open connection to the last confirmation."""
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
    """Emit so many events, as fast as can be without a drop."""
    data = event_data(size)
    emit = telemetry.emit
    for done in range(0, count, _BLOCK):
        for _ in range(min(_BLOCK, count - done)):
            emit(EVENT_TYPE, data)
        while telemetry.stats().buffered >= _EMIT_CAPACITY // 2:
            waits.append(1)
            time.sleep(0.001)


def emit(task: Result) -> Result:
    """The SDK with everything in it: from the first emit to the last confirmation."""
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
    """Default settings, at an offered rate."""
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
    """One child's result, and what the sink saw of it."""
    timeout = _TIMEOUT + task.get("seconds", 0.0)
    try:
        before = ask_sink(sink.url)
        result = run_child(MODULE, task, timeout)
        after = ask_sink(sink.url)
    except (OSError, ValueError) as error:
        return {"failure": f"the sink doesn't answer: {error}"}
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
    """Pairs of batch size and event size."""
    by_batch = [(batch, _SIZE) for batch in BATCH_SIZES]
    return by_batch + [(_BATCH, size) for size in EVENT_SIZES if size != _SIZE]


def _unthrottled(sink: Server, samples: dict[int, Any], most: int) -> list[Result]:
    """One round of the first two questions."""
    results = []
    for batch, size in _configurations():
        events = min(most, _TOTAL_BYTES // size)
        task = {"url": sink.url, "batch": batch, "size": size, "events": events, "threads": 1}
        ceiled = _measured(sink, task | {"kind": "ceiling", "event": samples[size]})
        results.append(task | {"kind": "ceiling"} | ceiled)
        kinds = [("drain", 1), ("emit", 1)]
        if (batch, size) == (_BATCH, _SIZE):
            kinds += [("emit", count) for count in THREADS if count > 1]
        for kind, threads in kinds:
            asked = task | {"kind": kind, "threads": threads}
            result = asked | _measured(sink, asked)
            if "events_per_second" in result and "events_per_second" in ceiled:
                result["ratio"] = result["events_per_second"] / ceiled["events_per_second"]
            results.append(result)
    return results


def _offered(sink: Server, proxies: dict[int, Server], seconds: float) -> list[Result]:
    """One round of the third question."""
    results = []
    for round_trip, rate in itertools.product(proxies, RATES):
        url = proxies[round_trip].url
        task = {"kind": "offered", "url": url, "rate": rate, "seconds": seconds}
        known = {"kind": "offered", "round_trip_asked_ms": round_trip, "rate": rate}
        results.append(known | _measured(sink, task))
    return results


_SUMS = ("emitted", "delivered", "dropped")
_UNTHROTTLED_COLUMNS = (
    "measured, batch, event bytes, median/s, least, greatest, of the ceiling, least, "
    "CPU us/event, wire bytes, sink's CPU share, failures"
)
_OFFERED_COLUMNS = (
    "round trip, offered/s, reached/s, emitted, delivered, dropped, highest backlog, "
    "highest in flight, measured round trip (ms), failures"
)


def _report(results: list[Result]) -> None:
    rows: list[list[object]] = []
    unthrottled = [result for result in results if result["kind"] != "offered"]
    for key, group in grouped(unthrottled, "batch", "size", "kind", "threads").items():
        rates = summary([result.get("events_per_second") for result in group])
        ratios = summary([result.get("ratio") for result in group])
        rows.append(
            [
                f"{key[2]}, {key[3]} thread(s)" if key[2] == "emit" else key[2],
                *key[:2],
                *(rates[name] for name in ("median", "min", "max")),
                *(ratios[name] for name in ("median", "min")),
                median(group, "cpu_us_per_event"),
                median(group, "wire_bytes_per_event"),
                median(group, "sink_cpu_share"),
                len(failures(group)),
            ]
        )
    print_table(
        "Confirmed events a second, round trip 0",
        _UNTHROTTLED_COLUMNS.split(", "),
        rows,
    )
    rows = []
    asked = [result for result in results if result["kind"] == "offered"]
    for key, group in grouped(asked, "round_trip_asked_ms", "rate").items():
        rows.append(
            [
                f"{key[0]} ms",
                key[1],
                median(group, "reached_rate"),
                *(sum(r.get(name, 0) for r in group) for name in _SUMS),
                *(greatest(group, name) for name in ("highest_backlog", "highest_in_flight")),
                median(group, "round_trip_ms"),
                len(failures(group)),
            ]
        )
    print_table(
        "Default settings, at an offered rate (sums and greatest over the rounds)",
        _OFFERED_COLUMNS.split(", "),
        rows,
    )


def main() -> int:
    """Measure, and print."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--seconds", type=float, default=10.0, help="at each offered rate")
    arguments = options.parse_args()
    if arguments.child:
        return answer(arguments.child, KINDS)
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1.0
    most = 5_000 if arguments.quick else _MOST_EVENTS
    started = time.monotonic()
    samples = {}
    for size in EVENT_SIZES:
        result = run_child(MODULE, {"kind": "sample", "size": size}, _TIMEOUT)
        if "failure" in result:
            print(f"no event could be captured: {result['failure']}", file=sys.stderr)
            return 1
        samples[size] = result["event"]
    results: list[Result] = []
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(Server("benchmarks.sink"))
        proxies = {
            ms: stack.enter_context(
                Server("benchmarks.delay_proxy", "--to", sink.port, "--delay", ms / 2000)
            )
            for ms in ROUND_TRIPS_MS
        }
        for number in range(1, arguments.rounds + 1):
            progress(f"throughput: round {number} of {arguments.rounds}")
            results += [{"round": number} | r for r in _unthrottled(sink, samples, most)]
            results += [{"round": number} | r for r in _offered(sink, proxies, arguments.seconds)]
            save(arguments.json, "throughput", {"rounds": number, "results": results})
    _report(results)
    for failure in failures(results):
        print(f"failure: {failure}")
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
