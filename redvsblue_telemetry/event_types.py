"""Typed events: classes whose instances a game emits.

::

    @event_type
    @attrs.frozen
    class ShipHit:
        ship: str
        damage: int

    telemetry.emit(ShipHit(ship="red-3", damage=12))

The class is that of attrs, a dataclass or a ``msgspec.Struct``. On the wire, its instance is an
ordinary event: the name is its type, and the fields are its data.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

__all__ = ["event_type", "type_of_class"]

C = TypeVar("C", bound=type)

_MARK = "__telemetry_event_type__"
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@overload
def event_type(name: str, /) -> Callable[[C], C]: ...
@overload
def event_type(cls: C, /) -> C: ...
def event_type(name: Any, /) -> Any:
    """Mark a class of attrs, a dataclass or a ``msgspec.Struct`` as the class of events of a type.

    Put it above the decorator that makes the class. A subclass has to be marked itself.

    Args:
        name: the type of the events. Without it, ``ShipHit`` has the type ``ship_hit``.

    Raises:
        TypeError: the class is of another kind, or not made yet.
    """
    if isinstance(name, str):
        return lambda cls: _mark(cls, name)
    return _mark(name, _WORD_STARTS.sub("_", name.__name__).lower())


def _mark(cls: C, name: str) -> C:
    is_made = "__attrs_attrs__" in vars(cls) or "__dataclass_fields__" in vars(cls)
    if not (is_made or issubclass(cls, msgspec.Struct)):
        raise TypeError(
            f"{cls.__qualname__} is not a class of attrs, a dataclass or a msgspec.Struct;"
            " put @event_type above the decorator that makes it one"
        )
    setattr(cls, _MARK, name)
    return cls


def type_of_class(cls: type) -> str | None:
    """Return the type of the events that are instances of a class; None if it is not marked."""
    name: str | None = vars(cls).get(_MARK)
    return name
