"""A game loop with one SDK in it, in a separate process; started by ``benchmarks.side_by_side``.

The loop runs at 60 frames a second on an absolute schedule. A frame is a fixed amount of pure
Python work (the same number of iterations for every SDK) and 100 events of six fields; then it
sleeps until the next frame's deadline. One process (``frames``) measures:

- the frame: from its start to its sleep, wall time;
- the CPU time of the emits: this thread's clock around the block of 100, divided by 100. The
  events' dicts are made before the block, which holds nothing but the SDK's call and the ``for``
  loop;
- the lateness: how long after the deadline the sleep ended. A frame that has overrun its deadline
  doesn't sleep; it is counted, and the schedule starts again with it;
- the process's CPU time; the peak of its memory above its memory after the import; and how many
  events arrived.

Another process (``emits``) measures the wall time of each single emit in such a loop, with two
readings of the clock. These would disturb the figures above.

A second of frames runs before anything is recorded. At the end the SDK is shut down, within a time
limit, and the sink is asked how many of the recorded events arrived.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.harness import Result, Server, answer, ask_sink, quantile, resident_bytes
from benchmarks.peers import PEERS, Peer, forget_settings, make_events

FRAME = 1 / 60  # seconds
EVENTS_A_FRAME = 100
BINS_A_DECADE = 40
_WARM_UP = 1.0  # seconds
STOP_TIMEOUT = 10.0  # seconds that an SDK has to flush and shut down
_SETTLING = 3.0  # seconds that the sink has to see the last of it

now_ns, cpu_ns = time.perf_counter_ns, time.thread_time_ns


# The work of a frame.


def work(iterations: int) -> float:
    """Do the work of a frame, besides emitting."""
    x = y = 0.5
    for step in range(iterations):
        x += y * 0.016
        y -= x * 0.016
        if step % 7 == 0 and abs(x) > 100.0:
            x = y = 0.5
    return x


def calibrate(seconds: float) -> int:
    """Return how many iterations of the work take this long in a loop that sleeps."""
    iterations = 20_000
    for _ in range(3):  # the second and third find the number for a frame of the right length
        times = []
        for _ in range(40):
            started = now_ns()
            work(iterations)
            times.append(now_ns() - started)
            time.sleep(max(0.0, FRAME - times[-1] / 1e9))
        iterations = int(iterations * seconds * 1e9 / statistics.median(times))
    return iterations


# The loop.


class Loop:
    """Runs frames for a peer, and keeps what it measures of each.

    Args:
        peer: started.
        iterations: of the work in each frame.
    """

    def __init__(self, peer: Peer, iterations: int) -> None:
        self._peer = peer
        self._iterations = iterations
        self.emitted = 0
        self.forget()

    def forget(self) -> None:
        """Drop the measurements so far."""
        self.first = self.emitted
        self.frames = array.array("q")  # nanoseconds, as all below
        self.emit_cpu = array.array("q")
        self.lateness = array.array("q")
        self.single_emits = array.array("q")
        self.overruns = 0

    def run(self, seconds: float, *, emit: Callable[[Sequence[dict[str, object]]], None]) -> None:
        """Run frames for some seconds."""
        frame_ns, iterations = round(FRAME * 1e9), self._iterations
        deadline = now_ns()
        for _ in range(max(1, round(seconds / FRAME))):
            started = now_ns()
            work(iterations)
            if self._peer.emits:
                emit(make_events(self.emitted, EVENTS_A_FRAME))
                self.emitted += EVENTS_A_FRAME
            ended = now_ns()
            self.frames.append(ended - started)
            deadline += frame_ns
            if ended < deadline:
                time.sleep((deadline - ended) / 1e9)
                self.lateness.append(now_ns() - deadline)
            else:
                self.overruns += 1
                deadline = ended

    def emit_block(self, events: Sequence[dict[str, object]]) -> None:
        """Emit, with one reading of the CPU clock before and one after."""
        emit_all = self._peer.emit_all
        started = cpu_ns()
        emit_all(events)
        self.emit_cpu.append(cpu_ns() - started)

    def emit_singly(self, events: Sequence[dict[str, object]]) -> None:
        """Emit, with the wall clock read before and after each."""
        emit_all, record = self._peer.emit_all, self.single_emits.append
        for event in events:
            one = (event,)
            started = now_ns()
            emit_all(one)
            record(now_ns() - started)


# Figures.


def distribution(nanoseconds: Sequence[int]) -> Result | None:
    """Return quantiles and a histogram to draw, all in microseconds.

    Bin *b* of the histogram has the values from 10^(b/40) to 10^((b+1)/40) microseconds; bin 0 has
    also those below 1 microsecond.
    """
    if not nanoseconds:
        return None
    ordered = sorted(nanoseconds)
    histogram: dict[int, int] = {}
    for value in ordered:
        number = int(math.log10(max(1.0, value / 1000)) * BINS_A_DECADE)
        histogram[number] = histogram.get(number, 0) + 1
    return {
        "p50_us": quantile(ordered, 0.5) / 1000,
        "p99_us": quantile(ordered, 0.99) / 1000,
        "max_us": ordered[-1] / 1000,
        "count": len(ordered),
        "histogram": histogram,
    }


def _peak_bytes() -> int | None:
    """Return the most memory that was in RAM since ``_forget_peak``; None without /proc."""
    with contextlib.suppress(OSError, IndexError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return None


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # then the peak may be an earlier one
        Path("/proc/self/clear_refs").write_text("5")


# A child's life.


def _started(peer: Peer, sink: Server) -> Result:
    """Import the SDK and set it up; return the time and the memory that it took."""
    forget_settings()
    peer.load()
    resident = resident_bytes()
    _forget_peak()
    started = now_ns()
    peer.start(sink.port)
    took = (now_ns() - started) / 1e6
    peer.wait_until_ready()
    return {"start_ms": took, "resident_bytes": resident}


def _stopped(peer: Peer) -> Result:
    """Shut the SDK down, within the time limit; return the time and the failures."""
    failures: list[str] = []

    def stop() -> None:
        try:
            peer.stop(STOP_TIMEOUT)
        except Exception as error:
            failures.append(repr(error))

    stopper = threading.Thread(target=stop, daemon=True)
    started = time.monotonic()
    stopper.start()
    stopper.join(STOP_TIMEOUT + 1)
    if stopper.is_alive():
        failures.append(f"not stopped after {STOP_TIMEOUT:g} s")
    return {"stop_seconds": time.monotonic() - started, "stop_failures": failures}


def _arrived(sink: Server, first: int, until: float, expected: int) -> Result:
    """Return the sink's counts, once they no longer grow."""
    deadline = time.monotonic() + _SETTLING
    counts = _counts(sink, first, until)
    while counts["arrived"] < expected and time.monotonic() < deadline:
        before = counts["arrived"]
        time.sleep(0.5)
        counts = _counts(sink, first, until)
        if counts["arrived"] == before:
            break
    return counts


def _counts(sink: Server, first: int, until: float) -> Result:
    return ask_sink(sink.url, f"counts?first={first}&until={until!r}")


def _measure_frames(task: Result) -> Result:
    with Server("benchmarks.sink", "--keep") as sink:
        peer = PEERS[task["peer"]]()
        result = _started(peer, sink)
        loop = Loop(peer, task["iterations"])
        loop.run(_WARM_UP, emit=loop.emit_block)
        loop.forget()
        cpu, own_cpu, wall = time.process_time(), time.thread_time(), time.monotonic()
        loop.run(task["seconds"], emit=loop.emit_block)
        wall = time.monotonic() - wall
        cpu, own_cpu = time.process_time() - cpu, time.thread_time() - own_cpu
        until, last = time.time(), loop.emitted
        result |= _stopped(peer)
        peak = _peak_bytes()
        emitted = last - loop.first
        result |= _arrived(sink, loop.first, until, emitted if peer.sends else 0)
    resident, seen = result.pop("resident_bytes"), result.pop("seen")
    costs = [cost / EVENTS_A_FRAME for cost in loop.emit_cpu]
    return result | {
        "frame": distribution(loop.frames),
        "lateness": distribution(loop.lateness),
        "overruns": loop.overruns,
        "emit_cpu_ns": statistics.fmean(costs) if peer.emits else None,
        "cpu_share": cpu / wall,
        "background_cpu_share": max(0.0, cpu - own_cpu) / wall,
        "memory_bytes": peak - resident if peak and resident else None,
        "emitted": emitted,
        "bytes_per_event": result["body_bytes"] / seen if seen else None,
        "wall_seconds": wall,
    }


def _measure_emits(task: Result) -> Result:
    with Server("benchmarks.sink", "--keep") as sink:
        peer = PEERS[task["peer"]]()
        _started(peer, sink)
        loop = Loop(peer, task["iterations"])
        loop.run(_WARM_UP, emit=loop.emit_singly)
        loop.forget()
        loop.run(task["seconds"], emit=loop.emit_singly)
        result = _stopped(peer)
    return result | {"emit": distribution(loop.single_emits)}


def main() -> None:
    """Measure one peer as a child, and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--child", required=True, metavar="TASK", help="the task, as JSON")
    answer(parser.parse_args().child, {"frames": _measure_frames, "emits": _measure_emits})
    sys.stderr.flush()
    os._exit(0)  # an SDK has had its time: nothing runs at exit


if __name__ == "__main__":
    main()
