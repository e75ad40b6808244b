"""``collect`` as a service of systemd: what it reports, and the unit that ships with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry.cli._systemd import ServiceManager
from tests.support import REPOSITORY
from tests.support.command import PATIENCE, needs_posix, running_command

UNIT = REPOSITORY / "deploy" / "redvsblue-collector.service"
pytestmark = needs_posix


@contextlib.contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind("\0" + address[1:] if address.startswith("@") else address)
        yield sock


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "path":
        return str(tmp_path / "notify")
    if not Path("/proc/net/unix").exists():
        pytest.skip("only Linux has abstract sockets")
    return f"@redvsblue-{uuid.uuid4()}"


def received(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().split("\n")


def test_start_life_and_end_are_reported(address: str, tmp_path: Path) -> None:
    variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
    with (
        manager(address) as sock,
        running_command(
            "collect", "--port", 0, "--db", tmp_path / "t.sqlite3", **variables
        ) as collector,
    ):
        began = False
        lives = 0
        while not (began and lives >= 3):
            message = received(sock)
            if message == ["WATCHDOG=1"]:
                lives += 1
            else:
                assert message[0] == "READY=1"
                assert message[1].startswith("STATUS=collecting at http://127.0.0.1:")
                began = True
        collector.process.send_signal(signal.SIGTERM)
        while (message := received(sock)) == ["WATCHDOG=1"]:
            pass
        assert message == ["STOPPING=1", "STATUS=storing what was received"]
        assert collector.end() == 0
        assert collector.errors == ""


def test_reload_is_reported_with_its_time(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    before = time.monotonic_ns() // 1000
    with manager(address) as sock:
        service = ServiceManager({"NOTIFY_SOCKET": address})
        service.reloading()
        state, at = received(sock)
        service.ready("collecting")
        assert received(sock) == ["READY=1", "STATUS=collecting"]
    assert state == "RELOADING=1"
    name, _, microseconds = at.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"NOTIFY_SOCKET": "/" + "x" * 200},
        {"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "@nobody-listens-here", "WATCHDOG_USEC": "-1"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
def test_service_manager_that_is_not_there_does_no_harm(variables: dict[str, str]) -> None:
    async def run() -> None:
        service = ServiceManager(variables)
        async with service.watched():
            service.ready("collecting")
            service.reloading()
            await asyncio.sleep(0)
            service.stopping()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_manager_that_reads_nothing_holds_nothing_up(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with manager(address):
        service = ServiceManager({"NOTIFY_SOCKET": address})
        for _ in range(10_000):  # more than the socket takes
            service.stopping()


def test_watchdog_of_another_process_is_not_ours(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")

    async def run(pid: int) -> list[str]:
        variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(pid)}
        service = ServiceManager(variables)
        async with service.watched():
            await asyncio.sleep(0)
            service.stopping()
        return received(sock)

    with manager(address) as sock:
        assert asyncio.run(run(os.getppid()))[0] == "STOPPING=1"
        assert asyncio.run(run(os.getpid()))[0] == "WATCHDOG=1"


def test_hangup_ends_it_as_sigterm_does(tmp_path: Path) -> None:
    with running_command("collect", "--port", 0, "--db", tmp_path / "t.sqlite3") as collector:
        collector.wait_for("Press Ctrl-C to stop.\n")
        collector.process.send_signal(signal.SIGHUP)
        assert collector.end() == 0
        assert "stopped; everything received is stored" in collector.output


def test_hangup_stays_ignored_under_nohup(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a process inherits that
    try:
        with running_command("collect", "--port", 0, "--db", tmp_path / "t.sqlite3") as collector:
            collector.wait_for("Press Ctrl-C to stop.\n")
            status = Path(f"/proc/{collector.process.pid}/status")
            if status.exists():
                ignored = int(status.read_text().partition("SigIgn:\t")[2].split()[0], 16)
                assert ignored >> (signal.SIGHUP - 1) & 1
            collector.process.send_signal(signal.SIGHUP)
            collector.process.send_signal(signal.SIGTERM)
            assert collector.end() == 0
    finally:
        signal.signal(signal.SIGHUP, before)
