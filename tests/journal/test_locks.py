"""Locks on files: exclusive, released by a death, and named where there are none."""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest

from redvsblue_telemetry._journal import locks
from redvsblue_telemetry._journal.locks import FileLock
from tests.support.systems import needs_links, needs_pipes, not_on_windows

if sys.platform == "win32":
    import msvcrt as system

    CALL = "locking"
else:
    import fcntl as system

    CALL = "flock"


def test_a_file_is_locked_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock.acquire(path, create=True)
    assert lock is not None
    assert lock.is_held
    assert FileLock.acquire(path) is None
    lock.release()
    lock.release()
    assert not lock.is_held
    again = FileLock.acquire(path)
    assert again is not None
    again.release()


def test_a_file_that_is_missing_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock.acquire(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("link", marks=needs_links),
        pytest.param("pipe", marks=needs_pipes),
        "directory",
    ],
)
def test_only_a_regular_file_is_locked(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    if kind == "link":
        tmp_path.joinpath("target").touch()
        path.symlink_to(tmp_path / "target")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OSError, match="lock"):
        FileLock.acquire(path, create=True)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(system, CALL, refuse)
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    with pytest.raises(OSError, match="no file locks here") as caught:
        FileLock.acquire(tmp_path / "lock", create=True)
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path / "lock"))
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_finds_its_own_lock_where_locks_do_not_conflict_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, CALL, lambda *_: None)  # as on some network shares
    lock = FileLock.acquire(tmp_path / "lock", create=True)
    assert lock is not None
    assert FileLock.acquire(tmp_path / "lock") is None
    lock.release()


@not_on_windows("it has the real one")
@pytest.mark.parametrize("held", [errno.EACCES, 0], ids=["Windows", "wine"])
def test_windows_locks_a_byte_beyond_the_file(
    held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for ``msvcrt``, whose locks conflict as on Windows."""
    calls: list[tuple[str, int, int]] = []

    def locking(fd: int, mode: int, count: int) -> None:
        calls.append(("lock" if mode == 2 else "unlock", os.lseek(fd, 0, os.SEEK_CUR), count))
        try:
            system.flock(fd, system.LOCK_EX | system.LOCK_NB if mode == 2 else system.LOCK_UN)
        except BlockingIOError as error:
            raise OSError(held, os.strerror(held)) from error

    msvcrt = types.ModuleType("msvcrt")
    vars(msvcrt).update(LK_NBLCK=2, LK_UNLCK=0, locking=locking)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setitem(sys.modules, "fcntl", None)  # importing it fails
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    assert locks.__file__ is not None
    spec = importlib.util.spec_from_file_location(locks.__name__, locks.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    path = tmp_path / "lock"
    path.touch()
    with path.open("rb") as other:  # as of another process
        system.flock(other, system.LOCK_EX)
        assert module.FileLock.acquire(path) is None
    calls.clear()
    lock = module.FileLock.acquire(path)
    assert lock is not None
    assert calls == [("lock", 1 << 30, 1)]
    with path.open("rb") as file, pytest.raises(BlockingIOError):
        system.flock(file, system.LOCK_EX | system.LOCK_NB)
    assert module.FileLock.acquire(path) is None
    lock.release()
    assert calls[1:] == [("unlock", 1 << 30, 1)]
    assert path.stat().st_size == 0
    again = module.FileLock.acquire(path)
    assert again.is_held
    again.release()
