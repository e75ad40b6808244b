"""Messages to the service manager, as systemd's sd_notify(3) describes them.

Each is a datagram to the socket that the environment names. Nothing here ever fails the collector:
without a service manager, or if it doesn't listen, the messages are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping

__all__ = ["ServiceManager"]


class ServiceManager:
    """The service manager that has started this process, if any.

    Args:
        environ: the environment.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._watchdog = _watchdog(environ)

    def ready(self, status: str) -> None:
        """Report that the collector works, at first and after a reload."""
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report that the certificate is being read again."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the collector stores what it has, and ends."""
        self._notify("STOPPING=1", "STATUS=storing what was received")

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Report from the event loop, as long as the block runs, that it isn't stuck."""
        if self._watchdog is None:
            yield
            return
        task = asyncio.create_task(self._report_life(self._watchdog / 2))
        try:
            yield
        finally:
            task.cancel()

    async def _report_life(self, interval: float) -> None:
        while True:
            self._notify("WATCHDOG=1")
            await asyncio.sleep(interval)

    def _notify(self, *lines: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError, ValueError, AttributeError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), self._address)


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Return the seconds within which the service manager wants to hear from this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        seconds = int(environ.get("WATCHDOG_USEC", "")) / 1e6
        return seconds if seconds > 0 else None
    return None
