"""What is said to a terminal or down a pipe, so that neither is harmed by it.

Events are written by strangers. What they hold can move a terminal's cursor, set its title or its
clipboard, or turn the direction of its text; so of what isn't printable, nothing is printed.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import time
import unicodedata
from collections.abc import Iterator

import click

__all__ = [
    "Refusal",
    "ends_with_its_reader",
    "escaped",
    "is_coloured",
    "one_line",
    "wait_for_reader",
]

# Format characters that only join letters and emoji. The others of their kind turn text around.
_JOINERS = "\u200c\u200d"


class Refusal(click.ClickException):
    """What was asked for can't be done; the message says why. The exit code is 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


def escaped(text: str) -> str:
    r"""The text in printable characters: others as ``\u001b``, as JSON has them.

    So what was JSON means the same afterwards.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in _JOINERS or unicodedata.category(letter) == "Zs"
        else _code(letter)
        for letter in text
    )


def _code(letter: str) -> str:
    code = ord(letter)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def one_line(json_text: str) -> str:
    """JSON on one printable line. Between its parts, where alone line breaks may be, are spaces."""
    return escaped(json_text.translate({0x09: " ", 0x0A: " ", 0x0D: " "}))


def is_coloured() -> bool:
    """Whether what is written to standard output may have colours."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not is_plain


def wait_for_reader(seconds: float) -> None:
    """Wait, but no longer than there is anybody to read standard output, where it is a pipe.

    Raises:
        BrokenPipeError: there is nobody any more.
    """
    output = sys.stdout.fileno()
    if not (hasattr(select, "poll") and stat.S_ISFIFO(os.fstat(output).st_mode)):
        time.sleep(seconds)
        return
    poll = select.poll()
    poll.register(output, 0)
    if poll.poll(seconds * 1000):
        raise BrokenPipeError


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """End quietly, with exit code 0, when whoever reads standard output has read enough."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left to be flushed at exit goes nowhere, and so without an error.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise SystemExit(0) from None
