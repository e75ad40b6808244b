"""The frames that there are many of (:rfc:`6455`, section 5.2): what is sent, and pongs that come.

websocket-client makes and reads such frames, too, by way of several objects and, to make one, a
system call. Reading whatever else a server sends is left to it.
"""

from __future__ import annotations

import os
import struct

__all__ = ["MaskingKeys", "client_frame", "pong_end"]

_FIN = 0x80
_PONG = 0x8A  # with FIN
_LONGEST_CONTROL = 125
_MASKED = 0x80
_KEY_BYTES = 4
_SUPPLY = 4096  # bytes: a thousand keys for one system call
_MOST_ONES = 1 << 13  # words; enough for a usual batch


def _ones(words: int) -> int:
    """A number whose every 32-bit word is 1; times a key, it repeats the key."""
    return int.from_bytes(b"\1\0\0\0" * words, "little")


_ONES = _ones(_MOST_ONES)


def client_frame(opcode: int, payload: bytes, key: bytes) -> bytes:
    """A whole message or a control frame, masked.

    Args:
        opcode: as in :rfc:`6455`, section 11.8.
        payload: of any length; for a control frame, at most 125 bytes.
        key: four bytes that no one could foresee.
    """
    size = len(payload)
    words = (size + 3) // 4
    ones = _ONES >> 32 * (_MOST_ONES - words) if words <= _MOST_ONES else _ones(words)
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
    """Where the pong ends that begins at a position, two bytes before its payload.

    Returns:
        0 if there is something else, or not all of it yet.
    """
    if len(incoming) < start + 2 or incoming[start] != _PONG:
        return 0
    size = incoming[start + 1]
    end = start + 2 + size
    return end if size <= _LONGEST_CONTROL and end <= len(incoming) else 0


class MaskingKeys:
    """Fresh keys, drawn from the system's randomness. Used by the worker thread alone."""

    def __init__(self) -> None:
        self._supply = b""
        self._position = 0

    def next(self) -> bytes:
        """A key that was never given before."""
        if self._position >= len(self._supply):
            self._supply = os.urandom(_SUPPLY)
            self._position = 0
        self._position += _KEY_BYTES
        return self._supply[self._position - _KEY_BYTES : self._position]
