"""A cluster on this machine: stream servers, gateways, loaders and views.

Each of them is a process that runs the command of that name, as on any machine.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from .balancer import Balancer
from .children import Child, Guard
from .ports import HERE, Host, ReservedPort
from .servers import StreamServers

__all__ = ["ClusterError", "LocalCluster", "Program"]

_READY_TIMEOUT = 60.0  # seconds, on a machine that has other things to do
_REQUEST_TIMEOUT = 2.0
_POLL_INTERVAL = 0.05
_LAST_PART_TIMEOUT = 20.0


class ClusterError(Exception):
    """A part of the cluster doesn't run; the message says why."""


class Program:
    """One command that runs as a child of this process, and answers on a port.

    Args:
        name: for messages.
        arguments: of ``redvsblue-telemetry``; the port is added.
        log: the file for its output.
        guard: looks after it.
        host: where it runs.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, guard: Guard, host: Host
    ) -> None:
        self.name = name
        self._host = host
        self._port = ReservedPort(host)
        command = [*host.prefix, sys.executable, "-m", "redvsblue_telemetry", *arguments]
        self.child = Child(
            name,
            [*command, "--host", host.address, "--port", str(self.port)],
            log,
            guard,
            _environment(),
        )

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return self._host.address

    @property
    def port(self) -> int:
        """Its port, the same each time that it is started."""
        return self._port.number

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self._port.address}/"

    @property
    def is_healthy(self) -> bool:
        """Whether it says that all is well."""
        return self.get("/healthz")[0] == http.client.OK

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the text of an answer; status 0 if it doesn't answer."""
        connection = http.client.HTTPConnection(self._port.address, timeout=_REQUEST_TIMEOUT)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode(errors="replace")
            except (OSError, http.client.HTTPException):
                return 0, ""  # it starts, or ends

    def wait_healthy(self, timeout: float = _READY_TIMEOUT) -> None:
        """Wait until all is well.

        Raises:
            ClusterError: it has ended, or that takes more than this many seconds.
        """
        deadline = time.monotonic() + timeout
        while not self.is_healthy:
            if not self.child.is_running:
                raise ClusterError(f"{self.name} ended:\n{self.child.last_lines()}")
            if time.monotonic() > deadline:
                said = self.get("/healthz")[1] or "nothing"
                raise ClusterError(
                    f"{self.name} isn't ready after {timeout:g} s; it says {said}\n"
                    f"{self.child.last_lines()}"
                )
            time.sleep(_POLL_INTERVAL)

    def release(self) -> None:
        """End it, and let others have its port."""
        self.child.kill()
        self._port.release()


class LocalCluster:
    """All parts of a cluster, in a directory; a context manager that starts and ends them.

    Its methods may be called from any thread, but only from one at a time.

    Args:
        directory: for the files of all parts.
        lake: where the lake is; by default in the directory.
        servers: the number of stream servers.
        gateways: their number.
        loaders: their number.
        views: their number. They need a lake, so there must be a loader.
        syncs: whether the stream's servers sync each write.
        gateway_options: more options of each gateway.
        loader_options: more options of each loader.
        host_of: where a part runs, by its name, such as ``gateway 1`` or ``stream server s0``.

    Raises:
        ServersError: ``nats-server`` isn't installed, or is too old.
    """

    def __init__(
        self,
        directory: Path,
        *,
        lake: str | None = None,
        servers: int = 3,
        gateways: int = 2,
        loaders: int = 2,
        views: int = 0,
        syncs: bool = True,
        gateway_options: Sequence[str] = (),
        loader_options: Sequence[str] = (),
        host_of: Callable[[str], Host] = lambda _: HERE,
    ) -> None:
        self.directory = directory
        self._host_of = host_of
        self.lake = lake or str(directory / "lake")
        self._loader_options = tuple(loader_options)
        self._closing = contextlib.ExitStack()  # what is entered first ends last
        with contextlib.ExitStack() as failing:
            failing.push(self._closing)
            self._guard = self._closing.enter_context(Guard())
            self.servers = StreamServers(
                directory / "stream", servers, syncs=syncs, guard=self._guard, host_of=host_of
            )
            self._closing.callback(self.servers.close)
            self.gateways = [
                self._program(f"gateway {number}", ["collect", *self._stream, *gateway_options])
                for number in range(1, gateways + 1)
            ]
            self.loaders = [self._loader(number) for number in range(1, loaders + 1)]
            self.views = [
                self._program(f"view {number}", ["view", "--lake", self.lake, "--quiet"])
                for number in range(1, views + 1)
            ]
            self.balancer = Balancer([(gateway.host, gateway.port) for gateway in self.gateways])
            failing.pop_all()

    @property
    def url(self) -> str:
        """The URL for games: of all gateways, each connection with another one."""
        return f"ws://127.0.0.1:{self.balancer.port}/telemetry"

    @property
    def programs(self) -> tuple[Program, ...]:
        """All parts but the stream's servers."""
        return (*self.gateways, *self.loaders, *self.views)

    def start(self, timeout: float = _READY_TIMEOUT) -> LocalCluster:
        """Start all parts, and wait until each is ready.

        Raises:
            ClusterError: a part has ended, or isn't ready within that many seconds.
            ServersError: the same, of a stream server.
        """
        self.servers.start(timeout)
        # Loaders make the lake, which views need from the beginning.
        for programs in ((*self.gateways, *self.loaders), self.views):
            for program in programs:
                program.child.start()
            for program in programs:
                program.wait_healthy(timeout)
        self.balancer.start()
        self._closing.callback(self.balancer.close)
        return self

    def add_loader(self) -> Program:
        """Start one more loader."""
        loader = self._loader(len(self.loaders) + 1)
        self.loaders.append(loader)
        loader.child.start()
        return loader

    def stop_programs(self) -> None:
        """End the gateways, then the others: then nothing is written to the lake any more.

        Raises:
            ClusterError: some haven't ended in time, and were killed.
        """
        for programs in (self.gateways, (*self.loaders, *self.views)):
            _stop_all([program.child for program in programs])

    def close(self) -> None:
        """End all parts, those that others need last. Their files stay.

        Raises:
            ClusterError: some haven't ended in time, and were killed.
        """
        with self._closing:
            self.stop_programs()

    def __enter__(self) -> LocalCluster:
        try:
            return self.start()
        except BaseException:
            self._closing.close()
            raise

    def __exit__(
        self,
        type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _stream(self) -> tuple[str, str]:
        return "--stream", ",".join(self.servers.urls)

    def _loader(self, number: int) -> Program:
        arguments = ["load", *self._stream, "--lake", self.lake, *self._loader_options]
        return self._program(f"loader {number}", arguments)

    def _program(self, name: str, arguments: Sequence[str]) -> Program:
        log = self.directory / f"{name.replace(' ', '-')}.log"
        program = Program(name, arguments, log, self._guard, self._host_of(name))
        self._closing.callback(program.release)
        return program


def _stop_all(children: Sequence[Child]) -> None:
    """Ask all of them to end, and wait.

    Raises:
        ClusterError: some haven't ended in time, and were killed.
    """
    late: list[str] = []

    def stop(child: Child) -> None:
        try:
            child.stop(_LAST_PART_TIMEOUT)
        except subprocess.TimeoutExpired:
            late.append(f"{child.name} did not end in {_LAST_PART_TIMEOUT:g} s")

    stopping = [threading.Thread(target=stop, args=(child,)) for child in children]
    for thread in stopping:
        thread.start()
    for thread in stopping:
        thread.join()
    if late:
        raise ClusterError("; ".join(late))


def _environment() -> Mapping[str, str]:
    """Return the environment of a part, without settings that are meant for others."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("REDVSBLUE_") and not name.lower().endswith("_proxy")
    }
    return {**kept, "PYTHONUNBUFFERED": "1"}
