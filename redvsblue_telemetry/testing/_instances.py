"""Instances of event classes: from one to the data of its event, and back.

A test states an event as an instance, which is compared as the event that ``emit`` makes of it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs
import msgspec

from .._recording.jsonable import Unwritable, to_jsonable
from .._shared import describe
from ..event_types import event_class, type_of_class

__all__ = ["instance_of", "marked_type", "pair_of"]

T = TypeVar("T")

_PLACEHOLDER = "\0value without a form in JSON: "


def pair_of(instance: object) -> tuple[str, dict[str, Any]] | None:
    """Return the type and the data of the event that an instance stands for.

    Values that have no form in JSON, such as those of ``pytest.approx``, stay in it as they are.
    None if it is not an instance of a class with ``@event_type``.
    """
    mark = event_class(type(instance))
    if mark is None:
        return None
    formless: list[object] = []

    def hook(value: object) -> object:
        try:
            return to_jsonable(value, sys.maxsize)
        except Unwritable:
            formless.append(value)
            return f"{_PLACEHOLDER}{len(formless) - 1}"

    fields = instance if mark.read is None else mark.read(instance)
    text = msgspec.json.encode(fields, enc_hook=hook)
    data = msgspec.json.decode(text)
    return mark.type, _filled(data, formless) if formless else data


def _filled(value: Any, formless: list[object]) -> Any:
    """Return decoded data with the values themselves in place of their placeholders."""
    if isinstance(value, dict):
        return {name: _filled(each, formless) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, formless) for each in value]
    if isinstance(value, str) and value.startswith(_PLACEHOLDER):
        return formless[int(value.removeprefix(_PLACEHOLDER))]
    return value


def marked_type(cls: type) -> str:
    """Return the type of the events of a class.

    Raises:
        TypeError: The class is not marked.
    """
    type_ = type_of_class(cls) if isinstance(cls, type) else None
    if type_ is None:
        raise TypeError(f"{describe(cls)} is not a class that @event_type marks")
    return type_


def instance_of(cls: type[T], data: Mapping[str, Any]) -> T:
    """Return the instance of a class whose event has this data.

    Raises:
        ValueError: The data doesn't fit the class.
    """
    if strange := [name for name in data if name not in _names(cls)]:
        raise ValueError(f"the class has no field {strange[0]!r}")
    try:
        return msgspec.convert(data, cls, str_keys=True, dec_hook=_made)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`$", "`data")) from error
    except (TypeError, NameError, AttributeError) as error:  # annotations that can't be used
        raise ValueError(f"the class can't be filled from JSON: {describe(error)}") from error


def _names(cls: Any) -> list[str]:
    """Return the names that the fields of a class have in the data of its events."""
    if issubclass(cls, msgspec.Struct):
        return [*cls.__struct_encode_fields__, cls.__struct_config__.tag_field]
    return [field.name for field in (attrs if attrs.has(cls) else dataclasses).fields(cls)]


def _made(kind: Any, value: Any) -> Any:
    """Make a value of a class that msgspec doesn't know, such as a path or a vector of a game."""
    if hasattr(kind, "tolist"):  # numpy's arrays would take it for their shape
        raise NotImplementedError(f"no {kind.__name__} is made from JSON")
    return value if isinstance(value, kind) else kind(value)
