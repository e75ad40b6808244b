"""A game that runs for half an hour: memory, descriptors, threads and objects have to stay flat.

    python -m benchmarks.soak [--minutes 30] [--quick] [--json FILE]

A game loop at 60 fps emits 100 events a frame to the fast sink (a process of its own, which
remembers each event). Once a minute the sink cuts the connection. Every 10 seconds a sample is
taken: resident memory, open descriptors, threads, objects that the garbage collector tracks, the
backlog. The samples of the last quarter are compared with those of the first, by their medians
(the first 5 % are left out: that is the start), and a line is fitted for the growth in an hour.

At the end the ledgers have to agree: ``emitted == delivered + dropped`` after ``stop``, and the
sink has received exactly as many different events as were confirmed. Default settings, so events
may be dropped while a cut connection is made anew: at 6,000 events a second a store of 5,000 is
full before the longest first wait is over. They are counted, and missing at the sink.

Exit code 1: something grew beyond its bound, or the ledgers don't agree. With ``--quick`` (some
seconds) growth is told and not judged.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import (
    EVENT_TYPE,
    Result,
    Server,
    ask_sink,
    environment,
    event_data,
    parser,
    print_table,
    progress,
    resident_bytes,
    save,
)

_FPS = 60
_PER_FRAME = 100
_SIZE = 150
_STARTING = 0.05  # the part of the samples that is left out
_STOP_TIMEOUT = 20.0

BOUNDS = {"rss_bytes": 2 * 1024 * 1024, "descriptors": 0, "threads": 0, "objects": 200}
"""How much more the median of the last quarter may be than that of the first."""


def _descriptors() -> int | None:
    try:
        return len(list(Path("/proc/self/fd").iterdir())) - 1  # the one that lists them
    except OSError:
        return None


def _objects() -> int:
    """What is left after a collection: an exception and its frames wait for the next one."""
    gc.collect()
    return len(gc.get_objects())


def _sample(telemetry: Any, seconds: float) -> Result:
    stats = telemetry.stats()
    return {
        "seconds": seconds,
        "rss_bytes": resident_bytes(),
        "descriptors": _descriptors(),
        "threads": threading.active_count(),
        "objects": _objects(),
        "buffered": stats.buffered,
        "in_flight": stats.in_flight,
        "emitted": stats.emitted,
        "dropped": stats.dropped,
        "reconnects": stats.reconnects,
    }


class Soak:
    """The game, and what is done beside it.

    Args:
        telemetry: running.
        url: of the sink.
        cut_every: seconds.
        sample_every: seconds.
    """

    def __init__(self, telemetry: Any, url: str, cut_every: float, sample_every: float) -> None:
        self._telemetry = telemetry
        self._url = url
        self._cut_every = cut_every
        self._sample_every = sample_every
        self.samples: list[Result] = []

    def play(self, seconds: float) -> None:
        """Run the game for so long."""
        emit, data = self._telemetry.emit, event_data(_SIZE)
        start = next_frame = time.perf_counter()
        next_cut, next_sample = self._cut_every - self._sample_every / 2, 0.0
        while (now := time.perf_counter() - start) < seconds:
            for _ in range(_PER_FRAME):
                emit(EVENT_TYPE, data)
            if now >= next_cut:
                next_cut += self._cut_every
                self._cut()
            if now >= next_sample:
                next_sample += self._sample_every
                self._take_sample(now)
            next_frame = max(next_frame + 1 / _FPS, time.perf_counter() - 1 / _FPS)
            time.sleep(max(0.0, next_frame - time.perf_counter()))

    def _cut(self) -> None:
        # On a thread: a slow answer of a busy sink is no reason for the game to stand still.
        threading.Thread(target=self._ask_for_cut, name="cut").start()

    def _ask_for_cut(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            ask_sink(self._url, "cut")

    def _take_sample(self, now: float) -> None:
        sample = _sample(self._telemetry, now)
        self.samples.append(sample)
        if len(self.samples) % 6 == 1:
            rss = sample["rss_bytes"]
            memory = "" if rss is None else f", {rss / 1e6:.1f} MB"
            progress(f"soak: {now / 60:.1f} min, {sample['emitted']:,} events{memory}")


def _slope(samples: list[Result], name: str) -> float:
    """Growth in an hour, by least squares."""
    times = [sample["seconds"] / 3600 for sample in samples]
    return statistics.linear_regression(times, [sample[name] for sample in samples]).slope


def _growth(samples: list[Result]) -> dict[str, Result]:
    """First and last quarter, for each figure that has a bound."""
    samples = samples[int(len(samples) * _STARTING) + 1 :]
    quarter = len(samples) // 4
    if not quarter:
        return {}
    growth = {}
    for name, bound in BOUNDS.items():
        if any(sample[name] is None for sample in samples):
            continue
        first = statistics.median(sample[name] for sample in samples[:quarter])
        last = statistics.median(sample[name] for sample in samples[-quarter:])
        growth[name] = {
            "first_quarter": first,
            "last_quarter": last,
            "growth": last - first,
            "bound": bound,
            "per_hour": _slope(samples, name),
        }
    return growth


def _disagreements(stats: Any, received: Result) -> list[str]:
    """What the ledgers don't agree in."""
    wrong = []
    if stats.emitted != stats.delivered + stats.dropped + stats.buffered + stats.in_flight:
        wrong.append(f"the ledger doesn't balance: {stats}")
    if stats.buffered or stats.in_flight:
        wrong.append(f"something is left after stop: {stats}")
    if received["unique"] != stats.delivered:
        wrong.append(f"{stats.delivered} events were confirmed, {received['unique']} received")
    return wrong


def _report(result: Result, wrong: list[str]) -> None:
    rows: list[list[object]] = [
        [name, *(float(figures[key]) for key in _COLUMNS), figures["bound"]]
        for name, figures in result["growth"].items()
    ]
    print_table(
        f"{result['minutes']:.1f} minutes at {_FPS} fps, {_PER_FRAME} events a frame",
        ["median of", "first quarter", "last quarter", "growth", "growth in an hour", "bound"],
        rows,
    )
    ledger, received = result["ledger"], result["received"]
    print(", ".join(f"{name} {value:,}" for name, value in ledger.items()))
    print(f"received {received['unique']:,} events, and {received['repeats']:,} repeats")
    print("\n".join(wrong) or "flat, and the ledgers agree")


_COLUMNS = ("first_quarter", "last_quarter", "growth", "per_hour")
_LEDGER = ("emitted", "delivered", "dropped", "rejected", "reconnects")


def _run(seconds: float, cut_every: float, sample_every: float) -> tuple[Result, list[str]]:
    from redvsblue_telemetry import start_telemetry  # the environment comes first

    with Server("benchmarks.sink", "--ledger") as sink:
        telemetry = start_telemetry(enabled=True, url=sink.url)
        soak = Soak(telemetry, sink.url, cut_every, sample_every)
        try:
            soak.play(seconds)
        finally:
            telemetry.flush(_STOP_TIMEOUT)
            telemetry.stop(_STOP_TIMEOUT)
        stats, received = telemetry.stats(), ask_sink(sink.url)
    result: Result = {
        "minutes": seconds / 60,
        "ledger": {name: getattr(stats, name) for name in _LEDGER},
        "received": received,
        "growth": _growth(soak.samples),
        "samples": soak.samples,
    }
    return result, _disagreements(stats, received)


def main() -> int:
    """Play, and judge."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--minutes", type=float, default=30.0)
    arguments = options.parse_args()
    clean = environment()
    os.environ.clear()
    os.environ.update(clean)
    logging.getLogger("redvsblue_telemetry").addHandler(logging.NullHandler())
    seconds = 6.0 if arguments.quick else arguments.minutes * 60
    cut_every, sample_every = (2.0, 0.25) if arguments.quick else (60.0, 10.0)
    result, wrong = _run(seconds, cut_every, sample_every)
    grown = [
        f"{name} grew by {figures['growth']:,.0f}; {figures['bound']:,} are allowed"
        for name, figures in result["growth"].items()
        if figures["growth"] > figures["bound"]
    ]
    if not arguments.quick:
        wrong += grown
    result |= {"wrong": wrong}
    save(arguments.json, "soak", result)
    _report(result, wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
