"""A collector for the tests of games: the real one, in memory, on a thread of its own.

::

    from redvsblue_telemetry import start_telemetry, stop_telemetry
    from redvsblue_telemetry.testing.collector import RunningCollector

    with RunningCollector() as collector:
        start_telemetry(enabled=True, url=collector.url)
        play_one_round()
        (end,) = collector.wait_for("round_end")
        assert end.data["winner"] == "red"
        stop_telemetry()

Under pytest, the fixture ``telemetry_collector`` is one of these. It is asked by HTTP, as anybody
would ask it.
"""

from __future__ import annotations

import asyncio
import difflib
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast
from urllib.parse import urlencode, urlsplit

import msgspec

from .._shared import monotonic
from ..client import Telemetry, get_telemetry, install_telemetry, stop_telemetry
from ..collector.server import Options, serve
from ..collector.storage.queries import RejectedMessage, Session, StoredEvent
from ..events import TelemetryEvent
from ..settings import TelemetrySettings
from . import Snapshot
from ._matching import BRIEFLY, briefly, printable, shown

__all__ = ["CollectedEvents", "CollectedSession", "RunningCollector", "sending_for_real"]

_PAGE = 1000  # what one request may ask for at most
_LOOKING_AGAIN = 0.01  # seconds
_PATIENCE = 15.0  # seconds for an answer, or for the thread to end
_FAREWELL = 0.5  # seconds for what nobody has waited for
_IN_MEMORY = ":memory:"  # what the command line calls it, and SQLite
_Answer = TypeVar("_Answer")


class CollectedSession(Session):
    """A session that the collector has heard of."""

    connected: bool


class _State(msgspec.Struct, rename="camel"):
    events: int
    sessions: int
    rejected: int
    types: dict[str, int]
    connections: int
    last_error: str | None


class _EventsPage(msgspec.Struct):
    events: list[StoredEvent]


class _SessionsPage(msgspec.Struct):
    sessions: list[CollectedSession]


class _RejectedPage(msgspec.Struct):
    rejected: list[RejectedMessage]


class CollectedEvents(Snapshot):
    """The events that a collector had when it was asked, in the order of their arrival."""

    kind = "collected events"


class RunningCollector:
    """A collector on a free port of this machine; a context manager. Usable from any thread.

    Args:
        options: any of :class:`Options`, such as ``token="secret"``; ``db`` may be a string.
    """

    def __init__(self, **options: Any) -> None:
        defaults: dict[str, Any] = {"port": 0, "db": None, "allow_reset": True}
        chosen = defaults | options
        db = chosen["db"]
        chosen["db"] = None if db in (None, _IN_MEMORY) else Path(db)
        self._options = Options(**chosen)
        self._loop: _RealTimeLoop
        self._stop: asyncio.Event
        self._ready: Future[str] = Future()
        self._thread = threading.Thread(target=self._run, name="telemetry-collector", daemon=True)

    def start(self) -> RunningCollector:
        """Listen.

        Raises:
            OptionsError: it may not run so, or the port is taken.
            DatabaseError: the database can't be used.
        """
        self._thread.start()
        self.http_url = self._ready.result(_PATIENCE)
        """Where its page and its API are."""
        return self

    def stop(self) -> None:
        """Let clients go, and end. Once is enough; more does nothing."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # it has ended meanwhile, and closed its loop
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_PATIENCE)

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._thread.is_alive()

    @property
    def url(self) -> str:
        """What to give to ``start_telemetry``."""
        return f"ws://{urlsplit(self.http_url).netloc}/telemetry"

    @property
    def events(self) -> CollectedEvents:
        """What has arrived so far, each event once."""
        return self._events()

    def events_of(self, type: str) -> CollectedEvents:
        """What has arrived so far of one type."""
        return self._events(type=type)

    @property
    def sessions(self) -> list[CollectedSession]:
        """The sessions that events have come of, the one that was heard of last first."""
        found: list[CollectedSession] = []
        while True:
            query = {"limit": _PAGE, "offset": len(found)}
            page = self._get("sessions", _SessionsPage, query).sessions
            found += page
            if len(page) < _PAGE:
                return found

    @property
    def rejected(self) -> list[RejectedMessage]:
        """What came and was no event, the newest first; the newest thousand."""
        return self._get("rejected", _RejectedPage, {"limit": _PAGE}).rejected

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return self._state().connections

    def is_deserted(self, timeout: float = 0.5) -> bool:
        """Whether no client is connected any more; those who are leaving have so many seconds."""
        return self._comes_true(lambda: self.connections == 0, timeout)

    def reset(self) -> None:
        """Forget all that has arrived."""
        self._ask("DELETE", "events")

    def wait_for(self, type: str, count: int = 1, timeout: float = 5.0) -> CollectedEvents:
        """Wait until events of a type have arrived.

        Args:
            type: which.
            count: how many of them, at least.
            timeout: the longest to wait, in seconds.

        Returns:
            All of that type that have arrived.

        Raises:
            AssertionError: they haven't. The message says what has, what was rejected and why,
                who was connected, and what the SDK of this process knows.
        """
        __tracebackhide__ = True
        if not self._comes_true(lambda: self._state().types.get(type, 0) >= count, timeout):
            raise AssertionError(self._account(type, count, timeout))
        return self.events_of(type)

    def summary(self) -> str:
        """What has arrived, what was rejected and why, and of which sessions it is."""
        return "\n".join(map(printable, self._summary()))

    def __enter__(self) -> RunningCollector:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<telemetry collector at {getattr(self, 'http_url', 'no address yet')}>"

    # Asking.

    def _events(self, **wanted: str) -> CollectedEvents:
        # Up to the newest that there is now: else a game that never pauses would keep it asking.
        newest = self._page(**wanted, order="desc", limit=1)
        last = newest[0].arrival if newest else 0
        found: list[StoredEvent] = []
        after = 0
        # A page that is short need not be the last: it is cut where its data grows large.
        while after < last and (page := self._page(**wanted, after=after, limit=_PAGE)):
            found += page
            after = page[-1].arrival
        return CollectedEvents(map(_as_emitted, found))

    def _page(self, **query: object) -> list[StoredEvent]:
        return self._get("events", _EventsPage, query).events

    def _state(self) -> _State:
        return self._get("stats", _State)

    def _get(self, what: str, kind: type[_Answer], query: dict[str, Any] | None = None) -> _Answer:
        path = f"{what}?{urlencode(query)}" if query else what
        return msgspec.json.decode(self._ask("GET", path), type=kind)

    def _ask(self, method: str, path: str) -> bytes:
        address = urlsplit(self.http_url)
        headers = {}
        if self._options.token is not None:
            headers["Authorization"] = f"Bearer {self._options.token}"
        connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=_PATIENCE
        )
        try:
            connection.request(method, f"/api/{path}", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} /api/{path}: {answer.status} {body.decode()}")
        return body

    def _comes_true(
        self,
        condition: Callable[[], bool],
        timeout: float,
        clock: Callable[[], float] = monotonic,
    ) -> bool:
        pause = threading.Event()  # it waits in real time, too
        deadline = clock() + timeout
        while not condition():
            if clock() >= deadline:
                return False
            pause.wait(_LOOKING_AGAIN)
        return True

    # What a test that waited in vain is told.

    def _account(self, type: str, count: int, timeout: float) -> str:
        there = self._state().types
        came = there.get(type, 0)
        number = "none" if came == 0 else f"only {came} of {count}"
        lines = [f"{number} came in {timeout:g} s of the events {type!r}"]
        if similar := difflib.get_close_matches(type, set(there) - {type}, 3, 0.7):
            lines[0] += f"; there is {' and '.join(map(repr, similar))}"
        lines += self._summary()
        lines += _of_this_process(get_telemetry(), self.url)
        return "\n".join(map(printable, lines))

    def _summary(self) -> list[str]:
        state, few = self._state(), {"limit": BRIEFLY}
        events = [_as_emitted(event) for event in self._page(**few)]
        lines = _listed("arrived", state.events, events)
        if rejected := self._get("rejected", _RejectedPage, few).rejected:
            why = [f"{part.reason}: {shown(part.text)}" for part in rejected]
            lines += _listed("rejected, the newest first", state.rejected, why)
        if sessions := self._get("sessions", _SessionsPage, few).sessions:
            lines += _listed("sessions", state.sessions, [_in_words(each) for each in sessions])
        lines.append(f"clients connected now: {state.connections}")
        if state.last_error is not None:
            lines.append(f"the collector can't store: {state.last_error}")
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


class _RealTimeLoop(asyncio.SelectorEventLoop):
    """Goes by the real time, also while a test has it frozen: else no timer of it would end."""

    def time(self) -> float:
        return monotonic()


def _as_emitted(event: StoredEvent) -> TelemetryEvent:
    return TelemetryEvent(
        type=event.type,
        data=_decoded(event.data),
        timestamp=event.timestamp,
        id=event.id,
        session_id=event.session_id,
        seq=event.seq,
        version=event.version,
    )


def _decoded(data: msgspec.Raw) -> dict[str, Any]:
    """The data of an event, which may hold numbers that msgspec doesn't take, such as 1e400."""
    try:
        return cast("dict[str, Any]", msgspec.json.decode(data))
    except msgspec.DecodeError:
        return cast("dict[str, Any]", json.loads(bytes(data), parse_int=_number))


def _number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # more digits than Python makes an int of
        return float(digits)


def _listed(title: str, number: int, found: Sequence[object]) -> list[str]:
    if not found:
        return [f"{title}: nothing"]
    return [f"{title}: {number}", *briefly(found, number)]


def _in_words(session: CollectedSession) -> str:
    state = "connected" if session.connected else "gone"
    return (
        f"{session.session_id} ({state}): {session.events} events, "
        f"{session.missing} missing, {session.repeats} repeats"
    )


def _of_this_process(telemetry: Telemetry, url: str) -> list[str]:
    """What this process's own telemetry has to say about events that didn't come."""
    if not telemetry.settings.enabled:
        return ["this process has no telemetry on: is start_telemetry() called, by this process?"]
    stats = telemetry.stats()
    ledger = (
        f"{stats.emitted} emitted, {stats.delivered} delivered, {stats.dropped} dropped, "
        f"{stats.buffered} buffered, {stats.in_flight} in flight, {stats.rejected} rejected"
    )
    if not telemetry._sends:
        return [f"this process's telemetry is recorded, so nothing is sent: {ledger}"]
    lines = [f"this process's telemetry is {stats.state}: {ledger}"]
    if stats.last_error is not None:
        lines.append(f"  its last error: {stats.last_error}")
    if telemetry.settings.url != url:
        lines.append(f"  it sends to {telemetry.settings.url}, not to {url}")
    return lines


@contextmanager
def sending_for_real() -> Iterator[None]:
    """Begin without a telemetry, whatever was there, and end what is started in the block."""
    previous = install_telemetry(Telemetry(TelemetrySettings(enabled=False)))
    try:
        yield
    finally:
        try:
            stop_telemetry(_FAREWELL)
        finally:
            install_telemetry(previous)
