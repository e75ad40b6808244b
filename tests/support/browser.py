"""Pages in a real browser, for the tests of the live page.

An error in a page's console (a violation of the content security policy is one), a dialog, or a
request to another host fails the test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.sync.client import connect

from redvsblue_telemetry.collector.http import live
from redvsblue_telemetry.collector.http.static import MODULES
from tests.support.collector import RunningCollector

expect = pytest.importorskip("playwright.sync_api", reason="needs Playwright").expect

TIMEOUT = 30_000  # milliseconds; on a loaded machine, a page takes that long
OFFER = {"Telemetry-Ack": "cumulative"}

WIDE = "{" + ",".join(f'"key{n}":{n}' for n in range(10_000)) + "}"

Look = Callable[..., Any]


class Watch:
    """Collects the faults of a page."""

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
def look(browser: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Look]:
    """Open a page and watch it; fail at the end of the test if it misbehaved.

    ``prepare`` gets the page before it goes to its address.
    """
    monkeypatch.setattr(live, "_UPDATE_INTERVAL", 0.1)  # seconds between two updates; 0.5 is slow
    watches = []

    def look(
        url: str,
        *,
        faults_allowed: str = "",
        prepare: Callable[[Any], object] = lambda _: None,
        **options: Any,
    ) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT)
        page = context.new_page()
        watches.append((Watch(page, urlsplit(url).netloc.rpartition("@")[2]), faults_allowed))
        prepare(page)
        page.goto(url)
        return page

    expect.set_options(timeout=TIMEOUT)
    yield look
    for context in browser.contexts:
        context.close()
    for watch, allowed in watches:
        faults = [f for f in watch.faults if not (allowed and re.search(allowed, f))]
        assert not faults, faults


def serve_modules(page: Any) -> None:
    """Let a page import its modules one by one, too; ``app.js`` remains all of them."""

    def serve(route: Any) -> None:
        name = urlsplit(route.request.url).path.partition("/static/")[2]
        route.fulfill(body=MODULES[name], content_type="text/javascript")

    page.route(lambda url: "/static/" in url and not url.endswith(("app.js", ".css")), serve)


def event_text(data: str = "{}", **fields: Any) -> str:
    """Return an event as JSON; its data is given as JSON text."""
    event = {"sessionId": "s", "seq": 1, "type": "t", "timestamp": 1_795_479_878_536, "id": "i"}
    return json.dumps(event | fields)[:-1] + f', "data": {data}}}'


def send(collector: RunningCollector, *messages: str) -> None:
    """Send messages unchanged, and wait until they are stored."""
    with connect(collector.url, additional_headers=OFFER, max_size=None) as websocket:
        for message in messages:
            websocket.send(message)
        while json.loads(websocket.recv(timeout=20))["ack"] < len(messages):
            pass


def send_events(collector: RunningCollector, *events: str) -> None:
    send(collector, f"[{','.join(events)}]")


def rows(page: Any) -> Any:
    return page.locator("#events li")
