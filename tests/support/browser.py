"""A real browser for the tests of the live page, and pages that are watched meanwhile.

An error in a page's console (a violation of the content security policy is one), a dialog, or a
request to any other host fails the test.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.sync.client import connect

from redvsblue_telemetry import Telemetry, TelemetrySettings
from tests.support.collector import RunningCollector

playwright = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
expect = playwright.expect

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 15_000  # milliseconds
OFFER = {"Telemetry-Ack": "cumulative"}

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a Chromium on PATH: apt-get install chromium"
)

WIDE = "{" + ",".join(f'"key{n}":{n}' for n in range(10_000)) + "}"

Look = Callable[..., Any]


# A browser, and pages that are watched.


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Watch:
    """What a page does that it shouldn't."""

    def __init__(self, page: Any, host: str) -> None:
        self.faults: list[str] = []
        self._host = host
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", self._note_dialog)
        page.on("request", self._note_request)
        page.on("popup", lambda popup: self.faults.append(f"popup: {popup.url}"))

    def _note_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text}")

    def _note_dialog(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note_request(self, request: Any) -> None:
        asked = urlsplit(request.url)
        if asked.scheme not in ("data", "blob") and asked.netloc.rpartition("@")[2] != self._host:
            self.faults.append(f"request: {request.url}")


@pytest.fixture
def look(browser: Any) -> Iterator[Look]:
    """Open a page and watch it; at the end of the test it has to have behaved."""
    contexts, watches = [], []

    def look(url: str, *, faults_allowed: str = "", **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        watches.append((Watch(page, urlsplit(url).netloc.rpartition("@")[2]), faults_allowed))
        page.goto(url)
        return page

    expect.set_options(timeout=PATIENCE)
    yield look
    for context in contexts:
        context.close()
    for watch, allowed in watches:
        assert [f for f in watch.faults if not (allowed and re.search(allowed, f))] == []


# What is sent.


def session_of(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


def event_text(data: str = "{}", **fields: Any) -> str:
    """An event, whose data is given as the text of JSON."""
    event = {"sessionId": "s", "seq": 1, "type": "t", "timestamp": 1_795_479_878_536, "id": "i"}
    return json.dumps(event | fields)[:-1] + f', "data": {data}}}'


def send(collector: RunningCollector, *messages: str) -> None:
    """Send messages as they are, and wait until they are stored."""
    headers = OFFER
    with connect(collector.ws_url, additional_headers=headers, max_size=None) as websocket:
        for message in messages:
            websocket.send(message)
        while json.loads(websocket.recv(timeout=20))["ack"] < len(messages):
            pass


def send_events(collector: RunningCollector, *events: str) -> None:
    send(collector, f"[{','.join(events)}]")


@pytest.fixture
def game(collector: RunningCollector) -> Iterator[Telemetry]:
    """An SDK client that sends to the collector."""
    settings = TelemetrySettings(
        enabled=True, url=collector.ws_url, drain_interval=0.05, version="1.4.2"
    )
    telemetry = Telemetry(settings).start()
    yield telemetry
    telemetry.stop(timeout=5)


def rows(page: Any) -> Any:
    return page.locator("#events li")
