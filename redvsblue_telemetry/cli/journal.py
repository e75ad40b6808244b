"""``journal``: shows what waits in a journal's directory, delivers it by hand, or erases it."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from .._delivery.worker import TelemetryConnector
from .._journal.directory import JournalDirectory, RunReport
from .._journal.journal import Journal
from .._recording.codec import EventCodec, new_session_id
from .._report import Reason
from .._shared import counted, escape
from ..errors import SettingsError
from ..settings import Confirm, TelemetrySettings, is_token
from ._arguments import FiniteFloatRange
from ._sdk_log import sdk_log_disabled
from ._terminal import CommandError, printable, stdout_errors

__all__ = ["journal"]

_STOP_TIMEOUT = 2.0  # seconds
_LOOK_INTERVAL = 0.05  # seconds
_PATIENCE = 3  # time limits of a step, for a connection that was lost to be back
_FOREVER = 10.0**12  # seconds: what is sent by hand is never too old
_ANY_SIZE = 2**62  # bytes
_MAX_SESSION_LETTERS = 40
_MAX_ENDING_LETTERS = 16


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option(
    "--send", "url", metavar="URL", help="Deliver the events of dead runs to this server."
)
@click.option(
    "--token",
    envvar="REDVSBLUE_TELEMETRY_TOKEN",
    show_envvar=True,
    help="Bearer token for --send. Never printed.",
)
@click.option(
    "--timeout",
    type=FiniteFloatRange(min=0.01, max=600.0),
    default=10.0,
    show_default=True,
    help="Time limit for each step of --send, in seconds.",
)
@click.option(
    "--confirm",
    type=click.Choice(["auto", "archived"]),
    default="auto",
    show_default=True,
    help="What --send waits for: a confirmation, or the server's archive, if it has one.",
)
@click.option("--erase", is_flag=True, help="Delete dead runs with all of their events.")
@click.option("--yes", is_flag=True, help="Erase without asking.")
@click.pass_context
def journal(
    context: click.Context,
    directory: Path,
    url: str | None,
    token: str | None,
    timeout: float,
    confirm: Confirm,
    *,
    as_json: bool,
    erase: bool,
    yes: bool,
) -> None:
    """Show which events wait in DIR, the journal of a game.

    A game that is killed leaves its run behind as a dead one, and the next start delivers its
    events. --send does so by hand, as for a directory that a player has sent you, and deletes what
    the server has confirmed: with --confirm archived, once it is in its archive. A run whose game
    is running is never touched.

    Exits with 1 if something could not be read, delivered or erased.
    """
    if url is not None and erase:
        raise click.UsageError("--send and --erase exclude each other")
    if token is not None and not is_token(token):
        raise click.BadParameter("must be non-empty printable ASCII", param_hint="'--token'")
    if not directory.is_dir():
        fault = "is not a directory" if directory.exists() else "does not exist"
        raise CommandError(f"{directory} {fault}; name the journal of a game")
    journal_directory = JournalDirectory(directory)
    if url is not None:
        succeeded = _send(journal_directory, url, token, timeout, confirm, as_json=as_json)
    elif erase:
        succeeded = _erase(journal_directory, is_certain=yes, as_json=as_json)
    else:
        succeeded = _show(journal_directory.inspect(), as_json=as_json)
    if not succeeded:
        context.exit(1)


# A look.


def _show(reports: list[RunReport], *, as_json: bool) -> bool:
    if as_json:
        _print_json({"runs": [_as_json(report) for report in reports]})
    else:
        for line in _table(reports):
            _print(line)
    return not any(report.fault for report in reports)


def _as_json(report: RunReport) -> dict[str, Any]:
    return {
        "session": report.session_id,
        "version": report.version,
        "state": _state(report),
        "ending": _ending(report),
        "startedAt": report.started_at,
        "events": report.events,
        "bytes": report.bytes,
        "oldest": report.oldest,
        "torn": report.torn,
        "path": escape(str(report.path)),
        "fault": report.fault,
    }


def _state(report: RunReport) -> str:
    return "living" if report.is_living else "dead"


def _ending(report: RunReport) -> str | None:
    """Return how a dead run ended, if that was saved; None for a living one."""
    if report.is_living or report.report is None:
        return None
    saved = report.report
    return saved.reason if isinstance(saved.reason, str) else Reason.KILLED


def _table(reports: list[RunReport]) -> list[str]:
    if not reports:
        return ["No run is in this directory."]
    rows = [("STATE", "ENDING", "EVENTS", "BYTES", "TORN", "OLDEST EVENT (UTC)", "SESSION")]
    rows += [
        (
            _state(report),
            printable(_ending(report) or "-", _MAX_ENDING_LETTERS),
            f"{report.events:,}",
            f"{report.bytes:,}",
            f"{report.torn:,}",
            _moment(report.oldest),
            printable(report.session_id or report.path.name, _MAX_SESSION_LETTERS),
        )
        for report in reports
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{state:<{widths[0]}}  {ending:<{widths[1]}}  {events:>{widths[2]}}  {size:>{widths[3]}}  "
        f"{torn:>{widths[4]}}  {oldest:<{widths[5]}}  {session}"
        for state, ending, events, size, torn, oldest, session in rows
    ]
    for line, report in zip(lines[1:], reports, strict=True):
        if report.fault:
            lines.insert(lines.index(line) + 1, f"{'':<{widths[0]}}  {escape(report.fault)}")
    events, size = sum(r.events for r in reports), sum(r.bytes for r in reports)
    return [*lines, f"{counted(len(reports), 'run')}, {counted(events, 'event')}, {size:,} bytes"]


def _moment(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "-"
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    try:
        return f"{epoch + datetime.timedelta(milliseconds=milliseconds):%Y-%m-%d %H:%M:%S}"
    except OverflowError:
        return "invalid time"


# Erasing.


def _erase(directory: JournalDirectory, *, is_certain: bool, as_json: bool) -> bool:
    reports = directory.inspect()
    dead = [report for report in reports if not report.is_living]
    events = sum(report.events for report in dead)
    summary = f"{counted(len(dead), 'dead run')} with {counted(events, 'event')}"
    if dead and not is_certain:
        click.confirm(f"Erase {summary} for good?", abort=True, err=True)
    directory.erase()
    left = directory.inspect()
    kept = [report for report in left if not report.is_living]
    if as_json:
        _print_json(
            {"erased": len(dead) - len(kept), "runs": [_as_json(report) for report in left]}
        )
        return not kept
    if kept:
        for report in kept:
            _print(f"{escape(str(report.path))} could not be erased.")
    else:
        _print(f"Erased {summary}." if dead else "No dead run is in this directory.")
    for report in left:
        if report.is_living:
            _print(f"Session {printable(str(report.session_id))} is running; it was left alone.")
    return not kept


# Sending.


def _send(
    directory: JournalDirectory,
    url: str,
    token: str | None,
    timeout: float,
    confirm: Confirm,
    *,
    as_json: bool,
) -> bool:
    before = [report for report in directory.inspect() if not report.is_living]
    waiting = sum(report.events for report in before)
    try:
        settings = TelemetrySettings(
            enabled=True,
            url=url,
            token=token,
            connect_timeout=timeout,
            confirm_timeout=timeout,
            confirm=confirm,
            journal=directory.path,
            journal_max_bytes=_ANY_SIZE,
            journal_max_age=_FOREVER,
        )
    except SettingsError as error:
        raise CommandError(str(error)) from error
    outcome = _deliver(settings, waiting) if before else _Outcome(0, 0, None, has_no_archive=False)
    delivered, refused, reason = outcome.delivered, outcome.refused, outcome.reason
    left = [report for report in directory.inspect() if not report.is_living]
    events = sum(report.events for report in left)
    if as_json:
        _print_json(
            {
                "delivered": delivered,
                "refused": refused,
                "torn": sum(report.torn for report in before),
                "error": reason,
                "archived": confirm == "archived" and not outcome.has_no_archive,
                "runs": [_as_json(report) for report in left],
            }
        )
        return not left and not refused
    _print(f"Delivered {counted(delivered, 'event')} of {counted(len(before), 'dead run')}.")
    if refused:
        _print(f"The server refused {counted(refused, 'event')}.")
    if torn := sum(report.torn for report in before):
        _print(f"{counted(torn, 'record')} {'is' if torn == 1 else 'are'} damaged.")
    if outcome.has_no_archive:
        _print("The server does not confirm that events are archived; it has confirmed them.")
    if left:
        _print(f"Left: {counted(events, 'event')} of {counted(len(left), 'run')}.")
    for fault in filter(None, [reason, *(report.fault for report in left)]):
        _print(escape(fault))
    return not left and not refused


class _Outcome(NamedTuple):
    """The outcome of a delivery."""

    delivered: int
    refused: int
    reason: str | None
    """Why it ended early; None if it didn't."""
    has_no_archive: bool
    """Whether archived events were asked for, and the server has confirmed them without that."""


def _deliver(settings: TelemetrySettings, waiting: int) -> _Outcome:
    """Deliver all dead runs."""
    codec = EventCodec(new_session_id(), None, settings.max_event_bytes)
    waiting_room = Journal(
        settings.journal or "",
        codec,
        capacity=None,
        memory_capacity=1,
        max_bytes=settings.journal_max_bytes,
        high_water=1,
        on_high_water=lambda: None,
        on_first_push=lambda: None,
    )  # it is never opened, since nothing is recorded
    has_failed = threading.Event()
    connector = TelemetryConnector(
        waiting_room.store,
        codec,
        settings,
        journal=waiting_room,
        reports_itself=False,
        on_failure=has_failed.set,
    )
    ledger, timeout, reason = connector.ledger, settings.connect_timeout, None
    wants_archive = settings.confirm == "archived"
    with sdk_log_disabled(), _progress(waiting) as advance:
        connector.start()
        try:
            settled, settled_at = 0, time.monotonic()
            while reason is None and not connector.adoption.is_done:
                time.sleep(_LOOK_INTERVAL)
                now = ledger.delivered + sum(ledger.dropped_by.values())
                if now > settled:
                    advance(now - settled)
                    settled, settled_at = now, time.monotonic()
                elif has_failed.is_set():
                    reason = "the worker ended with an error"
                elif time.monotonic() > settled_at + (_PATIENCE * timeout if settled else 0.0):
                    reason = connector.last_error  # None while the first attempt goes on
                if wants_archive and time.monotonic() > settled_at + _PATIENCE * timeout:
                    reason = reason or f"no event was archived for {_PATIENCE * timeout:g} s"
        finally:
            connector.stop(_STOP_TIMEOUT)
    return _Outcome(
        ledger.delivered,
        sum(ledger.dropped_by.values()),
        reason,
        has_no_archive=connector.has_no_archive,
    )


@contextlib.contextmanager
def _progress(length: int) -> Iterator[Callable[[int], object]]:
    """Show a progress bar on a terminal; yield the function that advances it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label="sending", show_pos=True, file=sys.stderr) as bar:
        yield bar.update


def _print_json(result: dict[str, Any]) -> None:
    _print(json.dumps(result, indent=2))


def _print(line: str) -> None:
    with stdout_errors():
        click.echo(line)
