"""The bundlers: how each of them makes a program of the game."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import attrs

__all__ = ["KINDS", "Bundle", "Command", "Kind", "build"]

Command = Callable[[tuple[str, ...]], Iterator[str]]
"""``command(excluded)`` returns the arguments for Python, without these modules in the bundle."""

GAME = Path(__file__).with_name("game.py")

# Left out of the game without telemetry, which is built for its size and never run.
TELEMETRY = ("redvsblue_telemetry", "certifi", "truststore", "ssl")


@attrs.frozen
class Kind:
    """A kind of bundle that a bundler makes."""

    package: str
    name: str
    command: Command
    program: str
    """The file to start, in the folder of the build."""
    is_folder: bool = True
    """Whether the bundle is all of the program's folder."""

    def __str__(self) -> str:
        return f"{self.bundler}, {self.name}"

    @property
    def bundler(self) -> str:
        """Its name and version."""
        return f"{self.package} {version(self.package)}"


@attrs.frozen
class Bundle:
    """A bundled game."""

    kind: Kind
    program: Path

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        if not self.kind.is_folder:
            return self.program.stat().st_size
        files = (path for path in self.program.parent.rglob("*") if not path.is_dir())
        return sum(path.lstat().st_size for path in files)


def build(command: Command, folder: Path, *, with_telemetry: bool = True) -> None:
    """Build the game in an empty folder.

    Raises:
        subprocess.CalledProcessError: the bundler failed; its output is in the error.
    """
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        # Inside the virtual environment, not in the home directory.
        "PYINSTALLER_CONFIG_DIR": str(Path(sys.prefix, "pyinstaller")),
        "NUITKA_CACHE_DIR": str(Path(sys.prefix, "nuitka")),
    }
    # cx_Freeze would copy the CA certificates that these name.
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        environment.pop(name, None)
    subprocess.run(
        [sys.executable, *command(() if with_telemetry else TELEMETRY)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )


def _pyinstaller(*options: str) -> Command:
    def command(excluded: tuple[str, ...]) -> Iterator[str]:
        yield from ("-m", "PyInstaller", "--noconfirm", "--log-level=WARN", *options)
        yield from (f"--exclude-module={name}" for name in excluded)
        yield str(GAME)

    return command


def _cx_freeze(*always_excluded: str) -> Command:
    def command(excluded: tuple[str, ...]) -> Iterator[str]:
        yield from ("-m", "cx_Freeze", "build_exe", f"--script={GAME}", "--build-exe=game")
        yield from ("--silent-level=3", f"--excludes={','.join([*always_excluded, *excluded])}")

    return command


def _nuitka(excluded: tuple[str, ...]) -> Iterator[str]:
    # A build of one file makes the folder first, and leaves it there.
    yield from ("-m", "nuitka", "--mode=onefile", "--jobs=1", "--quiet")
    yield from (f"--nofollow-import-to={name}" for name in excluded)
    yield str(GAME)


KINDS = (
    Kind("pyinstaller", "one folder", _pyinstaller("--onedir"), "dist/game/game"),
    Kind("pyinstaller", "windowed", _pyinstaller("--onedir", "--windowed"), "dist/game/game"),
    Kind("pyinstaller", "one file", _pyinstaller("--onefile"), "dist/game", is_folder=False),
    Kind("cx_Freeze", "one folder", _cx_freeze(), "game/game"),
    Kind("cx_Freeze", "one folder without asyncio", _cx_freeze("asyncio"), "game/game"),
    Kind("Nuitka", "one folder", _nuitka, "game.dist/game.bin"),
    Kind("Nuitka", "one file", _nuitka, "game.bin", is_folder=False),
)
