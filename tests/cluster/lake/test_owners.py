"""Loaders in processes of their own, which are stopped, killed, and wake up too late."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry.cluster.lake.lake import Lake
from tests.support import REPOSITORY
from tests.support.command import environment
from tests.support.lake import STREAM, stored, stored_numbers, stored_runs

MESSAGES = 150
# Three sessions; each message has five new numbers, and every fourth those of the one before again.
LOADER = """
import json, os, sys
from redvsblue_telemetry.cluster.lake.errors import LakeError, LostPartitionsError
from redvsblue_telemetry.cluster.lake.lake import Lake
from tests.support.lake import NOON, STREAM, numbered

def message(sequence):
    session, place = f"s{sequence % 3}", sequence // 3
    first = place * 5 + 1
    return numbered(session, first - (5 if sequence % 4 == 0 and place else 0), first + 4)

lake = Lake.open(sys.argv[1])
claim = lake.claim(STREAM, [0])
last = int(sys.argv[2])
os.write(1, b"ready\\n")
sys.stdin.readline()
while (offset := claim.offset(0)) < last:
    end = min(offset + 2, last)
    try:
        for sequence in range(offset + 1, end + 1):
            claim.rows().add(0, sequence, NOON, message(sequence))
        lake.append(claim, claim.rows(), {0: end})
        os.write(1, b"stored %d\\n" % end)
    except LostPartitionsError:
        os.write(1, b"lost\\n")
        claim.add([0])
os.write(1, b"done\\n")
"""


class Loader:
    def __init__(self, lake: Path, last: int = MESSAGES) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOADER, str(lake), str(last)],
            cwd=REPOSITORY,
            env=environment(is_measured=False),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "ready"

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_for(self, line: str) -> list[str]:
        seen = [self.line()]
        while seen[-1] != line:
            assert seen[-1], f"ended before {line!r}: {seen}"
            seen.append(self.line())
        return seen

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)


@contextlib.contextmanager
def loader(lake: Path, last: int = MESSAGES) -> Iterator[Loader]:
    one = Loader(lake, last)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Lake.open(str(tmp_path / "lake"))
    return tmp_path / "lake"


def assert_all_is_there_once(path: Path, messages: int = MESSAGES) -> None:
    places: dict[str, list[int]] = {}
    for sequence in range(1, messages + 1):
        places.setdefault(f"s{sequence % 3}", []).append(sequence // 3)
    expected = {
        session: sorted(place * 5 + 1 + each for place in of_session for each in range(5))
        for session, of_session in places.items()
    }
    assert stored_numbers(path) == expected
    runs = stored_runs(path)
    assert {session: sorted(each.elements()) for session, each in runs.items()} == expected
    for session in expected:
        by_arrival = [row["seq"] for row in stored(path) if row["session"] == session]
        assert by_arrival == sorted(by_arrival)
    assert Lake.open(str(path)).claim(STREAM, [0]).offset(0) == messages


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_loader_that_was_stopped_and_wakes_up_stores_nothing_twice(path: Path) -> None:
    dice = random.Random(4)
    with loader(path) as first, loader(path) as second:
        first.begin()
        for _ in range(dice.randint(2, 5)):
            first.line()
        first.send(signal.SIGSTOP)
        second.begin()
        second.wait_for("lost")  # its claim is older than what the first has stored
        for _ in range(10):
            assert second.line().startswith("stored")
        second.send(signal.SIGSTOP)
        first.send(signal.SIGCONT)
        assert "lost" in first.wait_for("lost")
        first.line()
        second.send(signal.SIGCONT)  # now both believe that it is theirs
        first.wait_for("done")
        second.wait_for("done")
    assert_all_is_there_once(path)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_loaders_that_are_killed_at_any_moment_lose_and_repeat_nothing(path: Path) -> None:
    dice = random.Random(7)
    done = False
    kills = 0
    while not done:
        with loader(path) as one:
            one.begin()
            wanted = dice.randint(1, 20)
            for _ in range(wanted):
                if one.line() == "done":
                    done = True
                    break
            else:
                # Somewhere within the next commit.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    one.process.wait(dice.random() * 0.03)
                one.process.kill()
                kills += 1
    assert kills >= 3
    assert_all_is_there_once(path)
