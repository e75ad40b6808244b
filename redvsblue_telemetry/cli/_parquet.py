"""Parquet, as ``export`` writes it: batches of events as columns of Arrow, in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import accumulate
from typing import Any, BinaryIO

from ..collector.storage.batches import EventBatch

__all__ = ["COLUMNS", "MissingPackageError", "write_parquet"]

COLUMNS = (
    "arrival", "received", "sessionId", "seq", "type", "timestamp", "id", "version", "data",
    "context", "fault",
)  # fmt: skip
"""Of an export, in this order."""
# Those with few different values in a group of rows. To collect those of the others takes as long
# as to compress them, and with a dictionary they take up more space.
_REPEATED = [
    "received", "sessionId", "seq", "type", "timestamp", "version", "context", "fault",
]  # fmt: skip
# A group of rows ends with the row that reaches one of these.
_GROUP_ROWS = 20_000
_GROUP_CHARACTERS = 8 * 1024 * 1024  # of data and context


class MissingPackageError(Exception):
    """A format needs a package that isn't installed; the message says how to install it."""


def write_parquet(batches: Iterable[EventBatch], stream: BinaryIO) -> None:
    """Write events as a Parquet file.

    Raises:
        MissingPackageError: pyarrow is not installed.
    """
    try:
        pyarrow: Any = import_module("pyarrow")  # large, and a separate extra
        parquet: Any = import_module("pyarrow.parquet")
        arrow = _Arrow(pyarrow, import_module("pyarrow.compute"))
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            'Parquet needs pyarrow: pip install "redvsblue-telemetry[collector,parquet]"'
        ) from error
    options = {"compression": "zstd", "use_dictionary": _REPEATED}
    with parquet.ParquetWriter(stream, arrow.schema, **options) as writer:
        for group in arrow.groups(batches):
            writer.write_table(group, row_group_size=group.num_rows)


class _Arrow:
    """Makes columns of Arrow. Most of it is done in one call a column, without the GIL."""

    def __init__(self, pyarrow: Any, compute: Any) -> None:
        self._pyarrow, self._compute = pyarrow, compute
        self._number, self._text = number, text = pyarrow.int64(), pyarrow.string()
        # A player's clock may be far off any date: only the collector's times become timestamps.
        types = dict.fromkeys(COLUMNS, text) | dict.fromkeys(
            ("arrival", "seq", "timestamp"), number
        )
        types["received"] = pyarrow.timestamp("ms", tz="UTC")
        self.schema = pyarrow.schema(
            [
                pyarrow.field(name, types[name], nullable=name in ("version", "context", "fault"))
                for name in COLUMNS
            ]
        )

    def groups(self, batches: Iterable[EventBatch]) -> Iterator[Any]:
        """Yield the events in tables of bounded length and size."""
        parts: list[Any] = []
        rows = characters = 0
        for batch in batches:
            part = self._record_batch(batch)
            while part.num_rows:
                sizes = self._sizes(part)
                room = _GROUP_CHARACTERS - characters
                fitting = self._compute.sum(self._compute.less(sizes, room)).as_py()
                count = min(part.num_rows, _GROUP_ROWS - rows, fitting + 1)
                parts.append(part.slice(0, count))
                rows += count
                characters += sizes[count - 1].as_py()
                part = part.slice(count)
                if rows >= _GROUP_ROWS or characters >= _GROUP_CHARACTERS:
                    yield self._pyarrow.Table.from_batches(parts)
                    parts, rows, characters = [], 0, 0
        if parts:
            yield self._pyarrow.Table.from_batches(parts)

    def _sizes(self, part: Any) -> Any:
        """Return how many characters the rows up to each have."""
        data, context = map(self._compute.utf8_length, (part["data"], part["context"]))
        return self._compute.cumulative_sum(
            self._compute.add(data, self._compute.fill_null(context, 0)).cast(self._number)
        )

    def _record_batch(self, batch: EventBatch) -> Any:
        array = self._pyarrow.array
        session, seq = array(batch.session, self._number), array(batch.seq, self._number)
        columns = {
            "arrival": array(batch.arrival, self._number),
            "received": array(batch.received, self.schema.field("received").type),
            "sessionId": self._named(session, {k: each[0] for k, each in batch.sessions.items()}),
            "seq": seq,
            "type": self._named(array(batch.type, self._number), batch.types),
            "timestamp": array(batch.timestamp, self._number),
            "id": self._ids(batch, session, seq),
            "version": array(batch.version, self._text),
            "data": self._texts(batch.data, batch.lengths),
            "context": self._named(array(batch.context, self._number), batch.contexts),
            "fault": self._named(array(batch.fault, self._number), batch.faults),
        }
        return self._pyarrow.record_batch(list(columns.values()), schema=self.schema)

    def _named(self, keys: Any, texts: Mapping[int, str | None]) -> Any:
        """Return the text of each key; null for null."""
        known = self._pyarrow.array(list(texts), self._number)
        which = self._compute.index_in(keys, value_set=known)
        return self._compute.take(self._pyarrow.array(texts.values(), self._text), which)

    def _ids(self, batch: EventBatch, session: Any, seq: Any) -> Any:
        runs = {key: run for key, (_, run) in batch.sessions.items()}
        if batch.id is not None or None in runs.values():
            return self._pyarrow.array(batch.ids(), self._text)
        numbers = self._compute.cast(seq, self._text)
        return self._compute.binary_join_element_wise(self._named(session, runs), numbers, "-")

    def _texts(self, text: bytes, lengths: list[int]) -> Any:
        """Return the parts of these lengths, one behind the other, of a text."""
        ends = self._pyarrow.array(accumulate(lengths, initial=0), self._pyarrow.int32())
        buffers = [None, ends.buffers()[1], self._pyarrow.py_buffer(text)]
        return self._pyarrow.Array.from_buffers(self._text, len(lengths), buffers)
