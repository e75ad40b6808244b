"""Stacks as lines of text: where the code is, never the values of its variables.

A line is ``path:line in function``. The path is relative to an entry of ``sys.path`` or to the
working directory, so it is the same on every player's machine, and it names no player: a path that
is in neither is cut to the file's name, and no path is relative to a folder that home directories
are in.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType, TracebackType

from ._shared import encodable

__all__ = ["stack_of_frame", "stack_of_traceback"]

_MAX_LINES = 50
_MAX_PATH = 120  # characters; the end of a longer one is kept
_MAX_FUNCTION = 60  # characters
_HOMES = frozenset({"home", "users"})  # folders that home directories are in

Place = tuple[CodeType, "int | None"]


def stack_of_traceback(traceback: TracebackType | None, max_bytes: int) -> list[str]:
    """Return the places that an exception passed through, the one that raised it last.

    Args:
        traceback: the exception's own.
        max_bytes: the most bytes of JSON. If it isn't enough, the outermost lines are left out.
    """
    return _lines(deque(_passed(traceback), _MAX_LINES), max_bytes)


def stack_of_frame(frame: FrameType | None, max_bytes: int) -> list[str]:
    """Return the places of a frame and its callers, its own last."""
    places: deque[Place] = deque()
    while frame is not None and len(places) < _MAX_LINES:
        places.appendleft((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return _lines(places, max_bytes)


def _passed(traceback: TracebackType | None) -> Iterator[Place]:
    while traceback is not None:
        yield traceback.tb_frame.f_code, traceback.tb_lineno
        traceback = traceback.tb_next


def _lines(places: Iterable[Place], max_bytes: int) -> list[str]:
    roots = _roots()
    lines: deque[str] = deque()
    for code, number in reversed(list(places)):
        function: str = getattr(code, "co_qualname", code.co_name)  # since Python 3.11
        path = _relative(code.co_filename, roots)[-_MAX_PATH:]
        line = encodable(f"{path}:{number or 0} in {function[-_MAX_FUNCTION:]}")
        max_bytes -= len(line.encode()) + len('"",')
        if max_bytes < 0:
            break
        lines.appendleft(line)
    return list(lines)


def _roots() -> list[str]:
    """Return the directories that a path may be relative to, the longest first."""
    home = _comparable(os.path.expanduser("~"))
    found = set()
    for entry in (*sys.path, os.curdir):
        try:
            root = _comparable(os.path.abspath(entry)).rstrip("/")
        except (OSError, TypeError, ValueError):  # the working directory is gone; or not a path
            continue
        is_above_homes = home.startswith(f"{root}/") or root.rpartition("/")[2].lower() in _HOMES
        if root and not is_above_homes:
            found.add(f"{root}/")
    return sorted(found, key=len, reverse=True)


def _relative(path: str, roots: list[str]) -> str:
    if path.startswith("<"):  # such as "<string>" and "<frozen runpy>"
        return path
    plain = os.path.normpath(path).replace(os.sep, "/")
    if not os.path.isabs(path):
        return plain if not plain.startswith("..") else plain.rpartition("/")[2]
    compared = _comparable(plain)
    for root in roots:
        if compared.startswith(root):
            return plain[len(root) :]
    return plain.rpartition("/")[2]


def _comparable(path: str) -> str:
    return os.path.normcase(path).replace(os.sep, "/")
