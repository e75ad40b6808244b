"""``report``: one HTML page of what is stored, to look at, keep or send."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import click

from ..collector.database import DatabaseError
from .export import opened
from .report_gathering import gather
from .report_page import page
from .report_words import amount
from .terminal import Refusal, ends_with_its_reader, escaped

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
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default=Path("report.html"),
    show_default=True,
    help="The page to write; - for standard output.",
)
def report(db: Path, session: str | None, output: Path, *, all_sessions: bool) -> None:
    """Make one HTML page of what is stored: timeline, counts by type, loss, rejected messages.

    The page stands alone: it runs no script and asks no server for anything.

    It shows frame times where events tell them. In an event of any type, it takes the first of
    these fields that is a number: frame_time_ms, frameTimeMs, frame_ms, frameMs (milliseconds),
    dt (seconds), fps (frames a second).
    """
    if session is not None and all_sessions:
        raise click.UsageError("--session and --all exclude each other")
    try:
        with opened(db) as connection:
            found = gather(connection, session)
    except DatabaseError as error:
        raise Refusal(str(error)) from error
    except sqlite3.Error as error:
        raise Refusal(f"{db}: {error}") from error
    if found is None:
        raise Refusal(f"{db} holds no session {session}; a report of all lists those that it holds")
    if str(output) == "-":
        with ends_with_its_reader():
            for part in page(found):
                click.echo(part, nl=False)
        return
    try:
        _write(output, page(found))
    except OSError as error:
        raise Refusal(f"{output} can't be written: {error.strerror or error}") from error
    sessions = f"{amount(found.session_count)} session{'' if found.session_count == 1 else 's'}"
    click.echo(f"{escaped(str(output))}: {amount(found.events)} events of {sessions}")


def _write(path: Path, parts: Iterable[str]) -> None:
    """Write a file; it gets its name when it is whole."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("x", encoding="utf-8") as file:
            file.writelines(parts)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
