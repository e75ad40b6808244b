"""What the tests of the lake have in common: messages of the stream, and what is in the lake."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
from deltalake import DeltaTable

from redvsblue_telemetry._report import decode_report
from redvsblue_telemetry.cluster.lake.compaction import write_merged
from redvsblue_telemetry.cluster.lake.lake import Claim, Lake
from redvsblue_telemetry.cluster.lake.rows import day_of
from redvsblue_telemetry.cluster.lake.table import FILE_SCHEMA, Owner, Table
from redvsblue_telemetry.collector.messages import Message, read_message
from redvsblue_telemetry.collector.storage.database import Database

STREAM = "0a1b2c3d"
NOON = 1_795_953_600_000  # 2026-11-29 12:00 UTC, in milliseconds since the epoch


def event(session: str, seq: int, type: str = "played", **fields: Any) -> dict[str, Any]:
    """Return an event as a client sends it."""
    return {
        "id": f"{session}-run-{seq}",
        "type": type,
        "timestamp": NOON + seq,
        "sessionId": session,
        "seq": seq,
        "data": {"n": seq},
        **fields,
    }


def message(*events: dict[str, Any]) -> Message:
    return read_message(json.dumps(events))


def numbered(session: str, first: int, last: int) -> Message:
    """Return a message with the events of a range of numbers."""
    return message(*(event(session, seq) for seq in range(first, last + 1)))


def append(
    lake: Lake, claim: Claim, partition: int, sequence: int, *messages: Message, at: int = NOON
) -> None:
    """Append messages of one partition, the last of which has this sequence."""
    rows = claim.rows()
    for place, each in enumerate(messages, 1 - len(messages)):
        rows.add(partition, sequence + place, at, each)
    lake.append(claim, rows, {partition: sequence})


def stored(path: Path | str, kind: str = "events") -> list[dict[str, Any]]:
    """Return the rows of a kind, by arrival, as any reader of Delta tables finds them."""
    dataset = DeltaTable(str(path)).to_pyarrow_dataset()
    rows = dataset.to_table(filter=pyarrow.dataset.field("kind") == kind)
    return sorted(rows.to_pylist(), key=lambda row: (row["arrival"], row["session"] or ""))


def stored_numbers(path: Path | str) -> dict[str, list[int]]:
    """Return the numbers of the stored events by session, in ascending order, with repeats."""
    found: dict[str, list[int]] = {}
    for row in stored(path):
        found.setdefault(row["session"], []).append(row["seq"])
    return {session: sorted(numbers) for session, numbers in found.items()}


def stored_runs(path: Path | str) -> dict[str, Counter[int]]:
    """Return how often each number of a session is in the runs, by session."""
    found: dict[str, Counter[int]] = {}
    for row in stored(path, "runs"):
        numbers = found.setdefault(row["session"], Counter())
        for first, last in json.loads(row["data"]):
            numbers.update(range(first, last + 1))
    return found


def files_of(path: Path | str) -> list[Path]:
    """Return the data files in the folder of a lake, whether they are part of it or not."""
    return sorted(Path(path).rglob("*.parquet"))


def data_files_of(path: Path | str) -> list[Path]:
    return [each for each in files_of(path) if "_delta_log" not in each.parts]


def bytes_of(path: Path | str) -> bytes:
    """Return all that is in the folder of a lake, with the columns of its data files unpacked."""
    parts = [each.read_bytes() for each in Path(path).rglob("*") if each.is_file()]
    for each in files_of(path):
        rows = pyarrow.parquet.read_table(each, partitioning=None)
        parts.append(repr(rows.to_pylist()).encode())
    return b"\n".join(parts)


def copy_database(database: Database, url: Path | str) -> None:
    """Make a lake that has the events of a database, their numbers, and the last reports.

    Every other event is in a file of the final size, with columns for fields and with counts.
    """
    table = Table.open(str(url), create=True)
    owner = Owner("copy", 1)
    with database.reading() as connection:
        events = connection.execute(
            "SELECT 'events', e.arrival, e.received, s.session_id, e.seq, t.name, e.timestamp, "
            "NULL, e.id, e.version, c.text, f.text, e.data FROM events AS e "
            "JOIN sessions AS s ON s.key = e.session JOIN types AS t ON t.key = e.type "
            "LEFT JOIN contexts AS c ON c.key = e.context "
            "LEFT JOIN faults AS f ON f.key = e.fault"
        ).fetchall()
        sessions = connection.execute(
            "SELECT s.session_id, s.last_received, r.text FROM sessions AS s "
            "JOIN reports AS r ON r.session = s.key"
        ).fetchall()
        runs = connection.execute(
            "SELECT 'runs', 0, s.last_received, s.session_id, NULL, NULL, s.repeats, NULL, NULL, "
            "NULL, NULL, NULL, json_group_array(json_array(first, last)) FROM runs AS r "
            "JOIN sessions AS s ON s.key = r.session GROUP BY r.session"
        ).fetchall()
    newest = max((row[1] for row in events), default=0)
    reports = [
        (
            *("reports", newest + place, received),
            *(session, report.number, report.state, report.at),
            *(None, None, None, None, None, text),
        )
        for place, (session, received, text) in enumerate(sessions, 1)
        for report in [decode_report(text)]
    ]
    files = {}
    for row in [*events, *reports, *runs]:
        files.setdefault((row[0], day_of(row[2])), []).append(row)
    added = []
    for (kind, day), rows in files.items():
        columns = [*zip(*rows, strict=True)][1:]
        given = pa.table([*map(pa.array, columns, FILE_SCHEMA.types)], FILE_SCHEMA)
        for is_last in (False, True):
            some = given.take(pa.array(range(is_last, len(rows), 2), pa.int64()))
            added.append(write_merged(table, kind, day, some, owner, is_last=is_last))
    table.refresh()
    table.commit({owner.fence: owner.number}, filter(None, added))
