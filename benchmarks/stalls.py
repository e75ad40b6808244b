"""The longest time that the worker keeps the GIL from the game's thread, measured directly.

    python -m benchmarks.stalls [--rounds N] [--seconds S] [--quick] [--json FILE]

The main thread does nothing but read the clock: a *gap* between two readings is time in which it
didn't run Python. At each look it reads three clocks: the wall's (``perf_counter_ns``), its own CPU
time, and the CPU time of the worker's thread (``time.pthread_getcpuclockid``). So a gap has parts:

- *waited*: the gap without the CPU that the main thread used itself (its garbage collection, its
  system calls). On a busy machine this is mostly the operating system's doing.
- *hold*: the CPU that the worker used within the gap, at most ``waited``. The worker can't have
  kept the GIL for longer than it computed, so this is its own doing however busy the machine is;
  and as some of it may have been computed without the GIL, it is an upper bound. Where the clock
  of another thread can't be read (macOS, Windows), "hold" is empty, and the results have
  ``waited`` and, to compare, ``floor_waited_ms``.

``sys.setswitchinterval`` is left at its default. Each measurement is a fresh process, which first
measures the *floor*: the same looks with no telemetry started. Phases:

- ``steady``: default settings; the main thread emits 100 events a frame at 60 fps, one between two
  looks, so that an emit is part of a gap.
- ``drain 5,000``, ``drain 100,000``: a full store; from ``set_online(True)`` until all is
  confirmed.
- ``start ws``, ``start wss`` (the default trust store), ``start wss, own context``: the first
  ``start_telemetry()`` of a process. The call itself is timed; the looks begin when it returns, and
  cover the first connect and the worker's next second. (The default trust store refuses ``wss``:
  the sink has its own authority.)
- ``connect ws``, ``connect wss``: ``set_online(False)``, ``set_online(True)``, ten times and more.
- ``storm``: a server that resets each connection after 50 ms, with ``backoff_base`` and
  ``backoff_max`` of 20 ms; 100 events a frame.

A hold may span system calls too short for the main thread to get its turn meanwhile: it was kept
waiting all the same. A look takes about a microsecond; gaps below 50 us are not kept. ``worst``
has the five longest gaps, with the worker's innermost calls when it let go.
"""

from __future__ import annotations

import contextlib
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import (
    EVENT_TYPE,
    Result,
    Server,
    answer,
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

MODULE = "benchmarks.stalls"
_SHORTEST_GAP_NS = 50_000  # shorter ones are not kept
_PLACED_HOLD_NS = 200_000  # for a longer hold, the worker's place at its end is kept
_PLACE_DEPTH = 4  # calls
_LIMITS_MS = (0.1, 0.3, 1.0, 5.0)
_FRAME_NS = 1_000_000_000 // 60
_PER_FRAME = 100
_CHECK_NS = 5_000_000  # between two checks for the end of a phase
_WORKER = "redvsblue-telemetry"  # the name of the worker's thread
_TIMEOUT = 60.0
_DRAIN_TIMEOUT = 30.0  # seconds
_SIZE = 150

Between = Callable[[int], None]
"""Called between two looks, with the time of the first."""


# In the child: the looks.


def _nothing(_: int) -> None:
    """Do nothing between two looks."""


def worker_thread() -> int | None:
    """Return the identifier of the worker's thread, if it runs."""
    workers = [thread for thread in threading.enumerate() if thread.name == _WORKER]
    return workers[0].ident if workers else None


def cpu_clock(thread: int | None) -> Callable[[], int] | None:
    """Return a function that reads a thread's CPU time in ns; None where that is impossible."""
    if thread is None or not hasattr(time, "pthread_getcpuclockid"):
        return None
    clock = time.pthread_getcpuclockid(thread)
    read = time.clock_gettime_ns
    return lambda: read(clock)


def _place(thread: int | None) -> str | None:
    """Return the functions that a thread is in, innermost first."""
    frame = sys._current_frames().get(thread or 0)
    names: list[str] = []
    while frame is not None and len(names) < _PLACE_DEPTH:
        names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names) or None


class Watch:
    """Looks at the clocks, and keeps the gaps.

    Args:
        worker: the identifier of the worker's thread, if there is one.
        keeps_places: keep the worker's innermost calls, for ``worst``. For that moment, this refers
            to all that the worker's functions refer to, also if they return.
    """

    def __init__(self, worker: int | None = None, *, keeps_places: bool = True) -> None:
        worker_clock = cpu_clock(worker)
        self._thread = worker if keeps_places else None
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
        """Look for some seconds, or until ``is_over``, which is checked every 5 ms."""
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
            if now - last > _SHORTEST_GAP_NS:
                place = _place(self._thread) if worker - worker_last > _PLACED_HOLD_NS else None
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
        """Return the gaps, in ms."""
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
    """Return a function that emits 100 events a frame at 60 fps, one at each call."""
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
    """Start telemetry, and return it connected, with a watch on its worker."""
    from redvsblue_telemetry import start_telemetry  # the floor is measured without it

    telemetry = start_telemetry(**_settings(task))
    watch = Watch(worker_thread())
    wait_for_state(telemetry, "connected")
    return telemetry, watch


def _watched(telemetry: Any, watch: Watch, **more: Any) -> Result:
    stats = telemetry.stats()
    result = watch.summary() | more
    result |= {"delivered": stats.delivered, "dropped": stats.dropped, "error": stats.last_error}
    telemetry.stop(2)
    return result | {"reconnects": stats.reconnects}


def steady(task: Result) -> Result:
    """Play with default settings and 100 events a frame."""
    telemetry, watch = _start(task)
    watch.look(task["seconds"], _frames(telemetry.emit))
    return _watched(telemetry, watch)


def drain(task: Result) -> Result:
    """Drain a full store."""
    task["settings"] = {"capacity": task["events"]}
    telemetry, watch = _start(task)
    telemetry.set_online(False)
    wait_for_state(telemetry, "offline")
    data = event_data(_SIZE)
    for _ in range(task["events"]):
        telemetry.emit(EVENT_TYPE, data)
    telemetry.set_online(True)
    start = time.perf_counter()
    watch.look(_DRAIN_TIMEOUT, is_over=lambda: telemetry.stats().delivered >= task["events"])
    seconds = time.perf_counter() - start
    if (delivered := telemetry.stats().delivered) < task["events"]:
        raise TimeoutError(f"only {delivered} of {task['events']} events were delivered")
    return _watched(telemetry, watch, drained_in_seconds=seconds)


def start(task: Result) -> Result:
    """Start telemetry for the first time in a process, and watch the first second."""
    from redvsblue_telemetry import start_telemetry  # the import is not part of the start

    settings = _settings(task)
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    telemetry = start_telemetry(**settings)
    wall, cpu = time.perf_counter_ns() - wall, time.thread_time_ns() - cpu
    watch = Watch(worker_thread())
    watch.look(min(1.0, task["seconds"]))
    return _watched(telemetry, watch, call_ms=wall / 1e6, call_cpu_ms=cpu / 1e6)


def connect(task: Result) -> Result:
    """Connect again and again."""
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
    """Play against a server that resets every connection."""
    task["settings"] = {"backoff_base": 0.02, "backoff_max": 0.02}
    telemetry, watch = _start(task)
    watch.look(task["seconds"], _frames(telemetry.emit))
    return _watched(telemetry, watch)


PHASES = {"steady": steady, "drain": drain, "start": start, "connect": connect, "storm": storm}


def _measure(task: Result) -> Result:
    floor = Watch()
    floor.look(min(2.0, task["seconds"]))
    floor_waited_ms = floor.summary()["longest_waited_ms"]
    return {"floor_waited_ms": floor_waited_ms} | PHASES[task["phase"]](task)


# In the parent.


def _tasks(plain: Server, storming: Server, secure: Server | None) -> dict[str, Result]:
    """Return the tasks, by the names of the phases."""
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


def _round(tasks: dict[str, Result], seconds: float) -> list[Result]:
    results = []
    for name, task in tasks.items():
        if "url" in task:
            asked = task | {"kind": "stall", "seconds": seconds}
            result = run_child(MODULE, asked, _TIMEOUT + seconds)
        else:
            result = {"failure": "no sink with TLS: that needs trustme"}
        results.append({"name": name} | result)
    return results


def tables(report: Result) -> dict[str, str]:
    """Return the table, by its name in the docs."""
    rows = []
    for (name,), group in grouped(report["results"], "name").items():
        beyond = [result["hold_ms_beyond"] for result in group if "hold_ms_beyond" in result]
        rows.append(
            [
                name,
                spread(summary([result.get("longest_hold_ms") for result in group])),
                *(f"{sum(counts[limit] for counts in beyond):,}" for limit in ("0.3", "1")),
                number(median(group, "drained_in_seconds")),
                number(median(group, "call_ms")),
            ]
        )
    headers = ["", "longest hold, ms", "> 0.3 ms", "> 1 ms", "drained, s", "call to start, ms"]
    return {"stalls": table(headers, rows)}


def main() -> int:
    """Measure, and print the table."""
    commands = parser(__doc__, rounds=5)
    commands.add_argument("--seconds", type=float, default=5.0, help="of a phase")
    commands.add_argument("--only", default="", help="the phases whose names start like this")
    options = commands.parse_args()
    if options.child:
        return answer(options.child, {"stall": _measure})
    seconds = 0.5 if options.quick else options.seconds
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(Server("benchmarks.sink"))
        storming = stack.enter_context(Server("benchmarks.sink", "--reset-every", "0.05"))
        secure = None
        with contextlib.suppress(RuntimeError):  # each phase that needs it records a failure
            secure = stack.enter_context(Server("benchmarks.sink", "--tls"))
        tasks = _tasks(plain, storming, secure)
        chosen = {name: task for name, task in tasks.items() if name.startswith(options.only)}
        report = run_rounds(options, "stalls", lambda: _round(chosen, seconds))
    return conclude(tables(report), report["results"])


if __name__ == "__main__":
    sys.exit(main())
