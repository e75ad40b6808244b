"""A server with 100,000 clients restarts: how much load do they cause when they come back?

Prints the load and the time until they are back, under four policies, with the same server and the
same network. docs/reconnect-storm.md describes the model and interprets the figures.
"""

from __future__ import annotations

import argparse
import importlib
import math
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from benchmarks.harness import table as markdown
from benchmarks.harness import write_json
from redvsblue_telemetry import TelemetrySettings

RESULTS = Path(__file__).parent / "results" / "reconnect-storm.json"
SLOTS_A_SECOND = 100  # how often the server handles the arrivals
PLOT_SECONDS = 120
LINES = (  # colors that color-blind people can distinguish; places that suit the defaults
    ("#0072B2", 4.0, (41, 5_700)),
    ("#D55E00", 2.5, (66.4, 36_000)),
    ("0.45", 1.5, (62.4, 88_000)),
    ("#009E73", 2.5, (20.6, 106_000)),
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Figures = dict[str, int | float | None]

_DEFAULTS = TelemetrySettings()


@attrs.frozen(kw_only=True)
class Storm:
    """The parameters. Each is an option of the command; times are in seconds."""

    clients: int = 100_000
    down: float = 20.0  # from the cut until the server listens again
    long_down: float = 300.0  # the same, of the server that stays down
    capacity: int = 2000  # handshakes a second
    backlog: int = 511  # handshakes that may wait for their turn: the default of nginx and Node
    connect_timeout: float = _DEFAULTS.connect_timeout
    slam: float = 20.0  # how long the server that slams does so
    hold: float = 0.5  # from its opening a connection to its closing it
    nearest: float = 0.01  # one way, to the nearest client
    farthest: float = 0.1
    give_up_after: float = 3600.0
    seed: int = 1

    def __attrs_post_init__(self) -> None:
        if self.nearest * SLOTS_A_SECOND < 0.5 or self.farthest < self.nearest:
            raise ValueError("nearest must be at least half a slot: no retry may meet its own slot")
        if self.backlog / self.capacity > self.connect_timeout / 2:
            raise ValueError("the backlog is so long that clients would time out in it")
        if self.give_up_after < max(self.down, self.long_down) + self.slam + PLOT_SECONDS:
            raise ValueError("give-up-after leaves the clients no time to come back")


@attrs.frozen
class Policy:
    """How long clients wait, given how many delays each has asked for since its last reset."""

    name: str
    delays: Callable[[np.random.Generator, Ints], Floats]
    resets_on_open: bool = False  # or else by a confirmed batch, and then the client is back


def bounds(base: float, maximum: float, attempts: Ints) -> Floats:
    """``base`` for the first attempt, twice as much for each further one, up to ``maximum``."""
    return np.minimum(np.ldexp(base, np.minimum(attempts - 1, 1000).astype(np.int32)), maximum)


def full_jitter(rng: np.random.Generator, attempts: Ints) -> Floats:
    """Delay as ``redvsblue_telemetry._delivery.backoff.Backoff`` does, by default."""
    return rng.uniform(0.0, bounds(_DEFAULTS.backoff_base, _DEFAULTS.backoff_max, attempts))


def additive_jitter(rng: np.random.Generator, attempts: Ints) -> Floats:
    """Delay as the connector that this SDK descends from: the bound, and up to 1 s more."""
    return bounds(1.0, 30.0, attempts) + rng.uniform(0.0, 1.0, attempts.size)


def no_jitter(_rng: np.random.Generator, attempts: Ints) -> Floats:
    """Delay all clients by the same time."""
    return bounds(1.0, 30.0, attempts)


def constant(_rng: np.random.Generator, attempts: Ints) -> Floats:
    """Delay by one second, after every failure."""
    return np.ones(attempts.size)


POLICIES = (
    Policy("this SDK", full_jitter),
    Policy("the original", additive_jitter, resets_on_open=True),
    Policy("no jitter", no_jitter),
    Policy("every second", constant),
)
# Not the SDK's policy: the comparison shows the value of a reset by a confirmed batch only.
RESETS_ON_OPEN = Policy("SDK, reset on open", full_jitter, resets_on_open=True)


@attrs.frozen
class Scenario:
    """How an overloaded server behaves."""

    name: str
    drops_silently: bool = False  # a client that is turned away learns it by its connect timeout
    slams: bool = False  # at first, it closes connections before it has confirmed a batch
    stays_down: bool = False
    policies: tuple[Policy, ...] = POLICIES


SCENARIOS = (
    Scenario("refuses"),
    Scenario("drops silently", drops_silently=True),
    Scenario("slams at first", slams=True, policies=(*POLICIES, RESETS_ON_OPEN)),
    Scenario("stays down", stays_down=True),
)


class Herd:
    """The clients, with the time at which each one's next attempt reaches the server."""

    def __init__(self, storm: Storm, policy: Policy) -> None:
        # The same network for each policy: only the delays differ.
        network = np.random.default_rng(storm.seed)
        self.latency: Floats = network.uniform(storm.nearest, storm.farthest, storm.clients)
        self._rng = np.random.default_rng([storm.seed, 1])
        self._policy = policy
        self._attempts = np.zeros(storm.clients, np.int64)
        self.arrives = np.zeros(storm.clients)
        self._slot = np.zeros(storm.clients, np.int32)
        self.retry(np.arange(storm.clients), self.latency)

    def next_arrivals(self) -> tuple[int, Ints]:
        """Return the next slot with arrivals, and the clients that arrive, in order."""
        slot = int(self._slot.min())
        who = np.flatnonzero(self._slot == slot)
        return slot, who[np.argsort(self.arrives[who], kind="stable")]

    def opened(self, who: Ints) -> None:
        """Note clients that have a connection, but no confirmation."""
        if self._policy.resets_on_open:
            self._attempts[who] = 0

    def retry(self, who: Ints, learned_at: Floats) -> None:
        """Schedule the next attempt of clients that lost their connection, or got none."""
        self._attempts[who] += 1
        delays = self._policy.delays(self._rng, self._attempts[who])
        self.arrives[who] = learned_at + delays + self.latency[who]
        self._slot[who] = self.arrives[who] * SLOTS_A_SECOND

    def stay(self, who: Ints) -> None:
        """Note clients that are connected, with confirmed batches."""
        self._slot[who] = np.iinfo(np.int32).max  # never


class Gate:
    """The server's capacity: its handshakes are numbered, and number n is done n / capacity late.

    An attempt takes the next number, unless more than ``backlog`` would then wait.
    """

    def __init__(self, storm: Storm, opens_in: int) -> None:
        self._storm = storm
        self._opens_in = opens_in
        self._next = 0

    def admit(self, slot: int, wanted: int) -> Floats:
        """Return when each accepted handshake is done, in seconds from the cut."""
        first = max(self._next, self._done_by(slot))
        room = self._done_by(slot + 1) + self._storm.backlog - first
        self._next = first + min(wanted, room)
        numbers = np.arange(first, self._next) + 1
        return self._opens_in / SLOTS_A_SECOND + numbers / self._storm.capacity

    def _done_by(self, slot: int) -> int:
        return (slot - self._opens_in) * self._storm.capacity // SLOTS_A_SECOND


@attrs.frozen
class Outcome:
    """The outcome under one policy."""

    clients: int
    down: float  # seconds from the cut until the server listened again
    arrivals: Ints  # attempts that reached the server, in each slot
    connected_at: Floats  # when the server was done with each handshake, in order
    rejected: int  # attempts for which a server that was up had no capacity
    slammed: int  # connections that were opened and closed unconfirmed


def simulate(storm: Storm, scenario: Scenario, policy: Policy) -> Outcome:
    """Cut all connections at 0, and follow the clients until the last one is back."""
    herd = Herd(storm, policy)
    down = storm.long_down if scenario.stays_down else storm.down
    listens_in = round(down * SLOTS_A_SECOND)
    works_in = listens_in + round(storm.slam * SLOTS_A_SECOND) * scenario.slams
    gate = Gate(storm, works_in)
    arrivals = np.zeros(round(storm.give_up_after * SLOTS_A_SECOND), np.int64)
    connected: list[Floats] = []
    rejected = slammed = 0
    while (arrived := herd.next_arrivals())[0] < arrivals.size:
        slot, who = arrived
        arrivals[slot] = who.size
        refusal_seen = herd.arrives[who] + herd.latency[who]
        if slot < listens_in:
            herd.retry(who, refusal_seen)
        elif slot < works_in:
            herd.opened(who)
            slammed += who.size
            herd.retry(who, refusal_seen + storm.hold)
        else:
            connected.append(gate.admit(slot, who.size))
            taken = connected[-1].size
            herd.stay(who[:taken])
            rejected += who.size - taken
            timed_out = herd.arrives[who] - herd.latency[who] + storm.connect_timeout
            learned_at = timed_out if scenario.drops_silently else refusal_seen
            herd.retry(who[taken:], learned_at[taken:])
    done = np.concatenate([np.empty(0), *connected])
    return Outcome(storm.clients, down, arrivals, done, rejected, slammed)


def most_within(arrivals: Ints, seconds: float, since: float = 0.0) -> int:
    """Return the most attempts in a stretch of this length that begins at ``since`` or later."""
    total = np.concatenate([[0], np.cumsum(arrivals[round(since * SLOTS_A_SECOND) :])])
    slots = round(seconds * SLOTS_A_SECOND)
    return int((total[slots:] - total[:-slots]).max())


def seconds_until(outcome: Outcome, share: float) -> float | None:
    """Return when this share of the clients was connected; None if it never was."""
    needed = math.ceil(share * outcome.clients)
    is_reached = outcome.connected_at.size >= needed
    return round(float(outcome.connected_at[needed - 1]), 1) if is_reached else None


def measures(outcome: Outcome) -> Figures:
    """Return the figures of one policy, in the order of the table's rows."""
    arrivals = outcome.arrivals
    return {
        "attempts": int(arrivals.sum()),
        "peak_1s": most_within(arrivals, 1.0),
        "peak_1s_after_first_second": most_within(arrivals, 1.0, since=1.0),
        "peak_1s_once_up": most_within(arrivals, 1.0, since=outcome.down),
        "peak_100ms": most_within(arrivals, 0.1),
        "peak_100ms_once_up": most_within(arrivals, 0.1, since=outcome.down),
        "rejected": outcome.rejected,
        "slammed": outcome.slammed,
        "seconds_until_50_percent": seconds_until(outcome, 0.5),
        "seconds_until_99_percent": seconds_until(outcome, 0.99),
        "seconds_until_all": seconds_until(outcome, 1.0),
    }


def table(scenario: str, policies: dict[str, Figures]) -> str:
    """Return the figures of one scenario as a table in Markdown."""
    headers, rows = [scenario, *policies], []
    for measure in next(iter(policies.values())):
        cells = [figures[measure] for figures in policies.values()]
        shown = ["never" if cell is None else f"{cell:,}" for cell in cells]
        rows.append([measure.replace("_", " "), *shown])
    return markdown(headers, rows)


def report(storm: Storm, outcomes: dict[str, dict[str, Outcome]]) -> dict[str, Any]:
    """Return the contents of the JSON file."""
    versions = {name: version(name) for name in ("redvsblue-telemetry", "tenacity", "numpy")}
    return {
        "parameters": attrs.asdict(storm),
        "versions": {"python": platform.python_version(), **versions},
        "scenarios": {
            scenario: {policy: measures(outcome) for policy, outcome in of_policies.items()}
            for scenario, of_policies in outcomes.items()
        },
    }


def draw(storm: Storm, outcomes: dict[str, Outcome], path: Path) -> None:
    """Draw attempts per second over time, a line for each policy."""
    # Imported here and by name: only the picture needs it, and the tests run without it.
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    pyplot.rcParams.update({"font.size": 17, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = pyplot.subplots(figsize=(16, 9), facecolor="white", layout="constrained")
    axes.axvspan(0, storm.down, color="0.94", lw=0)
    axes.text(storm.down / 2, 1.5 * storm.clients, "server down", color="0.35", ha="center")
    axes.axhline(storm.capacity, color="0.35", lw=1.5, ls=(0, (6, 4)))
    taken = f"the server takes {storm.capacity:,}"
    axes.text(PLOT_SECONDS, storm.capacity * 1.08, taken, color="0.35", ha="right")
    for (policy, outcome), (color, width, place) in zip(outcomes.items(), LINES, strict=True):
        shown = outcome.arrivals[: PLOT_SECONDS * SLOTS_A_SECOND].reshape(-1, SLOTS_A_SECOND)
        # A logarithmic axis has no 0, so such counts go below its end.
        axes.stairs(np.maximum(shown.sum(axis=1), 1), baseline=None, color=color, lw=width)
        axes.text(*place, policy, color=color, weight="bold")
    axes.set(yscale="log", ylim=(80, 2 * storm.clients), xlim=(0, PLOT_SECONDS))
    axes.set(xlabel="seconds since the cut", ylabel="attempts to connect, per second")
    axes.set_yticks([100, 1000, 10_000, 100_000], ["100", "1,000", "10,000", "100,000"])
    axes.set_title(f"{storm.clients:,} clients whose server restarts", loc="left", weight="bold")
    figure.savefig(path, dpi=100)


def parse(arguments: list[str] | None) -> tuple[Storm, Path, Path | None]:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reconnect_storm")
    for name, default in attrs.asdict(Storm()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--json", type=Path, default=RESULTS, help="the file for the figures")
    parser.add_argument("--plot", type=Path, help="the file for the picture; needs matplotlib")
    options = vars(parser.parse_args(arguments))
    paths = options.pop("json"), options.pop("plot")
    try:
        return Storm(**options), *paths
    except ValueError as error:
        parser.error(str(error))


def main(arguments: list[str] | None = None) -> None:
    """Run every policy in every scenario; print, write and draw the outcome."""
    storm, json_path, plot_path = parse(arguments)
    outcomes = {
        scenario.name: {p.name: simulate(storm, scenario, p) for p in scenario.policies}
        for scenario in SCENARIOS
    }
    figures = report(storm, outcomes)
    write_json(json_path, figures)
    if plot_path is not None:
        draw(storm, outcomes[SCENARIOS[0].name], plot_path)
    tables = [table(scenario, policies) for scenario, policies in figures["scenarios"].items()]
    sys.stdout.write("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
