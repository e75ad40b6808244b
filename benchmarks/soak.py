"""A game that runs for half an hour: memory, descriptors, threads and objects have to stay flat.

    python -m benchmarks.soak [--minutes 30] [--quick] [--json FILE]

A game loop at 60 fps emits 100 events a frame to the fast sink (a separate process, which remembers
each event). Once a minute the sink cuts the connection. Every 10 seconds a sample is
taken: resident memory, open descriptors, threads, objects that the garbage collector tracks, the
backlog. The samples of the last quarter are compared with those of the first, by their medians
(the first 5 % are left out: that is the start), and a line is fitted for the growth in an hour.

At the end the counts have to agree. The client has emitted as many events as the game loop counted;
after ``stop``, none of them is buffered or in flight; and the sink has received exactly as many
different events as the client counts as delivered. With the default settings, events may be dropped
while a connection that was cut is opened again: at 6,000 events a second, a store of 5,000 is full
before the longest first wait is over. The client counts them as dropped, and the sink lacks them.

The exit code is 1 if something grew beyond its bound, or if the counts don't agree. With
``--quick`` (some seconds) growth is printed, but not checked.
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
from typing import Any

from benchmarks.harness import (
    EVENT_TYPE,
    Result,
    Server,
    ask_sink,
    conclude,
    environment,
    event_data,
    number,
    open_descriptors,
    parser,
    progress,
    resident_bytes,
    save,
    table,
)

_FPS = 60
_PER_FRAME = 100
_SIZE = 150
_STARTING = 0.05  # the share of the samples that is left out
_STOP_TIMEOUT = 20.0

BOUNDS = {"rss_bytes": 2 * 1024 * 1024, "descriptors": 0, "threads": 0, "objects": 200}
"""How much more the median of the last quarter may be than that of the first."""


def _objects() -> int:
    """Return the objects left after a collection, which frees exceptions and their frames."""
    gc.collect()
    return len(gc.get_objects())


def _sample(telemetry: Any, seconds: float) -> Result:
    stats = telemetry.stats()
    return {
        "seconds": seconds,
        "rss_bytes": resident_bytes(),
        "descriptors": open_descriptors(),
        "threads": threading.active_count(),
        "objects": _objects(),
        "buffered": stats.buffered,
        "in_flight": stats.in_flight,
        "emitted": stats.emitted,
        "dropped": stats.dropped,
        "reconnects": stats.reconnects,
    }


class Soak:
    """The game, its cuts and its samples.

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
        self.emitted = 0

    def play(self, seconds: float) -> None:
        """Run the game for some seconds."""
        emit, data = self._telemetry.emit, event_data(_SIZE)
        start = next_frame = time.perf_counter()
        next_cut, next_sample = self._cut_every - self._sample_every / 2, 0.0
        while (now := time.perf_counter() - start) < seconds:
            for _ in range(_PER_FRAME):
                emit(EVENT_TYPE, data)
            self.emitted += _PER_FRAME
            if now >= next_cut:
                next_cut += self._cut_every
                self._cut()
            if now >= next_sample:
                next_sample += self._sample_every
                self._take_sample(now)
            next_frame = max(next_frame + 1 / _FPS, time.perf_counter() - 1 / _FPS)
            time.sleep(max(0.0, next_frame - time.perf_counter()))

    def _cut(self) -> None:
        # On a thread: the game doesn't wait for the answer of a busy sink.
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
    """Return the growth in an hour, by least squares."""
    times = [sample["seconds"] / 3600 for sample in samples]
    return statistics.linear_regression(times, [sample[name] for sample in samples]).slope


def _growth(samples: list[Result]) -> dict[str, Result]:
    """Return the medians of the first and the last quarter, for each figure with a bound."""
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


def disagreements(stats: Any, emitted: int, received: Result) -> list[str]:
    """Compare the client's counts with those of the game and of the sink.

    The client derives ``in_flight`` as the emitted events that are in no other count. So an event
    that it lost stays in flight, and its counts add up only if nothing is in flight at the end.
    """
    wrong = []
    if stats.emitted != emitted:
        wrong.append(f"the game emitted {emitted} events, the client counts {stats.emitted}")
    if stats.buffered or stats.in_flight:
        wrong.append(f"events are buffered or in flight after stop: {stats}")
    if received["unique"] != stats.delivered:
        wrong.append(f"{stats.delivered} events were delivered, {received['unique']} received")
    return wrong


def tables(report: Result) -> dict[str, str]:
    """Return the summary and the table, by their name in the docs."""
    rows = [
        [
            name.replace("_", " "),
            *(f"{figures[key]:,.0f}" for key in ("first_quarter", "last_quarter", "growth")),
            f"{figures['bound']:,}",
        ]
        for name, figures in report["growth"].items()
    ]
    headers = ["median of", "the first quarter", "the last quarter", "growth", "allowed"]
    ledger = report["ledger"]
    summary = (
        f"{number(report['minutes'])} minutes, with {ledger['reconnects']:,} reconnects and "
        f"{ledger['emitted']:,} events, of which {ledger['delivered']:,} were delivered and "
        f"{ledger['dropped']:,} dropped while the connection was cut:"
    )
    return {"soak": f"{summary}\n\n{table(headers, rows)}"}


_LEDGER = ("emitted", "delivered", "dropped", "rejected", "reconnects")


def _run(seconds: float, cut_every: float, sample_every: float) -> tuple[Result, list[str]]:
    from redvsblue_telemetry import start_telemetry  # after the environment is set

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
    return result, disagreements(stats, soak.emitted, received)


def main() -> int:
    """Play, print the table, and compare the counts."""
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
    if not arguments.quick:
        wrong += [
            f"{name} grew by {figures['growth']:,.0f}; {figures['bound']:,} are allowed"
            for name, figures in result["growth"].items()
            if figures["growth"] > figures["bound"]
        ]
    result |= {"wrong": wrong}
    save(arguments.json, "soak", result)
    return conclude(tables(result), [{"failure": text} for text in wrong])


if __name__ == "__main__":
    sys.exit(main())
