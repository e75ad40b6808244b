"""The collector's page behind real reverse proxies, in a real browser.

Four ordinary set-ups are each wrong in some way, and the page works all the same. The files of
``deploy`` are right: nothing but their ports and paths is replaced.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.sync.client import ClientConnection

from tests.collector.clients import connect_over_tls, game
from tests.support import REPOSITORY
from tests.support.browser import OFFER, Look, event_text, expect, look, rows
from tests.support.chromium import needs_chromium
from tests.support.collector import PATIENCE, RunningCollector, bearer, collector_running
from tests.support.proxies import AROUND, reverse_proxy
from tests.support.systems import needs_loopback_net

__all__ = ["look"]  # a fixture

NAME = "telemetry.example.com"  # chromium.py makes it lead to this machine
IGNORED = "Cross-Origin-Opener-Policy header has been ignored"  # at plain HTTP, elsewhere
SETUPS = ("default Host", "Host without its port", "TLS without a word", "prefix")

NGINX = """
    server {
      listen 127.0.0.1:PORT%(tls)s;
      location %(prefix)s/ {
        proxy_pass http://127.0.0.1:SERVER%(stripped)s;
        %(host)s
      }
    }
"""
NGINX_TLS = " ssl; ssl_certificate FOLDER/both.pem; ssl_certificate_key FOLDER/both.pem"
HAPROXY = """
frontend page
  bind 127.0.0.1:PORT%(tls)s
  %(rule)s
  default_backend collectors
backend collectors
  server one 127.0.0.1:SERVER
"""
CADDY = """
    %(site)s:PORT {
      %(tls)s
      %(handle)s {
        reverse_proxy 127.0.0.1:SERVER {
          %(header)s
        }
      }
    }
"""


def nginx(**parts: str) -> str:
    return NGINX % {"tls": "", "prefix": "", "stripped": "", "host": "", **parts}


def haproxy(**parts: str) -> str:
    return HAPROXY % {"tls": "", "rule": "", **parts}


def caddy(**parts: str) -> str:
    whole = {"site": "http://", "tls": "", "handle": "handle", "header": ""}
    return CADDY % (whole | parts)


WRONG = {
    "nginx": (
        nginx(),
        nginx(host="proxy_set_header Host $host;"),
        nginx(tls=NGINX_TLS, host="proxy_set_header Host $http_host;"),
        nginx(prefix="/t", stripped="/"),
    ),
    "haproxy": (
        haproxy(rule="http-request set-header Host 127.0.0.1:SERVER"),
        haproxy(rule="http-request set-header Host %[req.hdr(host),field(1,:)]"),
        haproxy(tls=" ssl crt FOLDER/both.pem"),
        haproxy(rule=r"http-request replace-path /t(/.*) \1"),
    ),
    "caddy": (
        caddy(header="header_up Host {upstream_hostport}"),
        caddy(header="header_up Host {host}"),
        caddy(
            site="https://",
            tls="tls FOLDER/both.pem FOLDER/both.pem",
            header="header_up -X-Forwarded-Proto",
        ),
        caddy(handle="handle_path /t/*"),
    ),
}


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """An authority, and a file with a certificate of it and its key."""
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    certificate = authority.issue_cert(NAME, "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
    return authority, path


@pytest.fixture
def folder(tmp_path: Path, certified: tuple[trustme.CA, Path]) -> Path:
    """A proxy's own, with the certificate in it."""
    made = tmp_path / "proxy"
    made.mkdir()
    (made / "both.pem").write_bytes(certified[1].read_bytes())
    return made


def assert_works(look: Look, collector: RunningCollector, url: str, token: str | None) -> None:
    """The page is live, shows events as they arrive, and its filter works and can be shared."""
    credentials = {"username": "me", "password": token} if token else None
    page = look(url, faults_allowed=IGNORED, ignore_https_errors=True, http_credentials=credentials)
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#not-loaded")).to_be_hidden()
    socket_url = re.sub("^http", "ws", url) + "telemetry"
    expect(page.locator("#snippet")).to_contain_text(f'url="{socket_url}"')
    with game(collector, token=token) as telemetry:
        telemetry.emit("hit")
        telemetry.emit("miss")
        assert telemetry.flush(PATIENCE)
        expect(rows(page)).to_have_count(2)
        page.locator("#filter-type").fill("hit")
        expect(rows(page)).to_have_count(1)
        assert page.url == f"{url}?type=hit"
        telemetry.emit("hit")
        telemetry.emit("miss")
        assert telemetry.flush(PATIENCE)
        expect(rows(page)).to_have_count(2)
        page.reload()
        expect(rows(page)).to_have_count(2)
        expect(page.locator("#connection")).to_have_text("live")
        rows(page).nth(0).locator("button").click()
        expect(page.locator("#detail-title")).to_have_text("hit")
        expect(page.locator("#detail-facts")).to_contain_text("received")
    page.close()


@needs_chromium
@pytest.mark.parametrize(
    ("name", "setup", "token"),
    [
        # Each set-up with and without a token, by two of the proxies: a browser takes its time.
        (name, setup, (None, "sesame")[(place + number) % 2])
        for place, name in enumerate(WRONG)
        for number, setup in enumerate(SETUPS)
    ],
)
def test_page_works_behind_a_proxy_that_is_set_up_like_this(
    name: str, setup: str, token: str | None, folder: Path, look: Look
) -> None:
    config = AROUND[name].replace("SITE", WRONG[name][SETUPS.index(setup)])
    with (
        collector_running(token=token) as collector,
        reverse_proxy(name, config, folder, collector.port) as port,
    ):
        scheme = "https" if setup == "TLS without a word" else "http"
        prefix = "t/" if setup == "prefix" else ""
        assert_works(look, collector, f"{scheme}://127.0.0.1:{port}/{prefix}", token)


@needs_chromium
@pytest.mark.parametrize("setup", SETUPS[:2])
def test_page_works_where_browsers_do_not_say_the_site(
    setup: str, folder: Path, look: Look
) -> None:
    # At plain HTTP, they do so for addresses of the own machine only.
    config = AROUND["nginx"].replace("SITE", WRONG["nginx"][SETUPS.index(setup)])
    with (
        collector_running(hosts=(NAME,)) as collector,
        reverse_proxy("nginx", config, folder, collector.port) as port,
    ):
        assert_works(look, collector, f"http://{NAME}:{port}/", None)


# The files of deploy.

FILES = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile"}
REPLACED = {
    "nginx": {
        "listen 443 ssl": "listen 127.0.0.1:PORT ssl",
        "/etc/ssl/telemetry/fullchain.pem": "FOLDER/both.pem",
        "/etc/ssl/telemetry/privkey.pem": "FOLDER/both.pem",
    },
    "haproxy": {
        "bind :443": "bind 127.0.0.1:PORT",
        "/etc/haproxy/telemetry.pem": "FOLDER/both.pem",
    },
    "caddy": {
        f"\n{NAME} {{": f"\nhttps://{NAME}:PORT {{\n\ttls FOLDER/both.pem FOLDER/both.pem",
    },
}


def deployed(name: str) -> str:
    """The file of ``deploy``, with other ports and paths; HAProxy's is complete."""
    text = (REPOSITORY / "deploy" / FILES[name]).read_text(encoding="utf-8")
    for before, after in {**REPLACED[name], "127.0.0.1:3000": "127.0.0.1:SERVER"}.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text if name == "haproxy" else AROUND[name].replace("SITE", text)


@pytest.fixture(params=FILES)
def site(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[RunningCollector, int]]:
    """A collector as the files of deploy want it, and the port of the proxy before it."""
    options: dict[str, Any] = {"trust_proxy": True, "hosts": (NAME,)}
    with (
        collector_running(token="sesame", **options) as collector,
        reverse_proxy(request.param, deployed(request.param), folder, collector.port) as port,
    ):
        yield collector, port


@needs_chromium
def test_page_works_behind_the_files_of_deploy(
    site: tuple[RunningCollector, int], look: Look
) -> None:
    collector, port = site
    assert_works(look, collector, f"https://{NAME}:{port}/", "sesame")


def status_through(site: tuple[RunningCollector, int], context: ssl.SSLContext, *lines: str) -> int:
    """The status of an answer to a client at 127.0.0.2."""
    _, port = site
    raw = socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=("127.0.0.2", 0))
    with context.wrap_socket(raw, server_hostname=NAME) as secured:
        head = ["GET /api/stats HTTP/1.1", f"Host: {NAME}:{port}", *lines, "", ""]
        secured.sendall("\r\n".join(head).encode())
        with contextlib.closing(http.client.HTTPResponse(secured)) as response:
            response.begin()
            return response.status


def socket_through(
    site: tuple[RunningCollector, int], authority: trustme.CA, **headers: str
) -> ClientConnection:
    _, port = site
    return connect_over_tls(
        f"wss://{NAME}:{port}/telemetry",
        authority,
        sock=socket.create_connection(("127.0.0.1", port), PATIENCE),
        additional_headers={**OFFER, **bearer("sesame"), **headers},
    )


@pytest.fixture
def context(certified: tuple[trustme.CA, Path]) -> ssl.SSLContext:
    made = ssl.create_default_context()
    certified[0].configure_trust(made)
    return made


def test_events_pass_through_the_files_of_deploy(
    site: tuple[RunningCollector, int],
    certified: tuple[trustme.CA, Path],
    context: ssl.SSLContext,
) -> None:
    collector, port = site
    own = {"Origin": f"https://{NAME}:{port}"}
    for number, headers in ((1, {}), (2, own)):
        with socket_through(site, certified[0], **headers) as websocket:
            websocket.send(f"[{event_text(seq=number)}]")
            assert websocket.recv(PATIENCE) == '{"ack":1}'
    assert len(collector.events) == 2
    for origin in (f"http://{NAME}:{port}", f"https://{NAME}", "https://evil.example"):
        status = status_through(site, context, f"Origin: {origin}", "Authorization: Bearer sesame")
        assert status == 403


@needs_loopback_net
def test_collector_learns_the_address_through_the_files_of_deploy(
    site: tuple[RunningCollector, int], context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    forged = ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Host: evil.example")
    forged += ("X-Forwarded-Proto: http", "X-Forwarded-Prefix: /api")
    assert status_through(site, context, "Authorization: Bearer guess", *forged) == 401
    found = [record.getMessage() for record in caplog.records if "token" in record.getMessage()]
    assert found == ["refused a request: wrong token; from 127.0.0.2"]
