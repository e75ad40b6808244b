"""The options that name a stream, which several commands share.

The packages of the stream are an extra, so they are imported only when such an option is given.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.types import StringParamType

from ._arguments import File
from ._terminal import CommandError

if TYPE_CHECKING:
    from ..cluster.stream import StreamOptions

__all__ = [
    "STREAM_VARIABLE",
    "StreamServers",
    "missing_extra",
    "read_stream_options",
    "stream_options",
]

STREAM_VARIABLE = "REDVSBLUE_COLLECTOR_STREAM"
"""Where the URLs may be, since others on the machine can read the command line of a process."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


class StreamServers(StringParamType):
    """The URLs of servers, with commas between them, as a tuple."""

    name = "urls"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split the URLs."""
        if not isinstance(value, str):
            return value
        urls = tuple(url.strip() for url in value.split(",") if url.strip())
        if not urls:
            self.fail("no server is named; give a URL such as nats://10.0.0.1:4222.", param, ctx)
        return urls


def stream_options(about: str, *, required: bool) -> Callable[[_Command], _Command]:
    """Return a decorator that adds ``--stream`` and how to reach its servers.

    Args:
        about: the help of ``--stream``.
        required: whether it must be given.
    """

    def decorate(command: _Command) -> _Command:
        for option in (
            click.option(
                "--stream-ca",
                metavar="FILE",
                type=File(),
                help="Check the certificates of the stream's servers against these (PEM). Use it "
                "with tls:// URLs.",
            ),
            click.option(
                "--stream-credentials",
                metavar="FILE",
                type=File(),
                help="Log in to the stream with the credentials in this file, as "
                "`nsc generate creds` writes them.",
            ),
            click.option(
                "--stream",
                "stream",
                metavar="URL,URL,…",
                type=StreamServers(),
                envvar=STREAM_VARIABLE,
                show_envvar=True,
                required=required,
                help=about,
            ),
        ):
            command = option(command)
        return command

    return decorate


def read_stream_options(
    servers: tuple[str, ...], credentials: Path | None, ca: Path | None, **others: Any
) -> StreamOptions:
    """Return the options of a stream.

    Raises:
        CommandError: a package is missing, or they can't be used.
    """
    try:
        from ..cluster.stream import StreamOptions  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    options = StreamOptions(servers=servers, credentials=credentials, ca=ca, **others)
    try:
        options.check()
    except ValueError as error:
        raise CommandError(str(error)) from error
    return options


def missing_extra(error: ModuleNotFoundError) -> CommandError:
    """Return the error of a command that needs a package of the extra."""
    missing = (error.name or "").partition(".")[0]
    if missing == "redvsblue_telemetry":
        raise error
    return CommandError(f'--stream needs {missing}: pip install "redvsblue-telemetry[cluster]"')
