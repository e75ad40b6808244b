"""The group of all commands. Each is imported only when it runs.

So ``--help`` is quick, and a missing package breaks only the commands that need it.
"""

from __future__ import annotations

from importlib import import_module

import click

from .. import __version__
from ._terminal import CommandError, choose_encodings

__all__ = ["commands", "main"]

# Each command: the module that defines a function of the same name, and its line in the list.
_COMMANDS = {
    "run": (".run", "Run a game with telemetry on, and show the events that arrive."),
    "collect": (".collect", "Receive and store events, and show them live in a browser."),
    "load": (".load", "Move events from the stream of the gateways into a lake."),
    "stream": (".stream", "Show the servers of a stream, or remove one that is gone."),
    "view": (".view", "Show the events of a lake in a browser."),
    "demo": (".demo.command", "Play a battle against a collector and compare their counts."),
    "cluster": (".cluster.command", "Run all parts of a cluster on this machine, and try them."),
    "check": (".check.command", "Find out why a game's events don't arrive."),
    "journal": (".journal", "Show, deliver or erase the events that a killed game left behind."),
    "tail": (".tail", "Print events as they arrive."),
    "export": (".export", "Write stored events as JSON lines, CSV or Parquet."),
    "query": (".query", "Run SQL over the stored events."),
    "forget": (".forget", "Delete a session, or the data of a person."),
    "schema": (".schema.command", "Write or check the schema of a game's typed events."),
    "prove": (".prove.command", "Check that no stored session lost an event without a reason."),
    "report": (".report.command", "Write one HTML page about the stored events."),
}
# Those that need the extra of this name.
_CLUSTER = ("load", "stream", "view", "cluster")


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        try:
            module = import_module(_COMMANDS[cmd_name][0], __package__)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing == "redvsblue_telemetry":
                raise
            extra = "cluster" if cmd_name in _CLUSTER else "collector"
            raise CommandError(
                f'{cmd_name} needs {missing}: pip install "redvsblue-telemetry[{extra}]"'
            ) from error
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def commands() -> None:
    """Receive, inspect and export game telemetry."""


def main() -> None:
    """Run the command that the arguments name, and exit."""
    choose_encodings()
    commands(prog_name="redvsblue-telemetry")
