"""``export``: what is stored, as a file that other programs read."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import click

from ..collector.models import EventFilter
from ..collector.storage.database import DatabaseError
from ..collector.storage.queries import newest_arrival, stream_events
from ._database import open_database
from ._formats import FORMATS, MissingPackageError, TerminalOutput
from ._output import counting, is_on_terminal, output_to
from ._terminal import CommandError

__all__ = ["export"]


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
    if not output:
        raise click.BadParameter("it names no file", param_hint="'--output'")
    if format_ == "parquet" and is_on_terminal(output):
        raise CommandError("Parquet is nothing for a terminal: name a file by --output")
    wanted = EventFilter(type=type_, session=session, text=text)
    # Ended by SIGTERM, it removes what it has begun, as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        # The database inside: what turns out at its end keeps the file from getting its name.
        with (
            output_to(output, db) as stream,
            _shown(stream, output) as shown,
            open_database(db) as connection,
            counting("exporting", output) as counted,
        ):
            events = counted(stream_events(connection, wanted), newest_arrival(connection))
            FORMATS[format_](events, shown)
    except (DatabaseError, MissingPackageError) as error:
        raise CommandError(str(error)) from error


@contextlib.contextmanager
def _shown(stream: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """The same stream; for a terminal, one that does it no harm."""
    if not is_on_terminal(name):
        yield stream
        return
    with TerminalOutput(stream) as harmless:
        yield cast(BinaryIO, harmless)
