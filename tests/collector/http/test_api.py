"""The API, asked of a real collector while real clients send."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from websockets.sync.client import ClientConnection, connect

from redvsblue_telemetry.collector.client import CollectorClient
from redvsblue_telemetry.collector.models import EventFilter, Loss
from tests.collector.clients import client_of, game
from tests.support import REPOSITORY
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.systems import not_on_windows
from tests.support.wait import wait_until

PAGE = REPOSITORY / "docs" / "collector-api.md"


def event(seq: int, type: str = "tick", session: str = "s", **fields: Any) -> dict[str, Any]:
    whole = {"sessionId": session, "seq": seq, "type": type, "timestamp": 1000 + seq}
    return {**whole, "id": f"{session}-{seq}", "data": {}, **fields}


class Sender:
    """A client that sends any message, and waits until it is stored."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._sent = 0

    def send(self, *events: dict[str, Any]) -> None:
        self.send_text(json.dumps(events))

    def send_text(self, text: str) -> None:
        self._connection.send(text)
        self._sent += 1
        while json.loads(self._connection.recv(timeout=PATIENCE))["ack"] < self._sent:
            pass


@contextlib.contextmanager
def sending_to(collector: RunningCollector) -> Iterator[Sender]:
    with client_of(collector) as connection:
        yield Sender(connection)


@pytest.fixture
def sender(collector: RunningCollector) -> Iterator[Sender]:
    with sending_to(collector) as sender:
        yield sender


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningCollector]:
    """A shared collector, for tests that store nothing and need nothing stored."""
    with collector_running() as running:
        yield running


def ask(collector: RunningCollector, path: str, **parameters: Any) -> Any:
    query = "?" + urlencode(parameters) if parameters else ""
    answer = collector.get(path + query)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    return answer.json()


def refusal(collector: RunningCollector, path: str, method: str = "GET") -> tuple[int, str]:
    answer = collector.request(method, path)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json().keys() == {"error"}
    return answer.status, answer.json()["error"]


def seqs(answer: Any) -> list[int]:
    return [event["seq"] for event in answer["events"]]


# Events.


def test_event_of_a_game_is_there_as_soon_as_it_is_confirmed(collector: RunningCollector) -> None:
    with game(collector, version="1.4") as telemetry:
        telemetry.emit("ship_destroyed", shipId="red-3", by="Zoë")
        assert telemetry.flush(PATIENCE)
        answer = ask(collector, "/api/events")

    (found,) = answer["events"]
    assert answer["next"] == found["arrival"] == 1
    assert found["sessionId"] == telemetry.session_id
    assert (found["type"], found["seq"], found["version"]) == ("ship_destroyed", 1, "1.4")
    assert found["data"] == {"shipId": "red-3", "by": "Zoë"}
    assert abs(found["received"] - found["timestamp"]) < 60_000
    assert found["id"]


def test_who_pages_while_events_come_gets_each_exactly_once(collector: RunningCollector) -> None:
    total = 6000
    with game(collector, capacity=total) as telemetry:
        has_begun = threading.Event()

        def play() -> None:
            for number in range(total):
                if number == total // 2:
                    assert has_begun.wait(PATIENCE)
                telemetry.emit("tick", number=number)
                if number % 50 == 0:
                    time.sleep(0.002)  # a frame

        player = threading.Thread(target=play)
        player.start()
        seen: list[dict[str, Any]] = []
        after, deadline = 0, time.monotonic() + PATIENCE
        while len(seen) < total and time.monotonic() < deadline:
            answer = ask(collector, "/api/events", after=after, limit=37)
            seen += answer["events"]
            if seen:
                has_begun.set()
            after = answer["next"]
        player.join()
        assert telemetry.flush(PATIENCE)

    assert [event["seq"] for event in seen] == list(range(1, total + 1))
    assert [event["data"]["number"] for event in seen] == list(range(total))
    assert ask(collector, "/api/events", after=after) == {"events": [], "next": after}


def test_pages_backwards_while_events_come(collector: RunningCollector, sender: Sender) -> None:
    sender.send(*(event(seq) for seq in range(1, 101)))
    seen, before = [], {}
    for extra in range(101, 140):
        answer = ask(collector, "/api/events", order="desc", limit=7, **before)
        seen += seqs(answer)
        if not answer["events"]:
            break
        before = {"before": answer["next"]}
        sender.send(event(extra))
    assert seen == list(range(100, 0, -1))
    assert answer["next"] == 1


def test_filters_are_taken_together(collector: RunningCollector, sender: Sender) -> None:
    sender.send(
        event(1, "hit", "a/b", data={"by": "Red-3"}),
        event(2, "hit", "a/b", data={"by": "blue-1"}),
        event(3, "miss & more", "a/b", data={"by": "red-3"}),
        event(4, "hit", "other", data={"by": "red-3"}),
    )
    assert seqs(ask(collector, "/api/events", type="hit")) == [1, 2, 4]
    assert seqs(ask(collector, "/api/events", type="miss & more")) == [3]
    assert seqs(ask(collector, "/api/events", session="a/b", text="rEd")) == [1, 3]
    assert seqs(ask(collector, "/api/events", session="a/b", text="red", type="hit")) == [1]
    assert seqs(ask(collector, "/api/events", type="", session="", text="")) == [1, 2, 3, 4]
    assert ask(collector, "/api/events", type="none", after=3) == {"events": [], "next": 3}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "limit is 0"),
        ("limit=1001", "1 to 1000"),
        ("limit=", "limit must be a whole number, not ''"),
        ("limit=-1", "'-1'"),
        ("after=1.5", "after must be a whole number, not '1.5'"),
        ("after=" + "9" * 5000, "after must be a whole number"),
        ("before=%D9%A1", "before must be a whole number"),
        ("order=up", "order is 'up'"),
        ("sesion=x", "unknown parameter 'sesion'"),
        ("type=a&type=b", "type is given more than once"),
        ("text=" + "x" * 1001, "text has 1001 characters"),
    ],
)
def test_invalid_request_gets_a_reason(shared: RunningCollector, query: str, words: str) -> None:
    status, message = refusal(shared, f"/api/events?{query}")
    assert status == 400
    assert words in message
    assert len(message) < 300


# Sessions.


def test_sessions_show_who_is_connected(collector: RunningCollector) -> None:
    with sending_to(collector) as here, sending_to(collector) as leaving:
        leaving.send(event(1, session="gone", version="0.9"))
        here.send(event(1, session="here"), event(4, session="here"), event(4, session="here"))

        def is_connected() -> dict[str, bool]:
            found = ask(collector, "/api/sessions")["sessions"]
            return {session["sessionId"]: session["connected"] for session in found}

        assert is_connected() == {"here": True, "gone": True}
        leaving._connection.close()
        assert wait_until(lambda: not is_connected()["gone"], PATIENCE)

        first, second = ask(collector, "/api/sessions")["sessions"]
        assert (second["sessionId"], second["version"], second["connected"]) == (
            "gone",
            "0.9",
            False,
        )
        counts = [first[name] for name in ("events", "repeats", "missing", "highest")]
        assert counts == [2, 1, 2, 4]
        assert (first["firstTimestamp"], first["lastTimestamp"]) == (1001, 1004)
        assert ask(collector, "/api/sessions", limit=1, offset=1)["sessions"] == [second]

        whole = ask(collector, "/api/sessions/here")
        assert whole == {
            **first,
            "gaps": [[2, 3]],
            "types": {"tick": 2},
            "losses": [{"first": 2, "last": 3, "cause": "unexplained"}],
            "report": None,
            "partial": False,
        }


@pytest.mark.parametrize(
    "session_id",
    [
        "a/b",
        "/",
        "a%2Fb",
        "?limit=1#x",
        "line\nand\n",
        "nul\0nul",
        "Zoë 😀",
        "' OR 1=1 --",
        "<script>alert(1)</script>",
        "..%2F..",
        "x" * 200,
    ],
    ids=range(11),
)
def test_session_is_found_by_any_id(shared: RunningCollector, session_id: str) -> None:
    with sending_to(shared) as sender:
        sender.send(event(1, session=session_id), event(1, session="decoy"))
    found = ask(shared, f"/api/sessions/{quote(session_id, safe='')}")
    assert (found["sessionId"], found["events"]) == (session_id, 1)
    events = ask(shared, "/api/events", session=session_id)["events"]
    assert [event["sessionId"] for event in events] == [session_id]


@pytest.mark.parametrize("path", ["", "none", "none%0A", "%00", "%FF%FE", "x" * 20_000, "a/b/c"])
def test_session_that_is_not_there_is_not_found(shared: RunningCollector, path: str) -> None:
    status, message = refusal(shared, f"/api/sessions/{path}")
    assert (status, message[:19]) == (404, "session not found: ")
    assert len(message) < 200


# What was rejected, and totals.


def test_rejected_messages_are_listed(collector: RunningCollector, sender: Sender) -> None:
    sender.send_text("nonsense <script>")
    sender.send(event(1), {"type": "lonely"})

    answer = ask(collector, "/api/rejected")
    assert [part["text"] for part in answer["rejected"]] == [
        '{"type": "lonely"}',
        "nonsense <script>",
    ]
    assert all(part["reason"] for part in answer["rejected"])
    assert answer["next"] == 1
    assert ask(collector, "/api/rejected", order="asc", limit=1)["next"] == 1
    (newer,) = ask(collector, "/api/rejected", after=1)["rejected"]
    assert newer == answer["rejected"][0]
    assert seqs(ask(collector, "/api/events")) == [1]


ENDS = ("well", "switched_off", "crashed", "killed", "no_word")


def test_stats_are_those_of_everything(collector: RunningCollector, sender: Sender) -> None:
    sender.send(event(1), event(3, "hit"), event(3), {"type": "lonely"})
    stats = ask(collector, "/api/stats")
    assert stats.pop("storage")["usedBytes"] > 0
    assert stats == {
        "events": 2,
        "sessions": 1,
        "repeats": 1,
        "missing": 1,
        "rejected": 1,
        "types": {"hit": 1, "tick": 1},
        "outcomes": {"running": 1, **dict.fromkeys(ENDS, 0)},
        "sampled": {},
        "lost": {},
        "waiting": 0,
        "faults": 0,
        "implausibleSessions": 0,
        "implausibleMissing": 0,
        "connections": 1,
        "lastError": None,
    }


# Contexts, versions, crashes and frames.


def test_events_are_filtered_by_fields_of_their_context(
    collector: RunningCollector, sender: Sender
) -> None:
    sender.send(
        event(1, context={"player": "p-17", "level": 3}),
        event(2, context={"player": "p-17", "level": 4}),
        event(3, context={"player": "a=b&c"}),
        event(4),
    )

    def asked(*context: str, **more: str) -> list[int]:
        pairs = [("context", each) for each in context]
        query = urlencode([*pairs, *more.items()])
        answer = collector.get(f"/api/events?{query}")
        assert answer.status == 200, answer.body
        return seqs(answer.json())

    assert asked("player=p-17") == [1, 2]
    assert asked("player=p-17", "level=4") == asked("level=4", "level=4") == [2]
    assert asked("player=a=b&c") == [3]
    assert asked("player=p-17", type="hit") == asked("player=") == []
    found = ask(collector, "/api/events")["events"]
    assert found[0]["context"] == {"player": "p-17", "level": 3}
    assert "context" not in found[3]
    as_text = ask(collector, "/api/events", data="text")["events"]
    assert as_text[0]["context"] == '{"player": "p-17", "level": 3}'
    assert "context" not in as_text[3]
    with contextlib.closing(CollectorClient(collector.http_url)) as client:
        wanted = EventFilter(context={"player": "p-17", "level": "3"})
        (same,) = client.events(wanted)
        assert same == client.newest(wanted)
        assert (same.seq, json.loads(bytes(same.context or b""))) == (1, found[0]["context"])
        assert [each.seq for each in client.iter_events(EventFilter(context={}))] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("context=player", "context is 'player'; it must be name=value"),
        ("context==p", "context is '=p'; it must be name=value"),
        ("context=a%3D1&context=a%3D2", "context has two values for 'a'"),
        ("context=a%3D" + "x" * 1001, "a value of 1001 characters; the maximum is 1000"),
    ],
)
def test_context_that_cannot_be_meant_is_refused(
    shared: RunningCollector, query: str, message: str
) -> None:
    for path in ("/api/events", "/api/live"):
        status, said = refusal(shared, f"{path}?{query}")
        assert (status, message in said) == (400, True), said


def test_outcomes_crashes_and_frames_are_those_of_the_database(
    collector: RunningCollector, sender: Sender
) -> None:
    ended = {"sessionId": "s", "number": 1, "state": "ended", "reason": "crashed", "version": "1"}
    ended |= {"lastSeq": 3, "gaps": [[2, 2, "overflow"]], "sampled": {"spark": 5}}
    intervals = {"seconds": 10, "frames": 600, "p50Ms": 16, "p95Ms": 17, "p99Ms": 20, "maxMs": 40}
    crash = {"exception": "KeyError", "message": "'red'", "stack": ["a.py:1 in f"], "thread": "t"}
    sender.send(
        event(1, "frames", version="1", data=intervals | {"hitches": 2}),
        event(3, "crash", version="1", data=crash),
        event(1, session="t", version="2"),
    )
    sender.send_text(json.dumps({"report": ended}))

    session = ask(collector, "/api/sessions/s")
    assert (session["outcome"], session["lost"], session["crashes"]) == (
        "crashed",
        {"overflow": 1},
        1,
    )
    assert session["report"] == ended | {
        "startedAt": 0, "at": 0, "emitted": 0, "delivered": 0, "buffered": 0, "rejected": 0,
        "dropped": {}, "reconnects": 0, "sdk": "",
    }  # fmt: skip
    stats = ask(collector, "/api/stats")
    assert (stats["lost"], stats["sampled"]) == ({"overflow": 1}, {"spark": 5})
    assert stats["outcomes"] == {**dict.fromkeys(ENDS, 0), "running": 1, "crashed": 1}

    versions = {each["version"]: each for each in ask(collector, "/api/versions")["versions"]}
    assert versions["1"]["crashFree"] == 0.0
    assert versions["2"]["running"] == 1
    (group,) = ask(collector, "/api/crashes", version="1")["crashes"]
    assert (group["exception"], group["place"], group["count"]) == ("KeyError", "a.py:1 in f", 1)
    assert group["newest"]["data"] == crash
    (as_text,) = ask(collector, "/api/crashes", data="text")["crashes"]
    assert json.loads(as_text["newest"]["data"]) == crash
    (summary,) = ask(collector, "/api/frames")["frames"]
    assert (summary["version"], summary["p99"], summary["hitches"]) == ("1", 20.0, 2)
    for path in ("crashes", "frames"):
        assert ask(collector, f"/api/{path}", version="2")[path] == []
    assert ask(collector, "/api/versions", limit=1)["versions"][0] in versions.values()

    with contextlib.closing(CollectorClient(collector.http_url)) as client:
        assert client.session("s").losses == [Loss(2, 2, "overflow")]
        assert {each.version: each.crashed for each in client.versions()} == {"1": 1, "2": 0}
        assert [each.message for each in client.crashes(version="1", limit=5)] == ["'red'"]
        assert [each.frames for each in client.frames(version="1")] == [600]
        assert client.frames(version="2") == []


@pytest.mark.parametrize("path", ["versions", "crashes", "faults", "frames"])
def test_summaries_of_nothing_are_empty_and_refuse_what_they_do_not_know(
    shared: RunningCollector, path: str
) -> None:
    with collector_running() as empty:
        assert ask(empty, f"/api/{path}") == {path: []}
    assert refusal(shared, f"/api/{path}?limit=0")[0] == 400
    assert refusal(shared, f"/api/{path}?type=hit")[0] == 400


# Deleting.


def test_nothing_is_deleted_unless_that_was_allowed(
    collector: RunningCollector, sender: Sender
) -> None:
    sender.send(event(1))
    status, message = refusal(collector, "/api/events", "DELETE")
    assert status == 403
    assert "--allow-reset" in message
    assert seqs(ask(collector, "/api/events")) == [1]


def test_what_is_sent_after_all_was_deleted_is_stored() -> None:
    with collector_running(allow_reset=True) as collector, game(collector) as telemetry:
        for _ in range(3):
            telemetry.emit("before")
        assert telemetry.flush(PATIENCE)
        cursor = ask(collector, "/api/events")["next"]
        assert cursor == 3

        answer = collector.request("DELETE", "/api/events")
        assert (answer.status, answer.body) == (204, b"")
        assert ask(collector, "/api/events") == {"events": [], "next": 0}
        assert ask(collector, "/api/sessions") == {"sessions": []}
        stats = ask(collector, "/api/stats")
        assert (stats["events"], stats["sessions"], stats["types"]) == (0, 0, {})

        telemetry.emit("after")
        assert telemetry.flush(PATIENCE)
        (found,) = ask(collector, "/api/events", after=cursor)["events"]
        assert (found["type"], found["seq"], found["arrival"]) == ("after", 4, 4)


def test_deleting_takes_no_filter() -> None:
    with collector_running(allow_reset=True) as collector, sending_to(collector) as sender:
        sender.send(event(1, session="a"), event(1, session="b"))
        status, message = refusal(collector, "/api/events?session=a", "DELETE")
        assert (status, message[:17]) == (400, "unknown parameter")
        assert len(ask(collector, "/api/events")["events"]) == 2


# Reading and writing at once.


def fill(collector: RunningCollector, path: Path, events: int) -> None:
    """Many events, written by hand."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO events (session, seq, type, timestamp, received, id, data) "
            "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            """SELECT 1, i, 1, i, i, '', '{"ship":"red-' || printf('%0150d', i) || '"}' FROM n""",
            (events,),
        )


@pytest.mark.slow
def test_ingest_goes_on_while_slow_questions_are_answered(
    collector: RunningCollector, sender: Sender, tmp_path: Path
) -> None:
    sender.send(event(1))
    fill(collector, tmp_path / "telemetry.sqlite3", 200_000)
    path = "/api/events?" + urlencode({"text": 'nowhere "é"'})
    stored = 0
    with ThreadPoolExecutor(8) as pool:
        questions = [pool.submit(collector.get, path) for _ in range(8)]
        while not any(question.done() for question in questions):
            sender.send(event(stored + 1, session="other"))
            stored += 1
            # Nor does anything else wait that needs no reading.
            assert collector.get("/healthz").status == 200
    assert all(question.result().json()["events"] == [] for question in questions)
    assert stored >= 5
    assert ask(collector, "/api/sessions/other")["events"] == stored


def test_answers_are_whole_while_much_is_written_and_deleted() -> None:
    with collector_running(allow_reset=True) as collector, ThreadPoolExecutor(4) as pool:
        is_over = threading.Event()

        def look_on() -> int:
            rounds = 0
            while not is_over.is_set():
                for path in ("/api/events?text=x&limit=9", "/api/sessions", "/api/sessions/s",
                             "/api/stats", "/api/rejected"):  # fmt: skip
                    answer = collector.get(path)
                    assert answer.status in (200, 404), answer.body
                    answer.json()
                rounds += 1
            return rounds

        onlookers = [pool.submit(look_on) for _ in range(3)]
        try:
            with sending_to(collector) as sender:
                for turn in range(40):
                    sender.send(*(event(turn * 50 + n, data={"t": "x" * 50}) for n in range(50)))
                    if turn % 10 == 9:
                        assert collector.request("DELETE", "/api/events").status == 204
        finally:
            is_over.set()
        assert all(onlooker.result(PATIENCE) for onlooker in onlookers)


# What is not there.


@pytest.mark.parametrize("path", ["/api/", "/api/nothing", "/api/events/", "/api/%00", "/api/..."])
def test_unknown_path_of_the_api_gets_a_json_error(shared: RunningCollector, path: str) -> None:
    status, message = refusal(shared, path)
    assert (status, message[:12]) == (404, "not found: /")


def test_other_unknown_path_gets_a_plain_text_error(shared: RunningCollector) -> None:
    answer = shared.get("/nothing%0A<script>")
    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/api/events", "/api/sessions", "/api/stats", "/api/live"])
def test_head_is_answered_as_get_without_a_body(shared: RunningCollector, path: str) -> None:
    answer = shared.request("HEAD", path)
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/api/events", {"GET", "HEAD", "DELETE"}), ("/api/stats", {"GET", "HEAD"})],
)
@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PUT", "TRACE"])
def test_other_methods_learn_which_are_allowed(
    shared: RunningCollector, method: str, path: str, allowed: set[str]
) -> None:
    answer = shared.request(method, path)
    assert answer.status == 405
    assert set(answer.headers["Allow"].split(", ")) == allowed
    assert answer.json()["error"] == f"method {method} not allowed for {path}"


def test_database_that_is_gone_is_told(collector: RunningCollector, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "telemetry.sqlite3")) as connection:
        connection.execute("ALTER TABLE types RENAME TO others")
    status, message = refusal(collector, "/api/stats")
    assert status == 503
    assert "cannot read the database: no such table: types" in message


def test_collector_is_healthy_until_it_can_not_store(
    collector: RunningCollector, tmp_path: Path
) -> None:
    assert collector.get("/healthz").body == b"ok\n"
    with contextlib.closing(sqlite3.connect(tmp_path / "telemetry.sqlite3")) as connection:
        connection.execute("ALTER TABLE types RENAME TO others")
        with connect(collector.url, proxy=None) as client:
            client.send(json.dumps([event(1)]))
            assert wait_until(lambda: collector.get("/healthz").status == 503, PATIENCE)
        connection.execute("ALTER TABLE others RENAME TO types")
    assert collector.get("/healthz").body == b"events can't be stored\n"
    assert "no such table" in ask(collector, "/api/stats")["lastError"]
    with sending_to(collector) as sender:
        sender.send(event(1))
    assert collector.get("/healthz").status == 200
    assert ask(collector, "/api/stats")["lastError"] is None


# The page on the API.


def documented() -> list[tuple[str, str]]:
    """The commands of the page, each with the answer that follows it; "" if none does."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    blocks.append(("", ""))
    return [
        (text.strip(), blocks[at + 1][1] if blocks[at + 1][0] == "json" else "")
        for at, (language, text) in enumerate(blocks)
        if language == "sh" and "curl" in text
    ]


VARYING = ("data", "seconds")


def shape(value: Any) -> Any:
    """An answer without the fields that differ from one to the next.

    Whether a second was over by then, for one.
    """
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items() if name not in VARYING}
    if isinstance(value, list):
        return [shape(part) for part in value[:1]]
    return type(value).__name__


def output(command: str) -> str:
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_update(command: str) -> str:
    """Return the first update of a stream that has no end."""
    with subprocess.Popen(
        ["sh", "-c", f"exec {command}"], stdout=subprocess.PIPE, text=True
    ) as stream:
        try:
            assert stream.stdout is not None
            return next(line[6:] for line in stream.stdout if line.startswith("data: "))
        finally:
            stream.kill()


@not_on_windows("its shell and its curl take other quotes")
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_commands_of_the_page_answer_as_it_says() -> None:
    session = re.findall(r'"sessionId":"(\w+)"', PAGE.read_text("utf-8"))[0]
    with collector_running(allow_reset=True) as collector, sending_to(collector) as sender:
        sender.send(
            event(1, "ship_hit", session, version="1.4.2", data={"damage": 12, "shipId": "red-3"}),
            event(5, "ship_destroyed", session, version="1.4.2", data={"shipId": "red-3"}),
            {"type": "lonely"},
        )
        commands = documented()
        assert len(commands) >= 9
        for command, answer in commands:
            local = command.replace("http://localhost:3000/", collector.http_url)
            assert local != command
            if "/api/answers/" in command:
                sender.send(event(1, "ship_hit", "p", context={"player": "p-17"}))
            if "DELETE" in command and "player=p-17" in command:
                sender.send(event(1, session="p", context={"player": "p-17"}))
            printed = first_update(local) if "/api/live" in command else output(local)
            if answer:
                assert shape(json.loads(printed)) == shape(json.loads(answer)), command
            assert '"error"' not in printed, command
