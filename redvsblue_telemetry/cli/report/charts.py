"""The charts of a report, as SVG that stands in the page. Colours are the page's: by class."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

from .escape import plain
from .format import amount, clock_time, span
from .stats import BIN_EDGES, FrameTimes, Timeline

__all__ = ["gap_strip", "histogram", "timeline"]

_WIDTH, _HEIGHT = 960, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 14, 26  # around the plot
_LABELS = 7  # of times, at most
_LEAST_WIDTH = 1.5  # so that a gap of one in a million is seen


def timeline(bins: Timeline, names: Sequence[str]) -> str:
    """Events over time, stacked by type.

    Args:
        bins: the counts.
        names: of the series, those of the types first.
    """
    columns = bins.bins()
    most = max((sum(counts) for _, counts in columns), default=0)
    scale = _Scale(most)
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(columns))
    parts = [*scale.lines()]
    every = math.ceil(len(columns) / _LABELS)
    for index, (start, counts) in enumerate(columns):
        x = _LEFT + index * step
        when = clock_time(start, bins.width)
        if index % every == 0:
            parts.append(f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 8}">{when}</text>')
        parts.extend(_stack(x, step, when, counts, names, scale))
    label = f"Events per {span(bins.width)}, by type"
    return _svg(label, _HEIGHT, parts)


def _stack(
    x: float, step: float, when: str, counts: Sequence[int], names: Sequence[str], scale: _Scale
) -> Iterator[str]:
    below = 0
    for series, count in enumerate(counts):
        if not count:
            continue
        top, bottom = scale.y(below + count), scale.y(below)
        below += count
        title = html.escape(f"{when}, {plain(names[series], 80)}: {amount(count)}")
        yield (
            f'<rect class="s{series}" x="{x:.2f}" y="{top:.2f}" width="{max(0.5, step * 0.86):.2f}"'
            f' height="{bottom - top:.2f}"><title>{title}</title></rect>'
        )


def histogram(frames: FrameTimes) -> str:
    """How many frames took how long."""
    scale = _Scale(max(frames.bins))
    step = (_WIDTH - _LEFT - _RIGHT) / len(frames.bins)
    parts = [*scale.lines()]
    edges = (0.0, *BIN_EDGES)
    for index, count in enumerate(frames.bins):
        x = _LEFT + index * step
        is_last = index == len(BIN_EDGES)
        label = f"> {edges[index]:g}" if is_last else f"\u2264 {BIN_EDGES[index]:g}"
        kind = "good" if edges[index] < 16.7 else "fair" if edges[index] < 33.4 else "poor"
        parts.append(
            f'<text class="tick middle" x="{x + step / 2:.1f}" y="{_HEIGHT - 8}">'
            f"{html.escape(label)}</text>"
        )
        parts.append(
            f'<rect class="{kind}" x="{x + step * 0.08:.2f}" y="{scale.y(count):.2f}"'
            f' width="{step * 0.84:.2f}" height="{scale.y(0) - scale.y(count):.2f}">'
            f"<title>{html.escape(label)} ms: {amount(count)}</title></rect>"
        )
    return _svg("Frames by their time in milliseconds", _HEIGHT, parts)


def gap_strip(gaps: Sequence[tuple[int, int]], highest: int) -> str:
    """The numbers of a session in a line, with what is missing marked."""
    height, whole = 26, max(1, highest)
    scale = (_WIDTH - 2) / whole
    parts = [f'<rect class="there" x="1" y="1" width="{_WIDTH - 2}" height="{height - 2}" rx="3"/>']
    for first, last in gaps:
        width = max(_LEAST_WIDTH, (last - first + 1) * scale)
        x = min(1 + (first - 1) * scale, _WIDTH - 1 - width)
        parts.append(
            f'<rect class="lost" x="{x:.2f}" y="1" width="{width:.2f}" height="{height - 2}">'
            f"<title>{amount(first)} to {amount(last)}</title></rect>"
        )
    return _svg(f"What is missing of the numbers 1 to {amount(highest)}", height, parts)


class _Scale:
    """The vertical axis: from 0 to a round number that is not less than the most."""

    def __init__(self, most: int) -> None:
        least_step = max(1.0, most / 4)
        size: int = 10 ** math.floor(math.log10(least_step))
        self._step = next(n * size for n in (1, 2, 5, 10) if n * size >= least_step)
        self._top = self._step * max(1, math.ceil(most / self._step))

    def y(self, count: float) -> float:
        plot = _HEIGHT - _TOP - _BOTTOM
        return _HEIGHT - _BOTTOM - plot * count / self._top

    def lines(self) -> Iterator[str]:
        for count in range(0, self._top + 1, self._step):
            y = self.y(count)
            yield (
                f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.2f}" '
                f'y2="{y:.2f}"/>'
                f'<text class="tick end" x="{_LEFT - 8}" y="{y + 4:.1f}">{amount(count)}</text>'
            )


def _svg(label: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
