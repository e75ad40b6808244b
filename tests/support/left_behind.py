"""Dead runs of a journal: a game that is killed makes each once, and tests get copies of it.

To start a game takes half a second, and hundreds of tests begin with what such games have left.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest


class _Run(NamedTuple):
    age: int
    """Later ones have higher numbers."""
    path: Path
    session: str


_made: dict[object, list[_Run]] = {}
_newest: dict[Path, int] = {}
"""The age of the run that was copied last, by journal: the next one is a younger one."""


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="left-behind-")
    atexit.register(shutil.rmtree, folder)
    return Path(folder)


def left_behind(journal: Path, kind: object, make: Callable[[Path], str]) -> str:
    """Put a dead run into a journal, and return its session.

    Those that one journal gets have different sessions, and each is younger than those before it.

    Args:
        journal: a directory, which need not exist.
        kind: runs of a kind are alike.
        make: has a game die in a journal, and returns its session.
    """
    newest = _newest.get(journal, 0)
    runs = _made.setdefault(kind, [])
    run = next((run for run in runs if run.age > newest), None)
    if run is None:
        age = 1 + sum(map(len, _made.values()))
        place = _folder() / str(age)
        with pytest.MonkeyPatch.context() as environment:
            for variable in tuple(os.environ):  # the game of the run did not know of the test's
                if variable.startswith("REDVSBLUE_") or variable == "DO_NOT_TRACK":
                    environment.delenv(variable)
            session = make(place)
        (path,) = place.iterdir()
        run = _Run(age, path, session)
        runs.append(run)
    journal.mkdir(0o700, parents=True, exist_ok=True)
    shutil.copytree(run.path, journal / run.path.name)
    _newest[journal] = run.age
    return run.session
