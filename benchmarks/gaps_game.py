"""The game of ``benchmarks.gaps``: some of its events never arrive, for any reason that there is.

    python -m benchmarks.gaps_game TASK

Its threads emit at a steady rate, in bursts that overflow a small store. Now and then one of them
emits an odd event: one that ``before_send`` filters or raises for, one that is too large for the
server, or one of another session. ``before_send`` sees each event that leaves the store and writes
its number and its type to a file. So afterward the right cause of each gap is known without the
library's help.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.chaos_game import SETTINGS
from benchmarks.harness import Result
from benchmarks.notes import Notes
from redvsblue_telemetry import ConnectionState, TelemetryEvent, start_telemetry

__all__ = ["CAUSES", "FOREIGN", "MAX_MESSAGE_BYTES", "SAMPLED"]

MAX_MESSAGE_BYTES = 10_000
"""The collector closes with 1009 when a message is larger."""
CAUSES = {"debug": "filtered", "broken": "rejected", "huge": "refused"}
"""Why an event of a type that left the store does not arrive."""
FOREIGN = "replay"
"""How the session id of forwarded events begins."""
SAMPLED = ("bullet_fired", "particle")

_BATCH_SIZE = 20  # of ordinary events, in fewer bytes than a message may have
_CAPACITY = 400
_HUGE = "x" * 12_000
_ODD = ("debug", "broken", "debug", "forwarded")
_HUGE_EVERY = 16  # odd events of the first thread: each refusal costs several connections
_TAKE_OVER_TIMEOUT = 300.0  # seconds until all earlier runs have to be delivered
_COUNTS = ("emitted", "recovered", "delivered", "dropped", "rejected", "buffered", "in_flight")


class Reviewer:
    """The game's ``before_send``, with its record.

    Args:
        record: the file; one write for each event, so a kill leaves no half of a line.
    """

    def __init__(self, record: Path) -> None:
        self._descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, event: TelemetryEvent) -> TelemetryEvent | None:
        """Filter an event, raise for it, or let it pass."""
        os.write(self._descriptor, f"{event.session_id} {event.seq} {event.type}\n".encode())
        if event.type == "debug":
            return None
        if event.type == "broken":
            raise ValueError("a before_send with a bug")
        return event


class Emitter(threading.Thread):
    """A thread of the game."""

    def __init__(self, game: Game, number: int) -> None:
        super().__init__(name=f"emitter-{number}", daemon=True)
        self._game = game
        self._number = number
        self._chance = random.Random(f"{game.task['session_id']} {number}")
        self._next_odd = 0.0
        odd = _ODD if number else (*_ODD * (_HUGE_EVERY // len(_ODD)), "huge")
        self._odd = itertools.cycle(odd)
        self._foreign = 0
        self.sampled = 0
        """Calls with a type that is sampled or limited."""
        self.finish = threading.Event()

    def run(self) -> None:
        """Emit until ``finish`` is set."""
        words, slot = self._game.notes.words, Notes.slot(self._number)
        rate = self._game.task["rate"]
        started = time.monotonic()
        count = numbered = 0
        while not self.finish.is_set():
            now = time.monotonic() - started
            for _ in range(count, due := int(now * rate)):
                is_sampled = self._chance.random() < 0.3
                words[slot] = numbered + (not is_sampled)
                self._emit_one(now, is_sampled=is_sampled)
                numbered += not is_sampled
                words[slot + 1] = numbered
            count = max(count, due)
            self.finish.wait(self._chance.uniform(0.005, 0.05))

    def _emit_one(self, now: float, *, is_sampled: bool) -> None:
        telemetry, chance = self._game.telemetry, self._chance
        if is_sampled:
            self.sampled += 1
            telemetry.emit(chance.choice(SAMPLED), thread=self._number)
        elif now < self._next_odd:
            telemetry.emit("tick", thread=self._number, text="x" * chance.randrange(150))
        else:
            self._next_odd = now + chance.uniform(0.2, 1.8) * self._game.task["odd_interval"]
            self.emit_odd(next(self._odd))

    def emit_odd(self, type_: str) -> None:
        """Emit an event that will not arrive, or not in this session."""
        telemetry = self._game.telemetry
        if type_ == "forwarded":
            self._foreign += 1
            session_id = f"{FOREIGN}-{self._number}-{self._game.task['session_id']}"
            telemetry.push({"type": type_, "sessionId": session_id, "seq": self._foreign})
        else:
            telemetry.emit(type_, text=_HUGE if type_ == "huge" else "")


class Game:
    """One process from its start to its end, unless it is killed before."""

    def __init__(self, task: Result) -> None:
        self.task = task
        self.notes = Notes(Path(task["notes"]))
        settings: dict[str, Any] = {
            **SETTINGS,
            "capacity": _CAPACITY,
            "batch_size": _BATCH_SIZE,
            "sample": {SAMPLED[0]: 0.2},
            "rate_limits": {SAMPLED[1]: 20},
        }
        self.telemetry = start_telemetry(
            **settings,
            url=task["url"],
            journal=task["journal"],
            session_id=task["session_id"],
            before_send=Reviewer(Path(task["record"])),
        )
        self._emitters = [Emitter(self, number) for number in range(task["threads"])]
        for emitter in self._emitters:
            emitter.start()
        self._is_over = threading.Event()
        self._player = threading.Thread(target=self._toggle, daemon=True)
        if not task["journal"]:  # with one, the toggle would erase the runs that were killed
            self._player.start()

    def _toggle(self) -> None:
        """Switch telemetry off and on again, at times."""
        chance = random.Random(f"{self.task['session_id']} player")
        while not self._is_over.wait(chance.uniform(1.0, 6.0)):
            self.telemetry.enabled = False
            self._is_over.wait(chance.uniform(0.0, 0.5))
            self.telemetry.enabled = True

    def finish(self) -> Result:
        """Deliver everything, including the events of earlier games, and stop.

        Before the stop, while nothing fails, events go missing once more for each reason.
        """
        self._is_over.set()
        if self._player.ident:
            self._player.join()
        for emitter in self._emitters:
            emitter.finish.set()
            emitter.join()
        journal = self.task["journal"]
        deadline = time.monotonic() + _TAKE_OVER_TIMEOUT
        while journal and len(list(Path(journal).iterdir())) > 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        self._flush(deadline)
        for _ in range(3 * _CAPACITY):  # faster than the worker takes them out
            self.telemetry.emit("tick")
        self._flush(deadline)
        for type_ in (*_ODD, "huge"):
            self._emitters[0].emit_odd(type_)
        self._flush(deadline)
        # Without a connection and with nothing to deliver, a stop doesn't wait for one.
        while self.telemetry.stats().state is not ConnectionState.CONNECTED:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        self.telemetry.stop(30)
        stats = self.telemetry.stats()
        return {
            **{name: getattr(stats, name) for name in _COUNTS},
            "dropped_by": dict(stats.dropped_by),
            "sampled": dict(stats.sampled),
            "calls": sum(emitter.sampled for emitter in self._emitters),
        }

    def _flush(self, deadline: float) -> None:
        """Wait until nothing is left; a flush is False where events overflow meanwhile."""
        while (stats := self.telemetry.stats()).buffered or stats.in_flight:
            if time.monotonic() > deadline:
                return
            self.telemetry.flush(1.0)


def main() -> None:
    """Do the task in the first argument, and answer the question on standard input."""
    game = Game(json.loads(sys.argv[1]))
    print("{}", flush=True)
    if sys.stdin.readline():
        print(json.dumps(game.finish()), flush=True)
        sys.stdin.readline()
    os._exit(0)


if __name__ == "__main__":
    main()
