"""``report``: write an HTML page about the stored events, to read, keep or send."""

from __future__ import annotations

from pathlib import Path

import click

from ..._shared import escape
from ...collector.storage.database import DatabaseError
from ...collector.storage.queries import newest_arrival
from .._arguments import TEXT, db_option
from .._database import open_database
from .._output import output_to, progress_bar
from .._terminal import CommandError, NothingFound, exit_on_broken_pipe, stdout_errors
from .data import Report, gather
from .format import amount_of
from .html import page

__all__ = ["report"]


@click.command()
@db_option
@click.option("--session", metavar="ID", type=TEXT, help="Only report on this session.")
@click.option("--all", "all_sessions", is_flag=True, help="Report on all sessions (the default).")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default="report.html",
    show_default=True,
    help="Write to this file; - is standard output.",
)
def report(db: Path, session: str | None, output: str, *, all_sessions: bool) -> None:
    """Write an HTML page about the stored sessions.

    It shows how they ended, why events are missing, crashes, frame times, the events over time and
    by type, and rejected messages. It is a single file without scripts, and loads nothing from any
    server.

    Frame times can be in events of any type. The report uses the first of these fields that is a
    number: frame_time_ms, frameTimeMs, frame_ms, frameMs (milliseconds), fps (frames per second).
    It ignores a field dt: some games give it in seconds, others in milliseconds.

    Only its owner may read the file. Exits with 1 if there is no such session.
    """
    if session is not None and all_sessions:
        raise click.UsageError("--session and --all can't be used together")
    if not output:
        raise click.BadParameter("the file name is empty", param_hint="'--output'")
    found = _gathered(db, session, output)
    with output_to(output, db) as stream:
        for part in page(found):
            stream.write(part.encode())
    if output != "-":
        with exit_on_broken_pipe(), stdout_errors():
            sessions = amount_of(found.session_count, "session")
            click.echo(f"{escape(output)}: {amount_of(found.events, 'event')} of {sessions}")


def _gathered(db: Path, session: str | None, output: str) -> Report:
    try:
        with (
            open_database(db) as connection,
            progress_bar("reading", output, newest_arrival(connection)) as advance,
        ):
            found = gather(connection, session, advance)
    except DatabaseError as error:
        raise CommandError(str(error)) from error
    if found is None:
        raise NothingFound(
            f"{db} has no session {session}; a report without --session lists its sessions"
        )
    return found
