"""The demo's past: the same for the same arguments, like a game's week, and as collectors store."""

from __future__ import annotations

import contextlib
import re
import signal
import sqlite3
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry._report import State
from redvsblue_telemetry.cli.demo.past import Made, NotEmptyError, fill
from redvsblue_telemetry.cli.demo.session import VERSIONS, Plan, messages
from tests.support.command import invoke_command, run_command, running_command

DAY = 86_400_000
NOW = 1_795_914_000_000  # 2026-11-29 01:00 UTC, a Sunday
WEEK = 7 * DAY


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sqlite3.Connection, Made]]:
    path = tmp_path_factory.mktemp("past") / "t.sqlite3"
    made = fill(path, WEEK, NOW)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        yield connection, made


@pytest.fixture(scope="module")
def db(week: tuple[sqlite3.Connection, Made]) -> sqlite3.Connection:
    return week[0]


def rows(db: sqlite3.Connection, query: str, *values: Any) -> list[tuple[Any, ...]]:
    return db.execute(query, values).fetchall()


def content(path: Path) -> list[list[tuple[Any, ...]]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [
            rows(connection, f"SELECT * FROM {table}")
            for table in ("events", "sessions", "reports", "contexts", "types")
        ]


def test_same_arguments_make_the_same_past_and_another_seed_another(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    fill(one, 2 * DAY, NOW)
    fill(two, 2 * DAY, NOW)
    fill(other, 2 * DAY, NOW, seed=8)

    assert content(one) == content(two)
    assert content(one) != content(other)


def test_week_has_hundreds_of_sessions_and_what_was_made_is_there(
    week: tuple[sqlite3.Connection, Made],
) -> None:
    connection, made = week
    assert 250 <= made.sessions <= 800
    assert 100_000 <= made.events <= 200_000
    assert rows(connection, "SELECT count(*) FROM sessions") == [(made.sessions,)]
    assert rows(connection, "SELECT count(*) FROM events") == [(made.events,)]
    assert rows(connection, "SELECT sum(events) FROM types") == [(made.events,)]


def test_events_lie_within_the_week_in_order_of_arrival(db: sqlite3.Connection) -> None:
    received = [each for (each,) in rows(db, "SELECT received FROM events ORDER BY arrival")]
    assert received == sorted(received)
    assert NOW - WEEK <= received[0] < NOW - WEEK + DAY
    assert NOW - 4 * 3_600_000 < received[-1] < NOW
    assert not rows(db, "SELECT 1 FROM sessions WHERE last_received > ?", NOW)


def test_evening_has_most_players(db: sqlite3.Connection) -> None:
    by_hour: dict[int, int] = dict(
        rows(db, "SELECT first_received / 3600000 % 24, count(*) FROM sessions GROUP BY 1")
    )
    evening = sum(by_hour.get(hour, 0) for hour in range(18, 23))
    morning = sum(by_hour.get(hour, 0) for hour in range(5, 10))
    assert evening > 4 * morning


def test_evening_is_that_of_the_players_day(tmp_path: Path) -> None:
    fill(tmp_path / "t", 3 * DAY, NOW, offset=-600)
    with contextlib.closing(sqlite3.connect(tmp_path / "t")) as connection:
        hours = [hour for (hour,) in rows(connection, "SELECT first_received FROM sessions")]
    in_their_evening = [at for at in hours if 18 <= (at // 3_600_000 - 10) % 24 < 23]
    assert len(in_their_evening) > 0.4 * len(hours), "it is 0.2 if all hours are alike"


def test_newest_version_comes_out_in_the_middle_and_crashes_more(db: sqlite3.Connection) -> None:
    found = rows(
        db,
        "SELECT version, min(first_received), count(*), avg(reason = 'crashed') "
        "FROM sessions GROUP BY 1 ORDER BY 1",
    )
    assert [version for version, *_ in found] == list(VERSIONS)
    (_, _, _, _), (_, _, before, crashes_before), (_, since, after, crashes_after) = found
    assert before > 50
    assert after > 50
    assert NOW - WEEK * 0.55 < since < NOW - WEEK * 0.35
    assert crashes_after > 3 * crashes_before
    crashed_yesterday = rows(
        db,
        "SELECT count(*) FROM sessions WHERE reason = 'crashed' AND version = '1.4.2' "
        "AND last_received BETWEEN ? AND ?",
        NOW - NOW % DAY - DAY,
        NOW - NOW % DAY,
    )
    assert crashed_yesterday > [(0,)]
    assert rows(db, "SELECT sum(crashes) FROM sessions") == rows(
        db, "SELECT count(*) FROM sessions WHERE reason = 'crashed'"
    )


def damages(db: sqlite3.Connection, field: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    query = (
        f"SELECT {field}, data ->> '$.damage' FROM events "
        "WHERE type = (SELECT key FROM types WHERE name = 'ship_hit')"
    )
    for group, damage in rows(db, query):
        found.setdefault(group, []).append(damage)
    return found


def test_weapons_differ_in_damage_and_the_newest_version_hits_harder(
    db: sqlite3.Connection,
) -> None:
    weapons = damages(db, "data ->> '$.weapon'")
    means = {weapon: statistics.mean(values) for weapon, values in weapons.items()}
    assert means["laser"] * 1.5 < means["cannon"]
    assert means["cannon"] * 1.3 < means["missile"]
    versions = damages(db, "version")
    p95 = {version: sorted(values)[int(len(values) * 0.95)] for version, values in versions.items()}
    assert p95["1.4.0"] == p95["1.4.1"] < p95["1.4.2"] - 3


def test_some_rounds_are_left_before_their_end_most_of_them_on_one_map(
    db: sqlite3.Connection,
) -> None:
    started = rows(
        db,
        "SELECT data ->> '$.map', count(*) FROM events "
        "WHERE type = (SELECT key FROM types WHERE name = 'round_start') GROUP BY 1",
    )
    ended: dict[str, int] = dict(
        rows(
            db,
            "SELECT contexts.text ->> '$.map', count(*) FROM events JOIN contexts "
            "ON contexts.key = context "
            "WHERE type = (SELECT key FROM types WHERE name = 'round_end') GROUP BY 1",
        )
    )
    left = {place: 1 - ended[place] / count for place, count in started}
    assert all(0.01 < share < 0.4 for share in left.values())
    assert max(left, key=lambda place: left[place]) == "nebula"


def test_many_players_come_back_and_some_do_not(db: sqlite3.Connection) -> None:
    days: dict[str, set[int]] = {}
    query = (
        "SELECT text ->> '$.player', received / 86400000 FROM events "
        "JOIN contexts ON contexts.key = context GROUP BY 1, 2"
    )
    for player, day in rows(db, query):
        days.setdefault(player, set()).add(day)
    came_back = sum(len(each) > 1 for each in days.values())
    assert len(days) > 80
    assert 0.2 < came_back / len(days) < 0.8


def test_sessions_end_in_each_way_and_some_in_none(db: sqlite3.Connection) -> None:
    reasons = dict(rows(db, "SELECT reason, count(*) FROM sessions GROUP BY 1"))
    assert reasons.keys() == {"stopped", "exit", "crashed", "killed", "switched_off", None}
    assert reasons["stopped"] + reasons["exit"] > 0.8 * sum(reasons.values())


def test_what_is_missing_is_explained_and_some_messages_came_twice(db: sqlite3.Connection) -> None:
    ((missing, repeats, causes),) = rows(
        db, "SELECT sum(missing), sum(repeats), group_concat(DISTINCT lost) FROM sessions"
    )
    assert missing > 0
    assert repeats > 0
    assert "overflow" in causes
    assert "unexplained" not in causes


def test_sampling_leaves_most_shots_out(db: sqlite3.Connection) -> None:
    ((kept, sampled),) = rows(db, "SELECT events, sampled FROM types WHERE name = 'bullet_fired'")
    assert 10 * kept < sampled < 100 * kept


@pytest.mark.parametrize("version", VERSIONS)
def test_messages_of_a_session_agree_with_its_report(version: str) -> None:
    plan = Plan("1", "p-1", "linux", version, NOW, 500)
    found = list(messages(plan))
    arrivals = [arrival for arrival, _ in found]
    reports = [report for _, message in found for report in message.reports]
    events = [event for _, message in found for event in message.events]

    assert all(arrival > NOW for arrival in arrivals)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {event.version for event in events} == {version}
    assert all(one.timestamp <= two.timestamp for one, two in pairwise(events))
    assert [report.state for report in reports] == [State.RUNNING, State.ENDED]
    assert reports[-1].last_seq == reports[-1].emitted == len(events)
    assert reports[0].started_at == reports[-1].started_at == NOW + 500


def test_database_with_sessions_is_left_alone(tmp_path: Path) -> None:
    fill(tmp_path / "t", DAY, NOW)
    before = content(tmp_path / "t")

    with pytest.raises(NotEmptyError):
        fill(tmp_path / "t", DAY, NOW)

    assert content(tmp_path / "t") == before


def test_filling_ends_when_it_is_stopped(tmp_path: Path) -> None:
    looks = iter([False, True])
    made = fill(tmp_path / "t", WEEK, NOW, is_stopped=lambda: next(looks))
    assert 0 < made.events < 20_000


def test_demo_with_a_past_keeps_both_and_its_comparison_holds(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite3"
    arguments = ["demo", "--past", "1d", "--seconds", "1", "--db", path, "--no-browser"]
    done = run_command(*arguments)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    said = re.search(r"made (\d+) sessions with ([\d,]+) events\n", done.stdout)
    live = re.search(r"every event arrived once: (\d+) events", done.stdout)
    assert said
    assert live
    with contextlib.closing(sqlite3.connect(path)) as connection:
        events = int(said[2].replace(",", "")) + int(live[1])
        assert rows(connection, "SELECT count(*) FROM events") == [(events,)]
        assert rows(connection, "SELECT count(*) FROM sessions") == [(int(said[1]) + 2,)]
    again = run_command(*arguments)
    assert again.returncode == 2
    expected = f"Error: {path} has sessions already; for a past, name a new file with --db\n"
    assert again.stderr == expected


@pytest.mark.parametrize("given", ["7", "367d", "0d"])
def test_past_that_is_not_a_time_or_too_long_is_wrong_usage(given: str) -> None:
    done = invoke_command("demo", "--no-browser", "--past", given)

    assert done.exit_code == 2
    assert "Invalid value for '--past'" in done.output


def test_interrupted_past_is_not_played_on(tmp_path: Path) -> None:
    arguments: Sequence[Any] = ["demo", "--past", "300d", "--no-browser", "--db", tmp_path / "t"]
    with running_command(*arguments) as demo:
        demo.wait_for("making the battles of the last 300 days")
        code = demo.end(signal.SIGINT)

    assert code == 130
    assert "interrupted; the past is not complete" in demo.output
    assert "live page" not in demo.output
