"""Work on files that is killed between any two of its steps, in a forked child."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

STEPS = {"open", "os.remove", "os.rename", "os.rmdir"}

Hook = Callable[[], None]


def is_killed_after(steps: int, path: Path, work: Callable[[Hook], object]) -> bool:
    """Return whether a child that works was killed: it is after some steps, unless it is done.

    Args:
        steps: how many it makes.
        path: steps are operations on this or on what is below it.
        work: is given the function after which steps count.
    """
    if (child := os.fork()) == 0:
        left = steps

        def step(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in STEPS and str(arguments[0]).startswith(str(path)):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            work(lambda: sys.addaudithook(step))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, -signal.SIGKILL}
    return code != 0
