"""The directory of the journal, which the runs of any number of processes share.

A run that is being opened is locked already, but its reader doesn't know it yet. To open one may
take some 100 ms, and an erasure in another thread must not miss it. So the run is noted first, and
then the reader looks whether there was an erasure since; an erasure counts itself first, and then
deletes what is noted. Whichever thread takes the run out of the notes deletes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from .._report import Report
from .._shared import counted
from .dead import BlankRunError, DeadRun, RunFiles, bytes_on_disk
from .descriptors import read_at
from .layout import HEADER_BYTES, Header, LayoutError, decode_header
from .run import RunDirectory, absolute

__all__ = ["JournalDirectory", "RunDirectory", "RunReport"]

logger = logging.getLogger("redvsblue_telemetry")


@attrs.frozen(kw_only=True)
class RunReport:
    """A run in a journal, as a command shows it."""

    path: Path
    is_living: bool
    """Whether a process has it locked."""
    bytes: int
    """The size of its files."""
    session_id: str | None = None
    """None if the files can't be read."""
    version: str | None = None
    """The version of the game's build."""
    started_at: int | None = None
    """When the run began, in milliseconds since the epoch."""
    events: int = 0
    """How many events wait in it. A living run writes more at any moment."""
    oldest: int | None = None
    """When the first of them happened, in milliseconds since the epoch."""
    torn: int = 0
    """How many records are damaged."""
    report: Report | None = None
    """What its game has reported last, if that was saved."""
    fault: str | None = None
    """Why the run, or a part of it, can't be read."""


class JournalDirectory:
    """A directory with runs. It need not exist.

    Args:
        path: of the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = absolute(path)
        self.known_fault: int | None = None
        """An errno that was logged already: no further line says that a run can't be taken over."""
        self._opening: list[RunDirectory] = []  # by another thread, when it is erased
        self._erasures = 0

    def dead_runs(self) -> Iterator[DeadRun]:
        """Yield the dead runs, oldest first, each of them locked.

        The caller releases or deletes each. Runs that can't be read are left alone, with a WARNING
        for the first and another one for how many more there are.
        """
        erasures, left_alone = self._erasures, 0
        for path in sorted(self._runs(), key=_age):
            run: RunDirectory | None = None
            dead: DeadRun | None = None
            fault: OSError | LayoutError | None = None
            try:
                run = RunDirectory.take_over(path)
                if run is not None:
                    self._opening.append(run)
                    if self._erasures == erasures:
                        dead = DeadRun(run)
            except (OSError, LayoutError) as error:
                fault = error
            is_ours = run is not None and self._close(run)
            if self._erasures != erasures:
                if run is not None and is_ours:
                    run.delete()
                _erase(path)  # Windows can't delete a file while it is read
                return
            if dead is not None:
                yield dead
            elif isinstance(fault, BlankRunError):
                if run is not None:
                    run.delete()
            elif fault is not None:
                if run is not None:
                    run.release()
                reason = fault.strerror if isinstance(fault, OSError) else None
                if not isinstance(fault, OSError) or fault.errno != self.known_fault:
                    left_alone += 1
                if left_alone == 1:
                    _warn("the journal's run %s is left alone: %s", path, reason or fault)
        if left_alone > 1:
            _warn("%d more runs in the journal %s are left alone", left_alone - 1, self.path)

    def erase(self) -> None:
        """Delete all dead runs, also those that can't be read, and the directory if it is empty.

        Those that :meth:`dead_runs` has returned count as living, but not one that it is opening.
        If a run can't be deleted, there is one WARNING.
        """
        self._erasures += 1
        for run in tuple(self._opening):
            if self._close(run):
                run.delete()
        failed = [error for path in self._runs() if (error := _erase(path)) is not None]
        if failed:
            _warn(
                "%s in the telemetry's journal %s can't be erased: %s",
                counted(len(failed), "run"),
                self.path,
                failed[0].strerror or failed[0],
            )
        self._delete_if_empty()

    def delete_leftovers(self) -> None:
        """Delete the leftovers of runs whose files were open when they were deleted."""
        for path in self._runs():
            is_empty = not _segments(path) and _report(path) is None
            if is_empty or RunDirectory.is_condemned(path):
                _erase(path)
        self._delete_if_empty()

    def _delete_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def size(self) -> int:
        """Return the bytes of all runs, living or dead, but for those that are left alone.

        These would be in the way of all others for good: nothing that is dropped makes room.
        """
        return sum(_size(path) for path in self._runs() if _began_at(path) is not None)

    def inspect(self) -> list[RunReport]:
        """Return a report of each run, oldest first. Changes nothing."""
        return [report for path in sorted(self._runs(), key=_age) for report in _reports(path)]

    def _close(self, run: RunDirectory) -> bool:
        """Note a run as no longer being opened; return whether no other thread was faster."""
        try:
            self._opening.remove(run)
        except ValueError:
            return False
        return True

    def _runs(self) -> list[Path]:
        """Return the directories that may be runs."""
        try:
            with os.scandir(self.path) as entries:
                return [
                    self.path / entry.name
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                ]
        except OSError:
            return []


def _erase(path: Path) -> OSError | None:
    """Delete a run if it is dead; return why it can't be."""
    try:
        run = RunDirectory.take_over(path)
    except OSError as error:
        return error
    return None if run is None else run.delete()


def _warn(message: str, *arguments: object) -> None:
    with contextlib.suppress(Exception):  # a log handler's own
        logger.warning(message, *arguments)


def _segments(path: Path) -> list[tuple[int, Path]]:
    try:
        return RunDirectory.segments_in(path)
    except OSError:
        return []


def _report(path: Path) -> bytes | None:
    try:
        return RunDirectory.report_in(path)
    except OSError:
        return None


def _size(path: Path) -> int:
    size = RunDirectory.report_bytes_in(path)
    for _, file in _segments(path):
        with contextlib.suppress(OSError):
            size += bytes_on_disk(file.stat())
    return size


def _age(path: Path) -> tuple[int, str]:
    """Return when a run began, in milliseconds since the epoch, for sorting."""
    if (began_at := _began_at(path)) is not None:
        return began_at, path.name
    try:
        return int(path.stat().st_mtime * 1000), path.name
    except OSError:
        return 0, path.name


def _began_at(path: Path) -> int | None:
    """Return when a run began, in milliseconds since the epoch; None if nothing says so."""
    segments = _segments(path)
    for _, file in segments:
        with contextlib.suppress(OSError, LayoutError):
            return decode_header(read_at(file, 0, HEADER_BYTES)).started_at
    if not segments and (report := _report(path)) is not None:
        with contextlib.suppress(LayoutError):
            return RunFiles([], report).header.started_at
    return None


def _reports(path: Path) -> Iterator[RunReport]:
    """Yield the report of a run; nothing if it isn't one, or has just gone."""
    segments, saved = _segments(path), _report(path)
    if (not segments and saved is None) or RunDirectory.is_condemned(path):
        return
    is_living = False
    with contextlib.suppress(OSError):  # such as on a copy that can't be written
        is_living = RunDirectory.is_living(path)
    try:
        files = RunFiles(segments, saved)
    except BlankRunError:
        return
    except (OSError, LayoutError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        if path.exists():
            yield RunReport(
                path=path, is_living=is_living, bytes=_size(path), fault=reason or str(error)
            )
        return
    events, oldest = 0, None
    for piece in files.read():
        if piece and oldest is None:
            oldest = piece[0][0].time // 1_000_000
        events += len(piece)
    damaged = [file.damaged for file in files.segments]
    if is_living:  # its last record may be written at this moment
        while damaged and not damaged.pop():
            pass
    header: Header = files.header
    faults = [file.fault for file in files.segments if isinstance(file.fault, OSError)]
    yield RunReport(
        path=path,
        is_living=is_living,
        bytes=sum(file.size for file in files.segments),
        session_id=header.session_id,
        version=header.version,
        started_at=header.started_at,
        events=events,
        oldest=oldest,
        torn=sum(damaged),
        report=files.report,
        fault=str(faults[0].strerror or faults[0]) if faults else None,
    )
