"""``demo``: a collector, a battle that sends to it, and what both of them counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ...collector.client import CollectorClient, CollectorError
from ...collector.models import EventFilter
from ...collector.server import Options, serve
from ...settings import is_killed
from .._arguments import FiniteFloatRange
from .._runner import run, stopped_by_signals
from .._terminal import CommandError, pipe_safe_stdout
from .game import Progress

__all__ = ["Counts", "demo", "differences", "progress_line"]

_DIFFERS, _INTERRUPTED = 1, 130


class Counts(msgspec.Struct):
    """The collector's side of the ledger, for the game's session."""

    stored: int
    """Events that can be read back."""
    unique: int
    """Different numbers among them."""
    repeats: int
    missing: int


@click.command()
@click.option(
    "--seconds",
    type=FiniteFloatRange(min=0.1, max=86400),
    default=10.0,
    show_default=True,
    help="How long to play.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="The collector's port; 0 for any that is free.",
)
@click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the events in this file.  [default: in memory]",
)
@click.option("--no-browser", is_flag=True, help="Open no browser on the live page.")
@click.option("--stay", is_flag=True, help="Go on showing the page afterwards, until Ctrl-C.")
@click.pass_context
def demo(
    context: click.Context,
    seconds: float,
    port: int,
    db: Path | None,
    no_browser: bool,
    stay: bool,
) -> None:
    """Play a battle against a collector, and compare their counts.

    The game is a process of its own, which sends as any game does. The exit code is 0 if every
    event arrived once, and 1 if not, whether or not anybody reads what is printed.
    """
    if is_killed(os.environ):
        raise CommandError(
            "DO_NOT_TRACK or REDVSBLUE_ENABLE_TELEMETRY says that nothing may be sent. "
            "That wins over this demo, so there is nothing to show"
        )
    console = Console(file=pipe_safe_stdout(), highlight=False, soft_wrap=True)
    opens = not no_browser and _has_browser()
    options = Options(port=port, db=db)
    context.exit(run(_Demo(options, console, seconds, opens=opens, stays=stay).run()))


def _has_browser() -> bool:
    """Whether there is a window to open; a browser in this terminal would be in the way."""
    has_windows = sys.platform in ("win32", "darwin") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    return has_windows and sys.stdout.isatty()


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
        """Serve, play, compare; returns the exit code."""
        stop = asyncio.Event()
        with stopped_by_signals(stop, lambda: None):
            async with self._collecting(stop) as url:
                playing = asyncio.create_task(self._play_and_compare(url))
                stopping = asyncio.create_task(stop.wait())
                await _first_of(playing, stopping)
                if not playing.done():
                    playing.cancel()
                    await asyncio.wait([playing])
                    self._console.print("\ninterrupted: nothing is claimed")
                    return _INTERRUPTED
                code = await playing
                if self._stays and not stop.is_set():
                    self._console.print(f"\nthe page stays at {url} until Ctrl-C")
                    await stopping
                elif self._opens:
                    self._console.print("\nthe page goes with its collector; --stay keeps it")
                stopping.cancel()
                return code

    @contextlib.asynccontextmanager
    async def _collecting(self, stop: asyncio.Event) -> AsyncIterator[str]:
        """A collector; its page's URL."""
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(self._options, stop, ready.set_result))
        await _first_of(serving, ready)
        try:
            if ready.done():
                yield ready.result()
        finally:
            stop.set()
            await serving

    async def _play_and_compare(self, url: str) -> int:
        self._console.print(Text.assemble("the live page: ", (url, "bold underline")))
        if self._opens:
            await asyncio.to_thread(webbrowser.open, url)
        self._console.print(f"a battle of {self._seconds:g} s, which sends to it\n")
        game = await self._play(f"ws://{urlsplit(url).netloc}/telemetry")
        try:
            counts = await asyncio.to_thread(count, url, game.session)
        except CollectorError as error:
            raise CommandError(str(error)) from error
        self._print_ledgers(game, counts)
        differing = differences(game, counts)
        if differing:
            told = "; ".join(differing)
            self._console.print(Text(f"NOT every event arrived once: {told}", "bold red"))
            return _DIFFERS
        self._console.print(Text(f"every event arrived once: {game.told} events", "bold green"))
        return 0

    async def _play(self, url: str) -> Progress:
        """Have the game played; returns how it ended."""
        progress = Progress()
        async with _game(url, self._seconds) as lines:
            with self._shown() as show:
                async for line in lines:
                    progress = msgspec.json.decode(line, type=Progress)
                    show(progress)
        if not progress.is_over:
            raise CommandError("the game ended before its time: see its error above")
        return progress

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Callable[[Progress], None]]:
        """How to show progress: one line that renews itself on a terminal, else line by line."""
        if not self._console.is_terminal:
            yield lambda progress: self._console.print(progress_line(progress))
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            width = self._console.width
            yield lambda progress: live.update(progress_line(progress, width), refresh=True)

    def _print_ledgers(self, game: Progress, counts: Counts) -> None:
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


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


@contextlib.asynccontextmanager
async def _game(url: str, seconds: float) -> AsyncIterator[asyncio.StreamReader]:
    """The game's process, and what it says; gone when the block is left, however it is left."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "redvsblue_telemetry.cli.demo.game", url, str(seconds)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=_environment(),
        start_new_session=True,  # Ctrl-C in a terminal is for this process alone
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
    """What the game needs; settings that are meant for another game would only mislead it."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("REDVSBLUE_") and not name.lower().endswith("_proxy")
    }


def progress_line(progress: Progress, width: int = 80) -> Text:
    """How the game is doing, in fewer columns than that, at least as long as it plays for hours.

    What is emitted is delivered, or waits for it; how many of those are in flight changes faster
    than it can be read.
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


def count(url: str, session_id: str) -> Counts:
    """Ask the collector what it has of a session, event by event."""
    wanted = EventFilter(session=session_id)
    with contextlib.closing(CollectorClient(url)) as asker:
        numbers = [event.seq for event in asker.iter_events(wanted)]
        session = asker.session(session_id)
    return Counts(len(numbers), len(set(numbers)), session.repeats, session.missing)


def differences(game: Progress, counts: Counts) -> list[str]:
    """Each way in which "every event arrived once" is not true; empty when it is."""
    expectations = [
        ("emitted", game.emitted, game.told),
        ("delivered", game.delivered, game.told),
        ("stored", counts.stored, game.told),
        ("unique", counts.unique, game.told),
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
    ] + ([] if game.told else ["the game emitted nothing"])
