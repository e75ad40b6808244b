"""The formats of an export. Each takes batches of events and keeps few of them in memory."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

import msgspec

from ..collector.cells import cell
from ..collector.storage.batches import EventBatch
from ._parquet import COLUMNS, write_parquet
from ._terminal import one_line

__all__ = ["FORMATS"]

_JSON_COLUMNS = ("data", "context")
_NUMBERS = ("arrival", "received", "seq", "timestamp")
_UNPLAIN = re.compile(r"[\x7f\r\t]")


def _write_jsonl(batches: Iterable[EventBatch], stream: BinaryIO) -> None:
    for batch in batches:
        lines = list(_json_lines(batch))
        text = "\n".join(lines)
        # Raw line breaks and tabs occur only between the tokens of the data and the context.
        if not text.isascii() or _UNPLAIN.search(text) or text.count("\n") >= len(lines):
            text = "\n".join(map(one_line, lines))
        stream.write(text.encode() + b"\n")


def _json_lines(batch: EventBatch) -> Iterator[str]:
    """Yield each event as :class:`~..collector.models.StoredEvent` is encoded."""
    text = _Made(lambda given: msgspec.json.encode(given).decode())
    rows = zip(*batch.columns(), strict=True)
    for arrival, received, session, seq, type_, timestamp, id_, version, data, *rest in rows:
        context, fault = rest
        optional = "" if version is None else f',"version":{text[version]}'
        if context is not None:
            optional += f',"context":{context}'
        if fault is not None:
            optional += f',"fault":{text[fault]}'
        yield (
            f'{{"arrival":{arrival},"received":{received},"sessionId":{text[session]},"seq":{seq},'
            f'"type":{text[type_]},"timestamp":{timestamp},"id":{text[id_]},"data":{data}{optional}}}'
        )


def _write_csv(batches: Iterable[EventBatch], stream: BinaryIO) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180
        writer.writerow(COLUMNS)
        for batch in batches:
            writer.writerows(zip(*_cells(batch), strict=True))
    finally:
        text.detach()


def _cells(batch: EventBatch) -> Iterator[Sequence[object]]:
    """Yield the columns in a form that neither a spreadsheet nor a terminal interprets."""
    for name, column in zip(COLUMNS, batch.columns(), strict=True):
        if name in _NUMBERS:
            yield column
        else:
            made = _Made(one_line if name in _JSON_COLUMNS else cell)
            yield [None if field is None else made[field] for field in column]


class _Made(dict[str, str]):
    """What a function makes of texts, each of them once."""

    def __init__(self, make: Callable[[str], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, text: str) -> str:
        made = self[text] = self._make(text)
        return made


FORMATS: dict[str, Callable[[Iterable[EventBatch], BinaryIO], None]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "parquet": write_parquet,
}
