"""Runs the commands as their users do: each as a process, in a pipe or on a terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner, Result

from tests.support import REPOSITORY
from tests.support.systems import IS_WINDOWS, not_under_wine
from tests.support.wait import PATIENCE, wait_until

ROOT = REPOSITORY
FULL_DISK = Path("/dev/full")
ENDINGS: list[Any] = [signal.SIGINT, signal.SIGTERM]
"""The signals that end a command in good order; see :meth:`Running.send`."""
if sys.platform == "win32":
    only_int = not_under_wine("its C runtime raises SIGINT, but never SIGBREAK")
    ENDINGS.append(pytest.param(signal.SIGBREAK, marks=only_int))
needs_full_disk = pytest.mark.skipif(
    IS_WINDOWS or not FULL_DISK.exists(), reason=f"Linux only: {FULL_DISK}"
)


def environment(*, is_measured: bool = True, **variables: str) -> dict[str, str]:
    """What a process inherits, with no settings of ours but those given.

    Unless it is measured, its coverage isn't: that writes files, and warns where it can't.
    """
    left_out = ("REDVSBLUE_", "DO_NOT_TRACK", "NO_COLOR", "BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    left_out += () if is_measured else ("COVERAGE_",)
    kept = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **variables}


def command(*arguments: object) -> list[str]:
    if arguments[0] == "tail":  # so that no test waits for the next poll
        return [sys.executable, "-c", _QUICK_TAIL, *map(str, arguments)]
    return [sys.executable, "-m", "redvsblue_telemetry", *map(str, arguments)]


_QUICK_TAIL = """
import sys
from redvsblue_telemetry.__main__ import main
from redvsblue_telemetry.cli import tail
tail._POLL_INTERVAL = 0.02
sys.exit(main())
"""
# A console has a thread in a process run this function of the system. This does the same for each
# byte of standard input, and then runs what the arguments name.
_ON_A_CONSOLE = """
import ctypes, os, runpy, sys, threading
events = os.dup(0)
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)
os.close(nothing)
start_thread = ctypes.windll.kernel32.CreateThread
start_thread.argtypes = [ctypes.c_void_p] * 6
routine = ctypes.cast(ctypes.windll.kernelbase.CtrlRoutine, ctypes.c_void_p)
def hear():
    while event := os.read(events, 1):
        start_thread(None, 0, routine, event[0], None, None)
threading.Thread(target=hear, daemon=True).start()
_, kind, what, *arguments = sys.argv
sys.argv[:] = [kind, *arguments]
if kind == "-c":
    exec(what)
else:
    runpy.run_module(what, run_name="__main__", alter_sys=True)
"""
_CTRL_C, _CTRL_BREAK, _CTRL_CLOSE = 0, 1, 2  # wincon.h


def invoke_command(*arguments: object, answer: str | None = None, **variables: str) -> Result:
    """Run a command in this process, where no signal, pipe or terminal is involved.

    Args:
        arguments: of the command.
        answer: typed by a person.
        variables: of its environment.
    """
    from redvsblue_telemetry.cli.main import commands

    inherited: dict[str, str | None] = dict.fromkeys(os.environ)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner(env=inherited | environment(**variables)).invoke(
            commands,
            [str(argument) for argument in arguments],
            input=answer,
            prog_name="redvsblue-telemetry",
            catch_exceptions=False,
        )
    finally:
        signal.signal(signal.SIGTERM, handler)  # `export` sets its own


def run_command(
    *arguments: object,
    before: Sequence[str] = (),
    cwd: Path | None = None,
    is_measured: bool = True,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; see :func:`running_command`."""
    return subprocess.run(
        [*before, *command(*arguments)],
        env=environment(is_measured=is_measured, **variables),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )


def run_command_onto_full_disk(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose standard output can't be written."""
    with FULL_DISK.open("wb") as full:
        return subprocess.run(
            command(*arguments),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=100,
            check=False,
        )


@contextlib.contextmanager
def command_without_reader(*arguments: object, until: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """A command whose standard output was read until something came in it, and no further."""
    reading, writing = os.pipe()
    with subprocess.Popen(
        command(*arguments), env=environment(), stdout=writing, stderr=subprocess.PIPE
    ) as process:
        os.close(writing)
        try:
            read = b""
            while until not in read and (chunk := os.read(reading, 65536)):
                read += chunk
            os.close(reading)
            assert until in read
            yield process
        finally:
            process.kill()


class Running:
    """A command that runs, and what it has said up to now."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.output = ""
        self.errors = ""
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout, "output")),
            threading.Thread(target=self._read, args=(process.stderr, "errors")),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[bytes], name: str) -> None:
        for line in stream:
            text = line.decode().replace(os.linesep, "\n")
            setattr(self, name, getattr(self, name) + text)

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    def wait_for(self, text: str) -> None:
        assert wait_until(lambda: text in self.output + self.errors, PATIENCE), self.said

    def wait_for_lines(self, count: int) -> None:
        assert wait_until(lambda: self.output.count("\n") >= count, PATIENCE), self.said

    def send(self, number: int) -> None:
        """Send a signal; on Windows, SIGTERM is the end of the console."""
        if sys.platform != "win32":
            self.process.send_signal(number)
            return
        assert self.process.stdin is not None
        events = {signal.SIGBREAK: _CTRL_BREAK, signal.SIGTERM: _CTRL_CLOSE, signal.SIGINT: _CTRL_C}
        self.process.stdin.write(bytes([events[signal.Signals(number)]]))
        self.process.stdin.flush()

    def end(self, number: int | None = None) -> int:
        """Send a signal, if one is given, and wait for the end; returns the exit code."""
        if number is not None:
            self.send(number)
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
            assert not reader.is_alive(), "a process that it has started outlives it"
        return code

    @property
    def said(self) -> str:
        return f"{self.output}\n--\n{self.errors}"


@contextlib.contextmanager
def running_command(
    *arguments: object, before: Sequence[str] = (), is_measured: bool = True, **variables: str
) -> Iterator[Running]:
    """A command that is ended when the block is left, if it hasn't ended by then.

    Args:
        arguments: of the command.
        before: a program that becomes the command, such as ``setpriv``, with its own arguments.
        is_measured: whether its coverage is.
        variables: of its environment.
    """
    program = [*before, *command(*arguments)]
    with running_process(program, is_measured=is_measured, **variables) as running:
        yield running


@contextlib.contextmanager
def running_process(
    program: Sequence[str], *, is_measured: bool = True, **variables: str
) -> Iterator[Running]:
    """A program with its arguments, on Windows one of Python; see :func:`running_command`."""
    if IS_WINDOWS:
        program = [program[0], "-c", _ON_A_CONSOLE, *program[1:]]
    process = subprocess.Popen(
        program,
        env=environment(is_measured=is_measured, PYTHONUNBUFFERED="1", **variables),
        stdin=subprocess.PIPE if IS_WINDOWS else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        running = Running(process)
        try:
            yield running
        finally:
            process.kill()
            running.end()


class Terminal:
    """A pseudo-terminal with a command on it; ``before`` as for :func:`running_command`."""

    def __init__(self, *arguments: object, before: Sequence[str] = (), **variables: str) -> None:
        import pty

        self._master, slave = pty.openpty()
        self.shown = b""
        self.process = subprocess.Popen(
            [*before, *command(*arguments)],
            env=environment(**{"COLUMNS": "200", **variables}),
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while chunk := os.read(self._master, 65536):
                self.shown += chunk

    def wait_for(self, text: bytes) -> None:
        assert wait_until(lambda: text in self.shown, PATIENCE), self.shown

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self, number: int | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.end()
        os.close(self._master)
