"""The directory of the journal, which the runs of any number of processes share."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from .dead import BlankRunError, DeadRun, RunFiles
from .layout import HEADER_BYTES, Header, LayoutError, decode_header
from .run import RunDirectory

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
    fault: str | None = None
    """Why the run, or a part of it, can't be read."""


class JournalDirectory:
    """A directory with runs. It need not exist.

    Args:
        path: of the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))  # the game may change its working directory
        self._left_alone: set[Path] = set()

    def dead_runs(self) -> Iterator[DeadRun]:
        """Yield the dead runs, oldest first, each of them locked.

        The caller releases or deletes each. A run that can't be read is left alone, with one
        WARNING.
        """
        for path in sorted(self._runs(), key=_age):
            run: RunDirectory | None = None
            try:
                run = RunDirectory.take_over(path)
                if run is not None:
                    yield DeadRun(run)
            except BlankRunError:
                if run is not None:
                    run.delete()
            except (OSError, LayoutError) as error:
                self._left_alone.add(path)
                reason = error.strerror if isinstance(error, OSError) else None
                with contextlib.suppress(Exception):
                    logger.warning("the journal's run %s is left alone: %s", path, reason or error)
                if run is not None:
                    run.release()

    def erase(self) -> None:
        """Delete all dead runs, also those that can't be read, and the directory if it is empty.

        Those that this process has taken over count as living.
        """
        for path in self._runs():
            with contextlib.suppress(OSError):
                run = RunDirectory.take_over(path)
                if run is not None:
                    run.delete()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def size(self) -> int:
        """Return the bytes of all runs, living or dead.

        Those that :meth:`dead_runs` left alone don't count: nothing could be dropped for them but
        the events of others.
        """
        return sum(_size(path) for path in self._runs() if path not in self._left_alone)

    def inspect(self) -> list[RunReport]:
        """Return a report of each run, oldest first. Changes nothing."""
        return [report for path in sorted(self._runs(), key=_age) for report in _reports(path)]

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


def _segments(path: Path) -> list[tuple[int, Path]]:
    try:
        return RunDirectory.segments_in(path)
    except OSError:
        return []


def _size(path: Path) -> int:
    size = 0
    for _, file in _segments(path):
        with contextlib.suppress(OSError):
            size += file.stat().st_size
    return size


def _age(path: Path) -> tuple[int, str]:
    """Return when a run began, in milliseconds since the epoch, for sorting."""
    for _, file in _segments(path):
        with contextlib.suppress(OSError, LayoutError), file.open("rb") as stream:
            return decode_header(stream.read(HEADER_BYTES)).started_at, path.name
    try:
        return int(path.stat().st_mtime * 1000), path.name
    except OSError:
        return 0, path.name


def _reports(path: Path) -> Iterator[RunReport]:
    """Yield the report of a run; nothing if it isn't one, or has just gone."""
    segments = _segments(path)
    if not segments:
        return
    is_living = False
    with contextlib.suppress(OSError):  # such as on a copy that can't be written
        is_living = RunDirectory.is_living(path)
    try:
        files = RunFiles(segments)
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
        fault=str(faults[0].strerror or faults[0]) if faults else None,
    )
