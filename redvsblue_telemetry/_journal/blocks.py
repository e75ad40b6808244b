"""Blocks of a file, set aside so that no later write to its mapping can fail.

A write that the file system refuses is an error for a system call, but the end of the process for a
mapping (SIGBUS). So all that can be refused is refused here, before the file is mapped.

On btrfs, allocated blocks are not enough: it writes a page to another place each time, and a full
disk has no other place. Its flag NOCOW makes it write in place, but up to Linux 6.16, a write to a
mapping needed free space all the same (fixed by commit 6599716de2d6, "btrfs: fix -ENOSPC mmap
write failure on NOCOW files/extents"). There, the journal is refused. One case can't be detected:
a snapshot that is taken while a game runs makes btrfs copy its pages once more.

A file that grows beyond the process's limit raises SIGXFSZ. CPython ignores it, but a host may have
restored its default action, which ends the process, like that of SIGPIPE. So the limit is read.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import sys

if sys.platform != "win32":
    import fcntl
    import resource

__all__ = ["allocate", "check_size"]

_ZEROS = bytes(64 * 1024)
_NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, getattr(errno, "EOPNOTSUPP", errno.ENOSYS)}

# <linux/btrfs.h>, <linux/fs.h>. Some rare machines (MIPS, PowerPC) have other numbers.
_BTRFS_FS_INFO = 0x8400941F
_BTRFS_FS_INFO_BYTES = 1024
_FLAGS = struct.Struct("l")
_GET_FLAGS = 0x80006601 | _FLAGS.size << 16
_SET_FLAGS = 0x40006602 | _FLAGS.size << 16
_NO_COPY_ON_WRITE = 0x00800000
_FIRST_SAFE_LINUX = (6, 17)


def allocate(fd: int, size: int) -> None:
    """Set aside the blocks of a new, empty file.

    Raises:
        OSError: there are not enough, or they would not be enough.
    """
    check_size(size)
    if sys.platform == "linux":
        _write_in_place(fd)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
        else:
            return
    left = size
    while left > 0:
        left -= os.write(fd, _ZEROS[:left])


def check_size(size: int) -> None:
    """Check that this process may have files of a size.

    Raises:
        OSError: it may not.
    """
    if sys.platform != "win32":
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY and size > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


if sys.platform == "linux":

    def _write_in_place(fd: int) -> None:
        """Have btrfs write the file in place.

        Raises:
            OSError: this version of Linux can't.
        """
        try:
            fcntl.ioctl(fd, _BTRFS_FS_INFO, bytearray(_BTRFS_FS_INFO_BYTES))
        except OSError:
            return  # another file system
        if _linux() < _FIRST_SAFE_LINUX:
            raise OSError(
                errno.EOPNOTSUPP,
                "on a full btrfs, this version of Linux would kill the game; 6.17 would not",
            )
        (flags,) = _FLAGS.unpack(fcntl.ioctl(fd, _GET_FLAGS, bytes(_FLAGS.size)))
        fcntl.ioctl(fd, _SET_FLAGS, _FLAGS.pack(flags | _NO_COPY_ON_WRITE))


def _linux() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
