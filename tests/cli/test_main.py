"""The command line as a whole: quick, lazy, and clear about what is missing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import redvsblue_telemetry
from tests.support.command import environment, invoke_command, run_command
from tests.support.systems import needs_sigpipe

COMMANDS = [
    "run",
    "collect",
    "load",
    "stream",
    "view",
    "demo",
    "cluster",
    "check",
    "journal",
    "tail",
    "export",
    "query",
    "forget",
    "schema",
    "prove",
    "report",
]
OF_A_CLUSTER = {"load", "stream", "view", "cluster"}


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def without(*packages: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """The command line where packages aren't installed."""
    return run_python(
        f"import sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "from redvsblue_telemetry.__main__ import main\n"
        "sys.exit(main())"
    )


@needs_sigpipe
def test_a_closed_pipe_does_not_kill_it_where_the_signal_has_its_default_action() -> None:
    """As in a bundled program: the signal would end the collector when a client hangs up."""
    script = (
        "import signal, socket, sys\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "sys.argv[1:] = ['--version']\n"
        "from redvsblue_telemetry.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    one, other = socket.socketpair()\n"
        "    other.close()\n"
        "    try:\n"
        "        one.send(b'x')\n"
        "    except BrokenPipeError:\n"
        "        print('alive')\n"
    )
    done = run_python(script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nalive\n")


def test_help_names_every_command() -> None:
    done = run_command("--help")

    assert done.returncode == 0
    listed = done.stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    if name in OF_A_CLUSTER:
        pytest.importorskip("nats", reason="needs nats-py")
    done = invoke_command(name, "--help")

    assert done.exit_code == 0
    assert done.output.startswith(f"Usage: redvsblue-telemetry {name}")


def test_letters_that_an_output_lacks_are_escaped() -> None:
    done = run_command("collect", "--help", PYTHONIOENCODING="cp437")

    assert (done.returncode, done.stderr) == (0, "")
    assert r"--stream URL,URL,\u2026" in done.stdout


def test_version_is_the_package_s() -> None:
    done = invoke_command("--version")

    assert done.output == f"redvsblue-telemetry {redvsblue_telemetry.__version__}\n"


def test_unknown_command_is_an_error_of_usage() -> None:
    done = invoke_command("colect")

    assert done.exit_code == 2
    assert "No such command" in done.output


def test_without_the_extra_one_line_says_how_to_get_it() -> None:
    done = without("click", arguments=["collect"])

    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert 'needs click: pip install "redvsblue-telemetry[collector]"' in line


def test_package_that_is_missing_breaks_only_the_commands_that_need_it() -> None:
    collect = without("uvicorn", arguments=["collect"])
    tail = without("uvicorn", "starlette", "rich", "prometheus_client", arguments=["tail", "-h"])

    assert collect.returncode == 2
    (line,) = collect.stderr.splitlines()
    assert 'collect needs uvicorn: pip install "redvsblue-telemetry[collector]"' in line
    assert tail.returncode == 0, tail.stderr


def test_fault_of_our_own_is_not_taken_for_a_package_that_is_missing() -> None:
    done = without("redvsblue_telemetry.cli._terminal", arguments=["collect"])

    assert "pip install" not in done.stderr
    assert "Traceback" in done.stderr


def test_help_imports_none_of_the_commands_dependencies() -> None:
    heavy = ["asyncio", "rich", "starlette", "uvicorn", "uvloop", "pyarrow", "prometheus_client"]
    done = run_python(
        "import json, sys\n"
        "from redvsblue_telemetry.__main__ import main\n"
        "sys.argv[1:] = ['--help']\n"
        "try:\n    main()\n"
        "except SystemExit:\n"
        f"    print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )

    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_battle_needs_nothing_that_the_commands_need() -> None:
    done = without("click", "rich", arguments=[])
    assert done.returncode == 2  # so they are gone

    played = run_python(
        "import sys; sys.modules.update(dict.fromkeys(['click', 'rich', 'uvicorn']))\n"
        "from redvsblue_telemetry.cli.demo.battle import BattleEngine\n"
        "BattleEngine().update(0.1)"
    )

    assert played.returncode == 0, played.stderr
