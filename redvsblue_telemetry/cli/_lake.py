"""The lake that a command reads in place of a database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..cluster.lake.errors import LakeError
from ._arguments import TEXT
from ._terminal import CommandError

if TYPE_CHECKING:
    from ..cluster.lake.reading import Reading

__all__ = ["check_source", "lake_option", "opened_lake", "source_path"]

lake_option = click.option(
    "--lake",
    metavar="URL",
    type=TEXT,
    help="Read this lake in place of a database: a directory, or a URL such as s3://bucket/lake.",
)


def check_source(**others: str | None) -> None:
    """Raise UsageError if a command is given more than one thing to read.

    Args:
        others: what can be read in place of the database, by the name of the option.
    """
    given = [name for name, value in others.items() if value is not None]
    if click.get_current_context().get_parameter_source("db") is not ParameterSource.DEFAULT:
        given.insert(0, "db")
    if len(given) > 1:
        raise click.UsageError(f"--{given[0]} and --{given[1]} can't be used together")


def source_path(db: Path, lake: str | None) -> Path:
    """Return what an output must not replace."""
    return db if lake is None else Path(lake)


@contextlib.contextmanager
def opened_lake(url: str) -> Iterator[Reading]:
    """Open the newest version of a lake for reading.

    Args:
        url: see ``--lake``.

    Raises:
        CommandError: it can't be read, or a package is missing. Also from the block.
    """
    try:
        reading: Any = import_module("..cluster.lake.reading", __package__)  # needs an extra
    except ModuleNotFoundError as error:
        raise CommandError(
            f'a lake needs {error.name}: pip install "redvsblue-telemetry[cluster]"'
        ) from error
    try:
        with reading.Snapshot(url).reading() as opened:
            yield opened
    except LakeError as error:
        raise CommandError(str(error)) from error
