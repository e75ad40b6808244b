"""Locks on files, by which a run of the game shows that it lives.

The operating system releases such a lock when the process that holds it dies, in any way. POSIX
has two kinds. Record locks (``fcntl.lockf``) were rejected: they don't conflict within a process,
and closing any descriptor of the file releases them. So this is ``flock``; on Windows, it is
``msvcrt.locking``.

A forked child inherits the descriptors, and with them the locks: a parent that died would look
alive for as long as the child lives. So a child closes its copies before it does anything else. It
doesn't unlock, since that would release the parent's lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path

from .descriptors import Identity, close_own, identity_of, retried

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["FileLock"]

# 0: wine, and so Proton, sets no errno.
_IS_HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK, 0}
# Windows forbids others to read a locked byte, so this one is beyond what a file can contain.
_LOCKED_BYTE = 1 << 30
# A file with a lock's name may be anything: a link to somewhere else, or a pipe without a writer.
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_CLOSED = -1

_held: dict[Identity, FileLock] = {}
"""The locks of this process, by device and inode. On some network file systems, locks don't
conflict within a process, as ``flock`` is a record lock there."""


class FileLock:
    """A lock that this process holds. Made by :meth:`acquire`."""

    def __init__(self, path: Path, fd: int, identity: Identity) -> None:
        self.path = path
        self._fd = fd
        self._identity = identity

    @classmethod
    def acquire(cls, path: Path, *, create: bool = False) -> FileLock | None:
        """Lock a file without waiting; return None if it is locked, here or elsewhere.

        Args:
            path: a regular file.
            create: make it if it is missing, with mode 0600.

        Raises:
            FileNotFoundError: it doesn't exist, or not any more.
            OSError: it can't be opened, or its file system has no locks.
        """
        return retried(lambda: cls._acquire(path, create=create))

    @classmethod
    def _acquire(cls, path: Path, *, create: bool) -> FileLock | None:
        if _identity_in_place(path) in _held:
            return None
        fd = os.open(path, os.O_RDWR | _SAFELY | (os.O_CREAT if create else 0), 0o600)
        identity = identity_of(fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            if create and sys.platform != "win32":
                os.fchmod(fd, 0o600)  # a umask can take bits away
            has_locked = _lock(fd, path)
        except BaseException:
            close_own(fd, identity)
            raise
        if not has_locked:
            close_own(fd, identity)
            return None
        if identity is None or identity_of(fd) != identity:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(path))
        lock = cls(path, fd, identity)
        _held[lock._identity] = lock
        if not lock._is_in_place():  # its owner deleted it a moment ago
            lock.release()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return lock

    @property
    def is_held(self) -> bool:
        """Whether it is still held, and the file is still where it was.

        A host that closes all descriptors, as a daemon does at its start, releases it.
        """
        return self._has_descriptor() and self._is_in_place()

    def hold_again(self) -> bool:
        """Take it again if a host has closed its descriptor; return whether it is held."""
        if self._fd == _CLOSED or self.is_held:
            return self._fd != _CLOSED
        self.release()
        if not self._is_in_place():
            return False
        try:
            again = FileLock.acquire(self.path)
        except OSError:
            return False
        if again is None:
            return False
        self._fd = again._fd
        _held[self._identity] = self
        return True

    def release(self) -> None:
        """Unlock and close the file. Does nothing if that was done."""
        fd, self._fd = self._fd, _CLOSED
        if _held.get(self._identity) is self:
            del _held[self._identity]
        if fd != _CLOSED and identity_of(fd) == self._identity:
            with contextlib.suppress(OSError):
                _unlock(fd)  # also the copies that other processes inherited
            with contextlib.suppress(OSError):
                close_own(fd, self._identity)

    def forget_after_fork(self) -> None:
        """In a forked child: close the copy of the descriptor. The parent's lock is kept."""
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            with contextlib.suppress(OSError):
                close_own(fd, self._identity)

    def _has_descriptor(self) -> bool:
        return self._fd != _CLOSED and identity_of(self._fd) == self._identity

    def _is_in_place(self) -> bool:
        return _identity_in_place(self.path) == self._identity


def _identity_in_place(path: Path) -> Identity | None:
    """Return the identity of a file, or of a symbolic link; None if it can't be had."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _lock(fd: int, path: Path) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _IS_HELD:
            return False
        raise OSError(error.errno, f"no file locks here ({error.strerror})", str(path)) from error
    return True


def _unlock(fd: int) -> None:
    if sys.platform == "win32":
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _forget_all_after_fork() -> None:
    for lock in _held.values():
        lock.forget_after_fork()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all_after_fork)
