"""Servers behind a reverse proxy: the offers, the answers and all messages pass through."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry import start_telemetry
from redvsblue_telemetry._compression import supported
from redvsblue_telemetry.testing import RecordingServer
from tests.support.ports import own_port
from tests.support.wait import wait_until

PATIENCE = 15.0  # seconds
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

# As the documentation of each has it for WebSockets; both write nothing outside of their folder.
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location /telemetry {{
      proxy_pass http://127.0.0.1:{server};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_set_header Host $host;
    }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1h
frontend games
  bind 127.0.0.1:{port}
  default_backend collectors
backend collectors
  server one 127.0.0.1:{server}
"""
PROXIES = {
    "nginx": (NGINX, ["-p", "{folder}", "-e", "stderr", "-c", "{config}"]),
    "haproxy": (HAPROXY, ["-db", "-f", "{config}"]),
}


@contextlib.contextmanager
def reverse_proxy(name: str, folder: Path, server: int, text: str | None = None) -> Iterator[int]:
    """Run a proxy in front of a server, with the text as its settings; yields its port."""
    program = shutil.which(name, path=SEARCH)
    if program is None:
        pytest.skip(f"needs {name} (apt-get install {name})")
    default, arguments = PROXIES[name]
    port = own_port()
    config = folder / "config"
    config.write_text((text or default).format(folder=folder, port=port, server=server))
    filled = [argument.format(folder=folder, config=config) for argument in arguments]
    with subprocess.Popen([program, *filled], stderr=subprocess.PIPE) as process:
        try:
            assert wait_until(lambda: process.poll() is not None or listens(port), PATIENCE)
            assert process.poll() is None, process.stderr and process.stderr.read()
            yield port
        finally:
            process.kill()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    return False


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize("encoding", [*supported(), None])
def test_messages_pass_through_a_reverse_proxy(
    name: str, encoding: str | None, tmp_path: Path
) -> None:
    encodings = [encoding] if encoding else []
    with (
        RecordingServer(encodings=encodings) as server,
        reverse_proxy(name, tmp_path, server.port) as port,
    ):
        telemetry = start_telemetry(
            enabled=True,
            url=f"ws://127.0.0.1:{port}/telemetry",
            batch_size=1000,
            backoff_base=0.05,
            backoff_max=0.2,
        )
        for number in range(1500):
            telemetry.emit("bullet_fired", ship=f"red-{number % 8}", x=number * 7.3 % 1280)
        assert telemetry.flush(PATIENCE)
        telemetry.emit("one")
        assert telemetry.flush(PATIENCE)
        offered = server.requests[-1].headers["Telemetry-Encoding"]
        assert offered == ", ".join(supported())
        assert [event["seq"] for event in server.events] == list(range(1, 1502))
        assert set(server.message_encodings) == {encoding, None}
        assert max(map(len, server.messages)) > 65_536
        assert telemetry.stop(5)
        assert server.reports[-1]["state"] == "ended"
