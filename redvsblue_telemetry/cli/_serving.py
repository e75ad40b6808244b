"""What the commands share that serve a page: how it is reached, and how they start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import click
from rich.console import Console

from ..collector.server import Options, Service, serve
from ..collector.tls import Certificate
from ._arguments import File
from ._runner import stopped_by_signals
from ._systemd import ServiceManager
from ._terminal import CommandError

__all__ = ["Running", "page_url", "print_at_end", "reach_options", "serve_until_stopped"]

Running = Callable[[Options], AbstractAsyncContextManager[Service]]
_DEFAULTS = Options()

_REACH = (
    click.option(
        "--host", default=_DEFAULTS.host, show_default=True, help="Bind socket to this host."
    ),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=_DEFAULTS.port,
        show_default=True,
        help="Bind socket to this port. If 0, an available port will be picked.",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Allow any --host without a token: everyone who can reach it can read and write.",
    ),
    click.option(
        "--allow-host",
        "hosts",
        metavar="NAME",
        multiple=True,
        help="Accept requests for this host name too, besides addresses and localhost. Repeatable.",
    ),
    click.option(
        "--trust-proxy",
        is_flag=True,
        help="Believe the X-Forwarded-* headers of requests. Only behind a proxy that sets them.",
    ),
    click.option(
        "--tls-cert",
        metavar="FILE",
        type=File(),
        help="Serve TLS with this certificate chain (PEM). SIGHUP loads it again.",
    ),
    click.option(
        "--tls-key",
        metavar="FILE",
        type=File(),
        help="The private key of the certificate, if it is not in the same file.",
    ),
)


def reach_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options about who can reach a server, and how."""
    for option in reversed(_REACH):
        command = option(command)
    return command


async def serve_until_stopped(
    options: Options,
    console: Console,
    doing: str,
    introduce: Callable[[str], None],
    running: Running,
) -> None:
    """Serve until a signal comes.

    Args:
        options: how it runs.
        console: where its start and its end are printed.
        doing: what it does, for the service manager, such as ``collecting``.
        introduce: prints its address, for this machine.
        running: sets up the service.
    """
    stop = asyncio.Event()
    manager = ServiceManager()
    certificate = options.certificate()
    address = ""

    def note_start(url: str) -> None:
        nonlocal address
        address = url
        introduce(page_url(url))
        manager.ready(f"{doing} at {address}")

    def note_stop() -> None:
        manager.stopping()
        print_at_end(console, "\nstopping; press Ctrl-C again to quit immediately")

    def reload(certificate: Certificate) -> None:
        manager.reloading()
        if certificate.reload():
            print_at_end(console, "read the certificate again")
        manager.ready(f"{doing} at {address}")

    on_hangup = None if certificate is None else functools.partial(reload, certificate)
    async with manager.watched():
        with stopped_by_signals(stop, note_stop, on_hangup):
            await serve(options, stop, note_start, certificate, running)


def print_at_end(console: Console, text: str) -> None:
    """Print, and ignore write errors: a full disk must not prevent a clean shutdown."""
    with contextlib.suppress(CommandError):
        console.print(text)


def page_url(url: str) -> str:
    """Return the page's URL for this machine, even if the collector listens on all addresses."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
