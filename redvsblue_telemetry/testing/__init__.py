"""For the tests of your game: record its events without a network, or receive them for real.

::

    from redvsblue_telemetry.testing import RecordingServer, record_events

    def test_a_hit_is_recorded():
        with record_events() as events:
            play_one_round()
        assert events.types() == ["round_start", "ship_hit", "round_end"]

:class:`RecordingServer` needs the extra ``redvsblue-telemetry[testing]``.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeGuard, overload

from ..client import Telemetry, TelemetryStats, install_telemetry
from ..events import TelemetryEvent
from ..settings import TelemetrySettings
from ._matching import (
    ObservedEvent,
    briefly,
    difference,
    fits,
    is_expectation,
    mismatch,
    nearest,
    shown,
)

if TYPE_CHECKING:
    from websockets.http11 import Request, Response
    from websockets.sync.server import ServerConnection

__all__ = ["Events", "RecordedEvents", "RecordingServer", "record_events"]


class _RecordingTelemetry(Telemetry):
    """Takes events as any other, and keeps them: it has no worker."""

    _sends = False

    def start(self) -> Telemetry:
        self._recording = self.is_running
        return self

    @property
    def enabled(self) -> bool:
        """The player's toggle; what was recorded stays."""
        return self._recording

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._recording = enabled and self.is_running

    def stop(self, timeout: float = 2.0) -> bool:
        # A game that stops telemetry at its end goes on being recorded in its next test run.
        return True

    def _on_high_water(self) -> None:
        """A recording never gets a worker, however much it holds."""

    def recorded(self) -> list[TelemetryEvent]:
        codec, store = self._codec, self._store
        bodies = store.peek(len(store))
        return [
            ObservedEvent.of(codec.from_wire(codec.to_wire(body, n)))
            for n, body in enumerate(bodies, start=1)
        ]


class Events(Sequence[TelemetryEvent]):
    """Events in the order of their emission, made to be compared with what a test expects.

    ::

        assert events == ["round_start", ("ship_hit", {"by": "red"}), "round_end"]
        assert "ship_hit" in events
        assert ("ship_hit", {"by": "blue"}) not in events

    A string stands for an event of that type whatever its data is, a pair for its type and its
    data, and a :class:`TelemetryEvent` for its type, its data and what else of it is set. A slice
    is compared likewise, and so is a single event: ``events[0] == "round_start"``. Under pytest, an
    assertion that fails says where the events differ.
    """

    kind = "events"
    """What they are called when they are shown."""

    @abstractmethod
    def now(self) -> list[TelemetryEvent]:
        """The events that there are now."""

    @overload
    def __getitem__(self, index: int) -> TelemetryEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Events: ...
    def __getitem__(self, index: int | slice) -> TelemetryEvent | Events:
        if isinstance(index, slice):
            return Snapshot(self.now()[index], self.kind)
        return self.now()[index]

    def __iter__(self) -> Iterator[TelemetryEvent]:
        return iter(self.now())

    def __len__(self) -> int:
        return len(self.now())

    def __contains__(self, expected: object) -> bool:
        return any(fits(event, expected) for event in self.now())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Events):
            return self.now() == other.now()
        if _is_list(other):
            events = self.now()
            return len(events) == len(other) and all(map(fits, events, other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # they grow

    def __repr__(self) -> str:
        events = self.now()
        return "\n".join([f"<{len(events)} {self.kind}>", *briefly(events)])

    def types(self) -> list[str]:
        """The type of each event."""
        return [event.type for event in self]

    def of_type(self, type: str) -> Events:
        """The events of one type that there are now."""
        return Snapshot([event for event in self if event.type == type], self.kind)


class Snapshot(Events):
    """Events as they were at one moment."""

    def __init__(self, events: Iterable[TelemetryEvent], kind: str | None = None) -> None:
        self._events = [ObservedEvent.of(event) for event in events]
        if kind is not None:
            self.kind = kind

    def now(self) -> list[TelemetryEvent]:
        """The events that there were."""
        return list(self._events)


class RecordedEvents(Events):
    """The events that were emitted so far, in order; grows while it is looked at."""

    kind = "recorded events"

    def __init__(self, telemetry: _RecordingTelemetry) -> None:
        self._telemetry = telemetry

    def now(self) -> list[TelemetryEvent]:
        """The events that were emitted so far."""
        return self._telemetry.recorded()

    def stats(self) -> TelemetryStats:
        """The ledger; ``rejected`` says how many events could not be recorded."""
        return self._telemetry.stats()

    def summary(self) -> str:
        """The events, line by line, the first of many; and how many could not be recorded."""
        rejected = self.stats().rejected
        note = f"\n{rejected} could not be recorded; the log says why" if rejected else ""
        return f"{self!r}{note}"


def explain_assertion(op: str, left: object, right: object) -> list[str] | None:
    """Why an assertion about events doesn't hold; None if it isn't about any. For pytest's hook."""
    if op == "==":
        return _explain_equality(left, right)
    if op == "in" and isinstance(right, Events):
        return [f"{shown(left)} in {right.kind}", *nearest(right.now(), left)]
    if op == "not in" and isinstance(right, Events):
        there = [event for event in right if fits(event, left)]
        return [f"{shown(left)} not in {right.kind}", f"{len(there)} of it:", *briefly(there)]
    return None


def _explain_equality(left: object, right: object) -> list[str] | None:
    is_left = isinstance(left, (Events, ObservedEvent))
    found, expected = (left, right) if is_left else (right, left)
    if isinstance(found, Events) and _stands_for_one(expected):
        sides = [found.kind, shown(expected)]
        why = [shown(f"{found.kind} are compared with a list: [{expected!r}]")]
    elif isinstance(found, Events) and _is_list(expected):
        sides = [found.kind, "what was expected"]
        why = difference(found.now(), list(expected))
    elif isinstance(found, ObservedEvent) and is_expectation(expected):
        sides = [shown(found), shown(expected)]
        why = [mismatch(found, expected)]
    else:
        return None
    return [" == ".join(sides if is_left else sides[::-1]), *why]


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _stands_for_one(expected: object) -> bool:
    """Whether it is what one event may be expected to be; a tuple of two may also be a list."""
    if isinstance(expected, tuple) and len(expected) == 2:
        return isinstance(expected[0], str) and isinstance(expected[1], Mapping)
    return isinstance(expected, (str, TelemetryEvent))


@contextlib.contextmanager
def record_events(**settings: Any) -> Iterator[RecordedEvents]:
    """Record what the code in the ``with`` block emits; nothing is sent.

    Within the block, ``start_telemetry``, ``get_telemetry`` and ``emit`` all use the recording,
    whatever the environment says.

    Args:
        settings: any of :class:`TelemetrySettings`, such as ``strict=True``.
    """
    defaults: dict[str, Any] = {"enabled": True, "capacity": 1_000_000}
    telemetry = _RecordingTelemetry(TelemetrySettings(**(defaults | settings)))
    telemetry.start()
    previous = install_telemetry(telemetry)
    try:
        yield RecordedEvents(telemetry)
    finally:
        install_telemetry(previous)


class RecordingServer:
    """A real WebSocket server on loopback that keeps what it receives; a context manager.

    ::

        with RecordingServer() as server:
            telemetry = start_telemetry(enabled=True, url=server.url)
            ...
            assert server.wait_for(3)
            print(server.events)

    Safe to read from any thread.

    Args:
        port: 0 for a free one.
        ssl_context: for ``wss://``.
        acks: acknowledge each message by ``{"ack": n}`` once it is recorded, where the client
            offers that: so what ``flush`` calls confirmed is in :attr:`events`. Without, only
            pongs confirm, and these can be ahead of the recording.
        token: refuse handshakes that don't bear it, with 401.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        acks: bool = True,
        token: str | None = None,
    ) -> None:
        self._requested_port = port
        self._ssl_context = ssl_context
        self._acks = acks
        self._token = token
        self._changed = threading.Condition()
        self._messages: list[str | bytes] = []
        self._events: list[dict[str, Any]] = []
        self._requests: list[Request] = []
        self._open: set[ServerConnection] = set()

    def start(self) -> RecordingServer:
        """Listen."""
        try:
            from websockets.exceptions import ConnectionClosed
            from websockets.sync.server import serve
        except ImportError as error:
            raise ImportError(
                "RecordingServer needs websockets: pip install redvsblue-telemetry[testing]"
            ) from error
        self._closed_errors = ConnectionClosed
        self._server = serve(
            self._receive,
            "127.0.0.1",
            self._requested_port,
            ssl=self._ssl_context,
            process_request=self._check,
            process_response=self._answer,
            max_size=None,
            compression=None,
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="recording-server", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close all connections and stop listening."""
        self._server.shutdown()
        self.disconnect()
        self._thread.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._open, timeout=5)

    def disconnect(self, code: int = 1001) -> None:
        """Close the connections that are open now."""
        with self._changed:
            connections = list(self._open)
        for connection in connections:
            connection.close(code)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.socket.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """What to give to ``start_telemetry``."""
        scheme = "ws" if self._ssl_context is None else "wss"
        return f"{scheme}://127.0.0.1:{self.port}/telemetry"

    @property
    def messages(self) -> list[str | bytes]:
        """The messages as they came, repeats included."""
        with self._changed:
            return list(self._messages)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events as they came, repeats included."""
        with self._changed:
            return list(self._events)

    @property
    def requests(self) -> list[Request]:
        """The handshakes, those refused among them."""
        with self._changed:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._changed:
            return len(self._open)

    def wait_for(self, count: int, timeout: float = 5.0) -> bool:
        """Wait until so many events have come; whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._events) >= count, timeout)

    def wait_for_connection(self, timeout: float = 5.0) -> bool:
        """Wait until a client is connected; whether one is."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._open), timeout)

    def __enter__(self) -> RecordingServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # On the server's threads.

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        with self._changed:
            self._requests.append(request)
        if self._token and request.headers.get("Authorization") != f"Bearer {self._token}":
            return connection.respond(401, "a token is needed\n")
        return None

    def _answer(
        self, connection: ServerConnection, request: Request, response: Response
    ) -> Response | None:
        if self._acks and request.headers.get("Telemetry-Ack") == "cumulative":
            response.headers["Telemetry-Ack"] = "cumulative"
            return response
        return None

    def _receive(self, connection: ServerConnection) -> None:
        response = connection.response
        is_acking = response is not None and "Telemetry-Ack" in response.headers
        with self._changed:
            self._open.add(connection)
            self._changed.notify_all()
        try:
            for number, message in enumerate(connection, start=1):
                self._keep(message)
                if is_acking:
                    connection.send(json.dumps({"ack": number}))
        except self._closed_errors:
            pass  # however a client goes, what it sent is kept
        finally:
            with self._changed:
                self._open.discard(connection)
                self._changed.notify_all()

    def _keep(self, message: str | bytes) -> None:
        text = message if isinstance(message, str) else message.decode()
        events = json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines())
        with self._changed:
            self._messages.append(message)
            self._events.extend(events)
            self._changed.notify_all()
