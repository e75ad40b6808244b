"""The fields of an event's data, flat, and the names of the columns that hold them.

Pure: the text of one event in, its fields out. The columns of the fast copy hold these values, and
so does what is read from the rows, so both give the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Any

import msgspec

__all__ = ["DATA", "FIXED", "MAX_DEPTH", "MAX_TEXT_LENGTH", "NUMBER", "TEXT", "flatten", "parts_of"]

FIXED = ("session", "seq", "timestamp", "received", "context", "version")
"""The names of the columns that every type has. ``session`` and ``context`` are keys of the tables
of these names. All are int64, except for ``version``, which is a text."""
DATA = "data."
"""The beginning of the names of all other columns."""
NUMBER, TEXT = "#number", "#text"
"""The ends of the names of a field's columns: ``data.damage#number`` has the values that are
numbers, and ``data.damage#text`` the others."""

MAX_DEPTH = 3
"""The most names that a field has: ``at.place.x`` is the last level."""
MAX_TEXT_LENGTH = 200
"""Characters of a text; longer ones are cut."""

_decode = msgspec.json.Decoder().decode
_decode_parts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_UNREADABLE = (msgspec.MsgspecError, RecursionError)


def flatten(data: str, wanted: Set[str] | None = None) -> dict[str, float | str]:
    """Return the fields of an event's data by name, without the ``data.`` in front.

    A field of an object within the data has both names, with a dot between. A number is a double,
    true and false are the texts ``true`` and ``false``, and a text has at most 200 characters.
    Null counts as absent. Arrays, objects that are too deep, and numbers beyond the range of a
    double are left out.

    Args:
        data: the text of a JSON object; anything else has no fields.
        wanted: where only some fields are needed, those of :func:`parts_of`. Others may be there.
    """
    flat: dict[str, float | str] = {}
    try:
        fields = _decode(data)
    except _UNREADABLE:
        fields = _readable(data, 0)
    if isinstance(fields, dict):
        if wanted is not None:
            fields = {name: value for name, value in fields.items() if name in wanted}
        _add(flat, "", fields, 1)
    return flat


def parts_of(names: Iterable[str]) -> set[str]:
    """Return the names of the members of an event's data that fields may come from.

    A dot may part two names, or be in one: ``at.x`` is in ``at``, or in ``at.x``.
    """
    return {name[:end] for name in names for end in (*_dots(name), len(name))}


def _dots(name: str) -> Iterator[int]:
    return (place for place, letter in enumerate(name) if letter == ".")


def _add(flat: dict[str, float | str], prefix: str, fields: dict[str, Any], depth: int) -> None:
    for name, value in fields.items():
        kind = type(value)  # a chain of isinstance() would take longer, for each of all values
        if kind is float:
            flat[prefix + name] = value
        elif kind is str:
            flat[prefix + name] = (
                value if len(value) <= MAX_TEXT_LENGTH else value[:MAX_TEXT_LENGTH]
            )
        elif kind is int:
            try:
                flat[prefix + name] = float(value)
            except OverflowError:
                continue
        elif kind is bool:
            flat[prefix + name] = "true" if value else "false"
        elif kind is dict and depth < MAX_DEPTH:
            _add(flat, f"{prefix}{name}.", value, depth + 1)


def _readable(part: msgspec.Raw | str, depth: int) -> Any:
    """Return all that can be decoded: a number such as 1e400 makes its surroundings unreadable."""
    try:
        return _decode(part)
    except _UNREADABLE:
        if depth == MAX_DEPTH:
            return None
    try:
        parts = _decode_parts(part)
    except _UNREADABLE:
        return None
    return {name: _readable(each, depth + 1) for name, each in parts.items()}
