"""Where the result of a command goes, and how far it is with it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..collector.models import StoredEvent
from ._terminal import CommandError, exit_on_broken_pipe, stdout_errors

__all__ = ["Counted", "counting", "is_on_terminal", "output_to", "to_standard_output"]

_STEP = 500  # events from one look at the progress to the next

Counted = Callable[[Iterable[StoredEvent], int], Iterator[StoredEvent]]
"""``counted(events, last)``: the same events; it is noted how far they are on the way to the last
of all, which has this number."""


def is_on_terminal(name: str) -> bool:
    """Whether an output is what a person looks at."""
    return name == "-" and sys.stdout is not None and sys.stdout.isatty()


@contextlib.contextmanager
def output_to(name: str, source: Path) -> Iterator[BinaryIO]:
    """A stream to write to.

    A file gets its name, and what had it before is replaced, only at the end.

    Args:
        name: of a file; ``-`` is standard output.
        source: the database that is read, which must not be replaced.

    Raises:
        CommandError: it can't be written.
    """
    if name == "-":
        if sys.stdout is None:
            raise CommandError("standard output is closed")
        with to_standard_output():
            yield sys.stdout.buffer
        return
    try:
        if Path(name).resolve() == source.resolve():
            raise CommandError(f"{name} is the database itself: name another --output")
        with _file(Path(name).resolve()) as stream:
            yield stream
    except OSError as error:
        raise CommandError(f"{name} can't be written: {error.strerror or error}") from error


@contextlib.contextmanager
def to_standard_output() -> Iterator[None]:
    """Around all that a command has to say: where it can't be written, that is told in a line."""
    if sys.stdout is None:  # it is closed: nobody wants to hear it
        yield
        return
    with exit_on_broken_pipe(), stdout_errors():
        yield
        sys.stdout.flush()


@contextlib.contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    if path.exists() and not path.is_file():  # a device, a named pipe
        with path.open("wb") as stream:
            yield stream
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as stream:
            yield stream
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def counting(doing: str, name: str) -> Iterator[Counted]:
    """Show on standard error how far it is, if that is a terminal that gets nothing else.

    Args:
        doing: what is done.
        name: of the output.
    """
    if not sys.stderr.isatty() or is_on_terminal(name):
        yield lambda events, _: iter(events)
        return
    console = Console(stderr=True)
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def counted(events: Iterable[StoredEvent], last: int) -> Iterator[StoredEvent]:
            progress.update(task, total=last)
            for number, event in enumerate(events):
                if number % _STEP == 0:
                    progress.update(task, completed=event.arrival)
                yield event

        yield counted
