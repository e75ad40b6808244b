"""Recordings: a telemetry that keeps its events instead of sending them, and views of them."""

from __future__ import annotations

import builtins
import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeGuard, TypeVar, overload

from .._process import install_telemetry
from .._shared import Unpack, escape
from ..client import Telemetry, TelemetryStats
from ..events import TelemetryEvent
from ..settings import SettingsOverrides, TelemetrySettings
from ._instances import instance_of, marked_type
from ._matching import (
    ObservedEvent,
    closest,
    difference,
    format_event,
    is_expectation,
    matches,
    mismatch,
    preview,
    stated,
)

__all__ = [
    "Events",
    "RecordedEvents",
    "RecordingTelemetry",
    "Snapshot",
    "explain_assertion",
    "record_events",
]

T = TypeVar("T")


class RecordingTelemetry(Telemetry):
    """A telemetry without a worker: it keeps its events."""

    _sends = False

    def _launched(self) -> None:
        """Launch no worker. So the toggle discards nothing: recorded events stay."""

    def _stop(self, timeout: float, reason: str) -> bool:
        # A game that stops telemetry at its end goes on being recorded in its next test run.
        return True

    def recorded(self) -> list[ObservedEvent]:
        """Return the events that were emitted so far, as a server would receive them."""
        codec, store = self._codec, self._store
        bodies = store.peek(len(store))
        return [
            ObservedEvent.of(codec.from_wire(codec.to_wire(body, n)))
            for n, body in enumerate(bodies, start=1)
        ]


class Events(Sequence[ObservedEvent]):
    """Events in order of emission, which can be compared with what a test expects.

    ::

        assert events == ["round_start", ("ship_hit", {"by": "red"}), "round_end"]
        assert "ship_hit" in events
        assert ("ship_hit", {"by": "blue"}) not in events
        assert events.of(ShipHit) == [ShipHit(by="red")]

    A string stands for an event of that type with any data, a pair for a type and its data, an
    instance of a class with :func:`event_type` for the event that ``emit`` makes of it, and a
    :class:`TelemetryEvent` for its type, its data and every other field that it sets. A slice is
    compared in the same way, and so is a single event: ``events[0] == "round_start"``. Under
    pytest, a failed assertion says where the events differ.
    """

    kind = "events"
    """The name of the events in a report."""

    @abstractmethod
    def now(self) -> list[ObservedEvent]:
        """Return the events that there are now."""

    @overload
    def __getitem__(self, index: int) -> ObservedEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Events: ...
    def __getitem__(self, index: int | slice) -> ObservedEvent | Events:
        if isinstance(index, slice):
            return Snapshot(self.now()[index], self.kind)
        return self.now()[index]

    def __iter__(self) -> Iterator[ObservedEvent]:
        return iter(self.now())

    def __len__(self) -> int:
        return len(self.now())

    def __contains__(self, expected: object) -> bool:
        expected = stated(expected)
        return any(matches(event, expected) for event in self.now())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Events):
            return self.now() == other.now()
        if _is_list(other):
            events = self.now()
            return len(events) == len(other) and all(map(matches, events, other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # they grow

    def __repr__(self) -> str:
        events = self.now()
        return "\n".join([f"<{len(events)} {self.kind}>", *preview(events)])

    def types(self) -> list[str]:
        """Return the type of each event."""
        return [event.type for event in self]

    def of_type(self, type: str) -> Events:
        """Return the events of one type that there are now."""
        return Snapshot([event for event in self if event.type == type], self.kind)

    def of(self, cls: builtins.type[T]) -> list[T]:
        """Return the events of a class with :func:`event_type`, as its instances.

        Raises:
            TypeError: The class is not marked.
            AssertionError: The data of an event of that type doesn't fit the class.
        """
        __tracebackhide__ = True
        type_ = marked_type(cls)
        instances = []
        for at, event in enumerate(self):
            if event.type == type_:
                try:
                    instances.append(instance_of(cls, event.data))
                except ValueError as error:
                    text = f"event {at} is not a {cls.__qualname__}: {error}"
                    raise AssertionError(f"{escape(text)}\n  {format_event(event)}") from None
        return instances


class Snapshot(Events):
    """Events as they were at one moment."""

    def __init__(self, events: Iterable[TelemetryEvent], kind: str | None = None) -> None:
        self._events = [ObservedEvent.of(event) for event in events]
        self.kind = kind or self.kind

    def now(self) -> list[ObservedEvent]:
        """Return the events that there were."""
        return list(self._events)


class RecordedEvents(Events):
    """The events that were emitted so far, in order; it grows with each new event."""

    kind = "recorded events"

    def __init__(self, telemetry: RecordingTelemetry) -> None:
        self._telemetry = telemetry

    def now(self) -> list[ObservedEvent]:
        """Return the events that were emitted so far."""
        return self._telemetry.recorded()

    def stats(self) -> TelemetryStats:
        """Return the ledger; ``rejected`` counts the events that could not be recorded."""
        return self._telemetry.stats()

    def summary(self) -> str:
        """Return a preview of the events, and how many could not be recorded."""
        rejected = self.stats().rejected
        note = f"\nnot recorded because they were invalid: {rejected}; see the log"
        return f"{self!r}{note if rejected else ''}"


@contextlib.contextmanager
def record_events(**settings: Unpack[SettingsOverrides]) -> Iterator[RecordedEvents]:
    """Record the events that the code in the ``with`` block emits; nothing is sent.

    Within the block, ``start_telemetry``, ``get_telemetry`` and ``emit`` all use the recording,
    regardless of the environment.

    Args:
        settings: Any of :class:`TelemetrySettings`, such as ``strict=True``.
    """
    chosen: SettingsOverrides = {"enabled": True, "capacity": 1_000_000, **settings}
    telemetry = RecordingTelemetry(TelemetrySettings(**chosen))
    telemetry.start()
    previous = install_telemetry(telemetry)
    try:
        yield RecordedEvents(telemetry)
    finally:
        install_telemetry(previous)


def explain_assertion(op: str, left: object, right: object) -> list[str] | None:
    """Explain a failed assertion about events, for pytest's hook; None if it is about others."""
    if op == "==":
        return _explain_equality(left, right)
    if op == "in" and isinstance(right, Events):
        return [f"{format_event(left)} in {right.kind}", *closest(right.now(), left)]
    if op == "not in" and isinstance(right, Events):
        found = [event for event in right if matches(event, left)]
        return [
            f"{format_event(left)} not in {right.kind}",
            f"found {len(found)}:",
            *preview(found),
        ]
    return None


def _explain_equality(left: object, right: object) -> list[str] | None:
    is_left = isinstance(left, (Events, ObservedEvent))
    found, expected = (left, right) if is_left else (right, left)
    if isinstance(found, Events) and _stands_for_one(expected):
        sides = [found.kind, format_event(expected)]
        why = [format_event(f"compare {found.kind} with a list: [{expected!r}]")]
    elif isinstance(found, Events) and _is_list(expected):
        sides = [found.kind, "expected events"]
        why = difference(found.now(), expected)
    elif isinstance(found, ObservedEvent) and is_expectation(expected):
        sides = [format_event(found), format_event(expected)]
        why = [mismatch(found, expected)]
    else:
        return None
    return [" == ".join(sides if is_left else sides[::-1]), *why]


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _stands_for_one(expected: object) -> bool:
    """Return whether a value stands for one event; a tuple of two may also be a list."""
    expected = stated(expected)
    if isinstance(expected, tuple) and len(expected) == 2:
        return isinstance(expected[0], str) and isinstance(expected[1], Mapping)
    return isinstance(expected, (str, TelemetryEvent))
