"""A proxy in the way: it fails the attempt, is blamed for it, and is never gone around."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from redvsblue_telemetry import ConnectionState, start_telemetry
from redvsblue_telemetry.testing import RecordingServer
from tests.support.connect_proxy import ESTABLISHED, ConnectProxy, relay_to
from tests.support.raw_server import read_to_the_end
from tests.support.sdk import QUICK, delivers, failure
from tests.support.wait import wait_until


@pytest.fixture(autouse=True)
def no_proxies_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in tuple(os.environ):
        if variable.lower().endswith("_proxy") or variable == "REQUEST_METHOD":
            monkeypatch.delenv(variable)


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as server:
        yield server


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nhush", "403"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "502"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/hush\r\n\r\n", "302"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "101"),
        (b"SSH-2.0-hush\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200", "closed"),
        (b"", "closed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: hush\r\n" * 20_000, "too much data"),
        (ESTABLISHED + b"hush", "too much data"),
    ],
)
def test_a_proxy_that_makes_no_tunnel_fails_the_attempt_and_is_blamed(
    answer: bytes,
    words: str,
    server: RecordingServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ConnectProxy(script=lambda client: client.sendall(answer)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        reason = failure(server.url, token="hush")
        assert words in reason
        assert "proxy" in reason
    assert "hush" not in reason + caplog.text
    assert not server.requests


def test_a_proxy_that_is_gone_is_waited_for_and_not_gone_around(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy() as proxy:
        port = proxy.port
    states: list[ConnectionState] = []
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    telemetry = start_telemetry(**QUICK, url=server.url, on_state_change=states.append)
    telemetry.emit("kept")
    assert wait_until(lambda: states.count(ConnectionState.BACKING_OFF) >= 3)
    assert "refused" in str(telemetry.stats().last_error)
    assert not server.requests
    with ConnectProxy(port=port):
        assert telemetry.flush(10)
        assert telemetry.stop(1)
    assert [event["type"] for event in server.events] == ["kept"]


def test_a_proxy_whose_name_is_none_is_named(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://player:hush@proxy.invalid:3128")
    reason = failure(server.url)
    assert "proxy.invalid" in reason
    assert "hush" not in reason
    assert not server.requests


@pytest.mark.parametrize("scheme", ["https", "socks5", "socks5h", "socks4"])
def test_a_proxy_of_another_kind_is_refused_by_its_scheme_alone(
    scheme: str, server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy() as proxy:
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://player:hush@127.0.0.1:{proxy.port}")
        reason = failure(server.url)
        assert proxy.connections == 0
    assert f"{scheme}://" in reason
    assert "not supported" in reason
    assert "hush" not in reason
    assert "player" not in reason
    assert not server.requests


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:hush", "http://:80", "http://[::1", "http://127.0.0.1:99999"]
)
def test_a_proxy_that_is_no_address_fails_the_attempt_and_is_not_gone_around(
    url: str, server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", url)
    reason = failure(server.url)
    assert "proxy" in reason
    assert "hush" not in reason
    assert not server.requests


# Time.


def drip(client: socket.socket) -> None:
    client.settimeout(0.02)
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000:
        client.sendall(bytes([byte]))
        try:
            if not client.recv(1):  # paced by the timeout
                return
        except TimeoutError:
            continue


@pytest.mark.parametrize("script", [drip, read_to_the_end], ids=["drips", "says nothing"])
def test_the_proxy_s_part_is_under_the_same_deadline(
    script: Any, server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(script=script) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        start = time.monotonic()
        assert "timed out" in failure(server.url, connect_timeout=0.3)
        assert 0.3 <= time.monotonic() - start < 3
        assert len(proxy.requests) == 1


def test_a_proxy_that_answers_byte_by_byte_is_a_proxy_all_the_same(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"HTTP/1.0 200 yes\r\n\r\n":
            client.sendall(bytes([byte]))
            time.sleep(0.001)
        relay_to(server.port)(client)

    with ConnectProxy(script=script) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert delivers(server.url)


def test_a_stop_in_the_middle_of_the_proxy_s_answer_returns_in_time(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(script=drip) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        telemetry = start_telemetry(**QUICK, url=server.url, connect_timeout=60)
        telemetry.emit("x")
        assert wait_until(lambda: proxy.requests)
        start = time.monotonic()
        assert not telemetry.stop(0.3)
        assert time.monotonic() - start < 2
    assert telemetry.stats().dropped == 1


def test_a_name_that_is_none_is_not_blamed_on_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with ConnectProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert "é..example" in failure("ws://é..example/")
