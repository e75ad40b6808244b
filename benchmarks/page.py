"""Writes the figures of the README and of the docs from the benchmarks' results.

    python -m benchmarks.page [--check]

The pages keep their words; what stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` is
made anew from ``benchmarks/results``. With ``--check``, nothing is written, and the exit code is 1
if something would be.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Sequence

from benchmarks.measuring import ROOT, Result, greatest, grouped, median, summary
from benchmarks.peers import PEERS, RIVALS
from benchmarks.side_by_side import (
    FOOTPRINT,
    FRAMES,
    GAME_THREAD,
    Figure,
    against,
    cheapest_of,
    number,
    of,
    results_of,
    spread,
    summary_of,
)

PAGES = tuple(
    ROOT / name
    for name in ("README.md", "docs/performance.md", "docs/collector.md", "benchmarks/README.md")
)
RESULTS = ROOT / "benchmarks" / "results"
_TABLE = re.compile(r"(<!-- table: ([a-z-]+) -->\n)(?:(?!<!--).)*?(<!-- end -->)", re.DOTALL)
_OURS, _FLOOR = "ours", "none"


def load(name: str) -> Result:
    """The results of one benchmark, as it was last run for the docs."""
    report: Result = json.loads((RESULTS / f"{name}.json").read_text())
    return report


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rules = ["---", *("---:" for _ in headers[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (headers, rules, *rows))


def _figure(value: float | None) -> str:
    return "-" if value is None else number(value)


# One function a table.


def machine() -> str:
    """What it was measured on."""
    about = load("side-by-side")["machine"]
    return (
        f"{about['implementation']} {about['python']}, {about['system']}, {about['cpus']} cores "
        f"of {about['cpu'] or 'an unnamed processor'}."
    )


def peers() -> str:
    """The SDKs side by side."""
    report = load("side-by-side")
    emit = GAME_THREAD["emit, CPU µs"]

    def plain(figure: Figure) -> Callable[[str], Result]:
        return lambda name: summary_of(report, name, figure)

    def beyond(figure: Figure) -> Callable[[str], Result]:
        return lambda name: against(report, figure, name, _FLOOR, divide=False)

    columns = {
        "an emit, µs": plain(emit),
        "times ours": lambda name: against(report, emit, name, _OURS, divide=True),
        "frame p99 beyond none, ms": beyond(FRAMES["p99 ms"]),
        "wake-up lateness p99 beyond none, ms": beyond(FRAMES["wake-up late p99 ms"]),
        "process CPU, %": plain(FOOTPRINT["process CPU %"]),
        "arrived, %": plain(FOOTPRINT["after shutdown %"]),
        "memory, MB": plain(FOOTPRINT["memory MB"]),
        "import, ms": plain(FOOTPRINT["import ms"]),
    }
    rows = []
    for name in (_OURS, *RIVALS, "queuehandler", "off", "empty", _FLOOR):
        if results_of(report, name):
            cells = [_figure(column(name)["median"]) for column in columns.values()]
            rows.append([PEERS[name].title, *cells])
    return _markdown(["", *columns], rows)


def emits() -> str:
    """Single emits: the usual and the longest."""
    report = load("side-by-side")
    columns = ("emit p50 µs", "p99 µs", "max µs")
    rows = [
        [
            PEERS[name].title,
            *(spread(summary_of(report, name, GAME_THREAD[column])) for column in columns),
        ]
        for name in (_OURS, *RIVALS, "queuehandler", "off", "empty")
        if results_of(report, name)
    ]
    return _markdown(["µs", "p50", "p99", "max"], rows)


def setups() -> str:
    """How each SDK was called."""
    report = load("side-by-side")
    rows = [
        [
            PEERS[name].title,
            report["versions"].get(PEERS[name].package) or "-",
            f"`{PEERS[name].call}`",
            PEERS[name].destination,
            PEERS[name].deviation,
        ]
        for name in (_OURS, *RIVALS, "queuehandler")
        if results_of(report, name)
    ]
    headers = ["", "version", "the call", "what it sends", "not the default"]
    return _markdown(headers, rows).replace("---:", "---")


def _met(figures: Result, must: float, goal: float | None, *, at_most: bool) -> str:
    sign = 1 if at_most else -1
    value = sign * figures["median"]
    if value > sign * must:
        return "**not met**"
    worst = max(sign * figures["min"], sign * figures["max"])
    text = "met" if worst <= sign * must else "met by the median, not in each round"
    return text + (", and the goal" if goal is not None and value <= sign * goal else "")


def _aim(
    title: str,
    figures: Result,
    must: float,
    goal: float | None,
    unit: str,
    *,
    at_most: bool = True,
) -> list[str]:
    sign = "≤" if at_most else "≥"
    return [
        title,
        spread(figures),
        f"{sign} {number(must)}{unit}",
        "-" if goal is None else f"{sign} {number(goal)}{unit}",
        _met(figures, must, goal, at_most=at_most),
    ]


def _ratios(kind: str) -> Result:
    results = grouped(load("throughput")["results"], "kind")[kind,]
    usual = [r for r in results if (r["batch"], r["size"], r["threads"]) == (50, 150, 1)]
    return summary([result.get("ratio") for result in usual])


def aims() -> str:
    """What it was built to reach, and whether it does."""
    report = load("side-by-side")
    emit = GAME_THREAD["emit, CPU µs"]
    rival = cheapest_of(report, emit)
    assert rival is not None
    steady = grouped(load("stalls")["results"], "name")["steady",]
    backlog = load("backlog")["results"]
    beyond = load("frame-pairs")["figures"]
    memory = [
        result["bytes"] / 1e6
        for result in backlog
        if result.get("by") == "tracemalloc" and result["events"] == 5_000
    ]
    rows = [
        _aim(
            f"an emit of {PEERS[rival].title}, the cheapest, in emits of this one",
            against(report, emit, rival, _OURS, divide=True),
            10,
            15,
            "",
            at_most=False,
        ),
        _aim(
            "instructions of an emit while off, in those of an empty function",
            summary([_instructions()["emit_off", "empty_function"]["ratio"]]),
            1.5,
            1.2,
            "",
        ),
        _aim(
            "wake-up lateness p99, beyond no telemetry",
            beyond["lateness p99"],
            0.3,
            0.0,
            " ms",
        ),
        _aim(
            "frame p99, beyond no telemetry",
            beyond["frame p99"],
            0.5,
            0.2,
            " ms",
        ),
        _aim(
            "the longest that the worker keeps the GIL, steady",
            summary([result.get("longest_hold_ms") for result in steady]),
            1,
            0.3,
            " ms",
        ),
        _aim(
            "throughput of a backlog, in parts of websocket-client's alone",
            _ratios("drain"),
            0.5,
            0.8,
            "",
            at_most=False,
        ),
        _aim(
            "the same, with the emits in the same time",
            _ratios("emit"),
            0.5,
            0.8,
            "",
            at_most=False,
        ),
        _aim("memory of 5,000 buffered events of 150 bytes", summary(memory), 2, 1.2, " MB"),
        _aim(
            "import, beyond its dependencies",
            summary_of(report, _OURS, of("imports", "import_own_ms")),
            20,
            10,
            " ms",
        ),
    ]
    return _markdown(["", "measured", "must", "goal", ""], rows)


def pairs() -> str:
    """Frames with and without telemetry, by turns."""
    rows = [
        [name, _figure(row["ours"]), _figure(row["floor"]), spread(row)]
        for name, row in load("frame-pairs")["figures"].items()
    ]
    return _markdown(["ms", "with telemetry", "without", "difference"], rows)


def throughput() -> str:
    """By size of batch and event, and by threads."""
    rows = []
    results = [r for r in load("throughput")["results"] if r["kind"] != "offered"]
    groups = grouped(results, "batch", "size", "kind", "threads")
    titles = {"ceiling": "websocket-client alone", "drain": "a backlog", "emit": "with the emits"}
    for (batch, size, kind, threads), group in groups.items():
        title = titles[kind] + (f", {threads} threads" if threads > 1 else "")
        rates = summary([result.get("events_per_second") for result in group])
        ratios = summary([result.get("ratio") for result in group])
        ratio = "1" if kind == "ceiling" else spread(ratios)
        cost = median(group, "cpu_us_per_event")
        rows.append([title, str(batch), str(size), _figure(rates["median"]), ratio, _figure(cost)])
    headers = ["", "batch", "bytes", "events a second", "of the ceiling", "CPU, µs an event"]
    return _markdown(headers, rows)


def round_trips() -> str:
    """By round trip and rate."""
    rows = []
    results = [r for r in load("throughput")["results"] if r["kind"] == "offered"]
    for (trip, rate), group in grouped(results, "round_trip_asked_ms", "rate").items():
        rows.append(
            [
                f"{trip} ms",
                f"{rate:,}",
                *(f"{sum(r[name] for r in group):,}" for name in ("emitted", "delivered")),
                f"{sum(r['dropped'] for r in group):,}",
                _figure(greatest(group, "highest_backlog")),
            ]
        )
    headers = ["round trip", "events a second", "emitted", "delivered", "dropped", "most waiting"]
    return _markdown(headers, rows)


def stalls() -> str:
    """By phase."""
    rows = []
    for (name,), group in grouped(load("stalls")["results"], "name").items():
        holds = summary([result.get("longest_hold_ms") for result in group])
        counts = [
            f"{sum(result['hold_ms_beyond'][limit] for result in group):,}"
            for limit in ("0.3", "1")
        ]
        drained = median(group, "drained_in_seconds")
        call = median(group, "call_ms")
        rows.append([name, spread(holds), *counts, _figure(drained), _figure(call)])
    headers = ["", "longest hold, ms", "> 0.3 ms", "> 1 ms", "drained, s", "call to start, ms"]
    return _markdown(headers, rows)


def backlog() -> str:
    """The cost of an emit, by what is waiting."""
    report = load("backlog")
    growths = [result for result in report["results"] if "blocks" in result]
    block = report["block"]
    rows = [
        [
            f"{index * block:,} to {(index + 1) * block:,}",
            spread(summary([result["blocks"][index] for result in growths])),
        ]
        for index in range(len(growths[0]["blocks"]))
    ]
    full = [result.get("dropping") for result in report["results"] if result["kind"] == "full"]
    rows.append(["5,000, and full", spread(summary(full))])
    return _markdown(["events waiting", "CPU of an emit, ns"], rows)


def memory() -> str:
    """Of buffered events."""
    results = [result for result in load("backlog")["results"] if "by" in result]
    rows = [
        [
            f"{events:,}, by {'tracemalloc' if by == 'tracemalloc' else 'resident memory'}",
            _figure((median(group, "bytes") or 0) / 1e6),
            _figure(median(group, "bytes_per_event")),
        ]
        for (events, by), group in grouped(results, "events", "by").items()
    ]
    return _markdown(["events of 150 bytes", "MB", "bytes an event"], rows)


def _instructions() -> dict[tuple[str, str], Result]:
    return {(ratio["case"], ratio["base"]): ratio for ratio in load("instructions")["ratios"]}


def instructions() -> str:
    """The ratios that are guarded."""
    rows = [
        [f"`{case}` / `{base}`", _figure(ratio["ratio"]), f"{ratio['limit']:g}"]
        for (case, base), ratio in _instructions().items()
    ]
    return _markdown(["instructions", "ratio", "limit"], rows)


def soak() -> str:
    """What half an hour left behind."""
    result = load("soak")
    rows = [
        [
            name.replace("_", " "),
            *(f"{figures[key]:,.0f}" for key in _SOAK),
            f"{figures['bound']:,}",
        ]
        for name, figures in result["growth"].items()
    ]
    headers = ["median of", "the first quarter", "the last quarter", "growth", "allowed"]
    ledger = result["ledger"]
    return (
        f"{result['minutes']:.0f} minutes, with {ledger['reconnects']:,} reconnects and "
        f"{ledger['emitted']:,} events, of which {ledger['delivered']:,} were delivered and "
        f"{ledger['dropped']:,} dropped while it was cut off:\n\n" + _markdown(headers, rows)
    )


_SOAK = ("first_quarter", "last_quarter", "growth")


def _collector() -> dict[str, list[Result]]:
    return {name: group for (name,), group in grouped(load("collector")["results"], "name").items()}


def _rate_against(name: str) -> Result:
    """The collector's rate, in parts of another's in the same round."""
    groups = _collector()
    pairs = zip(groups["collector"], groups[name], strict=True)
    return summary([ours["events_per_second"] / its["events_per_second"] for ours, its in pairs])


def collector_rates() -> str:
    """Stored, committed and acknowledged, beside others."""
    groups = _collector()
    titles = {
        "collector": "the collector",
        "collector, with a viewer": "the collector, while somebody looks at its page",
        "bare parts": "bare parts: uvicorn, `json`, one INSERT an event",
        "SQLite alone": "SQLite alone: the same rows, ready-made, in the same groups",
    }
    rows = [
        [
            title,
            spread(summary([result["events_per_second"] for result in groups[name]])),
            "1" if name == "collector" else spread(_rate_against(name)),
        ]
        for name, title in titles.items()
    ]
    return _markdown(["", "events a second", "the collector's, in parts of it"], rows)


def collector_waits() -> str:
    """How long an acknowledgement takes, and what an idle client costs."""
    groups = _collector()
    rows = [
        [title, spread(summary([result[name] for result in groups[kind]]))]
        for title, kind, name in (
            ("an acknowledgement at 10,000 events a second, p50, ms", "acks", "p50_ms"),
            ("p99, ms", "acks", "p99_ms"),
            ("memory of an idle connection, of 1,000, bytes", "idle", "bytes_each"),
        )
    ]
    return _markdown(["", "measured"], rows)


def collector_aims() -> str:
    """What the collector was built to reach, and whether it does."""
    rates = summary([result["events_per_second"] for result in _collector()["collector"]])
    viewed = _rate_against("collector, with a viewer")
    cost = {name: 100 * (1 - 1 / viewed[name]) for name in ("median", "min", "max")}
    rows = [
        _aim("events a second, of ten clients", rates, 50_000, 100_000, "", at_most=False),
        _aim(
            "the same, in parts of SQLite's own rate",
            _rate_against("SQLite alone"),
            0.5,
            None,
            "",
            at_most=False,
        ),
        _aim("what a viewer of the page takes from it", cost, 10, None, " %"),
    ]
    return _markdown(["", "measured", "must", "goal", ""], rows)


def promise() -> str:
    """The one figure of the README, in words."""
    report = load("side-by-side")
    emit = GAME_THREAD["emit, CPU µs"]
    rival = cheapest_of(report, emit)
    assert rival is not None
    ours = summary_of(report, _OURS, emit)["median"]
    ratio = against(report, emit, rival, _OURS, divide=True)["median"]
    frame = ours * report["events_a_frame"] / 1000
    return (
        f"An `emit` takes {_figure(ours)} µs of the game's thread, so {report['events_a_frame']} "
        f"in a frame take {_figure(frame)} ms. {PEERS[rival].title}, the cheapest of the SDKs "
        f"measured beside it, takes {_figure(ratio)} times as much."
    )


TABLES: dict[str, Callable[[], str]] = {
    "machine": machine,
    "peers": peers,
    "emits": emits,
    "setups": setups,
    "aims": aims,
    "pairs": pairs,
    "throughput": throughput,
    "round-trips": round_trips,
    "stalls": stalls,
    "backlog": backlog,
    "memory": memory,
    "soak": soak,
    "instructions": instructions,
    "collector-rates": collector_rates,
    "collector-waits": collector_waits,
    "collector-aims": collector_aims,
    "promise": promise,
}


def with_tables(text: str) -> str:
    """The page, with its tables as the results have them."""
    return _TABLE.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[3]}", text)


def main() -> int:
    """Write the page, or look whether that is needed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    differ = False
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = with_tables(before)
        differ |= before != after
        if not options.check:
            page.write_text(after, encoding="utf-8")
        lines = before.splitlines(True), after.splitlines(True)
        sys.stdout.writelines(difflib.unified_diff(*lines, page.name, "as it should be"))
    return int(differ and options.check)


if __name__ == "__main__":
    sys.exit(main())
