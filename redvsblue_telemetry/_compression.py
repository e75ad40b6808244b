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

_MIN_BYTES = 256  # a shorter text is not worth it
_MAX_SHARE = 0.9  # of its size that compressed text may have
_ZLIB_LEVEL = 6
_ZSTD_LEVEL = 3
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
def _zstd() -> Any | None:
    """Return the module; None if there is none, or if it can't be imported."""
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
    compress: Callable[[bytes], bytes]
    if encoding == ZSTD:
        zstd: Any = _zstd()

        def compress(text: bytes) -> bytes:
            packed: bytes = zstd.compress(text, _ZSTD_LEVEL)
            return packed
    else:

        def compress(text: bytes) -> bytes:
            return zlib.compress(text, _ZLIB_LEVEL)

    def packed(text: bytes) -> bytes | None:
        if len(text) < _MIN_BYTES:
            return None
        message = compress(text)
        pays = len(message) <= len(text) * _MAX_SHARE
        return message if pays and len(text) <= len(message) * MAX_RATIO else None

    return packed


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
    zstd: Any = _zstd()
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
