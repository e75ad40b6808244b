"""Games that are killed at random moments lose no event, and a test of each check of that."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kills
from benchmarks.harness import report_lines
from benchmarks.kills import Life, Report
from benchmarks.kills_game import PHASE, STATE, STATES, Phase
from benchmarks.notes import SLOTS, Notes
from redvsblue_telemetry import ConnectionState
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.testing import RecordingServer
from tests.support.fault_proxy import FaultProxy
from tests.support.systems import needs_fork


@needs_fork
@pytest.mark.slow
@pytest.mark.timeout(240)  # it takes 10 s, if the machine has nothing else to do
def test_thirty_kills_lose_nothing() -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    report = kills.run(kills=30, seed=seed, games=3)
    assert report.problems == [], f"seed {seed}"
    assert report.kills == 30
    assert set(report.by_kind) == set(kills.KINDS)
    assert (report.lost, report.twice, report.disordered, report.changed) == (0, 0, 0, 0)
    assert report.stored == report.returned + report.stored_without_return > 3_000
    assert report.recovered + report.last_recovered > 0
    assert report.children > 0


@needs_fork
def test_without_a_journal_the_losses_are_found() -> None:
    report = kills.run(kills=8, seed=1, has_journal=False)
    assert report.lost > 0
    assert any(problem.startswith("LOST: ") for problem in report.problems)
    *_, evidence = report.problems
    work = Path(evidence.removeprefix("the evidence is in "))
    assert len(json.loads((work / "lives.json").read_text())) == 8
    assert (work / "collector.sqlite3").exists()
    shutil.rmtree(work)
    assert "PROBLEM: LOST: " in "\n".join(report_lines(asdict(report)))


class SlammingServer(RecordingServer):
    """Closes the connection, without an ack, at the first last report of each of some sessions."""

    def __init__(self, slams: int) -> None:
        super().__init__()
        self._slams = slams
        self._slammed: set[str] = set()

    def _keep(self, message: str | bytes, *others: Any) -> None:
        if '"state":"ended"' in str(message) and len(self._slammed) < self._slams:
            session_id = json.loads(message)["report"]["sessionId"]
            if session_id not in self._slammed:
                self._slammed.add(session_id)
                raise self._closed_errors(None, None)
        super()._keep(message, *others)


@needs_fork
@pytest.mark.parametrize(
    ("slams", "problems"), [(2, 0), (1 + kills._MORE_LAST_GAMES, 1)], ids=["a few", "each"]
)
def test_a_last_game_whose_own_report_is_left_is_followed_by_another(
    slams: int, problems: int, tmp_path: Path
) -> None:
    report = Report(seed=0)
    # The games' notes have its name, and lie where those of other tests do.
    work = Path(tempfile.mkdtemp(dir=tmp_path))
    (work / "journal").mkdir()
    with SlammingServer(slams) as server, FaultProxy(server.port) as proxy:
        referee = kills.Referee(report, work, proxy.url, proxy)
        referee.finish(referee.journal)
        ended = [each["sessionId"] for each in server.reports if each["state"] == "ended"]
    assert len(report.problems) == problems, report.problems
    assert all("files are left in the journal" in problem for problem in report.problems)
    assert bool(list((work / "journal").iterdir())) == bool(problems)
    assert len(set(ended)) == (kills._MORE_LAST_GAMES if problems else slams + 1)


# The notes.


def test_the_notes_of_a_game_are_read_back_whoever_wrote_them(tmp_path: Path) -> None:
    ours, theirs = Notes(tmp_path / "notes"), Notes(tmp_path / "notes")
    theirs[PHASE], theirs[STATE] = Phase.PLAY, STATES.index(ConnectionState.BACKING_OFF)
    for emitter, words in {0: (5, 4, 1), 2: (9, 9, 256)}.items():
        for index, word in enumerate(words, Notes.slot(emitter)):
            theirs.words[index] = word
    life = Life.read(7, "SIGKILL", ours)
    assert (life.number, life.kind, life.phase) == (7, "SIGKILL", "play, not connected")
    assert (life.begun, life.returned, life.owners) == ([5, 0, 9], [4, 0, 9], [1, 0, 256])
    ours.close()
    theirs.close()


def test_an_emitter_too_many_is_refused() -> None:
    with pytest.raises(IndexError, match="not for number"):
        Notes.slot(SLOTS)


# The verdict.

Row = tuple[str, int, dict[str, Any]]


def event(n: int, *, seq: int | None = None, session: str = "s", **changed: Any) -> Row:
    """An event of emitter 0 of life 1, as it is stored."""
    fields = {"life": 1, "emitter": 0, "n": n, "at": 1000, **changed}
    return session, n if seq is None else seq, fields


def verdict(tmp_path: Path, *rows: Row, returned: int = 3, begun: int = 4) -> Report:
    path = tmp_path / "collector.sqlite3"
    Database(path).close()
    report = Report(seed=0)
    keys: dict[str, int] = {}
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for session, seq, fields in rows:
            key = keys.setdefault(session, len(keys) + 1)
            timestamp = fields.pop("timestamp", 1000)
            version = fields.pop("version", "life-1")
            id = fields.pop("id", f"{session}-{seq}-{len(keys)}-{fields['n']}-{timestamp}")
            connection.execute(
                "INSERT INTO events (session, seq, type, timestamp, received, id, version, data) "
                "VALUES (?, ?, 1, ?, 0, ?, ?, ?)",
                (key, seq, timestamp, id, version, json.dumps(fields)),
            )
    life = Life(1, "SIGKILL", "play", [begun, 1], [returned, 0], [1, 257])
    kills.compare(report, [life], path)
    return report


def test_events_that_are_stored_once_and_in_order_are_not_a_problem(tmp_path: Path) -> None:
    report = verdict(tmp_path, event(1), event(2), event(3))
    assert report.problems == []
    assert (report.returned, report.stored, report.lost) == (3, 3, 0)


def test_an_event_whose_emit_had_not_returned_may_be_stored(tmp_path: Path) -> None:
    report = verdict(tmp_path, *map(event, range(1, 5)))
    assert report.problems == []
    assert report.stored_without_return == 1


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_an_event_that_is_not_stored_is_lost(missing: int, tmp_path: Path) -> None:
    report = verdict(tmp_path, *(event(n) for n in (1, 2, 3) if n != missing))
    assert report.lost == 1
    assert "LOST: 1 of the 3 events of emitter 0 of life 1" in report.problems[0]


@pytest.mark.parametrize("n", [3, 4])  # the emit of number 4 had not returned
def test_an_event_that_is_stored_twice_is_found(n: int, tmp_path: Path) -> None:
    report = verdict(tmp_path, event(1), event(2), event(3), event(4), event(n, seq=5))
    assert report.twice == 1


@pytest.mark.parametrize("stranger", [event(5), event(0), event(1, life=2), event(1, emitter=2)])
def test_an_event_that_nobody_emitted_is_found(stranger: Row, tmp_path: Path) -> None:
    report = verdict(tmp_path, event(1), event(2), event(3), stranger)
    assert report.strangers == 1
    assert report.problems[0].startswith("stored, but never emitted: ")


@pytest.mark.parametrize("rows", [(1, 3, 2), (2, 1, 3)])
def test_events_that_changed_places_are_found(rows: tuple[int, ...], tmp_path: Path) -> None:
    assert verdict(tmp_path, *map(event, rows)).disordered == 1  # as they arrived
    shuffled = [event(n, seq=seq) for seq, n in enumerate(rows, 1)]
    other = tmp_path / "numbers"
    other.mkdir()
    assert verdict(other, *shuffled).disordered == 1  # as they are numbered


@pytest.mark.parametrize(
    "changed",
    [
        {"timestamp": 3000},
        {"timestamp": 999},
        {"version": "life-2"},
        {"session": "another"},
        {"id": "the same"},
    ],
)
def test_an_event_that_changed_on_its_way_is_found(changed: dict[str, Any], tmp_path: Path) -> None:
    rows = [event(1), event(2), event(3, id="the same")]
    if changed.get("session"):  # an event of the game in the session of its forked child
        rows.append(event(1, session="another", seq=1, emitter=1))
        rows.append(event(4, session="another", seq=2))
    else:
        rows.append(event(4, **changed))
    assert verdict(tmp_path, *rows).changed == 1
