"""Acknowledged events stay, and no others are lost, however the collector ends or is stopped.

Each collector is a process here, as it is for its users, and so can be killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from redvsblue_telemetry import ConnectionState, Telemetry, TelemetrySettings
from redvsblue_telemetry.collector.storage.database import Database, DatabaseError
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.collector import collector_running
from tests.support.command import ENDINGS, Running, run_command, running_command
from tests.support.ports import own_port
from tests.support.systems import (
    IS_WINDOWS,
    IS_WINE,
    needs_linux,
    needs_modes,
    not_on_windows,
    not_under_wine,
)
from tests.support.wait import PATIENCE, wait_until

KILLS = 4 if IS_WINE else 12  # a collector needs seconds to start there
UNABLE = "cannot store events, so none are acknowledged: "
ABLE_AGAIN = "events are being stored again"


# What is sent.


def data_of(number: int) -> dict[str, Any]:
    """The data of the event with this number. Any two that are mixed up differ."""
    return {"number": number, "text": "ü" * (number % 50)}


class Game:
    """A game that emits without a pause, on its own thread."""

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

    @property
    def was_asked_to_wait(self) -> bool:
        return "1013" in str(self.telemetry.stats().last_error)

    @property
    def has_kept_all(self) -> bool:
        """Whether all that is not delivered is still there, if nothing is on its way just now."""
        stats = self.telemetry.stats()
        kept = stats.delivered + stats.in_flight + stats.buffered
        return (kept, stats.dropped, stats.rejected) == (self.made, 0, 0)

    def pause(self) -> None:
        """Emit no more."""
        self._is_over.set()
        self._thread.join()

    def finish(self) -> bool:
        """Stop emitting and flush; return whether everything is delivered."""
        self.pause()
        return self.telemetry.flush(PATIENCE)

    def close(self) -> None:
        self.pause()
        self.telemetry.stop(timeout=0.1)


class Witness:
    """A client without the SDK, which records the events that each ack covers."""

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
        """How many are made, and not acknowledged."""
        return self.made - self.acknowledged

    @property
    def was_asked_to_wait(self) -> bool:
        return self.close_code == 1013

    def _run(self) -> None:
        while not (self._is_cut.wait(0.02) or (self._is_over.is_set() and not self.unconfirmed)):
            # Nobody listens, or the listener is killed in the middle of the handshake.
            refusals = (OSError, EOFError, WebSocketException)
            with contextlib.suppress(*refusals), connected(self._url) as websocket:
                self.is_connected = True
                try:
                    self._converse(websocket)
                finally:
                    self.close_code = websocket.protocol.close_code
                    self.is_connected = False

    def _converse(self, websocket: ClientConnection) -> None:
        """Send unacknowledged events again, in other messages than before, and then new ones."""
        sent = acked = self.acknowledged
        ends: list[int] = []  # the number of the last event of each message
        while not self._is_cut.wait(0.005):  # which leaves the machine to the others
            with contextlib.suppress(ConnectionClosed):  # there may be acks to be read all the same
                while (last := self._end_of_message(sent, acked)) > sent:
                    self.made = max(self.made, last)
                    websocket.send(message(self.session_id, *range(sent + 1, last + 1)))
                    sent = last
                    ends.append(sent)
            if acked == self.made:
                return  # it is over, and all is acknowledged
            with contextlib.suppress(TimeoutError):
                covered = ends[json.loads(websocket.recv(0.2))["ack"] - 1]
                self.acks.append(range(acked + 1, covered + 1))
                acked = covered

    def _end_of_message(self, sent: int, acked: int) -> int:
        """The number of the last event of the next message; of the one before, if none is due."""
        if sent - acked >= self._UNCONFIRMED:
            return sent
        end = sent + 1 + (sent + len(self.acks)) % 7
        return min(end, self.made) if self._is_over.is_set() else end

    def finish(self) -> bool:
        """Make no more events; whether all of them get acknowledged."""
        self._is_over.set()
        self._thread.join(PATIENCE)
        return not self.unconfirmed

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
    return connect(url, additional_headers={"Telemetry-Ack": "cumulative"})


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
    return own_port()


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


def health_of(port: int) -> int:
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def kill(collector: Running) -> None:
    """End it by SIGKILL, or by TerminateProcess on Windows."""
    collector.process.kill()
    assert collector.end() == (1 if IS_WINDOWS else -9)


def wait_for(condition: Callable[[], object], collector: Running) -> None:
    """Wait for the events that the collector must store before it is killed."""
    process = collector.process
    patience = 2 * PATIENCE  # it also starts in that time
    assert wait_until(lambda: condition() or process.poll() is not None, patience), collector.said
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
    """Wait until each client has noticed that the collector is gone; read its last messages."""
    assert wait_until(lambda: not any(client.is_connected for client in clients), PATIENCE)


def rows(db: Path, query: str, *values: object) -> list[Any]:
    with contextlib.closing(sqlite3.connect(db)) as connection:
        return connection.execute(query, values).fetchall()


STORED = "FROM events JOIN sessions ON sessions.key = events.session WHERE session_id = ?"


@contextlib.contextmanager
def copied(db: Path, folder: Path) -> Iterator[Path]:
    """The events on the disk, while nothing is written there.

    Opening the database would repair it, which is for the next collector to do. And SQLite
    would look for what is on another process's disk on this one's.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for file in (db, Path(f"{db}-wal")):
            shutil.copyfile(file, Path(place, file.name))
        yield Path(place, db.name)


def assert_kept(db: Path, clients: list[Client], folder: Path) -> None:
    """Every acknowledged event is on the disk, and none is there twice."""
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


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_in_mid_stream_lose_nothing(db: Path, port: int, tmp_path: Path) -> None:
    chance = random.Random(20)
    in_mid_stream = 0
    with streaming(url_at(port)) as clients:
        for _ in range(KILLS):
            with collecting(db, port) as collector:
                wait_for_mid_stream(clients, chance.randrange(1, 300), collector)
                kill(collector)
            assert collector.errors == ""
            wait_for_loss(clients)
            in_mid_stream += all(client.unconfirmed for client in clients)
            assert_kept(db, clients, tmp_path)
        with collecting(db, port) as collector:
            assert all(client.finish() for client in clients)
            assert collector.end(signal.SIGTERM) == 0
        assert collector.errors == ""

    assert in_mid_stream >= KILLS * 3 // 4
    assert_whole(db, clients)


@not_under_wine("a send fails while another thread sends on the same socket, as a signal may")
@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_signals_in_mid_stream_lose_nothing(ending: signal.Signals, db: Path, port: int) -> None:
    with streaming(url_at(port)) as clients:
        witness = clients[0]
        for _ in range(2):
            with collecting(db, port) as collector:
                wait_for_mid_stream(clients, 50, collector)
                assert collector.end(ending) == 0
            assert collector.errors == ""
            wait_for_loss(clients)
            assert witness.close_code == 1001
            # What was received is stored, and what is stored was acknowledged.
            for client in clients:
                ((last,),) = rows(db, f"SELECT max(seq) {STORED}", client.session_id)
                assert last == client.acknowledged
        with collecting(db, port) as collector:
            assert all(client.finish() for client in clients)
            assert collector.end(ending) == 0

    assert_whole(db, clients)


@pytest.mark.parametrize("ending", ENDINGS)
def test_temporary_file_is_deleted_at_the_end(ending: signal.Signals, tmp_path: Path) -> None:
    arguments = ("collect", "--port", 0, "--db", ":memory:")
    with running_command(
        *arguments, is_measured=False, TMPDIR=str(tmp_path), TEMP=str(tmp_path)
    ) as collector:
        assert wait_until(lambda: "127.0.0.1" in collector.output, PATIENCE), collector.said
        assert [file.name for file in tmp_path.rglob("*.sqlite3")] == ["telemetry.sqlite3"]
        assert collector.end(ending) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_kills_while_it_makes_its_file_leave_one_that_can_be_used(db: Path, port: int) -> None:
    chance = random.Random(6)
    for _ in range(6):
        for file in db.parent.glob(f"{db.name}*"):
            file.unlink()
        with collecting(db, port) as collector:
            wait_for(db.exists, collector)
            time.sleep(chance.uniform(0, 0.01))  # any moment will do, each time another
            kill(collector)
        database = Database(db)
        with contextlib.closing(database), contextlib.closing(Writer(database)) as writer:
            writer.check()


# What stops it.


class FullDisk(Protocol):
    """A disk on which the collector can be without room, and have it again."""

    before: Sequence[str]
    """The command that runs the collector."""
    reason: str
    """Its output."""

    def seen_from_here(self, path: Path, collector: Running) -> Path: ...

    def fill(self, db: Path, collector: Running) -> None: ...

    def make_room(self, db: Path, collector: Running) -> None: ...


class LimitedFiles:
    """The process may write to no file, by a limit on their size.

    A limit of the log's size would not do: the log is written from its beginning again after a
    checkpoint, and a small transaction would fit.
    """

    before: Sequence[str] = ()
    reason = "disk I/O error"  # as SQLite calls all but ENOSPC

    def seen_from_here(self, path: Path, collector: Running) -> Path:
        return path

    def fill(self, db: Path, collector: Running) -> None:
        self._limit(collector, 0)

    def make_room(self, db: Path, collector: Running) -> None:
        self._limit(collector, None)

    def _limit(self, collector: Running, size: int | None) -> None:
        import resource

        kind = resource.RLIMIT_FSIZE
        _, hard = resource.prlimit(collector.process.pid, kind)
        resource.prlimit(collector.process.pid, kind, (hard if size is None else size, hard))


class SmallDisk:
    """A separate disk, which goes when the process goes, and which another file fills up."""

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
        import resource

        if not hasattr(resource, "prlimit"):
            pytest.skip("Linux only: limits of another process")
        return LimitedFiles()
    small = SmallDisk(tmp_path)
    if shutil.which("unshare") is None or subprocess.call([*small.before, "true"]):
        pytest.skip("machine: no disk can be mounted")
    return small


@needs_linux
def test_full_disk_loses_nothing(disk: FullDisk, db: Path, port: int, tmp_path: Path) -> None:
    with collecting(db, port, disk.before) as collector, streaming(url_at(port), 1) as clients:
        wait_for_mid_stream(clients, 50, collector)
        seen = disk.seen_from_here(db, collector)

        disk.fill(seen, collector)
        wait_for(lambda: health_of(port) == 503, collector)
        collector.wait_for(f"{UNABLE}{db}: {disk.reason}\n")
        for _ in range(10):  # while the clients come back again and again
            assert_nothing_is_acknowledged(url_at(port))
            wait_for(lambda: health_of(port) == 503, collector)
        assert_data_is_held_back(clients)
        assert_kept(seen, clients, tmp_path)

        disk.make_room(seen, collector)
        assert_all_comes_by_itself(clients)
        assert health_of(port) == 200
        with copied(seen, tmp_path) as copy:
            assert_whole(copy, clients)
        assert collector.end(signal.SIGTERM) == 0

    said = [line.split(": ", 1)[1] for line in collector.errors.splitlines()]
    # Upkeep and the watch over the disk may have lines, too.
    said = [line for line in said if line.startswith((UNABLE, ABLE_AGAIN))]
    # A small transaction may still fit where the first that failed had begun to write.
    assert said == [f"{UNABLE}{db}: {disk.reason}", ABLE_AGAIN] * (len(said) // 2 or 1)


def assert_nothing_is_acknowledged(url: str) -> None:
    """Not even to a new client: it is closed with 1013."""
    with connected(url) as client:
        # A large message: the part of a transaction that was written before the disk was full stays
        # allocated to the log, and a small one could fit there and be stored.
        client.send(message("in vain", *range(1, 1001)))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013


def assert_data_is_held_back(clients: list[Client]) -> None:
    """Each client is closed with 1013, and keeps its unacknowledged events."""
    games = games_of(clients)
    for game in games:
        game.pause()
    assert wait_until(lambda: all(client.was_asked_to_wait for client in clients), PATIENCE)
    assert wait_until(lambda: all(game.has_kept_all for game in games), PATIENCE)
    assert all(client.unconfirmed for client in clients)


def assert_all_comes_by_itself(clients: list[Client]) -> None:
    """Without as much as a flush."""
    games = games_of(clients)
    assert wait_until(lambda: all(game.acknowledged == game.made for game in games), PATIENCE)
    assert all(client.finish() for client in clients)


def games_of(clients: list[Client]) -> list[Game]:
    return [client for client in clients if isinstance(client, Game)]


LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(db: Path) -> Iterator[None]:
    """Another process has the database to itself, until the block is left."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, db], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline().rstrip() == b"locked"
            yield
        finally:
            other.kill()


def test_locked_database_loses_nothing(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    unable = f"{UNABLE}{db}: database is locked"
    with (
        collector_running(db=db, busy_timeout=0.1) as collector,
        streaming(collector.url, 1) as clients,
    ):
        assert wait_until(lambda: all(client.acknowledged for client in clients), PATIENCE)
        with locked(db):
            assert wait_until(lambda: health_of(collector.port) == 503, PATIENCE)
            assert unable in caplog.messages
            assert_nothing_is_acknowledged(collector.url)
            assert_data_is_held_back(clients)
        assert_all_comes_by_itself(clients)
        assert health_of(collector.port) == 200
        logged = [text for text in caplog.messages if text in (unable, ABLE_AGAIN)]
        assert logged == [unable, ABLE_AGAIN]
    assert_whole(db, clients)


# What keeps it from starting.


def refusal(code: int, output: str, errors: str) -> str:
    """Its output, which is one line."""
    assert (code, output) == (2, ""), errors
    (line,) = errors.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


def refusal_of(db: Path, before: Sequence[str] = ()) -> str:
    arguments = ("collect", "--port", 0, "--db", db)
    done = run_command(*arguments, before=before, is_measured=False)
    return refusal(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("is_ours", [True, False], ids=["ours", "empty"])
def test_database_that_others_have_locked_is_refused(is_ours: bool, db: Path) -> None:
    if is_ours:
        Database(db).close()
    expected = re.escape(f"{db}: database is locked")
    with (
        locked(db),
        pytest.raises(DatabaseError, match=f"^{expected}$"),
        collector_running(db=db, busy_timeout=0.05),
    ):
        pass


def some_text(path: Path) -> None:
    path.write_text("no database at all, and rather long: " * 100)


def cut_off(path: Path) -> None:
    Database(path).close()
    os.truncate(path, 2000)


def of_another_program(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE events (mine)")


def of_another_program_in_wal_mode(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA application_id = 0x47504B47")  # a GeoPackage
        connection.execute("CREATE TABLE sessions (theirs)")


DAMAGED = "; the file is damaged: move it away, or restore a backup"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (some_text, "is not a database; choose another file"),
        (cut_off, f"database disk image is malformed{DAMAGED}"),
        (of_another_program, "is not a telemetry database; choose another file"),
        (of_another_program_in_wal_mode, "is not a telemetry database; choose another file"),
    ],
)
def test_what_is_no_database_of_ours_is_refused_and_left_alone(
    make: Callable[[Path], None], reason: str, db: Path
) -> None:
    make(db)
    before = db.read_bytes()

    assert refusal_of(db) in (f"{db}: {reason}", f"{db} {reason}")

    assert db.read_bytes() == before


@pytest.fixture
def bound_by_modes(tmp_path: Path) -> Sequence[str]:
    """The command that runs the collector such that file modes apply, which they don't to root.

    A process with the capability to override them loses it.
    """
    if os.geteuid() != 0:
        return ()
    before = ["setpriv", "--bounding-set=-dac_override"]
    file = tmp_path / "read-only"
    file.touch(0o444)
    may_write = [*before, "test", "-w", str(file)]
    if shutil.which("setpriv") is None or subprocess.call(may_write) != 1:
        pytest.skip("machine: root may write to what is read-only")
    return before


READ_ONLY = (
    "attempt to write a readonly database; may this user write to the file and its directory?"
)


@needs_modes
@pytest.mark.parametrize("is_ours", [True, False], ids=["ours", "empty"])
def test_file_that_is_read_only_is_refused(
    is_ours: bool, bound_by_modes: Sequence[str], db: Path
) -> None:
    if is_ours:
        Database(db).close()
    else:
        db.touch()
    db.chmod(0o400)

    assert refusal_of(db, bound_by_modes) == f"{db}: {READ_ONLY}"


@needs_modes
@pytest.mark.parametrize("is_there", [True, False], ids=["there", "missing"])
def test_file_in_a_folder_that_is_read_only_is_refused(
    is_there: bool, bound_by_modes: Sequence[str], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    db = folder / "telemetry.sqlite3"
    if is_there:
        Database(db).close()
    folder.chmod(0o555)
    try:
        reason = refusal_of(db, bound_by_modes)
    finally:
        folder.chmod(0o755)

    refused = f"{db}: {READ_ONLY}" if is_there else f"{db} can't be created: Permission denied"
    assert reason == refused


@not_on_windows("no limit on the size of files")
@pytest.mark.parametrize("blocks", [0, 16, 64])  # of 512 bytes or 1024, as the shell likes
def test_disk_without_room_for_the_tables_is_refused_until_it_has_some(
    blocks: int, db: Path, port: int
) -> None:
    limit = ["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh"]
    assert refusal_of(db, limit) == f"{db}: disk I/O error"

    with collecting(db, port) as collector, streaming(url_at(port), 1) as clients:
        wait_for_mid_stream(clients, 1, collector)
        assert all(client.finish() for client in clients)
        assert collector.end(signal.SIGTERM) == 0
    assert_whole(db, clients)
