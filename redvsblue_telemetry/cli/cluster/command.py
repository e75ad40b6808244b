"""``cluster``: all parts on this machine, kills before your eyes, and a comparison of counts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ...cluster.local.cluster import ClusterError, LocalCluster, Program
from ...cluster.local.ledgers import Stored, count_events, stored_sessions
from ...cluster.local.servers import ServersError
from ...settings import is_killed
from .._arguments import FiniteFloatRange
from .._runner import first_of, run, stopped_by_signals
from .._terminal import CommandError, notice, pipe_safe_stdout
from .game import Progress
from .verdict import differences, total

__all__ = ["cluster", "progress_line"]

_DIFFERS, _INTERRUPTED = 1, 130
_BETWEEN_KILLS = 3.0  # seconds, as all times here
_DEAD_FOR = 2.0
_ELECTION_TIMEOUT = 30.0
_GAME_START_TIMEOUT = 60.0
_GAME_TIMEOUT = 120.0  # for what a game has to deliver at its end
_LAKE_PATIENCE = 30.0  # without an event that is new in the lake
_POLL_INTERVAL = 0.5


@click.command()
@click.option(
    "--seconds",
    type=FiniteFloatRange(min=0.1, max=86400),
    default=10.0,
    show_default=True,
    help="Play for this many seconds; longer, if the kills take longer.",
)
@click.option(
    "--games",
    type=click.IntRange(1, 100),
    default=4,
    show_default=True,
    help="Play this many games at once.",
)
@click.option(
    "--rate",
    type=FiniteFloatRange(min=1, max=10_000),
    default=100.0,
    show_default=True,
    help="Events a second of each game.",
)
@click.option(
    "--kill",
    "kills",
    is_flag=True,
    help="End one part after the other with kill -9, and start it again: a gateway, a loader, the "
    "view, the leader of the stream, another of its servers.",
)
@click.option(
    "--dir",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the stream, the lake and the logs in this directory.  [default: a temporary one]",
)
@click.pass_context
def cluster(
    context: click.Context,
    seconds: float,
    games: int,
    rate: float,
    kills: bool,
    directory: Path | None,
) -> None:
    """Run all parts of a cluster on this machine and compare both sides' counts.

    Three stream servers, two gateways, two loaders and a view run as processes, as they would on
    machines. Games play battles and send their events through the gateways; open the address of the
    view to see them arrive in the lake. At the end, the exit code is 0 if every event of every game
    is in the lake exactly once and in order, and 1 if not.
    """
    if is_killed(os.environ):
        raise CommandError(
            "the environment turns telemetry off (DO_NOT_TRACK or REDVSBLUE_ENABLE_TELEMETRY), "
            "so there is nothing to show"
        )
    console = Console(file=pipe_safe_stdout(), highlight=False, soft_wrap=True)
    with _folder(directory) as folder:
        try:
            parts = LocalCluster(folder, views=1)
            context.exit(run(_Run(parts, console, seconds, games, rate, kills=kills).run()))
        except (ClusterError, ServersError) as error:
            reason, *log = str(error).split("\n")
            for line in log:
                notice(f"  {line}")
            raise CommandError(reason.rstrip(":")) from error


@contextlib.contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    """Yield the directory for the files, which is deleted unless it was asked for."""
    if directory is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"{directory} can't be made: {error.strerror}") from error
        yield directory
        return
    with tempfile.TemporaryDirectory(
        prefix="redvsblue-cluster-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


class _Run:
    def __init__(
        self,
        parts: LocalCluster,
        console: Console,
        seconds: float,
        games: int,
        rate: float,
        *,
        kills: bool,
    ) -> None:
        self._parts = parts
        self._console = console
        self._seconds = seconds
        self._games = [_Game(number, rate) for number in range(1, games + 1)]
        self._kills = kills
        self._in_lake = 0
        self._began = 0.0

    async def run(self) -> int:
        """Start all parts, play and compare; return the exit code."""
        stop = asyncio.Event()
        with stopped_by_signals(stop, lambda: None):
            try:
                before = time.perf_counter()
                await asyncio.to_thread(self._parts.start)
                self._print_parts(time.perf_counter() - before)
                playing = asyncio.create_task(self._play_and_compare())
                stopping = asyncio.create_task(stop.wait())
                await first_of(playing, stopping)
                stopping.cancel()
                if not playing.done():
                    playing.cancel()
                    await asyncio.wait([playing])
                    self._console.print("\ninterrupted; no comparison was made")
                    return _INTERRUPTED
                return await playing
            finally:
                await asyncio.to_thread(self._parts.close)

    def _print_parts(self, seconds: float) -> None:
        parts = self._parts
        self._console.print(f"all parts are ready after {seconds:.1f} s\n")
        for title, addresses in (
            ("stream servers", parts.servers.urls),
            ("gateways", [gateway.url for gateway in parts.gateways]),
            ("loaders", [loader.url for loader in parts.loaders]),
            ("lake", [parts.lake]),
            ("games send to", [parts.url]),
            ("look at", [view.url for view in parts.views]),
        ):
            self._console.print(f"  {title:16}{', '.join(addresses)}")

    async def _play_and_compare(self) -> int:
        games = f"{len(self._games)} games" if len(self._games) > 1 else "a game"
        kills = " or longer, while one part after the other is killed" if self._kills else ""
        async with contextlib.AsyncExitStack() as stack:
            for game in self._games:
                await stack.enter_async_context(game.running(self._parts.url))
            await asyncio.gather(*(game.has_begun() for game in self._games))
            self._console.print(f"\nplaying {games} for {self._seconds:g} s{kills}\n")
            self._began = time.monotonic()
            with self._shown():
                await asyncio.gather(self._kill_each(), asyncio.sleep(self._seconds))
                self._note("the games end, and deliver what they have left")
                await asyncio.gather(*(game.end() for game in self._games))
                progress = [game.progress for game in self._games]
                await self._await_lake(progress)
        # Loaders that have ended change nothing any more.
        await asyncio.to_thread(self._parts.stop_programs)
        stored = await asyncio.to_thread(stored_sessions, self._parts.lake)
        self._print_ledgers(progress, stored)
        if differing := differences(progress, stored):
            reasons = "; ".join(differing)
            self._console.print(Text(f"NOT every event once: {reasons}", "bold red"))
            return _DIFFERS
        events = total(progress).counted
        self._console.print(Text(f"every event once: {events:,} events", "bold green"))
        return 0

    # The kills.

    async def _kill_each(self) -> None:
        if not self._kills:
            return
        await asyncio.sleep(_BETWEEN_KILLS)
        parts = self._parts
        for program in (parts.gateways[0], parts.loaders[0], parts.views[0]):
            await self._kill(program)
            await asyncio.sleep(_BETWEEN_KILLS)
        for is_leader in (True, False):
            await self._kill_server(is_leader=is_leader)
            await asyncio.sleep(_BETWEEN_KILLS)

    async def _kill(self, program: Program) -> None:
        self._note(f"kill -9 {program.child.pid}: {program.name}", "bold red")
        await asyncio.to_thread(program.child.kill)
        await asyncio.sleep(_DEAD_FOR)
        program.child.start()
        since = time.perf_counter()
        await asyncio.to_thread(program.wait_healthy)
        self._note(f"{program.name} is back, {time.perf_counter() - since:.1f} s after its start")

    async def _kill_server(self, *, is_leader: bool) -> None:
        servers = self._parts.servers
        leader = await self._leader()
        index = leader if is_leader else (leader + 1) % len(servers.children)
        child = servers.children[index]
        role = "the leader of the stream" if is_leader else "a follower"
        self._note(f"kill -9 {child.pid}: {child.name}, {role}", "bold red")
        await asyncio.to_thread(servers.kill, index)
        if is_leader:
            since = time.perf_counter()
            other = servers.children[await self._leader()]
            self._note(f"{other.name} leads after {time.perf_counter() - since:.1f} s")
        else:
            await asyncio.sleep(_DEAD_FOR)
        servers.start_one(index)
        since = time.perf_counter()
        await asyncio.to_thread(servers.wait_current)
        self._note(
            f"{child.name} is back and has caught up, {time.perf_counter() - since:.1f} s after "
            "its start"
        )

    async def _leader(self) -> int:
        deadline = time.monotonic() + _ELECTION_TIMEOUT
        while (leader := await asyncio.to_thread(self._parts.servers.leader)) is None:
            if time.monotonic() > deadline:
                raise ClusterError(f"the stream has no leader for {_ELECTION_TIMEOUT:g} s")
            await asyncio.sleep(_POLL_INTERVAL)
        return leader

    # The lake.

    async def _await_lake(self, games: list[Progress]) -> None:
        """Wait until the lake has what the games delivered, or gets nothing more."""
        last, since = -1, time.monotonic()
        while time.monotonic() - since < _LAKE_PATIENCE:
            stored = await asyncio.to_thread(stored_sessions, self._parts.lake)
            if not differences(games, stored):
                return
            count = sum(each.unique for each in stored.values())
            if count != last:
                last, since = count, time.monotonic()
            await asyncio.sleep(_POLL_INTERVAL)

    # The output.

    def _note(self, text: str, style: str = "") -> None:
        seconds = time.monotonic() - self._began
        self._console.print(Text(f"{seconds:5.1f} s  {text}", style))

    @contextlib.contextmanager
    def _shown(self) -> Iterator[None]:
        """Show progress meanwhile: in place on a terminal, else line by line."""
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                showing = asyncio.create_task(
                    self._show(lambda text: live.update(text, refresh=True))
                )
                try:
                    yield
                finally:
                    showing.cancel()
            return
        showing = asyncio.create_task(self._show(self._console.print))
        try:
            yield
        finally:
            showing.cancel()

    async def _show(self, show: Callable[[Text], object]) -> None:
        before = await asyncio.to_thread(count_events, self._parts.lake)
        while True:
            await asyncio.sleep(1.0)
            self._in_lake = await asyncio.to_thread(count_events, self._parts.lake) - before
            seconds = time.monotonic() - self._began
            show(progress_line(seconds, [game.progress for game in self._games], self._in_lake))

    def _print_ledgers(self, games: list[Progress], stored: Mapping[str, Stored]) -> None:
        ledger = total(games)
        lakes = [stored.get(game.session, Stored()) for game in games]
        rows: list[tuple[str, object]] = [
            ("the games", len(games)),
            ("  counted", ledger.counted),
            ("  emitted", ledger.emitted),
            ("  acknowledged", ledger.delivered),
            ("  in flight", ledger.in_flight),
            ("  buffered", ledger.buffered),
            ("  dropped", ledger.dropped),
            ("  rejected", ledger.rejected),
            ("  reconnects", ledger.reconnects),
            ("  longest wait", f"{ledger.longest_wait:.1f} s"),
            ("the lake", ""),
            ("  stored", sum(each.events for each in lakes)),
            (
                "  missing",
                sum(each.missing(game.counted) for game, each in zip(games, lakes, strict=True)),
            ),
            ("  twice", sum(each.twice for each in lakes)),
            ("  out of order", sum(each.disordered for each in lakes)),
        ]
        self._console.print()
        for title, value in rows:
            shown = f"{value:,}" if isinstance(value, int) else value
            self._console.print(f"{title:16}{shown:>12}".rstrip())
        self._console.print()


class _Game:
    """One game, in a process, and its latest progress."""

    def __init__(self, number: int, rate: float) -> None:
        self.progress = Progress()
        self._number = number
        self._rate = rate
        self._process: asyncio.subprocess.Process
        self._reading: asyncio.Task[None]
        self._heard = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self, url: str) -> AsyncIterator[None]:
        """Run the game. When the block is left, it has ended."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "redvsblue_telemetry.cli.cluster.game"),
            *(url, str(self._rate), str(self._number)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # so that Ctrl-C in a terminal interrupts this process only
        )
        self._reading = asyncio.create_task(self._read())
        try:
            yield
        finally:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            await self._process.wait()
            self._reading.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.progress = msgspec.json.decode(line, type=Progress)
            self._heard.set()
        self._heard.set()  # of its end

    async def has_begun(self) -> None:
        """Wait until it plays."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._heard.wait(), _GAME_START_TIMEOUT)
        if not self.progress.session:
            raise CommandError(f"game {self._number} does not start")

    async def end(self) -> None:
        """Let the game deliver what it has left, and end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already, which is noticed below
            self._process.stdin.write(b"end\n")
            await self._process.stdin.drain()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._reading), _GAME_TIMEOUT)
        if not self.progress.is_over:
            raise CommandError(f"game {self._number} ended early, or doesn't end")


def _environment() -> dict[str, str]:
    """Return a game's environment, without settings and proxies that are meant for others."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("REDVSBLUE_") and not name.lower().endswith("_proxy")
    }


def progress_line(seconds: float, games: list[Progress], in_lake: int) -> Text:
    """Format the progress of all games together.

    Events in flight count as waiting: their number changes faster than it can be read.
    """
    ledger = total(games)
    waiting = ledger.buffered + ledger.in_flight
    return Text(
        f"{seconds:5.1f} s  {ledger.emitted:8,} emitted {ledger.delivered:8,} acknowledged "
        f"{waiting:6,} waiting {in_lake:8,} in the lake"
    )
