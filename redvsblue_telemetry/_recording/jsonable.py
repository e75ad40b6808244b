"""Conversion of a game's values into values that JSON has, within bounds.

The encoder (msgspec) recurses in C as deep as the data goes and writes as much as there is, so it
gets nothing that is not known to be bounded: neither in depth, since a small stack overflows with a
segmentation fault, nor in size, since a game must not wait for gigabytes that no event can hold.

- :func:`is_modest` returns whether data is built of Python's own types and bounded.
- :func:`plain` returns such data for any other, or raises :class:`Unwritable` with the place of the
  first fault. What can't fit is not expanded: each item of an array takes at least two bytes.

No library of games is imported: objects are recognized by their methods.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import pathlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from gc import is_tracked
from itertools import islice
from typing import Any, cast

import msgspec
from msgspec.structs import astuple

from .._shared import MAX_DEPTH, describe, encodable, type_name

__all__ = ["Unwritable", "is_modest", "plain", "to_jsonable"]

_BYTES_PER_ITEM = 2  # a digit and a comma
_BYTES_PER_FIELD = 5  # two quotes, a colon, a digit and a comma
_FINE_UNITS = ("[ns]", "[ps]", "[fs]", "[as]")  # of numpy's times; Python's have microseconds
_SMALL_INTEGER_BITS = 64

_ATOMS: frozenset[type] = frozenset({str, int, float, bool, type(None)})


def _unfrozen(kind: Any) -> Any:
    """Return Python's own class, also where freezegun has put a subclass in its place."""
    return next(base for base in kind.__mro__ if base.__module__ == "datetime")


def _plain_datetime(kind: Any) -> Callable[[Any], object]:
    return lambda v: kind(
        v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo, fold=v.fold
    )


def _plain_date(kind: Any) -> Callable[[Any], object]:
    return lambda v: kind(v.year, v.month, v.day)


# Not in names of this module, which freezegun would replace.
_TIMES: dict[Any, Callable[[Any], object]] = {
    _unfrozen(datetime.datetime): _plain_datetime(_unfrozen(datetime.datetime)),
    _unfrozen(datetime.date): _plain_date(_unfrozen(datetime.date)),
}
_BASES: dict[Any, Callable[[Any], object]] = {
    str: str.__str__,
    int: int.__index__,
    float: float.__float__,
    **_TIMES,
    datetime.time: lambda v: datetime.time(
        v.hour, v.minute, v.second, v.microsecond, v.tzinfo, fold=v.fold
    ),
    datetime.timedelta: lambda v: datetime.timedelta(v.days, v.seconds, v.microseconds),
    uuid.UUID: lambda v: uuid.UUID(int=v.int),
    decimal.Decimal: decimal.Decimal,
}
"""How to make an object of a class that the encoder knows from one of a subclass."""
_LEAVES = _ATOMS | frozenset(_BASES)


class Unwritable(Exception):  # noqa: N818 (it names the data, not what went wrong here)
    """Data can't be sent.

    Attributes:
        path: the place of the fault within the data, such as ``.ships[3].target``.
        reason: the fault.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path = ""
        self.reason = reason

    def within(self, step: str) -> Unwritable:
        """Return the same fault, as seen from one level further out."""
        self.path = step + self.path
        return self


def is_modest(data: object, most: int) -> bool:
    """Return whether the encoder can be given data: it is neither deep, nor has it many items.

    The encoder writes the values in it itself, or passes them to :func:`to_jsonable`.

    Args:
        data: the fields of an event, in a dict or a Struct.
        most: the number of bytes that an event may have.
    """
    level: list[Any] = [data]
    room = most // _BYTES_PER_ITEM
    for _ in range(MAX_DEPTH - 1):  # the last level may be one that is not tracked
        below: list[Any] = []
        for each in level:
            part, kind = each, type(each)
            if kind is dict:
                values = part.values()
            elif kind is list or kind is tuple:
                values = part
            elif issubclass(kind, msgspec.Struct):
                values = part = astuple(part)
            elif kind in _LEAVES or (issubclass(kind, enum.Enum) and type(part._value_) in _ATOMS):
                continue
            else:
                return False
            room -= len(part)
            if room < 0:
                return False
            # Only values that hold references can lead deeper. To ask the garbage collector for
            # them takes a third of looking at the type of each.
            below += filter(is_tracked, values)
        if not below:
            return True
        level = below
    return False


def plain(value: object, most: int) -> Any:
    """Return a value that the encoder writes itself, and that has the bounds of an event.

    Args:
        value: anything.
        most: the number of bytes that an event may have.

    Raises:
        Unwritable: there is no such value.
    """
    return _Conversion(most).plain(value)


def to_jsonable(value: object, most: int) -> Any:
    """Do the same as the encoder's hook, which is also given keys that the encoder doesn't know."""
    conversion = _Conversion(most)
    containers = (list, tuple, set, frozenset, dict)
    if value is None or type(value) in (bool, bytes) or isinstance(value, containers):
        return conversion.key(value)  # as a value, the encoder knows it
    return conversion.plain(value)


class _Conversion:
    """One pass over a value, with the bytes that it may still take."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._room = most
        self._parents: list[int] = []
        self._are_times = False  # within an array of times, where an integer has lost its unit

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise Unwritable(f"is too large for an event; the limit is {self._most} bytes")

    def plain(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return self._atom(value)
        if id(value) in self._parents:
            raise Unwritable("refers to itself")
        if kind.__module__ == "unittest.mock":  # its methods return anything
            raise _no_form(value)
        try:
            return self._converted(value, kind)
        except (Unwritable, RecursionError):
            raise
        except Exception as error:
            raise Unwritable(f"can't be read: {describe(error)}") from error

    def _atom(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            self._take(len(value))
            if not value.isascii():
                _check_unicode(value)
        elif kind is int:
            if self._are_times:
                raise Unwritable("is a time that Python's datetime can't hold")
            if (bits := value.bit_length()) > _SMALL_INTEGER_BITS:
                self._take(bits * 3 // 10)
                try:
                    str(value)
                except ValueError as error:  # Python's limit on such conversions
                    raise Unwritable(f"can't be encoded: {error}") from None
        return value

    def _converted(self, value: Any, kind: Any) -> Any:
        if issubclass(kind, type):
            raise _no_form(value)
        if issubclass(kind, enum.Enum):
            return self.plain(value._value_)
        for base, convert in _BASES.items():
            if issubclass(kind, base):
                if kind is base:
                    msgspec.json.encode(value)  # a tzinfo of the game's own may raise
                    return value
                if value != value:  # noqa: PLR0124 (pandas.NaT is a datetime)
                    return None
                return self.plain(convert(value))
        if issubclass(kind, (bytes, bytearray, memoryview)):
            view = memoryview(value)
            self._take(view.nbytes)
            return bytes(view)
        if issubclass(kind, msgspec.Raw):  # JSON already
            self._take(memoryview(value).nbytes)
            return value
        if issubclass(kind, pathlib.PurePath):
            return self.plain(str(value))
        if callable(getattr(kind, "tolist", None)):  # numpy, array.array, torch
            listed = self._listed(value, kind)
            if listed is not _NOT_LISTED:
                return listed
        return self._container(value, kind)

    def _listed(self, value: Any, kind: Any) -> Any:
        if _BYTES_PER_ITEM * _size(value) > self._room:
            self._take(self._room + 1)
        dtype: Any = getattr(value, "dtype", None)
        are_times = getattr(dtype, "kind", None) in ("m", "M")
        if are_times and str(dtype).endswith(_FINE_UNITS):
            value = value.astype(f"{dtype.kind}8[us]")
        items = value.tolist()
        if type(items) is kind and kind not in _LEAVES:
            return float(items)  # numpy.longdouble, wider than Python's own, is its own list
        if type(items) not in _LEAVES and type(items) not in (list, tuple, bytes, complex):
            return _NOT_LISTED
        before, self._are_times = self._are_times, are_times
        try:
            return self.plain(items)
        finally:
            self._are_times = before

    def _container(self, value: Any, kind: Any) -> Any:
        if len(self._parents) >= MAX_DEPTH:
            raise Unwritable(f"is nested deeper than {MAX_DEPTH} levels")
        self._parents.append(id(value))
        try:
            if issubclass(kind, dict):
                return self._mapping(dict.__len__(value), dict.items(value))
            for base in (list, tuple):
                if issubclass(kind, base):
                    return self._array(base.__len__(value), base.__iter__(value))
            for unordered in (set, frozenset):
                if issubclass(kind, unordered):
                    return self._array(unordered.__len__(value), unordered.__iter__(value), "")
            if (names := _field_names(kind)) is not None:
                self._record(value, names)
                return value
            if issubclass(kind, Mapping):
                return self._mapping(_length(value), ((key, value[key]) for key in value))
            if issubclass(kind, (Sequence, Set)):
                step = "" if issubclass(kind, Set) else "[%d]"
                return self._array(_length(value), iter(value), step)
            if _is_sequence_like(value):
                size = _length(value)
                return self._array(size, map(value.__getitem__, range(size)))
        finally:
            self._parents.pop()
        raise _no_form(value)

    def _mapping(self, size: int, items: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
        self._take(_BYTES_PER_FIELD * size)
        fields: dict[Any, Any] = {}
        # One more than there should be: a mapping may lie about its length.
        for number, (key, item) in enumerate(items):
            if number >= size:
                self._take(_BYTES_PER_FIELD)
            try:
                field = self.plain(item)
            except Unwritable as fault:
                raise fault.within(_step(key)) from None
            fields[self.key(key)] = field
        return fields

    def _array(self, size: int, items: Iterator[Any], step: str = "[%d]") -> list[Any]:
        self._take(_BYTES_PER_ITEM * size)
        array: list[Any] = []
        for number, item in enumerate(items):
            if number >= size:
                self._take(_BYTES_PER_ITEM)
            try:
                array.append(self.plain(item))
            except Unwritable as fault:
                raise fault.within(step and step % number) from None
        return array

    def _record(self, value: Any, names: Iterable[str]) -> None:
        """Check the fields of an object that the encoder reads by itself."""
        for name in names:
            if (field := getattr(value, name, None)) is msgspec.UNSET:  # it is not written
                continue
            self._take(_BYTES_PER_FIELD)
            try:
                self.plain(field)
            except Unwritable as fault:
                raise fault.within(f".{name}") from None

    def key(self, key: Any) -> Any:
        kind = type(key)
        if kind is str or kind is int or kind is float:
            return self._atom(key)
        if kind is not bool and key is not None:
            if issubclass(kind, enum.Enum):
                return self.key(key._value_)
            if issubclass(kind, tuple):
                parts = [self.key(part) for part in islice(tuple.__iter__(key), self._most)]
                return ",".join(map(str, parts))
            if not issubclass(kind, (dict, list, set, frozenset)):
                name = self.plain(key)
                if type(name) in _LEAVES and type(name) is not bool and name is not None:
                    return name
        raise Unwritable(
            f"has a key that is not a string, a number or a tuple of them: {describe(key)}"
        )


_NOT_LISTED = object()


def _no_form(value: object) -> Unwritable:
    kind = type(value)
    is_vector = all(name in dir(kind) or name in dir(value) for name in ("x", "y"))
    hint = "; use [v.x, v.y] instead" if is_vector else ""
    return Unwritable(f"can't be encoded: {type_name(kind)} has no form in JSON{hint}")


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unwritable("contains a lone surrogate, which UTF-8 can't encode") from None


def _step(key: Any) -> str:
    return encodable(f".{key}" if isinstance(key, str) else f"[{describe(key)}]")


def _length(value: Any) -> int:
    try:
        return len(value)
    except OverflowError:  # larger than any container can be
        return 2**63


def _size(value: Any) -> int:
    """Return how many numbers and lists ``tolist`` would make."""
    shape = getattr(value, "shape", None)
    if type(shape) is not tuple:
        return _length(value) if hasattr(type(value), "__len__") else 1
    total = lists = 1
    for length in shape:
        lists *= int(length)
        total += lists
    return total


def _field_names(kind: Any) -> Iterable[str] | None:
    """Return the names of the fields of a dataclass, an attrs class or a msgspec.Struct."""
    for attribute in ("__dataclass_fields__", "__struct_fields__"):
        names = getattr(kind, attribute, None)
        if names is not None:
            return cast("Iterable[str]", names)
    attributes = getattr(kind, "__attrs_attrs__", None)
    return None if attributes is None else [field.name for field in attributes]


def _is_sequence_like(value: Any) -> bool:
    """Return whether it is a vector, color or rectangle: a length, and items by index."""
    kind = type(value)
    if not hasattr(kind, "__len__") or not hasattr(kind, "__getitem__") or hasattr(kind, "keys"):
        return False
    try:
        _length(value)
    except TypeError:  # a struct of cffi, such as raylib's vectors, has the methods all the same
        return False
    return True
