from __future__ import annotations

import collections
import datetime
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import pytest
from freezegun import freeze_time
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redvsblue_telemetry import InvalidEventError, TelemetryEvent, get_telemetry
from redvsblue_telemetry._recording.codec import EventCodec, child_session_id, new_session_id
from redvsblue_telemetry.testing import record_events

NOON = "2025-01-02T12:00:00.500Z"
NOON_MS = 1735819200500
LARGEST_SEQ = 2**63 - 1


@pytest.fixture
def codec() -> EventCodec:
    return EventCodec("match-1", "1.2.3")


def wire(codec: EventCodec, body: bytes, number: int = 1) -> dict[str, Any]:
    """What a receiver reads."""
    event: dict[str, Any] = json.loads(codec.to_wire(body, number))
    return event


def rejection(call: Callable[..., object], *args: object) -> InvalidEventError:
    # Not pytest.raises, which shows what was raised: some of it can't be shown.
    try:
        call(*args)
    except InvalidEventError as error:
        return error
    except Exception as error:
        raise AssertionError(f"raised a {type(error).__name__}") from None
    raise AssertionError("raised nothing")


# On the wire.


def test_an_event_has_the_keys_of_the_wire(codec: EventCodec) -> None:
    with freeze_time(NOON):
        body = codec.encode("hit", {"by": "blue-1"})
    event = wire(codec, body, 7)
    assert isinstance(event.pop("id"), str)
    assert event == {
        "type": "hit",
        "timestamp": NOON_MS,
        "sessionId": "match-1",
        "seq": 7,
        "version": "1.2.3",
        "data": {"by": "blue-1"},
    }


def test_without_a_version_there_is_no_such_key() -> None:
    codec = EventCodec("match-1")
    keys = set(wire(codec, codec.encode("hit", None)))
    assert keys == {"id", "type", "timestamp", "sessionId", "seq", "data"}


def test_the_timestamp_is_whole_milliseconds_of_the_moment_of_emission(codec: EventCodec) -> None:
    with freeze_time(NOON) as clock:
        first = codec.encode("a", {})
        clock.tick(1.5)
        second = codec.encode("b", {})
        clock.tick(3600)
        stamps = [wire(codec, body)["timestamp"] for body in (first, second)]
    assert stamps == [NOON_MS, NOON_MS + 1500]
    assert all(type(stamp) is int for stamp in stamps)


def test_an_event_is_one_line_of_utf_8(codec: EventCodec) -> None:
    sealed = codec.to_wire(codec.encode("hit\n", {"say": "Grüße\n\u2028\0🚀"}), 1)
    assert b"\n" not in sealed
    assert json.loads(sealed.decode("utf-8"))["data"] == {"say": "Grüße\n\u2028\0🚀"}


def test_the_number_becomes_the_seq(codec: EventCodec) -> None:
    body = codec.encode("hit", None)
    assert [wire(codec, body, number)["seq"] for number in (1, 2, LARGEST_SEQ)] == [
        1,
        2,
        LARGEST_SEQ,
    ]


def test_ids_differ_within_a_session(codec: EventCodec) -> None:
    body = codec.encode("hit", None)
    assert len({wire(codec, body, number)["id"] for number in range(1, 1001)}) == 1000


def test_ids_differ_between_sessions_that_share_a_session_id() -> None:
    codecs = [EventCodec("match-1") for _ in range(100)]
    assert len({wire(codec, codec.encode("hit", None), 1)["id"] for codec in codecs}) == 100


@pytest.mark.parametrize(
    "text", ["100%", "%d %s %(a)s %%", 'say "hi"', "back\\slash", "Grüße 🚀", "a\nb\0", "{}", "%"]
)
def test_any_text_can_be_session_id_and_version(text: str) -> None:
    codec = EventCodec(text, text)
    for body in (codec.encode("hit", None), codec.encode_event(TelemetryEvent("hit", seq=3))):
        event = wire(codec, body, 3)
        assert (event["sessionId"], event["version"], event["seq"]) == (text, text, 3)


def test_fresh_session_ids_differ() -> None:
    assert len({new_session_id() for _ in range(1000)}) == 1000


def test_a_forked_child_has_a_session_of_its_own_that_is_recognizable() -> None:
    assert child_session_id("match-1").startswith("match-1.")
    assert child_session_id(None) != child_session_id(None)


# Data.


def test_fields_win_over_data(codec: EventCodec) -> None:
    body = codec.encode("hit", {"a": 1, "b": 2}, {"b": 3, "c": 4})
    assert wire(codec, body)["data"] == {"a": 1, "b": 3, "c": 4}


@pytest.mark.parametrize("data", [None, {}, MappingProxyType({}), collections.OrderedDict()])
def test_no_data_is_an_empty_object(codec: EventCodec, data: Mapping[str, Any] | None) -> None:
    assert wire(codec, codec.encode("hit", data))["data"] == {}
    assert wire(codec, codec.encode_event({"type": "hit", "data": data}))["data"] == {}


@pytest.mark.parametrize(
    "data",
    [
        {"a": 1},
        collections.OrderedDict(a=1),
        collections.ChainMap({"a": 1}),
        collections.UserDict(a=1),
        MappingProxyType({"a": 1}),
    ],
    ids=lambda data: type(data).__name__,
)
def test_any_mapping_is_data(codec: EventCodec, data: Mapping[str, Any]) -> None:
    bodies = (
        codec.encode("hit", data),
        codec.encode("hit", None, data),
        codec.encode_event({"type": "hit", "data": data}),
        codec.encode_event(TelemetryEvent("hit", data)),
    )
    assert [wire(codec, body)["data"] for body in bodies] == [{"a": 1}] * 4


def test_changing_the_data_later_changes_nothing(codec: EventCodec) -> None:
    array = np.zeros(2)
    data: dict[str, Any] = {"ships": [{"hp": 3}], "at": array}
    bodies = (
        codec.encode("hit", data),
        codec.encode("hit", None, data),
        codec.encode_event({"type": "hit", "data": data}),
        codec.encode_event(TelemetryEvent("hit", data, seq=1)),
    )
    data["ships"][0]["hp"] = 0
    data["ships"].append("more")
    data["new"] = True
    array[0] = 9
    expected = {"ships": [{"hp": 3}], "at": [0, 0]}
    assert [wire(codec, body)["data"] for body in bodies] == [expected] * 4


def test_a_string_subclass_is_a_type_by_its_value(codec: EventCodec) -> None:
    class Name(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "something else"

    assert wire(codec, codec.encode(Name("hit"), None))["type"] == "hit"
    assert wire(codec, codec.encode_event({"type": Name("hit")}))["type"] == "hit"


# Events that bring something along.


def test_what_is_missing_is_filled_in(codec: EventCodec) -> None:
    with freeze_time(NOON):
        body = codec.encode_event(TelemetryEvent("hit"))
    event = wire(codec, body, 4)
    assert event.pop("id") == wire(codec, codec.encode("hit", None), 4)["id"]
    assert event == {
        "type": "hit",
        "timestamp": NOON_MS,
        "sessionId": "match-1",
        "seq": 4,
        "version": "1.2.3",
        "data": {},
    }


GIVEN: dict[str, Any] = {
    "id": "event-9",
    "type": "hit",
    "timestamp": 1234,
    "sessionId": "match-0",
    "seq": 99,
    "version": "0.9",
    "data": {"by": "blue-1"},
}


@pytest.mark.parametrize("as_mapping", [True, False], ids=["mapping", "TelemetryEvent"])
def test_what_is_given_is_kept(codec: EventCodec, as_mapping: bool) -> None:
    event = GIVEN if as_mapping else TelemetryEvent.from_mapping(GIVEN)
    assert wire(codec, codec.encode_event(event), 4) == GIVEN


@pytest.mark.parametrize("key", ["id", "sessionId", "seq", "version", "timestamp"])
def test_what_is_given_alone_is_kept_and_the_rest_filled_in(codec: EventCodec, key: str) -> None:
    with freeze_time(NOON):
        plain = wire(codec, codec.encode_event({"type": "hit", "data": {}}), 4)
        event = wire(codec, codec.encode_event({"type": "hit", "data": {}, key: GIVEN[key]}), 4)
    assert event == {**plain, key: GIVEN[key]}


def test_none_is_the_same_as_missing(codec: EventCodec) -> None:
    nothing = dict.fromkeys(["id", "sessionId", "seq", "version", "timestamp", "data"])
    with freeze_time(NOON):
        plain = wire(codec, codec.encode("hit", None), 4)
        event = wire(codec, codec.encode_event({"type": "hit", **nothing}), 4)
    assert event == plain


def test_session_id_may_be_written_as_python_does(codec: EventCodec) -> None:
    body = codec.encode_event({"type": "hit", "session_id": "match-0"})
    assert wire(codec, body)["sessionId"] == "match-0"


def test_a_uuid_is_an_id(codec: EventCodec) -> None:
    number = uuid.UUID(int=10)
    assert wire(codec, codec.encode_event({"type": "hit", "id": number}))["id"] == str(number)


def test_keys_that_no_event_has_are_fields_of_its_data(codec: EventCodec) -> None:
    event = {"type": "hit", "by": "blue-1", "shipId": "red-3", "data": {"by": "wins"}}
    data = wire(codec, codec.encode_event(event))["data"]
    assert data == {"by": "wins", "shipId": "red-3"}


def test_the_mapping_may_be_of_any_kind(codec: EventCodec) -> None:
    event = collections.ChainMap({"type": "hit"}, {"data": {"a": 1}})
    assert wire(codec, codec.encode_event(event))["data"] == {"a": 1}


@pytest.mark.parametrize(
    ("given", "milliseconds"),
    [
        (1234.9, 1234),
        (np.int64(1234), 1234),
        (0, 0),
        (datetime.datetime(2025, 1, 2, 12, tzinfo=datetime.timezone.utc), 1735819200000),
    ],
    ids=repr,
)
def test_a_timestamp_is_made_whole_milliseconds(
    codec: EventCodec, given: object, milliseconds: int
) -> None:
    stamp = wire(codec, codec.encode_event({"type": "hit", "timestamp": given}))["timestamp"]
    assert (stamp, type(stamp)) == (milliseconds, int)


def test_an_event_comes_back_from_the_wire_as_it_was(codec: EventCodec) -> None:
    event = TelemetryEvent.from_mapping(GIVEN)
    assert codec.from_wire(codec.to_wire(codec.encode_event(event), 1)) == event


def test_an_event_is_read_from_what_it_writes() -> None:
    event = TelemetryEvent.from_mapping(GIVEN)
    assert event.to_mapping() == GIVEN
    assert TelemetryEvent.from_mapping(event.to_mapping()) == event


def test_what_is_not_set_is_not_written() -> None:
    assert TelemetryEvent("hit").to_mapping() == {"type": "hit", "data": {}}


def test_type_and_data_may_be_positional_and_nothing_else_may() -> None:
    assert TelemetryEvent("hit", {"a": 1}) == TelemetryEvent(type="hit", data={"a": 1})
    with pytest.raises(TypeError):
        TelemetryEvent("hit", {}, 1234)  # type: ignore[misc]


def test_an_event_cannot_be_changed() -> None:
    event = TelemetryEvent("hit")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.type = "miss"  # type: ignore[misc]
    with pytest.raises(TypeError):
        event.data["a"] = 1  # type: ignore[index]


# The limit.


def longest_accepted(encode: Callable[[int], bytes]) -> int:
    """The most letters of padding that are accepted."""
    low, high = 0, 100_000
    while low < high:
        middle = (low + high + 1) // 2
        try:
            encode(middle)
        except InvalidEventError:
            high = middle - 1
        else:
            low = middle
    return low


@pytest.mark.parametrize("limit", [256, 1000, 16384])
@pytest.mark.parametrize("given", [{}, {"id": "event-9"}, {"sessionId": "m" * 40, "version": "%"}])
def test_the_limit_is_exact(limit: int, given: dict[str, str]) -> None:
    """Counted with the longest number there can be: an event of the limit's size passes."""
    codec = EventCodec("match-1", "1.2.3", max_event_bytes=limit)

    def encode(length: int) -> bytes:
        return codec.encode_event({"type": "hit", "data": {"pad": "x" * length}, **given})

    longest = longest_accepted(encode)
    assert len(codec.to_wire(encode(longest), LARGEST_SEQ)) == limit
    assert len(codec.to_wire(encode(longest), 1)) <= limit
    error = rejection(encode, longest + 1)
    assert (error.event_type, error.path) == ("hit", "data")
    assert error.reason == f"makes the event {limit + 1} bytes long; the limit is {limit}"


def test_the_limit_is_the_same_for_emit_and_push(codec: EventCodec) -> None:
    emitted = longest_accepted(lambda length: codec.encode("hit", {"pad": "x" * length}))
    pushed = longest_accepted(
        lambda length: codec.encode_event(TelemetryEvent("hit", {"pad": "x" * length}))
    )
    assert emitted == pushed


def test_the_limit_counts_bytes_not_letters(codec: EventCodec) -> None:
    ascii_letters = longest_accepted(lambda length: codec.encode("hit", {"pad": "x" * length}))
    rockets = longest_accepted(lambda length: codec.encode("hit", {"pad": "🚀" * length}))
    assert rockets == ascii_letters // 4


def test_the_type_counts_too() -> None:
    codec = EventCodec("match-1", max_event_bytes=1000)
    assert rejection(codec.encode, "x" * 1000, None).reason.endswith("the limit is 1000")


def test_what_an_event_brings_along_counts_too(codec: EventCodec) -> None:
    for key in ("id", "sessionId", "version"):
        event = {"type": "hit", "data": {"pad": "x" * 15_500}}
        codec.encode_event(event)
        error = rejection(codec.encode_event, {**event, key: "x" * 1024})
        assert error.reason.endswith("the limit is 16384")


# What can't be sent.


@pytest.mark.parametrize(
    ("type", "reason"),
    [
        ("", "must not be empty"),
        (5, "must be a string"),
        (b"hit", "must be a string"),
        (["hit"], "must be a string"),
        ("\ud800", "contains a lone surrogate, which UTF-8 can't encode"),
    ],
    ids=ascii,
)
def test_a_bad_type_is_named_as_such(codec: EventCodec, type: Any, reason: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: codec.encode(type, {"a": 1}),
        lambda: codec.encode_event({"type": type}),
        lambda: codec.encode_event({"type": type, "data": {}}),
        lambda: codec.encode_event(TelemetryEvent(type)),
    ]
    for call in calls:
        error = rejection(call)
        assert (error.path, error.reason) == ("type", reason)
        assert str(error).encode()


@pytest.mark.parametrize("event", [{}, {"data": {}}, {"type": None}, {"type": None, "data": {}}])
def test_a_missing_type_is_said_to_be_missing(codec: EventCodec, event: dict[str, Any]) -> None:
    error = rejection(codec.encode_event, event)
    assert (error.event_type, error.path, error.reason) == ("", "type", "is missing")


@pytest.mark.parametrize("data", [[1], [], 0, 5, "", "text", (), {1}, object(), True])
def test_data_that_is_no_mapping_is_named_as_such(codec: EventCodec, data: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: codec.encode("hit", data),
        lambda: codec.encode("hit", data, {"a": 1}),
        lambda: codec.encode_event({"type": "hit", "data": data}),
        lambda: codec.encode_event({"type": "hit", "data": data, "other": 1}),
        lambda: codec.encode_event(TelemetryEvent("hit", data)),
    ]
    for call in calls:
        error = rejection(call)
        assert (error.event_type, error.path) == ("hit", "data")
        assert error.reason == f"is a {type(data).__name__}, not a mapping"


@pytest.mark.parametrize(
    "event",
    [None, 5, "hit", ["hit"], object()],
    ids=["None", "a number", "text", "a list", "an object"],
)
def test_what_is_no_event_is_named_as_such(codec: EventCodec, event: Any) -> None:
    error = rejection(codec.encode_event, event)
    assert (error.path, error.reason) == ("event", "is neither a TelemetryEvent nor a mapping")


@pytest.mark.parametrize(
    ("data", "path", "reason"),
    [
        (
            {"ships": [0, 1, 2, {"target": object()}]},
            "data.ships[3].target",
            "can't be encoded: object has no form in JSON",
        ),
        ({"say": "\ud800"}, "data.say", "contains a lone surrogate, which UTF-8 can't encode"),
        ({"\udfff": 1}, "data", "contains a lone surrogate, which UTF-8 can't encode"),
        (
            {None: 1},
            "data",
            "has a key that is not a string, a number or a tuple of them: None",
        ),
    ],
    ids=["object", "surrogate in a value", "surrogate in a key", "key"],
)
def test_the_error_names_type_path_and_reason(
    codec: EventCodec, data: dict[Any, Any], path: str, reason: str
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: codec.encode("hit", data),
        lambda: codec.encode("hit", collections.ChainMap(data)),
        lambda: codec.encode_event({"type": "hit", "data": data}),
        lambda: codec.encode_event(TelemetryEvent("hit", data, id="event-9")),
    ]
    for call in calls:
        error = rejection(call)
        assert (error.event_type, error.path, error.reason) == ("hit", path, reason)
        assert str(error) == f"event 'hit': {path}: {reason}"


def test_circular_data_refers_to_itself(codec: EventCodec) -> None:
    ship: dict[str, Any] = {}
    ship["crew"] = [{"of": ship}]
    error = rejection(codec.encode, "hit", ship)
    assert (error.path, error.reason) == ("data.crew[0].of", "refers to itself")
    error = rejection(codec.encode_event, {"type": "hit", "data": {"ship": ship}})
    assert (error.path, error.reason) == ("data.ship.crew[0].of", "refers to itself")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("id", "", "must be a non-empty string"),
        ("id", 5, "must be a non-empty string"),
        ("id", "\ud800", "contains a lone surrogate, which UTF-8 can't encode"),
        ("sessionId", b"match-1", "must be a non-empty string"),
        ("sessionId", "\ud800", "contains a lone surrogate, which UTF-8 can't encode"),
        ("version", 1.2, "must be a non-empty string"),
        ("seq", -1, "must be an integer from 0 to 9223372036854775807"),
        ("seq", 2**63, "must be an integer from 0 to 9223372036854775807"),
        ("seq", 1.0, "must be an integer from 0 to 9223372036854775807"),
        ("seq", True, "must be an integer from 0 to 9223372036854775807"),
        ("timestamp", "1234", "must be a number of milliseconds"),
        ("timestamp", True, "must be a number of milliseconds"),
        ("timestamp", float("nan"), "is nan"),
        ("timestamp", float("inf"), "is inf"),
    ],
    ids=ascii,
)
def test_what_an_event_brings_along_is_checked(
    codec: EventCodec, key: str, value: object, reason: str
) -> None:
    error = rejection(codec.encode_event, {"type": "hit", key: value})
    assert (error.event_type, error.path, error.reason) == ("hit", key, reason)


@pytest.mark.parametrize(
    "timestamp",
    [
        10**400,
        np.datetime64("2025-01-02"),
        np.array([1, 2]),
        datetime.datetime.min,  # noqa: DTZ901
        datetime.date(2025, 1, 2),
    ],
    ids=["huge", "datetime64", "array", "first datetime", "date"],
)
def test_a_timestamp_that_is_no_moment_is_named_as_such(
    codec: EventCodec, timestamp: object
) -> None:
    error = rejection(codec.encode_event, {"type": "hit", "timestamp": timestamp})
    assert (error.event_type, error.path) == ("hit", "timestamp")


# Anything that a game may emit.


class Unprintable:
    """Has no repr: that is a bug of the game's own, found when its event is explained."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


class UnspeakableError(Exception):
    """An error that can't even be shown."""

    def __str__(self) -> str:
        raise ValueError("no str")

    __repr__ = __str__


class Untouchable:
    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"don't touch {name}")


class Unreadable(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise UnspeakableError

    def __iter__(self) -> Iterator[str]:
        raise UnspeakableError

    def __len__(self) -> int:
        return 3


class Bottomless:
    def tolist(self) -> object:
        return [self]


@pytest.mark.parametrize(
    "value",
    [
        Unprintable(),
        {Unprintable(): object()},
        Untouchable(),
        Unreadable(),
        Bottomless(),
        UnspeakableError(),
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda value: {"x": [value]}, lambda value: value])
def test_a_bad_event_raises_nothing_but_that_it_is_one(
    codec: EventCodec, value: Any, wrap: Callable[[Any], Any]
) -> None:
    data = wrap(value)
    calls: list[Callable[[], object]] = [
        lambda: codec.encode("hit", data),
        lambda: codec.encode("hit", data, {"other": 1}),
        lambda: codec.encode_event({"type": "hit", "data": data}),
        lambda: codec.encode_event({"type": "hit", "data": data, "other": 1}),
        lambda: codec.encode_event(TelemetryEvent("hit", data)),
    ]
    for call in calls:
        error = rejection(call)
        assert error.event_type == "hit"
        assert error.path.startswith("data")


BAD_CALLS: dict[str, Callable[[], object]] = {
    "type without a repr": lambda: get_telemetry().emit(Unprintable()),  # type: ignore[arg-type]
    "key without a repr": lambda: get_telemetry().emit("hit", {"x": {Unprintable(): object()}}),
    "value that can't be touched": lambda: get_telemetry().emit("hit", {"x": Untouchable()}),
    "data that can't be read": lambda: get_telemetry().emit("hit", Unreadable()),
    "value that can't be read": lambda: get_telemetry().emit("hit", {"x": Unreadable()}),
    "event that can't be read": lambda: get_telemetry().push(Unreadable()),
    "event whose type has no repr": lambda: get_telemetry().push({"type": Unprintable()}),
    "timestamp out of range": lambda: get_telemetry().push({"type": "a", "timestamp": 10**400}),
}


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS)
def test_no_event_is_so_bad_that_a_frame_hears_of_it(call: Callable[[], object]) -> None:
    with record_events() as events:
        call()
        assert (events.stats().emitted, events.stats().rejected) == (0, 1)


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS)
def test_strict_raises_the_one_error_that_it_promises(call: Callable[[], object]) -> None:
    with record_events(strict=True) as events:
        rejection(call)
        assert (events.stats().emitted, events.stats().rejected) == (0, 1)


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
    max_leaves=20,
)


@given(
    type=st.text(min_size=1),
    data=st.dictionaries(st.text(), JSON, max_size=3),  # each is a tree of up to 20 leaves
    session_id=st.text(min_size=1),
    version=st.none() | st.text(min_size=1),
    number=st.integers(1, LARGEST_SEQ),
)
def test_any_plain_event_survives_the_way(
    type: str, data: dict[str, Any], session_id: str, version: str | None, number: int
) -> None:
    codec = EventCodec(session_id, version, max_event_bytes=10_000_000)
    sealed = codec.to_wire(codec.encode(type, data), number)
    event = codec.from_wire(sealed)
    assert event == attrs.evolve(
        event, type=type, data=data, session_id=session_id, version=version, seq=number
    )
    assert json.loads(sealed)["data"] == data
    again = codec.to_wire(codec.encode_event(event), 1)
    assert json.loads(again) == json.loads(sealed)


def is_short(value: object) -> bool:
    """Return False for a range of hundreds of millions, which would fill the memory as a list."""
    return not isinstance(value, range) or abs(value.stop - value.start) < 10_000


ANYTHING = st.from_type(type).flatmap(st.from_type).filter(is_short) | st.recursive(
    st.none() | NUMBERS | st.text(st.characters()) | st.binary() | st.complex_numbers(),
    lambda parts: (
        st.lists(parts)
        | st.tuples(parts, parts)
        | st.dictionaries(st.text(st.characters()) | st.tuples(st.integers()), parts)
        | st.builds(collections.deque, st.lists(parts))
    ),
    max_leaves=10,
)


@settings(suppress_health_check=list(HealthCheck))
@given(type=st.text(st.characters()) | ANYTHING, data=ANYTHING, timestamp=ANYTHING)
@pytest.mark.filterwarnings("ignore")
def test_no_object_raises_anything_but_that_the_event_is_bad(
    type: Any, data: Any, timestamp: Any
) -> None:
    codec = EventCodec("match-1")
    calls: list[Callable[[], bytes]] = [
        lambda: codec.encode(type, data),
        lambda: codec.encode("hit", {"x": data}),
        lambda: codec.encode_event({"type": type, "data": data, "timestamp": timestamp}),
    ]
    for call in calls:
        try:
            body = call()
        except InvalidEventError as error:
            reason = str(error)
            reason.encode()
        else:
            assert isinstance(json.loads(codec.to_wire(body, 1)), dict)
