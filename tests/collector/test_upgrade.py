"""A request to ``/telemetry`` that is not a WebSocket handshake, as some proxies make of one."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from redvsblue_telemetry.cli.check.command import check
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.ports import own_port
from tests.support.wait import wait_until

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
UPGRADE = """
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
"""


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_request_without_upgrade_is_426(method: str, collector: RunningCollector) -> None:
    answer = collector.request(method, "/telemetry")
    assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")
    assert answer.headers["Connection"] == "Upgrade"
    if method != "HEAD":
        error = answer.json()["error"]
        assert "a proxy in between drops the headers Upgrade and Connection" in error


def test_token_is_needed_all_the_same() -> None:
    with collector_running(token="secret") as collector:
        assert collector.get("/telemetry").status == 401


@contextlib.contextmanager
def nginx(collector: RunningCollector, folder: Path, forwarding: str) -> Iterator[int]:
    """nginx in front of a collector; yield its port."""
    assert NGINX
    port = own_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"""
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{collector.port};
            {forwarding}
        }}
    }}
}}
"""
    )
    command = [NGINX, "-p", str(folder), "-c", str(config)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            assert wait_until(lambda: answers(port) or process.poll() is not None, PATIENCE)
            assert process.poll() is None, (folder / "log").read_text()
            yield port
        finally:
            process.terminate()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE):
        return True
    return False


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
@pytest.mark.parametrize("is_forwarded", [True, False])
def test_check_recognizes_a_proxy_that_drops_the_upgrade(
    is_forwarded: bool, collector: RunningCollector, tmp_path: Path
) -> None:
    with nginx(collector, tmp_path, UPGRADE if is_forwarded else "") as port:
        done = CliRunner().invoke(check, [f"ws://127.0.0.1:{port}/telemetry", "--json"])
    steps = {step["step"]: step for step in json.loads(done.output)["steps"]}
    if is_forwarded:
        assert done.exit_code == 0
        return
    assert done.exit_code == 1
    assert steps["handshake"]["state"] == "failed"
    assert "HTTP status 426" in steps["handshake"]["detail"]
    assert "a proxy in front of the server drops it" in steps["handshake"]["advice"]
    assert "proxy_set_header Upgrade $http_upgrade" in steps["handshake"]["advice"]
