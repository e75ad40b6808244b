"""What was acknowledged stays, and nothing else is lost: whatever ends the collector, or stops it.

Each collector is a process here, as it is for its users, and so can be killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from command_process import Running, needs_posix, run_command, running_command
from running import collector_running
from waiting_for import wait_until
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from redvsblue_telemetry import ConnectionState, Telemetry, TelemetrySettings
from redvsblue_telemetry.collector.database import Database

pytestmark = needs_posix

PATIENCE = 30.0  # seconds for what takes one, unless the machine is loaded
KILLS = 20
UNABLE = "nothing can be stored, so nothing is acknowledged: "
ABLE_AGAIN = "events are being stored again"


# What is sent.


def data_of(number: int) -> dict[str, Any]:
    """The data of the event with this number. Any two that are mixed up differ."""
    return {"number": number, "text": "ü" * (number % 50)}


class Game:
    """A game that emits without a pause, in a thread of its own."""

    def __init__(self, url: str) -> None:
        settings = TelemetrySettings(
            enabled=True,
            url=url,
            batch_size=10,
            drain_interval=0.005,
            capacity=1_000_000,
            backoff_base=0.02,
            backoff_max=0.1,
        )
        self.telemetry = Telemetry(settings).start()
        self.session_id = self.telemetry.session_id
        self.made = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        while not self._is_over.wait(0.002):
            self.made += 1
            self.telemetry.emit("shot", data_of(self.made))

    @property
    def acknowledged(self) -> int:
        """The events up to this number are. They are sent in order, so their number is enough."""
        return self.telemetry.stats().delivered

    @property
    def unconfirmed(self) -> int:
        """How many are sent, and not acknowledged."""
        return self.telemetry.stats().in_flight

    @property
    def is_connected(self) -> bool:
        return self.telemetry.stats().state is ConnectionState.CONNECTED

    def pause(self) -> None:
        """Emit no more."""
        self._is_over.set()
        self._thread.join()

    def finish(self) -> bool:
        """Emit no more, and deliver what there is; whether all of it is delivered."""
        self.pause()
        return self.telemetry.flush(PATIENCE)

    def close(self) -> None:
        self.pause()
        self.telemetry.stop(timeout=0.1)


class Witness:
    """A client without the SDK, which writes down what each ack covers."""

    session_id = "witness"
    _UNCONFIRMED = 100  # events; then it waits for an ack

    def __init__(self, url: str) -> None:
        self._url = url
        self.made = 0
        self.acks: list[range] = []
        """The numbers of the events that each ack was the first to cover."""
        self.is_connected = False
        self.close_code: int | None = None
        self._is_over = threading.Event()
        self._is_cut = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def acknowledged(self) -> int:
        """The events up to this number are."""
        return self.acks[-1].stop - 1 if self.acks else 0

    @property
    def unconfirmed(self) -> int:
        """How many are sent, and not acknowledged."""
        return self.made - self.acknowledged

    def _run(self) -> None:
        while not (self._is_cut.wait(0.01) or (self._is_over.is_set() and not self.unconfirmed)):
            # Nobody listens, or whoever does is killed in the middle of the handshake.
            with contextlib.suppress(OSError, EOFError, InvalidHandshake):
                with connected(self._url) as websocket:
                    self.is_connected = True
                    try:
                        self._converse(websocket)
                    except ConnectionClosed:
                        self.close_code = websocket.protocol.close_code
                    finally:
                        self.is_connected = False

    def _converse(self, websocket: ClientConnection) -> None:
        """Send what is not acknowledged, in other messages than before, and then what is new."""
        sent = told = self.acknowledged
        ends: list[int] = []  # the number of the last event of each message
        while not self._is_cut.is_set():
            with contextlib.suppress(ConnectionClosed):  # there may be acks to be read all the same
                while (last := self._end_of_message(sent, told)) > sent:
                    self.made = max(self.made, last)
                    websocket.send(message(self.session_id, *range(sent + 1, last + 1)))
                    sent = last
                    ends.append(sent)
            if told == self.made:
                return  # it is over, and all is acknowledged
            with contextlib.suppress(TimeoutError):
                covered = ends[json.loads(websocket.recv(0.2))["ack"] - 1]
                self.acks.append(range(told + 1, covered + 1))
                told = covered

    def _end_of_message(self, sent: int, told: int) -> int:
        """The number of the last event of the next message; of the one before, if none is due."""
        if sent - told >= self._UNCONFIRMED:
            return sent
        end = sent + 1 + (sent + len(self.acks)) % 7
        return min(end, self.made) if self._is_over.is_set() else end

    def finish(self) -> bool:
        """Make no more events; whether all of them get acknowledged."""
        self._is_over.set()
        self._thread.join(PATIENCE)
        return not self._thread.is_alive()

    def close(self) -> None:
        self._is_cut.set()
        self._thread.join()


Client = Game | Witness


def message(session_id: str, *numbers: int) -> str:
    return json.dumps(
        [
            {
                "sessionId": session_id,
                "seq": number,
                "type": "shot",
                "timestamp": 1_795_479_878_536 + number,
                "data": data_of(number),
                "id": f"{session_id}-{number}",
            }
            for number in numbers
        ]
    )


def connected(url: str) -> ClientConnection:
    return connect(url, additional_headers={"Telemetry-Ack": "cumulative"}, proxy=None)


@contextlib.contextmanager
def streaming(url: str, games: int = 3) -> Iterator[list[Client]]:
    """Clients that send without a pause, from now on."""
    with contextlib.ExitStack() as stack:
        clients: list[Client] = []
        for make in [Witness, *[Game] * games]:
            client = make(url)
            stack.callback(client.close)
            clients.append(client)
        yield clients


# What receives it, and what is stored then.


@pytest.fixture
def port() -> int:
    """A free port that nobody is given by chance while the collector is away."""
    for port in random.sample(range(10_000, 30_000), 100):  # below those that systems hand out
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite3"


def url_at(port: int) -> str:
    return f"ws://127.0.0.1:{port}/telemetry"


def collecting(
    db: Path, port: int, before: Sequence[str] = ()
) -> contextlib.AbstractContextManager[Running]:
    arguments = ("collect", "--quiet", "--port", port, "--db", db)
    return running_command(*arguments, before=before, is_measured=False)


def complaints(collector: Running) -> list[str]:
    """What it has to say for itself."""
    # uvicorn says it of each handshake that is refused, as those are that come while it closes.
    refused = "ASGI callable returned without completing handshake."
    return [line for line in collector.errors.splitlines() if not line.endswith(refused)]


def health_of(port: int) -> int:
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def wait_for(condition: Callable[[], object], collector: Running) -> None:
    """Wait for what the collector has to live for."""
    process = collector.process
    assert wait_until(lambda: condition() or process.poll() is not None, PATIENCE), collector.said
    assert process.poll() is None, collector.said


def wait_for_mid_stream(clients: list[Client], progress: int, collector: Running) -> None:
    """Wait until so much more of each client is acknowledged, and of each some is not."""
    goals = [client.acknowledged + progress for client in clients]

    def is_mid_stream() -> bool:
        return all(
            client.acknowledged >= goal and client.unconfirmed
            for client, goal in zip(clients, goals, strict=True)
        )

    wait_for(is_mid_stream, collector)


def wait_for_loss(clients: list[Client]) -> None:
    """Wait until each client has noticed that the collector is gone, and read what it said last."""
    assert wait_until(lambda: not any(client.is_connected for client in clients), PATIENCE)


def rows(db: Path, query: str, *values: object) -> list[Any]:
    with contextlib.closing(sqlite3.connect(db)) as connection:
        return connection.execute(query, values).fetchall()


STORED = "FROM events JOIN sessions ON sessions.key = events.session WHERE session_id = ?"


@contextlib.contextmanager
def copied(db: Path, folder: Path) -> Iterator[Path]:
    """What is on the disk, while nothing is written there.

    Whoever opens the database itself mends it, which is for the next collector to do. And SQLite
    would look for what is on another process's disk on this one's.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for file in (db, Path(f"{db}-wal")):
            shutil.copyfile(file, Path(place, file.name))
        yield Path(place, db.name)


def assert_kept(db: Path, clients: list[Client], folder: Path) -> None:
    """What was acknowledged is on the disk, and nothing is there twice."""
    with copied(db, folder) as copy:
        for client in clients:
            numbers = [seq for (seq,) in rows(copy, f"SELECT seq {STORED}", client.session_id)]
            assert len(numbers) == len(set(numbers))
            assert set(range(1, client.acknowledged + 1)) - set(numbers) == set()


def assert_whole(db: Path, clients: list[Client]) -> None:
    """All that was made is stored once, with its data, and nothing else is."""
    for client in clients:
        found = rows(db, f"SELECT seq, data {STORED} ORDER BY seq", client.session_id)
        expected = [(number, data_of(number)) for number in range(1, client.made + 1)]
        assert [(seq, json.loads(data)) for seq, data in found] == expected
    sessions = rows(db, "SELECT session_id, events, missing FROM sessions")
    assert sorted(sessions) == sorted((client.session_id, client.made, 0) for client in clients)
    assert rows(db, "SELECT * FROM rejected") == []


# What ends it.


@pytest.mark.timeout(180)
def test_kills_in_mid_stream_lose_nothing(db: Path, port: int, tmp_path: Path) -> None:
    chance = random.Random(20)
    in_mid_stream = 0
    with streaming(url_at(port)) as clients:
        for _ in range(KILLS):
            with collecting(db, port) as collector:
                wait_for_mid_stream(clients, chance.randrange(1, 200), collector)
                assert collector.end(signal.SIGKILL) == -signal.SIGKILL
            assert complaints(collector) == []
            wait_for_loss(clients)
            in_mid_stream += all(client.unconfirmed for client in clients)
            assert_kept(db, clients, tmp_path)
        with collecting(db, port) as collector:
            assert all([client.finish() for client in clients])
            assert collector.end(signal.SIGTERM) == 0
        assert complaints(collector) == []

    assert in_mid_stream >= KILLS * 3 // 4
    assert_whole(db, clients)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_signals_in_mid_stream_lose_nothing(ending: signal.Signals, db: Path, port: int) -> None:
    with streaming(url_at(port)) as clients:
        witness = clients[0]
        for _ in range(2):
            with collecting(db, port) as collector:
                wait_for_mid_stream(clients, 50, collector)
                assert collector.end(ending) == 0
            assert complaints(collector) == []
            wait_for_loss(clients)
            assert witness.close_code == 1001
            # What was received is stored, and what is stored was acknowledged.
            for client in clients:
                ((last,),) = rows(db, f"SELECT max(seq) {STORED}", client.session_id)
                assert last == client.acknowledged
        with collecting(db, port) as collector:
            assert all([client.finish() for client in clients])
            assert collector.end(ending) == 0

    assert_whole(db, clients)


def test_kills_while_it_makes_its_file_leave_one_that_it_takes(db: Path, port: int) -> None:
    chance = random.Random(6)
    for _ in range(6):
        with collecting(db, port) as collector:
            wait_for(db.exists, collector)
            threading.Event().wait(chance.uniform(0, 0.01))
            collector.end(signal.SIGKILL)
        assert complaints(collector) == []
        if chance.random() < 0.5:
            for file in db.parent.glob(f"{db.name}*"):
                file.unlink()
    with streaming(url_at(port), games=1) as clients, collecting(db, port) as collector:
        wait_for_mid_stream(clients, 1, collector)
        assert all([client.finish() for client in clients])
        assert collector.end(signal.SIGTERM) == 0
    assert_whole(db, clients)


# What stops it.


class FullDisk(Protocol):
    """A disk on which the collector can be without room, and have it again."""

    before: Sequence[str]
    """What the collector is run by."""
    reason: str
    """What it says."""

    def seen_from_here(self, path: Path, collector: Running) -> Path: ...

    def fill(self, db: Path, collector: Running) -> None: ...

    def make_room(self, db: Path, collector: Running) -> None: ...


class LimitedFiles:
    """No file of the process may grow further, by a limit that it meets as it would a quota."""

    before: Sequence[str] = ()
    reason = "disk I/O error"  # as SQLite calls all but ENOSPC

    def seen_from_here(self, path: Path, collector: Running) -> Path:
        return path

    def fill(self, db: Path, collector: Running) -> None:
        self._limit(collector, os.path.getsize(f"{db}-wal"))

    def make_room(self, db: Path, collector: Running) -> None:
        self._limit(collector, None)

    def _limit(self, collector: Running, size: int | None) -> None:
        import resource

        kind = resource.RLIMIT_FSIZE
        _, hard = resource.prlimit(collector.process.pid, kind)
        resource.prlimit(collector.process.pid, kind, (hard if size is None else size, hard))


class SmallDisk:
    """A disk of its own, which goes when the process goes, and which another file fills up."""

    reason = "database or disk is full"

    def __init__(self, folder: Path) -> None:
        mount = 'mount -t tmpfs -o size=4m none "$0" && exec "$@"'
        self.before = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(folder)]

    def seen_from_here(self, path: Path, collector: Running) -> Path:
        return Path(f"/proc/{collector.process.pid}/root{path}")

    def fill(self, db: Path, collector: Running) -> None:
        with db.with_name("filler").open("wb", buffering=0) as filler:
            for size in (65536, 1):
                with contextlib.suppress(OSError):
                    while filler.write(b"x" * size):
                        pass

    def make_room(self, db: Path, collector: Running) -> None:
        db.with_name("filler").unlink()


@pytest.fixture(params=["limited files", "small disk"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> FullDisk:
    if request.param == "limited files":
        if not hasattr(__import__("resource"), "prlimit"):
            pytest.skip("only Linux limits the files of another process")
        return LimitedFiles()
    small = SmallDisk(tmp_path)
    if shutil.which("unshare") is None or subprocess.call([*small.before, "true"]):
        pytest.skip("no disk can be mounted here: that needs Linux, and user namespaces or root")
    return small


def test_full_disk_loses_nothing(
    disk: FullDisk, db: Path, port: int, tmp_path: Path
) -> None:
    with collecting(db, port, disk.before) as collector, streaming(url_at(port), 1) as clients:
        witness, game = clients
        assert isinstance(game, Game)
        wait_for_mid_stream(clients, 50, collector)
        seen = disk.seen_from_here(db, collector)

        disk.fill(seen, collector)
        wait_for(lambda: health_of(port) == 503, collector)
        collector.wait_for(f"{UNABLE}{db}: {disk.reason}\n")
        assert_nothing_is_acknowledged(port)
        game.pause()
        wait_for(lambda: not game.is_connected, collector)
        assert_all_is_there(game)
        assert game.unconfirmed
        assert wait_until(lambda: witness.close_code == 1013, PATIENCE)
        assert_kept(seen, clients, tmp_path)
        assert health_of(port) == 503

        disk.make_room(seen, collector)
        wait_for(lambda: game.acknowledged == game.made, collector)  # by itself
        assert health_of(port) == 200
        assert all([client.finish() for client in clients])
        with copied(seen, tmp_path) as copy:
            assert_whole(copy, clients)
        assert collector.end(signal.SIGTERM) == 0

    said = [line.split(": ", 1)[1] for line in complaints(collector)]
    assert said == [f"{UNABLE}{db}: {disk.reason}", ABLE_AGAIN]


def assert_nothing_is_acknowledged(port: int) -> None:
    """Not even to a client that comes now: it is told to try again later."""
    with connected(url_at(port)) as client:
        client.send(message("in vain", 1))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013


def assert_all_is_there(game: Game) -> None:
    """What a client has not delivered, it has."""
    stats = game.telemetry.stats()
    assert (stats.emitted, stats.dropped, stats.rejected) == (game.made, 0, 0)
    assert stats.delivered + stats.buffered + stats.in_flight == game.made
