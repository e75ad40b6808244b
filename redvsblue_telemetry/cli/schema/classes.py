"""From event classes to the schemas of their events. msgspec makes the JSON Schemas.

The rest is added here: the meanings of fields and values, the form of dates, and that an
event has no other fields than its class.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import product
from pathlib import PurePath
from typing import Any

import attrs
import msgspec
import msgspec.inspect as inspected

from ..._schema import EventSchema, EventSchemas, SchemaError
from ..._shared import type_name
from .meanings import meaning_of_class, meanings_of_fields, meanings_of_members

__all__ = ["schemas_of"]

_EMPTY: dict[Any, Any] = {list: [], dict: {}, set: [], frozenset: [], tuple: []}
"""Defaults that a factory makes, as JSON."""


def schemas_of(classes: Mapping[str, type]) -> EventSchemas:
    """Return the schemas of event classes.

    Args:
        classes: by the type of their events.

    Raises:
        SchemaError: a class has a field whose values can't be described.
    """
    parts: dict[Any, Any] = {}  # by class
    for event_type, cls in sorted(classes.items()):
        try:
            info = inspected.type_info(cls)
            msgspec.json.schema_components([cls], schema_hook=_schema_of_other)
            found = list(_parts_of(info))
            for part in found:
                _check_annotations(part.cls)
        except Exception as error:
            raise SchemaError(f"{event_type} ({type_name(cls)}): {_reason(error)}") from error
        for part in found:
            parts.setdefault(part.cls, part)
    references, definitions = msgspec.json.schema_components(
        list(parts), schema_hook=_schema_of_other
    )
    names = {
        cls: ref["$ref"].rpartition("/")[2] for cls, ref in zip(parts, references, strict=True)
    }
    for cls, part in parts.items():
        definition = _completed(definitions[names[cls]], part)
        if attrs.has(part.cls) and part.cls not in classes.values():
            _drop_private_fields(definition)
        definitions[names[cls]] = definition
    events = {
        event_type: EventSchema(
            event_type, {"$ref": f"#/$defs/{names[cls]}"}, meaning_of_class(cls)
        )
        for event_type, cls in classes.items()
    }
    return EventSchemas(events, definitions)


def _check_annotations(cls: type) -> None:
    """Check that each field has an annotation: from msgspec 0.23 on, one without may be anything.

    Raises:
        KeyError: a field has none; as older releases of msgspec raise.
    """
    if not attrs.has(cls):
        return
    annotated = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
    for field in attrs.fields(cls):
        if field.name not in annotated:
            raise KeyError(field.name)


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, NameError):
        return f"{text}; import it outside `if TYPE_CHECKING`"
    if isinstance(error, KeyError):
        return f"the field {text} has no annotation"
    if found := re.match("Encoding objects of type (.*) is unsupported", text):
        return f"a default is a {found[1]}, which the schema can't show; have a factory make it"
    if text.startswith("Generating JSON schema for custom types"):
        return (
            f"{text.splitlines()[-1]}; annotate the field with"
            " Annotated[…, msgspec.Meta(extra_json_schema={…})]"
        )
    return text


def _schema_of_other(kind: type) -> dict[str, Any]:
    """Return the schema of a class that msgspec doesn't know, as the SDK writes its objects."""
    if kind is object:
        return {"$comment": "anything"}  # msgspec takes an empty one for none
    names = {f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__}
    for known, schema in _OTHERS.items():
        if known in names:
            return dict(schema)
    if issubclass(kind, PurePath):
        return {"type": "string"}
    if issubclass(kind, Mapping):
        return {"type": "object"}
    is_vector = hasattr(kind, "__len__") and hasattr(kind, "__getitem__")
    if issubclass(kind, (Sequence, Set)) or is_vector:
        return {"type": "array"}
    raise NotImplementedError


_OTHERS: dict[str, dict[str, Any]] = {
    "builtins.str": {"type": "string"},
    "builtins.int": {"type": "integer"},
    "builtins.float": {"type": "number"},
    "numpy.bool": {"type": "boolean"},
    "numpy.bool_": {"type": "boolean"},
    "numpy.integer": {"type": "integer"},
    "numpy.floating": {"type": "number"},
    "numpy.ndarray": {"type": "array"},
}
"""Schemas of classes and their subclasses, by qualified name: no library is imported for it."""


def _parts_of(info: Any) -> Iterator[Any]:
    """Yield the classes and enums that a type is made of, each once."""
    seen: set[Any] = set()
    rest = [info]
    while rest:
        part = rest.pop()
        if isinstance(part, _WITH_FIELDS):
            if part.cls in seen:
                continue
            rest += [field.type for field in part.fields]
        if isinstance(part, (*_WITH_FIELDS, inspected.EnumType)):
            seen.add(part.cls)
            yield part
        rest += _inner_of(part)


_WITH_FIELDS = (
    inspected.StructType,
    inspected.DataclassType,
    inspected.TypedDictType,
    inspected.NamedTupleType,
)


def _inner_of(info: Any) -> Iterator[Any]:
    """Yield the types inside a type that has no name."""
    for name in ("type", "item_type", "key_type", "value_type"):
        if hasattr(info, name):
            yield getattr(info, name)
    for name in ("item_types", "types"):
        yield from getattr(info, name, ())


def _completed(definition: dict[str, Any], part: Any) -> dict[str, Any]:
    """Return the definition of a class or enum with the parts that msgspec leaves out."""
    cls = getattr(part.cls, "__origin__", part.cls)  # of a generic class
    head = {"title": definition.pop("title")}
    definition.pop("description", None)  # not cleaned of its indentation
    if meaning := meaning_of_class(cls):
        head["description"] = meaning
    if isinstance(part, inspected.EnumType):
        return head | _enumeration(cls, definition)
    meanings = meanings_of_fields(cls)
    fields = {field.encode_name: field for field in part.fields}
    if "prefixItems" in definition:  # a named tuple, or a Struct that is written as an array
        items = definition["prefixItems"][-len(fields) :]  # without a tag
        schemas = dict(zip(fields, items, strict=True))
        for name, schema in schemas.items():
            schema.setdefault("title", name)
    else:
        schemas = definition["properties"]
        definition["additionalProperties"] = False
    for name, field in fields.items():
        schema = schemas[name]
        _complete_type(schema, field.type)
        if field.name in meanings:
            schema.setdefault("description", meanings[field.name])
        if isinstance(field.default, (set, frozenset)):
            schema["default"].sort(key=str)  # it has another order in each process
        if field.default_factory in _EMPTY:
            schema.setdefault("default", _EMPTY[field.default_factory])
    return head | definition


def _drop_private_fields(definition: dict[str, Any]) -> None:
    """Remove the fields that msgspec leaves out of an attrs object that is part of an event."""
    private = {name for name in definition["properties"] if name.startswith("_")}
    for name in private:
        del definition["properties"][name]
    definition["required"] = [name for name in definition["required"] if name not in private]


def _enumeration(cls: type[enum.Enum], definition: dict[str, Any]) -> dict[str, Any]:
    if issubclass(cls, enum.Flag):  # its values are sums of its members
        return {"type": "integer", "minimum": 0}
    meanings = meanings_of_members(cls)
    by_value = {member.value: meanings.get(member.name, "") for member in cls}
    values = list(by_value)  # in the order of the class, which often means something
    texts = {"enumDescriptions": list(by_value.values())} if any(by_value.values()) else {}
    return {**definition, "enum": values, **texts}


def _complete_type(schema: dict[str, Any], info: Any) -> None:
    """Add what msgspec, or its older releases, leave out of the schema of a type."""
    match info:
        case inspected.DateTimeType() | inspected.TimeType():
            if schema.get("type") == "string":
                word = "date-time" if isinstance(info, inspected.DateTimeType) else "time"
                schema.setdefault("format", f"{word}-local" if info.tz is False else f"iso-{word}")
        case inspected.Metadata():
            _complete_type(schema, info.type)
        case inspected.CollectionType():
            if schema.get("type") != "array":
                return
            _complete_type(schema.get("items", {}), info.item_type)
            if isinstance(info, (inspected.SetType, inspected.FrozenSetType)):
                schema["uniqueItems"] = True
        case inspected.TupleType():
            for item, kind in zip(schema.get("prefixItems", []), info.item_types, strict=False):
                _complete_type(item, kind)
        case inspected.DictType():
            _complete_type(schema.get("additionalProperties", {}), info.value_type)
        case inspected.UnionType():
            # They aren't in the same order. But of each kind of JSON, a union has at most one.
            for option, kind in product(schema["anyOf"], info.types):
                _complete_type(option, kind)
            schema["anyOf"].sort(key=lambda option: option.get("type") == "null")
