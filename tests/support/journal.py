"""Writes runs as a game's journal does, at any stage of its work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import attrs

from redvsblue_telemetry._journal.journal import Journal
from redvsblue_telemetry._journal.layout import (
    BASE_AT,
    FILLER,
    Header,
    base_entry,
    confirmed_entry,
    encode_header,
    end_entry,
    index_entry,
)
from redvsblue_telemetry._journal.records import record_of
from redvsblue_telemetry._recording.codec import EncodedEvent, EventCodec

SESSION, RUN, STARTED_AT = "5f1c8e0bd6a94f8f", "0123456789abcdef", 1_795_600_000_000
DATA_BYTES = 16 * 1024
CODEC = EventCodec(SESSION)


def numbered_record(number: int) -> bytes:
    """The record of an event whose data and time follow from its number."""
    event = CODEC.encode(f"type-{number % 7}", {"n": number, "text": "][1,x " * (number % 4)})
    return record_of(
        EncodedEvent(event.prefix, (STARTED_AT + number) * 1_000_000 + number, event.data)
    )


@attrs.frozen(kw_only=True)
class Segment:
    """A segment of a run to be written.

    Args:
        number: of the segment.
        first: the number of its first record.
        records: in it.
        indexed: how many of them have an entry.
        group: how many are in one entry.
        is_full: whether the rest was filled, as it is before the next segment is used.
        has_base: whether it has the number of its first record.
        confirmed: a number up to which all is settled, or None.
        torn: bytes of another record, the rest of which was not written.
        data_bytes: its size.
        previous: the number of the segment before it, unless that is the number before.
    """

    number: int = 1
    first: int = 1
    records: Sequence[bytes] = ()
    indexed: int = 0
    group: int = 50
    is_full: bool = False
    has_base: bool = True
    confirmed: int | None = None
    torn: bytes = b""
    data_bytes: int = DATA_BYTES
    session_id: str = SESSION
    run: str = RUN
    started_at: int = STARTED_AT
    version: str | None = None
    previous: int | None = None

    @property
    def content(self) -> bytes:
        """The whole file."""
        header = Header(
            session_id=self.session_id,
            run=self.run,
            segment=self.number,
            data_bytes=self.data_bytes,
            started_at=self.started_at,
            version=self.version,
            previous=self.number - 1 if self.previous is None else self.previous,
        )
        block = encode_header(header)
        if self.has_base:
            bases = base_entry(self.first) * 2
            block = block[:BASE_AT] + bases + block[BASE_AT + len(bases) :]
        data = b"".join(self.records) + self.torn
        assert len(data) <= self.data_bytes
        entries = [end_entry(self.number)] * 2
        offsets = list(accumulate(map(len, self.records), initial=0))
        for at in range(0, self.indexed, self.group):
            group = self.records[at : min(at + self.group, self.indexed)]
            entries.append(index_entry(self.first + at, offsets[at], group))
        if self.confirmed is not None:
            entries.append(confirmed_entry(self.confirmed))
        data = data.ljust(self.data_bytes, FILLER if self.is_full else b"\0")
        return block + data + b"".join(entries)


def write_run(
    journal: Path, *segments: Segment, name: str = SESSION, has_lock: bool = True
) -> Path:
    """Write a dead run into a directory; returns its own."""
    path = journal / name
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if has_lock:
        path.joinpath("redvsblue.lock").touch()
    for segment in segments:
        path.joinpath(f"{segment.number:08}.events").write_bytes(segment.content)
    return path


def records(first: int, count: int) -> list[bytes]:
    """The records of events with these numbers."""
    return [numbered_record(number) for number in range(first, first + count)]


def numbers_of(numbered: Sequence[tuple[EncodedEvent, int]]) -> list[int]:
    """The numbers of events, after a look at the events themselves."""
    for event, number in numbered:
        assert record_of(event) == numbered_record(number)
    return [number for _, number in numbered]


def journal_of_a_session(path: Path) -> Journal:
    """A journal whose first push opens it, as in a forked child."""
    journal = Journal(
        path,
        EventCodec("session"),
        capacity=None,
        memory_capacity=100,
        max_bytes=2**30,
        high_water=100,
        on_high_water=lambda: None,
        on_first_push=lambda: None,
    )
    journal.store.on_first_push = journal.open
    return journal
