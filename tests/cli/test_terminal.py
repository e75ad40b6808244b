"""What strangers wrote reaches no terminal but as printable text."""

from __future__ import annotations

import json
import unicodedata

import pytest

from redvsblue_telemetry._shared import escape
from redvsblue_telemetry.cli._terminal import CommandError, one_line

HOSTILE = {
    "clears the screen": "\x1b[2J",
    "sets the title": "\x1b]0;pwned\x07",
    "8-bit CSI": "\x9b31m",
    "goes back": "safe\rEVIL",
    "deletes": "a\x08\x7f",
    "turns text around": "\u202eevil\u2066\u2069\u200f",
    "breaks lines elsewhere": "a\u2028b\u2029c\x85d",
    "hides": "a\u00ad\ufeff\u2060b\U000e0041",
    "isn't a character": "\ud800",
    "is null": "\x00",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_printable_is_escaped_and_means_the_same(text: str) -> None:
    shown = escape(text)

    assert shown.isprintable()
    assert json.loads(f'"{shown}"') == text


def test_every_character_is_printable_afterward_or_a_space_or_a_joiner() -> None:
    for code in (*range(0x20000), *range(0xE0000, 0xE0200)):  # the rest is unassigned or alike
        letter = chr(code)
        shown = escape(letter)
        if shown == letter:
            harmless = letter.isprintable() or letter in "\u200c\u200d"
            assert harmless or unicodedata.category(letter) == "Zs"
        else:
            assert shown.isascii()
            assert shown.isprintable()


@pytest.mark.parametrize(
    "text", ["", "Grüße, 世界 \u3000", "👩\u200d🚀", "é\u0301", "می\u200cخواهم"]
)
def test_what_people_write_is_left_alone(text: str) -> None:
    assert escape(text) == text


def test_json_over_many_lines_is_one_line_with_the_same_meaning() -> None:
    data = {"name": "a\nb\x1b", "list": [1, {"x": "\u202e"}]}
    text = json.dumps(data, indent="\t", ensure_ascii=False).replace("\n", "\r\n")

    line = one_line(text)

    assert line.isprintable()
    assert json.loads(line) == data


def test_refusal_is_safe_as_well() -> None:
    assert CommandError("no \x1b[2J").format_message() == r"no \u001b[2J"
