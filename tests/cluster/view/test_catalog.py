"""The catalog says the same after each version of the lake as one that is made anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given

from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.cluster.lake.reading import MEMORY, Snapshot, private_database
from redvsblue_telemetry.cluster.lake.rows import KINDS
from redvsblue_telemetry.cluster.lake.standing import STANDING, add_standing
from redvsblue_telemetry.cluster.lake.table import DataFile, Table
from redvsblue_telemetry.cluster.view import catalog
from redvsblue_telemetry.cluster.view.catalog import Catalog
from tests.cluster.lake.strategies import Group, days, few, stored
from tests.support.lake import append, numbered

TABLES = {
    "sessions": "SELECT * FROM sessions",
    "numbers_of": "SELECT session, ranges, repeats FROM numbers_of",
    "sampled_of": "SELECT session, type, events FROM sampled_of",
    "counts": "SELECT minute, type, version, sum(events) FROM counts GROUP BY ALL",
    "faults_of": "SELECT session, type, fault, sum(events), min(first), max(last), max(newest) "
    "FROM faults_of GROUP BY ALL",
}
COLUMNS = (
    "session, version, reason, events, here, missing, repeats, highest, lost, waiting, deleted"
)


def contents(connection: Any) -> dict[str, list[Any]]:
    return {
        name: sorted(connection.execute(query).fetchall(), key=str)
        for name, query in TABLES.items()
    }


def by_version(table: Table, snapshot: Snapshot) -> Sequence[Sequence[DataFile]]:
    """Return the files that each version of the lake has added."""
    files = {file.path: file for kind in KINDS for file in snapshot.files(kind)}
    changes = [table.changes(since) for since in range(-1, table.version)]
    seen: set[str] = set()
    found = []
    for each in reversed(changes):  # the changes since each version, the last one's first
        assert each is not None
        found.append([files[path] for path in each.added if path not in seen])
        seen |= {*each.added}
    return found[::-1]


@few
@given(days)
def test_versions_add_up(groups: list[Group]) -> None:
    with stored(groups) as both:
        snapshot = Snapshot(str(both.lake))
        with private_database(MEMORY) as at_once, private_database(MEMORY) as in_steps:
            Catalog(at_once).fill(snapshot)
            made = Catalog(in_steps)
            for files in by_version(Table.open(str(both.lake)), snapshot):
                made.add(snapshot, files)
            assert contents(in_steps) == contents(at_once)
            with snapshot.reading() as reading:
                add_standing(reading, now=both.now)
                standing = reading.run(f"SELECT {COLUMNS} FROM {STANDING} ORDER BY session")
            found = at_once.execute(f"SELECT {COLUMNS} FROM sessions ORDER BY session").fetchall()
            assert found == standing


def test_what_was_replaced_does_not_pile_up(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(catalog, "_MOST_WASTE", 5)
    lake = Lake.open(str(tmp_path))
    claim = lake.claim("stream", [0])
    with private_database(MEMORY) as connection, private_database(MEMORY) as other:
        made, version = Catalog(connection), 0
        for sequence in range(1, 20):
            append(lake, claim, 0, sequence, numbered("s", sequence * 10, sequence * 10 + 9))
            table = Table.open(str(tmp_path))
            snapshot = Snapshot(str(tmp_path), table)
            changes = table.changes(version)
            assert changes is not None
            added = [
                file
                for kind in KINDS
                for file in snapshot.files(kind)
                if file.path in changes.added
            ]
            made.add(snapshot, added)
            version = table.version
        ((rows,),) = connection.execute("SELECT count(*) FROM counts").fetchall()
        assert rows < 10
        Catalog(other).fill(snapshot)
        assert contents(connection) == contents(other)
