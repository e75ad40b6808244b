"""Runs the examples as a player would: each in a new process."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support import REPOSITORY

ROOT = REPOSITORY
EXAMPLES = ROOT / "examples"


def start_example(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start an example, with pipes for its output and no telemetry settings but those given."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("REDVSBLUE_") and name != "DO_NOT_TRACK"
    }
    return subprocess.Popen(
        [sys.executable, "-u", str(EXAMPLES / script), *arguments],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_example(
    script: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run an example to its end, at most half a minute."""
    with start_example(script, *arguments, **environment) as process:
        try:
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
