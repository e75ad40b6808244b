"""``tail``: events as they arrive, all of them and in their order.

It asks what has come since the last event that it printed, again and again. So nothing is left out,
however much comes, and a collector that was away is asked for what came meanwhile.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable

import click
import msgspec

from .._shared import escape
from ..collector.client import (
    TOKEN_VARIABLE,
    CollectorClient,
    CollectorError,
    ConnectionLostError,
    UnreachableError,
)
from ..collector.models import EventFilter, StoredEvent
from ._terminal import (
    CommandError,
    exit_on_broken_pipe,
    is_coloured,
    one_line,
    sleep_unless_pipe_closed,
    stdout_errors,
)

__all__ = ["tail"]

_INTERVAL = 0.3  # seconds from one question to the next
_LONGEST_WAIT = 2.0  # seconds, while the collector doesn't answer
_PAGE = 500  # events in one answer
_TYPE_COLOURS = ("cyan", "green", "yellow", "blue", "magenta", "bright_cyan", "bright_green")


@click.command()
@click.option(
    "--url", default="http://127.0.0.1:3000", show_default=True, help="The collector's page."
)
@click.option("--token", envvar=TOKEN_VARIABLE, help="The collector's token.", show_envvar=True)
@click.option("--type", "type_", metavar="NAME", help="Only events of this type.")
@click.option("--session", metavar="ID", help="Only those of this session.")
@click.option("--text", help="Only those whose data has this in its JSON.")
@click.option("--json", "is_json", is_flag=True, help="Print each event as a line of JSON.")
@click.option(
    "-n",
    "--lines",
    "count",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Begin with so many that are there.",
)
def tail(
    url: str,
    token: str | None,
    type_: str | None,
    session: str | None,
    text: str | None,
    is_json: bool,
    count: int,
) -> None:
    """Print events as they arrive, until Ctrl-C.

    In colour on a terminal. Elsewhere each line is the time of arrival, the session, the event's
    number in it, the type and the data, with tabs between.
    """
    try:
        asker = CollectorClient(url, token)
    except ValueError as error:
        raise CommandError(str(error)) from error
    wanted = EventFilter(type=type_, session=session, text=text)
    shown = _as_json if is_json else _coloured if is_coloured() else _plain
    with contextlib.closing(asker), exit_on_broken_pipe(), contextlib.suppress(KeyboardInterrupt):
        try:
            _Tail(asker, wanted, shown).run(count)
        except CollectorError as error:
            raise CommandError(str(error)) from error


class _Tail:
    """What was printed up to now, and what comes after it."""

    def __init__(
        self, asker: CollectorClient, wanted: EventFilter, shown: Callable[[StoredEvent], str]
    ) -> None:
        self._asker = asker
        self._wanted = wanted
        self._shown = shown
        self._seen: StoredEvent | None = None  # the last of all; what came up to it was looked at

    def run(self, count: int) -> None:
        """Print the last events, and then what comes; ends by an error only."""
        try:
            self._seen = self._before_the_last(count)
        except ConnectionLostError:  # this process was stopped meanwhile
            self._seen = self._before_the_last(count)
        while True:
            try:
                self._go_on()
            except UnreachableError as error:
                self._find_again(error)
            sleep_unless_pipe_closed(_INTERVAL)

    def _before_the_last(self, count: int) -> StoredEvent | None:
        """What to go on from, to begin with so many events; they themselves are kept nowhere."""
        if count == 0:
            return self._asker.newest()
        missing, before = count + 1, None
        while page := self._asker.events(
            self._wanted, before=before, limit=min(missing, _PAGE), newest_first=True
        ):
            missing -= len(page)
            if not missing:
                return page[-1]
            before = page[-1].arrival
        return None

    @property
    def _arrival(self) -> int:
        return 0 if self._seen is None else self._seen.arrival

    def _go_on(self) -> None:
        newest = self._asker.newest()
        if newest is None or newest.arrival < self._arrival:  # all of it was deleted
            self._seen = None
        if newest is None:
            return
        # A page is short when its data is large: only an empty one is the end.
        while self._arrival < newest.arrival and (
            page := self._asker.events(
                self._wanted, after=self._arrival, before=newest.arrival + 1, limit=_PAGE
            )
        ):
            self._print(page)
            self._seen = page[-1]  # printed: after a lost connection it isn't again
        self._seen = newest

    def _find_again(self, error: UnreachableError) -> None:
        """Ask over another connection, and look whether it is the same collector as before."""
        is_same = None
        if isinstance(error, ConnectionLostError):  # as after each pause: no news by itself
            try:
                is_same = self._is_there_still()
            except UnreachableError as another:
                error = another
        if is_same is None:
            is_same = self._wait_for_it(error)
        if not is_same:
            _notice("it has another database, or was emptied: from its beginning")
            self._seen = None

    def _wait_for_it(self, error: UnreachableError) -> bool:
        """Wait until it answers again, and say so; whether what was seen last is there still."""
        _notice(f"{error}; waiting for it")
        pause = _INTERVAL
        while True:
            sleep_unless_pipe_closed(pause)
            pause = min(_LONGEST_WAIT, pause * 1.5)
            with contextlib.suppress(UnreachableError):
                is_same = self._is_there_still()
                _notice("it answers again")
                return is_same

    def _is_there_still(self) -> bool:
        """Whether the event that was seen last is where it was: if not, numbers began anew."""
        if self._seen is None:
            self._asker.newest()
            return True
        found = self._asker.events(EventFilter(), after=self._seen.arrival - 1, limit=1)
        return bool(found) and _identity(found[0]) == _identity(self._seen)

    def _print(self, events: list[StoredEvent]) -> None:
        with stdout_errors():
            click.echo("\n".join(map(self._shown, events)), color=True)


def _identity(event: StoredEvent) -> tuple[int, str, int]:
    return event.arrival, event.session_id, event.seq


def _notice(text: str) -> None:
    with contextlib.suppress(OSError):  # whether anybody hears it or not
        click.echo(escape(text), err=True)


def _as_json(event: StoredEvent) -> str:
    return one_line(msgspec.json.encode(event).decode())


def _plain(event: StoredEvent) -> str:
    words = (_arrived(event).isoformat(timespec="milliseconds"), event.session_id)
    rest = (str(event.seq), event.type)
    return "\t".join((*map(escape, (*words, *rest)), _data(event)))


def _coloured(event: StoredEvent) -> str:
    colour = _TYPE_COLOURS[sum(event.type.encode()) % len(_TYPE_COLOURS)]
    clock = _arrived(event).strftime("%H:%M:%S.%f")[:-3]
    return "  ".join(
        (
            click.style(clock, dim=True),
            click.style(escape(event.session_id[:8]), dim=True),
            click.style(f"{event.seq:>6}", dim=True),
            click.style(escape(event.type), fg=colour, bold=True),
            _data(event),
        )
    )


def _data(event: StoredEvent) -> str:
    return one_line(bytes(event.data).decode())


def _arrived(event: StoredEvent) -> datetime.datetime:
    """By the clock of the collector, in the time zone of this machine."""
    return datetime.datetime.fromtimestamp(
        event.received / 1000, datetime.timezone.utc
    ).astimezone()
