from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry._journal.records import RecordReader, record_lengths, split_records

_text = st.text("][1,\"'{}:\\ é", max_size=12) | st.sampled_from(['][1,"', "][1,", '][1,["t'])
_data = st.recursive(
    _text | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=5,
)
_events = st.lists(
    st.tuples(
        st.integers(-(10**20), 10**20),
        _text.filter(bool)
        | st.tuples(_text.filter(bool), st.dictionaries(_text, _text, max_size=2)),
        st.dictionaries(_text, _data, max_size=3),
    ),
    max_size=5,
)


@given(_events)
def test_records_are_split_where_they_begin(events: list[Any]) -> None:
    records = [msgspec.json.encode(event) for event in events]

    assert split_records(b"".join(records)) == records
    assert record_lengths(b"".join(records)) == [*map(len, records)]


@given(_events)
def test_many_records_are_read_like_each_of_them(events: list[Any]) -> None:
    records = [msgspec.json.encode(event) for event in events]
    reader = RecordReader()
    each = [reader.read(record) for record in records]

    assert reader.read_many(b"".join(records), [*map(len, records)]) in (each, None)


def test_many_records_of_usual_types_are_read_at_once() -> None:
    records = [b'[1764330000000000000,"hit",{"by":[1,"x"]}]', b'[-1,"ship, lost",{}]'] * 3
    reader = RecordReader()
    for record in records:
        reader.read(record)

    hits = reader.read_many(records[0] * 3, [len(records[0])] * 3)

    assert hits == [reader.read(records[0])] * 3
    assert reader.read_many(b"".join(records), [*map(len, records)]) is None


@pytest.mark.parametrize(
    "data",
    [
        {"note": "][1,"},
        {"][1,": 1},
        {"notes": ["][1,", "][2,["]},
        {"note": "][1,", ",{": {}},
        msgspec.Raw(b'{"note":"][1," }'),
    ],
)
def test_a_string_that_ends_like_a_boundary_is_not_one(data: Any) -> None:
    records = [
        msgspec.json.encode((number, name, data)) for number, name in ((1, "hit"), (2, ":D"))
    ]

    assert split_records(b"".join(records * 2)) == records * 2
