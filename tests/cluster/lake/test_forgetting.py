from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.cluster.lake.rewriting import replace
from redvsblue_telemetry.collector.messages import Message, read_message
from tests.support.lake import (
    NOON,
    STREAM,
    append,
    bytes_of,
    event,
    message,
    stored,
    stored_numbers,
    stored_runs,
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"), clock=lambda: NOON + 5)


def played(session: str, first: int, last: int, **context: Any) -> Message:
    events = [event(session, seq, context=context) for seq in range(first, last + 1)]
    return message(*events)


def report(session: str) -> Message:
    fields = {"sessionId": session, "number": 1, "state": "running"}
    return read_message(json.dumps({"report": fields}))


def test_session_is_forgotten_and_no_file_has_it(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 3, played("anna", 1, 5), played("berta", 1, 3), report("anna"))
    append(lake, claim, 0, 4, read_message(b'[{"sessionId":"anna","seq":"x"}]'))
    append(lake, claim, 0, 5, played("anna", 6, 7))
    for sequence in range(6, 14):
        append(lake, claim, 0, sequence, played("berta", sequence, sequence))
    lake.compact()  # the files that it has replaced have the session, too
    assert b"anna" in bytes_of(lake.url)
    receipt = lake.forget(session="anna")
    assert (receipt.events, receipt.sessions, receipt.rejected) == (7, 1, 1)
    assert (receipt.session, receipt.at) == ("anna", NOON + 5)
    assert b"anna" not in bytes_of(lake.url)
    assert stored_numbers(lake.url) == {"berta": [1, 2, 3, *range(6, 14)]}
    assert set(stored_runs(lake.url)) == {"berta"}
    (rejected,) = stored(lake.url, "rejected")
    assert (rejected["fault"], rejected["data"]) == ("deleted on request", "")
    append(lake, claim, 0, 15, played("berta", 1, 14), played("anna", 1, 7))
    # The loader still knows that these were stored.
    assert stored_numbers(lake.url) == {"berta": [*range(1, 15)]}


def test_session_that_gets_events_meanwhile_keeps_its_numbers(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 1, played("anna", 1, 5))
    late = [played("anna", 6, 7)]

    def replace_late(*arguments: Any) -> None:
        if late:
            append(lake, claim, 0, 2, late.pop())
        replace(*arguments)

    monkeypatch.setattr("redvsblue_telemetry.cluster.lake.forgetting.replace", replace_late)
    receipt = lake.forget(session="anna")
    assert (receipt.events, receipt.sessions) == (5, 0)
    append(lake, lake.claim(STREAM, [0]), 0, 3, played("anna", 1, 7))
    assert stored_numbers(lake.url) == {"anna": [6, 7]}
    receipt = lake.forget(session="anna")
    assert (receipt.events, receipt.sessions) == (2, 1)
    assert b"anna" not in bytes_of(lake.url)


def test_field_of_the_context_is_forgotten_with_the_sessions_that_have_no_other(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 2, played("a", 1, 4, player="p-1", level=2), report("a"))
    append(lake, claim, 0, 4, played("b", 1, 2, player="p-1"), played("b", 3, 4, player="p-2"))
    append(lake, claim, 0, 5, played("c", 1, 2, player="p-11"))
    receipt = lake.forget(context=("player", "p-1"))
    assert (receipt.events, receipt.sessions, receipt.context) == (6, 1, {"player": "p-1"})
    assert stored_numbers(lake.url) == {"b": [3, 4], "c": [1, 2]}
    assert stored(lake.url, "reports") == []
    assert set(stored_runs(lake.url)) == {"b", "c"}
    assert b'"p-1"' not in bytes_of(lake.url)


def test_nothing_found_changes_nothing(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 2, played("a", 1, 4, player="p"), read_message(b'"nobody"'))
    before = stored(lake.url), stored(lake.url, "rejected")
    for wanted in ({"session": "nobody"}, {"context": ("player", "nobody")}):
        receipt = lake.forget(**wanted)  # type: ignore[arg-type]
        assert (receipt.events, receipt.sessions, receipt.rejected) == (0, 0, 0)
    assert (stored(lake.url), stored(lake.url, "rejected")) == before


def test_session_with_nothing_but_a_report_is_forgotten(lake: Lake) -> None:
    append(lake, lake.claim(STREAM, [0]), 0, 1, report("anna"))
    receipt = lake.forget(session="anna")
    assert (receipt.events, receipt.sessions) == (0, 1)
    assert b"anna" not in bytes_of(lake.url)


def test_one_thing_is_forgotten_at_a_time(lake: Lake) -> None:
    for wanted in ({}, {"session": "s", "context": ("a", "b")}):
        with pytest.raises(ValueError, match="either a session or a field"):
            lake.forget(**wanted)  # type: ignore[arg-type]
