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

__all__ = ["check_source", "lake_option", "missing_lake_extra", "opened_lake", "source_path"]

lake_option = click.option(
    "--lake",
    metavar="URL",
    type=TEXT,
    help="Read this lake in place of a database: a directory, or a URL such as s3://bucket/lake.",
)


def check_source(usual: str = "db", **others: str | None) -> None:
    """Raise UsageError if a command is given more than one source of events.

    Args:
        usual: the name of the option that has a default.
        others: what can take its place, by the name of the option.
    """
    given = [name for name, value in others.items() if value is not None]
    if click.get_current_context().get_parameter_source(usual) is not ParameterSource.DEFAULT:
        given.insert(0, usual)
    if len(given) > 1:
        raise click.UsageError(f"--{given[0]} and --{given[1]} can't be used together")


def source_path(db: Path, lake: str | None) -> Path:
    """Return what an output must not replace."""
    return db if lake is None else Path(lake)


def missing_lake_extra(error: ModuleNotFoundError) -> CommandError:
    """Return the error of a command that needs a package of the extra for a lake."""
    return CommandError(f'a lake needs {error.name}: pip install "redvsblue-telemetry[cluster]"')


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
        raise missing_lake_extra(error) from error
    try:
        with reading.Snapshot(url).reading() as opened:
            yield opened
    except LakeError as error:
        raise CommandError(str(error)) from error
