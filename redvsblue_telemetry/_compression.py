"""Compression of messages: the encodings that both sides know, and their bounds.

A client offers its encodings in the handshake, and a server picks one; see the page on the wire
protocol. A compressed message is a binary message, and it is compressed by itself, so the same text
gives the same bytes whenever it is sent. The SDK packs and the collector unpacks, so both import
this.

The compressors release the interpreter lock while they work.
"""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Any

__all__ = [
    "DEFLATE",
    "MAX_RATIO",
    "ZSTD",
    "CompressionError",
    "TooLargeError",
    "choose",
    "pack",
    "supported",
    "unpacker",
]

DEFLATE = "deflate"
"""The zlib format (:rfc:`1950`), as in HTTP."""
ZSTD = "zstd"
"""One frame of Zstandard (:rfc:`8878`)."""
MAX_RATIO = 100
"""The most bytes of text per byte of a compressed message. Text beyond it is sent as text."""

_MIN_BYTES = 256  # a single event of 205 bytes would take 170, and more time than ten of a batch
_MAX_SHARE = 0.9  # of its size that compressed text may have
# Bytes and CPU time of an event of 203 bytes, in batches of 50 (CPython 3.11, one core of a small
# machine): zlib 4 takes 28.1 bytes and 1.8 µs; 5, 26.5 and 2.0; 6, 26.3 and 2.4; 9, 25.4 and 3.0.
# Neither a smaller window nor another memLevel is better. zstd 1 takes 24.9 bytes and 0.4 µs; 3,
# 25.5 and 0.5; 5, 23.5 and 1.3; 6, 22.3 and 1.8; 9, 22.2 and 3.1. The collector's benchmark, in
# which the clients share two cores with it, takes 0.91 of the rate of text with zstd 1, and 0.85
# with zstd 6.
_ZLIB_LEVEL = 5
_ZSTD_LEVEL = 1
_MAX_WINDOW_LOG = 23  # 8 MB, which a decompressor has to support (RFC 8878, section 3.1.1.1.2)


class CompressionError(ValueError):
    """A message is not what its encoding allows."""


class TooLargeError(CompressionError):
    """A message would unpack to more than is allowed."""


def supported() -> tuple[str, ...]:
    """Return the encodings that this Python has, the best one first.

    The first call imports what there is, which takes milliseconds.
    """
    return (DEFLATE,) if _zstd() is None else (ZSTD, DEFLATE)


@functools.lru_cache(maxsize=1)
def _zstd() -> Any:
    """Return the zstd module; None if it is missing or can't be imported."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415
        else:
            from backports import zstd  # noqa: PLC0415
    except Exception:  # a broken package, or a file of the game that hides it
        return None
    return zstd


def choose(offered: str, supported: Iterable[str]) -> str | None:
    """Return the first supported encoding that a header offers; None if it offers none."""
    names = {name.strip().lower() for name in offered.split(",")}
    return next((encoding for encoding in supported if encoding in names), None)


def pack(encoding: str) -> Callable[[bytes], bytes | None]:
    """Return a function that compresses a text, or returns None if it should be sent as text."""
    compress = _compress_zstd() if encoding == ZSTD else _compress_deflate

    def packed(text: bytes) -> bytes | None:
        if len(text) < _MIN_BYTES:
            return None
        message = compress(text)
        pays = len(message) <= len(text) * _MAX_SHARE
        return message if pays and len(text) <= len(message) * MAX_RATIO else None

    return packed


def _compress_deflate(text: bytes) -> bytes:
    return zlib.compress(text, _ZLIB_LEVEL)


def _compress_zstd() -> Callable[[bytes], bytes]:
    zstd = _zstd()
    # Used again for each frame: a new one each time, with new tables, takes 15 to 30 µs more. The
    # frames are those that a new one would write.
    compressor = zstd.ZstdCompressor(level=_ZSTD_LEVEL)

    def compress(text: bytes) -> bytes:
        frame: bytes = compressor.compress(text, compressor.FLUSH_FRAME)
        return frame

    return compress


def unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """Return a function that unpacks a message, given the most bytes that the text may have.

    It raises TooLargeError for a message with a longer text, or with more than ``MAX_RATIO`` bytes
    of text per byte, before it has unpacked more than that; and CompressionError for one that is
    malformed, cut off, or followed by other bytes.
    """
    return _unpack_zstd() if encoding == ZSTD else _unpack_deflate


def _unpack_deflate(message: bytes, most: int) -> bytes:
    most = min(most, len(message) * MAX_RATIO)
    decompressor = zlib.decompressobj()
    try:
        text = decompressor.decompress(message, most + 1)
    except zlib.error as error:
        raise CompressionError(f"not the zlib format: {error}") from None
    return _checked(text, most, is_whole=decompressor.eof and not decompressor.unused_data)


def _unpack_zstd() -> Callable[[bytes, int], bytes]:
    zstd = _zstd()
    options = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}

    def unpack(message: bytes, most: int) -> bytes:
        most = min(most, len(message) * MAX_RATIO)
        decompressor = zstd.ZstdDecompressor(options=options)
        try:
            text: bytes = decompressor.decompress(message, most + 1)
        except zstd.ZstdError as error:
            raise CompressionError(f"not a Zstandard frame: {error}") from None
        return _checked(text, most, is_whole=decompressor.eof and not decompressor.unused_data)

    return unpack


def _checked(text: bytes, most: int, *, is_whole: bool) -> bytes:
    if len(text) > most:
        raise TooLargeError(f"unpacks to more than {most} bytes")
    if not is_whole:
        raise CompressionError("cut off, or followed by other bytes")
    return text
