"""Ports for servers that go away and come back."""

from __future__ import annotations

import contextlib
import random
import socket

# Below the ports that systems hand out, which a connection or a server of another test gets.
_PORTS = range(10_000, 30_000)


def own_port(host: str = "127.0.0.1") -> int:
    """Return a free port that nobody is given by chance while the server is away."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.SystemRandom().sample(_PORTS, 100):  # tests seed the other generator
        with contextlib.suppress(OSError), socket.create_server((host, port), family=family):
            return port
    raise AssertionError(f"no port of {host} is free")
