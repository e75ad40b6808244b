"""Proxies, as the environment names them: the tunnel, its secrets, and never a way around it."""

from __future__ import annotations

import base64
import errno
import os
import socket
import ssl
import sys
import time
from typing import Any

import pytest
import trustme

from redvsblue_telemetry import ConnectionState, start_telemetry, stop_telemetry
from redvsblue_telemetry._network.contract import LostKind
from redvsblue_telemetry._network.proxy import find_proxy
from redvsblue_telemetry.testing import RecordingServer
from tests.support.closing import ENDS_FIRST, reset
from tests.support.connect_proxy import ESTABLISHED, ConnectProxy, relay_to
from tests.support.ports import own_port
from tests.support.raw_server import read_to_the_end
from tests.support.sdk import QUICK, delivers, failure
from tests.support.sockets import HOST, connect_fails, server_context, system_text
from tests.support.systems import not_under_wine
from tests.support.wait import wait_until

TO_LOOPBACK = {HOST: "127.0.0.1"}  # which a ConnectProxy can resolve, and nobody else


# Which proxy.


@pytest.mark.parametrize(
    ("scheme", "variables", "is_used"),
    [
        ("ws", ["HTTP_PROXY"], True),
        ("ws", ["http_proxy"], True),
        ("ws", ["HTTPS_PROXY", "https_proxy"], False),
        ("ws", ["ALL_PROXY"], True),
        ("ws", ["all_proxy"], True),
        ("wss", ["HTTPS_PROXY"], True),
        ("wss", ["https_proxy"], True),
        ("wss", ["HTTP_PROXY", "http_proxy"], False),
        ("wss", ["ALL_PROXY"], True),
        ("wss", ["all_proxy"], True),
        ("ws", [], False),
    ],
)
def test_the_environment_says_which_proxy_is_used(
    scheme: str,
    variables: list[str],
    is_used: bool,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = None
    if scheme == "wss":
        context = server_context(authority.issue_cert("127.0.0.1"))
    with RecordingServer(ssl_context=context) as server, ConnectProxy() as proxy:
        for variable in variables:
            monkeypatch.setenv(variable, proxy.url)
        assert delivers(server.url, ssl_context=trusting)
        asked = [(request.method, request.target) for request in proxy.requests]
        assert asked == ([("CONNECT", f"127.0.0.1:{server.port}")] if is_used else [])
        assert proxy.connections == len(asked)


def test_the_most_specific_variable_wins(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy() as general, ConnectProxy() as upper, ConnectProxy() as lower:

        def used() -> list[int]:
            assert delivers(server.url)
            return [proxy.connections for proxy in (general, upper, lower)]

        monkeypatch.setenv("ALL_PROXY", general.url)
        assert used() == [1, 0, 0]
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{upper.port}")  # http:// is implied
        assert used() == [1, 1, 0]
        monkeypatch.setenv("http_proxy", f"{lower.url}/")
        assert used() == [1, 1, 1]
        monkeypatch.delenv("ALL_PROXY")
        monkeypatch.setenv("http_proxy", "")
        assert used() == [1, 1, 1]


@pytest.mark.parametrize(
    ("host", "exempt", "is_used"),
    [
        ("127.0.0.1", "127.0.0.1", False),
        ("127.0.0.1", "other.invalid, 127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1:{port}", False),
        ("127.0.0.1", "127.0.0.1:1", True),
        ("127.0.0.1", "*", False),
        ("127.0.0.1", "27.0.0.1", True),
        ("localhost", "localhost", False),
        ("localhost", "LocalHost", False),
        (f"eu.{HOST}", HOST, False),
        (f"eu.{HOST}", f".{HOST}", False),
        (f"eu.{HOST}", "ame.invalid", True),
        ("[::1]", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.0/8", False),
        ("127.0.0.1", "10.0.0.0/8, 127.0.0.1/31", False),
        ("127.0.0.1", "10.0.0.0/8", True),
        ("localhost", "127.0.0.0/8", True),  # names are not resolved for it
    ],
)
def test_no_proxy_exempts_hosts_suffixes_ports_and_blocks_of_addresses(
    host: str,
    exempt: str,
    is_used: bool,
    server: RecordingServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {f"eu.{HOST}": "127.0.0.1", "::1": "127.0.0.1"}
    with ConnectProxy(hosts=names) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", exempt.format(port=server.port))
        url = f"ws://{host}:{server.port}/"
        if not is_used and host.endswith(HOST):
            assert "can't be resolved" in failure(url)  # since nobody but the proxy can
        else:
            assert delivers(url)
        assert proxy.connections == is_used


@pytest.mark.parametrize(
    ("host", "exempt", "is_used"),
    [
        ("10.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.9.9.9/8", False),  # the bits behind the prefix don't count
        ("10.1.2.3", "10.1.2.3/32", False),
        ("10.1.2.3", "10.1.2.4/32", True),
        ("10.1.2.3", "0.0.0.0/0", False),
        ("10.1.2.3", "10.0.0.0/33,10.0.0.0/x,10/8,/8,/", True),
        ("fe80::1", "FE80::/10", False),
        ("fe80::1", "fe80::/10, 10.0.0.0/8", False),
        ("2001:db8::1", "fe80::/10", True),
        ("::1", "127.0.0.0/8", True),
        ("fe80::1%eth0", "fe80::/10", False),
        ("10.example.com", "10.0.0.0/8", True),
    ],
)
def test_blocks_of_addresses_that_need_no_proxy(
    host: str, exempt: str, is_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:3128")
    monkeypatch.setenv("no_proxy", exempt)
    assert (find_proxy(host, 3000, is_secure=True) is not None) == is_used


def test_the_environment_is_looked_at_anew_for_each_attempt(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy() as proxy:
        telemetry = start_telemetry(**QUICK, url=server.url)
        assert server.wait_for_connection()
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        server.disconnect()
        assert wait_until(lambda: proxy.requests)
        telemetry.emit("x")
        assert telemetry.flush(10)
        assert telemetry.stop(1)


# The tunnel.


def test_the_name_is_the_proxy_s_to_resolve_and_only_the_proxy_is_looked_up(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []
    look_up = socket.getaddrinfo

    def note(host: Any, *args: Any, **more: Any) -> Any:
        looked_up.append(host)
        return look_up(host, *args, **more)

    with ConnectProxy(hosts=TO_LOOPBACK) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setattr(socket, "getaddrinfo", note)
        assert delivers(f"ws://{HOST}:{server.port}/")
        assert [request.target for request in proxy.requests] == [f"{HOST}:{server.port}"]
        assert proxy.requests[0].headers["host"] == f"{HOST}:{server.port}"
    assert HOST not in looked_up
    assert server.requests[0].headers["Host"] == f"{HOST}:{server.port}"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("ws://[::1]:{port}/", "[::1]:{port}"),
        ("ws://[2001:db8::7]:{port}/", "[2001:db8::7]:{port}"),
        ("ws://spiel.invalid:{port}/", "spiel.invalid:{port}"),
    ],
)
def test_the_target_is_written_as_http_wants_it(
    url: str, target: str, server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = dict.fromkeys(("::1", "2001:db8::7", "spiel.invalid"), "127.0.0.1")
    with ConnectProxy(hosts=hosts) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert delivers(url.format(port=server.port))
        assert proxy.requests[0].target == target.format(port=server.port)


@pytest.mark.parametrize(("scheme", "port"), [("ws", 80), ("wss", 443)])
def test_a_url_without_a_port_means_the_scheme_s_own(
    scheme: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(script=lambda client: None) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        assert "proxy" in failure(f"{scheme}://{HOST}/")
        assert proxy.requests[0].target == f"{HOST}:{port}"


def test_tls_through_the_tunnel_verifies_the_server_s_name(
    secure_server: RecordingServer, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(hosts=TO_LOOPBACK) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert delivers(f"wss://{HOST}:{secure_server.port}/", ssl_context=trusting)


def test_a_certificate_for_the_proxy_s_name_is_none_for_the_server_s(
    authority: trustme.CA, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = server_context(authority.issue_cert("127.0.0.1", "localhost"))
    with (
        RecordingServer(ssl_context=context) as server,
        ConnectProxy(hosts=TO_LOOPBACK) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://localhost:{proxy.port}")
        words = failure(f"wss://{HOST}:{server.port}/", ssl_context=trusting)
        assert "certificate was rejected" in words
        assert HOST in words
        assert not server.requests


def test_a_large_store_goes_through_the_tunnel_in_order(
    secure_server: RecordingServer, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(hosts=TO_LOOPBACK) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        telemetry = start_telemetry(
            **QUICK, url=f"wss://{HOST}:{secure_server.port}/", ssl_context=trusting
        )
        for number in range(1000):
            telemetry.emit("x", i=number, text="y" * 2000)
        assert telemetry.flush(20)
        proxy.cut()
        telemetry.emit("after")
        assert telemetry.flush(20)
        seqs = [event["seq"] for event in secure_server.events]
        assert list(dict.fromkeys(seqs)) == list(range(1, 1002))
        assert telemetry.stop(2)


# Secrets.


@pytest.mark.parametrize(
    ("in_the_url", "credentials"),
    [
        ("player:open-sesame", "player:open-sesame"),
        ("pl%40yer:p%3Ass%2Fw%20rd%25", "pl@yer:p:ss/w rd%"),
        ("j%C3%BCrgen:stra%C3%9Fe", "jürgen:straße"),
        ("player", "player:"),
        ("player:", "player:"),
        (":open-sesame", ":open-sesame"),
    ],
)
def test_the_credentials_in_the_proxy_s_url_are_its_basic_authorization(
    in_the_url: str,
    credentials: str,
    server: RecordingServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ConnectProxy(credentials=credentials) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{in_the_url}@127.0.0.1:{proxy.port}")
        assert delivers(server.url)
        assert len(proxy.requests) == 1  # asked for nothing twice
    assert "Proxy-Authorization" not in server.requests[0].headers


@pytest.mark.parametrize("credentials", ["", "player:wrong-horse@"])
def test_a_proxy_that_wants_other_credentials_says_so_and_they_stay_out_of_the_logs(
    credentials: str,
    server: RecordingServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    with ConnectProxy(credentials="player:open-sesame") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{credentials}127.0.0.1:{proxy.port}")
        telemetry = start_telemetry(**QUICK, url=server.url)
        assert wait_until(lambda: len(proxy.requests) >= 2)  # and it goes on trying
        shown = f"{telemetry.stats()} {telemetry!r} {telemetry.settings!r} {caplog.text}"
        stop_telemetry(1)
        assert ("proxy-authorization" in proxy.requests[0].headers) == bool(credentials)
    fault = "requires valid credentials (HTTP status 407)"
    assert f"the proxy 127.0.0.1:{proxy.port} {fault}" in shown
    encoded = base64.b64encode(credentials.rstrip("@").encode()).decode() or "wrong-horse"
    for secret in ("wrong-horse", "open-sesame", encoded):
        assert secret not in shown + caplog.text
    assert not server.requests


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_the_proxy_is_told_no_token_and_no_header_of_the_server_s(
    scheme: str,
    server: RecordingServer,
    secure_server: RecordingServer,
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = server if scheme == "ws" else secure_server
    with ConnectProxy(hosts=TO_LOOPBACK) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        url = f"{scheme}://{HOST}:{target.port}/secret-path?q=secret-query"
        headers = {"X-Game": "secret-header"}
        assert delivers(url, token="secret-token", headers=headers, ssl_context=trusting)
        (request,) = proxy.requests
        assert b"secret" not in request.raw
        assert set(request.headers) == {"host"}
    assert target.requests[0].headers["Authorization"] == "Bearer secret-token"
    assert target.requests[0].headers["X-Game"] == "secret-header"


# Trouble.


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", LostKind.PROXY_AUTH),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nhush", LostKind.PROXY),
        (b"HTTP/1.1 429 No\r\nRetry-After: 9\r\n\r\n", LostKind.PROXY),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/hush\r\n\r\n", LostKind.PROXY),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", LostKind.PROXY),
        (b"SSH-2.0-hush\r\n\r\n", LostKind.PROXY),
        (b"HTTP/1.1 200", LostKind.PROXY),
        (b"", LostKind.PROXY),
        (b"HTTP/1.1 200 OK\r\n" + b"X: hush\r\n" * 20_000, LostKind.PROXY),
        (ESTABLISHED + b"hush", LostKind.PROXY),
    ],
)
def test_a_proxy_that_opens_no_tunnel_is_blamed_and_not_gone_around(
    answer: bytes, kind: LostKind, server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(script=lambda client: client.sendall(answer)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//player:hush@"))
        lost = connect_fails(server.url, token="hush")
    assert lost.kind is kind
    # The status and the wishes of a proxy are not taken for the server's.
    assert (lost.status, lost.retry_after) == (None, None)
    assert str(lost).startswith(f"the proxy 127.0.0.1:{proxy.port} ")
    assert "hush" not in str(lost)
    assert "player" not in str(lost)
    assert not server.requests


@not_under_wine(ENDS_FIRST)
def test_a_proxy_that_resets_the_connection_is_named(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(script=reset) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        lost = connect_fails(server.url)
    assert (lost.kind, lost.errno) == (LostKind.PROXY, errno.ECONNRESET)
    name = f"127.0.0.1:{proxy.port}"
    assert str(lost) == f"the proxy {name} opened no tunnel: {system_text(errno.ECONNRESET)}"


def test_a_forked_child_on_macos_asks_only_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("urllib.request.getproxies", lambda: pytest.fail("the system is asked"))
    with pytest.raises(pytest.fail.Exception):
        find_proxy("game.invalid", 80, is_secure=False)
    monkeypatch.setattr("redvsblue_telemetry._network.proxy._PROCESS", os.getpid() + 1)
    assert find_proxy("game.invalid", 80, is_secure=False) is None
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    found = find_proxy("game.invalid", 80, is_secure=False)
    assert found is not None
    assert found.host == "proxy.invalid"


def test_a_proxy_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with ConnectProxy() as proxy:
        pass
    monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//player:hush@"))
    lost = connect_fails("ws://game.invalid/")
    assert (lost.kind, lost.errno) == (LostKind.TCP, errno.ECONNREFUSED)
    name = f"127.0.0.1:{proxy.port}"
    assert str(lost) == f"the proxy {name} can't be reached: {system_text(errno.ECONNREFUSED)}"


def test_a_proxy_by_an_ipv6_address_is_named_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://[::1]:1")
    assert "the proxy [::1]:1 can't be reached" in str(connect_fails("ws://game.invalid/"))


def test_a_proxy_is_named_where_tls_fails_behind_it(
    secure_server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        lost = connect_fails(secure_server.url)  # nobody trusts its certificate
    assert lost.kind is LostKind.CERTIFICATE
    assert str(lost).endswith(f" (through the proxy 127.0.0.1:{proxy.port})")


@pytest.mark.parametrize("host", ["a..b.example", "x" * 70 + ".example", ".example"])
def test_a_name_that_no_certificate_can_be_for(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy might resolve it, but TLS can't check it."""
    with ConnectProxy(script=lambda client: client.sendall(ESTABLISHED)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        lost = connect_fails(f"wss://{host}/")
    assert lost.kind is LostKind.NAME
    assert host in str(lost)


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        (
            "https://player:hush@127.0.0.1:{port}",
            LostKind.PROXY,
            "https:// proxy 127.0.0.1:{port} ",
        ),
        (
            "socks5://player:hush@127.0.0.1:{port}",
            LostKind.PROXY,
            "socks5:// proxy 127.0.0.1:{port} ",
        ),
        ("http://127.0.0.1:hush", LostKind.PROXY, "invalid"),
        ("http://127.0.0.1:99999", LostKind.PROXY, "invalid"),
        ("http://[::1", LostKind.PROXY, "invalid"),
        ("http://:80", LostKind.PROXY, "has no host"),
        ("http://player:hush@proxy.invalid:3128", LostKind.NAME, "the proxy proxy.invalid:3128 "),
    ],
)
def test_a_proxy_that_can_t_be_used_is_named_and_not_gone_around(
    url: str,
    kind: LostKind,
    words: str,
    server: RecordingServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ConnectProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", url.format(port=proxy.port))
        lost = connect_fails(server.url)
        assert proxy.connections == 0
    assert lost.kind is kind
    assert words.format(port=proxy.port) in str(lost)
    assert "hush" not in str(lost)
    assert "player" not in str(lost)
    assert not server.requests


def test_a_proxy_that_is_gone_is_waited_for_and_not_gone_around(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = own_port()
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
        name = f"127.0.0.1:{proxy.port}"
        fault = f"the proxy {name} opened no tunnel: timed out while connecting"
        assert failure(server.url, connect_timeout=0.3) == fault
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
