"""The views that people query, against their page: each column, and each example."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry.cli.demo.past import fill
from redvsblue_telemetry.collector.storage.database import Database, open_readonly
from redvsblue_telemetry.collector.storage.sandbox import Query, new_schema
from redvsblue_telemetry.collector.storage.views import views
from tests.support import REPOSITORY

PAGE = (REPOSITORY / "docs" / "sql.md").read_text("utf-8")
EXAMPLES = re.findall(r"^([^\n]*)\n\n```sql\n(.*?)^```$", PAGE, re.M | re.S)
DAY = 86_400_000


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("past") / "t.sqlite3"
    now = time.time_ns() // 1_000_000
    fill(path, 3 * DAY, now)
    return path


def asked(path: Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    schema = new_schema()
    with (
        open_readonly(path, schema=schema) as connection,
        Query(connection, schema, views()).run(sql, 60) as (columns, rows),
    ):
        return columns, list(rows)


def documented() -> dict[str, list[str]]:
    """The columns of each view, as the page has them."""
    sections = re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", PAGE, re.M | re.S)
    return {name: re.findall(r"^\| `(\w+)` \|", text, re.M) for name, text in sections}


def test_page_has_every_view_with_its_columns(past: Path) -> None:
    assert documented() == {name: asked(past, f"SELECT * FROM {name}")[0] for name in views()}


@pytest.mark.parametrize("sql", [sql for _, sql in EXAMPLES], ids=[title for title, _ in EXAMPLES])
def test_example_of_the_page_finds_something(past: Path, sql: str) -> None:
    columns, rows = asked(past, sql)
    assert rows
    assert len(set(columns)) == len(columns)
    assert all(any(value is not None for value in column) for column in zip(*rows, strict=True))


def test_page_has_examples() -> None:
    assert len(EXAMPLES) >= 8


def example(title: str) -> str:
    (sql,) = [sql for given, sql in EXAMPLES if title in given]
    return str(sql)


def test_crashes_of_yesterday_are_those_that_python_counts(past: Path) -> None:
    _, sessions = asked(past, "SELECT version, outcome, last_received FROM sessions")
    yesterday = time.time_ns() // 1_000_000 // DAY - 1
    expected = sum(
        (version, outcome, at // DAY) == ("1.4.2", "crashed", yesterday)
        for version, outcome, at in sessions
    )
    assert asked(past, example("crashed yesterday"))[1] == [(expected,)]


def test_counts_add_up_to_the_events(past: Path) -> None:
    expected = asked(past, "SELECT type, version, count(*) FROM events GROUP BY 1, 2 ORDER BY 1, 2")
    sums = "SELECT type, version, sum(events) FROM counts GROUP BY 1, 2 ORDER BY 1, 2"
    assert asked(past, sums)[1] == expected[1]
    by_day = "SELECT {} / 86400000, {} FROM {} GROUP BY 1 ORDER BY 1"
    assert (
        asked(past, by_day.format("period", "sum(events)", "counts"))[1]
        == asked(past, by_day.format("received", "count(*)", "events"))[1]
    )
    (((levels, misplaced),)) = asked(
        past, "SELECT group_concat(DISTINCT level), sum(period % 60000 <> 0) FROM counts"
    )[1]
    assert set(levels.split(",")) <= {"minute", "quarter", "hour", "day"}
    assert misplaced == 0


def test_quick_conditions_use_an_index(past: Path) -> None:
    schema = new_schema()
    with open_readonly(past, schema=schema) as connection:
        Query(connection, schema, views())
        connection.set_authorizer(None)

        def steps(sql: str) -> list[str]:
            return [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]

        assert len(steps("SELECT count(*) FROM events")) == 3, "no contexts, no faults"
        (session,) = connection.execute("SELECT session FROM sessions LIMIT 1").fetchone()
        for condition in ("type = 'ship_hit'", f"session = '{session}'", "arrival > 100"):
            found = steps(f"SELECT sum(timestamp) FROM events WHERE {condition}")
            assert any(step.startswith("SEARCH e USING") for step in found), (condition, found)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_counts_of_an_older_file_are_those_of_its_events(tmp_path: Path, version: int) -> None:
    path = tmp_path / "old.sqlite3"
    script = Path(__file__).with_name(f"version_{version}.sql").read_text("utf-8")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)

    counts = "SELECT type, version, sum(events) FROM counts GROUP BY 1, 2 ORDER BY 1, 2"
    events = "SELECT type, version, count(*) FROM events GROUP BY 1, 2 ORDER BY 1, 2"
    assert asked(path, counts) == (["type", "version", "sum(events)"], asked(path, events)[1])
    assert asked(path, counts)[1]
    before = asked(path, counts)

    Database(path).close()  # brings the file up to date; the events are counted later

    assert asked(path, counts) == before
