"""Uncaught exceptions: they become ``crash`` events, and are how a session can end.

Python calls ``sys.excepthook`` for an exception that ends the main thread, right before it exits,
and ``threading.excepthook`` for one that ends another thread. A client with ``crash_events`` puts
its own hooks before those that are there, and calls them.

Hooks can't show whether the game has ended: a game may call ``sys.excepthook`` itself and go on.
But Python keeps the exception that ended the main thread in ``sys.last_exc`` (before Python 3.12,
``sys.last_value``), with and without hooks.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ._frames import Frames
from ._report import Reason
from ._shared import encodable, type_name
from ._stacks import stack_of_traceback

Emit = Callable[[str, "dict[str, Any]"], object]

__all__ = ["CrashHooks", "exit_reason", "forget_crashes"]

_MAX_MESSAGE = 500  # characters
_MAX_READ = 4 * _MAX_MESSAGE  # characters, before the home directory is taken out
_MAX_NAME = 100  # characters

_is_reloaded = "_earlier" in globals()
if not _is_reloaded:  # importlib.reload keeps them, as it does the exit hook that asks for them
    # The id of the exception that Python kept when telemetry was started. Not the exception, whose
    # frames hold the game's objects; and the interpreter keeps it until there is another one.
    _earlier = 0
    _game_loop_has_crashed = False


def exit_reason() -> str:
    """Return how this process ends, as a :class:`Reason`. For a hook that runs at its exit.

    It is a crash if an uncaught exception ended the main thread, or, with ``crash_events``, the
    thread that calls ``frame``. A Ctrl-C is not a crash.
    """
    if _game_loop_has_crashed:
        return Reason.CRASHED
    # A child of multiprocessing handles its exceptions itself. Up to Python 3.12, its finalizers
    # run in a ``finally``, where the exception shows; later, nothing shows it.
    error = sys.exc_info()[1]
    if error is None:
        error = _last_uncaught()
        if id(error) == _earlier or _is_interactive() or not _has_left_all_code(error):
            return Reason.EXIT
    return Reason.CRASHED if error is not None and _is_crash(type(error)) else Reason.EXIT


def _is_crash(kind: type[BaseException]) -> bool:
    """Return whether an uncaught exception of this class is a crash: a Ctrl-C isn't."""
    return not issubclass(kind, (KeyboardInterrupt, SystemExit))


def forget_crashes() -> None:
    """Have :func:`exit_reason` be about what comes from now on."""
    global _earlier, _game_loop_has_crashed
    _earlier, _game_loop_has_crashed = id(_last_uncaught()), False


def _last_uncaught() -> BaseException | None:
    error: BaseException | None = getattr(sys, "last_exc", None)
    return getattr(sys, "last_value", None) if error is None else error


def _has_left_all_code(error: BaseException | None) -> bool:
    """Return whether no code was left that could have handled an exception.

    Tkinter and the standard library's consoles keep exceptions in the same place after they have
    handled them, and the game goes on. Their tracebacks begin in a function that somebody called.
    """
    traceback = None if error is None else error.__traceback__
    return traceback is None or traceback.tb_frame.f_back is None


def _is_interactive() -> bool:
    """Return whether a person goes on at a prompt after an exception."""
    return bool(sys.flags.interactive) or hasattr(sys, "ps1")


class CrashHooks:
    """The hooks of one client, which record uncaught exceptions as ``crash`` events.

    They never raise and never wait. Any thread.

    Args:
        max_event_bytes: the limit of an event's JSON, in bytes.
        frames: the client's frames, which know the thread that calls ``frame``.
    """

    def __init__(self, max_event_bytes: int, frames: Frames) -> None:
        self._max_event_bytes = max_event_bytes
        self._frames = frames
        self._emit: Emit | None = None
        self._passing: set[int] = set()  # ids of the exceptions that are in a hook at the moment
        self._next_hook: Callable[..., object] = sys.excepthook
        self._next_thread_hook: Callable[..., object] = threading.excepthook

    def install(self, emit: Emit) -> None:
        """Record uncaught exceptions from now on."""
        if self._emit is not None:
            return
        self._emit = emit
        self._next_hook, self._next_thread_hook = sys.excepthook, threading.excepthook
        sys.excepthook, threading.excepthook = self._on_exception, self._on_thread_exception

    def remove(self) -> None:
        """Record nothing any more, and restore the hooks that were there, if that is possible.

        If other code has installed hooks meanwhile, they may call these: then these stay, and do
        nothing but call the next.
        """
        if self._emit is None:
            return
        self._emit = None
        # Not `is`: each look-up of a method makes a new object, and these are equal.
        if sys.excepthook == self._on_exception:
            sys.excepthook = self._next_hook
        if threading.excepthook == self._on_thread_exception:
            threading.excepthook = self._next_thread_hook

    def _on_exception(
        self,
        kind: type[BaseException],
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_new = self._begin(error)
        try:
            if is_new:
                self.record(kind, error, traceback, threading.current_thread())
            self._next_hook(kind, error, traceback)
        finally:
            self._end(error, is_new)

    def _on_thread_exception(self, args: threading.ExceptHookArgs) -> None:
        is_new = self._begin(args.exc_value)
        try:
            if is_new and self.record(
                args.exc_type, args.exc_value, args.exc_traceback, args.thread
            ):
                self._note_end_of_thread()
            self._next_thread_hook(args)
        finally:
            self._end(args.exc_value, is_new)

    # A game's hook for threads may call `sys.excepthook`, which is ours, too.

    def _begin(self, error: BaseException | None) -> bool:
        is_new = id(error) not in self._passing
        self._passing.add(id(error))
        return is_new

    def _end(self, error: BaseException | None, is_new: bool) -> None:
        if is_new:
            self._passing.discard(id(error))

    def _note_end_of_thread(self) -> None:
        global _game_loop_has_crashed
        if self._frames.runs_here:
            _game_loop_has_crashed = True

    def record(
        self,
        kind: type[BaseException],
        error: BaseException | None,
        traceback: TracebackType | None,
        thread: threading.Thread | None,
    ) -> bool:
        """Record an exception; return whether it is a crash."""
        emit, most = self._emit, self._max_event_bytes
        try:
            if emit is None or not _is_crash(kind):
                return False
            emit(
                "crash",
                {
                    "exception": encodable(type_name(kind))[:_MAX_NAME],
                    "message": _message_of(error)[: min(_MAX_MESSAGE, most // 24)],
                    "stack": stack_of_traceback(traceback, most // 3),
                    "thread": "" if thread is None else encodable(str(thread.name))[:_MAX_NAME],
                },
            )
        except BaseException:  # noqa: S110 (the game has trouble enough)
            pass
        return True


def _message_of(error: BaseException | None) -> str:
    """Return the exception's message, without the player's home directory."""
    if error is None:
        return ""
    try:
        text = encodable(str(error)[:_MAX_READ])
    except BaseException:  # a class of the game's may do anything in its `__str__`
        return "(its message could not be read)"
    home = os.path.expanduser("~")
    return text if len(home) <= 1 else _home_as(home).sub("~", text)


def _home_as(home: str) -> re.Pattern[str]:
    """Return what finds a directory in a text, in all the ways in which Windows lets it be written.

    Games mix both slashes, its capitals mean nothing, and a ``repr`` doubles each backslash.
    """
    parts = map(re.escape, re.split(r"[\\/]", home))
    return re.compile(r"(?:\\{1,2}|/)".join(parts) + r"(?=[\\/])", re.IGNORECASE)
