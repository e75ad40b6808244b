"""Processes that are killed: by SIGKILL, or by TerminateProcess on Windows."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["KILL", "KILLED", "die", "kill"]

# On Windows, `os.kill` is TerminateProcess, with the signal's number as the exit code.
KILL = signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL
KILLED = int(KILL) if sys.platform == "win32" else -KILL
"""The exit code of a process that :func:`kill` or :func:`die` has ended."""


def kill(process: int) -> None:
    """End a process that can't do anything about it, by its id."""
    os.kill(process, KILL)


def die() -> None:
    """End this process in the same way, once all that it has printed is out."""
    sys.stdout.flush()
    kill(os.getpid())
