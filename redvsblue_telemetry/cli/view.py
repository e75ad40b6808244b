"""``view``: show a lake in a browser until Ctrl-C."""

from __future__ import annotations

import functools
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from .._shared import escape
from ..cluster.view.app import view_running
from ..collector.client import READ_TOKEN_VARIABLE, TOKEN_VARIABLE
from ..collector.server import Options
from ._arguments import TEXT
from ._runner import run
from ._serving import print_at_end, reach_options, serve_until_stopped
from ._terminal import pipe_safe_stdout

__all__ = ["view"]


@click.command()
@click.option(
    "--lake",
    metavar="URL",
    type=TEXT,
    required=True,
    help="Show this lake: a directory, or a URL such as s3://bucket/lake.",
)
@reach_options
@click.option(
    "--token",
    envvar=[READ_TOKEN_VARIABLE, TOKEN_VARIABLE],
    help="Require this token from people. Prefer the variable "
    f"{READ_TOKEN_VARIABLE}: other users of the machine can see the arguments of a process.",
)
@click.option("--quiet", is_flag=True, help="Print warnings and errors only.")
def view(
    lake: str,
    host: str,
    port: int,
    insecure: bool,
    hosts: tuple[str, ...],
    trust_proxy: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    token: str | None,
    quiet: bool,
) -> None:
    """Show the events of a lake in a browser, and answer the API: the collector's page.

    It only reads. Run as many as you like. What loaders store is shown a second later. Ctrl-C,
    SIGTERM and SIGHUP stop it. With --tls-cert, SIGHUP reads the certificate again instead.
    """
    options = Options(
        host=host,
        port=port,
        token=token,
        insecure=insecure,
        hosts=hosts,
        trust_proxy=trust_proxy,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    console = Console(file=pipe_safe_stdout(), highlight=False, soft_wrap=True, quiet=quiet)

    def introduce(url: str) -> None:
        where = f" shows {escape(lake)}"
        console.print(Text.assemble((url, "bold underline"), where))
        if token is None and insecure:
            console.print(Text("everyone who can reach it can read", "yellow"))
        console.print("\nPress Ctrl-C to stop.")

    running = functools.partial(view_running, lake)
    run(serve_until_stopped(options, console, "showing the lake", introduce, running))
    print_at_end(console, "stopped")
