"""One segment: a piece of memory for records, with or without a file behind it.

It owns the calls of the operating system that a segment needs, and keeps how far its records are
counted, taken and indexed. Which segment is the active one, and what becomes of each, is the
business of :mod:`.store`.

Never a SIGBUS: the blocks of a file are allocated before it is mapped, so a full disk is an OSError
at that moment; see :mod:`.blocks`. Never a page fault in ``emit``: all pages are touched by a call
that releases the GIL.

A host may close all descriptors of the process, and open files that get the same numbers (see
:mod:`redvsblue_telemetry._network.owned`). The mapping survives that. So before each use of the
descriptor, its device and inode are compared, and the file is opened again if they are not those of
the file. Before Python 3.13, a mapping has a copy of the descriptor, which can't be looked at. So
where ours was closed, the mapping is never closed, since that might close a file of the host. On
Windows, it has another handle, which is not among the descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

import msgspec

from .._recording.counter import IS_FREE_THREADED
from .blocks import allocate, check_size
from .descriptors import Identity, close_own, identity_of, opened, read_at, retried
from .layout import (
    BASE_AT,
    CONFIRMED_AT,
    ENTRY_BYTES,
    FILLER,
    HEADER_BYTES,
    Header,
    base_entry,
    confirmed_entry,
    encode_header,
    end_entry,
)
from .records import record_lengths

__all__ = ["TAIL_BYTES", "Segment"]

TAIL_BYTES = 16 * 1024
"""Set aside for entries, so that most of them fit on a disk that is full later."""
_ZEROS = bytes(64 * 1024)
_CHUNK_BYTES = 64 * 1024  # read at once: some 400 records, 0.1 ms
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_kept: list[mmap.mmap] = []
"""Mappings that are not closed any more; see above."""
_sync_data = getattr(os, "fdatasync", os.fsync)  # not on macOS and Windows

if sys.platform == "win32":
    import ctypes

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel32.FlushViewOfFile.argtypes = ctypes.c_void_p, ctypes.c_size_t

    def _flush(memory: mmap.mmap) -> None:
        """Hand the changed pages of a mapping to the file, which a sync alone writes only in part.

        ``mmap.flush`` does so, too, but keeps the GIL meanwhile.

        Raises:
            OSError: it failed.
        """
        view = ctypes.c_char.from_buffer(memory)  # the mapping can't be closed while this is there
        if not _kernel32.FlushViewOfFile(ctypes.byref(view), len(memory)):
            raise ctypes.WinError(ctypes.get_last_error())

else:

    def _flush(memory: mmap.mmap) -> None:
        """Do nothing: a sync of the file includes its mappings."""


class Segment:
    """Memory for records, which any thread fills by calling :attr:`write`.

    With the GIL, ``write`` is a method of ``mmap``: one call into C that copies the record and
    advances the position. It raises ValueError where there is no room, and once the segment is
    sealed or closed. Without the GIL, it does the same under a lock.
    """

    def __init__(
        self,
        number: int,
        data_bytes: int,
        *,
        path: Path | None = None,
        header: Header | None = None,
    ) -> None:
        self.number = number
        """Segments are filled in the order of their numbers."""
        self.path = path
        """None: there is no file behind it."""
        self.generation = 0
        """How often the journal had been erased when it was made."""
        self._fd = -1
        self._identity: Identity | None = None
        self._was_closed = False  # by other code
        self._is_deleted = False
        self._start = 0 if path is None else HEADER_BYTES
        self._size = self._start + data_bytes
        self.file_bytes = 0
        """The size of its file."""
        self._header = header
        self._entries_to = self._size
        self._confirmed_at = CONFIRMED_AT
        # So that nobody closes a descriptor that another thread is about to use. Not for `emit`.
        self._using_file = threading.RLock()
        # Without the GIL, a call of mmap is several steps. With it, there is nothing to guard.
        self._steps: contextlib.AbstractContextManager[object] = (
            threading.RLock() if IS_FREE_THREADED else contextlib.nullcontext()
        )
        if path is None:
            self._map = mmap.mmap(-1, self._size)
        else:
            self._map = retried(lambda: self._mapped_file(path))
        self._touch()
        self._map.seek(self._start)
        self.write: Callable[[bytes], object] = (
            self._write_locked if IS_FREE_THREADED else self._map.write
        )

        # How far its records are counted and taken. Written under the store's lock.
        self.is_sealed = False
        self.first = 0
        """The number of its first record."""
        self.lengths = array("I")
        """The length of each record that is counted."""
        self.counted_to = self._start
        self.taken = 0
        self.taken_to = self._start
        # How far they are on disk. Written by the worker.
        self.indexed = 0
        self.indexed_to = self._start
        self._synced_to = self._start
        self._has_new_entries = False

    def _mapped_file(self, path: Path) -> mmap.mmap:
        fd = os.open(path, _FLAGS, 0o600)
        identity = identity_of(fd)
        try:
            allocate(fd, self._size + TAIL_BYTES)
            self._fd, self._identity = fd, identity
            self.append(end_entry(self.number) * 2)
            if sys.platform != "win32" and sys.version_info >= (3, 13):
                mapped = mmap.mmap(fd, self._size, trackfd=False)
            else:
                mapped = mmap.mmap(fd, self._size)
        except BaseException:
            self._fd = -1
            close_own(fd, identity)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        self.file_bytes = self._size + TAIL_BYTES
        return mapped

    def _touch(self) -> None:
        """Write zeros, so that no page has to be fetched later."""
        if hasattr(os, "readv"):
            with contextlib.suppress(OSError), opened("/dev/zero", os.O_RDONLY) as zeros:
                with memoryview(self._map) as view:
                    os.readv(zeros, [view])
                return
        for at in range(0, self._size, len(_ZEROS)):
            size = min(len(_ZEROS), self._size - at)
            self._map[at : at + size] = _ZEROS[:size]

    @staticmethod
    def fill(write: Callable[[bytes], object]) -> None:
        """Leave no room in the segment that a ``write`` belongs to.

        An event that another thread writes meanwhile comes before the filler.
        """
        owner = getattr(write, "__self__", None)
        if isinstance(owner, Segment):
            with owner._steps:
                _fill(owner._map)
        elif isinstance(owner, mmap.mmap):
            _fill(owner)

    def _write_locked(self, record: bytes) -> object:
        with self._steps:
            return self._map.write(record)

    @property
    def waiting(self) -> int:
        """How many counted records are not taken yet."""
        return len(self.lengths) - self.taken

    @property
    def last(self) -> int:
        """The number of its last record that is counted."""
        return self.first + len(self.lengths) - 1

    @property
    def is_open(self) -> bool:
        """Whether entries can be appended to its file."""
        return self._fd >= 0

    def follow(self, previous: int) -> None:
        """Write its header.

        Args:
            previous: the number of the segment that is filled before this one.
        """
        if self._header is not None:
            header = msgspec.structs.replace(self._header, previous=previous)
            self._write_header(0, encode_header(header))

    # The rest of the methods never run in `emit` while there are spares. Those up to `take` need
    # the store's lock.

    def begin(self, first: int) -> None:
        """Write which number its first record has."""
        self.first = first
        self._write_header(BASE_AT, base_entry(first) * 2)

    def set_confirmed(self, number: int) -> None:
        """Write up to which number all events of the run are settled."""
        self._confirmed_at = CONFIRMED_AT + (self._confirmed_at == CONFIRMED_AT) * ENTRY_BYTES
        self._write_header(self._confirmed_at, confirmed_entry(number))

    def _write_header(self, place: int, content: bytes) -> None:
        if self.path is not None:
            self._has_new_entries = True
            with contextlib.suppress(ValueError), self._steps:  # it may be closed
                self._map[place : place + len(content)] = content

    def seal(self) -> None:
        """Have every later ``write`` raise ValueError."""
        with contextlib.suppress(ValueError), self._steps:  # it may be closed
            self._map.seek(0, os.SEEK_END)

    def count(self) -> bool:
        """Count some of the records that are new; return whether there are more.

        Once it is sealed, that is the last of them.
        """
        end = self._end
        size = _CHUNK_BYTES
        lengths: list[int] = []
        while self.counted_to < end and not lengths:
            upto = min(self.counted_to + size, end)
            chunk = self._map[self.counted_to : upto]
            # The last record of a piece may be cut off; it is the first of the next piece.
            lengths = record_lengths(chunk) if upto == end else record_lengths(chunk + b"]")[:-1]
            size *= 2
        more, counted_to = array("I", lengths), self.counted_to + sum(lengths)
        self.lengths += more  # no call between these two, after which a signal could come
        self.counted_to = counted_to
        return self.counted_to < end

    @property
    def _end(self) -> int:
        position = self._map.tell()
        if position < self._size or self.counted_to == position:
            return position
        # Sealed, or full to the last byte. A record ends with a bracket; zeros or filler follow.
        return max(self.counted_to, self._map.rfind(b"]", self.counted_to) + 1)

    def take(self, count: int) -> None:
        """Count the next records as taken."""
        self.taken_to += sum(self.lengths[self.taken : self.taken + count])
        self.taken += count

    def read(self, offset: int, size: int) -> bytes:
        """Return a part of it; from the file if it is no longer mapped.

        Raises:
            OSError: it can't be read.
        """
        with contextlib.suppress(ValueError), self._steps:  # closed, perhaps by another thread
            return self._map[offset : offset + size]
        if self.path is None:
            raise OSError(errno.ENOENT, "it is gone")
        return read_at(self.path, offset, size)

    # Calls of the operating system: never under a lock.

    def append(self, entry: bytes) -> None:
        """Write an entry after those that are there.

        Raises:
            OSError: it can't be written.
        """
        retried(lambda: self._write_at(self._entries_to, entry))
        self._entries_to += len(entry)
        self.file_bytes = max(self.file_bytes, self._entries_to)

    def _write_at(self, place: int, entry: bytes) -> None:
        with self._using_file:
            if self._fd < 0:  # another thread has given it up
                return
            self._check_descriptor()
            self._has_new_entries = True
            check_size(place + len(entry))
            if hasattr(os, "pwrite"):
                written = os.pwrite(self._fd, entry, place)
            else:
                os.lseek(self._fd, place, os.SEEK_SET)
                written = os.write(self._fd, entry)
        if written < len(entry):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Have all that is written until now survive a power cut.

        Raises:
            OSError: that can't be promised.
        """
        retried(self._sync)

    def _sync(self) -> None:
        with self._using_file:
            if self._fd < 0:
                return
            self._check_descriptor()
            counted_to, self._has_new_entries = self.counted_to, False
            # A sync can take seconds, and the player's no must not wait for it to close the file.
            fd = os.dup(self._fd)
        try:
            with contextlib.suppress(ValueError):  # it was closed, so the file has all of it
                _flush(self._map)
            _sync_data(fd)
        finally:
            close_own(fd, self._identity)
            if self._is_deleted and sys.platform == "win32":  # by another thread, meanwhile
                self.delete()
        self._synced_to = counted_to

    @property
    def is_synced(self) -> bool:
        """Whether all that is known of it was synced."""
        return not self._has_new_entries and self._synced_to >= self.counted_to

    @property
    def has_file(self) -> bool:
        """Whether its file is still where it was made, so that it can be read when it is closed."""
        return self.path is not None and identity_of(self.path) == self._identity

    def close(self) -> None:
        """Close it; a file stays."""
        self.seal()
        with self._using_file:
            fd, self._fd = self._fd, -1
            if fd >= 0 and not close_own(fd, self._identity):
                self._was_closed = True
        if self._was_closed and sys.platform != "win32" and sys.version_info < (3, 13):
            _kept.append(self._map)
            return
        # Another thread may be reading it: then the last reference closes it.
        with contextlib.suppress(BufferError), self._steps:
            self._map.close()

    def _check_descriptor(self) -> None:
        """Make sure that the descriptor is that of the file, or open the file again.

        Raises:
            OSError: it can't be opened, or there is another file in its place.
        """
        if identity_of(self._fd) == self._identity:
            return
        self._was_closed = True
        assert self.path is not None
        fd = os.open(self.path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        identity = identity_of(fd)
        if identity != self._identity:
            close_own(fd, identity)
            raise OSError(errno.EBADF, "other code closed its descriptor", str(self.path))
        self._fd = fd

    def unlink(self) -> None:
        """Remove its file, without waiting for a thread that uses it.

        Windows can't remove an open file. There, it is closed as well, or stays if it is in use.
        """
        if sys.platform != "win32":
            self._remove()
        elif self._using_file.acquire(blocking=False):
            try:
                self.delete()
            finally:
                self._using_file.release()

    def delete(self) -> None:
        """Remove its file, and close it."""
        self._is_deleted = True
        self._remove()
        self.close()
        if sys.platform == "win32":
            self._remove()

    def _remove(self) -> None:
        self.file_bytes = 0
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def forget(self) -> None:
        """Close it in a forked child, without touching what the parent uses.

        The position and the descriptor are the child's own; the pages are not. The locks are new,
        since a thread that had one doesn't exist here.
        """
        self._using_file = threading.RLock()
        self._steps = contextlib.nullcontext()
        self.close()


def _fill(memory: mmap.mmap) -> None:
    with contextlib.suppress(ValueError):  # it was closed
        while (left := len(memory) - memory.tell()) > 0:
            with contextlib.suppress(ValueError):  # another thread has used some of it
                memory.write(FILLER * left)
