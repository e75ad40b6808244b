"""The messages of the stream have all that a client's message has, each session by itself."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("nats", reason="needs nats-py")

from redvsblue_telemetry.cluster.gateway.splitting import Part, split
from redvsblue_telemetry.cluster.stream import (
    CHECK,
    ENCODING,
    FAULT,
    RECEIVED,
    partition_of,
    read_headers,
    subject,
)
from redvsblue_telemetry.collector.messages import Message, read_message, rejected_message
from redvsblue_telemetry.collector.storing import Body, MessageTooLargeError
from tests.collector.clients import array, event
from tests.collector.test_checks import report

NOW = 1_700_000_000_000


def split_text(text: str, *, is_check: bool = False) -> list[Part]:
    body = text.encode(errors="surrogatepass")
    return split(read_message(body), Body(body, None), NOW, is_check=is_check)


def read_again(part: Part) -> Message:
    """What a loader reads."""
    message = read_headers(1, subject(part.partition(16)), part.headers, part.body)
    assert message.received == NOW
    if message.fault is not None:
        return rejected_message(message.body, message.fault)
    return read_message(message.body)


sessions = st.sampled_from(["a", "b", "ü", "with space\n", "x" * 1024, "\ud800"])
data = st.sampled_from([{}, {"text": "line\nbreak"}, {"deep": [{"a": 1}]}])
events = st.builds(
    lambda session, seq, data: json.dumps(event(seq, session, data=data, timestamp=0)),
    sessions,
    st.one_of(st.integers(0, 5), st.sampled_from([2**40, 2**63 - 1])),
    data,
)
invalid = st.sampled_from(["7", '{"type": "hit"}', '"text"', "null"])
reports = st.builds(report, sessions)
messages = st.one_of(
    st.lists(st.one_of(events, invalid)).map(lambda parts: f"[{', '.join(parts)}]"),
    st.lists(st.one_of(events, invalid, reports)).map("\n".join),
)


@given(messages)
def test_nothing_is_lost_or_added_and_the_order_of_each_session_holds(text: str) -> None:
    whole = read_message(text)
    parts = split_text(text)
    read = [read_again(part) for part in parts]
    for session in {each.session_id for each in whole.events}:
        wanted = [each for each in whole.events if each.session_id == session]
        found = [each for message in read for each in message.events if each.session_id == session]
        assert found == wanted
    assert sum(len(message.events) for message in read) == len(whole.events)
    assert Counter(str(each) for message in read for each in message.reports) == Counter(
        str(each) for each in whole.reports
    )
    assert Counter(each.text for message in read for each in message.rejected) == Counter(
        each.text for each in whole.rejected
    )
    assert len({part.id for part in parts}) == len(parts)


@given(messages)
def test_a_part_has_one_session_and_is_in_its_partition(text: str) -> None:
    for part in split_text(text):
        message = read_again(part)
        found = {each.session_id for each in [*message.events, *message.reports]}
        assert found <= {part.session}
        if part.session is not None:
            assert part.partition(16) == partition_of(part.session, 16)
        assert 0 <= part.partition(16) < 16
        numbers = [n for first, last in part.numbers for n in range(first, last + 1)]
        assert numbers == sorted({each.seq for each in message.events})
        assert all(a[1] + 1 < b[0] for a, b in zip(part.numbers, part.numbers[1:], strict=False))


@given(messages)
def test_the_headers_can_be_sent(text: str) -> None:
    for part in split_text(text):
        for value in part.headers.values():
            assert value.isascii()
            assert value.isprintable()
            assert value == value.strip()


@given(messages)
def test_the_same_message_has_the_same_ids(text: str) -> None:
    assert [each.id for each in split_text(text)] == [each.id for each in split_text(text)]


def test_a_message_of_one_session_goes_as_it_came() -> None:
    text = array(1, 2, 3).encode()
    packed = zlib.compress(text)
    (part,) = split(read_message(text), Body(packed, "deflate"), NOW, is_check=True)
    assert part.body is packed
    assert part.headers[ENCODING] == "deflate"
    assert part.headers[CHECK] == "1"
    assert part.headers[RECEIVED] == str(NOW)
    assert part.id.startswith("s:1-3:")
    assert (part.events, part.crashes, part.rejected) == (3, 0, 0)


def test_numbers_between_those_of_a_message_take_no_memory() -> None:
    most = 2**63 - 1
    (part,) = split_text(json.dumps([event(seq, timestamp=0) for seq in (1, 2, 2**40, most)]))
    assert part.numbers == [(1, 2), (2**40, 2**40), (most, most)]


def test_the_id_differs_with_the_content() -> None:
    (one,) = split_text(array(1, 2))
    (other,) = split_text(array(1, 2).replace("hit", "hut"))
    assert one.id != other.id
    assert one.id.rpartition(":")[0] == other.id.rpartition(":")[0] == "s:1-2"


def test_the_id_differs_with_the_salt() -> None:
    text = array(1).encode()

    def id_with(salt: bytes) -> str:
        (part,) = split(read_message(text), Body(text, None), 0, is_check=False, salt=salt)
        return part.id

    assert id_with(b"") != id_with(b"salt") == id_with(b"salt")


def test_a_report_has_its_number_in_the_id() -> None:
    (part,) = split_text(report("s", number=17))
    assert part.id.startswith("s:r17:")


def test_an_empty_message_needs_no_message_of_the_stream() -> None:
    assert split_text("[]") == []


def test_a_message_that_can_not_be_unpacked_has_its_fault_in_one_line() -> None:
    message = rejected_message(b"\xff" * 2000, "not\r\nthe format: \x1b[31m ü")
    (part,) = split(message, None, NOW, is_check=False)
    assert part.headers[FAULT] == "not\\u000d\\u000athe format: \\u001b[31m \\xfc"
    assert part.body == b"\xff" * 1024
    assert (part.session, part.rejected) == (None, 1)


def test_crashes_are_counted() -> None:
    mixed: list[dict[str, Any]] = [event(1, type="crash"), event(2), event(1, "t", type="crash")]
    assert [part.crashes for part in split_text(json.dumps(mixed))] == [1, 1]


def test_the_size_counts_the_headers_as_they_are_sent() -> None:
    (part,) = split_text(array(1))
    lines = [f"{name}: {value}\r\n" for name, value in part.headers.items()]
    sent = "NATS/1.0\r\n" + "".join(lines) + "\r\n"
    assert part.wire_bytes == len(part.body) + len(sent)


def test_a_message_has_a_limited_number_of_sessions() -> None:
    mixed = [event(1, f"session {number}") for number in range(100)]
    assert len(split_text(json.dumps(mixed))) == 100
    mixed.append(event(1, "one more"))
    with pytest.raises(MessageTooLargeError, match="about 100 sessions at most"):
        split_text(json.dumps(mixed))
    reported = "\n".join(report(f"session {number}") for number in range(101))
    with pytest.raises(MessageTooLargeError, match="about 100 sessions at most"):
        split_text(reported)
