"""Does every event arrive while the network and the server fail?

    python -m benchmarks.chaos --minutes 30 --seed 1 [--compression zstd]

Several threads of a game emit through the real library to a real WebSocket server. Between them, a
seeded schedule of faults is carried out: resets, black holes, delays, a narrow link, half-closed
connections, restarts and crashes of the server, late acks, a server that stops reading, refused
connections. The game keeps a journal, and in the middle of some of the faults it is killed; the
next one delivers what it has left. At the end three counts are compared: the threads', the
library's and the receiver's. The exit code is 1 if they don't agree, or if an event was lost,
arrived out of order, or was repeated without need.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.chaos_game import DELIVERED, Resources
from benchmarks.harness import Result, Server, report_lines, write_json
from benchmarks.notes import Notes, kept_notes, memory_directory
from benchmarks.receiver import Arrivals, Book, Receiver
from redvsblue_telemetry import TelemetryStats
from redvsblue_telemetry._compression import supported
from redvsblue_telemetry._recording.codec import new_session_id
from tests.support.fault_proxy import BOTH, Direction, FaultProxy

logger = logging.getLogger("chaos")

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
    is_deadly: bool = False
    """Whether the game is killed when it has begun."""


_DEADLY = 0.1  # the share of faults in which the game is killed
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


def schedule(seed: int, *, has_acks: bool, kills: bool) -> Iterator[Step]:
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
        is_deadly = chance.random() < _DEADLY and kills
        yield Step(quiet, fault, lasts, chance.random(), tuple(resets[:-1]), is_deadly)


class Breakable(Protocol):
    """A server that can be broken on request, such as a :class:`Receiver`."""

    ack_delay: float

    def listen(self) -> int: ...
    def close(self, code: int) -> None: ...
    def kill(self) -> None: ...
    def stall(self, on: bool) -> None: ...


class Killable(Protocol):
    """Games that can be killed, such as :class:`Games`."""

    def kill(self) -> None: ...


class Injector:
    """Carries the faults out."""

    def __init__(self, proxy: FaultProxy, receiver: Breakable, games: Killable) -> None:
        self._proxy = proxy
        self._receiver = receiver
        self._games = games
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
            if step.is_deadly:
                self._games.kill()
                self.counts["kill"] += 1
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


# The games.


class Life:
    """A game that runs, or the remains of one that was killed."""

    def __init__(self, number: int, arrivals: Arrivals, notes: Notes, threads: int) -> None:
        self.number = number
        self.arrivals = arrivals
        self.notes = notes
        self._threads = threads

    @property
    def returned(self) -> list[int]:
        """For each thread, how many of its emits have returned."""
        return list(map(self.notes.returned, range(self._threads)))

    @property
    def begun(self) -> int:
        """How many events were begun to be emitted."""
        return sum(map(self.notes.begun, range(self._threads)))

    @property
    def slowest_ns(self) -> int:
        """The longest that an emit took, a switch to another thread included."""
        return max(map(self.notes.slowest, range(self._threads)))


class Games:
    """One game after the other, each in a separate process; a context manager.

    Args:
        book: the record of arrivals, in which each game begins a session.
        work: the directory of the journal.
        task: the settings that all games share.
        files: closes and deletes the notes of all games.
    """

    def __init__(self, book: Book, work: Path, task: Result, files: contextlib.ExitStack) -> None:
        self._files = files
        self._book = book
        self._work = work
        self._task = task
        self._base = new_session_id()[:16]
        self.lives: list[Life] = []
        self._server: Server

    def start(self) -> None:
        """Start the next game."""
        number = len(self.lives)
        session_id = f"{self._base}-{number}"
        path = memory_directory() / f"{self._work.name}-{number}"
        notes = self._files.enter_context(kept_notes(path))
        arrivals = Arrivals(session_id, lambda: notes[DELIVERED])
        self._book.begin(session_id, arrivals)
        self.lives.append(Life(number, arrivals, notes, self._task["threads"]))
        task = {**self._task, "session_id": session_id, "notes": str(path)}
        self._server = Server("benchmarks.chaos_game", json.dumps(task))
        self._server.__enter__()

    def kill(self) -> None:
        """Kill the game, and start the next one."""
        os.kill(self._server.pid, signal.SIGKILL)
        self._server.__exit__()
        self.lives[-1].arrivals.is_taken_over = True
        self.start()

    def resources(self) -> Resources:
        """Return the resources that the game holds now."""
        return Resources(**self._server.ask("resources"))

    def finish(self) -> Result:
        """Let the game deliver everything and stop, and return its figures."""
        result: Result = self._server.ask("finish")
        return result

    def __enter__(self) -> Games:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()


# The counts.


@dataclass
class Report:
    """The outcome of a run."""

    seed: int
    seconds: float
    confirm: str
    encoding: str | None
    """Of the messages; None for text."""
    ledger: dict[str, int]
    """Of the last game."""
    receiver: dict[str, int]
    lost: int
    games: int
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
        """Return the lines of the table."""
        rows: Result = {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "confirmed by": self.confirm,
            "encoding": self.encoding or "none",
            "games": self.games,
            "emitted by the threads": self.emitted_by_threads,
            **{f"last game: {name}": count for name, count in self.ledger.items()},
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
            "problems": self.problems,
        }
        return report_lines(rows)


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
    own = stats.delivered - stats.recovered
    if own != arrivals.unique:
        yield f"{own} events were delivered, but {arrivals.unique} arrived"
    if arrivals.highest > stats.emitted:
        yield f"event {arrivals.highest} arrived, but only {stats.emitted} were emitted"
    yield from _disorder(arrivals)


def problems_of_killed(life: Life) -> Iterator[str]:
    """Do the same for a game that was killed: its notes are all that it could leave."""
    arrivals = life.arrivals
    if lost := arrivals.lost_of(life.returned):
        yield f"{lost} events of game {life.number}, which was killed, were lost"
    if arrivals.unique > life.begun:
        yield f"game {life.number} emitted {life.begun} events, but {arrivals.unique} arrived"
    yield from _disorder(arrivals)


def _disorder(arrivals: Arrivals) -> Iterator[str]:
    if arrivals.received != arrivals.unique + arrivals.duplicates + arrivals.strangers:
        yield "the receiver's own counts don't add up"
    for name in ("out_of_order", "thread_disorders", "unexplained", "strangers"):
        if count := getattr(arrivals, name):
            yield f"{name}: {count}"
    yield from arrivals.examples


def problems_of_messages(receiver: Receiver, *, is_compressed: bool) -> Iterator[str]:
    """Yield what was wrong with the messages, apart from their events."""
    if is_compressed and not receiver.compressed:
        yield "no message came compressed"
    if receiver.long_texts:
        yield f"{receiver.long_texts} messages came as text that should have been compressed"
    yield from (f"malformed: {fault}" for fault in receiver.malformed)


# The run.

_RECEIVED = (
    "received",
    "unique",
    "duplicates",
    "batches",
    "repeated_batches",
    "out_of_order",
    "thread_disorders",
    "unexplained",
)


def run(
    *,
    seconds: float,
    seed: int,
    has_acks: bool = True,
    has_journal: bool = True,
    rate: float = 1200.0,
    threads: int = 4,
    encoding: str | None = None,
) -> Report:
    """Run it, as the module describes, and return the report."""
    with contextlib.ExitStack() as files:
        work = Path(tempfile.mkdtemp(prefix="redvsblue-chaos-"))
        journal = work / "journal"
        book = Book()
        with (
            FaultProxy() as proxy,
            Receiver(book, has_acks=has_acks, encoding=encoding) as receiver,
        ):
            proxy.upstream = ("127.0.0.1", receiver.listen())
            task = {
                "url": f"ws://127.0.0.1:{proxy.port}/telemetry",
                "journal": str(journal) if has_journal else None,
                "rate": rate / threads,
                "threads": threads,
            }
            with Games(book, work, task, files) as games:
                started = time.monotonic()
                injector = Injector(proxy, receiver, games)
                steps = schedule(seed, has_acks=has_acks, kills=has_journal)
                injector.run(steps, started + seconds * 0.2)
                warmed_up = games.resources()
                injector.run(steps, started + seconds)
                last = games.finish()
                elapsed = time.monotonic() - started
        *killed, survivor = games.lives
        stats = TelemetryStats(**last["ledger"])
        found = list(problems(stats, survivor.arrivals, sum(survivor.returned)))
        for life in killed:
            found += problems_of_killed(life)
        before, after = Resources(**last["before"]), Resources(**last["after"])
        if not last["is_flushed"]:
            found.append("flush() returned False after the last fault")
        if not last["is_stopped_well"]:
            found.append("stop() returned False after the last fault")
        if after.descriptors > before.descriptors or after.threads > before.threads:
            found.append(f"descriptors or threads were left behind: {before}, {after}")
        found += problems_of_messages(receiver, is_compressed=encoding is not None)
        if book.strangers:
            found.append(f"{book.strangers} events are of a session that no game has begun")
        if left := sorted(path.name for path in journal.rglob("*")):
            found.append(f"files are left in the journal: {left[:20]}")
        if found:
            found.append(f"the journal is in {work}")
        else:
            shutil.rmtree(work)
        lost = sum(life.arrivals.lost_of(life.returned) for life in killed)
        totals: Counter[str] = Counter()
        for life in games.lives:
            totals.update(
                {name: count for name, count in vars(life.arrivals).items() if type(count) is int}
            )
        return Report(
            seed=seed,
            seconds=elapsed,
            confirm="acks" if has_acks else "pongs",
            encoding=encoding,
            ledger=last["ledger"],
            receiver={name: totals[name] for name in _RECEIVED}
            | {"compressed": receiver.compressed},
            lost=lost + survivor.arrivals.lost(stats.emitted, stats.dropped),
            games=len(games.lives),
            emitted_by_threads=sum(sum(life.returned) for life in games.lives),
            reconnects=last["reconnects"],
            connections=proxy.connections,
            refused=proxy.refused,
            faults=dict(injector.counts),
            slowest_emit_us=max(life.slowest_ns for life in games.lives) / 1000,
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
    parser.add_argument(
        "--no-journal",
        dest="has_journal",
        action="store_false",
        help="keep events in memory only, and kill no game",
    )
    parser.add_argument(
        "--compression",
        choices=supported(),
        help="the encoding that the server picks; without it, messages are text",
    )
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
    report = run(
        seconds=seconds,
        seed=seed,
        has_acks=options.has_acks,
        has_journal=options.has_journal,
        rate=options.rate,
        encoding=options.compression,
    )
    sys.stdout.writelines(f"{line}\n" for line in report.lines())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, asdict(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
