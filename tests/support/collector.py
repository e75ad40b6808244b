"""A real collector for a test: the public one, on a thread, which can also be asked in raw HTTP."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redvsblue_telemetry.collector.models import Stats
from redvsblue_telemetry.testing import collector as public
from tests.support.wait import PATIENCE

__all__ = [
    "PATIENCE",
    "REFUSING_PORT",
    "Answer",
    "RunningCollector",
    "basic",
    "bearer",
    "collector_running",
]


class Answer(NamedTuple):
    """The response of an HTTP server."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class RunningCollector(public.RunningCollector):
    """The public class, with raw HTTP for the tests of the collector itself."""

    @property
    def port(self) -> int:
        port = urlsplit(self.http_url).port
        assert port is not None
        return port

    @property
    def db(self) -> Path:
        assert self._options.db is not None
        return self._options.db

    def stop(self) -> None:
        super().stop()
        assert not self.is_running, "the collector doesn't end"

    def stats(self) -> Stats:
        return self._stats()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers)

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(
            urlsplit(self.http_url).hostname or "", self.port, 45
        )
        with contextlib.closing(connection):
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())


@contextlib.contextmanager
def collector_running(**options: Any) -> Iterator[RunningCollector]:
    """A collector on a free port; in a temporary file, unless ``db`` names one.

    Args:
        options: any of :class:`Options`.
    """
    collector = RunningCollector(**({"allow_reset": False} | options))
    collector.start()
    try:
        yield collector
    finally:
        collector.stop()


def bearer(token: str | None) -> dict[str, str]:
    """The header that an SDK client shows its token by."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def basic(password: str, user: str = "") -> dict[str, str]:
    """The header that a browser shows a password by."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _bound_port() -> int:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    port = int(bound.getsockname()[1])
    bound.detach()  # it stays open as long as this process
    return port


REFUSING_PORT = _bound_port()
"""A port that refuses connections: it is taken, so no other test's server can get it."""
