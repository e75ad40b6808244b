"""``stream``: show the servers of a stream, or remove one that is gone for good."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from .._shared import counted
from ..cluster.administration import AdministrationError, Server, look, remove
from ._arguments import TEXT
from ._stream import read_stream_options, stream_options
from ._terminal import CommandError, printable, stdout_errors

__all__ = ["stream"]

_GIGABYTE = 1e9


@click.command()
@stream_options(
    "The servers, such as tls://admin:password@stream-1.example.com:4222, with commas between "
    "them; the user is one of their system account.",
    required=True,
)
@click.option(
    "--remove",
    "gone",
    metavar="NAME",
    type=TEXT,
    help="Remove this server, which must not run. One without a copy takes its place.",
)
@click.option("-y", "--yes", "is_certain", is_flag=True, help="Don't ask for confirmation.")
@click.pass_context
def stream(
    context: click.Context,
    stream: tuple[str, ...],
    stream_credentials: Path | None,
    stream_ca: Path | None,
    gone: str | None,
    *,
    is_certain: bool,
) -> None:
    """Show the servers of a stream, and whether each has all that is stored.

    Exits with 0 if all are well, with 1 if one is not, and with 2 if that can't be found out.
    """
    options = read_stream_options(stream, stream_credentials, stream_ca)
    try:
        if gone is not None:
            if not is_certain:
                question = f"Remove {printable(gone)}? It must never start again with its disk."
                click.confirm(question, abort=True, err=True)
            asyncio.run(remove(options, gone))
            return
        servers = asyncio.run(look(options))
    except AdministrationError as error:
        raise CommandError(str(error)) from error
    width = max(len(server.name) for server in servers)
    with stdout_errors():
        for server in servers:
            click.echo(printable(f"{server.name:<{width}}  {_state(server)}"))
        copies = sum(bool(server.role and server.is_well) for server in servers)
        click.echo(f"{counted(copies, 'server')} with all that is stored")
    if not all(server.is_well for server in servers):
        context.exit(1)


def _state(server: Server) -> str:
    if server.version is None:
        return "does not run" if server.role is None else "does not run; has a copy"
    role = "no copy" if server.role is None else "catches up"
    if server.role is not None and server.role.has_all:
        role = "leads" if server.role.leads else "has all"
    used, limit = server.used / _GIGABYTE, server.limit / _GIGABYTE
    return f"{role:<10}  {used:,.3g} of {limit:,.3g} GB  {server.version}"
