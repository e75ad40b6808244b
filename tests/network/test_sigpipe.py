"""No write of ours can kill the process, even where SIGPIPE has its default action."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="needs the signal")


def run_game(script: str, *args: str, timeout: float = 40) -> str:
    """Run a game whose host left SIGPIPE alone; return what it printed."""
    begin = "import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
    game = subprocess.run(
        [sys.executable, "-c", begin + script, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert game.returncode == 0, (game.returncode, game.stderr)  # -13 is SIGPIPE
    return game.stdout


A_BARE_WRITE = """
import socket
one, other = socket.socketpair()
other.close()
one.send(b"x")
"""


def test_such_a_host_is_killed_by_a_write_without_precaution() -> None:
    with pytest.raises(AssertionError, match=f"-{signal.SIGPIPE.value}"):
        run_game(A_BARE_WRITE)


A_WAKE_UP = """
import socket
from redvsblue_telemetry._delivery.poller import Poller

poller = Poller()
poller._receiver.shutdown(socket.SHUT_RDWR)
poller.wake()
poller.close()
print("alive")
"""


def test_a_wake_up_whose_other_end_is_shut_down_does_not_kill() -> None:
    assert run_game(A_WAKE_UP) == "alive\n"
