"""A real collector for a test: in a thread with an event loop of its own, or as a process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redvsblue_telemetry.collector.server import Options, serve

PATIENCE = 15.0  # seconds for what takes a fraction of one, unless the machine is loaded


class Answer(NamedTuple):
    """What an HTTP server answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class RunningCollector:
    """A collector that serves, in a thread of its own."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.url = ""  # http://127.0.0.1:PORT
        self.ws_url = ""  # ws://127.0.0.1:PORT/telemetry
        self._ended: BaseException | None = None
        self._is_ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def start(self) -> None:
        self._thread.start()
        assert self._is_ready.wait(PATIENCE), "the collector didn't come up"
        if self._ended is not None:
            raise self._ended

    def stop(self) -> None:
        """End it in an orderly way; raises what it ended with, if that was an error."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the collector doesn't end"
        ended, self._ended = self._ended, None
        if ended is not None:
            raise ended

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers)

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(urlsplit(self.url).hostname or "", self.port, 45)
        with contextlib.closing(connection):
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def stats(self) -> Any:
        return self.get("/api/stats", bearer(self.options.token)).json()

    def events(self) -> list[Any]:
        """All that is stored, in the order of arrival."""
        found: list[Any] = []
        after = 0
        while True:
            path = f"/api/events?after={after}&limit=1000"
            page = self.get(path, bearer(self.options.token)).json()["events"]
            if not page:
                return found
            found += page
            after = page[-1]["arrival"]

    def rejected(self) -> list[Any]:
        path = "/api/rejected?limit=1000"
        answer = self.get(path, bearer(self.options.token))
        return answer.json()["rejected"]  # type: ignore[no-any-return]

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # for start() or stop() to raise
            self._ended = error
        finally:
            self._is_ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await serve(self.options, self._stop, self._note_ready)

    def _note_ready(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.ws_url = "ws" + self.url.removeprefix("http") + "/telemetry"
        self._is_ready.set()


@contextlib.contextmanager
def collector_running(**options: Any) -> Iterator[RunningCollector]:
    """A collector on a free port; in memory, unless ``db`` names a file.

    Args:
        options: any of :class:`Options`.
    """
    collector = RunningCollector(Options(**({"port": 0, "db": None} | options)))
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


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens at just now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        return int(listener.getsockname()[1])
