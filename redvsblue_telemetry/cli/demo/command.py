"""``demo``: play a battle against a collector, kill the game, and compare both sides' counts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ...collector.client import CollectorClient, CollectorError
from ...collector.models import EventFilter, Outcome
from ...collector.server import Options, telemetry_url
from ...settings import is_killed
from .._arguments import (
    Duration,
    FiniteFloatRange,
    browser_option,
    port_option,
    temporary_db_option,
)
from .._runner import (
    can_open_browser,
    collecting,
    first_of,
    run,
    stopped_by_signals,
)
from .._terminal import CommandError, pipe_safe_stdout
from .game import Progress, Tally
from .past import NotEmptyError, fill

__all__ = ["StoredCounts", "demo", "differences", "differences_of_killed", "progress_line"]

_DIFFERS, _INTERRUPTED = 1, 130
_FIRST_SHARE = 0.4  # of the time, until the game is killed
_KILL_PATIENCE = 60.0  # seconds that the game would play on if it weren't killed
_LONGEST_PAST = 366 * 86_400.0  # seconds
_FRAMES = "frames"  # the type of the library's own summaries


class StoredCounts(msgspec.Struct):
    """The collector's side of the ledger, for the session of a game."""

    stored: int
    """Events that can be read back."""
    unique: int
    """Distinct numbers among them."""
    repeats: int
    missing: int
    summaries: int
    """Events of the library itself among the stored ones: its summaries of frames."""
    outcome: str
    """How the session ended; see :class:`Outcome`."""


def _check_past(_: click.Context, __: click.Parameter, given: float | None) -> float | None:
    if given is not None and given > _LONGEST_PAST:
        raise click.BadParameter(f"at most {_LONGEST_PAST / 86_400:.0f}d")
    return given


@click.command()
@click.option(
    "--seconds",
    type=FiniteFloatRange(min=0.1, max=86400),
    default=10.0,
    show_default=True,
    help="Play for this many seconds.",
)
@port_option
@temporary_db_option
@click.option(
    "--past",
    metavar="TIME",
    type=Duration(),
    callback=_check_past,
    help="First fill the database with made sessions of many players over this time, such as 7d. "
    "The database must be new.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=7,
    show_default=True,
    help="Choose another battle and another past.",
)
@browser_option
@click.option("--stay", is_flag=True, help="Keep the page open after the battle, until Ctrl-C.")
@click.pass_context
def demo(
    context: click.Context,
    seconds: float,
    port: int,
    db: Path | None,
    past: float | None,
    seed: int,
    no_browser: bool,
    stay: bool,
) -> None:
    """Play a battle against a collector and compare their counts.

    The game is a separate process that sends as any game does. In the middle it is killed. It
    starts again, delivers the events that the killed game has left in its journal, and reports how
    that one ended. The exit code is 0 if every event is stored exactly once and each game is shown
    as it ended, and 1 if not.
    """
    if is_killed(os.environ):
        raise CommandError(
            "the environment turns telemetry off (DO_NOT_TRACK or REDVSBLUE_ENABLE_TELEMETRY), "
            "so there is nothing to show"
        )
    console = Console(file=pipe_safe_stdout(), highlight=False, soft_wrap=True)
    opens = not no_browser and can_open_browser(sys.stdout)
    with _Folder() as folder:
        if past is not None and db is None:
            db = folder.database
        options = Options(port=port, db=db)
        playing = _Demo(options, console, folder, seconds, past, seed, opens=opens, stays=stay)
        context.exit(run(playing.run()))


class _Demo:
    def __init__(
        self,
        options: Options,
        console: Console,
        folder: _Folder,
        seconds: float,
        past: float | None,
        seed: int,
        *,
        opens: bool,
        stays: bool,
    ) -> None:
        self._options = options
        self._console = console
        self._folder = folder
        self._seconds = seconds
        self._past = past
        self._seed = seed
        self._opens = opens
        self._stays = stays

    async def run(self) -> int:
        """Serve, play and compare; return the exit code."""
        stop = asyncio.Event()
        with stopped_by_signals(stop, lambda: None):
            if self._past is not None:
                await self._fill(self._past, stop)
                if stop.is_set():
                    self._console.print("\ninterrupted; the past is not complete")
                    return _INTERRUPTED
            async with collecting(self._options, stop) as url:
                playing = asyncio.create_task(self._play_and_compare(url))
                stopping = asyncio.create_task(stop.wait())
                await first_of(playing, stopping)
                if not playing.done():
                    playing.cancel()
                    await asyncio.wait([playing])
                    self._console.print("\ninterrupted; no comparison was made")
                    return _INTERRUPTED
                code = await playing
                if self._stays and not stop.is_set():
                    self._console.print(f"\nthe page stays open at {url} until Ctrl-C")
                    await stopping
                elif self._opens:
                    self._console.print(
                        "\nthe live page closes with the collector; pass --stay to keep it open"
                    )
                stopping.cancel()
                return code

    async def _fill(self, past: float, stop: asyncio.Event) -> None:
        """Fill the database with a past of this many seconds."""
        path = self._options.db
        assert path is not None
        now = time.time()
        offset = time.localtime(now).tm_gmtoff // 60
        self._console.print(f"making the battles of the last {past / 86_400:g} days")
        try:
            made = await asyncio.to_thread(
                fill,
                path,
                int(past * 1000),
                int(now * 1000),
                seed=self._seed,
                offset=offset,
                is_stopped=stop.is_set,
            )
        except NotEmptyError:
            raise CommandError(
                f"{path} has sessions already; for a past, name a new file with --db"
            ) from None
        self._console.print(f"made {made.sessions:,} sessions with {made.events:,} events\n")

    async def _play_and_compare(self, url: str) -> int:
        self._console.print(Text.assemble("live page: ", (url, "bold underline")))
        if self._opens:
            await asyncio.to_thread(webbrowser.open, url)
        self._console.print(f"playing a battle of {self._seconds:g} s\n")
        killed = await self._play(url, "first", is_killed=True)
        killed.counted = self._folder.count("first")
        self._console.print("\nkilled the game on purpose; it starts again\n")
        game = await self._play(url, "second")
        try:
            stored = await asyncio.to_thread(
                lambda: [count(url, each.session) for each in (killed, game)]
            )
        except CollectorError as error:
            raise CommandError(str(error)) from error
        self._print_ledgers((killed, game), stored)
        differing = differences_of_killed(killed, stored[0]) + differences(game, stored[1])
        if differing:
            reasons = "; ".join(differing)
            self._console.print(Text(f"NOT every event arrived once: {reasons}", "bold red"))
            return _DIFFERS
        total = sum(counts.stored for counts in stored)
        self._console.print(Text(f"every event arrived once: {total} events", "bold green"))
        return 0

    async def _play(self, url: str, name: str, *, is_killed: bool = False) -> Progress:
        """Run a game to its end, or kill it after its share of the time; return its progress."""
        progress = Progress()
        share = self._seconds * (_FIRST_SHARE if is_killed else 1 - _FIRST_SHARE)
        seconds = share + _KILL_PATIENCE if is_killed else share
        playing = _game(telemetry_url(url), seconds, self._folder, name, self._seed)
        async with playing as process:
            assert process.stdout is not None
            with self._shown() as show:
                async for line in process.stdout:
                    is_first = not progress.session
                    progress = msgspec.json.decode(line, type=Progress)
                    show(progress)
                    if is_first and is_killed:
                        asyncio.get_running_loop().call_later(share, _kill, process)
        if not progress.session or not (is_killed or progress.is_over):
            raise CommandError("the game ended early; see its error above")
        return progress

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Callable[[Progress], None]]:
        """Yield a function that shows progress: in place on a terminal, else line by line."""
        if not self._console.is_terminal:
            yield lambda progress: self._console.print(progress_line(progress))
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            width = self._console.width
            yield lambda progress: live.update(progress_line(progress, width), refresh=True)

    def _print_ledgers(self, games: Sequence[Progress], stored: Sequence[StoredCounts]) -> None:
        killed, game = games
        rows: list[tuple[str, object, object]] = [
            ("the game", "killed", "next"),
            ("  counted", killed.counted, game.counted),
            # The ledger of a killed process is gone with it.
            ("  emitted", "", game.emitted),
            ("  recovered", "", game.recovered),
            ("  delivered", "", game.delivered),
            ("  in flight", "", game.in_flight),
            ("  buffered", "", game.buffered),
            ("  dropped", "", game.dropped),
            ("  rejected", "", game.rejected),
            ("the collector", "", ""),
            *(
                (f"  {title}", *(getattr(counts, name) for counts in stored))
                for title, name in (
                    ("stored", "stored"),
                    ("of frames", "summaries"),
                    ("repeats", "repeats"),
                    ("missing", "missing"),
                    ("outcome", "outcome"),
                )
            ),
        ]
        self._console.print()
        for title, first, second in rows:
            self._console.print(f"{title:14}{first!s:>8}{second!s:>8}".rstrip())
        self._console.print()


class _Folder:
    """A temporary folder with the games' journal and tallies, and perhaps the database.

    A context manager.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(
            prefix="redvsblue-demo-", ignore_cleanup_errors=True
        )
        self.journal = Path(self._folder.name, "journal")
        self.database = Path(self._folder.name, "telemetry.sqlite3")

    def tally(self, name: str) -> Path:
        """Return the file in which a game counts."""
        return Path(self._folder.name, name)

    def count(self, name: str) -> int:
        """Return the count of a game that has ended."""
        tally = Tally(self.tally(name))
        try:
            return tally.count
        finally:
            tally.close()

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


@contextlib.asynccontextmanager
async def _game(
    url: str, seconds: float, folder: _Folder, name: str, seed: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a game, and yield its process. When the block is left, the game has ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "redvsblue_telemetry.cli.demo.game"),
        *(url, str(seconds), str(folder.journal), str(folder.tally(name)), str(seed)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=_environment(),
        # So that Ctrl-C in a terminal interrupts this process only. The flags are for Windows.
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    try:
        yield process
        await process.wait()
    finally:
        _kill(process)
        await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process as no process can prevent, unless it has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def _environment() -> dict[str, str]:
    """Return the game's environment, without settings and proxies that are meant for others."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("REDVSBLUE_") and not name.lower().endswith("_proxy")
    }


def progress_line(progress: Progress, width: int = 80) -> Text:
    """Format progress to fit in ``width`` columns.

    Events in flight count as waiting: their number changes faster than it can be read.
    """
    waiting = progress.buffered + progress.in_flight
    counts = (
        f"{progress.seconds:5.1f} s {progress.emitted:5} emitted {progress.delivered:5} delivered "
        f"{waiting:4} waiting"
    )
    frames = f"  frames {_short(progress.frame_ms)} ms, worst {_short(progress.slowest_ms)}"
    is_known = progress.slowest_ms > 0.0
    return Text(counts + frames if is_known and len(counts + frames) < width else counts)


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.0f}"


def count(url: str, session_id: str) -> StoredCounts:
    """Count a session's events in the collector, one by one."""
    wanted = EventFilter(session=session_id)
    with contextlib.closing(CollectorClient(url)) as client:
        events = [(event.seq, event.type) for event in client.iter_events(wanted)]
        session = client.session(session_id)
    return StoredCounts(
        len(events),
        len({seq for seq, _ in events}),
        session.repeats,
        session.missing,
        sum(type_ == _FRAMES for _, type_ in events),
        session.outcome,
    )


def differences(game: Progress, counts: StoredCounts) -> list[str]:
    """Return the reasons why "every event arrived once" is false; an empty list if it is true."""
    total = game.counted + counts.summaries
    expectations: list[tuple[str, object, object]] = [
        ("emitted", game.emitted, total),
        ("delivered", game.delivered - game.recovered, total),
        ("stored", counts.stored, total),
        ("unique", counts.unique, total),
        ("in flight", game.in_flight, 0),
        ("buffered", game.buffered, 0),
        ("dropped", game.dropped, 0),
        ("rejected", game.rejected, 0),
        ("repeats", counts.repeats, 0),
        ("missing", counts.missing, 0),
        ("outcome", counts.outcome, Outcome.WELL),
    ]
    return [
        f"{name} {actual} instead of {expected}"
        for name, actual, expected in expectations
        if actual != expected
    ] + ([] if game.counted else ["the game emitted nothing"])


def differences_of_killed(game: Progress, counts: StoredCounts) -> list[str]:
    """Return the same for the game that was killed.

    It counted each event whose recording was over; the kill may have come just before it counted
    one more. Events may have arrived again: it didn't live to note their confirmation.
    """
    total = game.counted + counts.summaries
    found = []
    if counts.stored not in (total, total + 1) or counts.unique != counts.stored:
        found.append(f"stored {counts.stored} ({counts.unique}) of the killed game's {total}")
    if counts.missing:
        found.append(f"missing {counts.missing} of the killed game's")
    if counts.outcome != Outcome.KILLED:
        found.append(f"the killed game is shown as {counts.outcome}")
    return found
