"""The units of a cluster's parts: systemd takes them, and the commands take their options."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from tests.support.systems import IS_WINDOWS

if IS_WINDOWS:
    pytest.skip("Linux only: the servers of a cluster", allow_module_level=True)

from redvsblue_telemetry.cli.collect import collect
from redvsblue_telemetry.cli.load import load
from redvsblue_telemetry.cli.view import view
from tests.support import REPOSITORY
from tests.support.command import PATIENCE

PAGE = (REPOSITORY / "docs" / "cluster.md").read_text()
EXECUTABLE = "/opt/redvsblue-telemetry/bin/redvsblue-telemetry"
SERVER = "/opt/redvsblue-telemetry/bin/nats-server"
ANALYZE = shutil.which("systemd-analyze")
SERVERS = "nats://10.0.0.1:4222,nats://10.0.0.2:4222,nats://10.0.0.3:4222"
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
each = pytest.mark.parametrize("name", ["gateway", "loader", "stream", "view"])


def text_of(name: str) -> str:
    return (REPOSITORY / "deploy" / f"redvsblue-{name}.service").read_text()


def analyze(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``systemd-analyze`` on a unit, with an executable that exists on this machine."""
    assert ANALYZE
    unit = folder / f"redvsblue-{name}.service"
    text = text_of(name).replace(EXECUTABLE, "/bin/true").replace(SERVER, "/bin/true")
    unit.write_text(text)
    command = [ANALYZE, *arguments, str(unit)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


@needs_systemd
@each
def test_unit_has_no_fault_that_systemd_sees(tmp_path: Path, name: str) -> None:
    done = analyze(tmp_path, name, "verify", "--man=no")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@each
def test_unit_leaves_the_service_little_that_it_could_harm(tmp_path: Path, name: str) -> None:
    done = analyze(tmp_path, name, "security", "--offline=true", "--threshold=20", "--no-pager")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "command", "variable", "options"),
    [
        ("gateway", collect, "COLLECT_OPTIONS", f"--stream {SERVERS} --host 0.0.0.0"),
        ("loader", load, "LOAD_OPTIONS", re.findall(r"^LOAD_OPTIONS=(.+)$", PAGE, re.MULTILINE)[0]),
        ("view", view, "VIEW_OPTIONS", re.findall(r"^VIEW_OPTIONS=(.+)$", PAGE, re.MULTILINE)[0]),
    ],
    ids=["gateway", "loader", "view"],
)
def test_unit_starts_the_command_with_options_that_it_takes(
    name: str, command: click.Command, variable: str, options: str
) -> None:
    (line,) = re.findall(r"^ExecStart=(.+)$", text_of(name), re.MULTILINE)
    executable, command_name, *arguments = shlex.split(line.replace(f"${variable}", options))
    assert (executable, command_name) == (EXECUTABLE, command.name)
    parameters = command.make_context(command_name, arguments).params
    assert parameters.get("stream", ()) == (() if command is view else tuple(SERVERS.split(",")))
    assert parameters["quiet"]


def test_unit_of_a_stream_server_and_its_configuration_agree() -> None:
    unit = text_of("stream")
    configuration = (REPOSITORY / "deploy" / "nats-server.conf").read_text()
    assert f"ExecStart={SERVER} --config /etc/nats/nats-server.conf\n" in unit
    (directory,) = re.findall(r"^StateDirectory=(.+)$", unit, re.MULTILINE)
    assert f'store_dir: "/var/lib/{directory}"' in configuration
    (environment,) = re.findall(r"cat > /etc/nats/environment <<END\n(.+?)^END", PAGE, re.M | re.S)
    set_there = set(re.findall(r"^(\w+)=", environment, re.MULTILINE))
    assert set_there == set(re.findall(r": \$([A-Z_]+)\b", configuration))


@pytest.mark.parametrize(
    ("command", "options"), [(collect, []), (load, ["--lake", "lake"])], ids=["collect", "load"]
)
def test_the_urls_of_the_stream_may_be_in_a_variable(
    command: click.Command, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDVSBLUE_COLLECTOR_STREAM", SERVERS)
    assert command.name
    assert command.make_context(command.name, options).params["stream"] == tuple(SERVERS.split(","))
