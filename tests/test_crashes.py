"""How a process ends: real games, which end in every way, each as a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from tests.support.command import environment
from tests.support.systems import needs_fork

# Registered before the game's own code runs, as the hook that stops telemetry is.
ASKS_AT_EXIT = """
import atexit, os, signal, sys, threading, time
from redvsblue_telemetry._crashes import exit_reason, forget_crashes
atexit.register(lambda: print(exit_reason(), flush=True))
forget_crashes()
"""


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(arguments or ("-c",)), *([] if arguments else [script])],
        input=script if arguments else None,
        cwd=REPOSITORY,
        env=environment(is_measured=False, **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("pass", "exit"),
        ("sys.exit(3)", "exit"),
        ("raise SystemExit('bye')", "exit"),
        ("raise KeyboardInterrupt", "exit"),
        ("signal.raise_signal(signal.SIGINT); time.sleep(60)", "exit"),
        ("1 / 0", "crashed"),
        ("raise BaseException('unheard of')", "crashed"),
        ("sys.excepthook = print; 1 / 0", "crashed"),
        ("sys.excepthook = None; 1 / 0", "crashed"),
        # A game may use the hook for exceptions that it goes on after.
        ("sys.excepthook(ValueError, ValueError(), None)", "exit"),
        ("t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()", "exit"),
        # The console in a game; Tkinter does the same. Both go on, and keep the exception.
        ("import code; code.InteractiveConsole().push('1 / 0')", "exit"),
        ("import code; code.InteractiveConsole().push('1 / 0'); 1 / 0", "crashed"),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.raise_signal(15)", "exit"),
    ],
)
def test_the_reason_is_a_crash_if_an_exception_ended_the_main_thread(
    ending: str, reason: str
) -> None:
    game = run(ASKS_AT_EXIT + ending)

    assert game.stdout.splitlines()[-1] == reason, game.stderr


def test_a_module_and_a_script_that_crash_are_crashes(tmp_path: Path) -> None:
    (tmp_path / "the_game.py").write_text(ASKS_AT_EXIT + "1 / 0")

    for arguments in (["-m", "the_game"], [str(tmp_path / "the_game.py")]):
        game = run("", *arguments, PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}")
        assert (game.stdout, game.returncode) == ("crashed\n", 1), game.stderr


def test_an_exception_before_the_start_is_not_this_session_s() -> None:
    script = """
    sys.last_value = sys.last_exc = ZeroDivisionError()
    forget_crashes()
    """
    assert run(ASKS_AT_EXIT + script.replace("\n    ", "\n")).stdout == "exit\n"


def test_at_a_prompt_an_exception_ends_nothing() -> None:
    game = run(ASKS_AT_EXIT + "1 / 0\n", "-i", "-")

    assert game.stdout.endswith("\nexit\n")
    assert "ZeroDivisionError" in game.stderr


@needs_fork
@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("pass", "exit"),
        ("sys.exit(3)", "exit"),
        ("1 / 0", "crashed" if sys.version_info < (3, 13) else "exit"),
    ],
)
def test_a_child_of_multiprocessing_crashes_too(ending: str, reason: str) -> None:
    script = f"""
import multiprocessing, multiprocessing.util
def play():
    multiprocessing.util.Finalize(None, lambda: print(exit_reason(), flush=True), exitpriority=0)
    {ending}
child = multiprocessing.get_context("fork").Process(target=play)
child.start()
child.join()
"""
    game = run(ASKS_AT_EXIT + script)

    assert game.stdout.splitlines() == [reason, "exit"], game.stderr
