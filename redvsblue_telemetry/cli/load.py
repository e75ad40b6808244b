"""``load``: move the messages of a stream into a lake until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import click
from rich.console import Console

from .._shared import escape
from ..cluster.loader.leases import Times
from ..cluster.loader.partitions import Limits
from ..cluster.loader.server import Options, serve
from ._arguments import Duration, FiniteFloatRange, KeepRule, keep_of, schema_option
from ._runner import run, stopped_by_signals
from ._stream import read_stream_options, stream_options
from ._systemd import ServiceManager
from ._terminal import CommandError, pipe_safe_stdout

__all__ = ["load"]

_LIMITS = Limits()
_TIMES = Times()
_UPKEEP_INTERVAL = 60.0  # seconds


@click.command()
@stream_options(
    "Read events from the stream at these servers of NATS JetStream, such as nats://10.0.0.1:4222, "
    "with commas between them.",
    required=True,
)
@click.option(
    "--partitions",
    type=click.IntRange(1, 1000),
    help="Make the stream with this many partitions, if it isn't there yet.  [default: 16]",
)
@click.option(
    "--lake",
    metavar="URL",
    required=True,
    help="Store events in this lake: a directory, or the URL of an object store, such as "
    "s3://bucket/lake, whose settings and credentials are in the environment (AWS_REGION, "
    "AWS_ACCESS_KEY_ID and so on).",
)
@click.option(
    "--keep",
    "keep_rules",
    metavar="[TYPE=]TIME",
    type=KeepRule(),
    multiple=True,
    help="Delete events after this time, such as 90d; of one type with TYPE=TIME, such as "
    "bullet_fired=3d. May be repeated. The same for all loaders.",
)
@click.option(
    "--stream-keep",
    metavar="TIME",
    type=Duration(),
    default="1h",
    show_default=True,
    help="Delete messages of the stream that are in the lake after this time.",
)
@click.option(
    "--interval",
    type=FiniteFloatRange(min=0.05, max=60),
    default=_LIMITS.interval,
    show_default=True,
    help="Seconds that an event may wait for others before a commit to the lake.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Bind --port to this host.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Serve /healthz and /metrics on this port. If 0, an available port will be picked.",
)
@schema_option
@click.option("--quiet", is_flag=True, help="Print warnings and errors only.")
def load(
    stream: tuple[str, ...],
    stream_credentials: Path | None,
    stream_ca: Path | None,
    partitions: int | None,
    lake: str,
    keep_rules: tuple[tuple[str | None, float], ...],
    stream_keep: float,
    interval: float,
    host: str,
    port: int | None,
    schema: Path | None,
    quiet: bool,
) -> None:
    """Move events from the stream of the gateways into a lake, each of them once.

    Run as many as you like: they share the partitions of the stream. When one ends, others take
    over. Ctrl-C and SIGTERM stop it once what it has read is in the lake; a second Ctrl-C stops it
    at once, and nothing is lost.
    """
    given = {} if partitions is None else {"partitions": partitions}
    options = Options(
        stream=read_stream_options(stream, stream_credentials, stream_ca, **given),
        lake=lake,
        schema=schema,
        keep=keep_of(keep_rules),
        stream_keep=stream_keep,
        limits=Limits(interval=interval),
        times=_TIMES,
        upkeep_interval=_UPKEEP_INTERVAL,
        host=host,
        port=port,
    )
    console = Console(file=pipe_safe_stdout(), highlight=False, soft_wrap=True, quiet=quiet)
    run(_load(options, console))
    _print_at_end(console, "stopped")


async def _load(options: Options, console: Console) -> None:
    stop = asyncio.Event()
    manager = ServiceManager()

    def note_start(url: str | None) -> None:
        metrics = "" if url is None else f", metrics at {url}metrics"
        console.print(f"loading into {escape(options.lake)}{metrics}")
        console.print("\nPress Ctrl-C to stop.")
        manager.ready(f"loading into {options.lake}")

    def note_stop() -> None:
        manager.stopping()
        _print_at_end(console, "\nstopping; press Ctrl-C again to quit immediately")

    async with manager.watched():
        with stopped_by_signals(stop, note_stop):
            await serve(options, stop, note_start)


def _print_at_end(console: Console, text: str) -> None:
    """Print, and ignore write errors: a full disk must not prevent a clean shutdown."""
    with contextlib.suppress(CommandError):
        console.print(text)
