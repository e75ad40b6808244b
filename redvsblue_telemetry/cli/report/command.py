"""``report``: write an HTML page about the stored events, to read, keep or send."""

from __future__ import annotations

from pathlib import Path

import click

from ..._shared import escape
from ...collector.storage.database import DatabaseError
from .._database import open_database
from .._output import counting, output_to
from .._terminal import CommandError, exit_on_broken_pipe, stdout_errors
from .data import Report, gather
from .format import amount_of
from .html import page

__all__ = ["report"]


@click.command()
@click.option(
    "--db",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("telemetry.sqlite3"),
    show_default=True,
    help="The collector's database; a collector may be writing it meanwhile.",
)
@click.option("--session", metavar="ID", help="Only of the session of this id.")
@click.option("--all", "all_sessions", is_flag=True, help="Of all sessions: so it is by default.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default="report.html",
    show_default=True,
    help="The page to write; - for standard output.",
)
def report(db: Path, session: str | None, output: str, *, all_sessions: bool) -> None:
    """Make one HTML page of what is stored: timeline, counts by type, loss, rejected messages.

    The page stands alone: it runs no script and asks no server for anything.

    It shows frame times where events tell them. In an event of any type, it takes the first of
    these fields that is a number: frame_time_ms, frameTimeMs, frame_ms, frameMs (milliseconds),
    fps (frames a second). A field dt is not taken: some games give it in seconds, others in
    milliseconds.
    """
    if session is not None and all_sessions:
        raise click.UsageError("--session and --all exclude each other")
    if not output:
        raise click.BadParameter("it names no file", param_hint="'--output'")
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
        with open_database(db) as connection:
            found = gather(connection, session, counting("reading", output))
    except DatabaseError as error:
        raise CommandError(str(error)) from error
    if found is None:
        raise CommandError(
            f"{db} holds no session {session}; a report of all lists those that it holds"
        )
    return found
