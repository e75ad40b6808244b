"""The fields of events' data in SQL: their numbers and texts, as ``flatten`` finds them.

``flatten`` (:mod:`....collector.storage.fields`) defines the fields of an event. To call it
for each of ten million events takes ten seconds; DuckDB's own JSON functions take two. They find
the same in a text without anything unusual, which is nearly all:

- Without a backslash a name is in the text as it is, in quotation marks. If it is there once at
  most, no object has it twice: ``flatten`` takes the last one, DuckDB the first.
- A name with a dot may be one name, or that of a field of an object within. In a text that has
  neither ``"at.x"``, nor ``"at"`` or ``"x"`` twice, only the second is possible.
- A text that DuckDB can't read may still have fields that ``flatten`` finds.

Everything else is left to ``flatten``, as a function of DuckDB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa

from ...collector.storage.fields import MAX_DEPTH, MAX_TEXT_LENGTH, flatten

__all__ = ["add_function", "found_in", "looked_up", "number_of", "text_of"]

_FUNCTION = "flattened"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CELL = pa.struct([("number", pa.float64()), ("text", pa.string())])


def add_function(connection: Any) -> None:
    """Add the function that finds a field by ``flatten`` to a database."""
    kind = duckdb.struct_type({"number": "DOUBLE", "text": "VARCHAR"})
    connection.create_function(
        _FUNCTION, _flattened, ["VARCHAR", "VARCHAR"], kind, type="arrow", null_handling="special"
    )


def _flattened(data: Any, names: Any) -> Any:
    numbers: list[float | None] = []
    texts: list[str | None] = []
    for text, name in zip(data.to_pylist(), names.to_pylist(), strict=True):
        value = None if text is None else flatten(text).get(name)
        numbers.append(value if isinstance(value, float) else None)
        texts.append(value if isinstance(value, str) else None)
    arrays = [pa.array(numbers, pa.float64()), pa.array(texts, pa.string())]
    return pa.StructArray.from_arrays(arrays, fields=[*_CELL])


def _is_simple(name: str) -> bool:
    """Return whether DuckDB finds a field of this name in most texts."""
    parts = name.split(".")
    return len(parts) <= MAX_DEPTH and all(map(_PLAIN.fullmatch, parts))


def found_in(name: str, data: str) -> str:
    """Return SQL for the JSON of a field; empty if it is absent, NULL if ``flatten`` must look.

    Args:
        name: the field's, without the ``data.`` in front.
        data: SQL for the text of an event's data.
    """
    if not _is_simple(name):
        return "CAST(NULL AS VARCHAR)"
    parts = name.split(".")
    # A pattern with an underscore also fits other names: then flatten() looks in vain.
    unusual = [f"contains({data}, '\\')"]
    unusual += [f"""{data} LIKE '%"{part}"%"{part}"%'""" for part in dict.fromkeys(parts)]
    unusual += [f"""contains({data}, '"{joined}"')""" for joined in _joined(parts)]
    path = "$" + "".join(f'."{part}"' for part in parts)
    read = f"TRY(coalesce(CAST(json_extract({data}, '{path}') AS VARCHAR), ''))"
    return f"CASE WHEN {' OR '.join(unusual)} THEN NULL ELSE {read} END"


def _joined(parts: list[str]) -> Iterator[str]:
    """Yield the names that objects may have if a dot does not always part two names."""
    for first in range(len(parts)):
        for end in range(first + 2, len(parts) + 1):
            yield ".".join(parts[first:end])


def number_of(found: str, cell: str) -> str:
    """Return SQL for a field's number.

    Args:
        found: the column with the result of :func:`found_in`.
        cell: the column with that of :func:`looked_up`.
    """
    number = f"TRY_CAST({found} AS DOUBLE)"
    return (
        f"CASE WHEN {found} IS NULL THEN {cell}.number "
        f"WHEN {found}[1] BETWEEN '0' AND '9' OR {found}[1] = '-' "
        f"THEN CASE WHEN isfinite({number}) THEN {number} END END"
    )


def text_of(found: str, cell: str) -> str:
    """Return SQL for a field's text; see :func:`number_of`."""
    return (
        f"CASE WHEN {found} IS NULL THEN {cell}.text "
        f"""WHEN {found}[1] = '"' """
        f"THEN left(substr({found}, 2, length({found}) - 2), {MAX_TEXT_LENGTH}) "
        f"WHEN {found} IN ('true', 'false') THEN {found} END"
    )


def looked_up(name: str, data: str, found: str) -> str:
    """Return SQL for the cell of a field by ``flatten``, where nothing else found it.

    Args:
        name: the field's, as SQL.
        data: the column with an event's data.
        found: the column with the result of :func:`found_in`.
    """
    return f"CASE WHEN {found} IS NULL THEN {_FUNCTION}({data}, {name}) END"
