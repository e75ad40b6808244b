"""How many bytes an event takes on the wire, and how much CPU it costs to send fewer.

    python -m benchmarks.wire_bytes [--rounds 3] [--seconds 60] [--quick]
        [--json benchmarks/results/wire-bytes.json]

1. *Bytes.* The demo's battle is played at 60 frames a second, and twelve clients listen to the same
   battle: with the default settings, which send the events of a second in batches of at most 50
   events; with a version and a context; with a longer drain interval, so that nearly all batches
   have 50; and with batches that are large enough for all that a second brings. Of each kind, one
   client isn't answered with an encoding, one is answered with ``deflate`` and one with ``zstd``.
   The sink counts what it reads from the sockets, from the handshakes to the close frames: the
   reports are part of it, TCP's own headers are not.
2. *The envelope.* The messages of a client with the default settings, a version and a context, with
   parts of the envelope left out (see ``ENVELOPES``), compressed as the SDK does it.
3. *The worker's CPU.* A game emits events of the battle, at about its usual rate and at 50 a
   frame, with the default settings; at 50 a frame in batches as large as they may be; and before it
   connects, so that a backlog waits. The main thread looks at the clocks meanwhile
   (``benchmarks.stalls`` describes how): the CPU time of the worker, for each event, and the
   longest time for which it can have kept the interpreter. That thread never rests, so it takes
   the interpreter for 5 ms at each call that lets go of it, and a backlog waits for that.
4. *Compression alone.* The same, with a thread that does nothing but compress, again and again: a
   batch of 50 events, or one of 256 KB.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from benchmarks.encodings import ENCODINGS, FPS, SEED, TEXT, available, battle_events
from benchmarks.harness import (
    Result,
    Server,
    answer,
    ask_sink,
    conclude,
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
from benchmarks.stalls import Between, Watch, worker_thread
from redvsblue_telemetry._compression import DEFLATE, ZSTD, pack
from redvsblue_telemetry.cli.demo.battle import BattleEngine

MODULE = "benchmarks.wire_bytes"
_NAMED = {"version": "1.4.2"}
USUAL, FIFTY = "default settings", "batches of 50"
NAMED = "the same, with a version and a context"
BATCHES: dict[str, dict[str, Any]] = {
    USUAL: {},
    NAMED: _NAMED,
    FIFTY: {"drain_interval": 10.0},
    "a batch a second": {"batch_size": 1000},
}
"""The settings of the clients; one with a version gets a context, too."""
BUSY = "50 events a frame"
_CAPACITY = 50_000  # so that none is dropped on a busy machine
_BACKLOG = 10_000  # events
LOADS: dict[str, tuple[int, dict[str, Any]]] = {
    "2 events a frame": (2, {}),
    BUSY: (50, {"capacity": _CAPACITY}),
    "50 events a frame, batches of 256 KB": (50, {"batch_size": 5000, "capacity": _CAPACITY}),
    "a backlog": (0, {"capacity": _CAPACITY}),
}
"""Events a frame, and settings; 0 for a backlog."""
_FRAME_NS = 1_000_000_000 // FPS
_PLAYER = "p-17"
PACKED = {"50 events": 50, "256 KB": 1300}
"""Events in the batch that is compressed again and again, by title."""
_PAUSE = 0.002  # seconds, between two of these
_STOP_TIMEOUT = 20.0  # seconds
_TIMEOUT = 60.0  # seconds for a child, beyond its game
_WARM_UP = 0.5  # seconds


def target(encoding: str, name: str = "game") -> str:
    """Return the target at which a sink answers with this encoding."""
    return f"/{name}?encodings={'' if encoding == TEXT else encoding}"


def url(sink: Server, encoding: str, name: str = "game") -> str:
    """Return the URL of this target."""
    return f"ws://127.0.0.1:{sink.port}{target(encoding, name)}"


# In the child: the bytes.


def battle(task: Result) -> Result:
    """Play the battle once, for several clients and for one whose messages are kept.

    Returns the messages of that client, and the number of events that each client delivered.
    """
    from redvsblue_telemetry import Telemetry, TelemetrySettings
    from redvsblue_telemetry.testing import RecordingServer

    with RecordingServer() as recorder:
        clients = {
            name: Telemetry(TelemetrySettings(enabled=True, url=url, **settings)).start()
            for name, url, settings in [*task["clients"], ("recorded", recorder.url, _NAMED)]
        }
        for client in clients.values():
            wait_for_state(client, "connected")
        _play(list(clients.values()), task["seconds"])
        for client in clients.values():
            client.stop(_STOP_TIMEOUT)
        stats = {name: client.stats() for name, client in clients.items()}
        texts = [_text(message) for message in recorder.messages]
    if any(figures.delivered != figures.emitted for figures in stats.values()):
        raise RuntimeError(f"not all was delivered: {stats}")
    delivered = {name: figures.delivered for name, figures in stats.items()}
    return {"messages": texts, "delivered": delivered}


def _text(message: str | bytes) -> str:
    return message if isinstance(message, str) else message.decode()


def _play(clients: Sequence[Any], seconds: float) -> None:
    """Play the battle as the demo does."""
    engine = BattleEngine(seed=SEED)
    named = [client for client in clients if client.settings.version]
    for client in named:
        client.context(player=_PLAYER)

    def note_round(event: Mapping[str, Any]) -> None:
        if event["type"] == "round_start":
            for client in named:
                client.context(round=event["data"]["round"])

    engine.on("telemetry", note_round)
    for client in clients:
        client.attach(engine)
    due = time.perf_counter()
    for _ in range(round(seconds * FPS)):
        for client in clients:
            client.frame()
        engine.update(1 / FPS)
        due += 1 / FPS
        time.sleep(max(0.0, due - time.perf_counter()))


# In the child: the cost.


def _frames(emit: Callable[..., None], per_frame: int) -> Between:
    """Return a function that emits so many events a frame at 60 fps, one at each call."""
    events = itertools.cycle(battle_events(2000))
    left, frame = per_frame, time.perf_counter_ns()

    def between(now: int) -> None:
        nonlocal left, frame
        if left:
            left -= 1
            emit(*next(events))
        elif now - frame >= _FRAME_NS:
            frame += _FRAME_NS if now - frame < 2 * _FRAME_NS else now - frame
            left = per_frame

    return between


def cost(task: Result) -> Result:
    """Play with a worker that compresses, or doesn't, and watch it."""
    from redvsblue_telemetry import start_telemetry

    telemetry = start_telemetry(enabled=True, url=task["url"], **task["settings"])
    wait_for_state(telemetry, "connected")
    before = 0
    if task["per_frame"]:
        between = _frames(telemetry.emit, task["per_frame"])
        Watch(worker_thread()).look(_WARM_UP, between)
        watch = Watch(worker_thread())
        before = telemetry.stats().emitted
        watch.look(task["seconds"], between)
        result = watch.summary()
    else:
        result = _drain(telemetry)
    events = telemetry.stats().emitted - before
    telemetry.stop(_STOP_TIMEOUT)
    stats = telemetry.stats()
    if stats.delivered != stats.emitted:
        raise RuntimeError(f"not all was delivered: {stats}")
    return result | {"events": events, **_each(result, events)}


def _drain(telemetry: Any) -> Result:
    """Watch the worker while it sends a backlog."""
    telemetry.set_online(False)
    wait_for_state(telemetry, "offline")
    for type_, data in battle_events(_BACKLOG):
        telemetry.emit(type_, data)
    telemetry.set_online(True)
    wait_for_state(telemetry, "connected")
    watch = Watch(worker_thread())
    watch.look(_TIMEOUT / 2, is_over=lambda: telemetry.stats().delivered >= _BACKLOG)
    result = watch.summary()
    return result | {"events_per_second": _BACKLOG / result["seconds"]}


def _each(result: Result, events: int) -> Result:
    cpu = result["worker_cpu_ms"]
    return {"worker_us_per_event": None if cpu is None or not events else 1000 * cpu / events}


def packing(task: Result) -> Result:
    """Compress a batch again and again on a thread, and watch that."""
    text = _batch(task["events"])
    pack_one = pack(task["encoding"])
    is_over = threading.Event()
    packed: list[bytes | None] = []

    def compress() -> None:
        while not is_over.wait(_PAUSE):
            packed.append(pack_one(text))

    thread = threading.Thread(target=compress)
    thread.start()
    try:
        watch = Watch(thread.ident)
        watch.look(task["seconds"])
    finally:
        is_over.set()
        thread.join()
    if None in packed:
        raise RuntimeError("the batch was not compressed")
    result = watch.summary()
    events = len(packed) * task["events"]
    result |= {"text_bytes": len(text), "calls": len(packed), "events": events}
    return result | _each(result, events)


def _batch(count: int) -> bytes:
    """Return a message with so many events of the battle, as the SDK sends it."""
    events = [
        {
            "id": f"Vb2TFWvzQZ-{number}",
            "sessionId": "9bJ8K9T0QO6ZQ0Q9m2b3cQ",
            "seq": number,
            "type": type_,
            "timestamp": 1_700_000_000_000 + 9 * number,
            "data": data,
        }
        for number, (type_, data) in enumerate(battle_events(count), start=1)
    ]
    return msgspec.json.encode(events)


KINDS = {"battle": battle, "cost": cost, "packing": packing}


# The envelope.

Event = dict[str, Any]
_ENVELOPE = ("id", "sessionId", "seq", "timestamp", "version", "context")


def _without(*names: str) -> Callable[[list[Event]], Any]:
    def strip(events: list[Event]) -> list[Event]:
        return [{name: event[name] for name in event if name not in names} for event in events]

    return strip


def _once_a_batch(events: list[Event]) -> Any:
    """Return a batch that has all that its events share once, and from which they can be rebuilt.

    The numbers are consecutive, an id is the session's run and the number, and a timestamp is
    given as its difference from the one before.
    """
    first = events[0]
    times = [first["timestamp"], *(event["timestamp"] for event in events)]
    rows = [
        [event["type"], now - before, event["data"]]
        for before, now, event in zip(times, times[1:], events, strict=False)
    ]
    shared = {name: first[name] for name in _ENVELOPE if name in first}
    return shared | {"events": rows}


ENVELOPES: dict[str, Callable[[list[Event]], Any]] = {
    "as it is": lambda events: events,
    **{f"without `{name}`": _without(name) for name in _ENVELOPE},
    "once for each batch": _once_a_batch,
    "nothing but `type` and `data`": _without(*_ENVELOPE),
}
"""How a batch is changed, by title: events without a part, or a smaller envelope."""


def envelopes(messages: Sequence[str]) -> list[Result]:
    """Return the bytes an event of each envelope, by encoding, and the time that packing takes."""
    batches = [json.loads(message) for message in messages]
    events = sum(map(len, batches))
    results = []
    for title, change in ENVELOPES.items():
        texts = [msgspec.json.encode(change(batch)) for batch in batches]
        for encoding in available():
            if encoding == TEXT:
                figures = {"bytes_per_event": sum(map(len, texts)) / events}
            else:
                figures = _packed(encoding, texts, events)
            results.append({"envelope": title, "encoding": encoding, **figures})
    return results


def _packed(encoding: str, texts: Sequence[bytes], events: int) -> Result:
    pack_one = pack(encoding)
    sizes = [len(pack_one(text) or text) for text in texts]
    began = time.thread_time()
    for text in texts:
        pack_one(text)
    seconds = time.thread_time() - began
    return {"bytes_per_event": sum(sizes) / events, "pack_us_per_event": 1e6 * seconds / events}


# In the parent.


def _measure_bytes(sink: Server, seconds: float) -> list[Result]:
    """Measure the bytes of all clients in one battle, and the envelope."""
    places = {
        f"{count}": place for count, place in enumerate(itertools.product(BATCHES, available()))
    }
    clients = [
        (name, url(sink, encoding, name), BATCHES[batches])
        for name, (batches, encoding) in places.items()
    ]
    before = ask_sink(sink.url)["targets"]
    task = {"kind": "battle", "seconds": seconds, "clients": clients}
    played = run_child(MODULE, task, _TIMEOUT + seconds)
    if "failure" in played:
        return [{"kind": "bytes", **played}]
    after = ask_sink(sink.url)["targets"]
    results = []
    for name, (batches, encoding) in places.items():
        known = target(encoding, name)
        figures = _difference(after[known], before.get(known, {}))
        result = {"kind": "bytes", "batches": batches, "encoding": encoding, **figures}
        result["bytes_per_event"] = figures["wire_bytes"] / figures["events"]
        delivered = played["delivered"][name]
        if delivered != figures["events"]:
            result["failure"] = f"{delivered} events delivered, but {figures['events']} arrived"
        elif encoding != TEXT and not figures["compressed"]:
            result["failure"] = f"{encoding}: no message came compressed"
        results.append(result)
    return results + [{"kind": "envelope"} | result for result in envelopes(played["messages"])]


def _difference(after: Result, before: Result) -> Result:
    return {name: count - before.get(name, 0) for name, count in after.items()}


def _measure_costs(sink: Server, seconds: float) -> Iterator[Result]:
    for load, (per_frame, settings) in LOADS.items():
        text = None
        for encoding in available():
            task = {"kind": "cost", "url": url(sink, encoding), "per_frame": per_frame}
            task |= {"seconds": seconds, "settings": settings}
            result = run_child(MODULE, task, _TIMEOUT + seconds)
            each = result.get("worker_us_per_event")
            if encoding == TEXT:
                text = each
            elif each is not None and text is not None:
                result["more_us_per_event"] = each - text
            yield {"kind": "cost", "load": load, "encoding": encoding} | result


def _measure_packing(seconds: float) -> Iterator[Result]:
    for (title, events), encoding in itertools.product(PACKED.items(), available()[1:]):
        task = {"kind": "packing", "encoding": encoding, "events": events, "seconds": seconds}
        result = run_child(MODULE, task, _TIMEOUT + seconds)
        yield {"kind": "packing", "load": title, "encoding": encoding} | result


def _round(sink: Server, seconds: float, cost_seconds: float) -> list[Result]:
    return [
        *_measure_bytes(sink, seconds),
        *_measure_costs(sink, cost_seconds),
        *_measure_packing(cost_seconds),
    ]


def _of_kind(report: Result, kind: str) -> list[Result]:
    return [r for r in report["results"] if r["kind"] == kind and "encoding" in r]


def times_fewer(report: Result, batches: str, encoding: str) -> Result:
    """Summarize how many times fewer bytes an encoding takes than text in the same round."""
    results = {
        (r["round"], r["encoding"]): r.get("bytes_per_event")
        for r in _of_kind(report, "bytes")
        if r["batches"] == batches
    }
    return summary(
        [
            figure / results[round_, encoding]
            for (round_, each), figure in results.items()
            if each == TEXT and figure and results.get((round_, encoding))
        ]
    )


def more_cpu(report: Result, load: str, encoding: str) -> Result:
    """Summarize how much an encoding adds to the worker's CPU time of an event, in µs."""
    results = grouped(_of_kind(report, "cost"), "load", "encoding").get((load, encoding), [])
    return summary([result.get("more_us_per_event") for result in results])


def longest_hold(report: Result, load: str, encoding: str) -> Result:
    """Summarize the longest hold of the interpreter by compression alone, in ms."""
    results = grouped(_of_kind(report, "packing"), "load", "encoding").get((load, encoding), [])
    return summary([result.get("longest_hold_ms") for result in results])


def _bytes_table(report: Result) -> str:
    rows = []
    groups = grouped(_of_kind(report, "bytes"), "batches", "encoding")
    for batches in BATCHES:
        row = [batches]
        for encoding in ENCODINGS:
            group = groups.get((batches, encoding), [])
            row.append(number(median(group, "bytes_per_event")))
        row += [spread(times_fewer(report, batches, encoding)) for encoding in (DEFLATE, ZSTD)]
        rows.append(row)
    headers = [
        "bytes an event",
        *ENCODINGS,
        "deflate, times fewer",
        "zstd, times fewer",
    ]
    return table(headers, rows)


def _cost_table(report: Result) -> str:
    rows = []
    for (load, encoding), group in grouped(_of_kind(report, "cost"), "load", "encoding").items():
        more = "-" if encoding == TEXT else spread(more_cpu(report, load, encoding))
        rows.append([load, *_watched(encoding, group, more)])
    for (load, encoding), group in grouped(_of_kind(report, "packing"), "load", "encoding").items():
        rows.append([f"compression alone, {load}", *_watched(encoding, group, "-")])
    headers = ["", "sent", "CPU, µs an event", "beyond text", "longest hold, ms", "> 0.3 ms"]
    headers.append("events a second")
    return table(headers, rows)


def _watched(encoding: str, group: Sequence[Result], more: str) -> list[str]:
    beyond = [result["hold_ms_beyond"]["0.3"] for result in group if "hold_ms_beyond" in result]
    return [
        encoding,
        spread(summary([result.get("worker_us_per_event") for result in group])),
        more,
        spread(summary([result.get("longest_hold_ms") for result in group])),
        f"{sum(beyond):,}",
        number(median(group, "events_per_second")),
    ]


def _envelope_table(report: Result) -> str:
    groups = grouped(_of_kind(report, "envelope"), "envelope", "encoding")
    rows = []
    for title in ENVELOPES:
        row = [title]
        for encoding in ENCODINGS:
            figure, whole = (
                median(groups.get((name, encoding), []), "bytes_per_event")
                for name in (title, next(iter(ENVELOPES)))
            )
            share = f" ({100 * figure / whole:.0f} %)" if figure and whole else ""
            row.append(number(figure) + share)
        rows.append(row)
    return table(["bytes an event, without frames", *ENCODINGS], rows)


def tables(report: Result) -> dict[str, str]:
    """Return the tables, by their names in the docs."""
    return {
        "wire-bytes": _bytes_table(report),
        "wire-cost": _cost_table(report),
        "envelope": _envelope_table(report),
    }


def _measure(options: argparse.Namespace) -> Result:
    seconds = 6.0 if options.quick else options.seconds
    cost_seconds = 1.0 if options.quick else min(10.0, options.seconds)
    with Server("benchmarks.sink", "--acks", "--reports") as sink:
        return run_rounds(
            options,
            "wire-bytes",
            lambda: _round(sink, seconds, cost_seconds),
            seconds=seconds,
            cost_seconds=cost_seconds,
        )


def main() -> int:
    """Measure, and print the tables."""
    commands = parser(__doc__, rounds=3)
    commands.add_argument("--seconds", type=float, default=60.0, help="of the battle")
    options = commands.parse_args()
    if options.child:
        return answer(options.child, KINDS)
    report = _measure(options)
    return conclude(tables(report), report["results"])


if __name__ == "__main__":
    sys.exit(main())
