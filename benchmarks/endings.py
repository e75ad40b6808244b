"""Does the collector know how each game ended?

    python -m benchmarks.endings --endings 1000 --seed 1

Games play through the real library to a real collector and end in one of some forty ways: by
``stop``, at the interpreter's exit, by an exception in the main thread or in another one, by Ctrl-C
and other signals, by ``os._exit``, with the server away, with a fork that outlives them, in a hang.
Some of them keep a journal, which they share; the next game then reports those that were killed.
The others have no journal, so nobody can report them once they are killed.

While a game plays, the collector has to show it as running. After the last game, the collector has
to show each session with the right outcome, at the right time, with all of its events and without
an unexplained gap, and ``redvsblue-telemetry prove`` has to agree. Otherwise the exit code is 1,
and the journal and the database are kept.
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
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.endings_game import HANG_TIMEOUT, OS_EXIT_CODE, ROLES, SYS_EXIT_CODE
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
from benchmarks.notes import Notes, memory_directory
from redvsblue_telemetry.collector.client import CollectorClient, CollectorError
from redvsblue_telemetry.collector.models import SessionDetail
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.database import open_readonly
from tests.support.fault_proxy import FaultProxy

NO_WORD, UNKNOWN = "no_word", "unknown"
"""Outcomes without a reason: no report came any more, or the collector never heard of it."""
OUTCOMES = {
    "stopped": "well",
    "exit": "well",
    "crashed": "crashed",
    "killed": "killed",
    "switched_off": "switched_off",
    NO_WORD: NO_WORD,
    UNKNOWN: UNKNOWN,
}
"""The outcome that the collector has to show, by the reason of the report."""

_PATIENCE = 90.0  # seconds until a step of a game has to be done
_LAST_PATIENCE = 400.0
_SILENCE = 5 * 60_000  # milliseconds after which a session that is not connected has no word
_TOLERANCE = 1000  # milliseconds between two readings of the same clock in two processes
_SUSPENDED = 2.5  # seconds
_JOURNALED = 0.7  # the share of games with a journal
_MAX_EXAMPLES = 20


@dataclass(frozen=True)
class Fate:
    """The reason that has to be reported for a session, with a journal and without one."""

    reason: str
    without: str | None = None
    """None: the same. Several, separated by spaces: any of them."""

    def reasons(self, *, has_journal: bool) -> list[str]:
        """Return the reasons that are right."""
        return (self.reason if has_journal or self.without is None else self.without).split()


STOPPED, EXIT, CRASHED, SWITCHED_OFF = map(Fate, ("stopped", "exit", "crashed", "switched_off"))
KILLED = Fate("killed", NO_WORD)


@dataclass(frozen=True)
class Ending:
    """A way to end."""

    does: str
    """The method of the game."""
    game: Fate
    steps: tuple[str, ...] = ("cue",)
    """The referee's part, once the game is ready; see :meth:`Referee.play`."""
    code: int = 0
    child: Fate | None = None
    second: Fate | None = None
    crashes: int = 0
    """How many ``crash`` events its sessions have."""
    hangs: range = range(1)
    """How many ``hang`` events they may have."""
    settings: Result = field(default_factory=dict)
    is_away: bool = False
    """Whether the server is away all the time."""

    @property
    def fates(self) -> dict[str, Fate]:
        """The fate of each session, by the role of who began it."""
        found = dict(zip(ROLES, (self.game, self.child, self.second), strict=True))
        return {role: fate for role, fate in found.items() if fate is not None}


_CRASH_EVENTS: Result = {"crash_events": True}
_HANGS: Result = {"hang_timeout": HANG_TIMEOUT}
# A summary of frames in flight would keep the player's no from being reported.
_QUIET: Result = {"frame_interval": 3600.0}


def _code(name: str) -> int:
    """Return the exit code of a game that a signal ended; 0 on Windows, which can't play it."""
    return -int(getattr(signal, name, 0))


def _signal(name: str, **more: Any) -> Ending:
    return Ending("play_on", KILLED, (name,), _code(name), **more)


ENDINGS = {
    "stop": Ending("stop", STOPPED),
    "with": Ending("with", STOPPED),
    "exit": Ending("return", EXIT),
    "sys.exit": Ending("sys_exit", EXIT, code=SYS_EXIT_CODE),
    "exception": Ending("raise", CRASHED, code=1),
    "exception, recorded": Ending("raise", CRASHED, code=1, crashes=1, settings=_CRASH_EVENTS),
    "exception in with": Ending(
        "raise_in_with", CRASHED, code=1, crashes=1, settings=_CRASH_EVENTS
    ),
    "exception in the game's thread": Ending(
        "raise_in_the_game_thread", CRASHED, crashes=1, settings=_CRASH_EVENTS
    ),
    "exception in a helper": Ending("raise_in_a_helper", EXIT),
    "exception in a helper, recorded": Ending(
        "raise_in_a_helper", EXIT, crashes=1, settings=_CRASH_EVENTS
    ),
    "Ctrl-C": Ending("play_on", EXIT, ("SIGINT",), _code("SIGINT")),
    "Ctrl-C, handled": Ending("catch_ctrl_c", STOPPED, ("SIGINT",)),
    "SIGTERM": _signal("SIGTERM"),
    "SIGTERM, handled": Ending("handle_sigterm", EXIT, ("SIGTERM",)),
    "SIGHUP": _signal("SIGHUP"),
    "SIGKILL": _signal("SIGKILL"),
    "SIGSEGV": _signal("SIGSEGV"),
    "SIGABRT": _signal("SIGABRT"),
    "os._exit": Ending("os_exit", KILLED, code=OS_EXIT_CODE),
    "os.exec": Ending("exec", KILLED),
    "SIGKILL at once": Ending(
        "die_early", Fate("killed", f"{NO_WORD} {UNKNOWN}"), ("SIGKILL",), _code("SIGKILL")
    ),
    "SIGKILL before an event": Ending("be_silent", KILLED, ("SIGKILL",), _code("SIGKILL")),
    "SIGKILL after stop": Ending(
        "stop_and_stay", STOPPED, ("cue", "stopped", "SIGKILL"), _code("SIGKILL")
    ),
    "second session, SIGKILL": Ending(
        "second_session",
        STOPPED,
        ("cue", "stopped", "ready", "SIGKILL"),
        _code("SIGKILL"),
        second=KILLED,
    ),
    "server away, stop": Ending("stop_briefly", Fate("stopped", UNKNOWN), is_away=True),
    "server away, exit": Ending("return", Fate("exit", UNKNOWN), is_away=True),
    "server away, exception": Ending("raise", Fate("crashed", UNKNOWN), code=1, is_away=True),
    "server away, SIGKILL": Ending(
        "play_on", Fate("killed", UNKNOWN), ("SIGKILL",), _code("SIGKILL"), is_away=True
    ),
    "server gone, stop": Ending("stop_briefly", Fate("stopped", NO_WORD), ("leave", "cue")),
    "server gone, exception": Ending("raise", Fate("crashed", NO_WORD), ("leave", "cue"), code=1),
    "server gone, SIGKILL": Ending("play_on", KILLED, ("leave", "SIGKILL"), _code("SIGKILL")),
    "server silent, stop": Ending("stop_briefly", Fate("stopped", NO_WORD), ("silence", "cue")),
    "server back, stop": Ending("stop", STOPPED, ("leave", "return", "cue")),
    "fork that outlives its parent": Ending(
        "fork_and_stop", STOPPED, ("forked", "cue"), child=STOPPED
    ),
    "fork that outlives its killed parent": Ending(
        "fork_and_play_on", KILLED, ("forked", "SIGKILL"), _code("SIGKILL"), child=STOPPED
    ),
    "fork that is killed": Ending("fork_and_kill", STOPPED, ("forked", "cue"), child=KILLED),
    "fork that leaves by os._exit": Ending(
        "fork_and_child_leaves", EXIT, ("forked", "cue"), child=KILLED
    ),
    "fork that raises": Ending(
        "fork_and_child_raises",
        EXIT,
        ("forked", "cue"),
        child=CRASHED,
        crashes=1,
        settings=_CRASH_EVENTS,
    ),
    "process of multiprocessing": Ending("multiprocessing", EXIT, ("forked", "cue"), child=EXIT),
    "hang, SIGKILL": Ending(
        "hang",
        KILLED,
        ("cue", "hangs", "hang", "SIGKILL"),
        _code("SIGKILL"),
        hangs=range(1, 10),
        settings=_HANGS,
    ),
    "hang, stop": Ending(
        "hang_and_go_on",
        STOPPED,
        ("cue", "hangs", "hang", "cue"),
        hangs=range(1, 10),
        settings=_HANGS,
    ),
    "suspended, stop": Ending("stop", STOPPED, ("suspend", "cue"), settings={"hang_timeout": 1.5}),
    "switched off, exit": Ending("switch_off", SWITCHED_OFF, settings=_QUIET),
    "switched off, SIGKILL": Ending(
        "switch_off_and_play_on",
        SWITCHED_OFF,
        ("cue", "switched off", "SIGKILL"),
        _code("SIGKILL"),
        settings=_QUIET,
    ),
    "switched off and on": Ending("switch_off_and_on", STOPPED, settings=_QUIET),
}
_LAST = Ending("last", STOPPED, ())


def schedule(count: int, seed: int) -> Iterator[tuple[str, bool]]:
    """Yield endings and whether they have a journal: each ending once, in some order, and again."""
    chance = random.Random(seed)
    while count > 0:
        names = list(ENDINGS)
        chance.shuffle(names)
        for name in names[:count]:
            yield name, chance.random() < _JOURNALED
        count -= len(names)


# The verdict.


@dataclass
class Life:
    """A session, as it was: who had it, and what has to be known about it."""

    ending: str
    role: str
    session_id: str
    has_journal: bool
    began_at: int
    """Milliseconds since the epoch, before it began."""
    ended_at: int = 0
    """After it has ended."""
    begun: int = 0
    """Events that it began to emit."""
    returned: int = 0

    @property
    def reasons(self) -> list[str]:
        """The reasons that are right."""
        if self.ending == "last":
            return _LAST.game.reasons(has_journal=True)
        return ENDINGS[self.ending].fates[self.role].reasons(has_journal=self.has_journal)

    @property
    def name(self) -> str:
        """The session, for a person."""
        journal = "with" if self.has_journal else "without"
        return f"{self.ending} ({self.role}, {journal} a journal, {self.session_id})"


@dataclass
class Report:
    """The outcome of a run."""

    seed: int
    endings: int = 0
    seconds: float = 0.0
    sessions: int = 0
    right: int = 0
    """Sessions that the collector shows as they were."""
    running: int = 0
    """Sessions that it showed as running while they were."""
    with_journal: int = 0
    by_ending: dict[str, int] = field(default_factory=dict)
    by_reason: dict[str, int] = field(default_factory=dict)
    """Sessions by the reason that was right, and found."""
    events: int = 0
    prove: int = 0
    """The exit code of ``prove``."""
    problems: list[str] = field(default_factory=list)
    wrong: dict[str, int] = field(default_factory=dict)
    """Endings with a problem."""

    def blame(self, ending: str, text: str) -> None:
        """Count a problem, and keep its text if there are few."""
        self.wrong[ending] = self.wrong.get(ending, 0) + 1
        if len(self.problems) < _MAX_EXAMPLES:
            self.problems.append(text)


def compare(report: Report, lives: list[Life], database: Path) -> None:
    """Compare the sessions in the collector's database with the lives."""
    later = int(time.time() * 1000) + _SILENCE + _TOLERANCE
    with open_readonly(database) as connection:
        known = {session.session_id for session in queries.stream_sessions(connection)}
        for life in lives:
            report.sessions += 1
            report.with_journal += life.has_journal
            found = None
            if life.session_id in known:
                found = queries.session(connection, life.session_id, connected=set(), now=later)
            problems = list(disagreements(life, found))
            for problem in problems:
                report.blame(life.ending, f"{life.name}: {problem}")
            report.right += not problems
            report.events += found.events if found else 0
            reason = (found.reason or found.outcome) if found else UNKNOWN
            report.by_reason[reason] = report.by_reason.get(reason, 0) + 1
    for stranger in known - {life.session_id for life in lives}:
        report.blame("unknown", f"a session that nobody began: {stranger}")


def disagreements(life: Life, found: SessionDetail | None) -> Iterator[str]:
    """Yield each point in which the collector is wrong about a session."""
    rights = life.reasons
    if found is None:
        if UNKNOWN not in rights:
            yield "the collector has not heard of it"
        return
    reason = found.reason or found.outcome
    if reason not in rights:
        yield f"{found.outcome}, {found.reason} instead of {' or '.join(rights)}"
        return
    if found.outcome != OUTCOMES[reason]:
        yield f"{found.outcome} instead of {OUTCOMES[reason]}, with the reason {found.reason}"
    earliest, latest = life.began_at - _TOLERANCE, life.ended_at + _TOLERANCE
    if reason != NO_WORD and not earliest <= found.since <= latest:
        yield f"ended at {found.since} instead of between {earliest} and {latest}"
    yield from _lost_events(life, found, is_over=reason not in (NO_WORD, "switched_off"))
    ending = ENDINGS.get(life.ending, _LAST)
    is_role_of_fault = life.role == ("child" if ending.child is CRASHED else "game")
    if reason != NO_WORD and is_role_of_fault:
        crashes, hangs = found.types.get("crash", 0), found.types.get("hang", 0)
        if crashes != ending.crashes or found.crashes != crashes:
            yield f"{crashes} crash events ({found.crashes}) instead of {ending.crashes}"
        if hangs not in ending.hangs:
            yield f"{hangs} hang events"


def _lost_events(life: Life, found: SessionDetail, *, is_over: bool) -> Iterator[str]:
    ticks = found.types.get("tick", 0)
    if ticks > life.begun:
        yield f"{ticks} events are stored, but only {life.begun} were emitted"
    if is_over and ticks < life.returned:
        yield f"{ticks} events are stored, but {life.returned} emits had returned"
    if "unexplained" in found.lost:
        yield f"unexplained gaps: {found.lost}"
    if is_over and (found.lost or found.waiting):
        yield f"events are missing: {found.lost}, {found.waiting} waiting"


def prove(database: Path) -> tuple[int, str]:
    """Return the exit code of ``prove``, and its output."""
    command = [sys.executable, "-m", "redvsblue_telemetry", "prove", "--db", str(database)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


# The games.


class Voice:
    """The lines that a game and its children print. Used by one thread.

    Args:
        descriptor: their standard output.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def line(self, timeout: float = _PATIENCE) -> Result | None:
        """Return the next line; None when all of them have ended.

        Raises:
            TimeoutError: none came in time.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._descriptor], [], [], left)[0]:
                raise TimeoutError("the game has printed nothing more")
            piece = os.read(self._descriptor, 65536)
            if not piece:
                return None
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        news: Result = json.loads(line)
        return news


class Referee:
    """Starts games, ends them, and keeps their lives.

    Args:
        work: a directory for the journal and the logs.
        collector: its port.
    """

    def __init__(self, report: Report, work: Path, collector: int) -> None:
        self.lives: list[Life] = []
        self.journal = work / "journal"
        self._report = report
        self._work = work
        self._collector = collector
        self._lock = threading.Lock()
        self._next = 0

    def run(self, endings: list[tuple[str, bool]], games: int) -> None:
        """Play all endings, a few at a time."""
        seats = [
            threading.Thread(target=self._sit, args=(endings,), name=f"seat-{seat}")
            for seat in range(games)
        ]
        for seat in seats:
            seat.start()
        for seat in seats:
            seat.join()

    def _sit(self, endings: list[tuple[str, bool]]) -> None:
        with FaultProxy(self._collector) as proxy:
            while True:
                with self._lock:
                    index = self._next
                    self._next += 1
                if index >= len(endings):
                    return
                name, has_journal = endings[index]
                self._play(Play(self, index, name, ENDINGS[name], proxy), has_journal=has_journal)

    def finish(self) -> None:
        """Let a last game deliver and report the rest of the journal."""
        with FaultProxy(self._collector) as proxy:
            play = Play(self, -1, "last", _LAST, proxy)
            self._play(play, has_journal=True, patience=_LAST_PATIENCE)
        if left := sorted(path.name for path in self.journal.rglob("*")):
            self._report.blame("last", f"files are left in the journal: {left[:20]}")

    def _play(self, play: Play, *, has_journal: bool, patience: float = _PATIENCE) -> None:
        journal = self.journal
        if play.name.startswith("switched"):  # the toggle erases all dead runs
            journal = self._work / f"journal-{play.index}"
        try:
            play.run(journal if has_journal else None, patience)
        except Exception as error:  # so that the others go on, and the evidence is kept
            with self._lock:
                self._report.blame(play.name, f"{play.name}: {error!r}")
        with self._lock:
            report = self._report
            self.lives += play.lives.values()
            if play.index >= 0:
                report.endings += 1
                report.by_ending[play.name] = report.by_ending.get(play.name, 0) + 1
                if report.endings % 50 == 0:
                    print(f"  {report.endings} endings", file=sys.stderr, flush=True)

    # For the plays.

    def client(self) -> CollectorClient:
        """Return a client of the collector's API."""
        return CollectorClient(f"http://127.0.0.1:{self._collector}/")

    def open_log(self) -> Any:
        """Return a file for the output of a game."""
        return open(self._work / "log.txt", "a", encoding="utf-8")

    def notes_path(self, index: int) -> Path:
        """Return the file of a game's notes."""
        return memory_directory() / f"{self._work.name}-{index}"

    def note_running(self, life: Life) -> None:
        """Check that the collector shows a session as running that it has events of."""
        with contextlib.closing(self.client()) as client:
            found = client.session(life.session_id)
        with self._lock:
            if found.outcome == "running":
                self._report.running += 1
            else:
                text = f"{life.name}: {found.outcome} while it runs"
                self._report.blame(life.ending, text)


class Play:
    """One game, from its start to the end of the last of its children."""

    def __init__(
        self, referee: Referee, index: int, name: str, ending: Ending, proxy: FaultProxy
    ) -> None:
        self.index = index
        self.name = name
        self.lives: dict[str, Life] = {}
        self._referee = referee
        self._ending = ending
        self._proxy = proxy
        self._chance = random.Random(f"{referee._report.seed} {index}")
        self._process: subprocess.Popen[bytes]
        self._voice: Voice
        self._has_journal = False
        self._began_at = 0

    def run(self, journal: Path | None, patience: float) -> None:
        """Play; raises if it doesn't go as the ending says."""
        self._has_journal = journal is not None
        self._proxy.clear()
        self._proxy.refuse(self._ending.is_away)
        notes = Notes(path := self._referee.notes_path(self.index))
        try:
            self._start(path, journal)
            self._expect("ready")
            if self._ending.steps:
                time.sleep(self._chance.uniform(0.0, 0.15))
            for step in self._ending.steps:
                self._do(step)
            self._await_end(patience)
        finally:
            self._bury()
            for life in self.lives.values():
                life.ended_at = now_ms()
                slot = ROLES.index(life.role)
                life.begun, life.returned = notes.begun(slot), notes.returned(slot)
            notes.close()
            path.unlink()

    def _start(self, notes: Path, journal: Path | None) -> None:
        task = {
            "ending": self.name,
            "does": self._ending.does,
            "settings": self._ending.settings,
            "is_away": self._ending.is_away,
            "journal": str(journal) if journal else None,
            "notes": str(notes),
            "url": self._proxy.url,
        }
        self._began_at = now_ms()
        with self._referee.open_log() as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.endings_game", json.dumps(task)],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                bufsize=0,
            )
        assert self._process.stdout is not None
        self._voice = Voice(self._process.stdout.fileno())

    def _do(self, step: str) -> None:
        """Do one step of the referee's part."""
        process, proxy = self._process, self._proxy
        if step == "cue":
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        elif step.startswith("SIG"):
            os.kill(process.pid, signal.Signals[step])
        elif step == "leave":
            proxy.refuse(True)
            proxy.reset()
        elif step == "return":
            time.sleep(self._chance.uniform(0.0, 0.1))
            proxy.refuse(False)
        elif step == "silence":
            proxy.black_hole(True)
            time.sleep(self._chance.uniform(0.05, 0.15))
        elif step == "suspend":
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(_SUSPENDED)
            os.kill(process.pid, signal.SIGCONT)
        elif step == "hang":
            self._await_hang()
        else:
            self._expect(step)

    def _expect(self, news: str) -> None:
        """Wait until a game or its child has news."""
        while (line := self._voice.line()) is not None:
            self._note(line)
            if line.get("news") == news:
                return
        raise RuntimeError(f"the game ended before it was {news}")

    def _note(self, line: Result) -> None:
        if session_id := line.get("session"):
            role = line["role"]
            self.lives[role] = Life(self.name, role, session_id, self._has_journal, self._began_at)
        if line.get("is_running"):
            self._referee.note_running(self.lives[line["role"]])

    def _await_hang(self) -> None:
        """Wait until the collector has the hang."""
        session_id = self.lives["game"].session_id
        deadline = time.monotonic() + _PATIENCE
        with contextlib.closing(self._referee.client()) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(CollectorError):  # the session is not known yet
                    if client.session(session_id).types.get("hang"):
                        return
                time.sleep(0.02)
        raise TimeoutError("the hang has not come")

    def _await_end(self, patience: float) -> None:
        while (line := self._voice.line(patience)) is not None:
            self._note(line)
        if (code := self._process.wait(_PATIENCE)) != self._ending.code:
            raise RuntimeError(f"the game ended with {code} instead of {self._ending.code}")

    def _bury(self) -> None:
        """Kill the game and its children, if any of them lives."""
        process = self._process
        if process.poll() is None or self._ending.child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        process.wait()


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def run(*, endings: int, seed: int, games: int = 3) -> Report:
    """Run it, as the module describes, and return the report."""
    report = Report(seed)
    work = Path(tempfile.mkdtemp(prefix="redvsblue-endings-"))
    database = work / "collector.sqlite3"
    began = time.monotonic()
    with Server("benchmarks.collector_server", "collector", database) as collector:
        referee = Referee(report, work, collector.port)
        referee.run(list(schedule(endings, seed)), games)
        referee.finish()
    compare(report, referee.lives, database)
    report.prove, printed = prove(database)
    if report.prove:
        report.blame("prove", f"prove exits with {report.prove}: {printed.strip()[-2000:]}")
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
    reasons = ", ".join(f"{name} {number(count)}" for name, count in result["by_reason"].items())
    rows = [
        ["games", number(result["endings"])],
        ["ways to end", number(len(result["by_ending"]))],
        ["sessions", number(result["sessions"])],
        ["with a journal", number(result["with_journal"])],
        ["shown with the right outcome", number(result["right"])],
        ["shown as running while they were", number(result["running"])],
        ["by reason", reasons],
    ]
    return {"endings": table(("", ""), rows, has_figures=False)}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.endings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--endings", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="a random one by default")
    parser.add_argument("--games", type=int, default=3, help="at a time; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    report = run(endings=options.endings, seed=seed, games=options.games)
    print("\n".join(report_lines(asdict(report))))
    save(options.json, "endings", asdict(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
