"""Games with a module whose name is that of a package: telemetry is off and says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

A_GAME = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
import redvsblue_telemetry

telemetry = redvsblue_telemetry.start_telemetry(
    enabled="on" in sys.argv, url="ws://127.0.0.1:9/", backoff_base=600, backoff_max=600
)
telemetry.emit("x")
telemetry.flush(0)
is_on = "on" in sys.argv and "hidden" not in sys.argv
assert telemetry.is_running == telemetry.enabled == is_on
assert telemetry.stop(0) != is_on  # nothing listens at the port
print("played to the end")
"""


def play(script: Path, *switches: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script.name, *switches],
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def game_with(folder: Path, name: str, text: str = "print('hello')\n") -> tuple[Path, Path]:
    """Return the game's script and the module beside it."""
    script, module = folder / "game.py", folder / name
    script.write_text(A_GAME)
    module.parent.mkdir(exist_ok=True)
    module.write_text(text)
    return script, module


NAMES = {
    "websocket.py": "websocket-client",
    "websocket/__init__.py": "websocket-client",
    "tenacity.py": "tenacity",
    "tenacity/__init__.py": "tenacity",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_game_with_telemetry_off_does_not_notice(name: str, tmp_path: Path) -> None:
    script, _ = game_with(tmp_path, name)
    game = play(script, "off")
    assert (game.returncode, game.stdout, game.stderr) == (0, "played to the end\n", "")


@pytest.mark.parametrize("name", NAMES)
def test_one_error_names_the_file_and_the_game_goes_on(name: str, tmp_path: Path) -> None:
    script, module = game_with(tmp_path, name)
    game = play(script, "on", "hidden")
    assert game.returncode == 0, game.stderr
    assert game.stderr == (
        f"ERROR telemetry is off: {module} hides the package {NAMES[name]}, "
        "which redvsblue_telemetry needs; rename it\n"
    )
    is_run = name.endswith("__init__.py")  # a lone module may be the game itself, so it isn't
    assert game.stdout == "hello\n" * is_run + "played to the end\n"


def test_so_it_is_if_the_game_has_imported_its_module_before(tmp_path: Path) -> None:
    script, module = game_with(tmp_path, "websocket.py")
    script.write_text("import websocket\n" + A_GAME)
    game = play(script, "on", "hidden")
    assert game.returncode == 0, game.stderr
    assert f"{module} hides the package websocket-client" in game.stderr
    assert game.stdout == "hello\nplayed to the end\n"


def test_so_it_is_if_the_module_is_the_game_itself(tmp_path: Path) -> None:
    _, module = game_with(tmp_path, "websocket.py", A_GAME)
    game = play(module, "on", "hidden")
    assert game.returncode == 0, game.stderr
    assert game.stderr.count("ERROR") == 1
    assert f"{module} hides the package websocket-client" in game.stderr
    assert game.stdout == "played to the end\n"  # once


def test_the_toggle_of_such_a_game_does_not_raise(tmp_path: Path) -> None:
    script, module = game_with(tmp_path, "websocket.py")
    script.write_text(
        "from redvsblue_telemetry import Telemetry, TelemetrySettings\n"
        "telemetry = Telemetry(TelemetrySettings(enabled=True))\n"
        "telemetry.enabled = True\n"
        "print(telemetry.enabled, telemetry.stop(0))\n"
    )
    game = play(script)
    assert (game.returncode, game.stdout) == (0, "False True\n"), game.stderr
    assert f"{module} hides the package websocket-client" in game.stderr


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("attr.py", "attrs"),
        ("attrs.py", "attrs"),
        ("msgspec.py", "msgspec"),
        ("msgspec/__init__.py", "msgspec"),
    ],
)
def test_a_package_that_is_needed_at_once_is_named_by_an_import_error(
    name: str, distribution: str, tmp_path: Path
) -> None:
    script, module = game_with(tmp_path, name)
    game = play(script)
    assert game.returncode == 1
    error = game.stderr.splitlines()[-1]
    assert error.startswith(f"ImportError: {module} hides the package {distribution}, ")


@pytest.mark.parametrize("name", ["array", "dataclasses", "random", "struct"])
def test_a_module_of_python_that_only_a_start_needs_is_named_as_well(
    name: str, tmp_path: Path
) -> None:
    script, module = game_with(tmp_path, f"{name}.py")
    script.write_text(A_GAME.replace("import logging, sys", "import logging, sys, threading"))
    game = play(script, "on", "hidden")
    assert game.returncode == 0, game.stderr
    assert game.stderr == (
        f"ERROR telemetry is off: {module} hides Python's own module {name}; rename it\n"
    )


@pytest.mark.parametrize("name", ["datetime", "decimal", "platform", "uuid"])
def test_a_module_of_python_that_is_needed_at_once_is_named_by_an_import_error(
    name: str, tmp_path: Path
) -> None:
    script, module = game_with(tmp_path, f"{name}.py")
    script.write_text("import redvsblue_telemetry")
    game = play(script)
    assert game.returncode == 1
    error = game.stderr.splitlines()[-1]
    assert error == f"ImportError: {module} hides Python's own module {name}; rename it"


def test_games_without_such_a_module_play(tmp_path: Path) -> None:
    script, _ = game_with(tmp_path, "levels.py")
    game = play(script, "on")
    assert game.returncode == 0, game.stderr


def test_importing_the_package_imports_neither_the_worker_nor_its_packages(tmp_path: Path) -> None:
    script = tmp_path / "game.py"
    script.write_text(
        "import sys, redvsblue_telemetry\n"
        "redvsblue_telemetry.start_telemetry(enabled=False).emit('x')\n"
        "redvsblue_telemetry.stop_telemetry()\n"
        "late = ['websocket', 'tenacity', 'urllib.request', 'http']\n"
        "print([name for name in late if name in sys.modules])\n"
        "from redvsblue_telemetry import TelemetryConnector\n"
        "assert TelemetryConnector is redvsblue_telemetry.TelemetryConnector\n"
    )
    game = play(script)
    assert (game.returncode, game.stdout) == (0, "[]\n"), game.stderr
