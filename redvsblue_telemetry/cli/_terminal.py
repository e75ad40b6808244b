"""What is said to a terminal or down a pipe, so that neither is harmed by it.

Events are written by strangers. What they hold can move a terminal's cursor, set its title or its
clipboard, or turn the direction of its text; so of what isn't printable, nothing is printed.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO, cast

import click

from .._shared import escape

__all__ = [
    "CommandError",
    "exit_on_broken_pipe",
    "is_coloured",
    "one_line",
    "pipe_safe_stdout",
    "printable",
    "sleep_unless_pipe_closed",
    "stdout_errors",
]


class CommandError(click.ClickException):
    """What was asked for can't be done; the message says why. The exit code is 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(escape(message))


def one_line(json_text: str) -> str:
    """JSON on one printable line. Between its parts, where alone line breaks may be, are spaces."""
    return escape(json_text.translate({0x09: " ", 0x0A: " ", 0x0D: " "}))


def printable(text: str, limit: int = 200) -> str:
    """Return at most ``limit`` characters of a text, on one line, unprintable ones escaped."""
    return escape(text) if len(text) <= limit else f"{escape(text[:limit])}…"


def is_coloured() -> bool:
    """Whether what is written to standard output may have colours."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return _standard_output().isatty() and not is_plain


def sleep_unless_pipe_closed(seconds: float) -> None:
    """Wait, but no longer than there is anybody to read standard output, where it is a pipe.

    Raises:
        BrokenPipeError: there is nobody any more.
    """
    output = _standard_output().fileno()
    if not (hasattr(select, "poll") and stat.S_ISFIFO(os.fstat(output).st_mode)):
        time.sleep(seconds)
        return
    poll = select.poll()
    poll.register(output, 0)
    if poll.poll(seconds * 1000):
        raise BrokenPipeError


@contextlib.contextmanager
def exit_on_broken_pipe() -> Iterator[None]:
    """End quietly, with exit code 0, when whoever reads standard output has read enough."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go(sys.stdout)
        raise SystemExit(0) from None


@contextlib.contextmanager
def stdout_errors() -> Iterator[None]:
    """Around what is written to standard output, and nothing else that has to do with files.

    Raises:
        BrokenPipeError: nobody reads it any more.
        CommandError: something else keeps it from being written, such as a full disk.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _let_go(sys.stdout)
        reason = error.strerror or error
        raise CommandError(f"standard output can't be written: {reason}") from error


def pipe_safe_stdout() -> TextIO:
    """Standard output, for a command that goes on when nobody reads it any more.

    What is written from then on goes nowhere. What else keeps it from being written is raised as a
    :class:`CommandError`, once.
    """
    return cast(TextIO, _Output(_standard_output()))


def _standard_output() -> TextIO:
    if sys.stdout is None:
        # The next file or socket would be taken for it, by libuv for one, which aborts then.
        raise CommandError(f"standard output is closed: send it to {os.devnull} instead")
    return sys.stdout


class _Output:
    """A stream that takes all that is written to it, and passes it on while it is read."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._while_it_is_read():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._while_it_is_read():
            self._stream.flush()

    @contextlib.contextmanager
    def _while_it_is_read(self) -> Iterator[None]:
        try:
            with stdout_errors():
                yield
        except BrokenPipeError:
            _let_go(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _let_go(stream: TextIO) -> None:
    """Have it end nowhere: what is left in it is flushed at exit, and would be an error again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
