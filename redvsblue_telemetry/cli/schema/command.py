"""``schema``: writes the schema of a game's event classes, or compares it with an older one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import click

from ..._schema import EventSchemas, SchemaError, read_schemas, write_schemas
from .._output import output_to
from .._terminal import CommandError, notice, printable, stdout_errors
from .changes import changes
from .classes import schemas_of
from .modules import event_classes, import_modules
from .plan import plan_of

__all__ = ["schema"]

_FORMATS: dict[str, Callable[[EventSchemas], bytes]] = {
    "json": write_schemas,
    "markdown": lambda schemas: plan_of(schemas).encode(),
}


@click.command()
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option(
    "--check",
    "old",
    metavar="OLD.json",
    type=click.Path(allow_dash=True),
    help="Write nothing. Compare with this older schema (-: standard input), and exit with 1 if a"
    " change breaks something.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(_FORMATS)),
    default="json",
    show_default=True,
    help="The format to write: a JSON Schema, or a tracking plan for people.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="-",
    help="Write to this file. The default, -, is standard output.",
)
@click.pass_context
def schema(
    ctx: click.Context,
    modules: tuple[str, ...],
    old: str | None,
    format_: str,
    output: str,
) -> None:
    """Write the schema of the event classes in modules of a game.

    A MODULE is a dotted name, such as game.events, or the path of a .py file or a package. A
    package stands for all modules in it. They are imported, so their code runs; keep event classes
    in a module that starts nothing.
    """
    if old is not None and (output != "-" or format_ != "json"):
        raise click.UsageError("--check writes no schema; use it without --format and --output")
    try:
        schemas = schemas_of(event_classes(import_modules(modules)))
        if old is not None:
            # Read back, since not all defaults are the same in JSON: an infinite one is null.
            ctx.exit(_check(_read(old), read_schemas(write_schemas(schemas))))
    except SchemaError as error:
        raise CommandError(str(error)) from error
    with output_to(output) as stream:
        stream.write(_FORMATS[format_](schemas))


def _read(name: str) -> EventSchemas:
    try:
        with click.open_file(name, "rb") as stream:
            return read_schemas(stream.read())
    except OSError as error:
        raise CommandError(f"{name} can't be read: {error.strerror or error}") from error
    except SchemaError as error:
        raise CommandError(f"{name}: {error}") from error


def _check(old: EventSchemas, new: EventSchemas) -> int:
    """Print the changes that break something, or else all; return the exit code."""
    try:
        found = changes(old, new)
    except RecursionError:
        raise SchemaError("a definition in the older schema is nothing but itself") from None
    breaking = [change for change in found if change.is_breaking]
    # A reader that goes away, such as `head`, has no say in the exit code.
    with contextlib.suppress(BrokenPipeError), stdout_errors():
        for change in breaking or found:
            click.echo(printable(str(change), 1000))
    if breaking:
        count = f"{len(breaking)} of {len(found)} changes would break"
        notice(f"{count} games that are not updated, or consumers of their events")
    elif not found:
        notice("no changes")
    return 1 if breaking else 0
