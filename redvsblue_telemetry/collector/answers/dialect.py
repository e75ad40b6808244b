"""Where SQLite and DuckDB differ in the SQL of the answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["PERCENTILES", "Dialect", "scaled"]

PERCENTILES = (50, 95, 99)
_HALF_SCALE = f"{2**32}e0"


def scaled(number: str) -> str:
    """Return SQL for a double times 2**-64: the sum of any of them is finite, and as exact."""
    return f"{number} / {_HALF_SCALE} / {_HALF_SCALE}"


class Dialect(Protocol):
    """SQL that each engine spells in its own way."""

    def quotient(self, dividend: str, divisor: str) -> str:
        """Return SQL for the quotient of two whole numbers that aren't negative, rounded down."""

    def whole(self, number: str) -> str:
        """Return SQL for the whole part of a double that isn't negative, as an integer."""

    def same(self, one: str, other: str) -> str:
        """Return SQL for whether two values are equal, or both are NULL."""

    def percentiles(
        self,
        relation: str,
        keys: Sequence[str],
        value: str,
        percentiles: Sequence[int] = PERCENTILES,
    ) -> str:
        """Return a query of the count, the sum, the extremes and the percentiles of a column.

        Its columns are the keys, then ``count``, ``sum``, ``min``, ``max``, and ``p50``, ``p95``
        and so on; one row for each group of keys, and without keys none if there is no value. The
        sum is of numbers as :func:`scaled` returns them.

        Args:
            relation: the name of a table or view.
            keys: names of columns.
            value: the name of a column of doubles. NULL is left out.
            percentiles: which ones, as whole numbers.
        """

    def earliest(self, relation: str, key: str, order: Sequence[str], others: Sequence[str]) -> str:
        """Return a query of the first row of each key; its columns are all that are named here.

        Args:
            relation: a query in parentheses.
            key: the name of a column.
            order: the names of the columns that order the rows. No two rows of a key are equal.
            others: the names of further columns.
        """
