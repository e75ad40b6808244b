"""Which texts are compressed, and how: the half of the encodings that the SDK uses."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest

from redvsblue_telemetry import _compression
from redvsblue_telemetry._compression import (
    DEFLATE,
    MAX_RATIO,
    ZSTD,
    choose,
    pack,
    supported,
    unpacker,
)
from tests.support import REPOSITORY

LARGEST_BATCH = 262_144  # bytes
ENCODINGS = pytest.mark.parametrize(
    "encoding",
    [
        DEFLATE,
        pytest.param(
            ZSTD, marks=pytest.mark.skipif(ZSTD not in supported(), reason="needs backports.zstd")
        ),
    ],
)


def event(number: int) -> bytes:
    place = random.Random(number)
    return (
        b'{"sessionId":"5d4496d34d0846469979e2ef50516d93","id":"c069263d72604467-%d","seq":%d,'
        b'"type":"bullet_fired","timestamp":%d,"data":{"shipId":"blue-%d","x":%.1f,"y":%.1f,'
        b'"heading":%.1f}}'
        % (
            number,
            number,
            1_795_600_000_000 + 10 * number,
            place.randrange(8),
            place.uniform(0, 1280),
            place.uniform(0, 720),
            place.uniform(-180, 180),
        )
    )


def batch(count: int, first: int = 1) -> bytes:
    return b"[" + b",".join(map(event, range(first, first + count))) + b"]"


@ENCODINGS
@pytest.mark.parametrize("count", [2, 50, 1200])
def test_a_batch_is_packed_and_unpacks_to_the_same_text(encoding: str, count: int) -> None:
    text = batch(count)
    packed = pack(encoding)(text)
    assert packed is not None
    assert len(packed) < len(text) * (0.7 if count == 2 else 0.18)
    assert unpacker(encoding)(packed, LARGEST_BATCH) == text


def test_deflate_is_the_zlib_format() -> None:
    packed = pack(DEFLATE)(batch(50))
    assert packed is not None
    assert zlib.decompress(packed) == batch(50)


@pytest.mark.skipif(ZSTD not in supported(), reason="needs backports.zstd")
def test_zstd_is_one_frame_with_the_size_of_its_text() -> None:
    packed = pack(ZSTD)(batch(50))
    assert packed is not None
    zstd = _compression._zstd()
    assert zstd.get_frame_size(packed) == len(packed)
    assert zstd.get_frame_info(packed).decompressed_size == len(batch(50))


@ENCODINGS
def test_the_same_text_gives_the_same_bytes_whenever_it_is_packed(encoding: str) -> None:
    texts = [batch(count, first) for first, count in enumerate((50, 1200, 2, 51, 50, 300))]
    once, again = pack(encoding), pack(encoding)
    first = list(map(once, texts))
    assert list(map(once, reversed(texts))) == first[::-1]
    assert list(map(again, texts)) == first
    assert [pack(encoding)(text) for text in texts] == first


@ENCODINGS
@pytest.mark.parametrize(
    "text",
    [b"[]", event(1), os.urandom(4096).hex().encode()[:255], os.urandom(10_000)],
    ids=["empty", "one event", "short", "random"],
)
def test_a_text_for_which_it_does_not_pay_is_not_packed(encoding: str, text: bytes) -> None:
    assert pack(encoding)(text) is None


@ENCODINGS
def test_a_text_that_a_server_would_take_for_a_bomb_is_not_packed(encoding: str) -> None:
    pad = b"a" * LARGEST_BATCH
    assert pack(encoding)(pad) is None
    # Random text in front makes it larger when it is packed, until the ratio is allowed.
    size = next(
        size
        for size in range(0, 20_000, 16)
        if pack(encoding)(random.Random(1).randbytes(size) + pad) is not None
    )
    assert size > 0
    text = random.Random(1).randbytes(size) + pad
    packed = pack(encoding)(text)
    assert packed is not None
    assert MAX_RATIO * 0.9 < len(text) / len(packed) <= MAX_RATIO
    assert unpacker(encoding)(packed, len(text)) == text


@ENCODINGS
def test_the_interpreter_is_free_while_a_text_is_packed(encoding: str) -> None:
    # Nobody is made to give up the interpreter, so this thread runs only if the other lets it.
    text, packed = batch(1200), pack(encoding)
    seen, steps = threading.Event(), []

    def work() -> None:
        for number in range(200):
            steps.append(number)
            packed(text)
            if seen.is_set():
                return
        steps.append(-1)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=work)
    sys.setswitchinterval(1000)
    try:
        thread.start()
        while not steps:
            time.sleep(0.0001)
        seen.set()
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert steps[-1] != -1, "it kept the interpreter"


def test_zstd_comes_first_where_there_is_one() -> None:
    assert supported() in ((ZSTD, DEFLATE), (DEFLATE,))


@pytest.mark.parametrize(
    ("offered", "known", "chosen"),
    [
        ("zstd, deflate", (ZSTD, DEFLATE), ZSTD),
        ("deflate, zstd", (ZSTD, DEFLATE), ZSTD),
        ("deflate,ZSTD", (DEFLATE,), DEFLATE),
        (" Deflate ", (ZSTD, DEFLATE), DEFLATE),
        ("gzip, br", (ZSTD, DEFLATE), None),
        ("zstd;q=1", (ZSTD, DEFLATE), None),
        ("", (ZSTD, DEFLATE), None),
        ("zstd, deflate", (), None),
    ],
)
def test_a_server_picks_the_first_of_its_own_that_is_offered(
    offered: str, known: tuple[str, ...], chosen: str | None
) -> None:
    assert choose(offered, known) == chosen


BROKEN = {
    "it can't be imported": "raise ImportError('no DLL')",
    "it is broken": "raise OSError('not an ELF file')",
    "it is something else": "compressor = None",
}


@pytest.mark.parametrize("code", BROKEN.values(), ids=BROKEN)
def test_a_package_that_is_broken_counts_as_none(code: str, tmp_path: Path) -> None:
    name = "compression" if sys.version_info >= (3, 14) else "backports"
    if code.startswith("compressor"):
        (tmp_path / f"{name}.py").write_text(code)
    else:
        (tmp_path / name / "zstd").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "zstd" / "__init__.py").write_text(code)
    script = "from redvsblue_telemetry import _compression; print(_compression.supported())"
    search = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert (result.stdout, result.stderr) == ("('deflate',)\n", "")
