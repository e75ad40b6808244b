"""Is an event safe from the moment its emit returns, however the game is killed?

    python -m benchmarks.kills --kills 1000 --seed 1

Games with several threads emit through the real library to a real collector, with a journal. In
memory that outlives them, they note each event whose ``emit`` has returned. They are killed at
random moments, by SIGKILL, SIGSEGV, SIGABRT and ``os._exit``: in the middle of starts, take-overs,
reconnects, stops, forks and the player's toggle. The next game takes over. Two games, each with its
forked children, share the journal's directory at any time, so a game also finds runs that live. The
toggle erases all dead runs, so games that use it share theirs with nobody.

A last game delivers the rest. Then the collector has to have each event that returned exactly once,
in order, as it was emitted; each of those whose ``emit`` had not returned at most once; and nothing
else. And the reports on all of these sessions have to agree with what is stored (``prove``).
Otherwise the exit code is 1, and the journal, the notes and the database are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.harness import (
    ROOT,
    Result,
    Server,
    environment,
    number,
    report_lines,
    save,
    table,
)
from benchmarks.kills_game import (
    CHILDREN_KILLED,
    EXIT_CODE,
    FORKS,
    PHASE,
    RECOVERED,
    STATE,
    STATES,
    Phase,
)
from benchmarks.notes import SLOTS, Notes, memory_directory
from redvsblue_telemetry import ConnectionState
from tests.support.fault_proxy import FaultProxy

KINDS = ("SIGKILL", "SIGSEGV", "SIGABRT", "os._exit")
TARGETS = ("start", "take-over", "flood", "bursts", "reconnect", "stop", "fork", "toggle")
_PHASES = {
    "start": Phase.START,
    "take-over": Phase.TAKE_OVER,
    "flood": Phase.PLAY,
    "bursts": Phase.PLAY,
    "reconnect": Phase.PLAY,
    "stop": Phase.STOP,
    "fork": Phase.FORK,
    "toggle": Phase.TOGGLE,
}
_DELAYS = {  # seconds after the phase was seen
    "start": 0.03,
    "take-over": 0.15,
    "flood": 0.05,
    "bursts": 0.6,
    "reconnect": 0.2,
    "stop": 0.1,
    "fork": 0.02,
    "toggle": 0.05,
}
_TEXTS = {100: 1500, 1000: 400, 8000: 80}  # longest text: events of an emitter
_PHASE_TIMEOUT = 10.0  # seconds
_DEATH_TIMEOUT = 10.0
_FINISH_TIMEOUT = 180.0
_MORE_LAST_GAMES = 3  # after one that has left its own last report
_MAX_RUNS = 40  # in the journal; with more, the next game lives until most are delivered
_FEW_RUNS = 10
_DRAIN_TIMEOUT = 20.0
_SPARE_DISK = 2 * 10**9  # bytes that have to stay free
_LATE = 2000  # milliseconds from an event's own clock to its timestamp
_MAX_EXAMPLES = 20


@dataclass
class Life:
    """The remains of a game that was killed."""

    number: int
    kind: str
    phase: str
    begun: list[int]
    """For each emitter, how many events it began to emit."""
    returned: list[int]
    owners: list[int]
    recovered: int = 0
    children: int = 0
    children_killed: int = 0

    @classmethod
    def read(cls, number: int, kind: str, notes: Notes) -> Life:
        """Return the life that these notes are of."""
        used = [emitter for emitter in range(SLOTS) if notes.owner(emitter)]
        emitters = range(max(used, default=-1) + 1)
        return cls(
            number,
            kind,
            _phase(notes),
            [notes.begun(emitter) for emitter in emitters],
            [notes.returned(emitter) for emitter in emitters],
            [notes.owner(emitter) for emitter in emitters],
            notes[RECOVERED],
            notes[FORKS],
            notes[CHILDREN_KILLED],
        )


def _phase(notes: Notes) -> str:
    phase = Phase(notes[PHASE])
    is_connected = STATES[notes[STATE]] is ConnectionState.CONNECTED
    if phase is Phase.PLAY:
        return "play" if is_connected else "play, not connected"
    return phase.name.lower().replace("_", "-")


@dataclass
class Report:
    """The outcome of a run."""

    seed: int
    kills: int = 0
    seconds: float = 0.0
    by_kind: dict[str, int] = field(default_factory=dict)
    by_phase: dict[str, int] = field(default_factory=dict)
    children: int = 0
    """Processes that the games forked."""
    children_killed: int = 0
    """Those of them that were killed alone, while their parent lived on."""
    returned: int = 0
    """Events whose emit had returned."""
    stored: int = 0
    """Events in the collector."""
    stored_without_return: int = 0
    """Those of them whose emit had not returned at the kill, or was under way at a stop."""
    lost: int = 0
    twice: int = 0
    disordered: int = 0
    changed: int = 0
    """Events with another timestamp, version, id or session than they were emitted with."""
    strangers: int = 0
    """Events that nobody emitted."""
    sessions: int = 0
    repeats: int = 0
    """Copies that the collector dropped."""
    recovered: int = 0
    """Events that games took over; again for each take-over that was killed itself."""
    last_recovered: int = 0
    """Events that the last game took over, and those that end a journal after the toggle."""
    problems: list[str] = field(default_factory=list)

    def blame(self, text: str) -> None:
        """Keep one more problem, if there are few."""
        if len(self.problems) < _MAX_EXAMPLES:
            self.problems.append(text)


# The verdict.


def compare(report: Report, lives: Iterable[Life], database: Path) -> None:
    """Compare the notes with the collector's database."""
    by_number = {life.number: life for life in lives}
    seen = {
        number: [bytearray(begun + 1) for begun in life.begun] for number, life in by_number.items()
    }
    owners: dict[int, tuple[int, int]] = {}
    last_seqs: dict[int, int] = {}
    last_numbers: dict[tuple[int, int], int] = {}
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for session, seq, timestamp, version, text in connection.execute(
            "SELECT session, seq, timestamp, version, data FROM events ORDER BY arrival"
        ):
            report.stored += 1
            data = json.loads(text)
            life, emitter, n = data["life"], data["emitter"], data["n"]
            name = f"event {n} of emitter {emitter} of life {life}"
            slots = seen.get(life, [])
            marks = slots[emitter] if emitter < len(slots) else bytearray()
            if not 0 < n < len(marks):
                report.strangers += 1
                report.blame(f"stored, but never emitted: {name}")
                continue
            if marks[n]:
                report.twice += 1
                report.blame(f"stored twice: {name}")
            marks[n] = 1
            report.stored_without_return += n > by_number[life].returned[emitter]
            if seq <= last_seqs.get(session, 0) or n <= last_numbers.get((life, emitter), 0):
                report.disordered += 1
                report.blame(f"out of order: {name}, with seq {seq}")
            last_seqs[session] = seq
            last_numbers[life, emitter] = n
            owner = (life, by_number[life].owners[emitter])
            is_own = owners.setdefault(session, owner) == owner
            is_on_time = 0 <= timestamp - data["at"] < _LATE
            if not (is_own and is_on_time and version == f"life-{life}"):
                report.changed += 1
                report.blame(
                    f"changed: {name} has the timestamp {timestamp} (its own clock: {data['at']}), "
                    f"the version {version}, and the session of {owners[session]}"
                )
        for (id_,) in connection.execute(
            # The collector stores only ids that don't follow from the session's run and the number.
            "SELECT iif(id = '', run || '-' || seq, id) AS whole FROM events "
            "LEFT JOIN sessions ON sessions.key = session GROUP BY whole HAVING count(*) > 1 "
            "LIMIT ?",
            (_MAX_EXAMPLES,),
        ):
            report.changed += 1
            report.blame(f"two events have the id {id_}")
        report.sessions, report.repeats = connection.execute(
            "SELECT count(*), coalesce(sum(repeats), 0) FROM sessions"
        ).fetchone()
        (rejected,) = connection.execute("SELECT count(*) FROM rejected").fetchone()
        if rejected:
            report.blame(f"the collector rejected {rejected} messages")
    for life_number, life in by_number.items():
        for emitter, count in enumerate(life.returned):
            report.returned += count
            missing = [n for n in range(1, count + 1) if not seen[life_number][emitter][n]]
            report.lost += len(missing)
            if missing:
                report.blame(
                    f"LOST: {len(missing)} of the {count} events of emitter {emitter} of life "
                    f"{life_number} ({life.kind}, {life.phase}), from number {missing[0]} to "
                    f"{missing[-1]}"
                )


def prove(report: Report, database: Path) -> None:
    """Find out whether the games' reports agree with the stored events."""
    command = [sys.executable, "-m", "redvsblue_telemetry", "prove", "--db", str(database)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        for line in (done.stdout + done.stderr).splitlines():
            report.blame(f"prove: {line}")


# The run.


class Referee:
    """Starts games, kills them, and keeps their notes.

    Args:
        work: a directory for the journal and the logs.
        url: of the collector, through the proxy.
        has_journal: without one, events must be lost; that shows that the comparison works.
    """

    def __init__(
        self, report: Report, work: Path, url: str, proxy: FaultProxy, *, has_journal: bool = True
    ) -> None:
        self.lives: list[Life] = []
        self._report = report
        self._work = work
        self._url = url
        self._proxy = proxy
        self.journal = work / "journal" if has_journal else None
        self._lock = threading.Lock()
        self._next = 0
        self._living = 0
        self._is_over = threading.Event()

    def run(self, kills: int, games: int) -> None:
        """Kill this many games, a few at a time."""
        seats = [
            threading.Thread(target=self._sit, args=(kills,), name=f"seat-{seat}")
            for seat in range(games)
        ]
        weather = threading.Thread(target=self._make_weather, name="weather")
        for thread in (*seats, weather):
            thread.start()
        for seat in seats:
            seat.join()
        self._is_over.set()
        weather.join()
        self._proxy.clear()

    def finish(self, journal: Path | None) -> None:
        """Let a last game deliver the rest of a journal.

        A connection that breaks as it stops leaves its own last report to the next start. So if
        the game has delivered all events and files are left, another one follows.
        """
        left: list[str] = []
        for is_first in (True, *[False] * _MORE_LAST_GAMES):
            result = self._finish_once(journal)
            if not result:
                self._report.blame("the last game did not end")
                return
            self._report.last_recovered += result["recovered"]
            has_found_events = result["recovered"] > 0 and not is_first
            ended_well = result["ended_well"] and not (result["dropped"] or result["left"])
            if not ended_well or has_found_events:
                self._report.blame(f"the last game did not end well: {result}")
            left = sorted(path.name for path in journal.rglob("*")) if journal else []
            if not left or not ended_well:
                break
        if left:
            self._report.blame(f"files are left in the journal: {left[:_MAX_EXAMPLES]}")

    def _finish_once(self, journal: Path | None) -> Result:
        """Return the account of a game that delivers the rest of a journal; empty if it hangs."""
        name = journal.name if journal else "last"
        notes = Notes(path := memory_directory() / f"{self._work.name}-{name}")
        process = self._start(
            {
                "plan": "finish",
                "journal": str(journal) if journal else None,
                "timeout": _FINISH_TIMEOUT,
                "life": 0,
                "notes": str(path),
                "text": 0,
                "events": 0,
                "burst": 0,
            }
        )
        try:
            assert process.stdout is not None
            # Its standard input stays open: the game exits when that ends.
            timeout = _FINISH_TIMEOUT + 30
            can_read = select.select([process.stdout], [], [], timeout)[0]
            line = process.stdout.readline() if can_read else ""
            result: Result = json.loads(line or "{}")
        finally:
            self._bury(process)
            notes.close()
            path.unlink()
        return result

    # One seat: one game after the other.

    def _sit(self, kills: int) -> None:
        while not self._is_over.is_set():
            with self._lock:
                self._next += 1
                life = self._next
            if life > kills:
                return
            if shutil.disk_usage(self._work).free < _SPARE_DISK:
                self._report.blame("the disk is getting full; the run was cut short")
                return
            try:
                self._play(life)
            except Exception as error:  # so that the others go on, and the evidence is kept
                self._report.blame(f"the referee failed in life {life}: {error!r}")
                raise

    def _play(self, life: int) -> None:
        chance = random.Random(f"{self._report.seed} {life}")
        target, kind = chance.choice(TARGETS), chance.choice(KINDS)
        text = chance.choice(tuple(_TEXTS))
        journal, runs = self.journal, self._runs()
        is_alone = journal is not None and target == "toggle"
        if is_alone:  # the toggle erases all dead runs
            journal = self._work / f"toggle-{life}"
        notes = Notes(path := self._notes_path(life))
        with self._lock:
            finds = runs > self._living
            self._living += 1
        process = self._start(
            {
                "plan": target if target in ("stop", "fork", "toggle") else "play",
                "life": life,
                "journal": str(journal) if journal else None,
                "notes": str(path),
                "threads": chance.randint(1, 4),
                "text": text,
                "events": _TEXTS[text],
                "burst": 0 if target == "flood" else chance.choice((1, 10, 60)),
                "finds": finds and not is_alone,
            }
        )
        try:
            if runs > _MAX_RUNS:
                self._drain()
            self._wait_for(_PHASES[target], notes, process)
            if target == "reconnect":
                time.sleep(chance.uniform(0, 0.1))
                self._proxy.reset()
            time.sleep(chance.uniform(0, _DELAYS[target]) * chance.choice((0.2, 1.0)))
            self._kill(process, kind)
            found = Life.read(life, kind, notes)
            if chance.random() < 0.7:  # so the next game finds its forked children alive
                time.sleep(chance.uniform(0, 0.3))
            self._bury(process)
            # The children's notes have grown meanwhile.
            self._keep(Life.read(life, kind, notes), found.phase)
            if is_alone:
                self.finish(journal)
        finally:
            self._bury(process)
            notes.close()
            path.unlink()
            with self._lock:
                self._living -= 1

    def _start(self, task: Result) -> subprocess.Popen[str]:
        seed = f"{self._report.seed} {task['life']}"
        task = {**task, "seed": seed, "url": self._url}
        with open(self._work / "log.txt", "a", encoding="utf-8") as log:
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.kills_game", json.dumps(task)],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def _notes_path(self, life: int) -> Path:
        return memory_directory() / f"{self._work.name}-{life}"

    def _runs(self) -> int:
        """Return how many runs there are in the journal, living and dead."""
        try:
            return len(list(self.journal.iterdir())) if self.journal else 0
        except OSError:  # not there yet
            return 0

    def _drain(self) -> None:
        deadline = time.monotonic() + _DRAIN_TIMEOUT
        while self._runs() > _FEW_RUNS and time.monotonic() < deadline:
            time.sleep(0.05)

    def _wait_for(self, phase: Phase, notes: Notes, process: subprocess.Popen[str]) -> None:
        """Wait until a game has come to a phase, or beyond it."""
        deadline = time.monotonic() + _PHASE_TIMEOUT
        while notes[PHASE] < phase and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.0005)

    def _kill(self, process: subprocess.Popen[str], kind: str) -> None:
        """Kill a game, but not its children; it stays a zombie, so that its group is not reused."""
        if process.poll() is not None:
            raise RuntimeError(f"the game ended by itself, with {process.returncode}")
        assert process.stdin is not None
        if kind == "os._exit":
            process.stdin.write("x")
            process.stdin.flush()
            expected = EXIT_CODE
        else:
            expected = signal.Signals[kind]
            os.kill(process.pid, expected)
        deadline = time.monotonic() + _DEATH_TIMEOUT
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while (status := os.waitid(os.P_PID, process.pid, options)) is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the game survived {kind}")
            time.sleep(0.0005)
        if status.si_status != expected:
            raise RuntimeError(f"the game ended with {status.si_status} instead of {kind}")

    def _bury(self, process: subprocess.Popen[str]) -> None:
        """Kill the game, if it lives, and its children; return when all have ended."""
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdin is not None
        assert process.stdout is not None
        # They all have the other end of this pipe, until the last of them has ended.
        if not select.select([process.stdout], [], [], _DEATH_TIMEOUT)[0]:
            self._report.blame("a forked child survived SIGKILL")
        process.stdin.close()
        process.stdout.close()
        process.wait()

    def _keep(self, life: Life, phase: str) -> None:
        report = self._report
        life.phase = phase
        with self._lock:
            self.lives.append(life)
            report.kills += 1
            report.by_kind[life.kind] = report.by_kind.get(life.kind, 0) + 1
            report.by_phase[phase] = report.by_phase.get(phase, 0) + 1
            report.children += life.children
            report.children_killed += life.children_killed
            report.recovered += life.recovered
            if report.kills % 50 == 0:
                print(f"  {report.kills} kills", file=sys.stderr, flush=True)

    def _make_weather(self) -> None:
        """Break connections while games play."""
        chance = random.Random(f"{self._report.seed} weather")
        while not self._is_over.wait(chance.uniform(0.0, 1.5)):
            fault = chance.choice(("reset", "cut", "refuse", "black hole"))
            if fault == "reset":
                self._proxy.reset()
            elif fault == "cut":
                self._proxy.cut_after(chance.randint(1, 50_000))
            else:
                if fault == "refuse":
                    self._proxy.refuse(True)
                    self._proxy.reset()
                else:
                    self._proxy.black_hole(True)
                self._is_over.wait(chance.uniform(0.0, 1.0))
                self._proxy.clear()


def run(*, kills: int, seed: int, games: int = 2, has_journal: bool = True) -> Report:
    """Run it, as the module describes, and return the report."""
    report = Report(seed)
    work = Path(tempfile.mkdtemp(prefix="redvsblue-kills-"))
    database = work / "collector.sqlite3"
    began = time.monotonic()
    with (
        Server("benchmarks.collector_server", "collector", database) as collector,
        FaultProxy(collector.port) as proxy,
    ):
        referee = Referee(report, work, proxy.url, proxy, has_journal=has_journal)
        referee.run(kills, games)
        referee.finish(referee.journal)
    compare(report, referee.lives, database)
    if has_journal:
        prove(report, database)
    report.seconds = time.monotonic() - began
    if report.problems:
        lives = [asdict(life) for life in referee.lives]
        (work / "lives.json").write_text(json.dumps(lives, indent=1), encoding="utf-8")
        report.problems.append(f"the evidence is in {work}")
    else:
        shutil.rmtree(work)
    return report


# The output.


def tables(result: Result) -> dict[str, str]:
    """Return the tables for the docs."""
    kinds = ", ".join(f"{kind} {number(result['by_kind'].get(kind, 0))}" for kind in KINDS)
    phases = ", ".join(
        f"{phase} {number(count)}" for phase, count in sorted(result["by_phase"].items())
    )
    rows = [
        ["games killed", number(result["kills"])],
        ["by", kinds],
        ["in the middle of", phases],
        ["forked children, killed with them or alone", number(result["children"])],
        ["events whose `emit` had returned", number(result["returned"])],
        ["**lost**", f"**{number(result['lost'])}**"],
        ["stored twice", number(result["twice"])],
        ["out of order within their session", number(result["disordered"])],
        ["with another timestamp, version, id or session", number(result["changed"])],
        ["stored, but under way at the end", number(result["stored_without_return"])],
        ["taken over by later games", number(result["recovered"] + result["last_recovered"])],
    ]
    return {"kills": table(("", ""), rows, has_figures=False)}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="a random one by default")
    parser.add_argument("--games", type=int, default=2, help="at a time; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument(
        "--without-journal", action="store_true", help="to see that losses are found"
    )
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    report = run(
        kills=options.kills,
        seed=seed,
        games=options.games,
        has_journal=not options.without_journal,
    )
    print("\n".join(report_lines(asdict(report))))
    save(options.json, "kills", asdict(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
