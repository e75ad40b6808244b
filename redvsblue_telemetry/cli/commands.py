"""The group of the commands. Each is imported when it is run, and not before.

So ``--help`` is quick, and a package that is missing breaks no command but the one that needs it.
"""

from __future__ import annotations

from importlib import import_module

import click

from redvsblue_telemetry import __version__

from .terminal import Refusal

__all__ = ["commands"]

# The command `name` is `name` in the module `name`; this line is all that the list shows of it.
_COMMANDS = {
    "collect": "Receive and store events, and show them live in a browser.",
    "demo": "Play a battle against a collector, and compare their counts.",
    "check": "Find out why a game's events don't arrive.",
    "tail": "Print events as they arrive.",
    "export": "Write stored events as JSON lines, CSV or Parquet.",
    "report": "Make one HTML page of what is stored.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        try:
            module = import_module(f".{cmd_name}", __package__)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing == "redvsblue_telemetry":
                raise
            raise Refusal(
                f'{cmd_name} needs {missing}: pip install "redvsblue-telemetry[collector]"'
            ) from error
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def commands() -> None:
    """Telemetry of games: receive it, look at it, take it along."""
