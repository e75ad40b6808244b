"""The headers of a trusted proxy, and what they may not do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from redvsblue_telemetry.collector.http.forwarded import as_forwarded
from tests.collector.http.test_access import (
    ALLOWED,
    LET_IN,
    Asked,
    ask,
    asked,
    fetched,
    shake,
)
from tests.support.collector import RunningCollector, collector_running

__all__ = ["asked"]  # a fixture


@pytest.fixture(scope="module")
def trusting() -> Iterator[RunningCollector]:
    with collector_running(trust_proxy=True, insecure=True, hosts=(ALLOWED,)) as running:
        yield running


def scope(*lines: str, type: str = "http", path: str = "/api/stats") -> dict[str, Any]:
    pairs = [line.partition(": ") for line in lines]
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, _, value in pairs]
    plain = {"http": "http", "websocket": "ws"}[type]
    return {
        "type": type,
        "scheme": plain,
        "client": ("127.0.0.1", 4711),
        "path": path,
        "headers": headers,
    }


def test_request_without_the_headers_stays_as_it_is() -> None:
    assert as_forwarded(scope()) == scope()


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["X-Forwarded-For: 192.0.2.7"], "192.0.2.7"),
        (["X-Forwarded-For: 203.0.113.9, 192.0.2.7"], "192.0.2.7"),  # the client wrote the first
        (["X-Forwarded-For: 203.0.113.9", "X-Forwarded-For:  192.0.2.7 "], "192.0.2.7"),
        (["X-Forwarded-For: 192.0.2.7:4711"], "192.0.2.7"),
        (["X-Forwarded-For: 2001:DB8::7"], "2001:db8::7"),
        (["X-Forwarded-For: [2001:db8::7]:4711"], "2001:db8::7"),
        (["X-Forwarded-For: [2001:db8::7]"], "2001:db8::7"),
        (["X-Forwarded-For: fe80::7%\x1b[31m\x9b, all is well"], "127.0.0.1"),
        (["X-Forwarded-For: fe80::7%\x1b[31m\x9b all is well"], "fe80::7"),
        *(
            ([f"X-Forwarded-For: {value}"], "127.0.0.1")
            for value in ("unknown", "", ",", "192.0.2.7,", "\x1b[31m", "192.0.2.7 x", "999.0.0.1")
        ),
    ],
)
def test_client_is_the_last_address(lines: list[str], client: str) -> None:
    assert as_forwarded(scope(*lines))["client"][0] == client


@pytest.mark.parametrize(
    ("value", "is_secure"),
    [
        ("https", True),
        ("HTTPS", True),
        ("wss", True),
        ("http, https", True),
        ("https, http", False),
        ("http", False),
        ("gopher", False),
        ("", False),
    ],
)
def test_scheme_is_the_last_one(value: str, is_secure: bool) -> None:
    line = f"X-Forwarded-Proto: {value}"
    assert as_forwarded(scope(line))["scheme"] == ("https" if is_secure else "http")
    found = as_forwarded(scope(line, type="websocket"))["scheme"]
    assert found == ("wss" if is_secure else "ws")


@pytest.mark.parametrize(
    ("prefix", "path", "expected"),
    [
        ("/t", "/t/api/stats", "/api/stats"),
        ("/t/", "/t/", "/"),
        ("/a, /t", "/t/telemetry", "/telemetry"),
        ("/t", "/api/stats", "/api/stats"),  # the proxy has removed it
        ("/t", "/t", "/t"),
        ("/t", "/tt/api", "/tt/api"),
        ("t", "t/api", "t/api"),
        ("/", "//api", "//api"),
        ("", "/api", "/api"),
    ],
)
def test_path_loses_the_prefix(prefix: str, path: str, expected: str) -> None:
    assert as_forwarded(scope(f"X-Forwarded-Prefix: {prefix}", path=path))["path"] == expected


def test_origin_is_compared_with_what_the_proxy_was_asked_for(
    trusting: RunningCollector, asked: Asked
) -> None:
    host = f"X-Forwarded-Host: {ALLOWED}:8443"
    tls = "X-Forwarded-Proto: https"
    assert asked(trusting, host, tls, f"Origin: https://{ALLOWED}:8443").status in LET_IN
    for origin in (f"http://{ALLOWED}:8443", f"https://{ALLOWED}", "http://127.0.0.1:{port}"):
        assert asked(trusting, host, tls, f"Origin: {origin}").status == 403


def test_neither_host_may_be_unknown(trusting: RunningCollector, asked: Asked) -> None:
    # The script of a page whose name was made to lead here can set the one, but not the other.
    lines = ("X-Forwarded-Host: 127.0.0.1", *fetched("same-origin cors empty"))
    assert asked(trusting, *lines, host="evil.example").status == 421
    for host in ("evil.example", f"{ALLOWED}, evil.example"):
        answer = asked(trusting, f"X-Forwarded-Host: {host}")
        assert answer.status == 421
        assert "evil.example" in answer.json()["error"]
    assert asked(trusting, f"X-Forwarded-Host: evil.example, {ALLOWED}").status in LET_IN


def test_prefix_is_removed_for_all_alike(trusting: RunningCollector) -> None:
    line = "X-Forwarded-Prefix: /t"
    for target in ("/t/", "/t/static/app.js", "/t/api/stats", "/t/healthz", "/api/stats"):
        assert ask(trusting, line, target=target).status == 200
    assert shake(trusting, line, target="/t/telemetry").status == 101
    assert ask(trusting, target="/t/api/stats").status == 404


def test_prefix_does_not_get_around_the_token() -> None:
    with collector_running(trust_proxy=True, token="sesame") as collector:
        for prefix, target in (
            ("/api", "/api/healthz"),
            ("/healthz", "/healthz/api/stats"),
            ("/t", "/t/api/stats"),
        ):
            answer = ask(collector, f"X-Forwarded-Prefix: {prefix}", target=target)
            assert (answer.status, answer.body) in {(200, b"ok\n"), (401, answer.body)}


def test_nothing_is_believed_unless_asked_to(asked: Asked) -> None:
    with collector_running(hosts=(ALLOWED,)) as collector:
        lines = (f"X-Forwarded-Host: {ALLOWED}", "X-Forwarded-Proto: https")
        assert asked(collector, *lines, f"Origin: https://{ALLOWED}").status == 403
        assert asked(collector, *lines, "Origin: http://127.0.0.1:{port}").status in LET_IN
        target = "/t/telemetry" if asked is shake else "/t/api/stats"
        assert asked(collector, "X-Forwarded-Prefix: /t", target=target).status == 404
