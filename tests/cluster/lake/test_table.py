from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from redvsblue_telemetry.cluster.lake.errors import LakeError
from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.cluster.lake.reading import Snapshot
from redvsblue_telemetry.cluster.lake.rows import SCHEMA
from redvsblue_telemetry.cluster.lake.table import Owner, Table
from redvsblue_telemetry.collector.storage.upkeep import Keep
from tests.support.lake import (
    STREAM,
    append,
    data_files_of,
    numbered,
    stored,
    stored_numbers,
    stored_runs,
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


@pytest.mark.parametrize(
    "columns", [{"x": [1]}, {"kind": ["events"], "day": ["2026-11-29"], "x": [1]}]
)
def test_table_of_others_is_not_written_to(
    tmp_path: Path, columns: dict[str, list[object]]
) -> None:
    place = str(tmp_path / "table")
    write_deltalake(place, pa.table(columns), partition_by=[*columns][:-1] or None)
    with pytest.raises(LakeError, match="is a Delta table, but not a lake"):
        Lake.open(place)
    assert DeltaTable(place).version() == 0


@pytest.mark.parametrize("fault", ["its day is tomorrow", "its statistics are"])
def test_file_of_others_is_a_clear_error(lake: Lake, fault: str) -> None:
    append(lake, lake.claim(STREAM, [0]), 0, 1, numbered("s", 1, 1))
    row = {**stored(lake.url)[0], "day": "tomorrow" if "tomorrow" in fault else "2026-11-29"}
    write_deltalake(lake.url, pa.Table.from_pylist([row], schema=SCHEMA), mode="append")
    log = sorted((Path(lake.url) / "_delta_log").glob("*.json"))[-1]
    if "statistics" in fault:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        for line in lines:
            line.get("add", {}).pop("stats", None)
        log.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(LakeError, match=f"which no loader has written: .*{fault}"):
        lake.compact()
    with pytest.raises(LakeError, match=f"which no loader has written: .*{fault}"):
        lake.keep(Keep(86_400.0))


@pytest.mark.parametrize("place", ["backup", "kind=events/day=2026-11-29/backup"])
def test_copy_in_the_folder_of_a_lake_stays(lake: Lake, place: str) -> None:
    """Its files have the names of files of the lake, and are not part of it."""
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 1, numbered("s", 1, 9))
    (Path(lake.url) / place).mkdir(parents=True)
    for each in ("_delta_log", "kind=events", "kind=runs"):
        ignored = shutil.ignore_patterns("backup")
        shutil.copytree(Path(lake.url) / each, Path(lake.url) / place / each, ignore=ignored)
    for sequence in range(2, 12):
        append(lake, claim, 0, sequence, numbered("s", 8 + sequence, 8 + sequence))
    lake.compact()
    assert lake.vacuum(0) > 0
    assert stored_numbers(Path(lake.url) / place) == {"s": [*range(1, 10)]}
    assert stored_numbers(lake.url) == {"s": [*range(1, 20)]}


def test_lake_that_others_tend_stays_right(lake: Lake) -> None:
    """By what deltalake offers: merging, deletion of old files and of the log."""
    claim = lake.claim(STREAM, [0])
    for sequence in range(1, 10):
        append(lake, claim, 0, sequence, numbered("s", sequence, sequence))
    DeltaTable(lake.url).optimize.compact()
    DeltaTable(lake.url).vacuum(0, enforce_retention_duration=False, dry_run=False)
    DeltaTable(lake.url).create_checkpoint()
    DeltaTable(lake.url).cleanup_metadata()
    for sequence in range(10, 20):
        append(lake, claim, 0, sequence, numbered("s", sequence - 1, sequence))
    lake.compact()
    other = lake.claim("another", [0])
    append(lake, other, 0, 1, numbered("s", 1, 20))
    assert stored_numbers(lake.url) == {"s": [*range(1, 21)]}
    assert set(stored_runs(lake.url)["s"].values()) == {1}


@pytest.mark.parametrize("name", ["with a space", "ünï ✓", "a[1]*?#", "100%", "it's"])
@pytest.mark.parametrize("is_url", [False, True])
def test_lake_may_have_any_name(tmp_path: Path, name: str, is_url: bool) -> None:
    folder = tmp_path / name
    if sys.platform == "win32" and "*" in name:
        pytest.skip("Windows: no files of this name")
    lake = Lake.open(folder.as_uri() if is_url else str(folder))
    claim = lake.claim(STREAM, [0])
    for sequence in range(1, 10):
        append(lake, claim, 0, sequence, numbered("s", sequence, sequence))
    lake.compact()
    assert lake.vacuum(0) == 18
    assert stored_numbers(folder) == {"s": [*range(1, 10)]}
    with Snapshot(lake.url).reading() as reading:
        assert reading.run("SELECT count(*) FROM stored_events") == [(9,)]


@pytest.mark.parametrize("name", ["", "a%20b", "a\nb", "a\\b"])
def test_name_that_deltalake_takes_for_another_is_refused(tmp_path: Path, name: str) -> None:
    if sys.platform == "win32" and "\\" in name:
        pytest.skip("Windows: that is a folder in a folder")
    with pytest.raises(LakeError, match="can't be the path of a lake"):
        Lake.open(name and str(tmp_path / name))
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("url", ["gs://bucket/lake", "http://host/lake", "ab:lake"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(LakeError, match=r"is neither a path nor an s3:// URL"):
        Lake.open(url)
