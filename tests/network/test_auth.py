"""The token: when it is asked for, the effect of a refusal, and where it never shows."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websocket

from redvsblue_telemetry import ConnectionState, Telemetry, start_telemetry, stop_telemetry
from redvsblue_telemetry._network.contract import Endpoint
from redvsblue_telemetry.testing import RecordingServer
from tests.support.ports import own_port
from tests.support.raw_server import raw_server, read_request, shake_hands
from tests.support.sdk import ONE_ATTEMPT, QUICK
from tests.support.sockets import connect_fails
from tests.support.wait import wait_until

TOKEN = "open-sesame"


@pytest.fixture
def closed_port() -> int:
    return own_port()


def bearers(server: RecordingServer) -> list[str | None]:
    return [request.headers.get("Authorization") for request in server.requests]


# Asking for it.


def test_a_string_and_the_environment_give_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with RecordingServer(token=TOKEN) as server:
        for given in (TOKEN, None):
            if given is None:
                monkeypatch.setenv("REDVSBLUE_TELEMETRY_TOKEN", TOKEN)
            telemetry = start_telemetry(
                **QUICK, url=server.url, **({"token": given} if given else {})
            )
            telemetry.emit("x")
            assert telemetry.flush(5)
            stop_telemetry(1)
        assert bearers(server) == [f"Bearer {TOKEN}"] * 2
        assert all(TOKEN not in request.path for request in server.requests)


def test_a_callable_is_asked_once_an_attempt_and_on_the_worker_thread() -> None:
    threads: list[str] = []

    def token() -> str:
        threads.append(threading.current_thread().name)
        return f"token-{len(threads)}"

    with RecordingServer(token="token-4") as server:
        telemetry = start_telemetry(**QUICK, url=server.url, token=token)
        telemetry.emit("x")
        assert telemetry.flush(10)
        assert telemetry.stop(1)
        assert bearers(server) == [f"Bearer token-{number}" for number in (1, 2, 3, 4)]
    assert threads == ["redvsblue-telemetry"] * 4


class SuddenError(Exception):
    """An exception whose every text holds the token."""

    def __str__(self) -> str:
        return TOKEN

    __repr__ = __str__


@pytest.mark.parametrize(
    "kind", [SuddenError, KeyError, TimeoutError, OSError, asyncio.CancelledError]
)
def test_a_callable_that_raises_has_failed_that_attempt_and_no_other(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    def token() -> str:
        nonlocal asked
        asked += 1
        if asked <= 2:
            raise kind(TOKEN)
        return TOKEN

    with RecordingServer(token=TOKEN) as server:
        telemetry = start_telemetry(**QUICK, url=server.url, token=token)
        telemetry.emit("x")
        assert telemetry.flush(5)
        assert bearers(server) == [f"Bearer {TOKEN}"]  # for the first two, nobody was called
        assert f"token callable raised {kind.__name__}" in str(telemetry.stats().last_error)
        assert telemetry.stop(1)
    assert TOKEN not in caplog.text


def test_a_callable_without_a_token_connects_without_one() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, token=lambda: None)
        telemetry.emit("x")
        assert telemetry.flush(5)
        assert bearers(server) == [None]


@pytest.mark.parametrize(
    "answer", ["", f"{TOKEN}\r\nX: y", f"{TOKEN}é", f"{TOKEN}\n", TOKEN.encode(), 5, [TOKEN]]
)
def test_a_callable_that_returns_no_token_has_failed_the_attempt(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**ONE_ATTEMPT, url=server.url, token=lambda: answer)
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.BACKING_OFF)
        reason = str(telemetry.stats().last_error)
        stop_telemetry(1)
        assert not server.requests
    assert "invalid token" in reason
    assert TOKEN not in reason + caplog.text


def test_a_callable_that_hangs_delays_no_emit_and_no_stop() -> None:
    asked, released = threading.Event(), threading.Event()

    def token() -> None:
        asked.set()
        released.wait(20)

    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, token=token)
        assert asked.wait(5)
        start = time.monotonic()
        telemetry.emit("x")
        assert not telemetry.stop(0.2)
        assert time.monotonic() - start < 2
        released.set()
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.STOPPED)
        assert not server.requests


# Being refused.


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_not_answered_with_hammering(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The longest wait that the jitter allows, each time: so the waits can be compared.
    monkeypatch.setattr("random.SystemRandom.uniform", lambda self, low, high: high)
    attempts: list[float] = []

    def script(client: socket.socket) -> None:
        read_request(client)
        attempts.append(time.monotonic())
        client.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)

    with raw_server(script) as port:
        telemetry = start_telemetry(
            enabled=True,
            url=f"ws://127.0.0.1:{port}/",
            token=TOKEN,
            backoff_base=0.01,
            backoff_max=60,
        )
        telemetry.emit("x")
        assert wait_until(lambda: len(attempts) >= 6)
        assert str(status) in str(telemetry.stats().last_error)
        assert telemetry.stats().buffered == 1
        stop_telemetry(0.05)
    for number, gap in enumerate(b - a for a, b in zip(attempts, attempts[1:6], strict=False)):
        assert gap >= 0.95 * 0.01 * 2**number


def test_a_fresh_token_ends_a_refusal_without_a_restart_and_nothing_is_lost() -> None:
    held = ["first"]
    port = own_port()
    with RecordingServer(token="first", port=port):
        telemetry = start_telemetry(
            **QUICK, url=f"ws://127.0.0.1:{port}/", token=lambda: held[0], drain_interval=0.02
        )
        for number in range(100):
            telemetry.emit("x", i=number)
        assert telemetry.flush(5)
    with RecordingServer(token="second", port=port) as server:
        for _ in range(100):
            telemetry.emit("x")
        assert wait_until(lambda: len(server.requests) >= 3)
        for _ in range(100):
            telemetry.emit("x")
        assert not server.events
        held[0] = "second"
        assert telemetry.flush(10)
        assert list(dict.fromkeys(event["seq"] for event in server.events)) == list(range(101, 301))
        assert telemetry.stop(1)
    assert telemetry.stats().dropped == 0


# Where it must not show.


def echo(head: bytes) -> Callable[[socket.socket], None]:
    """Answer with that, and with all that was asked, in the headers and in the body."""

    def script(client: socket.socket) -> None:
        request = read_request(client)
        asked = request.replace(b"\r\n", b" ")
        size = b"Content-Length: %d" % len(request)
        client.sendall(b"\r\n".join((head, b"X-Asked: " + asked, size, b"", request)))

    return script


def slam(client: socket.socket) -> None:
    read_request(client)


def slam_with_the_token(client: socket.socket) -> None:
    client.recv(65536)  # a greeting of TLS
    client.sendall(TOKEN.encode())


def close_with_the_token(client: socket.socket) -> None:
    shake_hands(client, b"X-Token: " + TOKEN.encode())
    reason = b"\x03\xf0" + TOKEN.encode()  # 1008
    client.sendall(bytes([0x88, len(reason)]) + reason)


BAD_ANSWERS = {
    "401": echo(b"HTTP/1.1 401 " + TOKEN.encode()),
    "403": echo(b"HTTP/1.1 403 Forbidden"),
    "500": echo(b"HTTP/1.1 500 " + TOKEN.encode()),
    "503": echo(b"HTTP/1.1 503 Busy\r\nRetry-After: " + TOKEN.encode()),
    "200": echo(b"HTTP/1.1 200 OK"),
    "302": echo(b"HTTP/1.1 302 Found\r\nLocation: ws://x.invalid/" + TOKEN.encode()),
    "101 and no more": echo(b"HTTP/1.1 101 Yes\r\nUpgrade: " + TOKEN.encode()),
    "not HTTP": echo(TOKEN.encode()),
    "slam": slam,
}
WORSE_ANSWERS = {"closes with it": close_with_the_token, "bad TLS": slam_with_the_token}


def texts_of(error: BaseException | None) -> Iterator[str]:
    """Yield all texts of an exception and of those behind it, hidden ones too."""
    while error is not None:
        yield f"{error} {error!r} {error.args} {vars(error)}"
        yield "".join(traceback.format_exception(type(error), error, error.__traceback__))
        if error.__cause__ is not None:
            yield from texts_of(error.__cause__)
        error = error.__context__


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_no_exception_holds_the_token_even_where_the_server_repeats_it(answer: str) -> None:
    with raw_server(BAD_ANSWERS[answer]) as port:
        endpoint = Endpoint(f"ws://127.0.0.1:{port}/", token=TOKEN, headers={"X-Key": TOKEN})
        assert TOKEN not in repr(endpoint)
        lost = connect_fails(endpoint.url, token=TOKEN, headers={"X-Key": TOKEN})
    assert TOKEN not in "".join(texts_of(lost))


@pytest.mark.parametrize("answer", [*BAD_ANSWERS, *WORSE_ANSWERS, "refused port"])
def test_no_log_no_repr_and_no_stats_hold_the_token(
    answer: str, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # of every logger there is
    states: list[ConnectionState] = []
    with raw_server((BAD_ANSWERS | WORSE_ANSWERS).get(answer, slam)) as port:
        url = f"ws://127.0.0.1:{closed_port if answer == 'refused port' else port}/"
        if answer == "bad TLS":
            url = url.replace("ws:", "wss:")
        telemetry = start_telemetry(
            **QUICK, url=url, token=TOKEN, headers={"X-Key": TOKEN}, on_state_change=states.append
        )
        telemetry.emit("x")
        assert wait_until(lambda: states.count(ConnectionState.BACKING_OFF) >= 2)
        shown = f"{telemetry!r} {telemetry.settings!r} {telemetry.stats()!r}"
        stop_telemetry(0.05)
    assert telemetry.stats().last_error
    assert TOKEN not in f"{shown} {telemetry.stats()} {caplog.text}"
    for record in caplog.records:
        assert (
            TOKEN not in f"{vars(record)} {''.join(texts_of((record.exc_info or [None] * 2)[1]))}"
        )


def trace(stream: io.StringIO) -> None:
    """Have websocket-client log all that it does, as a game may for its own connections."""
    websocket.enableTrace(True, logging.StreamHandler(stream))


@pytest.fixture
def traces() -> Iterator[io.StringIO]:
    yield io.StringIO()
    websocket.enableTrace(False)


@pytest.mark.parametrize("is_traced_first", [True, False])
@pytest.mark.parametrize("answer", [*BAD_ANSWERS, "closes with it"])
def test_no_trace_of_websocket_client_holds_a_secret_of_a_failure(
    answer: str, is_traced_first: bool, traces: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    begun = threading.Event()

    def script(client: socket.socket) -> None:
        begun.set()
        (BAD_ANSWERS | WORSE_ANSWERS)[answer](client)

    if is_traced_first:
        trace(traces)
    with raw_server(script) as port:
        url = f"ws://127.0.0.1:{port}/?key={TOKEN}"
        telemetry = start_telemetry(**QUICK, url=url, token=TOKEN, headers={"X-Key": TOKEN})
        telemetry.emit("x")
        assert begun.wait(5)
        trace(traces)
        begun.clear()
        assert begun.wait(5)
        stop_telemetry(0.05)
    assert TOKEN not in traces.getvalue() + caplog.text


@pytest.mark.parametrize("is_traced_first", [True, False])
def test_no_trace_of_websocket_client_holds_a_secret_of_a_connection(
    is_traced_first: bool, traces: io.StringIO
) -> None:
    if is_traced_first:
        trace(traces)
    with RecordingServer(token=TOKEN) as server:
        url = f"{server.url}?key={TOKEN}"
        telemetry = start_telemetry(**QUICK, url=url, token=TOKEN, headers={"X-Key": TOKEN})
        telemetry.emit("x", secret=TOKEN)
        assert telemetry.flush(5)
        trace(traces)
        server.disconnect()
        telemetry.emit("x", secret=TOKEN)
        assert telemetry.flush(5)
        stop_telemetry(1)
        assert len(server.requests) == 2
        assert server.requests[0].path.endswith(f"?key={TOKEN}")
        assert TOKEN not in traces.getvalue()

        client = websocket.WebSocket()  # the game's own connection is traced as before
        client.connect(server.url, header=[f"Authorization: Bearer {TOKEN}"])
        client.close()
    assert TOKEN in traces.getvalue()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_the_token_nowhere(status: int) -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)

        def script(client: socket.socket) -> None:
            asked.append(read_request(client))
            client.sendall(
                b"HTTP/1.1 %d Moved\r\nLocation: ws://localhost:%d/\r\nContent-Length: 0\r\n\r\n"
                % (status, elsewhere.getsockname()[1])
            )

        with raw_server(script) as port:
            telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/", token=TOKEN)
            assert wait_until(lambda: len(asked) >= 3)  # so the first redirects are long dealt with
            assert "redirected" in str(telemetry.stats().last_error)
            stop_telemetry(1)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


# In the open.


def warnings_of_plain_text(caplog: pytest.LogCaptureFixture) -> int:
    return sum(
        record.levelno == logging.WARNING and "unencrypted" in record.getMessage()
        for record in caplog.records
    )


@pytest.mark.parametrize("token", [TOKEN, lambda: TOKEN])
def test_a_token_in_the_open_is_warned_about_once_a_start(
    token: Any, caplog: pytest.LogCaptureFixture
) -> None:
    states: list[ConnectionState] = []

    def started() -> Telemetry:
        states.clear()
        return start_telemetry(
            **QUICK, url="ws://game.invalid/", token=token, on_state_change=states.append
        )

    telemetry = started()
    assert wait_until(lambda: states.count(ConnectionState.CONNECTING) >= 3)
    telemetry.enabled = False
    telemetry.enabled = True
    assert wait_until(lambda: states.count(ConnectionState.CONNECTING) >= 4)
    stop_telemetry(1)
    assert warnings_of_plain_text(caplog) == 1
    assert "game.invalid unencrypted" in caplog.text
    started()
    stop_telemetry(1)
    assert warnings_of_plain_text(caplog) == 2
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("ws://127.0.0.1:{port}/", TOKEN),
        ("ws://127.1.2.3:{port}/", TOKEN),
        ("ws://[::1]:{port}/", TOKEN),
        ("ws://localhost:{port}/", TOKEN),
        ("ws://LOCALHOST:{port}/", TOKEN),
        ("wss://game.invalid/", TOKEN),
        ("ws://game.invalid/", None),
    ],
)
def test_nobody_is_warned_where_nobody_listens_or_there_is_nothing_to_hear(
    url: str, token: str | None, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = start_telemetry(**QUICK, url=url.format(port=closed_port), token=token)
    assert wait_until(lambda: telemetry.stats().last_error is not None)
    stop_telemetry(1)
    assert warnings_of_plain_text(caplog) == 0
