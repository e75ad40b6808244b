"""Descriptors of files, in a process whose other code may close them at any moment.

A host that closes all descriptors, as a daemon does at its start, may then open files that get the
same numbers (see :mod:`redvsblue_telemetry._network.owned`). So a descriptor is closed only while
it still belongs to its file, and an operation that met a closed one is tried again.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

__all__ = ["Identity", "close_own", "identity_of", "opened", "read_at", "retried"]

Identity = tuple[int, int]
"""The device and the inode of a file."""

_T = TypeVar("_T")
_MAX_ATTEMPTS = 5


def identity_of(file: int | Path) -> Identity | None:
    """Return the identity of a file, by its descriptor or path; None if there is no such file."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def close_own(fd: int, identity: Identity | None) -> bool:
    """Close a descriptor; return False if other code has closed it before."""
    if identity is None or identity_of(fd) != identity:
        return False
    try:
        os.close(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            return False
        raise
    return True


@contextlib.contextmanager
def opened(path: Path | str, flags: int, mode: int = 0o600) -> Iterator[int]:
    """Open a file, and close it at the end.

    Raises:
        OSError: it can't be opened.
    """
    fd = os.open(path, flags, mode)
    identity = identity_of(fd)
    try:
        yield fd
    finally:
        close_own(fd, identity)


def retried(operation: Callable[[], _T]) -> _T:
    """Return the result of an operation, which is repeated if a descriptor was closed under it.

    Raises:
        OSError: it failed for another reason, or again and again.
    """
    for _ in range(_MAX_ATTEMPTS - 1):
        try:
            return operation()
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
    return operation()


def read_at(path: Path, start: int, count: int) -> bytes:
    """Return the bytes of a file from a position on; fewer if it ends before.

    Raises:
        OSError: it can't be read.
    """
    return retried(lambda: _read(path, start, count))


def _read(path: Path, start: int, count: int) -> bytes:
    with opened(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)) as fd:
        size = os.fstat(fd).st_size
        os.lseek(fd, start, os.SEEK_SET)
        wanted = max(0, min(count, size - start))
        parts = []
        while wanted > 0 and (part := os.read(fd, wanted)):
            parts.append(part)
            wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
