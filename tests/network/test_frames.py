"""The frames that a client sends, as the RFC, websocket-client and a real server read them."""

from __future__ import annotations

import os

import pytest
import websocket

from redvsblue_telemetry._network.frames import MaskingKeys, client_frame, pong_end

TEXT, PING = 0x1, 0x9


def test_the_example_of_the_rfc() -> None:
    # RFC 6455, section 5.7: "a single-frame masked text message"
    expected = bytes.fromhex("818537fa213d7f9f4d5158")
    assert client_frame(TEXT, b"Hello", bytes.fromhex("37fa213d")) == expected


@pytest.mark.parametrize(
    "size",
    [0, 1, 2, 3, 4, 5, 125, 126, 127, 1000, 65535, 65536, 65537, 262_144, 262_145, 1_000_001],
)
def test_a_frame_is_the_one_that_websocket_client_makes(size: int) -> None:
    payload, key = os.urandom(size), os.urandom(4)
    theirs = websocket.ABNF.create_frame(payload, websocket.ABNF.OPCODE_BINARY)
    theirs.get_mask_key = lambda _: key
    assert client_frame(websocket.ABNF.OPCODE_BINARY, payload, key) == theirs.format()


def test_a_ping_is_masked_too() -> None:
    assert client_frame(PING, b"7", b"\x01\x02\x03\x04") == b"\x89\x81\x01\x02\x03\x04\x36"


def test_keys_do_not_repeat_and_have_four_bytes() -> None:
    keys = MaskingKeys()
    drawn = [keys.next() for _ in range(5000)]
    assert {len(key) for key in drawn} == {4}
    assert len(set(drawn)) > 4990  # of four thousand million, a few may meet by chance
    assert drawn[:3] != [keys.next() for _ in range(3)]


@pytest.mark.parametrize(
    ("incoming", "start", "end"),
    [
        (b"\x8a\x011", 0, 3),
        (b"\x8a\x00", 0, 2),
        (b"xx\x8a\x0212\x8a\x013", 2, 6),
        (b"xx\x8a\x0212\x8a\x013", 6, 9),
        (b"\x8a\x7d" + b"1" * 125, 0, 127),
        (b"", 0, 0),
        (b"\x8a", 0, 0),  # not all of it yet
        (b"\x8a\x0212", 4, 0),
        (b"\x8a\x031", 0, 0),
        (b"\x0a\x011", 0, 0),  # in pieces, which no control frame may be
        (b"\xca\x011", 0, 0),  # with a reserved bit
        (b"\x8a\x81\x00\x00\x00\x001", 0, 0),  # masked, which no server may
        (b"\x8a\x7e\x00\x01" + b"1" * 126, 0, 0),  # longer than a control frame may be
        (b"\x81\x011", 0, 0),  # a text
    ],
)
def test_the_end_of_a_pong_is_found_and_of_nothing_else(
    incoming: bytes, start: int, end: int
) -> None:
    assert pong_end(incoming, start) == end
