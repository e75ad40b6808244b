"""``export``: write stored events to a file for other programs."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..collector.models import EventFilter
from ..collector.storage.batches import EventBatch, ahead, stream_batches
from ..collector.storage.database import DatabaseError
from ..collector.storage.queries import newest_arrival
from ._arguments import db_option, filter_options
from ._database import open_database
from ._formats import FORMATS
from ._lake import check_source, lake_option, opened_lake, source_path
from ._output import is_on_terminal, output_to, progress_bar
from ._parquet import MissingPackageError
from ._terminal import CommandError, NothingFound

__all__ = ["export"]


@click.command()
@db_option
@lake_option
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    default="jsonl",
    show_default=True,
    help="The format to write.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="-",
    help="Write to this file. The default, -, is standard output.",
)
@filter_options
def export(
    db: Path,
    lake: str | None,
    format_: str,
    output: str,
    wanted: EventFilter,
) -> None:
    """Write stored events as JSON lines, CSV or Parquet, in order of arrival.

    Times are in milliseconds since the epoch, by the collector's clock (received) and by the
    player's (timestamp). In CSV, data and context are columns of JSON, and a text that a
    spreadsheet would take for a formula starts with an apostrophe. A file gets its name when it is
    complete, and only its owner may read it.

    Exits with 1, and writes no file, if no event matches the options.
    """
    if not output:
        raise click.BadParameter("the file name is empty", param_hint="'--output'")
    if format_ == "parquet" and is_on_terminal(output):
        raise CommandError("refusing to write Parquet to a terminal; use --output FILE")
    check_source(lake=lake)
    # On SIGTERM, remove the unfinished file, as on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        # The source is closed first: if that fails, the output does not get its name.
        with (
            output_to(output, source_path(db, lake)) as stream,
            _opened_database(db) if lake is None else _opened_lake(lake) as source,
        ):
            with (
                contextlib.closing(ahead(source.batches(wanted))) as batches,
                progress_bar("exporting", output, source.last) as advance,
            ):
                first = next(batches, None)
                FORMATS[format_](_counted(first, batches, advance), stream)
            if first is None and wanted != EventFilter():
                lack = _lack(source.batches, wanted)
                raise NothingFound(f"{db if lake is None else lake} has no event {lack}")
    except (DatabaseError, MissingPackageError) as error:
        raise CommandError(str(error)) from error


class _Source(NamedTuple):
    """What the events are read from."""

    batches: Callable[[EventFilter], Iterator[EventBatch]]
    last: int
    """The arrival number of the newest event."""


@contextlib.contextmanager
def _opened_database(db: Path) -> Iterator[_Source]:
    with open_database(db) as connection:
        yield _Source(partial(stream_batches, connection), newest_arrival(connection))


@contextlib.contextmanager
def _opened_lake(url: str) -> Iterator[_Source]:
    with opened_lake(url) as reading:
        batches: Any = import_module("..cluster.lake.batches", __package__)  # needs an extra
        yield _Source(partial(batches.stream_batches, reading), reading.snapshot.newest_arrival())


def _counted(
    first: EventBatch | None, others: Iterator[EventBatch], advance: Callable[[int], None]
) -> Iterator[EventBatch]:
    """Yield all batches, and show the progress."""
    for batch in chain([] if first is None else [first], others):
        yield batch
        advance(batch.arrival[-1])


def _lack(batches: Callable[[EventFilter], Iterator[EventBatch]], wanted: EventFilter) -> str:
    """Return which events there are none of: by the first filter that no event passes, or by all.

    A text is not searched for alone: that could take as long as the export.
    """
    alone = [
        (f"of session {wanted.session}", EventFilter(session=wanted.session)),
        (f"of type {wanted.type}", EventFilter(wanted.type)),
        *(
            (f"with {name}={value} in its context", EventFilter(context={name: value}))
            for name, value in wanted.context.items()
        ),
        (f"with the fault {wanted.fault}", EventFilter(fault=wanted.fault)),
    ]
    for text, filter_ in alone:
        if filter_ != EventFilter() and next(batches(filter_), None) is None:
            return text
    return "that all of the options fit"
