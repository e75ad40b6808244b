"""Ports of this machine that stay reserved while their server is away."""

from __future__ import annotations

import socket
import sys

__all__ = ["ReservedPort"]

_LOOPBACK = "127.0.0.1"
# On Linux, a socket that is bound and doesn't listen keeps the port from everyone who asks for any,
# and lets a server in that asks for this one. Elsewhere the server would be kept out, too.
_CAN_HOLD = sys.platform == "linux"


class ReservedPort:
    """A free port of the loopback interface, for one server; on Linux it stays its own."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        if _CAN_HOLD:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((_LOOPBACK, 0))
        self.number = int(self._socket.getsockname()[1])
        self.address = f"{_LOOPBACK}:{self.number}"
        if not _CAN_HOLD:
            self._socket.close()

    def release(self) -> None:
        """Let others have it."""
        self._socket.close()
