from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry._journal.records import split_records

_text = st.text("][1,\"'{}:\\ é", max_size=12) | st.sampled_from(['][1,"', "][1,", '][1,["t'])
_data = st.recursive(
    _text | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(_text, inner)
)
_events = st.lists(
    st.tuples(
        st.integers(-(10**20), 10**20),
        _text.filter(bool) | st.tuples(_text.filter(bool), st.dictionaries(_text, _text)),
        st.dictionaries(_text, _data),
    )
)


@given(_events)
def test_records_are_split_where_they_begin(events: list[Any]) -> None:
    records = [msgspec.json.encode(event) for event in events]

    assert split_records(b"".join(records)) == records


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
