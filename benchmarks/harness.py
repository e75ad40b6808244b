"""Shared by the benchmarks: measurements and servers in fresh processes, medians, tables, JSON.

A *child* is one measurement in a fresh process: a benchmark's module, started with ``--child`` and
a task as JSON. The last line that it prints is its result as JSON. Every child is bounded by a
timeout; one that fails gives ``{"failure": "..."}``, and the run goes on. A *server* is a module
that prints one line of JSON with its port, and ends when its standard input is closed, so it never
outlives the benchmark.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import faulthandler
import http.client
import importlib.metadata
import json
import math
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]
"""A measurement, or a part of one, as it is written to JSON."""

ROOT = Path(__file__).resolve().parent.parent
EVENT_TYPE = "ship_hit"
JOURNAL_PREFIX = "redvsblue-journal-"
"""How the names of temporary folders with a journal begin."""
_BODY_OVERHEAD = len(b'{"type":"ship_hit","timestamp":1700000000000,"data":}')
_PACKAGES = ("redvsblue-telemetry", "websocket-client", "msgspec", "attrs", "tenacity")
_SERVER_STOP_TIMEOUT = 5.0  # seconds


# Events.


class Failure(Exception):  # noqa: N818 (of the library, not of this program)
    """A promise was broken."""


def event_data(size: int) -> dict[str, Any]:
    """Return six fields that make type, timestamp and data ``size`` bytes of JSON.

    On the wire an event is larger: the session's id, its own id and its number come first.
    """
    data: dict[str, Any] = {
        "shipId": "red-3",
        "by": "blue-1",
        "x": 123.25,
        "y": -45.5,
        "shield": True,
        "note": "",
    }
    padding = size - _BODY_OVERHEAD - len(json.dumps(data, separators=(",", ":")))
    if padding < 0:
        raise ValueError(f"an event has at least {size - padding} bytes, not {size}")
    data["note"] = "n" * padding
    return data


# Children.


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return the bytes with a few blind changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 2:
            del changed[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            changed[at:at] = changed[at : at + rng.randrange(1, 40)]
        else:
            del changed[at:]
    return bytes(changed)


def environment(**more: str) -> dict[str, str]:
    """Return the environment for a child: this one, without settings for telemetry and proxies.

    ``PYTHONDONTWRITEBYTECODE`` is left out too: with it, each import would compile its modules
    again, unless an installer had compiled them.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("REDVSBLUE_")
        and not name.lower().endswith("_proxy")
        and name not in ("DO_NOT_TRACK", "PYTHONDONTWRITEBYTECODE")
    }
    return kept | more


def run_bounded(
    command: Sequence[str], timeout: float, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; at the timeout, kill it and the processes that it started.

    Args:
        command: the program and its arguments.
        timeout: seconds.
        more: variables for its environment.

    Raises:
        subprocess.TimeoutExpired: the time ran out.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def run_child(module: str, task: Result, timeout: float) -> Result:
    """Run one measurement in a fresh process; return its result, or ``{"failure": ...}``."""
    command = [sys.executable, "-m", module, "--child", json.dumps({**task, "timeout": timeout})]
    try:
        done = run_bounded(command, timeout + 10)
    except subprocess.TimeoutExpired:
        return {"failure": f"not done within {timeout + 10:g} s"}
    lines = done.stdout.strip().splitlines()
    try:
        if done.returncode == 0:
            result: Result = json.loads(lines[-1])
            return result
    except (IndexError, ValueError):
        pass
    return {"failure": f"exit code {done.returncode}: {done.stderr.strip()[-600:]}"}


def answer(task: str, kinds: Mapping[str, Callable[[Result], Result]]) -> int:
    """Do the task of a child and print its result. A child that hangs ends itself."""
    parsed: Result = json.loads(task)
    faulthandler.dump_traceback_later(parsed["timeout"], exit=True)
    print(json.dumps(kinds[parsed["kind"]](parsed)), flush=True)
    faulthandler.cancel_dump_traceback_later()
    return 0


def wait_for_state(telemetry: Any, state: str, timeout: float = 20.0) -> None:
    """Wait, in a child, until the connection is in a state, such as ``"connected"``."""
    deadline = time.monotonic() + timeout
    while telemetry.stats().state.value != state:
        if time.monotonic() > deadline:
            raise TimeoutError(f"telemetry is not {state}: {telemetry.stats()}")
        time.sleep(0.002)


# Servers.


class Server:
    """A module that serves in a separate process; a context manager.

    Args:
        module: its name, such as ``benchmarks.sink``.
        arguments: for its command line.
        tree: the directory from which the module and the package come; by default, this one.
    """

    def __init__(self, module: str, *arguments: object, tree: Path = ROOT) -> None:
        self._tree = tree
        self._command = [sys.executable, "-m", module, *map(str, arguments)]
        self.hello: Result = {}
        """The line of JSON that it printed at its start."""

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            self._command,
            cwd=self._tree,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        watchdog = threading.Timer(20, self._process.kill)
        watchdog.start()
        try:
            self.hello = json.loads(self._process.stdout.readline())
        except ValueError:
            self.__exit__()
            raise RuntimeError(f"{' '.join(self._command)} did not start") from None
        finally:
            watchdog.cancel()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_SERVER_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, question: str) -> Any:
        """Write a line to its standard input, and return the line of JSON that it answers with."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(question, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def wait(self, timeout: float = _SERVER_STOP_TIMEOUT) -> None:
        """Wait until it has ended by itself, at most this long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.hello["port"]
        return port

    @property
    def url(self) -> str:
        """The URL to give to ``start_telemetry``."""
        scheme = "wss" if "ca" in self.hello else "ws"
        return f"{scheme}://127.0.0.1:{self.port}/telemetry"


def ask_sink(url: str, command: str = "stats") -> Result:
    """Ask a sink without TLS for its counts (``stats``), or to cut its connections (``cut``)."""
    host = url.partition("://")[2].partition("/")[0]
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request("GET", f"/control/{command}")
        counts: Result = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return counts


def introduce(hello: Result) -> None:
    """Print where this server listens; end when the process that started it does."""
    print(json.dumps(hello), flush=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


# Numbers.


def median(results: Sequence[Result], name: str) -> float | None:
    """Return the median of a figure over the rounds that have it."""
    figures = [result[name] for result in results if result.get(name) is not None]
    return statistics.median(figures) if figures else None


def grouped(results: Sequence[Result], *names: str) -> dict[tuple[Any, ...], list[Result]]:
    """Group the results by their values under these names, in the order of their first."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result[name] for name in names), []).append(result)
    return groups


def summary(figures: Sequence[float | None]) -> Result:
    """Return the median and the range of the rounds that have the figure."""
    known = [figure for figure in figures if figure is not None]
    if not known:
        return {"median": None, "min": None, "max": None, "rounds": 0}
    return {
        "median": statistics.median(known),
        "min": min(known),
        "max": max(known),
        "rounds": len(known),
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values, by the nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def resident_bytes(process: int | str = "self") -> int | None:
    """Return the memory of a process that is in RAM; None where that isn't Linux."""
    if sys.platform != "linux":
        return None
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Return the most memory that this process ever had in RAM; 0 where that isn't known."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def open_descriptors() -> int | None:
    """Return how many descriptors this process has open; None without /proc."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # the one that lists them
    except OSError:
        return None


# Output.


def number(value: float | None) -> str:
    """Format a figure with three significant digits and at most three decimals."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    decimals = min(3, max(0, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def spread(figures: Result) -> str:
    """Format the median, with the range of the rounds in brackets if they differ."""
    middle, least, most = (number(figures[name]) for name in ("median", "min", "max"))
    return middle if least == most else f"{middle} ({least} to {most})"


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, has_figures: bool = True
) -> str:
    """Return an aligned table in Markdown; figures are aligned to the right."""
    widths = [max(3, *map(len, column)) for column in zip(headers, *rows, strict=True)]
    rules = [
        "-" * widths[0],
        *("-" * (width - has_figures) + ":" * has_figures for width in widths[1:]),
    ]
    align = str.rjust if has_figures else str.ljust
    return "\n".join(
        f"| {' | '.join([row[0].ljust(widths[0]), *map(align, row[1:], widths[1:])])} |"
        for row in (headers, rules, *rows)
    )


def report_lines(report: Result) -> Iterator[str]:
    """Yield a line for each figure of a run that looks for problems, and for each problem."""
    rows: Result = {}
    for name, value in report.items():
        if isinstance(value, dict):
            rows |= {f"{name}: {key}": count for key, count in sorted(value.items())}
        elif not isinstance(value, list):
            rows[name] = round(value, 1) if isinstance(value, float) else value
    width = max(map(len, rows))
    for name, value in rows.items():
        yield f"{name:<{width}}  {value}"
    yield from (f"PROBLEM: {problem}" for problem in report["problems"])


def progress(text: str) -> None:
    """Print a step of the run to standard error, apart from the tables."""
    print(f"  {text}", file=sys.stderr, flush=True)


# A benchmark's command.


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--rounds", type=int, default=rounds, help="default: %(default)s")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def run_rounds(
    options: argparse.Namespace,
    name: str,
    measure: Callable[[], Sequence[Result]],
    **conditions: Any,
) -> Result:
    """Measure in rounds, one with ``--quick``; return the report.

    It is written after each round, so a run that is interrupted keeps the rounds before.
    """
    rounds = 1 if options.quick else options.rounds
    report: Result = {"benchmark": name, "rounds": 0, **conditions, "results": []}
    for round_number in range(1, rounds + 1):
        progress(f"{name}: round {round_number} of {rounds}")
        report["results"] += [{"round": round_number} | result for result in measure()]
        report["rounds"] = round_number
        save(options.json, name, report)
    return report


def conclude(tables: Mapping[str, str], results: Sequence[Result]) -> int:
    """Print the tables and the failures; return the exit code, 1 if anything failed."""
    for text in tables.values():
        print(f"\n{text}")
    failed = failures(results)
    for failure in failed:
        print(f"failure: {failure}")
    return 1 if failed else 0


def failures(results: Sequence[Result]) -> list[str]:
    """Return the failures, each once."""
    return sorted({str(result["failure"]) for result in results if "failure" in result})


_DETAILS = ("histogram", "samples", "worst")  # for a plot, or to find the cause


def save(path: Path | None, name: str, results: Result) -> None:
    """Write a summary of the results, with the machine that they were measured on.

    Each measurement is one line, so a comparison of two runs can be read. Details of a single
    measurement are left out, and figures are rounded to eight digits.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _summarized({"benchmark": name, "machine": machine()} | results))


def _summarized(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _summarized(item)
            for key, item in value.items()
            if not (key in _DETAILS and isinstance(item, dict | list))
        }
    if isinstance(value, list):
        return [_summarized(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def write_json(path: Path, report: Result) -> None:
    """Write a report with a line for each entry, and for each measurement in a list."""
    entries = []
    for key, value in report.items():
        text = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        entries.append(f" {json.dumps(key)}: {text}")
    path.write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")


def machine() -> Result:
    """Return the machine that the figures were measured on, and how busy it was."""
    return {
        "python": sys.version.split()[0],
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "finished_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "packages": {name: package_version(name) for name in _PACKAGES},
    }


def package_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None
