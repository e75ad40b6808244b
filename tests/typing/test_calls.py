"""mypy and pyright find the wrong calls of the public API, and accept the right ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.support import REPOSITORY

CALLS = REPOSITORY / "tests" / "typing" / "calls.py"
WRONG = {
    number
    for number, line in enumerate(CALLS.read_text("utf-8").splitlines(), start=1)
    if line.endswith("# wrong")
}


def run(*arguments: str) -> str:
    pytest.importorskip(arguments[0], reason=f"needs {arguments[0]}")
    result = subprocess.run(
        [sys.executable, "-m", *arguments, str(CALLS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr  # it found something
    return result.stdout


def lines_by_mypy() -> set[int]:
    # The settings of pyproject.toml, strict mode among them, less the list of files.
    found = run("mypy", "--no-error-summary", "--no-incremental", "--hide-error-context")
    return {int(number) for number in re.findall(r"calls\.py:(\d+): error", found)}


def lines_by_pyright() -> set[int]:
    found = json.loads(run("pyright", "--outputjson", "--pythonpath", sys.executable))
    return {
        diagnostic["range"]["start"]["line"] + 1
        for diagnostic in found["generalDiagnostics"]
        if diagnostic["severity"] == "error"
    }


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("lines_found", [lines_by_mypy, lines_by_pyright], ids=["mypy", "pyright"])
def test_exactly_the_wrong_calls_are_found(lines_found) -> None:  # type: ignore[no-untyped-def]
    assert lines_found() == WRONG
