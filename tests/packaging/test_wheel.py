"""The wheel as a user gets it: built, installed with its dependencies, imported elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import venv
import zipfile
from collections.abc import Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from tests.support import REPOSITORY

PACKAGE = REPOSITORY / "redvsblue_telemetry"
PLUGIN = "_redvsblue_telemetry_pytest"
RUNTIME_DEPENDENCIES = {"attrs", "msgspec", "tenacity", "websocket-client"}

# Two environments are made and filled over the network: a slow network is no failure.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def package_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips, and says why, where the package index can't be reached. Any other fault fails."""
    folder = tmp_path_factory.mktemp("downloads")
    # One retry, because pip says what hinders it only when it tries again.
    download = ["download", "--retries=1", "--timeout=15", "--no-cache-dir", "--no-deps"]
    asked = subprocess.run(
        [sys.executable, "-m", "pip", *download, f"--dest={folder}", "attrs"],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode == 0:
        return
    unreachable = re.search(
        r"^.*(connection|timed? ?out|name resolution|unreachable).*$",
        asked.stderr,
        re.IGNORECASE | re.MULTILINE,
    )
    if unreachable:
        pytest.skip(f"the package index can't be reached: {unreachable.group().strip()}")
    pytest.fail(f"pip can't download a package:\n{asked.stderr}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, package_index: None) -> Path:
    """Built from a copy: setuptools writes `build` and `*.egg-info` beside what it reads."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", f"{PLUGIN}.py"):
        shutil.copy(REPOSITORY / name, source)
    no_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=no_caches)
    wheels = tmp_path_factory.mktemp("wheels")

    _run([sys.executable, "-m", "build", "--wheel", f"--outdir={wheels}", source], cwd=source)

    (built,) = wheels.iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode("utf-8"))


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The interpreter of an environment with the wheel and what its metadata asks for."""
    environment = tmp_path_factory.mktemp("clean")
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    _run([python, "-m", "pip", "install", "--quiet", wheel], cwd=environment)

    return python


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}

    modules = {path.relative_to(REPOSITORY).as_posix() for path in PACKAGE.rglob("*.py")}
    files = [
        *(PACKAGE / "collector" / "static").iterdir(),
        PACKAGE / "cli" / "report" / "report.css",
    ]
    data = {path.relative_to(REPOSITORY).as_posix() for path in files}
    assert packed == modules | data | {"redvsblue_telemetry/py.typed", f"{PLUGIN}.py"}


def test_metadata_asks_for_the_four_runtime_dependencies(metadata: Message) -> None:
    requirements = metadata.get_all("Requires-Dist", [])

    without_extras = {_name(text) for text in requirements if "extra ==" not in text}
    assert without_extras == RUNTIME_DEPENDENCIES


def test_installing_the_wheel_installs_the_four_and_no_more(
    clean_python: Path, tmp_path: Path
) -> None:
    printed = _run([clean_python, "-m", "pip", "list", "--format=json"], cwd=tmp_path)

    installed = {_name(distribution["name"]) for distribution in json.loads(printed)}
    # Python 3.10 and 3.11 put setuptools into each new environment themselves.
    assert installed - {"pip", "setuptools"} == RUNTIME_DEPENDENCIES | {"redvsblue-telemetry"}


def test_installed_package_is_imported_from_its_environment_with_the_wheels_version(
    clean_python: Path, metadata: Message, tmp_path: Path
) -> None:
    file, version = _answers(
        clean_python,
        """
        import redvsblue_telemetry
        answers = redvsblue_telemetry.__file__, redvsblue_telemetry.__version__
        """,
        cwd=tmp_path,
    )

    assert clean_python.parents[1].resolve() in Path(file).resolve().parents
    assert (Path(file).parent / "py.typed").is_file()
    assert version == metadata["Version"]


def test_without_settings_telemetry_is_off_and_no_thread_starts(
    clean_python: Path, tmp_path: Path
) -> None:
    enabled, threads = _answers(
        clean_python,
        """
        import threading
        from redvsblue_telemetry import start_telemetry
        telemetry = start_telemetry()
        telemetry.emit("ship_destroyed", {"shipId": "red-3"})
        answers = telemetry.enabled, [thread.name for thread in threading.enumerate()]
        """,
        cwd=tmp_path,
    )

    assert not enabled
    assert threads == ["MainThread"]


def test_importing_the_package_imports_no_websockets(clean_python: Path, tmp_path: Path) -> None:
    # Something to import: if there were nothing, an import that is guarded would go unseen.
    (tmp_path / "websockets.py").touch()

    imported, can_be_imported = _answers(
        clean_python,
        """
        import importlib.util, sys
        import redvsblue_telemetry
        answers = "websockets" in sys.modules, importlib.util.find_spec("websockets") is not None
        """,
        cwd=tmp_path,
    )

    assert can_be_imported
    assert not imported


def _answers(python: Path, script: str, cwd: Path) -> list[Any]:
    """Run `script` with warnings as errors and return what it leaves in `answers`."""
    script = textwrap.dedent(script) + "import json; print(json.dumps(answers))"
    answers: list[Any] = json.loads(_run([python, "-W", "error", "-c", script], cwd=cwd))
    return answers


def _run(command: Sequence[str | Path], cwd: Path) -> str:
    """Run `command` and return what it printed; if it fails, show all that it said."""
    done = subprocess.run(
        command, cwd=cwd, env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _environment() -> dict[str, str]:
    """What pip may need to find its index, without what would change Python or telemetry."""
    changing = ("COVERAGE_", "PYTHON", "REDVSBLUE_", "DO_NOT_TRACK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(changing)}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def _name(requirement: str) -> str:
    """The normalized name: of `Websocket_Client >=1.7`, `websocket-client`."""
    (name,) = re.findall(r"^[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", name).lower()
