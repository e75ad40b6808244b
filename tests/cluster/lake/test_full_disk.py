"""A disk that is full: nothing is half done, no matter which file of a commit has no room."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from tests.support.command import environment
from tests.support.games import disk

_PAGE = 4096
# Appends a message with three new numbers for each line that it reads, until that is done; says how
# that went, which numbers are there, and how many of them are known. Only it can see the disk.
LOADER = """
import json, os, sys
from redvsblue_telemetry.cluster.lake.errors import LakeError
from redvsblue_telemetry.cluster.lake.lake import Lake
from tests.support.lake import NOON, STREAM, numbered, stored_numbers, stored_runs

lake = Lake.open(sys.argv[1])
claim = lake.claim(STREAM, [0])
for sequence in range(1, 1000):
    claim.rows().add(0, sequence, NOON, numbered("s", 1, 3 * sequence))
    while claim.offset(0) < sequence:
        if not sys.stdin.readline():
            sys.exit()
        outcome = "stored"
        try:
            lake.append(claim, claim.rows(), {0: sequence})
        except LakeError as error:
            outcome = str(error)
        runs = stored_runs(lake.url)
        answer = outcome, stored_numbers(lake.url).get("s", []), runs["s"].total() if runs else 0
        os.write(1, json.dumps(answer).encode() + b"\\n")
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_full_disk_is_a_clear_error_and_nothing_is_half_done(tmp_path: Path) -> None:
    with disk(tmp_path, options="size=8m") as small:
        process = subprocess.Popen(
            [*small.before, sys.executable, "-c", LOADER, str(small.path / "lake")],
            cwd=REPOSITORY,
            env=environment(is_measured=False),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None

        def append(sequence: int) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            outcome, numbers, known = json.loads(process.stdout.readline())
            last = 3 * (sequence if outcome == "stored" else sequence - 1)
            assert (numbers, known) == ([*range(1, last + 1)], last)
            return str(outcome)

        try:
            assert append(1) == "stored"
            failures = 0
            for sequence, pages in enumerate([*range(6), *range(6)], 2):
                small.fill(leave=pages * _PAGE)
                outcome = append(sequence)
                small.free()
                if outcome != "stored":
                    failures += 1
                    assert "No space left on device" in outcome
                    assert "can't be written" in outcome
                    assert append(sequence) == "stored"
            assert failures >= 6
        finally:
            process.kill()
            process.communicate()
