"""The output of a command: a file or standard output, and a progress bar."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from ._terminal import CommandError, exit_on_broken_pipe, stdout_errors

__all__ = ["is_on_terminal", "output_to", "progress_bar"]


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
            if os.name == "posix":  # elsewhere, read-only is all there is, and can't be replaced
                with contextlib.suppress(FileNotFoundError):
                    part.chmod(stat.S_IMODE(path.stat().st_mode))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        if sys.platform == "win32" and isinstance(error, PermissionError):
            reason = f"{reason}; is it open in another program?"
        raise CommandError(f"{name} can't be written: {reason}") from error


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def progress_bar(label: str, output: str, last: int) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error while a block runs, which calls what it is given.

    Nothing is shown if standard error is not a terminal, or if the output goes to a terminal too.

    Args:
        label: the text beside the progress bar.
        output: the name of the output; see :func:`output_to`.
        last: the number at which all is done; the block calls with the number that it is at.
    """
    if is_on_terminal(output) or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=last, label=label, show_pos=True, file=sys.stderr) as bar:
        yield lambda number: bar.update(number - bar.pos)
        bar.update(last - bar.pos)
