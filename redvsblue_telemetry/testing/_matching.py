"""Compare events with the events that a test expects, and say where they differ.

A test states an expected event as briefly as it likes:

- ``"ship_hit"``: an event of this type, with any data;
- ``("ship_hit", {"by": "red"})``: an event of this type, with exactly this data;
- an instance of a class that ``@event_type`` marks: the type and the data of its event;
- a :class:`TelemetryEvent`: its type, its data, and every other field that it sets;
- an :class:`ObservedEvent`: exactly that event.

These rules hold in lists, with ``in``, and for ``==`` on a single :class:`ObservedEvent`.

Pure: values in, lines of text out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import groupby, takewhile, zip_longest
from typing import Any

from .._shared import escape
from ..event_types import hint_for
from ..events import TelemetryEvent
from ._instances import pair_of

__all__ = [
    "PREVIEW_LINES",
    "ObservedEvent",
    "closest",
    "difference",
    "format_event",
    "is_expectation",
    "matches",
    "mismatch",
    "preview",
    "stated",
]

PREVIEW_LINES = 30
_MAX_LINES = 200
_MAX_LINE_LENGTH = 300
_MAX_ALIGNED_PAIRS = 250_000  # the alignment takes quadratic time
_CONTEXT_LINES = 2
_ENVELOPE = ("timestamp", "id", "session_id", "seq", "version", "context")
_NOTHING = object()

_Row = tuple[str, object]  # "-" and an expected event, or "+" or " " and an observed one


class ObservedEvent(TelemetryEvent):
    """An event that was emitted; it equals every expectation that it matches."""

    __slots__ = ()

    @classmethod
    def of(cls, event: TelemetryEvent) -> ObservedEvent:
        """Return the same event as an observed one."""
        return cls(**{name: getattr(event, name) for name in ("type", "data", *_ENVELOPE)})

    def __eq__(self, other: object) -> bool:
        other = stated(other)
        return matches(self, other) if is_expectation(other) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # its data is a dict, which has none either


def is_expectation(value: object) -> bool:
    """Return whether a value has one of the forms that stand for one event."""
    return isinstance(stated(value), (str, tuple, TelemetryEvent))


def stated(expected: object) -> object:
    """Return a pair of type and data in place of an instance, and anything else as it is."""
    return pair_of(expected) or expected


def matches(event: TelemetryEvent, expected: object) -> bool:
    """Return whether an event is what a test expects, by the rules at the top of this module."""
    expected = stated(expected)
    if isinstance(expected, str):
        return event.type == expected
    if isinstance(expected, tuple):
        return len(expected) == 2 and bool((event.type, event.data) == expected)
    if isinstance(expected, TelemetryEvent):
        is_alike = (event.type, event.data) == (expected.type, expected.data)
        return is_alike and not _differing_fields(event, expected)
    return bool(event == expected)  # such as unittest.mock.ANY


def _differing_fields(event: TelemetryEvent, expected: TelemetryEvent) -> list[str]:
    is_exact = isinstance(expected, ObservedEvent)
    return [
        name
        for name in _ENVELOPE
        if (wanted := getattr(expected, name)) != getattr(event, name)
        and (is_exact or wanted is not None)
    ]


def format_event(expected: object) -> str:
    """Return an event, or an expected event, as one printable line of bounded length."""
    expected = stated(expected)
    if isinstance(expected, TelemetryEvent):
        text = f"{expected.type} {dict(expected.data)}"
    elif isinstance(expected, tuple) and len(expected) == 2:
        text = f"{expected[0]} {expected[1]}"
    else:
        text = expected if isinstance(expected, str) else repr(expected)
        if hint := hint_for(expected):
            text += f" ({hint[1]})"
    text = escape(text[: _MAX_LINE_LENGTH + 1])  # cut first: it may be a megabyte
    return text if len(text) <= _MAX_LINE_LENGTH else text[: _MAX_LINE_LENGTH - 1] + "\u2026"


def preview(found: Sequence[object], total: int | None = None) -> list[str]:
    """Return the first of some events or texts, one a line, and how many more there are.

    Args:
        found: The events, or lines of text.
        total: The number of all of them, if ``found`` is only the beginning.
    """
    lines = [f"  {format_event(each)}" for each in found[:PREVIEW_LINES]]
    left_out = (len(found) if total is None else total) - len(lines)
    return [*lines, f"  and {left_out} more"] if left_out > 0 else lines


def closest(found: Sequence[TelemetryEvent], expected: object) -> list[str]:
    """Describe the events that come closest to one that is not there: those of its type, or all."""
    expected = stated(expected)
    first = f"no event matches {format_event(expected)}; found"
    same_type = [event for event in found if event.type == _type_of(expected)]
    if isinstance(expected, str) or not same_type:
        return [f"{first} {len(found)}:", *preview(found)]
    lines = [f"{format_event(event)}: {mismatch(event, expected)}" for event in same_type]
    return [f"{first} {len(lines)} of its type:", *preview(lines)]


def mismatch(event: TelemetryEvent, expected: object) -> str:
    """Describe how one event differs from the expected one."""
    expected = stated(expected)
    if event.type != _type_of(expected):
        return f"the event is {format_event(event)}"
    data: Any = expected[1] if isinstance(expected, tuple) and len(expected) == 2 else None
    faults: list[str] = []
    if isinstance(expected, TelemetryEvent):
        data = expected.data
        faults = [
            f"{name} is {getattr(event, name)!r}, not {getattr(expected, name)!r}"
            for name in _differing_fields(event, expected)
        ]
    if not isinstance(data, Mapping):
        return format_event(f"{expected!r} is not a pair of a type and its data")
    return format_event("; ".join([*faults, *_differences(event.data, data)]))


def _differences(found: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """Yield how data differs from the expected data, field by field, also deep in it."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys([*wanted, *found]):
            below = f"{path}.{key}" if path else str(key)
            if key not in wanted:
                yield f"{below!r} is {found[key]!r}, which was not expected"
            elif key not in found:
                yield f"{below!r} is missing, expected {wanted[key]!r}"
            else:
                yield from _differences(found[key], wanted[key], below)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for at, pair in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(*pair, f"{path}[{at}]")
    elif found != wanted:
        yield f"{path!r} is {found!r}, not {wanted!r}"


def difference(found: Sequence[TelemetryEvent], expected: Sequence[object]) -> list[str]:
    """Describe how unequal events differ from the expected ones, the first difference first.

    Below it, ``-`` marks an expected event that is missing, and ``+`` one that was not expected.
    """
    rows = _rows(found, [stated(each) for each in expected])
    return [_first_difference(rows), "(- expected, + found)", *_format_rows(rows)]


def _rows(found: Sequence[TelemetryEvent], expected: Sequence[object]) -> list[_Row]:
    """Put both side by side; matching ends need no alignment, which is costly."""
    head = _matching_at_start(found, expected)
    rest, rest_expected = found[head:], expected[head:]
    tail = _matching_at_start(rest[::-1], rest_expected[::-1])
    middle = rest[: len(rest) - tail], rest_expected[: len(rest_expected) - tail]
    return [
        *((" ", event) for event in found[:head]),
        *_aligned(*middle),
        *((" ", event) for event in rest[len(rest) - tail :]),
    ]


def _matching_at_start(found: Sequence[TelemetryEvent], expected: Sequence[object]) -> int:
    pairs = zip(found, expected, strict=False)
    return sum(1 for _ in takewhile(lambda pair: matches(*pair), pairs))


def _aligned(found: Sequence[TelemetryEvent], expected: Sequence[object]) -> list[_Row]:
    """Align by equal texts, or by type where the test expects a type with any data."""
    types = {each for each in expected if isinstance(each, str)}

    def key(each: object) -> str:
        type_ = _type_of(each)
        return type_ if type_ in types else format_event(each)

    blocks: Sequence[tuple[str, int, int, int, int]]
    blocks = [("replace", 0, len(expected), 0, len(found))]
    if len(found) * len(expected) <= _MAX_ALIGNED_PAIRS:
        keys = [key(each) for each in expected], [key(event) for event in found]
        blocks = SequenceMatcher(None, *keys, autojunk=False).get_opcodes()
    rows: list[_Row] = []
    for _, start, end, found_start, found_end in blocks:
        missing: list[_Row] = []
        surplus: list[_Row] = []
        for wanted, event in zip_longest(
            expected[start:end], found[found_start:found_end], fillvalue=_NOTHING
        ):
            # Also where the texts differ: those of pytest.approx, or of dicts in another order.
            if isinstance(event, TelemetryEvent) and matches(event, wanted):
                rows += [*missing, *surplus, (" ", event)]
                missing, surplus = [], []
            else:
                missing += [("-", wanted)] if wanted is not _NOTHING else []
                surplus += [("+", event)] if event is not _NOTHING else []
        rows += [*missing, *surplus]
    return rows


def _first_difference(rows: Sequence[_Row]) -> str:
    at = next((at for at, (mark, _) in enumerate(rows) if mark != " "), len(rows))
    gap = list(takewhile(lambda row: row[0] != " ", rows[at:]))
    missing = [value for mark, value in gap if mark == "-"]
    surplus = [value for mark, value in gap if mark == "+"]
    if not surplus:
        return f"event {at}: {format_event(missing[0])} is missing"
    event = surplus[0]
    if not missing or not isinstance(event, TelemetryEvent):
        return f"event {at}: {format_event(event)} was not expected"
    if event.type == _type_of(missing[0]):
        return f"event {at}: {format_event(event.type)}: {mismatch(event, missing[0])}"
    return f"event {at} is {format_event(event)}, not {format_event(missing[0])}"


def _type_of(expected: object) -> str | None:
    if isinstance(expected, TelemetryEvent):
        return expected.type
    if isinstance(expected, tuple) and expected:
        expected = expected[0]
    return expected if isinstance(expected, str) else None


def _format_rows(rows: Sequence[_Row]) -> list[str]:
    """Return the rows as lines; of those that match, only the neighbors of a difference."""
    shown = {
        near
        for at, (mark, _) in enumerate(rows)
        if mark != " "
        for near in range(at - _CONTEXT_LINES, at + _CONTEXT_LINES + 1)
    }
    lines: list[str] = []
    for is_shown, numbers in groupby(range(len(rows)), shown.__contains__):
        run = [rows[number] for number in numbers]
        if is_shown:
            lines += [f"{mark} {format_event(value)}" for mark, value in run]
        else:
            lines.append(f"  ({len(run)} more as expected)")
    left_out = len(lines) - _MAX_LINES
    return [*lines[:_MAX_LINES], *([f"  ({left_out} more lines)"] if left_out > 0 else [])]
