"""The bins of a histogram: equally wide, with round edges. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["MAX_BINS", "Grid", "grid_of"]

MAX_BINS = 40


class Grid(NamedTuple):
    """Edges at equal distances: edge ``n`` is ``(start + n) * multiplier / divisor``.

    In this form, which SQL evaluates to the same doubles, an edge such as 0.29 is exactly the
    number that people write.
    """

    start: int
    multiplier: float
    divisor: float
    bins: int

    def edge(self, place: int) -> float:
        """Return the lower edge of a bin."""
        return float(self.start + place) * self.multiplier / self.divisor


def grid_of(low: float, high: float, *, are_whole: bool) -> Grid | None:
    """Return the grid for numbers in a range; None if it is too narrow, or too wide, for one.

    Args:
        low: the lowest number.
        high: the highest number, which is in the last bin.
        are_whole: whether there are only whole numbers.
    """
    width = high / (MAX_BINS - 1) - low / (MAX_BINS - 1)  # their difference might overflow
    if are_whole:
        width = max(1.0, width)
    if not 1e-280 < width < 1e280:
        return None
    multiplier, divisor = _round_width(width)
    if max(abs(low), abs(high)) / (multiplier / divisor) >= 2**52:
        return None
    grid = Grid(0, multiplier, divisor, 1)
    start, end = (_place(grid, number) for number in (low, high))
    return grid._replace(start=start, bins=end - start + 1)


def _round_width(width: float) -> tuple[float, float]:
    """Return a round width that is not smaller, as a multiplier and a divisor."""
    exponent = math.floor(math.log10(width))
    for digit in (1, 2, 5):
        # But for the last bits of the logarithm.
        if digit * 10.0**exponent >= width * (1 - 1e-9):
            return digit * 10.0 ** max(exponent, 0), 10.0 ** max(-exponent, 0)
    return 10.0 ** max(exponent + 1, 0), 10.0 ** max(-exponent - 1, 0)


def _place(grid: Grid, number: float) -> int:
    """Return the number of the bin that a number is in, if bin 0 begins at 0."""
    place = math.floor(number / grid.multiplier * grid.divisor)
    while grid.edge(place) > number:
        place -= 1
    while grid.edge(place + 1) <= number:
        place += 1
    return place
