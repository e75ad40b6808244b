from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

import pytest

import redvsblue_telemetry._journal.segment as segment_module
from redvsblue_telemetry._journal.layout import (
    HEADER_BYTES,
    EntryKind,
    Header,
    decode_entries,
    decode_header,
)
from redvsblue_telemetry._journal.segment import Segment
from tests.support.systems import needs_modes

HEADER = Header(
    session_id="session", run="run", segment=7, data_bytes=4096, started_at=1, previous=6
)
RECORD = b'[1795600000000000000,"hit",{"n":1}]'


@pytest.fixture
def segment(tmp_path: Path) -> Segment:
    return Segment(7, 4096, path=tmp_path / "7.events", header=HEADER)


def written(segment: Segment) -> bytes:
    assert segment.path is not None
    return segment.path.read_bytes()


@needs_modes
def test_a_file_is_private_and_has_all_its_blocks(segment: Segment) -> None:
    assert segment.path is not None
    status = segment.path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_blocks * 512 >= status.st_size
    segment.delete()


def test_a_file_has_its_size_from_the_beginning_and_is_deleted(segment: Segment) -> None:
    assert segment.path is not None
    assert segment.path.stat().st_size == segment.file_bytes > HEADER_BYTES + 4096
    segment.delete()
    assert not segment.path.exists()


def test_a_file_that_exists_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "7.events"
    path.write_bytes(b"another")
    with pytest.raises(FileExistsError):
        Segment(7, 4096, path=path, header=HEADER)
    assert path.read_bytes() == b"another"


@pytest.mark.parametrize("has_readv", [True, False])
def test_a_record_is_in_the_file_when_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_readv: bool
) -> None:
    if not has_readv:  # as on Windows
        monkeypatch.delattr(os, "readv", raising=False)
    segment = Segment(7, 4096, path=tmp_path / "7.events", header=HEADER)
    segment.follow(6)
    segment.write(RECORD)
    content = written(segment)
    assert decode_header(content[:HEADER_BYTES]).previous == 6
    assert content[HEADER_BYTES:].startswith(RECORD + b"\0")
    segment.delete()


def test_what_does_not_fit_is_refused_and_leaves_no_trace(segment: Segment) -> None:
    for _ in range(4096 // len(RECORD)):
        segment.write(RECORD)
    before = written(segment)
    with pytest.raises(ValueError, match="out of range"):
        segment.write(RECORD)
    assert written(segment) == before
    segment.count()
    assert list(segment.lengths) == [len(RECORD)] * (4096 // len(RECORD))
    segment.delete()


def test_a_segment_may_be_full_to_the_last_byte(segment: Segment) -> None:
    last = b'[1795600000000000000,"hit",{"pad":"%b"}]'
    segment.write(RECORD)
    segment.write(last % (b"x" * (4096 - len(RECORD) - len(last) + 2)))
    segment.count()
    assert list(segment.lengths) == [len(RECORD), 4096 - len(RECORD)]
    segment.seal()
    segment.count()
    assert len(segment.lengths) == 2
    segment.delete()


def test_after_the_seal_nothing_is_written_and_all_is_counted(segment: Segment) -> None:
    segment.write(RECORD)
    segment.count()
    segment.write(RECORD)
    segment.seal()
    with pytest.raises(ValueError, match="out of range"):
        segment.write(b"[]")
    segment.count()
    assert len(segment.lengths) == 2
    segment.delete()


def test_a_closed_segment_refuses_records_and_is_read_from_its_file(segment: Segment) -> None:
    segment.write(RECORD)
    segment.count()
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        segment.write(RECORD)
    assert segment.read(HEADER_BYTES, len(RECORD)) == RECORD
    assert not segment.is_open
    segment.append(b"nowhere")  # given up by another thread: not an error
    segment.sync()
    segment.delete()
    with pytest.raises(FileNotFoundError):
        segment.read(HEADER_BYTES, len(RECORD))


@pytest.mark.parametrize("has_pwrite", [True, False])
def test_entries_do_not_touch_records(
    segment: Segment, monkeypatch: pytest.MonkeyPatch, has_pwrite: bool
) -> None:
    if not has_pwrite:  # as on Windows
        monkeypatch.delattr(os, "pwrite", raising=False)
    segment.follow(6)
    segment.write(RECORD)
    segment.begin(41)
    for number in (5, 6, 7):
        segment.set_confirmed(number)
    segment.append(b"?" * 20_000)  # longer than the space that is set aside
    segment.write(RECORD)
    content = written(segment)
    entries = [(entry.kind, entry.number) for entry in decode_entries(content)]
    assert entries[:2] == [(EntryKind.BASE, 41)] * 2
    assert sorted(entries[2:4]) == [(EntryKind.CONFIRMED, 6), (EntryKind.CONFIRMED, 7)]
    assert entries[4:] == [(EntryKind.END, 7)] * 2
    assert content[HEADER_BYTES:].startswith(RECORD * 2 + b"\0")
    assert len(content) == segment.file_bytes
    segment.delete()


def test_only_what_is_new_needs_a_sync(segment: Segment) -> None:
    segment.begin(1)
    segment.sync()
    assert segment.is_synced
    segment.write(RECORD)
    segment.count()
    assert not segment.is_synced
    segment.sync()
    assert segment.is_synced
    segment.set_confirmed(1)
    assert not segment.is_synced
    segment.delete()


def test_a_piece_that_ends_in_the_middle_of_a_record_is_counted_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for size in range(1, 120):
        monkeypatch.setattr(segment_module, "_CHUNK_BYTES", size)
        segment = Segment(1, 4096)
        records = [b'[%d,"t",{"n":"][1,%b"}]' % (10**18 + n, b"x" * n) for n in range(20)]
        for record in records:
            segment.write(record)
        while segment.count():
            pass
        assert list(segment.lengths) == [len(record) for record in records]
        segment.close()


def test_a_sync_begins_with_what_is_only_in_the_mapping(
    segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    flush, sync_data = segment_module._flush, segment_module._sync_data

    def flush_and_note(memory: mmap.mmap) -> None:
        calls.append("flush")
        flush(memory)

    def sync_and_note(fd: int) -> None:
        calls.append("sync")
        sync_data(fd)

    monkeypatch.setattr(segment_module, "_flush", flush_and_note)
    monkeypatch.setattr(segment_module, "_sync_data", sync_and_note)
    segment.write(RECORD)
    segment.sync()
    assert calls == ["flush", "sync"]
    segment.delete()


def test_a_file_that_is_deleted_during_a_sync_is_gone_after_it(
    segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_module, "_sync_data", lambda _: segment.delete())
    segment.write(RECORD)
    segment.sync()
    assert segment.path is not None
    assert not segment.path.exists()


def test_a_file_whose_descriptor_a_host_has_closed_can_be_deleted(segment: Segment) -> None:
    assert segment.path is not None
    os.close(segment._fd)
    segment.write(RECORD)
    assert RECORD in written(segment)
    segment.delete()
    assert not segment.path.exists()
