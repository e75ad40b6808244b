"""The directory of one run: its name, its lock, its segment files, and its report.

It contains ``redvsblue.lock``, ``00000001.events`` and so on, and ``redvsblue.report``. Nothing
else in it is touched, and no symbolic link is followed.

A kill can come between the deletions of two files. A spare segment that is left alone says of its
run that it had no event, and a first segment has events that the player may have said no to. So
before the first file goes, ``redvsblue.deleted`` is there, and it is the last to go but for the
lock. A process that finds it deletes the rest.

A process that looks for dead runs can meet a run at the moment when it is created, before it has
locked its directory. Then that process takes it for dead, and empty, and deletes it. A temporary
name that is changed after the lock was taken was rejected: what a killed process left behind under
such a name has to be found and removed, too, and Windows can't rename a directory with an open file
in it. So a run makes sure that it has the lock, and that the directory is still there, and
otherwise makes another one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from time import sleep

from .._shared import monotonic
from .descriptors import opened, retried
from .locks import FileLock

__all__ = ["RunDirectory", "absolute"]

_LOCK = "redvsblue.lock"  # names that no other program gives a file
_REPORT = "redvsblue.report"
_NEW_REPORT = "redvsblue.report.new"  # being written
_DELETED = "redvsblue.deleted"
_OWN = frozenset({_LOCK, _REPORT, _NEW_REPORT, _DELETED})
_MAX_REPORT_BYTES = 1 << 20  # a file that has more is not a report
# A file with such a name may be anything: a link to somewhere else, or a pipe without a writer.
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY
_SEGMENT = re.compile(r"(\d{8,18})\.events", re.ASCII)
_MAX_NAME = 64  # characters; Windows counts the whole path, and some file systems allow 143 bytes
_MADE = re.compile(r"[0-9a-f]{32}(-.*)?", re.ASCII)  # the name for a session that the SDK named
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_RESERVED = re.compile(r"CON|PRN|AUX|NUL|COM\d|LPT\d", re.IGNORECASE)  # by Windows
_MIN_ATTEMPTS = 100
_PATIENCE = 1.0  # seconds, while others remove what is created
_PAUSE = 0.001  # seconds, so that they are not always at the same step
_PATIENCE_WITH_READERS = 0.1  # seconds; a virus scanner takes a few milliseconds
_MAX_BELOW = 160  # characters of a path below the journal's directory
_PREFIX = "\\\\?\\"
_MAX_PATH = 259  # characters for Windows, unless a path has its prefix


def absolute(journal: Path) -> Path:
    """Return the path of a journal's directory, for a game that may change its working directory.

    On Windows, a path has at most 259 characters, unless it has a prefix, or the player's system
    and the program both allow more.
    """
    path = os.path.abspath(journal)
    is_long = len(path) + _MAX_BELOW > _MAX_PATH
    if sys.platform == "win32" and is_long and not path.startswith(_PREFIX):
        drive = os.path.splitdrive(path)[0]
        if drive.startswith("\\\\"):
            path = f"{_PREFIX}UNC{path[1:]}"
        elif drive:
            path = f"{_PREFIX}{path}"
    return Path(path)


class RunDirectory:
    """The directory of a run that this process has locked."""

    def __init__(self, path: Path, lock: FileLock, unsynced: Iterable[Path] = ()) -> None:
        self.path = path
        self._lock = lock
        self._is_deleted = False
        self._unsynced = [*unsynced]  # directories that got a name for the journal's

    @classmethod
    def create(cls, journal: Path, session_id: str, run: str) -> RunDirectory:
        """Create a run's directory, and the journal's if it is missing, and lock it.

        Args:
            journal: the directory of all runs.
            session_id: gives it its name, as far as a file can have it.
            run: is appended if there is a directory of that name.

        Raises:
            OSError: it can't be created, or its file system has no locks.
        """
        journal = absolute(journal)
        name = _safe(session_id)
        problem: OSError = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(journal))
        unsynced: dict[Path, None] = {}
        taken = 0  # names
        deadline = monotonic() + _PATIENCE
        for attempt in count(1):
            suffix = "" if taken == 0 else f"-{_safe(run)}" + f"-{taken}" * (taken > 1)
            path = journal / f"{name}{suffix}"
            try:
                unsynced |= dict.fromkeys(_make_journal(journal))
                _make_private(path)
                lock = _locked(path)
            except FileNotFoundError as error:  # erased, or removed by one that took it for dead
                problem = error
                sleep(_PAUSE)
            except FileExistsError as error:
                problem = error
                taken += 1
            else:
                if lock is not None:
                    return cls(path, lock, unsynced)
                taken += 1
            if attempt >= _MIN_ATTEMPTS and monotonic() >= deadline:
                break
        raise problem

    @classmethod
    def take_over(cls, path: Path) -> RunDirectory | None:
        """Lock the directory of a dead run; return None if it is alive, or is not a run at all.

        What a process left behind that was killed while it created or deleted a run is deleted. But
        an empty directory may also be the game's own, which it has just made. So one without
        segments and without a report is removed only if there is a lock in it, or if it has the
        name of a session that the game has not named.

        Raises:
            OSError: it can't be read or locked, or the rest of a deleted run can't be deleted.
        """
        try:
            segments, others = _contents(path)
            is_ours = segments or _OWN & others or _MADE.fullmatch(path.name)
            if not is_ours or (not segments and others - _OWN):
                return None
            if not segments and not others:
                path.rmdir()  # if it is being created now, its creator makes another one
                return None
            has_content = bool(segments) or not others.isdisjoint({_REPORT, _DELETED})
            lock = FileLock.acquire(path / _LOCK, create=has_content)
        except FileNotFoundError:
            return None
        if lock is None:
            return None
        run = cls(path, lock)
        try:
            is_condemned = cls.is_condemned(path)
            if not is_condemned and (run.segments() or run.report() is not None):
                return run
        except OSError:
            lock.release()
            raise
        if (failed := run.delete()) is not None and is_condemned:
            raise failed
        return None

    @staticmethod
    def is_condemned(path: Path) -> bool:
        """Return whether a run is being deleted, or was when a kill came."""
        return os.path.lexists(path / _DELETED)

    @staticmethod
    def is_living(path: Path) -> bool:
        """Return whether a run is locked at this moment.

        Raises:
            OSError: its lock can't be opened.
        """
        try:
            lock = FileLock.acquire(path / _LOCK)
        except FileNotFoundError:
            return False
        if lock is None:
            return True
        lock.release()
        return False

    @staticmethod
    def segments_in(path: Path) -> list[tuple[int, Path]]:
        """Return the numbers and paths of the segments in a directory, in order.

        Raises:
            OSError: it can't be read.
        """
        return sorted(_contents(path)[0].items())

    def segments(self) -> list[tuple[int, Path]]:
        """Return the numbers and paths of the segments, in order.

        Raises:
            OSError: the directory can't be read.
        """
        return self.segments_in(self.path)

    def segment_path(self, number: int) -> Path:
        """Return the path of a segment."""
        return self.path / _segment_name(number)

    @staticmethod
    def report_in(path: Path) -> bytes | None:
        """Return the report that was saved in a directory; None if there is none.

        Raises:
            OSError: it can't be read.
        """
        report = path / _REPORT
        if sys.platform == "win32" and report.is_symlink():  # there is no O_NOFOLLOW
            raise OSError(errno.ELOOP, "it is a symbolic link", str(report))
        try:
            with opened(report, os.O_RDONLY | _SAFELY) as fd:
                is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
                text = os.read(fd, _MAX_REPORT_BYTES + 1) if is_regular else b""
        except FileNotFoundError:
            return None
        return text if len(text) <= _MAX_REPORT_BYTES else b""

    @staticmethod
    def report_bytes_in(path: Path) -> int:
        """Return the size of the report in a directory; 0 if there is none."""
        try:
            return (path / _REPORT).lstat().st_size
        except OSError:
            return 0

    def report(self) -> bytes | None:
        """Return the report that was saved last; None if there is none.

        Raises:
            OSError: it can't be read.
        """
        return self.report_in(self.path)

    def save_report(self, text: bytes) -> bool:
        """Save a report in the place of the one before it; return whether it was saved.

        The one before it is there until then. It is not synced: a power cut may leave that one, or
        a torn one.
        """
        if self._is_deleted or not (self.is_intact or self.lock_again()):
            return False
        new = self.path / _NEW_REPORT
        _unlink(new)  # of a process that was killed
        is_saved = False
        try:
            _write_privately(new, text)
            is_saved = _patiently(lambda: _replace(new, self.path / _REPORT)) is None
        except OSError:
            pass
        if not is_saved:
            _unlink(new)
        if self._is_deleted:  # by another thread, which may have been too early to see it
            self.delete_report()
            with contextlib.suppress(OSError):
                self.path.rmdir()
        return is_saved

    def delete_report(self) -> OSError | None:
        """Delete the report; return why it can't be."""
        return _unlink(self.path / _NEW_REPORT) or _unlink(self.path / _REPORT)

    def condemn(self) -> None:
        """Mark the run, so that the next start deletes the rest if a kill comes before all is gone.

        A full disk may have no room for the mark. Then a kill in between leaves an unmarked rest,
        which the next start takes for a dead run.
        """
        condemned = self.path / _DELETED
        with contextlib.suppress(OSError):
            (self.path / _REPORT).rename(condemned)  # needs no room
            return
        with contextlib.suppress(OSError), opened(condemned, _NEW):
            pass

    @property
    def is_intact(self) -> bool:
        """Whether the directory still exists and is locked by this process."""
        return self._lock.is_held

    def lock_again(self) -> bool:
        """Lock it again if a host closed the lock's descriptor; return whether it is locked.

        It can't be if it was deleted, or if another process has taken it over meanwhile.
        """
        return self._lock.hold_again()

    def sync(self) -> None:
        """Make sure that a power cut leaves the names of the files in place. May take long.

        Raises:
            OSError: it failed.
        """
        if sys.platform != "win32":  # there, a directory can't be opened, and NTFS logs names
            for path in (self.path, self.path.parent):
                _sync(path)
            while self._unsynced:
                with contextlib.suppress(OSError):  # not each of them need be readable
                    _sync(self._unsynced[-1])
                self._unsynced.pop()

    def release(self) -> None:
        """Unlock it and keep the files. A directory without segments and report is removed."""
        try:
            is_empty = not self.segments() and self.report() is None
        except OSError:
            is_empty = False
        if is_empty:
            self.delete()
        else:
            self._lock.release()

    def delete(self) -> OSError | None:
        """Delete the files and the directory, as far as they can be. Unlocks it in any case.

        Returns:
            Why a file could not be deleted; None if none is left, or another process has the run.
        """
        failed: OSError | None = None
        self._is_deleted = True
        if self._lock.hold_again():  # else another process may have taken it over
            self.condemn()
            failed = _patiently(self._delete_files)
            if sys.platform == "win32":  # it can't delete an open file
                self._lock.release()
            failed = _patiently(self._delete_lock) or failed
            _patiently(self._delete_directory)
        self._lock.release()
        return failed

    def _delete_files(self) -> OSError | None:
        """Delete all but the lock; return why one of them can't be."""
        failed = self.delete_report()
        try:
            for _, path in self.segments():
                failed = _unlink(path) or failed
        except FileNotFoundError:
            pass
        except OSError as error:
            failed = error
        return failed or _unlink(self.path / _DELETED)

    def _delete_lock(self) -> OSError | None:
        return _unlink(self._lock.path)

    def _delete_directory(self) -> OSError | None:
        try:
            self.path.rmdir()
        except OSError as error:
            return error
        return None

    def forget_after_fork(self) -> None:
        """In a forked child: close its copy of the lock. The parent's run is not touched."""
        self._lock.forget_after_fork()


def _segment_name(number: int) -> str:
    return f"{number:08}.events"


def _safe(text: str) -> str:
    """Return a name that any file system accepts; texts may share one."""
    name = _UNSAFE.sub("_", text[:_MAX_NAME]) or "_"
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def _make_journal(path: Path) -> list[Path]:
    """Make it if it is missing; return the directories that got a name by that."""
    if path.is_dir():
        return []
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # a file on the way
        raise _not_a_directory(path) from None
    except FileNotFoundError as error:  # no such drive or server; another attempt may take as long
        raise OSError(errno.ENXIO, error.strerror, str(path)) from error
    try:
        _make_private(path)
    except FileExistsError:  # made meanwhile, and perhaps gone again; or a file
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise _not_a_directory(path) from None
    return [each.parent for each in missing]


def _not_a_directory(path: Path) -> NotADirectoryError:
    return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def _locked(path: Path) -> FileLock | None:
    """Return the lock of a directory that was just made; if there can't be one, remove it."""
    try:
        return FileLock.acquire(path / _LOCK, create=True)
    except FileNotFoundError:
        raise
    except OSError:
        with contextlib.suppress(OSError):
            path.joinpath(_LOCK).unlink(missing_ok=True)
            path.rmdir()
        raise


def _unlink(path: Path) -> OSError | None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return error
    return None


def _replace(path: Path, target: Path) -> OSError | None:
    try:
        path.replace(target)
    except OSError as error:
        return error
    return None


def _patiently(attempt: Callable[[], OSError | None]) -> OSError | None:
    """Return why an attempt failed, after others if another program may have a file open.

    Windows lets nobody delete or replace such a file, and a virus scanner opens each new one.
    """
    failed = attempt()
    if sys.platform == "win32":
        deadline = monotonic() + _PATIENCE_WITH_READERS
        while isinstance(failed, PermissionError) and monotonic() < deadline:
            sleep(_PAUSE)
            failed = attempt()
    return failed


def _write_privately(path: Path, content: bytes) -> None:
    with opened(path, _NEW) as fd:
        if sys.platform != "win32":
            os.fchmod(fd, 0o600)  # a umask can take bits away
        if os.write(fd, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _sync(directory: Path) -> None:
    retried(lambda: _sync_once(directory))


def _sync_once(directory: Path) -> None:
    with opened(directory, os.O_RDONLY) as fd:
        os.fsync(fd)


def _make_private(path: Path) -> None:
    if sys.platform == "win32":
        # Who may read it is inherited: in a profile, the player. Newer Pythons take 0700 for "the
        # owner alone". But what a game makes that runs as administrator is owned by the group of
        # these, and the same player's next game could not use it.
        path.mkdir()
        return
    path.mkdir(0o700)
    if stat.S_IMODE(path.stat().st_mode) != 0o700:  # a umask can take bits away
        with contextlib.suppress(OSError):
            path.chmod(0o700)


def _contents(path: Path) -> tuple[dict[int, Path], set[str]]:
    """Return the segments of a directory by number, and the names of everything else."""
    segments: dict[int, Path] = {}
    others: set[str] = set()
    with os.scandir(path) as entries:
        for entry in entries:
            match = _SEGMENT.fullmatch(entry.name)
            if (
                match
                and entry.name == _segment_name(int(match[1]))
                and entry.is_file(follow_symlinks=False)
            ):
                segments[int(match[1])] = path / entry.name
            else:
                others.add(entry.name)
    return segments, others
