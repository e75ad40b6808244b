"""The schema of a game's events: a JSON Schema (2020-12) of an event on the wire.

It has one branch for each type of event. ``redvsblue-telemetry schema`` writes it from the game's
classes, and the collector reads it. Nothing here validates events.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any

import attrs
import msgspec

__all__ = ["EventSchema", "EventSchemas", "SchemaError", "read_schemas", "write_schemas"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFINITION = "#/$defs/"
_TITLE = "Events"


class SchemaError(ValueError):
    """A text is not a schema of events, or classes have none. The message gives the reason."""


@attrs.frozen
class EventSchema:
    """The schema of one type of event."""

    type: str
    data: dict[str, Any]
    """The JSON Schema of its data, which may refer to definitions."""
    description: str = ""


@attrs.frozen
class EventSchemas:
    """The schemas of a game's events."""

    events: dict[str, EventSchema]
    """By type."""
    definitions: dict[str, dict[str, Any]]
    """The parts that the schemas refer to, by name."""

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the part that a schema refers to, merged with what stands beside the reference."""
        for _ in self.definitions:  # a reference may lead to another, but not around forever
            if "$ref" not in schema:
                break
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            schema = self.definitions[schema["$ref"].removeprefix(_DEFINITION)] | beside
        return schema


class _Const(msgspec.Struct):
    const: str


class _Properties(msgspec.Struct):
    type: _Const
    data: dict[str, Any]


class _Branch(msgspec.Struct):
    properties: _Properties
    description: str = ""


class _Document(msgspec.Struct):
    one_of: list[_Branch] = msgspec.field(name="oneOf")
    definitions: dict[str, dict[str, Any]] = msgspec.field(name="$defs", default_factory=dict)


class _Node(msgspec.Struct, rename="camel"):
    """The keywords of a schema that lead to other schemas, or that readers go through."""

    ref: str = msgspec.field(name="$ref", default="")
    type: str | list[str] = ""
    title: str = ""
    format: str = ""
    content_encoding: str = ""
    description: str = ""
    required: list[str] = []
    enum: list[Any] = []
    enum_descriptions: list[str] = []
    any_of: list[_Node] = []
    one_of: list[_Node] = []
    prefix_items: list[_Node] = []
    properties: dict[str, _Node] = {}
    items: _Node | bool = True
    additional_properties: _Node | bool = True


class _Nodes(_Node):
    definitions: dict[str, _Node] = msgspec.field(name="$defs", default_factory=dict)


def read_schemas(text: bytes | str) -> EventSchemas:
    """Read the document that ``redvsblue-telemetry schema`` writes.

    A byte order mark in front of it is skipped: some editors add one.

    Raises:
        SchemaError: it is not one.
    """
    text = text.removeprefix("\ufeff") if isinstance(text, str) else text.removeprefix(BOM_UTF8)
    try:
        document = msgspec.json.decode(text, type=_Document)
        # Read twice: as it is, and to see that it is made as its readers expect.
        msgspec.json.decode(text, type=_Nodes)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise SchemaError(
            f"not a schema as `redvsblue-telemetry schema` writes it: {error}"
        ) from None
    events: dict[str, EventSchema] = {}
    for branch in document.one_of:
        event = EventSchema(
            branch.properties.type.const, branch.properties.data, branch.description
        )
        if event.type in events:
            raise SchemaError(f"two events have the type {event.type!r}")
        events[event.type] = event
    definitions = document.definitions
    for reference in _references([definitions, *(event.data for event in events.values())]):
        # One to another file or the network would make a reader fetch that.
        name = reference.removeprefix(_DEFINITION)
        if name == reference or name not in definitions:
            raise SchemaError(f"$ref must refer to one of $defs, not {reference!r}")
    return EventSchemas(events, definitions)


def write_schemas(schemas: EventSchemas) -> bytes:
    """Return the document: the same for the same schemas, in any order."""
    document = {
        "$schema": _DIALECT,
        "title": _TITLE,
        "oneOf": [_branch(event) for _, event in sorted(schemas.events.items())],
        "$defs": dict(sorted(schemas.definitions.items())),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _branch(event: EventSchema) -> dict[str, Any]:
    description = {"description": event.description} if event.description else {}
    return {
        "title": event.type,
        **description,
        "type": "object",
        "properties": {"type": {"const": event.type}, "data": event.data},
        "required": ["type", "data"],
    }


def _references(value: Any) -> Iterator[str]:
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            # A field may have the name, too. Then its value is a schema.
            if isinstance(reference := part.get("$ref"), str):
                yield reference
            parts += part.values()
