"""``collect``: run the collector until Ctrl-C."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from .._shared import escape
from ..collector.alerts import Conditions
from ..collector.client import READ_TOKEN_VARIABLE, TOKEN_VARIABLE
from ..collector.server import (
    IN_MEMORY,
    Options,
    collector_running,
    telemetry_url,
    test_alerts,
)
from ._arguments import (
    AlertCondition,
    File,
    FiniteFloatRange,
    KeepRule,
    Size,
    keep_of,
    schema_option,
)
from ._runner import run
from ._serving import Running, print_at_end, reach_options, serve_until_stopped
from ._stream import missing_extra, read_stream_options, stream_options
from ._terminal import pipe_safe_stdout

if TYPE_CHECKING:
    from ..cluster.stream import StreamOptions

__all__ = ["collect"]

ALERT_VARIABLE = "REDVSBLUE_COLLECTOR_ALERT"
_DEFAULTS = Options()
# What a gateway has not: a database and a page.
_NOT_WITH_STREAM = {
    "db": "--db",
    "keep_rules": "--keep",
    "max_bytes": "--max-bytes",
    "alerts": "--alert",
    "alert_when": "--alert-when",
    "alert_test": "--alert-test",
    "schema": "--schema",
    "allow_reset": "--allow-reset",
}
_ONLY_WITH_STREAM = {
    "stream_credentials": "--stream-credentials",
    "stream_ca": "--stream-ca",
    "partitions": "--partitions",
    "stream_max_bytes": "--stream-max-bytes",
}


@click.command()
@reach_options
@click.option(
    "--db",
    metavar="FILE",
    type=File(),
    default=str(_DEFAULTS.db),
    show_default=True,
    help=f"Store events in this SQLite database. {IN_MEMORY} keeps them until the collector ends.",
)
@click.option(
    "--token",
    envvar=TOKEN_VARIABLE,
    help=f"Require this token from games and readers. Prefer the variable {TOKEN_VARIABLE}: other "
    "users of the machine can see the arguments of a process.",
)
@click.option(
    "--read-token",
    envvar=READ_TOKEN_VARIABLE,
    help="Require this token from people, on the page and the API, and let --token do nothing but "
    f"send events. Prefer the variable {READ_TOKEN_VARIABLE}.",
)
@click.option(
    "--keep",
    "keep_rules",
    metavar="[TYPE=]TIME",
    type=KeepRule(),
    multiple=True,
    help="Delete events after this time, such as 90d; of one type with TYPE=TIME, such as "
    "bullet_fired=3d. May be repeated.",
)
@click.option(
    "--max-bytes",
    metavar="SIZE",
    type=Size(),
    help="Delete the oldest events when the database uses more than this, such as 10GB.",
)
@click.option(
    "--alert",
    "alerts",
    metavar="URL",
    multiple=True,
    envvar=ALERT_VARIABLE,
    help="Post alerts to this webhook, as JSON that Slack, Mattermost and Discord take. May be "
    f"repeated. Prefer the variable {ALERT_VARIABLE}, with spaces between several.",
)
@click.option(
    "--alert-when",
    metavar="CONDITION",
    type=AlertCondition(),
    multiple=True,
    help="Replace one of the conditions. May be repeated.  [default: crash-free<99%, gaps>1%, "
    "rejected>1%, faulty>1%, silence>1d, disk, storing; NAME=off turns one off]",
)
@click.option(
    "--alert-test", is_flag=True, help="Post a test to each --alert, and exit; 1 if one fails."
)
@click.option(
    "--public-url",
    metavar="URL",
    help="The address of the page for people, which alerts name.  [default: that of this machine]",
)
@click.option(
    "--allow-reset",
    is_flag=True,
    help="Allow DELETE /api/events, which deletes everything; and where there is no token, let "
    "anyone delete sessions.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    default=_DEFAULTS.max_connections,
    show_default=True,
    help="Maximum number of games connected at once.",
)
@click.option(
    "--max-rate",
    type=FiniteFloatRange(min=0, min_open=True),
    default=_DEFAULTS.max_rate,
    show_default=True,
    help="Maximum number of events per second from one game.",
)
@click.option(
    "--max-message-bytes",
    type=click.IntRange(min=1),
    default=_DEFAULTS.max_message_bytes,
    show_default=True,
    help="Maximum size of one message, in bytes, after unpacking if it is compressed.",
)
@schema_option
@stream_options(
    "Publish events to the stream at these servers of NATS JetStream, instead of storing them in a "
    "database: this is a gateway then, and any number of them can run.",
    required=False,
)
@click.option(
    "--partitions",
    type=click.IntRange(1, 1024),
    help="Make the stream with this many partitions, if it isn't there yet.  [default: 16]",
)
@click.option(
    "--stream-max-bytes",
    metavar="SIZE",
    type=Size(),
    help="Make the stream, if it isn't there yet, so that it refuses events when each of its "
    "servers has this much, such as 100GB.  [default: what the servers allow]",
)
@click.option("--quiet", is_flag=True, help="Print warnings and errors only.")
def collect(
    host: str,
    port: int,
    db: Path,
    token: str | None,
    read_token: str | None,
    insecure: bool,
    hosts: tuple[str, ...],
    trust_proxy: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    keep_rules: tuple[tuple[str | None, float], ...],
    max_bytes: int | None,
    alerts: tuple[str, ...],
    alert_when: tuple[tuple[str, float | None], ...],
    alert_test: bool,
    public_url: str | None,
    allow_reset: bool,
    max_connections: int,
    max_rate: float,
    max_message_bytes: int,
    schema: Path | None,
    stream: tuple[str, ...] | None,
    stream_credentials: Path | None,
    stream_ca: Path | None,
    partitions: int | None,
    stream_max_bytes: int | None,
    quiet: bool,
) -> None:
    """Receive and store events, and show them live in a browser.

    Ctrl-C, SIGTERM and SIGHUP stop it once everything received is stored and acknowledged. A
    second Ctrl-C stops it at once. With --tls-cert, SIGHUP reads the certificate again instead.
    """
    _check_combination(is_gateway=stream is not None)
    options = Options(
        host=host,
        port=port,
        db=None if str(db) == IN_MEMORY else db,
        token=token,
        insecure=insecure,
        hosts=hosts,
        allow_reset=allow_reset,
        max_connections=max_connections,
        max_rate=max_rate,
        max_message_bytes=max_message_bytes,
        schema=schema,
        read_token=read_token,
        trust_proxy=trust_proxy,
        tls_cert=tls_cert,
        tls_key=tls_key,
        keep=keep_of(keep_rules),
        max_bytes=max_bytes,
        alerts=alerts,
        alert_when=_conditions(alert_when),
        public_url=public_url,
    )
    if alert_test:
        _test_alerts(options)
        return
    running: Running = collector_running
    where = "a temporary file" if options.db is None else str(options.db)
    if stream is not None:
        chosen = {"partitions": partitions, "max_bytes": stream_max_bytes}
        given = {name: value for name, value in chosen.items() if value is not None}
        stream_chosen = read_stream_options(stream, stream_credentials, stream_ca, **given)
        running = _gateway(stream_chosen)
        where = f"the stream at {', '.join(stream_chosen.addresses)}"
    console = Console(file=pipe_safe_stdout(), highlight=False, soft_wrap=True, quiet=quiet)

    def introduce(url: str) -> None:
        _introduce(url, where, options, console)

    run(serve_until_stopped(options, console, "collecting", introduce, running))
    print_at_end(console, "stopped; everything received is stored")


def _check_combination(*, is_gateway: bool) -> None:
    """Refuse options that have no meaning together, if somebody has given them."""
    context = click.get_current_context()
    for name, option in (_NOT_WITH_STREAM if is_gateway else _ONLY_WITH_STREAM).items():
        source = context.get_parameter_source(name)
        if source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            by_variable = source is ParameterSource.ENVIRONMENT
            shown = (
                f"{option}, which a variable of the environment sets," if by_variable else option
            )
            if is_gateway:
                raise click.UsageError(
                    f"{shown} has no meaning with --stream: a gateway keeps no events and has no "
                    "page for people"
                )
            raise click.UsageError(f"{shown} needs --stream")


def _gateway(stream: StreamOptions) -> Running:
    try:
        from ..cluster.gateway.app import gateway_running  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    return functools.partial(gateway_running, stream)


def _conditions(given: tuple[tuple[str, float | None], ...]) -> Conditions:
    limits: dict[str, Any] = {}
    for name, limit in given:
        if limits.setdefault(name, limit) != limit:
            raise click.UsageError(f"--alert-when is given more than once for {name}")
    return Conditions(**{name.replace("-", "_"): limit for name, limit in limits.items()})


def _test_alerts(options: Options) -> None:
    """Post a test to each webhook, and exit with 1 if one doesn't take it."""
    if not options.alerts:
        raise click.UsageError(f"--alert-test needs --alert, or the variable {ALERT_VARIABLE}")
    outcomes = run(test_alerts(options))
    for host, fault in outcomes:
        click.echo(f"{escape(host)}: {fault or 'took the test'}")
    if any(fault for _, fault in outcomes):
        click.get_current_context().exit(1)


def _introduce(url: str, where: str, options: Options, console: Console) -> None:
    """Print the page's URL, and lines of Python that can be copied to send a first event."""
    place = f", stored in {escape(where)}"
    console.print(Text.assemble("collecting at ", (url, "bold underline"), place))
    if options.token is None and options.insecure:
        console.print(Text("everyone who can reach it can read and write", "yellow"))
    if options.alerts:  # their hosts only: the rest of a webhook's address is a secret
        hosts = dict.fromkeys(urlsplit(alert).hostname or "" for alert in options.alerts)
        console.print(Text(f"alerts go to {escape(', '.join(hosts))}"))
    socket_url = telemetry_url(url)
    code = ["from redvsblue_telemetry import start_telemetry"]
    if options.token is None:
        code.append(f'telemetry = start_telemetry(enabled=True, url="{socket_url}")')
    else:
        code.append(f'telemetry = start_telemetry(enabled=True, url="{socket_url}", token="…")')
    code.append('telemetry.emit("hello", {"from": "my game"})')
    console.print("\nSend a first event:\n")
    for line in code:
        console.print(Text(line, "cyan"))
    console.print("\nPress Ctrl-C to stop.")
