"""What do 100,000 and 1,000,000 players at once need of a cluster, and where does it break first?

    python -m benchmarks.cluster_model --json benchmarks/results/cluster-model.json
        --plot docs/images/cluster-model.png

A model, not a measurement: nobody has run a cluster of that size. It multiplies the costs that
``benchmarks.cluster_costs`` and ``benchmarks.cluster`` have measured on one machine by the players'
messages and events, and simulates how clients come back after a loss with the delays of the SDK's
own ``Backoff``, against the connections that the gateways take. Each of its figures is either an
option, with a default that the output names as an assumption, or comes from a result file.

By default a player emits as many events as one ship of the demo's battle, a sixteenth of its
events; ``--events-a-second`` takes another rate. Each is computed for the SDK's default settings,
and for ``drain_interval=10`` with ``batch_size=250``. ``--measured`` names another file of
``benchmarks.cluster_costs``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from benchmarks import cluster_costs, reconnect_storm
from benchmarks.harness import ROOT, Result, number, save, table
from benchmarks.reconnect_storm import Floats, Ints, Policy, Storm
from redvsblue_telemetry import TelemetrySettings
from redvsblue_telemetry._delivery.backoff import Backoff

_RESULTS = ROOT / "benchmarks" / "results"
_SDK = TelemetrySettings()
_DAY = 86_400
_SESSION_BYTES = 60  # docs/cluster.md, "Size"
_LISTEN_BACKLOG = 2048  # of redvsblue_telemetry/collector/server.py
_COMMIT_EVENTS = 50_000  # docs/cluster.md, "Loaders", as the next two
_COMMIT_INTERVAL = 2.0  # seconds
_STREAM_KEEP = 3600  # seconds
_IN_FLIGHT = 64  # of redvsblue_telemetry/cluster/gateway/storage.py
_PARTITIONS = 16  # by default
_FOLLOWERS = 2
_SLOW_DRAIN, _SLOW_BATCH = 10.0, 250  # settings of the SDK that spare the stream
PLAYERS = (100_000, 1_000_000)


@attrs.frozen(kw_only=True)
class Assumptions:
    """The numbers that nobody has measured. Each is an option of the command."""

    drain_interval: float = _SDK.drain_interval
    """Seconds between the messages of a client: the SDK's setting"""
    batch_size: int = _SDK.batch_size
    """Events of a message, at most: the SDK's setting"""
    busy: float = 0.5
    """Share of its processor time and network that a part may use; the rest is for peaks, elections
    and catching up"""
    cores: int = 8
    """Of a machine, each as fast as one of the machine that was measured"""
    memory_gb: float = 32.0
    """Of a machine"""
    network_gbit: float = 10.0
    """Of a machine, in each direction"""
    connections: int = 10_000
    """Of a gateway, whose --max-connections is 2,000 by default"""
    session_minutes: float = 30.0
    """Length of a session"""
    keep_days: float = 90.0
    """Age of the events that the lake keeps"""
    down: float = 20.0
    """Seconds for which a balancer that restarts is down"""


class Costs:
    """The measured costs; times in seconds."""

    def __init__(self, measured: Result, cluster: Result) -> None:
        results = measured["results"]
        by: dict[str, Any] = {each["measurement"]: each for each in results}
        split = cluster_costs.costs(results)
        self.of_message: dict[str, float] = {
            part: split[part]["message"] / 1e6 for part in cluster_costs.PARTS
        }
        self.of_event: dict[str, float] = {
            part: split[part]["event"] / 1e6 for part in cluster_costs.PARTS
        }
        self.bytes_of_message: float = split["bytes"]["message"]
        self.bytes_of_event: float = split["bytes"]["event"]
        self.of_connection: float = by["connections"]["processor, µs each"] / 1e6
        self.connection_bytes: float = by["connections"]["memory, bytes each"]
        self.gateway_bytes: float = by["connections"]["memory of the gateway, bytes"]
        streams = [each for each in results if each["measurement"] == "stream"]
        self.stream_rate: float = max(each["messages a second"] for each in streams)
        self.ack_seconds: float = next(
            each["in flight"] / each["messages a second"]
            for each in streams
            if each["in flight"] == _IN_FLIGHT
        )
        self.commit_seconds: float = by["disk"]["commit of a row, s"]
        battle = by["battle"]
        self.battle_rate: float = battle["events a second"]
        self.ship_rate: float = battle["events a second"] / battle["ships"]
        (speed,) = [each for each in cluster["results"] if each["scenario"] == "throughput"]
        self.lake_bytes_of_event: float = speed["bytes an event"]


@attrs.frozen
class Demand:
    """The load that so many players put on a cluster."""

    players: int
    events: float
    """A second, of all of them."""
    messages: float
    """A second, of all of them."""


def demand(assumed: Assumptions, players: int, rate: float) -> Demand:
    """Return the load of players who emit so many events a second each."""
    messages = max(min(rate, 1 / assumed.drain_interval), rate / assumed.batch_size)
    return Demand(players, players * rate, players * messages)


def needs(costs: Costs, assumed: Assumptions, asked: Demand) -> Result:
    """Return the needs of each part."""

    def cores(part: str) -> float:
        seconds = asked.messages * costs.of_message[part] + asked.events * costs.of_event[part]
        return seconds / assumed.busy

    stream_bytes = asked.messages * costs.bytes_of_message + asked.events * costs.bytes_of_event
    streams = math.ceil(asked.messages / (assumed.busy * costs.stream_rate))
    # Each stream has its own ones, and two of them, so that one may die.
    gateways = max(cores("gateway"), asked.players / assumed.connections, 2 * streams)
    gateways = math.ceil(gateways)
    loaders = max(math.ceil(cores("loader")), 2 * streams)
    sessions = asked.players * assumed.keep_days * 1440 / assumed.session_minutes
    leader_out = stream_bytes * (_FOLLOWERS + 1) / streams
    lake_a_day = asked.events * costs.lake_bytes_of_event * _DAY / 1e12
    machines = {
        "gateways": gateways / assumed.cores,
        # Three of them for each stream, whether it fills them or not.
        "stream": 3 * streams * max(1.0, cores("stream servers") / 3 / streams / assumed.cores),
        "loaders": max(
            loaders / assumed.cores, sessions * _SESSION_BYTES / assumed.memory_gb / 1e9
        ),
    }
    return {
        "players": asked.players,
        "events a second of a player": asked.events / asked.players,
        "events a second": asked.events,
        "messages a second": asked.messages,
        "events of a message": asked.events / asked.messages,
        "gateways": gateways,
        "gateways: cores": cores("gateway"),
        "gateways: memory, GB": (
            gateways * costs.gateway_bytes + asked.players * costs.connection_bytes
        )
        / 1e9,
        "gateways: messages in flight of each": asked.messages * costs.ack_seconds / gateways,
        "gateways: network, Gbit/s": stream_bytes * 8 / 1e9,
        "streams, each with its own gateways, loaders and lake": streams,
        "stream servers: cores of all": cores("stream servers"),
        "stream servers: disk of each, GB": stream_bytes / streams * _STREAM_KEEP / 1e9,
        "stream servers: network of a leader, Gbit/s": leader_out * 8 / 1e9,
        "loaders": loaders,
        "loaders: cores": cores("loader"),
        "loaders: memory for sessions, GB": sessions * _SESSION_BYTES / 1e9,
        "lakes: commits a second, of all": max(
            loaders / _COMMIT_INTERVAL, asked.events / _COMMIT_EVENTS
        ),
        "lakes: TB a day": lake_a_day,
        "lakes: TB kept": lake_a_day * assumed.keep_days,
        **{f"machines: {part}": math.ceil(count) for part, count in machines.items()},
    }


def limits(costs: Costs, assumed: Assumptions, rate: float) -> dict[str, float]:
    """Return how many players each part of one cluster takes, the one that breaks first first."""
    each = demand(assumed, 1, rate)
    stream_bytes = each.messages * costs.bytes_of_message + each.events * costs.bytes_of_event

    def seconds(part: str) -> float:
        return each.messages * costs.of_message[part] + each.events * costs.of_event[part]

    sessions = assumed.keep_days * 1440 / assumed.session_minutes
    found = {
        "messages a second of the one stream": assumed.busy * costs.stream_rate / each.messages,
        "network of the stream's leader": assumed.busy
        * assumed.network_gbit
        * 1e9
        / 8
        / (stream_bytes * (_FOLLOWERS + 1)),
        "cores of a stream server": assumed.busy * assumed.cores * 3 / seconds("stream servers"),
        f"{_PARTITIONS} loaders, one core each": assumed.busy * _PARTITIONS / seconds("loader"),
        f"memory of {_PARTITIONS} loaders for sessions": _PARTITIONS
        * assumed.memory_gb
        * 1e9
        / (sessions * _SESSION_BYTES),
        # With few events a loader commits every two seconds, however many players there are.
        "the lake's one log of commits": assumed.busy
        / costs.commit_seconds
        * _COMMIT_EVENTS
        / each.events,
    }
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


# The reconnect storm.


class RealDelays:
    """Delays of the SDK's own ``Backoff``, for clients in their nth attempt.

    Backoffs that were asked equally often are alike, so a client takes any one that has been asked
    one time less than it is in its attempts, and leaves it to those that come after it.
    """

    def __init__(self) -> None:
        self._asked: dict[int, list[Backoff]] = defaultdict(list)

    def __call__(self, _: np.random.Generator, attempts: Ints) -> Floats:
        """Return the delays."""
        return np.array([self._delay(int(attempt)) for attempt in attempts])

    def _delay(self, attempt: int) -> float:
        ready = self._asked[attempt - 1]
        if ready:
            backoff = ready.pop()
        else:
            backoff = Backoff(_SDK.backoff_base, _SDK.backoff_max)
            for _ in range(attempt - 1):
                backoff.next_delay()
        self._asked[attempt].append(backoff)
        return backoff.next_delay()


def storm(clients: int, capacity: int, down: float, backlog: int) -> reconnect_storm.Outcome:
    """Simulate clients that come back, with the delays of the real class."""
    asked = Storm(clients=clients, capacity=capacity, down=down, backlog=backlog)
    refuses = reconnect_storm.SCENARIOS[0]
    return reconnect_storm.simulate(asked, refuses, Policy("real", RealDelays()))


def _storm_figures(outcome: reconnect_storm.Outcome, capacity: int, rate: float) -> Result:
    # A client's store has room for so many seconds of its events.
    late = outcome.connected_at - _SDK.capacity / rate
    seconds = outcome.arrivals[: 300 * reconnect_storm.SLOTS_A_SECOND]
    return {
        "clients": outcome.clients,
        "connections a second": capacity,
        "down, s": outcome.down,
        "attempts": int(outcome.arrivals.sum()),
        "most attempts in a second, once up": reconnect_storm.most_within(
            outcome.arrivals, 1.0, since=outcome.down
        ),
        "half are back after, s": reconnect_storm.seconds_until(outcome, 0.5),
        "99 % are back after, s": reconnect_storm.seconds_until(outcome, 0.99),
        "all are back after, s": reconnect_storm.seconds_until(outcome, 1.0),
        "share whose store overflows": float((late > 0).mean()),
        "arrivals": seconds.reshape(-1, reconnect_storm.SLOTS_A_SECOND).sum(axis=1).tolist(),
    }


def storms(costs: Costs, assumed: Assumptions, needed: Result) -> list[Result]:
    """Simulate the death of a gateway, and a restart of the balancer."""
    gateways, rate = needed["gateways"], needed["events a second of a player"]
    a_gateway = needed["players"] / gateways
    share = needed["gateways: cores"] * assumed.busy / gateways
    results = []
    # Those that serve clients meanwhile have the rest of their core.
    rest = (1 - share) / costs.of_connection
    for name, others, down in (
        ("a gateway dies", gateways - 1, 0.0),
        # Each gateway has its own part of the storm, so one of them stands for all.
        ("the balancer restarts", 1, assumed.down),
    ):
        capacity = int(rest * others)
        most = int(capacity * _SDK.connect_timeout / 2)
        outcome = storm(round(a_gateway), capacity, down, min(_LISTEN_BACKLOG * others, most))
        figures = _storm_figures(outcome, capacity, rate)
        results.append({"storm": name, "players": needed["players"], "rate": rate} | figures)
    return results


def check_storm(earlier: Result) -> Result:
    """Return how long the clients of ``benchmarks.reconnect_storm`` take with the real class."""
    told = earlier["parameters"]
    outcome = storm(told["clients"], told["capacity"], told["down"], told["backlog"])
    figures = earlier["scenarios"]["refuses"]["this SDK"]
    names = ("seconds_until_50_percent", "seconds_until_99_percent", "seconds_until_all")
    return {
        "with the real class": [reconnect_storm.measures(outcome)[name] for name in names],
        "by benchmarks.reconnect_storm": [figures[name] for name in names],
    }


def model(costs: Costs, assumed: Assumptions, rate: float | None) -> Result:
    """Return the report, for a rate of each player or those of the battle."""
    slow = attrs.evolve(assumed, drain_interval=_SLOW_DRAIN, batch_size=_SLOW_BATCH)
    cases = {"the SDK's defaults": (assumed, rate or costs.ship_rate)}
    cases["a message each 10 s"] = slow, rate or costs.ship_rate
    needed = [
        {"case": name} | needs(costs, case, demand(case, players, case_rate))
        for name, (case, case_rate) in cases.items()
        for players in PLAYERS
    ]
    bounds = dict(cases)
    if rate is None:
        bounds["a whole battle each"] = assumed, costs.battle_rate
    return {
        "assumptions": attrs.asdict(assumed),
        "measured": {
            "events a second of a ship": costs.ship_rate,
            "events a second of a battle": costs.battle_rate,
            "a stream's messages a second": costs.stream_rate,
            "ack with 64 in flight, s": costs.ack_seconds,
            "a gateway's connections a second": 1 / costs.of_connection,
            "commit of a row, s": costs.commit_seconds,
            "bytes of the lake an event": costs.lake_bytes_of_event,
        },
        "results": needed,
        "limits": [{"case": name} | limits(costs, *bound) for name, bound in bounds.items()],
        "storms": [
            {"case": each["case"]} | result
            for each in needed
            for result in storms(costs, assumed, each)
        ],
        "check": check_storm(json.loads(reconnect_storm.RESULTS.read_text("utf-8"))),
    }


# The output.


def tables(report: Result) -> dict[str, str]:
    """Return the tables for the docs."""
    cases = report["results"]
    headers = ["", *(f"{case['players']:,}, {case['case']}" for case in cases)]
    names = [name for name in cases[0] if name not in ("case", "players")]
    rows = [[name, *(_figure(case[name]) for case in cases)] for name in names]
    found = report["limits"]
    bounds = [
        [name, *(f"{round(case[name], -2):,.0f}" for case in found)]
        for name in found[0]
        if name != "case"
    ]
    came = [
        [
            f"{each['storm']}, {each['players']:,}, {each['case']}",
            *(_figure(each[name]) for name in _STORM_COLUMNS),
        ]
        for each in report["storms"]
    ]
    check = [[name, *map(number, report["check"][name])] for name in report["check"]]
    assumed = [[_ASSUMED[name], _figure(value)] for name, value in report["assumptions"].items()]
    assumed += [[name, number(value)] for name, value in report["measured"].items()]
    return {
        "cluster-model": table(headers, rows),
        "cluster-limits": table(["players", *(case["case"] for case in found)], bounds),
        "cluster-storm": table(["", *_STORM_COLUMNS], came),
        "cluster-storm-check": table(["", "half", "99 %", "all"], check),
        "cluster-assumptions": table(["", ""], assumed),
    }


def sizes(costs: Costs) -> str:
    """Return the table of the sizes of a cluster, with settings that spare the stream."""
    assumed = Assumptions(drain_interval=_SLOW_DRAIN, batch_size=_SLOW_BATCH)
    rows = []
    for players, rate in _SIZES:
        needed = needs(costs, assumed, demand(assumed, players, rate))
        figures = [
            *(needed[name] for name in _SIZE_COLUMNS),
            needed["lakes: TB a day"] * 1000,
        ]
        rows.append([f"{players:,}, {rate} each", *map(_figure, figures)])
    headers = ["players, events a second", *_SIZE_COLUMNS.values(), "lake, GB a day"]
    return table(headers, rows)


_SIZES = ((1_000, 1), (10_000, 1), (25_000, 1), (25_000, 5), (100_000, 1), (100_000, 5))
_SIZE_COLUMNS = {
    "events a second": "events",
    "messages a second": "messages",
    "streams, each with its own gateways, loaders and lake": "clusters",
    "gateways: cores": "cores: gateways",
    "stream servers: cores of all": "cores: stream servers",
    "loaders: cores": "cores: loaders",
    "stream servers: disk of each, GB": "each server's disk, GB an hour",
}
_STORM_COLUMNS = (
    "clients",
    "connections a second",
    "most attempts in a second, once up",
    "half are back after, s",
    "99 % are back after, s",
    "all are back after, s",
)
_ASSUMED = {
    "drain_interval": "assumed: seconds between a client's messages (the SDK's default)",
    "batch_size": "assumed: events of a message, at most (the SDK's default)",
    "busy": "assumed: the share of its processor time and network that a part may use",
    "cores": "assumed: cores of a machine, each as fast as one of the measured machine",
    "memory_gb": "assumed: memory of a machine, GB",
    "network_gbit": "assumed: network of a machine, Gbit/s in each direction",
    "connections": "assumed: `--max-connections` of a gateway (2,000 by default)",
    "session_minutes": "assumed: minutes of a session",
    "keep_days": "assumed: days that the lake keeps",
    "down": "assumed: seconds for which a balancer that restarts is down",
}


def _figure(value: float | None) -> str:
    return f"{value:,}" if isinstance(value, int) else number(value)


def draw(report: Result, path: Path) -> None:
    """Draw the limits, and how the clients come back when the balancer restarts."""
    # Imported here and by name: only the picture needs it, and the tests run without it.
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    pyplot.rcParams.update({"font.size": 15, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = pyplot.subplots(
        2, 1, figsize=(13, 15), facecolor="white", layout="constrained"
    )
    _draw_limits(left, report["limits"])
    _draw_storm(right, report["storms"])
    figure.savefig(path, dpi=80)


_LABEL = {"va": "center", "size": 12, "bbox": {"fc": "white", "ec": "none", "pad": 1}}
_BARS = ((0.27, "#0072B2"), (0.0, "#009E73"), (-0.27, "#D55E00"))  # for color-blind people


def _draw_limits(axes: Any, found: Sequence[Result]) -> None:
    names = [name for name in found[0] if name != "case"][::-1]
    for offset, color, case in zip(
        (0.27, 0.0, -0.27), ("#0072B2", "#009E73", "#D55E00"), found, strict=False
    ):
        places = [row + offset for row in range(len(names))]
        values = [case[name] for name in names]
        axes.barh(places, values, height=0.26, color=color, label=case["case"])
        for place, value in zip(places, values, strict=True):
            axes.text(value * 1.12, place, f"{round(value, -2):,.0f}", color=color, **_LABEL)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    most = max(value for case in found for name, value in case.items() if name != "case")
    axes.set(xscale="log", xlim=(300, 10 * most), xlabel="players at once that it takes")
    for players in PLAYERS:
        axes.axvline(players, color="0.35", lw=1.5, ls=(0, (6, 4)), zorder=0)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, -0.26), ncols=3)
    axes.set_title("What breaks first in one cluster", loc="left", weight="bold")


def _draw_storm(axes: Any, storms: Sequence[Result]) -> None:
    (one,) = [
        each
        for each in storms
        if each["storm"] == "the balancer restarts" and each["players"] == PLAYERS[-1]
    ][-1:]
    shown = one["arrivals"]
    end = math.ceil(one["all are back after, s"] / 10) * 10 + 10
    axes.axvspan(0, one["down, s"], color="0.94", lw=0)
    axes.text(one["down, s"] / 2, 1.4 * one["clients"], "down", color="0.35", ha="center")
    axes.stairs([max(1, each) for each in shown], baseline=None, color="#0072B2", lw=3)
    taken = one["connections a second"]
    axes.axhline(taken, color="0.35", lw=1.5, ls=(0, (6, 4)))
    axes.text(end, taken * 1.15, f"it takes {taken:,}", color="0.35", ha="right")
    axes.axvline(one["all are back after, s"], color="#D55E00", lw=1.5)
    axes.text(one["all are back after, s"] - 0.5, 1.4, "all are back", color="#D55E00", ha="right")
    axes.set(yscale="log", xlim=(0, end), ylim=(1, 2 * one["clients"]))
    axes.set(xlabel="seconds since the cut", ylabel="attempts a second at one gateway")
    title = (
        f"One of {round(one['players'] / one['clients'])} gateways after a restart of the balancer"
    )
    axes.set_title(title, loc="left", weight="bold")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default in attrs.asdict(Assumptions()).items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help="default: %(default)s")
    parser.add_argument(
        "--events-a-second", type=float, help="of a player, instead of the battle's"
    )
    parser.add_argument("--measured", type=Path, default=_RESULTS / "cluster-costs.json")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument("--plot", type=Path, help="the file for the picture; needs matplotlib")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parse(arguments)
    names = [field.name for field in attrs.fields(Assumptions)]
    assumed = Assumptions(**{name: getattr(options, name) for name in names})
    read = [options.measured, _RESULTS / "cluster.json"]
    costs = Costs(*(json.loads(path.read_text("utf-8")) for path in read))
    report = model(costs, assumed, options.events_a_second)
    save(options.json, "cluster-model", report)
    if options.plot is not None:
        draw(report, options.plot)
    print("\n\n".join(tables(report).values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
