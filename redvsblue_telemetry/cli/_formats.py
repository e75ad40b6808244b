"""The formats of an export. Each takes events one by one and keeps few of them in memory."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, BinaryIO

import msgspec

from .._shared import escape
from ..collector.models import StoredEvent
from ._terminal import one_line

__all__ = ["FORMATS", "MissingPackageError"]

_GROUP_ROWS = 20_000
_GROUP_BYTES = 8 * 1024 * 1024
_COLUMNS = (
    "arrival", "received", "sessionId", "seq", "type", "timestamp", "id", "version", "data",
    "context", "fault",
)  # fmt: skip
_JSON_COLUMNS = ("data", "context")
_DATA, _CONTEXT = _COLUMNS.index("data"), _COLUMNS.index("context")
# OWASP's list for "CSV injection", also behind blanks, which some spreadsheets skip, and with the
# signs that Unicode calls equal to those of ASCII. Line breaks and tabs are escaped before.
_FORMULA = re.compile(r"'*\s*[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212]")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII)
_LIKE_ESCAPE = re.compile(r"\\(?=u[0-9a-fA-F]{4})")
_BLANKS = bytes.maketrans(b"\n\r\t", b"   ")


class MissingPackageError(Exception):
    """A format needs a package that isn't installed; the message says how to install it."""


def _write_jsonl(events: Iterable[StoredEvent], stream: BinaryIO) -> None:
    encode = msgspec.json.Encoder().encode
    for event in events:
        line = encode(event)
        if line.isascii() and b"\x7f" not in line:
            # Raw line breaks and tabs occur only between the tokens of the data.
            line = line.translate(_BLANKS)
        else:
            line = one_line(line.decode()).encode()
        stream.write(line + b"\n")


def _write_csv(events: Iterable[StoredEvent], stream: BinaryIO) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180
        writer.writerow(_COLUMNS)
        for event in events:
            writer.writerow(_cells(_row(event)))
    finally:
        text.detach()


def _cells(row: tuple[Any, ...]) -> Iterator[object]:
    """Yield the fields of a row in a form that neither a spreadsheet nor a terminal interprets."""
    for name, field in zip(_COLUMNS, row, strict=True):
        if not isinstance(field, str):
            yield field
        else:
            yield one_line(field) if name in _JSON_COLUMNS else _cell(field)


def _cell(text: str) -> str:
    r"""Return a text with an apostrophe before a formula, and unprintable letters as ``\u001b``.

    It can be undone: a text that looked like an escape, or like a formula with its apostrophe, gets
    one as well.
    """
    shown = escape(_LIKE_ESCAPE.sub(r"\\u005c", text))
    is_formula = _FORMULA.match(shown) and not _NUMBER.fullmatch(shown)
    return f"'{shown}" if is_formula else shown


def _row(event: StoredEvent) -> tuple[Any, ...]:
    return (
        event.arrival,
        event.received,
        event.session_id,
        event.seq,
        event.type,
        event.timestamp,
        event.id,
        event.version,
        bytes(event.data).decode(),
        None if event.context is msgspec.UNSET else bytes(event.context).decode(),
        event.fault,
    )


def _write_parquet(events: Iterable[StoredEvent], stream: BinaryIO) -> None:
    try:
        pyarrow: Any = import_module("pyarrow")  # large, and a separate extra
        parquet: Any = import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            'Parquet needs pyarrow: pip install "redvsblue-telemetry[collector,parquet]"'
        ) from error
    schema = _schema(pyarrow)
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for rows in _groups(events):
            columns = [
                pyarrow.array(column, field.type)
                for column, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))


def _schema(pyarrow: Any) -> Any:
    number, text = pyarrow.int64(), pyarrow.string()
    # A player's clock may be far off any date: only the collector's times become timestamps.
    types = dict.fromkeys(_COLUMNS, text) | dict.fromkeys(("arrival", "seq", "timestamp"), number)
    types["received"] = pyarrow.timestamp("ms", tz="UTC")
    return pyarrow.schema(
        [
            pyarrow.field(name, types[name], nullable=name in ("version", "context", "fault"))
            for name in _COLUMNS
        ]
    )


def _groups(events: Iterable[StoredEvent]) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows in lists of bounded length and size."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    for event in events:
        row = _row(event)
        rows.append(row)
        size += len(row[_DATA]) + len(row[_CONTEXT] or "")
        if len(rows) >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


FORMATS: dict[str, Callable[[Iterable[StoredEvent], BinaryIO], None]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "parquet": _write_parquet,
}
