"""``export``: what is stored, as a file that other programs read."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..collector.database import Database, DatabaseError
from ..collector.queries import EventFilter, StoredEvent, newest_arrival, stream_events
from .formats import FORMATS, MissingPackageError, TerminalOutput
from .terminal import Refusal, ends_with_its_reader

__all__ = ["export", "opened"]

_STEP = 500  # events from one look at the progress to the next


@click.command()
@click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    default="telemetry.sqlite3",
    show_default=True,
    help="The collector's database. A collector may be writing to it.",
)
@click.option(
    "--format", "format_", type=click.Choice(list(FORMATS)), default="jsonl", show_default=True
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="-",
    help="Where to; - (which is the default) is standard output.",
)
@click.option("--type", "type_", metavar="NAME", help="Only events of this type.")
@click.option("--session", metavar="ID", help="Only those of this session.")
@click.option("--text", help="Only those whose data has this in its JSON.")
def export(
    db: Path,
    format_: str,
    output: str,
    type_: str | None,
    session: str | None,
    text: str | None,
) -> None:
    """Write stored events as JSON lines, CSV or Parquet, in the order of their arrival.

    Times are in milliseconds since the epoch, by the clock of the collector (received) and of the
    player (timestamp). In CSV the data is one column of JSON, and a text that a spreadsheet would
    take for a formula begins with an apostrophe. The file gets its name when it is complete.
    """
    wanted = EventFilter(type=type_, session=session, text=text)
    # Ended by SIGTERM, it removes what it has begun, as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with opened(db) as connection, ends_with_its_reader():
            events = _with_progress(stream_events(connection, wanted), newest_arrival(connection))
            with events as counted, _output(output, format_) as stream:
                FORMATS[format_](counted, stream)
    except (DatabaseError, MissingPackageError) as error:
        raise Refusal(str(error)) from error
    except sqlite3.Error as error:
        raise Refusal(f"{db}: {error}") from error
    except OSError as error:
        raise Refusal(f"{output} can't be written: {error.strerror or error}") from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A database that is there already, to read from.

    Raises:
        DatabaseError: there is none, or it is something else.
    """
    if not path.is_file() or not path.stat().st_size:
        raise DatabaseError(f"{path} is no database: name the one that `collect` writes by --db")
    with contextlib.closing(Database(path)) as database, database.reading() as connection:
        yield connection


@contextlib.contextmanager
def _with_progress(events: Iterator[StoredEvent], last: int) -> Iterator[Iterator[StoredEvent]]:
    """The same events; how far they are is shown on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield events
        return
    console = Console(stderr=True)
    columns = (TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=last)

        def counted() -> Iterator[StoredEvent]:
            for number, event in enumerate(events):
                if number % _STEP == 0:
                    progress.update(task, completed=event.arrival)
                yield event

        yield counted()


@contextlib.contextmanager
def _output(name: str, format_: str) -> Iterator[BinaryIO]:
    """Where to write. A file gets its name, and what had it before is replaced, only at the end."""
    if name == "-":
        if not sys.stdout.isatty():
            yield sys.stdout.buffer
        elif format_ == "parquet":
            raise Refusal("Parquet is nothing for a terminal: name a file by --output")
        else:
            with TerminalOutput(sys.stdout.buffer) as shown:
                yield cast(BinaryIO, shown)
        return
    path = Path(name).resolve()
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
