"""Compression on the worker: what is offered, and the fallback to text."""

from __future__ import annotations

import logging
import zlib

import pytest

from redvsblue_telemetry import _compression
from redvsblue_telemetry._compression import DEFLATE, supported
from redvsblue_telemetry._delivery.packing import Packing

TEXT = b"the same again, " * 100


def prepared() -> Packing:
    packing = Packing(is_allowed=True)
    packing.prepare()
    return packing


def test_it_offers_what_there_is_once_it_has_looked() -> None:
    packing = Packing(is_allowed=True)
    assert packing.offers == ()
    packing.prepare()
    assert packing.offers == supported()


def test_it_offers_nothing_if_that_is_not_allowed() -> None:
    packing = Packing(is_allowed=False)
    packing.prepare()
    assert packing.offers == ()
    assert packing.begin(None)(TEXT) is None


def test_a_connection_without_an_encoding_has_texts() -> None:
    assert prepared().begin(None)(TEXT) is None


def test_one_connection_follows_another() -> None:
    packing = prepared()
    for _ in range(2):
        packed = packing.begin(DEFLATE)(TEXT)
        assert packed is not None
        assert zlib.decompress(packed) == TEXT
        assert packing.begin(None)(TEXT) is None


def test_an_encoding_that_fails_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def compress(text: bytes, level: int) -> bytes:
        tries.append(text)
        raise zlib.error("broken")

    packing = prepared()
    packed = packing.begin(DEFLATE)
    monkeypatch.setattr(_compression.zlib, "compress", compress)
    assert packed(TEXT) is packed(TEXT) is None
    assert packing.offers == tuple(other for other in supported() if other != DEFLATE)
    assert packing.begin(DEFLATE)(TEXT) is None
    assert len(tries) == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == [
        "can't compress messages with deflate; they are sent as text: error: broken"
    ]
