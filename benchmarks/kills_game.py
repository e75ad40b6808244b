"""The game that ``benchmarks.kills`` kills. It notes each event whose ``emit`` has returned.

Threads, a signal handler and forked children emit; each of them is an *emitter*, which numbers its
events 1, 2, 3, …. So the notes of an emitter are two counts. An emit that was under way when
``stop`` was called may or may not record its event, so it isn't noted as returned. The player's
toggle erases events, so those before it are not noted any more.
"""

from __future__ import annotations

import enum
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from benchmarks.harness import Result
from benchmarks.notes import SLOTS, Notes
from redvsblue_telemetry import ConnectionState, Telemetry, start_telemetry

if sys.platform != "win32":
    import resource

__all__ = ["CHILDREN_KILLED", "EXIT_CODE", "FORKS", "PHASE", "RECOVERED", "STATE", "Phase"]

PHASE, STATE, RECOVERED, CHILDREN_KILLED, FORKS = range(5)  # words in the head of the notes
EXIT_CODE = 77  # of the os._exit in a thread

STATES = tuple(ConnectionState)
SETTINGS: dict[str, Any] = {
    "enabled": True,
    "drain_interval": 0.05,
    "backoff_base": 0.02,
    "backoff_max": 0.2,
    "connect_timeout": 2.0,
    "confirm_timeout": 2.0,
    "keepalive_interval": 1.0,
}
_JOURNAL = {"journal_max_bytes": 2**31}  # no event may expire here
_SIGNAL_INTERVAL = 0.004  # seconds
_QUIET = 0.1  # seconds without a recovered event, after which a take-over counts as done
_CHILD_LIFE = 2.0  # seconds until a forked child that nobody killed ends by itself


class Phase(enum.IntEnum):
    """The activity of the game's main thread."""

    BOOT = 0
    START = 1
    TAKE_OVER = 2
    PLAY = 3
    FORK = 4
    STOP = 5
    TOGGLE = 6


class Session:
    """From a start to a stop, or to the toggle."""

    def __init__(self, telemetry: Telemetry, owner: int) -> None:
        self.telemetry = telemetry
        self.owner = owner
        self.emitters: list[Emitter] = []
        self.signal_slot = 0
        self.is_closing = False
        """Set before ``stop`` is called."""


class Emitter(threading.Thread):
    """Emits a number of events at full speed, or in bursts with pauses."""

    def __init__(self, game: Game, session: Session, number: int) -> None:
        super().__init__(name=f"emitter-{number}", daemon=True)
        self._game = game
        self._session = session
        self._number = number
        self.slot = Notes.slot(number)

    def run(self) -> None:
        """Emit until all events are emitted, or the session is closing."""
        game, session, number = self._game, self._session, self._number
        chance = random.Random(f"{game.seed} {number}")
        words, slot = game.notes.words, self.slot
        emit, life, padding = session.telemetry.emit, game.life, "x" * game.text
        burst, most = game.burst, game.events
        words[slot + 2] = session.owner
        for n in range(1, most + 1):
            text = padding[: chance.randrange(game.text)]
            words[slot] = n
            emit("kill", life=life, emitter=number, n=n, at=time.time_ns() // 10**6, text=text)
            if session.is_closing:
                return
            words[slot + 1] = n
            if burst and n % burst == 0:
                time.sleep(chance.uniform(0, 0.015))


class SignalEmitter:
    """Emits in a signal handler, on the main thread, in the middle of anything."""

    def __init__(self, game: Game, session: Session, number: int) -> None:
        self._game = game
        self._session = session
        self._number = number
        self._slot = Notes.slot(number)
        self._count = 0
        self._is_emitting = False
        game.notes.words[self._slot + 2] = session.owner

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        """Emit one event, unless it interrupts itself."""
        if self._is_emitting or self._count >= self._game.events or self._session.is_closing:
            return
        self._is_emitting = True
        self._count = n = self._count + 1
        words = self._game.notes.words
        words[self._slot] = n
        self._session.telemetry.emit(
            "kill",
            life=self._game.life,
            emitter=self._number,
            n=n,
            at=time.time_ns() // 10**6,
            text="in a signal handler",
        )
        if not self._session.is_closing:
            words[self._slot + 1] = n
        self._is_emitting = False


class Game:
    """One process from its start to its kill, as the task says."""

    def __init__(self, task: Result) -> None:
        self.notes = Notes(Path(task["notes"]))
        self.seed: str = task["seed"]
        self.life: int = task["life"]
        self.text: int = task["text"]
        self.events: int = task["events"]
        self.burst: int = task["burst"]
        self._task = task
        self._chance = random.Random(self.seed)
        self._emitters = 0
        self._sessions = 0
        self._children: list[int] = []
        self._forks = 0
        self._process = os.getpid()

    def play(self) -> None:
        """Play until killed."""
        plan = self._task["plan"]
        while True:
            session = self._begin()
            if plan == "stop":
                time.sleep(self._chance.uniform(0.0, 0.2))
                self._stop(session)
                if self._has_slots:
                    continue
            while plan == "toggle" and self._has_slots:
                time.sleep(self._chance.uniform(0.0, 0.1))
                session = self._toggled(session)
            while plan == "fork" and self._has_slots:
                self._fork(session)
                time.sleep(self._chance.uniform(0.0, 0.08))
                self._end_children()
            while True:
                self._note_recovered(session)
                time.sleep(0.02)

    def finish(self) -> Result:
        """Emit nothing, deliver the events of earlier games, and stop."""
        journal = Path(self._task["journal"] or "")
        telemetry = self._start()
        deadline = time.monotonic() + self._task["timeout"]
        while time.monotonic() < deadline:
            stats = telemetry.stats()
            others = len(list(journal.iterdir())) - 1 if self._task["journal"] else 0
            # Without a connection, it would leave its own report to the next start.
            is_connected = stats.state is ConnectionState.CONNECTED
            if is_connected and others <= 0 and not (stats.buffered or stats.in_flight):
                break
            time.sleep(0.05)
        has_ended_well = telemetry.stop(10)
        stats = telemetry.stats()
        return {
            "ended_well": has_ended_well,
            "recovered": stats.recovered,
            "delivered": stats.delivered,
            "dropped": {name: count for name, count in stats.dropped_by.items() if count},
            "left": stats.buffered + stats.in_flight,
        }

    def _start(self) -> Telemetry:
        self.notes[PHASE] = Phase.START
        journal = self._task["journal"]
        settings = {"journal": journal, **_JOURNAL} if journal else {"capacity": 10**6}
        return start_telemetry(
            **SETTINGS,
            **settings,
            url=self._task["url"],
            version=f"life-{self.life}",
            on_state_change=self._note_state,
        )

    def _begin(self) -> Session:
        telemetry = self._start()
        self._sessions += 1
        self.notes[PHASE] = Phase.TAKE_OVER if self._task["finds"] else Phase.PLAY
        session = Session(telemetry, self._sessions)
        self._emit_in(session)
        if self._task["finds"]:
            recovered, since = 0, time.monotonic()
            while time.monotonic() - since < _QUIET:
                self._note_recovered(session)
                if self.notes[RECOVERED] != recovered:
                    recovered, since = self.notes[RECOVERED], time.monotonic()
                time.sleep(0.005)
            self.notes[PHASE] = Phase.PLAY
        return session

    def _emit_in(self, session: Session) -> None:
        session.emitters = [
            Emitter(self, session, self._slot()) for _ in range(self._task["threads"])
        ]
        for emitter in session.emitters:
            emitter.start()
        number = self._slot()
        session.signal_slot = Notes.slot(number)
        signal.signal(signal.SIGALRM, SignalEmitter(self, session, number))
        signal.setitimer(signal.ITIMER_REAL, _SIGNAL_INTERVAL, _SIGNAL_INTERVAL)

    def _toggled(self, session: Session) -> Session:
        """Switch telemetry off and on again: what was emitted before may be erased."""
        session.is_closing = True
        for emitter in session.emitters:
            emitter.join()
            self.notes.words[emitter.slot + 1] = 0
        self.notes.words[session.signal_slot + 1] = 0
        self.notes[PHASE] = Phase.TOGGLE
        session.telemetry.enabled = False
        session.telemetry.enabled = True
        self.notes[PHASE] = Phase.PLAY
        following = Session(session.telemetry, session.owner)
        self._emit_in(following)
        return following

    def _stop(self, session: Session) -> None:
        self.notes[PHASE] = Phase.STOP
        session.is_closing = True
        session.telemetry.stop(self._chance.choice((0.0, 0.05, 0.5)))

    def _slot(self) -> int:
        self._emitters += 1
        return self._emitters - 1

    @property
    def _has_slots(self) -> bool:
        return self._emitters + 8 < SLOTS

    def _note_state(self, state: ConnectionState) -> None:
        if os.getpid() == self._process:  # a forked child calls this, too
            self.notes[STATE] = STATES.index(state)

    def _note_recovered(self, session: Session) -> None:
        self.notes[RECOVERED] = session.telemetry.stats().recovered

    # Forks.

    def _fork(self, session: Session) -> None:
        self._forks += 1
        slots = [self._slot() for _ in range(2)]
        self.notes[FORKS] = self._forks
        self.notes[PHASE] = Phase.FORK
        child = os.fork()
        if child == 0:
            self._play_as_child(session.telemetry, slots)
        self.notes[PHASE] = Phase.PLAY
        self._children.append(child)

    def _play_as_child(self, telemetry: Telemetry, slots: list[int]) -> NoReturn:
        try:
            chance = random.Random(f"{self.seed} child {self._forks}")
            session = Session(telemetry, self._forks << 8)
            for slot in slots:
                Emitter(self, session, slot).start()
            time.sleep(chance.uniform(0.0, 0.15))
            ending = chance.choice(("stop", "exit", "stay"))
            if ending == "stop":
                session.is_closing = True
                telemetry.stop(chance.choice((0.0, 0.05, 0.5)))
            elif ending == "stay":
                time.sleep(_CHILD_LIFE)
        finally:
            os._exit(0)

    def _end_children(self) -> None:
        """Kill one of the children, sometimes, and collect those that have ended."""
        if self._children and self._chance.random() < 0.4:
            os.kill(self._chance.choice(self._children), signal.SIGKILL)
            self.notes[CHILDREN_KILLED] += 1
        self._children = [pid for pid in self._children if os.waitpid(pid, os.WNOHANG)[0] == 0]


def exit_when_asked() -> None:
    """End the process in the middle of everything, when a byte comes or the referee has gone."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(EXIT_CODE)


def main() -> None:
    """Do the task in the first argument."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=exit_when_asked, daemon=True).start()
    task: Result = json.loads(sys.argv[1])
    game = Game(task)
    if task["plan"] == "finish":
        print(json.dumps(game.finish()), flush=True)
    else:
        game.play()


if __name__ == "__main__":
    main()
