"""The charts of a report, as inline SVG. Their colors come from the page's styles, by class."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence

from .._terminal import printable
from .format import amount, clock_time, moment, span
from .stats import COLORED_TYPES, FRAME_TIME_EDGES, TimelineBins

__all__ = [
    "LINES_KEY",
    "bars",
    "gap_strip",
    "histogram",
    "percentile_lines",
    "series_class",
    "timeline",
]

_WIDTH, _HEIGHT = 960, 260
_RIGHT, _TOP, _BOTTOM = 8, 14, 26  # around the plot; at its left are the labels of the scale
_MIN_LEFT = 52
_LABEL_GAP = 8
_CHARACTER_WIDTH = 7.8  # of a label, in the widest of the usual fonts
_STRIP_HEIGHT = 26
_MAX_TIME_LABELS = 7
_PERCENTILES = ("p50", "p95", "p99")
_MIN_GAP_WIDTH = 1.5  # keeps a gap of one in a million visible


def series_class(index: int) -> str:
    """Return the CSS class of a type's color."""
    return f"c{min(index, COLORED_TYPES)}"


def timeline(bins: TimelineBins, names: Sequence[str]) -> str:
    """Return the chart of events over time, stacked by the types with these names."""
    columns = bins.columns
    scale = _Scale(max((sum(counts) for _, counts in columns), default=0))
    step = scale.plot_width / max(1, len(columns))
    parts = [*scale.lines()]
    every = math.ceil(len(columns) / _MAX_TIME_LABELS)
    parts += _time_labels(
        [(scale.left + i * step, columns[i][0]) for i in range(0, len(columns), every)], bins.width
    )
    for index, (start, counts) in enumerate(columns):
        x = scale.left + index * step
        when = moment(start * 1000)
        below = 0
        for series, count in enumerate(counts):
            if count:
                title = f"{when}, {printable(names[series], 80)}: {amount(count)}"
                y, height = scale.extent(below, below + count)
                kind, width = series_class(series), max(0.5, step * 0.86)
                parts.append(_rect(kind, x, y, width, height, title))
                below += count
    return _svg(f"Events per {span(bins.width)}, by type", _HEIGHT, parts)


def histogram(bins: Sequence[int]) -> str:
    """Return the chart of frame times from their counts by bin."""
    scale = _Scale(max(bins))
    step = scale.plot_width / len(bins)
    parts = [*scale.lines()]
    lower_edges = (0.0, *FRAME_TIME_EDGES)
    labels = [f"\u2264 {edge:g}" for edge in FRAME_TIME_EDGES] + [f"> {FRAME_TIME_EDGES[-1]:g}"]
    for index, (edge, label, count) in enumerate(zip(lower_edges, labels, bins, strict=True)):
        x = scale.left + index * step
        kind = "good" if edge < 16.7 else "fair" if edge < 33.4 else "bad"
        y, height = scale.extent(0, count)
        parts.append(
            f'<text class="tick middle" x="{x + step / 2:.1f}" y="{_HEIGHT - 8}">'
            f"{html.escape(label)}</text>"
        )
        title = f"{label} ms: {amount(count)}"
        parts.append(_rect(kind, x + step * 0.08, y, step * 0.84, height, title))
    return _svg("Number of frames by frame time in milliseconds", _HEIGHT, parts)


def bars(label: str, columns: Sequence[tuple[str, str, int]]) -> str:
    """Return a chart of counts.

    Args:
        label: what it shows.
        columns: of each bar, the label below it, its tooltip and its count.
    """
    scale = _Scale(max(count for *_, count in columns))
    step = scale.plot_width / len(columns)
    parts = [*scale.lines()]
    widest = max(len(below) for below, *_ in columns) * _CHARACTER_WIDTH + _LABEL_GAP
    every = math.ceil(widest / step)
    for index, (below, title, count) in enumerate(columns):
        x = scale.left + index * step
        if index % every == 0 and x + widest <= _WIDTH:
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 8}">{html.escape(below)}</text>'
            )
        y, height = scale.extent(0, count)
        parts.append(_rect("c0", x + step * 0.06, y, step * 0.88, height, title))
    return _svg(label, _HEIGHT, parts)


def percentile_lines(label: str, points: Sequence[tuple[int, float, float, float]]) -> str:
    """Return the chart of a number over time: the percentiles 50, 95 and 99.

    Args:
        label: what it shows.
        points: times in milliseconds since the epoch, in ascending order, each with its
            percentiles.
    """
    values = [value for _, *others in points for value in others]
    scale = _Scale(max(values), min(values), is_count=False)
    begin, length = points[0][0], max(1, points[-1][0] - points[0][0])
    parts = [*scale.lines()]
    shares = [index / _MAX_TIME_LABELS for index in range(_MAX_TIME_LABELS)]
    places = [
        (scale.left + scale.plot_width * part, int(begin + length * part) // 1000)
        for part in shares
    ]
    parts += _time_labels(places, length // 1000 // _MAX_TIME_LABELS)
    for rank, name in enumerate(_PERCENTILES, start=1):
        corners = [
            (
                scale.left + scale.plot_width * (point[0] - begin) / length,
                scale.extent(0, point[rank])[0],
            )
            for point in points
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        title = f"<title>{name}</title>"
        parts.append(f'<polyline class="line {name}" points="{line}">{title}</polyline>')
        parts += [f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in corners]
    return _svg(label, _HEIGHT, parts)


def _time_labels(places: Iterable[tuple[float, int]], width: int) -> Iterator[str]:
    """Yield the labels below a chart that fit into it whole.

    Args:
        places: each label's x and its time in seconds since the epoch.
        width: how many seconds a label stands for.
    """
    before = None
    for x, seconds in places:
        label = clock_time(seconds, width, before)
        before = seconds
        if x + _CHARACTER_WIDTH * len(label) <= _WIDTH:
            yield f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 8}">{label}</text>'


def _key(name: str) -> str:
    line = f'<polyline class="line {name}" points="0,4 30,4"/>'
    return f'<svg viewBox="0 0 30 8" aria-hidden="true">{line}</svg>{name}'


LINES_KEY = f'<p class="key">{"".join(map(_key, _PERCENTILES))}</p>'
"""Explains the lines of :func:`percentile_lines`."""


def gap_strip(gaps: Sequence[tuple[int, int, bool]], highest: int) -> str:
    """Return a strip of all sequence numbers of a session, with the gaps marked.

    Args:
        gaps: the first and last number of each, and whether it is harmless.
        highest: the last number of all.
    """
    height = _STRIP_HEIGHT - 2
    scale = (_WIDTH - 2) / max(1, highest)
    parts = [f'<rect class="good" x="1" y="1" width="{_WIDTH - 2}" height="{height}" rx="3"/>']
    for first, last, is_harmless in gaps:
        width = max(_MIN_GAP_WIDTH, (last - first + 1) * scale)
        x = min(1 + (first - 1) * scale, _WIDTH - 1 - width)
        kind = "quiet" if is_harmless else "bad"
        parts.append(_rect(kind, x, 1, width, height, f"{amount(first)} to {amount(last)}"))
    return _svg(f"Missing events among 1 to {amount(highest)}", _STRIP_HEIGHT, parts)


class _Scale:
    """The vertical axis, from 0 or a round number below the lowest to one at or above the highest.

    Args:
        highest: the highest value.
        lowest: the lowest one.
        is_count: whether the values are whole.
    """

    def __init__(self, highest: float, lowest: float = 0.0, *, is_count: bool = True) -> None:
        min_step = (max(highest, 0.0) - min(lowest, 0.0)) / 4
        min_step = max(1.0, min_step) if is_count else min_step or 1.0
        size: float = 10 ** math.floor(math.log10(min_step))
        self._step = next(n * size for n in (1, 2, 5, 10) if n * size >= min_step)
        self._first = math.floor(min(lowest, 0.0) / self._step)
        """The number of steps from 0 to the bottom."""
        self._last = max(1 if self._first == 0 else 0, math.ceil(highest / self._step))
        labels = (_scale_label(number * self._step) for number in (self._first, self._last))
        longest = _CHARACTER_WIDTH * max(map(len, labels))
        self.left = max(_MIN_LEFT, longest + _LABEL_GAP)
        """The x of the plot: as far right as the labels of the scale need."""
        self.plot_width = _WIDTH - self.left - _RIGHT

    def _y(self, value: float) -> float:
        share = (value / self._step - self._first) / (self._last - self._first)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    def extent(self, lower: float, upper: float) -> tuple[float, float]:
        """Return the top and the height of a bar from one value to another."""
        return self._y(upper), self._y(lower) - self._y(upper)

    def lines(self) -> Iterator[str]:
        for number in range(self._first, self._last + 1):
            value = number * self._step
            y = self._y(value)
            right = _WIDTH - _RIGHT
            yield (
                f'<line class="grid" x1="{self.left:.1f}" x2="{right}" y1="{y:.2f}" y2="{y:.2f}"/>'
                f'<text class="tick end" x="{self.left - _LABEL_GAP:.1f}" y="{y + 4:.1f}">'
                f"{_scale_label(value)}</text>"
            )


def _scale_label(value: float) -> str:
    if isinstance(value, int):
        return amount(value) if value < 1e15 else f"{value:.0e}".replace("+", "")
    return f"{value:g}"


def _rect(kind: str, x: float, y: float, width: float, height: float, title: str) -> str:
    return (
        f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}">'
        f"<title>{html.escape(title)}</title></rect>"
    )


def _svg(label: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
