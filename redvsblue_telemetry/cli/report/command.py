"""``report``: write an HTML page about the stored events, to read, keep or send."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import msgspec

from ..._shared import escape
from ...collector.answers.questions import QuestionError
from ...collector.models import ALL_TIME
from ...collector.ranges import NamedRange
from ...collector.storage.database import Database, DatabaseError
from ...collector.storage.queries import newest_arrival
from .._arguments import TEXT, db_option, range_option
from .._database import open_database
from .._lake import check_source, lake_option, opened_lake, source_path
from .._output import output_to, progress_bar
from .._terminal import CommandError, NothingFound, exit_on_broken_pipe, stdout_errors
from .data import Report, gather
from .format import amount_of
from .html import page
from .questions import Asking, Wanted, question_options

__all__ = ["report"]

_Source = tuple[sqlite3.Connection, Asking | None]
"""What a report is about, and what answers its questions if the database does not."""


@click.command()
@db_option
@lake_option
@click.option("--session", metavar="ID", type=TEXT, help="Only report on this session.")
@click.option("--all", "all_sessions", is_flag=True, help="Report on all sessions (the default).")
@range_option("Only report on this range of time.")
@question_options
@click.option("--json", "as_json", is_flag=True, help="Write the data as JSON, not as a page.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write to this file; - is standard output.  [default: report.html or report.json]",
)
def report(
    db: Path,
    lake: str | None,
    session: str | None,
    range_: NamedRange | None,
    output: str | None,
    *,
    all_sessions: bool,
    as_json: bool,
    per: str | None,
    **questions: Any,
) -> None:
    """Write an HTML page about the stored sessions.

    It shows how they ended, why events are missing, crashes, frame times, the events over time and
    by type, rejected messages, and the answers to the questions that the options ask. It is a
    single file without scripts, and loads nothing from any server.

    A session belongs to the range in which it was last heard of, an event to the one in which it
    was received.

    Frame times can be in events of any type. The report uses the first of these fields that is a
    number: frame_time_ms, frameTimeMs, frame_ms, frameMs (milliseconds), fps (frames per second).
    It ignores a field dt: some games give it in seconds, others in milliseconds.

    The sessions of a lake are copied into a temporary database first, which takes about a minute
    for three million events; --session and --range make it fewer. Questions are answered by the
    lake itself.

    Only its owner may read the file. Exits with 1 if there is no such session.
    """
    if session is not None and all_sessions:
        raise click.UsageError("--session and --all can't be used together")
    if session is not None and range_ is not None:
        raise click.UsageError("--session and --range can't be used together")
    if per is not None and not questions["funnel"]:
        raise click.UsageError("--per needs a --funnel")
    if questions["by"] is not None and not questions["field"]:
        raise click.UsageError("--by needs a --field")
    if output is None:
        output = "report.json" if as_json else "report.html"
    if not output:
        raise click.BadParameter("the file name is empty", param_hint="'--output'")
    wanted = Wanted(per=per or "session", **questions)
    check_source(lake=lake)
    opened = _opened(db) if lake is None else _copied(lake, session, range_)
    found = _gathered(opened, lake or str(db), session, range_, wanted, output)
    with output_to(output, source_path(db, lake)) as stream:
        if as_json:
            stream.write(msgspec.json.encode(found) + b"\n")
        else:
            for part in page(found):
                stream.write(part.encode())
    if output != "-":
        with exit_on_broken_pipe(), stdout_errors():
            sessions = amount_of(found.session_count, "session")
            click.echo(f"{escape(output)}: {amount_of(found.events, 'event')} of {sessions}")


def _gathered(
    opened: AbstractContextManager[_Source],
    source: str,
    session: str | None,
    range_: NamedRange | None,
    wanted: Wanted,
    output: str,
) -> Report:
    try:
        with (
            opened as (connection, asking),
            progress_bar("reading", output, newest_arrival(connection)) as advance,
        ):
            found = gather(connection, session, range_, wanted, advance, asking)
    except (DatabaseError, QuestionError) as error:
        raise CommandError(str(error)) from error
    if found is None:
        raise NothingFound(
            f"{source} has no session {session}; a report without --session lists its sessions"
        )
    return found


@contextlib.contextmanager
def _opened(db: Path) -> Iterator[_Source]:
    with open_database(db) as connection:
        yield connection, None


@contextlib.contextmanager
def _copied(lake: str, session: str | None, range_: NamedRange | None) -> Iterator[_Source]:
    """Open a temporary database that has some sessions of a lake, and the lake for questions."""
    with contextlib.closing(Database(None)) as database, opened_lake(lake) as reading:
        copying: Any = import_module("...cluster.lake.copying", __package__)  # needs an extra
        answers: Any = import_module("...cluster.lake.answers", __package__)
        span = ALL_TIME if range_ is None else range_.range
        copying.copy_into(reading, database, session, span)
        with open_database(database.path) as connection:
            yield connection, functools.partial(answers.ask_lake, reading)
