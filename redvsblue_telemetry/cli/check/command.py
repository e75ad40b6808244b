"""``check``: a doctor for any telemetry server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import click
import msgspec

from ...settings import is_token
from .._arguments import FiniteFloatRange
from .._terminal import stdout_errors
from .result import Finding, State
from .steps import Checkup

__all__ = ["check"]

_COLOURS = {
    State.OK: "green",
    State.WARNING: "yellow",
    State.FAILED: "red",
    State.SKIPPED: "bright_black",
}
_INDENT = " " * 23  # where the details begin


@click.command()
@click.argument("url", envvar="REDVSBLUE_TELEMETRY_WS_URL")
@click.option(
    "--token",
    envvar="REDVSBLUE_TELEMETRY_TOKEN",
    show_envvar=True,
    help="What the server wants to hear; it is shown nowhere.",
)
@click.option(
    "--timeout",
    type=FiniteFloatRange(min=0.01, max=600.0),
    default=10.0,  # a collector whose database is locked says so after 5
    show_default=True,
    help="Seconds for each step.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.pass_context
def check(
    context: click.Context, url: str, token: str | None, timeout: float, *, as_json: bool
) -> None:
    """Look whether games on this machine can send to the server at URL, and what to do if not.

    URL is what games are given, such as ws://localhost:3000/telemetry. The last step sends one
    event of the type telemetry_check. The exit code is 0 if all went well, 1 if a step failed.
    """
    if token is not None and not is_token(token):
        raise click.BadParameter(
            "it must be printable ASCII, and not empty", param_hint="'--token'"
        )
    with contextlib.closing(Checkup(url, token, timeout).findings()) as findings:
        is_well = _print_json(findings) if as_json else _print_lines(findings)
    if not is_well:
        context.exit(1)


def _print_lines(findings: Iterator[Finding]) -> bool:
    is_well = True
    for finding in findings:
        is_well &= finding.state is not State.FAILED
        state = click.style(f"{finding.state.value:<8}", fg=_COLOURS[finding.state])
        _say(f"{state} {finding.step:<13} {finding.detail}")
        if finding.advice:
            _say(f"{_INDENT}{finding.advice}")
    return is_well


def _print_json(findings: Iterator[Finding]) -> bool:
    found = list(findings)
    is_well = all(finding.state is not State.FAILED for finding in found)
    _say(json.dumps({"ok": is_well, "steps": msgspec.to_builtins(found)}, indent=2))
    return is_well


def _say(text: str) -> None:
    with stdout_errors():
        click.echo(text)
