"""The check of a server: each fault is found, named and answered with advice."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import sqlite3
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from click.testing import CliRunner
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection

from redvsblue_telemetry._compression import supported
from redvsblue_telemetry._network.dial import default_ssl_context
from redvsblue_telemetry.cli.check.command import check
from redvsblue_telemetry.collector.server import Options
from redvsblue_telemetry.testing import RecordingServer
from tests.support.collector import REFUSING_PORT, bearer, collector_running
from tests.support.command import needs_full_disk, run_command, run_command_onto_full_disk
from tests.support.connect_proxy import ConnectProxy
from tests.support.raw_server import (
    frame,
    raw_server,
    read_request,
    read_to_the_end,
    shake_hands,
)
from tests.support.sockets import server_context
from tests.support.websocket_server import websocket_server

NOW = datetime.datetime.now(datetime.timezone.utc)
A_DAY = datetime.timedelta(days=1)
STEPS = ["url", "proxy", "name", "connect", "tls", "handshake", "auth"]
STEPS += ["confirmation", "compression", "round trip", "event"]
SECRET = "hush-hush-hush"


class Outcome(NamedTuple):
    exit_code: int
    steps: dict[str, dict[str, str]]
    output: str

    def states(self) -> list[str]:
        return [step["state"] for step in self.steps.values()]

    def fault(self) -> tuple[str, str, str]:
        """Return the step that failed, its detail and its advice."""
        (failed,) = (step for step in self.steps.values() if step["state"] == "failed")
        return failed["step"], failed["detail"], failed["advice"]


def examined(url: str, *options: str) -> Outcome:
    """Check a server. The structure of the result is asserted in any case."""
    done = CliRunner().invoke(check, [url, "--json", *options], catch_exceptions=False)
    found = json.loads(done.output)
    outcome = Outcome(done.exit_code, {step["step"]: step for step in found["steps"]}, done.output)
    assert list(outcome.steps) == STEPS
    assert found["ok"] == ("failed" not in outcome.states())
    assert outcome.exit_code == (0 if found["ok"] else 1)
    if not found["ok"]:
        after = outcome.states()[outcome.states().index("failed") + 1 :]
        assert set(after) <= {"skipped"}
    return outcome


# Good servers.


@pytest.mark.parametrize(
    ("acks", "confirmation"), [(True, "once they are stored"), (False, "on receipt")]
)
def test_a_good_server_passes_and_gets_one_event(acks: bool, confirmation: str) -> None:
    with RecordingServer(acks=acks) as server:
        outcome = examined(server.url)
        assert server.wait_for(1)
        (event,) = server.events
    assert outcome.exit_code == 0
    assert event["type"] == "telemetry_check"
    assert set(outcome.states()) == {"ok", "skipped"}
    assert outcome.steps["tls"]["state"] == "skipped"
    assert outcome.steps["confirmation"]["detail"].startswith("by acks" if acks else "by pongs")
    assert confirmation in outcome.steps["confirmation"]["detail"]
    assert "median of 5 pings" in outcome.steps["round trip"]["detail"]
    assert outcome.steps["event"]["detail"].endswith("; the server keeps it")


def test_a_collector_passes_and_keeps_nothing(tmp_path: Path) -> None:
    db = tmp_path / "telemetry.sqlite3"
    with collector_running(token=SECRET, db=db) as collector:
        outcome = examined(collector.url, "--token", SECRET)
        assert outcome.exit_code == 0
        assert outcome.steps["event"]["detail"].endswith("; the server does not keep it")
        stats = json.loads(collector.request("GET", "/api/stats", bearer(SECRET)).body)
        assert (stats["events"], stats["sessions"], stats["types"]) == (0, 0, {})
    with contextlib.closing(sqlite3.connect(db)) as connection:
        # It was stored: the number of its arrival is used up.
        assert connection.execute("SELECT seq FROM sqlite_sequence").fetchall() == [(1,)]
        for table in ("events", "sessions", "runs", "types", "reports", "lost", "rejected"):
            assert connection.execute(f"SELECT * FROM {table}").fetchall() == []
    assert "requires one" in outcome.steps["auth"]["detail"]
    assert "acks" in outcome.steps["confirmation"]["detail"]
    assert outcome.steps["compression"]["detail"] == f"by {supported()[0]}"


@pytest.mark.parametrize(
    ("encodings", "detail"),
    [
        (["deflate"], "by deflate"),
        ([], f"none; the server picked none of {', '.join(supported())}"),
    ],
)
def test_shows_the_encoding_that_the_server_picked(encodings: list[str], detail: str) -> None:
    with RecordingServer(encodings=encodings) as server:
        outcome = examined(server.url)
    assert outcome.exit_code == 0
    assert outcome.steps["compression"]["state"] == "ok"
    assert outcome.steps["compression"]["detail"] == detail


def test_the_collector_at_another_path_asks_for_the_path() -> None:
    with collector_running() as collector:
        step, _, advice = examined(collector.url + "2").fault()
    assert step == "handshake"
    assert "path" in advice


def test_text_output_has_a_line_for_each_step_with_its_advice_below() -> None:
    url = f"ws://127.0.0.1:{REFUSING_PORT}/"
    done = CliRunner().invoke(check, [url])
    lines = done.output.splitlines()
    heads = [line.split(maxsplit=1) for line in lines if not line.startswith(" ")]
    assert done.exit_code == 1
    assert [state for state, _ in heads] == ["ok"] * 3 + ["failed"] + ["skipped"] * 7
    assert all(rest.startswith(name) for (_, rest), name in zip(heads, STEPS, strict=True))
    (advice,) = (line for line in lines if line.startswith(" "))
    assert "nothing listens" in advice


def test_as_a_process_it_ends_with_the_exit_code_and_takes_the_token_from_the_environment() -> None:
    with RecordingServer(token=SECRET) as server:
        well = run_command("check", server.url, REDVSBLUE_TELEMETRY_TOKEN=SECRET)
        ill = run_command("check", server.url)
    assert (well.returncode, well.stderr) == (0, "")
    assert (ill.returncode, ill.stderr) == (1, "")
    assert "\x1b" not in well.stdout
    assert SECRET not in well.stdout


@needs_full_disk
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_that_can_t_be_written_is_a_one_line_error(options: list[str]) -> None:
    done = run_command_onto_full_disk("check", "nonsense", *options)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("Error: standard output can't be written: ")


# The URL and the options.


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1/telemetry", "ws:// instead of http://"),
        ("https://127.0.0.1/telemetry", "wss:// instead of https://"),
        ("127.0.0.1:3000", "ws://localhost:3000/telemetry"),
        ("ws://127.0.0.1:99999/", "ws://localhost:3000/telemetry"),
        ("ws://[::1/", "ws://localhost:3000/telemetry"),
    ],
)
def test_an_invalid_url_is_answered_with_a_valid_one(url: str, words: str) -> None:
    step, _, advice = examined(url).fault()
    assert step == "url"
    assert words in advice


def test_a_password_in_the_url_is_not_repeated() -> None:
    outcome = examined(f"ws://user:{SECRET}@127.0.0.1/")
    assert outcome.fault()[0] == "url"
    assert SECRET not in outcome.output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["ws://x/", "--timeout", "0"],
        ["ws://x/", "--timeout", "nan"],
        ["ws://x/", "--token", f"{SECRET}\n"],
        ["ws://x/", "y"],
    ],
)
def test_a_wrong_call_is_refused_with_exit_code_2(arguments: list[str]) -> None:
    done = CliRunner().invoke(check, arguments)
    assert done.exit_code == 2
    assert SECRET not in done.output


def test_a_token_sent_without_tls_is_a_warning() -> None:
    outcome = examined("ws://no-such-host.invalid/", "--token", SECRET, "--timeout", "1")
    assert outcome.steps["url"]["state"] == "warning"
    assert "wss://" in outcome.steps["url"]["advice"]
    step, detail, _ = outcome.fault()
    assert step == "name"
    assert "no-such-host.invalid" in detail


# No server there, or another one.


def test_a_closed_port_suggests_that_the_server_is_not_running() -> None:
    port = REFUSING_PORT
    step, detail, advice = examined(f"ws://127.0.0.1:{port}/").fault()
    assert step == "connect"
    assert "127.0.0.1" in detail
    assert "refused" in detail
    assert f"nothing listens on port {port}" in advice


@pytest.mark.parametrize(("scheme", "step"), [("ws", "handshake"), ("wss", "tls")])
def test_a_black_hole_fails_within_the_timeout(scheme: str, step: str) -> None:
    with raw_server(read_to_the_end) as port:
        began = time.monotonic()
        outcome = examined(f"{scheme}://127.0.0.1:{port}/", "--timeout", "0.2")
        assert time.monotonic() - began < 5
    failed, detail, advice = outcome.fault()
    assert failed == step
    assert "timed out" in detail
    assert "is the port right" in advice


def test_a_server_that_closes_at_once_is_not_a_telemetry_server() -> None:
    with raw_server(lambda client: None) as port:
        step, _, advice = examined(f"ws://127.0.0.1:{port}/", "--timeout", "2").fault()
    assert step == "handshake"
    assert "not a telemetry server" in advice


@contextlib.contextmanager
def web_server(status: int, *headers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Answer every request with a status; yield the URL, and the requests as they come."""
    lines = (b"HTTP/1.1 %d Status" % status, b"Content-Length: 0", *headers, b"", b"")
    requests: list[bytes] = []

    def script(client: socket.socket) -> None:
        if request := read_request(client):  # the step "connect" sends none
            requests.append(request)
            client.sendall(b"\r\n".join(lines))

    with raw_server(script) as port:
        yield f"ws://127.0.0.1:{port}/telemetry", requests


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (200, "a web server answers"),
        (204, "a web server answers"),
        (400, "Upgrade"),
        (404, "is the path of the URL right"),
        (421, "--allow-host"),
        (426, "Upgrade"),
        (429, "busy"),
        (500, "its log"),
        (502, "proxy in front"),
        (503, "busy"),
        (418, "the server's operator"),
    ],
)
def test_a_web_server_s_answer_is_explained(status: int, words: str) -> None:
    with web_server(status) as (url, _):
        outcome = examined(url)
    step, detail, advice = outcome.fault()
    assert step == "handshake"
    assert str(status) in detail
    assert words in advice


def test_a_redirect_is_shown_with_its_target_which_gets_no_token() -> None:
    location = b"Location: https://example.invalid/\x1b[31mtelemetry"
    with web_server(301, location) as (url, requests):
        outcome = examined(url, "--token", SECRET)
        step, detail, advice = outcome.fault()
        assert [SECRET.encode() in request for request in requests] == [True, False]
    assert step == "handshake"
    assert "redirect" in detail
    assert "https://example.invalid/" in advice
    assert "\x1b" not in advice
    assert SECRET not in outcome.output


# Tokens.


@pytest.mark.parametrize("as_json", [True, False])
def test_a_wrong_token_is_refused_and_never_shown(as_json: bool) -> None:
    options = ["--json"] if as_json else []
    with RecordingServer(token="another") as server:
        done = CliRunner().invoke(check, [server.url, "--token", SECRET, *options])
        assert not server.events
    assert done.exit_code == 1
    assert "rejected the token (HTTP status 401)" in done.output
    assert SECRET not in done.output


def test_a_missing_token_is_named() -> None:
    with RecordingServer(token=SECRET) as server:
        step, detail, advice = examined(server.url).fault()
    assert step == "auth"
    assert "requires a token" in detail
    assert "--token" in advice


def test_forbidden_counts_as_a_wrong_token() -> None:
    with web_server(403) as (url, _):
        outcome = examined(url, "--token", SECRET)
    assert outcome.fault()[0] == "auth"
    assert "403" in outcome.fault()[1]


def test_a_server_that_accepts_anybody_is_a_warning() -> None:
    with RecordingServer() as server:
        outcome = examined(server.url, "--token", SECRET)
    assert outcome.exit_code == 0
    assert outcome.steps["auth"]["state"] == "warning"


def test_a_close_right_after_the_handshake_suggests_a_wrong_token() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        client.sendall(frame(8, (4401).to_bytes(2, "big")))
        read_to_the_end(client)

    with raw_server(script) as port:
        step, detail, advice = examined(f"ws://127.0.0.1:{port}/").fault()
    assert step == "round trip"
    assert "4401" in detail
    assert "token" in advice


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(organization_name="Games Authority")


@pytest.fixture
def trusted(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The system trusts the authority."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    default_ssl_context.cache_clear()
    yield
    default_ssl_context.cache_clear()


def serving(certificate: trustme.LeafCert) -> RecordingServer:
    return RecordingServer(ssl_context=server_context(certificate))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(("days", "state"), [(100, "ok"), (5, "warning")])
def test_a_valid_certificate_is_shown_with_the_days_it_has_left(
    days: int, state: str, authority: trustme.CA
) -> None:
    certificate = authority.issue_cert("127.0.0.1", not_after=NOW + (days + 0.5) * A_DAY)
    with serving(certificate) as server:
        outcome = examined(server.url)
        assert len(server.events) == 1
    assert outcome.exit_code == 0
    tls = outcome.steps["tls"]
    assert tls["state"] == state
    assert "Games Authority" in tls["detail"]
    assert f"valid for {days} more days" in tls["detail"]
    assert tls.get("advice") == (None if state == "ok" else "renew the certificate")


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("expired", "has expired: renew it"),
        ("not yet valid", "this machine's date"),
        ("other name", "(it is for game.invalid, www.game.invalid)"),
    ],
)
def test_a_bad_certificate_is_explained(fault: str, words: str, authority: trustme.CA) -> None:
    names = ["game.invalid", "www.game.invalid"] if fault == "other name" else ["127.0.0.1"]
    begin = NOW + {"not yet valid": A_DAY}.get(fault, -9 * A_DAY)
    end = NOW + {"expired": -A_DAY}.get(fault, 9 * A_DAY)
    certificate = authority.issue_cert(*names, not_before=begin, not_after=end)
    with serving(certificate) as server:
        step, detail, advice = examined(server.url).fault()
        assert not server.requests
    assert step == "tls"
    assert "certificate was rejected" in detail
    assert words in advice


def test_an_unknown_authority_is_answered_with_how_to_trust_it(authority: trustme.CA) -> None:
    with serving(authority.issue_cert("127.0.0.1")) as server:
        step, _, advice = examined(server.url, "--token", SECRET).fault()
        assert not server.requests
    assert step == "tls"
    assert "SSL_CERT_FILE" in advice


@pytest.mark.parametrize("is_there", [True, False])
def test_the_file_in_ssl_cert_file_is_examined(
    is_there: bool, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "authorities.pem"
    if is_there:
        trustme.CA().cert_pem.write_to_path(str(named))
    monkeypatch.setenv("SSL_CERT_FILE", str(named))
    default_ssl_context.cache_clear()
    with serving(authority.issue_cert("127.0.0.1")) as server:
        step, _, advice = examined(server.url).fault()
    default_ssl_context.cache_clear()
    assert step == "tls"
    assert f"SSL_CERT_FILE: {named}" in advice
    assert ("lacks it" in advice) == is_there
    assert ("No such file" in advice) == (not is_there)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_requires_a_client_certificate_is_recognized(
    version: ssl.TLSVersion, authority: trustme.CA
) -> None:
    context = server_context(authority.issue_cert("127.0.0.1"))
    context.minimum_version = context.maximum_version = version
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with RecordingServer(ssl_context=context) as server:
        step, _, advice = examined(server.url).fault()
    assert step == ("tls" if version is ssl.TLSVersion.TLSv1_2 else "handshake")
    assert "requires a client certificate" in advice
    assert "ssl_context" in advice


def test_a_plain_server_under_wss_is_recognized() -> None:
    with RecordingServer() as server:
        step, _, advice = examined(server.url.replace("ws:", "wss:")).fault()
    assert step == "tls"
    assert "ws:// instead of wss://" in advice


def test_a_tls_server_under_ws_is_recognized(authority: trustme.CA) -> None:
    with serving(authority.issue_cert("127.0.0.1")) as server:
        step, _, advice = examined(server.url.replace("wss:", "ws:"), "--timeout", "2").fault()
    assert step == "handshake"
    assert "wss://" in advice


# Confirmations.


def promise(connection: ServerConnection, request: Any, response: Any) -> None:
    response.headers["Telemetry-Ack"] = "cumulative"


def test_acks_that_never_come_fail_the_event() -> None:
    with websocket_server(read_messages, process_response=promise) as url:
        outcome = examined(url, "--timeout", "0.5")
    step, detail, advice = outcome.fault()
    assert step == "event"
    assert "the server confirmed nothing for 0.5 s" in detail
    assert '{"ack": n}' in advice


def closed_at_the_event(code: int, reason: str, *options: str) -> Outcome:
    """Check a server that closes when it gets the event."""

    def refuse(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            connection.recv()
            connection.close(code, reason)

    with websocket_server(refuse, process_response=promise) as url:
        return examined(url, *options)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1001, "stopped or restarted"),
        (1003, "does not accept text"),
        (1007, "JSON array"),
        (1008, "--max-rate"),
        (1009, "--max-message-bytes"),
        (1011, "see its log"),
        (1012, "is restarting"),
        (1013, "/healthz"),
        (3000, "is the token right"),
        (4001, "is the token right"),
        (1000, "its log may say why"),
    ],
)
def test_a_close_at_the_event_is_shown_with_its_reason_and_advice(code: int, words: str) -> None:
    began = time.monotonic()
    step, detail, advice = closed_at_the_event(code, "because\x1b[31m", "--timeout", "30").fault()
    assert time.monotonic() - began < 30  # it doesn't wait for what can't come
    assert step == "event"
    assert f'with code {code}, reason "because\\u001b[31m"' in detail
    assert words in advice


def test_a_reason_that_repeats_the_token_doesn_t_show_it() -> None:
    outcome = closed_at_the_event(1008, f"{SECRET} may not send", "--token", SECRET)
    assert "… may not send" in outcome.fault()[1]
    assert SECRET not in outcome.output


def test_a_collector_that_can_t_store_is_not_blamed_on_the_event(tmp_path: Path) -> None:
    db = tmp_path / "telemetry.sqlite3"
    with (
        collector_running(db=db, busy_timeout=0.1) as collector,
        contextlib.closing(sqlite3.connect(db, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        step, detail, advice = examined(collector.url).fault()
    assert step == "event"
    assert "1013" in detail
    assert "events can't be stored now" in detail
    assert f"{collector.http_url}healthz" in advice
    assert "log" in advice


def test_a_collector_with_too_many_clients_says_so() -> None:
    with collector_running(max_connections=1) as collector, connect(collector.url):
        step, detail, advice = examined(collector.url).fault()
    assert step == "round trip"
    assert "too many connections" in detail
    assert "too many clients" in advice


def test_a_collector_with_a_small_message_limit_says_so() -> None:
    with collector_running(max_message_bytes=100) as collector:
        step, detail, advice = examined(collector.url).fault()
    assert step == "event"
    assert "1009" in detail
    assert "--max-message-bytes" in advice


def test_it_waits_for_longer_than_a_collector_waits_for_its_database() -> None:
    (timeout,) = (option.default for option in check.params if option.name == "timeout")
    assert isinstance(timeout, float)
    assert timeout > Options().busy_timeout


def test_a_refusal_of_the_second_connection_is_shown_with_its_status() -> None:
    def refuse_the_second(connection: ServerConnection, request: Any) -> Any:
        asked.append(request)
        return None if len(asked) == 1 else connection.respond(429, "slowly\n")

    asked: list[Any] = []
    with websocket_server(read_messages, process_request=refuse_the_second) as url:
        step, detail, advice = examined(url).fault()
    assert step == "event"
    assert "429" in detail
    assert "busy" in advice


def read_messages(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        for _ in connection:
            pass


def test_pings_without_pongs_fail_the_round_trip() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        read_to_the_end(client)

    with raw_server(script) as port:
        step, detail, advice = examined(f"ws://127.0.0.1:{port}/", "--timeout", "2").fault()
    assert step == "round trip"
    assert "no pong within 2 s" in detail
    assert "pings" in advice


def test_a_server_that_sends_without_end_is_not_read_without_end() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        while True:
            client.sendall(frame(1, b"la" * 60) * 500)

    with raw_server(script) as port:
        began = time.monotonic()
        step, _, _ = examined(f"ws://127.0.0.1:{port}/", "--timeout", "1").fault()
        assert time.monotonic() - began < 5
    assert step == "round trip"


# The environment.


@pytest.mark.parametrize("variable", ["DO_NOT_TRACK", "REDVSBLUE_ENABLE_TELEMETRY"])
def test_where_telemetry_is_forbidden_no_event_is_sent(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, {"DO_NOT_TRACK": "1"}.get(variable, "false"))
    with RecordingServer() as server:
        step, _, advice = examined(server.url).fault()
        assert not server.events
    assert step == "event"
    assert variable in advice


def test_a_proxy_is_shown_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with ConnectProxy(credentials=f"me:{SECRET}") as proxy, RecordingServer() as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", f"//me:{SECRET}@"))
        outcome = examined(server.url)
        assert len(server.events) == 1
        assert len(proxy.requests) == 2  # for the handshake, and for the event
    assert outcome.exit_code == 0
    assert f"127.0.0.1:{proxy.port}" in outcome.steps["proxy"]["detail"]
    assert SECRET not in outcome.output


@pytest.mark.parametrize(("scheme", "at"), [("ws", "handshake"), ("wss", "tls")])
def test_a_proxy_that_requires_credentials_is_named(
    scheme: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectProxy(credentials="me:1") as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        step, detail, advice = examined(f"{scheme}://127.0.0.1:9/").fault()
    assert step == at
    assert "407" in detail
    assert "user:password" in advice


def test_a_proxy_that_does_not_run_is_not_taken_for_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{REFUSING_PORT}")
    step, _, advice = examined("wss://127.0.0.1:9/").fault()
    assert step == "connect"
    assert "is the proxy running" in advice


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    step, detail, advice = examined("ws://127.0.0.1:9/").fault()
    assert step == "proxy"
    assert "socks5" in detail
    assert "NO_PROXY" in advice
