"""Runs of a game that die with events in their journal, in processes of their own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

from redvsblue_telemetry import Telemetry, TelemetryStats
from tests.support import REPOSITORY
from tests.support.kills import KILLED
from tests.support.left_behind import left_behind
from tests.support.wait import wait_until

TIMEOUT = 40.0  # seconds, for a machine that has other things to do
NOWHERE = "ws://127.0.0.1:9/"  # nobody listens there

_GAME = """
import os, signal, sys, time
from redvsblue_telemetry import *
from tests.support.kills import die
journal, url = sys.argv[1:3]
telemetry = start_telemetry(
    **{"enabled": True, "url": url, "journal": journal, "backoff_base": 600, **SETTINGS}
)
"""


def game(journal: Path, script: str, *, url: str = NOWHERE, **settings: Any) -> list[str]:
    """Return the command of a game that has started telemetry and then runs the script."""
    text = f"SETTINGS = {settings!r}\n{_GAME}\n{script}"
    return [sys.executable, "-W", "ignore:This process", "-c", text, str(journal), url]


def played(
    journal: Path,
    script: str,
    *,
    url: str = NOWHERE,
    codes: Container[int] = (KILLED,),
    **settings: Any,
) -> str:
    """Play it to its end, which is a kill unless exit codes are given; return its output."""
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        game(journal, script, url=url, **settings),
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode in codes, done.stderr
    return done.stdout


def killed(journal: Path, count: int, *, type: str = "old", **settings: Any) -> str:
    """Leave a run of a game that emitted events, numbered from 1, and died; return its session.

    Runs without settings are copies of one; with settings, a game is played each time.
    """
    if settings:
        return _killed(journal, count, type, **settings)
    return left_behind(journal, (type, count), lambda journal: _killed(journal, count, type))


def _killed(journal: Path, count: int, type: str, **settings: Any) -> str:
    script = f"""
for number in range(1, {count} + 1):
    telemetry.emit({type!r}, n=number)
print(telemetry.session_id)
die()
"""
    return played(journal, script, **settings).strip()


def files(journal: Path) -> list[Path]:
    """All that is in a journal, the directories included; it may be deleted meanwhile."""
    walk = os.walk(journal)
    return sorted(Path(folder, name) for folder, *names in walk for name in itertools.chain(*names))


def is_balanced(stats: TelemetryStats) -> bool:
    """Whether each event is accounted for."""
    places = stats.delivered + stats.dropped + stats.buffered + stats.in_flight
    is_sum = stats.dropped == sum(stats.dropped_by.values())
    return is_sum and stats.emitted + stats.recovered == places and stats.in_flight >= 0


def has_recovered(telemetry: Telemetry, count: int) -> bool:
    """Wait until so many events of earlier runs are settled, and these runs are gone.

    A stop would give them a quarter of a second only.
    """
    connector = telemetry._connector
    assert connector is not None

    def is_over() -> bool:
        stats = telemetry.stats()
        return stats.recovered >= count and not stats.in_flight and connector.adoption.is_done

    return wait_until(is_over)
