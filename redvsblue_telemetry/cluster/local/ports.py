"""Where servers of this machine listen: ports that stay reserved while their server is away."""

from __future__ import annotations

import socket
import sys

import msgspec

__all__ = ["HERE", "Host", "ReservedPort"]

_LOOPBACK = "127.0.0.1"
# On Linux, a socket that is bound and doesn't listen keeps the port from everyone who asks for any,
# and lets a server in that asks for this one. Elsewhere the server would be kept out, too.
_CAN_HOLD = sys.platform == "linux"


class Host(msgspec.Struct, frozen=True):
    """Where a server runs; by default, directly on this machine."""

    address: str = _LOOPBACK
    """That it listens on."""
    prefix: tuple[str, ...] = ()
    """What a command line begins with to run there, as with ``nsenter``."""


HERE = Host()


class ReservedPort:
    """A free port of an address, for one server; on Linux it stays its own."""

    def __init__(self, host: Host = HERE) -> None:
        self._socket = socket.socket()
        if _CAN_HOLD:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host.address, 0))
        self.number = int(self._socket.getsockname()[1])
        self.address = f"{host.address}:{self.number}"
        if not _CAN_HOLD:
            self._socket.close()

    def release(self) -> None:
        """Let others have it."""
        self._socket.close()
