"""The phases of a client's life, and the hooks for forks and for the end of the process.

Theory of operation
-------------------

A client goes through these phases (``TRANSITIONS`` has them as a table)::

    NEW ── start ─▶ STARTING ──▶ RUNNING ◀─── toggle ───▶ SWITCHED_OFF
                                  ▲   │
                                  │  fork (in the child)
                                  │   ▼
              RESTARTING ─────────┘ FORKED ── first event ──▶ RESTARTING

    A stop leads from every phase to STOPPED. A client whose feature flag is off stays OFF.

A forked child has no worker thread: threads don't survive a fork. It gets one when it emits its
first event, so a child that emits nothing starts no thread. While that worker starts, events are
recorded; while the first worker of a client starts, they are not.

Phases change under a lock, so one thread at a time changes them. But the lock is an RLock, since
a signal handler or a log handler may call any method of the client in the middle of any other on
the same thread. With a plain Lock that thread would wait for itself. So code that enters a phase
can't rely on the phase that it read a moment ago, and ``enter`` refuses where the worker's states,
which one thread changes, assert.
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from ._recording.emit import Flag
from ._shared import keep_on_reload

__all__ = ["TRANSITIONS", "Lifecycle", "Phase", "call_after_fork", "call_at_exit", "watch_process"]


@keep_on_reload
class Phase(enum.Enum):
    """A phase in the life of a client."""

    OFF = enum.auto()
    """The feature flag is off: no method does anything, ever."""
    NEW = enum.auto()
    """Not started."""
    STARTING = enum.auto()
    """The worker is being started. Nothing is recorded yet."""
    RUNNING = enum.auto()
    """Events are recorded, and a worker delivers them."""
    SWITCHED_OFF = enum.auto()
    """The player's toggle is off. There is a worker, unless this is a forked child."""
    FORKED = enum.auto()
    """In a forked child: events are recorded, and the first one starts a worker."""
    RESTARTING = enum.auto()
    """In a forked child: the worker is being started. Events are recorded."""
    STOPPED = enum.auto()
    """Stopped for good."""


OFF, NEW, STARTING, RUNNING, SWITCHED_OFF, FORKED, RESTARTING, STOPPED = Phase

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    OFF: frozenset(),
    NEW: frozenset({STARTING, STOPPED}),
    STARTING: frozenset({RUNNING, NEW, SWITCHED_OFF, STOPPED}),
    RUNNING: frozenset({SWITCHED_OFF, FORKED, STOPPED}),
    SWITCHED_OFF: frozenset({RUNNING, STARTING, STOPPED}),
    FORKED: frozenset({RESTARTING, SWITCHED_OFF, STOPPED}),
    RESTARTING: frozenset({RUNNING, FORKED, SWITCHED_OFF, STOPPED}),
    STOPPED: frozenset(),
}
"""A start that fails leads back to the phase before it. A fork in the middle of a start, by another
thread of the parent, does the same in the child."""

_RECORDING = frozenset({RUNNING, FORKED, RESTARTING})
_IN_A_CHILD = {STARTING: NEW, RUNNING: FORKED, RESTARTING: FORKED}


class Lifecycle:
    """The phase of a client, with the flag that ``emit`` reads.

    Args:
        is_enabled: the feature flag.
    """

    def __init__(self, *, is_enabled: bool) -> None:
        self.lock = threading.RLock()
        """Held while the phase changes; ``emit`` never takes it."""
        self.recording = Flag()
        """On in the phases in which events are recorded."""
        self.phase = NEW if is_enabled else OFF
        self._is_stopped = False

    @property
    def is_running(self) -> bool:
        """Whether the feature flag is on and the client has not been stopped."""
        return self.phase not in (OFF, STOPPED)

    def enter(self, phase: Phase) -> bool:
        """Enter a phase if the table allows it; return whether it does. Call it under the lock."""
        if phase not in TRANSITIONS[self.phase]:
            return phase is self.phase
        # A signal handler may stop the client at any line here. The phase alone would not show it:
        # the handler's STOPPED would be overwritten. This variable is never reset, and it is read
        # after the phase is written.
        if phase is STOPPED:
            self._is_stopped = True
        self.phase = phase
        if self._is_stopped:
            self.phase = STOPPED
        entered = None
        while entered is not self.phase:  # likewise, if a handler entered another phase
            entered = self.phase
            self.recording.on = entered in _RECORDING
        return entered is phase

    def after_fork_in_child(self) -> None:
        """Have a lock that no thread of the parent holds, and the phase of a child."""
        self.lock = threading.RLock()
        if (phase := _IN_A_CHILD.get(self.phase)) is not None:
            self.enter(phase)


class Forkable(Protocol):
    """An object that has to change in a forked child."""

    def after_fork_in_child(self) -> None:
        """Stop sharing with the parent."""


_is_reloaded = "_watched" in globals()
if not _is_reloaded:  # importlib.reload keeps them, as it does the hooks that use them
    _watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
    _exit_calls: list[Callable[[], object]] = []
    _finalized_process = 0  # the id of the multiprocessing child that already has a finalizer
    _has_bootstrap_hook = False  # in this process, or in the one that forked it


def call_at_exit(call: Callable[[], object]) -> None:
    """Call a function when the interpreter exits, and when a child of multiprocessing ends.

    A Ctrl-C ends the call, and so does a signal handler of the game that calls ``sys.exit``. The
    game is over by then, so nobody is left to handle either, and Python would print a traceback
    for a player who only wanted to leave at once.
    """

    def call_until_interrupted() -> None:
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            call()

    atexit.register(call_until_interrupted)
    _exit_calls.append(call_until_interrupted)


def call_after_fork(call: Callable[[], object]) -> None:
    """Call a function in every forked child."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=call)


def watch_process(client: Forkable) -> None:
    """Have a client that starts a worker notice forks and the end of a multiprocessing child.

    A child of ``multiprocessing`` may end by ``os._exit``, which skips atexit hooks, but it always
    runs the finalizers of ``multiprocessing.util``. That module is slow to import, and such a child
    has imported it already, so it is never imported from here.
    """
    global _has_bootstrap_hook
    _watched.add(client)
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is None or util is None:
        return
    if not _has_bootstrap_hook:
        _has_bootstrap_hook = True
        util.register_after_fork(_watched, _at_bootstrap)
    if process.parent_process() is not None and _finalized_process != os.getpid():
        _finalize(util)


def _at_bootstrap(_: object) -> None:
    """Notice that a child of multiprocessing is complete, right before it runs its target.

    If the main module starts telemetry when a child imports it, ``multiprocessing`` has set no
    parent yet, and it discards all finalizers before it goes on. A child of a forkserver needs one.
    A spawned child doesn't: it ends with its atexit hooks, which the game's own may emit in, and
    it has not imported the forkserver.
    """
    if "multiprocessing.forkserver" in sys.modules or _finalized_process == os.getpid():
        _finalize(sys.modules["multiprocessing.util"])


def _finalize(util: Any) -> None:
    global _finalized_process
    _finalized_process = os.getpid()
    for call in _exit_calls:
        util.Finalize(None, call, exitpriority=0)


def _after_fork_in_child() -> None:
    for client in tuple(_watched):
        client.after_fork_in_child()


if not _is_reloaded:
    call_after_fork(_after_fork_in_child)
