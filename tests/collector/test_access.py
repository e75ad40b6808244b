"""Who may do what, tried as somebody who may not would try it: by bytes on a socket."""

from __future__ import annotations

import contextlib
import hmac
import http.client
import json
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from running import PATIENCE, Answer, RunningCollector, basic, collector_running, free_port
from waiting_for import wait_until

from redvsblue_telemetry import Telemetry, start_telemetry
from redvsblue_telemetry.collector import pages, queries
from redvsblue_telemetry.collector.server import Options, OptionsError

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "sesame-7:a b"  # with what separates the parts of either scheme
SHOWN = f"Authorization: Bearer {TOKEN}"
ALLOWED = "telemetry.example.com"
OWN = "127.0.0.1:{port}"
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)
LET_IN = (200, 101)
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PAGE_PATHS = [route.path for route in pages.routes]
PATHS = [*PAGE_PATHS, "/api/events", "/api/sessions", "/api/sessions/s", "/api/rejected"]
PATHS += ["/api/stats", "/api/live", "/api/nothing", "/metrics", "/nothing", "/static/nothing"]
EVENT = json.dumps(
    [{"id": "1", "type": "hit", "timestamp": 1, "sessionId": "s", "seq": 1, "data": {}}]
)

Asked: TypeAlias = Callable[..., Answer]


def request(
    collector: RunningCollector,
    *lines: str,
    target: str = "/api/stats",
    method: str = "GET",
    host: str | None = OWN,
    version: str = "1.1",
    body: str = "",
) -> bytes:
    """A request as it stands on the wire, each header line as it is given."""
    head = [f"{method} {target} HTTP/{version}"]
    if host is not None:
        head.append(f"Host: {host.format(port=collector.port)}")
    head += [line.format(port=collector.port) for line in lines]
    if body:
        head.append(f"Content-Length: {len(body)}")
    if not any(line.startswith("Connection:") for line in lines):
        head.append("Connection: close")
    return "\r\n".join([*head, "", body]).encode("latin-1")


def answers(collector: RunningCollector, sent: bytes) -> bytes:
    """All that is answered, until the collector hangs up."""
    with socket.create_connection(("127.0.0.1", collector.port), PATIENCE) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(65536), b""))


def ask(collector: RunningCollector, *lines: str, method: str = "GET", **asked: Any) -> Answer:
    """Ask by HTTP; of a stream that doesn't end, without its body."""
    with socket.create_connection(("127.0.0.1", collector.port), PATIENCE) as client:
        client.sendall(request(collector, *lines, method=method, **asked))
        with contextlib.closing(http.client.HTTPResponse(client, method=method)) as response:
            response.begin()
            is_stream = response.headers.get_content_type() == "text/event-stream"
            body = b"" if is_stream else response.read()
            return Answer(response.status, response.headers, body)


def shake(collector: RunningCollector, *lines: str, **asked: Any) -> Answer:
    """Ask for a WebSocket."""
    return ask(collector, *UPGRADE, *lines, **({"target": "/telemetry"} | asked))


def line_of(headers: dict[str, str]) -> str:
    ((name, value),) = headers.items()
    return f"{name}: {value}"


def text_of(answer: Answer) -> str:
    return f"{answer.headers}\n{answer.body.decode()}"


@pytest.fixture(params=[ask, shake])
def asked(request: pytest.FixtureRequest) -> Any:
    """By HTTP, and by WebSocket: the rules are the same."""
    return request.param


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningCollector]:
    """With a token, and with all that an attacker would want to be allowed."""
    with collector_running(token=TOKEN, hosts=(ALLOWED,), allow_reset=True) as running:
        yield running


@pytest.fixture
def unguarded() -> Iterator[RunningCollector]:
    with collector_running(allow_reset=True) as running:
        yield running


@contextlib.contextmanager
def playing(collector: RunningCollector, **settings: Any) -> Iterator[Telemetry]:
    telemetry = start_telemetry(enabled=True, url=collector.ws_url, drain_interval=0.01, **settings)
    try:
        yield telemetry
    finally:
        telemetry.stop(timeout=1)


# The token.


@pytest.mark.parametrize(
    "line",
    [
        SHOWN,
        f"authorization: bearer {TOKEN}",
        f"AUTHORIZATION: BEARER   {TOKEN}  ",
        line_of(basic(TOKEN)),
        line_of(basic(TOKEN, user="anybody")),
        line_of(basic(TOKEN, user="jürgen")),
        line_of(basic(TOKEN)).replace("Basic", "bASIC"),
    ],
)
def test_who_shows_the_token_is_let_in(guarded: RunningCollector, asked: Asked, line: str) -> None:
    assert asked(guarded, line).status in LET_IN


NO_TOKENS = [
    (),
    ("Authorization:",),
    ("Authorization: Bearer",),
    ("Authorization: Bearer ",),
    ("Authorization: Basic",),
    (f"Authorization: {TOKEN}",),
    (f"Authorization: Token {TOKEN}",),
    (f"Authorization: Bearer{TOKEN}",),
    (f"Authorization: Bearer {TOKEN[:-1]}",),
    (f"Authorization: Bearer {TOKEN}x",),
    (f"Authorization: Bearer {TOKEN} {TOKEN}",),
    (f"Authorization: Bearer {TOKEN}, Bearer {TOKEN}",),
    (f"Authorization: Bearer {TOKEN.upper()}",),
    (f"Authorization: Bearer {TOKEN.replace('a', 'ä')}",),
    ("Authorization: Bearer \xff\xfe\x80",),
    ("Authorization: Basic \xff\xfe\x80",),
    ("Authorization: Basic !!!!",),
    (f"Authorization: Basic {TOKEN}",),
    (line_of(basic("")),),
    (line_of(basic("", user=TOKEN.split(":", maxsplit=1)[0])),),
    (line_of(basic(TOKEN + "\n")),),
    (line_of(basic(TOKEN.replace("a", "ä"))),),
    (line_of(basic(TOKEN)).replace("Basic", "Bearer"),),
    ("Authorization: Bearer no", SHOWN),
    (f"Proxy-Authorization: Bearer {TOKEN}",),
    (f"Cookie: token={TOKEN}; Authorization={TOKEN}",),
    (f"Sec-WebSocket-Protocol: {TOKEN}",),
    (f"X-Token: {TOKEN}",),
    ("X-Forwarded-For: 127.0.0.1", "X-Original-URL: /healthz", "X-Rewrite-URL: /healthz"),
]


@pytest.mark.parametrize("lines", NO_TOKENS)
def test_whoever_shows_anything_else_is_not(
    guarded: RunningCollector, asked: Asked, lines: tuple[str, ...]
) -> None:
    answer = asked(guarded, *lines)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
    assert answer.json() == {"error": "a token is needed"}


def test_token_in_the_address_is_none(guarded: RunningCollector) -> None:
    query = "?token=sesame-7:a%20b&access_token=sesame-7:a%20b"
    assert ask(guarded, target=f"/api/stats{query}").status == 401
    assert shake(guarded, target=f"/telemetry{query}").status == 401


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "POST", "PUT", "DELETE"])
def test_no_method_and_no_path_needs_no_token(guarded: RunningCollector, method: str) -> None:
    for target in [*PATHS, "/telemetry", "*"]:
        assert ask(guarded, target=target, method=method).status == 401, target


def test_no_websocket_needs_no_token(guarded: RunningCollector) -> None:
    for target in [*PATHS, "/telemetry", "/telemetry/"]:
        assert shake(guarded, target=target).status == 401, target


def test_health_is_told_to_anybody_and_nothing_else_is(guarded: RunningCollector) -> None:
    for target in ("/healthz", "/%68ealthz", "/healthz?session=s"):
        answer = ask(guarded, target=target)
        assert (answer.status, answer.body) == (200, b"ok\n")
    assert shake(guarded, target="/healthz").status == 404
    assert ask(guarded, target="/healthz", method="DELETE").status == 405


@pytest.mark.parametrize(
    "target",
    [
        "/healthz/",
        "//healthz",
        "/HEALTHZ",
        "/healthz%00",
        "/healthz%20",
        "/healthz%2f",
        "/healthz;/api/stats",
        "/healthz/../api/stats",
        "/healthz/%2e%2e/api/stats",
        "/healthz%2f..%2fapi%2fstats",
        "/healthz%3f/../api/stats",
        "/api/stats?/healthz",
        "/api/stats#/healthz",
        "/api/sessions/../../healthz",
        "/api%2fstats",
        "/%61pi/stats",
        "//api/stats",
        "/./api/stats",
        "/static/../api/stats",
        "/%74elemetry",
        "http://127.0.0.1/api/stats",
        "http://example.com/healthz/../api/stats",
    ],
)
def test_no_spelling_of_a_path_needs_no_token(
    guarded: RunningCollector, asked: Asked, target: str
) -> None:
    assert asked(guarded, target=target).status == 401


def test_each_request_of_a_connection_has_to_show_it(guarded: RunningCollector) -> None:
    first = request(guarded, SHOWN, "Connection: keep-alive")
    for second in (request(guarded), request(guarded, *UPGRADE, target="/telemetry")):
        said = answers(guarded, first + second)
        assert re.findall(rb"^HTTP/1.1 (\d+)", said, re.M) == [b"200", b"401"]


def test_game_with_the_token_is_let_in_and_one_with_another_is_not() -> None:
    with collector_running(token="sesame-7") as collector:
        with playing(collector, token="sesame-8") as telemetry:
            telemetry.emit("intruder")
            assert wait_until(lambda: "401" in str(telemetry.stats().last_error), PATIENCE)
        with playing(collector, token="sesame-7") as telemetry:
            telemetry.emit("friend")
            assert telemetry.flush(PATIENCE)
        assert [event["type"] for event in collector.events()] == ["friend"]


def test_token_is_compared_in_constant_time(
    guarded: RunningCollector, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[set[bytes]] = []
    really = hmac.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append({bytes(one), bytes(other)})
        return really(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    for guess in ("", "x", TOKEN[:-1], TOKEN[:-1] + "x", "x" + TOKEN[1:], TOKEN, "x" * 1000):
        for line in (f"Authorization: Bearer {guess}", line_of(basic(guess))):
            compared.clear()
            asked(guarded, line)
            assert compared == [{guess.encode(), TOKEN.encode()}]

    # Nothing quicker decides beside it.
    monkeypatch.setattr(hmac, "compare_digest", lambda *_: False)
    assert asked(guarded, SHOWN).status == 401
    monkeypatch.setattr(hmac, "compare_digest", lambda *_: True)
    assert asked(guarded, "Authorization: Bearer x").status in LET_IN


# The Host: a page whose name has come to lead here is not to read what is here.


@pytest.mark.parametrize(
    "host",
    [
        OWN,
        "127.0.0.1",
        "localhost",
        "LocalHost.:{port}",
        "game.localhost",
        "[::1]",
        "[::1]:{port}",
        "192.0.2.7",  # an address can't be made to lead elsewhere
        "[2001:DB8::7]:80",
        ALLOWED,
        f"{ALLOWED.upper()}.:8443",
    ],
)
def test_it_goes_by_addresses_and_its_names(
    guarded: RunningCollector, asked: Asked, host: str
) -> None:
    assert asked(guarded, SHOWN, host=host).status in LET_IN


FOREIGN_HOSTS = [
    "evil.example",
    "EVIL.example.",
    "evil.example:{port}",
    "127.0.0.1.evil.example",
    "localhost.evil.example:{port}",
    f"{ALLOWED}.evil.example",
    f"evil-{ALLOWED}",
    f"evil.{ALLOWED}",
    "example.com",
    "evillocalhost",
    "127.0.0.1@evil.example",
    "localhost:{port}@evil.example",
    "[::1]@evil.example",
    "evil.example#@127.0.0.1",
    "evil.example/@127.0.0.1",
    "evil.example?@127.0.0.1",
    "localhost\\.evil.example",
    "localhost, evil.example",
    "localhost evil.example",
    "localhost\xa0.evil.example",
    "127.1",  # browsers make 127.0.0.1 of these before they send them: to others they are names
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "::1",
    "[::1",
    "[localhost]",
    "[127.0.0.1]",
    "[evil.example]",
    "[v1.localhost]",
    "l\xf6calhost",
    "\xef\xbd\x8cocalhost",  # a wide "l", in UTF-8
    "localhost%00.evil.example",
    "%6cocalhost",
    "",
    ".",
    ":{port}",
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_it_goes_by_no_other_name(guarded: RunningCollector, asked: Asked, host: str) -> None:
    for lines in ((SHOWN,), ()):  # who may not be here isn't asked for the token
        answer = asked(guarded, *lines, host=host)
        assert answer.status == 421
        assert "--allow-host" in answer.json()["error"]


def test_health_is_not_told_to_a_page_either(guarded: RunningCollector) -> None:
    assert ask(guarded, target="/healthz", host="evil.example").status == 421


@pytest.mark.parametrize(
    "lines",
    [
        ("X-Forwarded-Host: localhost",),
        ("Forwarded: host=localhost", "X-Forwarded-Server: localhost"),
        ("X-Host: localhost", "X-Original-Host: localhost", "X-HTTP-Host-Override: localhost"),
        (":authority: localhost",),
    ],
)
def test_nothing_else_names_the_host(
    guarded: RunningCollector, asked: Asked, lines: tuple[str, ...]
) -> None:
    assert asked(guarded, SHOWN, *lines, host="evil.example").status in (400, 421)


@pytest.mark.parametrize(
    ("host", "lines"),
    [
        (None, ()),
        ("localhost", ("Host: evil.example",)),
        ("evil.example", ("Host: localhost",)),
        ("localhost", ("Host: localhost",)),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_host_is_named_once(
    guarded: RunningCollector, asked: Asked, host: str | None, lines: tuple[str, ...], version: str
) -> None:
    answer = asked(guarded, SHOWN, *lines, host=host, version=version)
    assert answer.status in (400, 421)  # the server's parser, or the rule
    assert b"events" not in answer.body


def test_target_with_a_host_in_it_does_not_stand_in_for_the_host(
    guarded: RunningCollector, asked: Asked
) -> None:
    for target in ("http://localhost/api/stats", "http://127.0.0.1:{port}/telemetry"):
        target = target.format(port=guarded.port)
        assert asked(guarded, SHOWN, target=target, host="evil.example").status == 421


@pytest.mark.parametrize("host", ["evil.example:{port}", "evil.example"])
def test_page_whose_name_was_led_here_is_refused(
    unguarded: RunningCollector, asked: Asked, host: str
) -> None:
    # To the browser both are of one site: it says so, and would let the page read the answer.
    lines = (f"Origin: http://{host}", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors")
    assert asked(unguarded, *lines, host=host).status == 421
    assert ask(unguarded, *lines, host=host, method="DELETE", target="/api/events").status == 421


def test_it_goes_by_the_name_that_it_listens_at() -> None:
    with collector_running(host="localhost") as collector:
        assert ask(collector, host="localhost:{port}").status == 200
        assert ask(collector, host="evil.example").status == 421


# The Origin: a page of another site is not to send what any page can send.

FOREIGN_ORIGINS = [
    "http://evil.example",
    "https://evil.example:{port}",
    "null",
    "",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "https://127.0.0.1:{port}",
    "http://localhost:{port}",
    "http://[::1]:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "http://127.0.0.1:{port}@evil.example",
    "http://evil.example@127.0.0.1:{port}",
    "http://evil.example#127.0.0.1:{port}",
    "http://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}, http://evil.example",
    "http://evil.example http://127.0.0.1:{port}",
    "127.0.0.1:{port}",
    "//127.0.0.1:{port}",
    "file://",
    "chrome-extension://abcdefghijklmnop",
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_page_of_another_origin_is_refused(
    guarded: RunningCollector, asked: Asked, origin: str
) -> None:
    for lines in ((SHOWN,), ()):  # a browser that knows the password sends it for any page
        answer = asked(guarded, *lines, f"Origin: {origin}")
        assert answer.status == 403
        assert answer.json() == {"error": "not for a page of another origin"}


@pytest.mark.parametrize(
    "origins",
    [
        ("http://127.0.0.1:{port}", "http://evil.example"),
        ("http://evil.example", "http://127.0.0.1:{port}"),
    ],
)
def test_of_several_origins_none_may_be_foreign(
    guarded: RunningCollector, asked: Asked, origins: tuple[str, ...]
) -> None:
    answer = asked(guarded, SHOWN, *(f"Origin: {origin}" for origin in origins))
    assert answer.status in (400, 403)
    assert b"events" not in answer.body


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (OWN, "http://127.0.0.1:{port}"),
        ("localhost:{port}", "http://localhost:{port}"),
        ("[::1]:{port}", "http://[::1]:{port}"),
        ("LOCALHOST", "HTTP://localhost"),
        (ALLOWED, f"http://{ALLOWED}"),
    ],
)
def test_its_own_page_is_let_in(
    guarded: RunningCollector, asked: Asked, host: str, origin: str
) -> None:
    assert asked(guarded, SHOWN, f"Origin: {origin}", host=host).status in LET_IN


def test_its_own_page_is_of_https_behind_a_proxy_that_says_so(
    guarded: RunningCollector, asked: Asked
) -> None:
    lines = (SHOWN, "X-Forwarded-Proto: https")
    assert asked(guarded, *lines, f"Origin: https://{ALLOWED}", host=ALLOWED).status in LET_IN
    assert asked(guarded, *lines, f"Origin: http://{ALLOWED}", host=ALLOWED).status == 403


def test_page_of_another_origin_writes_nothing(unguarded: RunningCollector) -> None:
    with playing(unguarded) as telemetry:
        telemetry.emit("kept")
        assert telemetry.flush(PATIENCE)

    mask = b"\0\0\0\0"
    frame = b"\x81" + bytes([0x80 | 126]) + len(EVENT).to_bytes(2, "big") + mask + EVENT.encode()
    handshake = request(unguarded, *UPGRADE, "Origin: http://evil.example", target="/telemetry")
    assert answers(unguarded, handshake + frame).startswith(b"HTTP/1.1 403 ")
    lines = ("Origin: http://evil.example", "Content-Type: text/plain")
    for method in ("DELETE", "POST", "PUT", "PATCH"):
        for target in ("/api/events", "/telemetry", "/"):
            answer = ask(unguarded, *lines, target=target, method=method, body=EVENT)
            assert answer.status == 403

    assert [event["type"] for event in unguarded.events()] == ["kept"]
    assert unguarded.stats()["rejected"] == 0


@pytest.mark.parametrize(
    "lines",
    [
        ("Access-Control-Request-Method: DELETE",),
        ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization"),
        (
            "Access-Control-Request-Method: GET",
            "Access-Control-Request-Private-Network: true",
        ),
    ],
)
def test_page_of_another_origin_that_asks_first_is_told_no(
    unguarded: RunningCollector, lines: tuple[str, ...]
) -> None:
    lines = (*lines, "Origin: http://evil.example", "Sec-Fetch-Mode: cors")
    answer = ask(unguarded, *lines, method="OPTIONS", target="/api/events")
    assert answer.status == 403
    assert_safe(answer)


# What browsers say about who asks. An image or a script of another site comes without an Origin.


@pytest.mark.parametrize(
    "says",
    [
        "cross-site no-cors image",
        "cross-site no-cors script",
        "cross-site no-cors empty",
        "cross-site cors empty",
        "cross-site same-origin worker",
        "cross-site websocket websocket",
        "same-site no-cors image",
        "same-site cors empty",
        "cross-site",
    ],
)
def test_what_another_site_fetches_is_refused(
    guarded: RunningCollector, asked: Asked, says: str
) -> None:
    for lines in ((SHOWN,), ()):
        answer = asked(guarded, *lines, *fetched(says))
        assert answer.status == 403
        assert answer.json() == {"error": "not for a page of another site"}


@pytest.mark.parametrize(
    "says",
    [
        "same-origin cors empty",
        "same-origin no-cors script",
        "same-origin navigate document",
        "none navigate document",  # typed, or a bookmark
        "cross-site navigate document",  # a link
        "same-site navigate document",
        "",
    ],
)
def test_its_own_page_links_and_those_who_say_nothing_are_let_in(
    guarded: RunningCollector, says: str
) -> None:
    for target in ("/", "/static/app.js", "/api/stats"):
        assert ask(guarded, SHOWN, *fetched(says), target=target).status == 200


def fetched(says: str) -> list[str]:
    names = ("Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest")
    return [f"{name}: {word}" for name, word in zip(names, says.split(), strict=False)]


@pytest.mark.parametrize(
    "lines",
    [
        ("Origin: http://evil.example", *fetched("cross-site navigate document")),
        ("Origin: null", *fetched("cross-site navigate document")),  # with no-referrer
        ("Origin: null", *fetched("cross-site navigate iframe")),
        ("Origin: http://evil.example", *fetched("cross-site no-cors empty")),
        ("Origin: http://evil.example",),  # from a browser that says no more
    ],
)
@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_form_of_another_site_sends_nothing(
    guarded: RunningCollector, lines: tuple[str, ...], media_type: str
) -> None:
    for target in ("/telemetry", "/api/events", "/"):
        asked = {"method": "POST", "target": target, "body": EVENT}
        answer = ask(guarded, SHOWN, *lines, f"Content-Type: {media_type}", **asked)
        assert answer.status == 403
    assert guarded.stats()["events"] == 0


# Deleting.


@pytest.mark.parametrize(
    ("allow_reset", "line", "status"),
    [
        (False, SHOWN, 403),
        (False, "Authorization: Bearer no", 401),
        (True, "Authorization: Bearer no", 401),
        (True, "X-No: token", 401),
        (True, SHOWN, 204),
    ],
)
def test_who_deletes_shows_the_token_and_was_allowed_to(
    allow_reset: bool, line: str, status: int
) -> None:
    token = TOKEN.partition(":")[0]
    with collector_running(token=token, allow_reset=allow_reset) as collector:
        with playing(collector, token=token) as telemetry:
            telemetry.emit("hit")
            assert telemetry.flush(PATIENCE)
        line = line.replace(TOKEN, token)
        assert ask(collector, line, method="DELETE", target="/api/events").status == status
        assert len(collector.events()) == (0 if status == 204 else 1)


def test_only_delete_deletes(unguarded: RunningCollector) -> None:
    with playing(unguarded) as telemetry:
        telemetry.emit("hit")
        assert telemetry.flush(PATIENCE)
    override = ("X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method: DELETE")
    for method in ("POST", "GET", "HEAD", "PUT", "PATCH", "OPTIONS"):
        ask(unguarded, *override, method=method, target="/api/events")
    ask(unguarded, *override, target="/api/events?_method=DELETE")
    assert len(unguarded.events()) == 1


# Starting.


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "192.0.2.7",
        "fe80::1",
        "",
        "0",
        "telemetry.example.com",
        "127.0.0.1.example.com",
        "localhost.example.com",
        "evillocalhost",
        "128.0.0.1",
    ],
)
def test_where_others_can_reach_it_it_wants_a_token(host: str) -> None:
    port = free_port()
    with pytest.raises(OptionsError, match=r"--token.* --insecure"):
        RunningCollector(Options(host=host, port=port, db=None)).start()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE)

    Options(host=host, token="sesame").check()
    Options(host=host, insecure=True).check()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_where_no_other_can_reach_it_it_wants_none(host: str) -> None:
    Options(host=host).check()


@pytest.mark.parametrize("token", ["", " ", "\t\n"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("insecure", [False, True])
def test_token_that_is_empty_is_a_mistake(token: str, host: str, insecure: bool) -> None:
    with pytest.raises(OptionsError, match="the token is empty"):
        Options(host=host, token=token, insecure=insecure).check()


def test_variable_that_is_empty_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDVSBLUE_COLLECTOR_TOKEN", "")
    command = ["collect", "--host", "0.0.0.0", "--port", "0", "--db", ":memory:"]
    told = subprocess.run(
        [sys.executable, "-m", "redvsblue_telemetry", *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert "token" in told.stderr


# Whatever is answered.

ANSWERS: dict[str, tuple[int, Callable[[RunningCollector], Answer]]] = {
    "page": (200, lambda c: ask(c, SHOWN, target="/")),
    "script": (200, lambda c: ask(c, SHOWN, target="/static/app.js")),
    "style": (200, lambda c: ask(c, SHOWN, target="/static/app.css")),
    "API": (200, lambda c: ask(c, SHOWN, target="/api/events")),
    "stream": (200, lambda c: ask(c, SHOWN, target="/api/live")),
    "metrics": (200, lambda c: ask(c, SHOWN, target="/metrics")),
    "health": (200, lambda c: ask(c, target="/healthz")),
    "HEAD": (200, lambda c: ask(c, SHOWN, target="/", method="HEAD")),
    "HEAD of the stream": (200, lambda c: ask(c, SHOWN, target="/api/live", method="HEAD")),
    "deleted": (204, lambda c: ask(c, SHOWN, target="/api/events", method="DELETE")),
    "bad parameter": (400, lambda c: ask(c, SHOWN, target="/api/events?limit=x")),
    "token is a parameter": (400, lambda c: ask(c, SHOWN, target="/api/stats?token=sesame-7")),
    "no token": (401, lambda c: ask(c)),
    "wrong token": (401, lambda c: ask(c, SHOWN + "x")),
    "HEAD without a token": (401, lambda c: ask(c, method="HEAD")),
    "other origin": (403, lambda c: ask(c, SHOWN, "Origin: http://evil.example")),
    "other site": (403, lambda c: ask(c, SHOWN, *fetched("cross-site no-cors script"))),
    "nothing in the API": (404, lambda c: ask(c, SHOWN, target="/api/nothing")),
    "no session": (404, lambda c: ask(c, SHOWN, target="/api/sessions/nobody")),
    "nothing elsewhere": (404, lambda c: ask(c, SHOWN, target="/nothing")),
    "no file": (404, lambda c: ask(c, SHOWN, target="/static/nothing.js")),
    "slash at the end": (404, lambda c: ask(c, SHOWN, target="/api/stats/")),
    "no slash at the end": (404, lambda c: ask(c, SHOWN, target="/static")),
    "other method": (405, lambda c: ask(c, SHOWN, target="/", method="POST")),
    "OPTIONS": (405, lambda c: ask(c, SHOWN, method="OPTIONS")),
    "TRACE": (405, lambda c: ask(c, SHOWN, method="TRACE")),
    "PUT": (405, lambda c: ask(c, SHOWN, method="PUT")),
    "other host": (421, lambda c: ask(c, SHOWN, host="evil.example")),
    "WebSocket without a token": (401, lambda c: shake(c)),
    "WebSocket of another origin": (403, lambda c: shake(c, SHOWN, "Origin: null")),
    "WebSocket elsewhere": (404, lambda c: shake(c, SHOWN, target="/")),
    "WebSocket of another host": (421, lambda c: shake(c, SHOWN, host="evil.example")),
}


def assert_safe(answer: Answer) -> None:
    for name, value in SAFE_HEADERS.items():
        assert answer.headers.get_all(name) == [value]
    (policy,) = answer.headers.get_all("Content-Security-Policy", [])
    parts = [part.split() for part in policy.split(";")]
    directives = {name: set(sources) for name, *sources in parts}
    assert len(directives) == len(parts)
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert directives[name] == {"'none'"}
    assert directives["script-src"] == {"'self'"}
    assert set().union(*directives.values()) == {"'none'", "'self'", "data:"}
    assert [name for name in directives if "data:" in directives[name]] == ["img-src"]
    names = {name.lower() for name in answer.headers}
    assert not [name for name in names if name.startswith("access-control-")]
    assert not names & {"location", "refresh", "set-cookie", "server", "x-powered-by"}


@pytest.mark.parametrize("kind", ANSWERS)
def test_every_answer_has_safe_headers_and_leads_nowhere(
    guarded: RunningCollector, kind: str
) -> None:
    status, asked = ANSWERS[kind]
    answer = asked(guarded)
    assert answer.status == status
    assert_safe(answer)
    if answer.status >= 400:
        assert answer.headers.get_content_type() in ("application/json", "text/plain")


@pytest.mark.parametrize("kind", ANSWERS)
def test_no_answer_tells_the_token(guarded: RunningCollector, kind: str) -> None:
    answer = ANSWERS[kind][1](guarded)
    assert TOKEN.partition(":")[0] not in text_of(answer)
    assert TOKEN not in text_of(answer)


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError(f"by {SHOWN}"), 500), (sqlite3.OperationalError("disk I/O error"), 503)],
)
def test_answer_to_an_error_of_its_own_is_as_safe(
    guarded: RunningCollector, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fails(_: sqlite3.Connection) -> None:
        raise error

    monkeypatch.setattr(queries, "totals", fails)
    answer = ask(guarded, SHOWN)
    assert answer.status == status
    assert_safe(answer)
    assert TOKEN not in text_of(answer)
    assert "Traceback" not in text_of(answer)


def test_refusal_of_a_head_has_no_body(guarded: RunningCollector) -> None:
    for lines in ((), (SHOWN, "Origin: null"), (SHOWN, "Sec-Fetch-Site: cross-site")):
        said = answers(guarded, request(guarded, *lines, method="HEAD"))
        assert said.endswith(b"\r\n\r\n")
        assert said.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "//evil.example/",
        "/\\evil.example",
        "/%5cevil.example",
        "/%2fevil.example/..",
        "//api/stats",
        "/api//stats",
        "/api/stats/",
        "/api/../api/stats",
        "/api/%2e%2e/api/stats",
        "/static/",
        "/static/../../access.py",
        "/static/%2e%2e/%2e%2e/access.py",
        "/static/..%2f..%2faccess.py",
        "/static/..%5c..%5caccess.py",
        "/static/%252e%252e/access.py",
        "/static/app.js/",
        "/static/app.js%00.css",
        "/../telemetry.sqlite3",
        "/%0d%0aLocation:%20http://evil.example",
        "/%0d%0a%0d%0a<script>",
        "/%ff%fe",
    ],
)
def test_no_path_leads_elsewhere(guarded: RunningCollector, asked: Asked, target: str) -> None:
    answer = asked(guarded, SHOWN, target=target)
    assert answer.status == 404
    assert_safe(answer)


def test_path_is_the_same_however_it_is_spelt(guarded: RunningCollector) -> None:
    plain = ask(guarded, SHOWN, target="/api/stats")
    for target in ("/%61pi/stats", "/api%2fstats", "/%61%70%69%2F%73%74%61%74%73"):
        assert ask(guarded, SHOWN, target=target).body == plain.body
