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
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.support import REPOSITORY
from tests.support.systems import not_under_wine

pytestmark = not_under_wine("its Python has no launcher for virtual environments")

PACKAGE = REPOSITORY / "redvsblue_telemetry"
PLUGIN = "_redvsblue_telemetry_pytest"
RUNTIME_DEPENDENCIES = {"attrs", "msgspec", "tenacity", "websocket-client"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built by a Python that can import setuptools and nothing else.

    It is made by hand, because pip would download setuptools to do the same. The source is a copy:
    setuptools writes `build` and `*.egg-info` beside it.
    """
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", f"{PLUGIN}.py"):
        shutil.copy(REPOSITORY / name, source)
    no_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=no_caches)
    wheels = tmp_path_factory.mktemp("wheels")
    python = _new_environment(tmp_path_factory.mktemp("build"), ["setuptools"])

    _run(
        [
            python,
            "-c",
            f"from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})",
        ],
        cwd=source,
    )

    (built,) = wheels.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode("utf-8"))


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The interpreter of an environment with the wheel and its four dependencies."""
    environment = tmp_path_factory.mktemp("clean")
    python = _new_environment(environment, sorted(RUNTIME_DEPENDENCIES))
    offline = ["--quiet", "--no-index", "--no-deps", f"--target={_site_packages(environment)}"]

    _run([sys.executable, "-m", "pip", "install", *offline, wheel], cwd=environment)

    return python


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}

    files = {
        path.relative_to(REPOSITORY).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == files | {f"{PLUGIN}.py"}


def test_metadata_asks_for_the_four_runtime_dependencies(wheel_metadata: Message) -> None:
    requirements = wheel_metadata.get_all("Requires-Dist", [])

    without_extras = {_name(text) for text in requirements if "extra ==" not in text}
    assert without_extras == RUNTIME_DEPENDENCIES


def test_the_four_dependencies_need_no_others(clean_python: Path, tmp_path: Path) -> None:
    needed = _answers(
        clean_python,
        """
        from importlib.metadata import distributions
        answers = {each.metadata["Name"]: each.requires or [] for each in distributions()}
        """,
        cwd=tmp_path,
    )

    assert {_name(name) for name in needed} == RUNTIME_DEPENDENCIES | {"redvsblue-telemetry"}
    without_extras = {
        _name(text) for texts in needed.values() for text in texts if "extra ==" not in text
    }
    assert without_extras == RUNTIME_DEPENDENCIES


def test_installed_package_is_imported_from_its_environment_with_the_wheels_version(
    clean_python: Path, wheel_metadata: Message, tmp_path: Path
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
    assert version == wheel_metadata["Version"]


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


def _new_environment(folder: Path, distributions: Sequence[str]) -> Path:
    """Make an environment with copies of distributions that are installed here.

    Returns its interpreter.
    """
    venv.create(folder)
    for name in distributions:
        for file in metadata.files(name) or []:
            if not file.parts[0].startswith(".."):  # a script
                target = _site_packages(folder) / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file.locate(), target)  # whose bytecode then stays valid
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _site_packages(environment: Path) -> Path:
    (path,) = environment.glob("[Ll]ib/**/site-packages")
    return path


def _answers(python: Path, script: str, cwd: Path) -> list[Any]:
    """Run `script` with warnings as errors and return what it leaves in `answers`."""
    script = textwrap.dedent(script) + "import json; print(json.dumps(answers))"
    answers: list[Any] = json.loads(_run([python, "-W", "error", "-c", script], cwd=cwd))
    return answers


def _run(command: Sequence[str | Path], cwd: Path) -> str:
    """Run `command` and return what it printed; if it fails, show all its output."""
    done = subprocess.run(
        command, cwd=cwd, env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _environment() -> dict[str, str]:
    """This environment, without the variables that would change Python, pip or telemetry."""
    changing = ("COVERAGE_", "PYTHON", "PIP_", "REDVSBLUE_", "DO_NOT_TRACK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(changing)}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def _name(requirement: str) -> str:
    """The normalized name: of `Websocket_Client >=1.7`, `websocket-client`."""
    (name,) = re.findall(r"^[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", name).lower()
