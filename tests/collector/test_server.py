"""Starting and stopping a collector: its options, and that its end loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from redvsblue_telemetry import Telemetry
from redvsblue_telemetry.collector import connections
from redvsblue_telemetry.collector.server import Options, OptionsError, serve
from redvsblue_telemetry.collector.storage.database import DatabaseError
from tests.collector.clients import (
    HANDSHAKE,
    array,
    client_of,
    game,
    have_been_read,
    locked,
    read_to_the_end,
    stored,
)
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.ports import own_port
from tests.support.systems import needs_proc
from tests.support.wait import wait_until

SHORT = 0.05  # seconds to wait for a lock that stays


@contextlib.contextmanager
def ending(collector: RunningCollector) -> Iterator[None]:
    """Stop the collector; after the block it has stopped."""
    stopping = threading.Thread(target=collector.stop)
    stopping.start()
    try:
        yield
    finally:
        stopping.join(PATIENCE)
        assert not stopping.is_alive()


def refusal(collector: RunningCollector) -> Response | None:
    """What a handshake is refused with; None if it isn't."""
    try:
        with client_of(collector):
            return None
    except InvalidStatus as refused:
        return refused.response


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite3"


def can_use(host: str) -> bool:
    try:
        own_port(host)
    except AssertionError:
        return False
    return True


# On what terms.


OPEN_HOSTS = """
    0.0.0.0 :: 192.0.2.1 2001:db8::1 fe80::1 0 128.0.0.1 example.com 127.0.0.1.example.com
    localhost.com localhost.example.com evillocalhost
"""


@pytest.mark.parametrize("host", [*OPEN_HOSTS.split(), ""])
def test_host_that_others_can_reach_needs_a_token_or_insecure(host: str) -> None:
    with (
        pytest.raises(OptionsError, match=r"; pass --token, or --insecure"),
        collector_running(host=host),
    ):
        pass
    Options(host=host, token="secret").check()
    Options(host=host, insecure=True).check()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "Localhost.", "game.localhost"]
)
def test_host_that_others_cannot_reach_needs_nothing(host: str) -> None:
    Options(host=host).check()


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        *((token, "the token is empty") for token in ("", " ", "\t\n")),
        *((token, "starts or ends with whitespace") for token in (" secret", "secret\r\n")),
        *((token, "must be printable") for token in ("se\0cret", "s\xe9cret", "se\u200bcret")),
    ],
)
def test_token_that_no_client_can_send_is_refused(token: str, reason: str) -> None:
    for options in (Options(token=token), Options(host="0.0.0.0", token=token, insecure=True)):
        with pytest.raises(OptionsError, match=reason):
            options.check()


@pytest.mark.parametrize("name", ["max_connections", "max_rate", "max_message_bytes"])
def test_limit_that_lets_nothing_through_is_refused(name: str) -> None:
    for number in (0, -1, math.nan):
        options: dict[str, Any] = {name: number}
        with pytest.raises(OptionsError, match=f"{name} is {number}; it must be more than 0"):
            Options(**options).check()


def test_collector_that_may_not_run_so_touches_nothing(path: Path) -> None:
    refused: list[dict[str, Any]] = [
        {"host": "0.0.0.0"},
        {"token": ""},
        {"max_rate": 0},
        {"host": "192.0.2.1", "token": "secret"},  # an address that no machine has
        {"host": "no.such.host.invalid", "token": "secret"},
    ]
    for options in refused:
        with pytest.raises(OptionsError), collector_running(db=path, **options):
            pass
    assert not path.exists()


def test_port_in_use_is_an_error_that_touches_nothing(path: Path) -> None:
    with collector_running() as first:
        expected = rf"cannot listen on 127\.0\.0\.1:{first.port}: .*; choose another --port"
        with pytest.raises(OptionsError, match=expected):
            RunningCollector(port=first.port, db=path).start()
        assert not path.exists()
        with client_of(first) as client:
            client.send(array(1))
            assert json.loads(client.recv(timeout=PATIENCE)) == {"ack": 1}


def test_unusable_database_is_an_error_and_frees_the_port(tmp_path: Path) -> None:
    port = own_port()
    with pytest.raises(DatabaseError, match="is a directory; name a file in it"):
        RunningCollector(port=port, db=tmp_path).start()
    with collector_running(port=port) as collector:
        assert collector.port == port


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_game_reaches_it_wherever_it_listens(host: str) -> None:
    if not can_use(host):
        pytest.skip(f"machine: no {host}")
    shown = f"[{host}]" if ":" in host else host
    with collector_running(host=host) as collector:
        assert collector.http_url == f"http://{shown}:{collector.port}/"
        with game(collector) as telemetry:
            telemetry.emit("hit")
            assert telemetry.flush(PATIENCE)
        assert collector.stats().events == 1


@pytest.mark.parametrize("options", [{"token": "secret"}, {"insecure": True}], ids=repr)
def test_every_address_is_listened_to_if_that_is_wanted(options: dict[str, Any]) -> None:
    with collector_running(host="0.0.0.0", **options) as collector:
        for host in ("127.0.0.1", "127.0.0.2") if can_use("127.0.0.2") else ("127.0.0.1",):
            connection = http.client.HTTPConnection(host, collector.port, timeout=PATIENCE)
            with contextlib.closing(connection):
                connection.request("GET", "/api/stats")
                assert connection.getresponse().status == (401 if "token" in options else 200)
        with client_of(collector, token=options.get("token")) as client:
            client.send(array(1))
            assert json.loads(client.recv(timeout=PATIENCE)) == {"ack": 1}


# The limit of open files: it is a process's, so these have processes of their own.

LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from redvsblue_telemetry.cli._runner import run
from redvsblue_telemetry.collector.server import Options, serve

async def main():
    options = Options(port=0, db=Path(sys.argv[1]), max_connections=200)
    for limits in sys.argv[2:]:  # one collector after the other
        soft, hard = map(int, limits.split(","))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        stop = asyncio.Event()
        is_ready = lambda url: print(url, *resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
        serving = asyncio.create_task(serve(options, stop, is_ready))
        await asyncio.to_thread(sys.stdin.readline)
        stop.set()
        await serving

run(main())
"""


class LimitedCollectors:
    """Collectors in a process, each with such limits as ``"soft,hard"``; 200 may connect."""

    def __init__(self, path: Path, *limits: str) -> None:
        arguments = [sys.executable, "-c", LIMITED, str(path), *limits]
        self.log = path.with_suffix(".log")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(arguments, text=True, stderr=log, **pipes)
        self.url = ""

    def start_next(self) -> tuple[int, int]:
        """The limits that it has then."""
        assert self.process.stdout is not None
        url, soft, hard = self.process.stdout.readline().split()
        self.url = f"ws{url.removeprefix('http')}telemetry"
        return int(soft), int(hard)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self) -> LimitedCollectors:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # closes the pipes, and waits
            self.process.kill()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def need_limit(hard: int) -> None:
    resource = pytest.importorskip("resource", reason="Windows: no limits of a process")
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if allowed != resource.RLIM_INFINITY and allowed < hard:
        pytest.skip(f"machine: fewer than {hard} files")


def test_limit_of_open_files_is_raised_as_far_as_it_may_be_and_never_lowered(path: Path) -> None:
    need_limit(4000)
    limits = ["2000,4000", "64,4000", "456,456", "64,300"]
    with LimitedCollectors(path, *limits) as collectors:
        for expected in ((2000, 4000), (1456, 4000), (456, 456), (300, 300)):
            assert collectors.start_next() == expected
            collectors.stop()
        assert collectors.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_more_clients_are_served_than_files_may_be_open_at_first(path: Path) -> None:
    need_limit(4000)
    with LimitedCollectors(path, "64,4000") as collectors, contextlib.ExitStack() as stack:
        collectors.start_next()
        for number in range(1, 101):
            client = stack.enter_context(client_of(collectors))
            client.send(array(number))
        assert wait_until(lambda: len(stored(path)) == 100, PATIENCE)


@needs_proc
def test_clients_are_served_on_when_no_more_files_can_be_opened(path: Path) -> None:
    need_limit(64)
    with LimitedCollectors(path, "64,64") as collectors, contextlib.ExitStack() as stack:
        collectors.start_next()
        address = ("127.0.0.1", urlsplit(collectors.url).port)
        client = stack.enter_context(client_of(collectors))
        crowd = stack.enter_context(contextlib.ExitStack())
        for _ in range(100):
            crowd.enter_context(socket.create_connection(address, PATIENCE))
        telemetry = stack.enter_context(game(collectors))
        telemetry.emit("hit")
        for number in range(1, 51):
            client.send(array(number))
            assert json.loads(client.recv(timeout=PATIENCE)) == {"ack": number}
        assert telemetry.stats().delivered == 0
        before = cpu_seconds(collectors.process.pid)
        time.sleep(1)  # the time over which it is measured
        assert cpu_seconds(collectors.process.pid) - before < 0.5, "it doesn't spin"
        (line,) = collectors.log.read_text().splitlines()
        assert line.endswith("can't accept connections: Too many open files")
        crowd.close()
        assert telemetry.flush(PATIENCE), "it is let in when others have gone"


# How it ends.


def test_what_was_received_is_stored_and_acknowledged_before_it_ends(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(collector_running(db=path, busy_timeout=PATIENCE))
        busy = [stack.enter_context(client_of(collector)) for _ in range(5)]
        trusting = stack.enter_context(client_of(collector, acks=False))
        idle = stack.enter_context(client_of(collector))
        with locked(path):
            for number, client in enumerate([*busy, trusting]):
                for seq in range(1, 31):
                    client.send(array(seq, session=f"s{number}"))
            have_been_read(collector, *busy, trusting)
            stopping = stack.enter_context(contextlib.ExitStack())
            stopping.enter_context(ending(collector))
            assert read_to_the_end(idle) == ([], 1001)
        for client in busy:
            acks, code = read_to_the_end(client)
            assert (acks[-1], code) == (30, 1001)
        assert read_to_the_end(trusting) == ([], 1001)
        stopping.close()
        for number in range(6):
            assert stored(path, f"s{number}") == list(range(1, 31))


def test_client_that_connects_during_shutdown_gets_503(path: Path) -> None:
    with collector_running(db=path, busy_timeout=PATIENCE) as collector:
        with client_of(collector) as client, contextlib.ExitStack() as stopping:
            with locked(path):
                client.send(array(1))
                have_been_read(collector, client)
                stopping.enter_context(ending(collector))
                assert wait_until(lambda: refusal(collector) is not None, PATIENCE)
                refused = refusal(collector)
                assert refused is not None
                assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
                assert collector.get("/healthz").status == 200, "it can still be asked"
            assert read_to_the_end(client) == ([1], 1001)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", collector.port))


def test_what_can_not_be_stored_by_the_end_is_kept_by_the_game(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(
            collector_running(port=own_port(), db=path, busy_timeout=SHORT)
        )
        telemetry = stack.enter_context(game(collector))
        telemetry.emit("hit")
        assert telemetry.flush(PATIENCE)
        with locked(path):
            for _ in range(100):
                telemetry.emit("hit")
            assert wait_until(lambda: telemetry.stats().in_flight, PATIENCE)
            collector.stop()
        assert stored(path, telemetry.session_id) == [1]
        assert (telemetry.stats().delivered, telemetry.stats().dropped) == (1, 0)
        stack.enter_context(collector_running(port=collector.port, db=path))
        assert telemetry.flush(PATIENCE)
        assert stored(path, telemetry.session_id) == list(range(1, 102))


def test_games_lose_nothing_and_nothing_is_stored_twice_when_it_is_restarted(path: Path) -> None:
    is_over = threading.Event()

    def play(telemetry: Telemetry) -> None:
        while not is_over.wait(0.002):
            for _ in range(5):
                telemetry.emit("hit", at=time.time())

    with contextlib.ExitStack() as stack:
        collector = RunningCollector(port=own_port(), db=path)
        collector.start()
        games = [stack.enter_context(game(collector)) for _ in range(4)]
        playing = [threading.Thread(target=play, args=[telemetry]) for telemetry in games]
        for thread in playing:
            thread.start()
        try:
            for _ in range(3):
                delivered = [telemetry.stats().delivered for telemetry in games]
                assert wait_until(
                    lambda before=delivered: all(
                        telemetry.stats().delivered > past + 50
                        for telemetry, past in zip(games, before, strict=True)
                    ),
                    PATIENCE,
                )
                collector.stop()
                for telemetry in games:
                    acknowledged = telemetry.stats().delivered
                    assert len(stored(path, telemetry.session_id)) >= acknowledged
                collector = RunningCollector(port=collector.port, db=path)
                collector.start()
            stack.callback(collector.stop)
        finally:
            is_over.set()
            for thread in playing:
                thread.join(PATIENCE)
        for telemetry in games:
            assert telemetry.flush(PATIENCE)
            stats = telemetry.stats()
            assert (stats.delivered, stats.dropped) == (stats.emitted, 0)
            assert stats.reconnects >= 3
            assert stored(path, telemetry.session_id) == list(range(1, stats.emitted + 1))
        assert collector.stats().missing == 0


def test_client_that_does_not_answer_holds_nobody_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GOODBYE_TIMEOUT", 0.3)
    with collector_running(db=path) as collector, client_of(collector) as client:
        address = ("127.0.0.1", collector.port)
        with socket.create_connection(address, PATIENCE) as mute:
            mute.sendall(HANDSHAKE)
            assert mute.recv(12) == b"HTTP/1.1 101"
            with ending(collector):
                assert read_to_the_end(client) == ([], 1001)


def test_web_browsers_hold_nobody_up(path: Path) -> None:
    with collector_running(db=path) as collector:
        browser = http.client.HTTPConnection("127.0.0.1", collector.port, timeout=PATIENCE)
        with contextlib.closing(browser):
            browser.request("GET", "/api/stats")
            browser.getresponse().read()
            assert browser.sock is not None, "the connection is kept for more questions"
            collector.stop()


def test_nothing_is_left_behind(path: Path) -> None:
    before = set(threading.enumerate())
    with collector_running(db=path) as collector, client_of(collector) as client:
        client.send(array(1))
        client.recv(timeout=PATIENCE)
        assert collector.get("/api/events").status == 200
        collector.stop()
        left = {thread for thread in threading.enumerate() if "collector" in thread.name} - before
        assert left == set()
    assert [file.name for file in path.parent.iterdir()] == [path.name], "all is in one file"
    assert stored(path) == [1]


def test_what_was_stored_before_is_known_after_a_restart(path: Path) -> None:
    port = own_port()
    for ack in range(1, 4):
        with collector_running(db=path, port=port) as collector, client_of(collector) as client:
            client.send(array(1, 2, ack + 10))
            assert json.loads(client.recv(timeout=PATIENCE)) == {"ack": 1}
            stats = collector.stats()
            assert (stats.events, stats.repeats) == (2 + ack, 2 * (ack - 1))


@pytest.mark.parametrize("is_canceled", [False, True])
def test_it_can_be_ended_before_anybody_came(is_canceled: bool, path: Path) -> None:
    urls: list[str] = []

    async def run() -> None:
        others = asyncio.all_tasks()
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(Options(port=0, db=path), stop, urls.append))
        while not urls:
            await asyncio.sleep(0.001)
        if is_canceled:
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
        else:
            stop.set()
            await serving
        assert asyncio.all_tasks() == others

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_it_can_be_stopped_before_it_has_started() -> None:
    async def run() -> None:
        stop = asyncio.Event()
        stop.set()
        await serve(Options(port=0, db=None), stop)

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


@pytest.mark.parametrize("port", [-1, 65_536])
def test_port_that_is_none_is_refused_and_leaves_no_socket(port: int, path: Path) -> None:
    with pytest.raises(OptionsError, match=f"{port}"):
        RunningCollector(port=port, db=path).start()
    assert not path.exists()
    gc.collect()  # a socket that was left open is a warning, and fails the test
