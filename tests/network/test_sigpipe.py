"""No write of ours can kill the process, even where SIGPIPE has its default action."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from redvsblue_telemetry.testing import RecordingServer
from tests.support.connect_proxy import ConnectProxy, relay_to
from tests.support.raw_server import Script, frame, raw_server, shake_hands
from tests.support.sockets import server_context
from tests.support.systems import needs_sigpipe

pytestmark = needs_sigpipe


def run_game(script: str, *args: str, timeout: float = 40) -> str:
    """Run a game whose host left SIGPIPE alone; return what it printed."""
    begin = "import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
    game = subprocess.run(
        [sys.executable, "-c", begin + script, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert game.returncode == 0, (game.returncode, game.stderr)  # -13 is SIGPIPE
    return game.stdout


A_BARE_WRITE = """
import socket
one, other = socket.socketpair()
other.close()
one.send(b"x")
"""


def test_such_a_host_is_killed_by_a_write_without_precaution() -> None:
    with pytest.raises(AssertionError, match=f"-{signal.SIGPIPE.value}"):
        run_game(A_BARE_WRITE)


A_WAKE_UP = """
import socket
from redvsblue_telemetry._delivery.poller import Poller

poller = Poller()
poller._receiver.shutdown(socket.SHUT_RDWR)
poller.wake()
poller.close()
print("alive")
"""


def test_a_wake_up_whose_other_end_is_shut_down_does_not_kill() -> None:
    assert run_game(A_WAKE_UP) == "alive\n"


A_GAME = """
import ssl, sys
from redvsblue_telemetry import start_telemetry

url, certificates = sys.argv[1:]
telemetry = start_telemetry(
    enabled=True,
    url=url,
    ssl_context=ssl.create_default_context(cafile=certificates) if certificates else None,
    drain_interval=0.01,
    backoff_base=0.001,
    backoff_max=0.001,
)
for number in range(20):
    telemetry.emit("x", number=number)
print(telemetry.flush(30), telemetry.stats().delivered)
"""

_DOORS = 12  # each of them killed a game in at least half of the runs


def ping_and_close(client: socket.socket) -> None:
    """Shake hands, ask for more answers than there will be a reader for, and close."""
    shake_hands(client)
    client.sendall(frame(0x9, b"ping") * 500)


def close_in_the_handshake(client: socket.socket) -> None:
    client.recv(1)


def do_not_even_read(client: socket.socket) -> None:
    pass


SLAMS = {
    "after 500 pings": ping_and_close,
    "in the handshake": close_in_the_handshake,
    "at once": do_not_even_read,
}


def slam_then_deliver(slam: Script, port: int) -> Script:
    scripts = itertools.chain(itertools.repeat(slam, _DOORS), itertools.repeat(relay_to(port)))
    return lambda client: next(scripts)(client)  # noqa: PLW0108 (the next one for each client)


@pytest.mark.parametrize("slam", SLAMS.values(), ids=SLAMS)
def test_a_game_survives_a_server_that_closes_under_its_writes(
    slam: Script, server: RecordingServer
) -> None:
    with raw_server(slam_then_deliver(slam, server.port)) as port:
        assert run_game(A_GAME, f"ws://127.0.0.1:{port}/", "") == "True 20\n"
    assert {event["data"]["number"] for event in server.events} == set(range(20))


@pytest.mark.parametrize("slam", SLAMS.values(), ids=SLAMS)
def test_a_game_survives_such_a_server_with_tls(
    slam: Script, secure_server: RecordingServer, authority: trustme.CA, tmp_path: Path
) -> None:
    context = server_context(authority.issue_cert("127.0.0.1"))

    def secure_slam(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secure:
            slam(secure)

    certificates = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(certificates)
    doors = slam_then_deliver(secure_slam, secure_server.port)
    with raw_server(doors) as port:
        assert run_game(A_GAME, f"wss://127.0.0.1:{port}/", str(certificates)) == "True 20\n"
    assert {event["data"]["number"] for event in secure_server.events} == set(range(20))


@pytest.mark.parametrize("slam", [close_in_the_handshake, do_not_even_read])
def test_a_game_survives_a_tls_server_that_closes_in_the_tls_handshake(
    slam: Script, secure_server: RecordingServer, authority: trustme.CA, tmp_path: Path
) -> None:
    certificates = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(certificates)
    with raw_server(slam_then_deliver(slam, secure_server.port)) as port:
        assert run_game(A_GAME, f"wss://127.0.0.1:{port}/", str(certificates)) == "True 20\n"


def test_a_game_survives_a_proxy_that_closes_under_its_request(server: RecordingServer) -> None:
    doors = itertools.chain(itertools.repeat(do_not_even_read, _DOORS), itertools.repeat(None))
    with ConnectProxy() as proxy:

        def script(client: socket.socket) -> None:
            slam = next(doors)
            (slam or relay_to(proxy.port))(client)

        with raw_server(script) as port:
            begin = f"import os\nos.environ['HTTP_PROXY'] = 'http://127.0.0.1:{port}'\n"
            assert run_game(begin + A_GAME, f"ws://127.0.0.1:{server.port}/", "") == "True 20\n"
    assert proxy.requests
