"""``demo``: play a battle against a collector, and compare both sides' counts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ...collector.client import CollectorClient, CollectorError
from ...collector.models import EventFilter
from ...collector.server import Options, telemetry_url
from ...settings import is_killed
from .._arguments import FiniteFloatRange, browser_option, port_option, temporary_db_option
from .._runner import (
    can_open_browser,
    collecting,
    first_of,
    run,
    stopped_by_signals,
)
from .._terminal import CommandError, pipe_safe_stdout
from .game import Progress

__all__ = ["StoredCounts", "demo", "differences", "progress_line"]

_DIFFERS, _INTERRUPTED = 1, 130


class StoredCounts(msgspec.Struct):
    """The collector's side of the ledger, for the game's session."""

    stored: int
    """Events that can be read back."""
    unique: int
    """Distinct numbers among them."""
    repeats: int
    missing: int


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
@browser_option
@click.option("--stay", is_flag=True, help="Keep the page open after the battle, until Ctrl-C.")
@click.pass_context
def demo(
    context: click.Context,
    seconds: float,
    port: int,
    db: Path | None,
    no_browser: bool,
    stay: bool,
) -> None:
    """Play a battle against a collector and compare their counts.

    The game is a separate process that sends as any game does. The exit code is 0 if every event
    arrived exactly once, and 1 if not.
    """
    if is_killed(os.environ):
        raise CommandError(
            "the environment turns telemetry off (DO_NOT_TRACK or REDVSBLUE_ENABLE_TELEMETRY), "
            "so there is nothing to show"
        )
    console = Console(file=pipe_safe_stdout(), highlight=False, soft_wrap=True)
    opens = not no_browser and can_open_browser(sys.stdout)
    options = Options(port=port, db=db)
    context.exit(run(_Demo(options, console, seconds, opens=opens, stays=stay).run()))


class _Demo:
    def __init__(
        self, options: Options, console: Console, seconds: float, *, opens: bool, stays: bool
    ) -> None:
        self._options = options
        self._console = console
        self._seconds = seconds
        self._opens = opens
        self._stays = stays

    async def run(self) -> int:
        """Serve, play and compare; return the exit code."""
        stop = asyncio.Event()
        with stopped_by_signals(stop, lambda: None):
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

    async def _play_and_compare(self, url: str) -> int:
        self._console.print(Text.assemble("live page: ", (url, "bold underline")))
        if self._opens:
            await asyncio.to_thread(webbrowser.open, url)
        self._console.print(f"playing a battle of {self._seconds:g} s\n")
        game = await self._play(telemetry_url(url))
        try:
            counts = await asyncio.to_thread(count, url, game.session)
        except CollectorError as error:
            raise CommandError(str(error)) from error
        self._print_ledgers(game, counts)
        differing = differences(game, counts)
        if differing:
            reasons = "; ".join(differing)
            self._console.print(Text(f"NOT every event arrived once: {reasons}", "bold red"))
            return _DIFFERS
        self._console.print(Text(f"every event arrived once: {game.counted} events", "bold green"))
        return 0

    async def _play(self, url: str) -> Progress:
        """Run the game; return its last progress."""
        progress = Progress()
        async with _game(url, self._seconds) as lines:
            with self._shown() as show:
                async for line in lines:
                    progress = msgspec.json.decode(line, type=Progress)
                    show(progress)
        if not progress.is_over:
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

    def _print_ledgers(self, game: Progress, counts: StoredCounts) -> None:
        left = [
            ("emitted", game.emitted),
            ("delivered", game.delivered),
            ("in flight", game.in_flight),
            ("buffered", game.buffered),
            ("dropped", game.dropped),
            ("rejected", game.rejected),
        ]
        right = [
            ("stored", counts.stored),
            ("unique", counts.unique),
            ("repeats", counts.repeats),
            ("missing", counts.missing),
        ]
        self._console.print(f"\n{'the game':22}the collector")
        for row, (name, events) in enumerate(left):
            line = f"  {name:9} {events:6}    "
            if row < len(right):
                line += "  {:9} {:6}".format(*right[row])
            self._console.print(line.rstrip())
        self._console.print()


@contextlib.asynccontextmanager
async def _game(url: str, seconds: float) -> AsyncIterator[asyncio.StreamReader]:
    """Run the game, and yield its standard output. When the block is left, the game has ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "redvsblue_telemetry.cli.demo.game", url, str(seconds)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=_environment(),
        start_new_session=True,  # so that Ctrl-C in a terminal interrupts this process only
    )
    assert process.stdout is not None
    try:
        yield process.stdout
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


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
        numbers = [event.seq for event in client.iter_events(wanted)]
        session = client.session(session_id)
    return StoredCounts(len(numbers), len(set(numbers)), session.repeats, session.missing)


def differences(game: Progress, counts: StoredCounts) -> list[str]:
    """Return the reasons why "every event arrived once" is false; an empty list if it is true."""
    expectations = [
        ("emitted", game.emitted, game.counted),
        ("delivered", game.delivered, game.counted),
        ("stored", counts.stored, game.counted),
        ("unique", counts.unique, game.counted),
        ("in flight", game.in_flight, 0),
        ("buffered", game.buffered, 0),
        ("dropped", game.dropped, 0),
        ("rejected", game.rejected, 0),
        ("repeats", counts.repeats, 0),
        ("missing", counts.missing, 0),
    ]
    return [
        f"{name} {actual} instead of {expected}"
        for name, actual, expected in expectations
        if actual != expected
    ] + ([] if game.counted else ["the game emitted nothing"])
