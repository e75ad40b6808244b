"""Reading messages: every valid event is returned, and every other part gets a reason."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry._report import Report, encode_report
from redvsblue_telemetry.collector import messages
from redvsblue_telemetry.collector.messages import Event, read_message
from redvsblue_telemetry.testing import record_events

GOOD: dict[str, Any] = {
    "sessionId": "s",
    "seq": 1,
    "type": "hit",
    "timestamp": 1795479878536,
    "data": {},
    "id": "i",
}


def event(**fields: Any) -> str:
    return json.dumps(GOOD | fields)


def without(key: str) -> str:
    return json.dumps({name: value for name, value in GOOD.items() if name != key})


def seqs(events: list[Event]) -> list[int]:
    return [event.seq for event in events]


def only_reason(message: bytes | str) -> str:
    found = read_message(message)
    assert found.events == []
    (rejected,) = found.rejected
    return rejected.reason


@pytest.mark.parametrize("encode", [str, str.encode], ids=["text", "binary"])
def test_an_array_and_lines_say_the_same(encode: Any) -> None:
    parts = [event(seq=n, version="1.4") for n in (1, 2, 3)]
    for message in ("[" + ", ".join(parts) + "]", "\n".join(parts) + "\n", "\n\r\n".join(parts)):
        found = read_message(encode(message))
        assert (seqs(found.events), found.rejected) == ([1, 2, 3], [])
        assert {event.version for event in found.events} == {"1.4"}


def test_what_the_sdk_sends_is_read_in_both_formats() -> None:
    with record_events() as recorded:
        telemetry = Telemetry(TelemetrySettings(enabled=True))
        assert telemetry.settings.wire_format == "json"
        from redvsblue_telemetry import emit

        emit("märz\u2028", {"\U0001f600": [1.5, None, {"deep": True}], "text": "\x00\ud7ff"})
        sent = recorded[0]
    line = json.dumps(
        {
            "sessionId": sent.session_id,
            "seq": sent.seq,
            "type": sent.type,
            "timestamp": sent.timestamp,
            "data": dict(sent.data),
            "id": sent.id,
        },
        ensure_ascii=False,
    )
    for message in (f"[{line}]", line + "\n"):
        (read,) = read_message(message).events
        assert (read.type, read.session_id, read.seq) == (sent.type, sent.session_id, sent.seq)
        assert json.loads(bytes(read.data)) == dict(sent.data)


@pytest.mark.parametrize(
    "data",
    [
        '{"big":10000000000000000000000000000000000000000000000001}',
        '{"small": 1e-400,  "large":1e400}',
        r'{"nul":"\u0000","pair":"\ud83d\ude00"}',
        '{"same":1,"same":2}',
        '{"ümlaut":"\u2028"}',
    ],
)
def test_data_is_kept_as_it_came(data: str) -> None:
    message = "[" + event().replace("{}", data) + "]"
    for body in (message, message.encode()):
        assert [bytes(event.data).decode() for event in read_message(body).events] == [data]


@pytest.mark.parametrize("key", ["sessionId", "seq", "type", "timestamp", "data", "id"])
def test_an_event_that_lacks_a_key_is_rejected_by_its_name(key: str) -> None:
    assert f"`{key}`" in only_reason(f"[{without(key)}]")
    assert f"`{key}`" in only_reason(without(key) + "\n")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"sessionId": ""}, "$.sessionId"),
        ({"sessionId": "x" * 1025}, "$.sessionId"),
        ({"sessionId": 1}, "$.sessionId"),
        ({"type": ""}, "$.type"),
        ({"type": None}, "$.type"),
        ({"seq": -1}, "$.seq"),
        ({"seq": 2**63}, "$.seq"),
        ({"seq": 1.5}, "$.seq"),
        ({"seq": True}, "$.seq"),
        ({"seq": "1"}, "$.seq"),
        ({"timestamp": 1.5}, "$.timestamp"),
        ({"timestamp": 2**63}, "$.timestamp"),
        ({"timestamp": "now"}, "$.timestamp"),
        ({"id": None}, "$.id"),
        ({"version": 2}, "$.version"),
        ({"data": []}, "$.data"),
        ({"data": None}, "$.data"),
        ({"data": "{}"}, "$.data"),
    ],
)
def test_a_field_that_is_wrong_is_named_and_spares_the_others(
    fields: dict[str, Any], path: str
) -> None:
    parts = [event(seq=1), event(**fields), event(seq=3)]
    for message in ("[" + ",".join(parts) + "]", "\n".join(parts)):
        found = read_message(message)
        assert seqs(found.events) == [1, 3]
        (rejected,) = found.rejected
        assert path in rejected.reason
        assert rejected.text == parts[1].encode()[:1024]


@pytest.mark.parametrize(
    "bad",
    [
        r'{"a":"\ud800"}',
        r'{"\udfff":1}',
        '{"a":"\x00"}',
        '{"a":01}',
        '{"a":NaN}',
        # Up to Python 3.13, a thousand levels are too many; since then, what fills the C stack.
        '{"a":' + "[" * 1_000_000 + "]" * 1_000_000 + "}",
        '{"a":[1,2}',
        '{"a":"],[{"}x',
        '{"a":1}}',
    ],
    ids=lambda bad: bad[:16],
)
def test_a_line_that_is_not_json_spares_the_others_and_an_array_is_rejected(bad: str) -> None:
    for before in ([], [event(seq=1), event(seq=2)]):
        parts = [*before, event().replace("{}", bad), event(seq=3)]
        found = read_message("\n".join(parts))
        assert seqs(found.events) == [*range(1, len(before) + 1), 3]
        assert [rejected.text for rejected in found.rejected] == [parts[-2].encode()[:1024]]
    assert only_reason("[" + ",".join(parts) + "]").startswith("the array is not valid JSON: ")


@pytest.mark.parametrize("surrogate", [r"\ud800", r"\udc00\ud800", r"a\ud800\u0041"])
@pytest.mark.parametrize("key", ["type", "id", "sessionId", "version"])
def test_a_line_with_a_lone_surrogate_in_a_name_spares_the_others(key: str, surrogate: str) -> None:
    bad = event(seq=2, **{key: "HERE"}).replace("HERE", surrogate)
    found = read_message(f"{event(seq=1)}\n{bad}\n{event(seq=3)}")
    assert seqs(found.events) == [1, 3]
    assert [rejected.text for rejected in found.rejected] == [bad.encode()]


def test_a_nul_in_a_name_is_a_character_like_others() -> None:
    (found,) = read_message(f"[{event(type='a' + chr(0) + 'b')}]").events
    assert found.type == "a\0b"


def test_bytes_that_are_not_utf8_spare_the_others() -> None:
    bad = event(seq=2, data={"a": "HERE"}).encode().replace(b"HERE", b"\xff")
    for joined in (b"[%b,%b,%b]", b"%b\n%b\n%b\n"):
        found = read_message(joined % (event(seq=1).encode(), bad, event(seq=3).encode()))
        assert seqs(found.events) == [1, 3]
        (rejected,) = found.rejected
        assert (rejected.reason[:15], rejected.text) == ("not valid UTF-8", bad)


def test_an_array_that_is_cut_off_is_rejected_as_a_whole() -> None:
    message = f"[{event(seq=1)},{event(seq=2)}]"
    for length in range(1, len(message)):
        assert only_reason(message[:length]).startswith("the array is not valid JSON: ")


@pytest.mark.parametrize("message", [b"", b"  ", b"null", b"1", b'"x"', b"\xff\xfe", b"hello"])
def test_anything_else_is_rejected_as_a_whole(message: bytes) -> None:
    assert only_reason(message) == "must be a JSON array of events, or one JSON object per line"


@pytest.mark.parametrize("encode", [str, str.encode])
@pytest.mark.parametrize("form", ["[%s]", "%s\n%s", " [\n%s]"])
def test_a_byte_order_mark_before_a_message_is_skipped(encode: Any, form: str) -> None:
    whole = form.replace("%s", event(seq=1), 1).replace("%s", event(seq=2))
    assert read_message(encode("\ufeff" + whole)) == read_message(whole)
    assert not read_message(encode("\ufeff" + whole)).rejected


def test_a_byte_order_mark_before_a_report_is_skipped() -> None:
    assert read_message("\ufeff" + a_report()) == read_message(a_report())
    assert len(read_message("\ufeff" + a_report()).reports) == 1


@pytest.mark.parametrize(
    "message", ["\ufeff\ufeff[]", " \ufeff[]", "[\ufeff]", "\ufeff", "\ufeff\ufffe"]
)
def test_a_byte_order_mark_elsewhere_is_no_part_of_json(message: str) -> None:
    assert len(read_message(message).rejected) == 1


def test_a_byte_order_mark_before_another_line_rejects_that_line() -> None:
    found = read_message(f"{event(seq=1)}\n\ufeff{event(seq=2)}\n{event(seq=3)}")
    assert (seqs(found.events), len(found.rejected)) == ([1, 3], 1)


def test_an_empty_array_has_no_events() -> None:
    for message in ("[]", " [ ]\n"):
        found = read_message(message)
        assert (found.events, found.rejected) == ([], [])


def test_only_the_first_kilobyte_is_kept_of_what_is_rejected() -> None:
    (rejected,) = read_message("x" * 100_000).rejected
    assert rejected.text == b"x" * 1024


def test_of_very_many_bad_parts_the_first_are_named_and_the_others_counted() -> None:
    found = read_message("[" + "7," * 300_000 + event(seq=9) + "]")
    assert seqs(found.events) == [9]
    assert len(found.rejected) == 101
    assert found.rejected[-1].reason.startswith("299900 more in the same message")
    assert found.parts == 300_001


SHORTEST_EVENT = b'{"sessionId":"s","seq":1,"type":"t","timestamp":0,"data":{},"id":""}'
SHORTEST_REPORT = b'{"report":{"sessionId":"s","number":1,"state":"s"}}'


@pytest.mark.parametrize("part", [b"7", b"{}", b'"\xff"'], ids=repr)
@pytest.mark.parametrize("is_array", [True, False], ids=["array", "lines"])
def test_of_very_many_bad_parts_those_that_are_too_short_are_not_read(
    part: bytes, is_array: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def noting(part: bytes, *, or_report: bool) -> object:
        read.append(part)
        return read_one(part, or_report=or_report)

    read_one = messages._read_one
    monkeypatch.setattr(messages, "_read_one", noting)
    parts = [SHORTEST_EVENT, *[part] * 100_000, SHORTEST_EVENT.replace(b":1", b":2")]
    if is_array:
        found = read_message(b"[%b]" % b",".join(parts))
    else:
        found = read_message(b"\n".join([*parts, SHORTEST_REPORT]))
        assert [report.number for report in found.reports] == [1]
    assert seqs(found.events) == [1, 2]
    assert len(found.rejected) == 101
    assert found.rejected[-1].reason.startswith("99900 more in the same message")
    assert len(read) <= 105


@pytest.mark.parametrize(
    "hostile",
    [
        b"[" * 1_000_000,
        b'["' * 300_000,
        b'["' + b'\\"' * 500_000,
        b"[" + b"," * 1_000_000,
        b'{"a":' * 200_000,
        b"\n" * 1_000_000,
        b"[" + b"{}" * 300_000,
        b'["\\',
        b"]" * 1000,
        b"[]" * 1000,
        b"[}" * 1000,
    ],
    ids=lambda hostile: repr(hostile[:8]),
)
@pytest.mark.timeout(10)
def test_a_megabyte_of_nonsense_takes_no_long_time(hostile: bytes) -> None:
    found = read_message(hostile)
    assert found.events == []
    assert len(found.rejected) <= 101


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
events = st.fixed_dictionaries(
    {
        "sessionId": st.text(min_size=1, max_size=9),
        "seq": st.integers(0, 2**63 - 1),
        "type": st.text(min_size=1, max_size=9),
        "timestamp": st.integers(-(2**63), 2**63 - 1),
        "data": st.dictionaries(st.text(max_size=3), json_values, max_size=3),
        "id": st.text(max_size=9),
    },
    optional={"version": st.none() | st.text(max_size=3), "more": json_values},
)


@given(st.binary() | st.text())
def test_reading_never_raises(message: bytes | str) -> None:
    found = read_message(message)
    assert found.events == []  # by chance there is none
    assert found.rejected or message.strip() in ("[]", b"[]")


@given(st.binary(max_size=20), st.integers(0), st.integers(0), st.booleans())
def test_reading_what_was_damaged_never_raises(
    damage: bytes, at: int, length: int, lines: bool
) -> None:
    parts = [event(seq=n).encode() for n in (1, 2, 3)]
    message = b"\n".join(parts) if lines else b"[" + b",".join(parts) + b"]"
    at %= len(message)
    found = read_message(message[:at] + damage + message[at + length % 80 :])
    assert len(found.events) + len(found.rejected) >= 1


@settings(max_examples=50)  # large ones are slow to generate
@given(st.lists(st.tuples(st.booleans(), events, json_values), max_size=8), st.booleans())
def test_each_part_is_either_an_event_or_rejected(parts: list[Any], is_binary: bool) -> None:
    values = [good if is_good else bad for is_good, good, bad in parts]
    message: Any = json.dumps(values, ensure_ascii=False)
    found = read_message(message.encode() if is_binary else message)
    goods = [good for is_good, good, _ in parts if is_good]
    assert len(found.events) + len(found.rejected) == len(parts)
    for read, good in zip(found.events, goods, strict=True):
        said = msgspec.json.decode(msgspec.json.encode(read))
        assert said == {"version": None} | {k: v for k, v in good.items() if k != "more"}


@settings(max_examples=50)
@given(st.lists(events, min_size=1, max_size=8))
def test_lines_say_the_same_as_an_array(values: list[Any]) -> None:
    lines = b"".join(msgspec.json.encode(value) + b"\n" for value in values)
    as_array, as_lines = read_message(msgspec.json.encode(values)), read_message(lines)
    assert as_lines.rejected == as_array.rejected == []
    assert [msgspec.json.encode(e) for e in as_lines.events] == [
        msgspec.json.encode(e) for e in as_array.events
    ]


# Reports.


REPORT: dict[str, Any] = {"sessionId": "s", "number": 3, "state": "running", "lastSeq": 7}


def a_report(**fields: Any) -> str:
    return json.dumps({"report": REPORT | fields})


@pytest.mark.parametrize("encode", [str, str.encode], ids=["text", "binary"])
@pytest.mark.parametrize("end", ["", "\n", " \r\n"])
def test_object_with_the_one_key_report_is_a_report(encode: Any, end: str) -> None:
    gaps = [[2, 3, "overflow"]]
    found = read_message(encode(a_report(gaps=gaps, sampled={"spark": 3}, future=1) + end))
    assert (found.events, found.rejected) == ([], [])
    (report,) = found.reports
    assert (report.session_id, report.number, report.last_seq) == ("s", 3, 7)
    assert (report.gaps, report.sampled) == ([(2, 3, "overflow")], {"spark": 3})
    assert report.reason is msgspec.UNSET


def test_report_of_the_sdk_is_read() -> None:
    sent = Report(session_id="s", number=1, state="ended", reason="killed", gaps=[(1, 2, "x")])
    assert read_message(encode_report(sent)).reports == [sent]


def test_report_may_have_several_lines() -> None:
    pretty = json.dumps({"report": REPORT}, indent=2)
    assert [report.number for report in read_message(pretty).reports] == [3]


def test_reports_and_events_may_be_lines_of_one_message() -> None:
    found = read_message("\n".join([a_report(), event(seq=1), a_report(number=4), event(seq=2)]))
    assert (seqs(found.events), found.rejected) == ([1, 2], [])
    assert [report.number for report in found.reports] == [3, 4]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (a_report(number=-1), "Expected `int` >= 0 - at `$.report.number`"),
        (a_report(sessionId=""), "Expected `str` of length >= 1 - at `$.report.sessionId`"),
        (a_report(gaps=[[1, 2]]), "Expected `array` of length 3 - at `$.report.gaps[0]`"),
        (a_report(lastSeq=2**63), "Expected `int` <= 9223372036854775807"),
        ('{"report": 7}', "Expected `object`, got `int` - at `$.report`"),
        ('{"report": {"state": "running"}}', "missing required field `sessionId`"),
        ('{"report": {', "Input data was truncated"),
        (json.dumps({"report": REPORT, "more": 1}), "unknown field `more`"),
        (f"[{a_report()}]", "missing required field"),
    ],
)
def test_malformed_report_is_rejected_with_the_reason(message: str, reason: str) -> None:
    found = read_message(message)
    assert (found.events, found.reports, len(found.rejected)) == ([], [], 1)
    assert reason in found.rejected[0].reason
    assert found.rejected[0].text.decode() == message.strip("[]")


def test_report_that_is_not_utf8_is_rejected() -> None:
    found = read_message(a_report(sdk="?").encode().replace(b"?", b"\xff"))
    assert (found.reports, len(found.rejected)) == ([], 1)


def test_event_may_have_a_field_called_report() -> None:
    found = read_message('{"report": 1, ' + event()[1:])
    assert (len(found.events), found.reports, found.rejected) == (1, [], [])


# Contexts.


@pytest.mark.parametrize("lines", [True, False])
def test_context_is_kept_as_it_was_sent(lines: bool) -> None:
    text = '{"player":"p-17", "n":1e400,"n":1}'
    part = event(context="?").replace('"?"', text)
    found = read_message(part if lines else f"[{part}, {event()}]")
    context = found.events[0].context
    assert context is not msgspec.UNSET
    assert bytes(context).decode() == text
    assert lines or found.events[1].context is msgspec.UNSET


@pytest.mark.parametrize("value", ["text", 7, None, [1]])
def test_field_called_context_may_be_anything(value: Any) -> None:
    found = read_message(f"[{event(context=value)}]")
    assert (len(found.events), found.rejected) == (1, [])
