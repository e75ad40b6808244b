"""Does every event arrive while the network and the server fail?

    python -m benchmarks.chaos --minutes 30 --seed 1

Several threads emit through the real library to a real WebSocket server. Between them, a seeded
schedule of faults is carried out: resets, black holes, delays, a narrow link, half-closed
connections, restarts and crashes of the server, late acks, a server that stops reading, refused
connections. At the end three counts are compared: the threads', the library's and the receiver's.
The exit code is 1 if they don't agree, or if an event was lost, arrived out of order, or was
repeated without need.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import open_descriptors, peak_bytes, resident_bytes, write_json
from benchmarks.receiver import Arrivals, Receiver
from redvsblue_telemetry import Telemetry, TelemetryStats, start_telemetry
from redvsblue_telemetry._recording.codec import new_session_id
from tests.support.fault_proxy import BOTH, Direction, FaultProxy

logger = logging.getLogger("chaos")

SETTINGS: dict[str, Any] = {
    "enabled": True,
    "drain_interval": 0.05,
    "capacity": 200_000,
    "backoff_base": 0.05,
    "backoff_max": 1.0,
    "connect_timeout": 2.0,
    "confirm_timeout": 1.0,
    "keepalive_interval": 1.0,
}
LEDGER = ("emitted", "delivered", "dropped", "rejected", "buffered", "in_flight")
_WAYS = (BOTH, frozenset({Direction.TO_SERVER}), frozenset({Direction.TO_CLIENT}))


@dataclass(frozen=True)
class Step:
    """A fault: the quiet time before it, its duration, and the resets while it lasts."""

    quiet: float
    fault: str
    lasts: float
    strength: float
    """Between 0 and 1; its meaning depends on the fault."""
    resets: tuple[float, ...]
    """Seconds between the resets of all connections while it lasts."""


# A fault without a duration happens at once.
FAULTS: dict[str, float] = {
    "reset": 0.0,
    "cut": 0.0,
    "half_close": 0.0,
    "black_hole": 3.0,
    "delay": 3.0,
    "throttle": 3.0,
    "stall": 3.0,
    "refuse": 2.0,
    "flap": 2.0,
    "restart": 1.0,
}
# Here the server may lose events that it has received, so pongs can't prove delivery.
ACKS_ONLY: dict[str, float] = {"crash": 1.0, "slow_acks": 3.0, "stalled_reader": 3.0}


def schedule(seed: int, *, has_acks: bool) -> Iterator[Step]:
    """Yield faults endlessly, the same ones for the same seed."""
    chance = random.Random(seed)
    durations = {**FAULTS, **ACKS_ONLY} if has_acks else FAULTS
    while True:
        fault = chance.choice(tuple(durations))
        lasts = chance.uniform(0.1, 1.0) * durations[fault]
        resets: list[float] = []
        if fault == "flap" or (lasts and chance.random() < 0.3):
            gap = 0.15 if fault == "flap" else 1.0
            while sum(resets) < lasts:
                resets.append(chance.uniform(0.2, 1.0) * gap)
        quiet = chance.choice((0.0, 0.1, 0.3, 1.0)) * chance.random()
        yield Step(quiet, fault, lasts, chance.random(), tuple(resets[:-1]))


class Injector:
    """Carries the faults out."""

    def __init__(self, proxy: FaultProxy, receiver: Receiver) -> None:
        self._proxy = proxy
        self._receiver = receiver
        self.counts: Counter[str] = Counter()
        """How often each fault was injected."""

    def run(self, steps: Iterator[Step], until: float) -> None:
        """Carry out one step after the other, and leave no fault behind."""
        for step in steps:
            if time.monotonic() + step.quiet >= until:
                return
            time.sleep(step.quiet)
            self.counts[step.fault] += 1
            logger.debug("%s", step)
            self._begin(step)
            end = min(time.monotonic() + step.lasts, until)
            for gap in step.resets:
                if time.monotonic() + gap >= end:
                    break
                time.sleep(gap)
                self._proxy.reset()
                self.counts["reset"] += 1
            time.sleep(max(0.0, end - time.monotonic()))
            self._end(step)

    def _begin(self, step: Step) -> None:
        proxy, receiver, strength = self._proxy, self._receiver, step.strength
        ways = _WAYS[int(strength * len(_WAYS))]
        if step.fault == "reset":
            proxy.reset()
        elif step.fault == "cut":
            proxy.cut_after(1 + int(strength * 20_000))
        elif step.fault == "half_close":
            proxy.half_close(Direction.TO_SERVER if strength < 0.5 else Direction.TO_CLIENT)
        elif step.fault == "black_hole":
            proxy.black_hole(True, ways)
        elif step.fault == "delay":
            proxy.delay(strength * 0.4, BOTH)
        elif step.fault == "throttle":
            proxy.throttle(10_000 + strength * 500_000, ways)
        elif step.fault == "stall":
            proxy.stall(True, ways)
        elif step.fault == "refuse":
            proxy.refuse(True)
            proxy.reset()
        elif step.fault in ("restart", "crash"):
            proxy.upstream = None
            if step.fault == "restart":
                receiver.close(1012 if strength < 0.5 else 1001)
            else:
                receiver.kill()
        elif step.fault == "slow_acks":
            receiver.ack_delay = strength * 1.5  # sometimes beyond the timeout
        elif step.fault == "stalled_reader":
            receiver.stall(True)

    def _end(self, step: Step) -> None:
        self._proxy.clear()
        self._receiver.ack_delay = 0.0
        self._receiver.stall(False)
        if self._proxy.upstream is None:
            self._proxy.upstream = ("127.0.0.1", self._receiver.listen())


# The game.


class Emitter(threading.Thread):
    """A thread of the game: emits at about a rate, in bursts, and counts for itself."""

    def __init__(self, telemetry: Telemetry, number: int, seed: int, rate: float) -> None:
        super().__init__(name=f"chaos-emitter-{number}", daemon=True)
        self._telemetry = telemetry
        self._number = number
        self._chance = random.Random(f"{seed} {number}")
        self._rate = rate
        self.finish = threading.Event()
        self.emitted = 0
        self.slowest = 0
        """The longest that an emit took, in nanoseconds, a switch to another thread included."""

    def run(self) -> None:
        """Emit until ``finish`` is set."""
        padding = "x" * 400
        started = time.monotonic()
        while not self.finish.is_set():
            due = int((time.monotonic() - started) * self._rate)
            for _ in range(due - self.emitted):
                text = padding[: self._chance.randrange(len(padding))]
                before = time.perf_counter_ns()
                self._telemetry.emit("chaos", thread=self._number, n=self.emitted, text=text)
                self.slowest = max(self.slowest, time.perf_counter_ns() - before)
                self.emitted += 1
            self.finish.wait(self._chance.uniform(0.005, 0.05))


# The counts.


@dataclass
class Resources:
    """The resources that the process holds."""

    descriptors: int
    threads: int
    resident: int
    """Bytes."""
    peak: int
    """Bytes: the most that were resident so far."""

    @classmethod
    def now(cls) -> Resources:
        """Ask the operating system; 0 where it can't be known."""
        return cls(
            open_descriptors() or 0, threading.active_count(), resident_bytes() or 0, peak_bytes()
        )


@dataclass
class Report:
    """The outcome of a run."""

    seed: int
    seconds: float
    confirm: str
    ledger: dict[str, int]
    receiver: dict[str, int]
    lost: int
    emitted_by_threads: int
    reconnects: int
    connections: int
    refused: int
    faults: dict[str, int]
    slowest_emit_us: float
    before: Resources
    warmed_up: Resources
    after: Resources
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the table."""
        rows: dict[str, object] = {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "confirmed by": self.confirm,
            "emitted by the threads": self.emitted_by_threads,
            **self.ledger,
            **{f"receiver: {name}": count for name, count in self.receiver.items()},
            "LOST": self.lost,
            "reconnects": self.reconnects,
            "connections through the proxy": self.connections,
            "connections refused": self.refused,
            **{f"fault: {name}": count for name, count in sorted(self.faults.items())},
            "slowest emit (us)": round(self.slowest_emit_us, 1),
            "memory, warm (MB)": round(self.warmed_up.resident / 1e6, 1),
            "memory, end (MB)": round(self.after.resident / 1e6, 1),
            "memory, peak (MB)": round(self.after.peak / 1e6, 1),
            "descriptors, begin and end": f"{self.before.descriptors} {self.after.descriptors}",
            "threads, begin and end": f"{self.before.threads} {self.after.threads}",
        }
        width = max(map(len, rows))
        for name, value in rows.items():
            yield f"{name:<{width}}  {value}"
        yield from (f"PROBLEM: {problem}" for problem in self.problems)


def problems(stats: TelemetryStats, arrivals: Arrivals, emitted: int) -> Iterator[str]:
    """Compare the counts, and describe each disagreement.

    The library derives ``in_flight`` as the emitted events that are in no other count. So an event
    that it lost stays in flight, and its counts add up only if nothing is in flight at the end.

    Args:
        stats: the library's counts, after the stop.
        arrivals: the receiver's counts.
        emitted: the events that the emitting threads counted.
    """
    if stats.emitted + stats.rejected != emitted:
        yield f"the threads emitted {emitted} events, the library counts {stats.emitted}"
    if stats.buffered or stats.in_flight:
        yield f"not settled: {stats.buffered} buffered, {stats.in_flight} in flight"
    if lost := arrivals.lost(stats.emitted, stats.dropped):
        examples = arrivals.missing_examples(stats.emitted)
        yield f"{lost} events were lost; among those that never arrived: {examples}"
    if stats.delivered != arrivals.unique:
        yield f"{stats.delivered} events were delivered, but {arrivals.unique} arrived"
    if arrivals.highest > stats.emitted:
        yield f"event {arrivals.highest} arrived, but only {stats.emitted} were emitted"
    if arrivals.received != arrivals.unique + arrivals.duplicates + arrivals.strangers:
        yield "the receiver's own counts don't add up"
    for name in ("out_of_order", "thread_disorders", "unexplained", "strangers"):
        if count := getattr(arrivals, name):
            yield f"{name}: {count}"
    yield from arrivals.examples


# The run.


def run(
    *, seconds: float, seed: int, has_acks: bool = True, rate: float = 1200.0, threads: int = 4
) -> Report:
    """Run it, as the module describes, and return the report."""
    before = Resources.now()
    session_id = new_session_id()
    arrivals = Arrivals(session_id, lambda: telemetry.stats().delivered)
    with FaultProxy() as proxy, Receiver(arrivals, has_acks=has_acks) as receiver:
        telemetry = start_telemetry(
            **SETTINGS, url=f"ws://127.0.0.1:{proxy.port}/telemetry", session_id=session_id
        )
        if not telemetry.enabled or telemetry.session_id != session_id:
            raise SystemExit("telemetry is switched off in this environment, or is already running")
        proxy.upstream = (
            "127.0.0.1",
            receiver.listen(),
        )  # now that the arrivals can ask for the stats
        emitters = [Emitter(telemetry, n, seed, rate / threads) for n in range(threads)]
        started = time.monotonic()
        for emitter in emitters:
            emitter.start()
        injector = Injector(proxy, receiver)
        steps = schedule(seed, has_acks=has_acks)
        injector.run(steps, started + seconds * 0.2)
        warmed_up = Resources.now()
        injector.run(steps, started + seconds)
        for emitter in emitters:
            emitter.finish.set()
            emitter.join()
        is_flushed = telemetry.flush(30)
        is_stopped_well = telemetry.stop(5)
        stats = telemetry.stats()
        elapsed = time.monotonic() - started
    emitted = sum(emitter.emitted for emitter in emitters)
    found = list(problems(stats, arrivals, emitted))
    after = Resources.now()
    if not is_flushed:
        found.append("flush() returned False after the last fault")
    if not is_stopped_well:
        found.append("stop() returned False after the last fault")
    if after.descriptors > before.descriptors or after.threads > before.threads:
        found.append(f"descriptors or threads were left behind: {before}, {after}")
    return Report(
        seed=seed,
        seconds=elapsed,
        confirm="acks" if has_acks else "pongs",
        ledger={name: getattr(stats, name) for name in LEDGER},
        receiver={
            name: count
            for name, count in vars(arrivals).items()
            if isinstance(count, int) and not name.startswith("_")
        },
        lost=arrivals.lost(stats.emitted, stats.dropped),
        emitted_by_threads=emitted,
        reconnects=stats.reconnects,
        connections=proxy.connections,
        refused=proxy.refused,
        faults=dict(injector.counts),
        slowest_emit_us=max(emitter.slowest for emitter in emitters) / 1000,
        before=before,
        warmed_up=warmed_up,
        after=after,
        problems=found,
    )


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="a random one by default")
    parser.add_argument(
        "--rate", type=float, default=1200.0, help="events a second, over all threads"
    )
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    parser.add_argument("--verbose", action="store_true", help="log each fault")
    proof = parser.add_mutually_exclusive_group()
    proof.add_argument("--acks", dest="has_acks", action="store_true", default=True)
    proof.add_argument("--pongs", dest="has_acks", action="store_false")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    logging.basicConfig(
        format="%(asctime)s %(message)s", level=logging.DEBUG if options.verbose else logging.ERROR
    )
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # it logs each broken connection
    sys.stdout.write(f"seed {seed}\n")
    sys.stdout.flush()
    seconds = options.minutes * 60
    report = run(seconds=seconds, seed=seed, has_acks=options.has_acks, rate=options.rate)
    sys.stdout.writelines(f"{line}\n" for line in report.lines())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, asdict(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
