"""Joins the page's modules into one script, so that a browser needs one request instead of forty.

A browser has six connections for a host, and learns of a module only from the one that imports it:
by themselves, the modules take longer than the answers that the page is there to show. The files
remain ordinary modules, and nobody has to build anything: the collector joins them when it starts.

Each module becomes a function that returns its exports, after those that it imports. Only the forms
that the page uses are known, and another one raises a :exc:`JoinError`: ``import { a, b as c } from
"./d.js"`` and ``import * as d from "./d.js"``; ``export`` before a function, a class or a ``const``
(a variable's later value would not be seen elsewhere). Modules don't import each other in a circle.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

__all__ = ["JoinError", "join"]

_IMPORT = re.compile(
    r'^import (?:\{(?P<names>[^{}]*)\}|\* as (?P<all>\w+)) from "(?P<path>[./\w-]+\.js)";', re.M
)
_EXPORT = re.compile(r"^export (?=(?:(?:async )?function\*?|class|const) (?P<name>\w+)\b)", re.M)
_UNKNOWN = re.compile(r"(?:^(?:import|export)\b|\bimport(?:\(|\.meta\b)).*", re.M)


class JoinError(Exception):
    """A module has something that this can't join; the message says which."""


def join(modules: Mapping[str, str], main: str) -> str:
    """Return one script that does what a module does, with all that it imports.

    Args:
        modules: the text of each module by its path, such as ``views/field.js``.
        main: the path of the module that the page runs.

    Raises:
        JoinError: a module is absent, or has a form of ``import`` or ``export`` that is not known.
    """
    needs: dict[str, set[str]] = {}
    waiting = [main]
    while waiting:
        path = waiting.pop()
        if path in needs:
            continue
        if path not in modules:
            raise JoinError(f"there is no module {path}")
        needs[path] = {_target(path, found["path"]) for found in _IMPORT.finditer(modules[path])}
        waiting += needs[path]
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise JoinError(f"modules import each other: {', '.join(error.args[1])}") from error
    exports: dict[str, list[str]] = {}
    parts = [_wrapped(path, modules[path], exports) for path in order]
    return "".join(parts)


def _wrapped(path: str, text: str, exports: dict[str, list[str]]) -> str:
    """Return a module as a constant: the result of a function that returns its exports.

    Args:
        path: the module's.
        text: of the module.
        exports: the names that the modules before it export. Those of this one are added.
    """
    exports[path] = names = _EXPORT.findall(text)
    body = _IMPORT.sub(lambda found: _constants(path, found, exports), text)
    body = _EXPORT.sub("", body)
    if unknown := _UNKNOWN.search(body):
        raise JoinError(f"{path} has an unknown form: {unknown[0].strip()}")
    opening = f"// {path}\nconst {_variable(path)} = (() => {{\n"
    return f"{opening}{body}return {{ {', '.join(names)} }};\n}})();\n"


def _constants(path: str, found: re.Match[str], exports: Mapping[str, list[str]]) -> str:
    """Return the declaration that stands for an import."""
    target = _target(path, found["path"])
    if found["all"]:
        return f"const {found['all']} = {_variable(target)};"
    for name in re.findall(r"(\w+)(?: as \w+)?", found["names"]):
        if name not in exports[target]:  # it would be undefined, without an error
            raise JoinError(f"{path} imports {name}, which {target} doesn't export by itself")
    return f"const {{{found['names'].replace(' as ', ': ')}}} = {_variable(target)};"


def _target(path: str, imported: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), imported))


def _variable(path: str) -> str:
    return "$" + re.sub(r"\W", "_", path.removesuffix(".js"))
