"""``collect``: the collector, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.text import Text

from .._shared import escape
from ..collector.client import TOKEN_VARIABLE
from ..collector.server import Options, serve
from ._arguments import FiniteFloatRange
from ._runner import run, stopped_by_signals
from ._terminal import CommandError, pipe_safe_stdout

__all__ = ["collect", "page_url"]

_IN_MEMORY = ":memory:"
_DEFAULTS = Options()


@click.command()
@click.option("--host", default=_DEFAULTS.host, show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=_DEFAULTS.port,
    show_default=True,
    help="The port; 0 for any that is free.",
)
@click.option(
    "--db",
    metavar="FILE",
    default=str(_DEFAULTS.db),
    show_default=True,
    help=f"Where events are stored; {_IN_MEMORY} for nowhere.",
)
@click.option(
    "--token",
    envvar=TOKEN_VARIABLE,
    help=f"What games and readers have to know. Better given as {TOKEN_VARIABLE}: the arguments "
    "of a process can be seen by others on the machine.",
)
@click.option("--insecure", is_flag=True, help="Let anybody who can reach it read and write.")
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="A name that it is reached by, besides addresses and localhost. May be repeated.",
)
@click.option("--allow-reset", is_flag=True, help="Let DELETE /api/events delete everything.")
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    default=_DEFAULTS.max_connections,
    show_default=True,
    help="Games at once.",
)
@click.option(
    "--max-rate",
    type=FiniteFloatRange(min=0, min_open=True),
    default=_DEFAULTS.max_rate,
    show_default=True,
    help="Events a second that one game may send.",
)
@click.option(
    "--max-message-bytes",
    type=click.IntRange(min=1),
    default=_DEFAULTS.max_message_bytes,
    show_default=True,
    help="Bytes of one message.",
)
@click.option("--quiet", is_flag=True, help="Print nothing but warnings and errors.")
def collect(
    host: str,
    port: int,
    db: str,
    token: str | None,
    insecure: bool,
    hosts: tuple[str, ...],
    allow_reset: bool,
    max_connections: int,
    max_rate: float,
    max_message_bytes: int,
    quiet: bool,
) -> None:
    """Receive and store events, and show them live in a browser.

    Ctrl-C ends it when what it has received is stored and acknowledged; a second one, at once.
    """
    options = Options(
        host=host,
        port=port,
        db=None if db == _IN_MEMORY else Path(db),
        token=token,
        insecure=insecure,
        hosts=hosts,
        allow_reset=allow_reset,
        max_connections=max_connections,
        max_rate=max_rate,
        max_message_bytes=max_message_bytes,
    )
    console = Console(file=pipe_safe_stdout(), highlight=False, soft_wrap=True, quiet=quiet)
    run(_collect(options, console))
    _say_at_the_end(console, "stopped: what was received is stored")


async def _collect(options: Options, console: Console) -> None:
    stop = asyncio.Event()

    def note_stop() -> None:
        _say_at_the_end(console, "\nstopping; Ctrl-C again ends it at once")

    with stopped_by_signals(stop, note_stop):
        await serve(options, stop, lambda url: _introduce(page_url(url), options, console))


def _say_at_the_end(console: Console, text: str) -> None:
    """A disk that has become full since the beginning must not be in the way of an orderly end."""
    with contextlib.suppress(CommandError):
        console.print(text)


def page_url(url: str) -> str:
    """Where a collector's page is looked at on this machine, when it listens at every address."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _introduce(url: str, options: Options, console: Console) -> None:
    """Say where it is, and what makes it move. The lines of Python can be copied as they are."""
    where = "in memory, until it ends" if options.db is None else escape(str(options.db))
    console.print(Text.assemble("collecting at ", (url, "bold underline"), f", stored {where}"))
    if options.token is None and options.insecure:
        console.print(Text("anybody who can reach it can read and write", "yellow"))
    socket_url = f"ws://{urlsplit(url).netloc}/telemetry"
    code = ["from redvsblue_telemetry import start_telemetry"]
    if options.token is None:
        code.append(f'telemetry = start_telemetry(enabled=True, url="{socket_url}")')
    else:
        code.append(f'telemetry = start_telemetry(enabled=True, url="{socket_url}", token="…")')
    code.append('telemetry.emit("hello", {"from": "my game"})')
    console.print("\nSend it something:\n")
    for line in code:
        console.print(Text(line, "cyan"))
    console.print("\nCtrl-C ends it.")
