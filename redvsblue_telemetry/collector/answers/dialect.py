"""Where SQLite and DuckDB differ in the SQL of the answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["PERCENTILES", "Dialect", "rank_of"]

PERCENTILES = (50, 95, 99)


def rank_of(percentile: int, count: str) -> str:
    """Return SQL for the nearest rank of a percentile, from 1, times 100.

    It is rounded up without fractions: 0.95 has no exact double.
    """
    return f"({count} * {percentile} + 99)"


class Dialect(Protocol):
    """SQL that each engine spells in its own way."""

    def quotient(self, dividend: str, divisor: str) -> str:
        """Return SQL for the quotient of two whole numbers that aren't negative, rounded down."""

    def whole(self, number: str) -> str:
        """Return SQL for the whole part of a double that isn't negative, as an integer."""

    def percentiles(self, relation: str, keys: Sequence[str], value: str) -> str:
        """Return a query of the count, the sum, the extremes and the percentiles of a column.

        Its columns are the keys, then ``count``, ``sum``, ``min``, ``max``, ``p50``, ``p95`` and
        ``p99``; one row for each group of keys. The sum is times 2**-64, so that it can't overflow.

        Args:
            relation: the name of a table or view.
            keys: names of columns.
            value: the name of a column of doubles. NULL is left out.
        """
