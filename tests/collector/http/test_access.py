"""Access control, tested the way an attacker would: with bytes on a socket."""

from __future__ import annotations

import contextlib
import hmac
import http.client
import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from starlette.datastructures import Headers

from redvsblue_telemetry.collector.http import guesses, static
from redvsblue_telemetry.collector.http.access import Access
from redvsblue_telemetry.collector.server import Options, OptionsError
from redvsblue_telemetry.collector.storage import queries
from tests.collector.clients import game
from tests.support import REPOSITORY
from tests.support.collector import PATIENCE, Answer, RunningCollector, basic, collector_running
from tests.support.wait import wait_until

ROOT = REPOSITORY
WORD = "sesame-7"
TOKEN = f"{WORD}:ab c"  # with what separates the parts of either scheme
SHOWN = f"Authorization: Bearer {TOKEN}"
ALLOWED = "telemetry.example.com"
OWN = "127.0.0.1:{port}"
FOREIGN = "Origin: http://evil.example"
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)
LET_IN = {200, 101}
METHODS = ("GET", "HEAD", "OPTIONS", "TRACE", "POST", "PUT", "PATCH", "DELETE")
API = """
    /api/events /api/sessions /api/sessions/s /api/rejected /api/stats /api/live /api/nothing
    /metrics /telemetry /telemetry/ /static/nothing /nothing
"""
PATHS = [*(route.path for route in static.routes), *API.split()]
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
    """A request as it stands on the wire, each line of its head as it is given."""
    head = [] if host is None else [f"Host: {host}"]
    head += lines
    if body:
        head.append(f"Content-Length: {len(body)}")
    if not any(line.startswith("Connection:") for line in lines):
        head.append("Connection: close")
    text = "\r\n".join([f"{method} {target} HTTP/{version}", *head, "", ""])
    return (text.replace("{port}", str(collector.port)) + body).encode("latin-1")


def answers(collector: RunningCollector, sent: bytes) -> bytes:
    """All that is answered, until the collector hangs up."""
    with socket.create_connection(("127.0.0.1", collector.port), PATIENCE) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(65536), b""))


def ask(collector: RunningCollector, *lines: str, method: str = "GET", **asked: Any) -> Answer:
    """Ask by HTTP; of a stream that doesn't end, without its body."""
    with socket.create_connection(("127.0.0.1", collector.port), PATIENCE) as client:
        client.sendall(request(collector, *lines, method=method, **asked))
        return answer_to(client, method)


def answer_to(client: socket.socket, method: str = "GET") -> Answer:
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


def fetched(says: str) -> list[str]:
    """What browsers say about who asks."""
    names = ("Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest")
    return [f"{name}: {word}" for name, word in zip(names, says.split(), strict=False)]


@pytest.fixture(params=[ask, shake])
def asked(request: pytest.FixtureRequest) -> Any:
    """By HTTP, and by WebSocket: the rules are the same."""
    return request.param


@pytest.fixture(autouse=True)
def answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold back no answer: tests/collector/http/test_guesses.py has the tests that wait for it."""
    monkeypatch.setattr(guesses, "_FIRST_DELAY", 0.0)


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningCollector]:
    """With a token, and with all that an attacker would want to be allowed."""
    with collector_running(token=TOKEN, hosts=(ALLOWED.title(),), allow_reset=True) as running:
        yield running


@pytest.fixture
def unguarded() -> Iterator[RunningCollector]:
    """Without a token, and with one event that is to be kept."""
    with collector_running(allow_reset=True) as running:
        with game(running) as telemetry:
            telemetry.emit("kept")
            assert telemetry.flush(PATIENCE)
        yield running


def stored(collector: RunningCollector) -> list[str]:
    return collector.events.types()


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
def test_the_token_is_accepted(guarded: RunningCollector, asked: Asked, line: str) -> None:
    assert asked(guarded, line).status in LET_IN


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Authorization:",),
        ("Authorization: Bearer",),
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
        (line_of(basic("", user=WORD)),),
        (line_of(basic(TOKEN + "\n")),),
        (line_of(basic(TOKEN.replace("a", "ä"))),),
        (line_of(basic(TOKEN)).replace("Basic", "Bearer"),),
        ("Authorization: Bearer no", SHOWN),
        (SHOWN, "Authorization: Bearer no"),
        (SHOWN, SHOWN),
        (f"Authorization: Bearer {TOKEN}\xa0",),
        (f"Authorization: Bearer \x85{TOKEN}",),
        (f"Proxy-Authorization: Bearer {TOKEN}", f"X-Token: {TOKEN}"),
        (f"Cookie: token={TOKEN}; Authorization=Bearer {TOKEN}",),
        (f"Sec-WebSocket-Protocol: bearer, {WORD}",),
        ("X-Forwarded-For: 127.0.0.1", "X-Original-URL: /healthz", "X-Rewrite-URL: /healthz"),
    ],
)
def test_anything_but_the_token_is_refused(
    guarded: RunningCollector, asked: Asked, lines: tuple[str, ...]
) -> None:
    answer = asked(guarded, *lines)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
    is_given = any(line.lower().startswith("authorization") for line in lines)
    assert answer.json() == {"error": f"{'wrong' if is_given else 'missing'} token"}


def test_browsers_learn_how_to_encode_the_password(guarded: RunningCollector) -> None:
    assert 'charset="UTF-8"' in ask(guarded).headers["WWW-Authenticate"]  # RFC 7617, section 2.1


def test_token_in_the_query_is_not_accepted(asked: Asked) -> None:
    with collector_running(token=WORD) as collector:
        for query in (f"?token={WORD}", f"?access_token={WORD}", f"?authorization=Bearer%20{WORD}"):
            assert asked(collector, target="/telemetry" + query).status == 401
            assert asked(collector, target="/api/stats" + query).status == 401


@pytest.mark.parametrize("method", METHODS)
def test_every_route_and_method_needs_the_token(guarded: RunningCollector, method: str) -> None:
    found = {path: ask(guarded, target=path, method=method).status for path in [*PATHS, "*"]}
    assert set(found.values()) == {401}, found


def test_every_websocket_needs_the_token(guarded: RunningCollector) -> None:
    found = {path: shake(guarded, target=path).status for path in PATHS}
    assert set(found.values()) == {401}, found


def test_only_health_needs_no_token(guarded: RunningCollector) -> None:
    for target in ("/healthz", "/%68ealthz", "/healthz?session=s"):
        answer = ask(guarded, target=target)
        assert (answer.status, answer.body) == (200, b"ok\n")
    assert shake(guarded, target="/healthz").status == 404
    for method in METHODS[2:]:
        assert ask(guarded, target="/healthz", method=method).status == 405


SPELLINGS = """
    /healthz/ //healthz /HEALTHZ /healthz%00 /healthz%20 /healthz%2f /healthz;/api/stats
    /healthz/../api/stats /healthz/%2e%2e/api/stats /healthz%2f..%2fapi%2fstats /healthz%3f
    /api/stats?/healthz /api/stats#/healthz /api/sessions/../../healthz /api%2fstats /%61pi/stats
    //api/stats /./api/stats /static/../api/stats /%74elemetry http://127.0.0.1/api/stats
    http://evil.example/healthz/../api/stats http://{port}.example/api/stats
"""


def test_no_spelling_of_a_path_gets_around_the_token(
    guarded: RunningCollector, asked: Asked
) -> None:
    found = {target: asked(guarded, target=target).status for target in SPELLINGS.split()}
    assert set(found.values()) == {401}, found


def test_each_request_of_a_connection_has_to_show_it(guarded: RunningCollector) -> None:
    first = request(guarded, SHOWN, "Connection: keep-alive")
    for second in (request(guarded), request(guarded, *UPGRADE, target="/telemetry")):
        with socket.create_connection(("127.0.0.1", guarded.port), PATIENCE) as client:
            client.sendall(first)
            assert answer_to(client).status == 200
            client.sendall(second)
            assert answer_to(client).status == 401


def test_game_with_the_token_is_let_in_and_one_with_another_is_not() -> None:
    with collector_running(token=WORD) as collector:
        for other in (None, "sesame-8"):
            with game(collector, token=other, stop_timeout=0.1) as telemetry:
                telemetry.emit("intruder")
                assert wait_until(lambda: "401" in str(telemetry.stats().last_error), PATIENCE)
        with game(collector, token=WORD) as telemetry:
            telemetry.emit("friend")
            assert telemetry.flush(PATIENCE)
        assert stored(collector) == ["friend"]


def test_token_is_compared_in_constant_time(
    guarded: RunningCollector, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[set[bytes]] = []
    really = hmac.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append({bytes(one), bytes(other)})
        return really(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    for guess in ("", "x", TOKEN[:-2], TOKEN[:-1] + "x", "x" + TOKEN[1:], TOKEN, "x" * 1000):
        for line in (f"Authorization: Bearer {guess}", line_of(basic(guess))):
            compared.clear()
            asked(guarded, line)
            assert compared == [{guess.encode(), TOKEN.encode()}]

    # And nothing that is quicker decides beside it.
    monkeypatch.setattr(hmac, "compare_digest", lambda *_: False)
    assert asked(guarded, SHOWN).status == 401
    monkeypatch.setattr(hmac, "compare_digest", lambda *_: True)
    assert asked(guarded, "Authorization: Bearer x").status in LET_IN


# The Host: a page whose name was made to lead here (DNS rebinding) is not to read what is here.

# An address can't be made to lead elsewhere, so any will do.
OWN_HOSTS = f"""
    {OWN} 127.0.0.1 localhost LocalHost.:{{port}} game.localhost [::1] [::1]:{{port}} 192.0.2.7
    [2001:DB8::7]:80 {ALLOWED} {ALLOWED.upper()}.:8443
"""

# Of 127.1, and of all like it, browsers make an address before they send it. Here it is a name.
FOREIGN_HOSTS = f"""
    evil.example EVIL.example. evil.example:{{port}} 127.0.0.1.evil.example localhost.evil.example
    {ALLOWED}.evil.example evil-{ALLOWED} evil.{ALLOWED} example.com evillocalhost
    127.0.0.1@evil.example localhost:{{port}}@evil.example [::1]@evil.example
    evil.example#@127.0.0.1 evil.example/@127.0.0.1 evil.example?@127.0.0.1
    localhost\\.evil.example localhost,evil.example 127.1 2130706433 0x7f000001 0177.0.0.1
    ::1 [::1 [localhost] [127.0.0.1] [evil.example] l\xf6calhost \xef\xbd\x8cocalhost
    localhost%00.evil.example %6cocalhost . :{{port}}
    evil.example@127.0.0.1 evil.example:1@localhost:{{port}} @localhost localhost/.evil.example
    localhost#.evil.example localhost?.evil.example [::1]evil.example [::1].evil.example:{{port}}
    [v1.localhost] localhost:evil 127.0.0.1:80:80 [::1]@localhost
"""


def test_it_goes_by_addresses_and_by_its_names(guarded: RunningCollector, asked: Asked) -> None:
    found = {host: asked(guarded, SHOWN, host=host).status for host in OWN_HOSTS.split()}
    assert set(found.values()) <= LET_IN, found


def test_it_goes_by_no_other_name(guarded: RunningCollector, asked: Asked) -> None:
    hosts = [*FOREIGN_HOSTS.split(), "", "localhost evil.example", "localhost, evil.example"]
    hosts.append("local\thost")
    for lines in ((SHOWN,), ()):  # who goes wrong by the name isn't asked for the token
        found = {host: asked(guarded, *lines, host=host) for host in hosts}
        assert {answer.status for answer in found.values()} == {421}, found
        assert all("--allow-host" in answer.json()["error"] for answer in found.values())


def test_health_is_refused_under_another_name(guarded: RunningCollector) -> None:
    assert ask(guarded, target="/healthz", host="evil.example").status == 421


def test_it_goes_by_the_name_that_it_listens_at() -> None:
    with collector_running(host="localhost") as collector:
        assert ask(collector, host="localhost:{port}").status == 200
        assert ask(collector, host="evil.example").status == 421


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
    assert asked(guarded, SHOWN, *lines, "Origin: http://localhost").status in (400, 403)


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
    assert answer.status in (400, 421)  # some parsers refuse it before the rules do
    assert b"events" not in answer.body


def test_host_is_named_once_whatever_parses_the_request() -> None:
    for names in ((), ("localhost", "evil.example"), ("localhost", "localhost")):
        headers = Headers(raw=[(b"host", name.encode()) for name in names])
        scope = {"type": "http", "path": "/", "scheme": "http", "headers": headers.raw}
        refusal = Access().check(scope, shows_token=False)
        assert refusal is not None
        assert refusal.status == 421


def test_host_of_the_target_does_not_stand_in(guarded: RunningCollector, asked: Asked) -> None:
    for target in ("http://localhost/api/stats", "http://127.0.0.1:{port}/telemetry"):
        assert asked(guarded, SHOWN, target=target, host="evil.example").status == 421


def test_page_whose_name_was_made_to_lead_here_is_refused(
    unguarded: RunningCollector, asked: Asked
) -> None:
    # To the browser they are of one origin: it says so, and would let the page read the answer.
    for host in ("evil.example:{port}", "evil.example"):
        lines = (f"Origin: http://{host}", *fetched("same-origin cors empty"))
        assert asked(unguarded, *lines, host=host).status == 421
        reset = {"method": "DELETE", "target": "/api/events"}
        assert ask(unguarded, *lines, host=host, **reset).status == 421
    assert stored(unguarded) == ["kept"]


# The Origin: what a page of another site can send to anybody is refused.

FOREIGN_ORIGINS = """
    http://evil.example https://evil.example:{port} null http://127.0.0.1 http://127.0.0.1:1
    http://localhost:{port} http://[::1]:{port}
    http://127.0.0.1:{port}.evil.example http://127.0.0.1:{port}@evil.example
    http://evil.example@127.0.0.1:{port} http://evil.example#127.0.0.1:{port}
    http://127.0.0.1:{port}/ http://127.0.0.1:{port},http://evil.example 127.0.0.1:{port}
    //127.0.0.1:{port} file:// chrome-extension://abcdefghijklmnop
"""


def test_page_of_another_origin_is_refused(guarded: RunningCollector, asked: Asked) -> None:
    origins = [*FOREIGN_ORIGINS.split(), "", "http://evil.example http://127.0.0.1:{port}"]
    for lines in ((SHOWN,), ()):  # a browser that knows the password sends it for any page
        found = {origin: asked(guarded, *lines, f"Origin: {origin}") for origin in origins}
        assert {answer.status for answer in found.values()} == {403}, found
        assert all("another origin" in answer.json()["error"] for answer in found.values())


def test_of_several_origins_none_may_be_foreign(guarded: RunningCollector, asked: Asked) -> None:
    own = f"Origin: http://{OWN}"
    for origins in ((own, FOREIGN), (FOREIGN, own)):
        answer = asked(guarded, SHOWN, *origins)
        assert answer.status in (400, 403)
        assert b"events" not in answer.body


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (OWN, f"http://{OWN}"),
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


def test_refusal_names_the_headers_and_what_to_set_in_the_proxy(
    guarded: RunningCollector, asked: Asked
) -> None:
    error = asked(guarded, SHOWN, FOREIGN).json()["error"]
    assert (
        f'the Origin is "http://evil.example", but the Host is "127.0.0.1:{guarded.port}"' in error
    )
    assert "proxy_set_header Host $http_host" in error
    error = asked(guarded, SHOWN, host="collectors").json()["error"]
    assert 'unknown host name "collectors"' in error
    assert "proxy_set_header Host $http_host" in error


# What browsers say about the site decides, where they do: a proxy can't break it.


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (OWN, "http://telemetry.lan:8080"),  # the proxy replaced the Host
        (ALLOWED, f"http://{ALLOWED}:8080"),  # it dropped the port
        (ALLOWED, f"https://{ALLOWED}"),  # it ended TLS
    ],
)
def test_what_its_own_page_sends_is_let_in_whatever_a_proxy_made_of_it(
    guarded: RunningCollector, asked: Asked, host: str, origin: str
) -> None:
    lines = (SHOWN, f"Origin: {origin}", *fetched("same-origin cors empty"))
    assert asked(guarded, *lines, host=host).status in LET_IN
    reset = {"method": "DELETE", "target": "/api/events"}
    assert ask(guarded, *lines, host=host, **reset).status == 204


@pytest.mark.parametrize("says", ["none", "same-origin, cross-site", "Same-Origin", ""])
def test_nothing_but_same_origin_stands_in_for_the_origin(
    guarded: RunningCollector, asked: Asked, says: str
) -> None:
    answer = asked(guarded, SHOWN, FOREIGN, f"Sec-Fetch-Site: {says}")
    assert answer.status == 403


def test_site_is_named_once(guarded: RunningCollector, asked: Asked) -> None:
    for sites in (("same-origin", "cross-site"), ("cross-site", "same-origin")):
        lines = [f"Sec-Fetch-Site: {site}" for site in sites]
        assert asked(guarded, SHOWN, *lines).status == 403
        assert asked(guarded, SHOWN, FOREIGN, *lines).status == 403


def test_tls_that_ends_at_a_proxy_needs_no_word_of_it(
    guarded: RunningCollector, asked: Asked
) -> None:
    for host in (ALLOWED, f"{ALLOWED}:443"):
        assert asked(guarded, SHOWN, f"Origin: https://{ALLOWED}", host=host).status in LET_IN
    for origin in (f"https://{ALLOWED}:8443", f"http://{ALLOWED}:443"):
        assert asked(guarded, SHOWN, f"Origin: {origin}", host=ALLOWED).status == 403


def test_page_on_another_port_of_the_host_is_refused(
    guarded: RunningCollector, asked: Asked
) -> None:
    for origin in (f"http://{ALLOWED}:8080", f"https://{ALLOWED}:8080"):
        assert asked(guarded, SHOWN, f"Origin: {origin}", host=ALLOWED).status == 403
        lines = (f"Origin: {origin}", *fetched("same-site cors empty"))
        assert asked(guarded, SHOWN, *lines, host=ALLOWED).status == 403


def test_own_files_may_be_got_from_any_origin_that_is_not_known_to_be_another_site(
    guarded: RunningCollector,
) -> None:
    # Browsers send the Origin with a module script, and at plain HTTP nothing that says more.
    target = "/static/app.js"
    assert ask(guarded, SHOWN, FOREIGN, target=target).status == 200
    assert ask(guarded, FOREIGN, target=target).status == 401
    assert ask(guarded, SHOWN, FOREIGN, target=target, method="POST").status == 403
    assert shake(guarded, SHOWN, FOREIGN, target=target).status == 403
    lines = (FOREIGN, *fetched("cross-site cors script"))
    assert ask(guarded, SHOWN, *lines, target=target).status == 403
    for other in ("/static", "/", "/api/stats"):
        assert ask(guarded, SHOWN, FOREIGN, target=other).status == 403
    assert ask(guarded, SHOWN, FOREIGN, target="/static/../api/stats").status == 404


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_form_of_another_site_is_not_a_link(unguarded: RunningCollector, site: str) -> None:
    for method in ("POST", "DELETE", "PUT"):
        lines = fetched(f"{site} navigate document")
        answer = ask(unguarded, *lines, method=method, target="/api/events")
        assert answer.status == 403
    assert shake(unguarded, *fetched(f"{site} navigate document")).status == 403
    assert stored(unguarded) == ["kept"]


def test_page_of_another_origin_writes_nothing(unguarded: RunningCollector) -> None:
    mask = b"\0\0\0\0"
    frame = b"\x81" + bytes([0x80 | 126]) + len(EVENT).to_bytes(2, "big") + mask + EVENT.encode()
    handshake = request(unguarded, *UPGRADE, FOREIGN, target="/telemetry")
    assert answers(unguarded, handshake + frame).startswith(b"HTTP/1.1 403 ")
    for method in METHODS:
        for target in ("/api/events", "/telemetry", "/"):
            lines = (FOREIGN, "Content-Type: text/plain")
            answer = ask(unguarded, *lines, target=target, method=method, body=EVENT)
            assert answer.status == 403

    assert stored(unguarded) == ["kept"]
    assert unguarded.rejected == []


@pytest.mark.parametrize(
    "asks", ["Headers: authorization", "Headers: content-type", "Private-Network: true"]
)
def test_preflight_of_another_origin_is_refused(unguarded: RunningCollector, asks: str) -> None:
    lines = (FOREIGN, "Access-Control-Request-Method: DELETE", f"Access-Control-Request-{asks}")
    answer = ask(unguarded, *lines, method="OPTIONS", target="/api/events")
    assert answer.status == 403
    assert_safe(answer)


# What browsers say about who asks: an image or a script of another site comes without an Origin.


@pytest.mark.parametrize(
    "says",
    [
        "cross-site no-cors image",
        "cross-site no-cors script",
        "cross-site cors empty",
        "cross-site same-origin worker",
        "cross-site websocket websocket",
        "cross-site navigate iframe",
        "cross-site navigate embed",
        "same-site navigate frame",
        "unheard-of no-cors image",
        "Cross-Site no-cors image",
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
        assert answer.json() == {"error": "pages of another site are not allowed"}


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


@pytest.mark.parametrize(
    "lines",
    [
        (FOREIGN, *fetched("cross-site navigate document")),
        ("Origin: null", *fetched("cross-site navigate iframe")),  # by a page with no-referrer
        (FOREIGN, *fetched("cross-site no-cors empty")),
        (FOREIGN,),  # by a browser that says no more
    ],
)
def test_form_of_another_site_sends_nothing(
    guarded: RunningCollector, lines: tuple[str, ...]
) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        for target in ("/telemetry", "/api/events", "/"):
            sent = {"method": "POST", "target": target, "body": EVENT}
            answer = ask(guarded, SHOWN, *lines, f"Content-Type: {media_type}", **sent)
            assert answer.status == 403
    assert stored(guarded) == []


# Deleting.


@pytest.mark.parametrize(
    ("allow_reset", "line", "status"),
    [
        (False, f"Authorization: Bearer {WORD}", 403),
        (False, "Authorization: Bearer no", 401),
        (True, "Authorization: Bearer no", 401),
        (True, "X-No: token", 401),
        (True, f"Authorization: Bearer {WORD}", 204),
    ],
)
def test_who_deletes_was_allowed_to_and_shows_the_token(
    allow_reset: bool, line: str, status: int
) -> None:
    with collector_running(token=WORD, allow_reset=allow_reset) as collector:
        with game(collector, token=WORD) as telemetry:
            telemetry.emit("kept")
            assert telemetry.flush(PATIENCE)
        assert ask(collector, line, method="DELETE", target="/api/events").status == status
        assert stored(collector) == ([] if status == 204 else ["kept"])


def test_only_delete_deletes(unguarded: RunningCollector) -> None:
    override = ("X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method: DELETE")
    for method in METHODS[:-1]:
        ask(unguarded, *override, method=method, target="/api/events")
        ask(unguarded, *override, method=method, target="/api/events?_method=DELETE")
    assert stored(unguarded) == ["kept"]


# Starting.


def test_empty_variable_is_not_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDVSBLUE_COLLECTOR_TOKEN", "")
    command = [sys.executable, "-m", "redvsblue_telemetry", "collect", "--db", ":memory:"]
    told = subprocess.run(
        [*command, "--host", "0.0.0.0", "--port", "0"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert "token" in told.stderr


def test_name_does_not_prove_that_others_cannot_reach_it() -> None:
    options = Options(host="game.localhost")
    options.check()
    with pytest.raises(OptionsError, match=r"other machines can reach 192\.0\.2\.7"):
        options.check_reach("192.0.2.7")


def test_proxy_at_the_same_machine_does_not_make_it_private() -> None:
    with pytest.raises(OptionsError, match="through the proxy; pass --token, or --insecure"):
        Options(trust_proxy=True).check()
    Options(trust_proxy=True, token=WORD).check()
    Options(trust_proxy=True, insecure=True).check()


def test_options_do_not_show_the_token() -> None:
    assert WORD not in repr(Options(token=WORD))


# Invalid handshakes.


@pytest.mark.parametrize(
    ("lines", "body"),
    [(("X: " + "x" * 9000,), ""), ((), EVENT), (("Transfer-Encoding: chunked",), "")],
)
def test_invalid_handshake_is_disconnected(lines: tuple[str, ...], body: str) -> None:
    with collector_running() as collector:
        sent = request(collector, *UPGRADE, *lines, target="/telemetry", body=body)
        assert b"HTTP/1.1 101" not in answers(collector, sent)
        with socket.create_connection(("127.0.0.1", collector.port), PATIENCE) as client:
            client.sendall(sent)
            collector.stop()


def test_refused_handshake_is_not_logged_as_an_error(
    guarded: RunningCollector, caplog: pytest.LogCaptureFixture
) -> None:
    for lines in ((), (SHOWN, FOREIGN), (SHOWN, "Sec-Fetch-Site: cross-site")):
        shake(guarded, *lines)
    shake(guarded, SHOWN, target="/nothing")
    shake(guarded, SHOWN, host="evil.example")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# Every response.

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
    "token as a parameter": (400, lambda c: ask(c, SHOWN, target=f"/api/stats?token={WORD}")),
    "no token": (401, ask),
    "wrong token": (401, lambda c: ask(c, SHOWN + "x")),
    "HEAD without a token": (401, lambda c: ask(c, method="HEAD")),
    "other origin": (403, lambda c: ask(c, SHOWN, FOREIGN)),
    "other site": (403, lambda c: ask(c, SHOWN, *fetched("cross-site no-cors script"))),
    "nothing in the API": (404, lambda c: ask(c, SHOWN, target="/api/nothing")),
    "no session": (404, lambda c: ask(c, SHOWN, target="/api/sessions/nobody")),
    "nothing elsewhere": (404, lambda c: ask(c, SHOWN, target="/nothing")),
    "no file": (404, lambda c: ask(c, SHOWN, target="/static/nothing.js")),
    "slash at the end": (404, lambda c: ask(c, SHOWN, target="/api/stats/")),
    "no slash at the end": (404, lambda c: ask(c, SHOWN, target="/static")),
    "POST": (405, lambda c: ask(c, SHOWN, target="/", method="POST")),
    "OPTIONS": (405, lambda c: ask(c, SHOWN, method="OPTIONS")),
    "TRACE": (405, lambda c: ask(c, SHOWN, method="TRACE")),
    "PUT": (405, lambda c: ask(c, SHOWN, method="PUT")),
    "other host": (421, lambda c: ask(c, SHOWN, host="evil.example")),
    "WebSocket without a token": (401, shake),
    "WebSocket of another origin": (403, lambda c: shake(c, SHOWN, "Origin: null")),
    "WebSocket elsewhere": (404, lambda c: shake(c, SHOWN, target="/")),
    "WebSocket of another host": (421, lambda c: shake(c, SHOWN, host="evil.example")),
}


def assert_safe(answer: Answer) -> None:
    """Its headers let a browser do no more with it than the page needs, and lead nowhere."""
    expected = {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    assert {name: answer.headers.get_all(name) for name in expected} == {
        name: [value] for name, value in expected.items()
    }
    (policy,) = answer.headers.get_all("Content-Security-Policy", [])
    parts = [part.split() for part in policy.split(";")]
    directives = {name: set(sources) for name, *sources in parts}
    assert len(directives) == len(parts)
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert directives.pop(name) == {"'none'"}
    assert directives.pop("img-src") <= {"'self'", "data:"}
    assert directives.keys() == {"script-src", "style-src", "connect-src"}
    assert all(sources == {"'self'"} for sources in directives.values())
    names = {name.lower() for name in answer.headers}
    assert not [name for name in names if name.startswith("access-control-")]
    assert not names & {"location", "refresh", "set-cookie", "server", "x-powered-by"}


@pytest.mark.parametrize("kind", ANSWERS)
def test_every_answer_is_safe_and_holds_no_token(guarded: RunningCollector, kind: str) -> None:
    status, asked = ANSWERS[kind]
    answer = asked(guarded)
    assert answer.status == status
    assert_safe(answer)
    assert WORD not in f"{answer.headers}\n{answer.body.decode()}"
    if status >= 400:
        assert answer.headers.get_content_type() in ("application/json", "text/plain")


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError(f"by {SHOWN}"), 500), (sqlite3.OperationalError("disk I/O error"), 503)],
)
def test_answer_to_an_internal_error_is_as_safe(
    guarded: RunningCollector, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fails(_: sqlite3.Connection, **__: object) -> None:
        raise error

    monkeypatch.setattr(queries, "totals", fails)
    answer = ask(guarded, SHOWN)
    assert answer.status == status
    assert_safe(answer)
    assert answer.json().keys() == {"error"}
    assert WORD not in answer.body.decode()


def test_refusal_of_a_head_has_no_body(guarded: RunningCollector) -> None:
    for lines in ((), (SHOWN, "Origin: null"), (SHOWN, "Sec-Fetch-Site: cross-site")):
        said = answers(guarded, request(guarded, *lines, method="HEAD"))
        assert said.index(b"\r\n\r\n") == len(said) - 4


ELSEWHERE = r"""
    //evil.example //evil.example/ /\evil.example /%5cevil.example /%2fevil.example/..
    //api/stats /api//stats /api/stats/ /api/../api/stats /api/%2e%2e/api/stats /static/
    /static/../../access.py /static/%2e%2e/%2e%2e/access.py /static/..%2f..%2faccess.py
    /static/..%5c..%5caccess.py /static/%252e%252e/access.py /static/app.js/ /static/app.js%00.css
    /../telemetry.sqlite3 /%0d%0aLocation:%20http://evil.example /%0d%0a%0d%0a<script> /%ff%fe
"""


def test_no_path_leads_elsewhere(guarded: RunningCollector, asked: Asked) -> None:
    for target in ELSEWHERE.split():
        answer = asked(guarded, SHOWN, target=target)
        assert answer.status == 404, target
        assert_safe(answer)


def test_path_is_the_same_however_it_is_spelt(guarded: RunningCollector) -> None:
    plain = ask(guarded, SHOWN, target="/api/frames")
    for target in ("/%61pi/frames", "/api%2fframes", "/%61%70%69%2F%66%72%61%6d%65%73"):
        assert ask(guarded, SHOWN, target=target).body == plain.body
