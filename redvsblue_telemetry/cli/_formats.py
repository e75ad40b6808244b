"""The formats of an export. Each takes events one by one and keeps few of them in memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, BinaryIO

import msgspec

from .._shared import escape
from ..collector.models import StoredEvent

__all__ = ["FORMATS", "MissingPackageError", "TerminalOutput"]

_GROUP_ROWS = 20_000
_GROUP_BYTES = 8 * 1024 * 1024
_COLUMNS = (
    "arrival", "received", "sessionId", "seq", "type", "timestamp", "id", "version", "data",
    "context", "fault",
)  # fmt: skip
_DATA, _CONTEXT = _COLUMNS.index("data"), _COLUMNS.index("context")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LINE_BREAKS = bytes.maketrans(b"\n\r", b"  ")


class MissingPackageError(Exception):
    """A format needs a package that isn't installed; the message says how to install it."""


def _write_jsonl(events: Iterable[StoredEvent], stream: BinaryIO) -> None:
    encode = msgspec.json.Encoder().encode
    for event in events:
        # Raw line breaks occur only between the tokens of the data, where spaces mean the same.
        stream.write(encode(event).translate(_LINE_BREAKS) + b"\n")


def _write_csv(events: Iterable[StoredEvent], stream: BinaryIO) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180
        writer.writerow(_COLUMNS)
        for event in events:
            row = _row(event)
            writer.writerow(
                [_escape_formula(field) if isinstance(field, str) else field for field in row]
            )
    finally:
        text.detach()


def _escape_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


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


class TerminalOutput(io.RawIOBase):
    """Passes whole lines on to a terminal, with unprintable characters escaped.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._rest = b""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, chunk: Any) -> int:
        """Pass on the lines that are complete now."""
        *lines, self._rest = (self._rest + bytes(chunk)).split(b"\n")
        for line in lines:
            self._stream.write(escape(line.rstrip(b"\r").decode()).encode() + b"\n")
        return len(chunk)
