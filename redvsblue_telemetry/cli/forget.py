"""``forget``: delete a session, or the data of a person, from a running collector."""

from __future__ import annotations

import contextlib

import click
import msgspec

from .._shared import escape
from ..collector.client import CollectorClient, CollectorError
from ._arguments import TEXT, context_option, token_option
from ._terminal import CommandError, notice, printable, stdout_errors

__all__ = ["forget"]


@click.command()
@click.option(
    "--url",
    default="http://127.0.0.1:3000",
    show_default=True,
    help="The URL of the collector's page.",
)
@token_option
@click.option("--session", metavar="ID", type=TEXT, help="Delete the session with this id.")
@context_option("Delete all events whose context has this field.")
@click.option("-y", "--yes", "is_certain", is_flag=True, help="Don't ask for confirmation.")
@click.pass_context
def forget(
    command: click.Context,
    url: str,
    token: str | None,
    session: str | None,
    context: dict[str, str],
    *,
    is_certain: bool,
) -> None:
    """Delete a session, or the data of a person, and print the receipt as JSON.

    With --context, the sessions that are then left without an event are deleted, too. Backups and
    exports keep what they have.

    Exits with 0 if something was deleted, with 1 if nothing was found, and with 2 if it failed.
    """
    if (session is None) == (not context) or len(context) > 1:
        raise click.UsageError("give either --session, or --context once")
    field = next(iter(context.items()), None)
    wanted = f"session {session}" if field is None else f"all events of {'='.join(field)}"
    if not is_certain:
        click.confirm(f"Delete {printable(wanted)} for good?", abort=True, err=True)
    try:
        with contextlib.closing(CollectorClient(url, token)) as client:
            receipt = client.forget(session, field)
    except (ValueError, CollectorError) as error:
        raise CommandError(str(error)) from error
    if receipt is None:
        notice(f"nothing found: {wanted}")
        command.exit(1)
    with stdout_errors():
        click.echo(escape(msgspec.json.encode(receipt).decode()))
