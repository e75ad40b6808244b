"""The longest time that the worker keeps the GIL from the game's thread, found directly.

    python -m benchmarks.stalls [--rounds N] [--seconds S] [--quick] [--json FILE]

The main thread does nothing but look at the clock: a *gap* between two looks is time in which it
didn't run Python. At each look it reads three clocks: the wall's (``perf_counter_ns``), its own CPU
time, and the CPU time of the worker's thread (``time.pthread_getcpuclockid``). So a gap is told
apart:

- *waited*: the gap without the CPU that the main thread used itself (its garbage collection, its
  system calls). On a busy machine that is mostly the operating system's doing.
- *hold*: the CPU that the worker used within the gap, at most ``waited``. What it didn't compute it
  can't have kept the GIL for, so this is the worker's doing whatever else the machine does; and as
  some of it may have been computed without the GIL, it is an upper bound. Where the clock of
  another thread can't be read (macOS, Windows) there is no hold, and ``waited`` against the floor
  remains.

``sys.setswitchinterval`` is left at its default. Each measurement is a fresh process, which first
measures the *floor*: the same looks with no telemetry started. Phases:

- ``steady``: default settings; the main thread emits 100 events a frame at 60 fps, one between two
  looks, so that an emit is within a gap like anything else.
- ``drain 5,000``, ``drain 100,000``: a full store; from ``set_online(True)`` until all is
  confirmed.
- ``start ws``, ``start wss`` (the default trust store), ``start wss, own context``: the first
  ``start_telemetry()`` of a process. The call itself is timed; the looks begin when it returns, and
  cover the first connect and what the worker does after (``wss`` with the default trust store is
  refused by it: the sink's authority is its own).
- ``connect ws``, ``connect wss``: ``set_online(False)``, ``set_online(True)``, ten times and more.
- ``storm``: a server that resets each connection after 50 ms, with ``backoff_base`` and
  ``backoff_max`` of 20 ms; 100 events a frame.

A hold may span system calls too short for the main thread to get its turn meanwhile: it was kept
waiting all the same. Looks take about a microsecond; gaps below 50 us are not kept. The JSON has
the worst five of each measurement, with the worker's innermost calls when it let go.
"""

from __future__ import annotations

import contextlib
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import (
    EVENT_TYPE,
    Result,
    Server,
    answer,
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
    wait_for_state,
)

MODULE = "benchmarks.stalls"
_KEPT_NS = 50_000
_TOLD_NS = 200_000  # of a hold that is longer, it is told where the worker was at its end
_FRAMES_TOLD = 4
_LIMITS_MS = (0.1, 0.3, 1.0, 5.0)
_FRAME_NS = 1_000_000_000 // 60
_PER_FRAME = 100
_CHECK_NS = 5_000_000  # between two questions whether a phase is over
_WORKER = "redvsblue-telemetry"  # the name of the worker's thread
_TIMEOUT = 60.0
_LONGEST_DRAIN = 30.0  # seconds
_SIZE = 150

Between = Callable[[int], None]
"""What is done between two looks; it is given the time of the first."""


# In the child: the looks.


def _nothing(_: int) -> None:
    """Between two looks, nothing is done."""


def _worker() -> int | None:
    """The identifier of the worker's thread; None if there is none."""
    workers = [thread for thread in threading.enumerate() if thread.name == _WORKER]
    return workers[0].ident if workers else None


def _cpu_clock(thread: int | None) -> Callable[[], int] | None:
    """Reads the CPU time of a thread, in ns; None where that can't be done."""
    if thread is None or not hasattr(time, "pthread_getcpuclockid"):
        return None
    clock = time.pthread_getcpuclockid(thread)
    read = time.clock_gettime_ns
    return lambda: read(clock)


def _place(thread: int | None) -> str | None:
    """The functions that a thread is in, from the inside out."""
    frame = sys._current_frames().get(thread or 0)
    names: list[str] = []
    while frame is not None and len(names) < _FRAMES_TOLD:
        names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names) or None


class Watch:
    """Looks at the clocks, and keeps the gaps.

    Args:
        worker: the identifier of the worker's thread, if there is one.
    """

    def __init__(self, worker: int | None = None) -> None:
        worker_clock = _cpu_clock(worker)
        self._thread = worker
        self._has_worker = worker_clock is not None
        self._worker_clock = worker_clock or int
        # Wall, own CPU, worker's CPU, and where the worker was when it let go.
        self._gaps: list[tuple[int, int, int, str | None]] = []
        self._looks = self._wall = self._worker = 0

    def look(
        self,
        seconds: float,
        between: Between = _nothing,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Look for so many seconds, or until it is over, which is asked now and then."""
        clock, own_clock = time.perf_counter_ns, time.thread_time_ns
        worker_clock = self._worker_clock
        keep = self._gaps.append
        started, worker_started = clock(), worker_clock()
        end, check = started + int(seconds * 1e9), started
        looks = 0
        last, own_last, worker_last = clock(), own_clock(), worker_clock()
        while last < end:
            between(last)
            now, own, worker = clock(), own_clock(), worker_clock()
            if now - last > _KEPT_NS:
                place = _place(self._thread) if worker - worker_last > _TOLD_NS else None
                keep((now - last, own - own_last, worker - worker_last, place))
                now, own, worker = clock(), own_clock(), worker_clock()
            if now > check:
                if is_over():
                    break
                check = now + _CHECK_NS
            last, own_last, worker_last = now, own, worker
            looks += 1
        self._looks += looks
        self._wall += clock() - started
        self._worker += worker_clock() - worker_started

    def summary(self) -> Result:
        """What was seen, in ms."""
        gaps: list[dict[str, Any]] = [
            {
                "gap_ms": wall / 1e6,
                "waited_ms": max(0, wall - own) / 1e6,
                "hold_ms": min(max(0, wall - own), worker) / 1e6 if self._has_worker else None,
                "let_go_at": place,
            }
            for wall, own, worker, place in self._gaps
        ]
        result: Result = {
            "looks": self._looks,
            "seconds": self._wall / 1e9,
            "worker_cpu_ms": self._worker / 1e6 if self._has_worker else None,
        }
        for name in ("gap_ms", "waited_ms", "hold_ms"):
            lengths = [gap[name] for gap in gaps if gap[name] is not None]
            result[f"longest_{name}"] = max(lengths, default=0.0)
            result[f"{name}_beyond"] = {
                f"{limit:g}": sum(length > limit for length in lengths) for limit in _LIMITS_MS
            }
            if name == "hold_ms" and not self._has_worker:
                result["longest_hold_ms"] = None
        worst = "hold_ms" if self._has_worker else "waited_ms"
        gaps.sort(key=lambda gap: gap[worst], reverse=True)
        return result | {"worst": gaps[:5]}


def _frames(emit: Callable[..., None]) -> Between:
    """Emits 100 events a frame at 60 fps, one at a time."""
    data = event_data(_SIZE)
    left, frame = _PER_FRAME, time.perf_counter_ns()

    def between(now: int) -> None:
        nonlocal left, frame
        if left:
            left -= 1
            emit(EVENT_TYPE, data)
        elif now - frame >= _FRAME_NS:
            frame += _FRAME_NS if now - frame < 2 * _FRAME_NS else now - frame
            left = _PER_FRAME

    return between


# In the child: the phases.


def _settings(task: Result) -> Result:
    settings: Result = {"enabled": True, "url": task["url"], **task.get("settings", {})}
    if task.get("ca"):
        settings["ssl_context"] = ssl.create_default_context(cadata=task["ca"])
    return settings


def _start(task: Result) -> tuple[Any, Watch]:
    """Telemetry that is connected, and a watch on its worker."""
    from redvsblue_telemetry import start_telemetry  # the floor does without

    telemetry = start_telemetry(**_settings(task))
    watch = Watch(_worker())
    wait_for_state(telemetry, "connected")
    return telemetry, watch


def _watched(telemetry: Any, watch: Watch, **more: Any) -> Result:
    stats = telemetry.stats()
    result = watch.summary() | more
    result |= {"delivered": stats.delivered, "dropped": stats.dropped, "error": stats.last_error}
    telemetry.stop(2)
    return result | {"reconnects": stats.reconnects}


def steady(task: Result) -> Result:
    """Default settings, 100 events a frame."""
    telemetry, watch = _start(task)
    watch.look(task["seconds"], _frames(telemetry.emit))
    return _watched(telemetry, watch)


def drain(task: Result) -> Result:
    """From a full store to an empty one."""
    task["settings"] = {"capacity": task["events"]}
    telemetry, watch = _start(task)
    telemetry.set_online(False)
    wait_for_state(telemetry, "offline")
    data = event_data(_SIZE)
    for _ in range(task["events"]):
        telemetry.emit(EVENT_TYPE, data)
    telemetry.set_online(True)
    start = time.perf_counter()
    watch.look(_LONGEST_DRAIN, is_over=lambda: telemetry.stats().delivered >= task["events"])
    seconds = time.perf_counter() - start
    if (delivered := telemetry.stats().delivered) < task["events"]:
        raise TimeoutError(f"only {delivered} of {task['events']} events were delivered")
    return _watched(telemetry, watch, drained_in_seconds=seconds)


def start(task: Result) -> Result:
    """The first start of a process: the call, and what follows."""
    from redvsblue_telemetry import start_telemetry  # its import is not the start

    settings = _settings(task)
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    telemetry = start_telemetry(**settings)
    wall, cpu = time.perf_counter_ns() - wall, time.thread_time_ns() - cpu
    watch = Watch(_worker())
    watch.look(min(1.0, task["seconds"]))
    return _watched(telemetry, watch, call_ms=wall / 1e6, call_cpu_ms=cpu / 1e6)


def connect(task: Result) -> Result:
    """Connections, one after the other."""
    telemetry, watch = _start(task)
    end = time.monotonic() + task["seconds"]
    connects = 0
    while connects < 10 or time.monotonic() < end:
        telemetry.set_online(False)
        watch.look(1.0, is_over=lambda: telemetry.stats().state.value == "offline")
        telemetry.set_online(True)
        watch.look(1.0, is_over=lambda: telemetry.stats().state.value == "connected")
        connects += 1
    return _watched(telemetry, watch, connects=connects)


def storm(task: Result) -> Result:
    """A server that resets every connection."""
    task["settings"] = {"backoff_base": 0.02, "backoff_max": 0.02}
    telemetry, watch = _start(task)
    watch.look(task["seconds"], _frames(telemetry.emit))
    return _watched(telemetry, watch)


PHASES = {"steady": steady, "drain": drain, "start": start, "connect": connect, "storm": storm}


def _measure(task: Result) -> Result:
    floor = Watch()
    floor.look(min(2.0, task["seconds"]))
    return {"floor": floor.summary()} | PHASES[task["phase"]](task)


# In the parent.


def _tasks(plain: Server, storming: Server, secure: Server | None) -> dict[str, Result]:
    """What is measured, by the names of the phases."""
    ws = {"url": plain.url}
    wss, ca = ({"url": secure.url}, secure.hello["ca"]) if secure else ({}, None)
    return {
        "steady": ws | {"phase": "steady"},
        "drain 5,000": ws | {"phase": "drain", "events": 5_000},
        "drain 100,000": ws | {"phase": "drain", "events": 100_000},
        "start ws": ws | {"phase": "start"},
        "start wss": wss | {"phase": "start"},
        "start wss, own context": wss | {"phase": "start", "ca": ca},
        "connect ws": ws | {"phase": "connect"},
        "connect wss": wss | {"phase": "connect", "ca": ca},
        "storm": {"url": storming.url, "phase": "storm"},
    }


def _report(results: list[Result]) -> None:
    rows: list[list[object]] = []
    calls: list[list[object]] = []
    for (name,), group in grouped(results, "name").items():
        fine = [result for result in group if "failure" not in result]
        floors = [result["floor"] for result in fine]
        row: list[object] = [name]
        for figure in ("longest_hold_ms", "longest_waited_ms", "longest_gap_ms"):
            row += [median(fine, figure), greatest(fine, figure)]
        row += [median(floors, "longest_waited_ms"), greatest(floors, "longest_waited_ms")]
        row += [sum(r["hold_ms_beyond"][limit] for r in fine) for limit in ("0.3", "1")]
        row += [median(fine, "worker_cpu_ms"), median(fine, "reconnects")]
        rows.append([*row, len(group) - len(fine)])
        if any("call_ms" in result for result in fine):
            times = [
                figure(fine, n) for n in ("call_ms", "call_cpu_ms") for figure in (median, greatest)
            ]
            calls.append([name, *times])
    print_table(
        "The longest that the game's thread is kept waiting, ms: median and greatest of the rounds",
        _COLUMNS.split(", "),
        rows,
    )
    title = "The first start_telemetry() of a process, on the game's thread, ms"
    if calls:
        print_table(title, ["", "wall", "greatest", "CPU", "greatest"], calls)


_COLUMNS = (
    "phase, hold, greatest, waited, greatest, gap, greatest, floor: waited, greatest, "
    "holds > 0.3 ms, holds > 1 ms, worker CPU, reconnects, failures"
)


def main() -> int:
    """Measure, and print."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--seconds", type=float, default=5.0, help="of a phase")
    options.add_argument("--only", help="the phases whose names start like this")
    arguments = options.parse_args()
    if arguments.child:
        return answer(arguments.child, {"stall": _measure})
    rounds = 1 if arguments.quick else arguments.rounds
    seconds = 0.5 if arguments.quick else arguments.seconds
    results: list[Result] = []
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(Server("benchmarks.sink"))
        storming = stack.enter_context(Server("benchmarks.sink", "--reset-every", "0.05"))
        secure = None
        with contextlib.suppress(RuntimeError):  # which is recorded where it is missed
            secure = stack.enter_context(Server("benchmarks.sink", "--tls"))
        for number in range(1, rounds + 1):
            progress(f"stalls: round {number} of {rounds}")
            for name, task in _tasks(plain, storming, secure).items():
                if arguments.only and not name.startswith(arguments.only):
                    continue
                asked = task | {"kind": "stall", "seconds": seconds}
                if "url" in task:
                    result = run_child(MODULE, asked, _TIMEOUT + seconds)
                else:
                    result = {"failure": "no sink with TLS: that needs trustme"}
                results.append({"round": number, "name": name} | result)
            save(arguments.json, "stalls", {"rounds": number, "results": results})
    _report(results)
    for failure in failures(results):
        print(f"failure: {failure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
