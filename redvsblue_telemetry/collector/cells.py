"""The cells of CSV: texts that neither a spreadsheet nor a terminal interprets."""

from __future__ import annotations

import re

from .._shared import escape

__all__ = ["cell"]

# OWASP's list for "CSV injection", also behind blanks, which some spreadsheets skip, and with the
# signs that Unicode calls equal to those of ASCII. Line breaks and tabs are escaped before.
_FORMULA = re.compile(r"'*\s*[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212]")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII)
_LIKE_ESCAPE = re.compile(r"\\(?=u[0-9a-fA-F]{4})")
# A text that is neither a formula nor has letters to escape.
_PLAIN = re.compile(r"[A-Za-z0-9_.][\w.:/-]*", re.ASCII)


def cell(text: str) -> str:
    r"""Return a text with an apostrophe before a formula, and unprintable letters as ``\u001b``.

    It can be undone: a text that looked like an escape, or like a formula with its apostrophe, gets
    one as well.
    """
    if _PLAIN.fullmatch(text):  # most texts are
        return text
    shown = escape(_LIKE_ESCAPE.sub(r"\\u005c", text))
    is_formula = _FORMULA.match(shown) and not _NUMBER.fullmatch(shown)
    return f"'{shown}" if is_formula else shown
