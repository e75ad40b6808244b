"""The engines: they end when they have to, and reach nothing but what they are given."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry.collector.answers.backend import INTEGER, Backend
from redvsblue_telemetry.collector.answers.questions import QuestionError, Values
from redvsblue_telemetry.collector.answers.vectors import Vectors
from redvsblue_telemetry.collector.storage.cutoff import NEVER, Cutoff, CutoffError

from .conftest import BACKENDS, Asked

ENDLESS = (
    "WITH RECURSIVE endless(n) AS (SELECT 1 UNION ALL SELECT 1 - n FROM endless) "
    "SELECT count(*) FROM endless"
)


@contextlib.contextmanager
def engine(kind: type[Backend], cutoff: Cutoff = NEVER) -> Iterator[Backend]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        backend = kind(connection, cutoff)
        try:
            yield backend
        finally:
            backend.close()


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_statement_ends_with_its_time(kind: type[Backend]) -> None:
    with engine(kind, Cutoff(limit=0.2)) as backend, pytest.raises(CutoffError):
        backend.run(ENDLESS)


class Leaving(Cutoff):
    """Nobody waits for the answer any more from the third look on."""

    looks = 0

    @property
    def must_end(self) -> bool:
        self.looks += 1
        return self.looks > 2


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_statement_ends_when_nobody_waits_for_it(kind: type[Backend]) -> None:
    threads = threading.active_count()
    cutoff = Leaving()
    with engine(kind, cutoff) as backend, pytest.raises(CutoffError):
        backend.run(ENDLESS)
    assert cutoff.looks > 2
    assert threading.active_count() <= threads


def test_a_question_that_took_too_long_is_given_up(asked: Asked) -> None:
    asked.store("hit", {"damage": 1})
    with pytest.raises(CutoffError):
        asked.ask(Values(type="hit", field="damage"), cutoff=Cutoff(limit=-1))


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_question_sees_no_table_of_another(kind: type[Backend]) -> None:
    with engine(kind) as one, engine(kind) as other:
        one.add("facts", {"n": INTEGER}, [[1]])
        other.add("facts", {"n": INTEGER}, [[2, 3]])
        one.run("CREATE TEMP VIEW seen AS SELECT sum(n) AS total FROM facts")
        other.run("CREATE TEMP VIEW seen AS SELECT sum(n) AS total FROM facts")
        assert (one.run("SELECT total FROM seen"), other.run("SELECT total FROM seen")) == (
            [(1,)],
            [(5,)],
        )


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM glob('{folder}/*')",
        "COPY (SELECT 1) TO '{folder}/copied.csv'",
        "ATTACH '{folder}/attached.db'",
        "EXPORT DATABASE '{folder}/exported'",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
        "INSTALL httpfs",
        "LOAD '{file}'",
        "SET enable_external_access = true",
        "SET memory_limit = '8GB'",
        "SET temp_directory = '{folder}'",
    ],
)
def test_duckdb_reaches_no_file_and_no_network(tmp_path: Path, statement: str) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("a,b\n1,2\n")
    with engine(Vectors) as backend:
        with pytest.raises(Exception, match=r"disabled|locked|Cannot|not|Permission"):
            backend.run(statement.format(file=file, folder=tmp_path))
        assert [*tmp_path.iterdir()] == [file]


def test_duckdb_sees_no_variable_of_the_program() -> None:
    import pyarrow as arrow

    secret = arrow.table({"n": [1]})
    assert secret.num_rows == 1
    with engine(Vectors) as backend, pytest.raises(Exception, match="does not exist"):
        backend.run("SELECT * FROM secret")


def test_duckdb_keeps_to_its_memory() -> None:
    with engine(Vectors) as backend, pytest.raises(QuestionError, match="too much memory"):
        backend.run(
            "CREATE TEMP TABLE large AS SELECT i, repeat(CAST(i AS VARCHAR), 9) AS text "
            "FROM range(100000000) AS numbers(i)"
        )
