"""Runs that are read from their files: those that have ended, and for a look, also living ones.

A run is read segment by segment, each from its bytes at one moment. A segment that is damaged, or
can't be read, costs no event of the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections import deque
from collections.abc import Generator
from pathlib import Path

import msgspec

from .._recording.codec import EncodedEvent
from .._report import Report, decode_report
from .._shared import monotonic, rest
from .descriptors import opened, read_at
from .layout import (
    BASE_AT,
    HEADER_BYTES,
    EntryKind,
    Header,
    LayoutError,
    base_entry,
    confirmed_entry,
    decode_entries,
    decode_header,
)
from .records import RecordReader
from .recovery import Numbered, SegmentRecovery
from .run import RunDirectory

__all__ = ["BlankRunError", "DeadRun", "RunFiles", "SegmentFile", "bytes_on_disk"]

_MAX_SEGMENT_BYTES = 64 << 20  # of a file that claims or contains more, the rest is not read
_ENTRIES_PER_DATA = 3  # entries are never larger, in relation to the records
_NOTE_INTERVAL = 0.25  # seconds between two notes of what is confirmed
_TURN = 100e-6  # seconds of work, after which other threads have theirs


class BlankRunError(LayoutError):
    """The run was killed before it had written anything."""


class SegmentFile:
    """One segment of a run, as far as its header and its entries describe it."""

    def __init__(self, number: int, path: Path) -> None:
        self.number = number
        self.path = path
        self.size = 0
        """Bytes of the file."""
        self.header: Header | None = None
        self.is_blank = False
        """Whether not even its header was written: nothing else was, then."""
        self.fault: OSError | LayoutError | None = None
        """Why it can't be read, or lacks a header; then the header of another segment serves."""
        self.base: int | None = None
        """The number of its first record, if an entry says so."""
        self.indexed = 0
        """The number of the last record in an index entry; 0 if there is none."""
        self.confirmed = 0
        """Up to which number all events of the run are settled, as far as its entries say so."""
        self.is_read = False
        """Whether all its events have been read. Written as the run is read."""
        self.last = 0
        """The number of the last event that was read from it or from a segment before it."""
        self.next_number: int | None = None
        """The number after its last record, if it is sure. Written as the run is read."""
        self.damaged = 0
        """How many of its records are lost. Written as the run is read."""
        self._length = self._data_end = 0  # of the file, and of its part with the records
        try:
            status = path.stat(follow_symlinks=False)
            self.size, self._length = bytes_on_disk(status), status.st_size
            block = read_at(path, 0, HEADER_BYTES)
            # The number of its first record may be there before the header is.
            self.is_blank = not block[:BASE_AT].strip(b"\0")
            self.header = decode_header(block)
        except (OSError, LayoutError) as error:
            self.fault = error

    @property
    def previous(self) -> int:
        """The number of the segment before it, as far as that is known."""
        return self.number - 1 if self.header is None else self.header.previous

    def read_entries(self, data_bytes: int) -> None:
        """Read the entries before and after the records."""
        self._data_end = start = HEADER_BYTES + data_bytes
        try:
            tail = read_at(self.path, start, _limit(data_bytes) - start)
            entries = decode_entries(read_at(self.path, 0, HEADER_BYTES) + tail)
        except OSError as error:
            self.fault = error
            return
        for entry in entries:
            if entry.kind == EntryKind.CONFIRMED:
                self.confirmed = max(self.confirmed, entry.number)
            elif entry.kind == EntryKind.INDEX:
                rows = (len(entry.payload) - 4) // 8
                self.indexed = max(self.indexed, entry.number + rows - 1)
            elif entry.kind == EntryKind.BASE and self.base is None:
                self.base = entry.number

    def append(self, entries: bytes, *, is_synced: bool = False) -> None:
        """Append entries.

        Raises:
            OSError: they can't be written.
        """
        if self._length < self._data_end:  # they would be where records are looked for
            raise OSError(errno.EINVAL, "the file is too short", str(self.path))
        # Not by "ab", which would make the file again that an erasing thread has just removed.
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
        with opened(self.path, flags) as fd:
            os.write(fd, entries)
            if is_synced:
                os.fsync(fd)


class RunFiles:
    """The segments of a run, and what its report says.

    Args:
        segments: their numbers and paths, in order.
        report: the report that was saved with them, if there is one. Without any segment, it says
            which run this is.

    Raises:
        BlankRunError: no segment has anything in it, and there is no report.
        LayoutError: no segment has an intact header of this format.
        OSError: no segment can be read.
    """

    def __init__(self, segments: list[tuple[int, Path]], report: bytes | None = None) -> None:
        files = [SegmentFile(number, path) for number, path in segments]
        headers = [file.header for file in files if file.header is not None]
        self.report = _report_in(report)
        """The report that was saved last, if it can be read."""
        if all(file.is_blank for file in files):
            if self.report is None:
                raise BlankRunError("it is blank")
            headers, files = [_header_of(self.report)], []
        if not headers:
            raise next((f.fault for f in files if f.fault), LayoutError("it has no segments"))
        self.header = headers[0]
        """The header of the first segment that has one."""
        if self.report is not None and self.report.session_id != self.header.session_id:
            self.report = None  # a copy of another run's
        self.is_report_lost = report is not None and self.report is None
        """Whether there is a report that can't be used."""
        self.segments = [file for file in files if self._belongs(file)]
        for file in self.segments:
            file.read_entries(self._data_bytes(file))
        self.confirmed = max((file.confirmed for file in self.segments), default=0)
        """Up to which number all events are settled, as the entries say."""
        self._reader = RecordReader()

    def read(self, *, start: int = 0) -> Generator[Numbered, None, None]:
        """Yield the events that are not settled, in order, with their numbers.

        Each step takes less than a millisecond, system calls aside; some yield nothing.

        Args:
            start: the place of the first segment to read.
        """
        last, after = self.confirmed, self.confirmed
        next_numbers: dict[int, int | None] = {0: 1}  # after each segment
        for place, file in enumerate(self.segments[start:], start):
            following = self.segments[place + 1] if place + 1 < len(self.segments) else None
            if following is not None and following.base is not None and following.base <= after + 1:
                file.is_read, file.last = True, last
                continue
            first = next_numbers.get(file.previous)
            is_next = following is not None and following.previous == file.number
            end = following.base if following is not None and is_next else None
            data_bytes = self._data_bytes(file)
            try:
                content = read_at(file.path, 0, _limit(data_bytes))
            except OSError as error:
                file.fault = error
                continue
            yield []
            recovery = SegmentRecovery(
                content, data_bytes, first=first, end=end, after=after, reader=self._reader
            )
            for piece in recovery.pieces():
                # Numbers that come again are those of a copied file.
                events = (
                    piece
                    if not piece or piece[0][1] > last
                    else [pair for pair in piece if pair[1] > last]
                )
                if events:
                    last = events[-1][1]
                yield events
            file.damaged, file.next_number = recovery.damaged, recovery.next_number
            file.last, file.is_read = last, True
            next_numbers[file.number] = recovery.next_number

    def last_number(self) -> int:
        """Return the number of the last event, or a larger one, from the last segments alone."""
        files = self.segments
        start = len(files) - 1
        while start > 0 and files[start].base is None and not files[start].indexed:
            start -= 1
        number = self.confirmed
        for file in files:
            number = max(number, file.indexed, (file.base or 1) - 1)
        for events in self.read(start=start):
            if events:
                number = max(number, events[-1][1])
        return number

    @property
    def first(self) -> int | None:
        """The number of the first event in the segments, or of the first one that is not settled.

        None if there are no segments.
        """
        if not self.segments:
            return None
        file = self.segments[0]
        if file.base is not None:
            return file.base
        return 1 if file.previous == 0 else self.confirmed + 1

    @property
    def damaged(self) -> int:
        """How many records are lost in the segments that were read."""
        return sum(file.damaged for file in self.segments)

    def _belongs(self, file: SegmentFile) -> bool:
        """Return whether a file is not a copy of another segment, perhaps of another run."""
        header, own = file.header, self.header
        return header is None or (
            (header.session_id, header.run, header.segment)
            == (own.session_id, own.run, file.number)
        )

    def _data_bytes(self, file: SegmentFile) -> int:
        header = file.header or self.header
        return max(0, min(header.data_bytes, _MAX_SEGMENT_BYTES))


class DeadRun:
    """A run that has ended, locked by this process. Used by one thread, but for :meth:`delete`.

    Args:
        directory: of the run.

    Raises:
        BlankRunError: no segment has anything in it.
        LayoutError: no segment has an intact header of this format.
        OSError: no segment can be read.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.path = directory.path
        self._directory = directory
        report = directory.report()
        self._report_bytes = len(report or b"")
        self._files = RunFiles(directory.segments(), report)
        self.header = self._files.header
        """The header of one of its segments."""
        self.confirmed = self._files.confirmed
        """Up to which number all events are settled."""
        self.report = self._files.report
        """The report that was saved last, by the run itself or an earlier start, if there is one.
        """
        self.is_report_lost = self._files.is_report_lost
        """Whether there is a report that can't be used."""
        self.first = self._files.first
        """The number of the first event in its files; None if there are no such files."""
        self.last = self._files.last_number()
        """The number of the last one, or a larger one."""
        for file in self._files.segments:  # they were read to count them
            file.is_read, file.damaged = False, 0
        self._left = list(self._files.segments)  # that were not deleted
        self._taken = self.confirmed
        self._ready: deque[tuple[EncodedEvent, int]] = deque()
        self._pieces = self._files.read()
        self._is_read = False
        self._noted = self.confirmed
        self._noted_at = monotonic()

    @property
    def waiting(self) -> int:
        """How many events have not been taken yet: at most so many, before all was read."""
        if self._is_read:
            return len(self._ready)
        return max(0, self.last - max(self._taken, self.confirmed))

    @property
    def torn(self) -> int:
        """How many records are lost, in what has been read."""
        return self._files.damaged

    @property
    def has_unreadable(self) -> bool:
        """Whether a file could not be read, for want of descriptors or rights, say.

        Perhaps the next start can.
        """
        return any(isinstance(file.fault, OSError) for file in self._left)

    @property
    def size(self) -> int:
        """Bytes of its files; those of its report if there are no others."""
        if self.first is None:
            return self._report_bytes
        return sum(file.size for file in self._left)

    @property
    def oldest(self) -> int | None:
        """When the next event happened, in milliseconds since the epoch; None if none is left."""
        self._read_ahead(1)
        return self._ready[0][0].time // 1_000_000 if self._ready else None

    @property
    def is_taken(self) -> bool:
        """Whether all events were taken, as far as they can be read."""
        return self._is_read and not self._ready

    @property
    def is_settled(self) -> bool:
        """Whether all events were taken and confirmed, as far as they can be read."""
        return self.is_taken and self._taken <= self.confirmed

    def take(self, limit: int) -> Numbered:
        """Return the next events with their numbers, at most ``limit``; fewer only at the end."""
        self._read_ahead(limit)
        taken = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
        if taken:
            self._taken = taken[-1][1]
        return taken

    def confirm(self, number: int) -> None:
        """Note that all events up to a number are settled; delete the segments without others.

        If it can't be written, because the disk is full, say, it is known until :meth:`release`
        only. Then the next start sends these events again.
        """
        self.confirmed = max(self.confirmed, number)
        self._delete_settled()
        now = monotonic()
        if now - self._noted_at >= _NOTE_INTERVAL:
            self._noted_at = now
            self._note()

    def skip_oldest_segment(self) -> tuple[int, int]:
        """Take out the events of the oldest segment that was not taken, so that they are dropped.

        Its file goes once they are confirmed.

        Returns:
            The number of the last of them, and how many they were. The number is that of the last
            event which was taken before if none is left.
        """
        self._read_ahead(1)
        while not self._is_read and not any(
            file.is_read and file.last > self._taken for file in self._files.segments
        ):
            self._read_ahead(len(self._ready) + 1)
        number = next(
            (
                file.last
                for file in self._files.segments
                if file.is_read and file.last > self._taken
            ),
            self._taken,
        )
        count = 0
        while self._ready and self._ready[0][1] <= number:
            self._taken = self._ready.popleft()[1]
            count += 1
        return number, count

    def save_report(self, text: bytes) -> bool:
        """Save a report in the place of the one before it; return whether it was saved."""
        return self._directory.save_report(text)

    def release(self) -> None:
        """Unlock it and leave the rest for the next start."""
        self._pieces.close()
        self._delete_settled()
        self._note()
        self._directory.release()

    def delete(self) -> None:
        """Delete its files. Any thread may do so, also while another one is reading them."""
        self._directory.delete()

    def forget_after_fork(self) -> None:
        """In a forked child: close the copy of the lock. The parent's run is not touched."""
        self._directory.forget_after_fork()

    def _read_ahead(self, count: int) -> None:
        """Read until that many events are ready, or all, and let other threads run meanwhile."""
        turn_ends = monotonic() + _TURN
        while len(self._ready) < count and not self._is_read:
            if monotonic() >= turn_ends:  # not after the last piece: the caller rests, too
                rest()
                turn_ends = monotonic() + _TURN
            piece = next(self._pieces, None)
            if piece is None:
                self._is_read = True
            else:
                self._ready.extend(piece)

    def _delete_settled(self) -> None:
        settled = {file for file in self._left if file.is_read and file.last <= self.confirmed}
        if not settled:
            return
        try:
            next_numbers = {file.number: file.next_number for file in settled}
            for file in self._left:
                number = next_numbers.get(file.previous)
                if file not in settled and file.base is None and number is not None:
                    file.append(base_entry(number) * 2, is_synced=True)
                    file.base = number
        except OSError:
            return  # without its number, that segment would be lost
        left = [file for file in self._left if file not in settled]
        # Those that are deleted would be taken for events that the limits have dropped. If all are,
        # a kill may leave the last of them.
        if not self._has_noted_in(left or self._left[-1:]) and left:
            return
        for file in self._left:
            if file in settled:
                with contextlib.suppress(OSError):
                    file.path.unlink()
        self._left = left

    def _note(self) -> None:
        if self._noted < self.confirmed:
            self._has_noted_in(self._left)

    def _has_noted_in(self, files: list[SegmentFile]) -> bool:
        """Note in one of some files what is settled; return False if none of them takes it."""
        for file in reversed(files):
            with contextlib.suppress(OSError):
                file.append(confirmed_entry(self.confirmed))
                self._noted = self.confirmed
                return True
        return not files


def _report_in(text: bytes | None) -> Report | None:
    """Return a report; None if there is none, or if it is torn."""
    try:
        return None if text is None else decode_report(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _header_of(report: Report) -> Header:
    """Return the header for a run of which only the report is left."""
    return Header(
        session_id=report.session_id,
        run="",
        segment=0,
        data_bytes=0,
        started_at=report.started_at,
        previous=0,
        version=report.version if isinstance(report.version, str) else None,
    )


def bytes_on_disk(status: os.stat_result) -> int:
    """Return how many bytes a file takes: fewer than its size if it has holes."""
    if sys.platform == "win32":  # it doesn't say
        return status.st_size
    return min(status.st_size, status.st_blocks * 512)  # always of this unit


def _limit(data_bytes: int) -> int:
    """Return how much of a file is read at most."""
    whole = HEADER_BYTES + (1 + _ENTRIES_PER_DATA) * data_bytes + HEADER_BYTES
    return min(whole, HEADER_BYTES + _MAX_SEGMENT_BYTES)
