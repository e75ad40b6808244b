"""The meanings of fields and of an enum's members, as a game's source documents them.

They are read from the source, since Python doesn't keep a docstring below an assignment.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import sys
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

__all__ = ["meaning_of_class", "meanings_of_fields", "meanings_of_members"]

_FIELDS_SECTION = re.compile(r"^(?:Attributes|Args|Arguments|Fields):\n((?:[ \t]+.*\n?|\n)*)", re.M)
_FIELD_LINE = re.compile(r"^(\s+)(\w+)(?: \([^)]*\))?: *(.*(?:\n\1\s+.*)*)", re.M)


def meaning_of_class(cls: Any) -> str:
    """Return a class's docstring, without the part that describes its fields."""
    text = _docstring(cls)
    if text == "An enumeration." or re.fullmatch(rf"{cls.__name__}\(.*\)", text):
        return ""  # made by Python for an enum, a dataclass or a named tuple
    return _FIELDS_SECTION.sub("", text).strip()


def meanings_of_fields(cls: Any) -> dict[str, str]:
    """Return the meaning of each field of a class that is documented.

    In the metadata of a field, ``description`` is its meaning. Otherwise, the docstring below the
    field is, or its line in the class's docstring.
    """
    meanings: dict[str, str] = {}
    for base in reversed(_bases(cls)):
        for section in _FIELDS_SECTION.findall(_docstring(base)):
            for _, name, text in _FIELD_LINE.findall(section):
                meanings[name] = inspect.cleandoc(text)
        meanings |= _docstrings_below(base)
    for field in (*getattr(cls, "__attrs_attrs__", ()), *_dataclass_fields(cls)):
        text = field.metadata.get("description") or getattr(field, "doc", None)
        if isinstance(text, str):
            meanings[field.name] = text
    return meanings


def meanings_of_members(cls: Any) -> dict[str, str]:
    """Return the meaning of each member of an enum that has a docstring below it, by name."""
    return _docstrings_below(cls)


def _dataclass_fields(cls: Any) -> tuple[Any, ...]:
    return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()


def _docstring(cls: Any) -> str:
    text = vars(cls).get("__doc__")
    return inspect.cleandoc(text) if isinstance(text, str) else ""


def _bases(cls: Any) -> list[Any]:
    """Return a class and those of its bases that may be a game's."""
    return [
        base for base in cls.__mro__ if base.__module__ not in {"builtins", "msgspec", "typing"}
    ]


def _docstrings_below(cls: Any) -> dict[str, str]:
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    node = _class_nodes(file).get(cls.__qualname__) if file else None
    found: dict[str, str] = {}
    for statement, below in pairwise(node.body if node else []):
        match statement, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
    return found


@functools.cache
def _class_nodes(file: str) -> dict[str, ast.ClassDef]:
    """Return the classes in a file, by qualified name; none if there is no source."""
    try:
        with tokenize.open(file) as stream:
            tree = ast.parse(stream.read())
    except (OSError, SyntaxError, ValueError):  # an extension, or a bundle without sources
        return {}
    return dict(_classes_below(tree, ""))


def _classes_below(node: ast.AST, within: str) -> Iterator[tuple[str, ast.ClassDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield within + child.name, child
            yield from _classes_below(child, f"{within}{child.name}.")
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _classes_below(child, f"{within}{child.name}.<locals>.")
        elif isinstance(child, ast.stmt):
            yield from _classes_below(child, within)
