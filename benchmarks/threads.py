"""Do the counts stay exact when many threads emit flat out? Most of all on a Python without a GIL.

    python -m benchmarks.threads [--threads N] [--events N] [--rounds N]

Threads emit as fast as they can, the worker delivers to a real server with acks, and the threads',
the library's and the server's counts are compared: each number arrives once or is counted as
dropped, in the order of emission over all and within each thread, and nothing stays in flight. In
one half of the runs the store is small and overflows; in the other the threads pause while it is
half full, so that not one event may be dropped. Neither store may grow far above its capacity. The
exit code is 1 if anything disagrees.

The rate is for information only: server and threads share one process.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator

from benchmarks.chaos import problems
from benchmarks.harness import wait_for_state
from benchmarks.receiver import Arrivals, Receiver
from redvsblue_telemetry import Telemetry, TelemetrySettings

_SMALL, _LARGE = 5_000, 50_000  # events in the store
_BURST = 100  # events that a thread emits between two looks at the store
_MAX_EXCESS = 2_048  # events above the capacity; twice as many as make a thread wait
_FLUSH_TIMEOUT = 600.0  # seconds


def run(*, threads: int, events: int, overflows: bool) -> Iterator[str]:
    """Emit ``events`` in each of some threads; yield what disagrees, and at last the result."""
    session = "threads"
    arrivals = Arrivals(session, lambda: telemetry.stats().delivered)
    capacity = _SMALL if overflows else _LARGE + threads * _BURST
    start = threading.Barrier(threads)
    most = [0] * threads  # events that each thread saw in the store

    def emit(thread: int) -> None:
        start.wait()
        for n in range(events):
            if n % _BURST == 0:
                most[thread] = max(most[thread], telemetry.stats().buffered)
                while not overflows and telemetry.stats().buffered > _LARGE // 2:
                    time.sleep(0.001)
            telemetry.emit("threads", thread=thread, n=n)

    with Receiver(arrivals) as receiver:
        url = f"ws://127.0.0.1:{receiver.listen()}/"
        telemetry = Telemetry(
            TelemetrySettings(enabled=True, url=url, session_id=session, capacity=capacity)
        )
        telemetry.start()  # not before it has its name, by which each handshake asks for the stats
        wait_for_state(telemetry, "connected")
        emitters = [threading.Thread(target=emit, args=(number,)) for number in range(threads)]
        started = time.monotonic()
        for emitter in emitters:
            emitter.start()
        for emitter in emitters:
            emitter.join()
        seconds = time.monotonic() - started
        telemetry.flush(_FLUSH_TIMEOUT)
        telemetry.stop(10)
    stats = telemetry.stats()
    yield from problems(stats, arrivals, threads * events)
    if stats.dropped and not overflows:
        yield f"{stats.dropped} events were dropped, though the store never was full"
    if max(most) > capacity + _MAX_EXCESS:
        yield f"{max(most)} events were in the store, whose capacity is {capacity}"
    if stats.rejected:
        yield f"{stats.rejected} events were rejected"
    print(
        f"{threads} threads x {events:,} events, {'overflow' if overflows else 'no overflow'}: "
        f"{stats.delivered:,} delivered, {stats.dropped:,} dropped, "
        f"at most {max(most):,} of {capacity:,} in the store, "
        f"{arrivals.duplicates:,} repeated, {threads * events / seconds:,.0f} emits/s",
        flush=True,
    )


def main() -> int:
    """Run it, and print each problem."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--threads", type=int, default=8, help="default: %(default)s")
    options.add_argument(
        "--events", type=int, default=1_000_000, help="of each thread; default: %(default)s"
    )
    options.add_argument("--rounds", type=int, default=1, help="default: %(default)s")
    arguments = options.parse_args()
    is_gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, {'with' if is_gil_enabled else 'without'} the GIL")
    found = 0
    for _ in range(arguments.rounds):
        for overflows in (True, False):
            for problem in run(
                threads=arguments.threads, events=arguments.events, overflows=overflows
            ):
                print("PROBLEM", problem)
                found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
