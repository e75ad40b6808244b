"""Games that keep a journal: each is a separate process, which may end badly."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import REPOSITORY
from tests.support.collector import REFUSING_PORT, RunningCollector
from tests.support.command import environment
from tests.support.kills import KILLED
from tests.support.left_behind import left_behind

PATIENCE = 100.0  # seconds for a game that takes a few, on a machine that has other things to do

# A game logs to its standard error, in the lines that `Ended` sorts.
GAME = """
import json, logging, os, signal, sys, threading, time
logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
from redvsblue_telemetry import *
from tests.support.kills import die
url, journal = sys.argv[1:3]
settings = dict(enabled=True, url=url, journal=journal)
settings.update(backoff_base=0.05, backoff_max=0.1, drain_interval=0.02)
settings.update(json.loads(os.environ.get("SETTINGS", "{}")))

def say(*words):
    # In one call: a forked child may say something at the same time.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, telemetry.stats()
        time.sleep(0.005)

def found(directory=journal):
    "Return all that is in the journal's directory."
    return sorted(
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, folders, names in os.walk(directory) for name in folders + names
    )

def emit(count, text="x" * 100, type="played", each=500):
    "Emit as fast as a worker can follow."
    for number in range(1, count + 1):
        telemetry.emit(type, n=number, text=text)
        if number % each == 0:
            assert telemetry.flush(30), telemetry.stats()

def balance():
    "Check that the ledger is true, and return it."
    stats = telemetry.stats()
    here = stats.delivered + stats.dropped + stats.buffered + stats.in_flight
    assert stats.emitted + stats.recovered == here, stats
    return stats
"""
PLAY = GAME + "telemetry = start_telemetry(**settings)\n"
# Without a network, nothing leaves the journal; and without a server, nothing would, either.
OFFLINE = (
    GAME
    + """
telemetry = Telemetry(TelemetrySettings(**settings))
telemetry.set_online(False)
telemetry.start()
"""
)


class Ended:
    """A game that has ended: its exit code, and the lines that it printed and logged."""

    def __init__(self, code: int, printed: str, errors: str) -> None:
        self.code = code
        self.printed = printed.splitlines()
        self.log = errors.splitlines()

    @property
    def troubles(self) -> list[str]:
        """The lines that are more than information."""
        return [line for line in self.log if not line.startswith(("INFO ", "DEBUG "))]

    def __repr__(self) -> str:
        lines = [f"exit code {self.code}", *self.printed, "--", *self.log]
        return "\n".join(line[:2000] for line in lines[:100])


class Game:
    """A game that runs; a context manager, at whose end it is killed if it still runs."""

    def __init__(
        self,
        script: str,
        *arguments: object,
        before: Sequence[str] = (),
        cwd: Path | None = None,
        variables: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        # A file, since a pipe that nobody reads would stop a game that logs a lot.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `__exit__`)
        self.process = subprocess.Popen(
            [*before, sys.executable, "-W", "ignore:This process", "-c", script]
            + [str(argument) for argument in arguments],
            env=environment(is_measured=False, SETTINGS=json.dumps(settings), **(variables or {})),
            cwd=cwd or REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def line(self) -> str:
        """Return the next line that the game prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def expect(self, line: str) -> None:
        assert (found := self.line()) == line, f"{found}: {self.end()}"

    def tell(self, line: str = "") -> None:
        """Have the game read a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def kill(self) -> Ended:
        self.process.kill()
        return self.end()

    def end(self, patience: float = PATIENCE) -> Ended:
        """Wait for the end of the game."""
        try:
            out, _ = self.process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            pytest.fail(f"the game hangs; it logged:\n{self._logged()}")
        return Ended(self.process.returncode, out, self._logged())

    def _logged(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def __enter__(self) -> Game:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with self.process:
            pass
        self._errors.close()


def run_game(script: str, *arguments: object, **options: Any) -> Ended:
    """Run a game to its end; the options are those of :class:`Game`."""
    with Game(script, *arguments, **options) as game:
        return game.end()


def nowhere() -> str:
    """Return a URL at which there is no server."""
    return f"ws://127.0.0.1:{REFUSING_PORT}/telemetry"


DYING = (
    OFFLINE
    + """
for number in range(1, int(sys.argv[3]) + 1):
    telemetry.emit("left", n=number, text="x" * 100)
say(telemetry.session_id)
die()
"""
)


def leave_behind(journal: Path, count: int = 100, **options: Any) -> str:
    """Leave a run of a game that died with undelivered events, and return its session."""
    if options:
        return _die(journal, count, **options)
    return left_behind(journal, ("left", count), lambda journal: _die(journal, count))


def _die(journal: Path, count: int, **options: Any) -> str:
    done = run_game(DYING, nowhere(), journal, count, **options)
    assert done.code == KILLED, str(done)
    assert done.troubles == [], str(done)
    return "\n".join(done.printed)


def contents(directory: Path) -> list[str]:
    """Return all that is in a directory, at any depth."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


def numbers(collector: RunningCollector, session: str) -> list[int]:
    """Return the sequence numbers of a session's events, in the order of arrival."""
    return all_numbers(collector).get(session, [])


def all_numbers(collector: RunningCollector) -> dict[str, list[int]]:
    """Return the sequence numbers of each session's events, in the order of arrival."""
    found: dict[str, list[int]] = {}
    for event in collector.events:
        assert event.session_id is not None
        assert event.seq is not None
        found.setdefault(event.session_id, []).append(event.seq)
    return found


def all_of(count: int) -> list[int]:
    """Return the sequence numbers of a session from which nothing is missing."""
    return list(range(1, count + 1))


class Disk:
    """A small file system, which the games of one test have, and nobody else sees."""

    def __init__(self, holder: subprocess.Popen[str], path: Path, is_root: bool) -> None:
        self.path = path
        """Where it is for a game."""
        user = () if is_root else ("--user", "--preserve-credentials")
        self.before = ["nsenter", "--target", str(holder.pid), "--mount", *user, "--"]
        """What a game has to be started with."""
        self.outside = Path(f"/proc/{holder.pid}/root{path}")
        """Where it is for the test."""

    def fill(self, leave: int = 0, name: str = "filling") -> None:
        """Fill it up, but for some bytes."""
        self.free(name)
        is_full = False
        while not is_full:  # a game may take some of the room at this moment
            room = os.statvfs(self.outside)
            size = room.f_bavail * room.f_frsize - leave
            with contextlib.suppress(OSError), (self.outside / name).open("ab") as file:
                if size > 0:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
                is_full = True

    def free(self, name: str = "filling") -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.outside / name).unlink()


@contextlib.contextmanager
def disk(tmp_path: Path, kind: str = "tmpfs", options: str = "size=4m") -> Iterator[Disk]:
    """A small file system that only the game's mount namespace has."""
    if any(shutil.which(tool) is None for tool in ("unshare", "nsenter", "mount")):
        pytest.skip("needs unshare, nsenter and mount")
    is_root = os.geteuid() == 0
    user = () if is_root else ("--user", "--map-root-user")
    path = tmp_path / "disk"
    path.mkdir()
    script = f"mount -t {kind} -o {options},mode=0700 none '{path}' && echo mounted && exec cat"
    holder = subprocess.Popen(
        ["unshare", *user, "--mount", "--", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with holder:
        try:
            assert holder.stdout is not None
            if holder.stdout.readline() != "mounted\n":
                # A container may forbid it to everybody, and that is not a missing tool.
                pytest.skip(f"machine: may not mount: {holder.communicate()[1].strip()}")
            yield Disk(holder, path, is_root)
        finally:
            holder.kill()


def without_override() -> list[str]:
    """Return what has a game obey the modes of files, which root doesn't."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
