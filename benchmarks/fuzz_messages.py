"""Compressed messages as a hostile client sends them, which must cost the collector no more.

Each input is a compressed text: one that a game may send, noise, or one that packs many bytes into
few. Most are mutated after that, and some are cut into blocks or packed with odd settings first. It
goes through the functions by which the collector unpacks and reads a message. Failures are: any
exception other than :class:`CompressionError`, text above one of the two bounds, other text than
was packed if the message is as it was, bytes after it that are ignored, a refusal of a message that
keeps to the bounds, and data of an event that is not in the text.
"""

from __future__ import annotations

import functools
import json
import random
import zlib
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Failure, mutated
from redvsblue_telemetry import _compression
from redvsblue_telemetry._compression import (
    DEFLATE,
    MAX_RATIO,
    CompressionError,
    TooLargeError,
    pack,
    supported,
    unpacker,
)
from redvsblue_telemetry.collector.messages import read_message

__all__ = ["try_message"]

LIMITS = (100, 4096, 65536, 1 << 20)  # of the text, in bytes; the last one is the collector's
LONG = 1 << 15  # the most bytes of a text that packs many into few, but for one in a thousand
LONGEST = 1 << 22
SHARE_UNCHANGED = 0.2


# Texts.


def event(rng: random.Random, seq: int) -> bytes:
    """Return an event as a game sends it."""
    return json.dumps(
        {
            "sessionId": "4b4a3526cd94432abc36f824c39b93a8",
            "id": f"57684c897f354d03-{seq}",
            "seq": seq,
            "type": rng.choice(("ship_hit", "bullet_fired", "é🚀")),
            "timestamp": 1_795_479_878_536 + seq,
            "data": {"ship": f"red-{rng.randrange(9)}", "x": round(rng.random() * 800, 2)},
        },
        ensure_ascii=rng.random() < 0.5,
        separators=(",", ":"),
    ).encode()


def events_of(rng: random.Random) -> bytes:
    events = [event(rng, seq) for seq in range(1, rng.choice((1, 2, 5, 20, 50)) + 1)]
    return b"[" + b",".join(events) + b"]" if rng.random() < 0.7 else b"\n".join(events) + b"\n"


def report(rng: random.Random) -> bytes:
    fields = {"sessionId": "s", "number": rng.randrange(9), "state": "running", "startedAt": 1}
    return json.dumps({"report": fields | {"at": 2, "lastSeq": rng.choice((0, 5, -1))}}).encode()


def packable(rng: random.Random) -> bytes:
    """Return a text that packs into a small part of its size."""
    unit = rng.choice((b"\0", b"[", b"7,", b"{}\n", b'{"a":', event(rng, 1) + b","))
    most = LONGEST if rng.random() < 0.001 else LONG
    text = unit * (rng.randrange(most) // len(unit))
    return b"[" + text + b"]" if rng.random() < 0.3 else text


def noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 100, 5000)))


# Messages.


def packed(rng: random.Random, encoding: str, text: bytes) -> bytes:
    """Compress a text as the SDK does, or with any other settings that the format allows."""
    kind = rng.randrange(4)
    if kind == 0 and (message := pack(encoding)(text)) is not None:
        return message
    compressor = _compressor(rng, encoding)
    if kind == 1:  # in several blocks, and sometimes in very many
        flush = _block_flush(encoding)
        step = max(1, len(text) // rng.choice((2, 10, 200)))
        pieces = [text[at : at + step] for at in range(0, len(text), step)]
        blocks = [compressor.compress(piece) + compressor.flush(flush) for piece in pieces]
        return b"".join([*blocks, compressor.flush()])
    return bytes(compressor.compress(text) + compressor.flush())


def _compressor(rng: random.Random, encoding: str) -> Any:
    if encoding == DEFLATE:
        strategy = rng.choice((zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY))
        return zlib.compressobj(rng.randrange(10), zlib.DEFLATED, rng.randrange(9, 16), 8, strategy)
    zstd = _compression._zstd()
    assert zstd is not None
    parameters = zstd.CompressionParameter
    options = {
        parameters.compression_level: rng.choice((-5, 1, 3, 5)),
        parameters.window_log: rng.choice((10, 17, 20)),
        parameters.checksum_flag: rng.randrange(2),
    }
    return zstd.ZstdCompressor(options=options)


def _block_flush(encoding: str) -> int:
    if encoding == DEFLATE:
        return zlib.Z_FULL_FLUSH
    zstd = _compression._zstd()
    assert zstd is not None
    return int(zstd.ZstdCompressor.FLUSH_BLOCK)


@functools.lru_cache(maxsize=2)
def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    return unpacker(encoding)


# One input.


def try_message(rng: random.Random) -> str:
    """Unpack and read one input; return how it ended."""
    encoding = rng.choice(supported())
    text = rng.choice((events_of, events_of, report, packable, noise))(rng)
    whole = packed(rng, encoding, text)
    message = whole if rng.random() < SHARE_UNCHANGED else mutated(rng, whole)
    if rng.random() < 0.05:
        message = message[: rng.randrange(len(message) + 1)]
    limit = rng.choice(LIMITS)
    most = min(limit, MAX_RATIO * len(message))
    try:
        unpacked = _unpacker(encoding)(message, limit)
    except TooLargeError:
        if message == whole and len(text) <= most:
            raise Failure(f"{len(text)} bytes of text are too many for {most}") from None
        return f"{encoding}: too large"
    except CompressionError as error:
        if message == whole:
            raise Failure(f"refused as it was packed: {error}") from None
        return f"{encoding}: malformed"
    if len(message) > len(whole) and message.startswith(whole):
        raise Failure("bytes after the message were ignored")
    if len(unpacked) > most:
        raise Failure(f"{len(unpacked)} bytes of text came through a limit of {most}")
    if message == whole and unpacked != text:
        raise Failure("other text than was packed")
    found = read_message(unpacked)
    if any(bytes(event.data) not in unpacked for event in found.events):
        raise Failure("an event has data that was not sent")
    changed = "as it was" if unpacked == text else "as other text"
    return f"{encoding}: unpacked {changed}, {'some' if found.rejected else 'none'} rejected"
