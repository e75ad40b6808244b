r"""What a search for a text finds: one rule for the database, the live stream and ``tail``.

A text is found where it begins at the beginning of a word; it may end within one. So an index of
words can find it. A word is a run of letters and digits, and of most other characters beyond ASCII.
The digits after a decimal point belong to the number before it, so that no index has to hold the
fractions of all positions. An escape of JSON counts as the character that it stands for.

The words of an event are those of its data in lower case (a to z). An event that is found has all
:meth:`TextSearch.terms` among its words; the reverse is not true.

The characters that are part of a word are listed here rather than taken from Python or SQLite,
whose tables of Unicode differ between versions: one version may read the index of another.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable

__all__ = ["MAX_WORD_LENGTH", "TextSearch", "fits", "words_of"]

MAX_WORD_LENGTH = 24
"""The number of characters of a longer word that count as the word."""

_ANYWHERE = "*"  # before a text: find it within words, too
_MAX_TERMS = 8  # of one spelling; the longest ones
# Punctuation, symbols, and emoji.
_APART = (
    r"\x00-/:-@\[-`{-\x7f\x80-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7\u2000-\u206f\u20a0-\u20cf"
    r"\u2190-\u2bff\u2e00-\u2e7f\u3000-\u3004\u3008-\u3020\u3030\ufe00-\ufe6f\uff00-\uff0f"
    r"\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\U0001f000-\U0001faff"
)
# Not within a word, and not after a decimal point.
_BEGINNING = rf"(?<![^{_APART}])(?<![0-9]\.)"
# The same words, each with the fraction that is not part of it: twice as fast in a long text.
_find_words = re.compile(rf"([^{_APART}]+)(?:(?<=[0-9])\.[^{_APART}]+)*").findall
_find_word = re.compile(rf"{_BEGINNING}[^{_APART}]+").finditer
_is_apart = re.compile(f"[{_APART}]").match
_is_beginning = re.compile(_BEGINNING).match
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|u[0-9a-f]{0,3}\Z|[^u]|\Z)")
_PADDING = "\x01"  # before the character of an escape; JSON has none outside of escapes
_CONTEXT = 12  # characters that hold the two before a place, each of which may be an escape


def words_of(data: str) -> set[str]:
    """Return the distinct words of an event's data.

    Args:
        data: in lower case, as JSON.
    """
    if "\\" in data:
        data = _unescaped(data).replace(_PADDING, "")
    return {word[:MAX_WORD_LENGTH] for word in _find_words(data)}


@functools.lru_cache(maxsize=16)
def _search(text: str) -> TextSearch:
    return TextSearch(text)


def fits(data: str, text: str) -> bool:
    """Return whether a text is found in an event's data.

    Args:
        data: in lower case, as JSON.
        text: see :class:`TextSearch`.
    """
    return _search(text).fits(data)


class TextSearch:
    """A search for a text, which a person typed, in the JSON of data.

    Args:
        text: with a leading ``*``, it is also found within words.
    """

    def __init__(self, text: str) -> None:
        self.is_anywhere = text.startswith(_ANYWHERE)
        """Whether it is also found within words."""
        self.spellings = _spellings(text[1:] if self.is_anywhere else text)
        """The texts of which one must occur, in lower case."""
        self._finders = [_finder(spelling) for spelling in self.spellings]

    def fits(self, data: str) -> bool:
        """Return whether it is found in data, which is JSON in lower case."""
        if self.is_anywhere:
            return any(spelling in data for spelling in self.spellings)
        if "\\" not in data:
            return any(find(data) for find in self._finders)
        return any(_begins_word(data, spelling) for spelling in self.spellings)

    def terms(self) -> list[list[tuple[str, bool]]] | None:
        """Return the words of each spelling, and whether each may go on, as the last one may.

        None if an event without any certain word may be found.
        """
        if self.is_anywhere:
            return None
        found: list[list[tuple[str, bool]]] = []
        for spelling in self.spellings:
            terms = _terms(spelling)
            if not terms:
                return None
            if terms not in found:
                found.append(terms)
        return found


def _spellings(text: str) -> list[str]:
    """Return the texts of which one must occur in the data's JSON, in lower case.

    ``text`` may be part of a string, where JSON escapes quotes and some clients escape everything
    but ASCII. Or it may be copied from pretty-printed JSON, which has spaces that the SDK does not
    send.
    """
    spellings = (
        text,
        text.replace('": ', '":').replace(', "', ',"'),
        json.dumps(text, ensure_ascii=False)[1:-1],
        json.dumps(text)[1:-1],
    )
    # In bytes, only a to z have another case, as in SQLite.
    return sorted({each.encode(errors="replace").lower().decode() for each in spellings})


def _finder(spelling: str) -> Callable[[str], object]:
    """Return a function that searches data without escapes."""
    begins_apart = not spelling or _is_apart(spelling) is not None
    return re.compile(("" if begins_apart else _BEGINNING) + re.escape(spelling)).search


def _begins_word(data: str, spelling: str) -> bool:
    """Return whether a spelling occurs in data at the beginning of a word or outside of words."""
    place = data.find(spelling)
    if place < 0:
        return False
    characters = _unescaped(data)
    while place >= 0:
        before = characters[max(0, place - _CONTEXT) : place]
        if not before.endswith(_PADDING):  # not within an escape
            begins = characters[place : place + _CONTEXT].lstrip(_PADDING)[:1]
            pair = before.replace(_PADDING, "")[-2:]
            if not begins or _is_apart(begins) or _is_beginning(pair + begins, len(pair)):
                return True
        place = data.find(spelling, place + 1)
    return False


def _terms(spelling: str) -> list[tuple[str, bool]]:
    """Return the words that data must have if a spelling is found in it.

    With each, whether it is only the beginning of a word, as the last one may be.
    """
    text = _unescaped(spelling)
    text = text.replace(_PADDING, "")
    terms = set()
    for word in _find_word(text):
        if word.start() == 1 and text[0] == ".":
            continue  # perhaps the digits of a number that begins before the text
        may_go_on = word.end() == len(text) and len(word[0]) < MAX_WORD_LENGTH
        terms.add((word[0][:MAX_WORD_LENGTH], may_go_on))
    return sorted(terms, key=lambda term: (-len(term[0]), term))[:_MAX_TERMS]


def _unescaped(text: str) -> str:
    """Return the text with the character of each escape at the last of its places.

    An escape that ends with the text is incomplete: all of its places are padding.
    """
    return _ESCAPE.sub(_character, text)


def _character(escape: re.Match[str]) -> str:
    length = len(escape[0])
    if (code := escape[1]) is not None:
        character = chr(int(code, 16))
        # Half of a character beyond 16 bits separates words, and so does the other half.
        character = " " if "\ud800" <= character <= "\udfff" else character
        character = character.lower() if character.isascii() else character
    else:
        is_whole = length == 2 and escape[0] != "\\u"
        character = " " if is_whole else _PADDING
    return _PADDING * (length - 1) + character
