"""The frequent frames (:rfc:`6455`, section 5.2): all that are sent, and received pongs.

websocket-client reads the rare ones. It could build and read these too, but takes about three times
as long to build the ping that follows each batch, and 1.5 times as long for a batch of 2 kB: it
goes through several objects and makes a system call for each key. Compare (CPython 3.11,
websocket-client 1.9.2)::

    python -m timeit -s "import os, websocket; data = os.urandom(8)" \
        "websocket.ABNF.create_frame(data, 2).format()"
    python -m timeit -s "import os; from redvsblue_telemetry._network import frames" \
        -s "data = os.urandom(8); keys = frames.MaskingKeys()" \
        "frames.client_frame(2, data, keys.next())"

XOR of big integers instead of a loop over bytes is the technique of websocket-client issue 433 and
websockets pull request 1034.
"""

from __future__ import annotations

import os
import struct

__all__ = ["MaskingKeys", "client_frame", "pong_end"]

_FIN = 0x80
_PONG = 0x8A  # with FIN
_MAX_CONTROL_BYTES = 125
_MASKED = 0x80
_KEY_BYTES = 4
_KEY_SUPPLY_BYTES = 4096  # a thousand keys for one system call
_PREPARED_WORDS = 1 << 13  # enough for a usual batch


def _ones(words: int) -> int:
    """Return a number whose every 32-bit word is 1: multiplied by a key, it repeats the key."""
    return int.from_bytes(b"\1\0\0\0" * words, "little")


_ONES = _ones(_PREPARED_WORDS)


def client_frame(opcode: int, payload: bytes, key: bytes) -> bytes:
    """Return a complete message or control frame, masked.

    Args:
        opcode: as in :rfc:`6455`, section 11.8.
        payload: of any length; for a control frame, at most 125 bytes.
        key: four unpredictable bytes.
    """
    size = len(payload)
    words = (size + 3) // 4
    ones = _ONES >> 32 * (_PREPARED_WORDS - words) if words <= _PREPARED_WORDS else _ones(words)
    mask = int.from_bytes(key, "little") * ones
    masked = (int.from_bytes(payload, "little") ^ mask).to_bytes(words * 4, "little")
    if size < 126:
        head = struct.pack("!BB", _FIN | opcode, _MASKED | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", _FIN | opcode, _MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", _FIN | opcode, _MASKED | 127, size)
    return b"%b%b%b" % (head, key, masked[:size])


def pong_end(incoming: bytes, start: int) -> int:
    """Return the end of the pong that begins at ``start``.

    Its payload begins two bytes after ``start``. Returns 0 if another frame begins there, or if
    the pong is not complete yet.
    """
    if len(incoming) < start + 2 or incoming[start] != _PONG:
        return 0
    size = incoming[start + 1]
    end = start + 2 + size
    return end if size <= _MAX_CONTROL_BYTES and end <= len(incoming) else 0


class MaskingKeys:
    """Supplies random keys (:rfc:`6455`, section 10.3). Used by the worker thread only."""

    def __init__(self) -> None:
        self._supply = b""
        self._position = 0

    def next(self) -> bytes:
        """Return a fresh key."""
        if self._position >= len(self._supply):
            self._supply = os.urandom(_KEY_SUPPLY_BYTES)
            self._position = 0
        self._position += _KEY_BYTES
        return self._supply[self._position - _KEY_BYTES : self._position]
