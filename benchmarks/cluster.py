"""Is every event in the lake exactly once, though parts between the game and the lake die?

    python -m benchmarks.cluster --scenario kills --kills 100 --json benchmarks/results/cluster.json

All parts of a cluster run on this machine, each as a process: three stream servers that sync each
write, two gateways, two loaders. Real clients send the events of battles through a balancer to the
gateways. Then something happens, over and over. In the end, each client's ledger is compared with
the events in the lake. Every event must be there once, and each session's events in their order;
otherwise the exit code is 1.

The scenarios:

kills       a gateway, a loader, the stream's leader or a follower gets kill -9, at random
frozen      a loader is stopped with SIGSTOP for a minute, another takes over, then it goes on
cut_off     one part after the other is stopped with SIGSTOP, as if a network dropped all of its
            packets: the stream's leader, a follower, a gateway; then it goes on
partitioned each part has its own network, and any two parts are cut off from each other in
            turn: their packets are dropped (needs the rights of root)
blackout    all stream servers are killed at once, and started again
replay      events that are stored are sent again through another gateway to other loaders
joins       loaders join and leave under load
replaced    a stream server loses its disk under load
full        the disk of a stream server is full for a while, then that of the lake (needs the rights
            of root, to mount small disks)
throughput  clients send as fast as they can; also, how many bytes an event takes in the lake
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from deltalake import DeltaTable
from websockets.sync.client import connect

from benchmarks.harness import (
    ROOT,
    Result,
    environment,
    number,
    progress,
    report_lines,
    save,
    table,
)
from benchmarks.partitions import Network, Way, both_ways, ways
from redvsblue_telemetry.cli.cluster.game import Progress
from redvsblue_telemetry.cli.cluster.verdict import differences, total
from redvsblue_telemetry.cluster.local.children import Child, Guard
from redvsblue_telemetry.cluster.local.cluster import LocalCluster, Program
from redvsblue_telemetry.cluster.local.ledgers import Stored, count_events, stored_sessions
from redvsblue_telemetry.cluster.local.ports import Host

_READY_TIMEOUT = 60.0  # seconds, as all times here
_END_TIMEOUT = 240.0
_LAKE_PATIENCE = 60.0  # without an event that is new in the lake
_DEAD_FOR = 2.0
_SMALL_DISK = "2g"
_MAX_PROBLEMS = 20
_MAX_WAIT = 10.0
_MAX_FRESHNESS = 30.0
_BETWEEN_CUTS = 5.0
_BUCKET = "telemetry"
_OBJECT_STORE_PORT = 9000
_HERE, _LAKE = "the clients", "the lake"
# The parts of a network that can be cut; the others are named by the cluster.
_PARTS = (
    *(_HERE, _LAKE, "gateway 1", "gateway 2", "loader 1", "loader 2"),
    *("stream server s0", "stream server s1", "stream server s2"),
)
_PROCESSES = 2  # that the clients are spread over


class Failed(Exception):  # noqa: N818 (of the cluster, not of this program)
    """A promise was broken."""


class Longest:
    """The longest of some times, of all or of those since a mark."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def note(self, seconds: float) -> None:
        """Add one."""
        self._seconds.append(seconds)

    def mark(self) -> int:
        """Return a mark."""
        return len(self._seconds)

    def since(self, mark: int = 0) -> float:
        """Return the longest one since a mark."""
        return max(self._seconds[mark:], default=0.0)


class Games:
    """The clients, in processes; a context manager.

    Args:
        url: where they send to.
        clients: their number.
        rate: events a second of all of them together; 0 is as fast as they are delivered.
        seed: chooses the battles.
    """

    def __init__(self, url: str, clients: int, rate: float, seed: int) -> None:
        per_process = max(1, clients // _PROCESSES)
        self._commands = [
            [
                *(sys.executable, "-m", "benchmarks.cluster_game", url, str(per_process)),
                *(str(rate / clients), str(seed + index)),
            ]
            for index in range(min(clients, _PROCESSES))
        ]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        self._latest: dict[int, list[Progress]] = {}
        self.waits = Longest()
        """How long clients waited for an acknowledgment."""

    def __enter__(self) -> Games:
        for index, command in enumerate(self._commands):
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            reader = threading.Thread(target=self._read, args=(index, process))
            reader.start()
            self._processes.append(process)
            self._readers.append(reader)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def _read(self, index: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            clients = msgspec.json.decode(line, type=list[Progress])
            self._latest[index] = clients
            self.waits.note(max(client.longest_wait for client in clients))

    @property
    def pids(self) -> list[int]:
        """Their processes."""
        return [process.pid for process in self._processes]

    @property
    def latest(self) -> list[Progress]:
        """The progress of each client, as it was last printed."""
        return [each for clients in self._latest.copy().values() for each in clients]

    def wait_playing(self) -> None:
        """Wait until all of them deliver events."""
        _wait(
            lambda: (
                len(self._latest) == len(self._commands)
                and all(each.delivered for each in self.latest)
            ),
            _READY_TIMEOUT,
            "the clients don't deliver events",
        )

    def wait_for_acks(self) -> None:
        """Wait until each of them has delivered more than until now."""
        before = {each.session: each.delivered for each in self.latest}
        _wait(
            lambda: all(each.delivered > before[each.session] for each in self.latest),
            _READY_TIMEOUT,
            "the clients don't deliver events again",
        )

    def end(self) -> list[Progress]:
        """Let them deliver what they have left; return their ledgers."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"end\n")
            process.stdin.flush()
        for reader in self._readers:
            reader.join(_END_TIMEOUT)
        ended = self.latest
        if not all(each.is_over for each in ended):
            raise Failed("clients don't end")
        return ended


class Freshness(threading.Thread):
    """Measures how long after their delivery events are in the lake."""

    def __init__(self, games: Games, lake: str) -> None:
        super().__init__(name="freshness")
        self.ages = Longest()
        self._games = games
        self._lake = lake
        self._end = threading.Event()
        self._delivered: list[tuple[float, int]] = []

    def run(self) -> None:
        while not self._end.wait(1.0):
            self._delivered.append((time.monotonic(), total(self._games.latest).delivered))
            stored = count_events(self._lake)
            while self._delivered and self._delivered[0][1] <= stored:
                self._delivered.pop(0)
            if self._delivered:
                self.ages.note(time.monotonic() - self._delivered[0][0])

    def close(self) -> None:
        self._end.set()
        self.join()


def _wait(condition: Callable[[], object], timeout: float, otherwise: str) -> float:
    """Wait until a condition holds; return the seconds that it took."""
    since = time.monotonic()
    while not condition():
        if time.monotonic() - since > timeout:
            raise Failed(f"{otherwise} within {timeout:g} s")
        time.sleep(0.05)
    return time.monotonic() - since


class Bed:
    """A cluster and its clients, of one scenario.

    Args:
        options: of the command.
        directory: for the files.
        rate: events a second of all clients together.
        network: that the parts run in, with an object store for the lake; otherwise, they run
            directly on this machine, with a lake in the directory.
    """

    freshness: Freshness

    def __init__(
        self,
        options: argparse.Namespace,
        directory: Path,
        rate: float,
        network: Network | None = None,
    ) -> None:
        self.options = options
        self.dice = random.Random(options.seed)
        self.result: Result = {}
        self.problems: list[str] = []
        self.network = network
        self.cluster = (
            LocalCluster(directory)
            if network is None
            else LocalCluster(
                directory,
                lake=f"s3://{_BUCKET}/lake",
                gateway_options=["--insecure"],  # the network has no other machines
                host_of=network.host,
            )
        )
        self._rate = rate

    @contextlib.contextmanager
    def playing(self, seconds_before: float = 3.0) -> Iterator[Games]:
        """Start all; when the block is left, end the clients, and compare the ledgers."""
        options = self.options
        with (
            self.cluster,
            Games(self.cluster.url, options.clients, self._rate, options.seed) as games,
        ):
            self.freshness = freshness = Freshness(games, self.cluster.lake)
            games.wait_playing()
            freshness.start()
            try:
                time.sleep(seconds_before)
                yield games
            finally:
                freshness.close()
            since = time.monotonic()
            self.compare(games, since)
            self.result["freshness"] = freshness.ages.since()

    def compare(self, games: Games, ended: float) -> None:
        """End the clients, wait until the lake has all, and compare it with their ledgers."""
        clients = games.end()
        last, since = -1, time.monotonic()
        ledger = total(clients)
        while (count := count_events(self.cluster.lake)) < ledger.delivered:
            if count != last:
                last, since = count, time.monotonic()
            if time.monotonic() - since > _LAKE_PATIENCE:
                break
            time.sleep(0.5)
        drained = time.monotonic() - ended
        self.cluster.stop_programs()
        stored = stored_sessions(self.cluster.lake)
        lakes = [stored.get(client.session, Stored()) for client in clients]
        self.result |= {
            "clients": len(clients),
            "seconds": ledger.seconds,
            "seconds until all was in the lake": drained,
            "emitted": ledger.counted,
            "acknowledged": ledger.delivered,
            "stored": sum(each.events for each in lakes),
            "lost": sum(
                each.missing(client.delivered) for client, each in zip(clients, lakes, strict=True)
            ),
            "twice": sum(each.twice for each in lakes),
            "out of order": sum(each.disordered for each in lakes),
            "longest wait for an ack": games.waits.since(),
            "reconnects": ledger.reconnects,
        }
        self.problems += differences(clients, stored)

    def leader(self) -> int:
        """Wait until the stream has a leader; return its index."""
        found: list[int] = []

        def look() -> bool:
            leader = self.cluster.servers.leader()
            found.extend([] if leader is None else [leader])
            return leader is not None

        _wait(look, _READY_TIMEOUT, "the stream has no leader")
        return found[-1]

    def limit(self, name: str, most: float, figures: Result | None = None) -> None:
        """Note a problem if a figure of the result, or of a part of it, is too high."""
        figure = (figures or self.result)[name]
        if figure > most:
            self.problems.append(f"{name}: {figure:.1f}, and {most:g} is the most")


# The scenarios.


def kills(bed: Bed) -> None:
    victims = ("gateway", "loader", "leader", "follower")
    counts = dict.fromkeys(victims, 0)
    with bed.playing():
        for kill in range(bed.options.kills):
            # Half of them in turn, so that each kind has its share, and half of them at random.
            kind = victims[kill // 2 % 4] if kill % 2 else bed.dice.choice(victims)
            counts[kind] += 1
            progress(f"kill {kill + 1} of {bed.options.kills}: {kind}")
            if kind in ("gateway", "loader"):
                _kill_program(bed, kind)
            else:
                _kill_server(bed, is_leader=kind == "leader")
            time.sleep(bed.dice.uniform(0.5, 3.0))
    bed.result |= {"times": bed.options.kills, "kills": counts}
    bed.limit("longest wait for an ack", _MAX_WAIT)


def _kill_program(bed: Bed, kind: str) -> None:
    programs = bed.cluster.gateways if kind == "gateway" else bed.cluster.loaders
    program: Program = bed.dice.choice(programs)
    program.child.kill()
    time.sleep(bed.dice.uniform(0.0, _DEAD_FOR))
    program.child.start()
    program.wait_healthy()


def _kill_server(bed: Bed, *, is_leader: bool) -> None:
    servers, leader = bed.cluster.servers, bed.leader()
    followers = [index for index in range(len(servers.children)) if index != leader]
    index = leader if is_leader else bed.dice.choice(followers)
    servers.kill(index)
    time.sleep(bed.dice.uniform(0.0, _DEAD_FOR))
    servers.start_one(index)
    bed.leader()
    servers.wait_current(_READY_TIMEOUT)


def _metrics(program: Program) -> dict[str, float]:
    """Return the metrics of a program that have no labels; none if it doesn't answer."""
    lines = program.get("/metrics")[1].splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in pairs}


def _owns_all(loader: Program) -> bool:
    """Return whether a loader owns all partitions of the stream."""
    metrics = _metrics(loader)
    owned = metrics.get("telemetry_partitions_owned")
    return owned is not None and owned == metrics["telemetry_partitions"]


def frozen(bed: Bed) -> None:
    bed.result["stopped for"] = bed.options.freeze
    with bed.playing():
        loader = bed.cluster.loaders[0]
        loader.child.suspend()
        progress(f"a loader is stopped for {bed.options.freeze:g} s")
        since = time.monotonic()
        bed.result["seconds until another took over"] = _wait(
            lambda: _owns_all(bed.cluster.loaders[1]), _READY_TIMEOUT, "nobody takes over"
        )
        time.sleep(max(0.0, since + bed.options.freeze - time.monotonic()))
        loader.child.resume()
        loader.wait_healthy()
        time.sleep(10.0)


def cut_off(bed: Bed) -> None:
    bed.result["times"] = bed.options.cuts
    servers = bed.cluster.servers
    with bed.playing():
        for cut in range(bed.options.cuts):
            leader = bed.leader()
            parts = {
                "the leader": servers.children[leader],
                "a follower": servers.children[(leader + 1) % len(servers.children)],
                "a gateway": bed.cluster.gateways[cut % len(bed.cluster.gateways)].child,
            }
            for name, child in parts.items():
                progress(f"{name} is cut off for {bed.options.cut:g} s")
                child.suspend()
                time.sleep(bed.options.cut)
                child.resume()
                servers.wait_current(_READY_TIMEOUT)
                time.sleep(5.0)


class _Roles(NamedTuple):
    """The parts of a cluster in a network, by name."""

    leader: str
    followers: list[str]
    gateways: list[str]
    """The one with the most clients comes first."""
    loaders: list[str]

    @property
    def servers(self) -> list[str]:
        return [self.leader, *self.followers]


CUTS: dict[str, Callable[[_Roles], list[Way]]] = {
    "the clients from a gateway": lambda roles: both_ways([_HERE], roles.gateways[:1]),
    "the gateways from the leader": lambda roles: both_ways(roles.gateways, [roles.leader]),
    "the gateways from a follower": lambda roles: both_ways(roles.gateways, roles.followers[:1]),
    "the gateways from both followers": lambda roles: both_ways(roles.gateways, roles.followers),
    "a gateway from all stream servers": lambda roles: both_ways(roles.gateways[:1], roles.servers),
    "the gateways from packets of the leader": lambda roles: ways([roles.leader], roles.gateways),
    "the leader from the followers": lambda roles: both_ways([roles.leader], roles.followers),
    "the followers from packets of the leader": lambda roles: ways([roles.leader], roles.followers),
    "the leader from packets of the followers": lambda roles: ways(roles.followers, [roles.leader]),
    "a follower from the other one": lambda roles: both_ways(
        roles.followers[:1], roles.followers[1:]
    ),
    "the loaders from the leader": lambda roles: both_ways(roles.loaders, [roles.leader]),
    "a loader from all stream servers": lambda roles: both_ways(roles.loaders[:1], roles.servers),
    "a loader from the lake": lambda roles: both_ways(roles.loaders[:1], [_LAKE]),
    "a loader from packets of the lake": lambda roles: ways([_LAKE], roles.loaders[:1]),
}
"""The ways that are cut, by name."""
# Its followers hear the leader, so they elect no other one, and it doesn't hear that they have
# stored something. After 10 to 20 seconds, it steps down.
_WITHOUT_QUORUM = "the leader from packets of the followers"


def partitioned(bed: Bed) -> None:
    if bed.network is None:
        raise Failed("the network can't be cut here: that needs Linux and root")
    names = [name for name in CUTS if bed.options.only in name]
    bed.result |= {"times": len(names), "seconds of a cut": bed.options.cut}
    found = bed.result["cuts"] = {}
    with bed.playing() as games:
        for name in names:
            waits, ages = games.waits.mark(), bed.freshness.ages.mark()
            progress(f"{name}: cut off for {bed.options.cut:g} s")
            with bed.network.cut(CUTS[name](_roles(bed))):
                time.sleep(bed.options.cut)
            bed.cluster.servers.wait_current(_READY_TIMEOUT)
            for program in bed.cluster.programs:
                program.wait_healthy()
            games.wait_for_acks()
            time.sleep(_BETWEEN_CUTS)
            found[name] = {
                "longest wait for an ack": games.waits.since(waits),
                "freshness": bed.freshness.ages.since(ages),
            }
            progress(f"{name}: {found[name]}")
            if name != _WITHOUT_QUORUM:
                bed.limit("longest wait for an ack", _MAX_WAIT, found[name])
            if _LAKE not in name:  # others take over, which they can't before they know
                bed.limit("freshness", _MAX_FRESHNESS, found[name])


def _roles(bed: Bed) -> _Roles:
    leader = bed.leader()
    servers = [child.name for child in bed.cluster.servers.children]
    gateways = sorted(bed.cluster.gateways, key=_connections, reverse=True)
    return _Roles(
        servers[leader],
        servers[:leader] + servers[leader + 1 :],
        [gateway.name for gateway in gateways],
        [loader.name for loader in bed.cluster.loaders],
    )


def _connections(gateway: Program) -> float:
    return _metrics(gateway)["telemetry_connections"]


@contextlib.contextmanager
def _object_store(host: Host, directory: Path) -> Iterator[None]:
    """Run an object store; the environment names it to this process and its children."""
    url = f"http://{host.address}:{_OBJECT_STORE_PORT}"
    command = [*host.prefix, sys.executable, "-m", "moto.server"]
    command += ["--host", host.address, "--port", str(_OBJECT_STORE_PORT)]
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }

    def has_bucket() -> bool:
        request = urllib.request.Request(f"{url}/{_BUCKET}", method="PUT")
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):
            return True
        return False

    with Guard() as guard:
        store = Child("object store", command, directory / "object-store.log", guard)
        store.start()
        _wait(has_bucket, _READY_TIMEOUT, "the object store doesn't answer")
        yield


def blackout(bed: Bed) -> None:
    bed.result["times"] = bed.options.blackouts
    with bed.playing():
        servers = bed.cluster.servers
        for blackout_number in range(bed.options.blackouts):
            progress(f"blackout {blackout_number + 1} of {bed.options.blackouts}")
            killing = [threading.Thread(target=child.kill) for child in servers.children]
            for thread in killing:
                thread.start()
            for thread in killing:
                thread.join()
            for index in range(len(servers.children)):
                servers.start_one(index)
            servers.wait_current(_READY_TIMEOUT)
            time.sleep(5.0)


def replay(bed: Bed) -> None:
    with bed.cluster:
        session, count = uuid.uuid4().hex, 5_000
        gateways = bed.cluster.gateways
        for size, gateway, is_new in ((250, gateways[0], True), (200, gateways[1], False)):
            # Batches of another size have other message ids, as if hours had passed.
            _send_events(gateway, session, count, size)
            if is_new:
                _wait(lambda: count_events(bed.cluster.lake) == count, _READY_TIMEOUT, "not stored")
            # New loaders know only what they find in the lake.
            for loader in bed.cluster.loaders:
                loader.child.kill()
                loader.child.start()
                loader.wait_healthy()
        # What comes last in the same partition shows that all before has been looked at.
        _send_events(gateways[0], session, count + 1, 200, first=count + 1)
        _wait(lambda: count_events(bed.cluster.lake) > count, _READY_TIMEOUT, "not stored")
        bed.cluster.stop_programs()
        stored = stored_sessions(bed.cluster.lake)[session]
    bed.result |= {
        "stored": stored.events,
        "lost": stored.missing(count + 1),
        "twice": stored.twice,
        "out of order": stored.disordered,
    }
    if stored != Stored(count + 1, count + 1, 1, count + 1):
        bed.problems.append(f"{stored} of {count + 1} events")


def _send_events(gateway: Program, session: str, last: int, size: int, first: int = 1) -> None:
    """Send events as a client does, and wait until they are acknowledged."""
    url = f"ws://127.0.0.1:{gateway.port}/telemetry"
    batches = 0
    with connect(url, additional_headers={"Telemetry-Ack": "cumulative"}) as client:
        for start in range(first, last + 1, size):
            batch = [
                {
                    "sessionId": session,
                    "seq": seq,
                    "id": f"run-{seq}",
                    "type": "ship_hit",
                    "timestamp": 1_700_000_000_000 + seq,
                    "data": {"damage": seq % 40},
                }
                for seq in range(start, min(start + size, last + 1))
            ]
            client.send(json.dumps(batch))
            batches += 1
        while json.loads(client.recv(_READY_TIMEOUT)).get("ack") != batches:
            pass


def joins(bed: Bed) -> None:
    with bed.playing():
        until = time.monotonic() + bed.options.minutes * 60
        is_there, count = False, 0
        loader = bed.cluster.add_loader()
        loader.wait_healthy()
        while time.monotonic() < until:
            time.sleep(min(bed.options.pause, max(0.0, until - time.monotonic())))
            progress(f"a loader {'joins' if is_there else 'leaves'}")
            if is_there:
                loader.child.start()
                loader.wait_healthy()
            else:
                loader.child.stop()
            is_there, count = not is_there, count + 1
    bed.result["times"] = count
    bed.limit("freshness", _MAX_FRESHNESS)


def replaced(bed: Bed) -> None:
    bed.result["times"] = bed.options.replacements
    with bed.playing():
        servers = bed.cluster.servers
        for replacement in range(bed.options.replacements):
            index = replacement % len(servers.children)
            progress(f"stream server {index} loses its disk")
            servers.replace(index)
            bed.leader()
            servers.wait_current(_READY_TIMEOUT)
            time.sleep(5.0)


def full(bed: Bed) -> None:
    servers = bed.cluster.servers
    stream_disk, lake_disk = servers.directories[0] / "store", Path(bed.cluster.lake)
    with _small_disk(stream_disk), _small_disk(lake_disk), bed.playing() as games:
        progress("the disk of a stream server is full")
        with _filled(stream_disk):
            before = total(games.latest).delivered
            time.sleep(bed.options.full)
            bed.result["acknowledged with a full stream server"] = (
                total(games.latest).delivered - before
            )
        # A server that had no room left stores nothing until it is started again.
        servers.kill(0)
        servers.start_one(0)
        servers.wait_current(_READY_TIMEOUT)
        progress("the disk of the lake is full")
        with _filled(lake_disk):
            before = total(games.latest).delivered
            time.sleep(bed.options.full)
            bed.result["acknowledged with a full lake"] = total(games.latest).delivered - before
            bed.result["loaders say with a full lake"] = [
                loader.get("/healthz")[1] for loader in bed.cluster.loaders
            ]
            if all(loader.is_healthy for loader in bed.cluster.loaders):
                bed.problems.append("no loader says that the lake is full")
        for loader in bed.cluster.loaders:
            loader.wait_healthy()


@contextlib.contextmanager
def _small_disk(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={_SMALL_DISK}", "tmpfs"]
    subprocess.run(["mount", *options, str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextlib.contextmanager
def _filled(directory: Path) -> Iterator[None]:
    """Leave no room on the disk of a directory."""
    filling = directory / "filling"
    with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1_000_000))
    try:
        yield
    finally:
        filling.unlink()


def cpu_seconds(pids: Iterable[int | None]) -> float:
    """Return the processor time that processes have had up to now; 0 without /proc."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _processor_times(bed: Bed, games: Games) -> dict[str, float]:
    return {
        "clients": cpu_seconds(games.pids),
        "gateways": cpu_seconds(gateway.child.pid for gateway in bed.cluster.gateways),
        "stream servers": cpu_seconds(child.pid for child in bed.cluster.servers.children),
        "loaders": cpu_seconds(loader.child.pid for loader in bed.cluster.loaders),
    }


def throughput(bed: Bed) -> None:
    with bed.playing() as games:
        began, since = _processor_times(bed, games), time.monotonic()
        first, in_lake = total(games.latest).delivered, count_events(bed.cluster.lake)
        time.sleep(bed.options.seconds)
        ended, seconds = _processor_times(bed, games), time.monotonic() - since
        acknowledged = total(games.latest).delivered - first
        loaded = count_events(bed.cluster.lake) - in_lake
        bed.result |= {
            "acknowledged a second": acknowledged / seconds,
            "into the lake a second": loaded / seconds,
            # Unlike the rates, these don't depend on what else the machine does.
            "processor, µs an event": {
                part: (ended[part] - began[part])
                * 1e6
                / (loaded if part == "loaders" else acknowledged)
                for part in began
            },
        }
    seconds = bed.result["seconds"] + bed.result["seconds until all was in the lake"]
    bed.result["from clients to the lake a second"] = bed.result["stored"] / seconds
    files = DeltaTable(bed.cluster.lake).file_uris()
    size = sum(Path(name.removeprefix("file://")).stat().st_size for name in files)
    bed.result["bytes an event"] = size / bed.result["stored"]
    bed.limit("bytes an event", 25)


SCENARIOS: dict[str, Callable[[Bed], None]] = {
    each.__name__: each
    for each in (
        kills,
        frozen,
        cut_off,
        partitioned,
        blackout,
        replay,
        joins,
        replaced,
        full,
        throughput,
    )
}


def run(name: str, options: argparse.Namespace) -> Result:
    """Run a scenario; return its figures."""
    progress(f"scenario {name}")
    network = options.network if name == partitioned.__name__ else None
    with contextlib.ExitStack() as stack:
        if options.dir is None:
            directory = Path(
                stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            )
        else:
            directory = options.dir / name
            directory.mkdir(parents=True)
        if network is not None:
            stack.enter_context(_object_store(network.host(_LAKE), directory))
        bed = Bed(options, directory, 0 if name == "throughput" else options.rate, network)
        try:
            SCENARIOS[name](bed)
        except Exception as error:  # so that the other scenarios run
            bed.problems.append(f"{type(error).__name__}: {error}")
    return {
        "scenario": name,
        "seed": options.seed,
        **bed.result,
        "problems": bed.problems[:_MAX_PROBLEMS],
    }


def _earlier(path: Path | None) -> dict[str, Result]:
    """Return the results of a file by scenario: those that aren't run again stay."""
    if path is None or not path.exists():
        return {}
    return {each["scenario"]: each for each in json.loads(path.read_text("utf-8"))["results"]}


def tables(report: Result) -> dict[str, str]:
    """Return the tables for the docs."""
    rows = []
    for result in report["results"]:
        counts = [number(result.get(name)) for name in ("stored", "lost", "twice", "out of order")]
        times = [number(result.get(name)) for name in ("longest wait for an ack", "freshness")]
        rows.append([_TITLES[result["scenario"]].format(**result), *counts, *times])
    headers = ("", "events", "lost", "twice", "disordered", "longest wait, s", "freshness, s")
    by_scenario = {result["scenario"]: result for result in report["results"]}
    speed = by_scenario["throughput"]
    processor = speed["processor, µs an event"]
    figures = [
        ["events acknowledged a second", number(speed["acknowledged a second"])],
        [
            "events a second from the clients' start until all are in the lake",
            number(speed["from clients to the lake a second"]),
        ],
        *(
            [f"processor time of the {part}, µs an event", number(processor[part])]
            for part in processor
        ),
        ["processor time of all of them, µs an event", number(sum(processor.values()))],
        ["bytes of the lake an event", number(speed["bytes an event"])],
    ]
    cuts = [
        [name, *(number(cut[figure]) for figure in ("longest wait for an ack", "freshness"))]
        for name, cut in by_scenario["partitioned"]["cuts"].items()
    ]
    return {
        "cluster": table(headers, rows),
        "cluster-cuts": table(("cut off", "longest wait, s", "freshness, s"), cuts),
        "cluster-speed": table(("", ""), figures),
    }


_TITLES = {
    "kills": "a part is killed, {times} times",
    "frozen": "a loader is stopped for {stopped for:g} s",
    "cut_off": "the leader, a follower and a gateway are cut off, {times} times each",
    "partitioned": "parts are cut off from each other for {seconds of a cut:g} s, {times} times",
    "blackout": "all stream servers are killed at once, {times} times",
    "replay": "stored events come again, through another gateway",
    "joins": "a loader joins or leaves, {times} times",
    "replaced": "a stream server loses its disk, {times} times",
    "full": "the disk of a stream server is full, then that of the lake",
    "throughput": "clients send as fast as they can",
}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, help="may be repeated; by default all"
    )
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rate", type=float, default=10_000, help="events a second, of all")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--freeze", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--cut", type=float, default=15, metavar="SECONDS")
    parser.add_argument("--cuts", type=int, default=2, help="of each part")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="of the partitions, those with this"
    )
    parser.add_argument("--blackouts", type=int, default=3)
    parser.add_argument("--replacements", type=int, default=3)
    parser.add_argument("--full", type=float, default=20, metavar="SECONDS")
    parser.add_argument("--minutes", type=float, default=10, help="of joins and leaves")
    parser.add_argument("--pause", type=float, default=30, help="seconds between these")
    parser.add_argument("--seconds", type=float, default=60, help="of the throughput")
    parser.add_argument("--seed", type=int, default=None, help="a random one by default")
    parser.add_argument("--dir", type=Path, help="keep the files here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {options.seed}", flush=True)
    results = _earlier(options.json)
    names = options.scenario or [*SCENARIOS]
    options.network = None
    if partitioned.__name__ in names:
        # Before there are other threads, which would stay in the network that is there now.
        with contextlib.suppress(OSError):  # then the scenario fails, and says why
            options.network = Network(_PARTS, _HERE)
    for name in names:
        results[name] = run(name, options)
        print("\n".join(report_lines(results[name])), flush=True)
        ordered = [results[each] for each in SCENARIOS if each in results]
        save(options.json, "cluster", {"results": ordered})
    return 1 if any(results[name]["problems"] for name in names) else 0


if __name__ == "__main__":
    sys.exit(main())
