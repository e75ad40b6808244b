"""Imports a game's modules and finds the event classes in them."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from ..._schema import SchemaError
from ..._shared import type_name
from ...event_types import type_of_class

__all__ = ["event_classes", "import_modules"]


def import_modules(names: Sequence[str]) -> list[ModuleType]:
    """Import modules.

    Args:
        names: dotted names, and paths of files or packages. A package stands for itself and all
            modules in it, except ``__main__``.

    Raises:
        SchemaError: one can't be imported.
    """
    modules: list[ModuleType] = []
    # A module that prints, such as pygame, must not print into the document.
    with contextlib.redirect_stdout(sys.stderr):
        for name in names:
            modules += _from_path(name) if _is_path(name) else _from_name(name, Path.cwd())
    return modules


def event_classes(modules: Sequence[ModuleType]) -> dict[str, type]:
    """Return the event classes that modules define or import, by the type of their events.

    Raises:
        SchemaError: there are none, or two of them have the same type.
    """
    classes: dict[str, type] = {}
    for module in modules:
        for cls in _classes_in(vars(module), module.__name__):
            if (event_type := type_of_class(cls)) is None:
                continue
            if (other := classes.setdefault(event_type, cls)) is not cls:
                both = f"{type_name(other)} and {type_name(cls)}"
                raise SchemaError(f"two classes have the type {event_type!r}: {both}")
    if not classes:
        names = ", ".join(module.__name__ for module in modules)
        raise SchemaError(f"no event classes in {names}; mark them with @event_type")
    return classes


def _is_path(name: str) -> bool:
    return name.endswith(".py") or os.sep in name or "/" in name or name == "."


def _from_path(name: str) -> Iterator[ModuleType]:
    path = Path(name).resolve()
    if path.is_dir() and not (path / "__init__.py").exists():
        raise SchemaError(f"{name} has no __init__.py, so it isn't a package; name the files in it")
    if not path.exists():
        raise SchemaError(f"{name} doesn't exist")
    root = path.parent
    while (root / "__init__.py").exists():
        root = root.parent
    parts = path.relative_to(root).with_suffix("").parts
    dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    if path.is_dir():
        yield from _from_name(dotted, root)
        return
    module = _imported(dotted, root)
    if Path(module.__file__ or "").resolve() != path:
        found = module.__file__ or "a part of Python"
        raise SchemaError(f"{name} can't be imported: the name {dotted} is that of {found}")
    yield module


def _from_name(name: str, root: Path) -> Iterator[ModuleType]:
    module = _imported(name, root)
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", []), f"{name}."):
        if not found.name.endswith(".__main__"):
            yield from _from_name(found.name, root)


def _imported(name: str, root: Path) -> ModuleType:
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        reason = f"{name} can't be imported: {type(error).__name__}: {error}{_place_of(error)}"
        raise SchemaError(reason) from error


def _place_of(error: BaseException) -> str:
    """Return the place in the game's code where an import failed, in brackets; or nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    own = own[2:]  # without those of this module and of importlib
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def _classes_in(names: dict[str, object], module: str, within: str = "") -> Iterator[type]:
    """Yield the classes among names, and those within the classes that the module defines."""
    for value in list(names.values()):
        if not isinstance(value, type):
            continue
        yield value
        # A class may refer to the one around it: only steps inward end.
        if value.__module__ == module and value.__qualname__.startswith(within):
            inner = dict(vars(value))
            yield from _classes_in(inner, module, f"{value.__qualname__}.")
