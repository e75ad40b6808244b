"""Gateways behind a real HAProxy, with the file of ``deploy``."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trustme

pytest.importorskip("nats", reason="needs nats-py")

from redvsblue_telemetry import Telemetry
from tests.cluster.gateways import Gateway, first_ones, gateway_running, numbers, stream_messages
from tests.collector.clients import ACKS, connect_over_tls, game
from tests.support import REPOSITORY
from tests.support.proxies import reverse_proxy
from tests.support.wait import PATIENCE, wait_until

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NAME = "telemetry.example.com"
GAMES = 4
NEVER = 600.0  # seconds until a game leaves a gateway by itself
OPTIONS = ("--trust-proxy", "--allow-host", NAME, "--insecure")
FILE = REPOSITORY / "deploy" / "haproxy-gateways.cfg"


class Balancer(NamedTuple):
    url: str
    authority: trustme.CA

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@contextlib.contextmanager
def haproxy(folder: Path, *gateways: Gateway) -> Iterator[Balancer]:
    """HAProxy in front of two gateways."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    one, other = (gateway.http_url.removeprefix("http://").rstrip("/") for gateway in gateways)
    text = FILE.read_text(encoding="utf-8")
    for before, after in {
        "bind :443": "bind 127.0.0.1:PORT",
        "/etc/haproxy/telemetry.pem": "FOLDER/both.pem",
        "10.0.0.11:3000": one,
        "10.0.0.12:3000": other,
    }.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    with reverse_proxy("haproxy", text, folder, 0) as port:
        yield Balancer(f"wss://127.0.0.1:{port}/telemetry", authority)


@contextlib.contextmanager
def games_at(balancer: Balancer) -> Iterator[list[Telemetry]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(game(balancer, ssl_context=balancer.context, confirm_timeout=NEVER))
            for _ in range(GAMES)
        ]


def connections(gateway: Gateway) -> int:
    return int(gateway.metric("connections"))


def gets_clients(gateway: Gateway, balancer: Balancer) -> bool:
    with connect_over_tls(balancer.url, balancer.authority, additional_headers=ACKS):
        return connections(gateway) > 0


@contextlib.contextmanager
def hanging(gateway: Gateway) -> Iterator[None]:
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(gateway.pid, signal.SIGCONT)


def test_games_leave_a_gateway_that_hangs(stream_servers: StreamServers, tmp_path: Path) -> None:
    with (
        gateway_running(stream_servers.urls, *OPTIONS) as one,
        gateway_running(stream_servers.urls, *OPTIONS) as other,
        haproxy(tmp_path, one, other) as balancer,
        games_at(balancer) as games,
    ):
        for telemetry in games:
            telemetry.emit("hit")
            assert telemetry.flush(PATIENCE)
        assert connections(one) == connections(other) == GAMES // 2
        with hanging(one):
            for telemetry in games:
                telemetry.emit("hit")
            assert all(telemetry.flush(PATIENCE) for telemetry in games)
            assert connections(other) == GAMES
        assert wait_until(lambda: gets_clients(one, balancer))  # again
        sent = {telemetry.session_id: [1, 2] for telemetry in games}
    found = numbers(stream_messages(stream_servers))
    assert {session: first_ones(each) for session, each in found.items()} == sent


def test_a_gateway_without_a_stream_gets_no_games(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    with (
        gateway_running(stream_servers.urls, *OPTIONS) as one,
        gateway_running(["nats://127.0.0.1:1"], *OPTIONS) as other,
        haproxy(tmp_path, one, other) as balancer,
    ):
        assert not other.is_healthy
        with games_at(balancer) as games:
            for telemetry in games:
                telemetry.emit("hit")
            assert all(telemetry.flush(PATIENCE) for telemetry in games)
            assert connections(one) == GAMES
            assert connections(other) == 0
