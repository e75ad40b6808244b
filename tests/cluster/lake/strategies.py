"""Games that play, for tests that store the same messages by a collector and in a lake."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from hypothesis import settings
from hypothesis import strategies as st

from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer

__all__ = ["Both", "days", "few", "stored"]

few = settings(max_examples=max(1, settings().max_examples // 5))
"""For examples that take a second each."""

START = 1_700_000_000_000
SESSIONS = ["s", "s-2", "ü\U0001f680", "a'b\"c", "\x00", "session-" + "x" * 60]
TYPES = ["hit", "crash", "frames", "", "\U0001f680", "a b", "'; --"]
VERSIONS = [None, "1.0", "1.1", "", "\u202e"]
CONTEXTS = [
    '{"player":"p-1","level":3}',
    '{ "player" : "p-2" }',
    '{"player":"\U0001f47e","deep":{"a":[1,2]}}',
    '{"player":""}',
    '{"player":"' + "x" * 1001 + '"}',
    "[1]",
    '"p-1"',
    "null",
]
NUMBERS = [
    "1",
    "-0.0",
    "1e400",
    "-1e-400",
    "123456789012345678901234567890",
    "0.1",
    "9007199254740993",
]
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["\x00", "\x1b[31m", "=1+1", "</script>", "x" * 300, "a\\b", 'q"q', "Ärger"]),
)
values = st.recursive(
    st.one_of(
        texts.map(json.dumps),
        texts.map(lambda text: json.dumps(text, ensure_ascii=False)),
        st.sampled_from([*NUMBERS, "true", "false", "null"]),
        st.integers(-(2**70), 2**70).map(str),
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
        st.lists(st.tuples(texts.map(json.dumps), inner), max_size=3).map(
            lambda pairs: "{" + ",\n".join(f"{name}: {value}" for name, value in pairs) + "}"
        ),
    ),
    max_leaves=6,
)
names = st.one_of(st.sampled_from(['"damage"', '"at"', '"at.x"']), texts.map(json.dumps))
data = st.lists(st.tuples(names, values), max_size=4).map(
    lambda pairs: "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"
)
TIMES = [0, -5, 2**63 - 1, -(2**63)]


@st.composite
def event(draw: st.DrawFn) -> str:
    session = draw(st.sampled_from(SESSIONS))
    seq = draw(st.one_of(st.integers(0, 12), st.sampled_from([2**63 - 1, 2**53])))
    fields: dict[str, Any] = {
        "sessionId": session,
        "seq": seq,
        "type": draw(st.sampled_from(TYPES)),
        "timestamp": draw(st.one_of(st.integers(START, START + 10**9), st.sampled_from(TIMES))),
        "id": draw(
            st.sampled_from(
                [f"{session}-{seq}", f"r-{seq}", f"{seq}", f"-{seq}", "", "\x00", "same"]
            )
        ),
    }
    version = draw(st.sampled_from(VERSIONS))
    if version is not None:
        fields["version"] = version
    text = json.dumps(fields, ensure_ascii=draw(st.booleans()))[:-1]
    context = draw(st.one_of(st.none(), st.sampled_from(CONTEXTS)))
    if context is not None:
        text += f',"context":{context}'
    return f'{text},"data":{draw(data)}}}'


@st.composite
def report(draw: st.DrawFn) -> str:
    small = st.integers(0, 15)
    reasons = ["overflow", "refused", "forwarded", "unexplained", "waiting", "\U0001f680"]
    fields: dict[str, Any] = {
        "sessionId": draw(st.sampled_from(SESSIONS)),
        "number": draw(st.integers(0, 4)),
        "state": draw(st.sampled_from(["running", "ended", "ended", "other"])),
        "startedAt": draw(st.sampled_from([0, START, START + 5])),
        "at": draw(st.sampled_from([0, START + 9, 2**63 - 1])),
        "lastSeq": draw(st.one_of(small, st.just(2**63 - 1))),
        "emitted": draw(small),
        "delivered": draw(small),
        "buffered": draw(small),
        "rejected": draw(st.integers(0, 2)),
        "dropped": draw(st.dictionaries(st.sampled_from(reasons), small, max_size=2)),
        "gaps": draw(st.lists(st.tuples(small, small, st.sampled_from(reasons)), max_size=3)),
    }
    if draw(st.booleans()):
        fields["reason"] = draw(
            st.sampled_from(["stopped", "crashed", "killed", "switched_off", "?"])
        )
    if draw(st.booleans()):
        fields["version"] = draw(st.sampled_from(["1.0", "2.0", ""]))
    return json.dumps({"report": fields})


garbage = st.sampled_from(["garbage", "[1, 2]", '{"a":1}', "[", '[{"seq":-1}]', ""])
messages = st.one_of(
    st.lists(event(), min_size=1, max_size=6).map(lambda parts: f"[{','.join(parts)}]"),
    st.lists(event(), min_size=1, max_size=3).map("\n".join),
    report(),
    garbage,
)


class Group(NamedTuple):
    """What arrives at once."""

    after: int
    """Milliseconds since the group before."""
    messages: list[str]
    is_last: bool
    """Whether it is the last one of a commit."""


days = st.lists(
    st.builds(
        Group,
        st.sampled_from([1, 1000, 70_000, 40_000_000]),
        st.lists(messages, min_size=1, max_size=4),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)
"""What arrives on some days, in order."""


class Both(NamedTuple):
    """The same messages, stored twice."""

    database: Database
    path: Path
    lake: Path
    now: int
    """After all of them."""


def check(type_: str, data: msgspec.Raw) -> str | None:
    """Return a fault for some events."""
    return f"data: no {type_}, Ä" if b"damage" in bytes(data) and type_ else None


@contextlib.contextmanager
def stored(groups: Sequence[Group], now: int = START) -> Iterator[Both]:
    """Store messages by a collector and in a lake, one group after the other, from a time on."""
    with contextlib.ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        database = opened.enter_context(contextlib.closing(Database(directory / "t.sqlite3")))
        writer = opened.enter_context(
            contextlib.closing(Writer(database, check, clock=lambda: now))
        )
        lake = Lake.open(str(directory / "lake"))
        claim = lake.claim("stream", [0])
        rows, sequence = claim.rows(), 0
        for group in groups:
            now += group.after
            messages = [read_message(message) for message in group.messages]
            writer.store(messages)
            for message in messages:
                sequence += 1
                rows.add(0, sequence, now, message, check)
            if group.is_last:
                lake.append(claim, rows, {0: sequence})
        lake.append(claim, rows, {0: sequence})
        yield Both(database, directory / "t.sqlite3", directory / "lake", now)
