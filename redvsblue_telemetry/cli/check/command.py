"""``check``: finds out why games can't send to a telemetry server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import click
import msgspec

from ...settings import is_token
from .._arguments import FiniteFloatRange
from .._terminal import stdout_errors
from .result import CheckResult, Status
from .steps import Checkup

__all__ = ["check"]

_COLORS = {
    Status.OK: "green",
    Status.WARNING: "yellow",
    Status.FAILED: "red",
    Status.SKIPPED: "bright_black",
}
_DETAIL_COLUMN = 23


@click.command()
@click.argument("url", envvar="REDVSBLUE_TELEMETRY_WS_URL")
@click.option(
    "--token",
    envvar="REDVSBLUE_TELEMETRY_TOKEN",
    show_envvar=True,
    help="Bearer token to send. Never printed.",
)
@click.option(
    "--timeout",
    type=FiniteFloatRange(min=0.01, max=600.0),
    default=10.0,  # longer than a collector waits for a locked database before it reports so
    show_default=True,
    help="Time limit for each step, in seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
@click.pass_context
def check(
    context: click.Context, url: str, token: str | None, timeout: float, *, as_json: bool
) -> None:
    """Check whether games on this machine can send events to the server at URL.

    URL is the one that games are given, such as ws://localhost:3000/telemetry. The check goes
    through a connection step by step and explains what to do about a step that fails. The last
    step sends one event of type telemetry_check. A collector stores it, and then deletes it and its
    session; other servers may keep it.

    Exits with 0 if no step failed, and with 1 otherwise.
    """
    if token is not None and not is_token(token):
        raise click.BadParameter("must be non-empty printable ASCII", param_hint="'--token'")
    with contextlib.closing(Checkup(url, token, timeout).results()) as results:
        succeeded = _print_json(results) if as_json else _print_lines(results)
    if not succeeded:
        context.exit(1)


def _print_lines(results: Iterator[tuple[str, CheckResult]]) -> bool:
    succeeded = True
    for step, result in results:
        succeeded &= result.state is not Status.FAILED
        state = click.style(f"{result.state.value:<8}", fg=_COLORS[result.state])
        _print(f"{state} {step:<13} {result.detail}")
        if result.advice:
            _print(f"{'':{_DETAIL_COLUMN}}{result.advice}")
    return succeeded


def _print_json(results: Iterator[tuple[str, CheckResult]]) -> bool:
    steps = [{"step": step, **msgspec.to_builtins(result)} for step, result in results]
    succeeded = all(step["state"] != Status.FAILED for step in steps)
    _print(json.dumps({"ok": succeeded, "steps": steps}, indent=2))
    return succeeded


def _print(text: str) -> None:
    with stdout_errors():
        click.echo(text)
