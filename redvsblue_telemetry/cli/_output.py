"""The output of a command: a file or standard output, and a progress bar."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from ..collector.models import StoredEvent
from ._terminal import CommandError, exit_on_broken_pipe, stdout_errors

__all__ = ["Counted", "counting", "is_on_terminal", "output_to"]

_PROGRESS_STEP = 500  # events from one update of the progress bar to the next

Counted = Callable[[Iterable[StoredEvent], int], Iterator[StoredEvent]]
"""``counted(events, last)`` yields the same events and shows the progress toward the last one,
whose number of arrival is given."""


def is_on_terminal(name: str) -> bool:
    """Return whether an output is shown to a person."""
    return name == "-" and sys.stdout is not None and sys.stdout.isatty()


@contextlib.contextmanager
def output_to(name: str, source: Path | None = None) -> Iterator[BinaryIO]:
    """Open an output for writing.

    A file gets its name only when it is complete. Until then, an older file of that name stays, and
    the new one gets its permissions.

    Args:
        name: the file's name; ``-`` is standard output.
        source: the database that is being read, if there is one; it must not be replaced. Players'
            data is in it, so a new file is its owner's alone, as a database is.

    Raises:
        CommandError: it can't be written.
    """
    if name == "-":
        if sys.stdout is None:
            raise CommandError("standard output is closed")
        with exit_on_broken_pipe(), stdout_errors():
            yield sys.stdout.buffer
        return
    path = Path(name).resolve()
    try:
        if source is not None and path == source.resolve():
            raise CommandError(f"{name} is the database itself; choose another --output")
        if path.exists() and not path.is_file():  # a device or a named pipe
            with path.open("wb") as stream:
                yield stream
            return
        # Not click's atomic files: they replace the target after an error, too.
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with open(part, "xb", opener=None if source is None else _open_private) as stream:
                yield stream
            with contextlib.suppress(FileNotFoundError):
                part.chmod(stat.S_IMODE(path.stat().st_mode))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(f"{name} can't be written: {error.strerror or error}") from error


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def counting(label: str, output: str) -> Counted:
    """Return a function that passes events on and shows its progress on standard error.

    Nothing is shown if standard error is not a terminal, or if the output goes to a terminal too.

    Args:
        label: the text beside the progress bar.
        output: the name of the output; see :func:`output_to`.
    """

    def counted(events: Iterable[StoredEvent], last: int) -> Iterator[StoredEvent]:
        if is_on_terminal(output) or not sys.stderr.isatty():
            yield from events
            return
        with click.progressbar(length=last, label=label, show_pos=True, file=sys.stderr) as bar:
            for number, event in enumerate(events):
                if number % _PROGRESS_STEP == 0:
                    bar.update(event.arrival - bar.pos)
                yield event
            bar.update(last - bar.pos)

    return counted
