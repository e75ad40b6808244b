"""``tail``: print events as they arrive, every one and in order.

It keeps asking the collector for events after the last one that it printed. So it misses none, even
if many arrive at once or the collector restarts.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
from collections.abc import Callable

import click
import msgspec

from .._shared import escape
from ..collector.client import (
    CollectorClient,
    CollectorError,
    ConnectionLostError,
    UnreachableError,
)
from ..collector.models import EventFilter, StoredEvent
from ._arguments import filter_options, token_option
from ._terminal import (
    CommandError,
    exit_on_broken_pipe,
    is_colored,
    notice,
    one_line,
    sleep_unless_pipe_closed,
    stdout_errors,
)

__all__ = ["tail"]

_POLL_INTERVAL = 0.3  # seconds
_MAX_RETRY_INTERVAL = 2.0  # seconds, while the collector doesn't answer
_LANDMARKS = 10  # events
_PAGE_SIZE = 500  # events in one request
_TYPE_COLORS = ("cyan", "green", "yellow", "blue", "magenta", "bright_cyan", "bright_green")


@click.command()
@click.option(
    "--url",
    default="http://127.0.0.1:3000",
    show_default=True,
    help="The URL of the collector's page.",
)
@token_option
@filter_options
@click.option("--json", "is_json", is_flag=True, help="Print each event as a line of JSON.")
@click.option(
    "-n",
    "--lines",
    "count",
    metavar="N",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Start with the last N stored events.",
)
def tail(
    url: str,
    token: str | None,
    wanted: EventFilter,
    is_json: bool,
    count: int,
) -> None:
    """Print events as they arrive, until Ctrl-C.

    The output is colored on a terminal. Elsewhere, each line has these fields, separated by tabs:
    time of arrival, session, number in the session, type, data and, if there is one, the context.
    The last field of an event that does not fit the collector's schema is "fault: " and the reason.
    """
    try:
        client = CollectorClient(url, token)
    except ValueError as error:
        raise CommandError(str(error)) from error
    to_line = _json_line if is_json else _colored_line if is_colored() else _plain_line
    with contextlib.closing(client), exit_on_broken_pipe(), contextlib.suppress(KeyboardInterrupt):
        try:
            _Tail(client, wanted, to_line).run(count)
        except CollectorError as error:
            raise CommandError(str(error)) from error


class _Tail:
    """Prints events, and remembers how far it got."""

    def __init__(
        self, client: CollectorClient, wanted: EventFilter, to_line: Callable[[StoredEvent], str]
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._to_line = to_line
        # All events up to the last of these were examined. The others are known in case that it is
        # deleted: then they show that it is still the same database.
        self._seen: collections.deque[StoredEvent] = collections.deque(maxlen=_LANDMARKS)

    def run(self, count: int) -> None:
        """Print the last events, and then each new one. Only an error ends it."""
        try:
            self._note(self._event_before_last(count))
        except ConnectionLostError:  # this process was stopped for a while
            self._note(self._event_before_last(count))
        while True:
            try:
                self._print_new()
            except UnreachableError as error:
                self._reconnect(error)
            sleep_unless_pipe_closed(_POLL_INTERVAL)

    def _event_before_last(self, count: int) -> StoredEvent | None:
        """Find the event just before the last ``count`` matching ones, which aren't kept."""
        if count == 0:
            return self._client.newest()
        missing, before = count + 1, None
        while page := self._client.events(
            self._wanted, before=before, limit=min(missing, _PAGE_SIZE), newest_first=True
        ):
            missing -= len(page)
            if not missing:
                return page[-1]
            before = page[-1].arrival
        return None

    @property
    def _arrival(self) -> int:
        return self._seen[-1].arrival if self._seen else 0

    def _note(self, event: StoredEvent | None) -> None:
        """Remember that all events up to this one were examined."""
        if event is not None and event.arrival > self._arrival:
            self._seen.append(event)

    def _print_new(self) -> None:
        newest = self._client.newest()
        if newest is None:
            return
        # One database gives no number twice, not even that of a deleted event. But a gateway may
        # have switched to another one.
        if newest.arrival < self._arrival and not self._has_same_events():
            self._seen.clear()
        # A page is short if its data is large: only an empty one is the end.
        while self._arrival < newest.arrival and (
            page := self._client.events(
                self._wanted, after=self._arrival, before=newest.arrival + 1, limit=_PAGE_SIZE
            )
        ):
            self._print(page)
            self._note(page[-1])  # so that it isn't printed again after a lost connection
        self._note(newest)

    def _reconnect(self, error: UnreachableError) -> None:
        """Connect again, and check whether it is the same collector as before."""
        is_same = None
        if isinstance(
            error, ConnectionLostError
        ):  # idle connections get closed: not worth a notice
            try:
                is_same = self._has_same_events()
            except UnreachableError as newer:
                error = newer
        if is_same is None:
            is_same = self._wait(error)
        if not is_same:
            notice(
                "the collector has another database, or was emptied; starting from its beginning"
            )
            self._seen.clear()

    def _wait(self, error: UnreachableError) -> bool:
        """Wait until the collector answers, and return :meth:`_has_same_events`."""
        notice(f"{error}; waiting for it")
        pause = _POLL_INTERVAL
        while True:
            sleep_unless_pipe_closed(pause)
            pause = min(_MAX_RETRY_INTERVAL, pause * 1.5)
            with contextlib.suppress(UnreachableError):
                is_same = self._has_same_events()
                notice("the collector answers again")
                return is_same

    def _has_same_events(self) -> bool:
        """Return whether one of the last seen events is still stored under its number."""
        if not self._seen:
            self._client.newest()
            return True
        for event in reversed(self._seen):
            found = self._client.events(EventFilter(), after=event.arrival - 1, limit=1)
            if found and _identity(found[0]) == _identity(event):
                return True
        return False

    def _print(self, events: list[StoredEvent]) -> None:
        with stdout_errors():
            click.echo("\n".join(map(self._to_line, events)), color=True)


def _identity(event: StoredEvent) -> tuple[int, str, int]:
    return event.arrival, event.session_id, event.seq


def _json_line(event: StoredEvent) -> str:
    return one_line(msgspec.json.encode(event).decode())


def _plain_line(event: StoredEvent) -> str:
    time = _arrived(event).isoformat(timespec="milliseconds")
    fields = (time, event.session_id, str(event.seq), event.type)
    return "\t".join((*map(escape, fields), *_texts(event), *_fault(event)))


def _colored_line(event: StoredEvent) -> str:
    color = _TYPE_COLORS[sum(event.type.encode()) % len(_TYPE_COLORS)]
    data, *context = _texts(event)
    return "  ".join(
        (
            click.style(_clock(event), dim=True),
            click.style(escape(event.session_id[:8]), dim=True),
            click.style(f"{event.seq:>6}", dim=True),
            click.style(escape(event.type), fg=color, bold=True),
            data,
            *(click.style(text, dim=True) for text in context),
            *(click.style(text, fg="red") for text in _fault(event)),
        )
    )


def _clock(event: StoredEvent) -> str:
    """Return its time of arrival; with the date if that is another day than today."""
    arrived = _arrived(event)
    now = datetime.datetime.now(arrived.tzinfo)
    if arrived.date() == now.date():
        day = ""
    else:
        day = arrived.strftime("%m-%d " if arrived.year == now.year else "%Y-%m-%d ")
    return day + arrived.strftime("%H:%M:%S.%f")[:-3]


def _texts(event: StoredEvent) -> list[str]:
    """Return the JSON of the data and, if the event has one, of the context."""
    texts = [event.data] if event.context is msgspec.UNSET else [event.data, event.context]
    return [one_line(bytes(text).decode()) for text in texts]


def _fault(event: StoredEvent) -> list[str]:
    return [] if event.fault is None else [f"fault: {escape(event.fault)}"]


def _arrived(event: StoredEvent) -> datetime.datetime:
    """Return its time of arrival, in the time zone of this machine."""
    return datetime.datetime.fromtimestamp(
        event.received / 1000, datetime.timezone.utc
    ).astimezone()
