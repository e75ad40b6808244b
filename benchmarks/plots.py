"""Draws the figures of the side-by-side benchmark and of the truth table, for their ``--plots``.

``emit-cost.png`` shows the cost of 100 events in a frame. ``frames.png`` shows two distributions by
percentile: how long frames take, and how late the game wakes up. They need the histograms of the
run, which the committed results leave out. ``truth-table.png`` shows the lost events of each SDK in
each scenario.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import LogLocator

from benchmarks import truth_table
from benchmarks.game_loop import BINS_A_DECADE
from benchmarks.harness import Result, summary
from benchmarks.peers import PEERS

_OURS = "ours"
_INK, _GRAY, _BLUE = "#222222", "#9a9a9a", "#0072B2"
_LINES = {  # the colors of Okabe and Ito, which color-blind people can distinguish
    "none": ("#000000", (0, (4, 2))),
    "queuehandler": ("#7f7f7f", "-"),
    "sentry": ("#E69F00", "-"),
    "opentelemetry": ("#D55E00", "-"),
    "segment": ("#009E73", "-"),
    "amplitude": ("#CC79A7", "-"),
    "posthog": ("#56B4E9", "-"),
    _OURS: (_BLUE, "-"),
}
_LABEL_GAP = 0.052  # between two labels, of the axis
_DPI = 120


def _style() -> None:
    mpl.rcParams.update(
        {
            "font.size": 11,
            "text.color": _INK,
            "axes.labelcolor": _INK,
            "axes.edgecolor": _GRAY,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
        }
    )


def _frames_of(report: Result, name: str) -> list[Result]:
    """Return a peer's game loops, of all rounds that worked."""
    return [
        result["frames"]
        for result in report["results"]
        if result["peer"] == name and "failure" not in result["frames"]
    ]


def _conditions(report: Result) -> str:
    rounds, machine = report["rounds"], report["machine"]
    count = "1 round" if rounds == 1 else f"median of {rounds} rounds"
    return f"{count} of {report['seconds']:g} s, Python {machine['python']}, {machine['cpus']} CPUs"


# The cost of 100 events.


def _costs(report: Result) -> list[tuple[str, Result]]:
    """Return each SDK's milliseconds a frame, the cheapest first."""
    count = report["events_a_frame"]
    costs = [
        (name, summary([f["emit_cpu_ns"] * count / 1e6 for f in _frames_of(report, name)]))
        for name in _LINES
        if PEERS[name].emits
    ]
    known = [(name, cost) for name, cost in costs if cost["rounds"]]
    return sorted(known, key=lambda pair: pair[1]["median"])


def draw_costs(report: Result) -> Figure:
    """Draw bars: how much of a frame's CPU time all its emits take."""
    costs = _costs(report)
    figure = Figure(figsize=(9, 1.5 + 0.42 * len(costs)), layout="constrained")
    axes = figure.add_subplot()
    for row, (name, cost) in enumerate(costs):
        is_ours = name == _OURS
        middle = cost["median"]
        axes.barh(row, middle, height=0.68, color=_BLUE if is_ours else "#c9c9c9")
        axes.plot([cost["min"], cost["max"]], [row, row], color=_INK, linewidth=1)
        axes.annotate(
            f"{middle:.2f} ms",
            (max(middle, cost["max"]), row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            weight="bold" if is_ours else "normal",
            color=_BLUE if is_ours else _INK,
        )
    axes.set_yticks(range(len(costs)), [PEERS[name].title for name, _ in costs])
    for label, (name, _) in zip(axes.get_yticklabels(), costs, strict=True):
        if name == _OURS:
            label.set(weight="bold", color=_BLUE)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(
        f"ms of the game's thread (CPU) in each frame; a frame at 60 fps has "
        f"{report['frame_ms']:.1f} ms\n{_conditions(report)}; thin lines: the range of the rounds",
        fontsize=9.5,
    )
    figure.suptitle(
        f"What {report['events_a_frame']} events cost a frame",
        fontsize=15,
        weight="bold",
        x=0.01,
        ha="left",
    )
    return figure


# Distributions.


def _pooled(results: Sequence[Result], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the values in ms, and the share that is above each, of all rounds together."""
    histogram: dict[int, int] = {}
    parts = [result[name] for result in results if result[name]]
    for part in parts:
        for number, count in part["histogram"].items():  # JSON's keys are strings
            histogram[int(number)] = histogram.get(int(number), 0) + count
    if not parts:
        return None
    bins = np.array(sorted(histogram))
    counts = np.array([histogram[number] for number in bins])
    values = 10.0 ** ((bins + 0.5) / BINS_A_DECADE) / 1000
    values[-1] = max(part["max_us"] for part in parts) / 1000
    above = 1 - np.cumsum(counts) / counts.sum()
    above[-1] = 1 / counts.sum()
    if len(above) > 1:  # the last bin may hold more than the greatest value
        above[-1] = min(above[-1], above[-2])
    return values, above


def _draw_distribution(axes: Axes, report: Result, name: str, title: str) -> None:
    """Draw values by percentile, both on logarithmic axes, each line labeled at its end."""
    ends: dict[str, float] = {}
    right = 0.1
    for peer, (color, style) in _LINES.items():
        pooled = _pooled(_frames_of(report, peer), name)
        if pooled is None:
            continue
        values, above = pooled
        is_ours = peer == _OURS
        axes.plot(
            above,
            values,
            color=color,
            linestyle=style,
            linewidth=2.8 if is_ours else 1.6,
            drawstyle="steps-pre",
            zorder=3 if is_ours else 2,
        )
        ends[peer] = float(values[-1])
        right = min(right, float(above[-1]))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1.0, right)
    ticks = [share for share in (0.5, 0.1, 0.01, 0.001, 0.0001) if share >= right]
    axes.set_xticks(ticks, [f"{100 * (1 - share):g} %" for share in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontsize=12, weight="bold")
    axes.set_xlabel("share of the frames below the line")
    axes.set_ylabel("ms")
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: dict[str, float]) -> None:
    """Name each line beside its end, moved apart where they would overlap."""
    low, high = np.log(axes.get_ylim())
    order = sorted(ends, key=ends.__getitem__)
    wanted = [float((np.log(ends[peer]) - low) / (high - low)) for peer in order]
    upward: list[float] = []
    for place in wanted:
        upward.append(max(place, upward[-1] + _LABEL_GAP) if upward else place)
    downward: list[float] = []
    for place in reversed(wanted):
        downward.append(min(place, downward[-1] - _LABEL_GAP) if downward else place)
    places = [(up + down) / 2 for up, down in zip(upward, reversed(downward), strict=True)]
    for peer, place in zip(order, places, strict=True):
        axes.annotate(
            PEERS[peer].title,
            (1.0, place),
            xytext=(6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=_LINES[peer][0],
            weight="bold" if peer == _OURS else "normal",
            annotation_clip=False,
        )


def draw_frames(report: Result) -> Figure:
    """Draw how long frames take, and how late the game wakes up."""
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_distribution(left, report, "frame", "A frame, from its start to its sleep")
    if left.get_ylim()[1] > report["frame_ms"]:
        left.axhline(report["frame_ms"], color="#b00000", linewidth=1, linestyle=":")
        left.annotate(
            f"{report['frame_ms']:.1f} ms: a frame is missed",
            (0.99, report["frame_ms"]),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=9,
            color="#b00000",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            zorder=5,
        )
    _draw_distribution(right, report, "lateness", "How late the sleep before the next frame ends")
    count, work = report["events_a_frame"], report["work_ms"]
    figure.suptitle(
        f"60 fps, {work:g} ms of Python work and {count} events a frame; "
        + _conditions(report).replace("median of ", ""),
        fontsize=9.5,
        x=0.01,
        ha="left",
    )
    return figure


def draw(report: Result, folder: Path) -> list[Path]:
    """Draw all figures into a folder; return their paths."""
    _style()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in {
        "emit-cost": draw_costs(report),
        "frames": draw_frames(report),
    }.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=_DPI)
    return paths


# The truth table.

_SHORT = {
    "ours-journal": "redvsblue\nwith journal",
    "ours": "redvsblue",
    "sentry": "Sentry",
    "opentelemetry": "Open-\nTelemetry",
    "posthog": "PostHog",
    "segment": "Segment",
    "amplitude": "Amplitude",
}
_ROWS = {
    "kill": "kill -9 after 1,000 events",
    "away": "server away for a minute",
    "next-start": "away at the exit, back at the next start",
    "resets": "20 resets",
    "black-hole": "a black hole for a minute",
    "burst": "100,000 events at once",
    "fork": "a fork",
    "opt-out": "opted out: arrived nevertheless",
    "full-disk": "the disk is full",
}
_EXIT_ROWS = {
    "next-start": "exit, server away",
    "exit-in-black-hole": "exit, server silent",
}
_HARM = LinearSegmentedColormap.from_list("harm", ["#fbe3cf", "#E69F00", "#D55E00"])
_EMPTY = "#f0f0f0"
_PATIENCE = 3.0  # seconds at the exit that a player does not mind


def _tile(axes: Axes, column: int, row: float, text: str, color: str, ink: str) -> None:
    shape = FancyBboxPatch(
        (column + 0.05, row + 0.08),
        0.9,
        0.84,
        boxstyle="round,pad=0,rounding_size=0.1",
        facecolor=color,
        edgecolor="none",
    )
    axes.add_patch(shape)
    size = 9 if color == _EMPTY else 10.5
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=size)


def _harm_tile(axes: Axes, report: Result, name: str, sdk: str, place: tuple[int, float]) -> None:
    found = truth_table.harm(report, name, sdk)
    if found is None:
        text = "no opt-out" if name == "opt-out" else "memory only"
        _tile(axes, *place, text, _EMPTY, "#767676")
    elif not found["harmed"]:
        _tile(axes, *place, "0", _BLUE, "white")
    else:
        share = found["harmed"] / found["of"]
        text = f"{found['harmed']:,}{truth_table.mark(report, name, sdk)}"
        _tile(axes, *place, text, mpl.colors.to_hex(_HARM(share)), "white" if share > 0.8 else _INK)


def _exit_tile(axes: Axes, report: Result, name: str, sdk: str, place: tuple[int, float]) -> None:
    cell = truth_table.cell_of(report, name, sdk)
    if cell is None:
        return
    seconds = report["exit_limit_seconds"] if cell["hung"] else cell["exit_seconds"]
    text = f"> {seconds:g} s" if cell["hung"] else f"{seconds:.1f} s"
    if seconds <= _PATIENCE:
        _tile(axes, *place, text, _BLUE, "white")
    else:
        share = min(1.0, seconds / report["exit_limit_seconds"])
        _tile(axes, *place, text, mpl.colors.to_hex(_HARM(share)), "white" if share > 0.8 else _INK)


def truth_figure(report: Result) -> Figure:
    """Draw a tile for each SDK in each scenario."""
    sdks = truth_table.sdks_of(report)
    gap = 0.3
    rows = len(_ROWS) + gap + len(_EXIT_ROWS)
    figure = Figure(figsize=(10.5, 1.5 + 0.44 * rows), layout="constrained")
    axes = figure.add_subplot()
    labels: list[tuple[float, str]] = []
    for row, (name, title) in enumerate(_ROWS.items()):
        labels.append((row + 0.5, title))
        for column, sdk in enumerate(sdks):
            _harm_tile(axes, report, name, sdk, (column, row))
    for row, (name, title) in enumerate(_EXIT_ROWS.items()):
        at = len(_ROWS) + gap + row
        labels.append((at + 0.5, title))
        for column, sdk in enumerate(sdks):
            _exit_tile(axes, report, name, sdk, (column, at))
    axes.set_xlim(0, len(sdks))
    axes.set_ylim(rows, 0)
    axes.set_yticks([at for at, _ in labels], [title for _, title in labels])
    axes.set_xticks([column + 0.5 for column in range(len(sdks))], [_SHORT[sdk] for sdk in sdks])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=10.5)
    for label, sdk in zip(axes.get_xticklabels(), sdks, strict=True):
        if sdk.startswith(_OURS):
            label.set(weight="bold", color=_BLUE)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.supxlabel(
        "Each SDK is configured for reliable delivery. ° Not promised by this SDK. The last two "
        "rows are the seconds that an exit takes.",
        fontsize=9.5,
        x=0.015,
        ha="left",
    )
    figure.suptitle(
        "Events lost: the same torture for each SDK", fontsize=15, weight="bold", x=0.015, ha="left"
    )
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    return figure


def draw_truth(report: Result, folder: Path) -> Path:
    """Draw the truth table into a folder; return its path."""
    _style()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "truth-table.png"
    truth_figure(report).savefig(path, dpi=_DPI)
    return path
