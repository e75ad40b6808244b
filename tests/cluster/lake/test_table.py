from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from redvsblue_telemetry.cluster.lake.errors import LakeError
from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.cluster.lake.table import Owner, Table
from tests.support.lake import (
    STREAM,
    append,
    data_files_of,
    numbered,
    stored_numbers,
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def test_replaced_files_stay_for_those_who_read_them(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    for sequence in range(1, 10):
        append(lake, claim, 0, sequence, numbered("s", sequence, sequence))
    lake.compact()
    assert len(data_files_of(lake.url)) == 20
    assert lake.vacuum() == 0
    assert lake.vacuum(0) == 18
    assert len(data_files_of(lake.url)) == 2
    assert stored_numbers(lake.url) == {"s": [*range(1, 10)]}


def test_file_that_can_still_be_committed_is_not_swept(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 5, numbered("s", 1, 3))
    table = Table.open(lake.url)
    rows = table.read(table.files("events"))
    # As a loader that was stopped before its commit has left it.
    waiting = table.write("events", "2026-11-29", [rows], Owner(f"{STREAM}/0", 5))
    dead = table.write("events", "2026-11-29", [rows], Owner(f"{STREAM}/0", 0))
    assert waiting is not None
    assert dead is not None
    old = time.time() - 10 * 86_400
    for each in (waiting, dead):
        os.utime(Path(lake.url) / each.path, (old, old))
    assert lake.vacuum(0) == 1
    assert (Path(lake.url) / waiting.path).exists()
    append(lake, claim, 0, 6, numbered("s", 4, 4))
    assert lake.vacuum(0) == 1
    assert not (Path(lake.url) / waiting.path).exists()
    assert stored_numbers(lake.url) == {"s": [1, 2, 3, 4]}


def test_log_has_no_text_of_an_event(lake: Lake) -> None:
    append(lake, lake.claim(STREAM, [0]), 0, 1, numbered("a-session", 1, 3))
    log = b"".join(each.read_bytes() for each in (Path(lake.url) / "_delta_log").iterdir())
    for word in (b"a-session", b"played", b"run-1"):
        assert word not in log
    assert b"maxValues" in log


def test_log_is_short_however_many_commits_there_were(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    for sequence in range(1, 120):
        lake.append(claim, claim.rows(), {0: sequence})
    log = Path(lake.url) / "_delta_log"
    assert len(list(log.glob("*.checkpoint.parquet"))) == 2
    old = time.time() - 2 * 86_400
    for each in log.iterdir():
        os.utime(each, (old, old))
    for sequence in range(120, 160):
        lake.append(claim, claim.rows(), {0: sequence})
    assert len(list(log.glob("*.json"))) < 70
    assert lake.claim(STREAM, [0]).offset(0) == 159


def test_late_owner_of_whose_version_no_log_is_left_cannot_commit(lake: Lake) -> None:
    late, owner = lake.claim(STREAM, [0]), lake.claim(STREAM, [0])
    log = Path(lake.url) / "_delta_log"
    first = sorted(log.glob("*.json"))
    for sequence in range(1, 60):
        append(lake, owner, 0, sequence, numbered("s", sequence, sequence))
    old = time.time() - 2 * 86_400
    for each in log.iterdir():
        os.utime(each, (old, old))
    for sequence in range(60, 110):
        lake.append(owner, owner.rows(), {0: sequence})
    assert not any(each.exists() for each in first)
    with pytest.raises(Exception, match="another loader has committed"):
        append(lake, late, 0, 60, numbered("s", 1, 60))
    assert stored_numbers(lake.url) == {"s": [*range(1, 60)]}


@pytest.mark.parametrize("what", ["a data file is gone", "a data file is cut", "the log is cut"])
def test_damage_is_a_clear_error(lake: Lake, what: str) -> None:
    claim = lake.claim(STREAM, [0])
    for sequence in range(1, 10):
        append(lake, claim, 0, sequence, numbered("s", sequence, sequence))
    folder = Path(lake.url)
    runs = sorted((folder / "kind=runs").rglob("*.parquet"))
    log = sorted((folder / "_delta_log").glob("*.json"))
    if what == "a data file is gone":
        runs[0].unlink()
    elif what == "a data file is cut":
        runs[0].write_bytes(runs[0].read_bytes()[:-20])
    else:
        log[-3].write_bytes(log[-3].read_bytes()[:50])
    with pytest.raises(LakeError, match="can't be"):
        lake.claim(STREAM, [0])
    with pytest.raises(LakeError, match="can't be"):
        lake.compact()


def test_lake_that_was_made_anew_meanwhile_is_a_clear_error(lake: Lake, tmp_path: Path) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 1, numbered("s", 1, 1))
    (tmp_path / "lake").rename(tmp_path / "before")
    other = Lake.open(lake.url)
    elsewhere = other.claim(STREAM, [1])
    for sequence in range(1, 5):
        append(lake, elsewhere, 1, sequence, numbered("t", sequence, sequence))
    with pytest.raises(LakeError, match="was replaced by another lake"):
        append(lake, claim, 0, 2, numbered("s", 2, 2))
    assert stored_numbers(lake.url) == {"t": [1, 2, 3, 4]}


def test_lake_that_was_deleted_is_a_clear_error(lake: Lake, tmp_path: Path) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 1, numbered("s", 1, 1))
    (tmp_path / "lake").rename(tmp_path / "before")
    with pytest.raises(LakeError, match="was deleted"):
        append(lake, claim, 0, 2, numbered("s", 2, 2))
    assert not (tmp_path / "lake").exists()
    (tmp_path / "before").rename(tmp_path / "lake")
    lake.append(claim, claim.rows(), {0: 2})
    assert stored_numbers(lake.url) == {"s": [1, 2]}
