"""Columns for the fields of events' data, so that a question about a field parses no JSON.

A file of the final size has columns beside those of the table: ``number0``, ``number1``, … and
``text0``, ``text1``, …. Which field of which type is in which of them is in the file's own metadata
alone, as a :class:`Layout`, so it goes with the file when events are erased. The values are those
of ``flatten`` (:mod:`....collector.storage.fields`), numbers and texts apart. The JSON stays: rare
fields have no column, and a file without any, such as one of an earlier release, is only slower.

To call ``flatten`` for each event would take longer than all else in a compaction. Most events of a
type have the same fields, so msgspec decodes them as a record of these. It refuses an event with
another field, or with a value of another kind; such events alone are left to ``flatten``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ...collector.storage.fields import MAX_DEPTH, MAX_TEXT_LENGTH, flatten

__all__ = ["KINDS", "Columns", "Layout", "Present", "with_columns"]

KINDS: Mapping[str, Any] = {"number": pa.float64(), "text": pa.string()}
"""How the names of the columns begin, with their types."""

_MOST_COLUMNS = 16  # of each kind
_MOST_TYPES = 256  # with columns, the most frequent ones
_LEAST_ROWS = 100  # of a type with columns
_MOST_TEXTS = 1000  # different ones of a field, in the events of a type: so the column is small
_SAMPLE = 200  # of the events of a type, whose fields a record has
_MOST_FIELDS = 64  # of a record
_ROWS = 2048  # that are decoded at a time, with the GIL

_Shape = tuple[tuple[str, Any], ...]
"""The names in an object, each with the shape of the object there, or None."""
_Values = dict[str, list[Any]]
"""The values of each field, None for the events without it."""

_decode = msgspec.json.Decoder().decode
_UNREADABLE = (msgspec.MsgspecError, RecursionError)


class Columns(NamedTuple):
    """The columns of a field of a type, by their numbers."""

    number: int | None = None
    """None if no event has a number there."""
    text: int | None = None


class TypeLayout(msgspec.Struct):
    """The columns of a type of events."""

    fields: dict[str, Columns] = {}
    is_whole: bool = True
    """Whether its events have no other field."""


class Layout(msgspec.Struct):
    """The columns of a file."""

    types: dict[str, TypeLayout] = {}
    is_whole: bool = True
    """Whether it has no event of another type."""
    number: int = 0
    """How many columns with numbers it has."""
    text: int = 0

    def columns(self, type_name: str, fields: Iterable[str]) -> list[Columns] | None:
        """Return the columns of fields of a type; None if the values may be in the JSON alone."""
        of_type = self.types.get(type_name)
        if of_type is None:
            of_type = TypeLayout(is_whole=self.is_whole)
        found = [of_type.fields.get(each) for each in fields]
        if None in found and not of_type.is_whole:
            return None
        return [Columns() if each is None else each for each in found]

    @property
    def schema(self) -> Any:
        """All columns."""
        return pa.schema(
            [
                (f"{kind}{place}", type_)
                for kind, type_ in KINDS.items()
                for place in range(getattr(self, kind))
            ]
        )


class Present:
    """Finds the part of a layout that is left when events were deleted.

    Args:
        layout: of the file that they were in.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._found: dict[str, set[str]] = {}

    def add(self, rows: pa.Table) -> None:
        """Look at rows of the new file, which are in the order of their type."""
        for name, start, count in _runs(rows["type"]):
            if name not in self._layout.types:
                continue
            found = self._found.setdefault(name, set())
            for field, columns in self._layout.types[name].fields.items():
                for kind, place in zip(KINDS, columns, strict=True):
                    if place is not None and field not in found:
                        values = rows[f"{kind}{place}"].slice(start, count)
                        if values.null_count < count:
                            found.add(field)

    def layout(self) -> Layout:
        """Return the layout of the new file, which names nothing that no event has."""
        types = {
            name: msgspec.structs.replace(
                self._layout.types[name],
                fields={
                    field: columns
                    for field, columns in self._layout.types[name].fields.items()
                    if field in found
                },
            )
            for name, found in self._found.items()
        }
        return msgspec.structs.replace(self._layout, types=types)


def with_columns(rows: pa.Table) -> tuple[pa.Table, Layout]:
    """Return events with the columns of their fields.

    Args:
        rows: those of a file, in the order of their type.
    """
    runs = [*_runs(rows["type"])]
    frequent = sorted((run for run in runs if run[2] >= _LEAST_ROWS), key=lambda run: -run[2])
    chosen = {name for name, _, _ in frequent[:_MOST_TYPES]}
    found = {
        name: _Fields(rows["data"].slice(start, count))
        for name, start, count in runs
        if name in chosen
    }
    widths = {kind: max((each.width(kind) for each in found.values()), default=0) for kind in KINDS}
    types = {name: each.layout() for name, each in found.items()}
    layout = Layout(types, len(found) == len(runs), **widths)
    parts = [(count, found[name].columns() if name in found else {}) for name, _, count in runs]
    for column in layout.schema:
        chunks: list[Any] = []
        for count, columns in parts:
            chunks += columns.get(column.name) or [pa.nulls(count, column.type)]
        rows = rows.append_column(column, pa.chunked_array(chunks, column.type))
    return rows, layout


def _runs(types: Any) -> Iterator[tuple[str, int, int]]:
    """Yield each type of rows that are in its order, with the first of its rows and their count."""
    start = 0
    for each in pc.value_counts(types.combine_chunks()).to_pylist():
        yield each["values"], start, each["counts"]
        start += each["counts"]


class _Fields:
    """The fields of the events of a type, and which of them have columns.

    Args:
        data: that of the events.
    """

    def __init__(self, data: Any) -> None:
        self._rows = len(data)
        # By kind and name, with the first row of each part.
        self._parts: dict[str, dict[str, list[tuple[int, Any]]]] = {kind: {} for kind in KINDS}
        read = _reader(data)
        for start in range(0, len(data), _ROWS):
            for name, values in read(data.slice(start, _ROWS).to_pylist()).items():
                self._add(start, name, values)
        self._chosen = {kind: self._choose(kind) for kind in KINDS}

    def _add(self, start: int, name: str, values: list[Any]) -> None:
        kinds = {*map(type, values)} - {type(None)}
        if float in kinds:
            numbers = values if kinds == {float} else [_number_in(value) for value in values]
            self._put("number", name, start, pa.array(numbers, KINDS["number"]))
        if kinds & {str, bool}:
            texts = pa.array(
                values if kinds == {str} else [_text_in(value) for value in values], KINDS["text"]
            )
            if pc.max(pc.binary_length(texts)).as_py() > MAX_TEXT_LENGTH:
                texts = pc.utf8_slice_codeunits(texts, 0, MAX_TEXT_LENGTH)
            self._put("text", name, start, texts)

    def _put(self, kind: str, name: str, start: int, values: Any) -> None:
        self._parts[kind].setdefault(name, []).append((start, values))

    def _choose(self, kind: str) -> list[str]:
        """Return the fields that have a column of a kind, in the order of the columns."""
        counts = {
            name: sum(len(each) - each.null_count for _, each in parts)
            for name, parts in self._parts[kind].items()
            if name not in self._parts["text"] or self._is_small(name)
        }
        most_frequent = sorted(counts, key=lambda name: (-counts[name], name))[:_MOST_COLUMNS]
        return sorted(most_frequent)

    def _is_small(self, name: str) -> bool:
        texts = pa.chunked_array([each for _, each in self._parts["text"][name]])
        return bool(pc.count_distinct(texts).as_py() <= _MOST_TEXTS)

    def width(self, kind: str) -> int:
        """Return the number of columns of a kind."""
        return len(self._chosen[kind])

    def layout(self) -> TypeLayout:
        """Return the columns of the fields."""
        layout = TypeLayout()
        for name in sorted({*self._parts["number"], *self._parts["text"]}):
            kinds = [kind for kind in KINDS if name in self._parts[kind]]
            if all(name in self._chosen[kind] for kind in kinds):
                places = {kind: self._chosen[kind].index(name) for kind in kinds}
                layout.fields[name] = Columns(**places)
            else:
                layout.is_whole = False
        return layout

    def columns(self) -> dict[str, list[Any]]:
        """Return the parts of each column."""
        return {
            f"{kind}{place}": self._column(kind, name)
            for kind in KINDS
            for place, name in enumerate(self._chosen[kind])
        }

    def _column(self, kind: str, name: str) -> list[Any]:
        chunks: list[Any] = []
        end = 0
        for start, values in self._parts[kind][name]:
            chunks += [pa.nulls(start - end, KINDS[kind]), values]
            end = start + len(values)
        return [*chunks, pa.nulls(self._rows - end, KINDS[kind])]


def _number_in(value: object) -> float | None:
    return value if isinstance(value, float) else None


def _text_in(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None


def _reader(data: Any) -> Callable[[list[str]], _Values]:
    """Return a function that returns the values of some events' fields.

    Texts may be longer than ``flatten`` has them, and lists count as absent.
    """
    sample = [text.as_py() for text in data[:: -(-len(data) // _SAMPLE)]]
    record = _record_of(_shape_of(sample))
    if record is None:
        return lambda texts: _add_flat({}, texts, range(len(texts)))
    return record.read


def _shape_of(sample: Iterable[str]) -> _Shape:
    """Return the shape of an object that has the fields of all events."""
    names: dict[str, Any] = {}
    for text in sample:
        try:
            fields = _decode(text)
        except _UNREADABLE:
            continue
        if isinstance(fields, dict):
            _merge(names, fields, 1)
    return _frozen(names)


def _merge(names: dict[str, Any], fields: Mapping[str, Any], depth: int) -> None:
    for name, value in fields.items():
        known = names.setdefault(name, None)
        if isinstance(value, dict) and depth < MAX_DEPTH:
            if known is None:
                known = names[name] = {}
            _merge(known, value, depth + 1)


def _frozen(names: Mapping[str, Any]) -> _Shape:
    return tuple(
        (name, None if inner is None else _frozen(inner)) for name, inner in sorted(names.items())
    )


def _leaves(shape: _Shape, prefix: str = "", path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of a shape: their names, and the way to them in a record."""
    for place, (name, inner) in enumerate(shape):
        if inner is None:
            yield prefix + name, f"{path}f{place}"
        else:
            yield from _leaves(inner, f"{prefix}{name}.", f"{path}f{place}.")


class _Record:
    """Decodes the events that have the fields of a shape, or some of them."""

    def __init__(self, shape: _Shape) -> None:
        kind = _record(shape)
        self._decode = msgspec.json.Decoder(kind).decode
        self._empty = kind()
        self._fields = [(name, attrgetter(path)) for name, path in _leaves(shape)]

    def read(self, texts: list[str]) -> _Values:
        """Return the values of the fields of some events."""
        odd: list[int] = []
        try:
            rows = [*map(self._decode, texts)]
        except _UNREADABLE:
            rows = [self._decoded(text) for text in texts]
            odd = [place for place, row in enumerate(rows) if row is self._empty]
        return _add_flat({name: [*map(get, rows)] for name, get in self._fields}, texts, odd)

    def _decoded(self, text: str) -> Any:
        try:
            return self._decode(text)
        except _UNREADABLE:
            return self._empty


@functools.lru_cache(maxsize=_MOST_TYPES)
def _record_of(shape: _Shape) -> _Record | None:
    """Return the record of a shape; None if there can't be one."""
    fields = [name for name, _ in _leaves(shape)]
    if len(fields) > _MOST_FIELDS or len({*fields}) < len(fields):
        return None
    try:
        return _Record(shape)
    except ValueError:  # a name has a quotation mark, for example
        return None


def _record(shape: _Shape) -> Any:
    fields: list[Any] = []
    for place, (_, inner) in enumerate(shape):
        if inner is None:
            fields.append((f"f{place}", float | str | bool | list[Any] | None, None))
        else:
            kind = _record(inner)
            fields.append((f"f{place}", kind, msgspec.field(default_factory=kind)))
    names = {f"f{place}": name for place, (name, _) in enumerate(shape)}
    return msgspec.defstruct("Record", fields, rename=names, forbid_unknown_fields=True, gc=False)


def _add_flat(values: _Values, texts: Sequence[str], places: Iterable[int]) -> _Values:
    """Add the fields of some of the events, as ``flatten`` finds them."""
    for place in places:
        for name, value in flatten(texts[place]).items():
            values.setdefault(name, [None] * len(texts))[place] = value
    return values
