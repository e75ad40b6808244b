"""A collector that is left running: it deletes under load, and its copies are whole."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry.collector.storage.upkeep import Keep
from tests.collector.storage.consistency import contradictions
from tests.support.collector import RunningCollector, collector_running
from tests.support.command import invoke_command, run_command, running_command
from tests.support.ports import own_port
from tests.support.wait import PATIENCE, wait_until

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = pytest.mark.timeout(300)  # the longest takes 40 s, if the machine has little to do


class Game:
    """A game that emits without a pause until it is stopped."""

    def __init__(self, url: str, pause: float = 0.001) -> None:
        settings = TelemetrySettings(
            enabled=True, url=url, capacity=1_000_000, drain_interval=0.01, backoff_base=0.02
        )
        self.telemetry = Telemetry(settings).start()
        self.made = 0
        self._pause = pause
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        while not self._is_over.wait(self._pause):
            self.made += 10
            for number in range(10):
                self.telemetry.emit(("shot", "hit")[number % 2], {"text": "x" * 200})

    def finish(self) -> None:
        """End it; every event has to be acknowledged."""
        self._is_over.set()
        self._thread.join()
        self.telemetry.flush(120)
        self.telemetry.stop(1)
        stats = self.telemetry.stats()
        assert (stats.delivered, stats.dropped, stats.buffered) == (self.made, 0, 0)


@contextlib.contextmanager
def playing(url: str, games: int, pause: float = 0.001) -> Iterator[list[Game]]:
    with contextlib.ExitStack() as stack:
        started = [Game(url, pause) for _ in range(games)]
        for game in started:
            stack.callback(game.finish)
        yield started


def command_of_docs(start: str, db: Path, copy: Path) -> list[str]:
    """A command of the documentation, with the names of other files."""
    text = (DOCS / "collector.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"python -c '{start}")]
    names = {"telemetry-copy.sqlite3": copy.as_posix(), "telemetry.sqlite3": db.as_posix()}
    found = shlex.split(re.sub("|".join(names), lambda match: names[match[0]], line))
    return [sys.executable, *found[1:]]


# Backups.


def test_backup_under_load_is_whole_and_can_be_restored(tmp_path: Path) -> None:
    db, copy = tmp_path / "telemetry.sqlite3", tmp_path / "copy.sqlite3"
    with collector_running(db=db) as collector, playing(collector.url, 2) as games:
        assert wait_until(lambda: collector.stats().events > 2000)
        acknowledged = [game.telemetry.stats().delivered for game in games]
        start = 'import sqlite3; sqlite3.connect("telemetry.sqlite3").execute'
        subprocess.run(command_of_docs(start, db, copy), check=True, timeout=100)
        assert wait_until(lambda: collector.stats().events > sum(acknowledged))

    assert contradictions(copy) == {}
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        runs = connection.execute(
            "SELECT session_id, first, last, (SELECT count(*) FROM runs AS other "
            "WHERE other.session = runs.session) FROM sessions JOIN runs ON session = key"
        ).fetchall()
    found = {session: last for session, first, last, count in runs if (first, count) == (1, 1)}
    for game, count in zip(games, acknowledged, strict=True):
        assert found[game.telemetry.session_id] >= count
    assert invoke_command("prove", "--db", copy).exit_code == 0

    for each in db.parent.glob("telemetry.sqlite3*"):
        each.unlink()
    shutil.copy(copy, db)
    with collector_running(db=db) as collector:
        assert collector.stats().events == sum(found.values())


def test_file_of_an_older_release_is_shrunk_once(tmp_path: Path) -> None:
    db = tmp_path / "telemetry.sqlite3"
    script = Path(__file__).parent / "storage" / "version_2.sql"
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.executescript(script.read_text("utf-8"))
    start = "import sqlite3; c = sqlite3.connect"
    with collector_running(db=db):
        pass
    subprocess.run(command_of_docs(start, db, db), check=True, timeout=100)
    with contextlib.closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with collector_running(db=db) as collector:
        assert collector.stats().events == 5


# Deleting under load.


def test_session_that_still_sends_stays_exact_while_its_events_are_deleted(tmp_path: Path) -> None:
    db = tmp_path / "telemetry.sqlite3"
    # Without a general time, the session stays, however long the game has to wait for its turn.
    keep = Keep(by_type={"shot": 0.5, "hit": 0.5})
    with collector_running(db=db, keep=keep) as collector:
        with playing(collector.url, 1, 0.01) as (game,):
            assert wait_until(lambda: deleted(collector) > 300, 3 * PATIENCE)
            (session,) = collector.sessions
            assert (session.missing, session.repeats, session.connected) == (0, 0, True)
        (session,) = collector.sessions
        assert (session.events, session.missing) == (game.made, 0)
        assert wait_until(lambda: deleted(collector) == game.made)
    assert contradictions(db) == {}


def deleted(collector: RunningCollector) -> int:
    return sum(session.deleted for session in collector.sessions)


def size_of(folder: Path) -> int:
    total = 0
    for each in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # SQLite has deleted a journal
            total += each.stat().st_size
    return total


@pytest.mark.slow
def test_collector_under_load_stays_within_its_limits(tmp_path: Path) -> None:
    db, limit = tmp_path / "telemetry.sqlite3", 100_000_000
    port = own_port()
    rules = ("--keep", "4s", "--keep", "hit=2s", "--max-bytes", "100MB")
    arguments = ("collect", "--port", port, "--db", db, *rules)
    sizes = []
    with running_command(*arguments) as collector:
        collector.wait_for("Press Ctrl-C to stop.\n")
        with playing(f"ws://127.0.0.1:{port}/telemetry", 3, 0.006):
            end = time.monotonic() + 12
            while time.monotonic() < end:
                assert collector.process.poll() is None
                sizes.append(size_of(tmp_path))
                time.sleep(0.1)
            proof = run_command("prove", "--db", db)
        with contextlib.closing(sqlite3.connect(db)) as connection:
            (oldest, counted) = connection.execute(
                "SELECT min(received), sum(deleted) FROM events, sessions LIMIT 1"
            ).fetchone()
    assert max(sizes) <= limit
    assert proof.returncode == 0, proof.stdout
    assert "failed" not in proof.stdout.replace("0 failed", "")
    assert counted > 0
    assert oldest is None or time.time() * 1000 - oldest < 60_000
    assert contradictions(db) == {}
