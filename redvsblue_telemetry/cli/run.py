"""``run``: start a game with telemetry on, and count the events that arrive.

The game is a child process that keeps this process's standard streams. So everything printed here
goes to standard error, and the game's standard output stays clean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import FrameType

import click

from ..collector.client import CollectorClient, CollectorError
from ..collector.models import FaultGroup, Outcome, SessionDetail
from ..collector.server import Options, telemetry_url
from ..collector.storage import queries
from ..collector.storage.database import DatabaseError
from ..settings import ENABLE, is_killed
from . import _runner
from ._arguments import browser_option, port_option, schema_option, temporary_db_option
from ._database import open_database
from ._outcomes import cause_word, harmless, outcome_word
from ._runner import can_open_browser, collecting, stopped_by_signals
from ._terminal import CommandError, notice

__all__ = ["run"]

_INTERRUPTED = 130  # exit code
_MAX_SESSIONS = 1000
_MAX_SHOWN = 20  # sessions, faults, and runs of missing numbers of one session
_SETTLE_TIMEOUT = 5.0  # seconds
_SETTLE_INTERVAL = 0.1  # seconds
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FIRST_EXCEPTION = 0x8000_0000  # of Windows: https://learn.microsoft.com/en-us/openspecs/windows_protocols/ms-erref

_NO_EVENTS = (
    "telemetry: the game sent no events. Likely reasons:",
    "  - It does not call start_telemetry(), or emits nothing.",
    "  - Its code sets url= or enabled=False, which takes precedence over the environment.",
    "  - It ends before its events are sent, such as by os._exit(); call stop_telemetry() first.",
    "  - It runs in another environment, such as a container.",
)


class _CommandNotFound(CommandError):  # noqa: N818 (these name what a shell calls them)
    exit_code = 127


class _CannotExecute(CommandError):  # noqa: N818
    exit_code = 126


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@port_option
@temporary_db_option
@schema_option
@browser_option
@click.option("--stay", is_flag=True, help="Keep the page open after the game, until Ctrl-C.")
@click.pass_context
def run(
    context: click.Context,
    command: tuple[str, ...],
    port: int,
    db: Path | None,
    schema: Path | None,
    no_browser: bool,
    stay: bool,
) -> None:
    """Run the game COMMAND with telemetry on, and show the events that arrive.

    A collector receives the events, and shows them live in a browser. At the end, the stored events
    are compared with the numbers that the game gave them.

    The exit code is the game's own, 128 + N if signal N killed it, 127 if the command was not
    found, and 126 if it can't be executed.

    If the environment turns telemetry off (DO_NOT_TRACK, or REDVSBLUE_ENABLE_TELEMETRY=false), it
    stays off, and the game runs without a collector.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        raise CommandError(f"a standard stream is closed; redirect it to {os.devnull} instead")
    if is_killed(os.environ):
        notice(
            "telemetry: off, because the environment forbids it (DO_NOT_TRACK or "
            f"{ENABLE}); running the game without a collector",
            fg="yellow",
        )
        context.exit(_runner.run(_play(command, os.environ)))
    opens = not no_browser and can_open_browser(sys.stderr)
    with tempfile.TemporaryDirectory(
        prefix="redvsblue-telemetry-", ignore_cleanup_errors=True
    ) as folder:
        options = Options(port=port, db=db or Path(folder, "telemetry.sqlite3"), schema=schema)
        context.exit(_runner.run(_run(command, options, opens=opens, stays=stay)))


async def _run(command: Sequence[str], options: Options, *, opens: bool, stays: bool) -> int:
    """Serve, play and compare; return the game's exit code."""
    stop = asyncio.Event()
    started = int(time.time() * 1000)
    with stopped_by_signals(stop, lambda: None):
        async with collecting(options, stop) as page:
            if stop.is_set():
                return _INTERRUPTED
            code = await _play(command, _environment(telemetry_url(page)), page, opens=opens)
            if stays and not stop.is_set():
                await asyncio.to_thread(_wait_until_stored, page)
                _print_comparison(options.db, started)
                notice(f"telemetry: the page stays open at {page} until Ctrl-C")
                await stop.wait()
                return code
        # Only a collector that has ended has surely stored everything that it received.
        _print_comparison(options.db, started)
    if opens:
        notice("telemetry: the live page closes with the collector; pass --stay to keep it open")
    return code


async def _play(
    command: Sequence[str],
    environment: Mapping[str, str],
    page: str | None = None,
    *,
    opens: bool = False,
) -> int:
    """Run the game to its end; return its exit code, as a shell gives it."""
    with _game(command, environment) as process:
        if page is not None:
            notice(f"telemetry: live page at {page}")
            if opens:
                await asyncio.to_thread(webbrowser.open, page)
        code = await asyncio.to_thread(process.wait)
    if 0 <= code < _FIRST_EXCEPTION:
        return code
    if page is not None:
        name = signal.Signals(-code).name if code < 0 else f"exception 0x{code:08X}"
        notice(f"telemetry: {name} killed the game; events that it had not sent are not counted")
    # Python can exit with no code of 32 bits, but with the negative number that has the same bits.
    return 128 - code if code < 0 else code - 2**32


def _environment(url: str) -> dict[str, str]:
    """Return this process's environment, with telemetry switched on toward the collector.

    The token is meant for another server, so it is left out. A value of the switch that can't be
    read is kept: it may be meant as a kill switch, and the SDK reports it.
    """
    environment = dict(os.environ)
    environment.pop("REDVSBLUE_TELEMETRY_TOKEN", None)
    environment[ENABLE] = environment.get(ENABLE, "").strip() or "true"
    environment["REDVSBLUE_TELEMETRY_WS_URL"] = url
    exempt = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if exempt.strip() != "*":
        exempt = f"{exempt},127.0.0.1".lstrip(",")
    return environment | {"no_proxy": exempt, "NO_PROXY": exempt}


@contextlib.contextmanager
def _game(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the game, and forward signals to it until the block is left. Then it has ended."""
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # signals that came while the process was being made

    def forward(number: int, _: FrameType | None) -> None:
        if process is None:
            early.append(number)
        elif not _has_got(process.pid, number):
            process.send_signal(number)

    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # Windows has the last one, not SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # What is ignored stays ignored, by the game too, as SIGHUP is under nohup.
    previous = {
        number: signal.signal(number, forward)
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        process = _start(command, environment)
        for number in early:
            forward(number, None)
        yield process
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    prepare = _death_with_parent()
    if sys.platform == "win32":
        # The system looks beside this Python first, and for .exe files only. So a `python` would be
        # the one that this virtual environment was made with, and `npm`, which is a .cmd, is none.
        command = (shutil.which(command[0]) or command[0], *command[1:])
    try:
        # It makes two system calls in the child. Starting the game by way of an interpreter that
        # makes them would be safe with any C library, but takes longer, and hides why exec fails.
        return subprocess.Popen(command, env=environment, preexec_fn=prepare)  # noqa: PLW1509
    except FileNotFoundError as error:
        raise _CommandNotFound(f"command not found: {command[0]}") from error
    except OSError as error:
        raise _CannotExecute(f"{command[0]} can't be executed: {error.strerror}") from error


def _has_got(pid: int, number: int) -> bool:
    """Return whether a signal that reached this process has reached the game as well.

    A terminal interrupts its whole foreground process group. If the signal were forwarded too, the
    game would be interrupted a second time, in the midst of its cleanup.
    """
    if sys.platform == "win32":
        return number != signal.SIGTERM  # a console interrupts all of its processes
    if number != signal.SIGINT:
        return False
    try:
        with open("/dev/tty", "rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgid(pid)
    except OSError:  # no terminal
        return False


def _death_with_parent() -> Callable[[], None] | None:
    """Return a function that makes a child process die with this one, even if this one is killed.

    The demo's game ends when its standard input is closed, but here standard input is the user's.
    Linux can send the signal itself; on other systems, the game is left behind.
    """
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 (nothing else needs it)

    prctl = ctypes.CDLL(None).prctl  # found before the fork, after which little is safe
    parent = os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # killed just before
            os._exit(_INTERRUPTED)

    return prepare


def _wait_until_stored(page: str) -> None:
    """Wait until the game's connections are closed, and the counts no longer change."""
    before = None
    deadline = time.monotonic() + _SETTLE_TIMEOUT
    with (
        contextlib.suppress(CollectorError),
        contextlib.closing(CollectorClient(page)) as client,
    ):
        while time.monotonic() < deadline:
            stats = client.stats()
            if stats.connections == 0 and stats == before:
                return
            before = stats
            time.sleep(_SETTLE_INTERVAL)


def _print_comparison(db: Path | None, started: int) -> None:
    assert db is not None
    try:
        with open_database(db) as connection:
            recent = takewhile(
                lambda session: session.last_received >= started,
                queries.sessions(connection, limit=_MAX_SESSIONS),
            )
            found = (queries.session(connection, session.session_id) for session in recent)
            sessions = [
                each for each in found if each is not None and (each.events or each.missing)
            ]
            rejected = [
                message
                for message in queries.rejected(connection, limit=_MAX_SESSIONS)
                if message.received >= started
            ]
            faults = [
                group
                for group in queries.faults(connection, limit=_MAX_SHOWN + 1)
                if group.last >= started
            ]
    except DatabaseError as error:
        notice(f"telemetry: no comparison was made: {error}", fg="red")
        return
    if sessions:
        _print_sessions(sessions)
        _print_faults(faults, sum(session.faults for session in sessions))
    elif not rejected:
        for line in _NO_EVENTS:
            notice(line, fg="yellow")
    if rejected:
        reason = rejected[0].reason
        notice(f"telemetry: {len(rejected)} rejected; the last one: {reason}", fg="red")


def _print_sessions(sessions: Sequence[SessionDetail]) -> None:
    notice(f"telemetry: stored {sum(session.events for session in sessions)} events")
    notice(f"  {'session':36}  {'events':>8} {'first':>8} {'last':>8} {'missing':>8}  outcome")
    for session in sessions[:_MAX_SHOWN]:
        is_start_missing = bool(session.gaps) and session.gaps[0][0] == 1
        first = session.gaps[0][1] + 1 if is_start_missing else 1
        last = max(session.highest, session.last_seq or 0)
        counts = f"{session.events:8} {first:8} {last:8} {session.missing:8}"
        notice(f"  {session.session_id[:36]:36}  {counts}  {_outcome(session)}")
    if len(sessions) > _MAX_SHOWN:
        notice(f"  and {len(sessions) - _MAX_SHOWN} more sessions")
    incomplete = [session for session in sessions if session.missing]
    for session in incomplete[:_MAX_SHOWN]:
        gaps = ", ".join(
            f"{loss.first}-{loss.last} {cause_word(loss.cause)}"
            if loss.last > loss.first
            else f"{loss.first} {cause_word(loss.cause)}"
            for loss in session.losses[:_MAX_SHOWN]
        )
        more = ", …" if len(session.losses) > _MAX_SHOWN else ""
        is_harmless = session.missing == harmless(session.lost, session.waiting)
        notice(
            f"telemetry: missing from {session.session_id[:36]}: {gaps}{more}",
            fg="yellow" if is_harmless else "red",
        )
    if not incomplete:
        notice("telemetry: no gaps; every number up to the last one is stored", fg="green")


def _print_faults(groups: Sequence[FaultGroup], count: int) -> None:
    if not count:
        return
    events = "1 event does" if count == 1 else f"{count} events do"
    notice(f"telemetry: {events} not fit the schema:", fg="red")
    for group in groups[:_MAX_SHOWN]:
        notice(f"  {group.type}: {group.fault}")
    if len(groups) > _MAX_SHOWN:
        notice("  and more")


def _outcome(session: SessionDetail) -> str:
    """Return how a session of the game ended, now that the game has."""
    if session.reported is None:
        return "no report"
    return outcome_word(Outcome.NO_WORD if session.outcome == Outcome.RUNNING else session.outcome)
