"""Rows by column.

SQLite puts each column into one text, so that a row costs neither a step of Python nor a turn with
the GIL: each row that is fetched gives it up, and it may be milliseconds until it is back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import msgspec

__all__ = ["DATA", "by_column", "cut", "parts"]

DATA = "CAST(group_concat(data, '') AS BLOB), json_group_array(length(CAST(data AS BLOB)))"
"""The texts of some events, one behind the other, and their lengths."""

_decode = msgspec.json.Decoder().decode


def by_column(
    connection: sqlite3.Connection,
    names: Sequence[str],
    query: str,
    values: Sequence[object] | Mapping[str, object],
) -> tuple[list[Any], ...]:
    """Return all rows of a query: for each column its whole numbers, texts, or None.

    Args:
        connection: a connection to the database.
        names: the columns of the query.
        query: whose rows these are; their order is kept.
        values: its parameters.
    """
    arrays = ", ".join(f"json_group_array({name})" for name in names)
    row = connection.execute(f"SELECT {arrays} FROM ({query})", values).fetchone()
    return tuple(map(_decode, row))


def cut(text: bytes | None, lengths: str) -> list[str]:
    """Return the texts of :data:`DATA`."""
    return [] if text is None else parts(text, _decode(lengths))


def parts(text: bytes, lengths: Sequence[int]) -> list[str]:
    """Return the parts of a text that have these lengths in bytes, one behind the other."""
    spans = pairwise(accumulate(lengths, initial=0))
    if text.isascii():
        letters = text.decode()
        return [letters[start:end] for start, end in spans]
    return [text[start:end].decode() for start, end in spans]
