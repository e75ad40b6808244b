"""A view of a lake answers the API as a collector does that has stored the same messages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from redvsblue_telemetry.collector.models import MAX_PAGE_SIZE
from tests.cluster.lake.strategies import Both, Group, stored
from tests.support.collector import RunningCollector, collector_running
from tests.support.view import RunningView, view_running

MINUTE = 60_000
# Some minutes before the last events, so that no count has been rolled up, and no session runs.
BEGIN = time.time_ns() // 1_000_000 - 40_000_000 - 800_000


def event(session: str, seq: int, type: str = "hit", data: str = "{}", **fields: Any) -> str:
    text = json.dumps(
        {
            "id": f"{session}-run-{seq}",
            "sessionId": session,
            "seq": seq,
            "type": type,
            "timestamp": BEGIN + seq,
            **fields,
        }
    )
    return f'{text[:-1]},"data":{data}}}'


def report(session: str, number: int, last: int, **fields: Any) -> str:
    known = {
        "sessionId": session,
        "number": number,
        "state": "ended",
        "startedAt": BEGIN - 100,
        "at": BEGIN + 5000,
        "lastSeq": last,
        "emitted": last,
        "delivered": last,
        "buffered": 0,
        "rejected": 0,
        "dropped": {},
        "gaps": [],
        **fields,
    }
    return json.dumps({"report": known})


def lines(*events: str) -> str:
    return "\n".join(events)


def crash(message: str, place: str) -> str:
    return json.dumps({"exception": "ValueError", "message": message, "stack": ["main", place]})


def frames(p50: float, count: int) -> str:
    return json.dumps(
        {
            "seconds": 30.5,
            "frames": count,
            "p50Ms": p50,
            "p95Ms": p50 * 2,
            "p99Ms": p50 * 3,
            "maxMs": p50 * 9,
            "hitches": 2,
        }
    )


PLAYER = {"player": "p-1", "level": 3}
GROUPS = [
    Group(
        1000,
        [
            lines(
                *(event("red", n, data=f'{{"damage":{n},"by":"läser"}}') for n in range(1, 6)),
                event("red", 6, "crash", crash("first", "a.py:1"), version="1.0", context=PLAYER),
            ),
            "not an event",
        ],
        is_last=True,
    ),
    Group(
        MINUTE,
        [
            lines(
                *(event("blue", n, version="1.1", context=PLAYER) for n in (1, 2, 5, 9)),
                event("blue", 10, "frames", frames(16.5, 1800), version="1.1"),
                event("blue", 11, "crash", crash("second", "a.py:1"), version="1.1"),
            ),
            lines(event("red", 7, "frames", frames(8.0, 900), version="1.0"), '{"seq":"no"}'),
        ],
        is_last=False,
    ),
    Group(
        90_000,
        [
            lines(event("blue", 1, version="1.1"), event("blue", 12, data='{"text":"damage 7"}')),
            report("blue", 1, 15, gaps=[[3, 4, "overflow"]], dropped={"overflow": 2}),
            report("red", 1, 7, reason="crashed", sampled={"bullet": 900, "step": 12}),
        ],
        is_last=True,
    ),
    Group(
        40_000_000,
        [
            lines(
                *(event("green", n, f"type-{n}", version="2.0") for n in range(1, 12)),
                *(event("green", n, data='{"damage":"none"}', version="2.0") for n in (14, 15)),
            ),
            report("only", 2, 4, state="running", delivered=0, buffered=4, version="2.0"),
            report("off", 2, 0, reason="switched_off"),
        ],
        is_last=True,
    ),
]


class Servers(NamedTuple):
    collector: RunningCollector
    view: RunningView
    both: Both


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with (
        stored(GROUPS, BEGIN) as both,
        collector_running(db=both.path) as collector,
        view_running(both.lake) as view,
    ):
        yield Servers(collector, view, both)


def arrivals(server: RunningCollector) -> list[int]:
    page = server.get(f"/api/events?limit={MAX_PAGE_SIZE}").json()
    return [each["arrival"] for each in page["events"]]


def with_places(found: Any, places: dict[int, int]) -> Any:
    """Return an answer with the places of events in place of their arrivals."""
    if isinstance(found, list):
        return [with_places(each, places) for each in found]
    if not isinstance(found, dict):
        return found
    return {
        name: places.get(value, value)
        if name in ("arrival", "next")
        else with_places(value, places)
        for name, value in found.items()
    }


def answer(server: RunningCollector, path: str) -> Any:
    """Return the answer for a path, in which ``{n}`` is the arrival of the event at place n."""
    known = arrivals(server)
    times = {name: BEGIN + after for name, after in TIMES.items()}
    got = server.get(path.format(*known, **times))
    places = {arrival: place for place, arrival in enumerate(known)}
    return got.status, with_places(got.json(), places)


# Times in milliseconds after the beginning.
TIMES = {
    "begin": 0,
    "first": 1000,
    "after_first": 1001,
    "second": 61_000,
    "after_second": 61_001,
    "third": 151_000,
    "after_third": 151_001,
    "quiet": 500_000,
    "later": 600_000,
    "end": 10**8,
}
RANGES = [
    "",
    "from={begin}",
    "to={second}",
    "from={first}&to={after_second}",
    "from={after_first}&to={third}",
    "from={third}&to={after_third}",
    "from={quiet}&to={later}",
    "from={second}&to={end}",
]
FILTERS = [
    "",
    "type=hit",
    "type=unknown",
    "session=red",
    "session=nobody",
    "text=damage",
    "text=*amag",
    "text=l%C3%A4ser",
    "context=player=p-1",
    "context=player=p-1&context=level=3&type=crash",
    "context=player=p-2",
    "fault=any",
    "fault=none&session=green",
    "fault=hit",
    "version=1",
]
PAGES = [
    "",
    "limit=3",
    "limit=3&order=desc",
    "after={4}&limit=5",
    "before={9}&limit=5",
    "before={9}&limit=5&order=desc",
    "after={3}&before={7}",
    "after={5}&order=desc",
    "before={0}&order=desc",
    "limit=0",
]


def joined(path: str, *parts: str) -> str:
    query = "&".join(filter(None, parts))
    return f"{path}{'&' if '?' in path else '?'}{query}" if query else path


QUESTIONS = [
    "/api/answers/field?type=hit&field=damage",
    "/api/answers/field?type=hit&field=data.damage&by=data.by&limit=1&offset=330",
    "/api/answers/field?type=frames&field=p95Ms&by=version&version=1.1",
    "/api/answers/field?type=crash&field=message&by=context.player",
    "/api/answers/values?type=hit&field=data.by",
    "/api/answers/values?type=hit&field=damage&where=data.by=l%C3%A4ser&limit=2",
    "/api/answers/values?type=hit&field=outcome&context=player=p-1",
    "/api/answers/values?type=hit&field=session",
    "/api/answers/values?type=crash&field=context.player",
    "/api/answers/funnel?step=hit&step=crash",
    "/api/answers/funnel?step=hit&step=frames&step=crash&version=1.1",
    "/api/answers/funnel?step=hit&step=crash&per=context.player",
    "/api/answers/retention?field=context.player&days=1,2",
    "/api/answers/retention?field=context.player&offset=-90&context=level=3",
    "/api/answers/retention?field=player",
]
SESSIONS = ("red", "blue", "green", "only", "off", "nobody")
PATHS = [
    *(joined("/api/events", each, page) for each in FILTERS for page in PAGES[:3]),
    *(joined("/api/events", page, "data=text") for page in PAGES),
    *(joined("/api/events", each, "order=desc") for each in RANGES),
    *(
        joined(path, each)
        for each in RANGES
        for path in (
            "/api/sessions",
            "/api/versions",
            "/api/crashes",
            "/api/faults",
            "/api/frames",
            "/api/stats",
            "/api/history",
            "/api/rejected",
        )
    ),
    *(joined(path, each) for path in QUESTIONS for each in (*RANGES[:1], *RANGES[3:5])),
    *(f"/api/sessions/{name}" for name in SESSIONS),
    *(f"/api/answers/timeline?session={name}" for name in SESSIONS),
    "/api/fields",
    *(f"/api/fields?type={name}" for name in ("hit", "crash", "type-7", "unknown")),
    "/api/answers/compare?version=1.0&version=1.1&version=2.0&version=3.0",
    "/api/answers/compare?version=1.0&version=1.1&type=hit&field=damage&from={first}&to={second}",
    "/api/answers/compare?version=1.0&type=hit&field=none",
    "/api/answers/values?type=unknown&field=damage",
    "/api/answers/values?type=hit&field=none",
    "/api/answers/values?type=hit",
    "/api/answers/funnel?step=hit",
    "/api/answers/none",
    "/api/sessions?limit=2&offset=1",
    "/api/versions?limit=1",
    *(f"/api/{path}?version=1.1" for path in ("crashes", "faults", "frames")),
    *(f"/api/{path}?limit=1" for path in ("crashes", "faults", "frames", "rejected")),
    "/api/crashes?data=text",
    "/api/rejected?order=asc&limit=1",
    "/api/history?type=hit",
    "/api/history?version=1.1&offset=330",
    "/api/history?unknown=1",
    "/api/events/none",
    "/healthz",
]


@pytest.mark.parametrize("path", PATHS)
def test_answers_are_the_same(servers: Servers, path: str) -> None:
    if path == "/healthz":
        assert [each.get(path).body for each in servers[:2]] == [b"ok\n", b"ok\n"]
        return
    expected, found = (answer(each, path) for each in (servers.collector, servers.view))
    for _, body in (expected, found):
        for name in ("storage", "connections"):
            body.pop(name, None)
        for each in body.get("rejected", ()) if "/api/rejected" in path else ():
            each["arrival"] = 0  # in a lake, all that arrives has numbers of one kind
        if "/api/rejected" in path:
            body.pop("next", None)
    assert found == expected


def test_pages_lead_to_each_event_once_in_both_directions(servers: Servers) -> None:
    known = arrivals(servers.view)
    assert known == sorted({*known})
    forth, after = list[int](), 0
    while page := servers.view.get(f"/api/events?limit=4&after={after}").json()["events"]:
        forth += [each["arrival"] for each in page]
        after = forth[-1]
    assert forth == known
    back, before = list[int](), known[-1] + 1
    path = "/api/events?limit=4&order=desc&before="
    while page := servers.view.get(f"{path}{before}").json()["events"]:
        back += [each["arrival"] for each in page]
        before = back[-1]
    assert back == known[::-1]


def test_sql_is_answered(servers: Servers) -> None:
    path = "/api/query?sql=SELECT+type,count(*)+FROM+events+GROUP+BY+type+ORDER+BY+1"
    expected, found = (each.get(path).json() for each in servers[:2])
    assert found["rows"] == expected["rows"] != []
    denied = servers.view.get("/api/query?sql=SELECT+*+FROM+read_text('/etc/hostname')")
    assert denied.status == 400


def test_a_view_deletes_nothing(servers: Servers) -> None:
    for path in ("/api/events", "/api/sessions/red", "/api/sessions?context=player=p-1"):
        refused = servers.view.request("DELETE", path)
        assert refused.status == 403
        assert "only reads" in refused.json()["error"]
    assert servers.view.get("/api/sessions/red").headers["Allow"] == "GET, HEAD"


def test_a_view_takes_no_events(servers: Servers) -> None:
    assert servers.view.get("/telemetry").status == 404


def test_metrics_are_those_of_the_lake(servers: Servers) -> None:
    text = servers.view.get("/metrics").body.decode()
    assert 'telemetry_sessions{outcome="crashed"} 1.0' in text
    assert "telemetry_lake_readable 1.0" in text
