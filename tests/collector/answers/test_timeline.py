"""One session as a timeline, compared with a slow reference."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from redvsblue_telemetry.collector.answers.timeline import timeline
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.cutoff import Cutoff
from redvsblue_telemetry.collector.storage.database import Database

from .played import Played, database_of

NOW = 1_795_600_000_000
DAY = 86_400_000


def timeline_of(database: Database, session: str = "s", **options: Any) -> dict[str, Any]:
    with database.reading() as connection:
        found = timeline(connection, session, **options)
    assert found is not None
    answer = msgspec.json.decode(msgspec.json.encode(found))
    assert isinstance(answer, dict)
    return answer


@st.composite
def plays(draw: st.DrawFn) -> list[Played]:
    """Return the events of a session, among those of another, by clocks that jump."""
    received, clock, seq, context = NOW, NOW - 400, 0, None
    events = []
    contexts = (None, {"player": "p"}, {"player": "q", "level": 2})
    jumps = (0, 1, 10, 700, 90_000, 5_000_000, -5_000, 2 * DAY, -40 * DAY)
    for _ in range(draw(st.integers(1, 40))):
        received += draw(st.sampled_from((0, 1, 1000, 60_000)))
        clock += draw(st.sampled_from(jumps))
        seq += draw(st.sampled_from((1, 1, 1, 3)))
        if draw(st.booleans()):
            context = draw(st.sampled_from(contexts))
        name = draw(st.sampled_from(("hit", "start", "crash")))
        events.append(Played("s", seq, name, clock, received, context))
        if draw(st.booleans()):
            events.append(Played("other", seq, "hit", clock, received, {"player": "x"}))
    return events


@settings(max_examples=40, deadline=None)
@given(plays())
def test_each_event_is_in_its_step(events: list[Played]) -> None:
    with database_of(events) as database:
        found = timeline_of(database, now=NOW + 10 * DAY)
    mine = [event for event in events if event.session == "s"]
    times = [
        event.timestamp
        if event.received - 30 * DAY <= event.timestamp <= event.received + DAY
        else event.received
        for event in mine
    ]
    start, step, lanes = found["from"], found["step"], found["lanes"]
    steps = (found["to"] - start) // step
    assert start % step == 0
    assert start <= min(times) < start + step
    assert found["to"] - step <= max(times) < found["to"] == start + steps * step
    assert steps <= 200
    assert steps >= 20 or step == 10  # not coarser than it must be
    counted: Counter[tuple[str, int]] = Counter(
        (event.type, (at - start) // step) for event, at in zip(mine, times, strict=True)
    )
    totals = Counter(event.type for event in mine)
    assert [(lane["type"], lane["count"]) for lane in lanes] == sorted(
        totals.items(), key=lambda item: (-item[1], item[0])
    )
    for lane in lanes:
        assert lane["counts"] == [counted[lane["type"], place] for place in range(steps)]
    assert found["session"]["types"] == dict(totals)

    changes, before = [], None
    for event, at in zip(mine, times, strict=True):
        if event.context != before:
            fields = {name: str(value) for name, value in (event.context or {}).items()}
            changes.append({"at": at, "fields": fields})
        before = event.context
    assert found["contexts"] == changes[:100]

    marks = [(at, "crash") for event, at in zip(mine, times, strict=True) if event.type == "crash"]
    at_of = {event.seq: at for event, at in zip(mine, times, strict=True)}
    marks += [(at_of[first - 1], "gap") for first, _ in found["session"]["gaps"] if first > 1]
    marks += [(at_of[last + 1], "gap") for first, last in found["session"]["gaps"] if first == 1]
    marks.append((found["session"]["since"], "end"))
    assert sorted((mark["at"], mark["kind"]) for mark in found["marks"]) == sorted(marks)


def test_marks_say_what_happened() -> None:
    def check(name: str, _: object) -> str | None:
        return "data.damage: must be an integer, not a string" if name == "hit" else None

    gaps = [[2, 4, "overflow"], [5, 5, "expired"]]
    report = {"sessionId": "s", "number": 1, "state": "ended", "reason": "crashed", "lastSeq": 9}
    report |= {"at": NOW + 90, "startedAt": NOW, "gaps": gaps}
    crash = {"exception": "ValueError", "message": "no such ship", "stack": []}
    events = [
        Played("s", 1, "start", NOW, NOW),
        Played("s", 6, "hit", NOW + 60, NOW, data={"damage": "x"}),
        Played("s", 9, "crash", NOW + 80, NOW, data=crash),
        Played("t", 1, "crash", NOW + 80, NOW, data={"exception": 5}),
    ]
    with database_of(events, [json.dumps({"report": report})], check) as database:
        found = timeline_of(database)
        (other,) = timeline_of(database, "t", connected={"t"})["marks"]
    text = "hit: data.damage: must be an integer, not a string"
    assert found["marks"] == [
        {"at": NOW, "kind": "gap", "text": "3 overflow, 1 expired", "arrival": None},
        {"at": NOW + 60, "kind": "fault", "text": text, "arrival": 2},
        {"at": NOW + 60, "kind": "gap", "text": "2 unexplained", "arrival": None},
        {"at": NOW + 80, "kind": "crash", "text": "ValueError: no such ship", "arrival": 3},
        {"at": NOW + 90, "kind": "end", "text": "crashed", "arrival": None},
    ]
    assert (other["kind"], other["text"]) == ("crash", "")
    assert found["session"]["outcome"] == "crashed"


def test_lists_are_bounded() -> None:
    events = [
        Played("s", 2 * seq, f"type-{seq % 60}" if seq % 2 else "crash", NOW + seq, NOW, {"n": seq})
        for seq in range(1, 501)
    ]
    with database_of(events, (), lambda *_: "data: is wrong") as database:
        found = timeline_of(database, now=NOW + DAY)
        with database.reading() as connection:
            session = queries.session(connection, "s", now=NOW + DAY)
    assert len(found["lanes"]) == 31
    kinds = Counter(mark["kind"] for mark in found["marks"])
    assert kinds == {"crash": 99, "gap": 99, "end": 1, "fault": 1}
    newest = [mark["arrival"] for mark in found["marks"] if mark["kind"] == "crash"][-1]
    assert newest == 500
    assert len(found["contexts"]) == 100
    assert session is not None
    assert found["session"] == msgspec.json.decode(msgspec.json.encode(session))


def test_types_beyond_the_most_frequent_share_a_lane() -> None:
    events = [Played("s", seq, f"type-{min(seq, 45)}", NOW, NOW) for seq in range(1, 50)]
    with database_of(events) as database:
        lanes = timeline_of(database)["lanes"]
    assert lanes[0] == {"type": "type-45", "count": 5, "counts": [5]}
    assert lanes[-1] == {"type": "", "count": 5, "counts": [5]}
    assert len(lanes) == 41


def test_a_timeline_whose_time_is_over_covers_the_first_events() -> None:
    events = [Played("s", seq, "hit", NOW + seq, NOW) for seq in range(1, 501)]
    with database_of(events) as database:
        found = timeline_of(database, cutoff=Cutoff(deadline=0.0))
        whole = timeline_of(database)
    assert found["partial"]
    assert found["session"]["partial"]
    assert 0 < found["lanes"][0]["count"] < 500
    assert not whole["partial"]
    assert whole["lanes"][0]["count"] == 500


def test_a_session_without_events_has_an_empty_timeline() -> None:
    report = '{"report": {"sessionId": "s", "number": 1, "state": "running"}}'
    with database_of([Played("t", 1, "hit", NOW, NOW)], [report]) as database:
        found = timeline_of(database)
        with database.reading() as connection:
            assert timeline(connection, "unknown") is None
    assert (found["lanes"], found["contexts"], found["partial"]) == ([], [], False)
    assert found["to"] > found["from"]
