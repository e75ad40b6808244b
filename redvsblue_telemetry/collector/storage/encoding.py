"""One column of a block as bytes, compressed, with a checksum.

Numbers are stored as they are in memory: an Arrow stream of one array takes several times as long
to read, and a question reads thousands of columns. Texts, and numbers that some events lack, are in
such a stream.

The only module of the storage that knows how pyarrow's arrays are stored. pyarrow is imported when
it is first needed: it is large, and belongs to an extra.
"""

from __future__ import annotations

import struct
import zlib
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["DamagedColumnError", "decode", "encode", "has_arrow"]

_COMPRESSION = "lz4"  # zstd saves 5 bytes an event, but reading takes twice as long
_RAW_COMPRESSION = "lz4_raw"
_CHECKSUM_BYTES = 4
_START = b"start"  # in the metadata of whole numbers: their smallest, from which they count


# Before numbers: the bytes of each, and where whole ones start; 0 bytes are a double. A stream of
# Arrow begins with other bytes.
_HEAD = struct.Struct("<Bqi")
_STREAM = b"\xff"


class DamagedColumnError(Exception):
    """The bytes are not those of a column."""


def has_arrow() -> bool:
    """Return whether pyarrow is installed."""
    return find_spec("pyarrow") is not None


def encode(values: Any) -> bytes:
    """Return the bytes of an array of int64, float64 or string.

    Whole numbers become as narrow as they can be, and repeated texts are stored once. Both make it
    smaller than compression alone would, and faster to read.

    Args:
        values: the ``pyarrow.Array``.
    """
    arrow: Any = import_module("pyarrow")
    metadata, start = None, 0
    if arrow.types.is_string(values.type):
        values = _distinct(arrow, values)
    elif (whole := _whole(arrow, values)) is not None:
        values, start = _narrow(arrow, whole)
        metadata = {_START: str(start)}
    if values.null_count == 0 and arrow.types.is_primitive(values.type):
        is_double = arrow.types.is_floating(values.type)
        head = _HEAD.pack(0 if is_double else values.type.bit_width // 8, start, len(values))
        # A buffer may be longer than the numbers, and start before them.
        width = values.type.bit_width // 8
        numbers = values.buffers()[1].slice(values.offset * width, len(values) * width)
        body = head + bytes(arrow.compress(numbers, _RAW_COMPRESSION, asbytes=True))
        return body + _checksum(body)
    schema = arrow.schema([arrow.field("", values.type, metadata=metadata)])
    options = arrow.ipc.IpcWriteOptions(compression=_COMPRESSION, use_threads=False)
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, schema, options=options) as writer:
        writer.write_batch(arrow.record_batch([values], schema=schema))
    body = bytes(sink.getvalue())
    return body + _checksum(body)


def decode(data: bytes, kind: Any) -> Any:
    """Return the array of :func:`encode`.

    Args:
        data: its bytes.
        kind: its type.

    Raises:
        DamagedColumnError: these are other bytes.
    """
    arrow: Any = import_module("pyarrow")
    view = memoryview(data)
    body, checksum = view[:-_CHECKSUM_BYTES], view[-_CHECKSUM_BYTES:]
    # Arrow trusts its streams: damaged offsets in one could crash the process.
    if checksum != _checksum(body):
        raise DamagedColumnError("wrong checksum")
    try:
        if body[:1] != _STREAM:
            return _numbers(arrow, body).cast(kind, safe=False)
        options = arrow.ipc.IpcReadOptions(use_threads=False)
        with arrow.ipc.open_stream(body, options=options) as reader:
            values = reader.read_next_batch().column(0)
            metadata = reader.schema.field(0).metadata
        if metadata:
            compute: Any = import_module("pyarrow.compute")
            values = compute.add(values.cast(arrow.int64()), int(metadata[_START]))
        elif arrow.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        # Not safe: from 2**53 on, pyarrow takes no int64 for a double, even if it is one.
        return values.cast(kind, safe=False)
    except (
        arrow.ArrowException,
        StopIteration,
        struct.error,
        KeyError,
    ) as error:  # made by a later release
        raise DamagedColumnError(str(error)) from error


def _numbers(arrow: Any, body: memoryview) -> Any:
    """Return the numbers that are stored without a stream."""
    width, start, count = _HEAD.unpack_from(body)
    kinds = {0: arrow.float64(), 1: arrow.int8(), 2: arrow.int16(), 4: arrow.int32()}
    kind = kinds.get(width) or arrow.int64()
    packed = arrow.py_buffer(body[_HEAD.size :])
    numbers = arrow.decompress(packed, count * kind.bit_width // 8, _RAW_COMPRESSION)
    values = arrow.Array.from_buffers(kind, count, [None, numbers])
    if not start:
        return values
    compute: Any = import_module("pyarrow.compute")
    return compute.call_function("add", [values, arrow.scalar(start, arrow.int64())])


def _checksum(body: bytes | memoryview) -> bytes:
    return zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little")


def _whole(arrow: Any, values: Any) -> Any | None:
    """Return numbers as int64; None if they are not all whole."""
    try:
        return values.cast(arrow.int64())
    except arrow.ArrowInvalid:
        return None


def _narrow(arrow: Any, values: Any) -> tuple[Any, int]:
    """Return int64 as the narrowest type that can hold them from a start on, and the start."""
    compute: Any = import_module("pyarrow.compute")
    start: int = compute.min(values).as_py() or 0
    values = compute.subtract(values, start)  # it wraps around, and so does the sum
    for kind in (arrow.int8(), arrow.int16(), arrow.int32()):
        try:
            return values.cast(kind), start
        except arrow.ArrowInvalid:
            continue
    return values, start


def _distinct(arrow: Any, values: Any) -> Any:
    """Return texts as numbers of distinct texts, unless most are distinct."""
    encoded = values.dictionary_encode()
    if len(encoded.dictionary) > len(values) // 2:
        return values
    numbers, _ = _narrow(arrow, encoded.indices.cast(arrow.int64()))
    return arrow.DictionaryArray.from_arrays(numbers, encoded.dictionary)
