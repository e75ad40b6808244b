"""Work on files that is killed between any two of its steps, in a child process."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.kills import KILLED, die

STEPS = {"open", "os.remove", "os.rename", "os.rmdir"}

Hook = Callable[[], None]
Work = Callable[[Path, Hook], object]

# A forked child is quick to start.
_METHOD = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"


def is_killed_after(steps: int, path: Path, work: Work) -> bool:
    """Return whether a child that works was killed: it is after some steps, unless it is done.

    Args:
        steps: how many it makes.
        path: steps are operations on this or on what is below it.
        work: a function of a module, which is given the path, and the function after which steps
            count.
    """
    child = multiprocessing.get_context(_METHOD).Process(target=_do, args=(steps, path, work))
    child.start()
    child.join()
    code = child.exitcode
    child.close()
    assert code in {0, KILLED}
    return code != 0


def _do(steps: int, path: Path, work: Work) -> None:
    left = steps

    def step(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in STEPS and str(arguments[0]).startswith(str(path)):
            left -= 1
            if left < 0:
                die()

    work(path, lambda: sys.addaudithook(step))
