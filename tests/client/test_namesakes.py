"""Games with a module whose name is that of a package: telemetry is off and says why."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.systems import not_on_windows

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


HIDDEN = "redvsblue_telemetry._packages.HiddenModuleError"

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
    assert error.startswith(f"{HIDDEN}: {module} hides the package {distribution}, ")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "array",
            marks=pytest.mark.skipif(
                "array" in sys.builtin_module_names,
                reason="Python: `array` is part of the interpreter",
            ),
        ),
        pytest.param(
            "dataclasses",
            marks=pytest.mark.skipif(
                sys.version_info >= (3, 14), reason="Python: from 3.14 on, logging imports it"
            ),
        ),
        "random",
        "struct",
    ],
)
def test_a_module_of_python_that_only_a_start_needs_is_named_as_well(
    name: str, tmp_path: Path
) -> None:
    script, module = game_with(tmp_path, f"{name}.py")
    script.write_text(A_GAME.replace("import logging, sys", "import logging, sys, threading"))
    game = play(script, "on", "hidden")
    assert game.returncode == 0, game.stderr
    (line,) = game.stderr.splitlines()
    assert line.startswith(
        f"ERROR telemetry is off: {module} hides Python's own module {name}; rename it ("
    )
    assert re.search(rf"; rename it \(\w+Error: .*{name}.*\)$", line)  # the cause


@pytest.mark.parametrize("name", ["datetime", "decimal", "platform", "uuid"])
def test_a_module_of_python_that_is_needed_at_once_is_named_by_an_import_error(
    name: str, tmp_path: Path
) -> None:
    script, module = game_with(tmp_path, f"{name}.py")
    script.write_text("import redvsblue_telemetry")
    game = play(script)
    assert game.returncode == 1
    error = game.stderr.splitlines()[-1]
    assert error.startswith(f"{HIDDEN}: {module} hides Python's own module {name}; rename it (")
    assert game.stderr.count("Traceback") == 2  # the cause has one as well


def test_a_hidden_package_of_python_is_named_as_well(tmp_path: Path) -> None:
    script, module = game_with(tmp_path, "http/__init__.py", "")
    game = play(script, "on", "hidden")
    assert game.returncode == 0, game.stderr
    assert f"{module} hides Python's own module http; rename it (" in game.stderr


def play_with_harmless_namesake(folder: Path, start: str) -> str:
    """Play a game whose file `code.py` nobody needs; return what it logs."""
    script, _ = game_with(folder, "code.py", "")
    script.write_text(
        "import logging, os, sys\n"
        'logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)\n'
        "import code\n"
        # Python 3.15 imports more when it formats its first traceback, which `start` may prevent.
        "try: import no_such_module\n"
        "except ImportError: logging.Formatter().formatException(sys.exc_info())\n"
        "from redvsblue_telemetry import start_telemetry\n"
        f"{start}\n"
        'print(start_telemetry(enabled=True, url="ws://127.0.0.1:9/").is_running)\n'
    )
    game = play(script)
    assert (game.returncode, game.stdout) == (0, "False\n"), game.stderr
    assert game.stderr.startswith("ERROR telemetry is off: it could not be started\nTraceback")
    assert "hides" not in game.stderr
    return game.stderr.splitlines()[-1]


@not_on_windows("no limit of open files")
def test_a_start_without_descriptors_is_not_blamed_on_a_harmless_namesake(tmp_path: Path) -> None:
    error = play_with_harmless_namesake(
        tmp_path,
        "import resource, redvsblue_telemetry._delivery.worker\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 100))",
    )
    assert error == "OSError: [Errno 24] Too many open files"


NO_TENACITY = 'sys.modules["tenacity"] = None'
MISSING = "ModuleNotFoundError: import of tenacity halted; None in sys.modules"


@pytest.mark.parametrize(
    "path",
    [
        "pass",
        # A bundle's own archive has the standard library in it, and is the first place.
        "sys.path.insert(0, os.path.dirname(os.__file__))",
        "sys.path.insert(0, os.path.join(os.path.dirname(os.__file__), 'no such folder'))",
        pytest.param(
            "sys.path.clear()",
            marks=pytest.mark.skipif(
                sys.version_info >= (3, 15),
                reason="Python: from 3.15 on, traceback imports as it formats",
            ),
        ),
        "sys.frozen = True",
    ],
)
def test_a_missing_package_is_not_blamed_on_a_module_of_python_or_a_namesake(
    path: str, tmp_path: Path
) -> None:
    # All that comes before tenacity is imported here, since nothing can be without a path.
    start = (
        "import redvsblue_telemetry._delivery.worker as worker\n"
        'for name in [n for n in sys.modules if n.startswith("redvsblue_telemetry._delivery.")]:\n'
        "    if not name.endswith('.log'): del sys.modules[name]\n"
        f"{NO_TENACITY}\n{path}"
    )
    assert play_with_harmless_namesake(tmp_path, start) == MISSING


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_module_of_pythons_own_that_lacks_a_name_is_not_said_to_hide_itself(
    is_frozen: bool, tmp_path: Path
) -> None:
    error = play_with_harmless_namesake(
        tmp_path,
        "import random, redvsblue_telemetry._delivery.worker\n"
        "sys.path.insert(0, os.path.dirname(os.__file__))\n"
        "del random.SystemRandom\n" + "sys.frozen = True" * is_frozen,
    )
    assert error == "AttributeError: module 'random' has no attribute 'SystemRandom'"


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
