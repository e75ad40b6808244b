"""Events beside what a test expects of them: whether they fit, and how to tell where they don't.

What is expected of one event is written as briefly as the test needs it:

- ``"ship_hit"``: an event of this type, whatever its data is;
- ``("ship_hit", {"by": "red"})``: of this type, with just this data;
- a :class:`TelemetryEvent`: its type, its data, and whatever else of it is set;
- another that was found: just that one.

That holds wherever the two meet: in a list, with ``in``, and of an event by itself, which is why
what was found is a :class:`ObservedEvent`.

Pure: values in, an answer or lines of text out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..events import TelemetryEvent

__all__ = [
    "BRIEFLY",
    "ObservedEvent",
    "briefly",
    "difference",
    "fits",
    "is_expectation",
    "mismatch",
    "nearest",
    "printable",
    "shown",
]

_ENVELOPE = ("timestamp", "id", "session_id", "seq", "version")
_MOST_PAIRS = 250_000  # that are looked at to find what is missing and what is too much
_CONTEXT = 2  # events that are as expected, and shown beside those that aren't
_MOST_LINES = 200
BRIEFLY = 30  # lines of each kind, where they only stand beside what went wrong
_LONGEST_LINE = 300

_Row = tuple[str, object]  # "-" and what was expected, "+" or " " and what was found
_MISSING = object()


class ObservedEvent(TelemetryEvent):
    """An event that is there: equal to whatever it fits, also in a list that a test makes of it."""

    __slots__ = ()

    @classmethod
    def of(cls, event: TelemetryEvent) -> ObservedEvent:
        """The same event, as one that was found."""
        if isinstance(event, ObservedEvent):
            return event
        return cls(
            event.type,
            event.data,
            timestamp=event.timestamp,
            id=event.id,
            session_id=event.session_id,
            seq=event.seq,
            version=event.version,
        )

    def __eq__(self, other: object) -> bool:
        return fits(self, other) if is_expectation(other) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # its data is a dict, which has none either


def is_expectation(value: object) -> bool:
    """Whether it is one of the forms that stand for one event."""
    return isinstance(value, (str, tuple, TelemetryEvent))


def fits(event: TelemetryEvent, expected: object) -> bool:
    """Whether an event is what a test expects; see this module's first lines."""
    if isinstance(expected, str):
        return event.type == expected
    if isinstance(expected, tuple):
        return len(expected) == 2 and bool((event.type, event.data) == expected)
    if isinstance(expected, TelemetryEvent):
        is_alike = (event.type, event.data) == (expected.type, expected.data)
        return is_alike and not _differing(event, expected)
    return bool(event == expected)  # such as what equals anything


def _differing(event: TelemetryEvent, expected: TelemetryEvent) -> list[str]:
    """What of the envelope isn't as expected; of an event that was found, all of it is."""
    is_whole = isinstance(expected, ObservedEvent)
    return [
        name
        for name in _ENVELOPE
        if (wanted := getattr(expected, name)) != getattr(event, name)
        and (is_whole or wanted is not None)
    ]


def shown(expected: object) -> str:
    """An event, or what is expected of one, in one line."""
    if isinstance(expected, TelemetryEvent):
        text = f"{expected.type} {dict(expected.data)}"
    elif isinstance(expected, tuple) and len(expected) == 2:
        text = f"{expected[0]} {expected[1]}"
    else:
        text = expected if isinstance(expected, str) else repr(expected)
    text = printable(text[: _LONGEST_LINE + 1])  # cut first: it may be a megabyte
    return text if len(text) <= _LONGEST_LINE else text[: _LONGEST_LINE - 1] + "\u2026"


def printable(text: str) -> str:
    """The text without what a terminal would obey or not show, which is escaped as by ``repr``."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def briefly(found: Sequence[object], number: int | None = None) -> list[str]:
    """The first of them, one a line, and how many more there are.

    Args:
        found: events, or lines of text.
        number: how many there are in all, if these are only the first of them.
    """
    lines = [f"  {shown(each)}" for each in found[:BRIEFLY]]
    left_out = (len(found) if number is None else number) - len(lines)
    return [*lines, f"  and {left_out} more"] if left_out > 0 else lines


def mismatch(event: TelemetryEvent, expected: object) -> str:
    """In what one event isn't the one that was expected."""
    if event.type == _type_of(expected):
        return _detail(event, expected)
    return f"it is {shown(event)}"


def difference(found: Sequence[TelemetryEvent], expected: Sequence[object]) -> list[str]:
    """How events differ from what is expected of them, the most telling line first.

    Below it, they are listed: with ``-`` what was expected and is not there, with ``+`` what is
    there and was not expected.
    """
    rows = _rows(found, expected)
    return [_first_difference(rows), "(- expected, + found)", *_listed(rows)]


def nearest(found: Sequence[TelemetryEvent], expected: object) -> list[str]:
    """What there is in place of one event that isn't there: those of its type, or else all."""
    of_type = [event for event in found if event.type == _type_of(expected)]
    lines = [f"{shown(expected)} is none of the {_count(len(found), 'event')}"]
    if not isinstance(expected, str) and of_type:
        lines.append(f"{_count(len(of_type), 'event')} of this type:")
        lines += [f"  {shown(event)}: {_detail(event, expected)}" for event in of_type]
    else:
        lines += [f"  {shown(event)}" for event in found]
    return _cut(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _type_of(expected: object) -> str | None:
    if isinstance(expected, TelemetryEvent):
        return expected.type
    if isinstance(expected, tuple) and expected:
        expected = expected[0]
    return expected if isinstance(expected, str) else None


def _rows(found: Sequence[TelemetryEvent], expected: Sequence[object]) -> list[_Row]:
    """Both beside each other, in as few differences as can be found in reasonable time."""
    same_before = _agreeing(found, expected)
    found_rest, expected_rest = found[same_before:], expected[same_before:]
    same_after = _agreeing(found_rest[::-1], expected_rest[::-1])
    ends = len(found_rest) - same_after, len(expected_rest) - same_after
    return [
        *((" ", event) for event in found[:same_before]),
        *_aligned(found_rest[: ends[0]], expected_rest[: ends[1]]),
        *((" ", event) for event in found_rest[ends[0] :]),
    ]


def _agreeing(found: Sequence[TelemetryEvent], expected: Sequence[object]) -> int:
    """How many fit from the front on."""
    count = 0
    for event, wanted in zip(found, expected, strict=False):
        if not fits(event, wanted):
            break
        count += 1
    return count


def _aligned(found: Sequence[TelemetryEvent], expected: Sequence[object]) -> list[_Row]:
    """The longest common subsequence, by the table that finds it."""
    if len(found) * len(expected) > _MOST_PAIRS:
        return [*(("-", wanted) for wanted in expected), *(("+", event) for event in found)]
    fit = [[fits(event, wanted) for wanted in expected] for event in found]
    longest = [[0] * (len(expected) + 1) for _ in range(len(found) + 1)]
    for i in reversed(range(len(found))):
        for j in reversed(range(len(expected))):
            if fit[i][j]:
                longest[i][j] = longest[i + 1][j + 1] + 1
            else:
                longest[i][j] = max(longest[i + 1][j], longest[i][j + 1])
    rows: list[_Row] = []
    i = j = 0
    while i < len(found) or j < len(expected):
        if i < len(found) and j < len(expected) and fit[i][j]:
            rows.append((" ", found[i]))
            i, j = i + 1, j + 1
        elif i == len(found) or (j < len(expected) and longest[i][j + 1] >= longest[i + 1][j]):
            rows.append(("-", expected[j]))
            j += 1
        else:
            rows.append(("+", found[i]))
            i += 1
    return rows


def _first_difference(rows: Sequence[_Row]) -> str:
    at = next((at for at, (mark, _) in enumerate(rows) if mark != " "), None)
    if at is None:
        return "each event fits"
    gap: list[_Row] = []
    for row in rows[at:]:
        if row[0] == " ":
            break
        gap.append(row)
    wanted = [value for mark, value in gap if mark == "-"]
    surplus = [value for mark, value in gap if mark == "+"]
    if not surplus:
        return f"event {at}: {shown(wanted[0])} is missing"
    event = surplus[0]
    if not wanted or not isinstance(event, TelemetryEvent):
        return f"event {at}: {shown(event)} was not expected"
    if event.type == _type_of(wanted[0]):
        return f"event {at}: {shown(event.type)}: {_detail(event, wanted[0])}"
    return f"event {at} is {shown(event)}, and {shown(wanted[0])} was expected"


def _detail(event: TelemetryEvent, expected: object) -> str:
    """In what an event of the right type isn't the one that was expected."""
    if isinstance(expected, tuple) and len(expected) != 2:
        return shown(f"{expected!r} is no pair of a type and its data")
    data: Any = expected[1] if isinstance(expected, tuple) else None
    faults: list[str] = []
    if isinstance(expected, TelemetryEvent):
        data = expected.data
        faults += [
            f"{name} is {getattr(event, name)!r}, not {getattr(expected, name)!r}"
            for name in _differing(event, expected)
        ]
    if not isinstance(data, Mapping):
        return shown(f"its data is {dict(event.data)}")
    for key in dict.fromkeys([*data, *event.data]):
        wanted, value = data.get(key, _MISSING), event.data.get(key, _MISSING)
        if wanted is _MISSING:
            faults.append(f"{key!r} was not expected, and is {value!r}")
        elif value is _MISSING:
            faults.append(f"{key!r} is missing, which should be {wanted!r}")
        elif value != wanted:
            faults.append(f"{key!r} is {value!r}, not {wanted!r}")
    return shown("; ".join(faults) or "it fits")


def _listed(rows: Sequence[_Row]) -> list[str]:
    """The rows as lines, without the middle of each long run that is as expected."""
    lines: list[str] = []
    near = {
        neighbour
        for at, (mark, _) in enumerate(rows)
        if mark != " "
        for neighbour in range(at - _CONTEXT, at + _CONTEXT + 1)
    }
    left_out = 0
    for at, (mark, value) in enumerate(rows):
        if mark == " " and at not in near:
            left_out += 1
            continue
        if left_out:
            lines.append(f"  ({left_out} more as expected)")
            left_out = 0
        lines.append(f"{mark} {shown(value)}")
    if left_out:
        lines.append(f"  ({left_out} more as expected)")
    return _cut(lines)


def _cut(lines: list[str]) -> list[str]:
    if len(lines) <= _MOST_LINES:
        return lines
    return [*lines[:_MOST_LINES], f"  ({len(lines) - _MOST_LINES} more lines)"]
