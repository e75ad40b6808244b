"""``collect`` as a service of systemd: what it reports, and the unit that ships with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry.cli._systemd import ServiceManager
from redvsblue_telemetry.cli.collect import collect
from redvsblue_telemetry.collector import listening, server
from redvsblue_telemetry.collector.client import READ_TOKEN_VARIABLE, TOKEN_VARIABLE
from redvsblue_telemetry.collector.server import Options
from tests.support import REPOSITORY
from tests.support.command import PATIENCE, running_command
from tests.support.systems import needs_posix

UNIT = REPOSITORY / "deploy" / "redvsblue-collector.service"
pytestmark = needs_posix


@contextlib.contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind("\0" + address[1:] if address.startswith("@") else address)
        yield sock


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "path":
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # macOS allows 103 characters
            yield f"{folder}/notify"
    elif Path("/proc/net/unix").exists():
        yield f"@redvsblue-{uuid.uuid4()}"
    else:
        pytest.skip("Linux only: abstract sockets")


def received(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().split("\n")


def test_start_life_and_end_are_reported(address: str, tmp_path: Path) -> None:
    # Seldom enough that the socket has room for the others while the test has no turn.
    variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000"}
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


@contextlib.contextmanager
def inheriting(action: signal.Handlers) -> Iterator[None]:
    """Have processes do this at SIGHUP; they would inherit it from ``nohup``."""
    before = signal.signal(signal.SIGHUP, action)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def test_hangup_ends_it_as_sigterm_does(tmp_path: Path) -> None:
    with (
        inheriting(signal.SIG_DFL),
        running_command("collect", "--port", 0, "--db", tmp_path / "t.sqlite3") as collector,
    ):
        collector.wait_for("Press Ctrl-C to stop.\n")
        collector.process.send_signal(signal.SIGHUP)
        assert collector.end() == 0
        assert "stopped; everything received is stored" in collector.output


def test_hangup_stays_ignored_under_nohup(tmp_path: Path) -> None:
    with (
        inheriting(signal.SIG_IGN),
        running_command("collect", "--port", 0, "--db", tmp_path / "t.sqlite3") as collector,
    ):
        collector.wait_for("Press Ctrl-C to stop.\n")
        status = Path(f"/proc/{collector.process.pid}/status")
        if status.exists():
            ignored = int(status.read_text().partition("SigIgn:\t")[2].split()[0], 16)
            assert ignored >> (signal.SIGHUP - 1) & 1
        collector.process.send_signal(signal.SIGHUP)
        collector.process.send_signal(signal.SIGTERM)
        assert collector.end() == 0


# The unit, and the page on how to install it.

PAGE = (REPOSITORY / "docs" / "deployment.md").read_text()
EXECUTABLE = "/opt/redvsblue-collector/bin/redvsblue-telemetry"
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")


def entries(name: str) -> list[str]:
    """The values that the unit gives a setting."""
    lines = UNIT.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``systemd-analyze`` on the unit, with an executable that exists on this machine."""
    assert ANALYZE
    unit = folder / UNIT.name
    unit.write_text(UNIT.read_text().replace(EXECUTABLE, "/bin/true"))
    command = [ANALYZE, *arguments, str(unit)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


@needs_systemd
def test_unit_has_no_fault_that_systemd_sees(tmp_path: Path) -> None:
    done = analyze(tmp_path, "verify", "--man=no")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_unit_leaves_the_service_little_that_it_could_harm(tmp_path: Path) -> None:
    done = analyze(tmp_path, "security", "--offline=true", "--threshold=20", "--no-pager")
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level for" in done.stdout


def options_of_the_page() -> list[str]:
    (options,) = re.findall(r"^COLLECT_OPTIONS=(.+)$", PAGE, re.MULTILINE)
    (tls,) = re.findall(r"\^COLLECT_OPTIONS=\|&(.+) \|'", PAGE)
    return shlex.split(f"{tls} {options}")


def test_unit_starts_the_collector_with_options_that_it_takes() -> None:
    (line,) = entries("ExecStart")
    executable, name, *arguments = shlex.split(line.replace("$COLLECT_OPTIONS", ""))
    assert (executable, name) == (EXECUTABLE, "collect")
    parameters = collect.make_context(name, [*arguments, *options_of_the_page()]).params
    assert str(parameters["db"]) == "${STATE_DIRECTORY}/telemetry.sqlite3"
    assert parameters["tls_cert"] == Path("/etc/ssl/telemetry/fullchain.pem")
    assert parameters["hosts"] == ("telemetry.example.com",)
    assert parameters["max_bytes"] == 20 * 1000**3


def test_page_and_unit_name_the_same_files() -> None:
    (environment_file,) = entries("EnvironmentFile")
    assert f"cat > {environment_file} <<END" in PAGE
    assert f"{Path(EXECUTABLE).parent}/pip install" in PAGE
    assert f"--output /etc/systemd/system/{UNIT.name}" in PAGE
    assert f"/deploy/{UNIT.name}\n" in PAGE
    for variable in (TOKEN_VARIABLE, READ_TOKEN_VARIABLE):
        assert f"\n{variable}=$(openssl " in PAGE


def test_limits_of_the_page_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE))
    assert f"{Options().max_connections:,};" in rows["games connected at once"]
    assert rows["other connections, such as browsers"] == f"{server._OTHER_CONNECTIONS:,}"
    timeout = rows["time for a TLS handshake, and for a request"]
    assert timeout == f"{listening._REQUEST_TIMEOUT:g} seconds each"
    crowd = rows["connections without a complete request"]
    assert crowd.startswith(f"{listening._MAX_WAITING};")
    stalled = rows["a client that reads nothing of its answer"]
    assert stalled == f"ended after {listening._STALL_TIMEOUT:g} seconds"
    (files,) = map(int, entries("LimitNOFILE"))
    assert f"the unit allows {files:,};" in rows["open files"]
    assert files >= Options().max_connections + server._OTHER_CONNECTIONS + server._OTHER_FILES


def test_commands_of_the_page_are_valid_shell() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    for block in blocks:
        subprocess.run(["sh", "-n"], input=block, text=True, check=True)
