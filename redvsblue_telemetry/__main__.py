"""The command line: ``redvsblue-telemetry``, or ``python -m redvsblue_telemetry``.

The commands need packages that a game doesn't. So none is imported before a command runs, and if
one is missing, a single line says how to install it.
"""

from __future__ import annotations

import signal
import sys
from importlib import import_module

__all__ = ["main"]

_HINT = 'redvsblue-telemetry needs {}: pip install "redvsblue-telemetry[collector]"\n'


def main() -> int:
    """Run the command that the arguments name; return or raise the exit code."""
    if hasattr(signal, "SIGPIPE"):
        # CPython's own program does this, but not every bundled one does, and then a client that
        # hangs up would kill the collector. Every command handles the BrokenPipeError instead.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        commands = import_module(".cli.main", __package__)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == __package__:
            raise
        sys.stderr.write(_HINT.format(missing))
        return 2
    commands.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
