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

import dataclasses
import re
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, Union, overload

import attrs
import msgspec

from ._shared import describe, name_fault

__all__ = [
    "EventClass",
    "EventInstance",
    "event_class",
    "event_type",
    "hint_for",
    "is_event",
    "type_of_class",
]

C = TypeVar("C", bound=type)

_MARK = "__telemetry_event_class__"
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_FIELDS = ("__attrs_attrs__", "__dataclass_fields__", "__struct_fields__")
_REQUIRED = object()  # a default that no value is


class _WithFactory(msgspec.Struct):
    values: list[Any] = []


_Factory: Any = type(_WithFactory.__struct_defaults__[0])  # it has no public name


class _AttrsInstance(Protocol):
    __attrs_attrs__: ClassVar[Any]


class _DataclassInstance(Protocol):
    # attrs' own protocol for its classes is empty for pyright, which sees them as dataclasses.
    __dataclass_fields__: ClassVar[dict[str, Any]]


EventInstance = Union[_AttrsInstance, _DataclassInstance, msgspec.Struct]  # noqa: UP007 (evaluated)
"""An instance of a class that ``event_type`` can mark, as type checkers see it."""


class EventClass(msgspec.Struct, frozen=True):
    """The events that are the instances of a class."""

    type: str
    """Their type."""
    read: Callable[[Any], msgspec.Struct] | None
    """Returns a Struct with the fields of an instance. None: the instance is one itself.

    The garbage collector tracks that Struct only if one of its values may hold references, so
    ``emit`` asks it whether the values have to be looked at, as for a dict. So a class with
    ``gc=False`` is copied, too, and one that may have been changed behind the collector's back.

    Rejected for attrs classes and dataclasses: a dict, which takes half as long again to make and
    to encode; and msgspec's own way, which leaves out private fields, or those whose value is a
    default of the class, sorts the fields of a class with slots, and shows nothing about the
    values.
    """


@overload
def event_type(name: str, /) -> Callable[[C], C]: ...
@overload
def event_type(cls: C, /) -> C: ...
def event_type(name: Any, /) -> Any:
    """Mark a class of attrs, a dataclass or a ``msgspec.Struct`` as the class of events of a type.

    Put it above the decorator that makes the class. A subclass has to be marked itself.

    All fields of the class are sent, under their own names (for a Struct, those that ``rename``
    makes), private ones and those with ``init=False`` included. Other attributes are not.

    Args:
        name: the type of the events. Without it, ``ShipHit`` has the type ``ship_hit``.

    Raises:
        TypeError: the class is of another kind, or not made yet.
        ValueError: the name can't be a type.
    """
    if isinstance(name, str):
        if fault := name_fault(name) if name else "must not be empty":
            raise ValueError(f"the type of an event {fault}: {describe(name)}")
        return lambda cls: _mark(cls, name)
    return _mark(name, _WORD_STARTS.sub("_", getattr(name, "__name__", "")).lower())


def _mark(cls: Any, name: str) -> Any:
    if not isinstance(cls, type):
        raise TypeError(
            f"{describe(cls)} is not a class; use `@event_type` or `@event_type('name')`"
        )
    if issubclass(cls, msgspec.Struct):
        read = _reader_of_struct(cls)
    elif "__attrs_attrs__" in vars(cls) or "__dataclass_fields__" in vars(cls):
        kind: Any = cls
        is_of_attrs = "__attrs_attrs__" in vars(cls)  # a base class may be of the other kind
        fields = attrs.fields(kind) if is_of_attrs else dataclasses.fields(kind)
        read = _reader(cls, [field.name for field in fields])
    else:
        raise TypeError(
            f"{cls.__qualname__} is not a class of attrs, a dataclass or a msgspec.Struct;"
            " put @event_type above the decorator that makes it one"
        )
    setattr(cls, _MARK, EventClass(str.__str__(name), read))
    return cls


def _reader_of_struct(cls: type[msgspec.Struct]) -> Callable[[Any], msgspec.Struct] | None:
    config = cls.__struct_config__
    if config.array_like:
        raise TypeError(f"{cls.__qualname__} has array_like=True, and an event's fields have names")
    # What `force_setattr` sets, the collector doesn't track; a frozen class needs it in here.
    if config.gc and not (config.frozen and hasattr(cls, "__post_init__")):
        return None
    names, defaults = cls.__struct_fields__, cls.__struct_defaults__
    return _reader(
        cls,
        names,
        [_REQUIRED] * (len(names) - len(defaults)) + list(defaults),
        rename=dict(zip(names, cls.__struct_encode_fields__, strict=True)),
        tag=config.tag,
        tag_field=config.tag_field,
        omit_defaults=config.omit_defaults,
    )


def _reader(
    cls: type, names: Any, defaults: list[Any] | None = None, **options: Any
) -> Callable[[Any], msgspec.Struct]:
    """Return a function that copies the fields of an instance into a Struct."""
    kinds: dict[str, Any] = dict.fromkeys(names, Any)
    fields: list[Any] = list(kinds.items())
    if defaults is not None and options["omit_defaults"]:
        fields = [
            (name, kind, _REQUIRED if default is msgspec.NODEFAULT else _as_default(default))
            for (name, kind), default in zip(fields, defaults, strict=True)
        ]
    made = msgspec.defstruct(cls.__name__, fields, module=cls.__module__, **options)
    # Compiled, as attrs and dataclasses do it: an `attrgetter` takes half as long again.
    read = f"def read(event):\n    return made({', '.join(f'event.{name}' for name in names)})\n"
    namespace: dict[str, Any] = {"made": made}
    exec(read, namespace)
    reader: Callable[[Any], msgspec.Struct] = namespace["read"]
    return reader


def _as_default(default: Any) -> Any:
    if isinstance(default, _Factory):
        return msgspec.field(default_factory=default.factory)
    return default


def event_class(cls: type) -> EventClass | None:
    """Return what ``event_type`` has found out about a class; None if it is not marked."""
    mark: EventClass | None = vars(cls).get(_MARK)
    return mark


def type_of_class(cls: type) -> str | None:
    """Return the type of the events that are instances of a class; None if it is not marked."""
    mark = event_class(cls)
    return None if mark is None else mark.type


def is_event(value: object) -> bool:
    """Return whether a value is an instance of a marked class."""
    return event_class(type(value)) is not None


def hint_for(value: object) -> tuple[str, str] | None:
    """Return a name and a reason for a value that its author has taken for an event.

    The name has none of the values, which don't belong in a log.
    """
    is_class = isinstance(value, type)
    kind: type = value if isinstance(value, type) else type(value)
    if is_class and event_class(kind) is not None:
        return kind.__qualname__, "is a class; emit an instance of it"
    if any(hasattr(kind, name) for name in _FIELDS):
        return kind.__qualname__, "is an instance of a class that is not marked with @event_type"
    return None
