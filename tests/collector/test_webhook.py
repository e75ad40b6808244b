"""Alerts posted to real servers: good ones, slow ones, broken ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from redvsblue_telemetry.collector import webhook as module
from redvsblue_telemetry.collector.alerting import try_webhooks
from redvsblue_telemetry.collector.webhook import Webhook, WebhookError, url_fault
from tests.support.collector import REFUSING_PORT
from tests.support.raw_server import raw_server, read_to_the_end
from tests.support.webhook import Receiver

SECRET = Receiver.SECRET
MESSAGE = b'{"text":"x"}'


def deliver(url: str, *messages: bytes, close_timeout: float = 20, **settings: Any) -> list[bool]:
    """Post messages as a collector does; return the outcomes, in order."""
    outcomes: list[bool] = []

    async def run() -> None:
        webhook = Webhook(url, outcomes.append, **{"delay": 0.01, "timeout": 10.0} | settings)
        for message in messages:
            webhook.put(message)
        await webhook.close(close_timeout)

    asyncio.run(run())
    return outcomes


def fault_of(url: str, timeout: float = 10.0) -> tuple[str, bool]:
    """Return why one attempt fails, and whether another one may succeed."""

    async def run() -> None:
        await Webhook(url, timeout=timeout).post(MESSAGE)

    with pytest.raises(WebhookError) as caught:
        asyncio.run(run())
    return str(caught.value), caught.value.is_temporary


def test_a_message_is_posted_as_json() -> None:
    with Receiver() as receiver:
        assert deliver(receiver.url, MESSAGE) == [True]
    ((path, headers, body),) = receiver.requests
    assert path == f"/services/{SECRET}?key={SECRET}"
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == f"127.0.0.1:{receiver.port}"
    assert body == MESSAGE


def test_several_messages_arrive_in_order() -> None:
    messages = [b"%d" % number for number in range(20)]
    with Receiver(500, 500, 500) as receiver:
        assert deliver(receiver.url, *messages) == [True] * 20
    assert receiver.bodies == [b"0"] * 3 + messages


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_temporary_failure_is_tried_again(status: int) -> None:
    with Receiver(status, status) as receiver:
        assert deliver(receiver.url, MESSAGE) == [True]
    assert receiver.bodies == [MESSAGE] * 3


def test_the_attempts_are_bounded_and_the_failure_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Receiver(*[500] * 100) as receiver:
        assert deliver(receiver.url, MESSAGE) == [False]
    assert len(receiver.requests) == 6
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "an alert was not delivered to 127.0.0.1: it answered with status 500"
    )


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_final(status: int, caplog: pytest.LogCaptureFixture) -> None:
    with Receiver(status) as receiver:
        assert deliver(receiver.url, MESSAGE) == [False]
    assert len(receiver.requests) == 1
    assert f"status {status}" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int, caplog: pytest.LogCaptureFixture) -> None:
    with Receiver(status) as receiver:
        assert deliver(receiver.url, MESSAGE) == [False]
    assert [path for path, _, _ in receiver.requests] == [f"/services/{SECRET}?key={SECRET}"]
    assert "redirects" in caplog.text
    assert SECRET not in caplog.text


def test_a_server_that_is_not_there_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    assert deliver(f"http://127.0.0.1:{REFUSING_PORT}/{SECRET}", MESSAGE) == [False]
    (record,) = caplog.records
    assert "not delivered to 127.0.0.1" in record.getMessage()
    assert SECRET not in caplog.text


def read_message(client: socket.socket) -> None:
    received = b""
    while not received.endswith(MESSAGE) and (chunk := client.recv(4096)):
        received += chunk


def hang(client: socket.socket) -> None:
    read_to_the_end(client)


def hang_up(client: socket.socket) -> None:
    read_message(client)


def drip(client: socket.socket) -> None:
    """Answer a byte at a time, each in less time than any timeout of a read."""
    read_message(client)
    with contextlib.suppress(OSError):
        client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            client.sendall(b"x")
            time.sleep(0.05)


def babble(client: socket.socket) -> None:
    read_message(client)
    client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n")


def flood(client: socket.socket) -> None:
    read_message(client)
    with contextlib.suppress(OSError):
        client.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            client.sendall(b"X: " + b"x" * 65_536)


def insist(client: socket.socket) -> None:
    """Answer with nothing but early hints."""
    read_message(client)
    with contextlib.suppress(OSError):
        while True:
            client.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            time.sleep(0.001)


@pytest.mark.parametrize("script", [hang, drip, insist])
def test_a_server_that_never_ends_its_answer_ends_an_attempt(script: Any) -> None:
    with raw_server(script) as port:
        fault = fault_of(f"http://127.0.0.1:{port}/{SECRET}", timeout=0.5)
    assert fault == ("no answer within 0.5 s", True)


@pytest.mark.parametrize("script", [hang_up, babble, flood])
def test_a_server_that_speaks_no_http_ends_an_attempt(script: Any) -> None:
    with raw_server(script) as port:
        fault = fault_of(f"http://127.0.0.1:{port}/{SECRET}")
    assert fault == ("its answer is not valid HTTP", True)


def test_an_answer_before_the_final_one_is_skipped() -> None:
    def script(client: socket.socket) -> None:
        read_message(client)
        client.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
        read_to_the_end(client)

    with raw_server(script) as port:
        assert deliver(f"http://127.0.0.1:{port}/", MESSAGE) == [True]


def test_a_webhook_that_hangs_delays_no_other() -> None:
    async def run(hanging: str, working: str) -> None:
        slow, quick = Webhook(hanging), Webhook(working)
        for _ in range(5):
            slow.put(MESSAGE)
            quick.put(MESSAGE)
        await asyncio.wait_for(quick.close(20), 20)
        await slow.close(0.1)

    with raw_server(hang) as port, Receiver() as receiver:
        asyncio.run(run(f"http://127.0.0.1:{port}/", receiver.url))
    assert receiver.bodies == [MESSAGE] * 5


def test_the_queue_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    with raw_server(hang) as port:
        outcomes = deliver(f"http://127.0.0.1:{port}/{SECRET}", *[MESSAGE] * 100, close_timeout=0.1)
    assert outcomes == [False] * (100 - module._MAX_WAITING)
    assert "too many alerts wait for it" in caplog.text
    assert SECRET not in caplog.text


def test_a_close_waits_no_longer_than_its_timeout() -> None:
    with raw_server(hang) as port:
        assert deliver(f"http://127.0.0.1:{port}/", MESSAGE, close_timeout=0.2) == []


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that this process trusts."""
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return authority


@contextlib.contextmanager
def secure_receiver(authority: trustme.CA, host: str) -> Iterator[Receiver]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    with Receiver(tls=context) as receiver:
        yield receiver


def test_tls_is_verified(authority: trustme.CA) -> None:
    with secure_receiver(authority, "localhost") as receiver:
        url = f"https://localhost:{receiver.port}/{SECRET}"
        assert deliver(url, MESSAGE) == [True]
        assert receiver.bodies == [MESSAGE]
        reason, is_temporary = fault_of(f"https://127.0.0.1:{receiver.port}/{SECRET}")
        assert "certificate was rejected" in reason
        assert SECRET not in reason
        assert is_temporary
    with secure_receiver(trustme.CA(), "localhost") as receiver:
        reason, _ = fault_of(f"https://localhost:{receiver.port}/{SECRET}")
        assert "certificate was rejected" in reason
        assert receiver.requests == []


def test_a_server_without_tls_is_a_failure() -> None:
    with Receiver() as receiver:
        reason, is_temporary = fault_of(receiver.url.replace("http:", "https:"))
    assert is_temporary
    assert SECRET not in reason


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://hooks.example/services/T0K3N?a=b", None),
        ("http://[::1]:8065/hooks/x", None),
        ("hooks.example/x", "must start with"),
        ("ftp://hooks.example/x", "must start with"),
        ("https://", "must start with"),
        ("https://hooks.example:99999/", "not a valid URL"),
        ("https://hooks.example:0/", "port"),
        ("https://[::1/", "not a valid URL"),
        ("https://user:T0K3N@hooks.example/", "user name"),
        ("https://hooks.example/a b", "must escape"),
        ("https://hooks.example/a\r\nX: y", "must escape"),
        ("https://hooks.example/ä", "must escape"),
    ],
)
def test_urls_are_checked_without_being_quoted(url: str, fault: str | None) -> None:
    found = url_fault(url)
    if fault is None:
        assert found is None
    else:
        assert found is not None
        assert fault in found
        assert SECRET not in found


def test_every_url_can_be_tried() -> None:
    with Receiver() as good, Receiver(404) as bad:
        urls = [good.url, bad.url, f"http://127.0.0.1:{REFUSING_PORT}/{SECRET}"]
        outcomes = asyncio.run(try_webhooks(urls, "https://t.example/"))
    assert outcomes[:2] == [("127.0.0.1", None), ("127.0.0.1", "it answered with status 404")]
    assert outcomes[2][1] is not None
    message = json.loads(good.bodies[0])
    assert message["text"] == (
        "This is a test: alerts of the telemetry collector arrive here. https://t.example/"
    )
    assert message["alert"]["name"] == "test"
