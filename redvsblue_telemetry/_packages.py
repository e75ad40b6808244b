"""Finds out whether a module of the game hides a package that this one needs.

Python looks for a module beside the game's script first. So a game with a ``websocket.py`` has no
``websocket-client``, neither for itself nor for this package, which would fail with an error about
a missing attribute, or run the game's code. The packages that the whole SDK needs are checked when
this module is imported.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.util import find_spec
from types import ModuleType

__all__ = ["HiddenModuleError", "check", "hidden_by"]


class HiddenModuleError(ImportError):
    """A module of the game hides one that this package needs. The message names its file."""


def check(name: str, distribution: str, attribute: str) -> None:
    """Import a package, if it is the right one.

    Args:
        name: the package.
        distribution: its name at PyPI.
        attribute: a name that only the right package has.

    Raises:
        HiddenModuleError: another module hides the package, or one of Python that it needs.
        ImportError: the package is not installed.
    """
    module = sys.modules.get(name)
    if module is None:
        spec = find_spec(name)
        # All of them are packages. A module that isn't one is not even imported: it may be the
        # game's script itself, which would run a second time.
        if spec is not None and spec.submodule_search_locations is None:
            raise _hidden(name, distribution, spec.origin)
        try:
            module = importlib.import_module(name)
        except Exception as error:
            if (hidden := hidden_by(error)) is not None:
                raise hidden from error
            raise
    if not hasattr(module, attribute):
        raise _hidden(name, distribution, getattr(module, "__file__", None))


def hidden_by(error: Exception) -> HiddenModuleError | None:
    """Return the error that names the file of the game over which an import has failed, if any.

    Only the module that the import's own error is about is suspected. Other files of the game may
    have the name of a module that nothing here needs, while the start fails for want of something.
    """
    name = _module_that_lacks_a_name(error)
    path = getattr(sys.modules.get(name), "__file__", None)
    if name not in sys.stdlib_module_names or not path:
        return None
    if not _is_beside_the_game(path):
        return None
    return HiddenModuleError(
        f"{path} hides Python's own module {name}; rename it ({type(error).__name__}: {error})",
        name=name,
        path=path,
    )


def _module_that_lacks_a_name(error: Exception) -> str:
    if isinstance(error, ImportError):
        return (error.name or "").partition(".")[0]  # "http.client" where http isn't a package
    owner = error.obj if isinstance(error, AttributeError) else None
    return owner.__name__ if isinstance(owner, ModuleType) else ""


def _is_beside_the_game(path: str) -> bool:
    """Return whether a module is where Python looks first, and not Python's own all the same.

    The standard library comes first in a bundle, and in some programs that embed Python.
    """
    if hasattr(sys, "frozen") or not sys.path:
        return False
    folder, name = os.path.split(path)
    if name.startswith("__init__."):
        folder = os.path.dirname(folder)
    library = os.path.dirname(getattr(os, "__file__", ""))
    try:
        is_first = os.path.samefile(folder, sys.path[0] or os.curdir)
        return is_first and not os.path.samefile(folder, library)
    except (OSError, TypeError, ValueError):  # the folder does not exist
        return False


def _hidden(name: str, distribution: str, path: str | None) -> HiddenModuleError:
    return HiddenModuleError(
        f"{path or f'another module {name}'} hides the package {distribution}, which "
        f"redvsblue_telemetry needs; rename it",
        name=name,
        path=path,
    )


check("attr", "attrs", "NOTHING")
check("attrs", "attrs", "frozen")
check("msgspec", "msgspec", "Struct")
