"""Comparing events with expected ones, and the lines that say where they differ."""

from __future__ import annotations

import time

import pytest

from redvsblue_telemetry import TelemetryEvent
from redvsblue_telemetry.testing._matching import closest, difference, format_event

HIT = TelemetryEvent("hit", {"by": "red", "damage": 1.5}, timestamp=5, seq=1, session_id="s")
MISS = TelemetryEvent("miss", {}, timestamp=6, seq=2, session_id="s")


@pytest.mark.parametrize(
    ("found", "expected", "lines"),
    [
        ([HIT], ["hit", "miss"], ["event 1: miss is missing", "  hit {*", "- miss"]),
        ([HIT, MISS], ["hit"], ["event 1: miss {} was not expected", "  hit {*", "+ miss {}"]),
        ([], ["hit"], ["event 0: hit is missing", "- hit"]),
        (
            [HIT],
            [("hit",)],
            [
                "event 0: hit: ('hit',) is not a pair of a type and its data",
                "- ('hit',)",
                "+ hit {*",
            ],
        ),
        ([MISS], ["hit"], ["event 0 is miss {}, not hit", "- hit", "+ miss {}"]),
        (
            [HIT],
            [("hit", {"by": "blue", "at": 3})],
            [
                (
                    "event 0: hit: 'by' is 'red', not 'blue'; 'at' is missing, expected 3; "
                    "'damage' is 1.5, which was not expected"
                ),
                "- hit {'by': 'blue', 'at': 3}",
                "+ hit {'by': 'red', 'damage': 1.5}",
            ],
        ),
        (
            [HIT],
            [TelemetryEvent("hit", HIT.data, seq=9)],
            ["event 0: hit: seq is 1, not 9", "- hit {*", "+ hit {*"],
        ),
        (
            [MISS] * 20 + [HIT] + [MISS] * 20,
            ["miss"] * 40,
            [
                "event 20: hit {'by': 'red', 'damage': 1.5} was not expected",
                "  (18 more as expected)",
                "  miss {}",
                "  miss {}",
                "+ hit {*",
                "  miss {}",
                "  miss {}",
                "  (18 more as expected)",
            ],
        ),
        (
            [MISS, TelemetryEvent("hit", {"a": 1, "b": 2}), HIT],
            [("miss", {"x": 1}), ("hit", {"b": 2, "a": pytest.approx(1.0)}), "lost"],
            [
                "event 0: miss: 'x' is missing, expected 1",
                "- miss {'x': 1}",
                "+ miss {}",
                "  hit {'a': 1, 'b': 2}",
                "- lost",
                "+ hit*",
            ],
        ),
        (
            [HIT, MISS, HIT],
            ["miss", "hit", "miss"],
            [
                "event 0: hit {'by': 'red', 'damage': 1.5} was not expected",
                "+ hit*",
                "  miss*",
                "  hit*",
                "- miss",
            ],
        ),
    ],
)
def test_a_difference_begins_with_the_first_event_that_differs(
    found: list[TelemetryEvent], expected: list[object], lines: list[str]
) -> None:
    said = difference(found, expected)
    first, *listed = lines
    assert said[:2] == [first, "(- expected, + found)"]
    pytest.LineMatcher(said[2:]).fnmatch_lines(listed, consecutive=True)
    assert len(said) == len(lines) + 1


def test_events_of_one_type_are_aligned_by_their_data() -> None:
    found = [TelemetryEvent("tick", {"n": n}) for n in range(300) if n != 30]
    expected = [("tick", {"n": n}) for n in range(300) if n != 270]
    assert difference(found, expected) == [
        "event 30: tick {'n': 30} is missing",
        "(- expected, + found)",
        "  (28 more as expected)",
        "  tick {'n': 28}",
        "  tick {'n': 29}",
        "- tick {'n': 30}",
        "  tick {'n': 31}",
        "  tick {'n': 32}",
        "  (235 more as expected)",
        "  tick {'n': 268}",
        "  tick {'n': 269}",
        "+ tick {'n': 270}",
        "  tick {'n': 271}",
        "  tick {'n': 272}",
        "  (27 more as expected)",
    ]


def test_the_difference_of_very_many_events_takes_little_time_and_few_lines() -> None:
    found = [TelemetryEvent("tick", {"n": n}, seq=n) for n in range(20_000)]
    since = time.monotonic()
    said = difference(found, [("tick", {"n": n + 1}) for n in range(20_000)])
    assert time.monotonic() - since < 5
    assert said[0] == "event 0: tick: 'n' is 0, not 1"
    assert len(said) < 300
    assert max(map(len, said)) <= 300


def test_an_event_that_is_missing_is_described_by_the_closest_ones() -> None:
    assert closest([HIT, MISS], ("miss", {"by": "red"})) == [
        "no event matches miss {'by': 'red'}; found 1 of its type:",
        "  miss {}: 'by' is missing, expected 'red'",
    ]
    assert closest([MISS], "hit") == ["no event matches hit; found 1:", "  miss {}"]
    assert closest([], "hit") == ["no event matches hit; found 0:"]


def test_an_event_is_formatted_in_one_line_of_bounded_length() -> None:
    assert format_event(MISS) == "miss {}"
    assert format_event("a\nb") == "a\\u000ab"
    assert format_event(("\x1b[2J", {"by": "\x1b"})) == r"\u001b[2J {'by': '\x1b'}"
    assert format_event("\ud800\u200b r\u00f6d") == "\\ud800\\u200b r\u00f6d"
    assert len(format_event("\x1b" * 1000)) == 300
    assert len(format_event(TelemetryEvent("long", {"text": "x" * 1000}))) == 300
