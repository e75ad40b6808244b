"""The marks of tests that need an operating system, and the reasons to skip them on others.

A test that only some systems can run carries one of these marks. No other reason to skip a test
depends on the system.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import pytest

__all__ = [
    "IS_WINDOWS",
    "IS_WINE",
    "needs_descriptors",
    "needs_fork",
    "needs_links",
    "needs_linux",
    "needs_loopback_net",
    "needs_modes",
    "needs_pipes",
    "needs_posix",
    "needs_proc",
    "needs_sigpipe",
    "needs_terminals",
    "needs_timers",
    "needs_windows",
    "not_on_macos",
    "not_on_windows",
    "not_under_wine",
]

IS_WINDOWS = sys.platform == "win32"


def _is_wine() -> bool:
    if sys.platform != "win32":
        return False
    return hasattr(ctypes.windll.ntdll, "wine_get_version")


IS_WINE = _is_wine()

needs_posix = pytest.mark.skipif(IS_WINDOWS, reason="POSIX: signals that a process can catch")


def _may_link() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "link")
        try:
            link.symlink_to("nowhere")
        except OSError:
            return False
        return link.is_symlink()


needs_links = pytest.mark.skipif(
    not _may_link(),
    reason="wine: no symbolic links"
    if IS_WINE
    else "Windows: a symbolic link takes a right that few accounts have",
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX: fork")
needs_descriptors = pytest.mark.skipif(
    IS_WINDOWS, reason="POSIX: one table of descriptors for files and sockets"
)
needs_pipes = pytest.mark.skipif(IS_WINDOWS, reason="POSIX: pipes and devices among the files")
needs_modes = pytest.mark.skipif(IS_WINDOWS, reason="POSIX: modes of files")
needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX: interval timers")
needs_sigpipe = pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="POSIX: SIGPIPE")
needs_terminals = pytest.mark.skipif(IS_WINDOWS, reason="POSIX: pseudo-terminals")
needs_windows = pytest.mark.skipif(not IS_WINDOWS, reason="Windows only")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
needs_proc = pytest.mark.skipif(
    IS_WINDOWS or not Path("/proc/self/stat").exists(), reason="Linux only: /proc"
)


def _has_loopback_net() -> bool:
    try:
        for host in ("127.0.0.2", "127.0.0.3"):
            with socket.socket() as sock:
                sock.bind((host, 0))
    except OSError:
        return False
    return True


needs_loopback_net = pytest.mark.skipif(
    not _has_loopback_net(),
    reason="needs 127.0.0.2 and 127.0.0.3 (on macOS: sudo ifconfig lo0 alias 127.0.0.2 up)",
)


def not_on_macos(reason: str) -> pytest.MarkDecorator:
    """Skip a test where macOS does things in another way."""
    return pytest.mark.skipif(sys.platform == "darwin", reason=f"macOS: {reason}")


def not_on_windows(reason: str) -> pytest.MarkDecorator:
    """Skip a test where Windows does things in another way."""
    return pytest.mark.skipif(IS_WINDOWS, reason=f"Windows: {reason}")


def not_under_wine(reason: str) -> pytest.MarkDecorator:
    """Skip a test that a real Windows would pass; the reason says how wine differs."""
    return pytest.mark.skipif(IS_WINE, reason=f"wine: {reason}")
