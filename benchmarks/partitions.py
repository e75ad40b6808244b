"""A network that can be cut: parts of a cluster, each in a network namespace, around a router.

The router forwards what the parts send to each other. A cut between two of them lets it drop their
packets without a word, as a broken cable or a firewall does: no connection is reset.

This needs Linux and the rights of root, and takes the process that makes the network along: it is
one of the parts. Nothing outlives it: namespaces, with all that is in them, go with their last
process.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from redvsblue_telemetry.cluster.local.ports import Host

_CLONE_NEWNET = 0x40000000
_FORWARD = "net/ipv4/ip_forward"
_FOREIGN = "net/ipv4/ip_nonlocal_bind"

Way = tuple[str, str]
"""From a part to another."""


class Network:
    """Some parts and the network between them.

    Args:
        parts: their names.
        here: the part that this process becomes. To be made before this process has other threads,
            which would stay in the network that was there before.

    Raises:
        OSError: this machine, or this user, can't make it.
    """

    def __init__(self, parts: Iterable[str], here: str) -> None:
        self._router = _new_namespace()
        _unshare()
        # Ports of other parts are reserved from here.
        Path("/proc/sys", _FOREIGN).write_text("1")
        self._hosts: dict[str, Host] = {}
        self._run(self._router, "sh", "-c", f"echo 1 > /proc/sys/{_FORWARD}")
        for number, part in enumerate(parts, 1):
            namespace = _this_namespace() if part == here else _new_namespace()
            self._hosts[part] = Host(f"10.77.{number}.2", _entering(namespace))
            self._connect(number, namespace)

    def host(self, part: str) -> Host:
        """Return where a part runs."""
        return self._hosts[part]

    @contextlib.contextmanager
    def cut(self, ways: Iterable[Way]) -> Iterator[None]:
        """Drop all packets of some ways: from the first part of each to the second one."""
        addresses = [[self._hosts[part].address for part in way] for way in ways]
        rules = [f"from {source} to {target} blackhole" for source, target in addresses]
        self._ip(self._router, *[f"rule add {rule}" for rule in rules])
        try:
            yield
        finally:
            self._ip(self._router, *[f"rule del {rule}" for rule in rules])

    def _connect(self, number: int, namespace: int) -> None:
        inside, outside = "router", f"part{number}"
        self._ip(
            self._router,
            f"link add {outside} type veth peer name {inside} netns {_path(namespace)}",
            f"address add 10.77.{number}.1/24 dev {outside}",
            f"link set {outside} up",
        )
        self._ip(
            namespace,
            "link set lo up",
            f"address add 10.77.{number}.2/24 dev {inside}",
            f"link set {inside} up",
            f"route add default via 10.77.{number}.1",
        )

    def _ip(self, namespace: int, *commands: str) -> None:
        self._run(namespace, "ip", "-batch", "-", said="".join(f"{each}\n" for each in commands))

    @staticmethod
    def _run(namespace: int, *command: str, said: str = "") -> None:
        subprocess.run([*_entering(namespace), *command], input=said, text=True, check=True)


def ways(sources: Iterable[str], targets: Iterable[str]) -> list[Way]:
    """Return the ways from some parts to others."""
    return [*itertools.product(sources, targets)]


def both_ways(ones: Sequence[str], others: Sequence[str]) -> list[Way]:
    """Return the ways between some parts and others, in both directions."""
    return ways(ones, others) + ways(others, ones)


def _unshare() -> None:
    """Move this thread, and those that it starts, into a new network."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no network can be made: {os.strerror(number)}")


def _this_namespace() -> int:
    """Return a descriptor of this thread's network, which keeps it."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _new_namespace() -> int:
    """Return a descriptor of a new network."""

    def make() -> int:
        _unshare()
        return _this_namespace()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


def _path(namespace: int) -> str:
    return f"/proc/{os.getpid()}/fd/{namespace}"


def _entering(namespace: int) -> tuple[str, ...]:
    return "nsenter", f"--net={_path(namespace)}"
