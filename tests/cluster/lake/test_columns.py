"""The columns of a file have the fields that ``flatten`` finds, or say that they don't."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redvsblue_telemetry.cluster.lake import columns
from redvsblue_telemetry.cluster.lake.columns import Columns, Layout, with_columns
from redvsblue_telemetry.cluster.lake.compaction import write_merged
from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.cluster.lake.reading import Snapshot
from redvsblue_telemetry.cluster.lake.rows import EVENTS
from redvsblue_telemetry.cluster.lake.table import FILE_SCHEMA, Owner, Table
from redvsblue_telemetry.collector.storage.fields import flatten
from tests.collector.answers import test_same
from tests.support.lake import NOON, bytes_of

from .test_answers import simple

TYPES = ("a", "hit", "hits")
datas = st.one_of(test_same.objects(test_same.values), simple, test_same.frames)
events = st.lists(st.tuples(st.sampled_from(TYPES), datas), min_size=1, max_size=40)


def rows_of(given_events: Sequence[tuple[str, str]]) -> pa.Table:
    in_order = sorted(given_events, key=lambda event: event[0])
    given_columns: dict[str, Any] = {
        "arrival": range(len(in_order)),
        "received": [NOON + place for place in range(len(in_order))],
        "session": [f"s-{place % 3}" for place in range(len(in_order))],
        "seq": range(len(in_order)),
        "type": [type_ for type_, _ in in_order],
        "timestamp": [NOON] * len(in_order),
        "data": [data for _, data in in_order],
    }
    nothing = [None] * len(in_order)
    arrays = [pa.array(given_columns.get(each.name, nothing), each.type) for each in FILE_SCHEMA]
    return pa.table(arrays, FILE_SCHEMA)


def values_of(rows: pa.Table, layout: Layout, field: str) -> list[float | str | None]:
    """Return the values that the layout finds in the columns, or else ``flatten`` in the JSON."""
    found: list[float | str | None] = []
    for row in rows.to_pylist():
        own = layout.columns(row["type"], [field])
        if own is None:
            found.append(flatten(row["data"]).get(field))
            continue
        (place,) = own
        number = None if place.number is None else row[f"number{place.number}"]
        text = None if place.text is None else row[f"text{place.text}"]
        assert number is None or text is None
        found.append(number if text is None else text)
    return found


@given(
    events,
    st.sampled_from((1, 3)),
    st.sampled_from((1, 16)),
    st.sampled_from((2, 1000)),
    st.sampled_from((1, 7)),
)
@example([("hit", '{"a": {"b": 1}}'), ("hit", '{"a": 1}')], 1, 16, 1000, 7)
@example([("hit", '{"a": {"b": 1}, "a.b": "x"}')], 1, 16, 1000, 7)
@example([("hit", '{"a": 1}'), ("hit", '{"a": null, "b": [1]}')], 1, 16, 1000, 1)
@example([("hit", '{"a": 1}')] * 3 + [("hit", '{"a": 1, "b": 1e400}')], 1, 16, 1000, 7)
@example([("hit", '{"a": 1e400, "b": 2}')], 1, 16, 1000, 7)
@example([("hit", json.dumps({"a": "é" * 201})), ("hit", "[]"), ("hit", "x")], 1, 16, 1000, 7)
def test_columns_have_the_fields_that_flatten_finds(
    given_events: list[tuple[str, str]], least: int, most: int, texts: int, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_LEAST_ROWS", least)
        patch.setattr(columns, "_MOST_COLUMNS", most)
        patch.setattr(columns, "_MOST_TEXTS", texts)
        patch.setattr(columns, "_ROWS", at_once)
        patch.setattr(columns, "_SAMPLE", 3)
        rows, layout = with_columns(rows_of(given_events))
    flat = [flatten(data) for data in rows["data"].to_pylist()]
    for field in {"none", *(name for fields in flat for name in fields)}:
        assert values_of(rows, layout, field) == [fields.get(field) for fields in flat]
    assert rows.select(FILE_SCHEMA.names).equals(rows_of(given_events))


def test_usual_events_are_in_columns_alone() -> None:
    data = '{"by":"red-1","damage":12,"critical":true,"at":{"x":1.5,"y":2}}'
    rows, layout = with_columns(rows_of([("hit", data)] * 100))
    assert layout.is_whole
    assert layout.types["hit"].is_whole
    assert layout.types["hit"].fields == {
        "at.x": Columns(number=0),
        "at.y": Columns(number=1),
        "by": Columns(text=0),
        "critical": Columns(text=1),
        "damage": Columns(number=2),
    }
    assert rows["number2"].to_pylist() == [12.0] * 100
    assert layout.columns("hit", ["none"]) == [Columns()]
    assert layout.columns("other", ["damage"]) == [Columns()]


def test_what_is_rare_or_large_has_no_column() -> None:
    given_events = [("a", '{"n":1}')] * 99
    given_events += [("hit", json.dumps({"n": n, "note": f"{n}"})) for n in range(1001)]
    rows, layout = with_columns(rows_of(given_events))
    assert not layout.is_whole
    assert layout.columns("a", ["n"]) is None
    assert layout.columns("hit", ["n"]) == [Columns(number=0)]
    assert layout.columns("hit", ["note"]) is None
    assert layout.columns("hit", ["none"]) is None
    assert rows.num_columns == len(FILE_SCHEMA) + 1


def written(place: Path, given_events: Sequence[tuple[str, str]]) -> None:
    table = Table.open(str(place), create=True)
    file = write_merged(table, EVENTS, "2026-11-29", rows_of(given_events), Owner("made", 0))
    assert file is not None
    table.commit({"made": 1}, [file])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_LEAST_ROWS", 1)


@pytest.mark.usefixtures("few")
def test_rewritten_file_keeps_columns_and_names_nothing_that_is_gone(tmp_path: Path) -> None:
    given_events = [("hit", f'{{"damage":{n},"secret{n % 3}":"word{n % 3}"}}') for n in range(9)]
    given_events += [("quit", '{"reason":"bored"}')]
    written(tmp_path, given_events)
    assert b"secret0" in bytes_of(tmp_path)
    Lake.open(str(tmp_path)).forget("s-0")
    snapshot = Snapshot(str(tmp_path))
    (file,) = snapshot.files(EVENTS)
    (notes,) = snapshot.notes([file])
    assert notes is not None
    assert notes.counts is not None
    assert {*notes.layout.types["hit"].fields} == {"damage", "secret1", "secret2"}
    assert sum(notes.counts.events) == file.rows == 6
    for gone in (b"secret0", b"word0", b"quit", b"bored"):
        assert gone not in bytes_of(tmp_path)
    with snapshot.reading() as reading:
        reading.define("rows", [file], notes.layout.schema)
        place = notes.layout.types["hit"].fields["damage"].number
        found = reading.run(f"SELECT number{place} FROM rows ORDER BY 1")
    assert found == [(1.0,), (2.0,), (4.0,), (5.0,), (7.0,), (8.0,)]


@pytest.mark.usefixtures("few")
def test_an_earlier_reader_finds_the_same_rows(tmp_path: Path) -> None:
    written(tmp_path, [("hit", '{"damage":1}')])
    table = Table.open(str(tmp_path))
    assert table.read(table.files()).schema.equals(FILE_SCHEMA)
