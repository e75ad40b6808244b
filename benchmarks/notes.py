"""Notes that outlive the process that writes them: a file that several processes map.

A game that is going to be killed counts here, for each of its emitters, the events whose ``emit``
it has called and those whose ``emit`` has returned. Each note is one aligned word, so a kill never
leaves half of one. On Linux, the file is in memory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SLOTS", "Notes", "kept_notes", "memory_directory"]

SLOTS = 128  # emitters of one game and of its forked children
_WORD = 8  # bytes
_HEAD_WORDS = 32
_SLOT_WORDS = 4
_BYTES = _WORD * (_HEAD_WORDS + SLOTS * _SLOT_WORDS)


def memory_directory() -> Path:
    """Return a directory for the notes: in memory where there is one."""
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


class Notes:
    """The notes of one game. Written by the game, and by its forked children; read by all.

    Args:
        path: the file; created if it doesn't exist.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < _BYTES:
                os.ftruncate(descriptor, _BYTES)
            self._map = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)
        self.words = memoryview(self._map).cast("Q")
        """The words as they are; the game's hot loop writes to them without a call."""

    def close(self) -> None:
        """Let go of the file."""
        self.words.release()
        self._map.close()

    # The head: words about the game as a whole.

    def __getitem__(self, name: int) -> int:
        return self.words[self._head(name)]

    def __setitem__(self, name: int, value: int) -> None:
        self.words[self._head(name)] = value

    @staticmethod
    def _head(name: int) -> int:
        if not 0 <= name < _HEAD_WORDS:
            raise IndexError(name)
        return name

    # The slots: one for each emitter.

    @staticmethod
    def slot(emitter: int) -> int:
        """Return the index of an emitter's first word.

        The words are: how many events it has begun to emit, how many of these emits have returned,
        whom it belongs to, and how long its slowest emit took.
        """
        if not 0 <= emitter < SLOTS:
            raise IndexError(f"there are slots for {SLOTS} emitters, not for number {emitter}")
        return _HEAD_WORDS + emitter * _SLOT_WORDS

    def begun(self, emitter: int) -> int:
        """Return how many events an emitter has begun to emit."""
        return self.words[self.slot(emitter)]

    def returned(self, emitter: int) -> int:
        """Return how many of an emitter's emits have returned."""
        return self.words[self.slot(emitter) + 1]

    def owner(self, emitter: int) -> int:
        """Return whom an emitter belongs to: a number of the game's choice, 0 for nobody."""
        return self.words[self.slot(emitter) + 2]

    def slowest(self, emitter: int) -> int:
        """Return how long an emitter's slowest emit took, in nanoseconds, if it has noted that."""
        return self.words[self.slot(emitter) + 3]


@contextlib.contextmanager
def kept_notes(path: Path) -> Iterator[Notes]:
    """Notes that are deleted at the end, when no other process has them open."""
    notes = Notes(path)
    try:
        yield notes
    finally:
        notes.close()
        path.unlink()
