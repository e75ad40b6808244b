from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from redvsblue_telemetry.cluster.lake.rows import EVENTS, PARTITIONED_BY, RUNS, SCHEMA
from redvsblue_telemetry.cluster.local.ledgers import Stored, count_events, stored_sessions


def write(lake: Path, *rows: tuple[int, str, int], kind: str = EVENTS) -> None:
    """Write rows of arrival, session and seq."""
    whole: list[dict[str, Any]] = [
        {
            "kind": kind,
            "day": "2026-11-29",
            "arrival": arrival,
            "received": 1,
            "session": session,
            "seq": seq,
        }
        for arrival, session, seq in rows
    ]
    table = pa.Table.from_pylist(whole, schema=SCHEMA)
    write_deltalake(lake, table, mode="append", partition_by=list(PARTITIONED_BY))


def test_a_session_that_is_complete(tmp_path: Path) -> None:
    write(tmp_path, (10, "a", 1), (11, "a", 2), (12, "b", 1))
    write(tmp_path, (13, "a", 3))
    found = stored_sessions(str(tmp_path))
    assert found == {"a": Stored(3, 3, 1, 3), "b": Stored(1, 1, 1, 1)}
    assert found["a"].twice == found["a"].missing(3) == 0
    assert count_events(str(tmp_path)) == 4


def test_what_is_missing_is_counted(tmp_path: Path) -> None:
    write(tmp_path, (10, "a", 2), (12, "a", 5))
    assert stored_sessions(str(tmp_path))["a"].missing(6) == 4


def test_what_is_there_twice_is_counted(tmp_path: Path) -> None:
    write(tmp_path, (10, "a", 1), (11, "a", 2))
    write(tmp_path, (12, "a", 2), (13, "a", 3))
    assert stored_sessions(str(tmp_path)) == {"a": Stored(4, 3, 1, 3, disordered=1)}
    assert stored_sessions(str(tmp_path))["a"].twice == 1


def test_what_is_out_of_order_is_counted_across_files(tmp_path: Path) -> None:
    write(tmp_path, (11, "a", 1), (12, "a", 2))
    write(tmp_path, (10, "a", 3))
    assert stored_sessions(str(tmp_path))["a"].disordered == 1


def test_other_rows_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, (10, "a", 1))
    write(tmp_path, (10, "a", 7), kind=RUNS)
    assert stored_sessions(str(tmp_path)) == {"a": Stored(1, 1, 1, 1)}
    assert count_events(str(tmp_path)) == 1


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_lake_without_a_commit_has_nothing(tmp_path: Path, name: str) -> None:
    assert stored_sessions(str(tmp_path / name)) == {}
    assert count_events(str(tmp_path / name)) == 0
    assert not (tmp_path / "nowhere").exists()
