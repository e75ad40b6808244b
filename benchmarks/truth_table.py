"""The truth table: which SDK loses events, when, and whether it knows.

    python -m benchmarks.truth_table [--quick] [--only NAME ...] [--sdks NAME ...]
        [--json benchmarks/results/truth-table.json] [--plots docs/images]

The same torture for every SDK: a process is killed, the server goes away, connections are reset or
swallowed, the disk is full, the player opts out. Each SDK is configured for reliable delivery as
its documentation says (``benchmarks.truth_game``). A sink on loopback counts the distinct events
that arrive, behind a proxy that breaks connections (``tests/support/fault_proxy.py``).

Each scenario starts with a fresh process, a new sink and an empty folder. They run side by side,
since they mostly wait, except for the bursts, which would compete for the processor. A process that
does not end within a minute is killed, as a player or an operating system would do.

The full disk is a small tmpfs in a private mount namespace, made with ``unshare``; it disappears
with the process. Where that is not allowed, the scenario fails and the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from benchmarks.harness import (
    ROOT,
    Result,
    Server,
    ask_sink,
    conclude,
    environment,
    machine,
    number,
    parser,
    progress,
    run_rounds,
    table,
)
from benchmarks.peers import versions
from benchmarks.truth_game import CONTENDERS, OUTAGE, Contender
from tests.support.fault_proxy import FaultProxy

_EXIT_LIMIT = 60.0  # seconds that a process may take to end
_LIFETIME = 900.0  # seconds after which a process ends itself, should all else fail
_ANSWER_TIMEOUT = 300.0  # seconds: a burst on a busy machine takes minutes
_PORTS = range(20_000, 30_000)  # below those that the system gives to outgoing connections: with a
# port of that range, a client that connects to a server that is away may reach itself
_RESETS = 20
_FORKS = 5
_DELAY = 0.02  # seconds, one way, while connections are reset: so that they are in use then
_SEED = 12
_TMPFS_BYTES = 8 * 1024 * 1024
_NAME = "truth-table"


# The stage.


class Game:
    """A process of ``benchmarks.truth_game``, as its scenario sees it."""

    def __init__(self, sdk: str, port: int, folder: Path, prefix: Sequence[str] = ()) -> None:
        task = {"sdk": sdk, "port": port, "folder": str(folder), "lifetime": _LIFETIME}
        python = [sys.executable, "-m", "benchmarks.truth_game", json.dumps(task)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            [*prefix, *python],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.answer()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def answer(self, timeout: float = _ANSWER_TIMEOUT) -> Result:
        """Wait for the answer to a command."""
        line = self._lines.get(timeout=timeout)
        if not line:
            self._errors.seek(0)
            text = self._errors.read().decode(errors="replace").strip()
            raise RuntimeError(f"the game ended: {text[-600:]}")
        answer: Result = json.loads(line)
        return answer

    def tell(self, do: str, **more: Any) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        print(json.dumps({"do": do, **more}), file=self._process.stdin, flush=True)

    def ask(self, do: str, **more: Any) -> Result:
        """Have a command carried out."""
        self.tell(do, **more)
        return self.answer()

    def die(self, first: int, count: int) -> None:
        """Have it emit some events and kill itself."""
        self.tell("emit_and_die", first=first, count=count)
        self._process.wait(_ANSWER_TIMEOUT)
        if self._process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"not killed: exit code {self._process.returncode}")

    def end(self, *, calls: bool = True) -> Result:
        """End it; return how long that took and the SDK's own count of lost events."""
        self.tell("end", calls=calls, timeout=_EXIT_LIMIT)
        started = self.answer()["at"]
        result: Result = {"exit_seconds": None, "known_lost": None, "hung": False}
        try:
            self._process.wait(_EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            result["hung"] = True
            self.kill()
        else:
            result["exit_seconds"] = time.monotonic() - started
        if not result["hung"]:
            result |= self.answer()
        return result

    def kill(self) -> None:
        """End it, and a process that it forked."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Leave no process and no file behind."""
        self.kill()
        self._errors.close()


class Stage:
    """A sink, the way to it, and the games that send to it; a context manager."""

    def __init__(self, sdk: str, quick: bool) -> None:
        self.sdk = sdk
        self.quick = quick
        self.emitted = 0
        self.result: Result = {}
        self._games: list[Game] = []

    def __enter__(self) -> Stage:
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._folder = Path(tempfile.mkdtemp(prefix="truth-"))
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._sink = stack.enter_context(Server("benchmarks.sink", "--keep"))
            self.proxy, self._port = _listening(self._sink.port)
            stack.callback(self._close)
            self._stack = stack.pop_all()
        return self

    def _close(self) -> None:
        for game in self._games:
            game.close()
        self.proxy.close()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, prefix: Sequence[str] = ()) -> Game:
        """Start the game, again with the same folder."""
        game = Game(self.sdk, self._port, self._folder, prefix)
        self._games.append(game)
        return game

    def play_on_small_disk(self) -> Game:
        """Start the game in a new mount namespace, with its folder on a small tmpfs."""
        size = f"size={_TMPFS_BYTES}"
        mount = f'mount -t tmpfs -o {size} tmpfs "$0" && exec "$@"'
        unshare = "-m" if os.geteuid() == 0 else "-rm"
        return self.play(["unshare", unshare, "sh", "-c", mount, str(self._folder)])

    def emit(self, game: Game, count: int, seconds: float = 0.0, do: str = "emit") -> Result:
        """Have the game emit events that no other did."""
        answer = game.ask(do, first=self.emitted, count=count, seconds=seconds)
        self.emitted += count
        return answer

    @contextlib.contextmanager
    def emitting(self, game: Game, count: int, seconds: float) -> Iterator[None]:
        """Have the game emit while something else is done."""
        game.tell("emit", first=self.emitted, count=count, seconds=seconds)
        self.emitted += count
        yield
        game.answer()

    def reset(self, pause: float, end: float) -> bool:
        """Reset the connections that are open now, or soon after the next one opens.

        Args:
            pause: seconds from the moment that one is open to the reset.
            end: the monotonic time at which it gives up.
        """
        while time.monotonic() < end:
            if self.proxy.open:
                time.sleep(pause)
                if self.proxy.open:
                    self.proxy.reset()
                    return True
            time.sleep(0.001)
        return False

    def away(self) -> None:
        """Take the server away: connections are reset, and new ones refused."""
        self.proxy.close()

    def back(self) -> None:
        """Bring the server back."""
        self.proxy, _ = _listening(self._sink.port, self._port)

    def seen(self) -> int:
        """Return how many distinct events have arrived."""
        return int(ask_sink(self._sink.url, "counts?first=0&until=0")["seen"])

    def settle(self, limit: float, patience: float | None = None) -> None:
        """Wait until all events have arrived, or for a time, or until nothing comes any more."""
        deadline = time.monotonic() + limit
        newest, since = -1, time.monotonic()
        while newest < self.emitted and (now := time.monotonic()) < deadline:
            if (seen := self.seen()) != newest:
                newest, since = seen, now
            elif patience is not None and now > since + patience:
                return
            time.sleep(0.2)

    def next_start(self) -> None:
        """Start the game again, emit nothing, and end it."""
        game = self.play()
        self.settle(self.span(20.0, 8.0))
        end = game.end()
        self.result["next_exit_seconds"] = end["exit_seconds"]

    def span(self, seconds: float, quick: float) -> float:
        """Return the seconds, or those of a quick run."""
        return quick if self.quick else seconds

    def counts(self) -> Result:
        """Return how many events arrived, were lost, and came twice."""
        counts = ask_sink(self._sink.url, "counts?first=0&until=0")
        return {
            "emitted": self.emitted,
            "arrived": counts["seen"],
            "lost": self.emitted - counts["seen"],
            "twice": counts["repeats"],
            "errors": counts["errors"],
        }


def _listening(upstream: int, port: int | None = None) -> tuple[FaultProxy, int]:
    """Return a proxy that has started, on the port or on one that is free."""
    ports = [port] if port else random.SystemRandom().sample(_PORTS, 100)
    for candidate in ports:
        with contextlib.suppress(OSError):
            return FaultProxy(upstream, port=candidate).start(), candidate
    raise OSError("no free port")


# The scenarios.


def kill(stage: Stage) -> None:
    """`kill -9` right after 1,000 events; then a start that emits nothing."""
    game = stage.play()
    game.die(stage.emitted, 1000)
    stage.emitted += 1000
    stage.next_start()


def away(stage: Stage) -> None:
    """The server is away for a minute, then back; events go on before, meanwhile and after."""
    game = stage.play()
    stage.emit(game, 250)
    stage.settle(15.0)
    stage.away()
    stage.emit(game, 500, seconds=stage.span(OUTAGE, 6.0))
    stage.back()
    stage.emit(game, 250)
    stage.settle(stage.span(100.0, 15.0))
    stage.result |= game.end()


def next_start(stage: Stage) -> None:
    """The server is away when the game ends, and back before a start that emits nothing."""
    game = stage.play()
    stage.emit(game, 200)
    stage.settle(15.0)
    stage.away()
    stage.emit(game, 1000)
    stage.result |= game.end()
    stage.back()
    stage.next_start()


def resets(stage: Stage) -> None:
    """100 events a second for two minutes, and meanwhile 20 resets at random moments."""
    game = stage.play()
    stage.proxy.delay(_DELAY)
    chance = random.Random(_SEED)
    seconds = stage.span(120.0, 40.0)
    with stage.emitting(game, int(100 * seconds), seconds):
        end = time.monotonic() + seconds
        done = 0
        while done < _RESETS and time.monotonic() < end:
            time.sleep(chance.uniform(0.2, 0.8) * stage.span(5.0, 2.0))
            done += stage.reset(chance.uniform(0.0, 2 * _DELAY), end)
    stage.result["resets"] = done
    stage.settle(stage.span(60.0, 15.0))
    stage.result |= game.end()


def black_hole(stage: Stage) -> None:
    """For a minute connections are accepted and nothing comes of them; then the network heals."""
    game = stage.play()
    stage.emit(game, 250)
    stage.settle(15.0)
    stage.proxy.black_hole(True)
    stage.emit(game, 500, seconds=stage.span(OUTAGE, 6.0))
    stage.proxy.black_hole(False)
    stage.emit(game, 250)
    stage.settle(stage.span(100.0, 15.0))
    stage.result |= game.end()


def burst(stage: Stage) -> None:
    """100,000 events in one loop."""
    game = stage.play()
    answer = stage.emit(game, 10_000 if stage.quick else 100_000)
    stage.result["emit_seconds"] = answer["seconds"]
    stage.settle(180.0, patience=15.0)
    stage.result |= game.end()


def fork(stage: Stage) -> None:
    """Five times: 500 events, a fork, and 500 events of the child, which then ends."""
    times = 1 if stage.quick else _FORKS
    answers, ends = [], []
    for _ in range(times):
        game = stage.play()
        answers.append(stage.emit(game, 1000, do="emit_and_fork"))
        stage.settle(8.0)
        ends.append(game.end())
    stage.result |= {
        "children_hung": sum(answer["child_hung"] for answer in answers),
        "hung": any(end["hung"] for end in ends),
        "exit_seconds": max((end["exit_seconds"] or 0.0 for end in ends), default=None),
        "known_lost": sum(end["known_lost"] or 0 for end in ends),
    }


def opt_out(stage: Stage) -> None:
    """40 events wait when the player opts out; later the game ends, and starts again."""
    game = stage.play()
    stage.emit(game, 200)
    stage.settle(15.0)
    before = stage.seen()
    stage.emit(game, 40, do="emit_and_opt_out")
    time.sleep(stage.span(12.0, 3.0))
    stage.result |= game.end()
    stage.next_start()
    stage.result |= {"pending": stage.emitted - before, "leaked": stage.seen() - before}


def exit_without_call(stage: Stage) -> None:
    """The server is away, events wait, and the game ends without a call to the SDK."""
    _exit(stage, calls=False)


def exit_in_black_hole(stage: Stage) -> None:
    """The server accepts connections and answers nothing, events wait, and the game ends."""
    _exit(stage, is_silent=True)


def _exit(stage: Stage, *, calls: bool = True, is_silent: bool = False) -> None:
    game = stage.play()
    stage.emit(game, 200)
    stage.settle(15.0)
    if is_silent:
        stage.proxy.black_hole(True)
    else:
        stage.away()
    stage.emit(game, 1000)
    stage.result |= game.end(calls=calls)


def full_disk(stage: Stage) -> None:
    """The disk of the folder becomes full early in 24,000 events."""
    game = stage.play_on_small_disk()
    stage.emit(game, 2000, seconds=1.0)
    stage.result["ballast"] = game.ask("fill_disk", at_most=2 * _TMPFS_BYTES)["bytes"]
    stage.emit(game, 22_000, seconds=6.0)
    stage.settle(stage.span(30.0, 15.0))
    stage.result |= game.end()


@attrs.frozen
class Scenario:
    """A kind of torture."""

    name: str
    title: str
    run: Callable[[Stage], None]
    is_alone: bool = False
    """Whether the SDKs take turns."""

    def is_for(self, sdk: type[Contender]) -> bool:
        """Whether it says anything about the SDK."""
        match self.name:
            case "full-disk":
                return sdk.writes_to_disk
            case "opt-out":
                return bool(sdk.opt_out_call)
        return True


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("kill", "`kill -9`", kill),
        Scenario("away", "the server is away for a minute", away),
        Scenario("next-start", "away at the exit, back at the next start", next_start),
        Scenario("resets", "20 resets", resets),
        Scenario("black-hole", "a black hole for a minute", black_hole),
        Scenario("burst", "a burst of 100,000", burst, is_alone=True),
        Scenario("fork", "a fork", fork),
        Scenario("opt-out", "opting out", opt_out),
        Scenario("exit-without-call", "an exit without a call", exit_without_call),
        Scenario("exit-in-black-hole", "an exit in a black hole", exit_in_black_hole),
        Scenario("full-disk", "a full disk", full_disk),
    )
}


# Measuring.


def _measure(scenario: Scenario, sdk: str, quick: bool) -> Result:
    """Have one SDK go through one scenario."""
    result: Result = {"scenario": scenario.name, "sdk": sdk}
    try:
        with Stage(sdk, quick) as stage:
            scenario.run(stage)
            result |= stage.result | stage.counts()
    except Exception as error:  # of one cell; the others go on
        result["failure"] = f"{scenario.name}, {sdk}: {error!r}"
    progress(f"{scenario.name}, {sdk}: {result}")
    return result


def _measure_all(options: argparse.Namespace) -> Iterator[Result]:
    chosen = [SCENARIOS[name] for name in options.only]
    for is_alone, workers in ((False, 2 * len(CONTENDERS)), (True, 1)):
        with ThreadPoolExecutor(workers) as pool:
            cells = [
                pool.submit(_measure, scenario, sdk, options.quick)
                for scenario in chosen
                if scenario.is_alone == is_alone
                for sdk in options.sdks
                if scenario.is_for(CONTENDERS[sdk])
            ]
            for cell in cells:
                yield cell.result()


# The report.


def cell_of(report: Result, scenario: str, sdk: str) -> Result | None:
    """Return the result with the most lost events of all rounds."""
    found = [
        result
        for result in report["results"]
        if (result["scenario"], result["sdk"]) == (scenario, sdk) and "failure" not in result
    ]
    return max(found, key=lambda result: int(result["lost"]), default=None)


def sdks_of(report: Result) -> list[str]:
    """Return the SDKs of a report, in the order of the tables."""
    measured = {result["sdk"] for result in report["results"]}
    return [name for name in CONTENDERS if name in measured]


def harm(report: Result, scenario: str, sdk: str) -> Result | None:
    """Return the events that suffered: the lost ones, or those that arrived against the will."""
    cell = cell_of(report, scenario, sdk)
    if cell is None:
        return None
    if scenario == "opt-out":
        return {"harmed": cell["leaked"], "of": cell["pending"]}
    return {"harmed": cell["lost"], "of": cell["emitted"]}


def mark(report: Result, scenario: str, sdk: str) -> str:
    """Return the mark of a loss that the SDK doesn't promise to prevent."""
    found = harm(report, scenario, sdk)
    is_open = scenario in CONTENDERS[sdk].not_promised
    return " °" if found and found["harmed"] and is_open else ""


OVERVIEW = tuple(name for name in SCENARIOS if not name.startswith("exit"))
_EXTRA = {
    "resets": ("resets", "resets"),
    "fork": ("children_hung", "children killed"),
}
_EXITS = ("next-start", "exit-without-call", "exit-in-black-hole")


def _overview(report: Result) -> str:
    """All SDKs in all scenarios: how many events were lost."""

    def text(scenario: str, sdk: str) -> str:
        found = harm(report, scenario, sdk)
        if found is None:
            return "-"
        return f"{found['harmed']:,}{mark(report, scenario, sdk)}"

    sdks = sdks_of(report)
    rows = [
        [SCENARIOS[name].title, *(text(name, sdk) for sdk in sdks)]
        for name in OVERVIEW
        if any(result["scenario"] == name for result in report["results"])
    ]
    return table(["", *(CONTENDERS[sdk].title for sdk in sdks)], rows)


def _seconds(cell: Result | None) -> str:
    if cell is None or "hung" not in cell:
        return "-"
    return f"> {_EXIT_LIMIT:g}" if cell["hung"] else number(cell["exit_seconds"])


def _known(cell: Result) -> str:
    known = cell.get("known_lost")
    return "no report" if known is None else f"{known:,}"


def _details(report: Result, scenario: str) -> str:
    """One scenario: the counts of each SDK."""
    headers = ["", "emitted", "arrived", "lost", "twice", "its own count of lost", "exit, s"]
    extra, title = _EXTRA.get(scenario, ("", ""))
    if extra:
        headers.append(title)
    cells = [(sdk, cell_of(report, scenario, sdk)) for sdk in sdks_of(report)]
    rows = [
        [
            CONTENDERS[sdk].title,
            f"{cell['emitted']:,}",
            f"{cell['arrived']:,}",
            f"{cell['lost']:,}{mark(report, scenario, sdk)}",
            f"{cell['twice']:,}",
            _known(cell),
            _seconds(cell),
            *([number(cell[extra])] if extra else []),
        ]
        for sdk, cell in cells
        if cell is not None
    ]
    return table(headers, rows)


def _opted_out(report: Result) -> str:
    cells = [(sdk, cell_of(report, "opt-out", sdk)) for sdk in sdks_of(report)]
    rows = [
        [CONTENDERS[sdk].title, "no opt-out in its documentation", "-", "-"]
        if cell is None
        else [
            CONTENDERS[sdk].title,
            f"`{CONTENDERS[sdk].opt_out_call}`",
            f"{cell['pending']:,}",
            f"{cell['leaked']:,}",
        ]
        for sdk, cell in cells
    ]
    return table(["", "the call", "events that waited", "arrived nevertheless"], rows)


def _exits(report: Result) -> str:
    titles = {
        "next-start": "refused, with its call",
        "exit-without-call": "refused, without a call",
        "exit-in-black-hole": "a black hole, with its call",
    }
    rows = [
        [
            CONTENDERS[sdk].title,
            f"`{CONTENDERS[sdk].end_call}`",
            *(_seconds(cell_of(report, name, sdk)) for name in _EXITS),
        ]
        for sdk in sdks_of(report)
    ]
    return table(["seconds", "its call", *(titles[name] for name in _EXITS)], rows)


def _setups(report: Result) -> str:
    """How each SDK was configured, and what it promises."""
    rows = [
        [
            CONTENDERS[sdk].title,
            report["versions"].get(CONTENDERS[sdk].package) or "-",
            CONTENDERS[sdk].keeps,
            CONTENDERS[sdk].not_default,
            f"`{CONTENDERS[sdk].count_api}`"
            if "(" in CONTENDERS[sdk].count_api or "." in CONTENDERS[sdk].count_api
            else CONTENDERS[sdk].count_api,
            CONTENDERS[sdk].promise,
        ]
        for sdk in sdks_of(report)
    ]
    headers = [
        "",
        "version",
        "events wait in",
        "not the default, apart from the address",
        "its own count of lost events",
        "what it promises",
    ]
    return table(headers, rows, has_figures=False)


def tables(report: Result) -> dict[str, str]:
    """Return the tables, by their names in the docs."""
    counted = [name for name in OVERVIEW if name != "opt-out"]
    return {
        "truth": _overview(report),
        **{f"truth-{name}": _details(report, name) for name in counted},
        "truth-opt-out": _opted_out(report),
        "truth-exits": _exits(report),
        "truth-setups": _setups(report),
    }


def main() -> int:
    """Measure, and print the tables."""
    commands = parser(__doc__, rounds=1)
    commands.add_argument(
        "--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="SCENARIO"
    )
    commands.add_argument(
        "--sdks", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME"
    )
    commands.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the picture into it")
    options = commands.parse_args()
    report = run_rounds(
        options,
        _NAME,
        lambda: list(_measure_all(options)),
        quick=options.quick,
        outage_seconds=6.0 if options.quick else OUTAGE,
        exit_limit_seconds=_EXIT_LIMIT,
        versions=versions(),
    )
    if options.plots:
        from benchmarks.plots import draw_truth  # needs matplotlib

        draw_truth({"machine": machine(), **report}, options.plots)
    return conclude(tables(report), report["results"])


if __name__ == "__main__":
    sys.exit(main())
