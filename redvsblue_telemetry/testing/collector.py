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
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from .._shared import monotonic
from ..client import Telemetry, get_telemetry, install_telemetry, stop_telemetry
from ..collector.client import MAX_PAGE_SIZE, CollectorClient
from ..collector.models import EventFilter, RejectedMessage, Session, Stats, StoredEvent
from ..collector.server import Options, serve
from ..events import TelemetryEvent
from ..settings import TelemetrySettings
from . import Snapshot
from ._matching import BRIEFLY, briefly, printable, shown

__all__ = ["CollectedEvents", "RunningCollector", "sending_for_real"]

_LOOKING_AGAIN = 0.01  # seconds
_PATIENCE = 15.0  # seconds for an answer, or for the thread to end
_FAREWELL = 0.5  # seconds for what nobody has waited for
_IN_MEMORY = ":memory:"  # what the command line calls it, and SQLite


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
        try:
            self.http_url = self._ready.result(_PATIENCE)
        except BaseException:
            self._thread.join(_PATIENCE)  # it is about to end
            raise
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
        return self._events(EventFilter())

    def events_of(self, type: str) -> CollectedEvents:
        """What has arrived so far of one type."""
        return self._events(EventFilter(type=type))

    @property
    def sessions(self) -> list[Session]:
        """The sessions that events have come of, the one that was heard of last first."""
        found: list[Session] = []
        with self._client() as client:
            while page := client.sessions(limit=MAX_PAGE_SIZE, offset=len(found)):
                found += page
                if len(page) < MAX_PAGE_SIZE:
                    break
        return found

    @property
    def rejected(self) -> list[RejectedMessage]:
        """What came and was no event, the newest first; the newest thousand."""
        with self._client() as client:
            return client.rejected(limit=MAX_PAGE_SIZE)

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return self._stats().connections

    def is_deserted(self, timeout: float = 0.5) -> bool:
        """Whether no client is connected any more; those who are leaving have so many seconds."""
        return self._comes_true(lambda: self.connections == 0, timeout)

    def reset(self) -> None:
        """Forget all that has arrived."""
        with self._client() as client:
            client.clear()

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
        if not self._comes_true(lambda: self._stats().types.get(type, 0) >= count, timeout):
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

    @contextmanager
    def _client(self) -> Iterator[CollectorClient]:
        """Open a client for one call: a client is used by one thread only."""
        with closing(CollectorClient(self.http_url, self._options.token)) as client:
            yield client

    def _events(self, wanted: EventFilter) -> CollectedEvents:
        with self._client() as client:
            return CollectedEvents(map(_as_emitted, client.iter_events(wanted)))

    def _stats(self) -> Stats:
        with self._client() as client:
            return client.stats()

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
        there = self._stats().types
        came = there.get(type, 0)
        number = "none" if came == 0 else f"only {came} of {count}"
        lines = [f"{number} came in {timeout:g} s of the events {type!r}"]
        if similar := difflib.get_close_matches(type, set(there) - {type}, 3, 0.7):
            lines[0] += f"; there is {' and '.join(map(repr, similar))}"
        lines += self._summary()
        lines += _of_this_process(get_telemetry(), self.url)
        return "\n".join(map(printable, lines))

    def _summary(self) -> list[str]:
        with self._client() as client:
            stats = client.stats()
            events = [_as_emitted(event) for event in client.events(limit=BRIEFLY)]
            rejected = client.rejected(limit=BRIEFLY)
            sessions = client.sessions(limit=BRIEFLY)
        lines = _listed("arrived", stats.events, events)
        if rejected:
            why = [f"{part.reason}: {shown(part.text)}" for part in rejected]
            lines += _listed("rejected, the newest first", stats.rejected, why)
        if sessions:
            lines += _listed("sessions", stats.sessions, [_in_words(each) for each in sessions])
        lines.append(f"clients connected now: {stats.connections}")
        if stats.last_error is not None:
            lines.append(f"the collector can't store: {stats.last_error}")
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


def _in_words(session: Session) -> str:
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
