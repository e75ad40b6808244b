"""The configuration of the stream's servers in deploy/: three servers run it, and let few in."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import pytest
from websockets.sync.client import connect as connect_websocket

pytest.importorskip("nats", reason="needs nats-py")

from redvsblue_telemetry import Telemetry
from redvsblue_telemetry.cluster.local.children import Child, Guard
from redvsblue_telemetry.cluster.local.ports import ReservedPort
from redvsblue_telemetry.cluster.local.servers import ServersError, find_program
from redvsblue_telemetry.cluster.stream import STREAM, StreamClient, StreamOptions, connect
from tests.cluster.gateways import Gateway, gateway_running
from tests.cluster.loader.loaders import (
    PATIENCE,
    loader_running,
    sequences,
    stored,
    wait_for_events,
)
from tests.collector.clients import array, client_of, game, next_ack, read_to_the_end
from tests.collector.test_tls import Files
from tests.support import REPOSITORY
from tests.support.command import run_command
from tests.support.systems import needs_posix
from tests.support.wait import wait_until

pytestmark = [needs_posix, pytest.mark.slow, pytest.mark.timeout(300)]

TEXT = (REPOSITORY / "deploy" / "nats-server.conf").read_text("utf-8")
VIOLATION = "Violation"
USERS = ("gateway", "loader", "admin")
ARCHIVED = {"Telemetry-Ack": "cumulative", "Telemetry-Confirm": "archived"}


class Servers:
    """Servers with that configuration, on loopback: three that run, and more that can be added."""

    def __init__(self, folder: Path, program: str, stack: contextlib.ExitStack) -> None:
        self.files = Files(folder)
        ports = [[ReservedPort() for _ in range(3)] for _ in range(5)]
        for port in sum(ports, []):
            stack.callback(port.release)
        self._ports = [clients.number for clients, _, _ in ports]
        guard = stack.enter_context(Guard())
        self._logs: list[Path] = []
        self._stores: list[Path] = []
        self._monitors = [monitor.address for _, _, monitor in ports]
        self.children = []
        for number, (clients, routes, monitor) in enumerate(ports, 1):
            place = folder / f"stream-{number}"
            place.mkdir()
            changes = {
                "0.0.0.0:4222": clients.address,
                "0.0.0.0:6222": routes.address,
                "127.0.0.1:8222": monitor.address,
                "/var/lib/nats": str(place / "store"),
                "/etc/nats/tls/cert.pem": str(self.files.cert),
                "/etc/nats/tls/key.pem": str(self.files.key),
                "/etc/nats/tls/ca.pem": str(self.files.trust),
                "100GB": "1GB",
                "lame_duck_grace_period: 5s": "lame_duck_grace_period: 1s",
            } | {
                f"stream-{other}.example.com:6222": each[1].address
                for other, each in enumerate(ports[:3], 1)
            }
            text = TEXT
            for old, new in changes.items():
                assert old in text
                text = text.replace(old, new)
            (place / "nats-server.conf").write_text(text)
            variables = os.environ | {
                "NODE": f"stream-{number}",
                **{f"{user.upper()}_PASSWORD": f"of-{user}" for user in USERS},
            }
            log = place / "server.log"
            arguments = [program, "--config", str(place / "nats-server.conf")]
            child = Child(f"stream-{number}", arguments, log, guard, variables)
            stack.callback(child.kill)
            if number <= 3:
                child.start()
            self.children.append(child)
            self._stores.append(place / "store")
            self._logs.append(log)

    def wait_current(self) -> None:
        """Wait until each of the three has all that is stored, as the docs say."""
        assert wait_until(lambda: all(map(_is_well, self._monitors[:3])), PATIENCE), self.log

    def drain(self, index: int) -> int:
        """End a server as its unit does; return its exit code."""
        child = self.children[index]
        assert child.pid is not None
        os.kill(child.pid, signal.SIGUSR2)
        assert wait_until(lambda: not child.is_running, 2 * PATIENCE), self.log
        assert child.exit_code is not None
        return child.exit_code

    def lose_disk(self, index: int) -> None:
        self.children[index].kill()
        shutil.rmtree(self._stores[index])

    @property
    def log(self) -> str:
        return "".join(log.read_text() for log in self._logs if log.exists())

    def urls(self, user: str, password: str | None = None) -> tuple[str, ...]:
        login = f"{user}:{password or f'of-{user}'}"
        return tuple(f"tls://{login}@127.0.0.1:{port}" for port in self._ports)

    @contextlib.asynccontextmanager
    async def client(self, user: Literal["gateway", "loader"]) -> AsyncIterator[StreamClient]:
        options = StreamOptions(servers=self.urls(user), ca=self.files.trust)
        client = await connect(options, "test", role=user, on_error=_ignore)
        try:
            yield client
        finally:
            await client.close()

    @property
    def trust(self) -> tuple[str, str]:
        return ("--stream-ca", str(self.files.trust))


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    try:
        program = find_program()
    except ServersError as error:
        pytest.skip(f"needs nats-server: {error}")
    with contextlib.ExitStack() as stack:
        servers = Servers(tmp_path, program, stack)
        ready = lambda: servers.log.count("Server is ready") == 3  # noqa: E731
        assert wait_until(ready, PATIENCE), servers.log
        assert wait_until(lambda: "new metadata leader" in servers.log, PATIENCE), servers.log
        yield servers


def test_gateways_and_loaders_have_the_rights_that_they_need(
    servers: Servers, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    # What is in the lake is deleted from the stream at once, so that right is used, too.
    options = (*servers.trust, "--stream-keep", "1s")
    with (
        gateway_running(servers.urls("gateway"), *servers.trust) as gateway,
        loader_running(servers.urls("loader"), lake, *options) as loader,
    ):
        with client_of(gateway) as client:
            client.send(array(1, 2))
            assert next_ack(client) == 1
            wait_for_events(lake, 2)
        with connect_websocket(gateway.url, additional_headers=ARCHIVED, proxy=None) as client:
            client.send(array(3))
            while json.loads(client.recv(timeout=PATIENCE)).get("ack") != 1:
                pass  # it is stored, and not archived yet
            assert [row["seq"] for row in stored(lake)] == [1, 2, 3]
        erasing = (*servers.trust, "--stream", ",".join(servers.urls("loader")), "--yes")
        erased = run_command("forget", "--lake", lake, *erasing, "--session", "s")
        assert (erased.returncode, erased.stderr) == (0, "")
        assert stored(lake) == []
        assert wait_until(lambda: _messages(servers) == 0, PATIENCE)
        assert gateway.is_healthy
        assert loader.ask("/healthz")[0] == 200
        loader.stop()
    assert VIOLATION not in servers.log


def test_who_has_a_wrong_password_does_not_get_in(servers: Servers) -> None:
    for urls in (servers.urls("gateway", "of-loader"), servers.urls("nobody")):
        with (
            gateway_running(urls, *servers.trust, waits=False) as gateway,
            client_of(gateway) as client,
        ):
            gateway.running.wait_for("Authorization Violation")
            assert not gateway.is_healthy
            client.send(array(1))
            assert read_to_the_end(client) == ([], 1013)


def test_nobody_may_do_what_is_the_task_of_others(servers: Servers) -> None:
    forbidden: dict[Literal["gateway", "loader"], tuple[str, ...]] = {
        "gateway": (
            f"$JS.API.STREAM.PURGE.{STREAM}",
            f"$JS.API.STREAM.DELETE.{STREAM}",
            f"$JS.API.DIRECT.GET.{STREAM}",
            f"$JS.API.STREAM.UPDATE.{STREAM}",
            "$KV.telemetry-leases.loaders",
            "$JS.API.SERVER.REMOVE",
        ),
        "loader": (
            "telemetry.messages.0",
            "telemetry.archive.0",
            f"$JS.API.STREAM.DELETE.{STREAM}",
            "$JS.API.SERVER.REMOVE",
        ),
    }

    unreadable: dict[Literal["gateway", "loader"], tuple[str, ...]] = {
        "gateway": ("_INBOX.loader.>", "_INBOX.>", "telemetry.messages.*", ">"),
        "loader": ("_INBOX.gateway.>", "_INBOX.>", "telemetry.messages.*", ">"),
    }

    async def attempt(user: Literal["gateway", "loader"]) -> None:
        async with servers.client(user) as client:
            for subject in forbidden[user]:
                await client.publish(subject, b"{}")
            for subject in unreadable[user]:
                await client.subscribe(subject)
            await client.flush()

    for user, subjects in forbidden.items():
        asyncio.run(asyncio.wait_for(attempt(user), PATIENCE))
        refused = [("Publish", subject) for subject in subjects]
        refused += [("Subscription", subject) for subject in unreadable[user]]
        for kind, subject in refused:
            said = f'user:{user}" - {kind} Violation - Subject "{subject}"'
            assert wait_until(lambda said=said: said in servers.log, PATIENCE), said


@contextlib.contextmanager
def playing(gateway: Gateway) -> Iterator[Telemetry]:
    """A game that emits 100 events a second, until the end of the block."""
    with game(gateway, capacity=1_000_000) as telemetry:
        stop = threading.Event()

        def play() -> None:
            while not stop.wait(0.01):
                telemetry.emit("ship_moved", x=1)

        player = threading.Thread(target=play)
        player.start()
        try:
            yield telemetry
        finally:
            stop.set()
            player.join()
        assert telemetry.flush(PATIENCE)


def assert_all_is_there(lake: Path, telemetry: Telemetry) -> None:
    """All that a game has emitted is in the lake, once."""
    stats = telemetry.stats()
    assert stats.dropped == 0
    wait_for_events(lake, stats.emitted)
    assert set(sequences(lake).values()) == {1}
    assert len(sequences(lake)) == stats.emitted


def test_servers_are_upgraded_and_replaced_while_games_play(
    servers: Servers, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    with (
        gateway_running(servers.urls("gateway"), *servers.trust) as gateway,
        loader_running(servers.urls("loader"), lake, *servers.trust),
    ):
        with playing(gateway) as telemetry:
            for index, child in enumerate(servers.children[:3]):
                assert servers.drain(index) == 0
                child.start()
                servers.wait_current()
            servers.lose_disk(1)
            servers.children[1].start()
            servers.wait_current()
            # Now the two that were there before are not needed one by one.
            servers.children[0].kill()
            before = telemetry.stats().delivered
            assert wait_until(lambda: telemetry.stats().delivered > before + 100, PATIENCE)
        assert_all_is_there(lake, telemetry)


def test_servers_with_new_names_take_the_place_of_others(servers: Servers, tmp_path: Path) -> None:
    lake = tmp_path / "lake"

    def command(*arguments: str) -> tuple[int, str]:
        asked = ("stream", "--stream", ",".join(servers.urls("admin")), *servers.trust)
        done = run_command(*asked, *arguments)
        return done.returncode, done.stdout + done.stderr

    def wait_for(text: str) -> None:
        assert wait_until(lambda: text in command()[1], PATIENCE), command()

    def refused(name: str, reason: str) -> bool:
        code, said = command("--remove", name, "--yes")
        return code == 2 and reason in said

    with (
        gateway_running(servers.urls("gateway"), *servers.trust) as gateway,
        loader_running(servers.urls("loader"), lake, *servers.trust) as loader,
    ):
        with playing(gateway) as telemetry:
            wait_for("3 servers with all that is stored")
            assert refused("stream-2", "stream-2 is running; stop it first")
            assert refused("stream-7", "there is no server stream-7")
            servers.lose_disk(1)
            wait_for("stream-2  does not run; has a copy")
            assert command()[0] == 1
            assert refused("stream-2", "start one with a new name first")

            servers.children[3].start()
            wait_for("stream-4  no copy")
            assert command("--remove", "stream-2", "--yes") == (0, "")
            wait_for("3 servers with all that is stored")
            assert "stream-2" not in command()[1]

            # Any other may go now: the new one has everything.
            servers.children[4].start()
            wait_for("stream-5  no copy")
            servers.lose_disk(0)
            assert wait_until(lambda: command("--remove", "stream-1", "--yes")[0] == 0, PATIENCE)
            wait_for("3 servers with all that is stored")
            assert command()[0] == 0
            before = telemetry.stats().delivered
            assert wait_until(lambda: telemetry.stats().delivered > before + 100, PATIENCE)
            assert loader.metric("telemetry_stream_replicas") == 3
        assert_all_is_there(lake, telemetry)


def test_servers_are_shown_to_their_admin_only(servers: Servers) -> None:
    for user, reason in (("gateway", "have no leader"), ("nobody", "Authorization Violation")):
        asked = ("stream", "--stream", ",".join(servers.urls(user)), *servers.trust)
        done = run_command(*asked)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr


def _is_well(monitor: str) -> bool:
    connection = http.client.HTTPConnection(monitor, timeout=10)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False  # it starts


def _messages(servers: Servers) -> int:
    async def ask() -> int:
        async with servers.client("gateway") as client:
            return int((await client.jetstream().stream_info(STREAM)).state.messages)

    return asyncio.run(asyncio.wait_for(ask(), PATIENCE))


async def _ignore(_: Exception) -> None:
    """The servers' logs have it."""
