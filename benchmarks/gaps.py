"""Is each gap explained, by the right cause, while everything fails?

    python -m benchmarks.gaps --minutes 10 --seed 1

It injects the faults of ``benchmarks.chaos`` between a game and a real collector, which is
restarted, killed and suspended. The game has a small store that overflows, a ``before_send`` that
filters some events and raises for others, events that the collector refuses, events of another
session, sampled types and types with a limit. With a journal, the game is killed in the middle of
some faults, and the next one takes over; without one, its player switches telemetry off and on.

The game's ``before_send`` records each event that it sees. At the end, the cause that the collector
shows for each missing number is compared with that record, and the counts with the library's. The
exit code is 1 if a gap has no cause or a wrong one, or if ``redvsblue-telemetry prove`` finds that
a session doesn't add up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.chaos import Injector, schedule
from benchmarks.endings import prove
from benchmarks.gaps_game import CAUSES, FOREIGN, MAX_MESSAGE_BYTES
from benchmarks.harness import Result, Server, report_lines, save
from benchmarks.notes import Notes, memory_directory
from redvsblue_telemetry._recording.codec import new_session_id
from redvsblue_telemetry.collector.models import SessionDetail
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.database import open_readonly
from tests.support.fault_proxy import Direction, FaultProxy

UNSEEN = {"overflow", "forwarded", "switched_off"}
"""Why a number that ``before_send`` has not seen does not arrive."""
SEEN = {"switched_off"}
"""Why an event that it let pass does not arrive, if the server has not refused it."""
_SILENCE = 6 * 60_000  # milliseconds
_MAX_EXAMPLES = 20


class CollectorProcess:
    """A collector that can be broken on request, and that finds its database again.

    Args:
        database: its file.
        proxy: the way to it.
    """

    def __init__(self, database: Path, proxy: FaultProxy) -> None:
        self._database = database
        self._proxy = proxy
        self._server: Server | None = None

    def listen(self) -> int:
        """Start it; return the port, a new one each time."""
        module = "benchmarks.collector_server"
        self._server = Server(module, "collector", self._database, MAX_MESSAGE_BYTES).__enter__()
        return self._server.port

    def close(self, code: int) -> None:
        """Stop it as an operator does; it closes with a code of its choice."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop it by SIGKILL."""
        self._end(signal.SIGKILL)

    def stall(self, on: bool) -> None:
        """Suspend it, or let it go on."""
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._server.pid, signal.SIGSTOP if on else signal.SIGCONT)

    @property
    def ack_delay(self) -> float:
        """Seconds that its answers take; write-only."""
        return 0.0

    @ack_delay.setter
    def ack_delay(self, seconds: float) -> None:
        self._proxy.delay(seconds, frozenset({Direction.TO_CLIENT}))

    def _end(self, by: signal.Signals) -> None:
        server, self._server = self._server, None
        if server is not None:
            os.kill(server.pid, by)
            server.wait()
            server.__exit__()

    def __enter__(self) -> CollectorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stall(False)
        self.close(0)


@dataclass
class Life:
    """A game that runs, or the remains of one that was killed."""

    session_id: str
    notes: Notes
    threads: int
    is_killed: bool = False

    @property
    def begun(self) -> int:
        """How many events without sampling it has begun to emit."""
        return sum(map(self.notes.begun, range(self.threads)))

    @property
    def returned(self) -> int:
        """How many of these emits have returned."""
        return sum(map(self.notes.returned, range(self.threads)))


class Games:
    """One game after the other, each in a separate process; a context manager."""

    def __init__(self, work: Path, task: Result) -> None:
        self._work = work
        self._task = task
        self._base = new_session_id()[:8]
        self.lives: list[Life] = []
        self._server: Server

    def start(self) -> None:
        """Start the next game."""
        number = len(self.lives)
        session_id = f"{self._base}-{number}"
        notes = Notes(path := memory_directory() / f"{self._work.name}-{number}")
        self.lives.append(Life(session_id, notes, self._task["threads"]))
        task = {**self._task, "session_id": session_id, "notes": str(path)}
        self._server = Server("benchmarks.gaps_game", json.dumps(task))
        self._server.__enter__()
        path.unlink()

    def kill(self) -> None:
        """Kill the game, and start the next one."""
        os.kill(self._server.pid, signal.SIGKILL)
        self._server.__exit__()
        self.lives[-1].is_killed = True
        self.start()

    def finish(self) -> Result:
        """Let the game deliver everything and stop, and return its figures."""
        result: Result = self._server.ask("finish")
        return result

    def __enter__(self) -> Games:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()
        for life in self.lives:
            life.notes.close()


# The verdict.


@dataclass
class Report:
    """The outcome of a run."""

    seed: int
    seconds: float = 0.0
    games: int = 0
    emitted: int = 0
    stored: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    """Numbers that are not stored, by the cause that the collector shows."""
    sampled: dict[str, int] = field(default_factory=dict)
    """Events that were left out, by type, as the sessions report them."""
    faults: dict[str, int] = field(default_factory=dict)
    prove: int = 0
    """The exit code of ``prove``."""
    problems: list[str] = field(default_factory=list)
    more_problems: int = 0

    def blame(self, text: str) -> None:
        """Keep a problem, if there are few."""
        if len(self.problems) < _MAX_EXAMPLES:
            self.problems.append(text)
        else:
            self.more_problems += 1


Record = Mapping[int, str]
"""The type of each event of a session that ``before_send`` has seen, by its number."""


def read_record(path: Path) -> dict[str, dict[int, str]]:
    """Return the record of each session."""
    record: dict[str, dict[int, str]] = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            session_id, seq, type_ = line.split()
            record.setdefault(session_id, {})[int(seq)] = type_
    return record


def wrong_causes(stored: set[int], causes: Mapping[int, str], seen: Record) -> Iterator[str]:
    """Yield each way in which the causes of a session's numbers are wrong.

    Args:
        stored: the numbers that the collector has.
        causes: the cause that it shows for each number that it doesn't have.
        seen: the events that the game's ``before_send`` saw.
    """
    wrong: dict[str, list[int]] = {}
    for seq, cause in causes.items():
        type_ = seen.get(seq)
        right = UNSEEN if type_ is None else {CAUSES[type_]} if type_ in CAUSES else SEEN
        if seq in stored:
            wrong.setdefault(f"stored, but shown as {cause}", []).append(seq)
        # The player may have switched telemetry off before the event was judged again.
        elif cause not in right | SEEN:
            text = f"({type_ or 'not seen'}) {cause} instead of {min(right)}"
            wrong.setdefault(text, []).append(seq)
    for seq in stored:
        if seen.get(seq) in CAUSES:
            wrong.setdefault(f"({seen[seq]}) stored", []).append(seq)
    for text, seqs in wrong.items():
        yield f"{len(seqs)} numbers, such as {min(seqs)}: {text}"


def compare(report: Report, lives: list[Life], last: Result, database: Path, record: Path) -> None:
    """Compare the collector's sessions with the record and with the library's counts."""
    seen = read_record(record)
    later = int(time.time() * 1000) + _SILENCE
    missing: Counter[str] = Counter()
    sampled: Counter[str] = Counter()
    with open_readonly(database) as connection:
        for life in lives:
            found = queries.session(connection, life.session_id, connected=set(), now=later)
            if found is None:
                if life.returned:
                    report.blame(f"{life.session_id}: unknown, with {life.returned} events")
                continue
            stored = {
                seq
                for (seq,) in connection.execute(
                    "SELECT seq FROM events WHERE session = "
                    "(SELECT key FROM sessions WHERE session_id = ?)",
                    (life.session_id,),
                )
            }
            causes = {
                seq: loss.cause for loss in found.losses for seq in range(loss.first, loss.last + 1)
            }
            missing.update(causes.values())
            sampled.update(found.sampled)
            report.emitted += found.last_seq or 0
            report.stored += len(stored)
            problems = [
                *wrong_causes(stored, causes, seen.get(life.session_id, {})),
                *wrong_counts(life, found, stored, causes),
            ]
            if not life.is_killed:
                problems += wrong_totals(found, last)
            for problem in problems:
                report.blame(f"{life.session_id}: {problem}")
        known = {session.session_id for session in queries.stream_sessions(connection)}
        strangers = known - {life.session_id for life in lives}
        for session_id in strangers:
            if not session_id.startswith(FOREIGN):
                report.blame(f"a session that nobody began: {session_id}")
    report.missing = dict(missing)
    report.sampled = dict(sampled)


def wrong_counts(
    life: Life, found: SessionDetail, stored: set[int], causes: Mapping[int, str]
) -> Iterator[str]:
    """Yield what doesn't add up in a session."""
    outcome = "killed" if life.is_killed else "well"
    if found.outcome != outcome:
        yield f"{found.outcome} ({found.reason}) instead of {outcome}"
    last_seq = found.last_seq or 0
    if unknown := set(range(1, last_seq + 1)) - stored - causes.keys():
        yield f"{len(unknown)} numbers are neither stored nor shown as lost, such as {min(unknown)}"
    if last_seq < life.returned:
        yield f"the last number is {last_seq}, but {life.returned} emits had returned"
    if found.waiting:
        yield f"{found.waiting} events wait"


def wrong_totals(found: SessionDetail, last: Result) -> Iterator[str]:
    """Yield each count of the last game that the collector doesn't share."""
    if last["buffered"] or last["in_flight"]:
        yield f"not settled: {last['buffered']} buffered, {last['in_flight']} in flight"
    # The library doesn't count those for which `before_send` raises as emitted.
    emitted = last["emitted"] + found.lost.get("rejected", 0)
    if found.last_seq != emitted:
        yield f"the last number is {found.last_seq}, but {emitted} were emitted"
    if dict(found.sampled) != {name: count for name, count in last["sampled"].items() if count}:
        yield f"{found.sampled} were left out, the library counts {last['sampled']}"
    kept = sum(found.types.get(name, 0) for name in last["sampled"])
    if kept + sum(last["sampled"].values()) > last["calls"]:
        yield f"{kept} kept and {last['sampled']} left out of {last['calls']} calls"
    if not last["recovered"]:
        dropped = {name: count for name, count in last["dropped_by"].items() if count}
        lost = {name: found.lost.get(name, 0) for name in dropped}
        # Some of the events that the toggle discards have arrived, unconfirmed.
        discarded = dropped.get("switched_off", 0)
        if lost.get("switched_off", 0) < discarded:
            lost["switched_off"] = discarded
        if lost != dropped:
            yield f"{lost} were lost, the library counts {dropped}"


# The run.


def run(
    *, seconds: float, seed: int, has_journal: bool = True, rate: float = 800.0, threads: int = 4
) -> Report:
    """Run it, as the module describes, and return the report."""
    report = Report(seed)
    work = Path(tempfile.mkdtemp(prefix="redvsblue-gaps-"))
    database, record, journal = work / "collector.sqlite3", work / "record", work / "journal"
    record.touch()
    began = time.monotonic()
    with FaultProxy() as proxy, CollectorProcess(database, proxy) as collector:
        proxy.upstream = ("127.0.0.1", collector.listen())
        # A report of one session has room for a thousand gaps.
        odd_interval = 1.0 if has_journal else max(1.0, seconds * threads / 500)
        task = {
            "url": f"ws://127.0.0.1:{proxy.port}/telemetry",
            "journal": str(journal) if has_journal else None,
            "record": str(record),
            "rate": rate / threads,
            "threads": threads,
            "odd_interval": odd_interval,
        }
        with Games(work, task) as games:
            injector = Injector(proxy, collector, games)
            steps = schedule(seed, has_acks=True, kills=has_journal)
            injector.run(steps, time.monotonic() + seconds)
            last = games.finish()
            collector.close(0)
            compare(report, games.lives, last, database, record)
            report.games = len(games.lives)
    report.faults = dict(injector.counts)
    report.prove, printed = prove(database)
    if report.prove:
        report.blame(f"prove exits with {report.prove}: {printed.strip()[-2000:]}")
    report.seconds = time.monotonic() - began
    if report.problems:
        report.problems.append(f"the evidence is in {work}")
    else:
        shutil.rmtree(work)
    return report


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gaps", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="a random one by default")
    parser.add_argument("--rate", type=float, default=800.0, help="calls a second, in all threads")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument(
        "--no-journal",
        dest="has_journal",
        action="store_false",
        help="keep events in memory only, kill no game, and use the player's toggle",
    )
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    report = run(
        seconds=options.minutes * 60,
        seed=seed,
        has_journal=options.has_journal,
        rate=options.rate,
    )
    print("\n".join(report_lines(asdict(report))))
    save(options.json, "gaps", asdict(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
