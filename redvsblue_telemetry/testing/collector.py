"""A collector for the tests of games: the real one, on a thread.

::

    from redvsblue_telemetry import start_telemetry, stop_telemetry
    from redvsblue_telemetry.testing.collector import RunningCollector

    with RunningCollector() as collector:
        start_telemetry(enabled=True, url=collector.url)
        play_one_round()
        (end,) = collector.wait_for("round_end")
        assert end.data["winner"] == "red"
        stop_telemetry()

Under pytest, the fixture ``telemetry_collector`` is one of these. It queries the collector over
HTTP, as any other client does.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import msgspec

from .._process import get_telemetry, install_telemetry, stop_telemetry
from .._shared import Unpack, escape, monotonic
from ..client import Telemetry
from ..collector.alerts import Conditions
from ..collector.client import CollectorClient, ConnectionLostError
from ..collector.models import (
    MAX_PAGE_SIZE,
    EventFilter,
    FaultGroup,
    RejectedMessage,
    Session,
    Stats,
    StoredEvent,
)
from ..collector.server import IN_MEMORY, Options, serve, telemetry_url
from ..collector.storage.upkeep import Keep
from ..events import TelemetryEvent
from ..settings import TelemetrySettings
from ._matching import PREVIEW_LINES, format_event, preview
from ._recording import RecordingTelemetry, Snapshot

__all__ = ["CollectedEvents", "CollectorOptions", "RunningCollector", "sending_for_real"]

_POLL_INTERVAL = 0.01  # seconds
_THREAD_TIMEOUT = 15.0  # seconds for the thread to start listening, or to end
_STOP_TIMEOUT = 0.5  # seconds for events that no test has waited for
_MAX_ATTEMPTS = 5  # to ask something while connections are lost

_Answer = TypeVar("_Answer")


class CollectorOptions(TypedDict, total=False):
    """The keyword arguments of :class:`RunningCollector`, for type checkers and editors.

    The same fields as :class:`Options`, none of them required; the paths may be strings.
    """

    host: str
    port: int
    db: str | Path | None
    token: str | None
    insecure: bool
    hosts: tuple[str, ...]
    allow_reset: bool
    max_connections: int
    max_rate: float
    max_message_bytes: int
    busy_timeout: float
    schema: str | Path | None
    read_token: str | None
    trust_proxy: bool
    tls_cert: str | Path | None
    tls_key: str | Path | None
    keep: Keep
    max_bytes: int | None
    alerts: tuple[str, ...]
    alert_when: Conditions
    public_url: str | None


class CollectedEvents(Snapshot):
    """The events that a collector had when it was queried, in order of arrival."""

    kind = "collected events"


class RunningCollector:
    """A collector on an available port of this machine; a context manager.

    Its methods may be called from any thread.

    Args:
        options: The options of ``redvsblue-telemetry collect``: ``host``, ``port`` (by default 0, a
            free one), ``db`` (by default a temporary file), ``token``, ``insecure``, ``hosts``,
            ``allow_reset`` (by default True), ``max_connections``, ``max_rate``,
            ``max_message_bytes``, ``busy_timeout`` in seconds, ``schema``, ``read_token``,
            ``trust_proxy``, ``tls_cert``, ``tls_key``, ``keep``, ``max_bytes``, ``alerts``,
            ``alert_when``, and ``public_url``.
    """

    http_url: str
    """The URL of its page and of its API; set by :meth:`start`."""

    def __init__(self, **options: Unpack[CollectorOptions]) -> None:
        chosen: dict[str, Any] = {"port": 0, "db": None, "allow_reset": True, **options}
        db = chosen["db"]
        chosen["db"] = None if db in (None, IN_MEMORY) else Path(db)
        for name in ("schema", "tls_cert", "tls_key"):
            if chosen.get(name) is not None:
                chosen[name] = Path(chosen[name])
        self._options = Options(**chosen)
        self._loop: _RealTimeLoop
        self._stop: asyncio.Event
        self._ready: Future[str] = Future()
        self._thread = threading.Thread(target=self._run, name="telemetry-collector", daemon=True)

    def start(self) -> RunningCollector:
        """Start to listen.

        Raises:
            OptionsError: The options are not allowed, or the port is taken.
            DatabaseError: The database cannot be used.
        """
        self._thread.start()
        try:
            self.http_url = self._ready.result(_THREAD_TIMEOUT)
        except BaseException:
            self._thread.join(_THREAD_TIMEOUT)  # it is closing its loop
            raise
        return self

    def stop(self) -> None:
        """Disconnect the clients and end. Further calls do nothing."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # the thread has ended meanwhile, and closed its loop
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_THREAD_TIMEOUT)

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._thread.is_alive()

    @property
    def url(self) -> str:
        """The URL for ``start_telemetry``."""
        return telemetry_url(self.http_url)

    @property
    def events(self) -> CollectedEvents:
        """The events that have arrived so far, each of them once."""
        return self._events(EventFilter())

    def events_of(self, type: str) -> CollectedEvents:
        """Return the events of one type that have arrived so far."""
        return self._events(EventFilter(type=type))

    @property
    def sessions(self) -> list[Session]:
        """The sessions of the events, the most recently active first."""
        return self._ask(_all_sessions)

    @property
    def rejected(self) -> list[RejectedMessage]:
        """The messages that were not valid events, newest first; the newest thousand."""
        return self._ask(lambda client: client.rejected(limit=MAX_PAGE_SIZE))

    @property
    def faults(self) -> list[FaultGroup]:
        """The faults of the events that do not fit the ``schema``, the newest first."""
        return self._ask(lambda client: client.faults(limit=MAX_PAGE_SIZE))

    @property
    def connections(self) -> int:
        """The number of clients that are connected now."""
        return self._stats().connections

    def is_deserted(self, timeout: float = 0.5) -> bool:
        """Return whether all clients disconnect within a number of seconds."""
        return self._becomes_true(lambda: self.connections == 0, timeout)

    def reset(self) -> None:
        """Delete everything that has arrived."""
        with self._client() as client:
            client.clear()

    def wait_for(self, type: str, count: int = 1, timeout: float = 5.0) -> CollectedEvents:
        """Wait until events of a type have arrived.

        Args:
            type: Their type.
            count: The least number of them.
            timeout: The longest time to wait, in seconds.

        Returns:
            All events of that type that have arrived.

        Raises:
            AssertionError: They have not arrived. The message lists the events that have, the
                rejected messages, the sessions, and the state of this process's telemetry.
        """
        __tracebackhide__ = True
        if not self._becomes_true(lambda: self._stats().types.get(type, 0) >= count, timeout):
            raise AssertionError(self._account(type, count, timeout))
        return self.events_of(type)

    def summary(self) -> str:
        """Return a preview of the events, the rejected messages and the sessions."""
        return "\n".join(map(escape, self._summary()))

    def __enter__(self) -> RunningCollector:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<telemetry collector at {getattr(self, 'http_url', 'no address yet')}>"

    # Queries.

    @contextmanager
    def _client(self) -> Iterator[CollectorClient]:
        # For one call each: a client belongs to one thread, and a kept connection goes stale.
        with closing(
            CollectorClient(self.http_url, self._options.read_token or self._options.token)
        ) as client:
            yield client

    def _ask(self, question: Callable[[CollectorClient], _Answer]) -> _Answer:
        """Return the answer to a question, which may take several requests.

        If this process was stopped in between, by a debugger for example, or had no turn for a few
        seconds, the collector has closed the connection. Then the question is asked again. It still
        is this collector that answers: it has the port.
        """
        for _ in range(_MAX_ATTEMPTS - 1):
            with suppress(ConnectionLostError), self._client() as client:
                return question(client)
        with self._client() as client:
            return question(client)

    def _events(self, wanted: EventFilter) -> CollectedEvents:
        return self._ask(
            lambda client: CollectedEvents(map(_as_emitted, client.iter_events(wanted)))
        )

    def _stats(self) -> Stats:
        return self._ask(CollectorClient.stats)

    def _becomes_true(self, condition: Callable[[], bool], timeout: float) -> bool:
        pause = threading.Event()  # unlike time.sleep, no test replaces it
        deadline = monotonic() + timeout
        while not condition():
            if monotonic() >= deadline:
                return False
            pause.wait(_POLL_INTERVAL)
        return True

    def _account(self, type: str, count: int, timeout: float) -> str:
        """Return the message of a failed wait."""
        types = self._stats().types
        arrived = types.get(type, 0)
        number = "no" if arrived == 0 else f"only {arrived} of {count}"
        first = f"{number} {type!r} events arrived within {timeout:g} s"
        if similar := difflib.get_close_matches(type, set(types) - {type}, 3, 0.7):
            first += f"; did you mean {' or '.join(map(repr, similar))}?"
        lines = [first, *self._summary(), *_sdk_state(get_telemetry(), self.url)]
        return "\n".join(map(escape, lines))

    def _summary(self) -> list[str]:
        return self._ask(self._summary_from)

    @staticmethod
    def _summary_from(client: CollectorClient) -> list[str]:
        stats = client.stats()
        events = [_as_emitted(event) for event in client.events(limit=PREVIEW_LINES)]
        rejected = client.rejected(limit=PREVIEW_LINES)
        sessions = client.sessions(limit=PREVIEW_LINES)
        lines = [f"events: {stats.events}", *preview(events, stats.events)]
        if rejected:
            reasons = [f"{part.reason}: {format_event(part.text)}" for part in rejected]
            lines.append(f"rejected messages: {stats.rejected}, newest first")
            lines += preview(reasons, stats.rejected)
        if sessions:
            lines.append(f"sessions: {stats.sessions}")
            lines += preview([_session_line(each) for each in sessions], stats.sessions)
        lines.append(f"connected clients: {stats.connections}")
        if stats.last_error is not None:
            lines.append(f"the collector cannot store events: {stats.last_error}")
        return lines

    # On the thread.

    def _run(self) -> None:
        loop = self._loop = _RealTimeLoop()
        try:
            loop.run_until_complete(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        await serve(self._options, self._stop, self._ready.set_result)


if sys.platform == "win32":
    _Loop = asyncio.ProactorEventLoop  # as `collect` runs on; the other one has 512 sockets at most
else:
    _Loop = asyncio.SelectorEventLoop


class _RealTimeLoop(_Loop):
    """A loop whose timers run also while a test has frozen time."""

    def time(self) -> float:
        return monotonic()


def _all_sessions(client: CollectorClient) -> list[Session]:
    found: list[Session] = []
    while page := client.sessions(limit=MAX_PAGE_SIZE, offset=len(found)):
        found += page
    return found


def _as_emitted(event: StoredEvent) -> TelemetryEvent:
    return TelemetryEvent(
        type=event.type,
        data=_decoded(event.data),
        timestamp=event.timestamp,
        id=event.id,
        session_id=event.session_id,
        seq=event.seq,
        version=event.version,
        context=None if event.context is msgspec.UNSET else _decoded(event.context),
    )


def _decoded(text: msgspec.Raw) -> Any:
    return json.loads(bytes(text), parse_int=_number)  # msgspec refuses 1e400


def _number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts to an int
        return float(digits)


def _session_line(session: Session) -> str:
    state = "connected" if session.connected else "disconnected"
    return (
        f"{session.session_id} ({state}): {session.events} events, "
        f"{session.missing} missing, {session.repeats} repeats"
    )


def _sdk_state(telemetry: Telemetry, url: str) -> list[str]:
    """Describe this process's telemetry, to explain why events have not arrived."""
    if not telemetry.settings.enabled:
        return ["telemetry is off in this process; was start_telemetry() called?"]
    stats = telemetry.stats()
    reasons = ", ".join(f"{count} {reason}" for reason, count in stats.dropped_by.items() if count)
    reasons = reasons and f" ({reasons})"
    ledger = (
        f"{stats.emitted} emitted, {stats.delivered} delivered, {stats.dropped} dropped{reasons}, "
        f"{stats.buffered} buffered, {stats.in_flight} in flight, {stats.rejected} rejected"
    )
    if isinstance(telemetry, RecordingTelemetry):
        return [f"telemetry in this process is recorded, so nothing is sent: {ledger}"]
    lines = [f"telemetry in this process is {stats.state}: {ledger}"]
    if stats.last_error is not None:
        lines.append(f"  last error: {stats.last_error}")
    if telemetry.settings.url != url:
        lines.append(f"  it sends to {telemetry.settings.url}, not to {url}")
    return lines


@contextmanager
def sending_for_real() -> Iterator[None]:
    """Start the block without telemetry; stop any that it starts, and restore the previous one."""
    previous = install_telemetry(Telemetry(TelemetrySettings(enabled=False)))
    try:
        yield
    finally:
        try:
            stop_telemetry(_STOP_TIMEOUT)
        finally:
            install_telemetry(previous)
