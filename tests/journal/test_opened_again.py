"""A journal that is opened again in the middle of a session, as after the player's toggle."""

from __future__ import annotations

from pathlib import Path

from redvsblue_telemetry._journal.dead import RunFiles
from redvsblue_telemetry._journal.layout import Header
from redvsblue_telemetry._journal.run import RunDirectory
from redvsblue_telemetry._journal.store import JournalStore

HEADER = Header(session_id="session", run="run", segment=1, data_bytes=0, started_at=0, previous=0)


def numbers(run: RunDirectory) -> list[int]:
    return [number for piece in RunFiles(run.segments()).read() for _, number in piece]


def test_the_first_event_after_that_has_a_number_on_disk_at_once(tmp_path: Path) -> None:
    store = JournalStore(max_bytes=2**24)
    first = RunDirectory.create(tmp_path, "session", "first")
    store.open(first, HEADER)
    for _ in range(3):
        store.journal.write(b'[1,"played",{}]')
    assert numbers(first) == [1, 2, 3]
    store.erase()
    first.delete()
    second = RunDirectory.create(tmp_path, "session", "second")
    store.open(second, HEADER)
    store.journal.write(b'[1,"played",{}]')
    # Nobody has looked at the store since, and a kill would leave the files as they are now.
    assert numbers(second) == [4]
    assert store.close(keep=False) == 0
    second.delete()
