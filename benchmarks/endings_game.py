"""The games of ``benchmarks.endings``: each plays a little and then ends in a way of its choice.

    python -m benchmarks.endings_game TASK

A game prints a line of JSON for each session that it begins, and another one when the server has
confirmed an event of it. Then it plays, at two hundred frames a second, until a line comes on its
standard input or a signal ends it. It notes each event whose ``emit`` has returned in memory that
outlives it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Result
from benchmarks.notes import Notes
from redvsblue_telemetry import ConnectionState, Telemetry, start_telemetry

if sys.platform != "win32":
    import resource

__all__ = ["HANG_TIMEOUT", "OS_EXIT_CODE", "ROLES", "SYS_EXIT_CODE"]

ROLES = ("game", "child", "second")
"""Who began a session: the game, its forked child, or the game after a stop. Each has its slot in
the notes."""
HANG_TIMEOUT = 0.5  # seconds
OS_EXIT_CODE, SYS_EXIT_CODE = 77, 3

_FRAME = 0.005  # seconds
_PATIENCE = 60.0  # seconds until a step has to be done; it takes a fraction of one
_OUTLIVING = 0.2  # seconds that a child plays on after its parent has gone
_SETTINGS: dict[str, Any] = {
    "enabled": True,
    "drain_interval": 0.02,
    "backoff_base": 0.02,
    "backoff_max": 0.2,
    "connect_timeout": 10.0,
    "confirm_timeout": 20.0,
    "frame_interval": 0.1,
}


class Game:
    """One process from its start to its end."""

    def __init__(self, task: Result) -> None:
        self._task = task
        self._notes = Notes(Path(task["notes"]))
        self._cue = threading.Event()
        self._count = 0
        self._parent = os.getpid()
        self.role = "game"
        self.telemetry = self.start()

    # Steps.

    def start(self) -> Telemetry:
        """Begin a session."""
        task = self._task
        settings = {**_SETTINGS, **task["settings"]}
        telemetry = start_telemetry(
            **settings,
            journal=task["journal"],
            url=task["url"],
            version=task["ending"],
        )
        self.telemetry = telemetry
        self._count = 0
        self.say(session=telemetry.session_id)
        return telemetry

    def say(self, **news: Any) -> None:
        """Print a line about this session. One write: a child has the same pipe."""
        os.write(sys.stdout.fileno(), json.dumps({"role": self.role, **news}).encode() + b"\n")

    def get_ready(self, *, stays: bool = True) -> None:
        """Wait until the server has confirmed an event of this session.

        Args:
            stays: it runs until the referee's next step.
        """
        if not self._task["is_away"]:
            self.frame()
            wait_until(lambda: self.telemetry.flush(1.0))
        is_running = stays and self.role != "child" and not self._task["is_away"]
        self.say(news="ready", is_running=is_running)

    def frame(self) -> None:
        """Play one frame, with one event."""
        words, slot = self._notes.words, Notes.slot(ROLES.index(self.role))
        self._count += 1
        words[slot] = self._count
        self.telemetry.frame()
        self.telemetry.emit("tick", n=self._count)
        words[slot + 1] = self._count
        time.sleep(_FRAME)

    def play(self, until: Callable[[], bool] | None = None) -> None:
        """Play until the cue, or a condition."""
        is_over = until or self._cue.is_set
        while not is_over():
            self.frame()

    def stop(self, timeout: float = _PATIENCE) -> None:
        """Stop telemetry, and play on for a moment."""
        self.telemetry.stop(timeout)
        self.say(news="stopped")

    def wait_for_cue(self) -> None:
        """Wait for the cue without a frame."""
        self._cue.wait()

    def listen(self) -> None:
        """Take the cue from standard input; end when the referee has gone."""
        while line := os.read(sys.stdin.fileno(), 100):
            if b"go" in line:
                self._cue.set()
        os._exit(1)

    def fork(self, play: Callable[[], None]) -> int:
        """Let a child play; return its process once it is ready."""
        is_ready, tell = os.pipe()
        child = os.fork()
        if child:
            os.close(tell)
            os.read(is_ready, 1)
            os.close(is_ready)
            return child
        self.role = "child"
        self._count = 0
        self.frame()  # the session of a child begins with its first event
        self.say(session=self.telemetry.session_id)
        self.get_ready()
        os.write(tell, b"x")
        play()
        os._exit(0)

    def outlive(self) -> None:
        """Play on until the parent has gone and for a moment longer, as a child; then stop."""
        self.play(until=self._is_orphan)
        since = time.monotonic()
        self.play(until=lambda: time.monotonic() - since > _OUTLIVING)
        self.stop()

    def _is_orphan(self) -> bool:
        return os.getppid() != self._parent

    # Endings.

    def end(self) -> None:
        """End as the task says, if no signal comes before."""
        getattr(self, "_" + self._task["does"])()

    def _last(self) -> None:
        """Deliver everything that earlier games have left."""
        self.get_ready(stays=False)
        journal = Path(self._task["journal"])
        deadline = time.monotonic() + 5 * _PATIENCE
        while len(list(journal.iterdir())) > 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        self.stop()

    def _play_on(self) -> None:
        self.get_ready()
        self.play(until=lambda: False)

    def _die_early(self) -> None:
        self.frame()
        self.say(news="ready")
        self.play(until=lambda: False)

    def _be_silent(self) -> None:
        wait_until(lambda: self.telemetry.stats().state is ConnectionState.CONNECTED)
        self.say(news="ready")
        self.wait_for_cue()

    def _stop(self) -> None:
        self.get_ready()
        self.play()
        self.stop()

    def _stop_briefly(self) -> None:
        self.get_ready()
        self.play()
        self.stop(0.3)

    def _stop_and_stay(self) -> None:
        self._stop()
        threading.Event().wait()

    def _with(self) -> None:
        with self.telemetry:
            self.get_ready()
            self.play()

    def _return(self) -> None:
        self.get_ready()
        self.play()

    def _sys_exit(self) -> None:
        self._return()
        sys.exit(SYS_EXIT_CODE)

    def _os_exit(self) -> None:
        self._return()
        os._exit(OS_EXIT_CODE)

    def _exec(self) -> None:
        self._return()
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "pass"])

    def _raise(self) -> None:
        self._return()
        raise RuntimeError("the ship sank")

    def _raise_in_with(self) -> None:
        with self.telemetry:
            self._raise()

    def _raise_in_the_game_thread(self) -> None:
        thread = threading.Thread(target=self._raise, name="game")
        thread.start()
        thread.join()

    def _raise_in_a_helper(self) -> None:
        self._return()
        thread = threading.Thread(target=[].pop, name="helper")
        thread.start()
        thread.join()
        self.frame()

    def _catch_ctrl_c(self) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            self._play_on()
        self.stop()

    def _handle_sigterm(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        self._play_on()

    def _hang(self) -> None:
        self._return()
        self._cue.clear()
        self.say(news="hangs")
        self.wait_for_cue()

    def _hang_and_go_on(self) -> None:
        self._hang()
        for _ in range(10):
            self.frame()
        self.stop()

    def _switch_off(self) -> None:
        self._return()
        # A player in a menu: nothing happens in the game, and everything is delivered.
        wait_until(lambda: self.telemetry.flush(1.0))
        self.telemetry.enabled = False
        wait_until(lambda: self.telemetry.stats().state is ConnectionState.IDLE)
        self.say(news="switched off")

    def _switch_off_and_play_on(self) -> None:
        self._switch_off()
        self.play(until=lambda: False)

    def _switch_off_and_on(self) -> None:
        self._switch_off()
        self.telemetry.enabled = True
        self.get_ready(stays=False)
        self.stop()

    def _second_session(self) -> None:
        self._stop()
        self.role = "second"
        self.start()
        self._play_on()

    def _fork_and_stop(self) -> None:
        self.get_ready()
        self.fork(self.outlive)
        self.say(news="forked")
        self.play()
        self.stop()

    def _fork_and_play_on(self) -> None:
        self.get_ready()
        self.fork(self.outlive)
        self.say(news="forked")
        self.play(until=lambda: False)

    def _fork_and_kill(self) -> None:
        self.get_ready()
        child = self.fork(lambda: self.play(until=self._is_orphan))
        self.say(news="forked")
        self.play()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.stop()

    def _fork_and_child_leaves(self) -> None:
        self.get_ready()
        child = self.fork(lambda: None)
        os.waitpid(child, 0)
        self.say(news="forked")
        self.play()

    def _fork_and_child_raises(self) -> None:
        self.get_ready()
        child = self.fork([].pop)
        os.waitpid(child, 0)
        self.say(news="forked")
        self.play()

    def _multiprocessing(self) -> None:
        self.get_ready()
        context: Any = multiprocessing.get_context("fork")
        child = context.Process(target=self._play_as_process)
        child.start()
        child.join()
        self.say(news="forked")
        self.play()

    def _play_as_process(self) -> None:
        self.role = "child"
        self._count = 0
        self.frame()
        self.say(session=self.telemetry.session_id)
        self.get_ready()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition. The referee finds out if it never holds."""
    deadline = time.monotonic() + _PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)


def main() -> None:
    """Do the task in the first argument."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A shell has its background jobs ignore the one, and nohup the other; games would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    game = Game(json.loads(sys.argv[1]))
    threading.Thread(target=game.listen, daemon=True).start()
    game.end()


if __name__ == "__main__":
    main()
