"""Conversion of a game's values into values that JSON has.

The encoder (msgspec) writes the usual types itself: numbers of any size, strings, lists, tuples,
sets, mappings, enums, datetimes, UUIDs, dataclasses, attrs classes. :func:`to_jsonable` is its hook
for the rest: numpy's arrays and scalars, the vectors of pygame and pyglet, and subclasses of the
built-in types. No such library is imported: objects are recognized by their methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import cast

from .._shared import describe, encodable, type_name

__all__ = ["find_fault", "to_jsonable"]

_MAX_DEPTH = 64
"""How deep :func:`find_fault` descends before it reports that data is nested too deeply."""


_KNOWN = frozenset({bool, list, tuple, set, frozenset, dict, bytes, type(None)})
"""Types that the encoder passes to the hook only if they are the key of a mapping."""


def to_jsonable(value: object) -> object:
    """Return a value that the encoder knows for one that it doesn't.

    Raises:
        TypeError: there is no such value.
    """
    if type(value) in _KNOWN:
        raise TypeError(f"a {type_name(type(value))} can't be a key")  # as a value it is known
    for base in (bool, int, float, str):  # subclasses, numpy.float64 and numpy.str_ among them
        if isinstance(value, base):
            return base(value) if base is not str else str.__str__(cast("str", value))
    tolist = getattr(value, "tolist", None)  # numpy arrays and scalars, array.array, memoryviews
    if callable(tolist) and not isinstance(value, type):
        plain: object = tolist()
        # numpy.longdouble, wider than Python's own, is its own list.
        return float(cast("float", plain)) if type(plain) is type(value) else plain
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Sequence, Set)):
        return list(cast("Iterable[object]", value))
    if _is_sequence_like(value):
        items = cast("Sequence[object]", value)
        return [items[index] for index in range(len(items))]
    raise TypeError(f"{type_name(type(value))} has no form in JSON")


def _is_sequence_like(value: object) -> bool:
    """Return whether it is a vector, color or rectangle: a length, and items by index."""
    kind = type(value)
    return hasattr(kind, "__len__") and hasattr(kind, "__getitem__") and not hasattr(kind, "keys")


def find_fault(
    value: object, path: str, encode: Callable[[object], bytes]
) -> tuple[str, str] | None:
    """Return where in ``value`` the function ``encode`` fails, and why: ``(path, reason)``.

    Slow, since it encodes each part separately; only for an event that has failed already.
    """
    return _search(value, path, encode, ())


def _search(
    value: object, path: str, encode: Callable[[object], bytes], parents: tuple[int, ...]
) -> tuple[str, str] | None:
    if id(value) in parents:
        return path, "refers to itself"
    if len(parents) >= _MAX_DEPTH:
        return path, "is nested too deeply"
    try:
        encode(value)
    except Exception as error:
        parents = (*parents, id(value))
        for part_path, part in _parts(value, path):
            if fault := _search(part, part_path, encode, parents):
                return fault
        return path, _reason(value, error)
    return None


def _parts(value: object, path: str) -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            here = f"{path}.{key}" if isinstance(key, str) else f"{path}[{describe(key)}]"
            yield encodable(here), item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item
    elif not isinstance(value, type):
        # Dataclasses and attrs classes, which the encoder reads field by field.
        names = getattr(value, "__dataclass_fields__", None)
        if names is None:
            names = [field.name for field in getattr(value, "__attrs_attrs__", ())]
        for name in names:
            yield f"{path}.{name}", getattr(value, name, None)


def _reason(value: object, error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "contains a lone surrogate, which UTF-8 can't encode"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(value, Mapping) and isinstance(error, TypeError):
        return "has a key that is neither a string nor a number"
    return encodable(f"can't be encoded: {str(error) or type_name(type(error))}")
