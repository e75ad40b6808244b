"""Finds where and why the data of an event does not fit its schema.

Pure. A validator in Rust has found that it doesn't (:mod:`.checking`), but its errors are of no
use here: to make them takes a tenth of a millisecond each, all of them at once, so that an event
with a hundred thousand wrong items would block the collector for seconds. They also contain the
values, by which no two events would have the same fault. So this goes through the data itself, and
takes a limited number of steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from .._schema import EventSchemas
from .._shared import escape

__all__ = ["NOT_EXPLAINED", "explain"]

NOT_EXPLAINED = "data: does not fit the schema"
"""The fault of an event if the search for the place is not made, or finds none."""

_MAX_STEPS = 5000  # about 10 ms
_MAX_FAULTS = 3  # of one event
_MAX_NAME = 40  # characters of a name that a client chose
_MAX_VALUES = 120  # characters of the values that are allowed
_MAX_TEXT = 500  # characters of a fault

_KINDS = {
    "null": "null",
    "boolean": "a boolean",
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "array": "an array",
    "object": "an object",
}
# Keywords about a value, but not about its parts.
_LIMITS = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "pattern": "must match the pattern {}",
    "format": "must have the format {}",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "uniqueItems": "must not have an item twice",
    "minProperties": "must have at least {} fields",
    "maxProperties": "must have at most {} fields",
}

Fits = Callable[[dict[str, Any], Any], bool]
"""``fits(schema, value)`` returns whether a value fits a schema without references."""


def explain(schemas: EventSchemas, type: str, data: Any, fits: Fits) -> str:
    """Return the fault of data that does not fit the schema of its type of event.

    The names in it are those of the schema, with ``[]`` for the items of an array and ``*`` for
    the keys of a mapping, and of fields that the schema doesn't have. So events with the same
    fault have the same text.
    """
    search = _Search(schemas, fits)
    found: list[str] = []
    try:
        for fault in islice(search.faults(schemas.events[type].data, data, "data"), _MAX_FAULTS):
            if fault not in found:
                found.append(fault)
    except (_OutOfSteps, RecursionError):
        pass
    text = "; ".join(found) or NOT_EXPLAINED
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


class _OutOfSteps(Exception):  # noqa: N818 - it ends a search, and is not an error
    """The data is too large to say where it does not fit."""


class _Search:
    def __init__(self, schemas: EventSchemas, fits: Fits) -> None:
        self._schemas = schemas
        self._fits = fits
        self._steps = 0

    def faults(self, schema: Any, value: Any, path: str) -> Iterator[str]:
        """Yield where and why a value does not fit, one by one."""
        schema = self._resolve(schema)
        kind = _kind(value)
        if schema is False:
            yield f"{path}: must be absent"
            return
        kinds = _kinds_named(schema)
        if kinds and not _is_one_of(value, kind, kinds):
            yield f"{path}: must be {_either(kinds)}, not {_KINDS[kind]}"
            return
        yield from self._limits(schema, value, path)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                yield from self._alternatives(schema, schema[keyword], value, path)
        for part in schema.get("allOf", ()):
            yield from self.faults(part, value, path)
        if isinstance(value, dict):
            yield from self._fields(schema, value, path)
        elif isinstance(value, list):
            yield from self._items(schema, value, path)

    def _limits(self, schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
        for keyword, limit in schema.items():
            if keyword in _LIMITS and not self._fits({keyword: limit}, value):
                yield f"{path}: {_LIMITS[keyword].format(_shown([limit]))}"
        if (allowed := _allowed(schema)) is not None and not self._fits({"enum": allowed}, value):
            yield f"{path}: must be {_one_of(allowed)}"

    def _alternatives(
        self, schema: dict[str, Any], alternatives: list[Any], value: Any, path: str
    ) -> Iterator[str]:
        """Yield why the alternative does not fit that was meant, if that can be said."""
        kind = _kind(value)
        resolved = [self._resolve(each) for each in alternatives]
        kinds = [self._kinds_of(each) for each in resolved]
        meant = [
            each
            for each, names in zip(resolved, kinds, strict=True)
            if not names or _is_one_of(value, kind, names)
        ]
        if not meant:
            names = [name for names in kinds for name in names]
            yield f"{path}: must be {_either(names)}, not {_KINDS[kind]}"
            return
        if len(meant) > 1 and isinstance(value, dict):
            meant = [each for each in meant if _has_tags_of(each, value)] or meant
        if len(meant) == 1:
            yield from self.faults(meant[0], value, path)
        elif all(any(self.faults(each, value, path)) for each in meant):
            name = _tag_name(schema)
            tags = [tag for each in meant for tag in _tags(each, name)]
            known = f"{path}.{name}: must be {_one_of(tags)}"
            yield known if tags else f"{path}: fits none of the alternatives"

    def _kinds_of(self, schema: Any) -> list[str]:
        """Return the kinds of value that may fit a schema; an empty list if it may be any."""
        schema = self._resolve(schema) or {}
        if kinds := _kinds_named(schema):
            return kinds
        if (allowed := _allowed(schema)) is not None:
            return [_kind(each) for each in allowed]
        for keyword in ("anyOf", "oneOf"):
            of_each = [self._kinds_of(each) for each in schema.get(keyword, ())]
            if of_each and all(of_each):
                return [kind for kinds in of_each for kind in kinds]
        return []

    def _fields(self, schema: dict[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
        properties = schema.get("properties", {})
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{path}.{name}: is missing"
        # Names that match a pattern would be of neither kind.
        others = (
            schema.get("additionalProperties", True) if "patternProperties" not in schema else True
        )
        for name, part in value.items():
            if name in properties:
                yield from self.faults(properties[name], part, f"{path}.{name}")
            elif others is False:
                yield f"{path}.{escape(name[:_MAX_NAME])}: unknown field"
            else:
                yield from self.faults(others, part, f"{path}.*")

    def _items(self, schema: dict[str, Any], value: list[Any], path: str) -> Iterator[str]:
        first, others = schema.get("prefixItems", []), schema.get("items", True)
        for place, part in enumerate(value):
            if place < len(first):
                yield from self.faults(first[place], part, f"{path}[{place}]")
            elif others is not False:  # then the number of items is wrong
                yield from self.faults(others, part, f"{path}[]")

    def _resolve(self, schema: Any) -> Any:
        """Take a step; return the schema without a reference: a dict, or False."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise _OutOfSteps
        if isinstance(schema, dict):
            return self._schemas.resolve(schema) if "$ref" in schema else schema
        return {} if schema else False


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds: dict[type, str] = {int: "integer", float: "number", str: "string", list: "array"}
    return kinds.get(type(value), "object")


def _kinds_named(schema: Any) -> list[str]:
    kinds = schema.get("type", []) if schema else []
    return [kinds] if isinstance(kinds, str) else kinds


def _is_one_of(value: Any, kind: str, kinds: list[str]) -> bool:
    if kind == "integer":
        return "integer" in kinds or "number" in kinds
    if kind == "number" and "integer" in kinds and value.is_integer():
        return True
    return kind in kinds


def _either(kinds: list[str]) -> str:
    *names, last = dict.fromkeys(_KINDS[kind] for kind in kinds)
    return f"{', '.join(names)} or {last}" if names else last


def _allowed(schema: Any) -> list[Any] | None:
    """Return the values that a schema names; None if it names none."""
    if schema and "const" in schema:
        return [schema["const"]]
    allowed: list[Any] | None = schema.get("enum") if schema else None
    return allowed


def _has_tags_of(schema: Any, value: dict[str, Any]) -> bool:
    """Return whether an object has the values that distinguish the alternatives."""
    return all(
        name in value and value[name] in allowed
        for name in (schema or {}).get("required", ())
        if (allowed := _tags(schema, name))
    )


def _tag_name(schema: dict[str, Any]) -> str | None:
    """Return the field that the alternatives differ in, if the schema names one."""
    found = schema.get("discriminator")  # of OpenAPI: no validator has looked at it
    name = found.get("propertyName") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None


def _tags(schema: Any, name: str | None) -> list[Any]:
    """Return the values that a field may have; empty if it may have any."""
    part = (schema or {}).get("properties", {}).get(name)
    return (isinstance(part, dict) and _allowed(part)) or []


def _one_of(values: list[Any]) -> str:
    return f"{'one of ' if len(values) > 1 else ''}{_shown(values)}"


def _shown(values: list[Any]) -> str:
    # There may be thousands, and each takes at least three characters.
    text = ", ".join(json.dumps(value, ensure_ascii=False) for value in values[:_MAX_VALUES])
    return escape(text if len(text) <= _MAX_VALUES else f"{text[:_MAX_VALUES]}…")
