"""Real reverse proxies: each runs as a process, in front of a server."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import own_port
from tests.support.wait import PATIENCE, wait_until

SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

ARGUMENTS = {
    "nginx": ("-p", "FOLDER", "-e", "stderr", "-c", "CONFIG"),
    "haproxy": ("-db", "-f", "CONFIG"),
    "caddy": ("run", "--adapter", "caddyfile", "--config", "CONFIG"),
}
# Around the sites, as in the file that a distribution installs. They write nothing elsewhere.
NGINX = """
daemon off;
master_process off;
pid FOLDER/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path FOLDER/body;
  proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi;
  uwsgi_temp_path FOLDER/uwsgi;
  scgi_temp_path FOLDER/scgi;
  SITE
}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1h
SITE
"""
CADDY = """
{
  admin off
  auto_https disable_redirects
  storage file_system FOLDER
}
SITE
"""
AROUND = {"nginx": NGINX, "haproxy": HAPROXY, "caddy": CADDY}

# As the documentation of each has it for WebSockets.
SITES = {
    "nginx": """
        server {
          listen 127.0.0.1:PORT;
          location /telemetry {
            proxy_pass http://127.0.0.1:SERVER;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $host;
          }
        }
    """,
    "haproxy": """
frontend games
  bind 127.0.0.1:PORT
  default_backend collectors
backend collectors
  server one 127.0.0.1:SERVER
    """,
    "caddy": """
        http://127.0.0.1:PORT {
          reverse_proxy 127.0.0.1:SERVER
        }
    """,
}
CONFIGS = {name: AROUND[name].replace("SITE", site) for name, site in SITES.items()}
"""Whole configurations, by which messages pass through."""


@contextlib.contextmanager
def reverse_proxy(name: str, config: str, folder: Path, server: int) -> Iterator[int]:
    """Run a proxy in front of a server; yields its port.

    Args:
        name: nginx, haproxy or caddy.
        config: its whole configuration, where ``PORT``, ``SERVER`` and ``FOLDER`` stand for its own
            port, that of the server, and the folder.
        folder: an empty one for its files.
        server: the port of the server.
    """
    program = shutil.which(name, path=SEARCH)
    if program is None:
        pytest.skip(f"needs {name} (apt-get install {name})")
    port = own_port()
    path = folder / "config"
    for word, value in (("FOLDER", folder), ("PORT", port), ("SERVER", server)):
        config = config.replace(word, str(value))
    path.write_text(config)
    words = {"FOLDER": str(folder), "CONFIG": str(path)}
    arguments = [words.get(argument, argument) for argument in ARGUMENTS[name]]
    homes = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(folder))
    log = folder / "log"
    with (
        log.open("wb") as written,
        subprocess.Popen(
            [program, *arguments], stdout=written, stderr=written, env={**os.environ, **homes}
        ) as process,
    ):
        try:
            assert wait_until(lambda: process.poll() is not None or listens(port), PATIENCE)
            assert process.poll() is None, log.read_text()
            yield port
        finally:
            process.kill()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    return False
