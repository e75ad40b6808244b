"""Options that several commands share, and a type of option values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from ..collector.client import TOKEN_VARIABLE

__all__ = [
    "FiniteFloatRange",
    "browser_option",
    "context_option",
    "db_option",
    "port_option",
    "temporary_db_option",
    "token_option",
]

# Of commands that read a database:
db_option = click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    default="telemetry.sqlite3",
    show_default=True,
    help="The collector's database. A collector may be writing to it.",
)


def _read_context(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not (name and separator):
            raise click.BadParameter(f"{text!r} must be NAME=VALUE, such as player=p-17")
        if fields.setdefault(name, value) != value:
            raise click.BadParameter(f"{name!r} has two values")
    return fields


# Of commands that choose among events:
context_option = click.option(
    "--context",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_read_context,
    help="Only events whose context has this field. May be repeated: all of them must match.",
)

# Of commands that ask a running collector:
token_option = click.option(
    "--token", envvar=TOKEN_VARIABLE, help="The collector's token.", show_envvar=True
)

# Of commands that run a collector for one game:
port_option = click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Bind the collector to this port. If 0, an available port will be picked.",
)
temporary_db_option = click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the events in this SQLite database.  [default: a temporary file]",
)
browser_option = click.option(
    "--no-browser", is_flag=True, help="Do not open the live page in a browser."
)


class FiniteFloatRange(click.FloatRange):
    """A number within limits. Click accepts NaN, which compares with no limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number
