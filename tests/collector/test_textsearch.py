"""The rule by which a text is found in data, and the words by which an index finds it."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redvsblue_telemetry.collector import textsearch
from redvsblue_telemetry.collector.textsearch import MAX_WORD_LENGTH, TextSearch, fits, words_of

PIECES = (
    *"aA1é.",
    *(
        "-",
        "_",
        " ",
        '"',
        "\\",
        "\n",
        "\t",
        "\0",
        "*",
        "/",
        "u",
        "n",
        "\x01",
        "\x7f",
        "{",
        ":",
        ",",
    ),
    *("ë", "Ж", "日", "—", "\U0001f600", "\U0001d400", "\u0301", "\u2028", "½", "ß", "İ"),
    *("\\n", "\\u00", "\\u00eb", "\\ud83d", "\\\\", '": "', "1.5", "12.75e-3", "red-3", "x" * 30),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
DATA = st.builds(
    lambda fields, ascii_only, indent: json.dumps(fields, ensure_ascii=ascii_only, indent=indent),
    st.dictionaries(
        TEXTS,
        TEXTS
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.integers()
        | st.lists(TEXTS, max_size=2),
    ),
    st.booleans(),
    st.sampled_from([None, 1]),
)


def lower(data: str) -> str:
    return data.encode().lower().decode()


def is_among(terms: list[tuple[str, bool]], words: set[str]) -> bool:
    return all(
        any(word.startswith(term) if may_go_on else word == term for word in words)
        for term, may_go_on in terms
    )


@pytest.mark.parametrize(
    ("text", "data", "is_found"),
    [
        ("red", '{"ship":"Red-3"}', True),
        ("RED-3", '{"ship":"Red-3"}', True),
        ("ed-3", '{"ship":"Red-3"}', False),
        ("*ed-3", '{"ship":"Red-3"}', True),
        ("*", '{"ship":"Red-3"}', True),
        ("hip", '{"ship":"Red-3"}', False),
        ("-3", '{"ship":"Red-3"}', True),
        ("3", '{"ship":"Red-3"}', True),
        ("case", '{"snake_case":1}', True),
        ("case", '{"camelCase":1}', False),
        ("12.5", '{"hp":12.5}', True),
        ("12.", '{"hp":12.5}', True),
        (".5", '{"hp":12.5}', True),
        ("5", '{"hp":12.5}', False),
        ("*5", '{"hp":12.5}', True),
        ("5", '{"hp":2.25,"x":5}', True),
        ("2", '{"version":"1.2.3"}', False),
        ("1.2", '{"version":"1.2.3"}', True),
        ("txt", '{"file":"a.txt"}', True),
        ("red", r'{"say":"hi\nred"}', True),
        ("nred", r'{"say":"hi\nred"}', False),
        ("*nred", r'{"say":"hi\nred"}', True),
        (r"\nred", r'{"say":"hi\nred"}', True),
        ("hi\nred", r'{"say":"hi\nred"}', True),
        ("bar", r'{"name":"Zo\u00ebbar"}', False),
        ("zoë", r'{"name":"Zo\u00ebbar"}', True),
        ("u00eb", r'{"name":"Zo\u00eb"}', False),
        ("eb", r'{"name":"Zo\u00ebeb"}', False),
        ("bar", r'{"name":"a\u2014bar"}', True),
        ("bar", '{"name":"a—bar"}', True),
        ("bar", r'{"name":"\ud83d\ude00bar"}', True),
        ("bar", '{"name":"\U0001f600bar"}', True),
        ("ри", '{"name":"При"}', False),
        ("При", r'{"name":"\u041f\u0440\u0438\u0432\u0435\u0442"}', True),
        ("Привет", '{"name":"Привет"}', True),
        ("привет", '{"name":"Привет"}', False),
        ("5", r'{"x":"1\u002e5"}', False),
        ("", "{}", True),
        ('""', "{}", False),
    ],
)
def test_text_is_found_at_the_beginning_of_a_word(text: str, data: str, is_found: bool) -> None:
    assert fits(lower(data), text) is is_found


def test_words_are_those_that_a_person_reads() -> None:
    data = r'{"shipId":"Red-3","x":-812.5078125,"say":"Zo\u00eb:\n\"hi\"","snake_case":"1.2.3"}'
    assert words_of(lower(data)) == {
        *("shipid", "red", "3", "x", "812", "say", "zoë", "hi", "snake", "case", "1"),
    }


def test_long_words_are_known_by_their_beginning() -> None:
    long = "x" * 1000
    assert words_of(f'{{"a":"{long}"}}') == {"a", "x" * MAX_WORD_LENGTH}
    assert TextSearch(long).terms() == [[("x" * MAX_WORD_LENGTH, False)]]
    assert not fits(f'{{"a":"{long}"}}', long + "x")


def test_text_that_may_be_anywhere_has_no_terms() -> None:
    assert TextSearch("*red").terms() is None
    assert TextSearch("-_-").terms() is None
    assert TextSearch(".5").terms() is None
    assert TextSearch("\U0001f600").terms() is None
    assert TextSearch("red-3 b").terms() == [[("red", False), ("3", False), ("b", True)]]


@given(DATA | TEXTS)
@example("1..5 a1.5.6é.5 1.é2.b")
def test_words_are_found_in_two_ways(text: str) -> None:
    found = [word[0] for word in textsearch._find_word(text)]
    assert textsearch._find_words(text) == found


@given(DATA, TEXTS)
@example('{"a":"\\u00e9\\u0301xyz"}', "\u0301xyz")
@example('{"a":"1\\u002e5"}', "5")
@example('{"a":"\\ud835\\udc00bc"}', "\\udc00bc")
@example('{"a":"a\\u0062"}', "a\\")
def test_found_data_has_the_terms_among_its_words(data: str, text: str) -> None:
    search = TextSearch(text)
    terms = search.terms()
    if search.fits(lower(data)) and terms is not None:
        assert any(is_among(each, words_of(lower(data))) for each in terms)


@given(DATA, st.data())
def test_what_is_cut_out_of_data_is_found_or_begins_within_a_word(
    data: str, choice: st.DataObject
) -> None:
    start = choice.draw(st.integers(0, len(data) - 1))
    end = choice.draw(st.integers(start + 1, len(data)))
    text = data[start:end]
    if text.startswith("*"):
        return
    search = TextSearch(text)
    assert fits(lower(data), "*" + text)
    if search.fits(lower(data)):
        terms = search.terms()
        words = words_of(lower(data))
        assert terms is None or any(is_among(each, words) for each in terms)
    else:
        before = data[max(0, start - 12) : start]
        assert any(c.isalnum() or c in "\\." or not c.isascii() for c in before)


@given(DATA, TEXTS)
def test_data_without_escapes_is_searched_by_the_same_rule(data: str, text: str) -> None:
    # An escape of a separator at the end makes no difference but for the way of searching.
    data = lower(data.replace("\\", "/"))
    assert fits(data, text) == fits(data + '"\\n"', text) or text[:1] in ('"', "\\", "", "\n", "*")


@pytest.mark.parametrize("data", ['{"x":"' + "a" * 16_000 + '"}', '{"x":"' + "\\n" * 8_000 + '"}'])
def test_hostile_data_is_searched_in_the_time_of_its_length(data: str) -> None:
    for text in ("a" * 500, "aa", "n", "\\n" * 100):
        fits(data, text)
