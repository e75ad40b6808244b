"""A power cut loses at most the last second.

Only data for which ``fdatasync`` or ``fsync`` has returned is on a disk for sure. Between the
library and the files stands a layer that copies each file at each such call. A power cut leaves
these copies, and any part of the later writes: the system may have written some pages by itself, or
half of one. A file whose name was not synced with its directory may be missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry._journal import segment
from redvsblue_telemetry._journal.directory import JournalDirectory
from redvsblue_telemetry.testing import RecordingServer
from tests.support.fault_proxy import FaultProxy
from tests.support.systems import not_on_windows

pytestmark = not_on_windows("files are synced otherwise")

PROMISE = 1.0  # seconds
PLAYED = 3.5  # seconds
EVENTS_A_SECOND = 1000
PAGE = 4096
CUTS = 10
IMAGES = 4  # that each cut may leave
MARGIN = 0.05  # seconds for the clocks of the test
TURNS = 3
PAUSE = 0.05  # seconds between two syncs of different rounds, at least


@dataclass
class Disk:
    """Watches the syncs of the files in a directory."""

    directory: Path
    synced: dict[int, bytes] = field(default_factory=dict)
    """By inode: the content that is on the disk for sure."""
    names: dict[int, set[str]] = field(default_factory=dict)
    """By inode: the names in a directory that are on the disk for sure."""
    longest: float = 0.0
    """Seconds that the longest round of syncs took: of all files with something new."""
    _round: tuple[float, float] = (0.0, 0.0)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "fsync", self._watched(os.fsync))
        monkeypatch.setattr(segment, "_sync_data", self._watched(segment._sync_data))

    def _watched(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def watched(descriptor: int) -> None:
            # Copied before the call: what is written during it may miss it.
            status = os.fstat(descriptor)
            is_directory = stat.S_ISDIR(status.st_mode)
            names = set(os.listdir(descriptor)) if is_directory else set()
            content = b"" if is_directory else os.pread(descriptor, status.st_size, 0)
            began = time.monotonic()
            sync(descriptor)
            with self._lock:
                ended, (first, last) = time.monotonic(), self._round
                self._round = (began if began - last > PAUSE else first, ended)
                self.longest = max(self.longest, ended - self._round[0])
                if is_directory:
                    self.names[status.st_ino] = names
                else:
                    self.synced[status.st_ino] = content

        return watched

    def cut(self) -> Cut:
        """Return the content that a power cut at this moment leaves: for sure, and perhaps."""
        with self._lock:
            at, synced = time.monotonic(), dict(self.synced)
            names = {inode: set(names) for inode, names in self.names.items()}
        files = {}
        for path in self.directory.rglob("*"):
            with contextlib.suppress(OSError):  # deleted meanwhile
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    is_named = all(
                        each.name in names.get(each.parent.stat().st_ino, ())
                        for each in (path, path.parent, self.directory)
                    )
                    content = synced.get(status.st_ino, b"")
                    name = path.relative_to(self.directory)
                    files[name] = (is_named, content, path.read_bytes())
        return Cut(at, time.monotonic(), files)


@dataclass
class Cut:
    """A power cut."""

    at: float
    copied_at: float
    """When all files had been copied: some events came meanwhile."""
    files: dict[Path, tuple[bool, bytes, bytes]]
    """Whether its name is on the disk for sure, its content there, and its content in memory."""
    delivered: set[int] = field(default_factory=set)

    def leave(self, directory: Path, chance: random.Random) -> None:
        """Write one of the states in which the disk may be."""
        share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for name, (is_named, synced, written) in self.files.items():
            if is_named or chance.random() < share:
                path = directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"".join(_pages(synced, written, share, chance)))


def _pages(synced: bytes, written: bytes, share: float, chance: random.Random) -> Iterator[bytes]:
    """Yield the pages of a file, of which a share was written since the sync, some in part."""
    size = len(synced) if chance.random() >= share else max(len(synced), len(written))
    for start in range(0, size, PAGE):
        end = min(start + PAGE, size)
        old = synced[start:end].ljust(end - start, b"\0")
        new = written[start:end].ljust(end - start, b"\0")
        if chance.random() >= share:
            yield old
        elif chance.random() < 0.2:
            part = chance.randrange(PAGE)
            yield new[:part] + old[part:]
        else:
            yield new


@dataclass
class Play:
    """Events at a steady rate, and power cuts at random moments."""

    cuts: list[Cut]
    returned_at: list[float]
    """When the emit of each event returned."""
    session_id: str
    slack: float
    """Seconds: the longest round of syncs, and how late this machine runs threads at the worst."""


def play(disk: Disk, telemetry: Telemetry, seed: int, delivered: Callable[[], set[int]]) -> Play:
    chance = random.Random(seed)
    returned_at: list[float] = []
    latest = 0.0
    is_over = threading.Event()

    def emit() -> None:
        nonlocal latest
        began = time.monotonic()
        while not is_over.is_set():
            due = int((time.monotonic() - began) * EVENTS_A_SECOND)
            while len(returned_at) < due:
                text = "x" * chance.randrange(300)
                telemetry.emit("steady", n=len(returned_at) + 1, text=text)
                returned_at.append(time.monotonic())
            planned = time.monotonic() + 0.005
            time.sleep(0.005)
            latest = max(latest, time.monotonic() - planned)

    emitter = threading.Thread(target=emit)
    moments = sorted(chance.uniform(0.5, PLAYED) for _ in range(CUTS))
    began = time.monotonic()
    emitter.start()
    cuts = []
    try:
        for moment in moments:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            arrived = delivered()
            cuts.append(disk.cut())
            cuts[-1].delivered = arrived
    finally:
        is_over.set()
        emitter.join()
    # The worker has several turns between two syncs, and each may be as late.
    slack = disk.longest + TURNS * latest + MARGIN
    return Play(cuts, returned_at, telemetry.session_id, slack)


def recovered(journal: Path, session_id: str) -> list[int]:
    """The numbers of the events in a journal, after a look at the events themselves."""
    numbers = []
    for run in JournalDirectory(journal).dead_runs():
        assert run.header.session_id == session_id
        while taken := run.take(100):
            for event, number in taken:
                assert json.loads(event.data)["n"] == number
                numbers.append(number)
        run.release()
    return numbers


def network(
    kind: str, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[], set[int]]]:
    """Return a URL, and a function that returns the numbers of the events that have arrived."""
    if kind == "a handshake without an answer":
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return f"ws://127.0.0.1:{listener.getsockname()[1]}/", set
    if kind == "a name look-up that hangs":
        is_over = threading.Event()
        stack.callback(is_over.set)

        def hang(*_: object, **__: object) -> None:
            is_over.wait(60)
            raise socket.gaierror(socket.EAI_NONAME, "no such name")

        monkeypatch.setattr(socket, "getaddrinfo", hang)
        return "ws://telemetry.invalid/", set
    server = stack.enter_context(RecordingServer(encodings=()))  # the proxy counts bytes of text

    def delivered() -> set[int]:
        return {event["seq"] for event in server.events}

    if kind == "a healthy one":
        return server.url, delivered
    proxy = stack.enter_context(FaultProxy(server.port, first_takes=30_000))  # then it stalls
    return proxy.url, delivered


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "a healthy one",
        "a handshake without an answer",
        "a name look-up that hangs",
        "a connection that stalls",
    ],
)
def test_at_most_the_last_second_is_lost_whatever_the_network_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    journal = tmp_path / "journal"
    disk = Disk(journal)
    disk.watch(monkeypatch)
    with contextlib.ExitStack() as stack:
        url, delivered = network(kind, stack, monkeypatch)
        settings = TelemetrySettings(enabled=True, url=url, journal=journal, drain_interval=0.2)
        telemetry = Telemetry(settings).start()
        stack.callback(telemetry.stop, 0)
        game = play(disk, telemetry, seed, delivered)
    chance = random.Random(seed)
    for number, cut in enumerate(game.cuts):
        emitted = sum(at <= cut.copied_at for at in game.returned_at) + 1  # one was returning
        safe = sum(at <= cut.at - PROMISE - game.slack for at in game.returned_at)
        for image in range(IMAGES):
            directory = tmp_path / f"{number}-{image}"
            directory.mkdir()
            cut.leave(directory, chance)
            numbers = recovered(directory, game.session_id)
            about = f"seed {seed}, cut {number}, image {image}"
            assert numbers == sorted(set(numbers)), about
            assert set(numbers) <= set(range(1, emitted + 1)), about
            lost = set(range(1, safe + 1)) - set(numbers) - cut.delivered
            assert lost == set(), about
            shutil.rmtree(directory)
    assert sum(at <= game.cuts[-1].at - PROMISE - game.slack for at in game.returned_at) > 500
