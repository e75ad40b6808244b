"""Writes to a terminal or a pipe without harming either.

Events are written by strangers. Their text can move a terminal's cursor, set its title or its
clipboard, or reverse the direction of text. So characters that aren't printable are never printed.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
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
    "NothingFound",
    "choose_encodings",
    "exit_on_broken_pipe",
    "is_colored",
    "notice",
    "one_line",
    "pipe_safe_stdout",
    "printable",
    "sleep_unless_pipe_closed",
    "stdout_errors",
]


_ESCAPING = "redvsblue-telemetry-escape"


def choose_encodings() -> None:
    """Let the standard streams take any text.

    What an encoding lacks is escaped, as by :func:`escape`. On Windows, pipes and files are in
    UTF-8, as they are from Python 3.15 on. Before that, Python writes the code page that programs
    without Unicode have: it lacks most letters, and hardly a program would read it as such.
    """
    is_utf_8 = sys.platform == "win32" and not os.environ.get("PYTHONIOENCODING")
    codecs.register_error(_ESCAPING, _escaped)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):  # None, if it is closed
            continue
        if is_utf_8 and not stream.isatty():
            stream.reconfigure(encoding="utf-8")
        if stream is not sys.stdin:
            stream.reconfigure(errors=_ESCAPING)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


class CommandError(click.ClickException):
    """The command can't be run; the message says why. The exit code is 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(escape(message))


class NothingFound(CommandError):  # noqa: N818 (it is an answer, and no fault of the command)
    """The stored events have none of what was asked for. The exit code is 1."""

    exit_code = 1


def one_line(json_text: str) -> str:
    """Return the JSON as one printable line. Its line breaks, all between tokens, become spaces."""
    return escape(json_text.translate({0x09: " ", 0x0A: " ", 0x0D: " "}))


def printable(text: str, limit: int = 200) -> str:
    """Return at most ``limit`` characters of a text, on one line, unprintable ones escaped."""
    return escape(text) if len(text) <= limit else f"{escape(text[:limit])}…"


def notice(text: str, **style: Any) -> None:
    """Print a line to standard error, if it can be written; style as for :func:`click.style`."""
    with contextlib.suppress(OSError):
        click.echo(click.style(escape(text), reset=bool(style), **style), err=True)


def is_colored() -> bool:
    """Return whether standard output is a terminal that shows colors."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return _open_stdout().isatty() and not is_plain


def sleep_unless_pipe_closed(seconds: float) -> None:
    """Sleep, but return early if standard output is a pipe whose reader has closed it.

    Raises:
        BrokenPipeError: the reader has closed it.
    """
    output = _open_stdout().fileno()
    if not (hasattr(select, "poll") and stat.S_ISFIFO(os.fstat(output).st_mode)):
        time.sleep(seconds)
        return
    poll = select.poll()
    poll.register(output, 0)
    if poll.poll(seconds * 1000):
        raise BrokenPipeError


@contextlib.contextmanager
def exit_on_broken_pipe() -> Iterator[None]:
    """Exit with code 0 when the reader of standard output has closed it, as ``head`` does.

    Click would exit with code 1, and a script with ``set -o pipefail`` would take that for a
    failure.
    """
    try:
        yield
    except BrokenPipeError:
        raise SystemExit(0) from None


@contextlib.contextmanager
def stdout_errors() -> Iterator[None]:
    """Flush standard output at the end, and report a failed write in one line, not a traceback.

    Use it around writes to standard output only: it takes every OSError for a failed write.

    Raises:
        BrokenPipeError: the reader has closed it.
        CommandError: it can't be written for another reason, such as a full disk.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # Its buffer still has the text, and flushing that at exit would be a second error.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        # Windows has another error for a pipe without a reader: python/cpython#79935.
        is_unknown = sys.platform == "win32" and error.errno == errno.EINVAL
        if is_unknown or isinstance(error, BrokenPipeError):
            raise BrokenPipeError from error
        reason = error.strerror or error
        raise CommandError(f"standard output can't be written: {reason}") from error


def pipe_safe_stdout() -> TextIO:
    """Return standard output, for a command that goes on after its reader has closed the pipe.

    From then on, its output is discarded. Any other write error is raised as a
    :class:`CommandError`, once.
    """
    return cast(TextIO, _PipeSafe(_open_stdout()))


def _open_stdout() -> TextIO:
    if sys.stdout is None:
        # The next file or socket would get its descriptor, and libuv, for one, aborts then.
        raise CommandError(f"standard output is closed; redirect it to {os.devnull} instead")
    return sys.stdout


class _PipeSafe:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(BrokenPipeError), stdout_errors():
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
