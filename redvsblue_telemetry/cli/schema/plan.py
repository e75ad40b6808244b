"""The tracking plan: the schemas of a game's events as a Markdown page for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ..._schema import EventSchemas
from ..._shared import counted, escape

__all__ = ["plan_of"]

Schema = dict[str, Any]

_INTRODUCTION = (
    "This page is written by `redvsblue-telemetry schema --format markdown`;"
    " to change it, change the event classes."
)
_TYPES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "null": "nothing",
    "array": "list",
    "object": "object",
}
_FORMATS = {
    "date-time": "date and time with time zone",
    "date-time-local": "date and time without time zone",
    "iso-date-time": "date and time",
    "date": "date",
    "time": "time of day with time zone",
    "partial-time": "time of day without time zone",
    "iso-time": "time of day",
    "duration": "duration",
    "uuid": "UUID",
    "decimal": "decimal number",
}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "length at least {}",
    "maxLength": "length at most {}",
    "pattern": "matches {}",
    "minItems": "length at least {}",
    "maxItems": "length at most {}",
    "minProperties": "number of fields at least {}",
    "maxProperties": "number of fields at most {}",
}


def plan_of(schemas: EventSchemas) -> str:
    """Return the page: a table of the events, and a section for each event and each type."""
    text = "\n".join(_Plan(schemas).lines())
    return "\n".join(map(escape, text.split("\n"))) + "\n"


class _Plan:
    def __init__(self, schemas: EventSchemas) -> None:
        self._events = dict(sorted(schemas.events.items()))
        self._definitions = dict(sorted(schemas.definitions.items()))
        self._schemas = schemas
        titles = Counter(part.get("title") for part in self._definitions.values())
        self._titles = {
            name: part["title"] if titles[part.get("title")] == 1 and "title" in part else name
            for name, part in self._definitions.items()
        }
        # Definitions that are the data of an event have no section besides the event's.
        self._owners = {
            event.data["$ref"].rpartition("/")[2]: event.type
            for event in self._events.values()
            if "$ref" in event.data
        }
        self._types = [name for name in self._definitions if name not in self._owners]
        headings = ["Events", *self._events, "Types", *(self._titles[name] for name in self._types)]
        anchors = list(_anchors(headings))
        self._event_anchors = dict(zip(self._events, anchors[1:], strict=False))
        self._type_anchors = dict(zip(self._types, anchors[2 + len(self._events) :], strict=True))

    def lines(self) -> Iterator[str]:
        yield from ("# Events", "", f"{counted(len(self._events), 'type')} of events.")
        yield from (_INTRODUCTION, "")
        yield from _table(
            ["event", "meaning"],
            (
                [f"[{_code(name)}](#{self._event_anchors[name]})", _summary(event.description)]
                for name, event in self._events.items()
            ),
        )
        for name, event in self._events.items():
            yield from ("", f"## {_code(name)}", "")
            yield from self._section(self._schemas.resolve(event.data), event.description)
        if self._types:
            yield from ("", "## Types")
        for name in self._types:
            part = self._definitions[name]
            yield from ("", f"### {_code(self._titles[name])}", "")
            yield from self._section(part, part.get("description", ""))

    def _section(self, schema: Schema, description: str) -> Iterator[str]:
        if description:
            yield from (description, "")
        if "enum" in schema:
            meanings = schema.get("enumDescriptions") or [""] * len(schema["enum"])
            rows = zip(map(_value, schema["enum"]), map(_cell, meanings), strict=False)
            yield from _table(["value", "meaning"], map(list, rows))
        elif fields := schema.get("properties"):
            required = schema.get("required", [])
            header = ["field", "type", "required", "default", "meaning"]
            yield from _table(
                header,
                (
                    [_code(name), *self._field(part, name in required)]
                    for name, part in fields.items()
                ),
            )
        elif items := schema.get("prefixItems"):
            least = schema.get("minItems", len(items))
            header = ["item", "type", "required", "default", "meaning"]
            yield from _table(
                header,
                (
                    [_code(part.get("title", str(number))), *self._field(part, number < least)]
                    for number, part in enumerate(items)
                ),
            )
        elif schema.get("type") == "object":
            yield "It has no fields."
        else:
            yield f"{self._type(schema)[:1].upper()}{self._type(schema)[1:]}."

    def _field(self, schema: Schema, is_required: bool) -> list[str]:
        default = _value(schema["default"]) if "default" in schema else ""
        required = "yes" if is_required else "no"
        return [self._type(schema), required, default, _cell(_description(schema))]

    def _type(self, schema: Any) -> str:
        """Return the type of a value in words."""
        if not isinstance(schema, dict):
            return "anything"
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            event = self._owners.get(name)
            anchor = self._type_anchors[name] if event is None else self._event_anchors[event]
            return f"[{_code(self._titles[name])}](#{anchor})"
        if options := schema.get("anyOf") or schema.get("oneOf"):
            return " or ".join(self._type(option) for option in options)
        if "const" in schema:
            return _value(schema["const"])
        if "enum" in schema:
            return " or ".join(map(_value, schema["enum"]))
        kinds = schema.get("type", "anything")  # several only if an annotation has them
        words = _FORMATS.get(schema.get("format", "")) or " or ".join(
            _TYPES.get(kind, str(kind)) for kind in ([kinds] if isinstance(kinds, str) else kinds)
        )
        if schema.get("contentEncoding") == "base64":
            words = "bytes in base64"
        if items := schema.get("prefixItems"):
            return f"list of {', '.join(map(self._type, items))}"
        if "items" in schema:
            words = (
                f"{'set' if schema.get('uniqueItems') else 'list'} of {self._type(schema['items'])}"
            )
        if isinstance(schema.get("additionalProperties"), dict):
            words = f"object, each field: {self._type(schema['additionalProperties'])}"
        bounds = [
            text.format(_value(schema[key])) for key, text in _BOUNDS.items() if key in schema
        ]
        return f"{words} ({', '.join(bounds)})" if bounds else words


def _description(schema: Schema) -> str:
    """Return the meaning of a field, which may be that of an option of its type."""
    parts = [schema, *schema.get("anyOf", []), *schema.get("oneOf", [])]
    return next((part["description"] for part in parts if "description" in part), "")


def _summary(description: str) -> str:
    """Return the first paragraph."""
    return _cell(description.split("\n\n", maxsplit=1)[0])


def _value(value: object) -> str:
    return _code(value if isinstance(value, str) and value else msgspec.json.encode(value).decode())


def _code(text: str) -> str:
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if fence != "`" else ""
    return _cell(f"{fence}{pad}{text}{pad}{fence}")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(header: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _anchors(headings: Iterable[str]) -> Iterator[str]:
    """Yield the anchor of each heading, as the hosting sites of repositories make them."""
    seen: Counter[str] = Counter()
    for heading in headings:
        kept = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        yield f"{kept}-{seen[kept]}" if seen[kept] else kept
        seen[kept] += 1
