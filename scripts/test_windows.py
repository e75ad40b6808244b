"""Runs the tests with the CPython for Windows that windows_python.sh made, under wine.

    python scripts/test_windows.py FOLDER [FILE OR DIRECTORY OF TESTS]… [-- ARGUMENT OF PYTEST…]

Each file of tests runs in another process, and those that run side by side have a wine each. A
wine's server is one thread, and when it dies, each Python in that wine ends. Wine 8's server dies
now and then, by an assertion about sockets. A file whose Python ended without a word is run again,
and named at the end.

Prints the results by directory and the reasons of skips, as docs/windows-and-macos.md has them.
"""

from __future__ import annotations

import ast
import os
import queue
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

PROJECT = Path(__file__).resolve().parent.parent
# Debian's `wine` is a script that prints a warning if the 32-bit wine is not installed.
WINE = next(filter(shutil.which, ("/usr/lib/wine/wine64", "wine64", "wine")), "wine")
ATTEMPTS = 5
ENDED = "ended by this program"
OWN_FAULTS = ("+ Timeout +", "Unhandled")  # a test that hangs, a Python that crashes
TIMEOUT = 1200  # seconds for one file; a test that hangs ends its Python after 120
MOST_SHOWN = 20_000  # characters of what a file with a failure has written
REGISTRY = {
    # By default, wine 8 is a Windows 7, in which pipes keep the empty messages that wake a
    # ProcessPoolExecutor.
    (r"HKCU\Software\Wine", "Version"): "win10",
    # No program of this name: a Python that crashes, as some tests want, ends without a debugger.
    (r"HKLM\Software\Microsoft\Windows NT\CurrentVersion\AeDebug", "Debugger"): "none",
}
OUTCOMES = ("passed", "skipped", "failed")
NO_TESTS = 5  # pytest's exit status where all of a file is skipped, or nothing was chosen


@dataclass
class Results:
    """What became of the tests of one file."""

    path: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    output: str = ""
    deaths: int = 0  # of its Python, without a word

    def read(self, report: Path) -> None:
        for case in ElementTree.parse(report).iter("testcase"):
            skipped = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                self.fail(f"{self.path}::{case.get('name')}")
            elif skipped is not None:
                self.outcomes["skipped"] += 1
                self.reasons[reason_of(skipped)] += 1
            else:
                self.outcomes["passed"] += 1

    def fail(self, what: str) -> None:
        self.outcomes["failed"] += 1
        self.failures.append(what)


def reason_of(skipped: ElementTree.Element) -> str:
    """Return why a test was skipped, or all of a file: that is in the text, as a tuple."""
    message = str(skipped.get("message"))
    if message == "collection skipped" and skipped.text:
        message = ast.literal_eval(skipped.text)[-1]
    return message.removeprefix("Skipped: ")


class Wine:
    """A drive C:, a registry, and a server while a program runs."""

    def __init__(self, prefix: Path) -> None:
        self._environment = {**os.environ, "WINEDEBUG": "-all", "WINEPREFIX": str(prefix)}
        if not prefix.exists():
            for (key, name), value in REGISTRY.items():
                if self.run("reg", "add", key, "/v", name, "/d", value, "/f")[0]:
                    raise SystemExit(f"wine can't make {prefix}")

    def run(self, *command: str) -> tuple[int, str]:
        """Run a program; return its exit status and what it wrote."""
        process = subprocess.Popen(
            [WINE, *command],
            env=self._environment,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,  # a Python under wine needs valid standard streams
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        try:
            output = process.communicate(timeout=TIMEOUT)[0]
        except subprocess.TimeoutExpired:
            self.end()
            output = f"{process.communicate()[0]}\n{ENDED} after {TIMEOUT} s"
        return process.returncode, output

    def end(self) -> None:
        """End the server, and with it all programs, and wait until it has gone."""
        for option in ("-k", "-w"):
            subprocess.run(["wineserver", option], env=self._environment, check=False)


def run_file(wine: Wine, folder: Path, path: Path, arguments: Sequence[str]) -> Results:
    report = folder / "reports" / f"{path.as_posix().replace('/', '.')}.xml"
    report.parent.mkdir(exist_ok=True)
    results = Results(path)
    python = ("python.exe", "-m", "pytest", "-p", "no:xdist", f"--junitxml=Z:{report}")
    while True:
        report.unlink(missing_ok=True)
        status, results.output = wine.run(
            str(folder / "python" / python[0]), *python[1:], *arguments, path.as_posix()
        )
        if report.exists() or any(sign in results.output for sign in (ENDED, *OWN_FAULTS)):
            break
        results.deaths += 1
        wine.end()
        if results.deaths == ATTEMPTS:
            break
    if report.exists():
        results.read(report)
    if status not in (0, NO_TESTS) and not results.failures:
        results.fail(f"{path}: Python ended with status {status}")
    return results


def run_files(folder: Path, paths: Sequence[Path], arguments: Sequence[str]) -> list[Results]:
    count = min(len(paths), 2 * (os.cpu_count() or 1))  # more than cores: many tests wait
    wines = [Wine(folder / f"wine-{number}") for number in range(count)]
    free: queue.SimpleQueue[Wine] = queue.SimpleQueue()
    for wine in wines:
        free.put(wine)

    def run(path: Path) -> Results:
        wine = free.get()
        try:
            return run_file(wine, folder, path, arguments)
        finally:
            free.put(wine)

    done = []
    try:
        with ThreadPoolExecutor(count) as pool:
            for future in as_completed([pool.submit(run, path) for path in paths]):
                results = future.result()
                done.append(results)
                numbers = ", ".join(f"{results.outcomes[name]} {name}" for name in OUTCOMES)
                print(f"[{len(done)}/{len(paths)}] {results.path}: {numbers}", flush=True)
                if results.failures:
                    print(results.output[-MOST_SHOWN:], flush=True)
    finally:
        for wine in wines:
            wine.end()
    return done


def show(done: Sequence[Results]) -> None:
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    for results in done:
        rows["/".join(results.path.parent.parts[:2])] += results.outcomes
        reasons += results.reasons
    print("\n| tests | passed | skipped | failed |\n| --- | ---: | ---: | ---: |")
    for name, row in [*sorted(rows.items()), ("all", sum(rows.values(), Counter()))]:
        print(f"| `{name}` | {' | '.join(f'{row[outcome]:,}' for outcome in OUTCOMES)} |")
    print("\n| reason of a skip | tests |\n| --- | ---: |")
    for reason, count in sorted(reasons.items()):
        print(f"| {reason} | {count:,} |")
    print()
    for results in done:
        if results.deaths:
            print(f"run again: {results.path}, whose Python ended {results.deaths}x without a word")
        for failure in results.failures:
            print(f"FAILED {failure}")


def main(arguments: Sequence[str]) -> int:
    folder = Path(arguments[0]).resolve()
    end = arguments.index("--") if "--" in arguments else len(arguments)
    paths = [
        path
        for root in map(Path, arguments[1:end] or ["tests"])
        for path in ([root] if root.is_file() else root.rglob("test_*.py"))
        if "cluster" not in path.parts  # the parts of a cluster run on servers with Linux
    ]
    paths.sort(key=lambda path: path.stat().st_size, reverse=True)  # the longest first
    done = run_files(folder, paths, arguments[end + 1 :])
    show(done)
    return any(results.failures for results in done)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
