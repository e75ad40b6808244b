"""Writes the figures of the README and of the docs from the benchmarks' results.

    python -m benchmarks.page [--check]

The text between ``<!-- table: NAME -->`` and ``<!-- end -->`` is generated from
``benchmarks/results``; the rest of a page is left alone. Each benchmark formats its own tables.
With ``--check``, nothing is written, and the exit code is 1 if a page is out of date.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import itertools
import json
import re
import sys

from benchmarks import (
    backlog,
    cluster,
    cluster_costs,
    cluster_model,
    collector,
    collector_questions,
    endings,
    frame_cost,
    frame_pairs,
    instructions,
    kills,
    lake_questions,
    long_emits,
    peer_bytes,
    side_by_side,
    soak,
    stalls,
    take_over,
    throughput,
    truth_table,
    wire_bytes,
)
from benchmarks.harness import ROOT, Result, grouped, number, spread, summary, table
from benchmarks.peers import BY_BYTES, PEERS
from benchmarks.side_by_side import EMIT_US, IMPORT_OWN_MS, against, cheapest_of, summary_of
from benchmarks.wire_bytes import BUSY, FIFTY, USUAL
from redvsblue_telemetry._compression import DEFLATE, ZSTD

PAGES = tuple(
    ROOT / name
    for name in (
        "README.md",
        "docs/delivery.md",
        "docs/frames.md",
        "docs/performance.md",
        "docs/truth-table.md",
        "docs/cluster.md",
        "docs/collector.md",
        "docs/questions.md",
        "benchmarks/README.md",
    )
)
_RESULTS = ROOT / "benchmarks" / "results"
_BENCHMARKS = {
    "side-by-side": side_by_side,
    "frame-cost": frame_cost,
    "frame-pairs": frame_pairs,
    "journal-pairs": frame_pairs,
    "long-emits": long_emits,
    "take-over": take_over,
    "throughput": throughput,
    "round-trips": throughput,
    "stalls": stalls,
    "backlog": backlog,
    "soak": soak,
    "instructions": instructions,
    "wire-bytes": wire_bytes,
    "peer-bytes": peer_bytes,
    "collector": collector,
    "collector-compression": collector,
    "collector-questions": collector_questions,
    "truth-table": truth_table,
    "kills": kills,
    "endings": endings,
    "cluster": cluster,
    "cluster-costs": cluster_costs,
    "lake-questions": lake_questions,
    "cluster-model": cluster_model,
}
_TABLE = re.compile(r"(<!-- table: ([a-z-]+) -->\n)(?:(?!<!--).)*?(<!-- end -->)", re.DOTALL)


def _machine(report: Result) -> str:
    """Return the machine that the figures were measured on, in words."""
    about = report["machine"]
    return (
        f"{about['implementation']} {about['python']}, {about['system']}, {about['cpus']} cores "
        f"of {about['cpu'] or 'an unnamed processor'}."
    )


def _promise(report: Result) -> str:
    """Return the two sentences of the README."""
    rival = cheapest_of(report, EMIT_US)
    assert rival is not None
    ours = summary_of(report, "ours", EMIT_US)["median"]
    ratio = against(report, EMIT_US, rival, "ours", divide=True)["median"]
    frame = ours * report["events_a_frame"] / 1000
    return (
        f"An `emit` takes {number(ours)} µs of the game's thread, so {report['events_a_frame']} "
        f"in a frame take {number(frame)} ms. {PEERS[rival].title}, the cheapest of the SDKs "
        f"measured beside it, takes {number(ratio)} times as much."
    )


# The aims.


def _verdict(figures: Result, sign: int, must: float, goal: float | None) -> str:
    if figures["median"] is None:
        return "not measured"
    value = sign * figures["median"]
    if value > sign * must:
        return "**not met**"
    worst = max(sign * figures["min"], sign * figures["max"])
    text = "met" if worst <= sign * must else "met by the median, not in each round"
    return text + (", and the goal" if goal is not None and value <= sign * goal else "")


def _aim(
    title: str, figures: Result, bound: str, must: float, goal: float | None, unit: str = ""
) -> list[str]:
    """Return a row; ``bound`` is ``≤`` or ``≥``."""
    limits = ["-" if limit is None else f"{bound} {number(limit)}{unit}" for limit in (must, goal)]
    verdict = _verdict(figures, 1 if bound == "≤" else -1, must, goal)
    return [title, spread(figures), *limits, verdict]


def _aims(reports: dict[str, Result]) -> str:
    """Return the aims of the client, and whether they are met."""
    peers = reports["side-by-side"]
    rival = cheapest_of(peers, EMIT_US)
    assert rival is not None
    pairs = reports["frame-pairs"]["figures"]
    ratios = {
        (r["case"], r["base"]): summary([r["ratio"]]) for r in reports["instructions"]["ratios"]
    }
    steady = grouped(reports["stalls"]["results"], "name")["steady",]
    usual = [
        {"has_journal": False} | r
        for r in reports["throughput"]["results"]
        if (r.get("batch"), r.get("size"), r.get("threads")) == (50, 150, 1)
    ]
    ceiling = {
        key: summary([result.get("ratio") for result in group])
        for key, group in grouped(usual, "kind", "has_journal").items()
    }
    memory = [
        result["bytes"] / 1e6
        for result in reports["backlog"]["results"]
        if (result.get("by"), result.get("events")) == ("tracemalloc", 5_000)
        and not result.get("has_journal")
    ]
    cheapest = (
        f"an emit of {PEERS[rival].title}, the cheapest other SDK, relative to one of this SDK"
    )
    rows = [
        _aim(cheapest, against(peers, EMIT_US, rival, "ours", divide=True), "≥", 10, 15),
        _aim(
            "instructions of an emit, relative to the encoder alone",
            ratios["emit_on", "msgspec_encode"],
            "≤",
            1.63,
            1.4,
        ),
        _aim(
            "instructions of an emit while off, relative to an empty function",
            ratios["emit_off", "empty_function"],
            "≤",
            1.5,
            1.2,
        ),
        _aim(
            "wake-up lateness p99, beyond no telemetry", pairs["lateness p99"], "≤", 0.3, 0, " ms"
        ),
        _aim("frame p99, beyond no telemetry", pairs["frame p99"], "≤", 0.5, 0.2, " ms"),
        _aim(
            "the longest that the worker keeps the GIL, steady",
            summary([result.get("longest_hold_ms") for result in steady]),
            "≤",
            1,
            0.3,
            " ms",
        ),
        _aim(
            "throughput of a backlog, relative to websocket-client alone",
            ceiling["drain", False],
            "≥",
            0.59,
            0.8,
        ),
        _aim("the same, with the emits in the same time", ceiling["emit", False], "≥", 0.5, 0.8),
        _aim(
            "memory of 5,000 buffered events of 150 bytes", summary(memory), "≤", 1.31, 0.9, " MB"
        ),
        _aim(
            "import, beyond its dependencies",
            summary_of(peers, "ours", IMPORT_OWN_MS),
            "≤",
            20,
            10,
            " ms",
        ),
    ]
    return table(_AIM_HEADERS, rows)


def _journal_aims(reports: dict[str, Result]) -> str:
    """Return the aims of the journal, and whether they are met."""
    peers = reports["side-by-side"]
    rival = cheapest_of(peers, EMIT_US)
    assert rival is not None
    pairs = reports["journal-pairs"]["figures"]
    ratios = {
        (r["case"], r["base"]): summary([r["ratio"]]) for r in reports["instructions"]["ratios"]
    }
    longest = {
        result["game"]: summary([result.get("ours_ms")])
        for result in reports["long-emits"]["results"]
    }
    styles = grouped(reports["take-over"]["results"], "style")
    backlog = [
        result.get("ratio")
        for result in reports["throughput"]["results"]
        if result.get("has_journal") and result["kind"] == "drain"
    ]
    cheapest = (
        f"an emit of {PEERS[rival].title}, the cheapest other SDK, relative to one of this SDK"
    )
    rows = [
        _aim(cheapest, against(peers, EMIT_US, rival, "journal", divide=True), "≥", 11, 15),
        _aim(
            "instructions of an emit, relative to the encoder alone",
            ratios.get(("emit_journal", "msgspec_encode"), summary([])),
            "≤",
            1.7,
            1.4,
        ),
        _aim("frame p99, beyond no journal", pairs["frame p99"], "≤", 0.3, 0, " ms"),
        _aim("wake-up lateness p99, beyond no journal", pairs["lateness p99"], "≤", 0.3, 0, " ms"),
        _aim("the longest of 10,000,000 emits, ours", longest["journal"], "≤", 1, 0.2, " ms"),
        _aim(
            "take-over of 1,000,000 events",
            summary([result.get("seconds") for result in styles["plays",]]),
            "≤",
            10,
            5,
            " s",
        ),
        _aim(
            "the longest that the worker keeps the GIL meanwhile",
            summary([result.get("longest_hold_ms") for result in styles["never rests",]]),
            "≤",
            1,
            0.3,
            " ms",
        ),
        _aim(
            "throughput of a backlog, relative to websocket-client alone",
            summary(backlog),
            "≥",
            0.59,
            0.8,
        ),
    ]
    return table(_AIM_HEADERS, rows)


def _collector_aims(report: Result) -> str:
    """Return the aims of the collector, and whether they are met."""
    rates = summary([r["events_per_second"] for r in report["results"] if r["name"] == "collector"])
    viewed = collector.rate_against(report, "collector, with a viewer")
    cost = {name: 100 * (1 - 1 / viewed[name]) for name in ("median", "min", "max")}
    sqlite = collector.rate_against(report, "SQLite alone")
    rows = [
        _aim("events a second, of ten clients", rates, "≥", 50_000, 100_000),
        _aim("the same, relative to SQLite alone", sqlite, "≥", 0.5, None),
        _aim("share of it that a viewer of the page costs", cost, "≤", 10, None, " %"),
    ]
    return table(_AIM_HEADERS, rows)


def _byte_aims(reports: dict[str, Result]) -> str:
    """Return the aims of compression, and whether they are met."""
    wire, peers, rates = (
        reports[name] for name in ("wire-bytes", "peer-bytes", "collector-compression")
    )
    fewer, more, hold = wire_bytes.times_fewer, wire_bytes.more_cpu, wire_bytes.longest_hold
    load, largest = BUSY, "256 KB"
    rows = [
        _aim("times fewer bytes, `deflate`", fewer(wire, USUAL, DEFLATE), "≥", 5, None),
        _aim("times fewer bytes, `zstd`", fewer(wire, USUAL, ZSTD), "≥", 5, 8),
        _aim("in batches of 50, `deflate`", fewer(wire, FIFTY, DEFLATE), "≥", 6, None),
        _aim("in batches of 50, `zstd`", fewer(wire, FIFTY, ZSTD), "≥", 6, 9),
    ]
    for encoding in (DEFLATE, ZSTD):
        name = f"`{encoding}`"
        title = f"the worker's CPU for an event, {name}, beyond text"
        rows.append(_aim(title, more(wire, load, encoding), "≤", 2.5, 0.7, " µs"))
        title = f"the longest that it keeps the interpreter for 256 KB, {name}"
        rows.append(_aim(title, hold(wire, largest, encoding), "≤", 0.3, None, " ms"))
        title = f"the collector's rate, {name}, relative to text"
        rows.append(_aim(title, collector.rate_against_text(rates, encoding), "≥", 0.9, 1))
    of_the_best = peer_bytes.of_the_best
    for pace, name in itertools.product(peer_bytes.PACES, peer_bytes.OURS):
        title = f"bytes {pace}, {BY_BYTES[name].title}, relative to the best other SDK"
        plain = of_the_best(peers, name, pace, with_options=False)
        rows.append(_aim(title, plain, "≤", 1, 0.5))
        options = of_the_best(peers, name, pace, with_options=True)
        rows.append(_aim("the same, where others use gzip if they can", options, "≤", 1, 0.5))
    return table(_AIM_HEADERS, rows)


_AIM_HEADERS = ("", "measured", "must", "goal", "")


# The pages.


@functools.cache
def tables() -> dict[str, str]:
    """Return all generated texts, by name."""
    reports: dict[str, Result] = {
        name: json.loads((_RESULTS / f"{name}.json").read_text("utf-8")) for name in _BENCHMARKS
    }
    texts: dict[str, str] = {}
    for name, benchmark in _BENCHMARKS.items():
        texts |= benchmark.tables(reports[name])
    return texts | {
        "machine": _machine(reports["side-by-side"]),
        "truth-machine": _machine(reports["truth-table"]),
        "promise": _promise(reports["side-by-side"]),
        "aims": _aims(reports),
        "journal-aims": _journal_aims(reports),
        "collector-aims": _collector_aims(reports["collector"]),
        "byte-aims": _byte_aims(reports),
        "cluster-sizes": cluster_model.sizes(
            cluster_model.Costs(reports["cluster-costs"], reports["cluster"])
        ),
    }


def with_tables(text: str) -> str:
    """Return the page with its tables as the results have them."""
    return _TABLE.sub(lambda match: f"{match[1]}\n{tables()[match[2]]}\n\n{match[3]}", text)


def main() -> int:
    """Write the pages, or check that they are up to date."""
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
        sys.stdout.writelines(difflib.unified_diff(*lines, page.name, "up to date"))
    return int(differ and options.check)


if __name__ == "__main__":
    sys.exit(main())
