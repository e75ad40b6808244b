"""Runs ``receiver.py`` as a child process that can't be left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from receiver import Counts

_SCRIPT = Path(__file__).with_name("receiver.py")
# Ctrl-C in a terminal goes to the whole foreground group. Only the parent is to act on it, so the
# child gets a group of its own.
_NEW_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)


class ReceiverProcess:
    """The running child: its address now, its counts at the end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready:
            raise SystemExit("the receiver did not start: see its error above")
        self.url: str = json.loads(ready)["url"]

    def finish(self, timeout: float = 5.0) -> Counts:
        """Close the child's standard input, which ends it, and return what it counted.

        Raises ``subprocess.TimeoutExpired`` if it takes longer than ``timeout`` seconds.
        """
        output, _ = self._process.communicate(timeout=timeout)
        return Counts(**json.loads(output))


@contextmanager
def receiver_process() -> Iterator[ReceiverProcess]:
    """A receiver on a free loopback port, gone when the block is left, however it is left.

    Should this process be killed outright, the child's standard input ends, and so does the child.
    """
    process = subprocess.Popen(
        [sys.executable, str(_SCRIPT), "--port", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        creationflags=_NEW_GROUP,
        start_new_session=True,
    )
    with process:
        try:
            yield ReceiverProcess(process)
        finally:
            process.kill()
