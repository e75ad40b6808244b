"""Blocks that are set aside, on a real btrfs that is filled for real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from redvsblue_telemetry._journal import blocks
from redvsblue_telemetry._journal.blocks import allocate, check_size
from tests.support import REPOSITORY
from tests.support.systems import not_on_windows

if sys.platform != "win32":
    import resource

pytestmark = not_on_windows("no limits of POSIX")

# Page by page with a sync after each: so each write finds a page that is on disk.
FULL_BTRFS = """
import mmap, os, sys
from redvsblue_telemetry._journal.blocks import allocate
path, size = sys.argv[1], 256 * 1024
fd = os.open(path + "/mapped", os.O_RDWR | os.O_CREAT, 0o600)
if sys.argv[2] == "allocate":
    allocate(fd, size)
else:
    os.posix_fallocate(fd, 0, size)
mapped = mmap.mmap(fd, size)
mapped.write(bytes(size))
os.fdatasync(fd)
chunk, left = 64 * 2**20, 0
while chunk >= 4096:
    filling = os.open(f"{path}/{chunk}-{left}", os.O_WRONLY | os.O_CREAT)
    try:
        os.posix_fallocate(filling, 0, chunk)
    except OSError:
        chunk //= 2
    left += 1
    os.close(filling)
mapped.seek(0)
for _ in range(size // 4096 * 2):
    mapped.write(b"x" * 2048)
    os.fdatasync(fd)
print("written", flush=True)
"""


def on_a_full_btrfs(tmp_path: Path, how: str) -> subprocess.CompletedProcess[str]:
    if os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None or shutil.which("unshare") is None:
        pytest.skip("machine: no btrfs can be made")
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(128 * 2**20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    command = (sys.executable, FULL_BTRFS, how)
    script = 'mount -o loop "$1" "$2" && exec "$3" -c "$4" "$2" "$5"'
    return subprocess.run(
        ["unshare", "--mount", "--", "sh", "-c", script, "sh", image, mounted, *command],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_full_btrfs_kills_nobody(tmp_path: Path) -> None:
    if blocks._linux() < blocks._FIRST_SAFE_LINUX:
        pytest.skip("machine: on this Linux, the journal is refused")
    done = on_a_full_btrfs(tmp_path, "allocate")
    assert (done.returncode, done.stdout) == (0, "written\n"), done.stderr


def test_a_full_btrfs_would_kill_with_blocks_that_are_merely_allocated(tmp_path: Path) -> None:
    # So that the test above shows something.
    assert on_a_full_btrfs(tmp_path, "posix_fallocate").returncode == -signal.SIGBUS


def test_a_limit_of_the_process_is_an_error_and_no_signal(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    check_size(2**40)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        check_size(100_000)
        with pytest.raises(OSError, match="File too large"):
            check_size(100_001)
        with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="too large"):
            allocate(file.fileno(), 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_blocks_are_really_there(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        allocate(file.fileno(), 300_000)
        status = os.fstat(file.fileno())
    assert status.st_size == 300_000
    assert status.st_blocks * 512 >= 300_000


def test_where_none_can_be_reserved_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)  # macOS has none
    test_blocks_are_really_there(tmp_path)
