"""Compares two schemas of a game's events: which changes break something?

A change is a break in either of two directions. Games that players have not updated go on sending
events of the old schema, and these must fit the new one. Programs that were written for the old
schema go on reading events, and these must be as the old one says. But such programs have to expect
more than there was: new types of events, new fields, new values of an enum.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs
import msgspec

from ..._schema import EventSchemas

__all__ = ["Change", "changes"]

Schema = dict[str, Any]

_LOWER_BOUNDS = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_UPPER_BOUNDS = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
_COMPARED_ELSEWHERE = {
    "$ref", "type", "format", "contentEncoding", "enum", "const", "anyOf", "oneOf", "properties",
    "required", "additionalProperties", "items", "prefixItems", "default",
}  # fmt: skip
_ANNOTATIONS = {
    "title", "description", "enumDescriptions", "discriminator", "examples", "deprecated",
    "readOnly", "writeOnly", "$comment", "$id", "$schema",
}  # fmt: skip
_PLAIN_NAME = re.compile(r"[\w$-]+")


@attrs.frozen
class Change:
    """A difference between two schemas."""

    place: str
    """The event and the field, such as ``ship_hit.position.x``."""
    text: str
    is_breaking: bool

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def changes(old: EventSchemas, new: EventSchemas) -> list[Change]:
    """Return the differences, event by event."""
    found: list[Change] = []
    for event_type in sorted({*old.events, *new.events}):
        if event_type not in new.events:
            found.append(Change(event_type, "removed", is_breaking=True))
        elif event_type not in old.events:
            found.append(Change(event_type, "added", is_breaking=False))
        else:
            before, after = old.events[event_type].data, new.events[event_type].data
            found += _Comparison(old, new).compare(event_type, before, after)
    return found


class _Comparison:
    """Compares the data of one event."""

    def __init__(self, old: EventSchemas, new: EventSchemas) -> None:
        self._old = old
        self._new = new
        self._around: list[tuple[int, int]] = []
        """The pairs of objects that the compared part is in: one may contain itself."""
        self._same: set[tuple[int, int]] = set()
        """The pairs without a difference. In classes that refer to one another, there are more
        ways to a pair than can be walked."""

    def compare(self, place: str, before: Schema, after: Schema) -> Iterator[Change]:
        """Yield the differences between two schemas, and between the parts of them."""
        options = _alternatives(self._old, before), _alternatives(self._new, after)
        are_many = any(sum(map(_is_object, of_one)) > 1 for of_one in options)
        old, new = (_by_kind(of_one, are_many) for of_one in options)
        if old.keys() != new.keys():
            yield Change(place, f"type changed from {_words(old)} to {_words(new)}", True)
        for kind in old:
            if kind in new:
                yield from self._compare_kind(place, old[kind], new[kind])
        was, now = before.get("default"), after.get("default")
        if "default" in before and "default" in after and was != now:
            yield Change(place, f"default changed from {_json(was)} to {_json(now)}", False)

    def _compare_kind(self, place: str, old: Schema, new: Schema) -> Iterator[Change]:
        yield from _compare_values(place, old.get("enum"), new.get("enum"))
        was, now = old.get("prefixItems", []), new.get("prefixItems", [])
        if len(was) != len(now):
            yield Change(place, f"number of items changed from {len(was)} to {len(now)}", True)
        else:
            yield from _compare_bounds(place, old, new)
        for number, (before, after) in enumerate(zip(was, now, strict=False)):
            yield from self.compare(f"{place}[{number}]", before, after)
        if old.get("type") == "array" and not was:
            yield from self.compare(
                f"{place}[]", _of_others(old, "items"), _of_others(new, "items")
            )
        # By identity: a definition is one object, wherever it is referred to.
        pair = id(_inside(old)), id(_inside(new))
        if _is_object(old) and pair not in self._around and pair not in self._same:
            self._around.append(pair)
            found = list(self._compare_fields(place, old, new))
            self._around.pop()
            if not found:
                self._same.add(pair)
            yield from found

    def _compare_fields(self, place: str, old: Schema, new: Schema) -> Iterator[Change]:
        was, now = old.get("properties", {}), new.get("properties", {})
        for name in {**was, **now}:
            inside = f"{place}.{name}" if _PLAIN_NAME.fullmatch(name) else f"{place}[{_json(name)}]"
            was_required, is_required = (name in side.get("required", ()) for side in (old, new))
            if name not in now:
                yield Change(inside, "removed", True)
            elif name not in was:
                lacking = " without a default, and events of older games lack it"
                yield Change(inside, f"added{lacking if is_required else ''}", is_required)
            else:
                if is_required and not was_required:
                    words = "became required, and events of older games may lack it"
                    yield Change(inside, words, True)
                elif was_required and not is_required:
                    # An instance is written with its defaults, and the schema has them, too.
                    if has_default := "default" in now[name]:
                        words = f", with the default {_json(now[name]['default'])}"
                    else:
                        words = " without a default, so it may be missing"
                    yield Change(inside, f"became optional{words}", not has_default)
                yield from self.compare(inside, was[name], now[name])
        key = "additionalProperties"
        if (old.get(key) is False) == (new.get(key) is False):
            yield from self.compare(f"{place}.*", _of_others(old, key), _of_others(new, key))
        elif new.get(key) is False:
            yield Change(place, "other fields are no longer allowed", True)
        else:
            yield Change(place, "other fields are allowed", False)


def _compare_values(place: str, old: list[Any] | None, new: list[Any] | None) -> Iterator[Change]:
    """Compare the values that are allowed; None: any."""
    if old is None and new is None:
        return
    if old is None or new is None:
        words = f"limited to {', '.join(map(_json, new or old or ()))}"
        yield Change(place, words if old is None else f"no longer {words}", old is None)
        return
    for value in old:
        if value not in new:
            yield Change(place, f"value {_json(value)} removed", True)
    for value in new:
        if value not in old:
            yield Change(place, f"value {_json(value)} added", False)


def _compare_bounds(place: str, old: Schema, new: Schema) -> Iterator[Change]:
    """Compare the keywords by which a schema allows only some values of a type."""
    for key in sorted((old.keys() | new.keys()) - _COMPARED_ELSEWHERE - _ANNOTATIONS):
        was, now = old.get(key), new.get(key)
        if was == now or key.startswith("x-"):
            continue
        is_tighter = now is not None
        if isinstance(was, (int, float)) and isinstance(now, (int, float)):
            is_looser = now < was if key in _LOWER_BOUNDS else now > was
            is_tighter = not (is_looser and key in _LOWER_BOUNDS | _UPPER_BOUNDS)
        words = "added" if was is None else "removed" if now is None else "changed"
        values = " to ".join(_json(value) for value in (was, now) if value is not None)
        link = " from " if words == "changed" else ": "
        yield Change(place, f"{key} {words}{link}{values}", is_tighter)


def _alternatives(schemas: EventSchemas, schema: Schema) -> list[Schema]:
    """Return the schemas of which a value must fit one. Each is of one JSON type, or of any."""
    schema = schemas.resolve(schema)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return [found for option in options for found in _alternatives(schemas, option)]
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        by_type: dict[str, list[Any]] = {}
        for value in values:
            by_type.setdefault(_json_type(value), []).append(value)
        return [
            {"type": kind} if kind == "null" else {"type": kind, "enum": found}
            for kind, found in by_type.items()
        ]
    kinds = schema.get("type")
    return [{**schema, "type": kind} for kind in kinds] if isinstance(kinds, list) else [schema]


def _by_kind(options: list[Schema], are_many: bool) -> dict[str, Schema]:
    """Return alternatives by a word for each; the objects of several classes by their tags."""
    found: dict[str, Schema] = {}
    for option in options:
        kind = str(option.get("type", "anything"))
        if detail := option.get("format") or option.get("contentEncoding"):
            kind += f" ({detail})"
        if "prefixItems" in option:
            kind = "tuple"
        if _is_object(option) and are_many:
            kind += f" ({_tag(option)})"
        while kind in found:
            kind += "'"
        found[kind] = option
    return found


def _tag(schema: Schema) -> str:
    """Return the value by which objects of a class can be told apart, or its name."""
    for field in schema.get("properties", {}).values():
        values = [field["const"]] if "const" in field else field.get("enum", [])
        if len(values) == 1:
            return str(values[0])
    return str(schema.get("title", ""))


def _is_object(schema: Schema) -> bool:
    return schema.get("type") == "object"


def _inside(schema: Schema) -> Any:
    """Return the part of an object's schema that has the schemas of its fields."""
    return schema.get("properties", schema.get("additionalProperties"))


def _of_others(schema: Schema, key: str) -> Schema:
    """Return the schema of the items or fields that are not listed; an empty one allows any."""
    found = schema.get(key)
    return found if isinstance(found, dict) else {}


def _words(kinds: dict[str, Schema]) -> str:
    return " or ".join(sorted(kinds, key=lambda kind: kind == "null"))


def _json_type(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value), "array" if isinstance(value, list) else "object")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
