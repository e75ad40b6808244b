"""Make the docs' pictures of the live page, with a collector, three battles and a browser.

    python scripts/collector_pictures.py

It needs Playwright and an installed Chromium, and takes about two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, sync_playwright
from websockets.sync.client import connect

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry.cli.demo.battle import BattleEngine
from redvsblue_telemetry.collector.server import Options, serve

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES = REPOSITORY / "docs" / "images"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROKEN = '[{"type":"ship_hit","timestamp":"yesterday","data":{"shipId":"red-3"}}]'


def main() -> None:
    """Run a collector and three games, and take the pictures."""
    parser = argparse.ArgumentParser(description="Make the pictures of the collector's live page.")
    parser.add_argument("--seconds", type=float, default=115.0, help="how long to play before that")
    parser.add_argument("--folder", type=Path, default=IMAGES)
    options = parser.parse_args()
    is_over = threading.Event()
    with_url: list[str] = []
    is_ready = threading.Event()
    stop: list[Any] = []

    async def collect() -> None:
        stopping = asyncio.Event()
        stop.extend((asyncio.get_running_loop(), stopping))

        def note(url: str) -> None:
            with_url.append(url)
            is_ready.set()

        await serve(Options(port=0, db=None), stopping, note)

    collector = threading.Thread(target=asyncio.run, args=(collect(),), daemon=True)
    collector.start()
    if not is_ready.wait(20):
        raise SystemExit("the collector did not start")
    url = with_url[0]
    ws_url = f"ws{url.removeprefix('http')}telemetry"
    games = [threading.Thread(target=play, args=(ws_url, seed, is_over)) for seed in (7, 11, 23)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or "/usr/bin/chromium", args=ARGUMENTS
        )
        take(browser, url, options.folder / "collector-empty.png", "light", 1100, 640)
        for game in games:
            game.start()
        # A part that is not a valid event, as a game with a bug may send it.
        with connect(ws_url) as websocket:
            websocket.send(BROKEN)
        time.sleep(options.seconds)
        take(browser, url, options.folder / "collector.png", "light", 1440, 980)
        take(browser, url, options.folder / "collector-dark.png", "dark", 1440, 980)
        take(browser, url, options.folder / "collector-narrow.png", "dark", 400, 860)
        browser.close()
    is_over.set()
    for game in games:
        game.join(20)
    stop[0].call_soon_threadsafe(stop[1].set)
    collector.join(20)


def play(url: str, seed: int, is_over: threading.Event) -> None:
    """Run one game until it is over. The third game's store is too small at times."""
    capacity = 30 if seed == 23 else 5000
    settings = TelemetrySettings(
        enabled=True,
        url=url,
        drain_interval=0.25,
        capacity=capacity,
        version="1.4.2" if seed != 11 else "1.5.0-beta",
    )
    telemetry = Telemetry(settings).start()
    engine = BattleEngine(seed=seed, ships_per_team=6 + seed % 5)
    with telemetry.attach(engine):
        frame = 0
        while not is_over.wait(1 / 60):
            engine.update(1 / 60)
            frame += 1
            if seed == 23 and frame % 1500 == 0:
                for number in range(100):
                    telemetry.emit("particle", number=number)
    telemetry.stop(timeout=5)


def take(
    browser: Browser,
    url: str,
    path: Path,
    scheme: Literal["light", "dark"],
    width: int,
    height: int,
) -> None:
    """Take a picture of the page after a few seconds."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(url)
    page.wait_for_timeout(3500)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    page.close()


if __name__ == "__main__":
    main()
