"""The command line: ``redvsblue-telemetry``, or ``python -m redvsblue_telemetry``.

The commands need packages that a game does without. So nothing of them is imported before a command
is run, and where they are missing, one line says how to get them.
"""

from __future__ import annotations

import sys
from importlib import import_module

__all__ = ["main"]

_HINT = 'redvsblue-telemetry needs {}: pip install "redvsblue-telemetry[collector]"\n'


def main() -> int:
    """Run the command that the arguments name; returns or raises the exit code."""
    try:
        commands = import_module(".cli.main", __package__)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == __package__:
            raise
        sys.stderr.write(_HINT.format(missing))
        return 2
    commands.commands(prog_name="redvsblue-telemetry")
    return 0


if __name__ == "__main__":
    sys.exit(main())
