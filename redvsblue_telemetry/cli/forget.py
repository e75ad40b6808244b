"""``forget``: delete a session, or the data of a person, from a running collector or a lake."""

from __future__ import annotations

import contextlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from .._shared import escape
from ..cluster.lake.errors import LakeError
from ..collector.client import CollectorClient, CollectorError
from ._arguments import TEXT, context_option, token_option
from ._lake import check_source, missing_lake_extra
from ._runner import run
from ._stream import read_stream_options, stream_options
from ._terminal import CommandError, notice, printable, stdout_errors

if TYPE_CHECKING:
    from ..cluster.stream import StreamOptions
    from ..collector.models import Forgotten

__all__ = ["forget"]

_PATIENCE = 60.0  # seconds for the loaders


@click.command()
@click.option(
    "--url",
    default="http://127.0.0.1:3000",
    show_default=True,
    help="The URL of the collector's page.",
)
@token_option
@click.option(
    "--lake",
    metavar="URL",
    type=TEXT,
    help="Delete from this lake in place of a collector: a directory, or a URL such as "
    "s3://bucket/lake.",
)
@stream_options(
    "With --lake: wait until it has all that the stream at these servers has, and delete that from "
    "the stream, too.",
    required=False,
)
@click.option("--session", metavar="ID", type=TEXT, help="Delete the session with this id.")
@context_option("Delete all events whose context has this field.")
@click.option("-y", "--yes", "is_certain", is_flag=True, help="Don't ask for confirmation.")
@click.pass_context
def forget(
    command: click.Context,
    url: str,
    token: str | None,
    lake: str | None,
    stream: tuple[str, ...] | None,
    stream_credentials: Path | None,
    stream_ca: Path | None,
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
    check_source("url", lake=lake)
    if lake is None and stream is not None:
        raise click.UsageError("--stream needs --lake")
    servers = stream and read_stream_options(stream, stream_credentials, stream_ca)
    field = next(iter(context.items()), None)
    wanted = f"session {session}" if field is None else f"all events of {'='.join(field)}"
    if not is_certain:
        click.confirm(f"Delete {printable(wanted)} for good?", abort=True, err=True)
    if lake is None:
        receipt = _from_collector(url, token, session, field)
    else:
        receipt = _from_lake(lake, servers or None, session, field)
        if servers is None:
            notice(
                "what the stream has of it is still there, and comes to the lake if it is not in "
                "it yet; with --stream, that is deleted, too"
            )
    if receipt is None:
        notice(f"nothing found: {wanted}")
        command.exit(1)
    with stdout_errors():
        click.echo(escape(msgspec.json.encode(receipt).decode()))


def _from_collector(
    url: str, token: str | None, session: str | None, field: tuple[str, str] | None
) -> Forgotten | None:
    try:
        with contextlib.closing(CollectorClient(url, token)) as client:
            return client.forget(session, field)
    except (ValueError, CollectorError) as error:
        raise CommandError(str(error)) from error


def _from_lake(
    url: str,
    stream: StreamOptions | None,
    session: str | None,
    field: tuple[str, str] | None,
) -> Forgotten | None:
    try:
        erasure: Any = import_module("..cluster.loader.erasure", __package__)  # needs an extra
    except ModuleNotFoundError as error:
        raise missing_lake_extra(error) from error
    try:
        receipt: Forgotten
        receipt = run(erasure.forget(url, stream, session, field, patience=_PATIENCE))
    except (LakeError, erasure.ErasureError) as error:
        raise CommandError(str(error)) from error
    return receipt if receipt.events or receipt.sessions else None
