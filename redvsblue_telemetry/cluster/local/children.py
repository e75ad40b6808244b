"""Child processes that can be killed and started again, and that never outlive their parent.

A guard, a separate process, knows the children. When the parent ends, however it ends, the pipe
between them closes, and the guard kills those that are left. Linux could do so by itself
(PR_SET_PDEATHSIG), but it looks at the thread that started the child, not at the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["Child", "Guard"]

_STOP_TIMEOUT = 15.0  # seconds
_LAST_LINES = 12
_LAST_BYTES = 8192

_GUARD = """
import os, signal, sys
kill = getattr(signal, "SIGKILL", signal.SIGTERM)
children = set()
for line in sys.stdin:
    (children.add if line[0] == "+" else children.discard)(int(line[1:]))
for pid in children:
    try:
        os.kill(pid, kill)
    except OSError:
        pass
"""


def _apart() -> Mapping[str, object]:
    """Return what starts a process so that Ctrl-C in a terminal doesn't interrupt it."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


class Guard:
    """Kills the children that are left when this process has ended; a context manager."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            **_apart(),  # type: ignore[call-overload]
        )

    def watch(self, pid: int) -> None:
        """Begin to look after a child."""
        self._tell(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        """No longer look after a child: it has ended."""
        self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with self._lock:
            stdin.write(line.encode())
            stdin.flush()

    def close(self) -> None:
        """Kill the children that are left."""
        self._process.communicate()

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self,
        type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Child:
    """A program that runs as a child of this process, or doesn't at the moment.

    Its methods may be called from any thread, but only from one at a time.

    Args:
        name: for messages.
        arguments: its command line.
        log: the file that its output is appended to.
        guard: looks after it.
        environment: its own variables, instead of this process's.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        guard: Guard,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.arguments = tuple(arguments)
        self.log = log
        self._guard = guard
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process, or None while there is none."""
        return self._process.pid if self._process is not None and self.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How its last run ended, or None; negative is a signal."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it, unless it runs.

        Raises:
            OSError: it can't be started, or its log can't be written.
        """
        if self.is_running:
            return
        self._let_go()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                **_apart(),  # type: ignore[call-overload]
            )
        self._guard.watch(self._process.pid)

    def stop(self, timeout: float = _STOP_TIMEOUT) -> int | None:
        """Ask it to end, and wait; return its exit code.

        Raises:
            subprocess.TimeoutExpired: it hasn't ended within that many seconds; it was killed.
        """
        if self._process is None:
            return None
        self._signal(signal.SIGTERM)
        return self._wait(timeout)

    def kill(self) -> None:
        """End it as no process can prevent, and wait until it has ended."""
        if self._process is not None:
            self._process.kill()
            self._wait(_STOP_TIMEOUT)

    def suspend(self) -> None:
        """Stop it from running, as SIGSTOP does: its connections stay open. Not on Windows."""
        self._signal(getattr(signal, "SIGSTOP"))  # noqa: B009 - not on Windows
        # One thread takes the signal and stops the others; while it syncs a file, they run on.
        if sys.platform == "linux" and (pid := self.pid) is not None:
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it run again."""
        self._signal(getattr(signal, "SIGCONT"))  # noqa: B009 - not on Windows

    def last_lines(self) -> str:
        """Return the end of its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _LAST_BYTES))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-_LAST_LINES:])

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _wait(self, timeout: float) -> int:
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._guard.forget(self._process.pid)
