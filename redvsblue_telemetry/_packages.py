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

__all__ = ["check", "hidden_standard_module"]


def check(name: str, distribution: str, attribute: str) -> None:
    """Import a package, if it is the right one.

    Args:
        name: the package.
        distribution: its name at PyPI.
        attribute: a name that only the right package has.

    Raises:
        ImportError: there is no such package, or another module of that name hides it.
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
            hiding = hidden_standard_module()
            raise (error if hiding is None else ImportError(hiding)) from None
    if not hasattr(module, attribute):
        raise _hidden(name, distribution, getattr(module, "__file__", None))


def hidden_standard_module() -> str | None:
    """Return which module of Python a file beside the game's script hides; None if none does."""
    beside = os.path.abspath(sys.path[0])
    for name in sys.stdlib_module_names:
        path = getattr(sys.modules.get(name), "__file__", None)
        if path and os.path.dirname(os.path.abspath(path)) == beside:
            return f"{path} hides Python's own module {name}; rename it"
    return None


def _hidden(name: str, distribution: str, path: str | None) -> ImportError:
    return ImportError(
        f"{path or f'another module {name}'} hides the package {distribution}, which "
        f"redvsblue_telemetry needs; rename it",
        name=name,
        path=path,
    )


check("attr", "attrs", "NOTHING")
check("attrs", "attrs", "frozen")
check("msgspec", "msgspec", "Struct")
